//! What the verifier remembers of one chain: stretches of linked blocks, the newest blocks one by one, and the words
//! about it that no block has confirmed yet.

use std::collections::BTreeMap;

use crate::block::Predecessor;
use crate::chain::{ChainId, Head};
use crate::record::{Hash, Incarnation, Seq};

/// Newest blocks of a chain that are remembered one by one: of blocks sealed every 10 s, those of the last 11 hours
/// in 400 KiB. Older ones live on in their stretch.
pub(super) const MAX_REMEMBERED: usize = 4096;
/// Stretches of a chain; a store that has more of them is past explaining.
pub(super) const MAX_STRETCHES: usize = 4096;
/// Words about a chain that wait for their block. When it bites, those for the lowest seqs go: a later head covers
/// what they cover.
pub(super) const MAX_WORDS: usize = 4096;
/// Gaps about a chain.
pub(super) const MAX_GAPS: usize = 4096;

/// A block, as far as links go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) first_seq: Seq,
    pub(super) last_seq: Seq,
    pub(super) hash: Hash,
    pub(super) previous: Hash,
    pub(super) first_boot_ns: u64,
    pub(super) last_boot_ns: u64,
}

/// Linked blocks, from the first to the last without a break.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    pub(super) first_seq: Seq,
    pub(super) last_seq: Seq,
    pub(super) previous: Hash,
    pub(super) last_hash: Hash,
    pub(super) blocks: u64,
    pub(super) unsealed_seqs: u64,
    /// Last seq within that a signed head vouches for.
    pub(super) signed_to: Option<Seq>,
    pub(super) unsigned_blocks: u64,
    /// Boot time at which the unsigned part begins, and at which the stretch ends.
    pub(super) signed_boot_ns: u64,
    pub(super) last_boot_ns: u64,
}

impl Stretch {
    fn of(link: &Link) -> Self {
        Self {
            first_seq: link.first_seq,
            last_seq: link.last_seq,
            previous: link.previous,
            last_hash: link.hash,
            blocks: 1,
            unsealed_seqs: 0,
            signed_to: None,
            unsigned_blocks: 1,
            signed_boot_ns: link.first_boot_ns,
            last_boot_ns: link.last_boot_ns,
        }
    }

    /// This stretch, continued by `right`, whose first block links to its last.
    fn joined(self, right: Self) -> Self {
        let (signed_to, unsigned_blocks, signed_boot_ns) = match right.signed_to {
            Some(seq) => (Some(seq), right.unsigned_blocks, right.signed_boot_ns),
            None => (self.signed_to, self.unsigned_blocks + right.blocks, self.signed_boot_ns),
        };
        Self {
            last_seq: right.last_seq,
            last_hash: right.last_hash,
            last_boot_ns: right.last_boot_ns,
            blocks: self.blocks + right.blocks,
            unsealed_seqs: self.unsealed_seqs + right.unsealed_seqs + (right.first_seq - self.last_seq - 1),
            signed_to,
            unsigned_blocks,
            signed_boot_ns,
            ..self
        }
    }
}

/// Who says where a chain stood; the weightier the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speaker {
    /// The node's next incarnation, in its start.
    Successor(Incarnation),
    /// The collector, in a receipt.
    Collector,
    /// The node, in a signed head.
    Node,
}

/// Somebody's word that the chain stood at a seq with a hash, not confirmed by a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    pub(super) speaker: Speaker,
    /// The hash of the block that ends at that seq instead, where one does.
    pub(super) found: Option<Hash>,
}

/// A gap that the node recorded about this chain: it lost the seqs from `first` to `last`.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) first: Seq,
    pub(super) last: Seq,
    /// The block that says so: it counts once a head vouches for it.
    pub(super) said_in: ChainId,
    pub(super) said_at: Seq,
}

/// Where an incarnation says that it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began {
    pub(super) counter: u64,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) seq: Seq,
}

/// What became of a block that was handed in.
#[derive(Debug)]
pub(super) enum Placed {
    /// It has its place, after everything before.
    InOrder,
    /// It has its place, but came after a later one.
    Late,
    /// It is here already.
    Again,
    /// Another block has some of its seqs.
    Conflict { first_seq: Seq, last_seq: Seq, hash: Hash },
    /// The chain has no place for it: linked blocks stand around its seqs.
    NoPlace,
    /// It repeats or contradicts one that is no longer remembered.
    TooFar,
    /// No room for another stretch.
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Trail {
    /// By first seq; never overlapping.
    pub(super) stretches: BTreeMap<Seq, Stretch>,
    /// By last seq: what stands there, and since which seq.
    remembered: BTreeMap<Seq, Link>,
    /// The highest seq that was forgotten.
    forgotten_to: Seq,
    newest_seq: Seq,
    pub(super) words: BTreeMap<(Seq, Hash), Word>,
    pub(super) lost: Vec<Lost>,
    pub(super) before: Option<Head>,
    pub(super) began: Option<Began>,
    pub(super) blocks: u64,
    pub(super) duplicates: u64,
    pub(super) withheld_sections: u64,
    pub(super) uncompared: u64,
}

impl Trail {
    /// Finds a block's place among the others.
    pub(super) fn place(&mut self, link: Link) -> Placed {
        if let Some(conflict) = self.overlap(&link) {
            return conflict;
        }
        if self.stretches.len() >= MAX_STRETCHES {
            return Placed::Full;
        }
        let mut stretch = Stretch::of(&link);
        if let Some((&at, left)) = self.stretches.range(..link.first_seq).next_back()
            && left.last_hash == link.previous
            && let Some(left) = self.stretches.remove(&at)
        {
            stretch = left.joined(stretch);
        }
        if let Some((&at, right)) = self.stretches.range(link.last_seq..).next()
            && right.previous == link.hash
            && let Some(right) = self.stretches.remove(&at)
        {
            stretch = stretch.joined(right);
        }
        self.stretches.insert(stretch.first_seq, stretch);
        self.remember(link);
        self.blocks += 1;
        self.confirm(&link);
        let late = link.last_seq < self.newest_seq;
        self.newest_seq = self.newest_seq.max(link.last_seq);
        if late { Placed::Late } else { Placed::InOrder }
    }

    fn overlap(&self, link: &Link) -> Option<Placed> {
        if let Some((_, other)) = self.remembered.range(link.first_seq..).next()
            && other.first_seq <= link.last_seq
        {
            let same = other.first_seq == link.first_seq && other.hash == link.hash;
            return Some(if same {
                Placed::Again
            } else {
                Placed::Conflict { first_seq: other.first_seq, last_seq: other.last_seq, hash: other.hash }
            });
        }
        let (_, around) = self.stretches.range(..=link.last_seq).next_back()?;
        if around.last_seq < link.first_seq {
            return None;
        }
        Some(if link.first_seq <= self.forgotten_to { Placed::TooFar } else { Placed::NoPlace })
    }

    fn remember(&mut self, link: Link) {
        self.remembered.insert(link.last_seq, link);
        if self.remembered.len() > MAX_REMEMBERED
            && let Some((seq, _)) = self.remembered.pop_first()
        {
            self.forgotten_to = self.forgotten_to.max(seq);
        }
    }

    /// Settles the words about the seq at which `link` ends.
    fn confirm(&mut self, link: &Link) {
        let at_seq = (link.last_seq, Hash::ZERO)..=(link.last_seq, Hash([0xff; 32]));
        for ((_, stated), word) in self.words.range_mut(at_seq) {
            if *stated != link.hash {
                word.found = Some(link.hash);
            }
        }
        if let Some(word) = self.words.remove(&(link.last_seq, link.hash))
            && word.speaker == Speaker::Node
        {
            self.vouch(link.last_seq);
        }
    }

    /// Takes `speaker`'s word that the chain stood at `head`.
    pub(super) fn hear(&mut self, speaker: Speaker, head: Head) {
        let there = self.remembered.get(&head.last_seq).map(|link| link.hash);
        if there == Some(head.hash) {
            if speaker == Speaker::Node {
                self.vouch(head.last_seq);
            }
            return;
        }
        let word = self.words.entry((head.last_seq, head.hash)).or_insert(Word { speaker, found: None });
        word.speaker = word.speaker.max(speaker);
        word.found = there;
        if self.words.len() > MAX_WORDS {
            self.forget_a_word();
        }
    }

    /// Gives up the lowest word that still waits, else the highest: contradictions are told by the lowest.
    fn forget_a_word(&mut self) {
        let waiting = self.words.iter().find(|(_, w)| w.found.is_none()).map(|(at, _)| *at);
        match waiting {
            Some(at) => drop(self.words.remove(&at)),
            None => drop(self.words.pop_last()),
        }
        self.uncompared += 1;
    }

    /// A signed head vouches for the block that ends at `seq`, and for all that it links to.
    fn vouch(&mut self, seq: Seq) {
        let Some((_, stretch)) = self.stretches.range_mut(..=seq).next_back() else { return };
        if stretch.signed_to.is_some_and(|s| s >= seq) {
            return;
        }
        stretch.signed_to = Some(seq);
        // What comes after a remembered block is remembered too.
        let after = self.remembered.range(seq + 1..=stretch.last_seq.max(seq + 1));
        stretch.unsigned_blocks = after.filter(|(last, _)| **last <= stretch.last_seq).count() as u64;
        if let Some(link) = self.remembered.get(&seq) {
            stretch.signed_boot_ns = link.last_boot_ns;
        }
    }

    /// Whether a signed head vouches for the block that holds `seq`.
    pub(super) fn is_signed(&self, seq: Seq) -> bool {
        self.stretches
            .range(..=seq)
            .next_back()
            .is_some_and(|(_, s)| s.last_seq >= seq && s.signed_to.is_some_and(|to| to >= seq))
    }

    /// Whether the blocks around `seq` are still remembered one by one.
    pub(super) fn remembers(&self, seq: Seq) -> bool {
        seq > self.forgotten_to
    }

    /// Last seq here; 0 for none.
    pub(super) fn last_seq(&self) -> Seq {
        self.stretches.values().next_back().map_or(0, |s| s.last_seq)
    }
}
