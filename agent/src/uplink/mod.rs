//! The uplink: hands the record to the collector, one gRPC call a stream, over one connection.
//!
//! A block is read from the journal, sent, and forgotten here; only an acknowledgement moves the cursor, which lives in
//! the journal too ([`crate::record`]). After a reconnect the collector says where it stands ([`wire::Welcome`]) and
//! the calls go on from there, so a lost message costs a repetition, never a hole. Bytes on the way are bounded a
//! stream; the journal is read on blocking threads, so that a stalled disk stalls only its reader.
//!
//! Deliberately absent: what the records mean. Commands and pulses pass through to the core.

pub mod brake;
mod pulse;
mod reading;
mod session;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dogwatch::record::{CleanupMode, Stream};
use dogwatch::supervise::Stop;
use dogwatch::tls::ClientTls;
use dogwatch::wire;
use dogwatch::wire::intake_client::IntakeClient;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::Channel;

use crate::record::Recorder;
pub use pulse::Pulse;

/// First wait after a failed connection; doubles up to [`BACKOFF_MAX`], with full jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Longest wait between attempts: 10,000 agents spread over 15 s make under 700 handshakes a second.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// An idle connection is probed this often, so that a vanished collector is noticed.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// A probe without an answer for this long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 windows: a block and its neighbour a stream, and all three streams' worth a connection. Larger ones buy
/// throughput that one node never needs and cost the collector memory for each of 10,000.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 3 * 1024 * 1024;
/// Largest message either way: a block of 512 KiB with its envelope.
pub(crate) const MAX_MESSAGE_BYTES: usize = 768 * 1024;

/// A command of the collector's, and where its result goes.
#[derive(Debug)]
pub struct CommandCall {
    /// What.
    pub command: wire::Command,
    /// Where the result goes; a dropped sender is answered as an error.
    pub reply: oneshot::Sender<wire::CommandResult>,
}

/// What the uplink needs besides the record.
#[derive(Debug, Clone)]
pub struct UplinkConfig {
    /// `host:port` of the collector.
    pub collector: String,
    /// The node's public signing key.
    pub signing_key: [u8; 32],
    /// For Hello: the node's cleanup mode; a change is told by a new connection.
    pub mode: watch::Receiver<CleanupMode>,
    /// How often figures of now are sent.
    pub pulse_every: Duration,
    /// What is asked and said of cleanups.
    pub brake: brake::BrakeEnd,
}

/// What the uplink shows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UplinkStatus {
    /// Whether a call is open, by stream.
    pub connected: [bool; 3],
    /// What went wrong last, if nothing is connected.
    pub error: Option<String>,
    /// Connections made so far.
    pub connections: u64,
    /// Blocks acknowledged so far.
    pub acknowledged_blocks: u64,
    /// When the last of them was, by stream.
    pub acknowledged_at: [Option<Instant>; 3],
    /// Blocks refused for good so far.
    pub refused_blocks: u64,
}

/// Shared by the three calls.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) recorder: Recorder,
    pub(crate) config: Arc<UplinkConfig>,
    pub(crate) pulse: watch::Receiver<Option<Pulse>>,
    pub(crate) commands: mpsc::Sender<CommandCall>,
    pub(crate) status: Arc<watch::Sender<UplinkStatus>>,
    pub(crate) stop: Stop,
    memory: Arc<[Mutex<session::Memory>; 3]>,
}

/// The uplink's handle on its connection.
#[derive(Debug)]
pub struct Uplink {
    shared: Shared,
    tls: ClientTls,
}

impl Uplink {
    /// An uplink that is not connected yet; it tells `status`.
    pub fn new(
        config: UplinkConfig,
        tls: ClientTls,
        recorder: Recorder,
        pulse: watch::Receiver<Option<Pulse>>,
        commands: mpsc::Sender<CommandCall>,
        status: watch::Sender<UplinkStatus>,
        stop: Stop,
    ) -> Self {
        let shared = Shared {
            recorder,
            config: Arc::new(config),
            pulse,
            commands,
            status: Arc::new(status),
            stop,
            memory: Arc::default(),
        };
        Self { shared, tls }
    }

    /// Connects, hands over, reconnects, until stop is set.
    ///
    /// # Errors
    /// Only when the collector's address is not one at all.
    pub async fn run(self) -> Result<(), String> {
        let endpoint = self
            .tls
            .endpoint(&self.shared.config.collector)
            .map_err(|e| format!("uplink.collector: {e}"))?
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .user_agent(concat!("dogwatch-agent/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| e.to_string())?;
        let mut backoff = BACKOFF_MIN;
        loop {
            let connected = tokio::select! {
                () = self.shared.stop.wait() => return Ok(()),
                c = endpoint.connect_with_connector(self.tls.clone()) => c,
            };
            match connected {
                Ok(channel) => {
                    self.shared.status.send_modify(|s| {
                        s.connections += 1;
                        s.error = None;
                    });
                    let since = Instant::now();
                    let reason = self.serve(channel).await;
                    if self.shared.stop.is_set() {
                        return Ok(());
                    }
                    // A connection that ends soon, again and again, must not be made anew at once.
                    if since.elapsed() >= BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    tracing::info!(
                        reason,
                        "the connection to the collector ended; records are kept and sent later"
                    );
                    self.shared.status.send_modify(|s| s.error = Some(reason));
                }
                Err(e) => {
                    let reason = chain(&e);
                    let known = self.shared.status.borrow().error.as_deref() == Some(reason.as_str());
                    if !known {
                        tracing::warn!(
                            collector = self.shared.config.collector,
                            error = reason,
                            "the collector cannot be reached; records are kept and sent later"
                        );
                    }
                    self.shared.status.send_modify(|s| s.error = Some(reason));
                }
            }
            tokio::select! {
                () = self.shared.stop.wait() => return Ok(()),
                () = tokio::time::sleep(jittered(backoff)) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Runs the three calls until the first ends; says why.
    async fn serve(&self, channel: Channel) -> String {
        let mut calls = tokio::task::JoinSet::new();
        let mut renewed = self.tls.swaps();
        renewed.mark_unchanged();
        let mut mode = self.shared.config.mode.clone();
        mode.mark_unchanged();
        for stream in Stream::ALL {
            let client = IntakeClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            calls.spawn(session::run(self.shared.clone(), client, stream));
        }
        let first = tokio::select! {
            () = self.shared.stop.wait() => "the agent is stopping".to_owned(),
            // The journal holds whatever is on its way, so a new connection costs a repetition at most.
            Ok(()) = renewed.changed() => "the node's certificate was renewed; connecting with the new one".to_owned(),
            Ok(()) = mode.changed() => "the cleanup mode changed; connecting again to say so".to_owned(),
            done = calls.join_next() => match done {
                Some(Ok((stream, Err(e)))) => format!("{stream} stream: {e}"),
                Some(Ok((stream, Ok(())))) => format!("{stream} stream: the collector ended it"),
                Some(Err(e)) => format!("a stream's task failed: {e}"),
                None => "no stream".to_owned(),
            },
        };
        calls.shutdown().await;
        self.shared.status.send_modify(|s| s.connected = [false; 3]);
        first
    }
}

/// An error with all its causes: tonic's own text stops at "transport error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(s) = source {
        let next = s.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = s.source();
    }
    text
}

/// Full jitter: anything up to `limit`, so that a restarted collector is not met by everybody at once.
pub(crate) fn jittered(limit: Duration) -> Duration {
    let mut bytes = [0u8; 4];
    // Without randomness the full wait is the safe choice.
    if getrandom::fill(&mut bytes).is_err() {
        return limit;
    }
    limit.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
