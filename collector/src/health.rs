//! The collector's own figures, for `/metrics`, `/healthz` and `/readyz`.
//!
//! A scrape reads memory alone: what must be counted is counted by [`crate::census`]. Every label has a bounded set of
//! values: streams, states, severities, verbs, outcomes, reasons, and as many rules as the census tells apart.

use std::fmt;
use std::sync::Arc;

use dogwatch::clock;
use dogwatch::health::{Health, Page};
use dogwatch::record::GAP_CLASSES;
use dogwatch::record::{Severity, Stream};
use dogwatch::reload::Outcome;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use crate::admit::refusals::RefusalSender;
use crate::brake::Handle as Brake;
use crate::census::Census;
use crate::incident::IncidentState;
use crate::nodes::{Live, Nodes};
use crate::query::{Certificates, Query};
use crate::store::{Stats, Store};

/// Where the figures come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Journals and index.
    pub store: Store,
    /// Who is there.
    pub nodes: Nodes,
    /// Who was refused.
    pub refusals: RefusalSender,
    /// What ends when.
    pub certificates: Certificates,
    /// What was asked.
    pub desk: Query,
    /// Who may clean.
    pub brake: Brake,
    /// What is open.
    pub census: Census,
    /// How the configuration was read last.
    pub reload: Outcome,
}

/// What the collector serves.
pub fn build(sources: Sources) -> Health {
    let mut registry = Registry::with_prefix("dogwatch_collector");
    let store = sources.store.clone();
    registry.register_collector(Box::new(sources));
    Health {
        registry: Arc::new(registry),
        refresh: Arc::new(|| ()),
        ready: Arc::new(move || {
            let status = store.status();
            let refusing = Stream::ALL.iter().zip(&status.streams).find(|(_, s)| !s.accepting);
            if let Some((stream, stats)) = refusing {
                let why = stats.refusing.clone().unwrap_or_else(|| "no reason was given".to_owned());
                return Err(format!("the {stream} journal takes nothing: {why}"));
            }
            if status.index.ready {
                Ok(())
            } else {
                Err("the index is being built from the journals".to_owned())
            }
        }),
    }
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut page = Page::new(encoder);
        page.build(env!("CARGO_PKG_VERSION"))?;
        self.reload.export(&mut page)?;
        self.callers(&mut page)?;
        self.journals(&mut page)?;
        self.index(&mut page)?;
        self.findings(&mut page)?;
        self.brake(&mut page)?;
        self.desk(&mut page)
    }
}

impl Sources {
    fn callers(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = self.nodes.all();
        let tls = self.certificates.tls.figures();
        let states = ["connected", "silent", "never-seen"].map(|state| {
            ([("state", state)], all.iter().filter(|(_, l)| state_of(l) == state).count() as f64)
        });
        page.gauges("nodes", "Nodes that are enrolled or spoke, by state", states)?;
        let streams = self.nodes.streams();
        let streams = Stream::ALL.map(|s| ([("stream", s.as_str())], streams[s.index()] as f64));
        page.gauges("uplinks", "Calls of agents that are open, by stream", streams)?;
        page.gauge("connections", "TLS connections that are open", tls.open as f64)?;
        page.counter("handshakes_refused", "TLS handshakes refused", tls.refused_total)?;
        let refused = self.refusals.counts();
        let refused = refused.iter().map(|(reason, n)| ([("rule", reason.rule())], *n));
        page.counters("refusals", "Callers refused, by the rule of the finding that tells of them", refused)?;
        page.counter(
            "refusals_unreported",
            "Refusals that the queue had no room for",
            self.refusals.dropped(),
        )?;
        let seconds = |ns: i64| ns as f64 / 1e9;
        let server = ([("certificate", "server")], seconds(self.certificates.tls.shown().not_after_wall_ns));
        let ca = self.certificates.ca_ends_wall_ns.map(|ns| ([("certificate", "ca")], seconds(ns)));
        page.gauges(
            "certificate_expiry_timestamp_seconds",
            "When a certificate of the collector ends, Unix time",
            [server].into_iter().chain(ca),
        )?;
        let now = clock::wall_ns();
        let soonest =
            all.iter().filter(|(_, l)| l.connected).filter_map(|(_, l)| l.certificate_ends_wall_ns).min();
        page.gauge(
            "node_certificate_soonest_expiry_seconds",
            "Seconds until the first certificate of a connected node ends; 0 where none is connected",
            soonest.map_or(0.0, |ns| seconds(ns.saturating_sub(now))),
        )
    }

    fn journals(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = self.store.status();
        let by_stream = |value: fn(&Stats) -> u64| {
            let values = [0, 1, 2].map(|i: usize| value(&status.streams[i]));
            Stream::ALL.map(|s| ([("stream", s.as_str())], values[s.index()]))
        };
        let level = |value: fn(&Stats) -> u64| by_stream(value).map(|(label, n)| (label, n as f64));
        page.gauges("accepting", "1 while blocks are accepted", level(|s| u64::from(s.accepting)))?;
        page.gauges("journal_used_bytes", "Bytes in the journal", level(|s| s.used_bytes))?;
        page.gauges("journal_limit_bytes", "Bytes beyond which the oldest expire", level(|s| s.max_bytes))?;
        page.gauges("journal_segments", "Segments in use", level(|s| s.segments as u64))?;
        let free = status.streams.iter().map(|s| s.free_bytes).min().unwrap_or(0);
        let reserve = status.streams.iter().map(|s| s.reserve_free_bytes).max().unwrap_or(0);
        page.gauge("store_free_bytes", "Bytes that are free where the store is", free as f64)?;
        page.gauge("store_reserve_bytes", "Free bytes below which no block is accepted", reserve as f64)?;
        let failing = f64::from(u8::from(status.truth.failing.is_some()));
        page.gauge("decisions_failing", "1 while the journal of decisions takes nothing", failing)?;
        let (used, most) = (status.truth.used_bytes as f64, status.truth.max_bytes as f64);
        page.gauge(
            "decisions_used_bytes",
            "Bytes in the journal of decisions, of which nothing expires",
            used,
        )?;
        page.gauge(
            "decisions_limit_bytes",
            "Bytes beyond which the journal of decisions takes nothing",
            most,
        )?;
        page.counters("blocks_stored", "Blocks stored", by_stream(|s| s.stored_blocks))?;
        page.counters("ingested_bytes", "Bytes of the blocks stored", by_stream(|s| s.stored_bytes))?;
        page.counters("blocks_known", "Blocks acknowledged again", by_stream(|s| s.known_blocks))?;
        page.counters("syncs", "Syncs of the journal", by_stream(|s| s.syncs))?;
        page.counters("segments_expired", "Segments expired", by_stream(|s| s.expired_segments))?;
        page.counters(
            "blocks_turned_away",
            "Offending blocks that found no room aside",
            by_stream(|s| s.aside_turned_away),
        )
    }

    fn index(&self, page: &mut Page<'_>) -> fmt::Result {
        let index = self.store.status().index;
        let flag = |b| f64::from(u8::from(b));
        page.gauge("index_ready", "1 while the index answers", flag(index.ready))?;
        page.gauge(
            "index_in_memory",
            "1 while the index on disk keeps failing and memory serves",
            flag(index.fallback),
        )?;
        let age = index.ready_since.map_or(0.0, |at| at.elapsed().as_secs_f64());
        page.gauge("index_age_seconds", "Since the index was opened or built; 0 while it is built", age)?;
        page.gauge(
            "index_lag_seconds",
            "How far the index is behind what is durable",
            index.lag.as_secs_f64(),
        )?;
        page.counter("index_rebuilds", "Times the index was built anew", u64::from(index.rebuilds))?;
        page.counter("index_odd_frames", "Frames that were not understood", index.odd_frames)
    }

    fn findings(&self, page: &mut Page<'_>) -> fmt::Result {
        let numbers = self.census.numbers();
        let findings = numbers.findings.iter().map(|((rule, severity), n)| {
            ([("rule", rule.as_str()), ("severity", severity.as_str())], *n as f64)
        });
        page.gauges("active_findings", "Findings that are active, by rule and severity", findings)?;
        // Zeros are told too: an alert on an absent series never fires.
        let open = [IncidentState::Open, IncidentState::Acknowledged].into_iter().flat_map(|state| {
            let n = &numbers.incidents;
            Severity::ALL.map(move |severity| {
                let n = n.get(&(state, severity)).copied().unwrap_or(0);
                ([("state", state.as_str()), ("severity", severity.as_str())], n as f64)
            })
        });
        page.gauges("incidents_open", "Incidents that are not resolved, by state and severity", open)?;
        let classes = || GAP_CLASSES.into_iter().chain(["other"]);
        let gaps = classes().map(|c| ([("reason", c)], numbers.gaps.get(c).copied().unwrap_or(0)));
        page.counters("gaps", "Gaps that nodes said, by class of reason", gaps)?;
        let lost = classes().map(|c| ([("reason", c)], numbers.lost_records.get(c).copied().unwrap_or(0)));
        page.counters("lost_records", "Records that those gaps tell of, where nodes know their number", lost)
    }

    fn brake(&self, page: &mut Page<'_>) -> fmt::Result {
        let view = self.brake.view().borrow().clone();
        let flag = |b| f64::from(u8::from(b));
        let states = [
            ([("state", "open")], flag(!view.is_stopped())),
            ([("state", "paused")], flag(view.paused)),
            ([("state", "tripped")], flag(view.tripped)),
        ];
        page.gauges("cleanup_brake_state", "1 for each state that the fleet brake is in", states)?;
        let figures = self.brake.figures();
        let help = "Permits to clean that are out, those of nodes that are watched afterwards included";
        page.gauge("cleanup_permits_out", help, figures.permits as f64)?;
        page.gauge("cleanup_places", "Nodes that clean, or are watched afterwards", figures.places as f64)?;
        page.gauge("cleanup_places_limit", "Nodes that may do so at a time", figures.limit as f64)?;
        let help = "Nodes that keep their place beyond their time, since the index is behind and what it lacks may speak against them";
        page.gauge("cleanup_places_overdue", help, figures.overdue as f64)?;
        page.gauge("cleanup_waiting", "Cleanups that wait for a permit", figures.waiting as f64)?;
        page.counter("cleanup_permits_granted", "Permits to clean given", figures.granted_total)?;
        page.counter(
            "cleanup_brake_tripped",
            "Times that cleanups were stopped on all nodes because one went wrong, since the store began",
            figures.tripped_total,
        )
    }

    fn desk(&self, page: &mut Page<'_>) -> fmt::Result {
        let asked = self.desk.counts();
        let asked = asked.iter().map(|(verb, outcome, n)| ([("verb", *verb), ("outcome", *outcome)], *n));
        page.counters("desk_requests", "What people asked and ordered, by verb and outcome", asked)?;
        page.gauge("watchers", "People who watch", self.desk.watchers() as f64)?;
        let (waiting, most) = self.desk.backlog();
        page.gauge("casework_waiting", "Asks that wait for casework", waiting as f64)?;
        page.gauge("casework_waiting_limit", "Asks that may wait for casework", most as f64)
    }
}

/// As `get nodes` tells it, by what is in memory.
fn state_of(live: &Live) -> &'static str {
    match live {
        l if l.connected => "connected",
        l if l.last_seen_wall_ns > 0 || l.spoke.is_some() => "silent",
        _ => "never-seen",
    }
}
