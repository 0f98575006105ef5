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
//! | `memory-pressure` | memory | tasks wait for memory, or none is left |
//! | the log rules' own names | log | lines match |
//!
//! Deliberately absent: correlation of findings and of nodes (the collector's), actions ([`crate::act`]).

mod case;
mod config;
mod disk;
mod forecast;
mod logs;
mod memory;
mod presence;
mod read_only;
mod trend;
mod words;

#[cfg(test)]
mod scenarios;

use dogwatch::record::{Finding, Incarnation, LogLine, Moment, NodeName, RecordRef, Sample};

pub use config::{DetectConfig, DiskConfig, ForecastConfig, LogConfig, LogRule, MemoryConfig, WaterMarks};

use case::{Identity, Tick};
use disk::{Measure, WaterDetector};
use forecast::ForecastDetector;
use logs::LogDetector;
use memory::MemoryDetector;
use presence::Presence;
use read_only::ReadOnlyDetector;

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
    presence: Presence,
    space: WaterDetector,
    inodes: WaterDetector,
    forecast: ForecastDetector,
    read_only: ReadOnlyDetector,
    memory: MemoryDetector,
    logs: LogDetector,
}

impl Detectors {
    /// Detectors that have seen nothing yet.
    pub fn new(config: DetectConfig, node: NodeName, incarnation: Incarnation) -> Self {
        Self {
            identity: Identity { node, incarnation },
            presence: Presence::default(),
            space: WaterDetector::new(Measure::Space, &config.disk),
            inodes: WaterDetector::new(Measure::Inodes, &config.disk),
            forecast: ForecastDetector::new(&config.forecast, &config.disk),
            read_only: ReadOnlyDetector::default(),
            memory: MemoryDetector::new(&config.memory),
            logs: LogDetector::new(&config.logs),
        }
    }

    /// Continues findings that were active in an earlier incarnation, under the same id: what still holds goes on
    /// without being raised again, what does not is cleared. Gives back those that no detector here owns, and
    /// duplicates: they are others' to clear.
    pub fn seed(&mut self, active: Vec<Finding>) -> Vec<Finding> {
        active.into_iter().filter(|finding| !self.adopt(finding)).collect()
    }

    fn adopt(&mut self, finding: &Finding) -> bool {
        let adopted = match (finding.subject.kind.as_str(), finding.rule.as_str()) {
            ("mount", disk::SPACE_RULE) => self.space.seed(finding),
            ("mount", disk::INODES_RULE) => self.inodes.seed(finding),
            ("mount", forecast::RULE) => self.forecast.seed(finding),
            ("mount", read_only::RULE) => self.read_only.seed(finding),
            ("memory", memory::RULE) => self.memory.seed(finding),
            (logs::SUBJECT_KIND, _) => self.logs.seed(finding),
            _ => false,
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
        for gone in self.presence.departures(sample) {
            self.space.forget(tick, &gone.path, gone.why, &mut out);
            self.inodes.forget(tick, &gone.path, gone.why, &mut out);
            self.forecast.forget(tick, &gone.path, gone.why, &mut out);
            self.read_only.forget(tick, &gone.path, gone.why, &mut out);
        }
        for mount in &sample.mounts {
            self.space.on_mount(tick, mount, &mut out);
            self.inodes.on_mount(tick, mount, &mut out);
            self.forecast.on_mount(tick, mount, &mut out);
            self.read_only.on_mount(tick, mount, &mut out);
        }
        self.memory.on_sample(tick, sample, &mut out);
        self.logs.on_sample(tick, &mut out);
        out
    }

    /// Judges a line found `at`, which stands in the journal as `cite`. A line that matched no rule says nothing.
    pub fn on_log(&mut self, at: Moment, line: &LogLine, cite: &RecordRef) -> Vec<Finding> {
        let mut out = Vec::new();
        self.logs.on_log(Tick { identity: &self.identity, at, cite }, line, &mut out);
        out
    }

    /// Judges a line of the kernel's log, matched by a rule or not.
    pub fn on_kernel(&mut self, at: Moment, line: &LogLine, cite: &RecordRef) -> Vec<Finding> {
        self.on_log(at, line, cite)
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
