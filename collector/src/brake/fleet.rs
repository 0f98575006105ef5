//! Which policies nodes run, as they say it themselves: on how many a policy must have gone well. Pure.
//!
//! A policy is proven on no more nodes than run it, so that a pool of one node with a policy of its own can prove it. That
//! must not let one node prove a policy for others, so a node counts among those that may run it unless it said that
//! it runs another: one that never said (an older agent, one that was not heard of since) may run any. A node under whose
//! name a policy went well although it says that it runs another counts, too: one that lies can then make more nodes
//! be asked for and never fewer. What a pool of one proved holds no longer once another node takes the policy up.

use std::collections::{BTreeMap, BTreeSet};

use dogwatch::record::{Hash, NodeName};

/// All nodes that there are.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    policies: BTreeMap<NodeName, Option<Hash>>,
    counts: BTreeMap<Hash, usize>,
    unknown: usize,
}

impl Fleet {
    /// These, each with the policy that it said it runs.
    pub fn of(nodes: impl IntoIterator<Item = (NodeName, Option<Hash>)>) -> Self {
        let mut fleet = Self::default();
        for (node, policy) in nodes {
            fleet.put(node, policy);
        }
        fleet
    }

    /// How many there are.
    pub fn nodes(&self) -> usize {
        self.policies.len()
    }

    /// A node runs a policy, as it says now.
    pub(super) fn put(&mut self, node: NodeName, policy: Option<Hash>) {
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
