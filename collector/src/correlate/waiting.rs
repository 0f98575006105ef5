//! Actions that wait for an incident, by node.
//!
//! Bounds: [`MAX_LOOSE_PER_NODE`] of a node and [`MAX_LOOSE`] of all; then the node that has most forgets its oldest.

use std::collections::{BTreeMap, VecDeque};

use dogwatch::record::NodeName;

use super::{MAX_LOOSE, MAX_LOOSE_PER_NODE};

/// An action that belongs to no incident yet.
#[derive(Debug, Clone)]
pub(super) struct LooseAction {
    pub(super) node: NodeName,
    pub(super) id: String,
    pub(super) mount: String,
    pub(super) finding_id: Option<String>,
    pub(super) actor: String,
    pub(super) seen_ns: i64,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    nodes: BTreeMap<NodeName, VecDeque<LooseAction>>,
    count: usize,
}

impl Waiting {
    pub(super) fn holds(&self, node: &NodeName, id: &str) -> bool {
        self.nodes.get(node).is_some_and(|actions| actions.iter().any(|a| a.id == id))
    }

    /// Lets `action` wait, as the newest of its node.
    pub(super) fn put(&mut self, action: LooseAction) {
        let node = action.node.clone();
        let actions = self.nodes.entry(node.clone()).or_default();
        let before = actions.len();
        actions.retain(|a| a.id != action.id);
        self.count = self.count + 1 - (before - actions.len());
        actions.push_back(action);
        if actions.len() > MAX_LOOSE_PER_NODE {
            self.forget_oldest(&node);
        }
        while self.count > MAX_LOOSE {
            let most = self.nodes.iter().max_by_key(|(_, a)| a.len()).map(|(node, _)| node.clone());
            let Some(most) = most else { return };
            self.forget_oldest(&most);
        }
    }

    /// All of `node`, the oldest first; they wait no longer.
    pub(super) fn take(&mut self, node: &NodeName) -> VecDeque<LooseAction> {
        let actions = self.nodes.remove(node).unwrap_or_default();
        self.count -= actions.len();
        actions
    }

    /// Lets go of what was seen before `since_ns`.
    pub(super) fn forget(&mut self, since_ns: i64) {
        self.nodes.retain(|_, actions| {
            actions.retain(|a| a.seen_ns >= since_ns);
            !actions.is_empty()
        });
        self.count = self.nodes.values().map(VecDeque::len).sum();
    }

    fn forget_oldest(&mut self, node: &NodeName) {
        if let Some(actions) = self.nodes.get_mut(node) {
            self.count -= usize::from(actions.pop_front().is_some());
            if actions.is_empty() {
                self.nodes.remove(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(node: &str, id: usize) -> LooseAction {
        LooseAction {
            node: node.parse().unwrap(),
            id: format!("a-{id}"),
            mount: "/var".to_owned(),
            finding_id: None,
            actor: "node".to_owned(),
            seen_ns: 0,
        }
    }

    #[test]
    fn a_node_that_acts_without_end_makes_no_other_forget() {
        let mut waiting = Waiting::default();
        waiting.put(action("quiet", 1));
        waiting.put(action("quiet", 1));
        for n in 0..30 {
            for id in 0..MAX_LOOSE_PER_NODE + 5 {
                waiting.put(action(&format!("loud-{n}"), id));
            }
        }
        let quiet: NodeName = "quiet".parse().unwrap();
        assert!(waiting.holds(&quiet, "a-1"));
        assert_eq!(waiting.count, MAX_LOOSE);
        assert_eq!(waiting.nodes.values().map(VecDeque::len).sum::<usize>(), MAX_LOOSE);
        assert!(waiting.nodes.values().all(|a| a.len() <= MAX_LOOSE_PER_NODE));
        assert_eq!(waiting.take(&quiet).len(), 1, "the same twice waits once");
        assert_eq!(waiting.count, MAX_LOOSE - 1);
        waiting.forget(1);
        assert_eq!((waiting.count, waiting.nodes.len()), (0, 0));
    }
}
