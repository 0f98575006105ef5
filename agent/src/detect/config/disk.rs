//! Filesystems.

use std::collections::BTreeSet;
use std::time::Duration;

/// Thresholds of one measure, as used fractions of 1. Used is 1 − available ÷ capacity, as the kubelet reckons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaterMarks {
    /// A finding of medium severity is raised at or above this.
    pub high_used: f64,
    /// It is cleared once used has stayed at or below this.
    pub low_used: f64,
    /// It becomes high at or above this.
    pub serious_used: f64,
    /// It becomes critical at or above this.
    pub critical_used: f64,
}

impl Default for WaterMarks {
    /// 85 % is the kubelet's `imagefs.available<15%`, 90 % its `nodefs.available<10%`; 95 % is where filesystems begin
    /// to refuse what root does not write. 80 % is the kubelet's own low mark for images.
    fn default() -> Self {
        Self { high_used: 0.85, low_used: 0.80, serious_used: 0.90, critical_used: 0.95 }
    }
}

/// High-water marks of filesystems.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskConfig {
    /// Of bytes.
    pub space: WaterMarks,
    /// Of inodes.
    pub inodes: WaterMarks,
    /// Consecutive samples at or above the high mark before a finding is raised.
    pub raise_ticks: u32,
    /// Consecutive samples at or below the low mark before it is cleared.
    pub clear_ticks: u32,
    /// An active finding whose figure moved by a percentage point is said again after this.
    pub update_interval: Duration,
    /// Mount points that are not watched, neither here nor by the forecast.
    pub ignore: BTreeSet<String>,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            space: WaterMarks::default(),
            inodes: WaterMarks::default(),
            raise_ticks: 1,
            clear_ticks: 5,
            update_interval: Duration::from_secs(60),
            ignore: BTreeSet::new(),
        }
    }
}

/// When a filesystem that fills is a finding before it is full.
#[derive(Debug, Clone, PartialEq)]
pub struct ForecastConfig {
    /// Raised when it would be full sooner than this, [`LONGEST_BOUND`](crate::detect::LONGEST_BOUND) at most.
    pub bound: Duration,
    /// Critical when it would be full sooner than this.
    pub critical: Duration,
    /// History without which nothing is said.
    pub min_history: Duration,
    /// Consecutive samples that must agree before a finding is raised.
    pub raise_ticks: u32,
    /// Consecutive samples without a forecast below twice the bound before it is cleared.
    pub clear_ticks: u32,
    /// What was lost must be this fraction of the capacity, or half of what was there.
    pub min_loss_of_capacity: f64,
    /// Losses below this are noise.
    pub noise_floor_bytes: u64,
    /// An active finding is said again, with its new figures, after this.
    pub update_interval: Duration,
}

impl Default for ForecastConfig {
    /// 1 %: what is believed has taken a seventh of what was available at least, and that is less only where the
    /// high-water mark has long spoken.
    fn default() -> Self {
        Self {
            bound: Duration::from_secs(30 * 60),
            critical: Duration::from_secs(5 * 60),
            min_history: Duration::from_secs(30),
            raise_ticks: 3,
            clear_ticks: 60,
            min_loss_of_capacity: 0.01,
            noise_floor_bytes: 1 << 20,
            update_interval: Duration::from_secs(60),
        }
    }
}
