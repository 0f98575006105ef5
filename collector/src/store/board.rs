//! The board between writers and indexer: how far the journals are durable, and what the indexer must look at.
//!
//! Writers only ever raise marks, so a message is never lost and never waits in a queue: the indexer reads the journals
//! themselves up to the marks.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dogwatch::journal::Position;

/// What is to be done.
#[derive(Debug, Clone, Default)]
pub(super) struct Goal {
    /// Durable in the urgent journal up to here.
    pub(super) urgent: Position,
    /// Durable in the truth journal up to here.
    pub(super) truth: Position,
    /// The urgent journal's first segment.
    pub(super) floor: u64,
    /// The index of this generation failed somebody, and how.
    pub(super) broken: Option<(u64, String)>,
    /// The store closes.
    pub(super) stop: bool,
}

/// Where marks are put up and read.
#[derive(Debug, Default)]
pub(super) struct Board {
    goal: Mutex<(Goal, bool)>,
    changed: Condvar,
}

impl Board {
    fn change(&self, f: impl FnOnce(&mut Goal)) {
        let mut g = self.lock();
        f(&mut g.0);
        g.1 = true;
        self.changed.notify_all();
    }

    pub(super) fn urgent(&self, at: Position) {
        self.change(|g| g.urgent = g.urgent.max(at));
    }

    pub(super) fn truth(&self, at: Position) {
        self.change(|g| g.truth = g.truth.max(at));
    }

    pub(super) fn floor(&self, segment: u64) {
        self.change(|g| g.floor = g.floor.max(segment));
    }

    pub(super) fn broken(&self, generation: u64, why: String) {
        self.change(|g| {
            // One of an index that is gone already is of no use; the first of the newest says most.
            if g.broken.as_ref().is_none_or(|(reported, _)| *reported < generation) {
                g.broken = Some((generation, why));
            }
        });
    }

    pub(super) fn stop(&self) {
        self.change(|g| g.stop = true);
    }

    /// Makes the next wait return at once.
    pub(super) fn retry(&self) {
        self.change(|_| {});
    }

    pub(super) fn stopping(&self) -> bool {
        self.lock().0.stop
    }

    /// Waits for a change, at most `patience`; takes the report of a broken index along.
    pub(super) fn wait(&self, patience: Duration) -> Goal {
        let guard = self.lock();
        let (mut guard, _) = self
            .changed
            .wait_timeout_while(guard, patience, |(_, changed)| !*changed)
            .unwrap_or_else(PoisonError::into_inner);
        guard.1 = false;
        let goal = guard.0.clone();
        guard.0.broken = None;
        goal
    }

    /// The marks as they stand.
    pub(super) fn goal(&self) -> Goal {
        self.lock().0.clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Goal, bool)> {
        self.goal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_the_index_before_does_not_hide_one_of_its_successor() {
        let board = Board::default();
        board.broken(1, "late".to_owned());
        board.broken(2, "first".to_owned());
        board.broken(2, "second".to_owned());
        board.broken(1, "later still".to_owned());
        assert_eq!(board.wait(Duration::ZERO).broken, Some((2, "first".to_owned())));
        assert_eq!(board.wait(Duration::ZERO).broken, None, "it is taken once");
    }
}
