//! Frames: heads, checksums, and the small structures that stand in them.
//!
//! Pure: bytes in, values out. The layout is described at the head of [`super`].

use super::segment::Header;
use super::{BlockInfo, FrameKind, Position, align8};
use crate::chain::{ChainId, Head};
use crate::record::{Hash, Incarnation, Kinds, Stream};

/// Size of a frame's head without what is `extra`.
pub(super) const HEAD_BYTES: usize = 32;
/// `extra` at its longest: a position and a block's info with the longest node name, 255 bytes.
pub(super) const MAX_EXTRA_BYTES: usize = ORIGIN_BYTES + 86 + 255;
/// What a reader asks for to have any head whole.
pub(super) const MAX_HEAD_BYTES: usize = HEAD_BYTES + MAX_EXTRA_BYTES;
/// Bytes of an origin.
pub(super) const ORIGIN_BYTES: usize = 16;
/// Most payload bytes of one HEADS frame; more chains take more frames.
pub(super) const HEADS_PART_BYTES: usize = 64 * 1024;

const MAGIC: [u8; 4] = *b"DWFR";
const FLAG_ORIGIN: u8 = 1;

/// Kinds as bytes. 128 and above are the journal's own and never leave it.
const BLOCK: u8 = 1;
const SIGNED_HEAD: u8 = 2;
const RECEIPT: u8 = 3;
const DECISION: u8 = 4;
/// Where the chains stood when the segment began.
pub(super) const HEADS: u8 = 128;

/// A frame's head, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// As a byte, so that a newer writer's kinds survive copying.
    pub(super) kind: u8,
    /// When it was appended, wall ns of the writer's machine.
    pub(super) wall_ns: i64,
    /// Length of the payload.
    pub(super) payload_bytes: u32,
    /// Checksum over it.
    pub(super) payload_crc: u32,
    /// Where the frame stood before it was coalesced; `None` when it stands where it was first written.
    pub(super) origin: Option<Position>,
    /// What stands between head and payload besides the origin: for a block its encoded info.
    pub(super) info: Vec<u8>,
}

impl FrameHead {
    /// Head, origin and info as they are written at `offset`.
    pub(super) fn encode(&self, header: &Header, offset: u64) -> Vec<u8> {
        let extra = self.info.len() + if self.origin.is_some() { ORIGIN_BYTES } else { 0 };
        let mut out = Vec::with_capacity(HEAD_BYTES + extra);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&header.generation.to_le_bytes());
        out.push(self.kind);
        out.push(if self.origin.is_some() { FLAG_ORIGIN } else { 0 });
        out.extend_from_slice(&(extra as u16).to_le_bytes());
        out.extend_from_slice(&self.payload_bytes.to_le_bytes());
        out.extend_from_slice(&self.wall_ns.to_le_bytes());
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        if let Some(origin) = self.origin {
            out.extend_from_slice(&origin.segment.to_le_bytes());
            out.extend_from_slice(&origin.offset.to_le_bytes());
        }
        out.extend_from_slice(&self.info);
        let crc = head_crc(&out, header, offset);
        out[28..32].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The head that stands at `offset`, where `bytes` begin; `None` where no whole one of this generation does.
    pub(super) fn decode(bytes: &[u8], header: &Header, offset: u64) -> Option<Self> {
        if !looks_like_one(bytes, header) {
            return None;
        }
        let mut c = Cursor::new(bytes.get(8..)?);
        let [kind, flags] = c.array()?;
        let extra = usize::from(u16::from_le_bytes(c.array()?));
        let payload_bytes = c.u32()?;
        let wall_ns = c.i64()?;
        let payload_crc = c.u32()?;
        let crc = c.u32()?;
        if extra > MAX_EXTRA_BYTES || crc != head_crc(bytes.get(..HEAD_BYTES + extra)?, header, offset) {
            return None;
        }
        let mut info = bytes.get(HEAD_BYTES..HEAD_BYTES + extra)?;
        let mut origin = None;
        if flags & FLAG_ORIGIN != 0 {
            let (place, rest) = info.split_at_checked(ORIGIN_BYTES)?;
            let mut c = Cursor::new(place);
            origin = Some(Position { segment: c.u64()?, offset: c.u64()? });
            info = rest;
        }
        Some(Self { kind, wall_ns, payload_bytes, payload_crc, origin, info: info.to_vec() })
    }

    /// Bytes before the payload.
    pub(super) fn head_bytes(&self) -> usize {
        HEAD_BYTES + self.info.len() + if self.origin.is_some() { ORIGIN_BYTES } else { 0 }
    }

    /// Bytes of the whole frame, its padding included.
    pub(super) fn frame_bytes(&self) -> u64 {
        align8(self.head_bytes() as u64 + u64::from(self.payload_bytes))
    }

    /// The kind, where this program knows it and it is not the journal's own.
    pub(super) fn known_kind(&self) -> Option<FrameKind> {
        match self.kind {
            BLOCK => Some(FrameKind::Block),
            SIGNED_HEAD => Some(FrameKind::SignedHead),
            RECEIPT => Some(FrameKind::Receipt),
            DECISION => Some(FrameKind::Decision),
            _ => None,
        }
    }

    /// The block's info, for a block.
    pub(super) fn block_info(&self) -> Option<BlockInfo> {
        (self.kind == BLOCK).then(|| decode_info(&self.info))?
    }
}

/// The byte that stands for a kind.
pub(super) fn kind_byte(kind: FrameKind) -> u8 {
    match kind {
        FrameKind::Block => BLOCK,
        FrameKind::SignedHead => SIGNED_HEAD,
        FrameKind::Receipt => RECEIPT,
        FrameKind::Decision => DECISION,
    }
}

/// Whether `bytes` begin with magic and generation: what a scan for frames looks for, and what tells a torn frame
/// from room that was never written.
pub(super) fn looks_like_one(bytes: &[u8], header: &Header) -> bool {
    bytes.get(..8).is_some_and(|b| *b == marker(header))
}

/// Magic and generation: the first eight bytes of each of a segment's frames.
pub(super) fn marker(header: &Header) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&MAGIC);
    out[4..].copy_from_slice(&header.generation.to_le_bytes());
    out
}

/// Over salt, offset, and head with its own checksum's field left out, and everything `extra`.
fn head_crc(head: &[u8], header: &Header, offset: u64) -> u32 {
    let crc = crc32c::crc32c(header.head_salt());
    let crc = crc32c::crc32c_append(crc, &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &head[..28]);
    crc32c::crc32c_append(crc, &head[HEAD_BYTES..])
}

/// Over salt and payload.
pub(super) fn payload_crc(payload: &[u8], header: &Header) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header.payload_salt()), payload)
}

/// A block's info as it stands in its frame.
pub(super) fn encode_info(info: &BlockInfo) -> Vec<u8> {
    let mut out = Vec::with_capacity(86 + info.chain.node.as_str().len());
    out.extend_from_slice(&info.first_seq.to_le_bytes());
    out.extend_from_slice(&info.last_seq.to_le_bytes());
    out.extend_from_slice(&info.first_wall_ns.to_le_bytes());
    out.extend_from_slice(&info.last_wall_ns.to_le_bytes());
    out.extend_from_slice(&info.kinds.0.to_le_bytes());
    out.extend_from_slice(&info.hash.0);
    encode_chain(&info.chain, &mut out);
    out
}

fn decode_info(bytes: &[u8]) -> Option<BlockInfo> {
    let mut c = Cursor::new(bytes);
    let (first_seq, last_seq) = (c.u64()?, c.u64()?);
    let (first_wall_ns, last_wall_ns) = (c.i64()?, c.i64()?);
    let kinds = Kinds(c.u32()?);
    let hash = Hash(c.array()?);
    let chain = decode_chain(&mut c)?;
    Some(BlockInfo { chain, first_seq, last_seq, first_wall_ns, last_wall_ns, kinds, hash })
}

/// Incarnation, stream, and the node's name under its length.
pub(super) fn encode_chain(chain: &ChainId, out: &mut Vec<u8>) {
    out.extend_from_slice(&chain.incarnation.0);
    out.push(chain.stream.index() as u8);
    let node = chain.node.as_str().as_bytes();
    out.push(node.len() as u8); // a NodeName has at most 253 bytes
    out.extend_from_slice(node);
}

/// The inverse of [`encode_chain`].
pub(super) fn decode_chain(c: &mut Cursor<'_>) -> Option<ChainId> {
    let incarnation = Incarnation(c.array()?);
    let [stream, node_bytes] = c.array()?;
    let node = std::str::from_utf8(c.take(usize::from(node_bytes))?).ok()?.parse().ok()?;
    let stream = *Stream::ALL.get(usize::from(stream))?;
    Some(ChainId { node, incarnation, stream })
}

/// Bytes that a chain takes in a HEADS frame.
pub(super) fn heads_entry_bytes(chain: &ChainId) -> usize {
    58 + chain.node.as_str().len()
}

/// The payloads of as many HEADS frames as `heads` need; at least one.
pub(super) fn encode_heads<'a>(heads: impl Iterator<Item = (&'a ChainId, &'a Head)>) -> Vec<Vec<u8>> {
    let mut parts: Vec<(u32, Vec<u8>)> = vec![(0, Vec::new())];
    for (chain, head) in heads {
        if parts.last().is_none_or(|(_, p)| p.len() + heads_entry_bytes(chain) > HEADS_PART_BYTES) {
            parts.push((0, Vec::new()));
        }
        if let Some((count, part)) = parts.last_mut() {
            *count += 1;
            part.extend_from_slice(&head.last_seq.to_le_bytes());
            part.extend_from_slice(&head.hash.0);
            encode_chain(chain, part);
        }
    }
    let total = parts.len() as u32;
    let numbered = parts.into_iter().enumerate().map(|(index, (count, body))| {
        let mut out = Vec::with_capacity(12 + body.len());
        out.extend_from_slice(&(index as u32).to_le_bytes());
        out.extend_from_slice(&total.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&body);
        out
    });
    numbered.collect()
}

/// One HEADS frame's content.
#[derive(Debug)]
pub(super) struct HeadsPart {
    /// Which part this is, from 0.
    pub(super) index: u32,
    /// How many there are.
    pub(super) total: u32,
    /// The chains in it.
    pub(super) heads: Vec<(ChainId, Head)>,
}

/// The inverse of one part of [`encode_heads`].
pub(super) fn decode_heads(payload: &[u8]) -> Option<HeadsPart> {
    let mut c = Cursor::new(payload);
    let (index, total, count) = (c.u32()?, c.u32()?, c.u32()?);
    if count as usize > payload.len() / 58 {
        return None;
    }
    let heads = (0..count).map(|_| {
        let last_seq = c.u64()?;
        let hash = Hash(c.array()?);
        Some((decode_chain(&mut c)?, Head { last_seq, hash }))
    });
    Some(HeadsPart { index, total, heads: heads.collect::<Option<_>>()? })
}

/// Takes little-endian values off the front of a slice; `None` past its end.
#[derive(Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}
