//! What the attacker can do to one round: the tricks, and how each is done by one or two system calls on real files.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode};
use rustix::mount::{MountFlags, UnmountFlags};

use super::opener::{Opener, Reached};

use crate::act::policy::QUARANTINE;
use crate::act::quarantine::entry_name;

/// What a name or entry is replaced by, or what is done to an inode, a folder, a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trick {
    // To a name.
    RenameAway,
    RenameOver,
    SwapFile,
    LinkToCanary,
    SymlinkToCanary,
    Fifo,
    Device,
    Socket,
    Folder,
    BindOverFile,
    Delete,
    // To the inode, through a handle from before.
    OpenToWrite,
    OpenToRead,
    Append,
    Truncate,
    RewriteSameSize,
    ExtraLink,
    SetUid,
    Chown,
    Immutable,
    AppendOnly,
    // To folders and mounts.
    FolderAway,
    FolderSwapped,
    FolderSymlinked,
    BindOverFolder,
    BindOverRoot,
    DetachRoot,
    QuarantineSymlinked,
    QuarantinePremade,
    // Not the attacker's: somebody holds it.
    Hold,
    /// Merely opens, so that the executor gives way; provokes a putting back.
    Nudge,
}

use Trick::*;

impl Trick {
    pub(super) const ALL: [Self; 31] = [
        RenameAway,
        RenameOver,
        SwapFile,
        LinkToCanary,
        SymlinkToCanary,
        Fifo,
        Device,
        Socket,
        Folder,
        BindOverFile,
        Delete,
        OpenToWrite,
        OpenToRead,
        Append,
        Truncate,
        RewriteSameSize,
        ExtraLink,
        SetUid,
        Chown,
        Immutable,
        AppendOnly,
        FolderAway,
        FolderSwapped,
        FolderSymlinked,
        BindOverFolder,
        BindOverRoot,
        DetachRoot,
        QuarantineSymlinked,
        QuarantinePremade,
        Hold,
        Nudge,
    ];

    /// Done to whatever bears a name.
    pub(super) fn is_to_name(self) -> bool {
        self <= Delete
    }

    /// Done to the inode.
    pub(super) fn is_to_inode(self) -> bool {
        self > Delete && self < FolderAway
    }

    /// Puts another folder in a folder's place.
    pub(super) fn is_to_folder(self) -> bool {
        matches!(self, FolderAway | FolderSwapped | FolderSymlinked | BindOverFolder)
    }

    /// Needs to be undone before the next round.
    pub(super) fn is_undone(self) -> bool {
        matches!(
            self,
            BindOverFile
                | BindOverFolder
                | BindOverRoot
                | DetachRoot
                | QuarantineSymlinked
                | Immutable
                | AppendOnly
        )
    }
}

/// Which name a trick is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Locus {
    /// Its own.
    Name,
    /// That in quarantine.
    Entry,
}

/// Where everything of a round lies.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) base: PathBuf,
}

pub(super) const NAME: &str = "app.log.1";

impl Places {
    pub(super) fn root(&self) -> PathBuf {
        self.base.join("logs")
    }
    pub(super) fn quarantine(&self) -> PathBuf {
        self.root().join(QUARANTINE)
    }
    pub(super) fn folder(&self, n: usize) -> PathBuf {
        self.root().join(n.to_string())
    }
    pub(super) fn name(&self, n: usize) -> PathBuf {
        self.folder(n).join(NAME)
    }
    /// A folder outside the root, like that of the round.
    pub(super) fn outside(&self, n: usize) -> PathBuf {
        self.base.join("outside").join(n.to_string())
    }
    pub(super) fn canary(&self, n: usize) -> PathBuf {
        self.outside(n).join("canary")
    }
    /// Where the attacker keeps things.
    pub(super) fn spare(&self, n: usize, what: &str) -> PathBuf {
        self.base.join("spare").join(format!("{n}.{what}"))
    }
}

/// What came of a trick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// It took effect while the executor stood in the gap; the inode of what was put there, or 0.
    Through(u64),
    /// It waits for the executor's lease, and goes on as soon as that is released.
    Waits,
    /// It failed with this errno.
    Not(i32),
}

/// The attacker's own view of one round.
pub(super) struct Target {
    n: usize,
    /// On the inode, from before the plan (a handle is not an open file).
    handle: OwnedFd,
    entry: PathBuf,
    opener: Option<Opener>,
    struck: Option<(Trick, Locus)>,
}

impl Target {
    /// Looks at round `n` before anything happens.
    pub(super) fn new(places: &Places, n: usize, at: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let handle = rustix::fs::open(at, flags, Mode::empty())?;
        let folder = fs::symlink_metadata(places.folder(n))?.ino();
        let inode = rustix::fs::fstat(&handle)?.st_ino;
        let entry = entry_name(folder, Path::new(&n.to_string()), inode, NAME.as_ref())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
        Ok(Self { n, handle, entry: places.quarantine().join(entry), opener: None, struck: None })
    }

    fn inode_path(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }

    fn open_inode(&self) -> io::Result<File> {
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(self.inode_path())
    }

    /// Does it.
    pub(super) fn strike(&mut self, places: &Places, trick: Trick, locus: Locus) -> Came {
        match self.try_strike(places, trick, locus) {
            Ok(inode) => {
                self.struck = Some((trick, locus));
                Came::Through(inode)
            }
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && trick.is_to_inode() => Came::Waits,
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && trick == Nudge => Came::Waits,
            Err(e) => Came::Not(e.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn try_strike(&mut self, places: &Places, trick: Trick, locus: Locus) -> io::Result<u64> {
        let n = self.n;
        let name = match locus {
            Locus::Name => places.name(n),
            Locus::Entry => self.entry.clone(),
        };
        let (folder, outside, aside) = (places.folder(n), places.outside(n), places.spare(n, "aside"));
        // Out of the way, if it is there; in quarantine it must be.
        let take = || match fs::rename(&name, &aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && locus == Locus::Name => Ok(()),
            other => other,
        };
        // What is put into quarantine may go with it: the attacker's own. Under a name lies what is precious.
        let thing = || -> io::Result<PathBuf> {
            match locus {
                Locus::Name => Ok(places.canary(n)),
                Locus::Entry => {
                    let own = places.spare(n, "own");
                    fs::write(&own, "the attacker's own")?;
                    Ok(own)
                }
            }
        };
        let put = |path: &Path| fs::symlink_metadata(path).map(|m| m.ino());
        match trick {
            RenameAway => fs::rename(&name, &aside).map(|()| 0),
            RenameOver => fs::rename(thing()?, &name).and_then(|()| put(&name)),
            SwapFile => {
                take()?;
                fs::rename(thing()?, &name).and_then(|()| put(&name))
            }
            LinkToCanary => {
                take()?;
                fs::hard_link(places.canary(n), &name).and_then(|()| put(&name))
            }
            SymlinkToCanary => {
                take()?;
                symlink(places.canary(n), &name).and_then(|()| put(&name))
            }
            Fifo => {
                take()?;
                rustix::fs::mkfifoat(CWD, &name, Mode::RWXU)?;
                put(&name)
            }
            Device => {
                take()?;
                let null = rustix::fs::makedev(1, 3);
                rustix::fs::mknodat(CWD, &name, FileType::CharacterDevice, Mode::RWXU, null)?;
                put(&name)
            }
            Socket => {
                take()?;
                // A socket's path is short; make it by a relative name.
                let near = File::open(name.parent().unwrap_or(&name))?;
                let file = name.file_name().unwrap_or_default();
                UnixListener::bind(Path::new("/proc/self/fd").join(near.as_raw_fd().to_string()).join(file))?;
                put(&name)
            }
            Folder => {
                take()?;
                fs::create_dir(&name)?;
                fs::write(name.join("inside"), "the attacker's own")?;
                put(&name)
            }
            BindOverFile => bind(&places.canary(n), &name).map(|()| 0),
            Delete => fs::remove_file(&name).map(|()| 0),
            OpenToWrite | OpenToRead | Append | Truncate | RewriteSameSize => self.open_by(trick),
            Nudge => self.open_inode().map(|_| 0),
            ExtraLink => {
                let extra = places.spare(n, "extra");
                rustix::fs::linkat(CWD, self.inode_path(), CWD, &extra, AtFlags::SYMLINK_FOLLOW)?;
                Ok(0)
            }
            SetUid => rustix::fs::chmod(self.inode_path(), Mode::from_raw_mode(0o4755))
                .map(|()| 0)
                .map_err(io::Error::from),
            Chown => std::os::unix::fs::chown(self.inode_path(), Some(4242), None).map(|()| 0),
            Immutable | AppendOnly => {
                let flag = if trick == Immutable { IMMUTABLE } else { APPEND_ONLY };
                match self.set_flag(flag) {
                    Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => self.open_by(trick),
                    other => other.map(|()| 0),
                }
            }
            FolderAway => fs::rename(&folder, places.spare(n, "taken")).map(|()| 0),
            FolderSwapped => {
                fs::rename(&folder, places.spare(n, "taken"))?;
                fs::rename(&outside, &folder).and_then(|()| put(&folder))
            }
            FolderSymlinked => {
                fs::rename(&folder, places.spare(n, "taken"))?;
                symlink(&outside, &folder).and_then(|()| put(&folder))
            }
            BindOverFolder => bind(&outside, &folder).map(|()| 0),
            BindOverRoot => bind(&outside, &places.root()).map(|()| 0),
            DetachRoot => Ok(rustix::mount::unmount(places.root(), UnmountFlags::DETACH).map(|()| 0)?),
            QuarantineSymlinked => {
                fs::rename(places.quarantine(), places.spare(n, "quarantine"))?;
                symlink(&outside, places.quarantine()).map(|()| 0)
            }
            QuarantinePremade => fs::hard_link(places.canary(n), &self.entry).and_then(|()| put(&self.entry)),
            Hold => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
        }
    }

    /// Opens the inode in a thread and does `trick` to it, which takes as long as somebody has a lease on it.
    fn open_by(&mut self, trick: Trick) -> io::Result<u64> {
        let mut opener = Opener::start(self.inode_path(), trick)?;
        let reached = opener.reached()?;
        // What it changed is to be found by looking at it, not by its being open.
        if reached == Reached::Waits || matches!(trick, OpenToRead | OpenToWrite) {
            self.opener = Some(opener);
        }
        match reached {
            Reached::Waits => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            Reached::Done => Ok(0),
        }
    }

    /// Whether the attacker has the file open, and it lies at its name: 1; or 0, if it has no name any more.
    pub(super) fn has(&mut self, places: &Places) -> io::Result<u64> {
        let opener = self.opener.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let has = opener.has(&places.name(self.n))?;
        self.opener = None;
        Ok(u64::from(has))
    }

    /// Undoes what stands in the way of the next round.
    pub(super) fn undo(&mut self, places: &Places) -> io::Result<()> {
        self.opener = None;
        let Some((trick, locus)) = self.struck.take() else { return Ok(()) };
        match trick {
            BindOverFile => unbind(&match locus {
                Locus::Name => places.name(self.n),
                Locus::Entry => self.entry.clone(),
            }),
            BindOverFolder => unbind(&places.folder(self.n)),
            BindOverRoot => unbind(&places.root()),
            DetachRoot => bind(&places.root(), &places.root()),
            QuarantineSymlinked => {
                fs::remove_file(places.quarantine())?;
                fs::rename(places.spare(self.n, "quarantine"), places.quarantine())
            }
            Immutable | AppendOnly => self.set_flag(0),
            _ => Ok(()),
        }
    }

    /// Sets the inode's flags without opening it (`file_setattr`, 6.17), else with `ENOSYS`. Taking them away may open it.
    fn set_flag(&self, flags: u64) -> io::Result<()> {
        const FILE_SETATTR: libc::c_long = 469;
        // struct file_attr: fa_xflags, then fa_extsize, fa_nextents, fa_projid, fa_cowextsize of 32 bits each.
        let attr = [flags, 0, 0];
        let path = std::ffi::CString::new(self.inode_path())?;
        // SAFETY: the path ends with NUL, the attributes are 24 bytes as said, and both outlive the call.
        let done = unsafe {
            libc::syscall(FILE_SETATTR, libc::AT_FDCWD, path.as_ptr(), attr.as_ptr(), size_of_val(&attr), 0)
        };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOSYS) || flags != 0 {
            return Err(error);
        }
        let file = self.open_inode()?;
        let mut now = rustix::fs::ioctl_getflags(&file)?;
        now.remove(rustix::fs::IFlags::IMMUTABLE | rustix::fs::IFlags::APPEND);
        Ok(rustix::fs::ioctl_setflags(&file, now)?)
    }
}

/// `FS_XFLAG_IMMUTABLE` of `linux/fs.h`.
const IMMUTABLE: u64 = 0x8;
/// `FS_XFLAG_APPEND`.
const APPEND_ONLY: u64 = 0x10;

pub(super) fn bind(what: &Path, over: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount(what, over, c"", MountFlags::BIND, None)?)
}

pub(super) fn unbind(at: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(at, UnmountFlags::DETACH)?)
}
