//! Where a path really lies: what is left of it once every symbolic link on the way is followed.
//!
//! An absolute link of a host that is mounted somewhere else is followed within that host. What is not there yet keeps its
//! last parts: a file that appears later is met all the same.
//!
//! What a server stands behind is not touched, by the table of mounts ([`Mounts`]): a lookup there may never come back, and
//! with it whoever looks. From there on a path keeps its last parts too, so that it means itself alone; links on that
//! server are not followed.
//!
//! Limits: a mount that comes between the look at the table and the lookup is met unawares, and so is a server where there
//! is no table.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::aside::Aside;
use crate::sample::mountinfo;

/// The table of mounts is read to here; what lies beyond is looked at all the same, with a bound of time.
const MAX_TABLE_BYTES: u64 = 4 << 20;
/// Attempts at a lookup that lost a race with a rename elsewhere.
const TRIES: u32 = 8;

/// Most links on the way of one path, as the kernel has it (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// The table of this process's mounts, open: it can be read where no file can be opened any more.
#[derive(Debug, Default)]
pub(super) struct Mounts(Option<File>);

impl Mounts {
    /// Opens it; without one nothing is known to be served from elsewhere.
    pub(super) fn open() -> Self {
        Self(File::open("/proc/thread-self/mountinfo").ok())
    }

    /// The table of this moment, bounded by [`MAX_TABLE_BYTES`].
    pub(super) fn read(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let Some(file) = &self.0 else { return text };
        let mut piece = vec![0; 64 << 10];
        while text.len() < MAX_TABLE_BYTES as usize {
            match file.read_at(&mut piece, text.len() as u64) {
                Ok(n) if n > 0 => text.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        text
    }
}

/// Where `path` of the host really lies, seen through `host_root` and through this process's own root; `table` is what
/// [`Mounts::read`] gave. Where nothing can be looked up, as it was named alone.
pub(super) fn real_paths(host_root: &Path, path: &Path, table: &[u8]) -> Vec<PathBuf> {
    let walker = Walker::new(table);
    let mut found = Vec::new();
    for root in [Path::new("/"), host_root] {
        // As it was named, where only the root differs.
        found.extend(path.strip_prefix("/").map(|rest| root.join(rest)));
        found.extend(walker.within(root, path).map(|end| end.path));
    }
    found.sort();
    found.dedup();
    found
}

/// Whether nothing is at `path` of the host; of what is not touched nobody says so.
pub(super) fn is_absent(host_root: &Path, path: &Path, table: &[u8]) -> bool {
    Walker::new(table).within(host_root, path).is_some_and(|end| end.how == How::Absent)
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Something is there.
    There,
    /// Nothing is.
    Absent,
    /// A server stands behind it; it was not touched.
    Elsewhere,
}

/// Where a walk ended.
struct End {
    path: PathBuf,
    how: How,
}

/// Follows paths by one table of mounts.
struct Walker<'t> {
    table: mountinfo::Table<'t>,
    /// Where servers are mounted.
    servers: Vec<PathBuf>,
}

impl<'t> Walker<'t> {
    fn new(table: &'t [u8]) -> Self {
        let table = mountinfo::parse(table);
        let servers = table.entries.iter().filter(|e| is_elsewhere(e));
        let servers = servers.map(|e| PathBuf::from(OsStr::from_bytes(&e.path))).collect();
        Self { table, servers }
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
            if self.is_served(&here, own) {
                here.extend(left.into_iter().rev());
                return Some(End { path: here, how: How::Elsewhere });
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
                    return Some(End { path: here, how: How::Absent });
                }
                Err(_) => return None,
            }
        }
        Some(End { path: here, how: How::There })
    }

    /// Whether `path` is on a server, which is not the mount `own`.
    fn is_served(&self, path: &Path, own: Option<u32>) -> bool {
        let served = |m: &mountinfo::Entry<'_>| is_elsewhere(m) && own != Some(m.id);
        self.servers.iter().any(|server| path.starts_with(server))
            && self.table.mount_of(path.as_os_str().as_bytes()).is_none_or(served)
    }
}

/// Whether a server stands behind the mount, or a touch would mount it.
fn is_elsewhere(mount: &mountinfo::Entry<'_>) -> bool {
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
    // Without a table, the time is the only bound.
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
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Runs `scene` in a mount namespace of its own, so that nothing is left behind and nobody else meets what hangs.
    fn in_own_namespace(scene: impl FnOnce() + Send + 'static) {
        use rustix::mount::{MountPropagationFlags, mount_change};
        let thread = std::thread::spawn(move || {
            // SAFETY: only the mount namespace (and with it the working directory) of this thread is unshared; file
            // descriptors stay shared.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
                .expect("a mount namespace needs root (CAP_SYS_ADMIN): run the tests as root");
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            scene();
        });
        thread.join().unwrap();
    }

    /// Mounts a filesystem whose server never answers; what waits for it waits until that is dropped.
    fn mount_dead(at: &Path) -> std::fs::File {
        use rustix::mount::{MountFlags, mount};
        let server = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        let server = server.expect("needs /dev/fuse and root");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("dead", at, "fuse", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        server
    }

    #[test]
    fn a_server_that_does_not_answer_costs_one_answer() {
        in_own_namespace(beside_a_dead_server);
    }

    fn beside_a_dead_server() {
        use crate::act::hold::{HeldThing, HoldSet, NodeHold};
        use crate::act::hold_line::HeldNow;
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let (share, link, there) = (base.join("share"), base.join("link"), base.join("there"));
        std::fs::create_dir(&share).unwrap();
        std::fs::write(&there, "").unwrap();
        symlink(share.join("logs"), &link).unwrap();
        let server = mount_dead(&share);
        let aside = Aside::new(std::time::Duration::from_millis(300));
        let root = Path::new("/");
        for path in [share.clone(), share.join("logs/app")] {
            let why = find_apart(root, &path, &aside).unwrap_err();
            let (path, share) = (path.display(), share.display());
            assert!(
                why.starts_with(&format!("{path} is on {share}, a filesystem of type fuse that")),
                "{why}"
            );
            assert!(why.ends_with("name the mount point of a local filesystem"), "{why}");
        }
        // A table does not tell where a link leads.
        let why = find_apart(root, &link, &aside).unwrap_err();
        assert!(why.contains("does not answer within 0.3 s"), "{why}");
        assert_eq!(find_apart(root, &there, &aside).unwrap().unwrap().path, there);

        let hold = |id: &str, path: &Path| NodeHold {
            id: id.to_owned(),
            what: HeldThing::Path(path.to_owned()),
            reason: "court".to_owned(),
        };
        let set = HoldSet::Known(vec![hold("hold-1", &link), hold("hold-2", &base.join("gone"))]);
        let now = HeldNow { set, host_root: root.to_owned() };
        // The executor looks with no bound but this: it touches nothing there.
        for places in [now.resolved_apart(&aside), now.resolved(&Mounts::open())] {
            let held = |path: &Path| places.iter().find(|p| p.covers(path)).map(|p| p.id.as_str());
            assert_eq!(held(Path::new("/any")), None, "{places:?}");
            for path in [&link, &share.join("logs"), &share.join("logs/app.log.1")] {
                assert_eq!(held(path), Some("hold-1"), "as a path: {places:?}");
            }
            assert_eq!(held(&share.join("other")), None);
            assert_eq!(held(&base.join("gone/x")), Some("hold-2"));
        }
        assert_eq!(now.absent(&aside), ["hold-2"], "what does not answer is not said to be gone");
        let none = aside.look(&there, || ());
        assert_eq!(none, Ok(()), "and no thread is left behind for it");
        // The kernel then fails what waits.
        drop(server);
    }

    #[test]
    fn links_are_followed_within_the_root_and_what_is_missing_keeps_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let host = temp.path().canonicalize().unwrap();
        std::fs::create_dir_all(host.join("data/logs")).unwrap();
        std::fs::create_dir(host.join("var")).unwrap();
        // Absolute, as the host sees it.
        symlink("/data/logs", host.join("var/log")).unwrap();
        let table = Mounts::open().read();
        let real = real_paths(&host, Path::new("/var/log/new/app.log.1"), &table);
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
        let own = real_paths(Path::new("/"), &host.join("data/../data/logs"), &table);
        assert!(own.contains(&host.join("data/logs")), "{own:?}");
        // Above the host there is nothing, and a circle ends.
        symlink("../../../../data", host.join("var/up")).unwrap();
        symlink("round", host.join("round")).unwrap();
        let up = real_paths(&host, Path::new("/var/up/logs"), &table);
        assert!(up.contains(&host.join("data/logs")), "{up:?}");
        let round = real_paths(&host, Path::new("/round/x"), &table);
        assert_eq!(round, ["/round/x".into(), host.join("round/x")], "as it was named");
        assert!(is_absent(&host, Path::new("/var/log/new"), &table));
        assert!(!is_absent(&host, Path::new("/var/log"), &table));
    }

    #[test]
    fn a_mount_that_another_hides_is_none() {
        let table = b"1 1 8:1 / / rw - ext4 /dev/a rw\n\
            2 1 0:40 / /mnt/share rw - nfs4 server:/x rw\n\
            3 1 8:2 / /data rw - xfs /dev/b rw\n\
            4 3 0:41 / /data/share rw - nfs4 server:/y rw\n\
            5 3 8:3 / /data rw - xfs /dev/c rw\n";
        let walker = Walker::new(table);
        assert!(walker.is_served(Path::new("/mnt/share/logs"), Some(1)));
        assert!(!walker.is_served(Path::new("/mnt/shared"), Some(1)));
        assert!(!walker.is_served(Path::new("/data/share/logs"), Some(1)), "/dev/c lies over it");
        assert!(!walker.is_served(Path::new("/mnt/share/logs"), Some(2)), "a root of a container's, say");
    }
}
