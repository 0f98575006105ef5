//! What is known of the node's pods that a path alone does not tell: their names, and which container writes to which layer.
//!
//! Which overlays there are, and where they keep what is written, is read from the node's own table of mounts; whose one is, is
//! told by the processes whose root it is and by their control groups. A layer that processes of two pods have as their root is
//! nobody's. A container without a process has no such mount either.
//!
//! Limits: [`MAX_PROCESSES`] processes are looked at; of a container that only a later one belongs to, the layer is nobody's.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use dogwatch::record::Pod;
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::disk::Disk;
use super::layout::Layout;
use super::open_files::{overlays, read_bounded};
use crate::sample::processes::stat::cgroup_path;
use crate::sample::{Pods, Roots};

/// Processes looked at for one answer, some 20 µs each.
const MAX_PROCESSES: usize = 32_768;

/// Reads what is known now, for folders on the filesystem `device` (its number in the table of mounts).
pub(super) fn layout(roots: &Roots, pods: &Pods, device: u64) -> Layout {
    let named = pods.named().map(|pod| (pod.uid.clone(), pod.clone())).collect();
    Layout { layers: layers(roots, pods, &overlays(roots, &Disk::of(roots, device))), named }
}

fn layers(roots: &Roots, pods: &Pods, overlays: &HashMap<u64, PathBuf>) -> BTreeMap<PathBuf, Pod> {
    let mut found: BTreeMap<PathBuf, Option<Pod>> = BTreeMap::new();
    let Ok(processes) = std::fs::read_dir(&roots.proc) else { return BTreeMap::new() };
    let is_process = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    let processes = processes.flatten().filter(|e| e.file_name().to_str().is_some_and(is_process));
    for process in processes.take(if overlays.is_empty() { 0 } else { MAX_PROCESSES }) {
        let process = process.path();
        let Some(pod) = container(&process, pods) else { continue };
        let Some(layer) = root_device(&process).and_then(|device| overlays.get(&device)) else { continue };
        let kept = found.entry(layer.clone()).or_insert_with(|| Some(pod.clone()));
        if kept.as_ref().is_some_and(|k| k.uid != pod.uid) {
            *kept = None;
        }
    }
    found.into_iter().filter_map(|(layer, pod)| Some((layer, pod?))).collect()
}

fn container(process: &Path, pods: &Pods) -> Option<Pod> {
    let group = cgroup_path(&read_bounded(&process.join("cgroup")).ok()?)?;
    pods.of_cgroup(&group).filter(|pod| !pod.container_id.is_empty())
}

/// The device of a process's root, as far as the kernel has it cached.
fn root_device(process: &Path) -> Option<u64> {
    let facts =
        rustix::fs::statx(CWD, process.join("root"), AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
    Some(rustix::fs::makedev(facts.stx_dev_major, facts.stx_dev_minor))
}
