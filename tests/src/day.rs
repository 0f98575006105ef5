//! A day of samples, one a second, made of some minutes of real ones: segments of a minute are drawn again and again, their
//! counters carried on, and what a day has besides is laid over them: the rhythm of load, cron jobs on the hour, a backup
//! at night, log rotation, image pulls, rollouts, job pods. Beside the machine's own devices and groups stand made ones,
//! so that each kind is there on a machine that has none: all of them healthy, some of them only just.
//!
//! Nothing here is meant to be a finding. Deterministic for a given recording and [`Chance`].

use dogwatch::record::{
    Cgroup, ClockState, Cpu, Disk, Interface, Limits, Memory, Moment, Mount, NetStack, Pod, Pressure, Sample,
    Tasks,
};

use crate::chance::Chance;

/// Seconds of a drawn segment.
const SEGMENT: usize = 60;
/// Seconds of an hour.
const HOUR: u64 = 3_600;
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A day that goes on second by second.
#[derive(Debug)]
pub struct Day {
    recorded: Vec<Sample>,
    chance: Chance,
    /// Place in the recording, and how much is left of the segment.
    at: (usize, usize),
    second: u64,
    now: Moment,
    last: Sample,
    /// The first sample with every part, for those that the recording lacks.
    whole: Sample,
    pulled_bytes: u64,
    job: u64,
    rollout: u64,
}

impl Day {
    /// A day made of `recorded`, at least two samples a second apart.
    pub fn new(recorded: Vec<Sample>, chance: Chance) -> Self {
        let mut last = recorded.first().cloned().unwrap_or_default();
        made_parts(&mut last);
        Self {
            recorded,
            chance,
            at: (0, 0),
            second: 0,
            now: Moment { wall_ns: 1_700_000_000_000_000_000, boot_ns: 50_000_000_000_000 },
            whole: last.clone(),
            last,
            pulled_bytes: 0,
            job: 0,
            rollout: 0,
        }
    }

    /// Seconds since it began.
    pub fn second(&self) -> u64 {
        self.second
    }

    /// What the kernel prints in this second: nothing that anybody should be woken for.
    pub fn kernel_line(&mut self) -> Option<String> {
        const LINES: [&str; 8] = [
            "IPv6: ADDRCONF(NETDEV_CHANGE): veth1a2b: link becomes ready",
            "cni0: port 3(veth1a2b) entered forwarding state",
            "EXT4-fs (sda1): mounted filesystem 1b4e with ordered data mode. Quota mode: none.",
            "audit: type=1400 audit(1700000000.1:9): apparmor=\"STATUS\" operation=\"profile_load\"",
            "TCP: request_sock_TCP: Possible SYN flooding on port 8080. Sending cookies.",
            "blk_update_request: I/O error, dev sr0, sector 0 op 0x0:(READ) flags 0x0",
            "hrtimer: interrupt took 24123 ns",
            "traps: app[812] general protection fault ip:7f00 sp:7ffd error:0 in libc.so.6",
        ];
        self.chance.happens(2).then(|| LINES[self.chance.between(0, 7) as usize].to_owned())
    }

    /// The next second.
    pub fn next_sample(&mut self) -> (Moment, Sample) {
        self.second += 1;
        self.now.boot_ns += 1_000_000_000;
        // A clock that is slewed, as ntpd and chrony do.
        self.now.wall_ns += 1_000_000_000 + self.chance.between(0, 400_000) as i64 - 200_000;
        if self.at.1 == 0 {
            let last_start = self.recorded.len().saturating_sub(SEGMENT + 1) as u64;
            self.at = (self.chance.between(0, last_start) as usize, SEGMENT.min(self.recorded.len() - 1));
        }
        let (i, left) = self.at;
        let before = self.recorded[i].clone();
        let mut s = self.recorded[i + 1].clone();
        self.at = (i + 1, left - 1);
        carry(&self.last, &before, &mut s);
        self.lay_over(&mut s);
        self.last = s.clone();
        (self.now, s)
    }

    fn lay_over(&mut self, s: &mut Sample) {
        let t = self.second;
        let of_day = t as f64 / (24.0 * HOUR as f64);
        let load = 0.5 - 0.5 * (of_day * std::f64::consts::TAU).cos();
        let cron = t % HOUR < 90;
        let backup = (3 * HOUR..3 * HOUR + 1_800).contains(&t);
        let pulling = t % (4 * HOUR) < 40;
        let busy = (load * 0.6 + if cron { 0.3 } else { 0.0 } + if backup { 0.2 } else { 0.0 }).min(0.95);
        self.add_made(s);
        if let Some(c) = &mut s.cpu {
            c.forks_total += (busy * 60.0) as u64 + if cron { self.chance.between(50, 300) } else { 0 };
            c.steal_us += (busy * 60_000.0) as u64;
            c.idle_us += 1_000_000;
            let psi = c.pressure.get_or_insert_with(Pressure::default);
            psi.some_avg60 = psi.some_avg60.max(busy * 60.0);
            psi.some_avg10 = psi.some_avg10.max(busy * 80.0);
            let io = c.io_pressure.get_or_insert_with(Pressure::default);
            let waits = if backup { 45.0 } else { busy * 15.0 };
            io.some_avg10 = io.some_avg10.max(waits);
            io.full_avg10 = io.full_avg10.max(waits * 0.8);
            io.full_avg60 = io.full_avg60.max(waits * 0.7);
        }
        if let Some(m) = &mut s.memory {
            // A pull and a backup fill the page cache; swap takes what nobody used for long.
            m.swapped_out_bytes_total =
                m.swapped_out_bytes_total.map(|b| b + if backup { 6 * MIB } else { 0 });
            m.swapped_in_bytes_total = m.swapped_in_bytes_total.map(|b| b + if cron { 5 * MIB } else { 0 });
        }
        self.disks(s, busy, backup, pulling);
        self.network(s, busy, pulling);
        self.groups(s, t, busy);
        if let Some(l) = &mut s.limits {
            l.tasks = l.tasks.map(|n| n + (busy * 500.0) as u64);
        }
        if let Some(tasks) = &mut s.tasks {
            tasks.zombies = tasks.zombies.max(20 + (t / 600) % 60);
        }
        // The time daemon is restarted at noon.
        let restarted = (12 * HOUR..12 * HOUR + 300).contains(&t);
        if let Some(clock) = &mut s.clock
            && clock.synchronised
        {
            clock.synchronised = !restarted;
            clock.offset_us = self.chance.between(0, 6_000) as i64 - 3_000;
        }
    }

    /// The made parts go on from where they were; gauges of whole parts begin anew each second.
    fn add_made(&self, s: &mut Sample) {
        let last = &self.last;
        s.mounts.extend(last.mounts.iter().filter(|m| m.path == "/made").cloned());
        s.disks.extend(last.disks.iter().filter(|d| d.name.starts_with("made")).cloned());
        s.interfaces.extend(last.interfaces.iter().filter(|i| i.name.starts_with("made")).cloned());
        let job = |g: &&Cgroup| g.path.starts_with("/made/") && !g.path.starts_with("/made/job-");
        s.cgroups.extend(last.cgroups.iter().filter(job).cloned());
        s.net = s.net.take().or_else(|| last.net.clone());
        s.limits = s.limits.take().or_else(|| self.whole.limits.clone());
        s.clock = s.clock.take().or_else(|| self.whole.clock.clone());
        s.tasks = s.tasks.take().or_else(|| self.whole.tasks.clone());
    }

    fn disks(&mut self, s: &mut Sample, busy: f64, backup: bool, pulling: bool) {
        let t = self.second;
        for d in s.disks.iter_mut().filter(|d| d.name.starts_with("made")) {
            let io = 20 + (busy * 400.0) as u64 + if backup { 2_000 } else { 0 };
            // A slow disk that now and then needs seconds for a flush.
            let flushing = t % 900 < 8;
            d.reads_total += if flushing { 0 } else { io };
            d.writes_total += if flushing { 0 } else { io / 2 };
            d.in_flight = if flushing { 6 } else { self.chance.between(0, 12) };
            if t % 1_800 == 0 {
                // A health monitor's command that the device does not know.
                d.io_errors_total = d.io_errors_total.map(|e| e + 1);
            }
        }
        if pulling {
            self.pulled_bytes += 60 * MIB;
        }
        // The kubelet collects images that nobody uses.
        if t % (12 * HOUR) == 11 * HOUR {
            self.pulled_bytes /= 4;
        }
        // A log that grows and is rotated four times a day, with the old one compressed away a little later.
        let log = t % (6 * HOUR) * 150 * 1024;
        for m in s.mounts.iter_mut().filter(|m| m.path == "/made") {
            let used = 110 * GIB + log + self.pulled_bytes;
            m.available_bytes = m.total_bytes - used;
            m.free_bytes = m.available_bytes;
        }
    }

    fn network(&mut self, s: &mut Sample, busy: f64, pulling: bool) {
        for i in s.interfaces.iter_mut().filter(|i| i.name.starts_with("made")) {
            let packets = if i.name == "made-idle" { 1 } else { 200 + (busy * 20_000.0) as u64 };
            i.rx_packets_total += packets + if pulling { 30_000 } else { 0 };
            i.tx_packets_total += packets;
            // Frames of protocols that nobody speaks here, and a drop in a burst.
            i.rx_dropped_total += u64::from(self.second % 3 == 0) + packets / 2_000;
        }
        if let Some(n) = &mut s.net {
            let sent = 100 + (busy * 9_000.0) as u64;
            n.tcp_out_segments_total += sent;
            n.tcp_retransmitted_total += sent / 80 + u64::from(self.chance.happens(20));
            // A program restarts, and its listener is away for a moment.
            n.listen_overflows_total += if self.second % (2 * HOUR) == 77 { 6 } else { 0 };
            n.conntrack_entries = Some(20_000 + (busy * 150_000.0) as u64);
            n.conntrack_max = Some(262_144);
        }
    }

    fn groups(&mut self, s: &mut Sample, t: u64, busy: f64) {
        if t % HOUR == 0 {
            self.job += 1;
        }
        if t % (8 * HOUR) == 100 {
            self.rollout += 1;
        }
        let (job, rollout) = (self.job, self.rollout);
        for g in s.cgroups.iter_mut().filter(|g| g.path.starts_with("/made/")) {
            let name = g.path["/made/".len()..].to_owned();
            let limit = g.memory_limit_bytes.unwrap_or(GIB);
            g.periods_total = g.periods_total.map(|p| p + 10);
            match name.as_str() {
                // Reads files all day: its page cache meets the limit all the time.
                "cache" => {
                    g.memory_bytes = Some(limit);
                    g.working_set_bytes = Some(limit / 1000 * (930 + self.chance.between(0, 6)));
                    g.memory_limit_hits_total = g.memory_limit_hits_total.map(|h| h + 20);
                }
                // A garbage collector's saw.
                "heap" => {
                    g.working_set_bytes = Some(limit / 100 * (40 + t % 300 / 8));
                    g.memory_limit_hits_total = g.memory_limit_hits_total.map(|h| h + u64::from(t % 50 == 0));
                }
                // A quota that is met in bursts.
                "bursty" => {
                    let now = u64::from(t % 60 < 8);
                    g.throttled_periods_total = g.throttled_periods_total.map(|p| p + now * 9);
                    g.throttled_us_total = g.throttled_us_total.map(|u| u + now * 200_000);
                    g.pids = Some(50 + (busy * 20.0) as u64);
                }
                _ => {
                    g.working_set_bytes = Some(limit / 2);
                }
            }
            if let Some(pod) = &mut g.pod {
                // A rollout is a new pod; and one restart in a day is no loop.
                pod.uid = format!("{name}-{rollout}");
                pod.container_id = format!("{name}-{rollout}-{}", u64::from(t > 10 * HOUR));
            }
        }
        // The hour's job, with a pod of its own, for a minute.
        if t % HOUR < 60 {
            let uid = format!("job-{job}");
            let pod = Pod {
                namespace: "batch".into(),
                name: uid.clone(),
                container: "job".into(),
                container_id: uid.clone(),
                uid,
            };
            s.cgroups.push(Cgroup {
                path: format!("/made/job-{job}"),
                pod: Some(pod),
                working_set_bytes: Some((t % HOUR) * 8 * MIB),
                memory_limit_bytes: Some(GIB),
                ..Cgroup::default()
            });
        }
    }
}

/// What a machine of this kind may not have: each part is there at least once.
fn made_parts(s: &mut Sample) {
    s.memory.get_or_insert_with(Memory::default);
    s.cpu.get_or_insert_with(Cpu::default);
    s.mounts.push(Mount {
        path: "/made".into(),
        fs: "ext4".into(),
        device: "/dev/made1".into(),
        dev_major: 250,
        dev_minor: 1,
        total_bytes: 200 * GIB,
        free_bytes: 90 * GIB,
        available_bytes: 90 * GIB,
        inodes_total: 10_000_000,
        inodes_free: 8_000_000,
        read_only: false,
    });
    for name in ["made0", "made1"] {
        s.disks.push(Disk { name: name.into(), major: 250, io_errors_total: Some(4), ..Disk::default() });
    }
    for name in ["made-eth", "made-idle"] {
        s.interfaces.push(Interface { name: name.into(), ..Interface::default() });
    }
    s.net.get_or_insert_with(NetStack::default);
    s.limits.get_or_insert_with(|| Limits {
        open_files: Some(40_000),
        open_files_max: Some(800_000),
        tasks: Some(2_000),
        pid_max: Some(4_194_304),
        threads_max: Some(60_000),
    });
    s.tasks.get_or_insert_with(|| Tasks { processes: 400, zombies: 20, ..Tasks::default() });
    s.clock.get_or_insert_with(|| ClockState {
        synchronised: true,
        max_error_us: 20_000,
        ..ClockState::default()
    });
    for name in ["cache", "heap", "bursty", "web", "db", "log"] {
        s.cgroups.push(Cgroup {
            path: format!("/made/{name}"),
            version: 2,
            pod: Some(Pod {
                namespace: "made".into(),
                name: name.into(),
                uid: name.into(),
                container: "main".into(),
                container_id: name.into(),
            }),
            periods_total: Some(0),
            throttled_periods_total: Some(0),
            throttled_us_total: Some(0),
            memory_limit_bytes: Some(GIB),
            memory_limit_hits_total: Some(0),
            oom_kills_total: Some(0),
            pids_max: Some(100),
            memory_pressure: (name != "heap").then(Pressure::default),
            ..Cgroup::default()
        });
    }
}

/// Lets the counters of `s` go on from `last` by what they rose since `before`; a device or group that is new keeps its
/// own.
fn carry(last: &Sample, before: &Sample, s: &mut Sample) {
    macro_rules! on {
        ($last:expr, $before:expr, $now:expr; $($field:ident),+) => {
            $($now.$field = $last.$field.saturating_add($now.$field.saturating_sub($before.$field));)+
        };
    }
    macro_rules! on_if_known {
        ($last:expr, $before:expr, $now:expr; $($field:ident),+) => {
            $(if let Some(now) = $now.$field {
                let rose = now.saturating_sub($before.$field.unwrap_or(now));
                $now.$field = Some($last.$field.map_or(now, |l| l.saturating_add(rose)));
            })+
        };
    }
    if let (Some(l), Some(b), Some(n)) = (&last.memory, &before.memory, &mut s.memory) {
        on_if_known!(l, b, n; oom_kills_total, swapped_in_bytes_total, swapped_out_bytes_total, major_faults_total);
    }
    if let (Some(l), Some(b), Some(n)) = (&last.cpu, &before.cpu, &mut s.cpu) {
        on!(l, b, n; user_us, nice_us, system_us, idle_us, iowait_us, irq_us, softirq_us, steal_us,
            context_switches_total, forks_total);
    }
    if let (Some(l), Some(b), Some(n)) = (&last.net, &before.net, &mut s.net) {
        on!(l, b, n; tcp_in_segments_total, tcp_out_segments_total, tcp_retransmitted_total, tcp_in_errors_total,
            tcp_resets_sent_total, listen_overflows_total, listen_drops_total, udp_in_errors_total,
            udp_receive_buffer_errors_total);
    }
    for n in &mut s.disks {
        let same = |d: &&Disk| d.name == n.name;
        if let (Some(l), Some(b)) = (last.disks.iter().find(same), before.disks.iter().find(same)) {
            on!(l, b, n; reads_total, read_bytes_total, read_time_ms_total, writes_total, written_bytes_total,
                write_time_ms_total, busy_ms_total, weighted_ms_total);
            on_if_known!(l, b, n; io_errors_total);
        }
    }
    for n in &mut s.interfaces {
        let same = |i: &&Interface| i.name == n.name;
        if let (Some(l), Some(b)) = (last.interfaces.iter().find(same), before.interfaces.iter().find(same)) {
            on!(l, b, n; rx_bytes_total, rx_packets_total, rx_errors_total, rx_dropped_total, tx_bytes_total,
                tx_packets_total, tx_errors_total, tx_dropped_total);
        }
    }
    for n in &mut s.cgroups {
        let same = |g: &&Cgroup| g.path == n.path;
        if let (Some(l), Some(b)) = (last.cgroups.iter().find(same), before.cgroups.iter().find(same)) {
            on_if_known!(l, b, n; cpu_us_total, periods_total, throttled_periods_total, throttled_us_total,
                memory_limit_hits_total, oom_kills_total, read_bytes_total, written_bytes_total);
        }
    }
}
