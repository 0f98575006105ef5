//! The edge where time comes in. Everything that decides takes time as an argument; only edges call this.

use rustix::time::{ClockId, clock_gettime};

use crate::record::Moment;

/// Now, by both clocks.
pub fn now() -> Moment {
    let boot = clock_gettime(ClockId::Boottime);
    Moment { wall_ns: wall_ns(), boot_ns: boot.tv_sec as u64 * 1_000_000_000 + boot.tv_nsec as u64 }
}

/// CLOCK_REALTIME, nanoseconds since the Unix epoch.
pub fn wall_ns() -> i64 {
    let wall = clock_gettime(ClockId::Realtime);
    wall.tv_sec * 1_000_000_000 + wall.tv_nsec
}
