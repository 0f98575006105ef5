//! The configuration, read again while the collector runs.
//!
//! Applied at once: the log's level, and how incidents and silence are judged. Every other key is named with "restart to
//! apply". The collector's journal of decisions has no notes: what came of it is in the log and in the metrics.

use std::time::Duration;

use dogwatch::config::{Keys, Problems};
use dogwatch::reload::{Changes, Origin, Outcome, Watcher, rejected};
use dogwatch::supervise::Stop;
use dogwatch::telemetry;
use tokio::sync::watch;

use crate::casework::Tuning;
use crate::config::Config;
use crate::correlate::Policy;

/// Keys and sections that are applied while the collector runs.
const LIVE: [&str; 2] = ["log.level", "incidents"];

/// The configuration as it was started with, and how to read it again.
#[derive(Debug, Clone)]
pub struct Started {
    /// The file.
    pub origin: Origin,
    /// Every key that was given.
    pub keys: Keys,
}

/// What casework goes by, as configured.
pub(super) fn tuning(config: &Config) -> Tuning {
    let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let policy = Policy { rejoin_ns: ns(config.rejoin), quiet_ns: ns(config.quiet), ..Policy::default() };
    Tuning { policy, silent_after: config.silent_after }
}

/// Reads the configuration again whenever there is a reason to, until `stop` is set.
pub(super) async fn follow(
    started: Started,
    config: Config,
    told: watch::Sender<Tuning>,
    outcome: Outcome,
    mut watcher: Watcher,
    stop: Stop,
) -> Result<(), String> {
    let mut state = State { config, keys: started.keys };
    loop {
        let path = tokio::select! {
            () = stop.wait() => return Ok(()),
            path = watcher.next() => path,
        };
        let load = move || Config::load_keys(path.as_deref(), std::env::vars());
        let loaded = tokio::task::spawn_blocking(load).await.map_err(|e| e.to_string())?;
        match state.take(loaded) {
            Ok(said) => {
                outcome.good();
                told.send_replace(tuning(&state.config));
                tracing::info!("{said}");
            }
            Err(why) => {
                outcome.bad();
                tracing::error!("{why}");
            }
        }
    }
}

struct State {
    /// What is in force, wherever it came from.
    config: Config,
    keys: Keys,
}

impl State {
    fn take(&mut self, loaded: Result<(Config, Keys), Problems>) -> Result<String, String> {
        let (new, keys) = loaded.map_err(|problems| rejected(&problems))?;
        let mut changes = Changes::between(&self.keys, &keys, &LIVE);
        changes.apply(&mut self.keys, &keys);
        let mut next = self.config.clone();
        if new.log_level != next.log_level {
            match telemetry::set_level(&new.log_level) {
                Ok(()) => next.log_level.clone_from(&new.log_level),
                Err(why) => changes.restart.push(format!("log.level ({why})")),
            }
        }
        (next.quiet, next.rejoin, next.silent_after) = (new.quiet, new.rejoin, new.silent_after);
        if format!("{next:?}") == format!("{new:?}") {
            // A default that was written out, or left out, is no change.
            changes.restart.clear();
        }
        self.config = next;
        Ok(changes.told())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_quiet_apply_at_once_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("collector.yaml");
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Config::load_keys(Some(&file), [])
        };
        let (config, keys) = load("").unwrap();
        let mut state = State { config, keys };
        let text = "incidents: { silent_after: 5s, quiet: 1m }\nretention: { urgent: { max_age: 1d } }\n";
        assert_eq!(
            state.take(load(text)).unwrap(),
            "the configuration was read again; applied: incidents.quiet, incidents.silent_after; restart to \
             apply: retention.urgent.max_age"
        );
        let now = tuning(&state.config);
        assert_eq!((now.silent_after, now.policy.quiet_ns), (Duration::from_secs(5), 60_000_000_000));
        let why = state.take(load("incidents: { silent_after: never }\n")).unwrap_err();
        assert!(why.contains("incidents.silent_after = never"), "{why}");
        assert_eq!(tuning(&state.config), now);
    }
}
