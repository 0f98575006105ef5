//! When a step of the sweep for what is held is taken: surveys and cleanups come first, and none of them for ever.
//!
//! Between two jobs one step is taken where a sweep is due or under way, so that jobs that follow each other without a
//! pause cannot keep a held log from being linked before it is deleted, nor released space from coming free.
//!
//! Deliberately absent: time, which comes in as an argument.

use std::time::{Duration, Instant};

/// From the end of a sweep to the next: a rotation is seen before the one after it, which may delete.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// Between two steps while nothing else is to be done: a sweep takes two thirds of a processor at most.
const STEP_PAUSE: Duration = Duration::from_millis(250);

/// What is known of the sweeps.
#[derive(Debug)]
pub(super) struct Turn {
    next: Instant,
    asked: bool,
    goes_on: bool,
    /// Whether a whole sweep, one that may let go, is still to be done for the present holds.
    owed: bool,
}

impl Turn {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + SWEEP_EVERY, asked: false, goes_on: false, owed: true }
    }

    /// What is held is another now.
    pub(super) fn ask(&mut self) {
        (self.asked, self.owed) = (true, true);
    }

    /// How long to wait for a job before the next step.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        match (self.asked, self.goes_on) {
            (true, _) => Duration::ZERO,
            (false, true) => STEP_PAUSE,
            (false, false) => self.next.saturating_duration_since(now),
        }
    }

    /// Whether a step is to be taken now. `held`: whether anything is held.
    pub(super) fn is_due(&mut self, now: Instant, held: bool) -> bool {
        let by_time = now >= self.next;
        if by_time {
            self.next = now + SWEEP_EVERY;
        }
        self.asked || self.goes_on || by_time && (held || self.owed)
    }

    /// A step was taken. `more`: whether the sweep goes on; `None`: it failed. `may_release`: whether it let go.
    pub(super) fn stepped(&mut self, now: Instant, more: Option<bool>, may_release: bool) {
        self.next = now + SWEEP_EVERY;
        self.asked = false;
        self.goes_on = more == Some(true);
        if more == Some(false) && may_release {
            self.owed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_has_its_turn_goes_on_to_its_end_and_is_owed_until_it_could_let_go() {
        let start = Instant::now();
        let mut turn = Turn::new(start);
        assert!(!turn.is_due(start, true) && turn.wait(start) == SWEEP_EVERY);
        // Jobs without a pause: nobody ever waits, and it comes by time.
        let later = start + SWEEP_EVERY;
        assert!(turn.is_due(later, true));
        turn.stepped(later, Some(true), true);
        assert!(turn.is_due(later, false), "what was begun goes on, after each job");
        assert_eq!(turn.wait(later), STEP_PAUSE);
        turn.stepped(later, Some(false), true);
        assert!(!turn.is_due(later, true));
        let later = later + SWEEP_EVERY;
        assert!(!turn.is_due(later, false), "nothing is held and nothing is owed");
        assert_eq!(turn.wait(later), SWEEP_EVERY, "and that is not looked at all the time");

        turn.ask();
        assert_eq!(turn.wait(later), Duration::ZERO);
        assert!(turn.is_due(later, false));
        turn.stepped(later, None, true);
        assert!(!turn.is_due(later, false));
        let later = later + SWEEP_EVERY;
        assert!(turn.is_due(later, false), "one that failed is tried again");
        turn.stepped(later, Some(false), false);
        let later = later + SWEEP_EVERY;
        assert!(turn.is_due(later, false), "so is one that could not let go yet");
        turn.stepped(later, Some(false), true);
        assert!(!turn.is_due(later + SWEEP_EVERY, false));
    }
}
