//! Stores that were changed with full access to every byte, and what is found.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::store::*;
use crate::block::Block;
use crate::chain::verify::{ProblemKind, Rules};
use crate::chain::{ChainId, HeadStatement, ReceiptStatement, SignedHead, SignedReceipt};
use crate::record::{Hash, Stream};

/// The chain that is tampered with: blocks of seq 1-3, 4-6, 7-9, 10-12, 13-15; heads at 6, 12, 15; a receipt for 9.
fn victim() -> ChainId {
    chain(2, 1, Stream::Urgent)
}

fn block_at(frames: &[Frame], n: usize) -> usize {
    blocks_of(frames, &victim())[n]
}

#[test]
fn a_changed_section_is_found() {
    let mut frames = store();
    let at = block_at(&frames, 2);
    edit(&mut frames[at], |_, sections| {
        let mut bytes = sections[0].to_vec();
        bytes[20] ^= 1;
        sections[0] = bytes.into();
    });
    let report = assert_finds(&frames, ProblemKind::ChangedSection, &victim(), (7, 9));
    let expected = format!(
        "changed-section: node node-2 incarnation {} stream urgent seq 7-9: section 0 (log:/var/log/1) does not \
         match its hash in the header",
        victim().incarnation
    );
    assert_eq!(report.problems[0].to_string(), expected);
}

#[test]
fn a_rewritten_block_breaks_the_link_to_the_next() {
    let mut frames = store();
    let at = block_at(&frames, 2);
    rewrite(&mut frames[at]);
    let report = verify(&frames);
    // The collector had acknowledged the block as it was, so the receipts speak too.
    let kinds: Vec<_> = report.problems.iter().map(|p| (p.kind, p.seqs)).collect();
    assert_eq!(
        kinds,
        [(ProblemKind::Changed, Some((9, 10))), (ProblemKind::ReceiptContradicted, Some((9, 9)))]
    );

    let mut frames = store();
    let at = block_at(&frames, 1);
    rewrite(&mut frames[at]);
    let report = assert_finds(&frames, ProblemKind::Changed, &victim(), (6, 7));
    assert!(report.problems[0].detail.contains("but the node signed"), "{}", report.problems[0]);
}

#[test]
fn a_chain_made_anew_is_found_by_what_the_node_signed() {
    let mut frames = store();
    let at = block_at(&frames, 0);
    rewrite(&mut frames[at]);
    rechain(&mut frames, &victim());
    let report = verify(&frames);
    // The next incarnation says of seq 15 what the node's last head says, so it is told once.
    let kinds: Vec<_> = report.problems.iter().map(|p| (p.kind, p.seqs)).collect();
    assert_eq!(
        kinds,
        [(ProblemKind::Rechained, Some((6, 15))), (ProblemKind::ReceiptContradicted, Some((9, 9)))]
    );
    assert!(report.problems[0].detail.ends_with("so do 2 more"), "{}", report.problems[0]);
    assert!(report.problems.iter().all(|p| p.chain == Some(victim())));
    let judged = report.chains.iter().find(|c| c.chain == victim()).unwrap();
    assert_eq!(judged.verified_up_to, None);
}

#[test]
fn only_the_part_made_anew_is_lost() {
    let mut frames = store();
    let at = block_at(&frames, 4);
    rewrite(&mut frames[at]);
    let report = assert_finds(&frames, ProblemKind::Rechained, &victim(), (15, 15));
    let judged = report.chains.iter().find(|c| c.chain == victim()).unwrap();
    assert_eq!((judged.verified_up_to, judged.unsigned_blocks), (Some(12), 1));
}

#[test]
fn a_dropped_block_is_found_wherever_it_stood() {
    for (n, kind, seqs) in [
        (0, ProblemKind::Dropped, (1, 3)),
        (2, ProblemKind::Dropped, (7, 9)),
        (4, ProblemKind::TailDropped, (13, 15)),
    ] {
        let mut frames = store();
        frames.remove(block_at(&frames, n));
        assert_finds(&frames, kind, &victim(), seqs);
    }
}

#[test]
fn a_dropped_block_is_found_where_seqs_were_lost_before_sealing_too() {
    let id = chain(2, 1, Stream::Evidence);
    let mut frames = store();
    frames.remove(blocks_of(&frames, &id)[2]);
    assert_finds(&frames, ProblemKind::Dropped, &id, (7, 13));
}

#[test]
fn a_dropped_block_is_found_though_the_rest_was_linked_anew() {
    let mut frames = store();
    frames.remove(block_at(&frames, 1));
    rechain(&mut frames, &victim());
    let kinds: Vec<_> = verify(&frames).problems.iter().map(|p| p.kind).collect();
    assert_eq!(kinds, [ProblemKind::Rechained, ProblemKind::ReceiptContradicted]);
}

#[test]
fn a_tail_dropped_with_its_heads_is_found_by_receipt_and_successor() {
    // Blocks from seq 7 on and every head of them gone: the receipts for seq 9 and the next incarnation remain.
    let mut frames = store();
    let gone: Vec<usize> = [&blocks_of(&frames, &victim())[2..], &heads_of(&frames, &victim())[1..]].concat();
    let mut index = 0;
    frames.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
    let report = assert_finds(&frames, ProblemKind::TailDropped, &victim(), (7, 15));
    let detail = &report.problems[0].detail;
    assert!(
        detail.starts_with("the next incarnation, ") && detail.ends_with("seq 15, the last here is 6"),
        "{detail}"
    );

    // Of the last incarnation, only the receipt speaks.
    let last = chain(2, 2, Stream::Urgent);
    let mut frames = store();
    let gone: Vec<usize> = [&blocks_of(&frames, &last)[2..], &heads_of(&frames, &last)[1..]].concat();
    let mut index = 0;
    frames.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
    let report = assert_finds(&frames, ProblemKind::TailDropped, &last, (7, 9));
    assert!(report.problems[0].detail.contains("the collector acknowledged"), "{}", report.problems[0]);
}

#[test]
fn swapped_blocks_are_found() {
    let mut frames = store();
    let (a, b) = (block_at(&frames, 1), block_at(&frames, 2));
    frames.swap(a, b);
    let report = assert_finds(&frames, ProblemKind::Reordered, &victim(), (4, 6));
    let judged = report.chains.iter().find(|c| c.chain == victim()).unwrap();
    assert_eq!((judged.blocks, judged.stretches, judged.verified_up_to), (5, 1, Some(15)));
}

#[test]
fn swapped_contents_are_found() {
    // The blocks change places and take each other's seqs: only their links betray them.
    let mut frames = store();
    let (a, b) = (block_at(&frames, 1), block_at(&frames, 2));
    frames.swap(a, b);
    for (at, first) in [(a, 4), (b, 7)] {
        edit(&mut frames[at], |header, _| (header.first_seq, header.last_seq) = (first, first + 2));
    }
    let report = verify(&frames);
    assert!(!report.is_clean());
    assert!(report.problems.iter().all(|p| p.chain == Some(victim())), "{:#?}", report.problems);
    let first = &report.problems[0];
    assert_eq!((first.kind, first.seqs), (ProblemKind::Changed, Some((3, 4))));
}

#[test]
fn two_blocks_for_the_same_seqs_are_found() {
    let mut frames = store();
    let at = block_at(&frames, 3);
    let mut other = frames[at].clone();
    rewrite(&mut other);
    frames.insert(at + 1, other);
    assert_finds(&frames, ProblemKind::Equivocation, &victim(), (10, 12));
}

#[test]
fn a_block_put_between_linked_ones_is_found() {
    let id = chain(2, 1, Stream::Evidence);
    let mut frames = store();
    let at = blocks_of(&frames, &id)[2];
    let mut other = frames[at].clone();
    // Into the seqs 7 to 10, which were lost before sealing.
    edit(&mut other, |header, _| (header.first_seq, header.last_seq) = (7, 9));
    frames.push(other);
    assert_finds(&frames, ProblemKind::Equivocation, &id, (7, 9));
}

#[test]
fn without_heads_nothing_is_vouched_for() {
    let mut frames = store();
    frames.retain(|f| !matches!(f, Frame::Head(_)));
    let report = verify(&frames);
    assert!(report.is_clean() && report.chains.iter().all(|c| c.verified_up_to.is_none()));
    assert_eq!(report.warnings.len(), 18);
    let strict = Rules { max_unsigned_ns: Some(10 * SECOND), ..Rules::default() };
    let report = verify_with(&frames, strict, keys());
    assert_eq!(report.problems.len(), 18);
    assert!(report.problems.iter().all(|p| p.kind == ProblemKind::Unsigned));
}

#[test]
fn heads_signed_with_another_key_are_forged() {
    let mut frames = store();
    let at = block_at(&frames, 2);
    rewrite(&mut frames[at]);
    rechain(&mut frames, &victim());
    for i in heads_of(&frames, &victim()) {
        let Frame::Head(bytes) = &frames[i] else { unreachable!() };
        let statement: HeadStatement = SignedHead::from_bytes(bytes).unwrap().decode().unwrap();
        let n = blocks_of(&frames, &victim())
            .into_iter()
            .find(|b| {
                let Frame::Block(bytes) = &frames[*b] else { unreachable!() };
                Block::decode(bytes.clone()).unwrap().header().last_seq == statement.head.last_seq
            })
            .unwrap();
        let mut honest_looking = statement;
        honest_looking.head.hash = hash_of(&frames[n]);
        frames[i] = Frame::Head(SignedHead::sign(&honest_looking, &node_key(77)).encode().into());
    }
    let report = verify(&frames);
    let forged: Vec<_> =
        report.problems.iter().filter(|p| p.kind == ProblemKind::ForgedHead).map(|p| p.seqs).collect();
    assert_eq!(forged, [Some((6, 6)), Some((12, 12)), Some((15, 15))]);
    let judged = report.chains.iter().find(|c| c.chain == victim()).unwrap();
    assert_eq!(judged.verified_up_to, None);
}

#[test]
fn another_nodes_key_does_not_speak_for_this_one() {
    let mut writer = Writer::new(1, 1, Stream::Urgent, None);
    let block = writer.lines();
    let statement = HeadStatement { chain: writer.id.clone(), head: writer.head, wall_ns: 0, blocks: 1 };
    let head = Frame::Head(SignedHead::sign(&statement, &node_key(2)).encode().into());
    assert_finds(&[block, head], ProblemKind::ForgedHead, &writer.id, (3, 3));
}

#[test]
fn a_receipt_of_nobody_is_found() {
    let mut writer = Writer::new(1, 1, Stream::Urgent, None);
    let mut frames = vec![writer.lines()];
    let statement = ReceiptStatement { chain: writer.id.clone(), head: writer.head, received_wall_ns: 0 };
    writer.receipt = Some(SignedReceipt::sign(&statement, &node_key(5)));
    frames.extend([writer.lines(), writer.sign()]);
    assert_finds(&frames, ProblemKind::ForgedReceipt, &writer.id, (4, 4));
}

#[test]
fn a_missing_incarnation_is_found_while_an_older_one_is_here() {
    let mut ends = None;
    let mut runs = Vec::new();
    for run in 1..=3 {
        let mut writer = Writer::new(1, run, Stream::Urgent, ends);
        runs.push(vec![writer.lines(), writer.sign()]);
        ends = Some(writer.head);
    }
    let without = |n: usize| -> Vec<Frame> {
        runs.iter().enumerate().filter(|(i, _)| *i != n).flat_map(|(_, f)| f.clone()).collect()
    };
    assert_finds(&without(1), ProblemKind::Dropped, &chain(1, 2, Stream::Urgent), (1, 3));
    // The oldest may have expired.
    let report = verify(&without(0));
    assert!(report.is_clean());
    assert!(
        report.warnings[0].to_string().contains("the node's evidence begins with"),
        "{}",
        report.warnings[0]
    );
    // Heads alone say that there was a chain.
    let blockless = [runs[0].clone(), runs[1][1..].to_vec(), runs[2].clone()].concat();
    assert_finds(&blockless, ProblemKind::TailDropped, &chain(1, 2, Stream::Urgent), (1, 3));
}

#[test]
fn an_incarnation_that_began_elsewhere_is_found() {
    let mut first = Writer::new(1, 1, Stream::Urgent, None);
    let mut frames = vec![first.lines(), first.sign()];
    let mut elsewhere = first.head;
    elsewhere.hash = Hash([5; 32]);
    let mut second = Writer::new(1, 2, Stream::Urgent, Some(elsewhere));
    frames.extend([second.lines(), second.sign()]);
    assert_finds(&frames, ProblemKind::StartMismatch, &first.id, (3, 3));

    let mut second = Writer::new(1, 2, Stream::Urgent, Some(first.head));
    second.start.as_mut().unwrap().counter = 1;
    let frames = vec![frames[0].clone(), frames[1].clone(), second.lines(), second.sign()];
    assert_finds(&frames, ProblemKind::StartMismatch, &second.id, (1, 1));
}

#[test]
fn rubbish_is_named_as_far_as_it_can_be() {
    let mut frames = store();
    frames.extend([
        Frame::Block(vec![0xff; 40].into()),
        Frame::Head(vec![1].into()),
        Frame::Receipt(vec![1].into()),
    ]);
    let report = verify(&frames);
    assert!(report.problems.iter().all(|p| p.kind == ProblemKind::Malformed && p.chain.is_none()));
    assert_eq!(report.problems.len(), 3);

    let mut frames = store();
    let at = block_at(&frames, 4);
    edit(&mut frames[at], |header, _| header.kinds = 0x2a);
    let report = verify(&frames);
    let first = &report.problems[0];
    assert_eq!(
        (first.kind, first.chain.clone(), first.seqs),
        (ProblemKind::Malformed, Some(victim()), Some((13, 15)))
    );
}

/// One change to a store.
#[derive(Debug, Clone)]
enum Tamper {
    Flip(prop::sample::Index, prop::sample::Index, u8),
    Drop(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
}

fn tamper() -> impl Strategy<Value = Tamper> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (index(), index(), 0..8u8).prop_map(|(f, b, bit)| Tamper::Flip(f, b, bit)),
        1 => index().prop_map(Tamper::Drop),
        1 => (index(), index()).prop_map(|(a, b)| Tamper::Swap(a, b)),
        1 => (index(), index()).prop_map(|(a, b)| Tamper::Double(a, b)),
    ]
}

fn apply(frames: &mut Vec<Frame>, tamper: &Tamper) {
    match tamper {
        Tamper::Flip(frame, byte, bit) => {
            let at = frame.index(frames.len());
            let (Frame::Block(bytes) | Frame::Head(bytes) | Frame::Receipt(bytes)) = &mut frames[at];
            let mut changed = bytes.to_vec();
            let at = byte.index(changed.len());
            changed[at] ^= 1 << bit;
            *bytes = changed.into();
        }
        Tamper::Drop(frame) => drop(frames.remove(frame.index(frames.len()))),
        Tamper::Swap(a, b) => {
            let (a, b) = (a.index(frames.len()), b.index(frames.len()));
            frames.swap(a, b);
        }
        Tamper::Double(frame, to) => {
            let again = frames[frame.index(frames.len())].clone();
            frames.insert(to.index(frames.len()), again);
        }
    }
}

/// What is told chain by chain in the order stored: every block's chain, header and sections.
fn told(frames: &[Frame]) -> Vec<(ChainId, Hash, Vec<bytes::Bytes>)> {
    let blocks = frames.iter().filter_map(|f| match f {
        Frame::Block(bytes) => Block::decode(bytes.clone()).ok(),
        _ => None,
    });
    let mut all: Vec<_> = blocks
        .map(|b| {
            let h = b.header();
            let id = ChainId { node: h.node.clone(), incarnation: h.incarnation, stream: h.stream };
            (id, b.hash(), b.to_wire().sections)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any one change is found, or every chain still tells the same in the same order (blocks that are there twice
    /// being counted).
    #[test]
    fn any_single_change_is_found_or_harmless(tamper in tamper()) {
        static WHOLE: LazyLock<Vec<Frame>> = LazyLock::new(store);
        let whole = &*WHOLE;
        let mut frames = whole.clone();
        apply(&mut frames, &tamper);
        let report = verify(&frames);
        // Of the whole store, everything is vouched for; no change can add to that.
        prop_assert!(report.chains.iter().all(|c| c.verified_up_to <= Some(c.last_seq)));
        if report.is_clean() {
            let mut seen = std::collections::HashSet::new();
            let mut left = told(&frames);
            left.retain(|(_, hash, _)| seen.insert(*hash));
            prop_assert_eq!(left, told(whole), "{:?}", tamper);
            let doubled = matches!(tamper, Tamper::Double(..));
            let duplicates: u64 = report.chains.iter().map(|c| c.duplicates).sum();
            prop_assert!(duplicates == 0 || doubled);
        }
    }
}
