//! `clock-jump`, `clock-skew` and `clock-unsynchronised`: the wall clock stepped, is off, or is not held any more.
//!
//! A step is one against CLOCK_BOOTTIME, which counts suspended time, so that waking up is none. It must still be there
//! in the next sample: both clocks are read one after the other, and a reader that lost its CPU between them sees a step
//! that is none. A clock that was never synchronised while this runs says nothing: many virtual machines take their
//! host's and no daemon tells the kernel so.

use dogwatch::record::{ClockState, Fact, Finding, Moment, Severity, Subject};

use super::case::{Place, Tick};
use super::config::{ClockConfig, DetectConfig, Hold};
use super::known::Scene;
use super::watch::{Detector, Verdict, Watch, Words, several_watches};
use super::words;

/// Rule names.
pub(super) const JUMP_RULE: &str = "clock-jump";
/// See [`JUMP_RULE`].
pub(super) const SKEW_RULE: &str = "clock-skew";
/// See [`JUMP_RULE`].
pub(super) const UNSYNCHRONISED_RULE: &str = "clock-unsynchronised";

/// Watches the clock.
#[derive(Debug)]
pub(super) struct ClockDetector {
    config: ClockConfig,
    /// Jumps, skew, synchronisation.
    watches: [Watch; 3],
    last: Option<Moment>,
    /// A step that the next sample must confirm: the moment before it, the one after, and the record.
    step: Option<(Moment, Moment, Place)>,
    was_synchronised: bool,
    /// CLOCK_BOOTTIME since which the offset is too large.
    skewed_since: Option<u64>,
    /// CLOCK_BOOTTIME since which synchronisation is lost.
    lost_since: Option<u64>,
}

impl ClockDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let c = config.clock.clone();
        Self {
            watches: [
                Watch::new(JUMP_RULE, Hold { raise_ticks: 1, clear_ticks: 1 }, config).with_events(c.quiet),
                Watch::new(SKEW_RULE, c.hold, config),
                Watch::new(UNSYNCHRONISED_RULE, c.hold, config),
            ],
            config: c,
            last: None,
            step: None,
            was_synchronised: false,
            skewed_since: None,
            lost_since: None,
        }
    }

    fn on_moment(&mut self, tick: Tick<'_>, out: &mut Vec<Finding>) {
        let limit = self.config.jump.as_nanos() as i128;
        let last = self.last.replace(tick.at);
        if let Some((before, after, place)) = self.step.take() {
            let moved = step_ns(before, tick.at);
            // Still there, and the same one.
            if moved.abs() > limit && (moved - step_ns(before, after)).abs() <= limit / 2 {
                self.jumped(tick, before, after, place, moved, out);
                return;
            }
            // Taken back: it was none, and neither is its way back.
            if moved.abs() <= limit {
                return;
            }
        }
        if let Some(last) = last
            && step_ns(last, tick.at).abs() > limit
        {
            self.step = Some((last, tick.at, tick.cite.into()));
        }
    }

    fn jumped(
        &mut self,
        tick: Tick<'_>,
        before: Moment,
        after: Moment,
        place: Place,
        moved: i128,
        out: &mut Vec<Finding>,
    ) {
        let c = &self.config;
        let seconds = moved as f64 / 1e9;
        let severity =
            if seconds.abs() >= c.serious_jump.as_secs_f64() { Severity::High } else { Severity::Medium };
        let words = |jumps: u64| Words {
            over: format!(
                "the wall clock jumped {} by {}{}",
                if moved < 0 { "back" } else { "ahead" },
                if seconds.abs() < 120.0 {
                    format!("{:.1} s", seconds.abs())
                } else {
                    words::duration(seconds.abs())
                },
                if jumps > 1 { format!(" ({jumps} jumps)") } else { String::new() }
            ),
            explanation: format!(
                "Between two samples the wall clock moved otherwise than CLOCK_BOOTTIME, which counts suspended time, by more \
                 than {}, and the next sample confirms it; high from {}. Times of logs around it are to be read with care: \
                 dogwatch orders by boot time. Cleared after {} without a further jump.",
                words::duration(c.jump.as_secs_f64()),
                words::duration(c.serious_jump.as_secs_f64()),
                words::duration(c.quiet.as_secs_f64())
            ),
            facts: vec![
                Fact::new("jump_seconds", format!("{seconds:.3}")),
                Fact::new("before_wall_ns", before.wall_ns),
                Fact::new("after_wall_ns", after.wall_ns),
                Fact::new("jumps_number", jumps),
            ],
            since: vec![tick.identity.record(place)],
            ..Words::default()
        };
        let subject = Subject::new("node", tick.identity.node.as_str());
        self.watches[0].hit(tick, severity, subject, words, out);
    }

    fn on_state(&mut self, tick: Tick<'_>, clock: &ClockState, out: &mut Vec<Finding>) {
        let node = || Subject::new("node", tick.identity.node.as_str());
        let c = &self.config;
        let now = tick.at.boot_ns;
        let lasting = c.lasting.as_nanos();
        let facts = || {
            vec![
                Fact::new("offset_us_number", clock.offset_us),
                Fact::new("estimated_error_us_number", clock.estimated_error_us),
                Fact::new("maximum_error_us_number", clock.max_error_us),
            ]
        };
        let offset = clock.offset_us.unsigned_abs() as f64 / 1e6;
        let off = clock.synchronised && offset >= c.offset.as_secs_f64();
        let calm = clock.synchronised && offset < c.clear_offset.as_secs_f64();
        let verdict = self.lasting(off, calm, now, lasting, true);
        let c = &self.config;
        let words = || Words {
            over: format!("the clock is off by {:.0} ms", offset * 1000.0),
            calm: format!("the clock is off by no more than {:.1} ms", offset * 1000.0),
            explanation: format!(
                "adjtimex(2): the offset that synchronisation still corrects was at least {} ms for {} (NodeClockSkewDetected \
                 of the node mixin); cleared below {} ms.",
                c.offset.as_millis(),
                words::duration(c.lasting.as_secs_f64()),
                c.clear_offset.as_millis()
            ),
            facts: facts(),
            ..Words::default()
        };
        self.watches[1].judge(tick, verdict, node, words, out);
        // A finding of an earlier run says that it was.
        self.was_synchronised |= clock.synchronised || self.watches[2].active().next().is_some();
        let lost = self.was_synchronised && !clock.synchronised;
        let verdict = self.lasting(lost, clock.synchronised, now, lasting, false);
        let c = &self.config;
        let words = || Words {
            over: format!(
                "the clock is not synchronised any more; it may be off by {:.1} s",
                clock.max_error_us as f64 / 1e6
            ),
            calm: "the clock is synchronised again".to_owned(),
            explanation: format!(
                "adjtimex(2) has said STA_UNSYNC for {}, after it was synchronised before: the time daemon stopped, or reaches \
                 no server. A clock that was never synchronised while the agent ran is no finding, since a virtual machine \
                 may take its host's.",
                words::duration(c.lasting.as_secs_f64())
            ),
            facts: facts(),
            ..Words::default()
        };
        self.watches[2].judge(tick, verdict, node, words, out);
    }

    /// A verdict once `bad` has lasted; `skew` says which of the two memories it is for.
    fn lasting(&mut self, bad: bool, calm: bool, now_ns: u64, lasting_ns: u128, skew: bool) -> Verdict {
        let since = if skew { &mut self.skewed_since } else { &mut self.lost_since };
        if !bad {
            *since = None;
            return if calm { Verdict::Calm } else { Verdict::Between };
        }
        let began = *since.get_or_insert(now_ns);
        if u128::from(now_ns.saturating_sub(began)) >= lasting_ns {
            Verdict::Over(Severity::Medium)
        } else {
            Verdict::Between
        }
    }
}

/// By how much the wall clock moved beyond boot time, ns.
fn step_ns(from: Moment, to: Moment) -> i128 {
    let wall = i128::from(to.wall_ns) - i128::from(from.wall_ns);
    wall - (i128::from(to.boot_ns) - i128::from(from.boot_ns))
}

impl Detector for ClockDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        self.on_moment(tick, out);
        if let Some(clock) = &scene.sample.clock {
            self.on_state(tick, clock, out);
        }
        for watch in &mut self.watches {
            watch.close(tick, false, out);
        }
    }

    several_watches!();
}
