//! Stores that nobody touched: whole, expired, in windows, with losses that were said.

use std::ops::Range;

use super::store::*;
use crate::block::Block;
use crate::chain::verify::{ChainVerifier, Keys, ProblemKind, Rules, TrustedKey};
use crate::chain::{ChainReport, Head, HeadStatement, SignedHead};
use crate::record::{Body, Hash, Stream};

#[test]
fn a_store_as_written_is_clean_and_says_how_far() {
    let report = verify(&store());
    assert!(report.is_clean(), "{:#?}", report.problems);
    assert_eq!((report.chains.len(), report.warnings.len()), (18, 0), "{:#?}", report.warnings);
    let evidence = report.chains.iter().find(|c| c.chain == chain(2, 1, Stream::Evidence)).unwrap();
    let expected = ChainReport {
        chain: chain(2, 1, Stream::Evidence),
        blocks: 5,
        first_seq: 1,
        last_seq: 19,
        begins_after: None,
        verified_up_to: Some(19),
        unsigned_blocks: 0,
        stretches: 1,
        duplicates: 0,
        withheld_sections: 0,
        unsealed_seqs: 4,
        explained_seqs: 0,
        uncompared: 0,
    };
    assert_eq!(*evidence, expected);
}

#[test]
fn heads_may_come_before_their_blocks_or_long_after() {
    let (heads, blocks): (Vec<_>, Vec<_>) = store().into_iter().partition(|f| matches!(f, Frame::Head(_)));
    for frames in [[heads.clone(), blocks.clone()].concat(), [blocks, heads].concat()] {
        let report = verify(&frames);
        assert!(report.is_clean() && report.warnings.is_empty(), "{:#?}", report.problems);
        assert!(report.chains.iter().all(|c| c.verified_up_to == Some(c.last_seq)));
    }
}

#[test]
fn a_withheld_section_still_verifies_where_it_may_be_withheld() {
    let mut frames = store();
    let id = chain(1, 1, Stream::Evidence);
    let third = blocks_of(&frames, &id)[2];
    edit(&mut frames[third], |_, sections| sections[1].clear());
    let bundle = verify_with(&frames, Rules::default(), keys());
    assert!(bundle.is_clean(), "{:#?}", bundle.problems);
    let withheld: u64 = bundle.chains.iter().map(|c| c.withheld_sections).sum();
    assert_eq!(withheld, 1);
    assert_finds(&frames, ProblemKind::Withheld, &id, (11, 13));
}

#[test]
fn the_same_block_twice_is_counted_and_harmless() {
    let mut frames = store();
    let again = frames[blocks_of(&frames, &chain(1, 1, Stream::Urgent))[1]].clone();
    frames.push(again);
    let report = verify(&frames);
    assert!(report.is_clean(), "{:#?}", report.problems);
    assert_eq!(report.chains.iter().map(|c| c.duplicates).sum::<u64>(), 1);
}

#[test]
fn an_unsigned_tail_is_counted_warned_of_and_refused_beyond_the_bound() {
    let mut writer = Writer::new(1, 1, Stream::Urgent, None);
    let mut frames = vec![writer.lines(), writer.sign()];
    frames.extend((0..3).map(|_| writer.lines()));
    let report = verify(&frames);
    assert!(report.is_clean());
    assert_eq!((report.chains[0].verified_up_to, report.chains[0].unsigned_blocks), (Some(3), 3));
    assert!(report.warnings[0].to_string().contains("seq 4-12: 3 blocks over 9 s"), "{}", report.warnings[0]);

    let within = |seconds| Rules { max_unsigned_ns: Some(seconds * SECOND), ..Rules::default() };
    assert!(verify_with(&frames, within(9), keys()).is_clean());
    let report = verify_with(&frames, within(8), keys());
    assert_eq!(report.problems[0].kind, ProblemKind::Unsigned);
}

#[test]
fn what_expired_is_stated_by_the_head_before() {
    let frames = store();
    let id = chain(3, 1, Stream::Urgent);
    let expired: Vec<usize> = blocks_of(&frames, &id)[..2].to_vec();
    let kept: Vec<Frame> =
        frames.iter().enumerate().filter(|(i, _)| !expired.contains(i)).map(|(_, f)| f.clone()).collect();
    let before = Head { last_seq: 6, hash: hash_of(&frames[expired[1]]) };
    let rules = Rules::default();

    let mut verifier = ChainVerifier::new(rules, keys());
    verifier.before(&id, Head { last_seq: 3, hash: hash_of(&frames[expired[0]]) });
    verifier.before(&id, before);
    feed(&mut verifier, &kept);
    let report = verifier.finish();
    assert!(report.is_clean(), "{:#?}", report.problems);
    let judged = report.chains.iter().find(|c| c.chain == id).unwrap();
    assert_eq!((judged.begins_after, judged.first_seq, judged.verified_up_to), (Some(before), 7, Some(15)));

    // Without that statement, or with another one, the beginning is missing.
    assert_finds(&kept, ProblemKind::Dropped, &id, (1, 6));
    let mut verifier = ChainVerifier::new(rules, keys());
    verifier.before(&id, Head { last_seq: 6, ..Head { hash: hash_of(&frames[0]), last_seq: 0 } });
    feed(&mut verifier, &kept);
    assert_eq!(found(&verifier.finish()), [(ProblemKind::Changed, Some(id), Some((6, 7)))]);
}

#[test]
fn windows_of_a_chain_are_each_whole() {
    let frames = store();
    let id = chain(1, 2, Stream::Recorder);
    let third = blocks_of(&frames, &id)[2];
    let kept: Vec<Frame> =
        frames.iter().enumerate().filter(|(i, _)| *i != third).map(|(_, f)| f.clone()).collect();
    let report = verify_with(&kept, Rules::store(), keys());
    assert!(report.is_clean(), "{:#?}", report.problems);
    let judged = report.chains.iter().find(|c| c.chain == id).unwrap();
    assert_eq!((judged.blocks, judged.stretches, judged.unsigned_blocks), (4, 2, 0));
    assert_finds(&kept, ProblemKind::Dropped, &id, (7, 9));
}

/// Evidence of five blocks without those in `lost`, and an urgent stream that says `said` about it.
fn with_losses(lost: Range<usize>, said: Vec<Body>, signed: bool) -> Vec<Frame> {
    let mut evidence = Writer::new(1, 1, Stream::Evidence, None);
    let mut frames: Vec<Frame> = (0..5).map(|_| evidence.lines()).collect();
    frames.push(evidence.sign());
    frames.drain(lost);
    let mut urgent = Writer::new(1, 1, Stream::Urgent, None);
    frames.push(urgent.block(said));
    if signed {
        frames.push(urgent.sign());
    }
    frames
}

#[test]
fn a_loss_that_the_node_signed_explains_itself() {
    let said = || vec![gap(Stream::Evidence, 4, 6, None), gap(Stream::Evidence, 7, 9, None)];
    let report = verify(&with_losses(1..3, said(), true));
    assert!(report.is_clean(), "{:#?}", report.problems);
    let evidence = report.chains.iter().find(|c| c.chain.stream == Stream::Evidence).unwrap();
    assert_eq!((evidence.explained_seqs, evidence.verified_up_to), (6, Some(15)));
    assert!(report.warnings[0].detail.contains("signed gap"));

    // The beginning and the end can be lost as well.
    assert!(verify(&with_losses(0..2, vec![gap(Stream::Evidence, 1, 6, None)], true)).is_clean());
    assert!(verify(&with_losses(4..5, vec![gap(Stream::Evidence, 13, 15, None)], true)).is_clean());
}

#[test]
fn a_loss_that_is_said_too_small_of_another_chain_or_unsigned_explains_nothing() {
    let id = chain(1, 1, Stream::Evidence);
    let small = with_losses(1..3, vec![gap(Stream::Evidence, 4, 8, None)], true);
    assert_finds(&small, ProblemKind::Dropped, &id, (4, 9));
    let stream = with_losses(1..3, vec![gap(Stream::Recorder, 4, 9, None)], true);
    assert_finds(&stream, ProblemKind::Dropped, &id, (4, 9));
    let run = Some(chain(1, 2, Stream::Urgent).incarnation);
    assert_finds(
        &with_losses(1..3, vec![gap(Stream::Evidence, 4, 9, run)], true),
        ProblemKind::Dropped,
        &id,
        (4, 9),
    );
    let report = assert_finds(
        &with_losses(1..3, vec![gap(Stream::Evidence, 4, 9, None)], false),
        ProblemKind::Dropped,
        &id,
        (4, 9),
    );
    assert!(report.problems[0].detail.contains("no signed head vouches"), "{}", report.problems[0]);
}

#[test]
fn a_key_counts_while_it_was_trusted() {
    let mut writer = Writer::new(1, 1, Stream::Urgent, None);
    let frames = vec![writer.lines(), writer.sign_at(100)];
    let kinds = |from_wall_ns, until_wall_ns| {
        let mut keys = Keys::default();
        let key = node_key(1).verifying_key();
        keys.trust_node(node(1), TrustedKey { key, from_wall_ns, until_wall_ns });
        let report = verify_with(&frames, Rules::default(), keys);
        report.problems.iter().map(|p| p.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(Some(100), Some(101)), []);
    assert_eq!(kinds(None, Some(100)), [ProblemKind::KeyNotValid]);
    assert_eq!(kinds(Some(101), None), [ProblemKind::KeyNotValid]);
    let nobody = verify_with(&frames, Rules::default(), Keys::default());
    assert_eq!(found(&nobody), [(ProblemKind::NoKey, Some(writer.id), None)]);
}

#[test]
fn memory_is_bounded_and_a_long_chain_still_verifies() {
    let mut writer = Writer::new(1, 1, Stream::Urgent, None);
    let mut verifier = ChainVerifier::new(Rules::default(), keys());
    let mut first_head = None;
    for i in 0..5000 {
        let block = writer.block(vec![Body::Note(String::new())]);
        feed(&mut verifier, &[block]);
        if i == 0 {
            first_head = Some(writer.sign());
        }
    }
    feed(&mut verifier, &[first_head.unwrap(), writer.sign()]);
    let report = verifier.finish();
    assert!(report.is_clean(), "{:#?}", report.problems);
    let judged = &report.chains[0];
    assert_eq!((judged.verified_up_to, judged.unsigned_blocks, judged.uncompared), (Some(5000), 0, 1));
}

#[test]
fn seqs_at_the_end_of_their_range_are_no_overflow() {
    let mut writer = Writer::new(1, 1, Stream::Urgent, None);
    writer.next_seq = u64::MAX - 3;
    let block = writer.lines();
    let mut statement = HeadStatement { chain: writer.id.clone(), head: writer.head, wall_ns: 0, blocks: 1 };
    let honest = SignedHead::sign(&statement, &node_key(1));
    statement.head.last_seq = u64::MAX;
    let beyond = SignedHead::sign(&statement, &node_key(1));
    let mut verifier = ChainVerifier::new(Rules::default(), keys());
    feed(&mut verifier, &[block]);
    verifier.before(&writer.id, Head { last_seq: u64::MAX, hash: writer.head.hash });
    verifier.signed_head(&honest);
    verifier.signed_head(&beyond);
    let all = Some((u64::MAX, u64::MAX));
    assert_eq!(found(&verifier.finish()), [(ProblemKind::TailDropped, Some(writer.id), all)]);
}

#[test]
fn headers_alone_verify_and_one_that_describes_no_block_is_refused() {
    let mut verifier = ChainVerifier::new(Rules::default(), keys());
    let mut headers = Vec::new();
    for frame in store() {
        match frame {
            Frame::Block(bytes) => {
                let block = Block::decode(bytes).unwrap();
                verifier.header(block.header(), block.hash());
                headers.push(block.header().clone());
            }
            other => feed(&mut verifier, &[other]),
        }
    }
    let mut backwards = headers[0].clone();
    (backwards.first_seq, backwards.last_seq) = (9, 2);
    verifier.header(&backwards, Hash([1; 32]));
    let report = verifier.finish();
    let id = chain(1, 1, Stream::Urgent);
    assert_eq!(found(&report), [(ProblemKind::Malformed, Some(id), Some((9, 2)))]);
    assert!(report.chains.iter().all(|c| c.verified_up_to == Some(c.last_seq)));
}
