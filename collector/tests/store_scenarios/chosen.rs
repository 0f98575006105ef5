//! What is chosen: rows and records by pod, rule, severity and words, before limits and in bounded time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dogwatch::record::{
    Body, CleanupMode, FindingState, Kind, Kinds, LogLine, NodeName, Pod, Severity, Stream,
};
use dogwatch_collector::incident::Incident;
use dogwatch_collector::select::Select;
use dogwatch_collector::sieve::{Grep, Sieve};
use dogwatch_collector::store::decision::{Piece, What};
use dogwatch_collector::store::events::{Event, EventQuery};
use dogwatch_collector::store::{
    FindingFilter, IncidentFilter, JournalConfig, QueryError, Store, StoreConfig,
};

use crate::kit::{self, Node, SECOND, T0};

fn pod(name: &str) -> Option<Pod> {
    Some(Pod { namespace: "shop".into(), name: name.into(), container: "app".into(), ..Pod::default() })
}

fn line(text: &str, of: Option<Pod>) -> Body {
    let (source, rules) = ("/var/log/app.log".into(), vec!["error".into()]);
    Body::Log(LogLine { source, line: text.into(), rules, pod: of, ..LogLine::default() })
}

fn finding(id: &str, rule: &str, severity: Severity, of: Option<Pod>) -> Body {
    let plain = kit::plain_finding(id, FindingState::Raised, T0);
    Body::Finding(Box::new(dogwatch::record::Finding { rule: rule.into(), severity, pod: of, ..plain }))
}

fn of_pod(name: &str) -> Select {
    Select { pod: name.into(), ..Select::default() }
}

fn grep(pattern: &str) -> Sieve {
    Sieve { grep: Some(Grep::new(pattern).unwrap()), ..Sieve::default() }
}

async fn all(store: &Store, query: EventQuery) -> Result<Vec<Event>, QueryError> {
    let mut events = store.events(query);
    let mut got = Vec::new();
    while let Some(event) = events.recv().await {
        got.push(event?);
    }
    Ok(got)
}

#[tokio::test]
async fn rows_are_chosen_by_what_their_findings_say() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut nodes = [Node::new("n1", 1), Node::new("n2", 2)];
    let findings = [
        finding("f-1", "oom", Severity::High, pod("api-6d5f8b7c9d-x2xzz")),
        finding("f-2", "log-error", Severity::Low, pod("web-0")),
        finding("f-3", "disk-high-water", Severity::Critical, None),
    ];
    for (i, body) in findings.into_iter().enumerate() {
        let node = &mut nodes[i % 2];
        let block = node.seal(Stream::Urgent, T0 + i as i64 * SECOND, vec![body]);
        store.commit(&block).await.unwrap();
    }
    kit::until("the last is in the index", || async { store.finding("f-3").await.unwrap().is_some() }).await;
    let ids = |select: Select| async {
        let filter = FindingFilter { select, ..FindingFilter::default() };
        store.findings(filter).await.unwrap().into_iter().map(|r| r.finding.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(of_pod("api")).await, ["f-1"]);
    assert_eq!(ids(Select { namespace: "shop".into(), ..Select::default() }).await, ["f-2", "f-1"]);
    assert_eq!(ids(Select { severity: Some(Severity::High), ..Select::default() }).await, ["f-3", "f-1"]);
    assert_eq!(
        ids(Select { rules: vec!["oom".into(), "log-error".into()], ..Select::default() }).await.len(),
        2
    );
    let n1: NodeName = "n1".parse().unwrap();
    assert_eq!(ids(Select { nodes: vec![n1.clone()], ..Select::default() }).await, ["f-3", "f-1"]);
    assert!(ids(Select { nodes: vec![n1.clone()], ..of_pod("web") }).await.is_empty());
    // The limit counts what was chosen.
    let filter = FindingFilter { select: of_pod("api"), limit: 1, ..FindingFilter::default() };
    assert_eq!(store.findings(filter).await.unwrap().len(), 1);

    let open = |id: &str, severity, piece: &str, node: &str| {
        let (id, node): (String, NodeName) = (id.to_owned(), node.parse().unwrap());
        let opened = What::IncidentOpened {
            id: id.clone(),
            title: "t".into(),
            severity,
            node: node.clone(),
            topic: "t".into(),
            reason: "r".into(),
        };
        let piece = Piece::Finding(piece.to_owned());
        [opened, What::IncidentJoined { id, piece, node, reason: "r".into() }]
    };
    let [a, b] = open("inc-2026-01-01-001", Severity::High, "f-1", "n1");
    let [c, d] = open("inc-2026-01-01-002", Severity::Low, "f-2", "n2");
    store.decide_all([a, b, c, d].map(|w| kit::decision(T0, w)).into()).await.unwrap();
    let chosen = |select: Select| async {
        let filter = IncidentFilter { select, ..IncidentFilter::default() };
        let rows: Vec<Incident> = store.incidents(filter).await.unwrap();
        rows.into_iter().map(|i| i.id[15..].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(of_pod("api")).await, ["001"]);
    assert_eq!(chosen(Select { rules: vec!["log-error".into()], ..Select::default() }).await, ["002"]);
    assert_eq!(chosen(Select { severity: Some(Severity::Medium), ..Select::default() }).await, ["001"]);
    assert_eq!(chosen(Select { nodes: vec![n1], ..Select::default() }).await, ["001"]);
    assert!(chosen(Select { severity: Some(Severity::High), ..of_pod("web") }).await.is_empty());
    assert_eq!(chosen(Select::default()).await.len(), 2);

    let active = store.active(Arc::default()).await.unwrap();
    let mut rules: Vec<&str> = active.iter().filter_map(|a| a.rule.as_deref()).collect();
    rules.sort_unstable();
    assert_eq!(rules, ["disk-high-water", "log-error", "oom"]);
    store.close().await;
}

#[tokio::test]
async fn records_are_looked_through_before_the_limit_and_no_longer_than_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut node = Node::new("n1", 1);
    for i in 0..50i64 {
        let bodies = (0..10)
            .map(|j| line(&format!("line {}", i * 10 + j), if j == 0 { pod("api-0") } else { None }))
            .collect();
        store.commit(&node.seal(Stream::Evidence, T0 + i * 10 * SECOND, bodies)).await.unwrap();
    }
    let mut other = Node::new("n2", 2);
    store.commit(&other.logs(T0, 10, 20)).await.unwrap();
    let newest =
        |sieve: Sieve, limit| EventQuery { newest_first: true, limit, sieve, ..EventQuery::default() };
    let got = all(&store, newest(grep("line 1?7$"), 1)).await.unwrap();
    assert_eq!(got.len(), 1);
    assert!(matches!(&got[0].record.body, Body::Log(l) if l.line == b"line 17"));
    let sieve = Sieve { select: of_pod("api"), ..Sieve::default() };
    assert_eq!(all(&store, newest(sieve.clone(), 0)).await.unwrap().len(), 50);
    assert_eq!(all(&store, newest(sieve, 7)).await.unwrap().len(), 7);
    assert!(all(&store, newest(grep("no such words"), 10)).await.unwrap().is_empty());
    let nodes = vec!["n1".parse().unwrap(), "n2".parse().unwrap()];
    let kinds = Kinds::default().with(Kind::Log);
    assert_eq!(all(&store, EventQuery { nodes, kinds, ..EventQuery::default() }).await.unwrap().len(), 510);

    // No time at all: the first block is one too many, and the answer says how far the search came.
    let hurried = EventQuery { most_time: Some(Duration::ZERO), ..newest(grep("line 0$"), 1) };
    let refused = all(&store, hurried).await.unwrap_err().to_string();
    assert!(refused.contains("came back to 20") && refused.contains("name a shorter time"), "{refused}");

    assert!(store.knows(&"n1".parse().unwrap()).await.unwrap(), "a block of it came");
    assert!(!store.knows(&"n3".parse().unwrap()).await.unwrap());
    let spoke = What::NodeSpoke {
        node: "n3".parse().unwrap(),
        agent_version: "0.1.0".into(),
        mode: Some(CleanupMode::Plan),
        policy: None,
    };
    store.decide(kit::decision(T0, spoke)).await.unwrap();
    assert!(store.knows(&"n3".parse().unwrap()).await.unwrap());
    store.close().await;
}

#[tokio::test]
async fn what_arrives_is_told_as_it_becomes_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut node = Node::new("n1", 1);
    let mut arrivals = store.arrivals();
    let block = node.logs(T0, 3, 20);
    store.commit(&block).await.unwrap();
    store.commit(&block).await.unwrap();
    store
        .commit(&node.seal(Stream::Recorder, T0, vec![Body::Sample(std::sync::Arc::default())]))
        .await
        .unwrap();
    let first = arrivals.recv().await.unwrap();
    let kinds = Kinds::default().with(Kind::Log);
    let (chain, records) = store.arrived(first, kinds).await.unwrap();
    assert_eq!((chain, records.len()), (node.chain(Stream::Evidence), 3));
    // The second offer of the same block is no arrival.
    let second = arrivals.recv().await.unwrap();
    assert_eq!(second.stream(), Stream::Recorder);
    assert!(store.arrived(second, kinds).await.is_none(), "nothing of that kind is within");
    assert!(arrivals.try_recv().is_err());
    store.close().await;
}

/// What answers cost over a million lines of a hundred nodes; the figures are printed.
#[tokio::test]
#[ignore = "writes a million records; run it alone and optimised to learn what answers cost"]
async fn a_million_records_are_searched_within_the_time_that_an_answer_has() {
    const NODES: usize = 100;
    const BLOCKS: i64 = 100;
    const LINES: i64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let journal = JournalConfig { segment_bytes: 16 << 20, max_bytes: 4 << 30, max_age: None };
    let store = kit::open(StoreConfig { evidence: journal, ..kit::config(dir.path()) });
    let begun = Instant::now();
    for n in 0..NODES {
        let mut node = Node::new(&format!("n{n}"), n as u8);
        for b in 0..BLOCKS {
            let text = |i: i64| {
                format!("2026-11-21T00:00:00Z INFO request {} took 12 ms path=/cart/{i}", b * LINES + i)
            };
            let bodies = (0..LINES).map(|i| line(&text(i), pod(&format!("api-{}", i % 10)))).collect();
            let block = node.seal(Stream::Evidence, T0 + b * LINES * SECOND, bodies);
            store.hand_over(&block, None).await.unwrap().committed().await.unwrap();
        }
    }
    eprintln!("{} records stored in {:.1} s", NODES as i64 * BLOCKS * LINES, begun.elapsed().as_secs_f64());
    let sieve_of_pod = Sieve { select: of_pod("api-3"), ..Sieve::default() };
    let one = vec!["n7".parse().unwrap()];
    let since = EventQuery {
        since_wall_ns: T0 + 5_000 * SECOND,
        until_wall_ns: T0 + 8_600 * SECOND,
        ..EventQuery::default()
    };
    let newest = EventQuery { newest_first: true, ..EventQuery::default() };
    for (what, expected, query) in [
        ("newest 100 of all", 100, EventQuery { limit: 100, ..newest.clone() }),
        ("one hour of one node", 3_600, EventQuery { nodes: one.clone(), ..since }),
        ("a word that is nowhere, all", 0, EventQuery { sieve: grep("no such words"), ..newest.clone() }),
        ("a word in one line a node, all", 100, EventQuery { sieve: grep("request 777 "), ..newest.clone() }),
        ("the same of one node", 1, EventQuery { sieve: grep("request 777 "), nodes: one, ..newest.clone() }),
        ("newest 100 of a pod", 100, EventQuery { sieve: sieve_of_pod, limit: 100, ..newest.clone() }),
    ] {
        let begun = Instant::now();
        let mut events = store.events(EventQuery { most_time: Some(Duration::from_secs(60)), ..query });
        let (mut found, mut first) = (0, None);
        while let Some(event) = events.recv().await {
            event.unwrap();
            found += 1;
            first.get_or_insert_with(|| begun.elapsed());
        }
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let first = first.map_or("none".to_owned(), |d| format!("{:.1} ms", ms(d)));
        eprintln!("{what}: {found} found, first {first}, all {:.1} ms", ms(begun.elapsed()));
        assert_eq!(found, expected, "{what}");
    }
    store.close().await;
}
