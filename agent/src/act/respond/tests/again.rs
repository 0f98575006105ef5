//! Where nothing could go, it is looked at again: how soon, how often, and what is said of it.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// The second at which the machine surveys again, ticking from `from`; `None` where that takes more than five hours.
fn looks_at(machine: &mut Respond, from: u64) -> Option<u64> {
    (from..from + 5 * 3_600)
        .find(|second| machine.on_tick(at(*second)).iter().any(|s| matches!(s, Step::Survey { .. })))
}

/// One with a finding, whose first survey found nothing at second 0, and that said so.
fn in_vain(mode: CleanupMode) -> Respond {
    let mut machine = machine(mode);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let refused = recorded(one(machine.on_survey("/data", Ok(&survey(0)), at(0))), ActionState::Refused);
    machine.on_recorded(&refused, Ok(()), at(0));
    machine
}

#[test]
fn where_nothing_could_go_it_is_looked_at_after_a_minute_and_then_less_often() {
    for mode in [CleanupMode::Auto, CleanupMode::Plan] {
        let mut machine = in_vain(mode);
        let mut second = 0;
        for pause in [60, 120, 240, 480, 600, 600] {
            assert_eq!(looks_at(&mut machine, second + 1), Some(second + pause), "{mode}");
            second += pause;
            assert_eq!(machine.on_survey("/data", Ok(&survey(0)), at(second)), [], "it was said");
            assert_eq!(stands(&machine, second), (0, 1));
        }
        // It found something, at last.
        second = looks_at(&mut machine, second + 1).unwrap();
        let planned =
            recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(second))), ActionState::Planned);
        assert_eq!((planned.objects.len(), stands(&machine, second)), (2, (0, 0)));
    }
}

#[test]
fn a_plan_for_people_is_made_again_ever_less_often_while_the_disk_stays_full() {
    let mut machine = machine(CleanupMode::Plan);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let planned = |machine: &mut Respond, second| {
        let steps = machine.on_survey("/data", Ok(&survey(4)), at(second));
        let plan = recorded(one(steps), ActionState::Planned);
        assert_eq!(machine.on_recorded(&plan, Ok(()), at(second)), []);
        assert_eq!(plan.objects.len(), 2, "each record is whole");
    };
    planned(&mut machine, 0);
    let mut second = 0;
    for pause in [600, 1_200, 2_400, 4_800, 9_600, 14_400, 14_400] {
        assert_eq!(looks_at(&mut machine, second + 1), Some(second + pause));
        second += pause;
        planned(&mut machine, second);
    }
    // More is needed, and in another episode it is new to people.
    let grown = machine.on_finding(&finding(FindingState::Updated, Severity::Critical), at(second + 1));
    assert!(matches!(one(grown), Step::Survey { .. }));
    planned(&mut machine, second + 1);
    assert_eq!(looks_at(&mut machine, second + 2), Some(second + 601));
    planned(&mut machine, second + 601);
    machine.on_finding(&finding(FindingState::Cleared, Severity::Critical), at(second + 602));
    let anew = machine.on_finding(&finding(FindingState::Raised, Severity::High), at(second + 603));
    assert!(matches!(one(anew), Step::Survey { .. }));
    planned(&mut machine, second + 603);
    assert_eq!(looks_at(&mut machine, second + 604), Some(second + 1_203));
}

#[test]
fn a_plan_to_be_applied_whose_record_fails_is_made_again_as_often_as_before() {
    let mut machine = machine(CleanupMode::Auto);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    for second in (0..6_000).step_by(600) {
        let plan =
            recorded(one(machine.on_survey("/data", Ok(&survey(4)), at(second))), ActionState::Planned);
        machine.on_recorded(&plan, Err("the disk is slow".to_owned()), at(second));
        assert_eq!(looks_at(&mut machine, second + 1), Some(second + 600));
    }
}

#[test]
fn a_need_that_grew_or_a_new_episode_begins_with_a_minute_again() {
    let grown = |machine: &mut Respond, second| {
        machine.on_finding(&finding(FindingState::Updated, Severity::Critical), at(second))
    };
    let anew = |machine: &mut Respond, second| {
        machine.on_finding(&finding(FindingState::Cleared, Severity::High), at(second));
        machine.on_finding(&finding(FindingState::Raised, Severity::High), at(second))
    };
    for change in [&grown as &dyn Fn(&mut Respond, u64) -> Vec<Step>, &anew] {
        let mut machine = in_vain(CleanupMode::Auto);
        for second in [60, 180] {
            assert_eq!(looks_at(&mut machine, second), Some(second));
            machine.on_survey("/data", Ok(&survey(0)), at(second));
        }
        assert!(matches!(one(change(&mut machine, 200)), Step::Survey { .. }), "at once");
        for step in machine.on_survey("/data", Ok(&survey(0)), at(200)) {
            let refused = recorded(step, ActionState::Refused);
            machine.on_recorded(&refused, Ok(()), at(200));
        }
        assert_eq!(looks_at(&mut machine, 201), Some(260));
    }
}

#[test]
fn a_need_that_swings_is_no_growth() {
    let mut machine = in_vain(CleanupMode::Auto);
    let mut surveys = 0;
    for second in 1..=600 {
        machine.on_sample(&[mount(if second / 10 % 2 == 0 { 5 } else { 15 } * GIB)], at(second));
        if !machine.on_tick(at(second)).is_empty() {
            surveys += 1;
            assert_eq!(machine.on_survey("/data", Ok(&survey(0)), at(second)), []);
        }
    }
    // Once as fast as it falls at first, and then after 1, 2 and 4 min.
    assert!((3..=5).contains(&surveys), "{surveys}");
}

#[test]
fn a_mount_that_lacks_nothing_any_more_is_not_looked_at_again() {
    let mut machine = in_vain(CleanupMode::Auto);
    machine.on_sample(&[mount(30 * GIB)], at(1));
    assert_eq!(looks_at(&mut machine, 2), Some(600), "when the plan expired, as ever");
    assert_eq!(machine.on_survey("/data", Ok(&survey(0)), at(600)), [], "and that is nothing to be told");
}

#[test]
fn what_a_person_found_is_looked_for_at_once_and_a_look_in_vain_costs_no_patience() {
    for (found, next) in [(4, 11), (0, 60)] {
        let mut machine = in_vain(CleanupMode::Auto);
        let order = Order::PlanMount("/data".to_owned());
        let command = Command { id: "c".to_owned(), actor: "ann".to_owned(), order, over_brake: false };
        assert!(matches!(one(machine.on_command(command, at(10))), Step::Survey { .. }));
        let Some(Step::Record(plan)) = machine.on_survey("/data", Ok(&survey(found)), at(10)).pop() else {
            unreachable!()
        };
        assert!(answer(one(machine.on_recorded(&plan, Ok(()), at(10)))).is_ok());
        assert_eq!(looks_at(&mut machine, 11), Some(next), "{found} objects");
        assert_eq!(machine.on_survey("/data", Ok(&survey(0)), at(next)), [], "a root that goes by hand, say");
        let pause = if found > 0 { 60 } else { 120 };
        assert_eq!(looks_at(&mut machine, next + 1), Some(next + pause), "{found} objects");
    }
}

#[test]
fn what_is_said_of_a_row_of_looks_is_said_once_and_what_changed_is_said() {
    let mut machine = machine(CleanupMode::Auto);
    machine.on_finding(&finding(FindingState::Raised, Severity::High), at(0));
    let hung = || Err("it hung".to_owned());
    let refused = recorded(one(machine.on_survey("/data", hung(), at(0))), ActionState::Refused);
    machine.on_recorded(&refused, Ok(()), at(0));
    let mut second = looks_at(&mut machine, 1).unwrap();
    let refused = recorded(one(machine.on_survey("/data", Ok(&survey(0)), at(second))), ActionState::Refused);
    assert!(refused.detail.ends_with("nothing may go"), "{}", refused.detail);
    machine.on_recorded(&refused, Ok(()), at(second));
    for round in 0..6 {
        second = looks_at(&mut machine, second + 1).unwrap();
        let nothing = survey(0);
        let found = if round % 2 == 0 { hung() } else { Ok(&nothing) };
        assert_eq!(machine.on_survey("/data", found, at(second)), [], "round {round}");
    }
}

#[test]
fn after_a_slow_survey_it_rests_ten_times_as_long_and_waiting_for_others_is_no_survey() {
    // From a tick at second 60, how long the survey takes, when the one before it in the row ended: when the next begins.
    for (ends, other_ends, next) in [(62, None, 182), (75, None, 225), (75, Some(70), 195), (200, None, 800)]
    {
        let mut machine = in_vain(CleanupMode::Auto);
        assert_eq!(looks_at(&mut machine, 1), Some(60));
        if let Some(second) = other_ends {
            machine.on_survey("/other", Ok(&survey(0)), at(second));
        }
        machine.on_survey("/data", Ok(&survey(0)), at(ends));
        assert_eq!(looks_at(&mut machine, ends + 1), Some(next), "{ends}");
    }
}

#[test]
fn one_mount_is_looked_at_again_at_a_time_and_one_that_nobody_looked_at_goes_before() {
    let surveyed = |steps: Vec<Step>| -> Vec<String> {
        steps
            .into_iter()
            .filter_map(|s| if let Step::Survey { mount, .. } = s { Some(mount) } else { None })
            .collect()
    };
    let mut machine = machine(CleanupMode::Auto);
    let mounts: Vec<Mount> = [("/a", 1), ("/b", 2), ("/c", 3)]
        .map(|(path, dev_minor)| Mount { path: path.to_owned(), dev_minor, ..mount(5 * GIB) })
        .into();
    machine.on_sample(&mounts, at(0));
    for mount in &mounts[..2] {
        let mut raised = finding(FindingState::Raised, Severity::High);
        raised.subject = Subject::new("mount", mount.path.clone());
        machine.on_finding(&raised, at(0));
        let refused =
            recorded(one(machine.on_survey(&mount.path, Ok(&survey(0)), at(0))), ActionState::Refused);
        machine.on_recorded(&refused, Ok(()), at(0));
    }
    let raised = finding(FindingState::Raised, Severity::High);
    machine.mounts.get_mut("/c").unwrap().findings.insert(raised.rule.clone(), raised);
    assert_eq!(surveyed(machine.on_tick(at(60))), ["/c", "/a"], "/b waits for its turn");
    machine.on_survey("/c", Ok(&survey(0)), at(60));
    assert_eq!(surveyed(machine.on_tick(at(61))), [""; 0], "/a is looked at still");
    machine.on_survey("/a", Ok(&survey(0)), at(62));
    assert_eq!(surveyed(machine.on_tick(at(62))), ["/b"]);
}

/// The agent's part around the machine: samples and ticks once a second, one job at a time.
struct Node {
    machine: Respond,
    second: u64,
    available: u64,
    /// Mounts that wait for their survey.
    queue: VecDeque<String>,
    /// The mount that is surveyed, since when and until when.
    at_work: Option<(String, u64, u64)>,
    /// What a survey of each mount takes, s.
    takes: BTreeMap<String, u64>,
    /// Since when something could go on `/data`.
    cleanable: Option<u64>,
    heard: bool,
    /// Surveys that ended: the mount, begin, end.
    surveys: Vec<(String, u64, u64)>,
    refused: BTreeMap<String, usize>,
    planned: Option<u64>,
}

impl Node {
    fn new(takes: [u64; 2], other: bool) -> Self {
        let mut node = Self {
            machine: machine(CleanupMode::Auto),
            second: 0,
            available: 12 * GIB,
            queue: VecDeque::new(),
            at_work: None,
            takes: BTreeMap::from([("/data".to_owned(), takes[0]), ("/other".to_owned(), takes[1])]),
            cleanable: None,
            heard: true,
            surveys: Vec::new(),
            refused: BTreeMap::new(),
            planned: None,
        };
        node.sample();
        let mut raised = finding(FindingState::Raised, Severity::High);
        let mut steps = node.machine.on_finding(&raised, at(0));
        if other {
            raised.subject = Subject::new("mount", "/other");
            steps.extend(node.machine.on_finding(&raised, at(0)));
        }
        node.take(steps);
        node
    }

    fn sample(&mut self) {
        let other = Mount { path: "/other".to_owned(), dev_minor: 2, ..mount(9 * GIB) };
        self.machine.on_sample(&[mount(self.available), other], at(self.second));
    }

    fn take(&mut self, steps: Vec<Step>) {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Survey { mount, .. } => self.queue.push_back(mount),
                Step::Record(action) => {
                    match action.state {
                        ActionState::Refused => *self.refused.entry(action.mount.clone()).or_default() += 1,
                        ActionState::Planned => self.planned = Some(self.second),
                        _ => return,
                    }
                    steps.extend(self.machine.on_recorded(&action, Ok(()), at(self.second)));
                }
                _ => {}
            }
        }
    }

    fn tick(&mut self) {
        self.second += 1;
        self.sample();
        if let Some((mount, began, _)) = self.at_work.take_if(|(_, _, ends)| *ends <= self.second) {
            let files = mount == "/data" && self.cleanable.is_some_and(|since| since <= began);
            let found = survey(if files { 4 } else { 0 });
            let found = if self.heard { Ok(&found) } else { Err("it hung".to_owned()) };
            let steps = self.machine.on_survey(&mount, found, at(self.second));
            self.surveys.push((mount, began, self.second));
            self.take(steps);
        }
        let steps = self.machine.on_tick(at(self.second));
        self.take(steps);
        if self.at_work.is_none()
            && let Some(next) = self.queue.pop_front()
        {
            let ends = self.second + self.takes[&next];
            self.at_work = Some((next, self.second, ends));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// However long nothing could go and the level swung: what may go at last is planned soon, little was said, and few
    /// surveys were made.
    #[test]
    fn what_may_go_at_last_is_planned_soon_and_looking_for_it_costs_little(
        spans in prop::collection::vec((1u64..500, 1u64..19, any::<bool>()), 0..12),
        takes in [1u64..=18, 1u64..=18],
        other in any::<bool>(),
        steady in any::<bool>(),
    ) {
        let mut node = Node::new(takes, other);
        for (seconds, available, heard) in &spans {
            if !steady {
                node.available = available * GIB;
            }
            node.heard = *heard;
            (0..*seconds).for_each(|_| node.tick());
        }
        let elapsed = node.second;
        let most = takes[0].max(takes[1]);
        prop_assert!(node.refused.values().all(|n| *n <= 2), "{:?}", node.refused);
        // One for each twentieth of the mount that the need grew by is made at once, as the first of each mount is.
        let at_once = if steady { 0 } else { 100 / 5 };
        let looking: u64 = node.surveys.iter().map(|(_, began, ended)| ended - began).sum();
        prop_assert!(looking <= elapsed / 10 + (2 + at_once) * most, "{looking} s of {elapsed}");
        let mut early = 0;
        for path in ["/data", "/other"] {
            let of_it: Vec<_> = node.surveys.iter().filter(|(mount, ..)| mount == path).collect();
            early += of_it.windows(2).filter(|w| w[1].1 - w[0].2 < (10 * (w[0].2 - w[0].1)).max(60)).count();
        }
        prop_assert!(early as u64 <= at_once, "{early} of {:?}", node.surveys);

        node.heard = true;
        node.cleanable = Some(node.second);
        let looks = node.surveys.iter().filter(|(mount, ..)| mount == "/data").count();
        // One that began before is in vain, and doubles the pause; in one row with the other mount.
        let pause = if looks <= 1 { 120 } else { 600 };
        let bound = pause.max(20 * most) + 4 * most + 4;
        while node.planned.is_none() && node.second < elapsed + bound {
            node.tick();
        }
        prop_assert!(node.planned.is_some(), "{looks} looks before, {:?}", node.surveys);
    }
}
