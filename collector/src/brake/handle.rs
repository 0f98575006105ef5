//! The way to the owner of the brake: what nodes ask, what people order, and what both are told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dogwatch::record::NodeName;
use tokio::sync::{mpsc, oneshot, watch};

use super::asks::Asks;
use super::board::{Board, Stopping, View};
use super::ledger::{Ledger, MAX_REASON_CHARS};
use super::{Answer, Ask};
use crate::store::decision::{Past, What};

/// What people order and nodes report that waits at most; whoever finds no room waits.
const ORDERS: usize = 256;

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
    /// Nodes that must be among those on which they went well.
    pub nodes_needed: u32,
    /// Who waits, the next first, and for how long.
    pub waiting: Vec<(Ask, Duration)>,
    /// Why a restart of the collector would forget this state; `None`: it would not.
    pub not_kept: Option<String>,
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

pub(super) enum Order {
    Stop { what: What, actor: String, early: Stopping, reply: oneshot::Sender<Result<FleetBrake, Refusal>> },
    Release { what: What, actor: String, reply: oneshot::Sender<Result<FleetBrake, Refusal>> },
    Look { reply: oneshot::Sender<FleetBrake> },
    Unknown(Unknown),
}

/// The way to the owner; clones share it.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) asks: Asks,
    pub(super) board: Board,
    pub(super) figures: Arc<Mutex<Figures>>,
    pub(super) lease: Duration,
}

impl Handle {
    pub(super) fn new(board: Board, lease: Duration) -> (Self, mpsc::Receiver<Order>) {
        let (orders, inbox) = mpsc::channel(ORDERS);
        (Self { orders, asks: Asks::default(), board, figures: Arc::default(), lease }, inbox)
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

    /// A node has a state in force that this collector did not tell: what it was told is lost here, and cleanups stop.
    /// Waits for room.
    pub async fn unknown(&self, unknown: Option<&Unknown>) {
        // The owner ends only when the collector does.
        if let (Some(unknown), Ok(room)) = (unknown, self.orders.reserve().await) {
            room.send(Order::Unknown(unknown.clone()));
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
        self.stop(What::BrakeTripped { reason, finding, node, action, cites, past: None }, actor).await
    }

    /// `actor` lets cleanups go on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn release(&self, reason: String, actor: String) -> Result<FleetBrake, Refusal> {
        let what = What::BrakeReleased { reason: checked(&reason)? };
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Release { what, actor, reply }).await.map_err(|_| stopping())?;
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
        let room = self.orders.reserve().await.map_err(|_| stopping())?;
        let (tripped, reason) = match &what {
            What::BrakeTripped { reason, .. } => {
                (true, format!("cleanups are stopped everywhere by {actor}: {reason}"))
            }
            What::BrakePaused { reason } => (false, format!("cleanups are paused by {actor}: {reason}")),
            _ => return Err(Refusal::Mistake("only a pause and a trip stop cleanups".to_owned())),
        };
        // Nodes hear it now; the owner may be waiting for a disk. From here on it stands, also if nobody waits for it.
        let early = self.board.stop(tripped, reason);
        room.send(Order::Stop { what, actor, early, reply });
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
