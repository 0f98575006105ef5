//! Rows as messages: how what the store holds looks on the wire to the desk.

use dogwatch::record::{Body, NodeName, Record, Severity};
use dogwatch::wire;

use crate::incident::Incident;
use crate::store::decision::Piece;
use crate::store::row::{ActionRow, FindingRow};
use crate::timeline;

pub(super) fn piece_words(piece: &Piece) -> String {
    match piece {
        Piece::Finding(id) => format!("finding {id}"),
        Piece::Action(id) => format!("action {id}"),
    }
}

pub(super) fn mount_row(m: &wire::Mount, forecasts: &[wire::Forecast]) -> wire::MountRow {
    wire::MountRow {
        path: m.path.clone(),
        fs: m.fs.clone(),
        total_bytes: m.total_bytes,
        used_bytes: m.total_bytes.saturating_sub(m.free_bytes),
        available_bytes: m.available_bytes,
        inodes_total: m.inodes_total,
        inodes_free: m.inodes_free,
        read_only: m.read_only,
        seconds_to_full: forecasts.iter().find(|f| f.mount == m.path).map(|f| f.seconds_to_full),
    }
}

pub(super) fn severity(s: Severity) -> i32 {
    wire::Severity::from(s).into()
}

pub(super) fn incident_message(i: &Incident) -> wire::Incident {
    wire::Incident {
        id: i.id.clone(),
        title: i.title.clone(),
        severity: severity(i.severity),
        state: i.state.as_str().to_owned(),
        nodes: i.nodes.iter().map(ToString::to_string).collect(),
        opened_wall_ns: i.opened_wall_ns,
        acknowledged_wall_ns: i.acknowledged_wall_ns.unwrap_or(0),
        resolved_wall_ns: i.resolved_wall_ns.unwrap_or(0),
        reason: i.reason.clone(),
        findings: i.findings().map(str::to_owned).collect(),
        actions: i.actions().map(str::to_owned).collect(),
    }
}

pub(super) fn finding_message(row: &FindingRow, incident: Option<String>) -> wire::FindingRow {
    let newest = row.steps.last().map_or(row.finding.raised_wall_ns, |s| s.wall_ns);
    wire::FindingRow {
        node: row.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        finding: Some((&row.finding).into()),
        updated_wall_ns: newest,
        cleared_wall_ns: row.steps.iter().rev().find(|s| s.state == "cleared").map_or(0, |s| s.wall_ns),
        incident: incident.unwrap_or_default(),
        from_collector: row.from_collector,
        count: row.count,
    }
}

pub(super) fn action_message(row: &ActionRow, incident: Option<String>) -> wire::ActionRow {
    wire::ActionRow {
        node: row.node.to_string(),
        action: Some((&row.action).into()),
        wall_ns: row.steps.last().map_or(0, |s| s.wall_ns),
        incident: incident.unwrap_or_default(),
    }
}

pub(super) fn entry_message(e: &timeline::TimelineEntry) -> wire::TimelineEntry {
    wire::TimelineEntry {
        wall_ns: e.wall_ns,
        node: e.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        kind: e.kind.as_str().to_owned(),
        severity: severity(e.severity),
        summary: e.summary.clone(),
        evidence: e.evidence.iter().map(wire::RecordRef::from).collect(),
        actor: e.actor.clone(),
    }
}

/// One record as an event: what it says in one line, and its figures.
pub(super) fn event_message(node: &NodeName, record: &Record) -> wire::Event {
    let mut fields = std::collections::HashMap::new();
    let mut field = |k: &str, v: String| fields.insert(k.to_owned(), v);
    let (level, source, message) = match &record.body {
        Body::Sample(s) => {
            for m in &s.mounts {
                field(&format!("available_bytes.{}", m.path), m.available_bytes.to_string());
            }
            if let Some(m) = &s.memory {
                field("memory_available_bytes", m.available_bytes.to_string());
            }
            (
                Severity::Info,
                "sampler".to_owned(),
                format!("{} mounts, {} processes", s.mounts.len(), s.processes.len()),
            )
        }
        Body::Log(l) => {
            field("offset", l.offset.to_string());
            if !l.rules.is_empty() {
                field("rules", l.rules.join(","));
            }
            (Severity::Info, l.source.clone(), String::from_utf8_lossy(&l.line).into_owned())
        }
        Body::Finding(f) => {
            field("finding", f.id.clone());
            field("rule", f.rule.clone());
            field("state", f.state.as_str().to_owned());
            for fact in &f.facts {
                field(&fact.key, fact.value.clone());
            }
            (f.severity, f.subject.to_string(), f.summary.clone())
        }
        Body::Action(a) => {
            field("action", a.id.clone());
            field("state", a.state.as_str().to_owned());
            field("planned_bytes", a.planned_bytes.to_string());
            if let Some(freed) = a.freed_bytes {
                field("freed_bytes", freed.to_string());
            }
            (
                Severity::Info,
                format!("mount {}", a.mount),
                format!("cleanup {}: {}", a.state.as_str(), a.reason),
            )
        }
        Body::Gap(g) => {
            field("stream", g.stream.to_string());
            if let Some(n) = g.count {
                field("count", n.to_string());
            }
            (Severity::Low, g.source.clone(), g.reason.clone())
        }
        Body::Note(n) => (Severity::Info, "agent".to_owned(), n.clone()),
    };
    wire::Event {
        wall_ns: record.at.wall_ns,
        node: node.to_string(),
        kind: record.body.kind().as_str().to_owned(),
        severity: severity(level),
        source,
        message,
        fields,
    }
}
