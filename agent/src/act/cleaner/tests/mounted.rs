//! One folder by several paths: what is held and what is out of reach stays by each of them.

use std::os::unix::fs::symlink;

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::*;
use crate::act::quarantine::ROOT_ASTRAY;
use crate::own_mounts::{fill_the_table, in_own_mounts};

/// A bind mount, gone at the end.
pub(super) struct Bound(PathBuf);

impl Bound {
    pub(super) fn new(source: &Path, at: &Path) -> Self {
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
pub(super) fn root_at(scene: &mut Scene, name: &str) {
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

pub(super) fn logs_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut logs: Vec<String> = names.filter(|n| !n.starts_with('.')).collect();
    logs.sort();
    logs
}

#[test]
fn a_hold_covers_the_same_file_by_every_path() {
    in_own_mounts(|_| {
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
    in_own_mounts(|_| {
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
pub(super) struct Meanwhile<F>(pub(super) Cell<usize>, pub(super) usize, pub(super) F);

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
    in_own_mounts(|_| {
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
    in_own_mounts(|_| {
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
    in_own_mounts(|_| {
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

#[test]
fn a_disk_of_the_hosts_is_no_root_by_the_name_that_it_has_here() {
    in_own_mounts(|base| {
        let host = base.join("host");
        fs::create_dir_all(host.join("home/ci")).unwrap();
        // Its own filesystem, as where such a node's agent may write.
        rustix::mount::mount(
            "home",
            host.join("home"),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .unwrap();
        fs::create_dir_all(host.join("home/ci")).unwrap();
        fs::create_dir_all(host.join("data/logs")).unwrap();
        let refused = |path: &Path| {
            let patterns = vec!["z.*.old".to_owned()];
            let root = RootPolicy { patterns, host_root: host.clone(), ..RootPolicy::of(Kind::Custom, path) };
            let policy = Policy { mode: CleanupMode::Auto, roots: vec![root], budgets: Budgets::default() };
            let said = policy.validate(Path::new("/var/spool/dogwatch-test"));
            let (_, roots) = Cleaner::open(policy, Path::new("/var/spool/dogwatch-test"));
            assert_eq!(said.is_empty(), roots[0].unusable.is_none(), "{said:?} {roots:?}");
            said.iter().map(ToString::to_string).collect::<String>()
        };
        for (path, why) in [("home/ci", "lies in /home (people's files)"), ("", "the whole system")] {
            let said = refused(&host.join(path).components().collect::<PathBuf>());
            assert!(said.contains(why), "{path}: {said}");
        }
        // The very folder at another place.
        let _bound = Bound::new(&host.join("home"), &base.join("bound"));
        assert!(refused(&base.join("bound")).contains("under another name"));
        assert_eq!(refused(&host.join("data/logs")), "");
    });
}

fn mount_tmpfs(at: &Path) {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("disk", at, "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
}

/// What a survey of the disk that `at` is on says of roots that are not what they were.
fn astray(scene: &Scene, cleaner: &Cleaner, at: &Path) -> Vec<(PathBuf, String)> {
    let survey = cleaner.survey(fs::metadata(at).unwrap().dev(), scene.now).unwrap();
    let told = survey.passed_over.into_iter().filter(|r| r.reason.starts_with(ROOT_ASTRAY));
    told.map(|r| (r.path.unwrap(), r.reason)).collect()
}

#[test]
fn a_root_that_a_disk_is_mounted_over_is_told_by_a_survey_of_either_disk() {
    in_own_mounts(|_| {
        let mut scene = Scene::new();
        let base = scene.base.path().canonicalize().unwrap();
        for name in ["aa", "data", "more"] {
            fs::create_dir(base.join(name)).unwrap();
            let rotated =
                RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(base.join(name)) };
            scene.policy.roots.push(rotated);
        }
        // More that is passed over in the root before them than a survey names.
        for n in 0..300 {
            symlink("nowhere", base.join(format!("aa/{n}.log.1"))).unwrap();
        }
        let cleaner = scene.cleaner();
        assert_eq!(astray(&scene, &cleaner, &base), []);
        mount_tmpfs(&base.join("data"));
        scene.file("data/app.log.1", 4_096);
        fs::rename(base.join("more"), base.join("moved")).unwrap();
        for (asked, disk) in [("the new disk", base.join("data")), ("the old one", base.clone())] {
            let told = astray(&scene, &cleaner, &disk);
            let paths: Vec<&Path> = told.iter().map(|(path, _)| path.as_path()).collect();
            assert_eq!(paths, [base.join("data"), base.join("more")], "{asked}: {told:?}");
            assert!(told[0].1.contains("something else was put at"), "{told:?}");
            assert!(told[1].1.contains("nothing is at"), "{told:?}");
        }
        // The next one opens what is there now.
        fs::rename(base.join("moved"), base.join("more")).unwrap();
        let next = scene.cleaner();
        assert_eq!(astray(&scene, &next, &base.join("data")), []);
        let found = next.survey(fs::metadata(base.join("data")).unwrap().dev(), scene.now).unwrap();
        assert_eq!(found.candidates.len(), 1, "{found:?}");
    });
}

#[test]
fn a_server_that_is_mounted_over_a_root_is_told_and_not_waited_for() {
    in_own_mounts(|_| {
        let mut scene = Scene::new();
        let base = scene.base.path().canonicalize().unwrap();
        fs::create_dir(base.join("far")).unwrap();
        root_at(&mut scene, "far");
        let cleaner = scene.cleaner();
        let server = crate::own_mounts::mount_dead(&base.join("far"));
        let told = astray(&scene, &cleaner, &base);
        assert!(told.len() == 1 && told[0].1.contains("something else was put at"), "{told:?}");
        drop(server);
    });
}

#[test]
fn while_the_table_of_mounts_is_cut_short_nothing_goes() {
    in_own_mounts(|_| {
        let mut scene = Scene::new();
        let base = scene.base.path().canonicalize().unwrap();
        fs::create_dir(base.join("real")).unwrap();
        let log = scene.file("real/app.log.1", 4_096);
        root_at(&mut scene, "real");
        let mut cleaner = scene.cleaner();
        cleaner.hold(held(HeldThing::Path(base.join("held/app.log.1"))));
        let plan = scene.plan(&cleaner);
        assert_eq!(plan.objects.len(), 1, "{:?}", plan.refused);
        fill_the_table(&base.join("full"));
        let _bound = Bound::new(&base.join("real"), &base.join("held"));
        let done = scene.apply(&mut cleaner, plan, &Agent::default());
        let said = reasons(&done);
        assert!(log.exists() && said.contains("not known: the table of mounts is longer"), "{said}");
        let survey = scene.plan(&cleaner);
        assert!(survey.objects.is_empty() && reasons(&survey).contains("longer than is read"), "{survey:?}");
        let why = cleaner.keep_aside(true, &Agent::default()).unwrap_err();
        assert!(why.contains("the table of mounts is longer"), "no sweep that let go: {why}");
        // A new executor has no root until the table is whole; the configuration is none the worse.
        assert_eq!(scene.policy.validate(Path::new("/var/spool/dogwatch-test")), []);
        let (_, roots) = Cleaner::open(scene.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        let why = roots[0].unusable.as_ref().unwrap();
        assert!(why.contains("the table of mounts is longer"), "{why}");
    });
}

#[test]
fn a_line_that_nobody_understands_holds_everything() {
    let mut scene = Scene::new();
    let root = scene.root(Kind::RotatedLogs, "logs");
    let path = root.path.clone();
    scene.file("logs/app.log.1", 4_096);
    let cleaner = scene.cleaner();
    let told = |text: &str| {
        let mut table = tempfile::tempfile().unwrap();
        table.write_all(text.as_bytes()).unwrap();
        let held = HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/".into() };
        cleaner.held.borrow().told_by(table, held)
    };
    let whole = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let (fine, torn) = (told(&whole), told(&format!("{whole}what is this\n")));
    let object = path.join("app.log.1");
    let last_word =
        |held| last_word(&RefCell::new(held), &Agent::default(), &crate::act::specimen::object(&object));
    assert_eq!(last_word(fine), Ok(()));
    let why = last_word(torn).unwrap_err();
    assert!(why.starts_with("held: unknown") && why.contains("1 lines of the table of mounts"), "{why}");
}

#[test]
fn a_folder_that_was_moved_away_is_no_root() {
    for instead in ["nothing", "link", "folder"] {
        for amid in [false, true] {
            let mut scene = Scene::new();
            let base = scene.base.path().canonicalize().unwrap();
            fs::create_dir(base.join("real")).unwrap();
            scene.file("real/app.log.1", 4_096);
            root_at(&mut scene, "real");
            let mut cleaner = scene.cleaner();
            let plan = scene.plan(&cleaner);
            assert_eq!(plan.objects.len(), 1);
            let moved = || {
                fs::rename(base.join("real"), base.join("kept")).unwrap();
                match instead {
                    "link" => symlink("kept", base.join("real")).unwrap(),
                    "folder" => fs::create_dir(base.join("real")).unwrap(),
                    _ => {}
                }
            };
            let done = if amid {
                cleaner.apply(plan, &|| scene.now, &Meanwhile(Cell::new(0), 2, moved))
            } else {
                moved();
                scene.apply(&mut cleaner, plan, &Agent::default())
            };
            let why = "its root is another folder than the one that was opened";
            assert!(reasons(&done).contains(why), "{instead} {amid}: {}", reasons(&done));
            assert!(base.join("kept/app.log.1").exists(), "{instead} {amid}");
            let next = scene.plan(&cleaner);
            assert!(next.objects.is_empty() && reasons(&next).contains(why), "{instead}: {}", reasons(&next));
        }
    }
}
