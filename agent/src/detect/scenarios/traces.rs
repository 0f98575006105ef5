//! Hours of a disk's life with known truth: what fills it and what only looks so. The detector's alarms are counted
//! against it and printed beside those of `predict_linear(available[1h], 1800) < 0` on the same figures.

use std::collections::VecDeque;

use super::super::case::{Identity, Place, Tick};
use super::super::forecast::ForecastDetector;
use super::*;

/// Alarms about less than this are asked for, s: the rule's bound.
const BOUND: u64 = 1_800;
/// Traces of each kind.
const TRACES: u64 = 5;

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * (self.number() % 10_000) as f64 / 9_999.0
    }

    fn seconds(&mut self, from: u64, to: u64) -> u64 {
        from + self.number() % (to - from + 1)
    }
}

/// Available parts of the capacity, a second each, and the second in which nothing is left.
struct Trace {
    available: Vec<f64>,
    full_at: Option<u64>,
    /// Seconds that the fill took from its beginning.
    fills_in: u64,
}

impl Trace {
    fn quiet(available: Vec<f64>) -> Self {
        Self { available, full_at: None, fills_in: 0 }
    }

    /// `before` and then a fill in `fills_in` seconds, of which `part` says how much has gone after a part of the time.
    fn fill(mut before: Vec<f64>, fills_in: u64, part: impl Fn(f64) -> f64) -> Self {
        let from = before.last().copied().unwrap_or(0.5);
        let begins = before.len() as u64;
        before.extend((0..fills_in).map(|t| (from * (1.0 - part(t as f64 / fills_in as f64))).max(0.0)));
        before.extend([0.0; 30]);
        let full = before.iter().skip(begins as usize).position(|a| *a < 0.002).unwrap_or(0) as u64;
        Self { available: before, full_at: Some(begins + full), fills_in }
    }
}

/// Ordinary life for so long: what is written and removed stays within a thousandth.
fn rest(dice: &mut Dice, from: f64, seconds: u64) -> Vec<f64> {
    (0..seconds).map(|_| from - dice.between(0.0, 0.001)).collect()
}

/// Builds: bursts of compiling and linking with pauses, then tests, then all of it is cleaned.
fn builds(dice: &mut Dice, from: f64, hours: u64) -> Vec<f64> {
    let mut out = Vec::new();
    while (out.len() as u64) < hours * 3_600 {
        let (takes, mut now) = (dice.between(0.03, 0.25) * from, from);
        while now > from - takes {
            let (seconds, speed) = (dice.seconds(5, 120), dice.between(0.0, takes / 150.0));
            for _ in 0..seconds {
                now = (now - speed * dice.between(0.2, 1.8)).max(from - takes);
                out.push(now);
            }
            // Waiting for a lock, for the network, or compiling what writes little.
            out.extend(std::iter::repeat_n(now, dice.seconds(5, 90) as usize));
        }
        let pause = dice.seconds(60, 600);
        out.extend(rest(dice, now, pause));
        let pause = dice.seconds(10, 900);
        out.extend(rest(dice, from, pause));
    }
    out
}

fn saw(dice: &mut Dice, from: f64, period: u64, takes: f64, hours: u64) -> Vec<f64> {
    (0..hours * 3_600)
        .map(|t| from - from * takes * (t % period) as f64 / period as f64 - dice.between(0.0, 0.0005))
        .collect()
}

/// A trace of this kind.
type Make = fn(&mut Dice, f64) -> Trace;

const FILLS: [(&str, Make); 8] = [
    ("fill in 5 min", |d, from| steady(d, from, 300)),
    ("fill in 10 to 30 min", |d, from| {
        let fills_in = d.seconds(600, 1_800);
        steady(d, from, fills_in)
    }),
    ("fill in 1 to 3 h", |d, from| {
        let fills_in = d.seconds(3_600, 10_800);
        steady(d, from, fills_in)
    }),
    ("fill in bursts", |d, from| {
        let before = d.seconds(60, 3_600);
        let (fills_in, steps) = (d.seconds(1_800, 5_400), d.seconds(60, 120) as f64);
        Trace::fill(rest(d, from, before), fills_in, move |p| (p * steps).floor() / steps)
    }),
    ("fill that speeds up", |d, from| {
        let (before, fills_in) = (d.seconds(60, 3_600), d.seconds(1_800, 5_400));
        Trace::fill(rest(d, from, before), fills_in, |p| 0.5 * p + 0.5 * p * p)
    }),
    ("fill under rotated logs", |d, from| {
        let (before, fills_in) = (d.seconds(60, 3_600), d.seconds(2_400, 7_200));
        let teeth = fills_in as f64 / d.between(60.0, 240.0);
        Trace::fill(rest(d, from, before), fills_in, move |p| p + 0.02 * ((p * teeth) % 1.0) * (1.0 - p))
    }),
    ("fill after builds", |d, from| {
        let fills_in = d.seconds(1_200, 3_600);
        Trace::fill(builds(d, from, 1), fills_in, |p| p)
    }),
    ("fill after a backup", |d, from| {
        let mut before = rest(d, from, 900);
        before.extend((0..120).map(|t| from - from * 0.1 * f64::from(t) / 120.0));
        before.extend(rest(d, from, 1_800));
        let fills_in = d.seconds(900, 3_600);
        Trace::fill(before, fills_in, |p| p)
    }),
];

const OTHERS: [(&str, Make); 8] = [
    ("idle", |d, from| Trace::quiet(rest(d, from, 7_200))),
    ("builds and cleans", |d, from| Trace::quiet(builds(d, from, 3))),
    ("one build, never cleaned", |d, from| {
        let mut out = rest(d, from, 900);
        let (takes, seconds) = (d.between(0.05, 0.25), d.seconds(300, 900));
        let slow = builds(d, from, 1);
        let lowest = slow.iter().copied().fold(from, f64::min);
        let end = slow.iter().position(|a| *a <= lowest).unwrap_or(0).min(seconds as usize);
        out.extend(slow.iter().take(end).map(|a| from - (from - a) * takes / 0.25));
        let now = out.last().copied().unwrap_or(from);
        out.extend(rest(d, now, 3_600));
        Trace::quiet(out)
    }),
    ("rotated logs", |d, from| {
        let (period, takes) = (d.seconds(120, 3_600), d.between(0.01, 0.12));
        Trace::quiet(saw(d, from, period, takes, 3))
    }),
    ("half of it rotated", |d, from| {
        let (period, takes) = (d.seconds(900, 1_800), d.between(0.4, 0.6));
        Trace::quiet(saw(d, from, period, takes, 4))
    }),
    ("image pulls", |d, from| {
        let (mut out, mut now) = (rest(d, from, 300), from);
        for _ in 0..5 {
            let (takes, seconds) = (d.between(0.01, 0.10) * from, d.seconds(10, 60));
            out.extend((1..=seconds).map(|t| now - takes * t as f64 / seconds as f64));
            now -= takes;
            let pause = d.seconds(60, 1_800);
            out.extend(rest(d, now, pause));
        }
        Trace::quiet(out)
    }),
    ("copies", |d, from| {
        let (mut out, takes, seconds) = (rest(d, from, 1_200), d.between(0.02, 0.15), d.seconds(60, 300));
        out.extend((1..=seconds).map(|t| from - from * takes * t as f64 / seconds as f64));
        let now = from - from * takes;
        out.extend(rest(d, now, 3_600));
        Trace::quiet(out)
    }),
    ("slow growth", |d, from| {
        let takes = d.between(0.01, 0.15);
        Trace::quiet((0..10_800).map(|t| from - from * takes * f64::from(t) / 10_800.0).collect())
    }),
];

fn steady(d: &mut Dice, from: f64, fills_in: u64) -> Trace {
    let before = d.seconds(0, 3_600);
    let jitter = d.between(0.0, 0.004);
    let swings = d.between(3.0, 40.0);
    Trace::fill(rest(d, from, before), fills_in, move |p| p + jitter * (p * swings).sin() * (1.0 - p))
}

/// When the rule raises.
fn rule(trace: &Trace, capacity: f64) -> Vec<u64> {
    let config = DetectConfig::default();
    let mut detector = ForecastDetector::new(&config.forecast, &config.disk);
    let identity = Identity { node: "node-1".parse().unwrap(), incarnation: Incarnation([1; 16]) };
    let mut raised = Vec::new();
    for (second, a) in trace.available.iter().enumerate() {
        let boot_ns = second as u64 * 1_000_000_000;
        let at = Moment { wall_ns: boot_ns as i64, boot_ns };
        let cite = identity.record(Place { stream: Stream::Recorder, seq: second as u64 + 1 });
        let tick = Tick { identity: &identity, at, cite: &cite };
        let mut said = Vec::new();
        detector.on_mount(tick, &mount("/", capacity as u64, (a * capacity) as u64), &mut said);
        raised.extend(said.iter().filter(|f| f.state == FindingState::Raised).map(|_| second as u64));
    }
    raised
}

/// When a line of least squares through an hour of readings each 15 s crosses zero within the bound, from not doing so.
fn predict_linear(trace: &Trace) -> Vec<u64> {
    let (mut window, mut alarms, mut was) = (VecDeque::new(), Vec::new(), false);
    for (t, a) in trace.available.iter().enumerate().step_by(15) {
        window.push_back((t as f64, *a));
        if window.len() > 240 {
            window.pop_front();
        }
        let n = window.len() as f64;
        let (mean_t, mean_a) = window.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
        let (mut up, mut down) = (0.0, 0.0);
        for (x, y) in &window {
            up += (x - mean_t) * (y - mean_a);
            down += (x - mean_t) * (x - mean_t);
        }
        let slope = if down > 0.0 { up / down } else { 0.0 };
        let alarm = n >= 2.0 && mean_a + slope * (t as f64 + BOUND as f64 - mean_t) < 0.0;
        if alarm && !was {
            alarms.push(t as u64);
        }
        was = alarm;
    }
    alarms
}

#[derive(Debug, Default, Clone, Copy)]
struct Score {
    fills: u64,
    /// Told with half of the time left that there was, of half an hour at most.
    in_time: u64,
    late: u64,
    missed: u64,
    /// Alarms when the disk was not full within twice the bound.
    false_alarms: u64,
    true_alarms: u64,
    left_seconds: u64,
}

impl Score {
    fn take(&mut self, trace: &Trace, alarms: &[u64]) {
        let truly = |at: u64| trace.full_at.is_some_and(|full| at <= full && full - at <= 2 * BOUND);
        let right = alarms.iter().filter(|at| truly(**at)).count() as u64;
        self.true_alarms += right;
        self.false_alarms += alarms.len() as u64 - right;
        let Some(full) = trace.full_at else { return };
        self.fills += 1;
        match alarms.iter().find(|at| truly(**at)) {
            Some(at) => {
                self.left_seconds += full - at;
                if (full - at) * 2 >= trace.fills_in.min(BOUND) { self.in_time += 1 } else { self.late += 1 }
            }
            None => self.missed += 1,
        }
    }

    fn add(&mut self, other: Score) {
        self.fills += other.fills;
        self.in_time += other.in_time;
        self.late += other.late;
        self.missed += other.missed;
        self.false_alarms += other.false_alarms;
        self.true_alarms += other.true_alarms;
        self.left_seconds += other.left_seconds;
    }

    fn precision(&self) -> f64 {
        self.true_alarms as f64 / (self.true_alarms + self.false_alarms).max(1) as f64
    }

    fn recall(&self) -> f64 {
        self.in_time as f64 / self.fills.max(1) as f64
    }

    fn row(&self) -> String {
        let told = (self.in_time + self.late).max(1);
        format!(
            "{:>5} {:>7} {:>4} {:>6} {:>5} {:>8.0}",
            self.fills,
            self.in_time,
            self.late,
            self.missed,
            self.false_alarms,
            self.left_seconds as f64 / told as f64
        )
    }
}

#[test]
fn fills_are_told_in_time_and_what_only_looks_so_is_not() {
    let (mut ours, mut theirs) = (Score::default(), Score::default());
    let head = "fills in-time late missed false left (s)";
    eprintln!("{:<26} | disk-time-to-full: {head:<21} | predict_linear 1h", "kind");
    for (kind, make) in FILLS.iter().chain(&OTHERS) {
        let (mut rules, mut lines) = (Score::default(), Score::default());
        for seed in 0..TRACES {
            let mut dice = Dice(seed * 7_919 + kind.len() as u64);
            let (capacity, from) = (dice.between(20.0, 1_000.0) * GIB as f64, dice.between(0.2, 0.8));
            let trace = make(&mut dice, from);
            let alarms = rule(&trace, capacity);
            rules.take(&trace, &alarms);
            lines.take(&trace, &predict_linear(&trace));
        }
        eprintln!("{kind:<26} | {} | {}", rules.row(), lines.row());
        ours.add(rules);
        theirs.add(lines);
        match *kind {
            // The first tooth is as any fill; those after it are known.
            "half of it rotated" => assert!(rules.false_alarms <= TRACES, "{kind}: {rules:?}"),
            _ => assert_eq!(rules.false_alarms, 0, "{kind}"),
        }
    }
    for (who, score) in [("disk-time-to-full", ours), ("predict_linear 1h", theirs)] {
        eprintln!("{who}: precision {:.3}, recall in time {:.3}", score.precision(), score.recall());
    }
    assert_eq!(ours.missed, 0);
    assert!(ours.precision() >= 0.85 && ours.recall() >= 0.95, "{ours:?}");
    assert!(ours.precision() > theirs.precision() && ours.recall() >= theirs.recall(), "{theirs:?}");
}

#[test]
fn a_disk_that_is_full_in_five_minutes_is_told_within_one() {
    for used in [0u64, 30, 60, 80] {
        let mut rig = Rig::new();
        let left = (100 - used) * GIB;
        for _ in 0..3_600 {
            rig.mounts(&[mount("/", 100 * GIB, left)]);
        }
        for t in 0..60 {
            rig.mounts(&[mount("/", 100 * GIB, left - left / 300 * t)]);
        }
        assert_eq!(rig.raised("disk-time-to-full").len(), 1, "{used} % used");
    }
}

/// The machine that made a false alarm: 252 GB with a fifth left, and a build that wrote 18.6 MiB/s for some minutes.
#[test]
fn a_build_on_a_disk_with_a_fifth_left_is_quiet() {
    for minutes in [3u64, 5, 8] {
        let mut rig = Rig::new();
        // 31 GiB at that rate are 28 minutes.
        for available in [49u64, 40, 31] {
            let now = |t: u64| available * GIB - 18_600 * MIB / 1_000 * t.min(minutes * 60);
            for t in 0..1_800 {
                rig.mounts(&[mount("/", 235 * GIB, now(t))]);
            }
            for _ in 0..1_200 {
                rig.mounts(&[mount("/", 235 * GIB, available * GIB)]);
            }
        }
        assert_eq!(rig.raised("disk-time-to-full"), [], "{minutes} min");
    }
}
