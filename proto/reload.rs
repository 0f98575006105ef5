//! A configuration that is read again while a daemon runs: when, what changed by name, and how it went.
//!
//! It is read again on SIGHUP and when the file's bytes change, which are looked at where its inode or its time of change
//! is another. Bytes, not times alone: Kubernetes swaps a symbolic link of a ConfigMap's folder, and a file that is written
//! in place may keep its length. A configuration with mistakes changes nothing; [`Outcome`] says so until it is mended.
//!
//! Limits: files that the configuration names (rules, certificates) are not looked at for that; those that can change by
//! themselves have watchers of their own. The environment of a process does not change.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::clock;
use crate::config::{Keys, MAX_CONFIG_BYTES};
use crate::health::Page;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// It reads a file and digests it.
const STACK_BYTES: usize = 128 << 10;
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
///
/// A thread of its own, `config`, looks at the file: a disk that does not answer holds nothing else up, and a runtime with
/// nothing else to do sleeps on.
#[derive(Debug)]
pub struct Watcher {
    path: Option<PathBuf>,
    seen: Arc<Mutex<Seen>>,
    hangup: Signal,
    changed: Arc<Notify>,
    /// The thread ends when this does.
    _looking: Option<Sender<()>>,
}

impl Watcher {
    /// From what `origin` saw on.
    ///
    /// # Errors
    /// When the handler of SIGHUP cannot be installed, or the thread not be started.
    pub fn new(origin: Origin) -> io::Result<Self> {
        Self::looking_every(LOOK_EVERY, origin)
    }

    fn looking_every(pause: Duration, origin: Origin) -> io::Result<Self> {
        let Origin { path, seen } = origin;
        let (seen, changed) = (Arc::new(Mutex::new(seen)), Arc::new(Notify::new()));
        let hangup = signal(SignalKind::hangup())?;
        let Some(file) = path.clone() else {
            return Ok(Self { path, seen, hangup, changed, _looking: None });
        };
        let (looking, ended) = channel::<()>();
        let (known, news) = (Arc::clone(&seen), Arc::clone(&changed));
        let look = move || {
            let mut stamp = None;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let now = Stamp::of(&file);
                if now.is_some() && now == stamp {
                    continue;
                }
                stamp = now.filter(Stamp::is_settled);
                if replace(&known, digest(&file)) {
                    news.notify_one();
                }
            }
        };
        std::thread::Builder::new().name("config".to_owned()).stack_size(STACK_BYTES).spawn(look)?;
        Ok(Self { path, seen, hangup, changed, _looking: Some(looking) })
    }

    /// Returns when the configuration is to be read again, with the file to read if there is one.
    pub async fn next(&mut self) -> Option<PathBuf> {
        tokio::select! {
            _ = self.hangup.recv() => {}
            () = self.changed.notified() => return self.path.clone(),
        }
        let (path, seen) = (self.path.clone()?, Arc::clone(&self.seen));
        // What is read for whoever asked is no news to the thread.
        let look = move || replace(&seen, digest(&path));
        let _ = tokio::task::spawn_blocking(look).await;
        self.path.clone()
    }
}

/// What tells that a file cannot have changed: every write moves the time of change, and a link that was swapped leads to
/// another inode.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let m = std::fs::metadata(path).ok()?;
        Some(Self { file: (m.dev(), m.ino()), bytes: m.len(), changed: (m.ctime(), m.ctime_nsec()) })
    }

    /// Whether a write from now on gets another time: a filesystem's have a grain, of 2 s at most.
    fn is_settled(&self) -> bool {
        let now_s = clock::wall_ns().div_euclid(1_000_000_000);
        now_s.saturating_sub(self.changed.0) > 2
    }
}

/// Whether what is `now` is not what was `known`.
fn replace(known: &Mutex<Seen>, now: Seen) -> bool {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::replace(&mut *known, now) != now
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
        let mut watcher = Watcher::looking_every(Duration::from_millis(1), Origin::of(Some(&file))).unwrap();
        swap("two");
        let quiet = tokio::time::timeout(Duration::from_millis(50), watcher.next()).await;
        assert!(quiet.is_err(), "the same bytes are no change");
        swap("three");
        let told = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.unwrap();
        assert_eq!(told, Some(file));
    }
}
