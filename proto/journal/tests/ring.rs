//! One writer, its ring, its opening and closing.

use super::*;

#[test]
fn a_new_journal_is_clean_and_gives_back_what_it_got() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("deep/journal");
    let (mut journal, found) = Journal::open(&at, SMALL).unwrap();
    assert!(found.clean && found.fresh && found.heads.is_empty() && found.remarks.is_empty());
    assert_eq!(found.preallocated_segments, 2);
    let mut appended = vec![append_block(&mut journal, 1, 1, 5_000)];
    let at_head = journal.append(FrameKind::SignedHead, b"head", 7).unwrap();
    appended.push(Appended { at: at_head, kind: FrameKind::SignedHead, payload: "head".into(), info: None });
    appended.push(append_block(&mut journal, 2, 1, 0));
    journal.sync().unwrap();
    assert_same(&read(&at).0, &appended);
    assert_eq!(journal.segments()[0].first_append_wall_ns, 1);
    journal.close().unwrap();

    let (entries, damaged) = read(&at);
    assert_same(&entries, &appended);
    assert!(damaged.is_empty());
    let (journal, found) = Journal::open(&at, SMALL).unwrap();
    assert!(found.clean && !found.fresh && found.remarks.is_empty(), "{found:?}");
    assert_eq!(found.heads, [1, 2].map(|n| (chain(n), Head { last_seq: 1, hash: info(n, 1).hash })));
    assert_eq!(journal.segments().len(), 1);
    let times = journal.segments().remove(0);
    assert_eq!((times.first_append_wall_ns, times.last_append_wall_ns), (1, 7));
}

#[test]
fn a_dropped_writer_was_not_clean_even_if_it_appended_nothing() {
    let dir = tempfile::tempdir().unwrap();
    drop(Journal::open(dir.path(), SMALL).unwrap());
    let (journal, found) = Journal::open(dir.path(), SMALL).unwrap();
    assert!(!found.clean && !found.fresh);
    journal.close().unwrap();
    assert!(Journal::open(dir.path(), SMALL).unwrap().1.clean);
}

#[test]
fn a_second_writer_is_refused_at_once_and_readers_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    assert!(matches!(Journal::open(dir.path(), SMALL), Err(JournalError::Locked { .. })));
    let appended = append_block(&mut journal, 1, 1, 10);
    assert_same(&read(dir.path()).0, &[appended]);
}

#[test]
fn options_that_no_journal_can_have_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for bad in [
        Options { segment_bytes: 4096, ..SMALL },
        Options { segment_bytes: 1_000_001, ..SMALL },
        Options { max_segments: 1, ..SMALL },
    ] {
        assert!(matches!(Journal::open(dir.path(), bad), Err(JournalError::Options(_))));
    }
}

#[test]
fn a_frame_too_large_for_a_segment_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let first = append_block(&mut journal, 1, 1, 100);
    let huge = vec![0; 64 * 1024];
    assert!(matches!(journal.append(FrameKind::Decision, &huge, 0), Err(JournalError::TooLarge { .. })));
    let second = append_block(&mut journal, 1, 2, 40_000);
    assert_same(&read(dir.path()).0, &[first, second]);
}

#[test]
fn a_full_ring_says_so_changes_nothing_and_goes_on_once_released() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let mut appended = Vec::new();
    for seq in 1..=4 {
        appended.push(append_block(&mut journal, 1, seq, 30_000));
    }
    let refused = journal.append_block(&info(1, 5), &payload(1, 5, 30_000), 5);
    assert!(matches!(refused, Err(JournalError::Full { segments: 4, .. })), "{refused:?}");
    // A small one still finds room in the segment that was not given up for it.
    appended.push(append_block(&mut journal, 2, 1, 100));
    assert_same(&read(dir.path()).0, &appended);

    journal.release_before(appended[1].at.segment);
    appended.push(append_block(&mut journal, 1, 5, 30_000));
    assert_same(&read(dir.path()).0, &appended[1..]);
    assert!(journal.append_block(&info(1, 6), &payload(1, 6, 30_000), 6).is_err());
    // What expired is still told by the heads that the oldest segment left begins with.
    let before = Reader::open(dir.path()).unwrap().heads_before(appended[1].at.segment).unwrap();
    assert_eq!(before, vec![(chain(1), Head { last_seq: 1, hash: info(1, 1).hash })]);
}

#[test]
fn retention_takes_only_what_is_released_and_keeps_as_many_files_as_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let appended: Vec<_> = (1..=4).map(|seq| append_block(&mut journal, 1, seq, 30_000)).collect();
    journal.expire_before(u64::MAX).unwrap();
    assert_eq!(journal.segments().len(), 4);
    journal.release_before(u64::MAX);
    journal.expire_before(appended[2].at.segment).unwrap();
    assert_same(&read(dir.path()).0, &appended[2..]);
    journal.expire_before(u64::MAX).unwrap();
    assert_same(&read(dir.path()).0, &appended[3..]);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 3, "the segment being written, one spare, the lock");
}

#[test]
fn positions_are_not_used_again_after_everything_expired() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let first = append_block(&mut journal, 1, 1, 30_000);
    journal.close().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    journal.release_before(u64::MAX);
    journal.expire_before(u64::MAX).unwrap();
    assert!(journal.segments().is_empty());
    drop(journal);
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    assert!(append_block(&mut journal, 1, 2, 10).at > first.at);
}

#[test]
fn a_crash_loop_does_not_eat_the_ring() {
    let dir = tempfile::tempdir().unwrap();
    let mut appended = Vec::new();
    let reader = Reader::open(dir.path()).unwrap();
    // A scan that lives through it all meets everything once, though segments vanish beneath it.
    let mut tail = reader.scan(Position::default());
    let mut tailed = Vec::new();
    for run in 1..=40 {
        let (mut journal, found) = Journal::open(dir.path(), SMALL).unwrap();
        assert_eq!(found.clean, run == 1);
        if run % 3 != 0 {
            appended.push(append_block(&mut journal, 1, run, 500));
        }
        tailed.extend(tail.by_ref().map(Result::unwrap));
        assert!(journal.segments().len() <= 3, "run {run}: {:?}", journal.segments());
    }
    assert_same(&read(dir.path()).0, &appended);
    assert_same(&tailed, &appended);
    assert!(tail.damaged().is_empty());

    // Positions handed out before their frames moved still find them, by reading and by going on from there.
    for (index, a) in appended.iter().enumerate() {
        assert_same(&[reader.read_at(a.at).unwrap().unwrap()], std::slice::from_ref(a));
        let rest: Vec<_> = reader.scan_after(a.at).map(Result::unwrap).collect();
        assert_same(&rest, &appended[index + 1..]);
        let from: Vec<_> = reader.scan(a.at).map(Result::unwrap).collect();
        assert_same(&from, &appended[index..]);
    }
    let blocks = reader.blocks().unwrap();
    assert_eq!(blocks, appended.iter().map(|a| (a.at, a.info.clone().unwrap())).collect::<Vec<_>>());
}

#[test]
fn a_crash_while_coalescing_shows_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut appended = Vec::new();
    for run in 1..=2 {
        let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
        appended.push(append_block(&mut journal, 1, run, 500));
    }
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    appended.push(append_block(&mut journal, 1, 3, 500));
    drop(journal);
    let names: Vec<_> = Reader::open(dir.path()).unwrap().segments().unwrap();
    let kept: Vec<_> = names
        .iter()
        .map(|n| (segment::file_name(*n), std::fs::read(dir.path().join(segment::file_name(*n))).unwrap()))
        .collect();
    assert_eq!(kept.len(), 3);
    drop(Journal::open(dir.path(), SMALL).unwrap());
    assert_eq!(Reader::open(dir.path()).unwrap().segments().unwrap().len(), 1);

    // As if the crash had come before the old names were gone: any number of them is left beside the copy.
    for left in 1..=3 {
        for (name, bytes) in &kept[..left] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        assert_same(&read(dir.path()).0, &appended);
        assert_eq!(Reader::open(dir.path()).unwrap().blocks().unwrap().len(), 3);
        let (journal, found) = Journal::open(dir.path(), SMALL).unwrap();
        assert_eq!(found.heads, vec![(chain(1), Head { last_seq: 3, hash: info(1, 3).hash })]);
        assert_same(&read(dir.path()).0, &appended);
        drop(journal);
    }
}

#[test]
fn thirty_thousand_chains_are_carried_and_more_than_fit_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 32 << 20, max_segments: 3, preallocate_segments: 1 };
    let (mut journal, _) = Journal::open(dir.path(), options).unwrap();
    let named = |n: u32| {
        let mut i = info(1, 1);
        i.chain.node = format!("worker-{n}.example").parse().unwrap();
        i
    };
    for n in 0..30_000 {
        journal.append_block(&named(n), b"x", 1).unwrap();
    }
    journal.close().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), options).unwrap();
    assert_eq!(journal.heads().len(), 30_000);
    let at = journal.append(FrameKind::Decision, b"next", 1).unwrap();
    let carried = Reader::open(dir.path()).unwrap().heads_before(at.segment).unwrap();
    assert_eq!(carried.len(), 30_000);
    drop(journal);

    let small = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(small.path(), SMALL).unwrap();
    for n in 0..300 {
        journal.append_block(&named(n), b"x", 1).unwrap();
    }
    assert_eq!(journal.heads().len() as u64 + journal.heads_dropped(), 300);
    assert!(journal.heads_dropped() > 0);
    assert!(journal.head(&named(299).chain).is_some() && journal.head(&named(0).chain).is_none());
}

#[test]
fn foreign_and_broken_files_are_remarks() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let appended = append_block(&mut journal, 1, 1, 100);
    journal.close().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "hello").unwrap();
    std::fs::write(dir.path().join("00000000000000000000.seg"), "").unwrap();
    std::fs::write(dir.path().join("00000000000000000009.seg"), vec![0xa5; 100_000]).unwrap();
    std::fs::create_dir(dir.path().join("00000000000000000007.seg")).unwrap();
    std::fs::write(dir.path().join("partial-00000000000000000001.seg"), "half").unwrap();
    let (entries, damaged) = read(dir.path());
    assert_same(&entries, std::slice::from_ref(&appended));
    assert_eq!(damaged.len(), 3);
    let (mut journal, found) = Journal::open(dir.path(), Options { max_segments: 8, ..SMALL }).unwrap();
    assert_eq!(found.remarks.len(), 4, "{:?}", found.remarks);
    assert!(!dir.path().join("partial-00000000000000000001.seg").exists());
    assert_eq!(std::fs::read(dir.path().join("notes.txt")).unwrap(), b"hello");
    let next = append_block(&mut journal, 1, 2, 100);
    assert!(next.at.segment >= 10);
    assert_same(&read(dir.path()).0, &[appended, next]);
}

#[test]
fn a_waiting_scan_is_cheap_to_ask_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(dir.path(), SMALL).unwrap();
    let mut scan = Reader::open(dir.path()).unwrap().scan(Position::default());
    assert!(scan.next().is_none());
    for seq in 1..=20 {
        let a = append_block(&mut journal, 1, seq, 9_000);
        journal.release_before(a.at.segment);
        assert_same(&[scan.next().unwrap().unwrap()], &[a]);
        assert!(scan.next().is_none() && scan.next().is_none());
    }
    // Of this thread's own time: what others do meanwhile is no cost of a question.
    let began = cpu_seconds();
    assert!((0..10_000).all(|_| scan.next().is_none()));
    let took = cpu_seconds() - began;
    assert!(took < 2.0, "10,000 questions took {took} s");
}

fn cpu_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}
