//! Mounts that do not hold: they are full again after each of several cleanups.
//!
//! On one node that is its writer's doing: the node leaves the mount alone by itself, people are told, and the cleanup
//! proves nothing. Where it comes to pass on two nodes under one policy, the rule may be what is wrong: what it removes is
//! needed, and made anew. That stops everything. It is remembered as long as a cleanup's permit is, out or ended a while ago,
//! and forgotten once cleanups were stopped.

use dogwatch::record::{Hash, NodeName, RecordRef};

use super::Brake;
use super::what::blame;
use crate::store::decision::What;

impl Brake {
    /// A mount of a node does not hold, which is news; `why` in words.
    pub(super) fn observe_unheld(
        &mut self,
        node: &NodeName,
        mount: &str,
        why: &str,
        cites: Vec<RecordRef>,
    ) -> Vec<What> {
        let of_mount = self.permits_to_blame(node).find(|p| p.mount == mount).map(|p| p.action.as_str());
        let Some(action) = of_mount.or_else(|| self.to_blame(node)).map(str::to_owned) else {
            return Vec::new();
        };
        let is_it = |of: &NodeName, id: &str| of == node && id == action;
        let mut policy = self.ledger.permit(node, &action).map(|p| p.policy);
        // None of those that are watched held.
        for permit in self.ledger.permits.iter().filter(|p| p.node == *node) {
            if let Some(live) = self.live.get_mut(&(node.clone(), permit.action.clone())) {
                live.unheld |= permit.mount == mount || permit.action == action;
            }
        }
        for recent in self.recent.iter_mut().filter(|r| is_it(&r.node, &r.action)) {
            recent.unheld = true;
            policy = recent.policy;
        }
        let other = self.unheld_elsewhere(node, policy).cloned();
        let stop = |other| {
            let why =
                format!("cleanups under one policy hold neither on node {other} nor on node {node}: {why}");
            blame(why, node, &action, cites)
        };
        other.map(stop).into_iter().collect()
    }

    /// Another node of which a mount did not hold lately. Of what ended before a restart nobody knows the policy: it may be
    /// any.
    fn unheld_elsewhere(&self, node: &NodeName, policy: Option<Hash>) -> Option<&NodeName> {
        let may_be = |of: Option<Hash>| of.is_none() || policy.is_none() || of == policy;
        let out = self.ledger.permits.iter().filter(|p| {
            let live = self.live.get(&(p.node.clone(), p.action.clone()));
            p.node != *node && !p.doubted && live.is_some_and(|l| l.unheld) && may_be(Some(p.policy))
        });
        let ended =
            self.recent.iter().filter(|r| r.node != *node && !r.doubted && r.unheld && may_be(r.policy));
        out.map(|p| &p.node).chain(ended.map(|r| &r.node)).next()
    }
}
