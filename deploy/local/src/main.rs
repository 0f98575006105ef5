//! `cargo up`: collector and agent of this machine, under one folder, with a live status.
//!
//! One binary plays all parts: it starts itself as `collector` and as `agent`, which starts itself as its executor, so
//! that one build shows everything with the same split into processes as on a cluster, and real mTLS between them.
//! It needs no root; what the agent cannot see or do without it, the status says.

mod children;
mod setup;
mod status;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use dogwatch::record::CleanupMode;

/// Collector and agent of this machine, with a live status. Ctrl-C ends both.
#[derive(Debug, Parser)]
#[command(name = "cargo up", bin_name = "cargo up", version)]
struct Cli {
    /// Folder for everything. Default: $DOGWATCH_STATE, $XDG_STATE_HOME/dogwatch, ~/.local/state/dogwatch
    #[arg(long)]
    state: Option<PathBuf>,
    /// What the cleanup may do: off, plan (show it), auto (do it).
    #[arg(long, default_value = "plan")]
    mode: CleanupMode,
    /// A folder whose rotated logs may be cleaned; can be given more than once. Default: /var/log
    #[arg(long = "clean", value_name = "DIR")]
    roots: Vec<PathBuf>,
    /// How old a rotated log must be before it may go: 24h, 10m, 0s.
    #[arg(long, default_value = "24h")]
    min_age: String,
    /// Logs to watch besides the usual ones: absolute path with wildcards; can be given more than once.
    #[arg(long = "log", value_name = "GLOB")]
    logs: Vec<String>,
    /// Print one line a change instead of drawing, as without a terminal.
    #[arg(long)]
    plain: bool,
}

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let part = rest.first().and_then(|a| a.to_str());
    // The executor ends with the agent by its socket.
    let executor = rest.iter().any(|a| a == "executor");
    if matches!(part, Some("agent" | "collector")) && !executor && !children::end_with_parent() {
        eprintln!("the `cargo up` that started this is gone");
        return ExitCode::FAILURE;
    }
    match part {
        Some("agent") => {
            let args = std::iter::once("dogwatch-agent".into()).chain(rest.into_iter().skip(1));
            dogwatch_agent::command::main(args, &["agent"])
        }
        Some("collector") => {
            let args = std::iter::once("dogwatch-collector".into()).chain(rest.into_iter().skip(1));
            dogwatch_collector::command::main(args)
        }
        _ => up(Cli::parse_from(std::iter::once(program).chain(rest))),
    }
}

fn up(cli: Cli) -> ExitCode {
    let plain = cli.plain || !std::io::stdout().is_terminal();
    let wishes = setup::Wishes {
        state: cli.state,
        mode: cli.mode,
        roots: cli.roots,
        min_age: cli.min_age,
        logs: cli.logs,
    };
    match start(&wishes, plain) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cargo up: {e}");
            ExitCode::FAILURE
        }
    }
}

fn start(wishes: &setup::Wishes, plain: bool) -> Result<(), String> {
    let place = setup::prepare(wishes)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| format!("starting: {e}"))?;
    runtime.block_on(children::run(place, plain))
}
