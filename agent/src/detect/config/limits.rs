//! Limits of the kernel, of processes and of groups.

use std::time::Duration;

use super::Hold;

/// When so much of a limit is in use. Parts of 1.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitConfig {
    /// Raised, as medium, at or above this part.
    pub high_used: f64,
    /// High at or above this part.
    pub serious_used: f64,
    /// Critical at or above this part.
    pub critical_used: f64,
    /// Cleared below this part.
    pub clear_used: f64,
    /// A limit that the kernel says was met is a finding for so long.
    pub quiet: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl LimitConfig {
    /// 75 % is NodeHighNumberConntrackEntriesUsed of the node mixin, where this clears.
    pub(crate) fn of_conntrack() -> Self {
        Self {
            high_used: 0.80,
            serious_used: 0.90,
            critical_used: 0.95,
            clear_used: 0.75,
            quiet: Duration::from_secs(300),
            hold: Hold { raise_ticks: 5, clear_ticks: 30 },
        }
    }

    /// 70 and 90 % are NodeFileDescriptorLimit of the node mixin.
    pub(crate) fn of_descriptors() -> Self {
        Self { high_used: 0.80, clear_used: 0.70, ..Self::of_conntrack() }
    }

    /// The kernel fails at all of it; the kubelet's `pid.available` has no default.
    pub(crate) fn of_pids() -> Self {
        Self { high_used: 0.80, clear_used: 0.70, ..Self::of_conntrack() }
    }
}

/// When dead processes pile up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZombieConfig {
    /// Raised at or above this many…
    pub count: u64,
    /// …if they became this many more over `window`.
    pub growth: u64,
    /// Medium at or above this many.
    pub serious_count: u64,
    /// Cleared below this many.
    pub clear_count: u64,
    /// Over which growth is measured.
    pub window: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for ZombieConfig {
    /// A zombie costs a PID and nothing else: a hundred that grow are a parent that does not wait, a thousand a part of
    /// the usual 32,768 PIDs.
    fn default() -> Self {
        Self {
            count: 100,
            growth: 10,
            serious_count: 1_000,
            clear_count: 50,
            window: Duration::from_secs(600),
            hold: Hold { raise_ticks: 3, clear_ticks: 10 },
        }
    }
}
