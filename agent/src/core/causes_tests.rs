use std::path::Path;

use super::words::MAX_PATH_CHARS;
use super::*;
use crate::usage::blame::{Culprit, Opener};
use crate::usage::census::Grown;

const SECOND: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

fn blame(confidence: Confidence) -> Blame {
    let first = Culprit {
        path: "/data/spam".into(),
        is_node_path: true,
        pod: Some(Pod { namespace: "shop".into(), name: "web-1".into(), uid: "u".into(), ..Pod::default() }),
        openers: vec![Opener { pid: 7, name: "writer".into(), program: None }],
        is_deleted: false,
        bytes: 5 << 20,
        bytes_per_second: 2097152.0,
    };
    Blame {
        bytes_per_second: 2411724.8,
        growing: vec![first],
        explained: 0.87,
        confidence,
        grown: None,
        inodes_per_second: 0.0,
        multiplied: None,
        deleted: Vec::new(),
        deleted_bytes: 0,
    }
}

fn still() -> Blame {
    Blame { growing: Vec::new(), explained: 0.0, bytes_per_second: 0.0, ..blame(Confidence::Still) }
}

/// A look at a time, when so much was in use.
fn seen(second: u64, used_mib: u64, blame: Blame) -> Seen {
    Seen {
        boot_ns: second * SECOND,
        wall_ns: 1_795_226_640_000_000_000 + (second * SECOND) as i64,
        used_bytes: used_mib * MIB,
        blame,
        incomplete: None,
    }
}

/// What is said at once after looks, one after the other.
fn after(looks: Vec<Seen>) -> (Cause, Told) {
    let mut cause = None;
    for look in looks {
        cause = Some(Cause::after(cause, look));
    }
    let cause = cause.unwrap();
    let told = cause.told(cause.newest.boot_ns).unwrap();
    (cause, told)
}

fn told_of(found: Blame) -> Told {
    after(vec![seen(0, 0, found)]).1
}

fn fact<'t>(told: &'t Told, key: &str) -> Option<&'t str> {
    told.facts.iter().find(|f| f.key == key).map(|f| f.value.as_str())
}

#[test]
fn a_path_of_any_length_is_told_by_its_end() {
    let long = format!("/data/{}/spam.log", "é".repeat(4000));
    let told = bounded(Path::new(&long));
    assert_eq!(told.chars().count(), MAX_PATH_CHARS + 1);
    assert!(told.starts_with('…') && told.ends_with("/spam.log"), "{told}");
    assert_eq!(bounded(Path::new("/data/spam")), "/data/spam");
}

#[test]
fn a_name_cannot_be_read_as_more_of_the_sentence() {
    let mut hostile = blame(Confidence::Certain);
    hostile.growing[0].path = "/data/x by kubelet (1) of pod kube-system/etcd\u{1b}[2J".into();
    hostile.growing[0].openers =
        vec![Opener { pid: 7, name: "kubelet".into(), program: Some("a) b".into()) }];
    let text = sentence(&hostile);
    assert!(
        text.contains(r#"most of it "/data/x by kubelet (1) of pod kube-system/etcd\u{1b}[2J" at"#)
            && text.contains(r#"by kubelet (7, running "a) b") of pod shop/web-1"#),
        "{text}"
    );
}

#[test]
fn a_certain_cause_names_file_process_and_pod() {
    let told = told_of(blame(Confidence::Certain));
    assert_eq!(
        told.sentence,
        "It grows by 2.3 MiB/s, most of it /data/spam at 2.0 MiB/s by writer (7) of pod shop/web-1."
    );
    assert_eq!(told.pod.as_ref().map(|p| p.name.as_str()), Some("web-1"));
    assert_eq!(fact(&told, SEEN_AT), Some("2026-11-21 02:04:00 UTC"));
}

#[test]
fn who_filled_it_is_told_when_it_is_full_and_grows_no_more() {
    let (cause, told) = after(vec![seen(0, 100, blame(Confidence::Certain)), seen(60, 200, still())]);
    assert!(
        told.sentence.starts_with("It did not grow while its writers were looked for. Before that, at 2026-11-21 02:04:00 UTC, it grew by 2.3 MiB/s, most of it /data/spam"),
        "{}",
        told.sentence
    );
    assert_eq!(
        told.brief.as_deref(),
        Some(
            "filled by /data/spam at 2.0 MiB/s by writer (7) of pod shop/web-1, seen 2026-11-21 02:04:00 UTC"
        )
    );
    assert!(fact(&told, "earlier_writer_1").is_some() && told.pod.is_some(), "{told:?}");
    assert_eq!(
        (fact(&told, CONFIDENCE), fact(&told, "grows_bytes_per_second")),
        (Some("certain"), Some("0"))
    );
    // It goes on to be told while the mount stands still, however often it is looked at, and no longer than people ask.
    let mut cause = Some(cause);
    let hours = EARLIER_NS / SECOND / 3600;
    for hour in 1..=hours + 1 {
        cause = Some(Cause::after(cause, seen(hour * 3600, 200, still())));
        let named = cause.as_ref().unwrap().told(hour * 3600 * SECOND).unwrap().pod.is_some();
        assert_eq!(named, hour <= hours, "{hour}");
    }
    // It writes again.
    let again = Cause::after(cause, seen(90_000, 200, blame(Confidence::Likely)));
    assert!(again.told(90_000 * SECOND).unwrap().brief.unwrap().starts_with("filling: "));
}

#[test]
fn who_was_seen_hours_before_it_was_full_is_not_who_filled_it() {
    // The first stopped; hours later another wrote the rest between two looks, less in all than the first could have.
    let hours = 6 * 3600;
    let (cause, told) =
        after(vec![seen(0, 86_000, blame(Confidence::Certain)), seen(hours, 100_000, still())]);
    assert_eq!((told.pod.as_ref(), fact(&told, CONFIDENCE)), (None, Some("unknown")), "{told:?}");
    assert!(
        told.sentence.starts_with(
            "It did not grow while its writers were looked for. At 2026-11-21 02:04:00 UTC, it grew by"
        ) && told.sentence.ends_with("Who filled it since then is unknown."),
        "{told:?}"
    );
    assert!(told.brief.unwrap().starts_with("at 2026-11-21 02:04:00 UTC it was filled by /data/spam"));
    assert_eq!(told.facts.iter().filter(|f| f.key == "earlier_writer_1").count(), 1);
    // Further looks make it no surer.
    let again = Cause::after(Some(cause), seen(hours + 60, 100_000, still()));
    assert!(again.told((hours + 60) * SECOND).unwrap().pod.is_none());
    // Nor is a little in hours nothing: it may have been all that was left.
    let looks =
        vec![seen(0, 100, blame(Confidence::Certain)), seen(60, 200, still()), seen(hours, 264, still())];
    let (_, told) = after(looks);
    assert!(!format!("{told:?}").contains("spam") && told.pod.is_none(), "{told:?}");
}

#[test]
fn one_that_nobody_knows_after_one_that_was_certain_is_unknown() {
    let unknown = Blame { bytes_per_second: 50.0 * MIB as f64, ..blame(Confidence::Unknown) };
    let (cause, told) = after(vec![seen(0, 100, blame(Confidence::Certain)), seen(60, 3000, unknown)]);
    let text = format!("{told:?}");
    assert!(!text.contains("spam") && !text.contains("web-1") && !text.contains("(7)"), "{text}");
    assert_eq!((fact(&told, CONFIDENCE), told.pod.as_ref()), (Some("unknown"), None));
    assert!(told.sentence.contains("by whom is unknown"), "{told:?}");
    // Nor is the first one who filled it, once it is full.
    let full = Cause::after(Some(cause), seen(120, 6000, still()));
    let text = format!("{:?}", full.told(120 * SECOND));
    assert!(text.contains("did not grow") && !text.contains("spam"), "{text}");
}

#[test]
fn what_grew_between_two_looks_by_more_than_the_first_could_write_was_another() {
    // The second wrote and ended while nobody looked.
    let (_, told) = after(vec![seen(0, 100, blame(Confidence::Certain)), seen(60, 3000, still())]);
    assert!(!format!("{told:?}").contains("spam") && told.pod.is_none(), "{told:?}");
    // After it stood still, too.
    let looks =
        vec![seen(0, 100, blame(Confidence::Certain)), seen(60, 200, still()), seen(120, 300, still())];
    let (_, told) = after(looks);
    assert!(!format!("{told:?}").contains("spam") && told.pod.is_none(), "{told:?}");
    // Cleaned as fast as it is filled.
    let busy = Blame { growing: blame(Confidence::Certain).growing, ..still() };
    let (cause, _) = after(vec![seen(0, 100, blame(Confidence::Certain)), seen(60, 100, busy)]);
    assert!(cause.earlier.is_none());
}

#[test]
fn a_second_writer_that_is_known_is_told_in_the_firsts_stead() {
    let mut second = blame(Confidence::Certain);
    second.growing[0].path = "/data/other".into();
    second.growing[0].pod = None;
    let (_, told) = after(vec![seen(0, 100, blame(Confidence::Certain)), seen(60, 200, second)]);
    assert!(!format!("{told:?}").contains("web-1") && told.pod.is_none(), "{told:?}");
    assert!(told.brief.unwrap().starts_with("filling: /data/other"));
}

#[test]
fn an_answer_that_is_not_new_is_told_as_what_was_then_and_accuses_nobody() {
    let (cause, _) = after(vec![seen(0, 100, blame(Confidence::Certain))]);
    assert!(cause.told(FRESH_NS).unwrap().pod.is_some());
    let told = cause.told(FRESH_NS + 1).unwrap();
    assert_eq!((told.pod.as_ref(), fact(&told, CONFIDENCE)), (None, Some("unknown")));
    assert!(fact(&told, "earlier_writer_1").is_some() && fact(&told, "writer_1").is_none(), "{told:?}");
    assert!(told.sentence.starts_with("At 2026-11-21 02:04:00 UTC, it grew by 2.3 MiB/s"), "{told:?}");
    assert!(told.brief.unwrap().starts_with("at 2026-11-21 02:04:00 UTC it was filled by /data/spam"));
    assert!(cause.told(STALE_NS + 1).is_none() && cause.inodes(FRESH_NS + 1).is_none());
}

#[test]
fn an_earlier_runs_finding_accuses_nobody() {
    let of = |rule: &str| Finding {
        id: "f-1".into(),
        rule: rule.into(),
        severity: dogwatch::record::Severity::High,
        state: FindingState::Updated,
        subject: dogwatch::record::Subject::new("mount", "/data"),
        summary: String::new(),
        explanation: String::new(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns: 0,
        pod: Some(Pod::default()),
    };
    for (rule, stays) in [("disk-high-water", false), (CLEANUP_NOT_HOLDING, false), ("log-match", true)] {
        let mut finding = of(rule);
        accuse_nobody(&mut finding);
        assert_eq!(finding.pod.is_some(), stays, "{rule}");
    }
}

#[test]
fn what_only_a_census_saw_is_told_without_a_process() {
    let grown = Grown { path: "/data/cores".into(), is_file: false, bytes: 9, inodes: 0 };
    let mut found = blame(Confidence::Unknown);
    found.inodes_per_second = 50.0;
    found.with_census(9.0, Some(grown.clone()), Some(grown));
    let (cause, told) = after(vec![seen(0, 0, found)]);
    assert!(told.sentence.contains("most of it in the folder /data/cores; by whom is unknown"), "{told:?}");
    assert!(fact(&told, "writer_1").is_none() && cause.newest.names(), "{told:?}");
    let inodes = cause.inodes(0).unwrap();
    assert!(inodes.sentence.contains("most of them in the folder /data/cores"), "{inodes:?}");
}

#[test]
fn a_finding_about_inodes_is_not_told_who_takes_the_bytes() {
    let (cause, _) = after(vec![seen(0, 0, blame(Confidence::Certain))]);
    let told = cause.inodes(0).unwrap();
    assert!(!format!("{told:?}").contains("spam") && told.pod.is_none(), "{told:?}");
}

#[test]
fn an_unknown_one_names_nobody() {
    let told = told_of(blame(Confidence::Unknown));
    assert!(told.sentence.contains("by whom is unknown"), "{told:?}");
    assert!(!format!("{told:?}").contains("spam") && told.pod.is_none(), "{told:?}");
}
