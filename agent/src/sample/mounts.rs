//! Every filesystem of the node once, with its figures.
//!
//! The table of mounts is read again when poll(2) on it says that it changed, and each [`RECHECK`]th time besides:
//! a superblock that stops writing after an error changes its options without an event. Else a tick costs one
//! `statvfs` a mount.
//!
//! Deliberately absent: descriptors kept on mount points. They would make every `umount` of the node fail with EBUSY.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString};
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::record::Mount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{PROC_SUPER_MAGIC, fstatfs};

use super::mountinfo::{self, Entry, MAX_MOUNTS};
use super::procfile::{ProbeError, ProcFile};
use super::remote::{Figures, RemoteProbe, StatFn};
use super::{Failures, Roots};

/// Bytes read of a table: 10,000 mounts of containers with many layers have some 400 bytes each.
const MAX_TABLE: usize = 4 << 20;

/// What the table's buffer may keep between readings.
const KEEP_TABLE: usize = 64 << 10;

/// Mounts in one sample, so that a sample fits into a block several times; block devices come first.
const MAX_REPORTED: usize = 1_000;

/// Ticks after which the table is read even though poll saw no change.
const RECHECK: u32 = 10;

/// A table that changes while it is read is read again so many times.
const MAX_ROUNDS: usize = 3;

/// A mount that is watched.
struct Target {
    /// Where `statvfs` finds it.
    path: CString,
    /// The row, without figures.
    mount: Mount,
    /// Whether a server may keep its caller waiting.
    remote: bool,
    emergency_read_only: bool,
    /// What the table says, where `statvfs` looks through another mount: a host's root that a container has mounted
    /// read-only is not read-only on the host.
    read_only: Option<bool>,
}

/// Reader of the node's filesystems.
pub(super) struct MountProbe {
    table: ProcFile,
    rootfs: PathBuf,
    stat: StatFn,
    remote: RemoteProbe,
    targets: Vec<Target>,
    /// Hash of the table that the targets come from.
    read: Option<u64>,
    /// Whether poll tells of changes: only the kernel's table does that.
    polls: bool,
    since_read: u32,
    /// What is wrong with the table as it stands, said on every tick.
    remarks: Vec<String>,
}

impl MountProbe {
    /// A reader of the table and filesystems beneath `roots` that asks by `stat`, and remote filesystems for at most
    /// `deadline` a tick.
    pub(super) fn new(roots: &Roots, stat: StatFn, deadline: Duration) -> Self {
        Self {
            table: ProcFile::new(roots.mountinfo.clone(), MAX_TABLE),
            rootfs: roots.rootfs.clone(),
            remote: RemoteProbe::new(stat.clone(), deadline),
            stat,
            targets: Vec::new(),
            read: None,
            polls: false,
            since_read: 0,
            remarks: Vec::new(),
        }
    }

    /// The mounts that could be read; each of the others is a failure `mounts: PATH: …`, and one of the table itself
    /// a failure `mounts: …` that names no path.
    pub(super) fn read(&mut self, failed: &mut Failures) -> Vec<Mount> {
        let mut mounts = Vec::new();
        for round in 1..=MAX_ROUNDS {
            if let Err(e) = self.refresh() {
                failed.push("mounts", &e);
                return Vec::new();
            }
            let mut these = Failures::default();
            mounts = self.figures(&mut these);
            // A path that was unmounted meanwhile has shown the figures of what lies beneath it.
            if round == MAX_ROUNDS || !self.changed() {
                failed.append(these);
                break;
            }
            self.read = None;
        }
        for remark in &self.remarks {
            failed.push("mounts", remark);
        }
        mounts
    }

    /// Whether the kernel says that the table changed since this was last asked.
    fn changed(&self) -> bool {
        let Some(fd) = self.table.fd().filter(|_| self.polls) else { return false };
        let mut fds = [PollFd::new(fd, PollFlags::PRI)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
    }

    /// Brings the targets up to date.
    fn refresh(&mut self) -> Result<(), ProbeError> {
        self.since_read += 1;
        if self.read.is_some() && self.polls && self.since_read < RECHECK && !self.changed() {
            return Ok(());
        }
        self.since_read = 0;
        let known = self.read.take();
        let text = self.table.read()?;
        let len = text.len();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if known != Some(hash) {
            (self.targets, self.remarks) = targets(text, &self.rootfs);
        }
        if self.table.is_cut(len) {
            self.remarks.retain(|r| !r.starts_with("table cut"));
            self.remarks.push(format!("table cut at {MAX_TABLE} bytes"));
        }
        self.table.shrink(KEEP_TABLE);
        self.polls =
            self.table.fd().is_some_and(|fd| fstatfs(fd).is_ok_and(|s| s.f_type == PROC_SUPER_MAGIC));
        self.read = Some(hash);
        Ok(())
    }

    fn figures(&mut self, failed: &mut Failures) -> Vec<Mount> {
        let paths: Vec<&CStr> = self.targets.iter().filter(|t| t.remote).map(|t| t.path.as_c_str()).collect();
        let mut remote = if paths.is_empty() { Vec::new() } else { self.remote.read(&paths) }.into_iter();
        let mut mounts = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let figures = if target.remote {
                remote.next().unwrap_or_else(|| Err("not asked".to_owned()))
            } else {
                (self.stat)(&target.path).map_err(|e| format!("statvfs: {e}"))
            };
            match figures {
                // As df has it: what has no blocks is no place to put data.
                Ok(f) if f.total_bytes == 0 => {}
                Ok(f) => mounts.push(target.with(f)),
                Err(e) => failed.push("mounts", &format!("{}: {e}", target.mount.path)),
            }
        }
        mounts
    }
}

impl Target {
    fn new(entry: &Entry<'_>, rootfs: &Path, remote: bool) -> Option<Self> {
        let mut path = rootfs.as_os_str().as_bytes().to_vec();
        while path.last() == Some(&b'/') {
            path.pop();
        }
        path.extend_from_slice(&entry.path);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(Self {
            // A NUL can only come from an escape that the kernel never writes.
            path: CString::new(path).ok()?,
            mount: Mount {
                path: text(&entry.path),
                fs: text(&entry.fs),
                device: text(&entry.source),
                dev_major: entry.dev_major,
                dev_minor: entry.dev_minor,
                ..Mount::default()
            },
            remote,
            emergency_read_only: entry.is_emergency_read_only(),
            read_only: (rootfs != Path::new("/")).then(|| entry.is_read_only()),
        })
    }

    fn with(&self, f: Figures) -> Mount {
        Mount {
            total_bytes: f.total_bytes,
            free_bytes: f.free_bytes,
            available_bytes: f.available_bytes,
            inodes_total: f.inodes_total,
            inodes_free: f.inodes_free,
            // Of the mount and its superblock, both of which the kernel folds into ST_RDONLY.
            read_only: self.read_only.unwrap_or(f.read_only) || self.emergency_read_only,
            ..self.mount.clone()
        }
    }

    /// Whether its path leads to it. Seen through another root (a host's, mounted into a pod without propagation)
    /// it may lead to the directory beneath instead, whose figures would be false.
    fn is_there(&self) -> bool {
        // btrfs gives each subvolume a device number of its own, and a server may hang.
        if self.remote || self.mount.fs == "btrfs" {
            return true;
        }
        rustix::fs::stat(self.path.as_c_str()).is_ok_and(|s| {
            (rustix::fs::major(s.st_dev), rustix::fs::minor(s.st_dev))
                == (self.mount.dev_major, self.mount.dev_minor)
        })
    }
}

/// Whether `path` is `top` or lies beneath it.
fn is_at_or_beneath(path: &[u8], top: &[u8]) -> bool {
    top == b"/" || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The mounts to watch of a table, and what is to be said about it.
fn targets(text: &[u8], rootfs: &Path) -> (Vec<Target>, Vec<String>) {
    let table = mountinfo::parse(text);
    let mut remarks = Vec::new();
    if table.malformed > 0 {
        remarks.push(format!("{} lines of the table could not be understood", table.malformed));
    }
    if table.beyond > 0 {
        remarks.push(format!("more than {MAX_MOUNTS} mounts: {} of the table not read", table.beyond));
    }
    // The way to a local filesystem may lead across a remote one, and hangs with it.
    let remote: Vec<&[u8]> = table.entries.iter().filter(|e| e.is_remote()).map(|e| &*e.path).collect();
    let mut targets: Vec<Target> = mountinfo::select(&table.entries)
        .into_iter()
        .filter_map(|e| Target::new(e, rootfs, remote.iter().any(|r| is_at_or_beneath(&e.path, r))))
        .collect();
    if rootfs != Path::new("/") {
        targets.retain(|t| {
            let there = t.is_there();
            if !there && remarks.len() < Failures::MAX {
                remarks.push(format!("{}: is not what {} leads to", t.mount.path, t.path.to_string_lossy()));
            }
            there
        });
    }
    if targets.len() > MAX_REPORTED {
        remarks.push(format!("{} filesystems, of which {MAX_REPORTED} are reported", targets.len()));
        targets.sort_by_key(|t| !t.mount.device.starts_with('/'));
        targets.truncate(MAX_REPORTED);
    }
    (targets, remarks)
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
