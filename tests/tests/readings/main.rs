//! Every figure of a sample, held against sources that owe nothing to the agent's parsers.
//!
//! A bracket is: the source reads, the sampler reads, the source reads again. Ours must lie between, by the rule of
//! [`table::Rule`]. `--nocapture` shows the table. A figure that no source has a row for fails the test too, and so does
//! a field of a sample that is in no row and not among those of which [`ours`] says why.
//!
//! Before, the machine is stirred, so that figures that are 0 on a quiet one are not: [`stir`] for devices and network,
//! [`others`] for processes, [`group`] for control groups. Rates between two samples are in [`rates`].
//!
//! Needs root, control groups of version 1, python3, procps, iproute2, sysstat and prometheus-node-exporter.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a source that cannot be read fails the test")]

mod exporter;
mod group;
mod others;
mod ours;
mod rates;
mod stir;
mod table;
mod tools;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch_agent::sample::{Roots, SampleOptions, Sampler};

use exporter::Exporter;
use group::Container;
use others::Others;
use ours::{figures, is_left_out};
use stir::Stir;
use table::{Reading, Table, Value};
use tools::Script;

/// Reads all that a source has to tell.
type Source<'a> = Box<dyn FnMut() -> Vec<Reading> + 'a>;

/// Brackets of each source: enough for a majority.
const BRACKETS: usize = 5;
/// While a figure that moves both ways differs, more of them: others who work on the same disk and memory move it further
/// within a bracket than between its ends. One that is wrong differs in all.
const MOST_BRACKETS: usize = 20;

const EVERYTHING: &str = "python3 from /proc, /sys";
const TASKS: &str = "python3 over /proc/PID";
const GROUPS: &str = "python3 from cgroupfs";

#[test]
fn every_figure_agrees_with_independent_sources() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts a filesystem: run it as root");
    let folder = tempfile::tempdir().unwrap();
    let container = Container::new();
    let stir = Stir::new();
    let mut others = Others::start();
    let known = others.known();
    let is_judged = |figure: &str| {
        stir.is_ours_to_judge(figure) && container.is_ours_to_judge(figure) && known.is_ours_to_judge(figure)
    };
    let exporter = Exporter::start(folder.path());
    let mut script = Script::of_everything();
    let mut of_groups = Script::start(include_str!("group.py"), &container.paths());
    let mut sampler = Sampler::new(Roots::of_host(Path::new("/")), options());
    let began = Instant::now();
    sampler.sample();
    others.were_seen(began, Instant::now());

    let mut sources: Vec<(&'static str, Source<'_>)> = vec![
        (EVERYTHING, Box::new(|| script.read())),
        ("node_exporter", Box::new(|| exporter.read())),
        ("df -B1", Box::new(tools::df)),
        ("free -b", Box::new(tools::free)),
        ("ip -s link", Box::new(tools::ip)),
        ("ss -s", Box::new(tools::ss)),
        ("nstat", Box::new(tools::nstat)),
        ("iostat", Box::new(tools::iostat)),
        ("sar", Box::new(tools::sar)),
        ("ps", Box::new(tools::ps)),
        ("ps -eL", Box::new(tools::ps_threads)),
        (TASKS, Box::new(|| others.read())),
        (GROUPS, Box::new(|| of_groups.read())),
    ];
    let mut table = Table::default();
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    for (name, read) in &mut sources {
        let mut rows = 0;
        let _at_work = (*name == GROUPS).then(|| container.work(stir.disk(), stir.device(), folder.path()));
        for bracket in 0..MOST_BRACKETS {
            if bracket >= BRACKETS && !table.differs(name) {
                break;
            }
            let mut read = || {
                let mut readings = read();
                readings.retain(|r| is_judged(&r.figure) && !is_left_out(&r.figure) && !is_worker(&r.value));
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
            ours.retain(|figure, value| is_judged(figure) && !is_left_out(figure) && !is_worker(value));
            table.add(name, &before, &ours, &after);
            // Others come and go at the top while the other sources are asked, and may be in pods of other tests.
            let of_process = |f: &str| *name == EVERYTHING && !ours::is_of(f, "processes.*.pod");
            seen.extend(ours.into_iter().filter(|(f, _)| !f.starts_with("processes.") || of_process(f)));
        }
        assert!(rows > 0, "{name} told nothing that a sample has");
    }
    let without: Vec<&String> = seen.keys().filter(|f| !is_of_gone_process(f) && !table.has(f)).collect();
    let nowhere: Vec<String> = ours::fields()
        .into_iter()
        .filter(|f| !is_left_out(f) && !ours::may_be_absent(f) && !table.has_of(f))
        .collect();
    let (rows, differ) = table.print();
    ours::print_left_out();
    assert!(without.is_empty(), "no source has {without:?}");
    assert!(nowhere.is_empty(), "fields of a sample that are in no row: {nowhere:?}");
    assert!(rows > 400, "only {rows} rows");
    assert!(differ.is_empty(), "{} of {rows} rows differ:\n{}", differ.len(), differ.join("\n"));
}

/// All that can be read, at every sample and however long it takes.
fn options() -> SampleOptions {
    SampleOptions {
        per_core: true,
        process_budget: Duration::from_secs(10),
        cgroups_every: Duration::ZERO,
        cgroup_budget: Duration::from_secs(10),
        ..SampleOptions::default()
    }
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
