//! The configuration, read again while the agent runs.
//!
//! Applied at once: the log's level, thresholds, how often a sample is sent that nothing cites, and the cleanup mode for
//! what the node does by itself. Roots and budgets are the executor's, which was given them before anything untrusted was
//! read and takes no others; like every other key they are named with "restart to apply".

use std::sync::mpsc::SyncSender;

use dogwatch::config::{Keys, Problems};
use dogwatch::record::CleanupMode;
use dogwatch::reload::{Changes, Origin, Outcome, Watcher, cut, rejected};
use dogwatch::supervise::Stop;
use dogwatch::telemetry;
use tokio::sync::watch;

use crate::config::Config;
use crate::core::{Live, Message, Reload};

/// Keys and sections that are applied while the agent runs.
const LIVE: [&str; 4] = ["log.level", "detect", "sample.evidence_every", MODE];
const MODE: &str = "cleanup.mode";

/// The configuration as it was started with, and how to read it again.
#[derive(Debug, Clone)]
pub struct Started {
    /// The file.
    pub origin: Origin,
    /// Every key that was given.
    pub keys: Keys,
}

/// What is told when the configuration changed.
pub(super) struct Told {
    pub(super) inbox: SyncSender<Message>,
    pub(super) mode: watch::Sender<CleanupMode>,
    pub(super) outcome: Outcome,
}

/// Reads the configuration again whenever there is a reason to, until `stop` is set.
pub(super) async fn follow(
    started: Started,
    config: Config,
    told: Told,
    mut watcher: Watcher,
    stop: Stop,
) -> Result<(), String> {
    let mut state =
        State { may_switch_on: config.policy.mode != CleanupMode::Off, config, keys: started.keys };
    loop {
        let path = tokio::select! {
            () = stop.wait() => return Ok(()),
            path = watcher.next() => path,
        };
        let load = move || Config::load_keys(path.as_deref(), std::env::vars());
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|e| e.to_string())?;
        let reload = state.take(loaded, &told);
        let inbox = told.inbox.clone();
        // The core may be busy for a moment; where it is gone the agent is ending.
        let _ = tokio::task::spawn_blocking(move || inbox.send(Message::Reload(Box::new(reload)))).await;
    }
}

struct State {
    /// What is in force, wherever it came from.
    config: Config,
    keys: Keys,
    /// Whether the executor removes anything at all.
    may_switch_on: bool,
}

impl State {
    fn take(&mut self, loaded: Result<(Config, Keys), Problems>, told: &Told) -> Reload {
        let (new, keys) = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => {
                told.outcome.bad();
                let text = rejected(&problems);
                tracing::error!("{text}");
                return Reload { told: cut(text), live: None };
            }
        };
        let live: Vec<&str> = LIVE.into_iter().filter(|k| *k != MODE || self.may_switch_on).collect();
        let mut changes = Changes::between(&self.keys, &keys, &live);
        changes.apply(&mut self.keys, &keys);
        let detect = self.adopt(&new, &mut changes);
        told.outcome.good();
        told.mode.send_if_modified(|mode| {
            std::mem::replace(mode, self.config.policy.mode) != self.config.policy.mode
        });
        let text = changes.told();
        tracing::info!("{text}");
        let live = Live {
            detect: detect.map(Box::new),
            evidence_every: self.config.evidence_every,
            mode: self.config.policy.mode,
        };
        Reload { told: cut(text), live: Some(live) }
    }

    /// Takes over what applies at once. Gives back the thresholds if they changed.
    fn adopt(&mut self, new: &Config, changes: &mut Changes) -> Option<crate::detect::DetectConfig> {
        let mut next = self.config.clone();
        if new.log_level != next.log_level {
            match telemetry::set_level(&new.log_level) {
                Ok(()) => next.log_level.clone_from(&new.log_level),
                Err(why) => changes.restart.push(format!("log.level ({why})")),
            }
        }
        next.evidence_every = new.evidence_every;
        if self.may_switch_on {
            next.policy.mode = new.policy.mode;
        }
        // The readers keep the rules that they began with, and names and severities must be theirs.
        next.detect = new.detect.clone();
        next.detect.logs.rules.clone_from(&self.config.detect.logs.rules);
        let same = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") == format!("{b:?}");
        if same(&next, new) {
            // A default that was written out, or left out, is no change.
            changes.restart.clear();
        } else if changes.restart.is_empty() {
            changes.restart.push("what tail.rules_file names".to_owned());
        }
        let detect = (!same(&next.detect, &self.config.detect)).then(|| next.detect.clone());
        self.config = next;
        detect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &std::path::Path, text: &str) -> Result<(Config, Keys), Problems> {
        std::fs::write(file, text).unwrap();
        Config::load_keys(Some(file), [("NODE_NAME".to_owned(), "n".to_owned())])
    }

    #[test]
    fn what_applies_is_told_apart_from_what_needs_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        let (config, keys) = load(&file, "cleanup: { mode: plan }\n").unwrap();
        let mut state = State { may_switch_on: true, config, keys };
        let (inbox, _held) = std::sync::mpsc::sync_channel(1);
        let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Plan), outcome: Outcome::default() };

        let text = "cleanup: { mode: auto, budgets: { max_objects: 5 } }\ndetect: { space: { high_used: 90%, serious_used: 92% } }\ncaps: { cpu: 5% }\n";
        let reload = state.take(load(&file, text), &told);
        assert_eq!(
            reload.told,
            "the configuration was read again; applied: cleanup.mode, detect.space.high_used, \
             detect.space.serious_used; restart to apply: caps.cpu, cleanup.budgets.max_objects"
        );
        let live = reload.live.unwrap();
        assert_eq!((live.mode, *told.mode.borrow()), (CleanupMode::Auto, CleanupMode::Auto));
        assert_eq!(live.detect.unwrap().disk.space.high_used, 0.9);

        let reload = state.take(load(&file, "detect: { space: { high_used: 140% } }\n"), &told);
        assert!(reload.told.contains("detect.space.high_used = 140%"), "{}", reload.told);
        assert!(reload.live.is_none());

        // Thresholds that did not change are left alone, and a default that is written out is no change.
        let reload = state.take(load(&file, &text.replace(", budgets: { max_objects: 5 }", "")), &told);
        assert_eq!(reload.told, "the configuration was read again; nothing changed");
        assert!(reload.live.unwrap().detect.is_none());
    }

    #[test]
    fn an_executor_that_is_off_is_not_switched_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        let (config, keys) = load(&file, "cleanup: { mode: off }\n").unwrap();
        let mut state = State { may_switch_on: false, config, keys };
        let (inbox, _held) = std::sync::mpsc::sync_channel(1);
        let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Off), outcome: Outcome::default() };
        let reload = state.take(load(&file, "cleanup: { mode: auto }\n"), &told);
        assert!(reload.told.ends_with("restart to apply: cleanup.mode"), "{}", reload.told);
        assert_eq!(reload.live.unwrap().mode, CleanupMode::Off);
    }
}
