//! `disk-time-to-full`: a filesystem that will be full soon if it goes on like this.
//!
//! Raised when all of this holds for some samples in a row: available bytes fall steadily (see [`super::trend`]), at
//! the present rate they last for less than the bound, a tenth of them is gone already, and the mount has not
//! been as low and come back before. So neither one burst nor a log that is rotated raises it, and a steady fill does
//! while most of the time is left. Never on read-only mounts.
//!
//! The first tooth of a saw that takes more than a tenth of what is available looks as any fill and is raised as one.

use std::collections::HashMap;
use std::time::Duration;

use dogwatch::record::{Fact, Finding, Mount, Severity, Subject};

use super::Forecast;
use super::case::{Case, Statement, Tick};
use super::config::{DiskConfig, ForecastConfig};
use super::trend::{Fall, History, Point};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "disk-time-to-full";

/// Troughs below this available fraction do not count as a saw's: there was no room to come back in time.
const SAFE_TROUGH: f64 = 0.05;

/// With less available than this fraction it does not fall any more because it is full: that clears nothing.
const FULL: f64 = 0.01;

/// A forecast beyond this is not worth a word.
const HORIZON_SECONDS: f64 = 30.0 * 86_400.0;

/// Watches how fast mounts fill.
#[derive(Debug)]
pub(super) struct ForecastDetector {
    config: ForecastConfig,
    disk: DiskConfig,
    mounts: HashMap<String, Trend>,
}

#[derive(Debug, Default)]
struct Trend {
    history: History,
    forecast: Option<Projection>,
    streak: u32,
    calm: u32,
    case: Option<Case>,
}

/// When a mount would be full.
#[derive(Debug, Clone, Copy)]
struct Projection {
    fall: Fall,
    seconds: f64,
}

impl ForecastDetector {
    pub(super) fn new(config: &ForecastConfig, disk: &DiskConfig) -> Self {
        Self { config: config.clone(), disk: disk.clone(), mounts: HashMap::new() }
    }

    /// Continues an earlier run's finding; false where there is one already.
    pub(super) fn seed(&mut self, finding: &Finding) -> bool {
        let trend = self.mounts.entry(finding.subject.name.clone()).or_default();
        if trend.case.is_some() {
            return false;
        }
        trend.case = Some(Case::resume(finding.clone()));
        true
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Finding> {
        self.mounts.values().filter_map(|t| t.case.as_ref()).map(Case::finding)
    }

    /// Every mount that falls, soonest full first.
    pub(super) fn forecasts(&self) -> Vec<Forecast> {
        let mut forecasts: Vec<Forecast> = self
            .mounts
            .iter()
            .filter_map(|(path, trend)| {
                let p = trend.forecast?;
                Some(Forecast {
                    mount: path.clone(),
                    seconds_to_full: p.seconds,
                    bytes_per_second: p.fall.per_second,
                })
            })
            .collect();
        forecasts.sort_by(|a, b| {
            a.seconds_to_full.total_cmp(&b.seconds_to_full).then_with(|| a.mount.cmp(&b.mount))
        });
        forecasts
    }

    pub(super) fn on_mount(&mut self, tick: Tick<'_>, mount: &Mount, out: &mut Vec<Finding>) {
        let config = &self.config;
        let trend = match self.mounts.get_mut(&mount.path) {
            Some(trend) => trend,
            None => self.mounts.entry(mount.path.clone()).or_default(),
        };
        let watched = !mount.read_only && !self.disk.ignore.contains(&mount.path);
        if watched {
            let place = tick.cite.into();
            trend.history.push(Point { ns: tick.at.boot_ns, value: mount.available_bytes, place });
        } else {
            trend.history = History::default();
        }
        trend.forecast = trend.project(config, mount);
        let soon = trend.forecast.filter(|p| p.seconds < config.bound.as_secs_f64());
        match &mut trend.case {
            None => {
                let raised = soon.filter(|_| trend.is_material(config, mount));
                trend.streak = if raised.is_some() { trend.streak.saturating_add(1) } else { 0 };
                if let Some(p) = raised.filter(|_| trend.streak >= config.raise_ticks) {
                    let subject = Subject::new("mount", mount.path.as_str());
                    let case = Case::raise(tick, RULE, subject, statement(config, tick, mount, p));
                    out.push(case.finding().clone());
                    trend.case = Some(case);
                    trend.calm = 0;
                }
            }
            Some(case) => {
                let distant = |p: Projection| p.seconds > 2.0 * config.bound.as_secs_f64();
                let full = mount.available_fraction() < FULL;
                let told = !watched || trend.history.spans(config.min_history.as_nanos() as u64);
                let calm = !(full && watched) && told && trend.forecast.is_none_or(distant);
                trend.calm = if calm { trend.calm.saturating_add(1) } else { 0 };
                if trend.calm >= config.clear_ticks {
                    if let Some(case) = trend.case.take() {
                        out.push(clear(config, case, tick, mount, watched));
                    }
                    trend.streak = 0;
                } else if let Some(p) = soon
                    && (severity(config, p.seconds) > case.finding().severity
                        || case.is_due(tick.at, config.update_interval))
                {
                    out.push(case.update(tick, statement(config, tick, mount, p)));
                }
            }
        }
    }

    /// The filesystem at `path` is gone, for the reason given.
    pub(super) fn forget(&mut self, tick: Tick<'_>, path: &str, why: &str, out: &mut Vec<Finding>) {
        if let Some(case) = self.mounts.remove(path).and_then(|t| t.case) {
            let summary = format!("{path} is not watched any more: {why}");
            let explanation =
                "Cleared because the filesystem went, not because it stopped filling.".to_owned();
            out.push(case.clear(tick, summary, explanation, Vec::new()));
        }
    }
}

impl Trend {
    fn project(&self, config: &ForecastConfig, mount: &Mount) -> Option<Projection> {
        let floor = config.noise_floor_bytes.max(mount.total_bytes / 1000);
        let seconds = |rate: f64| mount.available_bytes as f64 / rate;
        let urgent = config.bound.as_secs_f64() / 3.0;
        let min_history = config.min_history.as_nanos() as u64;
        let fall = self.history.fall(min_history, floor, |rate| seconds(rate) < urgent)?;
        let safe = (mount.total_bytes as f64 * SAFE_TROUGH) as u64;
        let projection = Projection { fall, seconds: seconds(fall.per_second) };
        (projection.seconds < HORIZON_SECONDS && !self.history.came_back_from_here(safe))
            .then_some(projection)
    }

    /// Whether enough of what was available is gone.
    fn is_material(&self, config: &ForecastConfig, mount: &Mount) -> bool {
        self.history.peak().is_some_and(|peak| {
            let lost = peak.saturating_sub(mount.available_bytes);
            lost as f64 >= peak as f64 * config.min_drop_fraction && lost > 0
        })
    }
}

fn severity(config: &ForecastConfig, seconds: f64) -> Severity {
    if seconds < config.critical.as_secs_f64() { Severity::Critical } else { Severity::High }
}

fn statement(config: &ForecastConfig, tick: Tick<'_>, mount: &Mount, p: Projection) -> Statement {
    let window = tick.at.boot_ns.saturating_sub(p.fall.since.ns) as f64 / 1e9;
    let in_words = |d: Duration| words::duration(d.as_secs_f64());
    Statement {
        severity: severity(config, p.seconds),
        summary: format!(
            "{} will be full in about {}: {} available, falling by {}/s",
            mount.path,
            words::duration(p.seconds),
            words::bytes(mount.available_bytes as f64),
            words::bytes(p.fall.per_second),
        ),
        explanation: format!(
            "Available bytes fell in each third of the last {} and went from {} to {}; the rate is the median of the \
             slopes between all points of that window (Theil-Sen), and the forecast assumes that it stays. Raised when \
             the time left is below {} for {} samples, at least {} of what was available within 15 min is gone, \
             and it has not been as low and come back in that time; critical below {}. Cleared after {} samples \
             without a forecast below twice the bound.",
            words::duration(window),
            words::bytes(p.fall.since.value as f64),
            words::bytes(mount.available_bytes as f64),
            in_words(config.bound),
            config.raise_ticks,
            words::percent(config.min_drop_fraction),
            in_words(config.critical),
            config.clear_ticks,
        ),
        facts: vec![
            Fact::new("seconds_to_full", format!("{:.0}", p.seconds)),
            Fact::new("fill_bytes_per_second", format!("{:.0}", p.fall.per_second)),
            Fact::new("available_bytes", mount.available_bytes),
            Fact::new("total_bytes", mount.total_bytes),
            Fact::new("window_seconds", format!("{window:.0}")),
            Fact::new("window_start_available_bytes", p.fall.since.value),
            Fact::new("bound_seconds", config.bound.as_secs()),
            Fact::new("device_name", &mount.device),
        ],
        since: vec![tick.identity.record(p.fall.since.place)],
        pod: None,
    }
}

fn clear(config: &ForecastConfig, case: Case, tick: Tick<'_>, mount: &Mount, watched: bool) -> Finding {
    let available = words::bytes(mount.available_bytes as f64);
    let (summary, why) = if watched {
        let summary = format!("{} does not fill any more: {available} available", mount.path);
        let why = format!(
            "For {} samples in a row there was no steady fall that would fill it within {}.",
            config.clear_ticks,
            words::duration(2.0 * config.bound.as_secs_f64()),
        );
        (summary, why)
    } else {
        let summary = format!("{} is not forecast any more: {available} available", mount.path);
        (summary, "It is read-only, or its forecast was switched off in the configuration.".to_owned())
    };
    case.clear(tick, summary, why, vec![Fact::new("available_bytes", mount.available_bytes)])
}
