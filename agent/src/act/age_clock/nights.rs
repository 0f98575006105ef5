//! Machines whose clock goes ahead again and again: what they hold grows old all the same.

use super::tests::{DAY, HOUR, MINUTE, Machine, NOON, YEAR};
use super::*;

/// A machine whose clock is right while it is up, with what was written on it each hour.
struct World {
    machine: Machine,
    clock: AgeClock,
    written: Vec<i64>,
}

impl World {
    fn new() -> Self {
        let machine = Machine::at(NOON);
        Self { machine, clock: AgeClock::begin(Before::Nothing, machine.now()), written: Vec::new() }
    }

    fn up_for(&mut self, hours: i64) -> Present {
        for _ in 0..hours {
            self.written.push(self.machine.wall_ns);
            self.machine.pass(HOUR, &mut self.clock);
        }
        self.clock.look(self.machine.now())
    }

    /// CLOCK_BOOTTIME does not count the time that its hypervisor stops it for.
    fn stopped_for(&mut self, ns: i64) {
        self.machine.wall_ns += ns;
        self.clock.look(self.machine.now());
    }

    /// It is off, and has no clock then; somebody sets it right five minutes later.
    fn off_for(&mut self, ns: i64) {
        let left = Before::EarlierBoot(self.clock.left_at(self.machine.now()));
        let right = self.machine.wall_ns + ns;
        self.machine = Machine::at(0);
        self.clock = AgeClock::begin(left, self.machine.now());
        self.machine.pass(5 * MINUTE, &mut self.clock);
        self.machine.wall_ns = right;
        self.clock.look(self.machine.now());
    }

    /// How old it must really be to look a day old.
    fn day_old(&self, present: Present) -> i64 {
        let old = |at: i64| self.machine.wall_ns - at;
        assert!(self.written.iter().all(|at| present.age_ns(*at) <= old(*at)), "older than it is");
        let day_old = self.written.iter().filter(|at| present.age_ns(**at) >= DAY).map(|at| old(*at));
        day_old.min().unwrap_or(i64::MAX)
    }

    /// The most that this comes to from the tenth of so many days on, where it is up for `up` hours before each `night`.
    fn worst(mut self, up: i64, days: i64, night: impl Fn(&mut Self)) -> i64 {
        let mut worst = 0;
        while self.machine.wall_ns < NOON + days * DAY {
            let present = self.up_for(up);
            if self.machine.wall_ns >= NOON + 10 * DAY {
                worst = worst.max(self.day_old(present));
            }
            night(&mut self);
        }
        worst
    }
}

#[test]
fn what_a_machine_holds_that_is_stopped_each_night_is_a_day_old_some_days_later_however_many_nights() {
    for (up, stopped, most) in [(14, 10 * HOUR, 9), (23, 30 * MINUTE, 3), (1, 5 * MINUTE, 4)] {
        for days in [30, 180] {
            let worst = World::new().worst(up, days, |world| world.stopped_for(stopped));
            assert!(worst <= most * DAY, "{up} h up: {} h after {days} d", worst / HOUR);
        }
    }
}

#[test]
fn what_a_machine_holds_that_forgets_the_time_each_night_is_a_day_old_some_days_later() {
    for days in [30, 180] {
        let worst = World::new().worst(14, days, |world| world.off_for(10 * HOUR));
        assert!(worst <= 9 * DAY, "{} h after {days} d", worst / HOUR);
    }
}

#[test]
fn a_clock_that_goes_ahead_each_hour_is_believed_as_far_as_it_was_ahead_for_a_day() {
    let mut world = World::new();
    world.up_for(24);
    // Before all that is known of the clock.
    let old = NOON - YEAR;
    for hour in 1..=48 {
        world.stopped_for(6 * DAY);
        let age = world.up_for(1).age_ns(old) - YEAR - 24 * HOUR - hour * HOUR;
        let least = match hour {
            ..24 => 0,
            // By what it was ahead at first, and then by what it was when that was believed.
            24..47 => 6 * DAY,
            _ => 24 * 6 * DAY,
        };
        assert!((0..=least).contains(&age), "{} d too old after {hour} h", age / DAY);
    }
    // Once it is right again, that is over.
    let mut world = World::new();
    for _ in 0..40 {
        world.stopped_for(6 * DAY);
        world.up_for(10);
        world.machine.wall_ns -= 6 * DAY;
        world.machine.pass(MINUTE, &mut world.clock);
        world.up_for(1);
    }
    world.stopped_for(6 * DAY);
    let present = world.up_for(10);
    assert_eq!(world.machine.wall_ns - old - present.age_ns(old), 6 * DAY);
    // While it is behind it only waits.
    let mut world = World::new();
    for (behind, still) in [(YEAR, true), (30 * DAY, true), (HOUR, false)] {
        world.machine.wall_ns += 6 * DAY;
        let present = world.up_for(10);
        assert_eq!(
            present.age_ns(old) <= world.machine.wall_ns - old - 6 * DAY,
            still,
            "{} h",
            behind / HOUR
        );
        world.machine.wall_ns -= behind + 6 * DAY;
        world.up_for(1);
        world.machine.wall_ns += behind;
    }
}
