//! What fills a disk: our walk of a million files beside `du -s` and the fastest parallel walkers that are published, in the
//! same run, warm and cold; and what a walk within its budget costs, its CPU and a `dd` beside it.
//!
//! The walk is the shipped program's (`dogwatch-agent usage`), from its start to its end with the answer written, as the peers
//! are: `pdu` and `diskus` at pinned versions, installed once beside this program by `cargo install` (some two minutes).
//! The tree lies on an ext4 of its own in a sparse file and goes with it. Rounds are interleaved, so that whatever else the
//! machine does falls on all alike. Cold is after `drop_caches`, which empties the caches of the whole machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dogwatch_e2e::loopfs::LoopFs;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use super::process::{Running, cpu_time, shipped_agent};
use super::table::{Limit, Table};

/// 100 by 100 folders of 100 files.
const WIDTH: usize = 100;
const FILESYSTEM_BYTES: u64 = 4 << 30;
const WARM_ROUNDS: usize = 9;
const COLD_ROUNDS: usize = 3;
/// The design's figure for a warm tree, seconds, on the machine where the peers needed what is written with each of them; on
/// another machine it is as many times what they need there.
const WARM_SECONDS: f64 = 0.65;
/// What `du -s` needed on that machine.
const DU_SECONDS: f64 = 1.11;
/// Per cent of a CPU that the budgeted walk is given: the agent's own default.
const CPU_PERCENT: f64 = 2.0;
/// For its CPU; a hundred of its steps and rests, so that one more or less is no matter.
const MEASURED: Duration = Duration::from_secs(15);
const DD_PAIRS: usize = 25;
const DD_MIB: u64 = 512;
const MAX_LOSS_PERCENT: f64 = 5.0;
/// The budgeted walk runs so long before a `dd` begins: its own start is no part of it.
const SETTLE: Duration = Duration::from_millis(500);
/// Published walkers.
const PEERS: [Peer; 2] = [
    // It takes a loop device for a disk that turns and would use one thread.
    Peer {
        package: "parallel-disk-usage",
        program: "pdu",
        version: "0.24.0",
        args: &["--threads=max"],
        seconds: 0.76,
    },
    Peer { package: "diskus", program: "diskus", version: "0.9.0", args: &[], seconds: 0.85 },
];

struct Peer {
    package: &'static str,
    program: &'static str,
    version: &'static str,
    args: &'static [&'static str],
    /// What it needed on the design's machine.
    seconds: f64,
}

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let agent = shipped_agent()?;
    let peers = peers()?;
    let inodes = (WIDTH * WIDTH * (WIDTH + 2)).to_string();
    let whole_now = "lazy_itable_init=0,lazy_journal_init=0";
    let fs = LoopFs::create(FILESYSTEM_BYTES, "ext4", &["-m", "0", "-N", &inodes, "-E", whole_now])?;
    let tree = fs.path().join("tree");
    make(&tree)?;
    rustix::fs::sync();

    let walk = vec!["usage".to_owned(), "-o".to_owned(), "json".to_owned(), tree.display().to_string()];
    let of_tree = |first: &[&str]| {
        first.iter().map(|a| (*a).to_owned()).chain([tree.display().to_string()]).collect::<Vec<_>>()
    };
    let mut walkers = vec![
        Walker { name: "dogwatch-agent usage".to_owned(), program: agent.clone(), args: walk },
        Walker { name: "du -s".to_owned(), program: "du".into(), args: of_tree(&["-s"]) },
    ];
    for (peer, program) in PEERS.iter().zip(peers) {
        let name = format!("{} {}", peer.program, peer.version);
        walkers.push(Walker { name, program, args: of_tree(peer.args) });
    }
    agrees(&walkers)?;
    let wanted: Vec<f64> = [DU_SECONDS]
        .into_iter()
        .chain(PEERS.map(|p| p.seconds))
        .map(|theirs| WARM_SECONDS / theirs)
        .collect();
    rows(table, "warm", &rounds(&walkers, WARM_ROUNDS, false)?, &wanted);
    rows(table, "cold", &rounds(&walkers, COLD_ROUNDS, true)?, &[]);
    beside(table, &agent, &tree, &fs.path().join("dd"))
}

struct Walker {
    name: String,
    program: PathBuf,
    args: Vec<String>,
}

impl Walker {
    fn output(&self) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        let out = command.args(&self.args).stdin(Stdio::null()).output();
        let out = out.with_context(|| format!("starting {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "{} ended with {}: {}", self.name, out.status, said.trim());
        Ok(out.stdout)
    }
}

/// Our sum is `du`'s, or it would be no comparison.
fn agrees(walkers: &[Walker]) -> Result<()> {
    let [ours, du, ..] = walkers else { return Ok(()) };
    let said: serde_json::Value = serde_json::from_slice(&ours.output()?)?;
    let bytes = said["tree"]["allocated_bytes"].as_u64().context("the walk told no sum")?;
    let text = String::from_utf8(du.output()?)?;
    let kib: u64 = text.split_whitespace().next().unwrap_or_default().parse()?;
    ensure!(bytes == kib * 1024, "the walk found {bytes} bytes, du {}", kib * 1024);
    let inodes = said["tree"]["inodes"].as_u64().unwrap_or(0);
    ensure!(inodes > 1_000_000, "the tree has {inodes} inodes only");
    Ok(())
}

/// Seconds of each walker in each round.
fn rounds(walkers: &[Walker], rounds: usize, cold: bool) -> Result<Vec<(String, Vec<f64>)>> {
    let mut taken: Vec<(String, Vec<f64>)> = walkers.iter().map(|w| (w.name.clone(), Vec::new())).collect();
    for round in 0..rounds {
        // Another first one each round.
        for n in 0..walkers.len() {
            let n = (n + round) % walkers.len();
            if cold {
                drop_caches()?;
            }
            let began = Instant::now();
            walkers[n].output()?;
            taken[n].1.push(began.elapsed().as_secs_f64());
        }
    }
    Ok(taken)
}

/// `wanted`: how many times what each of the peers needs ours may need; without, no more than the fastest of them.
fn rows(table: &mut Table, how: &str, taken: &[(String, Vec<f64>)], wanted: &[f64]) {
    let [(_, ours), peers @ ..] = taken else { return };
    let what = format!("what fills it, 1 M files, {how}");
    let fastest = peers.iter().map(|(_, t)| median(t)).fold(f64::INFINITY, f64::min);
    for (n, (name, seconds)) in peers.iter().enumerate() {
        let limit = match wanted.get(n) {
            Some(times) => Limit::TimesPeer(*times),
            None if median(seconds) <= fastest => Limit::TimesPeer(1.0),
            None => Limit::None,
        };
        table.row(format!("{what}, median"), median(ours), "s", Some((name, median(seconds))), limit);
    }
    for (name, seconds) in taken {
        table.remark(format!(
            "{how}: {name} {:.2} s at best, {:.2} s in the median, {:.2} s at worst of {} rounds",
            best(seconds),
            median(seconds),
            seconds.iter().copied().fold(0.0, f64::max),
            seconds.len()
        ));
    }
}

/// A `dd` beside the budgeted walk and beside the same walk while it is stopped, in turn, each pair the other way round than
/// the one before; and what that walk uses of a CPU.
fn beside(table: &mut Table, agent: &Path, tree: &Path, file: &Path) -> Result<()> {
    let (mut alone, mut shared, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    let mut walk = budgeted(agent, tree)?;
    let share = share(&mut walk)?;
    for pair in 0..DD_PAIRS {
        if walk.still_runs("").is_err() {
            walk = budgeted(agent, tree)?;
        }
        let stopped = |seconds: &mut Vec<f64>| -> Result<f64> {
            walk.signal(Signal::STOP)?;
            let taken = dd(file);
            walk.signal(Signal::CONT)?;
            seconds.push(taken?);
            Ok(seconds[seconds.len() - 1])
        };
        let beside = |seconds: &mut Vec<f64>| -> Result<f64> {
            std::thread::sleep(SETTLE);
            seconds.push(dd(file)?);
            Ok(seconds[seconds.len() - 1])
        };
        let (with, without) = if pair.is_multiple_of(2) {
            let without = stopped(&mut alone)?;
            (beside(&mut shared)?, without)
        } else {
            (beside(&mut shared)?, stopped(&mut alone)?)
        };
        losses.push((1.0 - without / with) * 100.0);
    }
    table.row("budgeted walk, CPU", share, "%", None, Limit::AtMost(CPU_PERCENT));
    let loss = median(&losses);
    table.row("budgeted walk, what a dd beside it loses", loss, "%", None, Limit::AtMost(MAX_LOSS_PERCENT));
    losses.sort_by(f64::total_cmp);
    let quarter = losses.len() / 4;
    table.remark(format!(
        "dd beside the budgeted walk: the median of {} pairs; half of them lie between {:.1} and {:.1} %",
        losses.len(),
        losses[quarter],
        losses[losses.len() - 1 - quarter]
    ));
    for (how, seconds) in [("alone", &alone), ("beside the walk", &shared)] {
        let mib = |s: f64| DD_MIB as f64 / s;
        table.remark(format!(
            "dd of {DD_MIB} MiB {how}: {:.0} MiB/s in the median, {:.0} to {:.0} in {} rounds",
            mib(median(seconds)),
            mib(seconds.iter().copied().fold(0.0, f64::max)),
            mib(best(seconds)),
            seconds.len()
        ));
    }
    Ok(())
}

/// A walk as the agent makes it by itself, that reads from the disk as on a node whose caches hold other things.
fn budgeted(agent: &Path, tree: &Path) -> Result<Running> {
    drop_caches()?;
    let mut command = Command::new(agent);
    let percent = format!("{CPU_PERCENT:.0}");
    command.args(["usage", "--cpu", &percent, "-o", "json"]).arg(tree);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let walk = Running::start(command)?;
    std::thread::sleep(SETTLE);
    Ok(walk)
}

/// Per cent of a CPU that it uses.
fn share(walk: &mut Running) -> Result<f64> {
    let (began, before) = (Instant::now(), cpu_time(walk.pid())?);
    std::thread::sleep(MEASURED);
    walk.still_runs("the budgeted walk")?;
    let used = cpu_time(walk.pid())?.saturating_sub(before).as_secs_f64();
    Ok(used * 100.0 / began.elapsed().as_secs_f64())
}

/// Seconds that a direct, synced write of [`DD_MIB`] takes.
fn dd(file: &Path) -> Result<f64> {
    let mut command = Command::new("dd");
    command.arg("if=/dev/zero").arg(format!("of={}", file.display())).arg("bs=1M");
    command.arg(format!("count={DD_MIB}")).args(["oflag=direct", "conv=fdatasync", "status=none"]);
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).status().context("starting dd")?;
    let taken = began.elapsed().as_secs_f64();
    ensure!(status.success(), "dd ended with {status}");
    std::fs::remove_file(file)?;
    Ok(taken)
}

fn best(of: &[f64]) -> f64 {
    of.iter().copied().fold(f64::INFINITY, f64::min)
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the kernel's caches")
}

/// A million empty files: what a walk costs is their number.
fn make(tree: &Path) -> Result<()> {
    let began = Instant::now();
    std::fs::create_dir(tree)?;
    for upper in 0..WIDTH {
        for lower in 0..WIDTH {
            let folder = tree.join(format!("d{upper:02}/e{lower:02}"));
            std::fs::create_dir_all(&folder)?;
            let at = rustix::fs::open(&folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            for n in 0..WIDTH {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&at, format!("file-{n:04}.log"), flags, Mode::RUSR)?;
            }
        }
    }
    eprintln!("   the tree was made in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// The peers' programs; installed beside this one where they are not yet.
fn peers() -> Result<Vec<PathBuf>> {
    let own = std::env::current_exe().context("finding this program")?;
    let root = own.parent().context("this program has no folder")?.join("bench-peers");
    let mut programs = Vec::new();
    for Peer { package, program, version, .. } in PEERS {
        let path = root.join(format!("{program}-{version}")).join("bin").join(program);
        if !path.is_file() {
            eprintln!("   installing {package} {version}: a minute or two, once");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut install = Command::new(cargo);
            install.args(["install", "--quiet", "--locked", "--version", version, "--root"]);
            install.arg(root.join(format!("{program}-{version}"))).arg(package);
            let status = install.stdin(Stdio::null()).status();
            let status = status.with_context(|| format!("starting {install:?}"))?;
            ensure!(status.success(), "{install:?} ended with {status}; it needs a registry");
        }
        programs.push(path);
    }
    Ok(programs)
}
