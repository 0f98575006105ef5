//! The page of `/metrics`. A scrape reads memory alone.
//!
//! Every label has a bounded set of values: streams, severities, classes of gaps, and as many rules as
//! [`Figures`] tells apart.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dogwatch::health::Page;
use dogwatch::record::{CleanupMode, GAP_CLASSES, Stream};
use dogwatch::reload::Outcome;
use dogwatch::telemetry;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::watch;

use super::Figures;
use crate::record::{RecordStats, Recorder};
use crate::tail::Counts;
use crate::uplink::UplinkStatus;

/// Where the figures come from.
#[derive(Debug)]
pub struct Sources {
    /// The parts'.
    pub figures: Arc<Figures>,
    /// The record's.
    pub recorder: Recorder,
    /// The tail's; `None` where files are not read.
    pub tail: Option<Counts>,
    /// The uplink's; `None` without a collector.
    pub uplink: Option<watch::Receiver<UplinkStatus>>,
    /// How the configuration was read last.
    pub reload: Outcome,
}

/// [`Sources`] since a moment.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) sources: Sources,
    pub(super) started: Instant,
}

fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

impl Collector for Export {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        let stats = self.sources.recorder.stats();
        page.build(env!("CARGO_PKG_VERSION"))?;
        self.sources.reload.export(&mut page)?;
        let pending = get(&self.sources.figures.config_pending_keys) as f64;
        let help = "Keys of the configuration on disk that need a restart to apply; 0: all of it is in force";
        page.gauge("config_pending_keys", help, pending)?;
        self.watching(&mut page)?;
        self.logs(&mut page)?;
        self.cleanups(&mut page)?;
        self.ballast(&mut page)?;
        record(&mut page, &stats)?;
        self.uplink(&mut page, &stats)
    }
}

impl Export {
    fn watching(&self, page: &mut Page<'_>) -> fmt::Result {
        let f = &self.sources.figures;
        page.counter("samples", "Samples taken", get(&f.samples))?;
        page.counter("late_ticks", "Ticks that began late or not at all", get(&f.late_ticks))?;
        page.gauge("sample_interval_seconds", "Interval of samples now", get(&f.every_ms) as f64 / 1e3)?;
        let saving = f.saving.load(Ordering::Relaxed);
        page.flag(
            "saving",
            "1 while samples come less often than configured, to stay below the caps",
            saving,
        )?;
        page.counter("cap_hits", "Times that samples became rarer to stay below a cap", get(&f.cap_hits))?;
        page.measured(
            "cpu_seconds",
            "CPU time of agent and executor since start",
            get(&f.cpu_us) as f64 / 1e6,
        )?;
        page.gauge("resident_bytes", "Resident set of agent and executor", get(&f.resident_bytes) as f64)?;
        page.gauge("holds", "Holds in force on this node", get(&f.holds) as f64)?;
        page.counter("findings", "Findings said, all states", get(&f.findings))?;
        let active = f.active();
        let active = active.iter().map(|((rule, severity), n)| {
            ([("rule", rule.as_str()), ("severity", severity.as_str())], *n as f64)
        });
        page.gauges("active_findings", "Findings that are active, by rule and severity", active)
    }

    fn logs(&self, page: &mut Page<'_>) -> fmt::Result {
        let f = &self.sources.figures;
        page.counter("log_matches", "Log lines that matched a rule", get(&f.log_matches))?;
        if let Some(tail) = &self.sources.tail {
            let read = tail.get();
            page.counter("tail_lines", "Lines of log files that were read", read.lines)?;
            page.counter("tail_read_bytes", "Bytes of log files that were read", read.bytes)?;
            page.gauge("tail_open_files", "Log files that are followed", read.open_files as f64)?;
        }
        let lost = "Lines of log files that were lost, as far as known; each gap tells of some";
        page.counter("tail_lost_lines", lost, get(&f.tail_lost_lines))?;
        let lost = "Bytes of log files that were lost, as far as known";
        page.counter("tail_lost_bytes", lost, get(&f.tail_lost_bytes))?;
        page.counter(
            "kernel_lines",
            "Messages of the kernel's log that were recorded",
            get(&f.kernel_lines),
        )?;
        page.counter("kernel_read_bytes", "Bytes of those messages", get(&f.kernel_bytes))?;
        let lost = "Messages of the kernel's log that were lost, as far as known";
        page.counter("kernel_lost_lines", lost, get(&f.kernel_lost_lines))
    }

    fn cleanups(&self, page: &mut Page<'_>) -> fmt::Result {
        let f = &self.sources.figures;
        page.counter("plans", "Cleanup plans made", get(&f.plans))?;
        page.counter("cleanups", "Cleanups carried out", get(&f.cleanups))?;
        page.counter("cleanups_failed", "Cleanups that failed", get(&f.failed_cleanups))?;
        let help = "Cleanups refused; plans that were not needed are not among them";
        page.counter("cleanups_refused", help, get(&f.refused_cleanups))?;
        let help = "Plans, a person's or the node's, of a mount that has the room that is wanted";
        page.counter("cleanups_not_needed", help, get(&f.needless_plans))?;
        let waiting = get(&f.cleanups_waiting) as f64;
        page.gauge("cleanups_waiting", "Cleanups that wait for leave to begin", waiting)?;
        let help = "How long the cleanup has waited for leave that waits for longest; 0: none waits";
        page.gauge("cleanup_waiting_seconds", help, get(&f.cleanup_waiting_ms) as f64 / 1e3)?;
        let help =
            "How long the look, cleanup or upkeep has been under way that all others wait for; 0: none is";
        page.gauge("cleanup_job_seconds", help, get(&f.cleanup_job_ms) as f64 / 1e3)?;
        page.counter("cleanup_freed_bytes", "Bytes that cleanups freed", get(&f.freed_bytes))?;
        let help = "Objects that cleanups removed, or cut to their tail";
        page.counter("cleanup_removed_objects", help, get(&f.removed_objects))?;
        let help = "Objects of plans that cleanups left: changed since, open, held, or failed";
        page.counter("cleanup_left_objects", help, get(&f.left_objects))?;
        let Some(now) = f.cleanup() else { return Ok(()) };
        let modes = [CleanupMode::Off, CleanupMode::Plan, CleanupMode::Auto];
        let modes = modes.map(|m| ([("mode", m.as_str())], f64::from(u8::from(m == now.mode))));
        page.gauges("cleanup_mode", "1 for what cleanup may do: off, plan or auto", modes)?;
        let help = "Mounts that are left alone because they filled again after each cleanup";
        page.gauge("cleanup_left_alone_mounts", help, now.left_alone as f64)?;
        let help = "Mounts that are short of room and have nothing that may go";
        page.gauge("cleanup_nothing_to_clean_mounts", help, now.nothing_to_clean as f64)
    }

    fn ballast(&self, page: &mut Page<'_>) -> fmt::Result {
        let f = &self.sources.figures;
        page.gauge(
            "ballast_bytes",
            "Bytes held to be given up first on a full disk",
            get(&f.ballast_bytes) as f64,
        )?;
        page.gauge("ballast_inodes", "Inodes held to be given up first", get(&f.ballast_inodes) as f64)?;
        page.counter("ballast_given_up", "Times that ballast was given up", get(&f.ballast_given_up))?;
        let help = "Lines of the agent's own log that could not be written";
        page.counter("own_log_lines_dropped", help, telemetry::dropped_lines())
    }

    fn uplink(&self, page: &mut Page<'_>, stats: &RecordStats) -> fmt::Result {
        let blocks = by_stream(&stats.unacked_blocks);
        page.gauges("unacknowledged_blocks", "Blocks that wait for the collector", blocks)?;
        let Some(uplink) = &self.sources.uplink else { return Ok(()) };
        let status = uplink.borrow().clone();
        let connected =
            Stream::ALL.map(|s| ([("stream", s.as_str())], f64::from(u8::from(status.connected[s.index()]))));
        page.gauges("uplink_connected", "1 while the stream's call is open", connected)?;
        let since = Stream::ALL.map(|s| {
            let from = status.acknowledged_at[s.index()].unwrap_or(self.started);
            ([("stream", s.as_str())], from.elapsed().as_secs_f64())
        });
        let help = "Since the collector acknowledged a block, or since the start";
        page.gauges("uplink_since_acknowledgement_seconds", help, since)?;
        page.counter("uplink_connections", "Connections made to the collector", status.connections)?;
        page.counter("uplink_blocks_acknowledged", "Blocks acknowledged", status.acknowledged_blocks)?;
        let help = "Blocks refused for good and set aside";
        page.counter("uplink_blocks_refused", help, status.refused_blocks)
    }
}

fn record(page: &mut Page<'_>, stats: &RecordStats) -> fmt::Result {
    let help = "Records given up; each is told in a gap record";
    page.counter("records_dropped", help, stats.dropped)?;
    // Zeros are told too: an increase from nothing is none.
    let gaps = GAP_CLASSES.into_iter().chain(["other"]);
    let gaps = gaps.map(|class| ([("reason", class)], stats.gaps.get(class).copied().unwrap_or(0)));
    page.counters("gaps", "Gaps said, by class of reason", gaps)?;
    page.gauges("queue_bytes", "Bytes that wait to be sealed", by_stream(&stats.queued_bytes))?;
    page.gauges("journal_used_bytes", "Bytes in the journal's ring", by_stream(&stats.journal_used_bytes))?;
    page.gauges("journal_limit_bytes", "Size of the journal's ring", by_stream(&stats.journal_limit_bytes))?;
    page.flag("journal_failing", "1 while the journal cannot be written", stats.failing.is_some())
}

fn by_stream(values: &[u64; 3]) -> [([(&'static str, &'static str); 1], f64); 3] {
    Stream::ALL.map(|s| ([("stream", s.as_str())], values[s.index()] as f64))
}
