//! The store, and the hands that change it.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::block::{Block, Place, Predecessor, Start};
use crate::chain::verify::{ChainVerifier, Keys, ProblemKind, Report, Rules, TrustedKey};
use crate::chain::{ChainId, Head, HeadStatement, ReceiptStatement, SignedHead, SignedReceipt};
use crate::record::{Body, Gap, Hash, Incarnation, LogLine, Moment, NodeName, Record, Seq, Stream};
use crate::wire;

pub(super) const SECOND: u64 = 1_000_000_000;
/// Blocks in each chain of [`store`].
pub(super) const BLOCKS: usize = 5;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    Block(Bytes),
    Head(Bytes),
    Receipt(Bytes),
}

pub(super) fn node(n: u8) -> NodeName {
    format!("node-{n}").parse().unwrap()
}

pub(super) fn node_key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(super) fn collector_key() -> SigningKey {
    SigningKey::from_bytes(&[99; 32])
}

/// Chain of node `n`, run `run` (1 or 2).
pub(super) fn chain(n: u8, run: u8, stream: Stream) -> ChainId {
    ChainId { node: node(n), incarnation: Incarnation([n * 16 + run; 16]), stream }
}

/// A chain as its node writes it.
pub(super) struct Writer {
    pub(super) id: ChainId,
    pub(super) head: Head,
    pub(super) next_seq: Seq,
    pub(super) blocks: u64,
    pub(super) start: Option<Start>,
    pub(super) receipt: Option<SignedReceipt>,
    key: SigningKey,
}

impl Writer {
    pub(super) fn new(n: u8, run: u8, stream: Stream, predecessor: Option<Head>) -> Self {
        let before = |h: Head| Predecessor {
            incarnation: Incarnation([n * 16 + run - 1; 16]),
            last_seq: h.last_seq,
            head: h.hash,
        };
        Self {
            id: chain(n, run, stream),
            head: Head::default(),
            next_seq: 1,
            blocks: 0,
            start: Some(Start {
                counter: u64::from(run),
                boot_id: [run; 16],
                predecessor: predecessor.map(before),
                agent_version: "0.1.0".to_owned(),
            }),
            receipt: None,
            key: node_key(n),
        }
    }

    pub(super) fn block(&mut self, bodies: Vec<Body>) -> Frame {
        let first = self.next_seq;
        let number = |(i, body)| {
            let seq = first + i as u64;
            let ns = seq.wrapping_mul(SECOND);
            Record { seq, at: Moment { wall_ns: ns as i64, boot_ns: ns }, body }
        };
        let records: Vec<Record> = bodies.into_iter().enumerate().map(number).collect();
        let place = Place {
            node: self.id.node.clone(),
            incarnation: self.id.incarnation,
            stream: self.id.stream,
            previous: self.head.hash,
            start: self.start.take(),
            receipt: self.receipt.take(),
        };
        let salt = Sha256::digest(format!("{} {first}", self.id));
        let block = Block::seal(place, &records, &mut || salt[..16].try_into().unwrap()).unwrap();
        self.next_seq += records.len() as u64;
        self.head = Head { last_seq: self.next_seq - 1, hash: block.hash() };
        self.blocks += 1;
        Frame::Block(block.encode().into())
    }

    /// Three lines of two logs.
    pub(super) fn lines(&mut self) -> Frame {
        let line = |i: u64| {
            Body::Log(LogLine {
                source: format!("/var/log/{}", i % 2),
                offset: i,
                inode: i,
                line: format!("line {i} of {}", self.id).into_bytes(),
                truncated: false,
                rules: vec![],
                ..LogLine::default()
            })
        };
        let bodies = (self.next_seq..self.next_seq + 3).map(line).collect();
        self.block(bodies)
    }

    pub(super) fn sign(&self) -> Frame {
        self.sign_at((self.next_seq * SECOND) as i64)
    }

    pub(super) fn sign_at(&self, wall_ns: i64) -> Frame {
        let (chain, head, blocks) = (self.id.clone(), self.head, self.blocks);
        let statement = HeadStatement { chain, head, wall_ns, blocks };
        Frame::Head(SignedHead::sign(&statement, &self.key).encode().into())
    }

    pub(super) fn acknowledged(&mut self) -> SignedReceipt {
        let statement = ReceiptStatement { chain: self.id.clone(), head: self.head, received_wall_ns: 1 };
        let receipt = SignedReceipt::sign(&statement, &collector_key());
        self.receipt = Some(receipt.clone());
        receipt
    }
}

/// What the node says when it lost `first` to `last` of `stream`.
pub(super) fn gap(stream: Stream, first: Seq, last: Seq, incarnation: Option<Incarnation>) -> Body {
    Body::Gap(Gap {
        stream,
        source: "journal".to_owned(),
        after_seq: Some(first - 1),
        before_seq: Some(last + 1),
        count: Some(last - first + 1),
        from_wall_ns: 0,
        to_wall_ns: 1,
        reason: "evicted before it was acknowledged".to_owned(),
        incarnation,
    })
}

/// Three nodes, three streams, two incarnations; chains interleaved; a head after the 2nd, 4th and last block; a
/// receipt in the 4th; in `evidence`, 4 seqs lost before sealing between the 2nd and the 3rd block.
pub(super) fn store() -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut ends: Vec<Option<Head>> = vec![None; 9];
    for run in 1..=2 {
        let ids = (1..=3).flat_map(|n| Stream::ALL.map(|s| (n, s)));
        let mut writers: Vec<Writer> =
            ids.zip(&ends).map(|((n, stream), end)| Writer::new(n, run, stream, *end)).collect();
        for i in 1..=BLOCKS {
            for w in &mut writers {
                if i == 3 && w.id.stream == Stream::Evidence {
                    w.next_seq += 4;
                }
                frames.push(w.lines());
                if i % 2 == 0 || i == BLOCKS {
                    frames.push(w.sign());
                }
                if i == 3 {
                    frames.push(Frame::Receipt(w.acknowledged().encode().into()));
                }
            }
        }
        ends = writers.iter().map(|w| Some(w.head)).collect();
    }
    frames
}

pub(super) fn keys() -> Keys {
    let mut keys = Keys::default();
    for n in 1..=3 {
        keys.trust_node(node(n), TrustedKey::always(node_key(n).verifying_key()));
    }
    keys.trust_collector(collector_key().verifying_key());
    keys
}

pub(super) fn feed(verifier: &mut ChainVerifier, frames: &[Frame]) {
    for frame in frames {
        match frame {
            Frame::Block(bytes) => verifier.encoded_block(bytes.clone()),
            Frame::Head(bytes) => verifier.encoded_head(bytes),
            Frame::Receipt(bytes) => verifier.encoded_receipt(bytes),
        }
    }
}

pub(super) fn verify_with(frames: &[Frame], rules: Rules, keys: Keys) -> Report {
    let mut verifier = ChainVerifier::new(rules, keys);
    feed(&mut verifier, frames);
    verifier.finish()
}

pub(super) fn verify(frames: &[Frame]) -> Report {
    verify_with(frames, Rules { withheld: false, ..Rules::default() }, keys())
}

pub(super) type Found = (ProblemKind, Option<ChainId>, Option<(Seq, Seq)>);

/// Kind, chain and seqs of every problem.
pub(super) fn found(report: &Report) -> Vec<Found> {
    report.problems.iter().map(|p| (p.kind, p.chain.clone(), p.seqs)).collect()
}

#[track_caller]
pub(super) fn assert_finds(frames: &[Frame], kind: ProblemKind, chain: &ChainId, seqs: (Seq, Seq)) -> Report {
    let report = verify(frames);
    assert_eq!(found(&report), [(kind, Some(chain.clone()), Some(seqs))], "{:#?}", report.problems);
    report
}

/// Where the blocks of `chain` are, in order.
pub(super) fn blocks_of(frames: &[Frame], chain: &ChainId) -> Vec<usize> {
    let is_its = |(i, frame): (usize, &Frame)| {
        let Frame::Block(bytes) = frame else { return None };
        let block = Block::decode(bytes.clone()).ok()?;
        let h = block.header();
        (h.node == chain.node && h.incarnation == chain.incarnation && h.stream == chain.stream).then_some(i)
    };
    frames.iter().enumerate().filter_map(is_its).collect()
}

/// Where the heads of `chain` are, in order.
pub(super) fn heads_of(frames: &[Frame], chain: &ChainId) -> Vec<usize> {
    let is_its = |(i, frame): (usize, &Frame)| {
        let Frame::Head(bytes) = frame else { return None };
        let statement = SignedHead::from_bytes(bytes).ok()?.decode().ok()?;
        (statement.chain == *chain).then_some(i)
    };
    frames.iter().enumerate().filter_map(is_its).collect()
}

/// Changes a block's header and sections, its hash following.
pub(super) fn edit(frame: &mut Frame, change: impl FnOnce(&mut wire::BlockHeader, &mut Vec<Bytes>)) {
    let Frame::Block(bytes) = frame else { panic!("not a block") };
    let mut block = wire::Block::decode(bytes.clone()).unwrap();
    let mut header = wire::BlockHeader::decode(block.header).unwrap();
    change(&mut header, &mut block.sections);
    block.header = header.encode_to_vec().into();
    *bytes = block.encode_to_vec().into();
}

/// Writes other lines into a block, with section, header and hashes made anew.
pub(super) fn rewrite(frame: &mut Frame) {
    edit(frame, |header, sections| {
        let raw = zstd::bulk::decompress(&sections[0][16..], 1 << 20).unwrap();
        let mut records = wire::Records::decode(&raw[..]).unwrap();
        let Some(wire::record::Body::Log(log)) = &mut records.records[0].body else { panic!("not a line") };
        log.line = Bytes::from_static(b"nothing to see here");
        let raw = records.encode_to_vec();
        let mut section = sections[0][..16].to_vec();
        section.extend(zstd::bulk::compress(&raw, 3).unwrap());
        let s = &mut header.sections[0];
        s.raw_bytes = raw.len() as u32;
        s.stored_bytes = section.len() as u32;
        s.sha256 = Bytes::copy_from_slice(&Sha256::digest(&section));
        sections[0] = section.into();
    });
}

pub(super) fn hash_of(frame: &Frame) -> Hash {
    let Frame::Block(bytes) = frame else { panic!("not a block") };
    Block::decode(bytes.clone()).unwrap().hash()
}

/// Links the blocks of `chain` anew, as they stand.
pub(super) fn rechain(frames: &mut [Frame], chain: &ChainId) {
    let mut previous = Hash::ZERO;
    for i in blocks_of(frames, chain) {
        edit(&mut frames[i], |header, _| header.previous = Bytes::copy_from_slice(&previous.0));
        previous = hash_of(&frames[i]);
    }
}
