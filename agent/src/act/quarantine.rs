//! Roots, opened, each with the folder through which objects leave it.
//!
//! Linux cannot unlink by descriptor. An object is therefore renamed into `.dogwatch-quarantine`, a 0700 folder of the
//! same root and mount that only we can enter, looked at there, and unlinked or renamed back.
//!
//! Invariants
//! - The folder is ours: a real directory, mode 0700, our own, on the root's mount; otherwise the root is not used.
//! - An entry's *name* is its record: parent folder (inode, and a digest of its path), inode, original name. The rename
//!   that moves an object therefore also writes where it came from, in one step, on a full disk too.
//! - What a crash left there goes back to its old name when that is free; what cannot go back stays, and is reported at
//!   every start. Nothing in the folder is ever unlinked but by the removal that brought it there.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::beneath::{self, Facts};
use super::cleaners::Ground;
use super::gaps::{self, Gap};
use super::policy::{HELD, QUARANTINE, RootPolicy};
use super::survey::{Folders, Way};

/// Longest file name that Linux's filesystems take, bytes.
const MAX_NAME_BYTES: usize = 255;
/// Most leftovers looked at when the executor starts.
const MAX_LEFTOVERS: usize = 1_000;

/// A cleanup root, open.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) folder: OwnedFd,
    pub(super) facts: Facts,
    pub(super) quarantine: OwnedFd,
    /// Where held files are linked, or why nowhere.
    pub(super) held: Result<OwnedFd, String>,
    /// What lies around it, as it was before the executor was confined.
    pub(super) ground: Ground,
}

/// Something that an earlier run left in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// Where it lies, or lay; lossy where not UTF-8.
    pub quarantined: String,
    /// Where it came from, where that is known; lossy where not UTF-8.
    pub original: Option<String>,
    /// Whether it is back under its old name.
    pub restored: bool,
    /// What happened, in words.
    pub detail: String,
}

impl Root {
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
        Ok(Self { path: policy.path.clone(), folder, facts, quarantine, held, ground })
    }

    /// Where a quarantined entry lies, for people.
    pub(super) fn quarantined(&self, entry: &OsStr) -> PathBuf {
        self.path.join(QUARANTINE).join(entry)
    }

    /// Puts back what an earlier run left in quarantine, and tells.
    pub(super) fn restore_leftovers(&self, max_depth: u32) -> Vec<Leftover> {
        let names = match entry_names(&self.quarantine) {
            Ok(names) => names,
            Err(error) => {
                return vec![Leftover {
                    quarantined: self.path.join(QUARANTINE).display().to_string(),
                    original: None,
                    restored: false,
                    detail: format!("the quarantine cannot be listed: {error}"),
                }];
            }
        };
        names.into_iter().map(|name| self.restore(&name, max_depth)).collect()
    }

    fn restore(&self, entry: &OsStr, max_depth: u32) -> Leftover {
        let (original, outcome) = self.try_restore(entry, max_depth);
        let quarantined = self.quarantined(entry);
        let detail = match &outcome {
            Ok(back) => format!("an earlier run was stopped between moving and removing it; {back}"),
            Err(reason) => format!("{reason}; it stays here: move or delete it by hand"),
        };
        Leftover {
            quarantined: quarantined.display().to_string(),
            original: original.map(|p| self.path.join(p).display().to_string()),
            restored: outcome.is_ok(),
            detail,
        }
    }

    fn try_restore(&self, entry: &OsStr, max_depth: u32) -> (Option<PathBuf>, Result<&'static str, String>) {
        let Some(origin) = Origin::parse(entry.as_bytes()) else {
            return (None, Err("its name does not say where it came from".to_owned()));
        };
        let base = PathBuf::from(OsStr::from_bytes(origin.name));
        // Another inode: it was put in the object's place before the move, and goes back as it would have without the crash.
        let said = match beneath::facts_at(&self.quarantine, entry) {
            Ok(facts) if facts.inode == origin.inode => "it is back",
            Ok(_) => "another file than the plan's had its name by then, and is back",
            Err(error) => return (Some(base), Err(format!("it cannot be looked at: {error}"))),
        };
        gaps::reach(Gap::LeftoverSeen, Path::new(entry));
        let Some((relative, folder)) = self.find_folder(&origin, max_depth) else {
            return (Some(base), Err("the folder that it came from is gone or was moved".to_owned()));
        };
        let original = relative.join(&base);
        gaps::reach(Gap::LeftoverPlaced, Path::new(entry));
        let back = rustix::fs::renameat_with(&self.quarantine, entry, &folder, &base, RenameFlags::NOREPLACE);
        let outcome = match back {
            Ok(()) => Ok(said),
            Err(Errno::EXIST) => Err("its old name is taken".to_owned()),
            Err(error) => Err(format!("it cannot be moved back: {error}")),
        };
        (Some(original), outcome)
    }

    fn find_folder(&self, origin: &Origin<'_>, max_depth: u32) -> Option<(PathBuf, OwnedFd)> {
        let mut found = None;
        Folders::new(max_depth).visit(&self.folder, &mut |relative, folder| {
            let here = beneath::facts_of(folder).is_ok_and(|f| f.inode == origin.folder_inode)
                && path_digest(relative) == origin.folder_digest;
            if here {
                found = folder.try_clone_to_owned().ok().map(|folder| (relative.to_owned(), folder));
            }
            if here { Way::Stop } else { Way::On }
        });
        found
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

fn entry_names(folder: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)?.take(MAX_LEFTOVERS + 2) {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Where a quarantined entry came from.
#[derive(Debug, PartialEq, Eq)]
struct Origin<'n> {
    folder_inode: u64,
    folder_digest: u32,
    inode: u64,
    name: &'n [u8],
}

impl<'n> Origin<'n> {
    fn parse(entry: &'n [u8]) -> Option<Self> {
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

/// The name that an object gets in quarantine; `None` if its own name is too long to be kept in it (212 bytes always
/// fit).
pub(super) fn entry_name(folder_inode: u64, folder: &Path, inode: u64, name: &OsStr) -> Option<OsString> {
    let mut entry = format!("{folder_inode:x}-{:08x}-{inode:x}-", path_digest(folder)).into_bytes();
    entry.extend_from_slice(name.as_bytes());
    (entry.len() <= MAX_NAME_BYTES).then(|| OsString::from_vec(entry))
}

fn path_digest(folder: &Path) -> u32 {
    let digest = Sha256::digest(folder.as_os_str().as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// Clones a borrowed folder.
trait TryClone {
    fn try_clone_to_owned(&self) -> std::io::Result<OwnedFd>;
}

impl TryClone for OwnedFd {
    fn try_clone_to_owned(&self) -> std::io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

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

    #[test]
    fn leftovers_go_back_or_stay_and_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(&RootPolicy::new(temp.path())).unwrap();
        let folder = temp.path().join("a/b");
        std::fs::create_dir_all(&folder).unwrap();
        let folder_inode = std::fs::metadata(&folder).unwrap().ino();
        let put = |name: &str| {
            let path = temp.path().join(QUARANTINE).join("making");
            std::fs::write(&path, name).unwrap();
            let inode = std::fs::metadata(&path).unwrap().ino();
            let entry = entry_name(folder_inode, Path::new("a/b"), inode, OsStr::new(name)).unwrap();
            std::fs::rename(&path, path.with_file_name(entry)).unwrap();
        };
        put("free.log.1");
        put("taken.log.1");
        std::fs::write(folder.join("taken.log.1"), "newer").unwrap();
        std::fs::write(temp.path().join(QUARANTINE).join("stranger"), "").unwrap();
        let told = root.restore_leftovers(8);
        assert_eq!(told.len(), 3);
        assert_eq!(told.iter().filter(|l| l.restored).count(), 1, "{told:#?}");
        assert_eq!(std::fs::read_to_string(folder.join("free.log.1")).unwrap(), "free.log.1");
        assert_eq!(std::fs::read_to_string(folder.join("taken.log.1")).unwrap(), "newer");
        assert!(
            told.iter().any(|l| l.detail.contains("taken"))
                && told.iter().any(|l| l.detail.contains("name does"))
        );
        assert_eq!(root.restore_leftovers(8).len(), 2, "what stays is told at every start");
    }
}
