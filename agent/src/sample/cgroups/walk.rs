//! Which control groups there are: a walk of the hierarchy, in steps.
//!
//! Kept are the top level, system services (`system.slice/*`), Docker's containers (`docker/*`), and wherever they stand
//! (beneath `--cgroup-root`, beneath a service such as k3s) the group of all pods, its classes, pods and containers. What
//! is within a container is the container's.
//!
//! A directory of two links has no children and is not opened; on filesystems that count otherwise each is.
//!
//! Invariants: at most [`MAX_DEPTH`] deep and [`MAX_VISITED`] directories; what is beyond is counted.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, openat, statat};
use rustix::io::Errno;

use crate::pod;

/// `/user.slice/user-N.slice/user@N.service/k3s/kubepods/burstable/podUID/ID` is the deepest known.
const MAX_DEPTH: usize = 8;
/// Directories opened in one walk. A node holds 500 pods at most; more is a leak or an attack.
const MAX_VISITED: usize = 10_000;

/// A directory that was read, and the links that it had: it has another number when a group in it comes or goes. The
/// kernel's type for it differs between machines; this one holds all.
pub(super) type Stamp = (CString, i128);

/// A walk under way.
#[derive(Default)]
pub(super) struct Walk {
    open: Vec<Folder>,
    /// Paths found, relative to the hierarchy.
    pub(super) found: Vec<Found>,
    /// Directories read.
    pub(super) stamps: Vec<Stamp>,
    /// Directories that were not looked into for their number.
    pub(super) unvisited: u64,
    visited: usize,
}

struct Folder {
    path: Vec<u8>,
    depth: usize,
    is_pod: bool,
}

/// A group to read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Not a pod's: where there are too many, these are left out first.
    pub(super) is_other: bool,
    /// Relative to the hierarchy, without a slash in front.
    pub(super) path: Vec<u8>,
}

impl Walk {
    /// A walk that begins at the hierarchy's root.
    pub(super) fn begin() -> Self {
        let root = Folder { path: Vec::new(), depth: 0, is_pod: false };
        Self { open: vec![root], ..Self::default() }
    }

    /// Reads one directory beneath `root`; false when there is none left. One that is gone meanwhile is passed over.
    ///
    /// Errors: only those of the root itself.
    pub(super) fn step(
        &mut self,
        root: BorrowedFd<'_>,
        entries: &mut [MaybeUninit<u8>],
    ) -> Result<bool, Errno> {
        let Some(folder) = self.open.pop() else { return Ok(false) };
        if self.visited >= MAX_VISITED {
            self.unvisited += 1;
            return Ok(true);
        }
        self.visited += 1;
        match self.read(root, &folder, entries) {
            Err(e) if folder.depth == 0 => Err(e),
            _ => Ok(true),
        }
    }

    fn read(
        &mut self,
        root: BorrowedFd<'_>,
        folder: &Folder,
        entries: &mut [MaybeUninit<u8>],
    ) -> Result<(), Errno> {
        let path = if folder.path.is_empty() { b".".to_vec() } else { folder.path.clone() };
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = openat(root, &path, flags, Mode::empty())?;
        let links = fstat(&dir)?.st_nlink;
        self.stamps.push((path, i128::from(links)));
        let mut names = RawDir::new(&dir, entries);
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"."
                || name == c".."
                || !matches!(entry.file_type(), FileType::Directory | FileType::Unknown)
            {
                continue;
            }
            let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.meet(folder, name.to_bytes(), stat.st_nlink == 2);
            }
        }
        Ok(())
    }

    fn meet(&mut self, parent: &Folder, name: &[u8], is_leaf: bool) {
        let mut path = parent.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let pod = std::str::from_utf8(&path).ok().and_then(pod::from_cgroup_path);
        let is_container = pod.as_ref().is_some_and(|p| !p.container_id.is_empty());
        let (is_kept, is_open) = match (&pod, parent.is_pod) {
            (_, true) => (is_container, false),
            (Some(_), false) => (true, !is_container),
            (None, false) => (is_other_kept(parent, name), !is_leaf),
        };
        if is_open && parent.depth < MAX_DEPTH {
            self.open.push(Folder { path: path.clone(), depth: parent.depth + 1, is_pod: pod.is_some() });
        }
        if is_kept {
            self.found.push(Found { is_other: pod.is_none(), path });
        }
    }
}

fn is_other_kept(parent: &Folder, name: &[u8]) -> bool {
    let parent_name = parent.path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let of_pods = |n: &[u8]| n.windows(b"kubepods".len()).any(|w| w == b"kubepods");
    parent.depth == 0
        || parent_name == b"system.slice"
        || parent_name == b"docker"
        || of_pods(name)
        || (of_pods(parent_name) && matches!(name, b"burstable" | b"besteffort" | b"guaranteed"))
}
