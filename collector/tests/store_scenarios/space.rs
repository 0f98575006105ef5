//! A disk that fills, and evidence that grows old.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::record::{FindingState, Stream};
use dogwatch_collector::store::held::HeldSpan;
use dogwatch_collector::store::{CommitError, FindingFilter, JournalConfig, Store, Stored};

use crate::kit::{self, Hands, Node, SECOND, T0};

/// A small filesystem of its own, gone with the guard.
struct Tmpfs {
    dir: PathBuf,
    _parent: tempfile::TempDir,
}

impl Tmpfs {
    fn of(bytes: u64) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("fs");
        fs::create_dir(&dir).unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount(
            "tmpfs",
            &dir,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("this test mounts a tmpfs and so needs root");
        Self { dir, _parent: parent }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH);
    }
}

fn fill(path: &Path, bytes: u64) {
    let mut left = bytes;
    let mut file = fs::File::create(path).unwrap();
    while left > 0 {
        let n = left.min(1 << 20);
        std::io::Write::write_all(&mut file, &vec![1; n as usize]).unwrap();
        left -= n;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_blocks_keeps_what_was_acked_and_resumes() {
    let disk = Tmpfs::of(40 << 20);
    let mut config = kit::config(&disk.dir.join("store"));
    config.reserve_free_bytes = 8 << 20;
    let store = kit::open(config.clone());
    let mut node = Node::new("n1", 1);
    let mut acked = 0;
    let refused = loop {
        let block = node.logs(T0 + acked * 200 * SECOND, 100, 2000);
        match store.commit(&block).await {
            Ok(_) => acked += 1,
            Err(e) => break (block, e),
        }
        assert!(acked < 1000, "the disk never fills");
    };
    assert!(matches!(refused.1, CommitError::Full { .. }), "{:?}", refused.1);
    assert!(!store.status().streams[1].accepting);
    // The reserve is there for decisions.
    let free = dogwatch_collector::store::space::free_bytes(&disk.dir).unwrap();
    assert!(free > 4 << 20, "{free} bytes are left of a reserve of 8 MiB");
    let note = dogwatch_collector::store::decision::What::NoteAdded { id: "x".into(), text: "y".into() };
    store.decide(kit::decision(T0, note)).await.unwrap();
    // Somebody else takes all that is left.
    fill(&disk.dir.join("other"), free - (1 << 20));
    assert!(matches!(store.commit(&refused.0).await, Err(CommitError::Full { .. })));
    assert_eq!(kit::seqs(&store, &node.name, Stream::Evidence).await.len() as i64, acked * 100);
    fs::remove_file(disk.dir.join("other")).unwrap();
    assert!(matches!(store.commit(&refused.0).await, Err(CommitError::Full { .. })), "hysteresis");
    store.close().await;

    // More room: it goes on where it stood.
    let options = std::ffi::CString::new("size=80m").unwrap();
    rustix::mount::mount_remount(&disk.dir, rustix::mount::MountFlags::empty(), options.as_c_str()).unwrap();
    let store = kit::open(config);
    assert_eq!(store.commit(&refused.0).await.unwrap().stored, Stored::Now);
    assert_eq!(kit::seqs(&store, &node.name, Stream::Evidence).await.len() as i64, (acked + 1) * 100);
    store.close().await;
}

#[tokio::test]
async fn a_disk_that_runs_full_under_the_journal_loses_nothing_acked() {
    let disk = Tmpfs::of(24 << 20);
    let config = kit::config(&disk.dir.join("store"));
    let store = kit::open(config.clone());
    let mut node = Node::new("n1", 1);
    let mut acked = 0;
    let last = loop {
        let block = node.logs(T0 + acked * 200 * SECOND, 100, 2000);
        match store.commit(&block).await {
            Ok(_) => acked += 1,
            Err(CommitError::Unavailable { .. } | CommitError::Full { .. }) => break block,
            Err(e) => panic!("{e}"),
        }
        assert!(acked < 1000, "the disk never fills");
    };
    let options = std::ffi::CString::new("size=60m").unwrap();
    rustix::mount::mount_remount(&disk.dir, rustix::mount::MountFlags::empty(), options.as_c_str()).unwrap();
    kit::until("the journal is open again", || async { store.commit(&last).await.is_ok() }).await;
    assert_eq!(kit::seqs(&store, &node.name, Stream::Evidence).await.len() as i64, (acked + 1) * 100);
    store.close().await;
    let store = kit::open(config);
    assert_eq!(kit::seqs(&store, &node.name, Stream::Evidence).await.len() as i64, (acked + 1) * 100);
    store.close().await;
}

async fn numbers(store: &Store, node: &Node) -> Vec<u64> {
    kit::seqs(store, &node.name, Stream::Evidence).await.into_iter().map(|(_, seq)| seq).collect()
}

#[tokio::test]
async fn size_drops_the_oldest_segments_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = kit::config(dir.path());
    config.evidence = JournalConfig { segment_bytes: 1 << 20, max_bytes: 4 << 20, max_age: None };
    let store = kit::open(config.clone());
    let mut node = Node::new("n1", 1);
    for i in 0..60 {
        let block = node.logs(T0 + i * 200 * SECOND, 100, 2000);
        store.commit(&block).await.unwrap();
    }
    kit::until("segments expire", || async { store.status().streams[1].segments <= 4 }).await;
    let have = numbers(&store, &node).await;
    assert!(have.len() < 3000 && have.last() == Some(&6000), "{} records are left", have.len());
    assert!(have.iter().copied().eq(have[0]..=6000), "the rest is whole");
    store.close().await;
    let store = kit::open(config);
    assert_eq!(numbers(&store, &node).await, have);
    // A block from before everything that is kept is acked: the receipt speaks of the head.
    let old = Node::new("n1", 1).logs(T0, 100, 2000);
    assert_eq!(store.commit(&old).await.unwrap().head, node.head(Stream::Evidence));
    store.close().await;
    let audit = dogwatch_collector::store::audit::verify(
        dir.path(),
        dogwatch_collector::store::audit::given([format!("n1={}", node.key_hex()).as_str()]).unwrap(),
    )
    .unwrap();
    assert!(audit.is_clean(), "{:?}", audit.report.problems);
}

#[tokio::test]
async fn age_goes_by_receipt_and_rows_go_with_their_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = kit::config(dir.path());
    config.urgent.max_age = Some(Duration::from_secs(100));
    let hands = Hands::new();
    let (store, _) = kit::open_with(config.clone(), &hands);
    let mut node = Node::new("n1", 1);
    // The node's clock says whatever it likes.
    let ids: Vec<String> = (0..2000).map(|i| format!("f-{i:016x}")).collect();
    for (i, id) in ids.iter().enumerate() {
        if i == 1000 {
            hands.forward(90 * SECOND);
        }
        let body = kit::finding(id, FindingState::Raised, T0 - 1_000_000 * SECOND);
        let block = node.seal(Stream::Urgent, T0, vec![body, kit::log(i, 900)]);
        store.commit(&block).await.unwrap();
        if i == 5 || i == 1995 {
            // One that lives from the first segment to the last.
            let block = node.finding(T0, "f-long", FindingState::Updated);
            store.commit(&block).await.unwrap();
        }
    }
    store.indexed(Duration::from_secs(30)).await.unwrap();
    kit::until("everything is folded", || async { store.finding(&ids[1999]).await.unwrap().is_some() }).await;
    assert_eq!(store.finding("f-long").await.unwrap().unwrap().steps.len(), 2);
    hands.forward(20 * SECOND);
    // The record goes first, the row with its steps a moment later.
    kit::until("the oldest rows are gone", || async {
        store.finding(&ids[0]).await.unwrap().is_none()
            && store.finding("f-long").await.unwrap().is_some_and(|f| f.steps.len() == 1)
    })
    .await;
    let long = store.finding("f-long").await.unwrap().unwrap();
    assert_eq!((long.steps.len(), long.count), (1, 1), "only the step that is still there");
    assert!(store.finding(&ids[1999]).await.unwrap().is_some());
    let rows = store.dump().await.unwrap();
    assert!(store.findings(FindingFilter::default()).await.unwrap().len() < 1995);
    store.close().await;

    // An index built from what is left is the same, byte for byte.
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let (store, _) = kit::open_with(config, &hands);
    store.indexed(Duration::from_secs(30)).await.unwrap();
    assert_eq!(store.dump().await.unwrap(), rows);
    store.close().await;
}

fn held(node: &Node, from_wall_ns: i64, to_wall_ns: i64) -> HeldSpan {
    HeldSpan {
        hold: "hold-00000001".to_owned(),
        nodes: [node.name.clone()].into(),
        from_wall_ns,
        received_from_wall_ns: from_wall_ns,
        to_wall_ns,
    }
}

#[tokio::test]
async fn what_is_held_outlives_size_and_age_until_it_fills_twice_its_journal() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = kit::config(dir.path());
    let max_age = Some(Duration::from_secs(50));
    config.evidence = JournalConfig { segment_bytes: 1 << 20, max_bytes: 4 << 20, max_age };
    let hands = Hands::new();
    let (store, _) = kit::open_with(config.clone(), &hands);
    let (mut node, mut other) = (Node::new("n1", 1), Node::new("n2", 2));
    // By the node's own clock, which lives a year ago.
    let then = T0 - 365 * 86_400 * SECOND;
    for i in 0..5 {
        store.commit(&node.logs(then + i * 200 * SECOND, 100, 2000)).await.unwrap();
    }
    let first = numbers(&store, &node).await;
    store.keep_spans(vec![held(&node, then, then + 1_000 * SECOND)]);
    hands.forward(1_000 * SECOND);
    let mut stored = 0;
    let refused = loop {
        let block = other.logs(T0 + stored * 200 * SECOND, 100, 2000);
        match store.commit(&block).await {
            Ok(_) => stored += 1,
            Err(e) => break (block, e),
        }
        hands.forward(100 * SECOND);
        assert!(stored < 200, "the journal grows without an end");
    };
    let CommitError::Held { segments, by } = &refused.1 else { panic!("{:?}", refused.1) };
    assert_eq!((*segments, by.as_str()), (8, "hold-00000001"), "twice its four");
    let stats = store.status().streams[1].clone();
    assert!(!stats.accepting && stats.refusing.unwrap().contains("hold-00000001"));
    assert_eq!((stats.held_segments > 0, stats.held_by.as_deref()), (true, Some("hold-00000001")));
    assert_eq!(numbers(&store, &node).await, first, "all that is held is there");
    assert_eq!(numbers(&store, &other).await.len() as i64, stored * 100, "and all that was acked");
    // Another stream goes on.
    store.commit(&node.finding(T0, "f-1", FindingState::Raised)).await.unwrap();
    store.close().await;

    // Until somebody says what is held nothing goes, also after a restart.
    config.expires_once_told = true;
    let (store, _) = kit::open_with(config, &hands);
    assert!(matches!(store.commit(&refused.0).await, Err(CommitError::Held { .. })));
    assert_eq!(numbers(&store, &node).await, first);
    store.keep_spans(Vec::new());
    kit::until("there is room again", || async { store.commit(&refused.0).await.is_ok() }).await;
    assert!(store.status().streams[1].segments <= 4);
    assert!(numbers(&store, &node).await.is_empty(), "let go, it is as old as it is");
    store.close().await;
}
