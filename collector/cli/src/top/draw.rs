//! How the picture looks: lines of painted pieces, as many and as wide as the terminal has room for. The same tables
//! as in a pipe, with a heading, a selected row and keys around them.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::board::{Board, Watched};
use super::rows::{self, Choice, Row};
use super::ui::Ui;
use crate::args::TopView;
use crate::output::Listed as _;
use crate::output::plain::ascii;
use crate::output::table::{Line, Table};
use crate::output::text::{Paint, fit, safe, spark, width};
use crate::time::Utc;

/// Rows of each part of a node's page.
const OF_EACH: usize = 8;
/// Lines around the table: title, summary, keys.
const AROUND: usize = 3;

/// Keys, in words; the first ones are on the last line.
const KEYS: &[(&str, &str)] = &[
    ("q", "end"),
    ("?", "these keys"),
    ("← → 1-5", "nodes, mounts, pods, processes, disks"),
    ("↑ ↓ PgUp PgDn", "another row"),
    ("Enter", "all of the row's node; Esc goes back"),
    ("s S", "sort by the next or the previous column"),
    ("r", "the other way round"),
    ("c", "pods: container by container"),
    ("Space", "stop looking, look on"),
];

/// The table of `view`: its head and sorted rows.
pub(crate) fn table(
    board: &Board,
    view: TopView,
    choice: &Choice,
    sort: (usize, bool),
    columns: Option<usize>,
) -> (Vec<Line>, Vec<Row>) {
    let mut found = rows::rows(board, view, choice);
    rows::sort(&mut found, sort.0, sort.1);
    let cells = found.iter().flat_map(|r| r.rows(false)).collect();
    (Table::new(Row::columns_of(view), columns, false).lines(cells), found)
}

/// The whole picture. Settles which row is selected, since only here it is known how many there are.
pub(crate) fn picture(ui: &mut Ui, board: &Board, columns: usize, height: usize) -> Vec<Line> {
    let mut lines = vec![title(ui, board)];
    if ui.help {
        lines.extend(help());
    } else if let Some(name) = ui.node.clone() {
        match board.nodes.get(&name) {
            Some(watched) => lines.extend(page(ui, board, watched, columns)),
            None => lines.push(plain(format!("{} is not known any more; Esc goes back", safe(&name)))),
        }
    } else {
        lines.push(summary(ui, board));
        let sort = (ui.sort(), ui.reverse);
        let (mut shown, found) = table(board, ui.view, &ui.choice, sort, Some(columns));
        let room = height.saturating_sub(AROUND + 1).max(1);
        ui.page = room;
        ui.selected = ui.selected.min(found.len().saturating_sub(1));
        ui.selected_node = found.get(ui.selected).map(|r| r.node().to_owned());
        let rest = shown.split_off(1.min(shown.len()));
        lines.extend(shown);
        let first = ui.selected.saturating_sub(room - 1);
        for (i, mut line) in rest.into_iter().enumerate().skip(first).take(room) {
            if i == ui.selected {
                select(&mut line, columns);
            }
            lines.push(line);
        }
        if found.is_empty() {
            lines.push(plain(nothing(ui.view).to_owned()));
        }
    }
    lines.truncate(height.saturating_sub(1));
    while lines.len() + 1 < height {
        lines.push(Line::new());
    }
    lines.push(last(ui));
    lines.truncate(height);
    lines.into_iter().map(|l| cut(l, columns)).collect()
}

fn plain(text: String) -> Line {
    vec![(text, Paint::Plain)]
}

fn title(ui: &Ui, board: &Board) -> Line {
    let what = match &ui.node {
        Some(node) => format!("node {}", safe(node)),
        None => ui.view.as_str().to_owned(),
    };
    let sort = rows::sorts(ui.view).get(ui.sort()).copied().unwrap_or_default();
    let order = if ui.reverse { ", reversed" } else { "" };
    let by = if ui.node.is_none() { format!("  by {sort}{order}") } else { String::new() };
    let paused = if ui.paused { "  (stopped)" } else { "" };
    vec![
        (format!("{} top · {what}", ui.called), Paint::Bold),
        (format!("{by}  {}{paused}", Utc(board.looked_ns).to_the_second()), Paint::Dim),
    ]
}

fn summary(ui: &Ui, board: &Board) -> Line {
    let chosen = board.nodes.values().filter(|w| ui.choice.which.takes_node(Some(&w.node.name)));
    let (mut all, mut away, mut soon) = (0_u64, 0_u64, None::<(f64, String)>);
    for w in chosen {
        all += 1;
        away += u64::from(w.node.state.as_deref() != Some("connected"));
        for m in &w.node.mounts {
            if let Some(s) = m.seconds_to_full
                && soon.as_ref().is_none_or(|(least, _)| s < *least)
            {
                soon = Some((s, format!("{} on {}", m.path, w.node.name)));
            }
        }
    }
    let mut line = plain(format!("{all} nodes"));
    if away > 0 {
        line.push((format!(", {away} not connected"), Paint::Bad));
    }
    match soon {
        Some((seconds, what)) if seconds <= 0.0 => {
            line.push((format!(", full: {}", safe(&what)), Paint::Worst));
        }
        Some((seconds, what)) => line.push((
            format!(", next to be full: {} in {}", safe(&what), crate::time::span(seconds)),
            Paint::Notice,
        )),
        None => {}
    }
    line
}

/// All of one node: its figures with their history, then the first of its mounts, pods and processes.
fn page(ui: &Ui, board: &Board, w: &Watched, columns: usize) -> Vec<Line> {
    let cells = columns.saturating_sub(24).clamp(8, 60);
    let percent = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{:.0} %", v * 100.0));
    let drawn = |name: &str, now: Option<f64>, history: Vec<Option<f64>>| {
        let paint = if now.is_some_and(|v| v >= 0.9) { Paint::Bad } else { Paint::Good };
        vec![
            (format!("{name:<9} {:>6}  ", percent(now)), Paint::Plain),
            (spark(&history, cells, Some(1.0)), paint),
        ]
    };
    let last = |h: &[Option<f64>]| h.iter().rev().copied().flatten().next();
    let memory = w.history(|p| p.memory);
    let pressure = w.history(|p| p.pressure.map(|v| v / 100.0));
    let mut lines = vec![
        drawn("cpu", w.cpu(), w.cpu_history()),
        drawn("memory", last(&memory), memory),
        drawn("pressure", last(&pressure), pressure),
    ];
    let state = w.node.state.as_deref().unwrap_or("-");
    let load = w.node.load1.map_or_else(|| "-".to_owned(), |l| format!("{l:.2}"));
    let version = w.node.agent_version.as_deref().unwrap_or("-");
    lines.push(plain(format!("{}, load {load}, agent {}", safe(state), safe(version))));
    let mut choice = ui.choice.clone();
    choice.which.nodes = vec![w.node.name.clone()];
    for view in [TopView::Mounts, TopView::Pods, TopView::Processes, TopView::Disks] {
        let (table, found) = table(board, view, &choice, (ui.sort_of(view), false), Some(columns));
        if found.is_empty() {
            continue;
        }
        lines.push(Line::new());
        let more = found.len().saturating_sub(OF_EACH);
        lines.extend(table.into_iter().take(OF_EACH + 1));
        if more > 0 {
            lines.push(vec![(format!("… and {more} more {}", view.as_str()), Paint::Dim)]);
        }
    }
    lines
}

fn nothing(view: TopView) -> &'static str {
    match view {
        TopView::Nodes => "no nodes",
        TopView::Mounts => "no mounts",
        TopView::Pods => {
            "no pods: the samples name none (no Kubernetes there, or an agent that reads no control groups)"
        }
        TopView::Processes => "no processes",
        TopView::Disks => "no disks",
    }
}

fn help() -> Vec<Line> {
    let mut lines = vec![Line::new()];
    for (keys, words) in KEYS {
        let blank = " ".repeat(16_usize.saturating_sub(width(keys)));
        lines.push(vec![(format!("  {keys}{blank}"), Paint::Bold), ((*words).to_owned(), Paint::Plain)]);
    }
    lines.push(Line::new());
    lines.push(plain(
        "  GROWTH is of the working set over the window. PSI is the share of the last 10 s in".to_owned(),
    ));
    lines.push(plain("  which something waited for CPU, memory or I/O, the worst of the three.".to_owned()));
    lines
}

fn last(ui: &Ui) -> Line {
    match &ui.trouble {
        Some(trouble) => vec![(safe(trouble).into_owned(), Paint::Bad)],
        None => {
            vec![("q end  ? keys  ←→ view  ↑↓ row  Enter node  s sort  r reverse".to_owned(), Paint::Dim)]
        }
    }
}

/// Marks the whole width of a row.
fn select(line: &mut Line, columns: usize) {
    let text: String = line.iter().map(|(t, _)| t.as_str()).collect();
    let blank = " ".repeat(columns.saturating_sub(width(&text)));
    *line = vec![(text + &blank, Paint::Selected)];
}

fn cut(line: Line, columns: usize) -> Line {
    let mut room = columns;
    let mut shown = Line::new();
    for (text, paint) in line {
        let piece = fit(&text, room).into_owned();
        room -= width(&piece).min(room);
        shown.push((piece, paint));
    }
    shown
}

/// Puts `lines` onto the terminal's buffer.
pub(crate) fn show(frame: &mut Frame<'_>, lines: &[Line], color: bool, only_ascii: bool) {
    let area = frame.area();
    put(frame.buffer_mut(), area, lines, color);
    if only_ascii {
        in_ascii(frame.buffer_mut());
    }
}

fn put(buffer: &mut Buffer, area: Rect, lines: &[Line], color: bool) {
    for (y, line) in (area.top()..area.bottom()).zip(lines) {
        let mut x = area.left();
        for (text, paint) in line {
            let room = usize::from(area.right().saturating_sub(x));
            (x, _) = buffer.set_stringn(x, y, text, room, style(*paint, color));
        }
    }
}

fn in_ascii(buffer: &mut Buffer) {
    for cell in &mut buffer.content {
        let shown: String =
            cell.symbol().chars().map(|c| ascii(c).map_or(c.to_string(), str::to_owned)).collect();
        if shown != cell.symbol() {
            cell.set_symbol(&shown);
        }
    }
}

/// Without colours what is bad is bold, and what is selected is reversed: both are no colours.
fn style(paint: Paint, color: bool) -> Style {
    let s = Style::default();
    match (paint, color) {
        (Paint::Plain, _) => s,
        (Paint::Selected, _) => s.add_modifier(Modifier::REVERSED),
        (Paint::Bold, _) | (Paint::Bad | Paint::Worst, false) => s.add_modifier(Modifier::BOLD),
        (_, false) => s,
        (Paint::Dim, true) => s.add_modifier(Modifier::DIM),
        (Paint::Good, true) => s.fg(Color::Green),
        (Paint::Notice, true) => s.fg(Color::Yellow),
        (Paint::Bad, true) => s.fg(Color::Red),
        (Paint::Worst, true) => s.fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}
