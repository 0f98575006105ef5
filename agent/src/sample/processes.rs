//! The processes of the node: those at the top by CPU, memory and storage I/O, and what is wrong with any.
//!
//! Only `/proc/PID/stat` is read of every process at every scan; [`io`] and [`descriptors`] have turns, and the cgroup is
//! read of those alone that are listed. A scan has a budget of CPU time per tick. Where it costs more (hosts of 100,000
//! processes exist), it goes on at the next tick where it stopped, so that a result comes every k-th tick only, and says
//! so.
//!
//! Invariants: what is kept of a process between scans is 16 bytes, some 50 more for those that do I/O, and the
//! descriptor of its stat while there is room among those that are [`held`]; at most [`MAX_PROCESSES`] are kept; nothing is
//! allocated for a process that is not at the top.
//!
//! Limits: other users' I/O and wait channels are told to root alone; where they are not, they are absent. Resident sets
//! are those of `stat`, into which not every page is counted at once: of anonymous pages, pages of files and shared ones,
//! each CPU hands in a batch of max(32, 2 × CPUs) at a time (the kernel's percpu counters, proc(5)). With 2 CPUs they were off
//! by 0.13 MiB in the mean and 0.34 at most; with 64 the bound is 96 MiB. `statm` and `status` sum exactly on newer kernels
//! (6.18 for one), but not instead of `stat`: one more file a process would make a scan dearer by three quarters.
//!
//! Deliberately absent: figures of threads, command lines (they hold secrets).

mod descriptors;
mod held;
mod io;
mod listed;
pub(crate) mod stat;
mod tasks;
mod top;

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::record::{Process, Tasks};
use rustix::fs::{RawDir, SeekFrom, seek};

use super::Failures;
use super::pods::Pods;
use super::procfile::number;
use descriptors::Descriptors;
use held::Held;
use io::{IoRates, Look};
use listed::{Listed, is_in_pod_now};
use stat::Stat;
use tasks::TaskCounts;
use top::{Candidate, Top};

pub(super) use stat::parse_stat;

/// How many processes are remembered from scan to scan: 2 MiB a scan. Those beyond have no CPU figure.
const MAX_PROCESSES: usize = 131_072;

/// Tells how much CPU time this thread has used; only differences matter. Injected, so that tests can be dear.
pub(super) type CostClock = Box<dyn FnMut() -> Duration + Send>;

/// What the scan is to do.
pub(super) struct ProcessOptions {
    /// How many at the top, by CPU, by memory and by I/O each.
    pub(super) top: usize,
    /// CPU time a tick.
    pub(super) budget: Duration,
    /// USER_HZ.
    pub(super) ticks_per_second: u64,
    /// Bytes of a page.
    pub(super) page_bytes: u64,
}

/// What a whole scan tells.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// The top processes.
    pub(super) processes: Vec<Process>,
    /// Of all of them together; absent on ticks on which no scan ended.
    pub(super) tasks: Option<Tasks>,
}

/// Reader of the processes.
pub(super) struct ProcessProbe {
    proc: PathBuf,
    options: ProcessOptions,
    cost: CostClock,
    dir: Option<OwnedFd>,
    held: Held,
    entries: Box<[MaybeUninit<u8>]>,
    text: Box<[u8]>,
    /// For further texts while `text` holds a process's stat.
    more: Box<[u8]>,
    /// Of the last whole scan, sorted by pid.
    previous: Vec<Seen>,
    /// Where in `previous` the next pid is likely to stand: both are in order.
    cursor: usize,
    previous_began_ns: Option<u64>,
    /// Of the scan under way.
    current: Vec<Seen>,
    began_ns: u64,
    slices: u32,
    unseen: u64,
    top_cpu: Top,
    top_resident: Top,
    top_io: Top,
    rates: IoRates,
    descriptors: Descriptors,
    counts: TaskCounts,
    listed: Listed,
}

impl ProcessProbe {
    /// A reader beneath `proc` that pays by `cost`.
    pub(super) fn new(proc: &Path, options: ProcessOptions, cost: CostClock) -> Self {
        let top = options.top;
        Self {
            proc: proc.to_owned(),
            options,
            cost,
            dir: None,
            held: Held::new(),
            // A buffer of entries is some 150 processes, about 1 ms: the grain in which the budget is kept.
            entries: Box::new([MaybeUninit::uninit(); 4096]),
            text: vec![0; 4096].into_boxed_slice(),
            more: vec![0; 4096].into_boxed_slice(),
            previous: Vec::new(),
            cursor: 0,
            previous_began_ns: None,
            current: Vec::new(),
            began_ns: 0,
            slices: 0,
            unseen: 0,
            top_cpu: Top::new(top, |c| c.cpu_percent),
            top_resident: Top::new(top, |c| c.resident_bytes as f64),
            top_io: Top::new(top, |c| c.io_rate),
            rates: IoRates::default(),
            descriptors: Descriptors::default(),
            counts: TaskCounts::default(),
            listed: Listed::default(),
        }
    }

    /// The top processes if a scan ended on this tick, else none and a failure that says why.
    pub(super) fn read(&mut self, now_ns: u64, pods: &Pods, failed: &mut Failures) -> Scanned {
        match self.slice(now_ns) {
            Ok(true) => {
                if self.slices > 1 {
                    failed.push("processes", &self.spread("done"));
                }
                if self.unseen > 0 {
                    let text = format!(
                        "{} processes beyond the first {MAX_PROCESSES} have no CPU figure",
                        self.unseen
                    );
                    failed.push("processes", &text);
                }
                self.finish(now_ns, pods)
            }
            Ok(false) => {
                failed.push("processes", &self.spread("so far"));
                Scanned::default()
            }
            Err(e) => {
                self.dir = None;
                self.abandon();
                failed.push("processes", &format!("reading {}: {e}", self.proc.display()));
                Scanned::default()
            }
        }
    }

    fn spread(&self, how_far: &str) -> String {
        format!(
            "a scan costs more than {:?} of CPU time and is spread over ticks: tick {}, {} processes {how_far}",
            self.options.budget,
            self.slices,
            self.current.len() as u64 + self.unseen,
        )
    }

    /// Reads on until the directory ends (true) or the budget is spent (false).
    fn slice(&mut self, now_ns: u64) -> std::io::Result<bool> {
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => File::open(&self.proc)?.into(),
        };
        if self.slices == 0 {
            seek(&dir, SeekFrom::Start(0))?;
            self.began_ns = now_ns;
            self.cursor = 0;
        }
        self.slices = self.slices.saturating_add(1);
        let mut entries = std::mem::take(&mut self.entries);
        let done = self.walk(&dir, &mut entries, now_ns);
        self.entries = entries;
        self.dir = Some(dir);
        done
    }

    fn walk(&mut self, dir: &OwnedFd, entries: &mut [MaybeUninit<u8>], now_ns: u64) -> std::io::Result<bool> {
        let began = (self.cost)();
        let mut names = RawDir::new(dir, entries);
        loop {
            // Only here may the walk stop: entries in the buffer would be skipped, the descriptor stands behind them.
            if names.is_buffer_empty() && (self.cost)().saturating_sub(began) > self.options.budget {
                return Ok(false);
            }
            let Some(entry) = names.next() else { return Ok(true) };
            let entry = entry?;
            let pid = number(entry.file_name().to_bytes()).and_then(|n| u32::try_from(n).ok());
            if let Some(pid) = pid {
                self.visit(dir.as_fd(), pid, now_ns);
            }
        }
    }

    fn visit(&mut self, dir: BorrowedFd<'_>, pid: u32, now_ns: u64) {
        // Set apart, since what is borrowed from them outlives calls on the other fields.
        let mut text = std::mem::take(&mut self.text);
        let mut more = std::mem::take(&mut self.more);
        // A process may end at any moment: one that cannot be read is simply not there.
        let known = self.previous_at(pid).is_some();
        if let Ok(len) = self.held.read(dir, pid, known, &mut text)
            && let Some(stat) = parse_stat(&text[..len])
        {
            self.count(dir, pid, &stat, now_ns, &mut more);
        }
        self.text = text;
        self.more = more;
    }

    fn count(&mut self, dir: BorrowedFd<'_>, pid: u32, stat: &Stat<'_>, now_ns: u64, buf: &mut [u8]) {
        let seen =
            Seen { pid, start: stat.start_ticks as u32, cpu_ticks: stat.cpu_ticks as u32, at_ms: ms(now_ns) };
        let before = self.before(&seen);
        let born = self.born_since_last_scan(stat).filter(|_| before.is_none());
        let cpu_percent = self.cpu_percent(&seen, before, born, now_ns);
        if self.current.len() < MAX_PROCESSES {
            self.current.push(seen);
        } else {
            self.unseen += 1;
        }
        self.counts.visit(pid, stat, born.is_some(), now_ns, || is_in_pod_now(dir, pid, buf));
        self.descriptors.visit(dir, pid, stat, buf);
        let io_rate = if self.rates.has_turn(pid) {
            let look = self.look(pid, stat.start_ticks, stat.cpu_ticks, now_ns);
            self.rates.look(dir, &look, buf)
        } else {
            self.rates.known(pid, stat.start_ticks)
        };
        let io_rate = io_rate.map_or(0.0, |[read, written]| read + written);
        let resident_bytes = stat.resident_pages.saturating_mul(self.options.page_bytes);
        let candidate = || Candidate::new(pid, stat, cpu_percent, resident_bytes, io_rate);
        self.top_cpu.offer(cpu_percent, candidate);
        self.top_resident.offer(resident_bytes as f64, candidate);
        self.top_io.offer(io_rate, candidate);
    }

    /// Where in `previous` a process of that number stands.
    fn previous_at(&self, pid: u32) -> Option<usize> {
        match self.previous.get(self.cursor) {
            Some(p) if p.pid == pid => Some(self.cursor),
            _ => self.previous.binary_search_by_key(&pid, |p| p.pid).ok(),
        }
    }

    /// The same process in the last scan.
    fn before(&mut self, seen: &Seen) -> Option<Seen> {
        let at = self.previous_at(seen.pid)?;
        self.cursor = at + 1;
        Some(self.previous[at]).filter(|p| p.start == seen.start)
    }

    /// Nanoseconds after boot at which the process began, if that was after the last scan did.
    fn born_since_last_scan(&self, stat: &Stat<'_>) -> Option<u64> {
        let began_ns = self.previous_began_ns?;
        let born_ns = self.born_ns(stat.start_ticks);
        // Starts are told in ticks.
        (born_ns.saturating_add(20_000_000) >= began_ns).then_some(began_ns)
    }

    fn born_ns(&self, start_ticks: u64) -> u64 {
        let ns = u128::from(start_ticks) * 1_000_000_000 / u128::from(self.options.ticks_per_second.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Per cent of one CPU since this process was last seen, or since the last scan for one that began after it.
    fn cpu_percent(&self, seen: &Seen, before: Option<Seen>, born: Option<u64>, now_ns: u64) -> f64 {
        let (ticks, elapsed_ms) = match (before, born) {
            // Both counters wrap: after 497 days of CPU time, and after 49 days.
            (Some(before), _) => {
                (seen.cpu_ticks.wrapping_sub(before.cpu_ticks), seen.at_ms.wrapping_sub(before.at_ms))
            }
            (None, Some(began_ns)) => {
                let ms = now_ns.saturating_sub(began_ns) / 1_000_000;
                (seen.cpu_ticks, ms.min(u64::from(u32::MAX)) as u32)
            }
            // An older process that was not remembered has spent its time who knows when.
            (None, None) => return 0.0,
        };
        if elapsed_ms == 0 || ticks > u32::MAX / 2 {
            return 0.0;
        }
        f64::from(ticks) / self.options.ticks_per_second.max(1) as f64 / (f64::from(elapsed_ms) / 1e3) * 100.0
    }

    fn look(&self, pid: u32, start_ticks: u64, cpu_ticks: u64, now_ns: u64) -> Look {
        let born_ns = self.born_ns(start_ticks);
        let young = self.previous_began_ns.is_some_and(|began_ns| born_ns > began_ns);
        let age_ms = now_ns.saturating_sub(born_ns) / 1_000_000;
        let age_ms = young.then(|| u32::try_from(age_ms).ok()).flatten();
        Look { pid, start_ticks, cpu_ticks, now_ms: ms(now_ns), age_ms }
    }

    /// Ends the scan: what was current is what the next compares with.
    fn finish(&mut self, now_ns: u64, pods: &Pods) -> Scanned {
        // /proc lists by pid; another directory (a test's) may not.
        if !self.current.is_sorted_by_key(|s| s.pid) {
            self.current.sort_unstable_by_key(|s| s.pid);
        }
        let mut chosen = Vec::new();
        for top in [&mut self.top_cpu, &mut self.top_resident, &mut self.top_io] {
            top.drain_into(&mut chosen);
        }
        let Some(dir) = self.dir.take() else { return Scanned::default() };
        let mut text = std::mem::take(&mut self.text);
        let listed = &mut self.listed;
        let mut tasks = self.counts.end_scan(dir.as_fd(), &mut text, |pid, start_ticks, buf| {
            listed.is_in_pod(dir.as_fd(), pid, start_ticks, now_ns, buf)
        });
        tasks.descriptors = self.descriptors.end_scan(dir.as_fd(), &mut text);
        let processes = chosen
            .iter()
            .map(|c| {
                let look = self.look(c.pid, c.start_ticks, c.cpu_ticks, now_ns);
                let rates = self.rates.look(dir.as_fd(), &look, &mut text);
                let (cgroup, pod) =
                    self.listed.whose(dir.as_fd(), c.pid, c.start_ticks, now_ns, pods, &mut text);
                Process {
                    pid: c.pid,
                    name: c.name.text(),
                    start_ticks: c.start_ticks,
                    cpu_percent: c.cpu_percent,
                    resident_bytes: c.resident_bytes,
                    state: char::from(c.state).to_string(),
                    cgroup,
                    ppid: c.ppid,
                    threads: c.threads,
                    read_bytes_per_s: rates.map(|[read, _]| read),
                    written_bytes_per_s: rates.map(|[_, written]| written),
                    open_files: self.descriptors.open_files(dir.as_fd(), c.pid),
                    pod,
                }
            })
            .collect();
        self.listed.complete(dir.as_fd(), &mut tasks, now_ns, pods, &mut text);
        self.listed.end_scan();
        self.rates.end_scan();
        self.held.end_scan();
        self.text = text;
        self.dir = Some(dir);
        std::mem::swap(&mut self.previous, &mut self.current);
        self.previous_began_ns = Some(self.began_ns);
        self.abandon();
        Scanned { processes, tasks: Some(tasks) }
    }

    fn abandon(&mut self) {
        self.current.clear();
        self.slices = 0;
        self.unseen = 0;
        for top in [&mut self.top_cpu, &mut self.top_resident, &mut self.top_io] {
            top.clear();
        }
        self.counts.abandon();
    }
}

/// Milliseconds modulo 2³².
fn ms(ns: u64) -> u32 {
    (ns / 1_000_000) as u32
}

/// What is remembered of a process from scan to scan. Times and ticks are kept modulo 2³².
#[derive(Clone, Copy)]
struct Seen {
    pid: u32,
    start: u32,
    cpu_ticks: u32,
    at_ms: u32,
}

#[cfg(test)]
#[path = "processes_tests.rs"]
mod tests;
