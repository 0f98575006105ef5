use dogwatch::record::CleanupMode;
use proptest::prelude::*;

use super::*;
use crate::act::hold::HeldPlace;
use crate::act::ledger::{Ledger, Source, Spending};
use crate::act::policy::{Budgets, Policy, RootPolicy};
use crate::act::specimen;

const DAY: i64 = 86_400 * 1_000_000_000;
const NOW: i64 = 100 * DAY;
const DEVICE: u64 = 7;

fn rules(keep_newest: u32, budgets: Budgets) -> Rules {
    let root = |path: &str, tier| RootPolicy { keep_newest, tier, ..RootPolicy::new(path) };
    let roots = vec![root("/logs", 1), root("/later", 2)];
    Rules::new(Policy { mode: CleanupMode::Auto, roots, budgets }).unwrap()
}

fn candidate(path: &str, inode: u64, bytes: u64, age_days: i64) -> Candidate {
    let changed = NOW - age_days * DAY;
    let object = PlannedObject {
        device: DEVICE,
        inode,
        size_bytes: bytes,
        allocated_bytes: bytes,
        mtime_ns: changed,
        ctime_ns: changed,
        tier: if path.starts_with("/later") { 2 } else { 1 },
        why_safe: "rotated log (*.log.[1-9]*)".to_owned(),
        ..specimen::object(path)
    };
    let root = PathBuf::from("/logs");
    Candidate { object, root, open_elsewhere: false, accessed_ns: None, filesystem: DEVICE }
}

fn trigger(bytes: u64, inodes: u64) -> Trigger {
    Trigger {
        mount: "/logs".to_owned(),
        device: DEVICE,
        total_bytes: 1 << 40,
        available_bytes: 0,
        target_available_bytes: bytes,
        inodes_free: 0,
        target_inodes_free: inodes,
        reason: "test".to_owned(),
        finding_id: None,
        actor: "node".to_owned(),
    }
}

const PLENTY: Allowance = Allowance { objects: u64::MAX, bytes: u64::MAX };

fn make(candidates: Vec<Candidate>, trigger: &Trigger, rules: &Rules) -> Action {
    let survey = Survey { candidates, ..Survey::default() };
    plan("a-1".to_owned(), trigger, &survey, rules, PLENTY, &[], NOW)
}

fn names(action: &Action) -> Vec<String> {
    action.objects.iter().map(|o| o.path.display().to_string()).collect()
}

fn reason<'a>(action: &'a Action, path: &str) -> &'a str {
    let refusal = action.refused.iter().find(|r| r.path.as_deref() == Some(Path::new(path)));
    refusal.map_or("not refused", |r| r.reason.as_str())
}

#[test]
fn the_oldest_of_the_lowest_tier_go_first_and_superfluous_ones_stay() {
    let rules = rules(0, Budgets::default());
    let all = vec![
        candidate("/later/a.log.1", 1, 100, 90),
        candidate("/logs/b.log.1", 2, 30, 5),
        candidate("/logs/c.log.1", 3, 20, 20),
        candidate("/logs/d.log.1", 4, 60, 10),
    ];
    let action = make(all.clone(), &trigger(75, 0), &rules);
    assert_eq!(names(&action), ["/logs/c.log.1", "/logs/d.log.1"]);
    assert_eq!(action.planned_bytes, 80);
    let action = make(all.clone(), &trigger(60, 0), &rules);
    assert_eq!(names(&action), ["/logs/d.log.1"], "the small one turned out superfluous");
    let action = make(all.clone(), &trigger(111, 0), &rules);
    assert!(names(&action).contains(&"/later/a.log.1".to_owned()));
    let action = make(all.clone(), &trigger(1_000, 0), &rules);
    assert_eq!(names(&action).len(), 4);
    assert!(action.detail.starts_with("falls short"), "{}", action.detail);
    let action = make(all, &trigger(0, 3), &rules);
    assert_eq!(
        names(&action),
        ["/logs/c.log.1", "/logs/d.log.1", "/logs/b.log.1"],
        "three inodes are wanted"
    );
}

#[test]
fn of_what_was_restored_together_the_oldest_content_goes_first() {
    let rules = rules(0, Budgets::default());
    // Written back in the order of their names, the newest first; all are old enough.
    let restored = |n: u32| {
        let mut candidate = candidate(&format!("/logs/app.log.{n}"), u64::from(n), 10, i64::from(n) + 20);
        let born = NOW - 10 * DAY + i64::from(n);
        candidate.object.ctime_ns = born;
        candidate.object.btime_ns = Some(born);
        candidate
    };
    let action = make((1..=5).map(restored).collect(), &trigger(20, 0), &rules);
    assert_eq!(names(&action), ["/logs/app.log.5", "/logs/app.log.4"]);
}

#[test]
fn the_young_the_newest_the_open_and_the_held_stay_with_a_reason() {
    let rules = rules(1, Budgets::default());
    let mut open = candidate("/logs/o.log.2", 4, 10, 9);
    open.open_elsewhere = true;
    let survey = Survey {
        candidates: vec![
            candidate("/logs/a.log.1", 1, 10, 2),
            candidate("/logs/a.log.2", 2, 10, 3),
            candidate("/logs/y.log.2", 3, 10, 0),
            candidate("/logs/y.log.1", 9, 10, -1),
            open,
            candidate("/logs/o.log.1", 5, 10, 8),
            candidate("/logs/held/h.log.2", 6, 10, 8),
            candidate("/logs/held/h.log.1", 7, 10, 7),
            candidate("/elsewhere/e.log.1", 8, 10, 7),
        ],
        ..Survey::default()
    };
    let place = HeldPlace::Beneath(PathBuf::from("/logs/held"));
    let holds = [Hold { id: "hold-1".to_owned(), place, reason: "the auditor asked".to_owned() }];
    let action = plan("a-1".to_owned(), &trigger(1_000, 0), &survey, &rules, PLENTY, &holds, NOW);
    assert_eq!(names(&action), ["/logs/a.log.2"]);
    assert!(reason(&action, "/logs/a.log.1").contains("newest"));
    assert!(reason(&action, "/logs/y.log.2").contains("younger"));
    assert!(reason(&action, "/logs/y.log.1").contains("future"));
    assert_eq!(reason(&action, "/logs/o.log.2"), "open elsewhere");
    assert_eq!(reason(&action, "/logs/held/h.log.2"), "held: hold-1 the auditor asked");
    assert!(action.objects[0].why_safe.contains("unchanged for 3 d"), "{}", action.objects[0].why_safe);
}

#[test]
fn an_inode_goes_with_all_its_links_or_not_at_all() {
    let rules = rules(0, Budgets::default());
    let link = |path, inode, links, age| {
        let mut c = candidate(path, inode, 50, age);
        c.object.links = links;
        c
    };
    let all =
        vec![link("/logs/a.log.1", 1, 2, 5), link("/logs/b.log.1", 1, 2, 5), link("/logs/c.log.1", 2, 2, 9)];
    let action = make(all, &trigger(50, 0), &rules);
    assert_eq!(names(&action), ["/logs/a.log.1", "/logs/b.log.1"]);
    assert_eq!(action.planned_bytes, 50, "an inode counts once");
    assert!(reason(&action, "/logs/c.log.1").contains("nothing would come free"));
}

#[test]
fn budgets_bound_a_plan_and_it_says_so() {
    let budgets = Budgets { max_bytes: 100, max_objects: 2, ..Budgets::default() };
    let rules = rules(0, budgets);
    let all: Vec<_> = (0..10).map(|i| candidate(&format!("/logs/{i}.log.1"), i, 40, 10 + i as i64)).collect();
    let action = make(all.clone(), &trigger(400, 0), &rules);
    assert_eq!(action.objects.len(), 2);
    assert!(action.refused.iter().any(|r| r.path.is_none() && r.reason.starts_with("budgets")));
    let spent = Allowance { objects: 1, bytes: 10 };
    let survey = Survey { candidates: all, ..Survey::default() };
    let action = plan("a-1".to_owned(), &trigger(400, 0), &survey, &rules, spent, &[], NOW);
    assert_eq!(action.state, ActionState::Refused);
    assert_eq!(action.objects, []);
}

/// `/logs` may give three objects with 100 bytes an hour, `/later` whatever the node may.
fn bounded_root(preserve: bool) -> Rules {
    let own = Budgets { max_objects_per_hour: 3, max_bytes_per_hour: 100, ..Budgets::default() };
    let logs = RootPolicy { keep_newest: 0, preserve, budgets: Some(own), ..RootPolicy::new("/logs") };
    let later = RootPolicy { keep_newest: 0, tier: 2, ..RootPolicy::new("/later") };
    let roots = vec![logs, later];
    Rules::new(Policy { mode: CleanupMode::Auto, roots, budgets: Budgets::default() }).unwrap()
}

fn left(objects: u64, bytes: u64) -> Left {
    Left { node: PLENTY, roots: [(0, Allowance { objects, bytes })].into() }
}

#[test]
fn a_root_whose_hour_is_spent_makes_room_for_the_next_and_the_plan_says_why() {
    let rules = bounded_root(false);
    let all = |later: &[u64]| {
        let logs = (0..4).map(|n| candidate(&format!("/logs/{n}.log.1"), n, 40, 90 - n as i64));
        let later = later.iter().map(|n| candidate(&format!("/later/{n}.log.1"), 100 + n, 40, 10));
        Survey { candidates: logs.chain(later).collect(), ..Survey::default() }
    };
    let make = |survey: &Survey, left: Left| {
        plan("a-1".to_owned(), &trigger(120, 0), survey, &rules, left, &[], NOW)
    };
    let fresh = make(&all(&[0, 1]), PLENTY.into());
    assert_eq!(names(&fresh), ["/logs/0.log.1", "/logs/1.log.1", "/later/0.log.1"], "100 bytes an hour");
    let spent = make(&all(&[0, 1]), left(1, 100));
    assert_eq!(names(&spent), ["/logs/0.log.1", "/later/0.log.1", "/later/1.log.1"]);
    let why = "budget: 1 objects and 100 B may go now from /logs, by its own budgets";
    assert!(reason(&spent, "/logs/1.log.1").starts_with(why), "{}", reason(&spent, "/logs/1.log.1"));
    assert!(!is_cut_short(&spent), "others suffice");
    assert!(spent.detail.contains("suffice"), "{}", spent.detail);

    let short = make(&all(&[0]), left(1, 100));
    assert_eq!(names(&short), ["/logs/0.log.1", "/later/0.log.1"]);
    assert!(is_cut_short(&short));
    let none = make(&all(&[]), left(0, 0));
    assert_eq!((none.state, is_cut_short(&none)), (ActionState::Refused, true));
    assert_eq!(
        none.detail,
        "120 B are wanted, 4 objects could go, and budgets leave nothing: 0 objects and 0 B may go now from /logs, by its \
         own budgets of an action and of what is left of the hour"
    );
    let young = candidate("/logs/young.log.1", 9, 40, 0);
    let nothing = make(&Survey { candidates: vec![young], ..Survey::default() }, left(0, 0));
    assert!(!is_cut_short(&nothing) && nothing.detail.contains("nothing may go"), "{}", nothing.detail);
}

#[test]
fn images_neither_spend_nor_need_the_budgets_of_files() {
    let rules = bounded_root(false);
    let mut ledger = Ledger::default();
    let bytes = 256 << 30;
    ledger.note(Spending { at_boot_ns: 0, source: Source::Images, objects: 1_000_000, bytes });
    let fresh = Left::of(&rules, &mut Ledger::default(), 0);
    assert_eq!(Left::of(&rules, &mut ledger, 0), fresh, "they have budgets of their own");

    let image = |n: u64| {
        let mut c = candidate(&format!("/container-images/{n}"), 0, 40, 90);
        let (id, tags, digests) = (n.to_string(), Vec::new(), Vec::new());
        c.object.image = Some(Box::new(PlannedImage { id, tags, digests, inodes: 1 }));
        c
    };
    let files = (0..2).map(|n| candidate(&format!("/later/{n}.log.1"), n, 40, 10));
    let survey = Survey { candidates: (0..3).map(image).chain(files).collect(), ..Survey::default() };
    let node = Allowance { objects: 1, bytes: 40 };
    let action = plan("a-1".to_owned(), &trigger(400, 0), &survey, &rules, node, &[], NOW);
    let images = action.objects.iter().filter(|o| o.image.is_some()).count();
    assert_eq!((images, action.objects.len()), (3, 4), "and of the files, what the node's budgets leave");
}

#[test]
fn content_that_would_not_fit_is_not_planned_and_said() {
    let rules = bounded_root(true);
    let large = candidate("/logs/large.log.1", 1, 60, 99);
    let mut logs = vec![large];
    logs.extend((0..2).map(|n| candidate(&format!("/logs/{n}.log.1"), 10 + n, 40, 50 - n as i64)));
    logs.extend((0..3).map(|n| candidate(&format!("/later/{n}.log.1"), 20 + n, 40, 10)));
    let make = |preserve: Option<PreserveLeft>| {
        let survey =
            Survey { candidates: logs.clone(), preserve: preserve.map(Box::new), ..Survey::default() };
        plan("a-1".to_owned(), &trigger(100, 0), &survey, &rules, PLENTY, &[], NOW)
    };
    assert_eq!(names(&make(None)), ["/logs/large.log.1", "/logs/0.log.1"]);
    let said = "9 B were kept in the last hour".to_owned();
    let action = make(Some(PreserveLeft { object_bytes: 50, bytes: 79, said }));
    assert_eq!(names(&action), ["/logs/0.log.1", "/later/0.log.1", "/later/1.log.1"]);
    let why = reason(&action, "/logs/large.log.1");
    assert!(why.contains("over cleanup.preserve.max_bytes_per_object of 50 B"), "{why}");
    let why = reason(&action, "/logs/1.log.1");
    assert_eq!(why, "budget: about 79 B of content can be kept now: 9 B were kept in the last hour");
}

#[test]
fn an_inode_with_names_in_two_roots_counts_in_both() {
    let rules = bounded_root(false);
    let link = |path: &str| {
        let mut c = candidate(path, 1, 60, 9);
        c.object.links = 2;
        c
    };
    let survey =
        Survey { candidates: vec![link("/logs/a.log.1"), link("/later/a.log.1")], ..Survey::default() };
    let make = |left| plan("a-1".to_owned(), &trigger(60, 0), &survey, &rules, left, &[], NOW);
    let whole = make(left(1, 60));
    assert_eq!((whole.objects.len(), whole.planned_bytes), (2, 60));
    assert_eq!(make(left(1, 59)).objects, [], "its blocks may be charged to either");
    assert_eq!(make(left(0, 60)).objects, []);
}

#[test]
fn the_record_of_a_plan_fits_a_block() {
    let rules = rules(0, Budgets::default());
    let long = "d".repeat(200);
    let folder = format!("/logs/{long}/{long}/{long}");
    let mut all: Vec<_> = (0..5_000).map(|i| candidate(&format!("{folder}/{i}.log.1"), i, 40, 10)).collect();
    all.extend((0..5_000).map(|i| candidate(&format!("{folder}/young{i}.log.1"), 9_000 + i, 40, 0)));
    let action = make(all, &trigger(1 << 30, 0), &rules);
    assert!(action.objects.len() > 200);
    let bytes: usize = action.objects.iter().map(|o| o.path.as_os_str().len() + o.why_safe.len() + 160).sum();
    let refusals: usize = action.refused.iter().map(|r| r.reason.len() + 700).sum();
    assert!(bytes + refusals < 400 * 1024, "{bytes} + {refusals}");
    assert!(action.refused.iter().any(|r| r.reason.contains("more stay")));
}

#[test]
fn nothing_needed_and_nothing_there_are_said() {
    let rules = rules(0, Budgets::default());
    let action = make(vec![candidate("/logs/a.log.1", 1, 10, 5)], &trigger(0, 0), &rules);
    assert_eq!(action.state, ActionState::Refused);
    assert!(action.detail.starts_with("nothing needs to go"), "{}", action.detail);
    assert!(is_needless(&action));
    let action = make(Vec::new(), &trigger(10, 0), &rules);
    assert!(action.detail.contains("nothing may go"), "{}", action.detail);
    assert!(!is_needless(&action));
}

proptest! {
    /// Sufficient where that is possible, and then without a superfluous inode; everything otherwise.
    #[test]
    fn plans_are_minimal_and_sufficient(
        files in prop::collection::vec((0u64..100, 0i64..30, any::<bool>(), any::<bool>()), 0..40),
        need_bytes in 0u64..1_500,
        need_inodes in 0u64..20,
    ) {
        let rules = rules(0, Budgets::default());
        let candidates: Vec<Candidate> = files
            .iter()
            .enumerate()
            .map(|(i, (bytes, age, open, later))| {
                let folder = if *later { "/later" } else { "/logs" };
                let mut c = candidate(&format!("{folder}/{i}.log.1"), i as u64, *bytes, *age);
                c.open_elsewhere = *open;
                c
            })
            .collect();
        let eligible: Vec<&Candidate> =
            candidates.iter().filter(|c| !c.open_elsewhere && NOW - c.object.mtime_ns >= DAY).collect();
        let all_bytes: u64 = eligible.iter().map(|c| c.object.allocated_bytes).sum();
        let possible = all_bytes >= need_bytes && eligible.len() as u64 >= need_inodes;
        let action = make(candidates.clone(), &trigger(need_bytes, need_inodes), &rules);
        for object in &action.objects {
            prop_assert!(eligible.iter().any(|c| c.object.path == object.path));
        }
        let (bytes, inodes) = (action.planned_bytes, action.objects.len() as u64);
        prop_assert_eq!(bytes, action.objects.iter().map(|o| o.allocated_bytes).sum::<u64>());
        if possible {
            prop_assert!(bytes >= need_bytes && inodes >= need_inodes);
            for object in &action.objects {
                prop_assert!(bytes - object.allocated_bytes < need_bytes || inodes - 1 < need_inodes);
            }
        } else if all_bytes < need_bytes {
            prop_assert_eq!(bytes, all_bytes);
        }
    }
}
