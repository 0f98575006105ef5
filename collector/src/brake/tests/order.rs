//! What must hold whatever happens in whatever order.

use std::collections::BTreeSet;

use super::*;
use crate::brake::ledger::{MAX_AT_WORK_OF_NODE, MAX_PERMITS_OF_NODE};
use crate::store::decision::PermitEnd;

#[derive(Debug, Clone)]
enum Event {
    Ask(usize, bool),
    /// Of many mounts at once.
    Many(usize),
    Renew(usize),
    Started(usize),
    Done(usize),
    Refused(usize),
    Bad(usize),
    Finding(usize),
    /// Whether a pod fills it.
    Unheld(usize, bool),
    Silent(usize),
    /// Nodes of which nothing is heard from now on.
    Quiet(BTreeSet<usize>),
    /// So many nodes are there, and so many more were once.
    Fleet(usize, usize),
    Pause,
    Trip,
    Release,
    Pass(u64),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let i = 0..12usize;
    prop_oneof![
        6 => (i.clone(), any::<bool>()).prop_map(|(i, new)| Event::Ask(i, new)),
        1 => i.clone().prop_map(Event::Many),
        2 => i.clone().prop_map(Event::Renew),
        3 => i.clone().prop_map(Event::Started),
        4 => i.clone().prop_map(Event::Done),
        1 => i.clone().prop_map(Event::Refused),
        1 => i.clone().prop_map(Event::Bad),
        1 => i.clone().prop_map(Event::Finding),
        1 => (i.clone(), any::<bool>()).prop_map(|(i, of_pod)| Event::Unheld(i, of_pod)),
        1 => i.clone().prop_map(Event::Silent),
        1 => prop::collection::btree_set(i, 0..4).prop_map(Event::Quiet),
        1 => (0..100usize, 0..100usize).prop_map(|(there, gone)| Event::Fleet(there, gone)),
        1 => Just(Event::Pause),
        1 => Just(Event::Trip),
        3 => Just(Event::Release),
        4 => (1..200u64).prop_map(Event::Pass),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_limit_holds_nothing_is_granted_while_stopped_and_replay_equals_live(
        events in prop::collection::vec(event(), 1..200),
        max in 1..5u32,
    ) {
        let settings = |max| Settings { max_share: 0.05, ..settings(max) };
        let mut desk = Desk::new(settings(max));
        let mut quiet: Vec<usize> = Vec::new();
        for event in events {
            let reason = || "because".to_owned();
            let id = format!("f-{}-{}", desk.journal.len(), desk.now);
            let before = (desk.journal.len(), desk.brake.limit().max(desk.brake.places().len()));
            match event {
                Event::Ask(i, new) => drop(desk.brake.ask(ask(i, if new { NEW } else { OLD }), desk.now)),
                Event::Many(i) => {
                    for n in 0..2 * MAX_AT_WORK_OF_NODE {
                        let (action, mount) = (format!("a-{i}-{n}-{}", desk.now), format!("/data/{n}"));
                        desk.brake.ask(Ask { action, mount, ..ask(i, OLD) }, desk.now);
                    }
                }
                Event::Renew(i) => {
                    let answer = desk.brake.ask(Ask { acting: true, ..ask(i, OLD) }, desk.now);
                    if desk.brake.ledger().stopped().is_some() {
                        let stopped = matches!(answer, Some(Answer::Stopped { .. }));
                        prop_assert!(stopped, "{answer:?}");
                    }
                }
                Event::Started(i) => desk.act(i, ActionState::Started, &[ObjectOutcome::Pending], 0),
                Event::Done(i) => desk.act(i, ActionState::Done, &[ObjectOutcome::Removed], 100),
                Event::Refused(i) => desk.act(i, ActionState::Refused, &[], 0),
                Event::Bad(i) => desk.act(i, ActionState::Failed, &[ObjectOutcome::Failed], 0),
                Event::Finding(i) => {
                    let bad = finding("crash-loop", Severity::High, 11);
                    desk.brake.forget(&node(i), &bad.id);
                    let out = desk.brake.observe_finding(&node(i), &bad, None);
                    desk.decide(out);
                }
                Event::Unheld(i, of_pod) => {
                    let pod = of_pod.then(dogwatch::record::Pod::default);
                    let bad = Finding { id, pod, ..finding("cleanup-not-holding", Severity::High, 11) };
                    let out = desk.brake.observe_finding(&node(i), &bad, None);
                    prop_assert!(out.is_empty() || !of_pod, "a pod's doing");
                    desk.decide(out);
                }
                Event::Silent(i) => {
                    let bad = Finding { id, ..finding("node-silent", Severity::High, 11) };
                    let out = desk.brake.observe_finding(&node(i), &bad, None);
                    prop_assert!(out.is_empty() || desk.brake.places().contains(&node(i)), "its watch was over");
                    desk.decide(out);
                }
                Event::Quiet(nodes) => quiet = nodes.into_iter().collect(),
                Event::Fleet(there, gone) => {
                    let of = |i, heard_ns| Seen { node: node(i), policy: Some(OLD), heard_ns, known_ns: 0 };
                    let once = (0..gone).map(|i| of(100 + i, None));
                    let all = (0..there).map(|i| of(i, Some(desk.now))).chain(once);
                    let fleet = Fleet::at(desk.now, all);
                    desk.brake.set_fleet(fleet);
                    prop_assert_eq!(desk.brake.limit(), (max as usize).max(there / 20));
                }
                Event::Pause => desk.decide(vec![What::BrakePaused { reason: reason() }]),
                Event::Trip => desk.decide(vec![What::BrakeTripped {
                    reason: reason(),
                    finding: String::new(),
                    node: None,
                    action: None,
                    cites: Vec::new(),
                    past: None,
                    cause: None,
                }]),
                Event::Release => desk.decide(vec![What::BrakeReleased { reason: reason(), past: Vec::new() }]),
                Event::Pass(seconds) => desk.now += seconds * SECOND,
                Event::Restart => {
                    let ledger = desk.brake.ledger().clone();
                    desk.brake = Brake::new(settings(max), ledger, desk.now);
                }
            }
            let stopped = desk.brake.ledger().stopped().is_some();
            let granted = desk.settle_without(&quiet);
            prop_assert!(!stopped || granted.is_empty(), "granted while stopped");
            prop_assert!(desk.brake.places().len() <= before.1.max(desk.brake.limit()));
            prop_assert!(desk.brake.limit() >= max as usize);
            let doubted = desk.journal.iter().any(|d| matches!(d.what, What::BrakeTripped { .. }));
            for decision in desk.journal[before.0..].iter().filter(|_| !doubted) {
                if let What::PermitEnded { node: of, how: PermitEnd::Well, .. } = &decision.what {
                    prop_assert!(quiet.iter().all(|i| node(*i) != *of), "nobody knows how it went on {of}");
                }
            }
            for of in desk.brake.places() {
                let (out, at_work) = desk.brake.ledger().permits_of(of);
                prop_assert!(out <= MAX_PERMITS_OF_NODE && at_work <= MAX_AT_WORK_OF_NODE, "{of}");
            }
            let proven = desk.brake.proven();
            for policy in [OLD, NEW] {
                let of_it = desk.brake.ledger().permits.iter().filter(|p| p.policy == policy && p.canary);
                let nodes: BTreeSet<_> = of_it.map(|p| &p.node).collect();
                prop_assert!(nodes.len() <= 1 || proven.contains(&policy), "{nodes:?} at once");
            }
            let mut replayed = Ledger::default();
            desk.journal.iter().for_each(|d| replayed.apply(d));
            prop_assert_eq!(&replayed, desk.brake.ledger());
        }
    }
}
