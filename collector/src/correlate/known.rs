//! What is remembered of findings, and how each is found again by what it says.
//!
//! Invariant: the lists are a function of the findings; whatever changes one goes through [`Known::put`] and its kin. So a
//! new finding costs about the same however many of its node are remembered, and nothing that other nodes sent.
//!
//! Bounds: [`MAX_LOOSE_PER_NODE`] findings of a node that belong to no incident, [`MAX_LOOSE`] of all: then the node that
//! has most forgets its oldest, which stays in the store.

use std::collections::{BTreeMap, BTreeSet};

use dogwatch::record::NodeName;

use super::topic::{self, MEMORY, kin};
use super::{Key, MAX_LOOSE, MAX_LOOSE_PER_NODE, Seen};

/// Topics that name nothing and meet those of their kind that do.
const NAMELESS: [&str; 3] = [topic::SOME_DISK, topic::SOME_IO, MEMORY];

/// What a finding says, as far as others are found by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Said {
    /// It has this topic.
    Topic(String),
    /// It names one of those that this topic leaves open.
    KinOf(&'static str),
    /// It names this.
    Link(String),
    /// It is about this.
    Subject(String),
    /// It is about the node's own want of memory.
    NodeMemory,
}

/// Where a finding stands among those that say the same: active ones last, then by time, then by number.
type Rank = (bool, i64, u64);

/// Findings that say the same, by incident; those of none under the empty id.
type Lists = BTreeMap<String, BTreeSet<Rank>>;

/// What is remembered of one node.
#[derive(Debug, Default)]
struct OfNode {
    said: BTreeMap<Said, Lists>,
    /// Findings that belong to no incident, in order of coming.
    loose: BTreeMap<u64, Key>,
}

/// Findings that are remembered.
#[derive(Debug, Default)]
pub(super) struct Known {
    findings: BTreeMap<Key, Seen>,
    nodes: BTreeMap<NodeName, OfNode>,
    /// By number, in order of coming.
    keys: BTreeMap<u64, Key>,
    /// How many findings of each incident are active.
    active: BTreeMap<String, usize>,
    loose: usize,
    next: u64,
}

impl Known {
    pub(super) fn get(&self, key: &Key) -> Option<&Seen> {
        self.findings.get(key)
    }

    /// All of them; of what is changed, nothing may be what they are found by.
    pub(super) fn times_mut(&mut self) -> impl Iterator<Item = &mut Seen> {
        self.findings.values_mut()
    }

    /// Remembers `seen`, in the place of what was known of it.
    pub(super) fn put(&mut self, key: Key, mut seen: Seen) {
        seen.number = match self.take(&key) {
            Some(before) => before.number,
            None => {
                self.next += 1;
                self.next
            }
        };
        self.enter(&key, &seen);
        self.findings.insert(key, seen);
    }

    /// Changes what is known of one, if it is.
    pub(super) fn change(&mut self, key: &Key, change: impl FnOnce(&mut Seen)) {
        if let Some(mut seen) = self.take(key) {
            change(&mut seen);
            self.enter(key, &seen);
            self.findings.insert(key.clone(), seen);
        }
    }

    /// Keeps those that `wanted` says.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Seen) -> bool) {
        let gone: Vec<Key> =
            self.findings.iter().filter(|(_, s)| !wanted(s)).map(|(k, _)| k.clone()).collect();
        for key in &gone {
            self.take(key);
        }
    }

    /// Forgets the oldest of no incident, where there are too many of `node` or of all.
    pub(super) fn trim(&mut self, node: &NodeName) {
        let of = |n: &OfNode| n.loose.len();
        while self.nodes.get(node).is_some_and(|n| of(n) > MAX_LOOSE_PER_NODE) {
            self.forget_oldest(node);
        }
        while self.loose > MAX_LOOSE {
            let Some(most) = self.nodes.iter().max_by_key(|(_, n)| of(n)).map(|(k, _)| k.clone()) else {
                return;
            };
            self.forget_oldest(&most);
        }
    }

    /// How many active findings an incident has.
    pub(super) fn active_of(&self, incident: &str) -> usize {
        self.active.get(incident).copied().unwrap_or(0)
    }

    /// The incidents of which a finding of `node`, another than `but`, says so.
    pub(super) fn incidents_where<'a>(
        &'a self,
        node: &NodeName,
        said: &Said,
        but: &Key,
    ) -> impl Iterator<Item = &'a str> {
        let own = self.findings.get(but).map(Seen::rank);
        let lists = self.nodes.get(node).and_then(|n| n.said.get(said));
        lists.into_iter().flatten().filter_map(move |(id, ranks)| {
            (!id.is_empty() && ranks.iter().any(|r| Some(*r) != own)).then_some(id.as_str())
        })
    }

    /// Of the findings of `incident` that say one of `said`, another than `but`: the newest active one, else the newest.
    pub(super) fn newest(&self, node: &NodeName, incident: &str, said: &[Said], but: &Key) -> Option<&Seen> {
        let own = self.findings.get(but).map(Seen::rank);
        let lists = &self.nodes.get(node)?.said;
        let rank = said
            .iter()
            .filter_map(|s| lists.get(s)?.get(incident)?.iter().rev().find(|r| Some(**r) != own))
            .max()?;
        self.findings.get(self.keys.get(&rank.2)?)
    }

    /// The active findings of `node` that belong to no incident and say one of `said`, in order of coming.
    pub(super) fn loose_where(&self, node: &NodeName, said: &[Said]) -> Vec<(&Key, &Seen)> {
        let Some(lists) = self.nodes.get(node).map(|n| &n.said) else { return Vec::new() };
        let ranks = said.iter().filter_map(|s| lists.get(s)?.get("")).flatten();
        let numbers: BTreeSet<u64> = ranks.filter(|(active, ..)| *active).map(|(_, _, n)| *n).collect();
        numbers.iter().filter_map(|n| self.findings.get_key_value(self.keys.get(n)?)).collect()
    }

    /// One that remembers nothing and has given out `next` numbers.
    #[cfg(test)]
    pub(super) fn counted(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    fn forget_oldest(&mut self, node: &NodeName) {
        if let Some(key) = self.nodes.get(node).and_then(|n| n.loose.values().next()).cloned() {
            self.take(&key);
        }
    }

    fn enter(&mut self, key: &Key, seen: &Seen) {
        self.keys.insert(seen.number, key.clone());
        let of_node = self.nodes.entry(key.0.clone()).or_default();
        let incident = seen.incident.clone().unwrap_or_default();
        for said in seen.said() {
            of_node.said.entry(said).or_default().entry(incident.clone()).or_default().insert(seen.rank());
        }
        match &seen.incident {
            None => self.loose += usize::from(of_node.loose.insert(seen.number, key.clone()).is_none()),
            Some(id) if seen.active => *self.active.entry(id.clone()).or_default() += 1,
            Some(_) => {}
        }
    }

    fn take(&mut self, key: &Key) -> Option<Seen> {
        let seen = self.findings.remove(key)?;
        self.keys.remove(&seen.number);
        if let Some(of_node) = self.nodes.get_mut(&key.0) {
            let incident = seen.incident.as_deref().unwrap_or_default();
            for said in seen.said() {
                let Some(lists) = of_node.said.get_mut(&said) else { continue };
                if let Some(ranks) = lists.get_mut(incident) {
                    ranks.remove(&seen.rank());
                    if ranks.is_empty() {
                        lists.remove(incident);
                    }
                }
                if lists.is_empty() {
                    of_node.said.remove(&said);
                }
            }
            self.loose -= usize::from(of_node.loose.remove(&seen.number).is_some());
            if of_node.said.is_empty() {
                self.nodes.remove(&key.0);
            }
        }
        if let Some(id) = seen.incident.as_ref().filter(|_| seen.active)
            && let Some(active) = self.active.get_mut(id)
        {
            *active -= 1;
            if *active == 0 {
                self.active.remove(id);
            }
        }
        Some(seen)
    }
}

impl Seen {
    fn rank(&self) -> Rank {
        (self.active, self.raised_wall_ns, self.number)
    }

    /// Each once.
    fn said(&self) -> impl Iterator<Item = Said> {
        let kin_of = NAMELESS.into_iter().filter(|open| kin(open, &self.topic)).map(Said::KinOf);
        let node_memory = (self.topic == MEMORY && self.of_node).then_some(Said::NodeMemory);
        std::iter::once(Said::Topic(self.topic.clone()))
            .chain(kin_of)
            .chain(self.links.iter().cloned().map(Said::Link))
            .chain(self.subject.clone().map(Said::Subject))
            .chain(node_memory)
    }
}

/// What findings say whose topics meet `topic` ([`topic::meets`]).
pub(super) fn meeting(topic: &str) -> Vec<Said> {
    let open = NAMELESS.into_iter().filter(|open| kin(open, topic)).map(|open| Said::Topic(open.to_owned()));
    let named = NAMELESS.into_iter().filter(|open| *open == topic).map(Said::KinOf);
    std::iter::once(Said::Topic(topic.to_owned())).chain(open).chain(named).collect()
}
