//! Files that grow, rotate, are truncated, vanish and come back.

mod tail_rig;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dogwatch::record::{Moment, Stream};
use dogwatch_agent::tail::{Resume, Start, TailEvent, Tailer};
use tail_rig::{Rig, config, mark, numbered, numbers};

const LATER: Duration = Duration::from_secs(6);

#[test]
fn what_is_there_is_skipped_and_what_comes_is_read() {
    let mut rig = Rig::new("*.log");
    rig.config.start = Start::End;
    rig.append("old.log", "before\nhalf");
    rig.turn();
    rig.append("old.log", " and half\nafter\npart");
    rig.append("new.log", "first\n");
    rig.turn();
    assert_eq!(rig.lines(), ["half and half", "after", "first"]);
    rig.append("old.log", "ial\n");
    rig.turn();
    assert_eq!(rig.lines()[3..], ["partial"]);
    let offsets: Vec<u64> = rig.recorded().map(|l| l.offset).collect();
    assert_eq!(offsets, [7, 21, 0, 27]);
}

#[test]
fn a_file_is_left_alone_only_while_nothing_waits_and_its_folder_is_watched() {
    let mut rig = Rig::new("*.log");
    let folder = rig.dir.path().canonicalize().unwrap();
    let id = |folder: &std::path::Path| fs::metadata(folder).map(|m| (m.dev(), m.ino())).unwrap();
    let watched = |rig: &Rig, folders: &[&std::path::Path]| {
        let folders = folders.iter().map(|f| (f.to_path_buf(), id(f))).collect();
        rig.tailer.as_ref().unwrap().rest(rig.now, &folders).is_some()
    };
    rig.append("a.log", "one\n");
    rig.turn();
    assert!(!watched(&rig, &[&folder]), "the line is not durable");
    rig.commit();
    rig.tailer.as_mut().unwrap().checkpoint_due(rig.now);
    assert!(watched(&rig, &[&folder]));
    assert!(!watched(&rig, &[]), "nobody would tell of growth");
    let another = [(folder.clone(), id(std::path::Path::new("/")))].into();
    let tailer = rig.tailer.as_ref().unwrap();
    assert_eq!(tailer.rest(rig.now, &another), None, "another folder has its name now");
    rig.append("a.log", "2026-01-01T00:00:00.000000000Z stdout P in parts\n");
    rig.turn();
    rig.commit();
    rig.turn_after(LATER);
    rig.commit();
    rig.tailer.as_mut().unwrap().checkpoint_due(rig.now);
    fs::rename(rig.path("a.log"), rig.path("b.txt")).unwrap();
    rig.turn();
    assert!(!watched(&rig, &[&folder]), "what was rotated is closed after a time");
}

#[test]
fn a_match_comes_with_context_also_over_chunks_and_restarts() {
    let mut rig = Rig::new("*.log");
    rig.config.emit_all = false;
    rig.append("a.log", "1\n2\n3\n");
    rig.turn();
    rig.append("a.log", "HIT a\n");
    rig.turn();
    let (checkpoint, journaled) = (rig.commit(), rig.journaled());
    rig.append("a.log", "4\n5\nHIT b\n");
    rig.start(Some(checkpoint), journaled);
    rig.turn();
    assert_eq!(rig.evidence(), ["2~", "3~", "HIT a!", "4~", "5~", "HIT b!"]);
    assert_eq!(rig.tailer.as_ref().unwrap().stats().matches, 1);
}

#[test]
fn secrets_do_not_leave() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "HIT password=hunter2 end\n");
    rig.turn();
    assert_eq!(rig.lines(), ["HIT password=[masked:password] end"]);
}

#[test]
fn a_renamed_file_is_read_to_its_end_and_closed_when_quiet() {
    let mut rig = Rig::new("app.log");
    rig.append("app.log", "one\n");
    rig.turn();
    fs::rename(rig.path("app.log"), rig.path("app.log.1")).unwrap();
    rig.append("app.log", "three\n");
    rig.turn();
    rig.append("app.log.1", "two\nunfinished");
    rig.turn();
    assert_eq!(rig.lines(), ["one", "three", "two"]);
    rig.turn_after(LATER);
    rig.turn_after(LATER);
    assert_eq!(rig.lines(), ["one", "three", "two", "unfinished"]);
    assert!(rig.recorded().all(|l| l.source.ends_with("app.log")));
    rig.commit();
    rig.turn();
    let stats = rig.tailer.as_ref().unwrap().stats();
    assert_eq!((stats.open_files, stats.known_files), (1, 1));
    assert!(rig.gaps().is_empty() && rig.problems().is_empty());
}

#[test]
fn a_file_deleted_before_it_was_read_is_read_through_its_descriptor() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", "one\n");
    rig.turn();
    rig.append("a.log", "two\n");
    fs::remove_file(rig.path("a.log")).unwrap();
    rig.turn();
    assert_eq!(rig.lines(), ["one", "two"]);
    rig.turn_after(LATER);
    rig.commit();
    rig.turn();
    assert_eq!(rig.tailer.as_ref().unwrap().stats().known_files, 0);
}

#[test]
fn rotation_while_the_agent_is_down_loses_and_doubles_nothing() {
    for glob in ["app.log", "app.log*"] {
        let mut rig = Rig::new(glob);
        rig.append("app.log", &numbered(0..10));
        rig.turn();
        let checkpoint = rig.commit();
        rig.append("app.log", &numbered(10..20));
        fs::rename(rig.path("app.log"), rig.path("app.log.1")).unwrap();
        rig.append("app.log", &numbered(20..30));
        rig.start(Some(checkpoint), Vec::new());
        rig.turn();
        let mut got = numbers(&rig.lines());
        got.sort_unstable();
        assert_eq!(got, (0..30).collect::<Vec<_>>(), "{glob}");
        // And what was rotated and ended stays so over another restart.
        rig.turn_after(LATER);
        let checkpoint = rig.commit();
        rig.start(Some(checkpoint), Vec::new());
        rig.turn();
        assert_eq!(rig.lines().len(), 30, "{glob}");
        assert!(rig.gaps().is_empty(), "{:?}", rig.gaps());
    }
}

#[test]
fn several_rotations_while_the_agent_is_down_lose_and_double_nothing() {
    let mut rig = Rig::new("app.log");
    rig.append("app.log", &numbered(0..10));
    rig.turn();
    let checkpoint = rig.commit();
    for n in 1..=4 {
        rig.append("app.log", &numbered(n * 10..n * 10 + 5));
        fs::rename(rig.path("app.log"), rig.path(&format!("app.log.{n}"))).unwrap();
        // Birth times have the grain of the kernel's tick.
        std::thread::sleep(Duration::from_millis(15));
        rig.append("app.log", &numbered(n * 10 + 5..n * 10 + 10));
    }
    rig.start(Some(checkpoint), Vec::new());
    rig.turn();
    let mut got = numbers(&rig.lines());
    got.sort_unstable();
    assert_eq!(got, (0..50).collect::<Vec<_>>());
}

#[test]
fn copytruncate_is_read_on_from_the_copy() {
    for glob in ["app.log", "app.log*"] {
        for sweep_between in [false, true] {
            let mut rig = Rig::new(glob);
            rig.append("app.log", &numbered(0..10));
            rig.turn();
            rig.append("app.log", &numbered(10..20));
            fs::copy(rig.path("app.log"), rig.path("app.log.1")).unwrap();
            if sweep_between {
                rig.turn();
                assert_eq!(rig.lines().len(), 20);
            }
            fs::OpenOptions::new().write(true).open(rig.path("app.log")).unwrap().set_len(0).unwrap();
            rig.append("app.log", &numbered(20..40));
            for _ in 0..4 {
                rig.turn_after(LATER);
            }
            let mut got = numbers(&rig.lines());
            got.sort_unstable();
            assert_eq!(got, (0..40).collect::<Vec<_>>(), "{glob} {sweep_between}");
            assert!(rig.gaps().is_empty(), "{:?}", rig.gaps());
            let checkpoint = rig.commit();
            rig.start(Some(checkpoint), Vec::new());
            rig.turn();
            assert_eq!(rig.lines().len(), 40, "{glob} {sweep_between}");
        }
    }
}

#[test]
fn copytruncate_while_the_agent_is_down_is_read_on_from_the_copy() {
    let mut rig = Rig::new("app.log");
    rig.append("app.log", &numbered(0..10));
    rig.turn();
    let checkpoint = rig.commit();
    rig.append("app.log", &numbered(10..20));
    fs::copy(rig.path("app.log"), rig.path("app.log.1")).unwrap();
    fs::write(rig.path("app.log"), numbered(20..60)).unwrap();
    rig.start(Some(checkpoint), Vec::new());
    rig.turn();
    let mut got = numbers(&rig.lines());
    got.sort_unstable();
    assert_eq!(got, (0..60).collect::<Vec<_>>());
}

#[test]
fn truncation_without_a_copy_is_a_gap_with_figures() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", &numbered(0..10));
    rig.turn();
    let read = fs::metadata(rig.path("a.log")).unwrap().len();
    rig.append("a.log", "unfinished");
    rig.turn();
    fs::write(rig.path("a.log"), "x\n").unwrap();
    rig.turn();
    assert_eq!(rig.lines()[10..], ["x"]);
    let gaps = rig.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0].from_offset, gaps[0].bytes), (read, Some(10)));
}

#[test]
fn a_file_that_only_begins_like_another_is_read() {
    let mut rig = Rig::new("app.log*");
    let banner = "=".repeat(300) + "\n";
    rig.append("app.log", &format!("{banner}{}", numbered(0..5)));
    rig.turn();
    rig.append("app.log.err", &format!("{banner}{}", numbered(5..30)));
    rig.append("app.log.warn", &banner);
    rig.turn();
    rig.turn_after(Duration::from_secs(11));
    assert_eq!(rig.lines().len(), 33);
}

#[test]
fn a_new_file_on_an_old_inode_is_a_new_file() {
    // Other tests make files meanwhile and may take the inode: then try again.
    for _ in 0..500 {
        let mut rig = Rig::new("*.log");
        rig.append("a.log", &numbered(0..10));
        rig.turn();
        let checkpoint = rig.commit();
        let inode = fs::metadata(rig.path("a.log")).unwrap().ino();
        rig.tailer = None;
        fs::remove_file(rig.path("a.log")).unwrap();
        // Larger than what was read, so that size alone does not tell.
        rig.append("b.log", &numbered(50..80));
        if fs::metadata(rig.path("b.log")).unwrap().ino() != inode {
            continue;
        }
        rig.start(Some(checkpoint), Vec::new());
        rig.turn();
        assert_eq!(numbers(&rig.lines())[10..], (50..80).collect::<Vec<_>>());
        let gaps = rig.gaps();
        assert!(gaps.len() == 1 && gaps[0].bytes.is_none() && gaps[0].reason.contains("deleted"), "{gaps:?}");
        return;
    }
    panic!("this filesystem never gave the inode again; run this test with TMPDIR on ext4");
}

#[test]
fn a_start_amid_a_rotation_hands_nothing_on_again() {
    let mut rig = Rig::new("app.log");
    rig.append("app.log", &numbered(0..10));
    rig.turn();
    let checkpoint = rig.commit();
    fs::rename(rig.path("app.log"), rig.path("app.log.1")).unwrap();
    // Birth times have the grain of the kernel's tick.
    std::thread::sleep(Duration::from_millis(15));
    rig.append("app.log", &numbered(10..20));
    rig.turn();
    // Killed here: only the journal knows of the second file, and while nobody writes to a new one it has no successor.
    let journaled = rig.journaled();
    rig.append("app.log", &numbered(20..25));
    fs::rename(rig.path("app.log"), rig.path("app.log.2")).unwrap();
    rig.start(Some(checkpoint), journaled);
    rig.turn();
    assert_eq!(numbers(&rig.lines()), (0..25).collect::<Vec<_>>());
    std::thread::sleep(Duration::from_millis(15));
    rig.append("app.log", &numbered(25..30));
    rig.turn();
    assert_eq!(numbers(&rig.lines()), (0..30).collect::<Vec<_>>());
}

#[test]
fn what_the_journal_holds_is_not_handed_on_again() {
    let mut rig = Rig::new("*.log");
    rig.append("a.log", &numbered(0..10));
    rig.turn();
    let checkpoint = rig.commit();
    rig.append("a.log", &numbered(10..20));
    rig.turn();
    // Killed here: the journal is ahead of the checkpoint.
    let journaled = rig.journaled();
    rig.append("a.log", &numbered(20..30));
    rig.start(Some(checkpoint.clone()), journaled.clone());
    rig.turn();
    assert_eq!(numbers(&rig.lines()), (0..30).collect::<Vec<_>>());
    // The checkpoint lost altogether: the journal alone will do.
    rig.config.start = Start::End;
    rig.start(None, journaled);
    rig.turn();
    assert_eq!(numbers(&rig.lines())[30..], (20..30).collect::<Vec<_>>());
    // A journal that speaks of other content does not count.
    let mut wrong = rig.journaled();
    wrong.iter_mut().for_each(|j| j.line.line = b"other".to_vec());
    rig.start(Some(checkpoint), wrong);
    rig.turn();
    assert_eq!(numbers(&rig.lines())[40..], (10..30).collect::<Vec<_>>());
}

#[test]
fn a_taker_that_stops_gets_the_rest_once_it_goes_on() {
    let mut rig = Rig::new("*.log");
    let text: String =
        (0..100).map(|n| format!("{n:08} {}\n", if n % 7 == 0 { "HIT" } else { "" })).collect();
    rig.append("a.log", &text);
    rig.append("b.log", &text);
    rig.start(None, Vec::new());
    let (tailer, events) = (rig.tailer.as_mut().unwrap(), &mut rig.events);
    for turn in 0..2000 {
        let at = Moment { wall_ns: 0, boot_ns: rig.now.boot_ns + turn };
        tailer.turn(at, &mut |e| {
            events.push(e);
            std::ops::ControlFlow::Break(())
        });
    }
    let got = numbers(&rig.lines());
    for file in ["a.log", "b.log"] {
        let of: Vec<u64> = rig.recorded().filter(|l| l.source.ends_with(file)).map(|l| l.offset).collect();
        assert!(of.len() == 100 && of.is_sorted_by(|a, b| a < b), "{file}: {of:?}");
    }
    assert_eq!(got.len(), 200);
    // Per file: 15 matches, each with one line after it and two before it (the first has none before).
    assert_eq!(rig.evidence().len(), 2 * (15 + 15 + 14 * 2));
}

#[test]
fn beyond_the_budgets_lines_are_counted_in_gaps_and_marks_wait_for_them() {
    let mut rig = Rig::new("*.log");
    rig.config.recorder_bytes_per_second = 1000;
    rig.config.evidence_bytes_per_second = 500;
    let text: String =
        (0..1000).map(|n| format!("{n:08} {}\n", if n % 2 == 0 { "HIT" } else { "" })).collect();
    rig.append("a.log", &text);
    rig.turn();
    let size = text.len() as u64;
    let early = rig.events.iter().filter_map(mark).map(|m| m.offset).max().unwrap();
    assert!(early < size && rig.gaps().is_empty(), "{early}");
    rig.turn_after(Duration::from_secs(2));
    for stream in [Stream::Evidence, Stream::Recorder] {
        let kept = rig.events.iter().filter(|e| matches!(e, TailEvent::Line { keep, .. } if if stream == Stream::Evidence { keep.evidence } else { keep.recorder })).count();
        let lost: u64 =
            rig.gaps().iter().filter(|g| g.stream == Some(stream)).map(|g| g.lines.unwrap()).sum();
        assert_eq!(kept as u64 + lost, 1000, "{stream}");
        assert_eq!(rig.gaps().iter().filter(|g| g.stream == Some(stream)).count(), 1);
    }
    assert_eq!(rig.events.iter().filter_map(mark).map(|m| m.offset).max(), Some(size));
}

/// After a crash reading goes on behind the newest line that is durable. So what was dropped before it must be told
/// before it, or nobody ever tells it.
#[test]
fn what_a_budget_dropped_is_told_before_any_later_line_is_handed_on() {
    let mut rig = Rig::new("*.log");
    rig.config.evidence_bytes_per_second = 300;
    let hits = |from: usize| (from..from + 100).map(|n| format!("{n:08} HIT\n")).collect::<String>();
    rig.append("a.log", &hits(0));
    rig.turn();
    // Another second has begun, too soon for the gap to be due by itself.
    rig.append("a.log", &hits(100));
    rig.turn_after(Duration::from_millis(900));
    let mut told = 0;
    for event in &rig.events {
        match event {
            TailEvent::Gap(g) if g.stream == Some(Stream::Evidence) => told = g.to_offset.unwrap(),
            TailEvent::Line { line, keep, .. } if keep.evidence => {
                let dropped_before = rig
                    .gaps()
                    .iter()
                    .any(|g| g.stream == Some(Stream::Evidence) && g.from_offset < line.offset);
                assert!(!dropped_before || told > 0, "{line:?} came before the gap that lies before it");
            }
            _ => {}
        }
    }
    let later = rig.events.iter().filter(
        |e| matches!(e, TailEvent::Line { line, keep, .. } if keep.evidence && line.offset >= 100 * 13),
    );
    assert!(later.count() > 0, "the second's budget was used");
    assert!(told > 0 && told <= 100 * 13, "the first second's loss was told by itself: {told}");
}

#[test]
fn a_backlog_over_the_limit_is_skipped_with_a_gap() {
    let mut rig = Rig::new("*.log");
    rig.config.max_backlog_bytes = 10_000;
    rig.append("a.log", &numbered(0..1000));
    rig.turn();
    let got = numbers(&rig.lines());
    assert_eq!(got, (1000 - got.len()..1000).collect::<Vec<_>>());
    let gaps = rig.gaps();
    assert_eq!((gaps.len(), gaps[0].from_offset, gaps[0].bytes), (1, 0, gaps[0].to_offset));
    assert_eq!(gaps[0].to_offset, rig.recorded().next().map(|l| l.offset));
}

/// How long a rotated file must be quiet where its writer says when it is; longer than any machine stands still.
const QUIET: Duration = Duration::from_secs(3_600);

/// What a writer and the one who turns know of each other.
#[derive(Default)]
struct Steps {
    turns: AtomicUsize,
    /// Files that the writer has begun, each of which it left the one before for.
    begun: AtomicUsize,
}

impl Steps {
    /// Waits until a turn has begun and ended.
    fn wait(&self) {
        let seen = self.turns.load(Ordering::SeqCst);
        // The one under way may have swept already.
        while self.turns.load(Ordering::SeqCst) < seen + 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn renames_under_a_writer_at_full_speed_lose_and_double_nothing() {
    const LINES: usize = 200_000;
    const PATIENCE: Duration = Duration::from_secs(60);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let mut config = config(&root, "app.log");
    config.rotated_quiet = QUIET;
    let mut tailer = Tailer::new(config, Resume::default()).unwrap();
    let (writer_root, steps) = (root.clone(), Arc::new(Steps::default()));
    let writer_steps = Arc::clone(&steps);
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut rotation: i32 = 0;
        let path = writer_root.join("app.log");
        let open = || fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let mut file = open();
        for (n, line) in numbered(0..LINES).split_inclusive('\n').enumerate() {
            file.write_all(line.as_bytes()).unwrap();
            if n % 5000 == 4999 {
                // As logrotate with delaycompress does: some lines still go to the renamed file, and what is
                // old is deleted.
                rotation += 1;
                fs::rename(&path, writer_root.join(format!("app.log.{rotation}"))).unwrap();
                let _ = fs::remove_file(writer_root.join(format!("app.log.{}", rotation - 20)));
            }
            if n % 5000 == 100 {
                file = open();
                writer_steps.begun.fetch_add(1, Ordering::SeqCst);
                // The next rotation comes when a sweep has seen this file.
                writer_steps.wait();
            }
        }
        // What is there when everything is written: an empty file, as rotation leaves it.
        writer_steps.wait();
        open();
    });
    let started = Instant::now();
    let mut got = Vec::new();
    let mut gaps = Vec::new();
    let (mut moved, mut spare_turns) = (Instant::now(), 100);
    let (mut begun, mut ends, mut skipped) = (0, false, Duration::ZERO);
    // All lines there: some turns more, in case one comes twice. A line missing: until there is no hope.
    while spare_turns > 0 && moved.elapsed() < PATIENCE {
        // Nobody writes to a rotated file any more once the next is begun, or at the end: it has been quiet for long. The
        // writer waits meanwhile, so that no other is.
        let (begins, is_over) = (steps.begun.load(Ordering::SeqCst), writer.is_finished());
        if begins > begun || (is_over && !ends) {
            (begun, ends) = (begins, is_over);
            skipped += QUIET;
        }
        let now = Moment { wall_ns: 0, boot_ns: (started.elapsed() + skipped).as_nanos() as u64 + 1 };
        let before = got.len();
        tailer.turn(now, &mut |event| {
            match event {
                TailEvent::Line { line, .. } => got.push(line),
                TailEvent::Gap(gap) => gaps.push(gap),
                _ => {}
            }
            std::ops::ControlFlow::Continue(())
        });
        steps.turns.fetch_add(1, Ordering::SeqCst);
        if got.len() > before {
            moved = Instant::now();
        }
        if ends && got.len() >= LINES {
            spare_turns -= 1;
        }
    }
    assert!(writer.is_finished(), "stuck at {} lines", got.len());
    writer.join().unwrap();
    let mut lines: Vec<usize> =
        got.iter().map(|l| String::from_utf8_lossy(&l.line)[..8].parse().unwrap()).collect();
    lines.sort_unstable();
    assert!(gaps.is_empty(), "{gaps:?}");
    let missing: Vec<usize> = (0..LINES).filter(|n| lines.binary_search(n).is_err()).take(5).collect();
    assert_eq!((lines.len(), missing), (LINES, Vec::new()));
    let stats = tailer.stats();
    assert_eq!(stats.open_files, 1, "what was rotated is closed once it is quiet");
}
