//! Holes in a log that is read: what a cleanup cut out of it, or what nobody ever wrote.
//!
//! A log that grows without end is cut in place: its blocks are taken out of the middle, its length stays, and who reads
//! there reads zeros. A reader that lags behind must neither hand those on as a line nor read its way through them: it goes
//! on behind them, and says how much it did not see.
//!
//! What a block of bytes holds that was read before the cut is handed on: only where both the file has a hole and the block
//! has zeros there, something is missing.
//!
//! Limits: the zeros at a hole's edges, where it ends within a block of the filesystem, are passed over up to [`EDGE_BYTES`].
//! A hole that reaches the file's end is left alone: who wrote beyond it may come back to fill it. On a filesystem that tells
//! no holes (lseek(2)) zeros are read as what they are.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

use dogwatch::record::Moment;
use memchr::{memchr, memrchr};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::deliver::{Next, Out};
use super::follow::{Followed, read_some};
use super::tailer::Tailer;

/// No common filesystem has larger blocks.
const EDGE_BYTES: usize = 64 * 1024;

/// Where bytes are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    /// Offset of the first zero.
    pub(super) from: u64,
    /// Offset behind the last one.
    pub(super) to: u64,
}

/// Whether a file has less allocated than it is long: else it has no hole, and nobody need look for one.
pub(super) fn may_have_holes(metadata: &Metadata) -> bool {
    metadata.blocks().saturating_mul(512) < metadata.len()
}

/// The first hole of `file` from `scan` on that ends before the file's `size`, whatever was read there.
pub(super) fn next_hole(file: &File, scan: u64, size: u64) -> Option<Hole> {
    let from = match rustix::fs::seek(file, SeekFrom::Hole(scan)) {
        Ok(from) if from < size => from,
        _ => return None,
    };
    match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(to) if to < size => Some(Hole { from, to }),
        Ok(_) | Err(Errno::NXIO) => Some(Hole { from, to: size }),
        Err(_) => None,
    }
}

/// What is missing in `block`, which was read at `scan` from `file` of `size` bytes: the first run of zeros that a hole
/// explains, to behind that hole.
pub(super) fn missing(file: &File, block: &[u8], scan: u64, size: u64) -> Option<Hole> {
    // Most blocks of most logs end the search here.
    let zero = memchr(0, block)?;
    // Reading may begin behind the hole, within its edge.
    let probe = if zero == 0 { scan.saturating_sub(EDGE_BYTES as u64) } else { scan };
    let hole = next_hole(file, probe, size).filter(|h| h.from < scan + block.len() as u64)?;
    let (from, to) = (hole.from.max(scan), hole.to.max(scan));
    let at = (from - scan) as usize;
    // Blocks went as a whole, and of those at the hole's ends what lay within the cut.
    let is_edge = hole.to <= scan && scan - hole.to < EDGE_BYTES as u64;
    if block.get(at) != Some(&0) || (hole.to <= scan && !is_edge) {
        return None;
    }
    let edge = at.saturating_sub(EDGE_BYTES);
    let begin = block[edge..at].iter().rposition(|b| *b != 0).map_or(edge, |i| edge + i + 1);
    let behind = read_some(file, to, EDGE_BYTES).unwrap_or_default();
    let zeros = behind.iter().position(|b| *b != 0).unwrap_or(behind.len());
    Some(Hole { from: scan + begin as u64, to: to + zeros as u64 })
}

/// What of `bytes`, which `file` holds before the place where reading stands, is behind the last hole, and whether there may be
/// one: what lies before a hole is no context of what lies behind it.
pub(super) fn behind_zeros<'b>(file: &File, bytes: &'b [u8]) -> (&'b [u8], bool) {
    match memrchr(0, bytes).filter(|_| file.metadata().is_ok_and(|m| may_have_holes(&m))) {
        Some(at) => (&bytes[at + 1..], true),
        None => (bytes, false),
    }
}

/// What of `rest`, the end of `file` that no newline ends, was written.
pub(super) fn written<'b>(file: &File, rest: &'b [u8]) -> &'b [u8] {
    match memchr(0, rest).filter(|_| file.metadata().is_ok_and(|m| may_have_holes(&m))) {
        Some(at) => &rest[..at],
        None => rest,
    }
}

impl Tailer {
    /// Goes on behind `hole`, before which no whole line is left, and says what was not read.
    pub(super) fn pass_hole(&mut self, file: &mut Followed, hole: Hole, now: Moment, out: Out<'_>) -> Next {
        // A message of which parts are here gets no more of them.
        let cut = self.cut(file, now, out);
        let from = if file.long { hole.from } else { file.offset };
        // A cut leaves the newline of the last line that went.
        let behind = file.file.as_ref().and_then(|f| read_some(f, hole.to, 1).ok());
        let to = hole.to + u64::from(behind.as_deref() == Some(b"\n"));
        file.place_at(to);
        file.after = 0;
        let reason = format!(
            "{} bytes were cut out of the file before they were read, or were never written",
            hole.to - hole.from
        );
        let said = self.gap(file, None, (from, to), None, reason, out);
        if cut.is_break() || said.is_break() { Next::Stopped } else { Next::More }
    }
}

#[cfg(test)]
#[path = "holes_tests.rs"]
mod tests;
