//! Findings: a detector's statement that something is wrong.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidValue, Pod, RecordRef};

/// A neutral rank; the names that people use for it (P1, SEV2) are configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Look at it this week.
    Low,
    /// Look at it today.
    Medium,
    /// Look at it now.
    High,
    /// The node, or data, is being lost.
    Critical,
}

impl Severity {
    /// Every rank, lowest first.
    pub const ALL: [Self; 5] = [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word in output and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|v| v.as_str() == s)
            .ok_or_else(|| InvalidValue::new("severity", s, "must be info, low, medium, high or critical"))
    }
}

/// Where a finding is in its life. One id goes through raised, any number of updates, and cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// The condition began.
    Raised,
    /// It holds on and its figures or severity changed.
    Updated,
    /// It has been gone for the rule's quiet time.
    Cleared,
}

impl FindingState {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Updated => "updated",
            Self::Cleared => "cleared",
        }
    }
}

/// What a finding is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    /// `mount`, `memory`, `log`, `node`, `disk`, `interface`, `process`, `pod`, `cgroup`, `kernel`, `address`,
    /// `certificate`, `stream`.
    pub kind: String,
    /// The path, address or name; the node's name where the kind is `node` or `memory`; `namespace/name/container` of a
    /// pod, or its uid; `comm (pid)` of a process.
    pub name: String,
}

impl Subject {
    /// Subject `name` of `kind`.
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One figure behind a finding; the key carries the unit (`available_bytes`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Name with unit.
    pub key: String,
    /// Value as text.
    pub value: String,
}

impl Fact {
    /// Fact `key` = `value`.
    pub fn new(key: impl Into<String>, value: impl fmt::Display) -> Self {
        Self { key: key.into(), value: value.to_string() }
    }
}

/// A detector's statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `f-` and 16 hex digits; the same from raised to cleared.
    pub id: String,
    /// The rule's name, e.g. `disk-high-water`.
    pub rule: String,
    /// How bad.
    pub severity: Severity,
    /// Where in its life.
    pub state: FindingState,
    /// What it is about.
    pub subject: Subject,
    /// One sentence with figures, for people.
    pub summary: String,
    /// Why the rule holds: thresholds, figures, assumptions.
    pub explanation: String,
    /// The records that show it.
    pub citations: Vec<RecordRef>,
    /// The figures, for machines.
    pub facts: Vec<Fact>,
    /// When it was raised, wall ns of the node.
    pub raised_wall_ns: i64,
    /// The pod that it is about.
    pub pod: Option<Pod>,
}
