//! Events: records by time, from the blocks that can hold them and no others.
//!
//! Blocks are chosen by what footers say, opened in the order of time as the merge reaches them, and dropped when they
//! are through. What is open at once is bounded; a question that needs more (every node's logs of one instant) is
//! refused with a remedy rather than answered with the collector's memory. A block that expires or turns out damaged
//! midway is passed over and counted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec::IntoIter;

use dogwatch::block::Block;
use dogwatch::chain::ChainId;
use dogwatch::record::{Kinds, NodeName, Record, RecordRef, Stream};
use tokio::sync::mpsc;

use super::catalog::{Candidate, Sought, Wanted};
use super::{Inner, QueryError, Store, frames};
use crate::sieve::Sieve;

/// Decoded bytes of blocks that one question may hold open.
const MAX_OPEN_BYTES: usize = 128 * 1024 * 1024;
/// Blocks that one question may choose, some 80 bytes each.
const MAX_CANDIDATES: usize = 1_000_000;
/// Events that wait for a slow reader.
const WAITING: usize = 256;

/// Which records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// At or after this, wall ns by the node's clock.
    pub since_wall_ns: i64,
    /// Before this.
    pub until_wall_ns: i64,
    /// Of these nodes; empty: of any.
    pub nodes: Vec<NodeName>,
    /// Of these kinds.
    pub kinds: Kinds,
    /// Of these streams; empty: all.
    pub streams: Vec<Stream>,
    /// Newest first instead of oldest first.
    pub newest_first: bool,
    /// At most so many of those that the sieve lets pass; 0: no limit.
    pub limit: usize,
    /// What they must be like, looked at before the limit.
    pub sieve: Sieve,
    /// How long blocks may be read and looked through, waiting for the reader not included; `None`: without end.
    pub most_time: Option<Duration>,
}

impl Default for EventQuery {
    /// Everything, oldest first.
    fn default() -> Self {
        Self {
            since_wall_ns: i64::MIN,
            until_wall_ns: i64::MAX,
            nodes: Vec::new(),
            kinds: Kinds(u32::MAX),
            streams: Vec::new(),
            newest_first: false,
            limit: 0,
            sieve: Sieve::default(),
            most_time: None,
        }
    }
}

/// A record and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Whose.
    pub chain: Arc<ChainId>,
    /// What.
    pub record: Record,
}

impl Event {
    /// Where it stands.
    pub fn reference(&self) -> RecordRef {
        RecordRef {
            node: self.chain.node.clone(),
            incarnation: self.chain.incarnation,
            stream: self.chain.stream,
            seq: self.record.seq,
        }
    }
}

impl Store {
    /// Records by time. Dropping the receiver ends the reading.
    pub fn events(&self, query: EventQuery) -> mpsc::Receiver<Result<Event, QueryError>> {
        let (send, receive) = mpsc::channel(WAITING);
        let store = self.clone();
        tokio::task::spawn_blocking(move || {
            let gone = || send.is_closed();
            match Events::begin(&store.inner, query, &gone) {
                Ok(mut events) => {
                    while let Some(event) = events.timed_next() {
                        if send.blocking_send(event).is_err() {
                            return;
                        }
                    }
                }
                // Nobody listening is no error.
                Err(e) => drop(send.blocking_send(Err(e))),
            }
        });
        receive
    }

    /// Whether anything is known of `node`: it was enrolled, or a block of it came.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn knows(&self, node: &NodeName) -> Result<bool, QueryError> {
        let came = |stream| {
            let shared = self.shared(stream);
            let noted = shared.catalog().knows(node);
            noted || shared.heads().keys().any(|chain| chain.node == *node)
        };
        Ok(Stream::ALL.into_iter().any(came) || self.enrolled(node).await?.is_some())
    }
}

/// The record at `reference`.
pub(super) fn record(inner: &Inner, reference: &RecordRef) -> Result<Option<Record>, QueryError> {
    let shared = inner.shared(reference.stream);
    let sought = shared.catalog().seek(&reference.node, reference.incarnation, reference.seq);
    let at = match sought {
        Sought::At(at) => Some(at),
        Sought::Gone { .. } => None,
        Sought::Perhaps => {
            let segments = shared.catalog().summarised();
            segments.into_iter().flat_map(|n| frames::blocks_of(&shared.reader, n)).find_map(|(at, info)| {
                let here = info.chain.node == reference.node
                    && info.chain.incarnation == reference.incarnation
                    && (info.first_seq..=info.last_seq).contains(&reference.seq);
                here.then_some(at)
            })
        }
    };
    Ok(at.and_then(|at| inner.record_at(reference.stream, at, reference.seq)))
}

/// The merge.
struct Events<'a> {
    inner: &'a Inner,
    query: EventQuery,
    /// Not opened yet, first to open last.
    closed: Vec<Candidate>,
    open: BinaryHeap<Reverse<Open>>,
    open_bytes: usize,
    given: usize,
    /// Order in which blocks were opened: settles ties.
    rank: usize,
    failed: bool,
    /// Whether nobody listens any more.
    gone: &'a dyn Fn() -> bool,
    /// Time spent, waiting for the reader not included.
    spent: Duration,
}

/// An open block: its records that are wanted, from `key` on.
struct Open {
    key: i64,
    rank: usize,
    bytes: usize,
    chain: Arc<ChainId>,
    next: Record,
    rest: IntoIter<Record>,
}

impl PartialEq for Open {
    fn eq(&self, other: &Self) -> bool {
        (self.key, self.rank) == (other.key, other.rank)
    }
}
impl Eq for Open {}
impl PartialOrd for Open {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Open {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.key, self.rank).cmp(&(other.key, other.rank))
    }
}

impl<'a> Events<'a> {
    fn begin(inner: &'a Inner, query: EventQuery, gone: &'a dyn Fn() -> bool) -> Result<Self, QueryError> {
        let begun = Instant::now();
        let wanted = Wanted {
            since_wall_ns: query.since_wall_ns,
            until_wall_ns: query.until_wall_ns,
            nodes: query.nodes.clone(),
            kinds: query.kinds,
        };
        let mut closed = Vec::new();
        for stream in
            Stream::ALL.into_iter().filter(|s| query.streams.is_empty() || query.streams.contains(s))
        {
            let shared = inner.shared(stream);
            let found = shared.catalog().find(&wanted);
            closed.extend(found.blocks);
            for (at, info) in found.segments.into_iter().flat_map(|n| frames::blocks_of(&shared.reader, n)) {
                if wanted.matches(&info) {
                    closed.push(Candidate {
                        at,
                        chain: Arc::new(info.chain),
                        first_seq: info.first_seq,
                        first_wall_ns: info.first_wall_ns,
                        last_wall_ns: info.last_wall_ns,
                    });
                }
                too_many(closed.len())?;
            }
            too_many(closed.len())?;
        }
        let key = |c: &Candidate| if query.newest_first { !c.last_wall_ns } else { c.first_wall_ns };
        // Last first, so that the next to open is popped from the end.
        closed.sort_by(|a, b| (key(b), &b.chain, b.first_seq).cmp(&(key(a), &a.chain, a.first_seq)));
        Ok(Self {
            inner,
            query,
            closed,
            open: BinaryHeap::new(),
            open_bytes: 0,
            given: 0,
            rank: 0,
            failed: false,
            gone,
            spent: begun.elapsed(),
        })
    }

    /// The next event, with the time that it takes counted.
    fn timed_next(&mut self) -> Option<Result<Event, QueryError>> {
        let begun = Instant::now();
        let next = self.next(begun);
        self.spent += begun.elapsed();
        next
    }

    /// An error once the time is up: how far the search came.
    fn in_time(&self, begun: Instant, reached: i64) -> Result<(), QueryError> {
        match self.query.most_time {
            Some(most) if self.spent + begun.elapsed() > most => {
                let back = if self.query.newest_first { "back" } else { "up" };
                Err(QueryError::TooBroad {
                    what: format!(
                        "{} s of searching came {back} to {}",
                        most.as_secs(),
                        jiff::Timestamp::from_second(reached.div_euclid(1_000_000_000))
                            .map_or_else(|_| format!("{reached} ns"), |t| t.to_string())
                    ),
                    remedy: "go on from there, or name a shorter time, a node, a kind or a source",
                })
            }
            _ => Ok(()),
        }
    }

    /// Later is smaller when the newest come first.
    fn key(&self, wall_ns: i64) -> i64 {
        if self.query.newest_first { !wall_ns } else { wall_ns }
    }

    /// Opens every block that may begin before what is open.
    fn open_due(&mut self, started: Instant) -> Result<(), QueryError> {
        while let Some(next) = self.closed.last() {
            // What matches seldom may have thousands of blocks looked through for each event.
            if (self.gone)() {
                self.closed.clear();
                return Ok(());
            }
            self.in_time(
                started,
                if self.query.newest_first { next.last_wall_ns } else { next.first_wall_ns },
            )?;
            let begins =
                self.key(if self.query.newest_first { next.last_wall_ns } else { next.first_wall_ns });
            if self.open.peek().is_some_and(|Reverse(o)| o.key < begins) {
                return Ok(());
            }
            let Some(next) = self.closed.pop() else { return Ok(()) };
            self.open_one(&next);
            if self.open_bytes > MAX_OPEN_BYTES {
                return Err(QueryError::TooBroad {
                    what: format!("more than {} MiB of blocks overlap in time", MAX_OPEN_BYTES >> 20),
                    remedy: "name a node, a kind, or a shorter time",
                });
            }
        }
        Ok(())
    }

    fn open_one(&mut self, candidate: &Candidate) {
        let reader = &self.inner.shared(candidate.chain.stream).reader;
        let block = match reader.read_at(candidate.at) {
            Ok(Some(entry)) => Block::decode(entry.payload).ok(),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "a block cannot be read");
                None
            }
        };
        let Some(mut records) = block.as_ref().and_then(|b| b.records(self.query.kinds).ok()) else {
            tracing::debug!(chain = ?candidate.chain, first_seq = candidate.first_seq, "a block is no longer readable");
            return;
        };
        let bytes: usize =
            block.iter().flat_map(|b| &b.header().sections).map(|s| s.raw_bytes as usize).sum();
        let (since, until) = (self.query.since_wall_ns, self.query.until_wall_ns);
        let all = records.len();
        let chain = Arc::clone(&candidate.chain);
        let finding = |id: &str| self.inner.finding_of_action(&chain.node, id);
        records.retain(|r| {
            self.query.kinds.contains(r.body.kind())
                && r.at.wall_ns >= since
                && r.at.wall_ns < until
                && (self.query.sieve.is_open() || self.query.sieve.passes(&chain.node, r, &finding))
        });
        if !self.query.sieve.is_open() {
            // What did not pass is freed.
            records.shrink_to_fit();
        }
        let bytes = bytes * records.len() / all.max(1);
        records
            .sort_by_key(|r| (self.key(r.at.wall_ns), if self.query.newest_first { !r.seq } else { r.seq }));
        let mut rest = records.into_iter();
        let Some(next) = rest.next() else { return };
        self.rank += 1;
        self.open_bytes += bytes;
        let key = self.key(next.at.wall_ns);
        self.open.push(Reverse(Open { key, rank: self.rank, bytes, chain, next, rest }));
    }
}

impl Events<'_> {
    fn next(&mut self, started: Instant) -> Option<Result<Event, QueryError>> {
        if self.failed || (self.query.limit > 0 && self.given >= self.query.limit) {
            return None;
        }
        if let Err(e) = self.open_due(started) {
            self.failed = true;
            return Some(Err(e));
        }
        let Reverse(Open { rank, bytes, chain, next, mut rest, .. }) = self.open.pop()?;
        match rest.next() {
            Some(following) => {
                let key = self.key(following.at.wall_ns);
                let chain = Arc::clone(&chain);
                self.open.push(Reverse(Open { key, rank, bytes, chain, next: following, rest }));
            }
            None => self.open_bytes = self.open_bytes.saturating_sub(bytes),
        }
        self.given += 1;
        Some(Ok(Event { chain, record: next }))
    }
}

fn too_many(candidates: usize) -> Result<(), QueryError> {
    if candidates <= MAX_CANDIDATES {
        return Ok(());
    }
    Err(QueryError::TooBroad {
        what: format!("more than {MAX_CANDIDATES} blocks may hold an answer"),
        remedy: "name a node, a kind, or a shorter time",
    })
}
