//! Control groups: what pods, containers and services use and may use, with cgroups v1, v2 and both at once.
//!
//! ```text
//! sysfs/fs/cgroup ─ hierarchies ─ walk ─> groups ─ read (files by version) ─> figures
//! ```
//! A *pass* reads every group once, at most each `every`; within a tick it may take a budget of CPU time, and goes on at
//! the next tick where it stopped. Its result comes when it ends, so that a list is whole or absent.
//!
//! Where which groups exist is known from a walk. At the beginning of each pass the numbers of links of the directories
//! that the last walk read are compared (one system call each, and a group made or removed changes that of its parent; the
//! mtime of these directories does not change, and v2's `nr_descendants` is the same news for more to parse); a change, a
//! group that cannot be read any more, or [`WALK_NS`] leads to a new walk, which is part of the pass and of its budget.
//!
//! With v1 and v2 mounted at once (systemd's hybrid), each figure comes from the controller's hierarchy of v1 if it has
//! one, else from v2's; pressure is v2's alone and is there if the group has the same path in both.
//!
//! Invariants: at most `max` groups, pods before others; at most [`MAX_DESCRIPTORS`] descriptors stay open.
//!
//! Deliberately absent: the root group (the node's own figures are that), groups within containers, devices, network
//! classes, huge pages.

mod figures;
mod group;
mod walk;

use std::collections::HashMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::record::Cgroup;
use rustix::fs::{AtFlags, statat};

use super::Failures;
use super::pods::Pods;
use super::processes::CostClock;
use figures::{Controller, GroupFile, V1, V2};
use group::{Group, Kept, Wrong};
use walk::{Stamp, Walk};

/// Descriptors that stay open, where that is no more than a quarter of what this process may have: those of some 300 groups,
/// at 6 KiB of the kernel's memory each.
const MAX_DESCRIPTORS: u64 = 2_560;
/// Walked again after this long in any case: one group gone and one made leave the number of links as it was.
const WALK_NS: u64 = 60_000_000_000;
/// Groups read between two looks at the clock.
const GRAIN: usize = 8;
/// Longest text of a file that is read: `io.stat` has some 80 bytes a device.
const MAX_TEXT: usize = 64 << 10;

/// How to read groups.
pub(super) struct CgroupOptions {
    /// Groups at most.
    pub(super) max: usize,
    /// How often all are read.
    pub(super) every: Duration,
    /// CPU time a tick.
    pub(super) budget: Duration,
}

/// Reader of control groups.
pub(super) struct CgroupProbe {
    root: PathBuf,
    options: CgroupOptions,
    cost: CostClock,
    hierarchies: Option<Hierarchies>,
    groups: Vec<Group>,
    stamps: Vec<Stamp>,
    /// Groups left out, and directories not looked into, at the last walk.
    beyond: u64,
    walked_ns: Option<u64>,
    kept: Kept,
    stage: Stage,
    due_ns: u64,
    began_ns: u64,
    out: Vec<Cgroup>,
    gone: bool,
    wrong: Wrong,
    text: Box<[u8]>,
}

/// How far a pass is.
enum Stage {
    Resting,
    Walking(Walk),
    /// The next group's place.
    Reading(usize),
}

impl CgroupProbe {
    /// A reader of the hierarchies beneath `root` (`/sys/fs/cgroup`) that pays by `cost`.
    pub(super) fn new(root: &Path, options: CgroupOptions, cost: CostClock) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let max = MAX_DESCRIPTORS.min(limit.unwrap_or(u64::MAX) / 4) as usize;
        Self {
            root: root.to_owned(),
            options,
            cost,
            hierarchies: None,
            groups: Vec::new(),
            stamps: Vec::new(),
            beyond: 0,
            walked_ns: None,
            kept: Kept { open: 0, max },
            stage: Stage::Resting,
            due_ns: 0,
            began_ns: 0,
            out: Vec::new(),
            gone: false,
            wrong: Wrong::default(),
            text: vec![0; MAX_TEXT].into_boxed_slice(),
        }
    }

    /// Every group if a pass ended on this tick, else none.
    pub(super) fn read(&mut self, now_ns: u64, pods: &Pods, failed: &mut Failures) -> Vec<Cgroup> {
        if matches!(self.stage, Stage::Resting) {
            if now_ns < self.due_ns {
                return Vec::new();
            }
            if let Err(why) = self.begin(now_ns) {
                failed.push("cgroups", &why);
                return Vec::new();
            }
        }
        match self.go_on(now_ns, pods) {
            Ok(true) => self.end(now_ns, failed),
            Ok(false) => Vec::new(),
            Err(why) => {
                self.stage = Stage::Resting;
                self.hierarchies = None;
                failed.push("cgroups", &why);
                Vec::new()
            }
        }
    }

    fn begin(&mut self, now_ns: u64) -> Result<(), String> {
        let every_ns = self.options.every.as_nanos() as u64;
        // Ticks do not come to the nanosecond: one that comes a little early is the one that was meant.
        self.due_ns = now_ns + every_ns - (every_ns / 10).min(250_000_000);
        self.began_ns = now_ns;
        if self.hierarchies.is_none() {
            self.forget_groups();
            self.hierarchies = Some(Hierarchies::open(&self.root)?);
        }
        self.stage = if self.must_walk(now_ns) { Stage::Walking(Walk::begin()) } else { Stage::Reading(0) };
        Ok(())
    }

    fn must_walk(&self, now_ns: u64) -> bool {
        let Some(hierarchies) = &self.hierarchies else { return true };
        let changed = |(path, links): &Stamp| {
            let stat = statat(hierarchies.walked(), path, AtFlags::SYMLINK_NOFOLLOW);
            stat.map_or(true, |s| i128::from(s.st_nlink) != *links)
        };
        self.gone
            || self.walked_ns.is_none_or(|at| now_ns.saturating_sub(at) >= WALK_NS)
            || self.stamps.iter().any(changed)
    }

    /// Works until the pass is done (true) or the tick's budget is spent (false).
    fn go_on(&mut self, now_ns: u64, pods: &Pods) -> Result<bool, String> {
        let Some(hierarchies) = self.hierarchies.take() else { return Ok(false) };
        let began = (self.cost)();
        let done = loop {
            match std::mem::replace(&mut self.stage, Stage::Resting) {
                Stage::Resting => break true,
                Stage::Walking(mut walk) => {
                    let mut entries = [MaybeUninit::<u8>::uninit(); 8192];
                    let more = walk.step(hierarchies.walked(), &mut entries);
                    match more.map_err(|e| format!("reading {}: {e}", self.root.display()))? {
                        true => self.stage = Stage::Walking(walk),
                        false => {
                            self.take_in(walk, now_ns, hierarchies.files.len());
                            self.stage = Stage::Reading(0);
                        }
                    }
                }
                Stage::Reading(at) if at >= self.groups.len() => {}
                Stage::Reading(at) => {
                    let until = (at + GRAIN).min(self.groups.len());
                    self.read_some(at..until, &hierarchies, pods);
                    self.stage = Stage::Reading(until);
                }
            }
            if (self.cost)().saturating_sub(began) > self.options.budget
                && !matches!(self.stage, Stage::Resting)
            {
                break false;
            }
        };
        self.hierarchies = Some(hierarchies);
        Ok(done)
    }

    fn read_some(&mut self, which: std::ops::Range<usize>, hierarchies: &Hierarchies, pods: &Pods) {
        let files = hierarchies.files();
        for group in &mut self.groups[which] {
            match group.read(&files, &mut self.kept, &mut self.wrong, &mut self.text) {
                Some(mut figures) => {
                    figures.version = hierarchies.version;
                    figures.pod = pods.of_cgroup(&group.shown);
                    self.out.push(figures);
                }
                None => self.gone = true,
            }
        }
    }

    /// Makes the groups those that a walk found, and keeps what is open of those that stay.
    fn take_in(&mut self, mut walk: Walk, now_ns: u64, files: usize) {
        walk.found.sort_unstable();
        let left_out = walk.found.len().saturating_sub(self.options.max);
        walk.found.truncate(self.options.max);
        self.beyond = left_out as u64 + walk.unvisited;
        let mut known: HashMap<Vec<u8>, Group> =
            std::mem::take(&mut self.groups).into_iter().map(|g| (g.path.clone(), g)).collect();
        for found in walk.found {
            let group = known.remove(&found.path).unwrap_or_else(|| Group::new(found.path, files));
            self.groups.push(group);
        }
        for mut gone in known.into_values() {
            gone.close(&mut self.kept);
        }
        self.stamps = walk.stamps;
        self.walked_ns = Some(now_ns);
        self.gone = false;
    }

    fn end(&mut self, now_ns: u64, failed: &mut Failures) -> Vec<Cgroup> {
        if self.beyond > 0 {
            let text = format!(
                "{} groups or folders of them beyond the first {} are not read; raise sample.cgroups.max, or look for who \
                 leaks groups",
                self.beyond, self.options.max
            );
            failed.push("cgroups", &text);
        }
        if now_ns > self.due_ns {
            let text = format!(
                "{} groups cost more CPU time than {:?} a tick for {:?}; they are read every {} s",
                self.groups.len(),
                self.options.budget,
                self.options.every,
                (now_ns - self.began_ns) / 1_000_000_000
            );
            failed.push("cgroups", &text);
        }
        let wrong = std::mem::take(&mut self.wrong);
        if let Some(first) = wrong.first {
            let more =
                if wrong.count > 1 { format!(", and {} more", wrong.count - 1) } else { String::new() };
            failed.push("cgroups", &format!("{first}{more}"));
        }
        let next = Vec::with_capacity(self.out.len());
        std::mem::replace(&mut self.out, next)
    }

    fn forget_groups(&mut self) {
        for mut group in std::mem::take(&mut self.groups) {
            group.close(&mut self.kept);
        }
        self.out.clear();
        self.walked_ns = None;
    }
}

/// The hierarchies that are mounted, and which files are read where.
struct Hierarchies {
    roots: Vec<(Controller, OwnedFd)>,
    /// Place in `roots`, and the file.
    files: Vec<(usize, &'static GroupFile)>,
    version: u32,
}

impl Hierarchies {
    fn open(root: &Path) -> Result<Self, String> {
        let open = |folder: &Path| -> Option<OwnedFd> {
            folder.is_dir().then(|| File::open(folder).ok()).flatten().map(OwnedFd::from)
        };
        if root.join("cgroup.controllers").exists() {
            let unified = open(root).ok_or_else(|| format!("opening {} failed", root.display()))?;
            let files = V2.iter().map(|f| (0, f)).collect();
            return Ok(Self { roots: vec![(Controller::Unified, unified)], files, version: 2 });
        }
        // The first of these that is there is walked: pods and services have a group in it before in others.
        let named: [(Controller, &[&str]); 6] = [
            (Controller::Memory, &["memory"]),
            (Controller::Cpu, &["cpu", "cpu,cpuacct", "cpuacct,cpu"]),
            (Controller::Cpuacct, &["cpuacct", "cpu,cpuacct", "cpuacct,cpu"]),
            (Controller::Pids, &["pids"]),
            (Controller::Blkio, &["blkio"]),
            (Controller::Unified, &["unified"]),
        ];
        let found = named.into_iter().filter_map(|(c, names)| {
            let fd = names.iter().find_map(|n| open(&root.join(n)))?;
            Some((c, fd))
        });
        let roots: Vec<(Controller, OwnedFd)> = found.collect();
        if roots.is_empty() {
            return Err(format!(
                "no hierarchy of control groups in {}; mount one there, or set sample.cgroups.enabled: false",
                root.display()
            ));
        }
        let place = |c: Controller| roots.iter().position(|(r, _)| *r == c);
        let of_v1 = V1.iter().filter_map(|f| Some((place(f.controller)?, f)));
        let in_stead = |f: &&GroupFile| f.controller == Controller::Unified || place(f.controller).is_none();
        let of_v2 = V2.iter().filter(in_stead).filter_map(|f| Some((place(Controller::Unified)?, f)));
        let files = of_v1.chain(of_v2).collect();
        Ok(Self { roots, files, version: 1 })
    }

    fn walked(&self) -> BorrowedFd<'_> {
        self.roots[0].1.as_fd()
    }

    fn files(&self) -> Vec<(BorrowedFd<'_>, &'static GroupFile)> {
        self.files.iter().map(|(at, file)| (self.roots[*at].1.as_fd(), *file)).collect()
    }
}

#[cfg(test)]
#[path = "cgroups_tests.rs"]
mod tests;
