//! From wire messages. Total: what a newer collector says and this program does not know becomes `null`.

use dogwatch::record::{Pod, Sample, Severity};
use dogwatch::wire;

use super::{
    Action, Check, Citation, Cut, Detail, Entry, Event, Finding, Hold, Incident, Mount, News, Node, Object,
    Observed, Refusal, Status, Subject, What,
};
use crate::error::chain;
use crate::time::Utc;

pub(super) fn known(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn severity(number: i32) -> Option<Severity> {
    match wire::Severity::try_from(number).ok()? {
        wire::Severity::Unspecified => None,
        wire::Severity::Info => Some(Severity::Info),
        wire::Severity::Low => Some(Severity::Low),
        wire::Severity::Medium => Some(Severity::Medium),
        wire::Severity::High => Some(Severity::High),
        wire::Severity::Critical => Some(Severity::Critical),
    }
}

fn mode(number: i32) -> Option<&'static str> {
    match wire::CleanupMode::try_from(number).ok()? {
        wire::CleanupMode::Unspecified => None,
        wire::CleanupMode::Off => Some("off"),
        wire::CleanupMode::Plan => Some("plan"),
        wire::CleanupMode::Auto => Some("auto"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Text for people, and the bytes in hex where the text does not say them.
fn path(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(hex(bytes))),
    }
}

impl From<wire::NodeRow> for Node {
    fn from(n: wire::NodeRow) -> Self {
        let memory = n.sample.as_ref().and_then(|s| s.memory.as_ref()).filter(|m| m.total_bytes > 0);
        Self {
            name: n.name,
            state: known(n.state),
            last_seen: Utc::known(n.last_seen_wall_ns),
            agent_version: known(n.agent_version),
            mounts: n.mounts.into_iter().map(Mount::from).collect(),
            mode: mode(n.mode),
            unable: n.unable,
            records_total: (n.records_total > 0).then_some(n.records_total),
            sampled_at: Utc::known(n.sampled_wall_ns),
            memory_total_bytes: memory.map(|m| m.total_bytes),
            memory_available_bytes: memory.map(|m| m.available_bytes),
            load1: n.sample.as_ref().and_then(|s| s.cpu.as_ref()).map(|c| c.load1),
        }
    }
}

impl From<wire::MountRow> for Mount {
    fn from(m: wire::MountRow) -> Self {
        let limited = m.inodes_total > 0;
        // A forecast is made of what is left, and tells nothing once nothing is. A read-only one is not filled by anybody.
        let full = m.available_bytes == 0 && m.total_bytes > 0 && !m.read_only;
        Self {
            path: m.path,
            fs: m.fs,
            total_bytes: m.total_bytes,
            used_bytes: m.used_bytes,
            available_bytes: m.available_bytes,
            inodes_total: limited.then_some(m.inodes_total),
            inodes_free: limited.then_some(m.inodes_free),
            read_only: m.read_only,
            seconds_to_full: if full { Some(0.0) } else { m.seconds_to_full.filter(|s| s.is_finite()) },
        }
    }
}

impl From<wire::Incident> for Incident {
    fn from(i: wire::Incident) -> Self {
        Self {
            id: i.id,
            title: i.title,
            severity: severity(i.severity),
            state: i.state,
            nodes: i.nodes,
            opened_at: Utc::known(i.opened_wall_ns),
            acknowledged_at: Utc::known(i.acknowledged_wall_ns),
            acknowledged_by: known(i.acknowledged_by),
            resolved_at: Utc::known(i.resolved_wall_ns),
            reason: i.reason,
            findings: i.findings,
            actions: i.actions,
        }
    }
}

impl Detail {
    /// `None` when the answer lacks the incident itself.
    pub(crate) fn from_wire(d: wire::IncidentDetail) -> Option<Self> {
        Some(Self {
            incident: d.incident?.into(),
            belongs: d.belongs,
            finding_details: d.findings.into_iter().map(Finding::from).collect(),
            action_details: d.actions.into_iter().map(Action::from).collect(),
            timeline: d.timeline.into_iter().map(Entry::from).collect(),
        })
    }
}

impl From<wire::TimelineEntry> for Entry {
    fn from(e: wire::TimelineEntry) -> Self {
        Self {
            time: Utc(e.wall_ns),
            node: known(e.node),
            kind: e.kind,
            severity: severity(e.severity),
            summary: e.summary,
            evidence: e.evidence.into_iter().map(Citation::from).collect(),
            actor: known(e.actor),
        }
    }
}

impl From<wire::RecordRef> for Citation {
    fn from(r: wire::RecordRef) -> Self {
        let stream = match wire::Stream::try_from(r.stream) {
            Ok(wire::Stream::Urgent) => "urgent",
            Ok(wire::Stream::Evidence) => "evidence",
            Ok(wire::Stream::Recorder) => "recorder",
            Ok(wire::Stream::Unspecified) | Err(_) => "unknown",
        };
        Self { node: r.node, incarnation: hex(&r.incarnation), stream, seq: r.seq }
    }
}

impl From<wire::FindingRow> for Finding {
    fn from(row: wire::FindingRow) -> Self {
        let f = row.finding.unwrap_or_default();
        let state = match wire::FindingState::try_from(f.state) {
            Ok(wire::FindingState::Raised) => Some("raised"),
            Ok(wire::FindingState::Updated) => Some("updated"),
            Ok(wire::FindingState::Cleared) => Some("cleared"),
            Ok(wire::FindingState::Unspecified) | Err(_) => None,
        };
        Self {
            time: Utc::known(row.updated_wall_ns).or(Utc::known(f.raised_wall_ns)),
            id: f.id,
            node: known(row.node),
            rule: f.rule,
            severity: severity(f.severity),
            state,
            subject: f.subject.map(|s| Subject { kind: s.kind, name: s.name }),
            summary: f.summary,
            explanation: f.explanation,
            facts: f.facts.into_iter().map(|f| (f.key, f.value)).collect(),
            citations: f.citations.into_iter().map(Citation::from).collect(),
            raised_at: Utc::known(f.raised_wall_ns),
            cleared_at: Utc::known(row.cleared_wall_ns),
            incident: known(row.incident),
            count: (row.count > 0).then_some(row.count),
            from_collector: row.from_collector,
            pod: f.pod.and_then(|p| Pod::try_from(p).ok()),
        }
    }
}

impl From<wire::ActionRow> for Action {
    fn from(row: wire::ActionRow) -> Self {
        let a = row.action.unwrap_or_default();
        let state = match wire::ActionState::try_from(a.state) {
            Ok(wire::ActionState::Planned) => Some("planned"),
            Ok(wire::ActionState::Started) => Some("started"),
            Ok(wire::ActionState::Done) => Some("done"),
            Ok(wire::ActionState::Failed) => Some("failed"),
            Ok(wire::ActionState::Refused) => Some("refused"),
            Ok(wire::ActionState::Unspecified) | Err(_) => None,
        };
        Self {
            id: a.id,
            time: Utc::known(row.wall_ns),
            node: row.node,
            mount: a.mount,
            mode: mode(a.mode),
            state,
            planned_bytes: a.planned_bytes,
            freed_bytes: a.freed_bytes,
            available_before_bytes: a.available_before_bytes,
            available_after_bytes: a.available_after_bytes,
            unexplained_bytes: a.unexplained_bytes,
            objects: a.objects.into_iter().map(Object::from).collect(),
            refused: a.refused.into_iter().map(Refusal::from).collect(),
            unexplained_reason: known(a.unexplained_reason),
            target_available_bytes: a.target_available_bytes,
            reason: a.reason,
            actor: a.actor,
            finding: known(a.finding_id),
            incident: known(row.incident),
            expires_at: Utc::known(a.expires_wall_ns),
            detail: known(a.detail),
        }
    }
}

impl From<wire::PlannedObject> for Object {
    fn from(o: wire::PlannedObject) -> Self {
        let (path, path_hex) = path(&o.path);
        let outcome = match wire::ObjectOutcome::try_from(o.outcome) {
            Ok(wire::ObjectOutcome::Removed) => "removed",
            Ok(wire::ObjectOutcome::Skipped) => "skipped",
            Ok(wire::ObjectOutcome::Failed) => "failed",
            Ok(wire::ObjectOutcome::Cut) => "cut",
            Ok(wire::ObjectOutcome::Unspecified) => "pending",
            Err(_) => "unknown",
        };
        Self {
            path,
            path_hex,
            size_bytes: o.size_bytes,
            allocated_bytes: o.allocated_bytes,
            modified_at: Utc::known(o.mtime_ns),
            device: o.device,
            inode: o.inode,
            uid: o.uid,
            gid: o.gid,
            links: o.links,
            cleaner: o.cleaner,
            tier: o.tier,
            why_safe: o.why_safe,
            outcome,
            sha256: (!o.sha256.is_empty()).then(|| hex(&o.sha256)),
            digest_partial: o.digest_partial,
            cut: o.cut.map(|c| Cut {
                from: c.from,
                to: c.to,
                tail: String::from_utf8_lossy(&c.tail).into_owned(),
            }),
            accessed_at: o.atime_ns.and_then(Utc::known),
            born_at: o.btime_ns.and_then(Utc::known),
            preserved_bytes: o.preserved_bytes,
        }
    }
}

impl From<wire::Refusal> for Refusal {
    fn from(r: wire::Refusal) -> Self {
        let (text, path_hex) = path(&r.path);
        Self { path: known(text), path_hex, reason: r.reason }
    }
}

impl From<wire::Event> for Event {
    fn from(e: wire::Event) -> Self {
        Self {
            time: Utc(e.wall_ns),
            node: known(e.node),
            kind: e.kind,
            severity: severity(e.severity),
            source: e.source,
            message: e.message,
            fields: e.fields.into_iter().collect(),
        }
    }
}

impl From<wire::Hold> for Hold {
    fn from(h: wire::Hold) -> Self {
        Self {
            id: h.id,
            node: known(h.node),
            path: known(h.path),
            namespace: known(h.namespace),
            pod: known(h.pod),
            incident: known(h.incident),
            reason: h.reason,
            actor: h.actor,
            added_at: Utc::known(h.added_wall_ns),
            released_at: Utc::known(h.released_wall_ns),
            released_by: known(h.released_by),
            confirmed_by: h.confirmed_by,
            absent_on: h.absent_on,
            state: h.state,
            kept_bytes: h.kept_bytes,
            kept_files: h.kept_bytes.map(|_| h.kept_files),
            kept_unknown_nodes: h.kept_unknown,
            lacks: h.lacks,
        }
    }
}

impl From<wire::GetStatusResponse> for Status {
    fn from(s: wire::GetStatusResponse) -> Self {
        Self {
            collector_version: known(s.collector_version),
            started_at: Utc::known(s.started_wall_ns),
            checks: s.checks.into_iter().map(Check::from).collect(),
        }
    }
}

impl From<wire::StatusCheck> for Check {
    fn from(c: wire::StatusCheck) -> Self {
        Self {
            subject: c.subject,
            name: c.name,
            severity: severity(c.severity),
            words: c.words,
            remedy: known(c.remedy),
        }
    }
}

impl News {
    /// `None` for a kind of news that this program does not know.
    pub(crate) fn from_wire(e: wire::WatchEvent) -> Option<Self> {
        use wire::watch_event::What as Told;
        let what = match e.what? {
            Told::Incident(i) => What::Incident(i.into()),
            Told::Finding(f) => What::Finding(f.into()),
            Told::Action(a) => What::Action(a.into()),
            Told::Event(e) => What::Event(e.into()),
            Told::Missed(n) => What::Missed(n),
        };
        Some(Self { time: Utc(e.wall_ns), what })
    }
}

/// A sample by the contract's own conversion, or why it is none.
fn sample(wire: wire::Sample) -> Result<Sample, String> {
    Sample::try_from(wire).map_err(|e| chain(&e))
}

impl From<wire::NodeRow> for Observed {
    fn from(mut row: wire::NodeRow) -> Self {
        let at = row.sampled_wall_ns;
        let read = row.sample.clone().map(sample);
        let (sample, unread) = match read {
            Some(Ok(s)) => (Some((at, s)), None),
            Some(Err(why)) => {
                // Figures of a sample that is refused as a whole are not shown in part either.
                row.sample = None;
                (None, Some(why))
            }
            None => (None, None),
        };
        Self { node: row.into(), sample, unread }
    }
}

/// When it was taken, and the sample; `Err` says why it cannot be read.
pub(crate) fn sampled(row: wire::SampleRow) -> Result<(i64, Sample), String> {
    let at = row.wall_ns;
    sample(row.sample.unwrap_or_default()).map(|s| (at, s))
}
