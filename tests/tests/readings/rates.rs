//! Rates of a process between two samples, which no reading of one moment has: its share of a CPU, and its storage I/O.
//!
//! A bracket of counters is read around each of the two samples: what the process did between the inner ones is the
//! least, what it did between the outer ones the most that a sample can tell. `pidstat` looks for a second in between, and
//! so what it saw is at most what the inner counters tell, and all of it is in ours.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dogwatch::record::{Process as Seen, Sample};
use dogwatch_agent::sample::{Roots, SampleOptions, Sampler};
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::Process;
use dogwatch_e2e::wait::until;

use super::table::Value;
use super::tools::Script;

/// What a process has done so far, by the kernel: clock ticks of CPU, bytes read, bytes written.
const COUNTERS: &str = r#"
import sys
for _ in sys.stdin:
    with open(f"/proc/{sys.argv[1]}/stat") as file:
        ticks = file.read().rpartition(")")[2].split()
    with open(f"/proc/{sys.argv[1]}/io") as file:
        moved = dict(line.split(": ") for line in file.read().splitlines())
    print(f"+ 0 ticks {int(ticks[11]) + int(ticks[12])}")
    print(f"+ 0 read {moved['read_bytes']}\n+ 0 written {moved['write_bytes']}\n.", flush=True)
"#;

/// Writes and reads past the page cache, for ever and at one place.
const MOVER: &str = r#"
import mmap, os, sys
block = mmap.mmap(-1, 65536)
part = memoryview(block)[:16384]
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
while True:
    for at in range(0, 4 << 20, len(block)):
        os.pwritev(file, [block], at)
        os.preadv(file, [part], at)
"#;

/// What `pidstat` may be off by, as a share: it takes the length of its second from a clock of hundredths.
const ROUNDED: f64 = 0.02;

/// For a process to get its turn at a busy machine.
const WAIT: Duration = Duration::from_secs(60);

/// Counters at a moment.
#[derive(Clone, Copy)]
struct Counters {
    of: [f64; 3],
    before: Instant,
    after: Instant,
}

impl Counters {
    fn read(script: &mut Script) -> Self {
        let before = Instant::now();
        let readings = script.read();
        let number = |i: usize| match &readings[i].value {
            Value::Number(n) => *n,
            Value::Text(text) => panic!("{text} is no number"),
        };
        Self { of: [0, 1, 2].map(number), before, after: Instant::now() }
    }
}

/// What was seen of a process over some second.
struct Look {
    ours: Seen,
    /// Per second, at least and at most: ticks, bytes read and written.
    bounds: [(f64, f64); 3],
    /// By `pidstat`, in the order in which it was asked for them.
    pidstat: Vec<f64>,
    /// How long our second was, at most.
    most_s: f64,
    /// By the inner counters, all that was done between them.
    inner: [f64; 3],
}

fn look(sampler: &mut Sampler, process: &Process, columns: &[&str], flag: &str) -> Look {
    let pid = process.id();
    let mut script = Script::start(COUNTERS, &[pid.to_string()]);
    // On a machine that does other things too, it may do nothing for a second, and is then not at the top.
    until("two samples that list the process, and it did something before each", WAIT, || {
        let a = Counters::read(&mut script);
        at_work(&sampler.sample(), pid, flag)?;
        let b = Counters::read(&mut script);
        let pidstat = pidstat(pid, flag, columns);
        let c = Counters::read(&mut script);
        let ours = at_work(&sampler.sample(), pid, flag)?;
        let d = Counters::read(&mut script);
        if pidstat.contains(&0.0) {
            return None;
        }
        Some(compare([a, b, c, d], ours, pidstat))
    })
}

/// The process, if the sample saw that it did something: else its last reading may be an older one.
fn at_work(sample: &Sample, pid: u32, flag: &str) -> Option<Seen> {
    let listed = sample.processes.iter().find(|p| p.pid == pid)?;
    let did = if flag == "-u" { Some(listed.cpu_percent) } else { listed.written_bytes_per_s };
    did.filter(|rate| *rate > 0.0).map(|_| listed.clone())
}

fn compare([a, b, c, d]: [Counters; 4], ours: Seen, pidstat: Vec<f64>) -> Look {
    // Of the time between the two samples, too, only a least and a most are known.
    let (least_s, most_s) = ((c.after - b.before).as_secs_f64(), (d.after - a.before).as_secs_f64());
    let bounds =
        [0, 1, 2].map(|i| ((c.of[i] - b.of[i]).max(0.0) / most_s, (d.of[i] - a.of[i]).max(0.0) / least_s));
    let inner = [0, 1, 2].map(|i| c.of[i] - b.of[i]);
    Look { ours, bounds, pidstat, most_s, inner }
}

/// Figures of one second by `pidstat`.
fn pidstat(pid: u32, flag: &str, columns: &[&str]) -> Vec<f64> {
    let mut command = Command::new("pidstat");
    command.args([flag, "-h", "-p", &pid.to_string(), "1", "1"]).env("LC_ALL", "C");
    let output = command.output().expect("pidstat is needed for this test");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<&str> =
        text.lines().find_map(|l| l.strip_prefix('#')).unwrap().split_whitespace().collect();
    let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
    let figure = |column: &&str| {
        // From the end, as the time may be of one word or two.
        let from_end = names.iter().rev().position(|n| n == column).unwrap();
        last[last.len() - 1 - from_end].parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    };
    columns.iter().map(figure).collect()
}

/// `units` are counted in the time of the inner counters, and a unit more by who rounds.
fn judge(figure: &str, ours: f64, (least, most): (f64, f64), pidstat: f64, units: f64, most_s: f64) {
    println!(
        "{figure:<22} ours {ours:>13.1}, by its counters {least:>13.1} to {most:>13.1} in up to {most_s:.2} s, \
         pidstat {pidstat:>13.1} in 1 s, of {units:>13.1}"
    );
    assert!((least..=most).contains(&ours), "{figure}: {ours} is not in {least} to {most}");
    assert!(pidstat > 0.0, "pidstat saw nothing");
    assert!(pidstat * (1.0 - ROUNDED) <= units, "{figure}: pidstat saw {pidstat}, the counters {units}");
    assert!(
        pidstat * (1.0 - ROUNDED) <= ours * most_s,
        "{figure}: {ours} a second for {most_s} s is less than the {pidstat} that pidstat saw"
    );
}

#[test]
fn the_cpu_of_a_process_agrees_with_its_ticks_and_with_pidstat() {
    let folder = tempfile::tempdir().unwrap();
    let mut sampler = Sampler::new(Roots::default(), SampleOptions::default());
    sampler.sample();
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    let busy = Process::start("a busy sh", command, &folder.path().join("busy.log"));
    let seen = look(&mut sampler, &busy, &["%CPU"], "-u");
    // Ticks are 10 ms, and each of two readings may be off by one.
    let (least, most) = seen.bounds[0];
    let bounds = ((least - 1.0).max(0.0), most + 1.0);
    // At 100 ticks a second, a tick is 1 %.
    judge("cpu_percent", seen.ours.cpu_percent, bounds, seen.pidstat[0], seen.inner[0] + 1.0, seen.most_s);
}

#[test]
fn the_storage_io_of_a_process_agrees_with_its_counters_and_with_pidstat() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts a filesystem: run it as root");
    let folder = tempfile::tempdir().unwrap();
    let disk = LoopFs::create(32 << 20, "ext4", &[]).expect("an ext4 filesystem can be made and mounted");
    let mut sampler = Sampler::new(Roots::default(), SampleOptions::default());
    sampler.sample();
    let mover = start_mover(&disk.path().join("moved"), folder.path());
    let seen = look(&mut sampler, &mover, &["kB_rd/s", "kB_wr/s"], "-d");
    let [_, read, written] = seen.bounds;
    assert!(read.0 > 0.0 && written.0 > read.0, "it reads and writes: {read:?} {written:?}");
    let ours = [seen.ours.read_bytes_per_s, seen.ours.written_bytes_per_s].map(|r| r.expect("root is told"));
    // We keep rates of processes in 24 binary digits.
    let about = |(least, most): (f64, f64)| (least * (1.0 - 1e-6), most * (1.0 + 1e-6));
    let kib = |n: usize| seen.pidstat[n] * 1024.0;
    judge("read_bytes_per_s", ours[0], about(read), kib(0), seen.inner[1], seen.most_s);
    judge("written_bytes_per_s", ours[1], about(written), kib(1), seen.inner[2], seen.most_s);
}

fn start_mover(file: &Path, folder: &Path) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", MOVER]).arg(file).stdin(Stdio::null());
    Process::start("a python3 that writes", command, &folder.join("mover.log"))
}
