//! The section `usage`: how the agent walks its disks by itself.

use std::time::Duration;

use dogwatch::config::Section;

use crate::sample::Caps;
use crate::usage::Budget;
use crate::usage::rounds::RoundsConfig;

/// Of `caps.cpu`, what walking may take at most: the rest is for what must not wait.
const MOST_OF_CAP: f64 = 0.5;
/// The first round begins this long after the start, but no later than a round after it.
const FIRST_AFTER: Duration = Duration::from_secs(300);

/// `None`: it does not walk by itself.
pub(super) fn rounds(s: &mut Section, caps: &Caps) -> Option<RoundsConfig> {
    let on = s.flag("background", true);
    let hour = Duration::from_secs(3600);
    let every = s.duration("every", hour, Duration::from_secs(60)..=24 * hour);
    let cpu = s.fraction("cpu", 0.02);
    let disk = s.fraction("disk", 0.04);
    for (key, share) in [("cpu", cpu), ("disk", disk)] {
        if share < 0.001 {
            let why = "is too little to come to an end";
            s.problem(key, &share.to_string(), why, "give it at least 0.1%, or set background to false");
        }
    }
    let entries_per_second = s.number("entries_per_second", 20_000, 100..=1_000_000);
    let budget = Budget { cpu: cpu.min(caps.cpu * MOST_OF_CAP), disk, entries_per_second };
    on.then_some(RoundsConfig { every, first_after: FIRST_AFTER.min(every), budget })
}
