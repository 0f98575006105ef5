//! How cleanup stands on this node, for whoever watches over it.

use dogwatch::record::{CleanupMode, Moment};

use super::Respond;
use super::again::Made;

/// What holds at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What cleanup may do.
    pub mode: CleanupMode,
    /// Mounts with a finding that are left alone because the last cleanups did not hold.
    pub left_alone: u64,
    /// Mounts with a finding for which the newest plan of the episode wanted room and found nothing that may go.
    pub nothing_to_clean: u64,
}

impl Respond {
    /// Mounts with a finding that are left alone, and for how much longer, ns.
    pub fn left_alone(&self, now: Moment) -> Vec<(String, u64)> {
        let window = self.settings.breaker_window_ns;
        let troubled = self.mounts.iter().filter(|(_, site)| !site.findings.is_empty());
        troubled
            .filter_map(|(path, s)| Some((path.clone(), s.breaker.open_for_ns(window, now.boot_ns)?)))
            .collect()
    }

    /// How it stands at `now`.
    pub fn standing(&self, now: Moment) -> Standing {
        let troubled = || self.mounts.values().filter(|site| !site.findings.is_empty());
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Standing {
            mode: self.mode(),
            left_alone: count(self.left_alone(now).len()),
            nothing_to_clean: count(
                troubled().filter(|s| s.last_plan.as_ref().is_some_and(Made::in_vain)).count(),
            ),
        }
    }
}
