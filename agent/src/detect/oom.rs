//! `oom-kill`: the kernel killed for want of memory, of the node or of a control group.
//!
//! The kernel's lines say who, where and why; counters (`oom_kill` of vmstat and of memory.events) say that it happened
//! where the log cannot be read. Both are held against each other, so that a kill is told once: a count that no line
//! explained is told after a grace time. Kills in one pod or group are one finding with their number.
//!
//! Limits: [`MAX_OPEN`] kills and counts are held against each other at a time; a group that is removed between two
//! samples takes its count with it, and the node's count speaks for it.

use std::collections::{BTreeMap, VecDeque};

use dogwatch::record::{Cgroup, Fact, Finding, Pod, RecordRef, Severity, Subject};

use super::case::{Place, Tick};
use super::config::{DetectConfig, OomConfig};
use super::known::{Known, Scene, group_subject, is_within, place_facts};
use super::oom_line::{OomLine, parse};
use super::watch::{Detector, Watch, Words, one_watch};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "oom-kill";

/// A kill's lines come at once; what is older belongs to another.
const REPORT_NS: u64 = 10_000_000_000;
/// A line and a count of one kill are no further apart than this, ns.
const APART_NS: u64 = 60_000_000_000;
/// See the module's limits.
const MAX_OPEN: usize = 64;
/// Groups whose count is remembered.
const MAX_GROUPS: usize = 4_096;

/// Watches for kills.
#[derive(Debug)]
pub(super) struct OomDetector {
    config: OomConfig,
    watch: Watch,
    report: Report,
    node_total: Option<u64>,
    group_totals: BTreeMap<String, u64>,
    logged: VecDeque<Logged>,
    counted: VecDeque<Counted>,
}

/// What the kernel has printed about the kill under way.
#[derive(Debug, Default)]
struct Report {
    began_ns: u64,
    invoked_by: Option<String>,
    constraint: Option<String>,
    limited: Option<String>,
    group: Option<String>,
    cited: Vec<Place>,
    /// All of its tasks are killed, each with a line of its own and one report for them.
    whole_group: Option<String>,
}

/// A kill that a line told, and which of the counters have not counted it yet.
#[derive(Debug)]
struct Logged {
    at_ns: u64,
    group: Option<String>,
    node: bool,
    of_group: bool,
}

/// A count that no line explained yet.
#[derive(Debug)]
struct Counted {
    at_ns: u64,
    /// The group that counted; `None`: the node's counter.
    group: Option<(String, Option<Pod>)>,
    kills: u64,
    place: Place,
}

impl OomDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let c = config.oom.clone();
        Self {
            // No hold: a kill is an event.
            watch: Watch::new(RULE, super::config::Hold { raise_ticks: 1, clear_ticks: 1 }, config)
                .with_events(c.quiet),
            config: c,
            report: Report::default(),
            node_total: None,
            group_totals: BTreeMap::new(),
            logged: VecDeque::new(),
            counted: VecDeque::new(),
        }
    }

    fn killed(&mut self, tick: Tick<'_>, line: &OomLine<'_>, known: &Known, out: &mut Vec<Finding>) {
        let OomLine::Killed { in_group, pid, name, anon_rss_bytes, total_vm_bytes } = line else { return };
        let mut report = std::mem::take(&mut self.report);
        if let Some(group) = report.whole_group.take() {
            report.group.get_or_insert_with(|| group.clone());
            self.report = Report { began_ns: report.began_ns, whole_group: Some(group), ..Report::default() };
        }
        let constraint = report.constraint.unwrap_or_else(|| {
            if *in_group { "CONSTRAINT_MEMCG".to_owned() } else { "CONSTRAINT_NONE".to_owned() }
        });
        let of_group = constraint == "CONSTRAINT_MEMCG";
        let pod = report.group.as_deref().and_then(|g| known.pod(g));
        let subject = match (&report.group, of_group) {
            (Some(group), true) => group_subject(group, pod.as_ref()),
            (None, true) => Subject::new("cgroup", "(not told)"),
            _ => Subject::new("memory", tick.identity.node.as_str()),
        };
        self.explain_count(tick.at.boot_ns, report.group);
        let whose = match (of_group, &subject) {
            (false, _) => "the node ran out of memory".to_owned(),
            (true, s) => format!("{} {} reached its memory limit", s.kind, s.name),
        };
        let limited = report.limited;
        let words = |kills: u64| {
            let held =
                anon_rss_bytes.map_or_else(String::new, |b| format!(" with {}", words::bytes(b as f64)));
            let mut facts = vec![
                Fact::new("kills_number", kills),
                Fact::new("victim_name", format!("{name} (pid {pid})")),
                Fact::new("victim_pid_number", pid),
                Fact::new("constraint_type", &constraint),
            ];
            facts.extend(anon_rss_bytes.map(|b| Fact::new("victim_anon_rss_bytes", b)));
            facts.extend(total_vm_bytes.map(|b| Fact::new("victim_total_vm_bytes", b)));
            facts.extend(report.invoked_by.as_ref().map(|by| Fact::new("invoked_by_name", by)));
            facts.extend(limited.as_ref().map(|l| Fact::new("limited_cgroup", l)));
            let group = self.logged.back().and_then(|l| l.group.as_deref()).unwrap_or_default();
            facts.extend(place_facts(group, pod.as_ref()));
            Words {
                over: format!("the kernel killed {name} (pid {pid}){held}: {whose}{}", times(kills)),
                explanation: format!(
                    "The kernel's OOM killer says so in its log (cited), constraint {constraint}: with CONSTRAINT_MEMCG a \
                     control group was at its limit, else memory of the node (or of its allowed NUMA nodes) was. High in \
                     a group, critical for the node. Further kills here are counted; cleared after {} without one.",
                    words::duration(self.config.quiet.as_secs_f64())
                ),
                facts,
                since: report.cited.iter().map(|p| tick.identity.record(*p)).collect::<Vec<RecordRef>>(),
                pod: pod.clone(),
                ..Words::default()
            }
        };
        let severity = if of_group { Severity::High } else { Severity::Critical };
        self.watch.hit(tick, severity, subject, words, out);
    }

    /// A line told a kill: counts that came before it are explained, those to come will be.
    fn explain_count(&mut self, now_ns: u64, group: Option<String>) {
        let node = !take_one(&mut self.counted, |c| c.group.is_none());
        let of_group = !take_one(&mut self.counted, |c| {
            c.group.as_ref().is_some_and(|(path, _)| group.as_ref().is_none_or(|g| is_within(g, path)))
        });
        if self.logged.len() >= MAX_OPEN {
            self.logged.pop_front();
        }
        self.logged.push_back(Logged { at_ns: now_ns, group, node, of_group });
    }

    fn count(&mut self, tick: Tick<'_>, scene: &Scene<'_>) {
        let now = tick.at.boot_ns;
        self.logged.retain(|l| now.saturating_sub(l.at_ns) < APART_NS);
        if let Some(total) = scene.sample.memory.as_ref().and_then(|m| m.oom_kills_total) {
            let mut kills = self.node_total.replace(total).map_or(0, |before| total.saturating_sub(before));
            for logged in self.logged.iter_mut().filter(|l| l.node) {
                if kills == 0 {
                    break;
                }
                logged.node = false;
                kills -= 1;
            }
            self.expect_line(now, None, kills, tick);
        }
        let rises = self.rises(&scene.sample.cgroups);
        let inner = |path: &str| !rises.iter().any(|(c, _)| c.path != path && is_within(&c.path, path));
        for (cgroup, mut kills) in rises.iter().filter(|(c, _)| inner(&c.path)).copied() {
            for logged in self.logged.iter_mut().filter(|l| l.of_group) {
                if kills > 0 && logged.group.as_ref().is_none_or(|g| is_within(g, &cgroup.path)) {
                    logged.of_group = false;
                    kills -= 1;
                }
            }
            // The node has counted the same kills.
            for _ in 0..kills.min(MAX_OPEN as u64) {
                take_one(&mut self.counted, |c| c.group.is_none());
            }
            let pod = cgroup.pod.clone().or_else(|| scene.known.pod(&cgroup.path));
            self.expect_line(now, Some((cgroup.path.clone(), pod)), kills, tick);
        }
    }

    /// By how much groups' counters rose since they were last read. A group that is new, or began again, says nothing.
    fn rises<'a>(&mut self, cgroups: &'a [Cgroup]) -> Vec<(&'a Cgroup, u64)> {
        if cgroups.is_empty() {
            return Vec::new();
        }
        let mut rises = Vec::new();
        let mut totals = BTreeMap::new();
        for cgroup in cgroups.iter().take(MAX_GROUPS) {
            let Some(total) = cgroup.oom_kills_total else { continue };
            let before = self.group_totals.get(&cgroup.path).copied().unwrap_or(total);
            if total > before {
                rises.push((cgroup, total - before));
            }
            totals.insert(cgroup.path.clone(), total);
        }
        self.group_totals = totals;
        rises
    }

    fn expect_line(&mut self, now_ns: u64, group: Option<(String, Option<Pod>)>, kills: u64, tick: Tick<'_>) {
        if kills > 0 && self.counted.len() < MAX_OPEN {
            self.counted.push_back(Counted { at_ns: now_ns, group, kills, place: tick.cite.into() });
        }
    }

    /// Tells the counts that no line explained.
    fn tell_counted(&mut self, tick: Tick<'_>, out: &mut Vec<Finding>) {
        let grace = self.config.grace.as_nanos();
        while let Some(c) = self.counted.front()
            && u128::from(tick.at.boot_ns.saturating_sub(c.at_ns)) >= grace
        {
            let Some(Counted { group, kills, place, .. }) = self.counted.pop_front() else { return };
            let (subject, severity) = match &group {
                Some((path, pod)) => (group_subject(path, pod.as_ref()), Severity::High),
                None => (Subject::new("memory", tick.identity.node.as_str()), Severity::High),
            };
            let source = if group.is_some() { "memory.events of the group" } else { "/proc/vmstat" };
            let whose = format!("{} {}", subject.kind, subject.name);
            let words = |_| Words {
                over: format!("the kernel killed for want of memory in {whose}{}", times(kills)),
                explanation: format!(
                    "The counter oom_kill ({source}) rose and no line of the kernel's log said whom it killed within {}: \
                     the log is not readable here, or was overrun. The node's counter counts kills at a group's limit \
                     too. Cleared after {} without a further kill.",
                    words::duration(self.config.grace.as_secs_f64()),
                    words::duration(self.config.quiet.as_secs_f64())
                ),
                facts: {
                    let mut facts = vec![Fact::new("kills_number", kills)];
                    if let Some((path, pod)) = &group {
                        facts.extend(place_facts(path, pod.as_ref()));
                    }
                    facts
                },
                since: vec![tick.identity.record(place)],
                pod: group.as_ref().and_then(|(_, pod)| pod.clone()),
                ..Words::default()
            };
            self.watch.hit(tick, severity, subject, words, out);
        }
    }
}

/// Takes one kill from the first count for which `of` holds; whether there was one.
fn take_one(counted: &mut VecDeque<Counted>, of: impl Fn(&Counted) -> bool) -> bool {
    let Some(i) = counted.iter().position(of) else { return false };
    counted[i].kills -= 1;
    if counted[i].kills == 0 {
        counted.remove(i);
    }
    true
}

fn times(kills: u64) -> String {
    if kills > 1 { format!(" ({kills} kills)") } else { String::new() }
}

impl Detector for OomDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        self.count(tick, scene);
        self.tell_counted(tick, out);
        self.watch.close(tick, false, out);
    }

    fn on_kernel(&mut self, tick: Tick<'_>, text: &str, known: &Known, out: &mut Vec<Finding>) -> bool {
        let Some(line) = parse(text).filter(|_| self.watch.is_on()) else { return false };
        let now = tick.at.boot_ns;
        if now.saturating_sub(self.report.began_ns) > REPORT_NS {
            self.report = Report { began_ns: now, ..Report::default() };
        }
        match &line {
            OomLine::Invoked { by } => {
                // A new report begins with it, whatever became of the one before.
                self.report =
                    Report { began_ns: now, invoked_by: Some((*by).to_owned()), ..Report::default() };
            }
            OomLine::Chosen { constraint, limited, group } => {
                self.report.constraint = Some((*constraint).to_owned());
                self.report.limited = limited.map(str::to_owned);
                self.report.group = Some((*group).to_owned());
            }
            OomLine::Group { group } => self.report.whole_group = Some((*group).to_owned()),
            OomLine::Killed { .. } => self.killed(tick, &line, known, out),
            OomLine::Other => {}
        }
        if !matches!(line, OomLine::Killed { .. }) && self.report.cited.len() < 4 {
            self.report.cited.push(tick.cite.into());
        }
        true
    }

    one_watch!();
}
