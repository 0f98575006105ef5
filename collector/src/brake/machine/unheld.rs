//! Mounts that do not hold: they are full again after each of several cleanups.
//!
//! On one node that is its writer's doing: the node leaves the mount alone by itself, people are told, and the cleanup
//! proves nothing. Where it comes to pass on two nodes under one policy, the rule may be what is wrong: what it removes is
//! needed, and made anew. That stops everything. It is remembered for a while ([`LATE_NS`]), of one finding of each node, and
//! forgotten once cleanups were stopped.

use dogwatch::record::{Finding, Hash, NodeName, RecordRef};

use super::super::ledger::LATE_NS;
use super::Brake;
use super::what::{blame, by_finding};
use crate::store::decision::What;

/// Most nodes that are remembered; more than have places.
const MAX_UNHELD: usize = 1_000;

/// That a mount of a node did not hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unheld {
    /// Under which policy; `None`: its cleanup ended before a restart.
    policy: Option<Hash>,
    /// Until when it counts; from the next tick on.
    until_ns: Option<u64>,
}

impl Brake {
    /// A mount of a node does not hold, which `finding` says and is news; `why` in words.
    pub(super) fn observe_unheld(
        &mut self,
        node: &NodeName,
        finding: &Finding,
        why: &str,
        cites: Vec<RecordRef>,
    ) -> Vec<What> {
        let mount = finding.subject.name.as_str();
        let of_mount = self.permits_to_blame(node).find(|p| p.mount == mount).map(|p| p.action.as_str());
        let Some(action) = of_mount.or_else(|| self.to_blame(node)).map(str::to_owned) else {
            return Vec::new();
        };
        let recent = || self.recent.iter().find(|r| r.node == *node && r.action == action)?.policy;
        let policy = self.ledger.permit(node, &action).map(|p| p.policy).or_else(recent);
        self.prove_nothing(node, mount, &action);
        let other = self.unheld_elsewhere(node, policy).map(|(other, of)| (other.clone(), of));
        if self.unheld.len() < MAX_UNHELD || self.unheld.contains_key(node) {
            self.unheld.insert(node.clone(), Unheld { policy, until_ns: None });
        }
        let stop = |(other, of): (NodeName, Option<Hash>)| {
            let under = match (policy, of) {
                (Some(_), Some(_)) => "under one policy ",
                _ => "(of one nobody knows under which policy, since it ended before the collector's start) ",
            };
            let why = format!("cleanups {under}hold neither on node {other} nor on node {node}: {why}");
            blame(why, node, &action, cites, by_finding(finding, self.mount_of(node, &action)))
        };
        other.map(stop).into_iter().collect()
    }

    /// None of the cleanups of a mount that are watched held, whosever doing that is.
    pub(super) fn prove_nothing(&mut self, node: &NodeName, mount: &str, action: &str) {
        for permit in self.ledger.permits.iter().filter(|p| p.node == *node) {
            if let Some(live) = self.live.get_mut(&(node.clone(), permit.action.clone())) {
                live.unheld |= permit.mount == mount || permit.action == action;
            }
        }
    }

    /// Lets what was a while ago count no more.
    pub(super) fn forget_unheld(&mut self, now_ns: u64) {
        self.unheld.values_mut().for_each(|u| u.until_ns = u.until_ns.or(Some(now_ns + LATE_NS)));
        self.unheld.retain(|_, u| u.until_ns.is_none_or(|until| now_ns < until));
    }

    /// Another node of which a mount did not hold lately, and under which policy. Of what ended before a restart nobody knows it:
    /// it may be any.
    fn unheld_elsewhere(&self, node: &NodeName, policy: Option<Hash>) -> Option<(&NodeName, Option<Hash>)> {
        let may_be = |of: Option<Hash>| of.is_none() || policy.is_none() || of == policy;
        let others = self.unheld.iter().filter(|(other, u)| *other != node && may_be(u.policy));
        others.map(|(other, u)| (other, u.policy)).next()
    }
}
