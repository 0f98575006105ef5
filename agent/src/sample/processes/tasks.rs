//! What a scan says of all processes together: how many, who is stuck, who starts others.
//!
//! Pods take no places of the node's own: of the kernel's threads, of what else runs outside pods and of what runs in them as many
//! are told of each that hang for longest, and beside [`MAX_FOLLOWED`] of whomever as many again are followed that are in no
//! pod. Whose one is costs the reading of its cgroup: of each that hangs for longer than a scan once more than [`MAX_STUCK`] do, and
//! at each scan of those beyond the first [`MAX_FOLLOWED`]; as long as few are in state D nothing is read.
//!
//! Limits: a scan sees processes, not threads, so that a thread stuck in a process whose main thread is not is unseen;
//! and processes that begin and end between two scans are unseen (`Cpu::forks_total` counts them).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use dogwatch::record::{Spawner, StuckTask, Tasks};

use super::stat::{Name, Stat, parse_stat, read_beneath};

/// Processes in uninterruptible sleep that are followed, whosever they are: a dead file server stops thousands, and all for one
/// reason. Beyond them as many that are in no pod.
pub(super) const MAX_FOLLOWED: usize = 1_024;
/// Those that are told of each [`Place`]: the ones longest in it.
pub(super) const MAX_STUCK: usize = 16;
/// The parent of the kernel's own threads, but for itself.
pub(super) const KTHREADD: u32 = 2;
/// Parents of new processes that are counted in one scan.
const MAX_PARENTS: usize = 1_024;
/// Those that are told.
const MAX_SPAWNERS: usize = 5;

/// Counts of a scan under way, and what is remembered of the one before.
#[derive(Default)]
pub(super) struct TaskCounts {
    processes: u64,
    zombies: u64,
    uninterruptible: u64,
    /// In state D at every scan since; of the last whole scan, sorted by pid.
    stuck: Vec<Stuck>,
    now_stuck: Vec<Stuck>,
    parents: HashMap<u32, Brood>,
}

/// Where a process runs: those in one place hide none in another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A thread of the kernel's own.
    Kernel,
    /// Outside pods, or nobody has looked.
    Node,
    Pod,
}

/// A process in state D, and since when it was in it at every scan.
#[derive(Clone, Copy)]
struct Stuck {
    pid: u32,
    start_ticks: u64,
    since_ns: u64,
    seen_ns: u64,
    place: Place,
    name: Name,
}

/// New children of a process.
struct Brood {
    children: u64,
    newest_start: u64,
    name: Name,
}

impl TaskCounts {
    /// Counts a process in; `new` where it is known to have begun since the scan before. `in_pod` is asked where too many
    /// are in state D to follow them all.
    pub(super) fn visit(
        &mut self,
        pid: u32,
        stat: &Stat<'_>,
        new: bool,
        now_ns: u64,
        in_pod: impl FnOnce() -> bool,
    ) {
        self.processes += 1;
        match stat.state {
            b'Z' | b'X' | b'x' => self.zombies += 1,
            b'D' => {
                self.uninterruptible += 1;
                self.follow(pid, stat, now_ns, in_pod);
            }
            _ => {}
        }
        if new && stat.ppid != 0 {
            self.count_child(stat);
        }
    }

    /// Ends the scan. Cgroups and pods are left to the caller, who is asked whether a process (pid, start) is in a pod.
    pub(super) fn end_scan(
        &mut self,
        dir: BorrowedFd<'_>,
        buf: &mut [u8],
        in_pod: impl FnMut(u32, u64, &mut [u8]) -> bool,
    ) -> Tasks {
        self.now_stuck.sort_unstable_by_key(|s| s.pid);
        std::mem::swap(&mut self.stuck, &mut self.now_stuck);
        let tasks = Tasks {
            processes: self.processes,
            zombies: self.zombies,
            uninterruptible: self.uninterruptible,
            stuck: self.told_stuck(dir, buf, in_pod),
            spawners: self.told_spawners(dir, buf),
            descriptors: Vec::new(),
        };
        self.abandon();
        tasks
    }

    /// Forgets the scan under way.
    pub(super) fn abandon(&mut self) {
        (self.processes, self.zombies, self.uninterruptible) = (0, 0, 0);
        self.now_stuck.clear();
        self.parents.clear();
    }

    fn follow(&mut self, pid: u32, stat: &Stat<'_>, now_ns: u64, in_pod: impl FnOnce() -> bool) {
        let before = self.stuck.binary_search_by_key(&pid, |s| s.pid).ok().map(|i| self.stuck[i]);
        let before = before.filter(|b| b.start_ticks == stat.start_ticks);
        let place = match before {
            _ if stat.ppid == KTHREADD => Place::Kernel,
            Some(before) => before.place,
            None => Place::Node,
        };
        let followed = self.now_stuck.len();
        let is_own = || place == Place::Kernel || place == Place::Node && !in_pod();
        if followed >= MAX_FOLLOWED && (followed >= 2 * MAX_FOLLOWED || !is_own()) {
            return;
        }
        let since_ns = before.map_or(now_ns, |b| b.since_ns);
        let (start_ticks, name) = (stat.start_ticks, Name::new(stat.name));
        self.now_stuck.push(Stuck { pid, start_ticks, since_ns, seen_ns: now_ns, place, name });
    }

    fn count_child(&mut self, stat: &Stat<'_>) {
        if let Some(brood) = self.parents.get_mut(&stat.ppid) {
            brood.children += 1;
            brood.newest_start = brood.newest_start.max(stat.start_ticks);
        } else if self.parents.len() < MAX_PARENTS {
            let name = Name::new(stat.name);
            self.parents.insert(stat.ppid, Brood { children: 1, newest_start: stat.start_ticks, name });
        }
    }

    fn told_stuck(
        &mut self,
        dir: BorrowedFd<'_>,
        buf: &mut [u8],
        mut in_pod: impl FnMut(u32, u64, &mut [u8]) -> bool,
    ) -> Vec<StuckTask> {
        // One that was met for the first time may be gone again in a millisecond, as any read of a disk is.
        let mut longest: Vec<&mut Stuck> = self.stuck.iter_mut().filter(|s| s.seen_ns > s.since_ns).collect();
        longest.sort_by_key(|s| (s.since_ns, s.pid));
        if longest.len() > MAX_STUCK {
            // Nothing gets out of a pod: of those in one nobody asks again.
            for s in longest.iter_mut().filter(|s| s.place == Place::Node) {
                if in_pod(s.pid, s.start_ticks, buf) {
                    s.place = Place::Pod;
                }
            }
            let mut told = [0; 3];
            longest.retain(|s| {
                let of_place = &mut told[s.place as usize];
                *of_place += 1;
                *of_place <= MAX_STUCK
            });
        }
        let told = |s: &mut Stuck| StuckTask {
            pid: s.pid,
            name: s.name.text(),
            start_ticks: s.start_ticks,
            stuck_ms: (s.seen_ns - s.since_ns) / 1_000_000,
            wchan: wchan(dir, s.pid, buf),
            ..StuckTask::default()
        };
        longest.into_iter().map(told).collect()
    }

    fn told_spawners(&self, dir: BorrowedFd<'_>, buf: &mut [u8]) -> Vec<Spawner> {
        let mut most: Vec<(u32, &Brood)> = self.parents.iter().map(|(pid, b)| (*pid, b)).collect();
        most.sort_by_key(|(pid, b)| (std::cmp::Reverse(b.children), *pid));
        most.truncate(MAX_SPAWNERS);
        let mut told = Vec::with_capacity(most.len());
        for (pid, brood) in most {
            let mut spawner = Spawner { pid, children: brood.children, ..Spawner::default() };
            let text = read_beneath(dir, pid, c"/stat", buf).ok().map(|len| &buf[..len]);
            // A process younger than its child has only taken the number of the parent.
            match text.and_then(parse_stat).filter(|p| p.start_ticks <= brood.newest_start) {
                Some(parent) => {
                    (spawner.name, spawner.start_ticks) = (Name::new(parent.name).text(), parent.start_ticks);
                }
                None => spawner.name = brood.name.text(),
            }
            told.push(spawner);
        }
        told
    }
}

/// The kernel function in which the process waits; empty where that may not be read (it takes CAP_SYS_PTRACE) or the
/// kernel does not tell (`0`).
fn wchan(dir: BorrowedFd<'_>, pid: u32, buf: &mut [u8]) -> String {
    let Ok(len) = read_beneath(dir, pid, c"/wchan", buf) else { return String::new() };
    // A symbol's name has at most 511 bytes; anything else is not one.
    let text = &buf[..len.min(512)];
    let symbol = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$');
    if text == b"0" || !text.iter().all(symbol) {
        return String::new();
    }
    String::from_utf8_lossy(text).into_owned()
}
