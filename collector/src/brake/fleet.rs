//! Which nodes there are and which policies they run, as they say it themselves: of how many a share may clean at a time,
//! and on how many a policy must have gone well. Pure.
//!
//! Of those that are *there*, connected or heard of within [`THERE_NS`], a share may clean: autoscalers bring nodes and take
//! them away, and whoever enrolled once must not raise the bound on harm for good. After a start nobody was heard of, and
//! the share grows as nodes come back.
//!
//! A policy is proven on no more nodes than run it, so that a pool of one node with a policy of its own can prove it. That
//! must not let one node prove a policy for others, so a node counts among those that may run it unless it said that
//! it runs another: one that never said (an older agent, one that was not heard of since) may run any. So one that is away
//! counts here until it is [`GONE_NS`] that it was heard of, or known of at a start: fewer nodes would be asked for without it.
//! A node under whose name a policy went well although it says that it runs another counts, too: one that lies can then make
//! more nodes be asked for and never fewer. What a pool of one proved holds no longer once another node takes the policy up.

use std::collections::{BTreeMap, BTreeSet};

use dogwatch::record::{Hash, NodeName};

/// A node that was not heard of for so long is not there: a reboot takes less, and a share of fewer nodes harms none.
pub(super) const THERE_NS: u64 = 600 * 1_000_000_000;
/// One that was not heard of for so long is not expected to come back.
pub(super) const GONE_NS: u64 = 86_400 * 1_000_000_000;

/// What is known of a node.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which.
    pub node: NodeName,
    /// The policy that it said it runs.
    pub policy: Option<Hash>,
    /// When it was connected or heard of last; `None`: not since the start.
    pub heard_ns: Option<u64>,
    /// Since when it is known.
    pub known_ns: u64,
}

/// All nodes that there are.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    policies: BTreeMap<NodeName, Option<Hash>>,
    counts: BTreeMap<Hash, usize>,
    unknown: usize,
    there: BTreeSet<NodeName>,
}

impl Fleet {
    /// Those of these that are not gone by now.
    pub fn at(now_ns: u64, seen: impl IntoIterator<Item = Seen>) -> Self {
        let mut fleet = Self::default();
        for Seen { node, policy, heard_ns, known_ns } in seen {
            let for_ns = |at_ns: u64| now_ns.saturating_sub(at_ns);
            if heard_ns.is_some_and(|at_ns| for_ns(at_ns) < THERE_NS) {
                fleet.there.insert(node.clone());
            }
            if for_ns(heard_ns.unwrap_or(known_ns)) < GONE_NS {
                fleet.count(node, policy);
            }
        }
        fleet
    }

    /// How many are there.
    pub fn there(&self) -> usize {
        self.there.len()
    }

    /// A node that is there runs a policy, as it says now.
    pub(super) fn put(&mut self, node: NodeName, policy: Hash) {
        self.there.insert(node.clone());
        self.count(node, Some(policy));
    }

    fn count(&mut self, node: NodeName, policy: Option<Hash>) {
        match policy {
            Some(policy) => *self.counts.entry(policy).or_default() += 1,
            None => self.unknown += 1,
        }
        match self.policies.insert(node, policy) {
            Some(Some(before)) => {
                if let Some(count) = self.counts.get_mut(&before) {
                    *count = count.saturating_sub(1);
                }
            }
            Some(None) => self.unknown = self.unknown.saturating_sub(1),
            None => {}
        }
    }

    /// Nodes that may run `policy`; `provers`: those on which it went well. 0: nobody counted yet.
    pub(super) fn may_run(&self, policy: &Hash, provers: &BTreeSet<NodeName>) -> usize {
        if self.policies.is_empty() {
            return 0;
        }
        // Those of which nothing is known are counted already.
        let others = provers.iter().filter(|node| match self.policies.get(*node) {
            Some(said) => said.is_some_and(|said| said != *policy),
            None => true,
        });
        self.counts.get(policy).copied().unwrap_or(0) + self.unknown + others.count()
    }
}
