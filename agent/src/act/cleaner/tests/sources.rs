//! Files that are mounted themselves, and layers of overlays that nobody named whole, on real mounts.

use rustix::mount::mount_bind;

use super::mounted::Meanwhile;
use super::mounted::{logs_in, root_at};
use super::*;
use crate::own_mounts::in_own_mounts;

/// A scene with a root at `log` and rotated logs in it.
fn scene(logs: &[&str]) -> (Scene, PathBuf) {
    let mut scene = Scene::new();
    let base = scene.base.path().canonicalize().unwrap();
    for log in logs {
        fs::create_dir_all(base.join("log").join(log).parent().unwrap()).unwrap();
        scene.file(&format!("log/{log}"), 4_096);
    }
    root_at(&mut scene, "log");
    scene.policy.roots[0].max_depth = 4;
    (scene, base)
}

fn bind(source: &Path, at: &Path) {
    if !at.exists() {
        fs::write(at, "").unwrap();
    }
    mount_bind(source, at).unwrap();
}

#[test]
fn a_file_that_is_mounted_stays_and_what_lies_in_a_folder_that_is_mounted_goes() {
    in_own_mounts(|_| {
        let (scene, base) = scene(&["a/app.log.3", "a/app.log.4", "a/app.log.5", "b/app.log.3"]);
        bind(&base.join("log/a/app.log.3"), &base.join("bt"));
        bind(&base.join("bt"), &base.join("log/a/app.log.5"));
        fs::create_dir(base.join("pod")).unwrap();
        mount_bind(base.join("log/b"), base.join("pod")).unwrap();
        let mut cleaner = scene.cleaner();
        let plan = scene.plan(&cleaner);
        let said = reasons(&plan);
        assert!(said.contains(&format!("mounted at {}", base.join("bt").display())), "{said}");
        assert!(said.contains("something is mounted on it") && !said.contains("cross-device"), "{said}");
        scene.apply(&mut cleaner, plan, &Agent::default());
        assert_eq!(logs_in(&base.join("log/a")), ["app.log.3", "app.log.5"]);
        assert_eq!(logs_in(&base.join("log/b")), [""; 0]);
        assert_eq!(fs::metadata(base.join("bt")).unwrap().nlink(), 1);
    });
}

#[test]
fn a_file_that_is_mounted_amid_its_removal_goes_back() {
    in_own_mounts(|_| {
        // Before it is opened, before it is moved, and once it is in quarantine: by its name there.
        for question in 1..=3 {
            let (scene, base) = scene(&["app.log.1"]);
            let (log, quarantine) = (base.join("log/app.log.1"), base.join("log/.dogwatch-quarantine"));
            let mut cleaner = scene.cleaner();
            let plan = scene.plan(&cleaner);
            let agent = Meanwhile(Cell::new(0), question, || {
                let moved = fs::read_dir(&quarantine).unwrap().next().map(|e| e.unwrap().path());
                bind(&moved.unwrap_or_else(|| log.clone()), &base.join("bt"));
            });
            let done = cleaner.apply(plan, &|| scene.now, &agent);
            assert!(reasons(&done).contains("mounted at"), "{question}: {}", reasons(&done));
            assert!(log.exists() && base.join("bt").metadata().unwrap().nlink() == 1, "{question}");
        }
    });
}

#[test]
fn what_the_agent_says_stays_does_and_its_neighbours_go() {
    struct Says;
    impl Parent for Says {
        fn news(&self) -> News {
            News::default()
        }

        fn witness(&self, seen: FileSeen) -> Result<Verdict, String> {
            assert_eq!(seen.objects.len(), 3);
            Ok(Verdict::Kept)
        }

        fn stays(&self) -> HashMap<usize, String> {
            HashMap::from([(1, "mounted at /x of process 7 (nginx)".to_owned())])
        }
    }
    let (scene, base) = scene(&["a.log.1", "b.log.1", "c.log.1"]);
    let mut cleaner = scene.cleaner();
    let plan = scene.plan(&cleaner);
    let stays = plan.objects[1].path.file_name().unwrap().to_str().unwrap().to_owned();
    let done = cleaner.apply(plan, &|| scene.now, &Says);
    assert_eq!(reasons(&done), "mounted at /x of process 7 (nginx)");
    assert_eq!(logs_in(&base.join("log")), [stays]);
}

#[test]
fn a_log_that_is_mounted_is_cut_all_the_same() {
    in_own_mounts(|_| {
        let mut scene = Scene::new();
        let log = live_log(&mut scene);
        let base = scene.base.path().canonicalize().unwrap();
        bind(&log, &base.join("bt"));
        let mut cleaner = scene.cleaner();
        let plan = plan_of_cut(&scene, &cleaner, &log);
        let done = scene.apply(&mut cleaner, plan, &Agent::default());
        assert_eq!(outcomes(&done)[0].0, ObjectOutcome::Cut, "{}", reasons(&done));
    });
}

#[test]
fn what_did_not_come_free_was_written_or_is_kept() {
    let space = |bytes| Space { available: bytes, free: bytes };
    let said = |freed_bytes, is_late| {
        let mut run = Run::default();
        run.freed_bytes = freed_bytes;
        unexplained(space(9 * MIB), space(8 * MIB), &run, is_late).reason
    };
    let kept = "were written by others meanwhile, or what went is still open, mounted or kept by a snapshot";
    assert_eq!(said(3 * MIB, false), format!("4.0 MiB {kept}"));
    assert!(said(3 * MIB, true).starts_with(&format!("4.0 MiB {kept}, or come free later")));
    assert_eq!(said(0, false), "1.0 MiB were written by others meanwhile", "nothing went");
}

/// Mounts an overlay by `options`, in the folder `from`.
fn overlay(from: &Path, options: &str, at: &Path) {
    let mut mount = std::process::Command::new("mount");
    let at = at.to_str().unwrap();
    let done =
        mount.current_dir(from).args(["-t", "overlay", "overlay", "-o", options, at]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn layers_that_were_named_from_a_folder_stay_and_what_is_called_otherwise_goes() {
    in_own_mounts(|outside| {
        // (where the mounter stands, beneath `log`; its layer; what stays).
        let cases: [(&str, &str, &[&str]); 6] = [
            // Of two that are called so, either may be it.
            ("", "ovl", &["deep/ovl/a.log.1", "ovl/a.log.1"]),
            ("", "deep/ovl", &["deep/ovl/a.log.1"]),
            ("deep", "../ovl", &["deep/ovl/a.log.1", "ovl/a.log.1"]),
            ("deep", "./ovl", &["deep/ovl/a.log.1", "ovl/a.log.1"]),
            ("", r"od\:d", &["od:d/a.log.1"]),
            ("ovl", ".", &["deep/ovl/a.log.1", "od:d/a.log.1", "other/a.log.1", "ovl/a.log.1"]),
        ];
        for (nth, (from, layer, stays)) in cases.into_iter().enumerate() {
            let all = ["deep/ovl/a.log.1", "od:d/a.log.1", "other/a.log.1", "ovl/a.log.1"];
            let (scene, base) = scene(&all);
            let part = |name: &str| {
                let path = outside.join(format!("{nth}-{name}"));
                fs::create_dir(&path).unwrap();
                path
            };
            let (up, work, at) = (part("up"), part("work"), part("m"));
            let mut cleaner = scene.cleaner();
            let before = scene.plan(&cleaner);
            assert_eq!(before.objects.len(), 4);
            let options = format!("lowerdir={layer},upperdir={},workdir={}", up.display(), work.display());
            overlay(&base.join("log").join(from), &options, &at);
            assert!(at.join("a.log.1").exists(), "{layer}");
            let plan = scene.plan(&cleaner);
            let planned: Vec<PathBuf> = plan.objects.iter().map(|o| o.path.clone()).collect();
            let said = reasons(&plan);
            let named =
                if layer == "." { "has a layer that is named" } else { "may be a layer of the overlay at" };
            assert!(said.contains(named) && said.contains(at.to_str().unwrap()), "{layer}: {said}");
            // Nor do they go by a plan from before.
            scene.apply(&mut cleaner, before, &Agent::default());
            for log in all {
                let path = base.join("log").join(log);
                let stays = stays.contains(&log);
                assert_eq!(
                    (path.exists(), planned.contains(&path)),
                    (stays, !stays),
                    "{layer}: {log}: {said}"
                );
            }
            rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    });
}

#[test]
fn a_root_that_may_be_such_a_layer_is_none() {
    in_own_mounts(|outside| {
        let (scene, base) = scene(&["a.log.1"]);
        let (up, work, at) = (outside.join("up"), outside.join("work"), outside.join("m"));
        [&up, &work, &at].into_iter().for_each(|path| fs::create_dir(path).unwrap());
        let options = format!("lowerdir=log,upperdir={},workdir={}", up.display(), work.display());
        overlay(&base, &options, &at);
        let (_, roots) = Cleaner::open(scene.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        let why = roots[0].unusable.clone().unwrap();
        assert!(why.contains("may be a layer of the overlay at") && why.contains("is named log"), "{why}");
    });
}
