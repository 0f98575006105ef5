//! The journal: an append-only sequence of segment files of blocks. One format everywhere: the agent's rings, the
//! collector's store, its own decisions, holds.
//!
//! # What holds
//!
//! * What [`Journal::sync`] reported is there after any crash, once, under the position that its append returned.
//! * A reader returns a frame only as it was appended: salted checksums cover every byte of it and its place.
//! * A flipped bit or a cut costs the frames that it hit and no other. The header stands twice, the footer is
//!   redundant, a damaged length is found out before it is used.
//! * A recycled file resurrects nothing, and neither can bytes inside a payload that look like a frame: both lack the
//!   salt, 16 random bytes drawn for each use of a file.
//! * Appending into segments that exist works with 0 bytes free, on filesystems that overwrite in place, for any time: on
//!   ext4 the folder is made wide enough at open that changing names never makes it grow.
//! * No length that was read is believed before it is checked, and nothing that is read makes it panic.
//!
//! # The folder
//!
//! | name | what |
//! |---|---|
//! | `NNNNNNNNNNNNNNNNNNNN.seg` | a segment; its number, 20 digits, grows by one with each segment begun |
//! | `spare-NNNNNNNNNNNNNNNNNNNN.seg` | a file of a segment's size that waits for its (next) use; another numbering |
//! | `partial-….seg` | a file that is being filled with zeros, or a name that widens the folder; deleted at open |
//! | `lock` | the writer's `flock`, and how the last writer left |
//!
//! Other names are left alone. A file is created by writing real zeros (never sparse, so that it costs no allocation
//! later), syncing it, and renaming it to a spare. A spare becomes a segment by writing headers and HEADS, syncing it,
//! renaming it and syncing the folder. A segment is given up by renaming it to a spare: its bytes stay as they are
//! until its next use.
//!
//! # Version 1, byte by byte
//!
//! Integers are little-endian; checksums are CRC-32C. *salt A* and *salt B* are the first and the last 8 bytes of the
//! segment's salt; `crc(x ‖ y)` runs over x and then y. Reserved bytes are zero and ignored.
//!
//! **Segment**: header copies at 0 and 4096, frames from 8192 on, the footer's body and its trailer at the end. Its
//! size is a multiple of 4096 from 64 KiB to 1 GiB.
//!
//! **Header** (96 bytes): 0 magic `DOGWSEG1` · 8 u32 version, 1 · 12 u32 generation (low half of the number) · 16 u64
//! number · 24 salt, 16 bytes · 40 u64 size of the file · 48 u64 lowest segment number among its frames' positions ·
//! 56 reserved · 92 u32 crc over bytes 0..92.
//!
//! **Frame**, at offsets that are multiples of 8: 0 magic `DWFR` · 4 u32 generation · 8 u8 kind · 9 u8 flags (bit 0: an
//! origin follows the head) · 10 u16 length of what stands between head and payload · 12 u32 length of the payload ·
//! 16 i64 when it was appended, wall ns · 24 u32 crc(salt B ‖ payload) · 28 u32 crc(salt A ‖ u64 the frame's offset ‖
//! bytes 0..28 ‖ bytes between head and payload) · 32 origin (u64 segment, u64 offset), if flagged · for a block its
//! info · payload · zeros up to a multiple of 8. Behind the last frame stand 8 zero bytes.
//!
//! Kinds: 1 block, 2 signed head, 3 receipt, 4 decision, 128 HEADS. Others are passed over (and copied) unread.
//!
//! **Block's info**: u64 first seq · u64 last seq · i64 first wall ns · i64 last wall ns · u32 kinds · 32 bytes hash ·
//! chain. **Chain**: 16 bytes incarnation · u8 stream (0 urgent, 1 evidence, 2 recorder) · u8 length of the node's name
//! · name.
//!
//! **HEADS**: the segment's first frames; where every chain stood when it began, so that what remains after expiry
//! still verifies. Payload: u32 part · u32 parts · u32 count · each: u64 last seq · 32 bytes hash · chain.
//!
//! **Footer's body**: u32 count of chains · u32 count of blocks · the chains · each block, 92 bytes: u32 its chain · u32
//! offset of its frame · position (u64, u64) · u64 first seq · u64 last seq · i64 first wall ns · i64 last wall ns · u32
//! kinds · 32 bytes hash. Room for it is kept free while frames are appended.
//!
//! **Trailer** (the last 64 bytes): 0 magic `DOGWIDX1` · 8 u32 generation · 12 u32 crc(salt B ‖ body) · 16 u64 offset of
//! the body · 24 u64 its length · 32 u64 end of the last frame · 40 i64 last append, wall ns · 48 u32 frames without
//! HEADS · 52 u32 blocks · 56 reserved · 60 u32 crc(salt A ‖ bytes 0..60).
//!
//! **Lock file** (64 bytes): 0 magic `DOGWLCK1` · 8 u32 state (1 open, 2 closed) · 16 u64 number of the next segment when
//! this was written · 60 u32 crc over bytes 0..60. Anything else counts as *open*: a crash.
//!
//! # Positions
//!
//! A [`Position`] is where a frame was first written, and stays good for as long as the frame is there: a frame that was
//! coalesced into a later segment carries it as its origin. Positions ascend in the order of appending and are never
//! used again, also not after everything expired (the lock file keeps the number).
//!
//! # Reading and recovery
//!
//! A finished segment (trailer and body hold) is indexed by its footer, any other by its frames. Where no frame stands
//! at the place expected, readers look at each multiple of 8 for magic, generation and a head whose checksum holds, and
//! go on there; what lies between is damage. Where a head holds and its payload does not, only that frame is lost. In
//! the newest segment the same bytes may be a frame on its way, so there the end is the end until a whole frame or a
//! later segment follows; 8 zero bytes end it without a search. (So a frame there whose first bytes were *zeroed* hides
//! its successors from scans until the next segment begins or the journal is opened.)
//!
//! Opening never continues a segment. What a killed process left in memory is first written back, and then read past
//! the page cache, so that nothing is believed that only memory holds. Segments without frames are used again first,
//! and runs of small ones are coalesced (see `coalesce.rs`), so that a crash loop does not eat the ring.
//!
//! A failed `fdatasync` fails the writer for good ([`JournalError::Failed`]): what was appended since the last good sync
//! must count as not durable, and only a new opening tells what of it the disk holds.
//!
//! # Limits
//!
//! The heads of all chains may take an eighth of a segment; beyond it the chains silent longest are forgotten and
//! counted ([`Journal::heads_dropped`]). A frame fits a segment that holds as many heads as there may be, else
//! [`JournalError::TooLarge`]. Memory: the heads, the footer of the segment being written, and a reader's 64 KiB window.
//!
//! # Relied upon
//!
//! The disk writes 512-byte sectors whole or not at all, and fdatasync tells the truth. A sync may share a sector with a
//! frame synced before; that frame's bytes are rewritten as they were. On copy-on-write filesystems an overwrite needs
//! room, so there 0 bytes free means [`JournalError::Io`] on append, with nothing changed.
//!
//! # Deliberately absent
//!
//! What was released ([`Journal::release_before`]) is not kept: its owner knows it better. No clock, no thread, no
//! compression, no knowledge of what is in a payload.

mod coalesce;
mod folder;
mod frame;
mod heads;
mod reader;
mod recover;
mod segment;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

use bytes::Bytes;

use crate::chain::{ChainId, Head};
use crate::record::{Hash, Kinds, Seq};

pub use reader::{Reader, Scan};
pub use writer::Journal;

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
    /// Size of each segment file in bytes; a multiple of 4096 from 64 KiB to 1 GiB. In use 1 MiB (agents) to 64 MiB
    /// (collectors); the smallest are for tests.
    pub segment_bytes: u64,
    /// Segments that exist at most; at least 2. An append that needs one more recycles the oldest if it was released
    /// ([`Journal::release_before`]), else fails with [`JournalError::Full`].
    pub max_segments: u32,
    /// Segments that are created, full of zeros, at open: fewer where that would leave less than a segment's size or
    /// 5 % of the filesystem free, but at least one.
    pub preallocate_segments: u32,
}

/// A place in the journal. Orders by age. The default is before everything.
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
    /// A sync failed, now or earlier: what was appended since the last good one must count as not durable.
    #[error("journal {path} cannot promise anything any more: {reason}; open it anew")]
    Failed {
        /// The folder.
        path: String,
        /// What failed first.
        reason: String,
    },
    /// An option has a value that no journal can have.
    #[error("journal options: {0}")]
    Options(String),
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
    /// Stretches of damage that were left out of small segments when they became one: what stood there is nowhere any more,
    /// and no later opening tells of it.
    pub left_out: u64,
    /// Segments that exist, in use or spare, up to what [`Options::preallocate_segments`] asked for: fewer than that
    /// means that the filesystem had no room.
    pub preallocated_segments: u32,
}

/// `n` up to the next multiple of 8.
fn align8(n: u64) -> u64 {
    n.next_multiple_of(8)
}

/// A segment in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Bytes of frames in it.
    pub used_bytes: u64,
    /// When its first frame was appended, wall ns of this machine; 0 if unknown. A frame that was coalesced keeps its time.
    pub first_append_wall_ns: i64,
    /// When its last frame was appended, wall ns of this machine (for retention by receipt time); 0 if unknown.
    pub last_append_wall_ns: i64,
}
