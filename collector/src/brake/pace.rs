//! How soon a node is given another permit. Pure.
//!
//! A permit takes a place and three decisions in a journal of which nothing expires, whatever comes of it. So a node whose
//! permit came to nothing (its plan was refused in the end, or nobody began to use it) rests for a while before the next one,
//! longer each time until a cleanup of its went well; and no node has more than [`MAX_AN_HOUR`], whatever it says.
//!
//! Limits: at most [`MAX_NODES`] nodes are remembered, each for an hour after its last permit; a restart of the collector
//! forgets them.

use std::collections::BTreeMap;

use dogwatch::record::NodeName;

use crate::wording::span;

const SECOND_NS: u64 = 1_000_000_000;
/// The first rest: two of a node's own asks.
const FIRST_REST_NS: u64 = 10 * SECOND_NS;
/// The longest: a disk that fills meanwhile is not lost, and twenty nodes that go on like that all day are no flood.
const LAST_REST_NS: u64 = 600 * SECOND_NS;
/// Permits of one node within an hour, one each six seconds: a disk that is full again so soon is cleaned again, and what
/// a node that always says it went well can write in a day is a thirtieth of the journal of decisions.
const MAX_AN_HOUR: u32 = 600;
const HOUR_NS: u64 = 3_600 * SECOND_NS;
/// Nodes that are remembered: more than one collector has.
const MAX_NODES: usize = 20_000;

/// Of every node that had one within the hour.
#[derive(Debug, Clone, Default)]
pub(super) struct Paces {
    nodes: BTreeMap<NodeName, Pace>,
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Rests since a cleanup went well.
    rests: u32,
    rests_until_ns: u64,
    /// Permits since then.
    permits: u32,
    hour_from_ns: u64,
}

impl Paces {
    /// It was given one.
    pub(super) fn granted(&mut self, node: &NodeName, now_ns: u64) {
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(node) {
            // Whoever may go on soonest loses least by being forgotten.
            let soonest = self.nodes.iter().min_by_key(|(_, p)| p.rests_until_ns).map(|(n, _)| n.clone());
            soonest.and_then(|n| self.nodes.remove(&n));
        }
        let fresh = Pace { rests: 0, rests_until_ns: 0, permits: 0, hour_from_ns: now_ns };
        let pace = self.nodes.entry(node.clone()).or_insert(fresh);
        if now_ns.saturating_sub(pace.hour_from_ns) >= HOUR_NS {
            (pace.permits, pace.hour_from_ns) = (0, now_ns);
        }
        pace.permits += 1;
    }

    /// One came to nothing. Those that were out together make one rest.
    pub(super) fn came_to_nothing(&mut self, node: &NodeName, now_ns: u64) {
        let Some(pace) = self.nodes.get_mut(node).filter(|p| p.rests_until_ns <= now_ns) else { return };
        let rest_ns = FIRST_REST_NS.saturating_mul(1 << pace.rests.min(16)).min(LAST_REST_NS);
        pace.rests = pace.rests.saturating_add(1);
        pace.rests_until_ns = now_ns + rest_ns;
    }

    /// One went well, to the end of its watch.
    pub(super) fn went_well(&mut self, node: &NodeName) {
        if let Some(pace) = self.nodes.get_mut(node) {
            (pace.rests, pace.rests_until_ns) = (0, 0);
        }
    }

    /// Why it gets none now, if so.
    pub(super) fn why_not(&self, node: &NodeName, now_ns: u64) -> Option<String> {
        let pace = self.nodes.get(node)?;
        let left =
            |until_ns: u64| span(i64::try_from((until_ns - now_ns).div_ceil(SECOND_NS)).unwrap_or(i64::MAX));
        let hour_until_ns = pace.hour_from_ns + HOUR_NS;
        if now_ns < pace.rests_until_ns {
            let (times, left) = (pace.rests, left(pace.rests_until_ns));
            return Some(format!(
                "its permits came to nothing {times} times in a row, so that the next one is given in {left}"
            ));
        }
        (pace.permits >= MAX_AN_HOUR && now_ns < hour_until_ns).then(|| {
            let left = left(hour_until_ns);
            format!("it has had {MAX_AN_HOUR} permits within an hour; the next one is given in {left}")
        })
    }

    /// Forgets who has had none for long.
    pub(super) fn forget(&mut self, now_ns: u64) {
        self.nodes.retain(|_, p| now_ns < p.hour_from_ns.max(p.rests_until_ns) + HOUR_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_up_to_a_bound_and_end_when_a_cleanup_goes_well() {
        let node: NodeName = "n1".parse().unwrap();
        let mut paces = Paces::default();
        let mut now = 5;
        let mut rests = Vec::new();
        for _ in 0..9 {
            paces.granted(&node, now);
            // All that were out together.
            (0..3).for_each(|_| paces.came_to_nothing(&node, now));
            let from = now;
            while paces.why_not(&node, now).is_some() {
                now += SECOND_NS;
            }
            rests.push((now - from) / SECOND_NS);
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        paces.granted(&node, now);
        paces.came_to_nothing(&node, now);
        assert!(
            paces
                .why_not(&node, now)
                .unwrap()
                .contains("10 times in a row, so that the next one is given in 10 min")
        );
        paces.went_well(&node);
        assert_eq!(paces.why_not(&node, now), None);
        paces.came_to_nothing(&node, now);
        assert!(paces.why_not(&node, now).unwrap().contains("in 10 s"));
    }

    #[test]
    fn an_hour_has_so_many_and_who_had_none_for_long_is_forgotten() {
        let node: NodeName = "n1".parse().unwrap();
        let mut paces = Paces::default();
        for n in 0..MAX_AN_HOUR {
            assert_eq!(paces.why_not(&node, u64::from(n)), None);
            paces.granted(&node, u64::from(n));
        }
        assert!(paces.why_not(&node, HOUR_NS - 1).unwrap().contains("600 permits"));
        assert_eq!(paces.why_not(&node, HOUR_NS), None);
        paces.granted(&node, HOUR_NS);
        assert_eq!(paces.why_not(&node, HOUR_NS), None, "another hour");
        paces.forget(2 * HOUR_NS - 1);
        assert_eq!(paces.nodes.len(), 1);
        paces.forget(2 * HOUR_NS);
        assert_eq!(paces.nodes.len(), 0);
    }
}
