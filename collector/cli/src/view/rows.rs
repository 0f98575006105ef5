//! Rows of tables.

use dogwatch::record::Severity;

use super::{Action, Entry, Event, Finding, Incident, Mount, Node, Object};
use crate::output::Listed;
use crate::output::table::{Cell, Column};
use crate::output::text::{Paint, bar, bytes, count};
use crate::time::{Utc, span};

/// Cells of a usage bar.
const BAR_CELLS: usize = 10;

fn time(t: Option<Utc>) -> Cell {
    Cell::maybe(t.map(Utc::to_the_second))
}

pub(crate) fn severity(s: Option<Severity>) -> Cell {
    let Some(s) = s else { return Cell::maybe(None::<&str>) };
    let paint = match s {
        Severity::Info => Paint::Dim,
        Severity::Low => Paint::Plain,
        Severity::Medium => Paint::Notice,
        Severity::High => Paint::Bad,
        Severity::Critical => Paint::Worst,
    };
    Cell::painted(s.as_str(), paint)
}

/// The words of states, coloured by what they mean.
pub(crate) fn state(word: Option<&str>) -> Cell {
    let paint = match word {
        Some("connected" | "resolved" | "cleared" | "done" | "removed" | "cut" | "well" | "holding") => {
            Paint::Good
        }
        Some("open" | "silent" | "failed") => Paint::Bad,
        Some("raised" | "updated" | "acknowledged" | "refused" | "started" | "skipped" | "pending") => {
            Paint::Notice
        }
        Some(_) => Paint::Plain,
        None => return Cell::maybe(word),
    };
    Cell::painted(word.unwrap_or_default(), paint)
}

impl Mount {
    /// Used ÷ (used + available), as `df` prints it; `None` for a filesystem of no size.
    pub(crate) fn used_fraction(&self) -> Option<f64> {
        let all = self.used_bytes as f64 + self.available_bytes as f64;
        (all > 0.0).then(|| self.used_bytes as f64 / all)
    }

    /// The one with the largest share in use. One that is read-only, as images always are at 100 %, hides none that can
    /// be written to.
    pub(crate) fn fullest(mounts: &[Self]) -> Option<&Self> {
        let fullness = |m: &Self| m.used_fraction().unwrap_or(0.0);
        let order =
            |a: &&Self, b: &&Self| b.read_only.cmp(&a.read_only).then(fullness(a).total_cmp(&fullness(b)));
        mounts.iter().max_by(order)
    }
}

fn usage(fraction: Option<f64>) -> (Cell, Cell) {
    let Some(f) = fraction else { return (Cell::maybe(None::<&str>), Cell::new("")) };
    let paint = match f {
        0.95.. => Paint::Worst,
        0.85.. => Paint::Notice,
        _ => Paint::Plain,
    };
    // Like df: a filesystem is at 100 % only when it is.
    let percent = (f * 100.0).ceil().min(100.0);
    (Cell::painted(format!("{percent:.0} %"), paint), Cell::painted(bar(f, BAR_CELLS), paint))
}

/// When a filesystem will be full.
pub(crate) fn full_in(seconds: Option<f64>) -> Cell {
    match seconds {
        Some(s) if s <= 0.0 => Cell::painted("now", Paint::Worst),
        s => Cell::maybe(s.map(span)),
    }
}

impl Listed for Node {
    const PLURAL: &'static str = "nodes";

    fn columns(wide: bool) -> Vec<Column> {
        let mut c = vec![Column::flexible("NAME"), Column::left("STATE"), Column::left("LAST SEEN").weak(2)];
        if wide {
            c.extend([
                Column::left("VERSION"),
                Column::left("MODE"),
                Column::right("LOAD"),
                Column::right("MEMORY FREE"),
            ]);
        }
        c.push(Column::flexible(if wide { "MOUNT" } else { "FULLEST" }));
        if wide {
            c.extend([
                Column::left("FS"),
                Column::right("SIZE"),
                Column::right("USED"),
                Column::right("AVAIL"),
            ]);
        }
        c.extend([Column::right("USE"), Column::left("")]);
        if wide {
            c.push(Column::right("INODES FREE"));
        }
        c.push(Column::right("FULL IN").weak(1));
        c
    }

    /// One row with the fullest mount, or one a mount.
    fn rows(&self, wide: bool) -> Vec<Vec<Cell>> {
        let mut mounts: Vec<Option<&Mount>> = self.mounts.iter().map(Some).collect();
        if !wide {
            mounts = vec![Mount::fullest(&self.mounts)];
        } else if mounts.is_empty() {
            mounts.push(None);
        }
        mounts.into_iter().map(|m| self.row(m, wide)).collect()
    }

    /// Without when it was last seen, which changes all the time.
    fn looks(&self) -> String {
        let timeless = Self { last_seen: None, ..self.clone() };
        let rows = timeless.rows(false);
        rows.iter().flatten().map(Cell::text).collect::<Vec<_>>().join("\n")
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

impl Node {
    fn row(&self, mount: Option<&Mount>, wide: bool) -> Vec<Cell> {
        let mut r = vec![Cell::new(&self.name), state(self.state.as_deref()), time(self.last_seen)];
        if wide {
            let memory = self.memory_available_bytes.zip(self.memory_total_bytes);
            r.extend([
                Cell::maybe(self.agent_version.as_deref()),
                Cell::maybe(self.mode),
                Cell::maybe(self.load1.map(|l| format!("{l:.2}"))),
                Cell::maybe(memory.map(|(a, t)| format!("{} of {}", bytes(a), bytes(t)))),
            ]);
        }
        r.push(Cell::maybe(
            mount.map(|m| if m.read_only { format!("{} (read-only)", m.path) } else { m.path.clone() }),
        ));
        if wide {
            r.extend([
                Cell::maybe(mount.map(|m| m.fs.as_str())),
                Cell::maybe(mount.map(|m| bytes(m.total_bytes))),
                Cell::maybe(mount.map(|m| bytes(m.used_bytes))),
                Cell::maybe(mount.map(|m| bytes(m.available_bytes))),
            ]);
        }
        let (percent, drawn) = usage(mount.and_then(Mount::used_fraction));
        r.extend([percent, drawn]);
        if wide {
            r.push(Cell::maybe(mount.and_then(|m| m.inodes_free).map(count)));
        }
        r.push(full_in(mount.and_then(|m| m.seconds_to_full)));
        r
    }
}

impl Listed for Incident {
    const PLURAL: &'static str = "incidents";

    fn columns(wide: bool) -> Vec<Column> {
        let mut c = vec![
            Column::left("ID"),
            Column::left("SEVERITY"),
            Column::left("STATE"),
            Column::left("OPENED").weak(1),
        ];
        if wide {
            c.extend([
                Column::left("ACKNOWLEDGED").weak(4),
                Column::left("BY").weak(4),
                Column::left("RESOLVED").weak(3),
                Column::right("FINDINGS").weak(5),
                Column::right("ACTIONS").weak(5),
            ]);
        }
        c.extend([Column::flexible("NODES").weak(2), Column::flexible("TITLE")]);
        if wide {
            c.push(Column::flexible("REASON"));
        }
        c
    }

    fn rows(&self, wide: bool) -> Vec<Vec<Cell>> {
        let mut r = vec![
            Cell::new(&self.id),
            severity(self.severity),
            state(Some(&self.state)),
            time(self.opened_at),
        ];
        if wide {
            r.extend([
                time(self.acknowledged_at),
                Cell::maybe(self.acknowledged_by.clone()),
                time(self.resolved_at),
                Cell::new(self.findings.len().to_string()),
                Cell::new(self.actions.len().to_string()),
            ]);
        }
        r.extend([Cell::new(self.nodes.join(",")), Cell::new(&self.title)]);
        if wide {
            r.push(Cell::new(&self.reason));
        }
        vec![r]
    }

    fn name(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Listed for Finding {
    const PLURAL: &'static str = "findings";

    fn columns(wide: bool) -> Vec<Column> {
        let mut c = vec![
            Column::left("ID"),
            Column::left("TIME").weak(1),
            Column::flexible("NODE"),
            Column::left("SEVERITY"),
            Column::left("STATE").weak(2),
            Column::flexible("RULE").weak(3),
        ];
        if wide {
            c.extend([
                Column::flexible("SUBJECT"),
                Column::left("RAISED").weak(5),
                Column::left("CLEARED").weak(5),
                Column::left("INCIDENT").weak(4),
                Column::right("COUNT").weak(6),
            ]);
        }
        c.push(Column::flexible("SUMMARY"));
        c
    }

    fn rows(&self, wide: bool) -> Vec<Vec<Cell>> {
        let mut r = vec![
            Cell::new(&self.id),
            time(self.time),
            Cell::maybe(self.node.as_deref()),
            severity(self.severity),
            state(self.state),
            Cell::new(&self.rule),
        ];
        if wide {
            r.extend([
                Cell::maybe(self.subject.as_ref().map(|s| format!("{} {}", s.kind, s.name))),
                time(self.raised_at),
                time(self.cleared_at),
                Cell::maybe(self.incident.as_deref()),
                Cell::maybe(self.count.map(count)),
            ]);
        }
        r.push(Cell::new(&self.summary));
        vec![r]
    }

    fn name(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Listed for Action {
    const PLURAL: &'static str = "actions";

    fn columns(wide: bool) -> Vec<Column> {
        let mut c = vec![
            Column::left("ID"),
            Column::left("TIME").weak(1),
            Column::flexible("NODE"),
            Column::flexible("MOUNT"),
            Column::left("STATE"),
            Column::right("PLANNED"),
            Column::right("FREED"),
        ];
        if wide {
            c.extend([
                Column::left("MODE"),
                Column::right("BEFORE"),
                Column::right("AFTER"),
                Column::right("UNEXPLAINED"),
                Column::right("OBJECTS"),
                Column::right("REFUSED"),
                Column::left("INCIDENT"),
            ]);
        }
        c.extend([Column::flexible("ACTOR").weak(2), Column::flexible("REASON").weak(3)]);
        c
    }

    fn rows(&self, wide: bool) -> Vec<Vec<Cell>> {
        let mut r = vec![
            Cell::new(&self.id),
            time(self.time),
            Cell::new(&self.node),
            Cell::new(&self.mount),
            state(self.state),
            Cell::new(bytes(self.planned_bytes)),
            Cell::maybe(self.freed_bytes.map(bytes)),
        ];
        if wide {
            r.extend([
                Cell::maybe(self.mode),
                Cell::maybe(self.available_before_bytes.map(bytes)),
                Cell::maybe(self.available_after_bytes.map(bytes)),
                Cell::maybe(self.unexplained_bytes.map(crate::output::text::signed_bytes)),
                Cell::new(self.objects.len().to_string()),
                Cell::new(self.refused.len().to_string()),
                Cell::maybe(self.incident.as_deref()),
            ]);
        }
        r.extend([Cell::new(&self.actor), Cell::new(self.why())]);
        vec![r]
    }

    fn name(&self) -> Option<&str> {
        Some(&self.id)
    }
}

impl Listed for Object {
    const PLURAL: &'static str = "objects";

    fn columns(_wide: bool) -> Vec<Column> {
        vec![
            Column::right("TIER"),
            Column::right("FREES"),
            Column::left("OUTCOME").weak(2),
            Column::left("MODIFIED").weak(3),
            Column::left("CLEANER").weak(4),
            Column::flexible("PATH"),
            Column::flexible("WHY IT MAY GO"),
        ]
    }

    fn rows(&self, _wide: bool) -> Vec<Vec<Cell>> {
        vec![vec![
            Cell::new(self.tier.to_string()),
            Cell::new(bytes(self.allocated_bytes)),
            state(Some(self.outcome)),
            time(self.modified_at),
            Cell::new(&self.cleaner),
            Cell::new(&self.path),
            Cell::new(&self.why_safe),
        ]]
    }

    fn name(&self) -> Option<&str> {
        Some(&self.path)
    }
}

impl Listed for Event {
    const PLURAL: &'static str = "events";

    fn columns(wide: bool) -> Vec<Column> {
        let mut c = vec![
            Column::left("TIME"),
            Column::flexible("NODE"),
            Column::left("KIND"),
            Column::left("SEVERITY").weak(1),
            Column::flexible("SOURCE").weak(2),
            Column::flexible("MESSAGE"),
        ];
        if wide {
            c.push(Column::flexible("FIELDS"));
        }
        c
    }

    fn rows(&self, wide: bool) -> Vec<Vec<Cell>> {
        let mut r = vec![
            time(Some(self.time)),
            Cell::maybe(self.node.as_deref()),
            Cell::new(&self.kind),
            severity(self.severity),
            Cell::new(&self.source),
            Cell::new(&self.message),
        ];
        if wide {
            // A line has no room for the digests of dozens of files.
            let short = self.fields.iter().filter(|(k, _)| !(self.kind == "file" && k.starts_with("sha256")));
            let fields: Vec<_> = short.map(|(k, v)| format!("{k}={v}")).collect();
            r.push(Cell::maybe(Some(fields.join(" "))));
        }
        vec![r]
    }

    fn name(&self) -> Option<&str> {
        None
    }
}

impl Listed for Entry {
    const PLURAL: &'static str = "entries";

    fn columns(wide: bool) -> Vec<Column> {
        let mut c = vec![
            Column::left("TIME"),
            Column::flexible("NODE").weak(1),
            Column::left("KIND"),
            Column::left("SEVERITY").weak(2),
            Column::flexible("ACTOR").weak(3),
            Column::flexible("SUMMARY"),
        ];
        if wide {
            c.push(Column::flexible("EVIDENCE"));
        }
        c
    }

    fn rows(&self, wide: bool) -> Vec<Vec<Cell>> {
        let paint = match self.kind.as_str() {
            "recovered" => Paint::Good,
            "plan" | "cleanup" => Paint::Notice,
            "finding" => Paint::Bad,
            "state" | "note" => Paint::Bold,
            _ => Paint::Plain,
        };
        let mut r = vec![
            time(Some(self.time)),
            Cell::maybe(self.node.as_deref()),
            Cell::painted(&self.kind, paint),
            severity(self.severity),
            Cell::maybe(self.actor.as_deref()),
            Cell::new(&self.summary),
        ];
        if wide {
            let short = |i: &str| i.get(..8).unwrap_or(i).to_owned();
            let cited: Vec<_> = self
                .evidence
                .iter()
                .map(|e| format!("{}/{}/{}", short(&e.incarnation), e.stream, e.seq))
                .collect();
            r.push(Cell::maybe(Some(cited.join(" "))));
        }
        vec![r]
    }

    fn name(&self) -> Option<&str> {
        None
    }
}
