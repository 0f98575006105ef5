//! Where a report of the OOM killer begins and ends (mm/oom_kill.c: `dump_header`, `__oom_kill_process`, the reaper).

use memchr::memmem;

/// Messages of one report that are evidence; its table of tasks has no bound of its own.
const MAX_MESSAGES: u32 = 200;
/// Messages after the kill among which the reaper's is looked for.
const AFTER_KILL: u32 = 8;

/// Knows whether the next message is part of a report.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Messages that still belong to it, at most.
    left: u32,
}

impl Report {
    /// Whether the message `text` belongs to a report.
    pub(super) fn takes(&mut self, text: &[u8]) -> bool {
        let says = |what: &str| memmem::find(text, what.as_bytes()).is_some();
        if says("invoked oom-killer") {
            self.left = MAX_MESSAGES;
        } else if says("oom_reaper: reaped process") {
            self.left = 0;
            // One that was cut short by its bound still ends with these two.
            return true;
        } else if says("Killed process") {
            self.left = AFTER_KILL;
            return true;
        }
        let part = self.left > 0;
        self.left = self.left.saturating_sub(1);
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lines: &[&str]) -> usize {
        let mut report = Report::default();
        lines.iter().filter(|l| report.takes(l.as_bytes())).count()
    }

    #[test]
    fn from_the_call_to_the_reaper_and_no_further() {
        let mut lines = vec!["before", "stress invoked oom-killer: gfp_mask=0xcc0"];
        lines.extend(["Mem-Info:"; 40]);
        lines.extend([
            "Out of memory: Killed process 7 (stress)",
            "eth0: link up",
            "oom_reaper: reaped process 7",
        ]);
        assert_eq!(taken(&[&lines[..], &["after", "after"]].concat()), 44);
        let mut unreaped = lines[..43].to_vec();
        unreaped.extend(["after"; 50]);
        assert_eq!(taken(&unreaped), 42 + AFTER_KILL as usize);
    }

    #[test]
    fn a_report_without_end_is_bounded() {
        let mut lines = vec!["a invoked oom-killer: b"];
        lines.extend(["[ 1 ] 0 1 task"; 1000]);
        assert_eq!(taken(&lines), MAX_MESSAGES as usize);
        lines.push("Out of memory: Killed process 7 (a)");
        assert_eq!(taken(&lines), MAX_MESSAGES as usize + 1);
    }
}
