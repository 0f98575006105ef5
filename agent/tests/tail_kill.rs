//! Killed again and again, the tailer and a journal behind it keep every line exactly once.

#![expect(clippy::unwrap_used, reason = "tests")]

mod tail_rig;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dogwatch::record::{LogLine, Moment, Stream};
use dogwatch_agent::tail::{CheckpointWriter, Journaled, Resume, TailEvent, Tailer};
use tail_rig::{config, mark, numbered};

const CHILD: &str = "DOGWATCH_TEST_TAIL_CHILD";
const LINES: usize = 60_000;
/// Least kills while lines are written: of each further part of the lines, the writer waits for one more.
const KILLS: u64 = 10;
/// Longest without a further byte in the journal.
const PATIENCE: Duration = Duration::from_secs(120);

/// The journal of this test: `inode offset line` for each line, synced before its marks count as durable.
fn read_journal(path: &Path) -> Vec<(u64, u64, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.to_owned()))
    };
    text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')).filter_map(parse).collect()
}

/// What the killed process is: tails, appends what it got, syncs, commits; for ever.
fn child(root: &Path) -> ! {
    let journal_path = root.join("state/journal");
    // A torn last line is cut off, as a journal's recovery does.
    let text = fs::read(&journal_path).unwrap_or_default();
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let mut journal =
        OpenOptions::new().create(true).truncate(false).write(true).open(&journal_path).unwrap();
    journal.set_len(whole as u64).unwrap();
    std::io::Seek::seek(&mut journal, std::io::SeekFrom::End(0)).unwrap();
    let mut newest: HashMap<u64, (u64, String)> = HashMap::new();
    for (inode, offset, line) in read_journal(&journal_path) {
        newest.insert(inode, (offset, line));
    }
    let journaled = newest
        .into_iter()
        .map(|(inode, (offset, line))| Journaled {
            stream: Stream::Recorder,
            line: LogLine {
                source: String::new(),
                offset,
                inode,
                line: line.into_bytes(),
                truncated: false,
                rules: vec![],
                ..LogLine::default()
            },
        })
        .collect();
    let (writer, checkpoint) =
        CheckpointWriter::start(root.join("state/tail-checkpoint.json"), 64 * 1024).unwrap();
    let mut config = config(&root.join("logs"), "app.log");
    config.rotated_quiet = Duration::from_millis(200);
    let mut tailer = Tailer::new(config, Resume { checkpoint, journaled }).unwrap();
    let started = Instant::now();
    let mut second = 0;
    loop {
        let mut bytes = Vec::new();
        let mut marks = Vec::new();
        // A checkpoint every 20 ms instead of every second: the clock of this test runs 50 times as fast for it.
        let elapsed = started.elapsed().as_nanos() as u64;
        let now = Moment { wall_ns: 0, boot_ns: elapsed + 1_000_000_000 };
        tailer.turn(now, &mut |event| {
            if let TailEvent::Line { line, .. } = &event {
                writeln!(bytes, "{} {} {}", line.inode, line.offset, String::from_utf8_lossy(&line.line))
                    .unwrap();
            }
            if let TailEvent::Gap(gap) = &event {
                writeln!(bytes, "0 0 GAP {gap:?}").unwrap();
            }
            marks.extend(mark(&event));
            if bytes.len() > 20_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        journal.write_all(&bytes).unwrap();
        journal.sync_data().unwrap();
        tailer.durable(marks);
        if elapsed / 20_000_000 != second {
            second = elapsed / 20_000_000;
            if let Some(checkpoint) = tailer.checkpoint() {
                writer.save(checkpoint);
            }
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn killed_in_a_loop_every_line_is_journalled_exactly_once() {
    if let Ok(root) = std::env::var(CHILD) {
        child(&PathBuf::from(root));
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("logs")).unwrap();
    fs::create_dir(root.join("state")).unwrap();
    let kills = Arc::new(AtomicU64::new(0));
    let writer = {
        let (logs, kills) = (root.join("logs"), Arc::clone(&kills));
        std::thread::spawn(move || {
            let path = logs.join("app.log");
            let open = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
            let mut file = open();
            for (n, line) in numbered(0..LINES).split_inclusive('\n').enumerate() {
                // A part is more than the journal grows by from one kill to the next, so that neither waits for ever.
                while kills.load(Ordering::Relaxed) < n as u64 * (KILLS + 1) / LINES as u64 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                file.write_all(line.as_bytes()).unwrap();
                if n % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(3));
                }
                if n % 8000 == 7999 {
                    fs::rename(&path, logs.join(format!("app.log.{}", n / 8000))).unwrap();
                    file = open();
                }
            }
        })
    };
    let spawn = || {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_in_a_loop_every_line_is_journalled_exactly_once", "--nocapture"])
            .env(CHILD, &root)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Killed(child)
    };
    let journal = root.join("state/journal");
    let size = || fs::metadata(&journal).map_or(0, |m| m.len());
    let mut running = spawn();
    let mut seen = size();
    let (mut newest, mut moved) = (seen, Instant::now());
    let mut moves = || {
        let now = size();
        if std::mem::replace(&mut newest, now) != now {
            moved = Instant::now();
        }
        moved.elapsed() < PATIENCE
    };
    // Kill when the journal has grown by ever other amounts, until everything is written.
    while !writer.is_finished() {
        if size() > seen + 20_000 * (1 + kills.load(Ordering::Relaxed) % 7) {
            drop(running);
            kills.fetch_add(1, Ordering::Relaxed);
            running = spawn();
            seen = size();
        }
        assert!(moves(), "the child makes no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
    writer.join().unwrap();
    while read_journal(&journal).len() < LINES {
        assert!(moves(), "{} of {LINES} lines", read_journal(&journal).len());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(running);
    let kills = kills.load(Ordering::Relaxed);
    assert!(kills >= KILLS, "only {kills} kills");
    let mut numbers: Vec<usize> = read_journal(&journal)
        .iter()
        .map(|(_, _, line)| line[..8].parse().unwrap_or_else(|_| panic!("{line}")))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), LINES);
    assert!(
        numbers.iter().enumerate().all(|(i, n)| i == *n),
        "a line is missing and another one there twice"
    );
    eprintln!("{kills} kills, {LINES} lines, each once");
}
