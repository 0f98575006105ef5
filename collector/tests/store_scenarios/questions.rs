//! What is asked: rows, events, records.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use dogwatch::record::Severity;
use dogwatch::record::{
    Action, ActionState, Body, CleanupMode, FindingState, Kind, Kinds, ObjectOutcome, PlannedObject, Stream,
};
use dogwatch_collector::store::decision::{Piece, What};
use dogwatch_collector::store::events::EventQuery;
use dogwatch_collector::store::row::ActionRow;
use dogwatch_collector::store::{ActionFilter, CommandFilter, FindingFilter, IncidentFilter, Loose, Store};

use crate::kit::{self, Node, SECOND, T0};

pub(crate) fn action(id: &str, state: ActionState) -> Action {
    // A name that is not UTF-8, as an attacker would choose it.
    let path = PathBuf::from(std::ffi::OsString::from_vec(b"/var/log/\xff\xfe.gz".to_vec()));
    Action {
        id: id.to_owned(),
        mount: "/var".to_owned(),
        mode: CleanupMode::Auto,
        state,
        reason: "high water".to_owned(),
        finding_id: Some("f-1".to_owned()),
        actor: "node".to_owned(),
        planned_bytes: 5,
        freed_bytes: Some(4),
        available_before_bytes: None,
        available_after_bytes: None,
        unexplained: None,
        target_available_bytes: 0,
        objects: vec![PlannedObject {
            path,
            device: 1,
            inode: 2,
            size_bytes: 3,
            allocated_bytes: 4,
            mtime_ns: 5,
            ctime_ns: 6,
            uid: 7,
            gid: 8,
            mode: 9,
            links: 1,
            cleaner: "rotated-logs".to_owned(),
            tier: 1,
            why_safe: "rotated".to_owned(),
            outcome: ObjectOutcome::Removed,
            sha256: None,
            digest_partial: false,
            image: None,
            cut: None,
            atime_ns: None,
            btime_ns: None,
            preserved_bytes: None,
        }],
        refused: Vec::new(),
        expires_wall_ns: 0,
        image_store: None,
        detail: String::new(),
    }
}

async fn folded(store: &Store, action_id: &str) {
    kit::until("it is in the index", || async {
        !store.nodes_of_action(action_id).await.unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn findings_and_actions_have_their_life_and_cite_their_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut node = Node::new("n1", 1);
    let m = 60 * SECOND;
    store.commit(&node.finding(T0, "f-1", FindingState::Raised)).await.unwrap();
    store.commit(&node.finding(T0 + m, "f-2", FindingState::Raised)).await.unwrap();
    store.commit(&node.finding(T0 + 2 * m, "f-1", FindingState::Cleared)).await.unwrap();
    for state in [ActionState::Planned, ActionState::Started, ActionState::Done] {
        let block = node.seal(Stream::Urgent, T0 + 3 * m, vec![Body::Action(Box::new(action("a-1", state)))]);
        store.commit(&block).await.unwrap();
    }
    kit::until("it is done", || async {
        store
            .action_of(&"n1".parse().unwrap(), "a-1")
            .await
            .unwrap()
            .is_some_and(|a| a.action.state == ActionState::Done)
    })
    .await;
    let said = kit::plain_finding("f-9", FindingState::Raised, T0);
    store
        .decide_all(vec![
            kit::decision(
                T0 + 4 * m,
                What::FindingSaid { node: None, finding: Box::new(said.clone()), count: 3 },
            ),
            kit::decision(T0 + 5 * m, What::FindingSaid { node: None, finding: Box::new(said), count: 9 }),
        ])
        .await
        .unwrap();

    let row = store.finding("f-1").await.unwrap().unwrap();
    assert_eq!((row.count, row.from_collector, row.finding.state), (2, false, FindingState::Cleared));
    assert_eq!(row.steps.iter().map(|s| s.state.as_str()).collect::<Vec<_>>(), ["raised", "cleared"]);
    let cited = store.record(&row.steps[0].evidence[0]).await.unwrap().unwrap();
    assert!(matches!(cited.body, Body::Finding(f) if f.id == "f-1" && f.state == FindingState::Raised));
    assert_eq!(store.finding_of(&"n2".parse().unwrap(), "f-1").await.unwrap(), None);
    let own = store.finding("f-9").await.unwrap().unwrap();
    assert_eq!((own.count, own.from_collector, own.steps.len()), (9, true, 2));

    let ids = |f: FindingFilter| async {
        store.findings(f).await.unwrap().into_iter().map(|r| r.finding.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(FindingFilter::default()).await, ["f-9", "f-1", "f-2"]);
    assert_eq!(ids(FindingFilter { active_only: true, ..Default::default() }).await, ["f-9", "f-2"]);
    assert_eq!(ids(FindingFilter { limit: 1, ..Default::default() }).await, ["f-9"]);
    let of_node = FindingFilter { node: Some(node.name.clone()), ..Default::default() };
    assert_eq!(ids(of_node).await, ["f-1", "f-2"]);
    // f-2 was last heard of before, and holds still; f-1 ended before.
    let since = FindingFilter { since_wall_ns: Some(T0 + 3 * m), ..Default::default() };
    assert_eq!(ids(since).await, ["f-9", "f-2"]);
    let until = FindingFilter { until_wall_ns: Some(T0 + m), ..Default::default() };
    assert_eq!(ids(until).await, ["f-1"]);

    let named =
        |f: FindingFilter| ids(FindingFilter { ids: vec!["f-2".into(), "f-1".into(), "f-0".into()], ..f });
    // Newest first, in whatever order they are named.
    assert_eq!(named(FindingFilter { limit: 1, ..Default::default() }).await, ["f-1"]);
    assert_eq!(named(FindingFilter::default()).await, ["f-1", "f-2"]);
    assert_eq!(named(FindingFilter { active_only: true, ..Default::default() }).await, ["f-2"]);
    assert_eq!(named(FindingFilter { since_wall_ns: Some(T0 + 3 * m), ..Default::default() }).await, ["f-2"]);
    assert_eq!(
        named(FindingFilter { node: Some("n2".parse().unwrap()), ..Default::default() }).await,
        Vec::<String>::new()
    );
    let later =
        node.seal(Stream::Urgent, T0 + 9 * m, vec![Body::Action(Box::new(action("a-2", ActionState::Done)))]);
    store.commit(&later).await.unwrap();
    folded(&store, "a-2").await;
    let two = |limit| ActionFilter { ids: vec!["a-1".into(), "a-2".into()], limit, ..Default::default() };
    let ids = |rows: Vec<ActionRow>| rows.into_iter().map(|r| r.action.id).collect::<Vec<_>>();
    assert_eq!(ids(store.actions(two(0)).await.unwrap()), ["a-2", "a-1"]);
    assert_eq!(ids(store.actions(two(1)).await.unwrap()), ["a-2"]);
    let of_id = |id: &str| ActionFilter { ids: vec![id.to_owned()], ..Default::default() };
    assert_eq!(store.actions(of_id("a-1")).await.unwrap().len(), 1);
    assert_eq!(store.actions(of_id("a-3")).await.unwrap(), []);
    let later = ActionFilter { since_wall_ns: Some(T0 + 4 * m), ..of_id("a-1") };
    assert_eq!(store.actions(later).await.unwrap(), []);

    let done = store.actions(of_id("a-1")).await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].action, action("a-1", ActionState::Done));
    assert_eq!(done[0].steps.len(), 3);
    assert_eq!(store.action_of(&node.name, "a-1").await.unwrap().as_ref(), Some(&done[0]));
    store.close().await;
}

#[tokio::test]
async fn incidents_tokens_keys_commands_and_loose_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut node = Node::new("n1", 1);
    store.commit(&node.finding(T0, "f-1", FindingState::Raised)).await.unwrap();
    let act = Body::Action(Box::new(action("a-1", ActionState::Done)));
    store.commit(&node.seal(Stream::Urgent, T0 + SECOND, vec![act])).await.unwrap();
    folded(&store, "a-1").await;
    let loose = store.loose_of_each(10, 10).await.unwrap();
    assert!(
        matches!(&loose[..], [Loose::Action(a), Loose::Finding(f)] if a.action.id == "a-1" && f.finding.id == "f-1")
    );
    let id = "inc-2026-01-01-001".to_owned();
    let piece = Piece::Finding("f-1".to_owned());
    let n = node.name.clone();
    let key = node.key_hex();
    let decide = |wall, what| kit::decision(wall, what);
    store
        .decide_all(vec![
            decide(T0, What::TokenSpent { token: "t1".into(), node: n.clone() }),
            decide(T0, What::NodeEnrolled { node: n.clone(), signing_key: "old".into(), token: "t1".into() }),
            decide(T0, What::NodeEnrolled { node: n.clone(), signing_key: key.clone(), token: "t1".into() }),
            decide(
                T0,
                What::IncidentOpened {
                    id: id.clone(),
                    title: "disk".into(),
                    severity: Severity::High,
                    node: n.clone(),
                    topic: "disk:/var".into(),
                    reason: "r".into(),
                },
            ),
            decide(
                T0,
                What::IncidentJoined {
                    id: id.clone(),
                    piece: piece.clone(),
                    node: n.clone(),
                    reason: "r".into(),
                },
            ),
            decide(T0, What::Commanded { command: "c1".into(), node: n.clone(), order: "plan /var".into() }),
            decide(T0 + 1, What::Commanded { command: "c2".into(), node: n.clone(), order: "plan /".into() }),
            decide(T0 + 2, What::CommandEnded { command: "c1".into(), ok: true, outcome: "a-1".into() }),
        ])
        .await
        .unwrap();
    // Read your own writes.
    assert!(matches!(&store.loose_of_each(10, 10).await.unwrap()[..], [Loose::Action(_)]));
    assert_eq!(store.incident_of(&piece, &n).await.unwrap().as_deref(), Some(id.as_str()));
    assert_eq!(store.incident(&id).await.unwrap().unwrap().pieces.len(), 1);
    assert_eq!(store.incidents(IncidentFilter::default()).await.unwrap().len(), 1);
    let other = IncidentFilter { node: Some("n2".parse().unwrap()), ..Default::default() };
    assert!(store.incidents(other.clone()).await.unwrap().is_empty());
    let of_id = |id: &str| IncidentFilter { ids: vec![id.to_owned()], ..Default::default() };
    assert_eq!(store.incidents(of_id(&id)).await.unwrap().len(), 1);
    assert!(store.incidents(of_id("inc-2026-11-21-999")).await.unwrap().is_empty());
    let later = What::IncidentOpened {
        id: "inc-2026-01-01-002".to_owned(),
        title: "disk".into(),
        severity: Severity::High,
        node: n.clone(),
        topic: "disk:/data".into(),
        reason: "r".into(),
    };
    store.decide(decide(T0 + SECOND, later)).await.unwrap();
    for (limit, wanted) in [(0, &["002", "001"][..]), (1, &["002"])] {
        let ids = vec!["inc-2026-01-01-001".to_owned(), "inc-2026-01-01-002".to_owned()];
        let rows = store.incidents(IncidentFilter { ids, limit, ..Default::default() }).await.unwrap();
        assert_eq!(rows.iter().map(|i| &i.id[15..]).collect::<Vec<_>>(), wanted);
    }
    assert!(store.incidents(IncidentFilter { node: other.node, ..of_id(&id) }).await.unwrap().is_empty());
    assert_eq!(store.token_uses("t1").await.unwrap().count, 1);
    assert_eq!(store.token_uses("t2").await.unwrap().count, 0);
    assert_eq!(store.signing_keys(&n).await.unwrap(), [key, "old".to_owned()]);
    assert_eq!(store.nodes().await.unwrap()[0].enrolments.len(), 2);
    let commands = store.commands(CommandFilter::default()).await.unwrap();
    assert_eq!(commands.iter().map(|c| c.command.as_str()).collect::<Vec<_>>(), ["c2", "c1"]);
    assert_eq!(commands[1].ended.as_ref().unwrap().words, "a-1");
    store.close().await;
}

#[tokio::test]
async fn events_come_in_order_of_time_from_the_blocks_that_can_hold_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut nodes = [Node::new("n1", 1), Node::new("n2", 2)];
    for i in 0..20i64 {
        for (n, node) in nodes.iter_mut().enumerate() {
            let wall = T0 + i * 10 * SECOND + n as i64 * SECOND / 2;
            store.commit(&node.logs(wall, 10, 30)).await.unwrap();
        }
    }
    let id = "f-1";
    store.commit(&nodes[0].finding(T0 + 55 * SECOND, id, FindingState::Raised)).await.unwrap();
    let all = |q: EventQuery| async {
        let mut events = store.events(q);
        let mut got = Vec::new();
        while let Some(e) = events.recv().await {
            got.push(e.unwrap());
        }
        got
    };
    let got = all(EventQuery::default()).await;
    assert_eq!(got.len(), 401);
    assert!(got.windows(2).all(|w| w[0].record.at.wall_ns <= w[1].record.at.wall_ns));
    let mut newest = all(EventQuery { newest_first: true, ..Default::default() }).await;
    newest.reverse();
    assert_eq!(newest.len(), 401);
    assert!(newest.windows(2).all(|w| w[0].record.at.wall_ns <= w[1].record.at.wall_ns));
    let (since, until) = (T0 + 50 * SECOND, T0 + 60 * SECOND);
    let range = EventQuery { since_wall_ns: since, until_wall_ns: until, ..Default::default() };
    let got = all(range.clone()).await;
    assert_eq!(got.len(), 21);
    assert!(got.iter().all(|e| (since..until).contains(&e.record.at.wall_ns)));
    let of_n2 = all(EventQuery { nodes: vec!["n2".parse().unwrap()], ..range.clone() }).await;
    assert_eq!(of_n2.len(), 10);
    let findings = all(EventQuery { kinds: Kinds::default().with(Kind::Finding), ..range.clone() }).await;
    assert_eq!(findings.len(), 1);
    assert_eq!(store.record(&findings[0].reference()).await.unwrap().unwrap(), findings[0].record);
    assert_eq!(all(EventQuery { limit: 5, newest_first: true, ..range }).await.len(), 5);
    store.close().await;
}
