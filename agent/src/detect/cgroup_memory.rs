//! `cgroup-memory-pressure`: a control group is at its memory limit and goes on growing, or turns in place there.
//!
//! The working set (usage without inactive file pages) is held against the limit, so that page cache that fills a
//! container is no finding. Since pages of files that are used count as working set too, a full one that does not grow
//! is none either, unless its tasks wait for memory. Of groups within each other the innermost speaks.

use dogwatch::record::{Cgroup, Fact, Finding, Severity};

use super::case::Tick;
use super::config::{CgroupMemoryConfig, DetectConfig};
use super::known::{Known, Scene, group_subject, is_within, place_facts};
use super::watch::{Detector, Verdict, Watch, Words, one_watch};
use super::window::Windows;
use super::words;

/// Rule name.
pub(super) const RULE: &str = "cgroup-memory-pressure";

/// A limit of this much or more is the kernel's word for none (`memory.limit_in_bytes` of cgroup v1).
const NO_LIMIT: u64 = 1 << 60;

/// Watches groups that have a memory limit.
#[derive(Debug)]
pub(super) struct CgroupMemoryDetector {
    config: CgroupMemoryConfig,
    watch: Watch,
    /// Hits of the limit.
    hits: Windows<1>,
    /// Working set.
    sets: Windows<1>,
}

/// A group and what was found.
struct Judged<'a> {
    cgroup: &'a Cgroup,
    used: u64,
    limit: u64,
    hits: u64,
    grown: u64,
    verdict: Verdict,
}

impl CgroupMemoryDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let c = config.cgroup_memory.clone();
        Self {
            watch: Watch::new(RULE, c.hold, config),
            config: c,
            hits: Windows::default(),
            sets: Windows::default(),
        }
    }

    fn look<'a>(&mut self, now_ns: u64, cgroup: &'a Cgroup) -> Option<Judged<'a>> {
        let window = self.config.window;
        let limit = cgroup.memory_limit_bytes.filter(|l| *l > 0 && *l < NO_LIMIT)?;
        let used = cgroup.working_set_bytes?;
        let hits = cgroup.memory_limit_hits_total.unwrap_or(0);
        let hits = self.hits.push(&cgroup.path, now_ns, [hits], window);
        let grown = self.sets.push_gauges(&cgroup.path, now_ns, [used], window);
        let (hits, grown) = (hits.map_or(0, |s| s.delta[0]), grown.map_or(0, |s| s.delta[0]));
        let verdict = self.verdict(cgroup, used as f64 / limit as f64, grown as f64 / limit as f64, hits);
        Some(Judged { cgroup, used, limit, hits, grown, verdict })
    }

    fn verdict(&self, cgroup: &Cgroup, used: f64, grown: f64, hits: u64) -> Verdict {
        let c = &self.config;
        let pressure = cgroup.memory_pressure.unwrap_or_default();
        // Where the group's pressure is known, hits alone tell nothing below nearly all of the limit: reclaiming page cache
        // there costs nobody any time.
        let hit = hits > 0 && (cgroup.memory_pressure.is_none() || used >= c.serious_used);
        let felt = hit || pressure.some_avg10 >= c.some_avg10;
        let grows = grown >= c.growth;
        let turns = pressure.some_avg60 >= c.thrash_avg60;
        if used >= c.high_used && ((grows && felt) || turns) {
            let serious = used >= c.serious_used && (grows || turns);
            Verdict::Over(if serious { Severity::High } else { Severity::Medium })
        } else if used < c.clear_used || (!felt && !grows) {
            Verdict::Calm
        } else {
            Verdict::Between
        }
    }

    fn words(&self, j: &Judged<'_>, known: &Known) -> Words {
        let c = &self.config;
        let subject = group_subject(&j.cgroup.path, j.cgroup.pod.as_ref());
        let figures = format!(
            "working set {} of {} ({})",
            words::bytes(j.used as f64),
            words::bytes(j.limit as f64),
            words::percent(j.used as f64 / j.limit as f64)
        );
        let mut over = format!("{} {} is at its memory limit: {figures}", subject.kind, subject.name);
        if j.grown > 0 {
            let minutes = words::duration(c.window.as_secs_f64());
            over.push_str(&format!(", {} more in {minutes}", words::bytes(j.grown as f64)));
        }
        let mut facts = vec![
            Fact::new("working_set_bytes", j.used),
            Fact::new("limit_bytes", j.limit),
            Fact::new("grown_bytes", j.grown),
            Fact::new("limit_hits_number", j.hits),
        ];
        if let Some(p) = j.cgroup.memory_pressure {
            facts.push(Fact::new("pressure_some_avg10_percent", p.some_avg10));
            facts.push(Fact::new("pressure_full_avg10_percent", p.full_avg10));
        }
        if let Some(p) = known.growing_process(Some(&j.cgroup.path)) {
            over.push_str(&format!("; {}", p.words()));
            facts.push(Fact::new("growing_process_name", &p.name));
            facts.push(Fact::new("growing_process_bytes", p.by()));
        }
        facts.extend(place_facts(&j.cgroup.path, j.cgroup.pod.as_ref()));
        Words {
            over,
            calm: format!("{} {} is not at its memory limit any more: {figures}", subject.kind, subject.name),
            explanation: format!(
                "Working set is what is charged without inactive file pages, as the kubelet reckons. Medium from {} of \
                 the limit, high from {}, and only while it grows by {} of the limit in {} and the limit is felt (pressure \
                 some avg10 ≥ {} %, or it was hit and the group has no PSI or is in the high part), or its tasks wait \
                 without growth (some avg60 ≥ {} %). Cleared below {}, or when it neither grows nor feels the limit. At \
                 the limit the kernel kills within the group alone; the node need not be short.",
                words::percent(c.high_used),
                words::percent(c.serious_used),
                words::percent(c.growth),
                words::duration(c.window.as_secs_f64()),
                c.some_avg10,
                c.thrash_avg60,
                words::percent(c.clear_used),
            ),
            facts,
            since: Vec::new(),
            pod: j.cgroup.pod.clone(),
        }
    }
}

impl Detector for CgroupMemoryDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        let cgroups = &scene.sample.cgroups;
        let mut judged: Vec<Judged<'_>> =
            cgroups.iter().filter_map(|c| self.look(tick.at.boot_ns, c)).collect();
        if !cgroups.is_empty() {
            self.hits.end();
            self.sets.end();
        }
        let over: Vec<&str> = judged
            .iter()
            .filter(|j| matches!(j.verdict, Verdict::Over(_)))
            .map(|j| j.cgroup.path.as_str())
            .collect();
        let outer: Vec<bool> = judged
            .iter()
            .map(|j| over.iter().any(|o| *o != j.cgroup.path && is_within(o, &j.cgroup.path)))
            .collect();
        for (j, outer) in judged.iter_mut().zip(outer) {
            if outer && matches!(j.verdict, Verdict::Over(_)) {
                j.verdict = Verdict::Between;
            }
        }
        for j in &judged {
            let words = if self.is_worth(j) { self.words(j, scene.known) } else { Words::default() };
            let subject = || group_subject(&j.cgroup.path, j.cgroup.pod.as_ref());
            self.watch.judge(tick, j.verdict, subject, || words, out);
        }
        self.watch.close(tick, !cgroups.is_empty(), out);
    }

    one_watch!();
}

impl CgroupMemoryDetector {
    /// Whether words may be needed: texts are not made for each of a thousand groups each second.
    fn is_worth(&self, j: &Judged<'_>) -> bool {
        matches!(j.verdict, Verdict::Over(_)) || self.watch.active().next().is_some()
    }
}
