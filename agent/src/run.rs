//! The agent put together: the executor first, then the record, then everything that reads, then the uplink.
//!
//! Order matters. The executor is started before a byte of a log is parsed; nobody but its keeper waits until it is ready. The record is open before anything is
//! sampled. Nothing waits for the collector: enrolment is tried again and again beside the work.
//!
//! ```text
//! sampler ─┐                  ┌─ record (journals) ── uplink ══ collector
//! tail ────┤                  │                          │
//! kmsg ────┼─→ core ──────────┤                          │
//! uplink ──┘    └─→ act (executor's keeper) ─→ executor  └─ commands ─→ core
//! ```

mod act;
mod aside;
mod external;
mod holds;
mod reload;
mod rights;
mod spent;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::health;
use dogwatch::identity::load_or_create_signing_key;
use dogwatch::record::CleanupMode;
use dogwatch::reload::{Outcome, Watcher};
use dogwatch::supervise::{Ended, Parts, Stop};
use tokio::sync::{mpsc, watch};

use self::act::start_act;
use self::aside::{start_ballast, start_lookouts};
use self::holds::start_holds;
use crate::act::brake_line;
use crate::act::permit::{Gate, policy_hash};
use crate::act::policy::Rules;
use crate::act::respond::Respond;
use crate::act::work::{self, Job, Launch};
use crate::config::{Config, EnrolBy};
use crate::core::{BrakeWires, Core, CoreConfig, INBOX, Message, Wires, follow_brake};
use crate::detect::Detectors;
use crate::enrol::{EnrolOptions, NodeIdentity, Renewal, TokenSource, ensure_enrolled};
use crate::health::{Figures, Sources};
use crate::kmsg;
use crate::kubelet;
use crate::record::{self, RecordConfig, Recorder};
use crate::sample::{Roots, SampleOptions, Sampler, Thrift, Ticker, TickerStop};
use crate::tail::{self, CHECKPOINT_FILE, CheckpointWriter, Journaled, Resume, TailConfig, Tailer};
use crate::uplink::brake::{self, BrakeEnd};
use crate::uplink::{Pulse, Uplink, UplinkConfig, UplinkStatus, jittered};

pub use reload::Started;

/// Commands that wait for the core at most.
const COMMAND_QUEUE: usize = 16;
/// Batches of the tail that wait for the core at most.
const TAIL_BATCHES: usize = 4;
/// One slot of the tail's checkpoint: room for thousands of files.
const CHECKPOINT_SLOT_BYTES: usize = 512 * 1024;
/// First and longest wait between attempts to enrol.
const ENROL_BACKOFF_MIN: Duration = Duration::from_millis(500);
const ENROL_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Why the agent cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something of its state.
    #[error("{what}: {why}")]
    Start {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        why: String,
    },
    /// The record.
    #[error(transparent)]
    Record(#[from] record::RecordError),
    /// A port.
    #[error(transparent)]
    Bind(#[from] io::Error),
    /// A part ended early.
    #[error(transparent)]
    Ended(#[from] Ended),
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> RunError {
    move |e| RunError::Start { what, why: e.to_string() }
}

/// How long a thread that reads the journal waits for the next block, which an idle node seals each 10 s: to end it and to
/// begin another costs more.
const BLOCKING_REST: Duration = Duration::from_secs(20);
/// What still runs on the runtime's threads when all parts have ended or were left behind gets this long; a read of a
/// disk that does not answer must not keep the process.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// Tells the record's writer to end when the core does, also by a panic.
struct EndRecord(Recorder);

impl Drop for EndRecord {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`RunError`] says what could not be built or which part ended.
pub fn run(config: Config, launch: Launch, started: Started) -> Result<(), RunError> {
    let begun = launch.begin();
    rights::raise_descriptor_limit();
    let state = &config.state_dir;
    std::fs::create_dir_all(state).map_err(|e| RunError::Start {
        what: "making the state folder",
        why: format!("{}: {e}; set state.dir to a folder that this user may write", state.display()),
    })?;
    let identity_dir = state.join("identity");
    dogwatch::identity::create_private_dir(&identity_dir).map_err(failed("the identity folder"))?;
    let key =
        load_or_create_signing_key(&identity_dir.join("signing.key")).map_err(failed("the signing key"))?;
    let public_key = key.verifying_key().to_bytes();

    let record_config = RecordConfig {
        state_dir: state.clone(),
        node: config.node.clone(),
        segment_bytes: config.segment_bytes,
        urgent_bytes: config.journal_bytes[0],
        evidence_bytes: config.journal_bytes[1],
        recorder_bytes: config.journal_bytes[2],
        handed_over: config.collector.is_some(),
    };
    let roots =
        if config.host_root == Path::new("/") { Roots::default() } else { Roots::of_host(&config.host_root) };
    let kubelet = kubelet::Follow::begin(&config.host_root, &roots.proc);
    let boot_id = boot_id(&roots.proc);
    // Before the record counts this start: one that fails in between must not look like a word that was lost.
    let kept = match config.collector {
        Some(_) => Some(brake_line::read(state, record::was_started(state))),
        None => {
            brake_line::make(state);
            None
        }
    };
    // Likewise: from the next start on, no file of holds is a file that was lost.
    if let Err(why) = launch.holds.reserve() {
        tracing::warn!(why, "on a full disk what is held may not outlast a restart");
    }
    let (recorder, writer, opened) = record::open(&record_config, key, boot_id, random_16)?;
    for remark in &opened.remarks {
        tracing::warn!("{remark}");
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(BLOCKING_REST)
        .build()?;
    let result = runtime.block_on(async move {
        let stop = Stop::default();
        stop.on_signals()?;
        let watcher = Watcher::new(started.origin.clone())?;
        let health_listener = match config.health_listen {
            Some(address) => Some(health::bind(address).await?),
            None => None,
        };
        let mut parts = Parts::new(stop.clone());
        parts.spawn_thread("record", move || writer.run())?;

        let (inbox_tx, inbox) = sync_channel(INBOX);
        let (jobs_tx, jobs) = channel();
        let (pulse_tx, pulse) = watch::channel(None);
        let figures = Arc::new(Figures::default());
        let holds_line = launch.holds.clone();
        let (holds, held_first) = start_holds(holds_line.clone(), &inbox_tx, jobs_tx.clone())?;

        let ballast = start_ballast(&config, &inbox_tx)?;
        let executor_pid = begun.executor_pid();
        let (done, unable) = (inbox_tx.clone(), inbox_tx.clone());
        let witness = spent::witness(&recorder, &inbox_tx, config.preserve)?;
        let rules = Rules::new(config.policy.clone()).map_err(failed("the cleanup's patterns"))?;
        let (spent, unfinished) = spent::spent(&recorder, &rules)?;
        let spent_before = spent.clone();
        // Before anything that this run asks for: the inbox tells the core in the same order.
        unfinished.into_iter().for_each(|u| drop(jobs_tx.send(Job::Close(Box::new(u)))));
        let at_work = launch.at_work.clone();
        start_act(&mut parts, &stop, move || {
            // Nobody else waits for what the executor opens: that may lie on a disk that does not answer.
            let children = begun.ready(&launch, |roots| held_first.tell(roots));
            // The core ends only when the agent does.
            let done = |d| drop(done.send(Message::Done(d)));
            work::run(&launch, children, spent_before, &jobs, witness, done, |u| drop(unable.send(Message::Unable(u))));
        })?;

        let (marks, tail_handle) = match &config.tail {
            Some(tail_config) => {
                let (marks, handle) =
                    start_tail(tail_config, &config.state_dir, &opened, &mut parts, &inbox_tx, &stop)?;
                (Some(marks), Some(handle))
            }
            None => (None, None),
        };
        let (kernel_marks, kernel_handle) = match &config.kernel {
            Some(kernel) => {
                let (marks, handle) = start_kmsg(kernel, &config.state_dir, &opened, boot_id, &inbox_tx)?;
                (Some(marks), Some(handle))
            }
            None => (None, None),
        };
        let detectors = Detectors::new(config.detect.clone(), config.node.clone(), opened.incarnation);
        let policy = policy_hash(&config.policy, &config.images, &config.detect.disk);
        let gate = match kept {
            None => Gate::open(config.node.clone(), policy),
            Some(kept) => {
                let now = clock::now().boot_ns;
                Gate::new(config.node.clone(), policy, config.without_collector, kept, now)
            }
        };
        let (brake_end, brake_feed, outgoing) = brake::ends();
        let (line, unkept) = brake_line::start(config.state_dir.clone(), holds_line)?;
        parts.spawn("brake to core", follow_brake(brake_feed, inbox_tx.clone(), stop.clone()));
        let ids = Box::new(|| u64::from_le_bytes(first_8(random_16())));
        let mut responder = Respond::new(rules, config.breaker, gate, ids).with_images(config.images.mode).with_spent(spent);
        responder.set_marks(config.detect.disk.clone());
        let core_config = CoreConfig { sample_every: config.sample_every, evidence_every: config.evidence_every };
        let wires = Wires {
            inbox,
            recorder: recorder.clone(),
            jobs: jobs_tx,
            at_work,
            holds,
            ballast,
            brake: BrakeWires { line, outgoing, unkept },
            marks,
            kernel_marks,
            lookouts: start_lookouts(&roots, config.rounds, &inbox_tx)?,
            pulse: pulse_tx,
            figures: figures.clone(),
        };
        let mut core = Core::new(core_config, wires, detectors, responder, rights::unable_here());
        core.watch_kubelet(kubelet.known(), config.detect.disk.clone());
        let to_core = inbox_tx.clone();
        let tell = move |k| drop(to_core.send(Message::Kubelet(Box::new(k))));
        parts.spawn("kubelet", kubelet.run(tell, stop.clone()));
        core.seed(opened.active.clone());
        let end_record = EndRecord(recorder.clone());
        parts.spawn_thread("core", move || {
            let _end_record = end_record;
            core.run()
        })?;
        let ticker_stop = start_sampler(&config, roots, executor_pid, &mut parts, inbox_tx.clone())?;

        let mode_tx = watch::Sender::new(config.policy.mode);
        let uplink = config.collector.as_ref().map(|collector| {
            let mode = mode_tx.subscribe();
            start_uplink(&config, collector, public_key, &recorder, pulse, &inbox_tx, &mut parts, &stop, mode, brake_end)
        });
        let outcome = Outcome::default();
        let told = reload::Told { inbox: inbox_tx.clone(), mode: mode_tx, outcome: outcome.clone() };
        parts.spawn("configuration", reload::follow(started, config.clone(), told, watcher, stop.clone()));
        if let Some(listener) = health_listener {
            let tail = tail_handle.as_ref().map(tail::Handle::counts);
            let sources = Sources { figures, recorder: recorder.clone(), tail, uplink, reload: outcome };
            let health = crate::health::build(sources);
            parts.spawn("health", health::serve(listener, health, stop.clone()));
        }
        let ending = (stop.clone(), inbox_tx);
        parts.spawn("stop", async move {
            let (stop, inbox) = ending;
            stop.wait().await;
            ticker_stop.stop();
            // The tail ends first, and the core drains what came before; both may be busy for a moment, so this must not
            // block the runtime.
            let _ = tokio::task::spawn_blocking(move || {
                drop((tail_handle, kernel_handle));
                inbox.send(Message::Stop)
            })
            .await;
            Ok::<(), String>(())
        });
        tracing::info!(node = %config.node, incarnation = %opened.incarnation, start = opened.start_counter, signing_key = %hex(&public_key), "the agent is up");
        Ok(parts.run().await?)
    });
    runtime.shutdown_timeout(LEAVE_WITHIN);
    result
}

fn start_tail(
    config: &TailConfig,
    state: &Path,
    opened: &record::Opened,
    parts: &mut Parts,
    inbox: &SyncSender<Message>,
    stop: &Stop,
) -> Result<(std::sync::mpsc::Sender<Vec<tail::Mark>>, tail::Handle), RunError> {
    let (writer, checkpoint) =
        match CheckpointWriter::start(state.join(CHECKPOINT_FILE), CHECKPOINT_SLOT_BYTES) {
            Ok((writer, checkpoint)) => (Some(writer), checkpoint),
            Err(e) => {
                // Without a checkpoint lines can come twice after a restart; without a tail they would not come at all.
                tracing::error!(error = %e, "the tail's checkpoint cannot be kept");
                (None, None)
            }
        };
    let journaled = opened
        .newest_lines
        .iter()
        .map(|(stream, line)| Journaled { stream: *stream, line: line.clone() })
        .collect();
    let tailer =
        Tailer::new(config.clone(), Resume { checkpoint, journaled }).map_err(failed("log tailing"))?;
    let (batches_tx, batches) = sync_channel(TAIL_BATCHES);
    let (marks_tx, marks) = channel();
    let handle = tail::run(tailer, batches_tx, marks, writer, clock::now)?;
    let inbox = inbox.clone();
    let stopping = stop.clone();
    parts.spawn_thread("tail to core", move || {
        while let Ok(batch) = batches.recv() {
            if inbox.send(Message::Tail(batch)).is_err() {
                break;
            }
        }
        if stopping.is_set() { Ok(()) } else { Err("tailing ended by itself".to_owned()) }
    })?;
    Ok((marks_tx, handle))
}

fn start_kmsg(
    config: &kmsg::KernelConfig,
    state: &Path,
    opened: &record::Opened,
    boot_id: [u8; 16],
    inbox: &SyncSender<Message>,
) -> Result<(std::sync::mpsc::Sender<kmsg::Mark>, kmsg::Handle), RunError> {
    let (marks, checkpoint, problem) = kmsg::Keeper::start(state.join(kmsg::CHECKPOINT_FILE), boot_id)?;
    if let Some(problem) = problem {
        tracing::error!("the checkpoint of the kernel's log cannot be kept: {problem}");
    }
    let resume = kmsg::Resume { boot_id, checkpoint, journaled: opened.newest_lines.clone() };
    let inbox = inbox.clone();
    let send = move |batch| match inbox.try_send(Message::Kernel(batch)) {
        Ok(()) => kmsg::Sent::Taken,
        Err(TrySendError::Full(Message::Kernel(batch))) => kmsg::Sent::Full(batch),
        Err(_) => kmsg::Sent::Gone,
    };
    let handle = kmsg::start(config.clone(), resume, send).map_err(failed("reading the kernel's log"))?;
    Ok((marks, handle))
}

fn start_sampler(
    config: &Config,
    roots: Roots,
    executor_pid: Option<u32>,
    parts: &mut Parts,
    inbox: SyncSender<Message>,
) -> Result<TickerStop, RunError> {
    let (mut ticker, stop) = Ticker::new(config.sample_every).map_err(failed("the sampler's timer"))?;
    let mut options = SampleOptions {
        processes: config.processes,
        per_core: config.per_core,
        disks: config.disks,
        network: config.network,
        cgroups: config.cgroups.is_some(),
        ..SampleOptions::default()
    };
    if let Some(cgroups) = &config.cgroups {
        (options.cgroups_every, options.max_cgroups) = (cgroups.every, cgroups.max);
    }
    let mut thrift = Thrift::new(config.caps, config.sample_every);
    parts.spawn_thread("sampler", move || {
        let mut sampler = Sampler::new(roots, options);
        if let Some(pid) = executor_pid {
            sampler.watch_child(pid);
        }
        let mut unsaid = None;
        let mut trim = crate::trim::Trim::default();
        while let Some(at) = ticker.wait().map_err(|e| format!("waiting for a tick: {e}"))? {
            let mut sample = sampler.sample();
            sample.late_ticks = ticker.late_ticks();
            sample.every_ms = ticker.interval().as_millis().try_into().unwrap_or(u32::MAX);
            sample.self_cost.saving = thrift.is_saving();
            let cost = sample.self_cost;
            trim.on_tick(at.boot_ns);
            // A core that is behind by the whole inbox misses this one, and says so as a hole between two samples.
            let _ = inbox.try_send(Message::Sample(at, Box::new(sample)));
            if let Some(pace) = thrift.on_cost(at.boot_ns, cost.cpu_us, cost.resident_bytes) {
                ticker
                    .set_interval(pace.every)
                    .map_err(|e| format!("changing the sampler's interval: {e}"))?;
                unsaid = Some(pace);
            }
            if let Some(pace) = unsaid.take()
                && let Err(TrySendError::Full(Message::Pace(pace))) = inbox.try_send(Message::Pace(pace))
            {
                // Said at the next tick instead.
                unsaid = Some(pace);
            }
        }
        Ok(())
    })?;
    Ok(stop)
}

#[expect(clippy::too_many_arguments, reason = "it connects everything that was built before, once")]
fn start_uplink(
    config: &Config,
    collector: &str,
    signing_key: [u8; 32],
    recorder: &Recorder,
    pulse: watch::Receiver<Option<Pulse>>,
    inbox: &SyncSender<Message>,
    parts: &mut Parts,
    stop: &Stop,
    mode: watch::Receiver<CleanupMode>,
    brake: BrakeEnd,
) -> watch::Receiver<UplinkStatus> {
    let (commands_tx, mut commands) = mpsc::channel(COMMAND_QUEUE);
    let inbox = inbox.clone();
    let stopping = stop.clone();
    parts.spawn("commands", async move {
        loop {
            let call = tokio::select! {
                () = stopping.wait() => return Ok::<(), String>(()),
                call = commands.recv() => call,
            };
            let Some(call) = call else {
                stopping.wait().await;
                return Ok(());
            };
            // Dropped when the core is behind by its whole inbox; the asker is told by the dropped reply.
            let _ = inbox.try_send(Message::Command(call));
        }
    });
    let options = EnrolOptions {
        trust_domain: config.trust_domain.clone(),
        server_dns_name: config.collector_name.clone(),
        token: config.enrol_by.clone().map(token_source),
        ..EnrolOptions::new(collector, config.node.clone(), config.state_dir.clone())
    };
    let uplink_config = UplinkConfig {
        collector: collector.to_owned(),
        signing_key,
        mode,
        pulse_every: config.pulse_every,
        brake,
    };
    let (status_tx, status) = watch::channel(UplinkStatus::default());
    let (recorder, stopping) = (recorder.clone(), stop.clone());
    let files = config.certificate.clone();
    parts.spawn("uplink", async move {
        if let Some(files) = files {
            let Some((tls, follow)) = external::open(&files, &options, &status_tx, &stopping).await else {
                return Ok(());
            };
            let uplink =
                Uplink::new(uplink_config, tls, recorder, pulse, commands_tx, status_tx, stopping.clone());
            return tokio::select! {
                result = uplink.run() => result,
                () = follow.run() => Err("following the certificate files ended".to_owned()),
            };
        }
        let Some(identity) = enrolled(&options, &status_tx, &stopping).await else { return Ok(()) };
        let tls = identity.tls().clone();
        let uplink =
            Uplink::new(uplink_config, tls, recorder, pulse, commands_tx, status_tx, stopping.clone());
        let report = |r: Renewal| match r {
            Renewal::Renewed(_) => tracing::info!("the node's certificate was renewed"),
            Renewal::Failed { error, expired, .. } => {
                tracing::warn!(%error, expired, "the node's certificate could not be renewed; trying again");
            }
        };
        tokio::select! {
            result = uplink.run() => result,
            () = identity.keep_renewed(report) => Err("renewal ended".to_owned()),
        }
    });
    status
}

fn token_source(by: EnrolBy) -> TokenSource {
    match by {
        EnrolBy::JoinToken(path) => TokenSource::File(path),
        EnrolBy::ServiceAccount { token, ca } => {
            TokenSource::ServiceAccount { token_file: token, ca_file: ca }
        }
    }
}

/// Enrols, however long it takes; `None` when the agent stops meanwhile.
async fn enrolled(
    options: &EnrolOptions,
    status: &watch::Sender<UplinkStatus>,
    stop: &Stop,
) -> Option<NodeIdentity> {
    let mut backoff = ENROL_BACKOFF_MIN;
    loop {
        let error = tokio::select! {
            () = stop.wait() => return None,
            result = ensure_enrolled(options) => match result {
                Ok(identity) => return Some(identity),
                Err(e) => e.to_string(),
            },
        };
        if status.borrow().error.as_deref() != Some(error.as_str()) {
            tracing::warn!(error, "not enrolled; recording goes on, and this is tried again");
            status.send_modify(|s| s.error = Some(error));
        }
        tokio::select! {
            () = stop.wait() => return None,
            () = tokio::time::sleep(jittered(backoff)) => {}
        }
        backoff = (backoff * 2).min(ENROL_BACKOFF_MAX);
    }
}

/// For `verify --node-key`: people note it where the collector cannot change it.
fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|b| format!("{b:02x}")).collect()
}

fn boot_id(proc: &Path) -> [u8; 16] {
    let text = std::fs::read_to_string(proc.join("sys/kernel/random/boot_id")).unwrap_or_default();
    let digits: Vec<u8> = text.bytes().filter_map(|b| (b as char).to_digit(16)).map(|d| d as u8).collect();
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    id
}

fn random_16() -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom::fill(&mut bytes) {
        // Only very early in boot, and then it must differ all the same: by time and process.
        tracing::error!(%error, "no randomness; ids are made of time");
        let now = clock::now();
        bytes[..8].copy_from_slice(&now.wall_ns.to_le_bytes());
        bytes[8..].copy_from_slice(&(now.boot_ns ^ u64::from(std::process::id()) << 40).to_le_bytes());
    }
    bytes
}

fn first_8(bytes: [u8; 16]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[..8]);
    out
}
