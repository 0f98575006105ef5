//! How to respond: what a cleanup aims for, and how soon and how often a mount is cleaned again.

use dogwatch::record::Mount;

use crate::detect::DiskConfig;

/// How to respond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Available bytes that a cleanup aims for, as a fraction of the mount's size.
    pub low_water_available: f64,
    /// Free inodes that a cleanup aims for, as a fraction of the mount's inodes.
    pub low_water_inodes: f64,
    /// From the end of one cleanup to the start of the next on the same mount.
    pub cooldown_ns: u64,
    /// Cleanups of a mount within the window after which it is left alone.
    pub breaker_cleanups: usize,
    /// That window, and how long such a mount is then left alone.
    pub breaker_window_ns: u64,
}

impl Default for Settings {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            low_water_available: 0.20,
            low_water_inodes: 0.20,
            cooldown_ns: 60 * SECOND,
            breaker_cleanups: 3,
            breaker_window_ns: 1_800 * SECOND,
        }
    }
}

impl Settings {
    /// With the low-water marks of `mount`.
    pub(super) fn of(self, marks: Option<&DiskConfig>, mount: &Mount) -> Self {
        let Some((space, inodes)) = marks.map(|marks| marks.marks(mount)) else { return self };
        Self { low_water_available: 1.0 - space.low_used, low_water_inodes: 1.0 - inodes.low_used, ..self }
    }
}
