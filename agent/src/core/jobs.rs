//! Jobs for the thread that owns the executor: it takes one at a time, so that one that does not end keeps all others waiting,
//! on every mount. That is said, and counted.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dogwatch::record::Moment;

use super::Core;
use crate::act::at_work::UnderWay;
use crate::act::work::Job;

/// So long nothing is under way that will still end: a cleanup of files counts as hung after nine minutes.
const LONGEST: Duration = Duration::from_secs(8 * 60);

impl Core {
    /// Has `job` done. What comes of it comes in.
    pub(super) fn give(&self, job: Job) {
        if let Err(lost) = self.wires.jobs.send(job) {
            // The end of the thread that takes them is the agent's.
            tracing::warn!(job = ?lost.0, "nobody takes it any more: the agent ends");
        }
    }

    /// What has been under way for longer than anything should be, in words; how long it has, is counted.
    pub(super) fn stuck_words(&self, now: Moment) -> Option<String> {
        let at = self.wires.at_work.now();
        let since = |at: &UnderWay| Duration::from_nanos(now.boot_ns.saturating_sub(at.since_boot_ns));
        let for_so_long = at.as_ref().map(since).unwrap_or_default();
        let ms = u64::try_from(for_so_long.as_millis()).unwrap_or(u64::MAX);
        self.wires.figures.cleanup_job_ms.store(ms, Ordering::Relaxed);
        let UnderWay { what, .. } = at.filter(|_| for_so_long > LONGEST)?;
        Some(format!(
            "clean up: {what} has been under way for {} minutes and keeps all others waiting; a disk or a server that it waits \
             for may be gone",
            for_so_long.as_secs() / 60
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dogwatch::record::Sample;

    use super::*;
    use crate::core::holds::tests::core;

    #[test]
    fn what_does_not_end_is_said_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (mut core, _kept) = core(dir.path());
        let at_work = core.wires.at_work.clone();
        let (pulses, figures) = (core.wires.pulse.subscribe(), Arc::clone(&core.wires.figures));
        let mut told = |boot_ns| {
            core.publish(Moment { boot_ns, wall_ns: 1 }, Arc::<Sample>::default());
            let unable = pulses.borrow().as_ref().unwrap().unable.join("; ");
            (unable, figures.cleanup_job_ms.load(Ordering::Relaxed))
        };
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap();
        let began = at_work.begin("the cleanup a-1 of /var".to_owned());
        let since = at_work.now().unwrap().since_boot_ns;
        assert_eq!(told(since + longest), (String::new(), 480_000));
        let (unable, ms) = told(since + 2 * longest);
        assert!(
            unable.contains("clean up: the cleanup a-1 of /var has been under way for 16 min"),
            "{unable}"
        );
        assert_eq!(ms, 960_000);
        drop(began);
        assert_eq!(told(since + 3 * longest), (String::new(), 0));
        let began = at_work.begin("another".to_owned());
        assert_eq!(told(since), (String::new(), 0), "a sample from before it began");
        drop(began);
    }
}
