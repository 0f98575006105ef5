//! The standing: how incidents and findings stand, for casework to take up; read so that no node is in the way of another.
//!
//! Lists by time are in the order of nodes' own clocks, so that a list which is cut at its newest shows those alone that
//! say much. Here each node has its share of a list ([`shares`]), which its keys alone decide; what belongs to an incident
//! is looked up by itself; and blocks are opened once ([`super::reading`]), of one node so many only.
//!
//! Bounds: what is taken of each node and of all; walking past what a node has beyond its share costs its keys, about a
//! microsecond each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use dogwatch::record::NodeName;

use super::ask::{MAX_ROWS, QueryError, action_row, by_time, finding_row, get};
use super::decision::Piece;
use super::index::{Index, IndexError, Span, decode, each};
use super::keys::{Key, Origin, Table, origin_in};
use super::reading::Reading;
use super::row::{ActionRow, FindingRow, Unread};
use super::view::{Life, joined_key, life_key, time_key};
use super::{Inner, Store};
use crate::incident::{Incident, IncidentState};

/// Rows that are fetched at once.
const FETCH: usize = 256;

/// A piece that belongs to no incident (yet).
#[derive(Debug, Clone, PartialEq)]
pub enum Loose {
    /// A finding.
    Finding(Box<FindingRow>),
    /// An action.
    Action(Box<ActionRow>),
}

/// How incidents and findings stand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Incidents that are not resolved, that ended lately, or that have a finding which is active and among the newest of
    /// its node; newest first.
    pub incidents: Vec<Incident>,
    /// The ids of all others.
    pub past: Vec<String>,
    /// Findings that are active: the collector's own, those of `incidents`, and of each node the newest. Newest first, and
    /// without their steps.
    pub active: Vec<FindingRow>,
    /// Findings of `incidents` that are active, and whose records were not read.
    pub unread: Vec<Unread>,
    /// Blocks that were opened for it.
    pub blocks: usize,
}

impl Store {
    /// How incidents and findings stand: incidents that ended before `ended_since_ns` are told by their ids, and of each
    /// node the newest `of_each_node` active findings are looked at, besides those that belong to an incident. It has no
    /// limit of time, and what one node stored does not make it fail.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn standing(&self, ended_since_ns: i64, of_each_node: usize) -> Result<Standing, QueryError> {
        self.ask(move |inner, index| inner.standing(index, ended_since_ns, of_each_node)).await
    }

    /// The findings of one incident that are active, as in [`Standing::active`] and [`Standing::unread`].
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn members(&self, incident: &Incident) -> Result<(Vec<FindingRow>, Vec<Unread>), QueryError> {
        let incidents = vec![incident.clone()];
        self.ask(move |inner, index| {
            let mut standing = Standing { incidents: incidents.clone(), ..Standing::default() };
            inner.read_active(index, &mut standing, BTreeMap::new())?;
            Ok((standing.active, standing.unread))
        })
        .await
    }

    /// Findings and actions that belong to no incident, newest first by their first step: what must be looked at again
    /// after a start or after [`Store::committed`] lagged. At most `of_each_node` of one node and about `limit` of all, the
    /// node that has most giving way first. Findings that are over are not among them, nor are those about no node.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn loose_of_each(&self, of_each_node: usize, limit: usize) -> Result<Vec<Loose>, QueryError> {
        self.ask(move |inner, index| {
            let (mut lives, mut actions) = (Vec::new(), Vec::new());
            let mut own: HashMap<Option<NodeName>, usize> = HashMap::new();
            let keys = shares(index, Table::Loose, of_each_node, limit)?;
            for (key, life) in keys.iter().zip(many::<Life>(index, &keys)?) {
                let Some(life) = life else { continue };
                let is_action = key.first() == Some(&(Table::Action as u8));
                if life.over && !is_action {
                    continue;
                }
                if life.from_collector {
                    let taken = own.entry(life.node.clone()).or_default();
                    *taken += 1;
                    if *taken > of_each_node {
                        continue;
                    }
                }
                actions.push(is_action);
                lives.push(life);
            }
            let mut rows: Vec<Option<Loose>> = vec![None; lives.len()];
            Reading::sparing(inner).each(lives, |i, life, body| {
                if body.is_some() {
                    rows[i] = if actions[i] {
                        action_row(life, body).map(|r| Loose::Action(Box::new(r)))
                    } else {
                        finding_row(life, body).map(|r| Loose::Finding(Box::new(r)))
                    };
                }
                true
            });
            Ok(rows.into_iter().flatten().collect())
        })
        .await
    }

    /// How many findings and actions belong to no incident, counted up to `most`.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn loose_count(&self, most: usize) -> Result<usize, QueryError> {
        self.ask(move |_, index| {
            let mut count = 0;
            each(index, &Span::prefix(&Key::of(Table::Loose).bytes()), |_, _| {
                count += 1;
                Ok(count < most)
            })?;
            Ok(count)
        })
        .await
    }
}

impl Inner {
    fn standing(
        &self,
        index: &dyn Index,
        ended_since_ns: i64,
        of_each_node: usize,
    ) -> Result<Standing, IndexError> {
        let mut standing = Standing::default();
        let mut past: BTreeSet<String> = BTreeSet::new();
        by_time(index, Table::IncidentTime, |_, _, incident: Incident| {
            let ended = incident.resolved_wall_ns.filter(|_| incident.state == IncidentState::Resolved);
            if ended.is_some_and(|at| at < ended_since_ns) {
                past.insert(incident.id);
            } else {
                standing.incidents.push(incident);
            }
            Ok(true)
        })?;
        let keys = shares(index, Table::FindingActive, of_each_node, MAX_ROWS)?;
        let found = many::<Life>(index, &keys)?;
        let lives: BTreeMap<Vec<u8>, Life> = keys
            .into_iter()
            .zip(found)
            .filter_map(|(k, life)| Some((k, life.filter(|l| !l.over)?)))
            .collect();
        // What a person ended while a finding of it goes on takes others back for as long as that does.
        let joined = |l: &Life| Some(joined_key(&Piece::Finding(l.id.clone()), l.node.as_ref()?));
        let joined: Vec<Vec<u8>> = lives.values().filter_map(joined).collect();
        for id in raw(index, &joined)?.into_iter().flatten() {
            let id = String::from_utf8_lossy(&id).into_owned();
            if past.remove(&id) {
                standing.incidents.extend(get(index, &Key::of(Table::Incident).text(&id).bytes())?);
            }
        }
        standing.incidents.sort_by(|a, b| (b.opened_wall_ns, &b.id).cmp(&(a.opened_wall_ns, &a.id)));
        standing.past = past.into_iter().collect();
        self.read_active(index, &mut standing, lives)?;
        Ok(standing)
    }

    /// Reads `lives`, and the findings of the incidents of `standing` that are active, into it.
    fn read_active(
        &self,
        index: &dyn Index,
        standing: &mut Standing,
        mut lives: BTreeMap<Vec<u8>, Life>,
    ) -> Result<(), IndexError> {
        let members: HashSet<(&NodeName, &str)> = standing
            .incidents
            .iter()
            .flat_map(|i| &i.pieces)
            .filter_map(|joined| match &joined.piece {
                Piece::Finding(id) => Some((&joined.node, id.as_str())),
                Piece::Action(_) => None,
            })
            .collect();
        let keys: BTreeSet<Vec<u8>> = members
            .iter()
            .flat_map(|(node, id)| {
                [Origin::Node((*node).clone()), Origin::Collector].map(|o| life_key(Table::Finding, id, &o))
            })
            .filter(|key| !lives.contains_key(key))
            .collect();
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        let is_member = |l: &Life| l.node.as_ref().is_some_and(|n| members.contains(&(n, l.id.as_str())));
        for (key, life) in keys.iter().zip(many::<Life>(index, &keys)?) {
            // An id of the collector's may be about another node.
            if let Some(life) = life.filter(|l| !l.over && is_member(l)) {
                lives.insert(key.clone(), life);
            }
        }
        let mut lives: Vec<Life> = lives.into_values().collect();
        lives.sort_by_cached_key(|l| time_key(Table::FindingActive, l));
        let mut rows: Vec<Option<FindingRow>> = vec![None; lives.len()];
        let mut unread = Vec::new();
        let mut reading = Reading::sparing(self);
        reading.each(lives, |i, mut life, body| {
            let severity = life.steps.last().map(|s| s.severity);
            life.steps.clear();
            match (body, &life.node, severity) {
                (None, Some(node), Some(severity)) if is_member(&life) => {
                    unread.push(Unread { node: node.clone(), id: life.id, severity });
                }
                (body, ..) => rows[i] = body.and_then(|b| finding_row(life, Some(b))),
            }
            true
        });
        standing.active = rows.into_iter().flatten().collect();
        standing.unread = unread;
        standing.blocks = reading.opened;
        Ok(())
    }
}

/// The values at `keys`, in their order.
fn raw(index: &dyn Index, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
    let mut values = Vec::with_capacity(keys.len());
    for some in keys.chunks(FETCH) {
        values.extend(index.get_many(some)?);
    }
    Ok(values)
}

/// The rows at `keys`, in their order.
pub(super) fn many<T: for<'de> serde::Deserialize<'de>>(
    index: &dyn Index,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<T>>, IndexError> {
    let mut rows = Vec::with_capacity(keys.len());
    for some in keys.chunks(FETCH) {
        for value in index.get_many(some)? {
            rows.push(value.map(|v| decode(&v)).transpose()?);
        }
    }
    Ok(rows)
}

/// The keys of the rows that a table by time points at, newest first: all of the collector's own, and of each node the
/// newest `of_each`, fewer where that would be more than `limit` of all (then those that have most give way, down to one).
/// What a node has beyond that costs the reading of its keys, never a row.
pub(super) fn shares(
    index: &dyn Index,
    table: Table,
    of_each: usize,
    limit: usize,
) -> Result<Vec<Vec<u8>>, IndexError> {
    let mut taken: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut nodes: HashMap<Vec<u8>, Vec<(usize, Vec<u8>)>> = HashMap::new();
    let (mut share, mut count, mut number) = (of_each, 0, 0);
    let give_way = |nodes: &mut HashMap<_, Vec<_>>, share: &mut usize| {
        *share = fair(nodes.values().map(Vec::len).collect(), limit).min(*share);
        nodes.values_mut().for_each(|of| of.truncate(*share));
        nodes.values().map(Vec::len).sum()
    };
    each(index, &Span::prefix(&Key::of(table).bytes()), |key, row| {
        let Some(origin) = origin_in(table, key) else {
            return Err(IndexError::Mismatch("a key without its origin".to_owned()));
        };
        number += 1;
        if origin == Origin::OF_COLLECTOR {
            taken.push((number, row.to_vec()));
            return Ok(true);
        }
        match nodes.get_mut(origin) {
            Some(of) if of.len() >= share => return Ok(true),
            Some(of) => of.push((number, row.to_vec())),
            None if share == 0 => return Ok(true),
            None => {
                nodes.insert(origin.to_vec(), vec![(number, row.to_vec())]);
            }
        }
        count += 1;
        if count > limit.saturating_mul(2) {
            count = give_way(&mut nodes, &mut share);
        }
        Ok(true)
    })?;
    give_way(&mut nodes, &mut share);
    taken.extend(nodes.into_values().flatten());
    taken.sort_unstable_by_key(|(number, _)| *number);
    Ok(taken.into_iter().map(|(_, row)| row).collect())
}

/// The largest share of each with which those that have `counts` take no more than `limit` together; at least one.
fn fair(mut counts: Vec<usize>, limit: usize) -> usize {
    counts.sort_unstable();
    let (mut left, mut of) = (limit, counts.len());
    for count in counts {
        if count.saturating_mul(of) > left {
            return (left / of).max(1);
        }
        left -= count;
        of -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory_index::MemoryIndex;

    proptest! {
        #[test]
        fn a_share_is_the_largest_that_fits(counts in proptest::collection::vec(0usize..50, 0..20), limit in 0usize..200) {
            let share = fair(counts.clone(), limit);
            let with = |share: usize| counts.iter().map(|c| share.min(*c)).sum::<usize>();
            prop_assert!(share == 1 || with(share) <= limit);
            prop_assert!(share == usize::MAX || with(share + 1) > limit);
        }

        #[test]
        fn each_node_has_its_newest_and_the_collector_all(
            rows in proptest::collection::btree_set((0i64..400, 0u8..5), 0..120), of_each in 1usize..30, limit in 1usize..60,
        ) {
            let index = MemoryIndex::default();
            let origin = |who: u8| match who {
                0 => Origin::Collector,
                n => Origin::Node(format!("n{n}").parse().unwrap()),
            };
            let row = |at: i64, who: u8| format!("{at} {who}").into_bytes();
            let put = |&(at, who): &(i64, u8)| {
                let key = Key::of(Table::FindingActive).newest_first(at).text("f").origin(&origin(who));
                (key.bytes(), Some(row(at, who)))
            };
            index.apply(rows.iter().map(put).collect()).unwrap();
            let got = shares(&index, Table::FindingActive, of_each, limit).unwrap();
            let of = |who: u8| rows.iter().filter(|r| r.1 == who).count();
            let share = fair((1..5).map(of).collect(), limit).min(of_each);
            let mut seen = [0; 5];
            let wanted: Vec<Vec<u8>> = rows.iter().rev().filter(|(_, who)| {
                seen[usize::from(*who)] += 1;
                *who == 0 || seen[usize::from(*who)] <= share
            }).map(|(at, who)| row(*at, *who)).collect();
            let sorted = |mut rows: Vec<Vec<u8>>| { rows.sort(); rows };
            prop_assert_eq!(sorted(got.clone()), sorted(wanted));
            let at = |row: &Vec<u8>| String::from_utf8_lossy(row).split(' ').next().unwrap().parse::<i64>().unwrap();
            prop_assert!(got.windows(2).all(|w| at(&w[0]) >= at(&w[1])));
        }
    }
}
