//! Races: an attacker, and a kill, in every gap between a check and what follows it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use dogwatch::record::{Action, ActionState, CleanupMode, ObjectOutcome, PlannedObject};
use rustix::fs::{AtFlags, CWD, Mode};
use sha2::{Digest, Sha256};

use super::cleaner::Cleaner;
use super::gaps::Gap;
use super::hold::HoldSet;
use super::hold_line::HeldNow;
use super::plan::{Allowance, Trigger, plan};
use super::policy::{Budgets, Policy, QUARANTINE, RootPolicy, Rules};
use crate::act::plan::PLAN_LIFETIME_NS;
use crate::act::{specimen, unshared};

#[path = "../../tests/common/mod.rs"]
pub(crate) mod common;

mod attacker;
mod cell;
mod field;
mod free;
mod holds;
mod matrix;
mod odd;
mod opener;
mod trick;

use common::LoopFs;

const GAPS: [Gap; 9] = [
    Gap::Begin,
    Gap::FolderOpen,
    Gap::ObjectOpen,
    Gap::Claimed,
    Gap::Seen,
    Gap::Digested,
    Gap::Moved,
    Gap::Compared,
    Gap::Unlinked,
];

/// Far enough from now that a file made a moment ago is old.
const NOW: i64 = i64::MAX / 4;

fn nothing_held() -> HeldNow {
    HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/".into() }
}

/// A root with one rotated log and canaries in it and outside it.
struct Scene {
    _fs: Rc<LoopFs>,
    base: PathBuf,
    root: PathBuf,
    outside: PathBuf,
    victim: PathBuf,
}

impl Scene {
    fn new() -> Self {
        Self::on(&Rc::new(LoopFs::ext4(16)), "scene")
    }

    fn on(fs: &Rc<LoopFs>, name: &str) -> Self {
        unshared::descriptors();
        let base = fs.path().join(name);
        let (root, outside) = (base.join("logs"), base.join("outside"));
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir_all(outside.join("sub")).unwrap();
        let victim = root.join("sub/app.log.1");
        for path in [
            "logs/sub/app.log",
            "logs/sub/data.txt",
            "outside/canary",
            "outside/app.log.1",
            "outside/sub/app.log.1",
        ] {
            fs::write(base.join(path), format!("canary {path}\n").repeat(100)).unwrap();
        }
        fs::write(&victim, "rotated\n".repeat(3_000)).unwrap();
        Self { _fs: Rc::clone(fs), base, root, outside, victim }
    }

    fn policy(root: &Path) -> Policy {
        let root = RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(root) };
        Policy { mode: CleanupMode::Auto, roots: vec![root], budgets: Budgets::default() }
    }

    fn open(root: &Path) -> Cleaner {
        let (mut cleaner, roots) = Cleaner::open(Self::policy(root), Path::new("/var/spool/dogwatch-test"));
        assert_eq!(roots[0].unusable, None);
        cleaner.hold(nothing_held());
        cleaner
    }

    fn planned(cleaner: &Cleaner, root: &Path) -> Action {
        let device = fs::metadata(root).unwrap().dev();
        let survey = cleaner.survey(device, NOW).unwrap();
        let trigger = Trigger {
            mount: root.display().to_string(),
            device,
            total_bytes: 1 << 40,
            available_bytes: 0,
            target_available_bytes: 1 << 40,
            inodes_free: 0,
            target_inodes_free: 0,
            reason: "race".to_owned(),
            finding_id: None,
            actor: "node".to_owned(),
        };
        let rules = Rules::new(Self::policy(root)).unwrap();
        let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
        let action = plan("a-1".to_owned(), &trigger, &survey, &rules, allowance, &[], NOW);
        assert_eq!(action.objects.len(), 1, "{action:#?}");
        assert!(action.expires_wall_ns == NOW + PLAN_LIFETIME_NS);
        action
    }

    /// Every regular file by inode, wherever it lies, with the digest of its content.
    fn inodes(&self) -> BTreeMap<u64, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.base.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    let content = fs::read(entry.path()).unwrap();
                    found.insert(entry.metadata().unwrap().ino(), Sha256::digest(content).to_vec());
                }
            }
        }
        found
    }

    fn quarantined(&self) -> Vec<PathBuf> {
        fs::read_dir(self.root.join(QUARANTINE)).unwrap().flatten().map(|e| e.path()).collect()
    }
}

#[test]
fn what_cannot_go_back_stays_in_quarantine_and_is_told_at_every_start() {
    let scene = Scene::new();
    let mut cleaner = Scene::open(&scene.root);
    let action = Scene::planned(&cleaner, &scene.root);
    let (victim, outside) = (scene.victim.clone(), scene.outside.clone());
    let canary = fs::read(outside.join("canary")).unwrap();
    cleaner.hooks.at = Some(Box::new(move |at, _| match at {
        Gap::Digested => {
            fs::rename(&victim, outside.join("aside")).unwrap();
            fs::rename(outside.join("canary"), &victim).unwrap();
        }
        Gap::Moved => fs::write(&victim, "newcomer").unwrap(),
        _ => {}
    }));
    let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
    // By whoever may write in that folder: it must not look as if the cleanup did not work.
    assert_eq!(applied.objects[0].outcome, ObjectOutcome::Skipped);
    let lies = scene.quarantined();
    assert_eq!(lies.len(), 1);
    assert!(applied.refused[0].reason.contains(&lies[0].display().to_string()), "{:?}", applied.refused);
    assert_eq!(fs::read(&lies[0]).unwrap(), canary);
    assert_eq!(fs::read(&scene.victim).unwrap(), b"newcomer");
    let told = Scene::open(&scene.root).restore_leftovers();
    assert_eq!((told.len(), told[0].restored), (1, false));
    assert!(scene.quarantined() == lies, "and stays");
}

#[test]
fn a_link_made_through_a_descriptor_is_accounted() {
    for gap in [Gap::Compared, Gap::Moved] {
        let scene = Scene::new();
        let handle = rustix::fs::open(&scene.victim, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
        let mut cleaner = Scene::open(&scene.root);
        let action = Scene::planned(&cleaner, &scene.root);
        let extra = scene.outside.join("extra");
        let from = format!("/proc/thread-self/fd/{}", handle.as_raw_fd());
        cleaner.hooks.at = Some(Box::new(move |at, _| {
            if at == gap {
                rustix::fs::linkat(CWD, &*from, CWD, &extra, AtFlags::SYMLINK_FOLLOW).unwrap();
            }
        }));
        let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
        assert_eq!(applied.freed_bytes, Some(0));
        if gap == Gap::Compared {
            assert_eq!(applied.objects[0].outcome, ObjectOutcome::Removed);
            let unexplained = applied.unexplained.unwrap();
            assert_eq!(unexplained.bytes, 0, "nothing came free and nothing is claimed");
            assert!(unexplained.reason.contains("hard link"), "{}", unexplained.reason);
        } else {
            assert_eq!(applied.objects[0].outcome, ObjectOutcome::Skipped);
            assert!(scene.victim.exists());
        }
    }
}

/// Somebody who opens at `gap`, through a handle on the inode, and waits on our lease; what became of the action, and
/// how much they could read in the end.
fn opened_at(gap: Gap) -> (Scene, Action, usize) {
    let scene = Scene::new();
    fs::write(&scene.victim, vec![7; 6 << 20]).unwrap();
    File::open(&scene.victim).unwrap().sync_all().unwrap();
    let inode = fs::metadata(&scene.victim).unwrap().ino();
    let handle = rustix::fs::open(&scene.victim, rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    let path = format!("/proc/thread-self/fd/{}", handle.as_raw_fd());
    let mut cleaner = Scene::open(&scene.root);
    let action = Scene::planned(&cleaner, &scene.root);
    let opener = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&opener);
    cleaner.hooks.at = Some(Box::new(move |at, _| {
        if at == gap {
            let path = path.clone();
            let thread = std::thread::spawn(move || fs::read(path).map(|content| content.len()));
            let waits = |line: &str| line.contains("BREAKING") && line.contains(&format!(":{inode} "));
            while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
                std::thread::yield_now();
            }
            *slot.borrow_mut() = Some(thread);
        }
    }));
    let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
    let read = opener.borrow_mut().take().unwrap().join().unwrap().unwrap();
    (scene, applied, read)
}

#[test]
fn whoever_opens_before_the_last_check_gets_the_file() {
    for gap in [Gap::Claimed, Gap::Digested, Gap::Moved] {
        let (scene, applied, read) = opened_at(gap);
        assert_eq!(applied.objects[0].outcome, ObjectOutcome::Skipped, "{gap:?}");
        assert!(applied.refused[0].reason.starts_with("open elsewhere"), "{gap:?}: {:?}", applied.refused);
        assert_eq!((read, scene.victim.exists()), (6 << 20, true), "{gap:?}");
    }
}

#[test]
fn bytes_that_somebody_opened_at_the_last_moment_are_not_claimed() {
    let (scene, applied, read) = opened_at(Gap::Compared);
    assert_eq!(applied.objects[0].outcome, ObjectOutcome::Removed);
    assert_eq!((applied.freed_bytes, read, scene.victim.exists()), (Some(0), 6 << 20, false));
    let unexplained = applied.unexplained.unwrap();
    assert!(unexplained.reason.contains("last moment"), "{unexplained:?}");
}

const KILL_ROOT: &str = "DOGWATCH_TEST_KILL_ROOT";
const KILL_GAP: &str = "DOGWATCH_TEST_KILL_GAP";

/// Not a test by itself: the process that `a_kill_in_any_gap_loses_nothing_silently` kills.
#[test]
#[ignore = "started by another test"]
fn killed_in_a_gap() {
    let (Ok(root), Ok(gap)) = (std::env::var(KILL_ROOT), std::env::var(KILL_GAP)) else { return };
    let root = PathBuf::from(root);
    let mut cleaner = Scene::open(&root);
    let action = Scene::planned(&cleaner, &root);
    cleaner.hooks.at = Some(Box::new(move |at, _| {
        if format!("{at:?}") == gap {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
    }));
    cleaner.apply(action, &|| NOW, &|| Ok(None));
}

#[test]
fn a_kill_in_any_gap_loses_nothing_silently() {
    let mut restored = 0;
    for gap in GAPS {
        let scene = Scene::new();
        let before = scene.inodes();
        let victim_inode = fs::metadata(&scene.victim).unwrap().ino();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["act::races::killed_in_a_gap", "--exact", "--ignored"])
            .env(KILL_ROOT, &scene.root)
            .env(KILL_GAP, format!("{gap:?}"))
            .output()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
        assert_eq!(signal, Some(9), "{gap:?}: {}", String::from_utf8_lossy(&child.stdout));
        let told = Scene::open(&scene.root).restore_leftovers();
        let mut expected = before;
        if gap == Gap::Unlinked {
            expected.remove(&victim_inode);
        } else {
            assert_eq!(fs::metadata(&scene.victim).unwrap().ino(), victim_inode, "{gap:?}");
        }
        assert_eq!(scene.inodes(), expected, "{gap:?}");
        assert_eq!(scene.quarantined(), Vec::<PathBuf>::new(), "{gap:?}");
        let was_in_quarantine = matches!(gap, Gap::Moved | Gap::Compared);
        assert_eq!(told.len(), usize::from(was_in_quarantine), "{gap:?}: {told:#?}");
        restored += told.iter().filter(|l| l.restored).count();
    }
    assert_eq!(restored, 2);
}

const CONFINED_TO: &str = "DOGWATCH_TEST_CONFINED_TO";
const CONFINED_FROM: &str = "DOGWATCH_TEST_CONFINED_FROM";

/// Not a test by itself: a cleaner whose policy names one folder and whose confinement another.
#[test]
#[ignore = "started by another test"]
fn confined_to_another_folder() {
    let (Ok(to), Ok(from)) = (std::env::var(CONFINED_TO), std::env::var(CONFINED_FROM)) else { return };
    let from = PathBuf::from(from);
    let mut cleaner = Scene::open(&from);
    let action = Scene::planned(&cleaner, &from);
    let program = std::env::current_exe().unwrap();
    let folder = File::open(to).unwrap();
    // Landlock confines the thread that asks, which is this one.
    let confinement = super::confine::confine(&super::confine::Reach {
        roots: vec![std::os::fd::AsFd::as_fd(&folder)],
        ..Default::default()
    });
    assert_eq!(confinement.landlock.as_str(), "fully");
    let victim = action.objects[0].path.clone();
    let applied = cleaner.apply(action, &|| NOW, &|| Ok(None));
    assert_ne!(applied.objects[0].outcome, ObjectOutcome::Removed, "{applied:#?}");
    let denied = |what: &str, error: std::io::Error| {
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{what}: {error}");
    };
    denied("unlink", fs::remove_file(&victim).unwrap_err());
    denied("rename", fs::rename(&victim, victim.with_extension("x")).unwrap_err());
    denied("read", fs::read(&victim).unwrap_err());
    denied("read", fs::read("/etc/hostname").unwrap_err());
    denied("write", fs::write(&victim, "x").unwrap_err());
    denied("connect", std::net::TcpStream::connect("127.0.0.1:9").unwrap_err());
    assert!(Command::new(program).arg("--list").output().is_err(), "exec");
    println!("all denied");
}

#[test]
fn the_kernel_denies_what_lies_outside_the_roots() {
    let scene = Scene::new();
    let before = scene.inodes();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["act::races::confined_to_another_folder", "--exact", "--ignored", "--nocapture"])
        .env(CONFINED_TO, &scene.outside)
        .env(CONFINED_FROM, &scene.root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(said.contains("all denied"), "{said}{}", String::from_utf8_lossy(&child.stderr));
    assert_eq!(scene.inodes(), before);
}

#[test]
fn an_agent_that_ends_stops_the_action_between_objects() {
    let scene = Scene::new();
    let mut cleaner = Scene::open(&scene.root);
    let action = Scene::planned(&cleaner, &scene.root);
    let applied = cleaner.apply(action, &|| NOW, &|| Err("the agent ended".to_owned()));
    assert_eq!((applied.state, applied.objects[0].outcome), (ActionState::Done, ObjectOutcome::Skipped));
    assert!(scene.victim.exists());
}

#[test]
fn the_executor_has_its_own_ledger_for_the_hour() {
    let scene = Scene::new();
    fs::write(scene.root.join("b.log.1"), vec![1; 40_000]).unwrap();
    let mut policy = Scene::policy(&scene.root);
    policy.budgets.max_bytes_per_hour = 42_000;
    let (mut cleaner, _) = Cleaner::open(policy, Path::new("/var/spool/dogwatch-test"));
    cleaner.hold(nothing_held());
    let device = fs::metadata(&scene.root).unwrap().dev();
    let survey = cleaner.survey(device, NOW).unwrap();
    let mut reasons = Vec::new();
    for candidate in survey.candidates {
        let applied = cleaner.apply(Scene::planned_of(candidate.object), &|| NOW, &|| Ok(None));
        reasons.push(applied.refused.first().map(|r| r.reason.clone()));
    }
    assert_eq!(reasons.len(), 2);
    assert_eq!(reasons[0], None, "24 KiB or 40 KiB go");
    assert!(
        reasons[1].as_ref().unwrap().contains("an hour"),
        "and then the hour's budget is spent: {reasons:?}"
    );
}

impl Scene {
    /// The rotated log of the scene at `root` as a plan's object, without what the kernel says about it.
    fn planned_by_hand(root: &Path) -> PlannedObject {
        let unknown = specimen::object(root.join("sub/app.log.1"));
        PlannedObject { device: 0, inode: 0, size_bytes: 0, allocated_bytes: 0, mode: 0, ..unknown }
    }

    fn planned_of(object: PlannedObject) -> Action {
        Action { id: "a-2".to_owned(), mount: String::new(), ..specimen::action(vec![object]) }
    }
}
