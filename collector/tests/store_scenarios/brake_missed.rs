//! What the owner of the brake looks up that it did not hear: of whom, how much, and whose word that is.

use dogwatch::record::{ActionState, Body, Finding, FindingState, Stream, Subject};
use dogwatch_collector::store::decision::What;
use dogwatch_collector::store::row::FindingRow;
use dogwatch_collector::store::{Graves, MAX_GRAVE, MAX_LIVES, Store};

use crate::brake::{Desk, bad, enrol, said};
use crate::kit::{self, Node, SECOND, T0};
use crate::questions::action;

/// More than a node has at a time.
const FLOOD: usize = 2_000;

fn raised(id: &str, rule: &str, subject: Subject, raised: i64) -> Body {
    let finding = kit::plain_finding(id, FindingState::Raised, raised);
    Body::Finding(Box::new(Finding { rule: rule.to_owned(), subject, ..finding }))
}

/// So many findings on mounts of their own that are active, of severity high, and dated ahead.
async fn flood(store: &Store, node: &mut Node, count: usize) {
    said_by(store, node, count, |n| {
        raised(&format!("f-{n}"), "crash-loop", Subject::new("mount", format!("/m{n}")), T0)
    })
    .await;
}

async fn said_by(store: &Store, node: &mut Node, count: usize, of: impl Fn(usize) -> Body) {
    let ids: Vec<usize> = (0..count).collect();
    for some in ids.chunks(500) {
        let bodies = some.iter().map(|n| of(*n)).collect();
        store.commit(&node.seal(Stream::Urgent, T0 + 3_600 * SECOND, bodies)).await.unwrap();
    }
}

async fn indexed(store: &Store) {
    kit::until("all to be in the index", async || store.told(&store.mark())).await;
}

#[tokio::test]
async fn what_was_missed_of_a_node_with_a_place_stops_everything_however_much_another_says() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
    let (mut node, mut loud) = (Node::new("n1", 1), Node::new("loud", 2));
    desk.granted().await;
    desk.store.commit(&said(&mut node, ActionState::Started)).await.unwrap();
    // The collector ends before what follows is a decision.
    let store = desk.end().await;
    flood(&store, &mut loud, FLOOD).await;
    store.commit(&bad(&mut node, FindingState::Raised, T0)).await.unwrap();
    indexed(&store).await;
    let desk = Desk::start(store).await;
    kit::until("what was found to stop everything", async || desk.tripped()).await;
    desk.end().await.close().await;
}

#[tokio::test]
async fn of_nodes_that_are_asked_about_what_counts_is_read_and_of_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let (mut node, mut loud) = (Node::new("n1", 1), Node::new("loud", 2));
    flood(&store, &mut loud, FLOOD).await;
    // Long ago by its clock: what is over is read from a time of its own on.
    store.commit(&bad(&mut node, FindingState::Raised, 5)).await.unwrap();
    store.commit(&bad(&mut node, FindingState::Cleared, 6)).await.unwrap();
    store
        .commit(&node.seal(
            Stream::Urgent,
            T0,
            vec![raised("f-own", "disk-errors", Subject::new("disk", "sda"), T0)],
        ))
        .await
        .unwrap();
    let silent = kit::plain_finding("f-silent", FindingState::Raised, T0);
    let what = What::FindingSaid { node: Some(node.name.clone()), finding: Box::new(silent), count: 1 };
    store.decide(kit::decision(T0 + 1, what)).await.unwrap();
    indexed(&store).await;
    let asked = async |nodes: &[(&Node, i64)], count: fn(&FindingRow) -> bool| {
        let since = nodes.iter().map(|(node, since)| (node.name.clone(), *since)).collect();
        let Graves { rows, cut } = store.grave(since, count).await.unwrap();
        let rows: Vec<_> = rows.into_iter().map(|row| (row.node.unwrap(), row.finding.id)).collect();
        (rows, cut.into_iter().collect::<Vec<_>>())
    };
    assert!(asked(&[], |_| true).await.0.is_empty());
    let (rows, cut) = asked(&[(&node, i64::MAX)], |_| true).await;
    let of = |id: &str| (node.name.clone(), id.to_owned());
    assert_eq!((&rows[..], cut.len()), (&[of("f-own"), of("f-silent")][..], 0));
    let (rows, cut) = asked(&[(&node, 6)], |_| true).await;
    assert_eq!((&rows[..], cut.len()), (&[of("f-bad"), of("f-own"), of("f-silent")][..], 0));
    let (rows, cut) = asked(&[(&node, 6)], |row| row.finding.id == "f-own").await;
    assert_eq!((&rows[..], cut.len()), (&[of("f-own")][..], 0));
    // One that says much is cut, and hides nothing of the other.
    let (rows, cut) = asked(&[(&node, 6), (&loud, i64::MIN)], |_| true).await;
    assert_eq!(rows.len(), 3 + MAX_GRAVE);
    assert_eq!(cut, [loud.name.clone()]);
    let of_loud = |n: usize| (loud.name.clone(), format!("f-{n}"));
    assert!(rows.contains(&of("f-bad")) && rows.contains(&of_loud(FLOOD - 1)));
    // What it had before says nothing of a cleanup that began since.
    let (rows, cut) = asked(&[(&loud, i64::MAX)], |_| true).await;
    assert_eq!((rows.len(), cut.len()), (MAX_GRAVE, 0));
    // Nor does what does not count hide what does.
    let (rows, cut) = asked(&[(&loud, i64::MIN)], |row| row.finding.id == "f-7").await;
    assert_eq!((&rows[..], cut.len()), (&[of_loud(7)][..], 0));
    store.close().await;
}

#[tokio::test]
async fn what_pods_do_to_themselves_hides_nothing_of_what_a_cleanup_broke() {
    for (broke, pods, words) in [
        (true, 300, Some("crash-loop")),
        (false, 300, None),
        // Nobody can say what is among so many.
        (false, MAX_LIVES + 50, Some("more was found on n1")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
        let mut node = Node::new("n1", 1);
        desk.granted().await;
        desk.store.commit(&said(&mut node, ActionState::Started)).await.unwrap();
        let store = desk.end().await;
        if broke {
            store.commit(&bad(&mut node, FindingState::Raised, T0)).await.unwrap();
        }
        said_by(&store, &mut node, pods, |n| {
            let group = format!("/kubepods.slice/pod{n}");
            raised(&format!("p-{n}"), "oom-kill", Subject::new("cgroup", group), T0)
        })
        .await;
        indexed(&store).await;
        let desk = Desk::start(store).await;
        if let Some(words) = words {
            kit::until("what may have gone wrong to stop everything", async || desk.tripped()).await;
            let reason = desk.look().await.ledger.tripped.unwrap().reason;
            assert!(reason.contains(words), "{reason}");
            // Once a person has looked it stops nothing again.
            desk.release().await;
            let desk = Desk::start(desk.end().await).await;
            desk.look().await;
            assert!(!desk.tripped());
            desk.end().await.close().await;
        } else {
            desk.store.commit(&said(&mut node, ActionState::Done)).await.unwrap();
            kit::until("the watch to be over", async || desk.look().await.ledger.permits.is_empty()).await;
            assert!(!desk.tripped());
            desk.end().await.close().await;
        }
    }
}

#[tokio::test]
async fn what_a_node_had_before_a_restart_stops_nothing_once_it_cleans_however_much_else_it_has() {
    // Findings of one pod each, which speak against no cleanup and take no place of those that do.
    for pods in [0, 70] {
        let dir = tempfile::tempdir().unwrap();
        let store = kit::open(kit::config(dir.path()));
        let mut node = Node::new("n1", 1);
        enrol(&store, &node).await;
        let of = |n: usize| {
            raised(&format!("f-{n}"), "oom-kill", Subject::new("pod", format!("shop/evil-{n}/app")), T0)
        };
        let bodies: Vec<Body> = (0..pods).map(of).collect();
        if pods > 0 {
            store.commit(&node.seal(Stream::Urgent, T0, bodies)).await.unwrap();
        }
        let later = T0 + 600 * SECOND;
        store.commit(&bad(&mut node, FindingState::Raised, later)).await.unwrap();
        indexed(&store).await;
        // It asks for its first permit after the start.
        let desk = Desk::start(store).await;
        desk.granted().await;
        desk.store.commit(&said(&mut node, ActionState::Started)).await.unwrap();
        desk.store.commit(&bad(&mut node, FindingState::Updated, later)).await.unwrap();
        desk.store.commit(&said(&mut node, ActionState::Done)).await.unwrap();
        kit::until("the watch to be over", async || desk.look().await.ledger.permits.is_empty()).await;
        assert!(!desk.tripped(), "{pods}: it was ill before");
        desk.end().await.close().await;
    }
}

#[tokio::test]
async fn silence_that_was_missed_counts_only_against_a_cleanup_that_it_came_after() {
    for after in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
        let mut node = Node::new("n1", 1);
        enrol(&desk.store, &node).await;
        desk.granted().await;
        for state in [ActionState::Started, ActionState::Done] {
            desk.store.commit(&said(&mut node, state)).await.unwrap();
        }
        kit::until("the watch to be over", async || desk.look().await.ledger.permits.is_empty()).await;
        let store = desk.end().await;
        // It goes away and comes back, and has a place again.
        let now = || dogwatch::clock::wall_ns();
        let silence = |state| What::FindingSaid {
            node: Some("n1".parse().unwrap()),
            finding: Box::new(Finding {
                rule: "node-silent".to_owned(),
                subject: Subject::new("node", "n1"),
                ..kit::plain_finding("f-silent", state, T0)
            }),
            count: 1,
        };
        let granted = What::PermitGranted {
            node: "n1".parse().unwrap(),
            action: "a-2".to_owned(),
            mount: "/var".to_owned(),
            policy: dogwatch::record::Hash([1; 32]),
            planned_bytes: 5,
            planned_objects: 1,
            cleaners: Vec::new(),
            canary: false,
        };
        let mut order = vec![silence(FindingState::Raised), silence(FindingState::Cleared)];
        order.insert(if after { 0 } else { 2 }, granted);
        for what in order {
            store.decide(kit::decision(now(), what)).await.unwrap();
        }
        let began = Body::Action(Box::new(action("a-2", ActionState::Started)));
        store.commit(&node.seal(Stream::Urgent, T0, vec![began])).await.unwrap();
        indexed(&store).await;
        let desk = Desk::start(store).await;
        desk.look().await;
        assert_eq!(desk.tripped(), after);
        desk.end().await.close().await;
    }
}
