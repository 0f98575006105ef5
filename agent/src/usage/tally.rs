//! What a walk found: sums by folder, and the largest files.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// A folder with all beneath it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Folder {
    /// Its name in its parent; the root's is empty.
    pub name: OsString,
    /// Allocated for it and all beneath it.
    pub bytes: u64,
    /// Itself and all beneath it.
    pub inodes: u64,
    /// The folders in it that are told by themselves, largest first.
    pub folders: Vec<Folder>,
    /// How many others lie in it.
    pub small_folders: u64,
    /// What is allocated for those.
    pub small_folders_bytes: u64,
    /// Their inodes.
    pub small_folders_inodes: u64,
}

impl Folder {
    /// Sums up every folder that has less than both, at any depth, in its parent.
    pub fn fold(&mut self, smallest_bytes: u64, smallest_inodes: u64) {
        let mut folders = std::mem::take(&mut self.folders);
        folders.retain_mut(|child| {
            if child.bytes >= smallest_bytes || child.inodes >= smallest_inodes {
                child.fold(smallest_bytes, smallest_inodes);
                return true;
            }
            self.add_small(child.bytes, child.inodes);
            false
        });
        self.folders = folders;
    }

    /// One more folder that is not told by itself.
    pub(super) fn add_small(&mut self, bytes: u64, inodes: u64) {
        self.small_folders += 1;
        self.small_folders_bytes = self.small_folders_bytes.saturating_add(bytes);
        self.small_folders_inodes += inodes;
    }

    /// Largest first, so that it does not depend on who was met when.
    pub(super) fn sort(&mut self) {
        self.folders.sort_unstable_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    }
}

/// From which size on a folder is told by itself, while the whole is not known yet: a share of what was met so far. What is
/// kept by that is bounded, since to be kept each further folder must be a share of all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Never less than this.
    pub bytes: u64,
    /// Nor this; a folder is told for either.
    pub inodes: u64,
    /// The n-th part of the whole; 0: the two above alone.
    pub part: u64,
}

impl Threshold {
    /// Bytes and inodes that suffice where so much was met.
    pub fn at(&self, bytes: u64, inodes: u64) -> (u64, u64) {
        let share = |whole: u64| whole.checked_div(self.part).unwrap_or(0);
        (self.bytes.max(share(bytes)), self.inodes.max(share(inodes)))
    }
}

/// A large file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LargeFile {
    /// Allocated for it.
    pub bytes: u64,
    /// Where it was met first.
    pub path: PathBuf,
    /// Its length, which for a sparse file is more.
    pub size_bytes: u64,
    /// Its inode.
    pub inode: u64,
    /// Last modified, ns since the epoch.
    pub mtime_ns: i64,
    /// Its owner.
    pub uid: u32,
}

/// What a walk found.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The folder that was walked.
    pub path: PathBuf,
    /// It, with what lies beneath.
    pub root: Folder,
    /// Largest first.
    pub files: Vec<LargeFile>,
    /// Folders and files that could not be looked at, and why; some of them.
    pub unread: Vec<(PathBuf, String)>,
    /// How many there were.
    pub unread_total: u64,
    /// Where something else is mounted, which is not counted; some of them.
    pub mounts: Vec<PathBuf>,
    /// Names of inodes with several links that were counted more than once, for there were too many to remember.
    pub links_beyond_bound: u64,
    /// Entries looked at.
    pub entries: u64,
    /// CPU time of all threads.
    pub cpu: Duration,
    /// From beginning to end.
    pub took: Duration,
    /// Whether it came to its end.
    pub whole: bool,
}

/// The largest files of those that were met.
#[derive(Debug, Default)]
pub(super) struct Largest(BinaryHeap<Reverse<LargeFile>>);

impl Largest {
    /// Keeps the file if it is among the `max` largest; its path is made only then.
    pub(super) fn offer(&mut self, max: usize, bytes: u64, file: impl FnOnce() -> LargeFile) {
        let is_full = self.0.len() >= max;
        let larger = self.0.peek().is_none_or(|smallest| bytes > smallest.0.bytes);
        if bytes == 0 || max == 0 || (is_full && !larger) {
            return;
        }
        if is_full {
            self.0.pop();
        }
        self.0.push(Reverse(file()));
    }

    pub(super) fn into_files(self) -> impl Iterator<Item = LargeFile> {
        self.0.into_iter().map(|f| f.0)
    }
}
