//! Runs of seqs that a ring gave up before they were acknowledged, or that were found missing in it, and that gap records
//! tell: whoever finds them missing later must not tell them again.
//!
//! Deliberately absent: what was acknowledged and recycled. Nobody told of that, since nobody lost it; a collector that
//! comes back without it does.

use std::collections::VecDeque;

use dogwatch::record::{Incarnation, Seq};

/// Most runs that are remembered of a stream. Evictions go on where the last one ended, so that each long absence of the
/// collector makes one.
const MAX_RUNS: usize = 64;

/// What one stream gave up: run, first and last seq, both included.
#[derive(Debug, Default)]
pub(crate) struct GivenUp(VecDeque<(Incarnation, Seq, Seq)>);

impl GivenUp {
    /// Notes that `first` to `last` of `incarnation` are told.
    pub(crate) fn note(&mut self, incarnation: Incarnation, first: Seq, last: Seq) {
        let touches = |run: &&mut (Incarnation, Seq, Seq)| {
            run.0 == incarnation && first <= run.2.saturating_add(1) && run.1 <= last.saturating_add(1)
        };
        if let Some(run) = self.0.iter_mut().rev().find(touches) {
            (run.1, run.2) = (run.1.min(first), run.2.max(last));
            return;
        }
        if self.0.len() >= MAX_RUNS {
            self.0.pop_front();
        }
        self.0.push_back((incarnation, first, last));
    }

    /// Of the seqs `first` to `last` of `incarnation`, the runs that are not told yet, in order.
    pub(crate) fn untold(&self, incarnation: Incarnation, first: Seq, last: Seq) -> Vec<(Seq, Seq)> {
        let mut told: Vec<(Seq, Seq)> =
            self.0.iter().filter(|run| run.0 == incarnation).map(|run| (run.1, run.2)).collect();
        told.sort_unstable();
        let mut untold = Vec::new();
        let mut from = first;
        for (begin, end) in told {
            if end < from || begin > last {
                continue;
            }
            if begin > from {
                untold.push((from, begin - 1));
            }
            from = end.saturating_add(1);
        }
        if from <= last {
            untold.push((from, last));
        }
        untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Incarnation = Incarnation([7; 16]);
    const OTHER: Incarnation = Incarnation([8; 16]);

    #[test]
    fn what_is_told_is_not_told_again_and_the_rest_is() {
        let mut told = GivenUp::default();
        assert_eq!(told.untold(RUN, 1, 10), [(1, 10)]);
        told.note(RUN, 4, 6);
        told.note(OTHER, 1, 10);
        assert_eq!(told.untold(RUN, 1, 10), [(1, 3), (7, 10)]);
        assert_eq!(told.untold(RUN, 5, 6), []);
        assert_eq!(told.untold(OTHER, 1, 10), []);
        told.note(RUN, 7, 9);
        told.note(RUN, 20, 30);
        assert_eq!(told.untold(RUN, 1, 40), [(1, 3), (10, 19), (31, 40)]);
        assert_eq!(told.untold(RUN, 11, 12), [(11, 12)]);
    }

    #[test]
    fn evictions_that_go_on_where_the_last_ended_are_one_run() {
        let mut told = GivenUp::default();
        for n in 0..10_000 {
            told.note(RUN, n * 10 + 1, n * 10 + 10);
        }
        assert_eq!(told.0.len(), 1);
        for n in 0..10_000 {
            told.note(OTHER, n * 10, n * 10);
        }
        assert_eq!(told.0.len(), MAX_RUNS);
    }
}
