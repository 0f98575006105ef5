//! Where reading stands, on disk: what a restart continues from.
//!
//! # Layout
//! One file of two slots of equal, fixed size (a multiple of 4096). A slot is magic `DWTAILC1`, generation (u64 LE),
//! length (u32 LE), CRC32C of generation, length and payload (u32 LE), then the payload: JSON. The file is created
//! full of zeros (temp, sync, rename, sync parent) and from then on written in place, the slots in turn.
//!
//! # Invariants
//! The slot that is valid and newest is never the one being written, so a torn or refused write costs at most one
//! generation. Saving allocates nothing on filesystems that overwrite in place, so it works at 0 bytes free. Loading
//! garbage gives the other slot, or nothing; never an error.
//!
//! # Limits
//! The payload of a slot is bounded by its size; where the files do not fit, those that were read least recently are
//! left out and the count of them is reported. Lines of a file left out are read again after a restart: none is lost.
//!
//! Saving happens on a thread of its own ([`CheckpointWriter`]), because a sync on a stalled disk can take for ever and
//! reading must go on meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The file's name in the agent's state folder.
pub const CHECKPOINT_FILE: &str = "tail-checkpoint.json";
/// Default size of a slot: room for some 2,000 files with long paths.
pub const SLOT_BYTES: usize = 512 * 1024;
const MAGIC: &[u8; 8] = b"DWTAILC1";
const HEADER: usize = 24;
const PAGE: usize = 4096;
/// How long dropping the writer waits for a last save: longer means that the disk is stalled.
const LAST_SAVE: Duration = Duration::from_secs(2);

/// The first bytes of a file, as a digest: together with the inode it says which file this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fingerprint {
    /// How many bytes the digest covers: at most 256; 0 for a file that was empty.
    pub bytes: u16,
    /// First 8 bytes of SHA-256 over them.
    pub digest: u64,
}

/// One file in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The source: the path under which it was found first.
    pub source: String,
    /// Where it was last seen, symbolic links resolved: where to look for its siblings.
    pub path: PathBuf,
    /// `st_dev`; may change over a reboot, so it is a hint only.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// Its head.
    pub head: Fingerprint,
    /// Everything before this offset is durable.
    pub offset: u64,
    /// Lines still to be kept as context after the last match before `done`.
    pub after: u8,
    /// Lines that are complete before this offset are durable too; never less than `offset`, whatever it says.
    #[serde(default)]
    pub done: u64,
    /// Whether it was rotated and read to its end: its disappearance loses nothing.
    pub ended: bool,
}

/// Where reading stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The files, most recently read first.
    pub files: Vec<FileState>,
}

/// The file that holds checkpoints.
#[derive(Debug)]
pub struct CheckpointStore {
    file: File,
    slot_bytes: usize,
    generation: u64,
    /// The slot that the next save goes to.
    next: usize,
}

impl CheckpointStore {
    /// Opens the file `path` and reads the newest checkpoint, or creates it with slots of `slot_bytes` (rounded up to
    /// 4096). A file of another size is created anew, keeping what it says.
    pub fn open(path: &Path, slot_bytes: usize) -> io::Result<(Self, Option<Checkpoint>)> {
        let slot_bytes = slot_bytes.max(PAGE).next_multiple_of(PAGE);
        let bytes = match read_bounded(path, 64 * 1024 * 1024) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let slots = [slot(&bytes, 0), slot(&bytes, 1)];
        let newest = match &slots {
            [Some(a), Some(b)] => Some(usize::from(b.0 > a.0)),
            [Some(_), None] => Some(0),
            [None, Some(_)] => Some(1),
            [None, None] => None,
        };
        let generation = newest.and_then(|n| slots[n].as_ref()).map_or(0, |s| s.0);
        let found = newest.and_then(|n| slots[n].as_ref()).map(|s| s.1.clone());
        let mut next = newest.map_or(0, |n| 1 - n);
        if bytes.len() != 2 * slot_bytes {
            let kept = match &found {
                Some(checkpoint) => encode(generation, &payload(checkpoint, slot_bytes - HEADER)?.0),
                None => Vec::new(),
            };
            create(path, slot_bytes, &kept)?;
            next = 1;
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok((Self { file, slot_bytes, generation, next }, found))
    }

    /// Writes `checkpoint` into the older slot and syncs it. Returns how many files did not fit.
    pub fn save(&mut self, checkpoint: &Checkpoint) -> io::Result<usize> {
        let (payload, left_out) = payload(checkpoint, self.slot_bytes - HEADER)?;
        let generation = self.generation + 1;
        self.file.write_all_at(&encode(generation, &payload), (self.next * self.slot_bytes) as u64)?;
        self.file.sync_data()?;
        self.generation = generation;
        self.next = 1 - self.next;
        Ok(left_out)
    }
}

/// As many of the files as fit into `room` bytes, most recently read first.
fn payload(checkpoint: &Checkpoint, room: usize) -> io::Result<(Vec<u8>, usize)> {
    let whole = serde_json::to_vec(checkpoint)?;
    if whole.len() <= room {
        return Ok((whole, 0));
    }
    let mut used = br#"{"files":[]}"#.len();
    let mut kept = Vec::new();
    for file in &checkpoint.files {
        used += serde_json::to_vec(file)?.len() + 1;
        if used > room {
            break;
        }
        kept.push(file.clone());
    }
    let left_out = checkpoint.files.len() - kept.len();
    Ok((serde_json::to_vec(&Checkpoint { files: kept })?, left_out))
}

fn encode(generation: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&checksum(generation, payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn checksum(generation: u64, payload: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&generation.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &(payload.len() as u32).to_le_bytes());
    crc32c::crc32c_append(sum, payload)
}

/// Slot `n` of a file of two equal slots, if it is whole: its generation and what it says.
fn slot(bytes: &[u8], n: usize) -> Option<(u64, Checkpoint)> {
    let size = bytes.len() / 2;
    let bytes = bytes.get(n * size..(n + 1) * size)?;
    let rest = bytes.strip_prefix(MAGIC)?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let generation = u64::from_le_bytes(*generation);
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if checksum(generation, payload) != u32::from_le_bytes(*sum) {
        return None;
    }
    Some((generation, serde_json::from_slice(payload).ok()?))
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    if length > most { Ok(Vec::new()) } else { fs::read(path) }
}

/// Written full of zeros rather than merely allocated: overwriting what is allocated but never written still needs
/// metadata, and thus space, on some filesystems.
fn create(path: &Path, slot_bytes: usize, first_slot: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all_at(&vec![0; 2 * slot_bytes], 0)?;
        file.write_all_at(first_slot, 0)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Half a file would take the space that is missing.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

#[derive(Debug, Default)]
struct Desk {
    wanted: Option<Checkpoint>,
    problem: Option<String>,
    saves: u64,
    closing: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    desk: Mutex<Desk>,
    bell: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Saves checkpoints on a thread of its own. Only the newest one waits; the thread is named `tail-checkpoint`.
#[derive(Debug)]
pub struct CheckpointWriter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CheckpointWriter {
    /// Opens `path` (as [`CheckpointStore::open`]) and starts the thread. Where the file cannot be created, for want
    /// of space for example, the thread tries again at each save, and the problem is reported.
    pub fn start(path: PathBuf, slot_bytes: usize) -> io::Result<(Self, Option<Checkpoint>)> {
        let shared = Arc::new(Shared::default());
        let (mut store, found) = match CheckpointStore::open(&path, slot_bytes) {
            Ok((store, found)) => (Some(store), found),
            Err(e) => {
                shared.lock().problem = Some(describe(&path, &e));
                // What is there may still be readable where nothing can be written.
                let bytes = read_bounded(&path, 64 * 1024 * 1024).unwrap_or_default();
                (None, slot(&bytes, 0).into_iter().chain(slot(&bytes, 1)).max_by_key(|s| s.0).map(|s| s.1))
            }
        };
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("tail-checkpoint".to_owned()).spawn(move || {
            loop {
                let checkpoint = {
                    let mut desk = theirs.lock();
                    loop {
                        if let Some(checkpoint) = desk.wanted.take() {
                            break checkpoint;
                        }
                        if desk.closing {
                            desk.closed = true;
                            theirs.bell.notify_all();
                            return;
                        }
                        desk = theirs.bell.wait(desk).unwrap_or_else(PoisonError::into_inner);
                    }
                };
                let saved = match &mut store {
                    Some(store) => store.save(&checkpoint),
                    None => CheckpointStore::open(&path, slot_bytes)
                        .and_then(|(s, _)| store.insert(s).save(&checkpoint)),
                };
                let mut desk = theirs.lock();
                match saved {
                    Ok(0) => desk.saves += 1,
                    Ok(left_out) => {
                        desk.saves += 1;
                        desk.problem = Some(format!("{}: {left_out} files do not fit and would be read again after a restart; narrow the globs", path.display()));
                    }
                    Err(e) => desk.problem = Some(describe(&path, &e)),
                }
                theirs.bell.notify_all();
            }
        })?;
        Ok((Self { shared, thread: Some(thread) }, found))
    }

    /// Hands over `checkpoint` to be saved; replaces one that still waits. Never blocks.
    pub fn save(&self, checkpoint: Checkpoint) {
        self.shared.lock().wanted = Some(checkpoint);
        self.shared.bell.notify_all();
    }

    /// What went wrong since the last call, if anything.
    pub fn problem(&self) -> Option<String> {
        self.shared.lock().problem.take()
    }

    /// How many saves have succeeded.
    pub fn saves(&self) -> u64 {
        self.shared.lock().saves
    }
}

fn describe(path: &Path, error: &io::Error) -> String {
    format!(
        "tail checkpoint {} could not be saved: {error}; reading goes on, and a restart would read again from the last one",
        path.display()
    )
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        let mut desk = self.shared.lock();
        desk.closing = true;
        self.shared.bell.notify_all();
        let deadline = std::time::Instant::now() + LAST_SAVE;
        while !desk.closed {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                // A stalled disk must not keep the agent from ending.
                return;
            }
            desk = self.shared.bell.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(desk);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
