//! When losses are told: soon, together, and seldom where they would fill the stream that they are told in.
//!
//! Each gap is a record of the stream that has the least room and that cleanups need; yet what is not told when the agent is
//! killed is told by nobody who knows more than a range of seqs. So the first loss is told within a second; what goes on being
//! lost, every few seconds, by how many gaps that makes; and once the urgent ring is half full of what the collector did not
//! take, less and less often.
//!
//! Pure: time comes in as an argument.

use std::time::{Duration, Instant};

/// After a look that found nothing to tell: a loss that comes then waits so long at most.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// While losses go on, those of so long are told together.
const TOGETHER: Duration = Duration::from_secs(5);
/// The same for each gap that was told, if that is more: four a second, so that half a ring of 16 MiB takes hours.
const EACH_GAP: Duration = Duration::from_millis(250);
/// The least often that they are told; nothing waits longer than that.
pub(super) const AT_LEAST_EVERY: Duration = Duration::from_secs(60);
/// Share of the urgent ring above which the room that is left is for findings and actions.
const TIGHT_ABOVE: f64 = 0.5;

/// When losses are told next.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) next: Instant,
    every: Duration,
}

impl Telling {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, every: FIRST_WITHIN }
    }

    /// So many gaps were told at `now`; `pressure`: how full the urgent ring is, 0 to 1, of what must not go.
    pub(super) fn told(&mut self, now: Instant, gaps: usize, pressure: f64) {
        self.every = match u32::try_from(gaps).unwrap_or(u32::MAX) {
            0 => FIRST_WITHIN,
            _ if pressure > TIGHT_ABOVE => (self.every * 2).clamp(TOGETHER, AT_LEAST_EVERY),
            gaps => EACH_GAP.saturating_mul(gaps).clamp(TOGETHER, AT_LEAST_EVERY),
        };
        self.next = now + self.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour in which every tenth of a second something of each of `sources` is lost: how often that was told, and the
    /// longest that anything waited.
    fn an_hour(sources: usize, pressure: f64) -> (usize, Duration) {
        let tick = Duration::from_millis(100);
        let mut now = Instant::now();
        let mut telling = Telling::new(now);
        let (mut times, mut waits_since, mut longest) = (0, None, Duration::ZERO);
        for _ in 0..36_000 {
            now += tick;
            let since = *waits_since.get_or_insert(now);
            if now >= telling.next {
                (times, waits_since) = (times + 1, None);
                longest = longest.max(now - since);
                telling.told(now, sources, pressure);
            }
        }
        (times, longest)
    }

    #[test]
    fn what_goes_on_being_lost_is_told_within_seconds_and_makes_few_gaps() {
        let seconds = Duration::from_secs;
        for (sources, pressure, late, most_gaps) in [
            (1, 0.0, seconds(5), 3_600 / 5 + 1),
            (20, 0.4, seconds(5), 20 * (3_600 / 5 + 1)),
            (65, 0.4, seconds(17), 4 * 3_600 + 65),
            (500, 0.4, seconds(60), 500 * 61),
            (1, 0.6, seconds(60), 70),
            (65, 1.0, seconds(60), 65 * 70),
        ] {
            let (times, longest) = an_hour(sources, pressure);
            assert!(longest <= late, "{sources} sources at {pressure}: {longest:?}");
            assert!(times * sources <= most_gaps, "{sources} sources at {pressure}: {times} times");
        }
    }

    #[test]
    fn a_loss_that_comes_alone_is_told_within_a_second() {
        let now = Instant::now();
        let mut telling = Telling::new(now);
        assert_eq!(telling.next, now, "at once");
        for _ in 0..20 {
            telling.told(now, 3, 1.0);
        }
        assert_eq!(telling.next, now + AT_LEAST_EVERY);
        telling.told(now, 0, 1.0);
        assert_eq!(telling.next, now + FIRST_WITHIN, "also where it was told seldom before");
    }
}
