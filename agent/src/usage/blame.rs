//! Who fills a filesystem now: from two looks at the files that are open, what grows, by whom, and how sure that is.
//!
//! Pure. A file's growth is what was allocated for it between two looks. A file's pod is the one that all its writers belong
//! to. Only where none of them is any pod's, as the runtime that writes containers' logs is not, and all see the node's own
//! mounts, does the folder that it lies in tell: what a pod calls a folder of its own accuses nobody. Nothing is guessed: what
//! cannot be told stays untold, and the part of the filesystem's growth that no open file explains is said to be unknown.
//!
//! Limits: a writer that opens, appends and closes between two looks is not seen; what it writes is part of the unknown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use dogwatch::record::Pod;

use super::open_files::{Holder, OpenFile};
use crate::pod;

/// Where the kubelet keeps pods' logs.
const LOG_FOLDER: &str = "/var/log/pods/";
/// Growth that is worth a question: less is what any node does.
const MIN_BYTES_PER_SECOND: f64 = 16.0 * 1024.0;
/// A file that grew by this share of what the filesystem did is the cause.
const MOST: f64 = 0.8;
/// With less than this explained, the cause is unknown.
const PART: f64 = 0.5;
/// Files that are told, of those that grow and of those that are deleted.
const MAX_TOLD: usize = 20;
/// Processes that are named with a file.
const MAX_HOLDERS: usize = 5;

/// A moment's files and figures.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// The node's clock, ns since the epoch.
    pub wall_ns: i64,
    /// In use on the filesystem.
    pub used_bytes: u64,
    /// Open for writing, or deleted and open.
    pub files: Vec<OpenFile>,
}

/// A process that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    /// Its id.
    pub pid: u32,
    /// Its name; empty where it could not be asked any more.
    pub name: String,
}

/// A file that grows, or that is deleted and still takes room.
#[derive(Debug, Clone, PartialEq)]
pub struct Culprit {
    /// Its path on the host, where that is known; else as its process sees it.
    pub path: PathBuf,
    /// Whose it is; `None`: nobody's or unknown.
    pub pod: Option<Pod>,
    /// Who has it open, some of them.
    pub openers: Vec<Opener>,
    /// Whether no name leads to it any more: it takes room until it is closed.
    pub is_deleted: bool,
    /// Allocated for it now.
    pub bytes: u64,
    /// At which it grows.
    pub bytes_per_second: f64,
}

/// How sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// One file is most of it.
    Certain,
    /// Several files together are most of it, or one is more than half.
    Likely,
    /// Open files do not explain it.
    Unknown,
    /// It does not grow.
    Still,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Blame {
    /// At which the filesystem grows; negative: it shrinks.
    pub bytes_per_second: f64,
    /// What grows, fastest first.
    pub growing: Vec<Culprit>,
    /// Share of the filesystem's growth that they explain, 0 to 1.
    pub explained: f64,
    /// How sure the first of them is the cause.
    pub confidence: Confidence,
    /// What is deleted and still open, largest first.
    pub deleted: Vec<Culprit>,
    /// All of that.
    pub deleted_bytes: u64,
}

/// Compares two looks. `holders` tells the processes of the second; `pods` names a pod by its control group's path.
pub fn blame(
    before: &Look,
    after: &Look,
    holders: &HashMap<u32, Holder>,
    pods: &dyn Fn(&str) -> Option<Pod>,
) -> Blame {
    let seconds = after.boot_ns.saturating_sub(before.boot_ns) as f64 / 1e9;
    let rate = |bytes: f64| if seconds > 0.0 { bytes / seconds } else { 0.0 };
    let id = |f: &OpenFile| (f.device, f.inode);
    let old: HashMap<(u64, u64), u64> = before.files.iter().map(|f| (id(f), f.bytes)).collect();
    let mut inodes: BTreeMap<(u64, u64), Vec<&OpenFile>> = BTreeMap::new();
    for file in &after.files {
        inodes.entry(id(file)).or_default().push(file);
    }
    let (mut growing, mut deleted) = (Vec::new(), Vec::new());
    let mut deleted_bytes = 0u64;
    for files in inodes.values() {
        let Some(file) = files.iter().max_by_key(|f| f.bytes) else { continue };
        let was = match old.get(&id(file)) {
            Some(bytes) => *bytes,
            // Made meanwhile: all of it is growth. An old file that was only opened meanwhile may not have grown at all.
            None if file.born_ns.is_some_and(|born| born >= before.wall_ns) => 0,
            None => file.bytes,
        };
        let bytes_per_second = rate(file.bytes.saturating_sub(was) as f64);
        let grows = bytes_per_second > 0.0 && files.iter().any(|f| f.is_written);
        if file.is_deleted {
            deleted_bytes = deleted_bytes.saturating_add(file.bytes);
        }
        if !grows && !file.is_deleted {
            continue;
        }
        let culprit = culprit(files, file, bytes_per_second, holders, pods);
        if file.is_deleted {
            deleted.push(culprit.clone());
        }
        if grows {
            growing.push(culprit);
        }
    }
    growing
        .sort_by(|a, b| b.bytes_per_second.total_cmp(&a.bytes_per_second).then_with(|| a.path.cmp(&b.path)));
    deleted.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    let grew = rate(after.used_bytes as f64 - before.used_bytes as f64);
    // The sum of nothing is -0.
    let by_files = growing.iter().map(|c| c.bytes_per_second).fold(0.0, |sum, rate| sum + rate);
    let share = |bytes: f64| if grew > 0.0 { (bytes / grew).clamp(0.0, 1.0) } else { 0.0 };
    let first = growing.first().map_or(0.0, |c| share(c.bytes_per_second));
    let explained = share(by_files);
    let confidence = if grew < MIN_BYTES_PER_SECOND {
        Confidence::Still
    } else if first >= MOST {
        Confidence::Certain
    } else if first >= PART || explained >= MOST {
        Confidence::Likely
    } else {
        Confidence::Unknown
    };
    growing.truncate(MAX_TOLD);
    deleted.truncate(MAX_TOLD);
    Blame { bytes_per_second: grew, growing, explained, confidence, deleted, deleted_bytes }
}

fn culprit(
    files: &[&OpenFile],
    file: &OpenFile,
    bytes_per_second: f64,
    holders: &HashMap<u32, Holder>,
    pods: &dyn Fn(&str) -> Option<Pod>,
) -> Culprit {
    let path = match &file.upper {
        Some(upper) => upper.join(file.path.strip_prefix("/").unwrap_or(&file.path)),
        None => file.path.clone(),
    };
    // Whoever merely inherited or reads a file does not fill it, unless nobody writes it.
    let written = files.iter().any(|f| f.is_written);
    let pids: BTreeSet<u32> = files.iter().filter(|f| f.is_written || !written).map(|f| f.pid).collect();
    let writers: Vec<Option<&Holder>> = pids.iter().map(|pid| holders.get(pid)).collect();
    let theirs: Vec<Option<Pod>> = writers.iter().map(|h| h.and_then(|h| pods(&h.cgroup))).collect();
    let of_the_node = file.upper.is_none()
        && !file.is_deleted
        && writers.iter().all(|h| h.is_some_and(|h| h.sees_the_host))
        && theirs.iter().all(Option::is_none);
    let pod = match theirs.first() {
        Some(Some(first)) => theirs.iter().flatten().filter(|p| p.uid == first.uid).count() == theirs.len(),
        _ => false,
    };
    let pod = if pod {
        theirs.into_iter().next().flatten()
    } else if of_the_node {
        of_folder(&path)
    } else {
        None
    };
    let openers = pids
        .into_iter()
        .take(MAX_HOLDERS)
        .map(|pid| Opener { pid, name: holders.get(&pid).map(|h| h.name.clone()).unwrap_or_default() })
        .collect();
    Culprit { path, pod, openers, is_deleted: file.is_deleted, bytes: file.bytes, bytes_per_second }
}

/// The pod whose folder of logs or volumes a path of the node's lies in (the kubelet's layout).
fn of_folder(path: &Path) -> Option<Pod> {
    let text = path.to_str()?;
    if text.starts_with(LOG_FOLDER) {
        return pod::from_log_path(text);
    }
    let uid = text.strip_prefix("/var/lib/kubelet/pods/")?.split('/').next()?;
    // As a group of that uid would be called, so that one place knows what a uid is.
    pod::from_cgroup_path(&format!("/kubepods/pod{uid}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const UID: &str = "0f3a2b1c-0000-4000-8000-00000000000a";

    fn file(inode: u64, pid: u32, path: &str, bytes: u64) -> OpenFile {
        OpenFile {
            device: 1,
            inode,
            pid,
            path: path.into(),
            upper: None,
            is_deleted: false,
            is_written: true,
            bytes,
            born_ns: Some(0),
        }
    }

    fn look(second: u64, used_bytes: u64, files: Vec<OpenFile>) -> Look {
        Look { boot_ns: second * 1_000_000_000, wall_ns: second as i64 * 1_000_000_000, used_bytes, files }
    }

    fn holders(of: &[(u32, &str, &str)]) -> HashMap<u32, Holder> {
        of.iter()
            .map(|(pid, name, cgroup)| {
                let sees_the_host = !cgroup.starts_with("/kubepods");
                (*pid, Holder { name: (*name).into(), cgroup: (*cgroup).into(), sees_the_host })
            })
            .collect()
    }

    fn named(path: &str) -> Option<Pod> {
        pod::from_cgroup_path(path)
    }

    #[test]
    fn one_file_that_grows_as_the_filesystem_does_is_the_cause() {
        let before = look(10, 100 * MIB, vec![file(1, 7, "/data/a", MIB), file(2, 8, "/data/b", MIB)]);
        let after =
            look(20, 200 * MIB, vec![file(1, 7, "/data/a", 96 * MIB), file(2, 8, "/data/b", 2 * MIB)]);
        let of = holders(&[(7, "writer", &format!("/kubepods/pod{UID}"))]);
        let said = blame(&before, &after, &of, &named);
        assert_eq!(said.confidence, Confidence::Certain);
        let first = &said.growing[0];
        assert_eq!((first.path.to_str(), first.openers[0].name.as_str()), (Some("/data/a"), "writer"));
        assert_eq!(first.pod.as_ref().map(|p| p.uid.as_str()), Some(UID));
        assert!((first.bytes_per_second - 9.5 * MIB as f64).abs() < 1.0, "{first:?}");
        assert!((said.explained - 0.96).abs() < 0.001, "{said:?}");
    }

    #[test]
    fn what_nobody_has_open_is_unknown_and_an_old_file_is_not_blamed_for_being_opened() {
        let before = look(10, 100 * MIB, vec![file(1, 7, "/data/a", MIB)]);
        let after =
            look(20, 200 * MIB, vec![file(1, 7, "/data/a", 2 * MIB), file(9, 9, "/data/old", 90 * MIB)]);
        let said = blame(&before, &after, &HashMap::new(), &named);
        assert_eq!(said.confidence, Confidence::Unknown);
        assert_eq!(said.growing.len(), 1, "{said:?}");
        let mut made = after.clone();
        made.files[1].born_ns = Some(15_000_000_000);
        assert_eq!(blame(&before, &made, &HashMap::new(), &named).confidence, Confidence::Certain);
    }

    #[test]
    fn writers_of_two_pods_name_none_and_a_folder_tells_only_what_the_node_itself_writes() {
        let other = "1f3a2b1c-0000-4000-8000-00000000000b";
        let log = format!("/var/log/pods/shop_web-1_{UID}/web/0.log");
        let volume = format!("/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/cache/x");
        let files = |bytes| {
            vec![
                file(1, 7, "/data/a", bytes),
                file(1, 8, "/data/a", bytes),
                file(2, 9, &log, bytes),
                file(3, 9, &volume, bytes),
                // What a pod calls its own folders accuses nobody else.
                file(4, 7, &format!("/tmp/shop_web-1_{UID}/web/0.log"), bytes),
                file(5, 7, &format!("/var/lib/kubelet/pods/{UID}/x"), bytes),
                OpenFile {
                    upper: Some("/var/lib/kubelet/pods".into()),
                    ..file(6, 9, &format!("/{UID}/y"), bytes)
                },
            ]
        };
        let of = holders(&[
            (7, "a", &format!("/kubepods/pod{other}")),
            (8, "b", &format!("/kubepods/pod{UID}")),
            (9, "containerd-shim", "/system.slice/containerd.service"),
        ]);
        let said = blame(&look(0, 0, files(0)), &look(10, 60 * MIB, files(10 * MIB)), &of, &named);
        let pods: BTreeMap<&str, Option<&str>> = said
            .growing
            .iter()
            .map(|c| (c.path.to_str().unwrap_or_default(), c.pod.as_ref().map(|p| p.uid.as_str())))
            .collect();
        assert_eq!(pods["/data/a"], None);
        assert_eq!((pods[log.as_str()], pods[volume.as_str()]), (Some(UID), Some(UID)));
        let of_another: Vec<_> = pods.values().filter(|uid| **uid == Some(other)).collect();
        assert_eq!((of_another.len(), pods.values().flatten().count()), (2, 4), "{pods:?}");
        assert_eq!(said.confidence, Confidence::Likely);
        assert_eq!(of_folder(Path::new("/var/lib/kubelet/pods/../../etc")), None);
        assert_eq!(of_folder(Path::new("/var/lib/kubelet/plugins/x")), None);
    }

    #[test]
    fn copies_of_one_file_in_two_containers_are_two_files() {
        let of = |device, pid, bytes| OpenFile {
            device,
            upper: Some("/u".into()),
            ..file(5, pid, "/app.log", bytes)
        };
        let before = look(0, 0, vec![of(101, 7, 9 * MIB), of(102, 8, MIB)]);
        let after = look(10, 10 * MIB, vec![of(101, 7, 9 * MIB), of(102, 8, MIB), file(6, 9, "/x", 0)]);
        let said = blame(&before, &after, &HashMap::new(), &named);
        assert_eq!((said.growing.len(), said.confidence), (0, Confidence::Unknown), "{said:?}");
    }

    #[test]
    fn what_is_deleted_is_told_though_it_does_not_grow() {
        let gone = OpenFile { is_deleted: true, is_written: false, ..file(4, 7, "/data/gone", 50 * MIB) };
        let said = blame(&look(0, 0, vec![]), &look(1, 0, vec![gone]), &HashMap::new(), &named);
        assert_eq!((said.deleted_bytes, said.deleted.len(), said.growing.len()), (50 * MIB, 1, 0));
        assert_eq!(said.confidence, Confidence::Still);
    }

    proptest! {
        #[test]
        fn nothing_is_blamed_for_more_than_there_is(
            then in prop::collection::vec((0u64..6, 0u32..4, 0u64..1 << 40, any::<bool>(), any::<bool>()), 0..20),
            now in prop::collection::vec((0u64..6, 0u32..4, 0u64..1 << 40, any::<bool>(), any::<bool>()), 0..20),
            used in (0u64..1 << 41, 0u64..1 << 41),
            seconds in 0u64..100,
        ) {
            let files = |of: &[(u64, u32, u64, bool, bool)]| of.iter().map(|(inode, pid, bytes, deleted, written)| OpenFile {
                is_deleted: *deleted, is_written: *written, ..file(*inode, *pid, "/x", *bytes)
            }).collect::<Vec<_>>();
            let said = blame(&look(5, used.0, files(&then)), &look(5 + seconds, used.1, files(&now)), &HashMap::new(), &named);
            prop_assert!((0.0..=1.0).contains(&said.explained));
            prop_assert!(said.growing.iter().all(|c| c.bytes_per_second > 0.0 && c.bytes_per_second.is_finite()));
            prop_assert!(said.growing.is_sorted_by(|a, b| a.bytes_per_second >= b.bytes_per_second));
            if said.confidence == Confidence::Certain {
                prop_assert!(said.growing[0].bytes_per_second >= MOST * said.bytes_per_second);
            }
        }
    }
}
