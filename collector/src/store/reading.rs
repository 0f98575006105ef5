//! Reading: the newest records of many findings and actions, each block opened once.
//!
//! A block may hold tens of thousands of records and takes some 100 ms to open, and whoever fills two of them chooses in
//! which order a list meets them. So rows are read in order of where they stand, and put in the list's order afterwards.
//!
//! Where nobody waits for one answer ([`Reading::sparing`]) each node has a measure: blocks of [`MOST_OF_NODE`] bytes are
//! opened. From the first on that goes beyond it no more of the same node are read, however small: a thousand blocks that
//! are read to learn how large they are cost as much as if they were opened. What lies in them is taken for not readable
//! this time.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use dogwatch::block::Block;
use dogwatch::journal::Position;
use dogwatch::record::{Body, Kinds, NodeName, Record, Stream};

use super::Inner;
use super::view::Life;

/// Raw bytes of one node's blocks that are opened where it has a measure: sixteen of the largest, and hundreds of those
/// that an agent seals.
const MOST_OF_NODE: u64 = 128 * 1024 * 1024;

/// Opens blocks and remembers the last one.
pub(super) struct Reading<'a> {
    inner: &'a Inner,
    /// Where it stands, and what is in it where that can be read.
    last: Option<(Position, Option<Vec<Record>>)>,
    most: u64,
    spent: HashMap<NodeName, u64>,
    /// Nodes of which no more is read.
    full: HashSet<NodeName>,
    /// How many were opened.
    pub(super) opened: usize,
    /// How many were read, whatever came of it.
    #[cfg(test)]
    read: usize,
}

impl<'a> Reading<'a> {
    /// Opens whatever it is asked for.
    pub(super) fn new(inner: &'a Inner) -> Self {
        Self {
            inner,
            last: None,
            most: u64::MAX,
            spent: HashMap::new(),
            full: HashSet::new(),
            opened: 0,
            #[cfg(test)]
            read: 0,
        }
    }

    /// Opens of each node so much only.
    pub(super) fn sparing(inner: &'a Inner) -> Self {
        Self { most: MOST_OF_NODE, ..Self::new(inner) }
    }

    /// Visits `lives` in the order in which their newest records stand, the newest block first, until `visit` wants no
    /// more: each with its index in `lives`, and with what its record says, where it could be read.
    pub(super) fn each(
        &mut self,
        lives: Vec<Life>,
        mut visit: impl FnMut(usize, Life, Option<Body>) -> bool,
    ) {
        let mut lives: Vec<(usize, Life)> = lives.into_iter().enumerate().collect();
        lives.sort_by_key(|(_, l)| (l.from_collector, Reverse((l.at.segment, l.at.offset, l.at.seq))));
        for (i, life) in lives {
            let body = self.newest(&life);
            if !visit(i, life, body) {
                return;
            }
        }
    }

    fn newest(&mut self, life: &Life) -> Option<Body> {
        if life.from_collector {
            return self.inner.said(life).map(Body::Finding);
        }
        let at = life.at.position();
        if self.last.as_ref().is_none_or(|(of, _)| *of != at) {
            self.last = Some((at, self.open(life)));
        }
        let records = self.last.as_ref()?.1.as_ref()?;
        let i = records.binary_search_by_key(&life.at.seq, |r| r.seq).ok()?;
        records.get(i).map(|r| r.body.clone())
    }

    fn open(&mut self, life: &Life) -> Option<Vec<Record>> {
        let node = life.node.as_ref()?;
        if self.full.contains(node) {
            return None;
        }
        #[cfg(test)]
        {
            self.read += 1;
        }
        let entry = self.inner.shared(Stream::Urgent).reader.read_at(life.at.position()).ok().flatten()?;
        let read = entry.payload.len() as u64;
        let block = Block::decode(entry.payload).ok();
        let raw = block.iter().flat_map(|b| &b.header().sections).map(|s| u64::from(s.raw_bytes)).sum();
        // What is read for nothing is work, too.
        let spent = self.spent.entry(node.clone()).or_default();
        *spent = spent.saturating_add(read.max(raw));
        if *spent > self.most {
            tracing::warn!(%node, "its findings lie in so many blocks that not all were opened");
            self.full.insert(node.clone());
            return None;
        }
        let block = block?;
        self.opened += 1;
        block.records(Kinds(u32::MAX)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use dogwatch::block::{Place, Start};
    use dogwatch::record::{Finding, FindingState, Incarnation, Moment, Severity, Subject};

    use super::*;
    use crate::store::Store;
    use crate::store::ask::by_time;
    use crate::store::keys::Table;
    use crate::store::specimen::open;

    fn block(node: &NodeName, incarnation: u8, findings: &[&str]) -> Block {
        let finding = |id: &str| Finding {
            id: id.to_owned(),
            rule: "disk-high-water".to_owned(),
            severity: Severity::High,
            state: FindingState::Raised,
            subject: Subject::new("mount", "/var"),
            summary: "s".to_owned(),
            explanation: "e".repeat(1_000),
            citations: Vec::new(),
            facts: Vec::new(),
            raised_wall_ns: 1,
            pod: None,
        };
        let record = |(i, id): (u64, &&str)| Record {
            seq: i,
            at: Moment { wall_ns: i64::try_from(i).unwrap(), boot_ns: i },
            body: Body::Finding(Box::new(finding(id))),
        };
        let records: Vec<Record> = (1..).zip(findings).map(record).collect();
        let start =
            Start { counter: 1, boot_id: [1; 16], predecessor: None, agent_version: "0.1.0".to_owned() };
        let place = Place {
            node: node.clone(),
            incarnation: Incarnation([incarnation; 16]),
            stream: Stream::Urgent,
            previous: dogwatch::record::Hash::default(),
            start: Some(start),
            receipt: None,
        };
        Block::seal(place, &records, &mut || [9; 16]).unwrap()
    }

    /// A store of these blocks, and all that is active in it once that is `count`.
    async fn kept(dir: &std::path::Path, blocks: &[Block], count: usize) -> (Store, Vec<Life>) {
        let store = open(dir);
        for block in blocks {
            store.commit(block).await.unwrap();
        }
        let begun = Instant::now();
        loop {
            let mut lives: Vec<Life> = Vec::new();
            if let Some((index, _)) = store.inner.slot.current(Duration::ZERO) {
                by_time(&*index, Table::FindingActive, |_, _, life| {
                    lives.push(life);
                    Ok(true)
                })
                .unwrap();
            }
            if lives.len() == count {
                return (store, lives);
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it is not in the index");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What each of `lives` is read as.
    fn read(reading: &mut Reading<'_>, lives: &[Life]) -> Vec<String> {
        let mut read: Vec<String> = Vec::new();
        reading.each(lives.to_vec(), |i, life, body| {
            assert_eq!(life, lives[i]);
            match body {
                Some(Body::Finding(f)) => read.push(f.id.clone()),
                _ => read.push(format!("not {}", life.id)),
            }
            true
        });
        read
    }

    fn raw(block: &Block) -> u64 {
        block.header().sections.iter().map(|s| u64::from(s.raw_bytes)).sum()
    }

    #[tokio::test]
    async fn a_block_is_opened_once_and_of_one_node_no_more_than_its_measure() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let blocks = [block(&a, 1, &["a-1", "a-3"]), block(&a, 2, &["a-2", "a-4"]), block(&b, 3, &["b-1"])];
        let (store, lives) = kept(dir.path(), &blocks, 5).await;
        let mut all = Reading::new(&store.inner);
        let read_all = read(&mut all, &lives);
        assert_eq!(
            (read_all, all.opened),
            (["b-1", "a-4", "a-2", "a-3", "a-1"].map(str::to_owned).into(), 3)
        );
        let mut some = Reading { most: raw(&blocks[0]), ..Reading::new(&store.inner) };
        let read_some = read(&mut some, &lives);
        assert_eq!(
            (read_some, some.opened),
            (["b-1", "a-4", "a-2", "not a-3", "not a-1"].map(str::to_owned).into(), 2)
        );
        drop((all, some));
        store.close().await;
    }

    #[tokio::test]
    async fn of_a_node_whose_measure_is_spent_nothing_more_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut blocks = vec![block(&b, 100, &["b-1"])];
        let ids: Vec<String> = (1..=9).map(|i| format!("a-{i}")).collect();
        blocks.extend((1..).zip(&ids).map(|(i, id)| block(&a, i, &[id.as_str()])));
        let (store, lives) = kept(dir.path(), &blocks, 10).await;
        let most = blocks.iter().map(raw).max().unwrap();
        let mut some = Reading { most, ..Reading::new(&store.inner) };
        let told = read(&mut some, &lives);
        assert_eq!((told[0].as_str(), told[1].as_str(), told[9].as_str()), ("a-9", "not a-8", "b-1"));
        assert_eq!((some.opened, some.read), (2, 3), "beside a's newest, the one that is too much, and b's");
        drop(some);
        store.close().await;
    }
}
