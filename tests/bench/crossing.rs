//! How soon the whole chain acts: a file crosses a filesystem's high mark at a random phase of the tick; until its finding
//! is in the node's journal, its incident is visible at the desk, and the cleanup takes the first file away.
//!
//! One agent in mode auto and one collector serve all runs; each run crosses a filesystem of its own, so that every run
//! opens an incident and no cleanup is the second of its mount. What is seen, is seen by looking every few milliseconds,
//! and that is in the figures. A control thread wakes every 10 ms: runs in which it overslept badly measured the
//! machine, and are told apart.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dogwatch::block::Block;
use dogwatch::journal::{FrameKind, Position, Reader};
use dogwatch::record::{ActionState, Body, FindingState, Kind, Kinds};
use dogwatch::wire;
use dogwatch_e2e::loopfs::LoopFs;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::place::CollectorPlace;
use super::process::{Running, again, wait_for};
use super::sealed::Noise;
use super::table::{Limit, Table};

const RUNS: usize = 20;
const TICK_S: f64 = 1.0;
/// What each stage may take beyond one tick, seconds.
const SLACK_S: [f64; 3] = [0.25, 1.0, 1.0];
const STAGES: [&str; 3] = ["finding recorded", "incident visible", "cleanup begun"];
/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(2);
const ASK_EVERY: Duration = Duration::from_millis(10);
const CONTROL_EVERY: Duration = Duration::from_millis(10);
const OVERSLEPT: Duration = Duration::from_millis(100);

const FS_BYTES: u64 = 64 << 20;
const ROTATED: usize = 6;
const ROTATED_BYTES: usize = 3 << 20;
/// Used after the crossing: above the high mark of 85 %, below the next one.
const CROSSED_USED: f64 = 0.88;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let disks: Vec<Disk> = (0..RUNS).map(|_| Disk::make()).collect::<Result<_>>()?;
    let place = CollectorPlace::make("store: { segment_bytes: 8MiB, reserve_bytes: 64MiB }\n")?;
    let (mut collector, _) = place.start()?;
    let roots: String = disks
        .iter()
        .map(|d| format!("    - {{ path: \"{}\", min_age: 0s, keep_newest: 0 }}\n", d.logs.display()))
        .collect();
    let mut agent = place.start_agent(
        again(&["agent"])?,
        "crossing",
        &format!("cleanup:\n  mode: auto\n  roots:\n{roots}"),
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let desk = runtime.block_on(place.desk())?;
    wait_for("the agent's connection", PATIENCE, || {
        let ask = wire::GetNodesRequest { nodes: Vec::new(), cached: true };
        let nodes = runtime.block_on(desk.clone().get_nodes(ask))?.into_inner().nodes;
        Ok(nodes.iter().any(|n| n.mounts.len() >= RUNS).then_some(()))
    })?;

    let control = Control::start()?;
    let mut noise = Noise::new()?;
    let mut runs = Vec::new();
    for disk in &disks {
        let phase = Duration::from_millis(noise.next() % 1_000);
        std::thread::sleep(phase);
        control.reset();
        let watch =
            Watch { runtime: &runtime, desk: desk.clone(), journal: place.beside("crossing/journal/urgent") };
        let seen = watch.cross(disk, [&mut agent, &mut collector])?;
        runs.push((seen, control.overslept()));
    }
    report(table, &runs);
    Ok(())
}

fn report(table: &mut Table, runs: &[([Option<f64>; 3], Duration)]) {
    let fair = |(_, overslept): &&([Option<f64>; 3], Duration)| *overslept < OVERSLEPT;
    let apart: Vec<_> = runs.iter().filter(|r| !fair(r)).collect();
    for (i, (stage, slack)) in STAGES.into_iter().zip(SLACK_S).enumerate() {
        // A stage that was never seen is later than any limit.
        let mut times: Vec<f64> =
            runs.iter().filter(fair).map(|(seen, _)| seen[i].unwrap_or(f64::INFINITY)).collect();
        times.sort_by(f64::total_cmp);
        let label = format!("crossed → {stage}, {} runs", times.len());
        table.row(format!("{label}, p50"), percentile(&times, 0.5), "s", None, Limit::None);
        table.row(
            format!("{label}, p95"),
            percentile(&times, 0.95),
            "s",
            None,
            Limit::AtMost(TICK_S + slack),
        );
        if !apart.is_empty() {
            let shown: Vec<String> = apart
                .iter()
                .map(|(seen, overslept)| {
                    let time = seen[i].map_or("never".to_owned(), |s| format!("{s:.3}"));
                    format!("{time} s (control {} ms late)", overslept.as_millis())
                })
                .collect();
            table.remark(format!("apart, {stage}: {}", shown.join(", ")));
        }
    }
}

/// The nearest rank; not a number for no times.
fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A filesystem with logs that a cleanup may take.
struct Disk {
    fs: LoopFs,
    logs: PathBuf,
}

impl Disk {
    fn make() -> Result<Self> {
        let fs = LoopFs::create(FS_BYTES, "ext4", &["-m", "0"])?;
        let logs = fs.path().join("log");
        std::fs::create_dir(&logs)?;
        std::fs::write(logs.join("app.log"), "alive\n")?;
        let disk = Self { fs, logs };
        for path in disk.rotated() {
            std::fs::write(&path, vec![b'x'; ROTATED_BYTES])?;
        }
        rustix::fs::syncfs(std::fs::File::open(disk.fs.path())?)?;
        Ok(disk)
    }

    fn rotated(&self) -> impl Iterator<Item = PathBuf> {
        (1..=ROTATED).map(|i| self.logs.join(format!("app.log.{i}")))
    }

    /// Makes one file that takes the filesystem over the mark, at once.
    fn fill(&self) -> Result<()> {
        let s = statvfs(self.fs.path())?;
        let wanted = (s.f_blocks as f64 * CROSSED_USED) as u64;
        let used = s.f_blocks - s.f_bavail;
        ensure!(wanted > used, "the filesystem is too full to begin with");
        let file = std::fs::File::create(self.fs.path().join("filler"))?;
        fallocate(&file, FallocateFlags::empty(), 0, (wanted - used) * s.f_frsize)
            .context("crossing the mark")
    }
}

/// What looks while a run goes on.
struct Watch<'a> {
    runtime: &'a tokio::runtime::Runtime,
    desk: wire::desk_client::DeskClient<tonic::transport::Channel>,
    journal: PathBuf,
}

impl Watch<'_> {
    /// Crosses the mark; seconds until each stage was seen.
    fn cross(&self, disk: &Disk, daemons: [&mut Running; 2]) -> Result<[Option<f64>; 3]> {
        let mount = disk.fs.path().display().to_string();
        let reader = Reader::open(&self.journal)?;
        let mut after = newest(&reader)?;
        let done = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        disk.fill()?;
        let asking = self.runtime.spawn(visible(self.desk.clone(), mount.clone(), began, Arc::clone(&done)));
        let (mut recorded, mut begun) = (None, None);
        let mut started = false;
        while began.elapsed() < PATIENCE && (recorded.is_none() || begun.is_none() || !asking.is_finished()) {
            if begun.is_none() && disk.rotated().any(|p| !p.exists()) {
                begun = Some(began.elapsed().as_secs_f64());
            }
            if recorded.is_none() || !started {
                for entry in reader.scan_after(after) {
                    let entry = entry?;
                    after = entry.at;
                    if entry.kind != FrameKind::Block {
                        continue;
                    }
                    let kinds = Kinds::default().with(Kind::Finding).with(Kind::Action);
                    for record in Block::decode(entry.payload)?.records(kinds)? {
                        match record.body {
                            Body::Finding(f)
                                if f.state == FindingState::Raised && f.subject.name == mount =>
                            {
                                recorded.get_or_insert(began.elapsed().as_secs_f64());
                            }
                            Body::Action(a) if a.state == ActionState::Started && a.mount == mount => {
                                started = true;
                            }
                            _ => {}
                        }
                    }
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
        done.store(true, Ordering::Relaxed);
        let visible = self.runtime.block_on(asking).context("asking the desk panicked")??;
        for daemon in daemons {
            daemon.still_runs("a daemon")?;
        }
        // Evidence first: a file that went without the action's record before would be no cleanup.
        ensure!(begun.is_none() || started, "a file went and no record says why");
        Ok([recorded, visible, begun])
    }
}

fn newest(reader: &Reader) -> Result<Position> {
    let mut at = Position::default();
    for entry in reader.scan(Position::default()) {
        at = entry?.at;
    }
    Ok(at)
}

/// Asks for incidents until one is about `mount`.
async fn visible(
    mut desk: wire::desk_client::DeskClient<tonic::transport::Channel>,
    mount: String,
    began: Instant,
    done: Arc<AtomicBool>,
) -> Result<Option<f64>> {
    while !done.load(Ordering::Relaxed) {
        let mut incidents = desk.get_incidents(wire::GetIncidentsRequest::default()).await?.into_inner();
        while let Some(incident) = incidents.message().await? {
            if incident.title.contains(&mount) {
                return Ok(Some(began.elapsed().as_secs_f64()));
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(None)
}

/// Tells how late a thread that only sleeps wakes: what the machine adds to everything.
struct Control {
    latest_ns: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Control {
    fn start() -> Result<Self> {
        let latest_ns = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (latest, stopping) = (Arc::clone(&latest_ns), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(CONTROL_EVERY);
                let late = before.elapsed().saturating_sub(CONTROL_EVERY);
                latest.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
            }
        })?;
        Ok(Self { latest_ns, stop, thread: Some(thread) })
    }

    fn reset(&self) {
        self.latest_ns.store(0, Ordering::Relaxed);
    }

    fn overslept(&self) -> Duration {
        Duration::from_nanos(self.latest_ns.load(Ordering::Relaxed))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only sleeps and counts.
            let _ = thread.join();
        }
    }
}
