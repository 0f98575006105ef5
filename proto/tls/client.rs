//! The client's side: a connector for tonic that takes what it shows from a slot at each connect.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Endpoint;

use super::accept::tune;
use super::material::{certified_key, root_store};
use super::verify::{CollectorVerifier, Trust};
use super::{ALPN, ClientMaterial, TlsError, provider};
use crate::identity::{Fingerprint, TrustDomain};

/// Whom a client believes to be the collector, and how long it waits for one.
#[derive(Debug, Clone)]
pub struct ClientTlsOptions {
    /// The collector's identity is `/collector` of this domain.
    pub trust_domain: TrustDomain,
    /// A DNS name that is believed instead, where the CA issues no URI names.
    pub dns_name: Option<String>,
    /// For name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
}

impl Default for ClientTlsOptions {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            dns_name: None,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

struct Slot {
    config: RwLock<Arc<ClientConfig>>,
    /// Counts swaps; a receiver knows by it that a connection made before shows an older certificate.
    swaps: watch::Sender<u64>,
}

/// A `tower::Service<Uri>` for `Endpoint::connect_with_connector`. Clones share the slot: [`ClientTls::swap`] on one is
/// what all of them show at their next connect; connections that stand are untouched.
#[derive(Clone)]
pub struct ClientTls {
    slot: Arc<Slot>,
    options: ClientTlsOptions,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({} swaps)", *self.slot.swaps.borrow())
    }
}

impl ClientTls {
    /// Shows `material`'s certificate and believes its roots.
    pub fn new(material: &ClientMaterial, options: ClientTlsOptions) -> Result<Self, TlsError> {
        let config = with_certificate(material, &options)?;
        Ok(Self::of(config, options))
    }

    /// For enrolment: shows no certificate, and believes only a collector whose chain holds the CA of this fingerprint.
    pub fn pinned(ca: Fingerprint, options: ClientTlsOptions) -> Result<Self, TlsError> {
        let config = finish(builder(Trust::Pinned(ca), &options)?.with_no_client_auth());
        Ok(Self::of(config, options))
    }

    fn of(config: ClientConfig, options: ClientTlsOptions) -> Self {
        let slot = Slot { config: RwLock::new(Arc::new(config)), swaps: watch::Sender::new(0) };
        Self { slot: Arc::new(slot), options }
    }

    /// Shows `material` from the next connect on. On error everything stays.
    pub fn swap(&self, material: &ClientMaterial) -> Result<(), TlsError> {
        let config = Arc::new(with_certificate(material, &self.options)?);
        *self.slot.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.slot.swaps.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Wakes at each swap. A long-lived connection should then be replaced at a quiet moment: the collector ends it
    /// when the certificate that it was made with expires.
    pub fn swaps(&self) -> watch::Receiver<u64> {
        self.slot.swaps.subscribe()
    }

    /// An endpoint for `host:port` (or `https://host:port`), to be connected with this connector. Timeouts of calls and
    /// HTTP/2 windows are the caller's to set.
    pub fn endpoint(&self, address: &str) -> Result<Endpoint, TlsError> {
        let uri = uri_of(address)?;
        let endpoint = Endpoint::from_shared(uri.to_string()).map_err(|e| refused(address, e.to_string()))?;
        Ok(endpoint.connect_timeout(self.options.connect_timeout))
    }
}

impl tower::Service<Uri> for ClientTls {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = Arc::clone(&self.slot.config.read().unwrap_or_else(PoisonError::into_inner));
        let limit = self.options.connect_timeout;
        Box::pin(async move {
            match timeout(limit, connect(&uri, config)).await {
                Ok(outcome) => outcome.map(TokioIo::new),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection with {uri} within {} s", limit.as_secs_f32()),
                )),
            }
        })
    }
}

/// Whether `address` is one that [`ClientTls::endpoint`] takes.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(address: &str) -> Result<(), TlsError> {
    uri_of(address).map(drop)
}

fn refused(address: &str, reason: String) -> TlsError {
    TlsError::Address { address: address.chars().take(200).collect(), reason }
}

fn uri_of(address: &str) -> Result<Uri, TlsError> {
    let refuse = |reason: String| refused(address, reason);
    let plain = address.strip_prefix("https://").unwrap_or(address).trim_end_matches('/');
    let uri: Uri = format!("https://{plain}").parse().map_err(|e| refuse(format!("{e}")))?;
    dialled(&uri).map_err(&refuse)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(refuse("it has a path".to_owned()));
    }
    Ok(uri)
}

/// Host and port that `uri` is dialled at.
fn dialled(uri: &Uri) -> Result<(String, u16), String> {
    let host = uri.host().ok_or("it names no host")?;
    let port = uri.port_u16().ok_or("it names no port")?;
    // A URI writes an IPv6 address in brackets; nobody else does.
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

async fn connect(uri: &Uri, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let (host, port) =
        dialled(uri).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri}: {e}")))?;
    let about = |what: &str, e: &dyn fmt::Display| format!("{what} {host}:{port}: {e}");
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|e| io::Error::new(e.kind(), about("cannot reach", &e)))?;
    tune(&stream)?;
    let name = ServerName::try_from(host.clone())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, about("cannot name", &e)))?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|e| io::Error::new(e.kind(), about("no TLS with", &e)))
}

fn builder(
    trust: Trust,
    options: &ClientTlsOptions,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let dns_name = options.dns_name.clone().map(ServerName::try_from).transpose().map_err(|e| {
        let reason = format!("the DNS name {:?} that the collector is known by: {e}", options.dns_name);
        TlsError::Material { what: "server CA", reason }
    })?;
    let provider = provider();
    let verifier = CollectorVerifier {
        trust,
        domain: options.trust_domain.clone(),
        dns_name,
        algorithms: provider.signature_verification_algorithms,
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::Material { what: "server CA", reason: e.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn with_certificate(material: &ClientMaterial, options: &ClientTlsOptions) -> Result<ClientConfig, TlsError> {
    let roots = root_store("server CA", &material.roots)?;
    let shown = SingleCertAndKey::from(certified_key(&material.chain, &material.key)?);
    let config = builder(Trust::Roots(roots), options)?.with_client_cert_resolver(Arc::new(shown));
    Ok(finish(config))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}
