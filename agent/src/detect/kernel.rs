//! `kernel-trouble`: the kernel met an error of its own or of the hardware. One finding for each kind.
//!
//! Deliberately absent: `WARNING: CPU: …`, which drivers print by the thousand without harm.

use dogwatch::record::{Fact, Finding, Severity, Subject};

use super::case::Tick;
use super::config::{DetectConfig, Hold, KernelConfig};
use super::known::{Known, Scene};
use super::watch::{Detector, Watch, Words, one_watch};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "kernel-trouble";

/// Characters of a line that a summary shows.
const MAX_SHOWN: usize = 160;

/// Watches the kernel's log.
#[derive(Debug)]
pub(super) struct KernelDetector {
    config: KernelConfig,
    watch: Watch,
}

impl KernelDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let c = config.kernel.clone();
        let watch = Watch::new(RULE, Hold { raise_ticks: 1, clear_ticks: 1 }, config).with_events(c.quiet);
        Self { watch, config: c }
    }
}

/// Whether the line begins with the name and number of a process, as `name[123]: segfault at …` (`show_signal_msg`) and
/// `name (123): …` do. Whoever runs a process names it, and the file that the rest of such a line names: a pod can make it read
/// like anything, and it says nothing of the kernel.
pub(super) fn is_of_a_process(text: &str) -> bool {
    // A name has 15 bytes at most (`TASK_COMM_LEN`).
    text.char_indices().take(18).any(|(at, c)| {
        let closed = match c {
            '[' => ']',
            '(' => ')',
            _ => return false,
        };
        let number = text[at + 1..].split(closed).next().unwrap_or_default();
        !number.is_empty() && number.len() <= 10 && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// What the line says happened: kind, meaning, severity.
pub(super) fn trouble(text: &str) -> Option<(&'static str, &'static str, Severity)> {
    use Severity::{Critical, High, Low, Medium};
    if is_of_a_process(text) {
        return None;
    }
    let mut line = text;
    for prefix in ["watchdog: ", "NMI watchdog: ", "Watchdog ", "rcu: ", "rcu:\t"] {
        line = line.strip_prefix(prefix).unwrap_or(line);
    }
    let begins = |any: &[&str]| any.iter().any(|p| line.starts_with(p));
    if begins(&["BUG: soft lockup"]) {
        return Some(("soft-lockup", "a CPU was stuck in the kernel", High));
    }
    if begins(&["detected hard LOCKUP", "BUG: hard lockup", "hard LOCKUP"]) {
        return Some(("hard-lockup", "a CPU did not even answer interrupts", Critical));
    }
    let stall = line.contains("self-detected stall on CPU")
        || line.contains("detected stalls on CPUs")
        || line.contains("detected expedited stalls on CPUs");
    if (line.starts_with("INFO: rcu") || line.starts_with("rcu_")) && stall {
        return Some(("rcu-stall", "a CPU did not let the kernel get on", High));
    }
    if begins(&["Kernel panic - not syncing"]) {
        return Some(("panic", "the kernel panicked", Critical));
    }
    if begins(&[
        "BUG: unable to handle",
        "BUG: kernel NULL pointer",
        "kernel BUG at ",
        "Oops: ",
        "Internal error: Oops",
        "Unable to handle kernel ",
        "general protection fault, ",
        "general protection fault: ",
    ]) {
        return Some(("oops", "the kernel met an error of its own", Critical));
    }
    // `mce: [Hardware Error]: …`, `{1}[Hardware Error]: …`
    let hardware = line.split_once("[Hardware Error]").is_some_and(|(before, _)| {
        before.is_empty() || before == "mce: " || (before.starts_with('{') && before.ends_with('}'))
    });
    if hardware {
        let corrected = line.contains("orrected") && !line.contains("ncorrected");
        return Some(if corrected {
            ("hardware-corrected", "the hardware corrected an error of its own", Low)
        } else {
            ("hardware-error", "the hardware reported an error", Medium)
        });
    }
    if let Some((_, what)) = line.strip_prefix("EDAC ").and_then(|l| l.split_once(": ")) {
        let count = what.trim_start_matches(|c: char| c.is_ascii_digit());
        if count.starts_with(" UE ") && count.len() < what.len() {
            return Some(("memory-uncorrected", "memory lost data (ECC, not correctable)", High));
        }
    }
    None
}

impl Detector for KernelDetector {
    fn on_sample(&mut self, tick: Tick<'_>, _scene: &Scene<'_>, out: &mut Vec<Finding>) {
        self.watch.close(tick, false, out);
    }

    fn on_kernel(&mut self, tick: Tick<'_>, text: &str, _known: &Known, out: &mut Vec<Finding>) -> bool {
        let Some((kind, meaning, severity)) = trouble(text).filter(|_| self.watch.is_on()) else {
            return false;
        };
        let quiet = words::duration(self.config.quiet.as_secs_f64());
        let words = |lines: u64| Words {
            over: format!("{meaning}: {}", text.chars().take(MAX_SHOWN).collect::<String>()),
            explanation: format!(
                "A line of the kernel's log says so (kind {kind}); the lines after it in the node's recorder have the \
                 registers and the stack. Further lines of the kind are counted; cleared after {quiet} without one, which \
                 does not mend the kernel: after an oops it goes on in a state that nobody knows."
            ),
            facts: vec![Fact::new("lines_number", lines)],
            ..Words::default()
        };
        self.watch.hit(tick, severity, Subject::new("kernel", kind), words, out);
        true
    }

    one_watch!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        for (text, kind) in [
            ("watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [kworker/3:1:123]", "soft-lockup"),
            ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 3", "hard-lockup"),
            ("rcu: INFO: rcu_sched self-detected stall on CPU", "rcu-stall"),
            ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu-stall"),
            ("INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 3-... }", "rcu-stall"),
            ("BUG: unable to handle page fault for address: ffff", "oops"),
            ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "oops"),
            ("kernel BUG at mm/slub.c:321!", "oops"),
            ("Oops: 0002 [#1] SMP NOPTI", "oops"),
            ("general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", "oops"),
            ("Kernel panic - not syncing: Fatal exception", "panic"),
            ("mce: [Hardware Error]: Machine check events logged", "hardware-error"),
            ("{1}[Hardware Error]: event severity: corrected", "hardware-corrected"),
            ("{1}[Hardware Error]: event severity: uncorrected", "hardware-error"),
            ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "memory-uncorrected"),
        ] {
            assert_eq!(trouble(text).map(|t| t.0), Some(kind), "{text}");
        }
        for nothing in [
            "traps: evil[12] general protection fault ip:7f sp:7f error:0 in libc.so",
            "EDAC MC0: 1 CE memory read error",
            "WARNING: CPU: 1 PID: 2 at kernel/x.c:3",
            "audit: BUG: soft lockup",
            "x[1]: segfault at 0 ip 1 sp 2 error 4",
            // Processes and files that were given such names.
            "Oops: [4711]: segfault at 0 ip 1 sp 2 error 4 in x[400000+1000]",
            "kernel BUG at [[7]: segfault at 0 ip 1 sp 2 error 4 in x[400000+1000]",
            "INFO: rcu[7]: segfault at 0 ip 1 sp 2 error 4 in self-detected stall on CPU[400000+1000]",
            "EDAC a: 1 UE [7]: segfault at 0 ip 1 sp 2 error 4",
            "Oops:  (4711): Using mlock ulimits for SHM_HUGETLB is deprecated",
            "",
        ] {
            assert_eq!(trouble(nothing), None, "{nothing}");
        }
    }
}
