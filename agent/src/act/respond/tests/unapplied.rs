//! A policy that is not the file's: nothing goes by it, whoever wants it, and what is under way ends.

use proptest::prelude::*;

use super::*;

const WHY: &str =
    "cleanup.roots[0].excludes waits for a restart of the agent; until then cleanups are only planned";

fn raised() -> Finding {
    finding(FindingState::Raised, Severity::High)
}

fn unapplied() -> Option<String> {
    Some(WHY.to_owned())
}

fn order(order: Order, over_brake: bool) -> Command {
    Command { id: "c-1".to_owned(), actor: "ann".to_owned(), order, over_brake }
}

/// Whose own cleanup is begun as far as its start, which is on its way to the disk.
fn starting() -> (Respond, Action) {
    let mut machine = machine(CleanupMode::Auto);
    machine.on_finding(&raised(), at(0));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    let started = recorded(one(machine.on_recorded(&planned, Ok(()), at(1))), ActionState::Started);
    (machine, started)
}

#[test]
fn what_is_under_way_ends_before_its_next_object() {
    let (mut machine, started) = starting();
    assert!(matches!(one(machine.on_recorded(&started, Ok(()), at(1))), Step::Apply(_)));
    let steps = machine.set_bounds(CleanupMode::Plan, unapplied(), at(2));
    assert_eq!(one(steps), Step::Halt { action: started.id.clone(), why: WHY.to_owned() });
    // So does what a person ordered.
    let mut machine = super::machine(CleanupMode::Plan);
    machine.on_command(order(Order::PlanMount("/data".to_owned()), false), at(0));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    machine.on_recorded(&planned, Ok(()), at(1));
    let steps = machine.on_command(order(Order::ApplyPlan(planned.id.clone()), true), at(2));
    let started = recorded(one(steps), ActionState::Started);
    assert!(matches!(one(machine.on_recorded(&started, Ok(()), at(2))), Step::Apply(_)));
    assert!(matches!(one(machine.set_bounds(CleanupMode::Plan, unapplied(), at(3))), Step::Halt { .. }));
}

#[test]
fn what_was_about_to_begin_does_not() {
    let (mut machine, started) = starting();
    machine.set_bounds(CleanupMode::Plan, unapplied(), at(2));
    let refused = recorded(one(machine.on_recorded(&started, Ok(()), at(2))), ActionState::Refused);
    assert_eq!(refused.detail, format!("nothing was touched: {WHY}"));
    assert!(refused.objects.is_empty());
    // A tighter mode alone does it, too.
    let (mut machine, started) = starting();
    assert_eq!(machine.set_bounds(CleanupMode::Plan, None, at(2)), [], "what is under way is finished");
    let refused = recorded(one(machine.on_recorded(&started, Ok(()), at(2))), ActionState::Refused);
    assert!(refused.detail.contains("cleanup.mode was set to plan"), "{}", refused.detail);
}

#[test]
fn a_plan_that_waits_for_its_permit_is_given_up_at_once() {
    let mut machine = machine(CleanupMode::Auto);
    *machine.gate_mut() = gate(at(0));
    machine.gate_mut().set_link(Link::Up { brake: true, since_boot_ns: at(0).boot_ns });
    machine.on_finding(&raised(), at(0));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    assert_eq!(machine.on_recorded(&planned, Ok(()), at(1)), [], "it waits");
    assert_eq!(machine.asks().len(), 1);
    assert_eq!(machine.set_bounds(CleanupMode::Plan, None, at(2)), []);
    assert!(machine.asks().is_empty());
    // The permit was on its way.
    let granted = Heard::Granted(at(60).boot_ns);
    assert_eq!(machine.on_heard(&planned.id, granted, at(2)), []);
}

fn gate(now: Moment) -> Gate {
    let kept = crate::act::permit::Kept::Nothing;
    Gate::new("n1".parse().unwrap(), dogwatch::record::Hash::ZERO, Without::Wait, kept, now.boot_ns)
}

#[test]
fn people_can_plan_and_not_apply() {
    let mut machine = machine(CleanupMode::Plan);
    machine.set_bounds(CleanupMode::Plan, unapplied(), at(0));
    let steps = machine.on_command(order(Order::PlanMount("/data".to_owned()), false), at(0));
    assert!(matches!(one(steps), Step::Survey { .. }));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    assert!(answer(one(machine.on_recorded(&planned, Ok(()), at(1)))).is_ok());
    for over_brake in [false, true] {
        let steps = machine.on_command(order(Order::ApplyPlan(planned.id.clone()), over_brake), at(2));
        assert_eq!(answer(one(steps)).unwrap_err(), format!("nothing was touched: {WHY}"));
    }
    // The edit is taken back: the plan was made by what is in force.
    assert_eq!(machine.set_bounds(CleanupMode::Plan, None, at(3)), []);
    let steps = machine.on_command(order(Order::ApplyPlan(planned.id), false), at(3));
    recorded(one(steps), ActionState::Started);
}

proptest! {
    /// Whatever happens in whatever order: while the policy is not the file's nothing is given to the executor, and what it
    /// had is ended.
    #[test]
    fn nothing_is_applied_by_a_policy_that_is_not_the_files(events in prop::collection::vec(0u8..7, 1..60)) {
        let mut machine = machine(CleanupMode::Auto);
        let (mut records, mut applied, mut held) = (Vec::new(), Vec::new(), false);
        for (second, event) in (1..).zip(events) {
            let now = at(second);
            let steps = match event {
                0 => machine.on_finding(&raised(), now),
                1 => machine.on_survey("/data", Ok(&survey(4)), now),
                2 => match records.pop() {
                    Some(action) => machine.on_recorded(&action, Ok(()), now),
                    None => machine.on_tick(now),
                },
                3 => match applied.pop() {
                    Some(action) => machine.on_applied(Action { state: ActionState::Done, ..action }, now),
                    None => machine.on_tick(now),
                },
                4 => {
                    held = !held;
                    let (mode, why) = if held { (CleanupMode::Plan, unapplied()) } else { (CleanupMode::Auto, None) };
                    let steps = machine.set_bounds(mode, why, now);
                    let halted = |a: &Action| steps.iter().any(|s| matches!(s, Step::Halt { action, .. } if *action == a.id));
                    prop_assert!(!held || applied.iter().all(halted), "{steps:#?}");
                    steps
                }
                5 => {
                    machine.on_sample(&[mount(5 * GIB)], now);
                    machine.on_tick(now)
                }
                _ => {
                    let plan = machine.plans.back().map_or_else(String::new, |kept| kept.action.id.clone());
                    machine.on_command(order(Order::ApplyPlan(plan), true), now)
                }
            };
            for step in steps {
                match step {
                    Step::Record(action) => records.push(*action),
                    Step::Apply(action) => {
                        prop_assert!(!held);
                        applied.push(*action);
                    }
                    _ => {}
                }
            }
        }
    }
}
