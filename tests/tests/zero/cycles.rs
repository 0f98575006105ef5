//! The disk fills and is freed again, time after time, and nothing of the agent grows.

use std::collections::BTreeMap;
use std::time::Instant;

use dogwatch_e2e::process::{anonymous_bytes, children_of, resident_bytes};
use rustix::fs::{FallocateFlags, fallocate};

use super::*;

const DEFAULT_CYCLES: usize = 200;
/// What the collector gives a node at most.
const PERMITS_AN_HOUR: usize = 600;
/// Cycles at the end over which nothing may grow. What seems to grow is followed for as many again, up to twice all of them:
/// a page of the program that is read for the first time is a step, and what leaks goes on.
const LAST: usize = 100;
/// Neighbours that are taken together: the allocator and the writer's segments make steps and saw teeth of some cycles,
/// so that single cycles would look surer than they are.
const TOGETHER: usize = 10;
/// What the agent may surely gain a cycle over so few. Its heap goes up and down by some 150 KB over longer than that (the
/// footer of the segment being written, recorder samples that wait to be sealed), and at cycle 400 is what it is at 100.
const AGENT_MAX_BYTES: f64 = 2_048.0;
/// The same of the executor, which keeps an entry a second of what it spent.
const EXECUTOR_MAX_BYTES: f64 = 64.0;
/// Victims that are large, and their size; what they hold together is less than what is asked for, so that all go.
const BIG: usize = 3;
const BIG_BYTES: u64 = MIB / 2;
const SMALL: usize = 8;

fn cycles() -> usize {
    std::env::var("DOGWATCH_TEST_CYCLES").ok().and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_CYCLES)
}

/// What a process holds: descriptors, and its threads by name.
#[derive(Debug, Clone)]
struct Holdings {
    descriptors: Vec<String>,
    threads: BTreeMap<String, usize>,
}

impl Holdings {
    /// The least of a while, of each by itself: a look at a journal or a helper of the runtime's comes and goes.
    fn at_rest(pid: u32) -> Self {
        let mut least = Self::now(pid);
        for _ in 0..24 {
            std::thread::sleep(Duration::from_millis(10));
            let now = Self::now(pid);
            if now.descriptors.len() < least.descriptors.len() {
                least.descriptors = now.descriptors;
            }
            if total(&now.threads) < total(&least.threads) {
                least.threads = now.threads;
            }
        }
        least
    }

    /// The least of as many whiles as it takes until it is no more than `early`; what leaks never is.
    fn back_at(early: &Self, pid: u32) -> Self {
        let began = Instant::now();
        loop {
            let late = Self::at_rest(pid);
            let is_back = late.descriptors.len() <= early.descriptors.len()
                && total(&late.threads) <= total(&early.threads);
            if is_back || began.elapsed() > PATIENCE {
                return late;
            }
        }
    }

    fn now(pid: u32) -> Self {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default().trim().to_owned();
            // The runtime's helpers for blocking reads end by themselves when idle.
            if !name.is_empty() && !name.starts_with("tokio-") {
                *threads.entry(name).or_default() += 1;
            }
        }
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let mut descriptors: Vec<String> =
            open.filter_map(|e| Some(fs::read_link(e.path()).ok()?.display().to_string())).collect();
        descriptors.sort();
        Self { descriptors, threads }
    }
}

fn total(threads: &BTreeMap<String, usize>) -> usize {
    threads.values().sum()
}

/// Bytes a cycle by which a figure grew, and its standard error.
#[derive(Debug, Clone, Copy)]
struct Slope {
    bytes: f64,
    error: f64,
}

impl Slope {
    /// By least squares of the means of [`TOGETHER`] values each.
    fn of(values: &[f64]) -> Self {
        let means: Vec<f64> =
            values.chunks_exact(TOGETHER).map(|c| c.iter().sum::<f64>() / TOGETHER as f64).collect();
        let n = means.len() as f64;
        let (mean_x, mean_y) = ((n - 1.0) / 2.0, means.iter().sum::<f64>() / n);
        let (mut xy, mut xx) = (0.0, 0.0);
        for (i, y) in means.iter().enumerate() {
            let x = i as f64 - mean_x;
            xy += x * (y - mean_y);
            xx += x * x;
        }
        let slope = xy / xx;
        let off = |(i, y): (usize, &f64)| (y - mean_y - slope * (i as f64 - mean_x)).powi(2);
        let rest: f64 = means.iter().enumerate().map(off).sum();
        let together = TOGETHER as f64;
        Self { bytes: slope / together, error: (rest / (n - 2.0) / xx).sqrt() / together }
    }

    /// Whether it is surely above `bytes`: by two standard errors.
    fn is_above(self, bytes: f64) -> bool {
        self.bytes - 2.0 * self.error > bytes
    }
}

impl std::fmt::Display for Slope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ± {:.0}", self.bytes, self.error)
    }
}

fn make_victims(log: &Path) -> Vec<PathBuf> {
    let mut made = Vec::new();
    for n in 1..=BIG {
        let path = log.join(format!("big.log.{n}"));
        fallocate(File::create(&path).unwrap(), FallocateFlags::empty(), 0, BIG_BYTES).unwrap();
        made.push(path);
    }
    for n in 1..=SMALL {
        let path = log.join(format!("small-{n}.log.1"));
        fs::write(&path, "old").unwrap();
        made.push(path);
    }
    made
}

/// Allocates all that is left, and all inodes where `inodes` says so.
fn fill(folder: &Path, inodes: bool) {
    if inodes {
        let refused = (0..10_000).find_map(|n| File::create(folder.join(n.to_string())).err()).unwrap();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    }
    let file = File::options().create(true).truncate(true).write(true).open(folder.join("filler"));
    // Where no inode is left, one of those that took them is written.
    let file = file.unwrap_or_else(|_| File::options().write(true).open(folder.join("0")).unwrap());
    let (mut at, mut piece) = (0, 16 * MIB);
    while piece >= 1_024 {
        match fallocate(&file, FallocateFlags::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(rustix::io::Errno::NOSPC) => piece /= 2,
            Err(e) => panic!("{e}"),
        }
    }
}

fn free(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
}

/// What of these processes grew over the last cycles by more than `most`, in words; prints all slopes.
fn growing<const N: usize>(names: [&str; N], most: [f64; N], sizes: &[[Vec<f64>; 2]; N]) -> Vec<String> {
    let mut growing = Vec::new();
    for ((name, values), most) in names.into_iter().zip(sizes).zip(most) {
        let cycles = values[0].len();
        if cycles < LAST {
            break;
        }
        let [resident, own] = values.each_ref().map(|v| Slope::of(&v[cycles - LAST..]));
        eprintln!(
            "{name}: resident {resident} bytes a cycle over the last {LAST} of {cycles}, its own memory {own}"
        );
        growing.extend(
            [("resident set", resident), ("memory", own)]
                .iter()
                .filter(|(_, s)| s.is_above(most))
                .map(|(what, slope)| format!("the {name}'s {what} grows by {slope} bytes a cycle")),
        );
    }
    growing
}

#[test]
fn two_hundred_times_from_full_to_free_and_nothing_grows() {
    let asked = cycles();
    let stage = Stage::new(programs!());
    let disk = LoopFs::create(40 * MIB, "ext4", &["-m", "0", "-N", "256"]).unwrap();
    let (state, log, fillers) =
        (disk.path().join("state"), disk.path().join("log"), disk.path().join("fillers"));
    for folder in [&log, &fillers] {
        fs::create_dir(folder).unwrap();
    }
    fs::write(log.join("live.log"), "canary\n".repeat(100)).unwrap();
    let config = format!(
        "state: {{ dir: {}, segment_bytes: 1MiB, urgent_bytes: 4MiB, evidence_bytes: 4MiB, recorder_bytes: 2MiB }}\n\
         sample: {{ every: 100ms, evidence_every: 1s, processes: false, network: false, disks: false, cgroups: {{ enabled: false }} }}\n\
         caps: {{ cpu: 100%, memory: 1GiB }}\ntail: {{ enabled: false }}\ndetect: {{ disk: {{ clear_ticks: 1 }} }}\ncleanup:\n  mode: auto\n\
         \x20 roots: [{{ path: {}, min_age: 0s, keep_newest: 0 }}]\n\
         \x20 budgets: {{ max_objects_per_hour: 1000000, max_bytes_per_hour: 1TiB }}\n\
         \x20 breaker: {{ cooldown: 100ms, cleanups: 10000, window: 1s }}\n\
         \x20 ballast: {{ bytes: 2MiB, inodes: 8, again_after: 0s }}\n",
        yaml(&state),
        yaml(&log),
    );
    assert!(
        2 * asked < PERMITS_AN_HOUR,
        "DOGWATCH_TEST_CYCLES asks for more than the collector's permits of an hour"
    );
    // It has no more than 256 cleanups of a node watched at once; here there are five a second.
    let mut house = stage.house(&stage.path().join("collector"), "cleanup: { fleet: { watch: 1s } }");
    house.start();
    let mut post = stage.post("node-a", &state, Some(&house), &config);
    post.log_to(&disk.path().join("agent.out"));
    post.start();
    let pid = post.process().id();
    let executor = until("the executor", PATIENCE, || children_of(pid).first().copied());
    let ballast = state.join("ballast");
    let held = || ballast.join("bytes").exists() && ballast.join("inode-0007").exists();
    until("the ballast", PATIENCE, || held().then_some(()));
    // Recorder records are sealed after ten seconds; from then on each journal has a segment open.
    let begun = |stream: &str| {
        let names = fs::read_dir(state.join("journal").join(stream)).unwrap().flatten();
        names.into_iter().any(|e| e.file_name().to_string_lossy().starts_with('0'))
    };
    until("each journal to have begun", PATIENCE, || {
        Stream::ALL.into_iter().all(|s| begun(s.as_str())).then_some(())
    });

    let canaries = canary::remember(&log);
    let began = Instant::now();
    let mut early = None;
    // What each process has, and what of that is its own memory.
    // The collector keeps what it is told (an index, blocks' places, an incident's pieces), so that it is shown alone.
    let processes = [("agent", pid), ("executor", executor), ("collector", house.process().id())];
    let most = [AGENT_MAX_BYTES, EXECUTOR_MAX_BYTES, f64::INFINITY];
    let mut sizes = processes.map(|_| [Vec::new(), Vec::new()]);
    let mut cycle: usize = 0;
    let growing = loop {
        cycle += 1;
        let victims = make_victims(&log);
        fill(&fillers, cycle.is_multiple_of(3));
        until("the victims to go", PATIENCE, || {
            assert!(post.process().is_running(), "the agent ended in cycle {cycle}");
            victims.iter().all(|v| !v.exists()).then_some(())
        });
        free(&fillers);
        until("the ballast to be back", PATIENCE, || held().then_some(()));
        for ((_, pid), sizes) in processes.iter().zip(&mut sizes) {
            sizes[0].push(resident_bytes(*pid).unwrap() as f64);
            sizes[1].push(anonymous_bytes(*pid).unwrap() as f64);
        }
        if cycle.is_multiple_of(50) {
            let kib =
                |values: &[Vec<f64>; 2]| values.each_ref().map(|v| v.last().map_or(0.0, |b| b / 1_024.0));
            let now: Vec<String> = processes
                .iter()
                .zip(&sizes)
                .map(|((name, _), values)| {
                    format!("{name} {:.0} KiB ({:.0} its own)", kib(values)[0], kib(values)[1])
                })
                .collect();
            eprintln!("cycle {cycle} after {:.1} s: {}", began.elapsed().as_secs_f64(), now.join(", "));
        }
        if cycle == asked.min(10) {
            early = Some([pid, executor].map(Holdings::at_rest));
        }
        if cycle >= asked && (cycle - asked).is_multiple_of(LAST) {
            let growing = growing(processes.map(|(name, _)| name), most, &sizes);
            if growing.is_empty() || cycle >= 2 * asked {
                break growing;
            }
        }
    };
    let cycles = cycle;
    let took = began.elapsed();
    assert_eq!(children_of(pid).first(), Some(&executor), "the executor was never started again");
    assert_eq!(canary::remember(&log), canaries);
    let early = early.unwrap();
    let late = [(&early[0], pid), (&early[1], executor)].map(|(early, pid)| Holdings::back_at(early, pid));
    post.stop();

    let bodies = urgent(&house.store());
    let cleaned = actions(&bodies, disk.path(), ActionState::Done);
    let notes =
        |start: &str| bodies.iter().filter(|b| matches!(b, Body::Note(n) if n.starts_with(start))).count();
    let ledger = Ledger::read(&house.store());
    let (mut missing, mut told) = (0, 0);
    for chain in ledger.chains().into_iter().filter(|c| c.stream != Stream::Recorder) {
        let (lacks, says) = ledger.missing_and_told(chain);
        (missing, told) = (missing + lacks, told + says);
    }
    eprintln!(
        "{cycles} cycles in {:.1} s: {} cleanups shipped, ballast given up {} and taken {} times; {} urgent records; \
         missing {missing}, told in gaps {told}; descriptors {} and {}, threads {} and {} at cycle 10 and {cycles}",
        took.as_secs_f64(),
        cleaned.len(),
        notes("gave up"),
        notes("took"),
        bodies.len(),
        early.iter().map(|h| h.descriptors.len()).sum::<usize>(),
        late.iter().map(|h| h.descriptors.len()).sum::<usize>(),
        early.iter().flat_map(|h| h.threads.values()).sum::<usize>(),
        late.iter().flat_map(|h| h.threads.values()).sum::<usize>(),
    );
    for (early, late) in early.iter().zip(&late) {
        assert_eq!(early.threads, late.threads);
        let (early, late) = (&early.descriptors, &late.descriptors);
        assert_eq!(early.len(), late.len(), "{early:#?} became {late:#?}");
    }
    assert!(growing.is_empty(), "{growing:?}");
    assert!(cleaned.len() >= cycles, "{} cleanups in {cycles} cycles", cleaned.len());
    assert!(notes("gave up") >= cycles * 9 / 10 && notes("took") >= cycles * 9 / 10);
    assert_eq!(ledger.silent_holes(), Vec::<String>::new());
    assert_eq!(ledger.twice(), Vec::<String>::new());
    assert_eq!(missing, told, "every loss is counted");
    house.stop();
}
