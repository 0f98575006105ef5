//! Samples: a node's vital signs at one tick.

use serde::Serialize;

use super::{Cgroup, ClockState, CoreCpu, Disk, Interface, Limits, NetStack, Pod, Tasks};

/// One tick's readings. A probe that failed leaves its part `None` and says so in `failed`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// Every real mount once.
    pub mounts: Vec<Mount>,
    /// `/proc/meminfo` and memory pressure.
    pub memory: Option<Memory>,
    /// `/proc/stat`, load and pressure.
    pub cpu: Option<Cpu>,
    /// The top processes by CPU and by memory.
    pub processes: Vec<Process>,
    /// What the agent itself costs.
    pub self_cost: SelfCost,
    /// Ticks that began late or not at all since the incarnation began.
    pub late_ticks: u64,
    /// Probes that failed on this tick, as `probe: reason`.
    pub failed: Vec<String>,
    /// Times of each CPU; only where asked for.
    pub cores: Vec<CoreCpu>,
    /// Block devices.
    pub disks: Vec<Disk>,
    /// Network interfaces of the host.
    pub interfaces: Vec<Interface>,
    /// TCP, UDP, connection tracking.
    pub net: Option<NetStack>,
    /// What the kernel has limits for.
    pub limits: Option<Limits>,
    /// What the scan of processes saw; absent on ticks without a whole scan.
    pub tasks: Option<Tasks>,
    /// Control groups; absent on ticks that did not read them.
    pub cgroups: Vec<Cgroup>,
    /// The kernel's clock.
    pub clock: Option<ClockState>,
    /// Interval at which samples are taken now, ms: longer than configured while the agent saves itself.
    pub every_ms: u32,
}

/// A filesystem as `statvfs` sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Mount {
    /// Mount point, with mountinfo's escapes undone.
    pub path: String,
    /// Type, e.g. `ext4`.
    pub fs: String,
    /// Source as mountinfo prints it.
    pub device: String,
    /// Major number of `st_dev`.
    pub dev_major: u32,
    /// Minor number of `st_dev`.
    pub dev_minor: u32,
    /// `f_blocks × f_frsize`.
    pub total_bytes: u64,
    /// `f_bfree × f_frsize`: includes blocks reserved for root.
    pub free_bytes: u64,
    /// `f_bavail × f_frsize`: what an unprivileged writer can still take.
    pub available_bytes: u64,
    /// `f_files`; 0 where the filesystem has no fixed number.
    pub inodes_total: u64,
    /// `f_ffree`.
    pub inodes_free: u64,
    /// Whether the mount or its superblock is read-only.
    pub read_only: bool,
}

impl Mount {
    /// `total − free`: what `df` calls used.
    pub fn used_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.free_bytes)
    }

    /// `free − available`: blocks that only root can take.
    pub fn reserved_bytes(&self) -> u64 {
        self.free_bytes.saturating_sub(self.available_bytes)
    }

    /// `available ÷ total`, as the kubelet reckons `nodefs.available`; 1.0 for a filesystem of no size.
    pub fn available_fraction(&self) -> f64 {
        if self.total_bytes == 0 { 1.0 } else { self.available_bytes as f64 / self.total_bytes as f64 }
    }

    /// `free ÷ total` inodes; 1.0 where inodes are not limited.
    pub fn inodes_free_fraction(&self) -> f64 {
        if self.inodes_total == 0 { 1.0 } else { self.inodes_free as f64 / self.inodes_total as f64 }
    }
}

/// Pressure stall information (kernel doc `accounting/psi`).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Pressure {
    /// Per cent of the last 10 s in which some task stalled.
    pub some_avg10: f64,
    /// The same over 60 s.
    pub some_avg60: f64,
    /// Total stall time of some task, µs.
    pub some_total_us: u64,
    /// Per cent of the last 10 s in which all tasks stalled.
    pub full_avg10: f64,
    /// The same over 60 s.
    pub full_avg60: f64,
    /// Total stall time of all tasks, µs.
    pub full_total_us: u64,
}

/// Memory of the node.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Memory {
    /// MemTotal.
    pub total_bytes: u64,
    /// MemAvailable: the kernel's estimate of what can be had without swapping.
    pub available_bytes: u64,
    /// MemFree.
    pub free_bytes: u64,
    /// Cached.
    pub cached_bytes: u64,
    /// Dirty.
    pub dirty_bytes: u64,
    /// Slab.
    pub slab_bytes: u64,
    /// SwapTotal.
    pub swap_total_bytes: u64,
    /// SwapFree.
    pub swap_free_bytes: u64,
    /// `oom_kill` of `/proc/vmstat`, since boot, where the kernel has it.
    pub oom_kills_total: Option<u64>,
    /// `/proc/pressure/memory`, where the kernel has it.
    pub pressure: Option<Pressure>,
    /// Buffers.
    pub buffers_bytes: u64,
    /// Shmem: shared memory and tmpfs.
    pub shmem_bytes: u64,
    /// Writeback.
    pub writeback_bytes: u64,
    /// SUnreclaim.
    pub slab_unreclaimable_bytes: u64,
    /// Bytes swapped in since boot (`pswpin`), where the kernel has it.
    pub swapped_in_bytes_total: Option<u64>,
    /// Bytes swapped out since boot (`pswpout`).
    pub swapped_out_bytes_total: Option<u64>,
    /// Page faults that needed a read, since boot (`pgmajfault`).
    pub major_faults_total: Option<u64>,
}

/// CPU of the node. Times are µs since boot, summed over the CPUs.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Cpu {
    /// CPUs online.
    pub online: u32,
    /// In user mode, guests included.
    pub user_us: u64,
    /// In user mode at low priority.
    pub nice_us: u64,
    /// In the kernel.
    pub system_us: u64,
    /// Idle.
    pub idle_us: u64,
    /// Idle with I/O outstanding.
    pub iowait_us: u64,
    /// Interrupts.
    pub irq_us: u64,
    /// Soft interrupts.
    pub softirq_us: u64,
    /// Taken by the hypervisor.
    pub steal_us: u64,
    /// Load average over 1 min.
    pub load1: f64,
    /// Over 5 min.
    pub load5: f64,
    /// Over 15 min.
    pub load15: f64,
    /// `/proc/pressure/cpu`.
    pub pressure: Option<Pressure>,
    /// `/proc/pressure/io`.
    pub io_pressure: Option<Pressure>,
    /// Context switches since boot.
    pub context_switches_total: u64,
    /// Processes and threads made since boot (`processes`).
    pub forks_total: u64,
    /// Tasks that are runnable now (`procs_running`).
    pub running: u64,
    /// Tasks that wait for I/O now (`procs_blocked`).
    pub blocked: u64,
}

/// One of the top processes.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// `comm`, which the process can set to anything.
    pub name: String,
    /// Start in clock ticks after boot: with `pid`, it names one process.
    pub start_ticks: u64,
    /// Per cent of one CPU since the previous sample.
    pub cpu_percent: f64,
    /// Resident set by `/proc/PID/stat`: pages that a CPU counted and did not hand in yet are missing or too many, up to
    /// 3 × CPUs × max(32, 2 × CPUs) of them.
    pub resident_bytes: u64,
    /// State letter of `/proc/PID/stat`.
    pub state: String,
    /// Its cgroup's path, where it could be read.
    pub cgroup: String,
    /// Its parent.
    pub ppid: u32,
    /// Threads.
    pub threads: u64,
    /// Bytes a second read from storage since the previous sample, where that may be read.
    pub read_bytes_per_s: Option<f64>,
    /// Bytes a second written to storage.
    pub written_bytes_per_s: Option<f64>,
    /// Descriptors open, where that may be read.
    pub open_files: Option<u64>,
    /// Its pod.
    pub pod: Option<Pod>,
}

/// What the agent costs the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SelfCost {
    /// User and system CPU time of agent and executor since start, µs.
    pub cpu_us: u64,
    /// Resident set of the agent, bytes.
    pub resident_bytes: u64,
    /// Bytes waiting in its queues.
    pub queue_bytes: u64,
    /// Records given up so far; each has its gap record.
    pub dropped_records: u64,
    /// Whether the agent takes samples less often than configured, to stay below its cap.
    pub saving: bool,
}
