//! How fast a figure falls, told so that neither a burst nor a sawtooth looks like a fall.
//!
//! A [`History`] holds two views of one series: points of the last minute, and buckets of the last quarter of an hour
//! with their lowest and highest value. A window *falls steadily* when it lost something in each of its thirds; then
//! its rate is the median of the slopes of all pairs of points (Theil and Sen), which a third of outliers cannot move.
//!
//! Limits: 31 points and 61 buckets a series. Deliberately absent: seasons, models, anything that must be learnt.

use std::collections::VecDeque;

use super::case::Place;

const SECOND: u64 = 1_000_000_000;
const SHORT_SPAN: u64 = 60 * SECOND;
const SHORT_SPACING: u64 = 2 * SECOND;
const LONG_SPAN: u64 = 15 * 60 * SECOND;
const LONG_SPACING: u64 = 15 * SECOND;

/// The long window speaks from this age on; before, the short one covers much of the same.
const LONG_MIN_HISTORY: u64 = 180 * SECOND;

/// Points without which a slope is a guess.
const MIN_POINTS: usize = 6;

/// A third must have lost this fraction of its even share.
const THIRD_SHARE: f64 = 0.25;

/// One reading of the series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) ns: u64,
    pub(super) value: u64,
    pub(super) place: Place,
}

/// A steady fall.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fall {
    /// Units a second, above 0.
    pub(super) per_second: f64,
    /// Where the window begins.
    pub(super) since: Point,
}

/// A quarter of a minute.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    first: Point,
    lowest: Point,
    highest: Point,
}

/// A series of a quantity that can fall to 0.
#[derive(Debug, Default)]
pub(super) struct History {
    short: VecDeque<Point>,
    long: VecDeque<Bucket>,
    last: Option<Point>,
}

impl History {
    /// Adds a reading; one that is not later than the last is passed over.
    pub(super) fn push(&mut self, point: Point) {
        if self.last.is_some_and(|last| point.ns <= last.ns) {
            return;
        }
        self.last = Some(point);
        while self.short.front().is_some_and(|p| point.ns - p.ns > SHORT_SPAN) {
            self.short.pop_front();
        }
        while self.long.front().is_some_and(|b| point.ns - b.first.ns > LONG_SPAN) {
            self.long.pop_front();
        }
        if self.short.back().is_none_or(|p| point.ns - p.ns >= SHORT_SPACING) {
            self.short.push_back(point);
        }
        match self.long.back_mut() {
            Some(bucket) if point.ns - bucket.first.ns < LONG_SPACING => {
                if point.value < bucket.lowest.value {
                    bucket.lowest = point;
                }
                if point.value > bucket.highest.value {
                    bucket.highest = point;
                }
            }
            _ => self.long.push_back(Bucket { first: point, lowest: point, highest: point }),
        }
    }

    /// Whether there is history of at least `ns` in one piece.
    pub(super) fn spans(&self, ns: u64) -> bool {
        match (self.short.front(), self.last) {
            (Some(first), Some(last)) => last.ns - first.ns >= ns,
            _ => false,
        }
    }

    /// The highest reading of the last quarter of an hour.
    pub(super) fn peak(&self) -> Option<u64> {
        self.long.iter().map(|b| b.highest.value).max()
    }

    /// The steady fall under way, if any: it needs `min_history_ns`, and to have lost more than `floor`. `urgent`
    /// tells which rate leaves no time to ask the long window.
    pub(super) fn fall(&self, min_history_ns: u64, floor: u64, urgent: impl Fn(f64) -> bool) -> Option<Fall> {
        let last = self.last?;
        // Most series most of the time: nothing was lost.
        let lost = |first: Option<&Point>| first.is_some_and(|p| p.value.saturating_sub(last.value) > floor);
        let long_first = self.long.front().map(|b| b.first);
        let short = lost(self.short.front())
            .then(|| steady_fall(self.short.iter().copied().chain([last]), min_history_ns))
            .flatten();
        let long = lost(long_first.as_ref())
            .then(|| steady_fall(self.long.iter().map(|b| b.first).chain([last]), LONG_MIN_HISTORY))
            .flatten();
        match (short, long) {
            (Some(short), long) => {
                if self.long_agrees(short.per_second) || urgent(short.per_second) {
                    Some(short)
                } else {
                    long
                }
            }
            (None, long) => long,
        }
    }

    /// Whether the long window as a whole lost at a rate comparable with `per_second`, or is too young to tell.
    fn long_agrees(&self, per_second: f64) -> bool {
        let (Some(first), Some(last)) = (self.long.front().map(|b| b.first), self.last) else { return true };
        let span = last.ns - first.ns;
        if span < LONG_MIN_HISTORY {
            return true;
        }
        let mean = (first.value as f64 - last.value as f64) / (span as f64 / SECOND as f64);
        mean >= THIRD_SHARE * per_second
    }

    /// Whether the series has been as low as now within the last quarter of an hour, not below `safe`, and came back
    /// by at least half of what it has lost now: then something makes room in time.
    pub(super) fn came_back_from_here(&self, safe: u64) -> bool {
        let (Some(last), Some(peak)) = (self.last, self.peak()) else { return false };
        let worth = (peak.saturating_sub(last.value) / 2).max(1);
        let mut trough: Option<u64> = None;
        for bucket in &self.long {
            let [early, late] = if bucket.lowest.ns <= bucket.highest.ns {
                [bucket.lowest, bucket.highest]
            } else {
                [bucket.highest, bucket.lowest]
            };
            for point in [early, late] {
                if let Some(low) = trough {
                    let back = point.value.saturating_sub(low);
                    // Troughs differ; a quarter of the swing deeper is still the same saw.
                    if back >= worth && last.value.saturating_add(back / 4) >= low {
                        return true;
                    }
                }
                if point.value >= safe {
                    trough = Some(trough.map_or(point.value, |t| t.min(point.value)));
                }
            }
        }
        false
    }
}

/// The rate of a window that lost something in each of its thirds.
fn steady_fall(points: impl Iterator<Item = Point>, min_span_ns: u64) -> Option<Fall> {
    let mut points: Vec<Point> = points.collect();
    points.dedup_by_key(|p| p.ns);
    let (first, last) = (*points.first()?, *points.last()?);
    let span = last.ns - first.ns;
    let gap = points.windows(2).map(|w| w[1].ns - w[0].ns).max()?;
    if span < min_span_ns || points.len() < MIN_POINTS || gap > span / 3 {
        return None;
    }
    let lost = first.value as f64 - last.value as f64;
    let third = span / 3;
    let marks = [
        first.value as f64,
        at(&points, first.ns + third),
        at(&points, first.ns + 2 * third),
        last.value as f64,
    ];
    if lost <= 0.0 || marks.windows(2).any(|w| w[0] - w[1] < THIRD_SHARE * lost / 3.0) {
        return None;
    }
    let per_second = -median_slope(&points)?;
    (per_second > 0.0).then_some(Fall { per_second, since: first })
}

/// The series at time `ns`, on straight lines between its points.
fn at(points: &[Point], ns: u64) -> f64 {
    let after = points.partition_point(|p| p.ns <= ns);
    match (after.checked_sub(1).and_then(|i| points.get(i)), points.get(after)) {
        (Some(a), Some(b)) => {
            let part = (ns - a.ns) as f64 / (b.ns - a.ns) as f64;
            a.value as f64 + (b.value as f64 - a.value as f64) * part
        }
        (Some(p), None) | (None, Some(p)) => p.value as f64,
        (None, None) => 0.0,
    }
}

/// Median of the slopes of all pairs, units a second.
fn median_slope(points: &[Point]) -> Option<f64> {
    let mut slopes: Vec<f64> = points
        .iter()
        .enumerate()
        .flat_map(|(i, a)| {
            points[i + 1..]
                .iter()
                .map(|b| (b.value as f64 - a.value as f64) / ((b.ns - a.ns) as f64 / SECOND as f64))
        })
        .collect();
    if slopes.is_empty() {
        return None;
    }
    let middle = slopes.len() / 2;
    Some(*slopes.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dogwatch::record::Stream;

    const MIN: u64 = 30 * SECOND;

    /// A series of one reading a second.
    fn history(values: impl IntoIterator<Item = u64>) -> History {
        let mut h = History::default();
        for (i, value) in values.into_iter().enumerate() {
            let place = Place { stream: Stream::Recorder, seq: i as u64 + 1 };
            h.push(Point { ns: (i as u64 + 100) * SECOND, value, place });
        }
        h
    }

    fn rate(h: &History) -> Option<f64> {
        h.fall(MIN, 10, |_| false).map(|f| f.per_second)
    }

    #[test]
    fn a_steady_fall_has_its_rate() {
        let h = history((0..60).map(|t| 100_000 - 50 * t));
        assert_eq!(rate(&h), Some(50.0));
        assert_eq!(h.fall(MIN, 10, |_| false).unwrap().since.place.seq, 1);
        assert_eq!(rate(&history((0..20).map(|t| 100_000 - 50 * t))), None, "20 s are no history");
        assert_eq!(rate(&history((0..60).map(|t| 100_000 + 50 * t))), None);
        assert_eq!(rate(&history((0..60).map(|_| 100_000))), None);
    }

    #[test]
    fn outliers_do_not_move_it() {
        let h = history((0..60).map(|t| if t % 10 == 3 { 10 } else { 100_000 - 50 * t }));
        let r = rate(&h).unwrap();
        assert!((40.0..60.0).contains(&r), "{r}");
    }

    #[test]
    fn a_burst_is_no_fall_wherever_it_lies_in_the_window() {
        for at in 0..60 {
            let h = history((0..60).map(|t| 100_000 - (t.clamp(at, at + 10) - at) * 5_000));
            assert_eq!(rate(&h), None, "burst at {at}");
        }
    }

    #[test]
    fn many_bursts_are_a_fall_in_the_long_window() {
        let h = history((0..600).map(|t| 1_000_000 - t / 50 * 5_000));
        let r = rate(&h).unwrap();
        assert!((80.0..120.0).contains(&r), "{r}");
    }

    #[test]
    fn a_fall_that_just_began_needs_the_long_window_or_urgency() {
        let h = history((0..640).map(|t: u64| 1_000_000 - t.saturating_sub(580) * 100));
        assert_eq!(rate(&h), None);
        assert_eq!(h.fall(MIN, 10, |r| r > 90.0).unwrap().per_second, 100.0);
    }

    #[test]
    fn gaps_are_survived() {
        let mut h = history((0..60).map(|t| 100_000 - 50 * t));
        let place = Place { stream: Stream::Recorder, seq: 99 };
        h.push(Point { ns: 100 * SECOND, value: 1, place });
        assert_eq!(rate(&h), Some(50.0), "time that stands still is passed over");
        h.push(Point { ns: 400 * SECOND, value: 50_000, place });
        assert!(!h.spans(MIN));
        assert_eq!(rate(&h), None);
    }

    #[test]
    fn a_saw_is_known_by_its_teeth() {
        let saw = |t: u64| 100_000 - t % 90 * 500;
        assert!(!history((0..89).map(saw)).came_back_from_here(0), "the first tooth is as any fall");
        for end in 92..400 {
            assert!(history((0..end).map(saw)).came_back_from_here(0), "{end}");
        }
        let then_falls = (0..180).map(saw).chain((0..160).map(|t| 100_000 - t * 500));
        assert!(!history(then_falls).came_back_from_here(0), "below its troughs it is a fall");
        assert!(
            !history((0..180).map(saw)).came_back_from_here(99_999),
            "a trough that was not safe does not count"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let h = history(0..100_000);
        assert!(h.short.len() <= 31 && h.long.len() <= 61, "{} {}", h.short.len(), h.long.len());
    }
}
