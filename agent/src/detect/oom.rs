//! `oom-kill`: the kernel killed for want of memory, of the node or of a control group.
//!
//! The kernel's lines say who, where and why; counters (`oom_kill` of vmstat and of the groups) say that it happened where
//! the log cannot be read: a count that no line explained is told after a grace time, about the group that counted it, and
//! about the node where none did (see [`super::oom_count`]). Kills in one pod or group are one finding with their number.

use dogwatch::record::{Fact, Finding, RecordRef, Severity, Subject};

use super::case::{Place, Tick};
use super::config::{DetectConfig, OomConfig};
use super::known::{Known, Scene, group_subject, place_facts};
use super::oom_count::{Counted, Ledger};
use super::oom_line::{OomLine, parse};
use super::watch::{Detector, Watch, Words, one_watch};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "oom-kill";

/// A kill's lines come at once; what is older belongs to another.
const REPORT_NS: u64 = 10_000_000_000;

/// Watches for kills.
#[derive(Debug)]
pub(super) struct OomDetector {
    config: OomConfig,
    watch: Watch,
    report: Report,
    ledger: Ledger,
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

impl OomDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let c = config.oom.clone();
        Self {
            // No hold: a kill is an event.
            watch: Watch::new(RULE, super::config::Hold { raise_ticks: 1, clear_ticks: 1 }, config)
                .with_events(c.quiet),
            config: c,
            report: Report::default(),
            ledger: Ledger::default(),
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
        self.ledger.told(tick.at.boot_ns, report.group);
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
            let group = self.ledger.last_group().unwrap_or_default();
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

    /// Tells the counts that no line explained.
    fn tell_counted(&mut self, tick: Tick<'_>, out: &mut Vec<Finding>) {
        while let Some(counted) = self.ledger.next_unexplained(tick.at.boot_ns, self.config.grace) {
            let Counted { group, kills, place, .. } = counted;
            let (subject, severity) = match &group {
                Some((path, pod)) => (group_subject(path, pod.as_ref()), Severity::High),
                None => (Subject::new("memory", tick.identity.node.as_str()), Severity::High),
            };
            let source = match &group {
                Some(_) => "memory.events of the group, memory.oom_control on version 1",
                None => "/proc/vmstat",
            };
            let whose = format!("{} {}", subject.kind, subject.name);
            let words = |_| Words {
                over: format!("the kernel killed for want of memory in {whose}{}", times(kills)),
                explanation: format!(
                    "The counter oom_kill ({source}) rose and no line of the kernel's log said whom it killed within {}: \
                     the log is not readable here, or was overrun. A group counts its members that are killed, also when \
                     the node was out of memory; the node is named for kills that no group counted. Cleared after {} \
                     without a further kill.",
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

fn times(kills: u64) -> String {
    if kills > 1 { format!(" ({kills} kills)") } else { String::new() }
}

impl Detector for OomDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        self.ledger.count(tick, scene);
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
