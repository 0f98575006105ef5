//! What is known: each node's newest sample, and a bounded history of the figures that rates and growth come from.

use std::collections::{BTreeMap, VecDeque};

use dogwatch::record::{Cgroup, Pod, Process, Sample};

use crate::view::{Node, Observed};

/// Points that are kept of each node; older ones give way.
pub(crate) const MAX_POINTS: usize = 180;
/// Nodes whose history is kept. Of further ones the newest two looks are.
const MAX_WITH_HISTORY: usize = 64;
/// Looks closer together than this give no rate.
const LEAST_APART_NS: i64 = 200_000_000;
/// A rate is of the newest stretch that is at least this long, so that one look more does not make it jump.
const RATE_OVER_NS: i64 = 5_000_000_000;

/// A pod's or a container's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Totals {
    pub(crate) cpu_us: Option<u64>,
    pub(crate) periods: Option<u64>,
    pub(crate) throttled: Option<u64>,
    pub(crate) working_set: Option<u64>,
    pub(crate) read: Option<u64>,
    pub(crate) written: Option<u64>,
}

/// Whose: namespace, pod, container (empty for a whole pod).
pub(crate) type PodKey = (String, String, String);

/// What rates and growth need of one sample.
#[derive(Debug, Clone, Default)]
pub(crate) struct Point {
    pub(crate) at: i64,
    /// Busy and all CPU time, µs.
    pub(crate) cpu: Option<(u64, u64)>,
    /// Used ÷ total.
    pub(crate) memory: Option<f64>,
    /// Per cent of 10 s, the worst of CPU, memory and I/O.
    pub(crate) pressure: Option<f64>,
    /// Used ÷ (used + available), by path.
    pub(crate) mounts: Vec<(String, f64)>,
    pub(crate) pods: Vec<(PodKey, Totals)>,
    /// Busy ms, bytes read, bytes written, time waited ms, requests.
    pub(crate) disks: Vec<(String, [u64; 5])>,
}

/// A node as it is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) node: Node,
    pub(crate) sample: Option<Sample>,
    /// Of the newest sample that had any: not every tick reads them.
    pub(crate) processes: Vec<Process>,
    pub(crate) cgroups: Vec<Cgroup>,
    pub(crate) points: VecDeque<Point>,
}

/// Every node that is watched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    pub(crate) nodes: BTreeMap<String, Watched>,
    /// How far back history reaches, ns.
    pub(crate) window_ns: i64,
    /// When it was last looked at, wall ns.
    pub(crate) looked_ns: i64,
}

impl Board {
    pub(crate) fn new(window_ns: i64) -> Self {
        Self { window_ns, ..Self::default() }
    }

    /// Takes what a look at all nodes showed; those that are gone are dropped.
    pub(crate) fn look(&mut self, seen: Vec<Observed>, now_ns: i64) {
        self.looked_ns = now_ns;
        let mut before = std::mem::take(&mut self.nodes);
        for observed in seen {
            let Observed { node, sample, .. } = observed;
            let mut watched = before.remove(&node.name).unwrap_or_else(|| Watched {
                node: node.clone(),
                sample: None,
                processes: Vec::new(),
                cgroups: Vec::new(),
                points: VecDeque::new(),
            });
            watched.node = node;
            if let Some((at, sample)) = sample {
                watched.take(at, &sample);
                watched.sample = Some(sample);
            }
            self.nodes.insert(watched.node.name.clone(), watched);
        }
        self.trim();
    }

    /// Takes what was recorded of `node` before.
    pub(crate) fn remember(&mut self, node: &str, past: &[(i64, Sample)]) {
        if let Some(watched) = self.nodes.get_mut(node) {
            past.iter().for_each(|(at, sample)| watched.take(*at, sample));
        }
        self.trim();
    }

    fn trim(&mut self) {
        for (n, watched) in self.nodes.values_mut().enumerate() {
            let newest = watched.points.back().map_or(0, |p| p.at);
            let most = if n < MAX_WITH_HISTORY { MAX_POINTS } else { 2 };
            while watched.points.len() > most
                || watched.points.front().is_some_and(|p| p.at < newest.saturating_sub(self.window_ns))
            {
                watched.points.pop_front();
            }
        }
    }
}

impl Watched {
    fn take(&mut self, at: i64, sample: &Sample) {
        let newest = self.points.back().is_none_or(|p| at > p.at);
        let place = self.points.partition_point(|p| p.at < at);
        if self.points.get(place).is_none_or(|p| p.at != at) {
            self.points.insert(place, Point::of(at, sample));
        }
        if !sample.processes.is_empty() && (newest || self.processes.is_empty()) {
            self.processes.clone_from(&sample.processes);
        }
        if !sample.cgroups.is_empty() && (newest || self.cgroups.is_empty()) {
            self.cgroups.clone_from(&sample.cgroups);
        }
    }

    /// The newest value and an older one, far enough apart for a rate, with the seconds between them.
    pub(crate) fn apart<T>(&self, of: impl Fn(&Point) -> Option<T>) -> Option<(T, T, f64)> {
        let mut known = self.points.iter().rev().filter_map(|p| of(p).map(|v| (p.at, v)));
        let (at, newest) = known.next()?;
        let mut older = None;
        for (then, value) in known {
            if at - then >= LEAST_APART_NS {
                older = Some((then, value));
                if at - then >= RATE_OVER_NS {
                    break;
                }
            }
        }
        let (then, value) = older?;
        Some((value, newest, (at - then) as f64 / 1e9))
    }

    /// The oldest and the newest value of the window, with the seconds between them.
    pub(crate) fn across<T>(&self, of: impl Fn(&Point) -> Option<T>) -> Option<(T, T, f64)> {
        let mut known = self.points.iter().filter_map(|p| of(p).map(|v| (p.at, v)));
        let (then, oldest) = known.next()?;
        let (at, newest) = known.last()?;
        Some((oldest, newest, (at - then) as f64 / 1e9))
    }

    /// Busy share of all CPUs over the newest stretch.
    pub(crate) fn cpu(&self) -> Option<f64> {
        let (old, new, _) = self.apart(|p| p.cpu)?;
        busy(old, new)
    }

    /// The same between each two neighbours.
    pub(crate) fn cpu_history(&self) -> Vec<Option<f64>> {
        let pairs = self.points.iter().zip(self.points.iter().skip(1));
        pairs.map(|(a, b)| busy(a.cpu?, b.cpu?)).collect()
    }

    pub(crate) fn history(&self, of: impl Fn(&Point) -> Option<f64>) -> Vec<Option<f64>> {
        self.points.iter().map(of).collect()
    }
}

fn busy(old: (u64, u64), new: (u64, u64)) -> Option<f64> {
    let all = new.1.checked_sub(old.1).filter(|n| *n > 0)?;
    // A core that went away takes its idle time along.
    Some((new.0.checked_sub(old.0)? as f64 / all as f64).min(1.0))
}

impl Point {
    fn of(at: i64, s: &Sample) -> Self {
        let cpu = s.cpu.as_ref().map(|c| {
            let busy = c.user_us + c.nice_us + c.system_us + c.irq_us + c.softirq_us + c.steal_us;
            (busy, busy + c.idle_us + c.iowait_us)
        });
        let memory = s.memory.as_ref().filter(|m| m.total_bytes > 0);
        let pressures = [
            s.cpu.as_ref().and_then(|c| c.pressure),
            s.cpu.as_ref().and_then(|c| c.io_pressure),
            s.memory.as_ref().and_then(|m| m.pressure),
        ];
        let used = |m: &dogwatch::record::Mount| {
            let all = m.used_bytes().saturating_add(m.available_bytes);
            (all > 0).then(|| m.used_bytes() as f64 / all as f64)
        };
        Self {
            at,
            cpu,
            memory: memory.map(|m| 1.0 - m.available_bytes.min(m.total_bytes) as f64 / m.total_bytes as f64),
            pressure: pressures.iter().flatten().map(|p| p.some_avg10).reduce(f64::max),
            mounts: s.mounts.iter().filter_map(|m| used(m).map(|u| (m.path.clone(), u))).collect(),
            pods: pods(&s.cgroups).into_iter().map(|(key, group)| (key, group.totals)).collect(),
            disks: s
                .disks
                .iter()
                .map(|d| {
                    let waited = d.read_time_ms_total.saturating_add(d.write_time_ms_total);
                    let requests = d.reads_total.saturating_add(d.writes_total);
                    let totals =
                        [d.busy_ms_total, d.read_bytes_total, d.written_bytes_total, waited, requests];
                    (d.name.clone(), totals)
                })
                .collect(),
        }
    }

    pub(crate) fn mount(&self, path: &str) -> Option<f64> {
        self.mounts.iter().find(|(p, _)| p == path).map(|(_, used)| *used)
    }

    pub(crate) fn pod(&self, key: &PodKey) -> Option<&Totals> {
        self.pods.iter().find(|(k, _)| k == key).map(|(_, totals)| totals)
    }

    pub(crate) fn disk(&self, name: &str) -> Option<[u64; 5]> {
        self.disks.iter().find(|(n, _)| n == name).map(|(_, totals)| *totals)
    }
}

/// A pod or a container, put together of its control groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) totals: Totals,
    pub(crate) cpu_limit: Option<f64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) oom_kills: Option<u64>,
    pub(crate) pids: Option<u64>,
}

/// Pods (with an empty container) and containers. With cgroup v1 one thing has a group in each controller: what one
/// lacks, another has. A pod without a group of its own is the sum of its containers.
pub(crate) fn pods(cgroups: &[Cgroup]) -> BTreeMap<PodKey, Group> {
    let mut all: BTreeMap<PodKey, Group> = BTreeMap::new();
    for c in cgroups {
        let Some(pod) = &c.pod else { continue };
        let group = all.entry(key(pod)).or_default();
        let t = &mut group.totals;
        t.cpu_us = t.cpu_us.or(c.cpu_us_total);
        t.periods = t.periods.or(c.periods_total);
        t.throttled = t.throttled.or(c.throttled_periods_total);
        t.working_set = t.working_set.or(c.working_set_bytes).or(c.memory_bytes);
        t.read = t.read.or(c.read_bytes_total);
        t.written = t.written.or(c.written_bytes_total);
        group.cpu_limit = group.cpu_limit.or(c.cpu_limit_cores);
        group.memory_limit = group.memory_limit.or(c.memory_limit_bytes);
        group.oom_kills = group.oom_kills.or(c.oom_kills_total);
        group.pids = group.pids.or(c.pids);
    }
    let mut sums: BTreeMap<PodKey, Group> = BTreeMap::new();
    for ((namespace, pod, container), g) in &all {
        if container.is_empty() {
            continue;
        }
        let sum = sums.entry((namespace.clone(), pod.clone(), String::new())).or_default();
        let add = |a: &mut Option<u64>, b: Option<u64>| {
            *a = match (*a, b) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (a, b) => a.or(b),
            };
        };
        let (s, t) = (&mut sum.totals, &g.totals);
        add(&mut s.cpu_us, t.cpu_us);
        add(&mut s.periods, t.periods);
        add(&mut s.throttled, t.throttled);
        add(&mut s.working_set, t.working_set);
        add(&mut s.read, t.read);
        add(&mut s.written, t.written);
        add(&mut sum.oom_kills, g.oom_kills);
        add(&mut sum.pids, g.pids);
        add(&mut sum.memory_limit, g.memory_limit);
        sum.cpu_limit = match (sum.cpu_limit, g.cpu_limit) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
    }
    // A pod is limited by its containers only where each of them is.
    for ((namespace, pod, container), g) in &all {
        if let Some(sum) = sums.get_mut(&(namespace.clone(), pod.clone(), String::new()))
            && !container.is_empty()
        {
            sum.memory_limit = sum.memory_limit.filter(|_| g.memory_limit.is_some());
            sum.cpu_limit = sum.cpu_limit.filter(|_| g.cpu_limit.is_some());
        }
    }
    for (key, sum) in sums {
        let own = all.entry(key).or_default();
        let (t, s) = (&mut own.totals, &sum.totals);
        t.cpu_us = t.cpu_us.or(s.cpu_us);
        // Throttling happens to containers; a pod's own group has no quota of its own unless all of them have one.
        (t.periods, t.throttled) = if t.periods.is_some_and(|p| p > 0) {
            (t.periods, t.throttled)
        } else {
            (s.periods, s.throttled)
        };
        t.working_set = t.working_set.or(s.working_set);
        t.read = t.read.or(s.read);
        t.written = t.written.or(s.written);
        own.oom_kills = own.oom_kills.max(sum.oom_kills);
        own.pids = own.pids.or(sum.pids);
        own.memory_limit = own.memory_limit.or(sum.memory_limit);
        own.cpu_limit = own.cpu_limit.or(sum.cpu_limit);
    }
    all
}

/// The pod's UID stands in for a name that is not known.
fn key(pod: &Pod) -> PodKey {
    let name = if pod.name.is_empty() { &pod.uid } else { &pod.name };
    let container = if pod.container.is_empty() { &pod.container_id } else { &pod.container };
    (pod.namespace.clone(), name.clone(), container.clone())
}
