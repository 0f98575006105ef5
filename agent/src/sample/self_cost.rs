//! What the agent and its executor cost the node.
//!
//! CPU time comes from CLOCK_PROCESS_CPUTIME_ID (user and system time of all threads, ns, nothing to parse), the
//! resident set from `/proc/self/statm`, the executor's CPU time from `/proc/PID/stat`: it lives as long as the
//! agent, so `RUSAGE_CHILDREN`, which counts only children that were waited for, would say nothing of it.
//!
//! Deliberately absent: queue bytes and dropped records, which only the recorder knows.

use std::path::{Path, PathBuf};

use dogwatch::record::SelfCost;
use rustix::time::{ClockId, clock_gettime};

use super::Failures;
use super::processes::parse_stat;
use super::procfile::{ProbeError, ProcFile, fields, number};

/// Reader of the agent's own cost.
pub(super) struct SelfCostProbe {
    proc: PathBuf,
    statm: ProcFile,
    child: Option<ProcFile>,
    /// CPU time of children that are gone, and of the present one when last seen.
    gone_children_us: u64,
    child_us: u64,
    page_bytes: u64,
    ticks_per_second: u64,
}

impl SelfCostProbe {
    /// A reader beneath `proc`.
    pub(super) fn new(proc: &Path, ticks_per_second: u64, page_bytes: u64) -> Self {
        Self {
            proc: proc.to_owned(),
            statm: ProcFile::new(proc.join("self/statm"), 4096),
            child: None,
            gone_children_us: 0,
            child_us: 0,
            page_bytes,
            ticks_per_second: ticks_per_second.max(1),
        }
    }

    /// Counts the process `pid` in from now on, and keeps what an earlier one has cost.
    pub(super) fn watch_child(&mut self, pid: u32) {
        self.gone_children_us += std::mem::take(&mut self.child_us);
        self.child = Some(ProcFile::new(self.proc.join(pid.to_string()).join("stat"), 4096));
    }

    /// The reading; parts that cannot be had are 0 and go to `failed`.
    pub(super) fn read(&mut self, failed: &mut Failures) -> SelfCost {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let own_us = (own.tv_sec as u64).saturating_mul(1_000_000) + own.tv_nsec as u64 / 1_000;
        let resident_bytes = self.resident_bytes().unwrap_or_else(|e| {
            failed.push("self", &e);
            0
        });
        if let Err(e) = self.read_child() {
            failed.push("self", &e);
        }
        SelfCost {
            cpu_us: own_us + self.gone_children_us + self.child_us,
            resident_bytes,
            ..SelfCost::default()
        }
    }

    fn resident_bytes(&mut self) -> Result<u64, ProbeError> {
        let pages = fields(self.statm.read()?).nth(1).and_then(number);
        let pages = pages.ok_or_else(|| self.statm.malformed("no second number"))?;
        Ok(pages.saturating_mul(self.page_bytes))
    }

    /// A child that is gone is reported by whoever waits for it; here its last known cost stays.
    fn read_child(&mut self) -> Result<(), ProbeError> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.read() {
            Ok(text) => match parse_stat(text) {
                Some(stat) => {
                    let us = u128::from(stat.cpu_ticks) * 1_000_000 / u128::from(self.ticks_per_second);
                    self.child_us = u64::try_from(us).unwrap_or(u64::MAX);
                    Ok(())
                }
                None => Err(child.malformed("not a process's stat line")),
            },
            Err(_) => {
                self.gone_children_us += std::mem::take(&mut self.child_us);
                self.child = None;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ticks: u64) -> String {
        format!("77 (x) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 5 0 0 0")
    }

    #[test]
    fn an_executor_that_is_replaced_stays_counted() {
        let dir = tempfile::tempdir().unwrap();
        for pid in ["self", "77", "78"] {
            std::fs::create_dir(dir.path().join(pid)).unwrap();
        }
        std::fs::write(dir.path().join("self/statm"), "100 25 3 1 0 9 0").unwrap();
        std::fs::write(dir.path().join("77/stat"), stat(200_000)).unwrap();
        std::fs::write(dir.path().join("78/stat"), stat(100_000)).unwrap();
        let mut failed = Failures::default();
        let mut probe = SelfCostProbe::new(dir.path(), 100, 4096);
        assert_eq!(probe.read(&mut failed).resident_bytes, 25 * 4096);
        probe.watch_child(77);
        let with_one = probe.read(&mut failed).cpu_us;
        assert!((2_000_000_000..2_900_000_000).contains(&with_one), "{with_one}");
        probe.watch_child(78);
        let with_both = probe.read(&mut failed).cpu_us;
        assert!((3_000_000_000..3_900_000_000).contains(&with_both), "{with_both}");
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }

    #[test]
    fn this_process_is_read() {
        let mut failed = Failures::default();
        let cost = SelfCostProbe::new(Path::new("/proc"), 100, 4096).read(&mut failed);
        assert!(cost.resident_bytes > 100_000, "{cost:?}");
        assert_eq!(failed.into_vec(), Vec::<String>::new());
    }
}
