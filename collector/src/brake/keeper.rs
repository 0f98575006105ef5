//! The owner of the brake: makes what the machine decides durable, and tells nodes and people.
//!
//! Invariants: a permit is durable before its node hears of it; a stop is in force before it is durable, since what is
//! about to be removed must not wait for a disk, and is written as soon as the journal takes it. While the journal takes nothing no node
//! is told that it waits, so that each goes by what it does without a collector.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{Body, Hash, NodeName, Record, RecordRef};
use dogwatch::supervise::Stop;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::ledger::{Ledger, MAX_PERMITS, Stopped};
use super::machine::{Brake, Waiting, stopped_words};
use super::{Answer, Ask, Settings, tell};
use crate::nodes::Nodes;
use crate::say::Say;
use crate::store::decision::{Decision, What};
use crate::store::{DecideError, Notice, QueryError, Store};

/// Asks and orders that wait at most; an agent that finds no room asks again in a moment.
const ORDERS: usize = 4_096;
/// Asks that are taken under one sync.
const TOGETHER: usize = 512;
/// How often leases, watches and places in the queue are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Stops that wait to be durable at most; people repeat themselves, the machine does not.
const MAX_UNWRITTEN: usize = 64;
/// Longest reason that is kept, in characters: it is repeated to every node.
const MAX_REASON_CHARS: usize = 300;
/// Answers that wait for one node's stream.
pub const ANSWERS: usize = 64;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It makes no sense.
    #[error("{0}")]
    Mistake(String),
    /// There is nothing to release.
    #[error("cleanups are neither paused nor stopped")]
    Open,
    /// It is in force and would not survive a restart, or it could not be carried out at all.
    #[error("{0}")]
    Store(String),
}

/// What every node is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Grows with every stop and release.
    pub revision: u64,
    /// Whether a person paused.
    pub paused: bool,
    /// Whether something went wrong.
    pub tripped: bool,
    /// Why, in words; empty while open.
    pub reason: String,
    /// Policies that are proven.
    pub proven: Vec<Hash>,
}

impl View {
    fn of(brake: &Brake) -> Self {
        let ledger = brake.ledger();
        Self {
            revision: ledger.revision,
            paused: ledger.paused.is_some(),
            tripped: ledger.tripped.is_some(),
            reason: ledger.stopped().map(|s| stopped_words(ledger, s)).unwrap_or_default(),
            proven: brake.proven(),
        }
    }

    /// Whether nothing may be cleaned.
    pub fn is_stopped(&self) -> bool {
        self.paused || self.tripped
    }
}

/// Levels and counts, for metrics and `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Nodes that have a place.
    pub places: usize,
    /// Nodes that may have one.
    pub limit: usize,
    /// Permits that are out, those of watched nodes included.
    pub permits: usize,
    /// Asks that wait.
    pub waiting: usize,
    /// How often cleanups were stopped.
    pub tripped_total: u64,
    /// Permits given since the start.
    pub granted_total: u64,
}

/// How everything stands, for people.
#[derive(Debug, Clone)]
pub struct FleetBrake {
    /// What was decided.
    pub ledger: Ledger,
    /// Nodes that may have a place.
    pub limit: usize,
    /// Cleanups that make a policy proven.
    pub needed: u32,
    /// Who waits, the next first, and for how long.
    pub waiting: Vec<(Ask, Duration)>,
}

enum Order {
    Ask { ask: Ask, to: mpsc::Sender<(Ask, Answer)> },
    Decide { what: What, actor: String, reply: oneshot::Sender<Result<FleetBrake, Refusal>> },
    Look { reply: oneshot::Sender<FleetBrake> },
}

/// The way to the owner; clones share it.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<View>,
    figures: Arc<Mutex<Figures>>,
    lease: Duration,
}

impl Handle {
    /// How long a permit holds unless it is asked for again.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// A node asks; answers go to `to`, now and whenever there is news. Never waits: a node asks again.
    pub fn ask(&self, ask: Ask, to: &mpsc::Sender<(Ask, Answer)>) {
        // Where there is no room the node hears nothing, and asks again in a moment.
        let _ = self.orders.try_send(Order::Ask { ask, to: to.clone() });
    }

    /// What every node is told, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Levels and counts of now.
    pub fn figures(&self) -> Figures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `actor` pauses cleanups.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn pause(&self, reason: String, actor: String) -> Result<FleetBrake, Refusal> {
        self.decide(What::BrakePaused { reason: checked(&reason)? }, actor).await
    }

    /// `actor` saw a cleanup go wrong, of a node where one is known.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn trip(
        &self,
        reason: String,
        node: Option<NodeName>,
        action: Option<String>,
        actor: String,
    ) -> Result<FleetBrake, Refusal> {
        let reason = checked(&reason)?;
        let (finding, cites) = (String::new(), Vec::new());
        self.decide(What::BrakeTripped { reason, finding, node, action, cites }, actor).await
    }

    /// `actor` lets cleanups go on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn release(&self, reason: String, actor: String) -> Result<FleetBrake, Refusal> {
        self.decide(What::BrakeReleased { reason: checked(&reason)? }, actor).await
    }

    /// How everything stands.
    ///
    /// # Errors
    /// [`Refusal::Store`] when the collector stops.
    pub async fn look(&self) -> Result<FleetBrake, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Look { reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    async fn decide(&self, what: What, actor: String) -> Result<FleetBrake, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Decide { what, actor, reply }).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

fn stopping() -> Refusal {
    Refusal::Store("the collector is stopping; try again".to_owned())
}

fn checked(reason: &str) -> Result<String, Refusal> {
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(Refusal::Mistake(
            "reason: is empty; say why, the next one on call will read it".to_owned(),
        ));
    }
    if reason.chars().count() > MAX_REASON_CHARS {
        return Err(Refusal::Mistake(format!("reason: is longer than {MAX_REASON_CHARS} characters")));
    }
    Ok(reason.to_owned())
}

/// The owner.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    nodes: Nodes,
    say: Say,
    brake: Brake,
    orders: mpsc::Receiver<Order>,
    view: watch::Sender<View>,
    figures: Arc<Mutex<Figures>>,
    granted_total: u64,
    /// Where answers for a node go: its newest stream.
    streams: BTreeMap<NodeName, mpsc::Sender<(Ask, Answer)>>,
    /// Stops that are in force and not durable yet.
    unwritten: VecDeque<Decision>,
    /// Why the journal took nothing the last time.
    failing: Option<String>,
    began: Instant,
}

impl Keeper {
    /// Takes up what the store holds.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn open(
        store: Store,
        nodes: Nodes,
        say: Say,
        settings: Settings,
    ) -> Result<(Self, Handle), QueryError> {
        let ledger = store.brake().await?;
        let (sender, orders) = mpsc::channel(ORDERS);
        let brake = Brake::new(settings, ledger, 0);
        let view = watch::Sender::new(View::of(&brake));
        let figures = Arc::<Mutex<Figures>>::default();
        let handle = Handle {
            orders: sender,
            view: view.subscribe(),
            figures: Arc::clone(&figures),
            lease: settings.lease,
        };
        let keeper = Self {
            store,
            nodes,
            say,
            brake,
            orders,
            view,
            figures,
            granted_total: 0,
            streams: BTreeMap::new(),
            unwritten: VecDeque::new(),
            failing: None,
            began: Instant::now(),
        };
        keeper.publish();
        Ok((keeper, handle))
    }

    /// Works until stop is set.
    ///
    /// # Errors
    /// None of its own; the type is what a part has.
    pub async fn run(mut self, stop: Stop) -> Result<(), String> {
        let mut committed = self.store.committed();
        self.catch_up().await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut ticked = false;
            tokio::select! {
                // What went wrong is seen before anybody is given another permit.
                biased;
                () = stop.wait() => return Ok(()),
                notice = committed.recv() => match notice {
                    Ok(notice) => self.observe(notice).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_up().await,
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                Some(order) = self.orders.recv() => {
                    self.obey(order).await;
                    for _ in 0..TOGETHER {
                        let Ok(order) = self.orders.try_recv() else { break };
                        self.obey(order).await;
                    }
                }
                _ = tick.tick() => ticked = true,
            }
            // Notices that wait already may say that something went wrong.
            while let Ok(notice) = committed.try_recv() {
                self.observe(notice).await;
            }
            self.settle(ticked).await;
        }
    }

    /// What an earlier run left: permits that ended while nobody listened, and a stop that it had no time to tell of.
    async fn catch_up(&mut self) {
        self.look_up().await;
        let Some(stopped) = self.brake.ledger().tripped.clone() else { return };
        if !matches!(self.store.finding(&stopped.finding).await, Ok(Some(_))) {
            self.say.finding(stopped.node.clone(), tell::raised(&stopped), 1).await;
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Ask { ask, to } => {
                let now = self.now_ns();
                self.streams.insert(ask.node.clone(), to.clone());
                if let Some(answer) = self.brake.ask(ask.clone(), now) {
                    // Its stream may be gone, or not listening; it asks again.
                    let _ = to.try_send((ask, answer));
                }
            }
            Order::Decide { what, actor, reply } => drop(reply.send(self.person(what, actor).await)),
            Order::Look { reply } => drop(reply.send(self.standing())),
        }
    }

    async fn person(&mut self, what: What, actor: String) -> Result<FleetBrake, Refusal> {
        if matches!(what, What::BrakeReleased { .. }) {
            return self.release(what, actor).await;
        }
        self.stop(what, &actor).await;
        match &self.failing {
            None => Ok(self.standing()),
            Some(why) => Err(Refusal::Store(format!(
                "cleanups are stopped, but the collector's journal takes nothing ({why}), so that a restart of the collector \
                 would forget it"
            ))),
        }
    }

    async fn release(&mut self, what: What, actor: String) -> Result<FleetBrake, Refusal> {
        if self.brake.ledger().stopped().is_none() {
            return Err(Refusal::Open);
        }
        let tripped = self.brake.ledger().tripped.clone();
        let What::BrakeReleased { reason } = &what else { return Err(Refusal::Open) };
        let reason = reason.clone();
        self.write(vec![what], &actor).await.map_err(Refusal::Store)?;
        if let Some(stopped) = tripped {
            self.say.finding(stopped.node.clone(), tell::cleared(&stopped, &actor, &reason), 1).await;
        }
        tracing::info!(actor, reason, "cleanups go on");
        Ok(self.standing())
    }

    /// Puts a stop in force, tells every node, and writes it.
    async fn stop(&mut self, what: What, actor: &str) {
        let mut decision = Decision { wall_ns: clock::wall_ns(), actor: actor.to_owned(), what };
        if let What::BrakeTripped { reason, finding, node, action, cites } = &mut decision.what {
            *reason = reason.chars().take(MAX_REASON_CHARS).collect();
            let stopped = Stopped {
                wall_ns: decision.wall_ns,
                by: actor.to_owned(),
                reason: reason.clone(),
                finding: String::new(),
                node: node.clone(),
                action: action.clone(),
                cites: cites.clone(),
            };
            // One finding as long as cleanups are stopped, whoever says so again.
            *finding = match &self.brake.ledger().tripped {
                Some(before) => before.finding.clone(),
                None => tell::raised(&stopped).id,
            };
        }
        let now = self.now_ns();
        self.brake.apply(&decision, now);
        self.publish();
        if self.unwritten.len() >= MAX_UNWRITTEN {
            self.unwritten.pop_front();
        }
        self.unwritten.push_back(decision);
        self.flush().await;
        if let Some(stopped) = self.brake.ledger().tripped.clone() {
            tracing::error!(actor, reason = stopped.reason, "cleanups are stopped on every node");
            self.say.finding(stopped.node.clone(), tell::raised(&stopped), 1).await;
        } else {
            tracing::warn!(actor, "cleanups are paused on every node");
        }
    }

    /// Writes stops that are in force already.
    async fn flush(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        match self.store.decide_all(self.unwritten.iter().cloned().collect()).await {
            Ok(()) => {
                self.unwritten.clear();
                self.failing = None;
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &DecideError) {
        if self.failing.is_none() {
            tracing::error!(%error, "what the fleet brake decides cannot be kept; no permits are given until it can");
        }
        self.failing = Some(error.to_string());
    }

    /// Makes decisions durable, and then takes them.
    async fn write(&mut self, what: Vec<What>, actor: &str) -> Result<(), String> {
        if what.is_empty() {
            return Ok(());
        }
        self.flush().await;
        if let Some(why) = self.failing.clone().filter(|_| !self.unwritten.is_empty()) {
            return Err(why);
        }
        let wall_ns = clock::wall_ns();
        let decision = |what| Decision { wall_ns, actor: actor.to_owned(), what };
        let decisions: Vec<Decision> = what.into_iter().map(decision).collect();
        let now = self.now_ns();
        match self.store.decide_all(decisions.clone()).await {
            Ok(()) => {
                self.failing = None;
                decisions.iter().for_each(|d| self.brake.apply(d, now));
                self.publish();
                Ok(())
            }
            Err(error) => {
                let uncertain = matches!(error, DecideError::Uncertain { .. });
                self.fail(&error);
                if uncertain && let Ok(ledger) = self.store.brake().await {
                    // Some of it may stand; only the store knows. What stops stays in force.
                    let stops = self.unwritten.clone();
                    self.brake.take_up(ledger, now);
                    stops.iter().for_each(|d| self.brake.apply(d, now));
                }
                Err(error.to_string())
            }
        }
    }

    async fn observe(&mut self, notice: Notice) {
        let decided = match notice {
            Notice::Records { chain, records } => {
                let mut out = Vec::new();
                for record in records.iter() {
                    let cite = RecordRef {
                        node: chain.node.clone(),
                        incarnation: chain.incarnation,
                        stream: chain.stream,
                        seq: record.seq,
                    };
                    out.extend(self.judge(&chain.node, record, cite));
                }
                out
            }
            Notice::Decided(decision) => match &decision.what {
                What::FindingSaid { node: Some(node), finding, .. }
                    if finding.rule != super::STOPPED_RULE =>
                {
                    self.brake.observe_finding(node, finding, true, None)
                }
                _ => return,
            },
        };
        self.decide(decided).await;
    }

    fn judge(&mut self, node: &NodeName, record: &Record, cite: RecordRef) -> Vec<What> {
        match &record.body {
            Body::Action(action) => self.brake.observe_action(node, action, record.at.wall_ns, cite),
            Body::Finding(finding) => self.brake.observe_finding(node, finding, false, Some(cite)),
            _ => Vec::new(),
        }
    }

    /// Notices were missed: how permits that are out ended is asked of the store. Findings of that moment are missed.
    async fn look_up(&mut self) {
        let out: Vec<_> = self.brake.ledger().permits.iter().filter(|p| !p.returned).cloned().collect();
        let mut decided = Vec::new();
        for permit in out.into_iter().take(MAX_PERMITS) {
            let Ok(Some(row)) = self.store.action_of(&permit.node, &permit.action).await else { continue };
            let Some(cite) = row.steps.last().and_then(|s| s.evidence.first().cloned()) else { continue };
            let wall_ns = row.steps.last().map_or(0, |s| s.wall_ns);
            decided.extend(self.brake.observe_action(&permit.node, &row.action, wall_ns, cite));
        }
        self.decide(decided).await;
    }

    /// Carries out what the machine says: stops at once, the rest once it is durable.
    async fn decide(&mut self, decided: Vec<What>) {
        let (stops, rest): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(|w| matches!(w, What::BrakeTripped { .. }));
        if let Some(stop) = stops.into_iter().next() {
            self.stop(stop, crate::incident::COLLECTOR).await;
        }
        // What is not kept is decided again: a lapse at the next tick, an end by the lapse of its permit.
        let _ = self.write(rest, crate::incident::COLLECTOR).await;
    }

    async fn settle(&mut self, ticked: bool) {
        let now = self.now_ns();
        if ticked {
            self.brake.set_nodes(self.nodes.all().len());
            self.flush().await;
            let due = self.brake.due(now);
            self.decide(due).await;
        }
        let grants = self.brake.grants(now);
        let asked: Vec<Ask> = self
            .brake
            .queue(now)
            .into_iter()
            .filter(|w| grants.iter().any(|g| is_for(g, w)))
            .map(|w| w.ask.clone())
            .collect();
        if !grants.is_empty() && self.write(grants, crate::incident::COLLECTOR).await.is_ok() {
            self.granted_total += asked.len() as u64;
            for ask in asked {
                tracing::info!(node = %ask.node, action = ask.action, mount = ask.mount, "a node may clean");
                self.tell(ask, Answer::Granted);
            }
        }
        if ticked {
            if self.failing.is_none() {
                for (ask, answer) in self.brake.news(now) {
                    self.tell(ask, answer);
                }
            }
            self.streams.retain(|_, to| !to.is_closed());
        }
        self.publish();
    }

    fn tell(&self, ask: Ask, answer: Answer) {
        if let Some(to) = self.streams.get(&ask.node) {
            // It asks again, and is answered then.
            let _ = to.try_send((ask, answer));
        }
    }

    fn publish(&self) {
        let view = View::of(&self.brake);
        self.view.send_if_modified(|before| {
            let changed = *before != view;
            *before = view;
            changed
        });
        let figures = Figures {
            places: self.brake.places().len(),
            limit: self.brake.limit(),
            permits: self.brake.ledger().permits.len(),
            waiting: self.brake.waiting(),
            tripped_total: self.brake.ledger().tripped_total,
            granted_total: self.granted_total,
        };
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    fn standing(&self) -> FleetBrake {
        let now = self.now_ns();
        let waited = |w: &Waiting| Duration::from_nanos(now.saturating_sub(w.since_ns));
        FleetBrake {
            ledger: self.brake.ledger().clone(),
            limit: self.brake.limit(),
            needed: self.brake.settings().canary_successes,
            waiting: self.brake.queue(now).into_iter().map(|w| (w.ask.clone(), waited(w))).collect(),
        }
    }
}

fn is_for(grant: &What, waiting: &Waiting) -> bool {
    matches!(grant, What::PermitGranted { node, action, .. }
        if *node == waiting.ask.node && *action == waiting.ask.action)
}
