//! A burst that is over costs what the mark asks for, and a flood gets all of its plan at once.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
/// The mount of 100 GiB wants so much.
const MARK: u64 = 20 * GIB;
/// When the cleanup is asked for.
const ASKED: u64 = 25;

/// Files of so many MiB, in the order in which they go.
fn files(mib: &[u64]) -> Survey {
    let mut found = survey(mib.len() as u64);
    for (candidate, mib) in found.candidates.iter_mut().zip(mib) {
        candidate.object.path = format!("/data/logs/{:03}.log.1", candidate.object.inode).into();
        (candidate.object.size_bytes, candidate.object.allocated_bytes) = (mib * MIB, mib * MIB);
    }
    found
}

/// A machine of which so many MiB were available at the looks until it asks for a cleanup of `found`, and its durable start.
fn begun(available_mib: &[u64], found: &Survey) -> (Respond, Action, Action) {
    let mut machine = machine(CleanupMode::Auto);
    for (look, mib) in (ASKED + 1 - available_mib.len() as u64..).zip(available_mib) {
        machine.on_sample(&[mount(mib * MIB)], at(look));
    }
    let raised = finding(FindingState::Raised, Severity::High);
    assert!(matches!(one(machine.on_finding(&raised, at(ASKED))), Step::Survey { .. }));
    let planned = recorded(one(machine.on_survey("/data", Ok(found), at(ASKED))), ActionState::Planned);
    let started = recorded(one(machine.on_recorded(&planned, Ok(()), at(ASKED))), ActionState::Started);
    let Step::Apply(part) = one(machine.on_recorded(&started, Ok(()), at(ASKED))) else { unreachable!() };
    (machine, started, *part)
}

fn bytes<'a>(objects: impl IntoIterator<Item = &'a PlannedObject>) -> u64 {
    objects.into_iter().map(|o| o.allocated_bytes).sum()
}

fn removed(action: &Action) -> u64 {
    bytes(action.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed))
}

/// `part` carried out on a mount that had `before` and of which others took `taken` meanwhile.
fn carried_out(mut part: Action, before: u64, taken: u64) -> Action {
    part.state = ActionState::Done;
    part.objects.iter_mut().for_each(|o| o.outcome = ObjectOutcome::Removed);
    let freed = removed(&part);
    part.freed_bytes = Some(freed);
    part.available_before_bytes = Some(before);
    part.available_after_bytes = Some((before + freed).saturating_sub(taken));
    part
}

/// A burst from 30 GiB to 10 within a second, and files of a GiB.
fn after_a_burst() -> (Respond, Action, Action) {
    let looks = [30 * 1024, 30 * 1024, 30 * 1024, 10 * 1024];
    begun(&looks, &files(&[1024; 60]))
}

#[test]
fn a_burst_that_is_over_costs_what_the_mark_asks_for_and_the_rest_says_why_it_stays() {
    let (mut machine, started, first) = after_a_burst();
    assert_eq!(
        (started.objects.len(), first.objects.len()),
        (35, 10),
        "a quarter of the mount more is planned"
    );
    let done = machine.on_applied(carried_out(first, 10 * GIB, 0), at(ASKED + 2));
    let done = recorded(one(done), ActionState::Done);
    assert_eq!((done.id.as_str(), removed(&done)), (started.id.as_str(), 10 * GIB));
    assert_eq!(done.available_after_bytes, Some(MARK));
    let stays = done.objects.iter().filter(|o| o.outcome == ObjectOutcome::Skipped).count();
    let told = done.refused.iter().filter(|r| r.path.is_some() && r.reason.contains("0 B a second")).count();
    assert_eq!((stays, told), (25, 25), "{:#?}", done.refused);
    let order = |action: &Action| action.objects.iter().map(|o| o.path.clone()).collect::<Vec<_>>();
    assert_eq!(order(&done), order(&started));
    assert_eq!(machine.ledger.spent(at(ASKED + 2).boot_ns, |_| true), (10, 10 * GIB), "counted once");
    assert_eq!(machine.on_recorded(&done, Ok(()), at(ASKED + 2)), [], "and that is its end");
}

#[test]
fn a_writer_that_slows_down_gets_what_it_takes_by_now() {
    let (mut machine, started, first) = after_a_burst();
    // 100 MiB a second: 200 were taken, and 6,000 will be.
    let next = one(machine.on_applied(carried_out(first, 10 * GIB, 200 * MIB), at(ASKED + 2)));
    let Step::Apply(second) = next else { unreachable!("{next:#?}") };
    assert_eq!((&second.id, second.objects.len()), (&started.id, 7));
    let done = machine.on_applied(carried_out(*second, MARK - 200 * MIB, 100 * MIB), at(ASKED + 3));
    let done = recorded(one(done), ActionState::Done);
    assert_eq!(removed(&done), 17 * GIB);
    assert_eq!((done.freed_bytes, done.available_before_bytes), (Some(17 * GIB), Some(10 * GIB)));
    assert_eq!(done.unexplained.as_ref().map(|u| u.bytes), Some(-300 * MIB as i64));
    assert!(done.refused.iter().any(|r| r.reason.contains("100.0 MiB a second")), "{:#?}", done.refused);
}

#[test]
fn what_budgets_kept_back_beyond_the_marks_is_not_missed() {
    for (taken, missed) in [(0, false), (30 * GIB, true)] {
        let (mut machine, _, first) = after_a_burst();
        let busy = machine.mounts.get_mut("/data").unwrap().busy.as_mut().unwrap();
        let kept = Refusal { path: None, reason: "budgets: 100 objects an action; 20 stay".to_owned() };
        busy.action.as_mut().unwrap().refused.push(kept);
        let mut steps = machine.on_applied(carried_out(first, 10 * GIB, taken), at(ASKED + 2));
        if let [Step::Apply(second)] = steps.as_slice() {
            let second = (**second).clone();
            steps = machine.on_applied(carried_out(second, 0, 30 * GIB), at(ASKED + 4));
        }
        let done = recorded(one(steps), ActionState::Done);
        assert!(is_cut_short(&done), "{:#?}", done.refused);
        assert_eq!(machine.mounts["/data"].cut_short, missed);
    }
}

#[test]
fn inodes_that_the_first_part_missed_go_with_the_second() {
    let (mut machine, _, first) = after_a_burst();
    machine.mounts.get_mut("/data").unwrap().busy.as_mut().unwrap().lacked.inodes = 12;
    let next = one(machine.on_applied(carried_out(first, 10 * GIB, 0), at(ASKED + 2)));
    let Step::Apply(second) = next else { unreachable!("{next:#?}") };
    assert_eq!(second.objects.len(), 2, "ten of twelve went");
}

#[test]
fn what_went_in_a_moment_says_nothing_of_a_rate_before_the_next_figures() {
    for (taken_mib, more) in [(0, 0), (100, 3)] {
        let (mut machine, started, first) = after_a_burst();
        let went = carried_out(first, 10 * GIB, 0);
        assert_eq!(machine.on_applied(went, at(ASKED)), [], "it took no time");
        let left = MARK - taken_mib * MIB;
        // Figures of before, and ones that come too soon.
        machine.on_sample(&[mount(10 * GIB)], at(ASKED));
        assert_eq!(machine.on_tick(at(ASKED)), []);
        machine.on_sample(&[mount(left)], at(ASKED + 2));
        let next = one(machine.on_tick(at(ASKED + 2)));
        if more > 0 {
            // 50 MiB a second: 100 were taken, and 3,000 will be.
            let Step::Apply(second) = next else { unreachable!("{next:#?}") };
            assert_eq!((&second.id, second.objects.len()), (&started.id, more + 1));
            assert_eq!(machine.on_tick(at(ASKED + 3)), [], "it is under way");
            let done = machine.on_applied(carried_out(*second, left, 0), at(ASKED + 4));
            assert_eq!(removed(&recorded(one(done), ActionState::Done)), 14 * GIB);
        } else {
            let done = recorded(next, ActionState::Done);
            assert_eq!(removed(&done), 10 * GIB);
            assert_eq!(machine.on_recorded(&done, Ok(()), at(ASKED + 2)), []);
        }
    }
}

#[test]
fn what_nobody_can_tell_or_the_collector_stops_is_the_end() {
    let (mut machine, _, first) = after_a_burst();
    assert_eq!(machine.on_applied(carried_out(first, 10 * GIB, 0), at(ASKED)), []);
    assert_eq!(machine.on_tick(at(ASKED + 9)), []);
    let done = recorded(one(machine.on_tick(at(ASKED + 10))), ActionState::Done);
    assert_eq!(removed(&done), 10 * GIB);
    assert!(done.refused.iter().any(|r| r.reason.contains("nobody could tell")), "{:#?}", done.refused);

    for before in [true, false] {
        let (mut machine, started, first) = after_a_burst();
        machine.mounts.get_mut("/data").unwrap().busy.as_mut().unwrap().leave = Leave::Leased(u64::MAX);
        let went = carried_out(first, 10 * GIB, 5 * GIB);
        let stopped = |machine: &mut Respond| {
            let heard = Heard::Stopped("a finding on node n2".to_owned());
            let steps = machine.on_heard(&started.id, heard, at(ASKED));
            assert!(matches!(one(steps), Step::Halt { .. }));
        };
        let done = if before {
            stopped(&mut machine);
            machine.on_applied(went, at(ASKED + 1))
        } else {
            assert_eq!(machine.on_applied(went, at(ASKED)), []);
            stopped(&mut machine);
            machine.on_tick(at(ASKED))
        };
        let done = recorded(one(done), ActionState::Done);
        assert_eq!(removed(&done), 10 * GIB);
        assert!(done.refused.iter().all(|r| r.reason.contains("on node n2")), "{:#?}", done.refused);
    }
}

#[test]
fn a_stop_between_the_parts_is_the_end() {
    let (mut machine, _, first) = after_a_burst();
    let word = Word {
        revision: 1,
        lineage: 0,
        state: BrakeState::Paused,
        reason: "cleanups are paused by ada: look".to_owned(),
        proven: None,
    };
    machine.gate_mut().set_word(word);
    let done = machine.on_applied(carried_out(first, 10 * GIB, 9 * GIB), at(ASKED + 1));
    let done = recorded(one(done), ActionState::Done);
    assert_eq!(removed(&done), 10 * GIB);
    assert!(done.refused.iter().all(|r| r.reason.contains("paused by ada")), "{:#?}", done.refused);
}

#[test]
fn a_first_part_that_went_wrong_or_was_refused_is_the_end() {
    for state in [ActionState::Failed, ActionState::Refused] {
        let (mut machine, started, first) = after_a_burst();
        let refused = vec![Refusal { path: None, reason: "it is off".to_owned() }];
        let outcome =
            if state == ActionState::Failed { ObjectOutcome::Failed } else { ObjectOutcome::Pending };
        let mut over = Action { state, refused, detail: "no".to_owned(), ..first };
        over.objects.iter_mut().for_each(|o| o.outcome = outcome);
        let over = recorded(one(machine.on_applied(over, at(ASKED + 1))), state);
        assert_eq!(over.objects.len(), started.objects.len());
        assert_eq!(over.detail, "no");
        assert!(
            over.refused.iter().any(|r| r.path.is_none() && r.reason == "it is off"),
            "{:#?}",
            over.refused
        );
        let stays = over.objects.iter().filter(|o| o.outcome == ObjectOutcome::Skipped).count();
        assert_eq!(stays, if state == ActionState::Failed { 25 } else { 35 });
    }
}

#[test]
fn all_names_of_a_file_go_in_one_part() {
    let mut found = files(&[1024; 60]);
    for (at, candidate) in found.candidates.iter_mut().enumerate() {
        (candidate.object.inode, candidate.object.links) = (at as u64 / 2, 2);
    }
    let (_, started, first) = begun(&[30 * 1024, 30 * 1024, 10 * 1024], &found);
    assert_eq!((started.objects.len(), first.objects.len()), (60, 20), "ten files of a GiB");
}

#[test]
fn what_is_taken_in_one_step_after_a_cleanup_is_seen_to_fall_from_its_end() {
    let (mut machine, _, first) = after_a_burst();
    let done =
        recorded(one(machine.on_applied(carried_out(first, 10 * GIB, 0), at(ASKED + 1))), ActionState::Done);
    machine.on_recorded(&done, Ok(()), at(ASKED + 1));
    machine.on_sample(&[mount(10 * GIB)], at(ASKED + 2));
    assert_eq!(machine.on_tick(at(ASKED + 2)), [], "it settles");
    machine.on_sample(&[mount(10 * GIB)], at(ASKED + 3));
    assert!(matches!(one(machine.on_tick(at(ASKED + 3))), Step::Survey { .. }), "it is full in four seconds");
}

proptest! {
    /// However a burst went and whatever lies there: at its end it costs no more than one file beyond the mark.
    #[test]
    fn a_burst_that_is_over_when_the_cleanup_begins_costs_no_more_than_the_mark_asks_for(
        looks in prop::collection::vec(0u64..19_000, 1..6),
        still in 0u64..2_000,
        mib in prop::collection::vec(1u64..4_000, 1..80),
        took in 0u64..120,
    ) {
        let mut looks = looks;
        looks.sort_unstable_by(|a, b| b.cmp(a));
        looks.splice(0..0, [30 * 1024; 4]);
        let (mut machine, _, mut part) = begun(&looks, &files(&mib));
        // What it took between the last look and the cleanup's begin.
        let mut left = (looks[looks.len() - 1] * MIB).saturating_sub(still * MIB);
        let lacks = MARK - left;
        let mut parts = 0;
        let done = loop {
            parts += 1;
            prop_assert!(parts <= 2);
            let done = carried_out(part, left, 0);
            left = done.available_after_bytes.unwrap();
            let mut next = machine.on_applied(done, at(ASKED + took * parts));
            if next.is_empty() {
                machine.on_sample(&[mount(left)], at(ASKED + took * parts + 1));
                next = machine.on_tick(at(ASKED + took * parts + 1));
            }
            match one(next) {
                Step::Apply(next) => part = *next,
                step => break recorded(step, ActionState::Done),
            }
        };
        let went = removed(&done);
        let last = done.objects.iter().rfind(|o| o.outcome == ObjectOutcome::Removed).unwrap();
        prop_assert!(went < lacks + last.allocated_bytes, "{went} of {lacks}");
        prop_assert!(left >= MARK || went == mib.iter().sum::<u64>() * MIB, "it is less");
    }

    /// A flood gets all that is planned against it, without another look, record or permit in between.
    #[test]
    fn a_steady_writer_gets_the_larger_goal_at_once(
        rate in 100u64..2_000,
        before in 1usize..5,
        left in 10_000u64..19_000,
        took in 1u64..5,
    ) {
        let mut looks = vec![left + rate * before as u64; 10 - before];
        looks.extend((0..=before as u64).rev().map(|ago| left + rate * ago));
        let (mut machine, started, first) = begun(&looks, &files(&[256; 300]));
        prop_assert!(first.objects.len() < started.objects.len());
        let written = rate * took * MIB;
        let after = carried_out(first, left * MIB, written);
        let left = after.available_after_bytes.unwrap();
        let next = one(machine.on_applied(after, at(ASKED + took)));
        let Step::Apply(second) = next else { unreachable!("{next:#?}") };
        prop_assert_eq!(&second.id, &started.id);
        let done = machine.on_applied(carried_out(*second, left, written), at(ASKED + 2 * took));
        let done = recorded(one(done), ActionState::Done);
        prop_assert_eq!(removed(&done), bytes(&started.objects));
    }
}
