//! What the brake stands on: stops, permits that are out, and how policies did. A fold over decisions, and pure.
//!
//! Invariants: folding the same decisions in the same order gives the same ledger, live and at a rebuild; a decision
//! that is folded twice in a row changes nothing the second time, but for counts of stops that a person repeats.
//!
//! Bounds: [`MAX_PLACES`](super::MAX_PLACES) nodes have places, [`MAX_PERMITS`] permits are out, [`MAX_POLICIES`] policies are remembered (the one
//! unused for longest goes, and begins anew as a new one).

use dogwatch::record::{ActionState, Hash, NodeName, RecordRef};
use serde::{Deserialize, Serialize};

use crate::store::decision::{Decision, PermitEnd, What};

/// Most permits that are out: some for each place, since a node may have several mounts.
pub const MAX_PERMITS: usize = 1_000;
/// Most policies that are remembered: pools of nodes have some each, and each roll-out brings another.
pub const MAX_POLICIES: usize = 64;

/// The whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Grows with every stop and release.
    pub revision: u64,
    /// Since a person paused cleanups.
    pub paused: Option<Stopped>,
    /// Since something went wrong.
    pub tripped: Option<Stopped>,
    /// How often that happened.
    pub tripped_total: u64,
    /// Permits that are out, oldest first.
    pub permits: Vec<Permit>,
    /// How policies did, the one used last at the end.
    pub policies: Vec<Proof>,
}

/// A stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// When, wall ns of the collector.
    pub wall_ns: i64,
    /// `collector`, or a person.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The finding that says so; empty of a pause.
    pub finding: String,
    /// Whose cleanup it was about.
    pub node: Option<NodeName>,
    /// Which.
    pub action: Option<String>,
    /// What shows it.
    pub cites: Vec<RecordRef>,
}

/// A permit that is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// Whose.
    pub node: NodeName,
    /// For which action.
    pub action: String,
    /// On which mount.
    pub mount: String,
    /// Under which policy.
    pub policy: Hash,
    /// Since when, wall ns of the collector.
    pub granted_wall_ns: i64,
    /// What it may free.
    pub planned_bytes: u64,
    /// Whether the policy was not proven then.
    pub canary: bool,
    /// Whether the cleanup is over, and the node is watched.
    pub returned: bool,
    /// What it freed; a cleanup that freed nothing proves nothing.
    pub freed_bytes: u64,
    /// Whether cleanups were stopped since: then it proves nothing either, however it ends.
    pub doubted: bool,
}

/// How a policy did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Which.
    pub policy: Hash,
    /// Cleanups under it that went well since cleanups were stopped last.
    pub successes: u32,
}

impl Ledger {
    /// Why nothing may be cleaned, if so; a trip before a pause.
    pub fn stopped(&self) -> Option<&Stopped> {
        self.tripped.as_ref().or(self.paused.as_ref())
    }

    /// Cleanups that went well under `policy`.
    pub fn successes(&self, policy: &Hash) -> u32 {
        self.policies.iter().find(|p| p.policy == *policy).map_or(0, |p| p.successes)
    }

    /// The permit of an action.
    pub fn permit(&self, node: &NodeName, action: &str) -> Option<&Permit> {
        self.permits.iter().find(|p| p.node == *node && p.action == action)
    }

    /// Folds one decision; those of others change nothing.
    pub fn apply(&mut self, decision: &Decision) {
        let stop = |reason: &str| Stopped {
            wall_ns: decision.wall_ns,
            by: decision.actor.clone(),
            reason: reason.to_owned(),
            finding: String::new(),
            node: None,
            action: None,
            cites: Vec::new(),
        };
        match &decision.what {
            What::BrakePaused { reason } => {
                self.paused = Some(stop(reason));
                self.revision += 1;
            }
            What::BrakeTripped { reason, finding, node, action, cites } => {
                let stopped = Stopped {
                    finding: finding.clone(),
                    node: node.clone(),
                    action: action.clone(),
                    cites: cites.clone(),
                    ..stop(reason)
                };
                self.tripped = Some(stopped);
                self.tripped_total += 1;
                self.revision += 1;
                // Whatever was proven: something is not as it was when it was.
                self.policies.clear();
                self.permits.iter_mut().for_each(|p| p.doubted = true);
            }
            What::BrakeReleased { .. } => {
                (self.paused, self.tripped) = (None, None);
                self.revision += 1;
            }
            What::PermitGranted { node, action, mount, policy, planned_bytes, canary, .. } => {
                if self.permit(node, action).is_some() || self.permits.len() >= MAX_PERMITS {
                    return;
                }
                self.permits.push(Permit {
                    node: node.clone(),
                    action: action.clone(),
                    mount: mount.clone(),
                    policy: *policy,
                    granted_wall_ns: decision.wall_ns,
                    planned_bytes: *planned_bytes,
                    canary: *canary,
                    returned: false,
                    freed_bytes: 0,
                    doubted: false,
                });
            }
            What::PermitReturned { node, action, state, freed_bytes } => {
                if *state == ActionState::Refused {
                    self.permits.retain(|p| !(p.node == *node && p.action == *action));
                } else if let Some(permit) =
                    self.permits.iter_mut().find(|p| p.node == *node && p.action == *action)
                {
                    permit.returned = true;
                    permit.freed_bytes = *freed_bytes;
                }
            }
            What::PermitEnded { node, action, how } => {
                let at = self.permits.iter().position(|p| p.node == *node && p.action == *action);
                let Some(permit) = at.map(|at| self.permits.remove(at)) else { return };
                if *how == PermitEnd::Well && permit.freed_bytes > 0 && !permit.doubted {
                    self.prove(permit.policy);
                }
            }
            _ => {}
        }
    }

    fn prove(&mut self, policy: Hash) {
        let successes = self.successes(&policy).saturating_add(1);
        self.policies.retain(|p| p.policy != policy);
        if self.policies.len() >= MAX_POLICIES {
            self.policies.remove(0);
        }
        self.policies.push(Proof { policy, successes });
    }
}
