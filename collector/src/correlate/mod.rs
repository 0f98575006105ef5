//! Correlation: which findings and actions belong to one incident, and when an incident is over.
//!
//! A pure state machine. It is told findings, actions and the time, and answers with [`Decision`]s; it applies its own
//! answers to itself at once. The caller makes them durable and publishes them in the order given.
//!
//! Rules
//! - A finding belongs to an incident of its node that is live, still has an active finding, or ended less than
//!   `rejoin` ago, if there is a reason: the same topic (mount, device, security, silence, …); the same mount, device, pod,
//!   cgroup or process named by a finding that is in it; or a known kinship, where one of both names nothing: a line about
//!   a full or broken disk and a disk, I/O that stands still (of the node, or tasks that hang in it) and a device, the
//!   node's memory and a pod's or cgroup's. Different mounts and devices are different incidents otherwise.
//! - What names nothing joins two things never: an incident that was opened without a name takes that of the first disk
//!   that joins, and from then on it is about that one. (The node's want of memory is the exception: it makes the kernel
//!   kill in any pod.)
//! - Otherwise a finding of `opens_at` or worse opens `inc-YYYY-MM-DD-NNN` (UTC day), taking along the lesser findings
//!   and the actions that belong to it and came before. A lesser finding joins a live incident and opens or reopens none.
//! - The title follows: whatever else an incident comes to be about is named in it.
//! - An action belongs to the incident of the finding that triggered it, else to the one of its node and mount.
//! - Severity is the worst that a piece has been. It falls only when a person says so, and then rises again only with
//!   something new: a finding that joins, or one that itself got worse.
//! - An incident resolves itself when every finding in it has been cleared for `quiet`. One that a person reopened waits
//!   until a finding has come and gone since.
//! - Observing the same state twice gives no decision the second time.
//! - Every piece has its reason in words.
//!
//! Bounds: [`MAX_PIECES`](crate::incident::MAX_PIECES) an incident (then another continues it), [`MAX_LIVE_PER_NODE`]
//! incidents a node (then the newest takes what comes, and says so), [`MAX_LOOSE_PER_NODE`] findings and actions that
//! wait for an incident (the oldest is forgotten; it stays in the store). What a finding costs does not grow with what is
//! remembered ([`known`]), and how much of a node is taken in an hour is bounded by whoever tells ([`allowance`]). So a
//! node can flood its own incidents only.
//!
//! Deliberately absent: findings about no known node. An incident is about nodes; a stranger that was refused is told by
//! `get findings`, and cannot make incidents at all. Correlation across nodes is absent as well.

pub mod allowance;
mod known;
mod placing;
mod topic;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use dogwatch::record::{Action, Finding, FindingState, NodeName, Severity};

use crate::incident::{COLLECTOR, Incident, IncidentState};
use crate::store::decision::{Decision, Piece, What};
use crate::store::row::{FindingRow, Unread};
use known::Known;
use topic::shown;
use waiting::{LooseAction, Waiting};

/// Most incidents of one node that are not resolved, before further findings are put to the newest of them.
pub const MAX_LIVE_PER_NODE: usize = 50;
/// Most findings, and most actions, that are remembered while they belong to no incident.
pub const MAX_LOOSE: usize = 10_000;
/// Most of one node among them: so many as one incident can take.
pub const MAX_LOOSE_PER_NODE: usize = 1_000;

const SECOND_NS: i64 = 1_000_000_000;

/// What correlation is tuned by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long after its end an incident takes a finding of its topic back, ns.
    pub rejoin_ns: i64,
    /// How long every finding must have been cleared before an incident resolves itself, ns.
    pub quiet_ns: i64,
    /// The least severity that opens an incident.
    pub opens_at: Severity,
}

impl Default for Policy {
    /// 15 min, 5 min, medium.
    fn default() -> Self {
        Self { rejoin_ns: 900 * SECOND_NS, quiet_ns: 300 * SECOND_NS, opens_at: Severity::Medium }
    }
}

type Key = (NodeName, String);

/// What is remembered of a finding.
#[derive(Debug, Clone)]
struct Seen {
    rule: String,
    topic: String,
    /// What it names ([`topic::links`]).
    links: Vec<String>,
    /// What it is about, where that has a name ([`topic::subject`]).
    subject: Option<String>,
    /// About the node as a whole, not a line of a log.
    of_node: bool,
    /// The title of an incident that it opens.
    title: String,
    severity: Severity,
    active: bool,
    raised_wall_ns: i64,
    /// By the collector's clock; `None` while active, or when nobody saw it clear.
    cleared_ns: Option<i64>,
    incident: Option<String>,
    /// In order of coming; given by [`Known::put`].
    number: u64,
}

/// The state machine. One owner; told everything in the order in which the store took it in.
#[derive(Debug)]
pub struct Correlator {
    policy: Policy,
    /// Live ones, and those resolved so lately that they may be rejoined.
    incidents: BTreeMap<String, Incident>,
    /// Which of them are of a node.
    of_node: BTreeMap<NodeName, BTreeSet<String>>,
    /// Nodes and ids of the actions in them.
    actions: BTreeSet<Key>,
    findings: Known,
    loose_actions: Waiting,
    /// Highest number given out on each UTC day.
    numbers: BTreeMap<String, u32>,
}

impl Correlator {
    /// Goes by another policy from now on; what was decided stays.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Continues from what the store holds: the incidents that are not resolved or may be rejoined, and the newest state of
    /// the findings that are active, both newest first. All others of an incident are taken for over.
    pub fn new<'f>(
        policy: Policy,
        incidents: Vec<Incident>,
        findings: impl IntoIterator<Item = &'f FindingRow>,
    ) -> Self {
        let mut this = Self {
            policy,
            incidents: BTreeMap::new(),
            of_node: BTreeMap::new(),
            actions: BTreeSet::new(),
            findings: Known::default(),
            loose_actions: Waiting::default(),
            numbers: BTreeMap::new(),
        };
        // The oldest first: a finding belongs to the incident that it joined last.
        for incident in incidents.into_iter().rev() {
            this.adopt(incident);
        }
        this.learn(findings);
        this
    }

    /// Numbers of these incidents are not given out again.
    pub fn never_again<'i>(&mut self, ids: impl IntoIterator<Item = &'i str>) {
        for (day, number) in ids.into_iter().filter_map(numbered) {
            match self.numbers.get_mut(day) {
                Some(highest) => *highest = number.max(*highest),
                None => drop(self.numbers.insert(day.to_owned(), number)),
            }
        }
    }

    /// Looks after an incident again that it had let go of; `active`: those of its findings that are, newest first.
    pub fn take_back<'f>(&mut self, incident: Incident, active: impl IntoIterator<Item = &'f FindingRow>) {
        self.adopt(incident);
        self.learn(active);
    }

    /// Findings of incidents that are active, of which nothing else is known.
    pub fn holding<'u>(&mut self, unread: impl IntoIterator<Item = &'u Unread>) {
        for Unread { node, id, severity } in unread {
            self.findings.change(&(node.clone(), id.clone()), |seen| {
                (seen.active, seen.severity) = (true, *severity);
            });
        }
    }

    /// Takes in how findings stand, newest first.
    fn learn<'f>(&mut self, findings: impl IntoIterator<Item = &'f FindingRow>) {
        let rows: Vec<&FindingRow> = findings.into_iter().collect();
        for row in rows.into_iter().rev() {
            let Some(node) = &row.node else { continue };
            let key = (node.clone(), row.finding.id.clone());
            let incident = self.findings.get(&key).and_then(|s| s.incident.clone());
            let active = row.finding.state != FindingState::Cleared;
            if incident.is_some() || active {
                self.remember(key, &row.finding, incident);
                self.findings.trim(node);
            }
        }
    }

    /// Whether `finding` of `node` may lead to more than that its time is noted: it is new, or back, or worse, and its
    /// incident is not live already.
    pub fn is_news(&self, node: &NodeName, finding: &Finding) -> bool {
        if finding.state == FindingState::Cleared {
            return false;
        }
        let Some(seen) = self.findings.get(&(node.clone(), finding.id.clone())) else { return true };
        let home = seen.incident.as_ref().and_then(|id| self.incidents.get(id));
        match home {
            Some(incident) if incident.state != IncidentState::Resolved => false,
            // What could have opened one and belongs to none was left out, or its incident is over.
            _ => !seen.active || finding.severity > seen.severity || finding.severity >= self.policy.opens_at,
        }
    }

    /// Whether `action` of `node` was not told before.
    pub fn is_new_action(&self, node: &NodeName, action: &Action) -> bool {
        !self.actions.contains(&(node.clone(), action.id.clone()))
            && !self.loose_actions.holds(node, &action.id)
    }

    /// Whether it still looks after an incident; it lets go of what is over and cannot be rejoined.
    pub fn knows(&self, id: &str) -> bool {
        self.incidents.contains_key(id)
    }

    /// Learns of a decision that a person took. Its own come back harmlessly.
    pub fn apply(&mut self, decision: &Decision) {
        if let Some(incident) = Incident::open(decision) {
            if !self.incidents.contains_key(&incident.id) {
                self.adopt(incident);
            }
            return;
        }
        let id = match &decision.what {
            What::IncidentJoined { id, .. }
            | What::IncidentSeverity { id, .. }
            | What::IncidentMoved { id, .. }
            | What::IncidentRetitled { id, .. }
            | What::NoteAdded { id, .. } => id,
            _ => return,
        };
        let Some(incident) = self.incidents.get_mut(id) else { return };
        if incident.apply(decision)
            && let What::IncidentJoined { id, piece, node, .. } = &decision.what
        {
            self.of_node.entry(node.clone()).or_default().insert(id.clone());
            match piece {
                Piece::Finding(finding) => {
                    let key = (node.clone(), finding.clone());
                    self.findings.change(&key, |seen| seen.incident = Some(id.clone()));
                }
                Piece::Action(action) => {
                    self.actions.insert((node.clone(), action.clone()));
                }
            }
        }
    }

    /// What follows from a finding of `node` in its newest state, seen at `now_ns` by the collector's clock.
    pub fn observe_finding(&mut self, node: &NodeName, finding: &Finding, now_ns: i64) -> Vec<Decision> {
        let key = (node.clone(), finding.id.clone());
        let before = self.findings.get(&key).cloned();
        let active = finding.state != FindingState::Cleared;
        if !active {
            if before.is_some_and(|b| b.active) {
                self.findings.change(&key, |seen| {
                    seen.active = false;
                    seen.cleared_ns = Some(now_ns);
                });
            }
            return Vec::new();
        }
        if before.as_ref().is_some_and(|b| !b.active && finding.raised_wall_ns <= b.raised_wall_ns) {
            // Told late: it has been cleared since. A new episode has a new time of raising.
            return Vec::new();
        }
        let home =
            before.as_ref().and_then(|b| b.incident.clone()).filter(|id| self.incidents.contains_key(id));
        self.remember(key, finding, home.clone());
        let mut out = Vec::new();
        match home {
            Some(id) => self.observe_member(&id, node, finding, before.as_ref(), now_ns, &mut out),
            None => self.place(node, finding, now_ns, &mut out),
        }
        out
    }

    /// What follows from an action of `node`, in any of its states.
    pub fn observe_action(&mut self, node: &NodeName, action: &Action, now_ns: i64) -> Vec<Decision> {
        if self.actions.contains(&(node.clone(), action.id.clone())) {
            return Vec::new();
        }
        let action = LooseAction {
            node: node.clone(),
            id: action.id.clone(),
            mount: action.mount.clone(),
            finding_id: action.finding_id.clone(),
            actor: action.actor.clone(),
            seen_ns: now_ns,
        };
        let mut out = Vec::new();
        if !self.place_action(&action, now_ns, &mut out) {
            self.loose_actions.put(action);
        }
        out
    }

    /// What follows from time going by. Call it about once a second, or as often as `quiet` needs.
    pub fn tick(&mut self, now_ns: i64) -> Vec<Decision> {
        let mut lives: BTreeMap<&str, Life> = BTreeMap::new();
        for seen in self.findings.times_mut() {
            let Some(id) = &seen.incident else { continue };
            let life = lives.entry(id).or_default();
            life.findings += 1;
            if seen.active {
                life.active += 1;
                continue;
            }
            // Nobody saw it clear, or the clock was set back since: its quiet time begins now. Where a person has reopened
            // the incident since, it must not be taken for one that came and went after that.
            let reopened = self.incidents.get(id).and_then(Incident::reopened_by_person);
            let unseen = || reopened.map_or(now_ns, |t| t.min(now_ns));
            let cleared = seen.cleared_ns.filter(|c| *c <= now_ns).unwrap_or_else(unseen);
            seen.cleared_ns = Some(cleared);
            life.newest_clear_ns = life.newest_clear_ns.max(cleared);
        }
        let mut over = Vec::new();
        for incident in self.incidents.values().filter(|i| i.state != IncidentState::Resolved) {
            let Some(life) = lives.get(incident.id.as_str()) else { continue };
            let waits = incident.reopened_by_person().is_some_and(|t| life.newest_clear_ns <= t);
            let quiet_ns = now_ns.saturating_sub(life.newest_clear_ns);
            if life.active == 0 && !waits && quiet_ns >= self.policy.quiet_ns {
                let which = match life.findings {
                    1 => "its finding has".to_owned(),
                    n => format!("all {n} findings have"),
                };
                over.push((incident.id.clone(), format!("{which} been cleared for {}", span(quiet_ns))));
            }
        }
        let mut out = Vec::new();
        for (id, reason) in over {
            self.decide(now_ns, What::IncidentMoved { id, state: IncidentState::Resolved, reason }, &mut out);
        }
        self.forget(now_ns);
        out
    }

    fn decide(&mut self, now_ns: i64, what: What, out: &mut Vec<Decision>) {
        let decision = Decision { wall_ns: now_ns, actor: COLLECTOR.to_owned(), what };
        self.apply(&decision);
        out.push(decision);
    }

    fn adopt(&mut self, incident: Incident) {
        self.never_again([incident.id.as_str()]);
        for node in &incident.nodes {
            self.of_node.entry(node.clone()).or_default().insert(incident.id.clone());
        }
        for joined in &incident.pieces {
            let id = match &joined.piece {
                Piece::Finding(id) => id,
                Piece::Action(id) => {
                    self.actions.insert((joined.node.clone(), id.clone()));
                    continue;
                }
            };
            // Until its row tells more: over, at a time that nobody saw.
            let unknown = Seen {
                rule: "an earlier finding".to_owned(),
                topic: incident.topic.clone(),
                links: topic::link_of(&incident.topic).into_iter().collect(),
                subject: None,
                of_node: false,
                title: incident.title.clone(),
                severity: Severity::Info,
                active: false,
                raised_wall_ns: i64::MIN,
                cleared_ns: None,
                incident: Some(incident.id.clone()),
                number: 0,
            };
            self.findings.put((joined.node.clone(), id.clone()), unknown);
        }
        self.incidents.insert(incident.id.clone(), incident);
    }

    fn remember(&mut self, key: Key, finding: &Finding, incident: Option<String>) {
        let active = finding.state != FindingState::Cleared;
        let seen = Seen {
            rule: shown(&finding.rule),
            topic: topic::topic(finding),
            links: topic::links(finding),
            subject: topic::subject(finding),
            of_node: matches!(finding.subject.kind.as_str(), "node" | "memory"),
            title: topic::title(key.0.as_str(), finding),
            severity: finding.severity,
            active,
            raised_wall_ns: finding.raised_wall_ns,
            cleared_ns: None,
            incident,
            number: 0,
        };
        self.findings.put(key, seen);
    }

    /// The incidents of `node` that are looked after.
    fn of(&self, node: &NodeName) -> impl Iterator<Item = &Incident> {
        self.of_node.get(node).into_iter().flatten().filter_map(|id| self.incidents.get(id))
    }

    /// Lets go of what can no longer matter.
    fn forget(&mut self, now_ns: i64) {
        let gone: Vec<String> = self
            .incidents
            .values()
            .filter(|i| i.state == IncidentState::Resolved && !self.rejoinable(i, now_ns))
            .map(|i| i.id.clone())
            .collect();
        for id in &gone {
            let Some(incident) = self.incidents.remove(id) else { continue };
            for node in &incident.nodes {
                if let Some(ids) = self.of_node.get_mut(node) {
                    ids.remove(id);
                    if ids.is_empty() {
                        self.of_node.remove(node);
                    }
                }
            }
            for joined in &incident.pieces {
                if let Piece::Action(action) = &joined.piece {
                    self.actions.remove(&(joined.node.clone(), action.clone()));
                }
            }
        }
        let incidents = &self.incidents;
        self.findings.retain(|s| match &s.incident {
            Some(id) => incidents.contains_key(id),
            None => s.active,
        });
        self.loose_actions.forget(now_ns.saturating_sub(self.policy.rejoin_ns));
    }
}

/// How the findings of one incident stand.
#[derive(Debug, Default)]
struct Life {
    findings: usize,
    active: usize,
    newest_clear_ns: i64,
}

/// A length of time in the unit that suits it.
fn span(ns: i64) -> String {
    match ns / SECOND_NS {
        s @ ..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// Day and number of `inc-YYYY-MM-DD-NNN`.
fn numbered(id: &str) -> Option<(&str, u32)> {
    let (day, number) = id.strip_prefix("inc-")?.rsplit_once('-')?;
    Some((day, number.parse().ok()?))
}

#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod tests;
