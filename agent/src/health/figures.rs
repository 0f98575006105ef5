//! Counters and levels that the parts keep, and the core writes most of.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};

use dogwatch::record::Severity;

use crate::act::respond::Standing;

/// Rules that are told apart: some thirty are built in, the rest are a rules file's. Others are counted as [`OTHER`], so
/// that a label's values are bounded whatever the file says.
const MAX_RULES: usize = 200;
/// What other rules are counted as.
const OTHER: &str = "other";

/// Counters that the parts keep; each is a sum since the start unless it says otherwise.
#[derive(Debug, Default)]
pub struct Figures {
    /// Samples taken.
    pub samples: AtomicU64,
    /// Ticks that began late or not at all.
    pub late_ticks: AtomicU64,
    /// Findings said, all states.
    pub findings: AtomicU64,
    /// Lines that matched a rule.
    pub log_matches: AtomicU64,
    /// Lines of files that were lost, where that is known.
    pub tail_lost_lines: AtomicU64,
    /// Bytes of files that were lost, where that is known.
    pub tail_lost_bytes: AtomicU64,
    /// Messages of the kernel's that were recorded.
    pub kernel_lines: AtomicU64,
    /// Their bytes.
    pub kernel_bytes: AtomicU64,
    /// Messages of the kernel's that were lost, where that is known.
    pub kernel_lost_lines: AtomicU64,
    /// Plans made.
    pub plans: AtomicU64,
    /// Cleanups carried out.
    pub cleanups: AtomicU64,
    /// Cleanups that failed.
    pub failed_cleanups: AtomicU64,
    /// Cleanups refused.
    pub refused_cleanups: AtomicU64,
    /// Plans of which nothing came because the mount had the room that is wanted.
    pub needless_plans: AtomicU64,
    /// Cleanups that wait for leave now.
    pub cleanups_waiting: AtomicU64,
    /// How long the one has that waits for longest, ms.
    pub cleanup_waiting_ms: AtomicU64,
    /// How long the thread that owns the executor has been at what it is at, ms.
    pub cleanup_job_ms: AtomicU64,
    /// Bytes that cleanups freed.
    pub freed_bytes: AtomicU64,
    /// Objects that cleanups removed, or cut to their tail.
    pub removed_objects: AtomicU64,
    /// Objects of plans that cleanups left: changed since, open, held, or failed.
    pub left_objects: AtomicU64,
    /// Times that samples became rarer to stay below a cap.
    pub cap_hits: AtomicU64,
    /// CPU time of agent and executor, µs.
    pub cpu_us: AtomicU64,
    /// Resident set of agent and executor now, bytes.
    pub resident_bytes: AtomicU64,
    /// Interval of samples now, ms.
    pub every_ms: AtomicU64,
    /// Bytes of ballast that are held.
    pub ballast_bytes: AtomicU64,
    /// Inodes of ballast that are held.
    pub ballast_inodes: AtomicU64,
    /// Times that ballast was given up.
    pub ballast_given_up: AtomicU64,
    /// Keys of the configuration on disk that need a restart.
    pub config_pending_keys: AtomicU64,
    /// Holds in force on this node.
    pub holds: AtomicU64,
    /// Whether that is longer than configured.
    pub saving: AtomicBool,
    active: Mutex<BTreeMap<(String, Severity), u64>>,
    cleanup: Mutex<Option<Standing>>,
}

impl Figures {
    /// Takes down what is active now: the rule and severity of each finding.
    pub fn set_active<'f>(&self, findings: impl Iterator<Item = (&'f str, Severity)>) {
        let mut active: BTreeMap<(String, Severity), u64> = BTreeMap::new();
        for (rule, severity) in findings {
            let rule = if active.len() < MAX_RULES { rule } else { OTHER };
            *active.entry((rule.to_owned(), severity)).or_default() += 1;
        }
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = active;
    }

    /// Takes down how cleanup stands.
    pub fn set_cleanup(&self, standing: Standing) {
        *self.cleanup.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }

    /// How cleanup stands; `None` before the first sample.
    pub fn cleanup(&self) -> Option<Standing> {
        *self.cleanup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Findings that are active now, by rule and severity.
    pub fn active(&self) -> BTreeMap<(String, Severity), u64> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_counted_by_rule_and_severity_and_rules_are_bounded() {
        let figures = Figures::default();
        let said =
            [("a", Severity::High), ("a", Severity::High), ("a", Severity::Low), ("b", Severity::High)];
        figures.set_active(said.into_iter());
        let active = figures.active();
        assert_eq!(active.get(&("a".to_owned(), Severity::High)), Some(&2));
        assert_eq!(active.len(), 3);
        let names: Vec<String> = (0..MAX_RULES + 50).map(|i| format!("r{i:04}")).collect();
        figures.set_active(names.iter().map(|n| (n.as_str(), Severity::Info)));
        let active = figures.active();
        assert_eq!(active.len(), MAX_RULES + 1);
        assert_eq!(active.get(&(OTHER.to_owned(), Severity::Info)), Some(&50));
    }
}
