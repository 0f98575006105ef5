//! `cpu-saturation`, `cpu-steal` and `cpu-throttling`: tasks wait for a CPU, because there are too many of them, because
//! the hypervisor took it, or because a quota did. Three causes, three findings.

use dogwatch::record::{Cgroup, Cpu, Fact, Finding, Severity, Subject};

use super::case::Tick;
use super::config::{DetectConfig, SaturationConfig, StealConfig, ThrottleConfig};
use super::known::{Scene, group_subject, place_facts};
use super::watch::{Detector, Verdict, Watch, Words, several_watches};
use super::window::{Span, Window, Windows};
use super::words;

/// Rule names.
pub(super) const SATURATION_RULE: &str = "cpu-saturation";
/// See [`SATURATION_RULE`].
pub(super) const STEAL_RULE: &str = "cpu-steal";
/// See [`SATURATION_RULE`].
pub(super) const THROTTLING_RULE: &str = "cpu-throttling";

/// Over which the run queue is averaged, s.
const QUEUE_OVER_S: f64 = 60.0;
/// Without PSI, a node whose CPUs idle less than this is out of them.
const NO_IDLE: f64 = 0.02;

/// Watches the node's CPUs and the groups' quotas.
#[derive(Debug)]
pub(super) struct CpuDetector {
    saturation: SaturationConfig,
    steal: StealConfig,
    throttling: ThrottleConfig,
    /// Saturation, steal, throttling.
    watches: [Watch; 3],
    /// Steal, idle and all times.
    times: Window<3>,
    /// Periods, throttled ones, throttled µs.
    periods: Windows<3>,
    /// Mean number of runnable tasks, and when it was last moved.
    queue: Option<(u64, f64)>,
}

impl CpuDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        Self {
            watches: [
                Watch::new(SATURATION_RULE, config.cpu.hold, config),
                Watch::new(STEAL_RULE, config.steal.hold, config),
                Watch::new(THROTTLING_RULE, config.throttling.hold, config),
            ],
            saturation: config.cpu.clone(),
            steal: config.steal.clone(),
            throttling: config.throttling.clone(),
            times: Window::default(),
            periods: Windows::default(),
            queue: None,
        }
    }

    fn on_node(&mut self, tick: Tick<'_>, scene: &Scene<'_>, cpu: &Cpu, out: &mut Vec<Finding>) {
        let node = || Subject::new("node", tick.identity.node.as_str());
        let queue = self.queue(tick.at.boot_ns, cpu.running as f64) / f64::from(cpu.online.max(1));
        let times = [
            cpu.user_us,
            cpu.nice_us,
            cpu.system_us,
            cpu.idle_us,
            cpu.iowait_us,
            cpu.irq_us,
            cpu.softirq_us,
            cpu.steal_us,
        ];
        let all = times.iter().fold(0u64, |sum, t| sum.saturating_add(*t));
        let span = self.times.push(tick.at.boot_ns, [cpu.steal_us, cpu.idle_us, all], self.steal.window);
        let verdict = self.saturated(cpu, queue, span);
        let c = &self.saturation;
        let words = || saturation_words(c, scene, cpu, queue);
        self.watches[0].judge(tick, verdict, node, words, out);
        let Some(span) = span else { return };
        let c = &self.steal;
        let share = span.ratio(0, 2);
        let marks = [(c.serious_share, Severity::High), (c.share, Severity::Medium)];
        let words = || steal_words(c, share, span);
        self.watches[1].judge(tick, Verdict::of(share, &marks, c.clear_share), node, words, out);
    }

    fn saturated(&self, cpu: &Cpu, queue: f64, span: Option<Span<3>>) -> Verdict {
        let c = &self.saturation;
        // Without PSI the queue decides, where no CPU idles.
        let idle = span.map_or(1.0, |s| s.ratio(1, 2));
        let waits = match cpu.pressure {
            Some(p) => p.some_avg60,
            None if idle < NO_IDLE => c.serious_avg60,
            None => 0.0,
        };
        if waits >= c.serious_avg60 && queue >= c.serious_run_queue {
            Verdict::Over(Severity::High)
        } else if waits >= c.some_avg60 && queue >= c.run_queue {
            Verdict::Over(Severity::Medium)
        } else if waits < c.clear_avg60 || queue < c.run_queue / 2.0 {
            Verdict::Calm
        } else {
            Verdict::Between
        }
    }

    /// The mean run queue, exponentially weighted: one sample sees the run queue of one moment.
    fn queue(&mut self, now_ns: u64, running: f64) -> f64 {
        let mean = match self.queue {
            Some((at, mean)) => {
                let weight = 1.0 - (-(now_ns.saturating_sub(at) as f64 / 1e9) / QUEUE_OVER_S).exp();
                mean + (running - mean) * weight
            }
            None => running,
        };
        self.queue = Some((now_ns, mean));
        mean
    }

    fn on_group(&mut self, tick: Tick<'_>, cgroup: &Cgroup, out: &mut Vec<Finding>) {
        let (Some(periods), Some(throttled)) = (cgroup.periods_total, cgroup.throttled_periods_total) else {
            return;
        };
        let c = &self.throttling;
        let counters = [periods, throttled, cgroup.throttled_us_total.unwrap_or(0)];
        let span = self.periods.push(&cgroup.path, tick.at.boot_ns, counters, c.window);
        let verdict = match span {
            None => Verdict::Between,
            Some(s) if s.delta[0] < c.min_periods => Verdict::Calm,
            Some(s) if u128::from(s.delta[2]) < c.min_throttled.as_micros() => Verdict::Calm,
            Some(s) => {
                let marks = [(c.serious_share, Severity::Medium), (c.share, Severity::Low)];
                Verdict::of(s.ratio(1, 0), &marks, c.clear_share)
            }
        };
        let subject = || group_subject(&cgroup.path, cgroup.pod.as_ref());
        let words = || throttling_words(c, cgroup, span);
        self.watches[2].judge(tick, verdict, subject, words, out);
    }
}

fn saturation_words(c: &SaturationConfig, scene: &Scene<'_>, cpu: &Cpu, queue: f64) -> Words {
    let pressure = cpu
        .pressure
        .map_or_else(String::new, |p| format!(", some task waited {:.0} % of the last minute", p.some_avg60));
    let figures = format!("{queue:.1} runnable tasks for each of {} CPUs{pressure}", cpu.online);
    let busiest = scene.sample.processes.iter().max_by(|a, b| a.cpu_percent.total_cmp(&b.cpu_percent));
    let mut facts = vec![
        Fact::new("run_queue_per_cpu_number", format!("{queue:.2}")),
        Fact::new("cpus_number", cpu.online),
        Fact::new("load1_number", cpu.load1),
    ];
    if let Some(p) = cpu.pressure {
        facts.push(Fact::new("pressure_some_avg60_percent", p.some_avg60));
        facts.push(Fact::new("pressure_some_avg10_percent", p.some_avg10));
    }
    let mut over = format!("too little CPU: {figures}");
    if let Some(p) = busiest {
        over.push_str(&format!("; busiest: {} (pid {}) with {:.0} % of a CPU", p.name, p.pid, p.cpu_percent));
        facts.push(Fact::new("busiest_process_name", format!("{} (pid {})", p.name, p.pid)));
        facts.push(Fact::new("busiest_process_percent", format!("{:.1}", p.cpu_percent)));
        facts.extend(place_facts(&p.cgroup, p.pod.as_ref()));
    }
    Words {
        over,
        calm: format!("there is CPU enough again: {figures}"),
        explanation: format!(
            "Medium at PSI (/proc/pressure/cpu) some avg60 ≥ {} % with ≥ {} runnable tasks a CPU as a mean over a minute, \
             high at ≥ {} % with ≥ {}; held for {} samples. PSI alone counts any wait, however short, so that a well used \
             node has 30–50 %. Cleared below {} % or half the tasks for {} samples. Without PSI: no idle time and the \
             run queue.",
            c.some_avg60,
            c.run_queue,
            c.serious_avg60,
            c.serious_run_queue,
            c.hold.raise_ticks,
            c.clear_avg60,
            c.hold.clear_ticks
        ),
        facts,
        pod: busiest.and_then(|p| p.pod.clone()),
        ..Words::default()
    }
}

fn steal_words(c: &StealConfig, share: f64, span: Span<3>) -> Words {
    let figures = format!("{} of CPU time over {}", words::percent(share), words::duration(span.seconds));
    Words {
        over: format!("the hypervisor takes CPU from this node: {figures}"),
        calm: format!("the hypervisor takes little CPU from this node: {figures}"),
        explanation: format!(
            "Steal of /proc/stat is time in which a CPU had work and the hypervisor ran somebody else. Medium from {}, high \
             from {}, cleared below {}. Nothing on this node causes it: the host is overcommitted, or the instance used up \
             its credits.",
            words::percent(c.share),
            words::percent(c.serious_share),
            words::percent(c.clear_share)
        ),
        facts: vec![
            Fact::new("steal_percent", format!("{:.2}", share * 100.0)),
            Fact::new("window_seconds", span.seconds.round()),
        ],
        ..Words::default()
    }
}

fn throttling_words(c: &ThrottleConfig, cgroup: &Cgroup, span: Option<Span<3>>) -> Words {
    let subject = group_subject(&cgroup.path, cgroup.pod.as_ref());
    let span = span.unwrap_or(Span { seconds: 0.0, delta: [0; 3] });
    let throttled_s = span.delta[2] as f64 / 1e6;
    let limit = cgroup.cpu_limit_cores.map_or_else(String::new, |l| format!(", limit {l:.2} CPUs"));
    let figures = format!(
        "{} of its periods, {throttled_s:.1} s in {}{limit}",
        words::percent(span.ratio(1, 0)),
        words::duration(span.seconds)
    );
    let mut facts = vec![
        Fact::new("throttled_periods_percent", format!("{:.2}", span.ratio(1, 0) * 100.0)),
        Fact::new("periods_number", span.delta[0]),
        Fact::new("throttled_seconds", format!("{throttled_s:.2}")),
        Fact::new("window_seconds", span.seconds.round()),
    ];
    facts.extend(cgroup.cpu_limit_cores.map(|l| Fact::new("limit_cores_number", l)));
    facts.extend(place_facts(&cgroup.path, cgroup.pod.as_ref()));
    Words {
        over: format!("{} {} is throttled: {figures}", subject.kind, subject.name),
        calm: format!("{} {} is hardly throttled any more: {figures}", subject.kind, subject.name),
        explanation: format!(
            "cpu.stat: in a throttled period the group used up its quota and its tasks waited for the next one. Low from {} \
             of the periods (CPUThrottlingHigh of the Kubernetes mixin), medium from {}, of at least {} periods and {} \
             throttled; cleared below {}. It adds latency and is not an outage; whether it hurts, the program's own \
             latency says.",
            words::percent(c.share),
            words::percent(c.serious_share),
            c.min_periods,
            words::duration(c.min_throttled.as_secs_f64()),
            words::percent(c.clear_share)
        ),
        facts,
        pod: cgroup.pod.clone(),
        ..Words::default()
    }
}

impl Detector for CpuDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        let sample = scene.sample;
        if let Some(cpu) = &sample.cpu {
            self.on_node(tick, scene, cpu, out);
        }
        for cgroup in &sample.cgroups {
            self.on_group(tick, cgroup, out);
        }
        if !sample.cgroups.is_empty() {
            self.periods.end();
        }
        self.watches[0].close(tick, false, out);
        self.watches[1].close(tick, false, out);
        self.watches[2].close(tick, !sample.cgroups.is_empty(), out);
    }

    several_watches!();
}
