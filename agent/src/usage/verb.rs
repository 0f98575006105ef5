//! `dogwatch-agent usage`: what fills this folder's filesystem, asked on the node itself.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::pace::Budget;
use super::place::mount_of;
use super::report::{Besides, How, report};
use super::rounds::Newest;
use super::scout::APART;
use super::show;
use super::walk::WalkOptions;
use crate::sample::Roots;

/// What a walk with a budget may take besides its CPU: of its disk, and entries a second.
const DISK_SHARE: f64 = 0.04;
const ENTRIES_PER_SECOND: u32 = 1_000_000;

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
    /// Threads that read folders [default: one a CPU]
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
    let path = match args.path.canonicalize() {
        Ok(path) => path,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return fail(format!("{}: no such folder", args.path.display()), 3);
        }
        Err(e) => return fail(format!("{}: {e}", args.path.display()), 1),
    };
    let mut options = WalkOptions::at_once();
    if let Some(threads) = args.threads {
        options.threads = usize::from(threads);
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
    let mount = mount_of(&roots, &path).ok();
    let report = match report(&roots, &path, mount, &how, &besides) {
        Ok(report) => report,
        Err(e) => return fail(e.why, if e.absent { 3 } else { 1 }),
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
