//! The figures of now, as the core tells them at each tick and the uplink sends them now and then.
//!
//! Kept as the core has them: they become a message when one is sent, which most of them never are.

use std::sync::Arc;

use dogwatch::record::Sample;
use dogwatch::wire;

use crate::act::work::Progress;
use crate::detect::Forecast;

/// Figures of one tick.
#[derive(Debug, Clone)]
pub struct Pulse {
    /// When they were taken.
    pub wall_ns: i64,
    /// The sample.
    pub sample: Arc<Sample>,
    /// Records since the start.
    pub records_total: u64,
    /// What this agent cannot see or do, in words.
    pub unable: Arc<[String]>,
    /// Mounts that fill up.
    pub forecasts: Arc<[Forecast]>,
    /// Cleanups that are being carried out.
    pub acting: Vec<Progress>,
    /// What is kept aside for each hold, as far as all of it was looked at.
    pub held_aside: Arc<[wire::HeldAside]>,
    /// Records of the evidence stream that are not acknowledged.
    pub uplink_lag_records: u64,
}

impl From<&Pulse> for wire::Pulse {
    fn from(pulse: &Pulse) -> Self {
        let forecast =
            |f: &Forecast| wire::Forecast { mount: f.mount.clone(), seconds_to_full: f.seconds_to_full };
        Self {
            wall_ns: pulse.wall_ns,
            sample: Some((&*pulse.sample).into()),
            records_total: pulse.records_total,
            unable: pulse.unable.to_vec(),
            forecasts: pulse.forecasts.iter().map(forecast).collect(),
            uplink_lag_records: pulse.uplink_lag_records,
            acting: pulse.acting.iter().map(progress).collect(),
            held_aside: pulse.held_aside.to_vec(),
        }
    }
}

fn progress(of: &Progress) -> wire::ActionProgress {
    let Progress { action_id, objects, objects_done, freed_bytes } = of.clone();
    wire::ActionProgress { action_id, objects, objects_done, freed_bytes }
}
