//! Writing: the one who appends, begins and finishes segments, and gives them up.
//!
//! Invariants: frames of a segment are durable before the next segment exists under its name; a file bears a
//! segment's name only when its header and HEADS are durable; a position is handed out once. The payloads written are
//! never held in memory: only the heads and the footer of the segment being written are.
//!
//! Deliberately absent: clocks (wall time comes in with each append) and any thread.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use super::folder::{Folder, Lock, io_error, is_no_room};
use super::frame::{self, FrameHead};
use super::heads::Heads;
use super::segment::{DATA_START, FooterBuilder, HEADER_OFFSETS, Header, TRAILER_BYTES};
use super::{BlockInfo, FrameKind, JournalError, Options, Position, SegmentInfo, align8};
use crate::chain::{ChainId, Head};

/// Zeros after the last frame: they tell a reader that nothing follows yet, where a recycled file has old bytes.
const TERMINATOR_BYTES: u64 = 8;

/// The single writer of a journal folder.
#[derive(Debug)]
pub struct Journal {
    pub(super) folder: Folder,
    pub(super) lock: Lock,
    pub(super) options: Options,
    /// Finished or left segments, oldest first.
    pub(super) old: VecDeque<Old>,
    /// Numbers of files that wait for a use.
    pub(super) spares: Vec<u64>,
    pub(super) next_spare: u64,
    pub(super) active: Option<Active>,
    pub(super) heads: Heads,
    pub(super) next_number: u64,
    pub(super) released_before: u64,
    /// Why nothing can be promised any more.
    pub(super) failed: Option<String>,
}

/// A segment that is not written any more.
#[derive(Debug, Clone)]
pub(super) struct Old {
    pub(super) info: SegmentInfo,
    /// Whether its file has the size that segments have now, so that it can be used again.
    pub(super) reusable: bool,
    /// Frames in it besides HEADS.
    pub(super) frames: u64,
    /// Whether its header held.
    pub(super) readable: bool,
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: File,
    pub(super) header: Header,
    pub(super) end: u64,
    pub(super) footer: FooterBuilder,
    pub(super) frames: u32,
    pub(super) first_append_wall_ns: i64,
    pub(super) last_append_wall_ns: i64,
    /// Whether something was appended since the last sync.
    pub(super) dirty: bool,
}

/// A frame to be written.
pub(super) struct Draft<'a> {
    pub(super) kind: u8,
    pub(super) info: Vec<u8>,
    pub(super) block: Option<&'a BlockInfo>,
    pub(super) origin: Option<Position>,
    pub(super) payload: &'a [u8],
    pub(super) wall_ns: i64,
}

impl Draft<'_> {
    /// Bytes of the frame that it becomes, padding included.
    pub(super) fn frame_bytes(&self) -> u64 {
        let origin = if self.origin.is_some() { frame::ORIGIN_BYTES } else { 0 };
        align8((frame::HEAD_BYTES + origin + self.info.len() + self.payload.len()) as u64)
    }
}

impl Journal {
    /// Appends a block. Not durable before [`Journal::sync`] returns. `wall_ns` is this machine's time, for
    /// [`SegmentInfo::last_append_wall_ns`].
    ///
    /// Errors: [`JournalError::Full`] and [`JournalError::TooLarge`] change nothing; so does [`JournalError::Io`]; after
    /// [`JournalError::Failed`] the journal must be opened anew.
    pub fn append_block(
        &mut self,
        info: &BlockInfo,
        payload: &[u8],
        wall_ns: i64,
    ) -> Result<Position, JournalError> {
        let at = self.put(Draft {
            kind: frame::kind_byte(FrameKind::Block),
            info: frame::encode_info(info),
            block: Some(info),
            origin: None,
            payload,
            wall_ns,
        })?;
        self.heads.advance(&info.chain, Head { last_seq: info.last_seq, hash: info.hash });
        Ok(at)
    }

    /// Appends anything but a block (a block given here is kept, but no index knows it). Errors as with
    /// [`Journal::append_block`].
    pub fn append(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        wall_ns: i64,
    ) -> Result<Position, JournalError> {
        let kind = frame::kind_byte(kind);
        self.put(Draft { kind, info: Vec::new(), block: None, origin: None, payload, wall_ns })
    }

    /// Makes everything appended so far durable. Free when nothing was.
    ///
    /// Errors: once a sync failed nobody can say which of the frames since the last good one are on the disk, and the
    /// kernel will not say it again. So from then on every call fails with [`JournalError::Failed`]; opening the
    /// journal anew looks at what the disk really holds.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.usable()?;
        let Some(active) = self.active.as_mut().filter(|a| a.dirty) else { return Ok(()) };
        let number = active.header.number;
        match active.file.sync_data() {
            Ok(()) => {
                active.dirty = false;
                Ok(())
            }
            Err(e) => Err(self.fail(number, &e)),
        }
    }

    /// Says that segments before `segment` may be recycled when room is needed. Never takes back what it said.
    pub fn release_before(&mut self, segment: u64) {
        self.released_before = self.released_before.max(segment);
    }

    /// Gives up every released segment before `segment` now (retention). Their files stay as spares as far as
    /// [`Options::preallocate_segments`] counts, and one in any case, so that a ring at its full size begins its next
    /// segment in the file of its oldest instead of writing a new one full of zeros; the others are deleted.
    pub fn expire_before(&mut self, segment: u64) -> Result<(), JournalError> {
        self.usable()?;
        let until = segment.min(self.released_before);
        let mut changed = false;
        while self.old.front().is_some_and(|o| o.info.number < until) {
            changed = true;
            self.give_up(0)?;
            if self.files() > self.options.preallocate_segments.max(1) as usize
                && self.spares.len() > 1
                && let Some(spare) = self.spares.pop()
            {
                self.folder.remove(&self.folder.spare(spare))?;
            }
        }
        if changed { self.folder.sync() } else { Ok(()) }
    }

    /// Segments in use, oldest first; the last one is being written, once something was appended since the opening.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let active = self.active.as_ref().map(|a| SegmentInfo {
            number: a.header.number,
            used_bytes: a.end - DATA_START,
            first_append_wall_ns: a.first_append_wall_ns,
            last_append_wall_ns: a.last_append_wall_ns,
        });
        self.old.iter().map(|o| o.info.clone()).chain(active).collect()
    }

    /// How many segments are in use, of [`Options::max_segments`](super::Options::max_segments).
    pub fn used_segments(&self) -> usize {
        self.old.len() + usize::from(self.active.is_some())
    }

    /// Newest head of every chain, in order of chains; of what was appended, synced or not.
    pub fn heads(&self) -> Vec<(ChainId, Head)> {
        self.heads.sorted()
    }

    /// Where one chain stands; `None` for a chain that the journal does not know.
    pub fn head(&self, chain: &ChainId) -> Option<Head> {
        self.heads.get(chain)
    }

    /// Forgets a chain that will never go on, so that segments begun from now on do not carry its head; whether it was
    /// known. It comes back at the next opening while blocks of it are in the newest segments.
    pub fn forget(&mut self, chain: &ChainId) -> bool {
        self.heads.forget(chain)
    }

    /// Chains whose heads were forgotten since the opening because they outgrew an eighth of a segment: those silent
    /// longest.
    pub fn heads_dropped(&self) -> u64 {
        self.heads.dropped()
    }

    /// Writes the footer, syncs, and marks the journal as cleanly closed.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.usable()?;
        self.finish()?;
        self.lock.note(true, self.next_number)
    }

    /// Writes one frame, in a new segment where the current one has no room.
    pub(super) fn put(&mut self, draft: Draft<'_>) -> Result<Position, JournalError> {
        self.usable()?;
        let bytes = draft.frame_bytes();
        let (payload_bytes, segment_bytes) = (draft.payload.len(), self.options.segment_bytes);
        let too_large = || JournalError::TooLarge { bytes: payload_bytes, segment_bytes };
        if bytes > self.capacity(draft.block) {
            return Err(too_large());
        }
        if !self.active.as_ref().is_some_and(|a| a.has_room(bytes, draft.block)) {
            self.roll()?;
        }
        let path = self.folder.path();
        let Some(active) = self.active.as_mut().filter(|a| a.has_room(bytes, draft.block)) else {
            return Err(too_large());
        };
        active.write(draft).map_err(|e| io_error("cannot append to the journal in", path, e))
    }

    /// Bytes that a frame may have to fit a segment with as many heads as there may be.
    fn capacity(&self, block: Option<&BlockInfo>) -> u64 {
        let taken = DATA_START
            + Heads::most_bytes(self.options.segment_bytes)
            + FooterBuilder::default().bytes_with(block)
            + TERMINATOR_BYTES;
        self.options.segment_bytes.saturating_sub(taken)
    }

    /// Finishes the current segment and begins the next. Where there is no file for the next nothing has changed.
    fn roll(&mut self) -> Result<(), JournalError> {
        let spare = self.find_spare()?;
        self.finish()?;
        let heads = self.heads.sorted();
        let active = self.begin(spare, self.next_number, heads.iter().map(|(c, h)| (c, h)))?;
        self.publish(spare, active)?;
        // An empty segment's heads were needed only as long as they were the newest.
        self.give_up_empty()
    }

    /// Gives a begun segment its name and makes it the one that is written.
    pub(super) fn publish(&mut self, spare: u64, active: Active) -> Result<(), JournalError> {
        let name = self.folder.segment(active.header.number);
        self.folder.rename(&self.folder.spare(spare), &name)?;
        self.spares.retain(|s| *s != spare);
        self.next_number = active.header.number + 1;
        let number = active.header.number;
        self.active = Some(active);
        // A name that may be gone after a crash takes every frame behind it along: as grave as a failed fdatasync.
        self.folder.sync().map_err(|e| self.fail(number, &io::Error::other(e)))
    }

    /// Writes header and HEADS of the next segment into a spare, durably. `first_segment` as in [`Header`].
    pub(super) fn begin<'h>(
        &self,
        spare: u64,
        first_segment: u64,
        heads: impl Iterator<Item = (&'h ChainId, &'h Head)>,
    ) -> Result<Active, JournalError> {
        let path = self.folder.spare(spare);
        let fail = |e| io_error("cannot begin a segment in", &path, e);
        let mut salt = [0u8; 16];
        getrandom::fill(&mut salt).map_err(|e| fail(io::Error::other(e)))?;
        let segment_bytes = self.options.segment_bytes;
        let number = self.next_number;
        let header = Header { number, generation: number as u32, salt, segment_bytes, first_segment };
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(fail)?;
        let mut active = Active {
            file,
            header,
            end: DATA_START,
            footer: FooterBuilder::default(),
            frames: 0,
            first_append_wall_ns: 0,
            last_append_wall_ns: 0,
            dirty: false,
        };
        active.write_header().map_err(fail)?;
        for payload in frame::encode_heads(heads) {
            let draft = Draft {
                kind: frame::HEADS,
                info: Vec::new(),
                block: None,
                origin: None,
                payload: &payload,
                wall_ns: 0,
            };
            active.write(draft).map_err(fail)?;
        }
        active.frames = 0;
        active.file.sync_data().map_err(fail)?;
        active.dirty = false;
        Ok(active)
    }

    /// Ends the current segment with its footer, all of it durable.
    pub(super) fn finish(&mut self) -> Result<(), JournalError> {
        let Some(active) = self.active.as_mut() else { return Ok(()) };
        let (at, footer) =
            active.footer.finish(&active.header, active.end, active.last_append_wall_ns, active.frames);
        let path = self.folder.path();
        active
            .file
            .write_all_at(&footer, at)
            .map_err(|e| io_error("cannot write a segment's footer in", path, e))?;
        let number = active.header.number;
        if let Err(e) = active.file.sync_data() {
            return Err(self.fail(number, &e));
        }
        let info = SegmentInfo {
            number,
            used_bytes: active.end - DATA_START,
            first_append_wall_ns: active.first_append_wall_ns,
            last_append_wall_ns: active.last_append_wall_ns,
        };
        let frames = u64::from(active.frames);
        self.old.push_back(Old { info, reusable: true, frames, readable: true });
        self.active = None;
        Ok(())
    }

    /// A file for the next segment: a spare, else a new one, else the oldest released, else a left one without frames.
    fn find_spare(&mut self) -> Result<u64, JournalError> {
        loop {
            if let Some(&spare) = self.spares.first() {
                return Ok(spare);
            }
            if self.files() < self.options.max_segments.max(1) as usize && self.create_spare()? {
                continue;
            }
            let Some(oldest) = self.old.front() else { return Err(self.full()) };
            // With nothing released the newest may still be one that a crash left empty. Its heads are then for
            // moments only in this process's memory.
            let released = oldest.info.number < self.released_before;
            let index = match self.old.back() {
                _ if released => 0,
                Some(newest) if newest.readable && newest.frames == 0 && self.active.is_none() => {
                    self.old.len() - 1
                }
                _ => return Err(self.full()),
            };
            self.give_up(index)?;
            self.folder.sync()?;
        }
    }

    /// A spare more; `false` where the filesystem has no room for it.
    pub(super) fn create_spare(&mut self) -> Result<bool, JournalError> {
        let number = self.next_spare;
        self.next_spare += 1;
        match self.folder.create_spare(number, self.options.segment_bytes) {
            Ok(()) => {
                self.spares.push(number);
                Ok(true)
            }
            Err(JournalError::Io { source, .. }) if is_no_room(&source) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Every left segment without frames becomes a spare; only while a newer one carries the heads.
    pub(super) fn give_up_empty(&mut self) -> Result<(), JournalError> {
        let before = self.old.len();
        let mut index = 0;
        while index < self.old.len() {
            let carried = self.active.is_some() || index + 1 < self.old.len();
            match self.old.get(index) {
                Some(o) if o.readable && o.frames == 0 && carried => self.give_up(index)?,
                _ => index += 1,
            }
        }
        if self.old.len() < before { self.folder.sync() } else { Ok(()) }
    }

    /// Takes a segment's name away: its file becomes a spare, or goes where it has another size. The folder is not
    /// synced: until it is, a crash brings the segment back whole, which loses nothing.
    pub(super) fn give_up(&mut self, index: usize) -> Result<(), JournalError> {
        let Some(old) = self.old.get(index) else { return Ok(()) };
        let path = self.folder.segment(old.info.number);
        if !path.exists() {
            // Somebody else took it away; what is gone is given up.
        } else if old.reusable {
            let spare = self.next_spare;
            self.folder.rename(&path, &self.folder.spare(spare))?;
            self.next_spare += 1;
            self.spares.push(spare);
        } else {
            self.folder.remove(&path)?;
        }
        self.old.remove(index);
        Ok(())
    }

    /// Files that hold or could hold a segment.
    pub(super) fn files(&self) -> usize {
        self.old.len() + self.spares.len() + usize::from(self.active.is_some())
    }

    fn full(&self) -> JournalError {
        JournalError::Full {
            path: self.folder.path().display().to_string(),
            segments: self.used_segments() as u32,
        }
    }

    fn usable(&self) -> Result<(), JournalError> {
        match &self.failed {
            None => Ok(()),
            Some(reason) => Err(JournalError::Failed {
                path: self.folder.path().display().to_string(),
                reason: reason.clone(),
            }),
        }
    }

    fn fail(&mut self, number: u64, e: &io::Error) -> JournalError {
        let reason = format!("segment {number} could not be made durable: {e}");
        self.failed = Some(reason.clone());
        JournalError::Failed { path: self.folder.path().display().to_string(), reason }
    }
}

impl Active {
    pub(super) fn write_header(&mut self) -> io::Result<()> {
        let bytes = self.header.encode();
        HEADER_OFFSETS.iter().try_for_each(|at| self.file.write_all_at(&bytes, *at))
    }

    /// Whether a frame of `bytes` fits before the footer that the segment would then have.
    pub(super) fn has_room(&self, bytes: u64, block: Option<&BlockInfo>) -> bool {
        let limit = self.header.segment_bytes - self.footer.bytes_with(block).max(TRAILER_BYTES);
        self.end + bytes + TERMINATOR_BYTES <= limit
    }

    /// Writes a frame behind the last one. On an error nothing counts as written.
    pub(super) fn write(&mut self, draft: Draft<'_>) -> io::Result<Position> {
        let offset = self.end;
        let head = FrameHead {
            kind: draft.kind,
            wall_ns: draft.wall_ns,
            payload_bytes: draft.payload.len() as u32,
            payload_crc: frame::payload_crc(draft.payload, &self.header),
            origin: draft.origin,
            info: draft.info,
        };
        let encoded = head.encode(&self.header, offset);
        let bytes = head.frame_bytes();
        let padding = bytes as usize - encoded.len() - draft.payload.len();
        let zeros = [0u8; 7 + TERMINATOR_BYTES as usize];
        let tail = &zeros[..padding + TERMINATOR_BYTES as usize];
        write_all(&self.file, [&encoded, draft.payload, tail], offset)?;
        self.end = offset + bytes;
        self.dirty = true;
        self.frames += 1;
        // Those of HEADS have no time.
        if self.first_append_wall_ns == 0 {
            self.first_append_wall_ns = draft.wall_ns;
        }
        self.last_append_wall_ns = self.last_append_wall_ns.max(draft.wall_ns);
        let at = draft.origin.unwrap_or(Position { segment: self.header.number, offset });
        if let Some(info) = draft.block {
            self.footer.push(offset, at, info);
        }
        Ok(at)
    }
}

/// Writes the pieces one behind the other, the payload from where it lies.
fn write_all(file: &File, pieces: [&[u8]; 3], offset: u64) -> io::Result<()> {
    let mut slices = pieces.map(IoSlice::new);
    let mut rest = &mut slices[..];
    let mut at = offset;
    while rest.iter().any(|s| !s.is_empty()) {
        match rustix::io::pwritev(file, rest, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                at += n as u64;
                IoSlice::advance_slices(&mut rest, n);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
