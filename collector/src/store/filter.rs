//! Filters: which rows a question is about.

use dogwatch::record::NodeName;

use crate::incident::IncidentState;
use crate::select::Select;

/// Which findings.
#[derive(Debug, Clone, Default)]
pub struct FindingFilter {
    /// Any of these ids, looked up by themselves; empty: all.
    pub ids: Vec<String>,
    /// Still holding at or after this, wall ns.
    pub since_wall_ns: Option<i64>,
    /// Raised before this, wall ns.
    pub until_wall_ns: Option<i64>,
    /// Of this node.
    pub node: Option<NodeName>,
    /// Not cleared.
    pub active_only: bool,
    /// Said by the collector itself.
    pub from_collector: bool,
    /// About what.
    pub select: Select,
    /// At most so many, the newest; 0: 100,000.
    pub limit: usize,
}

/// Which actions.
#[derive(Debug, Clone, Default)]
pub struct ActionFilter {
    /// Any of these ids, looked up by themselves; empty: all.
    pub ids: Vec<String>,
    /// With a step at or after this, wall ns.
    pub since_wall_ns: Option<i64>,
    /// Begun before this, wall ns.
    pub until_wall_ns: Option<i64>,
    /// Of this node.
    pub node: Option<NodeName>,
    /// About what.
    pub select: Select,
    /// At most so many, the newest; 0: 100,000.
    pub limit: usize,
}

/// Which incidents.
#[derive(Debug, Clone, Default)]
pub struct IncidentFilter {
    /// Any of these ids, looked up by themselves; empty: all.
    pub ids: Vec<String>,
    /// Opened at or after this, wall ns.
    pub since_wall_ns: Option<i64>,
    /// Opened before this, wall ns.
    pub until_wall_ns: Option<i64>,
    /// In one of these states; empty: any.
    pub states: Vec<IncidentState>,
    /// With this node.
    pub node: Option<NodeName>,
    /// About what: severity is the incident's own, nodes are its own where nothing but they and severity is chosen;
    /// for the rest one of its findings must match, of those whose records are still held.
    pub select: Select,
    /// At most so many, the newest; 0: 100,000.
    pub limit: usize,
}

/// Which commands.
#[derive(Debug, Clone, Default)]
pub struct CommandFilter {
    /// Of this node.
    pub node: Option<NodeName>,
    /// At most so many, the newest; 0: 100,000.
    pub limit: usize,
}
