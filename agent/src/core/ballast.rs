//! The ballast's part in the core: it is looked after at each sample that shows its filesystem anywhere near full, once a
//! minute else, and before each action.
//!
//! An action waits until the keeper had a look, so that ballast goes before anything else and a cleanup never counts its
//! room; a keeper that does not answer (its disk hangs) keeps an action for [`LOOK_WAIT`] and no longer.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Action, Body, Moment, Mount, Stream};
use rustix::fs::makedev;

use super::Core;
use crate::act::work::Job;
use crate::ballast::{Ask, Marks, Told, Weights};
use crate::detect::DetectConfig;

/// How long an action waits for the keeper: giving up takes milliseconds, and a mount of its own must not wait for the
/// state folder's disk.
const LOOK_WAIT: Duration = Duration::from_secs(2);
/// Looks that wait for the keeper at most; a further one would say nothing else.
pub const LOOKS: usize = 4;

/// With so much more than twice what is held the sample itself was look enough: what fills that within a second also
/// fills it between two looks. A look costs the wake of two threads, a tenth of what an idle agent does.
const AMPLE: Weights = Weights { bytes: 1 << 30, inodes: 10_000 };
/// A look is due then however much room there is: somebody else may have taken the ballast away.
const LOOK_EVERY_NS: u64 = 60_000_000_000;

/// The marks that `detect` sets, as fractions that are available or free.
pub fn marks(detect: &DetectConfig) -> Marks {
    let (space, inodes) = (&detect.disk.space, &detect.disk.inodes);
    Marks {
        high_available: 1.0 - space.high_used,
        low_available: 1.0 - space.low_used,
        high_inodes: 1.0 - inodes.high_used,
        low_inodes: 1.0 - inodes.low_used,
    }
}

/// What the core knows of the ballast.
#[derive(Debug)]
pub(super) struct BallastState {
    asks: Option<SyncSender<Ask>>,
    /// Looks asked for and answered.
    asked: u64,
    answered: u64,
    /// When a sample asked for one last, boot ns.
    asked_at: Option<u64>,
    /// What the keeper told last: its device and what is held, where nothing is owed.
    calm: Option<(u64, Weights)>,
    /// Actions that wait for the look with that number, and no longer than until then, boot ns.
    waiting: VecDeque<(u64, u64, Box<Action>)>,
    /// Marks that the keeper could not be told yet.
    marks: Option<Marks>,
    /// What is not as configured, in words that follow "cannot".
    pub(super) unable: Option<String>,
}

impl BallastState {
    pub(super) fn new(asks: Option<SyncSender<Ask>>) -> Self {
        Self {
            asks,
            asked: 0,
            answered: 0,
            asked_at: None,
            calm: None,
            waiting: VecDeque::new(),
            marks: None,
            unable: None,
        }
    }

    /// Whether a sample with these mounts asks for a look.
    fn is_due(&self, boot_ns: u64, mounts: &[Mount]) -> bool {
        let is_recent = self.asked_at.is_some_and(|at| boot_ns.saturating_sub(at) < LOOK_EVERY_NS);
        let Some((device, held)) = self.calm.filter(|_| is_recent && self.marks.is_none()) else {
            return true;
        };
        let bytes = held.bytes.saturating_mul(2).saturating_add(AMPLE.bytes);
        let inodes = held.inodes.saturating_mul(2).saturating_add(AMPLE.inodes);
        // A device that no mount has is looked at each time.
        !mounts
            .iter()
            .filter(|m| makedev(m.dev_major, m.dev_minor) == device)
            .any(|m| m.available_bytes >= bytes && (m.inodes_total == 0 || m.inodes_free >= inodes))
    }

    /// Asks for a look; its number, or `None` where nobody looks.
    fn ask(&mut self) -> Option<u64> {
        let asks = self.asks.as_ref()?;
        if let Some(marks) = self.marks
            && asks.try_send(Ask::Marks(marks)).is_ok()
        {
            self.marks = None;
        }
        match asks.try_send(Ask::Look(self.asked + 1)) {
            Ok(()) => {
                self.asked += 1;
                Some(self.asked)
            }
            // The last in the queue is looked for later than now, whenever it was asked for.
            Err(TrySendError::Full(_)) => Some(self.asked),
            Err(TrySendError::Disconnected(_)) => {
                self.asks = None;
                None
            }
        }
    }
}

impl Core {
    /// Has the room looked at where `mounts` say that it may be short; what comes of it is told later.
    pub(super) fn look_at_ballast(&mut self, at: Moment, mounts: &[Mount]) {
        if self.ballast.is_due(at.boot_ns, mounts) {
            self.ballast.asked_at = Some(at.boot_ns);
            let _ = self.ballast.ask();
        }
    }

    /// The thresholds changed.
    pub(super) fn tell_marks(&mut self, detect: &DetectConfig) {
        self.ballast.marks = Some(marks(detect));
    }

    /// Gives an action to the executor once the ballast was looked at.
    pub(super) fn apply_after_ballast(&mut self, action: Box<Action>) {
        match self.ballast.ask() {
            Some(look) => {
                let until = clock::now().boot_ns.saturating_add(LOOK_WAIT.as_nanos() as u64);
                self.ballast.waiting.push_back((look, until, action));
            }
            None => self.give(Job::Apply(action)),
        }
    }

    /// Actions whose look came, or did not come in time.
    pub(super) fn release_actions(&mut self, now: Moment) {
        while let Some((look, until, _)) = self.ballast.waiting.front() {
            if *look > self.ballast.answered && now.boot_ns < *until {
                break;
            }
            if let Some((_, _, action)) = self.ballast.waiting.pop_front() {
                self.give(Job::Apply(action));
            }
        }
    }

    /// What the keeper says, asked or at the start.
    pub(super) fn on_ballast(&mut self, told: Told) {
        let now = clock::now();
        self.ballast.answered = self.ballast.answered.max(told.look);
        self.ballast.calm = (!told.owed.any()).then_some((told.device, told.held));
        let figures = &self.wires.figures;
        figures.ballast_bytes.store(told.held.bytes, Ordering::Relaxed);
        figures.ballast_inodes.store(told.held.inodes, Ordering::Relaxed);
        figures.ballast_given_up.store(told.given_up, Ordering::Relaxed);
        self.responder.set_owed(told.device, told.owed.bytes, told.owed.inodes);
        self.ballast.unable = told.unable;
        if let Some(said) = told.said {
            self.wires.recorder.push(Stream::Urgent, now, Body::Note(said));
        }
        self.release_actions(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = LOOK_EVERY_NS;

    fn mount(available_bytes: u64, inodes_free: u64) -> Mount {
        Mount {
            dev_major: 8,
            dev_minor: 1,
            available_bytes,
            inodes_free,
            inodes_total: 1 << 20,
            ..Mount::default()
        }
    }

    #[test]
    fn a_sample_asks_for_a_look_unless_it_shows_ample_room_and_nothing_is_owed() {
        let ample = [mount(8 << 30, 1 << 19)];
        let mut state = BallastState::new(None);
        assert!(state.is_due(1, &ample), "nothing was told yet");
        state.asked_at = Some(1);
        assert!(state.is_due(2, &ample), "nothing was told yet");
        let held = Weights { bytes: 64 << 20, inodes: 64 };
        state.calm = Some((makedev(8, 1), held));
        assert!(!state.is_due(2, &ample));
        assert!(
            !state.is_due(MINUTE, &ample) && state.is_due(MINUTE + 1, &ample),
            "now and then in any case"
        );
        assert!(state.is_due(2, &[mount(1 << 30, 1 << 19)]), "few bytes");
        assert!(state.is_due(2, &[mount(8 << 30, 10_000)]), "few inodes");
        assert!(state.is_due(2, &[]), "its mount is not among them");
        state.calm = Some((makedev(8, 2), held));
        assert!(state.is_due(2, &ample), "nor is its device");
        state.calm = None;
        assert!(state.is_due(2, &ample), "something is owed");
    }
}
