//! The way to the thread that writes one journal of blocks: what waits, what others may look at, how it stops.
//!
//! What waits is bounded in bytes, by a budget for each stream, so that bulk never takes the room of what is urgent.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dogwatch::block::Block;
use dogwatch::chain::{ChainId, Head, SignedHead};
use dogwatch::journal::{BlockInfo, Position, Reader};
use dogwatch::record::{Seq, Stream};
use ed25519_dalek::SigningKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot};

use super::append::Thread;
use super::aside::Aside;
use super::board::Board;
use super::catalog::Catalog;
use super::check::Link;
use super::held::Spans;
use super::retention::Retention;
use super::seat::Seat;
use super::{Clock, CommitError, Committed};

/// Budgets are counted in units of this many bytes.
const BUDGET_UNIT: usize = 1024;

/// What one of the writers has that others may look at.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stream: Stream,
    pub(super) dir: PathBuf,
    pub(super) reader: Reader,
    heads: Mutex<HashMap<ChainId, Head>>,
    catalog: Mutex<Catalog>,
    stats: Mutex<Stats>,
    /// Told of each block that became durable.
    pub(super) arrivals: broadcast::Sender<Arrival>,
}

/// A block that became durable.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub(super) stream: Stream,
    pub(super) at: Position,
}

/// How a writer does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether blocks are accepted.
    pub accepting: bool,
    /// Why not, if not.
    pub refusing: Option<String>,
    /// Bytes that the journal's segments hold.
    pub used_bytes: u64,
    /// Most bytes that retention lets them hold.
    pub max_bytes: u64,
    /// Bytes that were free in the journal's filesystem when it was looked at last.
    pub free_bytes: u64,
    /// Free bytes below which nothing is accepted.
    pub reserve_free_bytes: u64,
    /// Segments in use.
    pub segments: usize,
    /// Blocks stored since start.
    pub stored_blocks: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Blocks acked again since start.
    pub known_blocks: u64,
    /// Syncs since start.
    pub syncs: u64,
    /// Segments expired since start.
    pub expired_segments: u64,
    /// Segments that retention would have let go and that are held, and what grew behind them beyond the limit.
    pub held_segments: usize,
    /// A hold's id that keeps them, or why nobody can tell what is held.
    pub held_by: Option<String>,
    /// Offered blocks for which there was no room aside.
    pub aside_turned_away: u64,
}

impl Arrival {
    /// Of which stream.
    pub fn stream(self) -> Stream {
        self.stream
    }
}

impl Shared {
    pub(super) fn new(
        stream: Stream,
        dir: PathBuf,
        reader: Reader,
        catalog: Catalog,
        arrivals: broadcast::Sender<Arrival>,
    ) -> Self {
        let stats = Stats { accepting: true, ..Stats::default() };
        Self {
            stream,
            dir,
            reader,
            heads: Mutex::default(),
            catalog: Mutex::new(catalog),
            stats: Mutex::new(stats),
            arrivals,
        }
    }

    pub(super) fn heads(&self) -> MutexGuard<'_, HashMap<ChainId, Head>> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request to the thread.
#[derive(Debug)]
pub(super) enum Job {
    Block(Box<BlockJob>),
    Head {
        signed: Box<SignedHead>,
        chain: ChainId,
        head: Head,
        reply: oneshot::Sender<Result<(), CommitError>>,
    },
    Stop,
}

/// A block to be stored.
#[derive(Debug)]
pub(super) struct BlockJob {
    pub(super) info: BlockInfo,
    pub(super) link: Link,
    pub(super) bytes: Vec<u8>,
    pub(super) reply: oneshot::Sender<Result<Committed, CommitError>>,
    /// Held until the answer is given: what waits is bounded by it.
    _room: OwnedSemaphorePermit,
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct BlockWriter {
    jobs: Sender<Job>,
    budget: Arc<Semaphore>,
    budget_units: u32,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is made of.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) seat: Seat,
    pub(super) aside: Arc<Mutex<Aside>>,
    pub(super) board: Arc<Board>,
    pub(super) retention: Retention,
    pub(super) reserve_free_bytes: u64,
    pub(super) receipt_key: SigningKey,
    pub(super) clock: Clock,
    pub(super) spans: Spans,
}

impl BlockWriter {
    pub(super) fn start(parts: Parts, budget_bytes: usize) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let budget_units = u32::try_from(budget_bytes / BUDGET_UNIT).unwrap_or(u32::MAX).max(1);
        let thread = std::thread::Builder::new()
            .name(format!("store-{}", parts.shared.stream))
            .spawn(move || Thread::new(parts).run(&inbox))?;
        Ok(Self {
            jobs,
            budget: Arc::new(Semaphore::new(budget_units as usize)),
            budget_units,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Hands a block to the thread once there is room for it; the answer comes whether or not anybody polls for it.
    pub(super) async fn submit(
        &self,
        block: &Block,
        oldest_held: Option<Seq>,
    ) -> Result<oneshot::Receiver<Result<Committed, CommitError>>, CommitError> {
        let header = block.header();
        let info = info_of(block);
        let bytes = block.encode();
        let units = u32::try_from(bytes.len().div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.budget)
            .acquire_many_owned(units.clamp(1, self.budget_units))
            .await
            .map_err(|_| CommitError::Closed)?;
        let link = Link {
            first_seq: header.first_seq,
            last_seq: header.last_seq,
            previous: header.previous,
            hash: block.hash(),
            oldest_held,
        };
        let (reply, answer) = oneshot::channel();
        let job = BlockJob { info, link, bytes, reply, _room: room };
        self.jobs.send(Job::Block(Box::new(job))).map_err(|_| CommitError::Closed)?;
        Ok(answer)
    }

    pub(super) async fn commit_head(
        &self,
        signed: SignedHead,
        chain: ChainId,
        head: Head,
    ) -> Result<(), CommitError> {
        let _room = self.budget.acquire().await.map_err(|_| CommitError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Job::Head { signed: Box::new(signed), chain, head, reply };
        self.jobs.send(job).map_err(|_| CommitError::Closed)?;
        answer.await.map_err(|_| CommitError::Closed)?
    }

    /// Ends the thread after what is queued and waits for it.
    pub(super) fn stop(&self) {
        // A thread that is gone already has nothing left to stop.
        let _ = self.jobs.send(Job::Stop);
        self.budget.close();
        if let Some(t) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && t.join().is_err()
        {
            tracing::error!("a writer of the store had panicked");
        }
    }
}

/// What the journal's footers say of a block.
pub(super) fn info_of(block: &Block) -> BlockInfo {
    let h = block.header();
    BlockInfo {
        chain: ChainId { node: h.node.clone(), incarnation: h.incarnation, stream: h.stream },
        first_seq: h.first_seq,
        last_seq: h.last_seq,
        first_wall_ns: h.first_at.wall_ns,
        last_wall_ns: h.last_at.wall_ns,
        kinds: h.kinds,
        hash: block.hash(),
    }
}
