//! What the tail says: lines and gaps to be recorded, and how far the record of them is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

use dogwatch::clock;
use dogwatch::record::{Body, Gap, Moment, Stream};

use super::{Core, Pending};
use crate::tail::{TailEvent, TailGap};

/// Problems of log files that become notes in an hour; the rest are only logged.
const MAX_PROBLEM_NOTES: usize = 100;
/// Marks that wait for the disk before those of one file are joined: a stalled disk must not make memory grow.
const MAX_PENDING: usize = 8192;

impl Core {
    pub(super) fn on_tail(&mut self, event: TailEvent) {
        let at = clock::now();
        match event {
            TailEvent::Line { line, keep, mark } => {
                let mut needs = [0; 3];
                if keep.evidence {
                    let seq = self.wires.recorder.push(Stream::Evidence, at, Body::Log(line.clone()));
                    needs[Stream::Evidence.index()] = seq;
                    if !line.rules.is_empty() {
                        self.wires.figures.log_matches.fetch_add(1, Ordering::Relaxed);
                        let cite = self.refer(Stream::Evidence, seq);
                        for finding in self.detectors.on_log(at, &line, &cite) {
                            self.say(at, finding);
                        }
                    }
                }
                if keep.recorder {
                    needs[Stream::Recorder.index()] =
                        self.wires.recorder.push(Stream::Recorder, at, Body::Log(line));
                }
                self.pending.push_back(Pending { needs, mark });
            }
            TailEvent::Progress(mark) => self.pending.push_back(Pending { needs: [0; 3], mark }),
            TailEvent::Gap(gap) => {
                let figures = &self.wires.figures;
                figures.tail_lost_lines.fetch_add(gap.lines.unwrap_or(0), Ordering::Relaxed);
                figures.tail_lost_bytes.fetch_add(gap.bytes.unwrap_or(0), Ordering::Relaxed);
                let mark = gap.mark.clone();
                let seq = self.wires.recorder.push(Stream::Urgent, at, Body::Gap(tail_gap(gap, at)));
                if let Some(mark) = mark {
                    self.pending.push_back(Pending { needs: [seq, 0, 0], mark });
                }
            }
            TailEvent::Problem(text) => {
                tracing::warn!("{text}");
                self.problem_notes += 1;
                if self.problem_notes <= MAX_PROBLEM_NOTES {
                    self.wires.recorder.push(Stream::Urgent, at, Body::Note(text));
                }
            }
        }
    }

    /// Tells the tail what is durable by now.
    pub(super) fn tell_durable(&mut self) {
        let Some(marks) = &self.wires.marks else {
            self.pending.clear();
            return;
        };
        if self.pending.len() > MAX_PENDING {
            join_marks(&mut self.pending);
        }
        let durable = *self.wires.recorder.durable().borrow();
        let mut done = Vec::new();
        while let Some(p) = self.pending.front() {
            if p.needs.iter().zip(durable).any(|(need, have)| *need > have) {
                break;
            }
            if let Some(p) = self.pending.pop_front() {
                done.push(p.mark);
            }
        }
        if !done.is_empty() {
            // A tail that is gone needs no marks.
            let _ = marks.send(done);
        }
    }
}

/// Leaves one mark a file, the newest, which needs whatever the earlier ones needed.
pub(super) fn join_marks(pending: &mut VecDeque<Pending>) {
    let mut newest: BTreeMap<u64, usize> = BTreeMap::new();
    let mut joined: Vec<Pending> = Vec::new();
    for p in pending.drain(..) {
        match newest.get(&p.mark.file) {
            Some(&i) => {
                let known = &mut joined[i];
                known.needs = std::array::from_fn(|s| known.needs[s].max(p.needs[s]));
                known.mark = p.mark;
            }
            None => {
                newest.insert(p.mark.file, joined.len());
                joined.push(p);
            }
        }
    }
    // Told from the front as far as durable, so that the one that waits longest must come last.
    joined.sort_by_key(|p| p.needs);
    pending.extend(joined);
}

fn tail_gap(gap: TailGap, at: Moment) -> Gap {
    let range = match gap.to_offset {
        Some(to) => format!("bytes {} to {to} of inode {}", gap.from_offset, gap.inode),
        None => format!("from byte {} of inode {}", gap.from_offset, gap.inode),
    };
    let bytes = gap.bytes.map_or_else(String::new, |b| format!(", {b} bytes"));
    Gap {
        stream: gap.stream.unwrap_or(Stream::Evidence),
        source: format!("log:{}", gap.source),
        after_seq: None,
        before_seq: None,
        count: gap.lines,
        from_wall_ns: at.wall_ns,
        to_wall_ns: at.wall_ns,
        reason: format!("{} ({range}{bytes})", gap.reason),
        incarnation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::Mark;

    #[test]
    fn joined_marks_keep_the_newest_of_each_file_and_all_that_it_needs() {
        let mark = |file, offset| Mark {
            file,
            generation: 0,
            source: "x".into(),
            inode: 1,
            offset,
            after: 0,
            done: offset,
        };
        let mut pending: VecDeque<Pending> = (0..10_000u64)
            .map(|i| Pending { needs: [0, if i == 5000 { 9 } else { 1 }, 2], mark: mark(i % 3, i) })
            .collect();
        join_marks(&mut pending);
        assert_eq!(pending.len(), 3);
        let needs = |file| pending.iter().find(|p| p.mark.file == file).map(|p| (p.needs, p.mark.offset));
        assert_eq!(needs(0), Some(([0, 1, 2], 9999)));
        assert_eq!(needs(1), Some(([0, 1, 2], 9997)));
        assert_eq!(needs(2), Some(([0, 9, 2], 9998)));
    }
}
