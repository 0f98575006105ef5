//! When a filesystem will be full, from readings of what it has available. Nothing here knows of samples or findings, so
//! that a file of figures can be asked the same question as a node ([`Outlook`]).

use std::time::Duration;

use dogwatch::record::Stream;

use super::case::Place;
use super::config::ForecastConfig;
use super::trend::{Demand, Fall, History, Point};

/// Troughs below this available fraction do not count as a saw's: there was no room to come back in time.
const SAFE_TROUGH: f64 = 0.05;

/// The longest time left that may be a finding: the history has six hours, and a claim beyond a day is not worth a word.
/// Forecasts reach as far, or twice as far as the bound that is asked for, where a finding is cleared.
pub const LONGEST_BOUND: Duration = Duration::from_secs(86_400);

/// When a mount would be full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Projection {
    pub(super) fall: Fall,
    /// Seconds until nothing is available.
    pub(super) seconds: f64,
}

/// What `history` says of a filesystem of `capacity` bytes that has `available` now.
pub(super) fn project(
    history: &History,
    config: &ForecastConfig,
    available: u64,
    capacity: u64,
) -> Option<Projection> {
    let part = |fraction: f64| (capacity as f64 * fraction) as u64;
    let fall = history.fall(Demand {
        min_history_ns: u64::try_from(config.min_history.as_nanos()).unwrap_or(u64::MAX),
        floor: config.noise_floor_bytes.max(part(config.min_loss_of_capacity)),
        safe: part(SAFE_TROUGH),
    })?;
    let seconds = available as f64 / fall.per_second;
    let horizon = LONGEST_BOUND.as_secs_f64().max(2.0 * config.bound.as_secs_f64());
    (seconds < horizon).then_some(Projection { fall, seconds })
}

/// The forecast of one filesystem, reading by reading, as the rule `disk-time-to-full` has it.
///
/// ```
/// use std::time::Duration;
/// use dogwatch_agent::detect::{ForecastConfig, Outlook};
///
/// let mut disk = Outlook::new(ForecastConfig::default());
/// let told: Vec<Option<Duration>> =
///     (0..60).map(|t| disk.push(Duration::from_secs(t), 300_000_000 - 1_000_000 * t, 300_000_000)).collect();
/// assert_eq!(told[20], None, "too early to say");
/// assert!(told[59].is_some_and(|left| left.as_secs().abs_diff(241) <= 1));
/// ```
#[derive(Debug)]
pub struct Outlook {
    config: ForecastConfig,
    history: History,
    readings: u64,
}

impl Outlook {
    /// Of a filesystem of which nothing is known yet.
    pub fn new(config: ForecastConfig) -> Self {
        Self { config, history: History::default(), readings: 0 }
    }

    /// Takes in that `available` of `capacity` bytes were left at `at`, on any clock that does not jump, and gives the time
    /// until none are, 0 where that is so already; `None` where there is no steady fall that lasted long enough for what it
    /// claims. A reading that is not later than the one before is passed over.
    pub fn push(&mut self, at: Duration, available: u64, capacity: u64) -> Option<Duration> {
        self.readings += 1;
        let ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let place = Place { stream: Stream::Recorder, seq: self.readings };
        self.history.push(Point { ns, value: available, place });
        if available == 0 && capacity > 0 {
            return Some(Duration::ZERO);
        }
        let projection = project(&self.history, &self.config, available, capacity)?;
        Duration::try_from_secs_f64(projection.seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecasts_reach_to_where_a_finding_of_the_longest_bound_is_cleared() {
        const MINUTE: u64 = 60;
        const RATE: u64 = 10_000;
        let after_seven_hours = |bound: Duration, hours_left: u64| {
            let mut disk = Outlook::new(ForecastConfig { bound, ..ForecastConfig::default() });
            let capacity = (hours_left + 7) * 60 * MINUTE * RATE;
            let told = (0..=7 * 60)
                .map(|m| disk.push(Duration::from_secs(m * MINUTE), capacity - m * MINUTE * RATE, capacity));
            told.last().flatten()
        };
        let hours = |h: u64| Duration::from_secs(h * 60 * MINUTE);
        let usual = ForecastConfig::default().bound;
        for (bound, left, told) in
            [(usual, 20, true), (usual, 30, false), (LONGEST_BOUND, 30, true), (LONGEST_BOUND, 50, false)]
        {
            let forecast = after_seven_hours(bound, left);
            let expected = told.then(|| hours(left));
            assert!(
                forecast.map(|f| f.as_secs().div_ceil(3_600)) == expected.map(|e| e.as_secs() / 3_600),
                "{left} h left, bound {bound:?}: {forecast:?}"
            );
        }
    }
}
