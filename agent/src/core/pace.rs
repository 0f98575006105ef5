//! The pace of samples: what is a hole between two of them, which of them go to the evidence, and what the agent says
//! when it takes fewer to save itself.

use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Body, Gap, Moment, Sample, Stream};

use super::Core;
use crate::sample::Pace;

/// A hole between two samples longer than this many intervals is a gap.
const HOLE_INTERVALS: f64 = 2.5;

impl Core {
    pub(super) fn note_hole(&mut self, at: Moment, sample: &Sample) {
        let Some(last) = self.last_sample.replace(at) else { return };
        let gap_ns = at.boot_ns.saturating_sub(last.boot_ns);
        let Some(missed) = missed(gap_ns, sample.every_ms, self.config.sample_every) else { return };
        let gap = Gap {
            stream: Stream::Recorder,
            source: "sampler".to_owned(),
            after_seq: None,
            before_seq: None,
            count: Some(missed),
            from_wall_ns: last.wall_ns,
            to_wall_ns: at.wall_ns,
            reason: format!(
                "no sample for {:.1} s; the node was suspended, starved of CPU, or a reader hung ({} ticks late so far)",
                gap_ns as f64 / 1e9,
                sample.late_ticks
            ),
            incarnation: None,
        };
        self.wires.recorder.push(Stream::Urgent, at, Body::Gap(gap));
    }

    /// Says that the agent takes samples less often, or again more often, and why.
    pub(super) fn on_pace(&mut self, pace: &Pace) {
        self.count_pace(pace);
        tracing::warn!(every = ?pace.every, saving = pace.saving, why = pace.why, "the pace of samples changed");
        let now = clock::now();
        self.wires.recorder.push(Stream::Urgent, now, Body::Note(pace.why.clone()));
        self.saving = pace.saving.then(|| format!("sample as often as configured: {}", pace.why));
    }
}

/// How many samples are missing where two are `gap_ns` apart; `None`: none. `every_ms` is the interval in force when the
/// second was waited for; the agent may take fewer than configured. 0: it did not say, and the configured one holds.
fn missed(gap_ns: u64, every_ms: u32, configured: Duration) -> Option<u64> {
    let every_ns = match every_ms {
        0 => configured.as_nanos() as f64,
        ms => f64::from(ms) * 1e6,
    };
    let intervals = gap_ns as f64 / every_ns;
    (intervals > HOLE_INTERVALS).then(|| intervals.round() as u64 - 1)
}

/// Which samples go to the evidence although nothing cites them: one each interval. Control groups are in some samples
/// only; where they are read, a sample that is due waits for them, at most one interval, so that they are in it at all.
#[derive(Debug)]
pub(super) struct EvidenceTurns {
    every_ns: u64,
    next_ns: u64,
    last_groups_ns: Option<u64>,
}

impl EvidenceTurns {
    /// The first sample is due.
    pub(super) fn new(every: Duration) -> Self {
        Self { every_ns: every.as_nanos() as u64, next_ns: 0, last_groups_ns: None }
    }

    /// Goes on at another interval; what is due later than one of them from now is due then.
    pub(super) fn set_every(&mut self, every: Duration, now_ns: u64) {
        self.every_ns = every.as_nanos() as u64;
        self.next_ns = self.next_ns.min(now_ns.saturating_add(self.every_ns));
    }

    /// Whether the sample of `boot_ns` is due, with control groups in it or not.
    pub(super) fn is_due(&mut self, boot_ns: u64, has_groups: bool) -> bool {
        if has_groups {
            self.last_groups_ns = Some(boot_ns);
        }
        let expected = self.last_groups_ns.is_some_and(|last| boot_ns.saturating_sub(last) < self.every_ns);
        let may_wait = expected && !has_groups;
        boot_ns >= self.next_ns && (!may_wait || boot_ns >= self.next_ns.saturating_add(self.every_ns))
    }

    /// The sample of `boot_ns` went to the evidence.
    pub(super) fn took(&mut self, boot_ns: u64, has_groups: bool) {
        if has_groups {
            self.last_groups_ns = Some(boot_ns);
        }
        self.next_ns = boot_ns.saturating_add(self.every_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_hole_is_measured_by_the_interval_in_force() {
        let second = Duration::from_secs(1);
        assert_eq!(missed(2 * SECOND, 1_000, second), None);
        assert_eq!(missed(4 * SECOND, 1_000, second), Some(3));
        assert_eq!(missed(10 * SECOND, 10_000, second), None, "the agent saves itself");
        assert_eq!(missed(40 * SECOND, 10_000, second), Some(3));
        assert_eq!(missed(4 * SECOND, 0, second), Some(3));
    }

    /// The seconds of which the sample goes to the evidence, groups being in each fifth from `first_groups` on.
    fn taken(
        turns: &mut EvidenceTurns,
        seconds: std::ops::Range<u64>,
        groups: impl Fn(u64) -> bool,
    ) -> Vec<u64> {
        seconds
            .filter(|s| {
                let due = turns.is_due(s * SECOND, groups(*s));
                if due {
                    turns.took(s * SECOND, groups(*s));
                }
                due
            })
            .collect()
    }

    #[test]
    fn a_sample_for_the_evidence_waits_for_control_groups_and_then_has_them() {
        let mut turns = EvidenceTurns::new(Duration::from_secs(10));
        assert_eq!(taken(&mut turns, 100..132, |s| s % 5 == 0), [100, 110, 120, 130]);
        // A finding took one in between.
        turns.took(133 * SECOND, false);
        assert_eq!(taken(&mut turns, 134..170, |s| s % 5 == 0), [145, 155, 165]);
    }

    #[test]
    fn another_interval_holds_at_once() {
        let mut turns = EvidenceTurns::new(Duration::from_secs(600));
        assert_eq!(taken(&mut turns, 100..200, |_| false), [100]);
        turns.set_every(Duration::from_secs(10), 200 * SECOND);
        assert_eq!(taken(&mut turns, 200..225, |_| false), [210, 220]);
    }

    #[test]
    fn without_control_groups_nothing_is_waited_for() {
        let mut turns = EvidenceTurns::new(Duration::from_secs(10));
        assert_eq!(taken(&mut turns, 100..125, |_| false), [100, 110, 120]);
        // They stop coming: one turn is late, the others are not.
        let mut turns = EvidenceTurns::new(Duration::from_secs(10));
        assert_eq!(taken(&mut turns, 100..150, |s| s == 105), [100, 115, 125, 135, 145]);
    }
}
