//! Whose a folder of the node is, by where it lies: the kubelet's folders of pods and their logs, and the folders in which
//! the runtime's overlays keep what containers write.
//!
//! Pure. Only folders that the kubelet and the runtime make are believed, at the places on the node where they make them; what
//! a pod calls a folder within its own says nothing. A folder whose pod has no known name is that of "pod <uid>".
//!
//! Sources: the kubelet's `pkg/kubelet/kubelet_getters.go` (`pods/<uid>/volumes/<plugin>/<name>`, `~` for the `/` of a
//! plugin's name), the kubelet's log folders ([`crate::pod`]), overlayfs.rst (`upperdir`).
//!
//! Limits: a kubelet with another `--root-dir` is not known. A hostPath lies anywhere and is nobody's by its path; who writes
//! there is told by the files that are open ([`super::blame`]).

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use dogwatch::record::Pod;

use crate::pod;

const KUBELET_PODS: &str = "/var/lib/kubelet/pods";
const LOG_PODS: &str = "/var/log/pods";
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";

/// Whose a folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The pod; without a name where none is known.
    pub pod: Pod,
    /// Which part of it: `emptyDir cache`, `container logs`, `writable layer`.
    pub part: String,
    /// Whether only that pod and the node itself write there: a volume may be mounted by several.
    pub is_alone: bool,
}

/// What is known of the node's pods.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    /// By the folder on the node in which a container's overlay keeps what is written.
    pub layers: BTreeMap<PathBuf, Pod>,
    /// By uid: namespace and name.
    pub named: BTreeMap<String, Pod>,
}

impl Layout {
    /// Whose the folder `path` is, an absolute path on the node; `None`: nobody's, or unknown.
    pub fn of(&self, path: &Path) -> Option<Owner> {
        self.of_layer(path).or_else(|| self.of_volume(path)).or_else(|| of_logs(path))
    }

    fn of_layer(&self, path: &Path) -> Option<Owner> {
        let pod = path.ancestors().find_map(|folder| self.layers.get(folder))?;
        Some(Owner { pod: pod.clone(), part: "writable layer".to_owned(), is_alone: true })
    }

    fn of_volume(&self, path: &Path) -> Option<Owner> {
        let mut parts = names(path.strip_prefix(KUBELET_PODS).ok()?)?.into_iter();
        let uid = parts.next()?;
        // As a group of that uid would be called, so that one place knows what a uid is.
        let unnamed = pod::from_cgroup_path(&format!("/kubepods/pod{uid}"))?;
        let pod = self.named.get(uid).cloned().unwrap_or(unnamed);
        let part = match (parts.next(), parts.next(), parts.next()) {
            (Some("volumes"), Some(EMPTY_DIR), Some(name)) => format!("emptyDir {name}"),
            (Some("volumes"), Some(plugin), Some(name)) => {
                format!("volume {name} ({})", plugin.replacen('~', "/", 1))
            }
            (Some("volumes"), ..) => "volumes".to_owned(),
            _ => "kubelet's folder".to_owned(),
        };
        let is_alone = !part.starts_with("volume ");
        Some(Owner { pod, part, is_alone })
    }
}

fn of_logs(path: &Path) -> Option<Owner> {
    let mut parts = names(path.strip_prefix(LOG_PODS).ok()?)?.into_iter();
    let pod = pod::from_log_folder(parts.next()?)?;
    let container = parts.next().unwrap_or_default();
    let part = if container.is_empty() { "logs".to_owned() } else { format!("logs of {container}") };
    Some(Owner { pod, part, is_alone: true })
}

/// The parts of a relative path, all of them names.
fn names(path: &Path) -> Option<Vec<&str>> {
    path.components().map(|c| if let Component::Normal(name) = c { name.to_str() } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f3a2b1c-0000-4000-8000-00000000000a";

    fn said(layout: &Layout, path: &str) -> Option<(String, String)> {
        layout.of(Path::new(path)).map(|o| {
            let name = if o.pod.name.is_empty() { o.pod.uid } else { o.pod.name };
            (name, o.part)
        })
    }

    #[test]
    fn the_kubelets_and_the_runtimes_folders_are_pods() {
        let web = Pod { namespace: "shop".into(), name: "web-1".into(), uid: UID.into(), ..Pod::default() };
        let layer = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs";
        let known =
            Layout { layers: [(layer.into(), web.clone())].into(), named: [(UID.to_owned(), web)].into() };
        let pods = format!("/var/lib/kubelet/pods/{UID}");
        for (path, part) in [
            (format!("{pods}/volumes/kubernetes.io~empty-dir/cache"), "emptyDir cache"),
            (format!("{pods}/volumes/kubernetes.io~empty-dir/cache/a/b"), "emptyDir cache"),
            (format!("{pods}/volumes/kubernetes.io~csi/pv-1/mount"), "volume pv-1 (kubernetes.io/csi)"),
            (format!("{pods}/volumes"), "volumes"),
            (pods.clone(), "kubelet's folder"),
            (format!("/var/log/pods/shop_web-1_{UID}"), "logs"),
            (format!("/var/log/pods/shop_web-1_{UID}/app"), "logs of app"),
            (layer.to_owned(), "writable layer"),
            (format!("{layer}/tmp/deep"), "writable layer"),
        ] {
            assert_eq!(said(&known, &path), Some(("web-1".to_owned(), part.to_owned())), "{path}");
        }
        // Without a name it is told by its uid; a layer that no process has is nobody's.
        let unknown = Layout::default();
        assert_eq!(said(&unknown, &pods), Some((UID.to_owned(), "kubelet's folder".to_owned())));
        assert_eq!(said(&unknown, layer), None);
    }

    #[test]
    fn what_only_looks_like_it_is_nobodys() {
        let known = Layout::default();
        for path in [
            format!("/srv/var/lib/kubelet/pods/{UID}/volumes"),
            "/var/lib/kubelet/pods/not-a-uid/volumes".to_owned(),
            "/var/lib/kubelet/pods".to_owned(),
            format!("/var/lib/kubelet/pods/../pods/{UID}"),
            "/var/log/pods/shop_web-1".to_owned(),
            format!("/tmp/shop_web-1_{UID}/app"),
            "/".to_owned(),
        ] {
            assert_eq!(said(&known, &path), None, "{path}");
        }
    }
}
