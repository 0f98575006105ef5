//! The kernel's trouble, and that of containers.

use std::time::Duration;

use super::Hold;

/// When tasks hang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HungConfig {
    /// Uninterruptible sleep of this length is a finding.
    pub after: Duration,
    /// High beyond this.
    pub serious: Duration,
    /// A finding that the kernel's line alone shows is cleared after so long without a further one.
    pub quiet: Duration,
    /// How long it must hold, in scans.
    pub hold: Hold,
}

impl Default for HungConfig {
    /// 120 s is the kernel's own default of `hung_task_timeout_secs`.
    fn default() -> Self {
        Self {
            after: Duration::from_secs(120),
            serious: Duration::from_secs(300),
            quiet: Duration::from_secs(300),
            hold: Hold { raise_ticks: 1, clear_ticks: 3 },
        }
    }
}

/// The kernel's own errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    /// A finding is cleared after so long without a further line of its kind.
    pub quiet: Duration,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self { quiet: Duration::from_secs(1800) }
    }
}

/// When a container is started again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashLoopConfig {
    /// Raised at this many new starts within `window`.
    pub restarts: u32,
    /// The same where containers' names are not known: a pod's init containers run one after the other too.
    pub unnamed_restarts: u32,
    /// Within which they are counted; cleared when it has none.
    pub window: Duration,
}

impl Default for CrashLoopConfig {
    /// The kubelet waits 10, 20, 40 … 300 s before each start: ten minutes have five of them at first and two later.
    fn default() -> Self {
        Self { restarts: 3, unnamed_restarts: 6, window: Duration::from_secs(600) }
    }
}
