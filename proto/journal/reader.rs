//! Reading: without a lock, beside the writer, in any process, in whatever state the files are.
//!
//! A reader opens nothing for writing and trusts no length that it did not check. Bytes are handed out only if their
//! checksums hold under the salt of the very segment that was opened, so a file that is recycled beneath a reader
//! yields nothing of its new life: the segment counts as expired, and reading goes on behind it.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::folder::{io_error, list};
use super::frame;
use super::recover::heads_of;
use super::segment::{DATA_START, file_name};
use super::walk::{Opened, SegmentFile, Step, position};
use super::{BlockInfo, Entry, JournalError, Position};
use crate::chain::{ChainId, Head};

/// Damaged stretches that a scan keeps; beyond it only [`Scan::damaged_bytes`] grows.
const MAX_DAMAGED: usize = 1024;
/// How often a scan looks for the next segment while segments are recycled faster than it can open them.
const MAX_CHASES: usize = 64;

/// Reads a journal folder; any number at once, beside its writer, in any process.
#[derive(Debug, Clone)]
pub struct Reader {
    dir: PathBuf,
}

impl Reader {
    /// Opens the folder for reading. Takes no lock. Fails only where the folder cannot be listed.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        // Opened, not listed: a reader that is made for each look lists when it looks.
        std::fs::read_dir(dir).map_err(|e| io_error("cannot list", dir, e))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Every frame at `from` or behind it, in order, up to what is written now. Damaged stretches are skipped and
    /// counted ([`Scan::damaged`]). After its end the same scan can be asked again for what was written since; a later
    /// one goes on with [`Reader::scan_after`] and the last entry's position. `Position::default()` is the beginning.
    pub fn scan(&self, from: Position) -> Scan {
        Scan {
            dir: self.dir.clone(),
            from,
            next_number: from.segment,
            current: None,
            damaged: Vec::new(),
            damaged_bytes: 0,
        }
    }

    /// [`Reader::scan`] of what stands behind `last`, which itself is left out.
    pub fn scan_after(&self, last: Position) -> Scan {
        self.scan(Position { segment: last.segment, offset: last.offset.saturating_add(1) })
    }

    /// The index: every block's place and info, oldest first, from footers where there are such and from frames (whose
    /// payloads are then checked) elsewhere. A block that a footer lists may still prove damaged when it is read.
    pub fn blocks(&self) -> Result<Vec<(Position, BlockInfo)>, JournalError> {
        self.index(|_| true)
    }

    /// [`Reader::blocks`] of one chain.
    pub fn blocks_of(&self, chain: &ChainId) -> Result<Vec<(Position, BlockInfo)>, JournalError> {
        self.index(|info| info.chain == *chain)
    }

    /// The frame at `at`, if it is still there and whole. Also finds one that was coalesced into a later segment.
    pub fn read_at(&self, at: Position) -> Result<Option<Entry>, JournalError> {
        if let Some(mut file) = self.open_segment(at.segment)
            && let Some(entry) = whole_entry(&mut file, at.offset).filter(|e| e.at == at)
        {
            return Ok(Some(entry));
        }
        for number in list(&self.dir)?.segments.into_iter().filter(|n| *n > at.segment) {
            let Some(mut file) = self.open_segment(number) else { continue };
            if file.header().first_segment > at.segment {
                break;
            }
            let header = *file.header();
            let mut offset = None;
            file.walk(
                |_| false,
                |step| match step {
                    Step::Frame { offset: o, head, .. } if position(&header, o, &head) == at => {
                        offset = Some(o)
                    }
                    _ => {}
                },
            );
            if let Some(entry) = offset.and_then(|o| whole_entry(&mut file, o)) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Where every chain stood when segment `segment` began: what the first blocks in it follow. `None` where the
    /// segment is gone or that part of it is damaged.
    pub fn heads_before(&self, segment: u64) -> Option<Vec<(ChainId, Head)>> {
        heads_of(&mut self.open_segment(segment)?)
    }

    /// Numbers of the segments that are there, ascending.
    pub fn segments(&self) -> Result<Vec<u64>, JournalError> {
        Ok(list(&self.dir)?.segments)
    }

    fn index(&self, keep: impl Fn(&BlockInfo) -> bool) -> Result<Vec<(Position, BlockInfo)>, JournalError> {
        let mut all = Vec::new();
        for number in list(&self.dir)?.segments {
            let Some(mut file) = self.open_segment(number) else { continue };
            if let Some(blocks) = file.footer() {
                all.extend(blocks.into_iter().map(|b| (b.at, b.info)).filter(|(_, info)| keep(info)));
                continue;
            }
            let header = *file.header();
            let kept = |head: &frame::FrameHead| head.block_info().is_some_and(|info| keep(&info));
            file.walk(kept, |step| {
                if let Step::Frame { offset, head, payload: Some(_), .. } = step
                    && let Some(info) = head.block_info()
                {
                    all.push((position(&header, offset, &head), info));
                }
            });
        }
        all.sort_by_key(|(at, _)| *at);
        all.dedup_by_key(|(at, _)| *at);
        Ok(all)
    }

    fn open_segment(&self, number: u64) -> Option<SegmentFile> {
        match SegmentFile::open(&self.dir, number) {
            Opened::Segment(file) => Some(file),
            Opened::Gone | Opened::Unreadable { .. } => None,
        }
    }
}

/// An iterator over frames. Ends (`None`) where nothing more is written yet, and goes on when asked again later; asking
/// when nothing is new costs three small system calls.
///
/// In the segment that is being written, bytes behind the last whole frame are not damage but the end: a frame may be on
/// its way. They become damage once a whole frame follows, or the next segment.
#[derive(Debug)]
pub struct Scan {
    dir: PathBuf,
    /// Entries before it were returned or are not wanted.
    from: Position,
    /// Segments below are done.
    next_number: u64,
    current: Option<Current>,
    damaged: Vec<(Position, u64)>,
    damaged_bytes: u64,
}

#[derive(Debug)]
struct Current {
    file: SegmentFile,
    offset: u64,
    /// A later segment exists, so nothing is appended to this one any more.
    sealed: bool,
    /// What is at `offset` was read after it was reached.
    fresh: bool,
}

/// What one look at the current segment came to.
enum Look {
    Entry(Entry),
    Again,
    Waiting,
}

impl Scan {
    /// Stretches of damaged bytes met so far: position in the files and length. At most 1,024 are kept.
    pub fn damaged(&self) -> &[(Position, u64)] {
        &self.damaged
    }

    /// Damaged bytes met so far, also those that [`Scan::damaged`] does not keep.
    pub fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// Where the scan stands: a new one from here returns what this one would.
    pub fn position(&self) -> Position {
        self.from
    }

    /// Number of the segment file that is being read: of the entry that was returned last, as [`Scan::damaged`] counts.
    pub fn file(&self) -> Option<u64> {
        self.current.as_ref().map(|current| current.file.header().number)
    }

    fn note_damage(&mut self, segment: u64, offset: u64, bytes: u64) {
        self.damaged_bytes += bytes;
        if self.damaged.len() < MAX_DAMAGED {
            self.damaged.push((Position { segment, offset }, bytes));
        }
    }

    /// Opens the next segment that is there; whether there was one.
    fn open_next(&mut self) -> Result<bool, JournalError> {
        for _ in 0..MAX_CHASES {
            let segments = list(&self.dir)?.segments;
            let Some(&number) = segments.iter().find(|n| **n >= self.next_number) else { return Ok(false) };
            let sealed = segments.last().is_some_and(|last| *last > number);
            match SegmentFile::open(&self.dir, number) {
                Opened::Segment(mut file) => {
                    let offset = self.entry_point(&mut file);
                    self.current = Some(Current { file, offset, sealed, fresh: true });
                    return Ok(true);
                }
                Opened::Gone => {}
                Opened::Unreadable { bytes, .. } => {
                    self.note_damage(number, 0, bytes);
                    self.next_number = number + 1;
                }
            }
        }
        Ok(false)
    }

    /// Straight to the frame that `from` names, where there is one; else everything is walked by its heads.
    fn entry_point(&self, file: &mut SegmentFile) -> u64 {
        let wanted = self.from.offset & !7;
        let native =
            self.from.segment == file.header().number && file.header().first_segment == self.from.segment;
        let limit = file.limit();
        if native && wanted > DATA_START && file.head_at(wanted, limit).is_some() {
            wanted
        } else {
            DATA_START
        }
    }

    fn look(&mut self, mut current: Current) -> Look {
        let from = self.from;
        let header = *current.file.header();
        let wanted = |offset: u64, head: &frame::FrameHead| {
            head.known_kind().is_some() && position(&header, offset, head) >= from
        };
        let at = current.offset;
        let step = current.file.step(at, !current.sealed, |head| wanted(at, head));
        let settled = current.sealed || current.fresh;
        match step {
            Step::Frame { offset, head, payload, next } => {
                current.offset = next;
                current.fresh = false;
                self.current = Some(current);
                let (Some(payload), Some(kind)) = (payload, head.known_kind()) else { return Look::Again };
                let at = position(&header, offset, &head);
                self.from = Position { segment: at.segment, offset: at.offset + 1 };
                Look::Entry(Entry { at, kind, payload })
            }
            // What was read ahead may be older than what follows it; and what stands before a whole frame is damage
            // only if it is still none when looked at after that frame was seen.
            _ if !settled => {
                current.file.look_afresh();
                current.fresh = true;
                self.current = Some(current);
                Look::Again
            }
            Step::Damaged { offset, bytes, next } => {
                current.offset = next;
                current.fresh = false;
                if current.sealed || self.still_damaged(&mut current, offset, next) {
                    if current.file.still_itself() {
                        self.note_damage(header.number, offset, bytes);
                    } else {
                        return self.leave(&current);
                    }
                }
                self.current = Some(current);
                Look::Again
            }
            Step::End { torn } if current.sealed => {
                if torn > 0 && current.file.still_itself() {
                    self.note_damage(header.number, at, torn);
                }
                self.leave(&current)
            }
            Step::End { .. } => self.wait_or_seal(current),
        }
    }

    /// A second look, after a later frame was seen: the writer may just have completed this one.
    fn still_damaged(&self, current: &mut Current, offset: u64, next: u64) -> bool {
        current.file.look_afresh();
        let again = current.file.step(offset, true, |_| true);
        let damaged = matches!(again, Step::Damaged { next: n, .. } if n == next);
        if !damaged {
            current.offset = offset;
        }
        damaged
    }

    /// At the end of the newest segment known: is it still that?
    fn wait_or_seal(&mut self, mut current: Current) -> Look {
        let number = current.file.header().number;
        current.file.look_afresh();
        if self.dir.join(file_name(number.saturating_add(1))).exists() {
            // Its last frames were durable before the next segment had a name: one more look finds them all.
            current.sealed = true;
            current.file.reload_trailer();
            self.current = Some(current);
            return Look::Again;
        }
        if !current.file.still_named() {
            return self.leave(&current);
        }
        current.fresh = true;
        self.current = Some(current);
        Look::Waiting
    }

    fn leave(&mut self, current: &Current) -> Look {
        self.next_number = current.file.header().number.saturating_add(1);
        Look::Again
    }

    fn note_unreadable(&mut self) {
        let Some(current) = self.current.as_mut() else { return };
        let segment = current.file.header().number;
        for (offset, bytes) in current.file.take_unreadable() {
            self.note_damage(segment, offset, bytes);
        }
    }
}

impl Iterator for Scan {
    type Item = Result<Entry, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(current) = self.current.take() else {
                match self.open_next() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(e) => return Some(Err(e)),
                }
            };
            let look = self.look(current);
            self.note_unreadable();
            match look {
                Look::Entry(entry) => return Some(Ok(entry)),
                Look::Again => {}
                Look::Waiting => return None,
            }
        }
    }
}

fn whole_entry(file: &mut SegmentFile, offset: u64) -> Option<Entry> {
    if !offset.is_multiple_of(8) || offset < DATA_START {
        return None;
    }
    let limit = file.limit();
    let head = file.head_at(offset, limit)?;
    let kind = head.known_kind()?;
    let payload: Bytes = file.payload(offset, &head)?;
    Some(Entry { at: position(file.header(), offset, &head), kind, payload })
}
