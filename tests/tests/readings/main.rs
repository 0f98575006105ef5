//! Every figure of a sample, held against sources that owe nothing to the agent's parsers.
//!
//! A bracket is: the source reads, the sampler reads, the source reads again. Ours must lie between, by the rule of
//! [`table::Rule`]. `--nocapture` shows the table. A figure that no source has a row for fails the test too.
//!
//! Before, the machine is stirred, so that figures that are 0 on a quiet one are not.
//!
//! Needs python3, procps, iproute2, sysstat and prometheus-node-exporter.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a source that cannot be read fails the test")]

mod exporter;
mod ours;
mod stir;
mod table;
mod tools;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch_agent::sample::{Roots, SampleOptions, Sampler};

use exporter::Exporter;
use ours::{figures, is_left_out};
use stir::Stir;
use table::{Reading, Table, Value};

/// Reads all that a source has to tell.
type Source<'a> = Box<dyn FnMut() -> Vec<Reading> + 'a>;

/// Brackets of each source: enough for a majority.
const BRACKETS: usize = 5;

#[test]
fn every_figure_agrees_with_independent_sources() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts a filesystem: run it as root");
    let folder = tempfile::tempdir().unwrap();
    let stir = Stir::new();
    let exporter = Exporter::start(folder.path());
    let mut script = tools::Script::start();
    let options = SampleOptions { per_core: true, ..SampleOptions::default() };
    let mut sampler = Sampler::new(Roots::of_host(Path::new("/")), options);

    let mut sources: Vec<(&'static str, Source<'_>)> = vec![
        ("python3 from /proc, /sys", Box::new(|| script.read())),
        ("node_exporter", Box::new(|| exporter.read())),
        ("df -B1", Box::new(tools::df)),
        ("free -b", Box::new(tools::free)),
        ("ip -s link", Box::new(tools::ip)),
        ("ss -s", Box::new(tools::ss)),
        ("nstat", Box::new(tools::nstat)),
        ("iostat", Box::new(tools::iostat)),
        ("sar", Box::new(tools::sar)),
        ("ps", Box::new(tools::ps)),
    ];
    let mut table = Table::default();
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    for (name, read) in &mut sources {
        let mut rows = 0;
        for _ in 0..BRACKETS {
            let mut read = || {
                let mut readings = read();
                readings.retain(|r| stir.is_ours_to_judge(&r.figure) && !is_left_out(&r.figure));
                readings.retain(|r| !is_worker(&r.value));
                readings
            };
            let before = read();
            stir.again();
            let sample = sampler.sample();
            let after = read();
            let failed = sample.failed.iter().filter(|f| !is_about_others_mounts(f));
            assert_eq!(failed.collect::<Vec<_>>(), Vec::<&String>::new());
            rows = before.len().max(rows);
            let mut ours = figures(&sample);
            ours.retain(|_, value| !is_worker(value));
            table.add(name, &before, &ours, &after);
            // Others come and go at the top while the other sources are asked.
            let of_everything = name.starts_with("python3");
            seen.extend(ours.into_iter().filter(|(f, _)| of_everything || !f.starts_with("processes.")));
        }
        assert!(rows > 0, "{name} told nothing that a sample has");
    }
    let without: Vec<&String> = seen
        .keys()
        .filter(|f| stir.is_ours_to_judge(f) && !is_left_out(f) && !is_of_gone_process(f) && !table.has(f))
        .collect();
    let (rows, differ) = table.print();
    assert!(without.is_empty(), "no source has {without:?}");
    assert!(rows > 300, "only {rows} rows");
    assert!(differ.is_empty(), "{} of {rows} rows differ:\n{}", differ.len(), differ.join("\n"));
}

/// Mounts in temporary folders belong to other tests and may go while they are asked.
fn is_about_others_mounts(failure: &str) -> bool {
    failure.strip_prefix("mounts: ").is_some_and(|path| Path::new(path).starts_with(std::env::temp_dir()))
}

/// Whether it is the name of a kernel worker, which the kernel changes with each piece of work.
fn is_worker(value: &Value) -> bool {
    matches!(value, Value::Text(name) if name.starts_with("kworker/"))
}

/// A process that was at the top of a single sample and ended before its source looked again has no bracket.
fn is_of_gone_process(figure: &str) -> bool {
    let pid = figure.strip_prefix("processes.").and_then(|rest| rest.split('.').next());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

/// The share of a CPU that a busy process has, between two samples: its ticks, read before and after both, say what it
/// can be at least and at most.
#[test]
fn the_cpu_of_a_process_agrees_with_its_ticks_and_with_pidstat() {
    let mut script = tools::Script::start();
    let busy = stir::Busy::start();
    let figure = format!("ticks.{}", busy.id());
    let mut ticks = || {
        let found =
            script.read().into_iter().find(|r| r.figure == figure).expect("the busy process is there");
        match found.value {
            Value::Number(n) => (n, Instant::now()),
            Value::Text(t) => panic!("{t}"),
        }
    };
    let mut sampler = Sampler::new(Roots::default(), SampleOptions::default());
    let outer = ticks();
    let began = Instant::now();
    sampler.sample();
    let inner = ticks();
    let pidstat = busy.pidstat();
    let inner = {
        let end = ticks();
        (end.0 - inner.0, end.1 - inner.1)
    };
    let sample = sampler.sample();
    let elapsed = began.elapsed();
    let end = ticks();
    let outer = (end.0 - outer.0, end.1 - outer.1);
    let ours = sample.processes.iter().find(|p| p.pid == busy.id()).expect("a busy process is at the top");
    // Clock ticks are 10 ms; each reading may be off by one.
    let per_cent = |ticks: f64, time: Duration| ticks.max(0.0) / time.as_secs_f64();
    let (least, most) = (per_cent(inner.0 - 1.0, elapsed), per_cent(outer.0 + 1.0, inner.1));
    println!(
        "cpu_percent of pid {}: ours {:.1}, by its ticks {least:.1} to {most:.1}, pidstat {pidstat:.1}",
        busy.id(),
        ours.cpu_percent
    );
    assert!((least..=most).contains(&ours.cpu_percent), "{} is not in {least} to {most}", ours.cpu_percent);
    // pidstat's second lies within ours; what else we cover is the readings around it.
    let uncovered = 100.0 * (1.0 - 1.0 / elapsed.as_secs_f64().max(1.0)) + 3.0;
    assert!(
        (ours.cpu_percent - pidstat).abs() <= uncovered,
        "{} and {pidstat}, ±{uncovered}",
        ours.cpu_percent
    );
}
