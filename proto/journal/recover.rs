//! Opening: what is there, what of it is whole, and a ring that a crash loop cannot eat.
//!
//! Nothing that is there is ever changed in place. What was never made durable is not believed: segments that a crash
//! may have left are written back and then read from the disk, not from memory.

use std::collections::HashMap;
use std::path::Path;

use rustix::fs::Advice;

use super::folder::{Folder, LastWriter, Listing, Lock, list};
use super::frame::{self, FrameHead, HeadsPart};
use super::heads::Heads;
use super::segment::{self, DATA_START};
use super::walk::{Opened, SegmentFile, Step};
use super::writer::{Journal, Old};
use super::{JournalError, Options, Recovered, SegmentInfo};
use crate::chain::{ChainId, Head};

/// Remarks that are kept; further ones are counted.
const MAX_REMARKS: usize = 64;

impl Journal {
    /// Opens or creates the journal in `dir`, as its only writer. Reads what is there, never continues an old
    /// segment, and never blocks on another writer. A new segment begins with the first append.
    ///
    /// Errors: [`JournalError::Locked`], [`JournalError::NoRoom`] where not one segment fits, [`JournalError::Options`],
    /// [`JournalError::Io`] where the folder itself cannot be used. A segment that cannot be read is a remark.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovered), JournalError> {
        options.check()?;
        let folder = Folder::open(dir)?;
        let (lock, last) = Lock::take(dir)?;
        let listing = list(dir)?;
        let mut remarks = Remarks::default();
        for name in &listing.partial {
            folder.remove(&dir.join(name))?;
        }
        for name in &listing.foreign {
            remarks.push(format!("{name}: not one of the journal's files; left alone"));
        }

        let fresh = listing.segments.is_empty() && last.is_none();
        let clean = fresh || last.is_some_and(|l| l.clean);
        let next_number = next_number(&listing, last);
        lock.note_open(next_number)?;

        let survey = survey(dir, &listing.segments, options.segment_bytes, &mut remarks);
        let mut journal = Self {
            folder,
            lock,
            options,
            old: survey.old.into(),
            spares: Vec::new(),
            next_spare: listing.spares.last().map_or(0, |n| n.saturating_add(1)),
            active: None,
            heads: survey.heads,
            next_number,
            released_before: 0,
            failed: None,
        };
        journal.adopt_spares(&listing.spares)?;
        journal.give_up_superseded(&survey.first_segments)?;
        journal.give_up_empty()?;
        journal.widen(&mut remarks);
        journal.preallocate(&mut remarks)?;
        let left_out = journal.coalesce(&mut remarks)?;

        let recovered = Recovered {
            clean,
            fresh,
            heads: journal.heads.sorted(),
            left_out,
            preallocated_segments: (journal.files() as u32).min(options.preallocate_segments.max(1)),
            remarks: remarks.finish(),
        };
        Ok((journal, recovered))
    }

    /// Sees to it that the folder need not grow later. A journal that cannot have that works as long as there is room.
    fn widen(&self, remarks: &mut Remarks) {
        match self.folder.widen(self.options.max_segments) {
            Ok(true) => {}
            Ok(false) => remarks.push(
                "there is no room to widen the journal's folder: with nothing free at all its ring may come to a stop"
                    .to_owned(),
            ),
            Err(error) => remarks.push(error.to_string()),
        }
    }

    /// Takes over spares of the right size; others go.
    fn adopt_spares(&mut self, numbers: &[u64]) -> Result<(), JournalError> {
        for &number in numbers {
            let path = self.folder.spare(number);
            let fits = path.metadata().is_ok_and(|m| m.is_file() && m.len() == self.options.segment_bytes);
            if fits && self.files() < self.options.max_segments.max(1) as usize {
                self.spares.push(number);
            } else {
                self.folder.remove(&path)?;
            }
        }
        Ok(())
    }

    /// A crash while segments were being coalesced left them beside the one that holds their frames now.
    fn give_up_superseded(&mut self, first_segments: &[(u64, u64)]) -> Result<(), JournalError> {
        for &(number, first) in first_segments.iter().filter(|(number, first)| first < number) {
            let from = self.old.partition_point(|o| o.info.number < first);
            let to = self.old.partition_point(|o| o.info.number < number);
            self.give_up_run(from..to)?;
        }
        Ok(())
    }

    /// Creates spares up to what was asked for, as room allows; at least one file in all.
    fn preallocate(&mut self, remarks: &mut Remarks) -> Result<(), JournalError> {
        let bytes = self.options.segment_bytes;
        let wanted = self.options.preallocate_segments.clamp(1, self.options.max_segments.max(1)) as usize;
        while self.files() < wanted {
            let roomy = self.folder.has_room_for(bytes)?;
            if (roomy || self.files() == 0) && self.create_spare()? {
                continue;
            }
            let (available, _) = self.folder.space()?;
            if self.files() == 0 {
                let detail = format!(
                    "a segment takes {bytes} bytes, {available} are available; free some space or set a smaller \
                     segment size, then start again"
                );
                return Err(JournalError::NoRoom { path: self.folder.path().display().to_string(), detail });
            }
            remarks.push(format!(
                "{} of {wanted} segments of {bytes} bytes preallocated: {available} bytes are available and some \
                 are left to others",
                self.files()
            ));
            break;
        }
        Ok(())
    }
}

impl Lock {
    /// Notes that the journal is open. Where not even that can be written the file is emptied, which says the same.
    fn note_open(&self, next_number: u64) -> Result<(), JournalError> {
        self.note(false, next_number).or_else(|e| self.clear().map_err(|_| e))
    }
}

impl Options {
    fn check(&self) -> Result<(), JournalError> {
        if !segment::valid_size(self.segment_bytes) {
            return Err(JournalError::Options(format!(
                "segment_bytes is {}; it must be a multiple of 4096 from {} to {}",
                self.segment_bytes,
                segment::MIN_SEGMENT_BYTES,
                segment::MAX_SEGMENT_BYTES
            )));
        }
        if self.max_segments < 2 {
            return Err(JournalError::Options(format!(
                "max_segments is {}; a ring needs at least 2",
                self.max_segments
            )));
        }
        Ok(())
    }
}

/// Remarks within a bound.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    kept: Vec<String>,
    more: u64,
}

impl Remarks {
    pub(super) fn push(&mut self, remark: String) {
        if self.kept.len() < MAX_REMARKS {
            self.kept.push(remark);
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.kept.push(format!("and {} more", self.more));
        }
        self.kept
    }
}

/// What the segments hold.
struct Survey {
    old: Vec<Old>,
    heads: Heads,
    /// Of each readable segment its number and the lowest number among its frames' positions.
    first_segments: Vec<(u64, u64)>,
}

fn next_number(listing: &Listing, last: Option<LastWriter>) -> u64 {
    let after = listing.segments.last().map_or(1, |n| n.saturating_add(1));
    after.max(last.map_or(1, |l| l.next_number))
}

/// Looks at every segment, newest first: the newest whole HEADS and the blocks from there on tell all heads, so older
/// finished segments are known by header and trailer alone.
fn survey(dir: &Path, numbers: &[u64], segment_bytes: u64, remarks: &mut Remarks) -> Survey {
    let mut old = Vec::new();
    let mut first_segments = Vec::new();
    let mut found: Vec<HashMap<ChainId, Head>> = Vec::new();
    let mut base = None;
    for &number in numbers.iter().rev() {
        let name = segment::file_name(number);
        let mut file = match SegmentFile::open(dir, number) {
            Opened::Segment(file) => file,
            Opened::Gone => continue,
            Opened::Unreadable { reason, bytes } => {
                remarks.push(format!("{name}: unreadable, {bytes} bytes: {reason}"));
                // Not a file: it takes no place in the ring and cannot be given up.
                if !dir.join(&name).is_file() {
                    continue;
                }
                let info =
                    SegmentInfo { number, used_bytes: 0, first_append_wall_ns: 0, last_append_wall_ns: 0 };
                let reusable = bytes == segment_bytes;
                old.push(Old { info, reusable, frames: 0, readable: false });
                continue;
            }
        };
        if file.header_damaged() {
            remarks.push(format!("{name}: one of its two headers is damaged"));
        }
        first_segments.push((number, file.header().first_segment));
        // Of finished ones only the newest may have been written without having been synced.
        if base.is_none() || file.trailer().is_none() {
            settle(&mut file, &name, remarks);
        }
        let first_append_wall_ns = first_append(&mut file);
        let (info, frames) = match (file.trailer().copied(), base.is_some()) {
            (Some(trailer), true) => {
                let used_bytes = trailer.data_end - DATA_START;
                let last_append_wall_ns = trailer.last_append_wall_ns;
                (
                    SegmentInfo { number, used_bytes, first_append_wall_ns, last_append_wall_ns },
                    u64::from(trailer.frames),
                )
            }
            (trailer, _) => {
                let content = read_content(&mut file, trailer.is_some(), &name, remarks);
                if base.is_none() {
                    base = heads_of(&mut file);
                    found.push(content.heads);
                }
                let used_bytes = trailer.map_or(content.end, |t| t.data_end) - DATA_START;
                let last_append_wall_ns =
                    trailer.map_or(content.last_append_wall_ns, |t| t.last_append_wall_ns);
                (
                    SegmentInfo { number, used_bytes, first_append_wall_ns, last_append_wall_ns },
                    content.frames,
                )
            }
        };
        let reusable = file.header().segment_bytes == segment_bytes && file.file_bytes() == segment_bytes;
        old.push(Old { info, reusable, frames, readable: true });
    }
    old.reverse();
    let mut heads = Heads::new(segment_bytes);
    for (chain, head) in base.into_iter().flatten().chain(found.into_iter().rev().flatten()) {
        heads.advance(&chain, head);
    }
    Survey { old, heads, first_segments }
}

/// Writes back what a killed process left in memory, then drops what memory still holds, so that what is read next is
/// what the disk has: pages that failed to be written look clean and whole in memory.
fn settle(file: &mut SegmentFile, name: &str, remarks: &mut Remarks) {
    if let Err(e) = file.file().sync_data() {
        remarks.push(format!("{name}: cannot be written back: {e}"));
    }
    if let Err(e) = rustix::fs::fadvise(file.file(), 0, None, Advice::DontNeed) {
        remarks.push(format!("{name}: cannot be read past memory: {e}"));
    }
    file.look_afresh();
    file.reload_trailer();
}

/// What a walk or a footer tells of a segment.
struct Content {
    heads: HashMap<ChainId, Head>,
    frames: u64,
    end: u64,
    last_append_wall_ns: i64,
}

fn read_content(file: &mut SegmentFile, finished: bool, name: &str, remarks: &mut Remarks) -> Content {
    let mut content = Content { heads: HashMap::new(), frames: 0, end: DATA_START, last_append_wall_ns: 0 };
    if finished && let Some(blocks) = file.footer() {
        for block in blocks {
            let head = Head { last_seq: block.info.last_seq, hash: block.info.hash };
            note_head(&mut content.heads, block.info.chain, head);
        }
        content.frames = file.trailer().map_or(0, |t| u64::from(t.frames));
        return content;
    }
    file.walk(
        |_| true,
        |step| match step {
            Step::Frame { head, next, .. } => {
                content.end = next;
                content.frames += u64::from(head.kind != frame::HEADS);
                content.last_append_wall_ns = content.last_append_wall_ns.max(head.wall_ns);
                if let Some(info) = head.block_info() {
                    note_head(
                        &mut content.heads,
                        info.chain,
                        Head { last_seq: info.last_seq, hash: info.hash },
                    );
                }
            }
            Step::Damaged { offset, bytes, .. } => {
                // Damage is content too: such a segment is not an empty one.
                content.frames += 1;
                remarks.push(format!("{name}: {bytes} damaged bytes at {offset}"));
            }
            Step::End { torn: 0 } => {}
            Step::End { torn } => {
                remarks.push(format!("{name}: a frame of {torn} bytes or more was cut while it was written"));
            }
        },
    );
    for (offset, bytes) in file.take_unreadable() {
        content.frames += 1;
        remarks.push(format!("{name}: the disk does not read {bytes} bytes at {offset}"));
    }
    content
}

/// When the first frame besides HEADS was appended; 0 where it is damaged or there is none.
fn first_append(file: &mut SegmentFile) -> i64 {
    let (mut at, limit) = (DATA_START, file.file_bytes());
    while let Some(head) = file.head_at(at, limit) {
        if head.kind != frame::HEADS {
            return head.wall_ns;
        }
        at += head.frame_bytes();
    }
    0
}

/// Where the chains stood when the segment began; `None` where its HEADS are not whole.
pub(super) fn heads_of(file: &mut SegmentFile) -> Option<Vec<(ChainId, Head)>> {
    let mut heads = Vec::new();
    let mut at = DATA_START;
    for expected in 0u32.. {
        let Step::Frame { payload: Some(payload), next, .. } = file.step(at, false, is_heads) else {
            return None;
        };
        let HeadsPart { index, total, heads: part } = frame::decode_heads(&payload)?;
        if index != expected {
            return None;
        }
        heads.extend(part);
        at = next;
        if index + 1 >= total {
            break;
        }
    }
    Some(heads)
}

fn is_heads(head: &FrameHead) -> bool {
    head.kind == frame::HEADS
}

fn note_head(heads: &mut HashMap<ChainId, Head>, chain: ChainId, head: Head) {
    let known = heads.entry(chain).or_insert(head);
    if head.last_seq >= known.last_seq {
        *known = head;
    }
}
