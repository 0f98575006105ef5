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

use std::cell::RefCell;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath;
use super::policy::RootPolicy;
use crate::pod::{from_cgroup_path, is_uid};

/// Most folders that are looked into for pods' groups; a node has a few hundred, and of each hierarchy of v1 again.
const MAX_GROUPS: usize = 20_000;
/// Deepest that a pod's group may lie: `kubelet.slice/kubelet-kubepods.slice/…` beneath a controller of v1, with room.
const MAX_GROUP_DEPTH: usize = 8;
/// Most entries of the kubelet's folder; a node has some hundred pods.
const MAX_PODS: usize = 10_000;
/// Longest that an answer about control groups serves: a walk costs some milliseconds, and an action asks for each object.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Where a host whose root is at `host_root` has its control groups: version 2's, or version 1's hierarchies.
fn cgroups_of(host_root: &Path) -> PathBuf {
    host_root.join("sys/fs/cgroup")
}

/// Where that host's kubelet has its pods, one folder named by its uid for each; `kubelet_dir` is the host's path.
fn kubelet_pods_of(host_root: &Path, kubelet_dir: &Path) -> PathBuf {
    host_root.join(kubelet_dir.strip_prefix("/").unwrap_or(kubelet_dir)).join("pods")
}

/// What tells a node's pods, asked anew when the last answer is too old.
#[derive(Debug)]
pub(super) struct Pods {
    witness: PodWitness,
    last: RefCell<Option<(Instant, PodsHere)>>,
}

impl Pods {
    /// Opens what tells the pods of the host of `root`.
    pub(super) fn open(root: &RootPolicy) -> Self {
        let pods = kubelet_pods_of(&root.host_root, &root.kubelet_dir);
        let witness = PodWitness::open(&pods, &cgroups_of(&root.host_root));
        Self { witness, last: RefCell::new(None) }
    }

    /// The folders that it lists.
    pub(super) fn folders(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.witness.kubelet_pods, &self.witness.cgroups].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Whether the pod is gone; an error says why nobody can tell. Control groups are as of at most [`MAX_AGE`] ago,
    /// the kubelet's folder of this pod is looked for now.
    pub(super) fn is_gone(&self, uid: &str) -> Result<bool, String> {
        let mut last = self.last.borrow_mut();
        let here = match last.take() {
            Some((at, here)) if at.elapsed() < MAX_AGE => last.insert((at, here)),
            _ => last.insert((Instant::now(), self.witness.look())),
        };
        Ok(here.1.is_gone(uid)? && !self.witness.has_folder(uid))
    }
}

/// The two folders, open, or why one is not.
#[derive(Debug)]
struct PodWitness {
    kubelet_pods: Result<OwnedFd, String>,
    cgroups: Result<OwnedFd, String>,
}

impl PodWitness {
    /// Opens what there is.
    fn open(kubelet_pods: &Path, cgroups: &Path) -> Self {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| format!("{}: {e}", path.display()))
        };
        Self { kubelet_pods: open(kubelet_pods), cgroups: open(cgroups) }
    }

    /// What they say now.
    fn look(&self) -> PodsHere {
        let look = |at: &Result<OwnedFd, String>, list: fn(&OwnedFd) -> Result<HashSet<String>, String>| {
            at.as_ref().map_err(Clone::clone).and_then(list)
        };
        PodsHere {
            kubelet: look(&self.kubelet_pods, folders_of_pods),
            groups: look(&self.cgroups, groups_of_pods),
        }
    }

    /// Whether the kubelet has a folder of this pod at this moment; an error counts as one.
    fn has_folder(&self, uid: &str) -> bool {
        let Ok(pods) = &self.kubelet_pods else { return true };
        !matches!(beneath::facts_at(pods, uid), Err(Errno::NOENT))
    }
}

/// The uids of the pods that are here, by each witness, or why it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PodsHere {
    kubelet: Result<HashSet<String>, String>,
    groups: Result<HashSet<String>, String>,
}

impl PodsHere {
    /// Whether the pod is gone; an error says why nobody can tell.
    fn is_gone(&self, uid: &str) -> Result<bool, String> {
        let unknown = |why: &str| format!("nobody can tell whether its pod is gone: {why}");
        let kubelet = self.kubelet.as_ref().map_err(|why| unknown(why))?;
        if kubelet.is_empty() {
            return Err(unknown("the kubelet's folder of pods is empty, and may be the wrong one"));
        }
        let nobody = HashSet::new();
        let groups = self.groups.as_ref().unwrap_or(&nobody);
        if !groups.is_empty() && groups.is_disjoint(kubelet) {
            return Err(unknown("the kubelet's folder of pods knows none of the pods that run here"));
        }
        Ok(!kubelet.contains(uid) && !groups.contains(uid))
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

    struct Host {
        _temp: tempfile::TempDir,
        kubelet_pods: PathBuf,
        cgroups: PathBuf,
    }

    impl Host {
        fn witness(&self) -> PodWitness {
            PodWitness::open(&self.kubelet_pods, &self.cgroups)
        }
    }

    fn host(folders: &[&str], groups: &[&str]) -> Host {
        let temp = tempfile::tempdir().unwrap();
        let kubelet_pods = kubelet_pods_of(temp.path(), Path::new("/var/lib/kubelet"));
        let cgroups = cgroups_of(temp.path());
        for (base, names) in [(&kubelet_pods, folders), (&cgroups, groups)] {
            fs::create_dir_all(base).unwrap();
            names.iter().for_each(|n| fs::create_dir_all(base.join(n)).unwrap());
        }
        Host { _temp: temp, kubelet_pods, cgroups }
    }

    fn slice(uid: &str) -> String {
        format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice",
            uid.replace('-', "_")
        )
    }

    #[test]
    fn gone_is_what_both_say_is_gone() {
        let groups = [&*slice(RUNS), &*slice(STATIC)];
        let host = host(&[RUNS, ENDED, STATIC], &groups);
        let witness = host.witness();
        let here = witness.look();
        assert_eq!(here.is_gone(GONE), Ok(true));
        for stays in [RUNS, ENDED, STATIC] {
            assert_eq!(here.is_gone(stays), Ok(false), "{stays}");
        }
        assert!(witness.has_folder(ENDED) && !witness.has_folder(GONE));
        fs::remove_dir(host.kubelet_pods.join(RUNS)).unwrap();
        assert_eq!(witness.look().is_gone(RUNS), Ok(false), "its group has a veto");
        fs::remove_dir(host.cgroups.join(slice(RUNS))).unwrap();
        assert_eq!(witness.look().is_gone(RUNS), Ok(true));
        fs::create_dir(host.kubelet_pods.join(GONE)).unwrap();
        assert_eq!(witness.look().is_gone(GONE), Ok(false), "a pod that is being made");
    }

    #[test]
    fn a_pod_that_appears_is_here_at_once() {
        let host = host(&[RUNS], &[&slice(RUNS)]);
        let pods = Pods { witness: host.witness(), last: RefCell::new(None) };
        assert_eq!(pods.is_gone(GONE), Ok(true));
        fs::create_dir(host.kubelet_pods.join(GONE)).unwrap();
        assert_eq!(pods.is_gone(GONE), Ok(false), "though the last answer is not a second old");
    }

    #[test]
    fn groups_of_both_drivers_and_versions_are_found() {
        let v1 = format!("memory/kubepods/besteffort/pod{RUNS}");
        let nested =
            format!("kubelet.slice/kubelet-{}", slice(ENDED).replace("kubepods-", "kubelet-kubepods-"));
        let host = host(&[], &[&v1, &nested, "system.slice/ssh.service"]);
        let found = host.witness().look().groups.unwrap();
        assert_eq!(found, HashSet::from([RUNS.to_owned(), ENDED.to_owned()]));
    }

    #[test]
    fn a_folder_that_cannot_be_the_right_one_tells_nothing() {
        let why = |host: &Host| host.witness().look().is_gone(GONE).unwrap_err();
        assert!(why(&host(&[], &[&slice(RUNS)])).contains("empty"));
        assert!(why(&host(&[ENDED], &[&slice(RUNS)])).contains("knows none"));
        let blind = host(&[RUNS], &[]);
        fs::remove_dir_all(&blind.kubelet_pods).unwrap();
        assert!(why(&blind).contains("nobody can tell") && blind.witness().has_folder(GONE));
        let half = host(&[RUNS], &[]);
        fs::remove_dir_all(&half.cgroups).unwrap();
        assert_eq!(half.witness().look().is_gone(GONE), Ok(true), "the kubelet's folder decides");
    }
}
