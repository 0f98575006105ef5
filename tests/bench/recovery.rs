//! Recovery: how long a collector takes to be ready again after it was killed, with its index and without.
//!
//! The journals are in the page cache, as they are after a crash of the process; after a crash of the machine the disk's
//! own speed comes on top.

use anyhow::{Context, Result, ensure};

use super::ingest::{chains, enrol, pass};
use super::place::{CollectorPlace, bytes_beneath};
use super::table::{Limit, Table};

const JOURNAL_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: usize = 256 << 10;
const LIMIT_S: f64 = 1.0;
const LIMIT_S_PER_GB: f64 = 1.0;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let place = CollectorPlace::make("store: { reserve_bytes: 64MiB }\n")?;
    let (collector, _) = place.start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let nodes = runtime.block_on(enrol(&place, 2))?;
    let sent = pass(
        &runtime,
        &nodes,
        &chains(&nodes, BLOCK_BYTES, JOURNAL_BYTES)?,
        &place.address.to_string(),
        collector.pid(),
        true,
    )?;
    let gb = sent.bytes as f64 / 1e9;
    collector.kill();
    let (collector, with_index) = place.start()?;
    collector.kill();
    let index = place.state().join("store/index");
    ensure!(bytes_beneath(&index) > 0, "no index at {}", index.display());
    std::fs::remove_dir_all(&index).context("removing the index")?;
    let (_collector, without) = place.start()?;
    table.row(
        format!("collector ready after kill -9, {gb:.2} GB of journal"),
        with_index.as_secs_f64(),
        "s",
        None,
        Limit::AtMost(LIMIT_S),
    );
    table.row(
        format!("collector ready after kill -9 and without index, {gb:.2} GB"),
        without.as_secs_f64(),
        "s",
        None,
        Limit::AtMost(LIMIT_S + LIMIT_S_PER_GB * gb),
    );
    Ok(())
}
