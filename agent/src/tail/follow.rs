//! Keeps hold of one file through renames and truncation.
//!
//! A file is (device, inode) plus its first bytes: the inode alone is not enough, since it is given to another file
//! soon after a deletion, and since copytruncate keeps it while the content begins anew. The last bytes before the
//! reading position are remembered too: they tell a copy of this file from a file that merely begins alike.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use dogwatch::record::Pod;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

use super::Mark;
use super::checkpoint::{FileState, Fingerprint};
use super::matcher::Matcher;
use super::runtime::Joiner;

/// Bytes at the beginning of a file that tell it from others.
pub(super) const HEAD_BYTES: usize = 256;
/// Bytes before the reading position that tell a copy from what merely begins alike.
pub(super) const TAIL_BYTES: usize = 64;
/// A head shorter than this says too little to call a file a copy of another.
pub(super) const TELLING_HEAD: usize = 32;
/// Folder entries looked at when a rotated file is looked for.
const MAX_SIBLINGS: usize = 10_000;

/// Where a file stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Under the path that it was found at.
    Live,
    /// Renamed; a glob still names it.
    Rotated,
    /// Renamed out of the globs, or deleted.
    Gone,
    /// The copy that copytruncate makes; not read unless its original is truncated.
    Copy(Box<Copied>),
}

/// What is known of a suspected copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copied {
    /// The original's reading position when the copy was met, and the bytes before it.
    pub(super) offset: u64,
    pub(super) tail: Vec<u8>,
    /// When it was met, boot ns.
    pub(super) since_ns: u64,
    /// Its size then, or when it last grew.
    pub(super) size: u64,
    /// Whether the bytes before the position were found to be the same.
    pub(super) confirmed: bool,
}

/// Lines that a budget dropped and that no gap has said yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Dropped {
    /// From where reading would have to begin again,
    pub(super) from: u64,
    /// and behind which offset lines are not dealt with.
    pub(super) done: u64,
    pub(super) to: u64,
    pub(super) bytes: u64,
    pub(super) lines: u64,
    pub(super) since_ns: u64,
}

impl Dropped {
    /// Adds a line of `bytes` at `done..to`, which reading meets if it begins at `from`.
    pub(super) fn add(slot: &mut Option<Self>, (from, done, to): (u64, u64, u64), bytes: u64, now_ns: u64) {
        let dropped = slot.get_or_insert(Self { from, done, since_ns: now_ns, ..Self::default() });
        dropped.to = dropped.to.max(to);
        dropped.bytes += bytes;
        dropped.lines += 1;
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) key: u64,
    pub(super) generation: u32,
    pub(super) source: Arc<str>,
    /// With symbolic links resolved.
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Device and inode of the folder that it was opened in.
    pub(super) folder: Option<(u64, u64)>,
    pub(super) file: Option<File>,
    pub(super) head: Vec<u8>,
    /// The bytes before `offset`, as far as they were read.
    pub(super) tail: Vec<u8>,
    /// Start of the first line that is not dealt with.
    pub(super) offset: u64,
    /// Up to where it was read; behind `offset` only within a long line.
    pub(super) scan: u64,
    /// Whether the line at `offset` was handed on already, cut, and its rest is skipped.
    pub(super) long: bool,
    pub(super) after: u8,
    /// The evidence stream has every evidence line up to this offset.
    pub(super) evidence_to: Option<u64>,
    /// The recorder stream has every line up to this offset.
    pub(super) recorder_to: Option<u64>,
    pub(super) dropped_evidence: Option<Dropped>,
    pub(super) dropped_recorder: Option<Dropped>,
    /// Durable up to here, and the context due there.
    pub(super) committed: (u64, u8),
    /// Lines complete before this are durable too.
    pub(super) committed_done: u64,
    /// Lines complete before this were handed on, though reading may stand before it.
    pub(super) done: u64,
    /// Whose container writes it,
    pub(super) pod: Option<Pod>,
    /// and what joins its messages.
    pub(super) joiner: Joiner,
    /// The last offset that a mark said.
    pub(super) told: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i128,
    /// When it was created, where the filesystem says.
    pub(super) born: Option<SystemTime>,
    pub(super) place: Place,
    /// When it last grew or moved, boot ns.
    pub(super) active_ns: u64,
    /// Rotated and read to its end.
    pub(super) ended: bool,
    /// Not yet asked whether it is a copy.
    pub(super) fresh: bool,
    pub(super) matcher: Option<Arc<Matcher>>,
    pub(super) queued: bool,
    /// The size at which a last line without newline was left waiting.
    pub(super) waiting_at: Option<u64>,
}

impl Followed {
    /// Whether nothing about it waits for a time, and growth of it is told by the watch on its folder: on the very one that it
    /// was opened in, not another that had its name.
    pub(super) fn rests(&self, watched: &BTreeMap<PathBuf, (u64, u64)>) -> bool {
        if self.file.is_none() {
            return self.place != Place::Gone;
        }
        let durable = self.committed.0 >= self.offset && self.committed_done >= self.done;
        let told = self.dropped_evidence.is_none() && self.dropped_recorder.is_none();
        let watch = self.path.parent().and_then(|folder| watched.get(folder));
        let hinted = watch.is_some() && watch == self.folder.as_ref();
        self.place == Place::Live && self.joiner.low().is_none() && durable && told && hinted
    }
}

/// An opened regular file.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) folder: Option<(u64, u64)>,
    pub(super) size: u64,
    pub(super) mtime_ns: i128,
    pub(super) born: Option<SystemTime>,
}

/// Opens `path` if it is a regular file. What it is, is asked before it is opened for reading: opening a FIFO can
/// block, and opening a device can do things.
pub(super) fn open(path: &Path) -> io::Result<Opened> {
    let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let handle = File::from(handle);
    if !handle.metadata()?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    // Of this thread: it may have a table of descriptors of its own.
    let by_handle = format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let resolved = fs::read_link(&by_handle)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(by_handle, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    Ok(Opened {
        folder: resolved.parent().and_then(folder_id),
        path: resolved,
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        mtime_ns: mtime_ns(&metadata),
        born: metadata.created().ok(),
        file,
    })
}

/// Device and inode of a folder.
pub(super) fn folder_id(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

pub(super) fn mtime_ns(metadata: &fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

/// Up to `length` bytes at `offset`; fewer at the end of the file.
pub(super) fn read_some(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; length];
    let n = read_full(file, &mut out, offset)?;
    out.truncate(n);
    Ok(out)
}

/// Fills `buffer` from `offset` as far as the file goes; returns how far.
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The digest of a head.
pub(super) fn fingerprint(head: &[u8]) -> Fingerprint {
    let digest = Sha256::digest(head);
    let first = digest.first_chunk::<8>().copied().unwrap_or_default();
    Fingerprint { bytes: head.len() as u16, digest: u64::from_le_bytes(first) }
}

/// Whether `file` begins as `wanted` says.
pub(super) fn begins_as(file: &File, wanted: Fingerprint) -> bool {
    let length = usize::from(wanted.bytes);
    length <= HEAD_BYTES
        && read_some(file, 0, length).is_ok_and(|head| head.len() == length && fingerprint(&head) == wanted)
}

/// Whether `file` holds `tail` right before `offset`.
pub(super) fn holds(file: &File, offset: u64, tail: &[u8]) -> bool {
    let Some(from) = offset.checked_sub(tail.len() as u64) else { return false };
    read_some(file, from, tail.len()).is_ok_and(|bytes| bytes == tail)
}

impl Followed {
    /// Where reading would have to begin again: at the oldest message that is open.
    pub(super) fn low(&self) -> u64 {
        self.joiner.low().map_or(self.offset, |low| low.min(self.offset))
    }

    /// Lines complete before this were handed on.
    pub(super) fn done(&self) -> u64 {
        self.done.max(self.offset)
    }

    /// A mark where reading stands.
    pub(super) fn mark_here(&self) -> Mark {
        self.mark(self.low(), self.done(), self.after)
    }

    /// A mark at `offset`, lines being dealt with up to `done`; or before the first line that no gap has said yet.
    pub(super) fn mark(&self, offset: u64, done: u64, after: u8) -> Mark {
        let (mut offset, mut done, mut after) = (offset, done, after);
        for unsaid in [self.dropped_evidence, self.dropped_recorder].into_iter().flatten() {
            offset = offset.min(unsaid.from);
            if unsaid.done < done {
                (done, after) = (unsaid.done, 0);
            }
        }
        Mark {
            file: self.key,
            generation: self.generation,
            source: Arc::clone(&self.source),
            inode: self.inode,
            offset,
            after,
            done,
        }
    }

    /// Whether the content is still the one that was read so far, given its `size` now. Learns more of the head of a
    /// file that was short.
    pub(super) fn unchanged(&mut self, size: u64) -> io::Result<bool> {
        if size < self.scan {
            return Ok(false);
        }
        let Some(file) = &self.file else { return Ok(true) };
        let mut head = [0; HEAD_BYTES];
        let n = read_full(file, &mut head, 0)?;
        if n < self.head.len() || head[..self.head.len()] != self.head[..] {
            return Ok(false);
        }
        if n > self.head.len() {
            self.head = head[..n].to_vec();
        }
        Ok(true)
    }

    /// Moves on to `offset`, of which `read` are the last bytes.
    pub(super) fn move_to(&mut self, offset: u64, read: &[u8]) {
        let tail = &read[read.len().saturating_sub(TAIL_BYTES)..];
        if tail.len() < TAIL_BYTES {
            self.tail.extend_from_slice(tail);
            let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
            self.tail.drain(..surplus);
        } else {
            self.tail.clear();
            self.tail.extend_from_slice(tail);
        }
        self.offset = offset;
        self.scan = offset;
        self.long = false;
    }

    /// Places the reading position without having read what is before it; takes the bytes there from the file.
    pub(super) fn place_at(&mut self, offset: u64) {
        let from = offset.saturating_sub(TAIL_BYTES as u64);
        let tail = self.file.as_ref().and_then(|f| read_some(f, from, (offset - from) as usize).ok());
        self.tail = tail.unwrap_or_default();
        (self.offset, self.scan, self.long, self.told) = (offset, offset, false, offset);
        self.done = 0;
        self.joiner.clear();
    }

    /// As a checkpoint keeps it.
    pub(super) fn state(&self) -> FileState {
        FileState {
            source: self.source.to_string(),
            path: self.path.clone(),
            device: self.device,
            inode: self.inode,
            head: fingerprint(&self.head),
            offset: self.committed.0,
            after: self.committed.1,
            done: self.committed_done.max(self.committed.0),
            ended: self.ended && self.committed.0 >= self.offset,
        }
    }
}

/// The file beside `path` that `wanted` accepts. Looks at entries whose inode or name makes them likely (`likely`),
/// and at a bounded number of entries.
pub(super) fn sibling(
    path: &Path,
    likely: impl Fn(u64, &str) -> bool,
    wanted: impl Fn(&Opened) -> bool,
) -> Option<Opened> {
    use std::os::unix::fs::DirEntryExt;
    let entries = fs::read_dir(path.parent()?).ok()?;
    entries
        .take(MAX_SIBLINGS)
        .flatten()
        .filter(|e| likely(e.ino(), &e.file_name().to_string_lossy()))
        .filter_map(|e| open(&e.path()).ok())
        .find(|o| wanted(o))
}

/// Files beside `path` whose names begin with its name and that `wanted` accepts: generations of the same log.
pub(super) fn generations(path: &Path, wanted: impl Fn(&Path, &Opened) -> bool) -> Vec<Opened> {
    let (Some(name), Some(Ok(entries))) = (path.file_name(), path.parent().map(fs::read_dir)) else {
        return Vec::new();
    };
    let name = name.to_string_lossy();
    entries
        .take(MAX_SIBLINGS)
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&*name))
        .filter_map(|e| open(&e.path()).ok().filter(|o| wanted(&e.path(), o)))
        .collect()
}

/// The copy that copytruncate made of the content that `followed` was reading.
pub(super) fn remainder(followed: &Followed) -> Option<Opened> {
    if followed.head.len() < TELLING_HEAD {
        return None;
    }
    let name = followed.path.file_name()?.to_string_lossy().into_owned();
    let head = fingerprint(&followed.head);
    sibling(
        &followed.path,
        |inode, other| inode != followed.inode && other.starts_with(&name),
        |o| {
            o.inode != followed.inode
                && o.size >= followed.offset
                && begins_as(&o.file, head)
                && holds(&o.file, followed.offset, &followed.tail)
        },
    )
}
