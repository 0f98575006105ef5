//! The way that a set of holds takes: in force here, with the executor, and on disk.
//!
//! A set is in force before it is durable: what was just held must not go while a disk is slow. The executor is told
//! over its own channel and looks for news before each object, and once more before it moves one, so that a hold that
//! comes between a plan and its deed wins. An executor that cannot be told is cut off: it stops at the next object, and
//! the one started in its place is told first.
//!
//! Deliberately absent: who may hold what, and what concerns this node (the collector decides that).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::aside::Aside;
use super::channel::Channel;
use super::hold::{HeldThing, Hold, HoldSet, NodeHold, resolve};
use super::hold_file;
use super::real_path::{find, real_paths};
use super::wire::{halt_request, held_request};

/// How long an executor that is busy may take to have room for the news: it looks between two objects, and the digest of
/// one takes a second on a slow disk.
const TELL_WAIT: Duration = Duration::from_secs(20);
/// Actions that were to end and are told to an executor that is started later; ids do not come again.
const MAX_HALTED: usize = 16;

/// What is held, and through which root the host is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldNow {
    /// The set.
    pub set: HoldSet,
    /// The host's root as this process sees it.
    pub host_root: PathBuf,
}

impl HeldNow {
    /// As places that are held, by a look at the filesystem of now, for as long as that takes: the executor may start no
    /// thread, and whoever waits for it has a bound.
    pub(super) fn resolved(&self) -> Vec<Hold> {
        resolve(&self.set, |path| Ok(real_paths(&self.host_root, path)))
    }

    /// As places that are held, by a look at the filesystem of now. A hold on what does not answer holds everything: a
    /// link may lead from there to anywhere.
    pub fn resolved_apart(&self, aside: &Aside) -> Vec<Hold> {
        resolve(&self.set, |path| {
            let (root, path) = (self.host_root.clone(), path.to_owned());
            aside.look(&path.clone(), move || real_paths(&root, &path))
        })
    }

    /// Holds on paths at which nothing is at this moment, by their ids. What cannot be looked at is not said to be gone.
    pub fn absent(&self, aside: &Aside) -> Vec<String> {
        let HoldSet::Known(holds) = &self.set else { return Vec::new() };
        let is_gone = |path: &Path| {
            let (root, path) = (self.host_root.clone(), path.to_owned());
            aside.look(&path.clone(), move || find(&root, &path)) == Ok(Ok(None))
        };
        let gone = |h: &&NodeHold| matches!(&h.what, HeldThing::Path(p) if is_gone(p));
        holds.iter().filter(gone).map(|h| h.id.clone()).collect()
    }
}

/// Keeps what is held. Clones share it.
#[derive(Debug, Clone)]
pub struct HoldLine {
    state_dir: PathBuf,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    now: HeldNow,
    halted: VecDeque<(String, String)>,
    executor: Option<Arc<Channel>>,
}

impl HoldLine {
    /// What the last run kept in `state_dir`; `host_root` is the host's root as this process sees it.
    pub fn open(state_dir: &Path, host_root: &Path) -> Self {
        let now = HeldNow { set: hold_file::read(state_dir), host_root: host_root.to_owned() };
        Self {
            state_dir: state_dir.to_owned(),
            inner: Arc::new(Mutex::new(Inner { now, halted: VecDeque::new(), executor: None })),
        }
    }

    /// What is held now.
    pub fn now(&self) -> HeldNow {
        self.lock().now.clone()
    }

    /// Puts `holds` in force in place of what was; `Ok` once that is durable too.
    ///
    /// # Errors
    /// Why it is in force but not durable.
    pub fn keep(&self, holds: Vec<NodeHold>) -> Result<(), String> {
        {
            let mut inner = self.lock();
            inner.now.set = HoldSet::Known(holds.clone());
            inner.tell();
        }
        hold_file::write(&self.state_dir, &holds)
    }

    /// Has `action` end before its next object, or not begin.
    pub fn halt(&self, action: String, why: String) {
        let mut inner = self.lock();
        if inner.halted.len() >= MAX_HALTED {
            inner.halted.pop_front();
        }
        inner.send(&halt_request(&action, &why));
        inner.halted.push_back((action, why));
    }

    /// Tells a newly started executor what is held, and from now on every change.
    pub(super) fn attach(&self, executor: Arc<Channel>) {
        let mut inner = self.lock();
        inner.executor = Some(executor);
        inner.tell();
        for (action, why) in inner.halted.clone() {
            inner.send(&halt_request(&action, &why));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&mut self) {
        let request = held_request(&self.now);
        self.send(&request);
    }

    fn send(&mut self, request: &[u8]) {
        let Some(executor) = &self.executor else { return };
        if let Err(error) = executor.send(request, Some(Instant::now() + TELL_WAIT)) {
            tracing::warn!(%error, "the executor could not be told what to leave alone; it is cut off and started again");
            executor.hang_up();
            self.executor = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_and_not_there_is_named() {
        let (host, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(host.path().join("var/log")).unwrap();
        std::os::unix::fs::symlink("/var/log", host.path().join("logs")).unwrap();
        let line = HoldLine::open(state.path(), host.path());
        let aside = Aside::new(Duration::from_secs(20));
        assert_eq!(line.now().absent(&aside), Vec::<String>::new(), "what is held is not known yet");
        let hold = |id: &str, what| NodeHold { id: id.to_owned(), what, reason: "court".to_owned() };
        let pod = HeldThing::Pod { namespace: "shop".to_owned(), pod: "api".to_owned() };
        line.keep(vec![
            hold("hold-1", HeldThing::Path("/logs".into())),
            hold("hold-2", HeldThing::Path("/logs/app.log".into())),
            hold("hold-3", pod),
            hold("hold-4", HeldThing::Node),
        ])
        .unwrap();
        assert_eq!(line.now().absent(&aside), ["hold-2"]);
        std::fs::write(host.path().join("var/log/app.log"), "").unwrap();
        assert_eq!(line.now().absent(&aside), Vec::<String>::new(), "it came");
    }
}
