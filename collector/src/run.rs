//! The collector put together: build everything, bind every port, then spawn.

mod reload;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use dogwatch::clock;
use dogwatch::health;
use dogwatch::identity::load_or_create_signing_key;
use dogwatch::reload::{Outcome, Watcher};
use dogwatch::supervise::{Ended, Parts, Stop};
use dogwatch::tls::{FileWatch, Reload, ServerFiles, ServerTls, ServerTlsOptions};
use dogwatch::wire::desk_server::DeskServer;
use dogwatch::wire::enrolment_server::EnrolmentServer;
use dogwatch::wire::intake_server::IntakeServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tonic::transport::Server;

use crate::admit::accounts::Accounts;
use crate::admit::ca::{Ca, CaOptions, keep_server_certificate};
use crate::admit::enrol::EnrolmentService;
use crate::admit::gate::Gate;
use crate::admit::refusals::{Refusal, RefusalSender, Refusals, refusal_queue};
use crate::admit::tokens::TokenStore;
use crate::brake;
use crate::casework::{ASK_QUEUE, Casework, Tuning};
use crate::census::Census;
use crate::cluster::Cluster;
use crate::config::{Config, Keep};
use crate::holds::Keeper;
use crate::ingest::Ingest;
use crate::ledger::JournalLedger;
use crate::nodes::Nodes;
use crate::query::{Certificates, Query};
use crate::say::Say;
use crate::store::{JournalConfig, Store, StoreConfig};

pub use reload::Started;

/// Largest message either way: a block of 512 KiB with its envelope.
const MAX_MESSAGE_BYTES: usize = 768 * 1024;
/// A people's answer can hold a plan of a thousand objects.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// HTTP/2 windows: modest, for there may be 10,000 connections; a stream still has a block and its neighbour on the way.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 3 * 1024 * 1024;
/// Calls on one connection: three streams of an agent, or one person's.
const MAX_CALLS_PER_CONNECTION: u32 = 32;
/// Headers of one call: method, path, and what a client library adds.
const MAX_HEADER_BYTES: u32 = 8 * 1024;
/// Largest HTTP/2 frame: a block takes many, so that what is urgent passes between them.
const MAX_FRAME_BYTES: u32 = 16 * 1024;
/// Calls that a client takes back before they were looked at; more and its connection ends.
const MAX_TAKEN_BACK: usize = 32;
/// Calls have this long to end when the collector stops. Streams of agents end at once; a person's answer that nobody
/// reads would take for ever.
const SERVER_GRACE: Duration = Duration::from_secs(5);
/// A silent connection is probed this often, and closed without an answer.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often folded refusals are said and files of an external CA are looked at.
const REFUSAL_TICK: Duration = Duration::from_secs(1);
const FILE_TICK: Duration = Duration::from_secs(5);

/// Why the collector cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something of its state, certificates or store.
    #[error("{what}: {why}")]
    Start {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        why: String,
    },
    /// A port.
    #[error(transparent)]
    Bind(#[from] io::Error),
    /// A part ended early.
    #[error(transparent)]
    Ended(#[from] Ended),
}

fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> RunError {
    move |e| RunError::Start { what, why: e.to_string() }
}

/// The options of the built-in CA, as configured.
pub fn ca_options(config: &Config) -> CaOptions {
    CaOptions {
        trust_domain: config.trust_domain.clone(),
        node_lifetime: config.node_lifetime,
        server_names: config.names.clone(),
        ..CaOptions::default()
    }
}

/// The store's figures, as configured.
pub fn store_config(config: &Config) -> StoreConfig {
    let journal = |keep: &Keep| JournalConfig {
        segment_bytes: config.segment_bytes,
        max_bytes: keep.max_bytes,
        max_age: Some(keep.max_age),
    };
    let [urgent, evidence, recorder] = &config.retention;
    let base = StoreConfig::new(config.state_dir.join("store"));
    StoreConfig {
        urgent: journal(urgent),
        evidence: journal(evidence),
        recorder: journal(recorder),
        truth: JournalConfig { max_bytes: config.truth_max_bytes, ..base.truth },
        reserve_free_bytes: config.reserve_bytes,
        expires_once_told: true,
        ..base
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(s) = source {
        text = format!("{text}: {s}");
        source = s.source();
    }
    text
}

/// Runs the collector until stop is set.
///
/// # Errors
/// [`RunError`] says what could not be built or which part ended.
pub async fn run(config: Config, started: Started, stop: Stop) -> Result<(), RunError> {
    let watcher = Watcher::new(started.origin.clone())?;
    // What nodes logged and the CA's key are nobody else's.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.state_dir);
    made.map_err(|e| RunError::Start {
        what: "making the state folder",
        why: format!(
            "{}: {e}; set state.dir to a folder that this user may write",
            config.state_dir.display()
        ),
    })?;
    let receipt_key = load_or_create_signing_key(&config.state_dir.join("receipt-key.pem"))
        .map_err(failed("the key for receipts"))?;
    let receipt_public = receipt_key.verifying_key().to_bytes();
    let (store, report) = Store::open(store_config(&config), receipt_key, Arc::new(clock::wall_ns))
        .map_err(|e| RunError::Start { what: "opening the store", why: with_causes(&e) })?;
    for (journal, recovered) in &report.journals {
        for remark in &recovered.remarks {
            tracing::warn!(journal, "{remark}");
        }
    }

    let (refusals, refused) = refusal_queue();
    let gate = Gate::new(refusals.clone());
    let (ca, tls, watch) = certificates(&config, &refusals)?;
    let listener = TcpListener::bind(config.listen).await.map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("cannot listen on {}: {e}; choose another with server.listen", config.listen),
        )
    })?;
    let health_listener = health::bind(config.health_listen).await?;

    let (asks, asked) = mpsc::channel(ASK_QUEUE);
    let nodes = Nodes::default();
    let say = Say::new(asks.clone());
    let tuning = watch::Sender::new(reload::tuning(&config));
    let Tuning { policy, silent_after } = *tuning.borrow();
    let casework = Casework::open(store.clone(), nodes.clone(), policy, silent_after, asked)
        .await
        .map_err(failed("taking up incidents"))?
        .following(tuning.subscribe());
    let tokens = TokenStore::open(&config.state_dir.join("tokens")).map_err(failed("the join tokens"))?;
    let ledger = Arc::new(JournalLedger::new(store.clone(), asks.clone()));
    let changed = say.clone();
    let on_key_changed = Arc::new(move |node, finding| changed.try_finding(Some(node), finding));
    let mut enrolment = EnrolmentService::new(
        ca.clone(),
        tokens,
        ledger.clone(),
        gate.clone(),
        receipt_public,
        on_key_changed,
    );
    if let Some(c) = &config.cluster {
        let cluster = Cluster::open(c.kubeconfig.as_ref()).await.map_err(failed("the cluster's API"))?;
        let (audience, account) = (c.audience.clone(), c.service_account.clone());
        enrolment = enrolment.with_accounts(Accounts::new(Box::new(cluster), audience, account));
    }
    let (fleet, brake) = brake::Keeper::open(store.clone(), nodes.clone(), say.clone(), config.brake)
        .await
        .map_err(failed("taking up the fleet brake"))?;
    let mut ingest =
        Ingest::new(store.clone(), nodes.clone(), gate.clone(), say.clone(), brake.clone(), stop.clone());
    if ca.is_none() {
        ingest = ingest.with_first_keys(ledger);
    }
    let certificates =
        Certificates { tls: tls.clone(), ca_ends_wall_ns: ca.as_ref().map(|ca| ca.not_after_wall_ns()) };
    let opening = Keeper::open(store.clone(), nodes.clone(), asks.clone(), say.clone(), config.hold_security);
    let (keeper, holds) = opening.await.map_err(failed("taking up holds"))?;
    let desk = Query::new(
        store.clone(),
        nodes.clone(),
        gate,
        asks,
        holds,
        brake.clone(),
        certificates.clone(),
        stop.clone(),
    );
    let census = Census::default();
    let outcome = Outcome::default();
    let health = crate::health::build(crate::health::Sources {
        store: store.clone(),
        nodes: nodes.clone(),
        refusals: refusals.clone(),
        certificates,
        desk: desk.clone(),
        brake,
        census: census.clone(),
        reload: outcome.clone(),
    });

    let mut parts = Parts::new(stop.clone());
    parts.spawn("casework", casework.run(stop.clone()));
    parts.spawn("holds", keeper.run(stop.clone()));
    parts.spawn("fleet brake", fleet.run(stop.clone()));
    parts.spawn(
        "configuration",
        reload::follow(started, config.clone(), tuning, outcome, watcher, stop.clone()),
    );
    parts.spawn("census", census.run(store.clone(), stop.clone()));
    parts.spawn("refusals", say_refusals(refused, refusals, say, stop.clone()));
    parts.spawn("health", health::serve(health_listener, health, stop.clone()));
    if let Some(ca) = ca {
        parts.spawn("server certificate", renew(ca, tls.clone(), stop.clone()));
    }
    if let Some(watch) = watch {
        parts.spawn("certificate files", follow(watch, tls.clone(), stop.clone()));
    }
    parts.spawn("server", serve(listener, tls, enrolment, ingest, desk, stop.clone()));
    tracing::info!(listen = %config.listen, health = %config.health_listen, "the collector is ready");
    let result = parts.run().await;
    // Whoever held the store is gone or left behind; what was acknowledged is durable already.
    store.close().await;
    Ok(result?)
}

type Loaded = (Option<Arc<Ca>>, ServerTls, Option<FileWatch>);

fn certificates(config: &Config, refusals: &RefusalSender) -> Result<Loaded, RunError> {
    let options =
        ServerTlsOptions { trust_domain: config.trust_domain.clone(), ..ServerTlsOptions::default() };
    let now = clock::wall_ns();
    if let Some(files) = &config.external {
        let files = ServerFiles {
            chain: files.certificate.clone(),
            key: files.key.clone(),
            client_roots: files.client_ca.clone(),
        };
        let (watch, material) = FileWatch::open(files).map_err(failed("the certificate files"))?;
        let tls = ServerTls::new(&material, options, refusals.on_handshake())
            .map_err(failed("the certificate files"))?;
        return Ok((None, tls, Some(watch)));
    }
    let ca = Ca::open_or_create(&config.state_dir.join("ca"), ca_options(config), now)
        .map_err(failed("the certificate authority"))?;
    let material = ca.server_material(now).map_err(failed("the collector's certificate"))?;
    let tls = ServerTls::new(&material, options, refusals.on_handshake())
        .map_err(failed("the collector's certificate"))?;
    Ok((Some(Arc::new(ca)), tls, None))
}

async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    enrolment: EnrolmentService<JournalLedger>,
    ingest: Ingest,
    desk: Query,
    stop: Stop,
) -> Result<(), tonic::transport::Error> {
    let told = stop.clone();
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_TAKEN_BACK))
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(
            EnrolmentServer::new(enrolment)
                .max_decoding_message_size(64 * 1024)
                .max_encoding_message_size(64 * 1024),
        )
        .add_service(
            IntakeServer::new(ingest)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            DeskServer::new(desk)
                .max_decoding_message_size(64 * 1024)
                .max_encoding_message_size(MAX_ANSWER_BYTES),
        )
        // Ingest ends its calls by itself: agents hold them open for ever.
        .serve_with_incoming_shutdown(tls.incoming(listener), async move { told.wait().await });
    tokio::select! {
        result = server => result,
        () = async {
            stop.wait().await;
            tokio::time::sleep(SERVER_GRACE).await;
        } => Ok(()),
    }
}

async fn say_refusals(
    mut refused: mpsc::Receiver<Refusal>,
    sender: RefusalSender,
    say: Say,
    stop: Stop,
) -> Result<(), String> {
    let mut fold = Refusals::new();
    let mut tick = tokio::time::interval(REFUSAL_TICK);
    let mut dropped = 0;
    loop {
        let said = tokio::select! {
            () = stop.wait() => return Ok(()),
            refusal = refused.recv() => match refusal {
                Some(r) => {
                    tracing::warn!(address = %r.address, rule = r.reason.rule(), detail = r.detail, "refused");
                    fold.refuse(r, clock::wall_ns())
                }
                None => return Ok(()),
            },
            _ = tick.tick() => {
                let now_dropped = sender.dropped();
                let mut said = fold.lost(now_dropped - dropped, clock::wall_ns());
                dropped = now_dropped;
                said.extend(fold.tick(clock::wall_ns()));
                said
            }
        };
        for s in said {
            say.finding(s.node, s.finding, s.count).await;
        }
        say.tick(clock::wall_ns());
    }
}

async fn renew(ca: Arc<Ca>, tls: ServerTls, stop: Stop) -> Result<(), String> {
    let report = |r: Result<i64, _>| match r {
        Ok(_) => tracing::info!("the collector's certificate was renewed"),
        Err(error) => {
            tracing::error!(%error, "the collector's certificate could not be renewed; trying again")
        }
    };
    tokio::select! {
        () = stop.wait() => {}
        () = keep_server_certificate(ca, tls, report) => {}
    }
    Ok(())
}

async fn follow(watch: FileWatch, tls: ServerTls, stop: Stop) -> Result<(), String> {
    let report = |r: Reload| match r {
        Reload::Failed(error) => {
            tracing::error!(%error, "the new certificate files are not usable; the old stay")
        }
        other => tracing::info!(outcome = ?other, "certificate files"),
    };
    tokio::select! {
        () = stop.wait() => {}
        () = watch.follow(tls, FILE_TICK, report) => {}
    }
    Ok(())
}
