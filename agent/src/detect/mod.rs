//! Detection: what the samples and lines of a node say is wrong.
//!
//! Pure: no clock, no filesystem, no runtime, no randomness. Time comes in as a [`Moment`], of which only the boot
//! clock decides anything; the wall clock is carried along for people. The same input gives the same findings.
//!
//! Invariants: about one subject a rule has at most one active finding; each goes from raised through any number of
//! updates to cleared under one id; each cites the records that show it, explains its thresholds and carries its
//! figures. Findings that an earlier run left active are continued under their id ([`Detectors::seed`]), so that each
//! that was ever raised is cleared when its cause is gone.
//!
//! | rule | subject | says |
//! |---|---|---|
//! | `disk-high-water` | mount | too little space is left |
//! | `inode-high-water` | mount | too few inodes are left |
//! | `disk-time-to-full` | mount | it will be full soon |
//! | `mount-read-only` | mount | it turned read-only |
//! | `memory-pressure` | memory | tasks wait for memory, or none is left; who grows |
//! | `cgroup-memory-pressure` | pod, cgroup | at its memory limit, and growing |
//! | `oom-kill` | pod, cgroup, memory | the kernel killed for memory |
//! | `swap-storm` | memory | swap in both directions |
//! | `cpu-saturation`, `cpu-steal` | node | too little CPU |
//! | `cpu-throttling` | pod, cgroup | its quota holds it back |
//! | `fork-storm` | node | processes are made too fast |
//! | `zombies` | node | dead processes pile up |
//! | `hung-tasks` | process | it hangs in the kernel |
//! | `io-stall` | node, disk | nothing gets on, or a disk does not answer |
//! | `disk-errors` | disk | it or its filesystem failed |
//! | `interface-errors` | interface | it loses packets |
//! | `tcp-retransmits`, `listen-overflows`, `conntrack-exhaustion` | node | connections suffer |
//! | `descriptor-exhaustion` | node, process | descriptors run out |
//! | `pid-exhaustion` | node, pod, cgroup | PIDs run out |
//! | `clock-jump`, `clock-skew`, `clock-unsynchronised` | node | the wall clock is not to be trusted |
//! | `kernel-trouble` | kernel | an error of the kernel's or the hardware's own |
//! | `container-crash-loop` | pod | started again and again |
//! | the log rules' own names | log | lines match |
//!
//! Lines of the kernel's log come with [`Detectors::on_kernel`]. What a detector makes a finding of is not a second one by
//! the shipped log rule for the same lines, neither there nor where a log daemon wrote the same text into a file.
//!
//! Deliberately absent: correlation of findings and of nodes (the collector's), actions ([`crate::act`]).

mod case;
mod cgroup_memory;
mod config;
mod cpu;
mod crash_loop;
mod disk;
mod disk_errors;
mod forecast;
mod io;
mod kernel;
mod known;
mod limits;
mod logs;
mod memory;
mod network;
mod oom;
mod oom_count;
mod oom_line;
mod outlook;
mod presence;
mod read_only;
mod swap;
mod tasks;
mod trend;
mod twins;
mod wall_clock;
mod watch;
mod window;
pub(crate) mod words;

#[cfg(test)]
mod scenarios;

use dogwatch::record::{Finding, Incarnation, LogLine, Moment, NodeName, RecordRef, Sample};

pub use config::{
    CgroupMemoryConfig, ClockConfig, CrashLoopConfig, DetectConfig, DiskConfig, DiskErrorConfig,
    ForecastConfig, ForkConfig, Hold, HungConfig, InterfaceConfig, IoStallConfig, KernelConfig, LimitConfig,
    ListenConfig, LogConfig, LogRule, MemoryConfig, MountClass, OomConfig, RetransmitConfig,
    SaturationConfig, StealConfig, SwapConfig, ThrottleConfig, WaterMarks, ZombieConfig,
};

pub use outlook::{LONGEST_BOUND, Outlook};

use case::{Identity, Tick};
use disk::{Measure, WaterDetector};
use forecast::ForecastDetector;
use known::{Known, Scene};
use logs::LogDetector;
use memory::MemoryDetector;
use presence::Presence;
use read_only::ReadOnlyDetector;
use twins::Twins;
use watch::Detector;

/// Every rule that is built in, by name: what may be switched off, and what the page of findings explains. Log rules have
/// names of their own.
pub const RULES: &[&str] = &[
    disk::SPACE_RULE,
    disk::INODES_RULE,
    forecast::RULE,
    read_only::RULE,
    memory::RULE,
    cgroup_memory::RULE,
    oom::RULE,
    swap::RULE,
    cpu::SATURATION_RULE,
    cpu::STEAL_RULE,
    cpu::THROTTLING_RULE,
    tasks::FORK_RULE,
    tasks::ZOMBIE_RULE,
    tasks::HUNG_RULE,
    io::RULE,
    disk_errors::RULE,
    network::INTERFACE_RULE,
    network::RETRANSMIT_RULE,
    network::LISTEN_RULE,
    network::CONNTRACK_RULE,
    limits::DESCRIPTOR_RULE,
    limits::PID_RULE,
    wall_clock::JUMP_RULE,
    wall_clock::SKEW_RULE,
    wall_clock::UNSYNCHRONISED_RULE,
    kernel::RULE,
    crash_loop::RULE,
];

/// When a mount would be full if it goes on like this.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The mount point.
    pub mount: String,
    /// Seconds until nothing is available.
    pub seconds_to_full: f64,
    /// Bytes a second by which available falls.
    pub bytes_per_second: f64,
}

/// Every detector of a node.
#[derive(Debug)]
pub struct Detectors {
    identity: Identity,
    known: Known,
    presence: Presence,
    space: WaterDetector,
    inodes: WaterDetector,
    forecast: ForecastDetector,
    read_only: ReadOnlyDetector,
    memory: MemoryDetector,
    others: Vec<Box<dyn Detector>>,
    logs: LogDetector,
    twins: Twins,
    on: On,
}

/// Which of the detectors are on that do not keep a [`watch::Watch`].
#[derive(Debug)]
struct On {
    space: bool,
    inodes: bool,
    forecast: bool,
    read_only: bool,
    memory: bool,
}

impl Detectors {
    /// Detectors that have seen nothing yet.
    pub fn new(config: DetectConfig, node: NodeName, incarnation: Incarnation) -> Self {
        let on = |rule: &str| !config.off.contains(rule);
        Self {
            identity: Identity { node, incarnation },
            known: Known::default(),
            presence: Presence::default(),
            space: WaterDetector::new(Measure::Space, &config.disk),
            inodes: WaterDetector::new(Measure::Inodes, &config.disk),
            forecast: ForecastDetector::new(&config.forecast, &config.disk),
            read_only: ReadOnlyDetector::default(),
            memory: MemoryDetector::new(&config.memory),
            others: vec![
                Box::new(cgroup_memory::CgroupMemoryDetector::new(&config)),
                Box::new(oom::OomDetector::new(&config)),
                Box::new(swap::SwapDetector::new(&config)),
                Box::new(cpu::CpuDetector::new(&config)),
                Box::new(tasks::TaskDetector::new(&config)),
                Box::new(io::IoDetector::new(&config)),
                Box::new(disk_errors::DiskErrorDetector::new(&config)),
                Box::new(network::NetworkDetector::new(&config)),
                Box::new(limits::LimitDetector::new(&config)),
                Box::new(wall_clock::ClockDetector::new(&config)),
                Box::new(kernel::KernelDetector::new(&config)),
                Box::new(crash_loop::CrashLoopDetector::new(&config)),
            ],
            logs: LogDetector::new(&config.logs),
            twins: Twins::default(),
            on: On {
                space: on(disk::SPACE_RULE),
                inodes: on(disk::INODES_RULE),
                forecast: on(forecast::RULE),
                read_only: on(read_only::RULE),
                memory: on(memory::RULE),
            },
        }
    }

    /// Continues findings that were active in an earlier incarnation, under the same id: what still holds goes on
    /// without being raised again, what does not is cleared. Gives back those that no detector here owns, those of rules
    /// that are off now, and duplicates: they are others' to clear.
    pub fn seed(&mut self, active: Vec<Finding>) -> Vec<Finding> {
        active.into_iter().filter(|finding| !self.adopt(finding)).collect()
    }

    fn adopt(&mut self, finding: &Finding) -> bool {
        let adopted = match (finding.subject.kind.as_str(), finding.rule.as_str()) {
            ("mount", disk::SPACE_RULE) => self.on.space && self.space.seed(finding),
            ("mount", disk::INODES_RULE) => self.on.inodes && self.inodes.seed(finding),
            ("mount", forecast::RULE) => self.on.forecast && self.forecast.seed(finding),
            ("mount", read_only::RULE) => self.on.read_only && self.read_only.seed(finding),
            ("memory", memory::RULE) => self.on.memory && self.memory.seed(finding),
            (logs::SUBJECT_KIND, _) => self.logs.seed(finding),
            _ => {
                let mut watches = self.others.iter_mut().flat_map(|d| d.watches_mut());
                watches.any(|w| w.seed(finding))
            }
        };
        if adopted && finding.subject.kind == "mount" {
            self.presence.expect(&finding.subject.name);
        }
        adopted
    }

    /// Judges a sample taken `at`, which stands in the journal as `cite`. Findings come in the order in which
    /// they are to be recorded.
    pub fn on_sample(&mut self, at: Moment, sample: &Sample, cite: &RecordRef) -> Vec<Finding> {
        let tick = Tick { identity: &self.identity, at, cite };
        let mut out = Vec::new();
        self.known.take(at.boot_ns, sample);
        for gone in self.presence.departures(sample) {
            self.space.forget(tick, &gone.path, gone.why, &mut out);
            self.inodes.forget(tick, &gone.path, gone.why, &mut out);
            self.forecast.forget(tick, &gone.path, gone.why, &mut out);
            self.read_only.forget(tick, &gone.path, gone.why, &mut out);
        }
        for mount in &sample.mounts {
            if self.on.space {
                self.space.on_mount(tick, mount, &mut out);
            }
            if self.on.inodes {
                self.inodes.on_mount(tick, mount, &mut out);
            }
            if self.on.forecast {
                self.forecast.on_mount(tick, mount, &mut out);
            }
            if self.on.read_only {
                self.read_only.on_mount(tick, mount, &mut out);
            }
        }
        let scene = Scene { sample, known: &self.known };
        if self.on.memory {
            self.memory.on_sample(tick, &scene, &mut out);
        }
        for detector in &mut self.others {
            detector.on_sample(tick, &scene, &mut out);
        }
        self.logs.on_sample(tick, &mut out);
        out
    }

    /// Judges a line found `at`, which stands in the journal as `cite`. A line that matched no rule says nothing.
    pub fn on_log(&mut self, at: Moment, line: &LogLine, cite: &RecordRef) -> Vec<Finding> {
        let mut out = Vec::new();
        let tick = Tick { identity: &self.identity, at, cite };
        match self.twins.without_copies(at, line) {
            Some(rest) => self.logs.on_log(tick, &rest, &mut out),
            None => self.logs.on_log(tick, line, &mut out),
        }
        out
    }

    /// Judges a line of the kernel's log, matched by a rule or not.
    pub fn on_kernel(&mut self, at: Moment, line: &LogLine, cite: &RecordRef) -> Vec<Finding> {
        let mut out = Vec::new();
        let tick = Tick { identity: &self.identity, at, cite };
        let text = twins::text(line);
        let mut spoken = self.on.read_only && self.read_only.on_kernel(tick, &text, &self.known, &mut out);
        for detector in &mut self.others {
            spoken |= detector.on_kernel(tick, &text, &self.known, &mut out);
        }
        if spoken {
            let rest = self.twins.spoken(at, &text, line);
            self.logs.on_log(tick, &rest, &mut out);
        } else {
            self.logs.on_log(tick, line, &mut out);
        }
        out
    }

    /// What holds now, as last said, oldest first.
    pub fn active(&self) -> Vec<&Finding> {
        let mut active: Vec<&Finding> = self
            .space
            .active()
            .chain(self.inodes.active())
            .chain(self.forecast.active())
            .chain(self.read_only.active())
            .chain(self.memory.active())
            .chain(self.others.iter().flat_map(|d| d.watches()).flat_map(watch::Watch::active))
            .chain(self.logs.active())
            .collect();
        active.sort_by(|a, b| (a.raised_wall_ns, &a.id).cmp(&(b.raised_wall_ns, &b.id)));
        active
    }

    /// Every mount whose available bytes fall steadily, soonest full first.
    pub fn forecasts(&self) -> Vec<Forecast> {
        self.forecast.forecasts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_in_the_table_once() {
        let detectors = Detectors::new(DetectConfig::default(), "n".parse().unwrap(), Incarnation([1; 16]));
        let watched: Vec<&str> =
            detectors.others.iter().flat_map(|d| d.watches()).map(watch::Watch::rule).collect();
        for rule in &watched {
            assert!(RULES.contains(rule), "{rule}");
        }
        // The five that keep their cases themselves.
        assert_eq!(watched.len() + 5, RULES.len());
        for (i, rule) in RULES.iter().enumerate() {
            assert!(!RULES[..i].contains(rule), "{rule} stands there twice");
            assert!(rule.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{rule}");
        }
    }
}
