//! A configuration that is read again while a daemon runs: when, what changed by name, and how it went.
//!
//! It is read again on SIGHUP and when the file's bytes change. Bytes, not times: Kubernetes swaps a symbolic link of a
//! ConfigMap's folder, and a file that is written in place may keep its length. A configuration with mistakes changes
//! nothing; [`Outcome`] says so until it is mended.
//!
//! Limits: files that the configuration names (rules, certificates) are not looked at for that; those that can change by
//! themselves have watchers of their own. The environment of a process does not change.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::clock;
use crate::config::{Keys, MAX_CONFIG_BYTES};
use crate::health::Page;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Longest text that a record tells of mistakes; the log has them all.
const MAX_TOLD: usize = 4096;

type Seen = Option<[u8; 32]>;

/// A configuration file as it was when the daemon read it.
#[derive(Debug, Clone)]
pub struct Origin {
    path: Option<PathBuf>,
    seen: Seen,
}

impl Origin {
    /// Looks at `path`; call it before the file is read, so that what is written between is noticed. `None`: there is no
    /// file, and nothing ever changes.
    pub fn of(path: Option<&Path>) -> Self {
        Self { path: path.map(Path::to_owned), seen: path.and_then(digest) }
    }

    /// The file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

fn digest(path: &Path) -> Seen {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).ok()?;
    Some(Sha256::digest(&bytes).into())
}

/// Waits for the next reason to read the configuration again.
#[derive(Debug)]
pub struct Watcher {
    origin: Origin,
    hangup: Signal,
    tick: Interval,
}

impl Watcher {
    /// From what `origin` saw on.
    ///
    /// # Errors
    /// When the handler of SIGHUP cannot be installed.
    pub fn new(origin: Origin) -> io::Result<Self> {
        let mut tick = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { origin, hangup: signal(SignalKind::hangup())?, tick })
    }

    /// Returns when the configuration is to be read again, with the file to read if there is one.
    pub async fn next(&mut self) -> Option<PathBuf> {
        loop {
            let asked = tokio::select! {
                _ = self.hangup.recv() => true,
                _ = self.tick.tick(), if self.origin.path.is_some() => false,
            };
            let path = self.origin.path.clone()?;
            // A disk that does not answer must not hold everything else up.
            let seen = tokio::task::spawn_blocking(move || digest(&path)).await.unwrap_or_default();
            if std::mem::replace(&mut self.origin.seen, seen) != seen || asked {
                return self.origin.path.clone();
            }
        }
    }
}

/// How the configuration was read last; clones share it.
#[derive(Debug, Clone)]
pub struct Outcome(Arc<(AtomicBool, AtomicI64)>);

impl Default for Outcome {
    /// It was read now, for the start.
    fn default() -> Self {
        Self(Arc::new((AtomicBool::new(true), AtomicI64::new(clock::wall_ns()))))
    }
}

impl Outcome {
    /// It was read and is in force.
    pub fn good(&self) {
        self.0.0.store(true, Ordering::Relaxed);
        self.0.1.store(clock::wall_ns(), Ordering::Relaxed);
    }

    /// It has mistakes; the one before stays in force.
    pub fn bad(&self) {
        self.0.0.store(false, Ordering::Relaxed);
    }

    /// Writes both figures.
    ///
    /// # Errors
    /// None of its own: what the encoder says.
    pub fn export(&self, page: &mut Page<'_>) -> fmt::Result {
        let good = self.0.0.load(Ordering::Relaxed);
        let help = "0 while the configuration on disk has mistakes and the one before it is in force";
        page.flag("config_reload_success", help, good)?;
        let at = self.0.1.load(Ordering::Relaxed) as f64 / 1e9;
        page.gauge(
            "config_reload_timestamp_seconds",
            "When the configuration in force was read, Unix time",
            at,
        )
    }
}

/// What differs between two configurations, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that can be applied while the daemon runs.
    pub live: Vec<String>,
    /// Keys that need a restart.
    pub restart: Vec<String>,
}

impl Changes {
    /// Compares what is written in `old` and `new`; `live` are the keys and sections that can be applied.
    pub fn between(old: &Keys, new: &Keys, live: &[&str]) -> Self {
        let mut changes = Self::default();
        let gone = old.keys().filter(|k| !new.contains_key(*k));
        let mut keys: Vec<&String> =
            new.iter().filter(|(k, v)| old.get(*k) != Some(v)).map(|(k, _)| k).collect();
        keys.extend(gone);
        keys.sort();
        for key in keys {
            let within = |part: &&str| {
                key.strip_prefix(*part).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let into = if live.iter().any(within) { &mut changes.live } else { &mut changes.restart };
            into.push(key.clone());
        }
        changes
    }

    /// Takes what was applied over into `in_force`.
    pub fn apply(&self, in_force: &mut Keys, new: &Keys) {
        for key in &self.live {
            match new.get(key) {
                Some(value) => drop(in_force.insert(key.clone(), value.clone())),
                None => drop(in_force.remove(key)),
            }
        }
    }

    /// In words.
    pub fn told(&self) -> String {
        let list = |keys: &[String]| keys.join(", ");
        match (&self.live[..], &self.restart[..]) {
            ([], []) => "the configuration was read again; nothing changed".to_owned(),
            (live, []) => format!("the configuration was read again; applied: {}", list(live)),
            ([], restart) => format!("the configuration was read again; restart to apply: {}", list(restart)),
            (live, restart) => format!(
                "the configuration was read again; applied: {}; restart to apply: {}",
                list(live),
                list(restart)
            ),
        }
    }
}

/// That a new configuration has mistakes, in words.
pub fn rejected(problems: &crate::config::Problems) -> String {
    format!("the new configuration is not used, the old one stays in force: {problems}")
}

/// `text` as long as a record tells it.
pub fn cut(mut text: String) -> String {
    if text.len() > MAX_TOLD {
        text.truncate(text.floor_char_boundary(MAX_TOLD));
        text += "… (the log has all of it)";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> Keys {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn changes_are_told_by_key_and_what_needs_a_restart_is_told_until_it_came() {
        let mut in_force = keys(&[("a.x", "1"), ("b.y", "1"), ("c", "1")]);
        let new = keys(&[("a.x", "2"), ("b.y", "2"), ("b.z", "1"), ("ab.x", "1")]);
        let changes = Changes::between(&in_force, &new, &["a", "b.z"]);
        assert_eq!(changes.live, ["a.x", "b.z"]);
        assert_eq!(changes.restart, ["ab.x", "b.y", "c"]);
        changes.apply(&mut in_force, &new);
        let again = Changes::between(&in_force, &new, &["a", "b.z"]);
        assert_eq!((again.live.len(), again.restart), (0, changes.restart));
        assert!(Changes::default().told().contains("nothing changed"));
    }

    #[tokio::test]
    async fn a_swapped_link_is_noticed_and_the_same_bytes_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (folder, text) in [("one", "a: 1\n"), ("two", "a: 1\n"), ("three", "a: 2\n")] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("c.yaml"), text).unwrap();
        }
        let swap = |to: &str| {
            std::os::unix::fs::symlink(to, at("..tmp")).unwrap();
            std::fs::rename(at("..tmp"), at("..data")).unwrap();
        };
        swap("one");
        let file = at("..data").join("c.yaml");
        let mut watcher = Watcher::new(Origin::of(Some(&file))).unwrap();
        watcher.tick = tokio::time::interval(Duration::from_millis(1));
        swap("two");
        let quiet = tokio::time::timeout(Duration::from_millis(50), watcher.next()).await;
        assert!(quiet.is_err(), "the same bytes are no change");
        swap("three");
        let told = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.unwrap();
        assert_eq!(told, Some(file));
    }
}
