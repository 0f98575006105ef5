//! What the owner of the brake did not hear: how permits that are out ended, what came late of those that ended a while ago,
//! and what was found on their nodes. Asked of the store after a start, after notices were missed, and of a node that has its
//! first permit since. Of other nodes nothing is asked: what they say, however much, keeps nobody waiting and hides nothing.
//!
//! What speaks against no cleanup, as what pods do to themselves, hides nothing either: only what counts is looked at. Where
//! more was found on a node that cleans than can be read, the fleet stops: nobody knows that nothing went wrong.
//!
//! Whether a finding came before a cleanup is told by where the records stand in the node's stream; clocks are compared only
//! where one run of the agent raised it and another began.

use std::collections::{BTreeMap, BTreeSet};

use dogwatch::record::{ActionState, Finding, FindingState, NodeName, RecordRef};

use super::STOPPED_RULE;
use super::judge::{is_silence, wrong_finding};
use super::ledger::Permit;
use super::machine::Brake;
use crate::store::decision::What;
use crate::store::row::{FindingRow, Step};
use crate::store::{Graves, QueryError, Store};

/// By so much a node's clock may have gone back since its cleanup began, for what was found and is over to be looked at.
const BEFORE_NS: i64 = 3_600 * 1_000_000_000;

/// How a cleanup began, as its node said it.
struct Began {
    action: String,
    step: Step,
    granted_wall_ns: i64,
    /// Whether its permit ended.
    over: bool,
}

/// A permit that is out, or ended a while ago.
struct Out {
    node: NodeName,
    action: String,
    granted_wall_ns: i64,
    returned: bool,
    doubted: bool,
    over: bool,
}

impl From<&Permit> for Out {
    fn from(p: &Permit) -> Self {
        let (node, action) = (p.node.clone(), p.action.clone());
        let Permit { granted_wall_ns, returned, doubted, .. } = *p;
        Self { node, action, granted_wall_ns, returned, doubted, over: false }
    }
}

/// Observes all of it that is about `nodes`, and returns what is to be decided.
pub(super) async fn look_up(
    store: &Store,
    brake: &mut Brake,
    nodes: &BTreeSet<NodeName>,
) -> Result<Vec<What>, QueryError> {
    let mut out: Vec<Out> = brake.ledger().permits.iter().map(Out::from).collect();
    out.extend(brake.ended().map(|(node, action, granted_wall_ns)| Out {
        node: node.clone(),
        action: action.to_owned(),
        granted_wall_ns,
        returned: false,
        doubted: false,
        over: true,
    }));
    out.retain(|o| nodes.contains(&o.node));
    // Of one that has not begun, what it has now.
    let mut since: BTreeMap<NodeName, i64> = nodes.iter().map(|node| (node.clone(), i64::MAX)).collect();
    let mut decided = Vec::new();
    let mut began: BTreeMap<NodeName, Vec<Began>> = BTreeMap::new();
    for Out { node, action, granted_wall_ns, returned, doubted, over } in out {
        let Some(row) = store.action_of(&node, &action).await? else { continue };
        let start = row.steps.iter().find(|s| s.state == ActionState::Started.as_str());
        if !returned {
            brake.set_begun(&node, &action, start.is_some());
        }
        // What it was doubted for, a person has looked at or will.
        if let Some(step) = start.filter(|_| !doubted) {
            // Each by the clock of whoever may have found something since.
            let earliest = granted_wall_ns.min(step.wall_ns).saturating_sub(BEFORE_NS);
            since.entry(node.clone()).and_modify(|since| *since = earliest.min(*since));
            began.entry(node.clone()).or_default().push(Began {
                action,
                step: step.clone(),
                granted_wall_ns,
                over,
            });
        }
        if let Some(cite) = row.steps.last().and_then(own) {
            decided.extend(brake.observe_action(&node, &row.action, cite));
        }
    }
    let Graves { rows, cut } = store.grave(since, speaks).await?;
    // Oldest first, as they were said.
    for row in rows {
        let Some(node) = row.node.clone() else { continue };
        let of_node = began.get(&node).map(Vec::as_slice).unwrap_or_default();
        let Some((step, finding)) = at_worst(&row) else { continue };
        // Silence speaks only against what is watched still.
        let counts = |began: &&Began| !(began.over && is_silence(&finding));
        if of_node.iter().filter(counts).any(|began| after(&row, step, began)) {
            // It may have been heard of before its cleanup was.
            brake.forget(&node, &finding.id);
            decided.extend(brake.observe_finding(&node, &finding, own(step)));
        }
        // What speaks against no cleanup any more takes no place of what does.
        if wrong_finding(&row.finding).is_some() {
            brake.know(&node, &row.finding.id);
        } else {
            brake.forget(&node, &row.finding.id);
        }
    }
    for node in cut {
        let of_node = began.get(&node).map(Vec::as_slice).unwrap_or_default();
        let why = format!(
            "node {node}: more was found on {node} since its cleanup began than can be looked at; `dogwatch get findings --node \
             {node}` lists it"
        );
        decided.extend(of_node.iter().find_map(|began| brake.blame(&node, &began.action, why.clone())));
    }
    Ok(decided)
}

/// Whether a finding may speak against a cleanup by what it was when it became grave.
fn speaks(row: &FindingRow) -> bool {
    row.finding.rule != STOPPED_RULE
        && at_worst(row).is_some_and(|(_, finding)| wrong_finding(&finding).is_some())
}

/// The step at which a finding became grave, and the finding as it was then: over by now or milder, it was said all the same.
fn at_worst(row: &FindingRow) -> Option<(&Step, Finding)> {
    let step = row.steps.iter().find(|step| step.is_grave())?;
    let (state, severity) = (FindingState::Raised, step.severity);
    Some((step, Finding { state, severity, ..row.finding.clone() }))
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
