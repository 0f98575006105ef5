//! One stream's call: Hello, Welcome, then blocks down the wire and acknowledgements back.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::block::{Block, Header, MAX_BLOCK_BYTES};
use dogwatch::chain::{Head, SignedHead, SignedReceipt};
use dogwatch::clock;
use dogwatch::journal::{FrameKind, Position};
use dogwatch::record::{Body, Gap, Hash, Incarnation, Seq, Stream};
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use dogwatch::wire::collector_message::Message as Down;
use dogwatch::wire::intake_client::IntakeClient;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::brake::OnStream;
use super::reading::{Batch, Held, Indexed, earlier_heads, held, joined, read};
use super::{CommandCall, Shared, chain};
use crate::record::NOT_HELD;

/// Bytes of blocks sent and not yet acknowledged, a stream.
const IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;
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
/// Refused blocks that are remembered, so that they are not sent again; the newest.
const MAX_REFUSED: usize = 1024;

/// Characters of a refusal's reason that are recorded.
const MAX_DETAIL_CHARS: usize = 1000;
/// Stands for the hash of a block that was refused: the block after it does not follow what the collector has.
const PASSED_OVER: Hash = Hash([0xff; 32]);

/// What a stream's calls hand on to the next one.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Where the newest signed head stands that was sent.
    heads_sent: Position,
    /// Blocks that the collector will never take.
    refused: Vec<(Incarnation, Seq, Seq)>,
    /// Up to which seq it was told that the collector lacks what is gone here.
    holes_told: HashMap<Incarnation, Seq>,
    /// Blocks acknowledged so far.
    acknowledged: u64,
}

impl Memory {
    fn refuse(&mut self, incarnation: Incarnation, first: Seq, last: Seq) {
        if self.refused.len() == MAX_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push((incarnation, first, last));
    }
}

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
        let acknowledged = shared.memory(stream).acknowledged;
        let result = call(&shared, &mut client, stream).await;
        shared.status.send_modify(|s| s.connected[stream.index()] = false);
        if shared.memory(stream).acknowledged > acknowledged {
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
    first_seq: Seq,
    last_seq: Seq,
    hash: Hash,
    bytes: usize,
}

impl Shared {
    fn memory(&self, stream: Stream) -> MutexGuard<'_, Memory> {
        self.memory[stream.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call(
    shared: &Shared,
    client: &mut IntakeClient<Channel>,
    stream: Stream,
) -> Result<(), SessionError> {
    let (sender, receiver) = mpsc::channel(SEND_QUEUE);
    let dir = shared.recorder.journal_dir(stream);
    let Held { kept, blocks } = held(dir.clone()).await.map_err(SessionError::Journal)?;
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
    let word = welcome.brake.clone();
    let mut at = Cursors::from_welcome(shared, stream, welcome)?;
    let mut brake = (stream == Stream::Urgent).then(|| OnStream::new(&shared.config.brake, word));
    shared.status.send_modify(|s| s.connected[stream.index()] = true);

    let mut news = shared.recorder.news(stream);
    let mut pulse = tokio::time::interval(shared.config.pulse_every);
    pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut pulses = shared.pulse.clone();
    let (results, mut done) = mpsc::channel::<wire::CommandResult>(MAX_COMMANDS);
    let mut commands = 0usize;
    let mut in_flight: Vec<InFlight> = Vec::new();
    let mut in_flight_bytes = 0usize;
    let mut position = at.begin(&blocks);
    drop(blocks);
    let heads_from = shared.memory(stream).heads_sent;
    // Of the recorder's journal only heads are sent.
    let until = (stream != Stream::Recorder).then_some(position);
    let (heads, read_to) =
        earlier_heads(dir.clone(), heads_from, until).await.map_err(SessionError::Journal)?;
    for (head_at, head) in heads {
        send(&sender, Up::Head(head)).await?;
        shared.memory(stream).heads_sent = head_at;
    }
    position = position.max(read_to);
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
                        let (incarnation, receipt) = take_ack(shared, stream, &ack, &at, &in_flight)?;
                        let before = in_flight.len();
                        // Chains are acknowledged one by one: those of other incarnations still are on their way.
                        in_flight.retain(|f| f.incarnation != incarnation || f.last_seq > ack.last_seq);
                        in_flight_bytes = in_flight.iter().map(|f| f.bytes).sum();
                        let done = (before - in_flight.len()) as u64;
                        shared.memory(stream).acknowledged += done;
                        shared.status.send_modify(|s| {
                            s.acknowledged_blocks += done;
                            s.acknowledged_at[stream.index()] = Some(Instant::now());
                        });
                        shared.recorder.acknowledge(stream, incarnation, ack.last_seq, receipt);
                        ack_deadline = tokio::time::Instant::now() + ACK_TIMEOUT;
                    }
                    Some(Down::Nack(nack)) => {
                        take_nack(shared, stream, &nack, &in_flight)?;
                        in_flight.retain(|f| f.incarnation.0 != nack.incarnation[..] || f.last_seq != nack.last_seq);
                        in_flight_bytes = in_flight.iter().map(|f| f.bytes).sum();
                        let skip = wire::Skip {
                            incarnation: nack.incarnation.clone(),
                            resume_seq: nack.last_seq.saturating_add(1),
                            reason: format!("the block was refused: {}", nack.detail),
                        };
                        send(&sender, Up::Skip(skip)).await?;
                    }
                    Some(Down::Command(command)) if stream == Stream::Urgent => {
                        commands += 1;
                        begin_command(shared, command, commands, results.clone());
                    }
                    Some(Down::Brake(word)) if let Some(brake) = &brake => brake.word(word),
                    Some(Down::Permit(answer)) if let Some(brake) = &brake => brake.answer(answer),
                    other => return Err(SessionError::Protocol(format!("unexpected {}", name(other.as_ref())))),
                }
            }
            Some(result) = done.recv() => {
                commands = commands.saturating_sub(1);
                // Figures first: whoever waits for the result then sees what it did.
                let newest = pulses.borrow_and_update().clone();
                if let Some(p) = newest {
                    send(&sender, Up::Pulse(wire::Pulse::from(&p))).await?;
                }
                send(&sender, Up::Result(result)).await?;
            }
            asked = super::brake::next(&mut brake) => {
                for message in asked {
                    send(&sender, message).await?;
                }
            }
            changed = news.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                read_all = false;
            }
            _ = pulse.tick(), if stream == Stream::Urgent => {
                let newest = pulses.borrow_and_update().clone();
                if let Some(p) = newest {
                    send(&sender, Up::Pulse(wire::Pulse::from(&p))).await?;
                }
            }
            () = tokio::time::sleep_until(ack_deadline), if !in_flight.is_empty() => return Err(SessionError::NoAck),
            batch = joined(&mut reading), if reading.is_some() => {
                reading = None;
                let batch = batch
                    .map_err(|e| SessionError::Journal(e.to_string()))?
                    .map_err(SessionError::Journal)?;
                if !batch.ended {
                    read_all = false;
                }
                position = batch.next;
                for (entry_at, kind, payload) in batch.entries {
                    if kind == FrameKind::SignedHead {
                        if let Ok(head) = SignedHead::from_bytes(&payload) {
                            send(&sender, Up::Head(wire::SignedHead::from(&head))).await?;
                            shared.memory(stream).heads_sent = entry_at;
                        }
                        continue;
                    }
                    // What the journal holds was sealed here; if it does not decode now, its disk changed it. The next
                    // block's `previous` shows the hole, and the gap says so.
                    let Ok(block) = Block::decode(payload.clone()) else { continue };
                    let header = block.header();
                    let id = (header.incarnation, header.first_seq, header.last_seq);
                    if shared.memory(stream).refused.contains(&id) {
                        at.pass_over(header);
                        continue;
                    }
                    match at.wants(header) {
                        Wants::No => continue,
                        Wants::Yes => {}
                        Wants::AfterHole { after } => {
                            let reason = "the node no longer holds what comes before";
                            tell_hole(shared, stream, header, after);
                            let skip = wire::Skip {
                                incarnation: header.incarnation.0.to_vec().into(),
                                resume_seq: header.first_seq,
                                reason: reason.to_owned(),
                            };
                            send(&sender, Up::Skip(skip)).await?;
                        }
                    }
                    at.sent(header.incarnation, Head { last_seq: header.last_seq, hash: block.hash() });
                    if in_flight.is_empty() {
                        ack_deadline = tokio::time::Instant::now() + ACK_TIMEOUT;
                    }
                    let bytes = payload.len();
                    in_flight.push(InFlight {
                        incarnation: header.incarnation,
                        first_seq: header.first_seq,
                        last_seq: header.last_seq,
                        hash: block.hash(),
                        bytes,
                    });
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
    last: HashMap<Incarnation, Head>,
    /// Blocks whose acknowledgement was lost: the one that ends at this seq is sent once more, for its receipt.
    lacks_receipt: HashMap<Incarnation, Seq>,
}

#[derive(Debug, PartialEq, Eq)]
enum Wants {
    No,
    Yes,
    /// What comes between this seq and the block is gone.
    AfterHole {
        after: Seq,
    },
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
        let unacknowledged = shared.recorder.kept(stream);
        for c in welcome.cursors {
            let broken = |e: &dyn std::fmt::Display| SessionError::Protocol(format!("Welcome.cursors: {e}"));
            let incarnation = Incarnation::from_slice(&c.incarnation).map_err(|e| broken(&e))?;
            let hash = if c.hash.is_empty() {
                Hash::ZERO
            } else {
                Hash::from_slice(&c.hash).map_err(|e| broken(&e))?
            };
            at.last.insert(incarnation, Head { last_seq: c.last_seq, hash });
            if unacknowledged.iter().any(|k| k.incarnation == incarnation && k.first_seq <= c.last_seq) {
                at.lacks_receipt.insert(incarnation, c.last_seq);
            }
        }
        Ok(at)
    }

    /// Just before the first of `blocks` (in the journal's order) that is to be sent; the last one's place where none is.
    fn begin(&self, blocks: &[Indexed]) -> Position {
        let wanted = blocks.iter().find(|b| {
            let have = self.last.get(&b.incarnation).map_or(0, |h| h.last_seq);
            b.last_seq > have || self.lacks_receipt.get(&b.incarnation) == Some(&b.last_seq)
        });
        match wanted {
            // No frame stands there, as frames stand at multiples of 8.
            Some(b) => Position { segment: b.at.segment, offset: b.at.offset.saturating_sub(1) },
            None => blocks.last().map_or_else(Position::default, |b| b.at),
        }
    }

    fn wants(&mut self, header: &Header) -> Wants {
        let have = self.last.get(&header.incarnation).copied().unwrap_or_default();
        if header.last_seq <= have.last_seq {
            let again = self.lacks_receipt.get(&header.incarnation) == Some(&header.last_seq);
            if again {
                self.lacks_receipt.remove(&header.incarnation);
            }
            return if again { Wants::Yes } else { Wants::No };
        }
        // Seqs that jump between linked blocks were lost before sealing, and their gap is told. Where the link is broken
        // too, a block that was here is gone.
        let passed_over = have.hash == PASSED_OVER;
        if header.previous != have.hash && (passed_over || header.first_seq > have.last_seq + 1) {
            return Wants::AfterHole { after: have.last_seq };
        }
        Wants::Yes
    }

    fn sent(&mut self, incarnation: Incarnation, head: Head) {
        let known = self.last.entry(incarnation).or_default();
        if head.last_seq > known.last_seq {
            *known = head;
        }
    }

    /// Goes on behind a block that is never sent again; what follows it begins with a skip.
    fn pass_over(&mut self, header: &Header) {
        self.sent(header.incarnation, Head { last_seq: header.last_seq, hash: PASSED_OVER });
    }
}

fn hello(shared: &Shared, stream: Stream, kept: &[wire::Kept]) -> wire::Hello {
    wire::Hello {
        stream: wire::Stream::from(stream).into(),
        incarnation: shared.recorder.incarnation().0.to_vec().into(),
        start_counter: shared.recorder.start_counter(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: wire::CleanupMode::from(*shared.config.mode.borrow()).into(),
        signing_key: shared.config.signing_key.to_vec().into(),
        kept: kept.to_vec(),
        knows_brake: true,
        brake_held: (stream == Stream::Urgent).then(|| shared.config.brake.held()).flatten(),
        policy: (stream == Stream::Urgent)
            .then(|| shared.config.brake.policy())
            .flatten()
            .map(|policy| policy.0.to_vec().into())
            .unwrap_or_default(),
    }
}

fn up(message: Up) -> wire::AgentMessage {
    wire::AgentMessage { message: Some(message) }
}

async fn send(sender: &mpsc::Sender<wire::AgentMessage>, message: Up) -> Result<(), SessionError> {
    // While this waits nothing is received; a collector that reads nothing for so long is given up.
    match tokio::time::timeout(ACK_TIMEOUT, sender.send(up(message))).await {
        Ok(sent) => sent.map_err(|_| SessionError::Protocol("the call was closed".to_owned())),
        Err(_) => Err(SessionError::NoAck),
    }
}

fn name(message: Option<&Down>) -> &'static str {
    match message {
        Some(Down::Welcome(_)) => "Welcome",
        Some(Down::Ack(_)) => "Ack",
        Some(Down::Nack(_)) => "Nack",
        Some(Down::Command(_)) => "Command",
        Some(Down::Brake(_)) => "Brake",
        Some(Down::Permit(_)) => "PermitAnswer",
        None => "an empty message",
    }
}

/// Checks that a receipt is about what was sent: it is chained into the node's next block, and it lets blocks go.
fn take_ack(
    shared: &Shared,
    stream: Stream,
    ack: &wire::Ack,
    at: &Cursors,
    in_flight: &[InFlight],
) -> Result<(Incarnation, SignedReceipt), SessionError> {
    let broken = |e: &dyn std::fmt::Display| SessionError::Protocol(format!("Ack: {e}"));
    let incarnation = Incarnation::from_slice(&ack.incarnation).map_err(|e| broken(&e))?;
    let Some(receipt) = ack.receipt.clone() else {
        return Err(broken(&"it has no receipt"));
    };
    let receipt = SignedReceipt::try_from(receipt).map_err(|e| broken(&e))?;
    let said = receipt.decode().map_err(|e| broken(&e))?;
    let (chain, head) = (said.chain, said.head);
    if chain.node != *shared.recorder.node()
        || (chain.incarnation, chain.stream, head.last_seq) != (incarnation, stream, ack.last_seq)
    {
        return Err(broken(&"its receipt is about something else"));
    }
    if at.last.get(&incarnation).is_none_or(|known| ack.last_seq > known.last_seq) {
        return Err(broken(&format!("seq {} was not sent", ack.last_seq)));
    }
    let sent = in_flight.iter().find(|f| (f.incarnation, f.last_seq) == (incarnation, ack.last_seq));
    if sent.is_some_and(|f| f.hash != head.hash) {
        return Err(broken(&format!("its receipt for seq {} has another block's hash", ack.last_seq)));
    }
    Ok((incarnation, receipt))
}

fn take_nack(
    shared: &Shared,
    stream: Stream,
    nack: &wire::Nack,
    in_flight: &[InFlight],
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
            let id = (incarnation, nack.first_seq, nack.last_seq);
            if !in_flight.iter().any(|f| (f.incarnation, f.first_seq, f.last_seq) == id) {
                return Err(SessionError::Protocol("a Nack of a block that is not on its way".to_owned()));
            }
            tracing::error!(%stream, first_seq = nack.first_seq, last_seq = nack.last_seq, ?reason, detail = nack.detail,
                "the collector refused a block for good; it is set aside");
            shared.status.send_modify(|s| s.refused_blocks += 1);
            // Blocks behind it are on their way too and will be refused as not following: the next call then goes on
            // behind this one.
            shared.memory(stream).refuse(incarnation, nack.first_seq, nack.last_seq);
            let detail = nack.detail.chars().take(MAX_DETAIL_CHARS).collect();
            shared.recorder.set_aside(stream, incarnation, nack.first_seq, nack.last_seq, detail);
            Ok(())
        }
    }
}

/// Records that the collector lacks what this node no longer holds; once for each hole, and but for what is told
/// already: what the ring gave up, and holes that an earlier run found.
fn tell_hole(shared: &Shared, stream: Stream, header: &Header, after: Seq) {
    let (incarnation, before) = (header.incarnation, header.first_seq);
    if before <= after.saturating_add(1)
        || shared.memory(stream).holes_told.insert(incarnation, before).is_some_and(|told| told >= before)
    {
        return;
    }
    for (first, last) in shared.recorder.untold(stream, incarnation, after + 1, before - 1) {
        let gap = Gap {
            stream,
            source: "uplink".to_owned(),
            after_seq: Some(first - 1),
            before_seq: Some(last + 1),
            count: Some(last + 1 - first),
            from_wall_ns: 0,
            to_wall_ns: header.first_at.wall_ns,
            reason: NOT_HELD.to_owned(),
            incarnation: Some(incarnation),
        };
        shared.recorder.push(Stream::Urgent, clock::now(), Body::Gap(gap));
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
            error: error.to_owned(),
            ..wire::CommandResult::default()
        };
        let result = if under_way > MAX_COMMANDS {
            refuse("the node has as many commands under way as it takes at once; try again")
        } else {
            let (reply, answer) = oneshot::channel();
            match commands.try_send(CommandCall { command, reply }) {
                Ok(()) => tokio::select! {
                    answer = answer => {
                        answer.unwrap_or_else(|_| refuse("the agent dropped the command; see its log"))
                    }
                    // The call ended; the dropped receiver tells the core that nobody waits any more.
                    () = results.closed() => return,
                },
                Err(_) => refuse("the agent is busy; try again"),
            }
        };
        // The call may have ended meanwhile; the collector then tells its asker that the node went away.
        let _ = results.send(result).await;
    });
}
