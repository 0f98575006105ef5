//! The journal: an append-only sequence of segment files of blocks. One format everywhere.

use std::path::Path;

use bytes::Bytes;

use crate::chain::{ChainId, Head};
use crate::record::{Hash, Kinds, Seq};

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// An encoded `wire::Block`.
    Block,
    /// An encoded `wire::SignedHead`.
    SignedHead,
    /// An encoded `wire::SignedReceipt`; in a node's journal the newest one of a chain is its cursor.
    Receipt,
    /// One of the collector's own decisions.
    Decision,
}

/// What the footer and the readers know of a block without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockInfo {
    /// Which chain.
    pub chain: ChainId,
    /// First seq.
    pub first_seq: Seq,
    /// Last seq, inclusive.
    pub last_seq: Seq,
    /// Earliest record, wall ns by the node's clock.
    pub first_wall_ns: i64,
    /// Latest record, wall ns.
    pub last_wall_ns: i64,
    /// What is within.
    pub kinds: Kinds,
    /// The block's hash.
    pub hash: Hash,
}

/// How large a journal is and may become.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Size of each segment file in bytes; at least 1 MiB, a multiple of 4096.
    pub segment_bytes: u64,
    /// Segments that exist at most. An append that needs one more recycles the oldest if it was released
    /// ([`Journal::release_before`]), else fails with [`JournalError::Full`].
    pub max_segments: u32,
    /// Segments that are created, full of zeros, at open (fewer where space is short).
    pub preallocate_segments: u32,
}

/// A place in the journal. Orders by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment's number; grows by one for each segment begun.
    pub segment: u64,
    /// Byte offset of the frame.
    pub offset: u64,
}

/// What is wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A system call failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Every segment is in use and the oldest is not released.
    #[error("journal {path} is full: {segments} segments hold what is not acknowledged yet")]
    Full {
        /// The folder.
        path: String,
        /// How many.
        segments: u32,
    },
    /// Another process has it open.
    #[error("journal {path} is in use by another process; stop that one first")]
    Locked {
        /// The folder.
        path: String,
    },
    /// A frame does not fit a segment.
    #[error("a frame of {bytes} bytes does not fit a segment of {segment_bytes}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit's origin.
        segment_bytes: u64,
    },
    /// The filesystem has no room for even one segment.
    #[error("no room for a journal in {path}: {detail}")]
    NoRoom {
        /// The folder.
        path: String,
        /// Figures and remedy.
        detail: String,
    },
}

/// One frame as read.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it stands.
    pub at: Position,
    /// What it holds.
    pub kind: FrameKind,
    /// Its bytes.
    pub payload: Bytes,
}

/// The single writer of a journal folder.
#[derive(Debug)]
pub struct Journal {
    _todo: (),
}

/// What was found when a journal was opened.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// Whether the last writer closed it ([`Journal::close`]). True for a new journal.
    pub clean: bool,
    /// Whether the folder held no journal before.
    pub fresh: bool,
    /// Newest head of every chain that the journal knows.
    pub heads: Vec<(ChainId, Head)>,
    /// In words, for the log: torn tails, damaged frames, segments that could not be read.
    pub remarks: Vec<String>,
    /// Segments really preallocated, if fewer than asked for.
    pub preallocated_segments: u32,
}

/// A segment in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Bytes of frames in it.
    pub used_bytes: u64,
    /// When its last frame was appended, wall ns of this machine (for retention by receipt time); 0 if unknown.
    pub last_append_wall_ns: i64,
}

impl Journal {
    /// Opens or creates the journal in `dir`, as its only writer. Reads what is there, never continues an old
    /// segment, and never blocks on another writer.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovered), JournalError> {
        let _ = (dir, options);
        todo!()
    }

    /// Appends a block. Not durable before [`Journal::sync`] returns.
    pub fn append_block(
        &mut self,
        info: &BlockInfo,
        payload: &[u8],
        wall_ns: i64,
    ) -> Result<Position, JournalError> {
        let _ = (info, payload, wall_ns);
        todo!()
    }

    /// Appends anything but a block.
    pub fn append(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        wall_ns: i64,
    ) -> Result<Position, JournalError> {
        let _ = (kind, payload, wall_ns);
        todo!()
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        todo!()
    }

    /// Says that segments before `segment` may be recycled when room is needed.
    pub fn release_before(&mut self, segment: u64) {
        let _ = segment;
    }

    /// Recycles or deletes every released segment before `segment` now (retention).
    pub fn expire_before(&mut self, segment: u64) -> Result<(), JournalError> {
        let _ = segment;
        todo!()
    }

    /// Segments in use, oldest first; the last one is being written.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!()
    }

    /// Newest head of every chain.
    pub fn heads(&self) -> Vec<(ChainId, Head)> {
        todo!()
    }

    /// Writes the footer, syncs, and marks the journal as cleanly closed.
    pub fn close(self) -> Result<(), JournalError> {
        todo!()
    }
}

/// Reads a journal folder; any number at once, beside its writer, in any process.
#[derive(Debug)]
pub struct Reader {
    _todo: (),
}

impl Reader {
    /// Opens the folder for reading. Takes no lock.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let _ = dir;
        todo!()
    }

    /// Every frame from `from` on, in order, up to what is written now. Damaged stretches are skipped and counted
    /// ([`Scan::damaged`]). The scan can be continued later from the last entry's position.
    pub fn scan(&self, from: Position) -> Scan {
        let _ = from;
        todo!()
    }

    /// The index: every block's place and info, from footers where there are such and from frames elsewhere.
    pub fn blocks(&self) -> Result<Vec<(Position, BlockInfo)>, JournalError> {
        todo!()
    }

    /// The frame at `at`, if it is still there and whole.
    pub fn read_at(&self, at: Position) -> Result<Option<Entry>, JournalError> {
        let _ = at;
        todo!()
    }
}

/// An iterator over frames.
#[derive(Debug)]
pub struct Scan {
    _todo: (),
}

impl Scan {
    /// Stretches of damaged bytes met so far: position and length.
    pub fn damaged(&self) -> &[(Position, u64)] {
        &[]
    }
}

impl Iterator for Scan {
    type Item = Result<Entry, JournalError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
