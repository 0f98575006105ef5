//! One finding's life: raised, updated, cleared, under one id.

use std::time::Duration;

use dogwatch::record::{
    Fact, Finding, FindingState, Incarnation, Moment, NodeName, Pod, RecordRef, Seq, Severity, Stream,
    Subject,
};
use sha2::{Digest, Sha256};

/// Citations of one finding at most: the first ones and the last.
const MAX_CITATIONS: usize = 8;

/// Who speaks.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) node: NodeName,
    pub(super) incarnation: Incarnation,
}

impl Identity {
    /// The id of what is raised now. Two runs never give the same one, and one run gives it once, as nothing is
    /// raised about a subject twice in one moment.
    fn finding_id(&self, rule: &str, subject: &Subject, at: Moment) -> String {
        let mut hash = Sha256::new();
        for part in [self.node.as_str(), rule, &subject.kind, &subject.name] {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(self.incarnation.0);
        hash.update(at.boot_ns.to_be_bytes());
        hash.update(at.wall_ns.to_be_bytes());
        let digest = hash.finalize();
        let mut id = String::from("f-");
        for byte in digest.iter().take(8) {
            id.push_str(&format!("{byte:02x}"));
        }
        id
    }

    /// A record of this run.
    pub(super) fn record(&self, place: Place) -> RecordRef {
        RecordRef {
            node: self.node.clone(),
            incarnation: self.incarnation,
            stream: place.stream,
            seq: place.seq,
        }
    }
}

/// A record of this run, without the names that all of them share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream: Stream,
    pub(super) seq: Seq,
}

impl From<&RecordRef> for Place {
    fn from(r: &RecordRef) -> Self {
        Self { stream: r.stream, seq: r.seq }
    }
}

/// What every statement of one moment shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tick<'a> {
    pub(super) identity: &'a Identity,
    pub(super) at: Moment,
    /// The record that is judged.
    pub(super) cite: &'a RecordRef,
}

/// What is said about a subject at a moment.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) severity: Severity,
    pub(super) summary: String,
    pub(super) explanation: String,
    pub(super) facts: Vec<Fact>,
    /// Records that show it beside the one that is judged, oldest first.
    pub(super) since: Vec<RecordRef>,
    /// Whose it is, where that is known.
    pub(super) pod: Option<Pod>,
}

/// The fact that says when what led to a finding began, wall ns; it is told from raised to cleared.
pub(super) const RISE_FACT: &str = "rise_began_wall_ns";

/// The fact of a process that says that the scan of processes found it, so that whose it is is known; told to the end, too:
/// collectors go by it where they judge a cleanup.
pub(super) const SCANNED_FACT: &str = "uninterruptible_number";

/// `new` facts of what `finding` is about, with those of before that are told to the end.
fn with_lasting(finding: &Finding, mut new: Vec<Fact>) -> Vec<Fact> {
    let lasts = |key: &str| key == RISE_FACT || key == SCANNED_FACT && finding.subject.kind == "process";
    for fact in finding.facts.iter().filter(|f| lasts(&f.key)) {
        if !new.iter().any(|f| f.key == fact.key) {
            new.push(fact.clone());
        }
    }
    new
}

/// A finding that is active.
#[derive(Debug)]
pub(super) struct Case {
    finding: Finding,
    /// CLOCK_BOOTTIME of the last statement; `None` for one that an earlier run made.
    said_ns: Option<u64>,
}

impl Case {
    /// Raises.
    pub(super) fn raise(tick: Tick<'_>, rule: &str, subject: Subject, statement: Statement) -> Self {
        let id = tick.identity.finding_id(rule, &subject, tick.at);
        let mut citations: Vec<RecordRef> = statement.since.into_iter().filter(|r| r != tick.cite).collect();
        citations.truncate(MAX_CITATIONS - 1);
        citations.push(tick.cite.clone());
        let finding = Finding {
            id,
            rule: rule.to_owned(),
            severity: statement.severity,
            state: FindingState::Raised,
            subject,
            summary: statement.summary,
            explanation: statement.explanation,
            citations,
            facts: statement.facts,
            raised_wall_ns: tick.at.wall_ns,
            pod: statement.pod,
        };
        Self { finding, said_ns: Some(tick.at.boot_ns) }
    }

    /// Says whose it is.
    pub(super) fn of(mut self, pod: Option<dogwatch::record::Pod>) -> Self {
        self.finding.pod = pod;
        self
    }

    /// Continues what an earlier run raised.
    pub(super) fn resume(finding: Finding) -> Self {
        Self { finding, said_ns: None }
    }

    /// What was last said.
    pub(super) fn finding(&self) -> &Finding {
        &self.finding
    }

    /// Whether so much time has passed since the last statement. For a resumed one none has been made: it is due.
    pub(super) fn is_due(&self, now: Moment, interval: Duration) -> bool {
        self.said_ns.is_none_or(|said| u128::from(now.boot_ns.saturating_sub(said)) >= interval.as_nanos())
    }

    /// Says it anew. The severity never falls: how bad it was is part of the story, and it ends when cleared.
    pub(super) fn update(&mut self, tick: Tick<'_>, statement: Statement) -> Finding {
        let f = &mut self.finding;
        f.state = FindingState::Updated;
        f.severity = f.severity.max(statement.severity);
        f.summary = statement.summary;
        f.explanation = statement.explanation;
        f.facts = with_lasting(f, statement.facts);
        if statement.pod.is_some() {
            f.pod = statement.pod;
        }
        for record in &statement.since {
            self.cite(record);
        }
        self.cite(tick.cite);
        self.said_ns = Some(tick.at.boot_ns);
        self.finding.clone()
    }

    /// Ends it.
    pub(super) fn clear(mut self, tick: Tick<'_>, summary: String, why: String, facts: Vec<Fact>) -> Finding {
        self.cite(tick.cite);
        let f = self.finding;
        let facts = with_lasting(&f, facts);
        Finding { state: FindingState::Cleared, summary, explanation: why, facts, ..f }
    }

    /// The first citations stay, of the later ones the latest.
    fn cite(&mut self, record: &RecordRef) {
        let citations = &mut self.finding.citations;
        if citations.contains(record) {
            return;
        }
        if citations.len() >= MAX_CITATIONS {
            citations.remove(MAX_CITATIONS / 2);
        }
        citations.push(record.clone());
    }
}
