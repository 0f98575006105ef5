//! Holds, checks and news: how they become rows and lines.

use super::rows::{severity, state};
use super::{Action, Check, Event, Finding, Hold, Incident, News, What};
use crate::output::Listed;
use crate::output::table::{Cell, Column};
use crate::output::text::bytes;
use crate::time::Utc;
use dogwatch::record::Severity;

fn time(t: Option<Utc>) -> Cell {
    Cell::maybe(t.map(Utc::to_the_second))
}

impl Hold {
    /// What is held, in words.
    pub(crate) fn what(&self) -> String {
        match (&self.path, &self.pod, &self.incident, &self.node) {
            (Some(path), ..) => path.clone(),
            (_, Some(pod), ..) => {
                format!("pod {}/{pod}", self.namespace.as_deref().unwrap_or("?"))
            }
            (_, _, Some(incident), _) => format!("incident {incident}"),
            (_, _, _, Some(node)) => format!("node {node}"),
            _ => "?".to_owned(),
        }
    }
}

impl Hold {
    /// What is kept aside for it: `≥` where not every node has said, `?` where none has.
    fn kept(&self) -> Option<String> {
        match self.kept_bytes {
            _ if self.state == "released" => None,
            None => Some("?".to_owned()),
            Some(n) if self.kept_unknown_nodes > 0 => Some(format!("≥{}", bytes(n))),
            Some(n) => Some(bytes(n)),
        }
    }
}

impl Listed for Hold {
    const PLURAL: &'static str = "holds";

    fn columns(wide: bool) -> Vec<Column> {
        let mut c = vec![
            Column::left("ID"),
            Column::left("STATE"),
            Column::flexible("NODE").weak(2),
            Column::flexible("WHAT"),
            Column::left("ADDED").weak(1),
            Column::flexible("BY").weak(3),
            Column::right("KEPT").weak(2),
        ];
        if wide {
            c.extend([
                Column::left("RELEASED").weak(4),
                Column::flexible("RELEASED BY").weak(5),
                Column::flexible("CONFIRMED BY").weak(4),
                Column::right("FILES").weak(5),
                Column::flexible("LACKS").weak(5),
            ]);
        }
        c.push(Column::flexible("REASON"));
        c
    }

    fn rows(&self, wide: bool) -> Vec<Vec<Cell>> {
        let mut r = vec![
            Cell::new(&self.id),
            state(Some(&self.state)),
            Cell::new(self.node.as_deref().unwrap_or("(every)")),
            Cell::new(self.what()),
            time(self.added_at),
            Cell::new(&self.actor),
            Cell::maybe(self.kept()),
        ];
        if wide {
            r.extend([
                time(self.released_at),
                Cell::maybe(self.released_by.as_deref()),
                Cell::maybe(Some(self.confirmed_by.join(","))),
                Cell::maybe(self.kept_files.map(|n| n.to_string())),
                Cell::maybe(Some(self.lacks.join("; "))),
            ]);
        }
        r.push(Cell::new(&self.reason));
        vec![r]
    }

    fn name(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Listed for Check {
    const PLURAL: &'static str = "checks";

    fn columns(_wide: bool) -> Vec<Column> {
        vec![
            Column::left("SEVERITY"),
            Column::flexible("SUBJECT"),
            Column::flexible("CHECK").weak(1),
            Column::flexible("WORDS"),
            Column::flexible("REMEDY"),
        ]
    }

    fn rows(&self, _wide: bool) -> Vec<Vec<Cell>> {
        vec![vec![
            if self.is_well() { state(Some("well")) } else { severity(self.severity) },
            Cell::new(&self.subject),
            Cell::new(&self.name),
            Cell::new(&self.words),
            Cell::maybe(self.remedy.as_deref()),
        ]]
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Incident {
    fn news(&self) -> String {
        format!("{} {}: {}", self.id, self.state, self.title)
    }
}

impl Finding {
    fn news(&self) -> String {
        let pod = self.pod.as_ref().map(|p| format!(" [{}/{}]", p.namespace, p.name)).unwrap_or_default();
        format!("{} {}{pod}: {} ({})", self.rule, self.state.unwrap_or("?"), self.summary, self.id)
    }
}

impl Action {
    fn news(&self) -> String {
        let freed = match (self.state, self.freed_bytes) {
            (_, Some(freed)) => format!(", freed {} of {}", bytes(freed), bytes(self.planned_bytes)),
            _ => format!(", {} planned", bytes(self.planned_bytes)),
        };
        format!(
            "cleanup of {} {}{freed}: {} ({})",
            self.mount,
            self.state.unwrap_or("?"),
            self.why(),
            self.id
        )
    }

    /// What asked for it; where it was refused or failed, why that was.
    pub(crate) fn why(&self) -> String {
        let detail = self.detail.as_deref().filter(|d| !d.is_empty());
        let whole: Vec<&str> =
            self.refused.iter().filter(|r| r.path.is_none()).map(|r| r.reason.as_str()).collect();
        match (self.state, detail) {
            // A plan that names objects and was refused has its refusal's words beside its own.
            (Some("refused"), _) if !whole.is_empty() && (!self.objects.is_empty() || detail.is_none()) => {
                whole.join("; ")
            }
            (Some("refused" | "failed"), Some(detail)) => detail.to_owned(),
            _ => self.reason.clone(),
        }
    }

    fn worth(&self) -> Option<Severity> {
        Some(match self.state {
            Some("failed" | "refused") => Severity::Medium,
            _ => Severity::Info,
        })
    }
}

impl Event {
    /// `namespace/pod/container` of a line, as far as it is known.
    pub(crate) fn pod(&self) -> Option<String> {
        let field = |key: &str| self.fields.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let pod = field("pod")?;
        let mut words = field("namespace").map_or_else(|| pod.to_owned(), |n| format!("{n}/{pod}"));
        if let Some(container) = field("container") {
            words.push('/');
            words.push_str(container);
        }
        Some(words)
    }

    fn news(&self) -> String {
        match self.kind.as_str() {
            "log" => format!("{}: {}", self.pod().unwrap_or_else(|| self.source.clone()), self.message),
            _ => self.message.clone(),
        }
    }
}

impl Listed for News {
    const PLURAL: &'static str = "news";

    fn columns(_wide: bool) -> Vec<Column> {
        vec![
            Column::left("TIME"),
            Column::flexible("NODE"),
            Column::left("SEVERITY"),
            Column::left("KIND").weak(1),
            Column::flexible("WHAT"),
        ]
    }

    fn rows(&self, _wide: bool) -> Vec<Vec<Cell>> {
        let (node, rank, kind, words) = match &self.what {
            What::Incident(i) => (Some(i.nodes.join(",")), i.severity, "incident", i.news()),
            What::Finding(f) => (f.node.clone(), f.severity, "finding", f.news()),
            What::Action(a) => (Some(a.node.clone()), a.worth(), "action", a.news()),
            What::Event(e) => (e.node.clone(), e.severity, e.kind.as_str(), e.news()),
            What::Missed(n) => (None, None, "missed", n.to_string()),
        };
        vec![vec![
            time(Some(self.time)),
            Cell::maybe(node),
            severity(rank),
            Cell::new(kind),
            Cell::new(words),
        ]]
    }

    fn name(&self) -> Option<&str> {
        match &self.what {
            What::Incident(i) => Some(&i.id),
            What::Finding(f) => Some(&f.id),
            What::Action(a) => Some(&a.id),
            What::Event(_) | What::Missed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::wire;

    use super::*;

    fn action(state: wire::ActionState, detail: &str, objects: usize, whole: Option<&str>) -> Action {
        let young =
            wire::Refusal { path: b"/var/log/a.log.1".to_vec().into(), reason: "younger than 1 h".into() };
        let whole = whole.map(|why| wire::Refusal { reason: why.into(), ..wire::Refusal::default() });
        let action = wire::Action {
            state: state.into(),
            reason: "/var is low on space".into(),
            detail: detail.into(),
            objects: vec![wire::PlannedObject::default(); objects],
            refused: std::iter::once(young).chain(whole).collect(),
            ..wire::Action::default()
        };
        wire::ActionRow { action: Some(action), ..wire::ActionRow::default() }.into()
    }

    #[test]
    fn an_action_says_what_asked_for_it_or_why_it_did_not_come_to_pass() {
        use wire::ActionState::{Done, Failed, Planned, Refused};
        let (enough, expired) = ("nothing needs to go: 29.5 MiB are available", "the plan has expired");
        assert_eq!(action(Refused, enough, 0, Some("7 more stay")).why(), enough);
        assert_eq!(action(Refused, "2 objects suffice", 2, Some(expired)).why(), expired);
        assert_eq!(action(Refused, "", 0, Some(expired)).why(), expired);
        assert_eq!(action(Failed, "the executor ended", 2, None).why(), "the executor ended");
        for state in [Planned, Done] {
            assert_eq!(action(state, "2 objects suffice", 2, None).why(), "/var is low on space");
        }
    }
}
