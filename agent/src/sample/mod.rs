//! Sampling: a node's vital signs, once a tick.
//!
//! [`Sampler`] reads, [`Ticker`] says when. Plain threads, no async: a tick reads some ten files of `/proc` and asks
//! each filesystem for its figures, and nothing here may wait for anything else. Every reader takes its root, keeps its
//! descriptors and buffers, and costs the kernel's own work and little more.
//!
//! A probe that fails costs its part of the sample and a line in `failed`, never the sample.
//!
//! Deliberately absent: thresholds and judgement (that is [`crate::detect`]), clocks of records, storage.

mod cgroups;
mod cpu;
mod memory;
mod mountinfo;
mod mounts;
mod pods;
mod pressure;
mod processes;
mod procfile;
mod remote;
mod self_cost;
mod thrift;
mod ticker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dogwatch::record::Sample;
use rustix::time::{ClockId, clock_gettime};

use cgroups::{CgroupOptions, CgroupProbe};
use cpu::CpuProbe;
use memory::MemoryProbe;
use mounts::MountProbe;
use processes::{ProcessOptions, ProcessProbe};
use self_cost::SelfCostProbe;

pub use pods::Pods;
pub use thrift::{Caps, Pace, Thrift};
pub use ticker::{Ticker, TickerStop, now};

/// Where the node's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The proc filesystem.
    pub proc: PathBuf,
    /// The sysfs, with the cgroup hierarchies at `fs/cgroup`.
    pub sys: PathBuf,
    /// The table of mounts.
    pub mountinfo: PathBuf,
    /// What the table's paths are relative to.
    pub rootfs: PathBuf,
    /// The folder of logs, with `pods` and `containers`.
    pub log: PathBuf,
}

impl Default for Roots {
    /// The agent's own: `/proc`, `/proc/self/mountinfo`, `/`, `/var/log`.
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            mountinfo: "/proc/self/mountinfo".into(),
            rootfs: "/".into(),
            log: "/var/log".into(),
        }
    }
}

impl Roots {
    /// The host's, seen from a container that has the host's root at `rootfs` and shares its PID namespace: the table
    /// is that of the host's process 1.
    pub fn of_host(rootfs: &Path) -> Self {
        Self {
            proc: rootfs.join("proc"),
            sys: rootfs.join("sys"),
            mountinfo: rootfs.join("proc/1/mountinfo"),
            rootfs: rootfs.to_owned(),
            log: rootfs.join("var/log"),
        }
    }
}

/// How to sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleOptions {
    /// Whether processes are read at all.
    pub processes: bool,
    /// How many of the top processes, by CPU, by memory and by I/O each.
    pub top_processes: usize,
    /// CPU time of one tick that reading processes may take. A scan that needs more is spread over ticks.
    pub process_budget: Duration,
    /// How long a tick waits for filesystems with a server.
    pub remote_deadline: Duration,
    /// Whether control groups are read at all.
    pub cgroups: bool,
    /// How many of them at most.
    pub max_cgroups: usize,
    /// How often all of them are read.
    pub cgroups_every: Duration,
    /// CPU time of one tick that reading them may take. A pass that needs more is spread over ticks.
    pub cgroup_budget: Duration,
}

impl Default for SampleOptions {
    /// Ten processes each; 25 ms a tick, which is some 2,000 processes, or 2.5 % of a CPU at 1 Hz; 200 ms for
    /// servers, which leaves a finding its quarter of a second. Up to 2,000 groups, which is more than 500 pods have, each
    /// 5 s and at 10 ms a tick: a group has ten files, and three hundred of them once a second would cost more than all
    /// else together, and fill the evidence of an idle node.
    fn default() -> Self {
        Self {
            processes: true,
            top_processes: 10,
            process_budget: Duration::from_millis(25),
            remote_deadline: Duration::from_millis(200),
            cgroups: true,
            max_cgroups: 2_000,
            cgroups_every: Duration::from_secs(5),
            cgroup_budget: Duration::from_millis(10),
        }
    }
}

/// Reads the node's vital signs.
pub struct Sampler {
    mounts: MountProbe,
    memory: MemoryProbe,
    cpu: CpuProbe,
    processes: Option<ProcessProbe>,
    cgroups: Option<CgroupProbe>,
    pods: Pods,
    self_cost: SelfCostProbe,
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sampler")
    }
}

impl Sampler {
    /// A sampler beneath `roots`. Opens nothing yet; what cannot be opened is said by each sample.
    pub fn new(roots: Roots, options: SampleOptions) -> Self {
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        let page_bytes = rustix::param::page_size() as u64;
        let process_options = ProcessOptions {
            top: options.top_processes,
            budget: options.process_budget,
            ticks_per_second,
            page_bytes,
        };
        Self {
            mounts: MountProbe::new(&roots, Arc::new(remote::statvfs), options.remote_deadline),
            memory: MemoryProbe::new(&roots.proc),
            cpu: CpuProbe::new(&roots.proc, ticks_per_second),
            processes: options
                .processes
                .then(|| ProcessProbe::new(&roots.proc, process_options, Box::new(thread_cpu_time))),
            cgroups: options.cgroups.then(|| {
                let options = CgroupOptions {
                    max: options.max_cgroups,
                    every: options.cgroups_every,
                    budget: options.cgroup_budget,
                };
                CgroupProbe::new(&roots.sys.join("fs/cgroup"), options, Box::new(thread_cpu_time))
            }),
            pods: Pods::new(&roots.log),
            self_cost: SelfCostProbe::new(&roots.proc, ticks_per_second, page_bytes),
        }
    }

    /// Counts the process `pid` (the executor) into the agent's cost from now on.
    pub fn watch_child(&mut self, pid: u32) {
        self.self_cost.watch_child(pid);
    }

    /// Reads everything once. `late_ticks`, `every_ms`, `saving`, `queue_bytes` and `dropped_records` are left out: they
    /// are the caller's to fill in from [`Ticker`], [`Thrift`] and the recorder.
    pub fn sample(&mut self) -> Sample {
        let mut failed = Failures::default();
        let failed = &mut failed;
        let now_ns = ticker::boot_ns();
        self.pods.refresh(now_ns);
        let scanned = self.processes.as_mut().map(|p| p.read(now_ns, &self.pods, failed)).unwrap_or_default();
        let cgroups = self.cgroups.as_mut().map(|c| c.read(now_ns, &self.pods, failed)).unwrap_or_default();
        Sample {
            mounts: self.mounts.read(failed),
            memory: self.memory.read(failed),
            cpu: self.cpu.read(failed),
            processes: scanned.processes,
            tasks: scanned.tasks,
            cgroups,
            self_cost: self.self_cost.read(failed),
            late_ticks: 0,
            failed: std::mem::take(failed).into_vec(),
            ..Sample::default()
        }
    }
}

/// Whether the absence of the mount at `path` from `sample` may be the fault of the probe: then it says nothing about
/// the mount.
pub fn mount_is_unknown(sample: &Sample, path: &str) -> bool {
    sample.failed.iter().filter_map(|f| f.strip_prefix("mounts: ")).any(|about| {
        // A failure of one mount begins with its path; any other concerns the table.
        !about.starts_with('/') || about.strip_prefix(path).is_some_and(|rest| rest.starts_with(": "))
    })
}

/// CPU time of the calling thread.
fn thread_cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// The failures of a tick, each as `probe: reason`; bounded, the rest is counted.
#[derive(Debug, Default)]
struct Failures {
    said: Vec<String>,
    unsaid: usize,
}

impl Failures {
    /// Failures told one by one: a node with more dead mounts has told its story.
    const MAX: usize = 32;

    fn push(&mut self, probe: &str, reason: &dyn fmt::Display) {
        if self.said.len() < Self::MAX {
            self.said.push(format!("{probe}: {reason}"));
        } else {
            self.unsaid += 1;
        }
    }

    fn append(&mut self, other: Self) {
        self.unsaid += other.unsaid;
        for line in other.said {
            if self.said.len() < Self::MAX {
                self.said.push(line);
            } else {
                self.unsaid += 1;
            }
        }
    }

    fn into_vec(mut self) -> Vec<String> {
        if self.unsaid > 0 {
            // Named after the one probe that can fail so often, so that no mount is taken for gone.
            self.said.push(format!("mounts: and {} failures more", self.unsaid));
        }
        self.said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_host_gives_an_empty_sample_with_reasons() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            proc: dir.path().join("proc"),
            sys: dir.path().join("sys"),
            mountinfo: dir.path().join("proc/self/mountinfo"),
            rootfs: "/".into(),
            log: dir.path().join("log"),
        };
        let sample = Sampler::new(roots, SampleOptions::default()).sample();
        assert!(sample.mounts.is_empty() && sample.memory.is_none() && sample.cpu.is_none());
        assert!(sample.processes.is_empty());
        for probe in ["mounts: ", "memory: ", "cpu: ", "processes: ", "cgroups: ", "self: "] {
            assert!(sample.failed.iter().any(|f| f.starts_with(probe)), "{probe} in {:?}", sample.failed);
        }
        assert!(mount_is_unknown(&sample, "/any"));
    }

    #[test]
    fn this_machine_gives_a_whole_sample() {
        let mut sampler = Sampler::new(Roots::default(), SampleOptions::default());
        sampler.watch_child(std::process::id());
        let sample = sampler.sample();
        assert!(sample.mounts.iter().any(|m| m.path == "/"), "{:?}", sample.mounts);
        assert!(sample.memory.is_some() && sample.cpu.is_some());
        assert!(sample.self_cost.resident_bytes > 0);
    }

    #[test]
    fn failures_are_bounded() {
        let mut failures = Failures::default();
        for i in 0..100 {
            failures.push("mounts", &format!("/m{i}: dead"));
        }
        let said = failures.into_vec();
        assert_eq!(said.len(), Failures::MAX + 1);
        assert_eq!(said.last().unwrap(), "mounts: and 68 failures more");
        let sample = Sample { failed: said, ..Sample::default() };
        assert!(mount_is_unknown(&sample, "/m99"));
    }

    #[test]
    fn a_failed_mount_is_unknown_and_others_are_not() {
        let sample = Sample { failed: vec!["mounts: /mnt/a: no answer".into()], ..Sample::default() };
        assert!(mount_is_unknown(&sample, "/mnt/a"));
        assert!(!mount_is_unknown(&sample, "/mnt"));
        assert!(!mount_is_unknown(&sample, "/mnt/b"));
    }

    #[test]
    fn the_host_is_read_through_its_root() {
        let roots = Roots::of_host(Path::new("/"));
        let mut failed = Failures::default();
        let mounts =
            MountProbe::new(&roots, Arc::new(remote::statvfs), Duration::from_secs(1)).read(&mut failed);
        assert!(mounts.iter().any(|m| m.path == "/"), "{mounts:?}");
    }
}
