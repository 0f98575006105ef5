//! Ingest: one call for each stream of each node. Verify, commit, acknowledge.
//!
//! A node speaks for itself alone: the name in its certificate must be the one in every block. A block is acknowledged
//! after the store made it durable, in the order of arrival; many wait for the disk at once, so that one sync serves
//! them (group commit). What waits is bounded by the store in bytes for all nodes together, and is given up by the
//! store's own thread: an agent that reads no acks, or a call that is busy, never holds room that others need.
//!
//! Bounds for a stolen certificate: messages by the server, incarnations by [`MAX_KEPT`], blocks in flight by
//! [`BLOCKS_WAITING`], an agent that does not listen by [`SEND_TIMEOUT`]. What it does to its own node's chains is seen:
//! a fork is an equivocation, a hole a finding, and neither can touch what is stored.
//!
//! Deliberately absent: what the records mean. The store tells the correlator what it committed.

mod fleet;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dogwatch::block::{Block, MAX_BLOCK_BYTES};
use dogwatch::chain::SignedHead;
use dogwatch::clock;
use dogwatch::record::{CleanupMode, Hash, Incarnation, NodeName, Seq, Stream};
use dogwatch::supervise::Stop;
use dogwatch::tls::Peer;
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use dogwatch::wire::collector_message::Message as Down;
use dogwatch::wire::intake_server::Intake;
use ed25519_dalek::VerifyingKey;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::admit::gate::Gate;
use crate::brake::Handle as Brake;
use crate::keys::known_keys;
use crate::ledger::JournalLedger;
use crate::nodes::{Nodes, Session};
use crate::say::{MAX_WHY_CHARS, Say};
use crate::store::{CommitError, Committed, Handed, Store, Stored};
use fleet::Link;

/// Blocks of one call that wait for the disk.
const BLOCKS_WAITING: usize = 64;
/// Messages to one agent that wait for its connection.
const SEND_QUEUE: usize = 64;
/// An agent must say Hello within this long.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// An agent that takes nothing for so long is not listening; its call ends, and it may come again.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Incarnations that Hello may name.
const MAX_KEPT: usize = 4096;
/// Longest version of an agent that is kept.
const MAX_VERSION_CHARS: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub struct Ingest {
    store: Store,
    nodes: Nodes,
    gate: Gate,
    say: Say,
    stop: Stop,
    brake: Brake,
    /// With an external CA there is no enrolment: the key of a node's first Hello counts from then on.
    first_keys: Option<Arc<JournalLedger>>,
}

impl Ingest {
    /// A service that commits to `store`; its calls end when `stop` is set, since agents never end them.
    pub fn new(store: Store, nodes: Nodes, gate: Gate, say: Say, brake: Brake, stop: Stop) -> Self {
        Self { store, nodes, gate, say, stop, brake, first_keys: None }
    }

    /// Remembers in `ledger` the signing key that a node of an external CA first comes with.
    #[must_use]
    pub fn with_first_keys(self, ledger: Arc<JournalLedger>) -> Self {
        Self { first_keys: Some(ledger), ..self }
    }
}

#[tonic::async_trait]
impl Intake for Ingest {
    type SendStream =
        Pin<Box<dyn futures_util::Stream<Item = Result<wire::CollectorMessage, Status>> + Send>>;

    async fn send(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SendStream>, Status> {
        let node = self.gate.require_node(&request)?;
        let peer = self.gate.peer(&request)?;
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(SEND_QUEUE);
        let service = self.clone();
        tokio::spawn(async move {
            let result = service.serve(&node, peer, &mut messages, &sender).await;
            if let Err(status) = result {
                tracing::debug!(%node, code = ?status.code(), message = status.message(), "a stream ended");
                // The agent may be gone already, or not listening.
                let _ = sender.send_timeout(Err(status), SEND_TIMEOUT).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Sender = mpsc::Sender<Result<wire::CollectorMessage, Status>>;

/// What a node says it still holds of an incarnation.
struct Kept {
    /// Blocks that begin here or later may lack what comes before: the node has it no longer.
    oldest_seq: Seq,
    /// Why, in the node's words; empty where Hello said it.
    why: String,
}

/// One call's state.
struct Call<'a> {
    node: &'a NodeName,
    peer: &'a Peer,
    stream: Stream,
    keys: Vec<VerifyingKey>,
    kept: HashMap<Incarnation, Kept>,
    sender: &'a Sender,
}

impl Ingest {
    async fn serve(
        &self,
        node: &NodeName,
        peer: Peer,
        messages: &mut Streaming<wire::AgentMessage>,
        sender: &Sender,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(Up::Hello(mut hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        let stream = Stream::try_from(hello.stream())
            .map_err(|e| Status::invalid_argument(format!("Hello.stream: {e}")))?;
        let keys = self.check_key(node, &hello).await?;
        let (order, kept) = named(&hello)?;
        let held = hello.brake_held.take();
        let mut link = (stream == Stream::Urgent && hello.knows_brake)
            .then(|| Link::new(node, &self.brake, held.as_ref()));
        let welcome = self.welcome(node, stream, &order, link.as_mut());
        hello.agent_version = hello.agent_version.chars().take(MAX_VERSION_CHARS).collect();
        send(sender, Down::Welcome(welcome)).await?;
        let mode = CleanupMode::try_from(hello.mode()).ok();
        let mut session =
            (stream == Stream::Urgent).then(|| self.nodes.open(node, &hello, mode, clock::wall_ns()));
        if session.is_some() {
            self.nodes.certificate(node, peer.not_after_wall_ns);
            let known = self.nodes.get(node).and_then(|l| l.spoke);
            self.say.spoke(node, &hello.agent_version, mode, policy_of(&hello), known);
        }
        let _open = self.nodes.count(stream);
        let mut call = Call { node, peer: &peer, stream, keys, kept, sender };
        let expires = expiry(&peer);
        let stopping = self.stop.wait();
        tokio::pin!(expires, stopping);

        let mut committing = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => break,
                () = &mut expires => {
                    return Err(Status::unauthenticated("the node's certificate has expired; renew it and connect again"));
                }
                Some(answer) = committing.next(), if !committing.is_empty() => {
                    let answer: Answer = answer;
                    answer.send(self, &call).await?;
                }
                word = next_word(&mut link) => send(sender, word).await?,
                Some(command) = next_command(&mut session) => send(sender, Down::Command(command)).await?,
                message = messages.message(), if committing.len() < BLOCKS_WAITING => {
                    let Some(message) = message? else { break };
                    self.nodes.arrived(node);
                    match message.message {
                        Some(Up::Block(block)) => {
                            match self.admit(&call, block) {
                                // In the order of arrival, before the next message is looked at.
                                Ok((block, oldest_held)) => {
                                    let handed = self.store.hand_over(&block, Some(oldest_held)).await;
                                    committing.push_back(commit(&block, handed.map_err(unavailable)?));
                                }
                                Err(nack) => send(sender, Down::Nack(nack)).await?,
                            }
                        }
                        Some(Up::Head(head)) => self.take_head(&call, head).await?,
                        Some(Up::Skip(skip)) => {
                            let incarnation = incarnation(&skip.incarnation)?;
                            tracing::info!(%node, %stream, resume_seq = skip.resume_seq, reason = skip.reason, "a node skips what it no longer holds");
                            if let Some(k) = call.kept.get_mut(&incarnation) && skip.resume_seq > k.oldest_seq {
                                k.oldest_seq = skip.resume_seq;
                                k.why = skip.reason.chars().take(MAX_WHY_CHARS).collect();
                            }
                        }
                        Some(Up::Pulse(pulse)) if stream == Stream::Urgent => {
                            self.nodes.pulse(node, pulse, clock::wall_ns());
                        }
                        Some(Up::PermitAsk(ask)) if let Some(link) = &link => link.ask(ask)?,
                        Some(Up::BrakeHeard(heard)) if let Some(link) = &mut link => {
                            link.heard(&heard);
                            self.nodes.heard(node, heard.revision);
                        }
                        Some(Up::Result(result)) if stream == Stream::Urgent => self.nodes.answer(node, result),
                        _ => return Err(Status::invalid_argument("a message that this stream does not take")),
                    }
                }
            }
        }
        while let Some(answer) = committing.next().await {
            answer.send(self, &call).await?;
        }
        if self.stop.is_set() {
            return Err(Status::unavailable("the collector is stopping; connect again"));
        }
        Ok(())
    }

    /// A node must sign with the key that it was enrolled with last; what older keys signed stays good.
    async fn check_key(&self, node: &NodeName, hello: &wire::Hello) -> Result<Vec<VerifyingKey>, Status> {
        let mut keys = known_keys(&self.store, node).await.map_err(|e| Status::unavailable(e.to_string()))?;
        if let (true, Some(ledger)) = (keys.is_empty(), &self.first_keys) {
            let key = hello.signing_key[..]
                .try_into()
                .map_err(|_| Status::invalid_argument("Hello.signing_key must be 32 bytes"))?;
            keys = ledger.first_key(node, key).await.map_err(|e| Status::unavailable(e.to_string()))?;
        }
        if keys.first().is_some_and(|k| k.as_bytes()[..] == hello.signing_key[..]) {
            return Ok(keys);
        }
        self.say.changed_key(node, &hello.signing_key);
        Err(Status::permission_denied(format!(
            "node {node} signs with a key that it was not enrolled with last; enrol it again with a join token if its state \
             folder was really replaced"
        )))
    }

    fn welcome(
        &self,
        node: &NodeName,
        stream: Stream,
        incarnations: &[Incarnation],
        link: Option<&mut Link>,
    ) -> wire::Welcome {
        let heads = self.store.heads(node, stream, incarnations);
        let cursors = incarnations
            .iter()
            .zip(heads)
            .map(|(incarnation, head)| {
                let head = head.unwrap_or_default();
                wire::Cursor {
                    incarnation: incarnation.0.to_vec().into(),
                    last_seq: head.last_seq,
                    hash: head.hash.0.to_vec().into(),
                }
            })
            .collect();
        wire::Welcome { cursors, max_block_bytes: MAX_BLOCK_BYTES as u32, brake: link.map(Link::welcome) }
    }

    /// Checks that a block is whole and the node's own.
    fn admit(&self, call: &Call<'_>, block: wire::Block) -> Result<(Block, Seq), wire::Nack> {
        // What the block claims to be, so that even a malformed one can be named to its sender, who sets it aside.
        let claim = wire::BlockHeader::decode(block.header.clone()).unwrap_or_default();
        let block = Block::from_wire(block).map_err(|e| wire::Nack {
            incarnation: claim.incarnation,
            first_seq: claim.first_seq,
            last_seq: claim.last_seq,
            reason: wire::NackReason::Malformed.into(),
            detail: e.to_string(),
            expected_seq: 0,
        })?;
        let h = block.header();
        let refuse = |reason: wire::NackReason, detail: String| wire::Nack {
            incarnation: h.incarnation.0.to_vec().into(),
            first_seq: h.first_seq,
            last_seq: h.last_seq,
            reason: reason.into(),
            detail,
            expected_seq: 0,
        };
        if h.node != *call.node {
            self.gate.wrong_node(call.peer, h.node.as_str());
            return Err(refuse(
                wire::NackReason::WrongNode,
                format!("the block is of node {}, the certificate of {}", h.node, call.node),
            ));
        }
        let kept = call.kept.get(&h.incarnation);
        let Some(kept) = kept.filter(|_| h.stream == call.stream) else {
            return Err(refuse(
                wire::NackReason::Malformed,
                "the block is of another stream or incarnation than Hello named".to_owned(),
            ));
        };
        // Only an export may withhold; a store that took such a block would hold a hash of nothing.
        if (0..h.sections.len()).any(|i| block.withheld(i)) {
            return Err(refuse(
                wire::NackReason::Malformed,
                "a section is withheld; a node must send blocks whole".to_owned(),
            ));
        }
        let oldest_held = kept.oldest_seq;
        Ok((block, oldest_held))
    }

    async fn take_head(&self, call: &Call<'_>, head: wire::SignedHead) -> Result<(), Status> {
        let Ok(signature) = head.signature[..].try_into() else {
            return Err(Status::invalid_argument("head.signature must be 64 bytes"));
        };
        let head = SignedHead { statement: head.statement.to_vec(), signature };
        let statement = call
            .keys
            .iter()
            .find_map(|k| head.verify(k).ok())
            .filter(|s| s.chain.node == *call.node && s.chain.stream == call.stream);
        if statement.is_none() {
            return Err(Status::invalid_argument(
                "a signed head that does not hold for this node, stream and key",
            ));
        }
        match self.store.commit_head(&head).await {
            Ok(()) => Ok(()),
            // It is kept, and it contradicts what is stored: somebody changed one of the two.
            Err(e @ CommitError::Equivocation { .. }) => {
                let seq = statement.map_or(0, |s| s.head.last_seq);
                self.say.equivocation(call.node, call.stream, seq, &e.to_string());
                Ok(())
            }
            // The next head says as much and more; ending the stream would only take away the way for commands.
            Err(CommitError::Full { .. } | CommitError::Held { .. }) => Ok(()),
            Err(e) => Err(Status::unavailable(e.to_string())),
        }
    }
}

/// What came of one block.
struct Answer {
    incarnation: Incarnation,
    first_seq: Seq,
    last_seq: Seq,
    result: Result<Committed, CommitError>,
}

/// Waits for what comes of a block.
fn commit(block: &Block, handed: Handed) -> impl Future<Output = Answer> + use<> {
    let h = block.header();
    let (incarnation, first_seq, last_seq) = (h.incarnation, h.first_seq, h.last_seq);
    async move { Answer { incarnation, first_seq, last_seq, result: handed.committed().await } }
}

fn unavailable(e: CommitError) -> Status {
    Status::unavailable(e.to_string())
}

impl Answer {
    async fn send(self, ingest: &Ingest, call: &Call<'_>) -> Result<(), Status> {
        ingest.nodes.seen(call.node, clock::wall_ns());
        let incarnation = self.incarnation.0.to_vec().into();
        let nack = |reason: wire::NackReason, detail: String, expected_seq| {
            Down::Nack(wire::Nack {
                incarnation: self.incarnation.0.to_vec().into(),
                first_seq: self.first_seq,
                last_seq: self.last_seq,
                reason: reason.into(),
                detail,
                expected_seq,
            })
        };
        let message = match self.result {
            Ok(c) => {
                if let Stored::AfterLoss { expected_seq } = c.stored {
                    tracing::warn!(node = %call.node, stream = %call.stream, expected_seq, first_seq = self.first_seq,
                        "stored after a loss; the node's gap records say what is missing");
                    let why = call.kept.get(&self.incarnation).map_or("", |k| &k.why);
                    ingest.say.hole(call.node, call.stream, expected_seq, self.first_seq, why);
                }
                Down::Ack(wire::Ack {
                    incarnation,
                    last_seq: c.head.last_seq,
                    receipt: Some((&c.receipt).into()),
                })
            }
            Err(e @ CommitError::Rewind { expected_seq }) => {
                nack(wire::NackReason::Rewind, e.to_string(), expected_seq)
            }
            Err(e @ CommitError::Equivocation { .. }) => {
                ingest.say.equivocation(call.node, call.stream, self.first_seq, &e.to_string());
                nack(wire::NackReason::Equivocation, e.to_string(), 0)
            }
            Err(e @ (CommitError::Full { .. } | CommitError::Held { .. })) => {
                nack(wire::NackReason::Full, e.to_string(), 0)
            }
            Err(e @ (CommitError::TooLarge { .. } | CommitError::Malformed { .. })) => {
                nack(wire::NackReason::Malformed, e.to_string(), 0)
            }
            // Nothing was promised, so the agent keeps the block and comes back.
            Err(e) => return Err(unavailable(e)),
        };
        send(call.sender, message).await
    }
}

async fn send(sender: &Sender, message: Down) -> Result<(), Status> {
    sender
        .send_timeout(Ok(wire::CollectorMessage { message: Some(message) }), SEND_TIMEOUT)
        .await
        .map_err(|_| Status::cancelled("the agent is gone, or takes no answers"))
}

async fn next_word(link: &mut Option<Link>) -> Down {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn next_command(session: &mut Option<Session>) -> Option<wire::Command> {
    match session {
        Some(s) => s.commands.recv().await,
        None => std::future::pending().await,
    }
}

/// Ends when the certificate does; never for one without an end.
async fn expiry(peer: &Peer) {
    if peer.not_after_wall_ns.is_none() {
        return std::future::pending().await;
    }
    // Looked at every few seconds, not slept through once: the wall clock may jump either way.
    loop {
        if peer.expired_at(clock::wall_ns()) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn incarnation(bytes: &[u8]) -> Result<Incarnation, Status> {
    Incarnation::from_slice(bytes).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// What decides on a node what may go, where it said that.
fn policy_of(hello: &wire::Hello) -> Option<Hash> {
    Hash::from_slice(&hello.policy).ok()
}

/// The incarnations that Hello names, each once, in its order, and what is held of them.
fn named(hello: &wire::Hello) -> Result<(Vec<Incarnation>, HashMap<Incarnation, Kept>), Status> {
    if hello.kept.len() > MAX_KEPT {
        return Err(Status::invalid_argument(format!("Hello.kept names over {MAX_KEPT} incarnations")));
    }
    let (mut order, mut kept) = (Vec::new(), HashMap::new());
    let own = wire::Kept { incarnation: hello.incarnation.clone(), first_seq: 1, last_seq: 0 };
    for k in hello.kept.iter().chain([&own]) {
        let name = incarnation(&k.incarnation)?;
        if kept.contains_key(&name) {
            continue;
        }
        order.push(name);
        kept.insert(name, Kept { oldest_seq: k.first_seq, why: String::new() });
    }
    Ok((order, kept))
}
