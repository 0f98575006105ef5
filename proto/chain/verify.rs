//! The verifier: given what a store holds, finds what was changed, dropped, reordered or chained anew.
//!
//! It is fed blocks, signed heads and receipts in the order in which the store holds them, chains interleaved as they
//! come, and says at the end what departs from what the nodes signed. It trusts the keys that it is given and nothing
//! else: a store that was rewritten with full access, all hashes and links made anew, still lacks the nodes'
//! signatures.
//!
//! Rules
//! - A block is right if its header's hash is what the next block's `previous` states, or what a signed head states;
//!   a signed head vouches for its block and for everything linked to it from below.
//! - Seqs may jump between linked blocks: those records were lost before sealing, and the node's gaps say so. A block
//!   that was dropped breaks the link. It is a problem unless a gap of the same node, itself under a signed head,
//!   accounts for every missing seq (evicted or refused before it was acknowledged).
//! - Order matters within a chain, not between chains. The same block twice is harmless and counted.
//! - A withheld section verifies, by its hash in the header, and is counted.
//!
//! What cannot be found here: blocks dropped from the very end together with every head, receipt and successor that
//! speaks of them. [`ChainReport::verified_up_to`] says how far the evidence vouches for itself.
//!
//! Limits: memory is bounded for each chain (the constants of `trail`): the newest 4,096 blocks are remembered one by
//! one, so a head is compared if it comes before its block (at most 4,096 wait) or at most 4,096 blocks after.
//! Others are counted as uncompared; since the highest head of a stretch vouches for all of it, nothing is lost but
//! precision.

mod judge;
mod report;
mod trail;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use prost::Message;

pub use report::{ChainReport, Problem, ProblemKind, Report, Warning};

use super::{ChainId, Head, HeadStatement, SignedHead, SignedReceipt, fingerprint};
use crate::block::{Block, Header};
use crate::record::{Body, Gap, Hash, Kind, Kinds, NodeName, Seq};
use crate::{convert, wire};
use trail::{Began, Link, Lost, MAX_GAPS, Placed, Speaker, Trail};

/// Chains in one verification: 10,000 nodes of three streams with 33 incarnations each.
const MAX_CHAINS: usize = 1_000_000;

/// What the evidence should look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// By [`Stream::index`](crate::record::Stream::index): whether only windows of that stream were taken, so that missing blocks between them are
    /// expected.
    pub windows: [bool; 3],
    /// Whether sections may be withheld.
    pub withheld: bool,
    /// Longest time, by the node's boot clock, that may pass after the last signed head; `None` to only warn. A node
    /// signs every 10 s.
    pub max_unsigned_ns: Option<u64>,
}

impl Default for Rules {
    /// Whole chains, sections withheld or not, unsigned tails of any length.
    fn default() -> Self {
        Self { windows: [false; 3], withheld: true, max_unsigned_ns: None }
    }
}

impl Rules {
    /// A collector's store: whole urgent and evidence chains, windows of the recorder, nothing withheld.
    pub fn store() -> Self {
        Self { windows: [false, false, true], withheld: false, max_unsigned_ns: None }
    }

    /// A node's journal: whole chains as far back as the ring reaches, nothing withheld.
    pub fn node() -> Self {
        Self { withheld: false, ..Self::default() }
    }

    /// An exported bundle: windows of every chain, with sections withheld or not.
    pub fn bundle() -> Self {
        Self { windows: [true; 3], ..Self::default() }
    }
}

/// A node's key, and when it was trusted.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    /// The key.
    pub key: VerifyingKey,
    /// Trusted from this time on, wall ns as stated in the head; `None` from the start.
    pub from_wall_ns: Option<i64>,
    /// Trusted before this time; `None` to this day. A thief of the key can still state an earlier time.
    pub until_wall_ns: Option<i64>,
}

impl TrustedKey {
    /// `key`, trusted always.
    pub fn always(key: VerifyingKey) -> Self {
        Self { key, from_wall_ns: None, until_wall_ns: None }
    }

    fn trusted_at(&self, wall_ns: i64) -> bool {
        self.from_wall_ns.is_none_or(|from| wall_ns >= from)
            && self.until_wall_ns.is_none_or(|until| wall_ns < until)
    }
}

/// Whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    nodes: HashMap<NodeName, Vec<TrustedKey>>,
    collectors: Vec<VerifyingKey>,
}

impl Keys {
    /// Trusts `key` to speak for `node`, besides those trusted already.
    pub fn trust_node(&mut self, node: NodeName, key: TrustedKey) {
        self.nodes.entry(node).or_default().push(key);
    }

    /// Trusts `key` to sign receipts. Without any, receipts are believed where a node's block carries them.
    pub fn trust_collector(&mut self, key: VerifyingKey) {
        self.collectors.push(key);
    }
}

/// Finds departures in what it is fed. See the module for its rules and limits.
#[derive(Debug)]
pub struct ChainVerifier {
    rules: Rules,
    keys: Keys,
    trails: BTreeMap<ChainId, Trail>,
    report: Report,
    keyless: HashSet<NodeName>,
    full: bool,
}

impl ChainVerifier {
    /// A verifier that has seen nothing.
    pub fn new(rules: Rules, keys: Keys) -> Self {
        Self {
            rules,
            keys,
            trails: BTreeMap::new(),
            report: Report::default(),
            keyless: HashSet::new(),
            full: false,
        }
    }

    /// Says that `chain` stood at `head` before its first block that will come, because older ones expired. The newest
    /// such statement counts; one that comes after a block of the chain is ignored, since links say more.
    pub fn before(&mut self, chain: &ChainId, head: Head) {
        let Some(trail) = self.trail(chain) else { return };
        if trail.stretches.is_empty() && trail.before.is_none_or(|b| b.last_seq < head.last_seq) {
            trail.before = Some(head).filter(|h| h.last_seq > 0);
        }
    }

    /// Takes an encoded `wire::Block` as the store holds it. What is wrong with it is a problem of the report.
    pub fn encoded_block(&mut self, bytes: Bytes) {
        match Block::decode_header(bytes.clone()) {
            Ok(block) => self.block(&block),
            Err(error) => {
                let named = named(bytes);
                let (chain, seqs) = named.as_ref().map_or((None, None), |(c, s)| (Some(c), Some(*s)));
                self.report.problem(ProblemKind::Malformed, chain, seqs, error.to_string());
            }
        }
    }

    /// Takes a block: its header, its sections against their hashes, and its gaps.
    pub fn block(&mut self, block: &Block) {
        let header = block.header();
        let chain = chain_of(header);
        let seqs = Some((header.first_seq, header.last_seq));
        let mut withheld = 0;
        let mut whole = true;
        for index in 0..header.sections.len() {
            if block.withheld(index) {
                withheld += 1;
            } else if let Some(error) = block.section_error(index) {
                whole = false;
                self.report.problem(ProblemKind::ChangedSection, Some(&chain), seqs, error.to_string());
            }
        }
        if withheld > 0 && !self.rules.withheld {
            let detail = format!("{withheld} of {} sections are withheld", header.sections.len());
            self.report.problem(ProblemKind::Withheld, Some(&chain), seqs, detail);
        }
        if !self.place(header, block.hash(), &chain) {
            return;
        }
        if let Some(trail) = self.trails.get_mut(&chain) {
            trail.withheld_sections += withheld;
        }
        if whole && header.kinds.contains(Kind::Gap) {
            self.gaps(block, &chain);
        }
    }

    /// Takes a block of which only the header is at hand; `hash` is that of its bytes. Gaps that only its records
    /// tell are not seen.
    pub fn header(&mut self, header: &Header, hash: Hash) {
        let chain = chain_of(header);
        if let Err(error) = header.check() {
            let seqs = Some((header.first_seq, header.last_seq));
            return self.report.problem(ProblemKind::Malformed, Some(&chain), seqs, error.to_string());
        }
        self.place(header, hash, &chain);
    }

    /// Takes an encoded `wire::SignedHead`.
    pub fn encoded_head(&mut self, bytes: &[u8]) {
        match SignedHead::from_bytes(bytes) {
            Ok(head) => self.signed_head(&head),
            Err(e) => self.report.problem(ProblemKind::Malformed, None, None, format!("signed head: {e}")),
        }
    }

    /// Takes a node's word on where its chain stood, before or after the block that it speaks of.
    pub fn signed_head(&mut self, head: &SignedHead) {
        let statement = match head.decode() {
            Ok(statement) => statement,
            Err(e) => {
                return self.report.problem(ProblemKind::Malformed, None, None, format!("signed head: {e}"));
            }
        };
        if self.authentic(head, &statement)
            && statement.head.last_seq > 0
            && let Some(trail) = self.trail(&statement.chain)
        {
            trail.hear(Speaker::Node, statement.head);
        }
    }

    /// Takes an encoded `wire::SignedReceipt`.
    pub fn encoded_receipt(&mut self, bytes: &[u8]) {
        match SignedReceipt::from_bytes(bytes) {
            Ok(receipt) => self.signed_receipt(&receipt),
            Err(e) => self.report.problem(ProblemKind::Malformed, None, None, format!("receipt: {e}")),
        }
    }

    /// Takes a collector's word on what it held. Ignored where no collector's key is trusted: a receipt that stands
    /// alone is nobody's word then.
    pub fn signed_receipt(&mut self, receipt: &SignedReceipt) {
        if !self.keys.collectors.is_empty() {
            self.receipt(receipt, None);
        }
    }

    /// Weighs everything up.
    pub fn finish(mut self) -> Report {
        if self.full {
            let detail = format!("more than {MAX_CHAINS} chains; those beyond were not checked");
            self.report.problem(ProblemKind::Unchecked, None, None, detail);
        }
        judge::judge(self.rules, self.trails, &mut self.report);
        self.report
    }

    /// The trail of `chain`, begun if need be and if there is room.
    fn trail(&mut self, chain: &ChainId) -> Option<&mut Trail> {
        if !self.trails.contains_key(chain) {
            if self.trails.len() >= MAX_CHAINS {
                self.full = true;
                return None;
            }
            self.trails.insert(chain.clone(), Trail::default());
        }
        self.trails.get_mut(chain)
    }

    /// Places a block in its chain, and hears what its header says of others. False where it has no place.
    fn place(&mut self, header: &Header, hash: Hash, chain: &ChainId) -> bool {
        let windows = self.rules.windows[chain.stream.index()];
        let Some(trail) = self.trail(chain) else { return false };
        let seqs = Some((header.first_seq, header.last_seq));
        let mut started_late = false;
        let placed = trail.place(Link {
            first_seq: header.first_seq,
            last_seq: header.last_seq,
            hash,
            previous: header.previous,
            first_boot_ns: header.first_at.boot_ns,
            last_boot_ns: header.last_at.boot_ns,
        });
        if let (Placed::InOrder | Placed::Late, Some(start)) = (&placed, &header.start) {
            started_late = header.previous != Hash::ZERO;
            trail.began =
                Some(Began { counter: start.counter, predecessor: start.predecessor, seq: header.first_seq });
        }
        let (kind, detail) = match placed {
            Placed::InOrder => (None, String::new()),
            Placed::Late if windows => (None, String::new()),
            Placed::Late => {
                (Some(ProblemKind::Reordered), "stands after a later block of its chain".to_owned())
            }
            Placed::Again => {
                trail.duplicates += 1;
                return false;
            }
            Placed::Conflict { first_seq, last_seq, hash: other } => (
                Some(ProblemKind::Equivocation),
                format!("block {hash} claims seqs that block {other} has (seq {first_seq}-{last_seq})"),
            ),
            Placed::NoPlace => (
                Some(ProblemKind::Equivocation),
                format!("block {hash} claims seqs between blocks that are linked without it"),
            ),
            Placed::TooFar => (
                Some(ProblemKind::Reordered),
                "claims seqs that were there before, too far back to compare".to_owned(),
            ),
            Placed::Full => (
                Some(ProblemKind::Unchecked),
                format!("the chain is in more than {} pieces", trail::MAX_STRETCHES),
            ),
        };
        if let Some(kind) = kind {
            self.report.problem(kind, Some(chain), seqs, detail);
            if kind != ProblemKind::Reordered {
                return false;
            }
        }
        if started_late {
            let detail = "states an incarnation's start but is not its chain's first block";
            self.report.problem(ProblemKind::StartMismatch, Some(chain), seqs, detail);
        }
        if let Some(receipt) = &header.receipt {
            self.receipt(receipt, Some((chain, header.first_seq)));
        }
        true
    }

    /// Hears a receipt; `carrier` is the block that it came in.
    fn receipt(&mut self, receipt: &SignedReceipt, carrier: Option<(&ChainId, Seq)>) {
        let (chain, seqs) = carrier.map_or((None, None), |(c, seq)| (Some(c), Some((seq, seq))));
        let statement = match receipt.decode() {
            Ok(statement) => statement,
            Err(e) => {
                let detail = format!("receipt: {e}");
                return self.report.problem(ProblemKind::Malformed, chain, seqs, detail);
            }
        };
        let collectors = &self.keys.collectors;
        if !collectors.is_empty() && !collectors.iter().any(|key| receipt.verify(key).is_ok()) {
            let detail = format!(
                "the receipt for {} up to seq {} is not signed by a trusted collector",
                statement.chain, statement.head.last_seq
            );
            return self.report.problem(ProblemKind::ForgedReceipt, chain, seqs, detail);
        }
        if let Some(carrier) = chain
            && carrier.node != statement.chain.node
        {
            let detail = format!("carries a receipt of another node: {}", statement.chain);
            return self.report.problem(ProblemKind::ReceiptContradicted, chain, seqs, detail);
        }
        if statement.head.last_seq > 0
            && let Some(trail) = self.trail(&statement.chain)
        {
            trail.hear(Speaker::Collector, statement.head);
        }
    }

    /// Whether a key that was trusted for the node when it states to have signed did sign.
    fn authentic(&mut self, head: &SignedHead, statement: &HeadStatement) -> bool {
        let (chain, seq) = (&statement.chain, statement.head.last_seq);
        let Some(keys) = self.keys.nodes.get(&chain.node).filter(|k| !k.is_empty()) else {
            if self.keyless.len() < MAX_CHAINS && self.keyless.insert(chain.node.clone()) {
                let detail =
                    format!("no key is trusted for node {}, so none of its heads counts", chain.node);
                self.report.problem(ProblemKind::NoKey, Some(chain), None, detail);
            }
            return false;
        };
        let mut signers = keys.iter().filter(|k| head.verify(&k.key).is_ok()).peekable();
        let (kind, detail) = match signers.peek() {
            None => (ProblemKind::ForgedHead, "the head is not signed by the node's key".to_owned()),
            Some(signer) => {
                let signer = fingerprint(&signer.key);
                if signers.any(|k| k.trusted_at(statement.wall_ns)) {
                    return true;
                }
                let detail =
                    format!("the head is signed by key {signer}, which was not trusted at that time");
                (ProblemKind::KeyNotValid, detail)
            }
        };
        self.report.problem(kind, Some(chain), Some((seq, seq)), detail);
        false
    }

    /// Notes the losses that `block` records, with the chain that they concern.
    fn gaps(&mut self, block: &Block, said_in: &ChainId) {
        let records = match block.records(Kinds::default().with(Kind::Gap)) {
            Ok(records) => records,
            Err(error) => {
                let seqs = Some((block.header().first_seq, block.header().last_seq));
                return self.report.problem(ProblemKind::Malformed, Some(said_in), seqs, error.to_string());
            }
        };
        for record in records {
            if let Body::Gap(gap) = record.body
                && let Some((first, last)) = lost_seqs(&gap)
            {
                let chain = ChainId {
                    node: said_in.node.clone(),
                    incarnation: gap.incarnation.unwrap_or(said_in.incarnation),
                    stream: gap.stream,
                };
                let lost = Lost { first, last, said_in: said_in.clone(), said_at: record.seq };
                if let Some(trail) = self.trail(&chain).filter(|t| t.lost.len() < MAX_GAPS) {
                    trail.lost.push(lost);
                }
            }
        }
    }
}

/// The seqs that a gap accounts for, where it names them.
fn lost_seqs(gap: &Gap) -> Option<(Seq, Seq)> {
    let first = gap.after_seq?.checked_add(1)?;
    let last = match (gap.before_seq, gap.count) {
        (Some(before), _) => before.checked_sub(1)?,
        (None, Some(count)) => gap.after_seq?.checked_add(count)?,
        (None, None) => return None,
    };
    (first <= last).then_some((first, last))
}

fn chain_of(header: &Header) -> ChainId {
    ChainId { node: header.node.clone(), incarnation: header.incarnation, stream: header.stream }
}

/// What a malformed block calls itself, as far as its header still says.
fn named(bytes: Bytes) -> Option<(ChainId, (Seq, Seq))> {
    let block = wire::Block::decode(bytes).ok()?;
    let header = wire::BlockHeader::decode(block.header).ok()?;
    let chain = ChainId {
        node: convert::node("node", &header.node).ok()?,
        incarnation: convert::incarnation("incarnation", &header.incarnation).ok()?,
        stream: convert::stream("stream", header.stream).ok()?,
    };
    Some((chain, (header.first_seq, header.last_seq)))
}
