//! Disks of 2 GiB are filled by a real writer at 1, 10 and 100 MB/s: with something to clean they never become full, come
//! back under the low-water mark, and a hundred kinds of things that must stay are untouched.
//!
//! `auto` with its own defaults but the cap on its CPU (this is no optimised build), one sample a second; ext4, xfs and tmpfs,
//! at the same time where the rate leaves room for that: one executor cleans one disk after the other. The arithmetic is
//! printed: how long the rate leaves from the mark to a full disk, and how near it came.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use dogwatch_e2e::canary::{self, Flock};
use dogwatch_e2e::layout::{fill_to, room};
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Post, Stage, yaml};
use dogwatch_e2e::untouchable::Untouchables;
use dogwatch_e2e::wait::until;

const SIZE: u64 = 2 << 30;
const MIB: u64 = 1 << 20;
const MIN_AGE: Duration = Duration::from_secs(10);
/// Logs with so many rotations of that size each; the newest of each stays.
const LOGS: u64 = 20;
const ROTATIONS: u64 = 6;
const ROTATION_BYTES: u64 = 8 * MIB;
const CAN_GO: u64 = LOGS * (ROTATIONS - 1) * ROTATION_BYTES;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One speed, and the marks that it is tried at.
struct Speed {
    bytes_per_second: u64,
    /// Written in all: more than is available at the start, less than with what can go.
    writes: u64,
    /// Used per cent.
    high: u64,
    low: u64,
}

struct Disk {
    fstype: &'static str,
    // Before the filesystem that they keep busy.
    untouchables: Untouchables,
    may_go: BTreeSet<PathBuf>,
    before: Flock,
    fs: LoopFs,
}

impl Disk {
    fn make(fstype: &'static str) -> Self {
        let fs = match fstype {
            "tmpfs" => LoopFs::memory(SIZE),
            "ext4" => LoopFs::create(SIZE, "ext4", &["-m", "0"]),
            other => LoopFs::create(SIZE, other, &[]),
        };
        let fs = fs.unwrap();
        let root = fs.path().join("log");
        std::fs::create_dir_all(live(&root).parent().unwrap()).unwrap();
        let untouchables = Untouchables::make(&root, &fs.path().join("var"));
        assert!(untouchables.kinds.len() >= 100, "{fstype}: {} kinds", untouchables.kinds.len());
        let mut may_go = BTreeSet::new();
        for log in 0..LOGS {
            let folder = root.join(format!("app-{log}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("app.log"), b"live\n").unwrap();
            for i in 1..=ROTATIONS {
                let path = folder.join(format!("app.log.{i}"));
                rotated(&path, i);
                if i > 1 {
                    may_go.insert(path);
                }
            }
        }
        Self { fstype, untouchables, may_go, before: Flock::new(), fs }
    }

    fn root(&self) -> PathBuf {
        self.fs.path().join("log")
    }

    /// Nothing but what may go is gone, and nothing else has changed but the live log.
    fn judge(&self) {
        let live = live(&self.root());
        let [gone, new, changed] = canary::compare(&self.before, &canary::remember(self.fs.path()));
        let wrong: Vec<_> = gone.iter().filter(|p| !self.may_go.contains(*p)).collect();
        assert!(wrong.is_empty(), "{}: gone, and should not be: {wrong:?}", self.fstype);
        assert!(new.iter().all(|p| *p == live), "{}: new: {new:?}", self.fstype);
        // The toucher's is touched, not written.
        assert!(changed.iter().all(|p| *p == live), "{}: changed: {changed:?}", self.fstype);
        for (why, path) in &self.untouchables.kinds {
            let there = path.symlink_metadata();
            assert!(there.is_ok(), "{}: {why}: {} is gone", self.fstype, path.display());
        }
    }
}

fn live(root: &Path) -> PathBuf {
    root.join("runaway/app.log")
}

/// A log of `ROTATION_BYTES` that was rotated `i` days ago. Written at both ends; between them the filesystem's zeros.
fn rotated(path: &Path, i: u64) {
    let file = File::create(path).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, ROTATION_BYTES).unwrap();
    let line = format!("{} {i}\n", path.display()).repeat(100);
    file.write_all_at(line.as_bytes(), 0).unwrap();
    file.write_all_at(line.as_bytes(), ROTATION_BYTES - line.len() as u64).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(i * 86_400)).unwrap();
}

/// What the writer saw.
struct Written {
    bytes: u64,
    took: Duration,
    refused: u64,
}

/// Writes at a speed, as an application does that does not know better: after an error it goes on.
fn write(path: PathBuf, speed: u64, bytes: u64) -> JoinHandle<Written> {
    std::thread::spawn(move || {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        let piece = vec![b'x'; usize::try_from((speed / 50).min(MIB)).unwrap()];
        let (began, mut written) = (Instant::now(), Written { bytes: 0, took: Duration::ZERO, refused: 0 });
        let step = Duration::from_secs_f64(piece.len() as f64 / speed as f64);
        let (mut tried, mut due) = (0, began);
        while tried < bytes {
            // The measured thing is the rate: there is no other condition to wait for. What it could not write while the
            // machine stood still it does not make up for: that would be faster than is said.
            let now = Instant::now();
            std::thread::sleep(due.saturating_duration_since(now));
            due = due.max(now) + step;
            tried += piece.len() as u64;
            match file.write_all(&piece) {
                Ok(()) => written.bytes += piece.len() as u64,
                Err(_) => written.refused += 1,
            }
        }
        written.took = began.elapsed();
        written
    })
}

/// Follows what is available: the lowest, and the most since then.
///
/// XFS doubles what it reserves for a file that grows, beyond its end: half a gigabyte at once here, which may be all that is
/// available. It gives that back before it refuses a write (kernel: `xfs_file_buffered_write`), so that it is no full disk.
struct Watch {
    /// Of what is available or reserved for the writer.
    lowest: Arc<AtomicU64>,
    /// Of what is available alone.
    lowest_unreserved: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn on(mount: &Path, written: PathBuf) -> Self {
        let [lowest, lowest_unreserved] = [(); 2].map(|()| Arc::new(AtomicU64::new(u64::MAX)));
        let (back, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (low, bare, high) = (lowest.clone(), lowest_unreserved.clone(), back.clone());
        let (ending, mount) = (stop.clone(), mount.to_owned());
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                let held = reserved(&written);
                let now = room(&mount).0;
                if reserved(&written) != held {
                    continue;
                }
                if now < bare.fetch_min(now, Ordering::Relaxed) {
                    high.store(now, Ordering::Relaxed);
                }
                low.fetch_min(now + held, Ordering::Relaxed);
                high.fetch_max(now, Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self { lowest, lowest_unreserved, back, stop, thread: Some(thread) }
    }

    fn lowest(&self) -> [u64; 2] {
        [&self.lowest, &self.lowest_unreserved].map(|l| l.load(Ordering::Relaxed))
    }

    fn back(&self) -> u64 {
        self.back.load(Ordering::Relaxed)
    }
}

/// Bytes that a file has beyond its end.
fn reserved(path: &Path) -> u64 {
    path.metadata().map_or(0, |m| (m.blocks() * 512).saturating_sub(m.len()))
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn agent(stage: &Stage, state: &Path, disks: &[Disk], speed: &Speed) -> Post {
    let mut text = format!(
        "sample: {{ processes: false }}\ntail: {{ enabled: false }}\ncaps: {{ cpu: 100%, memory: 1GiB }}\n\
         detect: {{ space: {{ high_used: {}%, low_used: {}%, serious_used: 99%, critical_used: 99% }} }}\n\
         cleanup:\n  mode: auto\n  roots:\n",
        speed.high, speed.low
    );
    for disk in disks {
        writeln!(
            text,
            "    - {{ path: {}, min_age: {}s, excludes: [excluded.log.1, excluded] }}",
            yaml(&disk.root()),
            MIN_AGE.as_secs()
        )
        .unwrap();
    }
    stage.post("node-a", state, None, &text)
}

fn drill(speed: &Speed, fstypes: &[&'static str]) {
    let stage = Stage::new(programs!());
    let mut disks: Vec<Disk> = fstypes.iter().copied().map(Disk::make).collect();
    let made = SystemTime::now();
    // Just under the high mark, by a second's worth at least.
    for disk in &mut disks {
        let (_, total) = room(disk.fs.path());
        let mark = total * (100 - speed.high) / 100;
        fill_to(
            &disk.fs.path().join("var/filler"),
            mark + (2 * speed.bytes_per_second).clamp(4 * MIB, 32 * MIB),
        );
        disk.before = canary::remember(disk.fs.path());
    }
    until("the logs to be old", PATIENCE, || {
        (made.elapsed().unwrap_or_default() > MIN_AGE + Duration::from_secs(1)).then_some(())
    });
    // The images take all that the machine's own disk can do: what the agent writes there would wait for them.
    let its_own = LoopFs::memory(256 * MIB).unwrap();
    let mut post = agent(&stage, &its_own.path().join("agent"), &disks, speed);
    post.launch();
    let journal = stage.on_journal(post.state());
    until("the agent to know the disks", PATIENCE, || {
        let out = journal.dogwatch(&["get", "nodes", "-o", "json"]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        disks.iter().all(|d| text.contains(d.fs.path().to_str().unwrap())).then_some(())
    });
    let watched: Vec<(u64, u64, Watch, JoinHandle<Written>)> = disks
        .iter()
        .map(|disk| {
            let (available, total) = room(disk.fs.path());
            assert!(speed.writes > available, "without a cleanup it would be full: {available}");
            let writer = write(live(&disk.root()), speed.bytes_per_second, speed.writes);
            (available, total, Watch::on(disk.fs.path(), live(&disk.root())), writer)
        })
        .collect();
    for (disk, (available, total, watch, writer)) in disks.iter().zip(watched) {
        let written = writer.join().unwrap();
        let mark = total * (100 - speed.high) / 100;
        let wanted = total * (100 - speed.low) / 100;
        let ended = Instant::now();
        // Between the marks it may go down again: that is what two marks are for.
        let back = until("it to be back under the low mark", PATIENCE, || {
            Some(watch.back()).filter(|most| *most >= wanted && room(disk.fs.path()).0 > mark)
        });
        let [lowest, unreserved] = watch.lowest();
        let actions = journal.rows(&["get", "actions"]);
        let mount = disk.fs.path().to_str().unwrap();
        let done = actions.iter().filter(|a| a["mount"] == mount && a["state"] == "done").count();
        let mb = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "{:>5} at {:>3.0} MB/s (was {:.1}): {:.0} MB available at the start, {:.0} MB written, {:.0} MB may go; from \
             the mark ({} %, {:.0} MB) to full {:.1} s; lowest {:.0} MB = {:.2} s, {:.0} MB without what the filesystem reserved for the writer; {} refused writes; {done} cleanups; back at \
             {:.0} MB of {:.0} wanted, {:.1} s after the last write at the latest",
            disk.fstype,
            mb(speed.bytes_per_second),
            mb(written.bytes) / written.took.as_secs_f64(),
            mb(available),
            mb(written.bytes),
            mb(CAN_GO),
            speed.high,
            mb(mark),
            mark as f64 / speed.bytes_per_second as f64,
            mb(lowest),
            lowest as f64 / speed.bytes_per_second as f64,
            mb(unreserved),
            written.refused,
            mb(back),
            mb(wanted),
            ended.elapsed().as_secs_f64(),
        );
        assert_eq!(written.refused, 0, "{}: a write was refused; {}", disk.fstype, post.said());
        assert!(lowest > 0, "{}: it was full; {}", disk.fstype, post.said());
        assert!(done > 0, "{}: nothing was cleaned", disk.fstype);
    }
    post.stop();
    disks.iter().for_each(Disk::judge);
}

const ALL: [&str; 3] = ["ext4", "xfs", "tmpfs"];

#[test]
fn at_100_megabytes_a_second() {
    let speed = Speed { bytes_per_second: 100_000_000, writes: 600 * MIB, high: 85, low: 80 };
    ALL.iter().for_each(|one| drill(&speed, &[one]));
}

#[test]
fn at_10_megabytes_a_second() {
    drill(&Speed { bytes_per_second: 10_000_000, writes: 600 * MIB, high: 85, low: 80 }, &ALL);
}

/// Marks near the end, so that a minute of it would fill the disk.
#[test]
fn at_1_megabyte_a_second() {
    drill(&Speed { bytes_per_second: 1_000_000, writes: 72 * MIB, high: 98, low: 95 }, &ALL);
}
