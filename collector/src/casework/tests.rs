//! Casework over a real store: silence, refusals, people.

use dogwatch::wire;

use super::*;
use crate::say::Say;
use crate::store::row::FindingRow;
use crate::store::specimen::open;
use crate::store::{FindingFilter, IncidentFilter};

struct Desk {
    store: Store,
    nodes: Nodes,
    asks: mpsc::Sender<Ask>,
    stop: Stop,
    task: tokio::task::JoinHandle<()>,
}

async fn start(dir: &std::path::Path) -> Desk {
    let (store, nodes, stop) = (open(dir), Nodes::default(), Stop::default());
    let (asks, asked) = mpsc::channel(ASK_QUEUE);
    let casework =
        Casework::open(store.clone(), nodes.clone(), Policy::default(), Duration::from_millis(1), asked)
            .await
            .unwrap();
    let told = stop.clone();
    let task = tokio::spawn(async move { casework.run(told).await.unwrap() });
    Desk { store, nodes, asks, stop, task }
}

impl Desk {
    async fn keep(&self, what: What) {
        let (reply, done) = oneshot::channel();
        let ask = Ask::Keep { what: Box::new(what), actor: "collector".into(), reply };
        self.asks.send(ask).await.unwrap();
        done.await.unwrap().unwrap();
    }

    async fn finding(&self, rule: &str, fits: impl Fn(&FindingRow) -> bool) -> FindingRow {
        let begun = Instant::now();
        loop {
            let rows = self.store.findings(FindingFilter::default()).await.unwrap();
            if let Some(row) = rows.into_iter().find(|r| r.finding.rule == rule && fits(r)) {
                return row;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no such finding of {rule}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) {
        self.stop.set();
        self.task.await.unwrap();
        self.store.close().await;
    }
}

fn enrolled(node: &NodeName) -> What {
    What::NodeEnrolled { node: node.clone(), signing_key: "00".repeat(32), token: "t".into() }
}

#[tokio::test]
async fn a_node_enrolled_while_running_is_expected_found_silent_and_cleared_also_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node: NodeName = "a".parse().unwrap();
    let desk = start(dir.path()).await;
    desk.keep(enrolled(&node)).await;
    assert!(desk.nodes.get(&node).is_some(), "`get nodes` shows it before it ever spoke");
    let first = desk.finding(SILENT_RULE, |_| true).await;
    assert_eq!(first.node.as_ref(), Some(&node));
    desk.end().await;

    let desk = start(dir.path()).await;
    let session = desk.nodes.open(&node, &wire::Hello::default(), None, 1);
    let cleared = desk.finding(SILENT_RULE, |r| r.finding.state == FindingState::Cleared).await;
    assert_eq!(cleared.finding.id, first.finding.id, "the same finding, not a second one");
    drop(session);
    let again = desk.finding(SILENT_RULE, |r| r.finding.state == FindingState::Raised).await;
    assert_ne!(again.finding.id, first.finding.id);
    assert_eq!(desk.store.incidents(IncidentFilter::default()).await.unwrap().len(), 1, "one story");
    desk.end().await;
}

#[tokio::test]
async fn a_finding_about_no_node_is_shown_and_makes_no_incident() {
    let dir = tempfile::tempdir().unwrap();
    let desk = start(dir.path()).await;
    let subject = Subject::new("address", "192.0.2.9");
    let finding = make("refused-not-tls", Severity::High, subject, "s".into(), "e".into(), Vec::new());
    Say::new(desk.asks.clone()).finding(None, finding, 7).await;
    let row = desk.finding("refused-not-tls", |_| true).await;
    assert_eq!((row.node, row.count), (None, 7));
    assert!(desk.store.incidents(IncidentFilter::default()).await.unwrap().is_empty());
    desk.end().await;
}

#[tokio::test]
async fn what_another_run_said_and_nobody_says_any_more_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (_asks, asked) = mpsc::channel(1);
    let mut casework =
        Casework::open(store.clone(), Nodes::default(), Policy::default(), Duration::from_secs(60), asked)
            .await
            .unwrap();
    for rule in ["refused-not-tls", EQUIVOCATION_RULE] {
        let finding = make(rule, Severity::High, Subject::new("x", rule), "s".into(), "e".into(), Vec::new());
        casework.say(None, finding, 3).await.unwrap();
    }
    casework.take_up().await.unwrap();
    casework.clear_unsaid().await.unwrap();
    let active = FindingFilter { active_only: true, ..FindingFilter::default() };
    assert_eq!(store.findings(active.clone()).await.unwrap().len(), 2, "too early");
    for own in casework.own.values_mut() {
        own.said = Instant::now().checked_sub(UNSAID).unwrap();
    }
    casework.clear_unsaid().await.unwrap();
    let left = store.findings(active).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].finding.rule, EQUIVOCATION_RULE);
    drop(casework);
    store.close().await;
}

#[tokio::test]
async fn an_incident_that_was_over_for_long_is_looked_after_again_once_it_is_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (_asks, asked) = mpsc::channel(1);
    // Nothing is rejoined: what is over is let go of at the next tick, and what is quiet is over at once.
    let policy = Policy { rejoin_ns: -1, quiet_ns: 0, ..Policy::default() };
    let mut casework =
        Casework::open(store.clone(), Nodes::default(), policy, Duration::from_secs(60), asked)
            .await
            .unwrap();
    let node: NodeName = "a".parse().unwrap();
    let finding =
        make("stream-hole", Severity::High, Subject::new("stream", "a"), "s".into(), "e".into(), Vec::new());
    casework.say(Some(node.clone()), finding.clone(), 1).await.unwrap();
    let id = store.incidents(IncidentFilter::default()).await.unwrap().remove(0).id;
    let refused = casework.person(&id, Deed::Reopen, "rita", "").await.unwrap_err();
    assert!(refused.to_string().contains("there is nothing to reopen"), "{refused}");
    let over = |f: &Finding| Finding { state: FindingState::Cleared, ..f.clone() };
    casework.say(Some(node.clone()), over(&finding), 2).await.unwrap();
    casework.person(&id, Deed::Resolve, "rita", "").await.unwrap();
    casework.tick().await.unwrap();
    assert!(!casework.correlator.knows(&id), "it was let go of");

    let again = casework.person(&id, Deed::Reopen, "rita", "not over").await.unwrap();
    assert_eq!((again.state, again.resolved_wall_ns), (crate::incident::IncidentState::Open, None));
    let told = again.log.last().unwrap();
    assert_eq!(
        (told.actor.as_str(), told.kind.as_str(), told.text.as_str()),
        ("rita", "state", "reopened: not over")
    );
    assert!(casework.correlator.knows(&id));
    casework.tick().await.unwrap();
    let state = |i: Option<Incident>| i.unwrap().state;
    assert_eq!(
        state(store.incident(&id).await.unwrap()),
        crate::incident::IncidentState::Open,
        "it holds still"
    );
    // The same finding again, of a new episode: it belongs there, and its end is the incident's.
    let anew = Finding { raised_wall_ns: clock::wall_ns(), ..finding };
    casework.say(Some(node.clone()), anew.clone(), 3).await.unwrap();
    assert_eq!(store.incidents(IncidentFilter::default()).await.unwrap().len(), 1);
    casework.say(Some(node), over(&anew), 4).await.unwrap();
    // Resolved by itself: the finding that it was opened for is over.
    let begun = Instant::now();
    while state(store.incident(&id).await.unwrap()) != crate::incident::IncidentState::Resolved {
        assert!(begun.elapsed() < Duration::from_secs(30), "the reopened incident is looked after by nobody");
        casework.tick().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.close().await;
}

#[tokio::test]
async fn what_an_agent_says_of_itself_is_kept_once_and_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node: NodeName = "a".parse().unwrap();
    let desk = start(dir.path()).await;
    desk.keep(enrolled(&node)).await;
    let say = Say::new(desk.asks.clone());
    let known = |desk: &Desk| desk.nodes.get(&node).and_then(|l| l.spoke);
    let mode = Some(dogwatch::record::CleanupMode::Plan);
    say.spoke(&node, "0.1.0", mode, None, known(&desk));
    let begun = Instant::now();
    while known(&desk).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not kept");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let first = known(&desk).unwrap();
    assert_eq!((first.agent_version.as_str(), first.mode), ("0.1.0", mode));
    say.spoke(&node, "0.1.0", mode, None, known(&desk));
    // Behind what was asked before: nothing was.
    desk.keep(enrolled(&node)).await;
    assert_eq!(known(&desk), Some(first.clone()), "the same again is not kept again");
    desk.end().await;

    let desk = start(dir.path()).await;
    assert_eq!(known(&desk), Some(first));
    assert_eq!(desk.store.nodes().await.unwrap()[0].enrolments.len(), 2, "and the enrolments stay");
    desk.end().await;
}

fn hole(stream: &str) -> Finding {
    make("stream-hole", Severity::High, Subject::new("stream", stream), "s".into(), "e".into(), Vec::new())
}

/// The store does not answer until the returned half is dropped; then it cannot, and is asked again.
fn unanswered(casework: &mut Casework) -> oneshot::Sender<()> {
    let (hold, held) = oneshot::channel::<()>();
    casework.taking.spawn(async move {
        let _ = held.await;
        Err(QueryError::Building)
    });
    hold
}

#[tokio::test]
async fn people_are_answered_while_the_store_is_asked_in_vain_and_what_was_said_is_put_to_an_incident_after()
{
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (asks, asked) = mpsc::channel(ASK_QUEUE);
    let (nodes, silent_after) = (Nodes::default(), Duration::from_secs(3600));
    let mut casework =
        Casework::open(store.clone(), nodes.clone(), Policy::default(), silent_after, asked).await.unwrap();
    let node: NodeName = "a".parse().unwrap();
    casework.say(Some(node.clone()), hole("first"), 1).await.unwrap();
    let id = store.incidents(IncidentFilter::default()).await.unwrap().remove(0).id;
    let hold = unanswered(&mut casework);
    let stop = Stop::default();
    let told = stop.clone();
    let task = tokio::spawn(async move { casework.run(told).await.unwrap() });
    let desk = Desk { store, nodes, asks, stop, task };

    let (reply, done) = oneshot::channel();
    let (actor, text) = ("rita".to_owned(), "mine".to_owned());
    desk.asks.send(Ask::Person { id, deed: Deed::Acknowledge, actor, text, reply }).await.unwrap();
    assert_eq!(done.await.unwrap().unwrap().state, crate::incident::IncidentState::Acknowledged);
    let other: NodeName = "b".parse().unwrap();
    Say::new(desk.asks.clone()).finding(Some(other.clone()), hole("second"), 1).await;
    desk.keep(enrolled(&node)).await;
    assert!(!hold.is_closed(), "all of them were answered while the store was not");
    assert_eq!(desk.store.incidents(IncidentFilter::default()).await.unwrap().len(), 1, "not decided yet");
    drop(hold);
    let begun = Instant::now();
    loop {
        let incidents = desk.store.incidents(IncidentFilter::default()).await.unwrap();
        if incidents.iter().any(|i| i.nodes.contains(&other)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "what was said meanwhile is in no incident");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    desk.end().await;
}

#[tokio::test]
async fn what_people_did_while_the_store_was_asked_counts_though_it_answers_what_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (_asks, asked) = mpsc::channel(1);
    // What is over is let go of at once.
    let policy = Policy { rejoin_ns: -1, ..Policy::default() };
    let mut casework =
        Casework::open(store.clone(), Nodes::default(), policy, Duration::from_secs(3600), asked)
            .await
            .unwrap();
    let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
    casework.say(Some(a.clone()), hole("first"), 1).await.unwrap();
    let old = store.incidents(IncidentFilter::default()).await.unwrap().remove(0).id;
    let over = Finding { state: FindingState::Cleared, ..hole("first") };
    let over =
        Finding { id: store.findings(FindingFilter::default()).await.unwrap().remove(0).finding.id, ..over };
    casework.say(Some(a), over, 2).await.unwrap();
    casework.person(&old, Deed::Resolve, "rita", "").await.unwrap();

    let before = again::ask(store.clone(), casework.ended_since_ns()).await.unwrap();
    let hold = unanswered(&mut casework);
    casework.person(&old, Deed::Reopen, "rita", "not over").await.unwrap();
    casework.say(Some(b.clone()), hole("second"), 1).await.unwrap();
    casework.settle(Ok(Ok(before))).await.unwrap();
    assert!(casework.correlator.knows(&old), "what was reopened meanwhile is looked after");
    let incidents = store.incidents(IncidentFilter::default()).await.unwrap();
    assert!(incidents.iter().any(|i| i.nodes == [b.clone()]), "{incidents:?}");
    drop((hold, casework));
    store.close().await;
}

#[tokio::test]
async fn what_is_said_and_taken_back_while_the_store_is_asked_or_what_it_told_is_looked_at_holds_no_incident_open()
 {
    // Whether the store knew of it when it was asked, and whether it was over before what it told was taken in.
    for (known, early) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (_asks, asked) = mpsc::channel(1);
        let policy = Policy { quiet_ns: 0, ..Policy::default() };
        let (nodes, silent_after) = (Nodes::default(), Duration::from_secs(3600));
        let mut casework = Casework::open(store.clone(), nodes, policy, silent_after, asked).await.unwrap();
        let node: NodeName = "a".parse().unwrap();
        let finding = hole("first");
        let over = Finding { state: FindingState::Cleared, ..finding.clone() };
        let mut before = again::ask(store.clone(), casework.ended_since_ns()).await.unwrap();
        let hold = unanswered(&mut casework);
        casework.say(Some(node.clone()), finding, 1).await.unwrap();
        if known {
            before = again::ask(store.clone(), casework.ended_since_ns()).await.unwrap();
        }
        if early {
            casework.say(Some(node.clone()), over.clone(), 2).await.unwrap();
        }
        casework.taking = JoinSet::new();
        casework.settle(Ok(Ok(before))).await.unwrap();
        if !early {
            // Orders and what is said take turns with the backlog.
            casework.say(Some(node.clone()), over, 2).await.unwrap();
        }
        while casework.backlog.is_some() {
            casework.work_off().await.unwrap();
        }
        casework.tick().await.unwrap();
        let incidents = store.incidents(IncidentFilter::default()).await.unwrap();
        let open: Vec<_> =
            incidents.iter().filter(|i| i.state != crate::incident::IncidentState::Resolved).collect();
        assert!(open.is_empty(), "{known} {early}: {open:?}");
        assert!(early || incidents.len() == 1, "{known} {early}: it was told");
        assert!(casework.own.is_empty());
        drop((hold, casework));
        store.close().await;
    }
}

#[tokio::test]
async fn an_own_finding_that_was_in_no_incident_when_the_store_was_asked_holds_none_open_once_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (_asks, asked) = mpsc::channel(1);
    let policy = Policy { quiet_ns: 0, ..Policy::default() };
    let (nodes, silent_after) = (Nodes::default(), Duration::from_secs(3600));
    let mut casework = Casework::open(store.clone(), nodes, policy, silent_after, asked).await.unwrap();
    let node: NodeName = "a".parse().unwrap();
    // Durable, and then the collector was killed before it was put to an incident.
    let finding = Finding { rule: STOPPED_RULE.to_owned(), ..hole("first") };
    let over = Finding { state: FindingState::Cleared, ..finding.clone() };
    let said = What::FindingSaid { node: Some(node.clone()), finding: Box::new(finding), count: 1 };
    let said = Decision { wall_ns: clock::wall_ns(), actor: "collector".to_owned(), what: said };
    store.decide_all(vec![said]).await.unwrap();
    casework.take_up().await.unwrap();
    // A person releases; and time goes by, all before what the store told is looked at.
    casework.say(Some(node), over, 2).await.unwrap();
    casework.tick().await.unwrap();
    while casework.backlog.is_some() {
        casework.work_off().await.unwrap();
    }
    casework.tick().await.unwrap();
    let incidents = store.incidents(IncidentFilter::default()).await.unwrap();
    let states: Vec<_> = incidents.iter().map(|i| i.state).collect();
    assert_eq!(states, [crate::incident::IncidentState::Resolved], "it was told, and is over");
    drop(casework);
    store.close().await;
}

#[tokio::test]
async fn a_store_that_is_being_asked_is_asked_once_more_and_not_twice_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (_asks, asked) = mpsc::channel(1);
    let mut casework =
        Casework::open(store.clone(), Nodes::default(), Policy::default(), Duration::from_secs(60), asked)
            .await
            .unwrap();
    let hold = unanswered(&mut casework);
    casework.begin_again(Duration::ZERO);
    casework.begin_again(Duration::ZERO);
    assert_eq!(casework.taking.len(), 1);
    drop(hold);
    for sure in [false, true] {
        let taken = casework.taking.join_next().await.unwrap();
        casework.settle(taken).await.unwrap();
        assert_eq!(casework.is_sure(), sure);
    }
    drop(casework);
    store.close().await;
}
