//! Enrolment: how a node comes by its certificate, keeps it and renews it.
//!
//! Layout of `<state>/identity/` (mode 0700): `signing.key` (Ed25519, PKCS#8 PEM: signs the node's chains, made once and
//! kept for the node's life) and `credentials.json` (version 1: TLS key, certificate, the CAs of the collector, its
//! receipt key). The TLS key is new for each certificate and lives in the same file, so that key and certificate change
//! in one atomic step. Both files are 0600 and never leave the node; only requests and public keys do.
//!
//! Invariants: a join token's secret is said only over a connection whose CA bears the token's fingerprint, and a service
//! account's token only over one whose CA is the one on file; a signing key
//! is never replaced silently; what does not come back whole from the collector is not stored; a renewal that fails
//! leaves what was in use.
//!
//! Recovery: lost, damaged or expired credentials are replaced by enrolling again where a token is configured, and are an
//! error with the remedy where none is. A damaged signing key is always an error. Limits: [`CALL_WAIT`] for a call,
//! [`MAX_ROOTS`] CAs, 64 KiB of answer.
//!
//! Deliberately absent: backoff for the first enrolment (the caller's, who also says so in the node's status), and
//! streams of evidence.

mod credentials;
mod error;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::identity::{
    self, Fingerprint, Identity, JoinToken, TlsKey, TrustDomain, certificate_facts, certificates_to_pem,
    enrol_proof, load_or_create_signing_key, spki_fingerprint,
};
use dogwatch::record::NodeName;
use dogwatch::tls::{ClientMaterial, ClientTls, ClientTlsOptions, certificates_from_pem};
use dogwatch::wire::enrolment_client::EnrolmentClient;
use dogwatch::wire::{EnrolRequest, EnrolResponse, RenewRequest, TokenKind};
use rustls::pki_types::CertificateDer;
use tonic::transport::Channel;

use credentials::{Credentials, Held, VERSION, expired_text, load, retry_after};

pub use credentials::Validity;
pub use error::EnrolError;

/// Enrolling waits for a disk on the collector; longer than its own wait for that.
pub const CALL_WAIT: Duration = Duration::from_secs(20);
/// CAs of the collector that are believed at once: the present one, and what it replaces.
pub const MAX_ROOTS: usize = 4;
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Of a token's file, and of the CA's: join tokens have some 150 bytes, service accounts' one to two KiB.
const MAX_TOKEN_FILE_BYTES: u64 = 16 * 1024;
/// What the file of the credentials takes for good, so that a renewal needs no room: several times what key, chain and CAs
/// take.
const CREDENTIALS_BYTES: usize = 32 * 1024;
const NS: i64 = 1_000_000_000;
/// A long sleep would overlook a jump of the wall clock.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Where the join token comes from. `Debug` hides it.
#[derive(Clone)]
pub enum TokenSource {
    /// The text itself.
    Text(String),
    /// A file that holds it; read anew at each attempt, so that a replaced secret is found.
    File(PathBuf),
    /// This pod's own token, which the kubelet keeps fresh, in place of a join token.
    ServiceAccount {
        /// The token; read anew at each attempt.
        token_file: PathBuf,
        /// The CA of the collector, PEM; the first certificate counts. The token is said to nobody else.
        ca_file: PathBuf,
    },
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::ServiceAccount { token_file, .. } => write!(f, "ServiceAccount({})", token_file.display()),
        }
    }
}

/// What enrolment needs to know.
#[derive(Debug, Clone)]
pub struct EnrolOptions {
    /// The collector, `host:port`.
    pub collector: String,
    /// This node.
    pub node: NodeName,
    /// The agent's state folder; `identity/` is made in it.
    pub state: PathBuf,
    /// Of the installation.
    pub trust_domain: TrustDomain,
    /// A DNS name that is believed in place of the collector's identity (an external CA without URI names).
    pub server_dns_name: Option<String>,
    /// Where the join token is; `None`: the node is in already.
    pub token: Option<TokenSource>,
    /// For name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
}

impl EnrolOptions {
    /// With the default trust domain and a connect timeout of 10 s.
    pub fn new(collector: impl Into<String>, node: NodeName, state: impl Into<PathBuf>) -> Self {
        Self {
            collector: collector.into(),
            node,
            state: state.into(),
            trust_domain: TrustDomain::default(),
            server_dns_name: None,
            token: None,
            connect_timeout: Duration::from_secs(10),
        }
    }

    fn tls(&self) -> ClientTlsOptions {
        ClientTlsOptions {
            trust_domain: self.trust_domain.clone(),
            dns_name: self.server_dns_name.clone(),
            connect_timeout: self.connect_timeout,
        }
    }

    fn identity_dir(&self) -> PathBuf {
        self.state.join("identity")
    }

    fn credentials_path(&self) -> PathBuf {
        self.identity_dir().join("credentials.json")
    }
}

/// The node's identity, ready for use.
pub struct NodeIdentity {
    options: EnrolOptions,
    tls: ClientTls,
    signing_key: ed25519_dalek::SigningKey,
    held: Held,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({}, {:?})", self.options.node, self.held.validity)
    }
}

/// What the renewal loop has to say.
#[derive(Debug)]
pub enum Renewal {
    /// There is a new certificate; connections made from now on show it.
    Renewed(Validity),
    /// It did not work and will be tried again; the present certificate lasts until then.
    Failed {
        /// Why.
        error: EnrolError,
        /// Of the present certificate.
        validity: Validity,
        /// Whether the present one has expired, so that nothing reaches the collector.
        expired: bool,
    },
}

/// Loads the node's identity; enrols where there is none that is usable and a token is configured. One attempt: the
/// caller tries again, with backoff, and says so meanwhile. Files are read and written off the async threads.
pub async fn ensure_enrolled(options: &EnrolOptions) -> Result<NodeIdentity, EnrolError> {
    let now = wall_ns();
    let at = options.clone();
    let (signing_key, loaded) = blocking(move || {
        identity::create_private_dir(&at.identity_dir())?;
        let key = load_or_create_signing_key(&at.identity_dir().join("signing.key"))?;
        if let Err(error) = identity::reserve_private_file(&at.credentials_path(), CREDENTIALS_BYTES) {
            tracing::warn!(%error, "on a full disk a new certificate may not be kept");
        }
        Ok((key, load(&at, now)))
    })
    .await?;
    match loaded {
        Ok((held, material)) => {
            let tls = ClientTls::new(&material, options.tls())?;
            Ok(NodeIdentity { options: options.clone(), tls, signing_key, held })
        }
        Err(why) => {
            let Some(source) = &options.token else {
                return Err(EnrolError::NoToken { node: options.node.clone(), why });
            };
            tracing::info!(node = %options.node, why, "enrolling");
            let (held, material) = enrol(options, source, &signing_key).await?;
            let tls = ClientTls::new(&material, options.tls())?;
            Ok(NodeIdentity { options: options.clone(), tls, signing_key, held })
        }
    }
}

impl NodeIdentity {
    /// The connector for the collector. Its clones follow every renewal.
    pub fn tls(&self) -> &ClientTls {
        &self.tls
    }

    /// Signs the node's chain heads.
    pub fn signing_key(&self) -> &ed25519_dalek::SigningKey {
        &self.signing_key
    }

    /// The collector's public key for receipts, 32 bytes of Ed25519.
    pub fn receipt_key(&self) -> [u8; 32] {
        self.held.credentials.receipt_key.0
    }

    /// Of the present certificate.
    pub fn validity(&self) -> Validity {
        self.held.validity
    }

    /// Asks for the next certificate, stores it, and shows it from the next connect on. On error all stays.
    pub async fn renew(&mut self) -> Result<Validity, EnrolError> {
        const WHAT: &str = "renew the certificate";
        let key = TlsKey::generate().map_err(|e| EnrolError::Key(e.to_string()))?;
        let csr_der = key.csr_der().map_err(|e| EnrolError::Key(e.to_string()))?.into();
        let mut client = client(&self.options, &self.tls, WHAT).await?;
        let answer = client.renew(RenewRequest { csr_der }).await;
        let answer = answer.map_err(|s| refused(&self.options, WHAT, &s))?.into_inner();
        let known = certificates_from_pem("server CA", self.held.credentials.roots_pem.as_bytes())?;
        let (held, material) = accept(&self.options, &key, answer, known)?;
        store(&self.options, &held.credentials).await?;
        self.tls.swap(&material)?;
        self.held = held;
        Ok(self.held.validity)
    }

    /// Enrols again with the configured token, keeping the signing key: for a certificate that expired.
    async fn enrol_again(&mut self, source: &TokenSource) -> Result<Validity, EnrolError> {
        let (held, material) = enrol(&self.options, source, &self.signing_key).await?;
        self.tls.swap(&material)?;
        self.held = held;
        Ok(self.held.validity)
    }

    /// Renews at two thirds of each certificate's life, for ever; after an expiry, enrols again where a token is
    /// configured. `report` hears of each outcome. Drop the future to end it: every step is whole or not done.
    pub async fn keep_renewed(mut self, report: impl Fn(Renewal)) {
        let mut due = self.held.validity.renewal_wall_ns(jitter());
        loop {
            let now = wall_ns();
            if now < due {
                let left = Duration::from_nanos(u64::try_from(due.saturating_sub(now)).unwrap_or(0));
                tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                continue;
            }
            let expired = self.held.validity.expired_at(now);
            let outcome = match (expired, self.options.token.clone()) {
                (false, _) => self.renew().await,
                (true, Some(source)) => self.enrol_again(&source).await,
                (true, None) => Err(self.expired_without_token()),
            };
            match outcome {
                Ok(validity) => {
                    due = validity.renewal_wall_ns(jitter());
                    report(Renewal::Renewed(validity));
                }
                Err(error) => {
                    let validity = self.held.validity;
                    report(Renewal::Failed { error, validity, expired });
                    tokio::time::sleep(retry_after(validity, wall_ns(), jitter())).await;
                }
            }
        }
    }

    fn expired_without_token(&self) -> EnrolError {
        EnrolError::NoToken { node: self.options.node.clone(), why: expired_text(self.held.validity) }
    }
}

async fn enrol(
    options: &EnrolOptions,
    source: &TokenSource,
    signing_key: &ed25519_dalek::SigningKey,
) -> Result<(Held, ClientMaterial), EnrolError> {
    const WHAT: &str = "enrol";
    let source = source.clone();
    let shown = blocking(move || Shown::read(&source)).await?;
    let key = TlsKey::generate().map_err(|e| EnrolError::Key(e.to_string()))?;
    let csr = key.csr_der().map_err(|e| EnrolError::Key(e.to_string()))?;
    let pinned = ClientTls::pinned(shown.ca, options.tls())?;
    let mut client = client(options, &pinned, WHAT).await?;
    let request = EnrolRequest {
        node: options.node.to_string(),
        signing_key: signing_key.verifying_key().to_bytes().to_vec().into(),
        signing_proof: enrol_proof(signing_key, &csr).to_vec().into(),
        csr_der: csr.into(),
        token: shown.text,
        kind: shown.kind.into(),
    };
    let answer = client.enrol(request).await.map_err(|s| refused(options, WHAT, &s))?.into_inner();
    let ca = spki_fingerprint(&answer.ca_der).map_err(|e| EnrolError::Answer(format!("its CA: {e}")))?;
    if ca != shown.ca {
        return Err(EnrolError::Answer(format!("its CA is {ca}, and {} was expected", shown.ca)));
    }
    let (held, material) = accept(options, &key, answer, Vec::new())?;
    store(options, &held.credentials).await?;
    Ok((held, material))
}

/// Checks an answer whole before any of it is used: the certificate is of our key and our name, and key, chain and CA
/// build a usable connector.
fn accept(
    options: &EnrolOptions,
    key: &TlsKey,
    answer: EnrolResponse,
    known_roots: Vec<CertificateDer<'static>>,
) -> Result<(Held, ClientMaterial), EnrolError> {
    let wrong = |e: &dyn fmt::Display| EnrolError::Answer(e.to_string());
    let chain: Vec<CertificateDer<'static>> =
        answer.chain_der.iter().map(|c| CertificateDer::from(c.to_vec())).collect();
    let leaf = chain.first().ok_or_else(|| wrong(&"it holds no certificate"))?;
    let facts = certificate_facts(leaf).map_err(|e| wrong(&e))?;
    let identity = facts.identity(&options.trust_domain).map_err(|e| wrong(&e))?;
    if identity != Identity::Node(options.node.clone()) {
        return Err(wrong(&format!("the certificate is of {identity}, and this is node {}", options.node)));
    }
    let receipt_key = <[u8; 32]>::try_from(answer.receipt_key.as_ref())
        .map_err(|_| wrong(&format!("its receipt key has {} bytes", answer.receipt_key.len())))?;
    let mut roots = vec![CertificateDer::from(answer.ca_der.to_vec())];
    roots.extend(known_roots.into_iter().filter(|r| r.as_ref() != answer.ca_der.as_ref()));
    roots.truncate(MAX_ROOTS);
    let credentials = Credentials {
        version: VERSION,
        node: options.node.clone(),
        key_pem: key.to_pem(),
        chain_pem: certificates_to_pem(&chain),
        roots_pem: certificates_to_pem(&roots),
        receipt_key: Fingerprint(receipt_key),
    };
    let material = credentials.material()?;
    // Building it shows that the key is the certificate's and the CA is one.
    ClientTls::new(&material, options.tls()).map_err(|e| wrong(&e))?;
    let validity =
        Validity { not_before_wall_ns: facts.not_before_wall_ns, not_after_wall_ns: facts.not_after_wall_ns };
    Ok((Held { credentials, validity }, material))
}

async fn store(options: &EnrolOptions, credentials: &Credentials) -> Result<(), EnrolError> {
    let path = options.credentials_path();
    let json = serde_json::to_vec_pretty(credentials).map_err(|e| EnrolError::Answer(e.to_string()))?;
    blocking(move || Ok(identity::write_reserved_private_file(&path, &json, CREDENTIALS_BYTES)?)).await
}

async fn client(
    options: &EnrolOptions,
    tls: &ClientTls,
    what: &'static str,
) -> Result<EnrolmentClient<Channel>, EnrolError> {
    let endpoint = tls.endpoint(&options.collector)?.timeout(CALL_WAIT);
    let channel = endpoint.connect_with_connector(tls.clone()).await.map_err(|e| {
        EnrolError::Unreachable { what, collector: options.collector.clone(), reason: whole_chain(&e) }
    })?;
    Ok(EnrolmentClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

fn refused(options: &EnrolOptions, what: &'static str, status: &tonic::Status) -> EnrolError {
    use tonic::Code;
    let collector = options.collector.clone();
    // A status with a cause was made on this side: the connection broke, or TLS was refused after the handshake.
    if std::error::Error::source(status).is_some() {
        return EnrolError::Unreachable { what, collector, reason: whole_chain(status) };
    }
    let transient = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Unknown
    );
    EnrolError::Refused { what, collector, reason: status.message().to_owned(), transient }
}

/// An error with its causes, each said once.
fn whole_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}

/// What is shown to be let in, and to whom.
struct Shown {
    kind: TokenKind,
    text: String,
    ca: Fingerprint,
}

impl Shown {
    /// Blocks for small files.
    fn read(source: &TokenSource) -> Result<Self, EnrolError> {
        let text = match source {
            TokenSource::Text(text) => text.clone(),
            TokenSource::File(path) => small_file(path, "the join token")?,
            TokenSource::ServiceAccount { token_file, ca_file } => {
                let pem = small_file(ca_file, "the collector's CA")?;
                let refuse = |reason: String| EnrolError::TokenFile {
                    what: "the collector's CA",
                    path: ca_file.clone(),
                    reason,
                };
                let roots = certificates_from_pem("collector CA", pem.as_bytes())
                    .map_err(|e| refuse(e.to_string()))?;
                let first = roots.first().ok_or_else(|| refuse("it holds no certificate".to_owned()))?;
                let ca = spki_fingerprint(first).map_err(|e| refuse(e.to_string()))?;
                let text = small_file(token_file, "the service account's token")?.trim().to_owned();
                return Ok(Self { kind: TokenKind::ServiceAccount, text, ca });
            }
        };
        let token: JoinToken = text.parse().map_err(|e| EnrolError::Token(format!("{e}")))?;
        Ok(Self { kind: TokenKind::Join, text: token.to_text(), ca: token.ca })
    }
}

fn small_file(path: &Path, what: &'static str) -> Result<String, EnrolError> {
    let refuse = |reason: String| EnrolError::TokenFile { what, path: path.to_owned(), reason };
    // A mounted secret is a symlink and may be readable by its group: the folder is what guards it.
    let file = File::open(path).map_err(|e| refuse(e.to_string()))?;
    let mut text = String::new();
    file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text).map_err(|e| refuse(e.to_string()))?;
    Ok(text)
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, EnrolError> + Send + 'static,
) -> Result<T, EnrolError> {
    tokio::task::spawn_blocking(f).await.unwrap_or(Err(EnrolError::Stopping))
}

/// 0 to 1; the middle where the system gives no random bytes, as spreading is all that it is for.
fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |n| f64::from(n) / f64::from(u32::MAX))
}

fn wall_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
