//! What one node can take of permits, whatever it asks for and says; and what ended before a restart.

use super::*;
use crate::brake::ledger::{LATE_NS, MAX_AT_WORK_OF_NODE, MAX_PERMITS};
use crate::brake::machine::MAX_WAITING_OF_NODE;
use crate::store::decision::PermitEnd;

const DAY: u64 = 86_400 * SECOND;

/// As many asks of a node as may wait, each for another mount and a new action.
fn flood(desk: &mut Desk, i: usize) {
    for n in 0..MAX_WAITING_OF_NODE {
        let (action, mount) = (format!("a-{i}-{n}-{}", desk.journal.len()), format!("/made/up/{n}"));
        desk.brake.ask(Ask { action, mount, ..ask(i, OLD) }, desk.now);
    }
}

#[test]
fn one_node_has_few_permits_however_often_it_asks_and_the_next_node_its_place_at_once() {
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    for _ in 0..40 {
        flood(&mut desk, 0);
        desk.settle();
    }
    assert_eq!(desk.brake.ledger().permits.len(), MAX_AT_WORK_OF_NODE);
    let news = desk.brake.news(None, desk.now);
    assert!(format!("{:?}", news[0].1).contains("8 permits of this node are out"), "{:?}", news[0]);
    desk.brake.ask(ask(1, OLD), desk.now);
    assert_eq!(desk.settle(), [node(1)]);
    // A disk that is full again as soon as it was cleaned is cleaned again, as long as that goes well.
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    for n in 0..100 {
        let id = format!("b-{n}");
        desk.brake.ask(Ask { action: id.clone(), ..ask(0, OLD) }, desk.now);
        assert_eq!(desk.settle(), [node(0)], "{n}");
        for (state, outcome) in
            [(ActionState::Started, ObjectOutcome::Pending), (ActionState::Done, ObjectOutcome::Removed)]
        {
            let told = action(&id, state, &[outcome], 100);
            let decided = desk.brake.observe_action(&node(0), &told, cite(&node(0)));
            desk.decide(decided);
        }
        assert_eq!(desk.tripped(), None, "{n}");
        desk.now += SECOND / 5;
    }
    // As many nodes as it takes to have all that may be out.
    let mut desk = Desk::new(settings(500));
    desk.prove(OLD);
    for i in 0..2 * MAX_PERMITS / MAX_AT_WORK_OF_NODE {
        flood(&mut desk, i);
        desk.settle();
    }
    desk.brake.ask(ask(800, OLD), desk.now);
    assert_eq!(desk.settle(), [node(800)], "of {} out", desk.brake.ledger().permits.len());
}

#[test]
fn a_node_whose_permits_come_to_nothing_costs_little_and_keeps_nobody_waiting() {
    // Refused each time, and never begun.
    for refuses in [true, false] {
        let mut desk = Desk::new(settings(1));
        desk.prove(OLD);
        let (from, began) = (desk.journal.len(), desk.now);
        let mut kept_out = 0;
        while desk.now < began + DAY {
            flood(&mut desk, 0);
            desk.settle();
            let out: Vec<String> = desk.brake.ledger().permits.iter().map(|p| p.action.clone()).collect();
            for id in out.iter().filter(|_| refuses) {
                let refused = action(id, ActionState::Refused, &[], 0);
                let decided = desk.brake.observe_action(&node(0), &refused, cite(&node(0)));
                desk.decide(decided);
            }
            if desk.brake.places().is_empty() {
                // Another one has its turn whenever it has no place.
                let mut other = Desk { brake: desk.brake.clone(), journal: Vec::new(), now: desk.now };
                other.brake.ask(Ask { severity: Severity::Medium, ..ask(1, OLD) }, desk.now);
                kept_out += u64::from(other.settle() != [node(1)]);
            }
            desk.now += 5 * SECOND;
        }
        let granted =
            desk.journal[from..].iter().filter(|d| matches!(d.what, What::PermitGranted { .. })).count();
        // Some 1.5 KiB each, and two ends of 400 bytes: under 3 MiB a day.
        assert!((100..1_250).contains(&granted), "refuses: {refuses}; {granted} permits in a day");
        assert_eq!((kept_out, desk.tripped()), (0, None), "refuses: {refuses}");
        assert!(!refuses || desk.brake.news(None, desk.now)[0].1 != Answer::Granted);
    }
}

#[test]
fn what_a_lying_node_says_went_well_costs_no_more_than_so_many_an_hour() {
    let mut desk = Desk::new(Settings { watch: Duration::from_secs(1), ..settings(1) });
    desk.prove(OLD);
    let (from, began) = (desk.journal.len(), desk.now);
    while desk.now < began + DAY {
        flood(&mut desk, 0);
        desk.settle();
        let out: Vec<String> = desk.brake.ledger().permits.iter().map(|p| p.action.clone()).collect();
        for id in out {
            let done = action(&id, ActionState::Done, &[], 1);
            let decided = desk.brake.observe_action(&node(0), &done, cite(&node(0)));
            desk.decide(decided);
        }
        desk.now += 5 * SECOND;
    }
    let granted =
        desk.journal[from..].iter().filter(|d| matches!(d.what, What::PermitGranted { .. })).count();
    assert!((10_000..15_500).contains(&granted), "{granted} permits in a day");
}

#[test]
fn a_restart_remembers_what_ended_a_while_ago_but_not_what_a_person_has_looked_at() {
    let bad = finding("crash-loop", Severity::High, 1);
    // How long the collector was away, and whether it stops for what shows then.
    for (away, released, stops) in
        [(60 * SECOND, false, true), (LATE_NS, false, false), (60 * SECOND, true, false)]
    {
        let mut desk = Desk::new(settings(3));
        desk.brake.ask(ask(0, NEW), desk.now);
        desk.settle();
        desk.well(0);
        desk.settle();
        assert!(desk.brake.places().is_empty());
        let well =
            desk.journal.iter().any(|d| matches!(d.what, What::PermitEnded { how: PermitEnd::Well, .. }));
        assert!(well, "{:?}", desk.journal);
        if released {
            let trip = What::BrakeTripped {
                reason: "look".to_owned(),
                finding: String::new(),
                node: None,
                action: None,
                cites: Vec::new(),
                past: None,
                cause: None,
            };
            desk.decide(vec![trip, What::BrakeReleased { reason: "well".to_owned(), past: Vec::new() }]);
        }
        let mut ledger = Ledger::default();
        desk.journal.iter().for_each(|d| ledger.apply(d));
        let row = serde_json::to_vec(&ledger).unwrap();
        assert_eq!(serde_json::from_slice::<Ledger>(&row).unwrap(), ledger);
        let mut again = Brake::new(settings(3), ledger, 5);
        again.recall((desk.now + away) as i64, 5);
        assert_eq!(again.ended().count(), usize::from(stops));
        // What the store says of its action.
        again.set_begun(&node(0), "a-0", true);
        assert_eq!(!again.observe_finding(&node(0), &bad, None).is_empty(), stops, "{away} {released}");
    }
}
