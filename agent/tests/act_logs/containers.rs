//! Logs of dead containers, on a host of folders: what the kubelet's folder and the control groups say decides.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use dogwatch::record::ObjectOutcome;
use dogwatch_agent::act::policy::{Cleaner, RootPolicy};

use super::common::folder;
use super::{Cleaning, files, paths, why};

const RUNS: &str = "11111111-1111-1111-1111-111111111111";
const ENDED: &str = "22222222-2222-2222-2222-222222222222";
const GONE: &str = "33333333-3333-3333-3333-333333333333";
const STATIC: &str = "0123456789abcdef0123456789abcdef";
const LOST: &str = "44444444-4444-4444-4444-444444444444";

/// A host: a pod that runs, one that has ended, a static one between two runs, one that is being removed, one that is gone.
struct Host {
    temp: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { temp: folder() };
        for uid in [RUNS, ENDED, STATIC] {
            fs::create_dir_all(host.kubelet().join(uid)).unwrap();
        }
        for uid in [RUNS, LOST] {
            let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
            let groups = host.temp.path().join("sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice");
            fs::create_dir_all(groups.join(slice)).unwrap();
        }
        fs::create_dir_all(host.log().join("containers")).unwrap();
        host
    }

    fn kubelet(&self) -> PathBuf {
        self.temp.path().join("var/lib/kubelet/pods")
    }

    fn log(&self) -> PathBuf {
        self.temp.path().join("var/log")
    }

    fn pod(&self, name: &str, uid: &str) -> PathBuf {
        self.log().join("pods").join(format!("shop_{name}_{uid}"))
    }

    fn write(&self, name: &str, uid: &str, file: &str) -> PathBuf {
        let path = self.pod(name, uid).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{name} {file}\n").repeat(500)).unwrap();
        path
    }

    fn root(&self) -> RootPolicy {
        let root = RootPolicy::of(Cleaner::DeadContainerLogs, self.log());
        let kubelet_dir = PathBuf::from("/var/lib/kubelet");
        RootPolicy { min_age_seconds: 0, host_root: self.temp.path().to_owned(), kubelet_dir, ..root }
    }
}

#[test]
fn what_dead_containers_left_goes_and_all_else_stays() {
    let host = Host::new();
    let mut goes = BTreeSet::new();
    for file in ["app/0.log", "app/1.log", "app/1.log.20240612-101112.gz", "app/1.log.20240613-101112"] {
        goes.insert(host.write("cart", RUNS, file));
    }
    for file in ["app/2.log", "app/2.log.20240612-101112", "app/10.log", "side/0.log", "side/7.log"] {
        host.write("cart", RUNS, file);
    }
    for (name, uid) in [("job", ENDED), ("etcd", STATIC), ("leaving", LOST)] {
        host.write(name, uid, "app/0.log");
        host.write(name, uid, "app/1.log");
    }
    for file in ["app/0.log", "app/0.log.20240612-101112", "side/3.log"] {
        goes.insert(host.write("old", GONE, file));
    }
    let busy = host.write("old", GONE, "busy/0.log");
    let _open = File::open(&busy).unwrap();
    // What is not laid out as the kubelet does it, of a pod that is gone.
    for file in
        ["app/notes.txt", "app/deep/0.log", "new\nline/0.log", "0.log", "app/00.log", "app/0.log.lock"]
    {
        host.write("old", GONE, file);
    }
    fs::write(host.log().join("0.log"), "x").unwrap();
    let target = host.write("job", ENDED, "docker/target");
    symlink(&target, host.pod("old", GONE).join("app/5.log")).unwrap();
    symlink("/nowhere", host.log().join("containers/old_shop_app-0.log")).unwrap();

    let mut cleaning = Cleaning::of(host.root());
    let survey = cleaning.survey();
    let plan = cleaning.plan(&survey);
    assert_eq!(paths(&plan.objects), goes, "{:#?}", plan.refused);
    assert_eq!(why(&plan, &busy), "open elsewhere");
    for (path, reason) in [
        (
            host.pod("cart", RUNS).join("app/2.log"),
            "its pod is here, and it is of one of the container's two newest",
        ),
        (host.pod("job", ENDED).join("app/0.log"), "its pod is here"),
        (host.pod("etcd", STATIC).join("app/0.log"), "its pod is here"),
        (host.pod("leaving", LOST).join("app/0.log"), "its pod is here"),
        (host.pod("old", GONE).join("app/5.log"), "symbolic link"),
        (host.pod("old", GONE).join("app/0.log.lock"), "never touched"),
    ] {
        assert!(why(&plan, &path).contains(reason), "{path:?}: {}", why(&plan, &path));
    }
    let before = files(&host.log());
    let done = cleaning.apply(&plan);
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{:#?}", done.refused);
    let after: BTreeSet<PathBuf> = before.difference(&goes).cloned().collect();
    assert_eq!(files(&host.log()), after);
    assert!(host.log().join("containers/old_shop_app-0.log").symlink_metadata().is_ok());
}

#[test]
fn a_pod_that_comes_back_before_the_act_keeps_its_logs() {
    let host = Host::new();
    let log = host.write("old", GONE, "app/0.log");
    let mut cleaning = Cleaning::of(host.root());
    let survey = cleaning.survey();
    let plan = cleaning.plan(&survey);
    assert_eq!(paths(&plan.objects), BTreeSet::from([log.clone()]));
    fs::create_dir(host.kubelet().join(GONE)).unwrap();
    let done = cleaning.apply(&plan);
    assert!(why(&done, &log).contains("its pod is here"), "{done:#?}");
    assert!(log.exists());
}

#[test]
fn a_pod_folder_that_became_a_link_is_not_followed() {
    let host = Host::new();
    let log = host.write("old", GONE, "app/0.log");
    let precious = host.write("cart", RUNS, "app/0.log");
    let (swapped, by) = (host.pod("old", GONE), host.pod("cart", RUNS));
    let mut cleaning = Cleaning::of(host.root());
    let survey = cleaning.survey();
    let plan = cleaning.plan(&survey);
    assert_eq!(plan.objects.len(), 1);
    fs::rename(&swapped, host.temp.path().join("aside")).unwrap();
    symlink(&by, &swapped).unwrap();
    let done = cleaning.apply(&plan);
    assert_eq!(done.objects[0].outcome, ObjectOutcome::Skipped);
    assert!(why(&done, &log).contains("a link or no folder"), "{done:#?}");
    assert!(precious.exists() && host.temp.path().join("aside/app/0.log").exists());
}

#[test]
fn where_nobody_can_tell_only_earlier_instances_go() {
    let host = Host::new();
    let earlier = host.write("old", GONE, "app/0.log");
    let newest = [host.write("old", GONE, "app/1.log"), host.write("old", GONE, "app/2.log")];
    let no_kubelet = host.temp.path().join("var/lib/kubelet");
    let empty = host.temp.path().join("empty");
    fs::create_dir_all(empty.join("pods")).unwrap();
    let foreign = host.temp.path().join("foreign");
    fs::create_dir_all(foreign.join("pods").join(ENDED)).unwrap();
    fs::rename(&no_kubelet, host.temp.path().join("moved")).unwrap();
    for (dir, reason) in
        [("/var/lib/kubelet", "No such file"), ("/empty", "empty"), ("/foreign", "knows none")]
    {
        let mut cleaning = Cleaning::of(RootPolicy { kubelet_dir: PathBuf::from(dir), ..host.root() });
        let survey = cleaning.survey();
        let plan = cleaning.plan(&survey);
        assert_eq!(paths(&plan.objects), BTreeSet::from([earlier.clone()]), "{dir}");
        for log in &newest {
            let said = why(&plan, log);
            assert!(said.contains("nobody can tell") && said.contains(reason), "{dir}: {said}");
        }
    }
    // The kubelet's folder may lie elsewhere.
    let mut cleaning = Cleaning::of(RootPolicy { kubelet_dir: PathBuf::from("/moved"), ..host.root() });
    let survey = cleaning.survey();
    assert_eq!(cleaning.plan(&survey).objects.len(), 3);
}

#[test]
fn young_logs_stay_and_patterns_are_a_mistake() {
    let host = Host::new();
    let log = host.write("old", GONE, "app/0.log");
    let mut cleaning = Cleaning::of(RootPolicy { min_age_seconds: 24 * 3_600, ..host.root() });
    let survey = cleaning.survey();
    assert!(why(&cleaning.plan(&survey), &log).contains("younger than 1 d"));
    let given = RootPolicy { patterns: vec!["*".to_owned()], ..host.root() };
    let policy = dogwatch_agent::act::policy::Policy { roots: vec![given], ..cleaning.policy.clone() };
    let problems = policy.validate(Path::new("/var/spool/dogwatch-test"));
    assert!(
        problems.iter().any(|p| p.key == "roots[0].patterns" && p.reason.contains("kubelet")),
        "{problems:?}"
    );
}
