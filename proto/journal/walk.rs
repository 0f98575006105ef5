//! Walking through one segment file, whatever state it is in.
//!
//! Reads with `pread` alone, so the file may be written, cut or recycled meanwhile. Every length is checked against the
//! file before anything is allocated for it, and a page that the disk refuses reads as zeros and is remembered
//! ([`SegmentFile::take_unreadable`]): one bad sector costs the frames in it, not the segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame::{self, FrameHead, HEAD_BYTES, MAX_HEAD_BYTES};
use super::segment::{
    DATA_START, HEADER_BYTES, HEADER_OFFSETS, Header, Indexed, TRAILER_BYTES, Trailer, decode_footer,
    file_name,
};
use super::{Position, align8};

/// Read ahead of small frames; larger payloads are read at once into their own buffer.
const WINDOW_BYTES: usize = 64 * 1024;
/// What is read at once when looking for the next frame behind a damage.
const RESYNC_BYTES: usize = 256 * 1024;
/// Granularity at which unreadable parts of a disk are set aside.
const PAGE_BYTES: u64 = 4096;
/// Unreadable pages that are remembered between two calls of [`SegmentFile::take_unreadable`].
const MAX_UNREADABLE: usize = 256;

/// What came of opening a segment.
pub(super) enum Opened {
    /// Its header holds.
    Segment(SegmentFile),
    /// No file of that name is there any more: it was recycled or deleted.
    Gone,
    /// A file is there, but no header tells its salt, so nothing in it can be checked.
    Unreadable {
        /// Why, in words.
        reason: String,
        /// The file's size.
        bytes: u64,
    },
}

/// What stands at a place in a segment.
pub(super) enum Step {
    /// A whole frame.
    Frame {
        /// Where it stands in this file.
        offset: u64,
        /// Its head.
        head: FrameHead,
        /// Its payload, if that was wanted.
        payload: Option<Bytes>,
        /// Where the next one is to be expected.
        next: u64,
    },
    /// Bytes that are no whole frame, with something whole or at least the segment's known end behind them.
    Damaged {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        bytes: u64,
        /// Where to go on.
        next: u64,
    },
    /// Nothing whole from here on. `torn` bytes look like the beginning of a frame: one that is being written, or
    /// that a crash cut.
    End {
        /// 0 where nothing was begun.
        torn: u64,
    },
}

/// An open segment with a header that holds.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    path: PathBuf,
    header: Header,
    /// One of the two header copies did not hold.
    header_damaged: bool,
    trailer: Option<Trailer>,
    /// Bytes that the file really has, at most the segment's size.
    file_bytes: u64,
    window: Vec<u8>,
    window_at: u64,
    unreadable: Vec<(u64, u64)>,
}

impl SegmentFile {
    /// Opens segment `number` of `dir`.
    pub(super) fn open(dir: &Path, number: u64) -> Opened {
        let path = dir.join(file_name(number));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Opened::Gone,
            Err(e) => return Opened::Unreadable { reason: format!("cannot open it: {e}"), bytes: 0 },
        };
        let bytes = match file.metadata() {
            Ok(m) if m.is_file() => m.len(),
            Ok(_) => return Opened::Unreadable { reason: "it is no regular file".to_owned(), bytes: 0 },
            Err(e) => return Opened::Unreadable { reason: format!("cannot stat it: {e}"), bytes: 0 },
        };
        let copies = HEADER_OFFSETS.map(|at| read_header(&file, at));
        let header_damaged = copies.iter().any(Result::is_err);
        let header = match copies {
            [Ok(h), _] | [_, Ok(h)] if h.number == number => h,
            copies => {
                // A file that is being recycled loses its name before its header: then it is gone, not damaged.
                if !path.exists() {
                    return Opened::Gone;
                }
                let reason = match copies {
                    [Ok(h), _] | [_, Ok(h)] => format!("its header says segment {}", h.number),
                    [Err(first), Err(second)] => format!("{first}; second copy: {second}"),
                };
                return Opened::Unreadable { reason, bytes };
            }
        };
        let mut segment = Self {
            file,
            path,
            header,
            header_damaged,
            trailer: None,
            file_bytes: bytes.min(header.segment_bytes),
            window: Vec::new(),
            window_at: 0,
            unreadable: Vec::new(),
        };
        segment.reload_trailer();
        Opened::Segment(segment)
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether one copy of the header is lost.
    pub(super) fn header_damaged(&self) -> bool {
        self.header_damaged
    }

    /// The trailer, where the segment was finished and it holds.
    pub(super) fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    /// Looks again whether the segment is finished.
    pub(super) fn reload_trailer(&mut self) {
        let at = self.header.segment_bytes - TRAILER_BYTES;
        let mut bytes = [0u8; TRAILER_BYTES as usize];
        self.trailer = match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Trailer::decode(&bytes, &self.header),
            Err(_) => None,
        };
    }

    /// The blocks by the footer; `None` where there is none or it does not hold.
    pub(super) fn footer(&self) -> Option<Vec<Indexed>> {
        let trailer = self.trailer.as_ref()?;
        if trailer.body_offset + trailer.body_bytes > self.file_bytes {
            return None;
        }
        let mut body = vec![0u8; trailer.body_bytes as usize];
        self.file.read_exact_at(&mut body, trailer.body_offset).ok()?;
        decode_footer(&body, trailer, &self.header)
    }

    /// The whole file's size in bytes, as far as the header's claim is met.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Whether the file still is this use of it, or was recycled since.
    pub(super) fn still_itself(&self) -> bool {
        HEADER_OFFSETS.iter().any(|&at| read_header(&self.file, at).is_ok_and(|h| h == self.header))
    }

    /// Whether the file still has its name.
    pub(super) fn still_named(&self) -> bool {
        self.path.exists()
    }

    /// Drops what was read ahead: the next look is at the file as it is now.
    pub(super) fn look_afresh(&mut self) {
        self.window.clear();
    }

    /// Ranges (offset, length) that the disk refused to read since the last call.
    pub(super) fn take_unreadable(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.unreadable)
    }

    /// What stands at `offset`. `live`: a writer may be at work behind it, so room that looks unwritten ends the walk
    /// without a search for later frames. `wanted` chooses the frames whose payload is read and checked; others are
    /// taken by their heads.
    pub(super) fn step(&mut self, offset: u64, live: bool, wanted: impl FnOnce(&FrameHead) -> bool) -> Step {
        let limit = self.limit();
        // The common case of a reader that waits: no read ahead for eight zeros.
        let mut begin = [0xff; 8];
        if live && self.window.is_empty() && self.trailer.is_none() && offset + 8 <= limit {
            self.read(offset, &mut begin);
            if begin == [0; 8] {
                return Step::End { torn: 0 };
            }
        }
        if offset + HEAD_BYTES as u64 > limit {
            return if self.trailer.is_some() && offset < limit {
                Step::Damaged { offset, bytes: limit - offset, next: limit }
            } else {
                Step::End { torn: 0 }
            };
        }
        let Some(head) = self.head_at(offset, limit) else {
            return self.step_over(offset, limit, live);
        };
        let next = offset + head.frame_bytes();
        if !wanted(&head) {
            return Step::Frame { offset, head, payload: None, next };
        }
        if let Some(payload) = self.payload(offset, &head) {
            return Step::Frame { offset, head, payload: Some(payload), next };
        }
        // The head holds, so its length is to be trusted: only this frame is lost. The last one may be one that is
        // being written, or that a crash cut.
        if self.trailer.is_none() && self.find_frame(next, limit).is_none() {
            return Step::End { torn: head.frame_bytes() };
        }
        Step::Damaged { offset, bytes: head.frame_bytes(), next }
    }

    /// Every frame to the segment's end, damages included, as when no writer is at work on it.
    pub(super) fn walk(&mut self, wanted: impl Fn(&FrameHead) -> bool, mut visit: impl FnMut(Step)) {
        let mut at = DATA_START;
        loop {
            let step = self.step(at, false, &wanted);
            match &step {
                Step::Frame { next, .. } | Step::Damaged { next, .. } => at = *next,
                Step::End { .. } => {
                    visit(step);
                    return;
                }
            }
            visit(step);
        }
    }

    /// The head at `offset` if a whole one stands there and its frame ends in bounds.
    pub(super) fn head_at(&mut self, offset: u64, limit: u64) -> Option<FrameHead> {
        let header = self.header;
        let head = FrameHead::decode(self.peek(offset, MAX_HEAD_BYTES), &header, offset)?;
        (offset.checked_add(head.frame_bytes())? <= limit).then_some(head)
    }

    /// The payload of the frame at `offset`, if it is whole.
    pub(super) fn payload(&mut self, offset: u64, head: &FrameHead) -> Option<Bytes> {
        let from = offset + head.head_bytes() as u64;
        let length = head.payload_bytes as usize;
        let payload = if length <= WINDOW_BYTES / 4 {
            self.peek(from, length).to_vec()
        } else {
            let mut buffer = vec![0u8; length];
            let got = self.read(from, &mut buffer);
            buffer.truncate(got);
            buffer
        };
        let whole = payload.len() == length && frame::payload_crc(&payload, &self.header) == head.payload_crc;
        whole.then(|| Bytes::from(payload))
    }

    /// Where frames end at the latest: where the trailer says, else before the place for one.
    pub(super) fn limit(&self) -> u64 {
        let room = (self.header.segment_bytes - TRAILER_BYTES).min(self.file_bytes);
        self.trailer.as_ref().map_or(room, |t| t.data_end.min(room))
    }

    fn step_over(&mut self, offset: u64, limit: u64, live: bool) -> Step {
        let header = self.header;
        let begin = self.peek(offset, 8);
        let (begun, blank) = (frame::looks_like_one(begin, &header), begin == [0; 8]);
        let torn = if begun { HEAD_BYTES as u64 } else { 0 };
        if live && self.trailer.is_none() && blank {
            return Step::End { torn: 0 };
        }
        match self.find_frame(offset + 8, limit) {
            Some(next) => Step::Damaged { offset, bytes: next - offset, next },
            // A finished segment says where its frames end: what lacks up to there was there.
            None if self.trailer.is_some() => Step::Damaged { offset, bytes: limit - offset, next: limit },
            None => Step::End { torn },
        }
    }

    /// The first offset from `from` on where a whole head stands.
    fn find_frame(&mut self, from: u64, limit: u64) -> Option<u64> {
        let marker = frame::marker(&self.header);
        let mut at = align8(from);
        let mut buffer = Vec::new();
        while at + HEAD_BYTES as u64 <= limit {
            buffer.resize(((limit - at) as usize).min(RESYNC_BYTES), 0);
            let got = self.read(at, &mut buffer) & !7;
            for (index, word) in buffer[..got].chunks_exact(8).enumerate() {
                let candidate = at + 8 * index as u64;
                if *word == marker && self.head_at(candidate, limit).is_some() {
                    return Some(candidate);
                }
            }
            if got == 0 {
                return None;
            }
            at += got as u64;
        }
        None
    }

    /// Up to `n` bytes at `offset`, fewer at the file's end; through the window.
    fn peek(&mut self, offset: u64, n: usize) -> &[u8] {
        let n = n.min(self.file_bytes.saturating_sub(offset) as usize);
        let covered = offset >= self.window_at
            && offset + n as u64 <= self.window_at + self.window.len() as u64
            && !self.window.is_empty();
        if !covered {
            let mut window = std::mem::take(&mut self.window);
            let length = WINDOW_BYTES.max(n).min(self.file_bytes.saturating_sub(offset) as usize);
            window.resize(length, 0);
            let got = self.read(offset, &mut window);
            window.truncate(got);
            self.window = window;
            self.window_at = offset;
        }
        let start = (offset - self.window_at) as usize;
        let end = (start + n).min(self.window.len());
        self.window.get(start..end).unwrap_or_default()
    }

    /// Fills `buffer` as far as the file reaches; pages that cannot be read are zeros.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> usize {
        match read_all(&self.file, offset, buffer) {
            Ok(got) => got,
            Err(_) => self.read_around(offset, buffer),
        }
    }

    fn read_around(&mut self, offset: u64, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let length = ((PAGE_BYTES - at % PAGE_BYTES) as usize).min(buffer.len() - done);
            let piece = &mut buffer[done..done + length];
            match read_all(&self.file, at, piece) {
                Ok(got) if got < length => return done + got,
                Ok(_) => {}
                Err(_) => {
                    piece.fill(0);
                    let range = (at - at % PAGE_BYTES, PAGE_BYTES);
                    if self.unreadable.len() < MAX_UNREADABLE && !self.unreadable.contains(&range) {
                        self.unreadable.push(range);
                    }
                }
            }
            done += length;
        }
        done
    }
}

/// A position for the frame at `offset` of segment `number`: where it was first written.
pub(super) fn position(header: &Header, offset: u64, head: &FrameHead) -> Position {
    head.origin.unwrap_or(Position { segment: header.number, offset })
}

fn read_header(file: &File, at: u64) -> Result<Header, String> {
    let mut bytes = [0u8; HEADER_BYTES];
    match read_all(file, at, &mut bytes) {
        Ok(got) => Header::decode(&bytes[..got]),
        Err(e) => Err(format!("cannot read it: {e}")),
    }
}

fn read_all(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
