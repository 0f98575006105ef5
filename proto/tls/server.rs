//! The server's side: what it shows and believes, swappable, and how it names a refusal.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpListener;

use super::accept::{self, Incoming};
use super::material::{certified_key, root_store};
use super::verify::ClaimKeeper;
use super::{ALPN, ServerMaterial, TlsError, provider};
use crate::identity::{CertificateFacts, Identity, TrustDomain, certificate_facts};

/// Bounds of an acceptor, and the trust domain whose identities it believes.
#[derive(Debug, Clone)]
pub struct ServerTlsOptions {
    /// Identities of other domains are refused.
    pub trust_domain: TrustDomain,
    /// A handshake takes two round trips; 10 s is a bad satellite link with loss.
    pub handshake_timeout: Duration,
    /// Handshakes at once. One holds about 40 KiB and, on two cores, 512 take about a second of work.
    pub max_handshakes: usize,
    /// Connections at once, of any kind: 10,000 agents with one each, twice over while they reconnect.
    pub max_connections: usize,
    /// Connections without a certificate at once. They only enrol, which takes well under a second.
    pub max_anonymous: usize,
    /// How long a connection without a certificate lives.
    pub anonymous_lifetime: Duration,
    /// By how much a connection outlives its certificate: services end their streams in good order before.
    pub expiry_grace: Duration,
}

impl Default for ServerTlsOptions {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 512,
            max_connections: 20_000,
            max_anonymous: 1_024,
            anonymous_lifetime: super::ANONYMOUS_LIFETIME,
            expiry_grace: super::EXPIRY_GRACE,
        }
    }
}

/// Why a handshake was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeRefusal {
    /// The client's certificate is of our CA and past its last day.
    Expired,
    /// The client's certificate is of our CA and begins in the future: one of the clocks is wrong.
    NotValidYet,
    /// The client's certificate is of no CA that is believed.
    UnknownIssuer,
    /// The client's certificate is of our CA, and bears no identity of this trust domain.
    NoIdentity,
    /// The client's certificate is not usable: damaged, not for clients, or its key is not the client's.
    BadCertificate,
    /// The client refused our certificate.
    RefusedByPeer,
    /// What came was not TLS as we speak it.
    Protocol,
    /// It did not finish in time.
    Timeout,
    /// A bound was reached.
    Overloaded,
}

impl HandshakeRefusal {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotValidYet => "not-valid-yet",
            Self::UnknownIssuer => "unknown-issuer",
            Self::NoIdentity => "no-identity",
            Self::BadCertificate => "bad-certificate",
            Self::RefusedByPeer => "refused-by-peer",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
        }
    }
}

impl fmt::Display for HandshakeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a refused certificate said of its holder. Believe it only where `chained` is set, and even then only that our
/// CA once issued it: the holder never showed the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The identity, or what stood in its place, in printable characters, at most 120.
    pub name: String,
    /// The identity, where one can be read.
    pub identity: Option<Identity>,
    /// Its last second, wall ns.
    pub not_after_wall_ns: Option<i64>,
    /// Its serial number, hex.
    pub serial: Option<String>,
    /// Whether it chains to a CA that is believed.
    pub chained: bool,
}

impl Claim {
    pub(super) fn of(facts: Option<&CertificateFacts>, domain: &TrustDomain, chained: bool) -> Self {
        let identity = facts.and_then(|f| f.identity(domain).ok());
        let name = match (&identity, facts.and_then(|f| f.uris.first())) {
            (Some(identity), _) => identity.to_string(),
            (None, Some(uri)) => uri.chars().flat_map(char::escape_default).take(120).collect(),
            (None, None) => "a certificate without a name".to_owned(),
        };
        Self {
            name: name.chars().take(120).collect(),
            identity,
            not_after_wall_ns: facts.map(|f| f.not_after_wall_ns),
            serial: facts.map(|f| f.serial.clone()),
            chained,
        }
    }
}

/// A handshake that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedHandshake {
    /// Who called.
    pub peer: IpAddr,
    /// Why it was refused.
    pub reason: HandshakeRefusal,
    /// What its certificate said, where it showed one.
    pub claim: Option<Claim>,
    /// The error in words.
    pub detail: String,
}

/// Told of each refusal, on the acceptor's task: it must neither block nor panic (hand over to a bounded queue, count
/// what does not fit).
pub type OnRefusal = Arc<dyn Fn(RefusedHandshake) + Send + Sync>;

/// Totals and levels, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerTlsFigures {
    /// TCP connections taken.
    pub accepted_total: u64,
    /// Handshakes that came to nothing and were reported.
    pub refused_total: u64,
    /// Connections closed before their first byte: port probes of a load balancer, not reported.
    pub silent_total: u64,
    /// Slow handshakes that gave way to newer ones; part of `refused_total`.
    pub shed_total: u64,
    /// Failed `accept` calls (out of descriptors).
    pub accept_errors_total: u64,
    /// Connections open now.
    pub open: u64,
    /// Of these, without a certificate.
    pub open_anonymous: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) silent: AtomicU64,
    pub(super) shed: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) open_anonymous: AtomicU64,
}

struct Current {
    shown: Arc<dyn ResolvesServerCert>,
    clients: Arc<dyn ClientCertVerifier>,
    facts: CertificateFacts,
}

pub(super) struct Shared {
    pub(super) options: ServerTlsOptions,
    pub(super) counters: Counters,
    current: RwLock<Arc<Current>>,
    on_refusal: OnRefusal,
}

/// What an acceptor shows and believes. Clones share it; [`ServerTls::swap`] on one reaches all.
#[derive(Clone)]
pub struct ServerTls {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTls({:?})", self.figures())
    }
}

/// A rustls configuration for one connection, and where that connection's refused certificate will be found.
pub(super) type ForOneConnection = (Arc<ServerConfig>, Arc<Mutex<Option<(HandshakeRefusal, Claim)>>>);

impl ServerTls {
    /// Builds from `material`; fails where certificate and key do not belong together or a CA is unusable.
    pub fn new(
        material: &ServerMaterial,
        options: ServerTlsOptions,
        on_refusal: OnRefusal,
    ) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(build(material)?));
        let shared = Shared { options, counters: Counters::default(), current, on_refusal };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Shows `material` from the next handshake on; connections that stand are untouched. On error everything stays.
    pub fn swap(&self, material: &ServerMaterial) -> Result<(), TlsError> {
        let next = Arc::new(build(material)?);
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// What is shown now, as read from the leaf: its expiry is worth a metric.
    pub fn shown(&self) -> CertificateFacts {
        self.current().facts.clone()
    }

    /// Takes connections from `listener`, shaking hands with each in a task of its own. Dropping the stream closes the
    /// listener and ends the handshakes under way. Must be called within a tokio runtime.
    pub fn incoming(&self, listener: TcpListener) -> Incoming {
        accept::start(self.clone(), listener)
    }

    /// Totals and levels.
    pub fn figures(&self) -> ServerTlsFigures {
        let c = &self.shared.counters;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        ServerTlsFigures {
            accepted_total: get(&c.accepted),
            refused_total: get(&c.refused),
            silent_total: get(&c.silent),
            shed_total: get(&c.shed),
            accept_errors_total: get(&c.accept_errors),
            open: get(&c.open),
            open_anonymous: get(&c.open_anonymous),
        }
    }

    pub(super) fn refuse(&self, refused: RefusedHandshake) {
        self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
        (self.shared.on_refusal)(refused);
    }

    /// Built anew for each connection (a few allocations beside two signatures), so that the verifier can keep what this
    /// one peer claimed.
    pub(super) fn for_one_connection(&self) -> Result<ForOneConnection, rustls::Error> {
        let current = self.current();
        let kept = Arc::new(Mutex::new(None));
        let verifier = ClaimKeeper {
            inner: Arc::clone(&current.clients),
            domain: self.shared.options.trust_domain.clone(),
            kept: Arc::clone(&kept),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&current.shown));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok((Arc::new(config), kept))
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn build(material: &ServerMaterial) -> Result<Current, TlsError> {
    let leaf = material
        .chain
        .first()
        .ok_or_else(|| TlsError::Material { what: "certificate", reason: "there is none".to_owned() })?;
    let facts = certificate_facts(leaf)
        .map_err(|e| TlsError::Material { what: "certificate", reason: e.to_string() })?;
    let shown = SingleCertAndKey::from(certified_key(&material.chain, &material.key)?);
    let roots = Arc::new(root_store("client CA", &material.client_roots)?);
    let clients = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|e| TlsError::Material { what: "client CA", reason: e.to_string() })?;
    Ok(Current { shown: Arc::new(shown), clients, facts })
}

/// What went wrong, by the error and by what the verifier kept.
pub(super) fn explain(
    error: &io::Error,
    kept: Option<(HandshakeRefusal, Claim)>,
) -> (HandshakeRefusal, Option<Claim>, String) {
    let detail: String = error.to_string().chars().flat_map(char::escape_default).take(300).collect();
    if let Some((reason, claim)) = kept {
        return (reason, Some(claim), detail);
    }
    let reason = match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(_)) => HandshakeRefusal::RefusedByPeer,
        Some(rustls::Error::InvalidCertificate(_)) => HandshakeRefusal::BadCertificate,
        _ => HandshakeRefusal::Protocol,
    };
    (reason, None, detail)
}
