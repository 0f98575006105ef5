//! Vital signs beyond memory and CPU: devices, network, limits, tasks, control groups, the clock; and whose they are.
//!
//! Totals are the kernel's counters as they stand; whoever wants rates takes differences, and minds that a device or a
//! group of the same name may be a new one whose counters began again.

use serde::{Deserialize, Serialize};

use super::Pressure;

/// One CPU's times, µs since boot (`/proc/stat`, proc_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CoreCpu {
    /// Number of the CPU.
    pub cpu: u32,
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
}

/// A block device (`/proc/diskstats`, kernel doc `admin-guide/iostats`). Totals are since boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Disk {
    /// Name of the device, e.g. `sda`, `nvme0n1`, `dm-3`.
    pub name: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Reads completed.
    pub reads_total: u64,
    /// Bytes read.
    pub read_bytes_total: u64,
    /// Time that reads took, summed over them, ms.
    pub read_time_ms_total: u64,
    /// Writes completed.
    pub writes_total: u64,
    /// Bytes written.
    pub written_bytes_total: u64,
    /// Time that writes took, summed over them, ms.
    pub write_time_ms_total: u64,
    /// Requests under way now.
    pub in_flight: u64,
    /// Time with at least one request under way, ms: its share of wall time is the utilisation.
    pub busy_ms_total: u64,
    /// Time times requests under way, ms: its share of wall time is the mean queue.
    pub weighted_ms_total: u64,
    /// Size, where sysfs tells it.
    pub size_bytes: Option<u64>,
    /// Whether the kernel refuses writes (`ro` of sysfs).
    pub read_only: Option<bool>,
    /// Errors of the device (`ioerr_cnt` of sysfs), where the driver counts them (SCSI).
    pub io_errors_total: Option<u64>,
}

/// A network interface of the host (`/proc/net/dev` of its init process). Totals are since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether its link is up (`operstate`), where known.
    pub up: Option<bool>,
    /// Bytes received.
    pub rx_bytes_total: u64,
    /// Packets received.
    pub rx_packets_total: u64,
    /// Receive errors.
    pub rx_errors_total: u64,
    /// Received and dropped.
    pub rx_dropped_total: u64,
    /// Bytes sent.
    pub tx_bytes_total: u64,
    /// Packets sent.
    pub tx_packets_total: u64,
    /// Send errors.
    pub tx_errors_total: u64,
    /// Dropped on the way out.
    pub tx_dropped_total: u64,
    /// Link speed, where the driver tells it.
    pub speed_bytes_per_s: Option<u64>,
}

/// TCP, UDP and connection tracking of the host's network namespace (`/proc/net/{snmp,netstat,sockstat}`, RFC 4022). Totals are since boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NetStack {
    /// TCP connections established or in CLOSE-WAIT (`CurrEstab`).
    pub tcp_established: u64,
    /// TCP sockets in use.
    pub tcp_in_use: u64,
    /// TCP sockets without a process.
    pub tcp_orphans: u64,
    /// TCP sockets in TIME-WAIT.
    pub tcp_time_wait: u64,
    /// Memory of TCP buffers.
    pub tcp_memory_bytes: u64,
    /// UDP sockets in use.
    pub udp_in_use: u64,
    /// TCP segments received.
    pub tcp_in_segments_total: u64,
    /// TCP segments sent, retransmitted ones excluded.
    pub tcp_out_segments_total: u64,
    /// TCP segments retransmitted.
    pub tcp_retransmitted_total: u64,
    /// TCP segments received in error.
    pub tcp_in_errors_total: u64,
    /// Resets sent.
    pub tcp_resets_sent_total: u64,
    /// Connections refused since a listener's queue was full.
    pub listen_overflows_total: u64,
    /// SYNs to listeners dropped.
    pub listen_drops_total: u64,
    /// UDP datagrams received in error.
    pub udp_in_errors_total: u64,
    /// UDP datagrams dropped for want of buffer.
    pub udp_receive_buffer_errors_total: u64,
    /// Connections tracked, where the kernel tracks any.
    pub conntrack_entries: Option<u64>,
    /// Connections that can be tracked.
    pub conntrack_max: Option<u64>,
}

/// What the kernel has a limit for, and how much of it is in use. Absent where it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Limits {
    /// File handles in use (`fs.file-nr`).
    pub open_files: Option<u64>,
    /// Their limit (`fs.file-max`).
    pub open_files_max: Option<u64>,
    /// Tasks, that is threads, on the node: each takes a PID.
    pub tasks: Option<u64>,
    /// `kernel.pid_max`.
    pub pid_max: Option<u64>,
    /// `kernel.threads-max`.
    pub threads_max: Option<u64>,
}

/// What the last whole scan of processes saw.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Tasks {
    /// Processes.
    pub processes: u64,
    /// Of them, dead ones that nobody waited for.
    pub zombies: u64,
    /// Of them, in uninterruptible sleep (state D).
    pub uninterruptible: u64,
    /// Those longest in uninterruptible sleep without a break, longest first.
    pub stuck: Vec<StuckTask>,
    /// Who started most of the processes that are new since the scan before, most first.
    pub spawners: Vec<Spawner>,
    /// Processes nearest to their own limit of descriptors, nearest first; only those over half of it.
    pub descriptors: Vec<DescriptorUse>,
}

/// A process that was in uninterruptible sleep at every scan for some time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StuckTask {
    /// Process id.
    pub pid: u32,
    /// `comm`.
    pub name: String,
    /// Start in clock ticks after boot.
    pub start_ticks: u64,
    /// For how long at least, ms.
    pub stuck_ms: u64,
    /// The kernel function that it waits in, where that may be read.
    pub wchan: String,
    /// Its cgroup's path.
    pub cgroup: String,
    /// Its pod.
    pub pod: Option<Pod>,
}

/// A process that started others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Spawner {
    /// Process id of the parent.
    pub pid: u32,
    /// Its `comm`; that of the children where it is gone.
    pub name: String,
    /// Its start in clock ticks after boot; 0 where it is gone.
    pub start_ticks: u64,
    /// Children that are new since the scan before.
    pub children: u64,
    /// Its cgroup's path.
    pub cgroup: String,
    /// Its pod.
    pub pod: Option<Pod>,
}

/// A process and its limit of open descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DescriptorUse {
    /// Process id.
    pub pid: u32,
    /// `comm`.
    pub name: String,
    /// Start in clock ticks after boot.
    pub start_ticks: u64,
    /// Descriptors open.
    pub open: u64,
    /// `RLIMIT_NOFILE`, soft.
    pub max: u64,
    /// Its cgroup's path.
    pub cgroup: String,
    /// Its pod.
    pub pod: Option<Pod>,
}

/// A control group: a pod's, a container's, a system service's. Totals are since it was made. Absent: not limited, or not told by this version of cgroups.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Cgroup {
    /// Path below the hierarchy's root, e.g. `/kubepods.slice/…`.
    pub path: String,
    /// 1 or 2.
    pub version: u32,
    /// Whose it is.
    pub pod: Option<Pod>,
    /// CPU time, µs.
    pub cpu_us_total: Option<u64>,
    /// Periods of the quota in which it ran.
    pub periods_total: Option<u64>,
    /// Of them, those in which it was throttled.
    pub throttled_periods_total: Option<u64>,
    /// Time throttled, µs.
    pub throttled_us_total: Option<u64>,
    /// Quota ÷ period: CPUs that it may use.
    pub cpu_limit_cores: Option<f64>,
    /// Memory charged (`memory.current`, `memory.usage_in_bytes`).
    pub memory_bytes: Option<u64>,
    /// That without inactive file pages, as the kubelet reckons.
    pub working_set_bytes: Option<u64>,
    /// `memory.max`, `memory.limit_in_bytes`.
    pub memory_limit_bytes: Option<u64>,
    /// How often the limit was hit (`max` of `memory.events`, `memory.failcnt`).
    pub memory_limit_hits_total: Option<u64>,
    /// Swap charged.
    pub swap_bytes: Option<u64>,
    /// Processes killed for its limit.
    pub oom_kills_total: Option<u64>,
    /// Tasks in it.
    pub pids: Option<u64>,
    /// Tasks that may be in it.
    pub pids_max: Option<u64>,
    /// Bytes read from block devices. With v1, newer kernels count them only on devices that somebody throttles.
    pub read_bytes_total: Option<u64>,
    /// Bytes written to block devices; as above.
    pub written_bytes_total: Option<u64>,
    /// `cpu.pressure`.
    pub cpu_pressure: Option<Pressure>,
    /// `memory.pressure`.
    pub memory_pressure: Option<Pressure>,
    /// `io.pressure`.
    pub io_pressure: Option<Pressure>,
}

/// What the kernel knows of its clock (adjtimex(2)).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ClockState {
    /// Whether a time daemon says that the clock is synchronised (`STA_UNSYNC` is not set).
    pub synchronised: bool,
    /// Offset that is being corrected, µs.
    pub offset_us: i64,
    /// Estimated error, µs.
    pub estimated_error_us: u64,
    /// Maximum error, µs; it grows by 500 µs/s without corrections.
    pub max_error_us: u64,
}

/// A pod's container, as a node knows it without asking the cluster: from cgroup paths and log paths. Empty: not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Name of the container.
    pub container: String,
    /// Id of the container at its runtime.
    pub container_id: String,
}
