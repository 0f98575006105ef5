//! Keeping a thread to its share of a CPU, and of a disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::io_priority::{self, IoPriority};

/// Longest single rest, so that the thread can be stopped.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// CPU time of this thread since it was started.
pub(super) fn thread_cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// Keeps a thread to its share of a CPU.
pub(super) struct Pace {
    share: Option<f64>,
    began: Instant,
    cpu_before: Duration,
}

impl Pace {
    pub(super) fn new(share: Option<f64>) -> Self {
        Self { share, began: Instant::now(), cpu_before: thread_cpu() }
    }

    /// Sleeps until what was used is within the share again.
    pub(super) fn rest(&self, stop: &AtomicBool) {
        let Some(share) = self.share else { return };
        let used = thread_cpu().saturating_sub(self.cpu_before).as_secs_f64();
        let due = Duration::from_secs_f64((used / share.max(0.001)).min(86_400.0));
        while let Some(rest) = due.checked_sub(self.began.elapsed()).filter(|r| !r.is_zero()) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(rest.min(LONGEST_REST));
        }
    }
}

/// Least time over which a thread's waiting is judged: some reads of a slow disk, and long against what the judging costs.
const JUDGED: Duration = Duration::from_millis(5);

/// Whether a thread waits (for its disk, mostly) more than it works. To wait for a CPU is no such waiting.
#[derive(Debug)]
pub(super) struct Waits {
    since: Instant,
    cpu: Duration,
    delayed: Option<Duration>,
}

impl Default for Waits {
    fn default() -> Self {
        Self { since: Instant::now(), cpu: thread_cpu(), delayed: delayed() }
    }
}

impl Waits {
    /// Whether it did since it was last judged; false where nobody can tell, or too soon to tell.
    pub(super) fn mostly(&mut self) -> bool {
        if self.since.elapsed() < JUDGED {
            return false;
        }
        let before = std::mem::take(self);
        let (Some(delayed), Some(delayed_before)) = (self.delayed, before.delayed) else { return false };
        let worked = self.cpu.saturating_sub(before.cpu) + delayed.saturating_sub(delayed_before);
        worked * 2 < self.since - before.since
    }

    /// What `wait` gives; the time that it takes is not judged.
    pub(super) fn over<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let given = wait();
        *self = Self::default();
        given
    }
}

/// For how long this thread was ready to run and had no CPU (schedstat in proc(5)), where the kernel counts it.
fn delayed() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// What work in the background may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Share of one CPU.
    pub cpu: f64,
    /// Share of the time in which it may keep its disk busy, or wait for it.
    pub disk: f64,
    /// Entries a second, at most.
    pub entries_per_second: u32,
}

impl Budget {
    /// How long work must rest that took `wall`, of that `cpu` on a CPU, for `entries`. What was not used before is not
    /// saved up: each piece of work is paid for by the rest that follows it.
    pub fn rest(&self, wall: Duration, cpu: Duration, entries: u64) -> Duration {
        let seconds = [
            cpu.as_secs_f64() / (self.cpu * AIM).max(0.0005),
            // On a CPU it does not wait for its disk.
            wall.saturating_sub(cpu).as_secs_f64() / self.disk.max(0.001),
            entries as f64 / f64::from(self.entries_per_second.max(1)),
        ];
        let due = seconds.into_iter().fold(0.0, f64::max).min(LONGEST_DUE_SECONDS);
        Duration::from_secs_f64(due).saturating_sub(wall)
    }
}

/// Keeps work to its budget, piece by piece. What the rests and wake-ups themselves cost is paid for by the next rest.
#[derive(Debug)]
pub(super) struct Paced {
    budget: Budget,
    cpu: Duration,
    woken: Instant,
}

impl Paced {
    /// From now on, on this thread.
    pub(super) fn begin(budget: Budget) -> Self {
        Self { budget, cpu: thread_cpu(), woken: Instant::now() }
    }

    /// How long to rest now, after a piece of work with so many `entries`.
    pub(super) fn rest(&mut self, entries: u64) -> Duration {
        let now = thread_cpu();
        let cpu = now.saturating_sub(std::mem::replace(&mut self.cpu, now));
        self.budget.rest(self.woken.elapsed(), cpu, entries)
    }

    /// The rest is over.
    pub(super) fn wake(&mut self) {
        self.woken = Instant::now();
    }
}

/// Of a share of a CPU, what is aimed at: the clock of a thread does not show all that the kernel books to its process.
const AIM: f64 = 0.95;
/// Longest rest after one piece of work: a disk that hung for a minute is not left alone for an hour.
const LONGEST_DUE_SECONDS: f64 = 60.0;

/// This thread gets what others leave, of CPUs (`SCHED_IDLE`) and, where its scheduler knows classes, of disks
/// ([`IoPriority::Idle`]). A kernel that refuses either lets it run as any other.
pub(super) fn be_idle() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure lives through the call; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
    io_priority::set(IoPriority::Idle);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thread_waits_that_blocks_and_not_one_that_works_or_lacks_a_cpu() {
        let mut waits = Waits::default();
        assert!(!waits.mostly(), "too soon to tell");
        let (_open, never) = std::sync::mpsc::channel::<()>();
        // One that then gets no CPU for as long again has waited for that, too.
        let mut blocks = || never.recv_timeout(JUDGED * 4).is_err() && waits.mostly();
        assert!((0..100).any(|_| blocks()));
        let until = thread_cpu() + JUDGED * 2;
        while thread_cpu() < until {
            std::hint::spin_loop();
        }
        assert!(!waits.mostly());
        waits.over(|| never.recv_timeout(JUDGED * 4).is_err());
        let until = thread_cpu() + JUDGED * 2;
        while thread_cpu() < until {
            std::hint::spin_loop();
        }
        assert!(!waits.mostly(), "what is waited for on purpose does not count");
    }

    proptest! {
        // More entries than these in one piece would want a rest beyond the longest.
        #[test]
        fn a_rest_pays_for_the_work_before_it(
            cpu_us in 0u64..200_000, waited_us in 0u64..200_000, entries in 0u64..6_000,
            percent in 1u32..50, disk in 1u32..50, per_second in 100u32..100_000,
        ) {
            let budget = Budget { cpu: f64::from(percent) / 100.0, disk: f64::from(disk) / 100.0, entries_per_second: per_second };
            let (cpu, wall) = (Duration::from_micros(cpu_us), Duration::from_micros(cpu_us + waited_us));
            let all = (wall + budget.rest(wall, cpu, entries)).as_secs_f64() + 1e-6;
            prop_assert!(cpu.as_secs_f64() <= all * budget.cpu);
            prop_assert!((wall - cpu).as_secs_f64() <= all * budget.disk);
            prop_assert!(entries as f64 <= all * f64::from(per_second));
        }
    }
}
