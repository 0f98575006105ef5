//! The verdict: what the trails, taken together, depart from.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Rules;
use super::report::{ChainReport, ProblemKind, Report};
use super::trail::{Began, Speaker, Stretch, Trail, Word};
use crate::block::Predecessor;
use crate::chain::{ChainId, Head};
use crate::record::{Hash, NodeName, Seq, Stream};

/// Weighs every chain and adds to `report`.
pub(super) fn judge(rules: Rules, mut trails: BTreeMap<ChainId, Trail>, report: &mut Report) {
    hear_successors(rules, &mut trails, report);
    for (chain, trail) in &trails {
        let excuses = Excuses::of(trail, &trails);
        let mut case = Case {
            rules,
            windows: rules.windows[chain.stream.index()],
            chain,
            trail,
            excuses,
            told: HashSet::new(),
            explained_seqs: 0,
            uncompared: trail.uncompared,
            report: &mut *report,
        };
        let judged = case.judge();
        report.chains.extend(judged);
    }
}

/// What a chain's next incarnation says of where it ended is somebody's word on that chain.
fn hear_successors(rules: Rules, trails: &mut BTreeMap<ChainId, Trail>, report: &mut Report) {
    let begun: Vec<(ChainId, Began)> =
        trails.iter().filter_map(|(chain, trail)| Some((chain.clone(), trail.began?))).collect();
    let mut oldest: HashMap<(NodeName, Stream), u64> = HashMap::new();
    for (chain, began) in &begun {
        let counter = oldest.entry((chain.node.clone(), chain.stream)).or_insert(began.counter);
        *counter = began.counter.min(*counter);
    }
    for (chain, began) in begun {
        let Some(before) = began.predecessor else { continue };
        let seqs = Some((began.seq, began.seq));
        if before.incarnation == chain.incarnation {
            let detail = "states itself as the incarnation before it";
            report.problem(ProblemKind::StartMismatch, Some(&chain), seqs, detail);
            continue;
        }
        let id = ChainId { incarnation: before.incarnation, ..chain.clone() };
        match trails.get_mut(&id).filter(|t| !t.stretches.is_empty() || t.before.is_some()) {
            Some(trail) => {
                if let Some(earlier) = trail.began
                    && earlier.counter >= began.counter
                {
                    let detail = format!(
                        "start {} states as its predecessor {}, which is start {}",
                        began.counter, before.incarnation, earlier.counter
                    );
                    report.problem(ProblemKind::StartMismatch, Some(&chain), seqs, detail);
                }
                if before.last_seq > 0 {
                    let head = Head { last_seq: before.last_seq, hash: before.head };
                    trail.hear(Speaker::Successor(chain.incarnation), head);
                }
            }
            None if before.last_seq > 0 && !rules.windows[chain.stream.index()] => {
                let older =
                    oldest.get(&(chain.node.clone(), chain.stream)).is_some_and(|c| *c < began.counter);
                absent_predecessor(&id, &chain, before, older, trails, report);
            }
            None => {}
        }
    }
}

/// The incarnation before is not here at all. It may have expired, but not while an older one is still here.
fn absent_predecessor(
    absent: &ChainId,
    chain: &ChainId,
    before: Predecessor,
    older_is_here: bool,
    trails: &BTreeMap<ChainId, Trail>,
    report: &mut Report,
) {
    let known = trails.get(absent);
    if known.is_some_and(|t| t.words.values().any(|w| w.speaker == Speaker::Node)) {
        return; // the node's own head says so, more exactly
    }
    if known.is_some_and(|t| Excuses::of(t, trails).cover(1, before.last_seq)) {
        return;
    }
    let seqs = Some((1, before.last_seq));
    if older_is_here {
        let detail = format!(
            "no block is here, though incarnation {} followed it and an older one is here",
            chain.incarnation
        );
        report.problem(ProblemKind::Dropped, Some(absent), seqs, detail);
    } else {
        let detail =
            format!("is not here; the node's evidence begins with incarnation {}", chain.incarnation);
        report.warning(Some(absent), seqs, detail);
    }
}

/// Seqs of one chain that the node itself said it lost, under a signed head; merged and ascending.
struct Excuses {
    signed: Vec<(Seq, Seq)>,
    any_unsigned: bool,
}

impl Excuses {
    fn of(trail: &Trail, trails: &BTreeMap<ChainId, Trail>) -> Self {
        let is_signed = |said_in: &ChainId, at| trails.get(said_in).is_some_and(|t| t.is_signed(at));
        let (signed, unsigned): (Vec<_>, Vec<_>) =
            trail.lost.iter().partition(|l| is_signed(&l.said_in, l.said_at));
        let mut ranges: Vec<(Seq, Seq)> = signed.iter().map(|l| (l.first, l.last)).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(Seq, Seq)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(m) if first <= m.1.saturating_add(1) => m.1 = m.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { signed: merged, any_unsigned: !unsigned.is_empty() }
    }

    fn cover(&self, first: Seq, last: Seq) -> bool {
        self.signed.iter().any(|(f, l)| *f <= first && last <= *l)
    }
}

/// Words that the blocks contradict, of one kind of speaker.
#[derive(Default)]
struct Contradictions {
    lowest: Option<(Seq, String)>,
    highest: Seq,
    count: usize,
}

impl Contradictions {
    fn add(&mut self, seq: Seq, detail: impl FnOnce() -> String) {
        self.lowest.get_or_insert_with(|| (seq, detail()));
        self.highest = seq;
        self.count += 1;
    }
}

/// One chain before the judge.
struct Case<'a> {
    rules: Rules,
    windows: bool,
    chain: &'a ChainId,
    trail: &'a Trail,
    excuses: Excuses,
    /// Words whose contradiction a problem already tells.
    told: HashSet<(Seq, Hash)>,
    explained_seqs: u64,
    uncompared: u64,
    report: &'a mut Report,
}

impl Case<'_> {
    fn judge(&mut self) -> Option<ChainReport> {
        let trail = self.trail;
        let mut left = None;
        for stretch in trail.stretches.values() {
            self.link(left, stretch);
            left = Some(stretch);
        }
        self.words();
        self.unsigned();
        if trail.stretches.is_empty() && trail.before.is_none() {
            return None;
        }
        Some(ChainReport {
            chain: self.chain.clone(),
            blocks: trail.blocks,
            first_seq: trail.stretches.values().next().map_or(0, |s| s.first_seq),
            last_seq: trail.last_seq(),
            begins_after: trail.before,
            verified_up_to: trail.stretches.values().rev().find_map(|s| s.signed_to),
            unsigned_blocks: trail.stretches.values().map(|s| s.unsigned_blocks).sum(),
            stretches: trail.stretches.len() as u64,
            duplicates: trail.duplicates,
            withheld_sections: trail.withheld_sections,
            unsealed_seqs: trail.stretches.values().map(|s| s.unsealed_seqs).sum(),
            explained_seqs: self.explained_seqs,
            uncompared: self.uncompared,
        })
    }

    /// Judges what lies between `stretch` and whatever stands before it.
    fn link(&mut self, left: Option<&Stretch>, stretch: &Stretch) {
        let left_head = left.map(|l| Head { last_seq: l.last_seq, hash: l.last_hash });
        let expired = self.trail.before.filter(|b| b.last_seq < stretch.first_seq);
        let stood = match (left_head, expired) {
            (Some(l), Some(b)) if b.last_seq > l.last_seq => Some(b),
            (None, expired) => expired,
            (left, _) => left,
        };
        let Head { last_seq, hash } = stood.unwrap_or_default();
        if stretch.previous == hash {
            if stood.is_none() && self.trail.began.is_none() {
                let seqs = Some((stretch.first_seq, stretch.first_seq));
                self.report.warning(Some(self.chain), seqs, "the first block states no start");
            }
        } else if last_seq + 1 == stretch.first_seq {
            self.changed(left, Head { last_seq, hash }, stretch);
        } else if !self.windows {
            let (first, last) = (last_seq + 1, stretch.first_seq - 1);
            let detail = if last_seq == 0 {
                format!("the chain begins at seq {}, linked to a block that is not here", stretch.first_seq)
            } else {
                format!("the block from seq {} was chained to one that is not here", stretch.first_seq)
            };
            self.missing(ProblemKind::Dropped, first, last, detail);
        }
    }

    fn changed(&mut self, left: Option<&Stretch>, stood: Head, right: &Stretch) {
        let (ends, begins) = (stood.last_seq, right.first_seq);
        let signed_otherwise = self.trail.words.get(&(ends, right.previous));
        let detail = if ends == 0 {
            format!("the first block states {} before it, where nothing can stand", right.previous)
        } else if signed_otherwise.is_some_and(|w| w.speaker == Speaker::Node) {
            self.told.insert((ends, right.previous));
            format!(
                "the block that ends at seq {ends} is {}, but the node signed {}, to which the next is linked",
                stood.hash, right.previous
            )
        } else if left.is_some_and(|l| l.signed_to == Some(ends)) {
            format!(
                "the block from seq {begins} is linked to {}, but the node signed {} there",
                right.previous, stood.hash
            )
        } else {
            format!(
                "the block that ends at seq {ends} is {}, but the one from seq {begins} was linked to {}: one of \
                 the two was changed",
                stood.hash, right.previous
            )
        };
        self.report.problem(ProblemKind::Changed, Some(self.chain), Some((ends.max(1), begins)), detail);
    }

    /// Blocks of these seqs are not here. The node may have said itself that it lost them.
    fn missing(&mut self, kind: ProblemKind, first: Seq, last: Seq, mut detail: String) {
        let seqs = Some((first, last));
        if self.excuses.cover(first, last) {
            self.explained_seqs = self.explained_seqs.saturating_add(last - first + 1);
            self.report.warning(Some(self.chain), seqs, "missing, as a signed gap of the node says");
            return;
        }
        if self.excuses.any_unsigned {
            detail.push_str("; a gap that no signed head vouches for does not excuse it");
        }
        self.report.problem(kind, Some(self.chain), seqs, detail);
    }

    /// Judges the words that no block confirmed.
    fn words(&mut self) {
        let trail = self.trail;
        let (mut node, mut collector, mut successor) = <[Contradictions; 3]>::default().into();
        let mut beyond: Option<(Seq, Speaker)> = None;
        for (&(seq, stated), word) in trail.words.iter().filter(|(at, _)| !self.told.contains(at)) {
            match standing(trail, seq, word) {
                Standing::Contradicted(found) => {
                    let tally = match word.speaker {
                        Speaker::Node => &mut node,
                        Speaker::Collector => &mut collector,
                        Speaker::Successor(_) => &mut successor,
                    };
                    tally.add(seq, || contradiction(word.speaker, seq, stated, found));
                }
                // Ascending, so that the last one speaks of the highest seq.
                Standing::Beyond => beyond = Some((seq, word.speaker)),
                Standing::Forgotten => self.uncompared += 1,
                Standing::InHole => {}
            }
        }
        let tallies = [
            (ProblemKind::Rechained, node),
            (ProblemKind::ReceiptContradicted, collector),
            (ProblemKind::StartMismatch, successor),
        ];
        for (kind, tally) in tallies {
            if let Some((lowest, mut detail)) = tally.lowest {
                if tally.count > 1 {
                    detail.push_str(&format!("; so do {} more", tally.count - 1));
                }
                self.report.problem(kind, Some(self.chain), Some((lowest, tally.highest)), detail);
            }
        }
        if let Some((seq, speaker)) = beyond.filter(|_| !self.windows) {
            self.tail(seq, speaker);
        }
    }

    /// Somebody vouched for `seq`, which is beyond the last block.
    fn tail(&mut self, seq: Seq, speaker: Speaker) {
        let expired = self.trail.before.map_or(0, |b| b.last_seq);
        let last = self.trail.last_seq().max(expired);
        // Of a chain that is not here at all, only the node's own head is beyond doubt: the others may outlive it.
        let gone = self.trail.stretches.is_empty() && self.trail.before.is_none();
        let signed = self.trail.words.values().any(|w| w.speaker == Speaker::Node);
        if seq <= last || (gone && !signed) {
            return;
        }
        let who = match speaker {
            Speaker::Node => "the node signed".to_owned(),
            Speaker::Collector => "the collector acknowledged".to_owned(),
            Speaker::Successor(run) => format!("the next incarnation, {run}, followed"),
        };
        let here = if last == 0 { "no block is here".to_owned() } else { format!("the last here is {last}") };
        self.missing(ProblemKind::TailDropped, last + 1, seq, format!("{who} up to seq {seq}, {here}"));
    }

    fn unsigned(&mut self) {
        for s in self.trail.stretches.values().filter(|s| s.unsigned_blocks > 0) {
            let from = s.signed_to.map_or(s.first_seq, |to| to + 1);
            let span_ns = s.last_boot_ns.saturating_sub(s.signed_boot_ns);
            let detail = format!(
                "{} blocks over {} s are not under a signed head",
                s.unsigned_blocks,
                span_ns / 1_000_000_000
            );
            let seqs = Some((from, s.last_seq));
            if self.rules.max_unsigned_ns.is_some_and(|max| span_ns > max) {
                self.report.problem(ProblemKind::Unsigned, Some(self.chain), seqs, detail);
            } else {
                self.report.warning(Some(self.chain), seqs, detail);
            }
        }
    }
}

/// How an unconfirmed word stands to the blocks.
enum Standing {
    /// Another block ends at that seq, or none does though linked blocks are around it.
    Contradicted(Option<Hash>),
    /// It speaks of a seq after the last block.
    Beyond,
    /// Its block is too far back to compare.
    Forgotten,
    /// Its block is missing, and the hole is judged for itself.
    InHole,
}

fn standing(trail: &Trail, seq: Seq, word: &Word) -> Standing {
    if word.found.is_some() {
        return Standing::Contradicted(word.found);
    }
    if seq > trail.last_seq() {
        return Standing::Beyond;
    }
    match trail.stretches.range(..=seq).next_back() {
        Some((_, around)) if around.last_seq >= seq => {
            if trail.remembers(seq) {
                Standing::Contradicted(None)
            } else {
                Standing::Forgotten
            }
        }
        Some(_) => Standing::InHole,
        // Before the first block: nothing can have been there if that block says that it is the first.
        None if trail.stretches.values().next().is_some_and(|s| s.previous == Hash::ZERO) => {
            Standing::Contradicted(None)
        }
        None => Standing::InHole,
    }
}

fn contradiction(speaker: Speaker, seq: Seq, stated: Hash, found: Option<Hash>) -> String {
    let here = match found {
        Some(hash) => format!("the block that ends there is {hash}"),
        None => "no block ends there in a chain that is linked throughout".to_owned(),
    };
    match speaker {
        Speaker::Node => format!("the node signed {stated} at seq {seq}, {here}: the chain was made anew"),
        Speaker::Collector => format!("the collector acknowledged {stated} at seq {seq}, {here}"),
        Speaker::Successor(run) => {
            format!("incarnation {run} states that this one ended at seq {seq} with {stated}, {here}")
        }
    }
}
