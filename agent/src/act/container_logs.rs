//! Logs of containers that are dead: of pods that are gone, and of a container's earlier instances.
//!
//! Source: the kubelet (`kuberuntime/helpers.go`, `logs.go`): `<namespace>_<pod>_<uid>/<container>/<n>.log`, where `n`
//! counts the container's restarts, and `<n>.log.<time>[.gz]` once rotated. `kubectl logs` reads the newest `n`,
//! `kubectl logs --previous` the one before.
//!
//! Invariant: the newest two instances of a container stay as long as its pod is there, whatever kind of file bears
//! their names. A path that is not laid out so is nobody's.
//!
//! Deliberately absent: opening anything; whether a pod is gone (`pods_here`); removing folders (the kubelet does);
//! links in `/var/log/containers` that lead nowhere (they hold nothing).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::pod::{from_log_folder, is_label};

/// How many of a container's newest instances stay: what `kubectl logs` and `kubectl logs --previous` read.
const INSTANCES_KEPT: usize = 2;
/// The folder of pods' logs, wherever it is mounted.
const PODS_FOLDER: &str = "pods";

/// Whose log a file is, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerLog {
    /// The pod's uid.
    pub(super) uid: String,
    /// The container's restarts when this was written.
    pub(super) instance: u32,
}

impl ContainerLog {
    /// Whose log the file at `path` is: `…/pods/<namespace>_<pod>_<uid>/<container>/<n>.log`.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let mut parts = path.components().rev().map(|c| match c {
            Component::Normal(name) => Some(name),
            _ => None,
        });
        let (file, container, folder, pods) =
            (parts.next()??, parts.next()??, parts.next()??, parts.next()??);
        if pods != PODS_FOLDER || !container.to_str().is_some_and(is_label) {
            return None;
        }
        let pod = from_log_folder(folder.to_str()?)?;
        Some(Self { uid: pod.uid, instance: instance(file)? })
    }
}

/// The instance that a file in a container's folder belongs to: `3` for `3.log`, `3.log.20240612-101112.gz`.
pub(super) fn instance(file: &OsStr) -> Option<u32> {
    let name = file.as_bytes();
    let digits = name.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = name.split_at(digits);
    let laid = rest == b".log" || rest.strip_prefix(b".log.").is_some_and(|mark| !mark.is_empty());
    let plain = number.first().is_some_and(|first| *first != b'0' || digits == 1);
    std::str::from_utf8(number).ok().filter(|_| laid && plain)?.parse().ok()
}

/// Of the instances that have files in a container's folder, the oldest that stays; what is lower is over.
pub(super) fn oldest_kept(instances: impl IntoIterator<Item = u32>) -> Option<u32> {
    let mut all: Vec<u32> = instances.into_iter().collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.dedup();
    all.get(INSTANCES_KEPT - 1).or(all.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "shop_cart-1_11111111-1111-1111-1111-111111111111";

    #[test]
    fn a_path_says_whose_log_it_is() {
        let of =
            |file: &str| ContainerLog::of(&Path::new("/var/log/pods").join(FOLDER).join("app").join(file));
        let log = of("12.log").unwrap();
        assert_eq!((log.uid.as_str(), log.instance), ("11111111-1111-1111-1111-111111111111", 12));
        assert_eq!(of("0.log.20240612-101112").unwrap().instance, 0);
        assert_eq!(of("3.log.20240612-101112.gz").unwrap().instance, 3);
        for other in ["app.log", "00.log", "1.logs", "1.log.", "1.txt", "-1.log", "4294967296.log", "1\n.log"]
        {
            assert_eq!(of(other), None, "{other:?}");
        }
        for other in [
            "pods/0.log".to_owned(),
            format!("pods/{FOLDER}/0.log"),
            format!("pods/{FOLDER}/app/deep/0.log"),
            format!("other/{FOLDER}/app/0.log"),
            format!("pods/{FOLDER}/../0.log"),
            format!("pods/{FOLDER}x/app/0.log"),
            "pods/shop_cart_not-a-uid/app/0.log".to_owned(),
            "pods/a_b_c_11111111-1111-1111-1111-111111111111/app/0.log".to_owned(),
        ] {
            assert_eq!(ContainerLog::of(Path::new(&other)), None, "{other}");
        }
        assert_eq!(ContainerLog::of(Path::new(OsStr::from_bytes(b"pods/\xff_x_y/app/0.log"))), None);
    }

    #[test]
    fn the_newest_two_instances_stay() {
        assert_eq!(oldest_kept([]), None);
        assert_eq!(oldest_kept([7]), Some(7));
        assert_eq!(oldest_kept([7, 7, 7]), Some(7));
        assert_eq!(oldest_kept([0, 7, 3, 7]), Some(3));
        assert_eq!(oldest_kept([9, 10, 8]), Some(9));
    }
}
