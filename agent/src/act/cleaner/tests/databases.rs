//! A database's folder: it stays for every kind with all that lies beneath it, whenever it becomes one, and nothing beside it.

use super::mounted::{Bound, logs_in, root_at};
use super::*;
use crate::own_mounts::in_own_mounts;

const THEIRS: [&str; 3] = ["data/pg/x.log.1", "data/pg/log/x.log.1", "data/pg/base/1/x.log.1"];
const OURS: [&str; 2] = ["data/pgbouncer/x.log.1", "data/x.log.1"];

fn write(scene: &Scene, path: &str) -> PathBuf {
    fs::create_dir_all(scene.base.path().join(path).parent().unwrap()).unwrap();
    scene.file(path, 4_096)
}

/// Lays what marks a folder as a database's.
fn mark(folder: &Path, marker: &str) {
    if marker == "member" {
        fs::create_dir_all(folder.join("member/snap")).unwrap();
        fs::create_dir_all(folder.join("member/wal")).unwrap();
    } else {
        fs::write(folder.join(marker), "17").unwrap();
    }
}

fn unmark(folder: &Path, marker: &str) {
    let path = folder.join(marker);
    fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
}

fn named(action: &Action) -> Vec<&Path> {
    action.objects.iter().map(|o| o.path.as_path()).collect()
}

#[test]
fn all_beneath_a_marker_stays_and_what_lies_beside_it_goes() {
    for (kind, marker) in
        [(Kind::RotatedLogs, "PG_VERSION"), (Kind::RotatedLogs, "member"), (Kind::Custom, "ibdata1")]
    {
        let mut scene = Scene::new();
        let root = scene.root(kind, "data");
        if kind == Kind::Custom {
            (root.patterns, root.min_age_seconds) = (vec!["**/*.log.1".to_owned()], 3_600);
        }
        let theirs = THEIRS.map(|path| write(&scene, path));
        let mut ours = OURS.map(|path| write(&scene, path));
        ours.sort();
        let mut cleaner = scene.cleaner();
        let before = scene.plan(&cleaner);
        assert_eq!(before.objects.len(), theirs.len() + ours.len(), "{}", reasons(&before));
        let folder = scene.base.path().join("data/pg");
        mark(&folder, marker);
        let plan = scene.plan(&cleaner);
        let mut planned = named(&plan);
        planned.sort();
        assert_eq!(planned, ours, "{kind:?} {marker}: {}", reasons(&plan));
        let said = format!("{marker} marks the folder as a database's");
        let told = |r: &&Refusal| r.path.as_ref() == Some(&folder) && r.reason == said;
        assert!(plan.refused.iter().any(|r| told(&r)), "{:?}", plan.refused);
        let done = scene.apply(&mut cleaner, before, &Agent::default());
        for path in &theirs {
            assert!(path.exists(), "{} went: {}", path.display(), reasons(&done));
        }
        for said in ["marks its folder as a database's", "marks a folder above it as a database's"] {
            assert!(reasons(&done).contains(said), "{}", reasons(&done));
        }
        assert!(ours.iter().all(|path| !path.exists()), "{}", reasons(&done));
    }
}

#[test]
fn a_root_beneath_a_marker_is_none_for_any_kind() {
    let state = Path::new("/var/spool/dogwatch-test");
    let scene = Scene::new();
    let (root, beside) = (scene.base.path().join("pg/log/old"), scene.base.path().join("web/log"));
    [&root, &beside].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    mark(&scene.base.path().join("pg"), "PG_VERSION");
    for kind in [Kind::RotatedLogs, Kind::Custom, Kind::CoreDumps, Kind::LiveLogs] {
        let at = |path: &Path| {
            let mut root = RootPolicy { mode: Some(CleanupMode::Auto), ..RootPolicy::of(kind, path) };
            match kind {
                Kind::Custom => root.patterns = vec!["z.*.old".to_owned()],
                Kind::LiveLogs => {
                    root.patterns = vec!["app-*.log".to_owned()];
                    (root.keep_bytes, root.min_size_bytes) = (8 << 10, 32 << 10);
                }
                _ => {}
            }
            Policy { roots: vec![root], ..scene.policy.clone() }
        };
        let said: Vec<String> = at(&root).unusable(state).iter().map(ToString::to_string).collect();
        let [said] = &said[..] else { unreachable!("{kind:?}: {said:?}") };
        let above = scene.base.path().join("pg").display().to_string();
        assert!(
            said.starts_with("roots[0].path") && said.contains(&format!("PG_VERSION marks {above} above it"))
        );
        assert!(Cleaner::open(at(&root), state).1[0].unusable.is_some(), "{kind:?}");
        assert_eq!(at(&beside).validate(state), [], "{kind:?}");
        assert_eq!(Cleaner::open(at(&beside), state).1[0].unusable, None, "{kind:?}");
    }
}

#[test]
fn a_root_beneath_a_marker_that_comes_after_the_start_is_left_alone_while_it_is_there() {
    for marker in ["PG_VERSION", "member"] {
        let mut scene = Scene::new();
        fs::create_dir_all(scene.base.path().join("pg/log")).unwrap();
        root_at(&mut scene, "pg/log");
        let log = write(&scene, "pg/log/sub/x.log.1");
        let mut cleaner = scene.cleaner();
        let before = scene.plan(&cleaner);
        assert_eq!(named(&before), [&log]);
        let above = scene.base.path().join("pg");
        mark(&above, marker);
        let said = format!("{marker} marks {} above it as a database's", above.display());
        let plan = scene.plan(&cleaner);
        assert!(plan.objects.is_empty() && reasons(&plan).contains(&said), "{}", reasons(&plan));
        let done = scene.apply(&mut cleaner, before.clone(), &Agent::default());
        assert!(log.exists() && reasons(&done).contains(&said), "{}", reasons(&done));
        unmark(&above, marker);
        let done = scene.apply(&mut cleaner, before, &Agent::default());
        assert!(!log.exists(), "{}", reasons(&done));
    }
}

#[test]
fn what_was_left_in_the_hosts_root_keeps_no_root() {
    for marker in ["dump.rdb", "member"] {
        let mut scene = Scene::new();
        let host = scene.base.path().to_owned();
        ["etc", "usr", "var/log/db"].iter().for_each(|f| fs::create_dir_all(host.join(f)).unwrap());
        mark(&host, marker);
        root_at(&mut scene, "var/log");
        scene.policy.roots[0].host_root.clone_from(&host);
        let ours = write(&scene, "var/log/app/x.log.1");
        let theirs = write(&scene, "var/log/db/x.log.1");
        mark(&host.join("var/log/db"), marker);
        assert_eq!(scene.policy.validate(Path::new("/var/spool/dogwatch-test")), [], "{marker}");
        let mut cleaner = scene.cleaner();
        let plan = scene.plan(&cleaner);
        assert_eq!(named(&plan), [&ours], "{marker}: {}", reasons(&plan));
        let done = scene.apply(&mut cleaner, plan, &Agent::default());
        assert!(!ours.exists() && theirs.exists(), "{marker}: {}", reasons(&done));
    }
}

#[test]
fn a_marker_that_comes_amid_an_action_keeps_what_is_left_of_it() {
    // Where the marker comes, and the last moment at which it still keeps the first object too.
    for (place, gap) in [
        ("data/pg", Gap::Vetted),
        ("data/pg/log", Gap::Seen),
        ("data/pg", Gap::Digested),
        (".", Gap::Digested),
        (".", Gap::Moved),
    ] {
        let mut scene = Scene::new();
        scene.root(Kind::RotatedLogs, "data");
        let theirs = ["a", "b", "c"].map(|name| write(&scene, &format!("data/pg/log/{name}.log.1")));
        let mut cleaner = scene.cleaner();
        let plan = scene.plan(&cleaner);
        assert_eq!(plan.objects.len(), 3);
        let folder = scene.base.path().join(place);
        cleaner.hooks.at = Some(Box::new(move |at, _| {
            if at == gap {
                mark(&folder, "PG_VERSION");
            }
        }));
        let done = scene.apply(&mut cleaner, plan, &Agent::default());
        assert!(reasons(&done).contains("PG_VERSION marks"), "{place} {gap:?}: {}", reasons(&done));
        for path in &theirs {
            assert!(path.exists(), "{place} {gap:?}: {} went: {}", path.display(), reasons(&done));
        }
    }
}

#[test]
fn a_root_that_a_later_mount_shows_beneath_a_marker_is_left_alone() {
    in_own_mounts(|_| {
        let mut scene = Scene::new();
        let base = scene.base.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("pg/log")).unwrap();
        fs::create_dir_all(base.join("disk/logs")).unwrap();
        mark(&base.join("pg"), "PG_VERSION");
        let _own = Bound::new(&base.join("disk/logs"), &base.join("data"));
        root_at(&mut scene, "data");
        let mut cleaner = scene.cleaner();
        scene.file("data/x.log.1", 4_096);
        let before = scene.plan(&cleaner);
        assert_eq!(before.objects.len(), 1);
        let bound = Bound::new(&base.join("disk/logs"), &base.join("pg/log"));
        let said = format!("PG_VERSION marks {} above it as a database's", base.join("pg").display());
        let plan = scene.plan(&cleaner);
        assert!(plan.objects.is_empty() && reasons(&plan).contains(&said), "{}", reasons(&plan));
        let done = scene.apply(&mut cleaner, before.clone(), &Agent::default());
        assert!(reasons(&done).contains(&said), "{}", reasons(&done));
        assert_eq!(logs_in(&base.join("data")), ["x.log.1"]);
        drop(bound);
        scene.apply(&mut cleaner, before, &Agent::default());
        assert_eq!(logs_in(&base.join("data")), [""; 0], "its own place is none of a database's");
    });
}
