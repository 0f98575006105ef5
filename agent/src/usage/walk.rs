//! A walk over one mount that counts what is allocated, by folder, and keeps the largest files.
//!
//! Counted is what the filesystem allocated (`st_blocks`), folders' own blocks too, as `du` does: sparse files by what they
//! occupy, an inode with several links once, where it was met first. Extents that files share (reflinks, snapshots) are
//! counted for each of them, since `statx` does not tell; the sum may then exceed what the filesystem says is used.
//!
//! Each folder is read by one thread, and threads hand folders to those that have none. A folder is complete when all
//! beneath it is; only then is it told to its parent, which keeps it by itself if it is large enough and else only its sums.
//! So what is kept is bounded by [`WalkOptions::told`].
//!
//! Limits: what changes while the walk is under way is counted as it was met, or not at all; a folder deeper than
//! [`MAX_DEPTH`] is not entered and is told among [`Usage::unread`]; beyond [`MAX_LINKED`] inodes with several links, such an
//! inode is counted for each of its names and [`Usage::links_beyond_bound`] says how many.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, RawDir, Statx};
use rustix::io::Errno;

use super::batch::Batch;
use super::entry::{MountOf, allocated, large_file, look, open, open_top};
use super::pace::{Pace, Waits, thread_cpu};
use super::tally::{Folder, Largest, Threshold, Usage};

/// Deepest folder beneath the root that is entered: a descriptor is open for each one on the way.
pub const MAX_DEPTH: usize = 256;
/// Inodes with several links that are remembered, 16 bytes and as much again each.
pub const MAX_LINKED: usize = 1_000_000;
/// Folders that wait in one thread; with more, a folder is read as soon as it is met.
const MAX_WAITING: usize = 65_536;
/// Folders read within one another for that reason.
const MAX_NESTED: usize = 64;
/// Bytes of entries that are asked for at once.
const LISTING_BYTES: usize = 32 * 1024;
/// Folders that could not be read, and mounts, that are named; the rest is counted.
const MAX_NAMED: usize = 100;
/// Sets of linked inodes, each with a lock of its own.
const SHARDS: usize = 16;
/// Threads that wait for a disk, for each CPU: with more a disk is no faster.
const THREADS_A_CPU: usize = 4;
/// After so many folders and entries a thread looks at its budget and whether to stop.
const LOOK_EVERY: u64 = 256;
/// A folder with this part of the whole is told by itself.
pub const PART_TOLD: u64 = 500;

/// How to walk.
#[derive(Debug, Clone)]
pub struct WalkOptions {
    /// Threads that read folders; at least one.
    pub threads: usize,
    /// So many in all, where those wait for the disk more than they work: a disk serves several as fast as one.
    pub most_threads: usize,
    /// Which folders are told by themselves, all beneath them included.
    pub told: Threshold,
    /// So many of the largest files are told.
    pub files: usize,
    /// Share of one CPU that each thread may use; `None`: as much as it gets.
    pub cpu_share: Option<f64>,
    /// Once true, the walk ends as soon as it can, and says that it is not whole.
    pub stop: Arc<AtomicBool>,
    /// As it does then.
    pub until: Option<Instant>,
}

impl WalkOptions {
    /// For somebody who waits for the answer: on every CPU, with folders that hold at least a five-hundredth of the whole.
    pub fn at_once() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            most_threads: threads.saturating_mul(THREADS_A_CPU),
            told: Threshold { bytes: 1, inodes: 1, part: PART_TOLD },
            files: 50,
            cpu_share: None,
            stop: Arc::default(),
            until: None,
        }
    }
}

/// Why a walk could not begin.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The folder could not be opened.
    #[error("{path}: cannot be opened as a folder: {source}", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Walks the mount from the folder `path` down, in which no part may be a symbolic link.
pub fn walk(path: &Path, options: &WalkOptions) -> Result<Usage, WalkError> {
    let began = Instant::now();
    let cannot = |e: Errno| WalkError::Open { path: path.to_owned(), source: e.into() };
    let fd = open_top(path).map_err(cannot)?;
    let facts = look(&fd, c"", AtFlags::EMPTY_PATH).map_err(cannot)?;
    let root = Arc::new(Reading {
        parent: None,
        name: Box::default(),
        depth: 0,
        fd,
        outstanding: AtomicUsize::new(1),
        found: Mutex::new(Folder { bytes: allocated(&facts), inodes: 1, ..Folder::default() }),
    });
    let shared = Shared {
        options,
        path,
        mount: MountOf::of(&facts),
        queue: Mutex::new(Queue { waiting: Vec::new(), ended: false }),
        wake: Condvar::new(),
        hungry: AtomicUsize::new(0),
        seen_bytes: AtomicU64::new(0),
        seen_inodes: AtomicU64::new(0),
        linked: std::array::from_fn(|_| Mutex::default()),
        linked_count: AtomicUsize::new(0),
        result: Mutex::new(None),
        stopped: AtomicBool::new(false),
        threads: AtomicUsize::new(1),
        parts: Mutex::default(),
    };
    lock(&shared.queue).waiting.push(Next::Root(root));
    run(&shared);
    let mut usage = Usage { path: path.to_owned(), ..Usage::default() };
    for part in lock(&shared.parts).drain(..) {
        part.into_usage(&mut usage);
    }
    usage.files.sort_unstable_by(|a, b| b.cmp(a));
    usage.files.truncate(options.files);
    usage.whole = !shared.stopped.load(Ordering::Relaxed);
    usage.root = lock(&shared.result).take().unwrap_or_default();
    let (bytes, inodes) = options.told.at(usage.root.bytes, usage.root.inodes);
    usage.root.fold(bytes, inodes);
    usage.took = began.elapsed();
    Ok(usage)
}

fn run(shared: &Shared<'_>) {
    std::thread::scope(|scope| {
        for _ in 1..shared.options.threads.max(1) {
            start(scope, shared, shared.options.threads);
        }
        let own = Worker::default().work(scope, shared);
        lock(&shared.parts).push(own);
    });
}

/// Starts a thread more if there are fewer than `most`. Fewer do as well, so that one that cannot be started is no error.
fn start<'s, 'e>(scope: &'s Scope<'s, 'e>, shared: &'e Shared<'e>, most: usize) {
    let more = |n: usize| (n < most).then_some(n + 1);
    let Ok(n) = shared.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) else { return };
    let work = move || {
        let part = Worker::default().work(scope, shared);
        lock(&shared.parts).push(part);
    };
    let _ = std::thread::Builder::new().name(format!("usage-{n}")).spawn_scoped(scope, work);
}

/// What all threads share.
struct Shared<'w> {
    options: &'w WalkOptions,
    path: &'w Path,
    mount: MountOf,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Threads that wait for a folder.
    hungry: AtomicUsize,
    /// What all folders that were read held, for [`Threshold::at`].
    seen_bytes: AtomicU64,
    seen_inodes: AtomicU64,
    linked: [Mutex<HashSet<(u64, u64)>>; SHARDS],
    linked_count: AtomicUsize,
    result: Mutex<Option<Folder>>,
    stopped: AtomicBool,
    /// Threads that walk, or were to.
    threads: AtomicUsize,
    /// What those found that are done.
    parts: Mutex<Vec<Worker>>,
}

struct Queue {
    waiting: Vec<Next>,
    ended: bool,
}

/// A folder to be read.
enum Next {
    Root(Arc<Reading>),
    Child { parent: Arc<Reading>, name: CString },
}

/// A folder that is not complete: it, or one beneath it, is still to be read.
struct Reading {
    parent: Option<Arc<Reading>>,
    name: Box<[u8]>,
    depth: usize,
    fd: OwnedFd,
    /// Itself until it is read, and each folder in it until that is complete.
    outstanding: AtomicUsize,
    found: Mutex<Folder>,
}

impl Reading {
    fn path(&self, root: &Path) -> PathBuf {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(folder) = at.filter(|f| f.parent.is_some()) {
            names.push(OsStr::from_bytes(&folder.name));
            at = folder.parent.as_deref();
        }
        let mut path = root.to_owned();
        path.extend(names.into_iter().rev());
        path
    }
}

/// Memory for one folder's listing.
#[derive(Default)]
struct Room {
    listing: Vec<u8>,
    batch: Batch,
}

/// What one thread found besides the sums of folders.
#[derive(Default)]
struct Worker {
    stack: Vec<Next>,
    room: Room,
    entries: u64,
    /// Folders and entries.
    work: u64,
    waits: Waits,
    /// Whether it waits for the disk rather than works.
    wants_help: bool,
    files: Largest,
    unread: Vec<(PathBuf, String)>,
    unread_total: u64,
    mounts: Vec<PathBuf>,
    links_beyond_bound: u64,
    cpu: Duration,
}

impl Worker {
    fn work<'s, 'e>(mut self, scope: &'s Scope<'s, 'e>, shared: &'e Shared<'e>) -> Self {
        let mut pace = Pace::new(shared.options.cpu_share);
        let began = thread_cpu();
        while let Some(next) = self.stack.pop().or_else(|| self.waits.over(|| shared.next())) {
            match next {
                Next::Root(root) => self.read(shared, &mut pace, &root, 0),
                Next::Child { parent, name } => self.enter(shared, &mut pace, &parent, &name, 0),
            }
            self.share(shared);
            if std::mem::take(&mut self.wants_help) {
                start(scope, shared, shared.options.most_threads);
            }
        }
        self.cpu = thread_cpu().saturating_sub(began);
        self
    }

    /// Gives half of what waits here, the topmost folders, to threads that have none.
    fn share(&mut self, shared: &Shared<'_>) {
        if self.stack.len() > 1 && shared.hungry.load(Ordering::Relaxed) > 0 {
            let half = self.stack.len() / 2;
            lock(&shared.queue).waiting.extend(self.stack.drain(..half));
            shared.wake.notify_all();
        }
    }

    fn enter(
        &mut self,
        shared: &Shared<'_>,
        pace: &mut Pace,
        parent: &Arc<Reading>,
        name: &CStr,
        nested: usize,
    ) {
        match open(&parent.fd, name).and_then(|fd| Ok((look(&fd, c"", AtFlags::EMPTY_PATH)?, fd))) {
            Ok((facts, fd)) => {
                let own = Folder { bytes: allocated(&facts), inodes: 1, ..Folder::default() };
                let folder = Arc::new(Reading {
                    parent: Some(Arc::clone(parent)),
                    name: name.to_bytes().into(),
                    depth: parent.depth + 1,
                    fd,
                    outstanding: AtomicUsize::new(1),
                    found: Mutex::new(own),
                });
                self.read(shared, pace, &folder, nested);
            }
            Err(error) => {
                self.not_entered(shared, parent, name, error);
                complete(shared, Some(Arc::clone(parent)));
            }
        }
    }

    fn not_entered(&mut self, shared: &Shared<'_>, parent: &Reading, name: &CStr, error: Errno) {
        let path = || parent.path(shared.path).join(OsStr::from_bytes(name.to_bytes()));
        match error {
            // Gone, or something else by now.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {}
            Errno::XDEV if self.mounts.len() < MAX_NAMED => self.mounts.push(path()),
            Errno::XDEV => {}
            other => self.cannot(path, &format!("the folder cannot be opened: {other}")),
        }
    }

    fn cannot(&mut self, path: impl FnOnce() -> PathBuf, why: &str) {
        self.unread_total += 1;
        if self.unread.len() < MAX_NAMED {
            self.unread.push((path(), why.to_owned()));
        }
    }

    fn read(&mut self, shared: &Shared<'_>, pace: &mut Pace, folder: &Arc<Reading>, nested: usize) {
        // A folder that is read within another one needs its own.
        let mut room = std::mem::take(&mut self.room);
        self.read_into(shared, pace, folder, nested, &mut room);
        self.room = room;
        complete(shared, Some(Arc::clone(folder)));
    }

    fn read_into(
        &mut self,
        shared: &Shared<'_>,
        pace: &mut Pace,
        folder: &Arc<Reading>,
        nested: usize,
        room: &mut Room,
    ) {
        // In a tree of empty folders too there is an end to it.
        if self.must_stop(shared, pace) || shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        room.listing.reserve(LISTING_BYTES);
        let (mut bytes, mut inodes) = (0u64, 0u64);
        let mut listing =
            RawDir::new(&folder.fd, room.listing.spare_capacity_mut() as &mut [MaybeUninit<u8>]);
        loop {
            match room.batch.fill(&mut listing, usize::MAX) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    let why = format!("the folder cannot be read to its end: {error}");
                    self.cannot(|| folder.path(shared.path), &why);
                    break;
                }
            }
            for (name, kind) in room.batch.entries() {
                self.entries += 1;
                if self.must_stop(shared, pace) {
                    break;
                }
                let mut kind = kind;
                if kind != FileType::Directory {
                    let facts = match look(&folder.fd, name, AtFlags::empty()) {
                        Ok(facts) => facts,
                        Err(Errno::NOENT) => continue,
                        Err(error) => {
                            let path = || folder.path(shared.path).join(OsStr::from_bytes(name.to_bytes()));
                            self.cannot(path, &format!("it cannot be looked at: {error}"));
                            continue;
                        }
                    };
                    kind = FileType::from_raw_mode(u32::from(facts.stx_mode));
                    if kind != FileType::Directory {
                        if shared.mount.is(MountOf::of(&facts)) && self.is_first(shared, &facts) {
                            bytes = bytes.saturating_add(allocated(&facts));
                            inodes += 1;
                            self.consider(shared, folder, name, kind, &facts);
                        }
                        continue;
                    }
                }
                self.descend(shared, pace, folder, name, nested);
            }
            if shared.stopped.load(Ordering::Relaxed) {
                break;
            }
        }
        {
            let mut found = lock(&folder.found);
            found.bytes = found.bytes.saturating_add(bytes);
            found.inodes += inodes;
        }
        shared.seen_bytes.fetch_add(bytes, Ordering::Relaxed);
        shared.seen_inodes.fetch_add(inodes + 1, Ordering::Relaxed);
    }

    /// Has the folder `name` in `folder` read, later if there is room for it to wait.
    fn descend(
        &mut self,
        shared: &Shared<'_>,
        pace: &mut Pace,
        folder: &Arc<Reading>,
        name: &CStr,
        nested: usize,
    ) {
        if folder.depth >= MAX_DEPTH {
            let path = || folder.path(shared.path).join(OsStr::from_bytes(name.to_bytes()));
            return self.cannot(path, &format!("it lies more than {MAX_DEPTH} folders deep"));
        }
        folder.outstanding.fetch_add(1, Ordering::Relaxed);
        if self.stack.len() >= MAX_WAITING && nested < MAX_NESTED {
            self.enter(shared, pace, folder, name, nested + 1);
        } else {
            self.stack.push(Next::Child { parent: Arc::clone(folder), name: name.to_owned() });
        }
    }

    /// Counts a folder or an entry; now and then rests, has another thread started where that helps, and says whether the walk
    /// is to end.
    fn must_stop(&mut self, shared: &Shared<'_>, pace: &mut Pace) -> bool {
        self.work += 1;
        if !self.work.is_multiple_of(LOOK_EVERY) {
            return false;
        }
        pace.rest(&shared.options.stop);
        if shared.options.stop.load(Ordering::Relaxed)
            || shared.options.until.is_some_and(|until| Instant::now() >= until)
        {
            shared.stopped.store(true, Ordering::Relaxed);
        }
        self.wants_help |= shared.has_room() && self.waits.mostly();
        shared.stopped.load(Ordering::Relaxed)
    }

    /// Whether this is the first name of its inode that was met.
    fn is_first(&mut self, shared: &Shared<'_>, facts: &Statx) -> bool {
        if facts.stx_nlink < 2 {
            return true;
        }
        let shard = &shared.linked[facts.stx_ino as usize % SHARDS];
        let mut shard = lock(shard);
        let id = (rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor), facts.stx_ino);
        if shard.contains(&id) {
            return false;
        }
        if shared.linked_count.fetch_add(1, Ordering::Relaxed) < MAX_LINKED {
            shard.insert(id);
        } else {
            self.links_beyond_bound += 1;
        }
        true
    }

    fn consider(
        &mut self,
        shared: &Shared<'_>,
        folder: &Reading,
        name: &CStr,
        kind: FileType,
        facts: &Statx,
    ) {
        if kind != FileType::RegularFile {
            return;
        }
        let bytes = allocated(facts);
        self.files.offer(shared.options.files, bytes, || {
            large_file(folder.path(shared.path).join(OsStr::from_bytes(name.to_bytes())), facts)
        });
    }

    fn into_usage(self, usage: &mut Usage) {
        usage.files.extend(self.files.into_files());
        usage.unread.extend(self.unread);
        usage.unread.truncate(MAX_NAMED);
        usage.unread_total += self.unread_total;
        usage.mounts.extend(self.mounts);
        usage.mounts.truncate(MAX_NAMED);
        usage.links_beyond_bound += self.links_beyond_bound;
        usage.entries += self.entries;
        usage.cpu += self.cpu;
    }
}

impl Shared<'_> {
    /// Whether another thread may be started.
    fn has_room(&self) -> bool {
        self.threads.load(Ordering::Relaxed) < self.options.most_threads
    }

    /// A folder to read, or `None` once there are no more and nobody can find one.
    fn next(&self) -> Option<Next> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(next) = queue.waiting.pop() {
                return Some(next);
            }
            if queue.ended {
                return None;
            }
            self.hungry.fetch_add(1, Ordering::Relaxed);
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            self.hungry.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn end(&self, root: Folder) {
        *lock(&self.result) = Some(root);
        lock(&self.queue).ended = true;
        self.wake.notify_all();
    }
}

/// One thing less to wait for in `folder`; what is complete by that is told to its parent, and so on upwards.
fn complete(shared: &Shared<'_>, mut folder: Option<Arc<Reading>>) {
    while let Some(done) = folder {
        if done.outstanding.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut whole = std::mem::take(&mut *lock(&done.found));
        whole.sort();
        let Some(parent) = &done.parent else { return shared.end(whole) };
        whole.name = OsString::from_vec(done.name.to_vec());
        let mut found = lock(&parent.found);
        found.bytes = found.bytes.saturating_add(whole.bytes);
        found.inodes += whole.inodes;
        let (bytes, inodes) = shared
            .options
            .told
            .at(shared.seen_bytes.load(Ordering::Relaxed), shared.seen_inodes.load(Ordering::Relaxed));
        if whole.bytes >= bytes || whole.inodes >= inodes {
            found.folders.push(whole);
        } else {
            found.add_small(whole.bytes, whole.inodes);
        }
        drop(found);
        folder = done.parent.clone();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
