//! On what cleanups were stopped, as the stop says it and as it is read again.

use serde_json::Value;

use super::silence::begun;
use super::*;
use crate::brake::ledger::Stopped;
use crate::brake::tell;
use crate::store::decision::Cause;

/// One whose permit ended a while ago.
fn late() -> Desk {
    let mut desk = begun();
    desk.act(0, ActionState::Done, &[ObjectOutcome::Removed], 100);
    desk.now += 121 * SECOND;
    desk.settle();
    assert!(desk.brake.places().is_empty());
    desk
}

fn says(desk: &mut Desk, id: &str, rule: &str) {
    let bad = Finding { id: id.to_owned(), ..finding(rule, Severity::Critical, 1) };
    let out = desk.brake.observe_finding(&node(0), &bad, Some(cite(&node(0))));
    desk.decide(out);
}

fn stopped(desk: &Desk) -> (Stopped, Cause) {
    let stopped = desk.brake.ledger().tripped.clone().unwrap();
    assert_eq!((stopped.node.as_ref(), stopped.action.as_deref()), (Some(&node(0)), Some("a-0")));
    let cause = stopped.cause.clone().unwrap();
    (stopped, cause)
}

fn cause(mount: &str, rule: &str, finding: &str) -> Cause {
    Cause { mount: mount.to_owned(), rule: rule.to_owned(), finding: finding.to_owned() }
}

#[test]
fn a_stop_says_on_which_mount_and_finding_it_was_decided() {
    for mut desk in [begun(), late()] {
        says(&mut desk, "f-7", "mount-read-only");
        assert_eq!(stopped(&desk).1, cause("/var", "mount-read-only", "f-7"));
        let raised = tell::raised(&stopped(&desk).0);
        assert!(raised.facts.iter().any(|f| (f.key.as_str(), f.value.as_str()) == ("cause", "f-7")));
    }
    // The cleanup itself, or that nobody says how it ended.
    let mut desk = begun();
    desk.act(0, ActionState::Failed, &[ObjectOutcome::Failed], 0);
    assert_eq!(stopped(&desk).1, cause("/var", "", ""));
    let mut desk = begun();
    desk.now += 60 * SECOND + GRACE_NS;
    desk.settle_without(&[0]);
    assert_eq!(stopped(&desk).1, cause("/var", "", ""));
    // After a restart nobody knows the mount any more of what had ended before.
    let ledger = late().brake.ledger().clone();
    let mut desk = Desk { brake: Brake::new(settings(3), ledger, 0), journal: Vec::new(), now: 0 };
    desk.brake.recall(0, 0);
    desk.brake.set_begun(&node(0), "a-0", true);
    says(&mut desk, "f-8", "mount-read-only");
    assert_eq!(stopped(&desk).1, cause("", "mount-read-only", "f-8"));
}

#[test]
fn what_a_node_makes_up_is_named_no_further_than_a_journal_has_room() {
    let mut desk = begun();
    says(&mut desk, &"f".repeat(60_000), &"r".repeat(60_000));
    let (_, cause) = stopped(&desk);
    assert_eq!((cause.finding.as_str(), cause.rule.len()), ("", 128));
}

#[test]
fn a_stop_for_silence_is_known_by_its_rule_and_one_of_an_older_version_by_its_words() {
    let is_of_silence = |stopped: &Stopped| tell::remedy(stopped).unwrap().contains("rebooted");
    let words = "node node-000: node-silent (high) after its cleanup: it says nothing";
    let mut desk = begun();
    says(&mut desk, "f-1", "mount-read-only");
    let of = |reason: &str, cause: Option<Cause>| {
        let (stopped, _) = stopped(&desk);
        is_of_silence(&Stopped { reason: reason.to_owned(), cause, ..stopped })
    };
    assert!(of("whatever it is called", Some(cause("/var", "node-silent", "f-1"))));
    assert!(of(words, None));
    assert!(!of("whatever it is called", None));
    assert!(!of(words, Some(cause("/var", "", ""))), "where a cause is named it counts");
}

#[test]
fn a_decision_without_a_cause_reads_as_before_and_one_with_it_folds_to_the_same() {
    let mut desk = begun();
    says(&mut desk, "f-7", "mount-read-only");
    let live = desk.brake.ledger().clone();
    let lines: Vec<String> = desk.journal.iter().map(|d| serde_json::to_string(d).unwrap()).collect();
    let fold = |lines: &[String]| {
        let mut ledger = Ledger::default();
        lines.iter().for_each(|l| ledger.apply(&serde_json::from_str(l).unwrap()));
        ledger
    };
    assert_eq!(fold(&lines), live);
    let kept: Ledger = serde_json::from_value(serde_json::to_value(&live).unwrap()).unwrap();
    assert_eq!(kept, live, "as the index keeps it");
    // As a version wrote it that knew of no cause.
    let older = |line: &String| {
        let mut decision: Value = serde_json::from_str(line).unwrap();
        decision["what"].as_object_mut().unwrap().remove("cause");
        decision.to_string()
    };
    let lines: Vec<String> = lines.iter().map(older).collect();
    let folded = fold(&lines);
    assert_eq!(folded.tripped.as_ref().map(|s| s.cause.clone()), Some(None));
    assert_eq!(
        (folded.revision, folded.lineage),
        (live.revision, live.lineage),
        "nodes were told the same state"
    );
    // What has no cause is written as it was.
    let decision: Decision = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert!(matches!(decision.what, What::BrakeTripped { cause: None, .. }));
    assert!(!serde_json::to_string(&decision).unwrap().contains("cause"));
}
