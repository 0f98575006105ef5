//! Rows: what each view shows of the board, and how it is sorted.

use std::cmp::Ordering;

use dogwatch::record::Pressure;
use serde::Serialize;

use super::board::{Board, PodKey, Point, Watched, pods};
use crate::args::{Selectors, TopView};

/// What a column sorts by: figures from the greatest, words from A.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Key {
    Figure(Option<f64>),
    /// The least first: what is soonest.
    Soonest(Option<f64>),
    Word(String),
}

impl Key {
    /// The order of rows; what is not known comes last.
    fn order(&self, other: &Self) -> Ordering {
        let known_first = |a: Option<f64>, b: Option<f64>, f: fn(f64, f64) -> Ordering| match (a, b) {
            (Some(a), Some(b)) => f(a, b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        match (self, other) {
            (Self::Figure(a), Self::Figure(b)) => known_first(*a, *b, |a, b| b.total_cmp(&a)),
            (Self::Soonest(a), Self::Soonest(b)) => known_first(*a, *b, |a, b| a.total_cmp(&b)),
            (Self::Word(a), Self::Word(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

/// One row of any view.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Row {
    Node(NodeRow),
    Mount(MountRow),
    Pod(PodRow),
    Process(ProcessRow),
    Disk(DiskRow),
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeRow {
    pub(crate) node: String,
    pub(crate) state: Option<String>,
    pub(crate) cpu_fraction: Option<f64>,
    pub(crate) load1: Option<f64>,
    pub(crate) memory_used_fraction: Option<f64>,
    pub(crate) cpu_pressure_percent: Option<f64>,
    pub(crate) memory_pressure_percent: Option<f64>,
    pub(crate) io_pressure_percent: Option<f64>,
    pub(crate) fullest_mount: Option<String>,
    pub(crate) fullest_used_fraction: Option<f64>,
    pub(crate) seconds_to_full: Option<f64>,
    #[serde(skip)]
    pub(crate) cpu_history: Vec<Option<f64>>,
    #[serde(skip)]
    pub(crate) memory_history: Vec<Option<f64>>,
    #[serde(skip)]
    pub(crate) pressure_history: Vec<Option<f64>>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct MountRow {
    pub(crate) node: String,
    pub(crate) path: String,
    pub(crate) used_fraction: Option<f64>,
    pub(crate) used_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) inodes_used_fraction: Option<f64>,
    pub(crate) seconds_to_full: Option<f64>,
    pub(crate) read_only: bool,
    #[serde(skip)]
    pub(crate) history: Vec<Option<f64>>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct PodRow {
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: Option<String>,
    pub(crate) cpu_cores: Option<f64>,
    pub(crate) cpu_limit_cores: Option<f64>,
    pub(crate) throttled_fraction: Option<f64>,
    pub(crate) working_set_bytes: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) memory_limit_fraction: Option<f64>,
    pub(crate) growth_bytes: Option<i64>,
    pub(crate) growth_seconds: Option<f64>,
    pub(crate) read_bytes_per_s: Option<f64>,
    pub(crate) written_bytes_per_s: Option<f64>,
    pub(crate) oom_kills_total: Option<u64>,
    pub(crate) pids: Option<u64>,
    #[serde(skip)]
    pub(crate) history: Vec<Option<f64>>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ProcessRow {
    pub(crate) node: String,
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) namespace: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) cpu_percent: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) read_bytes_per_s: Option<f64>,
    pub(crate) written_bytes_per_s: Option<f64>,
    pub(crate) threads: u64,
    pub(crate) open_files: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct DiskRow {
    pub(crate) node: String,
    pub(crate) disk: String,
    pub(crate) busy_fraction: Option<f64>,
    pub(crate) read_bytes_per_s: Option<f64>,
    pub(crate) written_bytes_per_s: Option<f64>,
    pub(crate) wait_ms: Option<f64>,
    pub(crate) in_flight: u64,
    pub(crate) read_only: Option<bool>,
    pub(crate) io_errors_total: Option<u64>,
}

/// What is shown of the board.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) which: Selectors,
    pub(crate) containers: bool,
}

/// The rows of `view`, in no order yet.
pub(crate) fn rows(board: &Board, view: TopView, choice: &Choice) -> Vec<Row> {
    let chosen = board.nodes.values().filter(|w| choice.which.takes_node(Some(&w.node.name)));
    chosen
        .flat_map(|w| match view {
            TopView::Nodes => vec![Row::Node(node(w))],
            TopView::Mounts => mounts(w),
            TopView::Pods => pod_rows(w, choice),
            TopView::Processes => processes(w, choice),
            TopView::Disks => disks(w),
        })
        .collect()
}

/// Sorts by `column`, the greatest first (words from A, the soonest first); equals by name.
pub(crate) fn sort(rows: &mut [Row], column: usize, reverse: bool) {
    rows.sort_by(|a, b| {
        let order = a.keys()[column].order(&b.keys()[column]);
        let order = if reverse { order.reverse() } else { order };
        order.then_with(|| a.id().cmp(&b.id()))
    });
}

/// Names of the columns that `view` can be sorted by, the usual one first.
pub(crate) fn sorts(view: TopView) -> &'static [&'static str] {
    match view {
        TopView::Nodes => &["cpu", "memory", "pressure", "use", "full-in", "load", "name"],
        TopView::Mounts => &["full-in", "use", "available", "inodes", "name"],
        TopView::Pods => &["growth", "memory", "limit", "cpu", "throttled", "read", "written", "name"],
        TopView::Processes => &["cpu", "memory", "read", "written", "files", "name"],
        TopView::Disks => &["busy", "read", "written", "wait", "queue", "name"],
    }
}

fn node(w: &Watched) -> NodeRow {
    let cpu = w.sample.as_ref().and_then(|s| s.cpu.as_ref());
    let memory = w.sample.as_ref().and_then(|s| s.memory.as_ref());
    let avg = |p: Option<Pressure>| p.map(|p| p.some_avg10);
    let fullest = crate::view::Mount::fullest(&w.node.mounts);
    NodeRow {
        node: w.node.name.clone(),
        state: w.node.state.clone(),
        cpu_fraction: w.cpu(),
        load1: w.node.load1,
        memory_used_fraction: w.points.back().and_then(|p| p.memory),
        cpu_pressure_percent: avg(cpu.and_then(|c| c.pressure)),
        memory_pressure_percent: avg(memory.and_then(|m| m.pressure)),
        io_pressure_percent: avg(cpu.and_then(|c| c.io_pressure)),
        fullest_mount: fullest.map(|m| m.path.clone()),
        fullest_used_fraction: fullest.and_then(crate::view::Mount::used_fraction),
        seconds_to_full: w.node.mounts.iter().filter_map(|m| m.seconds_to_full).min_by(f64::total_cmp),
        cpu_history: w.cpu_history(),
        memory_history: w.history(|p| p.memory),
        pressure_history: w.history(|p| p.pressure.map(|v| v / 100.0)),
    }
}

fn mounts(w: &Watched) -> Vec<Row> {
    let row = |m: &crate::view::Mount| {
        let inodes = m.inodes_total.zip(m.inodes_free).filter(|(total, _)| *total > 0);
        Row::Mount(MountRow {
            node: w.node.name.clone(),
            path: m.path.clone(),
            used_fraction: m.used_fraction(),
            used_bytes: m.used_bytes,
            available_bytes: m.available_bytes,
            inodes_used_fraction: inodes.map(|(t, f)| 1.0 - f.min(t) as f64 / t as f64),
            seconds_to_full: m.seconds_to_full,
            read_only: m.read_only,
            history: w.history(|p| p.mount(&m.path)),
        })
    };
    w.node.mounts.iter().map(row).collect()
}

fn pod_rows(w: &Watched, choice: &Choice) -> Vec<Row> {
    // Containers are asked for by name, too.
    let containers = choice.containers || choice.which.container.is_some();
    let node = Some(w.node.name.as_str());
    let wanted = |k: &PodKey| k.2.is_empty() != containers && choice.which.takes_pod(node, &k.0, &k.1, &k.2);
    let groups = pods(&w.cgroups);
    groups
        .into_iter()
        .filter(|(key, _)| wanted(key))
        .map(|(key, g)| {
            let per_s = |of: fn(&super::board::Totals) -> Option<u64>| {
                let (old, new, seconds) = w.apart(|p: &Point| p.pod(&key).and_then(of))?;
                Some(new.checked_sub(old)? as f64 / seconds)
            };
            let throttled = w.apart(|p| p.pod(&key).and_then(|t| t.throttled.zip(t.periods))).and_then(
                |(old, new, _)| {
                    let periods = new.1.checked_sub(old.1)?;
                    let throttled = new.0.checked_sub(old.0)?;
                    Some(if periods == 0 { 0.0 } else { (throttled as f64 / periods as f64).min(1.0) })
                },
            );
            let growth = w.across(|p| p.pod(&key).and_then(|t| t.working_set));
            let limit = g.memory_limit.filter(|l| *l > 0);
            Row::Pod(PodRow {
                node: w.node.name.clone(),
                cpu_cores: per_s(|t| t.cpu_us).map(|us| us / 1e6),
                cpu_limit_cores: g.cpu_limit,
                throttled_fraction: throttled,
                working_set_bytes: g.totals.working_set,
                memory_limit_bytes: limit,
                memory_limit_fraction: g.totals.working_set.zip(limit).map(|(w, l)| w as f64 / l as f64),
                growth_bytes: growth.map(|(old, new, _)| {
                    i64::try_from(i128::from(new) - i128::from(old)).unwrap_or(i64::MAX)
                }),
                growth_seconds: growth.map(|(_, _, s)| s),
                read_bytes_per_s: per_s(|t| t.read),
                written_bytes_per_s: per_s(|t| t.written),
                oom_kills_total: g.oom_kills,
                pids: g.pids,
                history: w.history(|p| p.pod(&key).and_then(|t| t.working_set).map(|b| b as f64)),
                container: Some(key.2).filter(|c| !c.is_empty()),
                namespace: key.0,
                pod: key.1,
            })
        })
        .collect()
}

fn processes(w: &Watched, choice: &Choice) -> Vec<Row> {
    let node = Some(w.node.name.as_str());
    let wanted = |p: &&dogwatch::record::Process| match &p.pod {
        Some(pod) => choice.which.takes_pod(node, &pod.namespace, &pod.name, &pod.container),
        None => !choice.which.of_pods(),
    };
    let row = |p: &dogwatch::record::Process| {
        Row::Process(ProcessRow {
            node: w.node.name.clone(),
            pid: p.pid,
            name: p.name.clone(),
            state: p.state.to_string(),
            namespace: p.pod.as_ref().map(|p| p.namespace.clone()),
            pod: p.pod.as_ref().map(|p| if p.name.is_empty() { p.uid.clone() } else { p.name.clone() }),
            cpu_percent: p.cpu_percent,
            resident_bytes: p.resident_bytes,
            read_bytes_per_s: p.read_bytes_per_s,
            written_bytes_per_s: p.written_bytes_per_s,
            threads: p.threads,
            open_files: p.open_files,
        })
    };
    w.processes.iter().filter(wanted).map(row).collect()
}

fn disks(w: &Watched) -> Vec<Row> {
    let disks = w.sample.iter().flat_map(|s| &s.disks);
    disks
        .map(|d| {
            let over = w.apart(|p| p.disk(&d.name)).and_then(|(old, new, seconds)| {
                let mut delta = [0.0; 5];
                for ((d, n), o) in delta.iter_mut().zip(new).zip(old) {
                    *d = n.checked_sub(o)? as f64;
                }
                Some((delta, seconds))
            });
            Row::Disk(DiskRow {
                node: w.node.name.clone(),
                disk: d.name.clone(),
                busy_fraction: over.map(|(d, s)| (d[0] / 1000.0 / s).min(1.0)),
                read_bytes_per_s: over.map(|(d, s)| d[1] / s),
                written_bytes_per_s: over.map(|(d, s)| d[2] / s),
                wait_ms: over.map(|(d, _)| if d[4] > 0.0 { d[3] / d[4] } else { 0.0 }),
                in_flight: d.in_flight,
                read_only: d.read_only,
                io_errors_total: d.io_errors_total,
            })
        })
        .collect()
}

impl Row {
    /// What makes it the same row at the next look.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Node(r) => r.node.clone(),
            Self::Mount(r) => format!("{}\n{}", r.node, r.path),
            Self::Pod(r) => {
                format!("{}\n{}\n{}\n{}", r.node, r.namespace, r.pod, r.container.as_deref().unwrap_or(""))
            }
            Self::Process(r) => format!("{}\n{:010}", r.node, r.pid),
            Self::Disk(r) => format!("{}\n{}", r.node, r.disk),
        }
    }

    pub(crate) fn node(&self) -> &str {
        match self {
            Self::Node(r) => &r.node,
            Self::Mount(r) => &r.node,
            Self::Pod(r) => &r.node,
            Self::Process(r) => &r.node,
            Self::Disk(r) => &r.node,
        }
    }

    /// As [`sorts`] names them.
    fn keys(&self) -> Vec<Key> {
        let f = Key::Figure;
        let n = |n: Option<u64>| Key::Figure(n.map(|n| n as f64));
        match self {
            Self::Node(r) => {
                let pressure = [r.cpu_pressure_percent, r.memory_pressure_percent, r.io_pressure_percent];
                vec![
                    f(r.cpu_fraction),
                    f(r.memory_used_fraction),
                    f(pressure.into_iter().flatten().reduce(f64::max)),
                    f(r.fullest_used_fraction),
                    Key::Soonest(r.seconds_to_full),
                    f(r.load1),
                    Key::Word(r.node.clone()),
                ]
            }
            Self::Mount(r) => vec![
                // Those that do not fill have no time: behind the others, the fullest first.
                Key::Soonest(Some(
                    r.seconds_to_full.unwrap_or(1e15 * (2.0 - r.used_fraction.unwrap_or(0.0))),
                )),
                f(r.used_fraction),
                Key::Soonest(Some(r.available_bytes as f64)),
                f(r.inodes_used_fraction),
                Key::Word(format!("{}\n{}", r.path, r.node)),
            ],
            Self::Pod(r) => vec![
                f(r.growth_bytes.map(|g| g as f64)),
                n(r.working_set_bytes),
                f(r.memory_limit_fraction),
                f(r.cpu_cores),
                f(r.throttled_fraction),
                f(r.read_bytes_per_s),
                f(r.written_bytes_per_s),
                Key::Word(format!("{}\n{}", r.namespace, r.pod)),
            ],
            Self::Process(r) => vec![
                f(Some(r.cpu_percent)),
                n(Some(r.resident_bytes)),
                f(r.read_bytes_per_s),
                f(r.written_bytes_per_s),
                n(r.open_files),
                Key::Word(r.name.clone()),
            ],
            Self::Disk(r) => vec![
                f(r.busy_fraction),
                f(r.read_bytes_per_s),
                f(r.written_bytes_per_s),
                f(r.wait_ms),
                n(Some(r.in_flight)),
                Key::Word(r.disk.clone()),
            ],
        }
    }
}
