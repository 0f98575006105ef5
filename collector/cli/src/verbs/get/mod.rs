//! `get`: lists, from a collector or, where none is named, from a node's journal.

mod changes;
mod desk;
mod journal;
mod sorted;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use dogwatch::record::Severity;

use super::{Here, id, needs_no_name};
use crate::args::{GetArgs, Resource, Selectors};
use crate::error::CliError;
use crate::output::{Io, List, Listed};
use crate::range::Range;
use crate::view::Event;
pub(super) use journal::{Pattern, takes, within};

/// Events that a table shows when neither a time nor a number was asked for.
const EVENTS_SHOWN: u32 = 500;

/// Rows that the collector is asked for where nobody says how many, and at least where they are sorted or narrowed here.
const ROWS_AT_ONCE: u32 = 10_000;
/// Rows that a collector gives at most, whatever is asked.
const MOST_ROWS: u32 = 100_000;

/// What was asked, checked.
struct Ask {
    resource: Resource,
    args: GetArgs,
    which: Selectors,
    range: Range,
    /// Only the newest so many events are sorted, where nothing else bounds them.
    sorted_of: Option<u32>,
    /// So many rows came, and there may be more that nobody left out on purpose; 0: all came.
    cut: AtomicU32,
}

impl Ask {
    /// Whether rows are left out here that the collector gave.
    fn narrows(&self) -> bool {
        let states = !self.args.state.is_empty() && self.resource != Resource::Incidents;
        states || !self.args.names.is_empty() || self.args.sort_by.is_some()
    }

    /// What the collector may cut to.
    fn wire_limit(&self) -> u32 {
        let limit = self.args.limit;
        match self.resource {
            Resource::Events if self.args.sort_by.is_some() => self.sorted_of.unwrap_or(0),
            Resource::Events => limit.unwrap_or(0),
            _ if self.narrows() => limit.unwrap_or(0).max(ROWS_AT_ONCE),
            _ => limit.unwrap_or(ROWS_AT_ONCE),
        }
    }

    /// The names that are asked for, as the collector knows them.
    fn ids(&self) -> Vec<String> {
        self.args.names.iter().map(|n| id(n).to_owned()).collect()
    }

    /// How many of the newest events are kept back, if any are: what is sorted must be there first, and that has a bound.
    fn kept(&self) -> Option<usize> {
        match (&self.args.sort_by, self.args.limit) {
            (Some(_), _) => Some(self.sorted_of.map_or(crate::journal::MAX_ROWS, |n| n as usize)),
            (None, limit) => limit.map(|n| n as usize),
        }
    }

    /// Takes note of how many rows the collector gave.
    fn given(&self, rows: u32) {
        let most = self.wire_limit().min(MOST_ROWS);
        // Whoever wants no more than the newest so many has them.
        let meant = !self.narrows() && self.args.limit.is_some_and(|limit| limit <= MOST_ROWS);
        if rows >= most && !meant {
            self.cut.store(rows, Ordering::Relaxed);
        }
    }

    /// Sorts and bounds what is shown, and says where it is not of all there is.
    fn shown<T: Listed>(&self, io: &mut Io<'_>, rows: &mut Vec<T>) -> Result<(), CliError> {
        let cut = self.cut.load(Ordering::Relaxed);
        if cut > 0 {
            io.say(&format!(
                "of the newest {cut} {} only; --since, --until, --node and the like ask for others, --limit for more",
                T::PLURAL
            ))?;
        }
        sorted::shown(rows, self.args.sort_by.as_deref(), self.args.limit)
    }

    fn named(&self, name: &str) -> bool {
        self.args.names.is_empty() || self.args.names.iter().any(|n| id(n) == name)
    }

    fn in_state(&self, state: Option<&str>) -> bool {
        self.args.state.is_empty() || state.is_some_and(|s| self.args.state.iter().any(|w| w == s))
    }

    /// The collector has chosen already; one that is older than the contract's selector knows only one node.
    fn of_node(&self, node: Option<&str>) -> bool {
        self.which.takes_node(node)
    }

    fn bad_enough(&self, severity: Option<Severity>) -> bool {
        self.which.takes_severity(severity)
    }

    /// Incidents that `--active` asks for.
    fn incident_states(&self) -> Vec<String> {
        if self.args.active && self.args.state.is_empty() {
            return vec!["open".to_owned(), "acknowledged".to_owned()];
        }
        self.args.state.clone()
    }
}

pub(super) async fn get(here: &Here<'_>, args: GetArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut ask = checked(args, here.world.now_ns)?;
    if ask.resource == Resource::Events
        && ask.args.output.for_people()
        && ask.args.limit.is_none()
        && ask.range == Range::default()
    {
        ask.args.limit = Some(EVENTS_SHOWN);
        ask.sorted_of = Some(EVENTS_SHOWN);
        io.say(&format!(
            "the newest {EVENTS_SHOWN} events at most; --since, --until or --limit ask for others"
        ))?;
    }
    if ask.args.watch {
        return changes::watch(here, &ask, io).await;
    }
    if here.settings.journal_only {
        let dir = here.settings.journal.as_deref().unwrap_or(Path::new("."));
        return journal::list(dir, &ask, io);
    }
    let failed = match here.desk().await {
        Ok(mut desk) => match desk::list(&mut desk, &ask, io).await {
            Err(e) => e,
            Ok(()) => return Ok(()),
        },
        Err(e) => e,
    };
    let (dir, failed) = here.stand_in(failed)?;
    io.say(&instead(&failed, dir))?;
    journal::list(dir, &ask, io)
}

/// Says that a journal steps in, and why.
pub(super) fn instead(failed: &CliError, dir: &Path) -> String {
    let why = failed.to_string();
    format!("{}; this is from the journal {}", why.lines().next().unwrap_or_default(), dir.display())
}

/// Refuses flags that mean nothing for what is listed, rather than ignoring them.
fn checked(args: GetArgs, now_ns: i64) -> Result<Ask, CliError> {
    use Resource::{Actions, Events, Findings, Holds, Incidents, Nodes};
    let Some(resource) = args.resource else {
        return Err(CliError::Usage(
            "get what? One of: nodes (no), incidents (inc), events (ev), findings (fi), actions (ac), holds (ho)\n  try: \
             dogwatch get incidents --open"
                .to_owned(),
        ));
    };
    let which = args.which.clone().checked()?;
    let refuse = |given: bool, flag: &str, takes: &[Resource]| {
        if given && !takes.contains(&resource) {
            let takes: Vec<_> = takes.iter().map(|r| r.as_str()).collect();
            return Err(CliError::Usage(format!(
                "{flag} means nothing for {}; it is for {}",
                resource.as_str(),
                takes.join(", ")
            )));
        }
        Ok(())
    };
    refuse(args.when.since.is_some(), "--since", &[Incidents, Events, Findings, Actions])?;
    refuse(args.when.until.is_some(), "--until", &[Incidents, Events, Findings, Actions])?;
    refuse(which.severity.is_some(), "--severity", &[Incidents, Events, Findings])?;
    refuse(!which.rules.is_empty(), "--rule", &[Incidents, Events, Findings])?;
    refuse(which.namespace.is_some(), "--namespace", &[Incidents, Events, Findings, Holds])?;
    refuse(which.pod.is_some(), "--pod", &[Incidents, Events, Findings, Holds])?;
    refuse(which.container.is_some(), "--container", &[Incidents, Events, Findings])?;
    refuse(args.limit.is_some(), "--limit", &[Incidents, Events, Findings, Actions])?;
    refuse(!args.kind.is_empty(), "--kind", &[Events])?;
    refuse(args.grep.is_some(), "--grep", &[Events])?;
    refuse(args.source.is_some(), "--source", &[Events])?;
    refuse(args.active, "--active", &[Findings, Incidents, Holds])?;
    refuse(!args.state.is_empty(), "--state", &[Nodes, Incidents, Findings, Actions, Holds])?;
    refuse(args.cached, "--cached", &[Nodes])?;
    refuse(!args.names.is_empty(), "a name", &[Nodes, Incidents, Findings, Actions, Holds])?;
    if resource == Events {
        needs_no_name(args.output, "events")?;
    }
    known_states(resource, &args.state)?;
    if args.watch && !args.output.endless() {
        return Err(CliError::Usage(
            "--watch has no end, and an array has one; use -o table, wide, jsonl or name".to_owned(),
        ));
    }
    // Said here, so that a mistake in it costs no question.
    args.grep.as_deref().map(Pattern::new).transpose()?;
    let range = args.when.range(now_ns)?;
    Ok(Ask { resource, args, which, range, sorted_of: None, cut: AtomicU32::new(0) })
}

/// A state that nothing can be in would match nothing for ever.
fn known_states(resource: Resource, asked: &[String]) -> Result<(), CliError> {
    let known: &[&str] = match resource {
        Resource::Nodes => &["connected", "silent", "never-seen"],
        Resource::Incidents => &["open", "acknowledged", "resolved"],
        Resource::Findings => &["raised", "updated", "cleared"],
        Resource::Actions => &["planned", "started", "done", "failed", "refused"],
        Resource::Holds => &["holding", "pending", "released"],
        Resource::Events => &[],
    };
    match asked.iter().find(|s| !known.contains(&s.as_str())) {
        Some(s) => Err(CliError::Usage(format!(
            "--state {s:?} is none of those of {}: {}",
            resource.as_str(),
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

/// Writes rows in order, `--limit` of them. Names that were asked for and are not there are an error.
fn write_all<T: Listed>(io: &mut Io<'_>, ask: &Ask, mut rows: Vec<T>) -> Result<(), CliError> {
    none_missing(ask, &rows)?;
    ask.shown(io, &mut rows)?;
    let mut list = List::begin::<T>(io, ask.args.output)?;
    for row in &rows {
        list.push(io, row)?;
    }
    list.finish::<T>(io)
}

fn none_missing<T: Listed>(ask: &Ask, rows: &[T]) -> Result<(), CliError> {
    match ask.args.names.iter().map(|n| id(n)).find(|n| !rows.iter().any(|r| r.name() == Some(n))) {
        Some(missing) => {
            Err(CliError::NotFound(format!("there is no {missing} among the {} asked for", T::PLURAL)))
        }
        None => Ok(()),
    }
}

/// Events on their way out: as they come, or the newest few kept back until the end.
struct Events {
    list: List,
    kept: Option<(usize, VecDeque<Event>)>,
    /// Events that gave way to newer ones before they could be sorted.
    passed: u64,
}

impl Events {
    fn begin(io: &mut Io<'_>, ask: &Ask) -> Result<Self, CliError> {
        let kept = ask.kept().map(|n| (n, VecDeque::new()));
        Ok(Self { list: List::begin::<Event>(io, ask.args.output)?, kept, passed: 0 })
    }

    fn take(&mut self, io: &mut Io<'_>, ask: &Ask, event: Event) -> Result<(), CliError> {
        if !ask.bad_enough(event.severity) || !ask.of_node(event.node.as_deref()) {
            return Ok(());
        }
        let Some((limit, kept)) = &mut self.kept else { return self.list.push(io, &event) };
        if kept.len() >= *limit {
            kept.pop_front();
            self.passed += 1;
        }
        kept.push_back(event);
        Ok(())
    }

    fn finish(mut self, io: &mut Io<'_>, ask: &Ask) -> Result<(), CliError> {
        self.write_kept(io, ask)?;
        self.list.finish::<Event>(io)
    }

    fn write_kept(&mut self, io: &mut Io<'_>, ask: &Ask) -> Result<(), CliError> {
        let mut rows: Vec<Event> = self.kept.take().into_iter().flat_map(|(_, kept)| kept).collect();
        if ask.args.sort_by.is_some() && ask.sorted_of.is_none() && self.passed > 0 {
            io.say(&format!(
                "of the newest {} events only, {} older ones were passed over; --since asks for fewer",
                rows.len(),
                self.passed
            ))?;
        }
        ask.shown(io, &mut rows)?;
        rows.iter().try_for_each(|event| self.list.push(io, event))
    }
}
