//! What the node calls a file that a process has open.
//!
//! A process in a mount namespace of its own calls a file by a name that on the node leads nowhere, or to another file. Its
//! own table of mounts says which folder of the filesystem stands behind that name, and the node's table where that folder
//! is. The name found so is looked up and must lead to the same inode; else the node's name is unknown.
//!
//! Invariants: nothing is opened, and no link followed; nothing is looked up on, or through, a filesystem that is served from
//! elsewhere.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};

use crate::sample::Roots;
use crate::sample::mountinfo::{self, Entry};

/// Longest table of mounts that is read.
const MAX_TABLE_BYTES: u64 = 16 << 20;
/// Mounts of one filesystem that are tried for a name: a node has one or two, with what is mounted for pods some hundred.
const MAX_NAMES: usize = 256;

/// A file by what its process calls it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    /// The mount that is spoken of.
    pub(super) mount: Option<&'a Path>,
    /// Its name there.
    pub(super) path: &'a Path,
    /// Where on the node the overlay that it lies on keeps it.
    pub(super) upper: Option<&'a Path>,
    /// `st_dev`, of the overlay where it lies on one.
    pub(super) device: u64,
    /// `st_ino`.
    pub(super) inode: u64,
    /// Whether no name leads to it any more.
    pub(super) is_deleted: bool,
    /// Who calls it so.
    pub(super) pid: u32,
    /// Whether that process sees the node's mounts.
    pub(super) sees_the_host: bool,
}

/// What the node calls it, or called it where it is deleted; `None`: unknown.
pub(super) fn on_host(roots: &Roots, file: Named<'_>) -> Option<PathBuf> {
    let node = table(&roots.mountinfo)?;
    let node = mountinfo::parse(&node).entries;
    let is_it = |path: &Path| {
        let on = over(&node, path)?;
        let same = !on.is_remote()
            && !leads_over_a_server(&node, path)
            && facts(roots, path)
                // An overlay shows the inode of the layer beneath, and a device of its own.
                .is_some_and(|s| s.st_ino == file.inode && (file.upper.is_some() || s.st_dev == file.device));
        same.then_some(())
    };
    // No name of what is deleted can be looked up; the node's own processes call it what it was called.
    let is_as_called = if file.is_deleted { file.sees_the_host } else { is_it(file.path).is_some() };
    let is_as_called = file.upper.is_none() && is_as_called;
    let at_mount = |path: &Path| file.mount.is_none_or(|mount| path.starts_with(mount));
    let as_called = is_as_called.then(|| file.path.to_owned());
    if as_called.as_deref().is_some_and(at_mount) {
        return as_called;
    }
    // Where the filesystem is mounted twice, the name beneath the mount that is spoken of is better than another.
    let names = as_mounted(roots, &node, file, |path| file.is_deleted || is_it(path).is_some());
    let best = names.iter().find(|path| at_mount(path)).cloned();
    best.or(as_called).or_else(|| names.into_iter().next())
}

/// What the mounts of its process make of its name on the node, as far as `is_it` holds of it.
fn as_mounted(
    roots: &Roots,
    node: &[Entry<'_>],
    file: Named<'_>,
    is_it: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let Some(theirs) = table(&roots.proc.join(file.pid.to_string()).join("mountinfo")) else {
        return Vec::new();
    };
    let theirs = mountinfo::parse(&theirs).entries;
    let Some(mount) = over(&theirs, file.path) else { return Vec::new() };
    let Ok(rest) = file.path.strip_prefix(path(&mount.path)) else { return Vec::new() };
    let within = join(&mount.root, rest);
    let mut names: Vec<PathBuf> = match file.upper {
        Some(upper) => vec![upper.join(within.strip_prefix("/").unwrap_or(&within))],
        None => {
            let same = |e: &&Entry<'_>| (e.dev_major, e.dev_minor) == (mount.dev_major, mount.dev_minor);
            let name = |e: &Entry<'_>| Some(join(&e.path, within.strip_prefix(path(&e.root)).ok()?));
            node.iter().filter(same).take(MAX_NAMES).filter_map(name).collect()
        }
    };
    names.retain(|name| is_it(name));
    names
}

/// Whether a filesystem that is served from elsewhere, other than the root, is mounted on the way to `name`.
fn leads_over_a_server(table: &[Entry<'_>], name: &Path) -> bool {
    table.iter().any(|e| e.is_remote() && *e.path != *b"/" && name.starts_with(path(&e.path)))
}

/// What is at `path` of the node, where no part of that is a link: what a process calls so may be a link elsewhere, and lead to
/// a server that does not answer.
fn facts(roots: &Roots, path: &Path) -> Option<Stat> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(&roots.rootfs, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = path.strip_prefix("/").unwrap_or(path);
    let fd = rustix::fs::openat2(root, path, flags | OFlags::NOFOLLOW, Mode::empty(), how).ok()?;
    rustix::fs::fstat(fd).ok()
}

/// The mount that `name` lies on: of the deepest, the last one made.
fn over<'t, 'a>(table: &'t [Entry<'a>], name: &Path) -> Option<&'t Entry<'a>> {
    table.iter().filter(|e| name.starts_with(path(&e.path))).max_by_key(|e| e.path.len())
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn join(folder: &[u8], rest: &Path) -> PathBuf {
    let folder = path(folder);
    if rest.as_os_str().is_empty() { folder.to_owned() } else { folder.join(rest) }
}

fn table(at: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(at).ok()?.take(MAX_TABLE_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}
