//! Says which messages are kept, for which stream, and what of them was lost.
//!
//! Every message is for the recorder stream. For the evidence stream are those that a rule matches, with context as the
//! rule asks for, those as urgent as [`KernelConfig::evidence_priority`], and reports of the OOM killer. Both streams
//! have a budget of lines in a second; what is over it is counted and said as a gap at most once a second.
//!
//! Pure: messages and times go in, events come out.

use std::collections::VecDeque;

use dogwatch::record::{Gap, LogLine, Moment, Stream};

use super::record::Message;
use super::report::Report;
use super::{Event, KernelConfig, Mark, SOURCE};
use crate::tail::{Judge, Keep};

/// A gap is said at the latest this long after the first line that it lacks, and no more often.
pub(super) const GAP_NS: u64 = 1_000_000_000;
/// Seconds of a budget that can be used at once: a boot, or a report of the OOM killer.
const BURST_SECONDS: f64 = 10.0;

/// Now, by the clocks that matter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) at: Moment,
    /// CLOCK_MONOTONIC, µs.
    pub(super) monotonic_us: u64,
}

impl Now {
    /// When a message of `at_us` was written, as well as that can be told; never later than now.
    pub(super) fn written(&self, at_us: u64) -> i64 {
        let ago_ns = self.monotonic_us.saturating_sub(at_us).saturating_mul(1000);
        self.at.wall_ns.saturating_sub(i64::try_from(ago_ns).unwrap_or(i64::MAX))
    }
}

/// What of this boot is recorded already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recorded {
    /// Everything before it is dealt with; `None` on a boot that was not read before.
    pub(super) floor: Option<u64>,
    /// The newest message that the recorder stream has.
    pub(super) recorder_to: Option<u64>,
    /// The newest message that the evidence stream has.
    pub(super) evidence_to: Option<u64>,
}

#[derive(Debug)]
struct Budget {
    a_second: f64,
    left: f64,
    at_ns: Option<u64>,
}

impl Budget {
    fn new(lines_per_second: u32) -> Self {
        let a_second = f64::from(lines_per_second);
        Self { a_second, left: a_second * BURST_SECONDS, at_ns: None }
    }

    /// Takes a line's place; `keep_half` leaves the second half of it to others.
    fn take(&mut self, now_ns: u64, keep_half: bool) -> bool {
        let most = self.a_second * BURST_SECONDS;
        let since = now_ns.saturating_sub(self.at_ns.replace(now_ns).unwrap_or(now_ns));
        self.left = (self.left + since as f64 / 1e9 * self.a_second).min(most);
        let least = if keep_half { most / 2.0 } else { 0.0 };
        let may = self.left >= least + 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// Lines over a budget that no gap has said yet.
#[derive(Debug, Clone, Copy)]
struct Dropped {
    first: u64,
    last: u64,
    lines: u64,
    from_wall_ns: i64,
    to_wall_ns: i64,
    since_ns: u64,
}

#[derive(Debug)]
struct Held {
    line: Box<LogLine>,
    in_evidence: bool,
}

/// Chooses.
#[derive(Debug)]
pub(super) struct Chooser {
    judge: Judge,
    evidence_priority: u32,
    /// Whether a hole between two numbers is a loss.
    numbered: bool,
    recorded: Recorded,
    /// The newest message that an earlier run judged.
    judged_to: Option<u64>,
    /// Older messages than this are passed over; µs.
    oldest_us: u64,
    passed_over: u64,
    next: Option<u64>,
    last_wall_ns: Option<i64>,
    /// The newest messages, for the context of a match.
    before: VecDeque<Held>,
    max_before: usize,
    after: u8,
    report: Report,
    recorder: Budget,
    evidence: Budget,
    dropped: [Option<Dropped>; 2],
    malformed: u64,
    pub(super) out: Vec<Event>,
}

impl Chooser {
    pub(super) fn new(
        config: &KernelConfig,
        judge: Judge,
        numbered: bool,
        recorded: Recorded,
        now: Now,
    ) -> Self {
        let history_us = u64::try_from(config.history.as_micros()).unwrap_or(u64::MAX);
        let max_before =
            config.rules.rules().iter().map(|r| usize::from(r.context_before)).max().unwrap_or(0);
        Self {
            judge,
            evidence_priority: config.evidence_priority,
            numbered,
            judged_to: recorded.evidence_to,
            recorded,
            oldest_us: match recorded.floor {
                Some(_) => 0,
                None => now.monotonic_us.saturating_sub(history_us),
            },
            passed_over: 0,
            next: recorded.floor,
            last_wall_ns: None,
            before: VecDeque::new(),
            max_before,
            after: 0,
            report: Report::default(),
            recorder: Budget::new(config.lines_per_second),
            evidence: Budget::new(config.evidence_lines_per_second),
            dropped: [None; 2],
            malformed: 0,
            out: Vec::new(),
        }
    }

    /// Takes the next message.
    pub(super) fn take(&mut self, message: &Message, now: Now) {
        let written = now.written(message.at_us);
        self.look_for_hole(message.seq, written, now);
        self.next = Some(self.next.unwrap_or(0).max(message.seq.saturating_add(1)));
        self.last_wall_ns = Some(written);
        if message.at_us < self.oldest_us {
            self.passed_over += 1;
            return;
        }
        // Later messages are not asked: clocks of CPUs differ a little.
        self.oldest_us = 0;

        let (mut before, mut after, mut rules) = (0, 0, Vec::new());
        for rule in self.judge.matches(&message.text) {
            before = before.max(usize::from(rule.context_before));
            after = after.max(rule.context_after);
            rules.push(rule.name.clone());
        }
        let notable = self.report.takes(&message.text) || !rules.is_empty();
        let wanted = notable || self.after > 0 || message.priority <= self.evidence_priority;
        self.after = self.after.saturating_sub(1).max(after);
        if before > 0 {
            self.context(before, now);
        }
        let known = self.recorded.floor.is_some_and(|floor| message.seq < floor);
        let lacks = |to: Option<u64>| !known && to.is_none_or(|to| message.seq > to);
        let mut keep = Keep {
            evidence: wanted && lacks(self.recorded.evidence_to),
            recorder: lacks(self.recorded.recorder_to),
        };
        keep.evidence &= self.admit(Stream::Evidence, message.seq, written, now, keep.evidence, !notable);
        keep.recorder &= self.admit(Stream::Recorder, message.seq, written, now, keep.recorder, false);
        let (line, truncated) = self.judge.masked(&message.text);
        let line = Box::new(LogLine {
            source: SOURCE.to_owned(),
            offset: message.seq,
            line,
            truncated,
            rules,
            written_wall_ns: Some(written),
            priority: Some(message.priority),
            ..LogLine::default()
        });
        if keep.evidence {
            self.recorded.evidence_to = self.recorded.evidence_to.max(Some(message.seq));
        }
        if keep.evidence || keep.recorder {
            let judged = self.judged_to.is_some_and(|to| message.seq <= to);
            self.out.push(Event::Line { line: line.clone(), keep, judged });
        }
        if self.max_before > 0 {
            if self.before.len() == self.max_before {
                self.before.pop_front();
            }
            // What was dropped for want of budget is in a gap, and does not come after it.
            let in_evidence = wanted || self.recorded.evidence_to.is_some_and(|to| to >= message.seq);
            self.before.push_back(Held { line, in_evidence });
        }
    }

    /// Takes note that messages were overwritten, and nobody knows how many.
    pub(super) fn overwritten(&mut self, now: Now) {
        let reason = "the kernel overwrote messages before they were read; syslog(2) does not tell how many";
        let from = self.last_wall_ns.unwrap_or(now.at.wall_ns);
        self.gap(Stream::Evidence, None, (from, now.at.wall_ns), reason.to_owned());
    }

    /// Takes note of something that is no message.
    pub(super) fn malformed(&mut self) {
        self.malformed += 1;
        if self.malformed == 1 {
            let what =
                "the kernel's log has records that are not in its documented format; they are passed over";
            self.out.push(Event::Note(what.to_owned()));
        }
    }

    /// Says what was passed over at the first start; once the ring was read to its end.
    pub(super) fn caught_up(&mut self, history: std::time::Duration) {
        let passed_over = std::mem::take(&mut self.passed_over);
        self.oldest_us = 0;
        if passed_over > 0 {
            self.out.push(Event::Note(format!(
                "the kernel's log is recorded from {} s before this start; {passed_over} older messages of this boot \
                 stay in the kernel's ring alone (dmesg)",
                history.as_secs()
            )));
        }
    }

    /// Says which lines were dropped, where that is due (or `now_or_never`).
    pub(super) fn say_dropped(&mut self, now: Now, now_or_never: bool) {
        for (slot, stream) in [(0, Stream::Evidence), (1, Stream::Recorder)] {
            let due = |d: &mut Dropped| now_or_never || now.at.boot_ns.saturating_sub(d.since_ns) >= GAP_NS;
            let Some(d) = self.dropped[slot].take_if(due) else { continue };
            let reason = format!(
                "over the {stream} stream's budget of kernel messages in a second (messages {} to {})",
                d.first, d.last
            );
            self.gap(stream, Some(d.lines), (d.from_wall_ns, d.to_wall_ns), reason);
        }
    }

    /// Whether there are lines that a gap must say soon.
    pub(super) fn owes(&self) -> bool {
        self.dropped.iter().any(Option::is_some)
    }

    /// How far everything up to now reaches; `None` before the first message.
    pub(super) fn mark(&self) -> Option<Mark> {
        let unsaid = self.dropped.iter().flatten().map(|d| d.first).min();
        let next = self.next?;
        Some(Mark { next: unsaid.map_or(next, |u| u.min(next)), evidence_to: self.recorded.evidence_to })
    }

    fn look_for_hole(&mut self, seq: u64, written: i64, now: Now) {
        let Some(next) = self.next.filter(|next| self.numbered && seq > *next) else { return };
        let from = self.last_wall_ns.unwrap_or(written.min(now.at.wall_ns));
        let reason =
            format!("the kernel overwrote them before they were read (messages {next} to {})", seq - 1);
        self.gap(Stream::Evidence, Some(seq - next), (from, written), reason);
    }

    /// Hands on the newest `count` messages that the evidence stream lacks.
    fn context(&mut self, count: usize, now: Now) {
        let first = self.before.len().saturating_sub(count);
        for i in first..self.before.len() {
            let Held { line, in_evidence: false } = &self.before[i] else { continue };
            let line = line.clone();
            self.before[i].in_evidence = true;
            let written = line.written_wall_ns.unwrap_or(now.at.wall_ns);
            if self.admit(Stream::Evidence, line.offset, written, now, true, false) {
                self.recorded.evidence_to = self.recorded.evidence_to.max(Some(line.offset));
                self.out.push(Event::Line {
                    line,
                    keep: Keep { evidence: true, recorder: false },
                    judged: false,
                });
            }
        }
    }

    /// Whether the budget of `stream` has room for a line that is `wanted`; counts it where not.
    fn admit(
        &mut self,
        stream: Stream,
        seq: u64,
        written: i64,
        now: Now,
        wanted: bool,
        keep_half: bool,
    ) -> bool {
        if !wanted {
            return false;
        }
        let (slot, budget) = match stream {
            Stream::Evidence => (&mut self.dropped[0], &mut self.evidence),
            _ => (&mut self.dropped[1], &mut self.recorder),
        };
        if budget.take(now.at.boot_ns, keep_half) {
            return true;
        }
        let dropped = slot.get_or_insert(Dropped {
            first: seq,
            last: seq,
            lines: 0,
            from_wall_ns: written,
            to_wall_ns: written,
            since_ns: now.at.boot_ns,
        });
        dropped.last = dropped.last.max(seq);
        dropped.first = dropped.first.min(seq);
        dropped.lines += 1;
        dropped.to_wall_ns = dropped.to_wall_ns.max(written);
        false
    }

    fn gap(&mut self, stream: Stream, count: Option<u64>, (from, to): (i64, i64), reason: String) {
        self.out.push(Event::Gap(Gap {
            stream,
            source: SOURCE.to_owned(),
            after_seq: None,
            before_seq: None,
            count,
            from_wall_ns: from,
            to_wall_ns: to.max(from),
            reason,
            incarnation: None,
        }));
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
