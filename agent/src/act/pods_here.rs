//! Which pods this node still has, as the kubelet's folder and the control groups tell it.
//!
//! A pod's logs outlive its processes: those of a job that ended are still what `kubectl logs` shows. What ends with the
//! pod itself is its folder beneath the kubelet's `pods` (made before the pod's first log, removed when the API server
//! has forgotten the pod; kubelet source, `kubelet_pods.go`, `makePodDataDirs` and `cleanupOrphanedPodDirs`). So that folder
//! decides, and a control group that is still there has a veto.
//!
//! Invariants
//! - Gone is only what both say is gone; where the kubelet's folder cannot be seen, nothing is. Control groups that
//!   cannot be seen have no say.
//! - A folder that does not know a single one of the pods that run here is another node's, or an old one: then nobody
//!   can tell. Nor can an empty folder tell; it may be the wrong one.
//! - Both folders are opened before the executor confines itself; it may list them from then on, and read nothing.
//!
//! Deliberately absent: the cluster's API and the runtime's socket.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::beneath;
use crate::pod::{from_cgroup_path, is_uid};

/// Most folders that are looked into for pods' groups; a node has a few hundred, and of each hierarchy of v1 again.
const MAX_GROUPS: usize = 20_000;
/// Deepest that a pod's group may lie: `kubelet.slice/kubelet-kubepods.slice/…` beneath a controller of v1, with room.
const MAX_GROUP_DEPTH: usize = 8;
/// Most entries of the kubelet's folder; a node has some hundred pods.
const MAX_PODS: usize = 10_000;

/// Where the node keeps what tells its pods, as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRoots {
    /// The kubelet's folder of pods, one folder named by its uid for each.
    pub kubelet_pods: PathBuf,
    /// The control groups' filesystem: version 2, or the folder of version 1's hierarchies.
    pub cgroups: PathBuf,
}

impl Default for PodRoots {
    fn default() -> Self {
        Self::of_host(Path::new("/"))
    }
}

impl PodRoots {
    /// Those of a host whose root is at `host_root`.
    pub fn of_host(host_root: &Path) -> Self {
        Self {
            kubelet_pods: host_root.join("var/lib/kubelet/pods"),
            cgroups: host_root.join("sys/fs/cgroup"),
        }
    }
}

/// The two folders, open, or why one is not.
#[derive(Debug)]
pub(super) struct PodWitness {
    pub(super) kubelet_pods: Result<OwnedFd, String>,
    pub(super) cgroups: Result<OwnedFd, String>,
}

impl PodWitness {
    /// Opens what there is.
    pub(super) fn open(roots: &PodRoots) -> Self {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| format!("{}: {e}", path.display()))
        };
        Self { kubelet_pods: open(&roots.kubelet_pods), cgroups: open(&roots.cgroups) }
    }

    /// What they say now.
    pub(super) fn look(&self) -> PodsHere {
        let look = |at: &Result<OwnedFd, String>, list: fn(&OwnedFd) -> Result<HashSet<String>, String>| {
            at.as_ref().map_err(Clone::clone).and_then(list)
        };
        PodsHere { kubelet: look(&self.kubelet_pods, folders_of_pods), groups: look(&self.cgroups, groups_of_pods) }
    }

    /// Whether the kubelet has a folder of this pod at this moment; an error counts as one.
    pub(super) fn has_folder(&self, uid: &str) -> bool {
        let Ok(pods) = &self.kubelet_pods else { return true };
        !matches!(beneath::facts_at(pods, uid), Err(Errno::NOENT))
    }
}

/// The uids of the pods that are here, by each witness, or why it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodsHere {
    pub(super) kubelet: Result<HashSet<String>, String>,
    pub(super) groups: Result<HashSet<String>, String>,
}

impl PodsHere {
    /// Whether the pod is gone, and by whose word; an error says why nobody can tell.
    pub(super) fn is_gone(&self, uid: &str) -> Result<Option<&'static str>, String> {
        let unknown = |why: String| format!("nobody can tell whether its pod is gone: {why}");
        let kubelet = self.kubelet.as_ref().map_err(|why| unknown(why.clone()))?;
        if kubelet.is_empty() {
            return Err(unknown("the kubelet's folder of pods is empty, and may be the wrong one".to_owned()));
        }
        let word = match &self.groups {
            Ok(groups) if !groups.is_empty() && groups.is_disjoint(kubelet) => {
                let why = "the kubelet's folder of pods knows none of the pods that run here".to_owned();
                return Err(unknown(why));
            }
            Ok(groups) if groups.contains(uid) => return Ok(None),
            Ok(_) => "the kubelet has no folder of its pod and no control group is left of it",
            Err(_) => "the kubelet has no folder of its pod (control groups could not be seen)",
        };
        Ok((!kubelet.contains(uid)).then_some(word))
    }
}

/// The uids in the kubelet's folder of pods.
fn folders_of_pods(folder: &OwnedFd) -> Result<HashSet<String>, String> {
    let failed = |e: Errno| format!("the kubelet's folder of pods cannot be read: {e}");
    let mut uids = HashSet::new();
    for (count, entry) in rustix::fs::Dir::read_from(folder).map_err(failed)?.enumerate() {
        if count > MAX_PODS {
            return Err(format!("the kubelet's folder of pods has more than {MAX_PODS} entries"));
        }
        let entry = entry.map_err(failed)?;
        uids.extend(entry.file_name().to_str().ok().filter(|name| is_uid(name)).map(str::to_owned));
    }
    Ok(uids)
}

/// The uids that control groups bear, in whichever hierarchy and however deep; pods' own groups are not entered.
fn groups_of_pods(root: &OwnedFd) -> Result<HashSet<String>, String> {
    let failed = |e: Errno| format!("control groups cannot be read: {e}");
    let mut uids = HashSet::new();
    let mut looked = 0;
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        looked += 1;
        if looked > MAX_GROUPS {
            return Err(format!("there are more than {MAX_GROUPS} control groups"));
        }
        let at = if relative.as_os_str().is_empty() { Path::new(".") } else { &relative };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = match rustix::fs::openat(root, at, flags, Mode::empty()) {
            Ok(folder) => folder,
            // Groups end all the time.
            Err(Errno::NOENT | Errno::NODEV) if looked > 1 => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in rustix::fs::Dir::read_from(&folder).map_err(failed)? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::NOENT | Errno::NODEV) if looked > 1 => break,
                Err(error) => return Err(failed(error)),
            };
            let Ok(name) = entry.file_name().to_str() else { continue };
            if entry.file_type() != FileType::Directory || name == "." || name == ".." {
                continue;
            }
            let path = relative.join(name);
            match path.to_str().and_then(from_cgroup_path) {
                Some(pod) => {
                    uids.insert(pod.uid);
                }
                None if path.components().count() < MAX_GROUP_DEPTH => waiting.push(path),
                None => {}
            }
        }
    }
    Ok(uids)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RUNS: &str = "11111111-1111-1111-1111-111111111111";
    const ENDED: &str = "22222222-2222-2222-2222-222222222222";
    const GONE: &str = "33333333-3333-3333-3333-333333333333";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    fn host(folders: &[&str], groups: &[&str]) -> (tempfile::TempDir, PodRoots) {
        let temp = tempfile::tempdir().unwrap();
        let roots = PodRoots::of_host(temp.path());
        for (base, names) in [(&roots.kubelet_pods, folders), (&roots.cgroups, groups)] {
            fs::create_dir_all(base).unwrap();
            names.iter().for_each(|n| fs::create_dir_all(base.join(n)).unwrap());
        }
        (temp, roots)
    }

    fn slice(uid: &str) -> String {
        format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice", uid.replace('-', "_"))
    }

    #[test]
    fn gone_is_what_both_say_is_gone() {
        let groups = [&*slice(RUNS), &*slice(STATIC)];
        let (_host, roots) = host(&[RUNS, ENDED, STATIC], &groups);
        let witness = PodWitness::open(&roots);
        let here = witness.look();
        assert!(here.is_gone(GONE).unwrap().unwrap().contains("no control group"));
        for stays in [RUNS, ENDED, STATIC] {
            assert_eq!(here.is_gone(stays), Ok(None), "{stays}");
        }
        assert!(witness.has_folder(ENDED) && !witness.has_folder(GONE));
        // A static pod whose processes end and begin again keeps its folder; one that only has a group is being removed.
        fs::remove_dir(roots.kubelet_pods.join(RUNS)).unwrap();
        assert_eq!(witness.look().is_gone(RUNS), Ok(None), "its group has a veto");
        fs::remove_dir(roots.cgroups.join(slice(RUNS))).unwrap();
        assert!(witness.look().is_gone(RUNS).unwrap().is_some());
        fs::create_dir(roots.kubelet_pods.join(GONE)).unwrap();
        assert_eq!(witness.look().is_gone(GONE), Ok(None), "a pod that is being made");
    }

    #[test]
    fn groups_of_both_drivers_and_versions_are_found() {
        let v1 = format!("memory/kubepods/besteffort/pod{RUNS}");
        let nested = format!("kubelet.slice/kubelet-{}", slice(ENDED).replace("kubepods-", "kubelet-kubepods-"));
        let (_host, roots) = host(&[], &[&v1, &nested, "system.slice/ssh.service"]);
        let found = PodWitness::open(&roots).look().groups.unwrap();
        assert_eq!(found, HashSet::from([RUNS.to_owned(), ENDED.to_owned()]));
    }

    #[test]
    fn a_folder_that_cannot_be_the_right_one_tells_nothing() {
        let (_host, empty) = host(&[], &[&slice(RUNS)]);
        assert!(PodWitness::open(&empty).look().is_gone(GONE).unwrap_err().contains("empty"));
        let (_host, other) = host(&[ENDED], &[&slice(RUNS)]);
        assert!(PodWitness::open(&other).look().is_gone(GONE).unwrap_err().contains("knows none"));
        let (_host, roots) = host(&[RUNS], &[]);
        fs::remove_dir_all(&roots.kubelet_pods).unwrap();
        let blind = PodWitness::open(&roots);
        assert!(blind.look().is_gone(GONE).unwrap_err().contains("nobody can tell") && blind.has_folder(GONE));
        let (_host, roots) = host(&[RUNS], &[]);
        fs::remove_dir_all(&roots.cgroups).unwrap();
        assert!(PodWitness::open(&roots).look().is_gone(GONE).unwrap().unwrap().contains("could not be seen"));
    }
}
