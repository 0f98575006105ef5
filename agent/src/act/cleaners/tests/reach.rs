//! What may never be reached, whatever the configuration or a plan says.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Those that take files, the more dangerous more often.
const CLEANERS: [Cleaner; 7] = [
    Cleaner::RotatedLogs,
    Cleaner::CoreDumps,
    Cleaner::CoreDumps,
    Cleaner::TempFiles,
    Cleaner::Custom,
    Cleaner::Custom,
    Cleaner::PackageCaches,
];
const POD: &str = "11111111-2222-3333-4444-555555555555";

/// Paths beneath the base that must outlive every configuration.
fn forbidden() -> Vec<String> {
    let mut paths: Vec<String> = [
        "host/var/lib/etcd/member/wal/a.log.1",
        "host/var/lib/etcd/member/snap/x.tmp",
        "host/var/lib/systemd/x.tmp",
        "host/var/lib/systemd/core",
        "host/var/lib/docker/containers/abc/x.log.1",
        "host/var/lib/containerd/tmp/x.tmp",
        "host/var/lib/mysql/tmp/x.bak",
        "data/pg/PG_VERSION",
        "data/pg/x.log.1",
        "data/pg/core.1",
        "data/pg/log/x.log.1",
        "data/pg/base/1/q.log.2",
        "data/pg/tmp/x.tmp",
        "data/pg/tmp/x.bak",
        "data/tmp/app.db",
        "data/tmp/app.sqlite3-wal",
        "data/tmp/tls.key",
        "data/tmp/app.lock",
        "data/tmp/ssh-1/agent.1",
        "data/tmp/systemd-private-1/tmp/x.tmp",
        "data/app.log",
        "data/system.journal",
        "data/.dogwatch-quarantine/kept.log.1",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in ["x.log.1", "core.1", "x.tmp", "x.bak"] {
        paths.push(format!("host/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~empty-dir/v/{name}"));
        paths.push(format!("data/kube/pods/{POD}/volumes/kubernetes.io~empty-dir/tmp/{name}"));
        paths.push(format!("data/kube/pods/{POD}/volume-subpaths/v/c/{name}"));
    }
    paths
}

fn build(scene: &Scene) {
    for path in forbidden() {
        let content = if path.contains("core.1") || path.ends_with("/core") { elf(4) } else { b"x".to_vec() };
        scene.file(&path, &content);
    }
    fs::set_permissions(scene.path("data/.dogwatch-quarantine"), fs::Permissions::from_mode(0o700)).unwrap();
    // What may go, so that the test can tell an executor that does nothing.
    for path in ["data/a.log.1", "data/tmp/old", "data/x.bak", "data/x.tmp", "data/core.9"] {
        scene.file(path, &elf(4));
    }
    std::os::unix::fs::symlink(scene.path("host/var/lib/etcd"), scene.path("data/link")).unwrap();
}

fn root() -> impl Strategy<Value = (Cleaner, &'static str, Vec<String>, u32, Vec<String>)> {
    let places = vec![
        "data",
        "data",
        "data",
        "data/tmp",
        "data/tmp",
        "data/pg",
        "data/pg/tmp",
        "data/pg/log",
        "data/kube",
        "data/link",
        "host",
        "host/var",
        "host/var/lib",
        "host/var/lib/kubelet",
        "host/var/lib/kubelet/pods",
        "host/var/lib/etcd",
        "host/var/lib/systemd",
        "host/var/lib/containerd/tmp",
        "host/var/lib/mysql/tmp",
        "",
    ];
    let globs = vec![
        "*",
        "**/*",
        "**/*.tmp",
        "**/*.bak",
        "*.log*",
        "*.log.[1-9]*",
        "**/*.{tmp,bak,db}",
        "core*",
        "x.*",
        "**/x.*",
        "**/a*",
    ];
    let globs = prop::sample::select(globs).prop_map(str::to_owned);
    (
        prop::sample::select(CLEANERS.to_vec()),
        prop::sample::select(places),
        prop::collection::vec(globs, 0..4),
        0..=16u32,
        prop::collection::vec(Just("nothing*".to_owned()), 0..2),
    )
}

fn contents(scene: &Scene) -> BTreeMap<String, Vec<u8>> {
    forbidden()
        .into_iter()
        .map(|path| (path.clone(), fs::read(scene.path(&path)).unwrap_or_default()))
        .collect()
}

/// A plan that claims everything forbidden, with true figures.
fn forge(scene: &Scene, like: &PlannedObject, cleaner: Cleaner) -> Vec<PlannedObject> {
    let claim = |path: String| {
        let path = scene.path(&path);
        let meta = fs::symlink_metadata(&path).unwrap();
        PlannedObject {
            device: meta.dev(),
            inode: meta.ino(),
            size_bytes: meta.size(),
            allocated_bytes: meta.blocks() * 512,
            mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            ctime_ns: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode(),
            links: meta.nlink(),
            cleaner: cleaner.as_str().to_owned(),
            path,
            ..like.clone()
        }
    };
    forbidden().into_iter().map(claim).collect()
}

#[test]
fn no_configuration_and_no_plan_reaches_what_is_forbidden() {
    let mut scene = Scene::new(CleanupMode::Auto);
    build(&scene);
    let before = contents(&scene);
    assert!(before.values().all(|content| !content.is_empty()));
    let like = {
        scene.root(Cleaner::RotatedLogs, "data").keep_newest = 0;
        let action = scene.plan(&scene.executor(), "node");
        assert_eq!(scene.names(&action), ["data/a.log.1"]);
        action
    };
    let mut runner = TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    let scene = std::cell::RefCell::new(scene);
    let mut used = 0u32;
    let usable = std::cell::Cell::new(0u32);
    let outcome = runner.run(&prop::collection::vec(root(), 1..4), |roots| {
        let mut scene = scene.borrow_mut();
        scene.policy.roots = roots
            .into_iter()
            .map(|(cleaner, place, patterns, max_depth, excludes)| {
                let shipped = RootPolicy::of(cleaner, scene.path(place));
                // Half of the configurations are what a person would write; the others ask for too much.
                let as_shipped = patterns.is_empty() || (cleaner != Cleaner::Custom && max_depth % 2 == 0);
                let patterns = if as_shipped { shipped.patterns.clone() } else { patterns };
                let ages = RootPolicy { min_age_seconds: 86_400, keep_newest: 0, ..shipped };
                RootPolicy { patterns, excludes, max_depth, ..ages }
            })
            .collect();
        let (mut executor, told) =
            Executor::open(scene.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        executor.hold(HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/".into() });
        usable.set(usable.get() + u32::from(told.iter().any(|r| r.unusable.is_none())));
        let action = scene.plan(&executor, "node");
        let spared =
            |a: &Action| a.objects.iter().all(|o| !forbidden().iter().any(|f| scene.path(f) == o.path));
        prop_assert!(spared(&action), "{:#?}\n{action:#?}", scene.policy);
        let cleaners: std::collections::HashSet<Cleaner> =
            scene.policy.roots.iter().map(|r| r.cleaner).collect();
        for cleaner in cleaners {
            let forged = Action { objects: forge(&scene, &like.objects[0], cleaner), ..like.clone() };
            let done = scene.apply(&mut executor, forged);
            let touched = done.objects.iter().find(|o| o.outcome == ObjectOutcome::Removed);
            prop_assert!(touched.is_none(), "{:#?}\n{touched:#?}", scene.policy);
        }
        prop_assert_eq!(&contents(&scene), &before);
        Ok(())
    });
    used += usable.get();
    outcome.unwrap();
    // A quarter of them on average; by chance 18 came once in a dozen runs.
    assert!(used >= 8, "only {used} configurations had a root that could be used at all");
}

#[test]
fn coredumps_folder_is_the_one_exception_in_systemds_own() {
    let state = Path::new("/var/spool/dogwatch-test");
    let refused = |cleaner, path: &str| {
        let policy = Policy {
            mode: CleanupMode::Plan,
            roots: vec![RootPolicy::of(cleaner, path)],
            budgets: Budgets::default(),
        };
        policy.validate(state).iter().any(|p| p.key == "roots[0].path")
    };
    for path in ["/var/lib/systemd/coredump", "/host/var/lib/systemd/coredump", "/var/crash"] {
        assert!(!refused(Cleaner::CoreDumps, path), "{path}");
    }
    for path in [
        "/var/lib/systemd",
        "/var/lib/systemd/coredumps",
        "/var/lib/systemd/timers",
        "/var/lib",
        "/var/lib/kubelet/coredump",
    ] {
        assert!(refused(Cleaner::CoreDumps, path), "{path}");
    }
    for cleaner in [Cleaner::RotatedLogs, Cleaner::Custom, Cleaner::TempFiles] {
        assert!(refused(cleaner, "/var/lib/systemd/coredump"), "{cleaner:?}");
    }
}
