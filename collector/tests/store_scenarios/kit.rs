//! Nodes that seal, and stores to send to.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use dogwatch::block::{Block, Place, Start};
use dogwatch::chain::{ChainId, Head, HeadStatement, SignedHead};
use dogwatch::record::{
    Body, Finding, FindingState, Hash, Incarnation, LogLine, Moment, NodeName, Record, Seq, Severity, Stream,
    Subject,
};
use dogwatch_collector::store::decision::{Decision, What};
use dogwatch_collector::store::watchdog::Deadlines;
use dogwatch_collector::store::{JournalConfig, OpenReport, Store, StoreConfig};
use ed25519_dalek::SigningKey;

pub(crate) const SECOND: i64 = 1_000_000_000;
pub(crate) const T0: i64 = 1_790_000_000 * SECOND;

/// A node: seals blocks of its chains.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) incarnation: Incarnation,
    pub(crate) key: SigningKey,
    heads: [Head; 3],
    blocks: [u64; 3],
}

impl Node {
    pub(crate) fn new(name: &str, incarnation: u8) -> Self {
        Self {
            name: name.parse().unwrap(),
            incarnation: Incarnation([incarnation; 16]),
            key: SigningKey::from_bytes(&[incarnation; 32]),
            heads: [Head::default(); 3],
            blocks: [0; 3],
        }
    }

    pub(crate) fn chain(&self, stream: Stream) -> ChainId {
        ChainId { node: self.name.clone(), incarnation: self.incarnation, stream }
    }

    pub(crate) fn head(&self, stream: Stream) -> Head {
        self.heads[stream.index()]
    }

    pub(crate) fn set_head(&mut self, stream: Stream, head: Head) {
        self.heads[stream.index()] = head;
    }

    /// Seals `bodies`, one second apart from `wall_ns` on.
    pub(crate) fn seal(&mut self, stream: Stream, wall_ns: i64, bodies: Vec<Body>) -> Block {
        let head = self.heads[stream.index()];
        let first = head.last_seq + 1;
        let records: Vec<Record> = bodies
            .into_iter()
            .enumerate()
            .map(|(i, body)| Record {
                seq: first + i as u64,
                at: Moment {
                    wall_ns: wall_ns + i as i64 * SECOND,
                    boot_ns: (wall_ns - T0 + SECOND) as u64 + i as u64 * SECOND as u64,
                },
                body,
            })
            .collect();
        let start = (head.last_seq == 0).then(|| Start {
            counter: 1,
            boot_id: [1; 16],
            predecessor: None,
            agent_version: "0.1.0".to_owned(),
        });
        let place = Place {
            node: self.name.clone(),
            incarnation: self.incarnation,
            stream,
            previous: head.hash,
            start,
            receipt: None,
        };
        let block = Block::seal(place, &records, &mut || [9; 16]).unwrap();
        self.heads[stream.index()] = Head { last_seq: block.header().last_seq, hash: block.hash() };
        self.blocks[stream.index()] += 1;
        block
    }

    pub(crate) fn logs(&mut self, wall_ns: i64, lines: usize, len: usize) -> Block {
        let bodies = (0..lines).map(|i| log(i, len)).collect();
        self.seal(Stream::Evidence, wall_ns, bodies)
    }

    pub(crate) fn finding(&mut self, wall_ns: i64, id: &str, state: FindingState) -> Block {
        self.seal(Stream::Urgent, wall_ns, vec![finding(id, state, wall_ns)])
    }

    pub(crate) fn signed_head(&self, stream: Stream) -> SignedHead {
        let statement = HeadStatement {
            chain: self.chain(stream),
            head: self.head(stream),
            wall_ns: T0,
            blocks: self.blocks[stream.index()],
        };
        SignedHead::sign(&statement, &self.key)
    }

    pub(crate) fn key_hex(&self) -> String {
        Hash(*self.key.verifying_key().as_bytes()).to_string()
    }
}

/// A line that does not compress.
pub(crate) fn log(i: usize, len: usize) -> Body {
    let mut x = i as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let line = (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect();
    Body::Log(LogLine {
        source: "/var/log/app.log".to_owned(),
        offset: i as u64,
        inode: 7,
        line,
        truncated: false,
        rules: vec!["error".to_owned()],
        ..LogLine::default()
    })
}

pub(crate) fn finding(id: &str, state: FindingState, wall_ns: i64) -> Body {
    Body::Finding(Box::new(plain_finding(id, state, wall_ns)))
}

pub(crate) fn plain_finding(id: &str, state: FindingState, wall_ns: i64) -> Finding {
    Finding {
        id: id.to_owned(),
        rule: "disk-high-water".to_owned(),
        severity: Severity::High,
        state,
        subject: Subject::new("mount", "/var"),
        summary: format!("{id} is {}", state.as_str()),
        explanation: "because".to_owned(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns: wall_ns,
        pod: None,
    }
}

pub(crate) fn decision(wall_ns: i64, what: What) -> Decision {
    Decision { wall_ns, actor: "collector".to_owned(), what }
}

/// A clock that tests move.
#[derive(Clone)]
pub(crate) struct Hands(Arc<AtomicI64>);

impl Hands {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(T0)))
    }
    pub(crate) fn forward(&self, ns: i64) {
        self.0.fetch_add(ns, Ordering::SeqCst);
    }
    pub(crate) fn clock(&self) -> dogwatch_collector::store::Clock {
        let hands = self.0.clone();
        Arc::new(move || hands.load(Ordering::SeqCst))
    }
}

/// Longer than any machine is slow: tests that are about one set their own.
pub(crate) const NEVER: Duration = Duration::from_secs(120);

pub(crate) fn config(dir: &Path) -> StoreConfig {
    let journal = JournalConfig { segment_bytes: 1 << 20, max_bytes: 64 << 20, max_age: None };
    StoreConfig {
        urgent: journal,
        evidence: journal,
        recorder: journal,
        truth: journal,
        preallocate_segments: 1,
        reserve_free_bytes: 0,
        index_deadlines: Deadlines { open: NEVER, request: NEVER },
        fold_patience: NEVER,
        ..StoreConfig::new(dir)
    }
}

pub(crate) fn receipt_key() -> SigningKey {
    SigningKey::from_bytes(&[42; 32])
}

pub(crate) fn open(config: StoreConfig) -> Store {
    open_with(config, &Hands::new()).0
}

pub(crate) fn open_with(config: StoreConfig, hands: &Hands) -> (Store, OpenReport) {
    Store::open(config, receipt_key(), hands.clock()).unwrap()
}

/// Waits until `done` says so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every evidence seq of a node as the store gives it.
pub(crate) async fn seqs(store: &Store, node: &NodeName, stream: Stream) -> Vec<(Incarnation, Seq)> {
    let mut events = store.events(dogwatch_collector::store::events::EventQuery {
        nodes: vec![node.clone()],
        streams: vec![stream],
        ..Default::default()
    });
    let mut seqs = Vec::new();
    while let Some(event) = events.recv().await {
        let event = event.unwrap();
        seqs.push((event.chain.incarnation, event.record.seq));
    }
    seqs
}
