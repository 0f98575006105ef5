//! `disk-high-water` and `inode-high-water`: too little is left of a filesystem's bytes or inodes.
//!
//! Read-only filesystems raise nothing, since nothing can fill them; a finding from before one turned read-only stays.

use std::collections::BTreeMap;

use dogwatch::record::{Fact, Finding, Moment, Mount, Severity, Subject};

use super::case::{Case, Place, RISE_FACT, Statement, Tick};
use super::config::{DiskConfig, WaterMarks};
use super::words;

/// Rule name for bytes.
pub(super) const SPACE_RULE: &str = "disk-high-water";
/// Rule name for inodes.
pub(super) const INODES_RULE: &str = "inode-high-water";

/// A fraction below which used has not risen.
const RISE_NOISE: f64 = 0.001;
/// A rise of less than [`SLOW_RISE`] in this long is how the filesystem lives, not the beginning of a story.
const RISE_WINDOW_NS: u64 = 900_000_000_000;
/// See [`RISE_WINDOW_NS`].
const SLOW_RISE: f64 = 0.005;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    Space,
    Inodes,
}

/// One measure of every mount against its marks.
#[derive(Debug)]
pub(super) struct WaterDetector {
    measure: Measure,
    config: DiskConfig,
    mounts: BTreeMap<String, Water>,
    rises: BTreeMap<String, Rise>,
}

/// A mount that is at its mark, or has a finding.
#[derive(Debug, Default)]
struct Water {
    case: Option<Case>,
    over: u32,
    under: u32,
    said_used: f64,
}

/// The last sample before a rise.
#[derive(Debug, Clone, Copy)]
struct Rise {
    used: f64,
    at: Moment,
    place: Place,
}

impl WaterDetector {
    pub(super) fn new(measure: Measure, config: &DiskConfig) -> Self {
        Self { measure, config: config.clone(), mounts: BTreeMap::new(), rises: BTreeMap::new() }
    }

    fn marks(&self, mount: &Mount) -> WaterMarks {
        let (space, inodes) = self.config.marks(mount);
        let mut marks = if self.measure == Measure::Space { space } else { inodes };
        // A low mark above the high one would raise and clear on every other sample.
        marks.low_used = marks.low_used.min(marks.high_used);
        marks
    }

    pub(super) fn rule(&self) -> &'static str {
        match self.measure {
            Measure::Space => SPACE_RULE,
            Measure::Inodes => INODES_RULE,
        }
    }

    /// Continues an earlier run's finding; false where there is one already.
    pub(super) fn seed(&mut self, finding: &Finding) -> bool {
        let water = self.mounts.entry(finding.subject.name.clone()).or_default();
        if water.case.is_some() {
            return false;
        }
        water.case = Some(Case::resume(finding.clone()));
        true
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Finding> {
        self.mounts.values().filter_map(|w| w.case.as_ref()).map(Case::finding)
    }

    pub(super) fn on_mount(&mut self, tick: Tick<'_>, mount: &Mount, out: &mut Vec<Finding>) {
        let used = self.used(mount);
        let rise = self.follow(tick, mount, used);
        let ignored = self.config.ignore.contains(&mount.path);
        let marks = self.marks(mount);
        let over = used >= marks.high_used && !mount.read_only && !ignored;
        if !over && !self.mounts.contains_key(&mount.path) {
            return;
        }
        let mut water = self.mounts.remove(&mount.path).unwrap_or_default();
        match &mut water.case {
            None if !over => return,
            None => {
                water.over += 1;
                if water.over >= self.config.raise_ticks {
                    let subject = Subject::new("mount", mount.path.as_str());
                    let case = Case::raise(tick, self.rule(), subject, self.raising(tick, mount, used, rise));
                    out.push(case.finding().clone());
                    water.case = Some(case);
                    water.said_used = used;
                }
            }
            Some(case) => {
                water.under = if used <= marks.low_used || ignored { water.under + 1 } else { 0 };
                if water.under >= self.config.clear_ticks {
                    if let Some(case) = water.case.take() {
                        out.push(self.clear(case, tick, mount, used));
                    }
                    return;
                }
                let worse = severity(&marks, used) > case.finding().severity;
                let moved = (used - water.said_used).abs() >= 0.01;
                if worse || (water.under == 0 && moved && case.is_due(tick.at, self.config.update_interval)) {
                    let statement = self.statement(mount, used);
                    out.push(case.update(tick, statement));
                    water.said_used = used;
                }
            }
        }
        self.mounts.insert(mount.path.clone(), water);
    }

    /// Remembers the last sample before the present rise.
    fn follow(&mut self, tick: Tick<'_>, mount: &Mount, used: f64) -> Rise {
        let now = Rise { used, at: tick.at, place: tick.cite.into() };
        let rise = self.rises.entry(mount.path.clone()).or_insert(now);
        let age_ns = tick.at.boot_ns.saturating_sub(rise.at.boot_ns);
        if used <= rise.used || (age_ns >= RISE_WINDOW_NS && used - rise.used < SLOW_RISE) {
            *rise = now;
        } else if used - rise.used < RISE_NOISE {
            // Not risen yet: only the moment moves on, so that a slow rise is seen once its sum is over the noise.
            *rise = Rise { used: rise.used, ..now };
        }
        *rise
    }

    fn raising(&self, tick: Tick<'_>, mount: &Mount, used: f64, rise: Rise) -> Statement {
        let mut statement = self.statement(mount, used);
        statement.facts.push(Fact::new(RISE_FACT, rise.at.wall_ns));
        statement.since.push(tick.identity.record(rise.place));
        statement
    }

    /// The filesystem at `path` is gone, for the reason given.
    pub(super) fn forget(&mut self, tick: Tick<'_>, path: &str, why: &str, out: &mut Vec<Finding>) {
        self.rises.remove(path);
        if let Some(case) = self.mounts.remove(path).and_then(|w| w.case) {
            let summary = format!("{path} is not watched any more: {why}");
            let explanation = "Cleared because the filesystem went, not because it has room.".to_owned();
            out.push(case.clear(tick, summary, explanation, Vec::new()));
        }
    }

    fn used(&self, mount: &Mount) -> f64 {
        1.0 - match self.measure {
            Measure::Space => mount.available_fraction(),
            Measure::Inodes => mount.inodes_free_fraction(),
        }
    }

    fn clear(&self, case: Case, tick: Tick<'_>, mount: &Mount, used: f64) -> Finding {
        let summary = format!("{} has room again: {}", mount.path, self.left(mount, used));
        let why = format!(
            "Used has been at or below the low-water mark of {} for {} samples in a row.",
            words::percent(self.marks(mount).low_used),
            self.config.clear_ticks,
        );
        case.clear(tick, summary, why, self.facts(mount, used))
    }

    fn statement(&self, mount: &Mount, used: f64) -> Statement {
        let (what, reckoned, kubelet) = match self.measure {
            Measure::Space => (
                "space",
                "1 − available ÷ capacity, where available is what a process other than root can still take (f_bavail)",
                "The kubelet evicts pods at nodefs.available<10% and imagefs.available<15%",
            ),
            Measure::Inodes => (
                "inodes",
                "1 − free ÷ total inodes",
                "The kubelet evicts pods at nodefs.inodesFree<5%; with no inode left no file can be made, whatever the space",
            ),
        };
        let m = &self.marks(mount);
        Statement {
            severity: severity(m, used),
            summary: format!("{} is low on {what}: {}", mount.path, self.left(mount, used)),
            explanation: format!(
                "Used is {} ({reckoned}). Medium from {}, high from {}, critical from {}; cleared when it stays at or \
                 below {} for {} samples. {kubelet} by default.",
                words::percent(used),
                words::percent(m.high_used),
                words::percent(m.serious_used),
                words::percent(m.critical_used),
                words::percent(m.low_used),
                self.config.clear_ticks,
            ),
            facts: self.facts(mount, used),
            since: Vec::new(),
            pod: None,
        }
    }

    fn left(&self, mount: &Mount, used: f64) -> String {
        let used = words::percent(used);
        match self.measure {
            Measure::Space => format!(
                "{used} used, {} of {} available",
                words::bytes(mount.available_bytes as f64),
                words::bytes(mount.total_bytes as f64),
            ),
            Measure::Inodes => format!("{used} used, {} of {} free", mount.inodes_free, mount.inodes_total),
        }
    }

    fn facts(&self, mount: &Mount, used: f64) -> Vec<Fact> {
        let mut facts = vec![Fact::new("used_percent", format!("{:.2}", used * 100.0))];
        match self.measure {
            Measure::Space => facts.extend([
                Fact::new("available_bytes", mount.available_bytes),
                Fact::new("used_bytes", mount.used_bytes()),
                Fact::new("reserved_bytes", mount.reserved_bytes()),
                Fact::new("total_bytes", mount.total_bytes),
            ]),
            Measure::Inodes => facts.extend([
                Fact::new("free_inodes", mount.inodes_free),
                Fact::new("total_inodes", mount.inodes_total),
            ]),
        }
        let marks = self.marks(mount);
        facts.push(Fact::new("high_water_percent", marks.high_used * 100.0));
        facts.push(Fact::new("low_water_percent", marks.low_used * 100.0));
        facts.push(Fact::new("device_name", &mount.device));
        facts.push(Fact::new("filesystem_type", &mount.fs));
        facts
    }
}

fn severity(marks: &WaterMarks, used: f64) -> Severity {
    if used >= marks.critical_used {
        Severity::Critical
    } else if used >= marks.serious_used {
        Severity::High
    } else {
        Severity::Medium
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{Incarnation, RecordRef, Stream};

    use super::*;
    use crate::detect::case::Identity;

    #[test]
    fn a_finding_tells_from_raised_to_cleared_when_the_rise_began() {
        let identity = Identity { node: "n".parse().unwrap(), incarnation: Incarnation([1; 16]) };
        let mut detector =
            WaterDetector::new(Measure::Space, &DiskConfig { clear_ticks: 1, ..DiskConfig::default() });
        let mut said = Vec::new();
        // Flat at 50 % for 10 s, then 4 points a second up to 90 %, then cleaned.
        let used = |s: u64| match s {
            0..=10 => 50,
            11..=20 => 50 + (s - 10) * 4,
            _ => 40,
        };
        for s in 0..25 {
            let at = Moment { wall_ns: s as i64 * 1_000_000_000, boot_ns: s * 1_000_000_000 };
            let cite = RecordRef {
                node: identity.node.clone(),
                incarnation: identity.incarnation,
                stream: Stream::Recorder,
                seq: s + 1,
            };
            let mount = Mount {
                path: "/m".into(),
                total_bytes: 100,
                available_bytes: 100 - used(s),
                ..Mount::default()
            };
            detector.on_mount(Tick { identity: &identity, at, cite: &cite }, &mount, &mut said);
        }
        let states: Vec<&str> = said.iter().map(|f| f.state.as_str()).collect();
        assert_eq!((states.first(), states.last()), (Some(&"raised"), Some(&"cleared")));
        for finding in &said {
            let began = finding.facts.iter().find(|f| f.key == RISE_FACT).unwrap();
            assert_eq!(began.value, "10000000000", "{:?}", finding.state);
            assert_eq!(finding.citations[0].seq, 11);
        }
    }
}
