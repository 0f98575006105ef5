//! Blocks to send: chains of log records that do not compress, sealed before anything is measured.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use dogwatch::block::{Block, Place, Start};
use dogwatch::record::{Body, Incarnation, LogLine, Moment, NodeName, Record, Stream};
use dogwatch::{clock, wire};

/// Length of a line in bytes: a log's usual one.
const LINE_BYTES: usize = 180;
/// What a line costs in a block besides its text, about.
const RECORD_BYTES: usize = 40;

/// One chain of the evidence stream.
pub(crate) struct Chain {
    /// Which run.
    pub(crate) incarnation: Incarnation,
    /// In order.
    pub(crate) blocks: Vec<wire::Block>,
    /// Last seq of the last.
    pub(crate) last_seq: u64,
    /// Stored bytes of all, headers included.
    pub(crate) bytes: u64,
}

/// Bytes without order, quickly: xorshift64*.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new() -> Result<Self> {
        let seed = getrandom::u64().ok().context("randomness")?;
        Ok(Self(seed | 1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A chain of `node` of about `total_bytes`, in blocks of about `block_bytes`.
pub(crate) fn chain(node: &NodeName, block_bytes: usize, total_bytes: u64) -> Result<Chain> {
    let mut noise = Noise::new()?;
    let mut incarnation = [0; 16];
    noise.fill(&mut incarnation);
    let incarnation = Incarnation(incarnation);
    let records = (block_bytes / (LINE_BYTES + RECORD_BYTES)).max(1);
    let mut place = Place {
        node: node.clone(),
        incarnation,
        stream: Stream::Evidence,
        previous: Default::default(),
        start: Some(Start {
            counter: 1,
            boot_id: [7; 16],
            predecessor: None,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        receipt: None,
    };
    let (mut blocks, mut seq, mut bytes) = (Vec::new(), 0, 0);
    while bytes < total_bytes {
        let now = clock::now();
        let run: Vec<Record> = (0..records).map(|i| record(seq + 1 + i as u64, now, &mut noise)).collect();
        seq += records as u64;
        let mut salt = || {
            let mut salt = [0; dogwatch::block::SALT_BYTES];
            noise.fill(&mut salt);
            salt
        };
        let block = Block::seal(place.clone(), &run, &mut salt)?;
        place.previous = block.hash();
        place.start = None;
        // One allocation each, as a message that came from a socket or a journal would be.
        let message = block.to_wire();
        bytes += size(&message);
        blocks.push(message);
    }
    ensure!(seq > 0, "no blocks");
    Ok(Chain { incarnation, blocks, last_seq: seq, bytes })
}

/// Bytes of a block: header and sections.
pub(crate) fn size(block: &wire::Block) -> u64 {
    (block.header.len() + block.sections.iter().map(Bytes::len).sum::<usize>()) as u64
}

fn record(seq: u64, at: Moment, noise: &mut Noise) -> Record {
    let mut line = vec![0; LINE_BYTES];
    noise.fill(&mut line);
    let line = LogLine {
        source: "/var/log/bench.log".to_owned(),
        offset: seq * LINE_BYTES as u64,
        inode: 42,
        line,
        truncated: false,
        rules: Vec::new(),
        ..LogLine::default()
    };
    Record { seq, at, body: Body::Log(line) }
}
