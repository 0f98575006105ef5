//! Version 1 as it was written once, read forever.
//!
//! The files under `proto/golden/v1` are never written anew for that version: a change that cannot read them breaks
//! every store in the field. `DOGWATCH_WRITE_GOLDEN=1` writes those that are missing, for a new version's folder.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::*;
use crate::chain::{ChainId, Head, HeadStatement, ReceiptStatement, SignedHead, SignedReceipt, fingerprint};
use crate::record::*;

/// The block's hash.
const HASH: &str = "247400d177e417815e6752e4949b6db346f14e55c816ac5b28924291fa3978f7";
/// Fingerprints of the keys that signed.
const NODE_KEY: &str = "34750f98bd59fcfc";
const COLLECTOR_KEY: &str = "6a3803d5f059902a";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/golden/v1").join(name)
}

/// The golden file, made by `make` where it is missing and the environment asks for it.
fn golden(name: &str, make: impl FnOnce() -> Vec<u8>) -> Bytes {
    let path = file(name);
    if !path.exists() && std::env::var_os("DOGWATCH_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, make()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into()
}

fn node_key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn collector_key() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

fn chain() -> ChainId {
    ChainId {
        node: "node-7.example".parse().unwrap(),
        incarnation: Incarnation([0xab; 16]),
        stream: Stream::Urgent,
    }
}

fn receipt() -> ReceiptStatement {
    ReceiptStatement {
        chain: ChainId { incarnation: Incarnation([0xaa; 16]), ..chain() },
        head: Head { last_seq: 41, hash: Hash([0x11; 32]) },
        received_wall_ns: 1_790_000_000_000_000_001,
    }
}

fn place() -> Place {
    let ChainId { node, incarnation, stream } = chain();
    let predecessor =
        Predecessor { incarnation: Incarnation([0xaa; 16]), last_seq: 41, head: Hash([0x11; 32]) };
    Place {
        node,
        incarnation,
        stream,
        previous: Hash::ZERO,
        start: Some(Start {
            counter: 2,
            boot_id: [0x22; 16],
            predecessor: Some(predecessor),
            agent_version: "0.1.0".to_owned(),
        }),
        receipt: Some(SignedReceipt::sign(&receipt(), &collector_key())),
    }
}

fn sample() -> Sample {
    let pressure = Pressure {
        some_avg10: 1.5,
        some_avg60: 0.25,
        some_total_us: 7,
        full_avg10: 0.5,
        full_avg60: 0.125,
        full_total_us: 3,
    };
    let mount = Mount {
        path: "/var/lib".to_owned(),
        fs: "ext4".to_owned(),
        device: "/dev/sda1".to_owned(),
        dev_major: 8,
        dev_minor: 1,
        total_bytes: 100 << 30,
        free_bytes: 7 << 30,
        available_bytes: 2 << 30,
        inodes_total: 6_553_600,
        inodes_free: 12,
        read_only: true,
    };
    Sample {
        mounts: vec![mount],
        memory: Some(Memory {
            total_bytes: 16 << 30,
            available_bytes: 1 << 30,
            free_bytes: 2,
            cached_bytes: 3,
            dirty_bytes: 4,
            slab_bytes: 5,
            swap_total_bytes: 6,
            swap_free_bytes: 7,
            oom_kills_total: Some(0),
            pressure: Some(pressure),
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            online: 2,
            user_us: 1,
            nice_us: 2,
            system_us: 3,
            idle_us: 4,
            iowait_us: 5,
            irq_us: 6,
            softirq_us: 7,
            steal_us: 8,
            load1: 0.5,
            load5: 1.25,
            load15: 2.0,
            pressure: Some(pressure),
            io_pressure: None,
            ..Cpu::default()
        }),
        processes: vec![Process {
            pid: 4242,
            name: "filler".to_owned(),
            start_ticks: 99,
            cpu_percent: 12.5,
            resident_bytes: 1 << 20,
            state: "R".to_owned(),
            cgroup: "/kubepods/pod1".to_owned(),
            ..Process::default()
        }],
        self_cost: SelfCost {
            cpu_us: 1,
            resident_bytes: 2,
            queue_bytes: 3,
            dropped_records: 4,
            ..SelfCost::default()
        },
        late_ticks: 5,
        failed: vec!["psi: not supported".to_owned()],
        ..Sample::default()
    }
}

fn finding() -> Finding {
    Finding {
        id: "f-00112233445566".to_owned(),
        rule: "disk-high-water".to_owned(),
        severity: Severity::High,
        state: FindingState::Raised,
        subject: Subject::new("mount", "/var/lib"),
        summary: "2 GiB of 100 GiB are available".to_owned(),
        explanation: "below 5 %".to_owned(),
        citations: vec![RecordRef {
            node: chain().node,
            incarnation: chain().incarnation,
            stream: Stream::Evidence,
            seq: 1,
        }],
        facts: vec![Fact::new("available_bytes", 2u64 << 30)],
        raised_wall_ns: 1_790_000_000_000_000_000,
        pod: None,
    }
}

fn action() -> Action {
    use std::os::unix::ffi::OsStringExt;
    let path = PathBuf::from(std::ffi::OsString::from_vec(b"/var/log/\xff.gz".to_vec()));
    Action {
        id: "a-00112233445566".to_owned(),
        mount: "/var/lib".to_owned(),
        mode: CleanupMode::Auto,
        state: ActionState::Done,
        reason: "high water".to_owned(),
        finding_id: Some("f-00112233445566".to_owned()),
        actor: "node".to_owned(),
        planned_bytes: 4096,
        freed_bytes: Some(4096),
        available_before_bytes: Some(2 << 30),
        available_after_bytes: Some((2 << 30) + 1),
        unexplained: Some(Unexplained { bytes: -4095, reason: "other writers".to_owned() }),
        target_available_bytes: 10 << 30,
        objects: vec![PlannedObject {
            path: path.clone(),
            device: 2049,
            inode: 77,
            size_bytes: 4000,
            allocated_bytes: 4096,
            mtime_ns: 1,
            ctime_ns: -2,
            uid: 3,
            gid: 4,
            mode: 0o100_644,
            links: 1,
            cleaner: "rotated-logs".to_owned(),
            tier: 1,
            why_safe: "rotated and compressed".to_owned(),
            outcome: ObjectOutcome::Removed,
            sha256: Some(Hash([0x33; 32])),
            digest_partial: true,
            image: None,
            cut: None,
            atime_ns: None,
            btime_ns: None,
            preserved_bytes: None,
        }],
        refused: vec![
            Refusal { path: Some(path), reason: "open".to_owned() },
            Refusal { path: None, reason: "budget".to_owned() },
        ],
        expires_wall_ns: 1_790_000_600_000_000_000,
        image_store: None,
        detail: "done".to_owned(),
    }
}

fn records() -> Vec<Record> {
    let bodies = [
        Body::Sample(std::sync::Arc::new(sample())),
        Body::Log(LogLine {
            source: "/var/log/pods/a/0.log".to_owned(),
            offset: 512,
            inode: 9,
            line: b"no space left on device \xfe".to_vec(),
            truncated: true,
            rules: vec!["enospc".to_owned()],
            ..LogLine::default()
        }),
        Body::Finding(Box::new(finding())),
        Body::Action(Box::new(action())),
        Body::Gap(Gap {
            stream: Stream::Evidence,
            source: "journal".to_owned(),
            after_seq: Some(40),
            before_seq: None,
            count: Some(0),
            from_wall_ns: -1,
            to_wall_ns: 1,
            reason: "unclean stop".to_owned(),
            incarnation: Some(Incarnation([0xaa; 16])),
        }),
        Body::Note("started".to_owned()),
    ];
    let at = |seq: u64| Moment { wall_ns: 1_790_000_000_000_000_000 + seq as i64, boot_ns: seq };
    bodies.into_iter().zip(1..).map(|(body, seq)| Record { seq, at: at(seq), body }).collect()
}

fn block() -> Bytes {
    golden("block.bin", || {
        let mut salt = 0;
        let salts = &mut || {
            salt += 1;
            [salt; 16]
        };
        Block::seal(place(), &records(), salts).unwrap().encode()
    })
}

#[test]
fn a_block_of_version_1_is_read_as_it_was_meant() {
    let block = Block::decode(block()).unwrap();
    assert_eq!(block.hash().to_string(), HASH);
    let h = block.header();
    assert_eq!((&h.node, h.incarnation, h.stream), (&chain().node, chain().incarnation, chain().stream));
    assert_eq!((h.first_seq, h.last_seq, h.kinds, h.previous), (1, 6, Kinds(0b11_1111), Hash::ZERO));
    assert_eq!((&h.start, &h.receipt), (&place().start, &place().receipt));
    assert_eq!(block.records(Kinds(u32::MAX)).unwrap(), records());
}

#[test]
fn a_block_of_version_1_keeps_its_bytes() {
    let bytes = block();
    let read = Block::decode(bytes.clone()).unwrap();
    assert_eq!(read.encode(), bytes);
    assert_eq!(read.withhold(3).hash().to_string(), HASH);
}

#[test]
fn statements_of_version_1_are_read_and_verify() {
    let statement = HeadStatement {
        chain: chain(),
        head: Head { last_seq: 6, hash: Hash::try_from(HASH.to_owned()).unwrap() },
        wall_ns: 1_790_000_000_000_000_100,
        blocks: 1,
    };
    let head = golden("signed-head.bin", || SignedHead::sign(&statement, &node_key()).encode());
    let head = SignedHead::from_bytes(&head).unwrap();
    assert_eq!(head.verify(&node_key().verifying_key()).unwrap(), statement);
    assert!(head.verify(&collector_key().verifying_key()).is_err());

    let bytes = golden("receipt.bin", || SignedReceipt::sign(&receipt(), &collector_key()).encode());
    let read = SignedReceipt::from_bytes(&bytes).unwrap();
    assert_eq!(read.verify(&collector_key().verifying_key()).unwrap(), receipt());
    // A signature is for one purpose: the same bytes are no head.
    let as_head = SignedHead { statement: read.statement, signature: read.signature };
    assert!(as_head.verify(&collector_key().verifying_key()).is_err());
}

#[test]
fn fingerprints_of_version_1_stay() {
    let prints = [node_key(), collector_key()].map(|k| fingerprint(&k.verifying_key()));
    assert_eq!(prints, [NODE_KEY, COLLECTOR_KEY]);
}
