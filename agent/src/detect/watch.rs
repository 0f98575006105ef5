//! A condition that is judged sample by sample, with one case for each subject.
//!
//! Detectors give a [`Verdict`] on each subject that a sample speaks of ([`Watch::judge`]), or tell of an event that
//! is bad by itself ([`Watch::hit`]), and end each sample with [`Watch::close`]. The rest is here: so many samples over
//! before a finding is raised, so many calm ones before it is cleared, updates no oftener than the interval, an end for
//! subjects that went away, the bound on how many are held.
//!
//! Limits: [`MAX_SUBJECTS`] subjects of one rule at a time. How many more there are is a fact of the findings that are.

use std::collections::BTreeMap;
use std::time::Duration;

use dogwatch::record::{Fact, Finding, Pod, RecordRef, Severity, Subject};

use super::case::{Case, Statement, Tick};
use super::config::{DetectConfig, Hold};
use super::words;

/// Subjects of one rule that are held at a time: whoever has a hundred findings of one kind does not read the next.
pub(super) const MAX_SUBJECTS: usize = 100;

/// Samples that could name a subject and do not, before it is taken for gone: one may be a race with its end.
const GONE_AFTER: u32 = 3;

/// Samples in a row that could not be read before what they were to show is given up.
const LOST_AFTER: u32 = 600;

/// What a sample says about a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is over a threshold.
    Over(Severity),
    /// It is between the thresholds, or cannot be told: nothing begins and nothing ends.
    Between,
    /// It is below the threshold for clearing.
    Calm,
}

impl Verdict {
    /// `value` against `marks`, the worst first, and against the one for clearing. What is no number is between.
    pub(super) fn of(value: f64, marks: &[(f64, Severity)], clear: f64) -> Self {
        match marks.iter().find(|(mark, _)| value >= *mark) {
            Some((_, severity)) => Self::Over(*severity),
            None if value < clear => Self::Calm,
            None => Self::Between,
        }
    }
}

/// What is said about a subject, over and calm.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The summary while it is over.
    pub(super) over: String,
    /// The summary when it has become calm.
    pub(super) calm: String,
    /// Thresholds, where they come from, what was assumed.
    pub(super) explanation: String,
    pub(super) facts: Vec<Fact>,
    /// Records that show it beside the one that is judged.
    pub(super) since: Vec<RecordRef>,
    pub(super) pod: Option<Pod>,
}

impl Words {
    fn statement(self, severity: Severity, unnamed: u64) -> Statement {
        let mut facts = self.facts;
        if unnamed > 0 {
            facts.push(Fact::new("further_subjects_number", unnamed));
        }
        Statement {
            severity,
            summary: self.over,
            explanation: self.explanation,
            facts,
            since: self.since,
            pod: self.pod,
        }
    }
}

/// One rule and its subjects.
#[derive(Debug)]
pub(super) struct Watch {
    rule: &'static str,
    on: bool,
    hold: Hold,
    update: Duration,
    /// After so long without a further event its finding is over; none for a rule without events.
    quiet: Option<Duration>,
    subjects: BTreeMap<Subject, State>,
    blind: u32,
    /// Subjects that found no room, in the sample before and in this one.
    unnamed: (u64, u64),
}

#[derive(Debug, Default)]
struct State {
    case: Option<Case>,
    over: u32,
    calm: u32,
    absent: u32,
    seen: bool,
    resumed: bool,
    hits: u64,
    /// CLOCK_BOOTTIME until which the last event holds.
    until_ns: Option<u64>,
    /// What was not told yet since it was too early.
    untold: Option<(Severity, Words)>,
}

impl Watch {
    /// A rule whose condition samples show.
    pub(super) fn new(rule: &'static str, hold: Hold, config: &DetectConfig) -> Self {
        Self {
            rule,
            on: !config.off.contains(rule),
            hold,
            update: config.update_interval,
            quiet: None,
            subjects: BTreeMap::new(),
            blind: 0,
            unnamed: (0, 0),
        }
    }

    /// The same with events, each of which holds for `quiet`.
    pub(super) fn with_events(mut self, quiet: Duration) -> Self {
        self.quiet = Some(quiet);
        self
    }

    #[cfg(test)]
    pub(super) fn rule(&self) -> &'static str {
        self.rule
    }

    /// Whether the configuration has it on.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Finding> {
        self.subjects.values().filter_map(|s| s.case.as_ref()).map(Case::finding)
    }

    /// Continues an earlier run's finding; false where it is not this rule's, where there is one already, or where the
    /// rule is off now.
    pub(super) fn seed(&mut self, finding: &Finding) -> bool {
        if !self.on || finding.rule != self.rule || self.subjects.contains_key(&finding.subject) {
            return false;
        }
        let case = Some(Case::resume(finding.clone()));
        self.subjects.insert(finding.subject.clone(), State { case, resumed: true, ..State::default() });
        true
    }

    /// What this sample says about a subject.
    pub(super) fn judge(
        &mut self,
        tick: Tick<'_>,
        verdict: Verdict,
        subject: impl FnOnce() -> Subject,
        words: impl FnOnce() -> Words,
        out: &mut Vec<Finding>,
    ) {
        let over = match verdict {
            Verdict::Over(severity) => Some(severity),
            _ => None,
        };
        if !self.on || (over.is_none() && self.subjects.is_empty()) {
            return;
        }
        let subject = subject();
        if !self.subjects.contains_key(&subject) && (over.is_none() || !self.has_room()) {
            return;
        }
        let unnamed = self.unnamed.0;
        let state = self.subjects.entry(subject.clone()).or_default();
        state.seen = true;
        state.begin(tick, self.quiet);
        let still = state.until_ns.is_some_and(|until| tick.at.boot_ns < until);
        if let Some(severity) = over {
            state.calm = 0;
            state.over = state.over.saturating_add(1);
            match &mut state.case {
                None if state.over >= self.hold.raise_ticks => {
                    let case = Case::raise(tick, self.rule, subject, words().statement(severity, unnamed));
                    out.push(case.finding().clone());
                    state.case = Some(case);
                }
                None => {}
                Some(case) if severity > case.finding().severity || case.is_due(tick.at, self.update) => {
                    out.push(case.update(tick, words().statement(severity, unnamed)));
                    state.untold = None;
                }
                Some(_) => {}
            }
            return;
        }
        state.over = 0;
        if verdict == Verdict::Between || still {
            state.calm = 0;
            return;
        }
        state.calm = state.calm.saturating_add(1);
        if state.case.is_none() {
            self.subjects.remove(&subject);
        } else if state.calm >= self.hold.clear_ticks
            && let Some(case) = self.subjects.remove(&subject).and_then(|s| s.case)
        {
            let words = words();
            let why = format!(
                "Below the marks for clearing in {} samples in a row. {}",
                self.hold.clear_ticks, words.explanation
            );
            out.push(case.clear(tick, words.calm, why, words.facts));
        }
    }

    /// An event about a subject: bad by itself, and over when none follows for the quiet time. `words` are told how
    /// many events there were.
    pub(super) fn hit(
        &mut self,
        tick: Tick<'_>,
        severity: Severity,
        subject: Subject,
        words: impl FnOnce(u64) -> Words,
        out: &mut Vec<Finding>,
    ) {
        let Some(quiet) = self.quiet.filter(|_| self.on) else { return };
        if !self.subjects.contains_key(&subject) && !self.has_room() {
            return;
        }
        let unnamed = self.unnamed.0;
        let state = self.subjects.entry(subject.clone()).or_default();
        state.begin(tick, self.quiet);
        state.hits = state.hits.saturating_add(1);
        state.calm = 0;
        state.until_ns = Some(later(tick.at.boot_ns, quiet));
        let words = words(state.hits);
        match &mut state.case {
            None => {
                let case = Case::raise(tick, self.rule, subject, words.statement(severity, unnamed));
                out.push(case.finding().clone());
                state.case = Some(case);
            }
            Some(case) if severity > case.finding().severity || case.is_due(tick.at, self.update) => {
                out.push(case.update(tick, words.statement(severity, unnamed)));
                state.untold = None;
            }
            Some(_) => {
                let severity = state.untold.as_ref().map_or(severity, |(s, _)| severity.max(*s));
                state.untold = Some((severity, words));
            }
        }
    }

    /// Events about a subject so far.
    pub(super) fn hits(&self, subject: &Subject) -> u64 {
        self.subjects.get(subject).map_or(0, |s| s.hits)
    }

    /// Ends a sample. `read` says whether it could name this rule's subjects: then those that it did not name are going.
    pub(super) fn close(&mut self, tick: Tick<'_>, read: bool, out: &mut Vec<Finding>) {
        self.unnamed = (self.unnamed.1, 0);
        if self.subjects.is_empty() {
            self.blind = 0;
            return;
        }
        let shown = read || self.subjects.values().any(|s| s.seen);
        self.blind = if shown { 0 } else { self.blind.saturating_add(1) };
        let (lost, quiet, update) = (self.blind >= LOST_AFTER, self.quiet, self.update);
        let mut ended: Vec<(Subject, String)> = Vec::new();
        for (subject, state) in &mut self.subjects {
            state.begin(tick, quiet);
            if let Some(case) = &mut state.case
                && case.is_due(tick.at, update)
                && let Some((severity, words)) = state.untold.take()
            {
                out.push(case.update(tick, words.statement(severity, self.unnamed.0)));
            }
            if std::mem::take(&mut state.seen) {
                state.absent = 0;
                continue;
            }
            match state.until_ns {
                Some(until) if tick.at.boot_ns < until => continue,
                // Samples go on to show it: from now on they alone decide.
                Some(_) if state.over > 0 => state.until_ns = None,
                Some(_) => {
                    let quiet = words::duration(quiet.unwrap_or_default().as_secs_f64());
                    ended.push((subject.clone(), format!("nothing more for {quiet}")));
                    continue;
                }
                None => {}
            }
            if read {
                state.over = 0;
                state.absent = state.absent.saturating_add(1);
            }
            if state.absent >= GONE_AFTER {
                ended.push((subject.clone(), "it is gone, or shows nothing of the kind any more".to_owned()));
            } else if lost {
                ended.push((subject.clone(), "it could not be read for a long time".to_owned()));
            }
        }
        for (subject, why) in ended {
            if let Some(case) = self.subjects.remove(&subject).and_then(|s| s.case) {
                let summary = format!("{subject}: {why}");
                let explanation = format!(
                    "Cleared because of the subject: {why}. Subjects are given up after {GONE_AFTER} samples that do not \
                     name them, or {LOST_AFTER} that could not be read."
                );
                out.push(case.clear(tick, summary, explanation, Vec::new()));
            }
        }
    }

    fn has_room(&mut self) -> bool {
        let room = self.subjects.len() < MAX_SUBJECTS;
        if !room {
            self.unnamed.1 = self.unnamed.1.saturating_add(1);
        }
        room
    }
}

impl State {
    /// What an earlier run said holds for a quiet time from now, where events may have been the reason.
    fn begin(&mut self, tick: Tick<'_>, quiet: Option<Duration>) {
        if std::mem::take(&mut self.resumed)
            && let Some(quiet) = quiet
        {
            self.until_ns = Some(later(tick.at.boot_ns, quiet));
        }
    }
}

fn later(now_ns: u64, by: Duration) -> u64 {
    now_ns.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX))
}

/// What the detectors of one subject share, so that the table of all of them is one.
pub(super) trait Detector: std::fmt::Debug + Send {
    /// Judges a sample.
    fn on_sample(&mut self, tick: Tick<'_>, scene: &super::known::Scene<'_>, out: &mut Vec<Finding>);

    /// Judges a line of the kernel's log; whether it is one that this rule speaks for.
    fn on_kernel(
        &mut self,
        _tick: Tick<'_>,
        _text: &str,
        _known: &super::known::Known,
        _out: &mut Vec<Finding>,
    ) -> bool {
        false
    }

    fn watches(&self) -> &[Watch];

    fn watches_mut(&mut self) -> &mut [Watch];
}

/// The two accessors of a detector with one watch, in the field `watch`.
macro_rules! one_watch {
    () => {
        fn watches(&self) -> &[$crate::detect::watch::Watch] {
            std::slice::from_ref(&self.watch)
        }

        fn watches_mut(&mut self) -> &mut [$crate::detect::watch::Watch] {
            std::slice::from_mut(&mut self.watch)
        }
    };
}

/// The same for several, in the array `watches`.
macro_rules! several_watches {
    () => {
        fn watches(&self) -> &[$crate::detect::watch::Watch] {
            &self.watches
        }

        fn watches_mut(&mut self) -> &mut [$crate::detect::watch::Watch] {
            &mut self.watches
        }
    };
}

pub(super) use {one_watch, several_watches};
