//! `dogwatch-bench`: the figures that the project promises, each measured beside its peer or limit in the same run.
//!
//! ```text
//! cargo run --release -p dogwatch-e2e --bin dogwatch-bench -- [all|idle|tail|ingest|recovery|crossing|usage]…
//! ```
//! Daemons are this very program started again (`agent`, `collector`), so that what is measured is the shipped code
//! as built here; so are the peers (`bare`, `sink`), so that their CPU time can be told apart.
//!
//! CPU time is the kernel's clock of the whole process, in ns, ended threads included. Everything runs in a temporary
//! folder and a mount namespace of its own: however this ends, no mount and no process stays.
//!
//! Exit codes: 0 every figure within its limit, 1 some are over, 2 something could not be measured.

mod bare;
mod beat;
mod crossing;
mod exporter;
mod groups;
mod idle;
mod ingest;
mod place;
mod process;
mod recovery;
mod sealed;
mod sink;
mod table;
mod tail;
mod usage;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use table::Table;

/// A benchmark: its name, and what measures.
type Bench = (&'static str, fn(&mut Table) -> Result<()>);

const BENCHES: [Bench; 6] = [
    ("tail", tail::measure),
    ("ingest", ingest::measure),
    ("recovery", recovery::measure),
    ("crossing", crossing::measure),
    ("idle", idle::measure),
    ("usage", usage::measure),
];

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let words: Vec<&str> = rest.iter().filter_map(|a| a.to_str()).collect();
    let as_daemon = || std::iter::once(program.clone()).chain(rest.iter().skip(1).cloned());
    match words.first().copied() {
        Some("agent") => return dogwatch_agent::command::main(as_daemon(), &["agent"]),
        Some("collector") => return dogwatch_collector::command::main(as_daemon()),
        Some("bare") => return ended(bare::main(&words[1..])),
        Some("sink") => return ended(sink::main(&words[1..])),
        _ => {}
    }
    match run(&words) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("dogwatch-bench: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn ended(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("dogwatch-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode> {
    let chosen: Vec<Bench> = match words {
        [] | ["all"] => BENCHES.to_vec(),
        names => {
            let find = |name: &&str| {
                BENCHES.into_iter().find(|(n, _)| n == name).with_context(|| {
                    format!("no benchmark {name:?}; choose from all {}", BENCHES.map(|(n, _)| n).join(" "))
                })
            };
            names.iter().map(find).collect::<Result<_>>()?
        }
    };
    if !rustix::process::geteuid().is_root() {
        bail!("the benchmarks mount filesystems and watch every process, so they run as root");
    }
    process::own_mounts().context("a mount namespace of its own")?;
    println!(
        "{} CPUs, load {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let mut table = Table::default();
    for (name, measure) in chosen {
        let began = std::time::Instant::now();
        eprintln!("-- {name}");
        if let Err(e) = measure(&mut table) {
            table.unmeasured(name, &format!("{e:#}"));
        }
        eprintln!("-- {name}: {:.0} s", began.elapsed().as_secs_f64());
    }
    print!("{table}");
    Ok(table.exit_code())
}
