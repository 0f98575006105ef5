//! The configuration, read again while the agent runs.
//!
//! Applied at once: the log's level, thresholds, how often a sample is sent that nothing cites, and the cleanup mode for
//! what the node does by itself. Roots and budgets are the executor's, which was given them before anything untrusted was
//! read and takes no others; like every other key they are named with "restart to apply".
//!
//! A configuration with mistakes changes nothing, but for one: a cleanup mode that is written there and is tighter than the
//! one in force applies at once, whatever else is wrong. Nobody who takes the node out of `auto` has to mend a rule first.

use std::sync::mpsc::SyncSender;

use dogwatch::config::{Keys, Problems};
use dogwatch::record::CleanupMode;
use dogwatch::reload::{Changes, Origin, Outcome, Watcher, cut, rejected};
use dogwatch::supervise::Stop;
use dogwatch::telemetry;
use tokio::sync::watch;

use crate::config::{Config, Read};
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
        let read = move || Config::read(path.as_deref(), std::env::vars());
        let read = tokio::task::spawn_blocking(read).await.map_err(|e| e.to_string())?;
        let reload = state.take(read, &told);
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
    fn take(&mut self, read: Read, told: &Told) -> Reload {
        let (new, keys) = (read.config, read.keys);
        if let Some(problems) = read.problems {
            told.outcome.bad();
            let mut text = rejected(&problems);
            let tighter = tighter_mode(&new, &keys, &problems, self.config.policy.mode);
            if let Some((mode, written)) = tighter {
                self.config.policy.mode = mode;
                self.keys.insert(MODE.to_owned(), written.clone());
                told.mode.send_replace(mode);
                text = format!(
                    "{MODE} is {written} from now on, since that is tighter than before; of the rest: {text}"
                );
            }
            tracing::error!("{text}");
            return Reload { told: cut(text), live: tighter.is_some().then(|| self.live(None)) };
        }
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
        Reload { told: cut(text), live: Some(self.live(detect)) }
    }

    fn live(&self, detect: Option<crate::detect::DetectConfig>) -> Live {
        Live {
            detect: detect.map(Box::new),
            evidence_every: self.config.evidence_every,
            mode: self.config.policy.mode,
        }
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

/// The mode of `new`, and how it is written there, if it is and is tighter than the one `in_force`.
fn tighter_mode<'k>(
    new: &Config,
    keys: &'k Keys,
    problems: &Problems,
    in_force: CleanupMode,
) -> Option<(CleanupMode, &'k String)> {
    use CleanupMode::{Auto, Off, Plan};
    // What does not parse stands there as its default.
    let written = keys.get(MODE).filter(|_| problems.list.iter().all(|p| p.key != MODE))?;
    let mode = new.policy.mode;
    matches!((mode, in_force), (Off, Plan | Auto) | (Plan, Auto)).then_some((mode, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &std::path::Path, text: &str) -> Read {
        std::fs::write(file, text).unwrap();
        Config::read(Some(file), [("NODE_NAME".to_owned(), "n".to_owned())])
    }

    #[test]
    fn a_tighter_mode_applies_whatever_else_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        let Read { config, keys, .. } = load(&file, "cleanup: { mode: auto }\n");
        let mut state = State { may_switch_on: true, config, keys };
        let (inbox, _held) = std::sync::mpsc::sync_channel(1);
        let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Auto), outcome: Outcome::default() };
        let mut take = |text: &str| {
            let reload = state.take(load(&file, text), &told);
            (reload.told, reload.live.map(|live| live.mode), *told.mode.borrow())
        };
        let wrong = "sample: { every: never }\n";
        for text in ["cleanup: { mode: palm }\n", "cleanup: [\n", &format!("cleanup: {{}}\n{wrong}")] {
            let (said, live, mode) = take(text);
            assert!(said.starts_with("the new configuration is not used"), "{said}");
            assert_eq!((live, mode), (None, CleanupMode::Auto), "{text}");
        }
        let (said, live, mode) = take(&format!("cleanup: {{ mode: plan, rooots: [] }}\n{wrong}"));
        assert!(said.starts_with("cleanup.mode is plan from now on"), "{said}");
        assert!(said.contains("sample.every") && said.contains("cleanup.rooots"), "{said}");
        assert_eq!((live, mode), (Some(CleanupMode::Plan), CleanupMode::Plan));
        let (said, live, mode) = take(&format!("cleanup: {{ mode: auto }}\n{wrong}"));
        assert_eq!((live, mode), (None, CleanupMode::Plan), "looser waits until all is right: {said}");
        let (said, _, mode) = take("cleanup: { mode: auto }\n");
        assert!(said.ends_with("applied: cleanup.mode"), "{said}");
        assert_eq!(mode, CleanupMode::Auto);
        let (_, live, mode) = take(&format!("cleanup: {{ mode: off }}\n{wrong}"));
        assert_eq!((live, mode), (Some(CleanupMode::Off), CleanupMode::Off));
    }

    #[test]
    fn what_lies_at_a_root_keeps_nobody_from_a_tighter_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        let out = dir.path().join("app/out");
        std::fs::create_dir_all(&out).unwrap();
        let text = |mode: &str| {
            format!("cleanup: {{ mode: {mode}, roots: [{{ path: {}, min_age: 1h }}] }}\n", out.display())
        };
        let Read { config, keys, .. } = load(&file, &text("auto"));
        let mut state = State { may_switch_on: true, config, keys };
        let (inbox, _held) = std::sync::mpsc::sync_channel(1);
        let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Auto), outcome: Outcome::default() };
        std::fs::remove_dir(&out).unwrap();
        std::os::unix::fs::symlink("/nowhere", &out).unwrap();
        std::fs::write(dir.path().join("app/dump.rdb"), "").unwrap();
        let reload = state.take(load(&file, &text("plan")), &told);
        assert!(reload.told.ends_with("applied: cleanup.mode"), "{}", reload.told);
        assert_eq!(*told.mode.borrow(), CleanupMode::Plan);
    }

    #[test]
    fn what_applies_is_told_apart_from_what_needs_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        let Read { config, keys, .. } = load(&file, "cleanup: { mode: plan }\n");
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
        let Read { config, keys, .. } = load(&file, "cleanup: { mode: off }\n");
        let mut state = State { may_switch_on: false, config, keys };
        let (inbox, _held) = std::sync::mpsc::sync_channel(1);
        let told = Told { inbox, mode: watch::Sender::new(CleanupMode::Off), outcome: Outcome::default() };
        let reload = state.take(load(&file, "cleanup: { mode: auto }\n"), &told);
        assert!(reload.told.ends_with("restart to apply: cleanup.mode"), "{}", reload.told);
        assert_eq!(reload.live.unwrap().mode, CleanupMode::Off);
    }
}
