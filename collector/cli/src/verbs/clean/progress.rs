//! What is told while a cleanup is carried out: how long it takes and what its mount has by now, on stderr.
//!
//! A node reports an action once, at its end; until then its mount's figures, which it is asked for afresh, are what there
//! is to show. On a terminal one line is drawn anew, elsewhere a line is written now and then. A quick cleanup is told
//! nothing of, and a question that fails costs the figure, never the cleanup.
//!
//! Deliberately absent: which object it is at, which nobody but the executor knows before the end.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::client::Desk;
use crate::error::CliError;
use crate::output::Io;
use crate::output::text::{bytes, safe};
use crate::time::span;
use crate::view::Action;

/// Between two looks. A node takes a sample a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two lines where nobody sees a line being drawn anew.
const LOOKS_A_LINE: u64 = 10;
/// Signs of life, one a look.
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];

/// Waits for `doing`, which carries `plan` out, and tells of it meanwhile.
pub(super) async fn told<T>(
    io: &mut Io<'_>,
    mut desk: Desk,
    plan: &Action,
    doing: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let began = Instant::now();
    let mut line = Line::new(plan);
    let mut ticks = interval_at(began + LOOK_EVERY, LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(doing);
    let done = loop {
        let look = async {
            ticks.tick().await;
            available(&mut desk, plan).await
        };
        tokio::select! {
            biased;
            done = &mut doing => break done,
            available = look => line.tell(io, began.elapsed(), available)?,
        }
    };
    line.end(io)?;
    done
}

/// What the mount of `plan` has now; `None` where the node does not say.
async fn available(desk: &mut Desk, plan: &Action) -> Option<u64> {
    let nodes = desk.nodes(vec![plan.node.clone()], false).await.ok()?;
    let node = nodes.into_iter().find(|n| n.name == plan.node)?;
    node.mounts.into_iter().find(|m| m.path == plan.mount).map(|m| m.available_bytes)
}

/// The line that tells.
struct Line<'p> {
    plan: &'p Action,
    looks: u64,
    before: Option<u64>,
    now: Option<u64>,
    /// Columns that are drawn on.
    drawn: usize,
}

impl<'p> Line<'p> {
    fn new(plan: &'p Action) -> Self {
        Self { plan, looks: 0, before: plan.available_before_bytes, now: None, drawn: 0 }
    }

    fn tell(&mut self, io: &mut Io<'_>, since: Duration, available: Option<u64>) -> Result<(), CliError> {
        self.before = self.before.or(available);
        self.now = available.or(self.now);
        let look = self.looks;
        self.looks += 1;
        let words = self.words(since);
        if !io.terminal.can_ask {
            return if look.is_multiple_of(LOOKS_A_LINE) { io.say(&words) } else { Ok(()) };
        }
        let sign = SPINNER[usize::try_from(look).unwrap_or(0) % SPINNER.len()];
        let room = io.terminal.columns.unwrap_or(80).saturating_sub(1);
        let text: String = format!("{sign} {words}").chars().take(room).collect();
        self.draw(io, &text)
    }

    fn words(&self, since: Duration) -> String {
        let Action { id, mount, node, .. } = self.plan;
        let figures = match (self.before, self.now) {
            (Some(before), Some(now)) => {
                let wanted = bytes(self.plan.target_available_bytes);
                format!(", {} → {} available of {wanted} wanted", bytes(before), bytes(now))
            }
            _ => String::new(),
        };
        safe(&format!("{id} cleans {mount} on {node} since {}{figures}", span(since.as_secs_f64())))
            .to_string()
    }

    /// Draws over what was drawn, without any sequence that a dumb terminal may not know.
    fn draw(&mut self, io: &mut Io<'_>, text: &str) -> Result<(), CliError> {
        let columns = unicode_width::UnicodeWidthStr::width(text);
        let rest = " ".repeat(self.drawn.saturating_sub(columns));
        write!(io.err, "\r{text}{rest}")?;
        io.err.flush()?;
        self.drawn = columns;
        Ok(())
    }

    fn end(&mut self, io: &mut Io<'_>) -> Result<(), CliError> {
        if self.drawn > 0 {
            self.draw(io, "")?;
            write!(io.err, "\r")?;
            io.err.flush()?;
        }
        Ok(())
    }
}
