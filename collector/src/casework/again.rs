//! Again: what the store holds is taken up in the place of what was remembered.
//!
//! At the start, after a decision may not have become durable, and after notices were missed. The store is asked aside: it
//! may take seconds, and may have to be asked more than once. What people order and what the collector says of itself is
//! made durable meanwhile, and put to what was taken up afterwards, since the store may have been asked before.

use std::collections::BTreeMap;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Finding, NodeName};
use tokio::task::JoinError;

use super::backlog::{Backlog, MAX_LOOSE};
use super::{Casework, CaseworkError, SILENT_RULE, TICK, TOLD_TOGETHER};
use crate::correlate::{Correlator, MAX_LOOSE_PER_NODE};
use crate::store::decision::{Decision, What};
use crate::store::{Loose, QueryError, Standing, Store};

/// What the store held when it was asked.
#[derive(Debug)]
pub(super) struct Taken {
    standing: Standing,
    /// What belonged to no incident, newest first.
    loose: Vec<Loose>,
}

/// What was decided while the store was asked, in order; of a finding its newest state.
#[derive(Debug, Default)]
pub(super) struct Meanwhile {
    deeds: Vec<Decision>,
    said: BTreeMap<String, Decision>,
}

impl Meanwhile {
    pub(super) fn note(&mut self, decision: Decision) {
        match &decision.what {
            What::FindingSaid { finding, .. } => drop(self.said.insert(finding.id.clone(), decision)),
            _ => self.deeds.push(decision),
        }
    }
}

/// Asks how things stand. What belongs to no incident is asked for last: it may have come to be in one since, and what
/// came since is told as a notice.
pub(super) async fn ask(store: Store, ended_since_ns: i64) -> Result<Taken, QueryError> {
    let standing = store.standing(ended_since_ns, MAX_LOOSE_PER_NODE).await?;
    let loose = store.loose_of_each(MAX_LOOSE_PER_NODE, MAX_LOOSE).await?;
    Ok(Taken { standing, loose })
}

impl Casework {
    /// Whether what is remembered is what the store holds, so that it can be decided on.
    pub(super) fn is_sure(&self) -> bool {
        self.taking.is_empty()
    }

    /// Has the store asked after `pause`; nothing is decided on a memory that may hold what was never kept. Where it is
    /// being asked already it is asked once more after that: questions do not pile up.
    pub(super) fn begin_again(&mut self, pause: Duration) {
        if !self.is_sure() {
            self.stale = true;
            return;
        }
        self.backlog = None;
        // Old notices would tell again what the store is about to tell whole.
        self.committed = self.store.committed();
        let (store, ended_since_ns) = (self.store.clone(), self.ended_since_ns());
        self.taking.spawn(async move {
            tokio::time::sleep(pause).await;
            ask(store, ended_since_ns).await
        });
    }

    /// Incidents that ended before are not rejoined for that.
    pub(super) fn ended_since_ns(&self) -> i64 {
        clock::wall_ns().saturating_sub(self.policy.rejoin_ns)
    }

    /// Takes up what the store holds, and waits for it.
    pub(super) async fn take_up(&mut self) -> Result<(), CaseworkError> {
        let taken = ask(self.store.clone(), self.ended_since_ns()).await?;
        self.take_in(taken).await
    }

    /// The store was asked, with this result.
    pub(super) async fn settle(
        &mut self,
        taken: Result<Result<Taken, QueryError>, JoinError>,
    ) -> Result<(), CaseworkError> {
        if std::mem::take(&mut self.stale) {
            self.begin_again(TICK);
            return Ok(());
        }
        let taken = taken.unwrap_or(Err(QueryError::Closed))?;
        self.take_in(taken).await
    }

    async fn take_in(&mut self, taken: Taken) -> Result<(), CaseworkError> {
        let Taken { standing, mut loose } = taken;
        self.silent.clear();
        let before = std::mem::take(&mut self.own);
        for row in standing.active.iter().filter(|r| r.from_collector) {
            if row.finding.rule != SILENT_RULE {
                self.note_own(row.node.as_ref(), &row.finding, row.count);
            } else if let Some(node) = &row.node {
                self.silent.insert(node.clone(), row.finding.clone());
            }
        }
        for (id, own) in &mut self.own {
            own.said = before.get(id).map_or(own.said, |b| b.said);
        }
        self.correlator = Correlator::new(self.policy, standing.incidents, standing.active.iter());
        self.correlator.never_again(standing.past.iter().map(String::as_str));
        self.correlator.holding(&standing.unread);
        // In the order in which they came to be, as if nothing had happened.
        loose.reverse();
        let Meanwhile { deeds, said } = std::mem::take(&mut self.meanwhile);
        for decision in deeds {
            self.correlator.apply(&decision);
            if let What::IncidentMoved { id, .. } = &decision.what {
                self.take_back(id).await?;
            }
        }
        // Now, and all that the store told of the collector's own before it, said again meanwhile or not: what is said of it
        // from here on is put to it at once, and the backlog, which may take minutes, must not tell again what is over by then.
        let is_own = |l: &Loose| matches!(l, Loose::Finding(r) if r.from_collector);
        let earlier: Vec<Loose> = loose.extract_if(.., |l| is_own(l)).collect();
        self.backlog = (!loose.is_empty()).then(|| Backlog::Loose(loose.into_iter()));
        let earlier = earlier.into_iter().filter_map(|l| match l {
            Loose::Finding(row) => Some((row.node, row.finding)),
            Loose::Action(_) => None,
        });
        let mut pieces: Vec<(Option<NodeName>, Finding)> = earlier.collect();
        for decision in said.into_values() {
            let What::FindingSaid { node, finding, count } = decision.what else { continue };
            if finding.rule != SILENT_RULE {
                self.note_own(node.as_ref(), &finding, count);
            }
            pieces.push((node, *finding));
        }
        let now = clock::wall_ns();
        for some in pieces.chunks(TOLD_TOGETHER) {
            let follows = some.iter().filter_map(|(node, f)| {
                node.as_ref().map(|node| self.correlator.observe_finding(node, f, now))
            });
            let decisions = follows.flatten().collect();
            self.keep(decisions).await?;
        }
        Ok(())
    }

    /// Looks after an incident that is not over, where the correlator had let go of it and of its findings.
    pub(super) async fn take_back(&mut self, id: &str) -> Result<(), CaseworkError> {
        if self.correlator.knows(id) {
            return Ok(());
        }
        let Some(incident) = self.store.incident(id).await? else { return Ok(()) };
        let (active, unread) = self.store.members(&incident).await?;
        self.correlator.take_back(incident, &active);
        self.correlator.holding(&unread);
        Ok(())
    }
}
