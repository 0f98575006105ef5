//! Where a path really lies: what is left of it once every symbolic link on the way is followed.
//!
//! Resolved by `openat2` with `RESOLVE_IN_ROOT`, so that an absolute link of a host that is mounted somewhere else is
//! followed within that host. What is not there yet keeps its last parts: a file that appears later is met all the same.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Attempts at a lookup that lost a race with a rename elsewhere.
const TRIES: u32 = 8;

/// Where `path` of the host really lies, seen through `host_root` and through this process's own root. Empty where
/// nothing can be looked up.
pub(super) fn real_paths(host_root: &Path, path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in [Path::new("/"), host_root] {
        // As it was named, where only the root differs.
        found.extend(path.strip_prefix("/").map(|rest| root.join(rest)));
        found.extend(real_path(root, path));
    }
    found.sort();
    found.dedup();
    found
}

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its path on the host, no symbolic link in it.
    pub path: PathBuf,
    /// The `st_dev` of what it lies on.
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
    let device = rustix::fs::fstat(&fd).map_err(unreadable)?.st_dev;
    let link = |fd: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let (real, root) = (link(&fd), link(&folder));
    let (real, root) = real.and_then(|real| Ok((real, root?))).map_err(|e| e.to_string())?;
    let path = real.strip_prefix(&root).map_or_else(|_| path.to_owned(), |rest| Path::new("/").join(rest));
    Ok(Some(Place { path, device }))
}

fn real_path(root: &Path, path: &Path) -> Option<PathBuf> {
    let folder =
        rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut there = path.to_owned();
    let mut missing = Vec::new();
    loop {
        match open_in(&folder, &there) {
            Ok(fd) => {
                let mut real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
                real.extend(missing.iter().rev());
                return Some(real);
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {
                missing.push(there.file_name()?.to_owned());
                there.pop();
            }
            Err(_) => return None,
        }
    }
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
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_within_the_root_and_what_is_missing_keeps_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let host = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(host.join("data/logs")).unwrap();
        std::fs::create_dir(host.join("var")).unwrap();
        // Absolute, as the host sees it.
        symlink("/data/logs", host.join("var/log")).unwrap();
        let real = real_paths(&host, Path::new("/var/log/new/app.log.1"));
        assert!(real.contains(&host.join("data/logs/new/app.log.1")), "{real:?}");
        assert!(real.contains(&host.join("var/log/new/app.log.1")), "{real:?}");
        let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(&host).unwrap());
        let place = |path: &str| Ok(Some(Place { path: path.into(), device }));
        assert_eq!(find(&host, Path::new("/var/log")), place("/data/logs"));
        assert_eq!(find(&host, Path::new("/")), place("/"));
        assert_eq!(find(&host, Path::new("/var/log/new")), Ok(None));
        assert!(
            find(&host.join("gone"), Path::new("/var")).unwrap_err().contains("/var cannot be looked at")
        );
        let own = real_paths(Path::new("/"), &host.join("data/../data/logs"));
        assert!(own.contains(&host.join("data/logs")), "{own:?}");
    }
}
