//! Scripted nodes and what is found on them. A rig feeds samples a second apart and holds every finding against the
//! rules of a finding's life.

mod containers;
mod disks;
mod kernel;
mod kills;
mod lives;
mod others;
mod properties;
mod traces;
mod world;

use std::collections::HashMap;

use dogwatch::record::{
    Finding, FindingState, Incarnation, LogLine, Memory, Moment, Mount, RecordRef, Sample, Severity, Stream,
};

use super::{DetectConfig, Detectors};

pub(super) const GIB: u64 = 1 << 30;
pub(super) const MIB: u64 = 1 << 20;

/// A node whose every second is scripted.
pub(super) struct Rig {
    pub(super) detectors: Detectors,
    pub(super) now: Moment,
    run: u8,
    seq: u64,
    pub(super) active: HashMap<String, Finding>,
    pub(super) all: Vec<(u64, Finding)>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(DetectConfig::default())
    }

    pub(super) fn with(config: DetectConfig) -> Self {
        Self::run(config, 1)
    }

    pub(super) fn run(config: DetectConfig, run: u8) -> Self {
        Self {
            detectors: Detectors::new(config, "node-1".parse().unwrap(), Incarnation([run; 16])),
            now: Moment { wall_ns: 1_700_000_000_000_000_000, boot_ns: 1_000_000_000_000 },
            run,
            seq: 0,
            active: HashMap::new(),
            all: Vec::new(),
        }
    }

    /// Seconds since the rig began.
    pub(super) fn second(&self) -> u64 {
        self.now.boot_ns / 1_000_000_000 - 1_000
    }

    /// Continues `earlier`'s findings.
    pub(super) fn seed(&mut self, earlier: &Rig) {
        let active: Vec<Finding> = earlier.detectors.active().into_iter().cloned().collect();
        self.active = active.iter().map(|f| (f.id.clone(), f.clone())).collect();
        assert_eq!(self.detectors.seed(active), []);
    }

    fn cite(&mut self) -> RecordRef {
        self.seq += 1;
        RecordRef {
            node: "node-1".parse().unwrap(),
            incarnation: Incarnation([self.run; 16]),
            stream: Stream::Recorder,
            seq: self.seq,
        }
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now.boot_ns += seconds * 1_000_000_000;
        self.now.wall_ns += seconds as i64 * 1_000_000_000;
    }

    /// The next second's sample.
    pub(super) fn sample(&mut self, sample: &Sample) -> Vec<Finding> {
        self.pass(1);
        let cite = self.cite();
        let out = self.detectors.on_sample(self.now, sample, &cite);
        self.hold(&out, &cite);
        out
    }

    /// A line found now.
    pub(super) fn log(&mut self, source: &str, rules: &[&str], line: &str) -> Vec<Finding> {
        let line = LogLine {
            source: source.to_owned(),
            offset: 0,
            inode: 1,
            line: line.as_bytes().to_vec(),
            truncated: false,
            rules: rules.iter().map(|r| (*r).to_owned()).collect(),
            ..LogLine::default()
        };
        let cite = self.cite();
        let out = self.detectors.on_log(self.now, &line, &cite);
        self.hold(&out, &cite);
        out
    }

    /// A line of the kernel's log, now; with the shipped rules that it matches.
    pub(super) fn kernel(&mut self, rules: &[&str], line: &str) -> Vec<Finding> {
        let line = LogLine {
            source: "kmsg".to_owned(),
            line: line.as_bytes().to_vec(),
            rules: rules.iter().map(|r| (*r).to_owned()).collect(),
            ..LogLine::default()
        };
        let cite = self.cite();
        let out = self.detectors.on_kernel(self.now, &line, &cite);
        self.hold(&out, &cite);
        out
    }

    /// A sample of these mounts alone.
    pub(super) fn mounts(&mut self, mounts: &[Mount]) -> Vec<Finding> {
        self.sample(&Sample { mounts: mounts.to_vec(), ..Sample::default() })
    }

    /// A sample of this memory alone.
    pub(super) fn memory(&mut self, memory: Memory) -> Vec<Finding> {
        self.sample(&Sample { memory: Some(memory), ..Sample::default() })
    }

    /// Findings of `rule` raised so far, with their second.
    pub(super) fn raised(&self, rule: &str) -> Vec<(u64, &Finding)> {
        let raised = |f: &Finding| f.rule == rule && f.state == FindingState::Raised;
        self.all.iter().filter(|(_, f)| raised(f)).map(|(s, f)| (*s, f)).collect()
    }

    /// Holds what was said against the rules of a finding's life.
    fn hold(&mut self, out: &[Finding], cite: &RecordRef) {
        for f in out {
            assert!(f.id.len() == 18 && f.id.starts_with("f-"), "{}", f.id);
            assert!(f.citations.contains(cite) && f.citations.len() <= 8, "{:?}", f.citations);
            assert!(!f.summary.is_empty() && !f.explanation.is_empty());
            for fact in &f.facts {
                let unit = [
                    "bytes", "percent", "inodes", "seconds", "second", "name", "type", "number", "cgroup",
                    "raised", "matches", "_ns", "mount", "security",
                ];
                assert!(unit.iter().any(|u| fact.key.contains(u)), "{} has no unit", fact.key);
            }
            let before = self.active.get(&f.id);
            match f.state {
                FindingState::Raised => {
                    assert!(before.is_none(), "raised again: {f:?}");
                    assert!(self.all.iter().all(|(_, o)| o.id != f.id), "an id used again: {f:?}");
                    let same = |o: &Finding| o.rule == f.rule && o.subject == f.subject;
                    assert!(!self.active.values().any(same), "raised twice without clear: {f:?}");
                }
                FindingState::Updated | FindingState::Cleared => {
                    let before = before.unwrap_or_else(|| panic!("not raised: {f:?}"));
                    assert_eq!((&f.rule, &f.subject), (&before.rule, &before.subject));
                    assert_eq!(f.raised_wall_ns, before.raised_wall_ns);
                    assert!(f.severity >= before.severity);
                }
            }
            match f.state {
                FindingState::Cleared => drop(self.active.remove(&f.id)),
                _ => drop(self.active.insert(f.id.clone(), f.clone())),
            }
            self.all.push((self.second(), f.clone()));
        }
        let mut said: Vec<&str> = self.detectors.active().iter().map(|f| f.id.as_str()).collect();
        let mut held: Vec<&str> = self.active.keys().map(String::as_str).collect();
        said.sort_unstable();
        held.sort_unstable();
        assert_eq!(said, held);
    }
}

/// A mount at `path` with so much of `total` available, without reserve.
pub(super) fn mount(path: &str, total: u64, available: u64) -> Mount {
    Mount {
        path: path.to_owned(),
        fs: "ext4".to_owned(),
        device: "/dev/vda".to_owned(),
        dev_major: 8,
        dev_minor: 1,
        total_bytes: total,
        free_bytes: available,
        available_bytes: available,
        inodes_total: 1_000_000,
        inodes_free: 900_000,
        read_only: false,
    }
}

pub(super) fn states(findings: &[Finding]) -> Vec<(&str, FindingState, Severity)> {
    findings.iter().map(|f| (f.rule.as_str(), f.state, f.severity)).collect()
}

pub(super) fn fact<'f>(finding: &'f Finding, key: &str) -> &'f str {
    let found = finding.facts.iter().find(|f| f.key == key);
    &found.unwrap_or_else(|| panic!("no {key} in {:?}", finding.facts)).value
}
