//! Sections of `cleanup` that are not about what may go: when to clean again, and the ballast.

use std::time::Duration;

use dogwatch::config::Section;

use crate::act::respond::Settings;
use crate::ballast::{BallastConfig, MAX_INODES};

const DAY: Duration = Duration::from_secs(86_400);

/// `breaker`: how soon and how often a mount is cleaned again. The low-water marks are `detect`'s.
pub(super) fn breaker(s: &mut Section) -> Settings {
    let d = Settings::default();
    let nanoseconds = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let cooldown =
        s.duration("cooldown", Duration::from_nanos(d.cooldown_ns), Duration::from_millis(100)..=DAY);
    let window =
        s.duration("window", Duration::from_nanos(d.breaker_window_ns), Duration::from_secs(1)..=DAY);
    Settings {
        cooldown_ns: nanoseconds(cooldown),
        breaker_cleanups: s.number("cleanups", d.breaker_cleanups, 1..=10_000),
        breaker_window_ns: nanoseconds(window),
        ..d
    }
}

/// `ballast`.
pub(super) fn ballast(s: &mut Section) -> BallastConfig {
    let d = BallastConfig::default();
    BallastConfig {
        bytes: s.bytes("bytes", d.bytes, 0..=1 << 40),
        inodes: s.number("inodes", d.inodes, 0..=MAX_INODES),
        again_after: s.duration("again_after", d.again_after, Duration::ZERO..=DAY),
    }
}
