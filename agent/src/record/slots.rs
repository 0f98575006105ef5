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

impl Slots {
    /// Opens or creates the file (mode 0600) and reads the newest whole value.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Option<Vec<u8>>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() < 2 * SLOT_BYTES as u64 {
            // Real zeros, so that later writes need no block of a disk that may be full by then.
            let have = file.metadata()?.len();
            let missing = 2 * SLOT_BYTES as u64 - have;
            file.write_all_at(&vec![0; missing as usize], have)?;
            file.sync_all()?;
        }
        let slots = [read_slot(&file, 0), read_slot(&file, 1)];
        let newest = slots.into_iter().flatten().max_by_key(|(generation, _)| *generation);
        let generation = newest.as_ref().map_or(0, |(g, _)| *g);
        Ok((Self { file, generation }, newest.map(|(_, v)| v)))
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

fn read_slot(file: &File, index: u64) -> Option<(u64, Vec<u8>)> {
    let mut slot = vec![0u8; SLOT_BYTES];
    file.read_exact_at(&mut slot, index * SLOT_BYTES as u64).ok()?;
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
