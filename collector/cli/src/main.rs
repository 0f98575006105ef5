//! `dogwatch`: parses, asks, prints, and maps what went wrong to an exit code.

use std::env;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use dogwatch_cli::error::CliError;
use dogwatch_cli::{Cli, Dial, Io, Terminal, World, run};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help that nobody reads any more is no failure.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let (mut out, mut err, mut input) =
        (BufWriter::new(io::stdout().lock()), io::stderr().lock(), io::stdin().lock());
    let terminal = terminal();
    let mut io = Io { out: &mut out, err: &mut err, input: &mut input, terminal };
    let outcome = start(cli, &mut io);
    // A full buffer is written by its drop, which could not report.
    let outcome = outcome.and(out.flush().map_err(CliError::from));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if !matches!(e, CliError::BrokenPipe) {
                let text = e.to_string();
                let shown: Vec<String> = text.lines().map(dogwatch_cli::harmless).collect();
                let _ = writeln!(err, "dogwatch: {}", shown.join("\n"));
            }
            ExitCode::from(e.exit_code())
        }
    }
}

fn start(cli: Cli, io: &mut Io<'_>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failed("cannot start", &e))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let world = World {
        now_ns: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        env: Box::new(|key| env::var_os(key)),
        dial: Dial::Configured,
    };
    runtime.block_on(run(cli, &world, io))
}

fn terminal() -> Terminal {
    let shown = io::stdout().is_terminal();
    let columns =
        terminal_size::terminal_size_of(io::stdout()).map(|(w, _)| usize::from(w.0)).filter(|w| *w > 0);
    let plain = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || env::var_os("TERM").is_some_and(|t| t == "dumb");
    Terminal {
        columns: columns.filter(|_| shown),
        color: shown && !plain,
        can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
    }
}
