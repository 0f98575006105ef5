//! Casework: the one owner of incidents and of what the collector decides.
//!
//! Everything that changes an incident comes through here in one order: records as the store commits them, the
//! collector's own findings, people's orders, and time. Each change is a [`Decision`], durable before it has effect.
//! After a crash between a commit and its decision, the pieces that belong to no incident are looked at once more;
//! observing the same thing twice decides nothing new.

use std::collections::HashMap;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Body, Fact, Finding, FindingState, NodeName, Record, Severity, Subject};
use dogwatch::supervise::Stop;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::correlate::{Correlator, Policy};
use crate::incident::Incident;
use crate::nodes::Nodes;
use crate::say::make;
use crate::store::decision::{Decision, What};
use crate::store::{DecideError, FindingFilter, IncidentFilter, Loose, Notice, QueryError, Store};

/// Asks that wait for casework at most.
pub const ASK_QUEUE: usize = 1024;
/// How long the start waits for the index: a rebuild takes about a second a GB of urgent journal.
const INDEX_PATIENCE: Duration = Duration::from_secs(120);
/// Pieces without an incident that are looked at again after a crash.
const MAX_LOOSE: usize = 10_000;
/// The rule of the finding that says that a node is silent.
const SILENT_RULE: &str = "node-silent";
/// How often silence and quiet are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Why casework cannot go on, or could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaseworkError {
    /// The store did not answer.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A decision could not be made durable.
    #[error(transparent)]
    Decide(#[from] DecideError),
}

impl CaseworkError {
    fn is_end(&self) -> bool {
        matches!(self, Self::Query(QueryError::Closed) | Self::Decide(DecideError::Closed))
    }
}

/// What a person does to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Takes it.
    Acknowledge,
    /// Ends it.
    Resolve,
    /// Says something.
    Note,
}

/// What casework is asked for.
#[derive(Debug)]
pub enum Ask {
    /// A finding of the collector's own.
    Say {
        /// About which node, if one.
        node: Option<NodeName>,
        /// What.
        finding: Box<Finding>,
        /// How often, this time included.
        count: u64,
    },
    /// A person's deed.
    Person {
        /// On which incident.
        id: String,
        /// What.
        deed: Deed,
        /// The name in the certificate.
        actor: String,
        /// What they said.
        text: String,
        /// The incident as it is then, or why not.
        reply: oneshot::Sender<Result<Incident, Refusal>>,
    },
    /// Something to be kept in the journal and nothing else (commands and their ends, enrolments).
    Keep {
        /// What.
        what: Box<What>,
        /// By whom.
        actor: String,
        /// When it is durable.
        reply: oneshot::Sender<Result<(), CaseworkError>>,
    },
}

/// Why a person's deed was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such incident.
    #[error("there is no incident {0}; `dogwatch get incidents` lists them")]
    Unknown(String),
    /// Its state does not allow it.
    #[error(transparent)]
    State(#[from] crate::incident::Refused),
    /// It could not be made durable.
    #[error(transparent)]
    Store(#[from] CaseworkError),
}

impl From<QueryError> for Refusal {
    fn from(e: QueryError) -> Self {
        Self::Store(e.into())
    }
}

/// The owner.
#[derive(Debug)]
pub struct Casework {
    store: Store,
    nodes: Nodes,
    policy: Policy,
    correlator: Correlator,
    asks: mpsc::Receiver<Ask>,
    silent_after: Duration,
    /// Nodes that were found silent, and the finding that says so.
    silent: HashMap<NodeName, Finding>,
}

impl Casework {
    /// Takes up the incidents and findings that the store holds, once its index is there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        store: Store,
        nodes: Nodes,
        policy: Policy,
        silent_after: Duration,
        asks: mpsc::Receiver<Ask>,
    ) -> Result<Self, CaseworkError> {
        store.indexed(INDEX_PATIENCE).await?;
        let now = clock::wall_ns();
        for row in store.nodes().await? {
            nodes.expect(&row.node, now);
        }
        let correlator = Correlator::new(policy, Vec::new(), []);
        let mut casework =
            Self { store, nodes, policy, correlator, asks, silent_after, silent: HashMap::new() };
        casework.take_up().await?;
        Ok(casework)
    }

    /// Forgets what was decided in memory and takes up what the store holds.
    async fn take_up(&mut self) -> Result<(), CaseworkError> {
        let incidents = self.store.incidents(IncidentFilter::default()).await?;
        let filter = FindingFilter { active_only: true, ..FindingFilter::default() };
        let active = self.store.findings(filter).await?;
        self.silent.clear();
        for row in active.iter().filter(|r| r.from_collector && r.finding.rule == SILENT_RULE) {
            if let Some(node) = &row.node {
                self.silent.insert(node.clone(), row.finding.clone());
            }
        }
        self.correlator = Correlator::new(self.policy, incidents, active.iter());
        Ok(())
    }

    /// Works until stop is set. A store that fails for a while is tried again: nothing is decided in memory alone.
    ///
    /// # Errors
    /// When the store is closed under it.
    pub async fn run(mut self, stop: Stop) -> Result<(), CaseworkError> {
        let mut committed = self.store.committed();
        let mut again = true;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let result = if again {
                again = false;
                self.reconsider().await
            } else {
                tokio::select! {
                    () = stop.wait() => return Ok(()),
                    notice = committed.recv() => match notice {
                        Ok(Notice::Records { chain, records }) => self.observe(&chain.node, &records).await,
                        Ok(Notice::Decided(_)) => Ok(()),
                        Err(broadcast::error::RecvError::Lagged(_)) => self.reconsider().await,
                        Err(broadcast::error::RecvError::Closed) => return Ok(()),
                    },
                    ask = self.asks.recv() => match ask {
                        Some(ask) => self.answer(ask).await,
                        None => return Ok(()),
                    },
                    _ = tick.tick() => self.tick().await,
                }
            };
            let Err(error) = result else { continue };
            if stop.is_set() {
                return Ok(());
            }
            if error.is_end() {
                return Err(error);
            }
            tracing::error!(%error, "a decision could not be kept; taking up again what is kept");
            tokio::time::sleep(TICK).await;
            again = true;
            if let Err(error) = self.take_up().await {
                tracing::error!(%error, "the store does not answer yet");
            }
        }
    }

    async fn tick(&mut self) -> Result<(), CaseworkError> {
        self.watch_silence().await?;
        let decisions = self.correlator.tick(clock::wall_ns());
        self.keep(decisions).await
    }

    async fn keep(&self, decisions: Vec<Decision>) -> Result<(), CaseworkError> {
        if decisions.is_empty() {
            return Ok(());
        }
        Ok(self.store.decide_all(decisions).await?)
    }

    async fn observe(&mut self, node: &NodeName, records: &[Record]) -> Result<(), CaseworkError> {
        let now = clock::wall_ns();
        for record in records {
            let decisions = match &record.body {
                Body::Finding(f) => self.correlator.observe_finding(node, f, now),
                Body::Action(a) => self.correlator.observe_action(node, a, now),
                _ => continue,
            };
            self.keep(decisions).await?;
        }
        Ok(())
    }

    /// Looks at every finding and action that belongs to no incident.
    async fn reconsider(&mut self) -> Result<(), CaseworkError> {
        let now = clock::wall_ns();
        for piece in self.store.loose(i64::MIN, MAX_LOOSE).await? {
            let decisions = match piece {
                Loose::Finding(row) => match &row.node {
                    Some(node) => self.correlator.observe_finding(node, &row.finding, now),
                    None => continue,
                },
                Loose::Action(row) => self.correlator.observe_action(&row.node, &row.action, now),
            };
            self.keep(decisions).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, ask: Ask) -> Result<(), CaseworkError> {
        match ask {
            Ask::Say { node, finding, count } => self.say(node, *finding, count).await,
            Ask::Person { id, deed, actor, text, reply } => {
                let result = self.person(&id, deed, &actor, &text).await;
                let _ = reply.send(result);
                Ok(())
            }
            Ask::Keep { what, actor, reply } => {
                let decision = Decision { wall_ns: clock::wall_ns(), actor, what: *what };
                let _ = reply.send(self.keep(vec![decision]).await);
                Ok(())
            }
        }
    }

    async fn say(
        &mut self,
        node: Option<NodeName>,
        finding: Finding,
        count: u64,
    ) -> Result<(), CaseworkError> {
        let now = clock::wall_ns();
        let said = Decision {
            wall_ns: now,
            actor: "collector".to_owned(),
            what: What::FindingSaid { node: node.clone(), finding: Box::new(finding.clone()), count },
        };
        self.keep(vec![said]).await?;
        if let Some(node) = node {
            let decisions = self.correlator.observe_finding(&node, &finding, now);
            self.keep(decisions).await?;
        }
        Ok(())
    }

    async fn person(&mut self, id: &str, deed: Deed, actor: &str, text: &str) -> Result<Incident, Refusal> {
        let incident = self.store.incident(id).await?.ok_or_else(|| Refusal::Unknown(id.to_owned()))?;
        let now = clock::wall_ns();
        let decision = match deed {
            Deed::Acknowledge => incident.acknowledge(actor, text, now)?,
            Deed::Resolve => incident.resolve(actor, text, now)?,
            Deed::Note => incident.note(actor, text, now)?,
        };
        self.keep(vec![decision.clone()]).await?;
        self.correlator.apply(&decision);
        self.store.incident(id).await?.ok_or_else(|| Refusal::Unknown(id.to_owned()))
    }

    /// Raises a finding for a node that was expected and says nothing, and clears it when it speaks again.
    async fn watch_silence(&mut self) -> Result<(), CaseworkError> {
        let now = clock::wall_ns();
        for (node, live) in self.nodes.all() {
            let since = live.last_seen_wall_ns.max(live.expected_since_wall_ns);
            let silent_for = Duration::from_nanos(u64::try_from(now - since).unwrap_or(0));
            if live.connected {
                if let Some(mut finding) = self.silent.remove(&node) {
                    finding.state = FindingState::Cleared;
                    finding.summary = format!("node {node} speaks again");
                    self.say(Some(node), finding, 1).await?;
                }
            } else if silent_for >= self.silent_after && !self.silent.contains_key(&node) {
                let finding = make(
                    SILENT_RULE,
                    Severity::High,
                    Subject::new("node", node.as_str()),
                    format!("node {node} has been silent for {} s", silent_for.as_secs()),
                    format!(
                        "The node is enrolled and has no open stream, for longer than {} s. It is down, its agent is, or \
                         the network between is. What it records meanwhile stays on it and is sent when it comes back.",
                        self.silent_after.as_secs()
                    ),
                    vec![
                        Fact::new("silent_seconds", silent_for.as_secs()),
                        Fact::new("last_seen_wall_ns", live.last_seen_wall_ns),
                    ],
                );
                self.silent.insert(node.clone(), finding.clone());
                self.say(Some(node), finding, 1).await?;
            }
        }
        Ok(())
    }
}
