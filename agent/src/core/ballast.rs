//! The ballast's part in the core: it is looked after at each sample, and before each action.
//!
//! An action waits until the keeper had a look, so that ballast goes before anything else and a cleanup never counts its
//! room; a keeper that does not answer (its disk hangs) keeps an action for [`LOOK_WAIT`] and no longer.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Action, Body, Moment, Stream};

use super::Core;
use crate::act::work::Job;
use crate::ballast::{Ask, Marks, Told};
use crate::detect::DetectConfig;

/// How long an action waits for the keeper: giving up takes milliseconds, and a mount of its own must not wait for the
/// state folder's disk.
const LOOK_WAIT: Duration = Duration::from_secs(2);
/// Looks that wait for the keeper at most; a further one would say nothing else.
pub const LOOKS: usize = 4;

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
    /// Actions that wait for the look with that number, and no longer than until then, boot ns.
    waiting: VecDeque<(u64, u64, Box<Action>)>,
    /// Marks that the keeper could not be told yet.
    marks: Option<Marks>,
    /// What is not as configured, in words that follow "cannot".
    pub(super) unable: Option<String>,
}

impl BallastState {
    pub(super) fn new(asks: Option<SyncSender<Ask>>) -> Self {
        Self { asks, asked: 0, answered: 0, waiting: VecDeque::new(), marks: None, unable: None }
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
    /// Has the room looked at; what comes of it is told later.
    pub(super) fn look_at_ballast(&mut self) {
        let _ = self.ballast.ask();
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
            None => drop(self.wires.jobs.send(Job::Apply(action))),
        }
    }

    /// Actions whose look came, or did not come in time.
    pub(super) fn release_actions(&mut self, now: Moment) {
        while let Some((look, until, _)) = self.ballast.waiting.front() {
            if *look > self.ballast.answered && now.boot_ns < *until {
                break;
            }
            if let Some((_, _, action)) = self.ballast.waiting.pop_front() {
                // The thread that takes jobs lives as long as the agent.
                let _ = self.wires.jobs.send(Job::Apply(action));
            }
        }
    }

    /// What the keeper says, asked or at the start.
    pub(super) fn on_ballast(&mut self, told: Told) {
        let now = clock::now();
        self.ballast.answered = self.ballast.answered.max(told.look);
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
