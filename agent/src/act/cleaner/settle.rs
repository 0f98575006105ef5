//! How long to wait, at the end of an action, for room that a filesystem frees in the background. Pure: time and room come in
//! as arguments.
//!
//! XFS inactivates unlinked files in workers of its own, btrfs, ZFS and F2FS free with their next commits; what statvfs(2) says
//! right after an unlink understates what came of it, and so would the record. Whoever waits holds the next action up, so where
//! others fill the disk meanwhile, which hides for ever what comes free, the wait is short.

use std::time::Duration;

/// Longest wait.
const MAX_SETTLE: Duration = Duration::from_secs(2);
/// Once some of it showed, and no more for so long, the filesystem is believed to be done.
const SETTLED: Duration = Duration::from_secs(1);
/// The same two where others fill the disk.
const MAX_SETTLE_FILLING: Duration = Duration::from_secs(1);
const SETTLED_FILLING: Duration = Duration::from_millis(200);
/// When so much went to others while this waits, they fill the disk: at 100 MB/s within a fifth of a second, and what goes in
/// the whole of the longest wait at 8 MB/s.
const FILLING_BYTES: u64 = 16 << 20;

/// One wait.
#[derive(Debug)]
pub(super) struct Settling {
    /// Free bytes once everything shows.
    awaited: u64,
    most_free: u64,
    last_free: Option<u64>,
    went: u64,
    grew: Option<Duration>,
}

/// How a wait stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Everything shows.
    All,
    /// No more of it is waited for.
    NoMore,
    /// Not yet.
    Waits,
}

impl Settling {
    /// For `freed` bytes beyond the `before` that were free.
    pub(super) fn new(before: u64, freed: u64) -> Self {
        let awaited = before.saturating_add(freed);
        Self { awaited, most_free: before, last_free: None, went: 0, grew: None }
    }

    /// `free` bytes are free, so long after the wait began.
    pub(super) fn look(&mut self, waited: Duration, free: u64) -> Settled {
        if free >= self.awaited {
            return Settled::All;
        }
        self.went = self.went.saturating_add(self.last_free.map_or(0, |last| last.saturating_sub(free)));
        self.last_free = Some(free);
        if free > self.most_free {
            (self.most_free, self.grew) = (free, Some(waited));
        }
        let (longest, quiet) = if self.went >= FILLING_BYTES {
            (MAX_SETTLE_FILLING, SETTLED_FILLING)
        } else {
            (MAX_SETTLE, SETTLED)
        };
        if waited > longest || self.grew.is_some_and(|at| waited.saturating_sub(at) > quiet) {
            Settled::NoMore
        } else {
            Settled::Waits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const BEFORE: u64 = 1_000 * MIB;
    const FREED: u64 = 400 * MIB;

    /// What a wait comes to where so much is free at so many milliseconds, looked at as the cleaner does.
    fn wait(free: impl Fn(u64) -> u64) -> (Settled, u64) {
        let mut settling = Settling::new(BEFORE, FREED);
        for ms in (0..).step_by(20) {
            match settling.look(Duration::from_millis(ms), free(ms)) {
                Settled::Waits => {}
                over => return (over, ms),
            }
        }
        unreachable!("a wait has an end")
    }

    #[test]
    fn a_pause_between_two_batches_of_a_background_worker_is_waited_for() {
        let batches = |ms: u64| BEFORE + [0, 150, 150, 150, 150, 400][(ms / 150).min(5) as usize] * MIB;
        assert_eq!(wait(batches), (Settled::All, 760));
        // Others write a little all the time, as on any node; by then this hides some of it.
        let (settled, ms) = wait(|ms| batches(ms) + (ms >= 1_500) as u64 * 8 * MIB - ms * MIB / 1_000 * 4);
        assert_eq!(settled, Settled::All, "{ms} ms");
        let nothing_for_long = |ms: u64| BEFORE + if ms < 1_900 { 0 } else { FREED };
        assert_eq!(wait(nothing_for_long), (Settled::All, 1_900));
    }

    #[test]
    fn a_wait_is_bounded_and_short_where_others_fill_the_disk() {
        assert_eq!(wait(|_| BEFORE), (Settled::NoMore, 2_020));
        let shared = |ms: u64| BEFORE + ms.min(100) * MIB;
        assert_eq!(wait(shared), (Settled::NoMore, 1_120), "half of it was never to come");
        // 100 MB/s: half came at once, and the next action is wanted.
        let filling = |ms: u64| BEFORE + 200 * MIB - ms * 100_000;
        let (settled, ms) = wait(filling);
        assert!(settled == Settled::NoMore && ms <= 220, "{ms} ms");
        let hidden = |ms: u64| BEFORE - ms * 100_000;
        assert_eq!(wait(hidden), (Settled::NoMore, 1_020));
    }

    #[test]
    fn what_shows_at_once_is_not_waited_for() {
        assert_eq!(wait(|_| BEFORE + FREED), (Settled::All, 0));
        assert_eq!(Settling::new(u64::MAX, 1).look(Duration::ZERO, u64::MAX), Settled::All);
    }
}
