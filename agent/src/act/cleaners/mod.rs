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
mod contents;
mod core_dumps;
mod custom;
mod dead_container_logs;
mod journal_archives;
mod live_logs;
mod locks;
mod names;
mod package_caches;
mod private;
mod rotated_logs;
mod temp_files;
#[cfg(test)]
mod tests;
mod tmpfiles;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::beneath::Facts;
use super::pods_here::Pods;
use super::policy::{RootPolicy, RootRules};
pub use core_dumps::CORE_PATTERNS;
use locks::Locks;
pub use names::{ALWAYS_EXCLUDED, NEVER_NAMES};
pub(super) use names::{bare, is_logs};
pub use private::PRIVATE;
pub(super) use private::{why_kept, why_private};
pub use rotated_logs::{DEFAULT_PATTERNS, DEFAULT_SIBLING_PATTERNS};
use tmpfiles::Tmpfiles;

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
            Self::CoreDumps => &core_dumps::CoreDumps,
            Self::PackageCaches => &package_caches::PackageCaches,
            Self::TempFiles => &temp_files::TempFiles,
            Self::JournalArchives => &journal_archives::JournalArchives,
            Self::DeadContainerLogs => &dead_container_logs::DeadContainerLogs,
            Self::Custom => &custom::Custom,
            Self::LiveLogs => &live_logs::LiveLogs,
            Self::Images => &absent::Absent,
        }
    }
}

impl std::str::FromStr for Cleaner {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|c| c.as_str() == word).ok_or_else(|| {
            let of_roots = Self::ALL.iter().filter(|c| **c != Self::Images);
            let words: Vec<&str> = of_roots.map(|c| c.as_str()).collect();
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

    /// Whether copies of what is called as in [`NEVER_NAMES`] stay too, whatever was appended to their names.
    fn keeps_copies(&self) -> bool {
        false
    }

    /// Whether what it takes was renamed to what it is called, and is again and again, so that a change of the inode says nothing
    /// of the content.
    fn is_renamed(&self, _root: &RootPolicy) -> bool {
        false
    }

    /// Why the open `folder` at `relative` stays with all that lies beneath it.
    fn shuns(&self, _ground: &Ground, _folder: &OwnedFd, relative: &Path) -> Option<String> {
        private::why_private(relative)
    }

    /// What it demands of a file that it takes and of what lies beside it, without opening it; why it stays, if it does.
    fn demand(&self, _look: &Look<'_>) -> Result<(), String> {
        Ok(())
    }

    /// What it demands of a file's content; why it stays, if it does. Asked only of a file that is old enough. A kind that
    /// does not know what its files begin with leaves those that begin as a database, a disk image or a key.
    fn demand_content(&self, _look: &Look<'_>, file: &OwnedFd) -> Result<(), String> {
        contents::demand_nothing_precious(file)
    }

    /// Whether what it takes stays under its name and is cut, instead of removed.
    fn cuts(&self) -> bool {
        false
    }

    /// The family that a name belongs to, of which the `keep_newest` newest in its folder stay.
    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8];

    /// What a family is called: "its log".
    fn family_word(&self) -> &'static str;

    /// Why what it takes by `pattern` is safe to remove, in words; age and that nobody had it open are added.
    fn why_safe(&self, root: &RootPolicy, pattern: &str) -> String;
}

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
    /// Which pods are here, for the kind that asks.
    pub(super) pods: Option<Pods>,
    /// The root's folder.
    pub(super) folder: Option<OwnedFd>,
    /// Who has locked what on this node.
    pub(super) locks: Locks,
    /// What `tmpfiles.d` names there; read for temp files only.
    pub(super) tmpfiles: Tmpfiles,
}

impl Ground {
    /// Looks around the open `folder` of a root.
    pub(super) fn survey_of(root: &RootPolicy, folder: &OwnedFd) -> Self {
        let flags = rustix::fs::fstatvfs(folder).map(|s| s.f_flag);
        let still = rustix::fs::StatVfsMountFlags::NOATIME | rustix::fs::StatVfsMountFlags::RDONLY;
        let access_times = flags.is_ok_and(|f| !f.intersects(still));
        let ground = Self { access_times, ..Self::default() };
        match root.cleaner {
            Cleaner::PackageCaches => {
                let folder = folder.try_clone().ok();
                Self { folder, locks: Locks::open(Path::new("/proc")), ..ground }
            }
            Cleaner::TempFiles => {
                let tmpfiles = Tmpfiles::read(&root.host_root, &host_path(root));
                Self { tmpfiles, ..ground }
            }
            Cleaner::DeadContainerLogs => Self { pods: Some(Pods::open(root)), ..ground },
            _ => ground,
        }
    }

    /// The access time of a file, where it says anything.
    pub(super) fn accessed_ns(&self, facts: &Facts) -> Option<i64> {
        self.access_times.then_some(facts.atime_ns)
    }
}

/// Where the root lies as the host calls it.
fn host_path(root: &RootPolicy) -> PathBuf {
    root.path
        .strip_prefix(&root.host_root)
        .map_or_else(|_| root.path.clone(), |rest| Path::new("/").join(rest))
}

/// A mistake if the root has other patterns than those that its kind knows.
fn names_are_fixed(root: &RootPolicy, known: &[&str]) -> Vec<Mistake> {
    let lists = [("patterns", &root.patterns, known), ("sibling_patterns", &root.sibling_patterns, &[])];
    let differing = lists.into_iter().filter(|(_, have, known)| have != known);
    differing
        .map(|(field, have, _)| Mistake {
            field,
            value: format!("{have:?}"),
            reason: format!("{} knows its names", root.cleaner.as_str()),
            remedy: "leave the key out, or use cleaner: custom".to_owned(),
        })
        .collect()
}

/// A root that a kind ships with, for `path`.
pub(super) fn root_of_kind(cleaner: Cleaner, path: PathBuf) -> RootPolicy {
    let mut root = RootPolicy { path, cleaner, ..RootPolicy::default() };
    cleaner.kind().defaults(&mut root);
    root
}

/// The mistake of giving patterns to a kind that knows its files by itself.
fn no_patterns(root: &RootPolicy, why: &str) -> Vec<Mistake> {
    let lists = [("patterns", &root.patterns), ("sibling_patterns", &root.sibling_patterns)];
    let given = lists.into_iter().filter(|(_, globs)| !globs.is_empty());
    given
        .map(|(field, globs)| Mistake {
            field,
            value: format!("{globs:?}"),
            reason: format!("{why}, and this cleaner knows the names"),
            remedy: "leave it out; excludes narrow it".to_owned(),
        })
        .collect()
}
