//! Whose the listed processes are: their cgroup, and the pod behind it.
//!
//! A process hardly ever changes its cgroup, and the top of a node is much the same from second to second. Reading the
//! cgroup of each at each scan was a fifth of all files that an idle agent opened; so it is remembered for
//! [`REMEMBERED_NS`], or until the process is no longer listed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::BorrowedFd;

use dogwatch::record::{Pod, Tasks};

use super::stat::{cgroup_path, read_beneath};
use crate::pod::from_cgroup_path;
use crate::sample::pods::Pods;

/// A process that was moved is shown where it was for at most this long.
const REMEMBERED_NS: u64 = 30_000_000_000;

/// What is remembered of processes that are listed, or that it was asked of whether they should be; never more than one
/// scan lists, and those that hang outside pods while many hang.
#[derive(Default)]
pub(super) struct Listed {
    known: HashMap<u32, Known>,
}

struct Known {
    start_ticks: u64,
    cgroup: String,
    read_ns: u64,
    listed: bool,
}

impl Listed {
    /// The cgroup's path, empty where it cannot be read, and the pod.
    pub(super) fn whose(
        &mut self,
        dir: BorrowedFd<'_>,
        pid: u32,
        start_ticks: u64,
        now_ns: u64,
        pods: &Pods,
        buf: &mut [u8],
    ) -> (String, Option<Pod>) {
        let cgroup = self.cgroup(dir, pid, start_ticks, now_ns, buf).to_owned();
        let pod = pods.of_cgroup(&cgroup);
        (cgroup, pod)
    }

    /// Whether it is in a pod, whatever that is called.
    pub(super) fn is_in_pod(
        &mut self,
        dir: BorrowedFd<'_>,
        pid: u32,
        start_ticks: u64,
        now_ns: u64,
        buf: &mut [u8],
    ) -> bool {
        from_cgroup_path(self.cgroup(dir, pid, start_ticks, now_ns, buf)).is_some()
    }

    fn cgroup(
        &mut self,
        dir: BorrowedFd<'_>,
        pid: u32,
        start_ticks: u64,
        now_ns: u64,
        buf: &mut [u8],
    ) -> &str {
        let read = |buf: &mut [u8]| Known {
            start_ticks,
            cgroup: read_cgroup(dir, pid, buf),
            read_ns: now_ns,
            listed: true,
        };
        let known = match self.known.entry(pid) {
            Entry::Occupied(entry) => {
                let known = entry.into_mut();
                if known.start_ticks != start_ticks || now_ns.saturating_sub(known.read_ns) >= REMEMBERED_NS {
                    *known = read(buf);
                }
                known.listed = true;
                known
            }
            Entry::Vacant(entry) => entry.insert(read(buf)),
        };
        &known.cgroup
    }

    /// Fills in whose the processes of `tasks` are.
    pub(super) fn complete(
        &mut self,
        dir: BorrowedFd<'_>,
        tasks: &mut Tasks,
        now_ns: u64,
        pods: &Pods,
        buf: &mut [u8],
    ) {
        let mut of = |pid, start_ticks| self.whose(dir, pid, start_ticks, now_ns, pods, buf);
        for t in &mut tasks.stuck {
            (t.cgroup, t.pod) = of(t.pid, t.start_ticks);
        }
        // One that is gone has no cgroup any more, and its number may be another's.
        for t in tasks.spawners.iter_mut().filter(|t| t.start_ticks != 0) {
            (t.cgroup, t.pod) = of(t.pid, t.start_ticks);
        }
        for t in &mut tasks.descriptors {
            (t.cgroup, t.pod) = of(t.pid, t.start_ticks);
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.known.len()
    }

    /// Forgets those that this scan did not list.
    pub(super) fn end_scan(&mut self) {
        self.known.retain(|_, k| std::mem::take(&mut k.listed));
    }
}

/// Whether a process is in a pod, remembered by nobody: of any number of them.
pub(super) fn is_in_pod_now(dir: BorrowedFd<'_>, pid: u32, buf: &mut [u8]) -> bool {
    from_cgroup_path(&read_cgroup(dir, pid, buf)).is_some()
}

fn read_cgroup(dir: BorrowedFd<'_>, pid: u32, buf: &mut [u8]) -> String {
    let read = read_beneath(dir, pid, c"/cgroup", buf).ok();
    read.and_then(|len| cgroup_path(&buf[..len])).unwrap_or_default()
}
