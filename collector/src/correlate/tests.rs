use dogwatch::record::{ActionState, CleanupMode, Subject};

use super::*;

const S: i64 = SECOND_NS;
/// 2026-11-21 02:10:00 UTC.
const T0: i64 = 1_795_227_000 * S;

pub(super) fn finding(id: &str, rule: &str, kind: &str, name: &str) -> Finding {
    Finding {
        id: id.into(),
        rule: rule.into(),
        severity: Severity::High,
        state: FindingState::Raised,
        subject: Subject::new(kind, name),
        summary: format!("{rule} holds"),
        explanation: String::new(),
        citations: vec![],
        facts: vec![],
        raised_wall_ns: T0,
        pod: None,
    }
}

fn on_var(id: &str, rule: &str, severity: Severity, raised_wall_ns: i64) -> Finding {
    Finding { severity, raised_wall_ns, ..finding(id, rule, "mount", "/var") }
}

fn cleared(f: &Finding) -> Finding {
    Finding { state: FindingState::Cleared, ..f.clone() }
}

fn action(id: &str, mount: &str, finding_id: Option<&str>, actor: &str) -> Action {
    Action {
        id: id.into(),
        mount: mount.into(),
        mode: CleanupMode::Auto,
        state: ActionState::Planned,
        reason: String::new(),
        finding_id: finding_id.map(str::to_owned),
        actor: actor.into(),
        planned_bytes: 0,
        freed_bytes: None,
        available_before_bytes: None,
        available_after_bytes: None,
        unexplained: None,
        target_available_bytes: 0,
        objects: vec![],
        refused: vec![],
        expires_wall_ns: 0,
        image_store: None,
        detail: String::new(),
    }
}

pub(super) fn node() -> NodeName {
    "node-1".parse().unwrap()
}

fn fresh() -> Correlator {
    Correlator::new(Policy::default(), vec![], [])
}

/// Decisions as lines, for reading.
fn told(decisions: &[Decision]) -> Vec<String> {
    decisions
        .iter()
        .map(|d| match &d.what {
            What::IncidentOpened { id, title, severity, .. } => format!("open {id} {severity} {title}"),
            What::IncidentJoined { id, piece, reason, .. } => {
                let (Piece::Finding(p) | Piece::Action(p)) = piece;
                format!("join {} {p}: {reason}", &id[15..])
            }
            What::IncidentSeverity { id, severity, reason } => {
                format!("severity {} {severity}: {reason}", &id[15..])
            }
            What::IncidentMoved { id, state, reason } => format!("{state} {}: {reason}", &id[15..]),
            What::IncidentRetitled { id, title, .. } => format!("title {}: {title}", &id[15..]),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_disk_that_fills_is_cleaned_and_recovers_is_one_incident() {
    let mut c = fresh();
    let high = on_var("f-1", "disk-high-water", Severity::High, T0);
    assert_eq!(
        told(&c.observe_finding(&node(), &high, T0)),
        [
            "open inc-2026-11-21-001 high disk /var filling on node-1",
            "join 001 f-1: the finding that opened it"
        ]
    );
    let full = on_var("f-2", "disk-time-to-full", Severity::Critical, T0 + 42 * S);
    assert_eq!(
        told(&c.observe_finding(&node(), &full, T0 + 42 * S)),
        [
            "join 001 f-2: same node and mount as disk-high-water, 42 s later",
            "severity 001 critical: disk-time-to-full is critical: disk-time-to-full holds"
        ]
    );
    let cleanup = action("a-1", "/var", Some("f-1"), "node");
    assert_eq!(
        told(&c.observe_action(&node(), &cleanup, T0 + 43 * S)),
        ["join 001 a-1: triggered by finding f-1"]
    );
    let asked = action("a-2", "/var", None, "alice");
    assert_eq!(
        told(&c.observe_action(&node(), &asked, T0 + 44 * S)),
        ["join 001 a-2: same mount, asked by alice"]
    );
    assert!(c.observe_finding(&node(), &cleared(&high), T0 + 60 * S).is_empty());
    assert!(c.tick(T0 + 600 * S).is_empty(), "one of two still holds");
    assert!(c.observe_finding(&node(), &cleared(&full), T0 + 600 * S).is_empty());
    assert!(c.tick(T0 + 899 * S).is_empty(), "not quiet for long enough");
    assert_eq!(told(&c.tick(T0 + 900 * S)), ["resolved 001: all 2 findings have been cleared for 5 min"]);
    assert!(c.tick(T0 + 901 * S).is_empty());
}

#[test]
fn the_same_state_twice_decides_nothing() {
    let mut c = fresh();
    let f = on_var("f-1", "disk-high-water", Severity::High, T0);
    let low = on_var("f-2", "inode-high-water", Severity::Low, T0);
    let a = action("a-1", "/var", None, "alice");
    for (round, expected) in [(0, 2 + 1 + 1), (1, 0), (2, 0)] {
        let now = T0 + round * S;
        let mut all = c.observe_finding(&node(), &f, now);
        all.extend(c.observe_finding(&node(), &low, now));
        all.extend(c.observe_action(&node(), &a, now));
        assert_eq!(all.len(), expected, "round {round}: {:?}", told(&all));
    }
    c.observe_finding(&node(), &cleared(&f), T0 + 5 * S);
    assert!(c.observe_finding(&node(), &f, T0 + 6 * S).is_empty(), "told late, after it was cleared");
}

#[test]
fn other_nodes_mounts_and_families_are_other_incidents() {
    let mut c = fresh();
    let mut ids = vec![];
    let two: NodeName = "node-2".parse().unwrap();
    for (n, f) in [
        (node(), on_var("f-1", "disk-high-water", Severity::High, T0)),
        (node(), finding("f-2", "disk-high-water", "mount", "/data")),
        (two, on_var("f-1", "disk-high-water", Severity::High, T0)),
        (node(), finding("f-3", "memory-pressure", "memory", "node-1")),
        (node(), finding("f-4", "failed-login", "log", "/var/log/auth.log")),
        (node(), finding("f-5", "node-silent", "node", "node-1")),
    ] {
        let out = c.observe_finding(&n, &f, T0);
        let What::IncidentOpened { id, .. } = &out[0].what else { panic!("{out:?}") };
        ids.push(id.clone());
    }
    let expected: Vec<_> = (1..=6).map(|n| format!("inc-2026-11-21-{n:03}")).collect();
    assert_eq!(ids, expected);
    let oom = finding("f-6", "oom-kill", "log", "kmsg");
    assert_eq!(told(&c.observe_finding(&node(), &oom, T0)).len(), 1, "the oom kill joins memory");
}

#[test]
fn lesser_findings_open_nothing_but_are_taken_along() {
    let mut c = fresh();
    let low = on_var("f-1", "disk-time-to-full", Severity::Low, T0);
    assert!(c.observe_finding(&node(), &low, T0).is_empty());
    assert!(c.observe_action(&node(), &action("a-1", "/var", Some("f-1"), "node"), T0 + S).is_empty());
    let high = on_var("f-2", "disk-high-water", Severity::Medium, T0 + 10 * S);
    assert_eq!(
        told(&c.observe_finding(&node(), &high, T0 + 10 * S)),
        [
            "open inc-2026-11-21-001 medium disk /var filling on node-1",
            "join 001 f-2: the finding that opened it",
            "join 001 f-1: same node and mount as disk-high-water, held before it",
            "join 001 a-1: triggered by finding f-1",
        ]
    );
    let info = on_var("f-3", "inode-high-water", Severity::Info, T0 + 11 * S);
    assert_eq!(
        told(&c.observe_finding(&node(), &info, T0 + 11 * S)),
        ["join 001 f-3: same node and mount as disk-high-water, 1 s later"]
    );
}

#[test]
fn a_lesser_finding_that_rises_opens_then() {
    let mut c = fresh();
    let mut f = on_var("f-1", "disk-high-water", Severity::Low, T0);
    assert!(c.observe_finding(&node(), &f, T0).is_empty());
    f.state = FindingState::Updated;
    f.severity = Severity::Medium;
    assert_eq!(c.observe_finding(&node(), &f, T0 + S).len(), 2);
}

#[test]
fn back_within_the_window_reopens_and_later_opens_another() {
    let mut c = fresh();
    let first = on_var("f-1", "disk-high-water", Severity::High, T0);
    c.observe_finding(&node(), &first, T0);
    c.observe_finding(&node(), &cleared(&first), T0 + S);
    assert_eq!(c.tick(T0 + 301 * S).len(), 1);
    let low = on_var("f-0", "inode-high-water", Severity::Low, T0 + 302 * S);
    assert!(c.observe_finding(&node(), &low, T0 + 302 * S).is_empty(), "a lesser one reopens nothing");
    let second = on_var("f-2", "disk-high-water", Severity::High, T0 + 400 * S);
    assert_eq!(
        told(&c.observe_finding(&node(), &second, T0 + 400 * S)),
        [
            "join 001 f-2: same node and mount as disk-high-water, 6 min later",
            "open 001: disk-high-water raised: disk-high-water holds",
        ]
    );
    c.observe_finding(&node(), &cleared(&second), T0 + 401 * S);
    assert_eq!(c.tick(T0 + 800 * S).len(), 1);
    let again = Finding { raised_wall_ns: T0 + 900 * S, ..second.clone() };
    assert_eq!(
        told(&c.observe_finding(&node(), &again, T0 + 900 * S)),
        ["open 001: disk-high-water is back, 100 s after the end"],
        "the same id may come back as well"
    );
    c.observe_finding(&node(), &cleared(&again), T0 + 901 * S);
    c.tick(T0 + 1300 * S);
    let third = on_var("f-3", "disk-high-water", Severity::High, T0 + 3000 * S);
    assert!(
        told(&c.observe_finding(&node(), &third, T0 + 3000 * S))[0].starts_with("open inc-2026-11-21-002")
    );
}

#[test]
fn severity_rises_with_a_reason_and_a_persons_word_stands() {
    let mut c = fresh();
    let mut f = on_var("f-1", "disk-high-water", Severity::High, T0);
    c.observe_finding(&node(), &f, T0);
    let incident = c.incidents["inc-2026-11-21-001"].clone();
    c.apply(&incident.set_severity("alice", Severity::Low, "a test machine", T0 + S).unwrap());
    f.state = FindingState::Updated;
    assert!(c.observe_finding(&node(), &f, T0 + 2 * S).is_empty(), "nothing new, so hers stands");
    f.severity = Severity::Critical;
    assert_eq!(
        told(&c.observe_finding(&node(), &f, T0 + 3 * S)),
        ["severity 001 critical: disk-high-water is critical: disk-high-water holds"]
    );
    f.severity = Severity::Medium;
    assert!(c.observe_finding(&node(), &f, T0 + 4 * S).is_empty(), "it does not fall by itself");
}

#[test]
fn what_a_person_resolved_stays_so_until_it_gets_worse() {
    let mut c = fresh();
    let mut f = on_var("f-1", "disk-high-water", Severity::High, T0);
    c.observe_finding(&node(), &f, T0);
    let incident = c.incidents["inc-2026-11-21-001"].clone();
    c.apply(&incident.resolve("alice", "known", T0 + S).unwrap());
    f.state = FindingState::Updated;
    assert!(c.observe_finding(&node(), &f, T0 + 2 * S).is_empty());
    assert!(c.tick(T0 + 3 * S).is_empty());
    f.severity = Severity::Critical;
    let out = told(&c.observe_finding(&node(), &f, T0 + 7200 * S));
    assert_eq!(out.len(), 2, "{out:?}");
    assert!(out[0].starts_with("open 001: disk-high-water got worse") && out[1].contains("critical"));
}

#[test]
fn what_a_person_reopened_waits_for_something_new() {
    let mut c = fresh();
    let f = on_var("f-1", "disk-high-water", Severity::High, T0);
    c.observe_finding(&node(), &f, T0);
    c.observe_finding(&node(), &cleared(&f), T0 + S);
    assert_eq!(c.tick(T0 + 301 * S).len(), 1);
    let incident = c.incidents["inc-2026-11-21-001"].clone();
    c.apply(&incident.reopen("alice", "still slow", T0 + 302 * S).unwrap());
    assert!(c.tick(T0 + 9000 * S).is_empty());
    let g = on_var("f-2", "disk-high-water", Severity::High, T0 + 9001 * S);
    assert_eq!(c.observe_finding(&node(), &g, T0 + 9001 * S).len(), 1, "joins the open one");
    c.observe_finding(&node(), &cleared(&g), T0 + 9002 * S);
    assert_eq!(c.tick(T0 + 9302 * S).len(), 1);
}

#[test]
fn numbers_go_on_after_a_restart_and_begin_anew_each_day() {
    let mut c = fresh();
    let mut decisions = c.observe_finding(&node(), &on_var("f-1", "disk-high-water", Severity::High, T0), T0);
    let mut incident = Incident::open(&decisions.remove(0)).unwrap();
    decisions.iter().for_each(|d| assert!(incident.apply(d)));
    incident.id = "inc-2026-11-21-1041".into();

    let row = FindingRow {
        node: Some(node()),
        finding: on_var("f-1", "disk-high-water", Severity::High, T0),
        from_collector: false,
        count: 1,
        steps: vec![],
    };
    let mut c = Correlator::new(Policy::default(), vec![incident], [&row]);
    assert!(c.observe_finding(&node(), &row.finding, T0 + S).is_empty(), "it knows its own");
    let out = told(&c.observe_finding(&node(), &finding("f-9", "memory-pressure", "memory", "node-1"), T0));
    assert!(out[0].starts_with("open inc-2026-11-21-1042"), "{out:?}");
    let tomorrow = T0 + 86_400 * S;
    let out = told(&c.observe_finding(&node(), &finding("f-8", "disk-high-water", "mount", "/b"), tomorrow));
    assert!(out[0].starts_with("open inc-2026-11-22-001"), "{out:?}");
    c.observe_finding(&node(), &cleared(&row.finding), T0 + 10 * S);
    let out = told(&c.tick(T0 + 310 * S));
    assert!(out[0].contains("its finding has been cleared for 5 min"), "{out:?}");
}

#[test]
fn a_finding_that_nobody_saw_clear_is_quiet_from_the_first_tick_on() {
    let mut c = fresh();
    let out = c.observe_finding(&node(), &on_var("f-1", "disk-high-water", Severity::High, T0), T0);
    let mut incident = Incident::open(&out[0]).unwrap();
    incident.apply(&out[1]);
    let mut c = Correlator::new(Policy::default(), vec![incident], []);
    assert!(c.tick(T0 + 5000 * S).is_empty());
    assert_eq!(c.tick(T0 + 5300 * S).len(), 1);
}

#[test]
fn a_line_about_a_full_disk_joins_the_disk_that_is_full() {
    let mut c = fresh();
    c.observe_finding(&node(), &on_var("f-1", "disk-high-water", Severity::High, T0), T0);
    let line = finding("f-2", "no-space-left", "log", "kmsg");
    assert_eq!(
        told(&c.observe_finding(&node(), &line, T0)),
        ["join 001 f-2: same node, a disk that is not named as disk-high-water, at the same time"]
    );
}

fn with_facts(mut f: Finding, facts: &[(&str, &str)]) -> Finding {
    f.facts = facts.iter().map(|(k, v)| dogwatch::record::Fact::new(*k, v)).collect();
    f
}

#[test]
fn two_disks_in_trouble_at_once_are_two_incidents_also_where_something_speaks_of_a_disk_without_a_name() {
    let mut c = fresh();
    let line = finding("f-0", "no-space-left", "log", "kmsg");
    assert_eq!(
        told(&c.observe_finding(&node(), &line, T0))[0],
        "open inc-2026-11-21-001 high no space left on node-1: kmsg"
    );
    let first = finding("f-1", "disk-high-water", "mount", "/data");
    assert_eq!(
        told(&c.observe_finding(&node(), &first, T0)),
        [
            "join 001 f-1: same node, a disk that is not named as no-space-left, at the same time",
            "title 001: disk /data filling on node-1",
        ]
    );
    let second = finding("f-2", "disk-high-water", "mount", "/srv");
    let out = told(&c.observe_finding(&node(), &second, T0));
    assert_eq!(out[0], "open inc-2026-11-21-002 high disk /srv filling on node-1", "{out:?}");
    for (id, disk) in [("f-3", "sda"), ("f-4", "sdb")] {
        let out = told(&c.observe_finding(&node(), &finding(id, "disk-errors", "disk", disk), T0));
        assert!(out[0].starts_with("open"), "{disk}: {out:?}");
    }
    let stall = finding("f-5", "io-stall", "disk", "sdb");
    assert_eq!(
        told(&c.observe_finding(&node(), &stall, T0)),
        ["join 004 f-5: same node and device as disk-errors, at the same time"]
    );
    let action = action("a-1", "/srv", None, "node");
    assert_eq!(
        told(&c.observe_action(&node(), &action, T0)),
        ["join 002 a-1: same mount, planned by the node itself"]
    );
}

#[test]
fn a_mount_joins_the_device_that_failed_beneath_it_and_the_title_says_so() {
    let mut c = fresh();
    let errors = finding("f-1", "disk-errors", "disk", "sdb");
    let errors = with_facts(errors, &[("device_name", "sdb1"), ("mount", "/data")]);
    c.observe_finding(&node(), &errors, T0);
    let read_only = finding("f-2", "mount-read-only", "mount", "/backup");
    let read_only = with_facts(read_only, &[("device_name", "/dev/sdb1")]);
    assert_eq!(
        told(&c.observe_finding(&node(), &read_only, T0)),
        [
            "join 001 f-2: same node and device sdb1 as disk-errors, at the same time",
            "title 001: disk errors on node-1: sdb; also /backup",
        ]
    );
    let full = finding("f-3", "disk-high-water", "mount", "/backup");
    assert_eq!(
        told(&c.observe_finding(&node(), &full, T0)),
        ["join 001 f-3: same node and mount /backup as mount-read-only, at the same time"],
        "named already"
    );
    let other =
        with_facts(finding("f-4", "disk-high-water", "mount", "/srv"), &[("device_name", "/dev/sdc1")]);
    assert!(told(&c.observe_finding(&node(), &other, T0))[0].starts_with("open"));
    let tmpfs =
        |id, mount| with_facts(finding(id, "disk-high-water", "mount", mount), &[("device_name", "tmpfs")]);
    assert!(told(&c.observe_finding(&node(), &tmpfs("f-5", "/tmp"), T0))[0].starts_with("open"));
    assert!(told(&c.observe_finding(&node(), &tmpfs("f-6", "/run"), T0))[0].starts_with("open"));
}

#[test]
fn tasks_that_hang_follow_from_io_that_stands_still() {
    let mut c = fresh();
    c.observe_finding(&node(), &on_var("f-0", "disk-high-water", Severity::High, T0), T0);
    let hung = |id: &str, name: &str| finding(id, "hung-tasks", "process", name);
    let out = told(&c.observe_finding(&node(), &hung("f-1", "tar (7)"), T0));
    assert_eq!(out[0], "open inc-2026-11-21-002 high hung tasks on node-1: tar (7)");
    // It names a process, which is no disk: which one the tasks hang in is still to be said.
    assert_eq!(
        told(&c.observe_finding(&node(), &hung("f-15", "cp (9)"), T0))[1],
        "title 002: hung tasks on node-1: tar (7); also process cp (9)"
    );
    assert_eq!(
        told(&c.observe_finding(&node(), &finding("f-2", "io-stall", "node", "node-1"), T0)),
        ["join 002 f-2: same node, I/O that does not get on as hung-tasks, at the same time"]
    );
    assert_eq!(
        told(&c.observe_finding(&node(), &finding("f-3", "io-stall", "disk", "sda"), T0)),
        [
            "join 002 f-3: same node, I/O that does not get on as io-stall, at the same time",
            "title 002: io stall on node-1: sda; also process cp (9)",
        ]
    );
    let out = told(&c.observe_finding(&node(), &finding("f-4", "io-stall", "disk", "sdb"), T0));
    assert!(out[0].starts_with("open inc-2026-11-21-003"), "{out:?}");
    let again = told(&c.observe_finding(&node(), &hung("f-6", "cp (9)"), T0));
    assert_eq!(again, ["join 002 f-6: same node and process cp (9) as hung-tasks, at the same time"]);
    assert_eq!(c.incidents["inc-2026-11-21-001"].pieces.len(), 1, "the disk that fills is another story");
}

#[test]
fn pods_at_their_own_limits_are_their_own_stories_and_the_nodes_memory_joins_them() {
    let mut c = fresh();
    let pod = |id: &str, rule: &str, name: &str| finding(id, rule, "pod", name);
    let first = |out: Vec<Decision>| told(&out).remove(0);
    c.observe_finding(&node(), &pod("f-1", "cgroup-memory-pressure", "shop/api/web"), T0);
    assert_eq!(
        first(c.observe_finding(&node(), &pod("f-2", "oom-kill", "shop/api/web"), T0)),
        "join 001 f-2: same node and subject as cgroup-memory-pressure, at the same time"
    );
    assert_eq!(
        first(c.observe_finding(&node(), &pod("f-3", "container-crash-loop", "shop/api/web"), T0)),
        "join 001 f-3: same node and pod shop/api as oom-kill, at the same time"
    );
    assert!(
        first(c.observe_finding(&node(), &pod("f-4", "oom-kill", "shop/cart/web"), T0)).starts_with("open")
    );
    let short = finding("f-5", "memory-pressure", "memory", "node-1");
    assert!(first(c.observe_finding(&node(), &short, T0)).starts_with("join 002 f-5: same node, memory too"));
    let out = told(&c.observe_finding(&node(), &pod("f-6", "oom-kill", "shop/pay/web"), T0));
    assert!(out[0].starts_with("join 002 f-6: same node, memory too as memory-pressure"), "{out:?}");
    assert_eq!(
        out[1],
        "title 002: process of pod shop/cart killed for want of memory on node-1; also pod shop/pay"
    );
}

#[test]
fn what_an_incident_came_to_be_about_is_known_after_a_restart() {
    let mut c = fresh();
    let line = finding("f-1", "no-space-left", "log", "kmsg");
    let mut decisions = c.observe_finding(&node(), &line, T0);
    let full = with_facts(finding("f-2", "disk-high-water", "mount", "/a"), &[("device_name", "/dev/sda1")]);
    decisions.extend(c.observe_finding(&node(), &full, T0));
    let bound = with_facts(finding("f-3", "disk-high-water", "mount", "/b"), &[("device_name", "/dev/sda1")]);
    decisions.extend(c.observe_finding(&node(), &bound, T0));
    let mut incident = Incident::open(&decisions.remove(0)).unwrap();
    assert!(decisions.iter().all(|d| incident.apply(d)));
    assert!(!decisions.iter().any(|d| incident.apply(d)), "twice changes nothing");
    assert_eq!(incident.title, "disk /a filling on node-1; also /b");
    assert_eq!(incident, c.incidents[&incident.id]);
    let mut c = Correlator::new(Policy::default(), vec![incident], []);
    for (id, mount, begins) in [("f-4", "/b", "join 001"), ("f-5", "/a", "join 001"), ("f-6", "/c", "open")] {
        let out = told(&c.observe_finding(&node(), &finding(id, "inode-high-water", "mount", mount), T0 + S));
        assert!(out[0].starts_with(begins), "{mount}: {out:?}");
    }
}

#[test]
fn a_node_that_says_everything_floods_only_its_own_incidents() {
    let mut c = fresh();
    let mut opened = 0;
    for n in 0..500 {
        let f = finding(&format!("f-{n}"), "disk-high-water", "mount", &format!("/m{n}"));
        let out = c.observe_finding(&node(), &f, T0 + n);
        opened += out.iter().filter(|d| matches!(d.what, What::IncidentOpened { .. })).count();
        assert!(!out.is_empty(), "each belongs somewhere");
    }
    assert_eq!(opened, MAX_LIVE_PER_NODE);
    let two: NodeName = "node-2".parse().unwrap();
    assert_eq!(c.observe_finding(&two, &on_var("f-1", "disk-high-water", Severity::High, T0), T0).len(), 2);
}

#[test]
fn why_it_was_opened_is_told_whole_and_within_bounds() {
    let summary = |chars: usize| format!("/var\x1b is full: {}!", "x".repeat(chars));
    let reason = |chars: usize| {
        let mut c = fresh();
        let f = Finding { summary: summary(chars), ..on_var("f-1", "disk-high-water", Severity::High, T0) };
        c.observe_finding(&node(), &f, T0);
        c.incidents.values().next().unwrap().reason.clone()
    };
    assert!(reason(400).contains(&summary(400).replace('\x1b', " ")), "{}", reason(400));
    let cut = reason(100_000);
    assert!(cut.ends_with('…') && cut.len() < 2_000, "{} bytes", cut.len());
}

#[test]
fn a_clock_set_back_delays_the_end_and_does_not_prevent_it() {
    let mut c = fresh();
    let f = on_var("f-1", "disk-high-water", Severity::High, T0);
    c.observe_finding(&node(), &f, T0);
    c.observe_finding(&node(), &cleared(&f), T0 + 1);
    let earlier = T0 - 31_536_000 * S;
    assert!(c.tick(earlier).is_empty());
    assert_eq!(c.tick(earlier + 300 * S).len(), 1);
}

proptest::proptest! {
    /// Whatever is observed in whatever order: replaying the decisions gives the correlator's own incidents, every
    /// finding is in at most one live incident of each node, and each decision changes something.
    #[test]
    fn decisions_replay_to_the_same_incidents(
        steps in proptest::collection::vec((0u8..6, 0usize..5, 0u8..4, 0i64..400), 1..120),
    ) {
        let mut c = fresh();
        let mut replayed: BTreeMap<String, Incident> = BTreeMap::new();
        let mut now = T0;
        for (id, severity, what, wait_s) in steps {
            now += wait_s * S;
            let mut f = on_var(&format!("f-{id}"), "disk-high-water", Severity::ALL[severity], now);
            match id {
                5 => f.subject = Subject::new("memory", "node-1"),
                4 => (f.subject, f.rule) = (Subject::new("log", "kmsg"), "no-space-left".to_owned()),
                3 => f.subject = Subject::new("mount", "/srv"),
                _ => {}
            }
            let out = match what {
                0 | 1 => c.observe_finding(&node(), &f, now),
                2 => c.observe_finding(&node(), &cleared(&f), now),
                _ => c.tick(now),
            };
            for d in &out {
                if let Some(i) = Incident::open(d) {
                    proptest::prop_assert!(replayed.insert(i.id.clone(), i).is_none());
                } else {
                    let changed: usize = replayed.values_mut().map(|i| usize::from(i.apply(d))).sum();
                    proptest::prop_assert_eq!(changed, 1, "{:?}", d);
                }
            }
        }
        for (id, incident) in &c.incidents {
            proptest::prop_assert_eq!(incident, &replayed[id]);
        }
    }
}
