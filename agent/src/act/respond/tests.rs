mod again;
mod breaker;
mod budgets;
mod parts;
mod unapplied;

use std::path::PathBuf;

use dogwatch::record::{Severity, Subject};

use super::*;
use crate::act::permit::{BrakeState, Heard, Link, Without, Word};
use crate::act::plan::Candidate;
use crate::act::policy::{Budgets, Policy, RootPolicy};
use crate::act::real_path::Place;
use crate::act::specimen;

const SECOND: u64 = 1_000_000_000;
const GIB: u64 = 1 << 30;
const WALL: i64 = 1_700_000_000_000_000_000;

fn at(seconds: u64) -> Moment {
    Moment { wall_ns: WALL + (seconds * SECOND) as i64, boot_ns: (1_000 + seconds) * SECOND }
}

fn no_gate() -> Gate {
    Gate::open("n1".parse().unwrap(), dogwatch::record::Hash::ZERO)
}

fn machine(mode: CleanupMode) -> Respond {
    let root = RootPolicy { keep_newest: 0, ..RootPolicy::new("/data/logs") };
    let rules = Rules::new(Policy { mode, roots: vec![root], budgets: Budgets::default() }).unwrap();
    let gate = no_gate();
    let mut next = 0;
    let ids = move || {
        next += 1;
        next
    };
    let mut machine = Respond::new(rules, Settings::default(), gate, Box::new(ids));
    machine.on_sample(&[mount(5 * GIB)], at(0));
    machine
}

fn mount(available_bytes: u64) -> Mount {
    Mount {
        path: "/data".to_owned(),
        dev_major: 8,
        dev_minor: 1,
        total_bytes: 100 * GIB,
        free_bytes: available_bytes,
        available_bytes,
        inodes_total: 1_000,
        inodes_free: 900,
        ..Mount::default()
    }
}

fn finding(state: FindingState, severity: Severity) -> Finding {
    Finding {
        id: "f-1".to_owned(),
        rule: DISK_HIGH_WATER.to_owned(),
        severity,
        state,
        subject: Subject::new("mount", "/data"),
        summary: "/data is full".to_owned(),
        explanation: String::new(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns: WALL,
        pod: None,
    }
}

fn survey(files: u64) -> Survey {
    let candidates = (0..files)
        .map(|i| Candidate {
            object: PlannedObject {
                device: rustix::fs::makedev(8, 1),
                inode: i,
                size_bytes: 10 * GIB,
                allocated_bytes: 10 * GIB,
                ..specimen::object(format!("/data/logs/{i}.log.1"))
            },
            root: PathBuf::from("/data/logs"),
            open_elsewhere: false,
            accessed_ns: None,
            filesystem: rustix::fs::makedev(8, 1),
        })
        .collect();
    Survey { candidates, ..Survey::default() }
}

fn one(mut steps: Vec<Step>) -> Step {
    assert_eq!(steps.len(), 1, "{steps:#?}");
    steps.remove(0)
}

fn recorded(step: Step, state: ActionState) -> Action {
    match step {
        Step::Record(action) if action.state == state => *action,
        other => unreachable!("not a record of {state:?}: {other:#?}"),
    }
}

fn answer(step: Step) -> Result<Box<Action>, String> {
    match step {
        Step::Answer { result, .. } => result.map_err(|unmet| unmet.why),
        other => unreachable!("no answer: {other:#?}"),
    }
}

/// One automatic cleanup from the survey's answer to the end; the mount is `full` again or not.
fn clean(machine: &mut Respond, second: u64) {
    clean_of(machine, &survey(4), second);
}

/// The whole cleanup that was due, of what `found`.
fn clean_of(machine: &mut Respond, found: &Survey, second: u64) {
    let planned = recorded(one(machine.on_survey("/data", Ok(found), at(second))), ActionState::Planned);
    let started = recorded(one(machine.on_recorded(&planned, Ok(()), at(second))), ActionState::Started);
    let Step::Apply(mut applied) = one(machine.on_recorded(&started, Ok(()), at(second))) else {
        unreachable!()
    };
    applied.state = ActionState::Done;
    applied.objects.iter_mut().for_each(|o| o.outcome = ObjectOutcome::Removed);
    let mut over = machine.on_applied(*applied, at(second));
    let mut second = second;
    if over.is_empty() {
        // It was to go beyond the mark, and nobody writes.
        second += 1;
        machine.on_sample(&[mount(20 * GIB)], at(second));
        over = machine.on_tick(at(second));
    }
    let done = recorded(one(over), ActionState::Done);
    assert_eq!(machine.on_recorded(&done, Ok(()), at(second)), []);
}

#[test]
fn in_auto_nothing_is_applied_before_its_record_is_durable() {
    let mut machine = machine(CleanupMode::Auto);
    let raised = finding(FindingState::Raised, Severity::High);
    assert!(matches!(one(machine.on_finding(&raised, at(0))), Step::Survey { .. }));
    assert_eq!(machine.on_finding(&raised, at(1)), [], "one thing at a time");
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    assert_eq!(planned.objects.len(), 2, "15 GiB are wanted, 10 GiB each");
    assert_eq!(planned.finding_id.as_deref(), Some("f-1"));
    let started = recorded(one(machine.on_recorded(&planned, Ok(()), at(1))), ActionState::Started);
    assert_eq!(machine.on_recorded(&planned, Ok(()), at(1)), [], "an old record says nothing new");
    assert!(matches!(one(machine.on_recorded(&started, Ok(()), at(1))), Step::Apply(_)));
}

#[test]
fn an_action_whose_record_cannot_be_kept_is_not_applied() {
    let mut machine = machine(CleanupMode::Auto);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    assert_eq!(machine.on_recorded(&planned, Err("ring full".to_owned()), at(1)), []);
    let order = Command {
        id: "c".to_owned(),
        actor: "ann".to_owned(),
        order: Order::ApplyPlan(planned.id),
        over_brake: false,
    };
    assert!(answer(one(machine.on_command(order, at(2)))).is_err(), "its plan is gone too");
}

#[test]
fn in_plan_mode_an_episode_has_one_plan_until_it_expires_or_grows() {
    let mut machine = machine(CleanupMode::Plan);
    machine.on_finding(&finding(FindingState::Raised, Severity::Medium), at(0));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(0))), ActionState::Planned);
    assert_eq!(machine.on_recorded(&planned, Ok(()), at(0)), [], "a plan is all");
    for second in 1..599 {
        assert_eq!(machine.on_tick(at(second)), []);
    }
    machine.on_sample(&[mount(4 * GIB)], at(0));
    assert_eq!(machine.on_tick(at(599)), [], "1 % more is no other plan");
    assert!(matches!(one(machine.on_tick(at(600))), Step::Survey { .. }), "it expired");
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(600))), ActionState::Planned);
    machine.on_recorded(&planned, Ok(()), at(600));
    let worse = finding(FindingState::Updated, Severity::Critical);
    assert!(matches!(one(machine.on_finding(&worse, at(601))), Step::Survey { .. }), "it got worse");
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(601))), ActionState::Planned);
    machine.on_recorded(&planned, Ok(()), at(601));
    machine.on_finding(&finding(FindingState::Cleared, Severity::Critical), at(602));
    assert_eq!(machine.on_tick(at(5_000)), []);
    let again = finding(FindingState::Raised, Severity::Medium);
    assert!(matches!(one(machine.on_finding(&again, at(5_001))), Step::Survey { .. }), "a new episode");
}

#[test]
fn a_plan_without_objects_is_said_once() {
    let mut machine = machine(CleanupMode::Auto);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let refused = recorded(one(machine.on_survey("/data", Ok(&survey(0)), at(0))), ActionState::Refused);
    assert_eq!(machine.on_recorded(&refused, Ok(()), at(0)), []);
    assert_eq!(machine.on_tick(at(1)), []);
    assert!(matches!(one(machine.on_tick(at(601))), Step::Survey { .. }), "it looks again later");
    assert_eq!(machine.on_survey("/data", Err("dead".to_owned()), at(601)), [], "and says nothing new");
}

#[test]
fn a_person_plans_and_applies_exactly_that_plan_once() {
    let mut machine = machine(CleanupMode::Plan);
    let order = |order| Command { id: "c".to_owned(), actor: "ann".to_owned(), order, over_brake: false };
    let plan_it = order(Order::PlanMount("/data".to_owned()));
    assert!(matches!(one(machine.on_command(plan_it.clone(), at(0))), Step::Survey { .. }));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(0))), ActionState::Planned);
    assert_eq!((planned.actor.as_str(), planned.finding_id.as_deref()), ("ann", None));
    let plan = answer(one(machine.on_recorded(&planned, Ok(()), at(0)))).unwrap();
    let apply_it = order(Order::ApplyPlan(plan.id.clone()));
    let started = recorded(one(machine.on_command(apply_it.clone(), at(5))), ActionState::Started);
    assert_eq!(started.objects, plan.objects);
    assert_eq!(machine.on_command(plan_it, at(5)), [], "it waits for the mount");
    let Step::Apply(mut applied) = one(machine.on_recorded(&started, Ok(()), at(5))) else { unreachable!() };
    applied.state = ActionState::Done;
    let done = recorded(one(machine.on_applied(*applied, at(6))), ActionState::Done);
    let mut steps = machine.on_recorded(&done, Ok(()), at(6));
    assert!(matches!(steps.remove(1), Step::Survey { .. }), "and then has its turn");
    assert_eq!(answer(steps.remove(0)).unwrap().state, ActionState::Done);
    machine.on_survey("/data", Ok(&survey(0)), at(7));
    let again = machine.on_command(apply_it, at(8));
    assert!(answer(one(again)).unwrap_err().contains("no plan"), "a plan is applied once");
}

#[test]
fn expired_unknown_and_forbidden_orders_have_clear_answers() {
    let order = |order| Command { id: "c".to_owned(), actor: "ann".to_owned(), order, over_brake: false };
    let mut off = machine(CleanupMode::Off);
    let plan_it = order(Order::PlanMount("/data".to_owned()));
    assert!(answer(one(off.on_command(plan_it.clone(), at(0)))).unwrap_err().contains("off"));
    assert_eq!(off.on_finding(&finding(FindingState::Raised, Severity::High), at(0)), []);
    let mut machine = machine(CleanupMode::Plan);
    let unknown = order(Order::ApplyPlan("a-77".to_owned()));
    assert!(answer(one(machine.on_command(unknown, at(0)))).unwrap_err().contains("dogwatch plan"));
    machine.on_command(plan_it, at(0));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(0))), ActionState::Planned);
    machine.on_recorded(&planned, Ok(()), at(0));
    let late = order(Order::ApplyPlan(planned.id));
    assert!(answer(one(machine.on_command(late, at(601)))).unwrap_err().contains("expired"));
}

#[test]
fn a_path_below_a_mount_stands_for_the_mount_that_holds_it() {
    let mut machine = machine(CleanupMode::Plan);
    let root = Mount { path: "/".into(), dev_minor: 3, ..mount(GIB) };
    machine.on_sample(&[mount(GIB), root], at(0));
    let device = |minor| rustix::fs::makedev(8, minor);
    let ask = |machine: &mut Respond, path: &str, found| {
        let order = Order::PlanMount(path.to_owned());
        let command = Command { id: "c".to_owned(), actor: "ann".to_owned(), order, over_brake: false };
        assert_eq!(
            machine.on_command(command, at(0)),
            [Step::Find { command: "c".to_owned(), path: path.into() }]
        );
        one(machine.on_found("c", found, at(0)))
    };
    let place = |path: &str, minor| Ok(Some(Place { path: path.into(), device: device(minor) }));
    let refused = |step| match step {
        Step::Answer { result: Err(unmet), .. } => unmet,
        other => unreachable!("{other:#?}"),
    };

    let gone = refused(ask(&mut machine, "/nowhere", Ok(None)));
    assert!(gone.not_found && gone.why.contains("this node has no /nowhere"), "{gone:?}");
    let unseen = refused(ask(&mut machine, "/data/usb", place("/data/usb", 99)));
    assert!(unseen.not_found && unseen.why.contains("no mount that this node watches"), "{unseen:?}");
    let stuck = refused(ask(&mut machine, "/net", Err("/net cannot be looked at: EIO".to_owned())));
    assert!(!stuck.not_found && stuck.why.contains("EIO"), "{stuck:?}");

    // By its name it would be on /: a link leads to the other mount.
    let Step::Survey { mount: taken, .. } = ask(&mut machine, "/var", place("/data/var", 1)) else {
        unreachable!("a survey")
    };
    assert_eq!(taken, "/data");
    let Step::Survey { mount: taken, .. } = ask(&mut machine, "/database", place("/database", 3)) else {
        unreachable!("a survey")
    };
    assert_eq!(taken, "/", "/data is no folder of /database");
    machine.mounts.get_mut("/data").unwrap().busy = None;
    let Step::Survey { mount: taken, .. } = ask(&mut machine, "/bound", place("/bound", 1)) else {
        unreachable!("a survey")
    };
    assert_eq!(taken, "/data", "its filesystem by another mount");
    assert_eq!(machine.on_found("c", Ok(None), at(0)), [], "answered once");
    let relative = Command {
        id: "c".into(),
        actor: "ann".into(),
        order: Order::PlanMount("var".into()),
        over_brake: false,
    };
    assert!(refused(one(machine.on_command(relative, at(0)))).why.contains("write it from /"));
}

#[test]
fn a_mode_that_is_switched_off_while_a_cleanup_is_prepared_stops_it_at_every_step() {
    let begun = || {
        let mut machine = machine(CleanupMode::Auto);
        assert!(matches!(
            one(machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0))),
            Step::Survey { .. }
        ));
        let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
        (machine, planned)
    };
    // Before the plan is durable: it stays a plan.
    for mode in [CleanupMode::Off, CleanupMode::Plan] {
        let (mut machine, planned) = begun();
        machine.set_mode(mode);
        let steps = machine.on_recorded(&planned, Ok(()), at(2));
        assert!(!steps.iter().any(|s| matches!(s, Step::Record(_) | Step::Apply(_))), "{mode:?}: {steps:#?}");
    }
    // Between the record that it begins and the beginning: nothing is touched, and that is recorded.
    let (mut machine, planned) = begun();
    let started = recorded(one(machine.on_recorded(&planned, Ok(()), at(2))), ActionState::Started);
    machine.set_mode(CleanupMode::Off);
    let refused = recorded(one(machine.on_recorded(&started, Ok(()), at(3))), ActionState::Refused);
    assert!(refused.objects.is_empty() && refused.detail.contains("nothing was touched"), "{refused:#?}");
    assert_eq!(machine.on_recorded(&refused, Ok(()), at(3)), [], "and that is its end");
}

#[test]
fn an_order_that_waited_while_the_mode_was_switched_off_is_refused() {
    let mut machine = machine(CleanupMode::Plan);
    let order = |id: &str| Command {
        id: id.to_owned(),
        actor: "ann".to_owned(),
        order: Order::PlanMount("/data".to_owned()),
        over_brake: false,
    };
    assert!(matches!(one(machine.on_command(order("c-1"), at(0))), Step::Survey { .. }));
    assert_eq!(machine.on_command(order("c-2"), at(0)), [], "it waits for the mount");
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    machine.set_mode(CleanupMode::Off);
    let mut steps = machine.on_recorded(&planned, Ok(()), at(2));
    assert_eq!(steps.len(), 2, "{steps:#?}");
    assert!(answer(steps.remove(1)).unwrap_err().contains("was set to off"));
    assert!(answer(steps.remove(0)).is_ok(), "the plan that was made is answered");
}

#[test]
fn a_mount_that_would_be_full_before_the_cooldown_ends_is_not_left_to_it() {
    let mut machine = machine(CleanupMode::Auto);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    clean(&mut machine, 0);
    // 100 MiB a second, 15 GiB left: 150 s, longer than the minute.
    let falling = |machine: &mut Respond, from: u64, seconds: u64, start: u64, mib: u64| {
        for s in 0..seconds {
            machine.on_sample(&[mount(start - s * (mib << 20))], at(from + s));
        }
    };
    falling(&mut machine, 1, 8, 15 * GIB, 100);
    assert_eq!(machine.on_tick(at(9)), [], "it lasts");
    // A gigabyte a second: 8 s.
    falling(&mut machine, 20, 8, 15 * GIB, 1_024);
    let Step::Survey { .. } = one(machine.on_tick(at(28))) else { unreachable!() };
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(9)), at(28))), ActionState::Planned);
    assert_eq!(planned.target_available_bytes, 45 * GIB, "the low mark and a quarter of the mount");
    assert!(planned.reason.contains("it falls by"), "{}", planned.reason);
}

#[test]
fn what_budgets_kept_back_goes_on_without_a_cooldown() {
    let root = RootPolicy { keep_newest: 0, ..RootPolicy::new("/data/logs") };
    let budgets = Budgets { max_objects: 1, ..Budgets::default() };
    let rules = Rules::new(Policy { mode: CleanupMode::Auto, roots: vec![root], budgets }).unwrap();
    let mut machine = Respond::new(rules, Settings::default(), no_gate(), Box::new(|| 1));
    machine.on_sample(&[mount(5 * GIB)], at(0));
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    clean(&mut machine, 0);
    assert_eq!(machine.on_tick(at(1)), [], "figures are of before");
    machine.on_sample(&[mount(5 * GIB)], at(2));
    assert!(matches!(one(machine.on_tick(at(2))), Step::Survey { .. }));
}

/// What is counted for whoever watches: left alone, nothing to clean.
fn stands(machine: &Respond, second: u64) -> (u64, u64) {
    let standing = machine.standing(at(second));
    (standing.left_alone, standing.nothing_to_clean)
}

#[test]
fn a_full_disk_of_which_nothing_may_go_is_counted_until_that_ends() {
    for mode in [CleanupMode::Plan, CleanupMode::Auto] {
        let mut machine = machine(mode);
        assert_eq!(machine.standing(at(0)), Standing { mode, left_alone: 0, nothing_to_clean: 0 });
        machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
        assert_eq!(stands(&machine, 0), (0, 0), "nobody looked yet");
        let refused = recorded(one(machine.on_survey("/data", Ok(&survey(0)), at(1))), ActionState::Refused);
        assert_eq!(stands(&machine, 1), (0, 1));
        machine.on_recorded(&refused, Ok(()), at(1));
        machine.on_finding(&finding(FindingState::Cleared, Severity::High), at(2));
        assert_eq!(stands(&machine, 2), (0, 0));
    }
}

#[test]
fn a_disk_with_the_room_that_is_wanted_lacks_nothing_to_clean() {
    let mut machine = machine(CleanupMode::Plan);
    machine.on_sample(&[mount(50 * GIB)], at(0));
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Refused);
    assert_eq!(stands(&machine, 1), (0, 0), "nothing needs to go");
}

/// A machine with a collector, connected; and its plan, durable, that waits.
/// One that asks a collector, and is surveying what is full.
fn surveying() -> Respond {
    let mut machine = machine(CleanupMode::Auto);
    let node = "n1".parse().unwrap();
    *machine.gate_mut() = Gate::new(
        node,
        dogwatch::record::Hash([3; 32]),
        Without::CriticalOnly,
        crate::act::permit::Kept::Nothing,
        at(0).boot_ns,
    );
    machine.gate_mut().set_link(Link::Up { brake: true, since_boot_ns: at(0).boot_ns });
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    machine
}

fn asking() -> (Respond, Action) {
    let mut machine = surveying();
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    assert_eq!(machine.on_recorded(&planned, Ok(()), at(1)), [], "nothing is begun without leave");
    (machine, planned)
}

fn word(state: BrakeState) -> Word {
    Word {
        revision: 1,
        lineage: 0,
        state,
        reason: "cleanups are paused by ada: look".to_owned(),
        proven: None,
    }
}

#[test]
fn with_a_collector_a_plan_waits_for_its_permit_and_ends_with_it() {
    let (mut machine, planned) = asking();
    let asks = machine.asks();
    assert_eq!((asks.len(), &asks[0].action, asks[0].acting), (1, &planned.id, false));
    let waiting = Heard::Waiting { place: 3, of: 9, why: "full".to_owned() };
    assert_eq!(machine.on_heard(&planned.id, waiting, at(2)), []);
    let (mount, why, ns) = machine.waits(at(5)).remove(0);
    assert_eq!((mount.as_str(), why.as_str(), ns), ("/data", "place 3 of 9: full", 4 * SECOND));
    let until = at(60).boot_ns;
    let started = one(machine.on_heard(&planned.id, Heard::Granted(until), at(6)));
    let started = recorded(started, ActionState::Started);
    assert!(matches!(one(machine.on_recorded(&started, Ok(()), at(6))), Step::Apply(_)));
    assert!(machine.asks()[0].acting, "it is renewed");
    assert_eq!(machine.on_heard(&planned.id, Heard::Granted(at(65).boot_ns), at(8)), []);
    assert_eq!(machine.on_tick(at(64)), []);
    let halt = one(machine.on_tick(at(65)));
    assert!(matches!(&halt, Step::Halt { action, .. } if *action == planned.id), "{halt:?}");
    let stopped = one(machine.on_heard(&planned.id, Heard::Stopped("no".to_owned()), at(66)));
    assert!(matches!(stopped, Step::Halt { why, .. } if why == "no"));
}

#[test]
fn a_stop_reaches_what_waits_what_began_and_what_people_order_but_an_admins() {
    let (mut machine, planned) = asking();
    assert_eq!(machine.on_word(word(BrakeState::Paused), at(2)), []);
    assert_eq!(machine.on_heard(&planned.id, Heard::Granted(u64::MAX), at(3)), [], "the stop counts");
    let order = |over_brake| Command {
        id: "c".to_owned(),
        actor: "ann".to_owned(),
        order: Order::ApplyPlan(planned.id.clone()),
        over_brake,
    };
    let why = answer(one(machine.on_command(order(false), at(4)))).unwrap_err();
    assert!(why.contains("paused by ada") && why.contains("--override"), "{why}");
    let started = recorded(one(machine.on_command(order(true), at(5))), ActionState::Started);
    assert!(matches!(one(machine.on_recorded(&started, Ok(()), at(5))), Step::Apply(_)));
    assert_eq!(machine.on_word(word(BrakeState::Tripped), at(6)), [], "an admin wanted it all the same");

    let (mut machine, planned) = asking();
    let started = one(machine.on_heard(&planned.id, Heard::Granted(at(60).boot_ns), at(2)));
    let started = recorded(started, ActionState::Started);
    let halt = one(machine.on_word(word(BrakeState::Tripped), at(3)));
    assert!(matches!(halt, Step::Halt { .. }));
    let refused = recorded(one(machine.on_recorded(&started, Ok(()), at(3))), ActionState::Refused);
    assert!(refused.objects.is_empty() && refused.detail.contains("paused by ada"), "{refused:?}");
    assert_eq!(machine.on_recorded(&refused, Ok(()), at(3)), []);
}

#[test]
fn a_plan_that_waits_too_long_or_for_nothing_is_given_up_and_stands_in_nobodys_way() {
    let (mut machine, planned) = asking();
    let again = machine.on_tick(at(700));
    assert!(matches!(one(again), Step::Survey { .. }), "a new plan for a need that lasts");
    let (mut other, _) = asking();
    other.on_finding(&finding(FindingState::Cleared, Severity::High), at(3));
    assert_eq!(other.on_tick(at(4)), []);
    assert_eq!(other.asks(), []);
    let (mut person, _) = asking();
    let order = Order::PlanMount("/data".to_owned());
    let command = Command { id: "c".to_owned(), actor: "ann".to_owned(), order, over_brake: false };
    assert!(matches!(one(person.on_command(command.clone(), at(3))), Step::Survey { .. }), "{}", planned.id);
    let mut early = surveying();
    assert_eq!(early.on_command(command, at(1)), [], "the node's own survey comes first");
    let planned = recorded(one(early.on_survey("/data", Ok(&survey(4)), at(1))), ActionState::Planned);
    assert!(matches!(one(early.on_recorded(&planned, Ok(()), at(1))), Step::Survey { .. }), "then theirs");
}

#[test]
fn what_a_cleanup_gave_counts_before_the_next_sample() {
    let mut machine = machine(CleanupMode::Plan);
    let order = |order| Command { id: "c".to_owned(), actor: "ann".to_owned(), order, over_brake: false };
    let plan_it = order(Order::PlanMount("/data".to_owned()));
    machine.on_command(plan_it.clone(), at(0));
    let planned = recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(0))), ActionState::Planned);
    machine.on_recorded(&planned, Ok(()), at(0));
    let started = machine.on_command(order(Order::ApplyPlan(planned.id)), at(1));
    let started = recorded(one(started), ActionState::Started);
    let Step::Apply(mut applied) = one(machine.on_recorded(&started, Ok(()), at(1))) else { unreachable!() };
    applied.state = ActionState::Done;
    applied.objects.iter_mut().for_each(|o| o.outcome = ObjectOutcome::Removed);
    applied.available_after_bytes = Some(25 * GIB);
    let done = recorded(one(machine.on_applied(*applied, at(3))), ActionState::Done);
    machine.on_recorded(&done, Ok(()), at(3));
    // A sample that was begun before the end, and comes after it, knows nothing of what came free.
    machine.on_sample(&[mount(5 * GIB)], at(2));
    machine.on_command(plan_it, at(3));
    let again = recorded(one(machine.on_survey("/data", Ok(&survey(2)), at(3))), ActionState::Refused);
    assert!(again.detail.starts_with("nothing needs to go: 25.0 GiB"), "{}", again.detail);
}
