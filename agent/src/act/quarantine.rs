//! Roots, opened, each with the folder through which objects leave it.
//!
//! Linux cannot unlink by descriptor. An object is therefore renamed into `.dogwatch-quarantine`, a 0700 folder of the
//! same root and mount that only we can enter, looked at there, and unlinked or renamed back.
//!
//! Invariants
//! - The folder is ours: a real directory, mode 0700, our own, on the root's mount; otherwise the root is not used.
//! - An entry's *name* is its record: parent folder (inode, and a digest of its path), inode, original name. The rename
//!   that moves an object therefore also writes where it came from, in one step, on a full disk too.
//! - Nothing in the folder is ever unlinked but by the removal that brought it there. What a crash left there goes back
//!   (`leftovers`).

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::beneath::{self, Facts};
use super::cleaners::Ground;
use super::gaps::{self, Gap};
use super::policy::{HELD, QUARANTINE, RootPolicy};
use crate::sample::superblock;

/// Longest file name that Linux's filesystems take, bytes.
const MAX_NAME_BYTES: usize = 255;

/// A cleanup root, open.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) folder: OwnedFd,
    pub(super) facts: Facts,
    /// That it lies on, as the table of mounts has it: `facts.device` may be a subvolume's.
    pub(super) filesystem: u64,
    pub(super) quarantine: OwnedFd,
    /// Where held files are linked, or why nowhere.
    pub(super) held: Result<OwnedFd, String>,
    /// What lies around it, as it was before the executor was confined.
    pub(super) ground: Ground,
}

/// How the reason begins where another folder, or none, has the name of a root that is open.
pub(super) const ROOT_ASTRAY: &str = "its root is another folder than the one that was opened";

impl Root {
    /// Why the folder that is open is not the one that the root names any more: it was moved away, or something was put or
    /// mounted in its place. What is held, and what may never be reached, is told by names, so nothing goes from it.
    pub(super) fn why_astray(&self) -> Option<String> {
        let path = self.path.display();
        match beneath::facts_of_root(&self.path) {
            Ok(now) if (now.device, now.inode) == (self.facts.device, self.facts.inode) => None,
            Ok(_) => Some(self.is_hidden()),
            Err(Errno::NOENT) => Some(format!("{ROOT_ASTRAY}: nothing is at {path} now")),
            Err(Errno::LOOP) => Some(format!("{ROOT_ASTRAY}: a symbolic link lies on the way to {path}")),
            Err(error) => Some(format!("{ROOT_ASTRAY}: {path} cannot be looked at ({error})")),
        }
    }

    /// The same of one at whose path something else is known to be.
    pub(super) fn is_hidden(&self) -> String {
        format!("{ROOT_ASTRAY}: something else was put at {}", self.path.display())
    }

    /// Opens the root and makes or checks its quarantine; the error says why it cannot be used.
    pub(super) fn open(policy: &RootPolicy) -> Result<Self, String> {
        let folder = beneath::open_root(&policy.path).map_err(|e| match e {
            Errno::NOENT => "it does not exist".to_owned(),
            Errno::LOOP => "a symbolic link lies on the way".to_owned(),
            other => format!("it cannot be opened: {other}"),
        })?;
        let facts = beneath::facts_of(&folder).map_err(|e| format!("it cannot be looked at: {e}"))?;
        let quarantine = open_private(&folder, &facts, QUARANTINE)?;
        let held = open_private(&folder, &facts, HELD);
        let ground = Ground::survey_of(policy, &folder);
        let filesystem = superblock::number(facts.device, facts.mount_id);
        Ok(Self { path: policy.path.clone(), folder, facts, filesystem, quarantine, held, ground })
    }

    /// Where a quarantined entry lies, for people.
    pub(super) fn quarantined(&self, entry: &OsStr) -> PathBuf {
        self.path.join(QUARANTINE).join(entry)
    }
}

/// Opens a folder of ours in a root, making it first if it is not there.
fn open_private(root: &OwnedFd, root_facts: &Facts, name: &str) -> Result<OwnedFd, String> {
    match rustix::fs::mkdirat(root, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(format!("{name} cannot be made in it: {error}")),
    }
    if name == QUARANTINE {
        gaps::reach(Gap::QuarantineMade, Path::new(name));
    }
    let folder = beneath::open_folder(root, Path::new(name))
        .map_err(|e| format!("{name} in it is not a folder that we can open: {e}"))?;
    // Looked at, never changed: what is open now need not be what was made. A default ACL of the root cannot add to the
    // mode that was asked for (acl(5): its entries are masked by it).
    let facts = beneath::facts_of(&folder).map_err(|e| format!("{name} cannot be looked at: {e}"))?;
    let checks = [
        (facts.kind == FileType::Directory, "is not a folder"),
        (facts.uid == rustix::process::geteuid().as_raw(), "belongs to somebody else"),
        (facts.mode & 0o777 == 0o700, "is open to others (its mode is not 0700)"),
        (facts.device == root_facts.device && facts.mount_id == root_facts.mount_id, "is another mount"),
    ];
    match checks.iter().find(|(good, _)| !good) {
        Some((_, how)) => Err(format!("{name} in it {how}; remove it")),
        None => Ok(folder),
    }
}

/// Where a quarantined entry came from, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origin<'n> {
    pub(super) folder_inode: u64,
    pub(super) folder_digest: u32,
    pub(super) inode: u64,
    pub(super) name: &'n [u8],
}

impl<'n> Origin<'n> {
    pub(super) fn parse(entry: &'n [u8]) -> Option<Self> {
        let mut parts = entry.splitn(4, |b| *b == b'-');
        let mut hex = || u64::from_str_radix(std::str::from_utf8(parts.next()?).ok()?, 16).ok();
        let (folder_inode, folder_digest, inode) = (hex()?, u32::try_from(hex()?).ok()?, hex()?);
        let name =
            parts.next().filter(|n| !n.is_empty() && *n != b"." && *n != b".." && !n.contains(&b'/'))?;
        Some(Self { folder_inode, folder_digest, inode, name })
    }
}

/// Whether the quarantine's `entry` is the file `inode` that was called `name`, wherever its folder was.
pub(super) fn is_entry_of(entry: &OsStr, inode: u64, name: &OsStr) -> bool {
    Origin::parse(entry.as_bytes()).is_some_and(|o| o.inode == inode && o.name == name.as_bytes())
}

/// Whether the quarantine's `entry` is a file that lay at `relative` beneath the root.
pub(super) fn is_entry_from(entry: &OsStr, relative: &Path) -> bool {
    let (Some(folder), Some(name)) = (relative.parent(), relative.file_name()) else { return false };
    let origin = Origin::parse(entry.as_bytes());
    origin.is_some_and(|o| o.folder_digest == path_digest(folder) && o.name == name.as_bytes())
}

/// The name that an object gets in quarantine; `None` if its own name is too long to be kept in it (212 bytes always
/// fit).
pub(super) fn entry_name(folder_inode: u64, folder: &Path, inode: u64, name: &OsStr) -> Option<OsString> {
    let mut entry = format!("{folder_inode:x}-{:08x}-{inode:x}-", path_digest(folder)).into_bytes();
    entry.extend_from_slice(name.as_bytes());
    (entry.len() <= MAX_NAME_BYTES).then(|| OsString::from_vec(entry))
}

pub(super) fn path_digest(folder: &Path) -> u32 {
    let digest = Sha256::digest(folder.as_os_str().as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn an_entry_says_where_it_came_from() {
        let odd = OsStr::from_bytes(b"-a-\xff\n.log.1");
        let entry = entry_name(0xabc, Path::new("x/y"), u64::MAX, odd).unwrap();
        let origin = Origin::parse(entry.as_bytes()).unwrap();
        assert_eq!((origin.folder_inode, origin.inode, origin.name), (0xabc, u64::MAX, odd.as_bytes()));
        assert_eq!(origin.folder_digest, path_digest(Path::new("x/y")));
        let long = "n".repeat(212);
        assert!(entry_name(u64::MAX, Path::new(""), u64::MAX, OsStr::new(&long)).is_some());
        assert!(entry_name(1, Path::new(""), 1, OsStr::new(&"n".repeat(250))).is_none());
        for bad in [&b""[..], b"x", b"1-2-3-", b"1-2-3-..", b"zz-1-2-a", b"1-100000000-2-a"] {
            assert_eq!(Origin::parse(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_quarantine_that_is_not_ours_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let root = |name: &str| {
            let path = temp.path().join(name);
            std::fs::create_dir(&path).unwrap();
            RootPolicy::new(path)
        };
        let linked = root("linked");
        symlink(elsewhere.path(), linked.path.join(QUARANTINE)).unwrap();
        assert!(Root::open(&linked).unwrap_err().contains("not a folder"));
        let open = root("open");
        std::fs::create_dir(open.path.join(QUARANTINE)).unwrap();
        std::fs::set_permissions(open.path.join(QUARANTINE), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Root::open(&open).unwrap_err().contains("0700"));
        let owned = root("owned");
        std::fs::create_dir(owned.path.join(QUARANTINE)).unwrap();
        std::fs::set_permissions(owned.path.join(QUARANTINE), std::fs::Permissions::from_mode(0o700))
            .unwrap();
        std::os::unix::fs::chown(owned.path.join(QUARANTINE), Some(4242), None)
            .expect("this test needs root");
        assert!(Root::open(&owned).unwrap_err().contains("somebody else"));
        assert!(Root::open(&RootPolicy::new(temp.path().join("none"))).unwrap_err().contains("not exist"));
        assert!(Root::open(&root("good")).is_ok());
    }
}
