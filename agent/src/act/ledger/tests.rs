use dogwatch::record::{CleanupMode, Cut, FileSeen, PlannedImage};
use proptest::prelude::*;

use super::*;
use crate::act::policy::{Policy, RootPolicy};
use crate::act::specimen;

const WALL: i64 = 1_700_000_000_000_000_000;
const NOW_NS: u64 = 100_000 * SECOND_NS;

fn rules() -> Rules {
    let own = Budgets { max_objects_per_hour: 3, max_bytes_per_hour: 100, ..Budgets::default() };
    let bounded = RootPolicy { budgets: Some(own), ..RootPolicy::new("/b") };
    let roots = vec![RootPolicy::new("/a"), bounded];
    Rules::new(Policy { mode: CleanupMode::Auto, roots, budgets: Budgets::default() }).unwrap()
}

fn object(path: &str, inode: u64, bytes: u64, outcome: ObjectOutcome) -> PlannedObject {
    PlannedObject { inode, size_bytes: bytes, allocated_bytes: bytes, outcome, ..specimen::object(path) }
}

fn action(state: ActionState, objects: Vec<PlannedObject>) -> Action {
    Action { state, ..specimen::action(objects) }
}

fn record(seconds_ago: i64, body: Body) -> Record {
    let wall_ns = WALL - seconds_ago * SECOND_NS as i64;
    Record { seq: 1, at: Moment { wall_ns, boot_ns: 0 }, body }
}

/// What a ledger that was read from `records` says of all, and of `/b`.
fn recovered(records: Vec<Record>) -> ((u64, u64), (u64, u64)) {
    let rules = rules();
    let mut recovery = Recovery::new(&rules, Moment { wall_ns: WALL, boot_ns: NOW_NS });
    records.into_iter().for_each(|r| recovery.take(r));
    let mut ledger = recovery.ledger();
    (ledger.spent(NOW_NS, |_| true), ledger.spent(NOW_NS, |s| s == Source::Root(1)))
}

#[test]
fn what_went_comes_back_after_an_hour_and_the_figures_are_of_each_source() {
    let mut ledger = Ledger::default();
    for second in 0..10 {
        for at in [0, 300_000_000, 999_999_999] {
            let at_boot_ns = second * SECOND_NS + at;
            ledger.note(Spending { at_boot_ns, source: Source::Root(1), objects: 1, bytes: 10 });
            ledger.note(Spending { at_boot_ns, source: Source::Images, objects: 1, bytes: 1 });
        }
    }
    let entries = ledger.entries.len();
    assert!(entries <= 22, "one a source and second, not {entries}");
    let of_root = |ledger: &mut Ledger, now| ledger.spent(now, |s| s == Source::Root(1));
    assert_eq!(of_root(&mut ledger, 10 * SECOND_NS), (30, 300));
    assert_eq!(ledger.spent(10 * SECOND_NS, |_| true), (60, 330));
    assert_eq!(of_root(&mut ledger, HOUR_NS), (30, 300), "not a moment early");
    assert_eq!(of_root(&mut ledger, HOUR_NS + 5 * SECOND_NS), (17, 170));
    assert_eq!(of_root(&mut ledger, HOUR_NS + 11 * SECOND_NS), (0, 0));
    assert_eq!(ledger, Ledger::default(), "and what is over is forgotten");
}

#[test]
fn a_ledger_that_nobody_asks_forgets_too() {
    let mut ledger = Ledger::default();
    let note = |ledger: &mut Ledger, at_boot_ns| {
        ledger.note(Spending { at_boot_ns, source: Source::Root(0), objects: 1, bytes: 10 });
    };
    (0..=20 * 3_600).step_by(600).for_each(|second| note(&mut ledger, second * SECOND_NS));
    assert_eq!(ledger.entries.len(), 7, "an hour's");
    assert_eq!(ledger.spent(20 * HOUR_NS, |_| true), (7, 70));
    // Rounded up, this is a second more than an hour after the first of them, and still within its hour.
    let mut ledger = Ledger::default();
    note(&mut ledger, 1);
    note(&mut ledger, HOUR_NS + 1);
    assert_eq!(ledger.spent(HOUR_NS + 2, |_| true), (2, 20), "not a moment early");
}

#[test]
fn images_spend_nothing_of_the_budgets_of_files() {
    let rules = rules();
    let none = ((0, 0), (0, 0));
    let mut ledger = Ledger::default();
    let bytes = Budgets::default().max_bytes_per_hour;
    ledger.note(Spending { at_boot_ns: NOW_NS, source: Source::Images, objects: 9, bytes });
    assert_eq!(ledger.allows(&rules, none, 0, 1, NOW_NS), Ok(()));
    ledger.note(Spending { at_boot_ns: NOW_NS, source: Source::NoRoot, objects: 1, bytes });
    assert!(ledger.allows(&rules, none, 0, 1, NOW_NS).unwrap_err().contains("an hour"));
}

#[test]
fn the_names_of_an_inode_count_its_blocks_once() {
    use ObjectOutcome::{Failed, Removed, Skipped};
    let rules = rules();
    let mut ledger = Ledger::default();
    let names = |outcomes: [(u64, ObjectOutcome); 3]| {
        let named = outcomes.into_iter().enumerate();
        named.map(|(n, (bytes, outcome))| object(&format!("/b/{n}.log.1"), 7, bytes, outcome)).collect()
    };
    // As the executor says it: the blocks go with the last.
    ledger.note_action(
        &action(ActionState::Done, names([(0, Removed), (0, Removed), (50, Removed)])),
        &rules,
        0,
    );
    assert_eq!(ledger.spent(0, |_| true), (3, 50));
    // As an older record says it.
    ledger.note_action(
        &action(ActionState::Done, names([(50, Removed), (50, Removed), (50, Removed)])),
        &rules,
        0,
    );
    assert_eq!(ledger.spent(0, |_| true), (6, 100));
    ledger.note_action(
        &action(ActionState::Done, names([(0, Removed), (50, Failed), (50, Skipped)])),
        &rules,
        0,
    );
    assert_eq!(ledger.spent(0, |_| true), (7, 100));
    // Nobody knows what became of it.
    ledger.note_action(
        &action(ActionState::Failed, names([(50, Failed), (50, Failed), (50, Skipped)])),
        &rules,
        0,
    );
    assert_eq!(ledger.spent(0, |_| true), (9, 150));
}

#[test]
fn a_root_is_refused_over_its_own_budgets_and_the_others_are_not() {
    let rules = rules();
    let mut ledger = Ledger::default();
    let none = ((0, 0), (0, 0));
    ledger.note(Spending { at_boot_ns: NOW_NS, source: Source::Root(1), objects: 2, bytes: 60 });
    assert_eq!(ledger.allows(&rules, none, 1, 40, NOW_NS), Ok(()));
    let why = ledger.allows(&rules, none, 1, 41, NOW_NS).unwrap_err();
    assert_eq!(why, "over the budget of 100 B an hour from its root");
    ledger.note(Spending { at_boot_ns: NOW_NS, source: Source::Root(1), objects: 1, bytes: 0 });
    let why = ledger.allows(&rules, none, 1, 0, NOW_NS).unwrap_err();
    assert_eq!(why, "over the budget of 3 objects an hour from its root");
    assert_eq!(ledger.allows(&rules, none, 0, 41, NOW_NS), Ok(()));
    assert_eq!(ledger.allows(&rules, none, 1, 41, NOW_NS + HOUR_NS + SECOND_NS), Ok(()), "an hour later");
}

#[test]
fn the_record_tells_what_went_whatever_became_of_the_agent() {
    use ObjectOutcome::{Failed, Pending, Removed, Skipped};
    let started = |objects| Body::Action(Box::new(action(ActionState::Started, objects)));
    let over = |state, objects| Body::Action(Box::new(action(state, objects)));
    let seen = |objects| Body::File(Box::new(FileSeen { cause: "a-1".to_owned(), objects, content: None }));
    let file = |n: u64, outcome| object(&format!("/b/{n}.log.1"), n, 10, outcome);
    let plan = || vec![file(1, Pending), file(2, Pending), file(3, Pending)];
    let all = |n: u64| ((n, 10 * n), (n, 10 * n));

    let whole = vec![
        record(60, started(plan())),
        record(59, seen(plan())),
        record(58, over(ActionState::Done, vec![file(1, Removed), file(2, Removed), file(3, Skipped)])),
    ];
    assert_eq!(recovered(whole), all(2), "what the outcome says");
    let killed =
        vec![record(60, started(plan())), record(59, seen(vec![file(1, Pending), file(2, Pending)]))];
    assert_eq!(recovered(killed), all(2), "no outcome: what was recorded before it would go");
    assert_eq!(recovered(vec![record(60, started(plan()))]), all(0), "nothing was recorded, nothing went");
    let brief = vec![
        record(60, started(plan())),
        record(59, seen(plan())),
        record(58, over(ActionState::Done, Vec::new())),
    ];
    assert_eq!(recovered(brief), all(3), "an outcome without its objects");
    let died = vec![
        record(60, started(plan())),
        record(58, over(ActionState::Failed, vec![file(1, Failed), file(2, Skipped), file(3, Skipped)])),
    ];
    assert_eq!(recovered(died), all(1));
    let refused = vec![record(60, started(plan())), record(58, over(ActionState::Refused, plan()))];
    assert_eq!(recovered(refused), all(0));
    let old =
        vec![record(4_000, started(plan())), record(3_700, over(ActionState::Done, vec![file(1, Removed)]))];
    assert_eq!(recovered(old), all(0), "more than an hour ago");
    let ahead = vec![record(-9_000, over(ActionState::Done, vec![file(1, Removed)]))];
    assert_eq!(recovered(ahead), all(1), "a clock that was set back gives nothing back");

    let cut = Some(Cut { from: 0, to: 10, tail: Vec::new() });
    let cut = PlannedObject { cut, ..object("/a/app.log", 9, 10, Pending) };
    let image = PlannedImage { id: "i".to_owned(), tags: Vec::new(), digests: Vec::new(), inodes: 1 };
    let image =
        PlannedObject { image: Some(Box::new(image)), ..object("/container-images/x", 0, 7, Pending) };
    let unseen = vec![record(60, started(vec![cut, image, file(1, Pending)]))];
    assert_eq!(recovered(unseen), ((2, 17), (0, 0)), "cuts and images need no such record");
}

#[test]
fn what_another_boot_spent_counts_longer_rather_than_shorter() {
    let rules = rules();
    let minute = 60 * SECOND_NS;
    // The node booted a minute ago.
    let mut recovery = Recovery::new(&rules, Moment { wall_ns: WALL, boot_ns: minute });
    let gone = object("/b/1.log.1", 1, 10, ObjectOutcome::Removed);
    recovery.take(record(1_800, Body::Action(Box::new(action(ActionState::Done, vec![gone])))));
    let mut ledger = recovery.ledger();
    assert_eq!(ledger.spent(minute + 1_800 * SECOND_NS, |_| true), (1, 10));
    assert_eq!(ledger.spent(HOUR_NS + minute, |_| true), (0, 0));
}

proptest! {
    /// Whatever is noted when, no window of an hour holds more than what was allowed in it.
    #[test]
    fn no_hour_holds_more_than_its_budget(
        steps in prop::collection::vec((0u64..600, 1u64..40), 1..200),
    ) {
        let rules = rules();
        let mut ledger = Ledger::default();
        let (mut now, mut went) = (0, Vec::new());
        for (seconds, bytes) in steps {
            now += seconds * SECOND_NS + 123;
            if ledger.allows(&rules, ((0, 0), (0, 0)), 1, bytes, now).is_ok() {
                ledger.note(Spending { at_boot_ns: now, source: Source::Root(1), objects: 1, bytes });
                went.push((now, bytes));
            }
        }
        for (end, _) in &went {
            let hour = went.iter().filter(|(at, _)| at <= end && end - at <= HOUR_NS);
            let (objects, bytes) = hour.fold((0, 0), |(n, sum), (_, b)| (n + 1, sum + b));
            prop_assert!(objects <= 3 && bytes <= 100, "{objects} with {bytes}");
        }
    }
}
