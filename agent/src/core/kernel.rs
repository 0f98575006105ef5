//! What the kernel says: messages to be recorded and judged, and how far the record of them is durable.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use dogwatch::clock;
use dogwatch::record::{Body, LogLine, Moment, Seq, Stream};

use super::Core;
use crate::kmsg::{Batch, Event, Mark};
use crate::tail::Keep;

/// Marks that wait for the disk at most; beyond it the newest two are joined.
const MAX_PENDING: usize = 256;
/// Messages remembered that a finding moved to the evidence stream, so that they do not come there again as context of
/// a later match: more than a rule can ask for.
const MAX_MOVED: usize = 64;

/// What the core keeps for the kernel's log.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// Where marks go that are durable; `None`: it is not read.
    marks: Option<Sender<Mark>>,
    /// Why it cannot be read.
    pub(super) unable: Option<String>,
    pending: VecDeque<([Seq; 3], Mark)>,
    moved: VecDeque<u64>,
}

impl Kernel {
    /// Nothing was read yet; durable marks go to `marks`.
    pub(super) fn new(marks: Option<Sender<Mark>>) -> Self {
        Self { marks, ..Self::default() }
    }
}

impl Core {
    pub(super) fn on_kernel(&mut self, batch: Batch) {
        let at = clock::now();
        let mut needs = [0; 3];
        let mut push = |core: &Self, stream: Stream, body| {
            let seq = core.wires.recorder.push(stream, at, body);
            needs[stream.index()] = seq;
            seq
        };
        for event in batch.events {
            match event {
                Event::Line { line, keep, judged } if judged && !keep.evidence => {
                    self.record_kernel_line(&line);
                    push(self, Stream::Recorder, Body::Log(*line));
                }
                Event::Line { line, keep, .. } => self.on_kernel_line(at, *line, keep, &mut push),
                Event::Gap(gap) => {
                    let lost = gap.count.unwrap_or(0);
                    self.wires.figures.kernel_lost_lines.fetch_add(lost, Ordering::Relaxed);
                    push(self, Stream::Urgent, Body::Gap(gap));
                }
                Event::Note(text) => {
                    tracing::info!("{text}");
                    push(self, Stream::Urgent, Body::Note(text));
                }
                Event::Unable(why) => {
                    tracing::warn!("cannot {why}");
                    push(self, Stream::Urgent, Body::Note(format!("the agent cannot {why}")));
                    self.kernel.unable = Some(why);
                }
            }
        }
        let Some(mark) = batch.mark.filter(|_| self.kernel.marks.is_some()) else { return };
        let pending = &mut self.kernel.pending;
        if pending.len() >= MAX_PENDING
            && let Some((earlier, _)) = pending.pop_back()
        {
            needs = std::array::from_fn(|s| needs[s].max(earlier[s]));
        }
        pending.push_back((needs, mark));
    }

    fn record_kernel_line(&self, line: &LogLine) {
        let figures = &self.wires.figures;
        figures.kernel_lines.fetch_add(1, Ordering::Relaxed);
        figures.kernel_bytes.fetch_add(line.line.len() as u64, Ordering::Relaxed);
    }

    fn on_kernel_line(
        &mut self,
        at: Moment,
        line: LogLine,
        keep: Keep,
        push: &mut dyn FnMut(&Self, Stream, Body) -> Seq,
    ) {
        if keep.recorder {
            self.record_kernel_line(&line);
        }
        let recorded = keep.recorder.then(|| push(self, Stream::Recorder, Body::Log(line.clone())));
        let mut shipped = None;
        if keep.evidence && !self.kernel.moved.contains(&line.offset) {
            shipped = Some(push(self, Stream::Evidence, Body::Log(line.clone())));
            if !line.rules.is_empty() {
                self.wires.figures.log_matches.fetch_add(1, Ordering::Relaxed);
            }
        }
        // Context was judged when it came for the recorder stream, unless it never did.
        let cite = match (shipped, recorded) {
            (Some(seq), Some(_)) => self.refer(Stream::Evidence, seq),
            (Some(seq), None) if !line.rules.is_empty() => self.refer(Stream::Evidence, seq),
            (None, Some(seq)) => self.refer(Stream::Recorder, seq),
            _ => return,
        };
        // The boot clock decides, and that is of now; people are told when it happened, which may be before this run.
        let written_wall_ns = line.written_wall_ns.map_or(at.wall_ns, |w| w.min(at.wall_ns));
        let happened = Moment { wall_ns: written_wall_ns, ..at };
        let findings = self.detectors.on_kernel(happened, &line, &cite);
        if findings.is_empty() {
            return;
        }
        if let (None, Some(recorder_seq)) = (shipped, recorded) {
            if self.kernel.moved.len() == MAX_MOVED {
                self.kernel.moved.pop_front();
            }
            self.kernel.moved.push_back(line.offset);
            let evidence_seq = push(self, Stream::Evidence, Body::Log(line));
            self.remember(recorder_seq, evidence_seq);
        }
        for finding in findings {
            self.say(at, finding);
        }
    }

    /// Tells the reader's checkpoint what is durable by now.
    pub(super) fn tell_kernel_durable(&mut self) {
        if self.kernel.pending.is_empty() {
            return;
        }
        let durable = *self.wires.recorder.durable().borrow();
        let over = |needs: &[Seq; 3]| needs.iter().zip(durable).all(|(need, have)| *need <= have);
        let mut newest = None;
        while let Some((_, mark)) = self.kernel.pending.pop_front_if(|(needs, _)| over(needs)) {
            newest = Some(mark);
        }
        if let (Some(mark), Some(marks)) = (newest, &self.kernel.marks) {
            // A thread that could not be started keeps nothing; the journal has it all the same.
            let _ = marks.send(mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::holds::tests::core;
    use super::*;

    #[test]
    fn a_finding_of_a_kernel_line_is_of_when_the_kernel_wrote_it_and_never_of_later() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, _kept) = core(dir.path());
        let at = clock::now();
        let hour_ns = 3_600_000_000_000;
        for (device, written_wall_ns, raised) in [
            ("sda", Some(at.wall_ns - hour_ns), at.wall_ns - hour_ns),
            ("sdb", Some(at.wall_ns + hour_ns), at.wall_ns),
            ("sdc", None, at.wall_ns),
        ] {
            let line = LogLine {
                source: "kmsg".to_owned(),
                line: format!("I/O error, dev {device}, sector 2048 op 0x0:(READ)").into_bytes(),
                written_wall_ns,
                ..LogLine::default()
            };
            core.on_kernel_line(
                at,
                line,
                Keep { evidence: true, recorder: true },
                &mut |core, stream, body| core.wires.recorder.push(stream, at, body),
            );
            let active = core.detectors.active();
            let found = active.iter().find(|f| f.subject.name == device).unwrap();
            assert_eq!(found.raised_wall_ns, raised, "{device}");
        }
    }
}
