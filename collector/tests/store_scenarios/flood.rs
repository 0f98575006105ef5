//! A node that says everything: what casework takes of it, who waits for it, and what becomes of its rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dogwatch::record::{Body, FindingState, NodeName, Severity, Stream, Subject};
use dogwatch::supervise::Stop;
use dogwatch_collector::casework::{ASK_QUEUE, Ask, Casework, Deed};
use dogwatch_collector::correlate::Policy;
use dogwatch_collector::correlate::allowance::PER_HOUR;
use dogwatch_collector::incident::IncidentState;
use dogwatch_collector::nodes::Nodes;
use dogwatch_collector::store::decision::{Decision, Piece, What};
use dogwatch_collector::store::index::Index;
use dogwatch_collector::store::memory_index::MemoryIndex;
use dogwatch_collector::store::{FindingFilter, IncidentFilter, JournalConfig, Loose, Notice, Store};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::brake::{ARMED, FREE, HELD, holding};
use crate::kit::{self, Node, SECOND, T0};

const PATIENCE: Duration = Duration::from_secs(300);
/// Findings of the flood: four times what casework takes.
const FLOOD: usize = 4_000;

/// Findings on mounts of their own, raised at once.
fn findings(numbers: std::ops::Range<usize>, severity: Severity, state: FindingState) -> Vec<Body> {
    numbers
        .map(|n| {
            let mut f = kit::plain_finding(&format!("f-{n}"), state, T0);
            (f.severity, f.subject) = (severity, Subject::new("mount", format!("/m{n}")));
            f.rule = "container-crash-loop".to_owned();
            Body::Finding(Box::new(f))
        })
        .collect()
}

async fn next(notices: &mut broadcast::Receiver<Notice>) -> Arc<Decision> {
    loop {
        let notice = tokio::time::timeout(PATIENCE, notices.recv()).await.expect("nothing more is decided");
        if let Notice::Decided(decision) = notice.unwrap() {
            return decision;
        }
    }
}

/// The finding of `node` that a decision puts to an incident.
fn joins(decision: &Decision, of: &NodeName) -> Option<(String, String)> {
    match &decision.what {
        What::IncidentJoined { id, piece: Piece::Finding(f), node, .. } if node == of => {
            Some((id.clone(), f.clone()))
        }
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_findings_keeps_nobody_waiting_and_is_bounded_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, held) = holding(dir.path());
    config.fold_patience = kit::NEVER;
    let store = kit::open(config);
    let (asks, asked) = mpsc::channel(ASK_QUEUE);
    let silent_after = Duration::from_secs(3600);
    let casework = Casework::open(store.clone(), Nodes::default(), Policy::default(), silent_after, asked)
        .await
        .unwrap();
    let stop = Stop::default();
    let told = stop.clone();
    let casework = tokio::spawn(async move { casework.run(told).await.unwrap() });
    let mut notices = store.committed();
    let (mut loud, mut other, mut early) =
        (Node::new("loud", 1), Node::new("other", 2), Node::new("early", 3));
    store.commit(&early.finding(T0, "f-early", FindingState::Raised)).await.unwrap();
    let incident = loop {
        let decision = next(&mut notices).await;
        if let Some((id, _)) = joins(&decision, &early.name) {
            break id;
        }
    };
    // The index takes the flood in, and not what casework decides on the first of it.
    held.store(ARMED, Ordering::SeqCst);
    store
        .commit(&loud.seal(Stream::Urgent, T0, findings(0..FLOOD, Severity::High, FindingState::Raised)))
        .await
        .unwrap();
    kit::until("casework to be at the flood", async || held.load(Ordering::SeqCst) == HELD).await;

    // So a person speaks while most of it is still to be worked off.
    let (reply, answered) = oneshot::channel();
    let (actor, text) = ("rita".to_owned(), "on it".to_owned());
    asks.send(Ask::Person { id: incident, deed: Deed::Acknowledge, actor, text, reply }).await.unwrap();
    // And another node, and another rule of the same.
    store.commit(&other.finding(T0, "f-other", FindingState::Raised)).await.unwrap();
    let mut disk = kit::plain_finding("f-disk", FindingState::Raised, T0);
    disk.subject = Subject::new("mount", "/var");
    store
        .commit(&loud.seal(Stream::Urgent, T0 + 9 * SECOND, vec![Body::Finding(Box::new(disk))]))
        .await
        .unwrap();
    held.store(FREE, Ordering::SeqCst);

    let mut joined = Vec::new();
    let mut bytes = 0;
    let mut count = |d: &Decision| bytes += serde_json::to_vec(d).unwrap().len();
    let (mut left_out, mut acknowledged_after, mut heard_other, mut heard_disk) = (None, None, false, false);
    // What others say may come after what was left out is told.
    while left_out.is_none() || acknowledged_after.is_none() || !heard_other || !heard_disk {
        let decision = next(&mut notices).await;
        count(&decision);
        heard_other |= joins(&decision, &other.name).is_some();
        if let Some((_, finding)) = joins(&decision, &loud.name) {
            heard_disk |= finding == "f-disk";
            joined.push(finding);
        }
        match &decision.what {
            What::IncidentMoved { .. } if decision.actor == "rita" => acknowledged_after = Some(joined.len()),
            What::FindingSaid { finding, .. } if finding.rule == "findings-not-correlated" => {
                let fact = finding.facts.iter().find(|f| f.key == "findings").unwrap();
                left_out = Some(fact.value.parse::<usize>().unwrap());
            }
            _ => {}
        }
        assert!(joined.len() <= FLOOD, "nothing was left out");
    }
    answered.await.unwrap().unwrap();
    let (left_out, before) = (left_out.unwrap(), acknowledged_after.unwrap());
    let flooded = joined.iter().filter(|id| *id != "f-disk").count();
    assert!(before < flooded, "heard after {before} of {flooded}");
    assert!(flooded as u64 <= PER_HOUR, "{flooded} are in incidents");
    assert_eq!(flooded + left_out, FLOOD, "each is in an incident, or told of");
    println!("{flooded} of {FLOOD} are in incidents, heard after {before}; {bytes} bytes of decisions");
    let filter = FindingFilter { node: Some(loud.name.clone()), ..FindingFilter::default() };
    let rows = store.findings(filter).await.unwrap();
    assert_eq!(rows.iter().filter(|r| !r.from_collector).count(), FLOOD + 1, "all of them are stored");
    stop.set();
    casework.await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_rows_as_a_segment_can_hold_expire_in_place_and_leave_what_a_rebuild_gives() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = kit::config(dir.path());
    config.urgent = JournalConfig { segment_bytes: 4 << 20, max_bytes: 8 << 20, max_age: None };
    config.index_opener = Some(Arc::new(|_| Ok(Box::new(MemoryIndex::default()) as Box<dyn Index>)));
    let store = kit::open(config.clone());
    let mut node = Node::new("n1", 1);
    let mut commit = async |store: &Store, bodies: Vec<Body>| {
        store.commit(&node.seal(Stream::Urgent, T0, bodies)).await.unwrap();
    };
    for first in [0, 30_000, 60_000, 90_000] {
        let bodies = findings(first..first + 30_000, Severity::Low, FindingState::Raised);
        commit(&store, bodies).await;
        kit::until("they are in the index", || async { store.status().index.lag.is_zero() }).await;
    }
    assert!(store.dump().await.unwrap().len() > 120_000 * 4, "what is to expire is there");
    // Some of them reach across: they are said again once their first segment is full.
    let mut lines = 0;
    while store.status().streams[0].expired_segments == 0 {
        commit(&store, findings(0..100, Severity::Low, FindingState::Updated)).await;
        commit(&store, (0..40).map(|i| kit::log(lines + i, 6_000)).collect()).await;
        lines += 40;
        assert!(lines < 40_000, "nothing expires");
    }
    let caught_up = || store.status().index.lag.is_zero();
    kit::until("the rows of the first segment go", || async {
        store.dump().await.unwrap().len() < 1_000 && caught_up()
    })
    .await;
    assert_eq!(
        store.findings(FindingFilter::default()).await.unwrap().len(),
        100,
        "those that reach across stay"
    );
    let status = store.status().index;
    assert_eq!((status.rebuilds, status.fallback), (0, false), "{status:?}");
    let rows = store.dump().await.unwrap();
    store.close().await;
    // An index in memory is built anew at each start.
    let store = kit::open(config);
    store.indexed(PATIENCE).await.unwrap();
    assert!(store.dump().await.unwrap() == rows, "a rebuild gives other rows");
    store.close().await;
}

/// Findings of two blocks that take turns: whoever reads them in order of time needs the other block each time.
async fn store_taking_turns(store: &Store, node: &mut Node, of_each: usize) {
    for parity in [0, 1] {
        let bodies = findings(0..2 * of_each, Severity::High, FindingState::Raised);
        let bodies = bodies.into_iter().skip(parity).step_by(2).collect();
        store.commit(&node.seal(Stream::Urgent, T0, bodies)).await.unwrap();
    }
    kit::until("they are in the index", || async { store.status().index.lag.is_zero() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn findings_that_take_turns_between_blocks_keep_no_collector_from_starting_and_no_list_from_whoever_asks()
 {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let (mut loud, mut other) = (Node::new("loud", 1), Node::new("other", 2));
    store.commit(&other.finding(T0 - SECOND, "f-other", FindingState::Raised)).await.unwrap();
    store_taking_turns(&store, &mut loud, 2_500).await;
    let (_asks, asked) = mpsc::channel(1);
    let silent_after = Duration::from_secs(3600);
    let casework = Casework::open(store.clone(), Nodes::default(), Policy::default(), silent_after, asked);
    drop(casework.await.unwrap());
    let active = FindingFilter { active_only: true, ..FindingFilter::default() };
    assert_eq!(store.findings(active).await.unwrap().len(), 5_001);
    assert_eq!(store.active(Arc::default()).await.unwrap().len(), 5_001);
    store.close().await;
}

/// Decisions that open an incident of a finding.
fn opened(number: u32, of: &NodeName, finding: &str) -> Vec<Decision> {
    let (id, node, reason) = (format!("inc-2026-01-01-{number:03}"), of.clone(), "r".to_owned());
    let (title, topic) = ("t".to_owned(), format!("t{number}"));
    let piece = Piece::Finding(finding.to_owned());
    let joined = What::IncidentJoined { id: id.clone(), piece, node: node.clone(), reason: reason.clone() };
    let opened = What::IncidentOpened { id, title, severity: Severity::High, node, topic, reason };
    [opened, joined].map(|what| kit::decision(T0 + i64::from(number), what)).into()
}

#[tokio::test]
async fn what_others_say_is_taken_up_whatever_one_node_says_newer() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let (mut loud, mut other) = (Node::new("loud", 1), Node::new("other", 2));
    let long_ago = T0 - 9 * SECOND;
    let bodies = ["f-live", "f-ended", "f-over", "f-loose"];
    let bodies = bodies.map(|id| kit::finding(id, FindingState::Raised, long_ago)).into();
    store.commit(&other.seal(Stream::Urgent, long_ago, bodies)).await.unwrap();
    store.commit(&other.finding(long_ago + 5 * SECOND, "f-over", FindingState::Cleared)).await.unwrap();
    let mut decisions: Vec<Decision> = [(1, "f-live"), (2, "f-ended"), (3, "f-over")]
        .into_iter()
        .flat_map(|(number, finding)| opened(number, &other.name, finding))
        .collect();
    for number in [2, 3] {
        let id = format!("inc-2026-01-01-{number:03}");
        let moved = What::IncidentMoved { id, state: IncidentState::Resolved, reason: String::new() };
        decisions.push(kit::decision(T0 + 9, moved));
    }
    let mut refused = kit::plain_finding("f-refused", FindingState::Raised, long_ago);
    refused.rule = "refused-not-tls".to_owned();
    let said = What::FindingSaid { node: None, finding: Box::new(refused), count: 3 };
    decisions.push(kit::decision(long_ago, said));
    store.decide_all(decisions).await.unwrap();
    store_taking_turns(&store, &mut loud, 50).await;

    let standing = store.standing(i64::MAX, 10).await.unwrap();
    let ids: Vec<&str> = standing.incidents.iter().map(|i| &i.id[15..]).collect();
    assert_eq!(ids, ["002", "001"], "one is live, and of one that a person ended a finding goes on");
    assert_eq!(standing.past, ["inc-2026-01-01-003"]);
    let of = |node: Option<&NodeName>| -> Vec<&str> {
        let rows = standing.active.iter().filter(|r| r.node.as_ref() == node);
        rows.map(|r| r.finding.id.as_str()).collect()
    };
    assert_eq!(of(None), ["f-refused"]);
    assert_eq!(of(Some(&other.name)), ["f-loose", "f-ended", "f-live"]);
    assert_eq!(of(Some(&loud.name)).len(), 10);
    assert_eq!(of(Some(&loud.name))[..3], ["f-98", "f-99", "f-96"], "its newest");
    assert_eq!((standing.unread.len(), standing.blocks), (0, 3), "each block is opened once");
    // Where nothing of a node has a place in the list, what belongs to an incident has one.
    let members = store.standing(i64::MIN, 0).await.unwrap();
    let ids: Vec<&str> = members.active.iter().map(|r| r.finding.id.as_str()).collect();
    assert_eq!(ids, ["f-ended", "f-live", "f-refused"]);
    let live = standing.incidents.iter().find(|i| i.id.ends_with("001")).unwrap();
    assert_eq!(store.members(live).await.unwrap().0.len(), 1);

    let loose = async |of_each, limit| -> Vec<String> {
        let rows = store.loose_of_each(of_each, limit).await.unwrap();
        rows.into_iter()
            .map(|l| match l {
                Loose::Finding(row) => row.finding.id,
                Loose::Action(row) => row.action.id,
            })
            .collect()
    };
    assert_eq!(loose(3, 100).await, ["f-98", "f-99", "f-96", "f-loose"]);
    assert_eq!(loose(30, 3).await, ["f-98", "f-99", "f-loose"], "who has most gives way");
    assert_eq!((store.loose_count(50).await.unwrap(), store.loose_count(1_000).await.unwrap()), (50, 101));
    let own = FindingFilter { active_only: true, from_collector: true, limit: 1, ..FindingFilter::default() };
    let own = store.findings(own).await.unwrap();
    assert_eq!(own.iter().map(|r| r.finding.id.as_str()).collect::<Vec<_>>(), ["f-refused"]);
    assert_eq!(store.incidents(IncidentFilter::default()).await.unwrap().len(), 3);
    store.close().await;
}
