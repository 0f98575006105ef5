//! What the agent costs when nothing happens: everything on, once a second, beside a bare reader of the same files in
//! the same seconds, each in a quarter of the second for itself ([`Beat`]).
//!
//! The agent is the program that is shipped, built for itself ([`shipped_agent`]): this one has the collector's pages too.
//! On: every probe, three journals, the tail with the shipped rules, detectors, the executor, and the uplink to a
//! collector. The executor's CPU time and memory count as the agent's. With 300 control groups both read those too.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use dogwatch::wire;

use super::beat::Beat;
use super::exporter::Exporter;
use super::groups::Groups;
use super::place::{CollectorPlace, quiet};
use super::process::{Running, again, all, children, cpu_time, resident, shipped_agent, wait_for};
use super::table::{Limit, Table};

/// Numbers of processes on the machine, as nearly as what runs anyway allows, and of pods with two containers each. In
/// ascending order: processes that were made stay.
const CASES: [(usize, usize); 4] = [(100, 0), (100, 100), (1_000, 0), (1_000, 100)];
/// A minute, so that what is read once a minute is read once.
const MEASURED: Duration = Duration::from_secs(60);
/// For first allocations, enrolment and the first blocks.
const SETTLE: Duration = Duration::from_secs(12);
const TIMES_BARE: f64 = 2.0;
const MAX_RESIDENT_MIB: f64 = 20.0;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let program = shipped_agent()?;
    table.remark(format!(
        "idle: the agent is {}, {:.1} MiB",
        program.display(),
        program.metadata()?.len() as f64 / MIB
    ));
    let place = CollectorPlace::make("store: { segment_bytes: 8MiB, reserve_bytes: 64MiB }\n")?;
    let (_collector, _) = place.start()?;
    let mut sleepers = Vec::new();
    for (wanted, pods) in CASES {
        // The agent, its executor and the two readers come on top.
        while all()?.len() + 4 < wanted {
            let mut command = Command::new("sleep");
            quiet(&mut command).arg("1200").stdin(Stdio::null());
            sleepers.push(Running::start(command)?);
        }
        let groups = if pods > 0 { Groups::make(pods)? } else { Groups::default() };
        one(table, &program, &place, wanted, &groups.paths)?;
    }
    Ok(())
}

fn one(
    table: &mut Table,
    program: &Path,
    place: &CollectorPlace,
    wanted: usize,
    groups: &[String],
) -> Result<()> {
    let name = format!("idle-{wanted}-{}", groups.len());
    let agent = place.start_agent(Command::new(program), &name, "cleanup: { mode: plan }\n")?;
    let mounts = mounts(place, &name)?;
    ensure!(!mounts.is_empty(), "the agent reported no mount");
    let beat = Beat::of_thread(agent.pid(), "sampler")?;
    let bare = |how: &str, beat: Beat| -> Result<Running> {
        let mut command = again(&["bare", how, &beat.ms().to_string()])?;
        command.args(&mounts).arg("--").args(groups);
        Running::start(command)
    };
    let (mut kept, mut each) = (bare("kept", beat.quarters_later(1))?, bare("each", beat.quarters_later(2))?);
    let executor = wait_for("the executor's start", SETTLE, || Ok(children(agent.pid())?.first().copied()))?;
    std::thread::sleep(SETTLE);
    kept.still_runs("the bare reader")?;
    each.still_runs("the bare reader")?;
    let exporter = Exporter::start(beat.quarters_later(3))?;
    let processes = all()?.len();

    let mut pids = vec![agent.pid(), executor, kept.pid(), each.pid()];
    pids.extend(exporter.iter().map(Exporter::pid));
    let scraped = exporter.as_ref().map(Exporter::scrapes);
    let read = || pids.iter().map(|p| cpu_time(*p)).collect::<Result<Vec<_>>>();
    let (began, before) = (std::time::Instant::now(), read()?);
    std::thread::sleep(MEASURED);
    let (after, seconds) = (read()?, began.elapsed().as_secs_f64());
    let ms: Vec<f64> =
        after.iter().zip(&before).map(|(a, b)| (*a - *b).as_secs_f64() * 1e3 / seconds).collect();

    let own = ms[0] + ms[1];
    let what = format!("agent idle, {processes} processes, {} groups", groups.len());
    table.row(
        &what,
        own,
        "ms/s",
        Some(("bare reader, descriptors kept", ms[2])),
        Limit::TimesPeer(TIMES_BARE),
    );
    table.row(
        format!("{what} (again)"),
        own,
        "ms/s",
        Some(("bare reader, stat opened anew", ms[3])),
        Limit::None,
    );
    match (&exporter, scraped) {
        (Some(exporter), Some(before)) => {
            let peer = Some(("node_exporter, 1 Hz, no processes, no groups", ms[4]));
            table.row(format!("{what} (again)"), own, "ms/s", peer, Limit::None);
            let [rss, _, _] = resident(exporter.pid())?;
            let answered = exporter.scrapes() - before;
            let remark =
                format!("node_exporter: {answered} scrapes answered, {:.1} MiB resident", rss as f64 / MIB);
            table.remark(remark);
        }
        _ => table.remark("prometheus-node-exporter is not installed, so that it is not beside the agent"),
    }
    let [agent_rss, agent_anon, agent_file] = resident(agent.pid())?;
    let [executor_rss, executor_anon, _] = resident(executor)?;
    let mib = |bytes: u64| bytes as f64 / MIB;
    table.row(
        format!("agent resident, {processes} processes, {} groups", groups.len()),
        mib(agent_rss),
        "MiB",
        None,
        Limit::AtMost(MAX_RESIDENT_MIB),
    );
    table.row(
        format!(
            "agent + executor resident, pages of the program counted once, {processes} processes, {} groups",
            groups.len()
        ),
        mib(agent_rss + executor_anon),
        "MiB",
        None,
        Limit::AtMost(MAX_RESIDENT_MIB),
    );
    table.remark(format!(
        "resident: agent {:.1} MiB ({:.1} anonymous, {:.1} of files), executor {:.1} MiB ({:.1}); both {:.1} where shared pages count twice; \
         the executor used {:.3} ms/s; {} mounts",
        mib(agent_rss),
        mib(agent_anon),
        mib(agent_file),
        mib(executor_rss),
        mib(executor_anon),
        mib(agent_rss + executor_rss),
        ms[1],
        mounts.len()
    ));
    Ok(())
}

/// The mounts that the agent samples, as the desk shows them.
fn mounts(place: &CollectorPlace, name: &str) -> Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut desk = place.desk().await?;
        let until = std::time::Instant::now() + SETTLE;
        loop {
            let ask = wire::GetNodesRequest { nodes: vec![name.to_owned()], cached: false };
            let nodes = desk.get_nodes(ask).await?.into_inner().nodes;
            let mounts: Vec<String> = nodes.iter().flat_map(|n| &n.mounts).map(|m| m.path.clone()).collect();
            if !mounts.is_empty() || std::time::Instant::now() > until {
                return Ok(mounts);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}
