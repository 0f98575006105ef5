//! The fleet brake over a store: what its journal does not take, lacks or cannot tell, and an index that is behind.

use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use dogwatch::journal::{FrameKind, Journal, Options};
use dogwatch::record::{ActionState, Body, Finding, FindingState, Hash, Severity, Stream};
use dogwatch::supervise::Stop;
use dogwatch_collector::brake::{Answer, Ask, FleetBrake, Handle, Keeper, Refusal, Settings, Unknown};
use dogwatch_collector::casework::{ASK_QUEUE, Ask as CaseAsk};
use dogwatch_collector::nodes::Nodes;
use dogwatch_collector::say::Say;
use dogwatch_collector::store::decision::{Past, What};
use dogwatch_collector::store::index::{Batch, Index, IndexError, Pair, Span};
use dogwatch_collector::store::memory_index::MemoryIndex;
use dogwatch_collector::store::{DecideError, Store, StoreConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::kit::{self, Node, SECOND, T0};
use crate::questions::action;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What a note says that is damaged.
pub(crate) const HARMED: &str = "whoever reads this reads it whole";
const WATCH: Duration = Duration::from_secs(1);

/// The brake at work.
pub(crate) struct Desk {
    pub(crate) store: Store,
    pub(crate) brake: Handle,
    stop: Stop,
    work: JoinHandle<()>,
    _asks: mpsc::Receiver<CaseAsk>,
}

/// An owner that does not work yet.
pub(crate) async fn keeper(store: &Store) -> (Keeper, Handle, mpsc::Receiver<CaseAsk>) {
    keeper_watching(store, WATCH).await
}

/// One that watches a node for so long after its cleanup.
async fn keeper_watching(store: &Store, watch: Duration) -> (Keeper, Handle, mpsc::Receiver<CaseAsk>) {
    let (asks, asked) = mpsc::channel(ASK_QUEUE);
    let settings =
        Settings { watch, canary_successes: 0, max_nodes: 1, max_share: 0.0, ..Settings::default() };
    let opening = Keeper::open(store.clone(), Nodes::default(), Say::new(asks), settings);
    let (keeper, brake) = opening.await.unwrap();
    (keeper, brake, asked)
}

impl Desk {
    pub(crate) async fn start(store: Store) -> Self {
        let (keeper, brake, asked) = keeper(&store).await;
        Self::run(store, keeper, brake, asked)
    }

    async fn start_watching(store: Store, watch: Duration) -> Self {
        let (keeper, brake, asked) = keeper_watching(&store, watch).await;
        Self::run(store, keeper, brake, asked)
    }

    /// Sets an owner to work.
    pub(crate) fn run(store: Store, keeper: Keeper, brake: Handle, asked: mpsc::Receiver<CaseAsk>) -> Self {
        let stop = Stop::default();
        let work = tokio::spawn({
            let stop = stop.clone();
            async move { keeper.run(stop).await.unwrap() }
        });
        Self { store, brake, stop, work, _asks: asked }
    }

    /// Ends it, and gives the store back.
    pub(crate) async fn end(self) -> Store {
        self.stop.set();
        self.work.await.unwrap();
        self.store
    }

    /// A permit for `a-1` of n1, and the start of its cleanup if `begun`.
    pub(crate) async fn granted(&self) {
        self.asks(false).await;
    }

    /// It is asked for, or for more time, and granted.
    pub(crate) async fn asks(&self, acting: bool) {
        let (to, mut answers) = mpsc::channel(8);
        let ask = Ask {
            node: "n1".parse().unwrap(),
            action: "a-1".to_owned(),
            mount: "/var".to_owned(),
            planned_bytes: 5,
            planned_objects: 1,
            policy: Hash([1; 32]),
            severity: Severity::High,
            seconds_to_full: None,
            cleaners: Vec::new(),
            acting,
            asked_boot_ns: 0,
        };
        self.brake.ask(ask, &to);
        let (_, answer) = tokio::time::timeout(PATIENCE, answers.recv()).await.unwrap().unwrap();
        assert_eq!(answer, Answer::Granted);
    }

    pub(crate) async fn look(&self) -> FleetBrake {
        self.brake.look().await.unwrap()
    }

    pub(crate) fn tripped(&self) -> bool {
        self.brake.view().borrow().tripped
    }

    pub(crate) async fn release(&self) {
        self.brake.release("dealt with".to_owned(), "ada".to_owned(), None).await.unwrap();
    }
}

pub(crate) fn said(node: &mut Node, state: ActionState) -> dogwatch::block::Block {
    node.seal(Stream::Urgent, T0, vec![Body::Action(Box::new(action("a-1", state)))])
}

/// A bad finding; `raised` by the node's clock.
pub(crate) fn bad(node: &mut Node, state: FindingState, raised: i64) -> dogwatch::block::Block {
    let finding = Finding { rule: "crash-loop".to_owned(), ..kit::plain_finding("f-bad", state, raised) };
    node.seal(Stream::Urgent, raised, vec![Body::Finding(Box::new(finding))])
}

pub(crate) async fn enrol(store: &Store, node: &Node) {
    let what =
        What::NodeEnrolled { node: node.name.clone(), signing_key: node.key_hex(), token: "t".to_owned() };
    store.decide(kit::decision(T0, what)).await.unwrap();
}

/// Fills the truth journal until it takes nothing.
async fn fill(store: &Store) {
    for bytes in [60_000, 2_000, 100, 1] {
        let note = What::NoteAdded { id: "inc-2026-01-01-001".to_owned(), text: "x".repeat(bytes) };
        loop {
            match store.decide(kit::decision(T0, note.clone())).await {
                Ok(()) => {}
                Err(DecideError::Refused { .. }) => break,
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[tokio::test]
async fn a_stop_that_the_journal_does_not_take_is_in_force_and_a_node_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = kit::config(dir.path());
    small.truth.max_bytes = 2 << 20;
    let desk = Desk::start(kit::open(small)).await;
    fill(&desk.store).await;
    let refusal = desk.brake.pause("look".to_owned(), "ada".to_owned()).await.unwrap_err();
    assert!(matches!(&refusal, Refusal::Store(why) if why.contains("takes nothing")), "{refusal}");
    let view = desk.brake.view().borrow().clone();
    assert!(view.paused && view.not_kept.is_some(), "{view:?}");
    assert!(desk.look().await.not_kept.is_some());
    assert!(desk.brake.release("go on".to_owned(), "ada".to_owned(), None).await.is_err(), "nor does it end");
    assert!(desk.brake.view().borrow().paused);
    desk.end().await.close().await;

    // A restart forgets it. A node does not.
    let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
    assert!(!desk.brake.view().borrow().is_stopped());
    let unknown = Unknown {
        node: "n1".parse().unwrap(),
        state: Past { revision: view.revision, lineage: view.lineage },
        reason: "paused by ada: look".to_owned(),
    };
    desk.brake.unknown(Some(&unknown)).await;
    kit::until("cleanups to be stopped again", async || desk.tripped()).await;
    let stands = desk.look().await;
    let stopped = stands.ledger.tripped.unwrap();
    assert!(
        stopped.reason.contains("n1") && stopped.reason.contains("paused by ada: look"),
        "{}",
        stopped.reason
    );
    assert!(stands.ledger.revision > view.revision && stands.not_kept.is_none());
    desk.release().await;
    desk.brake.unknown(Some(&unknown)).await;
    assert!(desk.look().await.ledger.stopped().is_none(), "it was dealt with");
    desk.end().await.close().await;
}

#[tokio::test]
async fn decisions_that_are_lost_or_cannot_be_read_stop_cleanups_until_they_are_released() {
    let pause = || kit::decision(T0, What::BrakePaused { reason: "look".to_owned() });
    let release = || kit::decision(T0, What::BrakeReleased { reason: "well".to_owned(), past: Vec::new() });
    let note = |text: &str| {
        kit::decision(T0, What::NoteAdded { id: "inc-2026-01-01-001".to_owned(), text: text.to_owned() })
    };
    type Harm = fn(&Path);
    let cases: [(&str, Harm, Option<&str>); 7] = [
        ("nothing", |_| {}, None),
        ("of another kind", |dir| append(dir, "song-sung"), None),
        ("of a newer version, and of the brake", |dir| append(dir, "brake-squeezed"), Some("brake-squeezed")),
        ("all are gone", |dir| fs::remove_dir_all(dir.join("truth")).unwrap(), Some("not one decision")),
        ("the newest are gone", put_back, Some("no longer holds the newest")),
        ("damaged in the midst", damage, Some("is damaged there")),
        (
            "damaged before small segments became one",
            |dir| {
                append(dir, "song-sung");
                damage(dir);
            },
            Some("1 damaged stretches"),
        ),
    ];
    for (what, harm, why) in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = kit::open(kit::config(dir.path()));
        let mut node = Node::new("n1", 1);
        enrol(&store, &node).await;
        store.commit(&node.finding(T0, "f-1", FindingState::Raised)).await.unwrap();
        store.decide_all(vec![pause(), release()]).await.unwrap();
        store.close().await;
        copy(&dir.path().join("truth"), &dir.path().join("truth.old"));
        let store = kit::open(kit::config(dir.path()));
        store.decide_all(vec![pause(), release(), note(HARMED), note("and on")]).await.unwrap();
        kit::until("all to be in the index", async || store.told(&store.mark())).await;
        store.close().await;

        harm(dir.path());
        let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
        let stopped = desk.look().await.ledger.tripped;
        assert_eq!(stopped.is_some(), why.is_some(), "{what}: {stopped:?}");
        let (Some(stopped), Some(why)) = (stopped, why) else {
            desk.end().await.close().await;
            continue;
        };
        assert!(
            stopped.reason.contains(why) && stopped.reason.contains("brake release"),
            "{}",
            stopped.reason
        );
        desk.release().await;
        desk.end().await.close().await;
        // Whoever released it dealt with it: at the next start, and when the index is built anew.
        for _ in 0..2 {
            let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
            assert!(desk.look().await.ledger.stopped().is_none(), "{what}: again");
            desk.end().await.close().await;
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
    }
}

/// A decision that this version does not know.
pub(crate) fn append(dir: &Path, kind: &str) {
    let options = Options { segment_bytes: 1 << 20, max_segments: 64, preallocate_segments: 1 };
    let (mut journal, _) = Journal::open(&dir.join("truth"), options).unwrap();
    let frame = format!(
        r#"{{"v":1,"decision":{{"wall_ns":5,"actor":"collector","what":{{"kind":"{kind}","of":"what"}}}}}}"#
    );
    journal.append(FrameKind::Decision, frame.as_bytes(), T0).unwrap();
    journal.sync().unwrap();
    journal.close().unwrap();
}

pub(crate) fn put_back(dir: &Path) {
    fs::remove_dir_all(dir.join("truth")).unwrap();
    fs::rename(dir.join("truth.old"), dir.join("truth")).unwrap();
}

/// Flips a bit in a decision after the last release, and has all read again.
pub(crate) fn damage(dir: &Path) {
    fs::remove_dir_all(dir.join("index")).unwrap();
    flip(dir);
}

/// Flips a bit of [`HARMED`] in place, in each segment: spare ones hold old bytes.
pub(crate) fn flip(dir: &Path) {
    let wanted = HARMED.as_bytes();
    let mut harmed = 0;
    for file in fs::read_dir(dir.join("truth")).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(wanted.len()).position(|w| w == wanted) {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
            harmed += 1;
        }
    }
    assert!(harmed > 0, "it is not in the journal");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The index works; it is to be held at its next batch; it is.
pub(crate) const FREE: u8 = 0;
pub(crate) const HOLD: u8 = 1;
pub(crate) const HELD: u8 = 2;
/// It fails, and none is opened in its place until it is free.
pub(crate) const BROKEN: u8 = 3;
/// It takes one batch in, and is to be held at the one after.
pub(crate) const ARMED: u8 = 4;

/// An index that takes nothing in while it is held.
struct Held {
    inner: MemoryIndex,
    held: Arc<AtomicU8>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Index for Held {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.inner.get(key)
    }
    fn scan(&self, span: &Span, limit: usize) -> Result<Vec<Pair>, IndexError> {
        self.inner.scan(span, limit)
    }
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        if self.held.compare_exchange(ARMED, HOLD, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return self.inner.apply(batch);
        }
        let _ = self.held.compare_exchange(HOLD, HELD, Ordering::SeqCst, Ordering::SeqCst);
        if self.held.load(Ordering::SeqCst) == BROKEN {
            return Err(IndexError::Failed { what: "apply", detail: "it is broken".to_owned() });
        }
        while self.held.load(Ordering::SeqCst) != FREE {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.inner.apply(batch)
    }
    fn flush(&self) -> Result<(), IndexError> {
        self.inner.flush()
    }
    fn engine(&self) -> &'static str {
        "held"
    }
}

pub(crate) fn holding(dir: &Path) -> (StoreConfig, Arc<AtomicU8>) {
    let held = Arc::new(AtomicU8::new(FREE));
    let given = Arc::clone(&held);
    let config = StoreConfig {
        index_opener: Some(Arc::new(move |_: &Path| {
            while given.load(Ordering::SeqCst) == BROKEN {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(Box::new(Held { inner: MemoryIndex::default(), held: Arc::clone(&given) }) as Box<dyn Index>)
        })),
        // Whoever decides meanwhile does not wait for it.
        fold_patience: Duration::from_secs(5),
        ..kit::config(dir)
    };
    (config, held)
}

#[tokio::test]
async fn while_the_index_is_behind_no_watch_ends_and_what_was_acknowledged_then_still_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (config, held) = holding(dir.path());
    // The watch must not end while what was found is on its way to the disk.
    let desk = Desk::start_watching(kit::open(config), 10 * WATCH).await;
    let mut node = Node::new("n1", 1);
    desk.granted().await;
    for state in [ActionState::Started, ActionState::Done] {
        desk.store.commit(&said(&mut node, state)).await.unwrap();
    }
    kit::until("the cleanup to be over", async || {
        desk.look().await.ledger.permits.iter().any(|p| p.returned)
    })
    .await;
    held.store(HOLD, Ordering::SeqCst);
    desk.store.commit(&bad(&mut node, FindingState::Raised, T0)).await.unwrap();
    // That is said well after the watch should have ended, which nothing else shows.
    kit::until("it to be said", async || {
        let figures = desk.brake.figures();
        assert_eq!(figures.permits, 1, "it was watched for so long and nobody could see anything");
        figures.overdue == 1
    })
    .await;
    let notes = desk.look().await.notes.concat();
    assert!(notes.contains("1 nodes keep their places") && notes.contains("the index is"), "{notes}");
    held.store(FREE, Ordering::SeqCst);
    kit::until("what was found to stop everything", async || desk.tripped()).await;
    desk.end().await.close().await;
}

#[tokio::test]
async fn what_was_said_while_nobody_listened_counts_by_its_place_and_not_by_clocks() {
    for before in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
        let mut node = Node::new("n1", 1);
        enrol(&desk.store, &node).await;
        desk.granted().await;
        // The collector goes away, and comes back.
        let store = desk.end().await;
        // The node's clock says the opposite: it went an hour back, or forth.
        if before {
            store.commit(&bad(&mut node, FindingState::Raised, T0 + 3_600 * SECOND)).await.unwrap();
        }
        store.commit(&said(&mut node, ActionState::Started)).await.unwrap();
        if !before {
            store.commit(&bad(&mut node, FindingState::Raised, T0 - 3_600 * SECOND)).await.unwrap();
            store.commit(&bad(&mut node, FindingState::Cleared, T0 - 3_500 * SECOND)).await.unwrap();
        }
        kit::until("all to be in the index", async || store.told(&store.mark())).await;
        let desk = Desk::start(store).await;
        if before {
            store_says_again(&desk, &mut node).await;
            assert!(!desk.tripped(), "it was ill before");
        } else {
            kit::until("what was found to stop everything", async || desk.tripped()).await;
        }
        desk.end().await.close().await;
    }
}

#[tokio::test]
async fn what_shows_late_and_while_the_collector_was_away_stops_everything() {
    for before in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
        let mut node = Node::new("n1", 1);
        enrol(&desk.store, &node).await;
        if before {
            desk.store.commit(&bad(&mut node, FindingState::Raised, T0)).await.unwrap();
        }
        desk.granted().await;
        for state in [ActionState::Started, ActionState::Done] {
            desk.store.commit(&said(&mut node, state)).await.unwrap();
        }
        kit::until("the watch to be over", async || desk.look().await.ledger.permits.is_empty()).await;
        assert!(!desk.tripped());
        // Nobody has a permit when the collector goes away, and comes back.
        let store = desk.end().await;
        let state = if before { FindingState::Updated } else { FindingState::Raised };
        store.commit(&bad(&mut node, state, T0)).await.unwrap();
        kit::until("all to be in the index", async || store.told(&store.mark())).await;
        let desk = Desk::start(store).await;
        let stopped = desk.look().await.ledger.tripped.map(|s| s.reason);
        assert_eq!(stopped.is_some(), !before, "{stopped:?}");
        assert!(stopped.is_none_or(|why| why.contains("n1") && why.contains("crash-loop")));
        desk.end().await.close().await;
    }
}

/// The old finding is said again, and the cleanup ends well.
async fn store_says_again(desk: &Desk, node: &mut Node) {
    desk.store.commit(&bad(node, FindingState::Updated, T0)).await.unwrap();
    desk.store.commit(&said(node, ActionState::Done)).await.unwrap();
    kit::until("the watch to be over", async || desk.look().await.ledger.permits.is_empty()).await;
}

#[tokio::test]
async fn notices_that_were_missed_are_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::start(kit::open(kit::config(dir.path()))).await;
    let mut node = Node::new("n1", 1);
    desk.granted().await;
    desk.store.commit(&said(&mut node, ActionState::Started)).await.unwrap();
    kit::until("the start to be heard of", async || desk.store.told(&desk.store.mark())).await;
    let found = [bad(&mut node, FindingState::Raised, T0), bad(&mut node, FindingState::Cleared, T0)];
    let store = desk.store.clone();
    // The runtime of the brake stands still meanwhile, and more is said than waits for it.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for block in found {
                store.commit(&block).await.unwrap();
            }
            let spent = What::TokenSpent { token: "t".to_owned(), node: node.name.clone() };
            for _ in 0..10 {
                store.decide_all(vec![kit::decision(T0, spent.clone()); 1_000]).await.unwrap();
            }
        });
    })
    .join()
    .unwrap();
    kit::until("what was found to stop everything", async || desk.tripped()).await;
    desk.end().await.close().await;
}
