//! What the brake stands on: stops, permits that are out, and how policies did. A fold over decisions, and pure.
//!
//! Invariants: folding the same decisions in the same order gives the same ledger, live and at a rebuild; a decision
//! that is folded twice changes nothing the second time, but for counts of stops that a person repeats. A frame
//! that cannot be read and may have been a stop is folded as one ([`Ledger::apply_unread`]).
//!
//! A revision alone does not tell two histories apart: a collector that is restored from an older copy counts on from
//! there. So each stop and release also makes a *lineage*, a digest of all before it; nodes give back what they were
//! told, and a pair that is not among [`Ledger::told`] was said by a history that is lost here.
//!
//! Bounds: [`MAX_PLACES`](super::MAX_PLACES) nodes have places, [`MAX_PERMITS`] permits are out, [`MAX_PERMITS_OF_NODE`] of one node ([`MAX_AT_WORK_OF_NODE`] at work), [`MAX_ENDED`]
//! are remembered for a while after, [`MAX_POLICIES`] policies are that went well on several nodes and as many that did on one, of
//! those [`MAX_POLICIES_OF_NODE`] of each node (the one unused for longest goes, and begins anew as a new one; what one node says takes no
//! room from what several proved), [`MAX_TOLD`] states are.

use std::collections::BTreeSet;

use dogwatch::record::{ActionState, Hash, NodeName, RecordRef, Subject};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::STOPPED_RULE;
use crate::incident::COLLECTOR;
use crate::say::finding_id;
use crate::store::decision::{Cause, Decision, Past, PermitEnd, What};

/// Most permits that are out: some for each place, since a node may have several mounts.
pub const MAX_PERMITS: usize = 1_000;
/// Most permits of one node that are out, those included whose cleanup is over and watched: a disk that is full again
/// within seconds is cleaned as often.
pub const MAX_PERMITS_OF_NODE: usize = 256;
/// Most of them whose cleanup is not over: a node has fewer mounts with roots of cleaners, and one that makes mounts up
/// takes no room from others.
pub const MAX_AT_WORK_OF_NODE: usize = 8;
/// A permit that ended is remembered for so long: what goes wrong late on its node stops the rest all the same.
pub const LATE_NS: u64 = 600 * 1_000_000_000;
/// Permits that are remembered so at most; the newest.
pub const MAX_ENDED: usize = 1_000;
/// Most policies that are remembered to have gone well on several nodes, and as many that did on one so far: pools of nodes
/// have some each, and each roll-out brings another.
pub const MAX_POLICIES: usize = 64;
/// Of those that went well on one node, the most by the word of the same: it runs one at a time.
pub const MAX_POLICIES_OF_NODE: usize = 4;
/// Longest reason that is kept, in characters: it is repeated to every node.
pub(super) const MAX_REASON_CHARS: usize = 300;
/// States that are remembered here to have been told; older ones the index knows ([`Store::brake_told`]).
///
/// [`Store::brake_told`]: crate::store::Store::brake_told
pub const MAX_TOLD: usize = 128;
/// Nodes that are remembered to have stopped everything by their word alone: far more than lie, or are put back.
const MAX_CLAIMED: usize = 1_000;
/// Nodes that are remembered to have proven a policy: more than may be asked for.
pub const MAX_PROVERS: usize = 100;
/// Stops and releases of which a repetition is known: more than wait to be durable at once.
const MAX_STEPS: usize = 128;
/// A node may be ahead of the collector's revision by so much and be believed: nobody stops and releases so often, and
/// what a liar says must not use the numbers up.
pub const MAX_AHEAD: u64 = 1_000_000;

/// The whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Grows with every stop and release.
    pub revision: u64,
    /// Since a person paused cleanups.
    pub paused: Option<Stopped>,
    /// Since something went wrong.
    pub tripped: Option<Stopped>,
    /// How often that happened.
    pub tripped_total: u64,
    /// Permits that are out, oldest first.
    pub permits: Vec<Permit>,
    /// How policies did, the one used last at the end.
    pub policies: Vec<Proof>,
    /// When anything was decided here last, wall ns of the collector.
    pub newest_wall_ns: i64,
    /// Of all stops and releases so far; 0 before the first.
    pub lineage: u64,
    /// The newest states that nodes were told, the oldest first; those of a lost history that were dealt with are among them.
    pub told: Vec<Past>,
    /// Nodes that stopped everything by a state that nobody else knew, the newest last: from then on the word of one of
    /// them counts only with that of another node.
    #[serde(default)]
    pub claimed: Vec<NodeName>,
    /// Digests of the newest stops and releases, so that one that stands twice counts once.
    steps: Vec<u64>,
    /// Permits that ended within [`LATE_NS`] before the last one did and since cleanups were stopped last, the oldest first.
    #[serde(default)]
    pub ended: Vec<Ended>,
}

/// A stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// When, wall ns of the collector.
    pub wall_ns: i64,
    /// `collector`, or a person.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The finding that says so; empty of a pause.
    pub finding: String,
    /// Whose cleanup it was about.
    pub node: Option<NodeName>,
    /// Which.
    pub action: Option<String>,
    /// What shows it.
    pub cites: Vec<RecordRef>,
    /// On what of that node the collector decided it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// A permit that is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// Whose.
    pub node: NodeName,
    /// For which action.
    pub action: String,
    /// On which mount.
    pub mount: String,
    /// Under which policy.
    pub policy: Hash,
    /// Since when, wall ns of the collector.
    pub granted_wall_ns: i64,
    /// What it may free.
    pub planned_bytes: u64,
    /// Whether the policy was not proven then.
    pub canary: bool,
    /// Whether the cleanup is over, and the node is watched.
    pub returned: bool,
    /// What it freed; a cleanup that freed nothing proves nothing.
    pub freed_bytes: u64,
    /// Whether cleanups were stopped since: then it proves nothing either, however it ends.
    pub doubted: bool,
}

/// A permit that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whose it was.
    pub node: NodeName,
    /// For which action.
    pub action: String,
    /// Since when, wall ns of the collector.
    pub granted_wall_ns: i64,
    /// Until when, likewise.
    pub wall_ns: i64,
}

/// How a policy did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Which.
    pub policy: Hash,
    /// Cleanups under it that went well since cleanups were stopped last.
    pub successes: u32,
    /// The first nodes on which they did, at most [`MAX_PROVERS`].
    pub nodes: BTreeSet<NodeName>,
}

impl Ledger {
    /// Why nothing may be cleaned, if so; a trip before a pause.
    pub fn stopped(&self) -> Option<&Stopped> {
        self.tripped.as_ref().or(self.paused.as_ref())
    }

    /// Cleanups that went well under `policy`.
    pub fn successes(&self, policy: &Hash) -> u32 {
        self.policies.iter().find(|p| p.policy == *policy).map_or(0, |p| p.successes)
    }

    /// How a policy did; `None`: nothing went well under it yet.
    pub fn proof(&self, policy: &Hash) -> Option<&Proof> {
        self.policies.iter().find(|p| p.policy == *policy)
    }

    /// Whether a state that a node has in force is one that this history led to, or one that was dealt with.
    pub fn knows(&self, state: Past) -> bool {
        knows(self.revision, &self.told, state)
    }

    /// Whether a decision can deal with a state that is not known: what is further ahead nobody can have been told.
    pub(super) fn may_follow(&self, state: Past) -> bool {
        state.revision <= self.revision.saturating_add(MAX_AHEAD)
    }

    /// The permit of an action.
    pub fn permit(&self, node: &NodeName, action: &str) -> Option<&Permit> {
        self.permits.iter().find(|p| p.node == *node && p.action == action)
    }

    /// How many permits of a node are out, and for how many of those the cleanup is not over.
    pub fn permits_of(&self, node: &NodeName) -> (usize, usize) {
        let its = self.permits.iter().filter(|p| p.node == *node);
        its.fold((0, 0), |(out, at_work), p| (out + 1, at_work + usize::from(!p.returned)))
    }

    /// Folds one decision; those of others change nothing.
    pub fn apply(&mut self, decision: &Decision) {
        let before = std::mem::replace(&mut self.newest_wall_ns, decision.wall_ns);
        let stop = |reason: &str| Stopped {
            wall_ns: decision.wall_ns,
            by: decision.actor.clone(),
            reason: reason.to_owned(),
            finding: String::new(),
            node: None,
            action: None,
            cites: Vec::new(),
            cause: None,
        };
        match &decision.what {
            What::BrakePaused { reason } => {
                self.paused = Some(stop(reason));
                self.step(decision.wall_ns, &decision.actor, "pause", reason, &[]);
            }
            What::BrakeTripped { reason, finding, node, action, cites, past, cause } => {
                let stopped = Stopped {
                    finding: finding.clone(),
                    node: node.clone(),
                    action: action.clone(),
                    cites: cites.clone(),
                    cause: cause.clone(),
                    ..stop(reason)
                };
                self.trip(stopped);
                if let (Some(_), Some(node)) = (past, node) {
                    self.claim(node);
                }
                self.step(decision.wall_ns, &decision.actor, "trip", reason, past.as_slice());
            }
            What::BrakeReleased { reason, past } => {
                (self.paused, self.tripped) = (None, None);
                self.step(decision.wall_ns, &decision.actor, "release", reason, past);
            }
            What::PermitGranted { node, action, mount, policy, planned_bytes, canary, .. } => {
                if self.permit(node, action).is_some()
                    || self.permits.len() >= MAX_PERMITS
                    || self.permits_of(node).0 >= MAX_PERMITS_OF_NODE
                {
                    return;
                }
                self.permits.push(Permit {
                    node: node.clone(),
                    action: action.clone(),
                    mount: mount.clone(),
                    policy: *policy,
                    granted_wall_ns: decision.wall_ns,
                    planned_bytes: *planned_bytes,
                    canary: *canary,
                    returned: false,
                    freed_bytes: 0,
                    doubted: false,
                });
            }
            What::PermitReturned { node, action, state, freed_bytes } => {
                if *state == ActionState::Refused {
                    self.permits.retain(|p| !(p.node == *node && p.action == *action));
                } else if let Some(permit) =
                    self.permits.iter_mut().find(|p| p.node == *node && p.action == *action)
                {
                    permit.returned = true;
                    permit.freed_bytes = *freed_bytes;
                }
            }
            What::PermitEnded { node, action, how } => {
                let at = self.permits.iter().position(|p| p.node == *node && p.action == *action);
                let Some(permit) = at.map(|at| self.permits.remove(at)) else { return };
                if !permit.doubted {
                    self.remember(&permit, decision.wall_ns);
                }
                if *how == PermitEnd::Well && permit.freed_bytes > 0 && !permit.doubted {
                    self.prove(permit.policy, permit.node);
                }
            }
            _ => self.newest_wall_ns = before,
        }
    }

    /// Folds a decision that stands in the journal and cannot be read, where it may have been a stop. Its time is that of
    /// the last one before it. Whoever lets cleanups go on afterwards has dealt with it.
    pub fn apply_unread(&mut self, why: &str) {
        if self.tripped.is_some() {
            return;
        }
        // Nothing was decided before it: the moment that clocks begin with, and not zero, which is said of what is open.
        let wall_ns = self.newest_wall_ns.max(1);
        let reason = format!(
            "a decision in the collector's journal cannot be read ({why}) and may have been a stop; see `dogwatch get actions` and \
             `get incidents` for what went before, then `dogwatch brake release`"
        );
        self.trip(Stopped {
            wall_ns,
            by: COLLECTOR.to_owned(),
            reason: reason.clone(),
            finding: finding_id(STOPPED_RULE, &Subject::new("fleet", "cleanup"), wall_ns),
            node: None,
            action: None,
            cites: Vec::new(),
            cause: None,
        });
        self.step(wall_ns, COLLECTOR, "unread", &reason, &[]);
    }

    fn trip(&mut self, stopped: Stopped) {
        self.tripped = Some(stopped);
        self.tripped_total += 1;
        // Whatever was proven: something is not as it was when it was.
        self.policies.clear();
        self.permits.iter_mut().for_each(|p| p.doubted = true);
        // Whoever releases has looked.
        self.ended.clear();
    }

    fn remember(&mut self, permit: &Permit, wall_ns: i64) {
        self.ended.retain(|e| wall_ns.saturating_sub(e.wall_ns) < LATE_NS as i64);
        self.ended.push(Ended {
            node: permit.node.clone(),
            action: permit.action.clone(),
            granted_wall_ns: permit.granted_wall_ns,
            wall_ns,
        });
        self.ended.drain(..self.ended.len().saturating_sub(MAX_ENDED));
    }

    fn claim(&mut self, node: &NodeName) {
        self.claimed.retain(|n| n != node);
        self.claimed.push(node.clone());
        self.claimed.drain(..self.claimed.len().saturating_sub(MAX_CLAIMED));
    }

    /// Numbers the state that a stop or release led to. One that stands in the journal twice, since nobody knew whether the
    /// first try got there, is the same state. `past`: states of a lost history that are dealt with by it.
    fn step(&mut self, wall_ns: i64, actor: &str, kind: &str, reason: &str, past: &[Past]) {
        let words = [actor.as_bytes(), kind.as_bytes(), reason.as_bytes()];
        // One without a past has zeros in its place.
        let none = [Past { revision: 0, lineage: 0 }];
        let others = if past.is_empty() { &none } else { past };
        let numbers = others.iter().flat_map(|p| [p.revision.to_le_bytes(), p.lineage.to_le_bytes()]);
        let numbers: Vec<u8> = std::iter::once(wall_ns.to_le_bytes()).chain(numbers).flatten().collect();
        let this = digest_of(&[&numbers, words[0], words[1], words[2]]);
        if self.steps.contains(&this) {
            return;
        }
        self.steps.push(this);
        self.steps.drain(..self.steps.len().saturating_sub(MAX_STEPS));
        let follow: Vec<Past> = past.iter().copied().filter(|p| self.may_follow(*p)).collect();
        for state in follow {
            self.told.push(state);
            self.revision = self.revision.max(state.revision);
        }
        self.revision += 1;
        // Zero says that nothing is known.
        let (lineage, revision) = (self.lineage.to_le_bytes(), self.revision.to_le_bytes());
        self.lineage = digest_of(&[&lineage, &revision, &this.to_le_bytes()]).max(1);
        self.told.push(Past { revision: self.revision, lineage: self.lineage });
        let over = self.told.len().saturating_sub(MAX_TOLD);
        self.told.drain(..over);
    }

    fn prove(&mut self, policy: Hash, node: NodeName) {
        let at = self.policies.iter().position(|p| p.policy == policy);
        let mut proof = match at {
            Some(at) => self.policies.remove(at),
            None => Proof { policy, successes: 0, nodes: BTreeSet::new() },
        };
        proof.successes = proof.successes.saturating_add(1);
        if proof.nodes.len() < MAX_PROVERS {
            proof.nodes.insert(node.clone());
        }
        self.make_room(&proof, &node);
        self.policies.push(proof);
    }

    /// Room for what `node` proved just now: its own goes before others', and what several nodes proved only for the like.
    fn make_room(&mut self, proof: &Proof, node: &NodeName) {
        let is_single = |p: &Proof| p.nodes.len() < 2;
        let alike = |p: &Proof| is_single(p) == is_single(proof);
        let its = |p: &Proof| is_single(p) && p.nodes.contains(node);
        let count = |is: &dyn Fn(&Proof) -> bool| self.policies.iter().filter(|p| is(p)).count();
        let is_full = count(&alike) >= MAX_POLICIES;
        let at = if is_single(proof) && (is_full || count(&its) >= MAX_POLICIES_OF_NODE) {
            self.policies.iter().position(its).or_else(|| self.policies.iter().position(alike))
        } else if is_full {
            self.policies.iter().position(alike)
        } else {
            None
        };
        at.map(|at| self.policies.remove(at));
    }
}

/// The first 8 bytes of the SHA-256 of `parts`, each with its length.
fn digest_of(parts: &[&[u8]]) -> u64 {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().first_chunk().map_or(1, |bytes| u64::from_le_bytes(*bytes))
}

/// [`Ledger::knows`] by what nodes were told.
pub(super) fn knows(revision: u64, told: &[Past], state: Past) -> bool {
    // A node of an older version, or one that was told of a stop before the stop had its place, knows no lineage.
    if state.lineage == 0 { state.revision <= revision } else { told.contains(&state) }
}

/// Why nothing may be cleaned, in words for whoever waits.
pub(super) fn stopped_words(ledger: &Ledger, stopped: &Stopped) -> String {
    let how = if ledger.tripped.is_some() { "stopped everywhere" } else { "paused" };
    format!("cleanups are {how} by {}: {}", stopped.by, stopped.reason)
}
