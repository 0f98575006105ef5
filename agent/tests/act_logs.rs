//! Cleaners of logs beyond rotated ones, through the executor in its own process: what journald has archived, what dead
//! containers left, and live logs that are cut.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "act_logs/containers.rs"]
mod containers;
#[path = "act_logs/journals.rs"]
mod journals;
#[path = "act_logs/live.rs"]
mod live;

mod common;
mod tail_rig;
mod witness;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dogwatch::record::{Action, CleanupMode, PlannedObject};
use dogwatch_agent::act::handle::Executor;
use dogwatch_agent::act::hold_line::HoldLine;
use dogwatch_agent::act::plan::{Allowance, Survey, Trigger, plan};
use dogwatch_agent::act::policy::{Budgets, Policy, RootPolicy, Rules};

const DEADLINE: Duration = Duration::from_secs(60);
const STATE: &str = "/var/spool/dogwatch-test";

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// An executor that cleans one root, and what it was asked.
struct Cleaning {
    policy: Policy,
    executor: Executor,
}

impl Cleaning {
    fn of(root: RootPolicy) -> Self {
        let policy = Policy { mode: CleanupMode::Auto, roots: vec![root], budgets: Budgets::default() };
        let program = Path::new(env!("CARGO_BIN_EXE_dogwatch-agent"));
        let mut executor =
            Executor::spawn(program, &["executor".into()], policy.clone(), Path::new(STATE)).unwrap();
        executor.witnessed_by(Arc::new(witness::Kept));
        executor.hold(&HoldLine::open(Path::new(STATE), Path::new("/")));
        assert_eq!(executor.unable(), Vec::<String>::new());
        Self { policy, executor }
    }

    fn root(&self) -> &Path {
        &self.policy.roots[0].path
    }

    fn survey(&mut self) -> Survey {
        let device = fs::metadata(self.root()).unwrap().dev();
        self.executor.survey(device, DEADLINE).unwrap()
    }

    /// A plan of everything that may go, as of `days` from now.
    fn plan_in(&self, survey: &Survey, days: i64) -> Action {
        let trigger = Trigger {
            mount: self.root().display().to_string(),
            device: fs::metadata(self.root()).unwrap().dev(),
            total_bytes: 1 << 40,
            available_bytes: 0,
            target_available_bytes: 1 << 40,
            inodes_free: 0,
            target_inodes_free: 1 << 30,
            reason: "test".to_owned(),
            finding_id: None,
            actor: "node".to_owned(),
        };
        let rules = Rules::new(self.policy.clone()).unwrap();
        let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
        let now = now_ns() + days * 86_400_000_000_000;
        plan("a-1".to_owned(), &trigger, survey, &rules, allowance, &[], now)
    }

    fn plan(&self, survey: &Survey) -> Action {
        self.plan_in(survey, 0)
    }

    fn apply(&mut self, action: &Action) -> Action {
        self.executor.apply(action, DEADLINE).unwrap()
    }
}

fn paths<'o>(objects: impl IntoIterator<Item = &'o PlannedObject>) -> BTreeSet<PathBuf> {
    objects.into_iter().map(|o| o.path.clone()).collect()
}

/// Why `path` stays, by the action's refusals.
fn why<'a>(action: &'a Action, path: &Path) -> &'a str {
    let refusal = action.refused.iter().find(|r| r.path.as_deref() == Some(path));
    refusal.map(|r| r.reason.as_str()).unwrap_or_else(|| unreachable!("{path:?} is not refused: {action:#?}"))
}

/// Every regular file beneath `base`.
fn files(base: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![base.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.insert(entry.path());
            }
        }
    }
    found
}
