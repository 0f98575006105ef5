//! The fleet brake on the urgent stream: what the core asks goes up, what the collector says goes to the core.
//!
//! What counts as state (the link, the collector's word, what is asked) travels as the newest value of each, so that
//! nothing of it can be lost to a full queue; an answer that finds no room is given again to the next ask.

use std::sync::Arc;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::Hash;
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::act::permit::{Ask, BrakeState, Word};

/// Between two repetitions of an ask: some of them fit in the shortest lease, and a lost one costs seconds.
const REPEAT: Duration = Duration::from_secs(5);
/// Answers that wait for the core.
const ANSWERS: usize = 64;

/// How the collector is reached, and what it said last of all nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinkNow {
    /// Whether the urgent stream is open.
    pub up: bool,
    /// What the collector said on it; `None`: it has no brake.
    pub word: Option<wire::Brake>,
}

/// What the core wants told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outgoing {
    /// What is asked.
    pub asks: Vec<Ask>,
    /// The state of the brake that is in force here.
    pub heard: Option<Word>,
    /// What decides here what may go; said in Hello.
    pub policy: Option<Hash>,
}

/// The uplink's end.
#[derive(Debug, Clone)]
pub struct BrakeEnd {
    link: Arc<watch::Sender<LinkNow>>,
    answers: mpsc::Sender<wire::PermitAnswer>,
    outgoing: watch::Receiver<Outgoing>,
}

/// The core's end.
#[derive(Debug)]
pub struct BrakeFeed {
    /// The link, now and whenever it changes.
    pub link: watch::Receiver<LinkNow>,
    /// Answers.
    pub answers: mpsc::Receiver<wire::PermitAnswer>,
}

/// Both ends; the core says by the last what is to go up.
pub fn ends() -> (BrakeEnd, BrakeFeed, watch::Sender<Outgoing>) {
    let (answers_tx, answers) = mpsc::channel(ANSWERS);
    let link = watch::Sender::new(LinkNow::default());
    let outgoing = watch::Sender::new(Outgoing::default());
    let feed = BrakeFeed { link: link.subscribe(), answers };
    (BrakeEnd { link: Arc::new(link), answers: answers_tx, outgoing: outgoing.subscribe() }, feed, outgoing)
}

/// One call's part; when it is dropped the link is down.
#[derive(Debug)]
pub(super) struct OnStream {
    end: BrakeEnd,
    /// Whether the collector of this call has a brake.
    knows: bool,
    told: Option<wire::BrakeHeard>,
    repeat: Interval,
}

impl OnStream {
    /// The stream is open, and the collector said this in Welcome.
    pub(super) fn new(end: &BrakeEnd, word: Option<wire::Brake>) -> Self {
        let knows = word.is_some();
        let mut repeat = tokio::time::interval(REPEAT);
        repeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        end.link.send_replace(LinkNow { up: true, word });
        Self { end: end.clone(), knows, told: None, repeat }
    }

    /// The collector says how all nodes stand.
    pub(super) fn word(&self, word: wire::Brake) {
        self.end.link.send_replace(LinkNow { up: true, word: Some(word) });
    }

    /// The collector answers.
    pub(super) fn answer(&self, answer: wire::PermitAnswer) {
        // The core is behind; the next answer says as much.
        let _ = self.end.answers.try_send(answer);
    }

    /// What is to be sent next; waits until there is something.
    pub(super) async fn next(&mut self) -> Vec<Up> {
        loop {
            tokio::select! {
                changed = self.end.outgoing.changed() => if changed.is_err() {
                    // The core ended, and the agent with it.
                    std::future::pending::<()>().await;
                },
                _ = self.repeat.tick() => {}
            }
            if !self.knows {
                self.end.outgoing.mark_unchanged();
                continue;
            }
            let now = self.end.outgoing.borrow_and_update().clone();
            let mut out = Vec::new();
            if let Some(heard) =
                now.heard.as_ref().map(heard).filter(|heard| self.told.as_ref() != Some(heard))
            {
                self.told = Some(heard.clone());
                out.push(Up::BrakeHeard(heard));
            }
            let asked_boot_ns = clock::now().boot_ns;
            out.extend(now.asks.into_iter().map(|ask| Up::PermitAsk(to_wire(ask, asked_boot_ns))));
            if !out.is_empty() {
                return out;
            }
        }
    }
}

impl Drop for OnStream {
    fn drop(&mut self) {
        self.end.link.send_modify(|link| link.up = false);
    }
}

fn to_wire(ask: Ask, asked_boot_ns: u64) -> wire::PermitAsk {
    wire::PermitAsk {
        action_id: ask.action,
        mount: ask.mount,
        planned_bytes: ask.planned_bytes,
        planned_objects: ask.planned_objects,
        policy: ask.policy.0.to_vec().into(),
        severity: wire::Severity::from(ask.severity).into(),
        seconds_to_full: ask.seconds_to_full,
        cleaners: ask.cleaners,
        acting: ask.acting,
        asked_boot_ns,
    }
}

impl BrakeEnd {
    /// What is in force here, for Hello.
    pub(super) fn held(&self) -> Option<wire::BrakeHeard> {
        self.outgoing.borrow().heard.as_ref().map(heard)
    }

    /// The node's policy, for Hello.
    pub(super) fn policy(&self) -> Option<Hash> {
        self.outgoing.borrow().policy
    }
}

fn heard(word: &Word) -> wire::BrakeHeard {
    let stopped = word.state != BrakeState::Open;
    let reason = if stopped { word.reason.clone() } else { String::new() };
    wire::BrakeHeard { revision: word.revision, lineage: word.lineage, stopped, reason }
}

/// What is asked of a stream that may not have a brake.
pub(super) async fn next(on_stream: &mut Option<OnStream>) -> Vec<Up> {
    match on_stream {
        Some(on_stream) => on_stream.next().await,
        None => std::future::pending().await,
    }
}
