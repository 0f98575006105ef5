//! Clocks that a test sets.

use super::*;

const MINUTE: i64 = 60 * NS;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
/// Some day of 2026.
const NOON: i64 = 20_600 * DAY + 12 * HOUR;

/// A machine: how long it has been up, and what its clock shows.
#[derive(Clone, Copy)]
struct Machine {
    boot_ns: u64,
    wall_ns: i64,
}

impl Machine {
    fn at(wall_ns: i64) -> Self {
        Self { boot_ns: 1_000 * NS as u64, wall_ns }
    }

    fn now(&self) -> Moment {
        Moment { wall_ns: self.wall_ns, boot_ns: self.boot_ns }
    }

    /// Time passes, and the clock is looked at every minute.
    fn pass(&mut self, ns: i64, clock: &mut AgeClock) -> Present {
        for _ in 0..ns / MINUTE {
            self.boot_ns += MINUTE as u64;
            self.wall_ns += MINUTE;
            clock.look(self.now());
        }
        clock.look(self.now())
    }
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
    assert!(present.doubt().unwrap().contains("went ahead by"), "{:?}", present.doubt());

    // It is set right.
    machine.wall_ns -= YEAR;
    let present = machine.pass(MINUTE, &mut clock);
    assert_eq!((present.age_ns(hour_ago), present.doubt()), (91 * MINUTE, None));
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
    assert!(present.doubt().is_some());
    let present = machine.pass(HOUR + MINUTE, &mut clock);
    assert_eq!(present.doubt(), None, "it stood so for a day");
    assert_eq!(present.age_ns(NOON - 2 * DAY), machine.wall_ns - (NOON - 2 * DAY));

    // A clock that does not stand still is not believed.
    for _ in 0..5 {
        machine.wall_ns += YEAR;
        assert!(machine.pass(20 * HOUR, &mut clock).doubt().is_some());
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
        assert_eq!(machine.pass(MINUTE, &mut clock).doubt(), None);
    }
    machine.wall_ns -= 30 * DAY;
    let present = machine.pass(MINUTE, &mut clock);
    assert_eq!(present, machine.wall_ns.into());
    assert!(clock.is_in_doubt());
    assert_eq!(machine.pass(2 * DAY, &mut clock), machine.wall_ns.into());
    machine.wall_ns += 30 * DAY;
    assert!(clock.look(machine.now()).doubt().is_some(), "two days later it is a step ahead");
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
        machine.pass(23 * HOUR + MINUTE, &mut again).doubt(),
        None,
        "the hour before the restart counts"
    );

    let kept = Before::EarlierBoot { wall_ns: NOON, shown_ns: NOON, stood_ns: 0 };
    let up = |wall_ns| {
        let machine = Machine::at(wall_ns);
        AgeClock::begin(kept, machine.now()).look(machine.now())
    };
    let minutes_later = up(NOON + 20 * MINUTE);
    assert_eq!((minutes_later.age_ns(NOON), minutes_later.doubt()), (20 * MINUTE, None));
    let year_later = up(NOON + YEAR);
    assert_eq!(year_later.age_ns(NOON), 1_000 * NS, "it may have been up for that long, and no longer");
    assert!(year_later.doubt().is_some());
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
            let kept = Before::EarlierBoot {
                wall_ns: clock.believed_wall_ns(machine.now()),
                shown_ns: machine.wall_ns,
                stood_ns: clock.stood_ns(machine.now()),
            };
            machine = Machine::at(machine.wall_ns + off);
            clock = AgeClock::begin(kept, machine.now());
            in_doubt += u32::from(clock.is_in_doubt());
            machine.pass(14 * HOUR, &mut clock);
            off = 10 * HOUR;
        }
        assert_eq!(in_doubt, doubted, "down for {} h at first", down / HOUR);
    }
    // What stood on an earlier boot is not where it goes now.
    let kept = Before::EarlierBoot { wall_ns: NOON, shown_ns: NOON + YEAR, stood_ns: SETTLE_NS - 1 };
    let mut machine = Machine::at(NOON + 2 * YEAR);
    let mut clock = AgeClock::begin(kept, machine.now());
    assert!(machine.pass(23 * HOUR, &mut clock).doubt().is_some(), "a year further");
    let mut machine = Machine::at(NOON + YEAR + HOUR);
    let mut clock = AgeClock::begin(kept, machine.now());
    machine.wall_ns += YEAR;
    assert!(machine.pass(23 * HOUR, &mut clock).doubt().is_some(), "another step");
}

#[test]
fn clocks_at_their_ends_do_no_harm() {
    for wall_ns in [i64::MIN, 0, i64::MAX] {
        for boot_ns in [0, u64::MAX] {
            let before = Before::EarlierBoot { wall_ns: NOON, shown_ns: i64::MIN, stood_ns: u64::MAX };
            let mut clock = AgeClock::begin(before, Machine::at(NOON).now());
            let present = clock.look(Moment { wall_ns, boot_ns });
            for at in [i64::MIN, 0, NOON, i64::MAX] {
                let _ = (present.age_ns(at), present.doubt());
            }
        }
    }
}
