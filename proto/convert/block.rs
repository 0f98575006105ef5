//! Block headers and signed statements. What a header must say to describe a block is [`crate::block`]'s to check;
//! here only each field for itself.

use bytes::Bytes;

use super::{Refused, bounded, counted, from_owned, hash, incarnation, items, node, optional, stream, text};
use crate::block::{Header, MAX_SECTIONS, Predecessor, SectionHeader, Start, VERSION};
use crate::chain::{ChainId, Head, HeadStatement, ReceiptStatement, SignedHead, SignedReceipt};
use crate::record::{Hash, Kinds, Moment};
use crate::wire;

/// Longest signed statement, in bytes: a node name of 253, an incarnation, a hash and four numbers need 400.
const MAX_STATEMENT_BYTES: usize = 1024;

impl From<&Header> for wire::BlockHeader {
    fn from(h: &Header) -> Self {
        Self {
            version: VERSION,
            node: h.node.as_str().to_owned(),
            incarnation: Bytes::copy_from_slice(&h.incarnation.0),
            stream: wire::Stream::from(h.stream).into(),
            first_seq: h.first_seq,
            last_seq: h.last_seq,
            first_wall_ns: h.first_at.wall_ns,
            last_wall_ns: h.last_at.wall_ns,
            first_boot_ns: h.first_at.boot_ns,
            last_boot_ns: h.last_at.boot_ns,
            kinds: h.kinds.0,
            previous: hash_bytes(h.previous),
            sections: h.sections.iter().map(Into::into).collect(),
            start: h.start.as_ref().map(Into::into),
            receipt: h.receipt.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::BlockHeader> for Header {
    type Error = Refused;
    fn try_from(h: wire::BlockHeader) -> Result<Self, Refused> {
        if h.version != VERSION {
            return Err(Refused::new("version", format!("{} is unknown, must be {VERSION}", h.version)));
        }
        counted("sections", h.sections.len(), MAX_SECTIONS)?;
        Ok(Self {
            node: node("node", &h.node)?,
            incarnation: incarnation("incarnation", &h.incarnation)?,
            stream: stream("stream", h.stream)?,
            first_seq: h.first_seq,
            last_seq: h.last_seq,
            first_at: Moment { wall_ns: h.first_wall_ns, boot_ns: h.first_boot_ns },
            last_at: Moment { wall_ns: h.last_wall_ns, boot_ns: h.last_boot_ns },
            kinds: Kinds(h.kinds),
            previous: hash("previous", &h.previous)?,
            sections: items("sections", h.sections, MAX_SECTIONS)?,
            start: optional("start", h.start)?,
            receipt: optional("receipt", h.receipt)?,
        })
    }
}

impl From<&SectionHeader> for wire::SectionHeader {
    fn from(s: &SectionHeader) -> Self {
        Self {
            source: s.source.clone(),
            sha256: hash_bytes(s.sha256),
            stored_bytes: s.stored_bytes,
            raw_bytes: s.raw_bytes,
            records: s.records,
            kinds: s.kinds.0,
        }
    }
}

impl TryFrom<wire::SectionHeader> for SectionHeader {
    type Error = Refused;
    fn try_from(s: wire::SectionHeader) -> Result<Self, Refused> {
        Ok(Self {
            source: text("source", s.source)?,
            sha256: hash("sha256", &s.sha256)?,
            stored_bytes: s.stored_bytes,
            raw_bytes: s.raw_bytes,
            records: s.records,
            kinds: Kinds(s.kinds),
        })
    }
}

impl From<&Start> for wire::Start {
    fn from(s: &Start) -> Self {
        let p = s.predecessor;
        Self {
            counter: s.counter,
            boot_id: Bytes::copy_from_slice(&s.boot_id),
            predecessor: p.map(|p| Bytes::copy_from_slice(&p.incarnation.0)).unwrap_or_default(),
            predecessor_head: p
                .filter(|p| p.head != Hash::ZERO)
                .map(|p| hash_bytes(p.head))
                .unwrap_or_default(),
            predecessor_last_seq: p.map_or(0, |p| p.last_seq),
            agent_version: s.agent_version.clone(),
        }
    }
}

impl TryFrom<wire::Start> for Start {
    type Error = Refused;
    fn try_from(s: wire::Start) -> Result<Self, Refused> {
        if s.counter == 0 {
            return Err(Refused::new("counter", "must be 1 or more"));
        }
        let boot_id = s.boot_id[..].try_into().map_err(|_| Refused::new("boot_id", "must be 16 bytes"))?;
        let head = match &s.predecessor_head[..] {
            [] => Hash::ZERO,
            bytes => hash("predecessor_head", bytes)?,
        };
        if (head == Hash::ZERO) != (s.predecessor_last_seq == 0) {
            return Err(Refused::new(
                "predecessor_last_seq",
                "must be 0 where, and only where, no head is given",
            ));
        }
        let predecessor = match &s.predecessor[..] {
            [] if s.predecessor_last_seq == 0 => None,
            [] => return Err(Refused::missing("predecessor")),
            id => Some(Predecessor {
                incarnation: incarnation("predecessor", id)?,
                last_seq: s.predecessor_last_seq,
                head,
            }),
        };
        Ok(Self {
            counter: s.counter,
            boot_id,
            predecessor,
            agent_version: text("agent_version", s.agent_version)?,
        })
    }
}

impl From<&HeadStatement> for wire::HeadStatement {
    fn from(s: &HeadStatement) -> Self {
        Self {
            node: s.chain.node.as_str().to_owned(),
            incarnation: Bytes::copy_from_slice(&s.chain.incarnation.0),
            stream: wire::Stream::from(s.chain.stream).into(),
            last_seq: s.head.last_seq,
            hash: hash_bytes(s.head.hash),
            wall_ns: s.wall_ns,
            blocks: s.blocks,
        }
    }
}

impl TryFrom<wire::HeadStatement> for HeadStatement {
    type Error = Refused;
    fn try_from(s: wire::HeadStatement) -> Result<Self, Refused> {
        Ok(Self {
            chain: chain(&s.node, &s.incarnation, s.stream)?,
            head: head(s.last_seq, &s.hash)?,
            wall_ns: s.wall_ns,
            blocks: s.blocks,
        })
    }
}

impl From<&ReceiptStatement> for wire::ReceiptStatement {
    fn from(s: &ReceiptStatement) -> Self {
        Self {
            node: s.chain.node.as_str().to_owned(),
            incarnation: Bytes::copy_from_slice(&s.chain.incarnation.0),
            stream: wire::Stream::from(s.chain.stream).into(),
            last_seq: s.head.last_seq,
            hash: hash_bytes(s.head.hash),
            received_wall_ns: s.received_wall_ns,
        }
    }
}

impl TryFrom<wire::ReceiptStatement> for ReceiptStatement {
    type Error = Refused;
    fn try_from(s: wire::ReceiptStatement) -> Result<Self, Refused> {
        Ok(Self {
            chain: chain(&s.node, &s.incarnation, s.stream)?,
            head: head(s.last_seq, &s.hash)?,
            received_wall_ns: s.received_wall_ns,
        })
    }
}

impl From<&SignedHead> for wire::SignedHead {
    fn from(s: &SignedHead) -> Self {
        Self {
            statement: Bytes::copy_from_slice(&s.statement),
            signature: Bytes::copy_from_slice(&s.signature),
        }
    }
}

impl TryFrom<wire::SignedHead> for SignedHead {
    type Error = Refused;
    fn try_from(s: wire::SignedHead) -> Result<Self, Refused> {
        bounded("statement", s.statement.len(), MAX_STATEMENT_BYTES)?;
        Ok(Self { signature: signature(&s.signature)?, statement: s.statement.into() })
    }
}

impl From<&SignedReceipt> for wire::SignedReceipt {
    fn from(s: &SignedReceipt) -> Self {
        Self {
            statement: Bytes::copy_from_slice(&s.statement),
            signature: Bytes::copy_from_slice(&s.signature),
        }
    }
}

impl TryFrom<wire::SignedReceipt> for SignedReceipt {
    type Error = Refused;
    fn try_from(s: wire::SignedReceipt) -> Result<Self, Refused> {
        bounded("statement", s.statement.len(), MAX_STATEMENT_BYTES)?;
        Ok(Self { signature: signature(&s.signature)?, statement: s.statement.into() })
    }
}

fn chain(node_name: &str, run: &[u8], stream_number: i32) -> Result<ChainId, Refused> {
    Ok(ChainId {
        node: node("node", node_name)?,
        incarnation: incarnation("incarnation", run)?,
        stream: stream("stream", stream_number)?,
    })
}

fn head(last_seq: u64, bytes: &[u8]) -> Result<Head, Refused> {
    let hash = hash("hash", bytes)?;
    if (hash == Hash::ZERO) != (last_seq == 0) {
        return Err(Refused::new("last_seq", "must be 0 where, and only where, the hash is zero"));
    }
    Ok(Head { last_seq, hash })
}

fn signature(bytes: &[u8]) -> Result<[u8; 64], Refused> {
    bytes.try_into().map_err(|_| Refused::new("signature", "must be 64 bytes"))
}

fn hash_bytes(hash: Hash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}

from_owned! {
    Header => wire::BlockHeader,
    SectionHeader => wire::SectionHeader,
    Start => wire::Start,
    HeadStatement => wire::HeadStatement,
    ReceiptStatement => wire::ReceiptStatement,
    SignedHead => wire::SignedHead,
    SignedReceipt => wire::SignedReceipt,
}
