use super::*;
use crate::store::specimen::open;

#[tokio::test]
async fn a_stop_beyond_those_that_wait_for_the_journal_is_kept_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keeper = opened(&store).await;
    // While the journal takes nothing.
    for n in 0..MAX_UNWRITTEN + 5 {
        keeper.force(What::BrakePaused { reason: format!("reason {n}") }, "ada");
    }
    assert_eq!(keeper.unwritten.len(), MAX_UNWRITTEN);
    assert!(keeper.brake.ledger().stopped().is_some() && keeper.not_kept().is_some());
    // It takes them again.
    keeper.flush().await;
    assert!(keeper.not_kept().is_none());
    let paused = keeper.brake.ledger().paused.clone().unwrap();
    assert!(paused.reason.starts_with("reason 68 (and 4 more stops"), "{}", paused.reason);
    assert_eq!(keeper.brake.ledger().revision, MAX_UNWRITTEN as u64 + 1);
    let kept = store.brake().await.unwrap();
    assert_eq!(&kept, keeper.brake.ledger(), "a restart knows the same");
    drop(keeper);
    store.close().await;
}

async fn opened(store: &Store) -> Keeper {
    store.indexed(Duration::from_secs(30)).await.unwrap();
    let (asks, mut asked) = mpsc::channel(8);
    // Nobody makes cases of it.
    tokio::spawn(async move { while asked.recv().await.is_some() {} });
    let opening = Keeper::open(store.clone(), Nodes::default(), Say::new(asks), Settings::default());
    opening.await.unwrap().0
}

/// Turns until nothing is in doubt.
async fn settled(keeper: &mut Keeper) {
    let since = Instant::now();
    loop {
        keeper.settle(true, None).await;
        if !keeper.in_doubt() {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{:?}", keeper.astray);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_did_not_say_whether_it_stands_is_not_in_force_in_the_end_whether_it_stands_or_not() {
    let granted = What::PermitGranted {
        node: "n1".parse().unwrap(),
        action: "a-1".to_owned(),
        mount: "/var".to_owned(),
        policy: dogwatch::record::Hash([1; 32]),
        planned_bytes: 5,
        planned_objects: 1,
        cleaners: Vec::new(),
        canary: false,
    };
    let released = What::BrakeReleased { reason: "well".to_owned(), past: Vec::new() };
    for (what, stops) in [(granted, 0), (released.clone(), 1), (released, 2)] {
        for stands in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let mut keeper = opened(&store).await;
            if stops > 0 {
                keeper.stop(What::BrakePaused { reason: "look".to_owned() }, "ada").await;
            }
            if stops > 1 {
                keeper.stop(tell::lost("it burned"), COLLECTOR).await;
            }
            let stops = |ledger: &super::super::Ledger| {
                let reason = |s: &Option<Stopped>| s.as_ref().map(|s| (s.by.clone(), s.reason.clone()));
                (reason(&ledger.paused), reason(&ledger.tripped))
            };
            let told = stops(keeper.brake.ledger());
            let decision =
                Decision { wall_ns: clock::wall_ns(), actor: "bob".to_owned(), what: what.clone() };
            if stands {
                store.decide(decision.clone()).await.unwrap();
            }
            keeper.uncertain(vec![decision]);
            assert!(keeper.in_doubt(), "and no permit is given meanwhile");
            settled(&mut keeper).await;
            assert_eq!(stops(keeper.brake.ledger()), told, "{what:?} {stands}");
            assert!(keeper.brake.ledger().permits.is_empty());
            assert_eq!(&store.brake().await.unwrap(), keeper.brake.ledger(), "{what:?} {stands}");
            drop(keeper);
            let again = opened(&store).await;
            assert_eq!(stops(again.brake.ledger()), told, "a restart knows the same");
            drop(again);
            store.close().await;
        }
    }
}

#[tokio::test]
async fn an_open_fold_is_never_taken_up_in_the_place_of_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keeper = opened(&store).await;
    keeper.stop(What::BrakePaused { reason: "look".to_owned() }, "ada").await;
    let what = What::BrakeReleased { reason: "well".to_owned(), past: Vec::new() };
    store.decide(Decision { wall_ns: clock::wall_ns(), actor: "eve".to_owned(), what }).await.unwrap();
    keeper.astray_since();
    settled(&mut keeper).await;
    let stopped = keeper.brake.ledger().tripped.clone().unwrap();
    assert!(stopped.reason.contains("changed while the collector ran"), "{}", stopped.reason);
    assert_eq!(&store.brake().await.unwrap(), keeper.brake.ledger());
    drop(keeper);
    store.close().await;
}

#[tokio::test]
async fn a_release_does_not_end_a_stop_that_had_no_room_yet() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keeper = opened(&store).await;
    for n in 0..=MAX_UNWRITTEN {
        keeper.force(What::BrakePaused { reason: format!("reason {n}") }, "ada");
    }
    keeper.publish();
    let mut release = async || {
        let seen = keeper.board.revision();
        let done = keeper.release("well".to_owned(), "bob".to_owned(), seen, None).await;
        (done, keeper.brake.ledger().paused.clone().map(|s| s.reason))
    };
    let (refused, stands) = release().await;
    assert!(matches!(refused, Err(Refusal::Overtaken(why)) if why.contains("reason 64")));
    assert_eq!(stands.as_deref(), Some("reason 64"));
    // Whoever has seen it can.
    let (done, stands) = release().await;
    assert_eq!((done.unwrap().ledger.stopped(), stands), (None, None));
    drop(keeper);
    store.close().await;
}

#[tokio::test]
async fn a_release_ends_no_trip_that_came_after_what_was_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.indexed(Duration::from_secs(30)).await.unwrap();
    let (asks, mut asked) = mpsc::channel(8);
    tokio::spawn(async move { while asked.recv().await.is_some() {} });
    let opening = Keeper::open(store.clone(), Nodes::default(), Say::new(asks), Settings::default());
    let (mut keeper, handle) = opening.await.unwrap();
    keeper.stop(What::BrakePaused { reason: "maintenance".to_owned() }, "ada").await;
    let looked_at = keeper.brake.ledger().revision;
    let trip = What::BrakeTripped {
        reason: "mount-read-only".to_owned(),
        finding: String::new(),
        node: None,
        action: None,
        cites: Vec::new(),
        past: None,
        cause: None,
    };
    keeper.stop(trip, "collector").await;
    let mut release = async |why: &str, revision| {
        let looked = super::super::Looked { revision, alone: Vec::new() };
        let done = handle.release(why.to_owned(), "bob".to_owned(), Some(looked));
        let obeyed = async {
            let order = keeper.inbox.orders.recv().await.unwrap();
            keeper.obey(order).await;
        };
        let (done, ()) = tokio::join!(done, obeyed);
        (done, keeper.brake.ledger().clone())
    };
    let (refused, stands) = release("maintenance over", looked_at).await;
    assert!(matches!(refused, Err(Refusal::Overtaken(why)) if why.contains("mount-read-only")));
    assert!(stands.tripped.is_some() && stands.paused.is_some());
    let (done, stands) = release("mended", stands.revision).await;
    assert_eq!((done.unwrap().ledger.stopped(), stands.stopped()), (None, None));
    drop(keeper);
    store.close().await;
}

#[tokio::test]
async fn all_that_nodes_said_while_everything_was_stopped_is_dealt_with_by_one_release() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keeper = opened(&store).await;
    let said: Vec<Unknown> = (0..2 * u64::from(MAX_UNKNOWN))
        .map(|n| {
            let state = crate::store::decision::Past { revision: 3, lineage: n + 1 };
            Unknown { node: format!("n{n}").parse().unwrap(), state, reason: "look".to_owned() }
        })
        .collect();
    for again in [false, true] {
        said.iter().for_each(|claim| keeper.reported(claim.clone()));
        settled(&mut keeper).await;
        assert_eq!(keeper.brake.ledger().tripped.is_some(), !again, "nobody says anything new");
        if !again {
            let seen = keeper.board.revision();
            keeper.release("well".to_owned(), "ada".to_owned(), seen, None).await.unwrap();
        }
    }
    assert!(said.iter().all(|claim| keeper.brake.ledger().knows(claim.state)));
    assert_eq!(keeper.claims.alone().count(), 0);
    drop(keeper);
    store.close().await;
}

#[tokio::test]
async fn a_doubt_that_arises_at_work_is_told_and_raises_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.indexed(Duration::from_secs(30)).await.unwrap();
    let (asks, mut asked) = mpsc::channel(8);
    let opening = Keeper::open(store.clone(), Nodes::default(), Say::new(asks), Settings::default());
    let (mut keeper, handle) = opening.await.unwrap();
    keeper.catch_up().await;
    keeper.settle(true, None).await;
    assert!(asked.try_recv().is_err() && !handle.view().borrow().is_stopped());
    store.raise_doubt("it burned");
    keeper.settle(true, None).await;
    assert!(handle.view().borrow().tripped && keeper.not_kept().is_none());
    let said = asked.try_recv().map(|ask| format!("{ask:?}")).unwrap_or_default();
    assert!(said.contains("it burned"), "{said}");
    drop(keeper);
    store.close().await;
}

fn ask_of(node: &NodeName) -> Ask {
    Ask {
        node: node.clone(),
        action: "a-1".to_owned(),
        mount: "/var".to_owned(),
        planned_bytes: 5,
        planned_objects: 1,
        policy: dogwatch::record::Hash([1; 32]),
        severity: dogwatch::record::Severity::Critical,
        seconds_to_full: None,
        cleaners: Vec::new(),
        acting: false,
        asked_boot_ns: 0,
    }
}

#[tokio::test]
async fn what_a_node_waits_for_is_dropped_when_it_is_stopped_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keeper = opened(&store).await;
    let node: NodeName = "n1".parse().unwrap();
    let says = |lineage| {
        let state = crate::store::decision::Past { revision: 3, lineage };
        Unknown { node: "n1".parse().unwrap(), state, reason: "look".to_owned() }
    };
    keeper.reported(says(1));
    settled(&mut keeper).await;
    let seen = keeper.board.revision();
    keeper.release("well".to_owned(), "ada".to_owned(), seen, None).await.unwrap();
    // It was put back once more, and asks before that is looked up.
    let (to, _answers) = mpsc::channel(8);
    keeper.reported(says(2));
    keeper.asked(ask_of(&node), to.clone());
    assert_eq!(keeper.brake.waiting(), 1);
    settled(&mut keeper).await;
    assert_eq!(keeper.claims.alone().count(), 1);
    assert_eq!((keeper.brake.waiting(), keeper.brake.places().len()), (0, 0), "what waits is dropped");
    // It has one once a person let it go on.
    let seen = keeper.board.revision();
    keeper.release("well".to_owned(), "ada".to_owned(), seen, None).await.unwrap();
    keeper.asked(ask_of(&node), to);
    keeper.settle(true, None).await;
    assert_eq!(keeper.brake.places().len(), 1);
    drop(keeper);
    store.close().await;
}

#[tokio::test]
async fn a_release_lets_go_only_the_nodes_that_it_means() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keeper = opened(&store).await;
    let nodes: Vec<NodeName> = ["n1", "n2"].iter().map(|n| n.parse().unwrap()).collect();
    let says = |i: usize, lineage| {
        let state = crate::store::decision::Past { revision: 3, lineage };
        Unknown { node: nodes[i].clone(), state, reason: format!("look {lineage}") }
    };
    type Meant = Vec<(NodeName, Past)>;
    let release = async |keeper: &mut Keeper, alone: Option<&Meant>| {
        let (seen, alone) = (keeper.board.revision(), alone.cloned());
        keeper.release("well".to_owned(), "ada".to_owned(), seen, alone).await
    };
    for i in 0..2 {
        keeper.reported(says(i, i as u64));
        settled(&mut keeper).await;
        release(&mut keeper, None).await.unwrap();
    }
    // Each stopped all the others once.
    for i in 0..2 {
        keeper.reported(says(i, 9 + i as u64));
        settled(&mut keeper).await;
    }
    let alone =
        |stands: &FleetBrake| -> Meant { stands.alone.iter().map(|c| (c.node.clone(), c.state)).collect() };
    let of = |i: usize, lineage| (nodes[i].clone(), says(i, lineage).state);
    assert_eq!(alone(&keeper.standing()), [of(0, 9), of(1, 10)]);
    assert!(matches!(release(&mut keeper, Some(&Vec::new())).await, Err(Refusal::Open)), "none is meant");
    // It says something else while somebody makes up his mind.
    let seen = vec![of(0, 9)];
    keeper.reported(says(0, 20));
    settled(&mut keeper).await;
    let refused = release(&mut keeper, Some(&seen)).await;
    assert!(matches!(&refused, Err(Refusal::Overtaken(why)) if why.contains("look 20")), "{refused:?}");
    keeper.stop(What::BrakePaused { reason: "maintenance".to_owned() }, "ada").await;
    let stands = release(&mut keeper, Some(&seen)).await.unwrap();
    assert_eq!((stands.ledger.stopped(), alone(&stands)), (None, vec![of(0, 20), of(1, 10)]));
    assert!(!keeper.brake.ledger().knows(of(0, 20).1), "nobody has seen it");
    let stands = release(&mut keeper, Some(&vec![of(0, 20)])).await.unwrap();
    assert_eq!(alone(&stands), [of(1, 10)]);
    let stands = release(&mut keeper, None).await.unwrap();
    assert_eq!(alone(&stands), []);
    drop(keeper);
    store.close().await;
}

#[tokio::test]
async fn a_stop_that_the_journal_refused_has_its_finding_once_the_journal_takes_it() {
    let (full, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (small, store) = (crate::store::specimen::open_with(full.path(), 2 << 20), open(dir.path()));
    store.indexed(Duration::from_secs(30)).await.unwrap();
    let (asks, mut asked) = mpsc::channel(8);
    small.indexed(Duration::from_secs(30)).await.unwrap();
    let opening = Keeper::open(small.clone(), Nodes::default(), Say::new(asks), Settings::default());
    let mut keeper = opening.await.unwrap().0;
    let note = |n| {
        let what = What::NoteAdded { id: format!("inc-{n}"), text: "x".repeat(60_000) };
        Decision { wall_ns: 5, actor: "ada".to_owned(), what }
    };
    for n in 0.. {
        if small.decide(note(n)).await.is_err() {
            break;
        }
        assert!(n < 100, "it takes more than it may");
    }
    let said = |asked: &mut mpsc::Receiver<crate::casework::Ask>| match asked.try_recv().ok()? {
        crate::casework::Ask::Say { finding, .. } => Some(finding),
        other => panic!("{other:?}"),
    };
    let long = "x".repeat(60_000);
    let stop = What::BrakeTripped {
        reason: "it burned".to_owned(),
        finding: String::new(),
        node: None,
        // It finds no room, whatever is left of the last segment.
        action: Some(long),
        cites: Vec::new(),
        past: None,
        cause: None,
    };
    keeper.stop(stop, COLLECTOR).await;
    assert!(keeper.not_kept().is_some() && keeper.brake.ledger().tripped.is_some());
    // Whoever keeps findings finds the same journal, and forgets it.
    let first = said(&mut asked).unwrap();
    keeper.settle(true, None).await;
    assert!(said(&mut asked).is_none(), "not before the stop itself is kept");
    // The journal takes decisions again.
    keeper.store = store.clone();
    keeper.settle(true, None).await;
    assert!(keeper.not_kept().is_none());
    let again = said(&mut asked).unwrap();
    assert_eq!((again.id.as_str(), again.rule.as_str()), (first.id.as_str(), super::super::STOPPED_RULE));
    // Until it is kept.
    keeper.look_at_ns = Some(0);
    keeper.settle(true, None).await;
    assert!(said(&mut asked).is_some());
    let what = What::FindingSaid { node: None, finding: again, count: 1 };
    store.decide(Decision { wall_ns: clock::wall_ns(), actor: COLLECTOR.to_owned(), what }).await.unwrap();
    keeper.look_at_ns = Some(0);
    keeper.settle(true, None).await;
    assert!(said(&mut asked).is_none() && keeper.look_at_ns.is_none());
    drop(keeper);
    store.close().await;
    small.close().await;
}

#[tokio::test]
async fn a_watch_is_over_once_its_node_was_heard_of_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keeper = opened(&store).await;
    let (node, stranger): (NodeName, NodeName) = ("n1".parse().unwrap(), "n2".parse().unwrap());
    let session = keeper.nodes.open(&node, &dogwatch::wire::Hello::default(), None, 1);
    let watch = Duration::ZERO;
    keeper.brake = Brake::new(Settings { watch, ..Settings::default() }, keeper.brake.ledger().clone(), 0);
    for node in [&node, &stranger] {
        let (node, action, mount) = (node.clone(), "a-1".to_owned(), "/var".to_owned());
        let (returned, state) = (action.clone(), dogwatch::record::ActionState::Done);
        let granted = What::PermitGranted {
            node: node.clone(),
            action,
            mount,
            policy: dogwatch::record::Hash([1; 32]),
            planned_bytes: 5,
            planned_objects: 1,
            cleaners: Vec::new(),
            canary: true,
        };
        let over = What::PermitReturned { node, action: returned, state, freed_bytes: 5 };
        keeper.write(vec![granted, over], COLLECTOR).await.unwrap();
    }
    let after = keeper.now_ns();
    keeper.settle(true, Some(after)).await;
    // Nobody calls the other one silent. This one is connected, and may be dead all the same.
    let places = |keeper: &Keeper| keeper.brake.places().into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(places(&keeper), std::slice::from_ref(&node));
    keeper.nodes.arrived(&node);
    keeper.settle(true, Some(after)).await;
    assert_eq!(
        (places(&keeper), keeper.brake.ledger().successes(&dogwatch::record::Hash([1; 32]))),
        (vec![], 2)
    );
    drop((session, keeper));
    store.close().await;
}
