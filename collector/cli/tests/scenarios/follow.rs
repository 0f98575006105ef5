//! What goes on: `watch`, `logs` and `get -w`, over a desk that goes away once.

use crate::canned::{S, T0};
use crate::journal::folder;
use crate::running::{Dial, How, desk, run_with};
use insta::assert_snapshot;
use serde_json::Value;

fn last(out: &str) -> bool {
    out.contains("inc-2026-11-21-002")
}

#[tokio::test]
async fn news_are_told_and_a_collector_that_went_away_is_waited_for() {
    let desk = desk().await;
    let args = ["watch", "--node", "node-1,node-2", "--pod", "shop/api"];
    let ran = desk.run_until(How::default(), &args, |out, _| last(out)).await;
    assert_snapshot!("watch", ran.out);
    for part in ["7 passed unseen", "went away", "is back", "get events --since"] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    let asked = desk.asked.all();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0], asked[1], "the same question after coming back");
    assert!(
        asked[0].contains(r#"nodes: ["node-1", "node-2"], namespace: "shop", pod: "api""#),
        "{}",
        asked[0]
    );
}

#[tokio::test]
async fn lines_fit_the_terminal_and_json_is_a_contract() {
    for columns in [20, 40, 80, 120] {
        let desk = desk().await;
        let how = How { columns: Some(columns), color: false, ..How::default() };
        let ran = desk.run_until(how, &["watch"], |out, _| out.lines().count() >= 6).await;
        for line in ran.out.lines() {
            assert!(unicode_width::UnicodeWidthStr::width(line) <= columns, "{columns}: {line}");
        }
        if columns == 40 {
            assert_snapshot!("watch-40", ran.out);
        }
    }
    let desk = desk().await;
    let ran = desk.run_until(How::default(), &["watch", "-o", "jsonl"], |out, _| last(out)).await;
    let told: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let kinds: Vec<_> = told.iter().map(|n| n["what"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["incident", "finding", "action", "event", "event", "incident"]);
    assert_eq!((&told[0]["time"], &told[0]["is"]["state"]), (&"2026-11-21T02:10:00Z".into(), &"open".into()));
}

#[tokio::test]
async fn severity_chooses_and_grep_means_lines() {
    let desk = desk().await;
    let args = ["watch", "--severity", "high", "--grep", "gpj"];
    let ran = desk.run_until(How::default(), &args, |_, err| err.contains("is back")).await;
    assert!(!ran.out.contains('\u{1b}') && ran.out.contains("\\u{1b}[2J"), "{}", ran.out);
    assert!(desk.asked.all()[0].contains(r#"kinds: ["log"], grep: "gpj""#), "{:?}", desk.asked.all());
}

#[tokio::test]
async fn a_list_goes_on_with_what_changes() {
    let desk = desk().await;
    let ran =
        desk.run_until(How::default(), &["get", "incidents", "-w"], |out, _| out.lines().count() >= 6).await;
    let states: Vec<_> = ran.out.lines().skip(4).map(|l| l.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(states, ["open", "resolved"], "{}", ran.out);
    let ran = desk
        .run_until(How::default(), &["get", "nodes", "-w", "-o", "name"], |out, _| out.lines().count() >= 3)
        .await;
    assert_eq!(ran.out, "node-1\nnode-2\nnode-3\n");
}

#[tokio::test]
async fn log_lines_with_whose_they_are() {
    let desk = desk().await;
    let ran = desk.run(&["logs", "--pod", "shop/api", "--grep", "line"]).await;
    assert_snapshot!("logs", ran.out);
    assert!(ran.err.contains("matched a rule") && ran.err.contains("--journal DIR"), "{}", ran.err);
    assert!(ran.err.contains("the last 1h"), "{}", ran.err);
    let asked = desk.asked.all();
    assert!(
        asked[0].contains("since_wall_ns: 1795223400000000000") && asked[0].contains(r#"kinds: ["log"]"#)
    );
    for columns in [20, 40, 80] {
        let how = How { columns: Some(columns), ..How::default() };
        let ran = desk.run_as(how, &["logs", "--since", "1h"]).await;
        for line in ran.out.lines() {
            assert!(unicode_width::UnicodeWidthStr::width(line) <= columns, "{columns}: {line}");
        }
        if columns == 40 {
            assert_snapshot!("logs-40", ran.out);
        }
    }
    let raw = desk.run(&["logs", "--no-prefix", "--limit", "2"]).await;
    assert_eq!(raw.out, "line 2\nline 3\n");
    let on_terminal = desk.run_as(How { columns: Some(80), ..How::default() }, &["logs", "-o", "raw"]).await;
    assert!(!on_terminal.out.contains('\u{1b}'), "{}", on_terminal.out);
    let rows: Value = serde_json::from_str(&desk.run(&["logs", "-o", "json"]).await.out).unwrap();
    assert_eq!(rows[3]["fields"]["pod"], "api-6d5f8-x2x7k");
}

#[tokio::test]
async fn followed_lines_come_once() {
    let desk = desk().await;
    let ran = desk.run_until(How::default(), &["logs", "-f"], |out, _| out.contains("line 9")).await;
    let hostile = ran.out.lines().filter(|l| l.contains("gpj.exe")).count();
    assert_eq!((hostile, ran.out.lines().count()), (1, 5), "listed and told again: {}", ran.out);
}

#[tokio::test]
async fn what_the_collector_chose_is_shown_when_it_is_followed_too() {
    // The canned desk chooses nothing: whatever it gives must be shown, listed or followed.
    for chosen in
        [&["--pod", "kube-apiserver"][..], &["-n", "kube-system"], &["--rule", "x"], &["--grep", "nothing"]]
    {
        let desk = desk().await;
        let args = [&["logs", "-f"][..], chosen].concat();
        let ran = desk.run_until(How::default(), &args, |out, _| out.contains("line 9")).await;
        assert_eq!(ran.out.lines().count(), 5, "{chosen:?}: {}", ran.out);
    }
}

#[tokio::test]
async fn a_journal_has_lines_too() {
    let dir = folder();
    let at = dir.path().to_str().unwrap();
    let logs = |more: &'static [&'static str]| {
        let args = [&["logs", "--since", "02:00", "--journal", at][..], more].concat();
        async move { run_with(Dial::Configured, How::default(), &args).await }
    };
    let ran = logs(&[]).await;
    assert_eq!(
        ran.out, "2026-11-21T02:10:11Z node-1 /var/log/syslog | \\u{1b}[2Jno space left \u{fffd}\n",
        "{}",
        ran.err
    );
    assert!(ran.err.contains("every line that the journal"), "{}", ran.err);
    assert_eq!(logs(&["--grep", "spac. left", "--rule", "no-space-left"]).await.out, ran.out);
    for none in [&["--grep", "oom"][..], &["--node", "other"], &["--source", "/var/lo"], &["--pod", "x"]] {
        let ran = logs(none).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{none:?}");
        assert!(ran.err.contains("no lines"), "{}", ran.err);
    }
    assert_eq!(logs(&["-f"]).await.code, 2);
}

#[tokio::test]
async fn lines_around_an_incident_take_one_command() {
    let desk = desk().await;
    let ran = desk.run(&["logs", "--incident", "incident/inc-2026-11-21-001"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let asked = desk.asked.all().pop().unwrap();
    // Raised at T0 and open still.
    let since = format!("since_wall_ns: {}, until_wall_ns: 0", T0 - 300 * S);
    assert!(asked.contains(&since) && asked.contains("nodes: [\"node-1\"]"), "{asked}");
    assert!(ran.err.contains("node-1 from 2026-11-21T02:05:00Z to now"), "{}", ran.err);

    let own = ["logs", "--incident", "inc-2026-11-21-001", "--node", "node-2", "--since", "02:00"];
    assert_eq!(desk.run(&own).await.code, 0);
    let asked = desk.asked.all().pop().unwrap();
    assert!(asked.contains("nodes: [\"node-2\"]"), "{asked}");
    assert!(asked.contains(&format!("since_wall_ns: {}", T0 - 600 * S)), "{asked}");
    assert_eq!(desk.run(&["logs", "--incident", "inc-2026-11-21-009"]).await.code, 3);
    assert_eq!(desk.run(&["logs", "--incident", "inc-2026-11-21-001", "-f"]).await.code, 2);
}
