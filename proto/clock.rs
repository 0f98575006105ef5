//! The edge where time comes in. Everything that decides takes time as an argument; only edges call this.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use crate::record::Moment;

/// Now, by both clocks.
pub fn now() -> Moment {
    let boot = clock_gettime(ClockId::Boottime);
    Moment { wall_ns: wall_ns(), boot_ns: boot.tv_sec as u64 * 1_000_000_000 + boot.tv_nsec as u64 }
}

/// CLOCK_REALTIME, nanoseconds since the Unix epoch. By the C library's call, which a test can bend (libfaketime); the
/// boot clock is asked for without it, as the kernel has it.
pub fn wall_ns() -> i64 {
    let since = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => since(after),
        Err(before) => -since(before.duration()),
    }
}
