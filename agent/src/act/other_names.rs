//! Other names of one place: what a bind mount, or a filesystem that is mounted twice, lets be reached by another path.
//!
//! A path means a place within a filesystem: the device and root of the mount that it is on (proc_pid_mountinfo(5)), and
//! what follows the mount point. Two paths with one place are one file, whatever they are called. Holds are told about
//! cleanup roots in the roots' own names ([`spread`]), and a root is asked what else it is called ([`OtherNames::of`]).
//!
//! Invariants: the table of mounts alone is read, so that no server is waited for, and what is not there yet is met too;
//! a hold only ever gains places; a root that was opened keeps the place that it had then, beside the one that its path
//! means now.
//!
//! Limits: mounts of another mount namespace are not seen, nor that a file of an overlay's lies in the folder beneath it,
//! nor that a btrfs subvolume lies in another one unless a mount shows both.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::hold::{HeldPlace, Hold};
use crate::sample::mountinfo::{Entry, Table};

/// A filesystem, by its number in the table.
type Device = (u32, u32);

/// Where a cleanup root lies within its filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footing {
    /// The root, as it is configured.
    root: PathBuf,
    device: Device,
    /// Its path from the filesystem's own root.
    inside: PathBuf,
    /// Where the mount that it is on lies, and what that shows of the filesystem.
    mount_point: PathBuf,
    mount_root: PathBuf,
}

impl Footing {
    /// By the table of now; `None` where that does not tell.
    pub(super) fn of(table: &Table<'_>, root: &Path) -> Option<Self> {
        let mount = table.mount_of(root.as_os_str().as_bytes())?;
        let inside = inside(mount, root)?;
        Some(Self {
            root: root.to_owned(),
            device: device(mount),
            inside,
            mount_point: path(&mount.path).to_owned(),
            mount_root: path(&mount.root).to_owned(),
        })
    }

    /// Whether it is the root's at `root`.
    pub(super) fn is_of(&self, root: &Path) -> bool {
        self.root == root
    }
}

/// `holds` and, where a hold means what lies beneath a root under another name, the same in the root's own name.
pub(super) fn spread(mut holds: Vec<Hold>, table: &Table<'_>, footings: &[Footing]) -> Vec<Hold> {
    if footings.is_empty() {
        return holds;
    }
    let touches = |e: &&Entry<'_>| {
        let root = path(&e.root);
        footings
            .iter()
            .any(|f| f.device == device(e) && (f.inside.starts_with(root) || root.starts_with(&f.inside)))
    };
    let mounts: Vec<&Entry<'_>> = table.entries.iter().filter(touches).collect();
    let mut more: Vec<Hold> = Vec::new();
    for hold in &holds {
        for held in held_insides(&hold.place, table, &mounts) {
            for place in footings.iter().filter_map(|f| held.beneath(f)) {
                let known = |h: &Hold| h.id == hold.id && h.place == place;
                if !known(hold) && !more.iter().any(known) {
                    more.push(Hold { place, ..hold.clone() });
                }
            }
        }
    }
    holds.extend(more);
    holds
}

/// A place within a filesystem that is held.
struct HeldInside {
    device: Device,
    path: PathBuf,
    /// Only what begins so in that folder.
    prefix: Option<OsString>,
}

impl HeldInside {
    /// What that is of what lies beneath the root.
    fn beneath(&self, footing: &Footing) -> Option<HeldPlace> {
        if self.device != footing.device {
            return None;
        }
        let from_root = self.path.strip_prefix(&footing.inside).ok().map(|rest| join(&footing.root, rest));
        match (&self.prefix, from_root) {
            (None, Some(place)) => Some(HeldPlace::Beneath(place)),
            (Some(prefix), Some(folder)) => Some(HeldPlace::Named { folder, prefix: prefix.clone() }),
            (prefix, None) => {
                // The root lies in what is held.
                let below = footing.inside.strip_prefix(&self.path).ok()?;
                let meant = prefix.as_ref().is_none_or(|prefix| begins_with(below, prefix));
                meant.then(|| HeldPlace::Beneath(footing.root.clone()))
            }
        }
    }
}

/// Where what a hold names lies: on the mount that it is on, and on the `mounts` beneath it.
fn held_insides(place: &HeldPlace, table: &Table<'_>, mounts: &[&Entry<'_>]) -> Vec<HeldInside> {
    let (top, prefix) = match place {
        HeldPlace::Beneath(top) => (top, None),
        HeldPlace::Named { folder, prefix } => (folder, Some(prefix)),
        HeldPlace::Everywhere => return Vec::new(),
    };
    let mut found = Vec::new();
    if let Some(mount) = table.mount_of(top.as_os_str().as_bytes())
        && let Some(path) = inside(mount, top)
    {
        found.push(HeldInside { device: device(mount), path, prefix: prefix.cloned() });
    }
    let beneath = mounts.iter().filter(|e| {
        let below = path(&e.path).strip_prefix(top);
        below.is_ok_and(|below| prefix.is_none_or(|prefix| begins_with(below, prefix))) && is_seen(table, e)
    });
    found.extend(beneath.map(|e| HeldInside {
        device: device(e),
        path: path(&e.root).to_owned(),
        prefix: None,
    }));
    found
}

/// What else a root is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct OtherNames {
    /// Where the mount that the root is on lies.
    pub(super) mount_point: PathBuf,
    /// The root's names by mounts that show as much of its filesystem as its own, or more.
    pub(super) whole: Vec<OtherName>,
    /// Mounts of folders that lie beneath the root (relative to it), and where they are.
    pub(super) parts: Vec<(PathBuf, PathBuf)>,
    /// The same of whatever lies beneath the root, also where another mount hides it: what is mounted keeps its inode.
    pub(super) mounted: Vec<(PathBuf, PathBuf)>,
    /// Its path within the filesystem, where its mount shows a folder of that alone.
    pub(super) inside: Option<PathBuf>,
}

/// Another name of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherName {
    /// The name.
    pub(super) path: PathBuf,
    /// Where the mount that makes it lies.
    pub(super) mount_point: PathBuf,
}

impl OtherNames {
    /// By the table of now.
    pub(super) fn of(table: &Table<'_>, footing: &Footing) -> Self {
        let mut names = Self {
            mount_point: footing.mount_point.clone(),
            inside: (footing.mount_root != Path::new("/")).then(|| footing.inside.clone()),
            ..Self::default()
        };
        for entry in table.entries.iter().filter(|e| device(e) == footing.device) {
            let (shown, at) = (path(&entry.root), path(&entry.path));
            if let Ok(below) = shown.strip_prefix(&footing.inside)
                && !below.as_os_str().is_empty()
            {
                names.mounted.push((below.to_owned(), at.to_owned()));
            }
            if at == footing.mount_point {
                continue;
            }
            if footing.mount_root.starts_with(shown) {
                let Ok(rest) = footing.inside.strip_prefix(shown) else { continue };
                let name = join(at, rest);
                if name != footing.root && is_seen(table, entry) {
                    names.whole.push(OtherName { path: name, mount_point: at.to_owned() });
                }
            } else if let Ok(below) = shown.strip_prefix(&footing.inside)
                && is_seen(table, entry)
            {
                names.parts.push((below.to_owned(), at.to_owned()));
            }
        }
        names
    }
}

/// Whether the path of a mount leads to it, and not to one that hides it.
fn is_seen(table: &Table<'_>, entry: &Entry<'_>) -> bool {
    table.mount_of(&entry.path).is_some_and(|seen| seen.id == entry.id)
}

/// Where `at`, which is on `mount`, lies within the filesystem.
fn inside(mount: &Entry<'_>, at: &Path) -> Option<PathBuf> {
    let rest = at.strip_prefix(path(&mount.path)).ok()?;
    Some(join(path(&mount.root), rest))
}

/// Without a `/` at the end where nothing follows.
fn join(folder: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { folder.to_owned() } else { folder.join(rest) }
}

fn begins_with(below: &Path, prefix: &OsStr) -> bool {
    let first = below.components().next();
    first.is_some_and(|name| name.as_os_str().as_bytes().starts_with(prefix.as_bytes()))
}

fn device(mount: &Entry<'_>) -> Device {
    (mount.dev_major, mount.dev_minor)
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
#[path = "other_names_tests.rs"]
mod tests;
