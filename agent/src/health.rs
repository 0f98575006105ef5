//! The agent's own figures, for `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dogwatch::health::Health;
use dogwatch::record::Stream;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

use crate::record::Recorder;
use crate::uplink::UplinkStatus;

/// Counters that the parts keep; each is a sum since the start unless it says otherwise.
#[derive(Debug, Default)]
pub struct Figures {
    /// Samples taken.
    pub samples: AtomicU64,
    /// Ticks that began late or not at all.
    pub late_ticks: AtomicU64,
    /// Findings said, all states.
    pub findings: AtomicU64,
    /// Findings active now.
    pub active_findings: AtomicU64,
    /// Lines that matched a rule.
    pub log_matches: AtomicU64,
    /// Plans made.
    pub plans: AtomicU64,
    /// Cleanups carried out.
    pub cleanups: AtomicU64,
    /// Cleanups that failed.
    pub failed_cleanups: AtomicU64,
    /// Cleanups refused.
    pub refused_cleanups: AtomicU64,
    /// Bytes that cleanups freed.
    pub freed_bytes: AtomicU64,
    /// Holds in force on this node.
    pub holds: AtomicU64,
    /// CPU time of agent and executor, µs.
    pub cpu_us: AtomicU64,
    /// Resident set of agent and executor now, bytes.
    pub resident_bytes: AtomicU64,
    /// Interval of samples now, ms.
    pub every_ms: AtomicU64,
    /// Whether that is longer than configured.
    pub saving: AtomicBool,
}

#[derive(Debug)]
struct Export {
    figures: Arc<Figures>,
    recorder: Recorder,
    uplink: Option<watch::Receiver<UplinkStatus>>,
}

impl Collector for Export {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut counter = |name: &str, help: &str, value: u64| {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        let f = &self.figures;
        let get = |v: &AtomicU64| v.load(Ordering::Relaxed);
        counter("samples", "Samples taken", get(&f.samples))?;
        counter("late_ticks", "Ticks that began late or not at all", get(&f.late_ticks))?;
        counter("findings", "Findings said, all states", get(&f.findings))?;
        counter("log_matches", "Log lines that matched a rule", get(&f.log_matches))?;
        counter("plans", "Cleanup plans made", get(&f.plans))?;
        counter("cleanups", "Cleanups carried out", get(&f.cleanups))?;
        counter("cleanups_failed", "Cleanups that failed", get(&f.failed_cleanups))?;
        counter("cleanups_refused", "Cleanups refused", get(&f.refused_cleanups))?;
        counter("cleanup_freed_bytes", "Bytes that cleanups freed", get(&f.freed_bytes))?;
        let stats = self.recorder.stats();
        counter("records_dropped", "Records given up; each is told in a gap record", stats.dropped)?;
        if let Some(uplink) = &self.uplink {
            let status = uplink.borrow().clone();
            counter("uplink_connections", "Connections made to the collector", status.connections)?;
            counter("uplink_blocks_acknowledged", "Blocks acknowledged", status.acknowledged_blocks)?;
            counter("uplink_blocks_refused", "Blocks refused for good and set aside", status.refused_blocks)?;
        }
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        gauge("active_findings", "Findings active now", None, get(&f.active_findings) as f64)?;
        gauge("resident", "Resident set", Some(&Unit::Bytes), get(&f.resident_bytes) as f64)?;
        let every = get(&f.every_ms) as f64 / 1e3;
        gauge("sample_interval", "Interval of samples now", Some(&Unit::Seconds), every)?;
        let saving = f64::from(u8::from(f.saving.load(Ordering::Relaxed)));
        gauge(
            "saving",
            "1 while samples come less often than configured, to stay below the caps",
            None,
            saving,
        )?;
        gauge("queue", "Bytes that wait to be sealed", Some(&Unit::Bytes), stats.queue_bytes as f64)?;
        gauge(
            "journal_failing",
            "1 while the journal cannot be written",
            None,
            f64::from(u8::from(stats.failing.is_some())),
        )?;
        let mut by_stream = |name: &str, help: &str, value: &dyn Fn(usize) -> f64| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for stream in Stream::ALL {
                let label = [("stream", stream.as_str())];
                let labelled = metric.encode_family(&label)?;
                ConstGauge::new(value(stream.index())).encode(labelled)?;
            }
            Ok(())
        };
        by_stream("unacknowledged_blocks", "Blocks that wait for the collector", &|i| {
            stats.unacked_blocks[i] as f64
        })?;
        if let Some(uplink) = &self.uplink {
            let connected = uplink.borrow().connected;
            by_stream("uplink_connected", "1 while the stream's call is open", &|i| {
                f64::from(u8::from(connected[i]))
            })?;
        }
        let cpu = ConstCounter::new(get(&f.cpu_us) as f64 / 1e6);
        let help = "CPU time of agent and executor since start";
        cpu.encode(encoder.encode_descriptor("cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)?;
        Ok(())
    }
}

/// What the agent serves.
pub fn build(
    figures: Arc<Figures>,
    recorder: Recorder,
    uplink: Option<watch::Receiver<UplinkStatus>>,
) -> Health {
    let mut registry = Registry::with_prefix("dogwatch_agent");
    let ready_figures = Arc::clone(&figures);
    let ready_recorder = recorder.clone();
    registry.register_collector(Box::new(Export { figures, recorder, uplink }));
    Health {
        registry: Arc::new(registry),
        refresh: Arc::new(|| ()),
        ready: Arc::new(move || {
            if ready_figures.samples.load(Ordering::Relaxed) == 0 {
                return Err("no sample was taken yet".to_owned());
            }
            match ready_recorder.stats().failing {
                Some(e) => Err(format!("the journal cannot be written: {e}")),
                None => Ok(()),
            }
        }),
    }
}
