//! The journal's folder: what lies in it, how a file comes into being and changes its name, and the lock.
//!
//! Names change by rename and are made durable by syncing the folder; a file gets the name of a segment only when
//! its content is durable.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::JournalError;
use super::segment::{file_name, parse_name};

const LOCK_NAME: &str = "lock";
const LOCK_MAGIC: [u8; 8] = *b"DOGWLCK1";
const LOCK_BYTES: usize = 64;
const STATE_OPEN: u32 = 1;
const STATE_CLOSED: u32 = 2;
/// What is written at once while a file is filled with zeros.
const ZEROS_BYTES: usize = 1 << 20;
/// Foreign names that are remembered for a remark.
const MAX_FOREIGN: usize = 8;
/// Share of the filesystem that creating segments leaves free, in percent.
const LEAVE_FREE_PERCENT: u64 = 5;
/// Longest file name that Linux's filesystems take, bytes.
const MAX_NAME_BYTES: usize = 255;
/// What a file's name takes in ext4's folders at most: 8 bytes and the name, rounded up to 4.
const ENTRY_BYTES: u64 = 40;
/// Bytes of folder for each that its names take. Names are spread over the folder's blocks by their hash, and a block
/// that is full must be split, which takes a block; at an eighth of it none ever gets near.
const WIDE: u64 = 8;
/// Names that widen a folder at most: some half a mebibyte, enough for a ring of 1,500 segments.
const MAX_WIDENING: u64 = 2_000;
/// `EXT4_SUPER_MAGIC`, also of ext2 and ext3: statfs(2).
const EXT4_MAGIC: u64 = 0xEF53;

/// What lies in the folder.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Numbers of segments, ascending.
    pub(super) segments: Vec<u64>,
    /// Numbers of spares, ascending.
    pub(super) spares: Vec<u64>,
    /// Names of half-made files.
    pub(super) partial: Vec<String>,
    /// Some names that are none of the journal's.
    pub(super) foreign: Vec<String>,
}

/// The folder, open for syncing.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    handle: File,
}

/// An error of the operating system, with what was attempted.
pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { what, path: path.display().to_string(), source }
}

/// Whether it says that there is no room, by the filesystem or by a quota.
pub(super) fn is_no_room(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Lists `dir`.
pub(super) fn list(dir: &Path) -> Result<Listing, JournalError> {
    let fail = |e| io_error("cannot list", dir, e);
    let mut listing = Listing::default();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let name = name.to_string_lossy();
        if let Some(number) = parse_name(&name) {
            listing.segments.push(number);
        } else if let Some(number) = name.strip_prefix("spare-").and_then(parse_name) {
            listing.spares.push(number);
        } else if name.starts_with("partial-") && name.ends_with(".seg") {
            listing.partial.push(name.into_owned());
        } else if name != LOCK_NAME && listing.foreign.len() < MAX_FOREIGN {
            listing.foreign.push(name.into_owned());
        }
    }
    listing.segments.sort_unstable();
    listing.spares.sort_unstable();
    Ok(listing)
}

impl Folder {
    /// Opens `dir`, creating it (mode 0700) with its parents where it lacks.
    pub(super) fn open(dir: &Path) -> Result<Self, JournalError> {
        let lacking: Vec<&Path> =
            dir.ancestors().take_while(|a| !a.as_os_str().is_empty() && !a.is_dir()).collect();
        if !lacking.is_empty() {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(dir).map_err(|e| io_error("cannot create", dir, e))?;
        }
        // Each new folder's name must be as durable as what will be promised beneath it.
        for parent in lacking.iter().filter_map(|new| new.parent()) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent).and_then(|p| p.sync_all()).map_err(|e| io_error("cannot sync", parent, e))?;
        }
        let handle = File::open(dir).map_err(|e| io_error("cannot open", dir, e))?;
        Ok(Self { path: dir.to_owned(), handle })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.handle.sync_all().map_err(|e| io_error("cannot sync", &self.path, e))
    }

    /// Where segment `number` is.
    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(file_name(number))
    }

    /// Where spare `number` is.
    pub(super) fn spare(&self, number: u64) -> PathBuf {
        self.path.join(format!("spare-{}", file_name(number)))
    }

    /// Renames without syncing the folder.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), JournalError> {
        std::fs::rename(from, to).map_err(|e| io_error("cannot rename", from, e))
    }

    /// Removes a file; one that is not there is fine.
    pub(super) fn remove(&self, path: &Path) -> Result<(), JournalError> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(io_error("cannot remove", path, e)),
            _ => Ok(()),
        }
    }

    /// Bytes that are free for this process, and the filesystem's size.
    pub(super) fn space(&self) -> Result<(u64, u64), JournalError> {
        let v = rustix::fs::fstatvfs(&self.handle)
            .map_err(|e| io_error("cannot ask for free space in", &self.path, e.into()))?;
        Ok((v.f_bavail.saturating_mul(v.f_frsize), v.f_blocks.saturating_mul(v.f_frsize)))
    }

    /// Whether a segment more would leave other writers some room: a segment's size or 5 % of the filesystem,
    /// whichever is more.
    pub(super) fn has_room_for(&self, segment_bytes: u64) -> Result<bool, JournalError> {
        let (available, size) = self.space()?;
        let leave = segment_bytes.max(size / 100 * LEAVE_FREE_PERCENT);
        Ok(available >= segment_bytes.saturating_add(leave))
    }

    /// Makes the folder wide enough that taking turns with `files` names never makes it grow: with 0 bytes free it could
    /// not, and then no segment would ever be begun again. Only ext4 needs it (XFS and btrfs keep a reserve of their own
    /// for names, tmpfs counts none), and there a folder never shrinks. `false` where the filesystem has no room for it.
    pub(super) fn widen(&self, files: u32) -> Result<bool, JournalError> {
        let fail = |e: rustix::io::Errno| io_error("cannot look at", &self.path, e.into());
        let kind = rustix::fs::fstatfs(&self.handle).map_err(fail)?.f_type as u64 & 0xFFFF_FFFF;
        let wanted = u64::from(files).saturating_mul(ENTRY_BYTES * WIDE);
        let most = wanted.div_ceil(MAX_NAME_BYTES as u64).saturating_mul(2).min(MAX_WIDENING);
        let is_wide = || self.handle.metadata().map_or(true, |m| m.len() >= wanted);
        if kind != EXT4_MAGIC || is_wide() {
            return Ok(true);
        }
        // Further names of the lock file, as long as names may be: they take no inode. What a crash leaves of them goes
        // at the next opening like any half-made file.
        let lock = self.path.join(LOCK_NAME);
        let digits = MAX_NAME_BYTES - "partial-.seg".len();
        let name = |n: u64| self.path.join(format!("partial-{n:0digits$}.seg"));
        let mut made = 0;
        let mut result = Ok(true);
        while made < most && !is_wide() {
            match std::fs::hard_link(&lock, name(made)) {
                Ok(()) => made += 1,
                Err(e) if is_no_room(&e) => {
                    result = Ok(false);
                    break;
                }
                Err(e) => {
                    result = Err(io_error("cannot widen", &self.path, e));
                    break;
                }
            }
        }
        for n in 0..made {
            self.remove(&name(n))?;
        }
        result
    }

    /// Creates spare `number`, `bytes` real zeros, durable. What it wrote goes again when it fails.
    pub(super) fn create_spare(&self, number: u64, bytes: u64) -> Result<(), JournalError> {
        let partial = self.path.join(format!("partial-{}", file_name(number)));
        let made = write_zeros(&partial, bytes);
        if let Err(e) = made {
            self.remove(&partial)?;
            return Err(io_error("cannot fill with zeros", &partial, e));
        }
        self.rename(&partial, &self.spare(number))?;
        self.sync()
    }
}

fn write_zeros(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let zeros = vec![0u8; ZEROS_BYTES.min(bytes as usize)];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    file.sync_all()
}

/// What the lock file told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastWriter {
    /// It closed the journal.
    pub(super) clean: bool,
    /// Segments that begin from now on have this number or a higher one.
    pub(super) next_number: u64,
}

/// The lock: an exclusive `flock`, and in its file how the last writer left. Given back by the kernel, at the latest, at any
/// end.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes it or fails at once. `None` where no writer ever was.
    pub(super) fn take(dir: &Path) -> Result<(Self, Option<LastWriter>), JournalError> {
        let path = dir.join(LOCK_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| match is_no_room(&e) {
                true => JournalError::NoRoom {
                    path: dir.display().to_string(),
                    detail: "not even a lock file fits; free some space and start again".to_owned(),
                },
                false => io_error("cannot open", &path, e),
            })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(JournalError::Locked { path: dir.display().to_string() });
            }
            Err(e) => return Err(io_error("cannot lock", &path, e.into())),
        }
        let mut bytes = [0u8; LOCK_BYTES];
        let last = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Some(decode_lock(&bytes)),
            Err(_) if file.metadata().is_ok_and(|m| m.len() == 0) => None,
            Err(_) => Some(LastWriter { clean: false, next_number: 0 }),
        };
        Ok((Self { file, path }, last))
    }

    /// Notes, durably, that the journal is open, or with `closed` that it was left in order.
    pub(super) fn note(&self, closed: bool, next_number: u64) -> Result<(), JournalError> {
        let mut bytes = [0u8; LOCK_BYTES];
        bytes[0..8].copy_from_slice(&LOCK_MAGIC);
        bytes[8..12].copy_from_slice(&if closed { STATE_CLOSED } else { STATE_OPEN }.to_le_bytes());
        bytes[16..24].copy_from_slice(&next_number.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        self.file
            .write_all_at(&bytes, 0)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| io_error("cannot write", &self.path, e))
    }

    /// Empties the file: the next writer finds no word of a clean end.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.file.set_len(0).and_then(|()| self.file.sync_all())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file gives it back only once no child that is just being started has a copy of it. Where this fails,
        // closing has to do.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// A content that does not hold counts as a crash: the careful answer.
fn decode_lock(bytes: &[u8; LOCK_BYTES]) -> LastWriter {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if bytes[0..8] != LOCK_MAGIC || word(60) != crc32c::crc32c(&bytes[..60]) {
        return LastWriter { clean: false, next_number: 0 };
    }
    let next_number = u64::from(word(16)) | u64::from(word(20)) << 32;
    LastWriter { clean: word(8) == STATE_CLOSED, next_number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_given_back_is_free_though_a_child_has_a_copy_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, _) = Lock::take(dir.path()).unwrap();
        // As a process has it from its fork to its exec.
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        let (again, _) = Lock::take(dir.path()).unwrap();
        drop(copy);
        assert!(
            matches!(Lock::take(dir.path()), Err(JournalError::Locked { .. })),
            "and it is the next one's"
        );
        drop(again);
    }
}
