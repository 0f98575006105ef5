//! Where the node's mounts are, seen from here: which may be walked, which one a path lies on, and what they say of themselves.
//!
//! A filesystem that is served from elsewhere is refused by the table of mounts alone, before anything asks it: a thread that
//! waits for a server which does not answer could not be stopped.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::open_files::read_bounded;
use super::show::Filesystem;
use crate::sample::{Roots, mountinfo};

/// Types that only memory holds: who writes there is told by what holds memory.
const IN_MEMORY: [&[u8]; 2] = [b"tmpfs", b"devtmpfs"];

/// Where `mount` is, seen from here.
///
/// # Errors
/// Nothing is mounted there, or it may not answer.
pub(super) fn on_node(roots: &Roots, mount: &str) -> Result<PathBuf, String> {
    let table = table(roots)?;
    let parsed = mountinfo::parse(&table);
    // The last one mounted there is the one that is seen.
    let entry = parsed.entries.iter().rev().find(|e| *e.path == *mount.as_bytes());
    let entry = entry.ok_or_else(|| format!("nothing is mounted at {mount} any more"))?;
    if entry.is_remote() {
        return Err(format!("{mount} is served from elsewhere ({})", String::from_utf8_lossy(&entry.fs)));
    }
    Ok(seen(roots, Path::new(OsStr::from_bytes(mount.as_bytes()))))
}

/// A path of the node's, seen from here.
pub(super) fn seen(roots: &Roots, path: &Path) -> PathBuf {
    roots.rootfs.join(path.strip_prefix("/").unwrap_or(path))
}

/// A path that is seen here, as the node calls it.
pub(super) fn called(roots: &Roots, path: &Path) -> PathBuf {
    path.strip_prefix(&roots.rootfs).map_or_else(|_| path.to_owned(), |p| Path::new("/").join(p))
}

/// Why no mount could be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoMount {
    pub(super) why: String,
    /// Whether there is no such thing.
    pub(super) absent: bool,
}

/// The mount that the folder `path` of the node lies on, by the longest name; `path` without links or `..`.
pub(super) fn mount_of(roots: &Roots, path: &Path) -> Result<String, NoMount> {
    let no = |why: String, absent| NoMount { why, absent };
    let plain = path.is_absolute() && !path.components().any(|c| matches!(c, Component::ParentDir));
    if !plain {
        return Err(no(format!("{} is no plain absolute path; write it from /", path.display()), true));
    }
    let table = table(roots).map_err(|why| no(why, false))?;
    let parsed = mountinfo::parse(&table);
    let holds = |e: &&mountinfo::Entry<'_>| path.starts_with(OsStr::from_bytes(&e.path));
    // Of several at one place the last is the one that is seen.
    let entry = parsed.entries.iter().filter(holds).max_by_key(|e| e.path.len());
    let entry = entry.ok_or_else(|| no(format!("{} lies on no mount", path.display()), true))?;
    let mount = String::from_utf8_lossy(&entry.path).into_owned();
    if entry.is_remote() {
        let fs = String::from_utf8_lossy(&entry.fs);
        return Err(no(
            format!("{} is served from elsewhere ({fs}) and is not walked from here", path.display()),
            false,
        ));
    }
    Ok(mount)
}

/// The mounts that are walked without being asked: those that are watched, on a disk of this machine.
pub(super) fn walked(roots: &Roots) -> Vec<String> {
    let Ok(table) = table(roots) else { return Vec::new() };
    let parsed = mountinfo::parse(&table);
    let local = |e: &&mountinfo::Entry<'_>| {
        !e.is_remote() && !IN_MEMORY.contains(&&*e.fs) && !e.is_read_only() && *e.fs != *b"overlay"
    };
    let watched = mountinfo::select(&parsed.entries).into_iter();
    watched.filter(local).filter_map(|e| String::from_utf8(e.path.to_vec()).ok()).collect()
}

fn table(roots: &Roots) -> Result<Vec<u8>, String> {
    read_bounded(&roots.mountinfo).map_err(|e| format!("{} cannot be read: {e}", roots.mountinfo.display()))
}

/// What the filesystem that holds `path` says of itself.
pub(super) fn filesystem(path: &Path, walked_whole: bool) -> std::io::Result<Filesystem> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(Filesystem {
        total_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
        used_bytes: fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize),
        available_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
        inodes: fs.f_files,
        used_inodes: fs.f_files.saturating_sub(fs.f_ffree),
        walked_whole,
    })
}

/// Whether `mount` shows a filesystem from its top: a part that is mounted by itself, or a container's overlay, reports
/// figures of more than what lies in it.
pub(super) fn is_whole(roots: &Roots, mount: &Path) -> bool {
    let Ok(table) = table(roots) else { return false };
    let parsed = mountinfo::parse(&table);
    let last = parsed.entries.iter().rev().find(|e| *e.path == *mount.as_os_str().as_bytes());
    last.is_some_and(|e| *e.root == *b"/" && *e.fs != *b"overlay")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 259:1 / / rw - ext4 /dev/root rw
23 22 0:22 / /proc rw - proc proc rw
30 22 0:40 / /run rw - tmpfs tmpfs rw
31 22 259:3 / /var/lib rw - xfs /dev/data rw
32 22 0:50 / /srv rw - nfs4 server:/x rw
33 22 259:4 / /mnt/iso ro - ext4 /dev/ro ro
34 31 0:60 / /var/lib/c/merged rw - overlay overlay rw,lowerdir=/var/lib/l,upperdir=/var/lib/u,workdir=/var/lib/w
";

    fn roots(dir: &Path) -> Roots {
        let mountinfo = dir.join("mountinfo");
        std::fs::write(&mountinfo, TABLE).unwrap();
        Roots { mountinfo, rootfs: dir.to_owned(), ..Roots::default() }
    }

    #[test]
    fn local_disks_are_walked_and_a_path_finds_its_mount() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        assert_eq!(walked(&roots), ["/", "/var/lib"]);
        assert_eq!(mount_of(&roots, Path::new("/var/lib/x/y")).as_deref(), Ok("/var/lib"));
        assert_eq!(mount_of(&roots, Path::new("/var/log")).as_deref(), Ok("/"));
        assert!(mount_of(&roots, Path::new("/srv/x")).unwrap_err().why.contains("nfs4"));
        for path in ["var", "/var/../etc"] {
            assert!(mount_of(&roots, Path::new(path)).unwrap_err().absent, "{path}");
        }
        assert_eq!(on_node(&roots, "/var/lib"), Ok(dir.path().join("var/lib")));
        assert!(on_node(&roots, "/srv").unwrap_err().contains("served from elsewhere"));
        assert!(on_node(&roots, "/gone").unwrap_err().contains("nothing is mounted"));
        assert_eq!(called(&roots, &dir.path().join("var/lib/a")), Path::new("/var/lib/a"));
    }
}
