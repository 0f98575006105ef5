//! Cleanups of an earlier run that are to get their end: once what they left in quarantine was put back, as far as it can be.
//!
//! Invariant: each has its end before this run's first cleanup, which may take what was just put back; and it is not waited for
//! longer than [`LATEST`].
//!
//! Deliberately absent: time, which comes in as an argument.

use std::time::{Duration, Instant};

use crate::act::unfinished::Unfinished;

/// They get their end then, though more may be put back: a walk over millions of folders takes longer, and a collector that waits for
/// the end of a cleanup that it permitted stops all cleanups. What still lies in quarantine is said to.
pub(super) const LATEST: Duration = Duration::from_secs(60);

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Closing {
    waiting: Vec<Unfinished>,
    until: Option<Instant>,
}

impl Closing {
    /// One more; whether it is the first one.
    pub(super) fn take(&mut self, unfinished: Unfinished, now: Instant) -> bool {
        self.waiting.push(unfinished);
        let is_first = self.until.is_none();
        self.until.get_or_insert(now + LATEST);
        is_first
    }

    /// How long until they get their end in any case; very long, where there is none.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let until = self.until.filter(|_| !self.waiting.is_empty());
        until.map_or(Duration::MAX, |until| until.saturating_duration_since(now))
    }

    /// All of them, the oldest first.
    pub(super) fn all(&mut self) -> Vec<Unfinished> {
        std::mem::take(&mut self.waiting)
    }
}
