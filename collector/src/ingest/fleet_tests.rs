use super::*;
use crate::brake::{Keeper, Settings};
use crate::nodes::Nodes;
use crate::say::Say;
use crate::store::decision::{Decision, What};
use crate::store::specimen;

fn asked(mount: &str, cleaners: Vec<String>) -> wire::PermitAsk {
    let mut ask = wire::PermitAsk {
        action_id: "a-1".to_owned(),
        mount: mount.to_owned(),
        policy: vec![255; 32].into(),
        cleaners,
        planned_bytes: u64::MAX,
        planned_objects: u64::MAX,
        ..wire::PermitAsk::default()
    };
    ask.set_severity(wire::Severity::High);
    ask
}

#[test]
fn what_an_ask_costs_a_journal_of_which_nothing_expires_is_bounded_whatever_it_names() {
    let node: NodeName = "n".repeat(63).parse().unwrap();
    for c in ['\u{1}', '"', '\\', 'x', '\u{85}', '\u{10ffff}'] {
        let many = |n: usize| c.to_string().repeat(n / c.len_utf8());
        let hostile = asked(&many(MAX_PATH), vec![many(MAX_PATH); 10 * MAX_CLEANERS]);
        let ask = ask_of(&node, wire::PermitAsk { action_id: "\"".repeat(MAX_ID), ..hostile }).unwrap();
        let what = What::PermitGranted {
            node: ask.node,
            action: ask.action,
            mount: ask.mount,
            policy: ask.policy,
            planned_bytes: ask.planned_bytes,
            planned_objects: ask.planned_objects,
            cleaners: ask.cleaners,
            canary: false,
        };
        let decision = Decision { wall_ns: i64::MAX, actor: "collector".to_owned(), what };
        let bytes = serde_json::to_vec(&decision).unwrap().len();
        assert!(bytes < 1_536, "{c:?}: {bytes} bytes");
    }
    // A node that says nothing odd is taken at its word.
    let plain = ask_of(&node, asked("/var/lib/kubelet", vec!["rotated-logs".to_owned()])).unwrap();
    assert_eq!((plain.mount.as_str(), plain.cleaners), ("/var/lib/kubelet", vec!["rotated-logs".to_owned()]));
}

#[test]
fn mounts_with_odd_or_long_paths_are_told_apart_and_an_odd_id_is_refused() {
    let node: NodeName = "n1".parse().unwrap();
    let label = |mount: &str| ask_of(&node, asked(mount, Vec::new())).unwrap().mount;
    let long = "/x".repeat(200);
    let labels = [label("/a\nb"), label("/a\tb"), label("/a?b"), label(&long), label(&format!("{long}y"))];
    assert_eq!(labels.iter().collect::<std::collections::BTreeSet<_>>().len(), labels.len(), "{labels:?}");
    assert!(labels[0].starts_with("/a?b…"), "{}", labels[0]);
    for id in [String::new(), "a\u{1}".to_owned(), "a".repeat(MAX_ID + 1)] {
        let odd = wire::PermitAsk { action_id: id.clone(), ..asked("/var", Vec::new()) };
        assert!(ask_of(&node, odd).is_err(), "{id:?}");
    }
}

#[tokio::test]
async fn a_node_that_is_stopped_alone_asks_for_no_place_until_its_stop_is_dealt_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = specimen::open(dir.path());
    let say = Say::new(mpsc::channel(8).0);
    let opening = Keeper::open(store.clone(), Nodes::default(), say, Settings::default());
    // An owner that does not work: whatever comes to it stays without an answer.
    let (keeper, brake) = opening.await.unwrap();
    let node: NodeName = "n1".parse().unwrap();
    let heard = |stopped| wire::BrakeHeard { revision: 3, lineage: 9, stopped, reason: "look".to_owned() };
    for stopped in [true, false] {
        let mut link = Link::new(&node, &brake, Some(&heard(stopped)));
        link.ask(asked("/var", Vec::new())).unwrap();
        let answer = link.answers.try_recv();
        assert_eq!(answer.is_ok(), stopped, "{answer:?}");
        if let Ok((_, Answer::Stopped { why })) = answer {
            assert!(why.contains("does not know: look"), "{why}");
        }
    }
    // What it has under way it may end: it is asked for as before.
    let link = Link::new(&node, &brake, Some(&heard(true)));
    link.ask(wire::PermitAsk { acting: true, ..asked("/var", Vec::new()) }).unwrap();
    assert_eq!(link.answers.len(), 0);
    drop(keeper);
    store.close().await;
}
