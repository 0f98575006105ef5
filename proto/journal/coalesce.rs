//! Coalescing: the newest segments, where they hold little, become one.
//!
//! Every opening begins a segment, so an agent that crashes over and over would fill its ring with segments of a few
//! frames each. So at opening the longest run of newest segments that fits one segment is copied into a new one, in
//! order, if that run is three segments or longer, or if over half of the ring is in use. Of any two neighbours left
//! behind by crashes at least one half is then used.
//!
//! A copied frame keeps its position (it carries it as its origin), so positions that others remember stay good, and
//! whoever reads on from one meets nothing twice. The copy is whole and durable before it gets its name, and only then
//! do the old names go, newest first: a crash before that leaves a spare, one after it leaves the oldest of the segments
//! beside the copy; readers take the first of frames with equal positions, and the next opening takes those away.

use std::collections::HashSet;
use std::ops::Range;

use super::folder::io_error;
use super::recover::{Remarks, heads_of};
use super::walk::{Opened, SegmentFile, Step, position};
use super::writer::{Active, Draft, Journal};
use super::{JournalError, Position, frame, segment};
use crate::chain::{ChainId, Head};

/// A run as short as this is coalesced only in a ring that is over half full.
const LONG_RUN: usize = 3;
/// What a frame may cost in the copy over what it costs now: its origin, and its entry in the footer.
const EXTRA_PER_FRAME: u64 = 128;

impl Journal {
    /// See the module's head; stretches of damage that were left out. What hinders it is a remark: the journal works without.
    pub(super) fn coalesce(&mut self, remarks: &mut Remarks) -> Result<u64, JournalError> {
        let run = self.run_to_coalesce();
        if run == 0 || !self.has_spare()? {
            return Ok(0);
        }
        let first = self.old.len() - run;
        let Some(&spare) = self.spares.first() else { return Ok(0) };
        let left_out = match self.copy_run(first, spare) {
            Ok((active, left_out)) => {
                self.publish(spare, active)?;
                left_out
            }
            Err(e) => {
                remarks.push(format!("{run} small segments could not be made one: {e}"));
                return Ok(0);
            }
        };
        self.give_up_run(first..first + run)?;
        Ok(left_out)
    }

    /// Gives up segments whose frames a later one holds too: newest first, each durably, so that a crash leaves only
    /// such as come before what readers then find in the copy.
    pub(super) fn give_up_run(&mut self, indexes: Range<usize>) -> Result<(), JournalError> {
        for index in indexes.rev() {
            self.give_up(index)?;
            self.folder.sync()?;
        }
        Ok(())
    }

    /// How many of the newest segments to make one; 0 for none.
    fn run_to_coalesce(&self) -> usize {
        let room = self.options.segment_bytes / 4 * 3;
        let mut bytes = 0;
        let run = self
            .old
            .iter()
            .rev()
            .take_while(|o| {
                bytes += o.info.used_bytes + o.frames * EXTRA_PER_FRAME;
                o.readable && bytes <= room
            })
            .count();
        let over_half = self.old.len() * 2 > self.options.max_segments as usize;
        let alone_and_large =
            run == 1 && self.old.back().is_some_and(|o| o.info.used_bytes > self.options.segment_bytes / 4);
        if run >= LONG_RUN || (over_half && !alone_and_large) { run } else { 0 }
    }

    fn has_spare(&mut self) -> Result<bool, JournalError> {
        if !self.spares.is_empty() {
            return Ok(true);
        }
        Ok(self.files() < self.options.max_segments as usize
            && self.folder.has_room_for(self.options.segment_bytes)?
            && self.create_spare()?)
    }

    /// Copies every whole frame of the segments from index `first` on into `spare`, durably; and counts stretches of damage.
    fn copy_run(&self, first: usize, spare: u64) -> Result<(Active, u64), JournalError> {
        let numbers: Vec<u64> = self.old.iter().skip(first).map(|o| o.info.number).collect();
        let mut files = numbers.iter().map(|&n| self.open_old(n)).collect::<Result<Vec<_>, _>>()?;
        let heads = self.heads_before(&mut files);
        let first_segment = files.iter().map(|f| f.header().first_segment).min().unwrap_or(self.next_number);
        let mut active = self.begin(spare, first_segment, heads.iter().map(|(c, h)| (c, h)))?;
        let mut last: Option<Position> = None;
        let mut copied = Ok(());
        let mut damaged = 0;
        for file in &mut files {
            let header = *file.header();
            file.walk(
                |head| head.kind != frame::HEADS,
                |step| match step {
                    Step::Frame { offset, head, payload: Some(payload), .. } => {
                        let at = position(&header, offset, &head);
                        if copied.is_ok() && last.is_none_or(|l| at > l) {
                            last = Some(at);
                            copied = active.copy(at, head, &payload);
                        }
                    }
                    Step::Damaged { .. } => damaged += 1,
                    Step::Frame { .. } | Step::End { .. } => {}
                },
            );
        }
        copied
            .and_then(|()| active.file.sync_data())
            .map_err(|e| io_error("cannot copy small segments into", &self.folder.spare(spare), e))?;
        active.dirty = false;
        Ok((active, damaged))
    }

    fn open_old(&self, number: u64) -> Result<SegmentFile, JournalError> {
        match SegmentFile::open(self.folder.path(), number) {
            Opened::Segment(file) => Ok(file),
            Opened::Gone | Opened::Unreadable { .. } => Err(io_error(
                "cannot read again",
                &self.folder.path().join(segment::file_name(number)),
                std::io::ErrorKind::InvalidData.into(),
            )),
        }
    }

    /// Where the chains stood when the first of the files began: by its HEADS for those that go on in the run, and for
    /// those that do not as they stand now.
    fn heads_before(&self, files: &mut [SegmentFile]) -> Vec<(ChainId, Head)> {
        let mut heads = files.first_mut().and_then(heads_of).unwrap_or_default();
        let mut known: HashSet<ChainId> = heads.iter().map(|(chain, _)| chain.clone()).collect();
        for file in files {
            file.walk(
                |_| false,
                |step| {
                    if let Step::Frame { head, .. } = step {
                        known.extend(head.block_info().map(|info| info.chain));
                    }
                },
            );
        }
        heads.extend(self.heads.sorted().into_iter().filter(|(chain, _)| !known.contains(chain)));
        heads
    }
}

impl Active {
    /// Writes a frame of an older segment, which keeps its position.
    fn copy(&mut self, at: Position, head: frame::FrameHead, payload: &[u8]) -> std::io::Result<()> {
        let block = head.block_info();
        let draft = Draft {
            kind: head.kind,
            info: head.info,
            block: block.as_ref(),
            origin: Some(at),
            payload,
            wall_ns: head.wall_ns,
        };
        if !self.has_room(draft.frame_bytes(), block.as_ref()) {
            return Err(std::io::Error::other("they do not fit one segment after all"));
        }
        self.write(draft).map(|_| ())
    }
}
