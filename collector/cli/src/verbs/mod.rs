//! Verbs: what each command does, from question to printed answer.

mod brake;
mod clean;
mod follow;
mod get;
mod hold;
mod incident;
mod itself;
mod logs;
mod picture;
mod preserved;
mod status;
mod top;
mod usage;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::args::{Cli, ConfigVerb, Format, Verb};
use crate::client::{self, Desk, Dial};
use crate::config::{self, Settings};
use crate::error::CliError;
use crate::output::Io;

/// Gives the value of an environment variable.
pub type Env<'e> = dyn Fn(&str) -> Option<OsString> + 'e;

/// What a command takes from around it: time, environment, and how collectors are reached.
pub struct World {
    /// Now, wall ns.
    pub now_ns: i64,
    /// Gives an environment variable.
    pub env: Box<Env<'static>>,
    /// How collectors are reached.
    pub dial: Dial,
    /// How people call this program: `dogwatch`, or `kubectl dogwatch`.
    pub called: &'static str,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("now_ns", &self.now_ns)
            .field("dial", &self.dial)
            .finish_non_exhaustive()
    }
}

/// Does what `cli` says.
pub async fn run(cli: Cli, world: &World, io: &mut Io<'_>) -> Result<(), CliError> {
    let settings = config::load(&cli.global, &*world.env)?;
    if cli.global.verbose {
        let file = settings.file.as_ref().map_or_else(|| "none".to_owned(), |f| f.display().to_string());
        io.say(&format!("configuration: {file}"))?;
        io.say(&format!("collector: {}", settings.collector.as_deref().unwrap_or("none")))?;
    }
    let candidates = config::candidates(&cli.global, &*world.env);
    let here = Here { settings, candidates, world, timeout: cli.global.timeout };
    match cli.verb {
        Verb::Get(args) => get::get(&here, args, io).await,
        Verb::Describe(args) => incident::describe(&here, &args.incident, io).await,
        Verb::Timeline(args) => incident::timeline(&here, &args, io).await,
        Verb::Top(args) if args.disk => usage::usage(&here, args, io).await,
        Verb::Top(args) => top::top(&here, args, io).await,
        Verb::Logs(args) => logs::logs(&here, args, io).await,
        Verb::Watch(args) => watch::watch(&here, args, io).await,
        Verb::Plan(args) => clean::plan(&here, &args, io).await,
        Verb::Clean(args) => clean::clean(&here, &args, io).await,
        Verb::Ack(args) => incident::acknowledge(&here, &args, io).await,
        Verb::Resolve(args) => incident::resolve(&here, &args, io).await,
        Verb::Reopen(args) => incident::reopen(&here, &args, io).await,
        Verb::Note(args) => incident::note(&here, &args, io).await,
        Verb::Hold(args) => hold::hold(&here, args.verb, io).await,
        Verb::Preserved(args) => preserved::preserved(&here, &args, io).await,
        Verb::Brake(args) => brake::run(&here, args.verb, io).await,
        Verb::Status(args) => status::status(&here, &args, io).await,
        Verb::Completion(args) => itself::completion(&here, &args, io),
        Verb::Man(args) => itself::man(&args, io),
        Verb::Config(args) => match args.verb {
            ConfigVerb::View => itself::config(&here, io),
        },
        Verb::Version(args) => status::version(&here, &args, io).await,
    }
}

/// What every verb starts from.
struct Here<'w> {
    settings: Settings,
    /// Configuration files that were looked for.
    candidates: Vec<(PathBuf, bool, &'static str)>,
    world: &'w World,
    timeout: Option<std::time::Duration>,
}

impl Here<'_> {
    async fn desk(&self) -> Result<Desk, CliError> {
        client::connect(&self.settings, &self.world.dial, self.timeout).await
    }

    /// The journal to read instead: only where no collector was named. Whoever named one wants its answer, and one
    /// node's records would pass for the cluster's; then the failure comes back, with the journal as a remedy.
    fn stand_in(&self, failed: CliError) -> Result<(&Path, CliError), CliError> {
        match (&self.settings.journal, &self.settings.collector, failed) {
            (Some(dir), None, failed @ (CliError::NoAnswer { .. } | CliError::Usage(_))) => Ok((dir, failed)),
            (Some(dir), Some(_), CliError::NoAnswer { asked, why, remedy }) => {
                let own = format!("--journal {}", dir.display());
                Err(CliError::NoAnswer { asked, why, remedy: remedy.replace("--journal DIR", &own) })
            }
            (_, _, failed) => Err(failed),
        }
    }

    /// For verbs that only a collector can carry out.
    async fn desk_for(&self, what: &str) -> Result<Desk, CliError> {
        if self.settings.journal_only {
            return Err(CliError::Failed(format!(
                "a node's journal cannot {what}: only a collector can\n  try: without --journal"
            )));
        }
        self.desk().await
    }
}

/// An id as people paste it: `incident/inc-…` is taken too.
fn id(text: &str) -> &str {
    text.strip_prefix("incident/").unwrap_or(text)
}

/// Asks on the terminal; anything but yes is no.
fn confirmed(io: &mut Io<'_>, question: &str) -> Result<bool, CliError> {
    io.out.flush()?;
    write!(io.err, "{question}")?;
    io.err.flush()?;
    let mut answer = String::new();
    // Bounded, because stdin is whatever it is.
    let read = std::io::Read::take(&mut *io.input, 64);
    std::io::BufRead::read_line(&mut std::io::BufReader::new(read), &mut answer)
        .map_err(|e| CliError::failed("cannot read the answer", &e))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Refuses a value that says nothing.
fn worded(flag: &str, text: &str) -> Result<(), CliError> {
    if text.trim().is_empty() {
        return Err(CliError::Usage(format!("{flag} is empty; say something that the next one can use")));
    }
    Ok(())
}

/// `-o name` of something that has none.
fn needs_no_name(format: Format, what: &str) -> Result<(), CliError> {
    match format {
        Format::Name => {
            Err(CliError::Usage(format!("{what} have no names; use -o table, wide, json, jsonl or yaml")))
        }
        _ => Ok(()),
    }
}
