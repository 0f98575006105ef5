//! Holds: what may not be cleaned on nodes, nor expire here, because somebody said so.
//!
//! [`Keeper`] owns them. Each is a decision, durable before anybody is told that it stands; the full set that concerns a
//! node goes to it over its urgent stream whenever it connects and whenever the set changes, until the node says that
//! it keeps it. That, too, is a decision, so that a hold is not *pending* again because the collector was restarted.
//!
//! What a hold covers: a path, a pod's logs or a node as a whole are kept on the nodes. An incident's hold keeps each of
//! its nodes as a whole, also those that join later, and what the collector itself has of their time from
//! an hour before the first of its findings to as much after its end ([`crate::store::held`]).
//!
//! A security incident that is open holds its nodes by itself ([`guard`]).
//!
//! Invariants: a hold ends only by being released; a set is sent whole; while a node has not answered it is asked again.
//!
//! Deliberately absent: who may hold (`query`), the words of the wire ([`push`]).

mod guard;
mod kept;
mod push;
mod scope;
mod wish;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{NodeName, Severity, Stream};
use dogwatch::supervise::Stop;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use kept::Figures;
pub use kept::Kept;
use scope::Scope;
pub use wish::{Mistake, Wish};

use crate::casework::{Ask, CaseworkError};
use crate::nodes::Nodes;
use crate::say::Say;
use crate::store::decision::{HoldTarget, What};
use crate::store::row::{HoldRow, Released};
use crate::store::{Notice, QueryError, Store};

/// Holds in force at once; a node takes no more of them either.
pub const MAX_HOLDS: usize = 256;
/// Most bytes of their names and reasons together, so that a set fits a message and a node's file.
const MAX_SET_BYTES: usize = 96 * 1024;
/// Questions that wait at most.
const ASKS: usize = 64;
/// How soon a change goes out; what changes together goes together.
const PUSH_EVERY: Duration = Duration::from_millis(200);
/// Nodes that are told at once; after a restart thousands come back together.
const MAX_PUSHING: usize = 256;
/// After a node could not be told it is told again so much later.
const RETRY: Duration = Duration::from_secs(5);
/// How often an incident is read after something was said about it, [`LOOK_EVERY`] apart: a finding may be folded into the
/// index a little after the decision that put it there.
const LOOKS: u8 = 2;
/// How often incidents that changed and the store's room are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a hold was not added or released.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// What was asked for makes no sense.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// There is no such thing.
    #[error("{0}")]
    Unknown(String),
    /// It was released before.
    #[error("{0} was released already")]
    Over(String),
    /// There are too many.
    #[error("{0}")]
    TooMany(String),
    /// It could not be made durable or looked up; it does not stand.
    #[error("{0}")]
    Store(String),
}

impl From<QueryError> for Refusal {
    fn from(e: QueryError) -> Self {
        Self::Store(e.to_string())
    }
}

/// A hold, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The hold.
    pub row: HoldRow,
    /// Nodes that said that they keep it.
    pub confirmed: BTreeSet<NodeName>,
    /// Those of them that had nothing at the path that is held when they were last told.
    pub absent: BTreeSet<NodeName>,
    /// `holding`, `pending` or `released`.
    pub state: &'static str,
    /// What nodes keep aside for it; of a released one nothing.
    pub kept: Kept,
}

#[derive(Debug)]
enum Order {
    Add { wish: Wish, actor: String, reply: oneshot::Sender<Result<View, Refusal>> },
    Release { id: String, reason: String, actor: String, reply: oneshot::Sender<Result<View, Refusal>> },
    List { released: bool, reply: oneshot::Sender<Result<Vec<View>, Refusal>> },
}

/// The way to the owner; clones share it.
#[derive(Debug, Clone)]
pub struct Holds {
    orders: mpsc::Sender<Order>,
}

impl Holds {
    /// Adds a hold for `actor`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn add(&self, wish: Wish, actor: String) -> Result<View, Refusal> {
        self.ask(|reply| Order::Add { wish, actor, reply }).await
    }

    /// Releases one.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn release(&self, id: String, reason: String, actor: String) -> Result<View, Refusal> {
        self.ask(|reply| Order::Release { id, reason, actor, reply }).await
    }

    /// All of them, newest first.
    ///
    /// # Errors
    /// [`Refusal::Store`].
    pub async fn list(&self, released: bool) -> Result<Vec<View>, Refusal> {
        self.ask(|reply| Order::List { released, reply }).await
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Order,
    ) -> Result<T, Refusal> {
        let stopping = || Refusal::Store("the collector is stopping; try again".to_owned());
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// A hold in force.
#[derive(Debug)]
struct Active {
    row: HoldRow,
    confirmed: BTreeSet<NodeName>,
    /// Told anew at each connection, so not kept.
    absent: BTreeSet<NodeName>,
    scope: Scope,
    /// How often its incident is still to be read.
    looks: u8,
}

impl Active {
    fn concerns(&self, node: &NodeName) -> bool {
        self.scope.nodes.as_ref().is_none_or(|nodes| nodes.contains(node))
    }

    fn holds_incident(&self, id: &str) -> bool {
        matches!(&self.row.target, HoldTarget::Incident(held) if held == id)
    }

    fn bytes(&self) -> usize {
        wish::bytes_of(&self.row.target, &self.row.reason)
    }
}

/// What a node was told.
#[derive(Debug)]
struct Told {
    session: u64,
    holds: Vec<String>,
    kept: bool,
    /// Not before then again, where it failed.
    retry_at: Option<Instant>,
    /// Why it failed, said once.
    failed: Option<String>,
}

/// The owner.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    nodes: Nodes,
    casework: mpsc::Sender<Ask>,
    say: Say,
    orders: mpsc::Receiver<Order>,
    active: BTreeMap<String, Active>,
    told: HashMap<NodeName, Told>,
    pushing: JoinSet<push::Answer>,
    changed: bool,
    /// Whether a security incident holds its nodes by itself.
    guards: Option<Severity>,
    /// Incidents of which it is to be looked whether they hold, and how often that was tried.
    unguarded: BTreeMap<String, u32>,
}

impl Keeper {
    /// Takes up what the store holds, and tells the store what may not expire. `guards`: from which severity a security
    /// incident holds its nodes by itself while it is open.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn open(
        store: Store,
        nodes: Nodes,
        casework: mpsc::Sender<Ask>,
        say: Say,
        guards: Option<Severity>,
    ) -> Result<(Self, Holds), QueryError> {
        let (sender, orders) = mpsc::channel(ASKS);
        let mut active = BTreeMap::new();
        for (row, confirmed) in store.holds(false).await? {
            let scope = Scope::of(&store, &row).await?;
            let absent = BTreeSet::new();
            active.insert(row.id.clone(), Active { row, confirmed, absent, scope, looks: LOOKS });
        }
        let unguarded = BTreeMap::new();
        let mut keeper = Self {
            store,
            nodes,
            casework,
            say,
            orders,
            active,
            told: HashMap::new(),
            pushing: JoinSet::new(),
            changed: true,
            guards,
            unguarded,
        };
        keeper.tell_store();
        keeper.look_for_unguarded().await?;
        Ok((keeper, Holds { orders: sender }))
    }

    /// Works until stop is set.
    ///
    /// # Errors
    /// None of its own; the type is what a part has.
    pub async fn run(mut self, stop: Stop) -> Result<(), String> {
        let mut committed = self.store.committed();
        let mut opened = self.nodes.opened();
        let mut push = tokio::time::interval(PUSH_EVERY);
        let mut look = tokio::time::interval(LOOK_EVERY);
        push.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                Some(order) = self.orders.recv() => self.obey(order).await,
                notice = committed.recv() => match notice {
                    Ok(Notice::Decided(d)) => {
                        if let Some(id) = guard::concerned(&d.what) {
                            self.unguarded.insert(id.to_owned(), 0);
                        }
                        let held = |id: &&str| self.active.values().any(|a| a.holds_incident(id));
                        if let Some(id) = incident_of(&d.what).filter(held) {
                            self.look_again(Some(id)).await;
                        }
                    }
                    Ok(Notice::Records { .. }) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.look_again(None).await;
                        if let Err(error) = self.look_for_unguarded().await {
                            tracing::warn!(%error, "open incidents cannot be read; those that follow are");
                        }
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                Ok(()) = opened.changed() => self.changed = true,
                Some(answer) = self.pushing.join_next(), if !self.pushing.is_empty() => {
                    if let Ok(answer) = answer {
                        self.answered(answer).await;
                    }
                }
                _ = push.tick() => {
                    self.guard().await;
                    self.push();
                }
                _ = look.tick() => {
                    self.follow().await;
                    self.watch_room();
                    self.changed = true;
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        // Whoever asked may have gone away; what was decided stands.
        match order {
            Order::Add { wish, actor, reply } => drop(reply.send(self.add(wish, actor).await)),
            Order::Release { id, reason, actor, reply } => {
                drop(reply.send(self.release(&id, reason, actor).await));
            }
            Order::List { released, reply } => drop(reply.send(self.list(released).await)),
        }
    }

    async fn add(&mut self, wish: Wish, actor: String) -> Result<View, Refusal> {
        let (node, target, reason) = wish.checked()?;
        if let Some(node) = node.as_ref().filter(|n| self.nodes.get(n).is_none()) {
            let why = format!("there is no node {node}; `dogwatch get nodes` lists them");
            return Err(Refusal::Unknown(why));
        }
        if self.active.len() >= MAX_HOLDS {
            return Err(Refusal::TooMany(format!("{MAX_HOLDS} holds are in force; release some first")));
        }
        let bytes: usize = self.active.values().map(Active::bytes).sum();
        if bytes + wish::bytes_of(&target, &reason) > MAX_SET_BYTES {
            let why =
                format!("what is held takes {bytes} bytes of {MAX_SET_BYTES}; release some, or hold folders");
            return Err(Refusal::TooMany(why));
        }
        let id = self.new_id().await?;
        let row = HoldRow {
            id: id.clone(),
            node: node.clone(),
            target: target.clone(),
            reason: reason.clone(),
            actor: actor.clone(),
            added_wall_ns: clock::wall_ns(),
            released: None,
        };
        let scope = Scope::of(&self.store, &row).await?;
        if let HoldTarget::Incident(incident) = &target
            && scope.nodes.as_ref().is_none_or(BTreeSet::is_empty)
        {
            let why = format!("there is no incident {incident}; `dogwatch get incidents` lists them");
            return Err(Refusal::Unknown(why));
        }
        // What is about to be held must not expire while the decision is written.
        let (confirmed, absent) = (BTreeSet::new(), BTreeSet::new());
        self.active.insert(id.clone(), Active { row, confirmed, absent, scope, looks: LOOKS });
        self.tell_store();
        let what = What::HoldAdded { hold: id.clone(), node, target, reason };
        if let Err(why) = self.keep(what, &actor).await {
            self.active.remove(&id);
            self.tell_store();
            return Err(Refusal::Store(why));
        }
        self.changed = true;
        tracing::info!(hold = id, actor, "a hold was added");
        self.view(&id, &Figures::default()).ok_or(Refusal::Unknown(id))
    }

    async fn release(&mut self, id: &str, reason: String, actor: String) -> Result<View, Refusal> {
        let reason = wish::checked_reason(&reason)?;
        if !self.active.contains_key(id) {
            let known = self.store.holds(true).await?.into_iter().any(|(row, _)| row.id == id);
            return Err(if known {
                Refusal::Over(id.to_owned())
            } else {
                Refusal::Unknown(format!("there is no hold {id}; `dogwatch get holds` lists them"))
            });
        }
        let what = What::HoldReleased { hold: id.to_owned(), reason: reason.clone() };
        self.keep(what, &actor).await.map_err(Refusal::Store)?;
        let Some(mut gone) = self.active.remove(id) else {
            return Err(Refusal::Unknown(id.to_owned()));
        };
        self.tell_store();
        self.changed = true;
        tracing::info!(hold = id, actor, "a hold was released");
        gone.row.released = Some(Released { wall_ns: clock::wall_ns(), by: actor, reason });
        Ok(let_go_of(gone.row, gone.confirmed))
    }

    async fn list(&self, released: bool) -> Result<Vec<View>, Refusal> {
        let figures = Figures::of(&self.nodes);
        let mut views: Vec<View> = self.active.keys().filter_map(|id| self.view(id, &figures)).collect();
        if released {
            let over = self.store.holds(true).await?.into_iter().filter(|(row, _)| row.released.is_some());
            views.extend(over.map(|(row, confirmed)| let_go_of(row, confirmed)));
        }
        views.sort_by(|a, b| {
            b.row.added_wall_ns.cmp(&a.row.added_wall_ns).then_with(|| a.row.id.cmp(&b.row.id))
        });
        Ok(views)
    }

    fn view(&self, id: &str, figures: &Figures) -> Option<View> {
        let active = self.active.get(id)?;
        let concerned: BTreeSet<NodeName> = match &active.scope.nodes {
            Some(nodes) => nodes.clone(),
            None => self.nodes.all().into_iter().map(|(n, _)| n).collect(),
        };
        // One that confirmed once and now says that it cannot keep the set does not hold it.
        let failing = |n: &NodeName| self.told.get(n).is_some_and(|t| t.failed.is_some());
        let all =
            !concerned.is_empty() && concerned.is_subset(&active.confirmed) && !concerned.iter().any(failing);
        let state = if all { "holding" } else { "pending" };
        let (confirmed, absent) = (active.confirmed.clone(), active.absent.clone());
        let kept = figures.kept(id, concerned.len());
        Some(View { row: active.row.clone(), confirmed, absent, state, kept })
    }

    /// An id that no hold ever had.
    async fn new_id(&self) -> Result<String, Refusal> {
        let known: BTreeSet<String> = self.store.holds(true).await?.into_iter().map(|(r, _)| r.id).collect();
        loop {
            let mut bytes = [0u8; 4];
            // Ids must only differ; the clock does where there is no randomness.
            if getrandom::fill(&mut bytes).is_err() {
                bytes = (clock::wall_ns() as u32).to_le_bytes();
            }
            let id = bytes.iter().fold("hold-".to_owned(), |id, b| id + &format!("{b:02x}"));
            if !known.contains(&id) && !self.active.contains_key(&id) {
                return Ok(id);
            }
        }
    }

    async fn keep(&self, what: What, actor: &str) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        let ask = Ask::Keep { what: Box::new(what), actor: actor.to_owned(), reply };
        let stopping = |_| "the collector is stopping; try again".to_owned();
        self.casework.send(ask).await.map_err(|_| "the collector is stopping; try again".to_owned())?;
        done.await.map_err(stopping)?.map_err(|e: CaseworkError| e.to_string())
    }

    fn tell_store(&self) {
        self.store.keep_spans(self.active.values().filter_map(|a| a.scope.span.clone()).collect());
    }

    /// Looks at `id` again, or at every incident that is held.
    async fn look_again(&mut self, id: Option<&str>) {
        for active in self.active.values_mut() {
            if id.is_none_or(|id| active.holds_incident(id)) {
                active.looks = LOOKS;
            }
        }
        self.follow().await;
    }

    /// Incidents go on: nodes join, and they end. Only those are read that somebody told about.
    async fn follow(&mut self) {
        let mut changed = false;
        for active in self.active.values_mut().filter(|a| a.looks > 0 || a.scope.lacks()) {
            match active.scope.follow(&self.store, &active.row).await {
                Ok(anew) => {
                    active.looks = active.looks.saturating_sub(1);
                    changed |= anew;
                }
                Err(error) => {
                    tracing::warn!(hold = active.row.id, %error, "an incident that is held cannot be read; it is tried again")
                }
            }
        }
        if changed {
            self.changed = true;
            self.tell_store();
        }
    }

    /// Says when what is held makes a journal outgrow its limit.
    fn watch_room(&self) {
        let status = self.store.status();
        for (stream, stats) in Stream::ALL.iter().zip(&status.streams) {
            if let Some(by) = stats.held_by.as_ref().filter(|_| stats.held_segments > 0) {
                self.say.outgrown(*stream, by, stats.held_segments, stats.refusing.as_deref());
            }
        }
    }

    /// Tells every connected node that does not know yet what is held on it.
    fn push(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let now = Instant::now();
        for (node, session) in self.nodes.connected() {
            if self.pushing.len() >= MAX_PUSHING {
                self.changed = true;
                return;
            }
            let concerned: Vec<&Active> = self.active.values().filter(|a| a.concerns(&node)).collect();
            let known = self.told.get(&node).is_some_and(|t| {
                t.session == session
                    && t.holds.iter().eq(concerned.iter().map(|a| &a.row.id))
                    && (t.kept || t.retry_at.is_none_or(|at| now < at))
            });
            // One set at a time is on its way to a node, or an older one could come after a newer.
            let under_way =
                self.told.get(&node).is_some_and(|t| t.session == session && !t.kept && t.retry_at.is_none());
            if known || under_way {
                continue;
            }
            let holds: Vec<String> = concerned.iter().map(|a| a.row.id.clone()).collect();
            let set = push::set_of(concerned.iter().map(|a| &a.row));
            let told = Told { session, holds: holds.clone(), kept: false, retry_at: None, failed: None };
            let before = self.told.insert(node.clone(), told);
            if let (Some(before), Some(told)) = (before, self.told.get_mut(&node)) {
                told.failed = before.failed;
            }
            self.pushing.spawn(push::push(self.nodes.clone(), node, session, holds, set));
        }
    }

    async fn answered(&mut self, answer: push::Answer) {
        let push::Answer { node, session, holds, result } = answer;
        let Some(told) = self.told.get_mut(&node).filter(|t| t.session == session) else {
            return;
        };
        // Others may wait for the place, and this node for a newer set.
        self.changed = true;
        let absent = match result {
            Ok(absent) => absent,
            Err(why) => {
                if told.failed.as_ref() != Some(&why) {
                    tracing::warn!(%node, why, "a node does not confirm what is held on it; it is asked again");
                }
                told.failed = Some(why);
                told.retry_at = Some(Instant::now() + RETRY);
                return;
            }
        };
        told.kept = true;
        told.failed = None;
        for (id, active) in self.active.iter_mut().filter(|(id, _)| holds.contains(id)) {
            if absent.contains(id) {
                active.absent.insert(node.clone());
            } else {
                active.absent.remove(&node);
            }
        }
        let fresh = |id: &String| self.active.get(id).is_some_and(|a| !a.confirmed.contains(&node));
        let confirmed: Vec<String> = holds.into_iter().filter(fresh).collect();
        if confirmed.is_empty() {
            return;
        }
        let what = What::HoldConfirmed { node: node.clone(), holds: confirmed.clone() };
        if let Err(why) = self.keep(what, node.as_str()).await {
            tracing::warn!(%node, why, "a node's word on what it holds could not be kept; it is asked again");
            if let Some(told) = self.told.get_mut(&node) {
                told.kept = false;
                told.retry_at = Some(Instant::now() + RETRY);
            }
            return;
        }
        for id in confirmed {
            if let Some(active) = self.active.get_mut(&id) {
                active.confirmed.insert(node.clone());
            }
        }
    }
}

fn let_go_of(row: HoldRow, confirmed: BTreeSet<NodeName>) -> View {
    View { row, confirmed, absent: BTreeSet::new(), state: "released", kept: Kept::default() }
}

fn incident_of(what: &What) -> Option<&str> {
    match what {
        What::IncidentJoined { id, .. } | What::IncidentMoved { id, .. } => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
