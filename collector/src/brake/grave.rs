//! What speaks against cleanups: findings that hold already, and cleanups that stopped everything and were judged. Pure.
//!
//! A cleanup that stopped everything was looked at by whoever released that. Nothing more that its node says of it stops
//! all others again, however often and under whatever id: otherwise one node that lies could after each release. A
//! restart forgets which were judged; then each may stop once more, as long as its permit is out.
//!
//! Bounds: [`MAX_GRAVE`] findings hold, [`MAX_GRAVE_OF_NODE`] of one node, half of each by hearsay; [`MAX_JUDGED`] are
//! remembered as judged. What holds beyond them is news each time that it is said: that stops more than it should, not less.

use std::collections::{BTreeSet, VecDeque};

use dogwatch::record::NodeName;

/// Grave findings that are remembered at most: several of each node of the largest fleet.
const MAX_GRAVE: usize = 50_000;
/// Of one node: far more than a node has at a time, and one that makes them up takes no others' room.
const MAX_GRAVE_OF_NODE: usize = 64;
/// Longest id of a finding that is remembered; agents' are digests.
pub(super) const MAX_FINDING_ID: usize = 128;
/// Cleanups that stopped everything and are remembered for it, the newest: each was released by a person.
const MAX_JUDGED: usize = 128;

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Grave {
    /// By node and id.
    hold: BTreeSet<(NodeName, String)>,
    /// By node and cleanup, the newest last.
    judged: VecDeque<(NodeName, String)>,
}

impl Grave {
    /// Takes a finding as one that holds; whether that is news.
    pub(super) fn know(&mut self, node: &NodeName, finding: &str) -> bool {
        self.take(node, finding, (MAX_GRAVE, MAX_GRAVE_OF_NODE))
    }

    /// The same for one that may be a pod's: it takes no more than half of the room.
    pub(super) fn know_hearsay(&mut self, node: &NodeName, finding: &str) {
        self.take(node, finding, (MAX_GRAVE / 2, MAX_GRAVE_OF_NODE / 2));
    }

    fn take(&mut self, node: &NodeName, finding: &str, (most, of_node): (usize, usize)) -> bool {
        let key = (node.clone(), finding.to_owned());
        let its = self.hold.range((node.clone(), String::new())..).take_while(|(of, _)| of == node);
        let has_room =
            self.hold.len() < most && finding.len() <= MAX_FINDING_ID && its.take(of_node).count() < of_node;
        if has_room { self.hold.insert(key) } else { !self.hold.contains(&key) }
    }

    /// The reverse of [`Grave::know`].
    pub(super) fn forget(&mut self, node: &NodeName, finding: &str) {
        self.hold.remove(&(node.clone(), finding.to_owned()));
    }

    /// A cleanup stopped everything: from the release on it does not again.
    pub(super) fn judge(&mut self, node: &NodeName, action: &str) {
        if !self.is_judged(node, action) {
            self.judged.push_back((node.clone(), action.to_owned()));
            self.judged.drain(..self.judged.len().saturating_sub(MAX_JUDGED));
        }
    }

    /// Whether a cleanup stopped everything before.
    pub(super) fn is_judged(&self, node: &NodeName, action: &str) -> bool {
        self.judged.iter().any(|(of, id)| of == node && id == action)
    }
}
