//! What a survey says of roots that cannot be used, and what stays as the newest.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::SystemTime;

use super::*;
use crate::own_mounts::in_own_mounts;

fn mount_tmpfs(at: &Path) -> u64 {
    fs::create_dir(at).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("disk", at, "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
    fs::metadata(at).unwrap().dev()
}

#[test]
fn a_plan_says_which_roots_of_its_disk_cannot_be_used_and_why() {
    in_own_mounts(|at| {
        let at = at.canonicalize().unwrap();
        let (first, second) = (mount_tmpfs(&at.join("first")), mount_tmpfs(&at.join("second")));
        let mut scene = Scene::new();
        for path in
            ["first/open", "first/gone/logs", "second/gone", "second/link/logs", "first/good", "first/off"]
        {
            let mut root = RootPolicy::new(at.join(path));
            root.mode = path.ends_with("off").then_some(CleanupMode::Off);
            scene.policy.roots.push(root);
        }
        for path in ["first/open/.dogwatch-quarantine", "first/good", "first/elsewhere/logs"] {
            fs::create_dir_all(at.join(path)).unwrap();
        }
        let everybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(at.join("first/open/.dogwatch-quarantine"), everybody).unwrap();
        symlink(at.join("first/elsewhere"), at.join("second/link")).unwrap();
        let (mut cleaner, _) = Cleaner::open(scene.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        cleaner.hold(HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/".into() });
        let told = |device| {
            let survey = cleaner.survey(device, scene.now).unwrap();
            let general = survey.passed_over.iter().filter(|r| r.path.is_none());
            general.map(|r| r.reason.clone()).collect::<Vec<_>>().join("\n")
        };
        let root = |path: &str| format!("cleanup root {} cannot be used", at.join(path).display());
        let open = format!("{}: .dogwatch-quarantine in it is open to others", root("first/open"));
        let gone = |path| format!("{}: it does not exist", root(path));
        let link = format!("{}, on whichever disk it lies: ", root("second/link/logs"));
        let (of_first, of_second) = (told(first), told(second));
        for (said, of) in [
            (&of_first, &[open, gone("first/gone/logs"), link.clone()][..]),
            (&of_second, &[gone("second/gone"), link][..]),
        ] {
            assert!(of.iter().all(|why| said.contains(why)), "{of:#?} {said}");
            assert_eq!(said.lines().count(), of.len(), "{said}");
        }

        // Of many, some are named.
        scene.policy.roots = (0..20).map(|n| RootPolicy::new(at.join(format!("first/{n}")))).collect();
        let (cleaner, _) = Cleaner::open(scene.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        let survey = cleaner.survey(first, scene.now).unwrap();
        assert_eq!(survey.passed_over.len(), 17, "{survey:?}");
        assert_eq!(survey.passed_over[16].reason, "4 more cleanup roots cannot be used");
    });
}

#[test]
fn a_file_of_the_future_does_not_stand_in_for_the_newest() {
    let mut scene = Scene::new();
    scene.root(Kind::RotatedLogs, "logs").keep_newest = 1;
    let paths: Vec<PathBuf> = (1..=3).map(|n| scene.file(&format!("logs/app.log.{n}"), 4_096)).collect();
    let now = SystemTime::now();
    let set = |path: &Path, at| File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    set(&paths[0], now);
    set(&paths[1], now - Duration::from_secs(86_400));
    set(&paths[2], now + Duration::from_secs(103 * 86_400));
    let mut cleaner = scene.cleaner();
    let plan = scene.plan(&cleaner);
    let planned: Vec<&PathBuf> = plan.objects.iter().map(|o| &o.path).collect();
    assert_eq!(planned, [&paths[1]], "{}", reasons(&plan));

    // Nor with whoever made the plan without that.
    scene.policy.roots[0].keep_newest = 0;
    let plan = scene.plan(&cleaner);
    assert_eq!(plan.objects.len(), 2);
    let done = scene.apply(&mut cleaner, plan, &Agent::default());
    assert!(reasons(&done).contains("it is among the newest of"), "{}", reasons(&done));
    let left: Vec<bool> = paths.iter().map(|path| path.exists()).collect();
    assert_eq!(left, [true, false, true], "{}", reasons(&done));
}
