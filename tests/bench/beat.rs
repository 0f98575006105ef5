//! When in a second somebody reads.
//!
//! Whoever reads files of `/proc` right behind another finds the kernel's code and data in the caches and the CPU awake, and
//! takes up to a third less CPU time: beside the same agent a bare reader took 0.73 to 1.07 ms/s, only by when it had been
//! started. So everyone who is measured side by side gets a part of the second for himself.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

const SECOND: Duration = Duration::from_secs(1);
/// For a thread that works once a second.
const SOON: Duration = Duration::from_secs(10);
/// How often the thread is looked at; its work takes longer.
const LOOK: Duration = Duration::from_millis(1);

/// A time of each second, on CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat(Duration);

impl Beat {
    /// `ms` milliseconds after each full second.
    pub(crate) fn at(ms: u64) -> Self {
        Self(Duration::from_millis(ms % 1_000))
    }

    /// When the thread called `thread` of the process `pid`, which works once a second, has done so.
    pub(crate) fn of_thread(pid: u32, thread: &str) -> Result<Self> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.flatten().map(|task| task.path());
        let named = |task: &std::path::PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == thread)
        };
        let file = tasks.filter(named).map(|task| task.join("schedstat")).next();
        let file = file.with_context(|| format!("process {pid} has no thread {thread}"))?;
        let before = fs::read_to_string(&file)?;
        let until = Instant::now() + SOON;
        while fs::read_to_string(&file)? == before {
            ensure!(Instant::now() < until, "the thread {thread} of process {pid} did not run for {SOON:?}");
            std::thread::sleep(LOOK);
        }
        Ok(Self(now()))
    }

    /// `parts` quarters of a second later.
    pub(crate) fn quarters_later(self, parts: u32) -> Self {
        Self(within(self.0 + SECOND / 4 * parts))
    }

    /// Milliseconds after the full second.
    pub(crate) fn ms(self) -> u128 {
        self.0.as_millis()
    }

    /// How long it is until then.
    pub(crate) fn wait(self) -> Duration {
        within(self.0 + SECOND - now())
    }
}

fn now() -> Duration {
    let t = clock_gettime(ClockId::Monotonic);
    Duration::from_nanos(t.tv_nsec as u64)
}

fn within(time: Duration) -> Duration {
    Duration::from_nanos(u64::from(time.subsec_nanos()))
}
