//! Holes in a log that is read: what a cleanup cut out of it, or what nobody ever wrote.
//!
//! A log that grows without end is cut in place: its blocks are taken out of the middle, its length stays, and who reads
//! there reads zeros. A reader that lags behind must neither hand those on as a line nor read its way through them: it goes
//! on behind them, and says how much it did not see.
//!
//! What a block of bytes holds that was read before the cut is handed on: only where both the file has a hole and the block
//! has zeros there, something is missing. Nothing is concluded from how much a file has allocated: that counts what a
//! filesystem reserves beyond the end of one that grows (XFS), and what it saves by compressing.
//!
//! Limits: the zeros at a hole's edges, where it ends within a block of the filesystem, are passed over up to [`EDGE_BYTES`];
//! a cut that lies within one such block leaves no hole. A hole that reaches the file's end is left alone: who wrote beyond it
//! may come back to fill it. On a filesystem that tells no holes (lseek(2)) zeros are read as what they are.

use std::fs::File;

use dogwatch::record::Moment;
use memchr::{memchr, memrchr};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::deliver::{Next, Out};
use super::follow::{Followed, read_some};
use super::tailer::Tailer;

/// ZFS has records of 128 KiB, and of 1 MiB where that is asked for; no common filesystem has larger blocks.
const EDGE_BYTES: usize = 1 << 20;
/// How much is read at once to see whether anything but zeros is there.
const PIECE_BYTES: usize = 64 * 1024;

/// Where bytes are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    /// Offset of the first zero.
    pub(super) from: u64,
    /// Offset behind the last one.
    pub(super) to: u64,
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
    let end = scan + block.len() as u64;
    let hole = if zero == 0 { hole_around(file, scan, size)? } else { next_hole(file, scan, size)? };
    // Blocks went as a whole, and of those at the hole's ends what lay within the cut.
    let (from, to) = (hole.from.clamp(scan, end), hole.to.max(scan));
    let at = (from - scan) as usize;
    let explains = match block.get(at) {
        Some(byte) => *byte == 0,
        // It begins behind the block, within its edge.
        None => block.last() == Some(&0) && are_zeros(file, end, hole.from),
    };
    if !explains {
        return None;
    }
    let edge = at.saturating_sub(EDGE_BYTES);
    let begin = block[edge..at].iter().rposition(|b| *b != 0).map_or(edge, |i| edge + i + 1);
    let behind = read_some(file, to, EDGE_BYTES).unwrap_or_default();
    let zeros = behind.iter().position(|b| *b != 0).unwrap_or(behind.len());
    Some(Hole { from: scan + begin as u64, to: to + zeros as u64 })
}

/// The hole that ends before `scan` with nothing but its edge between, or else the first one that ends behind.
fn hole_around(file: &File, scan: u64, size: u64) -> Option<Hole> {
    let (mut probe, mut before) = (scan.saturating_sub(EDGE_BYTES as u64), None::<Hole>);
    let behind = loop {
        match next_hole(file, probe, size) {
            // A file that changes meanwhile may say anything.
            Some(hole) if hole.to <= scan && hole.to > probe => (probe, before) = (hole.to, Some(hole)),
            other => break other.filter(|hole| hole.to > scan),
        }
    };
    before.filter(|hole| are_zeros(file, hole.to, scan)).or(behind)
}

/// Whether `file` has nothing but zeros between two places that are no farther apart than an edge is long.
fn are_zeros(file: &File, from: u64, to: u64) -> bool {
    let mut at = from;
    while at < to && to - from <= EDGE_BYTES as u64 {
        let want = usize::try_from(to - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        match read_some(file, at, want) {
            Ok(piece) if !piece.is_empty() && piece.iter().all(|b| *b == 0) => at += piece.len() as u64,
            _ => return false,
        }
    }
    at >= to
}

/// Whether `file` has a hole that could explain zeros between `from` and `to`.
fn is_holed(file: &File, from: u64, to: u64) -> bool {
    let edge = EDGE_BYTES as u64;
    let size = file.metadata().map_or(0, |m| m.len());
    next_hole(file, from.saturating_sub(edge), size).is_some_and(|hole| hole.from <= to.saturating_add(edge))
}

/// What of `bytes`, which `file` holds at `from`, before the place where reading stands, is behind the last hole, and whether
/// there may be one: what lies before a hole is no context of what lies behind it.
pub(super) fn behind_zeros<'b>(file: &File, bytes: &'b [u8], from: u64) -> (&'b [u8], bool) {
    match memrchr(0, bytes).filter(|_| is_holed(file, from, from + bytes.len() as u64)) {
        Some(at) => (&bytes[at + 1..], true),
        None => (bytes, false),
    }
}

/// What of `rest`, the end of `file` at `from` that no newline ends, was written.
pub(super) fn written<'b>(file: &File, rest: &'b [u8], from: u64) -> &'b [u8] {
    match memchr(0, rest).filter(|_| is_holed(file, from, from + rest.len() as u64)) {
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
