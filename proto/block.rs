//! Blocks: a run of records of one stream, sealed once.
//!
//! A block is a header and one section for each source of its records. Sealing fixes the bytes: a section is 16 random
//! bytes and the zstd-compressed records, the header holds each section's SHA-256, and the block's hash is the SHA-256
//! over the header as encoded. Nothing is ever encoded again: what was sealed is what is stored, sent and exported.
//!
//! Invariants
//! - the hash covers the header's bytes as they stand, and through them every section, withheld or not;
//! - sections stand in the order of their first record, records within by seq, and every seq of the range is in
//!   exactly one section;
//! - the random bytes keep a withheld section from being guessed from its hash;
//! - opening a block ([`Block::from_wire`]) hashes but neither decompresses nor copies, so that ingest is fast;
//!   records are looked at by [`Block::records`] alone, within bounds that hold for hostile blocks too.
//!
//! A newer writer's kinds of record are kept, hashed and passed on; [`Block::records`] leaves them out.
//!
//! Deliberately absent: signatures and the order of blocks ([`crate::chain`]), and storage ([`crate::journal`]).

mod open;
mod seal;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use prost::Message;

use crate::convert::Refused;
use crate::record::{Hash, Incarnation, Kinds, Moment, NodeName, Record, Seq, Stream};
use crate::wire;

pub use seal::{Weight, split_point, weigh};

/// The format's version, in every header.
pub const VERSION: u32 = 1;
/// Largest encoded block, in bytes: header and sections.
pub const MAX_BLOCK_BYTES: usize = 512 * 1024;
/// Most bytes that one section may have after decompression; a larger claim is refused before anything is allocated.
pub const MAX_SECTION_RAW_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes that all sections together may have after decompression, so that a block of many small bombs is one
/// refusal. 32 times [`SEAL_BYTES`]: room for oversized records beside an ordinary block.
pub const MAX_RAW_BYTES: usize = 8 * 1024 * 1024;
/// Most sections; a block of more sources than this is sealed earlier.
pub const MAX_SECTIONS: usize = 4096;
/// Most records; a block of [`SEAL_BYTES`] of the smallest ones has a fifth of that.
pub const MAX_RECORDS: usize = 65_536;
/// Random bytes at the start of each section.
pub const SALT_BYTES: usize = 16;
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
    /// A record that no reader would accept. Leave it out, say so in a gap, and seal the others.
    #[error("record {seq} cannot be sealed: {refused}")]
    Record {
        /// Its seq.
        seq: Seq,
        /// Which field, and why.
        #[source]
        refused: Refused,
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

impl Header {
    /// Whether this can describe a block; a header that came with one does.
    pub(crate) fn check(&self) -> Result<(), BlockError> {
        open::check_header(self)
    }
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
    ///
    /// Fails with [`BlockError::TooLarge`] where the records do not fit one block ([`split_point`] says how many
    /// surely do), and with [`BlockError::Record`] for a record that breaks a limit of [`crate::convert`].
    pub fn seal(
        place: Place,
        records: &[Record],
        salt: &mut dyn FnMut() -> [u8; SALT_BYTES],
    ) -> Result<Self, BlockError> {
        seal::seal(place, records, salt)
    }

    /// Checks an encoded block: structure, limits, and every section that is present against its hash.
    pub fn from_wire(block: wire::Block) -> Result<Self, BlockError> {
        let block = open::header(block)?;
        match (0..block.sections.len()).find_map(|i| block.section_error(i)) {
            None => Ok(block),
            Some(error) => Err(error),
        }
    }

    /// [`Block::from_wire`] of encoded bytes, as a journal holds them. The block shares the memory of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, BlockError> {
        Self::from_wire(open::message(bytes)?)
    }

    /// The bytes for a journal or a message.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
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

    /// The records of the kinds in `wanted`, by seq. Only sections that are present and share a kind with `wanted` are
    /// decompressed.
    ///
    /// Fails where a section is not what the header says of it: sizes, count, kinds, seqs and times. With every
    /// section read, that means that every seq of the block was there exactly once.
    pub fn records(&self, wanted: Kinds) -> Result<Vec<Record>, BlockError> {
        open::records(self, wanted)
    }

    /// The block's header with its sections unchecked, for the verifier, which goes on where ingest stops.
    pub(crate) fn decode_header(bytes: Bytes) -> Result<Self, BlockError> {
        open::header(open::message(bytes)?)
    }

    /// What is wrong with section `index`, if it is present.
    pub(crate) fn section_error(&self, index: usize) -> Option<BlockError> {
        open::section_error(self, index)
    }
}

fn malformed(what: impl Into<String>) -> BlockError {
    BlockError::Malformed(what.into())
}
