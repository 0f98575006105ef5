//! `/metrics`, `/healthz` and `/readyz`, alike for both daemons.
//!
//! `/healthz` answers from memory alone: a stalled disk or an absent peer must not get a daemon killed that is doing
//! its job. `/readyz` says in words what is not ready.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::supervise::Stop;

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

async fn metrics(State(health): State<Health>) -> Response {
    (health.refresh)();
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &health.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(e) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be encoded: {e}\n")).into_response()
        }
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    match (health.ready)() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}
