//! `watch`: what happens from now on, a line each.

use super::follow::{Feed, at_least};
use super::{Here, get::Pattern};
use crate::args::{Format, WatchArgs};
use crate::ask;
use crate::error::CliError;
use crate::output::table::Cell;
use crate::output::text::{fit, width};
use crate::output::{Io, Listed, json};
use crate::view::{News, What};

/// What events are, where `--grep` is given and no kind.
const GREPPED: &str = "log";

pub(super) async fn watch(here: &Here<'_>, args: WatchArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    if !args.output.endless() {
        return Err(CliError::Usage(
            "watch has no end, and an array has one; use -o table, wide, jsonl or name".to_owned(),
        ));
    }
    let which = args.which.checked()?;
    args.grep.as_deref().map(Pattern::new).transpose()?;
    let mut kinds = args.kind;
    if kinds.is_empty() && args.grep.is_some() {
        kinds.push(GREPPED.to_owned());
    }
    let desk = here.desk_for("be watched").await?;
    let mut feed = Feed::open(here, desk, ask::watch(&which, kinds, args.grep)).await?;
    if args.output.for_people() {
        io.say("watching; Ctrl-C ends it")?;
    }
    loop {
        let news = feed.next(io).await?;
        if at_least(which.severity, worth(&news)) {
            write(io, args.output, &news)?;
            io.out.flush()?;
        }
    }
}

fn worth(news: &News) -> Option<dogwatch::record::Severity> {
    match &news.what {
        What::Incident(i) => i.severity,
        What::Finding(f) => f.severity,
        What::Event(e) => e.severity,
        // The collector chose by what they belong to.
        What::Action(_) | What::Missed(_) => Some(dogwatch::record::Severity::Critical),
    }
}

fn write(io: &mut Io<'_>, format: Format, news: &News) -> Result<(), CliError> {
    match format {
        Format::Jsonl | Format::Json | Format::Yaml => {
            json::line(io.out, news)?;
            writeln!(io.out)?;
        }
        Format::Name => {
            if let Some(name) = news.name() {
                writeln!(io.out, "{}", crate::output::text::safe(name))?;
            }
        }
        Format::Table | Format::Wide => {
            // Each line by itself: what comes next is not known, so columns cannot be as wide as what is in them.
            let columns = io.terminal.room().filter(|_| format == Format::Table);
            for row in news.rows(false) {
                write_line(io, &row, columns)?;
            }
        }
    }
    Ok(())
}

fn write_line(io: &mut Io<'_>, row: &[Cell], columns: Option<usize>) -> Result<(), CliError> {
    const LEAST: [usize; 5] = [20, 12, 8, 8, 0];
    let narrow = columns.is_some_and(|c| c < 80);
    let mut room = columns.unwrap_or(usize::MAX);
    let mut line = String::new();
    for (i, (cell, least)) in row.iter().zip(LEAST).enumerate() {
        // On a narrow terminal the time of day does, and the kind is in the words.
        if narrow && i == 3 {
            continue;
        }
        let text =
            if narrow && i == 0 { cell.text().get(11..19).unwrap_or(cell.text()) } else { cell.text() };
        // Where room is short words need it more than columns in line.
        let least = if narrow { 0 } else { least };
        let cut = fit(text, room);
        room -= width(&cut).min(room);
        line.push_str(&cell.paint().on(&cut, io.terminal.color));
        if i + 1 < row.len() {
            let blank = (least.saturating_sub(width(text)) + 2).min(room);
            room -= blank;
            line.push_str(&" ".repeat(blank));
        }
    }
    writeln!(io.out, "{}", line.trim_end())?;
    Ok(())
}
