//! What ended a while ago: what goes wrong on its node late stops the rest all the same.

use std::collections::BTreeSet;

use dogwatch::record::{Action, ActionState, Hash, NodeName, RecordRef};

use super::super::judge::wrong_action;
use super::super::ledger::{LATE_NS, MAX_ENDED, Permit};
use super::what::{blame, by_cleanup};
use super::{Brake, Live};
use crate::store::decision::What;

/// A permit that ended.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    pub(super) node: NodeName,
    pub(super) action: String,
    /// Whether its cleanup began, as far as anybody heard.
    pub(super) begun: bool,
    pub(super) until_ns: u64,
    granted_wall_ns: i64,
    /// Whether cleanups were stopped since it was granted: what was missed of it then, a person has looked at.
    pub(super) doubted: bool,
    /// Under which policy; `None`: it ended before a restart.
    pub(super) policy: Option<Hash>,
    /// On which mount; likewise.
    mount: Option<String>,
}

impl Brake {
    /// Takes up what ended before a restart; [`Brake::set_begun`] says which of it had begun.
    pub fn recall(&mut self, now_wall_ns: i64, now_ns: u64) {
        let recalled = self.ledger.ended.iter().filter_map(|ended| {
            // A clock that went back says nothing: it counts as just now.
            let age_ns = u64::try_from(now_wall_ns.saturating_sub(ended.wall_ns)).unwrap_or(0);
            let left_ns = LATE_NS.checked_sub(age_ns).filter(|left| *left > 0)?;
            Some(Recent {
                node: ended.node.clone(),
                action: ended.action.clone(),
                begun: false,
                until_ns: now_ns + left_ns,
                granted_wall_ns: ended.granted_wall_ns,
                doubted: false,
                policy: None,
                mount: None,
            })
        });
        self.recent = recalled.collect();
    }

    /// Permits that ended a while ago and of which it counts what was missed: whose, for which action, and since when, wall ns.
    pub fn ended(&self) -> impl Iterator<Item = (&NodeName, &str, i64)> {
        let asked = self.recent.iter().filter(|r| !r.doubted);
        asked.map(|r| (&r.node, r.action.as_str(), r.granted_wall_ns))
    }

    /// Nodes of which a finding may stop everything: those that have a permit, or had one a while ago.
    pub fn judged_nodes(&self) -> BTreeSet<NodeName> {
        let recent = self.recent.iter().map(|r| &r.node);
        self.ledger.permits.iter().map(|p| &p.node).chain(recent).cloned().collect()
    }

    pub(super) fn remember(&mut self, permit: &Permit, live: &Live, now_ns: u64) {
        if self.recent.len() >= MAX_ENDED {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent {
            node: permit.node.clone(),
            action: permit.action.clone(),
            begun: live.begun,
            until_ns: now_ns + LATE_NS,
            granted_wall_ns: permit.granted_wall_ns,
            doubted: permit.doubted,
            policy: Some(permit.policy),
            mount: Some(permit.mount.clone()),
        });
    }

    /// Cleanups were stopped.
    pub(super) fn doubt_recent(&mut self) {
        self.recent.iter_mut().for_each(|r| r.doubted = true);
        self.unheld.clear();
    }

    /// The end of an action whose permit lapsed before its record came.
    pub(super) fn observe_late(&mut self, node: &NodeName, action: &Action, cite: RecordRef) -> Vec<What> {
        let is_it = |r: &&mut Recent| r.node == *node && r.action == action.id;
        let Some(recent) = self.recent.iter_mut().find(is_it) else { return Vec::new() };
        recent.begun |= action.state == ActionState::Started;
        let why = wrong_action(action).filter(|_| action.state != ActionState::Refused);
        let why = why.filter(|_| self.may_trip(node, &action.id));
        let Some(why) = why else { return Vec::new() };
        let cause = by_cleanup(self.mount_of(node, &action.id));
        vec![blame(format!("node {node}: {why}"), node, &action.id, vec![cite], cause)]
    }

    /// The mount of a cleanup whose permit is out or ended a while ago; empty where nobody knows it any more.
    pub(super) fn mount_of(&self, node: &NodeName, action: &str) -> String {
        let recent = || self.recent.iter().find(|r| r.node == *node && r.action == action)?.mount.clone();
        let out = self.ledger.permit(node, action).map(|p| p.mount.clone());
        out.or_else(recent).unwrap_or_default()
    }
}
