//! The way to the owner of the brake: what nodes ask, what people order, and what both are told.
//!
//! Invariants: a stop is told before it waits for anything, and waits behind nothing but other stops; a release ends
//! only what whoever ordered it had looked at, so that no stop that overtook it is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dogwatch::record::NodeName;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use super::asks::Asks;
use super::board::{Board, Stopping, View};
use super::ledger::{Ledger, MAX_REASON_CHARS};
use super::{Answer, Ask};
use crate::store::decision::{Past, What};

/// Looks and releases that wait at most; whoever finds no room waits.
const ORDERS: usize = 256;
/// What nodes report that waits at most; likewise.
pub(super) const REPORTS: usize = 256;
/// Stops that wait to be kept at most. They are told before they wait, and none waits for room.
const STOPS: usize = 64;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It makes no sense.
    #[error("{0}")]
    Mistake(String),
    /// There is nothing to release.
    #[error("cleanups are neither paused nor stopped")]
    Open,
    /// Something stopped cleanups that whoever released them has not seen.
    #[error(
        "cleanups were stopped again meanwhile ({0}); look at `dogwatch brake status`, and release again if that is dealt with"
    )]
    Overtaken(String),
    /// It is in force and would not survive a restart, or it could not be carried out at all.
    #[error("{0}")]
    Store(String),
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
    /// Nodes that keep a place beyond their time, since nobody knows yet whether something speaks against them.
    pub overdue: usize,
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
    /// Nodes that must be among those on which they went well, for each of the ledger's policies.
    pub nodes_needed: Vec<u32>,
    /// Who waits, the next first, and for how long.
    pub waiting: Vec<(Ask, Duration)>,
    /// Why a restart of the collector would forget this state; `None`: it would not.
    pub not_kept: Option<String>,
    /// What people should know beside that, and what to do.
    pub notes: Vec<String>,
    /// Nodes that are stopped alone, and that a release lets go on.
    pub alone: Vec<Unknown>,
}

/// What whoever releases had looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The revision.
    pub revision: u64,
    /// The nodes that were stopped alone, and by what.
    pub alone: Vec<(NodeName, Past)>,
}

/// A state that a node has in force and that this collector did not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Which node.
    pub node: NodeName,
    /// Which state.
    pub state: Past,
    /// Why it was stopped, in the words that it was told.
    pub reason: String,
}

/// A stop that is told already.
#[derive(Debug)]
pub(super) struct StopOrder {
    pub(super) what: What,
    pub(super) actor: String,
    pub(super) early: Stopping,
    pub(super) reply: oneshot::Sender<Result<FleetBrake, Refusal>>,
}

/// What waits for its turn.
#[derive(Debug)]
pub(super) enum Order {
    /// `seen`: the revision that was looked at, or that was told when it was ordered; what stopped cleanups since stays.
    /// `alone`: whoever else is stopped alone stays so, and who says something else by now; `None`: nobody.
    Release {
        reason: String,
        actor: String,
        seen: u64,
        alone: Option<Vec<(NodeName, Past)>>,
        reply: oneshot::Sender<Result<FleetBrake, Refusal>>,
    },
    Look {
        reply: oneshot::Sender<FleetBrake>,
    },
}

/// The owner's ends.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) stops: mpsc::Receiver<StopOrder>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) reports: mpsc::Receiver<Unknown>,
}

/// The way to the owner; clones share it. Stops have a way of their own, which nothing else can fill.
#[derive(Debug, Clone)]
pub struct Handle {
    stops: mpsc::Sender<StopOrder>,
    orders: mpsc::Sender<Order>,
    reports: mpsc::Sender<Unknown>,
    pub(super) asks: Asks,
    pub(super) board: Board,
    pub(super) figures: Arc<Mutex<Figures>>,
    pub(super) lease: Duration,
}

impl Handle {
    pub(super) fn new(board: Board, lease: Duration) -> (Self, Inbox) {
        let (stops, stops_in) = mpsc::channel(STOPS);
        let (orders, orders_in) = mpsc::channel(ORDERS);
        let (reports, reports_in) = mpsc::channel(REPORTS);
        let inbox = Inbox { stops: stops_in, orders: orders_in, reports: reports_in };
        (Self { stops, orders, reports, asks: Asks::default(), board, figures: Arc::default(), lease }, inbox)
    }

    /// How long a permit holds unless it is asked for again.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// A node asks; answers go to `to`, now and whenever there is news. Never waits: where there is no room the node
    /// hears nothing, and asks again in a moment.
    pub fn ask(&self, ask: Ask, to: &mpsc::Sender<(Ask, Answer)>) {
        let _ = self.asks.put(ask, to.clone());
    }

    /// A node has a state in force that this collector may not have told: unless its journal holds it, cleanups stop.
    /// Waits for room.
    pub async fn unknown(&self, unknown: Option<&Unknown>) {
        // The owner ends only when the collector does.
        if let (Some(unknown), Ok(room)) = (unknown, self.reports.reserve().await) {
            room.send(unknown.clone());
        }
    }

    /// What every node is told, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<View> {
        self.board.view()
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
        self.stop(What::BrakePaused { reason: checked(&reason)? }, actor).await
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
        let what = What::BrakeTripped { reason, finding, node, action, cites, past: None, cause: None };
        self.stop(what, actor).await
    }

    /// `actor` lets cleanups go on. `looked`: what was looked at, if that is known; what stopped cleanups or a node since
    /// stays.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn release(
        &self,
        reason: String,
        actor: String,
        looked: Option<Looked>,
    ) -> Result<FleetBrake, Refusal> {
        let reason = checked(&reason)?;
        // One that was never told here is of a history that is lost.
        let told = self.board.revision();
        let seen = looked.as_ref().map_or(told, |looked| looked.revision.min(told));
        let alone = looked.map(|looked| looked.alone);
        let (reply, answer) = oneshot::channel();
        let order = Order::Release { reason, actor, seen, alone, reply };
        self.orders.send(order).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
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

    async fn stop(&self, what: What, actor: String) -> Result<FleetBrake, Refusal> {
        let (reply, answer) = oneshot::channel();
        let room = self.stops.try_reserve().map_err(|e| match e {
            TrySendError::Full(()) => Refusal::Store(format!(
                "cleanups are stopped: {STOPS} stops are in force already and wait to be kept; this one was not added"
            )),
            TrySendError::Closed(()) => stopping(),
        })?;
        let (tripped, reason) = match &what {
            What::BrakeTripped { reason, .. } => {
                (true, format!("cleanups are stopped everywhere by {actor}: {reason}"))
            }
            What::BrakePaused { reason } => (false, format!("cleanups are paused by {actor}: {reason}")),
            _ => return Err(Refusal::Mistake("only a pause and a trip stop cleanups".to_owned())),
        };
        // Nodes hear it now; the owner may be waiting for a disk. From here on it stands, also if nobody waits for it.
        let early = self.board.stop(tripped, reason);
        room.send(StopOrder { what, actor, early, reply });
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
