//! `container-crash-loop`: a container of a pod is started again and again.
//!
//! A start is a container id that was not seen before for the same pod and container name, as control groups show. Where
//! names are not known (no log path told them), the containers of a pod cannot be told from its init containers, which
//! run one after the other; then more starts are needed, and the pod as a whole is the subject.
//!
//! Limits: [`MAX_CONTAINERS`]; a container that lives for less than the time between two readings of the control groups is
//! not seen; ids of one container beyond [`MAX_IDS`] are forgotten, the oldest first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dogwatch::record::{Fact, Finding, Pod, Severity, Subject};

use super::case::Tick;
use super::config::{CrashLoopConfig, DetectConfig, Hold};
use super::known::{Scene, pod_name};
use super::watch::{Detector, Verdict, Watch, Words, one_watch};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "container-crash-loop";

const MAX_CONTAINERS: usize = 4_096;
const MAX_IDS: usize = 32;
/// Starts whose times are kept; as many are a loop by any threshold.
const MAX_STARTS: usize = 64;
/// Readings of the control groups without a pod before it is taken for gone.
const GONE_AFTER: u64 = 3;

/// Watches the ids of containers.
#[derive(Debug)]
pub(super) struct CrashLoopDetector {
    config: CrashLoopConfig,
    watch: Watch,
    /// By pod uid and container name.
    containers: BTreeMap<(String, String), Container>,
    round: u64,
    began_ns: Option<u64>,
}

#[derive(Debug, Default)]
struct Container {
    pod: Pod,
    ids: VecDeque<String>,
    starts: VecDeque<u64>,
    /// The rounds in which it was first seen, and in which its pod was last.
    first: u64,
    seen: u64,
    /// Ids there at once, in a round; and the most that ever were.
    alive: (u64, usize),
    most_alive: usize,
}

impl CrashLoopDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let watch = Watch::new(RULE, Hold { raise_ticks: 1, clear_ticks: 1 }, config);
        Self {
            watch,
            config: config.crash_loop.clone(),
            containers: BTreeMap::new(),
            round: 0,
            began_ns: None,
        }
    }

    fn take(&mut self, now_ns: u64, scene: &Scene<'_>) {
        self.round += 1;
        let round = self.round;
        let mut pods: BTreeSet<&str> = BTreeSet::new();
        for cgroup in &scene.sample.cgroups {
            let Some(pod) = cgroup.pod.as_ref().filter(|p| !p.uid.is_empty()) else { continue };
            pods.insert(&pod.uid);
            if pod.container_id.is_empty() {
                continue;
            }
            let key = (pod.uid.clone(), pod.container.clone());
            if !self.containers.contains_key(&key) && self.containers.len() >= MAX_CONTAINERS {
                continue;
            }
            let first_sight = !self.containers.contains_key(&key);
            let c = self.containers.entry(key).or_default();
            if first_sight {
                (c.first, c.seen) = (round, round);
            }
            if c.alive.0 != round {
                c.alive = (round, 0);
            }
            c.alive.1 += 1;
            c.most_alive = c.most_alive.max(c.alive.1);
            if !c.ids.contains(&pod.container_id) {
                // Those that are there when the pod is first seen have not been started again.
                if c.first != round {
                    c.starts.push_back(now_ns);
                }
                c.ids.push_back(pod.container_id.clone());
            }
            while c.ids.len() > MAX_IDS {
                c.ids.pop_front();
            }
            while c.starts.len() > MAX_STARTS {
                c.starts.pop_front();
            }
            c.pod = pod.clone();
        }
        for ((uid, _), c) in &mut self.containers {
            if pods.contains(uid.as_str()) {
                c.seen = round;
            }
        }
        self.containers.retain(|_, c| round - c.seen < GONE_AFTER);
        let window_ns = self.config.window.as_nanos();
        for c in self.containers.values_mut() {
            while c.starts.front().is_some_and(|at| u128::from(now_ns.saturating_sub(*at)) >= window_ns) {
                c.starts.pop_front();
            }
        }
    }
}

/// What a finding about a container is about: not its present id, which changes with each start.
fn subject(pod: &Pod) -> Subject {
    let pod = Pod { container_id: String::new(), ..pod.clone() };
    Subject::new("pod", pod_name(&pod))
}

impl Detector for CrashLoopDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        if scene.sample.cgroups.is_empty() {
            self.watch.close(tick, false, out);
            return;
        }
        self.take(tick.at.boot_ns, scene);
        let c = &self.config;
        // Before a whole window was seen, no start is no news: an earlier run may have seen some.
        let began = *self.began_ns.get_or_insert(tick.at.boot_ns);
        let watched = u128::from(tick.at.boot_ns.saturating_sub(began)) >= c.window.as_nanos();
        for container in self.containers.values() {
            let pod = &container.pod;
            let starts = container.starts.len();
            let needed = match pod.container.is_empty() {
                // A pod that comes up starts each of its containers once.
                true => c.unnamed_restarts as usize + container.most_alive,
                false => c.restarts as usize,
            };
            let verdict = if starts >= needed {
                Verdict::Over(Severity::Medium)
            } else if starts == 0 && watched {
                Verdict::Calm
            } else {
                Verdict::Between
            };
            let words = || {
                let name = subject(pod).name;
                let window = words::duration(c.window.as_secs_f64());
                Words {
                    over: format!("container {name} was started again {starts} times in {window}"),
                    calm: format!("container {name} has not been started again for {window}"),
                    explanation: format!(
                        "Its control group had a new container id so often. Raised at {} new starts in {window} ({} where the \
                         container's name is not known, since init containers follow each other too); the kubelet waits 10 s \
                         before the first restart and up to 5 min before later ones. Cleared after {window} without one. \
                         Starts shorter than the time between two readings are not seen.",
                        c.restarts, c.unnamed_restarts
                    ),
                    facts: vec![
                        Fact::new("starts_number", starts),
                        Fact::new("window_seconds", c.window.as_secs()),
                        Fact::new("container_id_name", &pod.container_id),
                        Fact::new("pod_uid_name", &pod.uid),
                    ],
                    pod: Some(pod.clone()),
                    ..Words::default()
                }
            };
            self.watch.judge(tick, verdict, || subject(pod), words, out);
        }
        self.watch.close(tick, true, out);
    }

    one_watch!();
}
