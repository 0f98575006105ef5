//! One stream's journal, chain and cursor.
//!
//! Invariants: a block is sealed once; if its append or sync fails, the same bytes are tried again, never a second
//! sealing of the same seqs (that would be an equivocation). The chain's head moves when the block is appended; it is
//! told to others when it is durable. Blocks are released for recycling when the collector acknowledged them, or, in a
//! stream that is not spooled, at once.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dogwatch::block::{Block, BlockError, Place, Predecessor, Start};
use dogwatch::chain::{ChainId, Head, HeadStatement, SignedHead, SignedReceipt};
use dogwatch::journal::{BlockInfo, FrameKind, Journal, JournalError, Options, Position, Reader, Recovered};
use dogwatch::record::{Incarnation, NodeName, Record, Seq, Stream};
use ed25519_dalek::SigningKey;

use super::KeptRange;

/// What is known of a block that is in the journal and not acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Unacked {
    pub(crate) at: Position,
    pub(crate) incarnation: Incarnation,
    pub(crate) first_seq: Seq,
    pub(crate) last_seq: Seq,
    pub(crate) first_wall_ns: i64,
    pub(crate) last_wall_ns: i64,
}

/// A block that had to go before it was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Evicted {
    pub(crate) incarnation: Incarnation,
    pub(crate) first_seq: Seq,
    pub(crate) last_seq: Seq,
    pub(crate) from_wall_ns: i64,
    pub(crate) to_wall_ns: i64,
    /// How many records of each source it held; empty where it could not be read any more.
    pub(crate) sources: Vec<(String, u64)>,
}

/// What a ring gave up at once.
#[derive(Debug, Default)]
pub(crate) struct Eviction {
    /// The blocks, oldest first.
    pub(crate) blocks: Vec<Evicted>,
    /// The seqs that nobody will find here any more: those of the blocks, and what was lost around them before it was sealed,
    /// which is told already.
    pub(crate) runs: Vec<(Incarnation, Seq, Seq)>,
}

/// What opening a lane found.
#[derive(Debug)]
pub(crate) struct LaneOpened {
    pub(crate) recovered: Recovered,
    /// The newest incarnation before this one, and the wall time of its last block.
    pub(crate) predecessor: Option<(Predecessor, i64)>,
}

/// The writer of one stream.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) stream: Stream,
    dir: PathBuf,
    options: Options,
    chain: ChainId,
    journal: Option<Journal>,
    head: Head,
    blocks: u64,
    start: Option<Start>,
    receipt: Option<SignedReceipt>,
    /// Sealed, in order, appended or not, not yet known to be durable.
    unsynced: VecDeque<(Block, Option<Position>)>,
    unacked: VecDeque<Unacked>,
    acked: HashMap<Incarnation, Seq>,
    signed: Head,
    spooled: bool,
    /// Whether what is kept changed since [`Lane::take_kept`].
    changed: bool,
    news: u64,
}

impl Lane {
    /// Opens the stream's journal and finds what is not acknowledged. A stream that is not `spooled` waits for nobody.
    pub(crate) fn open(
        dir: &Path,
        stream: Stream,
        options: Options,
        node: &NodeName,
        incarnation: Incarnation,
        spooled: bool,
    ) -> Result<(Self, LaneOpened), JournalError> {
        let dir = dir.join(stream.as_str());
        let (journal, recovered) = Journal::open(&dir, options)?;
        let reader = Reader::open(&dir)?;
        let mut unacked = VecDeque::new();
        let mut acked: HashMap<Incarnation, Seq> = HashMap::new();
        let mut newest: Option<(Predecessor, i64)> = None;
        for (at, info) in reader.blocks()? {
            newest = Some((
                Predecessor { incarnation: info.chain.incarnation, last_seq: info.last_seq, head: info.hash },
                info.last_wall_ns,
            ));
            if spooled {
                unacked.push_back(Unacked {
                    at,
                    incarnation: info.chain.incarnation,
                    first_seq: info.first_seq,
                    last_seq: info.last_seq,
                    first_wall_ns: info.first_wall_ns,
                    last_wall_ns: info.last_wall_ns,
                });
            }
        }
        if spooled {
            for entry in reader.scan(Position::default()).flatten() {
                if entry.kind != FrameKind::Receipt {
                    continue;
                }
                if let Ok(r) = SignedReceipt::from_bytes(&entry.payload).and_then(|r| r.decode()) {
                    let seq = acked.entry(r.chain.incarnation).or_default();
                    *seq = (*seq).max(r.head.last_seq);
                }
            }
        }
        let chain = ChainId { node: node.clone(), incarnation, stream };
        let mut lane = Self {
            stream,
            dir,
            options,
            chain,
            journal: Some(journal),
            head: Head::default(),
            blocks: 0,
            start: None,
            receipt: None,
            unsynced: VecDeque::new(),
            unacked,
            acked,
            signed: Head::default(),
            spooled,
            changed: true,
            news: 0,
        };
        lane.release();
        Ok((lane, LaneOpened { recovered, predecessor: newest }))
    }

    /// What the first block of this incarnation says of its start.
    pub(crate) fn begin(&mut self, start: Start) {
        self.start = Some(start);
    }

    /// Seals `records` (contiguous seqs) as the chain's next block; it waits for [`Lane::flush`].
    pub(crate) fn seal(
        &mut self,
        records: &[Record],
        salt: &mut dyn FnMut() -> [u8; 16],
    ) -> Result<(), BlockError> {
        let place = Place {
            node: self.chain.node.clone(),
            incarnation: self.chain.incarnation,
            stream: self.stream,
            previous: self.head.hash,
            start: (self.blocks == 0).then(|| self.start.clone()).flatten(),
            receipt: self.receipt.take(),
        };
        // A receipt is the collector's to word: one that no block can carry must not cost a record.
        let bare = place.receipt.is_some().then(|| Place { receipt: None, ..place.clone() });
        let block = match (Block::seal(place, records, salt), bare) {
            (Err(_), Some(bare)) => Block::seal(bare, records, salt)?,
            (sealed, _) => sealed?,
        };
        self.blocks += 1;
        self.head = Head { last_seq: block.header().last_seq, hash: block.hash() };
        self.unsynced.push_back((block, None));
        Ok(())
    }

    /// Blocks and signed heads that became durable since the start.
    pub(crate) fn news(&self) -> u64 {
        self.news
    }

    /// Whether sealed blocks wait for the disk.
    pub(crate) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Bytes of sealed blocks that wait for the disk.
    pub(crate) fn unsynced_bytes(&self) -> usize {
        self.unsynced
            .iter()
            .flat_map(|(block, _)| &block.header().sections)
            .map(|section| section.stored_bytes as usize)
            .sum()
    }

    /// Appends what is sealed and makes it durable. On an error nothing is forgotten: call again.
    pub(crate) fn flush(&mut self, wall_ns: i64) -> Result<(), JournalError> {
        self.flush_and(None, wall_ns)
    }

    /// [`Lane::flush`], and with the blocks the signed statement of where the chain then stands: one sync for both.
    /// Where there is no room for the statement, the next one covers it.
    pub(crate) fn flush_signed(&mut self, key: &SigningKey, wall_ns: i64) -> Result<(), JournalError> {
        self.flush_and(Some(key), wall_ns)
    }

    fn flush_and(&mut self, key: Option<&SigningKey>, wall_ns: i64) -> Result<(), JournalError> {
        self.reopen()?;
        let statement = key.filter(|_| self.is_unsigned()).map(|key| self.statement(key, wall_ns));
        let Some(journal) = self.journal.as_mut() else { return Ok(()) };
        for (block, at) in self.unsynced.iter_mut().filter(|(_, at)| at.is_none()) {
            let h = block.header();
            let info = BlockInfo {
                chain: self.chain.clone(),
                first_seq: h.first_seq,
                last_seq: h.last_seq,
                first_wall_ns: h.first_at.wall_ns,
                last_wall_ns: h.last_at.wall_ns,
                kinds: h.kinds,
                hash: block.hash(),
            };
            match journal.append_block(&info, &block.encode(), wall_ns) {
                Ok(position) => *at = Some(position),
                Err(e @ JournalError::Full { .. }) => return Err(e),
                Err(e) => {
                    self.journal = None;
                    return Err(e);
                }
            }
        }
        let mut signed = false;
        if let Some(payload) = statement {
            match journal.append(FrameKind::SignedHead, &payload, wall_ns) {
                Ok(_) => signed = true,
                Err(JournalError::Full { .. }) => {}
                Err(e) => {
                    self.journal = None;
                    return Err(e);
                }
            }
        }
        if let Err(e) = journal.sync() {
            self.journal = None;
            return Err(e);
        }
        if signed {
            self.signed = self.head;
            self.news += 1;
        }
        self.changed |= self.spooled && !self.unsynced.is_empty();
        self.news += self.unsynced.len() as u64;
        for (block, at) in self.unsynced.drain(..) {
            if self.spooled
                && let Some(at) = at
            {
                let h = block.header();
                self.unacked.push_back(Unacked {
                    at,
                    incarnation: self.chain.incarnation,
                    first_seq: h.first_seq,
                    last_seq: h.last_seq,
                    first_wall_ns: h.first_at.wall_ns,
                    last_wall_ns: h.last_at.wall_ns,
                });
            }
        }
        self.release();
        Ok(())
    }

    /// Signs where the chain stands, if it moved since the last time, and appends the statement (durable with the
    /// next [`Lane::flush`], or by `sync`).
    pub(crate) fn sign(&mut self, key: &SigningKey, wall_ns: i64) -> Result<bool, JournalError> {
        if !self.is_unsigned() || self.has_unsynced() {
            return Ok(false);
        }
        self.reopen()?;
        let statement = self.statement(key, wall_ns);
        let Some(journal) = self.journal.as_mut() else { return Ok(false) };
        let kept = journal.append(FrameKind::SignedHead, &statement, wall_ns).and_then(|_| journal.sync());
        match kept {
            Ok(()) => {
                self.signed = self.head;
                self.news += 1;
                Ok(true)
            }
            // Whoever appends the next block makes room or says that there is none; the head after it covers this one.
            Err(JournalError::Full { .. }) => Ok(false),
            Err(e) => {
                self.journal = None;
                Err(e)
            }
        }
    }

    /// Whether the chain moved since its head was signed last.
    pub(crate) fn is_unsigned(&self) -> bool {
        self.head != self.signed
    }

    fn statement(&self, key: &SigningKey, wall_ns: i64) -> Vec<u8> {
        let (chain, head, blocks) = (self.chain.clone(), self.head, self.blocks);
        SignedHead::sign(&HeadStatement { chain, head, wall_ns, blocks }, key).encode()
    }

    /// Takes an acknowledgement in: the cursor, the receipt for the next block, and what may be recycled.
    pub(crate) fn acknowledge(
        &mut self,
        incarnation: Incarnation,
        last_seq: Seq,
        receipt: SignedReceipt,
        wall_ns: i64,
    ) {
        let seq = self.acked.entry(incarnation).or_default();
        if last_seq <= *seq {
            return;
        }
        *seq = last_seq;
        // First what may go, so that a full ring has room for the receipt.
        self.release();
        if let Some(journal) = self.journal.as_mut()
            && let Err(error) = journal.append(FrameKind::Receipt, &receipt.encode(), wall_ns)
        {
            // Not fatal: without its receipt the block is sent once more after a restart, and acknowledged again.
            tracing::debug!(stream = %self.stream, %error, "a receipt was not kept");
        }
        if incarnation == self.chain.incarnation {
            self.receipt = Some(receipt);
        }
    }

    /// Lets go of a block that the collector will never take, so that it does not hold the ring for ever.
    pub(crate) fn let_go(&mut self, incarnation: Incarnation, first: Seq, last: Seq) {
        self.unacked.retain(|u| (u.incarnation, u.first_seq, u.last_seq) != (incarnation, first, last));
        self.changed = true;
        self.release();
    }

    /// Gives up the oldest segment that is not acknowledged, so that the newest can be kept.
    pub(crate) fn evict_oldest_segment(&mut self) -> Eviction {
        let Some(segment) = self.unacked.front().map(|u| u.at.segment) else { return Eviction::default() };
        let goes = self.unacked.iter().take_while(|u| u.at.segment == segment).count();
        let mut sources = self.sources_of(segment);
        let going: Vec<Unacked> = self.unacked.drain(..goes).collect();
        let mut eviction = Eviction::default();
        for u in going {
            let last_seq = self.last_lost_with(&u);
            match eviction.runs.last_mut().filter(|run| run.0 == u.incarnation) {
                Some(run) => run.2 = last_seq,
                None => eviction.runs.push((u.incarnation, self.first_lost_with(&u), last_seq)),
            }
            eviction.blocks.push(Evicted {
                sources: sources.remove(&u.at).unwrap_or_default(),
                incarnation: u.incarnation,
                first_seq: u.first_seq,
                last_seq: u.last_seq,
                from_wall_ns: u.first_wall_ns,
                to_wall_ns: u.last_wall_ns,
            });
        }
        self.changed = true;
        self.release();
        eviction
    }

    /// What the blocks of a segment hold, by source. It is read once, when it goes: to remember it of each block would
    /// cost more.
    fn sources_of(&self, segment: u64) -> HashMap<Position, Vec<(String, u64)>> {
        let Ok(reader) = Reader::open(&self.dir) else { return HashMap::new() };
        let entries = reader.scan(Position { segment, offset: 0 }).map_while(Result::ok);
        let blocks = entries.take_while(|e| e.at.segment == segment).filter(|e| e.kind == FrameKind::Block);
        let counts = |block: Block| {
            block.header().sections.iter().map(|s| (s.source.clone(), u64::from(s.records))).collect()
        };
        blocks.filter_map(|e| Some((e.at, counts(Block::decode(e.payload).ok()?)))).collect()
    }

    /// The first seq that goes with a block: of this run, everything since the newest acknowledgement that is not in a
    /// block was lost before it was sealed. Of an earlier run the newest acknowledgement may not have been kept.
    fn first_lost_with(&self, u: &Unacked) -> Seq {
        if u.incarnation == self.chain.incarnation {
            self.acked.get(&u.incarnation).map_or(1, |acked| acked.saturating_add(1)).min(u.first_seq)
        } else {
            u.first_seq
        }
    }

    /// The last seq that goes with the block that was the oldest: up to the next one's first.
    fn last_lost_with(&self, u: &Unacked) -> Seq {
        let next = |first: Seq| first.saturating_sub(1).max(u.last_seq);
        let kept = self.unacked.front().filter(|n| n.incarnation == u.incarnation).map(|n| next(n.first_seq));
        let waiting = || {
            let block = self.unsynced.front().filter(|_| u.incarnation == self.chain.incarnation);
            block.map(|(block, _)| next(block.header().first_seq))
        };
        kept.or_else(waiting).unwrap_or(u.last_seq)
    }

    /// How full the ring is of what must not be recycled: 0 to 1.
    pub(crate) fn pressure(&self) -> f64 {
        let (Some(oldest), Some(journal)) = (self.unacked.front(), self.journal.as_ref()) else { return 0.0 };
        // Counted, not subtracted: a number is taken at each start, and a coalesced block keeps its old one.
        let held = journal.segments().iter().filter(|s| s.number >= oldest.at.segment).count();
        held as f64 / f64::from(self.options.max_segments.max(1))
    }

    /// Blocks that wait for the collector.
    pub(crate) fn unacked(&self) -> &VecDeque<Unacked> {
        &self.unacked
    }

    /// What waits for the collector, by incarnation, oldest first; `None` where nothing changed since the last call.
    pub(crate) fn take_kept(&mut self) -> Option<Vec<KeptRange>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut kept: Vec<KeptRange> = Vec::new();
        for u in &self.unacked {
            match kept.iter_mut().rev().find(|k| k.incarnation == u.incarnation) {
                Some(k) => k.last_seq = k.last_seq.max(u.last_seq),
                None => kept.push(KeptRange {
                    incarnation: u.incarnation,
                    first_seq: u.first_seq,
                    last_seq: u.last_seq,
                    from: u.at,
                }),
            }
        }
        Some(kept)
    }

    /// Bytes in the ring, and its size.
    pub(crate) fn ring_bytes(&self) -> (u64, u64) {
        let segments = self.journal.as_ref().map(Journal::segments).unwrap_or_default();
        let limit = self.options.segment_bytes * u64::from(self.options.max_segments);
        (segments.iter().map(|s| s.used_bytes).sum(), limit)
    }

    /// Where the chain stands, durable or not.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// The bytes of a block, to set it aside.
    pub(crate) fn read(&self, at: Position) -> Option<Bytes> {
        Reader::open(&self.dir).ok()?.read_at(at).ok()?.map(|e| e.payload)
    }

    /// Ends the journal cleanly.
    pub(crate) fn close(self) -> Result<(), JournalError> {
        self.journal.map_or(Ok(()), Journal::close)
    }

    /// Opens a journal that failed anew; it begins a new segment and finds out what is whole.
    fn reopen(&mut self) -> Result<(), JournalError> {
        if self.journal.is_some() {
            return Ok(());
        }
        let (journal, _) = Journal::open(&self.dir, self.options)?;
        self.journal = Some(journal);
        // A new opening knows nothing of what was released before.
        self.release();
        // What the disk holds all the same is not appended again: a seq stands in a journal once.
        let dir = &self.dir;
        let mut gone = false;
        for (block, at) in &mut self.unsynced {
            gone |= !at.is_some_and(|at| holds(dir, at, &block.encode()));
            if gone {
                *at = None;
            }
        }
        Ok(())
    }

    fn release(&mut self) {
        while let Some(u) = self.unacked.front() {
            if self.acked.get(&u.incarnation).is_some_and(|seq| u.last_seq <= *seq) {
                self.unacked.pop_front();
                self.changed = true;
            } else {
                break;
            }
        }
        if let Some(journal) = self.journal.as_mut() {
            let current = journal.segments().last().map_or(0, |s| s.number);
            journal.release_before(self.unacked.front().map_or(current, |u| u.at.segment.min(current)));
        }
    }
}

/// Whether the disk durably holds the frame at `at`, and it is `bytes`.
fn holds(dir: &Path, at: Position, bytes: &[u8]) -> bool {
    let synced = match File::open(dir.join(format!("{:020}.seg", at.segment))) {
        Ok(file) => file.sync_data().is_ok(),
        // Coalesced at the opening, and durable with that.
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    };
    let read = || Reader::open(dir).ok()?.read_at(at).ok()?;
    synced && read().is_some_and(|entry| entry.payload == bytes)
}
