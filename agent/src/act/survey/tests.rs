//! Surveys of folders that somebody filled in order to hide others, or to take the agent's memory.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use dogwatch::record::{Action, CleanupMode};

use super::*;
use crate::act::cleaner;
use crate::act::hold::{HeldThing, HoldSet, NodeHold};
use crate::act::hold_line::HeldNow;
use crate::act::plan::{Allowance, Trigger, plan};
use crate::act::policy::{Budgets, Policy, RootPolicy};
use crate::act::unshared;

mod databases;

const DAY: Duration = Duration::from_secs(86_400);

/// Roots for rotated logs, on a clock that runs 100 days ahead: what is made now is old.
struct Scene {
    base: tempfile::TempDir,
    policy: Policy,
}

impl Scene {
    fn new(roots: &[&str]) -> Self {
        unshared::descriptors();
        let base = tempfile::tempdir().unwrap();
        let root = |name: &&str| {
            fs::create_dir(base.path().join(name)).unwrap();
            RootPolicy { keep_newest: 1, ..RootPolicy::new(base.path().join(name)) }
        };
        let roots = roots.iter().map(root).collect();
        let policy = Policy { mode: CleanupMode::Auto, roots, budgets: Budgets::default() };
        Self { base, policy }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.base.path().join(relative)
    }

    /// An old file, of which this much is on disk.
    fn old(&self, relative: &str, bytes: usize) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![b'x'; bytes]).unwrap();
        path
    }

    /// So many empty files, each called `before`, its number and `after`; young, if they are to be.
    fn many(&self, folder: &str, count: usize, (before, after): (&str, &str), young: bool) {
        let folder = self.path(folder);
        fs::create_dir_all(&folder).unwrap();
        for n in 0..count {
            let file = File::create(folder.join(format!("{before}{n:05}{after}"))).unwrap();
            if young {
                file.set_modified(SystemTime::now() + 200 * DAY).unwrap();
            }
        }
    }

    fn cleaner(&self) -> cleaner::Cleaner {
        let (cleaner, roots) =
            cleaner::Cleaner::open(self.policy.clone(), Path::new("/var/spool/dogwatch-test"));
        assert!(roots.iter().all(|r| r.unusable.is_none()), "{roots:?}");
        cleaner
    }

    fn now() -> i64 {
        let now = SystemTime::now() + 100 * DAY + DAY / 24;
        i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
    }

    fn survey(&self, cleaner: &cleaner::Cleaner) -> Survey {
        let device = fs::metadata(self.base.path()).unwrap().dev();
        cleaner.survey(device, Self::now()).unwrap()
    }

    fn plan(&self, survey: &Survey) -> Action {
        let trigger = Trigger {
            mount: "/".to_owned(),
            device: fs::metadata(self.base.path()).unwrap().dev(),
            total_bytes: 1 << 40,
            available_bytes: 0,
            target_available_bytes: 1 << 40,
            inodes_free: 0,
            target_inodes_free: 0,
            reason: "test".to_owned(),
            finding_id: None,
            actor: "node".to_owned(),
        };
        let rules = Rules::new(self.policy.clone()).unwrap();
        let allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };
        plan("a-1".to_owned(), &trigger, survey, &rules, allowance, &[], Self::now())
    }
}

fn cost(survey: &Survey) -> usize {
    survey.candidates.iter().map(finds::cost).sum()
}

fn has(survey: &Survey, path: &Path) -> bool {
    survey.candidates.iter().any(|c| c.object.path == path)
}

#[test]
fn twenty_thousand_young_names_hide_neither_what_lies_behind_them_nor_other_roots() {
    let scene = Scene::new(&["logs", "more"]);
    scene.many("logs/app", 20_500, ("", ".log.1"), true);
    // Gigabytes that are sparse, behind them by name.
    let behind = [scene.old("logs/zz/big.log.1", 1 << 16), scene.old("logs/zz/big.log.2", 1 << 16)];
    let other = [scene.old("more/big.log.1", 1 << 16), scene.old("more/big.log.2", 1 << 16)];
    for path in behind.iter().chain(&other) {
        File::options().write(true).open(path).unwrap().set_len(4 << 30).unwrap();
    }
    let survey = scene.survey(&scene.cleaner());
    assert!(behind.iter().chain(&other).all(|p| has(&survey, p)), "{:?}", survey.partial);
    assert_eq!(survey.partial, None, "nothing that could go is left out");
    assert!(cost(&survey) <= finds::MAX_BYTES, "{}", cost(&survey));
    let action = scene.plan(&survey);
    let named: Vec<&Path> = action.objects.iter().map(|o| o.path.as_path()).collect();
    assert_eq!(named.len(), 2, "all but the newest of each log: {named:?}");
    let said = action.refused.iter().any(|r| r.path.is_none() && r.reason.contains("too young, or open"));
    assert!(said, "{:?}", action.refused.last());
}

#[test]
fn long_names_cost_no_more_memory_than_short_ones() {
    for young in [true, false] {
        let scene = Scene::new(&["logs"]);
        let long = "n".repeat(250);
        let deep = format!("logs/app/{}", [long.as_str(); 5].join("/"));
        let count = 3 * finds::MAX_BYTES / 2_000;
        scene.many(&deep, count, (&"f".repeat(190), ".log.1"), young);
        let logs = [scene.old("logs/a.log.1", 1 << 16), scene.old("logs/a.log.2", 1 << 16)];
        let survey = scene.survey(&scene.cleaner());
        assert!(cost(&survey) <= finds::MAX_BYTES, "{} bytes", cost(&survey));
        assert!(logs.iter().all(|p| has(&survey, p)), "the larger ones stay");
        assert_eq!(survey.partial.is_some(), !young, "{:?}", survey.partial);
        if let Some(partial) = &survey.partial {
            assert!(partial.contains("smaller files with 0 B are left out"), "{partial}");
        }
    }
}

#[test]
fn of_what_is_thinned_out_the_newest_of_each_log_still_stay() {
    let mut scene = Scene::new(&["logs"]);
    scene.policy.roots[0].keep_newest = 2;
    let mut cleaner = scene.cleaner();
    cleaner.limits.bytes = 64 << 10;
    // Three are young, the newest two of the log among them; and a thousand that have nothing to do with it.
    for n in 1..=6 {
        scene.old(&format!("logs/app/app.log.{n}"), 1 << 16);
    }
    for n in 1..=3 {
        let file = File::options().write(true).open(scene.path(&format!("logs/app/app.log.{n}"))).unwrap();
        // An hour ago, about.
        file.set_modified(SystemTime::now() + 100 * DAY - n * DAY / 86_400).unwrap();
    }
    scene.many("logs/zz", 1_000, ("", ".log.1"), true);
    let survey = scene.survey(&cleaner);
    assert!(cost(&survey) <= cleaner.limits.bytes);
    let mut goes: Vec<PathBuf> = scene.plan(&survey).objects.into_iter().map(|o| o.path).collect();
    goes.sort();
    let old: Vec<PathBuf> = (4..=6).map(|n| scene.path(&format!("logs/app/app.log.{n}"))).collect();
    assert_eq!(goes, old, "the two newest are young, and all old ones may go");
}

#[test]
fn names_of_one_file_hide_no_others() {
    let mut scene = Scene::new(&["logs"]);
    scene.policy.roots[0].keep_newest = 0;
    let mut cleaner = scene.cleaner();
    cleaner.limits.bytes = 64 << 10;
    // The largest by far, under more names than a survey has room for, and what only so many of them have.
    for (name, links) in [("many", 1_000), ("some", 30)] {
        let file = scene.old(&format!("logs/app/{name}-0.log.1"), 1 << 20);
        for n in 1..links {
            fs::hard_link(&file, scene.path(&format!("logs/app/{name}-{n}.log.1"))).unwrap();
        }
    }
    let others: Vec<PathBuf> =
        ["app/0", "zz/1"].map(|name| scene.old(&format!("logs/{name}.log.1"), 1 << 12)).into();
    let survey = scene.survey(&cleaner);
    assert!(cost(&survey) <= cleaner.limits.bytes);
    assert!(others.iter().all(|path| has(&survey, path)), "{:?}", survey.partial);
    let goes: Vec<PathBuf> = scene.plan(&survey).objects.into_iter().map(|o| o.path).collect();
    assert!(others.iter().all(|path| goes.contains(path)), "{goes:?}");
    assert_eq!(goes.len(), 32, "with all names of the one of which there is room for all");
    assert!(survey.partial.unwrap().contains("are left out"));
}

#[test]
fn what_is_held_hides_nothing_and_says_so() {
    let mut scene = Scene::new(&["logs"]);
    scene.policy.roots[0].keep_newest = 0;
    let mut cleaner = scene.cleaner();
    cleaner.limits.bytes = 64 << 10;
    for n in 0..200 {
        scene.old(&format!("logs/held/{n}.log.1"), 1 << 16);
    }
    let free = [scene.old("logs/a.log.1", 1 << 12), scene.old("logs/zz/z.log.1", 1 << 12)];
    let what = HeldThing::Path(scene.path("logs/held"));
    let hold = NodeHold { id: "hold-1".to_owned(), what, reason: "the auditor asked".to_owned() };
    let held = |holds| HeldNow { set: HoldSet::Known(holds), host_root: "/".into() };
    cleaner.hold(held(vec![hold.clone()]));
    let survey = scene.survey(&cleaner);
    assert_eq!(survey.partial, None, "nothing that could go is left out");
    assert!(free.iter().all(|path| has(&survey, path)));
    let action = scene.plan(&survey);
    let said: Vec<&str> = action.refused.iter().map(|r| r.reason.as_str()).collect();
    assert!(said.iter().any(|s| s.ends_with("more stay: held: hold-1 the auditor asked")), "{said:?}");

    // Where there is room for all, each is told by its name.
    cleaner.limits.bytes = finds::MAX_BYTES;
    let survey = scene.survey(&cleaner);
    assert_eq!(survey.candidates.len(), 202);
    cleaner.hold(held(Vec::new()));
    assert_eq!(scene.survey(&cleaner).candidates.len(), 202);
}

#[test]
fn a_root_without_end_leaves_the_others_their_share_and_is_gone_on_with() {
    let scene = Scene::new(&["logs", "more"]);
    let mut cleaner = scene.cleaner();
    cleaner.limits.entries = 4_000;
    for n in 0..12 {
        scene.many(&format!("logs/a{n:02}"), 1_000, ("", ".log.1"), true);
    }
    let behind = [scene.old("logs/zz/big.log.1", 1 << 16), scene.old("logs/zz/big.log.2", 1 << 16)];
    let other = [scene.old("more/big.log.1", 1 << 16), scene.old("more/big.log.2", 1 << 16)];
    let first = scene.survey(&cleaner);
    assert!(other.iter().all(|p| has(&first, p)), "{:?}", first.partial);
    assert!(!has(&first, &behind[0]));
    let said = first.partial.unwrap();
    assert!(said.contains("logs") && said.contains("the next one goes on there"), "{said}");
    let met = (0..6).any(|_| {
        let next = scene.survey(&cleaner);
        behind.iter().all(|p| has(&next, p))
    });
    assert!(met, "each goes on where the last one ended");
}

#[test]
fn surveys_in_turn_come_round_to_the_beginning() {
    let scene = Scene::new(&["logs"]);
    let mut cleaner = scene.cleaner();
    cleaner.limits.entries = 2_500;
    for n in 0..4 {
        scene.many(&format!("logs/a{n}"), 1_000, ("", ".log.1"), true);
        scene.old(&format!("logs/a{n}/old.log.2"), 1 << 16);
        scene.old(&format!("logs/a{n}/old.log.3"), 1 << 16);
    }
    let mut met = [0; 4];
    for _ in 0..6 {
        let survey = scene.survey(&cleaner);
        let mut paths: Vec<&Path> = survey.candidates.iter().map(|c| c.object.path.as_path()).collect();
        let all = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), all, "nothing is met twice in one survey");
        for (n, met) in met.iter_mut().enumerate() {
            *met += usize::from(has(&survey, &scene.path(&format!("logs/a{n}/old.log.3"))));
        }
    }
    assert!(met.iter().all(|n| *n >= 2), "each folder has its turn again: {met:?}");
}

#[test]
fn a_folder_of_which_no_survey_sees_the_end_is_left_out_of_none() {
    let scene = Scene::new(&["logs"]);
    let mut cleaner = scene.cleaner();
    cleaner.limits.entries = 1_500;
    scene.many("logs/app", 2_000, ("", ".log.1"), false);
    let behind = scene.old("logs/zz/old.log.1", 1 << 16);
    let mut met = 0;
    for _ in 0..4 {
        let survey = scene.survey(&cleaner);
        let mut paths: Vec<&Path> = survey.candidates.iter().map(|c| c.object.path.as_path()).collect();
        let all = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), all, "nothing is met twice in one survey");
        assert!(all >= 1_000, "{all} found: {:?}", survey.partial);
        met += usize::from(has(&survey, &behind));
    }
    assert!(met >= 2, "what lies behind it has its turn: {met}");
}

#[test]
fn a_folder_in_which_nothing_may_go_for_its_size_hides_nothing() {
    let scene = Scene::new(&["logs"]);
    // The bound is the executor's own on what it looks through; links make entries cheaper than files.
    let first = scene.old("logs/app/00000.log.1", 0);
    for n in 1..=MAX_FOLDER_ENTRIES {
        let link = scene.path(&format!("logs/app/{:05}-{:05}.log.1", n / 60_000, n % 60_000));
        if n % 30_000 == 0 {
            File::create(&link).unwrap();
        } else {
            let of =
                scene.path(&format!("logs/app/{:05}-{:05}.log.1", n / 60_000, n % 60_000 / 30_000 * 30_000));
            let of = if of.exists() { of } else { first.clone() };
            fs::hard_link(of, link).unwrap();
        }
    }
    let behind = [scene.old("logs/zz/big.log.1", 1 << 16), scene.old("logs/zz/big.log.2", 1 << 16)];
    let survey = scene.survey(&scene.cleaner());
    assert!(behind.iter().all(|p| has(&survey, p)), "{:?}", survey.partial);
    assert_eq!(survey.candidates.len(), 2);
    let folder = scene.path("logs/app");
    let why = survey.passed_over.iter().find(|r| r.path.as_ref() == Some(&folder)).unwrap();
    assert!(why.reason.contains("more than 200000 entries"), "{}", why.reason);
}
