//! Opening and looking at things beneath a root, without ever following anything.
//!
//! Invariants: every path is resolved by `openat2` with beneath, no symbolic links, no magic links and no mount
//! crossing; content is opened only through a descriptor that was found to be a regular file, so that a FIFO, a device
//! or a socket put in a file's place is never opened. Where `openat2` is missing there is no fallback.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use dogwatch::record::PlannedObject;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::gaps::{self, Gap};

/// How often a lookup is repeated that lost a race with a rename elsewhere on the filesystem.
const LOOKUP_TRIES: u32 = 8;

/// What the kernel says about one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: FileType,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) mtime_ns: i64,
    pub(super) ctime_ns: i64,
    /// When it was last read, as far as the mount keeps that.
    pub(super) atime_ns: i64,
    /// Birth, where the filesystem says it.
    pub(super) btime_ns: Option<i64>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) links: u64,
    /// Immutable or append-only: the kernel would refuse to unlink it.
    pub(super) pinned: bool,
    /// The mount, where the kernel says it (5.8).
    pub(super) mount_id: Option<u64>,
}

impl Facts {
    fn from_statx(s: &rustix::fs::Statx) -> Self {
        let ns = |sec: i64, nsec: u32| sec.saturating_mul(1_000_000_000).saturating_add(i64::from(nsec));
        let has = |what: StatxFlags| s.stx_mask & what.bits() != 0;
        Self {
            kind: FileType::from_raw_mode(u32::from(s.stx_mode)),
            device: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
            inode: s.stx_ino,
            size_bytes: s.stx_size,
            allocated_bytes: s.stx_blocks.saturating_mul(512),
            mtime_ns: ns(s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec),
            ctime_ns: ns(s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec),
            atime_ns: ns(s.stx_atime.tv_sec, s.stx_atime.tv_nsec),
            btime_ns: has(StatxFlags::BTIME).then(|| ns(s.stx_btime.tv_sec, s.stx_btime.tv_nsec)),
            uid: s.stx_uid,
            gid: s.stx_gid,
            mode: u32::from(s.stx_mode),
            links: u64::from(s.stx_nlink),
            pinned: s.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
            mount_id: has(StatxFlags::MNT_ID).then_some(s.stx_mnt_id),
        }
    }

    /// The first way in which this is not the object of the plan; a rename may have changed its change time.
    pub(super) fn differs_from(&self, object: &PlannedObject, renamed: bool) -> Option<String> {
        let is_regular = self.kind == FileType::RegularFile;
        let checks = [
            (is_regular, "it is no longer a regular file"),
            (self.device == object.device && self.inode == object.inode, "another file has its name"),
            (self.size_bytes == object.size_bytes, "its size changed"),
            (self.mtime_ns == object.mtime_ns, "it was modified"),
            (renamed || self.ctime_ns == object.ctime_ns, "its inode was changed"),
            (self.uid == object.uid && self.gid == object.gid, "its owner changed"),
            (self.mode == object.mode, "its mode changed"),
            (self.links == object.links, "the number of its links changed"),
        ];
        checks.iter().find(|(same, _)| !same).map(|(_, how)| format!("not what the plan saw: {how}"))
    }
}

/// `statx` of an open descriptor.
pub(super) fn facts_of(fd: impl AsFd) -> Result<Facts, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(fd, c"", flags, mask()).map(|s| Facts::from_statx(&s))
}

/// `statx` of an entry of a folder, not followed.
pub(super) fn facts_at(folder: impl AsFd, name: impl rustix::path::Arg) -> Result<Facts, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(folder, name, flags, mask()).map(|s| Facts::from_statx(&s))
}

fn mask() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID
}

/// Whether this kernel (and any filter around this process) lets us use `openat2`.
pub(super) fn openat2_works() -> Result<(), Errno> {
    resolve(rustix::fs::CWD, Path::new("/"), OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
        .map(drop)
}

/// Opens a root by its absolute path: no symbolic link on the way.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve_flags = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    resolve(rustix::fs::CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, resolve_flags)
}

/// What lies at the path of a root now, without links on the way. Nothing is opened for reading, so that a confined process may
/// ask too.
pub(super) fn facts_of_root(path: &Path) -> Result<Facts, Errno> {
    let resolve_flags = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    facts_of(&resolve(rustix::fs::CWD, path, OFlags::PATH | OFlags::DIRECTORY, resolve_flags)?)
}

/// Opens a folder beneath `root`; an empty path is the root itself.
pub(super) fn open_folder(root: impl AsFd, relative: &Path) -> Result<OwnedFd, Errno> {
    folder_beneath(root, relative, OFlags::RDONLY)
}

/// The same, to look at what lies in it by name and not to read it, so that a confined process may ask outside its roots too.
pub(super) fn look_at_folder(root: impl AsFd, relative: &Path) -> Result<OwnedFd, Errno> {
    folder_beneath(root, relative, OFlags::PATH)
}

fn folder_beneath(root: impl AsFd, relative: &Path, how: OFlags) -> Result<OwnedFd, Errno> {
    let path = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    resolve(root, path, how | OFlags::DIRECTORY | OFlags::NOFOLLOW, confined())
}

/// Opens the entry `name` of `folder` for reading if, and only if, it is a regular file there.
pub(super) fn open_regular(folder: impl AsFd, name: &Path) -> Result<Opened, Errno> {
    let handle = resolve(folder, name, OFlags::PATH | OFlags::NOFOLLOW, confined())?;
    let facts = facts_of(&handle)?;
    if facts.kind != FileType::RegularFile {
        return Ok(Opened::Other(facts));
    }
    gaps::reach(Gap::Found, name);
    // The handle names the inode and nothing else can take its place, so that this open cannot reach a device or block
    // on a FIFO. Without O_NONBLOCK it would wait for a lease of somebody else's.
    let path = format!("/proc/thread-self/fd/{}", handle.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(&*path, flags | OFlags::NOATIME, Mode::empty()) {
        // Only a file's owner may leave its access time alone.
        Err(Errno::PERM) => rustix::fs::open(&*path, flags, Mode::empty())?,
        other => other?,
    };
    Ok(Opened::Regular(fd, facts))
}

/// Whether reading `file` leaves its access time alone.
pub(super) fn is_read_unseen(file: impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::NOATIME))
}

/// Opens for writing what `file` is open on, whatever its name leads to by now.
pub(super) fn reopen_for_writing(file: impl AsFd) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(&*path, flags, Mode::empty())
}

/// What [`open_regular`] found.
#[derive(Debug)]
pub(super) enum Opened {
    /// A regular file, open for reading.
    Regular(OwnedFd, Facts),
    /// Something else; not opened.
    Other(Facts),
}

fn confined() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

fn resolve(at: impl AsFd, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(&at, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) if tries < LOOKUP_TRIES => tries += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_followed_and_only_regular_files_are_opened() {
        let temp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        std::fs::write(temp.path().join("d/f"), "x").unwrap();
        symlink(outside.path(), temp.path().join("out")).unwrap();
        symlink(temp.path().join("d/f"), temp.path().join("in")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, temp.path().join("fifo"), Mode::RWXU).unwrap();
        let root = open_root(temp.path()).unwrap();
        assert!(open_folder(&root, Path::new("d")).is_ok());
        assert!(matches!(open_folder(&root, Path::new("out")).unwrap_err(), Errno::LOOP | Errno::NOTDIR));
        assert_eq!(open_folder(&root, Path::new("../x")).unwrap_err(), Errno::XDEV);
        assert_eq!(open_folder(&root, outside.path()).unwrap_err(), Errno::XDEV);
        assert!(matches!(open_regular(&root, Path::new("fifo")).unwrap(), Opened::Other(_)));
        assert!(matches!(open_regular(&root, Path::new("in")), Ok(Opened::Other(_)) | Err(Errno::LOOP)));
        assert!(open_regular(&root, Path::new("out/secret")).is_err());
        assert!(matches!(open_regular(&root, Path::new("d/f")).unwrap(), Opened::Regular(..)));
        assert!(open_root(&temp.path().join("out")).is_err());
    }
}
