use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::record::Stream;
use rustix::fs::FallocateFlags;
use tempfile::TempDir;

use super::super::{Resume, RuleSet, Start, TailConfig, TailEvent, TailGap};
use super::*;
use crate::act::races::common::LoopFs;

const POD: &str = "shop_web-0_0f3c1b1e-1111-4222-8333-444455556666/nginx";
/// What a cut leaves at the beginning.
const HEAD: u64 = 64 << 10;

struct Rig {
    _dir: TempDir,
    log: PathBuf,
    config: TailConfig,
    tailer: Tailer,
    now: Moment,
    events: Vec<TailEvent>,
}

impl Rig {
    /// A tailer of the log `name`, which holds `lines`, that reads no more than a chunk in each second.
    fn new(name: &str, lines: &[String]) -> Self {
        Self::within(&std::env::temp_dir(), name, lines)
    }

    /// The same in a folder of its own in `place`.
    fn within(place: &Path, name: &str, lines: &[String]) -> Self {
        let dir = TempDir::new_in(place).unwrap();
        let log = dir.path().join(name);
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, lines.concat()).unwrap();
        let rules = "rules:\n  - {name: hit, match: 'HIT', severity: high, summary: s, context_before: 3}\n";
        let config = TailConfig {
            globs: ["*.log", "*/*/*.log"].map(|glob| format!("{}/{glob}", dir.path().display())).to_vec(),
            start: Start::Beginning,
            rules: RuleSet::parse("test", rules).unwrap(),
            bytes_per_second: 1,
            evidence_bytes_per_second: u64::MAX,
            recorder_bytes_per_second: u64::MAX,
            sweep: Duration::ZERO,
            poll: Duration::ZERO,
            rotated_quiet: Duration::from_secs(1),
            ..TailConfig::default()
        };
        let tailer = Tailer::new(config.clone(), Resume::default()).unwrap();
        let now = Moment { wall_ns: 0, boot_ns: 1_000_000_000_000 };
        Self { _dir: dir, log, config, tailer, now, events: Vec::new() }
    }

    /// What it does in the next second: it reads one chunk.
    fn second(&mut self) {
        self.now.boot_ns += 1_000_000_000;
        let events = &mut self.events;
        let mut out = |event| {
            events.push(event);
            ControlFlow::Continue(())
        };
        while !self.tailer.turn(self.now, &mut out).idle {}
    }

    fn seconds(&mut self, n: usize) {
        (0..n).for_each(|_| self.second());
    }

    fn lines(&self) -> Vec<String> {
        let line = |e: &TailEvent| match e {
            TailEvent::Line { line, keep, .. } if keep.recorder => {
                Some(String::from_utf8_lossy(&line.line).into_owned())
            }
            _ => None,
        };
        self.events.iter().filter_map(line).collect()
    }

    fn gaps(&self) -> Vec<&TailGap> {
        self.events.iter().filter_map(|e| if let TailEvent::Gap(g) = e { Some(g) } else { None }).collect()
    }

    /// Cuts the log as a cleanup does, from `from` to the end of the line that holds `near`; where that is.
    fn cut(&self, from: u64, near: u64) -> u64 {
        let file = fs::File::options().read(true).write(true).open(&self.log).unwrap();
        let window = read_some(&file, near, 64 << 10).unwrap();
        let to = near + window.iter().position(|b| *b == b'\n').unwrap() as u64;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, from, to - from)
            .expect("the folder of temporary files can punch holes");
        let hole = next_hole(&file, 0, file.metadata().unwrap().len());
        assert!(hole.is_some_and(|h| h.to > h.from), "a cut of {from} to {to} left no hole");
        to
    }
}

fn numbered(n: usize) -> String {
    format!("{n:08} a line with enough words to tell one head from another\n")
}

fn of_a_pod(n: usize) -> String {
    format!("2026-10-06T00:17:09.{n:09}Z stdout F {}", numbered(n))
}

#[test]
fn a_reader_that_lags_behind_a_cut_goes_on_behind_it_and_says_how_much_it_missed() {
    for (name, line) in
        [("app.log".to_owned(), numbered as fn(usize) -> String), (format!("{POD}/0.log"), of_a_pod)]
    {
        let lines: Vec<String> = (0..40_000).map(line).collect();
        let length = lines[0].len() as u64;
        let mut rig = Rig::new(&name, &lines);
        // Cut before anything but the first chunk is read: once where reading stands, once farther on.
        for from in [HEAD, 8 * HEAD] {
            rig.events.clear();
            rig.tailer = Tailer::new(rig.config.clone(), Resume::default()).unwrap();
            fs::write(&rig.log, lines.concat()).unwrap();
            rig.second();
            let read = rig.lines().len();
            let to = rig.cut(from, lines.concat().len() as u64 - 100_000);
            rig.seconds(12);
            let got = rig.lines();
            assert!(got.iter().all(|l| !l.contains('\0')), "a line of zeros was handed on");
            let before = (from.max(read as u64 * length) / length) as usize;
            let behind = (to / length) as usize + 1;
            let numbers: Vec<usize> = got.iter().map(|l| l[..8].parse().unwrap()).collect();
            let expected: Vec<usize> = (0..before).chain(behind..40_000).collect();
            assert_eq!(numbers, expected, "cut from {from} after {read} lines");
            let gaps = rig.gaps();
            assert_eq!(gaps.len(), 1, "{gaps:?}");
            assert_eq!((gaps[0].from_offset, gaps[0].to_offset), (before as u64 * length, Some(to + 1)));
            assert_eq!(
                (gaps[0].bytes, gaps[0].stream),
                (Some(to + 1 - before as u64 * length), None::<Stream>)
            );
            assert!(gaps[0].reason.contains("cut out"), "{}", gaps[0].reason);
        }
    }
}

#[test]
fn room_that_xfs_reserves_beyond_the_end_of_a_log_hides_no_cut() {
    let xfs = LoopFs::xfs();
    let mut rig = Rig::within(xfs.path(), "app.log", &[]);
    let lines: Vec<String> = (0..40_000).map(numbered).collect();
    // As who logs does: it keeps the file open and appends.
    let mut log = fs::File::options().append(true).open(&rig.log).unwrap();
    let mut append = |lines: &[String]| {
        lines.chunks(500).for_each(|some| log.write_all(some.concat().as_bytes()).unwrap());
    };
    append(&lines[..30_000]);
    rig.second();
    let read = rig.lines().len();
    let to = rig.cut(8 * HEAD, 12 * HEAD);
    // It gives back then what it reserved; and the log grows on.
    append(&lines[30_000..]);
    let metadata = log.metadata().unwrap();
    assert!(
        metadata.blocks() * 512 >= metadata.len(),
        "what this is about: {} allocated of {}",
        metadata.blocks() * 512,
        metadata.len()
    );
    rig.seconds(12);
    let got = rig.lines();
    assert!(read > 0, "nothing was read before the cut");
    assert!(got.iter().all(|l| !l.contains('\0')), "a line of zeros was handed on");
    let length = lines[0].len() as u64;
    let (before, behind) = ((8 * HEAD / length) as usize, (to / length) as usize + 1);
    let numbers: Vec<usize> = got.iter().map(|l| l[..8].parse().unwrap()).collect();
    assert_eq!(numbers, (0..before).chain(behind..40_000).collect::<Vec<_>>());
    let gaps = rig.gaps();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0].from_offset, gaps[0].to_offset), (before as u64 * length, Some(to + 1)));
}

#[test]
fn zeros_that_were_written_near_a_hole_are_told_from_its_edges() {
    let rig = Rig::new("app.log", &[]);
    let file = fs::File::options().read(true).write(true).open(&rig.log).unwrap();
    let all_of = |from: u64, bytes: usize| read_some(&file, from, bytes).unwrap();
    const K: u64 = 1 << 10;
    // Text, a hole, an edge as of a large record, text, zeros that were written, text, a hole, text.
    let text = vec![b'x'; 64 << 10];
    file.write_all_at(&text, 0).unwrap();
    file.write_all_at(&vec![0; 640 << 10], 128 * K).unwrap();
    file.write_all_at(&text, 768 * K).unwrap();
    file.write_all_at(&vec![0; 64 << 10], 832 * K).unwrap();
    file.write_all_at(&text, 896 * K).unwrap();
    file.write_all_at(&text, 1_024 * K).unwrap();
    file.sync_all().unwrap();
    let size = file.metadata().unwrap().len();
    let seen =
        |from: u64, bytes: usize| missing(&file, &all_of(from, bytes), from, size).map(|h| (h.from, h.to));
    let (first, second) = (Some((64 * K, 768 * K)), Some((960 * K, 1_024 * K)));
    assert_eq!(seen(0, 256 << 10), first, "from before it");
    assert_eq!(seen(256 * K, 256 << 10), Some((256 * K, 768 * K)), "from the midst of its edge");
    assert_eq!(seen(768 * K, 64 << 10), None);
    assert_eq!(
        seen(832 * K, 64 << 10),
        None,
        "zeros that were written are no edge of the hole before the text"
    );
    assert_eq!(seen(832 * K, 256 << 10), second, "nor of the one behind it");
    assert_eq!(seen(896 * K, 256 << 10), second);
    // An edge before a hole, of which the block that is read sees but the beginning.
    file.write_all_at(&vec![0; 32 << 10], 960 * K).unwrap();
    file.sync_all().unwrap();
    assert_eq!(seen(944 * K, 20 << 10), second);
    assert_eq!(
        behind_zeros(&file, &all_of(1_000 * K, 40 << 10), 1_000 * K),
        (&text[..16 << 10], true),
        "{size}"
    );
}

#[test]
fn a_filesystem_that_tells_no_holes_has_none() {
    // The files of proc(5) know no SEEK_HOLE.
    let file = fs::File::open("/proc/self/status").unwrap();
    assert!(rustix::fs::seek(&file, SeekFrom::Hole(0)).is_err());
    assert_eq!(next_hole(&file, 0, 1 << 20), None);
    assert_eq!(missing(&file, &[0; 4096], 0, 1 << 20), None);
    assert_eq!(behind_zeros(&file, b"a\0b", 0), (&b"a\0b"[..], false));
    assert_eq!(written(&file, b"a\0b", 0), b"a\0b");
}

#[test]
fn a_hole_is_no_context_no_line_and_no_backlog() {
    let mut lines: Vec<String> = (0..20_000).map(numbered).collect();
    let mut rig = Rig::new("app.log", &lines);
    rig.config.max_backlog_bytes = 400_000;
    rig.config.emit_all = false;
    rig.tailer = Tailer::new(rig.config.clone(), Resume::default()).unwrap();
    let whole = lines.concat().len() as u64;
    let to = rig.cut(HEAD, whole - 100_000);
    let first = (to / lines[0].len() as u64) as usize + 1;
    // The second line behind the cut is a match.
    let at = (first + 1) * lines[0].len();
    let file = fs::File::options().write(true).open(&rig.log).unwrap();
    file.write_all_at(b"HIT", at as u64 + 10).unwrap();
    lines[first + 1].replace_range(10..13, "HIT");
    rig.seconds(6);
    let evidence: Vec<String> = rig
        .events
        .iter()
        .filter_map(|e| match e {
            TailEvent::Line { line, keep, .. } if keep.evidence => {
                Some(String::from_utf8_lossy(&line.line).into_owned() + "\n")
            }
            _ => None,
        })
        .collect();
    assert_eq!(evidence[..2], lines[first..first + 2], "and the line before the match, not zeros");
    assert!(rig.gaps().iter().all(|g| g.reason.contains("cut out")), "{:?}", rig.gaps());
    assert_eq!(rig.gaps().len(), 1);
}

#[test]
fn zeros_that_somebody_wrote_and_a_hole_that_may_be_filled_are_no_cut() {
    // Longer than what a file is known by.
    let one = "one ".repeat(100);
    let mut rig = Rig::new("app.log", &[format!("{one}\n"), "two\0three\n".to_owned()]);
    rig.second();
    assert_eq!(rig.lines(), [one.as_str(), "two\0three"]);
    // Its end is reserved, and written later.
    let file = fs::File::options().write(true).open(&rig.log).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length + (1 << 20)).unwrap();
    rig.seconds(3);
    file.write_all_at(b"four\n", length).unwrap();
    rig.seconds(3);
    assert_eq!(rig.lines(), [one.as_str(), "two\0three", "four"]);
    assert!(rig.gaps().is_empty(), "{:?}", rig.gaps());
    // Rotated: what was never written is no last line.
    fs::rename(&rig.log, Path::new(&format!("{}.1", rig.log.display()))).unwrap();
    rig.seconds(4);
    assert_eq!(rig.lines().len(), 3, "{:?}", rig.lines());
}
