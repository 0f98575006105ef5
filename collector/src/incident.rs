//! Incidents: findings and actions that belong to one story, and the states it goes through.
//!
//! An [`Incident`] is a fold over [`Decision`]s and nothing else: [`Incident::open`] and [`Incident::apply`] read no
//! clock and are total, so a journal replayed gives the same incidents. What a person wishes becomes a decision here
//! ([`Incident::acknowledge`] and its kin) or is [`Refused`] with the reason.
//!
//! Deliberately absent: which finding belongs where (`correlate`), who may ask (`admit`), where it is kept (`store`).

use std::fmt;

use dogwatch::record::{NodeName, Severity};
use serde::{Deserialize, Serialize};

use crate::store::decision::{Decision, Piece, What};

/// Where an incident is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IncidentState {
    /// Nobody has taken it yet.
    Open,
    /// Somebody has.
    Acknowledged,
    /// Over: by a person, or because its condition has been gone for a while.
    Resolved,
}

impl IncidentState {
    /// The word in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }
}

impl fmt::Display for IncidentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An incident as it stands: a fold over its decisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// `inc-YYYY-MM-DD-NNN`, by the UTC day on which it was opened.
    pub id: String,
    /// One line.
    pub title: String,
    /// How bad, at its worst so far unless a person set it.
    pub severity: Severity,
    /// Where in its life.
    pub state: IncidentState,
    /// Nodes in it, in order of joining.
    pub nodes: Vec<NodeName>,
    /// What its findings share, e.g. `disk:/var`.
    pub topic: String,
    /// What the title says before what else has come to it; empty while nothing has.
    #[serde(default)]
    pub lead: String,
    /// What else it has come to be about, in order of joining: `mount /data`, `pod shop/api-1`.
    #[serde(default)]
    pub about: Vec<String>,
    /// Why it was opened.
    pub reason: String,
    /// Wall ns of the collector.
    pub opened_wall_ns: i64,
    /// When it was first acknowledged.
    pub acknowledged_wall_ns: Option<i64>,
    /// When it was resolved, if it is.
    pub resolved_wall_ns: Option<i64>,
    /// What belongs to it and why, in order of joining.
    pub pieces: Vec<Joined>,
    /// What people and the collector said and did, in order.
    pub log: Vec<LogEntry>,
}

/// A piece and why it belongs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// What.
    pub piece: Piece,
    /// Of which node.
    pub node: NodeName,
    /// Why.
    pub reason: String,
    /// When, wall ns of the collector.
    pub wall_ns: i64,
}

/// One entry of an incident's own log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Wall ns of the collector.
    pub wall_ns: i64,
    /// Who.
    pub actor: String,
    /// `opened`, `severity`, `state`, `note`.
    pub kind: String,
    /// In words.
    pub text: String,
}

/// The actor of everything that the collector decides by itself.
pub const COLLECTOR: &str = "collector";
/// Most pieces of one incident; what comes later goes to an incident that continues it.
pub const MAX_PIECES: usize = 1_000;
/// Most entries of an incident's own log. Beyond it notes are refused and transitions take effect unlogged (they are
/// still in the collector's journal).
pub const MAX_LOG: usize = 4_000;
/// Longest text that a person can say at once, in bytes.
pub const MAX_TEXT_BYTES: usize = 4_096;

/// Why a person's wish for an incident was not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody has it already.
    #[error("{id} is acknowledged already, by {by} at {at}; add a note to tell them that you are here too")]
    AlreadyAcknowledged {
        /// Which.
        id: String,
        /// Who has it.
        by: String,
        /// Since when, RFC 3339.
        at: String,
    },
    /// It is over.
    #[error(
        "{id} was resolved by {by} at {at}, so it cannot be {wish}; add a note; it opens again by itself if its findings come back"
    )]
    Resolved {
        /// Which.
        id: String,
        /// Who or what resolved it.
        by: String,
        /// When, RFC 3339.
        at: String,
        /// What was asked for.
        wish: &'static str,
    },
    /// It is not over, so it cannot be opened again.
    #[error("{id} is {state}, not resolved; there is nothing to reopen")]
    NotResolved {
        /// Which.
        id: String,
        /// What it is.
        state: IncidentState,
    },
    /// It has that severity already.
    #[error("{id} has severity {severity} already")]
    SameSeverity {
        /// Which.
        id: String,
        /// Which severity.
        severity: Severity,
    },
    /// A note that says nothing.
    #[error("a note on {id} needs words; give it a text")]
    Empty {
        /// Which.
        id: String,
    },
    /// More words than an incident takes at once.
    #[error("the text for {id} has {bytes} bytes, the limit is {MAX_TEXT_BYTES}; shorten it or link to it")]
    TooLong {
        /// Which.
        id: String,
        /// How many.
        bytes: usize,
    },
    /// The log is full.
    #[error("{id} holds {MAX_LOG} log entries, which is the limit; continue in your own records")]
    LogFull {
        /// Which.
        id: String,
    },
}

impl Incident {
    /// The incident that `decision` opens, if it opens one. Its pieces come with later decisions.
    pub fn open(decision: &Decision) -> Option<Self> {
        let What::IncidentOpened { id, title, severity, node, topic, reason } = &decision.what else {
            return None;
        };
        Some(Self {
            id: id.clone(),
            title: title.clone(),
            severity: *severity,
            state: IncidentState::Open,
            nodes: vec![node.clone()],
            topic: topic.clone(),
            lead: String::new(),
            about: Vec::new(),
            reason: reason.clone(),
            opened_wall_ns: decision.wall_ns,
            acknowledged_wall_ns: None,
            resolved_wall_ns: None,
            pieces: Vec::new(),
            log: vec![LogEntry {
                wall_ns: decision.wall_ns,
                actor: decision.actor.clone(),
                kind: "opened".to_owned(),
                text: reason.clone(),
            }],
        })
    }

    /// Folds `decision` in; says whether anything changed. Total: a decision about something else, one that was folded
    /// in before, and a transition that cannot be are ignored, so that any replay of a journal gives an incident.
    pub fn apply(&mut self, decision: &Decision) -> bool {
        match &decision.what {
            What::IncidentJoined { id, piece, node, reason } if *id == self.id => {
                if self.pieces.len() >= MAX_PIECES || self.holds(piece, node) {
                    return false;
                }
                self.pieces.push(Joined {
                    piece: piece.clone(),
                    node: node.clone(),
                    reason: reason.clone(),
                    wall_ns: decision.wall_ns,
                });
                if !self.nodes.contains(node) {
                    self.nodes.push(node.clone());
                }
                true
            }
            What::IncidentSeverity { id, severity, reason } if *id == self.id => {
                if *severity == self.severity {
                    return false;
                }
                let text = worded(&format!("{} → {severity}", self.severity), reason);
                self.severity = *severity;
                self.say(decision, "severity", text);
                true
            }
            What::IncidentMoved { id, state, reason } if *id == self.id => {
                self.step(decision, *state, reason)
            }
            What::IncidentRetitled { id, title, lead, topic, subject } if *id == self.id => {
                let known = match subject {
                    Some(subject) => self.about.contains(subject),
                    None => self.topic == *topic,
                };
                if known || self.about.len() >= MAX_PIECES {
                    return false;
                }
                self.about.extend(subject.clone());
                (self.title, self.lead, self.topic) = (title.clone(), lead.clone(), topic.clone());
                true
            }
            What::NoteAdded { id, text } if *id == self.id => {
                self.say(decision, "note", text.clone());
                true
            }
            _ => false,
        }
    }

    /// Whether `piece` of `node` belongs to it.
    pub fn holds(&self, piece: &Piece, node: &NodeName) -> bool {
        self.pieces.iter().any(|j| j.piece == *piece && j.node == *node)
    }

    /// Who acknowledged it first, the time of which is [`Incident::acknowledged_wall_ns`].
    pub fn acknowledged_by(&self) -> Option<&str> {
        let at = self.acknowledged_wall_ns?;
        let word = IncidentState::Acknowledged.as_str();
        let says = |e: &&LogEntry| e.wall_ns == at && e.kind == "state" && e.text.starts_with(word);
        self.log.iter().find(says).map(|e| e.actor.as_str())
    }

    /// Ids of its findings, in order of joining.
    pub fn findings(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|j| match &j.piece {
            Piece::Finding(id) => Some(id.as_str()),
            Piece::Action(_) => None,
        })
    }

    /// Ids of its actions, in order of joining.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|j| match &j.piece {
            Piece::Action(id) => Some(id.as_str()),
            Piece::Finding(_) => None,
        })
    }

    /// `actor` takes it. Refused when somebody has, or when it is over.
    pub fn acknowledge(&self, actor: &str, text: &str, now_ns: i64) -> Result<Decision, Refused> {
        match self.state {
            IncidentState::Acknowledged => {
                let (by, at) = self.moved_last();
                Err(Refused::AlreadyAcknowledged { id: self.id.clone(), by, at })
            }
            IncidentState::Resolved => Err(self.over("acknowledged")),
            IncidentState::Open => self.moved(actor, IncidentState::Acknowledged, text, now_ns),
        }
    }

    /// `actor` says that it is over. Refused when it is already.
    pub fn resolve(&self, actor: &str, text: &str, now_ns: i64) -> Result<Decision, Refused> {
        match self.state {
            IncidentState::Resolved => Err(self.over("resolved again")),
            _ => self.moved(actor, IncidentState::Resolved, text, now_ns),
        }
    }

    /// `actor` says that it is not over. The collector does not resolve it again by itself until one of its findings
    /// has come and gone.
    pub fn reopen(&self, actor: &str, text: &str, now_ns: i64) -> Result<Decision, Refused> {
        match self.state {
            IncidentState::Resolved => self.moved(actor, IncidentState::Open, text, now_ns),
            state => Err(Refused::NotResolved { id: self.id.clone(), state }),
        }
    }

    /// `actor` says something. Allowed in every state: the post-mortem comes after the end.
    pub fn note(&self, actor: &str, text: &str, now_ns: i64) -> Result<Decision, Refused> {
        let text = self.checked(text)?;
        if text.is_empty() {
            return Err(Refused::Empty { id: self.id.clone() });
        }
        if self.log.len() >= MAX_LOG {
            return Err(Refused::LogFull { id: self.id.clone() });
        }
        Ok(by(actor, now_ns, What::NoteAdded { id: self.id.clone(), text: text.to_owned() }))
    }

    /// `actor` sets its severity, up or down.
    pub fn set_severity(
        &self,
        actor: &str,
        severity: Severity,
        text: &str,
        now_ns: i64,
    ) -> Result<Decision, Refused> {
        let text = self.checked(text)?;
        if severity == self.severity {
            return Err(Refused::SameSeverity { id: self.id.clone(), severity });
        }
        let reason = if text.is_empty() { format!("set by {actor}") } else { text.to_owned() };
        Ok(by(actor, now_ns, What::IncidentSeverity { id: self.id.clone(), severity, reason }))
    }

    /// When a person reopened it, if that is how it came to be open.
    pub(crate) fn reopened_by_person(&self) -> Option<i64> {
        if self.state != IncidentState::Open {
            return None;
        }
        let last = self.log.iter().rev().find(|e| e.kind == "state")?;
        (last.actor != COLLECTOR).then_some(last.wall_ns)
    }

    fn step(&mut self, decision: &Decision, to: IncidentState, reason: &str) -> bool {
        use IncidentState::{Acknowledged, Open, Resolved};
        match (self.state, to) {
            (Open, Acknowledged) => {
                self.acknowledged_wall_ns.get_or_insert(decision.wall_ns);
            }
            (Open | Acknowledged, Resolved) => self.resolved_wall_ns = Some(decision.wall_ns),
            (Resolved, Open) => self.resolved_wall_ns = None,
            _ => return false,
        }
        let word = if to == Open { "reopened" } else { to.as_str() };
        self.state = to;
        self.say(decision, "state", worded(word, reason));
        true
    }

    fn say(&mut self, decision: &Decision, kind: &str, text: String) {
        if self.log.len() < MAX_LOG {
            self.log.push(LogEntry {
                wall_ns: decision.wall_ns,
                actor: decision.actor.clone(),
                kind: kind.to_owned(),
                text,
            });
        }
    }

    fn moved(&self, actor: &str, state: IncidentState, text: &str, now_ns: i64) -> Result<Decision, Refused> {
        let reason = self.checked(text)?.to_owned();
        Ok(by(actor, now_ns, What::IncidentMoved { id: self.id.clone(), state, reason }))
    }

    fn over(&self, wish: &'static str) -> Refused {
        let (by, at) = self.moved_last();
        Refused::Resolved { id: self.id.clone(), by, at, wish }
    }

    /// Who moved it to the state that it is in, and when.
    fn moved_last(&self) -> (String, String) {
        let entry = self.log.iter().rev().find(|e| e.kind == "state").or(self.log.last());
        let actor = entry.map_or_else(|| COLLECTOR.to_owned(), |e| e.actor.clone());
        (actor, utc(entry.map_or(self.opened_wall_ns, |e| e.wall_ns)))
    }

    fn checked<'t>(&self, text: &'t str) -> Result<&'t str, Refused> {
        let text = text.trim();
        if text.len() > MAX_TEXT_BYTES {
            return Err(Refused::TooLong { id: self.id.clone(), bytes: text.len() });
        }
        Ok(text)
    }
}

fn by(actor: &str, wall_ns: i64, what: What) -> Decision {
    Decision { wall_ns, actor: actor.to_owned(), what }
}

fn worded(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}

/// RFC 3339 in UTC, to the second.
fn utc(wall_ns: i64) -> String {
    jiff::Timestamp::from_second(wall_ns.div_euclid(1_000_000_000))
        .map_or_else(|_| format!("{wall_ns} ns"), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;
    const T0: i64 = 1_795_227_000 * S;

    fn opened() -> Incident {
        Incident::open(&by(
            COLLECTOR,
            T0,
            What::IncidentOpened {
                id: "inc-2026-11-21-001".into(),
                title: "disk /var filling on node-1".into(),
                severity: Severity::High,
                node: "node-1".parse().unwrap(),
                topic: "disk:/var".into(),
                reason: "disk-high-water".into(),
            },
        ))
        .unwrap()
    }

    fn joined(piece: Piece) -> Decision {
        let node = "node-1".parse().unwrap();
        by(COLLECTOR, T0, What::IncidentJoined { id: opened().id, piece, node, reason: "r".into() })
    }

    #[test]
    fn a_person_takes_it_ends_it_and_brings_it_back() {
        let mut i = opened();
        assert!(i.apply(&i.acknowledge("alice", "mine", T0 + S).unwrap()));
        assert_eq!((i.state, i.acknowledged_wall_ns), (IncidentState::Acknowledged, Some(T0 + S)));
        let twice = i.acknowledge("bob", "", T0 + 2 * S).unwrap_err().to_string();
        assert!(twice.contains("by alice at 2026-11-21T"), "{twice}");

        assert!(i.apply(&i.resolve("alice", "", T0 + 3 * S).unwrap()));
        assert_eq!(i.resolved_wall_ns, Some(T0 + 3 * S));
        let late = i.acknowledge("bob", "", T0 + 4 * S).unwrap_err().to_string();
        assert!(late.contains("was resolved by alice") && late.contains("cannot be acknowledged"), "{late}");
        assert!(matches!(i.resolve("bob", "", 0), Err(Refused::Resolved { .. })));

        assert!(i.apply(&i.note("bob", " root cause: logrotate ", T0 + 5 * S).unwrap()));
        assert!(i.apply(&i.reopen("bob", "not over", T0 + 6 * S).unwrap()));
        assert_eq!((i.state, i.resolved_wall_ns), (IncidentState::Open, None));
        assert_eq!(i.acknowledged_wall_ns, Some(T0 + S), "the first acknowledgement stays");
        assert_eq!(i.reopened_by_person(), Some(T0 + 6 * S));
        assert!(matches!(i.reopen("bob", "", 0), Err(Refused::NotResolved { .. })));

        let told: Vec<_> = i.log.iter().map(|e| format!("{} {} {}", e.actor, e.kind, e.text)).collect();
        assert_eq!(
            told,
            [
                "collector opened disk-high-water",
                "alice state acknowledged: mine",
                "alice state resolved",
                "bob note root cause: logrotate",
                "bob state reopened: not over",
            ]
        );
    }

    #[test]
    fn who_acknowledged_it_first_is_told_also_after_another_did() {
        let mut i = opened();
        assert!(i.apply(&i.note("bob", "acknowledged: no", T0 + S).unwrap()));
        assert_eq!(i.acknowledged_by(), None);
        assert!(i.apply(&i.acknowledge("alice", "mine", T0 + S).unwrap()));
        assert!(i.apply(&i.resolve("alice", "", T0 + 2 * S).unwrap()));
        assert!(i.apply(&i.reopen("bob", "", T0 + 3 * S).unwrap()));
        assert!(i.apply(&i.acknowledge("bob", "", T0 + 4 * S).unwrap()));
        assert_eq!((i.acknowledged_by(), i.acknowledged_wall_ns), (Some("alice"), Some(T0 + S)));
    }

    #[test]
    fn replaying_a_decision_twice_changes_nothing() {
        let mut i = opened();
        let d = joined(Piece::Finding("f-1".into()));
        assert!(i.apply(&d));
        let ack = i.acknowledge("alice", "", T0 + S).unwrap();
        let worse = i.set_severity("alice", Severity::Critical, "", T0 + S).unwrap();
        assert!(i.apply(&ack) && i.apply(&worse));
        let once = i.clone();
        assert!(!i.apply(&d) && !i.apply(&ack) && !i.apply(&worse));
        assert_eq!(i, once);
        assert_eq!(i.findings().collect::<Vec<_>>(), ["f-1"]);
    }

    #[test]
    fn impossible_and_foreign_decisions_are_ignored() {
        let mut i = opened();
        let before = i.clone();
        let mut other = i.clone();
        other.id = "inc-2026-11-21-002".into();
        assert!(!i.apply(&other.acknowledge("alice", "", T0).unwrap()));
        let moved =
            |state| What::IncidentMoved { id: "inc-2026-11-21-001".into(), state, reason: String::new() };
        assert!(!i.apply(&by("alice", T0, moved(IncidentState::Open))));
        assert_eq!(i, before);
        i.apply(&by("alice", T0, moved(IncidentState::Resolved)));
        assert!(!i.apply(&by("alice", T0, moved(IncidentState::Acknowledged))));
        assert_eq!(i.state, IncidentState::Resolved);
    }

    #[test]
    fn words_are_bounded_and_needed() {
        let mut i = opened();
        assert!(matches!(i.note("a", "  ", 0), Err(Refused::Empty { .. })));
        assert!(matches!(
            i.resolve("a", &"x".repeat(MAX_TEXT_BYTES + 1), 0),
            Err(Refused::TooLong { bytes: 4097, .. })
        ));
        assert!(matches!(i.set_severity("a", Severity::High, "", 0), Err(Refused::SameSeverity { .. })));
        for n in 0..MAX_PIECES + 3 {
            i.apply(&joined(Piece::Action(format!("a-{n}"))));
        }
        assert_eq!(i.pieces.len(), MAX_PIECES);
        while i.log.len() < MAX_LOG {
            let d = i.note("a", "x", 0).unwrap();
            i.apply(&d);
        }
        assert!(matches!(i.note("a", "x", 0), Err(Refused::LogFull { .. })));
    }
}
