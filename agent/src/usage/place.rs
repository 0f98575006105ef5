//! Where the node's mounts are, seen from here: which may be walked, which one a path lies on, and what they say of themselves.
//!
//! A filesystem that is served from elsewhere is refused by the table of mounts alone, before anything asks it: a thread that
//! waits for a server which does not answer could not be stopped. So is one to which the way leads over such a filesystem.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::entry::open_top;
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
    local(&mountinfo::parse(&table).entries, mount)?;
    Ok(seen(roots, Path::new(OsStr::from_bytes(mount.as_bytes()))))
}

/// What `entries` show at `mount`.
///
/// # Errors
/// Nothing is mounted there, or a server stands behind it or behind a folder on the way, and may not answer.
pub(super) fn local<'t, 'a>(
    entries: &'t [mountinfo::Entry<'a>],
    mount: &str,
) -> Result<&'t mountinfo::Entry<'a>, String> {
    // The last one mounted at a path is the one that is seen.
    let at = |path: &Path| entries.iter().rev().find(|e| *e.path == *path.as_os_str().as_bytes());
    let mut way = Path::new(mount).ancestors();
    let entry = way.next().and_then(at).ok_or_else(|| format!("nothing is mounted at {mount} any more"))?;
    // What lies on a root that is served from elsewhere is reached with it, or nothing is.
    let remote = way.filter(|p| p.parent().is_some()).filter_map(at).chain([entry]).find(|e| e.is_remote());
    match remote {
        Some(remote) => {
            let (fs, path) = (String::from_utf8_lossy(&remote.fs), String::from_utf8_lossy(&remote.path));
            Err(format!("{mount} is served from elsewhere ({fs} at {path})"))
        }
        None => Ok(entry),
    }
}

/// A path of the node's, seen from here.
pub(super) fn seen(roots: &Roots, path: &Path) -> PathBuf {
    roots.rootfs.join(path.strip_prefix("/").unwrap_or(path))
}

/// The mounts that are walked without being asked: those that are watched, on a disk of this machine.
pub(super) fn walked(roots: &Roots) -> Vec<String> {
    let Ok(table) = table(roots) else { return Vec::new() };
    let parsed = mountinfo::parse(&table);
    let local = |e: &&mountinfo::Entry<'_>| {
        local(&parsed.entries, &String::from_utf8_lossy(&e.path)).is_ok()
            && !IN_MEMORY.contains(&&*e.fs)
            && !e.is_read_only()
            && *e.fs != *b"overlay"
    };
    let watched = mountinfo::select(&parsed.entries).into_iter();
    watched.filter(local).filter_map(|e| String::from_utf8(e.path.to_vec()).ok()).collect()
}

pub(super) fn table(roots: &Roots) -> Result<Vec<u8>, String> {
    read_bounded(&roots.mountinfo).map_err(|e| format!("{} cannot be read: {e}", roots.mountinfo.display()))
}

/// What the filesystem that holds `path` says of itself.
pub(super) fn filesystem(path: &Path, walked_whole: bool) -> std::io::Result<Filesystem> {
    let fs = rustix::fs::fstatvfs(open_top(path)?)?;
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
36 32 259:5 / /srv/disk rw - ext4 /dev/behind rw
34 31 0:60 / /var/lib/c/merged rw - overlay overlay rw,lowerdir=/var/lib/l,upperdir=/var/lib/u,workdir=/var/lib/w
";

    fn roots(dir: &Path) -> Roots {
        let mountinfo = dir.join("mountinfo");
        std::fs::write(&mountinfo, TABLE).unwrap();
        Roots { mountinfo, rootfs: dir.to_owned(), ..Roots::default() }
    }

    #[test]
    fn local_disks_are_walked_and_what_is_behind_a_server_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        assert_eq!(walked(&roots), ["/", "/var/lib"]);
        assert_eq!(on_node(&roots, "/var/lib"), Ok(dir.path().join("var/lib")));
        assert!(on_node(&roots, "/srv").unwrap_err().contains("served from elsewhere"));
        let behind = on_node(&roots, "/srv/disk").unwrap_err();
        assert_eq!(
            behind, "/srv/disk is served from elsewhere (nfs4 at /srv)",
            "the way to it leads over a server"
        );
        assert!(on_node(&roots, "/gone").unwrap_err().contains("nothing is mounted"));
    }
}
