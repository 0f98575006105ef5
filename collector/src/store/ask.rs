//! Questions that the index answers: one finding, action or incident, nodes, tokens, commands. Lists that somebody chose
//! from are [`super::search`]'s, what casework takes up is [`super::standing`]'s.
//!
//! Answers come newest first. A row's newest record is read from its journal; where that is gone or damaged the row is
//! left out, which is logged. A question that finds the index failing reports that, waits for the next one, and is
//! asked again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::block::Block;
use dogwatch::journal::Position;
use dogwatch::record::{Body, Finding, Kinds, NodeName, Record, RecordRef, Stream};

use super::decision::{Piece, What};
use super::filter::CommandFilter;
use super::index::{Index, IndexError, Span, decode, each};
use super::indexer::Slot;
use super::keys::{Key, Origin, Table, split_time};
use super::row::{ActionRow, CommandRow, FindingRow, NodeEnrolled, TokenUses};
use super::view::{Life, joined_key, life_key};
use super::{Inner, Store, events, truth};
use crate::incident::Incident;

/// Longest wait for an index that is being built.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a question is asked again after the index failed under it.
const ATTEMPTS: usize = 3;
/// Rows fetched at first: most questions need no more.
const FIRST_ROWS: usize = 16;
/// Rows fetched at once after that.
const MOST_ROWS: usize = 256;
/// Most nodes that are told to have an action of one id: ids are random, and more than one is an accident or a trick.
const MAX_NAMESAKES: usize = 16;
/// Most rows that one answer holds, whatever limit was asked for.
pub(super) const MAX_ROWS: usize = 100_000;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// The index is being built from the journals.
    #[error("the index is being built from the journals; ask again in a moment")]
    Building,
    /// The index failed and its successor, too.
    #[error("the index failed while answering")]
    Index(#[from] IndexError),
    /// More than can be answered at once.
    #[error("{what}; {remedy}")]
    TooBroad {
        /// Figures.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A journal cannot be read.
    #[error("a journal cannot be read: {0}")]
    Journal(String),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

impl Store {
    /// How `node` was let in; `None` for one that never was.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn enrolled(&self, node: &NodeName) -> Result<Option<NodeEnrolled>, QueryError> {
        let key = Key::of(Table::Node).text(node.as_str()).bytes();
        self.ask(move |_, index| get(index, &key)).await
    }

    /// One incident.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn incident(&self, id: &str) -> Result<Option<Incident>, QueryError> {
        let key = Key::of(Table::Incident).text(id).bytes();
        self.ask(move |_, index| get(index, &key)).await
    }

    /// A finding by its id: the collector's own before a node's, since a node could borrow an id. Where the node is
    /// known, ask [`Store::finding_of`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn finding(&self, id: &str) -> Result<Option<FindingRow>, QueryError> {
        let id = id.to_owned();
        self.ask(move |inner, index| {
            Ok(first_life(index, Table::Finding, &id)?.and_then(|l| inner.finding_row(l)))
        })
        .await
    }

    /// A finding about `node`, by its id: the node's own, else the collector's about it.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn finding_of(&self, node: &NodeName, id: &str) -> Result<Option<FindingRow>, QueryError> {
        let (node, id) = (node.clone(), id.to_owned());
        self.ask(move |inner, index| {
            Ok(inner.finding_life(index, &node, &id)?.and_then(|l| inner.finding_row(l)))
        })
        .await
    }

    /// An action of `node`, by its id.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn action_of(&self, node: &NodeName, id: &str) -> Result<Option<ActionRow>, QueryError> {
        let key = life_key(Table::Action, id, &Origin::Node(node.clone()));
        self.ask(move |inner, index| Ok(life(index, &key)?.and_then(|l| inner.action_row(l)))).await
    }

    /// The nodes that have an action of this id, at most [`MAX_NAMESAKES`]: ids are made by nodes, each for itself.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn nodes_of_action(&self, id: &str) -> Result<Vec<NodeName>, QueryError> {
        let key = Key::of(Table::Action).text(id).bytes();
        self.ask(move |_, index| {
            let mut nodes = Vec::new();
            each(index, &Span::prefix(&key), |_, value| {
                nodes.extend(decode::<Life>(value)?.node);
                Ok(nodes.len() < MAX_NAMESAKES)
            })?;
            Ok(nodes)
        })
        .await
    }

    /// The incident that a piece belongs to: the one that it joined last.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn incident_of(&self, piece: &Piece, node: &NodeName) -> Result<Option<String>, QueryError> {
        let key = joined_key(piece, node);
        self.ask(move |_, index| Ok(index.get(&key)?.map(|v| String::from_utf8_lossy(&v).into_owned()))).await
    }

    /// Every node that was ever let in, by name.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn nodes(&self) -> Result<Vec<NodeEnrolled>, QueryError> {
        self.ask(|_, index| {
            let mut rows = Vec::new();
            each(index, &Span::prefix(&Key::of(Table::Node).bytes()), |_, value| {
                rows.push(decode::<NodeEnrolled>(value)?);
                Ok(rows.len() < MAX_ROWS)
            })?;
            rows.sort_by(|a, b| a.node.cmp(&b.node));
            Ok(rows)
        })
        .await
    }

    /// A node's keys for chain heads as hex, newest enrolment first; empty for a stranger.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn signing_keys(&self, node: &NodeName) -> Result<Vec<String>, QueryError> {
        let key = Key::of(Table::Node).text(node.as_str()).bytes();
        self.ask(move |_, index| {
            let row: Option<NodeEnrolled> = get(index, &key)?;
            let mut keys: Vec<String> = Vec::new();
            for e in row.into_iter().flat_map(|r| r.enrolments).rev() {
                if !keys.contains(&e.signing_key) {
                    keys.push(e.signing_key);
                }
            }
            Ok(keys)
        })
        .await
    }

    /// How often and by whom a join token was spent.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn token_uses(&self, token: &str) -> Result<TokenUses, QueryError> {
        let key = Key::of(Table::Token).text(token).bytes();
        self.ask(move |_, index| Ok(get(index, &key)?.unwrap_or_default())).await
    }

    /// What was ordered, newest first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn commands(&self, filter: CommandFilter) -> Result<Vec<CommandRow>, QueryError> {
        self.ask(move |_, index| {
            let mut rows = Vec::new();
            by_time(index, Table::CommandTime, |_, _, row: CommandRow| {
                if filter.node.as_ref().is_none_or(|n| *n == row.node) {
                    rows.push(row);
                }
                Ok(rows.len() < most(filter.limit))
            })?;
            Ok(rows)
        })
        .await
    }

    /// The record that a reference points at, if it is still here.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn record(&self, reference: &RecordRef) -> Result<Option<Record>, QueryError> {
        let (store, reference) = (self.clone(), reference.clone());
        tokio::task::spawn_blocking(move || events::record(&store.inner, &reference))
            .await
            .map_err(|_| QueryError::Closed)?
    }

    /// Waits until the index has caught up with what the journals held at open; for tests and for readiness.
    ///
    /// # Errors
    /// [`QueryError::Building`] when it takes longer than `patience`.
    pub async fn indexed(&self, patience: Duration) -> Result<(), QueryError> {
        let store = self.clone();
        let ready = tokio::task::spawn_blocking(move || store.inner.slot.current(patience).is_some());
        if ready.await.map_err(|_| QueryError::Closed)? { Ok(()) } else { Err(QueryError::Building) }
    }

    /// Everything in the index, as stored, without its checkpoint: two stores of the same journals give the same.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn dump(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>, QueryError> {
        self.ask(|_, index| {
            let mut rows = Vec::new();
            each(index, &Span { from: vec![1], to: None, reverse: false }, |k, v| {
                rows.push((k.to_vec(), v.to_vec()));
                Ok(true)
            })?;
            Ok(rows)
        })
        .await
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Inner, &dyn Index) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, QueryError> {
        self.ask_within(PATIENCE, question).await
    }

    /// [`Store::ask`] of an index that is being built for at most `patience`.
    pub(super) async fn ask_within<T: Send + 'static>(
        &self,
        patience: Duration,
        question: impl Fn(&Inner, &dyn Index) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.inner.answer(patience, &question))
            .await
            .map_err(|_| QueryError::Closed)?
    }
}

impl Inner {
    pub(super) fn finding_life(
        &self,
        index: &dyn Index,
        node: &NodeName,
        id: &str,
    ) -> Result<Option<Life>, IndexError> {
        let own = life(index, &life_key(Table::Finding, id, &Origin::Node(node.clone())))?;
        Ok(match own {
            Some(l) => Some(l),
            None => life(index, &life_key(Table::Finding, id, &Origin::Collector))?
                .filter(|l| l.node.as_ref() == Some(node)),
        })
    }

    /// The finding that asked for an action of `node`, where the index answers at once.
    pub(super) fn finding_of_action(&self, node: &NodeName, id: &str) -> Option<Finding> {
        let (index, _) = self.slot.current(Duration::ZERO)?;
        // An index that fails is found out by the questions that need it.
        let life = self.finding_life(&*index, node, id).ok().flatten()?;
        self.finding_row(life).map(|r| r.finding)
    }

    fn answer<T>(
        &self,
        patience: Duration,
        question: &dyn Fn(&Self, &dyn Index) -> Result<T, IndexError>,
    ) -> Result<T, QueryError> {
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let Some((index, generation)) = current(&self.slot, patience, failed.as_ref().map(|(g, _)| *g))
            else {
                return Err(QueryError::Building);
            };
            match question(self, &*index) {
                Ok(v) => return Ok(v),
                Err(e) => {
                    self.board.broken(generation, e.to_string());
                    failed = Some((generation, e));
                }
            }
        }
        Err(failed.map_or(QueryError::Building, |(_, e)| e.into()))
    }

    /// `None` where the newest record is no longer readable.
    pub(super) fn finding_row(&self, life: Life) -> Option<FindingRow> {
        let body = if life.from_collector {
            self.said(&life).map(Body::Finding)
        } else {
            self.newest(&life).map(|r| r.body)
        };
        finding_row(life, body)
    }

    pub(super) fn action_row(&self, life: Life) -> Option<ActionRow> {
        let record = self.newest(&life);
        action_row(life, record.map(|r| r.body))
    }

    /// What the collector said newest of a finding of its own.
    pub(super) fn said(&self, life: &Life) -> Option<Box<Finding>> {
        let entry = self.truth_reader.read_at(life.at.position()).ok().flatten()?;
        match truth::decode(&entry.payload).ok()?.what {
            What::FindingSaid { finding, .. } => Some(finding),
            _ => None,
        }
    }

    fn newest(&self, life: &Life) -> Option<Record> {
        self.record_at(Stream::Urgent, life.at.position(), life.at.seq)
    }

    /// Record `seq` of the block at `at`.
    pub(super) fn record_at(&self, stream: Stream, at: Position, seq: u64) -> Option<Record> {
        let known = self.read_last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let records = match known {
            Some((of, place, records)) if (of, place) == (stream, at) => records,
            _ => {
                let entry = self.shared(stream).reader.read_at(at).ok().flatten()?;
                let records: Arc<[Record]> =
                    Block::decode(entry.payload).ok()?.records(Kinds(u32::MAX)).ok()?.into();
                let last = Some((stream, at, Arc::clone(&records)));
                *self.read_last.lock().unwrap_or_else(PoisonError::into_inner) = last;
                records
            }
        };
        let i = records.binary_search_by_key(&seq, |r| r.seq).ok()?;
        records.get(i).cloned()
    }
}

/// A finding as it stands; `None` where its newest record, which says `body`, could not be read.
pub(super) fn finding_row(life: Life, body: Option<Body>) -> Option<FindingRow> {
    let Life { id, node, from_collector, count, steps, .. } = life;
    let Some(Body::Finding(finding)) = body else {
        tracing::warn!(finding = id, "the newest record of a finding is not readable");
        return None;
    };
    Some(FindingRow { node, finding: *finding, from_collector, count, steps })
}

/// The same of an action.
pub(super) fn action_row(life: Life, body: Option<Body>) -> Option<ActionRow> {
    let Life { id, node, steps, .. } = life;
    let (Some(Body::Action(action)), Some(node)) = (body, node) else {
        tracing::warn!(action = id, "the newest record of an action is not readable");
        return None;
    };
    Some(ActionRow { node, action: *action, steps })
}

/// The block that a record was read from last: questions about single rows of one block follow each other, and it may hold
/// tens of thousands. Lists are read by [`super::reading`].
pub(super) type ReadLast = Mutex<Option<(Stream, Position, Arc<[Record]>)>>;

/// The index, of another generation than the one that `failed`.
fn current(slot: &Slot, patience: Duration, failed: Option<u64>) -> Option<(std::sync::Arc<dyn Index>, u64)> {
    const STEP: Duration = Duration::from_millis(20);
    let begun = Instant::now();
    loop {
        let (index, generation) = slot.current(patience)?;
        if failed != Some(generation) {
            return Some((index, generation));
        }
        if begun.elapsed() >= patience {
            return None;
        }
        // The indexer has been told and takes the failed one away in a moment.
        std::thread::sleep(STEP);
    }
}

pub(super) fn most(limit: usize) -> usize {
    if limit == 0 { MAX_ROWS } else { limit.min(MAX_ROWS) }
}

pub(super) fn get<T: for<'de> serde::Deserialize<'de>>(
    index: &dyn Index,
    key: &[u8],
) -> Result<Option<T>, IndexError> {
    index.get(key)?.map(|v| decode(&v)).transpose()
}

fn life(index: &dyn Index, key: &[u8]) -> Result<Option<Life>, IndexError> {
    get(index, key)
}

/// The first of those who said something under this id.
fn first_life(index: &dyn Index, table: Table, id: &str) -> Result<Option<Life>, IndexError> {
    let found = index.scan(&Span::prefix(&Key::of(table).text(id).bytes()), 1)?;
    found.first().map(|(_, v)| decode(v)).transpose()
}

/// Visits what a table that begins with a time points at, newest first: the time, the row's key, and the row. Keys are
/// read [`SCAN_CHUNK`](super::index::SCAN_CHUNK) at a time, rows fewer, so that a small question stays small. A row that
/// gets a new step meanwhile may be met with it, and beyond the first chunk of keys may be passed over.
pub(super) fn by_time<T: for<'de> serde::Deserialize<'de>>(
    index: &dyn Index,
    table: Table,
    mut visit: impl FnMut(i64, &[u8], T) -> Result<bool, IndexError>,
) -> Result<(), IndexError> {
    let mut waiting: Vec<(i64, Vec<u8>)> = Vec::new();
    let mut most = FIRST_ROWS;
    let mut more = true;
    let mut fetch = |waiting: &mut Vec<(i64, Vec<u8>)>| -> Result<bool, IndexError> {
        let (times, keys): (Vec<i64>, Vec<Vec<u8>>) = std::mem::take(waiting).into_iter().unzip();
        let rows = index.get_many(&keys)?;
        for ((at, key), row) in times.into_iter().zip(keys).zip(rows) {
            if let Some(row) = row
                && !visit(at, &key, decode(&row)?)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    };
    each(index, &Span::prefix(&Key::of(table).bytes()), |key, value| {
        let Some((at, _)) = split_time(key) else {
            return Err(IndexError::Mismatch("a key without its time".to_owned()));
        };
        waiting.push((at, value.to_vec()));
        if waiting.len() >= most {
            most = MOST_ROWS;
            more = fetch(&mut waiting)?;
        }
        Ok(more)
    })?;
    if more {
        fetch(&mut waiting)?;
    }
    Ok(())
}
