//! `disk-time-to-full`: a filesystem that will be full soon if it goes on like this.
//!
//! Raised when, for some samples in a row, available bytes fall steadily and at their rate last for less than the bound. The
//! longer the time that a fall leaves, the longer it must have lasted (see [`super::trend`]): a claim of half an hour has a
//! quarter of an hour behind it, one of five minutes fifty seconds. So a build, a burst or a log that is rotated raises
//! nothing, and a steady fill is told while most of its time is left. Never on read-only mounts.
//!
//! The first tooth of a saw that takes a large part of what is available looks as any fill and is raised as one.

use std::collections::HashMap;
use std::time::Duration;

use dogwatch::record::{Fact, Finding, Mount, Severity, Subject};

use super::Forecast;
use super::case::{Case, Statement, Tick};
use super::config::{DiskConfig, ForecastConfig};
use super::outlook::{Projection, project};
use super::trend::{History, Point, evidence_seconds};
use super::words;

/// Rule name.
pub(super) const RULE: &str = "disk-time-to-full";

/// With less available than this fraction it does not fall any more because it is full: that clears nothing.
const FULL: f64 = 0.01;

/// A finding outlives its last forecast by this part of the time that it left, so that a pause is no end of it.
const PAUSE: f64 = 1.0 / 6.0;

/// Samples by which it does so at most.
const MAX_PAUSE_TICKS: u32 = 600;

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
    /// Seconds that the last forecast of the active finding left.
    left: f64,
    case: Option<Case>,
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
        trend.forecast = project(&trend.history, config, mount.available_bytes, mount.total_bytes);
        let soon = trend.forecast.filter(|p| p.seconds < config.bound.as_secs_f64());
        match &mut trend.case {
            None => {
                trend.streak = if soon.is_some() { trend.streak.saturating_add(1) } else { 0 };
                if let Some(p) = soon.filter(|_| trend.streak >= config.raise_ticks) {
                    let subject = Subject::new("mount", mount.path.as_str());
                    let case = Case::raise(tick, RULE, subject, statement(config, tick, mount, p));
                    out.push(case.finding().clone());
                    trend.case = Some(case);
                    (trend.calm, trend.left) = (0, p.seconds);
                }
            }
            Some(case) => {
                let distant = |p: Projection| p.seconds > 2.0 * config.bound.as_secs_f64();
                let full = mount.available_fraction() < FULL;
                let told = !watched || trend.history.spans(config.min_history.as_nanos() as u64);
                let calm = !(full && watched) && told && trend.forecast.is_none_or(distant);
                trend.calm = if calm { trend.calm.saturating_add(1) } else { 0 };
                trend.left = soon.map_or(trend.left, |p| p.seconds);
                let pause = ((trend.left * PAUSE) as u32).min(MAX_PAUSE_TICKS);
                if trend.calm >= config.clear_ticks.max(pause) {
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
            "Available bytes fell in each sixth of the last {} and went from {} to {}, in the second half no less than half \
             as fast as in all of it; the rate is the median of the slopes between all points of that window \
             (Theil-Sen), and the forecast assumes that it stays. For this much time left a fall must have lasted for {} \
             (a sixth of what is left up to 5 min, half of it from 20 min on) and have taken {} of the capacity, and within \
             six hours the filesystem has not been as low and come back. Raised when the time left is below {} for {} \
             samples; critical below {}. Cleared after {} samples, and a sixth of the time that was left, without a \
             forecast below twice the bound.",
            words::duration(window),
            words::bytes(p.fall.since.value as f64),
            words::bytes(mount.available_bytes as f64),
            words::duration(evidence_seconds(p.seconds).max(config.min_history.as_secs_f64())),
            words::percent(config.min_loss_of_capacity),
            in_words(config.bound),
            config.raise_ticks,
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
