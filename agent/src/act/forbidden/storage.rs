//! Container engines', the kubelet's and volumes' folders, wherever they were put: by the names on a path, and by what lies
//! side by side in such a folder alone.
//!
//! Sources: Docker (`daemon/`, its data-root), containerd (a folder `io.containerd.<type>.v<n>.<id>` for each plugin, and
//! `metadata.db` beside `snapshots` in a snapshotter's), containers/storage (CRI-O, Podman: `<driver>`, `<driver>-layers`,
//! `<driver>-images`), the kubelet (`setupDataDirs`), provisioners of local volumes (`pvc-<uid>`, as the claim's volume is
//! called).
//!
//! Limits: a volume that is called otherwise (a `local` or `hostPath` volume of one's own) is not known as one, nor an
//! engine's folder without those neighbours.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::kind_at;
use crate::act::beneath;
use crate::pod::{from_log_folder, is_uid};

/// A pod's UID, as it stands in the kubelet's folders, has at least as many bytes (a static pod's is a hash of 32).
const POD_UID_BYTES: usize = 32;
/// Bytes of a claim's UID.
const CLAIM_UID_BYTES: usize = 36;

/// What lies in such a folder: a name, together with one of those that lie beside it, where there are any.
const MARKERS: &[Marker] = &[
    Marker { name: "overlay2", beside: &["containers", "image", "volumes"], whose: ENGINES },
    // Docker's without layers of its own: containerd keeps them.
    Marker { name: "engine-id", beside: &["containers", "volumes"], whose: ENGINES },
    Marker { name: "volumes/metadata.db", beside: &["containers", "image"], whose: ENGINES },
    Marker { name: "io.containerd.metadata.v1.bolt", beside: &[], whose: ENGINES },
    Marker { name: "io.containerd.content.v1.content", beside: &[], whose: ENGINES },
    Marker { name: "snapshots", beside: &["metadata.db"], whose: ENGINES },
    Marker { name: "overlay-layers", beside: &["overlay"], whose: ENGINES },
    Marker { name: "overlay-images", beside: &["overlay"], whose: ENGINES },
    Marker { name: "vfs-layers", beside: &["vfs"], whose: ENGINES },
    Marker { name: "vfs-images", beside: &["vfs"], whose: ENGINES },
    Marker { name: "plugins_registry", beside: &["pods"], whose: "the kubelet's" },
];
const ENGINES: &str = "a container engine's";

/// What marks a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::act) struct Marker {
    name: &'static str,
    beside: &'static [&'static str],
    whose: &'static str,
}

impl Marker {
    /// That this marks `what`, in words.
    pub(in crate::act) fn said(&self, what: &str) -> String {
        format!("{} marks {what} as {}", self.name, self.whose)
    }
}

/// What marks `folder`, if anything does.
pub(in crate::act) fn storage_marker_in(folder: &OwnedFd) -> Option<Marker> {
    let is_there = |name: &&str| match name.contains('/') {
        true => kind_at(folder, Path::new(name)) == Some(FileType::RegularFile),
        false => !matches!(beneath::facts_at(folder, *name), Err(Errno::NOENT | Errno::NOTDIR)),
    };
    let all = MARKERS.iter().copied();
    all.filter(|m| is_there(&m.name)).find(|m| m.beside.is_empty() || m.beside.iter().any(is_there))
}

/// The part of `path` that only a volume or an engine's folder has, and what it is.
pub(super) fn storage_part(path: &Path) -> Option<String> {
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.iter().find_map(|part| by_one_name(part)).or_else(|| {
        parts.windows(3).find_map(|w| {
            const OF_POD: [&str; 4] = ["volumes", "volume-subpaths", "volumeDevices", "plugins"];
            // A folder of a pod's logs has one for each container, and those are called as whoever made the pod likes.
            let is_pods = w[1].len() >= POD_UID_BYTES && from_log_folder(&w[1]).is_none();
            let of_pod = w[0] == "pods" && is_pods && OF_POD.contains(&&*w[2]);
            let of_engine = w[0] == "volumes" && w[2] == "_data";
            let said = || format!("{}/{}/{}", w[0], w[1], w[2]);
            let of_pod = of_pod.then(|| format!("{} (a pod's volume)", said()));
            of_pod.or_else(|| of_engine.then(|| format!("{} (a container's volume)", said())))
        })
    })
}

fn by_one_name(name: &str) -> Option<String> {
    if name.starts_with("kubernetes.io~") {
        return Some(format!("{name} (a pod's volume)"));
    }
    if name.starts_with("io.containerd.") {
        return Some(format!("{name} (the runtime's own directory)"));
    }
    // Pods that serve a claim are called after it, and so are their folders of logs.
    let is_claim = |at: usize| {
        let uid = name.get(at + "pvc-".len()..).and_then(|rest| rest.get(..CLAIM_UID_BYTES));
        uid.is_some_and(is_uid) && (at == 0 || from_log_folder(name).is_none())
    };
    let is_volume = name.match_indices("pvc-").any(|(at, _)| is_claim(at));
    is_volume.then(|| format!("{name} (a claim's volume)"))
}

/// What marks a folder above `path`, or `path` itself, and that in words.
pub(super) fn why_in_storage(path: &Path) -> Option<String> {
    path.ancestors().find_map(|folder| {
        let marker = storage_marker_in(&super::opened(folder)?)?;
        Some(marker.said(&folder.display().to_string()))
    })
}

#[cfg(test)]
#[path = "storage_tests.rs"]
mod tests;
