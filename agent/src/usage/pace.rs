//! Keeping a thread to its share of a CPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Longest single rest, so that the thread can be stopped.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// Keeps a thread to its share of a CPU.
pub(super) struct Pace {
    share: Option<f64>,
    began: Instant,
    cpu_before: Duration,
}

impl Pace {
    pub(super) fn new(share: Option<f64>) -> Self {
        let mut pace = Self { share, began: Instant::now(), cpu_before: Duration::ZERO };
        pace.cpu_before = pace.cpu();
        pace
    }

    /// CPU time of this thread since it was started.
    pub(super) fn cpu(&self) -> Duration {
        let t = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0))
    }

    /// Sleeps until what was used is within the share again.
    pub(super) fn rest(&self, stop: &AtomicBool) {
        let Some(share) = self.share else { return };
        let used = self.cpu().saturating_sub(self.cpu_before).as_secs_f64();
        let due = Duration::from_secs_f64((used / share.max(0.001)).min(86_400.0));
        while let Some(rest) = due.checked_sub(self.began.elapsed()).filter(|r| !r.is_zero()) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(rest.min(LONGEST_REST));
        }
    }
}
