//! One folder by several paths: what is held and what is out of reach stays by each of them.

use std::os::unix::fs::symlink;

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::*;
use crate::act::real_path::tests::in_own_namespace;

/// A bind mount, gone at the end.
struct Bound(PathBuf);

impl Bound {
    fn new(source: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        mount_bind(source, at).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A root of rotated logs at `name`.
fn root_at(scene: &mut Scene, name: &str) {
    let path = scene.base.path().join(name);
    let root = RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(path) };
    scene.policy.roots = vec![root];
}

fn held(what: HeldThing) -> HeldNow {
    let hold = NodeHold { id: "hold-1".to_owned(), what, reason: "court".to_owned() };
    HeldNow { set: HoldSet::Known(vec![hold]), host_root: "/".into() }
}

/// Applies a plan of everything, and says which logs are left in `folder` and why.
fn clean(scene: &Scene, cleaner: &mut Cleaner, agent: &Agent<'_>, folder: &Path) -> (Vec<String>, String) {
    let plan = scene.plan(cleaner);
    let done = scene.apply(cleaner, plan, agent);
    (logs_in(folder), reasons(&done))
}

fn logs_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut logs: Vec<String> = names.filter(|n| !n.starts_with('.')).collect();
    logs.sort();
    logs
}

#[test]
fn a_hold_covers_the_same_file_by_every_path() {
    in_own_namespace(|| {
        // (the root, what is bound where, what is held, what stays); paths beneath the scene's folder.
        type Case = (&'static str, (&'static str, &'static str), &'static str, &'static [&'static str]);
        let cases: [Case; 9] = [
            ("bound", ("real", "bound"), "real/app.log.3", &["app.log.3"]),
            ("bound", ("real", "bound"), "real", &["app.log.1", "app.log.3"]),
            ("bound", ("real", "bound"), "link/app.log.3", &["app.log.3"]),
            ("bound", ("real", "bound"), "real/app.log.9", &[]),
            ("real", ("real", "bound"), "bound/app.log.3", &["app.log.3"]),
            ("real", ("real", "bound"), "bound", &["app.log.1", "app.log.3"]),
            // A folder above either.
            ("bound/real", (".", "bound"), "real/app.log.1", &["app.log.1"]),
            ("bound", ("real", "bound"), ".", &["app.log.1", "app.log.3"]),
            ("real", ("real", "kept/deep/bound"), "kept", &["app.log.1", "app.log.3"]),
        ];
        for (root, (source, at), what, stays) in cases {
            let mut scene = Scene::new();
            let base = scene.base.path().canonicalize().unwrap();
            fs::create_dir(base.join("real")).unwrap();
            symlink("real", base.join("link")).unwrap();
            for n in [1, 3] {
                scene.file(&format!("real/app.log.{n}"), 4_096);
            }
            let _bound = Bound::new(&base.join(source), &base.join(at));
            root_at(&mut scene, root);
            let mut cleaner = scene.cleaner();
            let what = if what == "." { base.clone() } else { base.join(what) };
            cleaner.hold(held(HeldThing::Path(what.clone())));
            let left = clean(&scene, &mut cleaner, &Agent::default(), &base.join("real"));
            assert_eq!(left.0, stays, "{root}, {what:?} held: {}", left.1);
            assert_eq!(left.1.contains("held: hold-1 court"), !stays.is_empty(), "{}", left.1);
        }
    });
}

#[test]
fn a_pods_hold_covers_its_folder_by_every_path_and_no_neighbours() {
    in_own_namespace(|| {
        for whole in [true, false] {
            let mut scene = Scene::new();
            let host = scene.base.path().canonicalize().unwrap();
            let pods = host.join("var/log/pods");
            let folders = ["shop_api-7_u1/app", "shop_api-77_u2/app"].map(|f| pods.join(f));
            folders.iter().for_each(|f| fs::create_dir_all(f).unwrap());
            let files = folders.each_ref().map(|f| f.join("0.log.20240612-101112"));
            files.iter().for_each(|f| fs::write(f, "line\n").unwrap());
            let source = if whole { pods.clone() } else { pods.join("shop_api-7_u1") };
            let _bound = Bound::new(&source, &host.join("bound"));
            root_at(&mut scene, "bound");
            let mut cleaner = scene.cleaner();
            let pod = HeldThing::Pod { namespace: "shop".to_owned(), pod: "api-7".to_owned() };
            cleaner.hold(HeldNow { host_root: host.clone(), ..held(pod) });
            clean(&scene, &mut cleaner, &Agent::default(), &folders[0]);
            assert!(files[0].exists(), "held");
            assert_eq!(files[1].exists(), !whole, "another pod's, where the root reaches it");
        }
    });
}

/// An agent during whose cleanup something happens, at the question `at`.
struct Meanwhile<F>(Cell<usize>, usize, F);

impl<F: Fn()> Parent for Meanwhile<F> {
    fn news(&self) -> News {
        self.0.set(self.0.get() + 1);
        if self.0.get() == self.1 {
            (self.2)();
        }
        News::default()
    }

    fn witness(&self, _: FileSeen) -> Result<Verdict, String> {
        Ok(Verdict::Kept)
    }
}

#[test]
fn what_is_mounted_amid_a_cleanup_counts_for_the_next_object() {
    in_own_namespace(|| {
        for (named, why) in [("held/app.log.1", "held: hold-1"), ("var/lib/etcd", "the cluster's database")] {
            let mut scene = Scene::new();
            let base = scene.base.path().canonicalize().unwrap();
            fs::create_dir(base.join("real")).unwrap();
            let log = scene.file("real/app.log.1", 4_096);
            root_at(&mut scene, "real");
            let mut cleaner = scene.cleaner();
            cleaner.hold(held(HeldThing::Path(base.join("held/app.log.1"))));
            let plan = scene.plan(&cleaner);
            assert_eq!(plan.objects.len(), 1);
            let bound = RefCell::new(None);
            let at = base.join(named.trim_end_matches("/app.log.1"));
            let agent =
                Meanwhile(Cell::new(0), 2, || drop(bound.replace(Some(Bound::new(&base.join("real"), &at)))));
            let done = cleaner.apply(plan, &|| scene.now, &agent);
            assert!(bound.borrow().is_some());
            assert!(reasons(&done).contains(why) && log.exists(), "{}", reasons(&done));
        }
    });
}

#[test]
fn a_bind_mount_brings_nothing_into_reach() {
    in_own_namespace(|| {
        let cases = [
            ("var/lib/etcd/member", ""),
            ("var/lib/etcd", "/member"),
            ("var", "/lib/mysql"),
            ("kubelet/pods/0b2e4a52-3c0f-4a0e-9d0c-1f1f1f1f1f1f/volumes/x", ""),
        ];
        for (source, beneath) in cases {
            let scene = Scene::new();
            let base = scene.base.path().canonicalize().unwrap();
            fs::create_dir_all(base.join(format!("{source}{beneath}"))).unwrap();
            let _bound = Bound::new(&base.join(source), &base.join("bound"));
            let path = base.join(format!("bound{beneath}"));
            let refused = |kind| {
                let mut policy = scene.policy.clone();
                let root = RootPolicy { patterns: vec!["z.*.old".to_owned()], ..RootPolicy::of(kind, &path) };
                policy.roots = vec![root];
                let said = policy.validate(Path::new("/var/spool/dogwatch-test"));
                said.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            };
            let said = refused(Kind::Custom);
            assert!(said.contains("by another name, which lies in"), "{source}: {said}");
            let (_, roots) = Cleaner::open(
                Policy { roots: vec![RootPolicy::new(&path)], ..scene.policy.clone() },
                Path::new("/var/spool/dogwatch-test"),
            );
            assert!(roots[0].unusable.is_some(), "{roots:?}");
        }
        // The state folder and what a marker above the source says.
        let scene = Scene::new();
        let base = scene.base.path().canonicalize().unwrap();
        for folder in ["state/urgent", "pg/logs", "fine/logs"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        fs::write(base.join("pg/PG_VERSION"), "16").unwrap();
        for (source, why) in [
            ("state/urgent", Some("lies in dogwatch's own state folder")),
            ("pg/logs", Some("PG_VERSION marks")),
            ("fine/logs", None),
        ] {
            let _bound = Bound::new(&base.join(source), &base.join("bound"));
            let root = RootPolicy {
                patterns: vec!["z.*.old".to_owned()],
                ..RootPolicy::of(Kind::Custom, base.join("bound"))
            };
            let policy = Policy { roots: vec![root], ..scene.policy.clone() };
            let said: String = policy.validate(&base.join("state")).iter().map(ToString::to_string).collect();
            assert_eq!(said.is_empty(), why.is_none(), "{source}: {said}");
            assert!(why.is_none_or(|why| said.contains(why)), "{source}: {said}");
        }
    });
}

#[test]
fn what_a_mount_makes_a_databases_stays_when_it_comes_after_the_start() {
    in_own_namespace(|| {
        let mut scene = Scene::new();
        let base = scene.base.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("data/etcd")).unwrap();
        root_at(&mut scene, "data");
        let mut cleaner = scene.cleaner();
        scene.file("data/etcd/app.log.1", 4_096);
        scene.file("data/app.log.1", 4_096);
        // A plan from before names both.
        let before = scene.plan(&cleaner);
        assert_eq!(before.objects.len(), 2);
        let _bound = Bound::new(&base.join("data/etcd"), &base.join("var/lib/etcd"));
        let plan = scene.plan(&cleaner);
        assert_eq!(plan.objects.len(), 1, "the survey leaves it out");
        assert!(reasons(&plan).contains("which lies in a var/lib/etcd"), "{}", reasons(&plan));
        let done = scene.apply(&mut cleaner, before, &Agent::default());
        assert!(reasons(&done).contains("which lies in a var/lib/etcd"), "{}", reasons(&done));
        assert_eq!(logs_in(&base.join("data/etcd")), ["app.log.1"]);
        assert_eq!(logs_in(&base.join("data")), ["etcd"], "the other one went");
    });
}
