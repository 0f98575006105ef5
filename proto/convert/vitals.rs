//! Vital signs beyond memory and CPU.

use super::{MAX_ITEMS, Refused, finite, from_owned, items, optional, text};
use crate::record::{
    Cgroup, ClockState, CoreCpu, DescriptorUse, Disk, Interface, Limits, NetStack, Pod, Spawner, StuckTask,
    Tasks,
};
use crate::wire;

impl From<&CoreCpu> for wire::CoreCpu {
    fn from(v: &CoreCpu) -> Self {
        Self {
            cpu: v.cpu,
            user_us: v.user_us,
            nice_us: v.nice_us,
            system_us: v.system_us,
            idle_us: v.idle_us,
            iowait_us: v.iowait_us,
            irq_us: v.irq_us,
            softirq_us: v.softirq_us,
            steal_us: v.steal_us,
        }
    }
}

impl TryFrom<wire::CoreCpu> for CoreCpu {
    type Error = Refused;
    fn try_from(v: wire::CoreCpu) -> Result<Self, Refused> {
        Ok(Self {
            cpu: v.cpu,
            user_us: v.user_us,
            nice_us: v.nice_us,
            system_us: v.system_us,
            idle_us: v.idle_us,
            iowait_us: v.iowait_us,
            irq_us: v.irq_us,
            softirq_us: v.softirq_us,
            steal_us: v.steal_us,
        })
    }
}

impl From<&Disk> for wire::Disk {
    fn from(v: &Disk) -> Self {
        Self {
            name: v.name.clone(),
            major: v.major,
            minor: v.minor,
            reads_total: v.reads_total,
            read_bytes_total: v.read_bytes_total,
            read_time_ms_total: v.read_time_ms_total,
            writes_total: v.writes_total,
            written_bytes_total: v.written_bytes_total,
            write_time_ms_total: v.write_time_ms_total,
            in_flight: v.in_flight,
            busy_ms_total: v.busy_ms_total,
            weighted_ms_total: v.weighted_ms_total,
            size_bytes: v.size_bytes,
            read_only: v.read_only,
            io_errors_total: v.io_errors_total,
        }
    }
}

impl TryFrom<wire::Disk> for Disk {
    type Error = Refused;
    fn try_from(v: wire::Disk) -> Result<Self, Refused> {
        Ok(Self {
            name: text("name", v.name)?,
            major: v.major,
            minor: v.minor,
            reads_total: v.reads_total,
            read_bytes_total: v.read_bytes_total,
            read_time_ms_total: v.read_time_ms_total,
            writes_total: v.writes_total,
            written_bytes_total: v.written_bytes_total,
            write_time_ms_total: v.write_time_ms_total,
            in_flight: v.in_flight,
            busy_ms_total: v.busy_ms_total,
            weighted_ms_total: v.weighted_ms_total,
            size_bytes: v.size_bytes,
            read_only: v.read_only,
            io_errors_total: v.io_errors_total,
        })
    }
}

impl From<&Interface> for wire::Interface {
    fn from(v: &Interface) -> Self {
        Self {
            name: v.name.clone(),
            up: v.up,
            rx_bytes_total: v.rx_bytes_total,
            rx_packets_total: v.rx_packets_total,
            rx_errors_total: v.rx_errors_total,
            rx_dropped_total: v.rx_dropped_total,
            tx_bytes_total: v.tx_bytes_total,
            tx_packets_total: v.tx_packets_total,
            tx_errors_total: v.tx_errors_total,
            tx_dropped_total: v.tx_dropped_total,
            speed_bytes_per_s: v.speed_bytes_per_s,
        }
    }
}

impl TryFrom<wire::Interface> for Interface {
    type Error = Refused;
    fn try_from(v: wire::Interface) -> Result<Self, Refused> {
        Ok(Self {
            name: text("name", v.name)?,
            up: v.up,
            rx_bytes_total: v.rx_bytes_total,
            rx_packets_total: v.rx_packets_total,
            rx_errors_total: v.rx_errors_total,
            rx_dropped_total: v.rx_dropped_total,
            tx_bytes_total: v.tx_bytes_total,
            tx_packets_total: v.tx_packets_total,
            tx_errors_total: v.tx_errors_total,
            tx_dropped_total: v.tx_dropped_total,
            speed_bytes_per_s: v.speed_bytes_per_s,
        })
    }
}

impl From<&NetStack> for wire::NetStack {
    fn from(v: &NetStack) -> Self {
        Self {
            tcp_established: v.tcp_established,
            tcp_in_use: v.tcp_in_use,
            tcp_orphans: v.tcp_orphans,
            tcp_time_wait: v.tcp_time_wait,
            tcp_memory_bytes: v.tcp_memory_bytes,
            udp_in_use: v.udp_in_use,
            tcp_in_segments_total: v.tcp_in_segments_total,
            tcp_out_segments_total: v.tcp_out_segments_total,
            tcp_retransmitted_total: v.tcp_retransmitted_total,
            tcp_in_errors_total: v.tcp_in_errors_total,
            tcp_resets_sent_total: v.tcp_resets_sent_total,
            listen_overflows_total: v.listen_overflows_total,
            listen_drops_total: v.listen_drops_total,
            udp_in_errors_total: v.udp_in_errors_total,
            udp_receive_buffer_errors_total: v.udp_receive_buffer_errors_total,
            conntrack_entries: v.conntrack_entries,
            conntrack_max: v.conntrack_max,
        }
    }
}

impl TryFrom<wire::NetStack> for NetStack {
    type Error = Refused;
    fn try_from(v: wire::NetStack) -> Result<Self, Refused> {
        Ok(Self {
            tcp_established: v.tcp_established,
            tcp_in_use: v.tcp_in_use,
            tcp_orphans: v.tcp_orphans,
            tcp_time_wait: v.tcp_time_wait,
            tcp_memory_bytes: v.tcp_memory_bytes,
            udp_in_use: v.udp_in_use,
            tcp_in_segments_total: v.tcp_in_segments_total,
            tcp_out_segments_total: v.tcp_out_segments_total,
            tcp_retransmitted_total: v.tcp_retransmitted_total,
            tcp_in_errors_total: v.tcp_in_errors_total,
            tcp_resets_sent_total: v.tcp_resets_sent_total,
            listen_overflows_total: v.listen_overflows_total,
            listen_drops_total: v.listen_drops_total,
            udp_in_errors_total: v.udp_in_errors_total,
            udp_receive_buffer_errors_total: v.udp_receive_buffer_errors_total,
            conntrack_entries: v.conntrack_entries,
            conntrack_max: v.conntrack_max,
        })
    }
}

impl From<&Limits> for wire::Limits {
    fn from(v: &Limits) -> Self {
        Self {
            open_files: v.open_files,
            open_files_max: v.open_files_max,
            tasks: v.tasks,
            pid_max: v.pid_max,
            threads_max: v.threads_max,
        }
    }
}

impl TryFrom<wire::Limits> for Limits {
    type Error = Refused;
    fn try_from(v: wire::Limits) -> Result<Self, Refused> {
        Ok(Self {
            open_files: v.open_files,
            open_files_max: v.open_files_max,
            tasks: v.tasks,
            pid_max: v.pid_max,
            threads_max: v.threads_max,
        })
    }
}

impl From<&Tasks> for wire::Tasks {
    fn from(v: &Tasks) -> Self {
        Self {
            processes: v.processes,
            zombies: v.zombies,
            uninterruptible: v.uninterruptible,
            stuck: v.stuck.iter().map(Into::into).collect(),
            spawners: v.spawners.iter().map(Into::into).collect(),
            descriptors: v.descriptors.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Tasks> for Tasks {
    type Error = Refused;
    fn try_from(v: wire::Tasks) -> Result<Self, Refused> {
        Ok(Self {
            processes: v.processes,
            zombies: v.zombies,
            uninterruptible: v.uninterruptible,
            stuck: items("stuck", v.stuck, MAX_ITEMS)?,
            spawners: items("spawners", v.spawners, MAX_ITEMS)?,
            descriptors: items("descriptors", v.descriptors, MAX_ITEMS)?,
        })
    }
}

impl From<&StuckTask> for wire::StuckTask {
    fn from(v: &StuckTask) -> Self {
        Self {
            pid: v.pid,
            name: v.name.clone(),
            start_ticks: v.start_ticks,
            stuck_ms: v.stuck_ms,
            wchan: v.wchan.clone(),
            cgroup: v.cgroup.clone(),
            pod: v.pod.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::StuckTask> for StuckTask {
    type Error = Refused;
    fn try_from(v: wire::StuckTask) -> Result<Self, Refused> {
        Ok(Self {
            pid: v.pid,
            name: text("name", v.name)?,
            start_ticks: v.start_ticks,
            stuck_ms: v.stuck_ms,
            wchan: text("wchan", v.wchan)?,
            cgroup: text("cgroup", v.cgroup)?,
            pod: optional("pod", v.pod)?,
        })
    }
}

impl From<&Spawner> for wire::Spawner {
    fn from(v: &Spawner) -> Self {
        Self {
            pid: v.pid,
            name: v.name.clone(),
            start_ticks: v.start_ticks,
            children: v.children,
            cgroup: v.cgroup.clone(),
            pod: v.pod.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Spawner> for Spawner {
    type Error = Refused;
    fn try_from(v: wire::Spawner) -> Result<Self, Refused> {
        Ok(Self {
            pid: v.pid,
            name: text("name", v.name)?,
            start_ticks: v.start_ticks,
            children: v.children,
            cgroup: text("cgroup", v.cgroup)?,
            pod: optional("pod", v.pod)?,
        })
    }
}

impl From<&DescriptorUse> for wire::DescriptorUse {
    fn from(v: &DescriptorUse) -> Self {
        Self {
            pid: v.pid,
            name: v.name.clone(),
            start_ticks: v.start_ticks,
            open: v.open,
            max: v.max,
            cgroup: v.cgroup.clone(),
            pod: v.pod.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::DescriptorUse> for DescriptorUse {
    type Error = Refused;
    fn try_from(v: wire::DescriptorUse) -> Result<Self, Refused> {
        Ok(Self {
            pid: v.pid,
            name: text("name", v.name)?,
            start_ticks: v.start_ticks,
            open: v.open,
            max: v.max,
            cgroup: text("cgroup", v.cgroup)?,
            pod: optional("pod", v.pod)?,
        })
    }
}

impl From<&Cgroup> for wire::Cgroup {
    fn from(v: &Cgroup) -> Self {
        Self {
            path: v.path.clone(),
            version: v.version,
            pod: v.pod.as_ref().map(Into::into),
            cpu_us_total: v.cpu_us_total,
            periods_total: v.periods_total,
            throttled_periods_total: v.throttled_periods_total,
            throttled_us_total: v.throttled_us_total,
            cpu_limit_cores: v.cpu_limit_cores,
            memory_bytes: v.memory_bytes,
            working_set_bytes: v.working_set_bytes,
            memory_limit_bytes: v.memory_limit_bytes,
            memory_limit_hits_total: v.memory_limit_hits_total,
            swap_bytes: v.swap_bytes,
            oom_kills_total: v.oom_kills_total,
            pids: v.pids,
            pids_max: v.pids_max,
            read_bytes_total: v.read_bytes_total,
            written_bytes_total: v.written_bytes_total,
            cpu_pressure: v.cpu_pressure.as_ref().map(Into::into),
            memory_pressure: v.memory_pressure.as_ref().map(Into::into),
            io_pressure: v.io_pressure.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Cgroup> for Cgroup {
    type Error = Refused;
    fn try_from(v: wire::Cgroup) -> Result<Self, Refused> {
        Ok(Self {
            path: text("path", v.path)?,
            version: v.version,
            pod: optional("pod", v.pod)?,
            cpu_us_total: v.cpu_us_total,
            periods_total: v.periods_total,
            throttled_periods_total: v.throttled_periods_total,
            throttled_us_total: v.throttled_us_total,
            cpu_limit_cores: v.cpu_limit_cores.map(|x| finite("cpu_limit_cores", x)).transpose()?,
            memory_bytes: v.memory_bytes,
            working_set_bytes: v.working_set_bytes,
            memory_limit_bytes: v.memory_limit_bytes,
            memory_limit_hits_total: v.memory_limit_hits_total,
            swap_bytes: v.swap_bytes,
            oom_kills_total: v.oom_kills_total,
            pids: v.pids,
            pids_max: v.pids_max,
            read_bytes_total: v.read_bytes_total,
            written_bytes_total: v.written_bytes_total,
            cpu_pressure: optional("cpu_pressure", v.cpu_pressure)?,
            memory_pressure: optional("memory_pressure", v.memory_pressure)?,
            io_pressure: optional("io_pressure", v.io_pressure)?,
        })
    }
}

impl From<&ClockState> for wire::ClockState {
    fn from(v: &ClockState) -> Self {
        Self {
            synchronised: v.synchronised,
            offset_us: v.offset_us,
            estimated_error_us: v.estimated_error_us,
            max_error_us: v.max_error_us,
        }
    }
}

impl TryFrom<wire::ClockState> for ClockState {
    type Error = Refused;
    fn try_from(v: wire::ClockState) -> Result<Self, Refused> {
        Ok(Self {
            synchronised: v.synchronised,
            offset_us: v.offset_us,
            estimated_error_us: v.estimated_error_us,
            max_error_us: v.max_error_us,
        })
    }
}

impl From<&Pod> for wire::Pod {
    fn from(v: &Pod) -> Self {
        Self {
            namespace: v.namespace.clone(),
            name: v.name.clone(),
            uid: v.uid.clone(),
            container: v.container.clone(),
            container_id: v.container_id.clone(),
        }
    }
}

impl TryFrom<wire::Pod> for Pod {
    type Error = Refused;
    fn try_from(v: wire::Pod) -> Result<Self, Refused> {
        Ok(Self {
            namespace: text("namespace", v.namespace)?,
            name: text("name", v.name)?,
            uid: text("uid", v.uid)?,
            container: text("container", v.container)?,
            container_id: text("container_id", v.container_id)?,
        })
    }
}

from_owned! {
    CoreCpu => wire::CoreCpu,
    Disk => wire::Disk,
    Interface => wire::Interface,
    NetStack => wire::NetStack,
    Limits => wire::Limits,
    Tasks => wire::Tasks,
    StuckTask => wire::StuckTask,
    Spawner => wire::Spawner,
    DescriptorUse => wire::DescriptorUse,
    Cgroup => wire::Cgroup,
    ClockState => wire::ClockState,
    Pod => wire::Pod,
}
