//! What is kept, what is lost, and what is done in doubt.

use super::*;
use crate::brake::machine::GRACE_NS;
use crate::store::decision::Past;

#[test]
fn an_end_that_could_not_be_kept_is_decided_again_and_is_no_lapse() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
    let done = action("a-0", ActionState::Done, &[ObjectOutcome::Removed], 100);
    let lost = desk.brake.observe_action(&node(0), &done, cite(&node(0)));
    assert_eq!(lost.len(), 1, "the journal took nothing");
    for _ in 0..5 {
        desk.now += 60 * SECOND + GRACE_NS;
        assert_eq!(desk.brake.due(desk.now), lost, "and takes nothing yet");
    }
    desk.settle();
    desk.now += 121 * SECOND;
    desk.settle();
    assert_eq!((desk.tripped(), desk.brake.ledger().permits.len()), (None, 0));
    assert_eq!(desk.brake.ledger().successes(&NEW), 1, "and it went well");
}

#[test]
fn states_of_another_history_are_not_known_and_one_that_was_dealt_with_is() {
    let mut desk = Desk::new(settings(1));
    let pause = || vec![What::BrakePaused { reason: "look".to_owned() }];
    let release = || vec![What::BrakeReleased { reason: "well".to_owned() }];
    desk.decide(pause());
    let copy = Desk { brake: desk.brake.clone(), journal: Vec::new(), now: 1 };
    let told = |desk: &Desk| desk.brake.ledger().told.last().copied().unwrap();
    let both = told(&desk);
    desk.decide(release());
    desk.now += 1;
    desk.decide(pause());
    let lost = told(&desk);
    // The collector comes back as it was before, and goes on from there.
    let mut desk = copy;
    assert!(desk.brake.ledger().knows(both) && !desk.brake.ledger().knows(lost));
    desk.decide(release());
    desk.decide(pause());
    desk.decide(release());
    assert!(desk.brake.ledger().revision > lost.revision, "its number alone would not tell");
    assert!(!desk.brake.ledger().knows(lost));
    let found = |past| What::BrakeTripped {
        reason: "found".to_owned(),
        finding: String::new(),
        node: None,
        action: None,
        cites: Vec::new(),
        past: Some(past),
    };
    desk.decide(vec![found(lost)]);
    desk.decide(release());
    assert!(desk.brake.ledger().knows(lost) && desk.brake.ledger().stopped().is_none());
    // A later one is overtaken, and one that nobody can have been told uses no numbers up.
    let before = desk.brake.ledger().revision;
    desk.decide(vec![found(Past { revision: before + 10, lineage: 3 })]);
    assert_eq!(desk.brake.ledger().revision, before + 11);
    desk.decide(vec![found(Past { revision: u64::MAX, lineage: 3 })]);
    assert_eq!(desk.brake.ledger().revision, before + 12);
}

#[test]
fn a_decision_that_cannot_be_read_stops_until_a_person_releases() {
    let mut ledger = Ledger::default();
    ledger.apply_unread("kind brake-squeezed");
    let stopped = ledger.stopped().unwrap().clone();
    assert!(
        stopped.reason.contains("brake-squeezed") && stopped.reason.contains("brake release"),
        "{stopped:?}"
    );
    assert!(!stopped.finding.is_empty() && ledger.revision == 1);
    let once = ledger.clone();
    ledger.apply_unread("another");
    assert_eq!(ledger, once, "it is one stop");
}
