//! `dogwatch-agent usage`: what fills this folder's filesystem, asked on the node itself.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::pace::Budget;
use super::reach::{NoWay, Reached, reach};
use super::report::{Besides, How, report};
use super::rounds::Newest;
use super::scout::APART;
use super::show;
use super::walk::WalkOptions;
use crate::act::aside::Aside;
use crate::sample::Roots;

/// What a walk with a budget may take besides its CPU: of its disk, and entries a second.
const DISK_SHARE: f64 = 0.04;
const ENTRIES_PER_SECOND: u32 = 1_000_000;
/// How long the server of a filesystem may take to say what a path leads to.
const SERVER_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// What to walk, and how to answer.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// A folder; what is mounted beneath it is left out.
    #[arg(default_value = "/")]
    path: PathBuf,
    #[arg(short, long, value_enum, default_value_t = Form::Tree)]
    output: Form,
    /// Look twice at open files, 5 s apart: who writes, and what is deleted and still open
    #[arg(long)]
    writers: bool,
    /// Threads that read folders [default: one a CPU, and up to four while they wait for the disk]
    #[arg(long, conflicts_with = "cpu", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// Per cent of one CPU that it may use; it then walks as the agent does by itself: on one thread, in the idle classes,
    /// and gives its disk 96 % of the time for others [default: as much as it gets]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u16).range(1..=100))]
    cpu: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Drawn, for people.
    Tree,
    /// One object.
    Json,
}

/// Walks, prints, and gives the exit code: 0 done, 1 failed, 3 no such folder.
pub fn main(args: &UsageArgs) -> ExitCode {
    let fail = |why: String, code: u8| {
        eprintln!("dogwatch-agent: {why}");
        ExitCode::from(code)
    };
    let roots = Roots::default();
    let no_way = |why: NoWay| fail(why.to_string(), if matches!(why, NoWay::Absent(_)) { 3 } else { 1 });
    let folder = match find(&roots, &args.path) {
        Ok(folder) => folder,
        Err(why) => return no_way(why),
    };
    let mut options = WalkOptions::at_once();
    if let Some(threads) = args.threads {
        (options.threads, options.most_threads) = (threads.into(), threads.into());
    }
    let how = match args.cpu {
        Some(percent) => How::Crawl(Budget {
            cpu: f64::from(percent) / 100.0,
            disk: DISK_SHARE,
            entries_per_second: ENTRIES_PER_SECOND,
        }),
        None => How::Walk(options),
    };
    let besides = Besides { writers_apart: args.writers.then_some(APART), newest: Newest::default() };
    let report = match report(&roots, &folder, &how, &besides) {
        Ok(report) => report,
        Err(why) => return no_way(why),
    };
    let text = match args.output {
        Form::Tree => show::tree(&report),
        Form::Json => format!("{}\n", show::value(&report)),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => fail(format!("the answer could not be written: {e}"), 1),
    }
}

/// The folder that a person named. One that is served from elsewhere is walked too, if its server answers: whoever asks here
/// can end the program.
fn find(roots: &Roots, path: &Path) -> Result<Reached, NoWay> {
    let named = std::path::absolute(path).map_err(|e| NoWay::Other(format!("{}: {e}", path.display())))?;
    match reach(roots, &named) {
        Err(NoWay::Remote(_)) => {}
        other => return other,
    }
    let there = named.clone();
    let real =
        Aside::new(SERVER_ANSWERS_WITHIN).look(&named, move || there.canonicalize()).map_err(NoWay::Other)?;
    match real {
        Ok(real) => Ok(Reached { path: real.clone(), at: real, mount: None }),
        Err(e) => {
            let why = format!("{}: {e}", named.display());
            Err(if e.kind() == std::io::ErrorKind::NotFound { NoWay::Absent(why) } else { NoWay::Other(why) })
        }
    }
}
