//! The newest head of every chain, within a bound.
//!
//! Chains are never told to end: an agent that restarts begins new ones. So when the heads outgrow what a segment can
//! spare for them, the chains that were silent longest are forgotten, and counted.

use std::collections::HashMap;

use super::frame::{self, HEAD_BYTES, HEADS_PART_BYTES};
use super::segment::TRAILER_BYTES;
use crate::chain::{ChainId, Head};

/// Share of a segment that HEADS frames may take.
const SEGMENT_SHARE: u64 = 8;
/// Share of the chains that goes when the bound bites, so that it does not bite at every block.
const EVICTED_SHARE: usize = 8;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Heads {
    chains: HashMap<ChainId, (Head, u64)>,
    bytes: usize,
    limit_bytes: usize,
    tick: u64,
    dropped: u64,
}

impl Heads {
    /// For segments of that size.
    pub(super) fn new(segment_bytes: u64) -> Self {
        let limit_bytes = (segment_bytes / SEGMENT_SHARE) as usize;
        Self { chains: HashMap::new(), bytes: 0, limit_bytes, tick: 0, dropped: 0 }
    }

    /// Most bytes that HEADS frames take in a segment of that size, heads of frames and padding included.
    pub(super) fn most_bytes(segment_bytes: u64) -> u64 {
        let entries = segment_bytes / SEGMENT_SHARE;
        // A part is cut when the next entry does not fit, at most a longest entry before its end.
        let parts = entries / (HEADS_PART_BYTES as u64 - 512) + 1;
        entries + parts * (HEAD_BYTES as u64 + 12 + 8) + TRAILER_BYTES
    }

    /// Takes `head` as the chain's newest unless a later one is known.
    pub(super) fn advance(&mut self, chain: &ChainId, head: Head) {
        self.tick += 1;
        let tick = self.tick;
        match self.chains.get_mut(chain) {
            Some((known, at)) => {
                if head.last_seq >= known.last_seq {
                    *known = head;
                }
                *at = tick;
            }
            None => {
                self.bytes += frame::heads_entry_bytes(chain);
                self.chains.insert(chain.clone(), (head, tick));
                if self.bytes > self.limit_bytes {
                    self.evict();
                }
            }
        }
    }

    /// Forgets a chain; whether it was known.
    pub(super) fn forget(&mut self, chain: &ChainId) -> bool {
        let known = self.chains.remove(chain).is_some();
        if known {
            self.bytes -= frame::heads_entry_bytes(chain);
        }
        known
    }

    /// Where a chain stands.
    pub(super) fn get(&self, chain: &ChainId) -> Option<Head> {
        self.chains.get(chain).map(|(head, _)| *head)
    }

    /// Every chain, in order.
    pub(super) fn sorted(&self) -> Vec<(ChainId, Head)> {
        let mut all: Vec<_> = self.chains.iter().map(|(c, (h, _))| (c.clone(), *h)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Chains forgotten because of the bound.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn evict(&mut self) {
        let mut ticks: Vec<u64> = self.chains.values().map(|(_, tick)| *tick).collect();
        let cut = ticks.len() / EVICTED_SHARE;
        let (_, &mut oldest_kept, _) = ticks.select_nth_unstable(cut);
        let before = self.chains.len();
        self.chains.retain(|_, (_, tick)| *tick >= oldest_kept);
        self.dropped += (before - self.chains.len()) as u64;
        self.bytes = self.chains.keys().map(frame::heads_entry_bytes).sum();
    }
}
