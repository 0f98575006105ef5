//! Budgets, across actions, mounts and restarts; and what is known right after a cleanup.

use super::*;
use crate::act::ledger::{Source, Spending};

/// In `auto`, with a root that may give so many objects an hour.
fn bounded(objects: u32) -> Respond {
    let own = Budgets { max_objects_per_hour: objects, ..Budgets::default() };
    let root = RootPolicy { keep_newest: 0, budgets: Some(own), ..RootPolicy::new("/data/logs") };
    let policy = Policy { mode: CleanupMode::Auto, roots: vec![root], budgets: Budgets::default() };
    let mut next = 0;
    let ids = move || {
        next += 1;
        next
    };
    let rules = Rules::new(policy).unwrap();
    let mut machine = Respond::new(rules, Settings::default(), no_gate(), Box::new(ids));
    machine.on_sample(&[mount(5 * GIB)], at(0));
    machine
}

/// Raises the finding, and gives the plan that the machine makes of `survey`, with what it says before it.
fn planned(machine: &mut Respond, survey: &Survey, second: u64) -> (Vec<Step>, Action) {
    let raised = finding(FindingState::Raised, Severity::High);
    let steps = machine.on_finding(&raised, at(second));
    assert!(matches!(one(steps), Step::Survey { .. }));
    let mut steps = machine.on_survey("/data", Ok(survey), at(second));
    let Some(Step::Record(action)) = steps.pop() else { unreachable!("{steps:?}") };
    (steps, *action)
}

/// Carries `action` out as planned, of which the executor removes `removed` objects and the mount has then `available`.
fn carry_out(machine: &mut Respond, action: &Action, removed: usize, available: u64, second: u64) {
    let started = recorded(one(machine.on_recorded(action, Ok(()), at(second))), ActionState::Started);
    let Step::Apply(mut applied) = one(machine.on_recorded(&started, Ok(()), at(second))) else {
        unreachable!()
    };
    applied.state = ActionState::Done;
    for (n, object) in applied.objects.iter_mut().enumerate() {
        object.outcome = if n < removed { ObjectOutcome::Removed } else { ObjectOutcome::Skipped };
    }
    applied.available_after_bytes = Some(available);
    let done = recorded(one(machine.on_applied(*applied, at(second))), ActionState::Done);
    machine.on_recorded(&done, Ok(()), at(second));
}

#[test]
fn a_spent_root_is_not_planned_again_and_that_is_a_finding_until_it_is_over() {
    let mut machine = bounded(1);
    let (said, first) = planned(&mut machine, &survey(4), 0);
    assert_eq!((said, first.objects.len()), (Vec::new(), 1), "15 GiB are wanted, and one object may go");
    carry_out(&mut machine, &first, 1, 15 * GIB, 1);
    machine.on_sample(&[mount(15 * GIB)], at(4));
    let (said, second) = planned(&mut machine, &survey(3), 4);
    assert_eq!(
        (second.state, second.objects.len()),
        (ActionState::Refused, 0),
        "the executor would refuse it"
    );
    let Step::OutOfBudget { mount: of, said } = one(said) else { unreachable!() };
    let said = said.unwrap();
    assert_eq!(of, "/data");
    assert!(said.contains("5.0 GiB are wanted, 3 objects could go, and budgets leave nothing"), "{said}");
    machine.on_recorded(&second, Ok(()), at(4));
    // Said once, however often it is tried.
    machine.on_sample(&[mount(15 * GIB)], at(700));
    machine.on_tick(at(700));
    assert_eq!(machine.on_survey("/data", Ok(&survey(3)), at(700)), []);
    // An hour after it was spent.
    machine.on_sample(&[mount(15 * GIB)], at(3_700));
    machine.on_tick(at(3_700));
    let mut steps = machine.on_survey("/data", Ok(&survey(3)), at(3_700));
    let again = recorded(steps.pop().unwrap(), ActionState::Planned);
    assert_eq!(again.objects.len(), 1);
    assert_eq!(one(steps), Step::OutOfBudget { mount: "/data".to_owned(), said: None });
}

#[test]
fn what_earlier_runs_spent_and_what_other_mounts_are_spending_counts() {
    let went = Spending { at_boot_ns: at(0).boot_ns, source: Source::Root(0), objects: 1, bytes: GIB };
    let mut ledger = Ledger::default();
    ledger.note(went);
    let mut machine = bounded(2).with_spent(ledger);
    let (_, action) = planned(&mut machine, &survey(4), 0);
    assert_eq!(action.objects.len(), 1);

    let mut machine = bounded(2);
    let other = Mount { path: "/other".to_owned(), dev_minor: 2, ..mount(5 * GIB) };
    machine.on_sample(&[mount(5 * GIB), other], at(0));
    let (_, first) = planned(&mut machine, &survey(1), 0);
    let started = recorded(one(machine.on_recorded(&first, Ok(()), at(0))), ActionState::Started);
    assert!(matches!(one(machine.on_recorded(&started, Ok(()), at(0))), Step::Apply(_)));
    let mut raised = finding(FindingState::Raised, Severity::High);
    raised.subject = Subject::new("mount", "/other");
    machine.on_finding(&raised, at(1));
    let mut elsewhere = survey(4);
    elsewhere.candidates.iter_mut().for_each(|c| c.filesystem = rustix::fs::makedev(8, 2));
    let second = recorded(one(machine.on_survey("/other", Ok(&elsewhere), at(1))), ActionState::Planned);
    assert_eq!(second.objects.len(), 1, "one of two is on its way");
}

#[test]
fn the_next_cleanup_waits_for_figures_of_after_the_last() {
    let mut machine = machine(CleanupMode::Auto);
    let mut raised = finding(FindingState::Raised, Severity::High);
    raised.rule = INODE_HIGH_WATER.to_owned();
    let low = Mount { inodes_free: 150, ..mount(50 * GIB) };
    machine.on_sample(std::slice::from_ref(&low), at(0));
    assert!(matches!(one(machine.on_finding(&raised, at(0))), Step::Survey { .. }));
    let mut small = survey(60);
    small.candidates.iter_mut().for_each(|c| c.object.allocated_bytes = 4_096);
    let planned = recorded(one(machine.on_survey("/data", Ok(&small), at(0))), ActionState::Planned);
    assert_eq!(planned.objects.len(), 50, "200 inodes are to be free");
    carry_out(&mut machine, &planned, 50, 50 * GIB, 1);
    // Samples come seldom here, and the cooldown is over before the next.
    for second in [62, 80] {
        assert_eq!(machine.on_tick(at(second)), [], "on figures of before it would take 50 more");
    }
    let order = Order::PlanMount("/data".to_owned());
    let command = Command { id: "c".to_owned(), actor: "ada".to_owned(), order, over_brake: false };
    assert!(matches!(one(machine.on_command(command, at(81))), Step::Survey { .. }));
    let plan = recorded(one(machine.on_survey("/data", Ok(&small), at(81))), ActionState::Refused);
    assert!(plan.detail.starts_with("nothing needs to go"), "{}", plan.detail);
    machine.on_recorded(&plan, Ok(()), at(81));
    machine.on_sample(&[Mount { inodes_free: 190, ..low }], at(82));
    assert!(
        matches!(one(machine.on_tick(at(82))), Step::Survey { .. }),
        "the figure says that more is wanted"
    );
}

/// A machine whose finding was said, at second 4.
fn out_of_budget() -> Respond {
    let mut machine = bounded(1);
    let (_, first) = planned(&mut machine, &survey(4), 0);
    carry_out(&mut machine, &first, 1, 15 * GIB, 1);
    machine.on_sample(&[mount(15 * GIB)], at(4));
    let (said, second) = planned(&mut machine, &survey(3), 4);
    assert!(matches!(one(said), Step::OutOfBudget { said: Some(_), .. }));
    machine.on_recorded(&second, Ok(()), at(4));
    machine
}

#[test]
fn a_survey_that_failed_does_not_end_what_was_said_of_budgets() {
    let unheard = Refusal { path: None, reason: "no survey of files: it hung".to_owned() };
    let images_alone = Survey { passed_over: vec![unheard], ..Survey::default() };
    for found in [Err("it hung".to_owned()), Ok(&images_alone)] {
        let mut machine = out_of_budget();
        machine.on_sample(&[mount(15 * GIB)], at(700));
        assert!(matches!(one(machine.on_tick(at(700))), Step::Survey { .. }));
        let steps = machine.on_survey("/data", found, at(700));
        assert!(!steps.iter().any(|s| matches!(s, Step::OutOfBudget { .. })), "{steps:?}");
        machine.on_sample(&[mount(15 * GIB)], at(1_400));
        assert!(matches!(one(machine.on_tick(at(1_400))), Step::Survey { .. }));
        let steps = machine.on_survey("/data", Ok(&survey(3)), at(1_400));
        assert!(!steps.iter().any(|s| matches!(s, Step::OutOfBudget { .. })), "said already: {steps:?}");
    }
}

#[test]
fn what_the_last_run_said_of_budgets_is_ended_by_this_one() {
    let mut said = finding(FindingState::Raised, Severity::Medium);
    said.rule = CLEANUP_OUT_OF_BUDGET.to_owned();
    let mut machine = bounded(1);
    machine.seed(&said);
    let (steps, action) = planned(&mut machine, &survey(4), 0);
    assert_eq!(one(steps), Step::OutOfBudget { mount: "/data".to_owned(), said: None });
    assert_eq!(action.objects.len(), 1);
    // Any other finding of the last run says nothing of budgets.
    let mut machine = bounded(1);
    machine.seed(&finding(FindingState::Raised, Severity::High));
    assert_eq!(planned(&mut machine, &survey(4), 0).0, []);
}
