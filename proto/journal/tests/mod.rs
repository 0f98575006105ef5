//! Scenarios on real files. Power cuts and full disks need mounts and so stand in the end-to-end package.

mod damage;
mod golden;
mod random;
mod ring;
mod together;

use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::record::{Incarnation, Kind, Stream};

/// The smallest segments: eight pages of header and room, quickly full.
pub(super) const SMALL: Options =
    Options { segment_bytes: 64 * 1024, max_segments: 4, preallocate_segments: 2 };

pub(super) fn chain(n: u8) -> ChainId {
    let stream = Stream::ALL[usize::from(n) % 3];
    ChainId { node: format!("node-{n}").parse().unwrap(), incarnation: Incarnation([n; 16]), stream }
}

/// A block's info of `chain(n)`; its hash is told by chain and seq.
pub(super) fn info(n: u8, seq: u64) -> BlockInfo {
    let mut hash = [n; 32];
    hash[..8].copy_from_slice(&seq.to_le_bytes());
    BlockInfo {
        chain: chain(n),
        first_seq: seq,
        last_seq: seq,
        first_wall_ns: 1_000 * seq as i64,
        last_wall_ns: 1_000 * seq as i64 + 999,
        kinds: Kinds::default().with(Kind::Log),
        hash: Hash(hash),
    }
}

/// `length` bytes that tell chain and seq, so that a payload in the wrong place is noticed.
pub(super) fn payload(n: u8, seq: u64, length: usize) -> Vec<u8> {
    let mut state = u64::from(n) << 56 ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// A frame as it was appended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Appended {
    pub(super) at: Position,
    pub(super) kind: FrameKind,
    pub(super) payload: Bytes,
    pub(super) info: Option<BlockInfo>,
}

pub(super) fn append_block(journal: &mut Journal, n: u8, seq: u64, length: usize) -> Appended {
    let (info, payload) = (info(n, seq), payload(n, seq, length));
    let at = journal.append_block(&info, &payload, seq as i64).unwrap();
    Appended { at, kind: FrameKind::Block, payload: payload.into(), info: Some(info) }
}

/// Everything that a scan of the folder returns, and what it calls damaged.
pub(super) fn read(dir: &Path) -> (Vec<Entry>, Vec<(Position, u64)>) {
    let mut scan = Reader::open(dir).unwrap().scan(Position::default());
    let entries = scan.by_ref().collect::<Result<Vec<_>, _>>().unwrap();
    (entries, scan.damaged().to_vec())
}

#[track_caller]
pub(super) fn assert_same(entries: &[Entry], appended: &[Appended]) {
    let seen: Vec<_> = entries.iter().map(|e| (e.at, e.kind, e.payload.len())).collect();
    let expected: Vec<_> = appended.iter().map(|a| (a.at, a.kind, a.payload.len())).collect();
    assert_eq!(seen, expected);
    assert!(entries.iter().zip(appended).all(|(e, a)| e.payload == a.payload), "a payload differs");
}
