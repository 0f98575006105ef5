//! What the detectors hold against the node: plain values, filled in by the agent's configuration.
//!
//! Ticks are samples that show the thing that is judged; a sample without control groups is none for a rule about them.

mod compute;
mod disk;
mod io;
mod limits;
mod logs;
mod memory;
mod network;
mod wall_clock;
mod workload;

use std::collections::BTreeSet;
use std::time::Duration;

pub use compute::{ForkConfig, SaturationConfig, StealConfig, ThrottleConfig};
pub use disk::{DiskConfig, ForecastConfig, MountClass, WaterMarks};
pub use io::{DiskErrorConfig, IoStallConfig};
pub use limits::{LimitConfig, ZombieConfig};
pub use logs::{LogConfig, LogRule};
pub use memory::{CgroupMemoryConfig, MemoryConfig, OomConfig, SwapConfig};
pub use network::{InterfaceConfig, ListenConfig, RetransmitConfig};
pub use wall_clock::ClockConfig;
pub use workload::{CrashLoopConfig, HungConfig, KernelConfig};

/// Every detector's thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectConfig {
    /// Rules that are switched off, by name; one of [`super::RULES`] each.
    pub off: BTreeSet<String>,
    /// An active finding is said again, with its new figures, no oftener than this. Those about disks and memory, and
    /// log rules, have an interval of their own.
    pub update_interval: Duration,
    /// Filesystems that fill.
    pub disk: DiskConfig,
    /// Filesystems that will be full soon.
    pub forecast: ForecastConfig,
    /// Memory.
    pub memory: MemoryConfig,
    /// Control groups at their memory limit.
    pub cgroup_memory: CgroupMemoryConfig,
    /// Processes that the kernel killed for memory.
    pub oom: OomConfig,
    /// Swap that is used in both directions.
    pub swap: SwapConfig,
    /// Too little CPU.
    pub cpu: SaturationConfig,
    /// CPU that the hypervisor took.
    pub steal: StealConfig,
    /// CPU that a quota took.
    pub throttling: ThrottleConfig,
    /// Processes made too fast.
    pub forks: ForkConfig,
    /// I/O that does not come back.
    pub io: IoStallConfig,
    /// I/O that fails.
    pub disk_errors: DiskErrorConfig,
    /// Network interfaces.
    pub interfaces: InterfaceConfig,
    /// TCP segments sent again.
    pub retransmits: RetransmitConfig,
    /// Listeners that do not keep up.
    pub listen: ListenConfig,
    /// Connection tracking: entries ÷ maximum.
    pub conntrack: LimitConfig,
    /// Descriptors: open ÷ maximum.
    pub descriptors: LimitConfig,
    /// Tasks: tasks ÷ maximum.
    pub pids: LimitConfig,
    /// Dead processes that nobody waits for.
    pub zombies: ZombieConfig,
    /// The clock.
    pub clock: ClockConfig,
    /// Tasks that hang in the kernel.
    pub hung: HungConfig,
    /// The kernel's own errors.
    pub kernel: KernelConfig,
    /// Containers that are started again and again.
    pub crash_loop: CrashLoopConfig,
    /// Log rules.
    pub logs: LogConfig,
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self {
            off: BTreeSet::new(),
            update_interval: Duration::from_secs(60),
            disk: DiskConfig::default(),
            forecast: ForecastConfig::default(),
            memory: MemoryConfig::default(),
            cgroup_memory: CgroupMemoryConfig::default(),
            oom: OomConfig::default(),
            swap: SwapConfig::default(),
            cpu: SaturationConfig::default(),
            steal: StealConfig::default(),
            throttling: ThrottleConfig::default(),
            forks: ForkConfig::default(),
            io: IoStallConfig::default(),
            disk_errors: DiskErrorConfig::default(),
            interfaces: InterfaceConfig::default(),
            retransmits: RetransmitConfig::default(),
            listen: ListenConfig::default(),
            conntrack: LimitConfig::of_conntrack(),
            descriptors: LimitConfig::of_descriptors(),
            pids: LimitConfig::of_pids(),
            zombies: ZombieConfig::default(),
            clock: ClockConfig::default(),
            hung: HungConfig::default(),
            kernel: KernelConfig::default(),
            crash_loop: CrashLoopConfig::default(),
            logs: LogConfig::default(),
        }
    }
}

/// How long something must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Consecutive ticks over a threshold before a finding is raised.
    pub raise_ticks: u32,
    /// Consecutive ticks below the threshold for clearing before it is cleared.
    pub clear_ticks: u32,
}
