//! CPU and processes.

use std::time::Duration;

use super::Hold;

/// When there is too little CPU.
#[derive(Debug, Clone, PartialEq)]
pub struct SaturationConfig {
    /// Raised at or above this share of time in which some task waited for a CPU (PSI some avg60, per cent)…
    pub some_avg60: f64,
    /// …with this many runnable tasks for each CPU, as a mean over a minute.
    pub run_queue: f64,
    /// High at or above this share…
    pub serious_avg60: f64,
    /// …with this many.
    pub serious_run_queue: f64,
    /// Cleared below this share.
    pub clear_avg60: f64,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for SaturationConfig {
    /// PSI counts any wait, however short, so that a busy and well used node has 30–50 %: only with twice the tasks that
    /// can run is it too little. A build, or pods that start together, take all of a node for minutes and nobody is hurt: as
    /// the Kubernetes mixins (NodeSystemSaturation) this waits for a quarter of an hour, at one sample a second.
    fn default() -> Self {
        Self {
            some_avg60: 70.0,
            run_queue: 2.0,
            serious_avg60: 90.0,
            serious_run_queue: 4.0,
            clear_avg60: 40.0,
            hold: Hold { raise_ticks: 900, clear_ticks: 60 },
        }
    }
}

/// When the hypervisor takes too much.
#[derive(Debug, Clone, PartialEq)]
pub struct StealConfig {
    /// Raised at or above this part of CPU time over `window`.
    pub share: f64,
    /// High at or above this part.
    pub serious_share: f64,
    /// Cleared below this part.
    pub clear_share: f64,
    /// Over which it is measured.
    pub window: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for StealConfig {
    /// A tenth of five minutes is what people are told of (Awesome Prometheus Alerts, HostCpuStealNoisyNeighbor); a third
    /// makes timeouts. A neighbour's burst of a minute is none.
    fn default() -> Self {
        Self {
            share: 0.10,
            serious_share: 0.30,
            clear_share: 0.05,
            window: Duration::from_secs(300),
            hold: Hold { raise_ticks: 30, clear_ticks: 60 },
        }
    }
}

/// When a CPU quota is too small.
#[derive(Debug, Clone, PartialEq)]
pub struct ThrottleConfig {
    /// Raised at or above this part of the periods in which the group ran, over `window`.
    pub share: f64,
    /// Medium at or above this part.
    pub serious_share: f64,
    /// Cleared below this part.
    pub clear_share: f64,
    /// Fewer periods in the window say nothing: a group that runs seldom.
    pub min_periods: u64,
    /// Time throttled in the window below which it hurts nobody.
    pub min_throttled: Duration,
    /// Over which it is measured.
    pub window: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for ThrottleConfig {
    /// 25 % is CPUThrottlingHigh of the Kubernetes mixin. 300 of the 600 periods that a minute has: half of the time
    /// it must have wanted to run.
    fn default() -> Self {
        Self {
            share: 0.25,
            serious_share: 0.50,
            clear_share: 0.10,
            min_periods: 300,
            min_throttled: Duration::from_secs(3),
            window: Duration::from_secs(60),
            hold: Hold { raise_ticks: 6, clear_ticks: 12 },
        }
    }
}

/// When processes are made too fast.
#[derive(Debug, Clone, PartialEq)]
pub struct ForkConfig {
    /// Never raised below this many processes and threads a second.
    pub min_per_second: f64,
    /// Raised at or above this many times the node's own normal.
    pub factor: f64,
    /// Over which the rate is measured.
    pub window: Duration,
    /// The normal is a mean over about so long; before that, `factor` counts from a tenth of the minimum.
    pub normal_over: Duration,
    /// How long it must hold.
    pub hold: Hold,
}

impl Default for ForkConfig {
    /// A shell loop makes some 500 to 1,000 a second on one CPU, compilers of a busy build host some 100.
    fn default() -> Self {
        Self {
            min_per_second: 500.0,
            factor: 10.0,
            window: Duration::from_secs(10),
            normal_over: Duration::from_secs(600),
            hold: Hold { raise_ticks: 10, clear_ticks: 30 },
        }
    }
}
