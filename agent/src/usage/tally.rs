//! What a walk found: sums by folder, and the largest files.

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
