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
use super::images::IMAGE_PLACE;
use super::real_path::{CleanupRoots, Mounts, Sight, is_absent, real_paths};
use super::wire::{halt_request, held_request};
use crate::record::was_started;

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
    /// As places that are held, by a look at the filesystem of now. The executor may start no thread that could be left
    /// behind; nothing of what a server stands behind is touched, but where it cleans. While nobody can tell what is mounted,
    /// everything is held.
    pub(super) fn resolved(&self, mounts: &Mounts) -> Vec<Hold> {
        let sight = mounts.read();
        if let Some(why) = sight.untold() {
            return vec![Hold::unknown(why)];
        }
        sight.spread(resolve(&self.set, |path| Ok(real_paths(&self.host_root, path, &sight))))
    }

    /// The same with a bound of time, since a disk of this machine's may not answer either: a hold on one holds
    /// everything, for a link may lead from there to anywhere.
    pub fn resolved_apart(&self, roots: &CleanupRoots, aside: &Aside) -> Vec<Hold> {
        let sight: Arc<Sight> = Mounts::open(roots.clone()).read().into();
        if let Some(why) = sight.untold() {
            return vec![Hold::unknown(why)];
        }
        let holds = resolve(&self.set, |path| {
            let (root, path, sight) = (self.host_root.clone(), path.to_owned(), Arc::clone(&sight));
            aside.look(&path.clone(), move || real_paths(&root, &path, &sight))
        });
        sight.spread(holds)
    }

    /// Holds on paths at which nothing is at this moment, by their ids. What cannot be looked at is not said to be gone.
    pub fn absent(&self, roots: &CleanupRoots, aside: &Aside) -> Vec<String> {
        let HoldSet::Known(holds) = &self.set else { return Vec::new() };
        let sight: Arc<Sight> = Mounts::open(roots.clone()).read().into();
        if sight.untold().is_some() {
            return Vec::new();
        }
        let is_gone = |path: &Path| {
            let (root, path, sight) = (self.host_root.clone(), path.to_owned(), Arc::clone(&sight));
            aside.look(&path.clone(), move || is_absent(&root, &path, &sight)) == Ok(true)
        };
        // Images lie beneath no path of the host's.
        let gone = |h: &&NodeHold| matches!(&h.what, HeldThing::Path(p) if !p.starts_with(IMAGE_PLACE) && is_gone(p));
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
    /// Whether the set would survive a restart.
    durable: bool,
    halted: VecDeque<(String, String)>,
    /// The children that remove things.
    told: Vec<Arc<Channel>>,
}

impl HoldLine {
    /// What the last run kept in `state_dir`; `host_root` is the host's root as this process sees it.
    pub fn open(state_dir: &Path, host_root: &Path) -> Self {
        Self::of(hold_file::read(state_dir, false), state_dir, host_root)
    }

    /// The same of a node that a collector tells what is held: in a state folder that was in use a file that is gone was
    /// lost, and nobody knows what is held.
    pub fn open_told(state_dir: &Path, host_root: &Path) -> Self {
        Self::of(hold_file::read(state_dir, was_started(state_dir)), state_dir, host_root)
    }

    fn of(set: HoldSet, state_dir: &Path, host_root: &Path) -> Self {
        let now = HeldNow { set, host_root: host_root.to_owned() };
        Self {
            state_dir: state_dir.to_owned(),
            inner: Arc::new(Mutex::new(Inner {
                now,
                // Nothing is let go of before somebody said in this run what is held: the file may have been lost.
                durable: false,
                halted: VecDeque::new(),
                told: Vec::new(),
            })),
        }
    }

    /// Takes room for what will be held, so that it can be kept on a full disk.
    ///
    /// # Errors
    /// Why there is none; what is held is then kept as long as there is room at that moment.
    pub fn reserve(&self) -> Result<(), String> {
        hold_file::reserve(&self.state_dir, &self.now().set)
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
            inner.durable = false;
            inner.tell();
        }
        let kept = hold_file::write(&self.state_dir, &holds);
        let mut inner = self.lock();
        // Another set may have come meanwhile.
        inner.durable |= kept.is_ok() && inner.now.set == HoldSet::Known(holds);
        kept
    }

    /// Whether what is not held any more is durably not held.
    pub fn is_durable(&self) -> bool {
        let inner = self.lock();
        inner.durable && matches!(inner.now.set, HoldSet::Known(_))
    }

    /// Has `action` end before its next object, or not begin.
    pub fn halt(&self, action: String, why: String) {
        let mut inner = self.lock();
        if inner.halted.iter().any(|(known, _)| *known == action) {
            return;
        }
        if inner.halted.len() >= MAX_HALTED {
            inner.halted.pop_front();
        }
        inner.send(&halt_request(&action, &why));
        inner.halted.push_back((action, why));
    }

    /// Tells a newly started child that removes things what is held and what ends, and from now on every change.
    pub(super) fn attach(&self, child: Arc<Channel>) {
        let mut inner = self.lock();
        inner.told.retain(|c| !c.is_closed());
        let stops = inner.halted.iter().map(|(action, why)| halt_request(action, why));
        let all = std::iter::once(held_request(&inner.now)).chain(stops);
        let heard = all.into_iter().all(|request| told(&child, &request));
        if heard {
            inner.told.push(child);
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
        self.told.retain(|child| !child.is_closed() && told(child, request));
    }
}

/// Tells `child`, or cuts it off: it removes nothing then, and another one is started.
fn told(child: &Channel, request: &[u8]) -> bool {
    let told = child.send(request, Some(Instant::now() + TELL_WAIT));
    if let Err(error) = &told {
        tracing::warn!(%error, "a child could not be told what to leave alone; it is cut off and started again");
        child.hang_up();
    }
    told.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_holds_that_was_lost_holds_everything_and_the_first_start_makes_one() {
        let state = tempfile::tempdir().unwrap();
        let (dir, root) = (state.path(), Path::new("/"));
        let known = |line: &HoldLine| matches!(&line.now().set, HoldSet::Known(holds) if holds.is_empty());
        let first = HoldLine::open_told(dir, root);
        assert!(known(&first), "a new folder has nothing to be in doubt about");
        first.reserve().unwrap();
        crate::record::Slots::open(&dir.join("starts")).unwrap().0.write(&1_u64.to_le_bytes()).unwrap();
        assert!(known(&HoldLine::open_told(dir, root)), "nothing was held, and that was kept");
        std::fs::remove_file(dir.join(hold_file::HOLDS_FILE)).unwrap();
        assert!(known(&HoldLine::open(dir, root)), "nobody could have held anything");
        let lost = HoldLine::open_told(dir, root);
        assert!(!known(&lost), "{lost:?}");
        lost.reserve().unwrap();
        assert!(!known(&HoldLine::open_told(dir, root)), "and the start after that is in doubt too");
        lost.keep(Vec::new()).unwrap();
        assert!(known(&HoldLine::open_told(dir, root)));
    }

    #[test]
    fn what_is_held_and_not_there_is_named() {
        let (host, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(host.path().join("var/log")).unwrap();
        std::os::unix::fs::symlink("/var/log", host.path().join("logs")).unwrap();
        let line = HoldLine::open(state.path(), host.path());
        let aside = Aside::new(Duration::from_secs(20));
        assert_eq!(
            line.now().absent(&CleanupRoots::default(), &aside),
            Vec::<String>::new(),
            "what is held is not known yet"
        );
        let hold = |id: &str, what| NodeHold { id: id.to_owned(), what, reason: "court".to_owned() };
        let pod = HeldThing::Pod { namespace: "shop".to_owned(), pod: "api".to_owned() };
        line.keep(vec![
            hold("hold-1", HeldThing::Path("/logs".into())),
            hold("hold-2", HeldThing::Path("/logs/app.log".into())),
            hold("hold-3", pod),
            hold("hold-4", HeldThing::Node),
        ])
        .unwrap();
        assert_eq!(line.now().absent(&CleanupRoots::default(), &aside), ["hold-2"]);
        std::fs::write(host.path().join("var/log/app.log"), "").unwrap();
        assert_eq!(line.now().absent(&CleanupRoots::default(), &aside), Vec::<String>::new(), "it came");
    }
}
