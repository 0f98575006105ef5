//! `get --watch`: the list, then what changes, as `kubectl get -w` shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Ask, desk, none_missing};
use crate::args::Resource;
use crate::ask;
use crate::client::Desk;
use crate::error::CliError;
use crate::output::{Io, List, Listed};
use crate::verbs::follow::Feed;
use crate::verbs::{Here, id};
use crate::view::{Action, Event, Finding, Incident, What};

/// How often what nobody tells of (nodes, holds) is asked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(super) async fn watch(here: &Here<'_>, ask: &Ask, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("watch").await?;
    match ask.resource {
        Resource::Nodes | Resource::Holds => poll(&mut desk, ask, io).await,
        Resource::Incidents => {
            let feed = feed(here, &desk, ask, vec!["incident".to_owned()]).await?;
            let rows = desk::incidents(&mut desk, ask).await?;
            let wanted = ask.incident_states();
            follow(feed, rows, ask, io, |what| match what {
                What::Incident(i) => Some(i).filter(|i: &Incident| {
                    ask.bad_enough(i.severity) && (wanted.is_empty() || wanted.contains(&i.state))
                }),
                _ => None,
            })
            .await
        }
        Resource::Findings => {
            let feed = feed(here, &desk, ask, vec!["finding".to_owned()]).await?;
            let rows = desk::findings(&mut desk, ask).await?;
            follow(feed, rows, ask, io, |what| match what {
                What::Finding(f) => {
                    Some(f).filter(|f: &Finding| ask.bad_enough(f.severity) && ask.in_state(f.state))
                }
                _ => None,
            })
            .await
        }
        Resource::Actions => {
            let feed = feed(here, &desk, ask, vec!["action".to_owned()]).await?;
            let rows = desk::actions(&mut desk, ask).await?;
            follow(feed, rows, ask, io, |what| match what {
                What::Action(a) => Some(a).filter(|a: &Action| ask.in_state(a.state)),
                _ => None,
            })
            .await
        }
        Resource::Events => {
            let mut kinds: Vec<String> = ask.args.kind.iter().map(|k| k.as_str().to_owned()).collect();
            if kinds.is_empty() {
                kinds = ["sample", "log", "gap", "note"].map(str::to_owned).into();
            }
            let feed = feed(here, &desk, ask, kinds).await?;
            let mut rows = Vec::new();
            let limit = ask.kept().unwrap_or(crate::journal::MAX_ROWS);
            let mut answers = desk.events(ask::events(&ask.which, desk::question(ask))).await?;
            while let Some(e) = answers.next().await? {
                rows.push(Event::from(e));
                if rows.len() > 2 * limit {
                    rows.drain(..rows.len() - limit);
                }
            }
            follow(feed, rows, ask, io, |what| match what {
                What::Event(e) => Some(e).filter(|e: &Event| ask.bad_enough(e.severity)),
                _ => None,
            })
            .await
        }
    }
}

/// Opened before the list is asked for, so that nothing falls between the two; a change that the list has already is
/// shown once more.
async fn feed<'h>(
    here: &'h Here<'h>,
    desk: &Desk,
    ask: &Ask,
    kinds: Vec<String>,
) -> Result<Feed<'h>, CliError> {
    Feed::open(here, desk.clone(), ask::watch(&ask.which, kinds, ask.args.grep.clone())).await
}

async fn follow<T: Listed>(
    mut feed: Feed<'_>,
    mut rows: Vec<T>,
    ask: &Ask,
    io: &mut Io<'_>,
    wanted: impl Fn(What) -> Option<T>,
) -> Result<(), CliError> {
    none_missing(ask, &rows)?;
    ask.shown(io, &mut rows)?;
    let mut list = List::begin::<T>(io, ask.args.output)?;
    for row in &rows {
        list.push(io, row)?;
    }
    list.go_live(io)?;
    loop {
        let news = feed.next(io).await?;
        let Some(row) = wanted(news.what) else { continue };
        if ask.args.names.is_empty() || row.name().is_some_and(|n| ask.args.names.iter().any(|w| id(w) == n))
        {
            list.push(io, &row)?;
            io.out.flush()?;
        }
    }
}

/// Asks again and again, and shows the rows that differ from what was shown of them last.
async fn poll(desk: &mut Desk, ask: &Ask, io: &mut Io<'_>) -> Result<(), CliError> {
    if ask.resource == Resource::Nodes {
        let rows = desk::nodes(desk, ask).await?;
        let mut shown = Shown::begin(io, ask, rows)?;
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            shown.changed(io, desk::nodes(desk, ask).await?)?;
        }
    }
    let rows = desk::holds(desk, ask).await?;
    let mut shown = Shown::begin(io, ask, rows)?;
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        shown.changed(io, desk::holds(desk, ask).await?)?;
    }
}

/// What was shown of each row, by name.
struct Shown {
    list: List,
    last: BTreeMap<String, String>,
}

impl Shown {
    fn begin<T: Listed>(io: &mut Io<'_>, ask: &Ask, mut rows: Vec<T>) -> Result<Self, CliError> {
        none_missing(ask, &rows)?;
        ask.shown(io, &mut rows)?;
        let mut shown = Self { list: List::begin::<T>(io, ask.args.output)?, last: BTreeMap::new() };
        shown.changed(io, rows)?;
        shown.list.go_live(io)?;
        Ok(shown)
    }

    fn changed<T: Listed>(&mut self, io: &mut Io<'_>, rows: Vec<T>) -> Result<(), CliError> {
        for row in rows {
            let name = row.name().unwrap_or_default().to_owned();
            let looks = row.looks();
            if self.last.get(&name) != Some(&looks) {
                self.list.push(io, &row)?;
                self.last.insert(name, looks);
            }
        }
        io.out.flush()?;
        Ok(())
    }
}
