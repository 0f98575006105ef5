//! Nodes as they are now: who is connected, what they said last, and the way to send them a command.
//!
//! Nothing here is evidence and nothing survives a restart; what must is in the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::record::{CleanupMode, Hash, NodeName, Stream};
use dogwatch::wire;
use tokio::sync::{mpsc, oneshot, watch};

use crate::store::row::Spoke;

/// Commands that wait for one node at most.
const COMMAND_QUEUE: usize = 16;

/// A node's live state.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Whether its urgent stream is open.
    pub connected: bool,
    /// When anything came from it last, wall ns of the collector; 0 for never in this run.
    pub last_seen_wall_ns: i64,
    /// The version that it said.
    pub agent_version: String,
    /// Its cleanup mode.
    pub mode: Option<CleanupMode>,
    /// What decides there what may go, as it said on this connection.
    pub policy: Option<Hash>,
    /// Its newest figures.
    pub pulse: Option<Arc<wire::Pulse>>,
    /// When the certificate of its urgent stream ends, wall ns, where it ends.
    pub certificate_ends_wall_ns: Option<i64>,
    /// How far its clock was ahead of the collector's when its newest figures came, ns; what they took on their way makes
    /// it look behind by as much.
    pub clock_ahead_ns: Option<i64>,
    /// What its agent said of itself when that changed last, as the store holds it.
    pub spoke: Option<Spoke>,
    /// The newest state of the fleet brake that it said is in force there, on this connection.
    pub brake_heard: Option<u64>,
    /// Since when it has been without a stream or a word; `None` while its urgent stream is open. Not by the wall clock,
    /// whose jumps would make every node silent at once.
    pub quiet_since: Option<Instant>,
}

/// Why a command had no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandFailed {
    /// It has no open urgent stream.
    #[error("node {0} is not connected; look at `dogwatch get nodes` and at the agent's log on that node")]
    NotConnected(NodeName),
    /// It has too many commands waiting.
    #[error("node {0} has too many commands waiting; try again in a moment")]
    Busy(NodeName),
    /// The stream ended before the result came.
    #[error(
        "node {0} went away before it answered; whether it acted is told by `dogwatch get actions --node {0}`"
    )]
    WentAway(NodeName),
    /// No answer in time.
    #[error(
        "node {0} did not answer within {1:?}; whether it acted is told by `dogwatch get actions --node {0}`"
    )]
    Late(NodeName, Duration),
}

#[derive(Debug)]
struct Entry {
    live: Live,
    commands: Option<(u64, mpsc::Sender<wire::Command>)>,
    /// When a message of its own came last; what is told of it later, as how a block fared, is no word of its own.
    heard: Option<Instant>,
    /// Since when this run knows of it.
    since: Instant,
}

impl Default for Entry {
    fn default() -> Self {
        Self { live: Live::default(), commands: None, heard: None, since: Instant::now() }
    }
}

/// By what it is judged whether a node is still there.
#[derive(Debug, Clone)]
pub struct Roll {
    /// Which.
    pub node: NodeName,
    /// The policy that it said it runs: on this connection, or when it spoke last.
    pub policy: Option<Hash>,
    /// Whether its urgent stream is open.
    pub connected: bool,
    /// When a message of its own came last, in this run.
    pub heard: Option<Instant>,
    /// Since when this run knows of it.
    pub since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<NodeName, Entry>,
    waiting: HashMap<String, (NodeName, oneshot::Sender<wire::CommandResult>)>,
    sessions: u64,
    opened: watch::Sender<u64>,
    streams: [u64; 3],
}

/// The registry; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    inner: Arc<Mutex<Inner>>,
}

/// An open urgent stream; when it is dropped the node counts as disconnected.
#[derive(Debug)]
pub struct Session {
    nodes: Nodes,
    node: NodeName,
    number: u64,
    /// What is to be sent down this stream.
    pub commands: mpsc::Receiver<wire::Command>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut inner = self.nodes.lock();
        if let Some(entry) = inner.nodes.get_mut(&self.node)
            && entry.commands.as_ref().is_some_and(|(n, _)| *n == self.number)
        {
            entry.live.connected = false;
            entry.live.quiet_since = Some(Instant::now());
            entry.commands = None;
            // Dropping their senders tells those who wait that the node went away.
            inner.waiting.retain(|_, (node, _)| *node != self.node);
        }
    }
}

/// An open call of a stream; counted while it lives.
#[derive(Debug)]
pub struct OpenStream {
    nodes: Nodes,
    stream: Stream,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.nodes.lock().streams[self.stream.index()] -= 1;
    }
}

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects a node that is enrolled but has not spoken in this run: from now on it is quiet.
    pub fn expect(&self, node: &NodeName) {
        let mut inner = self.lock();
        let entry = inner.nodes.entry(node.clone()).or_default();
        if !entry.live.connected {
            entry.live.quiet_since.get_or_insert_with(Instant::now);
        }
    }

    /// Opens a node's urgent stream. A newer one takes the older one's place.
    pub fn open(
        &self,
        node: &NodeName,
        hello: &wire::Hello,
        mode: Option<CleanupMode>,
        now_wall_ns: i64,
    ) -> Session {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let mut inner = self.lock();
        inner.sessions += 1;
        let number = inner.sessions;
        let entry = inner.nodes.entry(node.clone()).or_default();
        entry.live.connected = true;
        entry.live.quiet_since = None;
        entry.live.brake_heard = None;
        entry.live.last_seen_wall_ns = now_wall_ns;
        entry.heard = Some(Instant::now());
        entry.live.agent_version.clone_from(&hello.agent_version);
        entry.live.mode = mode;
        entry.live.policy = Hash::from_slice(&hello.policy).ok();
        entry.commands = Some((number, sender));
        inner.opened.send_replace(number);
        Session { nodes: self.clone(), node: node.clone(), number, commands }
    }

    /// Every node that was expected or spoke, by name.
    pub fn roll(&self) -> Vec<Roll> {
        let inner = self.lock();
        let said = |live: &Live| {
            let spoke = live.spoke.as_ref().filter(|_| !live.connected);
            live.policy.or(spoke.and_then(|s| s.policy))
        };
        let roll = |(node, entry): (&NodeName, &Entry)| Roll {
            node: node.clone(),
            policy: said(&entry.live),
            connected: entry.live.connected,
            heard: entry.heard,
            since: entry.since,
        };
        inner.nodes.iter().map(roll).collect()
    }

    /// Notes that a message of a node came.
    pub fn arrived(&self, node: &NodeName) {
        if let Some(entry) = self.lock().nodes.get_mut(node) {
            entry.heard = Some(Instant::now());
        }
    }

    /// Notes that something came from a node.
    pub fn seen(&self, node: &NodeName, now_wall_ns: i64) {
        if let Some(entry) = self.lock().nodes.get_mut(node) {
            entry.live.last_seen_wall_ns = now_wall_ns;
            if let Some(since) = &mut entry.live.quiet_since {
                *since = Instant::now();
            }
        }
    }

    /// Notes which state of the fleet brake a node has in force.
    pub fn heard(&self, node: &NodeName, revision: u64) {
        if let Some(entry) = self.lock().nodes.get_mut(node) {
            entry.live.brake_heard = Some(revision);
        }
    }

    /// Takes a node's newest figures.
    pub fn pulse(&self, node: &NodeName, pulse: wire::Pulse, now_wall_ns: i64) {
        let mut inner = self.lock();
        if let Some(entry) = inner.nodes.get_mut(node) {
            entry.live.last_seen_wall_ns = now_wall_ns;
            entry.live.clock_ahead_ns = Some(pulse.wall_ns.saturating_sub(now_wall_ns));
            entry.live.pulse = Some(Arc::new(pulse));
        }
    }

    /// Remembers what the store holds of what a node's agent said of itself.
    pub fn remember(&self, node: &NodeName, spoke: Spoke) {
        self.lock().nodes.entry(node.clone()).or_default().live.spoke = Some(spoke);
    }

    /// Notes when the certificate ends that a node's urgent stream came with.
    pub fn certificate(&self, node: &NodeName, ends_wall_ns: Option<i64>) {
        if let Some(entry) = self.lock().nodes.get_mut(node) {
            entry.live.certificate_ends_wall_ns = ends_wall_ns;
        }
    }

    /// Counts an open call of `stream` until the guard is dropped.
    pub fn count(&self, stream: Stream) -> OpenStream {
        self.lock().streams[stream.index()] += 1;
        OpenStream { nodes: self.clone(), stream }
    }

    /// Open calls of each stream, in the order of [`Stream::ALL`].
    pub fn streams(&self) -> [u64; 3] {
        self.lock().streams
    }

    /// One node's live state.
    pub fn get(&self, node: &NodeName) -> Option<Live> {
        self.lock().nodes.get(node).map(|e| e.live.clone())
    }

    /// Every node that was expected or spoke.
    pub fn all(&self) -> Vec<(NodeName, Live)> {
        self.lock().nodes.iter().map(|(n, e)| (n.clone(), e.live.clone())).collect()
    }

    /// Changes whenever a node opens its urgent stream.
    pub fn opened(&self) -> watch::Receiver<u64> {
        self.lock().opened.subscribe()
    }

    /// The nodes whose urgent stream is open, each with a number that no other stream of this run has.
    pub fn connected(&self) -> Vec<(NodeName, u64)> {
        let inner = self.lock();
        inner.nodes.iter().filter_map(|(n, e)| e.commands.as_ref().map(|(s, _)| (n.clone(), *s))).collect()
    }

    /// Takes a node's answer to a command. An answer that nobody waits for is dropped.
    pub fn answer(&self, node: &NodeName, result: wire::CommandResult) {
        let mut inner = self.lock();
        // Only the node that was asked may answer.
        if inner.waiting.get(&result.id).is_some_and(|(asked, _)| asked == node)
            && let Some((_, sender)) = inner.waiting.remove(&result.id)
        {
            let _ = sender.send(result);
        }
    }

    /// Sends a command and waits for its result.
    ///
    /// # Errors
    /// [`CommandFailed`] says how far it came.
    pub async fn command(
        &self,
        node: &NodeName,
        command: wire::Command,
        wait: Duration,
    ) -> Result<wire::CommandResult, CommandFailed> {
        let id = command.id.clone();
        let receiver = {
            let mut inner = self.lock();
            let sender = inner
                .nodes
                .get(node)
                .and_then(|e| e.commands.as_ref().map(|(_, s)| s.clone()))
                .ok_or_else(|| CommandFailed::NotConnected(node.clone()))?;
            sender.try_send(command).map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => CommandFailed::Busy(node.clone()),
                mpsc::error::TrySendError::Closed(_) => CommandFailed::NotConnected(node.clone()),
            })?;
            let (sender, receiver) = oneshot::channel();
            inner.waiting.insert(id.clone(), (node.clone(), sender));
            receiver
        };
        // Also when whoever waits goes away first.
        let _waiting = Waiting { nodes: self, id };
        let result = tokio::time::timeout(wait, receiver).await;
        match result {
            Ok(Ok(r)) => Ok(r),
            Ok(Err(_)) => Err(CommandFailed::WentAway(node.clone())),
            Err(_) => Err(CommandFailed::Late(node.clone(), wait)),
        }
    }
}

/// An entry among those who wait for a result; dropping it takes it out.
struct Waiting<'a> {
    nodes: &'a Nodes,
    id: String,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.nodes.lock().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: &str) -> wire::Command {
        wire::Command { id: id.into(), ..wire::Command::default() }
    }

    #[tokio::test]
    async fn a_command_reaches_its_node_and_only_that_node_may_answer() {
        let nodes = Nodes::default();
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let wait = Duration::from_secs(30);
        assert_eq!(
            nodes.command(&a, command("1"), wait).await.unwrap_err(),
            CommandFailed::NotConnected(a.clone())
        );
        let mut session = nodes.open(&a, &wire::Hello::default(), None, 1);
        let asking = tokio::spawn({
            let (nodes, a) = (nodes.clone(), a.clone());
            async move { nodes.command(&a, command("2"), wait).await }
        });
        let got = session.commands.recv().await.unwrap();
        nodes.answer(&b, wire::CommandResult { id: got.id.clone(), ok: true, ..Default::default() });
        nodes.answer(
            &a,
            wire::CommandResult { id: got.id, ok: false, error: "no".into(), ..Default::default() },
        );
        assert_eq!(asking.await.unwrap().unwrap().error, "no");

        let asking = tokio::spawn({
            let (nodes, a) = (nodes.clone(), a.clone());
            async move { nodes.command(&a, command("3"), wait).await }
        });
        session.commands.recv().await.unwrap();
        drop(session);
        assert_eq!(asking.await.unwrap().unwrap_err(), CommandFailed::WentAway(a.clone()));
        assert!(!nodes.get(&a).unwrap().connected);
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_nothing_behind() {
        let nodes = Nodes::default();
        let a: NodeName = "a".parse().unwrap();
        let mut session = nodes.open(&a, &wire::Hello::default(), None, 1);
        let asking = nodes.command(&a, command("1"), Duration::from_secs(30));
        tokio::select! { biased; _ = asking => unreachable!(), got = session.commands.recv() => drop(got) }
        assert!(nodes.lock().waiting.is_empty());
    }

    #[test]
    fn quiet_begins_at_the_end_of_the_stream_and_again_with_each_word() {
        let nodes = Nodes::default();
        let a: NodeName = "a".parse().unwrap();
        nodes.expect(&a);
        let expected = nodes.get(&a).unwrap().quiet_since.unwrap();
        nodes.expect(&a);
        assert_eq!(nodes.get(&a).unwrap().quiet_since, Some(expected), "expecting it again changes nothing");
        let session = nodes.open(&a, &wire::Hello::default(), None, 1);
        assert_eq!(nodes.get(&a).unwrap().quiet_since, None);
        drop(session);
        let ended = nodes.get(&a).unwrap().quiet_since.unwrap();
        assert!(ended >= expected);
        nodes.seen(&a, 2);
        assert!(nodes.get(&a).unwrap().quiet_since.unwrap() >= ended);
    }

    #[test]
    fn a_word_is_what_comes_from_the_node_and_not_what_is_told_of_it() {
        let nodes = Nodes::default();
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        nodes.expect(&a);
        nodes.seen(&a, 1);
        nodes.arrived(&b);
        let roll = nodes.roll();
        assert!(roll.len() == 1 && roll[0].heard.is_none() && !roll[0].connected, "{roll:?}");
        let session = nodes.open(&a, &wire::Hello::default(), None, 1);
        let opened = nodes.roll()[0].heard.unwrap();
        assert!(nodes.roll()[0].connected && opened >= roll[0].since);
        nodes.seen(&a, 2);
        assert_eq!(nodes.roll()[0].heard, Some(opened));
        nodes.arrived(&a);
        assert!(nodes.roll()[0].heard.unwrap() >= opened);
        drop(session);
        assert!(!nodes.roll()[0].connected);
    }

    #[tokio::test]
    async fn an_older_session_that_ends_late_does_not_disconnect_the_newer() {
        let nodes = Nodes::default();
        let a: NodeName = "a".parse().unwrap();
        let old = nodes.open(&a, &wire::Hello::default(), None, 1);
        let _new = nodes.open(&a, &wire::Hello::default(), None, 2);
        drop(old);
        assert!(nodes.get(&a).unwrap().connected);
    }
}
