//! When cleanups do not hold, and when what may go only comes bit by bit.

use proptest::prelude::*;

use super::*;

/// A mount of 100 GiB that wants 20, and has 5.
fn low() -> Respond {
    let mut machine = machine(CleanupMode::Auto);
    machine.on_sample(&[mount(5 * GIB)], at(0));
    assert!(matches!(
        one(machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0))),
        Step::Survey { .. }
    ));
    machine
}

/// So many files of a quarter of a gigabyte each, of the 15 that are wanted.
fn small(files: u64) -> Survey {
    let mut found = survey(files);
    for candidate in &mut found.candidates {
        (candidate.object.size_bytes, candidate.object.allocated_bytes) = (GIB / 4, GIB / 4);
    }
    found
}

/// The seconds of the first twenty cleanups, when one small file may go each time and, when so many went, `left` is left;
/// fewer where the mount is left alone.
fn bit_by_bit(left: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut machine = low();
    clean_of(&mut machine, &small(1), 0);
    let mut cleaned = vec![0];
    for second in 1..3_600 {
        machine.on_sample(&[mount(left(cleaned.len() as u64))], at(second));
        for step in machine.on_tick(at(second)) {
            match step {
                Step::Survey { .. } => {
                    clean_of(&mut machine, &small(1), second);
                    cleaned.push(second);
                }
                Step::NotHolding { .. } => return cleaned,
                other => unreachable!("{other:#?}"),
            }
        }
        if cleaned.len() == 20 {
            break;
        }
    }
    cleaned
}

#[test]
fn a_mount_that_nobody_fills_is_cleaned_bit_by_bit_and_not_left_alone() {
    // What went came free, and it is low still.
    let cleaned = bit_by_bit(|went| 5 * GIB + went * GIB / 4);
    assert_eq!(cleaned, (0..20).map(|i| i * 60).collect::<Vec<_>>());
}

#[test]
fn a_mount_that_takes_again_what_went_is_left_alone_however_little_it_was() {
    // What never came free, as where a snapshot keeps it, is as good as taken again.
    assert_eq!(bit_by_bit(|_| 5 * GIB), [0, 60, 120]);
}

#[test]
fn one_that_had_room_again_and_filled_counts_though_it_is_not_as_full_as_before() {
    let mut machine = low();
    let raised = finding(FindingState::Raised, Severity::High);
    for round in 0..3 {
        if round > 0 {
            machine.on_sample(&[mount(14 * GIB)], at(round * 300));
            assert!(matches!(one(machine.on_finding(&raised, at(round * 300))), Step::Survey { .. }));
        }
        clean(&mut machine, round * 300);
        machine.on_sample(&[mount(25 * GIB)], at(round * 300 + 1));
        machine.on_finding(&finding(FindingState::Cleared, Severity::High), at(round * 300 + 1));
    }
    machine.on_sample(&[mount(14 * GIB)], at(900));
    assert!(matches!(one(machine.on_finding(&raised, at(900))), Step::NotHolding { .. }));
}

#[test]
fn what_budgets_cut_to_pieces_is_one_cleanup() {
    let root = RootPolicy { keep_newest: 0, ..RootPolicy::new("/data/logs") };
    let budgets = Budgets { max_objects: 1, max_bytes_per_hour: 1 << 50, ..Budgets::default() };
    let rules = Rules::new(Policy { mode: CleanupMode::Auto, roots: vec![root], budgets }).unwrap();
    let mut machine = Respond::new(rules, Settings::default(), no_gate(), Box::new(|| 1));
    machine.on_sample(&[mount(5 * GIB)], at(0));
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let mut second = 0;
    // Two pieces of 10 GiB each time, and then it fills.
    for _ in 0..Settings::default().breaker_cleanups {
        let first = second;
        clean_of(&mut machine, &survey(4), second);
        second += 2;
        machine.on_sample(&[mount(16 * GIB)], at(second));
        assert!(matches!(one(machine.on_tick(at(second))), Step::Survey { .. }), "it goes on");
        clean_of(&mut machine, &survey(1), second);
        second = first + 100;
        machine.on_sample(&[mount(8 * GIB)], at(second));
        match one(machine.on_tick(at(second))) {
            Step::Survey { .. } => assert!(second < 300, "{second}"),
            Step::NotHolding { .. } => assert_eq!(second, 300),
            other => unreachable!("{other:#?}"),
        }
    }
}

#[test]
fn what_would_be_full_right_after_a_cooldown_does_not_wait_for_its_end() {
    // A GiB goes in ten seconds; half of the cooldown is over: full before its end, ten seconds after it, forty.
    for (had, waits) in [(5, false), (7, false), (10, true)] {
        let mut machine = machine(CleanupMode::Auto);
        machine.on_sample(&[mount(5 * GIB)], at(0));
        machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
        clean(&mut machine, 0);
        for second in 1..=30 {
            machine.on_sample(&[mount(had * GIB - second * GIB / 10)], at(second));
        }
        let next = machine.on_tick(at(30));
        assert_eq!(next.is_empty(), waits, "{had} GiB: {next:#?}");
    }
}

#[test]
fn hurried_cleanups_come_to_the_breaker_too() {
    let root = RootPolicy { keep_newest: 0, ..RootPolicy::new("/data/logs") };
    let budgets = Budgets { max_bytes_per_hour: 1 << 50, ..Budgets::default() };
    let rules = Rules::new(Policy { mode: CleanupMode::Auto, roots: vec![root], budgets }).unwrap();
    let mut machine = Respond::new(rules, Settings::default(), no_gate(), Box::new(|| 1));
    machine.on_sample(&[mount(5 * GIB)], at(0));
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let mut second = 0;
    let mut cleanups = 0;
    loop {
        clean(&mut machine, second);
        cleanups += 1;
        for _ in 0..10 {
            second += 1;
            machine.on_sample(&[mount((20 - (second - 1) % 10) * GIB)], at(second));
        }
        match one(machine.on_tick(at(second))) {
            Step::Survey { .. } => {}
            Step::NotHolding { .. } => break,
            other => unreachable!("{other:#?}"),
        }
        assert!(second < 1_000);
    }
    assert!((120..=240).contains(&second), "three cooldowns: {second} s, {cleanups} cleanups");
}

#[test]
fn a_mount_that_is_left_alone_is_counted_as_long_as_it_is() {
    let mut machine = machine(CleanupMode::Auto);
    let raised = finding(FindingState::Raised, Severity::High);
    let mut second = 0;
    for _ in 0..Settings::default().breaker_cleanups {
        machine.on_finding(&raised, at(second));
        clean(&mut machine, second);
        second += 100;
        machine.on_sample(&[mount(5 * GIB)], at(second));
    }
    assert_eq!(stands(&machine, second), (0, 0));
    assert!(matches!(one(machine.on_finding(&raised, at(second))), Step::NotHolding { .. }));
    assert_eq!(stands(&machine, second), (1, 0));
    let half = Settings::default().breaker_window_ns / 2;
    let later = Moment { boot_ns: at(second).boot_ns + half, ..at(second) };
    assert_eq!(machine.left_alone(later), [("/data".to_owned(), half)]);
    let window = Settings::default().breaker_window_ns / SECOND;
    assert_eq!(stands(&machine, second + window + 1), (0, 0));
}

#[test]
fn cooldown_and_breaker_stop_a_cleanup_that_does_not_hold() {
    let mut machine = machine(CleanupMode::Auto);
    assert!(matches!(
        one(machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0))),
        Step::Survey { .. }
    ));
    clean(&mut machine, 0);
    assert_eq!(machine.on_tick(at(59)), [], "it rests");
    for round in 1..3 {
        let second = round * 60;
        machine.on_sample(&[mount(5 * GIB)], at(second));
        assert!(matches!(one(machine.on_tick(at(second))), Step::Survey { .. }));
        clean(&mut machine, second);
    }
    machine.on_sample(&[mount(5 * GIB)], at(180));
    match one(machine.on_tick(at(180))) {
        Step::NotHolding { mount, summary, action_id } => {
            assert_eq!((mount.as_str(), action_id.as_str()), ("/data", "a-0000000000000003"));
            assert!(summary.contains("3 cleanups within 30 min"), "{summary}");
        }
        other => unreachable!("{other:#?}"),
    }
    for second in 181..1_900 {
        assert_eq!(machine.on_tick(at(second)), [], "once");
    }
    let order = Command {
        id: "c".to_owned(),
        actor: "ann".to_owned(),
        order: Order::PlanMount("/data".to_owned()),
        over_brake: false,
    };
    assert!(matches!(one(machine.on_command(order, at(1_900))), Step::Survey { .. }), "a person may");
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1_900))), ActionState::Planned);
    assert!(answer(one(machine.on_recorded(&planned, Ok(()), at(1_900)))).is_ok());
    assert!(
        matches!(one(machine.on_tick(at(1_981))), Step::Survey { .. }),
        "after half an hour it tries again"
    );
}

proptest! {
    /// Where room only grows, by what went and by what others free, nothing filled.
    #[test]
    fn where_nobody_writes_nothing_fills_again(
        steps in prop::collection::vec((1u64..200, 0u64..3, 0u64..3), 1..60),
    ) {
        let mut machine = low();
        let (mut second, mut left) = (0, 5 * GIB);
        let mut surveys = true;
        for (seconds, files, freed) in steps {
            if surveys {
                if files > 0 {
                    clean_of(&mut machine, &small(files), second);
                } else {
                    for step in machine.on_survey("/data", Ok(&survey(0)), at(second)) {
                        let refused = recorded(step, ActionState::Refused);
                        machine.on_recorded(&refused, Ok(()), at(second));
                    }
                }
            }
            left += (if surveys { files } else { 0 } + freed) * GIB / 4;
            if left > 19 * GIB {
                break;
            }
            second += seconds;
            machine.on_sample(&[mount(left)], at(second));
            let next = machine.on_tick(at(second));
            surveys = next.iter().any(|s| matches!(s, Step::Survey { .. }));
            prop_assert!(!next.iter().any(|s| matches!(s, Step::NotHolding { .. })), "at {second}");
        }
    }
}
