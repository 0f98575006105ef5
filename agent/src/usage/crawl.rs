//! A walk over one mount that takes its time: in small steps, between which it holds nothing open.
//!
//! It counts as [`super::walk`] does. Where it is, is kept as names and as the kernel's position in a folder's listing, not as
//! open descriptors: a filesystem can be unmounted while the crawl rests, and it goes on where it was after any pause. A step
//! opens its folder anew, beneath the root and on the same mount; one that went meanwhile is left out.
//!
//! Limits: [`MAX_DEPTH`] folders deep and [`CrawlOptions::linked`] inodes with several links, as the walk; of a folder with
//! more than [`MAX_WAITING`] folders in it so many are read before its listing goes on; what is created in or removed from a
//! folder between two steps is met or not, as readdir(3) says.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, Statx};
use rustix::io::Errno;

use super::batch::Batch;
use super::entry::{MountOf, allocated, large_file, look, open, open_top};
use super::pace::thread_cpu;
use super::tally::{Folder, Largest, Threshold, Usage};
use super::walk::{MAX_DEPTH, PART_TOLD, WalkError};

/// Names of folders that wait at one level, some 40 bytes each.
const MAX_WAITING: usize = 4_096;
/// Bytes of entries that are asked for at once: those of a step, for the rest would be listed again by the next one.
const LISTING_BYTES: usize = 8 * 1024;
/// Folders that could not be read, and mounts, that are named; the rest is counted.
const MAX_NAMED: usize = 20;

/// How to crawl.
#[derive(Debug, Clone)]
pub struct CrawlOptions {
    /// Which folders are told by themselves.
    pub told: Threshold,
    /// So many of the largest files are told.
    pub files: usize,
    /// Inodes with several links that are remembered, some 32 bytes each.
    pub linked: usize,
}

impl Default for CrawlOptions {
    /// 65,536 linked inodes: 2 MiB, and more than an ordinary node has outside of its runtime's layers.
    fn default() -> Self {
        let told = Threshold { bytes: 64 * 1024, inodes: 64, part: PART_TOLD };
        Self { told, files: 20, linked: 65_536 }
    }
}

/// How far it is.
#[derive(Debug)]
pub enum Step {
    /// There is more.
    More,
    /// That was all of it.
    Done(Box<Usage>),
    /// What is at the path is another mount by now, or nothing: what was counted is of no use.
    Gone,
}

/// A walk under way.
#[derive(Debug)]
pub struct Crawl {
    path: PathBuf,
    mount: MountOf,
    options: CrawlOptions,
    /// From the root down to the folder that is read.
    levels: Vec<Level>,
    linked: HashSet<(u64, u64)>,
    files: Largest,
    usage: Usage,
    /// What was done so far: entries looked at, and folders opened, entered and completed.
    work: u64,
    seen_bytes: u64,
    seen_inodes: u64,
    began: Instant,
}

/// A folder that is not complete.
#[derive(Debug)]
struct Level {
    name: CString,
    /// Where its listing goes on; `None`: it is read to its end.
    cookie: Option<u64>,
    /// Folders in it that are still to be read.
    waiting: Vec<CString>,
    found: Folder,
}

impl Level {
    fn new(name: CString, facts: &Statx) -> Self {
        let found = Folder { bytes: allocated(facts), inodes: 1, ..Folder::default() };
        Self { name, cookie: Some(0), waiting: Vec::new(), found }
    }
}

impl Crawl {
    /// Begins at the folder `path`, in which no part may be a symbolic link. Nothing is read yet.
    pub fn begin(path: &Path, options: CrawlOptions) -> Result<Self, WalkError> {
        let cannot = |e: Errno| WalkError::Open { path: path.to_owned(), source: e.into() };
        let fd = open_top(path).map_err(cannot)?;
        let facts = look(&fd, c"", AtFlags::EMPTY_PATH).map_err(cannot)?;
        Ok(Self {
            mount: MountOf::of(&facts),
            levels: vec![Level::new(CString::default(), &facts)],
            usage: Usage { path: path.to_owned(), ..Usage::default() },
            path: path.to_owned(),
            options,
            linked: HashSet::new(),
            files: Largest::default(),
            work: 0,
            seen_bytes: 0,
            seen_inodes: 0,
            began: Instant::now(),
        })
    }

    /// Looks at some `entries` further ones and closes everything again. To open, to enter and to complete a folder count as
    /// much as an entry each: what a step takes has the same bound in a tree of empty folders. After [`Step::Done`] there is
    /// nothing more.
    pub fn step(&mut self, entries: u64) -> Step {
        let cpu = thread_cpu();
        let until = self.work.saturating_add(entries.max(1));
        let root = match open_top(&self.path).and_then(|fd| Ok((look(&fd, c"", AtFlags::EMPTY_PATH)?, fd))) {
            Ok((facts, fd)) if MountOf::of(&facts).is(self.mount) => fd,
            Ok(_) | Err(_) => return Step::Gone,
        };
        let mut done = None;
        while done.is_none() && self.work < until {
            done = self.advance(&root, until);
        }
        self.usage.cpu += thread_cpu().saturating_sub(cpu);
        match done {
            Some(folder) => Step::Done(Box::new(self.finish(folder))),
            None => Step::More,
        }
    }

    /// Reads on in the present folder, descends, or completes it; gives the root once that is complete.
    fn advance(&mut self, root: &OwnedFd, until: u64) -> Option<Folder> {
        self.work += 1;
        let level = self.levels.last_mut()?;
        if let Some(cookie) = level.cookie.filter(|_| level.waiting.len() < MAX_WAITING) {
            self.list(root, cookie, until);
            return None;
        }
        if let Some(name) = level.waiting.pop() {
            self.descend(root, name);
            return None;
        }
        let mut level = self.levels.pop()?;
        level.found.sort();
        let Some(parent) = self.levels.last_mut() else { return Some(level.found) };
        let mut whole = level.found;
        whole.name = OsString::from_vec(level.name.into_bytes());
        let found = &mut parent.found;
        found.bytes = found.bytes.saturating_add(whole.bytes);
        found.inodes += whole.inodes;
        let (bytes, inodes) = self.options.told.at(self.seen_bytes, self.seen_inodes);
        if whole.bytes >= bytes || whole.inodes >= inodes {
            found.folders.push(whole);
        } else {
            found.add_small(whole.bytes, whole.inodes);
        }
        None
    }

    fn descend(&mut self, root: &OwnedFd, name: CString) {
        if self.levels.len() > MAX_DEPTH {
            let path = self.below(&name);
            return self.cannot(path, format!("it lies more than {MAX_DEPTH} folders deep"));
        }
        let relative = self.relative(Some(&name));
        match open(root, &relative).and_then(|fd| look(&fd, c"", AtFlags::EMPTY_PATH)) {
            Ok(facts) => {
                self.seen_inodes += 1;
                self.levels.push(Level::new(name, &facts));
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(Errno::XDEV) => {
                if self.usage.mounts.len() < MAX_NAMED {
                    let path = self.below(&name);
                    self.usage.mounts.push(path);
                }
            }
            Err(error) => {
                let path = self.below(&name);
                self.cannot(path, format!("the folder cannot be opened: {error}"));
            }
        }
    }

    fn list(&mut self, root: &OwnedFd, cookie: u64, until: u64) {
        let opened = if self.levels.len() == 1 {
            rustix::fs::openat(root, c".", root_flags(), Mode::empty())
        } else {
            open(root, &self.relative(None))
        };
        let fd = match opened.and_then(|fd| {
            if cookie != 0 {
                rustix::fs::seek(&fd, SeekFrom::Start(cookie))?;
            }
            Ok(fd)
        }) {
            Ok(fd) => fd,
            Err(error) => {
                if error != Errno::NOENT {
                    let path = self.here();
                    self.cannot(path, format!("the folder cannot be read to its end: {error}"));
                }
                return self.end_listing();
            }
        };
        let mut buffer = Vec::with_capacity(LISTING_BYTES);
        let mut listing = RawDir::new(&fd, buffer.spare_capacity_mut() as &mut [MaybeUninit<u8>]);
        let mut batch = Batch::default();
        loop {
            let most = usize::try_from(until.saturating_sub(self.work).max(1)).unwrap_or(usize::MAX);
            match batch.fill(&mut listing, most) {
                Ok(Some(behind)) => {
                    for (name, kind) in batch.entries() {
                        self.entry(&fd, name, kind);
                    }
                    let Some(level) = self.levels.last_mut() else { return };
                    level.cookie = Some(behind);
                    if self.work >= until || level.waiting.len() >= MAX_WAITING {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let path = self.here();
                    self.cannot(path, format!("the folder cannot be read to its end: {error}"));
                    break;
                }
            }
        }
        self.end_listing();
    }

    fn end_listing(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.cookie = None;
        }
    }

    fn entry(&mut self, fd: &OwnedFd, name: &std::ffi::CStr, kind: FileType) {
        self.usage.entries += 1;
        self.work += 1;
        let mut kind = kind;
        if kind != FileType::Directory {
            let facts = match look(fd, name, AtFlags::empty()) {
                Ok(facts) => facts,
                Err(Errno::NOENT) => return,
                Err(error) => {
                    let path = self.here().join(OsStr::from_bytes(name.to_bytes()));
                    return self.cannot(path, format!("it cannot be looked at: {error}"));
                }
            };
            kind = FileType::from_raw_mode(u32::from(facts.stx_mode));
            if kind != FileType::Directory {
                if self.mount.is(MountOf::of(&facts)) && self.is_first(&facts) {
                    self.count(name, kind, &facts);
                }
                return;
            }
        }
        if let Some(level) = self.levels.last_mut() {
            level.waiting.push(name.to_owned());
        }
    }

    fn count(&mut self, name: &std::ffi::CStr, kind: FileType, facts: &Statx) {
        let bytes = allocated(facts);
        self.seen_bytes = self.seen_bytes.saturating_add(bytes);
        self.seen_inodes += 1;
        let Some(level) = self.levels.last_mut() else { return };
        level.found.bytes = level.found.bytes.saturating_add(bytes);
        level.found.inodes += 1;
        if kind == FileType::RegularFile {
            let (path, levels) = (&self.path, &self.levels);
            self.files.offer(self.options.files, bytes, || {
                large_file(place(path, levels).join(OsStr::from_bytes(name.to_bytes())), facts)
            });
        }
    }

    /// Whether this is the first name of its inode that was met.
    fn is_first(&mut self, facts: &Statx) -> bool {
        if facts.stx_nlink < 2 {
            return true;
        }
        let id = (rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor), facts.stx_ino);
        if self.linked.contains(&id) {
            return false;
        }
        if self.linked.len() < self.options.linked {
            self.linked.insert(id);
        } else {
            self.usage.links_beyond_bound += 1;
        }
        true
    }

    fn finish(&mut self, mut root: Folder) -> Usage {
        let mut usage = std::mem::take(&mut self.usage);
        let (bytes, inodes) = self.options.told.at(root.bytes, root.inodes);
        root.fold(bytes, inodes);
        usage.root = root;
        usage.files = std::mem::take(&mut self.files).into_files().collect();
        usage.files.sort_unstable_by(|a, b| b.cmp(a));
        usage.whole = true;
        usage.took = self.began.elapsed();
        usage
    }

    fn cannot(&mut self, path: PathBuf, why: String) {
        self.usage.unread_total += 1;
        if self.usage.unread.len() < MAX_NAMED {
            self.usage.unread.push((path, why));
        }
    }

    fn here(&self) -> PathBuf {
        place(&self.path, &self.levels)
    }

    fn below(&self, name: &CString) -> PathBuf {
        self.here().join(OsStr::from_bytes(name.as_bytes()))
    }

    /// The present folder, or `name` in it, as a path from the root.
    fn relative(&self, name: Option<&CString>) -> CString {
        let names = self.levels.iter().skip(1).map(|l| &l.name).chain(name);
        let joined = names.map(|n| n.as_bytes()).collect::<Vec<_>>().join(&b'/');
        // Names of files hold no NUL.
        CString::new(joined).unwrap_or_default()
    }
}

fn place(root: &Path, levels: &[Level]) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(levels.iter().skip(1).map(|l| OsStr::from_bytes(l.name.as_bytes())));
    path
}

fn root_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

#[cfg(test)]
#[path = "crawl_tests.rs"]
mod tests;
