//! `zombies`, `hung-tasks` and `fork-storm`: processes that do not end, do not get on, or are too many at once.

use dogwatch::record::{Cpu, Fact, Finding, Pod, Severity, Subject, Tasks};

use super::case::{SCANNED_FACT, Tick};
use super::config::{DetectConfig, ForkConfig, HungConfig, ZombieConfig};
use super::known::{Known, Scene, place_facts};
use super::watch::{Detector, Verdict, Watch, Words, several_watches};
use super::window::Window;
use super::words;

/// Rule names.
pub(super) const ZOMBIE_RULE: &str = "zombies";
/// See [`ZOMBIE_RULE`].
pub(super) const HUNG_RULE: &str = "hung-tasks";
/// See [`ZOMBIE_RULE`].
pub(super) const FORK_RULE: &str = "fork-storm";

/// Before the node's own normal is known, it is taken for this part of the minimum.
const UNKNOWN_NORMAL: f64 = 0.1;

/// Watches processes.
#[derive(Debug)]
pub(super) struct TaskDetector {
    zombies: ZombieConfig,
    hung: HungConfig,
    forks: ForkConfig,
    /// Zombies, hung tasks, forks.
    watches: [Watch; 3],
    zombie_count: Window<1>,
    fork_total: Window<1>,
    normal: Option<Normal>,
}

/// The node's own rate of new processes.
#[derive(Debug)]
struct Normal {
    at_ns: u64,
    began_ns: u64,
    per_second: f64,
}

impl TaskDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        Self {
            watches: [
                Watch::new(ZOMBIE_RULE, config.zombies.hold, config),
                Watch::new(HUNG_RULE, config.hung.hold, config).with_events(config.hung.quiet),
                Watch::new(FORK_RULE, config.forks.hold, config),
            ],
            zombies: config.zombies.clone(),
            hung: config.hung.clone(),
            forks: config.forks.clone(),
            zombie_count: Window::default(),
            fork_total: Window::default(),
            normal: None,
        }
    }

    fn on_zombies(&mut self, tick: Tick<'_>, tasks: &Tasks, known: &Known, out: &mut Vec<Finding>) {
        let c = &self.zombies;
        let span = self.zombie_count.push_gauges(tick.at.boot_ns, [tasks.zombies], c.window);
        let grown = span.map_or(0, |s| s.delta[0]);
        let many = tasks.zombies >= c.count;
        let verdict = if many && grown >= c.growth {
            let serious = tasks.zombies >= c.serious_count;
            Verdict::Over(if serious { Severity::Medium } else { Severity::Low })
        } else if tasks.zombies < c.clear_count {
            Verdict::Calm
        } else {
            Verdict::Between
        };
        let words = || {
            let figures = format!("{} zombies of {} processes", tasks.zombies, tasks.processes);
            let spawner = known.spawners.first();
            let mut facts = vec![
                Fact::new("zombies_number", tasks.zombies),
                Fact::new("grown_number", grown),
                Fact::new("processes_number", tasks.processes),
            ];
            facts.extend(spawner.map(|s| Fact::new("spawner_name", format!("{} (pid {})", s.name, s.pid))));
            Words {
                over: format!(
                    "dead processes pile up: {figures}, {grown} more in {}",
                    words::duration(c.window.as_secs_f64())
                ),
                calm: format!("few dead processes are left: {figures}"),
                explanation: format!(
                    "A zombie is dead, and its parent has not waited for it; it holds a PID and nothing else. Low from {} if \
                     they became {} more in {}, medium from {}; cleared below {}. The parent is at fault: \
                     `ps -eo stat,ppid,comm | grep ^Z` names it.",
                    c.count,
                    c.growth,
                    words::duration(c.window.as_secs_f64()),
                    c.serious_count,
                    c.clear_count
                ),
                facts,
                ..Words::default()
            }
        };
        self.watches[0].judge(
            tick,
            verdict,
            || Subject::new("node", tick.identity.node.as_str()),
            words,
            out,
        );
    }

    fn on_stuck(&mut self, tick: Tick<'_>, tasks: &Tasks, out: &mut Vec<Finding>) {
        let c = &self.hung;
        for task in &tasks.stuck {
            let seconds = task.stuck_ms as f64 / 1000.0;
            let marks =
                [(c.serious.as_secs_f64(), Severity::High), (c.after.as_secs_f64(), Severity::Medium)];
            let verdict = Verdict::of(seconds, &marks, c.after.as_secs_f64() / 2.0);
            let words = || {
                let wchan = if task.wchan.is_empty() { String::new() } else { format!(" in {}", task.wchan) };
                let mut facts = vec![
                    Fact::new("stuck_seconds", format!("{seconds:.0}")),
                    Fact::new(SCANNED_FACT, tasks.uninterruptible),
                ];
                if !task.wchan.is_empty() {
                    facts.push(Fact::new("wait_channel_name", &task.wchan));
                }
                hung_words(
                    c,
                    &task.name,
                    task.pid,
                    &format!("{}{wchan}", words::duration(seconds)),
                    facts,
                    &task.cgroup,
                    task.pod.as_ref(),
                )
            };
            let subject = || Subject::new("process", format!("{} ({})", task.name, task.pid));
            self.watches[1].judge(tick, verdict, subject, words, out);
        }
    }

    fn on_forks(&mut self, tick: Tick<'_>, cpu: &Cpu, known: &Known, out: &mut Vec<Finding>) {
        let c = &self.forks;
        let Some(span) = self.fork_total.push(tick.at.boot_ns, [cpu.forks_total], c.window) else { return };
        let rate = span.rate(0);
        let now = tick.at.boot_ns;
        let normal = self.normal.get_or_insert(Normal { at_ns: now, began_ns: now, per_second: rate });
        let learnt = now.saturating_sub(normal.began_ns) as f64 >= c.normal_over.as_nanos() as f64;
        let usual =
            if learnt { normal.per_second } else { normal.per_second.min(c.min_per_second * UNKNOWN_NORMAL) };
        let mark = (usual * c.factor).max(c.min_per_second);
        let verdict = Verdict::of(rate, &[(mark, Severity::Medium)], mark / 2.0);
        // A storm must not become the normal.
        if !matches!(verdict, Verdict::Over(_)) {
            let passed = now.saturating_sub(normal.at_ns) as f64 / 1e9;
            let weight = 1.0 - (-passed / c.normal_over.as_secs_f64().max(1.0)).exp();
            normal.per_second += (rate - normal.per_second) * weight;
        }
        normal.at_ns = now;
        let words = || {
            let spawner = known.spawners.first();
            let figures = format!("{rate:.0} a second, usually {usual:.0}");
            let mut facts = vec![
                Fact::new("forks_per_second", format!("{rate:.1}")),
                Fact::new("usual_forks_per_second", format!("{usual:.1}")),
            ];
            let mut over = format!("processes are made too fast: {figures}");
            if let Some(s) = spawner {
                over.push_str(&format!("; most by {} (pid {}), {} children", s.name, s.pid, s.children));
                facts.push(Fact::new("spawner_name", format!("{} (pid {})", s.name, s.pid)));
                facts.push(Fact::new("spawner_children_number", s.children));
                facts.extend(place_facts(&s.cgroup, s.pod.as_ref()));
            }
            Words {
                over,
                calm: format!("processes are made at a usual pace again: {figures}"),
                explanation: format!(
                    "processes of /proc/stat (threads count too) over {}: raised at {} times the node's own mean of the last \
                     {} and at least {} a second, for {} samples; cleared at half of that. The spawner is who had most new \
                     children in the last scan; children that live shorter than a scan are not seen.",
                    words::duration(c.window.as_secs_f64()),
                    c.factor,
                    words::duration(c.normal_over.as_secs_f64()),
                    c.min_per_second,
                    c.hold.raise_ticks
                ),
                facts,
                pod: spawner.and_then(|s| s.pod.clone()),
                ..Words::default()
            }
        };
        self.watches[2].judge(
            tick,
            verdict,
            || Subject::new("node", tick.identity.node.as_str()),
            words,
            out,
        );
    }
}

fn hung_words(
    c: &HungConfig,
    name: &str,
    pid: u32,
    for_how_long: &str,
    mut facts: Vec<Fact>,
    cgroup: &str,
    pod: Option<&Pod>,
) -> Words {
    facts.extend(place_facts(cgroup, pod));
    Words {
        over: format!("{name} (pid {pid}) hangs in the kernel for {for_how_long}"),
        calm: format!("{name} (pid {pid}) does not hang any more"),
        explanation: format!(
            "It is in uninterruptible sleep (state D) at each scan, or the kernel's hung-task check says so \
             (kernel/hung_task.c). Medium from {} (the kernel's own default, hung_task_timeout_secs), high from {}. It cannot \
             be killed meanwhile; nearly always a disk or file server does not answer.",
            words::duration(c.after.as_secs_f64()),
            words::duration(c.serious.as_secs_f64())
        ),
        facts,
        pod: pod.cloned(),
        ..Words::default()
    }
}

/// `INFO: task NAME:PID blocked for more than 122 seconds.`
fn hung_line(text: &str) -> Option<(&str, u32, u64)> {
    let rest = text.strip_prefix("INFO: task ")?;
    // The name is the process's own and may hold any of this: the last is the kernel's.
    let (task, rest) = rest.rsplit_once(" blocked for more than ")?;
    let (name, pid) = task.rsplit_once(':')?;
    let (seconds, _) = rest.split_once(" second")?;
    Some((name, pid.parse().ok()?, seconds.parse().ok()?))
}

impl Detector for TaskDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        if let Some(tasks) = &scene.sample.tasks {
            self.on_zombies(tick, tasks, scene.known, out);
            self.on_stuck(tick, tasks, out);
        }
        if let Some(cpu) = &scene.sample.cpu {
            self.on_forks(tick, cpu, scene.known, out);
        }
        let scanned = scene.sample.tasks.is_some();
        self.watches[0].close(tick, false, out);
        self.watches[1].close(tick, scanned, out);
        self.watches[2].close(tick, false, out);
    }

    fn on_kernel(&mut self, tick: Tick<'_>, text: &str, known: &Known, out: &mut Vec<Finding>) -> bool {
        let Some((name, pid, seconds)) = hung_line(text).filter(|_| self.watches[1].is_on()) else {
            return false;
        };
        let c = &self.hung;
        let severity =
            if seconds as f64 >= c.serious.as_secs_f64() { Severity::High } else { Severity::Medium };
        let task = known.stuck.iter().find(|t| t.pid == pid);
        let (cgroup, pod) = task.map_or(("", None), |t| (t.cgroup.as_str(), t.pod.as_ref()));
        let words = |_| {
            let facts = vec![Fact::new("stuck_seconds", seconds)];
            let for_how_long = format!("more than {}", words::duration(seconds as f64));
            hung_words(c, name, pid, &for_how_long, facts, cgroup, pod)
        };
        let subject = Subject::new("process", format!("{name} ({pid})"));
        self.watches[1].hit(tick, severity, subject, words, out);
        true
    }

    several_watches!();
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{Incarnation, Moment, NodeName, RecordRef, Stream, StuckTask};

    use super::*;
    use crate::detect::case::Identity;

    #[test]
    fn each_task_that_the_scan_found_says_so_however_many_there_are() {
        let node: NodeName = "node-1".parse().unwrap();
        let incarnation = Incarnation([1; 16]);
        let identity = Identity { node: node.clone(), incarnation };
        let cite = RecordRef { node, incarnation, stream: Stream::Recorder, seq: 1 };
        let task = |(pid, pod): (u32, Option<Pod>)| StuckTask {
            pid,
            name: "d".to_owned(),
            start_ticks: 1,
            stuck_ms: 3_600_000,
            pod,
            ..StuckTask::default()
        };
        let all = (100..116).map(|pid| (pid, Some(Pod::default()))).chain((1..33).map(|pid| (pid, None)));
        let tasks = Tasks { uninterruptible: 2_000, stuck: all.map(task).collect(), ..Tasks::default() };
        let mut detector = TaskDetector::new(&DetectConfig::default());
        let mut out = Vec::new();
        for second in 1..60 {
            let at = Moment { wall_ns: second * 1_000_000_000, boot_ns: second as u64 * 1_000_000_000 };
            detector.on_stuck(Tick { identity: &identity, at, cite: &cite }, &tasks, &mut out);
        }
        let own: Vec<&Finding> = out.iter().filter(|f| f.pod.is_none()).collect();
        assert_eq!((own.len(), out.len()), (32, 48));
        let scanned = |f: &&&Finding| f.facts.iter().any(|x| x.key == SCANNED_FACT && x.value == "2000");
        assert_eq!(own.iter().filter(scanned).count(), 32);
        assert!(own.iter().all(|f| f.severity == Severity::High));
    }

    #[test]
    fn the_kernels_hung_line_is_read_whatever_the_task_is_called() {
        assert_eq!(
            hung_line("INFO: task jbd2/sda1-8:301 blocked for more than 122 seconds."),
            Some(("jbd2/sda1-8", 301, 122))
        );
        assert_eq!(
            hung_line("INFO: task a:1 blocked:7 blocked for more than 120 seconds."),
            Some(("a:1 blocked", 7, 120))
        );
        for nothing in [
            "",
            "INFO: task x blocked for more than 1 seconds",
            "INFO: task x:y blocked for more than 1 seconds",
            "x INFO: task x:1 blocked for more than 1 seconds",
        ] {
            assert_eq!(hung_line(nothing), None, "{nothing}");
        }
    }
}
