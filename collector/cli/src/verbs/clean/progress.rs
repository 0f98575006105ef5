//! What is told while a cleanup is carried out: how long it takes, how many of its objects are done, what that freed and
//! what its mount has by now, on stderr; and a last line at its end.
//!
//! A node reports an action once, at its end; until then it is asked afresh for its figures, of which these are. One of an
//! older version does not say how far it is: then its mount's figures are what there is to show. On a terminal one line
//! is drawn anew, elsewhere a line is written now and then. A quick cleanup is told nothing of, and a question that fails
//! costs the figure, never the cleanup.
//!
//! Deliberately absent: the names of the objects, which are in the plan above and in the outcome below.

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
pub(super) async fn told(
    io: &mut Io<'_>,
    mut desk: Desk,
    plan: &Action,
    doing: impl Future<Output = Result<Action, CliError>>,
) -> Result<Action, CliError> {
    let began = Instant::now();
    let mut line = Line::new(plan);
    let mut ticks = interval_at(began + LOOK_EVERY, LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(doing);
    let done = loop {
        let look = async {
            ticks.tick().await;
            look_at(&mut desk, plan).await
        };
        tokio::select! {
            biased;
            done = &mut doing => break done,
            seen = look => line.tell(io, began.elapsed(), seen)?,
        }
    };
    line.end(io, began.elapsed(), done.as_ref().ok())?;
    done
}

/// How far a cleanup is.
struct SoFar {
    objects: u64,
    objects_done: u64,
    freed_bytes: u64,
}

/// What the node of a plan says of it; `None` where it does not.
#[derive(Default)]
struct Seen {
    available: Option<u64>,
    so_far: Option<SoFar>,
}

async fn look_at(desk: &mut Desk, plan: &Action) -> Seen {
    let nodes = desk.nodes(vec![plan.node.clone()], false).await.unwrap_or_default();
    let Some(node) = nodes.into_iter().find(|n| n.name == plan.node) else { return Seen::default() };
    Seen {
        available: node.mounts.into_iter().find(|m| m.path == plan.mount).map(|m| m.available_bytes),
        so_far: node.acting.into_iter().find(|a| a.action_id == plan.id).map(|a| SoFar {
            objects: a.objects,
            objects_done: a.objects_done,
            freed_bytes: a.freed_bytes,
        }),
    }
}

/// The line that tells.
struct Line<'p> {
    plan: &'p Action,
    looks: u64,
    before: Option<u64>,
    now: Option<u64>,
    so_far: Option<SoFar>,
    /// Columns that are drawn on.
    drawn: usize,
}

impl<'p> Line<'p> {
    fn new(plan: &'p Action) -> Self {
        Self { plan, looks: 0, before: plan.available_before_bytes, now: None, so_far: None, drawn: 0 }
    }

    fn tell(&mut self, io: &mut Io<'_>, since: Duration, seen: Seen) -> Result<(), CliError> {
        self.before = self.before.or(seen.available);
        self.now = seen.available.or(self.now);
        self.so_far = seen.so_far.or(self.so_far.take());
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
        let since = span(since.as_secs_f64());
        // What tells most comes first: a narrow terminal cuts the end.
        let so_far = self.so_far.as_ref().map_or_else(String::new, |s| {
            format!("{} of {} objects, {} freed: ", s.objects_done, s.objects, bytes(s.freed_bytes))
        });
        safe(&format!("{so_far}{id} cleans {mount} on {node} since {since}{figures}")).to_string()
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

    /// Takes away what was drawn, and where anything was, says in a last line what came of it.
    fn end(&mut self, io: &mut Io<'_>, took: Duration, done: Option<&Action>) -> Result<(), CliError> {
        if self.drawn > 0 {
            self.draw(io, "")?;
            write!(io.err, "\r")?;
            io.err.flush()?;
        }
        let Some(done) = done.filter(|_| self.looks > 0) else { return Ok(()) };
        let gone = done.objects.iter().filter(|o| matches!(o.outcome, "removed" | "cut")).count();
        let freed = done.freed_bytes.map_or_else(|| "-".to_owned(), bytes);
        let (all, took) = (done.objects.len(), span(took.as_secs_f64()));
        let words = format!("{gone} of {all} objects went, {freed} freed: {} ended after {took}", done.id);
        io.say(&safe(&words))
    }
}
