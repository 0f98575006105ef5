//! What nodes say they were told of stops that this collector does not know: whom that stops. Pure.
//!
//! Invariants
//! - A state that the journal holds is known, however long its node was away ([`Claims::recognise`]).
//! - A node's word stops everything once; from then on it stops that node alone, until another node says the same. So
//!   one node that lies, or that is put back from a snapshot over and over, cannot stop the fleet after each release; and
//!   a stop that was really lost is known to more nodes than one.
//! - Whoever is stopped alone stays so until a person releases: the release deals with what it said. A state so far ahead
//!   that nobody can have been told it is dealt with by enrolling the node anew.
//!
//! Bounds: [`MAX_WAITING`] nodes' words wait to be looked up, [`MAX_ALONE`] are remembered to be stopped alone,
//! [`MAX_KNOWN`] states to be known. A node that finds no room stays stopped and says it again when it connects.

use std::collections::BTreeMap;

use dogwatch::record::NodeName;

use super::Unknown;
use super::ledger::Ledger;
use crate::store::decision::Past;

/// Words that wait to be looked up, one of each node: each takes one question to the index.
const MAX_WAITING: usize = 1_000;
/// Nodes that are remembered to be stopped alone: a release names their states in one decision.
const MAX_ALONE: usize = 64;
/// States that were looked up and are known, the newest: one for each node that came back lately.
const MAX_KNOWN: usize = 1_000;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: BTreeMap<NodeName, (Unknown, u64)>,
    alone: BTreeMap<NodeName, Unknown>,
    known: Vec<Past>,
}

impl Claims {
    /// A node says so; its newest word counts.
    pub(super) fn put(&mut self, claim: Unknown, now_ns: u64) {
        if self.waiting.len() < MAX_WAITING || self.waiting.contains_key(&claim.node) {
            let since = self.waiting.get(&claim.node).map_or(now_ns, |(_, since)| *since);
            self.waiting.insert(claim.node.clone(), (claim, since));
        }
    }

    /// The next to be looked up, and since when it waits; it is taken out.
    pub(super) fn take(&mut self) -> Option<(Unknown, u64)> {
        self.waiting.pop_first().map(|(_, waiting)| waiting)
    }

    /// Puts back what could not be looked up.
    pub(super) fn put_back(&mut self, claim: Unknown, since_ns: u64) {
        self.waiting.entry(claim.node.clone()).or_insert((claim, since_ns));
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The journal holds the state.
    pub(super) fn recognise(&mut self, claim: &Unknown) {
        self.alone.remove(&claim.node);
        if !self.known.contains(&claim.state) {
            self.known.push(claim.state);
            self.known.drain(..self.known.len().saturating_sub(MAX_KNOWN));
        }
    }

    /// States that are known beside those that the ledger tells.
    pub(super) fn known(&self) -> &[Past] {
        &self.known
    }

    /// The journal does not hold it: `Some` where it stops everything, `None` where it stops its node.
    pub(super) fn judge(&mut self, claim: Unknown, ledger: &Ledger) -> Option<Unknown> {
        let seconded = self.alone.values().any(|o| o.node != claim.node && o.state == claim.state);
        if ledger.may_follow(claim.state) && (seconded || !ledger.claimed.contains(&claim.node)) {
            self.alone.retain(|node, other| *node != claim.node && other.state != claim.state);
            return Some(claim);
        }
        self.keep(claim);
        None
    }

    /// Its node is stopped by it alone, until a release deals with it.
    pub(super) fn keep(&mut self, claim: Unknown) {
        if self.alone.len() < MAX_ALONE || self.alone.contains_key(&claim.node) {
            let (node, revision) = (claim.node.clone(), claim.state.revision);
            // Once for each release: whoever says something else each time fills no log.
            if self.alone.insert(node.clone(), claim).is_none() {
                tracing::warn!(%node, revision, "a node stays stopped alone: nobody else knows what it was told");
            }
        }
    }

    /// Who is stopped alone.
    pub(super) fn alone(&self) -> impl Iterator<Item = &Unknown> {
        self.alone.values()
    }

    /// What a release deals with: all of them but what nobody can have been told.
    pub(super) fn releasable(&self, ledger: &Ledger) -> impl Iterator<Item = &Unknown> {
        self.alone().filter(|claim| ledger.may_follow(claim.state))
    }

    /// The same of those that are `meant`, with the states that they had when they were looked at: what a node says since nobody
    /// has seen. `None`: all.
    pub(super) fn meant(&self, ledger: &Ledger, meant: Option<&[(NodeName, Past)]>) -> Vec<Past> {
        let is_meant = |c: &&Unknown| {
            meant.is_none_or(|meant| meant.iter().any(|(node, state)| *node == c.node && *state == c.state))
        };
        self.releasable(ledger).filter(is_meant).map(|c| c.state).collect()
    }

    /// Which of those that are `meant` says something else by now, in words.
    pub(super) fn changed(&self, meant: &[(NodeName, Past)]) -> Option<String> {
        let says_else = |c: &&Unknown| meant.iter().any(|(node, state)| *node == c.node && *state != c.state);
        let claim = self.alone().find(says_else)?;
        Some(format!("node {} says by now that it was told of another stop: {}", claim.node, claim.reason))
    }

    /// A release dealt with them.
    pub(super) fn released(&mut self, dealt: &[Past]) {
        self.alone.retain(|_, claim| !dealt.contains(&claim.state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::decision::{Decision, What};

    fn claim(node: &str, revision: u64, lineage: u64) -> Unknown {
        Unknown { node: node.parse().unwrap(), state: Past { revision, lineage }, reason: "look".to_owned() }
    }

    fn decide(ledger: &mut Ledger, what: What) {
        let wall_ns = ledger.newest_wall_ns + 1;
        ledger.apply(&Decision { wall_ns, actor: "collector".to_owned(), what });
    }

    fn trip(ledger: &mut Ledger, claim: &Unknown) {
        let what = What::BrakeTripped {
            reason: "found".to_owned(),
            finding: String::new(),
            node: Some(claim.node.clone()),
            action: None,
            cites: Vec::new(),
            past: Some(claim.state),
            cause: None,
        };
        decide(ledger, what);
    }

    #[test]
    fn one_node_stops_everything_once_and_then_itself_until_another_says_the_same() {
        let (mut claims, mut ledger) = (Claims::default(), Ledger::default());
        let release = |past| What::BrakeReleased { reason: "well".to_owned(), past };
        let first = claims.judge(claim("liar", 7, 1), &ledger).unwrap();
        trip(&mut ledger, &first);
        decide(&mut ledger, release(Vec::new()));
        assert!(ledger.knows(first.state), "the same is dealt with");
        for lineage in 2..200 {
            assert_eq!(claims.judge(claim("liar", 9, lineage), &ledger), None);
        }
        assert_eq!(claims.alone().count(), 1, "the newest of each node");
        // A release lets it go on, and stops nobody.
        let dealt: Vec<Past> = claims.alone().map(|c| c.state).collect();
        decide(&mut ledger, release(dealt.clone()));
        claims.released(&dealt);
        assert_eq!((claims.alone().count(), ledger.knows(dealt[0])), (0, true));
        assert!(ledger.revision > 9 && ledger.stopped().is_none());
        // Others are believed at once, and it is once another says the same.
        assert!(claims.judge(claim("n2", 30, 5), &ledger).is_some());
        trip(&mut ledger, &claim("n2", 30, 5));
        assert_eq!(claims.judge(claim("liar", 40, 6), &ledger), None);
        assert_eq!(claims.judge(claim("n2", 40, 7), &ledger), None);
        assert_eq!(claims.judge(claim("n2", 40, 6), &ledger), Some(claim("n2", 40, 6)));
        assert_eq!(claims.alone().count(), 0);
        // Numbers that nobody can have been told are nobody's, and no release deals with them.
        assert_eq!(claims.judge(claim("n3", u64::MAX, 6), &ledger), None);
        assert_eq!((claims.alone().count(), claims.releasable(&ledger).count()), (1, 0));
        let note = crate::brake::tell::alone(&claim("n3", u64::MAX, 6), &ledger);
        assert!(note.contains("no release deals with that") && note.contains("enrol anew"), "{note}");
        assert!(!crate::brake::tell::alone(&claim("n3", 40, 7), &ledger).contains("no release"));
    }

    #[test]
    fn what_waits_is_bounded_and_keeps_its_time() {
        let mut claims = Claims::default();
        (0..2 * MAX_WAITING).for_each(|n| claims.put(claim(&format!("n{n:05}"), 1, 1), 5));
        claims.put(claim("n00000", 2, 2), 9);
        assert_eq!(claims.waiting(), MAX_WAITING);
        assert_eq!(claims.take(), Some((claim("n00000", 2, 2), 5)));
        (0..2 * MAX_KNOWN as u64).for_each(|n| claims.recognise(&claim("n1", 1, n)));
        assert_eq!(claims.known().len(), MAX_KNOWN);
    }
}
