//! Rows: what the index answers with. Each is a fold over records and decisions and nothing else.

use dogwatch::record::{Action, CleanupMode, Finding, FindingState, Hash, NodeName, RecordRef, Severity};
use serde::{Deserialize, Serialize};

use super::decision::HoldTarget;

/// Most steps kept of one finding or action; the first and the newest stay.
pub const MAX_STEPS: usize = 64;

/// One step in the life of a finding or an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// When, by the clock of whoever said it, wall ns.
    pub wall_ns: i64,
    /// `raised`, `updated`, `cleared`; `planned`, `started`, `done`, `failed`, `refused`.
    pub state: String,
    /// How bad then.
    pub severity: Severity,
    /// In one sentence.
    pub summary: String,
    /// The record that says it, and those that it cites; empty for the collector's own.
    pub evidence: Vec<RecordRef>,
}

impl Step {
    /// Whether a finding was of severity high or worse then, and not over.
    pub fn is_grave(&self) -> bool {
        self.severity >= Severity::High && self.state != FindingState::Cleared.as_str()
    }
}

/// A finding as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindingRow {
    /// About which node; `None` where nobody can tell (a refused stranger).
    pub node: Option<NodeName>,
    /// Its newest state.
    pub finding: Finding,
    /// Whether the collector said it, not the node.
    pub from_collector: bool,
    /// How often it was said.
    pub count: u64,
    /// Its life.
    pub steps: Vec<Step>,
}

/// An action as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRow {
    /// On which node.
    pub node: NodeName,
    /// Its newest state.
    pub action: Action,
    /// Its life.
    pub steps: Vec<Step>,
}

/// A finding of an incident that is active, and of which nothing else is known: its record was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Of which node.
    pub node: NodeName,
    /// Its id.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
}

/// A node that was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEnrolled {
    /// Who.
    pub node: NodeName,
    /// Each time, oldest first; of very many, the first and the newest.
    pub enrolments: Vec<Enrolment>,
    /// What its agent said of itself when that changed last.
    pub spoke: Option<Spoke>,
}

/// What an agent said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoke {
    /// When it said so first, wall ns of the collector.
    pub wall_ns: i64,
    /// Its version.
    pub agent_version: String,
    /// Its cleanup mode.
    pub mode: Option<CleanupMode>,
    /// What decides there what may go.
    #[serde(default)]
    pub policy: Option<Hash>,
}

/// One time that a node was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// When, wall ns of the collector.
    pub wall_ns: i64,
    /// The node's key for chain heads, hex.
    pub signing_key: String,
    /// The join token's id.
    pub token: String,
}

/// What became of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TokenUses {
    /// How often it was spent.
    pub count: u64,
    /// By whom and when, oldest first; of very many, the first and the newest.
    pub uses: Vec<TokenUse>,
}

/// One use of a join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// When, wall ns of the collector.
    pub wall_ns: i64,
    /// By whom.
    pub node: NodeName,
}

/// What a person ordered of a node, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRow {
    /// The command's id.
    pub command: String,
    /// Which node.
    pub node: NodeName,
    /// In words.
    pub order: String,
    /// Who.
    pub actor: String,
    /// When, wall ns of the collector.
    pub wall_ns: i64,
    /// How it ended, if it has.
    pub ended: Option<Outcome>,
}

/// A hold as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRow {
    /// Its id.
    pub id: String,
    /// On which node; `None`: on every one, or on the incident's.
    pub node: Option<NodeName>,
    /// What it names.
    pub target: HoldTarget,
    /// Why.
    pub reason: String,
    /// Who holds it.
    pub actor: String,
    /// Since when, wall ns of the collector.
    pub added_wall_ns: i64,
    /// Who let it go and when, if it was.
    pub released: Option<Released>,
}

/// The end of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// When, wall ns of the collector.
    pub wall_ns: i64,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When, wall ns of the collector.
    pub wall_ns: i64,
    /// Whether the node carried it out.
    pub ok: bool,
    /// The action, or the error.
    pub words: String,
}
