//! Whose turn it is, and by what a policy is proven.

use super::*;
use crate::brake::asks::Asks;
use crate::brake::machine::{ASK_LAPSE_NS, MAX_WAITING_OF_NODE, STARVED_NS, TURN_KEPT_NS};

#[test]
fn one_node_proves_nothing_for_the_others_where_there_are_others() {
    for (fleet, well_on, proven) in
        [(1, vec![0; 2], true), (50, vec![0; 5], false), (50, vec![0, 0, 1], true)]
    {
        let mut desk = Desk::new(settings(3));
        desk.brake.set_fleet(Fleet::of((0..fleet).map(|i| (node(i), None))));
        for i in &well_on {
            desk.brake.ask(ask(*i, NEW), desk.now);
            assert_eq!(desk.settle(), [node(*i)]);
            desk.well(*i);
            desk.settle();
        }
        assert_eq!(!desk.brake.proven().is_empty(), proven, "{fleet} nodes, well on {well_on:?}");
    }
    // Another node that waits has the turn, however urgent the one is that went well.
    let mut desk = Desk::new(settings(3));
    desk.brake.set_fleet(Fleet::of((0..50).map(|i| (node(i), Some(NEW)))));
    desk.brake.ask(ask(0, NEW), desk.now);
    desk.settle();
    desk.well(0);
    desk.settle();
    desk.brake.ask(Ask { severity: Severity::Critical, ..ask(0, NEW) }, desk.now);
    desk.brake.ask(ask(1, NEW), desk.now);
    assert_eq!(desk.settle(), [node(1)]);
}

#[test]
fn a_plan_that_is_made_anew_keeps_its_turn() {
    let mut desk = Desk::new(settings(1));
    desk.prove(OLD);
    let began = desk.now;
    // Its plans lapse, and each next one is made a minute later; meanwhile others come who are as urgent.
    for _ in 0..5 {
        desk.brake.ask(ask(0, OLD), desk.now);
        desk.now += 60 * SECOND;
        desk.brake.due(desk.now);
        assert_eq!(desk.brake.waiting(), 0, "it lapsed");
    }
    desk.brake.ask(ask(1, OLD), desk.now);
    desk.brake.ask(Ask { action: "a-new".to_owned(), ..ask(0, OLD) }, desk.now + 1);
    let first = desk.brake.queue(desk.now)[0].clone();
    assert_eq!((first.ask.node, first.since_ns), (node(0), began));
    // Not for ever.
    desk.now += 2 * TURN_KEPT_NS;
    desk.brake.due(desk.now);
    desk.now += TURN_KEPT_NS;
    desk.brake.due(desk.now);
    desk.brake.ask(ask(0, OLD), desk.now);
    assert_eq!(desk.brake.queue(desk.now)[0].since_ns, desk.now);
}

#[test]
fn a_flood_of_one_node_takes_no_turn_and_no_room_from_others() {
    let asks = Asks::default();
    let (to, _answers) = tokio::sync::mpsc::channel(1);
    let flood = 10 * MAX_WAITING_OF_NODE;
    let taken =
        (0..flood).filter(|i| asks.put(Ask { action: format!("a-{i}"), ..ask(0, OLD) }, to.clone())).count();
    assert_eq!(taken, MAX_WAITING_OF_NODE);
    assert!(
        asks.put(Ask { action: "a-0".to_owned(), acting: true, ..ask(0, OLD) }, to.clone()),
        "it is the same one"
    );
    for i in 1..4 {
        assert!(asks.put(ask(i, OLD), to.clone()), "others have room");
    }
    let turns: Vec<_> = asks.take(6).into_iter().map(|(ask, _)| (ask.node, ask.acting)).collect();
    let turn = |i, acting| (node(i), acting);
    assert_eq!(turns[..4], [turn(0, true), turn(1, false), turn(2, false), turn(3, false)]);
    assert_eq!(turns[4..], [turn(0, false), turn(0, false)]);
    assert_eq!(asks.take(flood).len(), MAX_WAITING_OF_NODE - 3);
}

#[test]
fn a_node_that_asks_for_many_mounts_keeps_no_others_out() {
    let mut desk = Desk::new(settings(3));
    desk.decide(vec![What::BrakePaused { reason: "look".to_owned() }]);
    for i in 0..10 * MAX_WAITING_OF_NODE {
        desk.brake.ask(Ask { mount: format!("/made/up/{i}"), ..ask(0, NEW) }, 0);
    }
    desk.brake.ask(ask(1, NEW), 0);
    assert_eq!(desk.brake.waiting(), MAX_WAITING_OF_NODE + 1);
}

#[test]
fn the_most_urgent_is_first_and_nobody_waits_for_ever() {
    let mut desk = Desk::new(settings(1));
    desk.prove(OLD);
    let urgent = |i, severity, seconds| Ask { severity, seconds_to_full: seconds, ..ask(i, OLD) };
    desk.brake.ask(urgent(0, Severity::Medium, None), desk.now);
    desk.brake.ask(urgent(1, Severity::Critical, Some(90.0)), desk.now);
    desk.brake.ask(urgent(2, Severity::Critical, Some(30.0)), desk.now);
    desk.brake.ask(urgent(3, Severity::High, Some(1.0)), desk.now);
    let places = |desk: &mut Desk| -> Vec<(NodeName, usize)> {
        let news = desk.brake.news(None, desk.now);
        let place = |answer: &Answer| match answer {
            Answer::Waiting { place, .. } => *place,
            other => unreachable!("{other:?}"),
        };
        news.iter().map(|(ask, answer)| (ask.node.clone(), place(answer))).collect()
    };
    assert_eq!(places(&mut desk), [(node(2), 1), (node(1), 2), (node(3), 3), (node(0), 4)]);
    assert_eq!(places(&mut desk), [], "nobody asked again");
    // Ever more urgent ones come; the first waits no longer than the bound and those before it.
    let (mut next, began) = (10, desk.now);
    loop {
        desk.brake.ask(urgent(0, Severity::Medium, None), desk.now);
        desk.brake.ask(urgent(next, Severity::Critical, Some(1.0)), desk.now);
        let granted = desk.settle();
        if granted.contains(&node(0)) {
            break;
        }
        for other in granted {
            let i: usize = other.as_str()[5..].parse().unwrap();
            desk.act(i, ActionState::Started, &[ObjectOutcome::Pending], 0);
            desk.act(i, ActionState::Done, &[ObjectOutcome::Removed], 100);
        }
        next += 1;
        desk.now += ASK_LAPSE_NS / 2;
        assert!(desk.now - began <= STARVED_NS + 140 * SECOND, "it starves");
    }
    assert!(desk.now - began >= STARVED_NS, "the urgent were before it");
}

#[test]
fn a_pool_of_one_proves_its_own_policy_and_nobody_proves_one_for_others() {
    let well = |desk: &mut Desk, i: usize, times: usize| {
        for _ in 0..times {
            desk.brake.ask(ask(i, NEW), desk.now);
            assert_eq!(desk.settle(), [node(i)]);
            desk.well(i);
            desk.settle();
        }
    };
    let fleet = |of: &[Option<Hash>]| Fleet::of(of.iter().enumerate().map(|(i, p)| (node(i), *p)));
    let others = [Some(OLD); 50];
    let pool = |own: &[Option<Hash>]| fleet(&[own, &others].concat());
    let proven = |desk: &Desk| desk.brake.proven() == [NEW];
    let mut desk = Desk::new(settings(3));
    desk.brake.set_fleet(pool(&[Some(NEW)]));
    well(&mut desk, 0, 2);
    assert!(proven(&desk), "nobody else runs it");
    // Another one takes it up: it is new there, before anybody counted and after.
    desk.brake.ask(ask(1, NEW), desk.now);
    assert!(!proven(&desk));
    desk.brake.set_fleet(pool(&[Some(NEW), Some(NEW)]));
    assert!(!proven(&desk));
    assert_eq!(desk.settle(), [node(1)]);
    desk.well(1);
    desk.settle();
    assert!(proven(&desk));

    // One that says nothing may run it.
    let mut desk = Desk::new(settings(3));
    desk.brake.set_fleet(pool(&[Some(NEW), None]));
    well(&mut desk, 0, 4);
    assert!(!proven(&desk));
    desk.brake.set_fleet(pool(&[Some(NEW), Some(OLD)]));
    assert!(proven(&desk), "it runs another");

    // One that says it runs another, and says that it cleaned well under the pool's, proves nothing to the pool.
    let mut desk = Desk::new(settings(3));
    desk.brake.set_fleet(pool(&[Some(NEW), Some(OLD)]));
    well(&mut desk, 1, 4);
    desk.brake.set_fleet(pool(&[Some(NEW), Some(OLD)]));
    assert!(!proven(&desk));
    well(&mut desk, 0, 1);
    assert!(proven(&desk), "the pool's own node did");
}

/// A cleanup of `mount`, of which the first word is that it is over.
fn over(desk: &mut Desk, i: usize, id: &str, outcome: ObjectOutcome, freed: u64) {
    for (state, outcome, freed) in
        [(ActionState::Started, ObjectOutcome::Pending, 0), (ActionState::Done, outcome, freed)]
    {
        let said = action(id, state, &[outcome], freed);
        let out = desk.brake.observe_action(&node(i), &said, cite(&node(i)));
        desk.decide(out);
    }
}

/// The cleanups that were granted in a turn.
fn granted(desk: &mut Desk) -> Vec<(NodeName, String, String)> {
    let from = desk.journal.len();
    desk.settle();
    let of = |d: &Decision| match &d.what {
        What::PermitGranted { node, action, mount, .. } => {
            Some((node.clone(), action.clone(), mount.clone()))
        }
        _ => None,
    };
    desk.journal[from..].iter().filter_map(of).collect()
}

#[test]
fn a_node_that_waits_with_many_mounts_has_one_turn_and_then_whoever_had_none() {
    let mut desk = Desk::new(settings(3));
    let nodes = 5;
    // The honest ask when all that the other made up has waited for a moment longer.
    let came = 5 * SECOND;
    let mut served = std::collections::BTreeSet::new();
    let mut turns = 0;
    while served.len() < nodes {
        for n in 0..MAX_WAITING_OF_NODE {
            let (id, mount) = (format!("a-0-{n}-{}", desk.journal.len()), format!("/made/up/{n}"));
            let ask = Ask { action: id, mount, severity: Severity::Critical, ..ask(0, NEW) };
            desk.brake.ask(Ask { seconds_to_full: Some(0.0), ..ask }, desk.now);
        }
        for i in (1..=nodes).filter(|i| desk.now >= came && !served.contains(i)) {
            desk.brake.ask(Ask { severity: Severity::Medium, ..ask(i, NEW) }, desk.now);
        }
        for (of, id, _) in granted(&mut desk) {
            let i: usize = of.as_str()[5..].parse().unwrap();
            let (outcome, freed) =
                if i == 0 { (ObjectOutcome::Skipped, 0) } else { (ObjectOutcome::Removed, 100) };
            over(&mut desk, i, &id, outcome, freed);
            turns += usize::from(i == 0);
            if i > 0 {
                served.insert(i);
            }
        }
        desk.now += 5 * SECOND;
        let longest = STARVED_NS + (nodes as u64 + 1) * 130 * SECOND;
        assert!(desk.now <= came + longest, "{served:?} of {nodes} had a turn, the one {turns}");
    }
    assert_eq!(desk.tripped(), None);
    assert!(turns > 1, "it had its own");
}

#[test]
fn a_node_with_several_full_disks_has_its_turns_and_each_of_its_disks_too() {
    let mut desk = Desk::new(settings(1));
    desk.prove(OLD);
    let mut had: std::collections::BTreeMap<(NodeName, String), u32> = std::collections::BTreeMap::new();
    for n in 0..4_000 {
        for (i, mount) in [(0, "/a"), (0, "/b"), (0, "/c"), (1, "/var")] {
            let id = format!("a-{i}{mount}-{n}");
            desk.brake.ask(Ask { action: id, mount: mount.to_owned(), ..ask(i, OLD) }, desk.now);
        }
        for (of, id, mount) in granted(&mut desk) {
            let i: usize = of.as_str()[5..].parse().unwrap();
            over(&mut desk, i, &id, ObjectOutcome::Removed, 100);
            *had.entry((of, mount)).or_default() += 1;
        }
        desk.now += 5 * SECOND;
    }
    let had: Vec<u32> = had.into_values().collect();
    let (disks, other) = (&had[..3], had[3]);
    assert!(disks.iter().all(|turns| *turns > other / 5), "{had:?}");
    assert!(other * 3 > disks.iter().sum(), "{had:?}");
    // Nobody else waits: all at once.
    let mut desk = Desk::new(settings(1));
    desk.prove(OLD);
    for mount in ["/a", "/b", "/c"] {
        let id = format!("b{mount}");
        desk.brake.ask(Ask { action: id, mount: mount.to_owned(), ..ask(0, OLD) }, desk.now);
    }
    desk.settle();
    desk.settle();
    assert_eq!(desk.brake.ledger().permits.len(), 3);
}

#[test]
fn a_disk_is_cleaned_in_time_beside_a_more_urgent_one_of_its_node_while_others_wait() {
    let mut desk = Desk::new(settings(1));
    desk.prove(OLD);
    let began = desk.now;
    for n in 0.. {
        let asks = [
            (0, "/a", Severity::Critical),
            (0, "/b", Severity::High),
            (0, "/c", Severity::Medium),
            (1, "/var", Severity::Critical),
            (2, "/var", Severity::Critical),
        ];
        for (i, mount, severity) in asks {
            let id = format!("a-{i}{mount}-{n}");
            let ask = Ask { action: id, mount: mount.to_owned(), severity, ..ask(i, OLD) };
            desk.brake.ask(ask, desk.now);
        }
        let granted = granted(&mut desk);
        let others = granted.iter().any(|(of, _, mount)| *of == node(0) && mount == "/c");
        for (of, id, _) in granted {
            let i: usize = of.as_str()[5..].parse().unwrap();
            over(&mut desk, i, &id, ObjectOutcome::Removed, 100);
        }
        if others {
            break;
        }
        desk.now += 5 * SECOND;
        // Its node's turns after that: three nodes take them by turns, and of its own one is the other disk's.
        assert!(desk.now - began <= STARVED_NS + 7 * 130 * SECOND, "it starves");
    }
    assert!(desk.now - began >= STARVED_NS, "the urgent were before it");
}

#[test]
fn a_disk_that_waited_for_long_is_cleaned_only_where_its_own_policy_may() {
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    // Another node tries the new policy out, and its cleanup takes long.
    desk.brake.ask(ask(1, NEW), desk.now);
    assert_eq!(desk.settle(), [node(1)]);
    let began = desk.now;
    while desk.now - began < STARVED_NS {
        let waits = Ask { action: "a-new".to_owned(), mount: "/new".to_owned(), ..ask(0, NEW) };
        desk.brake.ask(waits, desk.now);
        desk.brake.ask(Ask { acting: true, ..ask(1, NEW) }, desk.now);
        desk.brake.due(desk.now);
        desk.now += 5 * SECOND;
    }
    desk.brake.ask(Ask { severity: Severity::Critical, ..ask(0, OLD) }, desk.now);
    let granted = granted(&mut desk);
    assert_eq!(granted, [(node(0), "a-0".to_owned(), "/var".to_owned())]);
}
