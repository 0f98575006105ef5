//! The thread that walks the node's filesystems by itself, slowly, so that it is known which folders grow and since when.
//!
//! Each mount is crawled ([`super::crawl`]) once a round, and at once when somebody asks about it, as the core does when a
//! finding says that it fills. What is asked for goes first: a crawl under way is put aside and goes on afterwards where it was.
//! Everything it does is paid for by rests ([`Budget`]), and it runs in the idle classes of CPU and disk.
//!
//! Limits: [`MAX_MOUNTS`] mounts; the same one again no sooner than [`PAUSE`] after its last walk; filesystems that are served
//! from elsewhere, held in memory, or read-only are left out. What was learnt is not kept across restarts: growth is known from
//! the second walk on.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::clock;

use super::containers::layout;
use super::crawl::{Crawl, CrawlOptions, Step};
use super::growth::{At, Growth, Ledger};
use super::layout::{Layout, Owner};
use super::pace::{Budget, Paced, be_idle};
use super::place::{on_node, walked};
use crate::sample::{Pods, Roots, superblock};

/// Mounts that are walked; what is known of each is bounded too ([`super::growth::MAX_FOLDERS`]).
const MAX_MOUNTS: usize = 16;
/// Questions that wait.
const MAX_ASKED: usize = 16;
/// From the end of one walk of a mount to the next that is asked for.
const PAUSE: Duration = Duration::from_secs(30);
/// Entries of one step: a quarter of a millisecond of work on a warm cache.
pub(super) const STEP_ENTRIES: u64 = 200;

/// How the rounds are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoundsConfig {
    /// From the beginning of one round to that of the next.
    pub every: Duration,
    /// From the start to the first round: what begins together need not walk together.
    pub first_after: Duration,
    /// What all of it may take.
    pub budget: Budget,
}

/// What is known of a mount's folders since its newest walk.
#[derive(Debug, Clone, PartialEq)]
pub struct Grown {
    /// The mount.
    pub mount: String,
    /// When that walk began, ns since the epoch.
    pub walked_wall_ns: i64,
    /// What the whole mount grew by; `None`: it does not grow.
    pub whole: Option<Growth>,
    /// The folders that grow, most first, their paths the node's; `None`: it was walked once and nothing can be said.
    pub folders: Option<Vec<(Growth, Option<Owner>)>>,
}

/// The newest of each mount, for whoever asks.
#[derive(Debug, Clone, Default)]
pub struct Newest(Arc<Mutex<BTreeMap<String, Arc<Grown>>>>);

impl Newest {
    /// Of `mount`; `None`: it was not walked yet.
    pub fn of(&self, mount: &str) -> Option<Arc<Grown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(mount).cloned()
    }

    fn set(&self, grown: Arc<Grown>, mounts: &BTreeMap<String, Kept>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|mount, _| mounts.contains_key(mount));
        all.insert(grown.mount.clone(), grown);
    }
}

/// Where questions go.
#[derive(Debug, Clone)]
pub struct Nudge(SyncSender<String>);

impl Nudge {
    /// Has `mount` walked soon; false where too many questions wait already.
    pub fn ask(&self, mount: &str) -> bool {
        self.0.try_send(mount.to_owned()).is_ok()
    }
}

/// The thread's part.
#[derive(Debug)]
pub struct Rounds {
    asked: Receiver<String>,
    roots: Roots,
    config: RoundsConfig,
    newest: Newest,
}

/// What is kept of a mount.
#[derive(Debug, Default)]
struct Kept {
    ledger: Ledger,
    walked: Option<Instant>,
}

/// A walk that waits or is under way.
struct Turn {
    mount: String,
    /// With the node's clocks at its beginning.
    crawl: Option<(Crawl, dogwatch::record::Moment)>,
}

/// Rounds over the node at `roots`, and where to ask for one mount.
pub fn rounds(roots: Roots, config: RoundsConfig, newest: Newest) -> (Nudge, Rounds) {
    let (tx, asked) = sync_channel(MAX_ASKED);
    (Nudge(tx), Rounds { asked, roots, config, newest })
}

impl Rounds {
    /// Walks until nobody asks or listens any more; tells each walk that came to its end.
    pub fn run(self, mut told: impl FnMut(Arc<Grown>) -> bool) {
        be_idle();
        let mut pods = Pods::new(&self.roots.log);
        let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
        let mut turns: VecDeque<Turn> = VecDeque::new();
        let mut due = Instant::now() + self.config.first_after;
        let mut paced = Paced::begin(self.config.budget);
        loop {
            // Nothing to do until a round is due or somebody asks.
            if turns.is_empty() && !self.hear(due, true, &mut turns, &kept) {
                return;
            }
            if Instant::now() >= due {
                due = Instant::now() + self.config.every;
                self.begin_round(&mut turns, &mut kept);
            }
            let Some(turn) = turns.front_mut() else { continue };
            paced.wake();
            let (entries, is_over, grown) = match self.advance(turn, &mut kept, &mut pods) {
                Advance::Step => (STEP_ENTRIES, false, None),
                Advance::Over(grown) => (STEP_ENTRIES, true, grown),
            };
            if is_over {
                turns.pop_front();
            }
            if let Some(grown) = grown {
                let grown = Arc::new(grown);
                self.newest.set(Arc::clone(&grown), &kept);
                if !told(grown) {
                    return;
                }
            }
            let until = Instant::now() + paced.rest(entries);
            if !self.hear(until, false, &mut turns, &kept) {
                return;
            }
        }
    }

    /// Takes questions until `until`, or, where nothing else is to be done, until the first; false once nobody can ask any more.
    fn hear(
        &self,
        until: Instant,
        is_idle: bool,
        turns: &mut VecDeque<Turn>,
        kept: &BTreeMap<String, Kept>,
    ) -> bool {
        loop {
            match self.asked.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(mount) => {
                    let is_recent =
                        kept.get(&mount).and_then(|k| k.walked).is_some_and(|at| at.elapsed() < PAUSE);
                    match turns.iter().position(|t| t.mount == mount) {
                        // It is under way, or becomes the next.
                        Some(at) => {
                            if let Some(turn) = turns.remove(at) {
                                turns.push_front(turn);
                            }
                        }
                        None if is_recent || turns.len() >= MAX_MOUNTS + MAX_ASKED => {}
                        None => turns.push_front(Turn { mount, crawl: None }),
                    }
                    if is_idle && !turns.is_empty() {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn begin_round(&self, turns: &mut VecDeque<Turn>, kept: &mut BTreeMap<String, Kept>) {
        let mut mounts = walked(&self.roots);
        mounts.truncate(MAX_MOUNTS);
        kept.retain(|mount, _| mounts.contains(mount));
        for mount in mounts {
            // One that is still under way from the last round goes on.
            if turns.iter().all(|t| t.mount != mount) {
                turns.push_back(Turn { mount, crawl: None });
            }
        }
    }

    fn advance(&self, turn: &mut Turn, kept: &mut BTreeMap<String, Kept>, pods: &mut Pods) -> Advance {
        let (crawl, began) = match &mut turn.crawl {
            Some(under_way) => under_way,
            None => {
                let begun = on_node(&self.roots, &turn.mount).and_then(|place| {
                    Crawl::begin(&place, CrawlOptions::default()).map_err(|e| e.to_string())
                });
                match begun {
                    Ok(crawl) => turn.crawl.insert((crawl, clock::now())),
                    Err(why) => {
                        tracing::debug!(mount = turn.mount, why, "not walked");
                        return Advance::Over(None);
                    }
                }
            }
        };
        let usage = match crawl.step(STEP_ENTRIES) {
            Step::More => return Advance::Step,
            Step::Gone => return Advance::Over(None),
            Step::Done(usage) => usage,
        };
        if kept.len() >= MAX_MOUNTS && !kept.contains_key(&turn.mount) {
            return Advance::Over(None);
        }
        let now = clock::now();
        let middle_boot_ns = began.boot_ns.midpoint(now.boot_ns);
        let of = kept.entry(turn.mount.clone()).or_default();
        let is_first = of.ledger.last().is_none();
        let (told_bytes, _) = CrawlOptions::default().told.at(usage.root.bytes, usage.root.inodes);
        of.ledger.take(At { began_wall_ns: began.wall_ns, middle_boot_ns }, &usage.root, told_bytes);
        of.walked = Some(Instant::now());
        let grown = self.grown(&turn.mount, &usage.path, &of.ledger, began.wall_ns, is_first, pods);
        tracing::debug!(
            mount = turn.mount,
            entries = usage.entries,
            seconds = usage.took.as_secs_f64(),
            cpu_seconds = usage.cpu.as_secs_f64(),
            "walked"
        );
        Advance::Over(Some(grown))
    }

    fn grown(
        &self,
        mount: &str,
        place: &Path,
        ledger: &Ledger,
        walked_wall_ns: i64,
        is_first: bool,
        pods: &mut Pods,
    ) -> Grown {
        let growth = ledger.growth();
        // Whose what is, is looked up only where something grows: that costs more than all else here.
        let known = if growth.is_empty() {
            Layout::default()
        } else {
            pods.refresh(clock::now().boot_ns);
            let device = superblock::of_path(place).unwrap_or(0);
            layout(&self.roots, pods, device)
        };
        let at = |path: &PathBuf| Path::new(mount).join(path);
        let folders = growth.into_iter().map(|g| {
            let path = at(&g.path);
            let owner = known.of(&path);
            (Growth { path, ..g }, owner)
        });
        let whole = ledger.whole().map(|g| Growth { path: mount.into(), ..g });
        let folders: Vec<_> = folders.collect();
        Grown { mount: mount.to_owned(), walked_wall_ns, whole, folders: (!is_first).then_some(folders) }
    }
}

enum Advance {
    /// There is more of it.
    Step,
    /// It is over; what was learnt, if anything was.
    Over(Option<Grown>),
}

#[cfg(test)]
#[path = "rounds_tests.rs"]
mod tests;
