//! The store: journals of blocks, the collector's own journal, and an index that both rebuild.
//!
//! What comes in passes [`check`], is appended and synced by a writer of its stream, and only then acked. The truth
//! journal holds the collector's [`decision`]s the same way. An indexer follows the urgent and the truth journal and keeps
//! the [`index`] what a fold of them says ([`row`]s); questions go to the index, and to the journals for records.
//!
//! Layout of the folder:
//! ```text
//! urgent/ evidence/ recorder/   journals of blocks, signed heads
//! truth/                        journal of decisions
//! index/                        rebuilt at will; index.broken-1 is the last one that failed
//! aside/                        what was offered and could not be accepted
//! doubt                         whether decisions may be missing, until a decision says so
//! ```
//! Limits: what waits for a sync is bounded in bytes for each stream; the catalog of blocks, the cache of the index and
//! `aside/` are bounded by constants; journals by [`StoreConfig`]. Below the reserve of free space no block is accepted,
//! so that decisions can still be written. Recovery: each journal recovers itself; the index goes on from its
//! checkpoint or is built anew in the background.
//!
//! Deliberately absent: correlating, authorising, and any change to what is stored.

mod append;
pub mod aside;
mod ask;
pub mod audit;
mod board;
pub mod catalog;
pub mod check;
pub mod decision;
mod doubt;
pub mod events;
mod expire;
mod filter;
mod fleet;
mod frames;
pub mod held;
pub mod index;
mod indexer;
mod keys;
pub mod memory_index;
mod open;
mod reading;
pub mod retention;
pub mod row;
mod search;
mod seat;
pub mod sled_index;
pub mod space;
#[cfg(test)]
pub(crate) mod specimen;
mod standing;
mod truth;
mod unfolded;
mod view;
pub mod watchdog;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dogwatch::block::Block;
use dogwatch::chain::{ChainId, Head, SignedHead, SignedReceipt};
use dogwatch::journal::{JournalError, Position, Reader};
use dogwatch::record::{Hash, Incarnation, Kinds, NodeName, Record, Seq, Stream};
use tokio::sync::{broadcast, oneshot, watch};

pub use ask::QueryError;
pub use filter::{ActionFilter, CommandFilter, FindingFilter, IncidentFilter};
pub use fleet::{Graves, MAX_GRAVE, MAX_LIVES, Mark};
pub use indexer::IndexStatus;
pub use open::{JournalConfig, OpenReport, StoreConfig};
pub use search::{Active, FindingKey};
pub use standing::{Loose, Standing};
pub use writer::{Arrival, Stats};

use aside::Aside;
use board::Board;
use decision::Decision;
use doubt::Doubt;
use held::Spans;
use indexer::Slot;
pub use truth::TruthStatus;
use truth::TruthWriter;
use writer::{BlockWriter, Shared};

/// The collector's clock: wall ns.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How a block came to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Just now.
    Now,
    /// It was there already.
    Known,
    /// Just now, though what comes before it is missing and the node no longer has it.
    AfterLoss {
        /// The first seq that is missing.
        expected_seq: Seq,
    },
}

/// A block that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Where the block's chain stands, and what the receipt states; at or after the block.
    pub head: Head,
    /// The collector's word on it.
    pub receipt: SignedReceipt,
    /// How.
    pub stored: Stored,
}

/// A block that its writer has: it is stored, or refused, in the order in which blocks were handed over, whether or not
/// anybody waits. So a slow waiter holds nothing that others need.
#[derive(Debug)]
pub struct Handed(oneshot::Receiver<Result<Committed, CommitError>>);

impl Handed {
    /// What came of it; durable where that is `Ok`.
    ///
    /// # Errors
    /// As of [`Store::commit_held`].
    pub async fn committed(self) -> Result<Committed, CommitError> {
        self.0.await.map_err(|_| CommitError::Closed)?
    }
}

/// Why a block is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Free space is below the reserve. Nothing that was acked is lost; the same block may come again later.
    #[error(
        "{free_bytes} bytes are free, the store keeps a reserve of {reserve_bytes}; free space or lower the reserve"
    )]
    Full {
        /// What is free.
        free_bytes: u64,
        /// What is kept.
        reserve_bytes: u64,
    },
    /// What is held fills the journal to the most that it may become for its sake. The same block may come again later.
    #[error(
        "the journal has grown to {segments} segments, since {by} keeps the oldest; release holds, or raise \
         retention.*.max_bytes"
    )]
    Held {
        /// How many there are.
        segments: usize,
        /// A hold's id, or why nobody can tell what is held.
        by: String,
    },
    /// What comes before is missing here.
    #[error("what comes before is missing; send again from {expected_seq}")]
    Rewind {
        /// From here.
        expected_seq: Seq,
    },
    /// The node signed two histories.
    #[error("{}/{} of {} has block {known} at seq {seq}, and now {offered}", chain.incarnation, chain.stream, chain.node)]
    Equivocation {
        /// Whose.
        chain: Box<ChainId>,
        /// Where they part.
        seq: Seq,
        /// What is stored there (its hash, or the head's where the offered block denies the head).
        known: Hash,
        /// What was offered.
        offered: Hash,
        /// Where the offered block is kept; `None` where there was no room, or where it was a signed head, which is in
        /// the journal.
        aside: Option<PathBuf>,
    },
    /// The journal failed; whether the block is stored is open, so it must come again.
    #[error("the journal failed: {reason}")]
    Unavailable {
        /// The system's words.
        reason: Arc<str>,
    },
    /// The block does not fit a segment.
    #[error("{reason}")]
    TooLarge {
        /// Figures.
        reason: String,
    },
    /// A signed head's statement does not decode.
    #[error("malformed head: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// Why a decision was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// It is not in the journal and has no effect.
    #[error("a decision was refused: {reason}")]
    Refused {
        /// Why, and the remedy.
        reason: String,
    },
    /// The journal failed midway: it may come to have effect. Whoever repeats it must be content to see it twice.
    #[error("it is uncertain whether a decision is durable, the journal failed: {reason}")]
    Uncertain {
        /// The system's words.
        reason: Arc<str>,
    },
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A journal does not open.
    #[error("the store's {journal} journal does not open")]
    Journal {
        /// Which: a stream, or `truth`.
        journal: &'static str,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// A system call failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A figure of the configuration makes no sense.
    #[error("store.{key}: {rule}")]
    Config {
        /// Which.
        key: String,
        /// The rule in words.
        rule: &'static str,
    },
}

/// What was just committed and folded, for the correlator.
#[derive(Debug, Clone)]
pub enum Notice {
    /// Records of one urgent block.
    Records {
        /// Whose.
        chain: ChainId,
        /// All of them, by seq.
        records: Arc<[Record]>,
    },
    /// A decision.
    Decided(Arc<Decision>),
}

/// How the store does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// Of the writers, in the order of [`Stream::ALL`].
    pub streams: [Stats; 3],
    /// Of the index.
    pub index: IndexStatus,
    /// Of the journal of decisions.
    pub truth: TruthStatus,
}

/// The store. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    streams: [(Arc<Shared>, BlockWriter); 3],
    truth: TruthWriter,
    truth_reader: Reader,
    board: Arc<Board>,
    slot: Arc<Slot>,
    doubt: Arc<Doubt>,
    folded: watch::Receiver<Position>,
    fold_patience: Duration,
    notices: broadcast::Sender<Notice>,
    arrivals: broadcast::Sender<Arrival>,
    aside: Arc<Mutex<Aside>>,
    spans: Spans,
    read_last: ask::ReadLast,
    indexer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Store {
    /// Stores a block that the caller has checked to be the node's own; durable when this returns. The same block
    /// again is acked again. `oldest_held`: the oldest seq of its chain that the node says it still holds; with it, a
    /// block whose predecessors are lost for good is stored instead of asked to rewind.
    ///
    /// # Errors
    /// [`CommitError`]; the block is not acked, and after `Full`, `Rewind` and `Unavailable` may come again.
    pub async fn commit_held(
        &self,
        block: &Block,
        oldest_held: Option<Seq>,
    ) -> Result<Committed, CommitError> {
        self.hand_over(block, oldest_held).await?.committed().await
    }

    /// The first half of [`Store::commit_held`]: waits only for room among what waits for the disk.
    ///
    /// # Errors
    /// [`CommitError::Closed`]; everything else is told by [`Handed::committed`].
    pub async fn hand_over(&self, block: &Block, oldest_held: Option<Seq>) -> Result<Handed, CommitError> {
        self.writer(block.header().stream).submit(block, oldest_held).await.map(Handed)
    }

    /// [`Store::commit_held`] of a node of which nothing is known to be lost.
    ///
    /// # Errors
    /// As there.
    pub async fn commit(&self, block: &Block) -> Result<Committed, CommitError> {
        self.commit_held(block, None).await
    }

    /// Stores a head whose signature the caller has verified. One that contradicts what is stored is kept as well,
    /// and reported.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn commit_head(&self, signed: &SignedHead) -> Result<(), CommitError> {
        let statement = signed.decode().map_err(|e| CommitError::Malformed { reason: e.to_string() })?;
        let writer = self.writer(statement.chain.stream);
        writer.commit_head(signed.clone(), statement.chain, statement.head).await
    }

    /// Where a chain stands here, durably; `None` for one that is not known.
    pub fn head(&self, chain: &ChainId) -> Option<Head> {
        self.shared(chain.stream).heads().get(chain).copied()
    }

    /// [`Store::head`] of each incarnation, in the order given.
    pub fn heads(&self, node: &NodeName, stream: Stream, incarnations: &[Incarnation]) -> Vec<Option<Head>> {
        let heads = self.shared(stream).heads();
        let of = |i: &Incarnation| ChainId { node: node.clone(), incarnation: *i, stream };
        incarnations.iter().map(|i| heads.get(&of(i)).copied()).collect()
    }

    /// Makes a decision durable and folds it into the index.
    ///
    /// # Errors
    /// [`DecideError`].
    pub async fn decide(&self, decision: Decision) -> Result<(), DecideError> {
        self.decide_all(vec![decision]).await
    }

    /// [`Store::decide`] of several under one sync, in order.
    ///
    /// # Errors
    /// As there; after `Uncertain` a part of them may have effect.
    pub async fn decide_all(&self, decisions: Vec<Decision>) -> Result<(), DecideError> {
        let Some(at) = self.inner.truth.decide(&decisions).await? else { return Ok(()) };
        let mut folded = self.inner.folded.clone();
        let reached = tokio::time::timeout(self.inner.fold_patience, folded.wait_for(|p| *p >= at)).await;
        if !matches!(reached, Ok(Ok(_))) {
            tracing::warn!("a decision is durable; the index will take it in later");
        }
        Ok(())
    }

    /// What is committed from now on, once it is in the index. A receiver that lags has missed something and must
    /// reconsider ([`Store::loose_of_each`]).
    pub fn committed(&self) -> broadcast::Receiver<Notice> {
        self.inner.notices.subscribe()
    }

    /// Blocks of any stream as they become durable, before the index knows of them.
    pub fn arrivals(&self) -> broadcast::Receiver<Arrival> {
        self.inner.arrivals.subscribe()
    }

    /// What a block that arrived holds of `kinds`: whose it is and its records by seq. Nothing where it is gone already.
    pub async fn arrived(&self, arrival: Arrival, kinds: Kinds) -> Option<(ChainId, Vec<Record>)> {
        let store = self.clone();
        let read = move || {
            let entry = store.shared(arrival.stream).reader.read_at(arrival.at).ok().flatten()?;
            let block = Block::decode(entry.payload).ok()?;
            if !block.header().kinds.intersects(kinds) {
                return None;
            }
            let h = block.header();
            let chain = ChainId { node: h.node.clone(), incarnation: h.incarnation, stream: h.stream };
            block.records(kinds).ok().map(|records| (chain, records))
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    /// Keeps bytes that could not be accepted, for whoever investigates; where they are, or `None` when there is no
    /// more room.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn set_aside(
        &self,
        node: &NodeName,
        why: &'static str,
        bytes: &[u8],
    ) -> std::io::Result<Option<PathBuf>> {
        self.inner.aside.lock().unwrap_or_else(PoisonError::into_inner).keep(node, why, bytes)
    }

    /// How the store does.
    pub fn status(&self) -> StoreStatus {
        let stats = |stream| self.shared(stream).stats().clone();
        StoreStatus {
            streams: Stream::ALL.map(stats),
            index: self.inner.slot.status(&self.inner.board.goal()),
            truth: self.inner.truth.status(),
        }
    }

    /// Writes out and closes everything; waits for it. Other clones answer `Closed` from then on.
    pub async fn close(self) {
        let inner = Arc::clone(&self.inner);
        drop(self);
        if let Err(error) = tokio::task::spawn_blocking(move || inner.stop()).await {
            tracing::error!(%error, "the store did not close in order");
        }
    }

    fn writer(&self, stream: Stream) -> &BlockWriter {
        &self.inner.streams[stream.index()].1
    }

    fn shared(&self, stream: Stream) -> &Arc<Shared> {
        self.inner.shared(stream)
    }
}

impl Inner {
    fn shared(&self, stream: Stream) -> &Arc<Shared> {
        &self.streams[stream.index()].0
    }

    /// Ends writers, then the indexer, so that it sees everything. A second call does nothing.
    fn stop(&self) {
        self.streams.iter().for_each(|(_, w)| w.stop());
        self.truth.stop();
        self.board.stop();
        if let Some(t) = self.indexer.lock().unwrap_or_else(PoisonError::into_inner).take()
            && t.join().is_err()
        {
            tracing::error!("the indexer had panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
