//! What the owner of the brake looks up that it did not hear: of whom, how much, and whose word that is.

use dogwatch::record::{ActionState, Body, Finding, FindingState, Stream, Subject};
use dogwatch_collector::store::decision::What;
use dogwatch_collector::store::{Graves, MAX_GRAVE_READ, Store};

use crate::brake::{Desk, bad, enrol, said};
use crate::kit::{self, Node, SECOND, T0};

/// More than a node has at a time.
const FLOOD: usize = 2_000;

fn raised(id: &str, rule: &str, subject: Subject, raised: i64) -> Body {
    let finding = kit::plain_finding(id, FindingState::Raised, raised);
    Body::Finding(Box::new(Finding { rule: rule.to_owned(), subject, ..finding }))
}

/// So many findings on mounts of their own that are active, of severity high, and dated ahead.
async fn flood(store: &Store, node: &mut Node, count: usize) {
    let ids: Vec<usize> = (0..count).collect();
    for some in ids.chunks(500) {
        let of =
            |n: &usize| raised(&format!("f-{n}"), "crash-loop", Subject::new("mount", format!("/m{n}")), T0);
        let bodies = some.iter().map(of).collect();
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
async fn of_nodes_that_are_asked_about_the_newest_findings_are_read_and_of_others_none() {
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
    let asked = async |nodes: &[(&Node, i64)]| {
        let since = nodes.iter().map(|(node, since)| (node.name.clone(), *since)).collect();
        let Graves { rows, cut } = store.grave(since).await.unwrap();
        let rows: Vec<_> = rows.into_iter().map(|row| (row.node.unwrap(), row.finding.id)).collect();
        (rows, cut)
    };
    assert!(asked(&[]).await.0.is_empty());
    let (rows, cut) = asked(&[(&node, i64::MAX)]).await;
    let of = |id: &str| (node.name.clone(), id.to_owned());
    assert_eq!((&rows[..], cut.len()), (&[of("f-own"), of("f-silent")][..], 0));
    let (rows, cut) = asked(&[(&node, 6)]).await;
    assert_eq!((&rows[..], cut.len()), (&[of("f-bad"), of("f-own"), of("f-silent")][..], 0));
    // One that says much is cut, and hides nothing of the other.
    let (rows, cut) = asked(&[(&node, 6), (&loud, i64::MIN)]).await;
    assert_eq!(rows.len(), 3 + MAX_GRAVE_READ);
    assert_eq!(cut.into_iter().collect::<Vec<_>>(), [loud.name.clone()]);
    let newest = (loud.name.clone(), format!("f-{}", 499));
    assert!(rows.contains(&of("f-bad")) && rows.contains(&newest));
    store.close().await;
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
