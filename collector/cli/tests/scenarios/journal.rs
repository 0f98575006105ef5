//! A node's own journal, written by the journal's real writer, read when no collector answers.

use std::path::Path;

use crate::canned::{S, T0};
use crate::running::{Dial, How, run_with, run_without_desk};
use dogwatch::block::{Block, Place, Start};
use dogwatch::chain::ChainId;
use dogwatch::journal::{BlockInfo, Journal, Options};
use dogwatch::record::{
    Action, ActionState, Body, CleanupMode, Finding, FindingState, Hash, Incarnation, LogLine, Moment, Mount,
    Record, Sample, Severity, Stream, Subject,
};
use serde_json::Value;

fn record(seq: u64, at_s: i64, body: Body) -> Record {
    Record { seq, at: Moment { wall_ns: T0 + at_s * S, boot_ns: seq }, body }
}

fn finding(id: &str, state: FindingState, severity: Severity) -> Body {
    Body::Finding(Box::new(Finding {
        id: id.into(),
        rule: "disk-high-water".into(),
        severity,
        state,
        subject: Subject::new("mount", "/var"),
        summary: format!("/var {}", state.as_str()),
        explanation: String::new(),
        citations: vec![],
        facts: vec![],
        raised_wall_ns: T0,
        pod: None,
    }))
}

fn action(state: ActionState) -> Body {
    Body::Action(Box::new(Action {
        id: "a-0000000000000001".into(),
        mount: "/var".into(),
        mode: CleanupMode::Auto,
        state,
        reason: "disk-high-water".into(),
        finding_id: None,
        actor: "node".into(),
        planned_bytes: 10,
        freed_bytes: (state == ActionState::Done).then_some(9),
        available_before_bytes: None,
        available_after_bytes: None,
        unexplained: None,
        target_available_bytes: 0,
        objects: vec![],
        refused: vec![],
        expires_wall_ns: 0,
        image_store: None,
        detail: String::new(),
    }))
}

fn sample(used: u64) -> Body {
    let mount = Mount {
        path: "/var".into(),
        fs: "ext4".into(),
        total_bytes: 100,
        free_bytes: 100 - used,
        available_bytes: 100 - used,
        ..Mount::default()
    };
    Body::Sample(std::sync::Arc::new(Sample { mounts: vec![mount], ..Sample::default() }))
}

/// Seals each of `blocks` and writes them as a node does.
fn write(dir: &Path, stream: Stream, blocks: Vec<Vec<Record>>) {
    let dir = dir.join(stream.as_str());
    std::fs::create_dir_all(&dir).unwrap();
    let options = Options { segment_bytes: 1 << 20, max_segments: 4, preallocate_segments: 1 };
    let (mut journal, _) = Journal::open(&dir, options).unwrap();
    let incarnation = Incarnation([9; 16]);
    let mut previous = Hash::ZERO;
    for records in blocks {
        let start = (previous == Hash::ZERO).then(|| Start {
            counter: 1,
            boot_id: [1; 16],
            predecessor: None,
            agent_version: "0.1.0".into(),
        });
        let node = "node-1".parse().unwrap();
        let place = Place { node, incarnation, stream, previous, start, receipt: None };
        let block = Block::seal(place, &records, &mut || [3; 16]).unwrap();
        let h = block.header();
        let info = BlockInfo {
            chain: ChainId { node: h.node.clone(), incarnation, stream },
            first_seq: h.first_seq,
            last_seq: h.last_seq,
            first_wall_ns: h.first_at.wall_ns,
            last_wall_ns: h.last_at.wall_ns,
            kinds: h.kinds,
            hash: block.hash(),
        };
        previous = block.hash();
        journal.append_block(&info, &block.encode(), h.last_at.wall_ns).unwrap();
    }
    journal.sync().unwrap();
    journal.close().unwrap();
}

pub(crate) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let line = LogLine {
        source: "/var/log/syslog".into(),
        offset: 0,
        inode: 1,
        line: b"\x1b[2Jno space left \xff".to_vec(),
        truncated: false,
        rules: vec!["no-space-left".into()],
        ..LogLine::default()
    };
    write(
        dir.path(),
        Stream::Urgent,
        vec![
            vec![record(1, 10, finding("f-1", FindingState::Raised, Severity::High))],
            vec![record(2, 11, action(ActionState::Planned)), record(3, 12, action(ActionState::Done))],
            vec![record(4, 20, finding("f-1", FindingState::Cleared, Severity::Info))],
            vec![record(5, 30, finding("f-2", FindingState::Raised, Severity::Critical))],
        ],
    );
    write(
        dir.path(),
        Stream::Evidence,
        vec![vec![record(1, 5, sample(80)), record(2, 11, Body::Log(line))], vec![record(3, 40, sample(70))]],
    );
    write(dir.path(), Stream::Recorder, vec![vec![record(1, 5, sample(80)), record(2, 41, sample(71))]]);
    dir
}

async fn json(dir: &Path, args: &[&str]) -> Value {
    let dir = dir.to_str().unwrap();
    let all = [args, &["--journal", dir, "-o", "json"]].concat();
    let ran = run_with(Dial::Configured, How::default(), &all).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.out.contains('\u{1b}'));
    serde_json::from_str(&ran.out).unwrap()
}

fn all<'v>(rows: &'v Value, key: &str) -> Vec<&'v str> {
    rows.as_array().unwrap().iter().map(|r| r[key].as_str().unwrap()).collect()
}

#[tokio::test]
async fn findings_actions_events_and_the_node_are_answered_without_a_collector() {
    let dir = folder();
    let findings = json(dir.path(), &["get", "findings"]).await;
    assert_eq!(
        (all(&findings, "id"), all(&findings, "state")),
        (vec!["f-1", "f-2"], vec!["cleared", "raised"])
    );
    assert_eq!(findings[0]["cleared_at"], "2026-11-21T02:10:20Z");
    assert_eq!(all(&json(dir.path(), &["get", "findings", "--active"]).await, "id"), ["f-2"]);
    assert_eq!(json(dir.path(), &["get", "findings", "--node", "node-2"]).await, serde_json::json!([]));

    let actions = json(dir.path(), &["get", "actions"]).await;
    assert_eq!((&actions[0]["state"], &actions[0]["freed_bytes"]), (&"done".into(), &9.into()));

    let events = json(dir.path(), &["get", "events"]).await;
    assert_eq!(
        all(&events, "kind"),
        ["sample", "finding", "action", "log", "action", "finding", "finding", "sample"],
        "urgent and evidence by time"
    );
    assert_eq!(events[3]["message"], "\u{1b}[2Jno space left \u{fffd}");
    let narrowed = ["get", "events", "--since", "+11s", "--until", "+30s", "--kind", "finding,log"];
    assert_eq!(all(&json(dir.path(), &narrowed).await, "kind"), ["log", "finding"]);
    assert_eq!(all(&json(dir.path(), &["get", "events", "--limit", "1"]).await, "kind"), ["sample"]);

    let nodes = json(dir.path(), &["get", "nodes"]).await;
    assert_eq!((&nodes[0]["name"], &nodes[0]["state"]), (&"node-1".into(), &Value::Null));
    assert_eq!(nodes[0]["agent_version"], "0.1.0");
    assert_eq!(nodes[0]["mounts"][0]["used_bytes"], 71, "the newest sample, which the recorder has");
    assert_eq!(nodes[0]["last_seen"], "2026-11-21T02:10:41Z");
}

#[tokio::test]
async fn it_steps_in_where_no_collector_is_named_and_says_so() {
    let dir = folder();
    let config = dir.path().join("cli.yaml");
    std::fs::write(&config, "journal: .\n").unwrap();
    let at = config.to_str().unwrap();
    for (args, out) in [
        (&["get", "findings", "-o", "name"][..], "f-1\nf-2\n"),
        (&["get", "nodes", "-o", "name"], "node-1\n"),
        (&["logs", "--since", "02:00", "--no-prefix", "--limit", "1"], "\u{1b}[2Jno space left \u{fffd}\n"),
    ] {
        let ran = run_with(Dial::Configured, How::default(), &[args, &["--config", at]].concat()).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, out), "{}", ran.err);
        assert!(ran.err.contains("no collector is configured") && ran.err.contains("from the journal"));
    }
    let ran = run_with(Dial::Configured, How::default(), &["get", "incidents", "--config", at]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("holds no incidents"), "{}", ran.err);
}

#[tokio::test]
async fn a_collector_that_was_named_is_never_replaced_by_a_journal() {
    let dir = folder();
    let (bare, named) = (dir.path().join("bare.yaml"), dir.path().join("named.yaml"));
    std::fs::write(&bare, "journal: .\n").unwrap();
    std::fs::write(&named, "collector: 127.0.0.1:9\njournal: .\n").unwrap();
    let by_flag = ["--config", bare.to_str().unwrap(), "--collector", "127.0.0.1:9"];
    let by_config = ["--config", named.to_str().unwrap()];
    for verb in [&["get", "nodes"][..], &["get", "findings"], &["get", "events"], &["logs"]] {
        for by in [&by_flag[..], &by_config] {
            let ran = run_without_desk(&[verb, by].concat()).await;
            assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{verb:?} {by:?}: {}", ran.err);
            let journal = format!("--journal {}", dir.path().display());
            for words in ["no answer from collector 127.0.0.1:9", journal.as_str()] {
                assert!(ran.err.contains(words), "{words}: {}", ran.err);
            }
        }
    }
    // One that is named by half is a mistake to say, too.
    let ran = run_with(Dial::Configured, How::default(), &[&["get", "nodes"][..], &by_config].concat()).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("cert:"), "{}", ran.err);
}

#[tokio::test]
async fn what_is_no_record_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for at in [dir.path().to_owned(), dir.path().join("gone")] {
        let args = ["get", "events", "--journal", at.to_str().unwrap()];
        let ran = run_with(Dial::Configured, How::default(), &args).await;
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        assert!(ran.err.contains(at.to_str().unwrap()) && ran.err.contains("urgent/"), "{}", ran.err);
    }
    let ran =
        run_with(Dial::Configured, How::default(), &["plan", "n", "--mount", "/", "--journal", "x"]).await;
    assert!(ran.code == 1 && ran.err.contains("only a collector can"), "{}", ran.err);
}

#[tokio::test]
async fn a_pods_lines_are_found_by_the_pod_whatever_their_path() {
    let dir = tempfile::tempdir().unwrap();
    let line = |source: &str, name: &str| {
        let pod = dogwatch::record::Pod {
            namespace: "shop".into(),
            name: name.into(),
            uid: String::new(),
            container: "main".into(),
            container_id: String::new(),
        };
        Body::Log(LogLine { source: source.into(), line: name.into(), pod: Some(pod), ..LogLine::default() })
    };
    let block = vec![
        record(1, 1, line("/var/log/pods/shop_web-0_uid/main/0.log", "web-0")),
        record(2, 2, line("/mnt/logs/shop_web-1_uid/main/0.log", "web-1")),
        record(3, 3, line("/var/log/containers/web-2_shop_main-0.log", "web-2")),
        record(4, 4, line("/mnt/logs/shop_api-0_uid/main/0.log", "api-0")),
    ];
    write(dir.path(), Stream::Recorder, vec![block]);
    let args = ["logs", "--since", "02:00", "--no-prefix", "--journal", dir.path().to_str().unwrap()];
    for (pod, found) in [("shop/web", "web-0\nweb-1\nweb-2\n"), ("web-1", "web-1\n"), ("web-2", "web-2\n")] {
        let ran = run_with(Dial::Configured, How::default(), &[&args[..], &["--pod", pod]].concat()).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, found), "{pod}: {}", ran.err);
    }
}
