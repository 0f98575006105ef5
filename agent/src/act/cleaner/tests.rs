//! What is spent, by whom, and how long a file is claimed: on real files, with a scripted agent.

mod databases;
mod elsewhere;
mod mounted;
mod sources;
mod subvolumes;
mod told;

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dogwatch::record::ObjectOutcome;

use super::*;
use crate::act::gaps::Gap;
use crate::act::hold::{HeldThing, NodeHold};
use crate::act::plan::{Allowance, Trigger, plan};
use crate::act::policy::{Budgets, Cleaner as Kind, RootPolicy};
use crate::act::unshared;

const DAY_NS: i64 = 86_400 * 1_000_000_000;
const MIB: u64 = 1 << 20;
const NODE: Allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };

/// What the agent says when it is asked, and does when it is told.
#[derive(Default)]
struct Agent<'t> {
    asked: Cell<usize>,
    /// What it says at that question, counted from 1; a stop holds from there on.
    says: Option<(usize, HeldNow, String)>,
    told: RefCell<Vec<FileSeen>>,
    at_content: Option<Box<dyn Fn() + 't>>,
}

impl Parent for Agent<'_> {
    fn news(&self) -> News {
        self.asked.set(self.asked.get() + 1);
        match &self.says {
            Some((at, held, why)) if self.asked.get() >= *at => {
                News { held: (self.asked.get() == *at).then(|| held.clone()), stop: Some(why.clone()) }
            }
            _ => News::default(),
        }
    }

    fn witness(&self, seen: FileSeen) -> Result<Verdict, String> {
        if let Some(meet) = self.at_content.as_ref().filter(|_| seen.content.is_some()) {
            meet();
        }
        self.told.borrow_mut().push(seen);
        Ok(Verdict::Kept)
    }
}

/// Roots in a folder, on a clock that runs 100 days ahead.
struct Scene {
    base: tempfile::TempDir,
    policy: Policy,
    now: i64,
}

impl Scene {
    fn new() -> Self {
        unshared::descriptors();
        let policy = Policy { mode: CleanupMode::Auto, roots: Vec::new(), budgets: Budgets::default() };
        Self { base: tempfile::tempdir().unwrap(), policy, now: clock::wall_ns() + 100 * DAY_NS }
    }

    fn root(&mut self, kind: Kind, name: &str) -> &mut RootPolicy {
        let path = self.base.path().join(name);
        fs::create_dir(&path).unwrap();
        let root = RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::of(kind, path) };
        self.policy.roots.push(root);
        self.policy.roots.last_mut().unwrap()
    }

    fn file(&self, path: &str, bytes: u64) -> PathBuf {
        let path = self.base.path().join(path);
        let mut file = File::create(&path).unwrap();
        let line = format!("{:0>63}\n", path.display().to_string().len());
        (0..bytes / 64).for_each(|_| file.write_all(line.as_bytes()).unwrap());
        file.sync_all().unwrap();
        path
    }

    fn cleaner(&self) -> Cleaner {
        let (mut cleaner, roots) = Cleaner::open(self.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        assert!(roots.iter().all(|r| r.unusable.is_none()), "{roots:?}");
        cleaner.hold(HeldNow { set: HoldSet::Known(Vec::new()), host_root: "/".into() });
        cleaner
    }

    /// Everything that may go, by a policy of which the budgets are nobody's.
    fn plan(&self, cleaner: &Cleaner) -> Action {
        let device = fs::metadata(self.base.path()).unwrap().dev();
        let survey = cleaner.survey(device, self.now).unwrap();
        let trigger = Trigger {
            mount: "/".to_owned(),
            device,
            total_bytes: 1 << 40,
            available_bytes: 0,
            target_available_bytes: 1 << 40,
            inodes_free: 0,
            target_inodes_free: 1 << 20,
            reason: "test".to_owned(),
            finding_id: None,
            actor: "node".to_owned(),
        };
        let mut policy = self.policy.clone();
        policy.budgets = Budgets::default();
        policy.roots.iter_mut().for_each(|root| root.budgets = None);
        plan("a-1".to_owned(), &trigger, &survey, &Rules::new(policy).unwrap(), NODE, &[], self.now)
    }

    fn apply(&self, cleaner: &mut Cleaner, action: Action, agent: &Agent<'_>) -> Action {
        cleaner.apply(action, &|| self.now, agent)
    }
}

fn outcomes(action: &Action) -> Vec<(ObjectOutcome, u64)> {
    action.objects.iter().map(|o| (o.outcome, o.allocated_bytes)).collect()
}

fn reasons(action: &Action) -> String {
    action.refused.iter().map(|r| r.reason.clone()).collect::<Vec<_>>().join("; ")
}

#[test]
fn the_names_of_an_inode_are_charged_once_with_the_last() {
    use ObjectOutcome::Removed;
    let mut scene = Scene::new();
    // Room for the one inode and half of it again.
    let budgets = Budgets { max_bytes: 3 * MIB / 2, max_bytes_per_hour: 3 * MIB / 2, ..Budgets::default() };
    let root = scene.root(Kind::RotatedLogs, "logs");
    (root.budgets, root.preserve) = (Some(budgets), true);
    let first = scene.file("logs/a.log.1", MIB);
    let bytes = fs::metadata(&first).unwrap().blocks() * 512;
    for name in ["b.log.1", "c.log.1"] {
        fs::hard_link(&first, scene.base.path().join("logs").join(name)).unwrap();
    }
    let mut cleaner = scene.cleaner();
    let agent = Agent::default();
    let plan = scene.plan(&cleaner);
    let done = scene.apply(&mut cleaner, plan, &agent);
    assert_eq!(outcomes(&done), [(Removed, 0), (Removed, 0), (Removed, bytes)], "{}", reasons(&done));
    let kept: u64 = agent.told.borrow().iter().filter_map(|s| s.content.as_ref()).map(|c| c.length).sum();
    assert_eq!(kept, MIB, "its content is kept once, before the last name goes");

    scene.file("logs/d.log.1", MIB);
    let over = scene.plan(&cleaner);
    let over = scene.apply(&mut cleaner, over, &Agent::default());
    assert!(
        reasons(&over).contains("over the budget of 1.5 MiB an hour from its root"),
        "{}",
        reasons(&over)
    );
    scene.file("logs/d.log.1", MIB / 4);
    let fits = scene.plan(&cleaner);
    let fits = scene.apply(&mut cleaner, fits, &Agent::default());
    assert_eq!(outcomes(&fits)[0].0, Removed, "{}", reasons(&fits));
}

#[test]
fn an_executor_is_told_what_was_spent_before_it_and_forgets_none_of_it() {
    let mut scene = Scene::new();
    let budgets = Budgets { max_objects_per_hour: 3, ..Budgets::default() };
    scene.root(Kind::RotatedLogs, "logs").budgets = Some(budgets);
    (0..4).for_each(|n| drop(scene.file(&format!("logs/{n}.log.1"), 4_096)));
    let mut cleaner = scene.cleaner();
    let before = clock::now().boot_ns.saturating_sub(60_000_000_000);
    let spent = Spending { at_boot_ns: before, source: Source::Root(0), objects: 2, bytes: 8_192 };
    cleaner.spent(&[spent]);
    // Nothing that is told takes anything back.
    cleaner.spent(&[Spending { objects: 0, bytes: 0, ..spent }]);
    let plan = scene.plan(&cleaner);
    let done = scene.apply(&mut cleaner, plan, &Agent::default());
    let removed = done.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed).count();
    assert_eq!((removed, done.objects.len()), (1, 4), "{}", reasons(&done));
}

/// A live log of which 8 MiB may go.
fn live_log(scene: &mut Scene) -> PathBuf {
    let root = scene.root(Kind::LiveLogs, "live");
    root.mode = Some(CleanupMode::Auto);
    root.patterns = vec!["app.log".to_owned()];
    (root.keep_bytes, root.min_size_bytes) = (MIB, 4 * MIB);
    scene.file("live/app.log", 9 * MIB)
}

/// The plan of a cut of it, which is written to meanwhile.
fn plan_of_cut(scene: &Scene, cleaner: &Cleaner, log: &Path) -> Action {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::options().append(true).open(log).unwrap();
            while !stop.load(Ordering::Relaxed) {
                log.write_all(b"one more line\n").unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // To a survey that sees no line come in it is no live log.
        let plan = (0..20).map(|_| scene.plan(cleaner)).find(|plan| !plan.objects.is_empty());
        stop.store(true, Ordering::Relaxed);
        plan.expect("a log that is written to")
    })
}

#[test]
fn a_cut_is_charged_with_what_it_holds_and_not_with_what_its_plan_says() {
    let mut scene = Scene::new();
    let log = live_log(&mut scene);
    scene.policy.roots[0].budgets = Some(Budgets { max_bytes: 4 * MIB, ..Budgets::default() });
    let mut cleaner = scene.cleaner();
    let mut plan = plan_of_cut(&scene, &cleaner, &log);
    let planned = plan.objects[0].allocated_bytes;
    assert!((7 * MIB..9 * MIB).contains(&planned), "{planned}");
    // Whoever took the agent over.
    plan.objects[0].allocated_bytes = 0;
    let before = fs::metadata(&log).unwrap().blocks();
    let refused = scene.apply(&mut cleaner, plan.clone(), &Agent::default());
    assert!(
        reasons(&refused).contains("over the budget of 4.0 MiB an action from its root"),
        "{}",
        reasons(&refused)
    );
    assert_eq!(fs::metadata(&log).unwrap().blocks(), before);

    scene.policy.roots[0].budgets = Some(Budgets { max_bytes: planned, ..Budgets::default() });
    let mut cleaner = scene.cleaner();
    let done = scene.apply(&mut cleaner, plan, &Agent::default());
    let went = (before - fs::metadata(&log).unwrap().blocks()) * 512;
    assert_eq!(outcomes(&done), [(ObjectOutcome::Cut, went)], "{}", reasons(&done));
    assert!(went.abs_diff(planned) <= 4_096, "{went} of {planned}: within a block");
    let hour = cleaner.ledger.spent(clock::now().boot_ns, |s| s == Source::Root(0));
    assert_eq!(hour, (1, went), "what went, not what was claimed");
}

#[test]
fn a_tail_of_holes_does_not_hide_what_a_cut_takes() {
    let mut scene = Scene::new();
    let log = live_log(&mut scene);
    scene.policy.roots[0].budgets = Some(Budgets { max_bytes: 4 * MIB, ..Budgets::default() });
    let mut cleaner = scene.cleaner();
    let plan = plan_of_cut(&scene, &cleaner, &log);
    File::options().write(true).open(&log).unwrap().set_len(64 * MIB).unwrap();
    let before = fs::metadata(&log).unwrap().blocks();
    let refused = scene.apply(&mut cleaner, plan, &Agent::default());
    let why = reasons(&refused);
    assert!(why.contains("over the budget of 4.0 MiB an action from its root"), "{why}");
    assert_eq!(fs::metadata(&log).unwrap().blocks(), before);
}

#[test]
fn a_stop_that_comes_with_a_hold_of_something_else_ends_it_at_every_question() {
    let elsewhere = NodeHold {
        id: "hold-1".to_owned(),
        what: HeldThing::Path("/elsewhere".into()),
        reason: "court".to_owned(),
    };
    let held = HeldNow { set: HoldSet::Known(vec![elsewhere]), host_root: "/".into() };
    for cuts in [false, true] {
        let mut asked = 0;
        for at in 1.. {
            let mut scene = Scene::new();
            let path = if cuts {
                live_log(&mut scene)
            } else {
                scene.root(Kind::RotatedLogs, "logs");
                scene.file("logs/a.log.1", 4_096)
            };
            let mut cleaner = scene.cleaner();
            let plan = if cuts { plan_of_cut(&scene, &cleaner, &path) } else { scene.plan(&cleaner) };
            let before = fs::metadata(&path).unwrap().blocks();
            let says = Some((at, held.clone(), "stopped: enough".to_owned()));
            let agent = Agent { says, ..Agent::default() };
            let done = scene.apply(&mut cleaner, plan, &agent);
            if agent.asked.get() < at {
                assert!(!matches!(done.objects[0].outcome, ObjectOutcome::Skipped), "{}", reasons(&done));
                break;
            }
            asked += 1;
            assert_eq!(reasons(&done), "stopped: enough", "cuts: {cuts}, question {at}");
            assert_eq!(fs::metadata(&path).unwrap().blocks(), before, "cuts: {cuts}, question {at}");
            assert_eq!(cleaner.held.borrow().now, held, "and what is held is not lost for it");
        }
        assert_eq!(asked, if cuts { 2 } else { 3 });
    }
}

#[test]
fn what_waits_for_its_batch_gives_way_while_another_is_read() {
    use ObjectOutcome::{Removed, Skipped};
    let mut scene = Scene::new();
    scene.root(Kind::RotatedLogs, "logs");
    let small = scene.file("logs/a.log.1", 4_096);
    let large = scene.file("logs/b.log.1", 8 * MIB);
    let mut cleaner = scene.cleaner();
    let plan = scene.plan(&cleaner);
    let opened = Arc::new(AtomicBool::new(false));
    let inode = fs::metadata(&small).unwrap().ino();
    let (is_open, begun, to_open) = (opened.clone(), Cell::new(None), small.clone());
    cleaner.hooks.at = Some(Box::new(move |gap, object| {
        if gap != Gap::Digesting || object.path != large {
            return;
        }
        let Some(begun_at) = begun.get() else {
            let (has_opened, path) = (is_open.clone(), to_open.clone());
            std::thread::spawn(move || {
                let file = File::open(path).unwrap();
                has_opened.store(true, Ordering::SeqCst);
                // Stays open until the process' end.
                std::mem::forget(file);
            });
            let waits = |line: &str| line.contains("BREAKING") && line.contains(&format!(":{inode} "));
            let is_seen = || fs::read_to_string("/proc/locks").unwrap().lines().any(waits);
            while !is_open.load(Ordering::SeqCst) && !is_seen() {
                std::thread::yield_now();
            }
            begun.set(Some(Instant::now()));
            return;
        };
        // Between two pieces it was let go of: whoever waits has it before the large one is read to its end. After 45 s the
        // kernel takes it away.
        while !is_open.load(Ordering::SeqCst) && begun_at.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
    }));
    let began = Instant::now();
    let done = scene.apply(&mut cleaner, plan, &Agent::default());
    assert!(opened.load(Ordering::SeqCst), "it waited for the end of the other: {:?}", began.elapsed());
    assert_eq!(done.objects.iter().map(|o| o.outcome).collect::<Vec<_>>(), [Skipped, Removed]);
    assert!(reasons(&done).contains("open elsewhere"), "{}", reasons(&done));
    assert!(small.exists());
}

#[test]
fn nothing_is_claimed_while_the_content_of_another_is_kept() {
    let mut scene = Scene::new();
    scene.root(Kind::RotatedLogs, "plain");
    scene.root(Kind::RotatedLogs, "kept").preserve = true;
    (0..3).for_each(|n| drop(scene.file(&format!("plain/{n}.log.1"), 4_096)));
    scene.file("kept/a.log.1", 4_096);
    scene.file("kept/b.log.1", 2 * MIB);
    let mut cleaner = scene.cleaner();
    let plan = scene.plan(&cleaner);
    assert_eq!(plan.objects.len(), 5);
    let order: Vec<PathBuf> = plan.objects.iter().map(|o| o.path.clone()).collect();
    let now = Cell::new(0);
    let look = || {
        // The first of those that are there is the one whose content comes.
        for path in order.iter().filter(|p| p.exists()).skip(1) {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
            let free = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
            assert!(free.is_ok(), "{} is claimed: {free:?}", path.display());
        }
        now.set(now.get() + 1);
    };
    let agent = Agent { at_content: Some(Box::new(look)), ..Agent::default() };
    let done = scene.apply(&mut cleaner, plan, &agent);
    assert!(done.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{}", reasons(&done));
    assert_eq!(now.get(), 9, "one piece of the small, eight of the large");
}

#[test]
fn content_that_a_disk_takes_too_slowly_ends_with_the_action_and_says_so() {
    let mut scene = Scene::new();
    scene.root(Kind::RotatedLogs, "kept").preserve = true;
    let large = scene.file("kept/a.log.1", 8 * MIB);
    let next = scene.file("kept/b.log.1", 4_096);
    let mut cleaner = scene.cleaner();
    cleaner.max_apply = Duration::from_secs(5);
    let plan = scene.plan(&cleaner);
    let pieces = Cell::new(0);
    let stall = || {
        pieces.set(pieces.get() + 1);
        std::thread::sleep(Duration::from_secs(2));
    };
    let agent = Agent { at_content: Some(Box::new(stall)), ..Agent::default() };
    let done = scene.apply(&mut cleaner, plan, &agent);
    assert_eq!(reasons(&done), "the action took longer than 5 s; the action took longer than 5 s");
    assert!((1..=4).contains(&pieces.get()), "{} of 32 pieces", pieces.get());
    assert!(large.exists() && next.exists() && done.state == ActionState::Done);
}

#[test]
fn a_link_on_a_server_that_is_cleaned_holds_what_it_leads_to() {
    let mut scene = Scene::new();
    scene.root(Kind::RotatedLogs, "logs").max_depth = 3;
    let base = scene.base.path().canonicalize().unwrap();
    fs::create_dir(base.join("logs/real")).unwrap();
    std::os::unix::fs::symlink("real", base.join("logs/app")).unwrap();
    let (kept, free) = (scene.file("logs/real/a.log.1", 4_096), scene.file("logs/b.log.1", 4_096));
    let mut cleaner = scene.cleaner();
    let plan = scene.plan(&cleaner);
    assert_eq!(plan.objects.len(), 2, "{plan:#?}");
    // As if a server stood behind the root.
    let mut table = tempfile::tempfile().unwrap();
    let server = base.join("logs");
    let lines =
        format!("1 1 8:1 / / rw - ext4 /dev/a rw\n2 1 0:40 / {} rw - virtiofs h rw\n", server.display());
    table.write_all(lines.as_bytes()).unwrap();
    let what = HeldThing::Path(server.join("app"));
    let hold = NodeHold { id: "hold-1".to_owned(), what, reason: "court".to_owned() };
    let now = HeldNow { set: HoldSet::Known(vec![hold]), host_root: "/".into() };
    let then = cleaner.held.borrow().told_by(table, now);
    cleaner.held.replace(then);
    let done = scene.apply(&mut cleaner, plan, &Agent::default());
    assert!(kept.exists() && !free.exists(), "{done:#?}");
    assert_eq!(reasons(&done), "held: hold-1 court");
}
