//! Decisions of the machine, as they are written.

use dogwatch::record::{NodeName, RecordRef};

use super::super::Ask;
use super::super::ledger::Permit;
use crate::store::decision::What;

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

/// A stop for the cleanup that a permit was for; the owner gives the finding its id.
pub(super) fn trip(reason: String, permit: Option<&Permit>, cites: Vec<RecordRef>) -> What {
    What::BrakeTripped {
        reason,
        finding: String::new(),
        node: permit.map(|p| p.node.clone()),
        action: permit.map(|p| p.action.clone()),
        cites,
        past: None,
    }
}

/// About an action, its permit being over or not.
pub(super) fn blame(reason: String, node: &NodeName, action: &str, cites: Vec<RecordRef>) -> What {
    let (finding, node, action) = (String::new(), Some(node.clone()), Some(action.to_owned()));
    What::BrakeTripped { reason, finding, node, action, cites, past: None }
}

pub(super) fn is_trip(what: &What) -> bool {
    matches!(what, What::BrakeTripped { .. })
}
