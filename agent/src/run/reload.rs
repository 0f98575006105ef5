//! The configuration, read again while the agent runs.
//!
//! Applied at once: the log's level, thresholds, how often a sample is sent that nothing cites, and the cleanup mode for
//! what the node does by itself. Roots and budgets are the executor's, which was given them before anything untrusted was
//! read and takes no others; like every other key they are named with "restart to apply".
//!
//! A configuration with mistakes changes nothing, but for one: a cleanup mode that is written there and is tighter than the
//! one in force applies at once, whatever else is wrong. Nobody who takes the node out of `auto` has to mend a rule first.
//!
//! Invariants
//! - Nothing goes by a policy that the file does not have. While a key that bears on what goes is written otherwise than it is
//!   in force ([`bears`]), it is held back: cleanups are only planned, and no plan is applied. Which of the two is the tighter
//!   is not asked: that is easily got wrong, and a restart is cheap. To take the edit back ends it.
//! - Of a file with mistakes only what is tighter is taken: what it holds back waits for a file without.
//! - A file that gives no key at all, where one gave some, is one that is being written: a mistake.

use std::sync::mpsc::SyncSender;

use dogwatch::config::{Keys, Problem, Problems};
use dogwatch::record::CleanupMode;
use dogwatch::reload::{Changes, Origin, Outcome, Watcher, cut, rejected};
use dogwatch::supervise::Stop;
use dogwatch::telemetry;
use tokio::sync::watch;

use crate::act::policy::Policy;
use crate::config::{Config, Read};
use crate::core::{Live, Message, Reload};

/// Keys and sections that are applied while the agent runs.
const LIVE: [&str; 4] = ["log.level", "detect", "sample.evidence_every", MODE];
const MODE: &str = "cleanup.mode";
/// Keys that are named as held back; the log and the note have all.
const MAX_NAMED: usize = 4;

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
    let mut state = State::new(config, started.keys);
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
    /// What is in force, wherever it came from; of the mode, what is while nothing is held back.
    config: Config,
    keys: Keys,
    /// Whether the executor removes anything at all.
    may_switch_on: bool,
    /// Keys of the file that bear on what goes and are not in force.
    held_back: Vec<String>,
    /// Whether the file that has them has mistakes.
    mistaken: bool,
    /// Keys of the file that need a restart.
    pending: usize,
}

impl State {
    fn new(config: Config, keys: Keys) -> Self {
        let may_switch_on = config.policy.mode != CleanupMode::Off;
        Self { config, keys, may_switch_on, held_back: Vec::new(), mistaken: false, pending: 0 }
    }

    fn take(&mut self, read: Read, told: &Told) -> Reload {
        let problems = read.problems.clone().or_else(|| self.emptied(&read));
        if let Some(problems) = problems {
            return self.refuse(&read, &problems, told);
        }
        let (new, keys) = (read.config, read.keys);
        let live: Vec<&str> = LIVE.into_iter().filter(|k| *k != MODE || self.may_switch_on).collect();
        let mut changes = Changes::between(&self.keys, &keys, &live);
        let before = std::mem::take(&mut self.held_back);
        self.held_back = self.not_in_force(&new, &changes);
        self.mistaken = false;
        if !self.held_back.is_empty()
            && new.policy.mode == CleanupMode::Auto
            && let Some(at) = changes.live.iter().position(|key| key == MODE)
        {
            changes.restart.push(changes.live.remove(at));
            changes.restart.sort();
        }
        changes.apply(&mut self.keys, &keys);
        let detect = self.adopt(&new, &mut changes);
        self.pending = changes.restart.len();
        told.outcome.good();
        self.tell_mode(told);
        let mut text = changes.told();
        match self.unapplied().filter(|_| self.config.policy.mode != CleanupMode::Off) {
            Some(why) => {
                text = format!("{text}; {why}");
                tracing::warn!("{text}");
            }
            None => {
                if !before.is_empty() {
                    text += "; nothing that bears on cleanups is held back any more";
                }
                tracing::info!("{text}");
            }
        }
        Reload { told: cut(text), live: Some(self.live(detect)) }
    }

    /// A new configuration that is not used: it can only make the one in force tighter.
    fn refuse(&mut self, read: &Read, problems: &Problems, told: &Told) -> Reload {
        told.outcome.bad();
        let mut text = rejected(problems);
        // What cannot be read says nothing.
        let changes = Changes::between(&self.keys, if read.bare { &self.keys } else { &read.keys }, &LIVE);
        let news = changes.restart.into_iter().filter(|key| bears(key) && !self.held_back.contains(key));
        let news: Vec<String> = news.collect();
        let holds_back = !news.is_empty();
        if holds_back {
            self.held_back.extend(news);
            self.mistaken = true;
            self.pending = self.pending.max(self.held_back.len());
            if let Some(why) = self.unapplied().filter(|_| self.config.policy.mode != CleanupMode::Off) {
                text = format!("{why}; {text}");
            }
        }
        let tighter = tighter_mode(&read.config, &read.keys, problems, self.config.policy.mode);
        if let Some((mode, written)) = tighter {
            self.config.policy.mode = mode;
            self.keys.insert(MODE.to_owned(), written.clone());
            text = format!(
                "{MODE} is {written} from now on, since that is tighter than before; of the rest: {text}"
            );
        }
        self.tell_mode(told);
        tracing::error!("{text}");
        Reload { told: cut(text), live: (holds_back || tighter.is_some()).then(|| self.live(None)) }
    }

    /// The mistake of a file that gives no key where the one before gave some.
    fn emptied(&self, read: &Read) -> Option<Problems> {
        if !read.bare || read.keys == self.keys {
            return None;
        }
        let origin = read.origin.clone();
        let problem = Problem {
            key: origin.clone(),
            value: String::new(),
            reason: "gives no key at all, as a file that is being written does".to_owned(),
            remedy: "write what it is to say; for defaults alone, restart the agent".to_owned(),
        };
        Some(Problems { origin, list: vec![problem] })
    }

    /// Keys that bear on what goes and stand in `new` otherwise than they are in force.
    fn not_in_force(&self, new: &Config, changes: &Changes) -> Vec<String> {
        if bounds(new) == bounds(&self.config) {
            return Vec::new();
        }
        let keys: Vec<String> = changes.restart.iter().filter(|key| bears(key)).cloned().collect();
        match (keys.is_empty(), changes.restart.is_empty()) {
            (false, _) => keys,
            // A default that follows from another key.
            (true, false) => changes.restart.clone(),
            // The same name is another user.
            (true, true) => vec!["what cleanup.roots names".to_owned()],
        }
    }

    /// What is held back, in words.
    fn unapplied(&self) -> Option<String> {
        let named = self.held_back.get(..MAX_NAMED).unwrap_or(&self.held_back).join(", ");
        let s = match self.held_back.len() {
            0 => return None,
            1 => "s",
            _ => "",
        };
        let more = match self.held_back.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let until = if self.mistaken {
            "until the configuration's mistakes are mended"
        } else {
            "for a restart of the agent"
        };
        Some(format!("{named}{more} wait{s} {until}; until then cleanups are only planned"))
    }

    /// The mode that counts.
    fn mode(&self) -> CleanupMode {
        match self.config.policy.mode {
            CleanupMode::Auto if !self.held_back.is_empty() => CleanupMode::Plan,
            mode => mode,
        }
    }

    fn tell_mode(&self, told: &Told) {
        let now = self.mode();
        told.mode.send_if_modified(|mode| std::mem::replace(mode, now) != now);
    }

    fn live(&self, detect: Option<crate::detect::DetectConfig>) -> Live {
        Live {
            detect: detect.map(Box::new),
            evidence_every: self.config.evidence_every,
            mode: self.mode(),
            unapplied: self.unapplied(),
            pending_keys: self.pending as u64,
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

/// Whether `key` says what goes, how much of it, or by whose leave. The ballast is the agent's own room.
fn bears(key: &str) -> bool {
    let of_cleanup =
        key.strip_prefix("cleanup.").is_some_and(|rest| rest != "mode" && !rest.starts_with("ballast."));
    of_cleanup || ["node.host_root", "state.dir", "uplink.collector"].contains(&key)
}

/// What those keys come to, with defaults and what they name.
fn bounds(config: &Config) -> String {
    let policy = Policy { mode: CleanupMode::Plan, ..config.policy.clone() };
    let Config { images, breaker, preserve, without_collector, host_root, state_dir, collector, .. } = config;
    format!(
        "{policy:?}{images:?}{breaker:?}{preserve:?}{without_collector}{host_root:?}{state_dir:?}{collector:?}"
    )
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
mod tests;
