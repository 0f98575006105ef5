//! A changed configuration: what of it applies while the agent runs.
//!
//! Detectors are built anew and take up the findings that are active, as after a restart: what still holds by the new
//! thresholds goes on under its id, what does not is cleared, and no finding is lost. Their windows begin empty.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Body, CleanupMode, FindingState, Stream};

use super::Core;
use crate::detect::{DetectConfig, Detectors};

/// That the configuration was read again.
#[derive(Debug)]
pub struct Reload {
    /// What came of it, for the record.
    pub told: String,
    /// What is in force from now on; `None`: what was before.
    pub live: Option<Live>,
}

/// What can change while the agent runs.
#[derive(Debug)]
pub struct Live {
    /// Thresholds, if they changed.
    pub detect: Option<Box<DetectConfig>>,
    /// How often a sample goes to the evidence stream that nothing cites.
    pub evidence_every: Duration,
    /// What the node does by itself when a disk fills.
    pub mode: CleanupMode,
    /// What of the file bounds what may go and is not in force, in words.
    pub unapplied: Option<String>,
    /// Keys of the file that need a restart.
    pub pending_keys: u64,
}

impl Core {
    pub(super) fn on_reload(&mut self, reload: Reload) {
        let now = clock::now();
        self.wires.recorder.push(Stream::Urgent, now, Body::Note(reload.told));
        let Some(live) = reload.live else { return };
        self.config.evidence_every = live.evidence_every;
        self.evidence.set_every(live.evidence_every, now.boot_ns);
        self.wires.figures.config_pending_keys.store(live.pending_keys, Ordering::Relaxed);
        let steps = self.responder.set_bounds(live.mode, live.unapplied, now);
        self.carry_out(now, steps);
        if let Some(detect) = live.detect {
            self.judge_anew(*detect);
        }
    }

    fn judge_anew(&mut self, detect: DetectConfig) {
        let now = clock::now();
        self.tell_marks(&detect);
        self.responder.set_marks(detect.disk.clone());
        self.on_marks(detect.disk.clone());
        let active: Vec<_> = self.detectors.active().into_iter().cloned().collect();
        let recorder = &self.wires.recorder;
        self.detectors = Detectors::new(detect, recorder.node().clone(), recorder.incarnation());
        for mut orphan in self.detectors.seed(active) {
            orphan.state = FindingState::Cleared;
            orphan.explanation = "the configuration does not watch for it any more".to_owned();
            self.say(now, orphan);
        }
    }
}
