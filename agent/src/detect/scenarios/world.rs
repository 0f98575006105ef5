//! A node with one of everything, which lives an ordinary life second by second.

use dogwatch::record::{
    Cgroup, ClockState, Cpu, DescriptorUse, Disk, Interface, Limits, Memory, NetStack, Pod, Pressure,
    Process, Sample, Spawner, StuckTask, Tasks,
};

use super::{GIB, MIB, mount};

/// Its pod's uid.
pub(super) const UID: &str = "11111111-2222-3333-4444-555555555555";
/// The group of its container.
pub(super) const GROUP: &str = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-a.scope";
/// The subject of findings about it.
pub(super) const POD: &str = "shop/web/app";
/// The container's memory limit.
pub(super) const LIMIT: u64 = 100 * MIB;

pub(super) fn pod() -> Pod {
    Pod {
        namespace: "shop".into(),
        name: "web".into(),
        uid: UID.into(),
        container: "app".into(),
        container_id: "a".repeat(64),
    }
}

fn group(path: &str, pod: Option<Pod>) -> Cgroup {
    Cgroup {
        path: path.to_owned(),
        version: 2,
        pod,
        cpu_us_total: Some(0),
        periods_total: Some(1_000),
        throttled_periods_total: Some(10),
        throttled_us_total: Some(1_000),
        cpu_limit_cores: Some(0.5),
        memory_limit_bytes: Some(LIMIT),
        memory_limit_hits_total: Some(5),
        oom_kills_total: Some(0),
        pids_max: Some(100),
        ..Cgroup::default()
    }
}

/// The node before its first second.
pub(super) fn node() -> Sample {
    let disk = |name: &str, minor| Disk {
        name: name.into(),
        major: 8,
        minor,
        io_errors_total: Some(3),
        ..Disk::default()
    };
    let interface = |name: &str| Interface { name: name.into(), rx_dropped_total: 7, ..Interface::default() };
    let mut root = mount("/", 100 * GIB, 80 * GIB);
    (root.device, root.dev_major, root.dev_minor) = ("/dev/sda1".into(), 8, 1);
    let mut sample = Sample {
        mounts: vec![root],
        memory: Some(Memory {
            swapped_in_bytes_total: Some(0),
            swapped_out_bytes_total: Some(0),
            oom_kills_total: Some(2),
            ..Memory::default()
        }),
        cpu: Some(Cpu { online: 2, forks_total: 100_000, ..Cpu::default() }),
        disks: vec![disk("sda", 0), disk("sdb", 16)],
        interfaces: vec![interface("eth0"), interface("eth1")],
        net: Some(NetStack { listen_overflows_total: 4, ..NetStack::default() }),
        cgroups: vec![group(GROUP, Some(pod())), group("/system.slice/other.service", None)],
        ..Sample::default()
    };
    step(&mut sample);
    sample
}

/// An ordinary second: counters move on, and what is measured is as it always is.
pub(super) fn step(s: &mut Sample) {
    s.late_ticks += 1;
    if let Some(m) = &mut s.memory {
        m.total_bytes = 16 * GIB;
        m.available_bytes = 8 * GIB;
        m.pressure = Some(Pressure::default());
    }
    if let Some(c) = &mut s.cpu {
        c.user_us += 200_000;
        c.idle_us += 1_800_000;
        c.forks_total += 5;
        (c.running, c.blocked) = (1, 0);
        c.pressure = Some(Pressure { some_avg10: 5.0, some_avg60: 5.0, ..Pressure::default() });
        c.io_pressure = Some(Pressure { some_avg10: 2.0, full_avg10: 1.0, ..Pressure::default() });
    }
    for d in &mut s.disks {
        d.reads_total += 10;
        d.writes_total += 10;
        d.in_flight = 1;
    }
    for i in &mut s.interfaces {
        i.rx_packets_total += 500;
        i.tx_packets_total += 500;
    }
    if let Some(n) = &mut s.net {
        n.tcp_out_segments_total += 1_000;
        n.tcp_retransmitted_total += 1;
        (n.conntrack_entries, n.conntrack_max) = (Some(10), Some(100));
    }
    s.limits = Some(Limits {
        open_files: Some(1_000),
        open_files_max: Some(100_000),
        tasks: Some(300),
        pid_max: Some(32_768),
        threads_max: Some(10_000),
    });
    s.tasks = Some(Tasks { processes: 100, zombies: 2, ..Tasks::default() });
    s.processes = vec![Process {
        pid: 40,
        name: "java".into(),
        start_ticks: 9,
        cpu_percent: 20.0,
        resident_bytes: GIB,
        cgroup: GROUP.into(),
        pod: Some(pod()),
        ..Process::default()
    }];
    for g in &mut s.cgroups {
        g.memory_bytes = Some(LIMIT);
        g.working_set_bytes = Some(LIMIT / 2);
        g.memory_pressure = Some(Pressure::default());
        g.pids = Some(10);
        g.periods_total = g.periods_total.map(|p| p + 10);
        // Page cache fills the container and meets the limit all the time.
        g.memory_limit_hits_total = g.memory_limit_hits_total.map(|h| h + 3);
    }
    s.clock = Some(ClockState { synchronised: true, max_error_us: 1_000, ..ClockState::default() });
}

/// Every counter begins again, as if each device and group were a new one of the same name.
pub(super) fn begin_again(s: &mut Sample) {
    let fresh = node();
    let late_ticks = s.late_ticks;
    *s = fresh;
    s.late_ticks = late_ticks;
}

/// Something that goes wrong: on top of an ordinary second.
pub(super) struct Trouble {
    pub(super) rule: &'static str,
    pub(super) kind: &'static str,
    pub(super) name: &'static str,
    pub(super) apply: fn(&mut Sample),
}

const fn trouble(
    rule: &'static str,
    kind: &'static str,
    name: &'static str,
    apply: fn(&mut Sample),
) -> Trouble {
    Trouble { rule, kind, name, apply }
}

/// Whatever can go wrong second by second.
pub(super) const TROUBLES: &[Trouble] = &[
    trouble("memory-pressure", "memory", "node-1", |s| {
        s.memory.as_mut().unwrap().available_bytes = GIB / 2;
    }),
    trouble("cgroup-memory-pressure", "pod", POD, |s| {
        let g = &mut s.cgroups[0];
        g.working_set_bytes = Some(LIMIT / 100 * 98);
        g.memory_pressure = Some(Pressure { some_avg10: 30.0, some_avg60: 30.0, ..Pressure::default() });
    }),
    trouble("swap-storm", "memory", "node-1", |s| {
        let m = s.memory.as_mut().unwrap();
        m.swapped_in_bytes_total = m.swapped_in_bytes_total.map(|b| b + 8 * MIB);
        m.swapped_out_bytes_total = m.swapped_out_bytes_total.map(|b| b + 9 * MIB);
        m.pressure = Some(Pressure { some_avg10: 25.0, ..Pressure::default() });
    }),
    trouble("cpu-saturation", "node", "node-1", |s| {
        let c = s.cpu.as_mut().unwrap();
        c.running = 9;
        c.pressure = Some(Pressure { some_avg60: 85.0, ..Pressure::default() });
    }),
    trouble("cpu-steal", "node", "node-1", |s| s.cpu.as_mut().unwrap().steal_us += 600_000),
    trouble("cpu-throttling", "pod", POD, |s| {
        let g = &mut s.cgroups[0];
        g.throttled_periods_total = g.throttled_periods_total.map(|p| p + 6);
        g.throttled_us_total = g.throttled_us_total.map(|t| t + 300_000);
    }),
    trouble("fork-storm", "node", "node-1", |s| {
        s.cpu.as_mut().unwrap().forks_total += 3_000;
        s.tasks.as_mut().unwrap().spawners = vec![Spawner {
            pid: 66,
            name: "bomb".into(),
            children: 2_900,
            pod: Some(pod()),
            ..Spawner::default()
        }];
    }),
    trouble("zombies", "node", "node-1", |s| {
        let late = s.late_ticks;
        s.tasks.as_mut().unwrap().zombies = 100 + late;
    }),
    trouble("hung-tasks", "process", "cat (77)", |s| {
        s.tasks.as_mut().unwrap().stuck = vec![
            StuckTask {
                pid: 77,
                name: "cat".into(),
                stuck_ms: 130_000,
                wchan: "rpc_wait".into(),
                ..StuckTask::default()
            },
            StuckTask { pid: 78, name: "dd".into(), stuck_ms: 9_000, ..StuckTask::default() },
        ];
    }),
    trouble("io-stall", "node", "node-1", |s| {
        let c = s.cpu.as_mut().unwrap();
        c.blocked = 3;
        c.io_pressure = Some(Pressure { full_avg10: 70.0, full_avg60: 60.0, ..Pressure::default() });
    }),
    trouble("io-stall", "disk", "sda", |s| {
        s.disks[0].reads_total -= 10;
        s.disks[0].writes_total -= 10;
        s.disks[0].in_flight = 4;
    }),
    trouble("disk-errors", "disk", "sda", |s| {
        s.disks[0].io_errors_total = s.disks[0].io_errors_total.map(|e| e + 1);
    }),
    trouble("interface-errors", "interface", "eth0", |s| s.interfaces[0].rx_dropped_total += 60),
    trouble("tcp-retransmits", "node", "node-1", |s| s.net.as_mut().unwrap().tcp_retransmitted_total += 90),
    trouble("listen-overflows", "node", "node-1", |s| s.net.as_mut().unwrap().listen_overflows_total += 2),
    trouble("conntrack-exhaustion", "node", "node-1", |s| {
        s.net.as_mut().unwrap().conntrack_entries = Some(85);
    }),
    trouble("descriptor-exhaustion", "node", "node-1", |s| {
        s.limits.as_mut().unwrap().open_files = Some(92_000);
    }),
    trouble("descriptor-exhaustion", "process", "nginx (12)", |s| {
        let use_of = |pid, name: &str, open| DescriptorUse {
            pid,
            name: name.into(),
            open,
            max: 1_000,
            pod: Some(pod()),
            ..DescriptorUse::default()
        };
        s.tasks.as_mut().unwrap().descriptors = vec![use_of(12, "nginx", 950), use_of(13, "sh", 600)];
    }),
    trouble("pid-exhaustion", "node", "node-1", |s| s.limits.as_mut().unwrap().tasks = Some(9_600)),
    trouble("pid-exhaustion", "pod", POD, |s| s.cgroups[0].pids = Some(99)),
    trouble("clock-skew", "node", "node-1", |s| s.clock.as_mut().unwrap().offset_us = -80_000),
    trouble("clock-unsynchronised", "node", "node-1", |s| s.clock.as_mut().unwrap().synchronised = false),
    trouble("container-crash-loop", "pod", POD, |s| {
        let id = format!("{:064x}", s.late_ticks / 20);
        s.cgroups[0].pod.as_mut().unwrap().container_id = id;
    }),
];
