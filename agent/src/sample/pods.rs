//! The names of pods: what a cgroup's uid and container id are called, out of the names in `/var/log/pods` and
//! `/var/log/containers`.
//!
//! The kubelet makes both: a folder `<namespace>_<name>_<uid>` for each pod, a link `<pod>_<namespace>_<container>-<id>.log`
//! for each container. Only names are read; links are not followed. A folder is listed again when its mtime changed, at
//! most every [`PAUSE_NS`], and every [`REFRESH_NS`] in any case.
//!
//! Limits: [`MAX_PODS`] and [`MAX_CONTAINERS`], those beyond have no names. A container is named only by its link, so that
//! one that runs for a moment may have none yet. Names that no API server would have admitted are left out
//! ([`crate::pod`]).
//!
//! Deliberately absent: the cluster, the runtime's socket, `/var/lib/kubelet`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dogwatch::record::Pod;

use crate::pod;

/// Not listed again sooner, however often pods come and go.
const PAUSE_NS: u64 = 2_000_000_000;
/// Listed again after this long even if nothing seems to have changed: mtimes have a grain.
const REFRESH_NS: u64 = 30_000_000_000;
/// The kubelet runs 110 by default and 500 at most in practice; folders of ended ones stay for a while. Some 0.5 MiB.
const MAX_PODS: usize = 4_096;
/// Some 2 MiB.
const MAX_CONTAINERS: usize = 8_192;

/// What is called how.
#[derive(Debug)]
pub struct Pods {
    folders: Listing,
    links: Listing,
    by_uid: HashMap<String, Pod>,
    by_container: HashMap<String, Pod>,
}

impl Pods {
    /// Names out of `pods` and `containers` in `log`, which is the node's `/var/log`. Nothing is read yet.
    pub fn new(log: &Path) -> Self {
        Self {
            folders: Listing::new(log.join("pods")),
            links: Listing::new(log.join("containers")),
            by_uid: HashMap::new(),
            by_container: HashMap::new(),
        }
    }

    /// Lists again what changed. A folder that is not there is that of a node without pods.
    pub fn refresh(&mut self, now_ns: u64) {
        if let Some(names) = self.folders.changed(now_ns, MAX_PODS) {
            let pods = names.iter().filter_map(|n| pod::from_log_folder(n));
            self.by_uid = pods.map(|p| (p.uid.clone(), p)).collect();
        }
        if let Some(names) = self.links.changed(now_ns, MAX_CONTAINERS) {
            let pods = names.iter().filter_map(|n| pod::from_container_log(n));
            self.by_container = pods.map(|p| (p.container_id.clone(), p)).collect();
        }
    }

    /// Every pod that has a name, by its folder of logs.
    pub fn named(&self) -> impl Iterator<Item = &Pod> {
        self.by_uid.values()
    }

    /// Whose the control group at `path` is, with every name that is known; `None`: no pod's.
    pub fn of_cgroup(&self, path: &str) -> Option<Pod> {
        let mut pod = pod::from_cgroup_path(path)?;
        if let Some(named) = self.by_uid.get(&pod.uid) {
            (pod.namespace, pod.name) = (named.namespace.clone(), named.name.clone());
        }
        if let Some(link) = self.by_container.get(&pod.container_id) {
            // The folder has the uid in its name and so is believed first.
            if pod.name.is_empty() {
                (pod.namespace, pod.name) = (link.namespace.clone(), link.name.clone());
            }
            if (&pod.namespace, &pod.name) == (&link.namespace, &link.name) {
                pod.container = link.container.clone();
            }
        }
        Some(pod)
    }
}

/// Names in a folder, as of when it last changed.
#[derive(Debug)]
struct Listing {
    path: PathBuf,
    read_ns: Option<u64>,
    mtime: Option<(i64, i64)>,
}

impl Listing {
    fn new(path: PathBuf) -> Self {
        Self { path, read_ns: None, mtime: None }
    }

    /// The names if they may have changed, at most `max`.
    fn changed(&mut self, now_ns: u64, max: usize) -> Option<Vec<String>> {
        let since = self.read_ns.map(|at| now_ns.saturating_sub(at));
        if since.is_some_and(|ns| ns < PAUSE_NS) {
            return None;
        }
        let mtime = fs::metadata(&self.path).ok().map(|m| (m.mtime(), m.mtime_nsec()));
        if mtime == self.mtime && since.is_some_and(|ns| ns < REFRESH_NS) {
            return None;
        }
        (self.read_ns, self.mtime) = (Some(now_ns), mtime);
        let Ok(entries) = fs::read_dir(&self.path) else { return Some(Vec::new()) };
        Some(entries.take(max).filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "12345678-9abc-def0-1234-56789abcdef0";
    const SECOND: u64 = 1_000_000_000;

    struct Logs(tempfile::TempDir);

    impl Logs {
        fn new() -> Self {
            Self::within(tempfile::tempdir().unwrap())
        }

        fn within(dir: tempfile::TempDir) -> Self {
            let logs = Self(dir);
            fs::create_dir(logs.0.path().join("pods")).unwrap();
            fs::create_dir(logs.0.path().join("containers")).unwrap();
            logs
        }

        fn pod(&self, folder: &str) {
            fs::create_dir(self.0.path().join("pods").join(folder)).unwrap();
        }

        fn link(&self, name: &str) {
            std::os::unix::fs::symlink("/nowhere", self.0.path().join("containers").join(name)).unwrap();
        }
    }

    fn id() -> String {
        "ab".repeat(32)
    }

    #[test]
    fn a_cgroup_gets_the_names_of_its_pod_and_container() {
        let logs = Logs::new();
        logs.pod(&format!("shop_web-0_{UID}"));
        logs.link(&format!("web-0_shop_app-{}.log", id()));
        let mut pods = Pods::new(logs.0.path());
        let path = format!("/kubepods/burstable/pod{UID}/{}", id());
        assert_eq!(pods.of_cgroup(&path).unwrap().name, "", "nothing is read before the first refresh");
        pods.refresh(SECOND);
        let pod = pods.of_cgroup(&path).unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.container.as_str()),
            ("shop", "web-0", "app")
        );
        assert_eq!((pod.uid.as_str(), pod.container_id), (UID, id()));
        let own = pods.of_cgroup(&format!("/kubepods/burstable/pod{UID}")).unwrap();
        assert_eq!((own.name.as_str(), own.container.as_str()), ("web-0", ""));
        assert_eq!(pods.of_cgroup("/system.slice/sshd.service"), None);
    }

    #[test]
    fn a_new_pod_is_found_when_the_folder_changes_and_a_gone_one_is_forgotten() {
        let logs = Logs::new();
        let mut pods = Pods::new(logs.0.path());
        pods.refresh(SECOND);
        let folder = format!("shop_web-0_{UID}");
        logs.pod(&folder);
        let name = |pods: &Pods| pods.of_cgroup(&format!("/kubepods/pod{UID}")).unwrap().name;
        pods.refresh(2 * SECOND);
        assert_eq!(name(&pods), "", "not listed again so soon");
        pods.refresh(4 * SECOND);
        assert_eq!(name(&pods), "web-0");
        fs::remove_dir(logs.0.path().join("pods").join(folder)).unwrap();
        pods.refresh(40 * SECOND);
        assert_eq!(name(&pods), "");
    }

    #[test]
    fn names_that_no_api_server_admits_and_links_that_disagree_name_nothing() {
        let logs = Logs::new();
        logs.pod(&format!("shop_we\u{1b}[2Jb_{UID}"));
        logs.pod(&format!("-shop_web_{UID}"));
        logs.link(&format!("we\u{1b}b_shop_app-{}.log", id()));
        let mut pods = Pods::new(logs.0.path());
        pods.refresh(SECOND);
        let path = format!("/kubepods/burstable/pod{UID}/{}", id());
        assert_eq!(pods.of_cgroup(&path).unwrap().name, "");
        logs.pod(&format!("shop_web-0_{UID}"));
        logs.link(&format!("other_shop_app-{}.log", id()));
        pods.refresh(40 * SECOND);
        let pod = pods.of_cgroup(&path).unwrap();
        assert_eq!((pod.name.as_str(), pod.container.as_str()), ("web-0", ""));
    }

    #[test]
    fn a_flood_of_folders_is_bounded() {
        // In memory: a disk takes its time to make so many.
        let logs = Logs::within(tempfile::tempdir_in("/dev/shm").unwrap());
        for i in 0..MAX_PODS + 100 {
            logs.pod(&format!("shop_web-{i}_{i:032x}"));
        }
        let mut pods = Pods::new(logs.0.path());
        pods.refresh(SECOND);
        assert_eq!(pods.by_uid.len(), MAX_PODS);
    }

    #[test]
    fn a_node_without_pods_is_no_failure() {
        let mut pods = Pods::new(Path::new("/nonexistent"));
        pods.refresh(SECOND);
        assert_eq!(pods.of_cgroup("/"), None);
    }
}
