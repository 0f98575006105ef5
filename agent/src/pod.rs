//! Whose something is, by its name alone: pods and containers out of control groups' paths and log files' names.
//!
//! Sources: the kubelet's cgroup manager (`pkg/kubelet/cm`: `kubepods[/burstable|/besteffort]/pod<uid>`, by the systemd
//! driver as slices in which `-` of the uid is `_`), the runtimes' names of what lies beneath, and the kubelet's log
//! folders (`/var/log/pods/<namespace>_<name>_<uid>/<container>/<n>.log`), and the links to them that `/var/log/containers` has.
//!
//! Invariants: pure; nothing is allocated for a name that is no pod's. Names come from whoever may make a group or a
//! folder, so each part must be what the API server would have admitted (RFC 1123 labels, a UUID or the hash of a static
//! pod's manifest, 64 hexadecimal digits); a part that is not makes the whole name nobody's.
//!
//! Deliberately absent: reading anything, and asking the cluster or the runtime. Where a group tells the uid alone, the
//! names are joined from log folders elsewhere.

use dogwatch::record::Pod;

/// Longest label of a DNS name (RFC 1123).
const MAX_LABEL: usize = 63;
/// Longest name of a pod: a DNS subdomain.
const MAX_NAME: usize = 253;
/// Digits of a container's id at containerd, CRI-O and Docker.
const ID_DIGITS: usize = 64;

/// The folder of the links that [`from_container_log`] reads.
const LINK_FOLDER: &str = "containers";

/// The pod and container of a log file that lies as the kubelet lays them, `…/<namespace>_<name>_<uid>/<container>/<n>.log`,
/// rotated ones included, or that is one of the links in a folder `containers`; `None` for any other path. Below which
/// folder does not matter: a cluster's log folder may be mounted or kept anywhere, and whoever configures what is read
/// says whom they believe. The container's id is in the links alone, the uid in the others alone.
pub fn from_log_path(path: &str) -> Option<Pod> {
    let mut parts = path.rsplit('/');
    let (file, container, folder) = (parts.next()?, parts.next()?, parts.next()?);
    let numbered = file.starts_with(|c: char| c.is_ascii_digit()) && file.contains(".log");
    let whole = numbered && is_label(container);
    let laid =
        from_log_folder(folder).filter(|_| whole).map(|pod| Pod { container: container.to_owned(), ..pod });
    laid.or_else(|| from_container_log(file).filter(|_| container == LINK_FOLDER))
}

/// The pod of a folder `<namespace>_<name>_<uid>` of logs.
pub fn from_log_folder(folder: &str) -> Option<Pod> {
    let mut parts = folder.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && is_label(namespace) && is_subdomain(name) && is_uid(uid);
    whole.then(|| Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..Pod::default()
    })
}

/// The pod of a link `<name>_<namespace>_<container>-<id>.log` in `/var/log/containers`; its uid is not in it.
pub fn from_container_log(file: &str) -> Option<Pod> {
    let mut parts = file.strip_suffix(".log")?.split('_');
    let (name, namespace, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (container, id) = rest.rsplit_once('-')?;
    let whole = parts.next().is_none()
        && is_subdomain(name)
        && is_label(namespace)
        && is_label(container)
        && is_container_id(id);
    whole.then(|| Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: String::new(),
        container: container.to_owned(),
        container_id: id.to_owned(),
    })
}

/// The uid of a pod, and the id of a container where the path reaches one, of a control group's path; `None` for a group
/// that is no pod's. A path within a container is the container's; of pods within pods it is the outer one, which is the
/// one that this node runs.
pub fn from_cgroup_path(path: &str) -> Option<Pod> {
    let mut beneath = false;
    let mut parts = path.split('/').filter(|p| !p.is_empty());
    while let Some(part) = parts.next() {
        // containerd without SystemdCgroup under a kubelet with it: `<slice>:cri-containerd:<id>`.
        let (group, joined) = match part.split_once(':') {
            Some((slice, rest)) => (slice, Some(rest)),
            None => (part, None),
        };
        if let Some(uid) = pod_uid(group, beneath) {
            let container = match joined {
                Some(rest) => rest.rsplit_once(':').map(|(_, id)| id).filter(|id| is_container_id(id)),
                None => parts.next().and_then(container_id),
            };
            return Some(Pod {
                uid,
                container_id: container.unwrap_or_default().to_owned(),
                ..Pod::default()
            });
        }
        beneath |= is_pods_root(part);
    }
    None
}

/// Whether this is the group that holds every pod: `kubepods`, `kubepods.slice`, or with a prefix by `--cgroup-root`.
fn is_pods_root(part: &str) -> bool {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    name == "kubepods" || name.ends_with("-kubepods")
}

/// The uid in the name of a pod's group; `beneath` that of all pods a cgroupfs driver writes `pod<uid>` alone.
fn pod_uid(group: &str, beneath: bool) -> Option<String> {
    if let Some(slice) = group.strip_suffix(".slice") {
        let (class, uid) = slice.rsplit_once("-pod")?;
        let class =
            class.strip_suffix("-burstable").or_else(|| class.strip_suffix("-besteffort")).unwrap_or(class);
        // Escaped once more where systemd's own escape was used instead.
        let uid = uid.replace("\\x2d", "-").replace('_', "-");
        return (is_pods_root(class) && is_uid(&uid)).then_some(uid);
    }
    let uid = group.strip_prefix("pod").filter(|uid| beneath && is_uid(uid))?;
    Some(uid.to_owned())
}

/// The id in the name of a container's group: `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`,
/// `crio-<id>`, `<id>`. The monitor of CRI-O (`crio-conmon-<id>`) is no container.
fn container_id(group: &str) -> Option<&str> {
    let name = group.strip_suffix(".scope").unwrap_or(group);
    let id =
        ["cri-containerd-", "crio-", "docker-"].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
    is_container_id(id).then_some(id)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_container_id(text: &str) -> bool {
    text.len() == ID_DIGITS && is_lower_hex(text)
}

/// A UUID, or the MD5 of a static pod's manifest.
pub(crate) fn is_uid(text: &str) -> bool {
    match text.len() {
        32 => is_lower_hex(text),
        36 => {
            let lengths = [8, 4, 4, 4, 12];
            let mut parts = text.split('-');
            lengths.iter().all(|n| parts.next().is_some_and(|p| p.len() == *n && is_lower_hex(p)))
                && parts.next().is_none()
        }
        _ => false,
    }
}

pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "12345678-9abc-def0-1234-56789abcdef0";
    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    #[test]
    fn every_driver_and_runtime_names_the_same_container() {
        let (slice, id) = (UID.replace('-', "_"), id());
        for path in [
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{id}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{id}.scope"),
            format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{id}.scope/container/init.scope"),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/docker-{id}.scope"
            ),
            format!("/kubepods/burstable/pod{UID}/{id}"),
            format!("/kubepods/pod{UID}/crio-{id}"),
            format!(
                "/system.slice/containerd.service/kubepods-besteffort-pod{slice}.slice:cri-containerd:{id}"
            ),
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/cri-containerd-{id}.scope"
            ),
            // Within a container of a service, or of a rootless user.
            format!("/system.slice/k3s.service/kubepods/besteffort/pod{UID}/{id}"),
            format!("/user.slice/user-1000.slice/user@1000.service/k3s-rootless/kubepods/pod{UID}/{id}"),
            format!("/docker/{id}/kubepods/pod{UID}/{id}/kubepods/pod{HASH}/{id}"),
        ] {
            let pod = from_cgroup_path(&path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!((pod.uid.as_str(), pod.container_id.as_str()), (UID, id.as_str()), "{path}");
            assert_eq!((pod.namespace, pod.name, pod.container), Default::default());
        }
    }

    #[test]
    fn a_pods_own_group_has_no_container_and_static_pods_have_a_hash() {
        let pod = from_cgroup_path(&format!("/kubepods.slice/kubepods-pod{HASH}.slice")).unwrap();
        assert_eq!((pod.uid.as_str(), pod.container_id.as_str()), (HASH, ""));
        let conmon = format!("/kubepods.slice/kubepods-pod{HASH}.slice/crio-conmon-{}.scope", id());
        assert_eq!(from_cgroup_path(&conmon).unwrap().container_id, "");
    }

    #[test]
    fn groups_that_only_look_like_it_are_nobodys() {
        for path in [
            "".to_owned(),
            "/".to_owned(),
            "/kubepods.slice/kubepods-burstable.slice".to_owned(),
            "/system.slice/podman.service".to_owned(),
            format!("/pod{UID}"),
            format!("/system.slice/mine-pod{UID}.slice"),
            format!("/kubepods/pod{}", UID.to_uppercase()),
            format!("/kubepods/pod{UID}x"),
            format!("/kubepods/pod../{UID}"),
            "/kubepods/pod12345678-9abc-def0-1234-56789abcde\u{1b}[".to_owned(),
        ] {
            assert_eq!(from_cgroup_path(&path), None, "{path}");
        }
    }

    #[test]
    fn log_paths_name_pod_and_container() {
        let pod =
            from_log_path(&format!("/var/log/pods/kube-system_etcd-node.example_{HASH}/etcd/0.log")).unwrap();
        assert_eq!(
            pod,
            Pod {
                namespace: "kube-system".into(),
                name: "etcd-node.example".into(),
                uid: HASH.into(),
                container: "etcd".into(),
                container_id: String::new(),
            }
        );
        let rotated = format!("/var/log/pods/shop_web-0_{UID}/app/12.log.20251121-010203.gz");
        assert_eq!(from_log_path(&rotated).unwrap().container, "app");
        let elsewhere = format!("/mnt/cluster-a/shop_web-0_{UID}/app/0.log");
        assert_eq!(from_log_path(&elsewhere).unwrap().name, "web-0");
        for name in ["web-0", "0-web"] {
            let link = from_log_path(&format!("/var/log/containers/{name}_shop_app-{}.log", id())).unwrap();
            assert_eq!((link.name.as_str(), link.container.as_str(), link.uid.as_str()), (name, "app", ""));
        }
        for path in [
            format!("/var/log/web-0_shop_app-{}.log", id()),
            format!("/var/log/pods/shop_web-0_{UID}/app/deeper/0.log"),
            format!("/var/log/pods/shop_web-0_{UID}/../0.log"),
            format!("/var/log/pods/shop_web-0_{UID}/app/passwd"),
            format!("/var/log/pods/Shop_web-0_{UID}/app/0.log"),
            format!("/var/log/pods/shop_we\u{1b}b_{UID}/app/0.log"),
            format!("/var/log/pods/shop_web_0_{UID}/app/0.log"),
            "/var/log/pods/shop_web/app/0.log".to_owned(),
            format!("/var/log/pods/shop_web-0_{UID}/{}/0.log", "a".repeat(64)),
            "/var/log/syslog".to_owned(),
        ] {
            assert_eq!(from_log_path(&path), None, "{path}");
        }
    }

    #[test]
    fn links_name_the_container_of_an_id() {
        let pod = from_container_log(&format!("web-0_shop_side-car-{}.log", id())).unwrap();
        assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("web-0", "shop"));
        assert_eq!((pod.container.as_str(), pod.container_id), ("side-car", id()));
        assert_eq!(from_container_log(&format!("web-0_shop_{}.log", id())), None);
        assert_eq!(from_container_log(&format!("web-0_shop_app-{}", id())), None);
        assert_eq!(from_container_log("web-0_shop_app-12.log"), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_understood_whole_or_not_at_all(
            text in any::<String>(), near in "(/var/log/pods/|/kubepods/|/kubepods.slice/)?[a-z_:./\\x00-\\x20-]{0,80}"
        ) {
            for text in [&text, &near] {
                let found = [from_log_path(text), from_cgroup_path(text), from_container_log(text)];
                for pod in found.into_iter().flatten() {
                    for part in [&pod.namespace, &pod.container] {
                        prop_assert!(part.is_empty() || is_label(part));
                    }
                    prop_assert!(pod.name.is_empty() || is_subdomain(&pod.name));
                    prop_assert!(pod.uid.is_empty() || is_uid(&pod.uid));
                    prop_assert!(pod.container_id.is_empty() || is_container_id(&pod.container_id));
                }
            }
        }

        #[test]
        fn any_admitted_name_comes_back(
            namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,5})?",
            container in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", id in "[0-9a-f]{64}"
        ) {
            let pod = from_log_path(&format!("/var/log/pods/{namespace}_{name}_{UID}/{container}/0.log")).unwrap();
            prop_assert_eq!((&pod.namespace, &pod.name, &pod.container), (&namespace, &name, &container));
            let link = from_container_log(&format!("{name}_{namespace}_{container}-{id}.log")).unwrap();
            prop_assert_eq!((link.namespace, link.name, link.container, link.container_id), (namespace, name, container, id));
        }
    }
}
