//! The journal on a filesystem without a free byte.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use dogwatch::journal::{FrameKind, Journal, JournalError, Options, Position, Reader};
use dogwatch_e2e::loopfs::LoopFs;

const MIB: u64 = 1 << 20;
const OPTIONS: Options = Options { segment_bytes: MIB, max_segments: 8, preallocate_segments: 3 };

fn count(fs: &LoopFs) -> usize {
    Reader::open(&fs.path().join("journal")).unwrap().scan(Position::default()).map(Result::unwrap).count()
}

#[test]
fn preallocated_segments_take_appends_with_0_bytes_free_and_grow_again_later() {
    let fs = LoopFs::create(24 * MIB, "ext4", &["-m", "0"]).unwrap();
    let (mut journal, found) = Journal::open(&fs.path().join("journal"), OPTIONS).unwrap();
    assert_eq!(found.preallocated_segments, 3);
    fs.fill().unwrap();

    let piece = vec![7u8; 100_000];
    let mut appended = 0;
    let refused = loop {
        match journal.append(FrameKind::Decision, &piece, 1).and_then(|_| journal.sync()) {
            Ok(()) => appended += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, JournalError::Full { segments: 3, .. }), "{refused:?}");
    assert!(appended >= 3 * 8, "{appended} pieces in three segments");
    assert_eq!(count(&fs), appended);

    // Released ones are used again, for as long as it takes.
    for _ in 0..100 {
        journal.release_before(journal.segments().last().unwrap().number);
        journal.append(FrameKind::Decision, &piece, 1).unwrap();
        journal.sync().unwrap();
    }
    assert_eq!(journal.segments().len(), 3);
    // Also over a restart, clean or not, as long as there is nothing free.
    for clean in [true, false] {
        if clean {
            journal.close().unwrap()
        } else {
            drop(journal)
        }
        let (reopened, found) = Journal::open(&fs.path().join("journal"), OPTIONS).unwrap();
        assert_eq!(found.clean, clean);
        journal = reopened;
        journal.release_before(journal.segments().last().unwrap().number);
        for _ in 0..20 {
            journal.append(FrameKind::Decision, &piece, 1).unwrap();
            journal.sync().unwrap();
            journal.release_before(journal.segments().last().unwrap().number);
        }
    }

    fs.unfill().unwrap();
    let before = journal.segments().len();
    for _ in 0..30 {
        journal.append(FrameKind::Decision, &piece, 1).unwrap();
    }
    assert!(journal.segments().len() > before, "room again, so the ring grows before it recycles");
}

#[test]
fn the_first_start_on_a_nearly_full_disk_takes_less_or_refuses_with_figures() {
    let fs = LoopFs::memory(3 * MIB + 64 * 1024).unwrap();
    let (mut journal, found) = Journal::open(&fs.path().join("journal"), OPTIONS).unwrap();
    assert_eq!(found.preallocated_segments, 2, "one segment's size is left to others");
    assert_eq!(found.remarks.len(), 1);
    journal.append(FrameKind::Decision, b"it works", 1).unwrap();
    journal.close().unwrap();

    let fs = LoopFs::create(16 * MIB, "ext4", &["-m", "0"]).unwrap();
    fs.fill().unwrap();
    let refused = Journal::open(&fs.path().join("journal"), OPTIONS).unwrap_err();
    // ext4 may not even have a block for a folder.
    match refused {
        JournalError::NoRoom { detail, .. } => assert!(detail.contains("1048576") || detail.contains("lock")),
        JournalError::Io { what: "cannot create", source, .. } => {
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
    fs.unfill().unwrap();
    std::fs::create_dir(fs.path().join("journal")).unwrap();
    fs.fill().unwrap();
    let refused = Journal::open(&fs.path().join("journal"), OPTIONS).unwrap_err();
    assert!(matches!(refused, JournalError::NoRoom { .. }), "{refused:?}");
    assert!(refused.to_string().contains("free some space"), "{refused}");
}

/// Changing names takes room in a folder: an ext4 folder of the usual ring stopped after some 700 turns.
#[test]
fn a_ring_turns_for_ever_with_0_bytes_free() {
    for (segments, turns) in [(64, 1_500), (300, 500)] {
        let options =
            Options { segment_bytes: 64 << 10, max_segments: segments, preallocate_segments: segments };
        let fs = LoopFs::create(48 * MIB, "ext4", &["-m", "0"]).unwrap();
        let (mut journal, found) = Journal::open(&fs.path().join("journal"), options).unwrap();
        assert_eq!((found.preallocated_segments, found.remarks), (segments, vec![]));
        fs.fill().unwrap();
        let piece = vec![7u8; 40_000];
        for turn in 0..turns {
            journal.release_before(u64::MAX);
            let kept = journal.append(FrameKind::Decision, &piece, 1).and_then(|_| journal.sync());
            assert!(kept.is_ok(), "{segments} segments, turn {turn}: {kept:?}");
        }
        assert!(journal.segments().last().unwrap().number >= turns, "each piece begins a segment");
    }
}
