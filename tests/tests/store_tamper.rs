//! Somebody with full access to the collector's store changes, drops, reorders, re-chains: `verify` names it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dogwatch::block::{Block, Place};
use dogwatch::chain::{ChainId, SignedHead};
use dogwatch::journal::{BlockInfo, FrameKind, Journal, Options, Position, Reader};
use dogwatch::record::{Body, Hash, Kind, Kinds, Record, Stream};
use dogwatch_e2e::ledger::Ledger;
use dogwatch_e2e::programs;
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{House, Stage, yaml};
use dogwatch_e2e::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A journal's frames in order.
type Frames = Vec<(FrameKind, Bytes)>;

fn read(journal: &Path) -> Frames {
    let reader = Reader::open(journal).unwrap();
    reader.scan(Position::default()).map(|e| e.map(|e| (e.kind, e.payload)).unwrap()).collect()
}

/// Writes a journal anew, as its own writer would.
fn write(journal: &Path, frames: &Frames) {
    std::fs::remove_dir_all(journal).unwrap();
    let options = Options { segment_bytes: 2 << 20, max_segments: 1000, preallocate_segments: 1 };
    let (mut writer, _) = Journal::open(journal, options).unwrap();
    for (kind, payload) in frames {
        match kind {
            FrameKind::Block => {
                let block = Block::decode(payload.clone()).unwrap();
                writer.append_block(&info(&block), payload, 1).map(drop).unwrap();
            }
            kind => writer.append(*kind, payload, 1).map(drop).unwrap(),
        }
    }
    writer.sync().unwrap();
    writer.close().unwrap();
}

fn chain(block: &Block) -> ChainId {
    let h = block.header();
    ChainId { node: h.node.clone(), incarnation: h.incarnation, stream: h.stream }
}

fn info(block: &Block) -> BlockInfo {
    let h = block.header();
    BlockInfo {
        chain: chain(block),
        first_seq: h.first_seq,
        last_seq: h.last_seq,
        first_wall_ns: h.first_at.wall_ns,
        last_wall_ns: h.last_at.wall_ns,
        kinds: h.kinds,
        hash: block.hash(),
    }
}

fn all_records(block: &Block) -> Vec<Record> {
    block.records(Kind::ALL.into_iter().fold(Kinds::default(), Kinds::with)).unwrap()
}

/// The same block with other records behind another predecessor.
fn sealed_again(block: &Block, records: &[Record], previous: Hash) -> Block {
    let h = block.header();
    let place = Place {
        node: h.node.clone(),
        incarnation: h.incarnation,
        stream: h.stream,
        previous,
        start: h.start.clone(),
        receipt: h.receipt.clone(),
    };
    Block::seal(place, records, &mut || [3; 16]).unwrap()
}

/// Places of the blocks of the chain that has most of them.
fn longest_chain(frames: &Frames) -> Vec<(usize, Block)> {
    let mut chains: std::collections::BTreeMap<ChainId, Vec<(usize, Block)>> = Default::default();
    for (at, (kind, payload)) in frames.iter().enumerate() {
        if *kind == FrameKind::Block {
            let block = Block::decode(payload.clone()).unwrap();
            chains.entry(chain(&block)).or_default().push((at, block));
        }
    }
    chains.into_values().max_by_key(Vec::len).unwrap()
}

/// Says something else in the first record of a kind of which a block of these streams may hold nothing else.
fn lie(records: &mut [Record]) {
    for record in records {
        match &mut record.body {
            Body::Log(line) => line.line = b"app[7]: nothing happened seq=1".to_vec(),
            Body::Note(text) => *text = "nothing happened".to_owned(),
            Body::Finding(f) => f.summary = "nothing happened".to_owned(),
            Body::Gap(gap) => gap.reason = "nothing was lost".to_owned(),
            Body::Sample(sample) => Arc::make_mut(sample).late_ticks += 1,
            _ => continue,
        }
        return;
    }
    panic!("no record to change");
}

fn put(frames: &mut Frames, at: usize, block: &Block) {
    frames[at].1 = block.encode().into();
}

/// From the second block of the chain on: `change` one, and seal all after it anew, so that every link holds.
fn re_chain(frames: &mut Frames, change: impl FnOnce(&mut Vec<Record>)) {
    let blocks = longest_chain(frames);
    let mut change = Some(change);
    let mut previous = blocks[0].1.hash();
    for (at, block) in &blocks[1..] {
        let mut records = all_records(block);
        if let Some(change) = change.take() {
            change(&mut records);
        }
        let sealed = sealed_again(block, &records, previous);
        previous = sealed.hash();
        put(frames, *at, &sealed);
    }
}

/// The last seq that the node signed for a chain.
fn newest_signed(frames: &Frames, chain: &ChainId) -> u64 {
    let heads = frames.iter().filter(|(kind, _)| *kind == FrameKind::SignedHead);
    let said = heads.filter_map(|(_, bytes)| SignedHead::from_bytes(bytes).ok()?.decode().ok());
    said.filter(|s| s.chain == *chain).map(|s| s.head.last_seq).max().unwrap()
}

fn verify(house: &House, store: &Path) -> Output {
    house.verb(&["verify", "--store", &store.display().to_string()])
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn verify_names_whatever_was_done_to_a_store() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "incidents: { silent_after: 1h }");
    house.start();
    let log = stage.path().join("app.log");
    let more = format!(
        "sample: {{ every: 200ms, evidence_every: 200ms, processes: false }}\ncleanup: {{ mode: \"off\" }}\n\
         tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 50ms }}\n\
         detect: {{ logs: {{ update_every: 1s }} }}\n",
        yaml(&log),
        yaml(&Scribe::rules(stage.path()))
    );
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &more);
    let scribe = Scribe::start(&log, 2000);
    post.start();
    let store = house.store();
    until("enough blocks", PATIENCE, || {
        let enough = |stream: Stream| {
            let frames = read(&store.join(stream.as_str()));
            frames.iter().any(|(k, _)| *k == FrameKind::Block) && longest_chain(&frames).len() >= 5
        };
        (enough(Stream::Urgent) && enough(Stream::Evidence)).then_some(())
    });
    scribe.end();
    post.stop();
    house.stop();
    assert!(Ledger::read(&store).twice().is_empty());

    let clean = verify(&house, &store);
    assert_eq!(clean.status.code(), Some(0), "{}", String::from_utf8_lossy(&clean.stdout));

    type Deed<'a> = (&'a str, Box<dyn Fn(&mut Frames)>);
    let deeds: Vec<Deed<'_>> = vec![
        (
            "change a record",
            Box::new(|frames| {
                let (at, block) = longest_chain(frames).swap_remove(2);
                let mut records = all_records(&block);
                lie(&mut records);
                let changed = sealed_again(&block, &records, block.header().previous);
                put(frames, at, &changed);
            }),
        ),
        (
            "drop a block",
            Box::new(|frames| {
                let at = longest_chain(frames)[2].0;
                frames.remove(at);
            }),
        ),
        (
            "swap two blocks",
            Box::new(|frames| {
                let blocks = longest_chain(frames);
                frames.swap(blocks[2].0, blocks[3].0);
            }),
        ),
        ("change a record and seal all after it anew", Box::new(|frames| re_chain(frames, |r| lie(r)))),
        (
            "drop a record and seal all after it anew",
            Box::new(|frames| {
                let blocks = longest_chain(frames);
                let (mut previous, mut seq) = (blocks[0].1.hash(), blocks[1].1.header().first_seq);
                for (i, (at, block)) in blocks[1..].iter().enumerate() {
                    let mut records = all_records(block);
                    if i == 0 && records.len() > 1 {
                        records.remove(0);
                    } else if i == 0 {
                        continue;
                    }
                    for record in &mut records {
                        record.seq = seq;
                        seq += 1;
                    }
                    let sealed = sealed_again(block, &records, previous);
                    previous = sealed.hash();
                    put(frames, *at, &sealed);
                }
                if blocks[1].1.header().first_seq == blocks[1].1.header().last_seq {
                    frames.remove(blocks[1].0);
                }
            }),
        ),
        (
            "drop the end of a chain",
            Box::new(|frames| {
                let blocks = longest_chain(frames);
                // What came after the newest signed head was never the node's word, so that end alone proves nothing.
                let signed = newest_signed(frames, &chain(&blocks[0].1));
                for (at, _) in blocks.iter().rev().filter(|(_, b)| b.header().last_seq >= signed) {
                    frames.remove(*at);
                }
            }),
        ),
        (
            "drop a whole chain but its signed heads",
            Box::new(|frames| {
                for (at, _) in longest_chain(frames).iter().rev() {
                    frames.remove(*at);
                }
            }),
        ),
    ];
    let work = stage.path().join("tampered");
    for stream in [Stream::Urgent, Stream::Evidence] {
        let name = stream.as_str();
        let _ = std::fs::remove_dir_all(&work);
        copy(&store, &work);
        let journal = work.join(name);
        let frames = read(&journal);
        write(&journal, &frames);
        let same = verify(&house, &work);
        assert_eq!(
            same.status.code(),
            Some(0),
            "rewritten as it was: {}",
            String::from_utf8_lossy(&same.stdout)
        );
        let victim = chain(&longest_chain(&frames)[0].1);
        let victim = format!("incarnation {} stream {name}", victim.incarnation);
        for (what, deed) in &deeds {
            let mut tampered = frames.clone();
            deed(&mut tampered);
            write(&journal, &tampered);
            let found = verify(&house, &work);
            let words = String::from_utf8_lossy(&found.stdout).into_owned();
            assert_eq!(found.status.code(), Some(4), "{what} ({name}): {words}");
            let named = words.lines().find(|l| l.starts_with("PROBLEM") && l.contains(&victim));
            assert!(named.is_some(), "{what} ({name}): the chain {victim} is not named: {words}");
            eprintln!("{what} ({name}): {}", named.unwrap());
        }
    }

    // A flipped byte in the middle of a block, with no care for any format.
    let _ = std::fs::remove_dir_all(&work);
    copy(&store, &work);
    let segment = std::fs::read_dir(work.join("evidence"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with('0'))
        .min()
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let index = Reader::open(&work.join("evidence")).unwrap().blocks().unwrap();
    let block = index.iter().map(|(at, _)| at.offset).min().unwrap();
    // A block holds the name of its node, its hashes and its sections: 200 bytes are well within the first one.
    bytes[block as usize + 200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let found = verify(&house, &work);
    assert_eq!(found.status.code(), Some(4), "{}", String::from_utf8_lossy(&found.stdout));
    let clean = verify(&house, &store);
    assert_eq!(clean.status.code(), Some(0), "the original is as it was");
}
