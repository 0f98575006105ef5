//! The owner of the brake: makes what the machine decides durable, and tells nodes and people.
//!
//! Invariants: a permit is durable before its node hears of it; a stop is in force before it is durable, since what is
//! about to be removed must not wait for a disk, and is written as soon as the journal takes it ([`Handle`] tells it even
//! while this waits for a disk). While the journal takes nothing no node is told that it waits, so that each goes by what it
//! does without a collector.
//!
//! What follows from silence (a lapse, the end of a watch) is decided only for a moment of which everything that was
//! acknowledged then has been seen here: an index that lags, and notices that were missed, hold it up.

mod astray;
mod doubts;
mod roll;
mod telling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{Body, NodeName, Record, RecordRef};
use dogwatch::supervise::Stop;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};

use super::asks::Asks;
use super::board::{Board, View};
use super::claims::Claims;
use super::handle::{Figures, FleetBrake, Handle, Inbox, Order, REPORTS, Refusal, StopOrder, Unknown};
use super::ledger::{MAX_REASON_CHARS, Stopped, stopped_words};
use super::machine::{Brake, Waiting};
use super::surplus::Surplus;
use super::{Answer, Ask, Settings, missed, tell};
use astray::Astray;
use doubts::Doubts;

use crate::incident::COLLECTOR;
use crate::nodes::Nodes;
use crate::say::Say;
use crate::store::decision::{Decision, Past, What};
use crate::store::{DecideError, Mark, Notice, QueryError, Store};

/// Asks that are taken under one sync.
const TOGETHER: usize = 512;
/// How often leases, watches and places in the queue are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Stops that wait to be durable at most; people repeat themselves, the machine does not.
const MAX_UNWRITTEN: usize = 64;
/// States of a lost history that are taken while cleanups are stopped; a node that makes them up fills no journal.
const MAX_UNKNOWN: u32 = 16;
/// Answers that wait for one node's stream.
pub const ANSWERS: usize = 64;

/// The owner.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    nodes: Nodes,
    say: Say,
    brake: Brake,
    inbox: Inbox,
    asks: Asks,
    board: Board,
    figures: Arc<Mutex<Figures>>,
    granted_total: u64,
    /// Where answers for a node go: its newest stream.
    streams: BTreeMap<NodeName, mpsc::Sender<(Ask, Answer)>>,
    /// Stops that are in force and not durable yet.
    unwritten: VecDeque<Decision>,
    /// Stops beyond those.
    surplus: Surplus,
    /// Why the journal took nothing the last time.
    failing: Option<String>,
    /// Whether notices were missed and what they said was not looked up yet.
    missed: bool,
    /// Nodes of which all that was found is heard of since it was looked up.
    looked: BTreeSet<NodeName>,
    /// Unknown states that were taken while cleanups are stopped.
    unknown: u32,
    /// What nodes say they were told.
    claims: Claims,
    /// Whether the index did not answer when that was looked up last.
    index_fails: bool,
    doubts: Doubts,
    /// A moment of which what was acknowledged then is not all seen yet.
    mark: Option<(Mark, u64)>,
    /// Writes did not say whether they stand.
    astray: Option<Astray>,
    /// When it is looked at whether the finding of the stop in force is kept, by [`Keeper::now_ns`]; `None`: it is, or there is none.
    look_at_ns: Option<u64>,
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
        let mut brake = Brake::new(settings, ledger, 0);
        brake.recall(clock::wall_ns(), 0);
        let board = Board::new(View::of(&brake, &[], None, &View::default()));
        let (handle, inbox) = Handle::new(board.clone(), settings.lease);
        let mut keeper = Self {
            store,
            nodes,
            say,
            brake,
            inbox,
            asks: handle.asks.clone(),
            board,
            figures: Arc::clone(&handle.figures),
            granted_total: 0,
            streams: BTreeMap::new(),
            unwritten: VecDeque::new(),
            surplus: Surplus::default(),
            failing: None,
            missed: true,
            looked: BTreeSet::new(),
            unknown: 0,
            claims: Claims::default(),
            index_fails: false,
            doubts: Doubts::default(),
            mark: None,
            astray: None,
            // An earlier run may have had no time to say it.
            look_at_ns: Some(0),
            began: Instant::now(),
        };
        keeper.call_roll();
        // Before anybody connects: nobody is told that nothing is stopped.
        let _ = keeper.doubt_store();
        keeper.begin_to_settle();
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
        let asks = self.asks.clone();
        loop {
            let mut ticked = false;
            tokio::select! {
                // Stops are heard before all else, people before nodes; what went wrong is seen before anybody is given
                // another permit (see below).
                biased;
                () = stop.wait() => return Ok(()),
                Some(order) = self.inbox.stops.recv() => self.halt(order).await,
                _ = tick.tick() => ticked = true,
                Some(order) = self.inbox.orders.recv() => self.obey(order).await,
                notice = committed.recv() => match notice {
                    Ok(notice) => self.observe(notice).await,
                    Err(RecvError::Lagged(_)) => self.missed = true,
                    Err(RecvError::Closed) => return Ok(()),
                },
                () = asks.come() => for (ask, to) in self.asks.take(TOGETHER) {
                    self.asked(ask, to);
                },
                // Last, so that nodes that make them up keep no others from a permit; each turn takes what waits all the same.
                Some(claim) = self.inbox.reports.recv() => self.reported(claim),
            }
            // Before what waits is taken: then nothing that was told by now is still to be seen after it.
            let seen = self.mark.as_ref().filter(|(mark, _)| self.store.told(mark)).map(|(_, at)| *at);
            self.drain(&mut committed).await;
            // A turn waits for no index that is being built: orders and asks do not either.
            if self.missed && ticked && self.store.answers() {
                self.look_up().await;
            }
            let seen = seen.filter(|_| !self.missed);
            if seen.is_some() {
                self.mark = None;
            }
            self.settle(ticked, seen).await;
            if ticked {
                // However long that took, others have a turn before the next one.
                tick.reset();
            }
        }
    }

    fn reported(&mut self, claim: Unknown) {
        let now = self.now_ns();
        self.claims.put(claim, now);
    }

    /// What nodes report and notices that wait already may say that something went wrong.
    async fn drain(&mut self, committed: &mut broadcast::Receiver<Notice>) {
        for _ in 0..REPORTS {
            let Ok(claim) = self.inbox.reports.try_recv() else { break };
            self.reported(claim);
        }
        loop {
            match committed.try_recv() {
                Ok(notice) => self.observe(notice).await,
                Err(TryRecvError::Lagged(_)) => self.missed = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// What an earlier run left: a stop that it had no time to keep or to tell of, and what nodes said while nobody listened.
    async fn catch_up(&mut self) {
        self.flush().await;
        self.settle_store().await;
        self.look_up().await;
        self.look_whether_said().await;
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn asked(&mut self, ask: Ask, to: mpsc::Sender<(Ask, Answer)>) {
        let now = self.now_ns();
        if let Some(answer) = self.brake.ask(ask.clone(), now) {
            // Its stream may be gone, or not listening; it asks again.
            let _ = to.try_send((ask.clone(), answer));
        }
        self.streams.insert(ask.node, to);
    }

    async fn halt(&mut self, order: StopOrder) {
        let StopOrder { what, actor, early, reply } = order;
        self.force(what, &actor);
        self.publish();
        // It is told by the ledger from here on.
        drop(early);
        self.keep_and_tell(&actor).await;
        drop(reply.send(self.kept()));
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Release { reason, actor, seen, alone, reply } => {
                drop(reply.send(self.release(reason, actor, seen, alone).await));
            }
            Order::Look { reply } => drop(reply.send(self.standing())),
        }
    }

    fn kept(&self) -> Result<FleetBrake, Refusal> {
        let Some(why) = &self.failing else { return Ok(self.standing()) };
        Err(Refusal::Store(format!(
            "cleanups are stopped, but the collector's journal takes nothing ({why}), so that a restart of the collector would \
             forget it; it is tried again each second, and `dogwatch brake status` says when it is kept"
        )))
    }

    async fn release(
        &mut self,
        reason: String,
        actor: String,
        seen: u64,
        alone: Option<Vec<(NodeName, Past)>>,
    ) -> Result<FleetBrake, Refusal> {
        if self.differs() {
            return Err(Refusal::Store(
                "decisions that cannot be read any more are being looked at; try again in a few seconds"
                    .to_owned(),
            ));
        }
        // What was ordered before and had no place in the ledger yet has one now, and is later than what was seen.
        self.flush().await;
        self.publish();
        if let Some(why) = self.not_kept() {
            return Err(Refusal::Store(why));
        }
        let ledger = self.brake.ledger();
        let past = self.claims.meant(ledger, alone.as_deref());
        match ledger.stopped() {
            None if past.is_empty() => {
                let changed = self.claims.changed(alone.as_deref().unwrap_or_default());
                return Err(changed.map_or(Refusal::Open, Refusal::Overtaken));
            }
            Some(stopped) if ledger.revision > seen => {
                return Err(Refusal::Overtaken(stopped_words(ledger, stopped)));
            }
            _ => {}
        }
        let tripped = ledger.tripped.clone();
        let what = What::BrakeReleased { reason: reason.clone(), past: past.clone() };
        self.write(vec![what], &actor).await.map_err(Refusal::Store)?;
        self.claims.released(&past);
        if let Some(stopped) = tripped {
            self.say.finding(stopped.node.clone(), tell::cleared(&stopped, &actor, &reason), 1).await;
        }
        tracing::info!(actor, reason, "cleanups go on");
        Ok(self.standing())
    }

    /// Puts a stop in force, tells every node, and writes it.
    async fn stop(&mut self, what: What, actor: &str) {
        self.force(what, actor);
        self.publish();
        self.keep_and_tell(actor).await;
    }

    /// Puts a stop in force; it is still to be kept.
    fn force(&mut self, what: What, actor: &str) {
        if self.unwritten.len() >= MAX_UNWRITTEN {
            // Cleanups are stopped by as many already, none of which may be left out of the journal; then this one is written.
            self.surplus.put(what, actor);
            return;
        }
        let decision = self.sealed(what, actor);
        let now = self.now_ns();
        self.brake.apply(&decision, now);
        self.unwritten.push_back(decision);
    }

    /// A stop as it is written.
    fn sealed(&self, what: What, actor: &str) -> Decision {
        let mut decision = Decision { wall_ns: clock::wall_ns(), actor: actor.to_owned(), what };
        if let What::BrakeTripped { reason, finding, node, action, cites, cause, .. } = &mut decision.what {
            *reason = reason.chars().take(MAX_REASON_CHARS).collect();
            let stopped = Stopped {
                wall_ns: decision.wall_ns,
                by: actor.to_owned(),
                reason: reason.clone(),
                finding: String::new(),
                node: node.clone(),
                action: action.clone(),
                cites: cites.clone(),
                cause: cause.clone(),
            };
            // One finding as long as cleanups are stopped, whoever says so again.
            *finding = match &self.brake.ledger().tripped {
                Some(before) => before.finding.clone(),
                None => tell::raised(&stopped).id,
            };
        }
        decision
    }

    /// Writes stops that are in force already.
    async fn flush(&mut self) {
        while !self.unwritten.is_empty() {
            match self.store.decide_all(self.unwritten.iter().cloned().collect()).await {
                Ok(()) => {
                    self.unwritten.clear();
                    self.durable();
                    if let Some((what, actor)) = self.surplus.take() {
                        self.force(what, &actor);
                    }
                }
                Err(error) => return self.fail(&error),
            }
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
                self.durable();
                decisions.iter().for_each(|d| self.brake.apply(d, now));
                self.publish();
                Ok(())
            }
            Err(error) => {
                self.fail(&error);
                if matches!(error, DecideError::Uncertain { .. }) {
                    self.uncertain(decisions);
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
                    self.brake.observe_finding(node, finding, None)
                }
                _ => return,
            },
        };
        self.decide(decided).await;
    }

    fn judge(&mut self, node: &NodeName, record: &Record, cite: RecordRef) -> Vec<What> {
        match &record.body {
            Body::Action(action) => self.brake.observe_action(node, action, cite),
            Body::Finding(finding) => self.brake.observe_finding(node, finding, Some(cite)),
            _ => Vec::new(),
        }
    }

    /// Notices were missed: how permits that are out ended, and what was found on their nodes, is asked of the store.
    /// Until it answers nothing is decided by silence.
    async fn look_up(&mut self) {
        self.looked.clear();
        let nodes = self.brake.judged_nodes();
        self.look_up_of(nodes).await;
    }

    async fn look_up_of(&mut self, nodes: BTreeSet<NodeName>) {
        match missed::look_up(&self.store, &mut self.brake, &nodes).await {
            Ok(decided) => {
                self.missed = false;
                self.looked.extend(nodes);
                self.decide(decided).await;
            }
            Err(error) => {
                self.missed = true;
                tracing::warn!(%error, "what nodes said of their cleanups is not known yet; none ends and none lapses until it is");
            }
        }
    }

    /// Carries out what the machine says: stops at once, the rest once it is durable.
    async fn decide(&mut self, decided: Vec<What>) {
        let (stops, rest): (Vec<_>, Vec<_>) =
            decided.into_iter().partition(|w| matches!(w, What::BrakeTripped { .. }));
        if let Some(stop) = stops.into_iter().next() {
            self.stop(stop, COLLECTOR).await;
        }
        // What is not kept is decided again: the machine says it until it is.
        let _ = self.write(rest, COLLECTOR).await;
    }

    /// `seen`: a moment of which all that was acknowledged then has been seen by now.
    async fn settle(&mut self, ticked: bool, seen: Option<u64>) {
        let now = self.now_ns();
        if ticked {
            self.call_roll();
            if self.doubt_store() {
                self.publish();
                self.keep_and_tell(COLLECTOR).await;
            } else {
                self.flush().await;
            }
            self.settle_store().await;
            self.tell_again().await;
            if self.mark.is_none() {
                self.mark = Some((self.store.mark(), now));
            }
        }
        self.weigh(ticked).await;
        self.compare(ticked).await;
        self.take_up(ticked).await;
        if let Some(seen) = seen {
            let due = self.brake.due(seen);
            self.decide(due).await;
        }
        // What was ordered meanwhile is in force already, and what is out must be known.
        let grants =
            if self.board.is_stopped() || self.in_doubt() { Vec::new() } else { self.brake.grants(now) };
        let asked: Vec<Ask> = self
            .brake
            .queue(now)
            .into_iter()
            .filter(|w| grants.iter().any(|g| is_for(g, w)))
            .map(|w| w.ask.clone())
            .collect();
        if !grants.is_empty() && self.write(grants, COLLECTOR).await.is_ok() {
            self.granted_total += asked.len() as u64;
            self.look_at_new(&asked).await;
            // Whoever had something that stops everything is told that.
            let told = if self.board.is_stopped() { Vec::new() } else { asked };
            for ask in told {
                tracing::info!(node = %ask.node, action = ask.action, mount = ask.mount, "a node may clean");
                self.tell(ask, Answer::Granted);
            }
        }
        if ticked {
            if self.failing.is_none() {
                let (overdue, why) = self.overdue();
                let why = (overdue > 0).then(|| format!("{overdue} of them only since {why}"));
                for (ask, answer) in self.brake.news(why.as_deref(), now) {
                    self.tell(ask, answer);
                }
            }
            self.streams.retain(|_, to| !to.is_closed());
        }
        self.publish();
    }

    /// What nodes had before their first permit since the start is no doing of a cleanup.
    async fn look_at_new(&mut self, asked: &[Ask]) {
        let new: BTreeSet<NodeName> =
            asked.iter().map(|ask| &ask.node).filter(|node| !self.looked.contains(*node)).cloned().collect();
        if new.is_empty() || self.missed {
            return;
        }
        if self.store.answers() {
            self.look_up_of(new).await;
        } else {
            // With what else is to be looked up.
            self.missed = true;
        }
    }

    fn tell(&self, ask: Ask, answer: Answer) {
        if let Some(to) = self.streams.get(&ask.node) {
            // It asks again, and is answered then.
            let _ = to.try_send((ask, answer));
        }
    }

    fn publish(&self) {
        self.board.publish(&self.brake, self.claims.known(), self.not_kept());
        let figures = Figures {
            places: self.brake.places().len(),
            limit: self.brake.limit(),
            permits: self.brake.ledger().permits.len(),
            waiting: self.brake.waiting(),
            overdue: self.overdue().0,
            tripped_total: self.brake.ledger().tripped_total,
            granted_total: self.granted_total,
        };
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// Why a restart would forget how things stand, if so.
    fn not_kept(&self) -> Option<String> {
        let why = || self.failing.clone().unwrap_or_else(|| "it was ordered just now".to_owned());
        (!self.unwritten.is_empty()).then(why)
    }

    fn standing(&self) -> FleetBrake {
        let now = self.now_ns();
        let needed = |policy| u32::try_from(self.brake.provers_needed(policy)).unwrap_or(u32::MAX);
        let waited = |w: &Waiting| Duration::from_nanos(now.saturating_sub(w.since_ns));
        FleetBrake {
            ledger: self.brake.ledger().clone(),
            limit: self.brake.limit(),
            needed: self.brake.settings().canary_successes,
            nodes_needed: self.brake.ledger().policies.iter().map(|p| needed(&p.policy)).collect(),
            not_kept: self.not_kept(),
            notes: self.notes(),
            alone: self.claims.releasable(self.brake.ledger()).cloned().collect(),
            waiting: self.brake.queue(now).into_iter().map(|w| (w.ask.clone(), waited(w))).collect(),
        }
    }
}

fn is_for(grant: &What, waiting: &Waiting) -> bool {
    matches!(grant, What::PermitGranted { node, action, .. }
        if *node == waiting.ask.node && *action == waiting.ask.action)
}

#[cfg(test)]
mod tests;
