use proptest::prelude::*;

use super::*;
use crate::usage::traces::{Trace, Written};

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
        // Written by its process alone, to the end.
        trace: Trace {
            descriptor: 3,
            position: Some(bytes),
            appends: true,
            reads: false,
            size: bytes,
            written: Some(wrote(bytes)),
        },
    }
}

fn wrote(bytes: u64) -> Written {
    Written { called: bytes, dirtied: bytes, ..Written::default() }
}

fn judge(
    before: &Look,
    after: &Look,
    holders: &HashMap<u32, Holder>,
    pods: &dyn Fn(&str) -> Option<Pod>,
) -> Blame {
    let paths = |f: &OpenFile| {
        let beneath = |upper: &PathBuf| upper.join(f.path.strip_prefix("/").unwrap_or(&f.path));
        Some(f.upper.as_ref().map_or_else(|| f.path.clone(), beneath))
    };
    blame(before, after, &Names { holders, pods, paths: &paths })
}

fn look(second: u64, used_bytes: u64, files: Vec<OpenFile>) -> Look {
    Look {
        boot_ns: second * 1_000_000_000,
        wall_ns: second as i64 * 1_000_000_000,
        used_bytes,
        files,
        ..Look::default()
    }
}

fn holders(of: &[(u32, &str, &str)]) -> HashMap<u32, Holder> {
    of.iter()
        .map(|(pid, name, cgroup)| {
            let sees_the_host = !cgroup.starts_with("/kubepods");
            (*pid, Holder { name: (*name).into(), program: None, cgroup: (*cgroup).into(), sees_the_host })
        })
        .collect()
}

fn named(path: &str) -> Option<Pod> {
    pod::from_cgroup_path(path)
}

#[test]
fn one_file_that_grows_as_the_filesystem_does_is_the_cause() {
    let before = look(10, 100 * MIB, vec![file(1, 7, "/data/a", MIB), file(2, 8, "/data/b", MIB)]);
    let after = look(20, 200 * MIB, vec![file(1, 7, "/data/a", 96 * MIB), file(2, 8, "/data/b", 2 * MIB)]);
    let of = holders(&[(7, "writer", &format!("/kubepods/pod{UID}"))]);
    let said = judge(&before, &after, &of, &named);
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
    let after = look(20, 200 * MIB, vec![file(1, 7, "/data/a", 2 * MIB), file(9, 9, "/data/old", 90 * MIB)]);
    let said = judge(&before, &after, &HashMap::new(), &named);
    assert_eq!(said.confidence, Confidence::Unknown);
    assert_eq!(said.growing.len(), 1, "{said:?}");
    let mut made = after.clone();
    made.files[1].born_ns = Some(15_000_000_000);
    assert_eq!(judge(&before, &made, &HashMap::new(), &named).confidence, Confidence::Certain);
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
    // What each wrote altogether.
    let files = |bytes: u64| {
        let mut files: Vec<OpenFile> = files(bytes);
        let all: Vec<u32> = files.iter().map(|f| f.pid).collect();
        for file in &mut files {
            file.trace.written =
                Some(wrote(bytes * all.iter().filter(|pid| **pid == file.pid).count() as u64));
        }
        files
    };
    let of = holders(&[
        (7, "a", &format!("/kubepods/pod{other}")),
        (8, "b", &format!("/kubepods/pod{UID}")),
        (9, "containerd-shim", "/system.slice/containerd.service"),
    ]);
    let said = judge(&look(0, 0, files(0)), &look(10, 60 * MIB, files(10 * MIB)), &of, &named);
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
    // Several pods may have mounted it.
    for shared in ["volumes/kubernetes.io~csi/pv/mount/x", "volume-subpaths/pv/web/0/x"] {
        assert_eq!(of_folder(Path::new(&format!("/var/lib/kubelet/pods/{UID}/{shared}"))), None);
    }
}

#[test]
fn of_several_who_may_have_written_it_their_one_pod_is_named_and_none_of_them() {
    let share = |pid, bytes: u64| {
        let trace = Trace { written: Some(wrote(bytes / 2)), ..file(1, pid, "", bytes).trace };
        OpenFile { trace, ..file(1, pid, "/data/a", bytes) }
    };
    let workers = |bytes| vec![share(7, bytes), share(8, bytes)];
    let pod = format!("/kubepods/pod{UID}");
    let (before, after) = (look(0, 0, workers(0)), look(10, 50 * MIB, workers(50 * MIB)));
    let said = judge(&before, &after, &holders(&[(7, "one", &pod), (8, "two", &pod)]), &named);
    let first = &said.growing[0];
    assert_eq!((said.confidence, first.openers.len()), (Confidence::Certain, 0), "{first:?}");
    assert_eq!(first.pod.as_ref().map(|p| p.uid.as_str()), Some(UID));
    let said = judge(&before, &after, &holders(&[(7, "one", &pod), (8, "two", "/other")]), &named);
    assert!(said.growing[0].pod.is_none() && said.growing[0].openers.is_empty(), "{said:?}");
}

#[test]
fn an_old_file_that_a_wrong_clock_dated_ahead_is_no_growth() {
    let before = look(10, 100 * MIB, vec![]);
    let ahead = OpenFile { born_ns: Some(i64::MAX), ..file(9, 9, "/data/old", 90 * MIB) };
    let said = judge(&before, &look(20, 105 * MIB, vec![ahead]), &HashMap::new(), &named);
    assert_eq!((said.confidence, said.growing.len()), (Confidence::Unknown, 0), "{said:?}");
}

#[test]
fn copies_of_one_file_in_two_containers_are_two_files() {
    let of =
        |device, pid, bytes| OpenFile { device, upper: Some("/u".into()), ..file(5, pid, "/app.log", bytes) };
    let before = look(0, 0, vec![of(101, 7, 9 * MIB), of(102, 8, MIB)]);
    let after = look(10, 10 * MIB, vec![of(101, 7, 9 * MIB), of(102, 8, MIB), file(6, 9, "/x", 0)]);
    let said = judge(&before, &after, &HashMap::new(), &named);
    assert_eq!((said.growing.len(), said.confidence), (0, Confidence::Unknown), "{said:?}");
}

#[test]
fn what_is_deleted_is_told_though_it_does_not_grow() {
    let gone = OpenFile { is_deleted: true, is_written: false, ..file(4, 7, "/data/gone", 50 * MIB) };
    let said = judge(&look(0, 0, vec![]), &look(1, 0, vec![gone]), &HashMap::new(), &named);
    assert_eq!((said.deleted_bytes, said.deleted.len(), said.growing.len()), (50 * MIB, 1, 0));
    assert_eq!(said.confidence, Confidence::Still);
}

#[test]
fn who_only_has_it_open_is_not_named() {
    let idle = |bytes| {
        let trace = Trace { position: Some(0), ..file(1, 7, "", 0).trace };
        OpenFile { trace, ..file(1, 7, "/data/a", bytes) }
    };
    let of = holders(&[(7, "holder", &format!("/kubepods/pod{UID}")), (8, "writer", "/other")]);
    let (before, after) = (look(0, 0, vec![idle(0)]), look(10, 50 * MIB, vec![idle(50 * MIB)]));
    let said = judge(&before, &after, &of, &named);
    let first = &said.growing[0];
    assert_eq!(said.confidence, Confidence::Certain);
    assert!(first.openers.is_empty() && first.pod.is_none(), "{first:?}");
    // Beside one that writes, too.
    let both = |bytes| vec![idle(bytes), file(1, 8, "/data/a", bytes)];
    let (before, after) = (look(0, 0, both(0)), look(10, 50 * MIB, both(50 * MIB)));
    let said = judge(&before, &after, &of, &named);
    assert_eq!(said.growing[0].openers.iter().map(|o| o.pid).collect::<Vec<_>>(), [8]);
}

#[test]
fn copies_that_share_what_they_copy_are_no_growth() {
    let copy = OpenFile { born_ns: Some(5_000_000_000), ..file(9, 9, "/data/copy", 60 * MIB) };
    let before = Look { shares_extents: true, ..look(0, 0, vec![]) };
    let after = Look { shares_extents: true, ..look(10, 5 * MIB, vec![copy]) };
    assert_eq!(judge(&before, &after, &HashMap::new(), &named).confidence, Confidence::Unknown);
}

#[test]
fn two_that_grow_alike_while_others_shrink_are_both_told() {
    let both = |bytes| vec![file(1, 7, "/data/a", bytes), file(2, 8, "/data/b", bytes)];
    let said = judge(&look(0, 9, both(0)), &look(10, 50 * MIB, both(50 * MIB)), &HashMap::new(), &named);
    assert_eq!((said.confidence, said.growing.len()), (Confidence::Likely, 2));
}

#[test]
fn a_name_that_says_something_else_than_what_runs_is_told_with_it() {
    let of = |name: &str, program: &str| {
        let holder = Holder { name: name.into(), program: Some(program.into()), ..Holder::default() };
        opener(1, Some(&holder)).program
    };
    assert_eq!(of("python3", "python3.11"), None);
    assert_eq!(of("kubelet", "python3.11").as_deref(), Some("python3.11"));
    assert_eq!(of("p", "python3.11").as_deref(), Some("python3.11"));
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
        let said = judge(&look(5, used.0, files(&then)), &look(5 + seconds, used.1, files(&now)), &HashMap::new(), &named);
        prop_assert!((0.0..=1.0).contains(&said.explained));
        prop_assert!(said.growing.iter().all(|c| c.bytes_per_second > 0.0 && c.bytes_per_second.is_finite()));
        prop_assert!(said.growing.is_sorted_by(|a, b| a.bytes_per_second >= b.bytes_per_second));
        if said.confidence == Confidence::Certain {
            prop_assert!(said.growing[0].bytes_per_second >= MOST * said.bytes_per_second);
        }
    }
}
