//! `hold`: what may not be cleaned or expired, until somebody lets go of it.

use std::time::{Duration, Instant};

use super::{Here, worded};
use crate::args::{Format, HoldAddArgs, HoldListArgs, HoldReleaseArgs, HoldVerb};
use crate::ask;
use crate::client::Desk;
use crate::error::CliError;
use crate::output::text::safe;
use crate::output::{Io, List, one};
use crate::view::Hold;

/// How long the word of all nodes is waited for: one that is connected has it in a fraction of a second.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(3);
/// How long the first one's is: a slow disk of its or of the collector's makes it late.
const ONE_CONFIRMED_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks whether they said it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The same once it takes long.
const LOOK_AGAIN_LATE: Duration = Duration::from_millis(500);

pub(super) async fn hold(here: &Here<'_>, verb: HoldVerb, io: &mut Io<'_>) -> Result<(), CliError> {
    match verb {
        HoldVerb::Add(args) => add(here, &args, io).await,
        HoldVerb::Release(args) => release(here, &args, io).await,
        HoldVerb::Ls(args) => list(here, &args, io).await,
    }
}

async fn add(here: &Here<'_>, args: &HoldAddArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    worded("-m", &args.reason)?;
    let usage = |words: &str| Err(CliError::Usage(words.to_owned()));
    if args.path.is_none() && args.pod.is_none() && args.node.is_none() && args.incident.is_none() {
        return usage("hold what? Give --path, --pod NAMESPACE/NAME, --node or --incident");
    }
    if args.path.as_deref().is_some_and(|p| !p.starts_with('/')) {
        return usage("--path is a path on the nodes, from their root: it begins with /");
    }
    let pod = match args.pod.as_deref().map(|p| p.split_once('/')) {
        Some(Some((namespace, name))) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Some((namespace, name))
        }
        Some(_) => return usage("--pod is NAMESPACE/NAME here, so that it cannot be another's"),
        None => None,
    };
    for (flag, value) in [("--node", &args.node), ("--incident", &args.incident)] {
        if let Some(value) = value {
            worded(flag, value)?;
        }
    }
    let mut desk = here.desk_for("take a hold").await?;
    let mut hold = Hold::from(desk.add_hold(ask::hold(args, pod)).await?);
    if hold.path.is_some() {
        hold = confirmed(&mut desk, hold).await;
    }
    said(io, args.output, "held", &hold)?;
    if hold.state == "pending" {
        io.say(
            "not every node that it concerns has confirmed it yet; `dogwatch hold ls -o wide` says who has",
        )?;
    }
    if let Some(path) = hold.path.as_deref().filter(|_| nowhere(&hold)) {
        io.say(&format!(
            "warning: nothing is at {path} now on {}; the hold stands, and keeps what comes there",
            some(&hold.confirmed_by)
        ))?;
        io.say(&format!("if the path is wrong: `dogwatch hold release {} -m 'wrong path'`", hold.id))?;
    }
    Ok(())
}

/// The hold as the nodes confirmed it, if they do so within [`CONFIRMED_WITHIN`], or one within [`ONE_CONFIRMED_WITHIN`]: they
/// say whether anything is there.
/// It stands already, so what fails here is only that nobody can tell yet.
async fn confirmed(desk: &mut Desk, hold: Hold) -> Hold {
    let mut newest = hold;
    let begun = Instant::now();
    let wait = async {
        while newest.state == "pending"
            && (newest.confirmed_by.is_empty() || begun.elapsed() < CONFIRMED_WITHIN)
        {
            let late = begun.elapsed() >= CONFIRMED_WITHIN;
            tokio::time::sleep(if late { LOOK_AGAIN_LATE } else { LOOK_AGAIN }).await;
            let Ok(holds) = desk.holds(false).await else { return };
            let Some(now) = holds.into_iter().find(|h| h.id == newest.id) else { return };
            newest = now.into();
        }
    };
    // Late is no failure.
    let _ = tokio::time::timeout(ONE_CONFIRMED_WITHIN, wait).await;
    newest
}

/// Whether no node that confirmed the hold has anything at its path.
fn nowhere(hold: &Hold) -> bool {
    !hold.confirmed_by.is_empty() && hold.confirmed_by.iter().all(|n| hold.absent_on.contains(n))
}

/// Names, as many as one reads.
fn some(nodes: &[String]) -> String {
    const NAMED: usize = 3;
    let named = nodes.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match nodes.len().checked_sub(NAMED).filter(|n| *n > 0) {
        Some(more) => format!("{named} and {more} more"),
        None => named,
    }
}

async fn release(here: &Here<'_>, args: &HoldReleaseArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    worded("-m", &args.reason)?;
    let mut desk = here.desk_for("release a hold").await?;
    let hold = Hold::from(desk.release_hold(&args.id, &args.reason).await?);
    said(io, args.output, "released", &hold)
}

async fn list(here: &Here<'_>, args: &HoldListArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("list holds").await?;
    let mut holds: Vec<Hold> = desk.holds(args.all).await?.into_iter().map(Hold::from).collect();
    holds.sort_by(|a, b| (a.added_at, &a.id).cmp(&(b.added_at, &b.id)));
    let mut list = List::begin::<Hold>(io, args.output)?;
    for hold in &holds {
        list.push(io, hold)?;
    }
    list.finish::<Hold>(io)
}

/// One line for people, the hold for programs.
fn said(io: &mut Io<'_>, format: Format, what: &str, hold: &Hold) -> Result<(), CliError> {
    if format != Format::Table {
        return one(io, format, hold);
    }
    let on = match (&hold.node, hold.path.is_some() || hold.pod.is_some()) {
        (Some(node), true) => format!(" on {node}"),
        (None, true) => " on every node".to_owned(),
        _ => String::new(),
    };
    writeln!(
        io.out,
        "{what} {}: {}{}, {}",
        safe(&hold.id),
        safe(&hold.what()),
        safe(&on),
        safe(&hold.state)
    )?;
    io.out.flush()?;
    Ok(())
}
