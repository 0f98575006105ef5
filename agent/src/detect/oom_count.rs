//! Counters of kills held against the kernel's lines, and against each other, so that a kill is told once and of whom it
//! concerns.
//!
//! The node's counter (`oom_kill` of `/proc/vmstat`) counts every kill and is read each second; a group's (`oom_kill` of
//! `memory.events`, or of `memory.oom_control` on version 1) those of its members, and is read every few seconds. So a
//! rise of the node's waits for the next pass over the groups: what one of them counted is that group's, the rest is the
//! node's. Either may be seen first.
//!
//! Version 2 counts a kill in all groups above the victim's too, version 1 in its own alone. A group that is new, or began
//! again, speaks only for what the node counted and nobody else explains: its figure may be old.
//!
//! Limits: [`MAX_OPEN`] kills of each kind wait at a time; a group that is removed between two passes takes its count with
//! it, and the node's counter speaks for it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dogwatch::record::{Cgroup, Pod};

use super::case::{Place, Tick};
use super::known::{Scene, is_within};

/// A line and a count of one kill are no further apart than this, ns, or than two passes over the groups; until there were
/// two, a group's count may come as late as the second may.
const APART_NS: u64 = 60_000_000_000;
/// See the module's limits.
const MAX_OPEN: usize = 64;
/// Groups whose count is remembered.
const MAX_GROUPS: usize = 4_096;
/// For how long the count of a group that is not seen is remembered, ns: a pass that could not read it is no new beginning.
const REMEMBER_NS: u64 = 900_000_000_000;
/// How long the second pass may take to come, ns: groups are read each ten minutes at the least.
const FIRST_INTERVAL_NS: u64 = 600_000_000_000;

/// Which kills are not explained yet.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    node_total: Option<u64>,
    groups: BTreeMap<String, Total>,
    logged: VecDeque<Logged>,
    counted: VecDeque<Counted>,
    /// Kills that groups counted and the node did not show yet: when each was seen.
    ahead: VecDeque<u64>,
    passes: Passes,
}

/// When groups were read.
#[derive(Debug, Default)]
struct Passes {
    last_ns: Option<u64>,
    interval_ns: Option<u64>,
}

#[derive(Debug)]
struct Total {
    kills: u64,
    seen_ns: u64,
}

/// A kill that a line told, and which of the counters have not counted it yet.
#[derive(Debug)]
struct Logged {
    at_ns: u64,
    group: Option<String>,
    node: bool,
    of_group: bool,
}

/// A count that no line explained yet.
#[derive(Debug)]
pub(super) struct Counted {
    at_ns: u64,
    /// The group that counted; `None`: the node's counter.
    pub(super) group: Option<(String, Option<Pod>)>,
    pub(super) kills: u64,
    /// Where it was seen.
    pub(super) place: Place,
}

impl Ledger {
    /// A line told a kill of a member of `group`: counts that came before it are explained, those to come will be.
    pub(super) fn told(&mut self, now_ns: u64, group: Option<String>) {
        let node = !take_one(&mut self.counted, |c| c.group.is_none());
        let of_group = !take_one(&mut self.counted, |c| {
            c.group.as_ref().is_some_and(|(path, _)| group.as_ref().is_none_or(|g| is_within(g, path)))
        });
        if self.logged.len() >= MAX_OPEN {
            self.logged.pop_front();
        }
        self.logged.push_back(Logged { at_ns: now_ns, group, node, of_group });
    }

    /// The group of the line that was told last.
    pub(super) fn last_group(&self) -> Option<&str> {
        self.logged.back().and_then(|l| l.group.as_deref())
    }

    /// Takes in a sample's counters.
    pub(super) fn count(&mut self, tick: Tick<'_>, scene: &Scene<'_>) {
        let now = tick.at.boot_ns;
        let apart = APART_NS.max(self.passes.interval_ns.unwrap_or(0).saturating_mul(2));
        let apart_of_groups = APART_NS.max(self.passes.longest_ns());
        for logged in &mut self.logged {
            logged.node &= now.saturating_sub(logged.at_ns) < apart;
        }
        self.logged.retain(|l| now.saturating_sub(l.at_ns) < apart_of_groups);
        self.ahead.retain(|at| now.saturating_sub(*at) < APART_NS);
        if let Some(total) = scene.sample.memory.as_ref().and_then(|m| m.oom_kills_total) {
            let mut kills = self.node_total.replace(total).map_or(0, |before| total.saturating_sub(before));
            for logged in self.logged.iter_mut().filter(|l| l.node) {
                if kills == 0 {
                    break;
                }
                logged.node = false;
                kills -= 1;
            }
            while kills > 0 && self.ahead.pop_front().is_some() {
                kills -= 1;
            }
            self.expect_line(None, kills, tick);
        }
        if scene.sample.cgroups.is_empty() {
            return;
        }
        self.passes.begin(now);
        for Rise { cgroup, mut kills, known } in self.rises(now, &scene.sample.cgroups) {
            for logged in self.logged.iter_mut().filter(|l| l.of_group) {
                if kills > 0 && logged.group.as_ref().is_none_or(|g| is_within(g, &cgroup.path)) {
                    logged.of_group = false;
                    kills -= 1;
                }
            }
            let mut told = 0;
            for _ in 0..kills.min(MAX_OPEN as u64) {
                // The node counts the same kills, before this or after.
                if take_one(&mut self.counted, |c| c.group.is_none()) {
                    told += 1;
                } else if known && self.ahead.len() < MAX_OPEN {
                    self.ahead.push_back(now);
                }
            }
            let pod = cgroup.pod.clone().or_else(|| scene.known.pod(&cgroup.path));
            let kills = if known { kills } else { told };
            self.expect_line(Some((cgroup.path.clone(), pod)), kills, tick);
        }
    }

    /// By how much groups' counters rose since they were last read, innermost first, each without what groups beneath it
    /// rose by where it counts that too; what is new comes last.
    fn rises<'a>(&mut self, now_ns: u64, cgroups: &'a [Cgroup]) -> Vec<Rise<'a>> {
        let mut rises = Vec::new();
        for cgroup in cgroups.iter().take(MAX_GROUPS) {
            let Some(total) = cgroup.oom_kills_total else { continue };
            let before = self.groups.get(&cgroup.path).map(|t| t.kills).filter(|before| *before <= total);
            let kills = total - before.unwrap_or(0);
            if kills > 0 {
                rises.push(Rise { cgroup, kills, known: before.is_some() });
            }
            if before.is_some() || self.groups.len() < MAX_GROUPS || self.groups.contains_key(&cgroup.path) {
                self.groups.insert(cgroup.path.clone(), Total { kills: total, seen_ns: now_ns });
            }
        }
        self.groups.retain(|_, t| now_ns.saturating_sub(t.seen_ns) < REMEMBER_NS);
        rises.sort_by_key(|r| (!r.known, std::cmp::Reverse(r.cgroup.path.matches('/').count())));
        let mut own = Vec::new();
        for rise in &rises {
            let beneath = |r: &&Rise<'_>| {
                r.cgroup.path != rise.cgroup.path
                    && r.known == rise.known
                    && is_within(&r.cgroup.path, &rise.cgroup.path)
            };
            let counted: u64 = match rise.cgroup.version {
                2 => own.iter().filter(beneath).fold(0, |sum: u64, r| sum.saturating_add(r.kills)),
                _ => 0,
            };
            own.push(Rise { kills: rise.kills.saturating_sub(counted), ..*rise });
        }
        own.retain(|r| r.kills > 0);
        own
    }

    fn expect_line(&mut self, group: Option<(String, Option<Pod>)>, kills: u64, tick: Tick<'_>) {
        if kills > 0 && self.counted.len() < MAX_OPEN {
            let counted = Counted { at_ns: tick.at.boot_ns, group, kills, place: tick.cite.into() };
            self.counted.push_back(counted);
        }
    }

    /// The next count that no line explained within `grace`, and that no group will explain.
    pub(super) fn next_unexplained(&mut self, now_ns: u64, grace: Duration) -> Option<Counted> {
        let ripe = |c: &Counted| {
            let waited = now_ns.saturating_sub(c.at_ns);
            u128::from(waited) >= grace.as_nanos()
                && (c.group.is_some() || self.passes.have_shown(c.at_ns, now_ns))
        };
        let i = self.counted.iter().position(ripe)?;
        self.counted.remove(i)
    }
}

impl Passes {
    fn begin(&mut self, now_ns: u64) {
        if let Some(last) = self.last_ns.replace(now_ns) {
            self.interval_ns = Some(now_ns.saturating_sub(last));
        }
    }

    /// The next pass is no further away than this, ns.
    fn longest_ns(&self) -> u64 {
        self.interval_ns.unwrap_or(FIRST_INTERVAL_NS).saturating_mul(2)
    }

    /// Whether groups were read since `at_ns`, are not read at all, or are not any more.
    fn have_shown(&self, at_ns: u64, now_ns: u64) -> bool {
        self.last_ns.is_none_or(|last| last > at_ns || now_ns.saturating_sub(last) > self.longest_ns())
    }
}

#[derive(Debug, Clone, Copy)]
struct Rise<'a> {
    cgroup: &'a Cgroup,
    kills: u64,
    /// It was read before.
    known: bool,
}

/// Takes one kill from the first count for which `of` holds; whether there was one.
fn take_one(counted: &mut VecDeque<Counted>, of: impl Fn(&Counted) -> bool) -> bool {
    let Some(i) = counted.iter().position(of) else { return false };
    counted[i].kills -= 1;
    if counted[i].kills == 0 {
        counted.remove(i);
    }
    true
}
