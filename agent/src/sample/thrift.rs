//! How the agent keeps below its caps: what it costs decides how often it looks.
//!
//! Pure: costs and times come in, an interval goes out. The ladder is 1, 2, 5 and 10 times the configured interval.
//!
//! *Down* (longer intervals) when the cap would be broken soon: the mean over the last minute plus what ten more seconds
//! at the present rate would add comes near the cap, and the present rate is itself near it. It goes as far down at once
//! as would suffice if all cost were the samples'. *Up* again one step at a time, after a minute, when the same reckoning
//! says that there is room; where something else than sampling costs much, so that the reckoning never says so, it is
//! tried every [`RETRY_NS`] all the same. Memory near its cap leads one step down, since records wait for less.
//!
//! Limits: what the agent spends on logs and on its journals is counted but cannot be slowed from here; if that alone
//! breaks the cap, it stays at the slowest and says so.

use std::collections::VecDeque;
use std::time::Duration;

/// Times the configured interval.
const LADDER: [u32; 4] = [1, 2, 5, 10];
const SECOND_NS: u64 = 1_000_000_000;
/// What a cap is a mean over.
const MINUTE_NS: u64 = 60 * SECOND_NS;
/// What the present rate is a mean over, at least.
const PRESENT_NS: u64 = 5 * SECOND_NS;
/// How far ahead it looks.
const AHEAD_NS: u64 = 10 * SECOND_NS;
/// Share of the cap at which to go down: the rest is for what is not foreseen.
const DOWN_AT: f64 = 0.8;
/// Share of the cap that a faster rate may be expected to cost.
const UP_AT: f64 = 0.6;
/// A faster rate is tried this often even if it is expected to cost too much.
const RETRY_NS: u64 = 10 * MINUTE_NS;
/// Costs of a minute that are remembered: one a second is exact enough, however often samples come.
const REMEMBERED: usize = 64;
/// Share of the memory cap at which there is room again.
const MEMORY_UP_AT: f64 = 0.7;

/// What the agent may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Caps {
    /// Share of one CPU, over a minute.
    pub cpu: f64,
    /// Resident set, bytes.
    pub memory_bytes: u64,
}

impl Default for Caps {
    /// 5 % of one CPU: ten times what it costs on an ordinary node, and still a node's smallest change. 64 MiB: three
    /// times what it holds with everything on.
    fn default() -> Self {
        Self { cpu: 0.05, memory_bytes: 64 << 20 }
    }
}

/// A change of pace.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// From now on.
    pub every: Duration,
    /// Whether that is less often than configured.
    pub saving: bool,
    /// Why, with figures.
    pub why: String,
}

/// Decides the pace.
#[derive(Debug)]
pub struct Thrift {
    caps: Caps,
    base: Duration,
    step: usize,
    changed_ns: u64,
    /// (boot ns, CPU µs), oldest first.
    costs: VecDeque<(u64, u64)>,
}

impl Thrift {
    /// At the pace `base`.
    pub fn new(caps: Caps, base: Duration) -> Self {
        Self { caps, base, step: 0, changed_ns: 0, costs: VecDeque::new() }
    }

    /// The interval now.
    pub fn every(&self) -> Duration {
        self.base * LADDER[self.step]
    }

    /// Whether that is longer than configured.
    pub fn is_saving(&self) -> bool {
        self.step > 0
    }

    /// Takes in what the agent has cost by `boot_ns`: CPU time since its start, and its resident set now.
    pub fn on_cost(&mut self, boot_ns: u64, cpu_us: u64, resident_bytes: u64) -> Option<Pace> {
        self.remember(boot_ns, cpu_us);
        let present = self.rate_over(boot_ns, PRESENT_NS)?;
        let minute = self.rate_over(boot_ns, MINUTE_NS).unwrap_or(present);
        let covered = self.covered_ns(boot_ns).min(MINUTE_NS) as f64 / MINUTE_NS as f64;
        let since_change = boot_ns.saturating_sub(self.changed_ns);
        let every_ns = self.every().as_nanos() as u64;
        if since_change < PRESENT_NS.max(3 * every_ns) && self.changed_ns != 0 {
            return None;
        }
        let ahead = minute * covered + present * (AHEAD_NS as f64 / MINUTE_NS as f64);
        let near = DOWN_AT * self.caps.cpu;
        let memory_is_near = resident_bytes as f64 > DOWN_AT * self.caps.memory_bytes as f64;
        let slowest = LADDER.len() - 1;
        if present > near && ahead > near && self.step < slowest {
            let now = f64::from(LADDER[self.step]);
            let fits = |s: &usize| present * now / f64::from(LADDER[*s]) <= near;
            let step = (self.step + 1..slowest).find(fits).unwrap_or(slowest);
            return Some(self.change(step, boot_ns, minute, present, resident_bytes));
        }
        if memory_is_near && self.step < slowest && since_change >= MINUTE_NS {
            return Some(self.change(self.step + 1, boot_ns, minute, present, resident_bytes));
        }
        if self.step == 0
            || since_change < MINUTE_NS
            || resident_bytes as f64 > MEMORY_UP_AT * self.caps.memory_bytes as f64
        {
            return None;
        }
        let faster = minute.max(present) * f64::from(LADDER[self.step]) / f64::from(LADDER[self.step - 1]);
        let room = UP_AT * self.caps.cpu;
        let may_try = since_change >= RETRY_NS && minute.max(present) <= room;
        (faster <= room || may_try)
            .then(|| self.change(self.step - 1, boot_ns, minute, present, resident_bytes))
    }

    fn change(&mut self, step: usize, boot_ns: u64, minute: f64, present: f64, resident_bytes: u64) -> Pace {
        let (before, down) = (self.every(), step > self.step);
        self.step = step;
        self.changed_ns = boot_ns.max(1);
        let figures = format!(
            "it used {:.1} % of a CPU over the last minute, {:.1} % now, of {:.1} % allowed, and {:.0} MiB of {:.0} MiB",
            minute * 100.0,
            present * 100.0,
            self.caps.cpu * 100.0,
            resident_bytes as f64 / 1_048_576.0,
            self.caps.memory_bytes as f64 / 1_048_576.0,
        );
        let what = if down { "to stay below its caps" } else { "as there is room again" };
        let why = format!("samples every {:?} instead of {before:?} {what}: {figures}", self.every());
        Pace { every: self.every(), saving: self.is_saving(), why }
    }

    fn remember(&mut self, boot_ns: u64, cpu_us: u64) {
        // A clock or a counter that goes back is another's: nothing before it can be compared.
        if self.costs.back().is_some_and(|(at, us)| boot_ns < *at || cpu_us < *us) {
            self.costs.clear();
            self.changed_ns = self.changed_ns.min(boot_ns);
        }
        // The newest is replaced until a second has passed since the one before it.
        let n = self.costs.len();
        if n >= 2 && boot_ns - self.costs[n - 2].0 < SECOND_NS {
            self.costs.pop_back();
        }
        self.costs.push_back((boot_ns, cpu_us));
        while self.costs.len() > 2
            && (self.costs.len() > REMEMBERED || boot_ns.saturating_sub(self.costs[1].0) >= MINUTE_NS)
        {
            self.costs.pop_front();
        }
    }

    fn covered_ns(&self, boot_ns: u64) -> u64 {
        self.costs.front().map_or(0, |(at, _)| boot_ns.saturating_sub(*at))
    }

    /// Share of a CPU used over the last `span_ns`, or a little more where costs came seldom; `None`: not known yet.
    fn rate_over(&self, boot_ns: u64, span_ns: u64) -> Option<f64> {
        let (_, now_us) = *self.costs.back()?;
        let old_enough = |(at, _): &&(u64, u64)| boot_ns.saturating_sub(*at) >= span_ns;
        let (at, us) = match self.costs.iter().rev().find(old_enough) {
            Some(cost) => *cost,
            None if span_ns > PRESENT_NS => *self.costs.front()?,
            None => return None,
        };
        let elapsed_us = (boot_ns.saturating_sub(at) / 1_000) as f64;
        (elapsed_us > 0.0).then(|| (now_us - us) as f64 / elapsed_us)
    }
}

#[cfg(test)]
#[path = "thrift_tests.rs"]
mod tests;
