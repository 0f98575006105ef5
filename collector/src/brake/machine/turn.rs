//! Whose turn it is: the queue, the permits that would be given now, and what those who wait are told.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use dogwatch::record::{Hash, NodeName, Severity};

use super::super::ledger::{MAX_AT_WORK_OF_NODE, MAX_PERMITS, MAX_PERMITS_OF_NODE};
use super::super::{Answer, Ask};
use super::what::grant;
use super::{Brake, STARVED_NS, Waiting};
use crate::store::decision::What;

impl Brake {
    /// Who waits, the next first.
    pub fn queue(&self, now_ns: u64) -> Vec<&Waiting> {
        let mut queue: Vec<&Waiting> = self.waiting.values().collect();
        queue.sort_by(|a, b| rank(a, now_ns).cmp(&rank(b, now_ns)).then_with(|| a.ask.node.cmp(&b.ask.node)));
        queue
    }

    /// Permits that would be given now, in order.
    pub fn grants(&self, now_ns: u64) -> Vec<What> {
        if self.ledger.stopped().is_some() {
            return Vec::new();
        }
        let mut placed = self.places();
        let mut used: BTreeMap<Hash, BTreeSet<&NodeName>> = BTreeMap::new();
        // Out, and at work.
        let mut out: BTreeMap<&NodeName, (usize, usize)> = BTreeMap::new();
        for permit in &self.ledger.permits {
            used.entry(permit.policy).or_default().insert(&permit.node);
            let its = out.entry(&permit.node).or_default();
            *its = (its.0 + 1, its.1 + usize::from(!permit.returned));
        }
        let room = MAX_PERMITS.saturating_sub(self.ledger.permits.len());
        let mut granted = Vec::new();
        let mut again = Vec::new();
        let mut others_wait = false;
        let mut queue = self.queue(now_ns);
        // Whoever rests keeps no others waiting.
        queue.retain(|w| self.paces.why_not(&w.ask.node, now_ns).is_none());
        let unproven: BTreeSet<Hash> =
            queue.iter().filter(|w| self.wants_other(w, false)).map(|w| w.ask.policy).collect();
        let neglected = neglected(&queue, now_ns);
        let mut had: BTreeSet<(&NodeName, &str)> = BTreeSet::new();
        for waiting in queue {
            let node = &waiting.ask.node;
            if placed.contains(node) {
                if !had.contains(&(node, waiting.ask.mount.as_str())) {
                    again.push(waiting);
                }
                continue;
            }
            let may = |w: &Waiting| {
                let policy = &w.ask.policy;
                self.is_proven(policy)
                    || used.get(policy).is_none_or(BTreeSet::is_empty)
                    // Its cleanups prove no more; a node that they did not go well on yet takes the one place.
                    && !(unproven.contains(policy) && self.wants_other(w, true))
            };
            let has_room = granted.len() < room && placed.len() < self.limit();
            let its = neglected.get(node).into_iter().flatten().copied();
            let Some(chosen) = its.chain([waiting]).find(|w| has_room && may(w)) else {
                others_wait = true;
                continue;
            };
            if chosen.ask.mount != waiting.ask.mount {
                again.push(waiting);
            }
            let canary = !self.is_proven(&chosen.ask.policy);
            had.insert((node, chosen.ask.mount.as_str()));
            placed.insert(node);
            used.entry(chosen.ask.policy).or_default().insert(node);
            let its = out.entry(node).or_default();
            *its = (its.0 + 1, its.1 + 1);
            granted.push(grant(&chosen.ask, canary));
        }
        if !others_wait {
            // Whoever has no place yet finds room all the same.
            let free = self.limit().saturating_sub(placed.len());
            let most = room.saturating_sub(free);
            let alone = |w: &&Waiting| {
                self.is_proven(&w.ask.policy)
                    || used.get(&w.ask.policy).is_none_or(|nodes| nodes.iter().all(|n| **n == w.ask.node))
            };
            for waiting in again.into_iter().filter(alone) {
                let its = out.entry(&waiting.ask.node).or_default();
                if granted.len() < most && its.0 < MAX_PERMITS_OF_NODE && its.1 < MAX_AT_WORK_OF_NODE {
                    *its = (its.0 + 1, its.1 + 1);
                    granted.push(grant(&waiting.ask, !self.is_proven(&waiting.ask.policy)));
                }
            }
        }
        granted
    }

    /// Whether a policy lacks nodes to be proven by, and the one that waits is (`has`) or is not among those that it has.
    fn wants_other(&self, waiting: &Waiting, has: bool) -> bool {
        let proof = self.ledger.proof(&waiting.ask.policy);
        let lacks = proof.is_none_or(|p| p.nodes.len() < self.provers_needed(&waiting.ask.policy));
        lacks && proof.is_some_and(|p| p.nodes.contains(&waiting.ask.node)) == has
    }

    /// A node may have a place no more: whatever it waits for, it has had its turn.
    pub(super) fn turn_over(&mut self, node: &NodeName, now_ns: u64) {
        if self.ledger.permits_of(node).0 > 0 {
            return;
        }
        let from = || (node.clone(), String::new())..;
        let waiting = self.waiting.range_mut(from()).take_while(|((of, _), _)| of == node);
        waiting.for_each(|(_, waiting)| waiting.turn_ns = waiting.turn_ns.max(now_ns));
        let turns = self.turns.range_mut(from()).take_while(|((of, _), _)| of == node);
        turns.for_each(|(_, turn)| turn.turn_ns = turn.turn_ns.max(now_ns));
    }

    /// What those are told who asked since they were told last: their places in the queue.
    /// `overdue`: why some places are kept beyond their time, if so.
    pub fn news(&mut self, overdue: Option<&str>, now_ns: u64) -> Vec<(Ask, Answer)> {
        let needed = self.settings.canary_successes;
        let places = self.places().len();
        let overdue = overdue.map_or_else(String::new, |why| format!("; {why}"));
        let crowd = format!(
            "{places} of {} nodes that may clean at a time are at it, or watched after it{overdue}",
            self.limit()
        );
        let used: BTreeSet<Hash> = self.ledger.permits.iter().map(|p| p.policy).collect();
        let queue = self.queue(now_ns);
        let of = queue.len();
        let told = queue.iter().enumerate().filter(|(_, w)| w.untold).map(|(at, w)| {
            let policy = &w.ask.policy;
            let (its, at_work) = self.ledger.permits_of(&w.ask.node);
            let why = if let Some(why) = self.paces.why_not(&w.ask.node, now_ns) {
                why
            } else if its >= MAX_PERMITS_OF_NODE || at_work >= MAX_AT_WORK_OF_NODE {
                let watched = its - at_work;
                format!("{at_work} permits of this node are out and {watched} watched, and none has more")
            } else if !self.is_proven(policy) && used.contains(policy) {
                let well = self.ledger.successes(policy);
                let (on, of) = (self.ledger.proof(policy).map_or(0, |p| p.nodes.len()), self.provers_needed(policy));
                format!(
                    "its policy is new: one node at a time until {needed} cleanups went well on {of} nodes; {well} did so far, \
                     on {}",
                    on.min(of)
                )
            } else {
                crowd.clone()
            };
            (w.ask.clone(), Answer::Waiting { place: at + 1, of, why })
        });
        let told: Vec<_> = told.collect();
        for waiting in self.waiting.values_mut() {
            waiting.untold = false;
        }
        told
    }
}

/// What each node has waited for too long, the oldest first: its other disks may be more urgent each time that it has a turn.
fn neglected<'w>(queue: &[&'w Waiting], now_ns: u64) -> BTreeMap<&'w NodeName, Vec<&'w Waiting>> {
    let mut of: BTreeMap<&NodeName, Vec<&Waiting>> = BTreeMap::new();
    for waiting in queue.iter().filter(|w| now_ns.saturating_sub(w.since_ns) >= STARVED_NS) {
        of.entry(&waiting.ask.node).or_default().push(waiting);
    }
    of.values_mut().for_each(|its| its.sort_by_key(|w| w.since_ns));
    of
}

/// Order in the queue, the least first.
fn rank(w: &Waiting, now_ns: u64) -> (bool, u64, Reverse<Severity>, u64, u64, u64) {
    let starved = now_ns.saturating_sub(w.turn_ns) >= STARVED_NS;
    // Seconds to full as whole milliseconds: floats have no order, and nobody fills in less.
    let full_ms = w.ask.seconds_to_full.map_or(u64::MAX, |s| (s.max(0.0) * 1e3) as u64);
    if starved {
        (false, w.turn_ns, Reverse(Severity::Critical), 0, 0, w.since_ns)
    } else {
        (true, 0, Reverse(w.ask.severity), full_ms, w.turn_ns, w.since_ns)
    }
}
