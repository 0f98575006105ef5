//! Pictures for a terminal: how a disk or the memory went before and during an incident, and a timeline with a gutter.
//! In a pipe the same is told in tables.

use std::collections::BTreeSet;

use super::incident::heading;
use crate::ask;
use crate::client::Desk;
use crate::error::CliError;
use crate::output::Io;
use crate::output::text::{Paint, fit, safe, spark, width, wrapped};
use crate::range::Range;
use crate::time::Utc;
use crate::view::{Detail, Entry, sampled};

/// Subjects that are drawn; an incident of many shows the first.
const MAX_TRENDS: usize = 6;
/// Before the incident, ns: how it came to that.
const BEFORE_NS: i64 = 30 * 60 * 1_000_000_000;
/// After it, ns.
const AFTER_NS: i64 = 5 * 60 * 1_000_000_000;
/// Samples of a node that are asked for.
const MAX_SAMPLES: u32 = 2_000;
/// Cells of a sparkline at most.
const SPARK_CELLS: usize = 48;

/// How one figure went, each value between 0 and 1.
#[derive(Debug)]
pub(super) struct Trend {
    what: String,
    from: Utc,
    to: Utc,
    values: Vec<Option<f64>>,
}

/// The trends of what the findings are about. A picture that cannot be had is left out: the words say it all.
pub(super) async fn trends(desk: &mut Desk, detail: &Detail, now_ns: i64) -> Vec<Trend> {
    let mut wanted = BTreeSet::new();
    for f in &detail.finding_details {
        let (Some(node), Some(subject)) = (&f.node, &f.subject) else { continue };
        if subject.kind == "mount" {
            wanted.insert((node.clone(), Some(subject.name.clone())));
        } else if subject.kind == "memory" || f.rule.contains("oom") || f.rule.contains("memory") {
            wanted.insert((node.clone(), None));
        }
    }
    let opened = detail.incident.opened_at.map_or(now_ns, |t| t.0);
    let ended = detail.incident.resolved_at.map_or(now_ns, |t| t.0);
    let range = Range {
        since: Some(opened.saturating_sub(BEFORE_NS)),
        until: Some(ended.saturating_add(AFTER_NS).min(now_ns.max(opened.saturating_add(1)))),
    };
    let mut drawn = Vec::new();
    for (node, mount) in wanted.into_iter().take(MAX_TRENDS) {
        if let Ok(Some(trend)) = trend(desk, &node, mount.as_deref(), range).await {
            drawn.push(trend);
        }
    }
    drawn
}

async fn trend(
    desk: &mut Desk,
    node: &str,
    mount: Option<&str>,
    range: Range,
) -> Result<Option<Trend>, CliError> {
    let mut answers = desk.samples(ask::samples(node, range, MAX_SAMPLES)).await?;
    let mut points = Vec::new();
    while let Some(row) = answers.next().await? {
        let Ok((at, sample)) = sampled(row) else { continue };
        let value = match mount {
            Some(path) => sample.mounts.iter().find(|m| m.path == path).and_then(|m| {
                let all = m.used_bytes() + m.available_bytes;
                (all > 0).then(|| m.used_bytes() as f64 / all as f64)
            }),
            None => sample
                .memory
                .as_ref()
                .filter(|m| m.total_bytes > 0)
                .map(|m| 1.0 - m.available_bytes as f64 / m.total_bytes as f64),
        };
        points.extend(value.map(|v| (at, v)));
    }
    points.sort_by_key(|(at, _)| *at);
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(None) };
    if points.len() < 2 {
        return Ok(None);
    }
    let what = match mount {
        Some(path) => format!("{path} on {node}"),
        None => format!("memory of {node}"),
    };
    let (from, to) = (first.0, last.0);
    Ok(Some(Trend { what, from: Utc(from), to: Utc(to), values: in_cells(&points, from, to) }))
}

/// The greatest value of each of [`SPARK_CELLS`] equal stretches of time, so that a peak is never averaged away.
fn in_cells(points: &[(i64, f64)], from: i64, to: i64) -> Vec<Option<f64>> {
    let span = i128::from(to).saturating_sub(i128::from(from)).max(1);
    let mut cells = vec![None; SPARK_CELLS];
    for (at, value) in points {
        let i = (i128::from(*at) - i128::from(from)) * (SPARK_CELLS as i128 - 1) / span;
        if let Some(cell) = usize::try_from(i).ok().and_then(|i| cells.get_mut(i)) {
            *cell = Some(cell.map_or(*value, |c: f64| c.max(*value)));
        }
    }
    // Fewer samples than cells leave blanks that mean nothing: what was last known holds until the next.
    let mut last = None;
    for cell in &mut cells {
        last = cell.or(last);
        *cell = last;
    }
    cells
}

pub(super) fn write(io: &mut Io<'_>, trends: &[Trend]) -> Result<(), CliError> {
    let Some(columns) = io.terminal.columns.filter(|_| !trends.is_empty()) else { return Ok(()) };
    heading(io, "\nTrend")?;
    for trend in trends {
        let percent = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{:.0} %", v * 100.0));
        let peak = trend.values.iter().flatten().copied().fold(0.0, f64::max);
        let figures = format!(
            "{} → {}, at most {}",
            percent(trend.values.first().copied().flatten()),
            percent(trend.values.last().copied().flatten()),
            percent(Some(peak))
        );
        let cells = SPARK_CELLS.min(columns.saturating_sub(4));
        // The newest cells are the ones that matter where not all have room.
        let drawn = spark(&trend.values, cells, Some(1.0));
        let paint = if peak >= 0.9 { Paint::Bad } else { Paint::Notice };
        let head =
            format!("{}  {} to {}", safe(&trend.what), trend.from.to_the_second(), trend.to.to_the_second());
        writeln!(io.out, "{}", fit(&format!("  {head}"), columns))?;
        if cells + 4 + width(&figures) <= columns {
            writeln!(io.out, "  {}  {figures}", paint.on(&drawn, io.terminal.color))?;
        } else {
            writeln!(io.out, "  {}", paint.on(&drawn, io.terminal.color))?;
            writeln!(io.out, "{}", fit(&format!("  {figures}"), columns))?;
        }
    }
    Ok(())
}

/// A timeline under way: a heading for each day, then a mark for each entry with its words beside the line.
pub(super) struct Gutter {
    columns: usize,
    day: String,
    entries: u64,
}

impl Gutter {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, day: String::new(), entries: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(super) fn entry(&mut self, io: &mut Io<'_>, entry: &Entry) -> Result<(), CliError> {
        self.entries += 1;
        let color = io.terminal.color;
        let whole = entry.time.to_the_second();
        let (day, time) = whole.split_once('T').unwrap_or((&whole, ""));
        if day != self.day {
            writeln!(io.out, "{}", Paint::Bold.on(&fit(day, self.columns), color))?;
            day.clone_into(&mut self.day);
        }
        let (mark, paint) = mark(&entry.kind);
        let time = time.trim_end_matches('Z');
        let who = [entry.node.as_deref(), entry.actor.as_deref().filter(|a| *a != "node")];
        let who: Vec<_> = who.into_iter().flatten().collect();
        let head = format!("{}  {}", entry.kind, who.join(", "));
        let indent = 11;
        let room = self.columns.saturating_sub(indent);
        if room < 8 {
            // Too narrow for a gutter: a line each.
            let line = format!("{time} {mark} {}", safe(&entry.summary));
            writeln!(io.out, "{}", fit(&line, self.columns))?;
            return Ok(());
        }
        let shown = safe(&head).trim_end().to_owned();
        writeln!(io.out, "{time:>8} {} {}", paint.on(mark, color), Paint::Dim.on(&fit(&shown, room), color))?;
        for line in wrapped(&safe(&entry.summary), room) {
            writeln!(io.out, "         {} {line}", Paint::Dim.on("│", color))?;
        }
        Ok(())
    }
}

fn mark(kind: &str) -> (&'static str, Paint) {
    match kind {
        "finding" => ("●", Paint::Bad),
        "plan" => ("◆", Paint::Notice),
        "cleanup" => ("◆", Paint::Notice),
        "recovered" => ("✓", Paint::Good),
        "state" | "note" => ("○", Paint::Bold),
        "gap" => ("✗", Paint::Notice),
        _ => ("·", Paint::Plain),
    }
}
