//! Whose the listed processes are: their cgroup, and the pod behind it.
//!
//! A process hardly ever changes its cgroup, and the top of a node is much the same from second to second. Reading the
//! cgroup of each at each scan was a fifth of all files that an idle agent opened; so it is remembered for
//! [`REMEMBERED_NS`], or until the process is no longer listed.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use dogwatch::record::{Pod, Tasks};

use super::stat::{cgroup_path, read_beneath};
use crate::sample::pods::Pods;

/// A process that was moved is shown where it was for at most this long.
const REMEMBERED_NS: u64 = 30_000_000_000;

/// What is remembered of processes that are listed; never more than one scan lists.
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
        let fresh =
            |k: &Known| k.start_ticks == start_ticks && now_ns.saturating_sub(k.read_ns) < REMEMBERED_NS;
        let cgroup = match self.known.get_mut(&pid).filter(|k| fresh(k)) {
            Some(known) => {
                known.listed = true;
                known.cgroup.clone()
            }
            None => {
                let read = read_beneath(dir, pid, c"/cgroup", buf).ok();
                let cgroup = read.and_then(|len| cgroup_path(&buf[..len])).unwrap_or_default();
                let known = Known { start_ticks, cgroup: cgroup.clone(), read_ns: now_ns, listed: true };
                self.known.insert(pid, known);
                cgroup
            }
        };
        let pod = pods.of_cgroup(&cgroup);
        (cgroup, pod)
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

    /// Forgets those that this scan did not list.
    pub(super) fn end_scan(&mut self) {
        self.known.retain(|_, k| std::mem::take(&mut k.listed));
    }
}
