//! Sampling: a node's vital signs, once a tick.
//!
//! [`Sampler`] reads, [`Ticker`] says when. Plain threads, no async: a tick reads some twenty files of `/proc` and asks
//! each filesystem for its figures, and nothing here may wait for anything else. Every reader takes its root, keeps its
//! descriptors and buffers, and costs the kernel's own work and little more. What changes rarely (limits, what sysfs
//! says of devices and links) is read every tenth or sixtieth tick.
//!
//! A probe that fails costs its part of the sample and a line in `failed`, never the sample.
//!
//! Deliberately absent: thresholds and judgement (that is [`crate::detect`]), clocks of records, storage.

mod cgroups;
mod cpu;
mod disks;
mod interfaces;
mod limits;
mod memory;
pub(crate) mod mountinfo;
mod mounts;
mod netstack;
mod pods;
mod pressure;
pub(crate) mod processes;
mod procfile;
mod rare;
mod remote;
mod roster;
mod self_cost;
pub(crate) mod superblock;
mod thrift;
mod ticker;
mod timex;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dogwatch::record::Sample;
use rustix::time::{ClockId, clock_gettime};

use cgroups::{CgroupOptions, CgroupProbe};
use cpu::{CpuProbe, CpuReading};
use disks::DiskProbe;
use interfaces::InterfaceProbe;
use limits::LimitsProbe;
use memory::MemoryProbe;
use mounts::MountProbe;
use netstack::NetStackProbe;
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
        // Readers that follow no link beneath it must not meet one in its own name.
        let real = rootfs.canonicalize();
        let rootfs = real.as_deref().unwrap_or(rootfs);
        Self {
            proc: rootfs.join("proc"),
            sys: rootfs.join("sys"),
            mountinfo: rootfs.join("proc/1/mountinfo"),
            rootfs: rootfs.to_owned(),
            log: rootfs.join("var/log"),
        }
    }

    /// Where the figures of the host's network namespace are: with process 1, or, where that cannot be read, with the
    /// agent itself. `/proc/net` would be the agent's own also when `proc` is the host's.
    fn net(&self) -> PathBuf {
        let of = |pid: &str| self.proc.join(pid).join("net");
        let readable = |net: &PathBuf| File::open(net.join("dev")).is_ok();
        // With neither, the failures name what was wanted.
        [of("1"), of("self")].into_iter().find(readable).unwrap_or_else(|| of("1"))
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
    /// Whether each CPU's times are read besides their sum.
    pub per_core: bool,
    /// Whether block devices are read.
    pub disks: bool,
    /// Whether interfaces and the network stack are read.
    pub network: bool,
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
    /// else together, and fill the evidence of an idle node. No single CPUs, which on a large node are half a sample.
    fn default() -> Self {
        Self {
            processes: true,
            top_processes: 10,
            process_budget: Duration::from_millis(25),
            remote_deadline: Duration::from_millis(200),
            per_core: false,
            disks: true,
            network: true,
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
    limits: LimitsProbe,
    disks: Option<DiskProbe>,
    network: Option<(InterfaceProbe, NetStackProbe)>,
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
    /// A sampler beneath `roots`. Looks whose network namespace it can read and opens nothing else yet; what cannot be
    /// opened is said by each sample.
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
            memory: MemoryProbe::new(&roots.proc, page_bytes),
            cpu: CpuProbe::new(&roots.proc, ticks_per_second, options.per_core),
            limits: LimitsProbe::new(&roots.proc),
            disks: options.disks.then(|| DiskProbe::new(&roots.proc, &roots.sys)),
            network: options.network.then(|| {
                let net = roots.net();
                let stack = NetStackProbe::new(&net, &roots.proc, page_bytes);
                (InterfaceProbe::new(&net, &roots.sys), stack)
            }),
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
        let mounts = self.mounts.read(failed);
        let memory = self.memory.read(failed);
        let CpuReading { cpu, cores, tasks } = self.cpu.read(failed);
        let (interfaces, net) = match &mut self.network {
            Some((interfaces, stack)) => (interfaces.read(failed), stack.read(failed)),
            None => (Vec::new(), None),
        };
        let scanned = self.processes.as_mut().map(|p| p.read(now_ns, &self.pods, failed)).unwrap_or_default();
        let cgroups = self.cgroups.as_mut().map(|c| c.read(now_ns, &self.pods, failed)).unwrap_or_default();
        Sample {
            mounts,
            memory,
            cpu,
            cores,
            disks: self.disks.as_mut().map(|d| d.read(failed)).unwrap_or_default(),
            interfaces,
            net,
            limits: self.limits.read(tasks, failed),
            clock: timex::read(failed),
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
        assert!(sample.processes.is_empty() && sample.disks.is_empty() && sample.interfaces.is_empty());
        assert!(sample.net.is_none() && sample.limits.is_none());
        for probe in [
            "mounts: ",
            "memory: ",
            "cpu: ",
            "interfaces: ",
            "network: ",
            "processes: ",
            "cgroups: ",
            "self: ",
        ] {
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
        assert!(sample.memory.is_some() && sample.cpu.is_some() && sample.cores.is_empty());
        assert!(sample.net.is_some() && sample.limits.is_some() && sample.clock.is_some());
        assert!(sample.interfaces.iter().any(|i| i.name == "lo"), "{:?}", sample.interfaces);
        assert!(sample.self_cost.resident_bytes > 0);
    }

    #[test]
    fn a_hostile_host_is_survived_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let files = "stat meminfo vmstat loadavg diskstats pressure/cpu pressure/io pressure/memory 1/mountinfo \
                     1/net/dev 1/net/snmp 1/net/snmp6 1/net/netstat 1/net/sockstat 1/net/sockstat6 \
                     1/net/stat/nf_conntrack 1/stat self/statm sys/fs/file-nr sys/kernel/pid_max \
                     sys/kernel/threads-max sys/net/netfilter/nf_conntrack_max";
        // Binary, one endless number, one endless line of them, the right beginning and then nothing, many short lines.
        let hostile: [Vec<u8>; 5] = [
            (0..=255).cycle().take(2 << 20).collect(),
            vec![b'9'; 2 << 20],
            b"18446744073709551615 ".repeat(100_000),
            b"cpu  1 2".to_vec(),
            b"a: 1 |\n".repeat(100_000),
        ];
        let roots = Roots::of_host(dir.path());
        for text in hostile {
            for file in files.split_whitespace() {
                let path = roots.proc.join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, &text).unwrap();
            }
            let mut sampler =
                Sampler::new(roots.clone(), SampleOptions { per_core: true, ..SampleOptions::default() });
            for _ in 0..2 {
                let sample = sampler.sample();
                assert!(sample.memory.is_none() && sample.cpu.is_none() && sample.net.is_none());
                assert!(sample.interfaces.is_empty() && sample.disks.is_empty() && sample.cores.is_empty());
                assert!(sample.failed.len() <= Failures::MAX + 1);
                for probe in ["memory: ", "cpu: ", "disks: ", "network: ", "limits: "] {
                    assert!(
                        sample.failed.iter().any(|f| f.starts_with(probe)),
                        "{probe} in {:?}",
                        sample.failed
                    );
                }
            }
        }
    }

    #[test]
    fn the_network_is_that_of_process_1_or_else_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::of_host(dir.path());
        let proc = dir.path().join("proc");
        assert_eq!(roots.net(), proc.join("1/net"), "what is wanted is named where neither can be read");
        for pid in ["self", "1"] {
            std::fs::create_dir_all(proc.join(pid).join("net")).unwrap();
            std::fs::write(proc.join(pid).join("net/dev"), "").unwrap();
            assert_eq!(roots.net(), proc.join(pid).join("net"));
        }
    }

    #[test]
    fn what_is_switched_off_is_not_read() {
        let off =
            SampleOptions { disks: false, network: false, processes: false, ..SampleOptions::default() };
        let sample = Sampler::new(Roots::default(), off).sample();
        assert!(sample.disks.is_empty() && sample.interfaces.is_empty() && sample.net.is_none());
        let cores = SampleOptions { per_core: true, processes: false, ..SampleOptions::default() };
        let sample = Sampler::new(Roots::default(), cores).sample();
        assert_eq!(sample.cores.len(), sample.cpu.unwrap().online as usize);
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
