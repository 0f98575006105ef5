//! Where a path really lies: what is left of it once every symbolic link on the way is followed.
//!
//! An absolute link of a host that is mounted somewhere else is followed within that host. What is not there yet keeps its
//! last parts: a file that appears later is met all the same.
//!
//! What a server stands behind is not touched, by the table of mounts ([`Mounts`]): a lookup there may never come back, and
//! with it whoever looks. From there on a path keeps its last parts too, so that it means itself alone; links on that
//! server are not followed. One that carries a usable cleanup root ([`CleanupRoots`]) is looked at all the same: whoever
//! cleans there depends on it already, and a link there may lead to what would go. Where a path cannot be followed on a
//! server that carries any root, all that those roots reach there is what it may mean.
//!
//! What a path means under other names, by a bind mount, is told by [`Sight::spread`].
//!
//! A table that does not tell of every mount ([`Sight::untold`]) tells of none: whoever asks holds everything.
//!
//! Limits: a mount that comes between the look at the table and the lookup is met unawares. An executor whose own root is on a server that falls silent waits with it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::aside::Aside;
use super::executor::RootStatus;
use super::hold::Hold;
use super::other_names::{Footing, OtherNames, spread};
use crate::sample::{mountinfo, superblock};

/// The table of mounts is read to here: a container's line takes up to 4 KiB.
const MAX_TABLE_BYTES: u64 = 16 << 20;
/// Attempts at a lookup that lost a race with a rename elsewhere.
const TRIES: u32 = 8;

/// Most links on the way of one path, as the kernel has it (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// The cleanup roots, by their paths as this process sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanupRoots {
    /// What is cleaned; their filesystems are looked at in any case.
    pub usable: Vec<PathBuf>,
    /// What could not be opened, and may be by another executor.
    pub unusable: Vec<PathBuf>,
}

impl CleanupRoots {
    /// As an executor found them.
    pub fn of(told: &[RootStatus]) -> Self {
        let (usable, unusable): (Vec<_>, Vec<_>) = told.iter().partition(|r| r.unusable.is_none());
        let paths = |roots: Vec<&RootStatus>| roots.into_iter().map(|r| r.path.clone()).collect();
        Self { usable: paths(usable), unusable: paths(unusable) }
    }
}

/// The table of this process's mounts, open: it can be read where no file can be opened any more.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    table: Option<File>,
    /// Why there is none.
    unopened: Option<String>,
    roots: Arc<CleanupRoots>,
    /// Where the roots lay when they were opened: what is mounted over one later does not move it.
    footings: Arc<Vec<Footing>>,
}

/// What [`Mounts`] tell of one moment.
#[derive(Debug)]
pub(super) struct Sight {
    table: Vec<u8>,
    untold: Option<String>,
    roots: Arc<CleanupRoots>,
    footings: Arc<Vec<Footing>>,
}

impl Sight {
    /// Why this does not tell of every mount, or `None`: then a name may mean anything.
    pub(super) fn untold(&self) -> Option<&str> {
        self.untold.as_deref()
    }

    /// The first line of the table, by which its namespace is known.
    pub(super) fn first_line(&self) -> &[u8] {
        self.table.split(|b| *b == b'\n').next().unwrap_or_default()
    }

    /// The mounts that it tells of.
    pub(super) fn mounts(&self) -> mountinfo::Table<'_> {
        mountinfo::parse(&self.table)
    }

    /// The first of `places` (a root, and a path in it) that is the file with this device and inode, every link followed. No
    /// server is touched, so that what lies on one is not known by this.
    pub(super) fn same_file<'p>(
        &self,
        (device, inode): (u64, u64),
        places: impl IntoIterator<Item = (&'p Path, &'p Path)>,
    ) -> Option<PathBuf> {
        if self.untold.is_some() {
            return None;
        }
        let walker = Walker::new(self);
        places.into_iter().find_map(|(root, path)| {
            let end = walker.within(root, path).filter(|end| end.how == How::There)?;
            let there = std::fs::symlink_metadata(&end.path).ok()?;
            (there.dev() == device && there.ino() == inode).then_some(end.path)
        })
    }

    /// `holds`, and what they mean beneath the roots under other names.
    pub(super) fn spread(&self, holds: Vec<Hold>) -> Vec<Hold> {
        let table = mountinfo::parse(&self.table);
        let CleanupRoots { usable, unusable } = &*self.roots;
        let mut footings: Vec<Footing> =
            usable.iter().chain(unusable).filter_map(|root| Footing::of(&table, root)).collect();
        footings.extend(self.footings.iter().cloned());
        spread(holds, &table, &footings)
    }

    /// What else the roots are called, each in turn: by where it lies now, and by where it lay when it was opened.
    pub(super) fn other_names<'r>(&self, roots: impl Iterator<Item = &'r Path>) -> Vec<Vec<OtherNames>> {
        let table = mountinfo::parse(&self.table);
        let of = |root: &Path| {
            let mut all: Vec<OtherNames> = Vec::new();
            let then = self.footings.iter().filter(|f| f.is_of(root)).cloned();
            for footing in Footing::of(&table, root).into_iter().chain(then) {
                let names = OtherNames::of(&table, &footing);
                if !all.contains(&names) {
                    all.push(names);
                }
            }
            all
        };
        roots.map(of).collect()
    }
}

impl Mounts {
    /// Opens it.
    pub(super) fn open(roots: CleanupRoots) -> Self {
        let (table, unopened) = match File::open("/proc/thread-self/mountinfo") {
            Ok(table) => (Some(table), None),
            Err(e) => (None, Some(format!("the table of mounts cannot be opened: {e}"))),
        };
        let mut mounts = Self { table, unopened, roots: Arc::new(roots), footings: Arc::default() };
        let sight = mounts.read();
        let table = mountinfo::parse(&sight.table);
        let footings = sight.roots.usable.iter().filter_map(|root| Footing::of(&table, root));
        mounts.footings = Arc::new(footings.collect());
        mounts
    }

    /// Whether anything was mounted or unmounted since this was asked for last (poll(2) on it: proc_pid_mounts(5)).
    pub(super) fn changed(&self) -> bool {
        let Some(table) = &self.table else { return false };
        let mut asked = [PollFd::new(table, PollFlags::PRI)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Where nobody can tell, it is looked at.
        poll(&mut asked, Some(&now)).is_err()
            || asked[0].revents().intersects(PollFlags::PRI | PollFlags::ERR)
    }

    /// The same roots by another table.
    #[cfg(test)]
    pub(super) fn told_by(&self, table: File) -> Self {
        Self { table: Some(table), roots: Arc::clone(&self.roots), ..Self::default() }
    }

    /// The table of this moment, bounded by [`MAX_TABLE_BYTES`].
    pub(super) fn read(&self) -> Sight {
        let mut text = Vec::new();
        let mut untold = self.unopened.clone();
        let mut piece = vec![0; 64 << 10];
        while let Some(file) = &self.table {
            if text.len() >= MAX_TABLE_BYTES as usize {
                let read = MAX_TABLE_BYTES >> 20;
                untold = Some(format!("the table of mounts is longer than is read of it ({read} MiB)"));
                break;
            }
            match file.read_at(&mut piece, text.len() as u64) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    untold = Some(format!("the table of mounts cannot be read: {e}"));
                    break;
                }
            }
        }
        let untold = untold.or_else(|| mountinfo::parse(&text).lacks());
        Sight { table: text, untold, roots: Arc::clone(&self.roots), footings: Arc::clone(&self.footings) }
    }
}

/// Where `path` of the host really lies, seen through `host_root` and through this process's own root, and what else it
/// may mean. Where nothing can be looked up, as it was named alone.
pub(super) fn real_paths(host_root: &Path, path: &Path, sight: &Sight) -> Vec<PathBuf> {
    let walker = Walker::new(sight);
    let mut found = Vec::new();
    for root in [Path::new("/"), host_root] {
        // As it was named, where only the root differs.
        found.extend(path.strip_prefix("/").map(|rest| root.join(rest)));
        if let Some(end) = walker.within(root, path) {
            found.push(end.path);
            found.extend(end.perhaps);
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether nothing is at `path` of the host; of what is not touched nobody says so.
pub(super) fn is_absent(host_root: &Path, path: &Path, sight: &Sight) -> bool {
    Walker::new(sight).within(host_root, path).is_some_and(|end| end.how == How::Absent)
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Something is there.
    There,
    /// Nothing is.
    Absent,
    /// A server stands behind it; it was not touched, or cannot be looked at.
    Elsewhere,
}

/// Where a walk ended.
struct End {
    path: PathBuf,
    how: How,
    /// What else the path may mean, since nobody followed it to its end.
    perhaps: Vec<PathBuf>,
}

impl End {
    fn of(path: PathBuf, how: How) -> Self {
        Self { path, how, perhaps: Vec::new() }
    }
}

/// What stands behind a path.
enum Behind<'w> {
    /// This machine.
    Here,
    /// A server, on this mount as far as the table tells; whether a usable root lies on it.
    Server { mount: Option<&'w mountinfo::Entry<'w>>, cleaned: bool },
}

/// A filesystem, by its number in the table.
type Device = (u32, u32);

/// Follows paths by one table of mounts.
struct Walker<'t> {
    table: mountinfo::Table<'t>,
    /// Where servers are mounted.
    servers: Vec<PathBuf>,
    /// The roots that lie on servers, and whether each is usable.
    served_roots: Vec<(Device, &'t Path, bool)>,
}

impl<'t> Walker<'t> {
    fn new(sight: &'t Sight) -> Self {
        let table = mountinfo::parse(&sight.table);
        let servers = table.entries.iter().filter(|e| is_elsewhere(e));
        let servers: Vec<_> = servers.map(|e| PathBuf::from(OsStr::from_bytes(&e.path))).collect();
        let CleanupRoots { usable, unusable } = &*sight.roots;
        let roots = usable.iter().map(|r| (r, true)).chain(unusable.iter().map(|r| (r, false)));
        // A root has no link in its path: whoever opens it refuses them.
        let served = |(root, usable): (&'t PathBuf, bool)| {
            let beneath = servers.iter().any(|server| root.starts_with(server));
            let mount = beneath.then(|| table.mount_of(root.as_os_str().as_bytes()))??;
            let mount = is_elsewhere(mount).then_some(mount)?;
            Some((device(mount), root.as_path(), usable))
        };
        let served_roots = roots.filter(|_| !servers.is_empty()).filter_map(served).collect();
        Self { table, servers, served_roots }
    }

    /// Where `path` ends in `root`, every link followed within it.
    fn within(&self, root: &Path, path: &Path) -> Option<End> {
        let top =
            if root == Path::new("/") { root.to_owned() } else { self.follow(Path::new("/"), root)?.path };
        self.follow(&top, path)
    }

    /// The same where `top` has no link in it. `None`: it cannot be looked up, or goes in circles.
    fn follow(&self, top: &Path, path: &Path) -> Option<End> {
        // We run from there: if that did not answer, nothing would.
        let own = self.table.mount_of(top.as_os_str().as_bytes()).map(|m| m.id);
        let mut here = top.to_owned();
        let mut left = parts(path);
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                if here != top {
                    here.pop();
                }
                continue;
            }
            here.push(&part);
            let behind = self.behind(&here, own);
            if let Behind::Server { mount, cleaned: false } = behind {
                here.extend(left.into_iter().rev());
                return Some(End { path: here, how: How::Elsewhere, perhaps: self.cleanable_on(mount) });
            }
            match rustix::fs::readlink(&here, Vec::new()) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
                    if target.is_absolute() {
                        here = top.to_owned();
                    } else {
                        here.pop();
                    }
                    left.extend(parts(&target));
                }
                // There, and no link.
                Err(Errno::INVAL) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    here.extend(left.into_iter().rev());
                    return Some(End::of(here, How::Absent));
                }
                // Nothing has such a name.
                Err(Errno::NAMETOOLONG) => return None,
                Err(_) => {
                    let Behind::Server { mount, .. } = behind else { return None };
                    here.extend(left.into_iter().rev());
                    return Some(End { path: here, how: How::Elsewhere, perhaps: self.cleanable_on(mount) });
                }
            }
        }
        Some(End::of(here, How::There))
    }

    /// What stands behind `path`; the mount `own` counts as this machine.
    fn behind(&self, path: &Path, own: Option<u32>) -> Behind<'_> {
        if !self.servers.iter().any(|server| path.starts_with(server)) {
            return Behind::Here;
        }
        match self.table.mount_of(path.as_os_str().as_bytes()) {
            None => Behind::Server { mount: None, cleaned: false },
            Some(m) if !is_elsewhere(m) || own == Some(m.id) => Behind::Here,
            Some(m) => {
                let on = |(at, _, usable): &(Device, &Path, bool)| *usable && *at == device(m);
                // A touch would mount what is not there yet, so that no root can be on it.
                let cleaned = m.is_remote() && self.served_roots.iter().any(on);
                Behind::Server { mount: Some(m), cleaned }
            }
        }
    }

    /// The mount and the roots that lie on its filesystem, wherever that is mounted too; nothing where none does.
    fn cleanable_on(&self, mount: Option<&mountinfo::Entry<'_>>) -> Vec<PathBuf> {
        let Some(mount) = mount else { return Vec::new() };
        let here = self.served_roots.iter().filter(|(at, ..)| *at == device(mount));
        let mut all: Vec<PathBuf> = here.map(|(_, root, _)| root.to_path_buf()).collect();
        if !all.is_empty() {
            all.push(PathBuf::from(OsStr::from_bytes(&mount.path)));
        }
        all
    }
}

fn device(mount: &mountinfo::Entry<'_>) -> Device {
    (mount.dev_major, mount.dev_minor)
}

/// Whether a server stands behind the mount, or a touch would mount it.
pub(super) fn is_elsewhere(mount: &mountinfo::Entry<'_>) -> bool {
    mount.is_remote() || &*mount.fs == b"autofs"
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let named = |part: Component<'_>| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().rev().filter_map(named).collect()
}

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path on the host, no symbolic link in it.
    pub path: PathBuf,
    /// The filesystem that it lies on: the device number in the table of mounts.
    pub device: u64,
}

/// Where `path` of the host lies on the host, every link followed; `None` where nothing is there.
///
/// # Errors
/// Why nobody can tell.
pub(super) fn find(host_root: &Path, path: &Path) -> Result<Option<Place>, String> {
    let unreadable = |e: Errno| format!("{} cannot be looked at: {e}", path.display());
    let folder =
        rustix::fs::open(host_root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(unreadable)?;
    let fd = match open_in(&folder, path) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let device = superblock::of(&fd).map_err(unreadable)?;
    let link = |fd: &OwnedFd| std::fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()));
    let (real, root) = (link(&fd), link(&folder));
    let (real, root) = real.and_then(|real| Ok((real, root?))).map_err(|e| e.to_string())?;
    let path = real.strip_prefix(&root).map_or_else(|_| path.to_owned(), |rest| Path::new("/").join(rest));
    Ok(Some(Place { path, device }))
}

/// [`find`] for a path that anybody may name: what is served from elsewhere is not touched, and what does not answer is
/// left alone, as [`Aside`] does.
///
/// # Errors
/// Why nobody can tell.
pub(super) fn find_apart(host_root: &Path, path: &Path, aside: &Aside) -> Result<Option<Place>, String> {
    let own = host_root == Path::new("/");
    // With the host's PID namespace, its process 1 has the host's table.
    let table = if own { "/proc/thread-self/mountinfo".into() } else { host_root.join("proc/1/mountinfo") };
    if let Some((mount, fs)) = served_from_elsewhere(&table, path) {
        return Err(format!(
            "{} is on {mount}, a filesystem of type {fs} that is served from elsewhere and may never answer, so it is not \
             looked at; name the mount point of a local filesystem",
            path.display()
        ));
    }
    let (root, path) = (host_root.to_owned(), path.to_owned());
    aside.look(&path.clone(), move || find(&root, &path))?
}

/// The mount that `path` is on by its name, and its type, where a server stands behind that, or where a touch would mount
/// it. A link may lead there all the same.
fn served_from_elsewhere(table: &Path, path: &Path) -> Option<(String, String)> {
    let mut text = Vec::new();
    // Without a table, and of what it does not tell, the time is the only bound.
    std::fs::File::open(table).ok()?.take(MAX_TABLE_BYTES).read_to_end(&mut text).ok()?;
    let parsed = mountinfo::parse(&text);
    let holds = |mount: &[u8]| path.starts_with(OsStr::from_bytes(mount));
    // Of those at the same path, the last one mounted is the one that is seen.
    let mount = parsed.entries.iter().filter(|e| holds(&e.path)).max_by_key(|e| e.path.len())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    is_elsewhere(mount).then(|| (text(&mount.path), text(&mount.fs)))
}

fn open_in(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut tries = 0;
    loop {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

#[cfg(test)]
#[path = "real_path_tests.rs"]
mod tests;
