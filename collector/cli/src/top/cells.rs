//! Cells: the columns of each view, and how a row fills them.

use super::rows::Row;
use crate::args::TopView;
use crate::output::Listed;
use crate::output::table::{Cell, Column};
use crate::output::text::{Paint, bytes, rate, signed_bytes, spark};

/// Cells of a sparkline in a table.
const SPARK: usize = 12;

impl Row {
    pub(crate) fn columns_of(view: TopView) -> Vec<Column> {
        let (l, r, x) = (Column::left, Column::right, Column::flexible);
        match view {
            TopView::Nodes => vec![
                x("NODE"),
                l("STATE").weak(4),
                r("CPU"),
                l("").weak(6),
                r("LOAD").weak(7),
                r("MEM"),
                l("").weak(6),
                r("PSI").weak(3),
                l("").weak(8),
                x("FULLEST").weak(2),
                r("USE").weak(1),
                r("FULL IN").weak(5),
            ],
            TopView::Mounts => vec![
                x("NODE").weak(3),
                x("MOUNT"),
                r("USE"),
                l("").weak(4),
                r("USED").weak(6),
                r("AVAIL").weak(2),
                r("INODES").weak(5),
                r("FULL IN"),
            ],
            TopView::Pods => vec![
                x("NODE").weak(5),
                x("POD"),
                r("GROWTH"),
                r("MEM"),
                l("").weak(6),
                r("LIMIT").weak(2),
                r("CPU").weak(1),
                r("THROTTLED").weak(3),
                r("READ").weak(7),
                r("WRITTEN").weak(4),
                r("OOM").weak(8),
            ],
            TopView::Processes => vec![
                x("NODE").weak(3),
                r("PID"),
                x("NAME"),
                r("CPU"),
                r("MEM"),
                l("S").weak(7),
                r("READ").weak(6),
                r("WRITTEN").weak(4),
                r("FILES").weak(8),
                x("POD").weak(2),
            ],
            TopView::Disks => vec![
                x("NODE").weak(2),
                x("DISK"),
                r("BUSY"),
                r("READ"),
                r("WRITTEN"),
                r("WAIT").weak(1),
                r("QUEUE").weak(3),
                r("ERRORS").weak(4),
            ],
        }
    }
}

fn percent(fraction: Option<f64>, notice: f64, bad: f64) -> Cell {
    let Some(f) = fraction else { return Cell::maybe(None::<&str>) };
    let paint = if f >= bad {
        Paint::Bad
    } else if f >= notice {
        Paint::Notice
    } else {
        Paint::Plain
    };
    Cell::painted(format!("{:.0} %", f * 100.0), paint)
}

fn maybe_rate(r: Option<f64>) -> Cell {
    Cell::maybe(r.map(rate))
}

fn drawn(history: &[Option<f64>], top: Option<f64>) -> Cell {
    let known = history.iter().flatten().count();
    Cell::painted(if known > 1 { spark(history, SPARK, top) } else { " ".repeat(SPARK) }, Paint::Good)
}

impl Listed for Row {
    const PLURAL: &'static str = "rows";

    /// Columns differ by view: whoever lists takes [`Row::columns_of`].
    fn columns(_wide: bool) -> Vec<Column> {
        Vec::new()
    }

    fn rows(&self, _wide: bool) -> Vec<Vec<Cell>> {
        let figure = |v: Option<f64>| Cell::maybe(v.map(|v| format!("{v:.2}")));
        vec![match self {
            Self::Node(r) => {
                let psi = [r.cpu_pressure_percent, r.memory_pressure_percent, r.io_pressure_percent];
                let psi = psi.into_iter().flatten().reduce(f64::max).map(|p| p / 100.0);
                vec![
                    Cell::new(&r.node),
                    crate::view::state(r.state.as_deref()),
                    percent(r.cpu_fraction, 0.8, 0.95),
                    drawn(&r.cpu_history, Some(1.0)),
                    figure(r.load1),
                    percent(r.memory_used_fraction, 0.85, 0.95),
                    drawn(&r.memory_history, Some(1.0)),
                    percent(psi, 0.2, 0.5),
                    drawn(&r.pressure_history, Some(1.0)),
                    Cell::maybe(r.fullest_mount.as_deref()),
                    percent(r.fullest_used_fraction, 0.85, 0.95),
                    crate::view::full_in(r.seconds_to_full),
                ]
            }
            Self::Mount(r) => {
                let path = if r.read_only { format!("{} (read-only)", r.path) } else { r.path.clone() };
                vec![
                    Cell::new(&r.node),
                    Cell::new(path),
                    percent(r.used_fraction, 0.85, 0.95),
                    drawn(&r.history, Some(1.0)),
                    Cell::new(bytes(r.used_bytes)),
                    Cell::new(bytes(r.available_bytes)),
                    percent(r.inodes_used_fraction, 0.85, 0.95),
                    crate::view::full_in(r.seconds_to_full),
                ]
            }
            Self::Pod(r) => {
                let mut name = format!("{}/{}", r.namespace, r.pod);
                if let Some(container) = &r.container {
                    name.push('/');
                    name.push_str(container);
                }
                let cpu = r.cpu_cores.map(|c| match r.cpu_limit_cores {
                    Some(limit) => format!("{c:.2} of {limit:.2}"),
                    None => format!("{c:.2}"),
                });
                let grew = r.growth_bytes.is_some_and(|g| g > 64 << 20);
                vec![
                    Cell::new(&r.node),
                    Cell::new(name),
                    match r.growth_bytes {
                        Some(g) if grew => Cell::painted(signed_bytes(g), Paint::Notice),
                        g => Cell::maybe(g.map(signed_bytes)),
                    },
                    Cell::maybe(r.working_set_bytes.map(bytes)),
                    drawn(&r.history, None),
                    percent(r.memory_limit_fraction, 0.8, 0.95),
                    Cell::maybe(cpu),
                    percent(r.throttled_fraction, 0.1, 0.5),
                    maybe_rate(r.read_bytes_per_s),
                    maybe_rate(r.written_bytes_per_s),
                    Cell::maybe(r.oom_kills_total.map(|n| n.to_string())),
                ]
            }
            Self::Process(r) => {
                let pod = r.pod.as_ref().map(|p| format!("{}/{p}", r.namespace.as_deref().unwrap_or("")));
                vec![
                    Cell::new(&r.node),
                    Cell::new(r.pid.to_string()),
                    Cell::new(&r.name),
                    percent(Some(r.cpu_percent / 100.0), 0.8, 2.0),
                    Cell::new(bytes(r.resident_bytes)),
                    Cell::new(&r.state),
                    maybe_rate(r.read_bytes_per_s),
                    maybe_rate(r.written_bytes_per_s),
                    Cell::maybe(r.open_files.map(|n| n.to_string())),
                    Cell::maybe(pod),
                ]
            }
            Self::Disk(r) => {
                let disk = if r.read_only == Some(true) {
                    format!("{} (read-only)", r.disk)
                } else {
                    r.disk.clone()
                };
                vec![
                    Cell::new(&r.node),
                    Cell::new(disk),
                    percent(r.busy_fraction, 0.7, 0.95),
                    maybe_rate(r.read_bytes_per_s),
                    maybe_rate(r.written_bytes_per_s),
                    Cell::maybe(r.wait_ms.map(|w| format!("{w:.1} ms"))),
                    Cell::new(r.in_flight.to_string()),
                    Cell::maybe(r.io_errors_total.map(|n| n.to_string())),
                ]
            }
        }]
    }

    fn name(&self) -> Option<&str> {
        Some(match self {
            Self::Node(r) => &r.node,
            Self::Mount(r) => &r.path,
            Self::Pod(r) => &r.pod,
            Self::Process(r) => &r.name,
            Self::Disk(r) => &r.disk,
        })
    }
}
