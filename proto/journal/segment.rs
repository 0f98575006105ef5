//! A segment file's fixed parts: names, the header that stands twice, the footer that indexes the blocks.
//!
//! Everything here turns bytes into values and back; the layout is described at the head of [`super`]. Nothing here
//! touches a file.

use super::BlockInfo;
use super::frame::{self, Cursor};
use super::{Position, align8};
use crate::chain::ChainId;
use crate::record::{Hash, Kinds};

/// The only version so far.
pub(super) const VERSION: u32 = 1;
/// Smallest segment that the format allows; meant for tests. In use it is 1 MiB to 64 MiB.
pub(super) const MIN_SEGMENT_BYTES: u64 = 64 * 1024;
/// Largest one: offsets in footers are 32 bits wide.
pub(super) const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Bytes of one header copy that mean something.
pub(super) const HEADER_BYTES: usize = 96;
/// Where the copies stand: in sectors, and pages, of their own.
pub(super) const HEADER_OFFSETS: [u64; 2] = [0, 4096];
/// Where the first frame stands.
pub(super) const DATA_START: u64 = 8192;
/// Size of the trailer, which ends the file.
pub(super) const TRAILER_BYTES: u64 = 64;

const HEADER_MAGIC: [u8; 8] = *b"DOGWSEG1";
const TRAILER_MAGIC: [u8; 8] = *b"DOGWIDX1";
/// Bytes of one block in a footer.
const ENTRY_BYTES: usize = 92;
/// Bytes of one chain in a footer, without its node's name.
const CHAIN_BYTES: usize = 18;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The segment's number; the file's name repeats it.
    pub(super) number: u64,
    /// Tells this use of the file from earlier ones.
    pub(super) generation: u32,
    /// Random, drawn for each use of the file; goes into every checksum.
    pub(super) salt: [u8; 16],
    /// Size of the whole file.
    pub(super) segment_bytes: u64,
    /// Lowest segment number among the positions of its frames: `number`, or less after coalescing.
    pub(super) first_segment: u64,
}

impl Header {
    /// One copy's bytes.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0u8; HEADER_BYTES];
        out[0..8].copy_from_slice(&HEADER_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..40].copy_from_slice(&self.salt);
        out[40..48].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out[48..56].copy_from_slice(&self.first_segment.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From one copy's bytes; the reason in words where they are none.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or("shorter than a header")?;
        let mut c = Cursor::new(bytes);
        let malformed = "shorter than a header";
        if c.array::<8>().ok_or(malformed)? != HEADER_MAGIC {
            return Err("no segment header".to_owned());
        }
        let crc = u32::from_le_bytes([bytes[92], bytes[93], bytes[94], bytes[95]]);
        if crc != crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) {
            return Err("the header's checksum does not hold".to_owned());
        }
        let version = c.u32().ok_or(malformed)?;
        if version != VERSION {
            return Err(format!("format version {version}; this program reads version {VERSION}"));
        }
        let header = Self {
            generation: c.u32().ok_or(malformed)?,
            number: c.u64().ok_or(malformed)?,
            salt: c.array().ok_or(malformed)?,
            segment_bytes: c.u64().ok_or(malformed)?,
            first_segment: c.u64().ok_or(malformed)?,
        };
        if !valid_size(header.segment_bytes) {
            return Err(format!("a segment size of {} bytes is none", header.segment_bytes));
        }
        if header.first_segment > header.number {
            return Err("it claims to hold positions of later segments".to_owned());
        }
        Ok(header)
    }

    /// The half of the salt that goes into the checksums of frame heads and of the trailer.
    pub(super) fn head_salt(&self) -> &[u8] {
        &self.salt[..8]
    }

    /// The half that goes into the checksums of payloads and of the footer's body. Its own half, so that guessing one
    /// tells nothing of the other.
    pub(super) fn payload_salt(&self) -> &[u8] {
        &self.salt[8..]
    }
}

/// Whether a segment may have that size.
pub(super) fn valid_size(bytes: u64) -> bool {
    (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&bytes) && bytes.is_multiple_of(4096)
}

/// `NNNNNNNNNNNNNNNNNNNN.seg`.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:020}.seg")
}

/// The number in a segment's name; `None` for any other name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Where a finished segment's frames end and what is known of them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Where the footer's body stands.
    pub(super) body_offset: u64,
    /// How long it is.
    pub(super) body_bytes: u64,
    /// End of the last frame.
    pub(super) data_end: u64,
    /// When the last frame was appended.
    pub(super) last_append_wall_ns: i64,
    /// Frames, those of HEADS left out.
    pub(super) frames: u32,
    /// Blocks among them.
    pub(super) blocks: u32,
    /// Checksum over the body.
    pub(super) body_crc: u32,
}

impl Trailer {
    fn encode(&self, header: &Header) -> [u8; TRAILER_BYTES as usize] {
        let mut out = [0u8; TRAILER_BYTES as usize];
        out[0..8].copy_from_slice(&TRAILER_MAGIC);
        out[8..12].copy_from_slice(&header.generation.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.body_offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.data_end.to_le_bytes());
        out[40..48].copy_from_slice(&self.last_append_wall_ns.to_le_bytes());
        out[48..52].copy_from_slice(&self.frames.to_le_bytes());
        out[52..56].copy_from_slice(&self.blocks.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(header.head_salt()), &out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// From the file's last bytes; `None` where there is no whole one of this generation.
    pub(super) fn decode(bytes: &[u8], header: &Header) -> Option<Self> {
        if bytes.len() != TRAILER_BYTES as usize {
            return None;
        }
        let mut c = Cursor::new(bytes);
        if c.array::<8>()? != TRAILER_MAGIC || c.u32()? != header.generation {
            return None;
        }
        let trailer = Self {
            body_crc: c.u32()?,
            body_offset: c.u64()?,
            body_bytes: c.u64()?,
            data_end: c.u64()?,
            last_append_wall_ns: c.i64()?,
            frames: c.u32()?,
            blocks: c.u32()?,
        };
        c.u32()?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(header.head_salt()), &bytes[..60]);
        let end = header.segment_bytes - TRAILER_BYTES;
        let fits = trailer.data_end >= DATA_START
            && trailer.data_end <= trailer.body_offset
            && trailer.body_offset.checked_add(trailer.body_bytes).is_some_and(|e| e <= end);
        (c.u32()? == crc && fits).then_some(trailer)
    }
}

/// A block as the footer lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Indexed {
    /// Its position, for good.
    pub(super) at: Position,
    /// Where its frame stands in this file.
    pub(super) offset: u64,
    /// What it holds.
    pub(super) info: BlockInfo,
}

/// The footer of the segment being written, grown with every block.
#[derive(Debug, Default)]
pub(super) struct FooterBuilder {
    chains: Vec<u8>,
    chain_numbers: std::collections::HashMap<ChainId, u32>,
    entries: Vec<u8>,
    blocks: u32,
}

impl FooterBuilder {
    /// Bytes that footer and trailer take at the file's end once `info` is in it too.
    pub(super) fn bytes_with(&self, info: Option<&BlockInfo>) -> u64 {
        let mut body = 8 + self.chains.len() + self.entries.len();
        if let Some(info) = info {
            body += ENTRY_BYTES;
            if !self.chain_numbers.contains_key(&info.chain) {
                body += CHAIN_BYTES + info.chain.node.as_str().len();
            }
        }
        align8(body as u64) + TRAILER_BYTES
    }

    /// Lists a block.
    pub(super) fn push(&mut self, offset: u64, at: Position, info: &BlockInfo) {
        let next = self.chain_numbers.len() as u32;
        let chain = match self.chain_numbers.get(&info.chain) {
            Some(&n) => n,
            None => {
                frame::encode_chain(&info.chain, &mut self.chains);
                self.chain_numbers.insert(info.chain.clone(), next);
                next
            }
        };
        let e = &mut self.entries;
        e.extend_from_slice(&chain.to_le_bytes());
        e.extend_from_slice(&(offset as u32).to_le_bytes());
        e.extend_from_slice(&at.segment.to_le_bytes());
        e.extend_from_slice(&at.offset.to_le_bytes());
        e.extend_from_slice(&info.first_seq.to_le_bytes());
        e.extend_from_slice(&info.last_seq.to_le_bytes());
        e.extend_from_slice(&info.first_wall_ns.to_le_bytes());
        e.extend_from_slice(&info.last_wall_ns.to_le_bytes());
        e.extend_from_slice(&info.kinds.0.to_le_bytes());
        e.extend_from_slice(&info.hash.0);
        self.blocks += 1;
    }

    /// Body and trailer, which end the file together, and the offset where they begin.
    pub(super) fn finish(
        &self,
        header: &Header,
        data_end: u64,
        last_append_wall_ns: i64,
        frames: u32,
    ) -> (u64, Vec<u8>) {
        let mut bytes = Vec::with_capacity(self.bytes_with(None) as usize);
        bytes.extend_from_slice(&(self.chain_numbers.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.blocks.to_le_bytes());
        bytes.extend_from_slice(&self.chains);
        bytes.extend_from_slice(&self.entries);
        let body_bytes = bytes.len() as u64;
        bytes.resize(align8(body_bytes) as usize, 0);
        let body_offset = header.segment_bytes - TRAILER_BYTES - bytes.len() as u64;
        let body_crc =
            crc32c::crc32c_append(crc32c::crc32c(header.payload_salt()), &bytes[..body_bytes as usize]);
        let trailer = Trailer {
            body_offset,
            body_bytes,
            data_end,
            last_append_wall_ns,
            frames,
            blocks: self.blocks,
            body_crc,
        };
        bytes.extend_from_slice(&trailer.encode(header));
        (body_offset, bytes)
    }
}

/// The blocks that a footer's body lists; `None` where it is not whole.
pub(super) fn decode_footer(body: &[u8], trailer: &Trailer, header: &Header) -> Option<Vec<Indexed>> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(header.payload_salt()), body);
    if body.len() as u64 != trailer.body_bytes || crc != trailer.body_crc {
        return None;
    }
    let mut c = Cursor::new(body);
    let (chain_count, blocks) = (c.u32()? as usize, c.u32()? as usize);
    // Counts come before what they count: neither may ask for more than the bytes at hand could hold.
    if chain_count > body.len() / CHAIN_BYTES || blocks > body.len() / ENTRY_BYTES {
        return None;
    }
    let chains = (0..chain_count).map(|_| frame::decode_chain(&mut c)).collect::<Option<Vec<_>>>()?;
    (0..blocks)
        .map(|_| {
            let chain = chains.get(c.u32()? as usize)?.clone();
            let offset = u64::from(c.u32()?);
            let at = Position { segment: c.u64()?, offset: c.u64()? };
            let (first_seq, last_seq) = (c.u64()?, c.u64()?);
            let (first_wall_ns, last_wall_ns) = (c.i64()?, c.i64()?);
            let kinds = Kinds(c.u32()?);
            let hash = Hash(c.array()?);
            let info = BlockInfo { chain, first_seq, last_seq, first_wall_ns, last_wall_ns, kinds, hash };
            Some(Indexed { at, offset, info })
        })
        .collect()
}
