//! How fast a figure falls, told so that neither a burst nor a sawtooth looks like a fall.
//!
//! A [`History`] holds one series at four scales, from 2 s over the last minute to 6 min over the last six hours. It is cut
//! into windows that end now, from half a minute on, each a quarter longer than the one before. A window *falls steadily*
//! when it lost its share in each of its sixths, a larger one in the first and in the last, and its second half is no less steep than
//! half of the whole; then its rate is the median of the slopes of all pairs of points (Theil and Sen), which a
//! third of outliers cannot move. A steady window is believed when it is long enough for the time that its rate leaves
//! ([`evidence_seconds`]), and the series has not been as low before and come back. The shortest such window speaks.
//!
//! Limits: [`SCALES`] hold at most 228 buckets of 56 bytes a series. What repeats less often than each six hours is not
//! known to repeat. Deliberately absent: seasons, models, anything that must be learnt.

use std::collections::VecDeque;

use super::case::Place;

const SECOND: u64 = 1_000_000_000;

/// Spacing and span of each scale. A window is read from the finest scale that reaches so far back: it has 8 points or
/// more of a series that is sampled each second.
const SCALES: [(u64, u64); 4] = [
    (2 * SECOND, 60 * SECOND),
    (10 * SECOND, 600 * SECOND),
    (60 * SECOND, 3_600 * SECOND),
    (360 * SECOND, 21_600 * SECOND),
];

/// The shortest window.
const SHORTEST: f64 = 32.0;
/// Each window is so many times as long as the one before.
const LONGER: f64 = 1.25;

/// Points without which a slope is a guess.
const MIN_POINTS: usize = 6;
/// Parts of a window, each of which must have lost something.
const PARTS: usize = 6;
/// A part must have lost this fraction of its even share.
const PART_SHARE: f64 = 0.25;
/// The first and the last part must have lost this fraction: rest before and after a fall is no evidence of it.
const END_SHARE: f64 = 0.5;
/// The second half must be at least so steep, of the whole.
const RECENT_SHARE: f64 = 0.5;
/// A window that is shorter than this part of what its mean rate asks for is not looked at more closely.
const WORTH_A_LOOK: f64 = 0.6;

/// For how long a fall must have lasted to be believed when it leaves `left` seconds: a sixth of them where that is five
/// minutes or less, half where it is twenty minutes or more, in proportion between; five and a half hours at most, which
/// the longest window has however its first bucket lies. So a disk that is full in five minutes is told within one, and a
/// claim about four hours has two behind it.
pub(super) fn evidence_seconds(left: f64) -> f64 {
    const SOON: (f64, f64) = (300.0, 1.0 / 6.0);
    const LATE: (f64, f64) = (1_200.0, 0.5);
    const LONGEST: f64 = 19_800.0;
    let part = ((left - SOON.0) / (LATE.0 - SOON.0)).clamp(0.0, 1.0);
    (left * (SOON.1 + (LATE.1 - SOON.1) * part)).min(LONGEST)
}

/// One reading of the series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) ns: u64,
    pub(super) value: u64,
    pub(super) place: Place,
}

/// A steady fall that is believed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fall {
    /// Units a second, above 0.
    pub(super) per_second: f64,
    /// Where the window begins.
    pub(super) since: Point,
}

/// What a fall must be to be believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// It lasted for this, whatever it leaves.
    pub(super) min_history_ns: u64,
    /// It lost more than this, or half of what was there.
    pub(super) floor: u64,
    /// A low below this is not one that the series is trusted to come back from.
    pub(super) safe: u64,
}

/// The readings of one spacing: the first, and the extremes.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    first: Point,
    lowest: u64,
    highest: u64,
    /// The lowest came before the highest.
    low_first: bool,
}

/// A series of a quantity that can fall to 0.
#[derive(Debug, Default)]
pub(super) struct History {
    scales: [VecDeque<Bucket>; SCALES.len()],
    last: Option<Point>,
}

impl History {
    /// Adds a reading; one that is not later than the last is passed over.
    pub(super) fn push(&mut self, point: Point) {
        if self.last.is_some_and(|last| point.ns <= last.ns) {
            return;
        }
        self.last = Some(point);
        for (buckets, (spacing, span)) in self.scales.iter_mut().zip(SCALES) {
            while buckets.front().is_some_and(|b| point.ns - b.first.ns > span + 2 * spacing) {
                buckets.pop_front();
            }
            match buckets.back_mut() {
                Some(bucket) if point.ns - bucket.first.ns < spacing => bucket.take(point.value),
                _ => buckets.push_back(Bucket {
                    first: point,
                    lowest: point.value,
                    highest: point.value,
                    low_first: true,
                }),
            }
        }
    }

    /// Whether there is history of at least `ns` in one piece.
    pub(super) fn spans(&self, ns: u64) -> bool {
        let oldest = self.scales[0].front().map(|b| b.first.ns);
        matches!((oldest, self.last), (Some(first), Some(last)) if last.ns - first >= ns.min(SCALES[0].1))
    }

    /// The steady fall under way, if there is one that can be believed.
    pub(super) fn fall(&self, demand: Demand) -> Option<Fall> {
        let last = self.last?;
        let longest = SCALES[SCALES.len() - 1].1;
        let mut length = SHORTEST;
        let mut before = None;
        loop {
            let ns = (length * SECOND as f64) as u64;
            if ns > longest {
                return None;
            }
            length *= LONGER;
            let scale = SCALES.iter().position(|(_, span)| ns <= *span)?;
            let buckets = &self.scales[scale];
            let from = buckets.partition_point(|b| last.ns - b.first.ns > ns);
            let Some(first) = buckets.get(from).map(|b| b.first) else { continue };
            // Young history has no longer windows.
            if before.replace((scale, first.ns)) == Some((scale, first.ns)) {
                continue;
            }
            if !self.is_worth_a_look(first, last, demand) {
                continue;
            }
            let points: Vec<Point> =
                buckets.range(from..).map(|b| b.first).filter(|p| p.ns < last.ns).chain([last]).collect();
            let Some(per_second) = steady_fall(&points) else { continue };
            let lasted = (last.ns - first.ns) as f64 / SECOND as f64;
            if lasted < evidence_seconds(last.value as f64 / per_second) {
                continue;
            }
            let peak = points.iter().map(|p| p.value).max().unwrap_or(first.value);
            if !self.came_back_from_here(peak, demand.safe) {
                return Some(Fall { per_second, since: first });
            }
        }
    }

    /// Cheap reasons first: most series most of the time lost nothing.
    fn is_worth_a_look(&self, first: Point, last: Point, demand: Demand) -> bool {
        let span = last.ns - first.ns;
        let lost = first.value.saturating_sub(last.value);
        if span < demand.min_history_ns || lost == 0 || lost <= demand.floor.min(first.value / 2) {
            return false;
        }
        let lasted = span as f64 / SECOND as f64;
        lasted >= WORTH_A_LOOK * evidence_seconds(last.value as f64 * lasted / lost as f64)
    }

    /// Whether the series, in all its history, has been as low as now, not below `safe`, and came back by at least half
    /// of what it has lost now since `peak`: then something makes room in time.
    fn came_back_from_here(&self, peak: u64, safe: u64) -> bool {
        let Some(last) = self.last else { return false };
        let worth = (peak.saturating_sub(last.value) / 2).max(1);
        let mut trough: Option<u64> = None;
        for bucket in self.oldest_first() {
            let [early, late] = if bucket.low_first {
                [bucket.lowest, bucket.highest]
            } else {
                [bucket.highest, bucket.lowest]
            };
            for value in [early, late] {
                if let Some(low) = trough {
                    let back = value.saturating_sub(low);
                    // Troughs differ; a quarter of the swing deeper is still the same saw.
                    if back >= worth && last.value.saturating_add(back / 4) >= low {
                        return true;
                    }
                }
                if value >= safe {
                    trough = Some(trough.map_or(value, |t| t.min(value)));
                }
            }
        }
        false
    }

    /// The history in buckets that do not overlap: coarse ones as far as finer ones do not reach.
    fn oldest_first(&self) -> impl Iterator<Item = &Bucket> {
        (1..SCALES.len()).rev().flat_map(move |scale| {
            let finer = if scale > 1 { self.scales[scale - 1].front().map(|b| b.first.ns) } else { None };
            let buckets = &self.scales[scale];
            // A bucket ends where the next begins.
            let ends = buckets.iter().skip(1).map(|b| b.first.ns);
            buckets
                .iter()
                .zip(ends.map(Some).chain([None]))
                .filter(move |(_, end)| finer.is_none_or(|from| end.is_some_and(|end| end <= from)))
                .map(|(bucket, _)| bucket)
        })
    }
}

impl Bucket {
    fn take(&mut self, value: u64) {
        if value < self.lowest {
            (self.lowest, self.low_first) = (value, false);
        }
        if value > self.highest {
            (self.highest, self.low_first) = (value, true);
        }
    }
}

/// The rate of a window that falls steadily, units a second, above 0.
fn steady_fall(points: &[Point]) -> Option<f64> {
    let (first, last) = (*points.first()?, *points.last()?);
    let span = last.ns - first.ns;
    let gap = points.windows(2).map(|w| w[1].ns - w[0].ns).max()?;
    if points.len() < MIN_POINTS || gap > span / 3 {
        return None;
    }
    let even = (first.value as f64 - last.value as f64) / PARTS as f64;
    let part = span / PARTS as u64;
    let at_first = first.value as f64 - at(points, first.ns + part);
    let at_last = at(points, last.ns - part) - last.value as f64;
    if even <= 0.0 || at_first < END_SHARE * even || at_last < END_SHARE * even {
        return None;
    }
    // Means of parts, as the marks of a small saw upon a fall say nothing of the fall.
    let mut means = [0.0; PARTS];
    for (i, mean) in means.iter_mut().enumerate() {
        let from = first.ns + i as u64 * part;
        *mean = (0..4).map(|quarter| at(points, from + part * (2 * quarter + 1) / 8)).sum::<f64>() / 4.0;
    }
    let even = (means[0] - means[PARTS - 1]) / (PARTS - 1) as f64;
    if even <= 0.0 || means.windows(2).any(|w| w[0] - w[1] < PART_SHARE * even) {
        return None;
    }
    let whole = -median_slope(points)?;
    let half = points.partition_point(|p| p.ns < first.ns + span / 2);
    let recent = -median_slope(&points[half..])?;
    (whole > 0.0 && recent >= RECENT_SHARE * whole).then_some(whole)
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

    const DEMAND: Demand = Demand { min_history_ns: 30 * SECOND, floor: 10, safe: 0 };

    /// A series of one reading each `every` seconds.
    fn each(every: u64, values: impl IntoIterator<Item = u64>) -> History {
        let mut h = History::default();
        for (i, value) in values.into_iter().enumerate() {
            let place = Place { stream: Stream::Recorder, seq: i as u64 + 1 };
            h.push(Point { ns: (i as u64 * every + 100) * SECOND, value, place });
        }
        h
    }

    fn history(values: impl IntoIterator<Item = u64>) -> History {
        each(1, values)
    }

    fn rate(h: &History) -> Option<f64> {
        h.fall(DEMAND).map(|f| f.per_second)
    }

    #[test]
    fn a_claim_needs_its_share_of_evidence() {
        for (left, evidence) in
            [(60.0, 10.0), (300.0, 50.0), (750.0, 250.0), (1_200.0, 600.0), (14_400.0, 7_200.0)]
        {
            assert_eq!(evidence_seconds(left).round(), evidence, "{left}");
        }
        assert_eq!(evidence_seconds(1e9), 19_800.0);
        assert_eq!(evidence_seconds(f64::INFINITY), 19_800.0);
        let mut before = 0.0;
        for left in 0..4_000 {
            let evidence = evidence_seconds(f64::from(left));
            assert!(evidence >= before, "{left}");
            before = evidence;
        }
    }

    #[test]
    fn a_steady_fall_has_its_rate() {
        // Full in 200 s, of which 60 have passed.
        let h = history((0..60).map(|t| 10_000 - 50 * t));
        assert_eq!(rate(&h), Some(50.0));
        assert!(h.fall(DEMAND).unwrap().since.place.seq > 1, "a minute is more than it needs");
        assert_eq!(rate(&history((0..20).map(|t| 10_000 - 50 * t))), None, "20 s are no history");
        assert_eq!(rate(&history((0..60).map(|t| 10_000 + 50 * t))), None);
        assert_eq!(rate(&history((0..60).map(|_| 10_000))), None);
        // The same fall of something that lasts for half an hour: a minute is no evidence, a quarter of an hour is.
        assert_eq!(rate(&history((0..60).map(|t| 100_000 - 50 * t))), None);
        assert_eq!(rate(&history((0..900).map(|t| 100_000 - 50 * t))), Some(50.0));
    }

    #[test]
    fn it_is_told_from_seconds_minutes_and_hours_alike() {
        for (every, fills_in) in [(1, 300), (5, 1_500), (15, 3_600), (60, 14_400), (300, 80_000)] {
            let h =
                each(every, (0..fills_in / every / 2).map(|i| 1_000_000 - 1_000_000 * i * every / fills_in));
            let r = rate(&h).unwrap_or_else(|| panic!("each {every} s, full in {fills_in} s"));
            let truly = 1_000_000.0 / fills_in as f64;
            assert!((r - truly).abs() < truly * 0.05, "each {every} s: {r} of {truly}");
        }
    }

    #[test]
    fn outliers_do_not_move_it() {
        let h = history((0..120).map(|t| 10_000 - 50 * t - if t % 20 == 3 { 900 } else { 0 }));
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
    fn many_bursts_are_a_fall_in_a_long_window() {
        let h = history((0..600).map(|t| 100_000 - t / 50 * 5_000));
        let r = rate(&h).unwrap();
        assert!((80.0..120.0).contains(&r), "{r}");
    }

    #[test]
    fn a_small_saw_upon_a_fall_does_not_hide_it() {
        let h = history((0..1_800).map(|t| 1_000_000 - t * 300 + t % 120 * 100));
        let r =
            (1_750..1_800).find_map(|n| rate(&history((0..n).map(|t| 1_000_000 - t * 300 + t % 120 * 100))));
        assert!(rate(&h).or(r).is_some_and(|r| (200.0..330.0).contains(&r)), "{r:?}");
    }

    #[test]
    fn a_fall_that_just_began_needs_its_share_and_one_that_ended_is_none() {
        let begins = |n| rate(&history((0..n).map(|t: u64| 100_000 - t.saturating_sub(580) * 100)));
        assert_eq!(begins(640), None, "a minute for a quarter of an hour");
        assert_eq!(begins(580 + 420), Some(100.0));
        let ended = history((0..700u64).map(|t| 100_000 - t.min(580) * 100));
        assert_eq!(rate(&ended), None, "two minutes of rest contradict it");
    }

    #[test]
    fn gaps_are_survived() {
        let mut h = history((0..60).map(|t| 10_000 - 50 * t));
        let place = Place { stream: Stream::Recorder, seq: 99 };
        h.push(Point { ns: 100 * SECOND, value: 1, place });
        assert_eq!(rate(&h), Some(50.0), "time that stands still is passed over");
        h.push(Point { ns: 400 * SECOND, value: 5_000, place });
        assert!(!h.spans(30 * SECOND));
        assert_eq!(rate(&h), None);
    }

    #[test]
    fn a_saw_is_known_by_its_teeth() {
        let saw = |t: u64| 100_000 - t % 90 * 500;
        let came_back = |h: &History, safe| h.came_back_from_here(100_000, safe);
        assert!(!came_back(&history((0..89).map(saw)), 0), "the first tooth is as any fall");
        for end in 92..400 {
            assert!(came_back(&history((0..end).map(saw)), 0), "{end}");
        }
        let then_falls = (0..180).map(saw).chain((0..160).map(|t| 100_000 - t * 500));
        assert!(!came_back(&history(then_falls), 0), "below its troughs it is a fall");
        assert!(!came_back(&history((0..180).map(saw)), 99_999), "a trough that was not safe does not count");
        // Teeth of an hour and a half are remembered at the coarsest scale.
        let slow = |t: u64| 100_000 - t * 60 % 5_400 * 10;
        for end in 100..300 {
            assert!(came_back(&each(60, (0..end).map(slow)), 0), "{end} min");
        }
    }

    #[test]
    fn a_rise_is_no_trough_that_came_back() {
        for end in (400..20_000).step_by(371) {
            let h = history((0..end).map(|t| 1_000_000 - t * 40));
            assert!(!h.came_back_from_here(1_000_000, 0), "{end}: overlapping scales make no teeth");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let h = history(0..100_000);
        let held: usize = h.scales.iter().map(VecDeque::len).sum();
        assert!(held <= 228, "{held}");
        assert!(size_of::<Bucket>() <= 56);
    }
}
