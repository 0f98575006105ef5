//! The life of each detector's finding, in the same scenes for all of them: calm, a spike, trouble that lasts, flapping,
//! an end, a restart of the agent, counters that begin again, a subject that goes away, all troubles at once.

use std::collections::BTreeSet;

use dogwatch::record::FindingState::{Cleared, Raised, Updated};
use dogwatch::record::Sample;

use super::super::{DetectConfig, RULES};
use super::world::{TROUBLES, Trouble, begin_again, node, step};
use dogwatch::record::Interface;

use super::*;

/// Longest that any trouble takes to be told or to be over, s: two windows of ten minutes and a half an hour's quiet.
const PATIENCE: u64 = 3_600;

fn calm(rig: &mut Rig, s: &mut Sample) -> Vec<Finding> {
    step(s);
    rig.sample(s)
}

fn bad(rig: &mut Rig, s: &mut Sample, t: &Trouble) -> Vec<Finding> {
    step(s);
    (t.apply)(s);
    rig.sample(s)
}

/// Trouble until something is said.
fn until_raised(rig: &mut Rig, s: &mut Sample, t: &Trouble) -> Finding {
    for _ in 0..PATIENCE {
        let mut out = bad(rig, s, t);
        if let Some(f) = out.pop() {
            assert_eq!((f.rule.as_str(), f.state), (t.rule, Raised), "{f:?}");
            assert_eq!((f.subject.kind.as_str(), f.subject.name.as_str()), (t.kind, t.name), "{f:?}");
            assert!(out.is_empty(), "{out:?}");
            return f;
        }
    }
    panic!("{} was never raised", t.rule);
}

fn until_cleared(rig: &mut Rig, s: &mut Sample, t: &Trouble) {
    for _ in 0..PATIENCE {
        for f in calm(rig, s) {
            assert_eq!(f.rule, t.rule);
            if f.state == Cleared {
                assert!(rig.active.is_empty());
                return;
            }
        }
    }
    panic!("{} was never cleared", t.rule);
}

fn warmed() -> (Rig, Sample) {
    let (mut rig, mut s) = (Rig::new(), node());
    for _ in 0..1_300 {
        assert_eq!(calm(&mut rig, &mut s), []);
    }
    (rig, s)
}

#[test]
fn each_is_raised_kept_and_cleared_about_its_own_subject() {
    for t in TROUBLES {
        let (mut rig, mut s) = warmed();
        let raised = until_raised(&mut rig, &mut s, t);
        assert!(raised.explanation.len() > 60 && !raised.facts.is_empty(), "{raised:?}");
        if t.kind == "pod" {
            assert_eq!(raised.pod.as_ref().map(|p| p.name.as_str()), Some("web"), "{}", t.rule);
        }
        let mut said = Vec::new();
        for _ in 0..200 {
            said.extend(bad(&mut rig, &mut s, t));
        }
        assert!(said.iter().all(|f| f.state == Updated && f.id == raised.id), "{}: {said:?}", t.rule);
        assert!((1..=6).contains(&said.len()), "{}: {} updates in 200 s", t.rule, said.len());
        // On and off each second: it stays.
        for _ in 0..150 {
            assert!(calm(&mut rig, &mut s).iter().all(|f| f.state == Updated));
            assert!(bad(&mut rig, &mut s, t).iter().all(|f| f.state == Updated));
        }
        until_cleared(&mut rig, &mut s, t);
        for _ in 0..1_300 {
            assert_eq!(calm(&mut rig, &mut s), [], "{}", t.rule);
        }
        let again = until_raised(&mut rig, &mut s, t);
        assert_ne!(again.id, raised.id);
    }
}

#[test]
fn one_bad_second_is_nothing() {
    for t in TROUBLES.iter().filter(|t| t.rule != "hung-tasks") {
        let (mut rig, mut s) = warmed();
        assert_eq!(bad(&mut rig, &mut s, t), [], "{}", t.rule);
        for _ in 0..700 {
            assert_eq!(calm(&mut rig, &mut s), [], "{}", t.rule);
        }
    }
}

#[test]
fn a_restart_of_the_agent_goes_on_under_the_same_id() {
    for t in TROUBLES {
        let (mut first, mut s) = warmed();
        let raised = until_raised(&mut first, &mut s, t);
        let mut second = Rig::run(DetectConfig::default(), 2);
        second.now = first.now;
        second.seed(&first);
        let mut said = Vec::new();
        for _ in 0..120 {
            said.extend(bad(&mut second, &mut s, t));
        }
        assert!(said.iter().all(|f| f.state == Updated && f.id == raised.id), "{}: {said:?}", t.rule);
        until_cleared(&mut second, &mut s, t);
    }
}

#[test]
fn counters_that_begin_again_are_never_a_finding() {
    let (mut rig, mut s) = warmed();
    for _ in 0..5 {
        begin_again(&mut s);
        for _ in 0..200 {
            assert_eq!(calm(&mut rig, &mut s), []);
        }
    }
}

#[test]
fn a_subject_that_goes_away_takes_its_finding_with_it() {
    for t in TROUBLES.iter().filter(|t| t.kind != "node" && t.kind != "memory") {
        let (mut rig, mut s) = warmed();
        until_raised(&mut rig, &mut s, t);
        s.disks.remove(0);
        s.interfaces.remove(0);
        s.cgroups.remove(0);
        let mut cleared = Vec::new();
        // The quiet time of rules with events may pass first.
        for _ in 0..10 {
            cleared.extend(calm(&mut rig, &mut s));
        }
        assert!(cleared.iter().any(|f| f.state == Cleared && f.rule == t.rule), "{}: {cleared:?}", t.rule);
        assert!(rig.active.is_empty());
    }
}

#[test]
fn what_cannot_be_read_any_more_is_given_up_in_the_end_and_not_at_once() {
    for t in TROUBLES {
        let (mut rig, mut s) = warmed();
        until_raised(&mut rig, &mut s, t);
        let blind = Sample::default();
        for _ in 0..60 {
            assert_eq!(rig.sample(&blind), [], "{}", t.rule);
        }
        // A disk that cannot be read is no story of this detector, and a node's memory is read always.
        if t.rule == "memory-pressure" {
            continue;
        }
        for _ in 0..PATIENCE {
            rig.sample(&blind);
        }
        assert!(rig.active.is_empty(), "{}", t.rule);
    }
}

#[test]
fn all_at_once_are_told_apart() {
    let (mut rig, mut s) = warmed();
    for _ in 0..PATIENCE {
        step(&mut s);
        // Pressure of one is written over by another: each in its turn is what a second shows.
        for t in TROUBLES.iter().filter(|t| !["swap-storm", "io-stall", "clock-skew"].contains(&t.rule)) {
            (t.apply)(&mut s);
        }
        rig.sample(&s);
    }
    let active: BTreeSet<(String, String)> =
        rig.active.values().map(|f| (f.rule.clone(), f.subject.to_string())).collect();
    for t in TROUBLES.iter().filter(|t| !["swap-storm", "io-stall", "clock-skew"].contains(&t.rule)) {
        // Lists of the scan are written over by the last one.
        if ["fork-storm", "hung-tasks", "zombies"].contains(&t.rule) {
            continue;
        }
        assert!(
            active.contains(&(t.rule.to_owned(), format!("{} {}", t.kind, t.name))),
            "{}: {active:?}",
            t.rule
        );
    }
    for _ in 0..PATIENCE {
        calm(&mut rig, &mut s);
    }
    assert!(rig.active.is_empty(), "{:?}", rig.active);
}

#[test]
fn a_rule_that_is_off_says_nothing_and_hands_its_findings_back() {
    for t in TROUBLES {
        let (mut on, mut s) = warmed();
        let raised = until_raised(&mut on, &mut s, t);
        let config = DetectConfig { off: BTreeSet::from([t.rule.to_owned()]), ..DetectConfig::default() };
        let mut rig = Rig::run(config, 2);
        assert_eq!(rig.detectors.seed(vec![raised.clone()]), [raised]);
        for _ in 0..900 {
            assert_eq!(bad(&mut rig, &mut s, t), [], "{}", t.rule);
        }
    }
}

#[test]
fn every_rule_has_a_scene() {
    let seconds: BTreeSet<&str> = TROUBLES.iter().map(|t| t.rule).collect();
    // Those about disks and lines, and the clock's step, have scenes of their own.
    let own = [
        "disk-high-water",
        "inode-high-water",
        "disk-time-to-full",
        "mount-read-only",
        "oom-kill",
        "clock-jump",
        "kernel-trouble",
    ];
    for rule in RULES {
        assert!(seconds.contains(rule) || own.contains(rule), "{rule}");
    }
}

#[test]
fn subjects_are_bounded_and_the_rest_is_counted() {
    let (mut rig, mut s) = warmed();
    let one = s.interfaces[0].clone();
    for i in 0..300 {
        s.interfaces.push(Interface { name: format!("veth{i}"), ..one.clone() });
    }
    for _ in 0..400 {
        step(&mut s);
        for i in &mut s.interfaces[2..] {
            i.rx_errors_total += 100;
        }
        rig.sample(&s);
    }
    assert_eq!(rig.active.len(), 100);
    assert!(
        rig.active
            .values()
            .any(|f| f.facts.iter().any(|f| f.key == "further_subjects_number" && f.value == "200"))
    );
}
