//! What the owner of the brake did not hear: how permits that are out ended, what came late of those that ended a while ago,
//! and what was found on their nodes. Asked of the store after a start, and after notices were missed.
//!
//! Whether a finding came before a cleanup is told by where the records stand in the node's stream; clocks are compared only
//! where one run of the agent raised it and another began.

use std::collections::BTreeMap;

use dogwatch::record::{ActionState, FindingState, NodeName, RecordRef, Severity};

use super::ledger::Permit;
use super::machine::Brake;
use crate::store::decision::What;
use crate::store::row::{FindingRow, Step};
use crate::store::{QueryError, Store};

/// By so much a node's clock may have gone back since its cleanup began, for what was found and is over to be looked at.
const BEFORE_NS: i64 = 3_600 * 1_000_000_000;

/// How a cleanup began, as its node said it.
struct Began {
    step: Step,
    granted_wall_ns: i64,
}

/// A permit that is out, or ended a while ago.
struct Out {
    node: NodeName,
    action: String,
    granted_wall_ns: i64,
    returned: bool,
    doubted: bool,
}

impl From<&Permit> for Out {
    fn from(p: &Permit) -> Self {
        let (node, action) = (p.node.clone(), p.action.clone());
        let Permit { granted_wall_ns, returned, doubted, .. } = *p;
        Self { node, action, granted_wall_ns, returned, doubted }
    }
}

/// Observes all of it, and returns what is to be decided.
pub(super) async fn look_up(store: &Store, brake: &mut Brake) -> Result<Vec<What>, QueryError> {
    let mut out: Vec<Out> = brake.ledger().permits.iter().map(Out::from).collect();
    out.extend(brake.ended().map(|(node, action, granted_wall_ns)| Out {
        node: node.clone(),
        action: action.to_owned(),
        granted_wall_ns,
        returned: false,
        doubted: false,
    }));
    let mut since = i64::MAX;
    let mut decided = Vec::new();
    let mut began: BTreeMap<NodeName, Vec<Began>> = BTreeMap::new();
    for Out { node, action, granted_wall_ns, returned, doubted } in out {
        let Some(row) = store.action_of(&node, &action).await? else { continue };
        let start = row.steps.iter().find(|s| s.state == ActionState::Started.as_str());
        if !returned {
            brake.set_begun(&node, &action, start.is_some());
        }
        // What it was doubted for, a person has looked at or will.
        if let Some(step) = start.filter(|_| !doubted) {
            // Each by the clock of whoever may have found something since.
            since = since.min(granted_wall_ns).min(step.wall_ns);
            began.entry(node.clone()).or_default().push(Began { step: step.clone(), granted_wall_ns });
        }
        if let Some(cite) = row.steps.last().and_then(own) {
            decided.extend(brake.observe_action(&node, &row.action, cite));
        }
    }
    let rows = store.grave(since.saturating_sub(BEFORE_NS)).await?;
    // Oldest first, as they were said.
    for row in rows.into_iter().rev() {
        let Some(node) = row.node.clone() else { continue };
        let of_node = began.get(&node).map(Vec::as_slice).unwrap_or_default();
        let Some(step) = row.steps.iter().find(|s| is_grave(s)) else { continue };
        if of_node.iter().any(|began| after(&row, step, began)) {
            let mut finding = row.finding.clone();
            // Over by now or milder, it was said all the same.
            finding.state = FindingState::Raised;
            finding.severity = step.severity;
            // It may have been heard of before its cleanup was.
            brake.forget(&node, &finding.id);
            decided.extend(brake.observe_finding(&node, &finding, own(step)));
        }
        if row.steps.last().is_some_and(is_grave) {
            brake.know(&node, &row.finding.id);
        } else {
            brake.forget(&node, &row.finding.id);
        }
    }
    Ok(decided)
}

fn is_grave(step: &Step) -> bool {
    step.severity >= Severity::High && step.state != FindingState::Cleared.as_str()
}

/// Whether a finding became grave after a cleanup began.
fn after(row: &FindingRow, grave: &Step, began: &Began) -> bool {
    match (own(grave), own(&began.step)) {
        _ if row.from_collector => grave.wall_ns >= began.granted_wall_ns,
        (Some(found), Some(start)) if found.incarnation == start.incarnation => found.seq > start.seq,
        _ => grave.wall_ns >= began.step.wall_ns,
    }
}

/// Where a step's own record stands.
fn own(step: &Step) -> Option<RecordRef> {
    step.evidence.first().cloned()
}
