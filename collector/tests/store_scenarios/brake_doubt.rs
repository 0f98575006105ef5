//! The fleet brake in doubt: nodes that were away for long or lie, a collector that is killed at its start, decisions that
//! become unreadable while it runs, and stops that overtake everything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dogwatch_collector::brake::{Ledger, Refusal, Unknown};
use dogwatch_collector::store::decision::{Past, What};
use dogwatch_collector::store::index::Opener;
use dogwatch_collector::store::{Store, StoreConfig, sled_index};

use crate::brake::{
    BROKEN, Desk, FREE, HARMED, HELD, HOLD, PATIENCE, append, copy, damage, enrol, flip, holding, keeper,
    put_back,
};
use crate::kit::{self, Node, T0};

fn pause() -> What {
    What::BrakePaused { reason: "look".to_owned() }
}

fn release() -> What {
    What::BrakeReleased { reason: "well".to_owned(), past: Vec::new() }
}

fn note(text: &str) -> What {
    What::NoteAdded { id: "inc-2026-01-01-001".to_owned(), text: text.to_owned() }
}

fn unknown(node: &str, revision: u64, lineage: u64) -> Unknown {
    let state = Past { revision, lineage };
    Unknown { node: node.parse().unwrap(), state, reason: "paused by ada: look".to_owned() }
}

#[tokio::test]
async fn a_node_that_was_away_for_hundreds_of_stops_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let mut ledger = Ledger::default();
    let mut told = Vec::new();
    let mut decisions = Vec::new();
    for i in 0..400 {
        for what in [pause(), release()] {
            let decision = kit::decision(T0 + i, what);
            ledger.apply(&decision);
            told.push(*ledger.told.last().unwrap());
            decisions.push(decision);
        }
    }
    store.decide_all(decisions).await.unwrap();
    let mut desk = Desk::start(store).await;
    for again in ["while it runs", "after a restart", "with an index that is built anew"] {
        for state in [told[0], told[2], told[398], told[798]] {
            let node = Unknown { state, ..unknown("away", 0, 0) };
            desk.brake.unknown(Some(&node)).await;
            let view = desk.brake.view();
            kit::until("it to be known", async || view.borrow().knows(state) || view.borrow().tripped).await;
            assert!(!desk.tripped(), "{again}: it was told that, long ago");
        }
        let store = desk.end().await;
        store.close().await;
        if again == "after a restart" {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        desk = Desk::start(kit::open(kit::config(dir.path()))).await;
    }
    // One that was never told is another matter, however old its number is.
    desk.brake.unknown(Some(&unknown("n2", told[0].revision, told[0].lineage ^ 1))).await;
    kit::until("that to stop everything", async || desk.tripped()).await;
    desk.end().await.close().await;
}

#[tokio::test]
async fn one_node_that_lies_stops_the_fleet_once_and_not_after_each_release() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::start(kit::open(kit::config(dir.path()))).await;
    desk.brake.unknown(Some(&unknown("liar", 5, 1))).await;
    kit::until("its word to be taken once", async || desk.tripped()).await;
    let notes = desk.look().await.notes.concat();
    assert!(notes.contains("if liar alone says so") && notes.contains("stop the agent on liar"), "{notes}");
    desk.release().await;
    for lineage in 1..4 {
        desk.brake.unknown(Some(&unknown("liar", 9, lineage))).await;
        if lineage == 2 {
            desk.end().await.close().await;
            desk = Desk::start(kit::open(kit::config(dir.path()))).await;
            desk.brake.unknown(Some(&unknown("liar", 9, lineage))).await;
        }
        kit::until("it to be said", async || {
            assert!(!desk.tripped(), "{lineage}: nobody else says so");
            desk.look().await.notes.concat().contains("node liar alone stays stopped")
        })
        .await;
    }
    // A release deals with it, though all others were never stopped.
    desk.release().await;
    let view = desk.brake.view().borrow().clone();
    assert!(view.knows(Past { revision: 9, lineage: 3 }) && view.revision > 9 && !view.is_stopped());
    assert!(matches!(
        desk.brake.release("again".to_owned(), "ada".to_owned(), None).await,
        Err(Refusal::Open)
    ));
    // What another one says, too, is believed.
    desk.brake.unknown(Some(&unknown("liar", 30, 7))).await;
    desk.brake.unknown(Some(&unknown("n2", 30, 7))).await;
    kit::until("two to be believed", async || desk.tripped()).await;
    desk.end().await.close().await;
}

#[tokio::test]
async fn doubt_outlives_a_collector_that_is_killed_before_it_wrote_anything() {
    type Harm = fn(&Path);
    let cases: [(&str, Harm, &str); 3] = [
        ("all are gone", |dir| fs::remove_dir_all(dir.join("truth")).unwrap(), "not one decision"),
        ("the newest are gone", put_back, "no longer holds the newest"),
        (
            "damaged before small segments became one",
            |dir| {
                append(dir, "song-sung");
                damage(dir);
            },
            "damaged stretches",
        ),
    ];
    for (what, harm, why) in cases {
        let first = tempfile::tempdir().unwrap();
        let store = kit::open(kit::config(first.path()));
        let node = &mut Node::new("n1", 1);
        enrol(&store, node).await;
        let finding = node.finding(T0, "f-1", dogwatch::record::FindingState::Raised);
        store.commit(&finding).await.unwrap();
        let decide = |what| kit::decision(T0, what);
        store.decide_all(vec![decide(pause()), decide(release())]).await.unwrap();
        store.close().await;
        copy(&first.path().join("truth"), &first.path().join("truth.old"));
        let store = kit::open(kit::config(first.path()));
        let more = [pause(), release(), note(HARMED), note("and on")].map(decide);
        store.decide_all(more.to_vec()).await.unwrap();
        kit::until("all to be in the index", async || store.told(&store.mark())).await;
        store.close().await;
        harm(first.path());

        // What is on the disk when it is killed, at each step of its start: the next one finds that alone.
        let mut at = first;
        for step in ["opened", "moved aside", "indexed", "taken up", "decided by others"] {
            let killed = tempfile::tempdir().unwrap();
            let opening = match step {
                "opened" => 1,
                "moved aside" => 2,
                _ => 0,
            };
            let (config, held) = holding_at_opening(opening, at.path());
            let store = kit::open(config);
            if opening > 0 {
                // Where there was no index, none is moved aside.
                kit::until("it to come so far", async || {
                    held.load(Ordering::SeqCst) == HELD || (opening > 1 && store.answers())
                })
                .await;
            } else {
                store.indexed(PATIENCE).await.unwrap();
            }
            let owner = if matches!(step, "taken up" | "decided by others") {
                Some(keeper(&store).await)
            } else {
                None
            };
            if step == "decided by others" {
                enrol(&store, node).await;
                kit::until("it to be in the index", async || store.told(&store.mark())).await;
            }
            copy_as_it_lies(at.path(), killed.path());
            held.store(FREE, Ordering::SeqCst);
            drop(owner);
            store.close().await;
            at = killed;
        }
        let desk = Desk::start(kit::open(kit::config(at.path()))).await;
        let stopped = desk.look().await.ledger.tripped.unwrap_or_else(|| panic!("{what}: it was forgotten"));
        assert!(stopped.reason.contains(why), "{what}: {}", stopped.reason);
        kit::until("it to be kept", async || desk.look().await.not_kept.is_none()).await;
        desk.release().await;
        desk.end().await.close().await;
        let desk = Desk::start(kit::open(kit::config(at.path()))).await;
        assert!(desk.look().await.ledger.stopped().is_none(), "{what}: it was dealt with");
        desk.end().await.close().await;
    }
}

/// A store in `dir` whose indexer is held when it opens an index for the `nth` time, until it is free.
fn holding_at_opening(nth: usize, dir: &Path) -> (StoreConfig, Arc<AtomicU8>) {
    let held = Arc::new(AtomicU8::new(HOLD));
    let (given, openings) = (Arc::clone(&held), AtomicUsize::new(0));
    let opener: Opener = Arc::new(move |dir| {
        if openings.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            let _ = given.compare_exchange(HOLD, HELD, Ordering::SeqCst, Ordering::SeqCst);
            while given.load(Ordering::SeqCst) != FREE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        sled_index::opener()(dir)
    });
    (StoreConfig { index_opener: Some(opener), ..kit::config(dir) }, held)
}

/// What a folder holds: paths within it, and the bytes of what is a file.
type Content = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What a collector that runs has on its disk, at one moment: what is read twice in a row was so in between. What is read
/// but once may be of two moments, and no kill leaves that.
fn copy_as_it_lies(from: &Path, to: &Path) {
    let begun = Instant::now();
    let mut before = None;
    let content = loop {
        let mut content = Content::new();
        let read = match read_all(from, Path::new(""), &mut content) {
            Ok(()) => Some(content),
            // It was moved aside meanwhile.
            Err(gone) if gone.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("cannot read {}: {error}", from.display()),
        };
        match (before, read) {
            (Some(before), Some(read)) if before == read => break read,
            (_, read) => before = read,
        }
        assert!(begun.elapsed() < PATIENCE, "{} is never twice the same", from.display());
    };
    // A folder comes before what is in it.
    for (path, bytes) in content {
        match bytes {
            Some(bytes) => fs::write(to.join(path), bytes).unwrap(),
            None => fs::create_dir(to.join(path)).unwrap(),
        }
    }
}

fn read_all(root: &Path, within: &Path, content: &mut Content) -> io::Result<()> {
    for entry in fs::read_dir(root.join(within))? {
        let entry = entry?;
        let path = within.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            read_all(root, &path, content)?;
            content.insert(path, None);
        } else {
            content.insert(path, Some(fs::read(entry.path())?));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_decision_that_becomes_unreadable_while_the_collector_runs_stops_cleanups_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (config, held) = holding(dir.path());
    let desk = Desk::start(kit::open(config)).await;
    for order in ["one", "two"] {
        desk.brake.pause(order.to_owned(), "ada".to_owned()).await.unwrap();
        desk.release().await;
    }
    desk.granted().await;
    kit::until("all to be in the index", async || desk.store.told(&desk.store.mark())).await;
    held.store(HOLD, Ordering::SeqCst);
    let decide = |text| kit::decision(T0, note(text));
    // What is decided waits for its row, which does not come.
    let store = desk.store.clone();
    let first = tokio::spawn(async move { store.decide(kit::decision(T0, note("first"))).await });
    kit::until("the index to be held", async || held.load(Ordering::SeqCst) == HELD).await;
    let store = desk.store.clone();
    let rest = vec![decide(HARMED), decide("and on")];
    let rest = tokio::spawn(async move { store.decide_all(rest).await });
    for job in [first, rest] {
        job.await.unwrap().unwrap();
    }
    flip(dir.path());
    let before = desk.brake.view().borrow().clone();
    assert!(!before.is_stopped());
    held.store(FREE, Ordering::SeqCst);
    kit::until("that to stop everything", async || desk.tripped()).await;
    kit::until("it to be kept", async || desk.brake.view().borrow().not_kept.is_none()).await;
    let view = desk.brake.view().borrow().clone();
    let stands = desk.look().await;
    assert!(view.reason.contains("changed while the collector ran"), "{}", view.reason);
    assert!(view.revision > before.revision && stands.ledger.tripped.is_some());
    let index = desk.store.brake().await.unwrap();
    assert_eq!((index.revision, index.lineage), (view.revision, view.lineage), "one fold, here and there");
    assert_eq!(stands.ledger.permits.len(), 1, "what is out is still known");
    desk.release().await;
    assert!(!desk.brake.view().borrow().is_stopped());
    desk.end().await.close().await;
    let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
    assert!(!desk.tripped(), "it was dealt with");
    desk.end().await.close().await;
}

/// Lets spawned tasks come to where they wait; the runtime has this thread alone.
async fn others() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stop_overtakes_whatever_waits_and_a_release_that_it_overtook_does_not_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let store: Store = kit::open(kit::config(dir.path()));
    store.decide(kit::decision(T0, pause())).await.unwrap();
    kit::until("all to be in the index", async || store.told(&store.mark())).await;
    // The owner waits for a disk.
    let (owner, brake, asked) = keeper(&store).await;
    let early = brake.clone();
    let early = tokio::spawn(async move { early.release("well".to_owned(), "bob".to_owned(), None).await });
    others().await;
    let mut queued = Vec::new();
    for i in 0..600 {
        let brake = brake.clone();
        queued.push(tokio::spawn(async move {
            if i % 2 == 0 {
                drop(brake.look().await);
            } else {
                // It is known, and stops nobody.
                brake.unknown(Some(&unknown(&format!("n{i}"), 1, 0))).await;
            }
        }));
    }
    others().await;
    let tripping = brake.clone();
    let trip =
        tokio::spawn(async move { tripping.trip("wrong".to_owned(), None, None, "ada".to_owned()).await });
    others().await;
    // Nobody waits for ever, and nobody can fill the way of stops.
    let mut more = Vec::new();
    for _ in 0..100 {
        let brake = brake.clone();
        more.push(tokio::spawn(async move { brake.pause("too".to_owned(), "eve".to_owned()).await }));
    }
    others().await;
    assert!(more.iter().any(tokio::task::JoinHandle::is_finished), "what finds no room is refused at once");
    assert!(brake.view().borrow().is_stopped());
    let desk = Desk::run(store, owner, brake, asked);
    let stands = tokio::time::timeout(PATIENCE, trip).await.unwrap().unwrap().unwrap();
    assert!(stands.ledger.tripped.is_some());
    let refused = tokio::time::timeout(PATIENCE, early).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(&refused, Refusal::Overtaken(why) if why.contains("wrong")), "{refused}");
    assert!(desk.tripped(), "what it overtook does not end it");
    for job in more {
        drop(tokio::time::timeout(PATIENCE, job).await.unwrap().unwrap());
    }
    for job in queued {
        tokio::time::timeout(Duration::from_secs(60), job).await.unwrap().unwrap();
    }
    desk.end().await.close().await;
}

#[tokio::test]
async fn a_stop_is_told_while_everything_else_waits() {
    let dir = tempfile::tempdir().unwrap();
    let store = kit::open(kit::config(dir.path()));
    let (owner, brake, asked) = keeper(&store).await;
    let mut queued = Vec::new();
    for _ in 0..300 {
        let brake = brake.clone();
        queued.push(tokio::spawn(async move { brake.look().await.is_ok() }));
    }
    others().await;
    let order = brake.clone();
    let pausing = tokio::spawn(async move { order.pause("now".to_owned(), "ada".to_owned()).await });
    others().await;
    assert!(brake.view().borrow().paused, "nodes hear it at once");
    let desk = Desk::run(store, owner, brake, asked);
    assert!(pausing.await.unwrap().unwrap().ledger.paused.is_some());
    for job in queued {
        assert!(job.await.unwrap());
    }
    desk.end().await.close().await;
}

#[tokio::test]
async fn a_node_whose_word_cannot_be_looked_up_yet_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (config, held) = holding(dir.path());
    let desk = Desk::start(kit::open(config)).await;
    desk.granted().await;
    held.store(BROKEN, Ordering::SeqCst);
    desk.store.decide(kit::decision(T0, note("it is met by this"))).await.unwrap();
    kit::until("the index to be built anew", async || !desk.store.answers()).await;
    for n in 0..100 {
        desk.brake.unknown(Some(&unknown(&format!("n{n}"), 5, n))).await;
    }
    // What is under way ends unless it hears of its permit in time.
    let soon = Duration::from_secs(8);
    for turn in 0..3 {
        let renewed = async {
            desk.asks(true).await;
            desk.look().await
        };
        let stands = tokio::time::timeout(soon, renewed).await;
        let notes = stands.unwrap_or_else(|_| panic!("{turn}: nobody is served")).notes.concat();
        assert!(turn == 0 || notes.contains("still looked up"), "{notes}");
    }
    assert!(!desk.tripped());
    held.store(FREE, Ordering::SeqCst);
    kit::until("what nobody knows to stop everything", async || desk.tripped()).await;
    desk.end().await.close().await;
}

#[tokio::test]
async fn a_node_that_makes_stops_up_without_end_keeps_nobody_from_a_permit() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
    desk.brake.unknown(Some(&unknown("liar", 5, 1))).await;
    kit::until("its word to be taken once", async || desk.tripped()).await;
    desk.release().await;
    let flood = {
        let brake = desk.brake.clone();
        tokio::spawn(async move {
            for lineage in 2.. {
                brake.unknown(Some(&unknown("liar", 9, lineage))).await;
            }
        })
    };
    kit::until("it to be heard", async || !desk.look().await.notes.is_empty()).await;
    desk.granted().await;
    assert!(!desk.tripped() && !flood.is_finished());
    flood.abort();
    desk.end().await.close().await;
}
