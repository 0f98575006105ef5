//! The top processes, by CPU since the previous scan and by resident set.
//!
//! Only `/proc/PID/stat` is read of every process; the cgroup only of those that made it to the top. A scan has a
//! budget of CPU time per tick. Where it costs more (hosts of 100,000 processes exist), it goes on at the next tick
//! where it stopped, so that a result comes every k-th tick only, and says so.
//!
//! Invariants: what is kept of a process between scans is 16 bytes; at most [`MAX_PROCESSES`] are kept; nothing is
//! allocated for a process that is not at the top.
//!
//! Deliberately absent: open descriptors kept per process (a node's worth of them would be thousands), threads,
//! command lines (they hold secrets).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::record::Process;
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, openat, seek};
use rustix::io::{Errno, read};

use super::Failures;
use super::procfile::{fields, number};

/// How many processes are remembered from scan to scan: 2 MiB a scan. Those beyond have no CPU figure.
const MAX_PROCESSES: usize = 131_072;

/// The kernel's names are 15 bytes, those of its workqueue threads up to 64.
const MAX_NAME: usize = 64;

/// Tells how much CPU time this thread has used; only differences matter. Injected, so that tests can be dear.
pub(super) type CostClock = Box<dyn FnMut() -> Duration + Send>;

/// What the scan is to do.
pub(super) struct ProcessOptions {
    /// How many at the top, by CPU and by memory each.
    pub(super) top: usize,
    /// CPU time a tick.
    pub(super) budget: Duration,
    /// USER_HZ.
    pub(super) ticks_per_second: u64,
    /// Bytes of a page.
    pub(super) page_bytes: u64,
}

/// Reader of the top processes.
pub(super) struct ProcessProbe {
    proc: PathBuf,
    options: ProcessOptions,
    cost: CostClock,
    dir: Option<OwnedFd>,
    entries: Box<[MaybeUninit<u8>]>,
    text: Box<[u8]>,
    /// Of the last whole scan, sorted by pid.
    previous: Vec<Seen>,
    previous_began_ns: Option<u64>,
    /// Of the scan under way.
    current: Vec<Seen>,
    began_ns: u64,
    slices: u32,
    unseen: u64,
    top_cpu: Top,
    top_resident: Top,
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
            // A buffer of entries is some 150 processes, about 1 ms: the grain in which the budget is kept.
            entries: Box::new([MaybeUninit::uninit(); 4096]),
            text: vec![0; 4096].into_boxed_slice(),
            previous: Vec::new(),
            previous_began_ns: None,
            current: Vec::new(),
            began_ns: 0,
            slices: 0,
            unseen: 0,
            top_cpu: Top::new(top, |c| c.cpu_percent),
            top_resident: Top::new(top, |c| c.resident_bytes as f64),
        }
    }

    /// The top processes if a scan ended on this tick, else none and a failure that says why.
    pub(super) fn read(&mut self, now_ns: u64, failed: &mut Failures) -> Vec<Process> {
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
                self.finish()
            }
            Ok(false) => {
                failed.push("processes", &self.spread("so far"));
                Vec::new()
            }
            Err(e) => {
                self.dir = None;
                self.abandon();
                failed.push("processes", &format!("reading {}: {e}", self.proc.display()));
                Vec::new()
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
    fn slice(&mut self, now_ns: u64) -> io::Result<bool> {
        let dir = match self.dir.take() {
            Some(dir) => dir,
            None => File::open(&self.proc)?.into(),
        };
        if self.slices == 0 {
            seek(&dir, SeekFrom::Start(0))?;
            self.began_ns = now_ns;
        }
        self.slices = self.slices.saturating_add(1);
        let mut entries = std::mem::take(&mut self.entries);
        let done = self.walk(&dir, &mut entries, now_ns);
        self.entries = entries;
        self.dir = Some(dir);
        done
    }

    fn walk(&mut self, dir: &OwnedFd, entries: &mut [MaybeUninit<u8>], now_ns: u64) -> io::Result<bool> {
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
        // A process may end at any moment: one that cannot be read is simply not there.
        let Ok(len) = read_beneath(dir, pid, b"/stat\0", &mut self.text) else { return };
        let Some(stat) = parse_stat(&self.text[..len]) else { return };
        let seen = Seen {
            pid,
            start: stat.start_ticks as u32,
            cpu_ticks: stat.cpu_ticks as u32,
            at_ms: (now_ns / 1_000_000) as u32,
        };
        let cpu_percent = self.cpu_percent(&seen, &stat, now_ns);
        if self.current.len() < MAX_PROCESSES {
            self.current.push(seen);
        } else {
            self.unseen += 1;
        }
        let resident_bytes = stat.resident_pages.saturating_mul(self.options.page_bytes);
        let candidate = || Candidate::new(pid, &stat, cpu_percent, resident_bytes);
        self.top_cpu.offer(cpu_percent, candidate);
        self.top_resident.offer(resident_bytes as f64, candidate);
    }

    /// Per cent of one CPU since this process was last seen, or since the last scan for one that began after it.
    fn cpu_percent(&self, seen: &Seen, stat: &Stat<'_>, now_ns: u64) -> f64 {
        let (ticks, elapsed_ms) = match self.previous.binary_search_by_key(&seen.pid, |p| p.pid) {
            Ok(i) if self.previous[i].start == seen.start => {
                let before = &self.previous[i];
                // Both counters wrap: after 497 days of CPU time, and after 49 days.
                (seen.cpu_ticks.wrapping_sub(before.cpu_ticks), seen.at_ms.wrapping_sub(before.at_ms))
            }
            _ => {
                let Some(began_ns) = self.previous_began_ns else { return 0.0 };
                let born_ns = u128::from(stat.start_ticks) * 1_000_000_000
                    / u128::from(self.options.ticks_per_second.max(1));
                // An older process that was not remembered has spent its time who knows when.
                if born_ns + 20_000_000 < u128::from(began_ns) {
                    return 0.0;
                }
                let ms = now_ns.saturating_sub(began_ns) / 1_000_000;
                (stat.cpu_ticks.min(u64::from(u32::MAX)) as u32, ms.min(u64::from(u32::MAX)) as u32)
            }
        };
        if elapsed_ms == 0 || ticks > u32::MAX / 2 {
            return 0.0;
        }
        f64::from(ticks) / self.options.ticks_per_second.max(1) as f64 / (f64::from(elapsed_ms) / 1e3) * 100.0
    }

    /// Ends the scan: what was current is what the next compares with.
    fn finish(&mut self) -> Vec<Process> {
        // /proc lists by pid; another directory (a test's) may not.
        if !self.current.is_sorted_by_key(|s| s.pid) {
            self.current.sort_unstable_by_key(|s| s.pid);
        }
        std::mem::swap(&mut self.previous, &mut self.current);
        self.previous_began_ns = Some(self.began_ns);
        let mut chosen: Vec<Candidate> = self.top_cpu.drain().collect();
        for candidate in self.top_resident.drain() {
            if !chosen.iter().any(|c| c.pid == candidate.pid) {
                chosen.push(candidate);
            }
        }
        self.abandon();
        chosen.into_iter().map(|c| self.describe(&c)).collect()
    }

    fn abandon(&mut self) {
        self.current.clear();
        self.slices = 0;
        self.unseen = 0;
        self.top_cpu.items.clear();
        self.top_resident.items.clear();
    }

    fn describe(&mut self, c: &Candidate) -> Process {
        let cgroup = self.dir.as_ref().and_then(|dir| {
            let len = read_beneath(dir.as_fd(), c.pid, b"/cgroup\0", &mut self.text).ok()?;
            cgroup_path(&self.text[..len])
        });
        Process {
            pid: c.pid,
            name: String::from_utf8_lossy(&c.name[..c.name_len]).into_owned(),
            start_ticks: c.start_ticks,
            cpu_percent: c.cpu_percent,
            resident_bytes: c.resident_bytes,
            state: char::from(c.state).to_string(),
            cgroup: cgroup.unwrap_or_default(),
            ..Process::default()
        }
    }
}

/// What is remembered of a process from scan to scan. Times and ticks are kept modulo 2³².
struct Seen {
    pid: u32,
    start: u32,
    cpu_ticks: u32,
    at_ms: u32,
}

/// The figures of `/proc/PID/stat` that matter here.
pub(super) struct Stat<'a> {
    /// `comm`.
    name: &'a [u8],
    /// State letter.
    state: u8,
    /// utime + stime.
    pub(super) cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

/// Parses `/proc/PID/stat`. The name may hold blanks, parentheses and newlines: it ends at the *last* parenthesis.
pub(super) fn parse_stat(text: &[u8]) -> Option<Stat<'_>> {
    let open = text.iter().position(|&b| b == b'(')?;
    let close = text.iter().rposition(|&b| b == b')')?;
    let name = text.get(open + 1..close)?;
    let mut rest = fields(text.get(close + 1..)?);
    let state = *rest.next()?.first()?;
    // Numbered as in proc(5), where the state is field 3.
    let user = number(rest.nth(14 - 4)?)?;
    let system = number(rest.next()?)?;
    let start_ticks = number(rest.nth(22 - 16)?)?;
    let resident_pages = number(rest.nth(24 - 23)?).unwrap_or(0);
    Some(Stat { name, state, cpu_ticks: user.saturating_add(system), start_ticks, resident_pages })
}

/// The path that best names a process's cgroup: v2's, or where that is the root, v1's memory, cpu or systemd one.
fn cgroup_path(text: &[u8]) -> Option<String> {
    let mut best: Option<(u32, &[u8])> = None;
    for line in text.split(|&b| b == b'\n') {
        let mut parts = line.splitn(3, |&b| b == b':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let has = |name: &[u8]| controllers.split(|&b| b == b',').any(|c| c == name);
        let rank = if path == b"/" {
            0
        } else if controllers.is_empty() {
            5
        } else if has(b"memory") {
            4
        } else if has(b"cpu") {
            3
        } else if has(b"name=systemd") {
            2
        } else {
            1
        };
        if best.is_none_or(|(r, _)| rank > r) {
            best = Some((rank, path));
        }
    }
    best.map(|(_, path)| String::from_utf8_lossy(path).into_owned())
}

/// Reads `PID<suffix>` beneath `dir` into `buf`, as much as one read gives.
fn read_beneath(dir: BorrowedFd<'_>, pid: u32, suffix: &[u8], buf: &mut [u8]) -> io::Result<usize> {
    let mut path = [0u8; 24];
    let mut digits = [0u8; 10];
    let mut at = digits.len();
    let mut rest = pid;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let len = digits.len() - at;
    path[..len].copy_from_slice(&digits[at..]);
    path[len..len + suffix.len()].copy_from_slice(suffix);
    let path = CStr::from_bytes_until_nul(&path).map_err(io::Error::other)?;
    let fd = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match read(&fd, &mut *buf) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A process that may be at the top, without an allocation.
#[derive(Clone)]
struct Candidate {
    pid: u32,
    start_ticks: u64,
    cpu_percent: f64,
    resident_bytes: u64,
    state: u8,
    name: [u8; MAX_NAME],
    name_len: usize,
}

impl Candidate {
    fn new(pid: u32, stat: &Stat<'_>, cpu_percent: f64, resident_bytes: u64) -> Self {
        let mut name = [0; MAX_NAME];
        let name_len = stat.name.len().min(MAX_NAME);
        name[..name_len].copy_from_slice(&stat.name[..name_len]);
        Self {
            pid,
            start_ticks: stat.start_ticks,
            cpu_percent,
            resident_bytes,
            state: stat.state,
            name,
            name_len,
        }
    }
}

/// The `max` candidates with the largest keys, largest first. Those with key 0 are nothing to show.
struct Top {
    items: Vec<Candidate>,
    max: usize,
    key: fn(&Candidate) -> f64,
}

impl Top {
    fn new(max: usize, key: fn(&Candidate) -> f64) -> Self {
        Self { items: Vec::with_capacity(max), max, key }
    }

    fn offer(&mut self, key: f64, candidate: impl FnOnce() -> Candidate) {
        let full = self.items.len() >= self.max;
        if key <= 0.0 || (full && self.items.last().is_none_or(|last| (self.key)(last) >= key)) {
            return;
        }
        if full {
            self.items.pop();
        }
        let at = self.items.partition_point(|c| (self.key)(c) >= key);
        self.items.insert(at, candidate());
    }

    fn drain(&mut self) -> impl Iterator<Item = Candidate> {
        self.items.drain(..)
    }
}

#[cfg(test)]
#[path = "processes_tests.rs"]
mod tests;
