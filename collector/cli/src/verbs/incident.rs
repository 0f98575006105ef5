//! Verbs about one incident: told in full, told in order, and what people say to it.

use super::{Here, id, needs_no_name, picture, worded};
use crate::args::{Format, IncidentArgs, NoteArgs, SayArgs};
use crate::error::CliError;
use crate::output::text::{Paint, fit, safe};
use crate::output::{Io, List, Listed, json, one, yaml};
use crate::time::Utc;
use crate::view::{Detail, Entry, Incident};

pub(super) async fn describe(here: &Here<'_>, args: &IncidentArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("describe an incident").await?;
    let detail = desk.describe(id(&args.id)).await?;
    let detail = Detail::from_wire(detail)
        .ok_or_else(|| CliError::Failed(format!("the collector's answer lacks the incident {}", args.id)))?;
    match args.output {
        Format::Json => {
            json::pretty(io.out, &detail)?;
            writeln!(io.out)?;
        }
        Format::Jsonl => {
            json::line(io.out, &detail)?;
            writeln!(io.out)?;
        }
        Format::Yaml => yaml::document(io.out, &detail)?,
        Format::Name => writeln!(io.out, "{}", safe(&detail.incident.id))?,
        Format::Table | Format::Wide => {
            let trends = if io.terminal.shown {
                picture::trends(&mut desk, &detail, here.world.now_ns).await
            } else {
                Vec::new()
            };
            write_detail(io, &detail, &trends, args.output == Format::Wide)?;
        }
    }
    io.out.flush()?;
    Ok(())
}

pub(super) async fn timeline(here: &Here<'_>, args: &IncidentArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    needs_no_name(args.output, "timeline entries")?;
    let mut desk = here.desk_for("tell an incident").await?;
    let mut answers = desk.timeline(id(&args.id)).await?;
    let mut next = answers.next().await?;
    if args.output == Format::Table
        && let Some(columns) = io.terminal.room()
    {
        let mut drawn = picture::Gutter::new(columns);
        while let Some(entry) = next {
            drawn.entry(io, &Entry::from(entry))?;
            next = answers.next().await?;
        }
        io.out.flush()?;
        return if drawn.is_empty() { io.say("no entries") } else { Ok(()) };
    }
    let mut list = List::begin::<Entry>(io, args.output)?;
    while let Some(entry) = next {
        list.push(io, &Entry::from(entry))?;
        next = answers.next().await?;
    }
    list.finish::<Entry>(io)
}

pub(super) async fn acknowledge(here: &Here<'_>, args: &SayArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("acknowledge an incident").await?;
    let incident = desk.acknowledge(id(&args.id), &args.text).await?.into();
    said(io, args.output, "acknowledged", &incident)
}

pub(super) async fn resolve(here: &Here<'_>, args: &SayArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("resolve an incident").await?;
    let incident = desk.resolve(id(&args.id), &args.text).await?.into();
    said(io, args.output, "resolved", &incident)
}

pub(super) async fn reopen(here: &Here<'_>, args: &SayArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut desk = here.desk_for("reopen an incident").await?;
    let incident = desk.reopen(id(&args.id), &args.text).await?.into();
    said(io, args.output, "reopened", &incident)
}

pub(super) async fn note(here: &Here<'_>, args: &NoteArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let text = args.text.join(" ");
    worded("a note", &text)?;
    let mut desk = here.desk_for("take a note").await?;
    let incident = desk.note(id(&args.id), &text).await?.into();
    said(io, args.output, "noted on", &incident)
}

/// One line for people, the incident for programs.
fn said(io: &mut Io<'_>, format: Format, what: &str, incident: &Incident) -> Result<(), CliError> {
    if format != Format::Table {
        return one(io, format, incident);
    }
    writeln!(io.out, "{what} {}: {}", safe(&incident.id), safe(&incident.title))?;
    io.out.flush()?;
    Ok(())
}

fn write_detail(
    io: &mut Io<'_>,
    detail: &Detail,
    trends: &[picture::Trend],
    wide: bool,
) -> Result<(), CliError> {
    let i = &detail.incident;
    heading(io, &format!("{}  {}", i.id, i.title))?;
    let time = |t: Option<Utc>| t.map_or_else(|| "-".to_owned(), Utc::to_the_second);
    let by = i.acknowledged_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let acknowledged = time(i.acknowledged_at) + &by;
    for (key, value) in [
        ("severity", i.severity.map_or("-", |s| s.as_str()).to_owned()),
        ("state", i.state.clone()),
        ("nodes", i.nodes.join(", ")),
        ("opened", time(i.opened_at)),
        ("acknowledged", acknowledged),
        ("resolved", time(i.resolved_at)),
        ("because", i.reason.clone()),
    ] {
        writeln!(io.out, "  {key:<12}  {}", safe(&value))?;
    }
    picture::write(io, trends)?;
    section(io, "Findings", &detail.finding_details, wide)?;
    section(io, "Actions", &detail.action_details, wide)?;
    if !detail.belongs.is_empty() {
        heading(io, "\nWhy each piece belongs")?;
        for why in &detail.belongs {
            writeln!(io.out, "  {}", safe(why))?;
        }
    }
    match io.terminal.room() {
        Some(columns) if !wide && !detail.timeline.is_empty() => {
            heading(io, "\nTimeline")?;
            let mut drawn = picture::Gutter::new(columns);
            detail.timeline.iter().try_for_each(|entry| drawn.entry(io, entry))
        }
        _ => section(io, "Timeline", &detail.timeline, wide),
    }
}

fn section<T: Listed>(io: &mut Io<'_>, title: &str, items: &[T], wide: bool) -> Result<(), CliError> {
    if items.is_empty() {
        return Ok(());
    }
    heading(io, &format!("\n{title}"))?;
    let mut table = io.table(T::columns(wide)).indented();
    for item in items {
        for row in item.rows(wide) {
            table.push(io.out, row)?;
        }
    }
    table.finish(io.out)
}

/// A bold line; a blank line before it where `text` begins with a newline.
pub(super) fn heading(io: &mut Io<'_>, text: &str) -> Result<(), CliError> {
    if text.starts_with('\n') {
        writeln!(io.out)?;
    }
    let shown = safe(text.trim_start_matches('\n')).into_owned();
    let cut = fit(&shown, io.terminal.room().unwrap_or(usize::MAX)).into_owned();
    writeln!(io.out, "{}", Paint::Bold.on(&cut, io.terminal.color))?;
    Ok(())
}
