//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `ready` gives something, at most for `within`.
///
/// # Panics
/// When it does not; `what` says what was waited for.
#[expect(clippy::panic, reason = "a condition that never comes is a failed test")]
pub fn until<T>(what: &str, within: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ready() {
            return found;
        }
        if began.elapsed() > within {
            panic!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether the environment asks for the short form of long scenarios.
pub fn quick() -> bool {
    std::env::var_os("DOGWATCH_TEST_QUICK").is_some_and(|v| v == "1")
}

/// Whether the environment asks for the full length of long scenarios.
pub fn full() -> bool {
    std::env::var_os("DOGWATCH_TEST_FULL").is_some_and(|v| v == "1")
}
