//! Differences of counters, and of gauges, over the last while.
//!
//! A counter that went backwards belongs to another device or group, or began again: its history is dropped, and
//! nothing is said until a whole window has passed. So nothing is ever concluded from a restart.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Points of a window: its edge is known to a twelfth of it.
const POINTS: u64 = 12;

/// Subjects with a history: beyond this many, further ones have none and are not judged.
const MAX_KEYS: usize = 4_096;

/// Counters of one subject over a window.
#[derive(Debug, Clone)]
pub(super) struct Window<const N: usize> {
    points: VecDeque<(u64, [u64; N])>,
    last: Option<(u64, [u64; N])>,
}

impl<const N: usize> Default for Window<N> {
    fn default() -> Self {
        Self { points: VecDeque::new(), last: None }
    }
}

/// What counters rose by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span<const N: usize> {
    pub(super) seconds: f64,
    pub(super) delta: [u64; N],
}

impl<const N: usize> Span<N> {
    /// Rise of counter `i` a second.
    pub(super) fn rate(&self, i: usize) -> f64 {
        self.delta[i] as f64 / self.seconds
    }

    /// Rise of counter `i` for each of counter `j`; 0 where that did not rise.
    pub(super) fn ratio(&self, i: usize, j: usize) -> f64 {
        if self.delta[j] == 0 { 0.0 } else { self.delta[i] as f64 / self.delta[j] as f64 }
    }
}

impl<const N: usize> Window<N> {
    /// Takes in the counters at `now_ns` (CLOCK_BOOTTIME), and gives their rise over `window` once it is full.
    pub(super) fn push(&mut self, now_ns: u64, values: [u64; N], window: Duration) -> Option<Span<N>> {
        self.take(now_ns, values, window, true)
    }

    /// The same for gauges, which may fall: a fall is a rise of 0.
    pub(super) fn push_gauges(&mut self, now_ns: u64, values: [u64; N], window: Duration) -> Option<Span<N>> {
        self.take(now_ns, values, window, false)
    }

    fn take(&mut self, now_ns: u64, values: [u64; N], window: Duration, counters: bool) -> Option<Span<N>> {
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1);
        if let Some((at, before)) = self.last
            && (now_ns <= at || (counters && values.iter().zip(before).any(|(new, old)| *new < old)))
        {
            self.points.clear();
        }
        self.last = Some((now_ns, values));
        if self.points.back().is_none_or(|(at, _)| now_ns - at >= window_ns / POINTS) {
            self.points.push_back((now_ns, values));
        }
        while self.points.get(1).is_some_and(|(at, _)| now_ns - at >= window_ns) {
            self.points.pop_front();
        }
        let (first_ns, first) = *self.points.front()?;
        let span_ns = now_ns - first_ns;
        (span_ns >= window_ns).then(|| Span {
            seconds: span_ns as f64 / 1e9,
            delta: std::array::from_fn(|i| values[i].saturating_sub(first[i])),
        })
    }
}

/// The windows of many subjects; who is not seen in a round is forgotten.
#[derive(Debug)]
pub(super) struct Windows<const N: usize> {
    by_key: BTreeMap<String, (Window<N>, u64)>,
    round: u64,
}

impl<const N: usize> Default for Windows<N> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), round: 0 }
    }
}

impl<const N: usize> Windows<N> {
    /// See [`Window::push`].
    pub(super) fn push(
        &mut self,
        key: &str,
        now_ns: u64,
        values: [u64; N],
        window: Duration,
    ) -> Option<Span<N>> {
        self.of(key)?.push(now_ns, values, window)
    }

    /// See [`Window::push_gauges`].
    pub(super) fn push_gauges(
        &mut self,
        key: &str,
        now_ns: u64,
        values: [u64; N],
        window: Duration,
    ) -> Option<Span<N>> {
        self.of(key)?.push_gauges(now_ns, values, window)
    }

    fn of(&mut self, key: &str) -> Option<&mut Window<N>> {
        if !self.by_key.contains_key(key) {
            if self.by_key.len() >= MAX_KEYS {
                return None;
            }
            self.by_key.insert(key.to_owned(), (Window::default(), self.round));
        }
        let (window, seen) = self.by_key.get_mut(key)?;
        *seen = self.round;
        Some(window)
    }

    /// Ends a round: subjects that it did not bring lose their history.
    pub(super) fn end(&mut self) {
        let round = self.round;
        self.by_key.retain(|_, (_, seen)| *seen == round);
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn nothing_is_said_before_a_whole_window_or_after_a_restart() {
        let mut w = Window::<1>::default();
        for s in 0..60u64 {
            assert_eq!(w.push(s * 1_000_000_000, [s * 10], MINUTE), None, "{s}");
        }
        let span = w.push(60_000_000_000, [600], MINUTE).unwrap();
        assert_eq!((span.seconds, span.delta), (60.0, [600]));
        assert_eq!(w.push(61_000_000_000, [5], MINUTE), None, "it began again");
        assert_eq!(w.push(100_000_000_000, [500], MINUTE), None);
        assert_eq!(w.push(121_000_000_000, [605], MINUTE).unwrap().delta, [600]);
        assert!(w.points.len() <= POINTS as usize + 2);
    }

    #[test]
    fn the_window_moves_on() {
        let mut w = Window::<2>::default();
        let mut last = None;
        for s in 0..1_000u64 {
            last = w.push(s * 1_000_000_000, [s * 3, if s < 800 { 0 } else { 7 }], MINUTE);
            assert!(w.points.len() <= POINTS as usize + 2);
        }
        let span = last.unwrap();
        assert_eq!(span.rate(0), 3.0);
        assert_eq!((span.delta[1], span.ratio(0, 1)), (0, 0.0), "the step is more than a window ago");
    }

    #[test]
    fn gauges_may_fall_and_keys_are_bounded_and_forgotten() {
        let mut w = Window::<1>::default();
        w.push_gauges(0, [10], MINUTE);
        assert_eq!(w.push_gauges(60_000_000_000, [4], MINUTE).unwrap().delta, [0]);
        let mut many = Windows::<1>::default();
        for i in 0..2 * MAX_KEYS {
            many.push(&format!("{i}"), 0, [0], MINUTE);
        }
        assert_eq!(many.by_key.len(), MAX_KEYS);
        many.end();
        many.push("1", 1, [0], MINUTE);
        many.end();
        assert_eq!(many.by_key.len(), 1);
    }
}
