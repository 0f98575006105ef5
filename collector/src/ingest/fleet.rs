//! The fleet brake on a node's urgent stream: what the node asks, and what it is told.

use std::time::Duration;

use dogwatch::convert::severity;
use dogwatch::record::{Hash, NodeName};
use dogwatch::wire;
use dogwatch::wire::collector_message::Message as Down;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::brake::{ANSWERS, Answer, Ask, Handle, Unknown, View};
use crate::store::decision::Past;

/// Longest path that is taken from an ask: the kernel's own bound.
const MAX_PATH: usize = 4_096;
/// Longest action's id that is taken: agents' have some thirty bytes.
const MAX_ID: usize = 64;
/// So many bytes of a mount's path are kept: a volume of a pod's has some 150. Each permit keeps it in a journal of which
/// nothing expires.
const MAX_MOUNT: usize = 256;
/// So many bytes of a cleaner's name are kept.
const MAX_CLEANER: usize = 32;
/// Longest reason of a stop that is taken from a node, in characters.
const MAX_WHY_CHARS: usize = 300;
/// So many cleaners of an ask are kept: as many as agents name.
const MAX_CLEANERS: usize = 16;
/// The brake's owner is told of a stop that is not known once in so long, however often a node says another one: each is
/// looked up. The node itself stays stopped at once.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// One stream's end of the brake.
#[derive(Debug)]
pub(super) struct Link {
    node: NodeName,
    brake: Handle,
    lease_ms: u32,
    view: watch::Receiver<View>,
    to: mpsc::Sender<(Ask, Answer)>,
    answers: mpsc::Receiver<(Ask, Answer)>,
    /// A stop that the node has in force and this collector may not know: as long as that is so the node is told none other.
    held: Option<Unknown>,
    /// Whether the brake's owner is still to be told of it.
    untold: bool,
    /// When that is due.
    report_at: Instant,
}

impl Link {
    /// For `node`, whose agent knows the brake and has `held` in force.
    pub(super) fn new(node: &NodeName, brake: &Handle, held: Option<&wire::BrakeHeard>) -> Self {
        let (to, answers) = mpsc::channel(ANSWERS);
        let lease_ms = u32::try_from(brake.lease().as_millis()).unwrap_or(u32::MAX);
        let held = stop_of(node, held);
        let view = brake.view();
        let (node, brake, report_at) = (node.clone(), brake.clone(), Instant::now());
        Self { node, brake, lease_ms, view, to, answers, held, untold: false, report_at }
    }

    /// What is told in Welcome.
    pub(super) fn welcome(&mut self) -> wire::Brake {
        self.word()
    }

    /// What the node is told of all nodes now.
    fn word(&mut self) -> wire::Brake {
        let view = self.view.borrow_and_update();
        let told = brake(&view);
        let Some(held) = self.held.as_ref().filter(|held| !view.knows(held.state)) else {
            self.held = None;
            return told;
        };
        self.untold = true;
        if view.is_stopped() {
            return told;
        }
        let mut stop = wire::Brake {
            revision: held.state.revision,
            lineage: held.state.lineage,
            reason: format!(
                "this collector does not know the stop that the node has in force: its store was lost or put back; {}",
                held.reason
            ),
            ..told
        };
        stop.set_state(wire::BrakeState::Tripped);
        stop
    }

    /// What is to be told next.
    pub(super) async fn next(&mut self) -> Down {
        loop {
            tokio::select! {
                biased;
                changed = self.view.changed() => match changed {
                    Ok(()) => return Down::Brake(self.word()),
                    // Its owner ended, since the collector does.
                    Err(_) => std::future::pending().await,
                },
                () = report(&self.brake, self.held.as_ref(), self.report_at), if self.untold => {
                    (self.untold, self.report_at) = (false, Instant::now() + REPORT_EVERY);
                }
                Some((ask, answer)) = self.answers.recv() => return Down::Permit(self.permit(ask, answer)),
            }
        }
    }

    /// A node says what it has in force. A stop that this collector may not know it goes on to have until that is dealt
    /// with: what opens here does not open there.
    pub(super) fn heard(&mut self, heard: &wire::BrakeHeard) {
        let unknown = stop_of(&self.node, Some(heard)).filter(|held| !self.view.borrow().knows(held.state));
        if unknown.is_some() && unknown != self.held {
            (self.held, self.untold) = (unknown, true);
        }
    }

    /// What a node asks.
    pub(super) fn ask(&self, ask: wire::PermitAsk) -> Result<(), Status> {
        let ask = ask_of(&self.node, ask)?;
        let held = self.held.as_ref().filter(|held| !self.view.borrow().knows(held.state));
        match held.filter(|_| !ask.acting) {
            // It could not use a place, and would keep others from it.
            Some(held) => {
                let why = format!(
                    "the node has a stop in force that this collector does not know: {}",
                    held.reason
                );
                // Where there is no room it asks again.
                let _ = self.to.try_send((ask, Answer::Stopped { why }));
            }
            None => self.brake.ask(ask, &self.to),
        }
        Ok(())
    }

    fn permit(&self, ask: Ask, answer: Answer) -> wire::PermitAnswer {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let mut out = wire::PermitAnswer {
            action_id: ask.action,
            asked_boot_ns: ask.asked_boot_ns,
            ..wire::PermitAnswer::default()
        };
        match answer {
            Answer::Granted => {
                out.set_state(wire::PermitState::Granted);
                out.lease_ms = self.lease_ms;
            }
            Answer::Waiting { place, of, why } => {
                out.set_state(wire::PermitState::Waiting);
                (out.place, out.waiting, out.reason) = (small(place), small(of), why);
            }
            Answer::Stopped { why } => {
                out.set_state(wire::PermitState::Stopped);
                out.reason = why;
            }
        }
        out
    }
}

/// An ask as the brake takes it.
fn ask_of(node: &NodeName, ask: wire::PermitAsk) -> Result<Ask, Status> {
    let bad = |why: String| Status::invalid_argument(format!("PermitAsk.{why}"));
    let level = severity("severity", ask.severity).map_err(|e| bad(e.to_string()))?;
    let policy = Hash::from_slice(&ask.policy).map_err(|e| bad(format!("policy: {e}")))?;
    if ask.action_id.is_empty() || ask.action_id.len() > MAX_ID || ask.action_id.contains(char::is_control) {
        return Err(bad(format!(
            "action_id: is empty, longer than {MAX_ID} bytes, or has control characters"
        )));
    }
    if ask.mount.len() > MAX_PATH {
        return Err(bad(format!("mount: is longer than {MAX_PATH} bytes")));
    }
    Ok(Ask {
        node: node.clone(),
        action: ask.action_id,
        mount: label(&ask.mount),
        planned_bytes: ask.planned_bytes,
        planned_objects: ask.planned_objects,
        policy,
        severity: level,
        seconds_to_full: ask.seconds_to_full.filter(|s| s.is_finite()),
        cleaners: ask.cleaners.iter().take(MAX_CLEANERS).map(|c| plain(c, MAX_CLEANER)).collect(),
        acting: ask.acting,
        asked_boot_ns: ask.asked_boot_ns,
    })
}

/// A mount's path as the brake keeps it, by which it tells a node's mounts apart. One that is long, or has characters that a
/// journal would have to escape, is cut, with a digest of the whole: whoever mounts it keeps no node from its permit.
fn label(path: &str) -> String {
    if path.len() <= MAX_MOUNT && !path.contains(is_odd) {
        return path.to_owned();
    }
    let digest: [u8; 32] = Sha256::digest(path.as_bytes()).into();
    let digest = digest[..8].iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
    format!("{}…{digest}", plain(path, MAX_MOUNT))
}

/// The first of a text's characters that take `most` bytes, with nothing in it that a journal escapes.
fn plain(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if is_odd(c) { '?' } else { c };
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

fn is_odd(c: char) -> bool {
    c.is_control() || matches!(c, '"' | '\\')
}

/// Tells the brake's owner what a node has in force, once it is time.
async fn report(brake: &Handle, held: Option<&Unknown>, at: Instant) {
    tokio::time::sleep_until(at).await;
    brake.unknown(held).await;
}

/// The stop that a node says it has in force.
fn stop_of(node: &NodeName, held: Option<&wire::BrakeHeard>) -> Option<Unknown> {
    held.filter(|held| held.stopped).map(|held| Unknown {
        node: node.clone(),
        state: Past { revision: held.revision, lineage: held.lineage },
        reason: held.reason.chars().filter(|c| !c.is_control()).take(MAX_WHY_CHARS).collect(),
    })
}

fn brake(view: &View) -> wire::Brake {
    let mut out = wire::Brake {
        revision: view.revision,
        lineage: view.lineage,
        reason: view.reason.clone(),
        proven: view.proven.iter().map(|h| h.0.to_vec().into()).collect(),
        ..wire::Brake::default()
    };
    out.set_state(match (view.tripped, view.paused) {
        (true, _) => wire::BrakeState::Tripped,
        (false, true) => wire::BrakeState::Paused,
        (false, false) => wire::BrakeState::Open,
    });
    out
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
