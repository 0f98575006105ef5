//! Blocks: a run of records of one stream, sealed once.

use bytes::Bytes;

use crate::record::{Hash, Incarnation, Kinds, Moment, NodeName, Record, Seq, Stream};
use crate::wire;

/// Largest encoded block, in bytes: header and sections.
pub const MAX_BLOCK_BYTES: usize = 512 * 1024;
/// Most bytes that one section may have after decompression; a larger claim is refused before anything is allocated.
pub const MAX_SECTION_RAW_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of records after which evidence and recorder blocks are sealed.
pub const SEAL_BYTES: usize = 256 * 1024;

/// Why bytes are not a block, or not the block that they claim to be.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The bytes do not decode or break a rule of the format.
    #[error("malformed block: {0}")]
    Malformed(String),
    /// A section's bytes do not have the hash that the header states.
    #[error("section {index} ({origin}) does not match its hash in the header")]
    SectionHash {
        /// Position in the header.
        index: usize,
        /// The section's source.
        origin: String,
    },
    /// Larger than the format allows.
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Where an incarnation began; in the header of its first block of each stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// 1 for the node's first start with its state folder.
    pub counter: u64,
    /// `/proc/sys/kernel/random/boot_id`, as bytes.
    pub boot_id: [u8; 16],
    /// The incarnation before, and where its stream stood: last seq and hash of what survived.
    pub predecessor: Option<Predecessor>,
    /// The agent's version.
    pub agent_version: String,
}

/// Where the previous incarnation's stream ended, as far as its journal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Predecessor {
    /// Which run.
    pub incarnation: Incarnation,
    /// Last seq that survived; 0 for none.
    pub last_seq: Seq,
    /// Hash of its block; zero for none.
    pub head: Hash,
}

/// A block's header, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Whose.
    pub node: NodeName,
    /// Which run.
    pub incarnation: Incarnation,
    /// Which stream.
    pub stream: Stream,
    /// First seq within.
    pub first_seq: Seq,
    /// Last seq within, inclusive.
    pub last_seq: Seq,
    /// Earliest record.
    pub first_at: Moment,
    /// Latest record.
    pub last_at: Moment,
    /// What is within.
    pub kinds: Kinds,
    /// Hash of the stream's previous block of this incarnation; zero for the first.
    pub previous: Hash,
    /// One a source.
    pub sections: Vec<SectionHeader>,
    /// On an incarnation's first block of each stream only.
    pub start: Option<Start>,
    /// The newest receipt that the node had, if new.
    pub receipt: Option<crate::chain::SignedReceipt>,
}

/// A section as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionHeader {
    /// The source of its records.
    pub source: String,
    /// SHA-256 of the section's stored bytes, salt included.
    pub sha256: Hash,
    /// Stored size in bytes.
    pub stored_bytes: u32,
    /// Size of the encoded records before compression.
    pub raw_bytes: u32,
    /// How many records.
    pub records: u32,
    /// Which kinds.
    pub kinds: Kinds,
}

/// A sealed block: its exact bytes and what they say.
#[derive(Debug, Clone)]
pub struct Block {
    header_bytes: Bytes,
    sections: Vec<Bytes>,
    header: Header,
    hash: Hash,
}

/// What sealing needs besides the records.
#[derive(Debug, Clone)]
pub struct Place {
    /// Whose.
    pub node: NodeName,
    /// Which run.
    pub incarnation: Incarnation,
    /// Which stream.
    pub stream: Stream,
    /// Hash of the stream's previous block.
    pub previous: Hash,
    /// For an incarnation's first block.
    pub start: Option<Start>,
    /// The newest receipt, if new.
    pub receipt: Option<crate::chain::SignedReceipt>,
}

impl Block {
    /// Seals `records`, which must be non-empty and of contiguous ascending seqs. `salt` gives the 16 random bytes of
    /// each section (called once a section).
    pub fn seal(
        place: Place,
        records: &[Record],
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<Self, BlockError> {
        let _ = (place, records, salt);
        todo!()
    }

    /// Checks an encoded block: structure, limits, and every section that is present against its hash.
    pub fn from_wire(block: wire::Block) -> Result<Self, BlockError> {
        let _ = block;
        todo!()
    }

    /// [`Block::from_wire`] of encoded bytes, as a journal holds them.
    pub fn decode(bytes: Bytes) -> Result<Self, BlockError> {
        let _ = bytes;
        todo!()
    }

    /// The bytes for a journal or a message.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// As a message; shares the bytes.
    pub fn to_wire(&self) -> wire::Block {
        wire::Block { header: self.header_bytes.clone(), sections: self.sections.clone() }
    }

    /// SHA-256 over the header's bytes.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether section `index` was withheld.
    pub fn withheld(&self, index: usize) -> bool {
        self.sections.get(index).is_none_or(Bytes::is_empty)
    }

    /// This block with section `index` withheld: the hash stays the same.
    #[must_use]
    pub fn withhold(mut self, index: usize) -> Self {
        if let Some(s) = self.sections.get_mut(index) {
            *s = Bytes::new();
        }
        self
    }

    /// The records of the sections that are present and share a kind with `wanted`, by seq.
    pub fn records(&self, wanted: Kinds) -> Result<Vec<Record>, BlockError> {
        let _ = wanted;
        todo!()
    }
}
