use dogwatch::chain::{ChainVerifier, Keys, ReceiptStatement, Rules, TrustedKey};
use dogwatch::record::{
    Action, ActionState, Body, CleanupMode, Gap, Hash, LogLine, Moment, ObjectOutcome, PlannedObject,
};

use super::*;

const RUN: Incarnation = Incarnation([7; 16]);
const SEGMENT: u64 = 64 * 1024;

fn node() -> NodeName {
    "n1".parse().unwrap()
}

fn options(segments: u32) -> Options {
    Options { segment_bytes: SEGMENT, max_segments: segments, preallocate_segments: segments }
}

fn lane(dir: &Path, stream: Stream, run: Incarnation, segments: u32, spooled: bool) -> Lane {
    let (mut lane, opened) = Lane::open(dir, stream, options(segments), &node(), run, spooled).unwrap();
    lane.begin(Start {
        counter: 1,
        boot_id: [1; 16],
        predecessor: opened.predecessor.map(|(p, _)| p),
        agent_version: "1".to_owned(),
    });
    lane
}

/// A line that does not compress.
fn line(seq: Seq, bytes: usize) -> Record {
    let mut state = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let body = Body::Log(LogLine {
        source: "/var/log/x".into(),
        offset: seq,
        inode: 1,
        line: (0..bytes).map(|_| byte()).collect(),
        truncated: false,
        rules: Vec::new(),
        ..LogLine::default()
    });
    Record { seq, at: Moment { wall_ns: seq as i64, boot_ns: seq }, body }
}

fn seal(lane: &mut Lane, seq: Seq, bytes: usize) {
    lane.seal(&[line(seq, bytes)], &mut || [3; 16]).unwrap();
}

fn receipt(lane: &Lane, last_seq: Seq) -> SignedReceipt {
    let head = Head { last_seq, hash: dogwatch::record::Hash([9; 32]) };
    let statement = ReceiptStatement { chain: lane.chain.clone(), head, received_wall_ns: 1 };
    SignedReceipt::sign(&statement, &SigningKey::from_bytes(&[8; 32]))
}

fn seqs(dir: &Path, stream: Stream) -> Vec<(Seq, Seq)> {
    let blocks = Reader::open(&dir.join(stream.as_str())).unwrap().blocks().unwrap();
    blocks.into_iter().map(|(_, info)| (info.first_seq, info.last_seq)).collect()
}

#[test]
fn a_ring_that_nobody_waits_for_goes_round_after_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut lane = lane(dir.path(), Stream::Recorder, RUN, 3, false);
    for seq in 1..=20 {
        seal(&mut lane, seq, 20_000);
        if seq == 10 {
            // As after a failed sync.
            lane.journal = None;
        }
        lane.flush(1).unwrap();
    }
    assert_eq!(seqs(dir.path(), Stream::Recorder).last(), Some(&(20, 20)));
}

#[test]
fn a_failure_does_not_cost_what_was_released_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut lane = lane(dir.path(), Stream::Evidence, RUN, 4, true);
    for seq in 1..=6 {
        seal(&mut lane, seq, 20_000);
        lane.flush(1).unwrap();
    }
    let r = receipt(&lane, 5);
    lane.acknowledge(RUN, 5, r, 1);
    lane.journal = None;
    // Six more blocks fit once the first three segments are free again; nothing must be given up.
    for seq in 7..=10 {
        seal(&mut lane, seq, 20_000);
        lane.flush(1).unwrap();
    }
    assert_eq!(lane.unacked().iter().map(|u| u.first_seq).collect::<Vec<_>>(), [6, 7, 8, 9, 10]);
}

#[test]
fn blocks_and_heads_are_news_once_they_are_durable_and_receipts_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut lane = lane(dir.path(), Stream::Evidence, RUN, 4, true);
    let key = SigningKey::from_bytes(&[5; 32]);
    assert_eq!(lane.news(), 0);
    seal(&mut lane, 1, 1000);
    seal(&mut lane, 2, 1000);
    assert_eq!(lane.news(), 0, "not on the disk yet");
    lane.flush(1).unwrap();
    assert_eq!(lane.news(), 2);
    assert!(lane.sign(&key, 1).unwrap());
    assert_eq!(lane.news(), 3, "whoever sends heads must hear of one that comes without a block");
    assert!(!lane.sign(&key, 1).unwrap());
    let r = receipt(&lane, 2);
    lane.acknowledge(RUN, 2, r, 1);
    lane.flush(1).unwrap();
    assert_eq!(lane.news(), 3);
}

#[test]
fn a_head_that_is_signed_with_its_block_stands_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut lane = lane(dir.path(), Stream::Evidence, RUN, 4, true);
    let key = SigningKey::from_bytes(&[5; 32]);
    seal(&mut lane, 1, 1000);
    seal(&mut lane, 2, 1000);
    assert!(lane.is_unsigned());
    lane.flush_signed(&key, 7).unwrap();
    assert_eq!((lane.news(), lane.is_unsigned()), (3, false));
    assert!(!lane.sign(&key, 8).unwrap(), "nothing moved");
    lane.flush_signed(&key, 9).unwrap();
    assert_eq!(lane.news(), 3, "where nothing moved nothing is stated");
    let entries = Reader::open(&dir.path().join("evidence")).unwrap().scan(Position::default());
    let kinds: Vec<(FrameKind, Bytes)> = entries.map(|e| e.unwrap()).map(|e| (e.kind, e.payload)).collect();
    let [(FrameKind::Block, _), (FrameKind::Block, _), (FrameKind::SignedHead, head)] = &kinds[..] else {
        panic!("{:?}", kinds.iter().map(|(kind, _)| kind).collect::<Vec<_>>());
    };
    let said = SignedHead::from_bytes(head).and_then(|h| h.decode()).unwrap();
    assert_eq!((said.head, said.blocks, said.wall_ns), (lane.head(), 2, 7));
}

#[test]
fn what_the_disk_holds_already_is_not_appended_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut lane = lane(dir.path(), Stream::Evidence, RUN, 4, true);
    seal(&mut lane, 1, 1000);
    seal(&mut lane, 2, 1000);
    let (block, _) = &lane.unsynced[0];
    let h = block.header();
    let info = BlockInfo {
        chain: lane.chain.clone(),
        first_seq: 1,
        last_seq: 1,
        first_wall_ns: h.first_at.wall_ns,
        last_wall_ns: h.last_at.wall_ns,
        kinds: h.kinds,
        hash: block.hash(),
    };
    let at = lane.journal.as_mut().unwrap().append_block(&info, &block.encode(), 1).unwrap();
    lane.unsynced[0].1 = Some(at);
    lane.journal = None;
    lane.flush(1).unwrap();
    assert_eq!(seqs(dir.path(), Stream::Evidence), [(1, 1), (2, 2)]);
    assert_eq!(lane.unacked().front().unwrap().at, at);
}

#[test]
fn many_starts_do_not_look_like_a_full_ring() {
    let dir = tempfile::tempdir().unwrap();
    for start in 0..40 {
        let mut lane = lane(dir.path(), Stream::Evidence, Incarnation([start; 16]), 16, true);
        seal(&mut lane, 1, 100);
        lane.flush(1).unwrap();
        assert!(lane.pressure() < 0.5, "start {start}: {}", lane.pressure());
    }
}

#[test]
fn no_receipt_costs_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut lane = lane(dir.path(), Stream::Urgent, RUN, 4, true);
    seal(&mut lane, 1, 100);
    lane.flush(1).unwrap();
    let endless = SignedReceipt { statement: vec![0xff; 700_000], signature: [0; 64] };
    lane.acknowledge(RUN, 1, endless, 1);
    seal(&mut lane, 2, 100);
    lane.flush(1).unwrap();
    assert_eq!(seqs(dir.path(), Stream::Urgent), [(1, 1), (2, 2)]);
}

#[test]
fn a_refused_block_does_not_hold_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let mut lane = lane(dir.path(), Stream::Urgent, RUN, 4, true);
    seal(&mut lane, 1, 100);
    lane.flush(1).unwrap();
    lane.let_go(RUN, 1, 1);
    assert!(lane.unacked().is_empty());
    assert_eq!(lane.take_kept(), Some(Vec::new()));
    assert_eq!(lane.take_kept(), None);
}

#[test]
fn what_was_given_up_verifies_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::from_bytes(&[8; 32]);
    let mut evidence = lane(dir.path(), Stream::Evidence, RUN, 3, true);
    let mut urgent = lane(dir.path(), Stream::Urgent, RUN, 8, true);
    let mut given_up = Vec::new();
    for seq in 1..=20 {
        seal(&mut evidence, seq, 20_000);
        while evidence.flush(1).is_err() {
            given_up.extend(evidence.evict_oldest_segment().blocks);
        }
    }
    evidence.sign(&key, 1).unwrap();
    assert!(given_up.len() > 3);
    let gaps: Vec<Record> = given_up
        .iter()
        .zip(1..)
        .map(|(e, seq)| Record {
            seq,
            at: Moment::default(),
            body: Body::Gap(Gap {
                stream: Stream::Evidence,
                source: "journal".into(),
                after_seq: Some(e.first_seq - 1),
                before_seq: Some(e.last_seq + 1),
                count: Some(e.last_seq + 1 - e.first_seq),
                from_wall_ns: 0,
                to_wall_ns: 0,
                reason: "full".into(),
                incarnation: Some(e.incarnation),
            }),
        })
        .collect();
    urgent.seal(&gaps, &mut || [3; 16]).unwrap();
    urgent.flush(1).unwrap();
    urgent.sign(&key, 1).unwrap();

    let mut keys = Keys::default();
    keys.trust_node(node(), TrustedKey::always(key.verifying_key()));
    let mut verifier = ChainVerifier::new(Rules::store(), keys);
    for stream in [Stream::Evidence, Stream::Urgent] {
        for entry in Reader::open(&dir.path().join(stream.as_str())).unwrap().scan(Position::default()) {
            let entry = entry.unwrap();
            match entry.kind {
                FrameKind::Block => verifier.encoded_block(entry.payload),
                FrameKind::SignedHead => verifier.encoded_head(&entry.payload),
                _ => {}
            }
        }
    }
    let report = verifier.finish();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn a_plan_of_a_thousand_long_paths_fits_one_block() {
    let dir = tempfile::tempdir().unwrap();
    let (mut lane, _) = Lane::open(
        dir.path(),
        Stream::Urgent,
        Options { segment_bytes: 1024 * 1024, max_segments: 4, preallocate_segments: 1 },
        &node(),
        RUN,
        true,
    )
    .unwrap();
    let object = |i: u64| {
        let Body::Log(noise) = line(i, 32).body else { unreachable!() };
        let hex: String = noise.line.iter().map(|b| format!("{b:02x}")).collect();
        PlannedObject {
            path: format!("/var/log/pods/{}_{hex}_{}/{i}.log", "n".repeat(250), "p".repeat(250)).into(),
            device: i,
            inode: i * 7919,
            size_bytes: i * 104_729,
            allocated_bytes: i * 104_729,
            mtime_ns: i as i64 * 1_000_000_007,
            ctime_ns: i as i64 * 1_000_000_009,
            uid: 0,
            gid: 0,
            mode: 0o100_640,
            links: 1,
            cleaner: "rotated-logs".into(),
            tier: 1,
            why_safe: "a rotated log, 25 h old, of which two newer ones are kept".into(),
            outcome: ObjectOutcome::Removed,
            sha256: noise.line[..].try_into().ok().map(Hash),
            digest_partial: true,
            image: None,
            cut: None,
            atime_ns: None,
            btime_ns: None,
            preserved_bytes: None,
        }
    };
    let action = Action {
        id: "a-0123456789abcdef".into(),
        mount: "/".into(),
        mode: CleanupMode::Auto,
        state: ActionState::Done,
        reason: "the disk is filling".into(),
        finding_id: None,
        actor: "node".into(),
        planned_bytes: 1,
        freed_bytes: Some(1),
        available_before_bytes: Some(1),
        available_after_bytes: Some(1),
        unexplained: None,
        target_available_bytes: 1,
        objects: (1..=1000).map(object).collect(),
        refused: Vec::new(),
        expires_wall_ns: 0,
        image_store: None,
        detail: String::new(),
    };
    let record = Record { seq: 1, at: Moment::default(), body: Body::Action(Box::new(action)) };
    lane.seal(&[record], &mut || [3; 16]).unwrap();
    lane.flush(1).unwrap();
}
