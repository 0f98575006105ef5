//! Clocks that a test sets.

use proptest::prelude::*;

use super::spells::KEPT_NS;
use super::*;

pub(super) const MINUTE: i64 = 60 * NS;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;
pub(super) const YEAR: i64 = 365 * DAY;
/// Some day of 2026.
pub(super) const NOON: i64 = 20_600 * DAY + 12 * HOUR;

/// A machine: how long it has been up, and what its clock shows.
#[derive(Clone, Copy)]
pub(super) struct Machine {
    boot_ns: u64,
    pub(super) wall_ns: i64,
}

impl Machine {
    pub(super) fn at(wall_ns: i64) -> Self {
        Self { boot_ns: 1_000 * NS as u64, wall_ns }
    }

    pub(super) fn now(&self) -> Moment {
        Moment { wall_ns: self.wall_ns, boot_ns: self.boot_ns }
    }

    /// Time passes, and the clock is looked at every minute.
    pub(super) fn pass(&mut self, ns: i64, clock: &mut AgeClock) -> Present {
        for _ in 0..ns / MINUTE {
            self.boot_ns += MINUTE as u64;
            self.wall_ns += MINUTE;
            clock.look(self.now());
        }
        clock.look(self.now())
    }
}

/// What an earlier boot left.
fn left(wall_ns: i64, shown_ns: i64, stood_ns: u64) -> Before {
    Before::EarlierBoot(Left {
        wall_ns,
        shown_ns,
        stood_ns,
        ahead: None,
        spells: Spells::default(),
        since_ns: not_known(),
    })
}

#[test]
fn a_clock_that_is_ahead_makes_nothing_older() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    let hour_ago = NOON - HOUR;
    assert_eq!(machine.pass(10 * MINUTE, &mut clock).age_ns(hour_ago), 70 * MINUTE);

    machine.wall_ns += YEAR;
    let seen = machine.wall_ns;
    let present = machine.pass(20 * MINUTE, &mut clock);
    assert_eq!(present.age_ns(hour_ago), 90 * MINUTE, "as by the clock before");
    assert_eq!(present.age_ns(seen + 5 * MINUTE), 15 * MINUTE, "written since: by the clock of now");
    assert!(present.age_ns(NOON + 200 * DAY) <= 0, "nobody can say when that was");
    assert!(present.age_ns(machine.wall_ns + 1) < 0, "the future");
    assert!(present.doubt(0).unwrap().contains("went ahead by"), "{:?}", present.doubt(0));

    // It is set right.
    machine.wall_ns -= YEAR;
    let present = machine.pass(MINUTE, &mut clock);
    assert_eq!((present.age_ns(hour_ago), present.doubt(0)), (91 * MINUTE, None));
    assert!(present.age_ns(seen + 5 * MINUTE) < 0, "written while it was ahead");
}

#[test]
fn a_clock_that_was_behind_and_is_set_right_is_believed_after_a_day() {
    let mut machine = Machine::at(NOON - YEAR);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    let written_early = machine.wall_ns;
    machine.pass(MINUTE, &mut clock);
    machine.wall_ns += YEAR;
    let present = machine.pass(HOUR, &mut clock);
    let written_since = machine.wall_ns - 30 * MINUTE;
    assert_eq!(present.age_ns(written_since), 30 * MINUTE);
    assert_eq!(present.age_ns(written_early), HOUR + MINUTE);
    let present = machine.pass(22 * HOUR, &mut clock);
    assert!(present.doubt(0).is_some());
    let present = machine.pass(HOUR + MINUTE, &mut clock);
    assert_eq!(present.doubt(0), None, "it stood so for a day");
    assert_eq!(present.age_ns(NOON - 2 * DAY), machine.wall_ns - (NOON - 2 * DAY));

    // A clock that does not stand still is not believed.
    for _ in 0..5 {
        machine.wall_ns += YEAR;
        assert!(machine.pass(20 * HOUR, &mut clock).doubt(0).is_some());
    }
}

#[test]
fn waking_up_slewing_and_going_back_are_no_steps() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    // Suspended for a week, which CLOCK_BOOTTIME counts.
    machine.boot_ns += 7 * DAY as u64;
    machine.wall_ns += 7 * DAY;
    assert_eq!(clock.look(machine.now()).age_ns(NOON), 7 * DAY);
    // Two seconds a minute for two hours.
    for _ in 0..120 {
        machine.wall_ns += 2 * NS;
        assert_eq!(machine.pass(MINUTE, &mut clock).doubt(0), None);
    }
    machine.wall_ns -= 30 * DAY;
    let present = machine.pass(MINUTE, &mut clock);
    assert_eq!(present, machine.wall_ns.into());
    assert!(clock.moved.is_some());
    assert_eq!(machine.pass(2 * DAY, &mut clock), machine.wall_ns.into());
    machine.wall_ns += 30 * DAY;
    assert!(clock.look(machine.now()).doubt(0).is_some(), "two days later it is a step ahead");
}

#[test]
fn what_was_written_while_the_clock_was_behind_is_no_older_once_it_is_set_right() {
    for behind in [HOUR, 30 * DAY, 56 * YEAR] {
        let mut machine = Machine::at(NOON);
        let mut clock = AgeClock::begin(Before::Nothing, machine.now());
        machine.pass(HOUR, &mut clock);
        machine.wall_ns -= behind;
        // Before anybody looked, and right before it is set right.
        let mut written = vec![machine.wall_ns + 1];
        machine.pass(20 * MINUTE, &mut clock);
        written.push(machine.wall_ns);
        machine.wall_ns += behind;
        let present = machine.pass(5 * MINUTE, &mut clock);
        let told: Vec<i64> = written.iter().map(|at| present.age_ns(*at)).collect();
        assert_eq!(told, [25 * MINUTE - 1, 5 * MINUTE], "behind by {} h", behind / HOUR);
        assert_eq!(
            present.age_ns(NOON - DAY),
            DAY + 85 * MINUTE,
            "what was written before is as old as it is"
        );
        assert!(
            present.doubt(written[0]).unwrap().contains("was behind by"),
            "{:?}",
            present.doubt(written[0])
        );
        assert_eq!(present.doubt(NOON - DAY), None);
        // Nor when it is believed for long, until everybody had time to see it.
        let present = machine.pass(3 * DAY, &mut clock);
        assert_eq!(present.age_ns(written[1]), 3 * DAY + 5 * MINUTE);
        let present = machine.pass(KEPT_NS - 3 * DAY, &mut clock);
        assert_eq!(present, machine.wall_ns.into(), "not for ever");
    }
}

#[test]
fn what_was_written_by_a_clock_that_was_believed_and_was_behind_is_no_older_once_another_is() {
    // From the first start on, or for so long that it was believed.
    for (right_first, behind_for) in [(false, 12 * HOUR), (true, 3 * DAY)] {
        let mut machine = Machine::at(NOON);
        let mut clock = AgeClock::begin(Before::Nothing, machine.now());
        if right_first {
            machine.pass(HOUR, &mut clock);
        }
        machine.wall_ns -= 40 * DAY;
        if !right_first {
            clock = AgeClock::begin(Before::Nothing, machine.now());
        }
        machine.pass(behind_for - HOUR, &mut clock);
        let written = machine.wall_ns;
        machine.pass(HOUR, &mut clock);
        machine.wall_ns += 40 * DAY;
        for day in 1..=20 {
            let present = machine.pass(DAY, &mut clock);
            assert_eq!(present.age_ns(written), day * DAY + HOUR, "day {day}");
        }
        let since = machine.wall_ns - 15 * DAY;
        let present = machine.pass(MINUTE, &mut clock);
        assert_eq!(present.age_ns(since), 15 * DAY + MINUTE);
    }
}

#[test]
fn a_machine_that_is_stopped_each_week_reckons_without_the_time_that_it_stood_still() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    let mut written = Vec::new();
    for week in 0..20 {
        written.push(machine.wall_ns);
        machine.pass(5 * DAY, &mut clock);
        // CLOCK_BOOTTIME does not count what its hypervisor stopped it for.
        machine.wall_ns += 2 * DAY;
        let present = machine.pass(2 * DAY, &mut clock);
        for (nth, at) in written.iter().enumerate() {
            let age = present.age_ns(*at);
            assert!(age <= machine.wall_ns - at, "week {week}: no older than by any clock");
            let weeks = week - nth as i64;
            // What stood still long ago is forgotten with its spell.
            let least = if weeks >= 6 { (weeks + 1) * 7 * DAY - 5 * 2 * DAY } else { weeks * 5 * DAY };
            assert!(age >= least, "week {week}: {} d of {weeks} weeks", age / DAY);
        }
    }
}

#[test]
fn a_machine_that_has_no_clock_when_it_is_off_goes_on_to_age() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    let written = machine.wall_ns;
    for night in 1..=60 {
        machine.pass(14 * HOUR, &mut clock);
        let kept = Before::EarlierBoot(clock.left_at(machine.now()));
        // It goes on from what was saved, and is set right ten hours further.
        machine = Machine::at(machine.wall_ns + 1_000 * NS);
        clock = AgeClock::begin(kept, machine.now());
        machine.pass(5 * MINUTE, &mut clock);
        machine.wall_ns += 10 * HOUR;
        let present = machine.pass(MINUTE, &mut clock);
        let age = present.age_ns(written);
        assert!(age <= machine.wall_ns - written, "night {night}");
        assert!(age >= machine.wall_ns - written - 11 * HOUR, "night {night}: {} h", age / HOUR);
    }
}

#[test]
fn a_small_step_leaves_what_a_clock_that_was_far_behind_showed_to_that_clock() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    machine.pass(HOUR, &mut clock);
    machine.wall_ns -= 20 * DAY;
    machine.pass(10 * MINUTE, &mut clock);
    machine.wall_ns += 20 * DAY;
    machine.pass(2 * DAY, &mut clock);
    // Its hypervisor stopped it.
    machine.wall_ns += 3 * MINUTE;
    let present = machine.pass(2 * DAY, &mut clock);
    for days in [3, 7, 14] {
        let off = days * DAY - present.age_ns(machine.wall_ns - days * DAY);
        assert!((0..=3 * MINUTE).contains(&off), "{days} d: {} h less", off / HOUR);
    }
}

#[test]
fn what_was_written_while_a_clock_chip_had_forgotten_is_no_older_on_any_boot() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    machine.pass(HOUR, &mut clock);
    let (mut written, mut right) = (Vec::new(), machine.wall_ns);
    for boot in 0..20 {
        let left = clock.left_at(machine.now());
        machine = Machine::at(0);
        written.push(5 * MINUTE);
        clock = AgeClock::begin(Before::EarlierBoot(left), machine.now());
        // On each second boot nobody sets it right before the machine is switched off.
        machine.pass(10 * MINUTE, &mut clock);
        if boot % 2 == 0 {
            machine.wall_ns = right + 10 * MINUTE;
        }
        right += 20 * MINUTE;
        let present = machine.pass(10 * MINUTE, &mut clock);
        let told: Vec<i64> = written.iter().map(|at| present.age_ns(*at)).collect();
        assert!(told.iter().all(|age| *age <= 15 * MINUTE), "boot {boot}: {told:?}");
        if boot % 2 == 0 {
            assert!(present.age_ns(NOON - DAY) > DAY, "boot {boot}: what was there before it goes on to age");
        }
    }
}

#[test]
fn what_went_on_while_nobody_looked_before_a_machine_went_down_is_of_the_same_spell() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    machine.wall_ns -= 30 * DAY;
    machine.pass(HOUR, &mut clock);
    let left = Before::EarlierBoot(clock.left_at(machine.now()));
    let written = machine.wall_ns + 5 * HOUR;
    let machine = Machine::at(NOON + 8 * HOUR);
    let present = AgeClock::begin(left, machine.now()).look(machine.now());
    assert_eq!(present.age_ns(written), 0);
    assert_eq!(
        present.age_ns(written + DAY * 10),
        20 * DAY + 2 * HOUR,
        "written before that by the right clock"
    );
}

#[test]
fn what_was_written_by_a_clock_that_was_behind_is_no_older_after_a_boot_by_which_it_is_right() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    machine.pass(3 * DAY, &mut clock);
    machine.wall_ns -= 2 * DAY;
    machine.pass(10 * HOUR - 5 * MINUTE, &mut clock);
    let written = machine.wall_ns;
    machine.pass(5 * MINUTE, &mut clock);
    let left = Before::EarlierBoot(clock.left_at(machine.now()));
    let mut machine = Machine::at(machine.wall_ns + 2 * DAY + 1_000 * NS);
    let mut clock = AgeClock::begin(left, machine.now());
    let present = machine.pass(2 * HOUR, &mut clock);
    assert_eq!(present.doubt(NOON), None, "what was written by the right clock is as old as it is");
    assert_eq!(present.age_ns(written), 2 * HOUR + 5 * MINUTE + 1_000 * NS);
}

#[test]
fn a_restart_forgets_no_step_and_another_boot_has_a_floor() {
    let mut machine = Machine::at(NOON);
    let mut clock = AgeClock::begin(Before::Nothing, machine.now());
    machine.wall_ns += YEAR;
    machine.pass(HOUR, &mut clock);
    let mut again = AgeClock::begin(Before::ThisBoot(clock), machine.now());
    assert_eq!(again.look(machine.now()).age_ns(NOON), HOUR);
    assert_eq!(
        machine.pass(23 * HOUR + MINUTE, &mut again).doubt(0),
        None,
        "the hour before the restart counts"
    );

    let kept = left(NOON, NOON, 0);
    let up = |wall_ns| {
        let machine = Machine::at(wall_ns);
        AgeClock::begin(kept, machine.now()).look(machine.now())
    };
    let minutes_later = up(NOON + 20 * MINUTE);
    assert_eq!((minutes_later.age_ns(NOON), minutes_later.doubt(0)), (20 * MINUTE, None));
    let year_later = up(NOON + YEAR);
    assert_eq!(year_later.age_ns(NOON), 1_000 * NS, "it may have been up for that long, and no longer");
    assert!(year_later.doubt(0).is_some());
    assert_eq!(up(NOON - YEAR), (NOON - YEAR).into(), "a clock chip that forgot");
    // Which is then set right: only how long it was down is in doubt.
    let mut machine = Machine::at(NOON - YEAR);
    let mut clock = AgeClock::begin(kept, machine.now());
    machine.pass(MINUTE, &mut clock);
    machine.wall_ns = NOON + 30 * MINUTE;
    assert_eq!(machine.pass(MINUTE, &mut clock).age_ns(NOON - DAY), DAY + 1_120 * NS);
}

#[test]
fn a_machine_that_is_switched_off_each_night_is_believed_its_clock() {
    // How long it was down at first, and the boots on which its clock is in doubt then.
    for (down, doubted) in [(10 * HOUR, 0), (30 * DAY, 2)] {
        let mut machine = Machine::at(NOON);
        let mut clock = AgeClock::begin(Before::Nothing, machine.now());
        let mut off = down;
        let mut in_doubt = 0;
        for _ in 0..20 {
            let kept = Before::EarlierBoot(clock.left_at(machine.now()));
            machine = Machine::at(machine.wall_ns + off);
            clock = AgeClock::begin(kept, machine.now());
            in_doubt += u32::from(clock.moved.is_some());
            machine.pass(14 * HOUR, &mut clock);
            off = 10 * HOUR;
        }
        assert_eq!(in_doubt, doubted, "down for {} h at first", down / HOUR);
    }
    // What stood on an earlier boot is not where it goes now.
    let kept = left(NOON, NOON + YEAR, SETTLE_NS - 1);
    let mut machine = Machine::at(NOON + 2 * YEAR);
    let mut clock = AgeClock::begin(kept, machine.now());
    assert!(machine.pass(23 * HOUR, &mut clock).doubt(0).is_some(), "a year further");
    let mut machine = Machine::at(NOON + YEAR + HOUR);
    let mut clock = AgeClock::begin(kept, machine.now());
    machine.wall_ns += YEAR;
    assert!(machine.pass(23 * HOUR, &mut clock).doubt(0).is_some(), "another step");
}

#[test]
fn clocks_at_their_ends_do_no_harm() {
    for wall_ns in [i64::MIN, 0, i64::MAX] {
        for boot_ns in [0, u64::MAX] {
            let before = left(NOON, i64::MIN, u64::MAX);
            let mut clock = AgeClock::begin(before, Machine::at(NOON).now());
            let present = clock.look(Moment { wall_ns, boot_ns });
            for at in [i64::MIN, 0, NOON, i64::MAX] {
                let _ = (present.age_ns(at), present.doubt(0));
            }
        }
    }
}

/// What happens to a machine and its clock.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// So many minutes pass.
    Pass(i64),
    /// The clock is set to be wrong by so much.
    Set(i64),
    /// It is slewed by so much.
    Slew(i64),
    /// The agent is away for so many minutes.
    Restart(i64),
    /// The machine is down for so many minutes, and then its clock is wrong by so much.
    Boot(i64, i64),
}

/// How wrong a clock may be: by hours, by days, by a month, by years, or as one that forgot.
const WRONG: [i64; 10] = [0, 0, -HOUR, 5 * HOUR, -2 * DAY, 6 * DAY, -30 * DAY, 20 * DAY, YEAR, -56 * YEAR];

fn event(boots: bool) -> impl Strategy<Value = Event> {
    let wrong = || prop::sample::select(WRONG.to_vec());
    prop_oneof![
        3 => (1i64..90).prop_map(Event::Pass),
        1 => (1_400i64..1_500).prop_map(Event::Pass),
        4 => wrong().prop_map(Event::Set),
        1 => (-5 * NS..5 * NS).prop_map(Event::Slew),
        2 => (0i64..20).prop_map(Event::Restart),
        if boots { 2 } else { 0 } => (0i64..100, wrong()).prop_map(|(down, wrong)| Event::Boot(down, wrong)),
    ]
}

/// A machine whose true time is known, with what was written on it.
pub(super) struct World {
    /// The time that truly passed.
    pub(super) true_ns: i64,
    booted_ns: i64,
    pub(super) wrong: i64,
    clock: AgeClock,
    /// What the agent's next start finds: the newest that was written, which is not at each look.
    kept: (AgeClock, Moment),
    /// By how much boots may have made files too old: a clock is believed that went ahead by less than a machine may be down.
    pub(super) admitted: i64,
    looks: u32,
    /// When files were truly written, and what the clock showed.
    files: Vec<(i64, i64)>,
}

impl World {
    pub(super) fn new(wrong: i64) -> Self {
        let now = Moment { wall_ns: NOON + wrong, boot_ns: 0 };
        let clock = AgeClock::begin(Before::Nothing, now);
        let (kept, files) = ((clock, now), Vec::new());
        Self { true_ns: 0, booted_ns: 0, wrong, clock, kept, admitted: 0, looks: 0, files }
    }

    fn now(&self) -> Moment {
        let boot_ns = (self.true_ns - self.booted_ns) as u64;
        Moment { wall_ns: NOON + self.true_ns + self.wrong, boot_ns }
    }

    pub(super) fn write(&mut self) {
        self.files.push((self.true_ns, self.now().wall_ns));
    }

    fn look(&mut self) -> Present {
        let (before, now) = (self.clock, self.now());
        let present = self.clock.look(now);
        self.looks += 1;
        if self.looks.is_multiple_of(10) || !self.clock.stands_as(&before) {
            self.kept = (self.clock, now);
        }
        present
    }

    fn pass(&mut self, ns: i64) -> Present {
        self.true_ns += ns;
        self.look()
    }

    pub(super) fn happens(&mut self, event: &Event) -> Present {
        self.write();
        match *event {
            Event::Pass(minutes) => {
                for _ in 0..minutes {
                    self.pass(MINUTE);
                }
            }
            Event::Set(wrong) => {
                self.true_ns += 20 * NS;
                self.write();
                self.wrong = wrong;
                self.write();
                self.pass(20 * NS);
            }
            Event::Slew(by) => self.wrong += by,
            Event::Restart(minutes) => {
                self.true_ns += minutes * MINUTE;
                self.clock = AgeClock::begin(Before::ThisBoot(self.kept.0), self.now());
            }
            Event::Boot(minutes, wrong) => {
                let (clock, at) = self.kept;
                let was_ahead = Self::ahead(&clock, at, self.booted_ns + at.boot_ns as i64);
                self.true_ns += minutes * MINUTE;
                (self.booted_ns, self.wrong) = (self.true_ns, wrong);
                self.write();
                self.true_ns += MINUTE;
                self.write();
                self.clock = AgeClock::begin(Before::EarlierBoot(clock.left_at(at)), self.now());
                self.kept = (self.clock, self.now());
                self.admitted += (Self::ahead(&self.clock, self.now(), self.true_ns) - was_ahead).max(0);
            }
        }
        self.write();
        self.look()
    }

    /// How far `clock` is ahead by what it believed `at`; `true_ns` is how much time had truly passed then.
    fn ahead(clock: &AgeClock, at: Moment, true_ns: i64) -> i64 {
        clock.believed_ns + at.boot_ns as i64 - (NOON + true_ns)
    }

    /// By how much a file looks older than it is, at most.
    pub(super) fn too_old(&self, present: Present) -> i64 {
        let told = |(at, shown): &(i64, i64)| present.age_ns(*shown) - (self.true_ns - at);
        self.files.iter().map(told).max().unwrap_or(0)
    }
}

proptest! {
    /// However often a clock steps, and whenever the agent starts anew.
    #[test]
    fn nothing_looks_older_than_it_is(
        first in prop::sample::select(WRONG.to_vec()),
        events in prop::collection::vec(event(false), 1..16),
    ) {
        let mut world = World::new(first);
        for (at, event) in events.iter().enumerate() {
            let present = world.happens(event);
            let too_old = world.too_old(present);
            prop_assert!(too_old <= STEP_NS, "{} s too old after {:?}", too_old / NS, &events[..=at]);
        }
    }

    /// Over boots, too; but for what each boot made what is believed go ahead.
    #[test]
    fn nothing_looks_older_than_it_is_over_boots(
        first in prop::sample::select(WRONG.to_vec()),
        events in prop::collection::vec(event(true), 1..12),
    ) {
        let mut world = World::new(first);
        for (at, event) in events.iter().enumerate() {
            let present = world.happens(event);
            let too_old = world.too_old(present);
            prop_assert!(world.admitted <= DOWN_NS * (at as i64 + 1));
            prop_assert!(too_old <= STEP_NS + world.admitted, "{} h too old after {:?}", too_old / HOUR, &events[..=at]);
        }
    }

    /// One that was behind for less than a day and is right since makes nothing that was written by the right clock
    /// younger, but what was written when it showed what it showed then.
    #[test]
    fn a_clock_that_is_right_again_is_in_no_doubt(
        behind in prop::sample::select(vec![-HOUR, -30 * DAY, -56 * YEAR]), minutes in 1i64..600,
    ) {
        let mut world = World::new(0);
        for event in [Event::Pass(60), Event::Set(behind), Event::Pass(minutes), Event::Set(0)] {
            world.happens(&event);
        }
        world.files.retain(|(at, shown)| NOON + at == *shown);
        let present = world.look();
        let all = world.files.iter().map(|(at, shown)| present.age_ns(*shown) - (world.true_ns - at));
        prop_assert!(all.into_iter().all(|off| off == 0 || behind == -HOUR && off >= behind));
    }
}
