//! Who may clean now, who waits, and what stops everything. A pure state machine over a [`Ledger`].
//!
//! Its owner asks it what is to be decided ([`Brake::due`], [`Brake::grants`], [`Brake::observe_action`],
//! [`Brake::observe_finding`]), makes that durable and gives it back ([`Brake::apply`]); nothing takes effect before.
//!
//! Invariants
//! - Never more nodes have places than [`Brake::limit`], as it was when the last of them got its own.
//! - Nothing is granted while cleanups are stopped.
//! - A policy that is not proven has at most one place.
//! - Who waits for [`STARVED_NS`] is overtaken only by those who have waited for longer; before that the most urgent is first.
//!   A node that had a place waits from the end of that on, whatever it asked for before: one that asks for many mounts has no
//!   more turns than one that asks for one. Whose turn it is cleans what it has waited with for longest, if that is so long.
//! - A node that has a place gets another permit only while no other node could have the turn, and never more than
//!   [`MAX_AT_WORK_OF_NODE`](super::ledger::MAX_AT_WORK_OF_NODE) at work; whoever has no place yet finds room for one.
//! - A node whose permits come to nothing rests before the next one, and keeps nobody waiting meanwhile ([`super::pace`]).
//! - What a node was ill with before its cleanup began is not the cleanup's doing: order is that of receipt here, and no clock
//!   of a node's counts.
//! - A cleanup whose end was seen does not lapse because the end could not be kept: it is decided again.
//!
//! Time is a monotonic clock's; a restart gives every permit that is out a whole new lease or watch.

mod late;
mod turn;
mod unheld;
mod watch;
mod what;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dogwatch::record::{
    Action, ActionState, Finding, FindingState, Hash, LEASE_GRACE, NodeName, RecordRef, Severity,
};

use super::fleet::Fleet;
use super::grave::Grave;
use super::judge::{is_silence, is_unheld, may_yet_count, wrong_action, wrong_finding};
use super::ledger::{Ledger, Permit, Proof, stopped_words};
use super::pace::Paces;
use super::{Answer, Ask, MAX_PLACES, Settings};
use crate::store::decision::{Decision, PermitEnd, What};
use crate::wording::span;
use late::Recent;
use unheld::Unheld;
use what::{blame, by_cleanup, by_finding, is_trip, trip};

const SECOND_NS: u64 = 1_000_000_000;
/// Asks that wait at most: each mount of the largest fleet that fills at once is far below.
pub const MAX_WAITING: usize = 20_000;
/// Mounts of one node that wait at most: one that asks for more keeps no others out.
pub const MAX_WAITING_OF_NODE: usize = 32;
/// Longest that a permit is renewed before its node says that it begins.
pub const MAX_BEGIN_NS: u64 = 120 * SECOND_NS;
/// Longest that a permit is renewed in all: an executor is waited for 9 min.
pub const MAX_ACTING_NS: u64 = 900 * SECOND_NS;
/// An ask that was not repeated for so long lapses; agents repeat theirs every few seconds.
pub const ASK_LAPSE_NS: u64 = 20 * SECOND_NS;
/// Who waits for so long goes first, however urgent others are.
pub const STARVED_NS: u64 = 600 * SECOND_NS;
/// An ask that lapsed keeps its turn for so long: between two plans a survey of a slow disk takes minutes.
pub const TURN_KEPT_NS: u64 = 300 * SECOND_NS;
/// What a permit lasts beyond its lease.
pub const GRACE_NS: u64 = LEASE_GRACE.as_secs() * SECOND_NS;

/// An ask that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What.
    pub ask: Ask,
    /// Since when.
    pub since_ns: u64,
    /// Since when it is its turn that it waits for: from then on, or from the end of its node's last place if that is later.
    turn_ns: u64,
    heard_ns: u64,
    /// Asked since it was told its place last.
    untold: bool,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    /// End of the lease with its grace, or of the watch.
    until_ns: u64,
    /// When it was granted, or heard of first.
    since_ns: u64,
    /// Whether the node said that it begins: what it found before is not the cleanup's doing.
    begun: bool,
    /// How it said that it ended, as long as that is not kept: the state, and what it freed.
    ended: Option<(ActionState, u64)>,
    /// When its node was heard of last, since the permit is known here.
    heard_ns: u64,
    /// Whether its mount does not hold.
    unheld: bool,
}

impl Live {
    fn new(now_ns: u64, until_ns: u64, begun: bool) -> Self {
        Self { until_ns, since_ns: now_ns, begun, ended: None, heard_ns: 0, unheld: false }
    }
}

/// The turn of an ask that lapsed.
#[derive(Debug, Clone, Copy)]
struct Turn {
    since_ns: u64,
    turn_ns: u64,
    heard_ns: u64,
}

type Key = (NodeName, String);

/// The machine.
#[derive(Debug, Clone)]
pub struct Brake {
    settings: Settings,
    ledger: Ledger,
    fleet: Fleet,
    /// By node and mount: a plan that is made anew keeps its turn.
    waiting: BTreeMap<Key, Waiting>,
    /// Likewise, of those that lapsed.
    turns: BTreeMap<Key, Turn>,
    /// Findings that speak against a cleanup.
    grave: Grave,
    /// Of the ledger's permits, by node and action.
    live: BTreeMap<Key, Live>,
    /// Those that ended a while ago.
    recent: VecDeque<Recent>,
    /// Whose mounts did not hold lately.
    unheld: BTreeMap<NodeName, Unheld>,
    paces: Paces,
}

impl Brake {
    /// Goes on from what was decided before.
    pub fn new(settings: Settings, ledger: Ledger, now_ns: u64) -> Self {
        let mut brake = Self {
            settings,
            ledger: Ledger::default(),
            fleet: Fleet::default(),
            waiting: BTreeMap::new(),
            turns: BTreeMap::new(),
            grave: Grave::default(),
            live: BTreeMap::new(),
            recent: VecDeque::new(),
            unheld: BTreeMap::new(),
            paces: Paces::default(),
        };
        brake.take_up(ledger, now_ns);
        brake
    }

    /// Forgets what it knew of permits, for what the store holds.
    pub fn take_up(&mut self, ledger: Ledger, now_ns: u64) {
        let mut before = std::mem::take(&mut self.live);
        for permit in &ledger.permits {
            let key = (permit.node.clone(), permit.action.clone());
            let for_ns = if permit.returned { self.watch_ns() } else { self.lease_ns() + GRACE_NS };
            // Nobody remembers whether it began: what is found from now on counts.
            let fresh = Live::new(now_ns, now_ns + for_ns, true);
            let live = before.remove(&key).unwrap_or(fresh);
            self.live.insert(key, live);
        }
        let gone = std::mem::replace(&mut self.ledger, ledger);
        for ((node, action), live) in before {
            if let Some(permit) = gone.permit(&node, &action) {
                self.remember(permit, &live, now_ns);
                self.turn_over(&node, now_ns);
            }
        }
        if self.ledger.tripped.is_some() {
            self.doubt_recent();
        }
    }

    /// Says of a permit that an earlier run gave whether its node had begun.
    pub fn set_begun(&mut self, node: &NodeName, action: &str, begun: bool) {
        if let Some(live) = self.live.get_mut(&(node.clone(), action.to_owned())) {
            live.begun = begun;
        }
        let is_it = |r: &&mut Recent| r.node == *node && r.action == action;
        self.recent.iter_mut().filter(is_it).for_each(|r| r.begun |= begun);
    }

    /// What it stands on.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How it is set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes the nodes that there are, of which a share may have places, and what they run.
    pub fn set_fleet(&mut self, fleet: Fleet) {
        self.fleet = fleet;
    }

    /// Nodes that may have a place at a time.
    pub fn limit(&self) -> usize {
        // A share of a fleet is far below where a float rounds.
        let share = (self.fleet.there() as f64 * self.settings.max_share) as usize;
        share.max(self.settings.max_nodes as usize).min(MAX_PLACES as usize)
    }

    /// Nodes that have a place.
    pub fn places(&self) -> BTreeSet<&NodeName> {
        self.ledger.permits.iter().map(|p| &p.node).collect()
    }

    /// Policies under which enough went well.
    pub fn proven(&self) -> Vec<Hash> {
        self.ledger.policies.iter().filter(|p| self.suffices(p)).map(|p| p.policy).collect()
    }

    fn is_proven(&self, policy: &Hash) -> bool {
        self.settings.canary_successes == 0 || self.ledger.proof(policy).is_some_and(|p| self.suffices(p))
    }

    fn suffices(&self, proof: &Proof) -> bool {
        let needed = self.settings.canary_successes;
        proof.successes >= needed && (needed == 0 || proof.nodes.len() >= self.provers_needed(&proof.policy))
    }

    /// Nodes on which cleanups must have gone well before a policy is proven: no more than may run it.
    pub fn provers_needed(&self, policy: &Hash) -> usize {
        let wanted = self.settings.canary_nodes as usize;
        let none = BTreeSet::new();
        let provers = self.ledger.proof(policy).map_or(&none, |p| &p.nodes);
        match self.fleet.may_run(policy, provers) {
            // Before anybody counted, nobody knows that there are fewer; who asks next runs it, too.
            0 => wanted,
            nodes => wanted.min(nodes),
        }
    }

    fn watch_ns(&self) -> u64 {
        u64::try_from(self.settings.watch.as_nanos()).unwrap_or(u64::MAX)
    }

    fn lease_ns(&self) -> u64 {
        u64::try_from(self.settings.lease.as_nanos()).unwrap_or(u64::MAX)
    }

    /// A node asks, or repeats what it asked. `None`: it waits, and [`Brake::news`] says where.
    pub fn ask(&mut self, ask: Ask, now_ns: u64) -> Option<Answer> {
        // Before what it runs is counted anew: it must not pass for proven by others alone.
        self.fleet.put(ask.node.clone(), ask.policy);
        let held = self.ledger.permit(&ask.node, &ask.action).is_some_and(|p| !p.returned);
        let mut outlived = false;
        if held {
            // Also while cleanups are stopped: a node that obeys says so after the object at which it is.
            let until_ns = now_ns + self.lease_ns() + GRACE_NS;
            let key = (ask.node.clone(), ask.action.clone());
            let live = self.live.entry(key).or_insert(Live::new(now_ns, until_ns, false));
            // Its record may lie behind minutes of others: what it says here counts before that.
            live.begun |= ask.acting;
            let longest = if live.begun { MAX_ACTING_NS } else { MAX_BEGIN_NS };
            outlived = now_ns.saturating_sub(live.since_ns) >= longest;
            if !outlived {
                live.until_ns = live.until_ns.max(until_ns);
            }
        }
        if let Some(stopped) = self.ledger.stopped() {
            let why = stopped_words(&self.ledger, stopped);
            if !held && !ask.acting {
                // It keeps its turn for when cleanups go on.
                self.wait(ask, now_ns);
            }
            return Some(Answer::Stopped { why });
        }
        if outlived {
            let why = format!("the permit for {} lasted as long as one may", ask.action);
            return Some(Answer::Stopped { why });
        }
        if held {
            return Some(Answer::Granted);
        }
        if ask.acting {
            let why = format!("the collector knows no permit for {}", ask.action);
            return Some(Answer::Stopped { why });
        }
        let (node, mount) = (ask.node.clone(), ask.mount.clone());
        if !self.wait(ask, now_ns) {
            let why = format!("{MAX_WAITING} cleanups wait already");
            return Some(Answer::Waiting { place: MAX_WAITING, of: MAX_WAITING, why });
        }
        if let Some(waiting) = self.waiting.get_mut(&(node, mount)) {
            waiting.untold = true;
        }
        None
    }

    /// Forgets what a node waits for that can use no place.
    pub fn withdraw(&mut self, node: &NodeName) {
        self.waiting.retain(|(of, _), _| of != node);
    }

    fn wait(&mut self, ask: Ask, now_ns: u64) -> bool {
        let key = (ask.node.clone(), ask.mount.clone());
        if let Some(waiting) = self.waiting.get_mut(&key) {
            (waiting.ask, waiting.heard_ns) = (ask, now_ns);
            return true;
        }
        let of_node = (ask.node.clone(), String::new())..;
        let its = self.waiting.range(of_node).take_while(|((node, _), _)| *node == ask.node).count();
        if self.waiting.len() >= MAX_WAITING || its >= MAX_WAITING_OF_NODE {
            return false;
        }
        // A plan that was made anew takes up the turn of the one before it.
        let (since_ns, turn_ns) =
            self.turns.remove(&key).map_or((now_ns, now_ns), |turn| (turn.since_ns, turn.turn_ns));
        self.waiting.insert(key, Waiting { ask, since_ns, turn_ns, heard_ns: now_ns, untold: false });
        true
    }

    /// Asks that are not repeated lapse, and their turns later.
    fn lapse(&mut self, now_ns: u64) {
        let lapsed: Vec<_> =
            self.waiting.extract_if(.., |_, w| now_ns.saturating_sub(w.heard_ns) >= ASK_LAPSE_NS).collect();
        for ((node, mount), waiting) in lapsed {
            let from = (node.clone(), String::new())..;
            let its = self.turns.range(from).take_while(|((of, _), _)| *of == node).count();
            if its < MAX_WAITING_OF_NODE && self.turns.len() < MAX_WAITING {
                let Waiting { since_ns, turn_ns, heard_ns, .. } = waiting;
                let turn = Turn { since_ns, turn_ns, heard_ns };
                self.turns.insert((node, mount), turn);
            }
        }
        self.turns.retain(|_, turn| now_ns.saturating_sub(turn.heard_ns) < TURN_KEPT_NS);
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Nodes that still have a place although the lease or watch of a permit ended before `before_ns`, not counted those that
    /// were not heard of since ([`Brake::unheard`]).
    pub fn overdue(&self, before_ns: u64) -> usize {
        self.nodes_of(|p| {
            let live = self.live.get(&(p.node.clone(), p.action.clone()));
            live.is_some_and(|l| l.until_ns < before_ns && !p.awaits_word(l))
        })
    }

    fn nodes_of(&self, is: impl Fn(&&Permit) -> bool) -> usize {
        self.ledger.permits.iter().filter(is).map(|p| &p.node).collect::<BTreeSet<_>>().len()
    }

    /// What follows from time alone: places that are free again, and permits that ended without their outcome. To be
    /// asked for a moment of which everything that was acknowledged then has been observed.
    pub fn due(&mut self, now_ns: u64) -> Vec<What> {
        self.lapse(now_ns);
        self.recent.retain(|r| now_ns < r.until_ns);
        self.forget_unheld(now_ns);
        self.paces.forget(now_ns);
        let mut out = Vec::new();
        for permit in &self.ledger.permits {
            let key = (permit.node.clone(), permit.action.clone());
            if let Some((state, freed_bytes)) =
                self.live.get(&key).and_then(|l| l.ended).filter(|_| !permit.returned)
            {
                // Its end is known, and could not be kept.
                out.push(What::PermitReturned { node: key.0, action: key.1, state, freed_bytes });
                continue;
            }
            if self.live.get(&key).is_some_and(|l| now_ns < l.until_ns) {
                continue;
            }
            // Never begun, as far as anybody heard: the plan was given up, or the agent went away before.
            let unused = self.live.get(&key).is_some_and(|l| !l.begun) && !permit.returned;
            let Some(how) = Self::end_of(permit, self.live.get(&key), now_ns) else { continue };
            if !permit.returned && !unused && self.ledger.tripped.is_none() && out.iter().all(|w| !is_trip(w))
            {
                let why = format!(
                    "node {} has not said how its cleanup {} ended, {} after it was heard of last",
                    permit.node,
                    permit.action,
                    span(i64::try_from((self.lease_ns() + GRACE_NS) / SECOND_NS).unwrap_or(i64::MAX))
                );
                out.push(trip(why, permit, Vec::new()));
            }
            out.push(What::PermitEnded { node: key.0, action: key.1, how });
        }
        out
    }

    /// An action of a node in a new state, and where its record stands.
    pub fn observe_action(&mut self, node: &NodeName, action: &Action, cite: RecordRef) -> Vec<What> {
        let Some(permit) = self.ledger.permit(node, &action.id).filter(|p| !p.returned).cloned() else {
            return self.observe_late(node, action, cite);
        };
        let state = action.state;
        // What failed proves its policy by nothing that it freed.
        let freed_bytes = action.freed_bytes.filter(|_| state == ActionState::Done).unwrap_or(0);
        let over = matches!(state, ActionState::Done | ActionState::Failed | ActionState::Refused);
        if let Some(live) = self.live.get_mut(&(node.clone(), action.id.clone())) {
            live.begun |= state == ActionState::Started;
            live.ended = live.ended.or(over.then_some((state, freed_bytes)));
        }
        if !over {
            return Vec::new();
        }
        let mut out =
            vec![What::PermitReturned { node: node.clone(), action: action.id.clone(), state, freed_bytes }];
        if let Some(why) = wrong_action(action).filter(|_| action.state != ActionState::Refused)
            && self.may_trip(node, &action.id)
        {
            out.push(trip(format!("node {node}: {why}"), &permit, vec![cite]));
        }
        out
    }

    /// Whether what a node says of its cleanup may stop everything: neither while it is stopped nor once that was judged.
    fn may_trip(&self, node: &NodeName, action: &str) -> bool {
        self.ledger.tripped.is_none() && !self.grave.is_judged(node, action)
    }

    /// A finding about a node in a new state, in the order in which they were received; `cite`: where its record stands,
    /// where it has one. One that holds already when a cleanup begins is not news, whatever is said of it again.
    pub fn observe_finding(
        &mut self,
        node: &NodeName,
        finding: &Finding,
        cite: Option<RecordRef>,
    ) -> Vec<What> {
        let Some(why) = wrong_finding(finding) else {
            // Of a task that hangs the kernel may say again what was known better.
            if finding.state == FindingState::Cleared || finding.severity < Severity::High {
                self.grave.forget(node, &finding.id);
            } else if is_unheld(finding) {
                // A pod fills it: that an agent that was started anew has forgotten which one is no news.
                self.grave.know_hearsay(node, &finding.id);
                self.prove_nothing(node, &finding.subject.name, "");
            } else if may_yet_count(finding) && self.to_blame(node).is_none() {
                // It hangs already. Where a cleanup may have brought it about, the scan's word is awaited.
                self.grave.know_hearsay(node, &finding.id);
            }
            return Vec::new();
        };
        if !self.know(node, &finding.id) {
            return Vec::new();
        }
        let cites: Vec<RecordRef> = cite.into_iter().collect();
        if is_unheld(finding) {
            return self.observe_unheld(node, finding, &why, cites);
        }
        let blamed = if is_silence(finding) {
            // It was heard of after its last watch.
            self.permits_to_blame(node).next().map(|p| p.action.as_str())
        } else {
            self.to_blame(node)
        };
        let Some(action) = blamed.map(str::to_owned) else { return Vec::new() };
        let cause = by_finding(finding, self.mount_of(node, &action));
        vec![blame(format!("node {node}: {why}"), node, &action, cites, cause)]
    }

    /// The cleanup of a node that what is found there now may be the doing of: one that began, at work or ended a while ago.
    fn to_blame(&self, node: &NodeName) -> Option<&str> {
        let permit = self.permits_to_blame(node).next().map(|p| p.action.as_str());
        let ended = |r: &&Recent| r.node == *node && r.begun && self.may_trip(node, &r.action);
        permit.or_else(|| self.recent.iter().rev().find(ended).map(|r| r.action.as_str()))
    }

    /// Of those whose permits are out, the newest first.
    fn permits_to_blame(&self, node: &NodeName) -> impl Iterator<Item = &Permit> {
        self.ledger.permits.iter().rev().filter(move |p| {
            p.node == *node
                && self.live.get(&(p.node.clone(), p.action.clone())).is_some_and(|l| l.begun)
                && self.may_trip(&p.node, &p.action)
        })
    }

    /// What speaks against a cleanup of a node that is no finding, where it may stop everything.
    pub fn blame(&self, node: &NodeName, action: &str, why: String) -> Option<What> {
        let cause = || by_cleanup(self.mount_of(node, action));
        self.may_trip(node, action).then(|| blame(why, node, action, Vec::new(), cause()))
    }

    /// Takes a finding that speaks against a cleanup as one that holds already; whether that is news.
    pub fn know(&mut self, node: &NodeName, finding: &str) -> bool {
        self.grave.know(node, finding)
    }

    /// The reverse of [`Brake::know`].
    pub fn forget(&mut self, node: &NodeName, finding: &str) {
        self.grave.forget(node, finding);
    }

    /// Takes a decision that is durable, or one that stops and must not wait for that.
    pub fn apply(&mut self, decision: &Decision, now_ns: u64) {
        let ended = match &decision.what {
            What::PermitEnded { node, action, .. } => self.ledger.permit(node, action).cloned(),
            _ => None,
        };
        let placed = match &decision.what {
            What::PermitEnded { node, .. } | What::PermitReturned { node, .. } => {
                Some(node).filter(|node| self.ledger.permits_of(node).0 > 0)
            }
            _ => None,
        };
        self.ledger.apply(decision);
        if let Some(node) = placed {
            self.turn_over(node, now_ns);
        }
        match &decision.what {
            What::PermitGranted { node, action, mount, .. } => {
                self.waiting.remove(&(node.clone(), mount.clone()));
                self.turns.remove(&(node.clone(), mount.clone()));
                let until_ns = now_ns + self.lease_ns() + GRACE_NS;
                let live = Live::new(now_ns, until_ns, false);
                self.live.entry((node.clone(), action.clone())).or_insert(live);
                self.paces.granted(node, now_ns);
            }
            What::PermitReturned { node, action, state, .. } => {
                let until_ns = now_ns + self.watch_ns();
                if let Some(live) = self.live.get_mut(&(node.clone(), action.clone())) {
                    live.until_ns = until_ns;
                    if *state == ActionState::Refused {
                        self.paces.came_to_nothing(node, now_ns);
                    }
                }
            }
            What::PermitEnded { node, action, how } => {
                let live = self.live.get(&(node.clone(), action.clone())).copied();
                if let (Some(live), Some(permit)) = (live, &ended) {
                    self.remember(permit, &live, now_ns);
                    match how {
                        PermitEnd::Well => self.paces.went_well(node),
                        PermitEnd::Lapsed if !live.begun => self.paces.came_to_nothing(node, now_ns),
                        PermitEnd::Lapsed => {}
                    }
                }
            }
            What::BrakeTripped { node, action, .. } => {
                self.doubt_recent();
                if let (Some(node), Some(action)) = (node, action) {
                    self.grave.judge(node, action);
                }
            }
            _ => {}
        }
        let ledger = &self.ledger;
        self.live.retain(|(node, action), _| ledger.permit(node, action).is_some());
    }
}
