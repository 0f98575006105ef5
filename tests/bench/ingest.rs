//! Ingest: MB per core-second of a collector process that enrolled its nodes, talks mTLS, checks every hash, and acks each
//! block after it is durable.
//!
//! Beside it, in the same run: the same messages into a process that only receives them (`sink`), and the same bytes
//! written by pwrite(2) into existing files with one fdatasync(2) for 16 blocks.
//!
//! A collector that has run for a while recycles its segments; its first pass through them also writes them full of
//! zeros. Both are shown.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dogwatch::record::NodeName;
use dogwatch::tls::ClientTls;
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use dogwatch::wire::collector_message::Message as Down;
use dogwatch::wire::intake_client::IntakeClient;
use dogwatch_agent::enrol::NodeIdentity;
use rustix::fs::fdatasync;
use rustix::io::pwrite;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::place::CollectorPlace;
use super::process::{Running, again, cpu_time, thread_time};
use super::sealed::{Chain, Noise, chain};
use super::table::{Limit, Table};

const LIMIT_MB: f64 = 350.0;
const NODES: usize = 4;
/// Sent in each run, over all connections: at the limit, over a second of CPU.
const RUN_BYTES: u64 = 512 << 20;
/// Of the evidence journal: less than a run, so that the first run has been through all of its segments.
const JOURNAL_MIB: u64 = 384;
/// (connections, block size).
const RUNS: [(usize, usize); 4] = [(1, 64 << 10), (NODES, 64 << 10), (1, 256 << 10), (NODES, 256 << 10)];
/// Without an answer for so long, something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks on their way from the chain to the connection.
const QUEUE: usize = 8;
const RAW_SYNC_EVERY: usize = 16;
const RAW_FILE_BYTES: u64 = 64 << 20;
const RAW_FILES: usize = 4;

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let place = CollectorPlace::make(&format!(
        "store: {{ reserve_bytes: 64MiB }}\nretention: {{ evidence: {{ max_bytes: {JOURNAL_MIB}MiB }} }}\n"
    ))?;
    let (collector, _) = place.start()?;
    let (sink, sink_port) = sink(&place)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let nodes = runtime.block_on(enrol(&place, NODES))?;
    let address = place.address.to_string();
    let sink_address = format!("127.0.0.1:{sink_port}");

    let mut first = true;
    for (connections, block_bytes) in RUNS {
        let chains = chains(&nodes[..connections], block_bytes, RUN_BYTES)?;
        let label = format!("ingest, {connections} x {} KiB blocks", block_bytes >> 10);
        if first {
            let cold = pass(&runtime, &nodes, &chains, &address, collector.pid(), true)?;
            table.row(
                format!("{label}, first pass"),
                cold.rate(),
                "MB/core-s",
                None,
                Limit::AtLeast(LIMIT_MB),
            );
            first = false;
        }
        // Other incarnations than those that are stored already, so that nothing is known.
        let chains = self::chains(&nodes[..connections], block_bytes, RUN_BYTES)?;
        let steady = pass(&runtime, &nodes, &chains, &address, collector.pid(), true)?;
        let bare = pass(&runtime, &nodes, &chains, &sink_address, sink.pid(), false)?;
        let raw = raw_segments(&place, block_bytes)?;
        table.row(
            &label,
            steady.rate(),
            "MB/core-s",
            Some(("tonic + mTLS into a sink", bare.rate())),
            Limit::AtLeast(LIMIT_MB),
        );
        table.row(
            format!("{label} (again)"),
            steady.rate(),
            "MB/core-s",
            Some(("raw segments, fdatasync per 16", raw)),
            Limit::None,
        );
        table.remark(format!(
            "{label}: {:.0} MB in {:.2} s wall ({:.0} MB/s), {:.2} s of the collector's CPU",
            steady.bytes as f64 / 1e6,
            steady.wall.as_secs_f64(),
            steady.bytes as f64 / 1e6 / steady.wall.as_secs_f64(),
            steady.cpu.as_secs_f64()
        ));
    }
    Ok(())
}

/// What sending cost the one who received.
pub(crate) struct Pass {
    pub(crate) bytes: u64,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Pass {
    fn rate(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu.as_secs_f64()
    }
}

/// Lets `count` nodes in.
pub(crate) async fn enrol(place: &CollectorPlace, count: usize) -> Result<Vec<(NodeName, NodeIdentity)>> {
    let token = place.token(count as u32)?;
    let mut nodes = Vec::new();
    for i in 0..count {
        let name = format!("bench-{i}");
        nodes.push((name.parse()?, place.enrol(&name, &token).await?));
    }
    Ok(nodes)
}

/// One chain for each node, `total` bytes together.
pub(crate) fn chains(
    nodes: &[(NodeName, NodeIdentity)],
    block_bytes: usize,
    total: u64,
) -> Result<Vec<Chain>> {
    let each = total / nodes.len() as u64;
    std::thread::scope(|scope| {
        let sealing: Vec<_> =
            nodes.iter().map(|(node, _)| scope.spawn(move || chain(node, block_bytes, each))).collect();
        let join = |h: std::thread::ScopedJoinHandle<'_, Result<Chain>>| {
            h.join().map_err(|_| anyhow::anyhow!("sealing panicked"))?
        };
        sealing.into_iter().map(join).collect()
    })
}

/// Sends every chain to `address`, each over its node's own connection, and waits until all is acked.
pub(crate) fn pass(
    runtime: &Runtime,
    nodes: &[(NodeName, NodeIdentity)],
    chains: &[Chain],
    address: &str,
    receiver: u32,
    acked_each: bool,
) -> Result<Pass> {
    let before = cpu_time(receiver)?;
    let began = Instant::now();
    runtime.block_on(async {
        let mut sending = Vec::new();
        for ((_, identity), chain) in nodes.iter().zip(chains) {
            let key = identity.signing_key().verifying_key().to_bytes();
            let wanted = if acked_each { chain.last_seq } else { chain.bytes };
            let sent = send(identity.tls().clone(), address.to_owned(), key, chain, wanted);
            sending.push(tokio::spawn(sent));
        }
        for one in sending {
            one.await.context("a sender panicked")??;
        }
        Ok::<(), anyhow::Error>(())
    })?;
    let wall = began.elapsed();
    let cpu = cpu_time(receiver)? - before;
    Ok(Pass { bytes: chains.iter().map(|c| c.bytes).sum(), cpu, wall })
}

/// The future owns what it sends, so that it can run anywhere; blocks share their bytes.
fn send(
    tls: ClientTls,
    address: String,
    signing_key: [u8; 32],
    chain: &Chain,
    wanted: u64,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let blocks = chain.blocks.clone();
    let hello = wire::Hello {
        stream: wire::Stream::Evidence.into(),
        incarnation: chain.incarnation.0.to_vec().into(),
        start_counter: 1,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: wire::CleanupMode::Plan.into(),
        signing_key: signing_key.to_vec().into(),
        kept: Vec::new(),
        knows_brake: false,
        brake_held: None,
        policy: Default::default(),
    };
    async move {
        let channel = tls.endpoint(&address)?.connect_with_connector(tls.clone()).await?;
        let mut client = IntakeClient::new(channel);
        let (queue, queued) = mpsc::channel(QUEUE);
        let up = |message| wire::AgentMessage { message: Some(message) };
        queue.send(up(Up::Hello(hello))).await.ok().context("the connection is gone")?;
        let mut answers = client.send(ReceiverStream::new(queued)).await?.into_inner();
        let welcome = tokio::time::timeout(PATIENCE, answers.message()).await??;
        ensure!(
            matches!(welcome.and_then(|m| m.message), Some(Down::Welcome(_))),
            "the first answer is no Welcome"
        );
        let feeding = tokio::spawn(async move {
            for block in blocks {
                if queue.send(up(Up::Block(block))).await.is_err() {
                    return;
                }
            }
        });
        loop {
            let answer = tokio::time::timeout(PATIENCE, answers.message()).await??;
            match answer.and_then(|m| m.message) {
                Some(Down::Ack(ack)) if ack.last_seq >= wanted => break,
                Some(
                    Down::Ack(_) | Down::Command(_) | Down::Welcome(_) | Down::Brake(_) | Down::Permit(_),
                ) => {}
                Some(Down::Nack(nack)) => bail!("a block was refused: {nack:?}"),
                None => bail!("the collector ended the stream before everything was acked"),
            }
        }
        feeding.await.context("the feeder panicked")
    }
}

/// The sink in a process of its own, and its port.
fn sink(place: &CollectorPlace) -> Result<(Running, u16)> {
    let mut command = again(&["sink"])?;
    command.arg(place.state().join("ca")).stdout(Stdio::piped());
    let mut running = Running::start(command)?;
    let mut line = String::new();
    BufReader::new(running.stdout().context("the sink's output")?).read_line(&mut line)?;
    let port = line.trim().parse().with_context(|| format!("the sink said {line:?}"))?;
    Ok((running, port))
}

/// MB per core-second of writing blocks into files that exist, with a sync for each 16.
fn raw_segments(place: &CollectorPlace, block_bytes: usize) -> Result<f64> {
    let mut block = vec![0; block_bytes];
    Noise::new()?.fill(&mut block);
    let mut files = Vec::new();
    for i in 0..RAW_FILES {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(place.beside(&format!("raw-{i}")))?;
        let zeros = vec![0; 1 << 20];
        for at in (0..RAW_FILE_BYTES).step_by(zeros.len()) {
            ensure!(pwrite(&file, &zeros, at)? == zeros.len(), "a short write");
        }
        file.sync_all()?;
        files.push(file);
    }
    let began = thread_time()?;
    let mut bytes = 0;
    for file in &files {
        for (n, at) in (0..RAW_FILE_BYTES).step_by(block_bytes).enumerate() {
            ensure!(pwrite(file, &block, at)? == block.len(), "a short write");
            bytes += block.len();
            if (n + 1) % RAW_SYNC_EVERY == 0 {
                fdatasync(file)?;
            }
        }
        fdatasync(file)?;
    }
    Ok(bytes as f64 / 1e6 / (thread_time()? - began).as_secs_f64())
}
