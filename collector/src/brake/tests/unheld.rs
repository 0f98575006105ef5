//! Mounts that are full again after each of several cleanups.

use std::collections::BTreeSet;

use super::*;

/// What a node says of it; `of_pod`: that a pod fills it.
fn says(desk: &mut Desk, i: usize, of_pod: bool) -> Vec<What> {
    let bad = Finding {
        id: format!("f-{i}-{}", desk.now),
        pod: of_pod.then(dogwatch::record::Pod::default),
        ..finding("cleanup-not-holding", Severity::High, 1)
    };
    let out = desk.brake.observe_finding(&node(i), &bad, Some(cite(&node(i))));
    desk.decide(out.clone());
    out
}

/// Each of these under its policy begins and is done, and is watched.
fn cleaned(desk: &mut Desk, of: &[(usize, Hash)]) {
    for (i, policy) in of {
        desk.brake.ask(ask(*i, *policy), desk.now);
        desk.settle();
        desk.act(*i, ActionState::Started, &[ObjectOutcome::Pending], 0);
        desk.act(*i, ActionState::Done, &[ObjectOutcome::Removed], 100);
    }
}

#[test]
fn one_node_whose_mount_does_not_hold_stops_nothing_however_often_and_proves_nothing() {
    let mut desk = Desk::new(settings(3));
    for _ in 0..10 {
        cleaned(&mut desk, &[(0, NEW)]);
        assert_eq!(says(&mut desk, 0, false), []);
        desk.now += 121 * SECOND;
        desk.settle();
        assert_eq!(desk.brake.ledger().successes(&NEW), 0);
    }
    assert_eq!((desk.tripped(), desk.brake.places().len()), (None, 0));
    // Nor does the one before it that is watched still.
    cleaned(&mut desk, &[(0, NEW)]);
    desk.now += 61 * SECOND;
    desk.brake.ask(Ask { action: "a-next".to_owned(), ..ask(0, NEW) }, desk.now);
    desk.settle();
    for (state, outcome) in
        [(ActionState::Started, ObjectOutcome::Pending), (ActionState::Done, ObjectOutcome::Removed)]
    {
        let told = action("a-next", state, &[outcome], 100);
        let decided = desk.brake.observe_action(&node(0), &told, cite(&node(0)));
        desk.decide(decided);
    }
    assert_eq!(desk.brake.ledger().permits.len(), 2);
    says(&mut desk, 0, false);
    desk.now += 121 * SECOND;
    desk.settle();
    assert_eq!((desk.brake.places().len(), desk.brake.ledger().successes(&NEW)), (0, 0));
    // Where its node knows that a pod does it, that says nothing of the policy, on however many nodes.
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    cleaned(&mut desk, &[(0, OLD), (1, OLD), (2, OLD)]);
    for i in 0..3 {
        assert_eq!(says(&mut desk, i, true), []);
    }
    let before = desk.brake.ledger().successes(&OLD);
    desk.now += 121 * SECOND;
    desk.settle();
    assert_eq!(desk.brake.ledger().successes(&OLD), before, "nor do they prove it");
}

#[test]
fn two_nodes_under_one_policy_whose_mounts_do_not_hold_stop_everything_watched_or_late() {
    for late in [false, true] {
        // Which policies they have, and whether that stops.
        for (policies, stops) in [([OLD, OLD], true), ([OLD, NEW], false)] {
            let mut desk = Desk::new(settings(3));
            desk.prove(OLD);
            cleaned(&mut desk, &[(0, policies[0]), (1, policies[1])]);
            assert_eq!(says(&mut desk, 0, false), [], "one alone");
            assert_eq!(says(&mut desk, 0, false), [], "nor twice");
            if late {
                desk.now += 121 * SECOND;
                desk.settle();
                assert!(desk.brake.places().is_empty());
            }
            let out = says(&mut desk, 1, false);
            assert_eq!(!out.is_empty(), stops, "late: {late}");
            if let [What::BrakeTripped { reason, node: of, cites, cause, .. }] = &out[..] {
                assert!(reason.contains("node-000") && reason.contains("node-001"), "{reason}");
                assert_eq!((of, &cites[..]), (&Some(node(1)), &[cite(&node(1))][..]));
                let cause = cause.as_ref().map(|c| (c.mount.as_str(), c.rule.as_str(), c.finding.clone()));
                let id = format!("f-1-{}", desk.now);
                assert_eq!(cause, Some(("/var", "cleanup-not-holding", id)));
                // Whoever released has looked at both.
                desk.decide(vec![What::BrakeReleased { reason: "mended".to_owned(), past: Vec::new() }]);
                desk.now += 121 * SECOND;
                desk.settle();
                cleaned(&mut desk, &[(2, OLD)]);
                assert_eq!(says(&mut desk, 2, false), []);
            }
        }
    }
    // By when it shows, not by when the cleanup was.
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    cleaned(&mut desk, &[(0, OLD), (1, OLD)]);
    desk.now += 121 * SECOND;
    desk.settle();
    desk.now += 480 * SECOND;
    desk.settle();
    assert_eq!(says(&mut desk, 0, false), []);
    desk.settle();
    desk.now += 300 * SECOND;
    desk.settle();
    cleaned(&mut desk, &[(1, OLD)]);
    assert_ne!(says(&mut desk, 1, false), [], "five minutes later");
    // Too long ago.
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    cleaned(&mut desk, &[(0, OLD)]);
    says(&mut desk, 0, false);
    desk.now += 121 * SECOND;
    desk.settle();
    desk.now += crate::brake::ledger::LATE_NS;
    desk.settle();
    cleaned(&mut desk, &[(1, OLD)]);
    assert_eq!(says(&mut desk, 1, false), []);
}

#[test]
fn after_a_restart_what_ended_before_it_may_have_been_under_any_policy() {
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    cleaned(&mut desk, &[(0, OLD)]);
    desk.now += 121 * SECOND;
    desk.settle();
    cleaned(&mut desk, &[(1, NEW)]);
    let mut brake = Brake::new(settings(3), desk.brake.ledger().clone(), 5);
    brake.recall(desk.now as i64, 5);
    let mut desk = Desk { brake, journal: Vec::new(), now: 5 };
    // As the store tells them again.
    desk.brake.set_begun(&node(0), "a-0", true);
    assert_eq!(says(&mut desk, 0, false), []);
    assert_ne!(says(&mut desk, 1, false), []);
}

#[test]
fn that_nobody_knows_any_more_which_pod_it_was_is_no_news() {
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    cleaned(&mut desk, &[(0, OLD), (1, OLD)]);
    assert_eq!(says(&mut desk, 0, false), []);
    let first = Finding {
        pod: Some(dogwatch::record::Pod::default()),
        ..finding("cleanup-not-holding", Severity::High, 1)
    };
    let again = Finding { pod: None, state: FindingState::Updated, ..first.clone() };
    for said in [first, again] {
        assert_eq!(desk.brake.observe_finding(&node(1), &said, None), []);
    }
}

proptest! {
    /// Nodes of which each has a policy of two clean at whatever moments, and say it or do not.
    #[test]
    fn it_takes_two_nodes_and_one_policy(
        events in prop::collection::vec((0..4usize, 0..3u8, 0..200u64), 1..60),
    ) {
        let mut desk = Desk::new(settings(4));
        let of = |i: usize| if i < 2 { OLD } else { NEW };
        let mut said: BTreeSet<usize> = BTreeSet::new();
        for (i, what, seconds) in events {
            desk.now += seconds * SECOND;
            desk.settle();
            match what {
                0 => cleaned(&mut desk, &[(i, of(i))]),
                1 => prop_assert_eq!(says(&mut desk, i, true), []),
                _ => {
                    let stops = !says(&mut desk, i, false).is_empty();
                    said.insert(i);
                    let alike = said.iter().filter(|n| of(**n) == of(i)).count();
                    prop_assert!(!stops || alike == 2, "{said:?}");
                }
            }
            if desk.tripped().is_some() {
                break;
            }
        }
    }
}
