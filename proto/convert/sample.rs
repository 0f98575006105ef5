//! Samples and their parts.

use super::{
    MAX_ITEMS, MAX_MOUNTS, MAX_PROCESSES, Refused, finite, from_owned, items, optional, required, text, texts,
};
use crate::record::{Cpu, Memory, Mount, Pressure, Process, Sample, SelfCost};
use crate::wire;

impl From<&Sample> for wire::Sample {
    fn from(s: &Sample) -> Self {
        Self {
            mounts: s.mounts.iter().map(Into::into).collect(),
            memory: s.memory.as_ref().map(Into::into),
            cpu: s.cpu.as_ref().map(Into::into),
            processes: s.processes.iter().map(Into::into).collect(),
            self_cost: Some((&s.self_cost).into()),
            late_ticks: s.late_ticks,
            failed: s.failed.clone(),
            cores: s.cores.iter().map(Into::into).collect(),
            disks: s.disks.iter().map(Into::into).collect(),
            interfaces: s.interfaces.iter().map(Into::into).collect(),
            net: s.net.as_ref().map(Into::into),
            limits: s.limits.as_ref().map(Into::into),
            tasks: s.tasks.as_ref().map(Into::into),
            cgroups: s.cgroups.iter().map(Into::into).collect(),
            clock: s.clock.as_ref().map(Into::into),
            every_ms: s.every_ms,
        }
    }
}

impl TryFrom<wire::Sample> for Sample {
    type Error = Refused;
    fn try_from(s: wire::Sample) -> Result<Self, Refused> {
        Ok(Self {
            mounts: items("mounts", s.mounts, MAX_MOUNTS)?,
            memory: optional("memory", s.memory)?,
            cpu: optional("cpu", s.cpu)?,
            processes: items("processes", s.processes, MAX_PROCESSES)?,
            self_cost: required("self_cost", s.self_cost)?,
            late_ticks: s.late_ticks,
            failed: texts("failed", s.failed)?,
            cores: items("cores", s.cores, MAX_ITEMS)?,
            disks: items("disks", s.disks, MAX_ITEMS)?,
            interfaces: items("interfaces", s.interfaces, MAX_ITEMS)?,
            net: optional("net", s.net)?,
            limits: optional("limits", s.limits)?,
            tasks: optional("tasks", s.tasks)?,
            cgroups: items("cgroups", s.cgroups, MAX_ITEMS)?,
            clock: optional("clock", s.clock)?,
            every_ms: s.every_ms,
        })
    }
}

impl From<&Mount> for wire::Mount {
    fn from(m: &Mount) -> Self {
        Self {
            path: m.path.clone(),
            fs: m.fs.clone(),
            device: m.device.clone(),
            dev_major: m.dev_major,
            dev_minor: m.dev_minor,
            total_bytes: m.total_bytes,
            free_bytes: m.free_bytes,
            available_bytes: m.available_bytes,
            inodes_total: m.inodes_total,
            inodes_free: m.inodes_free,
            read_only: m.read_only,
        }
    }
}

impl TryFrom<wire::Mount> for Mount {
    type Error = Refused;
    fn try_from(m: wire::Mount) -> Result<Self, Refused> {
        Ok(Self {
            path: text("path", m.path)?,
            fs: text("fs", m.fs)?,
            device: text("device", m.device)?,
            dev_major: m.dev_major,
            dev_minor: m.dev_minor,
            total_bytes: m.total_bytes,
            free_bytes: m.free_bytes,
            available_bytes: m.available_bytes,
            inodes_total: m.inodes_total,
            inodes_free: m.inodes_free,
            read_only: m.read_only,
        })
    }
}

impl From<&Pressure> for wire::Pressure {
    fn from(p: &Pressure) -> Self {
        Self {
            some_avg10: p.some_avg10,
            some_avg60: p.some_avg60,
            some_total_us: p.some_total_us,
            full_avg10: p.full_avg10,
            full_avg60: p.full_avg60,
            full_total_us: p.full_total_us,
        }
    }
}

impl TryFrom<wire::Pressure> for Pressure {
    type Error = Refused;
    fn try_from(p: wire::Pressure) -> Result<Self, Refused> {
        Ok(Self {
            some_avg10: finite("some_avg10", p.some_avg10)?,
            some_avg60: finite("some_avg60", p.some_avg60)?,
            some_total_us: p.some_total_us,
            full_avg10: finite("full_avg10", p.full_avg10)?,
            full_avg60: finite("full_avg60", p.full_avg60)?,
            full_total_us: p.full_total_us,
        })
    }
}

impl From<&Memory> for wire::Memory {
    fn from(m: &Memory) -> Self {
        Self {
            total_bytes: m.total_bytes,
            available_bytes: m.available_bytes,
            free_bytes: m.free_bytes,
            cached_bytes: m.cached_bytes,
            dirty_bytes: m.dirty_bytes,
            slab_bytes: m.slab_bytes,
            swap_total_bytes: m.swap_total_bytes,
            swap_free_bytes: m.swap_free_bytes,
            oom_kills_total: m.oom_kills_total,
            pressure: m.pressure.as_ref().map(Into::into),
            buffers_bytes: m.buffers_bytes,
            shmem_bytes: m.shmem_bytes,
            writeback_bytes: m.writeback_bytes,
            slab_unreclaimable_bytes: m.slab_unreclaimable_bytes,
            swapped_in_bytes_total: m.swapped_in_bytes_total,
            swapped_out_bytes_total: m.swapped_out_bytes_total,
            major_faults_total: m.major_faults_total,
        }
    }
}

impl TryFrom<wire::Memory> for Memory {
    type Error = Refused;
    fn try_from(m: wire::Memory) -> Result<Self, Refused> {
        Ok(Self {
            total_bytes: m.total_bytes,
            available_bytes: m.available_bytes,
            free_bytes: m.free_bytes,
            cached_bytes: m.cached_bytes,
            dirty_bytes: m.dirty_bytes,
            slab_bytes: m.slab_bytes,
            swap_total_bytes: m.swap_total_bytes,
            swap_free_bytes: m.swap_free_bytes,
            oom_kills_total: m.oom_kills_total,
            pressure: optional("pressure", m.pressure)?,
            buffers_bytes: m.buffers_bytes,
            shmem_bytes: m.shmem_bytes,
            writeback_bytes: m.writeback_bytes,
            slab_unreclaimable_bytes: m.slab_unreclaimable_bytes,
            swapped_in_bytes_total: m.swapped_in_bytes_total,
            swapped_out_bytes_total: m.swapped_out_bytes_total,
            major_faults_total: m.major_faults_total,
        })
    }
}

impl From<&Cpu> for wire::Cpu {
    fn from(c: &Cpu) -> Self {
        Self {
            online: c.online,
            user_us: c.user_us,
            nice_us: c.nice_us,
            system_us: c.system_us,
            idle_us: c.idle_us,
            iowait_us: c.iowait_us,
            irq_us: c.irq_us,
            softirq_us: c.softirq_us,
            steal_us: c.steal_us,
            load1: c.load1,
            load5: c.load5,
            load15: c.load15,
            pressure: c.pressure.as_ref().map(Into::into),
            io_pressure: c.io_pressure.as_ref().map(Into::into),
            context_switches_total: c.context_switches_total,
            forks_total: c.forks_total,
            running: c.running,
            blocked: c.blocked,
        }
    }
}

impl TryFrom<wire::Cpu> for Cpu {
    type Error = Refused;
    fn try_from(c: wire::Cpu) -> Result<Self, Refused> {
        Ok(Self {
            online: c.online,
            user_us: c.user_us,
            nice_us: c.nice_us,
            system_us: c.system_us,
            idle_us: c.idle_us,
            iowait_us: c.iowait_us,
            irq_us: c.irq_us,
            softirq_us: c.softirq_us,
            steal_us: c.steal_us,
            load1: finite("load1", c.load1)?,
            load5: finite("load5", c.load5)?,
            load15: finite("load15", c.load15)?,
            pressure: optional("pressure", c.pressure)?,
            io_pressure: optional("io_pressure", c.io_pressure)?,
            context_switches_total: c.context_switches_total,
            forks_total: c.forks_total,
            running: c.running,
            blocked: c.blocked,
        })
    }
}

impl From<&Process> for wire::Process {
    fn from(p: &Process) -> Self {
        Self {
            pid: p.pid,
            name: p.name.clone(),
            start_ticks: p.start_ticks,
            cpu_percent: p.cpu_percent,
            resident_bytes: p.resident_bytes,
            state: p.state.clone(),
            cgroup: p.cgroup.clone(),
            ppid: p.ppid,
            threads: p.threads,
            read_bytes_per_s: p.read_bytes_per_s,
            written_bytes_per_s: p.written_bytes_per_s,
            open_files: p.open_files,
            pod: p.pod.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Process> for Process {
    type Error = Refused;
    fn try_from(p: wire::Process) -> Result<Self, Refused> {
        Ok(Self {
            pid: p.pid,
            name: text("name", p.name)?,
            start_ticks: p.start_ticks,
            cpu_percent: finite("cpu_percent", p.cpu_percent)?,
            resident_bytes: p.resident_bytes,
            state: text("state", p.state)?,
            cgroup: text("cgroup", p.cgroup)?,
            ppid: p.ppid,
            threads: p.threads,
            read_bytes_per_s: p.read_bytes_per_s.map(|x| finite("read_bytes_per_s", x)).transpose()?,
            written_bytes_per_s: p
                .written_bytes_per_s
                .map(|x| finite("written_bytes_per_s", x))
                .transpose()?,
            open_files: p.open_files,
            pod: optional("pod", p.pod)?,
        })
    }
}

impl From<&SelfCost> for wire::SelfCost {
    fn from(c: &SelfCost) -> Self {
        Self {
            cpu_us: c.cpu_us,
            resident_bytes: c.resident_bytes,
            queue_bytes: c.queue_bytes,
            dropped_records: c.dropped_records,
            saving: c.saving,
        }
    }
}

impl TryFrom<wire::SelfCost> for SelfCost {
    type Error = Refused;
    fn try_from(c: wire::SelfCost) -> Result<Self, Refused> {
        Ok(Self {
            cpu_us: c.cpu_us,
            resident_bytes: c.resident_bytes,
            queue_bytes: c.queue_bytes,
            dropped_records: c.dropped_records,
            saving: c.saving,
        })
    }
}

from_owned! {
    Sample => wire::Sample,
    Mount => wire::Mount,
    Pressure => wire::Pressure,
    Memory => wire::Memory,
    Cpu => wire::Cpu,
    Process => wire::Process,
    SelfCost => wire::SelfCost,
}
