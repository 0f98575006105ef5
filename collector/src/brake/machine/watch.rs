//! The watch after a cleanup: when it is over, and how it was.
//!
//! A node that falls silent within its watch may have died of its cleanup; one that was heard of after it goes away for other
//! reasons, as nodes do every day. That a node is silent is noticed some time after its last word. So no watch is over before a
//! word came that is later: until then the place is kept, and the finding that says the silence stops everything.

use dogwatch::record::NodeName;

use super::super::ledger::{LATE_NS, Permit};
use super::{Brake, Live};
use crate::store::decision::PermitEnd;

impl Brake {
    /// A node said something.
    pub fn heard(&mut self, node: &NodeName, at_ns: u64) {
        let its = self.live.range_mut((node.clone(), String::new())..).take_while(|((of, _), _)| of == node);
        its.for_each(|(_, live)| live.heard_ns = live.heard_ns.max(at_ns));
    }

    /// How a permit ends whose time is up; `None`: not yet, since nobody knows whether its node outlived the watch.
    pub(super) fn end_of(permit: &Permit, live: Option<&Live>, now_ns: u64) -> Option<PermitEnd> {
        if !permit.returned {
            return Some(PermitEnd::Lapsed);
        }
        // What was doubted proves nothing however it ends, and stops nothing any more.
        let Some(live) = live.filter(|_| !permit.doubted) else { return Some(PermitEnd::Well) };
        match (live.outlived(), live.unheld) {
            (true, false) => Some(PermitEnd::Well),
            (true, true) => Some(PermitEnd::Lapsed),
            // Whoever calls no node silent for longer than that need not wait for it.
            (false, _) => (now_ns >= live.until_ns.saturating_add(LATE_NS)).then_some(PermitEnd::Lapsed),
        }
    }

    /// Nodes that have a place although their watch was over at `now_ns`, since they were not heard of after it.
    pub fn unheard(&self, now_ns: u64) -> usize {
        let is = |p: &&Permit| {
            let live = self.live.get(&(p.node.clone(), p.action.clone()));
            live.is_some_and(|l| now_ns >= l.until_ns && p.awaits_word(l))
        };
        self.nodes_of(is)
    }
}

impl Permit {
    /// Whether only a word of its node is awaited once the watch is over.
    pub(super) fn awaits_word(&self, live: &Live) -> bool {
        self.returned && !self.doubted && !live.outlived()
    }
}

impl Live {
    /// Whether the node was heard of after the watch.
    fn outlived(&self) -> bool {
        self.heard_ns >= self.until_ns
    }
}
