//! Log rules.

use std::time::Duration;

use dogwatch::record::Severity;

/// What a match of a log rule means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRule {
    /// The rule's name, as lines carry it; the finding's rule.
    pub name: String,
    /// The finding's severity.
    pub severity: Severity,
    /// What a match means, in words, e.g. `the kernel killed a process for want of memory`.
    pub summary: String,
    /// Whether a match tells of somebody who gets in, or tries to; `None`: nobody said.
    pub security: Option<bool>,
}

/// How matched lines become findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The rules. A match of a rule that is not here is a finding of medium severity.
    pub rules: Vec<LogRule>,
    /// Further matches are counted and said at most this often.
    pub update_interval: Duration,
    /// A finding is cleared after so long without a match.
    pub quiet: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            update_interval: Duration::from_secs(30),
            quiet: Duration::from_secs(5 * 60),
        }
    }
}
