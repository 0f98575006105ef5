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
    let release = || vec![What::BrakeReleased { reason: "well".to_owned(), past: Vec::new() }];
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
    for what in [release(), pause(), release()] {
        desk.now += 1;
        desk.decide(what);
    }
    assert!(desk.brake.ledger().revision > lost.revision, "its number alone would not tell");
    assert!(!desk.brake.ledger().knows(lost));
    let found = |past| What::BrakeTripped {
        reason: "found".to_owned(),
        finding: String::new(),
        node: None,
        action: None,
        cites: Vec::new(),
        past: Some(past),
        cause: None,
    };
    desk.now += 1;
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

#[test]
fn a_stop_that_stands_twice_is_one_state() {
    let stop = |wall_ns, reason: &str| Decision {
        wall_ns,
        actor: "alice".to_owned(),
        what: What::BrakePaused { reason: reason.to_owned() },
    };
    let mut once = Ledger::default();
    let mut twice = Ledger::default();
    let stops = [stop(1, "look"), stop(2, "look"), stop(2, "again")];
    stops.iter().for_each(|d| once.apply(d));
    // Nobody knew whether the first try got there, so all of them were written again.
    stops.iter().chain(&stops).for_each(|d| twice.apply(d));
    assert_eq!((once.revision, once.told.len()), (3, 3));
    assert_eq!((once.revision, once.lineage, once.told), (twice.revision, twice.lineage, twice.told));
}

#[test]
fn a_node_that_says_it_acts_has_begun_though_its_record_is_late() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.brake.ask(Ask { acting: true, ..ask(0, NEW) }, desk.now);
    desk.now += 60 * SECOND + GRACE_NS;
    desk.settle();
    assert!(desk.tripped().unwrap().contains("has not said how its cleanup a-0 ended"));
}

#[test]
fn an_end_that_comes_after_its_permit_lapsed_is_judged_all_the_same() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.now += 60 * SECOND + GRACE_NS;
    desk.settle();
    assert_eq!((desk.tripped(), desk.brake.ledger().permits.len()), (None, 0), "it seemed given up");
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
    assert_eq!(desk.tripped(), None);
    desk.act(0, ActionState::Failed, &[ObjectOutcome::Failed], 0);
    assert!(desk.tripped().unwrap().starts_with("node node-000: "), "{:?}", desk.tripped());
}

#[test]
fn a_node_that_makes_findings_up_takes_no_room_from_others() {
    let mut desk = Desk::new(settings(3));
    let is_news = |desk: &mut Desk, i, id: &str| desk.brake.know(&node(i), id);
    (0..64).for_each(|n| assert!(is_news(&mut desk, 0, &format!("f-{n}"))));
    assert!(is_news(&mut desk, 0, "f-64") && is_news(&mut desk, 0, "f-64"), "beyond its bound each is news");
    assert!(!is_news(&mut desk, 0, "f-3"));
    assert!(is_news(&mut desk, 1, "f-3") && !is_news(&mut desk, 1, "f-3"));
    let long = "x".repeat(4_096);
    assert!(
        is_news(&mut desk, 1, &long) && is_news(&mut desk, 1, &long),
        "and none is remembered at such length"
    );
}

#[test]
fn what_stopped_everything_once_does_not_after_the_release_and_names_its_node_and_the_remedy() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
    let ill = |desk: &mut Desk, state, id: &str| {
        let finding =
            Finding { state, id: id.to_owned(), ..finding("crash-loop", Severity::High, desk.now as i64) };
        let out = desk.brake.observe_finding(&node(0), &finding, Some(cite(&node(0))));
        desk.decide(out);
    };
    ill(&mut desk, FindingState::Raised, "f-1");
    let stopped = desk.brake.ledger().tripped.clone().unwrap();
    let raised = super::super::tell::raised(&stopped);
    for words in ["node-000", "stop the agent", "brake release"] {
        assert!(raised.explanation.contains(words), "{words}: {}", raised.explanation);
    }
    desk.decide(vec![What::BrakeReleased { reason: "looked".to_owned(), past: Vec::new() }]);
    // The same, over and again.
    for state in [FindingState::Updated, FindingState::Cleared, FindingState::Raised] {
        ill(&mut desk, state, "f-1");
        assert_eq!(desk.tripped(), None, "{state:?}");
    }
    // Nor does anything else that its node says of that cleanup, however it calls it: somebody looked at it.
    ill(&mut desk, FindingState::Raised, "f-2");
    for _ in 0..3 {
        desk.act(0, ActionState::Failed, &[ObjectOutcome::Failed], 0);
        assert_eq!(desk.tripped(), None);
        desk.now += 130 * SECOND;
        desk.settle();
    }
    assert_eq!(desk.brake.ledger().permits.len(), 0, "and late");
    ill(&mut desk, FindingState::Raised, "f-3");
    assert_eq!(desk.tripped(), None);
    // Another cleanup is another matter, and so is another node's.
    for i in 1..3 {
        let next = Ask { action: format!("a-{i}"), node: node(i - 1), ..ask(0, NEW) };
        desk.brake.ask(next, desk.now);
        assert_eq!(desk.settle(), [node(i - 1)]);
        let said = |desk: &mut Desk, state, outcome| {
            let action = action(&format!("a-{i}"), state, &[outcome], 0);
            let out = desk.brake.observe_action(&node(i - 1), &action, cite(&node(i - 1)));
            desk.decide(out);
        };
        said(&mut desk, ActionState::Started, ObjectOutcome::Pending);
        said(&mut desk, ActionState::Failed, ObjectOutcome::Failed);
        assert!(desk.tripped().unwrap().contains(&format!("a-{i} failed")), "{:?}", desk.tripped());
        desk.decide(vec![What::BrakeReleased { reason: "looked".to_owned(), past: Vec::new() }]);
        said(&mut desk, ActionState::Failed, ObjectOutcome::Failed);
        assert_eq!(desk.tripped(), None);
        desk.now += 130 * SECOND;
        desk.settle();
    }
}

#[test]
fn a_permit_that_ended_in_a_fold_that_was_taken_up_is_judged_late_all_the_same() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
    let mut ledger = desk.brake.ledger().clone();
    let what = What::PermitEnded {
        node: node(0),
        action: "a-0".to_owned(),
        how: crate::store::decision::PermitEnd::Well,
    };
    ledger.apply(&Decision { wall_ns: 9, actor: "collector".to_owned(), what });
    desk.brake.take_up(ledger, desk.now);
    assert_eq!(desk.brake.places().len(), 0);
    let bad = finding("crash-loop", Severity::High, 9);
    assert_eq!(desk.brake.observe_finding(&node(0), &bad, None).len(), 1);
}

/// The end that a restarted agent says of the cleanup in whose midst it was killed.
fn interrupted(desk: &mut Desk, i: usize) {
    let outcomes = [ObjectOutcome::Removed, ObjectOutcome::Skipped, ObjectOutcome::Failed];
    let mut action = action(&format!("a-{i}"), ActionState::Failed, &outcomes, 100);
    action.interrupt("1 of 3 objects went");
    let out = desk.brake.observe_action(&node(i), &action, cite(&node(i)));
    desk.decide(out);
}

#[test]
fn an_agent_that_was_killed_amid_its_cleanup_and_says_so_stops_nothing_and_proves_nothing() {
    let mut desk = Desk::new(Settings { canary_successes: 1, canary_nodes: 1, ..settings(3) });
    for i in 0..2 {
        desk.brake.ask(ask(i, NEW), desk.now);
    }
    assert_eq!(desk.settle(), [node(0)]);
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending; 3], 0);
    // Nearly as long away as a node may be.
    desk.now += 60 * SECOND + GRACE_NS - SECOND;
    assert_eq!((desk.settle(), desk.tripped()), (vec![], None));
    interrupted(&mut desk, 0);
    assert_eq!(desk.tripped(), None);
    // It is watched as after any cleanup, and its place is free then.
    desk.brake.ask(ask(1, NEW), desk.now);
    assert_eq!(desk.settle(), []);
    desk.now += 120 * SECOND;
    desk.brake.ask(ask(1, NEW), desk.now);
    assert_eq!((desk.settle(), desk.tripped()), (vec![node(1)], None));
    assert_eq!(desk.brake.proven(), Vec::<Hash>::new());

    // What goes wrong on such a node while it is watched stops everything all the same.
    desk.act(1, ActionState::Started, &[ObjectOutcome::Pending; 3], 0);
    interrupted(&mut desk, 1);
    let ill = finding("crash-loop", Severity::High, desk.now as i64);
    let out = desk.brake.observe_finding(&node(1), &ill, Some(cite(&node(1))));
    desk.decide(out);
    assert!(desk.tripped().unwrap().contains("crash-loop"), "{:?}", desk.tripped());
}

#[test]
fn an_agent_that_was_killed_and_says_nothing_or_too_late_stops_everything_once() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
    desk.now += 60 * SECOND + GRACE_NS;
    desk.settle();
    assert!(desk.tripped().unwrap().contains("has not said how its cleanup a-0 ended"));
    desk.decide(vec![What::BrakeReleased { reason: "it was rebooted".to_owned(), past: Vec::new() }]);
    interrupted(&mut desk, 0);
    assert_eq!(desk.tripped(), None, "that was what was waited for");
}
