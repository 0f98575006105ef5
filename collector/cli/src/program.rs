//! The process around a command: parses, asks, prints, and maps what went wrong to an exit code. Both programs,
//! `dogwatch` and `kubectl-dogwatch`, are this.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::error::CliError;
use crate::output::plain::Ascii;
use crate::output::text::safe;
use crate::{Cli, Dial, Io, Terminal, World, run};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let called = called(env::args_os().next().as_deref());
    let parsed = command(called).try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            // Help that nobody reads any more is no failure.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let terminal = terminal();
    let (mut out, mut err, mut input) = (
        BufWriter::new(writer(io::stdout().lock(), terminal.ascii)),
        writer(io::stderr().lock(), terminal.ascii),
        io::stdin().lock(),
    );
    let mut io = Io { out: &mut out, err: &mut err, input: &mut input, terminal };
    let outcome = start(cli, called, &mut io);
    // A full buffer is written by its drop, which could not report.
    let outcome = outcome.and(out.flush().map_err(CliError::from));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if !matches!(e, CliError::BrokenPipe) {
                let text = e.to_string();
                let shown: Vec<_> = text.lines().map(safe).collect();
                let _ = writeln!(err, "dogwatch: {}", shown.join("\n"));
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// How people call this program: `kubectl dogwatch` where it is kubectl's plugin, by the name that it was started by.
pub(crate) fn called(argv0: Option<&OsStr>) -> &'static str {
    let name = argv0.map(Path::new).and_then(Path::file_name).unwrap_or_default();
    match name.to_str() {
        Some("kubectl-dogwatch" | "kubectl_dogwatch") => "kubectl dogwatch",
        _ => "dogwatch",
    }
}

/// The command line, with `called` in its usage lines and examples.
pub(crate) fn command(called: &'static str) -> clap::Command {
    renamed(Cli::command().bin_name(called), called)
}

fn renamed(command: clap::Command, called: &str) -> clap::Command {
    if called == "dogwatch" {
        return command;
    }
    let examples =
        command.get_after_help().map(|h| h.to_string().replace("  dogwatch ", &format!("  {called} ")));
    let command = match examples {
        Some(examples) => command.after_help(examples),
        None => command,
    };
    command.mut_subcommands(|c| renamed(c, called))
}

fn start(cli: Cli, called: &'static str, io: &mut Io<'_>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failed("cannot start", &e))?;
    let world =
        World { now_ns: now_ns(), env: Box::new(|key| env::var_os(key)), dial: Dial::Configured, called };
    let outcome = runtime.block_on(run(cli, &world, io));
    // A task that still asks for something must not keep the program from ending.
    runtime.shutdown_background();
    outcome
}

/// Now, wall ns.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn writer<'w>(to: impl Write + 'w, ascii: bool) -> Box<dyn Write + 'w> {
    if ascii { Box::new(Ascii::new(to)) } else { Box::new(to) }
}

/// Columns of a terminal that does not tell.
const UNTOLD_COLUMNS: usize = 80;
/// More columns than any screen has: more wished for is a mistake.
const MAX_COLUMNS: usize = 10_000;

fn terminal() -> Terminal {
    let shown = io::stdout().is_terminal();
    let told =
        terminal_size::terminal_size_of(io::stdout()).map(|(w, _)| usize::from(w.0)).filter(|w| *w > 0);
    let dumb = env::var_os("TERM").is_some_and(|t| t == "dumb");
    let plain = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || dumb;
    Terminal {
        shown,
        columns: columns(shown, told, env::var("COLUMNS").ok().as_deref()),
        color: shown && !plain,
        can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
        live: shown && told.is_some() && io::stdin().is_terminal() && !dumb,
        ascii: shown && !unicode(|key| env::var(key).ok()),
    }
}

/// Columns: a terminal's own count, else those that the variable `COLUMNS` wishes for. POSIX (XBD 8.3) has that variable
/// stand above what the terminal tells; here it stands below, because shells export it and do not follow a terminal that
/// is made wider. It says nothing of what a pipe may hold: [`Terminal::room`].
fn columns(shown: bool, told: Option<usize>, wished: Option<&str>) -> Option<usize> {
    let wished = wished.and_then(|w| w.trim().parse().ok()).filter(|w| (1..=MAX_COLUMNS).contains(w));
    told.filter(|_| shown).or(wished).or(shown.then_some(UNTOLD_COLUMNS))
}

/// Whether the locale is one of UTF-8, by the first of the variables that counts (locale(7)).
fn unicode(env: impl Fn(&str) -> Option<String>) -> bool {
    let counts = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(env).find(|v| !v.is_empty());
    counts.is_some_and(|v| {
        let v = v.to_ascii_lowercase();
        v.contains("utf-8") || v.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_says_what_can_be_drawn() {
        let with = |vars: &[(&str, &str)]| {
            unicode(|key| vars.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_owned()))
        };
        assert!(with(&[("LANG", "en_GB.UTF-8")]) && with(&[("LC_ALL", "C.utf8"), ("LANG", "C")]));
        assert!(!with(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(with(&[("LC_ALL", ""), ("LANG", "de_DE.utf8")]) && !with(&[]));
    }

    #[test]
    fn a_terminals_own_columns_count_before_those_that_are_wished_for() {
        assert_eq!(columns(true, Some(100), Some("40")), Some(100));
        assert_eq!((columns(true, None, Some("40")), columns(true, None, None)), (Some(40), Some(80)));
        assert_eq!((columns(false, None, Some("40")), columns(false, None, None)), (Some(40), None));
        for nonsense in ["", "0", "-1", "wide", "1000000"] {
            assert_eq!(columns(false, None, Some(nonsense)), None, "{nonsense:?}");
            assert_eq!(columns(true, None, Some(nonsense)), Some(80), "{nonsense:?}");
        }
    }

    #[test]
    fn as_a_plugin_it_calls_itself_what_people_type() {
        assert_eq!(called(Some(OsStr::new("/usr/local/bin/kubectl-dogwatch"))), "kubectl dogwatch");
        assert_eq!((called(Some(OsStr::new("./dogwatch"))), called(None)), ("dogwatch", "dogwatch"));
        let mut plugin = command("kubectl dogwatch");
        assert!(plugin.render_help().to_string().contains("Usage: kubectl dogwatch [OPTIONS]"));
        let help = plugin.find_subcommand_mut("watch").unwrap().render_long_help().to_string();
        assert!(help.contains("  kubectl dogwatch watch --severity high"), "{help}");
    }
}
