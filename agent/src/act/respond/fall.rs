//! How fast what is available on a mount falls, from the figures of the last seconds.
//!
//! Coarser and quicker than the forecast of a finding (`detect`), which wants half a minute of history: here it is asked
//! whether a cleanup outlasts the pause behind it.

use std::collections::VecDeque;

use super::super::plan::Trigger;
use super::super::words;

/// Figures that are older do not count.
const WINDOW_NS: u64 = 10_000_000_000;
/// Shorter spans say nothing: one write-back would look like a flood.
const MIN_SPAN_NS: u64 = 1_000_000_000;
/// After so long without a fall whoever wrote has ended: a burst is no flood. (XFS takes room in steps that double: at 100 MB/s
/// 0.6, 1.3 and 2.6 s apart up to a file of half a GiB. Before a larger one a flood passes for calm, until the step comes.)
const CALM_NS: u64 = 2_500_000_000;
/// About how many figures are kept: one each quarter of a second.
const FIGURES: usize = 40;
/// Most that is aimed for beyond the low-water mark, as a part of the mount: a short burst, such as an image that is
/// pulled, must not cost every rotated log.
const MOST_BEYOND: u64 = 4;

/// The figures of one mount: boot time in ns, available bytes.
#[derive(Debug, Default)]
pub(super) struct Fall {
    seen: VecDeque<(u64, u64)>,
}

impl Fall {
    /// Takes the newest figure.
    pub(super) fn see(&mut self, boot_ns: u64, available_bytes: u64) {
        let close = |at: u64| boot_ns.saturating_sub(at) < WINDOW_NS / FIGURES as u64;
        if self.seen.len() > 1 && self.seen.get(self.seen.len() - 2).is_some_and(|(at, _)| close(*at)) {
            self.seen.pop_back();
        }
        self.seen.push_back((boot_ns, available_bytes));
        self.seen.retain(|(at, _)| boot_ns.saturating_sub(*at) <= WINDOW_NS);
    }

    /// The newest figure: boot time in ns, available bytes.
    pub(super) fn newest(&self) -> Option<(u64, u64)> {
        self.seen.back().copied()
    }

    /// Bytes a second by which it falls; 0 where it does not, or where too little was seen.
    pub(super) fn bytes_per_second(&self) -> u64 {
        let (Some((from, had)), Some((to, has))) = (self.seen.front(), self.seen.back()) else { return 0 };
        let span = to.saturating_sub(*from);
        let mut pairs = self.seen.iter().zip(self.seen.iter().skip(1));
        let fell = pairs.rfind(|((_, before), (_, after))| after < before).map(|(_, (at, _))| *at);
        if span < MIN_SPAN_NS || fell.is_none_or(|at| to.saturating_sub(at) > CALM_NS) {
            return 0;
        }
        let lost = u128::from(had.saturating_sub(*has));
        u64::try_from(lost * 1_000_000_000 / u128::from(span)).unwrap_or(u64::MAX)
    }

    /// Whether `available` bytes are gone within `span_ns` at this rate.
    pub(super) fn is_full_within(&self, available: u64, span_ns: u64) -> bool {
        let rate = u128::from(self.bytes_per_second());
        rate > 0 && u128::from(available) * 1_000_000_000 <= rate * u128::from(span_ns)
    }

    /// Adds to what is aimed for what goes within `span_ns` at this rate, and says so in the reason. Whether it did.
    pub(super) fn reach_further(&self, trigger: &mut Trigger, span_ns: u64) -> bool {
        let rate = self.bytes_per_second();
        let needs_bytes = trigger.target_available_bytes > trigger.available_bytes;
        if rate == 0 || !needs_bytes {
            return false;
        }
        let gone = u128::from(rate) * u128::from(span_ns) / 1_000_000_000;
        let beyond = u64::try_from(gone).unwrap_or(u64::MAX).min(trigger.total_bytes / MOST_BEYOND);
        let target = trigger.target_available_bytes.saturating_add(beyond).min(trigger.total_bytes);
        trigger.reason = format!(
            "{}; it falls by {} a second: {} more are to come free while it goes on",
            trigger.reason,
            words::bytes(rate),
            words::bytes(target - trigger.target_available_bytes)
        );
        trigger.target_available_bytes = target;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_rate_is_of_the_last_seconds() {
        let mut fall = Fall::default();
        assert_eq!(fall.bytes_per_second(), 0);
        for second in 0..30 {
            fall.see(second * SECOND, 10_000);
        }
        assert_eq!(fall.bytes_per_second(), 0);
        for second in 30..60 {
            fall.see(second * SECOND, 10_000 - (second - 30) * 100);
        }
        assert_eq!(fall.bytes_per_second(), 100);
        assert!(fall.is_full_within(500, 5 * SECOND) && !fall.is_full_within(501, 5 * SECOND));
        assert!(fall.seen.len() <= 11);
    }

    #[test]
    fn a_burst_that_is_over_is_no_flood_and_a_writer_on_xfs_is_one_between_its_steps() {
        let mut fall = Fall::default();
        for (second, available) in [(0, 1_000), (1, 1_000), (2, 400), (3, 400), (4, 400)] {
            fall.see(second * SECOND, available);
        }
        assert_eq!(fall.bytes_per_second(), 150, "it may go on");
        fall.see(5 * SECOND, 400);
        assert_eq!(fall.bytes_per_second(), 0);
        assert!(!fall.is_full_within(400, u64::MAX));

        let mut fall = Fall::default();
        for second in 0..10 {
            fall.see(second * SECOND, 1_000 - second / 2 * 100);
            assert_eq!(fall.bytes_per_second() > 0, second >= 2, "{second}");
        }
    }

    #[test]
    fn figures_that_come_often_stay_few_and_one_of_them_says_nothing() {
        let mut fall = Fall::default();
        fall.see(0, 1 << 30);
        fall.see(SECOND / 10, 0);
        assert_eq!(fall.bytes_per_second(), 0, "a tenth of a second");
        for tick in 2..1_000 {
            fall.see(tick * SECOND / 20, 1 << 30);
            assert!(fall.seen.len() <= 2 * FIGURES);
        }
    }
}
