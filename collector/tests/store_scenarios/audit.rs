//! Whoever audits a store offline finds what was changed.

use std::fs;
use std::path::Path;

use dogwatch::block::Block;
use dogwatch::chain::ProblemKind;
use dogwatch::journal::{BlockInfo, FrameKind, Journal, Options, Position, Reader};
use dogwatch::record::Stream;
use dogwatch_collector::store::audit::{Trust, given, verify};
use dogwatch_collector::store::decision::What;

use crate::kit::{self, Node, SECOND, T0};

async fn store_of(dir: &Path) -> Node {
    let store = kit::open(kit::config(dir));
    let mut node = Node::new("n1", 1);
    let enrolled =
        What::NodeEnrolled { node: node.name.clone(), signing_key: node.key_hex(), token: "t".to_owned() };
    store.decide(kit::decision(T0, enrolled)).await.unwrap();
    for i in 0..10 {
        store.commit(&node.logs(T0 + i * 9 * SECOND, 2, 50)).await.unwrap();
    }
    store.commit_head(&node.signed_head(Stream::Evidence)).await.unwrap();
    store.close().await;
    node
}

/// Writes the evidence journal anew with full access, as a dishonest collector would.
fn rewrite(dir: &Path, mut keep: impl FnMut(usize, Block) -> Option<Block>) {
    let path = dir.join("evidence");
    let frames: Vec<_> =
        Reader::open(&path).unwrap().scan(Position::default()).collect::<Result<_, _>>().unwrap();
    fs::remove_dir_all(&path).unwrap();
    let options = Options { segment_bytes: 1 << 20, max_segments: 8, preallocate_segments: 1 };
    let (mut journal, _) = Journal::open(&path, options).unwrap();
    let mut n = 0;
    for frame in frames {
        if frame.kind == FrameKind::Block {
            let block = Block::decode(frame.payload).unwrap();
            if let Some(block) = keep(n, block) {
                let h = block.header();
                let info = BlockInfo {
                    chain: dogwatch::chain::ChainId {
                        node: h.node.clone(),
                        incarnation: h.incarnation,
                        stream: h.stream,
                    },
                    first_seq: h.first_seq,
                    last_seq: h.last_seq,
                    first_wall_ns: h.first_at.wall_ns,
                    last_wall_ns: h.last_at.wall_ns,
                    kinds: h.kinds,
                    hash: block.hash(),
                };
                journal.append_block(&info, &block.encode(), T0).unwrap();
            }
            n += 1;
        } else {
            journal.append(frame.kind, &frame.payload, T0).unwrap();
        }
    }
    journal.sync().unwrap();
    journal.close().unwrap();
}

#[tokio::test]
async fn an_untouched_store_verifies_with_given_keys_and_with_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let node = store_of(dir.path()).await;
    let audit = verify(dir.path(), Trust::Truth).unwrap();
    assert!(audit.is_clean(), "{:?}", audit.report.problems);
    assert!(audit.keys_from_store);
    assert_eq!((audit.blocks, audit.heads, audit.keys), (10, 1, 1));
    assert_eq!(audit.report.chains[0].verified_up_to, Some(20));
    let pair = format!("n1={}", node.key_hex());
    let audit = verify(dir.path(), given([pair.as_str()]).unwrap()).unwrap();
    assert!(audit.is_clean() && !audit.keys_from_store);
    // Another key: the heads are forged, as far as that key goes.
    let other = format!("n1={}", Node::new("n1", 9).key_hex());
    assert!(!verify(dir.path(), given([other.as_str()]).unwrap()).unwrap().is_clean());
}

#[tokio::test]
async fn a_dropped_block_a_cut_tail_and_a_new_chain_are_found() {
    let kinds = |dir: &Path| {
        let audit = verify(dir, Trust::Truth).unwrap();
        audit.report.problems.iter().map(|p| p.kind).collect::<Vec<_>>()
    };
    let dir = tempfile::tempdir().unwrap();
    store_of(dir.path()).await;
    rewrite(dir.path(), |_, b| Some(b));
    assert_eq!(kinds(dir.path()), []);
    rewrite(dir.path(), |n, b| (n != 4).then_some(b));
    assert_eq!(kinds(dir.path()), [ProblemKind::Dropped]);

    let dir = tempfile::tempdir().unwrap();
    store_of(dir.path()).await;
    rewrite(dir.path(), |n, b| (n < 8).then_some(b));
    assert_eq!(kinds(dir.path()), [ProblemKind::TailDropped]);

    let dir = tempfile::tempdir().unwrap();
    store_of(dir.path()).await;
    let mut forger = Node::new("n1", 1);
    rewrite(dir.path(), |n, _| Some(forger.logs(T0 + n as i64 * 9 * SECOND, 2, 51)));
    assert_eq!(kinds(dir.path()), [ProblemKind::Rechained]);
}

#[tokio::test]
async fn a_flipped_bit_on_the_disk_is_found() {
    let dir = tempfile::tempdir().unwrap();
    store_of(dir.path()).await;
    let segment = fs::read_dir(dir.path().join("evidence"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| {
            let name = p.file_name().unwrap().to_str().unwrap();
            name.ends_with(".seg") && !name.starts_with("spare")
        })
        .max()
        .unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    // Within some block's payload: the line's bytes do not compress, so they stand there.
    let magic = bytes.windows(4).enumerate().filter(|(_, w)| w == b"DWFR").map(|(i, _)| i).nth(5).unwrap();
    bytes[magic + 200] ^= 4;
    fs::write(&segment, bytes).unwrap();
    let audit = verify(dir.path(), Trust::Truth).unwrap();
    assert!(!audit.is_clean());
    assert!(audit.damaged_bytes > 0);
}
