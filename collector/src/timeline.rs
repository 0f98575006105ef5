//! Timelines: an incident told in order — rise, finding, plan, cleanup, recovery, and what people did.
//!
//! A pure function of an incident and the rows of its pieces. Entries stand by wall time; entries of the same moment in
//! the order of cause and effect. Times of findings and actions are the node's, times of states and notes the
//! collector's: where the two clocks disagree, so does the order between them (never that within one finding or
//! action, whose steps are kept in the order in which they were said).
//!
//! An update of a finding is an entry only where its severity changed; figures that merely move are in the finding.
//!
//! Deliberately absent: reading samples or lines (their references are cited), and drawing.

use dogwatch::record::{Action, ActionState, NodeName, RecordRef, Severity, Stream};

use crate::incident::{COLLECTOR, Incident};
use crate::store::decision::Piece;
use crate::store::row::{ActionRow, FindingRow, Step};

/// What an entry tells; orders by cause and effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// Something began to rise: the samples that led to a finding.
    Sample,
    /// A finding was raised, or its severity changed.
    Finding,
    /// A cleanup was planned.
    Plan,
    /// A cleanup began, ended, failed or was refused.
    Cleanup,
    /// A finding's condition is gone.
    Recovered,
    /// The incident was opened, or its state or severity changed.
    State,
    /// Somebody said something.
    Note,
}

impl EntryKind {
    /// The word on the wire and in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Finding => "finding",
            Self::Plan => "plan",
            Self::Cleanup => "cleanup",
            Self::Recovered => "recovered",
            Self::State => "state",
            Self::Note => "note",
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineEntry {
    /// When, wall ns.
    pub wall_ns: i64,
    /// On which node; `None` where it is about the incident as a whole.
    pub node: Option<NodeName>,
    /// What it tells.
    pub kind: EntryKind,
    /// How bad at that moment.
    pub severity: Severity,
    /// In one sentence.
    pub summary: String,
    /// The records that show it.
    pub evidence: Vec<RecordRef>,
    /// Who: `node`, `collector`, or the name in a person's certificate.
    pub actor: String,
}

/// Facts of a finding that say when its rise began, wall ns; the first that is there counts.
const RISE_FACTS: [&str; 2] = ["rise_began_wall_ns", "window_began_wall_ns"];
/// The fact that says how long the trend was watched, in seconds.
const WINDOW_FACT: &str = "window_seconds";
/// The actor of what a node said by itself.
const NODE: &str = "node";

/// Tells `incident`. Rows that do not belong to it are left out, pieces without a row are not told.
pub fn timeline(incident: &Incident, findings: &[FindingRow], actions: &[ActionRow]) -> Vec<TimelineEntry> {
    let mut entries = Vec::new();
    for row in findings {
        let Some(node) = &row.node else { continue };
        if incident.holds(&Piece::Finding(row.finding.id.clone()), node) {
            tell_finding(row, node, &mut entries);
        }
    }
    for row in actions {
        if incident.holds(&Piece::Action(row.action.id.clone()), &row.node) {
            tell_action(row, &mut entries);
        }
    }
    tell_incident(incident, &mut entries);
    // Stable, so that what was said in one order stays in it.
    entries.sort_by_key(|e| (e.wall_ns, e.kind));
    entries
}

fn tell_finding(row: &FindingRow, node: &NodeName, entries: &mut Vec<TimelineEntry>) {
    let finding = &row.finding;
    let actor = if row.from_collector { COLLECTOR } else { NODE };
    let entry = |wall_ns, kind, severity, summary, evidence| TimelineEntry {
        wall_ns,
        node: Some(node.clone()),
        kind,
        severity,
        summary,
        evidence,
        actor: actor.to_owned(),
    };
    // What the kernel wrote before the agent ran was raised when it was written, and recorded later.
    let raised_at = row.steps.first().map_or(finding.raised_wall_ns, |s| match finding.raised_wall_ns {
        raised @ 1.. if s.state == "raised" => s.wall_ns.min(raised),
        _ => s.wall_ns,
    });
    let shown_by = samples_behind(row);
    let began = rise_began(row).filter(|t| *t > 0 && *t <= raised_at);
    if began.is_some() || !shown_by.is_empty() {
        let what = if finding.subject.kind == "log" { "line" } else { "sample" };
        let samples = match shown_by.len() {
            0 => String::new(),
            1 => format!(" (1 {what} shows it)"),
            n => format!(" ({n} {what}s show it)"),
        };
        let summary = match began {
            Some(_) => format!("{} began to rise towards {}{samples}", finding.subject, finding.rule),
            None => format!("{} crossed the bound of {}{samples}", finding.subject, finding.rule),
        };
        entries.push(entry(began.unwrap_or(raised_at), EntryKind::Sample, Severity::Info, summary, shown_by));
    }
    if row.steps.is_empty() {
        let summary = named(&finding.rule, &finding.summary);
        let evidence = finding.citations.clone();
        entries.push(entry(raised_at, EntryKind::Finding, finding.severity, summary, evidence));
    }
    let mut severity = None;
    let mut not_before = i64::MIN;
    for (n, step) in row.steps.iter().enumerate() {
        not_before = not_before.max(if n == 0 { raised_at } else { step.wall_ns });
        if step.state == "cleared" {
            let summary = named(&finding.rule, &step.summary);
            entries.push(entry(
                not_before,
                EntryKind::Recovered,
                Severity::Info,
                summary,
                step.evidence.clone(),
            ));
            severity = None;
        } else if severity != Some(step.severity) {
            let summary = match severity {
                Some(was) => format!("{} ({was} → {})", named(&finding.rule, &step.summary), step.severity),
                None => named(&finding.rule, &step.summary),
            };
            entries.push(entry(
                not_before,
                EntryKind::Finding,
                step.severity,
                summary,
                step.evidence.clone(),
            ));
            severity = Some(step.severity);
        }
    }
}

fn tell_action(row: &ActionRow, entries: &mut Vec<TimelineEntry>) {
    let action = &row.action;
    let mut not_before = i64::MIN;
    for step in &row.steps {
        not_before = not_before.max(step.wall_ns);
        let kind =
            if step.state == ActionState::Planned.as_str() { EntryKind::Plan } else { EntryKind::Cleanup };
        entries.push(TimelineEntry {
            wall_ns: not_before,
            node: Some(row.node.clone()),
            kind,
            severity: step.severity,
            summary: action_words(action, step),
            evidence: step.evidence.clone(),
            actor: action.actor.clone(),
        });
    }
}

/// The outcome's figures are those of the newest state; earlier steps tell what was known then.
fn action_words(action: &Action, step: &Step) -> String {
    let mount = &action.mount;
    let what = match step.state.as_str() {
        "planned" => format!("plan {} for {mount}: free {}", action.id, bytes(action.planned_bytes)),
        "started" => format!("cleanup {} of {mount} began", action.id),
        "done" => return outcome(action),
        state => format!("cleanup {} of {mount} {state}", action.id),
    };
    named(&what, &step.summary)
}

fn outcome(action: &Action) -> String {
    let freed = action.freed_bytes.map_or_else(|| "an unknown amount".to_owned(), bytes);
    let mut words = format!(
        "cleanup {} of {} freed {freed} of {} planned",
        action.id,
        action.mount,
        bytes(action.planned_bytes)
    );
    if let (Some(before), Some(after)) = (action.available_before_bytes, action.available_after_bytes) {
        words.push_str(&format!("; available {} → {}", bytes(before), bytes(after)));
    }
    if let Some(rest) = action.unexplained.as_ref().filter(|u| u.bytes != 0) {
        let sign = if rest.bytes < 0 { "-" } else { "+" };
        words.push_str(&format!("; {sign}{} unexplained", bytes(rest.bytes.unsigned_abs())));
        if !rest.reason.is_empty() {
            words.push_str(&format!(" ({})", rest.reason));
        }
    }
    if !action.refused.is_empty() {
        words.push_str(&format!("; {} left alone", action.refused.len()));
    }
    words
}

fn tell_incident(incident: &Incident, entries: &mut Vec<TimelineEntry>) {
    for said in &incident.log {
        let (kind, summary) = match said.kind.as_str() {
            "note" => (EntryKind::Note, said.text.clone()),
            "opened" => (EntryKind::State, format!("{} opened: {}", incident.id, said.text)),
            "severity" => (EntryKind::State, format!("severity {}", said.text)),
            _ => (EntryKind::State, said.text.clone()),
        };
        entries.push(TimelineEntry {
            wall_ns: said.wall_ns,
            node: None,
            kind,
            severity: Severity::Info,
            summary,
            evidence: Vec::new(),
            actor: said.actor.clone(),
        });
    }
}

/// When the rise behind a finding began, if its facts tell: as a wall time, or as the length of the window that a
/// trend was seen in, which ended when the finding was raised.
fn rise_began(row: &FindingRow) -> Option<i64> {
    if let Some(at) = fact(row, &RISE_FACTS) {
        return at.parse().ok();
    }
    let seconds: f64 = fact(row, &[WINDOW_FACT])?.parse().ok()?;
    let window_ns = seconds.is_finite().then_some((seconds * 1e9) as i64)?;
    row.finding.raised_wall_ns.checked_sub(window_ns)
}

/// The records that a finding cites, without findings themselves: those are in the urgent stream.
fn samples_behind(row: &FindingRow) -> Vec<RecordRef> {
    row.finding.citations.iter().filter(|r| r.stream != Stream::Urgent).cloned().collect()
}

fn fact<'r>(row: &'r FindingRow, keys: &[&str]) -> Option<&'r str> {
    keys.iter().find_map(|key| row.finding.facts.iter().find(|f| f.key == **key)).map(|f| f.value.as_str())
}

fn named(what: &str, text: &str) -> String {
    if text.is_empty() { what.to_owned() } else { format!("{what}: {text}") }
}

/// A size in binary units, as `12.3 GiB`.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{
        CleanupMode, Fact, Finding, FindingState, Incarnation, Refusal, Subject, Unexplained,
    };

    use super::*;
    use crate::store::decision::{Decision, What};

    const S: i64 = 1_000_000_000;
    const T0: i64 = 1_795_227_000 * S;

    fn node() -> NodeName {
        "node-1".parse().unwrap()
    }

    fn record(stream: Stream, seq: u64) -> RecordRef {
        RecordRef { node: node(), incarnation: Incarnation([7; 16]), stream, seq }
    }

    fn step(at_s: i64, state: &str, severity: Severity, summary: &str, seq: u64) -> Step {
        let evidence = vec![record(Stream::Urgent, seq)];
        Step { wall_ns: T0 + at_s * S, state: state.into(), severity, summary: summary.into(), evidence }
    }

    fn incident() -> Incident {
        let said = |at_s, what| Decision { wall_ns: T0 + at_s * S, actor: COLLECTOR.into(), what };
        let id = || "inc-2026-11-21-001".to_owned();
        let mut incident = Incident::open(&said(
            60,
            What::IncidentOpened {
                id: id(),
                title: "disk /var filling on node-1".into(),
                severity: Severity::High,
                node: node(),
                topic: "disk:/var".into(),
                reason: "disk-high-water was raised".into(),
            },
        ))
        .unwrap();
        for piece in [Piece::Finding("f-1".into()), Piece::Action("a-1".into())] {
            let joined = What::IncidentJoined { id: id(), piece, node: node(), reason: "r".into() };
            assert!(incident.apply(&said(60, joined)));
        }
        let note = incident.note("alice", "logrotate was off", T0 + 90 * S).unwrap();
        assert!(incident.apply(&note));
        let state = crate::incident::IncidentState::Resolved;
        let resolved = What::IncidentMoved { id: id(), state, reason: "quiet".into() };
        assert!(incident.apply(&said(400, resolved)));
        incident
    }

    fn finding() -> FindingRow {
        FindingRow {
            node: Some(node()),
            finding: Finding {
                id: "f-1".into(),
                rule: "disk-high-water".into(),
                severity: Severity::Critical,
                state: FindingState::Cleared,
                subject: Subject::new("mount", "/var"),
                summary: "91 % used".into(),
                explanation: String::new(),
                citations: vec![record(Stream::Evidence, 4), record(Stream::Evidence, 5)],
                facts: vec![Fact::new("rise_began_wall_ns", T0)],
                raised_wall_ns: T0 + 60 * S,
                pod: None,
            },
            from_collector: false,
            count: 1,
            steps: vec![
                step(60, "raised", Severity::High, "91 % used", 1),
                step(61, "updated", Severity::High, "92 % used", 2),
                step(62, "updated", Severity::Critical, "96 % used", 3),
                step(70, "cleared", Severity::Info, "60 % used", 7),
            ],
        }
    }

    fn action() -> ActionRow {
        ActionRow {
            node: node(),
            action: Action {
                id: "a-1".into(),
                mount: "/var".into(),
                mode: CleanupMode::Auto,
                state: ActionState::Done,
                reason: String::new(),
                finding_id: Some("f-1".into()),
                actor: "node".into(),
                planned_bytes: 13 << 30,
                freed_bytes: Some(12 << 30),
                available_before_bytes: Some(1 << 30),
                available_after_bytes: Some(13 << 30),
                unexplained: Some(Unexplained { bytes: -4096, reason: "other writers".into() }),
                target_available_bytes: 0,
                objects: vec![],
                refused: vec![Refusal { path: None, reason: "held".into() }],
                expires_wall_ns: 0,
                image_store: None,
                detail: String::new(),
            },
            steps: vec![
                step(60, "planned", Severity::Info, "", 4),
                step(63, "started", Severity::Info, "", 5),
                step(70, "done", Severity::Info, "", 6),
            ],
        }
    }

    fn lines(entries: &[TimelineEntry]) -> Vec<String> {
        entries
            .iter()
            .map(|e| {
                let at = (e.wall_ns - T0) / S;
                format!("{at} {} {} {} {}", e.kind.as_str(), e.severity, e.actor, e.summary)
            })
            .collect()
    }

    #[test]
    fn it_tells_rise_finding_plan_cleanup_and_recovery_in_this_order() {
        let told = timeline(&incident(), &[finding()], &[action()]);
        assert_eq!(
            lines(&told),
            [
                "0 sample info node mount /var began to rise towards disk-high-water (2 samples show it)",
                "60 finding high node disk-high-water: 91 % used",
                "60 plan info node plan a-1 for /var: free 13.0 GiB",
                "60 state info collector inc-2026-11-21-001 opened: disk-high-water was raised",
                "62 finding critical node disk-high-water: 96 % used (high → critical)",
                "63 cleanup info node cleanup a-1 of /var began",
                "70 cleanup info node cleanup a-1 of /var freed 12.0 GiB of 13.0 GiB planned; available 1.0 GiB → \
                 13.0 GiB; -4.0 KiB unexplained (other writers); 1 left alone",
                "70 recovered info node disk-high-water: 60 % used",
                "90 note info alice logrotate was off",
                "400 state info collector resolved: quiet",
            ]
        );
        assert_eq!(told[0].evidence, [record(Stream::Evidence, 4), record(Stream::Evidence, 5)]);
        assert_eq!(told[1].evidence, [record(Stream::Urgent, 1)]);
    }

    #[test]
    fn without_a_known_beginning_the_rise_stands_just_before_its_finding() {
        let mut row = finding();
        row.finding.facts.clear();
        let told = lines(&timeline(&incident(), &[row.clone()], &[]));
        assert!(told[0].starts_with("60 sample") && told[0].contains("crossed the bound"), "{told:?}");
        assert!(told[1].starts_with("60 finding"));
        row.finding.facts = vec![Fact::new("window_seconds", 45)];
        assert!(lines(&timeline(&incident(), &[row.clone()], &[]))[0].starts_with("15 sample"), "its window");
        row.finding.facts = vec![Fact::new("rise_began_wall_ns", T0 + 3_600 * S)];
        assert!(
            lines(&timeline(&incident(), &[row.clone()], &[]))[0].starts_with("60 sample"),
            "not after it"
        );
        row.finding.citations.clear();
        row.finding.facts.clear();
        assert!(
            lines(&timeline(&incident(), &[row], &[]))[0].starts_with("60 finding"),
            "nothing cited, no rise"
        );
    }

    #[test]
    fn what_was_recorded_later_than_it_happened_stands_where_it_happened() {
        let mut row = finding();
        row.finding.raised_wall_ns = T0 + 20 * S;
        (row.finding.facts, row.finding.citations) = (Vec::new(), Vec::new());
        let told = lines(&timeline(&incident(), &[row.clone()], &[]));
        assert!(told[0].starts_with("20 finding") && told[2].starts_with("62 finding"), "{told:?}");
        row.finding.raised_wall_ns = T0 + 3_600 * S;
        assert!(lines(&timeline(&incident(), &[row], &[]))[0].starts_with("60 finding"), "never later");
    }

    #[test]
    fn rows_of_other_incidents_and_clocks_that_jump_back_do_not_confuse_it() {
        let mut foreign = finding();
        foreign.node = Some("node-2".parse().unwrap());
        let mut jumped = finding();
        jumped.steps[3].wall_ns = T0 - 86_400 * S;
        let told = timeline(&incident(), &[foreign, jumped], &[]);
        let kinds: Vec<_> = told.iter().map(|e| e.kind).collect();
        use EntryKind::{Finding as F, Note, Recovered, Sample, State};
        assert_eq!(kinds, [Sample, F, State, F, Recovered, Note, State]);
    }
}
