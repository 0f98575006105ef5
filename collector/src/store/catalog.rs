//! The catalog: what segment footers say, in memory, so that a question reads only blocks that can answer it.
//!
//! Invariants: it knows blocks that are durable and none twice; a block's place is where the journal has it. It is
//! bounded: beyond [`MAX_BLOCKS`] the oldest segments keep only their summary, and a question that touches them reads
//! their frames instead (slower, same answer).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use dogwatch::chain::ChainId;
use dogwatch::journal::{BlockInfo, Position};
use dogwatch::record::{Incarnation, Kinds, NodeName, Seq, Stream};

/// Most blocks held in detail, about 100 bytes each.
pub const MAX_BLOCKS: usize = 2_000_000;

/// Whom and what a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Earliest wall time, ns, inclusive.
    pub since_wall_ns: i64,
    /// Latest wall time, ns, exclusive.
    pub until_wall_ns: i64,
    /// Only these nodes; empty: any.
    pub nodes: Vec<NodeName>,
    /// Only blocks that share a kind with these.
    pub kinds: Kinds,
}

impl Wanted {
    /// Whether a block may hold an answer.
    pub fn matches(&self, info: &BlockInfo) -> bool {
        self.in_range(info.first_wall_ns, info.last_wall_ns, info.kinds)
            && (self.nodes.is_empty() || self.nodes.contains(&info.chain.node))
    }

    fn in_range(&self, first_wall_ns: i64, last_wall_ns: i64, kinds: Kinds) -> bool {
        first_wall_ns < self.until_wall_ns
            && last_wall_ns >= self.since_wall_ns
            && kinds.intersects(self.kinds)
    }
}

/// A block that may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is.
    pub at: Position,
    /// Whose.
    pub chain: Arc<ChainId>,
    /// Its first seq.
    pub first_seq: Seq,
    /// Earliest record.
    pub first_wall_ns: i64,
    /// Latest record.
    pub last_wall_ns: i64,
}

/// What a question comes to: blocks, and segments that are no longer held in detail and must be read.
#[derive(Debug, Default)]
pub struct Found {
    /// Blocks that may answer.
    pub blocks: Vec<Candidate>,
    /// Segments to read through.
    pub segments: Vec<u64>,
}

/// Where one block is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sought {
    /// There.
    At(Position),
    /// Perhaps in one of the segments up to this one, which are not held in detail.
    Perhaps,
    /// Nowhere; the oldest seq of its chain that is still held, if any.
    Gone {
        /// First seq of the chain's oldest block here.
        oldest_seq: Option<Seq>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: u64,
    last_seq: Seq,
    first_wall_ns: i64,
    last_wall_ns: i64,
    kinds: Kinds,
}

#[derive(Debug, Default)]
struct Segment {
    first_wall_ns: i64,
    last_wall_ns: i64,
    kinds: Kinds,
    /// `None` once it is held in summary only.
    blocks: Option<BTreeMap<(u32, Seq), Slot>>,
}

/// Of one journal.
#[derive(Debug)]
pub struct Catalog {
    stream: Stream,
    nodes: HashMap<NodeName, Vec<u32>>,
    chains: Vec<Chain>,
    by_incarnation: HashMap<(NodeName, Incarnation), u32>,
    segments: BTreeMap<u64, Segment>,
    blocks: usize,
    max_blocks: usize,
}

#[derive(Debug)]
struct Chain {
    id: Arc<ChainId>,
    last_seq: Seq,
}

impl Catalog {
    /// Empty, of the journal of `stream`.
    pub fn new(stream: Stream, max_blocks: usize) -> Self {
        Self {
            stream,
            nodes: HashMap::new(),
            chains: Vec::new(),
            by_incarnation: HashMap::new(),
            segments: BTreeMap::new(),
            blocks: 0,
            max_blocks: max_blocks.max(1),
        }
    }

    /// Takes note of a durable block; one that is already known is passed over.
    pub fn add(&mut self, at: Position, info: &BlockInfo) {
        let chain = self.chain_number(&info.chain);
        let Some(known) = self.chains.get_mut(chain as usize) else { return };
        if info.first_seq <= known.last_seq {
            return;
        }
        known.last_seq = info.last_seq;
        let fresh = !self.segments.contains_key(&at.segment);
        let segment = self.segments.entry(at.segment).or_insert_with(|| Segment {
            first_wall_ns: i64::MAX,
            last_wall_ns: i64::MIN,
            kinds: Kinds::default(),
            blocks: Some(BTreeMap::new()),
        });
        segment.first_wall_ns = segment.first_wall_ns.min(info.first_wall_ns);
        segment.last_wall_ns = segment.last_wall_ns.max(info.last_wall_ns);
        segment.kinds = Kinds(segment.kinds.0 | info.kinds.0);
        if let Some(blocks) = &mut segment.blocks {
            let slot = Slot {
                offset: at.offset,
                last_seq: info.last_seq,
                first_wall_ns: info.first_wall_ns,
                last_wall_ns: info.last_wall_ns,
                kinds: info.kinds,
            };
            if blocks.insert((chain, info.first_seq), slot).is_none() {
                self.blocks += 1;
            }
        }
        if fresh || self.blocks > self.max_blocks {
            self.shed();
        }
    }

    /// Forgets segments before `segment`.
    pub fn drop_before(&mut self, segment: u64) {
        let kept = self.segments.split_off(&segment);
        for gone in std::mem::replace(&mut self.segments, kept).into_values() {
            self.blocks -= gone.blocks.map_or(0, |b| b.len());
        }
    }

    /// Whether it has noted a block of `node`, which may have expired since.
    pub fn knows(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    /// Blocks held in detail.
    pub fn len(&self) -> usize {
        self.blocks
    }

    /// Whether no block is held in detail.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// What may answer `wanted`.
    pub fn find(&self, wanted: &Wanted) -> Found {
        let mut found = Found::default();
        let chains: Option<Vec<u32>> = (!wanted.nodes.is_empty())
            .then(|| wanted.nodes.iter().filter_map(|n| self.nodes.get(n)).flatten().copied().collect());
        for (number, segment) in &self.segments {
            if !wanted.in_range(segment.first_wall_ns, segment.last_wall_ns, segment.kinds) {
                continue;
            }
            let Some(blocks) = &segment.blocks else {
                found.segments.push(*number);
                continue;
            };
            let mut take = |(chain, first_seq): &(u32, Seq), slot: &Slot| {
                if wanted.in_range(slot.first_wall_ns, slot.last_wall_ns, slot.kinds)
                    && let Some(chain) = self.chains.get(*chain as usize)
                {
                    found.blocks.push(Candidate {
                        at: Position { segment: *number, offset: slot.offset },
                        chain: Arc::clone(&chain.id),
                        first_seq: *first_seq,
                        first_wall_ns: slot.first_wall_ns,
                        last_wall_ns: slot.last_wall_ns,
                    });
                }
            };
            match &chains {
                None => blocks.iter().for_each(|(k, s)| take(k, s)),
                Some(chains) => {
                    for chain in chains {
                        blocks.range((*chain, 0)..=(*chain, Seq::MAX)).for_each(|(k, s)| take(k, s));
                    }
                }
            }
        }
        found
    }

    /// Whether one of `segments` has, or may have, a block of one of `nodes` with a record between the two times.
    pub fn has_any(
        &self,
        segments: RangeInclusive<u64>,
        nodes: &BTreeSet<NodeName>,
        from_wall_ns: i64,
        to_wall_ns: i64,
    ) -> bool {
        let chains: Vec<u32> = nodes.iter().filter_map(|n| self.nodes.get(n)).flatten().copied().collect();
        let meets = |first: i64, last: i64| first <= to_wall_ns && last >= from_wall_ns;
        self.segments.range(segments).any(|(_, segment)| {
            meets(segment.first_wall_ns, segment.last_wall_ns)
                && segment.blocks.as_ref().is_none_or(|blocks| {
                    chains.iter().any(|chain| {
                        let mut own = blocks.range((*chain, 0)..=(*chain, Seq::MAX));
                        own.any(|(_, slot)| meets(slot.first_wall_ns, slot.last_wall_ns))
                    })
                })
        })
    }

    /// Where the block that holds `seq` of a chain is.
    pub fn seek(&self, node: &NodeName, incarnation: Incarnation, seq: Seq) -> Sought {
        let mut oldest_seq = None;
        let Some(chain) = self.by_incarnation.get(&(node.clone(), incarnation)).copied() else {
            return self.in_summary_or(Sought::Gone { oldest_seq });
        };
        for (number, segment) in self.segments.iter() {
            let Some(blocks) = &segment.blocks else { continue };
            if let Some((_, slot)) =
                blocks.range((chain, 0)..=(chain, seq)).next_back().filter(|(_, s)| s.last_seq >= seq)
            {
                return Sought::At(Position { segment: *number, offset: slot.offset });
            }
            if oldest_seq.is_none() {
                oldest_seq = blocks.range((chain, 0)..=(chain, Seq::MAX)).next().map(|((_, s), _)| *s);
            }
        }
        self.in_summary_or(Sought::Gone { oldest_seq })
    }

    /// Segments that are held in summary only, oldest first.
    pub fn summarised(&self) -> Vec<u64> {
        self.segments.iter().filter(|(_, s)| s.blocks.is_none()).map(|(n, _)| *n).collect()
    }

    fn in_summary_or(&self, otherwise: Sought) -> Sought {
        if self.segments.values().any(|s| s.blocks.is_none()) { Sought::Perhaps } else { otherwise }
    }

    fn chain_number(&mut self, id: &ChainId) -> u32 {
        let key = (id.node.clone(), id.incarnation);
        if let Some(n) = self.by_incarnation.get(&key) {
            return *n;
        }
        let n = u32::try_from(self.chains.len()).unwrap_or(u32::MAX);
        self.chains.push(Chain { id: Arc::new(ChainId { stream: self.stream, ..id.clone() }), last_seq: 0 });
        self.nodes.entry(id.node.clone()).or_default().push(n);
        self.by_incarnation.insert(key, n);
        n
    }

    /// Keeps the details of the newest segments only, as far as the bound allows; the newest always.
    fn shed(&mut self) {
        let Some(newest) = self.segments.keys().next_back().copied() else { return };
        for (number, segment) in &mut self.segments {
            if self.blocks <= self.max_blocks || *number == newest {
                return;
            }
            self.blocks -= segment.blocks.take().map_or(0, |b| b.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{Hash, Kind};

    use super::*;

    fn info(node: &str, first: Seq, wall: i64) -> BlockInfo {
        BlockInfo {
            chain: ChainId {
                node: node.parse().unwrap(),
                incarnation: Incarnation([1; 16]),
                stream: Stream::Evidence,
            },
            first_seq: first,
            last_seq: first + 9,
            first_wall_ns: wall,
            last_wall_ns: wall + 10,
            kinds: Kinds::default().with(Kind::Log),
            hash: Hash([7; 32]),
        }
    }

    fn filled(max: usize) -> Catalog {
        let mut c = Catalog::new(Stream::Evidence, max);
        for i in 0..100u64 {
            let node = if i % 2 == 0 { "even" } else { "odd" };
            c.add(Position { segment: i / 10, offset: i }, &info(node, 1 + i / 2 * 10, i as i64 * 10));
        }
        c
    }

    fn wanted(since: i64, until: i64, node: Option<&str>) -> Wanted {
        Wanted {
            since_wall_ns: since,
            until_wall_ns: until,
            nodes: node.iter().map(|n| n.parse().unwrap()).collect(),
            kinds: Kinds(u32::MAX),
        }
    }

    #[test]
    fn only_blocks_in_range_and_of_the_node_are_named() {
        let c = filled(1000);
        assert_eq!(c.find(&wanted(0, 10_000, None)).blocks.len(), 100);
        assert_eq!(c.find(&wanted(0, 10_000, Some("odd"))).blocks.len(), 50);
        assert_eq!(c.find(&wanted(500, 501, Some("even"))).blocks.len(), 1);
        assert_eq!(c.find(&wanted(0, 10_000, Some("nobody"))).blocks.len(), 0);
        let none = Wanted { kinds: Kinds::default().with(Kind::Action), ..wanted(0, 10_000, None) };
        assert_eq!(c.find(&none).blocks.len(), 0);
    }

    #[test]
    fn a_block_is_found_by_any_seq_within_and_noted_once() {
        let mut c = filled(1000);
        let node: NodeName = "even".parse().unwrap();
        let at = c.seek(&node, Incarnation([1; 16]), 25);
        assert_eq!(at, Sought::At(Position { segment: 0, offset: 4 }));
        c.add(Position { segment: 99, offset: 9 }, &info("even", 21, 0));
        assert_eq!(c.len(), 100);
        assert_eq!(c.seek(&node, Incarnation([1; 16]), 25), at);
        c.drop_before(5);
        assert_eq!(c.seek(&node, Incarnation([1; 16]), 25), Sought::Gone { oldest_seq: Some(251) });
        assert_eq!(c.len(), 50);
    }

    #[test]
    fn beyond_the_bound_old_segments_are_read_instead() {
        let c = filled(30);
        assert!(c.len() <= 30);
        let found = c.find(&wanted(0, 10_000, None));
        assert_eq!(found.blocks.len() + found.segments.len() * 10, 100);
        assert_eq!(c.seek(&"even".parse().unwrap(), Incarnation([1; 16]), 25), Sought::Perhaps);
    }
}
