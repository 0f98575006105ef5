//! Lines that a detector has spoken for already, so that the shipped log rule for them says nothing a second time.
//!
//! Rules of a user's own always speak. Limits: [`MAX_HEARD`] lines, for [`KEPT_NS`]; a log daemon that writes the kernel's
//! line before the kernel's log was read here is not noticed, and its log finding stands beside the other.

use std::collections::VecDeque;

use dogwatch::record::{LogLine, Moment};

/// Shipped log rules about lines that detectors understand (`deploy/config/rules.yaml`).
const TWINS: [&str; 11] = [
    "oom-kill",
    "container-oom",
    "filesystem-error",
    "disk-io-error",
    "read-only-remount",
    "kernel-panic",
    "kernel-oops",
    "kernel-lockup",
    "hung-task",
    "hardware-error",
    "conntrack-full",
];

/// A kernel line is at most some 1,000 bytes (`LOG_LINE_MAX`); what is longer is not the kernel's.
const MAX_BYTES: usize = 2_048;
const MAX_HEARD: usize = 128;
/// A log daemon writes within this time, ns.
const KEPT_NS: u64 = 60_000_000_000;
/// Shorter texts would be found at the end of too many lines.
const MIN_BYTES: usize = 16;

/// The kernel lines that were spoken for.
#[derive(Debug, Default)]
pub(super) struct Twins {
    heard: VecDeque<(u64, String)>,
}

impl Twins {
    /// A detector spoke for the kernel's `text`; the line with what is left of its rules.
    pub(super) fn spoken(&mut self, at: Moment, text: &str, line: &LogLine) -> LogLine {
        if text.len() >= MIN_BYTES {
            if self.heard.len() >= MAX_HEARD {
                self.heard.pop_front();
            }
            self.heard.push_back((at.boot_ns, text.to_owned()));
        }
        without_twins(line)
    }

    /// The line with what is left of its rules, if it is a copy of one that was spoken for.
    pub(super) fn without_copies(&mut self, at: Moment, line: &LogLine) -> Option<LogLine> {
        while self.heard.front().is_some_and(|(heard, _)| at.boot_ns.saturating_sub(*heard) >= KEPT_NS) {
            self.heard.pop_front();
        }
        // A container's own output is no copy, whatever it says.
        if self.heard.is_empty() || line.pod.is_some() || !line.rules.iter().any(|r| is_twin(r)) {
            return None;
        }
        self.heard.iter().any(|(_, text)| line.line.ends_with(text.as_bytes())).then(|| without_twins(line))
    }
}

fn is_twin(rule: &str) -> bool {
    TWINS.contains(&rule)
}

fn without_twins(line: &LogLine) -> LogLine {
    let mut rest = line.clone();
    rest.rules.retain(|r| !is_twin(r));
    rest
}

/// The kernel's text of a line: bounded, without the time that `printk.time` or a reader put before it.
pub(super) fn text(line: &LogLine) -> String {
    let bytes = &line.line[..line.line.len().min(MAX_BYTES)];
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end();
    // `[  123.456789] `
    let stamped = text.strip_prefix('[').and_then(|rest| rest.split_once("] ")).filter(|(stamp, _)| {
        stamp.contains('.') && stamp.trim_start().bytes().all(|b| b.is_ascii_digit() || b == b'.')
    });
    stamped.map_or(text, |(_, rest)| rest).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_taken_off_and_brackets_stay() {
        let of = |t: &str| text(&LogLine { line: t.as_bytes().to_vec(), ..LogLine::default() });
        assert_eq!(of("[  123.456789] Out of memory"), "Out of memory");
        assert_eq!(of("[Hardware Error]: x.y"), "[Hardware Error]: x.y");
        assert_eq!(of("plain\n"), "plain");
        assert!(of(&"é".repeat(5_000)).len() <= MAX_BYTES + 4);
    }
}
