//! A tiny value that survives kill -9 and a full disk: two slots of one preallocated file, written in turn.
//!
//! Layout, little-endian, per 4096-byte slot: magic `DWSL`, CRC32C of all that follows, generation u64, length u32,
//! bytes. The valid slot of the higher generation holds the value, so a torn write costs the newest value and never
//! both. Written in place: no room is needed once the file exists.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const SLOT_BYTES: usize = 4096;
/// Size of the file.
pub(crate) const FILE_BYTES: u64 = 2 * SLOT_BYTES as u64;
const MAGIC: &[u8; 4] = b"DWSL";
const HEADER_BYTES: usize = 20;
/// Longest value, in bytes.
pub(crate) const MAX_VALUE_BYTES: usize = SLOT_BYTES - HEADER_BYTES;

/// An open pair of slots.
#[derive(Debug)]
pub(crate) struct Slots {
    file: File,
    generation: u64,
}

/// What a pair of slots held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The newest whole value; `None` where there is none.
    pub(crate) value: Option<Vec<u8>>,
    /// Whether a slot holds something that is no value: a newer one was torn or damaged.
    pub(crate) damaged: bool,
}

impl Slots {
    /// Opens or creates the file (mode 0600) and reads the newest whole value.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Option<Vec<u8>>)> {
        Self::open_telling(path).map(|(slots, found)| (slots, found.value))
    }

    /// [`Slots::open`], for whom an older value is not as good as the newest.
    pub(crate) fn open_telling(path: &Path) -> io::Result<(Self, Found)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() < FILE_BYTES {
            // Real zeros, so that later writes need no block of a disk that may be full by then.
            let have = file.metadata()?.len();
            let missing = FILE_BYTES - have;
            file.write_all_at(&vec![0; missing as usize], have)?;
            file.sync_all()?;
        }
        let mut damaged = false;
        let mut empty = false;
        let mut newest: Option<(u64, Vec<u8>)> = None;
        for index in 0..2 {
            match read_slot(&file, index) {
                Slot::Empty => empty = true,
                Slot::Damaged => damaged = true,
                Slot::Value(generation, value) => {
                    if newest.as_ref().is_none_or(|(newer, _)| *newer < generation) {
                        newest = Some((generation, value));
                    }
                }
            }
        }
        let generation = newest.as_ref().map_or(0, |(g, _)| *g);
        // From the second write on both were written.
        damaged |= empty && generation > 1;
        Ok((Self { file, generation }, Found { value: newest.map(|(_, v)| v), damaged }))
    }

    /// Writes `value` durably into the older slot.
    pub(crate) fn write(&mut self, value: &[u8]) -> io::Result<()> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the value is longer than a slot"));
        }
        let generation = self.generation + 1;
        let mut slot = vec![0u8; SLOT_BYTES];
        slot[..4].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&generation.to_le_bytes());
        slot[16..20].copy_from_slice(&(value.len() as u32).to_le_bytes());
        slot[HEADER_BYTES..HEADER_BYTES + value.len()].copy_from_slice(value);
        let crc = crc32c::crc32c(&slot[8..]);
        slot[4..8].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&slot, (generation % 2) * SLOT_BYTES as u64)?;
        self.file.sync_data()?;
        self.generation = generation;
        Ok(())
    }
}

enum Slot {
    /// Never written.
    Empty,
    Damaged,
    Value(u64, Vec<u8>),
}

fn read_slot(file: &File, index: u64) -> Slot {
    let mut slot = vec![0u8; SLOT_BYTES];
    let read = file.read_exact_at(&mut slot, index * SLOT_BYTES as u64);
    match (read, value_of(&slot)) {
        (Ok(()), Some((generation, value))) => Slot::Value(generation, value),
        (Ok(()), None) if slot.iter().all(|b| *b == 0) => Slot::Empty,
        _ => Slot::Damaged,
    }
}

fn value_of(slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    let word = |at: usize| slot[at..at + 4].try_into().map(u32::from_le_bytes).ok();
    if &slot[..4] != MAGIC || word(4)? != crc32c::crc32c(&slot[8..]) {
        return None;
    }
    let generation = slot[8..16].try_into().map(u64::from_le_bytes).ok()?;
    let len = word(16)? as usize;
    (len <= MAX_VALUE_BYTES).then(|| (generation, slot[HEADER_BYTES..HEADER_BYTES + len].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_flipped_slot_costs_the_newest_value_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let (mut s, none) = Slots::open(&path).unwrap();
        assert_eq!(none, None);
        s.write(b"one").unwrap();
        s.write(b"two").unwrap();
        let whole = std::fs::read(&path).unwrap();
        // Every byte of what is in use, and samples of the zeros behind: each cut costs a sync.
        for at in (0..whole.len()).filter(|at| at % SLOT_BYTES < 32 || at % 97 == 0) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            let (_, v) = Slots::open(&path).unwrap();
            assert!(matches!(v.as_deref(), Some(b"one" | b"two")), "byte {at}: {v:?}");
            std::fs::write(&path, &whole[..at]).unwrap();
            let (_, v) = Slots::open(&path).unwrap();
            assert!(matches!(v.as_deref(), None | Some(b"one" | b"two")), "cut {at}: {v:?}");
        }
    }
}
