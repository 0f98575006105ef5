//! Which nodes are there, and whether those that have a place were heard of: asked of the registry at each tick.

use std::time::Instant;

use super::super::{Fleet, Seen};
use super::Keeper;

impl Keeper {
    pub(super) fn call_roll(&mut self) {
        let now = self.now_ns();
        let at = |at: Instant| {
            u64::try_from(at.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
        };
        let roll = self.nodes.roll();
        let heard: Vec<_> = self
            .brake
            .places()
            .into_iter()
            .filter_map(|node| {
                // Whom the registry does not know nobody calls silent.
                let known = roll.binary_search_by(|r| r.node.cmp(node)).ok().and_then(|i| roll.get(i));
                known.map_or(Some(now), |r| r.heard.map(at)).map(|at_ns| (node.clone(), at_ns))
            })
            .collect();
        let seen = roll.into_iter().map(|r| Seen {
            heard_ns: if r.connected { Some(now) } else { r.heard.map(at) },
            known_ns: at(r.since),
            node: r.node,
            policy: r.policy,
        });
        let fleet = Fleet::at(now, seen);
        heard.iter().for_each(|(node, at_ns)| self.brake.heard(node, *at_ns));
        self.brake.set_fleet(fleet);
    }
}
