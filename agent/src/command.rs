//! The command line of `dogwatch-agent`: run it, be its executor, see what fills a disk or when it would be full, remove
//! what it left.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dogwatch::record::CleanupMode;
use dogwatch::reload::Origin;
use dogwatch::{telemetry, termination};

use crate::act::at_work::AtWork;
use crate::act::executor;
use crate::act::handle::CHILD_SOCKET;
use crate::act::hold_line::HoldLine;
use crate::act::images;
use crate::act::work::{ImageLaunch, Launch};
use crate::config::Config;
use crate::forecast::{self, ForecastArgs};
use crate::run::{Started, run};
use crate::uninstall::{self, UninstallArgs};
use crate::usage::verb::{self as usage, UsageArgs};

/// Arenas of the allocator: one for whoever is busy, and one for the others.
const ARENAS: u8 = 2;

/// A flight recorder and first responder for this node.
#[derive(Debug, Parser)]
#[command(name = "dogwatch-agent", version)]
struct Cli {
    /// YAML file; without one, defaults and DOGWATCH_SECTION__KEY.
    #[arg(long, global = true, env = "DOGWATCH_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// Only check the configuration: exit code 0, or 2 for a mistake. Cleanup roots that cannot be used on this machine are
    /// named, and are no mistake.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Be the executor of the agent that started this.
    #[command(hide = true)]
    Executor,
    /// Be the image keeper of the agent that started this.
    #[command(hide = true)]
    ImageKeeper,
    /// Show what fills a filesystem: the largest folders as a tree, and the largest files. Needs no configuration.
    Usage(UsageArgs),
    /// Remove what the agent left on this node: its state, and empty quarantine folders. Exit code 1: some of it stays.
    Uninstall(UninstallArgs),
    /// Say for each row of a CSV file (time, available, capacity) when the filesystem would be full, as the rule
    /// disk-time-to-full reckons it.
    Forecast(ForecastArgs),
}

/// Parses `args`, runs, and gives the exit code: 0 done, 1 failed, 2 usage or configuration. `prefix` are the arguments
/// that lead a program that is more than the agent to this function; the executor is started with them.
pub fn main(args: impl IntoIterator<Item = OsString>, prefix: &[&str]) -> ExitCode {
    dogwatch::arenas::settle(ARENAS);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Where even that cannot be printed there is nobody to tell.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match cli.command {
        Some(Verb::Executor) => return executor::child_main(CHILD_SOCKET),
        Some(Verb::ImageKeeper) => return images::child::child_main(CHILD_SOCKET),
        _ => {}
    }
    if let Some(Verb::Usage(args)) = &cli.command {
        return usage::main(args);
    }
    let origin = Origin::of(cli.config.as_deref());
    let read = Config::read(cli.config.as_deref(), std::env::vars());
    if cli.check_config {
        let unusable = read.config.policy.unusable(&read.config.state_dir);
        for problem in unusable {
            telemetry::say(&format!(
                "dogwatch-agent: on this machine a root is left alone: cleanup.{problem}"
            ));
        }
        for (index, path) in read.config.policy.absent() {
            telemetry::say(&format!(
                "dogwatch-agent: on this machine there is no {}: nothing is cleaned there until there is (cleanup.roots[{index}].path)",
                path.display()
            ));
        }
    }
    let (config, keys) = match read.problems {
        None => (read.config, read.keys),
        Some(problems) => {
            if cli.command.is_none() && !cli.check_config {
                termination::tell(&format!("dogwatch-agent: {problems}"));
            }
            telemetry::say(&format!("dogwatch-agent: {problems}"));
            return ExitCode::from(2);
        }
    };
    match &cli.command {
        Some(Verb::Uninstall(args)) => return uninstall::main(&config, args),
        Some(Verb::Forecast(args)) => return forecast::main(&config.detect.forecast, args),
        Some(Verb::Executor | Verb::ImageKeeper | Verb::Usage(_)) | None => {}
    }
    if cli.check_config {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    telemetry::init(&config.log_level, config.log_format);
    termination::watch_panics();
    let fail = |why: String| {
        termination::tell(&format!("dogwatch-agent: {why}"));
        telemetry::say(&format!("dogwatch-agent: {why}"));
        ExitCode::FAILURE
    };
    let program = match std::env::current_exe() {
        Ok(p) => p,
        Err(e) => return fail(format!("finding its own program: {e}")),
    };
    let led_to = |verb: &str| prefix.iter().map(OsString::from).chain([verb.into()]).collect();
    let launch = Launch {
        program,
        args: led_to("executor"),
        policy: config.policy.clone(),
        state_dir: config.state_dir.clone(),
        holds: match config.collector {
            Some(_) => HoldLine::open_told(&config.state_dir, &config.host_root),
            None => HoldLine::open(&config.state_dir, &config.host_root),
        },
        at_work: AtWork::default(),
        masks: config.tail.as_ref().map(|tail| tail.rules.masks().to_vec()).unwrap_or_default(),
        images: (config.images.mode != CleanupMode::Off).then(|| ImageLaunch {
            args: led_to("image-keeper"),
            policy: config.images.clone(),
            host_root: config.host_root.clone(),
        }),
    };
    match run(config, launch, Started { origin, keys }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(e.to_string()),
    }
}
