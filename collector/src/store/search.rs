//! Searches: findings, actions and incidents by time or by id, of those that a [`Select`] chooses.
//!
//! What a row of the index tells is looked at first; the record is read only of rows that may be chosen. A search has a
//! time: what is seldom chosen out of very many is refused with a remedy, not looked for without end. Answers come newest
//! first.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dogwatch::record::{NodeName, Severity};

use super::ask::{MAX_ROWS, QueryError, by_time, most};
use super::decision::Piece;
use super::filter::{ActionFilter, FindingFilter, IncidentFilter};
use super::index::{Index, IndexError, Span, decode, each};
use super::keys::{Key, Table};
use super::row::{ActionRow, FindingRow};
use super::view::Life;
use super::{Inner, Store};
use crate::incident::Incident;
use crate::select::Select;

/// How long rows are looked through for those that were chosen: each is a block to read.
const SEARCH_TIME: Duration = Duration::from_secs(20);

/// Whose finding, and its id.
pub type FindingKey = (Option<NodeName>, String);

/// A finding that is active, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Which.
    pub key: FindingKey,
    /// How bad.
    pub severity: Severity,
    /// Its rule.
    pub rule: String,
}

impl Store {
    /// Every finding that is active, newest first, without reading the records of those whose `rules` are known.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn active(&self, rules: Arc<HashMap<FindingKey, String>>) -> Result<Vec<Active>, QueryError> {
        self.search(move |inner, index, time| {
            let mut all = Vec::new();
            by_time(index, Table::FindingActive, |_, _, life: Life| {
                let key = (life.node.clone(), life.id.clone());
                let severity = life.steps.last().map_or(Severity::Info, |s| s.severity);
                let known = rules.get(&key).cloned();
                let rule = known.or_else(|| inner.finding_row(life).map(|r| r.finding.rule));
                all.extend(rule.map(|rule| Active { key, severity, rule }));
                Ok(all.len() < MAX_ROWS && time.is_left())
            })?;
            Ok(all)
        })
        .await
    }

    /// Findings, by their newest step.
    ///
    /// # Errors
    /// [`QueryError`], as of every question here.
    pub async fn findings(&self, filter: FindingFilter) -> Result<Vec<FindingRow>, QueryError> {
        self.search(move |inner, index, time| {
            let mut rows = Vec::new();
            let most = most(filter.limit);
            let fits = |l: &Life| {
                filter.node.as_ref().is_none_or(|n| l.node.as_ref() == Some(n))
                    && filter.until_wall_ns.is_none_or(|u| l.steps.first().is_none_or(|s| s.wall_ns < u))
                    && may_be(&filter.select, l)
            };
            let since = filter.since_wall_ns.unwrap_or(i64::MIN);
            let mut take = |life: Life| {
                if fits(&life) {
                    let row = inner.finding_row(life);
                    rows.extend(row.filter(|r| filter.select.finding(r.node.as_ref(), &r.finding)));
                }
                rows.len() < most && time.is_left()
            };
            if !filter.ids.is_empty() {
                named(index, Table::Finding, &filter.ids, |life| {
                    let fits = !life.over || !filter.active_only && newest(&life) >= since;
                    Ok(!fits || take(life))
                })?;
                return Ok(rows);
            }
            if filter.active_only {
                by_time(index, Table::FindingActive, |_, _, life| Ok(take(life)))?;
                return Ok(rows);
            }
            let mut full = false;
            by_time(index, Table::FindingTime, |at, _, life| {
                full = at >= since && !take(life);
                Ok(at >= since && !full)
            })?;
            if !full && filter.since_wall_ns.is_some() {
                // Raised and last heard of before, and holding still.
                by_time(index, Table::FindingActive, |at, _, life| Ok(at >= since || take(life)))?;
            }
            Ok(rows)
        })
        .await
    }

    /// Actions, by their newest step.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn actions(&self, filter: ActionFilter) -> Result<Vec<ActionRow>, QueryError> {
        self.search(move |inner, index, time| {
            let mut rows = Vec::new();
            let since = filter.since_wall_ns.unwrap_or(i64::MIN);
            let mut take = |life: Life| {
                if filter.node.as_ref().is_none_or(|n| life.node.as_ref() == Some(n))
                    && filter.select.has_node(life.node.as_ref())
                    && filter.until_wall_ns.is_none_or(|u| life.steps.first().is_none_or(|s| s.wall_ns < u))
                    && let Some(row) = inner.action_row(life)
                    && (filter.select.is_all() || inner.chosen_action(index, &filter.select, &row)?)
                {
                    rows.push(row);
                }
                Ok(rows.len() < most(filter.limit) && time.is_left())
            };
            if filter.ids.is_empty() {
                by_time(
                    index,
                    Table::ActionTime,
                    |at, _, life| if at < since { Ok(false) } else { take(life) },
                )?;
            } else {
                named(index, Table::Action, &filter.ids, |life| {
                    if newest(&life) < since { Ok(true) } else { take(life) }
                })?;
            }
            Ok(rows)
        })
        .await
    }

    /// Incidents, by their opening.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn incidents(&self, filter: IncidentFilter) -> Result<Vec<Incident>, QueryError> {
        self.search(move |inner, index, time| {
            let mut rows = Vec::new();
            let since = filter.since_wall_ns.unwrap_or(i64::MIN);
            let mut take = |incident: Incident| {
                if filter.until_wall_ns.is_some_and(|u| incident.opened_wall_ns >= u) {
                    return Ok(true);
                }
                if (filter.states.is_empty() || filter.states.contains(&incident.state))
                    && filter.node.as_ref().is_none_or(|n| incident.nodes.contains(n))
                    && inner.chosen_incident(index, &filter.select, &incident, time)?
                {
                    rows.push(incident);
                }
                Ok(rows.len() < most(filter.limit) && time.is_left())
            };
            if filter.ids.is_empty() {
                by_time(
                    index,
                    Table::IncidentTime,
                    |at, _, incident| {
                        if at < since { Ok(false) } else { take(incident) }
                    },
                )?;
            }
            for id in &filter.ids {
                let known = index.get(&Key::of(Table::Incident).text(id).bytes())?;
                let incident: Option<Incident> = known.map(|v| decode(&v)).transpose()?;
                if let Some(incident) = incident.filter(|i| i.opened_wall_ns >= since)
                    && !take(incident)?
                {
                    break;
                }
            }
            Ok(rows)
        })
        .await
    }

    /// Whether `select` chooses an incident, as [`Store::incidents`] would.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn chooses(&self, select: &Select, incident: &Incident) -> Result<bool, QueryError> {
        if select.is_all() {
            return Ok(true);
        }
        let (select, incident) = (select.clone(), incident.clone());
        self.search(move |inner, index, time| inner.chosen_incident(index, &select, &incident, time)).await
    }

    /// [`Store::ask`] for a limited time: rows that are seldom chosen would keep the index and the disk busy for long.
    async fn search<T: Send + 'static>(
        &self,
        question: impl Fn(&Inner, &dyn Index, &Time) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let (answer, up) = self
            .ask(move |inner, index| {
                let time = Time { begun: Instant::now(), up: Cell::new(false) };
                question(inner, index, &time).map(|answer| (answer, time.up.get()))
            })
            .await?;
        if up {
            return Err(QueryError::TooBroad {
                what: format!("{} s of searching did not suffice", SEARCH_TIME.as_secs()),
                remedy: "name a shorter time, a node, or a smaller limit",
            });
        }
        Ok(answer)
    }
}

/// The time that a search has.
struct Time {
    begun: Instant,
    up: Cell<bool>,
}

impl Time {
    fn is_left(&self) -> bool {
        self.up.set(self.up.get() || self.begun.elapsed() > SEARCH_TIME);
        !self.up.get()
    }
}

/// Visits the lives of these ids, of every node that has one, until `visit` wants no more.
fn named(
    index: &dyn Index,
    table: Table,
    ids: &[String],
    mut visit: impl FnMut(Life) -> Result<bool, IndexError>,
) -> Result<(), IndexError> {
    let mut more = true;
    for id in ids {
        if !more {
            break;
        }
        each(index, &Span::prefix(&Key::of(table).text(id).bytes()), |_, value| {
            more = visit(decode(value)?)?;
            Ok(more)
        })?;
    }
    Ok(())
}

/// When it was last heard of.
fn newest(life: &Life) -> i64 {
    life.steps.last().map_or(i64::MIN, |s| s.wall_ns)
}

/// Whether a finding may be chosen, by what its index row says: its record need not be read to know that it is not.
fn may_be(select: &Select, life: &Life) -> bool {
    select.has_node(life.node.as_ref()) && life.steps.last().is_none_or(|s| select.has_severity(s.severity))
}

impl Inner {
    fn chosen_action(&self, index: &dyn Index, select: &Select, row: &ActionRow) -> Result<bool, IndexError> {
        let finding = match &row.action.finding_id {
            Some(id) => self.finding_life(index, &row.node, id)?.and_then(|l| self.finding_row(l)),
            None => None,
        };
        Ok(select.action(&row.node, &row.action, finding.as_ref().map(|r| &r.finding)))
    }

    fn chosen_incident(
        &self,
        index: &dyn Index,
        select: &Select,
        incident: &Incident,
        time: &Time,
    ) -> Result<bool, IndexError> {
        let of_node = select.nodes.is_empty() || incident.nodes.iter().any(|n| select.nodes.contains(n));
        if !of_node || !select.has_severity(incident.severity) {
            return Ok(false);
        }
        if select.is_about_nodes_alone() {
            return Ok(true);
        }
        // A person may have set the incident's severity; its findings keep theirs.
        let select = Select { severity: None, ..select.clone() };
        for joined in &incident.pieces {
            let Piece::Finding(id) = &joined.piece else { continue };
            if !select.has_node(Some(&joined.node)) {
                continue;
            }
            let row = self.finding_life(index, &joined.node, id)?.and_then(|l| self.finding_row(l));
            if row.is_some_and(|r| select.finding(Some(&joined.node), &r.finding)) {
                return Ok(true);
            }
            if !time.is_left() {
                break;
            }
        }
        Ok(false)
    }
}
