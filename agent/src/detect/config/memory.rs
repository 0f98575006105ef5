//! Memory and swap.

use std::time::Duration;

use super::Hold;

/// When memory is a finding. Pressure is per cent of time over the last 10 s (`avg10`).
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    /// Raised at or above this share of time in which some task waited for memory.
    pub some_avg10: f64,
    /// Raised at or above this share of time in which every task waited for memory.
    pub full_avg10: f64,
    /// Raised below this available fraction.
    pub min_available: f64,
    /// Critical at or above this share of time in which every task waited for memory.
    pub critical_full_avg10: f64,
    /// Critical below this available fraction.
    pub critical_available: f64,
    /// Cleared only at or above this available fraction, and at half the pressure.
    pub clear_available: f64,
    /// Consecutive samples before a finding is raised.
    pub raise_ticks: u32,
    /// Consecutive calm samples before it is cleared.
    pub clear_ticks: u32,
    /// An active finding is said again, with its new figures, after this.
    pub update_interval: Duration,
    /// How many of the largest processes are named.
    pub name_processes: usize,
    /// Growth in three minutes below which nobody is named as growing.
    pub growth_floor_bytes: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            some_avg10: 40.0,
            full_avg10: 10.0,
            min_available: 0.05,
            critical_full_avg10: 40.0,
            critical_available: 0.02,
            clear_available: 0.10,
            raise_ticks: 5,
            clear_ticks: 15,
            update_interval: Duration::from_secs(60),
            name_processes: 5,
            growth_floor_bytes: 16 << 20,
        }
    }
}

/// When a control group is at its memory limit.
#[derive(Debug, Clone, PartialEq)]
pub struct CgroupMemoryConfig {
    /// Raised at or above this part of the limit that the working set takes, if it also grows and the limit is felt.
    pub high_used: f64,
    /// High at or above this part.
    pub serious_used: f64,
    /// Cleared below this part, or when the limit is not felt any more.
    pub clear_used: f64,
    /// It grows if the working set rose by this part of the limit over `window`.
    pub growth: f64,
    /// Over which growth and hits of the limit are counted.
    pub window: Duration,
    /// The limit is felt at or above this pressure (some avg10, per cent), or when it was hit within `window` and the group
    /// has no pressure of its own or is at `serious_used`.
    pub some_avg10: f64,
    /// Raised without growth at or above this pressure (some avg60, per cent): it turns in place.
    pub thrash_avg60: f64,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for CgroupMemoryConfig {
    /// 90 % of a limit that is normal for a cache says nothing, so it must grow too; a quarter of the pressure at
    /// which the node itself is short (40 %) is work that waits.
    fn default() -> Self {
        Self {
            high_used: 0.90,
            serious_used: 0.97,
            clear_used: 0.85,
            growth: 0.01,
            window: Duration::from_secs(120),
            some_avg10: 10.0,
            thrash_avg60: 20.0,
            hold: Hold { raise_ticks: 3, clear_ticks: 15 },
        }
    }
}

/// Processes killed for want of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OomConfig {
    /// A finding is cleared after so long without a further kill.
    pub quiet: Duration,
    /// A kill that a counter shows is told without the kernel's line when none came for so long.
    pub grace: Duration,
}

impl Default for OomConfig {
    /// Ten minutes: longer than the kubelet's longest back-off (5 min), so that a container that is killed at each start
    /// is one finding.
    fn default() -> Self {
        Self { quiet: Duration::from_secs(600), grace: Duration::from_secs(15) }
    }
}

/// When swapping is a storm.
#[derive(Debug, Clone, PartialEq)]
pub struct SwapConfig {
    /// Raised when in and out are both at or above this, bytes a second over `window`.
    pub bytes_per_second: u64,
    /// Over which they are measured.
    pub window: Duration,
    /// And memory pressure (some avg10, per cent) is at or above this, where the kernel has it.
    pub some_avg10: f64,
    /// High at or above this pressure.
    pub serious_avg10: f64,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for SwapConfig {
    /// 4 MiB/s are a thousand pages each second in each direction. One direction alone is the kernel making room, or a
    /// program waking up.
    fn default() -> Self {
        Self {
            bytes_per_second: 4 << 20,
            window: Duration::from_secs(30),
            some_avg10: 10.0,
            serious_avg10: 40.0,
            hold: Hold { raise_ticks: 10, clear_ticks: 30 },
        }
    }
}
