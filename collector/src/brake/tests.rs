//! The machine as scenarios; what must hold whatever happens is in [`order`].

mod bounds;
mod cause;
mod doubt;
mod hangs;
mod order;
mod proofs;
mod roll;
mod silence;
mod turns;
mod unheld;

use std::time::Duration;

use dogwatch::record::{
    Action, ActionState, CleanupMode, Finding, FindingState, Hash, Incarnation, NodeName, ObjectOutcome,
    PlannedObject, RecordRef, Severity, Stream, Subject,
};
use proptest::prelude::*;

use super::machine::{Brake, GRACE_NS, MAX_ACTING_NS, MAX_BEGIN_NS};
use super::{Answer, Ask, Fleet, Ledger, Seen, Settings};
use crate::store::decision::{Decision, What};

const SECOND: u64 = 1_000_000_000;
const OLD: Hash = Hash([1; 32]);
const NEW: Hash = Hash([2; 32]);

fn settings(max_nodes: u32) -> Settings {
    Settings {
        max_nodes,
        max_share: 0.0,
        watch: Duration::from_secs(120),
        lease: Duration::from_secs(60),
        canary_successes: 2,
        canary_nodes: 2,
    }
}

fn node(i: usize) -> NodeName {
    format!("node-{i:03}").parse().unwrap()
}

fn ask(i: usize, policy: Hash) -> Ask {
    Ask {
        node: node(i),
        action: format!("a-{i}"),
        mount: "/var".to_owned(),
        planned_bytes: 1 << 30,
        planned_objects: 3,
        policy,
        severity: Severity::High,
        seconds_to_full: None,
        cleaners: Vec::new(),
        acting: false,
        asked_boot_ns: 0,
    }
}

fn cite(node: &NodeName) -> RecordRef {
    RecordRef { node: node.clone(), incarnation: Incarnation([1; 16]), stream: Stream::Urgent, seq: 7 }
}

fn action(id: &str, state: ActionState, outcomes: &[ObjectOutcome], freed: u64) -> Action {
    let object = |outcome: &ObjectOutcome| PlannedObject {
        path: "/var/log/x.log.1".into(),
        device: 1,
        inode: 1,
        size_bytes: 100,
        allocated_bytes: 100,
        mtime_ns: 0,
        ctime_ns: 0,
        uid: 0,
        gid: 0,
        mode: 0,
        links: 1,
        cleaner: "rotated-logs".to_owned(),
        tier: 1,
        why_safe: String::new(),
        outcome: *outcome,
        sha256: None,
        digest_partial: false,
        atime_ns: None,
        btime_ns: None,
        preserved_bytes: None,
        cut: None,
        image: None,
    };
    Action {
        id: id.to_owned(),
        mount: "/var".to_owned(),
        mode: CleanupMode::Auto,
        state,
        reason: String::new(),
        finding_id: None,
        actor: "node".to_owned(),
        planned_bytes: 100 * outcomes.len() as u64,
        freed_bytes: Some(freed),
        available_before_bytes: None,
        available_after_bytes: None,
        unexplained: None,
        target_available_bytes: 0,
        objects: outcomes.iter().map(object).collect(),
        refused: Vec::new(),
        expires_wall_ns: 0,
        image_store: None,
        detail: String::new(),
    }
}

fn finding(rule: &str, severity: Severity, raised_wall_ns: i64) -> Finding {
    Finding {
        id: "f-1".to_owned(),
        rule: rule.to_owned(),
        severity,
        state: FindingState::Raised,
        subject: Subject::new("mount", "/var"),
        summary: "it is".to_owned(),
        explanation: String::new(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns,
        pod: None,
    }
}

impl Fleet {
    /// These, all of them connected.
    fn of(nodes: impl IntoIterator<Item = (NodeName, Option<Hash>)>) -> Self {
        let seen = |(node, policy)| Seen { node, policy, heard_ns: Some(0), known_ns: 0 };
        Self::at(0, nodes.into_iter().map(seen))
    }
}

/// The machine with the journal that its owner would write.
struct Desk {
    brake: Brake,
    journal: Vec<Decision>,
    now: u64,
}

impl Desk {
    fn new(settings: Settings) -> Self {
        Self { brake: Brake::new(settings, Ledger::default(), 0), journal: Vec::new(), now: 0 }
    }

    fn decide(&mut self, what: Vec<What>) {
        for what in what {
            let decision = Decision { wall_ns: self.now as i64, actor: "collector".to_owned(), what };
            self.brake.apply(&decision, self.now);
            self.journal.push(decision);
        }
    }

    /// What the owner does after whatever came; the nodes that were granted something.
    fn settle(&mut self) -> Vec<NodeName> {
        self.settle_without(&[])
    }

    /// The same where nothing is heard of some.
    fn settle_without(&mut self, quiet: &[usize]) -> Vec<NodeName> {
        let quiet: Vec<NodeName> = quiet.iter().copied().map(node).collect();
        let heard: Vec<NodeName> = self.brake.places().into_iter().cloned().collect();
        heard.iter().filter(|n| !quiet.contains(n)).for_each(|n| self.brake.heard(n, self.now));
        let due = self.brake.due(self.now);
        self.decide(due);
        let grants = self.brake.grants(self.now);
        let nodes = grants.iter().map(|g| match g {
            What::PermitGranted { node, .. } => node.clone(),
            other => unreachable!("{other:?}"),
        });
        let nodes = nodes.collect();
        self.decide(grants);
        nodes
    }

    fn act(&mut self, i: usize, state: ActionState, outcomes: &[ObjectOutcome], freed: u64) {
        let action = action(&format!("a-{i}"), state, outcomes, freed);
        let out = self.brake.observe_action(&node(i), &action, cite(&node(i)));
        self.decide(out);
    }

    /// A cleanup from start to a good end, and the watch after it.
    fn well(&mut self, i: usize) {
        self.act(i, ActionState::Started, &[ObjectOutcome::Pending], 0);
        self.act(i, ActionState::Done, &[ObjectOutcome::Removed], 100);
        self.now += 121 * SECOND;
    }

    /// Makes `policy` proven.
    fn prove(&mut self, policy: Hash) {
        for i in 900..902 {
            self.brake.ask(ask(i, policy), self.now);
            assert_eq!(self.settle(), [node(i)]);
            self.well(i);
            self.settle();
        }
        assert_eq!(self.brake.proven(), [policy]);
    }

    fn tripped(&self) -> Option<&str> {
        self.brake.ledger().tripped.as_ref().map(|s| s.reason.as_str())
    }
}

#[test]
fn a_new_policy_gets_one_node_until_enough_went_well_and_then_the_limit_counts() {
    let mut desk = Desk::new(settings(3));
    for i in 0..10 {
        assert_eq!(desk.brake.ask(ask(i, NEW), 0), None);
    }
    for i in 0..2 {
        assert_eq!(desk.settle(), [node(i)], "one at a time");
        assert_eq!(desk.settle(), []);
        desk.well(i);
        // Whoever still waits asks again.
        (i + 1..10).for_each(|i| drop(desk.brake.ask(ask(i, NEW), desk.now)));
    }
    assert_eq!(desk.settle(), [node(2), node(3), node(4)]);
    assert_eq!(desk.settle(), []);
    // A node that is over keeps its place until it was watched.
    desk.act(2, ActionState::Started, &[ObjectOutcome::Pending], 0);
    desk.act(2, ActionState::Done, &[ObjectOutcome::Removed], 100);
    assert_eq!(desk.settle(), []);
    // One that touched nothing does not.
    desk.act(3, ActionState::Refused, &[], 0);
    assert_eq!(desk.settle(), [node(5)]);
}

#[test]
fn each_thing_that_counts_as_wrong_stops_everything_and_nothing_else_does() {
    use ObjectOutcome::{Failed, Removed, Skipped};
    let twelve =
        |failed: usize| -> Vec<_> { (0..12).map(|i| if i < failed { Failed } else { Removed }).collect() };
    type Case<'c> = (&'c str, ActionState, Vec<ObjectOutcome>, u64, Option<&'c str>);
    let cases: [Case<'_>; 8] = [
        ("well", ActionState::Done, vec![Removed; 2], 200, None),
        ("half came back", ActionState::Done, vec![Removed; 2], 100, None),
        ("too little came back", ActionState::Done, vec![Removed; 2], 99, Some("and freed")),
        ("all skipped", ActionState::Done, vec![Skipped; 5], 0, None),
        ("the executor died", ActionState::Failed, vec![Removed], 100, Some("failed")),
        ("one of twelve failed", ActionState::Done, twelve(1), 1_100, None),
        ("two of twelve failed", ActionState::Done, twelve(2), 1_000, Some("2 of 12")),
        ("refused", ActionState::Refused, Vec::new(), 0, None),
    ];
    for (name, state, outcomes, freed, wrong) in cases {
        let mut desk = Desk::new(settings(3));
        desk.brake.ask(ask(0, NEW), 0);
        desk.settle();
        desk.act(0, ActionState::Started, &outcomes, 0);
        desk.act(0, state, &outcomes, freed);
        match (wrong, desk.tripped()) {
            (None, None) => {}
            (Some(words), Some(reason)) => {
                assert!(reason.contains(words) && reason.contains("node-000"), "{name}: {reason}");
                let stopped = desk.brake.ledger().tripped.clone().unwrap();
                assert_eq!((stopped.node, stopped.cites), (Some(node(0)), vec![cite(&node(0))]), "{name}");
            }
            other => unreachable!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_bad_finding_counts_while_its_node_has_a_place_and_late() {
    for (rule, severity, trips) in [
        ("mount-read-only", Severity::Critical, true),
        ("crash-loop", Severity::High, true),
        ("cleanup-not-holding", Severity::High, false),
        ("crash-loop", Severity::Medium, false),
        ("disk-high-water", Severity::Critical, false),
    ] {
        // Whatever a node's clock says: what is received after the start counts.
        for raised in [i64::MIN, 9, i64::MAX] {
            let mut desk = Desk::new(settings(3));
            desk.brake.ask(ask(0, NEW), 0);
            desk.settle();
            desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
            let bad = finding(rule, severity, raised);
            assert_eq!(desk.brake.observe_finding(&node(1), &bad, None), [], "another node's");
            let mut late = Desk { brake: desk.brake.clone(), journal: Vec::new(), now: 0 };
            let now = desk.brake.observe_finding(&node(0), &bad, None);
            assert_eq!(!now.is_empty(), trips, "{rule} {severity} {raised}");
            late.well(0);
            late.settle();
            assert_eq!(late.brake.places().len(), 0);
            let out = late.brake.observe_finding(&node(0), &bad, None);
            assert_eq!(!out.is_empty(), trips, "late: {rule} {severity} {raised}");
        }
    }
}

#[test]
fn what_a_pod_can_say_or_do_to_itself_stops_nothing() {
    for (rule, kind, name, of_pod, trips) in [
        ("kernel-panic", "log", "/var/log/pods/shop_evil-0_0c1d/app/0.log", true, false),
        // So many sources that they are folded; and what a host's log or the kernel's quotes of it.
        ("kernel-panic", "log", "(other sources)", false, false),
        ("kernel-panic", "log", "/var/log/syslog", false, false),
        ("container-oom", "log", "kmsg", false, false),
        ("oom-kill", "pod", "shop/evil-0/app", true, false),
        ("oom-kill", "cgroup", "/system.slice/x.service", false, false),
        ("descriptor-exhaustion", "process", "nginx (12)", true, false),
        // A service's own limit.
        ("descriptor-exhaustion", "process", "sshd (801)", false, false),
        // The node's own.
        ("oom-kill", "memory", "node-0", true, true),
        ("kernel-trouble", "kernel", "panic", false, true),
        ("disk-errors", "disk", "sda", false, true),
        ("node-silent", "node", "node-0", false, true),
    ] {
        let mut desk = Desk::new(settings(3));
        desk.brake.ask(ask(0, NEW), 0);
        desk.settle();
        desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
        let bad = Finding {
            subject: Subject::new(kind, name),
            pod: of_pod.then(dogwatch::record::Pod::default),
            ..finding(rule, Severity::Critical, 9)
        };
        let out = desk.brake.observe_finding(&node(0), &bad, None);
        assert_eq!(!out.is_empty(), trips, "{rule} {kind} {name}");
    }
}

#[test]
fn what_a_node_was_ill_with_before_its_cleanup_began_stops_nothing_until_it_is_worse_or_comes_again() {
    let of = |id: &str, severity, state| Finding {
        id: id.to_owned(),
        state,
        ..finding("crash-loop", severity, 99)
    };
    use FindingState::{Cleared, Raised, Updated};
    use Severity::{High, Medium};
    let ill = || {
        let mut desk = Desk::new(settings(3));
        assert_eq!(desk.brake.observe_finding(&node(0), &of("f-old", High, Raised), None), []);
        assert_eq!(desk.brake.observe_finding(&node(0), &of("f-mild", Medium, Raised), None), []);
        desk.brake.ask(ask(0, NEW), 0);
        desk.settle();
        // Between the permit and the start.
        assert_eq!(desk.brake.observe_finding(&node(0), &of("f-between", High, Raised), None), []);
        desk.act(0, ActionState::Started, &[ObjectOutcome::Pending], 0);
        desk
    };
    for (said, trips) in [
        (vec![of("f-old", High, Updated), of("f-old", Severity::Critical, Updated)], false),
        (vec![of("f-between", High, Updated)], false),
        (vec![of("f-old", High, Cleared)], false),
        (vec![of("f-old", High, Cleared), of("f-old", High, Raised)], true),
        (vec![of("f-mild", High, Updated)], true),
        (vec![of("f-new", High, Raised)], true),
    ] {
        let mut desk = ill();
        let out: Vec<What> =
            said.iter().flat_map(|f| desk.brake.observe_finding(&node(0), f, None)).collect();
        assert_eq!(!out.is_empty(), trips, "{said:?}");
    }
}

#[test]
fn a_permit_that_ends_without_its_outcome_stops_everything_unless_it_is_renewed() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    let began = action("a-0", ActionState::Started, &[], 0);
    desk.brake.observe_action(&node(0), &began, cite(&node(0)));
    let held = Ask { acting: true, ..ask(0, NEW) };
    for _ in 0..10 {
        desk.now += 50 * SECOND;
        assert_eq!(desk.brake.ask(held.clone(), desk.now), Some(Answer::Granted));
        desk.settle();
        assert_eq!(desk.tripped(), None);
    }
    desk.now += 60 * SECOND + GRACE_NS - 1;
    desk.settle();
    assert_eq!(desk.tripped(), None);
    desk.now += 1;
    desk.settle();
    assert!(desk.tripped().unwrap().contains("has not said how its cleanup a-0 ended"));
    assert!(matches!(desk.brake.ask(held, desk.now), Some(Answer::Stopped { .. })), "it stops");
}

#[test]
fn a_permit_that_nobody_began_to_use_is_free_again_and_none_lasts_for_ever() {
    let mut desk = Desk::new(settings(3));
    desk.brake.ask(ask(0, NEW), 0);
    desk.settle();
    desk.now += 60 * SECOND + GRACE_NS;
    desk.settle();
    assert_eq!((desk.tripped(), desk.brake.ledger().permits.len()), (None, 0), "its plan was given up");
    // One that is held for ever keeps nobody out for longer than a node takes to begin, or an action takes.
    for (i, acting, longest_ns) in [(1, false, MAX_BEGIN_NS), (2, true, MAX_ACTING_NS)] {
        desk.brake.ask(ask(i, NEW), desk.now);
        desk.settle();
        let held = Ask { acting, ..ask(i, NEW) };
        let mut granted = 0;
        while desk.brake.ask(held.clone(), desk.now) == Some(Answer::Granted) {
            desk.now += 10 * SECOND;
            granted += 1;
            assert!(granted < 1_000, "for ever");
        }
        assert_eq!(granted, longest_ns / (10 * SECOND));
        desk.now += 60 * SECOND + GRACE_NS;
        desk.settle();
        assert_eq!((desk.tripped().is_some(), desk.brake.ledger().permits.len()), (acting, 0));
    }
}

#[test]
fn a_restart_forgets_neither_a_stop_nor_a_permit() {
    let mut desk = Desk::new(settings(2));
    desk.prove(OLD);
    (0..5).for_each(|i| drop(desk.brake.ask(ask(i, OLD), desk.now)));
    assert_eq!(desk.settle().len(), 2);
    let again = |desk: &Desk| {
        let mut ledger = Ledger::default();
        desk.journal.iter().for_each(|d| ledger.apply(d));
        assert_eq!(ledger, *desk.brake.ledger());
        Desk { brake: Brake::new(settings(2), ledger, 5), journal: desk.journal.clone(), now: 5 }
    };
    let mut desk = again(&desk);
    (2..5).for_each(|i| drop(desk.brake.ask(ask(i, OLD), desk.now)));
    assert_eq!(desk.settle(), [], "both are still out");
    let held = Ask { acting: true, ..ask(0, OLD) };
    assert_eq!(desk.brake.ask(held, desk.now), Some(Answer::Granted));
    desk.decide(vec![What::BrakePaused { reason: "look".to_owned() }]);
    let mut desk = again(&desk);
    desk.now += 1_000 * SECOND;
    assert!(matches!(desk.brake.ask(ask(4, OLD), desk.now), Some(Answer::Stopped { .. })));
    assert_eq!(desk.settle(), []);
    assert!(desk.tripped().is_some(), "and what never came back stops everything");
    desk.decide(vec![What::BrakeReleased { reason: "go on".to_owned(), past: Vec::new() }]);
    assert_eq!(desk.brake.proven(), [], "what was proven before counts no more");
    desk.brake.ask(ask(4, OLD), desk.now);
    assert_eq!(desk.settle(), [node(4)]);
}

#[test]
fn what_was_out_when_cleanups_were_stopped_proves_nothing_however_it_ends() {
    let mut desk = Desk::new(settings(3));
    desk.prove(OLD);
    (0..3).for_each(|i| drop(desk.brake.ask(ask(i, OLD), desk.now)));
    assert_eq!(desk.settle().len(), 3);
    (0..3).for_each(|i| desk.act(i, ActionState::Started, &[ObjectOutcome::Pending], 0));
    desk.act(0, ActionState::Failed, &[], 0);
    (1..3).for_each(|i| desk.act(i, ActionState::Done, &[ObjectOutcome::Removed], 100));
    desk.decide(vec![What::BrakeReleased { reason: "mended".to_owned(), past: Vec::new() }]);
    desk.now += 121 * SECOND;
    (3..6).for_each(|i| drop(desk.brake.ask(ask(i, OLD), desk.now)));
    assert_eq!(desk.settle(), [node(3)], "one at a time again");
    assert_eq!(desk.brake.proven(), []);
}
