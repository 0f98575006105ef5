//! The fleet brake: whether nodes may clean by themselves, who does and who waits.

use dogwatch::record::Severity;
use dogwatch::wire;
use serde::Serialize;

use super::from_wire::{known, severity};
use crate::time::Utc;

/// How the brake stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FleetBrake {
    /// `open`, `paused`, `tripped`.
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) actor: Option<String>,
    pub(crate) since: Option<Utc>,
    pub(crate) node: Option<String>,
    /// Where that cleanup was.
    pub(crate) mount: Option<String>,
    pub(crate) action: Option<String>,
    /// The finding that speaks against it, and its rule.
    pub(crate) cause_rule: Option<String>,
    pub(crate) cause_finding: Option<String>,
    /// The one that the stop itself raised.
    pub(crate) finding: Option<String>,
    pub(crate) max_nodes: u32,
    pub(crate) tripped_total: u64,
    pub(crate) permits: Vec<Permit>,
    /// The next first.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) policies: Vec<Proof>,
    /// Connected nodes that have not said that they have the state.
    pub(crate) unheard: Vec<String>,
    /// Why a restart of the collector would forget this state.
    pub(crate) not_kept: Option<String>,
    /// What to know beside that, and what to do.
    pub(crate) notes: Vec<String>,
    /// Grows with every stop and release.
    pub(crate) revision: u64,
    /// Of what is tripped: the pause that is in force as well.
    pub(crate) pause: Option<Pause>,
    /// Nodes that are stopped alone, and that a release lets go on.
    pub(crate) alone: Vec<Alone>,
}

/// A node that is stopped alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Alone {
    pub(crate) node: String,
    /// What it says it was told.
    pub(crate) reason: Option<String>,
    /// Which state that is: a release means this one.
    #[serde(skip)]
    pub(crate) state: (u64, u64),
}

/// A person's pause.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pause {
    pub(crate) reason: Option<String>,
    pub(crate) actor: Option<String>,
    pub(crate) since: Option<Utc>,
}

/// A permit that is out.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Permit {
    pub(crate) node: String,
    pub(crate) action: String,
    pub(crate) mount: String,
    /// `acting`, `watched`.
    pub(crate) state: String,
    pub(crate) granted_at: Option<Utc>,
    pub(crate) planned_bytes: u64,
    pub(crate) canary: bool,
}

/// A cleanup that waits.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Waiting {
    pub(crate) node: String,
    pub(crate) action: String,
    pub(crate) mount: String,
    pub(crate) severity: Option<Severity>,
    pub(crate) seconds_to_full: Option<f64>,
    pub(crate) waited_seconds: f64,
}

/// How a policy did.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Proof {
    pub(crate) policy: String,
    pub(crate) successes: u32,
    pub(crate) needed: u32,
    /// Nodes on which they went well, counted no further than are needed.
    pub(crate) nodes: u32,
    pub(crate) nodes_needed: u32,
}

impl From<wire::FleetBrake> for FleetBrake {
    fn from(b: wire::FleetBrake) -> Self {
        let permit = |p: wire::FleetPermit| Permit {
            node: p.node,
            action: p.action_id,
            mount: p.mount,
            state: p.state,
            granted_at: Utc::known(p.granted_wall_ns),
            planned_bytes: p.planned_bytes,
            canary: p.canary,
        };
        let waiting = |w: wire::FleetWaiting| Waiting {
            severity: severity(w.severity),
            node: w.node,
            action: w.action_id,
            mount: w.mount,
            seconds_to_full: w.seconds_to_full,
            waited_seconds: w.waited_seconds,
        };
        let proof = |p: wire::FleetPolicy| Proof {
            policy: p.policy,
            successes: p.successes,
            needed: p.needed,
            nodes: p.nodes,
            nodes_needed: p.nodes_needed,
        };
        let alone = |a: wire::FleetAlone| Alone {
            node: a.node,
            reason: known(a.reason),
            state: (a.revision, a.lineage),
        };
        Self {
            state: b.state,
            reason: known(b.reason),
            actor: known(b.actor),
            since: Utc::known(b.since_wall_ns),
            node: known(b.node),
            mount: known(b.mount),
            action: known(b.action_id),
            cause_rule: known(b.cause_rule),
            cause_finding: known(b.cause_finding),
            finding: known(b.finding),
            max_nodes: b.max_nodes,
            tripped_total: b.tripped_total,
            permits: b.permits.into_iter().map(permit).collect(),
            waiting: b.waiting.into_iter().map(waiting).collect(),
            policies: b.policies.into_iter().map(proof).collect(),
            unheard: b.unheard,
            not_kept: known(b.not_kept),
            notes: b.notes,
            revision: b.revision,
            pause: b.pause.map(|p| Pause {
                reason: known(p.reason),
                actor: known(p.actor),
                since: Utc::known(p.since_wall_ns),
            }),
            alone: b.alone.into_iter().map(alone).collect(),
        }
    }
}
