//! Storage.

use std::time::Duration;

use super::Hold;

/// When I/O stalls.
#[derive(Debug, Clone, PartialEq)]
pub struct IoStallConfig {
    /// Raised when every task waited for I/O for this share of the last 10 s (PSI full, per cent)…
    pub full_avg10: f64,
    /// …and this share of the last minute, and some task is blocked now.
    pub full_avg60: f64,
    /// High at or above this share of the last minute.
    pub serious_avg60: f64,
    /// Cleared below this share of the last 10 s.
    pub clear_avg10: f64,
    /// How long it must hold.
    pub hold: Hold,
    /// A disk that has requests under way and completes none for so long is a finding.
    pub dead_after: Duration,
    /// And a critical one after so long.
    pub dead_critical: Duration,
}

impl Default for IoStallConfig {
    /// 20 s without one completion: half of what SCSI and NVMe drivers wait before they reset a device (30 s), and
    /// beyond what a busy disk's queue takes.
    fn default() -> Self {
        Self {
            full_avg10: 50.0,
            full_avg60: 40.0,
            serious_avg60: 80.0,
            clear_avg10: 20.0,
            hold: Hold { raise_ticks: 30, clear_ticks: 30 },
            dead_after: Duration::from_secs(20),
            dead_critical: Duration::from_secs(120),
        }
    }
}

/// When a disk fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskErrorConfig {
    /// Raised when the device's own counter rose by this much over `window`.
    pub min_errors: u64,
    /// Over which it is counted.
    pub window: Duration,
    /// A finding is cleared after so long without a further error.
    pub quiet: Duration,
}

impl Default for DiskErrorConfig {
    /// Ten in ten minutes: `ioerr_cnt` of SCSI also counts commands that a device does not know, such as a health
    /// monitor's. A line of the kernel suffices alone.
    fn default() -> Self {
        Self { min_errors: 10, window: Duration::from_secs(600), quiet: Duration::from_secs(1800) }
    }
}
