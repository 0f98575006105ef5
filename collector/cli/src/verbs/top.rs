//! `top`: looks at the nodes again and again, and shows what that says; a table where nobody watches.

use std::time::Duration;

use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::{Frame, Terminal};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use super::Here;
use crate::args::{Format, TopArgs, TopView};
use crate::ask;
use crate::client::Desk;
use crate::error::CliError;
use crate::output::table::{Line, Table};

use crate::output::{Io, List, Listed as _};
use crate::range::Range;
use crate::top::board::{Board, MAX_POINTS};
use crate::top::draw;
use crate::top::rows::{self, Choice, Row};
use crate::top::screen::{Keys, Screen, hung_up};
use crate::top::ui::{Flow, Ui};
use crate::view::{Observed, sampled};

/// Nodes whose history is fetched at the start; of others it grows while one looks.
const MAX_HISTORIES: usize = 64;
/// Histories that are fetched at once.
const AT_ONCE: usize = 8;
/// All histories must be there by then: a picture without them is better than none.
const HISTORY_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks where there is no history and a rate is wanted nevertheless.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// Nodes are asked for figures of the moment each time: not more often than that.
const LEAST_INTERVAL: Duration = Duration::from_millis(500);
/// Days of samples would not fit a line of sparks.
const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn top(here: &Here<'_>, args: TopArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let which = args.which.clone().checked()?;
    if which.severity.is_some() || !which.rules.is_empty() {
        return Err(CliError::Usage(
            "--severity and --rule mean nothing for figures; see `get findings`".to_owned(),
        ));
    }
    if args.window > MAX_WINDOW || args.window.is_zero() {
        return Err(CliError::Usage("--window is more than nothing and at most 24h".to_owned()));
    }
    let choice = Choice { which: which.clone(), containers: args.containers };
    let (view, node) = match (args.view, which.nodes.as_slice()) {
        (Some(view), _) => (view, None),
        (None, _) if which.of_pods() || args.containers => (TopView::Pods, None),
        (None, [one]) => (TopView::Nodes, Some(one.clone())),
        (None, _) => (TopView::Nodes, None),
    };
    let mut ui = Ui::new(view, node, choice);
    ui.called = here.world.called;
    ui.reverse = args.reverse;
    if let Some(column) = &args.sort {
        ui.sort_by(column).map_err(CliError::Usage)?;
    }
    let mut desk = here.desk_for("show figures of this moment").await?;
    let window = i64::try_from(args.window.as_nanos()).unwrap_or(i64::MAX);
    let mut board = Board::new(window);
    let seen = look(&mut desk, &which.nodes).await?;
    if let Some(missing) = which.nodes.iter().find(|n| !seen.iter().any(|o| o.node.name == **n)) {
        return Err(CliError::NotFound(format!(
            "there is no node {missing}\n  try: `dogwatch get nodes -o name` lists them"
        )));
    }
    let troubles = unread(&seen);
    board.look(seen, now(here));
    remember(&desk, &mut board, window, now(here)).await;
    let live = io.terminal.live && !args.once && args.output == Format::Table;
    if live {
        ui.trouble = troubles.into_iter().next();
        return watch(here, desk, board, ui, args.interval.max(LEAST_INTERVAL), io).await;
    }
    // Rates need two looks.
    let rateless = |b: &Board| b.nodes.values().any(|w| w.sample.is_some() && w.points.len() < 2);
    if rateless(&board) {
        tokio::time::sleep(SECOND_LOOK).await;
        let again = look(&mut desk, &which.nodes).await?;
        board.look(again, now(here));
    }
    for words in troubles {
        io.say(&words)?;
    }
    print(&board, &ui, &args, io)
}

/// The real clock moves while one looks; in tests it is the world's.
fn now(here: &Here<'_>) -> i64 {
    if matches!(here.world.dial, crate::Dial::Configured) {
        crate::program::now_ns()
    } else {
        here.world.now_ns
    }
}

async fn look(desk: &mut Desk, nodes: &[String]) -> Result<Vec<Observed>, CliError> {
    Ok(desk.nodes(nodes.to_vec(), false).await?.into_iter().map(Observed::from).collect())
}

/// Nodes whose sample cannot be read, and why.
fn unread(seen: &[Observed]) -> Vec<String> {
    let why =
        |o: &Observed| Some(format!("{}: its sample cannot be read: {}", o.node.name, o.unread.as_ref()?));
    seen.iter().filter_map(why).collect()
}

/// Fetches what was recorded of each node. What cannot be had is left out: the figures of now do not depend on it.
async fn remember(desk: &Desk, board: &mut Board, window_ns: i64, now_ns: i64) {
    let range = Range { since: Some(now_ns.saturating_sub(window_ns)), until: None };
    let mut wanted = board.nodes.keys().take(MAX_HISTORIES).cloned().collect::<Vec<_>>().into_iter();
    let mut under_way = JoinSet::new();
    let fetch = |name: String| {
        let mut desk = desk.clone();
        async move {
            let mut past = Vec::new();
            if let Ok(mut answers) = desk.samples(ask::samples(&name, range, MAX_POINTS as u32)).await {
                while let Ok(Some(row)) = answers.next().await {
                    past.extend(sampled(row));
                }
            }
            (name, past)
        }
    };
    for name in wanted.by_ref().take(AT_ONCE) {
        under_way.spawn(fetch(name));
    }
    let all = async {
        while let Some(done) = under_way.join_next().await {
            if let Ok((name, past)) = done {
                board.remember(&name, &past);
            }
            if let Some(name) = wanted.next() {
                under_way.spawn(fetch(name));
            }
        }
    };
    let _ = tokio::time::timeout(HISTORY_WITHIN, all).await;
}

async fn watch(
    here: &Here<'_>,
    desk: Desk,
    board: Board,
    ui: Ui,
    interval: Duration,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let told = |kind| signal(kind).map_err(|e| CliError::failed("cannot wait for signals", &e));
    let mut ends =
        [told(SignalKind::interrupt())?, told(SignalKind::terminate())?, told(SignalKind::hangup())?];
    let (color, only_ascii) = (io.terminal.color, io.terminal.ascii);
    let _screen = Screen::take(io.out)?;
    let keys = Keys::read()?;
    // A terminal without colours gets none from here, so what is written needs no translation but the buffer's own.
    let mut terminal = Terminal::new(CrosstermBackend::new(&mut *io.out)).map_err(undrawn)?;
    let mut shown = Shown { board, ui, color, only_ascii };
    let ended = tokio::select! {
        ended = answer(here, desk, &mut shown, keys, interval, &mut terminal) => ended,
        () = any(&mut ends) => Ok(()),
    };
    if hung_up() {
        // Its drop would show the cursor and, as nobody is there to be told that it cannot, panic.
        std::mem::forget(terminal);
        return Err(CliError::BrokenPipe);
    }
    ended
}

fn undrawn(e: std::io::Error) -> CliError {
    CliError::failed("cannot draw", &e)
}

async fn any([int, term, hup]: &mut [Signal; 3]) {
    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
}

/// What is on the screen.
struct Shown {
    board: Board,
    ui: Ui,
    color: bool,
    only_ascii: bool,
}

impl Shown {
    fn draw<B: Backend<Error = std::io::Error>>(
        &mut self,
        terminal: &mut Terminal<B>,
    ) -> Result<(), CliError> {
        let draw = |frame: &mut Frame<'_>| {
            let (columns, height) = (usize::from(frame.area().width), usize::from(frame.area().height));
            let lines = draw::picture(&mut self.ui, &self.board, columns, height);
            draw::show(frame, &lines, self.color, self.only_ascii);
        };
        terminal.draw(draw).map(|_| ()).map_err(undrawn)
    }
}

/// Draws, looks again and answers keys, until somebody wants no more or no key can come.
async fn answer<B: Backend<Error = std::io::Error>>(
    here: &Here<'_>,
    mut desk: Desk,
    shown: &mut Shown,
    mut keys: Keys,
    interval: Duration,
    terminal: &mut Terminal<B>,
) -> Result<(), CliError> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let wanted = shown.ui.choice.which.nodes.clone();
    loop {
        shown.draw(terminal)?;
        // A look goes on while keys are answered.
        let next = async {
            ticks.tick().await;
            look(&mut desk, &wanted).await
        };
        tokio::pin!(next);
        loop {
            tokio::select! {
                key = keys.next() => match key.map(|k| shown.ui.press(k)) {
                    Some(Flow::Draw) => shown.draw(terminal)?,
                    Some(Flow::Quit) | None => return Ok(()),
                },
                seen = &mut next => {
                    match seen {
                        Ok(seen) => {
                            shown.ui.trouble = unread(&seen).into_iter().next();
                            if !shown.ui.paused {
                                shown.board.look(seen, now(here));
                            }
                        }
                        Err(e) => {
                            let text = e.to_string();
                            shown.ui.trouble = Some(text.lines().next().unwrap_or_default().to_owned());
                        }
                    }
                    break;
                }
            }
        }
    }
}

/// One table, or all parts of one node.
fn print(board: &Board, ui: &Ui, args: &TopArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let views: &[TopView] = match &ui.node {
        Some(_) => &TopView::ALL,
        None => &[ui.view],
    };
    let limit = args.limit.map_or(usize::MAX, |n| n as usize);
    if !args.output.for_people() {
        let mut list = List::begin::<Row>(io, args.output)?;
        for row in chosen(board, ui, ui.view).iter().take(limit) {
            list.push(io, row)?;
        }
        return list.finish::<Row>(io);
    }
    // Wide on demand: nothing is left out or cut, also on a terminal.
    let columns = io.terminal.room().filter(|_| args.output == Format::Table);
    for (n, view) in views.iter().enumerate() {
        let rows = chosen(board, ui, *view);
        if rows.is_empty() {
            if views.len() == 1 {
                io.say(&format!("no {}", view.as_str()))?;
            }
            continue;
        }
        if n > 0 {
            writeln!(io.out)?;
        }
        let cells = rows.iter().take(limit).flat_map(|r| r.rows(false)).collect();
        for line in Table::new(Row::columns_of(*view), columns, false).lines(cells) {
            write_line(io, &line)?;
        }
    }
    io.out.flush()?;
    Ok(())
}

fn chosen(board: &Board, ui: &Ui, view: TopView) -> Vec<Row> {
    let mut found = rows::rows(board, view, &ui.choice);
    let reverse = ui.reverse && view == ui.view;
    rows::sort(&mut found, ui.sort_of(view), reverse);
    found
}

fn write_line(io: &mut Io<'_>, line: &Line) -> Result<(), CliError> {
    let mut text = String::new();
    for (piece, paint) in line {
        text.push_str(&paint.on(piece, io.terminal.color));
    }
    writeln!(io.out, "{}", text.trim_end())?;
    Ok(())
}
