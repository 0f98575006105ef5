//! Searches: findings, actions and incidents by time or by id, of those that a [`Select`] chooses.
//!
//! What a row of the index tells is looked at first; records are read only of rows that may be chosen, and of many at once,
//! so that it does not matter in which order their blocks hold them ([`super::reading`]). A search has a time: what is seldom chosen out of very many is refused with a remedy, not looked for without end. Answers come newest
//! first.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dogwatch::record::{Body, NodeName, Severity};

use super::ask::{MAX_ROWS, QueryError, action_row, by_time, finding_row, most};
use super::decision::Piece;
use super::filter::{ActionFilter, FindingFilter, IncidentFilter};
use super::index::{Index, IndexError, Span, decode, each};
use super::keys::{Key, Table};
use super::reading::Reading;
use super::row::{ActionRow, FindingRow};
use super::standing::{many, shares};
use super::view::{Life, time_key};
use super::{Inner, Store};
use crate::incident::Incident;
use crate::select::Select;

/// How long rows are looked through for those that were chosen: each may be a block to read.
const SEARCH_TIME: Duration = Duration::from_secs(20);

/// Rows that are looked at together where few of them may be chosen: at first, and later.
const FIRST_TOGETHER: usize = 16;
const MOST_TOGETHER: usize = 4_096;

/// Whose finding, and its id.
pub type FindingKey = (Option<NodeName>, String);

/// A finding that is active, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Which.
    pub key: FindingKey,
    /// How bad.
    pub severity: Severity,
    /// Its rule; `None` where its record could not be read this time.
    pub rule: Option<String>,
}

impl Store {
    /// Every finding that is active, newest first, without reading the records of those whose `rules` are known. Of more
    /// than 100,000 of nodes those of which a node has most are left out.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn active(&self, rules: Arc<HashMap<FindingKey, String>>) -> Result<Vec<Active>, QueryError> {
        self.ask(move |inner, index| {
            let keys = shares(index, Table::FindingActive, MAX_ROWS, MAX_ROWS)?;
            let (mut all, mut unknown, mut places) = (Vec::new(), Vec::new(), Vec::new());
            for life in many::<Life>(index, &keys)?.into_iter().flatten().filter(|l| !l.over) {
                let key = (life.node.clone(), life.id.clone());
                let severity = life.steps.last().map_or(Severity::Info, |s| s.severity);
                let rule = rules.get(&key).cloned();
                if rule.is_none() {
                    places.push(all.len());
                    unknown.push(life);
                }
                all.push(Active { key, severity, rule });
            }
            Reading::sparing(inner).each(unknown, |i, _, body| {
                if let Some(Body::Finding(finding)) = body {
                    all[places[i]].rule = Some(finding.rule);
                }
                true
            });
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
            let select = &filter.select;
            let fits = |l: &Life| {
                filter.node.as_ref().is_none_or(|n| l.node.as_ref() == Some(n))
                    && filter.until_wall_ns.is_none_or(|u| l.steps.first().is_none_or(|s| s.wall_ns < u))
                    && (l.from_collector || !filter.from_collector)
                    && may_be(select, l)
            };
            let since = filter.since_wall_ns.unwrap_or(i64::MIN);
            let chosen = |life, body| {
                Ok(finding_row(life, body).filter(|r| select.finding(r.node.as_ref(), &r.finding)))
            };
            let mut found =
                Found::new(inner, time, most(filter.limit), select.is_about_nodes_alone(), chosen);
            let mut take = |life: Life| if fits(&life) { found.take(life) } else { Ok(found.wants_more()) };
            if !filter.ids.is_empty() {
                for life in named(index, Table::Finding, Table::FindingTime, &filter.ids)? {
                    let fits = !life.over || !filter.active_only && life.updated_wall_ns() >= since;
                    if fits && !take(life)? {
                        break;
                    }
                }
            } else if filter.active_only && filter.from_collector {
                // No row of a node is looked at, however many there are.
                for life in many(index, &shares(index, Table::FindingActive, 0, 0)?)?.into_iter().flatten() {
                    if !take(life)? {
                        break;
                    }
                }
            } else if filter.active_only {
                by_time(index, Table::FindingActive, |_, _, life| take(life))?;
            } else {
                let mut full = false;
                by_time(index, Table::FindingTime, |at, _, life| {
                    full = at >= since && !take(life)?;
                    Ok(at >= since && !full)
                })?;
                if !full && filter.since_wall_ns.is_some() {
                    // Raised and last heard of before, and holding still.
                    by_time(index, Table::FindingActive, |at, _, life| Ok(at >= since || take(life)?))?;
                }
            }
            found.rows()
        })
        .await
    }

    /// Actions, by their newest step.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn actions(&self, filter: ActionFilter) -> Result<Vec<ActionRow>, QueryError> {
        self.search(move |inner, index, time| {
            let select = &filter.select;
            let since = filter.since_wall_ns.unwrap_or(i64::MIN);
            let fits = |l: &Life| {
                filter.node.as_ref().is_none_or(|n| l.node.as_ref() == Some(n))
                    && select.has_node(l.node.as_ref())
                    && filter.until_wall_ns.is_none_or(|u| l.steps.first().is_none_or(|s| s.wall_ns < u))
            };
            let by_row = select.is_about_nodes_alone() && select.severity.is_none();
            let chosen = |life, body| {
                let Some(row) = action_row(life, body) else { return Ok(None) };
                Ok((by_row || inner.chosen_action(index, select, &row)?).then_some(row))
            };
            let mut found = Found::new(inner, time, most(filter.limit), by_row, chosen);
            let mut take = |life: Life| if fits(&life) { found.take(life) } else { Ok(found.wants_more()) };
            if filter.ids.is_empty() {
                by_time(
                    index,
                    Table::ActionTime,
                    |at, _, life| if at < since { Ok(false) } else { take(life) },
                )?;
            } else {
                for life in named(index, Table::Action, Table::ActionTime, &filter.ids)? {
                    if life.updated_wall_ns() >= since && !take(life)? {
                        break;
                    }
                }
            }
            found.rows()
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
                return Ok(rows);
            }
            let keys: Vec<Vec<u8>> =
                filter.ids.iter().map(|id| Key::of(Table::Incident).text(id).bytes()).collect();
            let mut named: Vec<Incident> = many(index, &keys)?.into_iter().flatten().collect();
            let at = |i: &Incident| {
                Key::of(Table::IncidentTime).newest_first(i.opened_wall_ns).text(&i.id).bytes()
            };
            named.sort_by_cached_key(at);
            for incident in named.into_iter().filter(|i| i.opened_wall_ns >= since) {
                if !take(incident)? {
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

/// The lives of these ids, of every node that has one; newest first, as the table `by` would have them.
fn named(index: &dyn Index, table: Table, by: Table, ids: &[String]) -> Result<Vec<Life>, IndexError> {
    let mut lives: Vec<Life> = Vec::new();
    for id in ids {
        each(index, &Span::prefix(&Key::of(table).text(id).bytes()), |_, value| {
            lives.push(decode(value)?);
            Ok(true)
        })?;
    }
    lives.sort_by_cached_key(|l| time_key(by, l));
    Ok(lives)
}

/// Rows that are found: their records are read many at a time, so that each block is opened once for all of them.
struct Found<'a, R, F> {
    reading: Reading<'a>,
    time: &'a Time,
    most: usize,
    /// Lives that are read together; `None`: as many as are still wanted, since each is chosen.
    together: Option<usize>,
    waiting: Vec<Life>,
    rows: Vec<R>,
    row: F,
}

impl<'a, R, F: FnMut(Life, Option<Body>) -> Result<Option<R>, IndexError>> Found<'a, R, F> {
    /// At most `most` of those that `row` makes a row of; `all`: it does of each that can be read.
    fn new(inner: &'a Inner, time: &'a Time, most: usize, all: bool, row: F) -> Self {
        let together = (!all).then_some(FIRST_TOGETHER);
        let reading = Reading::new(inner);
        Self { reading, time, most, together, waiting: Vec::new(), rows: Vec::new(), row }
    }

    fn wants_more(&self) -> bool {
        self.rows.len() < self.most && self.time.is_left()
    }

    /// Takes the next in order; whether more are wanted.
    fn take(&mut self, life: Life) -> Result<bool, IndexError> {
        self.waiting.push(life);
        if self.waiting.len() >= self.together.unwrap_or(self.most - self.rows.len()) {
            self.read()?;
        }
        Ok(self.wants_more())
    }

    fn rows(mut self) -> Result<Vec<R>, IndexError> {
        self.read()?;
        self.rows.truncate(self.most);
        Ok(self.rows)
    }

    fn read(&mut self) -> Result<(), IndexError> {
        let lives = std::mem::take(&mut self.waiting);
        let mut read: Vec<Option<R>> = Vec::new();
        read.resize_with(lives.len(), || None);
        let (row, time, mut failed) = (&mut self.row, self.time, None);
        self.reading.each(lives, |i, life, body| {
            match row(life, body) {
                Ok(row) => read[i] = row,
                Err(e) => failed = Some(e),
            }
            failed.is_none() && time.is_left()
        });
        self.rows.extend(read.into_iter().flatten());
        self.together = self.together.map(|n| (n * 4).min(MOST_TOGETHER));
        failed.map_or(Ok(()), Err)
    }
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
        let mut lives = Vec::new();
        for joined in &incident.pieces {
            let Piece::Finding(id) = &joined.piece else { continue };
            if select.has_node(Some(&joined.node)) {
                lives.extend(self.finding_life(index, &joined.node, id)?);
            }
        }
        let mut chosen = false;
        Reading::new(self).each(lives, |_, life, body| {
            let Some(Body::Finding(finding)) = body else { return time.is_left() };
            chosen = select.finding(life.node.as_ref(), &finding);
            !chosen && time.is_left()
        });
        Ok(chosen)
    }
}
