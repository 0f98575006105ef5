//! `logs`: log lines, from a collector, or all of them from a node's own journal.

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use dogwatch::record::{Kind, Kinds, Severity};

use super::follow::Feed;
use super::get::{Pattern, instead, takes, within};
use super::{Here, id};
use crate::args::{LogFormat, LogsArgs, Selectors};
use crate::ask;
use crate::client::Desk;
use crate::error::CliError;
use crate::journal::Folder;
use crate::output::text::{Paint, fit, safe, width};
use crate::output::{Io, json, yaml};
use crate::range::Range;
use crate::time::Utc;

use crate::view::{Event, What};

/// How far back lines are shown where nobody says.
const USUAL: &str = "1h";
/// What belongs to an incident's lines before its first finding and after its end.
const AROUND_NS: i64 = 300 * 1_000_000_000;
/// Lines that are remembered so that none is shown twice where the list and what follows overlap.
const REMEMBERED: usize = 10_000;

pub(super) async fn logs(here: &Here<'_>, args: LogsArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let which = args.which.clone().checked()?;
    let pattern = args.grep.as_deref().map(Pattern::new).transpose()?;
    let mut when = args.when.clone();
    let asked = when.since.is_some() || when.until.is_some();
    let usual = !asked && args.limit.is_none() && args.incident.is_none();
    if usual {
        when.since = Some(USUAL.to_owned());
    }
    let range = when.range(here.world.now_ns)?;
    let format = if args.no_prefix { LogFormat::Raw } else { args.output };
    if args.no_prefix && !matches!(args.output, LogFormat::Text | LogFormat::Raw) {
        return Err(CliError::Usage("--no-prefix is for -o text; objects have no prefix".to_owned()));
    }
    if args.follow && matches!(format, LogFormat::Json | LogFormat::Yaml) {
        return Err(CliError::Usage(
            "-f has no end, and an array has one; use -o text, raw or jsonl".to_owned(),
        ));
    }
    if args.follow && range.until.is_some() {
        return Err(CliError::Usage("--until ends and -f does not; give one of the two".to_owned()));
    }
    if args.incident.is_some() && here.settings.journal_only {
        return Err(CliError::Usage(
            "--incident asks a collector, which alone knows incidents; with --journal give --since and --until".to_owned(),
        ));
    }
    let mut ask = Ask { which, pattern, range, usual, args };
    let mut lines = Lines { format, shown: 0, kept: VecDeque::new(), limit: ask.args.limit };
    if here.settings.journal_only {
        let dir = here.settings.journal.as_deref().unwrap_or(Path::new("."));
        return from_journal(dir, &ask, lines, io);
    }
    let failed = match here.desk().await {
        Ok(mut desk) => {
            if let Some(incident) = &ask.args.incident {
                let around = around(&mut desk, incident).await?;
                ask.narrow(around, asked, io)?;
            }
            match from_collector(here, desk, &ask, &mut lines, io).await {
                Err(e) if lines.shown == 0 && lines.kept.is_empty() => e,
                other => return other,
            }
        }
        Err(e) => e,
    };
    if ask.args.follow || ask.args.incident.is_some() {
        return Err(failed);
    }
    let (dir, failed) = here.stand_in(failed)?;
    io.say(&instead(&failed, dir))?;
    from_journal(dir, &ask, lines, io)
}

/// What was asked, checked.
struct Ask {
    which: Selectors,
    pattern: Option<Pattern>,
    range: Range,
    /// Whether the range is the usual one, because nobody gave any.
    usual: bool,
    args: LogsArgs,
}

impl Ask {
    /// To what an incident is about, where nobody chose otherwise.
    fn narrow(&mut self, around: Around, asked: bool, io: &mut Io<'_>) -> Result<(), CliError> {
        if self.which.nodes.is_empty() {
            self.which.nodes = around.nodes;
        }
        if !asked {
            self.range = around.range;
        }
        let moment = |at: Option<i64>| at.map_or_else(|| "now".to_owned(), |at| Utc(at).to_the_second());
        let (since, until) = (moment(self.range.since), moment(self.range.until));
        io.say(&format!("{} from {since} to {until}", self.which.nodes.join(", ")))
    }

    fn note(&self, io: &mut Io<'_>, whose: &str) -> Result<(), CliError> {
        let usual =
            if self.usual { format!("the last {USUAL}; --since asks for more. ") } else { String::new() };
        io.say(&format!("{usual}{whose}"))
    }
}

/// Where and when an incident was.
struct Around {
    nodes: Vec<String>,
    range: Range,
}

async fn around(desk: &mut Desk, incident: &str) -> Result<Around, CliError> {
    let detail = desk.describe(id(incident)).await?;
    let told = detail.incident.unwrap_or_default();
    let raised = detail.findings.iter().filter_map(|f| f.finding.as_ref()).map(|f| f.raised_wall_ns);
    let first = raised.filter(|at| *at > 0).fold(told.opened_wall_ns, i64::min);
    let end = Some(told.resolved_wall_ns).filter(|at| *at > 0);
    let range = Range {
        since: Some(first.saturating_sub(AROUND_NS)),
        until: end.map(|at| at.saturating_add(AROUND_NS)),
    };
    Ok(Around { nodes: told.nodes, range })
}

async fn from_collector(
    here: &Here<'_>,
    mut desk: Desk,
    ask: &Ask,
    lines: &mut Lines,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let args = &ask.args;
    let log = || vec![Kind::Log.as_str().to_owned()];
    // Watched before it is listed, so that no line falls between.
    let feed = if args.follow {
        Some(Feed::open(here, desk.clone(), ask::watch(&ask.which, log(), args.grep.clone())).await?)
    } else {
        None
    };
    let question = ask::Events {
        range: ask.range,
        kinds: log(),
        limit: args.limit.unwrap_or(0),
        grep: args.grep.clone(),
        source: args.source.clone(),
    };
    let mut answers = desk.events(ask::events(&ask.which, question)).await?;
    let mut next = answers.next().await?;
    ask.note(
        io,
        "the collector holds the lines that matched a rule, and those around them; every line is in the node's own \
         journal (there: dogwatch logs --journal DIR)",
    )?;
    let mut seen = Seen::default();
    lines.begin(io)?;
    while let Some(line) = next {
        let line = Event::from(line);
        // A collector that knows no selector would give those of other nodes too.
        if ask.which.takes_node(line.node.as_deref()) {
            seen.note(&line);
            lines.take(io, line)?;
        }
        next = answers.next().await?;
    }
    let Some(mut feed) = feed else { return lines.finish(io) };
    lines.write_kept(io)?;
    io.out.flush()?;
    loop {
        let What::Event(line) = feed.next(io).await?.what else { continue };
        // A watch chooses by selector and pattern, and what the collector chose is not chosen again; the source is, here.
        if line.kind == Kind::Log.as_str()
            && !seen.has(&line)
            && args.source.as_deref().is_none_or(|s| within(s, &line.source))
        {
            lines.write(io, &line)?;
            io.out.flush()?;
        }
    }
}

fn from_journal(dir: &Path, ask: &Ask, mut lines: Lines, io: &mut Io<'_>) -> Result<(), CliError> {
    if ask.args.follow {
        return Err(CliError::Usage(
            "a journal cannot be followed, a collector can\n  try: without -f, or without --journal"
                .to_owned(),
        ));
    }
    let folder = Folder::open(dir)?;
    ask.note(io, &format!("every line that the journal {} still has", dir.display()))?;
    let mut remarks = Vec::new();
    let mut seen = Seen::default();
    lines.begin(io)?;
    folder.events(Kinds::default().with(Kind::Log), ask.range, true, &mut remarks, |line| {
        // A line that matched is in the evidence and in the recorder.
        if !seen.has(&line) && takes(&ask.which, ask.args.source.as_deref(), ask.pattern.as_ref(), &line) {
            seen.note(&line);
            lines.take(io, line)?;
        }
        Ok(true)
    })?;
    lines.finish(io)?;
    remarks.iter().try_for_each(|r| io.say(r))
}

/// What names one line: node, source, where in it, and when it was recorded.
type Name = (Option<String>, String, Option<String>, i64);

/// The newest lines that were shown.
#[derive(Default)]
struct Seen {
    names: HashSet<Name>,
    order: VecDeque<Name>,
}

impl Seen {
    fn name(line: &Event) -> Name {
        (line.node.clone(), line.source.clone(), line.fields.get("offset").cloned(), line.time.0)
    }

    fn has(&self, line: &Event) -> bool {
        self.names.contains(&Self::name(line))
    }

    fn note(&mut self, line: &Event) {
        let name = Self::name(line);
        if self.names.insert(name.clone()) {
            self.order.push_back(name);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }
}

/// Lines on their way out: as they come, or the newest few kept back until the end.
struct Lines {
    format: LogFormat,
    shown: u64,
    kept: VecDeque<Event>,
    limit: Option<u32>,
}

impl Lines {
    fn begin(&self, io: &mut Io<'_>) -> Result<(), CliError> {
        if self.format == LogFormat::Json {
            write!(io.out, "[")?;
        }
        Ok(())
    }

    fn take(&mut self, io: &mut Io<'_>, line: Event) -> Result<(), CliError> {
        let Some(limit) = self.limit else { return self.write(io, &line) };
        if self.kept.len() >= limit as usize {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
        Ok(())
    }

    fn write_kept(&mut self, io: &mut Io<'_>) -> Result<(), CliError> {
        std::mem::take(&mut self.kept).iter().try_for_each(|line| self.write(io, line))
    }

    fn finish(&mut self, io: &mut Io<'_>) -> Result<(), CliError> {
        self.write_kept(io)?;
        match self.format {
            LogFormat::Json => writeln!(io.out, "{}", if self.shown == 0 { "]" } else { "\n]" })?,
            LogFormat::Yaml if self.shown == 0 => writeln!(io.out, "[]")?,
            LogFormat::Text | LogFormat::Raw if self.shown == 0 => io.say("no lines")?,
            _ => {}
        }
        io.out.flush()?;
        Ok(())
    }

    fn write(&mut self, io: &mut Io<'_>, line: &Event) -> Result<(), CliError> {
        self.shown += 1;
        match self.format {
            LogFormat::Text => text(io, line),
            LogFormat::Raw if io.terminal.shown => Ok(writeln!(io.out, "{}", safe(&line.message))?),
            LogFormat::Raw => Ok(writeln!(io.out, "{}", line.message)?),
            LogFormat::Json => {
                write!(io.out, "{}", if self.shown > 1 { ",\n" } else { "\n" })?;
                json::line(io.out, line)
            }
            LogFormat::Jsonl => {
                json::line(io.out, line)?;
                Ok(writeln!(io.out)?)
            }
            LogFormat::Yaml => yaml::item(io.out, line),
        }
    }
}

/// Columns below which a line has only the time of day before it, and whose it is without its node.
const NARROW: usize = 80;

/// `time node pod/container | line`, on a terminal cut to one line unless it is wide enough.
fn text(io: &mut Io<'_>, line: &Event) -> Result<(), CliError> {
    let color = io.terminal.color;
    let narrow = io.terminal.room().is_some_and(|c| c < NARROW);
    let whole = line.time.to_the_second();
    let time = if narrow { whole.get(11..19).unwrap_or(&whole) } else { &whole };
    let whose = line.pod().unwrap_or_else(|| line.source.clone());
    let whose = if narrow { whose.rsplit('/').next().unwrap_or_default().to_owned() } else { whose };
    let node = if narrow { "" } else { line.node.as_deref().unwrap_or("-") };
    let mut room = io.terminal.room().unwrap_or(usize::MAX);
    let paint = match line.severity {
        Some(s) if s > Severity::Info => Paint::Notice,
        _ => Paint::Plain,
    };
    for (words, gap, paint) in [
        (time, " ", Paint::Dim),
        (node, if node.is_empty() { "" } else { " " }, Paint::Dim),
        (whose.as_str(), " | ", Paint::Bold),
        (line.message.as_str(), "", paint),
    ] {
        let shown = safe(words);
        let cut = fit(&shown, room);
        room -= width(&cut).min(room);
        write!(io.out, "{}", paint.on(&cut, color))?;
        let gap = fit(gap, room.min(gap.len()));
        room -= width(&gap).min(room);
        if room > 0 {
            write!(io.out, "{gap}")?;
        }
    }
    writeln!(io.out)?;
    Ok(())
}
