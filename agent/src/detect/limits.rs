//! `descriptor-exhaustion` and `pid-exhaustion`: what the kernel counts is running out, for the node, a process or a
//! group.

use dogwatch::record::{Fact, Finding, Severity, Subject};

use super::case::Tick;
use super::config::{DetectConfig, LimitConfig};
use super::known::{Known, Scene, group_subject, place_facts};
use super::watch::{Detector, Verdict, Watch, Words, several_watches};
use super::words;

/// Rule names.
pub(super) const DESCRIPTOR_RULE: &str = "descriptor-exhaustion";
/// See [`DESCRIPTOR_RULE`].
pub(super) const PID_RULE: &str = "pid-exhaustion";

/// Tasks that a group's limit leaves room for, below which a group at its limit is meant to be there: a worker that may
/// have one process has one.
const SMALL_GROUP: u64 = 16;

/// Watches descriptors and PIDs.
#[derive(Debug)]
pub(super) struct LimitDetector {
    descriptors: LimitConfig,
    pids: LimitConfig,
    /// Descriptors, PIDs.
    watches: [Watch; 2],
}

impl LimitDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        Self {
            watches: [
                Watch::new(DESCRIPTOR_RULE, config.descriptors.hold, config),
                Watch::new(PID_RULE, config.pids.hold, config).with_events(config.pids.quiet),
            ],
            descriptors: config.descriptors.clone(),
            pids: config.pids.clone(),
        }
    }
}

/// How much of a limit is in use, in words and facts.
fn words(c: &LimitConfig, whose: &str, what: &str, open: u64, max: u64, why: &str) -> Words {
    let used = open as f64 / max.max(1) as f64;
    let figures = format!("{open} of {max} ({})", words::percent(used));
    Words {
        over: format!("{whose} runs out of {what}: {figures}"),
        calm: format!("{whose} has {what} enough: {figures}"),
        explanation: format!(
            "{why} Medium from {} of the limit, high from {}, critical from {}; cleared below {}.",
            words::percent(c.high_used),
            words::percent(c.serious_used),
            words::percent(c.critical_used),
            words::percent(c.clear_used)
        ),
        facts: vec![
            Fact::new("used_percent", format!("{:.2}", used * 100.0)),
            Fact::new("in_use_number", open),
            Fact::new("max_number", max),
        ],
        ..Words::default()
    }
}

/// One process or group at its limit is its own trouble, not the node's loss.
fn not_the_node(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Over(Severity::Critical) => Verdict::Over(Severity::High),
        other => other,
    }
}

impl Detector for LimitDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        let sample = scene.sample;
        let node = || Subject::new("node", tick.identity.node.as_str());
        let [files, pids] = &mut self.watches;
        let c = &self.descriptors;
        let limits = sample.limits.clone().unwrap_or_default();
        if let (Some(open), Some(max)) = (limits.open_files, limits.open_files_max.filter(|m| *m > 0)) {
            let why = "fs.file-nr against fs.file-max: beyond it no program but root's opens a file.";
            let words = || words(c, "the node", "file handles", open, max, why);
            files.judge(tick, c.verdict(open as f64 / max as f64), node, words, out);
        }
        for d in sample.tasks.iter().flat_map(|t| &t.descriptors).filter(|d| d.max > 0) {
            let name = format!("{} ({})", d.name, d.pid);
            let verdict = not_the_node(c.verdict(d.open as f64 / d.max as f64));
            let words = || {
                let why = "Open descriptors against RLIMIT_NOFILE (soft) of the process: beyond it its open, accept and \
                           socket calls fail with EMFILE.";
                let mut words = words(c, &name, "descriptors", d.open, d.max, why);
                words.facts.extend(place_facts(&d.cgroup, d.pod.as_ref()));
                words.pod = d.pod.clone();
                words
            };
            files.judge(tick, verdict, || Subject::new("process", name.as_str()), words, out);
        }
        files.close(tick, sample.tasks.is_some(), out);
        let c = &self.pids;
        let most = [limits.pid_max, limits.threads_max].into_iter().flatten().filter(|m| *m > 0).min();
        if let (Some(tasks), Some(max)) = (limits.tasks, most) {
            let words = || {
                let why = "Tasks, that is threads, against the smaller of kernel.pid_max and kernel.threads-max: beyond it \
                           nothing can be started, no shell and no probe.";
                let mut words = words(c, "the node", "PIDs", tasks, max, why);
                if let Some(s) = scene.known.spawners.first() {
                    words.facts.push(Fact::new("spawner_name", format!("{} (pid {})", s.name, s.pid)));
                    words.facts.extend(place_facts(&s.cgroup, s.pod.as_ref()));
                    words.pod = s.pod.clone();
                }
                words
            };
            pids.judge(tick, c.verdict(tasks as f64 / max as f64), node, words, out);
        }
        for cgroup in &sample.cgroups {
            let (Some(tasks), Some(max)) = (cgroup.pids, cgroup.pids_max.filter(|m| *m >= SMALL_GROUP))
            else {
                continue;
            };
            let subject = || group_subject(&cgroup.path, cgroup.pod.as_ref());
            let words = || {
                let subject = subject();
                let why = "Tasks of the control group against pids.max: beyond it its fork and clone calls fail with \
                           EAGAIN, and it alone is hurt.";
                let whose = format!("{} {}", subject.kind, subject.name);
                let mut words = words(c, &whose, "PIDs", tasks, max, why);
                words.facts.extend(place_facts(&cgroup.path, cgroup.pod.as_ref()));
                words.pod = cgroup.pod.clone();
                words
            };
            pids.judge(tick, not_the_node(c.verdict(tasks as f64 / max as f64)), subject, words, out);
        }
        // The node's own is in each sample with limits, so that its absence ends nothing here.
        pids.close(tick, !sample.cgroups.is_empty(), out);
    }

    fn on_kernel(&mut self, tick: Tick<'_>, text: &str, known: &Known, out: &mut Vec<Finding>) -> bool {
        let Some(path) = text.strip_prefix("cgroup: fork rejected by pids controller in ") else {
            return false;
        };
        let pids = &mut self.watches[1];
        if !pids.is_on() {
            return false;
        }
        let pod = known.pod(path);
        let subject = group_subject(path, pod.as_ref());
        let whose = format!("{} {}", subject.kind, subject.name);
        let words = |_| {
            Words {
            over: format!("{whose} ran out of PIDs: the kernel refused it a new process"),
            explanation: "The kernel's pids controller says so (kernel/cgroup/pids.c), once for each group: pids.max was met, \
                          and fork or clone failed with EAGAIN. The pod's limit is the kubelet's podPidsLimit."
                .to_owned(),
            facts: place_facts(path, pod.as_ref()),
            pod: pod.clone(),
            ..Words::default()
        }
        };
        pids.hit(tick, Severity::High, subject, words, out);
        true
    }

    several_watches!();
}
