//! Casework: the one owner of incidents and of what the collector decides.
//!
//! Everything that changes an incident comes through here in one order: records as the store commits them, the
//! collector's own findings, people's orders, and time. Each change is a [`Decision`], durable before it has effect.
//! After a crash between a commit and its decision, the pieces that belong to no incident are looked at once more;
//! observing the same thing twice decides nothing new. The correlator runs ahead of the disk by one batch; where a batch
//! may not have become durable, or notices were missed, everything is taken up again from the store before anything else
//! is decided ([`again`]). People are answered meanwhile: what they order follows from what is durable alone.
//!
//! What was committed is looked at a few records at a time ([`backlog`]), and people's orders take turns with it. What a
//! node says beyond its allowance ([`Allowance`]) is put to no incident, and a finding says so.

mod again;
mod backlog;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{Fact, Finding, FindingState, NodeName, Severity, Subject};
use dogwatch::supervise::Stop;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::brake::STOPPED_RULE;
use crate::correlate::allowance::Allowance;
use crate::correlate::{Correlator, Policy};
use crate::incident::Incident;
use crate::nodes::Nodes;
use crate::say::{EQUIVOCATION_RULE, SILENT_RULE, make};
use crate::store::decision::{Decision, What};
use crate::store::row::Spoke;
use crate::store::{DecideError, Notice, QueryError, Store};
use again::{Meanwhile, Taken};
use backlog::Backlog;

/// Asks that wait for casework at most.
pub const ASK_QUEUE: usize = 1024;
/// How long the start waits for the index: a rebuild takes about a second a GB of urgent journal.
const INDEX_PATIENCE: Duration = Duration::from_secs(120);
/// Nodes whose silence changes are told together, under one sync.
const TOLD_TOGETHER: usize = 256;
/// A finding of the collector's own that was not said for so long is over: what it folds is said at least every
/// [`crate::say::LAST_PAUSE_NS`] while it lasts. After a restart nobody else remembers to clear it.
const UNSAID: Duration = Duration::from_secs(30 * 60);
/// Rules of findings that time does not clear: they state what was, not what goes on.
const LASTING_RULES: [&str; 3] = [EQUIVOCATION_RULE, "signing-key-changed", STOPPED_RULE];
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
    /// Whether what was not kept may come to be in effect all the same.
    fn is_uncertain(&self) -> bool {
        matches!(self, Self::Decide(DecideError::Uncertain { .. }))
    }

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
    /// Opens it again.
    Reopen,
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
    allowance: Allowance,
    /// What was committed and is not looked at yet.
    backlog: Option<Backlog>,
    /// What tells of commits, from before the store was asked how things stand.
    committed: broadcast::Receiver<Notice>,
    /// What the store holds, while it is being asked; until then nothing is decided on what is remembered.
    taking: JoinSet<Result<Taken, QueryError>>,
    /// Whether it must be asked once more.
    stale: bool,
    /// What was decided while the store was asked.
    meanwhile: Meanwhile,
    asks: mpsc::Receiver<Ask>,
    silent_after: Duration,
    /// What the configuration says of both now; looked at each tick.
    tuning: Option<watch::Receiver<Tuning>>,
    /// Nodes that were found silent, and the finding that says so.
    silent: HashMap<NodeName, Finding>,
    /// The collector's other findings that are active and end by not being said, and when each was said last.
    own: BTreeMap<String, Own>,
}

/// By what casework goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Which findings belong together.
    pub policy: Policy,
    /// How long a node may have no open stream before that is a finding.
    pub silent_after: Duration,
}

/// A finding of the collector's that is active.
#[derive(Debug, Clone)]
struct Own {
    said: Instant,
    node: Option<NodeName>,
    finding: Finding,
    count: u64,
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
        for row in store.nodes().await? {
            if !row.enrolments.is_empty() {
                nodes.expect(&row.node);
            }
            if let Some(spoke) = row.spoke {
                nodes.remember(&row.node, spoke);
            }
        }
        let correlator = Correlator::new(policy, Vec::new(), []);
        let committed = store.committed();
        let mut casework = Self {
            store,
            nodes,
            policy,
            correlator,
            allowance: Allowance::default(),
            backlog: None,
            committed,
            taking: JoinSet::new(),
            stale: false,
            meanwhile: Meanwhile::default(),
            asks,
            silent_after,
            tuning: None,
            silent: HashMap::new(),
            own: BTreeMap::new(),
        };
        casework.take_up().await?;
        Ok(casework)
    }

    /// Follows what `tuning` says, besides what it was opened with.
    pub fn following(mut self, tuning: watch::Receiver<Tuning>) -> Self {
        self.tuning = Some(tuning);
        self
    }

    /// Works until stop is set. A store that fails for a while is tried again: nothing is decided in memory alone.
    ///
    /// # Errors
    /// When the store is closed under it.
    pub async fn run(mut self, stop: Stop) -> Result<(), CaseworkError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        // An ask was answered since the backlog was looked at: neither waits for more than one of the other.
        let mut answered = false;
        loop {
            let sure = self.is_sure();
            let result = tokio::select! {
                () = stop.wait() => return Ok(()),
                Some(taken) = self.taking.join_next() => self.settle(taken).await,
                notice = self.committed.recv(), if sure && self.backlog.is_none() => match notice {
                    Ok(Notice::Records { chain, records }) => {
                        self.backlog = Some(Backlog::block(chain.node, records));
                        Ok(())
                    }
                    Ok(Notice::Decided(_)) => Ok(()),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "casework fell behind; taking up again what is kept");
                        self.begin_again(Duration::ZERO);
                        Ok(())
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                ask = self.asks.recv(), if !answered || self.backlog.is_none() => match ask {
                    Some(ask) => {
                        answered = true;
                        self.answer(ask).await
                    }
                    None => return Ok(()),
                },
                // Whoever is ready comes first, and other tasks run in between.
                () = tokio::task::yield_now(), if self.backlog.is_some() => {
                    answered = false;
                    self.work_off().await
                }
                _ = tick.tick(), if sure => self.tick().await,
            };
            if let Err(error) = result {
                if stop.is_set() {
                    return Ok(());
                }
                if error.is_end() {
                    return Err(error);
                }
                tracing::error!(%error, "a decision could not be kept, or the store not be asked; taking up again what is kept");
                // While the store is asked nothing is remembered of what surely has no effect.
                if self.is_sure() || error.is_uncertain() {
                    self.begin_again(TICK);
                }
            }
        }
    }

    async fn tick(&mut self) -> Result<(), CaseworkError> {
        if let Some(tuning) = &self.tuning {
            let Tuning { policy, silent_after } = *tuning.borrow();
            (self.policy, self.silent_after) = (policy, silent_after);
            self.correlator.set_policy(policy);
        }
        self.watch_silence().await?;
        self.say_left_out().await?;
        self.clear_unsaid().await?;
        let decisions = self.correlator.tick(clock::wall_ns());
        self.keep(decisions).await
    }

    async fn keep(&self, decisions: Vec<Decision>) -> Result<(), CaseworkError> {
        if decisions.is_empty() {
            return Ok(());
        }
        Ok(self.store.decide_all(decisions).await?)
    }

    async fn answer(&mut self, ask: Ask) -> Result<(), CaseworkError> {
        match ask {
            Ask::Say { node, finding, count } => self.say(node, *finding, count).await,
            Ask::Person { id, deed, actor, text, reply } => {
                let result = self.person(&id, deed, &actor, &text).await;
                let uncertain = match &result {
                    Err(Refusal::Store(CaseworkError::Decide(e @ DecideError::Uncertain { .. }))) => {
                        Err(e.clone())
                    }
                    _ => Ok(()),
                };
                let _ = reply.send(result);
                // It may have become durable; only the store knows what the incident is now.
                Ok(uncertain?)
            }
            Ask::Keep { what, actor, reply } => {
                let enrolled = match &*what {
                    What::NodeEnrolled { node, .. } => Some(node.clone()),
                    _ => None,
                };
                let wall_ns = clock::wall_ns();
                let spoke = match &*what {
                    What::NodeSpoke { node, agent_version, mode, policy } => Some((
                        node.clone(),
                        Spoke { wall_ns, agent_version: agent_version.clone(), mode: *mode, policy: *policy },
                    )),
                    _ => None,
                };
                let decision = Decision { wall_ns, actor, what: *what };
                let result = self.keep(vec![decision]).await;
                if let Some(node) = enrolled.filter(|_| result.is_ok()) {
                    self.nodes.expect(&node);
                }
                if let Some((node, spoke)) = spoke.filter(|_| result.is_ok()) {
                    self.nodes.remember(&node, spoke);
                }
                let _ = reply.send(result);
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
        if self.is_sure() {
            let decisions = self.said(node, finding, count, now);
            return self.keep(decisions).await;
        }
        // To which incident it belongs is decided once it is known which there are.
        let what = What::FindingSaid { node, finding: Box::new(finding), count };
        let decision = Decision { wall_ns: now, actor: "collector".to_owned(), what };
        self.keep(vec![decision.clone()]).await?;
        self.meanwhile.note(decision);
        Ok(())
    }

    /// What is decided when the collector says a finding of its own.
    fn said(&mut self, node: Option<NodeName>, finding: Finding, count: u64, now_ns: i64) -> Vec<Decision> {
        if finding.rule != SILENT_RULE {
            self.note_own(node.as_ref(), &finding, count);
        }
        let follows = node.as_ref().map(|node| self.correlator.observe_finding(node, &finding, now_ns));
        let mut decisions = vec![Decision {
            wall_ns: now_ns,
            actor: "collector".to_owned(),
            what: What::FindingSaid { node, finding: Box::new(finding), count },
        }];
        decisions.extend(follows.unwrap_or_default());
        decisions
    }

    fn note_own(&mut self, node: Option<&NodeName>, finding: &Finding, count: u64) {
        if finding.state == FindingState::Cleared {
            self.own.remove(&finding.id);
        } else if !LASTING_RULES.contains(&finding.rule.as_str()) {
            let own = Own { said: Instant::now(), node: node.cloned(), finding: finding.clone(), count };
            self.own.insert(finding.id.clone(), own);
        }
    }

    /// Clears what is no longer said.
    async fn clear_unsaid(&mut self) -> Result<(), CaseworkError> {
        let over: Vec<Own> =
            self.own.values().filter(|o| o.said.elapsed() >= UNSAID).take(TOLD_TOGETHER).cloned().collect();
        let now = clock::wall_ns();
        let mut decisions = Vec::new();
        for Own { node, mut finding, count, .. } in over {
            finding.state = FindingState::Cleared;
            decisions.extend(self.said(node, finding, count, now));
        }
        self.keep(decisions).await
    }

    async fn person(&mut self, id: &str, deed: Deed, actor: &str, text: &str) -> Result<Incident, Refusal> {
        let incident = self.store.incident(id).await?.ok_or_else(|| Refusal::Unknown(id.to_owned()))?;
        let now = clock::wall_ns();
        let decision = match deed {
            Deed::Acknowledge => incident.acknowledge(actor, text, now)?,
            Deed::Resolve => incident.resolve(actor, text, now)?,
            Deed::Note => incident.note(actor, text, now)?,
            Deed::Reopen => incident.reopen(actor, text, now)?,
        };
        self.keep(vec![decision.clone()]).await?;
        self.correlator.apply(&decision);
        if !self.is_sure() {
            self.meanwhile.note(decision);
        } else if deed == Deed::Reopen
            && let Err(error) = self.take_back(id).await
        {
            tracing::error!(%error, "an incident is reopened, and its findings are not known; taking up again what is kept");
            self.begin_again(TICK);
        }
        self.store.incident(id).await?.ok_or_else(|| Refusal::Unknown(id.to_owned()))
    }

    /// Raises a finding for a node that was expected and says nothing, and clears it when it speaks again. A partition
    /// silences thousands at once: they are told in batches, one a tick, so that people's orders pass between.
    async fn watch_silence(&mut self) -> Result<(), CaseworkError> {
        let now = clock::wall_ns();
        let mut decisions = Vec::new();
        let mut told = 0;
        for (node, live) in self.nodes.all() {
            let silent_for = live.quiet_since.map_or(Duration::ZERO, |since| since.elapsed());
            let finding = if live.connected {
                self.silent.remove(&node).map(|mut finding| {
                    finding.state = FindingState::Cleared;
                    finding.summary = format!("node {node} speaks again");
                    finding
                })
            } else if silent_for >= self.silent_after && !self.silent.contains_key(&node) {
                let finding = self.silence(&node, silent_for, live.last_seen_wall_ns);
                self.silent.insert(node.clone(), finding.clone());
                Some(finding)
            } else {
                None
            };
            let Some(finding) = finding else { continue };
            decisions.extend(self.said(Some(node), finding, 1, now));
            told += 1;
            if told == TOLD_TOGETHER {
                break;
            }
        }
        self.keep(decisions).await
    }

    fn silence(&self, node: &NodeName, silent_for: Duration, last_seen_wall_ns: i64) -> Finding {
        make(
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
                Fact::new("last_seen_wall_ns", last_seen_wall_ns),
            ],
        )
    }
}

#[cfg(test)]
mod tests;
