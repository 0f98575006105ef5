//! Rows: what the index answers with. Each is a fold over records and decisions and nothing else.

use dogwatch::record::{Action, Finding, NodeName, RecordRef, Severity};
use serde::{Deserialize, Serialize};

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
