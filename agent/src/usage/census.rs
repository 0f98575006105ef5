//! All files of a small filesystem at two moments: which file grew, or in which folder, where no process is caught at it.
//!
//! What writers leave behind that open a file, append and close it, write through a mapping, or end at once, is seen by
//! this alone. It tells files and folders, and never who wrote them.
//!
//! Invariants: nothing is followed and no mount is crossed; no file is opened. Growth is what is allocated, an inode with
//! several links counted once.
//!
//! Limits: a filesystem with more than [`MAX_ENTRIES`] entries, or one that takes longer than [`MAX_TIME`] to list, has no
//! census: what grows there is the background walk's to tell. Extents that files share are counted for each of them; a
//! census that says more than the filesystem grew by is not believed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, StatxFlags};

/// Entries of a census; two of them take some 10 MiB at most, for the few seconds in between.
pub(super) const MAX_ENTRIES: u64 = 50_000;
/// A listing that takes longer is given up.
const MAX_TIME: Duration = Duration::from_secs(3);
/// Folders beneath one another: a descriptor is open for each.
const MAX_DEPTH: usize = 64;
/// Bytes of entries that are asked for at once.
const LISTING_BYTES: usize = 32 * 1024;
/// A file or folder with this share of the growth is told.
const MOST: f64 = 0.8;
/// More than this multiple of the filesystem's growth in files is not believed: they share extents, or others shrink.
const TOO_MUCH: f64 = 1.5;

/// One file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    folder: u32,
    bytes: u64,
}

/// What lies on a filesystem at one moment.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Each with its parent; the first is the root, its own parent.
    folders: Vec<(u32, Box<[u8]>)>,
    files: HashMap<(u64, u64), Entry>,
    /// Those with several names that were met.
    linked: HashSet<(u64, u64)>,
}

/// What grew between two.
#[derive(Debug, Clone, PartialEq)]
pub struct Grown {
    /// The file, or the folder.
    pub path: PathBuf,
    /// Whether it is one file.
    pub is_file: bool,
    /// By how much.
    pub bytes: u64,
    /// How many inodes more.
    pub inodes: u64,
}

/// Takes a census of the mount at `root`; `None`: it is too large, or cannot be read.
pub(super) fn take(root: &Path) -> Option<Census> {
    let until = Instant::now() + MAX_TIME;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = Rc::new(rustix::fs::open(root, flags, Mode::empty()).ok()?);
    let mut census = Census::default();
    census.folders.push((0, Box::default()));
    let mut waiting: Vec<(Rc<OwnedFd>, CString, u32, usize)> = Vec::new();
    let mut entries = 0;
    census.list(&fd, 0, 0, &mut waiting, &mut entries, until)?;
    while let Some((parent, name, folder, depth)) = waiting.pop() {
        // One that is gone, or leads to another mount, has nothing to tell here.
        let Ok(fd) = open(&parent, &name, flags) else { continue };
        let fd = Rc::new(fd);
        census.list(&fd, folder, depth, &mut waiting, &mut entries, until)?;
    }
    Some(census)
}

fn open(parent: &OwnedFd, name: &CString, flags: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), how)
}

impl Census {
    fn list(
        &mut self,
        fd: &Rc<OwnedFd>,
        folder: u32,
        depth: usize,
        waiting: &mut Vec<(Rc<OwnedFd>, CString, u32, usize)>,
        entries: &mut u64,
        until: Instant,
    ) -> Option<()> {
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut listing = RawDir::new(&**fd, buffer.spare_capacity_mut() as &mut [MaybeUninit<u8>]);
        while let Some(entry) = listing.next() {
            let Ok(entry) = entry else { break };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            *entries += 1;
            if *entries > MAX_ENTRIES || (entries.is_multiple_of(256) && Instant::now() > until) {
                return None;
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
            let mask = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::NLINK | StatxFlags::BLOCKS;
            let Ok(facts) = rustix::fs::statx(&**fd, name, flags, mask) else { continue };
            let id = (rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor), facts.stx_ino);
            let bytes = facts.stx_blocks.saturating_mul(512);
            if FileType::from_raw_mode(u32::from(facts.stx_mode)) == FileType::Directory {
                if depth < MAX_DEPTH {
                    let number = u32::try_from(self.folders.len()).ok()?;
                    self.folders.push((folder, name.to_bytes().into()));
                    waiting.push((Rc::clone(fd), name.to_owned(), number, depth + 1));
                }
            } else if facts.stx_nlink > 1 && !self.linked.insert(id) {
                continue;
            }
            self.files.insert(id, Entry { folder, bytes });
        }
        Some(())
    }

    fn path(&self, root: &Path, mut folder: u32) -> PathBuf {
        let mut names = Vec::new();
        while let Some((parent, name)) = self.folders.get(folder as usize).filter(|_| folder != 0) {
            names.push(OsStr::from_bytes(name));
            folder = *parent;
        }
        let mut path = root.to_owned();
        path.extend(names.into_iter().rev());
        path
    }

    /// The inode that has most of `grew` bytes, and the narrowest folder that has most of it; `seen` is where the mount is
    /// seen from here, `root` what the node calls it.
    pub(super) fn grown(&self, before: &Self, seen: &Path, root: &Path, grew: u64) -> Option<Grown> {
        let mut own: BTreeMap<u32, u64> = BTreeMap::new();
        let (mut all, mut largest) = (0u64, (0u64, None));
        for (id, entry) in &self.files {
            let by = entry.bytes.saturating_sub(before.files.get(id).map_or(0, |e| e.bytes));
            if by > 0 {
                *own.entry(entry.folder).or_default() += by;
                all = all.saturating_add(by);
                if by > largest.0 {
                    largest = (by, Some((*id, entry.folder)));
                }
            }
        }
        if grew == 0 || (all as f64) > TOO_MUCH * grew as f64 {
            return None;
        }
        if let (by, Some((id, folder))) = largest
            && by as f64 >= MOST * grew as f64
            && let Some(name) = named(&self.path(seen, folder), id)
        {
            let path = self.path(root, folder).join(name);
            return Some(Grown { path, is_file: true, bytes: by, inodes: 0 });
        }
        let (folder, bytes) = self.narrowest(&own, grew)?;
        Some(Grown { path: self.path(root, folder), is_file: false, bytes, inodes: 0 })
    }

    /// The narrowest folder that has most of `grew` inodes more.
    pub(super) fn multiplied(&self, before: &Self, root: &Path, grew: u64) -> Option<Grown> {
        let mut own: BTreeMap<u32, u64> = BTreeMap::new();
        for (id, entry) in &self.files {
            if !before.files.contains_key(id) {
                *own.entry(entry.folder).or_default() += 1;
            }
        }
        let all: u64 = own.values().sum();
        if grew == 0 || (all as f64) > TOO_MUCH * grew as f64 {
            return None;
        }
        let (folder, inodes) = self.narrowest(&own, grew)?;
        Some(Grown { path: self.path(root, folder), is_file: false, bytes: 0, inodes })
    }

    /// Of folders with what grew directly in them, the deepest that has, with all beneath it, most of `grew`. The mount's
    /// root has everything and so says nothing, unless it lies in it directly.
    fn narrowest(&self, own: &BTreeMap<u32, u64>, grew: u64) -> Option<(u32, u64)> {
        let mut sums = own.clone();
        // A folder has a higher number than its parent.
        for folder in (1..u32::try_from(self.folders.len()).ok()?).rev() {
            let sum = sums.get(&folder).copied().unwrap_or(0);
            *sums.entry(self.folders.get(folder as usize)?.0).or_default() += sum;
        }
        let most = |bytes: u64| bytes as f64 >= MOST * grew as f64;
        let deepest = sums.iter().rev().find(|(folder, sum)| **folder != 0 && most(**sum));
        match deepest {
            Some((folder, sum)) => Some((*folder, *sum)),
            None => own.get(&0).copied().filter(|bytes| most(*bytes)).map(|bytes| (0, bytes)),
        }
    }
}

/// What the inode `id` is called in `folder`.
fn named(folder: &Path, id: (u64, u64)) -> Option<std::ffi::OsString> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(folder, flags, Mode::empty()).ok()?;
    let mut buffer = Vec::with_capacity(LISTING_BYTES);
    let mut listing = RawDir::new(&fd, buffer.spare_capacity_mut() as &mut [MaybeUninit<u8>]);
    while let Some(Ok(entry)) = listing.next() {
        let name = entry.file_name();
        let is_it = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| (s.st_dev, s.st_ino) == id);
        if is_it {
            return Some(OsStr::from_bytes(name.to_bytes()).to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_of(at: &Path) -> Census {
        take(at).unwrap()
    }

    #[test]
    fn the_file_or_the_narrowest_folder_that_grew_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let at = temp.path();
        std::fs::create_dir_all(at.join("a/b/c")).unwrap();
        std::fs::create_dir_all(at.join("calm")).unwrap();
        std::fs::write(at.join("calm/old"), vec![1; 900_000]).unwrap();
        std::fs::write(at.join("a/b/c/log"), vec![1; 100_000]).unwrap();
        let first = take_of(at);
        std::fs::write(at.join("a/b/c/log"), vec![1; 900_000]).unwrap();
        let second = take_of(at);
        let grown = second.grown(&first, at, at, 800_000).unwrap();
        assert!(grown.is_file && grown.path == at.join("a/b/c/log"), "{grown:?}");
        for n in 0..10 {
            std::fs::write(at.join(format!("a/b/{n}")), vec![1; 90_000]).unwrap();
        }
        let third = take_of(at);
        let grown = third.grown(&second, at, Path::new("/n"), 920_000).unwrap();
        assert!(!grown.is_file && grown.path == Path::new("/n/a/b"), "{grown:?}");
        let more = third.multiplied(&second, Path::new("/n"), 10).unwrap();
        assert_eq!((more.path.as_path(), more.inodes), (Path::new("/n/a/b"), 10));
        // Far more in files than the filesystem grew by: shared extents, or others that shrink.
        assert_eq!(third.grown(&second, at, at, 300_000), None);
        // Far less: it grows elsewhere.
        assert_eq!(third.grown(&second, at, at, 3_000_000), None);
    }

    #[test]
    fn what_is_spread_is_nowhere_and_links_lead_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let at = temp.path();
        for folder in ["x", "y"] {
            std::fs::create_dir(at.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("/", at.join("x/root")).unwrap();
        let first = take_of(at);
        for folder in ["x", "y"] {
            std::fs::write(at.join(folder).join("f"), vec![1; 400_000]).unwrap();
        }
        assert_eq!(take_of(at).grown(&first, at, at, 800_000), None);
    }
}
