//! `dogwatch-agent usage`: what fills this folder's filesystem, asked on the node itself.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::show::{self, Filesystem};
use super::walk::{WalkOptions, walk};
use crate::sample::mountinfo;

/// A folder with less than this part of its filesystem is walked again with thresholds of its own.
const PART: u64 = 2;

/// What to walk, and how to answer.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// A folder; what is mounted beneath it is left out.
    #[arg(default_value = "/")]
    path: PathBuf,
    #[arg(short, long, value_enum, default_value_t = Form::Tree)]
    output: Form,
    /// Threads that read folders [default: one a CPU; with --cpu, one]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// Per cent of one CPU that all of it may use [default: as much as it gets]
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
    let fs = match filesystem(&args.path) {
        Ok(fs) => fs,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return fail(format!("{}: no such folder", args.path.display()), 3);
        }
        Err(e) => return fail(format!("{}: {e}", args.path.display()), 1),
    };
    let options = |bytes, inodes| {
        let mut options = WalkOptions::at_once(bytes, inodes);
        match (args.threads, args.cpu) {
            (Some(threads), _) => options.threads = usize::from(threads),
            (None, Some(_)) => options.threads = 1,
            (None, None) => {}
        }
        options.cpu_share = args.cpu.map(|percent| f64::from(percent) / 100.0 / options.threads as f64);
        options
    };
    let mut usage = walk(&args.path, &options(fs.used_bytes, fs.used_inodes));
    // What is large in a small part of a filesystem is known only once the part's size is; its folders are cached by then.
    if let Ok(first) = &usage
        && first.root.bytes < fs.used_bytes / PART
    {
        usage = walk(&args.path, &options(first.root.bytes, first.root.inodes));
    }
    let usage = match usage {
        Ok(usage) => usage,
        Err(e) => return fail(e.to_string(), 1),
    };
    let text = match args.output {
        Form::Tree => show::tree(&usage, &fs),
        Form::Json => format!("{}\n", show::value(&usage, &fs)),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => fail(format!("the answer could not be written: {e}"), 1),
    }
}

fn filesystem(path: &Path) -> std::io::Result<Filesystem> {
    let path = path.canonicalize()?;
    let fs = rustix::fs::statvfs(&path)?;
    Ok(Filesystem {
        total_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
        used_bytes: fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize),
        available_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
        used_inodes: fs.f_files.saturating_sub(fs.f_ffree),
        walked_whole: is_whole_filesystem(&path),
    })
}

/// Whether `path` is where a filesystem is mounted from its top: a part that is mounted by itself, or a container's overlay,
/// reports figures of more than what lies in it.
fn is_whole_filesystem(path: &Path) -> bool {
    let Ok(text) = std::fs::read("/proc/self/mountinfo") else { return false };
    let table = mountinfo::parse(&text);
    let last = table.entries.iter().rev().find(|e| *e.path == *path.as_os_str().as_bytes());
    last.is_some_and(|e| *e.root == *b"/" && *e.fs != *b"overlay")
}
