//! Ballast: room that the agent holds to give it up first, when there is none left on the filesystem of its own state.
//!
//! Two weights in the folder `ballast` of the state folder: a file of [`BallastConfig::bytes`] that is allocated and
//! never written, and [`BallastConfig::inodes`] empty files. With them gone the agent, the executor's quarantines and
//! whoever else writes there has that much to go on with, at once, before a cleanup has surveyed anything.
//!
//! ```text
//! core ── look ─→ Keeper (thread `ballast`) ── statvfs ─→ Scale (pure) ── give up / make ─→ Hold (files)
//! core ←─ told: what is held, what was done and why ──┘
//! ```
//!
//! Invariants
//! - A weight is given up when less is available than it holds; that needs no record first, since it destroys nothing, and
//!   where a filesystem copies on write the record may need the very room. The core records it right after.
//! - It is made again only after the filesystem has stayed below its low-water mark, the weight counted, for
//!   [`BallastConfig::again_after`]; at a start where it would not cross the high-water mark. Never else.
//! - No action is applied before the keeper had a look at that moment, so that no cleanup counts the ballast's room as its
//!   own and nothing else goes before it.
//! - What is told to be held was measured: a filesystem that compresses holds less than was asked for.
//!
//! Limits: where blocks are shared (btrfs and ZFS snapshots) what is given up comes back when the last snapshot of it goes;
//! neither zeros nor NOCOW change that, and the node says so. There is one ballast, on the filesystem of the state folder:
//! a cleanup needs no room on any other, since its quarantine is made when the executor starts.
//!
//! Deliberately absent: any part in what a cleanup is said to have freed.

mod hold;
mod scale;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use dogwatch::clock;
use rustix::fs::StatVfs;

use crate::act::words;
use hold::Hold;
pub use hold::{FOLDER, is_ours};
pub use scale::{Marks, Room, Weights};
use scale::{Order, Scale};

/// Filesystems that copy on write, by `statfs.f_type` (statfs(2), ZFS: its own `ZFS_SUPER_MAGIC`).
const COPY_ON_WRITE: [(u64, &str); 3] =
    [(0x9123_683E, "btrfs"), (0x2FC1_2FC1, "zfs"), (0xCA45_1A4E, "bcachefs")];

/// How much ballast is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BallastConfig {
    /// Bytes; 0: none.
    pub bytes: u64,
    /// Inodes; 0: none.
    pub inodes: u64,
    /// For how long the filesystem must have stayed below its low-water mark before ballast is made again.
    pub again_after: Duration,
}

/// Most inodes that may be held: their names must fit a block or two.
pub const MAX_INODES: u64 = 1_000;

impl Default for BallastConfig {
    /// 64 MiB: a minute of a log that grows by 1 MB/s, and no node misses it. 64 inodes: more than agent and executor ever
    /// make at once.
    fn default() -> Self {
        Self { bytes: 64 << 20, inodes: 64, again_after: Duration::from_secs(600) }
    }
}

/// What the keeper is asked.
#[derive(Debug)]
pub enum Ask {
    /// Look at the filesystem, do what follows, and tell under this number.
    Look(u64),
    /// The thresholds are these from now on.
    Marks(Marks),
}

/// How the ballast is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Which look this comes of; 0: the start.
    pub look: u64,
    /// The filesystem that it lies on, as the table of mounts numbers it.
    pub device: u64,
    /// What is held now, measured.
    pub held: Weights,
    /// What is wanted and not held: it will be taken again when there is room.
    pub owed: Weights,
    /// What was done, in words, for the record; `None`: nothing.
    pub said: Option<String>,
    /// Times that a weight was given up since the start.
    pub given_up: u64,
    /// What is not as configured, in words that follow "cannot".
    pub unable: Option<String>,
}

/// The owner of the ballast.
#[derive(Debug)]
pub struct Keeper {
    hold: Hold,
    scale: Scale,
    told: Told,
    why_missing: Option<String>,
}

impl Keeper {
    /// Takes up what lies in `state_dir`, and makes what is missing where that leaves the filesystem below its high-water
    /// mark. What cannot be made is told, never an error: the agent works without.
    pub fn open(state_dir: &Path, config: BallastConfig, marks: Marks) -> Self {
        let hold = Hold::new(state_dir);
        let wanted = Weights { bytes: config.bytes, inodes: config.inodes };
        let again_after = u64::try_from(config.again_after.as_nanos()).unwrap_or(u64::MAX);
        let mut keeper = Self {
            scale: Scale::new(wanted, marks, again_after),
            told: Told { device: hold.device(), ..Told::default() },
            hold,
            why_missing: None,
        };
        keeper.hold.shrink_to(wanted);
        if let Some(room) = keeper.room() {
            keeper.scale.holds(keeper.hold.measure());
            let orders = keeper.scale.begin(&room);
            keeper.carry_out(&orders, &room);
            if orders.is_empty() && keeper.scale.owes().any() {
                keeper.why_missing = Some(format!(
                    "{} available, {} inodes free: taking it would bring the filesystem over its high-water mark",
                    words::bytes(room.available_bytes),
                    room.inodes_free
                ));
            }
        }
        keeper.tell();
        keeper
    }

    /// How it is; what was said is said once.
    pub fn told(&mut self) -> Told {
        let told = self.told.clone();
        self.told.said = None;
        told
    }

    /// Answers until the sender of questions is gone.
    pub fn run(mut self, asks: &Receiver<Ask>, mut tell: impl FnMut(Told) -> bool) {
        while let Ok(ask) = asks.recv() {
            match ask {
                Ask::Marks(marks) => self.scale.set_marks(marks),
                Ask::Look(number) => {
                    self.look();
                    self.told.look = number;
                    if !tell(self.told()) {
                        break;
                    }
                }
            }
        }
    }

    fn look(&mut self) {
        let Some(room) = self.room() else { return };
        let orders = self.scale.weigh(&room, clock::now().boot_ns);
        self.carry_out(&orders, &room);
        self.tell();
    }

    fn carry_out(&mut self, orders: &[Order], room: &Room) {
        let mut said = Vec::new();
        for order in orders {
            match order {
                Order::GiveUp(what) => {
                    let before = self.hold.measure();
                    let result = self.hold.give_up(*what);
                    let after = self.hold.measure();
                    self.scale.holds(after);
                    let gone = before.without(after);
                    if gone.any() {
                        self.told.given_up += 1;
                        said.push(format!(
                            "gave up {} of ballast in {}",
                            gone.said(),
                            self.hold.path().display()
                        ));
                        self.why_missing = Some("it was given up when there was no room".to_owned());
                    }
                    if let Err(error) = result {
                        tracing::warn!(%error, "ballast could not be given up");
                    }
                }
                Order::Make(what) => {
                    let before = self.hold.measure();
                    let result = self.hold.make(*what);
                    let after = self.hold.measure();
                    self.scale.holds(after);
                    let new = after.without(before);
                    if new.any() {
                        said.push(format!(
                            "took {} as ballast in {}",
                            new.said(),
                            self.hold.path().display()
                        ));
                    }
                    self.why_missing = match result {
                        Ok(()) if self.scale.owes().any() => {
                            Some("the filesystem takes less room for it than was asked for".to_owned())
                        }
                        Ok(()) => None,
                        Err(error) => Some(error.to_string()),
                    };
                }
            }
        }
        if !said.is_empty() {
            let said = format!(
                "{}: {} were available and {} inodes free",
                said.join(", "),
                words::bytes(room.available_bytes),
                room.inodes_free
            );
            tracing::info!("{said}");
            self.told.said = Some(said);
        }
    }

    fn tell(&mut self) {
        let (held, owed) = (self.hold.measure(), self.scale.owes());
        self.told.held = held;
        self.told.owed = owed;
        self.told.unable = if owed.any() {
            let why = self.why_missing.as_deref().unwrap_or("it is taken when there is room");
            Some(format!("hold all of its ballast, {} are missing: {why}", owed.said()))
        } else {
            self.hold.copies_on_write().filter(|_| held.any()).map(|fs| {
                format!("be sure of its ballast: on {fs} what is given up comes back only when no snapshot holds it")
            })
        };
    }

    fn room(&self) -> Option<Room> {
        match self.hold.statvfs() {
            Ok(v) => Some(room_of(&v)),
            Err(error) => {
                tracing::debug!(%error, "the room around the ballast is not known");
                None
            }
        }
    }
}

fn room_of(v: &StatVfs) -> Room {
    Room {
        total_bytes: v.f_blocks.saturating_mul(v.f_frsize),
        available_bytes: v.f_bavail.saturating_mul(v.f_frsize),
        inodes_total: v.f_files,
        inodes_free: v.f_ffree,
    }
}

/// The folder of the ballast in `state_dir`.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks =
        Marks { high_available: 0.15, low_available: 0.20, high_inodes: 0.15, low_inodes: 0.20 };

    #[test]
    fn a_start_takes_it_another_finds_it_and_smaller_wishes_shrink_it() {
        let temp = tempfile::tempdir().unwrap();
        // Whatever this disk has left: the marks are out of the way.
        let never = Marks { high_available: 0.0, low_available: 0.0, high_inodes: 0.0, low_inodes: 0.0 };
        let config = BallastConfig { bytes: 1 << 20, inodes: 5, again_after: Duration::ZERO };
        let told = Keeper::open(temp.path(), config, never).told();
        assert_eq!(told.held, Weights { bytes: 1 << 20, inodes: 5 }, "{told:?}");
        assert!(told.said.unwrap().contains("1.0 MiB and 5 inodes") && told.unable.is_none());

        let again = Keeper::open(temp.path(), config, never).told();
        assert_eq!((again.held, again.said), (told.held, None));
        let less = BallastConfig { bytes: 512 << 10, inodes: 2, ..config };
        assert_eq!(
            Keeper::open(temp.path(), less, never).told().held,
            Weights { bytes: 512 << 10, inodes: 2 }
        );
        let none = BallastConfig { bytes: 0, inodes: 0, ..config };
        assert_eq!(Keeper::open(temp.path(), none, never).told().held, Weights::default());
        assert!(!folder(temp.path()).exists());
    }

    #[test]
    fn a_start_that_would_cross_the_high_mark_takes_none_and_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let config = BallastConfig { bytes: 1 << 60, inodes: 0, again_after: Duration::ZERO };
        let told = Keeper::open(temp.path(), config, MARKS).told();
        assert_eq!((told.held, told.said), (Weights::default(), None));
        let unable = told.unable.unwrap();
        assert!(unable.contains("over its high-water mark"), "{unable}");
        assert!(!folder(temp.path()).exists(), "nothing is left of an attempt that was not made");
    }
}
