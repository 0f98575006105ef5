//! What verification found, for people and for an exit code.

use std::fmt;

use crate::chain::{ChainId, Head};
use crate::record::Seq;

/// Problems and warnings kept in a report, each; further ones are counted. A store that was tampered with wholesale
/// needs no longer list.
pub(super) const MAX_LISTED: usize = 10_000;

/// How the evidence departs from what was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Bytes that should be a block or a statement and are not.
    Malformed,
    /// A section's bytes are not those that the header hashes.
    ChangedSection,
    /// Two neighbours are not linked: one of them is not the block that was sealed.
    Changed,
    /// Blocks are missing in the middle or at the beginning.
    Dropped,
    /// Blocks are missing at the end: somebody signed for more than is here.
    TailDropped,
    /// A block stands before one that it follows.
    Reordered,
    /// Two different blocks claim the same seqs.
    Equivocation,
    /// The chain holds together, but the node signed another one.
    Rechained,
    /// A head that none of the node's trusted keys signed.
    ForgedHead,
    /// A head whose key was not trusted at the time that it states.
    KeyNotValid,
    /// Heads of a node for which no key is trusted.
    NoKey,
    /// A receipt that none of the collector's keys signed.
    ForgedReceipt,
    /// A receipt says that the collector held another block.
    ReceiptContradicted,
    /// An incarnation's start does not fit its predecessor.
    StartMismatch,
    /// More is unsigned than the rules allow.
    Unsigned,
    /// A section is withheld where nothing may be.
    Withheld,
    /// A bound of the verifier was reached; what lies beyond was not checked.
    Unchecked,
}

impl ProblemKind {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::ChangedSection => "changed-section",
            Self::Changed => "changed",
            Self::Dropped => "dropped",
            Self::TailDropped => "tail-dropped",
            Self::Reordered => "reordered",
            Self::Equivocation => "equivocation",
            Self::Rechained => "re-chained",
            Self::ForgedHead => "forged-head",
            Self::KeyNotValid => "key-not-valid",
            Self::NoKey => "no-key",
            Self::ForgedReceipt => "forged-receipt",
            Self::ReceiptContradicted => "receipt-contradicted",
            Self::StartMismatch => "start-mismatch",
            Self::Unsigned => "unsigned",
            Self::Withheld => "withheld",
            Self::Unchecked => "unchecked",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One departure: which, where, and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which.
    pub kind: ProblemKind,
    /// The chain, as far as it could be told.
    pub chain: Option<ChainId>,
    /// First and last seq concerned, as far as they could be told.
    pub seqs: Option<(Seq, Seq)>,
    /// What was expected and what was found.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind)?;
        place(f, self.chain.as_ref(), self.seqs)?;
        f.write_str(&self.detail)
    }
}

/// Something to know that is no departure by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The chain, where it concerns one.
    pub chain: Option<ChainId>,
    /// First and last seq concerned.
    pub seqs: Option<(Seq, Seq)>,
    /// What it is.
    pub detail: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        place(f, self.chain.as_ref(), self.seqs)?;
        f.write_str(&self.detail)
    }
}

/// `node/incarnation/stream seq 3-9: `, with the whole incarnation, since it is what people look up.
fn place(f: &mut fmt::Formatter<'_>, chain: Option<&ChainId>, seqs: Option<(Seq, Seq)>) -> fmt::Result {
    let Some(c) = chain else { return Ok(()) };
    write!(f, "node {} incarnation {} stream {}", c.node, c.incarnation, c.stream)?;
    match seqs {
        Some((first, last)) if first == last => write!(f, " seq {first}: "),
        Some((first, last)) => write!(f, " seq {first}-{last}: "),
        None => f.write_str(": "),
    }
}

/// One chain, as far as it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Which.
    pub chain: ChainId,
    /// Blocks, each counted once.
    pub blocks: u64,
    /// First seq here; 0 where there is no block.
    pub first_seq: Seq,
    /// Last seq here.
    pub last_seq: Seq,
    /// What stood before the first block, where older ones expired. Not signed by itself: it says where the evidence
    /// begins, and the first block's link confirms it.
    pub begins_after: Option<Head>,
    /// The last seq that a signed head vouches for, and with it every block linked to it from below.
    pub verified_up_to: Option<Seq>,
    /// Blocks that no signed head vouches for.
    pub unsigned_blocks: u64,
    /// Stretches of linked blocks; 1 for a whole chain, more where windows of it were taken.
    pub stretches: u64,
    /// Blocks that are there again, byte for byte.
    pub duplicates: u64,
    /// Sections that are withheld; their hashes are verified, their content is not here.
    pub withheld_sections: u64,
    /// Seqs without a block between linked blocks: lost before they were sealed, as the node's gaps say.
    pub unsealed_seqs: u64,
    /// Seqs of missing blocks that the node's own signed gaps account for.
    pub explained_seqs: u64,
    /// Heads and receipts that came too far from their block to be compared; a later head covers what they cover.
    pub uncompared: u64,
}

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Every chain met, ordered.
    pub chains: Vec<ChainReport>,
    /// Departures, in the order found; at most 10,000.
    pub problems: Vec<Problem>,
    /// What to know besides; at most 10,000.
    pub warnings: Vec<Warning>,
    /// Problems beyond those listed.
    pub unlisted_problems: u64,
    /// Warnings beyond those listed.
    pub unlisted_warnings: u64,
}

impl Report {
    /// Whether nothing departs from what was signed. Unsigned tails are no departure: see
    /// [`ChainReport::unsigned_blocks`].
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.unlisted_problems == 0
    }

    pub(super) fn problem(
        &mut self,
        kind: ProblemKind,
        chain: Option<&ChainId>,
        seqs: Option<(Seq, Seq)>,
        detail: impl Into<String>,
    ) {
        if self.problems.len() < MAX_LISTED {
            self.problems.push(Problem { kind, chain: chain.cloned(), seqs, detail: detail.into() });
        } else {
            self.unlisted_problems += 1;
        }
    }

    pub(super) fn warning(
        &mut self,
        chain: Option<&ChainId>,
        seqs: Option<(Seq, Seq)>,
        detail: impl Into<String>,
    ) {
        if self.warnings.len() < MAX_LISTED {
            self.warnings.push(Warning { chain: chain.cloned(), seqs, detail: detail.into() });
        } else {
            self.unlisted_warnings += 1;
        }
    }
}
