//! What a hold is about: which nodes, and which of their time is kept here.
//!
//! An incident goes on after it was held: nodes join, findings join, it ends. [`Scope::follow`] takes up what is new since
//! the last time and reads nothing twice: a finding's record is a block to read and decompress, and there are up to 256
//! holds of incidents with up to a thousand pieces.
//!
//! What was received is reckoned by the collector's clock alone. When a finding was raised is its node's word; a word that
//! cannot be true ([`MAX_LATE_NS`]) is not gone by.

use std::collections::BTreeSet;

use dogwatch::record::NodeName;

use crate::incident::Incident;
use crate::store::decision::{HoldTarget, Piece};
use crate::store::held::HeldSpan;
use crate::store::row::HoldRow;
use crate::store::{QueryError, Store};

/// What an incident's hold keeps here before its first finding and after its end.
const MARGIN_NS: i64 = 3_600 * 1_000_000_000;
/// A finding that joined so long after its node says that it was raised comes of a clock that is wrong: no journal of a
/// node that was cut off reaches back as far.
const MAX_LATE_NS: i64 = 30 * 86_400 * 1_000_000_000;
/// How often a finding that is not found is sought again: its record may have expired, or is about to be folded.
const MAX_TRIES: u8 = 3;

/// The nodes that a hold concerns, and what it keeps here.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// `None`: every node.
    pub(super) nodes: Option<BTreeSet<NodeName>>,
    pub(super) span: Option<HeldSpan>,
    /// Pieces of the incident that were looked at.
    pieces: usize,
    /// Findings among them that were not found, and how often they were sought.
    missing: Vec<Missing>,
    /// The earliest that a finding was raised, wall ns of its node.
    raised_wall_ns: Option<i64>,
}

#[derive(Debug)]
struct Missing {
    node: NodeName,
    finding: String,
    joined_wall_ns: i64,
    tries: u8,
}

impl Scope {
    /// What `row` is about.
    pub(super) async fn of(store: &Store, row: &HoldRow) -> Result<Self, QueryError> {
        let mut scope = Self::default();
        match &row.target {
            HoldTarget::Incident(_) => {
                scope.nodes = Some(BTreeSet::new());
                scope.follow(store, row).await?;
            }
            _ => scope.nodes = row.node.clone().map(|n| [n].into()),
        }
        Ok(scope)
    }

    /// Takes up what has come to the incident that `row` holds, if it holds one; whether that changed anything. One that
    /// is not found any more keeps what it had.
    pub(super) async fn follow(&mut self, store: &Store, row: &HoldRow) -> Result<bool, QueryError> {
        let HoldTarget::Incident(id) = &row.target else { return Ok(false) };
        let Some(incident) = store.incident(id).await? else { return Ok(false) };
        self.seek(&incident);
        let mut at = 0;
        while let Some(one) = self.missing.get(at) {
            let found = store.finding_of(&one.node, &one.finding).await?;
            at += usize::from(!self.answered(at, found.map(|row| row.finding.raised_wall_ns)));
        }
        Ok(self.settle(&row.id, &incident))
    }

    /// Whether something is still sought.
    pub(super) fn lacks(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Takes note of the findings that are new in `incident`.
    fn seek(&mut self, incident: &Incident) {
        for joined in incident.pieces.iter().skip(self.pieces) {
            if let Piece::Finding(finding) = &joined.piece {
                self.missing.push(Missing {
                    node: joined.node.clone(),
                    finding: finding.clone(),
                    joined_wall_ns: joined.wall_ns,
                    tries: 0,
                });
            }
        }
        self.pieces = self.pieces.max(incident.pieces.len());
    }

    /// The finding sought at `at` was raised then, or was not found; whether it is sought no more.
    fn answered(&mut self, at: usize, raised_wall_ns: Option<i64>) -> bool {
        let Some(one) = self.missing.get_mut(at) else { return false };
        one.tries += 1;
        let (joined_wall_ns, over) = (one.joined_wall_ns, raised_wall_ns.is_some() || one.tries >= MAX_TRIES);
        if over {
            self.missing.remove(at);
        }
        if let Some(raised) = raised_wall_ns {
            self.note(raised, joined_wall_ns);
        }
        over
    }

    /// Reckons nodes and span from what is known; whether they are others than before.
    fn settle(&mut self, hold: &str, incident: &Incident) -> bool {
        let opened = incident.opened_wall_ns;
        let nodes: BTreeSet<NodeName> = incident.nodes.iter().cloned().collect();
        let span = HeldSpan {
            hold: hold.to_owned(),
            nodes: nodes.clone(),
            from_wall_ns: self.raised_wall_ns.map_or(opened, |r| r.min(opened)).saturating_sub(MARGIN_NS),
            received_from_wall_ns: opened.saturating_sub(MARGIN_NS),
            to_wall_ns: incident.resolved_wall_ns.map_or(i64::MAX, |at| at.saturating_add(MARGIN_NS)),
        };
        let changed = self.nodes.as_ref() != Some(&nodes) || self.span.as_ref() != Some(&span);
        (self.nodes, self.span) = (Some(nodes), Some(span));
        changed
    }

    fn note(&mut self, raised_wall_ns: i64, joined_wall_ns: i64) {
        if joined_wall_ns.saturating_sub(raised_wall_ns) <= MAX_LATE_NS {
            self.raised_wall_ns = Some(self.raised_wall_ns.map_or(raised_wall_ns, |r| r.min(raised_wall_ns)));
        }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::Severity;

    use super::*;
    use crate::incident::COLLECTOR;
    use crate::store::decision::{Decision, What};

    const S: i64 = 1_000_000_000;
    const T0: i64 = 1_795_227_000 * S;

    fn node() -> NodeName {
        "a".parse().unwrap()
    }

    fn opened() -> Incident {
        let what = What::IncidentOpened {
            id: "inc-2026-11-21-001".into(),
            title: "t".into(),
            severity: Severity::High,
            node: node(),
            topic: "disk:/var".into(),
            reason: "r".into(),
        };
        Incident::open(&Decision { wall_ns: T0, actor: COLLECTOR.to_owned(), what }).unwrap()
    }

    fn join(incident: &mut Incident, finding: &str) {
        let id = incident.id.clone();
        let what = What::IncidentJoined {
            id,
            piece: Piece::Finding(finding.into()),
            node: node(),
            reason: "r".into(),
        };
        assert!(incident.apply(&Decision { wall_ns: T0, actor: COLLECTOR.to_owned(), what }));
    }

    /// Whether one look changed `scope`, and what was read for it, where findings were raised at `raised`.
    fn look(scope: &mut Scope, incident: &Incident, raised: Option<i64>) -> (bool, Vec<String>) {
        scope.seek(incident);
        let (mut at, mut read) = (0, Vec::new());
        while let Some(one) = scope.missing.get(at) {
            read.push(one.finding.clone());
            at += usize::from(!scope.answered(at, raised));
        }
        (scope.settle("hold-1", incident), read)
    }

    #[test]
    fn a_finding_is_read_once_however_often_the_incident_is_looked_at() {
        let (mut scope, mut incident) = (Scope::default(), opened());
        join(&mut incident, "f-1");
        join(&mut incident, "f-2");
        assert_eq!(look(&mut scope, &incident, Some(T0 - 5 * S)), (true, vec!["f-1".into(), "f-2".into()]));
        assert_eq!(look(&mut scope, &incident, Some(T0)), (false, vec![]));
        join(&mut incident, "f-3");
        assert_eq!(look(&mut scope, &incident, Some(T0 - 9 * S)), (true, vec!["f-3".into()]));
        let span = scope.span.clone().unwrap();
        assert_eq!((span.from_wall_ns, span.to_wall_ns), (T0 - 9 * S - MARGIN_NS, i64::MAX));
        incident.apply(&incident.resolve("rita", "", T0 + S).unwrap());
        assert_eq!(look(&mut scope, &incident, None), (true, vec![]));
        assert_eq!(scope.span.unwrap().to_wall_ns, T0 + S + MARGIN_NS);
    }

    #[test]
    fn what_is_not_found_is_sought_a_few_times_and_a_look_that_failed_loses_nothing() {
        let (mut scope, mut incident) = (Scope::default(), opened());
        join(&mut incident, "f-1");
        // Read once, and the reader failed before it could answer: nothing is lost.
        scope.seek(&incident);
        for _ in 0..MAX_TRIES {
            assert!(scope.lacks());
            assert_eq!(look(&mut scope, &incident, None).1, ["f-1"]);
        }
        assert!(!scope.lacks());
        assert_eq!(look(&mut scope, &incident, None), (false, vec![]));
    }

    #[test]
    fn a_nodes_clock_moves_what_was_received_not_at_all_and_its_own_time_within_reason() {
        for (raised, from) in [
            (0, T0),
            (i64::MIN, T0),
            (i64::MAX, T0),
            (T0 - 86_400 * S, T0 - 86_400 * S),
            (T0 + 86_400 * S, T0),
        ] {
            let (mut scope, mut incident) = (Scope::default(), opened());
            join(&mut incident, "f-1");
            look(&mut scope, &incident, Some(raised));
            let span = scope.span.unwrap();
            assert_eq!(span.received_from_wall_ns, T0 - MARGIN_NS, "{raised}");
            assert_eq!(span.from_wall_ns, from - MARGIN_NS, "{raised}");
        }
    }
}
