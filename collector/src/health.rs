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
            let full = Stream::ALL.iter().zip(&status.streams).find(|(_, s)| s.full);
            match full {
                Some((stream, _)) => {
                    Err(format!("the {stream} journal takes nothing: free space is below store.reserve_bytes"))
                }
                None => Ok(()),
            }
        }),
    }
}

mod export {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;

    use super::{Nodes, RefusalSender, ServerTls, Store, Stream};

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
            let mut gauge = |name: &str, help: &str, value: f64| {
                let metric = ConstGauge::new(value);
                metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
            };
            gauge("nodes", "Nodes that are enrolled or spoke", all.len() as f64)?;
            let connected = all.iter().filter(|(_, l)| l.connected).count();
            gauge("nodes_connected", "Nodes with an open urgent stream", connected as f64)?;
            let mut counter = |name: &str, help: &str, value: u64| {
                let metric = ConstCounter::new(value);
                metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
            };
            counter("refusals_unreported", "Refusals that the queue had no room for", self.refusals.dropped())?;
            let _ = (&self.tls, &status);
            Ok(())
        }
    }
    const _: [Stream; 3] = Stream::ALL;
}
