//! Clocks that were set on one side of a boot, or while no agent looked, and again on the other.

use super::tests::{DAY, Event, HOUR, MINUTE, World, YEAR};
use super::*;

/// Looked at each minute.
const DAYS: fn(i64) -> Event = |days| Event::Pass(days * DAY / MINUTE);
/// Long enough to be believed.
const LONG: Event = Event::Pass(25 * HOUR / MINUTE);

fn worst(world: &mut World, events: &[Event]) -> i64 {
    let too_old = |event| {
        let present = world.happens(event);
        world.too_old(present) - world.admitted
    };
    events.iter().map(too_old).max().unwrap()
}

#[test]
fn a_boot_forgets_nothing_of_a_clock_that_was_right_before_it_was_wrong() {
    for (right_again, down) in [(LONG, 1), (Event::Pass(13 * 60), 600)] {
        let events = [
            DAYS(3),
            Event::Set(-2 * DAY),
            LONG,
            Event::Set(0),
            right_again,
            Event::Boot(down, 0),
            LONG,
            Event::Set(YEAR),
            LONG,
            DAYS(1),
        ];
        let worst = worst(&mut World::new(0), &events);
        assert!(worst <= STEP_NS, "{} h too old", worst / HOUR);
    }
}

#[test]
fn what_a_believed_clock_showed_while_nobody_looked_is_no_older_by_another() {
    let mut world = World::new(0);
    assert!(worst(&mut world, &[DAYS(3), Event::Set(YEAR), Event::Pass(2)]) <= STEP_NS);
    world.wrong = 0;
    for _ in 0..25 {
        world.true_ns += HOUR;
        world.write();
    }
    world.wrong = YEAR;
    world.write();
    let worst = worst(&mut world, &[Event::Restart(1), Event::Pass(2), LONG]);
    assert!(worst <= STEP_NS, "{} h too old", worst / HOUR);
}
