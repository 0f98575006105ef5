//! The census: how many findings and incidents are open, and what was lost why; counted aside, so that a scrape reads a
//! few numbers from memory.
//!
//! Limits: it is taken at most every [`EVERY`], and only after something was committed; a finding's record is read once,
//! its rule remembered while it is active. Rules beyond [`MAX_RULES`], and such as were not read yet, are counted as
//! `other`: a label's values are bounded, whatever agents call their rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dogwatch::record::{Body, Severity};
use dogwatch::supervise::Stop;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior};

use crate::incident::IncidentState;
use crate::store::{FindingKey, IncidentFilter, Notice, QueryError, Store};

/// Between two countings: one reads the index rows of all that is active, some 10 µs each.
const EVERY: Duration = Duration::from_secs(5);
/// Rules that are told apart.
const MAX_RULES: usize = 100;
/// What other rules are counted as.
const OTHER: &str = "other";

/// The numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Active findings by rule and severity.
    pub findings: BTreeMap<(String, Severity), u64>,
    /// Incidents that are not resolved, by state and severity.
    pub incidents: BTreeMap<(IncidentState, Severity), u64>,
    /// Gaps that nodes said since the start, by class of reason.
    pub gaps: BTreeMap<&'static str, u64>,
    /// Records that they count, where they know.
    pub lost_records: BTreeMap<&'static str, u64>,
}

/// Where the numbers are found; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Census(Arc<Mutex<Numbers>>);

impl Census {
    /// The numbers as they were counted last.
    pub fn numbers(&self) -> Numbers {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, f: impl FnOnce(&mut Numbers)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts until `stop` is set or the store closes.
    pub async fn run(self, store: Store, stop: Stop) -> Result<(), std::convert::Infallible> {
        let mut committed = store.committed();
        let mut rules: Arc<HashMap<FindingKey, String>> = Arc::default();
        let mut tick = tokio::time::interval_at(Instant::now(), EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stale = true;
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                notice = committed.recv() => {
                    stale = true;
                    match notice {
                        Ok(Notice::Records { records, .. }) => self.count_gaps(records.iter().map(|r| &r.body)),
                        Ok(Notice::Decided(_)) | Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return Ok(()),
                    }
                }
                _ = tick.tick(), if stale => match self.take(&store, &mut rules).await {
                    Ok(()) => stale = false,
                    Err(error) => tracing::debug!(%error, "no census; the last one stays"),
                },
            }
        }
    }

    fn count_gaps<'r>(&self, bodies: impl Iterator<Item = &'r Body>) {
        for body in bodies {
            let Body::Gap(gap) = body else { continue };
            let class = gap.class();
            self.change(|n| {
                *n.gaps.entry(class).or_default() += 1;
                *n.lost_records.entry(class).or_default() += gap.count.unwrap_or(0);
            });
        }
    }

    async fn take(
        &self,
        store: &Store,
        rules: &mut Arc<HashMap<FindingKey, String>>,
    ) -> Result<(), QueryError> {
        let active = store.active(Arc::clone(rules)).await?;
        let states = vec![IncidentState::Open, IncidentState::Acknowledged];
        let open = store.incidents(IncidentFilter { states, ..IncidentFilter::default() }).await?;
        let mut findings: BTreeMap<(String, Severity), u64> = BTreeMap::new();
        let mut known: Vec<&str> = Vec::new();
        for finding in &active {
            let rule = finding.rule.as_deref().unwrap_or(OTHER);
            let told = known.contains(&rule) || known.len() < MAX_RULES;
            if told && !known.contains(&rule) {
                known.push(rule);
            }
            let rule = if told { rule } else { OTHER };
            *findings.entry((rule.to_owned(), finding.severity)).or_default() += 1;
        }
        let mut incidents = BTreeMap::new();
        for incident in open {
            *incidents.entry((incident.state, incident.severity)).or_default() += 1;
        }
        *rules = Arc::new(active.into_iter().filter_map(|f| Some((f.key, f.rule?))).collect());
        self.change(|n| {
            n.findings = findings;
            n.incidents = incidents;
        });
        Ok(())
    }
}
