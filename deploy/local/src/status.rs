//! The live status: drawn in place on a terminal, one line a change elsewhere.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

use dogwatch::wire;
use dogwatch_cli::harmless;
use jiff::Timestamp;

use crate::setup::Place;

/// Readings in a trend: two minutes at one a second.
const TREND: usize = 120;
/// Columns of a trend.
const TREND_COLUMNS: usize = 24;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What the collector answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) nodes: Vec<wire::NodeRow>,
    pub(crate) incidents: Vec<wire::Incident>,
    pub(crate) findings: Vec<wire::FindingRow>,
}

/// Where the status goes.
#[derive(Debug)]
pub(crate) struct Screen {
    plain: bool,
    state: PathBuf,
    collector: String,
    mode: &'static str,
    trends: HashMap<String, VecDeque<f64>>,
    records: Option<(u64, i64)>,
    drawn_lines: usize,
    last_plain: String,
    greeted: bool,
}

impl Screen {
    pub(crate) fn new(plain: bool, place: &Place) -> Self {
        Self {
            plain,
            state: place.state.clone(),
            collector: place.collector.to_string(),
            mode: place.mode.as_str(),
            trends: HashMap::new(),
            records: None,
            drawn_lines: 0,
            last_plain: String::new(),
            greeted: false,
        }
    }

    /// Draws what was answered, or why nothing was.
    pub(crate) fn draw(&mut self, view: Result<View, String>) {
        let mut out = io::stdout().lock();
        // A terminal that went away ends the program by its signal, not by an error here.
        let _ = if self.plain {
            let text = self.plain_text(view);
            out.write_all(text.as_bytes())
        } else {
            let text = self.frame(view);
            out.write_all(text.as_bytes())
        };
        let _ = out.flush();
    }

    /// Leaves the terminal as it should be.
    pub(crate) fn end(&mut self) {
        let _ = writeln!(io::stdout(), "\nstopping; everything is kept in {}", self.state.display());
    }

    fn plain_text(&mut self, view: Result<View, String>) -> String {
        let mut text = String::new();
        if !self.greeted {
            self.greeted = true;
            let _ = writeln!(
                text,
                "dogwatch is up: collector {}, state {}",
                self.collector,
                self.state.display()
            );
            text += &hints();
        }
        let line = match view {
            Err(e) => format!("no answer: {}", harmless(&e)),
            Ok(v) => {
                let state = v
                    .nodes
                    .first()
                    .map_or("no node yet".to_owned(), |n| format!("node {} {}", n.name, n.state));
                format!("{state}, {} active findings, {} open incidents", v.findings.len(), v.incidents.len())
            }
        };
        if line != self.last_plain {
            let _ = writeln!(text, "{} {line}", now());
            self.last_plain = line;
        }
        text
    }

    fn frame(&mut self, view: Result<View, String>) -> String {
        let mut lines = match view {
            Ok(v) => self.lines(&v, width()),
            Err(e) => vec![format!("no answer: {}", harmless(&e))],
        };
        // What scrolled out above cannot be drawn over.
        lines.truncate(height().saturating_sub(1).max(1));
        // Lines end at the edge: one that wraps, as wide characters can, would shift every later frame.
        let mut text = "\x1b[?7l".to_owned();
        if self.drawn_lines > 0 {
            let _ = write!(text, "\x1b[{}F", self.drawn_lines);
        }
        for line in &lines {
            let _ = writeln!(text, "\x1b[2K{}", cut(line, width()));
        }
        text += "\x1b[0J\x1b[?7h";
        self.drawn_lines = lines.len();
        text
    }

    fn lines(&mut self, view: &View, width: usize) -> Vec<String> {
        let mut lines =
            vec![format!("dogwatch · collector {} · cleanup mode {} · {}", self.collector, self.mode, now())];
        for node in &view.nodes {
            let total = node.records_total;
            let rate = match self.records.replace((total, node.sampled_wall_ns)) {
                Some((before, at)) if node.sampled_wall_ns > at => {
                    total.saturating_sub(before) as f64 / ((node.sampled_wall_ns - at) as f64 / 1e9)
                }
                _ => 0.0,
            };
            lines.push(format!(
                "node {} · {} · agent {} · {rate:.0} records/s",
                harmless(&node.name),
                node.state,
                harmless(&node.agent_version)
            ));
            for m in &node.mounts {
                lines.push(self.mount_line(m, width));
            }
            for u in node.unable.iter().take(4) {
                lines.push(format!("  cannot: {}", harmless(u)));
            }
        }
        lines.push(format!("findings: {} active", view.findings.len()));
        for row in view.findings.iter().take(5) {
            if let Some(f) = &row.finding {
                lines.push(format!("  {:<9} {}", severity(f.severity), harmless(&f.summary)));
            }
        }
        lines.push(format!("incidents: {} open", view.incidents.len()));
        for i in view.incidents.iter().take(5) {
            lines.push(format!(
                "  {} {:<9} {} ({})",
                harmless(&i.id),
                severity(i.severity),
                harmless(&i.title),
                i.state
            ));
        }
        lines.push(String::new());
        lines.extend(hints().lines().map(str::to_owned));
        lines.push("Ctrl-C ends it.".to_owned());
        lines
    }

    fn mount_line(&mut self, m: &wire::MountRow, width: usize) -> String {
        let used = 1.0 - m.available_bytes as f64 / (m.total_bytes.max(1)) as f64;
        let trend = self.trends.entry(m.path.clone()).or_default();
        if trend.len() == TREND {
            trend.pop_front();
        }
        trend.push_back(used);
        let full = match m.seconds_to_full {
            Some(s) => format!("full in {}", span(s)),
            None => "steady".to_owned(),
        };
        let path = harmless(&m.path);
        let room = width.saturating_sub(TREND_COLUMNS + 44).max(8);
        format!(
            "  {:<room$} {:>5.1}% {:>10} free {} {full}{}",
            cut(&path, room),
            used * 100.0,
            bytes(m.available_bytes),
            spark(trend),
            if m.read_only { " read-only" } else { "" },
        )
    }
}

fn hints() -> String {
    "try: cargo dogwatch get nodes\n     cargo dogwatch get events --since 5m\n     cargo dogwatch get incidents -o json\n"
        .to_owned()
}

fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

fn width() -> usize {
    terminal_size::terminal_size().map_or(100, |(w, _)| usize::from(w.0))
}

fn height() -> usize {
    terminal_size::terminal_size().map_or(40, |(_, h)| usize::from(h.0))
}

fn severity(value: i32) -> String {
    let known =
        wire::Severity::try_from(value).ok().and_then(|s| dogwatch::record::Severity::try_from(s).ok());
    known.map_or_else(|| "unknown".to_owned(), |s| s.to_string())
}

/// A trend over its own range, at least one per cent wide, so that noise does not look like a mountain.
fn spark(values: &VecDeque<f64>) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = (high - low).max(0.01);
    let step = values.len().div_ceil(TREND_COLUMNS).max(1);
    let drawn: String = values
        .iter()
        .rev()
        .step_by(step)
        .take(TREND_COLUMNS)
        .map(|v| BARS[(((v - low) / range) * 7.0).round().clamp(0.0, 7.0) as usize])
        .collect();
    format!("{:>TREND_COLUMNS$}", drawn.chars().rev().collect::<String>())
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn span(seconds: f64) -> String {
    match seconds as u64 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_is_as_wide_as_its_columns_and_noise_stays_flat() {
        let noise: VecDeque<f64> = (0..100).map(|i| 0.5 + f64::from(i % 2) * 0.0001).collect();
        let drawn = spark(&noise);
        assert_eq!(drawn.chars().count(), TREND_COLUMNS);
        assert!(drawn.trim_start().chars().all(|c| c == '▁'), "{drawn}");
        let rise: VecDeque<f64> = (0..100).map(|i| f64::from(i) / 100.0).collect();
        assert!(spark(&rise).ends_with('█'));
    }

    #[test]
    fn hostile_names_are_shown_not_obeyed() {
        let mut s = Screen {
            plain: false,
            state: "/s".into(),
            collector: "c".into(),
            mode: "plan",
            trends: HashMap::new(),
            records: None,
            drawn_lines: 0,
            last_plain: String::new(),
            greeted: false,
        };
        let view = View {
            nodes: vec![wire::NodeRow {
                name: "n".into(),
                mounts: vec![wire::MountRow {
                    path: "/m\x1b[2J".into(),
                    total_bytes: 10,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..View::default()
        };
        assert!(s.lines(&view, 80).iter().all(|l| !l.contains('\x1b')));
    }
}
