//! Log findings: one for each rule and source, however many lines match.
//!
//! The first match raises; further ones are counted and said at most every so often; a quiet time clears. The pass of
//! time comes with samples, so that a log that falls silent is noticed.
//!
//! Limits: [`MAX_SOURCES`] findings by source. Matches from further sources are folded into one finding a rule, named
//! [`OTHER_SOURCES`], so that a thousand crash-looping pods are told, and bounded.

use std::collections::BTreeMap;

use dogwatch::record::{Fact, Finding, LogLine, Severity, Subject};

use super::case::{Case, Statement, Tick};
use super::config::{LogConfig, LogRule};
use super::words;

/// Kind of the subject of every log finding.
pub(super) const SUBJECT_KIND: &str = "log";

/// Findings that are told apart by their source.
const MAX_SOURCES: usize = 1_000;

/// The fact that tells a collector whether a finding is of somebody who gets in, or tries to.
const SECURITY: &str = "security";

/// The subject of what is folded.
const OTHER_SOURCES: &str = "(other sources)";

/// Characters of a line that a summary shows.
const MAX_SHOWN: usize = 200;

/// Rules that one line may carry; a line's rules come from the same configuration, so more is an error elsewhere.
const MAX_RULES_PER_LINE: usize = 64;

/// Watches the lines that matched a rule.
#[derive(Debug)]
pub(super) struct LogDetector {
    config: LogConfig,
    /// By rule, then source.
    open: BTreeMap<(String, String), Open>,
}

#[derive(Debug)]
struct Open {
    case: Case,
    /// Matches of this run.
    count: u64,
    /// Of these, not told yet.
    untold: u64,
    /// CLOCK_BOOTTIME of the last match, or of when it was resumed.
    last_ns: Option<u64>,
    last_line: String,
}

impl LogDetector {
    pub(super) fn new(config: &LogConfig) -> Self {
        Self { config: config.clone(), open: BTreeMap::new() }
    }

    /// Continues an earlier run's finding, also of a rule that is configured no more: it must be cleared some day.
    /// False where there is one already.
    pub(super) fn seed(&mut self, finding: &Finding) -> bool {
        let key = (finding.rule.clone(), finding.subject.name.clone());
        if self.open.contains_key(&key) {
            return false;
        }
        let case = Case::resume(finding.clone());
        self.open.insert(key, Open { case, count: 0, untold: 0, last_ns: None, last_line: String::new() });
        true
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Finding> {
        self.open.values().map(|o| o.case.finding())
    }

    pub(super) fn on_log(&mut self, tick: Tick<'_>, line: &LogLine, out: &mut Vec<Finding>) {
        for name in line.rules.iter().take(MAX_RULES_PER_LINE) {
            self.on_match(tick, name, line, out);
        }
    }

    fn on_match(&mut self, tick: Tick<'_>, name: &str, line: &LogLine, out: &mut Vec<Finding>) {
        let mut key = (name.to_owned(), line.source.clone());
        if !self.open.contains_key(&key) && self.open.len() >= MAX_SOURCES {
            key.1 = OTHER_SOURCES.to_owned();
        }
        let rule = self.config.rules.iter().find(|r| r.name == name);
        if let Some(open) = self.open.get_mut(&key) {
            open.count += 1;
            open.untold += 1;
            open.last_ns = Some(tick.at.boot_ns);
            open.last_line = shown(line);
            if open.case.is_due(tick.at, self.config.update_interval) {
                out.push(open.tell(tick, rule, &self.config));
            }
            return;
        }
        let last_line = shown(line);
        let statement = statement(rule, name, &self.config, &key.1, 1, &last_line);
        let subject = Subject::new(SUBJECT_KIND, key.1.as_str());
        // What is folded is nobody's alone.
        let pod = line.pod.clone().filter(|_| key.1 != OTHER_SOURCES);
        let case = Case::raise(tick, name, subject, statement).of(pod);
        out.push(case.finding().clone());
        self.open.insert(key, Open { case, count: 1, untold: 0, last_ns: Some(tick.at.boot_ns), last_line });
    }

    /// Tells what was counted, and clears what has been quiet.
    pub(super) fn on_sample(&mut self, tick: Tick<'_>, out: &mut Vec<Finding>) {
        let quiet_ns = self.config.quiet.as_nanos();
        let mut over = Vec::new();
        for (key, open) in &mut self.open {
            let last_ns = *open.last_ns.get_or_insert(tick.at.boot_ns);
            if u128::from(tick.at.boot_ns.saturating_sub(last_ns)) >= quiet_ns {
                over.push(key.clone());
            } else if open.untold > 0 && open.case.is_due(tick.at, self.config.update_interval) {
                let rule = self.config.rules.iter().find(|r| r.name == key.0);
                out.push(open.tell(tick, rule, &self.config));
            }
        }
        for key in over {
            if let Some(open) = self.open.remove(&key) {
                let rule = self.config.rules.iter().find(|r| r.name == key.0);
                out.push(open.clear(tick, &key.1, rule, &self.config));
            }
        }
    }
}

impl Open {
    fn tell(&mut self, tick: Tick<'_>, rule: Option<&LogRule>, config: &LogConfig) -> Finding {
        self.untold = 0;
        let said = self.case.finding();
        let statement = statement(rule, &said.rule, config, &said.subject.name, self.count, &self.last_line);
        self.case.update(tick, statement)
    }

    fn clear(self, tick: Tick<'_>, source: &str, rule: Option<&LogRule>, config: &LogConfig) -> Finding {
        let quiet = words::duration(config.quiet.as_secs_f64());
        let summary = format!("no more matches in {source} for {quiet}; {} in all", lines(self.count));
        let why = format!(
            "Cleared after {quiet} without a matching line. Lines are counted from this run's start."
        );
        // Of a rule that is configured no more, what was said before holds to the end.
        let before = self.case.finding().facts.iter().find(|f| f.key == SECURITY && rule.is_none()).cloned();
        let facts = facts(rule, self.count).into_iter().chain(before).collect();
        self.case.clear(tick, summary, why, facts)
    }
}

/// What to say about `count` lines. A rule that lines carry and the configuration lacks is said plainly.
fn statement(
    rule: Option<&LogRule>,
    name: &str,
    config: &LogConfig,
    source: &str,
    count: u64,
    line: &str,
) -> Statement {
    let meaning = rule.map_or("lines match a rule that is not configured", |r| r.summary.as_str());
    Statement {
        severity: rule.map_or(Severity::Medium, |r| r.severity),
        summary: format!("{meaning}: {} in {source}, last: {line}", lines(count)),
        explanation: format!(
            "Lines of this source match the rule {name}, whose severity is set in the configuration. Further matches \
             are counted and said every {}; cleared after {} without one.",
            words::duration(config.update_interval.as_secs_f64()),
            words::duration(config.quiet.as_secs_f64()),
        ),
        facts: facts(rule, count),
        since: Vec::new(),
        pod: None,
    }
}

fn facts(rule: Option<&LogRule>, count: u64) -> Vec<Fact> {
    let security = rule.and_then(|r| r.security).map(|said| Fact::new(SECURITY, said));
    [Fact::new("matches", count)].into_iter().chain(security).collect()
}

fn lines(count: u64) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}

/// The beginning of a line. Control characters stay: they are escaped where it is displayed.
fn shown(line: &LogLine) -> String {
    // Four bytes a character at most, and no more is decoded than shown.
    let head = &line.line[..line.line.len().min(MAX_SHOWN * 4)];
    let mut text: String = String::from_utf8_lossy(head).chars().take(MAX_SHOWN).collect();
    if text.len() < line.line.len() && text.chars().count() == MAX_SHOWN {
        text.push('…');
    }
    text
}
