//! `status` and `version`: about dogwatch itself.

use super::Here;
use crate::args::{Format, StatusArgs, VersionArgs};
use crate::error::CliError;
use crate::output::table::Cell;
use crate::output::text::{safe, wrapped};
use crate::output::{Io, Listed as _, json, yaml};
use crate::time::span;
use crate::view::{Check, Status};

/// What a line of words is wrapped to where there is no terminal to say so.
const PIPED_COLUMNS: usize = 100;

/// Fails where something is wrong, so that a script can ask.
pub(super) async fn status(here: &Here<'_>, args: &StatusArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("say how dogwatch is").await?;
    let status = Status::from(desk.status().await?);
    let wrong: Vec<&Check> = status.checks.iter().filter(|c| !c.is_well()).collect();
    match args.output {
        Format::Json => {
            json::pretty(io.out, &status)?;
            writeln!(io.out)?;
        }
        Format::Jsonl => {
            for check in &status.checks {
                json::line(io.out, check)?;
                writeln!(io.out)?;
            }
        }
        Format::Yaml => yaml::document(io.out, &status)?,
        Format::Name => {
            for check in &wrong {
                writeln!(io.out, "{}/{}", safe(&check.subject), safe(&check.name))?;
            }
        }
        Format::Table | Format::Wide => tell(here, &status, &wrong, args.output == Format::Wide, io)?,
    }
    io.out.flush()?;
    match wrong.len() {
        0 => Ok(()),
        1 => Err(CliError::Outcome("one thing is wrong with dogwatch itself".to_owned())),
        n => Err(CliError::Outcome(format!("{n} things are wrong with dogwatch itself"))),
    }
}

fn tell(
    here: &Here<'_>,
    status: &Status,
    wrong: &[&Check],
    wide: bool,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let up = status.started_at.map(|t| (here.world.now_ns.saturating_sub(t.0)) as f64 / 1e9);
    let up = up.map(|s| format!(", up for {}", span(s.max(0.0)))).unwrap_or_default();
    let version = status.collector_version.as_deref().unwrap_or("of unknown version");
    super::incident::heading(io, &format!("collector {version}{up}"))?;
    for check in wrong {
        one(io, check)?;
    }
    let well: Vec<&Check> = status.checks.iter().filter(|c| c.is_well()).collect();
    if wide {
        for check in well {
            one(io, check)?;
        }
    } else if !well.is_empty() {
        let names: Vec<_> = well.iter().map(|c| format!("{} {}", c.subject, c.name)).collect();
        words(io, "  ", &format!("well: {}", names.join(", ")))?;
    } else if wrong.is_empty() {
        io.say("the collector checked nothing")?;
    }
    Ok(())
}

fn one(io: &mut Io<'_>, check: &Check) -> Result<(), CliError> {
    let rank: Cell = check.rows(false).swap_remove(0).swap_remove(0);
    let shown = rank.paint().on(rank.text(), io.terminal.color).into_owned();
    let columns = io.terminal.room().unwrap_or(usize::MAX);
    let head = format!("{} {}", safe(&check.subject), safe(&check.name));
    // The rank is coloured apart from the rest, so that colours do not count as columns.
    let blank = " ".repeat(8_usize.saturating_sub(rank.text().len()));
    let head = crate::output::text::fit(&head, columns.saturating_sub(12)).into_owned();
    writeln!(io.out, "  {shown}{blank}  {head}")?;
    words(io, "            ", &check.words)?;
    if let Some(remedy) = &check.remedy {
        words(io, "            ", &format!("try: {remedy}"))?;
    }
    Ok(())
}

fn words(io: &mut Io<'_>, indent: &str, text: &str) -> Result<(), CliError> {
    let columns = io.terminal.columns.unwrap_or(PIPED_COLUMNS);
    // On a terminal too narrow for the indent there is none.
    let indent = if columns > 2 * indent.len() { indent } else { "" };
    for line in wrapped(&safe(text), columns - indent.len()) {
        writeln!(io.out, "{indent}{line}")?;
    }
    Ok(())
}

pub(super) async fn version(here: &Here<'_>, args: &VersionArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    writeln!(io.out, "dogwatch {}", env!("CARGO_PKG_VERSION"))?;
    io.out.flush()?;
    if args.client || here.settings.journal_only || here.settings.collector.is_none() {
        return Ok(());
    }
    let mut desk = here.desk().await?;
    let status = Status::from(desk.status().await?);
    let version = status.collector_version.as_deref().unwrap_or("of unknown version");
    writeln!(io.out, "collector {} at {}", safe(version), safe(desk.asked()))?;
    io.out.flush()?;
    Ok(())
}
