//! The collector's own figures, for `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;

use dogwatch::health::Health;
use dogwatch::record::Stream;
use dogwatch::tls::ServerTls;
use prometheus_client::registry::Registry;

use crate::admit::refusals::RefusalSender;
use crate::nodes::Nodes;
use crate::store::Store;

/// What the collector serves.
pub fn build(store: &Store, nodes: &Nodes, refusals: &RefusalSender, tls: &ServerTls) -> Health {
    let mut registry = Registry::with_prefix("dogwatch_collector");
    let export = export::Export {
        store: store.clone(),
        nodes: nodes.clone(),
        refusals: refusals.clone(),
        tls: tls.clone(),
    };
    registry.register_collector(Box::new(export));
    let store = store.clone();
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

mod export {
    use prometheus_client::collector::Collector;
    use std::fmt;

    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::MetricType;
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;

    use super::{Nodes, RefusalSender, ServerTls, Store, Stream};
    use crate::store::Stats;

    #[derive(Debug)]
    pub(super) struct Export {
        pub(super) store: Store,
        pub(super) nodes: Nodes,
        pub(super) refusals: RefusalSender,
        pub(super) tls: ServerTls,
    }

    impl Collector for Export {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            let status = self.store.status();
            let all = self.nodes.all();
            let tls = self.tls.figures();
            let mut gauge = |name: &str, help: &str, value: f64| {
                let metric = ConstGauge::new(value);
                metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
            };
            gauge("nodes", "Nodes that are enrolled or spoke", all.len() as f64)?;
            let connected = all.iter().filter(|(_, l)| l.connected).count();
            gauge("nodes_connected", "Nodes with an open urgent stream", connected as f64)?;
            gauge("connections", "TLS connections open now", tls.open as f64)?;
            gauge("index_ready", "1 while the index answers", f64::from(u8::from(status.index.ready)))?;
            let fallback = f64::from(u8::from(status.index.fallback));
            gauge("index_in_memory", "1 while the index on disk keeps failing and memory serves", fallback)?;
            let mut counter = |name: &str, help: &str, value: u64| {
                let metric = ConstCounter::new(value);
                metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
            };
            counter("handshakes_refused", "TLS handshakes refused", tls.refused_total)?;
            counter(
                "refusals_unreported",
                "Refusals that the queue had no room for",
                self.refusals.dropped(),
            )?;
            counter("index_rebuilds", "Times the index was built anew", u64::from(status.index.rebuilds))?;
            counter("index_odd_frames", "Frames that were not understood", status.index.odd_frames)?;
            let mut each = |name: &str, help: &str, kind: MetricType, value: fn(&Stats) -> u64| {
                by_stream(&mut encoder, (name, help, kind), &status.streams, value)
            };
            let (gauge, counter) = (MetricType::Gauge, MetricType::Counter);
            each("accepting", "1 while blocks are accepted", gauge, |s| u64::from(s.accepting))?;
            each("journal_used_bytes", "Bytes in the journal", gauge, |s| s.used_bytes)?;
            each("journal_segments", "Segments in use", gauge, |s| s.segments as u64)?;
            each("blocks_stored", "Blocks stored", counter, |s| s.stored_blocks)?;
            each("blocks_known", "Blocks acknowledged again", counter, |s| s.known_blocks)?;
            each("syncs", "Syncs of the journal", counter, |s| s.syncs)?;
            each("segments_expired", "Segments expired", counter, |s| s.expired_segments)?;
            each("blocks_turned_away", "Offending blocks that found no room aside", counter, |s| {
                s.aside_turned_away
            })?;
            Ok(())
        }
    }

    /// One metric with the stream as its label.
    fn by_stream(
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, kind): (&str, &str, MetricType),
        streams: &[Stats; 3],
        value: fn(&Stats) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        for (stream, stats) in Stream::ALL.iter().zip(streams) {
            let label = [("stream", stream.as_str())];
            let labelled = metric.encode_family(&label)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value(stats)).encode(labelled)?,
                _ => ConstGauge::new(value(stats) as f64).encode(labelled)?,
            }
        }
        Ok(())
    }
}
