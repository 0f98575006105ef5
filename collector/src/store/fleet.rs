//! What the fleet brake stands on, as the index holds it, and what it has to know of the index: how far that has come.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dogwatch::record::NodeName;

use super::ask::finding_row;
use super::board::Goal;
use super::decision::Past;
use super::index::{Index, IndexError, Span, decode, each};
use super::keys::{Key, Origin, Table, origin_of, origin_part, split_time};
use super::reading::Reading;
use super::row::{FindingRow, Step};
use super::view::{Life, told_key};
use super::{Inner, QueryError, Store};
use crate::brake::Ledger;

/// Most findings of one node that are answered with, of those that count.
pub const MAX_GRAVE: usize = 256;
/// Most findings of one node whose lives are looked at for them, whatever they are: pods bring them about, too.
pub const MAX_LIVES: usize = 10_000;
/// Of the collector's own, about whichever nodes: some for each node of the largest fleet.
const MAX_OWN_LIVES: usize = 100_000;
/// Lives that are asked for at once.
const LIVES_AT_ONCE: usize = 256;

/// What was durable at some moment.
#[derive(Debug, Clone)]
pub struct Mark(Goal);

impl Store {
    /// The fold of every decision of the fleet brake.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn brake(&self) -> Result<Ledger, QueryError> {
        self.ask(move |_, index| match index.get(&Key::of(Table::Brake).bytes())? {
            Some(row) => Ok(decode(&row)?),
            None => Ok(Ledger::default()),
        })
        .await
    }

    /// Why decisions that were durable once may be missing, if so: the journal was damaged, cut or put back from a copy.
    /// `in_force`: whether one is in force that must not be forgotten.
    pub fn truth_doubt(&self, in_force: bool) -> Option<String> {
        self.inner.doubt.why(in_force)
    }

    /// Whether damage was left out of the journal that is no doubt as long as no stop is in force and the index is not built
    /// anew: where that is so it is to be settled.
    pub fn truth_left_out(&self) -> bool {
        self.inner.doubt.has_left_out()
    }

    /// As if the journal had shown that decisions are missing.
    #[cfg(test)]
    pub(crate) fn raise_doubt(&self, why: &str) {
        self.inner.doubt.raise(why);
    }

    /// That doubt was dealt with: what [`Store::truth_doubt`] said is a durable decision by now, or it said nothing. Until
    /// then each start finds it again.
    ///
    /// # Errors
    /// What the filesystem says.
    pub async fn settle_truth(&self, dealt: Option<String>) -> std::io::Result<()> {
        let doubt = Arc::clone(&self.inner.doubt);
        tokio::task::spawn_blocking(move || doubt.settle(dealt.as_deref()))
            .await
            .map_err(std::io::Error::other)?
    }

    /// Whether nodes were ever told this state of the fleet brake, or it was dealt with: all that the journal holds is
    /// known, however long ago. Waits for no index that is being built: whoever asks has more to do.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn brake_told(&self, state: Past) -> Result<bool, QueryError> {
        self.ask_within(Duration::ZERO, move |_, index| Ok(index.get(&told_key(state))?.is_some())).await
    }

    /// Whether the index answers questions at once; it does not while it is being built.
    pub fn answers(&self) -> bool {
        self.inner.slot.current(Duration::ZERO).is_some()
    }

    /// What is durable now.
    pub fn mark(&self) -> Mark {
        Mark(self.inner.board.goal())
    }

    /// Whether all that was durable at `mark` is in the index, and whoever listens to [`Store::committed`] was told it.
    pub fn told(&self, mark: &Mark) -> bool {
        self.inner.slot.reached(&mark.0)
    }

    /// Findings about these nodes that were grave at some step and are active, or had a step since the time that stands with
    /// the node, and that `count`. At most [`MAX_GRAVE`] of each, those that were said last. What others said is not read, and
    /// of what does not count nothing hides what does, unless it is named as cut. Of the steps each row has the first that was
    /// grave and the newest, without their words.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn grave(
        &self,
        since: BTreeMap<NodeName, i64>,
        count: fn(&FindingRow) -> bool,
    ) -> Result<Graves, QueryError> {
        if since.is_empty() {
            return Ok(Graves::default());
        }
        self.ask(move |inner, index| {
            let mut pick = Pick::new(&since);
            pick.visit(index, Table::FindingActive)?;
            pick.visit(index, Table::FindingTime)?;
            Ok(pick.read(inner, count))
        })
        .await
    }
}

/// What [`Store::grave`] answers.
#[derive(Debug, Clone, Default)]
pub struct Graves {
    /// The oldest first.
    pub rows: Vec<FindingRow>,
    /// Nodes that have more since the time that stands with them than was looked at, or than can be read.
    pub cut: BTreeSet<NodeName>,
}

/// The lives that are read for one answer.
struct Pick<'q> {
    since: &'q BTreeMap<NodeName, i64>,
    /// By what their keys end with.
    nodes: HashMap<Vec<u8>, &'q NodeName>,
    collector: Vec<u8>,
    /// How many of each origin were looked at.
    looked: HashMap<Vec<u8>, usize>,
    taken: Vec<Life>,
    /// Keys of what was looked at.
    seen: BTreeSet<Vec<u8>>,
    cut: BTreeSet<NodeName>,
}

impl<'q> Pick<'q> {
    fn new(since: &'q BTreeMap<NodeName, i64>) -> Self {
        let part = |node: &NodeName| origin_part(&Origin::Node(node.clone()));
        Self {
            since,
            nodes: since.keys().map(|node| (part(node), node)).collect(),
            collector: origin_part(&Origin::Collector),
            looked: HashMap::new(),
            taken: Vec::new(),
            seen: BTreeSet::new(),
            cut: BTreeSet::new(),
        }
    }

    /// Goes through a table by time, newest first. Of what others than these nodes and the collector said it meets the keys alone.
    fn visit(&mut self, index: &dyn Index, table: Table) -> Result<(), IndexError> {
        let by_since = matches!(table, Table::FindingTime);
        let earliest = self.since.values().min().copied().filter(|_| by_since);
        let mut waiting: Vec<(i64, Vec<u8>)> = Vec::new();
        each(index, &Span::prefix(&Key::of(table).bytes()), |key, own| {
            let at = split_time(key).map(|(at, _)| at);
            let (Some(at), Some(origin)) = (at, origin_of(own)) else {
                return Err(IndexError::Mismatch("a key without its time or origin".to_owned()));
            };
            if earliest.is_some_and(|earliest| at < earliest) {
                return Ok(false);
            }
            let node = self.nodes.get(origin).copied();
            let its_since = node.and_then(|node| self.since.get(node)).filter(|_| by_since);
            let too_old = its_since.is_some_and(|since| at < *since);
            if node.is_none() && origin != self.collector || too_old || self.seen.contains(own) {
                return Ok(true);
            }
            let looked = self.looked.entry(origin.to_vec()).or_default();
            let most = if node.is_some() { MAX_LIVES } else { MAX_OWN_LIVES };
            if *looked >= most {
                // What the collector said there may be about any of them.
                let its =
                    self.since.iter().filter(|(of, since)| node.is_none_or(|n| n == *of) && at >= **since);
                self.cut.extend(its.map(|(of, _)| of.clone()));
                return Ok(true);
            }
            *looked += 1;
            self.seen.insert(own.to_vec());
            waiting.push((at, own.to_vec()));
            if waiting.len() >= LIVES_AT_ONCE {
                self.take(index, std::mem::take(&mut waiting), by_since)?;
            }
            Ok(true)
        })?;
        self.take(index, waiting, by_since)
    }

    fn take(
        &mut self,
        index: &dyn Index,
        waiting: Vec<(i64, Vec<u8>)>,
        by_since: bool,
    ) -> Result<(), IndexError> {
        let (times, keys): (Vec<i64>, Vec<Vec<u8>>) = waiting.into_iter().unzip();
        for (at, row) in times.into_iter().zip(index.get_many(&keys)?) {
            let Some(mut life) = row.map(|row| decode::<Life>(&row)).transpose()? else { continue };
            let Some(since) = life.node.as_ref().and_then(|n| self.since.get(n)) else { continue };
            if by_since && at < *since {
                continue;
            }
            let Some(grave) = life.steps.iter().position(Step::is_grave) else { continue };
            // Thousands of them wait to be read.
            let newest = life.steps.len().saturating_sub(1);
            let steps = std::mem::take(&mut life.steps).into_iter().enumerate();
            life.steps =
                steps.filter(|(i, _)| *i == grave || *i == newest).map(|(_, step)| bare(step)).collect();
            self.taken.push(life);
        }
        Ok(())
    }

    /// Reads their records, the newest block of each node first.
    fn read(self, inner: &Inner, count: fn(&FindingRow) -> bool) -> Graves {
        let Self { since, taken, mut cut, .. } = self;
        let mut rows: Vec<(i64, FindingRow)> = Vec::new();
        let mut answered: BTreeMap<NodeName, usize> = BTreeMap::new();
        Reading::sparing(inner).each(taken, |_, life, body| {
            let Some(node) = life.node.clone() else { return true };
            let at = life.updated_wall_ns();
            let its = answered.entry(node.clone()).or_default();
            match body.and_then(|body| finding_row(life, Some(body))) {
                Some(row) if !count(&row) => {}
                Some(row) if *its < MAX_GRAVE => {
                    *its += 1;
                    rows.push((at, row));
                }
                // Nobody knows what it says, or has a place for it.
                _ => cut.extend(since.get_key_value(&node).filter(|(_, since)| at >= **since).map(|_| node)),
            }
            true
        });
        rows.sort_by_key(|(at, _)| *at);
        Graves { rows: rows.into_iter().map(|(_, row)| row).collect(), cut }
    }
}

/// A step without what nobody asks of so many.
fn bare(mut step: Step) -> Step {
    step.evidence.truncate(1);
    Step { summary: String::new(), ..step }
}
