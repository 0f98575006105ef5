//! Incidents: findings and actions that belong to one story, and the states it goes through.

use std::fmt;

use dogwatch::record::{NodeName, Severity};
use serde::{Deserialize, Serialize};

use crate::store::decision::Piece;

/// Where an incident is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IncidentState {
    /// Nobody has taken it yet.
    Open,
    /// Somebody has.
    Acknowledged,
    /// Over: by a person, or because its condition has been gone for a while.
    Resolved,
}

impl IncidentState {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }
}

impl fmt::Display for IncidentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An incident as it stands: a fold over its decisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// `inc-YYYY-MM-DD-NNN`, by the UTC day on which it was opened.
    pub id: String,
    /// One line.
    pub title: String,
    /// How bad, at its worst so far unless a person set it.
    pub severity: Severity,
    /// Where in its life.
    pub state: IncidentState,
    /// Nodes in it, in order of joining.
    pub nodes: Vec<NodeName>,
    /// What its findings share, e.g. `disk:/var`.
    pub topic: String,
    /// Why it was opened.
    pub reason: String,
    /// Wall ns of the collector.
    pub opened_wall_ns: i64,
    /// When it was first acknowledged.
    pub acknowledged_wall_ns: Option<i64>,
    /// When it was resolved, if it is.
    pub resolved_wall_ns: Option<i64>,
    /// What belongs to it and why, in order of joining.
    pub pieces: Vec<Joined>,
    /// What people and the collector said and did, in order.
    pub log: Vec<LogEntry>,
}

/// A piece and why it belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// What.
    pub piece: Piece,
    /// Of which node.
    pub node: NodeName,
    /// Why.
    pub reason: String,
    /// When, wall ns of the collector.
    pub wall_ns: i64,
}

/// One entry of an incident's own log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Wall ns of the collector.
    pub wall_ns: i64,
    /// Who.
    pub actor: String,
    /// `opened`, `severity`, `state`, `note`.
    pub kind: String,
    /// In words.
    pub text: String,
}
