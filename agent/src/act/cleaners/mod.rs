//! Cleaners: one file for each kind of thing that a cleanup may remove.
//!
//! A [`Kind`] answers, for one root, which names it takes, what it demands of a file beyond its name and age, by which
//! clocks it reckons age, what makes a family of which the newest stay, where its root may lie, and why what it takes is
//! safe to remove. Survey, plan and executor ask the very same kind: the survey proposes, the executor asks again before
//! it removes, and a plan that names anything else removes nothing.
//!
//! To add one: a file here with a `Kind`, an arm in [`Cleaner::kind`]. Places that are otherwise out of reach are
//! excepted in `forbidden`, exactly, and nowhere else.
//!
//! Invariants: a kind looks, it never changes anything; what it cannot tell it refuses. The executor is confined to its
//! roots: what a kind must see outside them it opens in [`Ground::survey_of`], before that.
//!
//! Deliberately absent: whether a file is open (a lease answers that for every kind), holds, budgets, and removal.

mod absent;
mod rotated_logs;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::beneath::Facts;
use super::policy::{RootPolicy, RootRules};
pub use rotated_logs::{DEFAULT_PATTERNS, DEFAULT_SIBLING_PATTERNS};

/// What a root's cleaner removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaner {
    /// Logs that a rotation has put aside.
    #[default]
    RotatedLogs,
    /// Cores of processes that crashed, and kernel crash dumps.
    CoreDumps,
    /// What a package manager downloaded and downloads again by itself.
    PackageCaches,
    /// Files in `/tmp` and `/var/tmp` that nobody has used for long.
    TempFiles,
    /// Archived files of the systemd journal.
    JournalArchives,
    /// Logs of containers that are gone.
    DeadContainerLogs,
    /// What the configuration describes by pattern, age and owner.
    Custom,
    /// A log that is written to, cut to its tail.
    LiveLogs,
    /// Container images that nothing uses.
    Images,
}

impl Cleaner {
    /// Every cleaner.
    pub const ALL: [Self; 9] = [
        Self::RotatedLogs,
        Self::CoreDumps,
        Self::PackageCaches,
        Self::TempFiles,
        Self::JournalArchives,
        Self::DeadContainerLogs,
        Self::Custom,
        Self::LiveLogs,
        Self::Images,
    ];

    /// The word in configuration, plans and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RotatedLogs => "rotated-logs",
            Self::CoreDumps => "core-dumps",
            Self::PackageCaches => "package-caches",
            Self::TempFiles => "temp-files",
            Self::JournalArchives => "journal-archives",
            Self::DeadContainerLogs => "dead-container-logs",
            Self::Custom => "custom",
            Self::LiveLogs => "live-logs",
            Self::Images => "images",
        }
    }

    /// How it judges.
    pub(super) fn kind(self) -> &'static dyn Kind {
        match self {
            Self::RotatedLogs => &rotated_logs::RotatedLogs,
            Self::CoreDumps
            | Self::PackageCaches
            | Self::TempFiles
            | Self::JournalArchives
            | Self::DeadContainerLogs
            | Self::Custom
            | Self::LiveLogs
            | Self::Images => &absent::Absent,
        }
    }
}

impl std::str::FromStr for Cleaner {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|c| c.as_str() == word).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|c| c.as_str()).collect();
            format!("it is none of {}", words.join(", "))
        })
    }
}

/// How one cleaner judges. Every method is asked of one root, whose policy and compiled patterns it is given.
pub(super) trait Kind: Sync {
    /// Sets what a root of this kind has where the configuration says nothing.
    fn defaults(&self, root: &mut RootPolicy);

    /// Mistakes in a root of this kind, besides those that any root can have.
    fn mistakes(&self, _root: &RootPolicy) -> Vec<Mistake> {
        Vec::new()
    }

    /// What it takes by its name; `relative` is beneath the root.
    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken>;

    /// Names that stay although it would take them, whatever the configuration says.
    fn always_excluded(&self, _root: &RootPolicy) -> Vec<String> {
        ALWAYS_EXCLUDED.iter().map(|p| (*p).to_owned()).collect()
    }

    /// Why the folder at `relative` stays with all that lies beneath it.
    fn shuns(&self, _ground: &Ground, _relative: &Path) -> Option<String> {
        None
    }

    /// What it demands of a file that it takes and of what lies beside it, without opening it; why it stays, if it does.
    fn demand(&self, _look: &Look<'_>) -> Result<(), String> {
        Ok(())
    }

    /// What it demands of a file's content; why it stays, if it does. Asked only of a file that is old enough.
    fn demand_content(&self, _look: &Look<'_>, _file: &OwnedFd) -> Result<(), String> {
        Ok(())
    }

    /// The family that a name belongs to, of which the `keep_newest` newest in its folder stay.
    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8];

    /// What a family is called: "its log".
    fn family_word(&self) -> &'static str;

    /// Whether a database's marker in a folder keeps all that lies beneath it, not only what lies in it.
    fn keeps_away_from_databases(&self) -> bool {
        true
    }

    /// Why what it takes by `pattern` is safe to remove, in words; age and that nobody had it open are added.
    fn why_safe(&self, root: &RootPolicy, pattern: &str) -> String;
}

/// Never touched by most kinds, whatever the patterns say: locks, pid files, and files in the making.
pub const ALWAYS_EXCLUDED: &[&str] =
    &["*.lck", "*.lock", "*.pid", "*.tmp", "*.part", "*.swp", "*.journal", "*.wal"];

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// The pattern that took it.
    pub(super) pattern: String,
    /// The file that must lie beside it.
    pub(super) beside: Option<Vec<u8>>,
}

/// A mistake in a root's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The key beneath the root.
    pub(super) field: &'static str,
    /// What stands there.
    pub(super) value: String,
    /// What is wrong with it.
    pub(super) reason: String,
    /// What to write instead.
    pub(super) remedy: String,
}

/// A file that a kind is to judge.
pub(super) struct Look<'a> {
    pub(super) rules: &'a RootRules,
    pub(super) ground: &'a Ground,
    /// Beneath the root.
    pub(super) relative: &'a Path,
    /// The folder that it lies in, open.
    pub(super) folder: &'a OwnedFd,
    pub(super) facts: &'a Facts,
}

/// What is known of the surroundings of a root, looked up before the executor is confined.
#[derive(Debug, Default)]
pub(super) struct Ground {
    /// Whether reading a file there moves its access time (`relatime` does, `noatime` does not).
    pub(super) access_times: bool,
}

impl Ground {
    /// Looks around the open `folder` of a root.
    pub(super) fn survey_of(_root: &RootPolicy, folder: &OwnedFd) -> Self {
        let flags = rustix::fs::fstatvfs(folder).map(|s| s.f_flag);
        let still = rustix::fs::StatVfsMountFlags::NOATIME | rustix::fs::StatVfsMountFlags::RDONLY;
        Self { access_times: flags.is_ok_and(|f| !f.intersects(still)) }
    }

    /// The access time of a file, where it says anything.
    pub(super) fn accessed_ns(&self, facts: &Facts) -> Option<i64> {
        self.access_times.then_some(facts.atime_ns)
    }
}

/// A root that a kind ships with, for `path`.
pub(super) fn root_of_kind(cleaner: Cleaner, path: PathBuf) -> RootPolicy {
    let mut root = RootPolicy { path, cleaner, ..RootPolicy::default() };
    cleaner.kind().defaults(&mut root);
    root
}
