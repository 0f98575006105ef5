//! A stop reaches the real executor in the midst of an action: what it has not come to stays, and the next action goes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::LoopFs;
use dogwatch::record::{Action, ActionState, CleanupMode, FileSeen, ObjectOutcome};
use dogwatch_agent::act::handle::Executor;
use dogwatch_agent::act::hold_line::HoldLine;
use dogwatch_agent::act::plan::{Allowance, Survey, Trigger, plan};
use dogwatch_agent::act::policy::{Budgets, Policy, RootPolicy, Rules};
use dogwatch_agent::act::witness::{Verdict, Witness};

const DEADLINE: Duration = Duration::from_secs(60);
const STATE: &str = "/var/spool/dogwatch-test-brake";
/// Of 2 MiB each: more than are recorded together.
const FILES: usize = 60;

/// Keeps what it is told; all but the first objects not before the stop was said, so that this comes in the midst.
#[derive(Debug, Default)]
struct Waits {
    has_first: AtomicBool,
    is_stopped: AtomicBool,
}

impl Witness for Waits {
    fn keep(&self, _: FileSeen) -> Result<Verdict, String> {
        let (began, is_first) = (Instant::now(), !self.has_first.swap(true, Ordering::SeqCst));
        while !is_first && !self.is_stopped.load(Ordering::SeqCst) && began.elapsed() < DEADLINE {
            std::thread::yield_now();
        }
        Ok(Verdict::Kept)
    }
}

fn make_plan(id: &str, survey: &Survey, policy: &Policy, root: &Path) -> Action {
    let trigger = Trigger {
        mount: root.display().to_string(),
        device: fs::metadata(root).unwrap().dev(),
        total_bytes: 1 << 40,
        available_bytes: 0,
        target_available_bytes: 1 << 30,
        inodes_free: 0,
        target_inodes_free: 0,
        reason: "test".to_owned(),
        finding_id: None,
        actor: "node".to_owned(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
    let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
    plan(id.to_owned(), &trigger, survey, &Rules::new(policy.clone()).unwrap(), allowance, &[], now)
}

fn count(action: &Action, outcome: ObjectOutcome) -> usize {
    action.objects.iter().filter(|o| o.outcome == outcome).count()
}

#[test]
fn a_stop_ends_an_action_before_its_next_object_and_no_other() {
    let fs = LoopFs::tmpfs(160);
    let root = fs.path().join("log");
    fs::create_dir(&root).unwrap();
    for i in 0..FILES {
        fs::write(root.join(format!("{i:02}.log.1")), vec![b'x'; 2 << 20]).unwrap();
    }
    let folder = RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(&root) };
    let policy = Policy { mode: CleanupMode::Auto, roots: vec![folder], budgets: Budgets::default() };
    let program = Path::new(env!("CARGO_BIN_EXE_dogwatch-agent"));
    let mut executor =
        Executor::spawn(program, &["executor".into()], policy.clone(), Path::new(STATE)).unwrap();
    let line = HoldLine::open(Path::new(STATE), Path::new("/"));
    let witness = Arc::new(Waits::default());
    executor.witnessed_by(witness.clone());
    executor.hold(&line);
    let device = fs::metadata(&root).unwrap().dev();
    let left = || {
        fs::read_dir(&root)
            .unwrap()
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "1"))
            .count()
    };

    // One that was stopped before it came does not begin.
    let survey = executor.survey(device, DEADLINE).unwrap();
    let early = make_plan("a-early", &survey, &policy, &root);
    assert_eq!(early.objects.len(), FILES);
    line.halt("a-early".to_owned(), "cleanups are paused by ada: look".to_owned());
    let early = executor.apply(&early, DEADLINE).unwrap();
    assert_eq!((count(&early, ObjectOutcome::Skipped), left()), (FILES, FILES));
    assert!(
        early.refused[0].reason.contains("stopped: cleanups are paused by ada"),
        "{:?}",
        early.refused[0]
    );

    // One that is under way ends.
    let midst = make_plan("a-midst", &survey, &policy, &root);
    let free = || {
        let figures = rustix::fs::statvfs(&root).unwrap();
        figures.f_bfree * figures.f_frsize / (1 << 20)
    };
    let full = free();
    let midst = std::thread::scope(|scope| {
        let applying = scope.spawn(|| executor.apply(&midst, DEADLINE).unwrap());
        let began = Instant::now();
        // Its space comes free when an object is gone for good: one that has only left its folder may still come back.
        while free() <= full {
            assert!(began.elapsed() < DEADLINE, "nothing is removed");
            std::thread::yield_now();
        }
        line.halt("a-midst".to_owned(), "cleanups are stopped everywhere".to_owned());
        witness.is_stopped.store(true, Ordering::SeqCst);
        applying.join().unwrap()
    });
    let (removed, skipped) = (count(&midst, ObjectOutcome::Removed), count(&midst, ObjectOutcome::Skipped));
    assert_eq!((removed + skipped, left(), midst.state), (FILES, skipped, ActionState::Done));
    assert!(removed >= 1 && skipped >= 1, "{removed} removed, {skipped} left");

    // The next is another one.
    let survey = executor.survey(device, DEADLINE).unwrap();
    let rest = executor.apply(&make_plan("a-rest", &survey, &policy, &root), DEADLINE).unwrap();
    assert_eq!((count(&rest, ObjectOutcome::Removed), left()), (skipped, 0));
    eprintln!("{removed} of {FILES} objects went before the stop had effect");
}
