use super::*;

const NOW: i64 = 1_790_000_000 * SECOND_NS;

fn well() -> Facts {
    let journal = |stream| Journal {
        stream,
        used_bytes: 1 << 20,
        max_bytes: 1 << 30,
        free_bytes: 10 << 30,
        reserve_bytes: 1 << 30,
        ..Journal::default()
    };
    Facts {
        now_wall_ns: NOW,
        version: "0.1.0".into(),
        journals: ["urgent", "evidence", "recorder"].map(journal).into(),
        index: Index { ready: true, ..Index::default() },
        certificate_ends_wall_ns: NOW + 30 * DAY_S * SECOND_NS,
        ca_ends_wall_ns: Some(NOW + 3000 * DAY_S * SECOND_NS),
        backlog: (0, 1024),
        nodes: vec![node("node-a")],
        ..Facts::default()
    }
}

fn node(name: &str) -> Node {
    Node {
        name: name.into(),
        connected: true,
        last_seen_wall_ns: NOW,
        version: "0.1.0".into(),
        clock_ahead_ns: Some(-3_000_000),
        ..Node::default()
    }
}

fn bad(facts: &Facts) -> Vec<Check> {
    judge(facts).into_iter().filter(|c| c.severity > Severity::Info).collect()
}

#[track_caller]
fn only(facts: &Facts, subject: &str, name: &str, severity: Severity, words: &str) {
    let found = bad(facts);
    let [check] = &found[..] else { panic!("{found:?}") };
    assert_eq!((check.subject.as_str(), check.name, check.severity), (subject, name, severity), "{check:?}");
    assert!(check.words.contains(words), "{check:?}");
    assert!(!check.remedy.is_empty(), "{check:?}");
}

#[test]
fn where_all_is_well_every_subject_says_so() {
    let checks = judge(&well());
    assert!(checks.iter().all(|c| c.severity == Severity::Info && c.remedy.is_empty()), "{checks:?}");
    let names: Vec<&str> = checks.iter().map(|c| c.name).collect();
    assert_eq!(
        names,
        ["store", "journal", "index", "certificate", "ca", "refusals", "casework", "brake", "nodes", "gaps"]
    );
}

fn failing() -> Decisions {
    Decisions { failing: Some("EIO".into()), ..Decisions::default() }
}

#[test]
fn each_fault_is_one_line_with_its_figure_and_remedy() {
    let full = |j: Journal| Journal { refusing: Some("1024 bytes are free".into()), ..j };
    let f = well();
    only(
        &Facts { journals: f.journals.into_iter().map(full).collect(), ..well() },
        "collector",
        "store",
        Severity::Critical,
        "urgent, evidence, recorder: 1024 bytes are free",
    );
    let f = well();
    let near = |j: Journal| Journal { free_bytes: 3 << 29, ..j };
    let near = Facts { journals: f.journals.into_iter().map(near).collect(), ..well() };
    only(&near, "collector", "store", Severity::High, "1.5 GiB are free, the reserve is 1.0 GiB");
    only(&Facts { truth: failing(), ..well() }, "collector", "journal", Severity::Critical, "EIO");
    let filled = Decisions { failing: None, used_bytes: 768 << 20, max_bytes: 1 << 30 };
    let filled = Facts { truth: filled, ..well() };
    only(&filled, "collector", "journal", Severity::High, "has 768.0 MiB of 1.0 GiB in use");
    let index = |index| Facts { index, ..well() };
    only(&index(Index::default()), "collector", "index", Severity::High, "being built");
    let lags = Index { ready: true, lag_s: 12, ..Index::default() };
    only(&index(lags), "collector", "index", Severity::Medium, "12 s behind");
    let moved = Index { ready: true, rebuilds: 2, reason: Some("a digest".into()), ..Index::default() };
    only(&index(moved.clone()), "collector", "index", Severity::Low, "2 times since the start: a digest");
    only(&index(Index { fallback: true, ..moved }), "collector", "index", Severity::Medium, "in memory");
    let ended = Facts { certificate_ends_wall_ns: NOW - 90 * SECOND_NS, ..well() };
    only(&ended, "collector", "certificate", Severity::Critical, "ended 90 s ago");
    let ca = Facts { ca_ends_wall_ns: Some(NOW + 10 * DAY_S * SECOND_NS), ..well() };
    only(&ca, "collector", "ca", Severity::High, "ends in 10 days");
    let refused = Facts { refusals: vec![("refused-join-token".into(), 2, 40)], ..well() };
    only(&refused, "collector", "refusals", Severity::Medium, "refused-join-token 40 times from 2");
    only(
        &Facts { backlog: (1000, 1024), ..well() },
        "collector",
        "casework",
        Severity::High,
        "1000 of at most",
    );
}

#[test]
fn each_fault_of_a_node_names_it() {
    let of = |n: Node| Facts { nodes: vec![node("node-a"), n], ..well() };
    let b = || node("node-b");
    let silent = Node { connected: false, last_seen_wall_ns: NOW - 600 * SECOND_NS, ..b() };
    only(&of(silent), "node-b", "uplink", Severity::High, "10 min ago");
    let never = Node { connected: false, last_seen_wall_ns: 0, version: String::new(), ..b() };
    only(&of(never), "node-b", "uplink", Severity::Medium, "nothing ever came");
    only(&of(Node { lag_records: 20_000, ..b() }), "node-b", "uplink", Severity::Medium, "20000 records");
    let fast = Node { clock_ahead_ns: Some(90 * SECOND_NS), ..b() };
    only(&of(fast), "node-b", "clock", Severity::High, "90.0 s ahead of");
    let slow = Node { clock_ahead_ns: Some(-5 * SECOND_NS), ..b() };
    only(&of(slow), "node-b", "clock", Severity::Low, "5.0 s behind");
    let ends = Node { certificate_ends_wall_ns: Some(NOW + 60 * SECOND_NS), ..b() };
    only(&of(ends), "node-b", "certificate", Severity::High, "ends in 60 s");
    only(&of(Node { version: "0.0.9".into(), ..b() }), "node-b", "version", Severity::Low, "0.0.9");
    let unable = Node { unable: vec!["no /dev/kmsg".into()], ..b() };
    only(&of(unable), "node-b", "coverage", Severity::Low, "no /dev/kmsg");
    let loss = |node: &str| Loss {
        node: node.into(),
        class: "budget",
        gaps: 2,
        records: 70,
        example: "over the budget".into(),
    };
    only(&Facts { gaps: vec![loss("node-a")], ..well() }, "node-a", "gaps", Severity::Medium, "2 gaps");
    let two = Facts { gaps: vec![loss("node-a"), loss("node-b")], ..well() };
    only(&two, "collector", "gaps", Severity::Medium, "4 gaps in the last hour on 2 nodes, 140 records");
}

#[test]
fn what_many_nodes_share_is_one_line_and_the_worst_comes_first() {
    let silent = |i: usize| Node {
        connected: false,
        last_seen_wall_ns: NOW - 600 * SECOND_NS,
        ..node(&format!("n{i}"))
    };
    let f = Facts { nodes: (0..500).map(silent).collect(), truth: failing(), ..well() };
    let checks = judge(&f);
    assert_eq!(checks[0].name, "journal");
    assert_eq!(checks[1].words, "500 nodes are silent: n0, n1, n2 and 497 more");
    assert!(checks.windows(2).all(|w| w[0].severity >= w[1].severity));
    assert!(checks.len() < 12, "{checks:?}");
}
