//! Decisions: the collector's own truth, as its journal holds it.
//!
//! Everything that the collector decides, and everything that people do, is one of these, durable before it has
//! effect. Rebuilding the index replays them in order and decides nothing again. Serialised as JSON with a version, so
//! that an old journal stays readable; unknown fields are ignored, an unknown kind is an error that names it.

use dogwatch::record::{ActionState, CleanupMode, Finding, Hash, NodeName, RecordRef, Severity};
use serde::{Deserialize, Serialize};

use crate::brake::STOPPED_RULE;
use crate::incident::{COLLECTOR, IncidentState};

/// A decision and when it was taken, by the collector's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Wall ns.
    pub wall_ns: i64,
    /// `collector`, or the name in a person's certificate.
    pub actor: String,
    /// What.
    pub what: What,
}

impl Decision {
    /// Whether the last of the journal's room is kept for it: what a person decides, and what must be decided lest cleanups go
    /// on, or never end. None of it can nodes cause without an end: permits that are out end, and a hold or a stop has a person
    /// behind it, or an incident.
    pub(super) fn is_kept_room_for(&self) -> bool {
        self.actor != COLLECTOR
            || match &self.what {
                What::BrakePaused { .. }
                | What::BrakeTripped { .. }
                | What::BrakeReleased { .. }
                | What::PermitReturned { .. }
                | What::PermitEnded { .. }
                | What::HoldAdded { .. }
                | What::HoldReleased { .. }
                | What::HoldConfirmed { .. }
                | What::Commanded { .. }
                | What::CommandEnded { .. } => true,
                What::FindingSaid { finding, .. } => finding.rule == STOPPED_RULE,
                _ => false,
            }
    }
}

/// What was decided or done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum What {
    /// A node was let in with this signing key (hex of 32 bytes).
    NodeEnrolled {
        /// Who.
        node: NodeName,
        /// Its key for chain heads, hex.
        signing_key: String,
        /// The join token's id.
        token: String,
    },
    /// A node came with another version or mode than the last time.
    NodeSpoke {
        /// Who.
        node: NodeName,
        /// The agent's version.
        agent_version: String,
        /// Its cleanup mode, if it said one.
        mode: Option<CleanupMode>,
        /// What decides there what may go, if it said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policy: Option<Hash>,
    },
    /// A join token was spent once; recorded before the certificate is issued.
    TokenSpent {
        /// The token's id.
        token: String,
        /// By whom.
        node: NodeName,
    },
    /// The collector's own finding (a silent node, a refusal, an equivocation), in its newest state.
    FindingSaid {
        /// About which node; `None` where nobody can tell.
        node: Option<NodeName>,
        /// The finding.
        finding: Box<Finding>,
        /// How often it has been said, this time included (folded).
        count: u64,
    },
    /// An incident was opened.
    IncidentOpened {
        /// `inc-YYYY-MM-DD-NNN`.
        id: String,
        /// One line.
        title: String,
        /// How bad.
        severity: Severity,
        /// Its first node.
        node: NodeName,
        /// What its findings share, e.g. `disk:/var`.
        topic: String,
        /// Why it was opened.
        reason: String,
    },
    /// A finding or action was put to an incident.
    IncidentJoined {
        /// Which incident.
        id: String,
        /// What was put to it.
        piece: Piece,
        /// Of which node.
        node: NodeName,
        /// Why it belongs.
        reason: String,
    },
    /// An incident has come to be about more than its title said.
    IncidentRetitled {
        /// Which.
        id: String,
        /// The title now.
        title: String,
        /// Its part without what else has come to it.
        lead: String,
        /// What its findings share now: another than before where it was opened for a disk that nobody named.
        topic: String,
        /// What has come to it, e.g. `mount /data`; `None` where `lead` names it.
        subject: Option<String>,
    },
    /// An incident's severity changed.
    IncidentSeverity {
        /// Which.
        id: String,
        /// To what.
        severity: Severity,
        /// Why.
        reason: String,
    },
    /// An incident's state changed.
    IncidentMoved {
        /// Which.
        id: String,
        /// To what.
        state: IncidentState,
        /// Why, or what the person said.
        reason: String,
    },
    /// A person said something.
    NoteAdded {
        /// On which incident.
        id: String,
        /// What.
        text: String,
    },
    /// A person ordered something of a node.
    Commanded {
        /// The command's id.
        command: String,
        /// Which node.
        node: NodeName,
        /// In words: `plan /var`, `apply a-…`.
        order: String,
    },
    /// What came of it.
    CommandEnded {
        /// The command's id.
        command: String,
        /// Whether the node carried it out.
        ok: bool,
        /// The action, or the error.
        outcome: String,
    },
    /// Somebody said that something may not be cleaned or expired. The actor holds it.
    HoldAdded {
        /// `hold-` and eight hexadecimal digits.
        hold: String,
        /// On this node only; `None`: on every node, or on those of the incident.
        node: Option<NodeName>,
        /// What.
        target: HoldTarget,
        /// Why.
        reason: String,
    },
    /// Somebody let it go.
    HoldReleased {
        /// Which.
        hold: String,
        /// Why.
        reason: String,
    },
    /// A node said that it keeps these, durably.
    HoldConfirmed {
        /// Who.
        node: NodeName,
        /// Which, those that it confirmed before left out.
        holds: Vec<String>,
    },
    /// A person paused cleanups on all nodes.
    BrakePaused {
        /// Why.
        reason: String,
    },
    /// Cleanups were stopped on all nodes: one went wrong, or a person saw that one did.
    BrakeTripped {
        /// What went wrong.
        reason: String,
        /// The collector's finding that says so.
        finding: String,
        /// Whose cleanup it was about.
        node: Option<NodeName>,
        /// Which.
        action: Option<String>,
        /// What shows it.
        cites: Vec<RecordRef>,
        /// A state of the brake that a node has in force and this collector knew nothing of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        past: Option<Past>,
        /// On what the collector decided it; `None` of a person's, of a doubt, and of versions that did not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// A person let cleanups go on.
    BrakeReleased {
        /// Why.
        reason: String,
        /// States that single nodes had in force and this collector knew nothing of: they are dealt with, too.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        past: Vec<Past>,
    },
    /// A node may clean by itself.
    PermitGranted {
        /// Who.
        node: NodeName,
        /// The action's id.
        action: String,
        /// On which mount.
        mount: String,
        /// Under which policy.
        policy: Hash,
        /// What the plan expects to free.
        planned_bytes: u64,
        /// Objects of the plan.
        planned_objects: u64,
        /// What the plan uses.
        cleaners: Vec<String>,
        /// Whether the policy was not proven yet.
        canary: bool,
    },
    /// A cleanup with a permit is over; the node keeps its place while it is watched, unless nothing was touched.
    PermitReturned {
        /// Who.
        node: NodeName,
        /// Which.
        action: String,
        /// How the node said that it ended.
        state: ActionState,
        /// What it freed.
        freed_bytes: u64,
    },
    /// A node's place is free again.
    PermitEnded {
        /// Who.
        node: NodeName,
        /// Which.
        action: String,
        /// How.
        how: PermitEnd,
    },
}

/// On what of a node the collector stopped cleanups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// The mount of the cleanup; empty where nobody knows it any more.
    pub mount: String,
    /// The rule of the finding that speaks against it; empty where none does, but the cleanup itself.
    pub rule: String,
    /// That finding; empty also where its id is too long to be kept.
    pub finding: String,
}

/// A state of the fleet brake, as nodes are told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Its number.
    pub revision: u64,
    /// Of the stops and releases that led to it; 0 where that is not known.
    pub lineage: u64,
}

/// How a permit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PermitEnd {
    /// Its node was watched and heard of after that, its mount held, and nothing stopped cleanups.
    Well,
    /// Nobody said how the cleanup ended, or one of those was not so: it proves nothing.
    Lapsed,
}

/// What a hold names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldTarget {
    /// A file, or a folder with all beneath it.
    Path(String),
    /// A pod's logs.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// An incident: its nodes as a whole, and what the collector holds of its time.
    Incident(String),
    /// The node as a whole.
    Node,
}

/// What an incident is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Piece {
    /// A finding's id.
    Finding(String),
    /// An action's id.
    Action(String),
}
