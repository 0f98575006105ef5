//! A folder opened, and an entry of it looked at: what all walks over a filesystem have in common.
//!
//! Invariants: a folder is opened on the same mount as its parent and through no link; an entry is looked at without being
//! opened, followed, or asked for from a server.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::tally::LargeFile;

/// Attempts at a lookup that lost a race with a rename elsewhere.
const LOOKUP_TRIES: u32 = 8;

/// What tells one mount from another: its id where the kernel says it, else the device. Not both: within a mount of btrfs each
/// subvolume has a device of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct MountOf {
    device: (u32, u32),
    /// Where the kernel says it (5.8).
    id: Option<u64>,
}

impl MountOf {
    pub(super) fn of(facts: &Statx) -> Self {
        let id = (facts.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(facts.stx_mnt_id);
        Self { device: (facts.stx_dev_major, facts.stx_dev_minor), id }
    }

    pub(super) fn is(&self, other: Self) -> bool {
        match (self.id, other.id) {
            (Some(a), Some(b)) => a == b,
            _ => self.device == other.device,
        }
    }
}

pub(super) fn look(at: &OwnedFd, name: &CStr, flags: AtFlags) -> Result<Statx, Errno> {
    // What is cached is enough; a server need not be asked.
    let flags = flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::TYPE
        | StatxFlags::INO
        | StatxFlags::NLINK
        | StatxFlags::SIZE
        | StatxFlags::BLOCKS
        | StatxFlags::MTIME
        | StatxFlags::UID
        | StatxFlags::MNT_ID;
    rustix::fs::statx(at, name, flags, mask)
}

pub(super) fn allocated(facts: &Statx) -> u64 {
    facts.stx_blocks.saturating_mul(512)
}

pub(super) fn large_file(path: PathBuf, facts: &Statx) -> LargeFile {
    let mtime = &facts.stx_mtime;
    LargeFile {
        bytes: allocated(facts),
        path,
        size_bytes: facts.stx_size,
        inode: facts.stx_ino,
        mtime_ns: mtime.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(mtime.tv_nsec)),
        uid: facts.stx_uid,
    }
}

/// Opens the folder `path`, in which no part may be a symbolic link: one that was planted since the path was resolved could
/// lead anywhere, also to a server that does not answer.
pub(super) fn open_top(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_SYMLINKS;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) if tries < LOOKUP_TRIES => tries += 1,
            other => return other,
        }
    }
}

/// Opens the folder `name` beneath `parent`, on the same mount and through no link.
pub(super) fn open(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let mut flags = flags;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) if tries < LOOKUP_TRIES => tries += 1,
            // Only an owner may leave a folder's access time alone.
            Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => flags.remove(OFlags::NOATIME),
            other => return other,
        }
    }
}
