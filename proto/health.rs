//! `/metrics`, `/healthz` and `/readyz`, alike for both daemons.
//!
//! `/healthz` answers from memory alone: a stalled disk or an absent peer must not get a daemon killed that is doing
//! its job. `/readyz` says in words what is not ready.

mod page;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::supervise::Stop;

pub use page::Page;

/// Says whether the daemon is ready, or why not.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
/// Brings gauges up to date before they are read.
pub type Refresh = Arc<dyn Fn() + Send + Sync>;

/// What is served.
#[derive(Clone)]
pub struct Health {
    /// The metrics, `dogwatch_*`, in base units.
    pub registry: Arc<Registry>,
    /// Called before each scrape.
    pub refresh: Refresh,
    /// For `/readyz`.
    pub ready: Ready,
}

/// Binds the address; bind everything before anything is spawned.
///
/// # Errors
/// When the address is in use or not this machine's.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        io::Error::new(
            e.kind(),
            format!(
                "cannot listen on {address} for health and metrics: {e}; choose another with health.listen"
            ),
        )
    })
}

/// Serves until stop is set.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, health: Health, stop: Stop) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(health);
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.wait().await }).await
}

async fn metrics(State(health): State<Health>, headers: HeaderMap) -> Response {
    (health.refresh)();
    let mut text = String::new();
    let wanted = headers.get_all(header::ACCEPT);
    let open = wanted.iter().any(|a| a.to_str().is_ok_and(|a| a.contains("application/openmetrics-text")));
    match prometheus_client::encoding::text::encode(&mut text, &health.registry) {
        Ok(()) if open => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Ok(()) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], plain(&text)).into_response()
        }
        Err(e) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be encoded: {e}\n")).into_response()
        }
    }
}

/// OpenMetrics text in the older format of Prometheus, which whoever does not ask for the newer one reads (curl,
/// `promtool check metrics`, agents of other monitoring): there a counter's family bears the name of its samples, and
/// neither units nor an end are told.
fn plain(open: &str) -> String {
    let told = |line: &str| {
        let (what, rest) = line.strip_prefix("# ")?.split_once(' ')?;
        let (name, rest) = rest.split_once(' ')?;
        Some((what.to_owned(), name.to_owned(), rest.to_owned()))
    };
    let counters: HashSet<String> = open
        .lines()
        .filter_map(told)
        .filter(|(what, _, kind)| what == "TYPE" && kind == "counter")
        .map(|(_, name, _)| name)
        .collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines() {
        match told(line) {
            Some((what, ..)) if what == "UNIT" => {}
            Some((what, name, rest)) if counters.contains(&name) => {
                text += &format!("# {what} {name}_total {rest}\n");
            }
            Some((what, name, kind)) if what == "TYPE" && kind == "unknown" => {
                text += &format!("# TYPE {name} untyped\n");
            }
            None if line == "# EOF" => {}
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

async fn readyz(State(health): State<Health>) -> Response {
    match (health.ready)() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn the_older_format_names_counters_by_their_samples() {
        let open = "# HELP a_samples Taken.\n# TYPE a_samples counter\na_samples_total{x=\"# TYPE y counter\"} 5\n\
                    # HELP a_resident_bytes Set.\n# TYPE a_resident_bytes gauge\n# UNIT a_resident_bytes bytes\n\
                    a_resident_bytes 7.0\n# EOF\n";
        let old = "# HELP a_samples_total Taken.\n# TYPE a_samples_total counter\na_samples_total{x=\"# TYPE y counter\"} 5\n\
                   # HELP a_resident_bytes Set.\n# TYPE a_resident_bytes gauge\na_resident_bytes 7.0\n";
        assert_eq!(plain(open), old);
    }
}
