//! A filesystem of the node that is looked at: its figures, who has what open on it, and what two looks say.
//!
//! Deliberately absent: waiting between two looks, and what comes of it (`scout`, `report`).

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dogwatch::clock;

use super::blame::{Blame, Look, Names, blame};
use super::open_files::{Holder, holder, node_path, scan};
use super::place::{local, seen, table};
use super::reach::reach;
use crate::sample::{Pods, Roots, mountinfo, superblock};

/// Filesystems whose files may share what is allocated for them.
const SHARING: [&[u8]; 5] = [b"btrfs", b"xfs", b"bcachefs", b"zfs", b"ocfs2"];
/// What a btrfs has promised: bytes of data not yet placed, and placed but not yet written.
const PROMISED: [&str; 2] = ["bytes_may_use", "bytes_reserved"];

/// Filesystems in memory, by `statfs.f_type` (statfs(2)): tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58F6];

/// A filesystem that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    /// Where it is seen from here.
    pub(super) path: PathBuf,
    /// Of a btrfs: where the kernel says what it has promised to files and not yet given them.
    space: Option<PathBuf>,
    shares_extents: bool,
}

impl Site {
    /// Where the mount is, seen from here.
    ///
    /// # Errors
    /// Nothing is mounted there, or it may not answer.
    pub(super) fn of(roots: &Roots, mount: &str) -> Result<Self, String> {
        let table = table(roots)?;
        let parsed = mountinfo::parse(&table);
        let entry = local(&parsed.entries, mount)?;
        let source = Path::new(OsStr::from_bytes(&entry.source));
        let space = (*entry.fs == *b"btrfs").then(|| space_of_btrfs(roots, source)).flatten();
        let path = seen(roots, Path::new(OsStr::from_bytes(mount.as_bytes())));
        Ok(Self { path, space, shares_extents: SHARING.contains(&&*entry.fs) })
    }

    /// A place of which no mount is known: it is taken for one whose files may share what they hold.
    pub(super) fn unknown(path: &Path) -> Self {
        Self { path: path.to_owned(), space: None, shares_extents: true }
    }

    /// One look at its figures and open files, and why some may be missing.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn look(&self, roots: &Roots) -> Result<(Look, Option<String>), String> {
        let device = superblock::of_path(&self.path).map_err(|e| self.cannot(e))?;
        let mut look = self.figures()?;
        let found = scan(roots, device);
        look.files = found.files;
        Ok((look, found.incomplete))
    }

    /// A look at the figures alone.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn figures(&self) -> Result<Look, String> {
        let at = clock::now();
        let fs = rustix::fs::statvfs(&self.path).map_err(|e| self.cannot(e))?;
        let kind = rustix::fs::statfs(&self.path).map_err(|e| self.cannot(e))?.f_type & 0xFFFF_FFFF;
        let used = fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize);
        // A btrfs counts what is written as used only once it is written back; its files are told with it at once.
        let promised = self.space.iter().flat_map(|at| PROMISED.iter().map(|name| at.join(name)));
        let promised = promised
            .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
            .fold(0, u64::saturating_add);
        Ok(Look {
            boot_ns: at.boot_ns,
            wall_ns: at.wall_ns,
            used_bytes: used.saturating_add(promised),
            used_inodes: fs.f_files.saturating_sub(fs.f_ffree),
            shares_extents: self.shares_extents,
            in_memory: IN_MEMORY.contains(&kind),
            files: Vec::new(),
        })
    }

    fn cannot(&self, error: rustix::io::Errno) -> String {
        format!("{} cannot be looked at: {error}", self.path.display())
    }
}

/// Where the kernel tells what space a btrfs on the device `source` of the node has given away.
fn space_of_btrfs(roots: &Roots, source: &Path) -> Option<PathBuf> {
    // `/dev/mapper/x` is a link to the device that the kernel calls by its own name.
    let device = reach(roots, source).ok()?.path;
    let device = device.file_name()?;
    let all = std::fs::read_dir(roots.sys.join("fs/btrfs")).ok()?;
    let its = all.flatten().map(|fs| fs.path()).find(|fs| fs.join("devices").join(device).exists());
    Some(its?.join("allocation/data"))
}

/// Compares two looks at `mount`, the second of which was a moment ago.
pub(super) fn compare(
    roots: &Roots,
    mount: Option<&Path>,
    pods: &mut Pods,
    before: &Look,
    after: &Look,
) -> Blame {
    pods.refresh(after.boot_ns);
    let pids: BTreeSet<u32> = after.files.iter().map(|f| f.pid).collect();
    let holders: HashMap<u32, Holder> =
        pids.into_iter().filter_map(|pid| Some((pid, holder(&roots.proc, pid)?))).collect();
    let names = Names {
        holders: &holders,
        pods: &|cgroup| pods.of_cgroup(cgroup),
        paths: &|file| node_path(roots, mount, file, holders.get(&file.pid)),
    };
    blame(before, after, &names)
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;
