//! The verbs against a desk with canned answers, over real HTTP/2.

use crate::canned::HOSTILE;
use crate::running::{How, desk, run_without_desk};
use insta::assert_snapshot;
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Every key of the contract is there.
fn has(value: &Value, contract: &str) {
    for key in contract.split_whitespace() {
        assert!(value.get(key).is_some(), "{key} is missing among {:?}", keys(value));
    }
}

#[tokio::test]
async fn tables_for_people() {
    let desk = desk().await;
    for what in ["nodes", "incidents", "findings", "actions", "events", "holds"] {
        let ran = desk.run(&["get", what]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_snapshot!(format!("get-{what}"), ran.out);
        let wide = desk.run(&["get", what, "-o", "wide"]).await;
        assert_snapshot!(format!("get-{what}-wide"), wide.out);
    }
}

#[tokio::test]
async fn narrow_terminals_are_never_overrun_and_colours_do_not_count() {
    let desk = desk().await;
    for what in ["nodes", "incidents", "findings", "actions", "events", "holds"] {
        for columns in [1, 20, 40, 80, 120, 200] {
            let plain = desk.run_as(How { columns: Some(columns), ..How::default() }, &["get", what]).await;
            for line in plain.out.lines() {
                assert!(unicode_width::UnicodeWidthStr::width(line) <= columns, "{columns}: {line}");
            }
            let coloured = desk
                .run_as(How { columns: Some(columns), color: true, ..How::default() }, &["get", what])
                .await;
            assert_eq!(uncoloured(&coloured.out), plain.out);
            if columns >= 40 {
                assert_snapshot!(format!("get-{what}-{columns}"), plain.out);
            }
        }
    }
}

#[tokio::test]
async fn a_filesystem_with_nothing_left_is_full_now() {
    let desk = desk().await;
    for (name, args) in [
        ("nodes", &["get", "nodes", "--node", "full"][..]),
        ("nodes-wide", &["get", "nodes", "--node", "full", "-o", "wide"]),
        ("top-nodes", &["top", "nodes", "--node", "full"]),
        ("top-mounts", &["top", "mounts", "--node", "full"]),
    ] {
        let ran = desk.run(args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        assert_snapshot!(format!("full-{name}"), ran.out);
    }
    let nodes = json(&desk.run(&["get", "nodes", "--node", "full", "-o", "json"]).await.out);
    let seconds: Vec<_> = (0..3).map(|n| &nodes[0]["mounts"][n]["seconds_to_full"]).collect();
    assert_eq!(seconds, [&Value::Null, &0.0.into(), &Value::Null]);
}

fn uncoloured(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    out + rest
}

#[tokio::test]
async fn hostile_text_reaches_no_terminal_in_any_format() {
    let desk = desk().await;
    for args in [
        &["get", "events"][..],
        &["get", "events", "-o", "json"],
        &["get", "events", "-o", "jsonl"],
        &["get", "actions", "-o", "json"],
        &["plan", "node-1", "--mount", "/var"],
        &["describe", "incident", "inc-2026-11-21-001", "-o", "json"],
        &["describe", "incident", "\u{1b}[2J"],
        &["get", "events", "-o", "yaml"],
        &["get", "holds", "-o", "wide"],
        &["get", "holds", "-o", "yaml"],
        &["hold", "ls"],
        &["logs"],
        &["logs", "-o", "json"],
        &["logs", "-o", "yaml"],
        &["status"],
        &["status", "-o", "yaml"],
        &["top", "processes"],
        &["top", "pods", "-o", "json"],
        &["top", "--node", "node-1"],
    ] {
        let ran = desk.run(args).await;
        assert!(!ran.out.contains(['\u{1b}', '\u{202e}', '\r']), "{args:?}: {}", ran.out);
    }
}

#[tokio::test]
async fn json_keeps_the_contract() {
    let desk = desk().await;
    let nodes = json(&desk.run(&["get", "nodes", "-o", "json"]).await.out);
    assert_eq!(nodes.as_array().unwrap().len(), 3);
    has(&nodes[0], "name state last_seen agent_version mounts");
    has(
        &nodes[0]["mounts"][0],
        "path fs total_bytes used_bytes available_bytes inodes_total inodes_free read_only seconds_to_full",
    );
    assert_eq!(nodes[0]["last_seen"], "2026-11-21T02:10:00Z");
    assert_eq!(nodes[0]["mounts"][0]["seconds_to_full"], Value::Null);
    assert_eq!(nodes[0]["mounts"][1]["seconds_to_full"], 1260.0);
    assert_eq!((&nodes[2]["last_seen"], &nodes[2]["agent_version"]), (&Value::Null, &Value::Null));

    let incidents = json(&desk.run(&["get", "incidents", "-o", "json"]).await.out);
    has(&incidents[0], "id title severity state nodes opened_at acknowledged_at resolved_at reason findings");
    has(&incidents[0], "acknowledged_by");
    assert_eq!(
        (&incidents[0]["acknowledged_by"], &incidents[1]["acknowledged_by"]),
        (&Value::Null, &"rita".into())
    );
    assert_eq!(incidents[0]["id"], "inc-2026-11-21-001", "oldest first");
    assert_eq!(
        (&incidents[0]["severity"], &incidents[0]["resolved_at"]),
        (&Value::from("high"), &Value::Null)
    );

    let events = json(&desk.run(&["get", "events", "-o", "json"]).await.out);
    has(&events[1], "time node kind severity source message fields");
    assert_eq!(events[1]["message"], HOSTILE, "escaped for terminals, the same value for programs");
    assert_eq!(events[1]["fields"]["seq"], "1");

    let actions = json(&desk.run(&["get", "actions", "-o", "json"]).await.out);
    has(
        &actions[0],
        "id time node mount mode state planned_bytes freed_bytes available_before_bytes available_after_bytes \
         unexplained_bytes objects refused",
    );
    assert_eq!(actions[0]["unexplained_bytes"], -4096);
    let objects = &actions[0]["objects"];
    assert_eq!(objects[0].get("path_hex"), None);
    assert_eq!(objects[2]["path_hex"], "2f7661722f6c6f672ffffe2e33");
    assert_eq!(objects[2]["path"], "/var/log/\u{fffd}\u{fffd}.3");

    let findings = json(&desk.run(&["get", "findings", "-o", "json"]).await.out);
    has(
        &findings[0],
        "id time node rule severity state subject summary explanation facts citations raised_at cleared_at incident \
         count",
    );
    assert_eq!(findings[0]["facts"]["available_bytes"], "6000");
    assert_eq!(findings[0]["citations"][0]["stream"], "evidence");

    let detail =
        json(&desk.run(&["describe", "incident", "incident/inc-2026-11-21-001", "-o", "json"]).await.out);
    has(&detail, "id title severity findings belongs finding_details action_details timeline");
    let told = json(&desk.run(&["timeline", "inc-2026-11-21-001", "-o", "json"]).await.out);
    let kinds: Vec<_> = told.as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["sample", "finding", "state", "plan", "cleanup", "recovered"]);
    assert_eq!(told[2]["node"], Value::Null);
}

#[tokio::test]
async fn lines_of_json_and_names() {
    let desk = desk().await;
    let ran = desk.run(&["get", "events", "-o", "jsonl"]).await;
    assert_eq!(ran.out.lines().map(json).count(), 4);
    let ran = desk.run(&["get", "incidents", "-o", "name"]).await;
    assert_eq!(ran.out, "inc-2026-11-21-001\ninc-2026-11-21-002\ninc-2026-11-21-003\n");
    assert_eq!(desk.run(&["get", "events", "-o", "name"]).await.code, 2);
    let ran = desk.run(&["get", "incidents", "--severity", "critical", "--since", "now", "-o", "json"]).await;
    assert_eq!(json(&ran.out).as_array().unwrap().len(), 1);
    let ran = desk.run(&["get", "findings", "--severity", "critical", "-o", "json"]).await;
    assert_eq!((ran.out.as_str(), ran.code), ("[]\n", 0));
    let ran = desk.run(&["get", "findings", "--severity", "critical"]).await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", "dogwatch: no findings\n"));
}

#[tokio::test]
async fn what_is_asked_reaches_the_collector() {
    let desk = desk().await;
    desk.run(&["get", "nodes", "node-1", "--cached"]).await;
    desk.run(&["get", "incidents", "--since", "1h ago", "--until", "now", "--active", "--limit", "5"]).await;
    desk.run(&["get", "findings", "--active", "--node", "node-1", "--limit", "2"]).await;
    desk.run(&["get", "findings", "--severity", "high", "--limit", "2"]).await;
    desk.run(&["get", "events", "--since", "-90s", "--kind", "log,gap"]).await;
    desk.run(&[
        "get",
        "events",
        "--node",
        "a,b",
        "--node",
        "c",
        "--pod",
        "shop/api",
        "-c",
        "main",
        "--severity",
        "high",
        "--rule",
        "oom",
        "--grep",
        "a|b",
        "--source",
        "/var/log",
        "--limit",
        "3",
    ])
    .await;
    desk.run(&["get", "incidents", "--state", "resolved", "-n", "shop"]).await;
    assert_snapshot!("asked", desk.asked.all().join("\n"));
}

#[tokio::test]
async fn yaml_short_names_and_order() {
    let desk = desk().await;
    let ran = desk.run(&["get", "inc", "inc-2026-11-21-001", "-o", "yaml"]).await;
    assert_snapshot!("get-incident-yaml", ran.out);
    let ran = desk.run(&["get", "no", "-o", "name", "--sort-by", ".state"]).await;
    assert_eq!(ran.out, "node-1\nnode-3\nnode-2\n", "connected, never-seen, silent: {}", ran.err);
    let ran = desk.run(&["get", "incidents", "--sort-by", "{.severity}", "-o", "name"]).await;
    assert_eq!(ran.out, "inc-2026-11-21-002\ninc-2026-11-21-001\ninc-2026-11-21-003\n", "the worst first");
    let ran = desk.run(&["get", "incidents", "--sort-by", "severity", "--limit", "1", "-o", "name"]).await;
    assert_eq!(ran.out, "inc-2026-11-21-002\n", "the limit cuts what is sorted: {}", ran.err);
    assert_eq!(ran.err, "");
    let ran = desk
        .run(&["get", "incidents", "--node", "many", "--sort-by", "severity", "--limit", "1", "-o", "name"])
        .await;
    assert!(ran.err.contains("of the newest 10000 incidents only"), "{}", ran.err);
    assert_eq!(ran.out.lines().count(), 1);
    // What is cut is said whoever cut it; whoever wants so many has them.
    let many = ["get", "incidents", "--node", "many", "-o", "name"];
    for (limit, given, cut) in [(None, 10_000, true), (Some("5"), 5, false), (Some("20000"), 20_000, false)] {
        let ran = desk.run(&[&many[..], &limit.map_or(vec![], |n| vec!["--limit", n])].concat()).await;
        assert_eq!((ran.code, ran.out.lines().count()), (0, given), "{limit:?}");
        assert_eq!(ran.err.contains("of the newest 10000 incidents only"), cut, "{limit:?}: {}", ran.err);
    }
    // Names are looked up, not looked for among the newest.
    for (what, id) in
        [("findings", "f-0123456789abcdef"), ("actions", "a-0"), ("incidents", "inc-2026-11-21-001")]
    {
        desk.run(&["get", what, id]).await;
        let asked = desk.asked.all().pop().unwrap();
        assert!(asked.contains(&format!("ids: [\"{id}\"]")), "{asked}");
    }
    let ran = desk.run(&["get", "ev", "--sort-by", "message", "--limit", "2", "-o", "jsonl"]).await;
    let said: Vec<_> = ran.out.lines().map(|l| json(l)["message"].clone()).collect();
    assert_eq!((said.len(), &said[1]), (2, &"line 0".into()), "not the newest two, but the first: {said:?}");
    let none = desk.run(&["get", "nodes", "--state", "silent", "-o", "name"]).await;
    assert_eq!(none.out, "node-2\n");
    let ran = desk.run(&["get"]).await;
    assert!(ran.err.contains("incidents (inc)"), "{}", ran.err);
    let ran = desk.run(&["get", "incidens"]).await;
    assert!(ran.err.contains("incidents"), "a typo is answered by what was meant: {}", ran.err);
}

#[tokio::test]
async fn holds_are_added_listed_and_released() {
    let desk = desk().await;
    let ran =
        desk.run(&["hold", "add", "--pod", "shop/api", "--node", "node-1", "-m", "we look tomorrow"]).await;
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "held hold-00000001: pod shop/api on node-1, holding\n"),
        "{}",
        ran.err
    );
    let ran = desk.run(&["hold", "release", "hold-00000001", "-m", "done"]).await;
    assert_eq!(ran.out, "released hold-00000001: /var/log/app on every node, released\n");
    assert_snapshot!("holds-asked", desk.asked.all().join("\n"));
    let names = |ran: crate::running::Ran| ran.out.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(desk.run(&["hold", "ls", "-o", "name"]).await).len(), 2);
    assert_eq!(names(desk.run(&["hold", "ls", "--all", "-o", "name"]).await).len(), 3);
    assert_eq!(
        names(desk.run(&["get", "holds", "--pod", "shop/api", "-o", "name"]).await),
        ["hold-00000002"]
    );
    assert_eq!(
        names(desk.run(&["get", "holds", "--state", "released", "-o", "name"]).await),
        ["hold-00000003"]
    );
    let holds = json(&desk.run(&["get", "holds", "-o", "json"]).await.out);
    has(
        &holds[0],
        "id node path namespace pod incident reason actor added_at released_at released_by confirmed_by state",
    );
}

#[tokio::test]
async fn it_says_what_is_wrong_with_dogwatch_itself() {
    let desk = desk().await;
    let ran = desk.run(&["status"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("2 things are wrong"), "{}", ran.err);
    assert_snapshot!("status", ran.out);
    for columns in [20, 40, 80, 120] {
        let ran =
            desk.run_as(How { columns: Some(columns), ..How::default() }, &["status", "-o", "wide"]).await;
        assert!(
            ran.out.lines().all(|l| unicode_width::UnicodeWidthStr::width(l) <= columns),
            "{columns}: {}",
            ran.out
        );
        if columns == 40 {
            assert_snapshot!("status-wide-40", ran.out);
        }
    }
    let status = json(&desk.run(&["status", "-o", "json"]).await.out);
    has(&status, "collector_version started_at checks");
    has(&status["checks"][0], "subject name severity words remedy");
    desk.well.store(true, std::sync::atomic::Ordering::SeqCst);
    let ran = desk.run(&["status"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    let ran = desk.run(&["version", "--collector", "c:1"]).await;
    assert!(ran.out.contains("collector 0.1.0 at c:1 (from --collector)"), "{}", ran.out);
}

#[tokio::test]
async fn pictures_are_for_terminals() {
    let desk = desk().await;
    for columns in [20, 40, 80, 120, 200] {
        let how = How { columns: Some(columns), ..How::default() };
        for verb in [&["describe", "incident", "inc-2026-11-21-001"][..], &["timeline", "inc-2026-11-21-001"]]
        {
            let ran = desk.run_as(how, verb).await;
            assert_eq!(ran.code, 0, "{}", ran.err);
            for line in ran.out.lines().filter(|l| !l.starts_with("  because") && !l.starts_with("  opened"))
            {
                let width = unicode_width::UnicodeWidthStr::width(line);
                assert!(width <= columns || line.starts_with("  "), "{columns}: {line}");
            }
            if columns == 40 || columns == 80 {
                assert_snapshot!(format!("{}-{columns}", verb[0]), ran.out);
            }
        }
    }
}

#[tokio::test]
async fn an_incident_in_full_and_in_order() {
    let desk = desk().await;
    let ran = desk.run(&["describe", "incident", "inc-2026-11-21-001"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_snapshot!("describe", ran.out);
    let ran =
        desk.run_as(How { columns: Some(100), ..How::default() }, &["timeline", "inc-2026-11-21-001"]).await;
    assert_snapshot!("timeline-100", ran.out);
    let ran = desk.run(&["timeline", "inc-2026-11-21-001", "-o", "wide"]).await;
    assert!(ran.out.contains("abababab/evidence/7"), "{}", ran.out);
}

#[tokio::test]
async fn exit_codes_say_what_happened() {
    let desk = desk().await;
    let none = desk.run(&["timeline", "inc-2026-11-21-009"]).await;
    assert_eq!((none.code, none.out.as_str()), (3, ""));
    assert!(none.err.contains("there is no incident inc-2026-11-21-009"), "{}", none.err);
    for unknown in [
        &["get", "nodes", "node-9"][..],
        &["get", "nodes", "--node", "node-9"],
        &["top", "--node", "node-9"],
        &["hold", "release", "hold-9", "-m", "x"],
        &["hold", "add", "--incident", "inc-2026-11-21-009", "-m", "x"],
        &["reopen", "inc-2026-11-21-009"],
    ] {
        let ran = desk.run(unknown).await;
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{unknown:?}: {}", ran.err);
        assert!(ran.err.contains("there is no"), "{unknown:?}: {}", ran.err);
    }
    assert_eq!(desk.run(&["get", "incidents", "inc-x", "-o", "json"]).await.code, 3);
    for usage in [
        &["get", "pod"][..],
        &["get"],
        &["get", "incidents", "--grep", "x"],
        &["get", "events", "--grep", "("],
        &["get", "findings", "--state", "gone"],
        &["get", "events", "-w", "-o", "json"],
        &["get", "actions", "--pod", "a/b"],
        &["get", "events", "--pod", "a/b", "-n", "c"],
        &["get", "nodes", "--sort-by", "nonsense"],
        &["note", "inc-2026-11-21-001", "  "],
        &["hold", "add", "-m", "why"],
        &["hold", "add", "--path", "relative", "-m", "why"],
        &["hold", "add", "--pod", "api", "-m", "why"],
        &["hold", "add", "--path", "/x", "-m", " "],
        &["hold", "add", "--path", "/x"],
        &["logs", "-f", "-o", "json"],
        &["watch", "-o", "yaml"],
        &["watch", "--kind", "everything"],
        &["top", "--sort", "colour"],
        &["top", "--severity", "high"],
        &["get", "nodes", "--since", "1h"],
        &["get", "incidents", "--kind", "log"],
        &["get", "events", "--since", "soon"],
        &["get", "events", "--since", "now", "--until", "1h"],
        &["get", "incidents", "--severity", "worst"],
        &["plan", "node-1"],
        &["note", "inc-1"],
    ] {
        let ran = desk.run(usage).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{usage:?}: {}", ran.err);
    }
    let gone = desk.run(&["resolve", "inc-2026-11-21-001"]).await;
    assert_eq!(gone.code, 1);
    assert!(gone.err.contains("was resolved by bob"), "{}", gone.err);
}

#[tokio::test]
async fn people_speak_to_an_incident() {
    let desk = desk().await;
    let ran = desk.run(&["ack", "inc-2026-11-21-001", "-m", "on it"]).await;
    assert_eq!(ran.out, "acknowledged inc-2026-11-21-001: disk /var filling on node-1: 6 % left\n");
    let ran = desk.run(&["note", "inc-2026-11-21-001", "logrotate", "was off", "-o", "json"]).await;
    assert_eq!(json(&ran.out)["id"], "inc-2026-11-21-001");
    let asked = desk.asked.all();
    assert!(asked[0].contains("\"on it\"") && asked[1].contains("\"logrotate was off\""), "{asked:?}");
}

#[tokio::test]
async fn a_cleanup_shows_its_plan_asks_and_applies_that_plan() {
    let desk = desk().await;
    let plan = desk.run(&["plan", "node-1", "--mount", "/var"]).await;
    assert_eq!(plan.code, 0, "{}", plan.err);
    assert_snapshot!("plan", plan.out);

    let clean = ["clean", "node-1", "--mount", "/var"];
    let no_terminal = desk.run(&clean).await;
    assert_eq!(no_terminal.code, 2);
    assert!(no_terminal.err.contains("--yes"), "{}", no_terminal.err);
    assert_eq!(desk.asked.all().len(), 1, "nothing was asked of the node");

    for no in ["\n", "n\n", "", "yes please, all of it\n"] {
        let ran = desk.run_as(How { answer: Some(no), ..How::default() }, &clean).await;
        assert_eq!(ran.code, 1, "{no:?}");
        assert!(ran.err.contains("nothing was touched"), "{}", ran.err);
    }
    assert!(!desk.asked.all().iter().any(|a| a.starts_with("ApplyRequest")));

    let ran = desk.run_as(How { answer: Some("y\n"), ..How::default() }, &clean).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("Remove 3 objects (9.0 GiB) on /var of node-1? [y/N]"), "{}", ran.err);
    assert_snapshot!("clean", ran.out);
    let applied = desk.asked.all().pop().unwrap();
    assert!(applied.starts_with("ApplyRequest") && applied.contains("a-0000000000000001"), "{applied}");

    let ran = desk.run(&["clean", "node-1", "--mount", "/var", "--yes", "-o", "json"]).await;
    assert_eq!(json(&ran.out)["freed_bytes"], 6_442_450_944_u64);
    assert!(ran.err.contains("plan a-0000000000000001 on /var: 3 objects, 9.0 GiB"), "{}", ran.err);
}

#[tokio::test]
async fn a_cleanup_that_cannot_be_says_why() {
    let desk = desk().await;
    let refused = desk.run(&["clean", "node-1", "--mount", "/", "--yes"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("/ is never cleaned"), "{}", refused.err);
    let away = desk.run(&["plan", "node-1", "--mount", "/data"]).await;
    assert_eq!(away.code, 1);
    assert!(away.err.contains("node-1 is not connected"), "{}", away.err);
    let nothing = desk.run(&["clean", "node-1", "--mount", "/clean", "--yes"]).await;
    assert_eq!(nothing.code, 0, "{}", nothing.err);
    assert!(nothing.err.contains("nothing to clean"), "{}", nothing.err);
    for verb in
        [&["plan", "node-1", "--mount", "/roomy"][..], &["clean", "node-1", "--mount", "/roomy", "--yes"]]
    {
        let roomy = desk.run(verb).await;
        assert_eq!(roomy.code, 0, "a mount with room is no failure: {}", roomy.err);
        assert!(roomy.out.contains("nothing needs to go"), "{}", roomy.out);
    }
    assert!(!desk.asked.all().iter().any(|a| a.starts_with("ApplyRequest")));
}

#[tokio::test]
async fn a_refused_plan_is_there_for_programs_too() {
    let desk = desk().await;
    let ran = desk.run(&["clean", "node-1", "--mount", "/", "--yes", "-o", "json"]).await;
    assert_eq!((ran.code, &json(&ran.out)["state"]), (1, &"refused".into()), "{}", ran.err);
    assert_eq!(json(&ran.out)["refused"][0]["reason"], "/ is never cleaned");
    let asked = desk
        .run_as(
            How { answer: Some("n\n"), ..How::default() },
            &["clean", "node-1", "--mount", "/var", "-o", "json"],
        )
        .await;
    assert_eq!((asked.code, asked.out.as_str()), (1, ""), "nothing came of it: {}", asked.err);
}

#[tokio::test]
async fn a_cleanup_that_falls_short_is_no_success_and_says_what_helps() {
    let desk = desk().await;
    let clean = ["clean", "node-1", "--mount", "/var/lib"];
    let agrees = || How { answer: Some("y\n"), ..How::default() };
    let ran = desk.run_as(agrees(), &clean).await;
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.out.contains("missing      3.0 GiB to 10.0 GiB available"), "{}", ran.out);
    assert_snapshot!("clean-short", ran.err);
    let ran = desk.run_as(agrees(), &[&clean[..], &["-o", "json"]].concat()).await;
    assert_eq!((ran.code, &json(&ran.out)["state"]), (1, &"done".into()), "{}", ran.err);
    assert!(ran.err.contains("3.0 GiB are still missing"), "{}", ran.err);
}

#[tokio::test]
async fn a_mount_that_was_not_named_is_never_cleaned_unasked() {
    let desk = desk().await;
    let folder = ["clean", "node-1", "--mount", "/var/lib"];
    for more in [&["--yes"][..], &["--yes", "-o", "json"]] {
        let ran = desk.run(&[&folder[..], more].concat()).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{}", ran.err);
        assert!(
            ran.err.contains("/var/lib is on /var: name --mount /var to clean that unasked"),
            "{}",
            ran.err
        );
    }
    let ran = desk.run_as(How { answer: Some("n\n"), ..How::default() }, &folder).await;
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("on /var of node-1, which /var/lib is on? [y/N]"), "{}", ran.err);
    assert!(!desk.asked.all().iter().any(|a| a.starts_with("ApplyRequest")));
    let ran = desk.run(&["clean", "node-1", "--mount", "/var/", "--yes"]).await;
    assert_eq!(ran.code, 0, "a slash at the end names the same: {}", ran.err);
}

#[tokio::test]
async fn a_folder_is_planned_for_by_its_mount_and_what_is_not_there_is_not_found() {
    let desk = desk().await;
    let ran = desk.run(&["plan", "node-1", "--mount", "/var/lib"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.err, "dogwatch: /var/lib is on /var\n");
    assert!(ran.out.starts_with("Plan a-0000000000000002 for /var on node-1"), "{}", ran.out);
    let named = desk.run(&["plan", "node-1", "--mount", "/var"]).await;
    assert_eq!((named.code, named.err.as_str()), (0, ""));
    let gone = desk.run(&["plan", "node-1", "--mount", "/nowhere"]).await;
    assert_eq!((gone.code, gone.out.as_str()), (3, ""), "{}", gone.err);
}

#[tokio::test]
async fn a_hold_on_what_is_not_there_is_taken_with_a_warning() {
    let desk = desk().await;
    let ran = desk.run(&["hold", "add", "--path", "/nowhere", "-m", "the court asks"]).await;
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "held hold-00000004: /nowhere on every node, holding\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("nothing is at /nowhere now on node-1; the hold stands"), "{}", ran.err);
    assert!(ran.err.contains("hold release hold-00000004"), "{}", ran.err);
    let ran = desk.run(&["hold", "add", "--path", "/var/log", "-m", "the court asks"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "what is there is held in silence");
}

#[tokio::test]
async fn many_events_stream_and_the_newest_are_kept() {
    let desk = desk().await;
    let ran = desk.run(&["get", "events", "--node", "many", "-o", "jsonl"]).await;
    assert_eq!(ran.out.lines().count(), 20_000);
    let ran = desk
        .run(&["get", "events", "--node", "many", "--limit", "2", "--severity", "info", "-o", "json"])
        .await;
    let events = json(&ran.out);
    assert_eq!((&events[0]["message"], &events[1]["message"]), (&"line 19998".into(), &"line 19999".into()));
}

#[tokio::test]
async fn without_an_answer_it_says_whom_it_asked_and_what_to_try() {
    let ran = run_without_desk(&["get", "incidents", "--collector", "127.0.0.1:9"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    for part in ["127.0.0.1:9", "refused", "--journal DIR"] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
}
