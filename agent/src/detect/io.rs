//! `io-stall`: nothing gets on because of storage, or a disk does not answer.
//!
//! Deliberately absent: a finding about a saturated disk. Utilisation says nothing of devices that serve requests side
//! by side, and a queue or latency that is too long for one disk is normal for another.

use std::collections::BTreeMap;

use dogwatch::record::{Disk, Fact, Finding, Severity, Subject};

use super::case::Tick;
use super::config::{DetectConfig, IoStallConfig};
use super::known::{Known, Scene, place_facts};
use super::watch::{Detector, Verdict, Watch, Words, one_watch};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "io-stall";

/// Disks that are followed.
const MAX_DISKS: usize = 1_024;
/// Stuck tasks that are named.
const MAX_NAMED: usize = 3;

/// Watches pressure and disks.
#[derive(Debug)]
pub(super) struct IoDetector {
    config: IoStallConfig,
    watch: Watch,
    disks: BTreeMap<String, Progress>,
    /// Consecutive samples with pressure, which must last; a disk's silence is measured in time.
    pressed: u32,
}

/// How far a disk has come.
#[derive(Debug, Clone, Copy)]
struct Progress {
    completed: (u64, u64),
    /// CLOCK_BOOTTIME of the last sample in which it completed something, or had nothing to do.
    moved_ns: u64,
    seen_ns: u64,
}

impl IoDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let hold = super::config::Hold { raise_ticks: 1, clear_ticks: config.io.hold.clear_ticks };
        Self {
            config: config.io.clone(),
            watch: Watch::new(RULE, hold, config),
            disks: BTreeMap::new(),
            pressed: 0,
        }
    }

    fn on_pressure(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        let Some(cpu) = &scene.sample.cpu else { return };
        let Some(p) = cpu.io_pressure else { return };
        let c = &self.config;
        let over = p.full_avg10 >= c.full_avg10 && p.full_avg60 >= c.full_avg60 && cpu.blocked > 0;
        self.pressed = if over { self.pressed.saturating_add(1) } else { 0 };
        let verdict = if self.pressed >= c.hold.raise_ticks {
            Verdict::Over(if p.full_avg60 >= c.serious_avg60 { Severity::High } else { Severity::Medium })
        } else if p.full_avg10 < c.clear_avg10 {
            Verdict::Calm
        } else {
            Verdict::Between
        };
        let node = || Subject::new("node", tick.identity.node.as_str());
        let words = || {
            let figures = format!(
                "all tasks waited {:.0} % of the last 10 s and {:.0} % of the last minute, {} are blocked",
                p.full_avg10, p.full_avg60, cpu.blocked
            );
            let (stuck, mut facts) = stuck(scene.known);
            facts.extend([
                Fact::new("pressure_full_avg10_percent", p.full_avg10),
                Fact::new("pressure_full_avg60_percent", p.full_avg60),
                Fact::new("pressure_some_avg10_percent", p.some_avg10),
                Fact::new("blocked_tasks_number", cpu.blocked),
            ]);
            Words {
                over: format!("work stands still for I/O: {figures}{stuck}"),
                calm: format!("I/O gets on again: {figures}"),
                explanation: format!(
                    "PSI (/proc/pressure/io) full: time in which every task that was not idle waited for I/O. Medium at \
                     avg10 ≥ {} % and avg60 ≥ {} % with a blocked task for {} samples, high at avg60 ≥ {} %; cleared \
                     below avg10 {} % for {} samples. Which disk it is, the figures of the disks in the cited samples say.",
                    c.full_avg10,
                    c.full_avg60,
                    c.hold.raise_ticks,
                    c.serious_avg60,
                    c.clear_avg10,
                    c.hold.clear_ticks
                ),
                facts,
                ..Words::default()
            }
        };
        self.watch.judge(tick, verdict, node, words, out);
    }

    fn on_disk(&mut self, tick: Tick<'_>, disk: &Disk, known: &Known, out: &mut Vec<Finding>) {
        let now = tick.at.boot_ns;
        let completed = (disk.reads_total, disk.writes_total);
        let fresh = Progress { completed, moved_ns: now, seen_ns: now };
        if !self.disks.contains_key(&disk.name) && self.disks.len() >= MAX_DISKS {
            return;
        }
        let progress = self.disks.entry(disk.name.clone()).or_insert(fresh);
        if progress.completed != completed || disk.in_flight == 0 {
            *progress = fresh;
        }
        progress.seen_ns = now;
        let still_ns = now.saturating_sub(progress.moved_ns);
        let c = &self.config;
        let marks = [
            (c.dead_critical.as_secs_f64(), Severity::Critical),
            (c.dead_after.as_secs_f64(), Severity::High),
        ];
        let seconds = still_ns as f64 / 1e9;
        let verdict = Verdict::of(seconds, &marks, 1.0);
        let words = || {
            let (stuck, mut facts) = stuck(known);
            facts.extend([
                Fact::new("in_flight_number", disk.in_flight),
                Fact::new("stalled_seconds", format!("{seconds:.0}")),
                Fact::new("device_number", format!("{}:{}", disk.major, disk.minor)),
            ]);
            let mounts = known.mounts_on(&disk.name).join(", ");
            let of = if mounts.is_empty() { String::new() } else { format!(" ({mounts})") };
            if !mounts.is_empty() {
                facts.push(Fact::new("mounts_name", &mounts));
            }
            Words {
                over: format!(
                    "disk {}{of} does not answer: {} requests under way and none completed for {}{stuck}",
                    disk.name,
                    disk.in_flight,
                    words::duration(seconds)
                ),
                calm: format!("disk {}{of} answers again", disk.name),
                explanation: format!(
                    "/proc/diskstats: requests are in flight, and reads and writes completed have not moved. High after {}, \
                     critical after {}; drivers reset a device after 30 s by default. Cleared when requests complete, or \
                     none is under way, for {} samples. A discard or flush that takes so long alone looks the same.",
                    words::duration(c.dead_after.as_secs_f64()),
                    words::duration(c.dead_critical.as_secs_f64()),
                    c.hold.clear_ticks
                ),
                facts,
                ..Words::default()
            }
        };
        self.watch.judge(tick, verdict, || Subject::new("disk", disk.name.as_str()), words, out);
    }
}

/// The tasks that are stuck, in words and facts.
fn stuck(known: &Known) -> (String, Vec<Fact>) {
    let mut text = String::new();
    let mut facts = Vec::new();
    for (i, task) in known.stuck.iter().take(MAX_NAMED).enumerate() {
        let seconds = task.stuck_ms as f64 / 1000.0;
        text.push_str(if i == 0 { "; stuck: " } else { ", " });
        text.push_str(&format!("{} (pid {}) for {}", task.name, task.pid, words::duration(seconds)));
        facts.push(Fact::new(format!("stuck_{}_name", i + 1), format!("{} (pid {})", task.name, task.pid)));
        facts.push(Fact::new(format!("stuck_{}_seconds", i + 1), format!("{seconds:.0}")));
        let place = place_facts(&task.cgroup, task.pod.as_ref());
        facts.extend(place.into_iter().map(|f| Fact::new(format!("stuck_{}_{}", i + 1, f.key), f.value)));
    }
    (text, facts)
}

impl Detector for IoDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        self.on_pressure(tick, scene, out);
        for disk in &scene.sample.disks {
            self.on_disk(tick, disk, scene.known, out);
        }
        let disks = !scene.sample.disks.is_empty();
        if disks {
            self.disks.retain(|_, p| p.seen_ns == tick.at.boot_ns);
        }
        self.watch.close(tick, disks, out);
    }

    one_watch!();
}
