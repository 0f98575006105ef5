//! One stream's call: Hello, Welcome, then blocks down the wire and acknowledgements back.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use dogwatch::block::{Block, MAX_BLOCK_BYTES};
use dogwatch::chain::{SignedHead, SignedReceipt};
use dogwatch::journal::{FrameKind, Position, Reader};
use dogwatch::record::{Incarnation, Seq, Stream};
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use dogwatch::wire::collector_message::Message as Down;
use dogwatch::wire::intake_client::IntakeClient;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{CommandCall, Shared, chain};

/// Bytes of blocks sent and not yet acknowledged, a stream.
const IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes read from the journal at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Messages between this task and the connection.
const SEND_QUEUE: usize = 8;
/// The collector must welcome within this long.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(20);
/// After a refusal for lack of room, the same block is sent again this much later.
const FULL_RETRY: Duration = Duration::from_secs(5);
/// Sent blocks must be acknowledged within this long, else the call is given up and begun again.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// Rewinds in a row without an acknowledgement between them; more end the connection, and the backoff paces the rest.
const MAX_REWINDS: u32 = 3;
/// Commands under way at once.
const MAX_COMMANDS: usize = 4;

/// Why a call ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the collector answered {code:?}: {message}")]
    Status { code: tonic::Code, message: String },
    #[error("the collector did not welcome the stream within {WELCOME_TIMEOUT:?}")]
    NoWelcome,
    #[error("the collector broke the protocol: {0}")]
    Protocol(String),
    #[error("blocks were not acknowledged within {ACK_TIMEOUT:?}")]
    NoAck,
    #[error("the journal cannot be read: {0}")]
    Journal(String),
    #[error("the collector has no room; trying again")]
    Full,
    #[error("the collector asked for what comes before; beginning again")]
    Rewind,
}

impl From<tonic::Status> for SessionError {
    fn from(s: tonic::Status) -> Self {
        Self::Status {
            code: s.code(),
            message: if s.message().is_empty() { chain(&s) } else { s.message().to_owned() },
        }
    }
}

/// Runs the call of `stream`, begun again by itself after a rewind or a lack of room.
pub(super) async fn run(
    shared: Shared,
    mut client: IntakeClient<Channel>,
    stream: Stream,
) -> (Stream, Result<(), SessionError>) {
    let mut rewinds = 0;
    loop {
        let acknowledged = shared.status.borrow().acknowledged_blocks;
        let result = call(&shared, &mut client, stream).await;
        shared.status.send_modify(|s| s.connected[stream.index()] = false);
        if shared.status.borrow().acknowledged_blocks > acknowledged {
            rewinds = 0;
        }
        match result {
            Err(SessionError::Full) => tokio::time::sleep(FULL_RETRY).await,
            Err(SessionError::Rewind) if rewinds < MAX_REWINDS => rewinds += 1,
            other => return (stream, other),
        }
    }
}

/// A block on its way.
#[derive(Debug)]
struct InFlight {
    incarnation: Incarnation,
    last_seq: Seq,
    bytes: usize,
}

async fn call(
    shared: &Shared,
    client: &mut IntakeClient<Channel>,
    stream: Stream,
) -> Result<(), SessionError> {
    let (sender, receiver) = mpsc::channel(SEND_QUEUE);
    let dir = shared.recorder.journal_dir(stream);
    let kept = kept_in(dir.clone()).await?;
    sender
        .send(up(Up::Hello(hello(shared, stream, &kept))))
        .await
        .map_err(|_| SessionError::Protocol("the call is closed".to_owned()))?;
    let mut replies = client.send(ReceiverStream::new(receiver)).await?.into_inner();
    let welcome = match tokio::time::timeout(WELCOME_TIMEOUT, replies.message()).await {
        Err(_) => return Err(SessionError::NoWelcome),
        Ok(m) => match m?.and_then(|m| m.message) {
            Some(Down::Welcome(w)) => w,
            other => {
                return Err(SessionError::Protocol(format!("instead of Welcome: {}", name(other.as_ref()))));
            }
        },
    };
    let mut at = Cursors::from_welcome(shared, stream, welcome)?;
    shared.status.send_modify(|s| s.connected[stream.index()] = true);

    let mut durable = shared.recorder.durable();
    let mut pulse = tokio::time::interval(shared.config.pulse_every);
    pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut pulses = shared.pulse.clone();
    let (results, mut done) = mpsc::channel::<wire::CommandResult>(MAX_COMMANDS);
    let mut commands = 0usize;
    let mut in_flight: VecDeque<InFlight> = VecDeque::new();
    let mut in_flight_bytes = 0usize;
    let mut position = Position::default();
    let mut read_all = false;
    let mut ack_deadline = tokio::time::Instant::now() + ACK_TIMEOUT;
    // A read lives across turns of the loop: dropping it at every message would read the same bytes again and again.
    let mut reading: Option<JoinHandle<Result<Batch, String>>> = None;
    loop {
        if reading.is_none() && !read_all && in_flight_bytes < IN_FLIGHT_BYTES {
            read_all = true;
            reading = Some(read(dir.clone(), position, stream));
        }
        tokio::select! {
            biased;
            message = replies.message() => {
                let Some(message) = message? else { return Ok(()) };
                match message.message {
                    Some(Down::Ack(ack)) => {
                        let (incarnation, receipt) = take_ack(&ack)?;
                        while let Some(front) = in_flight.front() {
                            if front.incarnation == incarnation && front.last_seq > ack.last_seq {
                                break;
                            }
                            in_flight_bytes -= front.bytes;
                            in_flight.pop_front();
                            shared.status.send_modify(|s| s.acknowledged_blocks += 1);
                        }
                        shared.recorder.acknowledge(stream, incarnation, ack.last_seq, receipt);
                        ack_deadline = tokio::time::Instant::now() + ACK_TIMEOUT;
                    }
                    Some(Down::Nack(nack)) => {
                        take_nack(shared, stream, &nack, &mut at)?;
                        in_flight.retain(|f| f.incarnation.0 != nack.incarnation[..] || f.last_seq != nack.last_seq);
                        in_flight_bytes = in_flight.iter().map(|f| f.bytes).sum();
                        let skip = wire::Skip {
                            incarnation: nack.incarnation.clone(),
                            resume_seq: nack.last_seq + 1,
                            reason: format!("the block was refused: {}", nack.detail),
                        };
                        send(&sender, Up::Skip(skip)).await?;
                    }
                    Some(Down::Command(command)) if stream == Stream::Urgent => {
                        commands += 1;
                        begin_command(shared, command, commands, results.clone());
                    }
                    other => return Err(SessionError::Protocol(format!("unexpected {}", name(other.as_ref())))),
                }
            }
            Some(result) = done.recv() => {
                commands = commands.saturating_sub(1);
                // Figures first: whoever waits for the result then sees what it did.
                let newest = pulses.borrow_and_update().clone();
                if let Some(p) = newest {
                    send(&sender, Up::Pulse(p)).await?;
                }
                send(&sender, Up::Result(result)).await?;
            }
            changed = durable.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                read_all = false;
            }
            _ = pulse.tick(), if stream == Stream::Urgent => {
                let newest = pulses.borrow_and_update().clone();
                if let Some(p) = newest {
                    send(&sender, Up::Pulse(p)).await?;
                }
            }
            () = tokio::time::sleep_until(ack_deadline), if !in_flight.is_empty() => return Err(SessionError::NoAck),
            batch = joined(&mut reading), if reading.is_some() => {
                reading = None;
                let batch = batch
                    .map_err(|e| SessionError::Journal(e.to_string()))?
                    .map_err(SessionError::Journal)?;
                if batch.next != position {
                    read_all = false;
                }
                position = batch.next;
                for (kind, payload) in batch.entries {
                    if kind == FrameKind::SignedHead {
                        if let Ok(head) = SignedHead::from_bytes(&payload) {
                            let head = wire::SignedHead { statement: head.statement.into(), signature: head.signature.to_vec().into() };
                            send(&sender, Up::Head(head)).await?;
                        }
                        continue;
                    }
                    // What the journal holds was sealed here; if it does not decode now, its disk changed it. The next
                    // block's `previous` shows the hole, and the gap says so.
                    let Ok(block) = Block::decode(payload.clone()) else { continue };
                    let header = block.header();
                    match at.wants(header.incarnation, header.first_seq, header.last_seq) {
                        Wants::No => continue,
                        Wants::Yes => {}
                        Wants::AfterHole => {
                            let skip = wire::Skip {
                                incarnation: header.incarnation.0.to_vec().into(),
                                resume_seq: header.first_seq,
                                reason: "the node no longer holds what comes before".to_owned(),
                            };
                            send(&sender, Up::Skip(skip)).await?;
                        }
                    }
                    at.sent(header.incarnation, header.last_seq);
                    if in_flight.is_empty() {
                        ack_deadline = tokio::time::Instant::now() + ACK_TIMEOUT;
                    }
                    let bytes = payload.len();
                    in_flight.push_back(InFlight { incarnation: header.incarnation, last_seq: header.last_seq, bytes });
                    in_flight_bytes += bytes;
                    send(&sender, Up::Block(block.to_wire())).await?;
                }
            }
        }
    }
}

/// What the collector has of each incarnation, and what it asked for.
#[derive(Debug, Default)]
struct Cursors {
    last: HashMap<Incarnation, Seq>,
    /// Blocks whose acknowledgement was lost: the one that ends at this seq is sent once more, for its receipt.
    lacks_receipt: HashMap<Incarnation, Seq>,
    begun: HashMap<Incarnation, bool>,
}

enum Wants {
    No,
    Yes,
    AfterHole,
}

impl Cursors {
    fn from_welcome(shared: &Shared, stream: Stream, welcome: wire::Welcome) -> Result<Self, SessionError> {
        if (welcome.max_block_bytes as usize) < MAX_BLOCK_BYTES {
            return Err(SessionError::Protocol(format!(
                "the collector takes blocks of {} bytes at most, this agent seals up to {MAX_BLOCK_BYTES}",
                welcome.max_block_bytes
            )));
        }
        let mut at = Self::default();
        for c in welcome.cursors {
            let incarnation = Incarnation::from_slice(&c.incarnation)
                .map_err(|e| SessionError::Protocol(format!("Welcome.cursors: {e}")))?;
            at.last.insert(incarnation, c.last_seq);
            let unacknowledged = shared.recorder.kept(stream);
            if unacknowledged.iter().any(|k| k.incarnation == incarnation && k.first_seq <= c.last_seq) {
                at.lacks_receipt.insert(incarnation, c.last_seq);
            }
        }
        Ok(at)
    }

    fn wants(&mut self, incarnation: Incarnation, first: Seq, last: Seq) -> Wants {
        let have = self.last.get(&incarnation).copied().unwrap_or(0);
        if last <= have {
            let again = self.lacks_receipt.get(&incarnation) == Some(&last);
            if again {
                self.lacks_receipt.remove(&incarnation);
            }
            return if again { Wants::Yes } else { Wants::No };
        }
        // The first block sent of an incarnation must be the one after what the collector has, unless seqs were lost
        // before sealing; the collector tells the two apart by `previous`. A hole is declared only where this node
        // cannot send what is missing: when an earlier block existed and is gone.
        let begun = self.begun.insert(incarnation, true).unwrap_or(false);
        if !begun && first > have + 1 { Wants::AfterHole } else { Wants::Yes }
    }

    fn sent(&mut self, incarnation: Incarnation, last: Seq) {
        let seq = self.last.entry(incarnation).or_default();
        *seq = (*seq).max(last);
    }
}

fn hello(shared: &Shared, stream: Stream, kept: &[wire::Kept]) -> wire::Hello {
    wire::Hello {
        stream: wire::Stream::from(stream).into(),
        incarnation: shared.recorder.incarnation().0.to_vec().into(),
        start_counter: shared.recorder.start_counter(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: wire::CleanupMode::from(shared.config.mode).into(),
        signing_key: shared.config.signing_key.to_vec().into(),
        kept: kept.to_vec(),
    }
}

fn up(message: Up) -> wire::AgentMessage {
    wire::AgentMessage { message: Some(message) }
}

async fn send(sender: &mpsc::Sender<wire::AgentMessage>, message: Up) -> Result<(), SessionError> {
    sender.send(up(message)).await.map_err(|_| SessionError::Protocol("the call was closed".to_owned()))
}

fn name(message: Option<&Down>) -> &'static str {
    match message {
        Some(Down::Welcome(_)) => "Welcome",
        Some(Down::Ack(_)) => "Ack",
        Some(Down::Nack(_)) => "Nack",
        Some(Down::Command(_)) => "Command",
        None => "an empty message",
    }
}

fn receipt(r: &wire::SignedReceipt) -> Result<SignedReceipt, SessionError> {
    let signature = r.signature[..]
        .try_into()
        .map_err(|_| SessionError::Protocol("a receipt's signature is not 64 bytes".to_owned()))?;
    Ok(SignedReceipt { statement: r.statement.to_vec(), signature })
}

fn take_ack(ack: &wire::Ack) -> Result<(Incarnation, SignedReceipt), SessionError> {
    let incarnation =
        Incarnation::from_slice(&ack.incarnation).map_err(|e| SessionError::Protocol(format!("Ack: {e}")))?;
    let Some(r) = &ack.receipt else {
        return Err(SessionError::Protocol("an Ack without a receipt".to_owned()));
    };
    Ok((incarnation, receipt(r)?))
}

fn take_nack(
    shared: &Shared,
    stream: Stream,
    nack: &wire::Nack,
    at: &mut Cursors,
) -> Result<(), SessionError> {
    let incarnation = Incarnation::from_slice(&nack.incarnation)
        .map_err(|e| SessionError::Protocol(format!("Nack: {e}")))?;
    match nack.reason() {
        wire::NackReason::Full => Err(SessionError::Full),
        wire::NackReason::Rewind => {
            tracing::info!(%stream, expected_seq = nack.expected_seq, "the collector asks for what comes before");
            Err(SessionError::Rewind)
        }
        reason => {
            tracing::error!(%stream, first_seq = nack.first_seq, last_seq = nack.last_seq, ?reason, detail = nack.detail,
                "the collector refused a block for good; it is set aside");
            shared.status.send_modify(|s| s.refused_blocks += 1);
            shared.recorder.set_aside(
                stream,
                incarnation,
                nack.first_seq,
                nack.last_seq,
                nack.detail.clone(),
            );
            at.sent(incarnation, nack.last_seq);
            Ok(())
        }
    }
}

fn begin_command(
    shared: &Shared,
    command: wire::Command,
    under_way: usize,
    results: mpsc::Sender<wire::CommandResult>,
) {
    let id = command.id.clone();
    let commands = shared.commands.clone();
    tokio::spawn(async move {
        let refuse = |error: &str| wire::CommandResult {
            id: id.clone(),
            ok: false,
            error: error.to_owned(),
            action: None,
        };
        let result = if under_way > MAX_COMMANDS {
            refuse("the node has as many commands under way as it takes at once; try again")
        } else {
            let (reply, answer) = oneshot::channel();
            match commands.try_send(CommandCall { command, reply }) {
                Ok(()) => {
                    answer.await.unwrap_or_else(|_| refuse("the agent dropped the command; see its log"))
                }
                Err(_) => refuse("the agent is busy; try again"),
            }
        };
        // The call may have ended meanwhile; the collector then tells its asker that the node went away.
        let _ = results.send(result).await;
    });
}

/// Entries read from the journal, and where to go on.
struct Batch {
    entries: Vec<(FrameKind, bytes::Bytes)>,
    next: Position,
}

/// Waits for the read under way; for ever where there is none.
async fn joined(
    reading: &mut Option<JoinHandle<Result<Batch, String>>>,
) -> Result<Result<Batch, String>, JoinError> {
    match reading {
        Some(handle) => handle.await,
        None => std::future::pending().await,
    }
}

fn read(dir: PathBuf, after: Position, stream: Stream) -> JoinHandle<Result<Batch, String>> {
    tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&dir).map_err(|e| e.to_string())?;
        let mut batch = Batch { entries: Vec::new(), next: after };
        let mut bytes = 0;
        for entry in reader.scan(after) {
            let entry = entry.map_err(|e| e.to_string())?;
            if entry.at <= after && after != Position::default() {
                continue;
            }
            batch.next = entry.at;
            let wanted = match entry.kind {
                // The recorder's blocks stay on the node until an incident asks; its signed heads anchor them.
                FrameKind::Block => stream != Stream::Recorder,
                FrameKind::SignedHead => true,
                FrameKind::Receipt | FrameKind::Decision => false,
            };
            if wanted {
                bytes += entry.payload.len();
                batch.entries.push((entry.kind, entry.payload));
            }
            if bytes >= READ_BYTES {
                break;
            }
        }
        Ok(batch)
    })
}

/// Every incarnation that the journal holds, oldest first.
async fn kept_in(dir: PathBuf) -> Result<Vec<wire::Kept>, SessionError> {
    let list = move || -> Result<Vec<wire::Kept>, String> {
        let blocks = Reader::open(&dir).and_then(|r| r.blocks()).map_err(|e| e.to_string())?;
        let mut kept: Vec<wire::Kept> = Vec::new();
        for (_, info) in blocks {
            let incarnation = info.chain.incarnation.0.to_vec();
            match kept.iter_mut().find(|k| k.incarnation == incarnation) {
                Some(k) => k.last_seq = k.last_seq.max(info.last_seq),
                None => kept.push(wire::Kept {
                    incarnation: incarnation.into(),
                    first_seq: info.first_seq,
                    last_seq: info.last_seq,
                }),
            }
        }
        Ok(kept)
    };
    tokio::task::spawn_blocking(list)
        .await
        .map_err(|e| SessionError::Journal(e.to_string()))?
        .map_err(SessionError::Journal)
}
