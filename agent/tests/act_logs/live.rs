//! Live logs, cut while real writers write to them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dogwatch::record::{Action, CleanupMode, Hash, ObjectOutcome};
use dogwatch_agent::act::policy::{Cleaner, Policy, RootPolicy};
use sha2::{Digest, Sha256};

use super::common::LoopFs;
use super::tail_rig::{Rig, numbers};
use super::{Cleaning, why};

const MIB: u64 = 1 << 20;
/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(60);

fn root(path: &Path) -> RootPolicy {
    RootPolicy {
        patterns: vec!["app*.log".to_owned()],
        mode: Some(CleanupMode::Auto),
        min_size_bytes: 4 * MIB,
        keep_bytes: MIB,
        ..RootPolicy::of(Cleaner::LiveLogs, path)
    }
}

fn line(n: u64) -> String {
    format!("{n:08} something that an application says again and again\n")
}

/// Lines numbered from `first` that fill `bytes`; the number of the next.
fn fill(file: &mut File, first: u64, bytes: u64) -> u64 {
    let mut text = String::new();
    let mut n = first;
    while (text.len() as u64) < bytes {
        text.push_str(&line(n));
        n += 1;
    }
    file.write_all(text.as_bytes()).unwrap();
    n
}

/// A process's worth of writing to one log, in a thread: a line at a time, paced so that it does not fill the disk.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(file: File, first: u64) -> Self {
        Self::paced(file, first, Duration::from_millis(5))
    }

    /// One that rests for `pause` after each kilobyte: by that much, and no faster, the log grows while everything else
    /// stands still.
    fn paced(mut file: File, first: u64, pause: Duration) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(first)));
        let (ends, counts) = (Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            let mut n = first;
            while !ends.load(Ordering::Relaxed) {
                file.write_all(line(n).as_bytes()).unwrap();
                n += 1;
                counts.store(n, Ordering::Release);
                if n.is_multiple_of(16) {
                    std::thread::sleep(pause);
                }
            }
        });
        Self { stop, written, thread: Some(thread) }
    }

    /// Waits until `more` further lines are written.
    fn wait(&self, more: u64) {
        let (began, from) = (Instant::now(), self.written.load(Ordering::Acquire));
        while self.written.load(Ordering::Acquire) < from + more {
            assert!(began.elapsed() < PATIENCE, "the writer stands still");
            std::thread::yield_now();
        }
    }

    /// Ends it; the number of the line that it would have written next.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.written.load(Ordering::Acquire)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A plan to cut what grows: a writer that had no turn between a survey's two looks rightly does not seem to write.
fn plan_of_growing(cleaning: &mut Cleaning) -> Action {
    let began = Instant::now();
    loop {
        let survey = cleaning.survey();
        let plan = cleaning.plan(&survey);
        let still = plan.refused.iter().any(|r| r.reason.contains("does not grow"));
        if !still || began.elapsed() > PATIENCE {
            return plan;
        }
    }
}

/// Cuts a log to which a writer writes all the while; whether it appends is the caller's.
fn cut_under(fs: &LoopFs, name: &str, append: bool) {
    let path = fs.path().join(name);
    let mut file = OpenOptions::new().create(true).append(append).write(true).open(&path).unwrap();
    let next = fill(&mut file, 0, 8 * MIB);
    let writer = Writer::start(file, next);
    writer.wait(1_000);
    let mut cleaning = Cleaning::of(root(fs.path()));
    let plan = plan_of_growing(&mut cleaning);
    assert_eq!(plan.objects.len(), 1, "{plan:#?}");
    let object = plan.objects[0].clone();
    let cut = object.cut.clone().unwrap();
    assert!(object.why_safe.contains("it grows by"), "{}", object.why_safe);
    let content = fs::read(&path).unwrap();
    let (from, to) = (cut.from as usize, cut.to as usize);
    assert_eq!(object.sha256, Some(Hash(Sha256::digest(&content[from..to]).into())), "of exactly what goes");
    assert!(!object.digest_partial);
    assert_eq!(content[to], b'\n');
    assert!(cut.tail.len() > 60 << 10, "{}", cut.tail.len());
    let seen = &content[..object.size_bytes as usize];
    let held = seen.windows(cut.tail.len()).rposition(|w| w == cut.tail).unwrap();
    assert!(
        held > to && seen.len() - held - cut.tail.len() < line(0).len(),
        "the newest lines, and only whole ones"
    );

    let before = fs::metadata(&path).unwrap();
    let done = cleaning.apply(&plan);
    writer.wait(1_000);
    let next = writer.end();
    assert_eq!(done.objects[0].outcome, ObjectOutcome::Cut, "{:#?}", done.refused);
    let after = fs::metadata(&path).unwrap();
    let freed = done.freed_bytes.unwrap();
    assert!(freed >= object.allocated_bytes / 2 && freed >= 6 * MIB, "{freed} of {}", object.allocated_bytes);
    assert!(after.blocks() * 512 < before.blocks() * 512, "blocks went");
    assert_eq!(
        (after.ino(), after.len()),
        (before.ino(), next * line(0).len() as u64),
        "not a byte is missing"
    );

    let now = fs::read(&path).unwrap();
    assert_eq!(&now[..from], &content[..from], "the head stays");
    assert!(now[from..to].iter().all(|b| *b == 0), "what was recorded is gone");
    let kept = String::from_utf8(now[to + 1..].to_vec()).unwrap();
    let first: u64 = kept[..8].parse().unwrap();
    let lines: Vec<u64> = kept.lines().map(|l| l[..8].parse().unwrap()).collect();
    assert_eq!(lines, (first..next).collect::<Vec<u64>>(), "{name}: every line from the tail's first on");
    assert!(kept.len() as u64 >= MIB - 64 * 1024);

    // Once more there is nothing to cut: it is large by name only.
    let survey = cleaning.survey();
    let again = cleaning.plan(&survey);
    assert!(again.objects.is_empty() && why(&again, &path).contains("less than 4.0 MiB"), "{again:#?}");
    fs::remove_file(&path).unwrap();
}

#[test]
fn no_line_is_lost_while_a_log_is_cut() {
    for fs in [LoopFs::ext4(64), LoopFs::tmpfs(64)] {
        cut_under(&fs, "app-appends.log", true);
        cut_under(&fs, "app-plain.log", false);
    }
}

#[test]
fn our_own_tail_keeps_its_place() {
    let mut rig = Rig::new("app.log");
    let path = rig.path("app.log");
    let mut n = 0;
    let mut more = |rig: &Rig, lines: u64| {
        let text: String = (n..n + lines).map(line).collect();
        n += lines;
        rig.append("app.log", &text);
        n
    };
    while fs::metadata(&path).map_or(0, |m| m.len()) < 6 * MIB {
        more(&rig, 10_000);
        rig.turn();
    }
    let read = more(&rig, 0);
    let (checkpoint, journaled) = (rig.commit(), rig.journaled());

    let folder = rig.dir.path().to_owned();
    let mut cleaning = Cleaning::of(root(&folder));
    // Slower than what stays: a reader that lags behind the cut has lost what lies between.
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    let writer = Writer::paced(file, read, Duration::from_millis(50));
    let plan = plan_of_growing(&mut cleaning);
    let done = cleaning.apply(&plan);
    let next = writer.end();
    assert_eq!(done.objects[0].outcome, ObjectOutcome::Cut, "{:#?}", done.refused);

    rig.turn();
    let all = |from: u64| (from as usize..next as usize).collect::<Vec<usize>>();
    assert_eq!(numbers(&rig.lines()), all(0), "none lost, none twice");
    assert!(rig.gaps().is_empty() && rig.problems().is_empty(), "{:?} {:?}", rig.gaps(), rig.problems());

    // A run that begins after the cut, from where the one before it had come.
    let before = rig.lines().len();
    rig.start(Some(checkpoint), journaled);
    rig.turn();
    assert_eq!(numbers(&rig.lines()[before..]), all(read), "from its place on, and no earlier");
    assert!(rig.gaps().is_empty() && rig.problems().is_empty(), "{:?} {:?}", rig.gaps(), rig.problems());
}

/// What happens to a log between plan and act.
type Trick = (&'static str, fn(&Path), &'static str);

#[test]
fn a_log_that_changed_since_the_plan_is_not_cut() {
    let tricks: [Trick; 8] = [
        ("rotated", |p| fs::rename(p, p.with_extension("log.1")).unwrap(), "gone"),
        (
            "replaced",
            |p| {
                fs::copy(p, p.with_extension("new")).unwrap();
                fs::rename(p.with_extension("new"), p).unwrap();
            },
            "another file has its name",
        ),
        ("truncated", |p| File::options().write(true).open(p).unwrap().set_len(5 * MIB).unwrap(), "shorter"),
        ("linked", |p| fs::hard_link(p, p.with_extension("other")).unwrap(), "another name"),
        (
            "link",
            |p| {
                fs::rename(p, p.with_extension("real")).unwrap();
                std::os::unix::fs::symlink(p.with_extension("real"), p).unwrap();
            },
            "",
        ),
        (
            "rewritten",
            |p| File::options().write(true).open(p).unwrap().write_all_at(b"!", 2 * MIB).unwrap(),
            "changed",
        ),
        ("given", |p| std::os::unix::fs::chown(p, Some(4242), None).unwrap(), "owner"),
        ("database", |p| fs::write(p.with_file_name("PG_VERSION"), "16").unwrap(), "database"),
    ];
    let fs = LoopFs::ext4(128);
    for (name, trick, reason) in tricks {
        let folder = fs.path().join(name);
        fs::create_dir(&folder).unwrap();
        let path = folder.join("app.log");
        let mut file = File::create(&path).unwrap();
        let next = fill(&mut file, 0, 6 * MIB);
        let writer = Writer::start(file, next);
        let mut cleaning = Cleaning::of(root(&folder));
        let plan = plan_of_growing(&mut cleaning);
        writer.end();
        assert_eq!(plan.objects.len(), 1, "{name}: {plan:#?}");
        trick(&path);
        // What is allocated late would count as a change.
        rustix::fs::syncfs(File::open(&folder).unwrap()).unwrap();
        let allocated: u64 = super::files(&folder).iter().map(|p| fs::metadata(p).unwrap().blocks()).sum();
        let done = cleaning.apply(&plan);
        assert_eq!(done.objects[0].outcome, ObjectOutcome::Skipped, "{name}: {done:#?}");
        assert!(why(&done, &path).contains(reason), "{name}: {}", why(&done, &path));
        let left: u64 = super::files(&folder).iter().map(|p| fs::metadata(p).unwrap().blocks()).sum();
        assert_eq!((done.freed_bytes, left), (Some(0), allocated), "{name}");
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_plan_that_takes_more_than_may_go_cuts_nothing() {
    let fs = LoopFs::ext4(64);
    let path = fs.path().join("app.log");
    let mut file = File::create(&path).unwrap();
    let next = fill(&mut file, 0, 6 * MIB);
    let writer = Writer::start(file, next);
    let mut cleaning = Cleaning::of(root(fs.path()));
    let plan = plan_of_growing(&mut cleaning);
    writer.end();
    let content = fs::read(&path).unwrap();
    let length = line(0).len() as u64;
    let last = content.len() as u64 - 1;
    for (from, to) in [
        (0, plan.objects[0].cut.as_ref().unwrap().to),
        (64 << 10, last),
        (64 << 10, 3 * MIB / length * length),
    ] {
        let mut more = plan.clone();
        let cut = more.objects[0].cut.as_mut().unwrap();
        (cut.from, cut.to) = (from, to);
        more.objects[0].sha256 = Some(Hash(Sha256::digest(&content[from as usize..to as usize]).into()));
        let done = cleaning.apply(&more);
        assert!(why(&done, &path).contains("more than may go"), "{from}..{to}: {done:#?}");
    }
    let mut without = plan.clone();
    without.objects[0].cut = None;
    assert!(why(&cleaning.apply(&without), &path).contains("does not say what goes"));
    assert_eq!(fs::read(&path).unwrap(), content);
    // A log that stands still on a mount with room stays, and so does one that no pattern names.
    fs::write(fs.path().join("other.log"), &content).unwrap();
    let survey = cleaning.survey();
    let still = cleaning.plan(&survey);
    assert!(still.objects.is_empty() && why(&still, &path).contains("does not grow"), "{still:#?}");
    assert!(still.refused.iter().all(|r| r.path.as_ref().is_none_or(|p| !p.ends_with("other.log"))));
}

#[test]
fn a_mount_that_is_nearly_full_is_reason_enough() {
    let fs = LoopFs::tmpfs(8);
    let path = fs.path().join("app.log");
    fill(&mut File::create(&path).unwrap(), 0, 7 * MIB + 3 * MIB / 4);
    let mut cleaning = Cleaning::of(root(fs.path()));
    let survey = cleaning.survey();
    let plan = cleaning.plan(&survey);
    assert!(plan.objects[0].why_safe.contains("nearly full"), "{plan:#?}");
    let done = cleaning.apply(&plan);
    assert_eq!(done.objects[0].outcome, ObjectOutcome::Cut);
    assert!(done.freed_bytes.unwrap() > 6 * MIB, "{done:#?}");
    let unexplained = done.unexplained.unwrap();
    assert_eq!(unexplained.bytes, 0, "{}", unexplained.reason);
}

#[test]
fn cutting_is_switched_on_by_name_alone() {
    let temp = tempfile::tempdir().unwrap();
    let base = root(temp.path());
    let keys = |root: RootPolicy| -> Vec<String> {
        let policy = Policy { roots: vec![root], ..Policy::off() };
        policy.validate(Path::new("/var/spool/x")).into_iter().map(|p| p.key).collect()
    };
    assert_eq!(keys(base.clone()), [""; 0]);
    assert_eq!(keys(RootPolicy { mode: None, ..base.clone() }), ["roots[0].mode"]);
    assert_eq!(keys(RootPolicy { patterns: Vec::new(), ..base.clone() }), ["roots[0].patterns"]);
    assert_eq!(keys(RootPolicy { patterns: vec!["**".to_owned()], ..base.clone() }), ["roots[0].patterns"]);
    assert_eq!(keys(RootPolicy { min_size_bytes: MIB, ..base }), ["roots[0].min_size"]);
    let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/agent.yaml");
    assert!(!fs::read_to_string(shipped).unwrap().lines().any(|l| {
        let l = l.trim_start();
        !l.starts_with('#') && l.contains("live-logs")
    }));
}
