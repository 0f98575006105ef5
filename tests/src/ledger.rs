//! Ledgers: what journals hold, and whether two of them tell the same story without a silent hole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dogwatch::block::Block;
use dogwatch::chain::{ChainId, SignedReceipt};
use dogwatch::journal::{FrameKind, Position, Reader};
use dogwatch::record::{Body, Gap, Hash, Kind, Kinds, Record, Seq, Stream};

/// A run of seqs that a gap record gives up, both included.
pub type Run = (Seq, Seq);

/// What a folder of journals (`urgent/`, `evidence/`, `recorder/`) holds.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How often each record is there, and the hash of the block that it is in.
    pub records: BTreeMap<ChainId, BTreeMap<Seq, Vec<Hash>>>,
    /// Seqs that gap records speak of.
    pub given_up: BTreeMap<ChainId, Vec<Run>>,
    /// Every gap record, with the chain that it stands in.
    pub gaps: Vec<(ChainId, Gap)>,
    /// Numbered lines (`seq=N`) of the evidence stream, and how often each is there.
    pub lines: BTreeMap<u64, u32>,
    /// Newest acknowledged seq of each chain, from receipts.
    pub acknowledged: BTreeMap<ChainId, Seq>,
    /// Records read.
    pub count: u64,
    /// When samples were taken, boot ns, by stream and chain.
    pub samples: BTreeMap<ChainId, Vec<u64>>,
}

impl Ledger {
    /// Reads every journal in `folder`, also beside its writer.
    ///
    /// # Panics
    /// When a journal cannot be read or holds a block that does not hold.
    pub fn read(folder: &Path) -> Self {
        let mut ledger = Self::default();
        for stream in Stream::ALL {
            let dir = folder.join(stream.as_str());
            if !dir.is_dir() {
                continue;
            }
            let reader = Reader::open(&dir).expect("the journal can be read");
            for entry in reader.scan(Position::default()) {
                let entry = entry.expect("an entry can be read");
                match entry.kind {
                    FrameKind::Block => {
                        ledger.block(&Block::decode(entry.payload).expect("a journal's block is whole"));
                    }
                    FrameKind::Receipt => {
                        ledger
                            .receipt(&SignedReceipt::from_bytes(&entry.payload).expect("a receipt is whole"));
                    }
                    FrameKind::SignedHead | FrameKind::Decision => {}
                }
            }
        }
        ledger
    }

    /// Reads receipts alone: what of the journals in `folder` is acknowledged.
    ///
    /// # Panics
    /// When a journal cannot be read.
    pub fn acknowledged_in(folder: &Path) -> Self {
        let mut ledger = Self::default();
        for stream in Stream::ALL {
            let dir = folder.join(stream.as_str());
            if !dir.is_dir() {
                continue;
            }
            for entry in Reader::open(&dir).expect("the journal can be read").scan(Position::default()) {
                let entry = entry.expect("an entry can be read");
                let receipt = match entry.kind {
                    FrameKind::Receipt => SignedReceipt::from_bytes(&entry.payload).ok(),
                    FrameKind::Block => {
                        Block::decode(entry.payload).ok().and_then(|b| b.header().receipt.clone())
                    }
                    FrameKind::SignedHead | FrameKind::Decision => None,
                };
                receipt.iter().for_each(|r| ledger.receipt(r));
            }
        }
        ledger
    }

    fn receipt(&mut self, receipt: &SignedReceipt) {
        let statement = receipt.decode().expect("a receipt says something");
        let newest = self.acknowledged.entry(statement.chain).or_default();
        *newest = (*newest).max(statement.head.last_seq);
    }

    fn block(&mut self, block: &Block) {
        let header = block.header();
        let chain =
            ChainId { node: header.node.clone(), incarnation: header.incarnation, stream: header.stream };
        if let Some(receipt) = &header.receipt {
            self.receipt(receipt);
        }
        let all = Kind::ALL.into_iter().fold(Kinds::default(), Kinds::with);
        for record in block.records(all).expect("a block's records can be read") {
            self.count += 1;
            self.records.entry(chain.clone()).or_default().entry(record.seq).or_default().push(block.hash());
            self.body(&chain, record);
        }
    }

    fn body(&mut self, chain: &ChainId, record: Record) {
        match record.body {
            Body::Gap(gap) => {
                let of = ChainId {
                    node: chain.node.clone(),
                    incarnation: gap.incarnation.unwrap_or(chain.incarnation),
                    stream: gap.stream,
                };
                if let Some(after) = gap.after_seq {
                    let last = match (gap.before_seq, gap.count) {
                        (Some(before), _) => before.saturating_sub(1),
                        (None, Some(count)) => after + count,
                        (None, None) => Seq::MAX,
                    };
                    self.given_up.entry(of).or_default().push((after + 1, last));
                }
                self.gaps.push((chain.clone(), gap));
            }
            Body::Log(line) if chain.stream == Stream::Evidence => {
                if let Some(n) = number(&line.line) {
                    *self.lines.entry(n).or_default() += 1;
                }
            }
            Body::Sample(_) => self.samples.entry(chain.clone()).or_default().push(record.at.boot_ns),
            _ => {}
        }
    }

    fn is_given_up(&self, chain: &ChainId, seq: Seq) -> bool {
        self.given_up
            .get(chain)
            .is_some_and(|runs| runs.iter().any(|(first, last)| (*first..=*last).contains(&seq)))
    }

    /// Records that are here more than once, in words; at most ten.
    pub fn twice(&self) -> Vec<String> {
        let found = self.records.iter().flat_map(|(chain, records)| {
            let often = records.iter().filter(|(_, at)| at.len() > 1);
            often.map(move |(seq, at)| format!("{chain} seq {seq} is there {} times", at.len()))
        });
        found.take(10).collect()
    }

    /// Seqs that are missing before a chain's newest record without a gap record that says so; at most ten.
    pub fn silent_holes(&self) -> Vec<String> {
        let mut holes = Vec::new();
        for (chain, records) in &self.records {
            let newest = records.keys().next_back().copied().unwrap_or(0);
            let missing = (1..=newest).filter(|s| !records.contains_key(s) && !self.is_given_up(chain, *s));
            holes.extend(missing.take(3).map(|seq| format!("{chain} lacks seq {seq} of {newest} silently")));
        }
        holes.truncate(10);
        holes
    }

    /// The gaps that tell of a loss: all but those of samples that were not taken, which a machine short of CPU makes.
    pub fn losses(&self) -> Vec<&Gap> {
        let untaken = |gap: &Gap| gap.stream == Stream::Recorder && gap.class() == "sampler";
        self.gaps.iter().map(|(_, gap)| gap).filter(|gap| !untaken(gap)).collect()
    }

    /// The chains of which records are here, or gap records speak.
    pub fn chains(&self) -> BTreeSet<&ChainId> {
        self.records.keys().chain(self.given_up.keys()).collect()
    }

    /// How many records `chain` lacks, and how many gap records say that it does. What was lost after the newest record that is
    /// here, as an agent's that ended meanwhile, counts too.
    pub fn missing_and_told(&self, chain: &ChainId) -> (u64, u64) {
        let of_chain = |of: &ChainId, gap: &Gap| {
            gap.stream == chain.stream
                && of.node == chain.node
                && gap.incarnation.unwrap_or(of.incarnation) == chain.incarnation
        };
        let told = self.gaps.iter().filter(|(of, gap)| gap.after_seq.is_some() && of_chain(of, gap));
        let told = told.filter_map(|(_, gap)| gap.count).sum();
        let records = self.records.get(chain);
        let newest_here = records.and_then(|r| r.keys().next_back().copied()).unwrap_or(0);
        let runs = self.given_up.get(chain).into_iter().flatten().map(|(_, last)| *last);
        let newest = runs.filter(|last| *last < Seq::MAX).chain([newest_here]).max().unwrap_or(0);
        (newest - records.map_or(0, |r| r.len() as u64), told)
    }

    /// What `acknowledged` promises and this ledger has not; at most ten.
    pub fn broken_promises(&self, acknowledged: &BTreeMap<ChainId, Seq>) -> Vec<String> {
        let none = BTreeMap::new();
        let mut broken = Vec::new();
        for (chain, last) in acknowledged {
            let records = self.records.get(chain).unwrap_or(&none);
            let missing = (1..=*last).filter(|s| !records.contains_key(s) && !self.is_given_up(chain, *s));
            broken.extend(
                missing
                    .take(3)
                    .map(|seq| format!("{chain} seq {seq} was acknowledged up to {last} and is gone")),
            );
        }
        broken.truncate(10);
        broken
    }

    /// Takes the larger acknowledgement of each chain over from `other`.
    pub fn remember_acknowledged(&mut self, other: &Self) {
        for (chain, seq) in &other.acknowledged {
            let newest = self.acknowledged.entry(chain.clone()).or_default();
            *newest = (*newest).max(*seq);
        }
    }

    /// Numbered lines from 1 to `last` that are missing, and those that are there more than once.
    pub fn lines_against(&self, last: u64) -> (Vec<u64>, Vec<u64>) {
        let missing = (1..=last).filter(|n| !self.lines.contains_key(n)).collect();
        let twice = self.lines.iter().filter(|(_, count)| **count > 1).map(|(n, _)| *n).collect();
        (missing, twice)
    }

    /// Bytes of logs that gap records give up: inode, first byte, byte behind the last, lines said to be in them.
    pub fn bytes_given_up(&self) -> Vec<(u64, u64, u64, u64)> {
        let told =
            self.gaps.iter().filter(|(_, g)| g.source.starts_with("log:") && g.stream == Stream::Evidence);
        told.filter_map(|(_, gap)| {
            let words = gap.reason.rsplit_once("(bytes ")?.1;
            let mut numbers = words.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
            let (from, to, inode) = (numbers.next()?, numbers.next()?, numbers.next()?);
            Some((inode, from, to, gap.count.unwrap_or(0)))
        })
        .collect()
    }

    /// Incarnations of which there are records.
    pub fn incarnations(&self) -> usize {
        self.records.keys().map(|c| (c.node.clone(), c.incarnation)).collect::<BTreeSet<_>>().len()
    }
}

/// The number of a line that a [`Scribe`](crate::scribe::Scribe) wrote.
fn number(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let digits = text.split("seq=").nth(1)?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
