//! Which nodes are there: of whom a share may clean, and on how many a policy must have gone well.

use super::*;
use crate::brake::fleet::{GONE_NS, THERE_NS};

fn seen(i: usize, policy: Option<Hash>, heard_ns: Option<u64>, known_ns: u64) -> Seen {
    Seen { node: node(i), policy, heard_ns, known_ns }
}

#[test]
fn whoever_enrolled_once_does_not_raise_the_limit_for_good() {
    let now = 30 * GONE_NS;
    let mut desk = Desk::new(Settings { max_share: 0.05, ..settings(3) });
    // A month of nodes that came and went, and a hundred that are there.
    let came = (100..900).map(|i| seen(i, Some(OLD), Some(i as u64 * GONE_NS / 30), 0));
    let there = (0..100).map(|i| seen(i, Some(OLD), Some(now - 5 * SECOND), 0));
    desk.brake.set_fleet(Fleet::at(now, came.chain(there)));
    assert_eq!(desk.brake.limit(), 5);
    // As many of them are there at a time as are heard of.
    for (ago, limit) in [(0, 10), (THERE_NS - 1, 10), (THERE_NS, 3)] {
        desk.brake.set_fleet(Fleet::at(now, (0..200).map(|i| seen(i, None, Some(now - ago), 0))));
        assert_eq!(desk.brake.limit(), limit, "{ago}");
    }
}

#[test]
fn after_a_start_the_limit_grows_as_nodes_come_back_and_none_makes_fewer_be_asked_for() {
    let mut desk = Desk::new(Settings { max_share: 0.05, ..settings(3) });
    let back = |there: usize| {
        Fleet::at(9 * SECOND, (0..400).map(|i| seen(i, Some(NEW), (i < there).then_some(8 * SECOND), 0)))
    };
    for (there, limit) in [(0, 3), (59, 3), (80, 4), (400, 20)] {
        desk.brake.set_fleet(back(there));
        assert_eq!((desk.brake.limit(), desk.brake.provers_needed(&NEW)), (limit, 2), "{there}");
    }
    // Whoever asks is there.
    desk.brake.set_fleet(back(79));
    desk.brake.ask(ask(200, NEW), 9 * SECOND);
    assert_eq!(desk.brake.limit(), 4);
}

#[test]
fn a_node_that_is_gone_for_good_keeps_no_pool_from_proving_its_policy() {
    let mut desk = Desk::new(settings(3));
    let pool = |ago| {
        Fleet::at(GONE_NS, [seen(0, Some(NEW), Some(GONE_NS), 0), seen(1, None, Some(GONE_NS - ago), 0)])
    };
    for (ago, needed) in [(GONE_NS - 1, 2), (GONE_NS, 1)] {
        desk.brake.set_fleet(pool(ago));
        assert_eq!(desk.brake.provers_needed(&NEW), needed, "{ago}");
    }
    // Nor one that was never heard of since the start.
    for (now, needed) in [(GONE_NS - 1, 2), (GONE_NS, 1)] {
        desk.brake.set_fleet(Fleet::at(now, [seen(0, Some(NEW), Some(now), 0), seen(1, Some(NEW), None, 0)]));
        assert_eq!(desk.brake.provers_needed(&NEW), needed, "{now}");
    }
}

proptest! {
    #[test]
    fn the_limit_is_a_share_of_who_is_there_and_a_start_forgets_nobody_who_may_prove(
        nodes in prop::collection::vec((prop::option::of(0..3 * GONE_NS), 0..3u8), 0..300),
        max_nodes in 1..20u32,
        share in 0.0..1.0f64,
    ) {
        let now = 3 * GONE_NS;
        let of = |kind: u8| [None, Some(OLD), Some(NEW)][usize::from(kind)];
        let mut desk = Desk::new(Settings { max_share: share, ..settings(max_nodes) });
        let live = nodes.iter().enumerate().map(|(i, (heard, kind))| seen(i, of(*kind), *heard, 0));
        desk.brake.set_fleet(Fleet::at(now, live));
        let there = nodes.iter().filter(|(heard, _)| heard.is_some_and(|at| now - at < THERE_NS)).count();
        let wanted = ((there as f64 * share) as usize).max(max_nodes as usize);
        prop_assert_eq!(desk.brake.limit(), wanted);
        let needed = desk.brake.provers_needed(&NEW);
        // The same nodes after a start, of which none was heard of yet.
        let again = nodes.iter().enumerate().map(|(i, (_, kind))| seen(i, of(*kind), None, now));
        desk.brake.set_fleet(Fleet::at(now, again));
        prop_assert_eq!(desk.brake.limit(), max_nodes as usize);
        // As many as are wanted where nobody runs it: whoever asks next does.
        let runs = |(heard, kind): &(Option<u64>, u8)| *kind != 1 && heard.is_some_and(|at| now - at < GONE_NS);
        prop_assert!(desk.brake.provers_needed(&NEW) >= needed || !nodes.iter().any(runs));
    }
}
