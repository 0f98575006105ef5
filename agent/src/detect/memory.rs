//! `memory-pressure`: tasks wait for memory, or next to none is left.
//!
//! Pressure (PSI) says what work suffers, available bytes what is left before the OOM killer comes; either suffices,
//! and where the kernel has no PSI the bytes decide alone. The node's pressure counts the waits of a single group at its
//! own limit too: while enough is available and such a group is known, it is that group's finding
//! (`cgroup-memory-pressure`) and not the node's.

use dogwatch::record::{Fact, Finding, Memory, Pressure, Process, Severity, Subject};

use super::case::{Case, Statement, Tick};
use super::config::MemoryConfig;
use super::known::{Known, Scene, place_facts};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "memory-pressure";

/// Watches the node's memory.
#[derive(Debug)]
pub(super) struct MemoryDetector {
    config: MemoryConfig,
    case: Option<Case>,
    over: u32,
    calm: u32,
    /// The last processes seen: a scan that is spread over ticks does not bring them with each sample.
    processes: Vec<Process>,
    oom_kills_at_raise: Option<u64>,
}

impl MemoryDetector {
    pub(super) fn new(config: &MemoryConfig) -> Self {
        Self {
            config: config.clone(),
            case: None,
            over: 0,
            calm: 0,
            processes: Vec::new(),
            oom_kills_at_raise: None,
        }
    }

    /// Continues an earlier run's finding; false where there is one already.
    pub(super) fn seed(&mut self, finding: &Finding) -> bool {
        if self.case.is_some() {
            return false;
        }
        self.case = Some(Case::resume(finding.clone()));
        true
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Finding> {
        self.case.iter().map(Case::finding)
    }

    pub(super) fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        let Scene { sample, known } = *scene;
        // A sample without memory says nothing either way.
        let Some(memory) = &sample.memory else { return };
        let severity = self.judge(memory, known);
        if (severity.is_some() || self.case.is_some()) && !sample.processes.is_empty() {
            self.remember(&sample.processes);
        }
        match &mut self.case {
            None => {
                self.over = if severity.is_some() { self.over.saturating_add(1) } else { 0 };
                if let Some(severity) = severity.filter(|_| self.over >= self.config.raise_ticks) {
                    self.oom_kills_at_raise = memory.oom_kills_total;
                    let subject = Subject::new("memory", tick.identity.node.as_str());
                    let case = Case::raise(tick, RULE, subject, self.statement(memory, known, severity));
                    out.push(case.finding().clone());
                    self.case = Some(case);
                    self.calm = 0;
                }
            }
            Some(case) => {
                let worse = severity.is_some_and(|s| s > case.finding().severity);
                let due = severity.is_some() && case.is_due(tick.at, self.config.update_interval);
                self.calm = if self.is_calm(memory) { self.calm.saturating_add(1) } else { 0 };
                if self.calm >= self.config.clear_ticks {
                    self.over = 0;
                    if let Some(case) = self.case.take() {
                        out.push(self.clear(case, tick, memory, known));
                    }
                } else if worse || due {
                    let statement = self.statement(memory, known, severity.unwrap_or(Severity::Medium));
                    // Borrowed anew: the statement needed all of the detector.
                    if let Some(case) = &mut self.case {
                        out.push(case.update(tick, statement));
                    }
                }
            }
        }
    }

    /// How bad it is; `None` when it is not.
    fn judge(&self, memory: &Memory, known: &Known) -> Option<Severity> {
        let c = &self.config;
        let available = available_fraction(memory);
        let of_a_group = available >= c.clear_available && known.group_at_limit().is_some();
        let p = memory.pressure.filter(|_| !of_a_group).unwrap_or_default();
        if available < c.critical_available || p.full_avg10 >= c.critical_full_avg10 {
            Some(Severity::Critical)
        } else if available < c.min_available || p.full_avg10 >= c.full_avg10 {
            Some(Severity::High)
        } else if p.some_avg10 >= c.some_avg10 {
            Some(Severity::Medium)
        } else {
            None
        }
    }

    fn is_calm(&self, memory: &Memory) -> bool {
        let c = &self.config;
        let p = memory.pressure.unwrap_or_default();
        available_fraction(memory) >= c.clear_available.max(c.min_available)
            && p.some_avg10 < c.some_avg10 / 2.0
            && p.full_avg10 < c.full_avg10 / 2.0
    }

    fn remember(&mut self, processes: &[Process]) {
        let mut largest: Vec<&Process> = processes.iter().collect();
        largest.sort_by_key(|p| std::cmp::Reverse(p.resident_bytes));
        self.processes = largest.into_iter().take(self.config.name_processes).cloned().collect();
    }

    fn statement(&self, memory: &Memory, known: &Known, severity: Severity) -> Statement {
        let c = &self.config;
        let pressure = match memory.pressure {
            Some(p) => format!(
                ", tasks stalled {:.1} % of the last 10 s (all of them {:.1} %)",
                p.some_avg10, p.full_avg10
            ),
            None => String::new(),
        };
        let largest = match self.processes.first() {
            Some(p) => format!(
                "; largest: {} (pid {}) with {}",
                p.name,
                p.pid,
                words::bytes(p.resident_bytes as f64)
            ),
            None => String::new(),
        };
        let process = known.growing_process(None).filter(|p| p.by() >= c.growth_floor_bytes);
        let group = known.growing_group().filter(|g| g.by() >= c.growth_floor_bytes);
        let growing = process.or(group).map_or_else(String::new, |g| format!("; {}", g.words()));
        let pod = process.and_then(|p| p.pod.clone()).or_else(|| group.and_then(|g| g.pod.clone()));
        Statement {
            severity,
            summary: format!("memory is short: {}{pressure}{growing}{largest}", left(memory)),
            explanation: format!(
                "Raised after {} samples with pressure some avg10 ≥ {} % (medium), full avg10 ≥ {} % or available below \
                 {} (high), full avg10 ≥ {} % or available below {} (critical). Pressure is the kernel's PSI \
                 (/proc/pressure/memory), available its MemAvailable. The kubelet evicts pods at \
                 memory.available<100Mi by default. Cleared after {} samples at half that pressure with {} available. \
                 Named as growing is who took most in the last three minutes, {} at least; pressure alone is not the \
                 node's while {} are available and a control group is at its own limit.",
                c.raise_ticks,
                c.some_avg10,
                c.full_avg10,
                words::percent(c.min_available),
                c.critical_full_avg10,
                words::percent(c.critical_available),
                c.clear_ticks,
                words::percent(c.clear_available.max(c.min_available)),
                words::bytes(c.growth_floor_bytes as f64),
                words::percent(c.clear_available),
            ),
            facts: self.facts(memory, known),
            since: Vec::new(),
            pod,
        }
    }

    fn clear(&mut self, case: Case, tick: Tick<'_>, memory: &Memory, known: &Known) -> Finding {
        let facts = self.facts(memory, known);
        self.processes.clear();
        let summary = format!("memory is not short any more: {}", left(memory));
        let why = format!(
            "For {} samples in a row pressure was below half of its thresholds and at least {} of memory was available.",
            self.config.clear_ticks,
            words::percent(self.config.clear_available.max(self.config.min_available)),
        );
        case.clear(tick, summary, why, facts)
    }

    fn facts(&self, memory: &Memory, known: &Known) -> Vec<Fact> {
        let mut facts = vec![
            Fact::new("available_bytes", memory.available_bytes),
            Fact::new("total_bytes", memory.total_bytes),
            Fact::new("swap_free_bytes", memory.swap_free_bytes),
            Fact::new("swap_total_bytes", memory.swap_total_bytes),
        ];
        if let Some(Pressure { some_avg10, full_avg10, .. }) = memory.pressure {
            facts.push(Fact::new("pressure_some_avg10_percent", some_avg10));
            facts.push(Fact::new("pressure_full_avg10_percent", full_avg10));
        }
        if let (Some(now), Some(before)) = (memory.oom_kills_total, self.oom_kills_at_raise) {
            facts.push(Fact::new("oom_kills_since_raised", now.saturating_sub(before)));
        }
        for (i, p) in self.processes.iter().enumerate() {
            facts.push(Fact::new(format!("process_{}_name", i + 1), format!("{} (pid {})", p.name, p.pid)));
            facts.push(Fact::new(format!("process_{}_resident_bytes", i + 1), p.resident_bytes));
            if !p.cgroup.is_empty() {
                facts.push(Fact::new(format!("process_{}_cgroup", i + 1), &p.cgroup));
            }
        }
        for (what, grown) in [("process", known.growing_process(None)), ("cgroup", known.growing_group())] {
            if let Some(g) = grown.filter(|g| g.by() >= self.config.growth_floor_bytes) {
                facts.push(Fact::new(format!("growing_{what}_name"), &g.name));
                facts.push(Fact::new(format!("growing_{what}_bytes"), g.by()));
                facts.push(Fact::new(format!("growing_{what}_seconds"), g.seconds().round()));
                let place = place_facts(&g.cgroup, g.pod.as_ref());
                facts.extend(
                    place.into_iter().map(|f| Fact::new(format!("growing_{what}_{}", f.key), f.value)),
                );
            }
        }
        facts
    }
}

fn available_fraction(memory: &Memory) -> f64 {
    if memory.total_bytes == 0 { 1.0 } else { memory.available_bytes as f64 / memory.total_bytes as f64 }
}

fn left(memory: &Memory) -> String {
    format!(
        "{} of {} available ({})",
        words::bytes(memory.available_bytes as f64),
        words::bytes(memory.total_bytes as f64),
        words::percent(available_fraction(memory)),
    )
}
