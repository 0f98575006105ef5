//! Rows as messages: how what the store holds looks on the wire to the desk.

use std::collections::HashMap;

use dogwatch::record::{Action, Body, FileSeen, Finding, LogLine, NodeName, Record, Sample, Severity};
use dogwatch::wire;

use crate::incident::Incident;
use crate::select;
use crate::store::decision::Piece;
use crate::store::row::{ActionRow, FindingRow};
use crate::timeline;
use crate::wording;

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
        acknowledged_by: i.acknowledged_by().unwrap_or_default().to_owned(),
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

/// One record as an event: what it says in one line, and its figures. The names of fields are a contract: they are only
/// ever added to.
pub(super) fn event_message(node: &NodeName, record: &Record) -> wire::Event {
    let mut fields = Fields::default();
    match &record.body {
        Body::Sample(s) => fields.of_sample(s),
        Body::Log(l) => fields.of_line(l),
        Body::Finding(f) => fields.of_finding(f),
        Body::Action(a) => fields.of_action(a),
        Body::Gap(g) => {
            fields.set("stream", g.stream);
            fields.some("count", g.count);
            fields.some("after_seq", g.after_seq);
            fields.some("before_seq", g.before_seq);
            fields.set("from_wall_ns", g.from_wall_ns);
            fields.set("to_wall_ns", g.to_wall_ns);
        }
        Body::Note(_) => {}
        Body::File(f) => fields.of_file(f),
    }
    wire::Event {
        wall_ns: record.at.wall_ns,
        node: node.to_string(),
        kind: record.body.kind().as_str().to_owned(),
        severity: severity(wording::severity(record)),
        source: wording::source(record).into_owned(),
        message: wording::message(record).into_owned(),
        fields: fields.0,
    }
}

/// Figures by name.
#[derive(Default)]
struct Fields(HashMap<String, String>);

impl Fields {
    fn set(&mut self, key: &str, value: impl ToString) {
        self.0.insert(key.to_owned(), value.to_string());
    }

    fn some(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Where it is not empty.
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.set(key, value);
        }
    }

    fn of_sample(&mut self, s: &Sample) {
        for m in &s.mounts {
            self.set(&format!("available_bytes.{}", m.path), m.available_bytes);
            self.set(
                &format!("available_percent.{}", m.path),
                format!("{:.1}", m.available_fraction() * 100.0),
            );
        }
        if let Some(m) = &s.memory {
            self.set("memory_available_bytes", m.available_bytes);
            self.set("memory_total_bytes", m.total_bytes);
            self.set("swap_used_bytes", m.swap_total_bytes.saturating_sub(m.swap_free_bytes));
            self.some("memory_pressure_percent", m.pressure.map(|p| p.some_avg10));
        }
        if let Some(c) = &s.cpu {
            self.set("cpus", c.online);
            self.set("load1", c.load1);
            self.some("cpu_pressure_percent", c.pressure.map(|p| p.some_avg10));
            self.some("io_pressure_percent", c.io_pressure.map(|p| p.some_avg10));
        }
        if let Some(t) = &s.tasks {
            self.set("processes", t.processes);
            self.set("zombies", t.zombies);
        }
        if !s.failed.is_empty() {
            self.set("failed", s.failed.join("; "));
        }
    }

    fn of_line(&mut self, l: &LogLine) {
        self.set("path", &l.source);
        self.set("offset", l.offset);
        self.text("rules", &l.rules.join(","));
        if let Some((namespace, pod, container)) = select::pod_names_of_line(l) {
            self.text("namespace", namespace);
            self.text("pod", pod);
            self.text("container", container);
        }
        if let Some(pod) = &l.pod {
            self.text("pod_uid", &pod.uid);
            self.text("container_id", &pod.container_id);
        }
        self.text("output", &l.output);
        self.some("priority", l.priority);
        self.some("written_wall_ns", l.written_wall_ns);
        if l.truncated {
            self.set("truncated", true);
        }
    }

    fn of_finding(&mut self, f: &Finding) {
        // Facts first: what a fact is called must not hide what the finding is.
        for fact in &f.facts {
            self.set(&fact.key, &fact.value);
        }
        self.set("finding", &f.id);
        self.set("rule", &f.rule);
        self.set("state", f.state.as_str());
        if let Some(pod) = &f.pod {
            self.text("namespace", &pod.namespace);
            self.text("pod", &pod.name);
            self.text("container", &pod.container);
        }
    }

    fn of_file(&mut self, f: &FileSeen) {
        self.set("cause", &f.cause);
        if let Some(c) = &f.content {
            self.set("path", c.path.display());
            self.set("device", c.device);
            self.set("inode", c.inode);
            self.set("offset", c.offset);
            self.set("length", c.length);
            self.set("size_bytes", c.size_bytes);
        } else {
            self.set("objects", f.objects.len());
            f.digests().for_each(|(key, digest)| self.set(&key, digest));
        }
    }

    fn of_action(&mut self, a: &Action) {
        self.set("action", &a.id);
        self.set("state", a.state.as_str());
        self.set("mount", &a.mount);
        self.set("actor", &a.actor);
        self.some("finding", a.finding_id.as_deref());
        self.set("planned_bytes", a.planned_bytes);
        self.some("freed_bytes", a.freed_bytes);
        self.some("available_before_bytes", a.available_before_bytes);
        self.some("available_after_bytes", a.available_after_bytes);
        self.set("objects", a.objects.len());
        self.set("refused", a.refused.len());
        let whole: Vec<&str> =
            a.refused.iter().filter(|r| r.path.is_none()).map(|r| r.reason.as_str()).collect();
        self.text("refused_because", &whole.join("; "));
        self.text("detail", &a.detail);
    }
}
