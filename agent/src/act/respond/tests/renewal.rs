//! What is recorded of a plan that is made again.

use super::*;

const LIFETIME: u64 = 600;

/// The machine's own plan at `second`, as it is recorded, and whether it was `kept`.
fn planned(machine: &mut Respond, files: u64, second: u64, kept: Result<(), String>) -> Action {
    let plan =
        recorded(one(machine.on_survey("/data", Ok(&survey(files)), at(second))), ActionState::Planned);
    assert_eq!(machine.on_recorded(&plan, kept, at(second)), []);
    plan
}

#[test]
fn the_same_objects_are_recorded_once_a_day_and_applied_whole() {
    let mut machine = machine(CleanupMode::Plan);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let lost = planned(&mut machine, 4, 0, Err("the disk is full".to_owned()));
    let mut second = LIFETIME;
    let mut next = |machine: &mut Respond, files| {
        assert!(matches!(one(machine.on_tick(at(second))), Step::Survey { .. }), "at {second}");
        second += LIFETIME;
        planned(machine, files, second - LIFETIME, Ok(()))
    };
    let whole = next(&mut machine, 4);
    assert_eq!(whole.objects, lost.objects, "the first one was not kept");
    let brief = next(&mut machine, 4);
    assert!(brief.objects.is_empty() && brief.planned_bytes == whole.planned_bytes, "{brief:#?}");
    assert!(brief.detail.starts_with(&format!(
        "the {} objects of {} again: ",
        whole.objects.len(),
        whole.id
    )));
    let other = next(&mut machine, 1);
    assert_eq!(other.objects.len(), 1, "others");
    let days: Vec<Action> = (0..150).map(|_| next(&mut machine, 1)).collect();
    let again: Vec<usize> = (0..150).filter(|i| !days[*i].objects.is_empty()).collect();
    assert_eq!(again, [143], "after a day");
    assert!(days[142].detail.contains(&other.id) && days[149].detail.contains(&days[143].id));

    // What a person applies of it is recorded whole.
    let order = Order::ApplyPlan(days[149].id.clone());
    let apply = Command { id: "c".to_owned(), actor: "ann".to_owned(), order, over_brake: false };
    let started = recorded(one(machine.on_command(apply, at(second - LIFETIME + 1))), ActionState::Started);
    assert_eq!(started.objects.len(), 1);
}

#[test]
fn another_episode_begins_with_a_whole_one_and_so_does_what_waits_for_leave() {
    let mut machine = machine(CleanupMode::Plan);
    for second in [0, 100] {
        machine.on_finding(&finding(FindingState::Raised, Severity::High), at(second));
        assert!(!planned(&mut machine, 4, second, Ok(())).objects.is_empty());
        machine.on_finding(&finding(FindingState::Cleared, Severity::High), at(second + 1));
    }

    let mut machine = super::machine(CleanupMode::Auto);
    machine.gate = Gate::new(
        "n1".parse().unwrap(),
        dogwatch::record::Hash::ZERO,
        Without::Wait,
        crate::act::permit::Kept::Nothing,
        0,
    );
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    assert!(!planned(&mut machine, 4, 0, Ok(())).objects.is_empty());
    let mut steps = machine.on_tick(at(LIFETIME));
    assert!(
        matches!(one(std::mem::take(&mut steps)), Step::Survey { .. }),
        "the plan was given up and is made again"
    );
    let brief = planned(&mut machine, 4, LIFETIME, Ok(()));
    assert!(brief.objects.is_empty());
    let until = at(LIFETIME + 60).boot_ns;
    machine.gate_mut().set_link(Link::Up { brake: true, since_boot_ns: at(LIFETIME).boot_ns });
    let steps = machine.on_heard(&brief.id, Heard::Granted(until), at(LIFETIME + 1));
    assert!(!recorded(one(steps), ActionState::Started).objects.is_empty(), "whole before it begins");
}
