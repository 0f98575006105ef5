//! Nodes that fall silent: those that may have died of their cleanup, and those that were taken away.

use super::*;
use crate::brake::ledger::LATE_NS;

fn silent(desk: &mut Desk, i: usize) -> bool {
    let id = format!("f-silent-{}", desk.now);
    let bad = Finding { id, subject: Subject::new("node", "n"), ..finding("node-silent", Severity::High, 1) };
    let out = desk.brake.observe_finding(&node(i), &bad, None);
    let stops = !out.is_empty();
    desk.decide(out);
    stops
}

/// A node that has begun.
pub(super) fn begun() -> Desk {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
    desk
}

/// One whose cleanup is over, and is watched.
fn watched() -> Desk {
    let mut desk = begun();
    desk.act(0, ActionState::Done, &[ObjectOutcome::Removed], 100);
    desk
}

#[test]
fn a_node_that_goes_away_after_its_watch_stops_nothing_and_one_that_dies_of_its_cleanup_everything() {
    assert!(silent(&mut begun(), 0), "amid its cleanup");
    let mut desk = watched();
    desk.now += 60 * SECOND;
    desk.settle();
    assert!(silent(&mut desk, 0), "within the watch");
    let stopped = desk.brake.ledger().stopped().unwrap().clone();
    let said = super::super::tell::remedy(&stopped).unwrap();
    assert!(said.contains("rebooted") && !said.contains("remove its state folder"), "{said}");
    // Rebooted, preempted, scaled down; other things that show late still count.
    for later in [SECOND, 60 * SECOND, LATE_NS / 2] {
        let mut desk = watched();
        desk.now += 121 * SECOND;
        desk.settle();
        assert_eq!((desk.brake.places().len(), desk.brake.ledger().successes(&NEW)), (0, 1));
        desk.now += later;
        desk.settle();
        assert!(!silent(&mut desk, 0), "{later}");
        let bad = finding("kernel-trouble", Severity::High, 1);
        assert!(!desk.brake.observe_finding(&node(0), &bad, None).is_empty(), "{later}");
    }
    // It has another place by then: it may be that cleanup's doing.
    let mut desk = watched();
    desk.now += 121 * SECOND;
    desk.settle();
    desk.brake.ask(Ask { action: "a-again".to_owned(), ..ask(0, NEW) }, desk.now);
    desk.settle();
    assert!(!silent(&mut desk, 0), "that has not begun");
    let began = action("a-again", ActionState::Started, &[], 0);
    desk.brake.observe_action(&node(0), &began, cite(&node(0)));
    desk.now += SECOND;
    assert!(silent(&mut desk, 0));
}

#[test]
fn a_node_that_died_within_its_watch_stops_everything_although_that_is_noticed_after_it() {
    let mut desk = watched();
    desk.now += 119 * SECOND;
    desk.settle();
    // Its last word. That it is silent is said a minute later.
    for _ in 0..61 {
        desk.now += SECOND;
        desk.settle_without(&[0]);
        assert_eq!(desk.brake.places().len(), 1, "nobody knows whether it outlived the watch");
    }
    assert_eq!((desk.brake.unheard(desk.now), desk.brake.overdue(desk.now)), (1, 0));
    assert!(silent(&mut desk, 0));
    // Whoever releases has looked: its place is free again.
    desk.decide(vec![What::BrakeReleased { reason: "it burned".to_owned(), past: Vec::new() }]);
    desk.settle_without(&[0]);
    assert_eq!((desk.brake.places().len(), desk.brake.proven()), (0, vec![]));
    // One that speaks again goes on.
    let mut desk = watched();
    desk.now += 150 * SECOND;
    desk.settle_without(&[0]);
    assert_eq!(desk.brake.places().len(), 1);
    desk.settle();
    assert_eq!((desk.brake.places().len(), desk.brake.ledger().successes(&NEW)), (0, 1));
}

#[test]
fn a_restart_within_the_watch_waits_for_the_node_and_no_place_is_kept_for_ever() {
    let desk = watched();
    let ledger = desk.brake.ledger().clone();
    let mut desk = Desk { brake: Brake::new(settings(3), ledger, 5), journal: Vec::new(), now: 5 };
    desk.now += 150 * SECOND;
    desk.settle_without(&[0]);
    let mut dead = Desk { brake: desk.brake.clone(), journal: Vec::new(), now: desk.now };
    assert!(silent(&mut dead, 0), "it may have died while nobody listened");
    // Where silence is borne with for hours, a place is not kept for as long, and nothing is proven.
    desk.now = 5 + 120 * SECOND + LATE_NS - 1;
    desk.settle_without(&[0]);
    assert_eq!(desk.brake.places().len(), 1);
    desk.now += 1;
    desk.settle_without(&[0]);
    assert_eq!((desk.brake.places().len(), desk.tripped()), (0, None));
    assert_eq!(desk.brake.ledger().successes(&NEW), 0);
}

proptest! {
    /// Its cleanup ends, its last word comes, and the silence is said, at whatever moments; what is due is looked at as often.
    #[test]
    fn a_node_whose_last_word_comes_within_its_watch_stops_everything_and_one_after_it_nothing(
        last_word in 0..400u64,
        notice in 0..600u64,
        step in 1..30u64,
    ) {
        let mut desk = watched();
        let until = 120;
        for second in 0..=last_word + notice {
            desk.now = second * SECOND;
            // Whether each word is heard of at once or somewhat later.
            if second % step == 0 || second == last_word {
                desk.settle_without(if second <= last_word { &[] } else { &[0] });
            }
        }
        prop_assert_eq!(silent(&mut desk, 0), last_word < until);
    }
}
