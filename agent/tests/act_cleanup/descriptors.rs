//! How many descriptors an executor holds, beside its limit.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use dogwatch::record::{CleanupMode, FileSeen, ObjectOutcome};
use dogwatch_agent::act::policy::{Budgets, MAX_ROOTS, Policy, RootPolicy};
use dogwatch_agent::act::witness::{Verdict, Witness};

use super::common::LoopFs;
use super::layouts::wait_for_the_clock;
use super::{DEADLINE, device, make_plan, spawn};

/// Counts what an executor has open while what it would remove is recorded.
#[derive(Debug, Default)]
struct Counting {
    pid: AtomicU32,
    most: AtomicUsize,
}

impl Witness for Counting {
    fn keep(&self, _: FileSeen) -> Result<Verdict, String> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid.load(Ordering::SeqCst))).unwrap().count();
        self.most.fetch_max(open, Ordering::SeqCst);
        Ok(Verdict::Kept)
    }
}

#[test]
fn as_many_roots_as_may_be_leave_an_executor_its_descriptors_for_a_whole_batch() {
    let fs = LoopFs::tmpfs(64);
    let roots = (0..MAX_ROOTS).map(|n| {
        let path = fs.path().join(format!("{n:02}"));
        fs::create_dir(&path).unwrap();
        (1..=4).for_each(|i| fs::write(path.join(format!("app{i}.log.1")), "rotated").unwrap());
        RootPolicy { min_age_seconds: 0, keep_newest: 0, ..RootPolicy::new(path) }
    });
    let policy = Policy { mode: CleanupMode::Auto, roots: roots.collect(), budgets: Budgets::default() };
    let mut executor = spawn(policy.clone());
    let witness = Arc::new(Counting::default());
    witness.pid.store(executor.ready().pid, Ordering::SeqCst);
    executor.witnessed_by(witness.clone());
    let survey = executor.survey(device(fs.path()), DEADLINE).unwrap();
    wait_for_the_clock(&survey);
    let plan = make_plan(&survey, &policy, fs.path(), 1 << 40, 1 << 40);
    assert_eq!(plan.objects.len(), 4 * MAX_ROOTS);
    let applied = executor.apply(&plan, DEADLINE).unwrap();
    assert!(applied.objects.iter().all(|o| o.outcome == ObjectOutcome::Removed), "{:?}", applied.refused);
    let limits = fs::read_to_string(format!("/proc/{}/limits", executor.ready().pid)).unwrap();
    let limit = limits.lines().find_map(|l| l.strip_prefix("Max open files")).unwrap();
    let limit: usize = limit.split_whitespace().next().unwrap().parse().unwrap();
    let most = witness.most.load(Ordering::SeqCst);
    eprintln!("{most} descriptors of {limit} open, with {MAX_ROOTS} roots");
    assert!(
        most > 3 * MAX_ROOTS,
        "each root holds itself, its quarantine and its folder of held files: {most}"
    );
    // Package caches and logs of pods that are gone hold two more; 48 objects hold two each, and a few are its own.
    assert!(limit >= 5 * MAX_ROOTS + 2 * 48 + 8, "{limit}");
}
