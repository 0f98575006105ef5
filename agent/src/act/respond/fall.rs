//! How fast what is available on a mount falls, from the figures of the last seconds.
//!
//! Coarser and quicker than the forecast of a finding (`detect`), which wants half a minute of history: here it is asked
//! whether a cleanup outlasts the pause behind it. Since that decides whether a cleanup is begun at once and how much it
//! takes, one burst must not look like a flood: what counts is what both halves of a span lost.

use std::collections::VecDeque;

use super::super::plan::Trigger;
use super::super::words;

/// Figures that are older do not count.
const WINDOW_NS: u64 = 10_000_000_000;
/// Where samples come seldom, so many of the newest figures count although they are older: two halves take three.
const LEAST_FIGURES: usize = 3;
/// Nor do those after so long.
const MAX_WINDOW_NS: u64 = 60_000_000_000;
/// Shorter spans say nothing: two samples must have shown it.
const MIN_SPAN_NS: u64 = 2_000_000_000;
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
        let is_old = |(at, _): &(u64, u64), left: usize| {
            let age = boot_ns.saturating_sub(*at);
            age > MAX_WINDOW_NS || age > WINDOW_NS && left > LEAST_FIGURES
        };
        while self.seen.front().is_some_and(|figure| is_old(figure, self.seen.len())) {
            self.seen.pop_front();
        }
    }

    /// Bytes a second by which it keeps falling: what it lost in the better half of all that was seen, or of the last two
    /// seconds if that is more, since a flood that has just begun was not there before. 0 where it does not fall, or where
    /// too little was seen.
    pub(super) fn bytes_per_second(&self) -> u64 {
        let Some(last) = self.seen.back() else { return 0 };
        let is_long = |(at, _): &&(u64, u64)| last.0.saturating_sub(*at) >= MIN_SPAN_NS;
        let (all, newest) = (self.seen.iter().find(is_long), self.seen.iter().rev().find(is_long));
        let steady = |first: &(u64, u64)| {
            let middle = first.0 + last.0.saturating_sub(first.0) / 2;
            let between = self.seen.iter().min_by_key(|(at, _)| at.abs_diff(middle));
            between.map_or(0, |between| rate(first, between).min(rate(between, last)))
        };
        all.into_iter().chain(newest).map(steady).max().unwrap_or(0)
    }

    /// Whether `available` bytes are gone within `span_ns` at this rate.
    pub(super) fn is_full_within(&self, available: u64, span_ns: u64) -> bool {
        let rate = u128::from(self.bytes_per_second());
        rate > 0 && u128::from(available) * 1_000_000_000 <= rate * u128::from(span_ns)
    }

    /// Adds to what is aimed for what goes within `span_ns` at this rate, and says so in the reason.
    pub(super) fn reach_further(&self, trigger: &mut Trigger, span_ns: u64) {
        let rate = self.bytes_per_second();
        let needs_bytes = trigger.target_available_bytes > trigger.available_bytes;
        if rate == 0 || !needs_bytes {
            return;
        }
        let gone = u128::from(rate) * u128::from(span_ns) / 1_000_000_000;
        let beyond = u64::try_from(gone).unwrap_or(u64::MAX).min(trigger.total_bytes / MOST_BEYOND);
        let target = trigger.target_available_bytes.saturating_add(beyond).min(trigger.total_bytes);
        trigger.reason = format!(
            "{}; it falls by {} a second: {} more are to come free",
            trigger.reason,
            words::bytes(rate),
            words::bytes(target - trigger.target_available_bytes)
        );
        trigger.target_available_bytes = target;
    }
}

/// Bytes a second that were lost from one figure to a later one.
fn rate((from, had): &(u64, u64), (to, has): &(u64, u64)) -> u64 {
    let lost = u128::from(had.saturating_sub(*has)) * 1_000_000_000;
    let rate = lost.checked_div(u128::from(to.saturating_sub(*from))).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
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
    fn one_burst_is_no_flood_and_a_flood_shows_within_two_seconds() {
        let seen = |figures: &[u64]| {
            let mut fall = Fall::default();
            figures.iter().enumerate().for_each(|(n, bytes)| fall.see(n as u64 * SECOND, *bytes));
            fall
        };
        // An image is pulled, a core is dumped: a gigabyte at once, whenever it comes, and nothing else.
        for at in 1..10 {
            let figures: Vec<u64> = (0..10).map(|n| if n < at { 20 << 30 } else { 19 << 30 }).collect();
            for until in 1..=figures.len() {
                let fall = seen(&figures[..until]);
                assert!(!fall.is_full_within(19 << 30, 60 * SECOND), "burst at {at}, seen until {until}");
                let mut trigger = trigger();
                fall.reach_further(&mut trigger, 60 * SECOND);
                assert_eq!(trigger, self::trigger(), "burst at {at}, seen until {until}");
            }
        }
        assert_eq!(seen(&[20 << 30, 19 << 30]).bytes_per_second(), 0, "one second decides nothing");
        assert_eq!(seen(&[20 << 30, 19 << 30, 18 << 30]).bytes_per_second(), 1 << 30);
        let begun = [20 << 30, 20 << 30, 20 << 30, 20 << 30, 20 << 30, 20 << 30, 19 << 30, 18 << 30];
        assert_eq!(seen(&begun).bytes_per_second(), 1 << 30, "whatever was before");
    }

    #[test]
    fn where_samples_come_seldom_three_of_them_tell() {
        let mut fall = Fall::default();
        for n in 0..4 {
            fall.see(n * 15 * SECOND, 100_000 - n * 15_000);
        }
        assert_eq!(fall.bytes_per_second(), 1_000);
        fall.see(200 * SECOND, 10_000);
        assert_eq!(fall.bytes_per_second(), 0, "what is older than a minute says nothing");
    }

    fn trigger() -> Trigger {
        Trigger {
            mount: "/".to_owned(),
            device: 1,
            total_bytes: 100 << 30,
            available_bytes: 19 << 30,
            target_available_bytes: 20 << 30,
            inodes_free: 1,
            target_inodes_free: 0,
            reason: String::new(),
            finding_id: None,
            actor: "node".to_owned(),
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
