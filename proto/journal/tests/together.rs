//! Readers beside a writer that recycles beneath them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const BLOCKS: u64 = 4_000;

fn length(seq: u64) -> usize {
    (seq.wrapping_mul(7919) % 6_000) as usize
}

fn check(entry: &Entry, last: &mut u64) {
    let seq = u64::from_le_bytes(entry.payload[..8].try_into().unwrap());
    assert!(seq > *last, "{seq} after {last}");
    assert_eq!(entry.payload[8..], payload(1, seq, length(seq)));
    *last = seq;
}

#[test]
fn readers_see_only_whole_frames_in_order_while_segments_are_recycled() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { preallocate_segments: 4, ..SMALL };
    let (mut journal, _) = Journal::open(dir.path(), options).unwrap();
    let written = AtomicU64::new(0);
    let followed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seq in 1..=BLOCKS {
                let mut bytes = seq.to_le_bytes().to_vec();
                bytes.extend_from_slice(&payload(1, seq, length(seq)));
                let at = journal.append_block(&info(1, seq), &bytes, 0).unwrap();
                journal.release_before(at.segment.saturating_sub(1));
                written.store(seq, Ordering::Release);
                // In the first half one reader is waited for now and then, so that it really follows.
                while seq % 16 == 0 && seq < BLOCKS / 2 && followed.load(Ordering::Acquire) + 16 < seq {
                    std::thread::yield_now();
                }
            }
        });
        scope.spawn(|| {
            let mut scan = Reader::open(dir.path()).unwrap().scan(Position::default());
            let (mut last, mut seen) = (0, 0u64);
            while last < BLOCKS {
                for entry in scan.by_ref() {
                    check(&entry.unwrap(), &mut last);
                    seen += 1;
                    followed.store(last, Ordering::Release);
                }
            }
            assert!(scan.damaged().is_empty(), "{:?}", scan.damaged());
            assert!(seen >= BLOCKS / 2 - 16, "{seen}");
        });
        scope.spawn(|| {
            // Comes anew each time, and asks the index.
            let reader = Reader::open(dir.path()).unwrap();
            while written.load(Ordering::Acquire) < BLOCKS {
                let mut last = 0;
                let mut scan = reader.scan(Position::default());
                scan.by_ref().for_each(|e| check(&e.unwrap(), &mut last));
                assert!(scan.damaged().is_empty(), "{:?}", scan.damaged());
                let blocks = reader.blocks().unwrap();
                assert!(blocks.is_sorted_by_key(|(at, _)| *at));
                for (at, listed) in blocks.iter().step_by(5) {
                    assert_eq!(*listed, info(1, listed.first_seq));
                    if let Some(entry) = reader.read_at(*at).unwrap() {
                        check(&entry, &mut (listed.first_seq - 1));
                    }
                }
            }
        });
    });
}
