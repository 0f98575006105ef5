//! Appending: the thread of one journal of blocks. It checks, appends, syncs once, and answers all who waited.
//!
//! Invariants: an answer is given after the sync that makes it true. Heads, catalog and the mark on the board move
//! together, after that sync and never before, so what was not answered is not known.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::block::Block;
use dogwatch::chain::{ChainId, Head, ReceiptStatement, SignedHead, SignedReceipt};
use dogwatch::journal::{BlockInfo, FrameKind, Journal, JournalError, Position};
use dogwatch::record::{Hash, Seq, Stream};
use tokio::sync::oneshot;

use super::catalog::Sought;
use super::check::{Verdict, judge};
use super::held::{GROWTH, Kept, first_kept};
use super::space::{Gate, free_bytes};
use super::writer::{Arrival, BlockJob, Job, Parts};
use super::{CommitError, Committed, Stored, frames};

/// Between looks at retention and free space when nothing comes in.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Most bytes appended under one sync: bounds how long the first of a batch waits for the last.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Most answers given under one sync.
const BATCH_JOBS: usize = 4096;

/// What the thread has.
pub(super) struct Thread {
    p: Parts,
    gate: Gate,
    batch_bytes: usize,
    looked: Instant,
    /// Segment of the last append: a new one is when retention must look.
    segment: u64,
    /// Heads whose signature is stored already, so that a chain at rest does not fill the journal.
    attested: HashMap<ChainId, Head>,
    /// Why nothing is taken while what is held fills the journal.
    outgrown: Option<CommitError>,
}

/// What becomes of a signed head.
type Attested = Result<(), CommitError>;

/// What is pending until the sync.
#[derive(Default)]
struct Pending {
    heads: HashMap<ChainId, Head>,
    hashes: HashMap<(ChainId, Seq), Hash>,
    blocks: Vec<(Position, BlockInfo)>,
    attested: Vec<(ChainId, Head)>,
    last: Option<Position>,
    acks: Vec<(Box<BlockJob>, Stored)>,
    heads_answered: Vec<(oneshot::Sender<Attested>, Attested)>,
}

impl Thread {
    pub(super) fn new(p: Parts) -> Self {
        let gate = Gate::new(p.reserve_free_bytes);
        // So that one batch begins one new segment at most.
        let half = usize::try_from(p.seat.segment_bytes() / 2).unwrap_or(BATCH_BYTES);
        Self {
            p,
            gate,
            batch_bytes: BATCH_BYTES.min(half),
            looked: Instant::now(),
            segment: 0,
            attested: HashMap::new(),
            outgrown: None,
        }
    }

    /// Runs until the store closes.
    pub(super) fn run(mut self, inbox: &Receiver<Job>) {
        self.housekeeping();
        let mut stop = false;
        while !stop {
            let first = match inbox.recv_timeout(HOUSEKEEPING) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Some(first) = first {
                let mut batch = vec![first];
                let mut bytes = size(&batch[0]);
                while bytes < self.batch_bytes && batch.len() < BATCH_JOBS {
                    let Ok(job) = inbox.try_recv() else { break };
                    bytes += size(&job);
                    batch.push(job);
                }
                stop = batch.iter().any(|j| matches!(j, Job::Stop));
                self.write(batch);
            }
            if self.looked.elapsed() >= HOUSEKEEPING {
                self.housekeeping();
            }
        }
        let dir = self.p.shared.dir.clone();
        if let Err(error) = self.p.seat.close() {
            tracing::error!(journal = %dir.display(), %error, "the journal did not close cleanly");
        }
    }

    fn write(&mut self, batch: Vec<Job>) {
        let mut pending = Pending::default();
        let refused = self.room();
        let mut failed: Option<CommitError> = None;
        for job in batch {
            match job {
                Job::Stop => {}
                Job::Block(job) => {
                    if let Some(e) = &failed {
                        answer(job.reply, Err(e.clone()));
                        continue;
                    }
                    match self.take(&mut pending, &job, refused.as_ref()) {
                        Ok(stored) => pending.acks.push((job, stored)),
                        Err(e) => {
                            // What follows would only fail the same way, one system call after another.
                            if matches!(
                                e,
                                CommitError::Unavailable { .. }
                                    | CommitError::Full { .. }
                                    | CommitError::Held { .. }
                            ) {
                                failed = Some(e.clone());
                            }
                            answer(job.reply, Err(e));
                        }
                    }
                }
                Job::Head { signed, chain, head, reply } => {
                    let outcome = match (&failed, &refused) {
                        (Some(e), _) | (None, Some(e)) => Err(e.clone()),
                        (None, None) => self.attest(&mut pending, &signed, chain, head),
                    };
                    pending.heads_answered.push((reply, outcome));
                }
            }
        }
        self.settle(pending);
    }

    /// Whether there is room; the error for everybody if not.
    fn room(&mut self) -> Option<CommitError> {
        let free = match free_bytes(&self.p.shared.dir) {
            Ok(free) => free,
            Err(e) => {
                tracing::warn!(dir = %self.p.shared.dir.display(), error = %e, "cannot measure free space");
                return None;
            }
        };
        let reserve_bytes = self.p.reserve_free_bytes;
        let open = self.gate.measure(free);
        let full = (!open).then_some(CommitError::Full { free_bytes: free, reserve_bytes });
        let refusal = full.or_else(|| self.outgrown.clone());
        let accepting = refusal.is_none();
        let mut stats = self.p.shared.stats();
        if stats.accepting != accepting {
            let why = refusal.as_ref().map(ToString::to_string);
            tracing::warn!(stream = %self.p.shared.stream, free_bytes = free, reserve_bytes, accepting, why, "whether blocks are accepted");
        }
        stats.free_bytes = free;
        stats.reserve_free_bytes = reserve_bytes;
        stats.accepting = accepting;
        stats.refusing = refusal.as_ref().map(ToString::to_string);
        refusal
    }

    fn take(
        &mut self,
        pending: &mut Pending,
        job: &BlockJob,
        refused: Option<&CommitError>,
    ) -> Result<Stored, CommitError> {
        let chain = &job.info.chain;
        let head = pending.heads.get(chain).copied().or_else(|| self.p.shared.heads().get(chain).copied());
        let verdict = judge(head, &job.link);
        match (verdict, refused) {
            (Verdict::Known, _) => Ok(Stored::Known),
            (Verdict::Before, _) => self.compare(pending, job, head),
            (Verdict::Fork { known }, _) => Err(self.fork(job, known)),
            (_, Some(full)) => Err(full.clone()),
            (Verdict::Rewind { expected_seq }, None) => Err(CommitError::Rewind { expected_seq }),
            (Verdict::Next, None) => self.append(pending, job).map(|()| Stored::Now),
            (Verdict::AfterLoss, None) => {
                let expected_seq = head.map_or(1, |h| h.last_seq.saturating_add(1));
                self.append(pending, job).map(|()| Stored::AfterLoss { expected_seq })
            }
        }
    }

    fn append(&mut self, pending: &mut Pending, job: &BlockJob) -> Result<(), CommitError> {
        let now = (self.p.clock)();
        let at = self.on_journal(|j| j.append_block(&job.info, &job.bytes, now))?;
        let chain = &job.info.chain;
        pending.heads.insert(chain.clone(), Head { last_seq: job.info.last_seq, hash: job.info.hash });
        pending.hashes.insert((chain.clone(), job.info.first_seq), job.info.hash);
        pending.blocks.push((at, job.info.clone()));
        pending.last = Some(at);
        Ok(())
    }

    fn attest(
        &mut self,
        pending: &mut Pending,
        signed: &SignedHead,
        chain: ChainId,
        head: Head,
    ) -> Result<(), CommitError> {
        if self.attested.get(&chain) == Some(&head) {
            return Ok(());
        }
        let now = (self.p.clock)();
        let bytes = signed.encode();
        let at = self.on_journal(|j| j.append(FrameKind::SignedHead, &bytes, now))?;
        pending.last = Some(at);
        let known = pending.heads.get(&chain).copied().or_else(|| self.p.shared.heads().get(&chain).copied());
        pending.attested.push((chain.clone(), head));
        match known {
            // The node signed another block at a seq that it sent: its own word against its own word.
            Some(k) if k.last_seq == head.last_seq && k.hash != head.hash => Err(CommitError::Equivocation {
                chain: Box::new(chain),
                seq: head.last_seq,
                known: k.hash,
                offered: head.hash,
                aside: None,
            }),
            _ => Ok(()),
        }
    }

    /// Runs `f` on the journal; makes room by retention once if the journal is as large as it may become. A journal that
    /// lacks room on the disk drops nothing: what was acked stays, what comes waits.
    fn on_journal<T>(
        &mut self,
        mut f: impl FnMut(&mut Journal) -> Result<T, JournalError>,
    ) -> Result<T, CommitError> {
        let unavailable = |reason: Arc<str>| CommitError::Unavailable { reason };
        let most = self.p.retention.max_segments(self.p.seat.segment_bytes()) as usize;
        let journal = self.p.seat.journal().map_err(unavailable)?;
        let outcome = match f(journal) {
            Err(JournalError::Full { .. }) if journal.segments().len() >= most => {
                if let Some(second) = journal.segments().get(1).map(|s| s.number) {
                    self.expire_unheld(second);
                }
                f(self.p.seat.journal().map_err(unavailable)?)
            }
            other => other,
        };
        outcome.map_err(|e| match e {
            JournalError::TooLarge { .. } => CommitError::TooLarge { reason: e.to_string() },
            JournalError::Full { .. } => CommitError::Full {
                free_bytes: free_bytes(&self.p.shared.dir).unwrap_or_default(),
                reserve_bytes: self.p.reserve_free_bytes,
            },
            JournalError::Failed { .. } => unavailable(self.p.seat.fail(&e)),
            // Nothing has changed: the next attempt begins where this one did.
            e => unavailable(e.to_string().into()),
        })
    }

    /// Syncs and answers.
    fn settle(&mut self, pending: Pending) {
        let synced = match pending.last {
            None => Ok(()),
            Some(_) => match self.p.seat.journal() {
                Ok(j) => j.sync().map_err(|e| self.p.seat.fail(&e)),
                Err(why) => Err(why),
            },
        };
        if let Err(reason) = synced {
            let error = CommitError::Unavailable { reason };
            for (job, _) in pending.acks {
                answer(job.reply, Err(error.clone()));
            }
            for (reply, _) in pending.heads_answered {
                answer(reply, Err(error.clone()));
            }
            return;
        }
        let shared = &self.p.shared;
        shared.heads().extend(pending.heads);
        {
            let mut catalog = shared.catalog();
            pending.blocks.iter().for_each(|(at, info)| catalog.add(*at, info));
        }
        self.attested.extend(pending.attested);
        if let Some(last) = pending.last {
            if shared.stream == Stream::Urgent {
                self.p.board.urgent(last);
            }
            let mut stats = shared.stats();
            stats.syncs += 1;
            stats.stored_blocks += pending.blocks.len() as u64;
            let stored = pending.acks.iter().filter(|(_, s)| *s != Stored::Known);
            stats.stored_bytes += stored.map(|(job, _)| job.bytes.len() as u64).sum::<u64>();
            drop(stats);
            for (at, _) in &pending.blocks {
                // Nobody listening is no error.
                let _ = shared.arrivals.send(Arrival { stream: shared.stream, at: *at });
            }
        }
        shared.stats().known_blocks +=
            pending.acks.iter().filter(|(_, s)| *s == Stored::Known).count() as u64;
        if let Some(last) = pending.last.filter(|l| l.segment != self.segment) {
            self.segment = last.segment;
            self.housekeeping();
        }
        self.acknowledge(pending.acks);
        for (reply, outcome) in pending.heads_answered {
            answer(reply, outcome);
        }
    }

    /// One receipt for each chain: it states the chain's head, which covers every block of the batch.
    fn acknowledge(&self, acks: Vec<(Box<BlockJob>, Stored)>) {
        let received_wall_ns = (self.p.clock)();
        let chains: HashSet<ChainId> = acks.iter().map(|(j, _)| j.info.chain.clone()).collect();
        let mut receipts = HashMap::new();
        for chain in chains {
            let Some(head) = self.p.shared.heads().get(&chain).copied() else { continue };
            let statement = ReceiptStatement { chain: chain.clone(), head, received_wall_ns };
            receipts.insert(chain, (head, SignedReceipt::sign(&statement, &self.p.receipt_key)));
        }
        for (job, stored) in acks {
            let outcome = match receipts.get(&job.info.chain) {
                Some((head, receipt)) => Ok(Committed { head: *head, receipt: receipt.clone(), stored }),
                None => Err(CommitError::Closed),
            };
            answer(job.reply, outcome);
        }
    }

    /// The rare path: a block from before the head. Only the journal tells whether it is the one that is known.
    fn compare(
        &mut self,
        pending: &Pending,
        job: &BlockJob,
        head: Option<Head>,
    ) -> Result<Stored, CommitError> {
        let offered = job.info.hash;
        let known = match pending.hashes.get(&(job.info.chain.clone(), job.link.first_seq)) {
            Some(hash) => Some(*hash),
            None => match self.hash_at(job) {
                Ok(hash) => hash,
                Err(Covered) => head.map(|h| h.hash),
            },
        };
        match known {
            Some(known) if known != offered => Err(self.fork(job, known)),
            // Known, or older than everything that is kept: the receipt speaks of the head, which holds either way.
            _ => Ok(Stored::Known),
        }
    }

    /// Hash of the stored block that holds the job's first seq; `None` where it is no longer kept.
    fn hash_at(&self, job: &BlockJob) -> Result<Option<Hash>, Covered> {
        let shared = &self.p.shared;
        let chain = &job.info.chain;
        let first_seq = job.link.first_seq;
        let sought = shared.catalog().seek(&chain.node, chain.incarnation, first_seq);
        let holds = |b: &Block| {
            let h = b.header();
            h.node == chain.node
                && h.incarnation == chain.incarnation
                && (h.first_seq..=h.last_seq).contains(&first_seq)
        };
        match sought {
            Sought::At(at) => {
                let entry = shared.reader.read_at(at).ok().flatten();
                let block = entry.and_then(|e| Block::decode(e.payload).ok()).filter(holds);
                Ok(block.map(|b| b.hash()))
            }
            Sought::Perhaps => {
                let segments = shared.catalog().summarised();
                Ok(segments.into_iter().flat_map(|n| frames::blocks_of(&shared.reader, n)).find_map(
                    |(_, info)| {
                        let here =
                            info.chain == *chain && (info.first_seq..=info.last_seq).contains(&first_seq);
                        here.then_some(info.hash)
                    },
                ))
            }
            Sought::Gone { oldest_seq: Some(oldest) } if first_seq >= oldest => Err(Covered),
            Sought::Gone { .. } => Ok(None),
        }
    }

    fn fork(&self, job: &BlockJob, known: Hash) -> CommitError {
        let mut aside = self.p.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = aside.keep(&job.info.chain.node, "equivocation", &job.bytes).unwrap_or_else(|e| {
            tracing::warn!(error = %e, "an offending block could not be kept aside");
            None
        });
        self.p.shared.stats().aside_turned_away = aside.turned_away();
        CommitError::Equivocation {
            chain: Box::new(job.info.chain.clone()),
            seq: job.link.first_seq,
            known,
            offered: job.info.hash,
            aside: kept,
        }
    }

    fn housekeeping(&mut self) {
        self.looked = Instant::now();
        let now = (self.p.clock)();
        let segment_bytes = self.p.seat.segment_bytes();
        let Ok(journal) = self.p.seat.journal() else { return };
        let segments = journal.segments();
        let keep_from = self.p.retention.keep_from(&segments, segment_bytes, now);
        let kept = keep_from.and_then(|keep| self.expire_unheld(keep).map(|kept| (keep, kept)));
        self.note_kept(kept);
        self.room();
    }

    /// Counts what is there and what of it is held, and decides whether it has outgrown what it may become.
    fn note_kept(&mut self, kept: Option<(u64, Kept)>) {
        let most = self.p.retention.max_segments(self.p.seat.segment_bytes()).saturating_mul(GROWTH) as usize;
        let Ok(journal) = self.p.seat.journal() else { return };
        let segments = journal.segments();
        self.outgrown = kept
            .as_ref()
            .filter(|_| segments.len() >= most)
            .map(|(_, kept)| CommitError::Held { segments: segments.len(), by: kept.by.clone() });
        let mut stats = self.p.shared.stats();
        stats.used_bytes = segments.iter().map(|s| s.used_bytes).sum();
        stats.segments = segments.len();
        stats.max_bytes = self.p.retention.max_bytes;
        stats.held_segments =
            kept.as_ref().map_or(0, |(keep, _)| segments.iter().filter(|s| s.number < *keep).count());
        stats.held_by = kept.map(|(_, kept)| kept.by);
    }

    /// Lets go what lies before `keep_from`, up to the first segment that is held; that one, if there is one.
    fn expire_unheld(&mut self, keep_from: u64) -> Option<Kept> {
        let segments = self.p.seat.journal().ok()?.segments();
        let spans = self.p.spans.get();
        let kept = first_kept(spans.as_deref(), &segments, &self.p.shared.catalog(), keep_from);
        let upto = kept.as_ref().map_or(keep_from, |k| k.from);
        if segments.first().is_some_and(|s| s.number < upto) {
            self.expire(upto);
        }
        kept
    }

    fn expire(&mut self, keep_from: u64) {
        let Ok(journal) = self.p.seat.journal() else { return };
        let before = journal.segments().len();
        journal.release_before(keep_from);
        if let Err(error) = journal.expire_before(keep_from) {
            self.p.seat.fail(&error);
            return;
        }
        let after = journal.segments().len();
        self.p.shared.stats().expired_segments += before.saturating_sub(after) as u64;
        let floor = match frames::floor(&self.p.shared.reader) {
            Ok(floor) => floor.unwrap_or(keep_from),
            Err(error) => {
                tracing::warn!(journal = %self.p.shared.dir.display(), %error, "what expired is forgotten later");
                return;
            }
        };
        self.p.shared.catalog().drop_before(floor);
        if self.p.shared.stream == Stream::Urgent {
            self.p.board.floor(floor);
        }
    }
}

/// The seq lies where blocks are kept, and none of them begins there: whatever was offered is another history.
struct Covered;

fn size(job: &Job) -> usize {
    match job {
        Job::Block(b) => b.bytes.len(),
        Job::Head { .. } | Job::Stop => 256,
    }
}

/// Answers; whoever stopped waiting misses nothing, since the state does not depend on it.
fn answer<T>(reply: oneshot::Sender<T>, outcome: T) {
    let _ = reply.send(outcome);
}
