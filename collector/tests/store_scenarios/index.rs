//! An index that is deleted, damaged, panics or hangs: the same answers afterwards, and ingest goes on meanwhile.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dogwatch::record::Severity;
use dogwatch::record::{FindingState, Stream};
use dogwatch_collector::store::decision::{Piece, What};
use dogwatch_collector::store::index::{Batch, Index, IndexError, Opener, Pair, Span};
use dogwatch_collector::store::watchdog::Deadlines;
use dogwatch_collector::store::{FindingFilter, QueryError, Store, StoreConfig, sled_index};

use crate::kit::{self, Node, SECOND, T0};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;
const PATIENCE: Duration = Duration::from_secs(60);

/// A store with some of everything.
async fn filled(config: StoreConfig) -> Store {
    let store = kit::open(config);
    for n in 1..=3u8 {
        let mut node = Node::new(&format!("n{n}"), n);
        let mut decisions = vec![
            What::TokenSpent { token: "t1".to_owned(), node: node.name.clone() },
            What::NodeEnrolled {
                node: node.name.clone(),
                signing_key: node.key_hex(),
                token: "t1".to_owned(),
            },
        ];
        for i in 0..30i64 {
            let id = format!("f-{n}-{i}");
            let wall = T0 + i * SECOND;
            store.commit(&node.finding(wall, &id, FindingState::Raised)).await.unwrap();
            if i % 2 == 0 {
                store.commit(&node.finding(wall, &id, FindingState::Cleared)).await.unwrap();
            }
            let incident = format!("inc-2026-01-01-{n}{i:02}");
            decisions.push(What::IncidentOpened {
                id: incident.clone(),
                title: "t".to_owned(),
                severity: Severity::High,
                node: node.name.clone(),
                topic: "disk:/var".to_owned(),
                reason: "r".to_owned(),
            });
            if i % 3 == 0 {
                decisions.push(What::IncidentJoined {
                    id: incident,
                    piece: Piece::Finding(id),
                    node: node.name.clone(),
                    reason: "same disk".to_owned(),
                });
            }
        }
        let decisions = decisions.into_iter().map(|w| kit::decision(T0, w)).collect();
        store.decide_all(decisions).await.unwrap();
    }
    // The indexer has nothing left to ask the engine for.
    kit::until("everything is in the index", || async { store.told(&store.mark()) }).await;
    assert_eq!(rows_of(&store).await.1, 90);
    store
}

/// What is in the index, once it answers.
async fn rows_of(store: &Store) -> (Rows, usize) {
    let begun = Instant::now();
    loop {
        let rows = match store.findings(FindingFilter::default()).await {
            Ok(findings) => store.dump().await.map(|rows| (rows, findings.len())),
            Err(error) => Err(error),
        };
        match rows {
            // Building may take longer than a question waits.
            Err(QueryError::Building) if begun.elapsed() < PATIENCE => {}
            rows => return rows.unwrap(),
        }
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test]
async fn a_deleted_truncated_or_garbled_index_is_built_anew_and_answers_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(kit::config(dir.path())).await;
    let (before, _) = rows_of(&store).await;
    store.close().await;
    let index = dir.path().join("index");

    // Untouched, it is taken as it is.
    let store = kit::open(kit::config(dir.path()));
    store.indexed(PATIENCE).await.unwrap();
    assert_eq!((store.status().index.rebuilds, store.status().index.engine), (0, "sled"));
    assert_eq!(store.status().index.folded_frames, 0);
    assert_eq!(rows_of(&store).await.0, before);
    store.close().await;

    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("the folder is gone", |i| fs::remove_dir_all(i).unwrap()),
        ("its files are gone", |i| files(i).iter().for_each(|f| fs::remove_file(f).unwrap())),
        ("its files are cut in half", |i| {
            for f in files(i) {
                let len = fs::metadata(&f).unwrap().len();
                fs::OpenOptions::new().write(true).open(&f).unwrap().set_len(len / 2).unwrap();
            }
        }),
        ("its files are empty", |i| files(i).iter().for_each(|f| fs::write(f, b"").unwrap())),
        ("its files hold other bytes", |i| {
            for f in files(i) {
                let len = fs::metadata(&f).unwrap().len() as usize;
                fs::write(&f, [0x5a, 0xc3, 0x11].repeat(len / 3 + 1)).unwrap();
            }
        }),
        ("it is a file", |i| {
            fs::remove_dir_all(i).unwrap();
            fs::write(i, b"hello").unwrap();
        }),
    ];
    for (what, harm) in harms {
        harm(&index);
        let store = kit::open(kit::config(dir.path()));
        store.indexed(PATIENCE).await.unwrap();
        let status = store.status().index;
        assert_eq!((status.engine, status.fallback), ("sled", false), "{what}: {status:?}");
        assert_eq!(rows_of(&store).await.0, before, "{what}");
        store.close().await;
    }
    // One flipped bit at a time, wherever: whatever sled makes of it, the answers are the same.
    for round in 0..6 {
        let Some(file) = files(&index).into_iter().max_by_key(|f| fs::metadata(f).unwrap().len()) else {
            break;
        };
        let mut bytes = fs::read(&file).unwrap();
        let place = bytes.len().min(64 << 10) * (round + 1) / 8;
        bytes[place] ^= 1 << round;
        fs::write(&file, bytes).unwrap();
        let store = kit::open(kit::config(dir.path()));
        store.indexed(PATIENCE).await.unwrap();
        assert_eq!(rows_of(&store).await.0, before, "flipped bit in byte {place}");
        store.close().await;
    }
    let kept: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with("index"))
        .collect();
    assert!(kept.len() <= 2, "{kept:?}");
}

#[tokio::test]
async fn an_index_of_another_store_is_not_believed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(kit::config(a.path())).await.close().await;
    let store = kit::open(kit::config(b.path()));
    let mut node = Node::new("n9", 9);
    store.commit(&node.finding(T0, "f-9", FindingState::Raised)).await.unwrap();
    kit::until("it is in the index", || async { store.finding("f-9").await.unwrap().is_some() }).await;
    let before = store.dump().await.unwrap();
    store.close().await;
    fs::remove_dir_all(b.path().join("index")).unwrap();
    fs::rename(a.path().join("index"), b.path().join("index")).unwrap();
    let store = kit::open(kit::config(b.path()));
    store.indexed(PATIENCE).await.unwrap();
    assert_eq!(store.status().index.rebuilds, 1);
    assert_eq!(store.dump().await.unwrap(), before);
    store.close().await;
}

/// An engine that does as it is told, and how often it was asked for anything.
struct Moody {
    inner: Box<dyn Index>,
    mood: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Moody {
    fn mood(&self) -> usize {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.mood.load(Ordering::SeqCst)
    }
}

const WELL: usize = 0;
const PANICS: usize = 1;
const HANGS: usize = 2;
const FAILS: usize = 3;
const LIES: usize = 4;

impl fmt::Debug for Moody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Moody")
    }
}

fn act_up(mood: usize) -> Result<(), IndexError> {
    match mood {
        PANICS => panic!("as it was told"),
        HANGS => loop {
            std::thread::park();
        },
        FAILS => Err(IndexError::Failed { what: "please", detail: "No space left on device".to_owned() }),
        _ => Ok(()),
    }
}

impl Index for Moody {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let mood = self.mood();
        act_up(mood)?;
        if mood == LIES && key[0] > 0 {
            return Ok(Some(b"not a row".to_vec()));
        }
        self.inner.get(key)
    }
    fn scan(&self, span: &Span, limit: usize) -> Result<Vec<Pair>, IndexError> {
        act_up(self.mood())?;
        self.inner.scan(span, limit)
    }
    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        act_up(self.mood())?;
        self.inner.apply(batch)
    }
    fn flush(&self) -> Result<(), IndexError> {
        // A slow disk would be another trouble than the one that it was told; what is open is whole without.
        Ok(())
    }
    fn engine(&self) -> &'static str {
        "moody"
    }
}

/// Where no engine is well.
const SHORT: Deadlines = Deadlines { open: Duration::from_millis(500), request: Duration::from_millis(300) };
/// Where one hangs while it is opened, or while it runs: its successor meets them on a slow machine too. No other trouble
/// is to be found out by time.
const HANGS_AT_OPEN: Deadlines = Deadlines { open: Duration::from_secs(15), request: kit::NEVER };
const HANGS_AT_WORK: Deadlines = Deadlines { open: Duration::from_secs(15), request: Duration::from_secs(4) };

/// sled that acts up when told to, and how often it was asked; the next one opened is well.
fn moody(mood: &Arc<AtomicUsize>) -> (Opener, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (mood, first, count) = (Arc::clone(mood), AtomicBool::new(true), Arc::clone(&asked));
    let opener: Opener = Arc::new(move |dir| {
        let mood = if first.swap(false, Ordering::SeqCst) {
            Arc::clone(&mood)
        } else {
            Arc::new(AtomicUsize::new(WELL))
        };
        let inner = sled_index::opener()(dir)?;
        Ok(Box::new(Moody { inner, mood, asked: Arc::clone(&count) }) as Box<dyn Index>)
    });
    (opener, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_acts_up_while_it_runs_is_replaced_and_commits_go_on() {
    for (name, trouble) in [("panics", PANICS), ("hangs", HANGS), ("fails", FAILS), ("lies", LIES)] {
        let dir = tempfile::tempdir().unwrap();
        let mood = Arc::new(AtomicUsize::new(WELL));
        let mut config = kit::config(dir.path());
        if trouble == HANGS {
            config.index_deadlines = HANGS_AT_WORK;
        }
        let (opener, asked) = moody(&mood);
        config.index_opener = Some(opener);
        let store = filled(config).await;
        let (before, _) = rows_of(&store).await;
        mood.store(trouble, Ordering::SeqCst);
        // Evidence takes no notice: it does not ask the engine.
        let mut node = Node::new("n8", 8);
        let asked_before = asked.load(Ordering::SeqCst);
        for i in 0..10 {
            store.commit(&node.logs(T0 + i * SECOND, 1, 100)).await.unwrap();
        }
        assert_eq!(asked.load(Ordering::SeqCst), asked_before, "{name}: a commit waited for the index");
        assert_eq!(store.status().index.rebuilds, 0, "{name}: {:?}", store.status().index);
        let begun = Instant::now();
        assert_eq!(rows_of(&store).await.0, before, "{name}");
        // A question did wait for the engine that hangs.
        let waited = begun.elapsed();
        assert!(
            trouble != HANGS || waited >= HANGS_AT_WORK.request,
            "{name}: it was answered after {waited:?}"
        );
        assert_eq!(store.status().index.rebuilds, 1, "{name}: {:?}", store.status().index);
        store.commit(&node.finding(T0, "f-later", FindingState::Raised)).await.unwrap();
        kit::until("it is in the index", || async { store.finding("f-later").await.unwrap().is_some() })
            .await;
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_acts_up_at_open_is_tried_again_then_memory_serves() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(kit::config(dir.path())).await;
    let (before, _) = rows_of(&store).await;
    store.close().await;
    for trouble in [PANICS, HANGS, FAILS] {
        let mut config = kit::config(dir.path());
        if trouble == HANGS {
            config.index_deadlines = HANGS_AT_OPEN;
        }
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        // Once only: the second attempt is well.
        config.index_opener = Some(Arc::new(move |dir| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                act_up(trouble)?;
            }
            sled_index::opener()(dir)
        }));
        let store = kit::open(config);
        store.indexed(PATIENCE).await.unwrap();
        let status = store.status().index;
        assert_eq!((status.engine, status.rebuilds, status.fallback), ("sled", 1, false), "{status:?}");
        assert_eq!(rows_of(&store).await.0, before);
        store.close().await;

        // Always: it stays in memory and says so; blocks are taken meanwhile.
        let mut config = kit::config(dir.path());
        config.index_deadlines = SHORT;
        config.index_opener = Some(Arc::new(move |dir| {
            act_up(trouble)?;
            sled_index::opener()(dir)
        }));
        let store = kit::open(config);
        let mut node = Node::new("n7", 7);
        node.set_head(Stream::Evidence, store.head(&node.chain(Stream::Evidence)).unwrap_or_default());
        store.commit(&node.logs(T0, 1, 100)).await.unwrap();
        store.indexed(PATIENCE).await.unwrap();
        let status = store.status().index;
        assert_eq!((status.engine, status.fallback), ("memory", true), "{status:?}");
        assert!(status.reason.is_some());
        assert_eq!(rows_of(&store).await.0, before);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_built_anew_while_commits_continue() {
    let dir = tempfile::tempdir().unwrap();
    let mood = Arc::new(AtomicUsize::new(WELL));
    let mut config = kit::config(dir.path());
    config.index_opener = Some(moody(&mood).0);
    let store = filled(config).await;
    let mut notices = store.committed();
    let sender = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut node = Node::new("n6", 6);
            for i in 0..300i64 {
                let id = format!("f-during-{i}");
                store.commit(&node.finding(T0 + i, &id, FindingState::Raised)).await.unwrap();
            }
        })
    };
    kit::until("some are in", || async { store.finding("f-during-50").await.is_ok_and(|f| f.is_some()) })
        .await;
    mood.store(FAILS, Ordering::SeqCst);
    sender.await.unwrap();
    kit::until("all are in", || async { store.finding("f-during-299").await.is_ok_and(|f| f.is_some()) })
        .await;
    assert_eq!(store.status().index.rebuilds, 1);
    // Each was told once, in order.
    let mut told = Vec::new();
    while told.len() < 300 {
        match tokio::time::timeout(PATIENCE, notices.recv()).await.unwrap().unwrap() {
            dogwatch_collector::store::Notice::Records { records, .. } => told.push(records[0].seq),
            dogwatch_collector::store::Notice::Decided(_) => {}
        }
    }
    assert!(told.iter().copied().eq(1..=300), "{told:?}");
    let rows = store.dump().await.unwrap();
    store.close().await;
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = kit::open(kit::config(dir.path()));
    store.indexed(PATIENCE).await.unwrap();
    assert_eq!(store.dump().await.unwrap(), rows);
    store.close().await;
}
