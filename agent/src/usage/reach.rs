//! The way to a folder of the node's: every link on it followed, within the node, part by part.
//!
//! Before a part is looked up, the node's table of mounts says whether a server stands behind it, or whether a touch would
//! have one mounted (autofs); such a part is not looked up at all. So no name that somebody asks for, and no link that
//! somebody planted, makes a thread wait for a server that does not answer. An absolute link is the node's also where the
//! node's root is mounted somewhere else here.
//!
//! Invariants: no part is looked up through another mount than the table shows there; nothing is opened, only referred to
//! (`O_PATH`, open(2)).
//!
//! Limits: [`MAX_LINKS`] links and [`MAX_PARTS`] parts on one way. Links of procfs that are no text (`/proc/PID/root`,
//! proc_pid_root(5)) are refused: what lies behind them has names in that process's mounts, which are not the node's.
//!
//! Deliberately absent: waiting. A local disk that hangs is waited for like any other.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::place::table;
use crate::sample::Roots;
use crate::sample::mountinfo::{self, Entry};

/// Links on one way, as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Lookups on one way: each link may be as long as a path (PATH_MAX), and `..` in it begins again at the root.
const MAX_PARTS: usize = 4_096;
/// Attempts at a lookup that lost a race with a rename elsewhere.
const TRIES: u32 = 8;

/// Where a way ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// As the node calls it, without links.
    pub(super) path: PathBuf,
    /// The same, seen from here.
    pub(super) at: PathBuf,
    /// The mount that it lies on; `None`: nobody looked.
    pub(super) mount: Option<String>,
}

/// Why a folder is not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoWay {
    /// There is no such thing.
    #[error("{0}")]
    Absent(String),
    /// A server stands behind it.
    #[error("{0}")]
    Remote(String),
    /// For another reason.
    #[error("{0}")]
    Other(String),
}

/// Follows the absolute `path` of the node to its end.
pub(super) fn reach(roots: &Roots, path: &Path) -> Result<Reached, NoWay> {
    if !path.is_absolute() {
        return Err(NoWay::Absent(format!("{} is no absolute path; write it from /", path.display())));
    }
    let text = table(roots).map_err(NoWay::Other)?;
    let parsed = mountinfo::parse(&text);
    // Of several at one place the last is the one that is seen.
    let mounts = parsed.entries.iter().map(|e| (&*e.path, e)).collect();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&roots.rootfs, flags, Mode::empty())
        .map_err(|e| NoWay::Other(format!("{} cannot be opened: {e}", roots.rootfs.display())))?;
    let mut way = Way { asked: path, mounts, root, here: None, names: Vec::new(), ahead: Vec::new() };
    way.put(path);
    let mount = way.go()?;
    let relative: PathBuf = way.names.iter().collect();
    Ok(Reached { path: Path::new("/").join(&relative), at: roots.rootfs.join(&relative), mount: Some(mount) })
}

/// A part of a path that is still to be gone.
#[derive(Debug)]
enum Part {
    Up,
    Down(OsString),
}

struct Way<'t> {
    asked: &'t Path,
    mounts: HashMap<&'t [u8], &'t Entry<'t>>,
    root: OwnedFd,
    /// What `names` lead to; `None`: the root, or it is to be looked up again.
    here: Option<OwnedFd>,
    /// From the root to here, no link among them.
    names: Vec<OsString>,
    /// What is left, the next one last.
    ahead: Vec<Part>,
}

impl Way<'_> {
    /// Puts the parts of `path` before what is left.
    fn put(&mut self, path: &Path) {
        let parts = path.components().rev().filter_map(|c| match c {
            Component::Normal(name) => Some(Part::Down(name.to_owned())),
            Component::ParentDir => Some(Part::Up),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        self.ahead.extend(parts);
        if path.is_absolute() {
            self.names.clear();
            self.here = None;
        }
    }

    /// Goes to the end; the mount there.
    fn go(&mut self) -> Result<String, NoWay> {
        let (mut links, mut parts) = (0, 0);
        while let Some(part) = self.ahead.pop() {
            parts += 1;
            if parts > MAX_PARTS || links > MAX_LINKS {
                let asked = self.asked.display();
                return Err(NoWay::Other(format!(
                    "{asked} leads through too many links; name the folder itself"
                )));
            }
            match part {
                Part::Up => {
                    self.names.pop();
                    self.here = None;
                }
                // After `..`: again from the root, over names that are no links.
                Part::Down(name) if self.here.is_none() && !self.names.is_empty() => {
                    self.ahead.push(Part::Down(name));
                    self.ahead.extend(std::mem::take(&mut self.names).into_iter().rev().map(Part::Down));
                    // The first step is from the root, so that this comes once for each `..`.
                    if let Some(Part::Down(first)) = self.ahead.pop() {
                        links += usize::from(self.step(first)?);
                    }
                }
                Part::Down(name) => links += usize::from(self.step(name)?),
            }
        }
        let path = self.lexical();
        let mount = self.covering(&path);
        let mount =
            mount.ok_or_else(|| NoWay::Absent(format!("{} lies on no mount", self.asked.display())))?;
        self.may_be_touched(mount)?;
        if *mount.fs == *b"autofs" {
            return Err(self.remote(mount));
        }
        Ok(String::from_utf8_lossy(&mount.path).into_owned())
    }

    /// One part further; whether that was a link, which is then ahead.
    fn step(&mut self, name: OsString) -> Result<bool, NoWay> {
        self.names.push(name.clone());
        let lexical = self.lexical();
        let mounted = self.mounts.get(lexical.as_os_str().as_bytes()).copied();
        self.names.pop();
        let mut how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match mounted {
            Some(mount) => self.may_be_touched(mount)?,
            None => {
                how |= ResolveFlags::NO_XDEV;
                // To look up what is not mounted there would have it mounted.
                let on = self.covering(&self.lexical());
                if let Some(on) = on.filter(|m| *m.fs == *b"autofs") {
                    return Err(self.remote(on));
                }
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = self.here.as_ref().unwrap_or(&self.root);
        let fd = lookup(from, &name, flags, how).map_err(|e| self.cannot(&lexical, e))?;
        let facts = rustix::fs::fstat(&fd).map_err(|e| self.cannot(&lexical, e))?;
        if FileType::from_raw_mode(facts.st_mode) != FileType::Symlink {
            self.names.push(name);
            self.here = Some(fd);
            return Ok(false);
        }
        let is_proc = rustix::fs::fstatfs(&fd).is_ok_and(|s| s.f_type == rustix::fs::PROC_SUPER_MAGIC);
        let plain = OFlags::PATH | OFlags::CLOEXEC;
        if is_proc && lookup(from, &name, plain, ResolveFlags::NO_MAGICLINKS).err() == Some(Errno::LOOP) {
            return Err(NoWay::Other(format!(
                "{} leads into the mounts of a process, whose names are not the node's; name the folder by its path on the \
                 node",
                lexical.display()
            )));
        }
        let target = rustix::fs::readlinkat(&fd, c"", Vec::new()).map_err(|e| self.cannot(&lexical, e))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        self.put(&target);
        Ok(true)
    }

    fn lexical(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        path.extend(&self.names);
        path
    }

    /// The mount that `path`, which has no links, lies on.
    fn covering(&self, path: &Path) -> Option<&Entry<'_>> {
        path.ancestors().find_map(|at| self.mounts.get(at.as_os_str().as_bytes()).copied())
    }

    fn may_be_touched(&self, mount: &Entry<'_>) -> Result<(), NoWay> {
        if mount.is_remote() { Err(self.remote(mount)) } else { Ok(()) }
    }

    fn remote(&self, mount: &Entry<'_>) -> NoWay {
        let (asked, fs) = (self.asked.display(), String::from_utf8_lossy(&mount.fs));
        let at = Path::new(OsStr::from_bytes(&mount.path)).display();
        NoWay::Remote(format!("{asked} is served from elsewhere ({fs} at {at}) and is not walked from here"))
    }

    fn cannot(&self, at: &Path, error: Errno) -> NoWay {
        let at = at.display();
        match error {
            Errno::NOENT | Errno::NOTDIR => NoWay::Absent(format!("{}: {error}", self.asked.display())),
            Errno::XDEV => NoWay::Other(format!(
                "at {at} something is mounted that the node's table of mounts does not show there; ask again"
            )),
            other => NoWay::Other(format!("{at} cannot be looked up: {other}")),
        }
    }
}

fn lookup(from: &OwnedFd, name: &OsStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(from, name, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
