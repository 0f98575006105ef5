//! `get`: lists, from a collector or, when none answers, from a node's journal.

use std::collections::VecDeque;
use std::path::Path;

use dogwatch::record::{Kind, Kinds, Severity};
use dogwatch::wire;

use super::{Here, id, needs_no_name};
use crate::args::{Format, GetArgs, Resource};
use crate::error::CliError;
use crate::journal::{Folder, Range};
use crate::output::{Io, List, Listed};
use crate::time;
use crate::view::{Action, Event, Finding, Incident, Node};

/// Events that a table shows when neither a time nor a number was asked for.
const EVENTS_SHOWN: u32 = 500;

/// What was asked, checked.
struct Ask {
    args: GetArgs,
    range: Range,
}

impl Ask {
    fn wire_range(&self) -> wire::TimeRange {
        wire::TimeRange {
            since_wall_ns: self.range.since.unwrap_or(0),
            until_wall_ns: self.range.until.unwrap_or(0),
        }
    }

    /// What the collector may cut to, where nothing is left out after it.
    fn wire_limit(&self) -> u32 {
        let narrowed = self.args.severity.is_some() || !self.args.names.is_empty();
        if narrowed { 0 } else { self.args.limit.unwrap_or(0) }
    }

    fn node(&self) -> String {
        self.args.node.clone().unwrap_or_default()
    }

    fn bad_enough(&self, severity: Option<Severity>) -> bool {
        self.args.severity.is_none_or(|least| severity.is_some_and(|s| s >= least))
    }

    fn named(&self, name: &str) -> bool {
        self.args.names.is_empty() || self.args.names.iter().any(|n| id(n) == name)
    }

    fn of_node(&self, node: Option<&str>) -> bool {
        self.args.node.as_deref().is_none_or(|n| node == Some(n))
    }
}

pub(super) async fn get(here: &Here<'_>, args: GetArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut ask = checked(args, here.world.now_ns)?;
    if ask.args.resource == Resource::Events
        && matches!(ask.args.output, Format::Table | Format::Wide)
        && ask.args.limit.is_none()
        && ask.range.since.is_none()
        && ask.range.until.is_none()
    {
        ask.args.limit = Some(EVENTS_SHOWN);
        io.say(&format!(
            "the newest {EVENTS_SHOWN} events at most; --since, --until or --limit ask for others"
        ))?;
    }
    if here.settings.journal_only {
        let dir = here.settings.journal.as_deref().unwrap_or(Path::new("."));
        return from_journal(dir, &ask, io);
    }
    let failed = match here.desk().await {
        Ok(mut desk) => match from_collector(&mut desk, &ask, io).await {
            Err(e) => e,
            Ok(()) => return Ok(()),
        },
        Err(e) => e,
    };
    let unanswered = matches!(failed, CliError::NoAnswer { .. })
        || (here.settings.collector.is_none() && matches!(failed, CliError::Usage(_)));
    match &here.settings.journal {
        Some(dir) if unanswered => {
            let why = failed.to_string();
            let why = why.lines().next().unwrap_or_default();
            io.say(&format!("{why}; this is from the journal {}", dir.display()))?;
            from_journal(dir, &ask, io)
        }
        _ => Err(failed),
    }
}

/// Refuses flags that mean nothing for what is listed, rather than ignoring them.
fn checked(args: GetArgs, now_ns: i64) -> Result<Ask, CliError> {
    use Resource::{Actions, Events, Findings, Incidents, Nodes};
    let what = args.resource;
    let refuse = |given: bool, flag: &str, takes: &[Resource]| {
        if given && !takes.contains(&what) {
            let takes: Vec<_> = takes.iter().map(|r| r.as_str()).collect();
            return Err(CliError::Usage(format!(
                "{flag} means nothing for {}; it is for {}",
                what.as_str(),
                takes.join(", ")
            )));
        }
        Ok(())
    };
    refuse(args.since.is_some(), "--since", &[Incidents, Events, Findings, Actions])?;
    refuse(args.until.is_some(), "--until", &[Incidents, Events, Findings, Actions])?;
    refuse(args.severity.is_some(), "--severity", &[Incidents, Events, Findings])?;
    refuse(args.limit.is_some(), "--limit", &[Incidents, Events, Findings, Actions])?;
    refuse(!args.kind.is_empty(), "--kind", &[Events])?;
    refuse(args.active, "--active", &[Findings, Incidents])?;
    refuse(args.cached, "--cached", &[Nodes])?;
    refuse(!args.names.is_empty(), "a name", &[Nodes, Incidents, Findings, Actions])?;
    if what == Events {
        needs_no_name(args.output, "events")?;
    }
    let moment = |flag: &str, text: &Option<String>| {
        text.as_deref()
            .map(|t| time::parse(t, now_ns).map_err(|e| CliError::Usage(format!("{flag}: {e}"))))
            .transpose()
    };
    let range = Range { since: moment("--since", &args.since)?, until: moment("--until", &args.until)? };
    if let (Some(since), Some(until)) = (range.since, range.until)
        && since >= until
    {
        return Err(CliError::Usage(
            "--since is not before --until, so nothing can be between them".to_owned(),
        ));
    }
    Ok(Ask { args, range })
}

async fn from_collector(desk: &mut crate::client::Desk, ask: &Ask, io: &mut Io<'_>) -> Result<(), CliError> {
    match ask.args.resource {
        Resource::Nodes => {
            let mut names: Vec<String> = ask.args.names.iter().chain(&ask.args.node).cloned().collect();
            names.dedup();
            let nodes = desk.nodes(names, ask.args.cached).await?;
            write_all(io, ask, nodes.into_iter().map(Node::from).collect())
        }
        Resource::Incidents => {
            let states =
                if ask.args.active { vec!["open".to_owned(), "acknowledged".to_owned()] } else { vec![] };
            let request = wire::GetIncidentsRequest {
                range: Some(ask.wire_range()),
                states,
                node: ask.node(),
                limit: ask.wire_limit(),
                ..Default::default()
            };
            let mut answers = desk.incidents(request).await?;
            let mut found = Vec::new();
            while let Some(i) = answers.next().await? {
                let i = Incident::from(i);
                if ask.bad_enough(i.severity) && ask.named(&i.id) {
                    found.push(i);
                }
            }
            found.sort_by(|a, b| (a.opened_at, &a.id).cmp(&(b.opened_at, &b.id)));
            write_all(io, ask, found)
        }
        Resource::Findings => {
            let request = wire::GetFindingsRequest {
                range: Some(ask.wire_range()),
                node: ask.node(),
                active_only: ask.args.active,
                limit: ask.wire_limit(),
                ..Default::default()
            };
            let mut answers = desk.findings(request).await?;
            let mut found = Vec::new();
            while let Some(f) = answers.next().await? {
                let f = Finding::from(f);
                if ask.bad_enough(f.severity) && ask.named(&f.id) {
                    found.push(f);
                }
            }
            found.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
            write_all(io, ask, found)
        }
        Resource::Actions => {
            let request = wire::GetActionsRequest {
                range: Some(ask.wire_range()),
                node: ask.node(),
                limit: ask.wire_limit(),
                ..Default::default()
            };
            let mut answers = desk.actions(request).await?;
            let mut found = Vec::new();
            while let Some(a) = answers.next().await? {
                let a = Action::from(a);
                if ask.named(&a.id) {
                    found.push(a);
                }
            }
            found.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
            write_all(io, ask, found)
        }
        Resource::Events => {
            let request = wire::GetEventsRequest {
                range: Some(ask.wire_range()),
                node: ask.node(),
                kinds: ask.args.kind.iter().map(|k| k.as_str().to_owned()).collect(),
                limit: ask.wire_limit(),
                ..Default::default()
            };
            let mut answers = desk.events(request).await?;
            // The first answer decides whether there is an answer at all: before it nothing is written, so that a
            // journal can still step in.
            let mut next = answers.next().await?;
            let mut events = Events::begin(io, ask)?;
            while let Some(e) = next {
                events.take(io, ask, Event::from(e))?;
                next = answers.next().await?;
            }
            events.finish(io)
        }
    }
}

fn from_journal(dir: &Path, ask: &Ask, io: &mut Io<'_>) -> Result<(), CliError> {
    let folder = Folder::open(dir)?;
    let mut remarks = Vec::new();
    match ask.args.resource {
        Resource::Incidents => {
            return Err(CliError::Failed(format!(
                "the journal {} holds no incidents: a collector makes them of findings\n  try: get findings, or a \
                 collector",
                dir.display()
            )));
        }
        Resource::Nodes => {
            let mut nodes = folder.nodes(&mut remarks)?;
            nodes.retain(|n| ask.named(&n.name) && ask.of_node(Some(&n.name)));
            write_all(io, ask, nodes)?;
        }
        Resource::Findings => {
            let mut found = folder.findings(&mut remarks)?;
            found.retain(|f| {
                ask.of_node(f.node.as_deref())
                    && f.time.is_some_and(|t| ask.range.holds(t.0))
                    && ask.bad_enough(f.severity)
                    && ask.named(&f.id)
                    && !(ask.args.active && f.cleared_at.is_some())
            });
            write_all(io, ask, found)?;
        }
        Resource::Actions => {
            let mut found = folder.actions(&mut remarks)?;
            found.retain(|a| {
                ask.of_node(Some(&a.node)) && a.time.is_some_and(|t| ask.range.holds(t.0)) && ask.named(&a.id)
            });
            write_all(io, ask, found)?;
        }
        Resource::Events => {
            let asked = if ask.args.kind.is_empty() { &Kind::ALL[..] } else { &ask.args.kind[..] };
            let kinds = asked.iter().fold(Kinds::default(), |set, k| set.with(*k));
            let mut events = Events::begin(io, ask)?;
            folder.events(kinds, ask.range, &mut remarks, |e| {
                if ask.of_node(e.node.as_deref()) {
                    events.take(io, ask, e)?;
                }
                Ok(true)
            })?;
            events.finish(io)?;
        }
    }
    for remark in remarks {
        io.say(&remark)?;
    }
    Ok(())
}

/// Writes rows in order, the newest `--limit` of them. Names that were asked for and are not there are an error.
fn write_all<T: Listed>(io: &mut Io<'_>, ask: &Ask, rows: Vec<T>) -> Result<(), CliError> {
    let missing = ask.args.names.iter().map(|n| id(n)).find(|n| !rows.iter().any(|r| r.name() == Some(n)));
    if let Some(missing) = missing {
        return Err(CliError::NotFound(format!("there is no {missing} among the {} asked for", T::PLURAL)));
    }
    let newest = ask.args.limit.map_or(0, |n| rows.len().saturating_sub(n as usize));
    let mut list = List::begin::<T>(io, ask.args.output)?;
    for row in rows.iter().skip(newest) {
        list.push(io, row)?;
    }
    list.finish::<T>(io)
}

/// Events on their way out: as they come, or the newest few kept back until the end.
struct Events {
    list: List,
    kept: Option<(usize, VecDeque<Event>)>,
}

impl Events {
    fn begin(io: &mut Io<'_>, ask: &Ask) -> Result<Self, CliError> {
        let kept = ask.args.limit.map(|n| (n as usize, VecDeque::new()));
        Ok(Self { list: List::begin::<Event>(io, ask.args.output)?, kept })
    }

    fn take(&mut self, io: &mut Io<'_>, ask: &Ask, event: Event) -> Result<(), CliError> {
        if !ask.bad_enough(event.severity) {
            return Ok(());
        }
        let Some((limit, kept)) = &mut self.kept else { return self.list.push(io, &event) };
        if kept.len() >= *limit {
            kept.pop_front();
        }
        kept.push_back(event);
        Ok(())
    }

    fn finish(mut self, io: &mut Io<'_>) -> Result<(), CliError> {
        for event in self.kept.take().into_iter().flat_map(|(_, kept)| kept) {
            self.list.push(io, &event)?;
        }
        self.list.finish::<Event>(io)
    }
}
