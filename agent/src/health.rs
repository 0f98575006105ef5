//! The agent's own figures, for `/metrics`, `/healthz` and `/readyz`.

mod export;
mod figures;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use dogwatch::health::Health;
use prometheus_client::registry::Registry;

use export::Export;
pub use export::Sources;
pub use figures::Figures;

/// What the agent serves.
pub fn build(sources: Sources) -> Health {
    let mut registry = Registry::with_prefix("dogwatch_agent");
    let (figures, recorder) = (Arc::clone(&sources.figures), sources.recorder.clone());
    registry.register_collector(Box::new(Export { sources, started: Instant::now() }));
    Health {
        registry: Arc::new(registry),
        refresh: Arc::new(|| ()),
        ready: Arc::new(move || {
            if figures.samples.load(Ordering::Relaxed) == 0 {
                return Err("no sample was taken yet".to_owned());
            }
            match recorder.stats().failing {
                Some(e) => Err(format!("the journal cannot be written: {e}")),
                None => Ok(()),
            }
        }),
    }
}
