//! One stream's journal, chain and cursor.
//!
//! Invariants: a block is sealed once; if its append or sync fails, the same bytes are tried again, never a second
//! sealing of the same seqs (that would be an equivocation). The chain's head moves when the block is appended; it is
//! told to others when it is durable. Blocks are released for recycling when the collector acknowledged them, or, in a
//! stream that is not spooled, at once.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dogwatch::block::{Block, BlockError, Place, Predecessor, Start};
use dogwatch::chain::{ChainId, Head, HeadStatement, SignedHead, SignedReceipt};
use dogwatch::journal::{BlockInfo, FrameKind, Journal, JournalError, Options, Position, Reader, Recovered};
use dogwatch::record::{Incarnation, NodeName, Record, Seq, Stream};
use ed25519_dalek::SigningKey;

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
}

impl Lane {
    /// Opens the stream's journal and finds what is not acknowledged.
    pub(crate) fn open(
        dir: &Path,
        stream: Stream,
        options: Options,
        node: &NodeName,
        incarnation: Incarnation,
    ) -> Result<(Self, LaneOpened), JournalError> {
        let dir = dir.join(stream.as_str());
        let (journal, recovered) = Journal::open(&dir, options)?;
        let reader = Reader::open(&dir)?;
        let spooled = stream != Stream::Recorder;
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
            receipt: self.receipt.clone(),
        };
        let block = Block::seal(place, records, salt)?;
        self.receipt = None;
        self.blocks += 1;
        self.head = Head { last_seq: block.header().last_seq, hash: block.hash() };
        self.unsynced.push_back((block, None));
        Ok(())
    }

    /// Whether sealed blocks wait for the disk.
    pub(crate) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Appends what is sealed and makes it durable. On an error nothing is forgotten: call again.
    pub(crate) fn flush(&mut self, wall_ns: i64) -> Result<(), JournalError> {
        let journal = match self.journal.as_mut() {
            Some(j) => j,
            None => {
                // A journal that failed is opened anew; it begins a new segment and finds out what is whole.
                let (journal, _) = Journal::open(&self.dir, self.options)?;
                for (_, at) in &mut self.unsynced {
                    *at = None;
                }
                self.journal.insert(journal)
            }
        };
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
        if let Err(e) = journal.sync() {
            self.journal = None;
            return Err(e);
        }
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
        if self.head == self.signed || self.has_unsynced() {
            return Ok(false);
        }
        let Some(journal) = self.journal.as_mut() else { return Ok(false) };
        let statement =
            HeadStatement { chain: self.chain.clone(), head: self.head, wall_ns, blocks: self.blocks };
        let signed = SignedHead::sign(&statement, key);
        journal.append(FrameKind::SignedHead, &signed.encode(), wall_ns)?;
        journal.sync()?;
        self.signed = self.head;
        Ok(true)
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
        if let Some(journal) = self.journal.as_mut()
            && let Err(error) = journal.append(FrameKind::Receipt, &receipt.encode(), wall_ns)
        {
            // Not fatal: without its receipt the block is sent once more after a restart, and acknowledged again.
            tracing::debug!(stream = %self.stream, %error, "a receipt was not kept");
        }
        if incarnation == self.chain.incarnation {
            self.receipt = Some(receipt);
        }
        self.release();
    }

    /// Gives up the oldest segment that is not acknowledged, so that the newest can be kept.
    pub(crate) fn evict_oldest_segment(&mut self) -> Vec<Evicted> {
        let Some(segment) = self.unacked.front().map(|u| u.at.segment) else { return Vec::new() };
        let mut evicted = Vec::new();
        while let Some(u) = self.unacked.front().filter(|u| u.at.segment == segment) {
            evicted.push(Evicted {
                incarnation: u.incarnation,
                first_seq: u.first_seq,
                last_seq: u.last_seq,
                from_wall_ns: u.first_wall_ns,
                to_wall_ns: u.last_wall_ns,
            });
            self.unacked.pop_front();
        }
        self.release();
        evicted
    }

    /// How full the ring is of what must not be recycled: 0 to 1.
    pub(crate) fn pressure(&self) -> f64 {
        let (Some(oldest), Some(journal)) = (self.unacked.front(), self.journal.as_ref()) else { return 0.0 };
        let newest = journal.segments().last().map_or(oldest.at.segment, |s| s.number);
        (newest.saturating_sub(oldest.at.segment) + 1) as f64 / f64::from(self.options.max_segments.max(1))
    }

    /// Blocks that wait for the collector.
    pub(crate) fn unacked(&self) -> &VecDeque<Unacked> {
        &self.unacked
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

    fn release(&mut self) {
        while let Some(u) = self.unacked.front() {
            if self.acked.get(&u.incarnation).is_some_and(|seq| u.last_seq <= *seq) {
                self.unacked.pop_front();
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
