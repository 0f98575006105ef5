//! Decisions of the machine, as they are written.

use dogwatch::record::{Finding, NodeName, RecordRef};

use super::super::Ask;
use super::super::grave::MAX_FINDING_ID;
use super::super::ledger::Permit;
use crate::store::decision::{Cause, What};

/// Longest rule that a stop names, in characters; a rules file's are far shorter.
const MAX_RULE_CHARS: usize = 128;

/// A permit for what was asked.
pub(super) fn grant(ask: &Ask, canary: bool) -> What {
    What::PermitGranted {
        node: ask.node.clone(),
        action: ask.action.clone(),
        mount: ask.mount.clone(),
        policy: ask.policy,
        planned_bytes: ask.planned_bytes,
        planned_objects: ask.planned_objects,
        cleaners: ask.cleaners.clone(),
        canary,
    }
}

/// A stop for the cleanup that a permit was for.
pub(super) fn trip(reason: String, permit: &Permit, cites: Vec<RecordRef>) -> What {
    blame(reason, &permit.node, &permit.action, cites, by_cleanup(permit.mount.clone()))
}

/// About an action, its permit being over or not; the owner gives the finding its id.
pub(super) fn blame(
    reason: String,
    node: &NodeName,
    action: &str,
    cites: Vec<RecordRef>,
    cause: Cause,
) -> What {
    let (finding, node, action) = (String::new(), Some(node.clone()), Some(action.to_owned()));
    What::BrakeTripped { reason, finding, node, action, cites, past: None, cause: Some(cause) }
}

/// No finding, but a cleanup of `mount`.
pub(super) fn by_cleanup(mount: String) -> Cause {
    Cause { mount, ..Cause::default() }
}

/// A finding that speaks against a cleanup of `mount`. Nodes make its words up, and the stop must find room in any journal.
pub(super) fn by_finding(finding: &Finding, mount: String) -> Cause {
    let id = Some(&finding.id).filter(|id| id.len() <= MAX_FINDING_ID);
    Cause {
        mount,
        rule: finding.rule.chars().take(MAX_RULE_CHARS).collect(),
        finding: id.cloned().unwrap_or_default(),
    }
}

pub(super) fn is_trip(what: &What) -> bool {
    matches!(what, What::BrakeTripped { .. })
}
