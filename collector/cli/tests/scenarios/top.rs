//! `top` where nobody watches: tables and objects.

use crate::running::{How, desk};
use insta::assert_snapshot;
use serde_json::Value;

const VIEWS: [&str; 5] = ["nodes", "mounts", "pods", "processes", "disks"];

#[tokio::test]
async fn tables_of_every_view_at_every_width() {
    let desk = desk().await;
    for view in VIEWS {
        let ran = desk.run(&["top", view]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_snapshot!(format!("top-{view}"), ran.out);
        for columns in [40, 80, 120, 200] {
            let ran = desk.run_as(How { columns: Some(columns), ..How::default() }, &["top", view]).await;
            for line in ran.out.lines() {
                assert!(unicode_width::UnicodeWidthStr::width(line) <= columns, "{columns}: {line}");
            }
            if columns <= 80 {
                assert_snapshot!(format!("top-{view}-{columns}"), ran.out);
            }
        }
    }
    let ran = desk.run(&["top", "--node", "node-1"]).await;
    assert_snapshot!("top-node", ran.out);
    assert!(!ran.out.contains(['\u{1b}', '\u{202e}']), "{}", ran.out);
}

#[tokio::test]
async fn figures_for_programs() {
    let desk = desk().await;
    let json = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let pods = json(desk.run(&["top", "pods", "-o", "json"]).await.out);
    assert_eq!(pods[0]["pod"], "api-6d5f8-x2x7k", "the one that grew");
    // 300 + 5 n MiB over 60 samples, 10 s apart; the sidecar does not grow.
    assert_eq!(
        (&pods[0]["growth_bytes"], &pods[0]["growth_seconds"]),
        (&(300_u64 << 20).into(), &600.0.into())
    );
    assert_eq!(pods[0]["working_set_bytes"], 610_u64 << 20);
    assert_eq!((&pods[1]["throttled_fraction"], &pods[1]["cpu_cores"]), (&0.6.into(), &0.5.into()));
    let by_container =
        json(desk.run(&["top", "pods", "--containers", "--pod", "shop/api", "-o", "json"]).await.out);
    let names: Vec<_> =
        by_container.as_array().unwrap().iter().map(|p| p["container"].as_str().unwrap()).collect();
    assert_eq!(names, ["main", "sidecar"]);
    let nodes = json(desk.run(&["top", "nodes", "-o", "json"]).await.out);
    assert_eq!((&nodes[0]["cpu_fraction"], &nodes[0]["memory_used_fraction"]), (&0.25.into(), &0.6.into()));
    assert_eq!(nodes[2]["cpu_fraction"], Value::Null, "not known is not 0");
    let disks = json(desk.run(&["top", "disks", "-o", "json"]).await.out);
    assert_eq!((&disks[0]["busy_fraction"], &disks[0]["wait_ms"]), (&0.5.into(), &3.0.into()));
    let mounts = json(desk.run(&["top", "mounts", "-o", "json"]).await.out);
    assert_eq!((&mounts[0]["path"], &mounts[0]["seconds_to_full"]), (&"/var".into(), &1260.0.into()));
    let last = json(
        desk.run(&["top", "mounts", "--sort", "use", "--reverse", "--limit", "1", "-o", "json"]).await.out,
    );
    assert_eq!(last[0]["path"], "/mnt/データ");
}

#[tokio::test]
async fn what_fills_a_mount_is_asked_on_its_node() {
    let desk = desk().await;
    let ran = desk.run(&["top", "--disk", "--node", "node-1", "--mount", "/var"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("node-1 /var  90.0 GiB of 100.0 GiB used"), "{}", ran.out);
    assert!(ran.out.contains("├─ lib") && !ran.out.contains('\u{1b}'), "{}", ran.out);
    assert!(ran.out.contains("unknown: nobody looked"), "{}", ran.out);
    // Without a name: the fullest that can be written to, and which that is.
    let ran = desk.run(&["top", "--disk"]).await;
    assert!(ran.err.contains("the fullest: /var on node-1"), "{}", ran.err);
    let ran = desk.run(&["top", "--disk", "--node", "node-1", "--mount", "/var", "-o", "json"]).await;
    let all: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(all[0]["tree"]["folders"][0]["allocated_bytes"], 60_u64 << 30);
    assert_eq!((&all[0]["writers"], &all[0]["inodes_total"]), (&Value::Null, &Value::Null));
    for (args, code, words) in [
        (&["top", "--disk", "--node", "node-1", "--mount", "/nowhere"][..], 3, "/nowhere"),
        (&["top", "--disk", "--node", "node-1,node-2"], 2, "one node at a time"),
        (&["top", "--disk", "--pod", "x"], 2, "--node and --mount"),
        (&["top", "--mount", "/var"], 2, "--disk"),
        (&["top", "--disk", "--node", "nobody"], 3, "no node nobody"),
        (&["top", "--disk", "-o", "name"], 2, "no names"),
        (&["top", "--disk", "--journal", "/nowhere"], 1, "dogwatch-agent usage --writers"),
    ] {
        let ran = desk.run(args).await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
}
