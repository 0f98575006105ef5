//! The built-in certificate authority.
//!
//! Layout of its folder (mode 0700): `ca.key` (PKCS#8 PEM, ECDSA P-256, 0600) and `ca.pem` (its certificate, 10 years).
//! The key is written first; a key without a certificate gets a new certificate, whose fingerprint is the same, as
//! fingerprints are of the key. A certificate without its key, or of another key, is an error: every node would have to
//! enrol anew, and that is a person's decision.
//!
//! Invariants: of a request only the public key is taken, after its signature showed that the caller holds the private
//! one; names, usages and lifetimes are decided here; serial numbers are random; nothing outlives the CA. Lifetimes are
//! counted from now; the beginning is set back by at most [`CLOCK_SKEW`], and by no more than half the lifetime, so that
//! "after two thirds of it" is never in the past.
//!
//! Deliberately absent: revocation (lifetimes are short), intermediate CAs, serving an external CA. Where one is used,
//! there is simply no [`Ca`].

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dogwatch::identity::{
    self, CertificateFacts, Fingerprint, Identity, KeyFileError, PersonName, Role, TlsKey, TrustDomain,
    certificate_facts,
};
use dogwatch::record::NodeName;
use dogwatch::tls::{ServerMaterial, ServerTls, TlsError, certificates_from_pem};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PublicKey, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

/// How far two clocks may differ before a fresh certificate seems to be from the future.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// The CA's own lifetime.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 366 * DAY);
/// The longest that a node's certificate lasts: longer lifetimes would need revocation.
pub const MAX_NODE_LIFETIME: Duration = Duration::from_secs(90 * DAY);
const MAX_SERVER_LIFETIME: Duration = Duration::from_secs(366 * DAY);
const MAX_PERSON_LIFETIME: Duration = Duration::from_secs(366 * DAY);
const DAY: u64 = 24 * 3600;
/// A P-256 request without names takes about 200 bytes.
const MAX_CSR_BYTES: usize = 4 * 1024;
/// More names than one collector is reached by.
const MAX_SERVER_NAMES: usize = 64;
/// A long sleep would overlook a jump of the wall clock.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The last second that X.509 can write.
const LAST_SECOND: i64 = 253_402_300_799;
const NS: i64 = 1_000_000_000;

/// What the CA issues.
#[derive(Debug, Clone)]
pub struct CaOptions {
    /// First part of every identity.
    pub trust_domain: TrustDomain,
    /// Lifetime of a node's certificate; 1 s to 90 days.
    pub node_lifetime: Duration,
    /// Lifetime of the collector's own; 1 s to 366 days.
    pub server_lifetime: Duration,
    /// DNS names and addresses that the collector is reached by, for clients that look at those.
    pub server_names: Vec<String>,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            node_lifetime: Duration::from_secs(DAY),
            server_lifetime: Duration::from_secs(7 * DAY),
            server_names: vec!["localhost".to_owned()],
        }
    }
}

/// Why the CA cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its files.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// Its files contradict each other.
    #[error(
        "the CA in {} is damaged: {reason}. Restore the folder from a backup; if there is none, move it away: a new CA \
         is made and every node and person must be let in again", dir.display()
    )]
    Damaged {
        /// Where it is.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A lifetime out of bounds.
    #[error("a {what} certificate cannot last {} s: it must be 1 s to {} days", asked.as_secs(), max.as_secs() / DAY)]
    Lifetime {
        /// Whose.
        what: &'static str,
        /// What was asked.
        asked: Duration,
        /// At most.
        max: Duration,
    },
    /// A server name that is neither a DNS name nor an address.
    #[error("the collector's name {name:?} cannot be put into a certificate: {reason}")]
    ServerName {
        /// As configured.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A certificate request that is not honoured.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// The CA itself has expired.
    #[error("the CA expired at {0}; move its folder away, so that a new one is made, and let nodes in again")]
    Expired(String),
    /// Making the certificate failed.
    #[error("cannot make a certificate: {0}")]
    Making(String),
    /// The new certificate cannot be shown.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A certificate as issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// DER, leaf first, without the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its last second, wall ns.
    pub not_after_wall_ns: i64,
    /// Its serial number, hex.
    pub serial: String,
}

/// A person's certificate with the key that was made for it: the one case in which a key travels.
#[derive(Clone)]
pub struct IssuedPerson {
    /// PEM, leaf first.
    pub chain_pem: String,
    /// PKCS#8 PEM. Nobody keeps a copy.
    pub key_pem: String,
    /// PEM of the CA that the collector's certificate chains to.
    pub ca_pem: String,
    /// Last second, wall ns.
    pub not_after_wall_ns: i64,
}

impl std::fmt::Debug for IssuedPerson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedPerson(until {})", self.not_after_wall_ns)
    }
}

/// A certificate request whose sender holds the private key. Its names and wishes are already forgotten.
#[derive(Debug)]
pub struct CheckedRequest(PublicKey);

impl CheckedRequest {
    /// Reads and checks a PKCS#10 request: ECDSA P-256 or Ed25519, at most 4 KiB.
    pub fn from_der(der: &[u8]) -> Result<Self, CaError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CaError::Request(format!("{} bytes; at most {MAX_CSR_BYTES}", der.len())));
        }
        let request = CertificateSigningRequestParams::from_der(&der.into())
            .map_err(|e| CaError::Request(e.to_string()))?;
        let key = request.public_key;
        // The length tells P-256 (uncompressed point) from another curve signed with the same hash.
        let length = rcgen::PublicKeyData::der_bytes(&key).len();
        let p256 = *key.algorithm() == PKCS_ECDSA_P256_SHA256 && length == 65;
        let ed25519 = *key.algorithm() == PKCS_ED25519 && length == 32;
        if p256 || ed25519 {
            Ok(Self(key))
        } else {
            Err(CaError::Request("its key must be ECDSA P-256 or Ed25519".to_owned()))
        }
    }
}

/// The built-in CA. Issuing blocks for one signature and touches no file.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_pem: String,
    facts: CertificateFacts,
    options: CaOptions,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({})", self.facts.fingerprint)
    }
}

impl Ca {
    /// Opens the CA in `dir`; makes it on the first start. Refuses lifetimes and names that it could not issue later.
    pub fn open_or_create(dir: &Path, options: CaOptions, now_wall_ns: i64) -> Result<Self, CaError> {
        within("node", options.node_lifetime, MAX_NODE_LIFETIME)?;
        within("collector", options.server_lifetime, MAX_SERVER_LIFETIME)?;
        server_sans(&options)?;
        identity::create_private_dir(dir)?;
        let (key_path, cert_path) = (dir.join("ca.key"), dir.join("ca.pem"));
        let damaged = |reason: String| CaError::Damaged { dir: dir.to_owned(), reason };
        let key = match identity::read_private_file(&key_path) {
            Ok(pem) => {
                let text = String::from_utf8(pem).map_err(|e| damaged(format!("ca.key: {e}")))?;
                KeyPair::from_pem(&text).map_err(|e| damaged(format!("ca.key: {e}")))?
            }
            Err(e) if e.is_not_found() && cert_path.exists() => {
                return Err(damaged("ca.pem is there and ca.key is not".to_owned()));
            }
            Err(e) if e.is_not_found() => {
                let key = KeyPair::generate().map_err(making)?;
                identity::create_private_file(&key_path, key.serialize_pem().as_bytes())?;
                key
            }
            Err(e) => return Err(e.into()),
        };
        let root_pem = match fs::read_to_string(&cert_path) {
            Ok(pem) => pem,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let pem = new_root(&key, now_wall_ns)?;
                identity::write_public_file(&cert_path, pem.as_bytes())?;
                pem
            }
            Err(e) => return Err(damaged(format!("ca.pem: {e}"))),
        };
        let root = certificates_from_pem("CA", root_pem.as_bytes())
            .map_err(|e| damaged(format!("ca.pem: {e}")))?
            .swap_remove(0);
        let facts = certificate_facts(&root).map_err(|e| damaged(format!("ca.pem: {e}")))?;
        let own = rcgen::PublicKeyData::subject_public_key_info(&key);
        if facts.fingerprint != fingerprint_of(&own) {
            return Err(damaged("ca.pem is not the certificate of ca.key".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(|e| damaged(format!("ca.pem: {e}")))?;
        Ok(Self { issuer, root, root_pem, facts, options })
    }

    /// What join tokens carry.
    pub fn fingerprint(&self) -> Fingerprint {
        self.facts.fingerprint
    }

    /// The CA's certificate, DER.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The CA's certificate, PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The CA's last second, wall ns: nothing that it issues lasts longer.
    pub fn not_after_wall_ns(&self) -> i64 {
        self.facts.not_after_wall_ns
    }

    /// The domain of the identities that it issues.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.options.trust_domain
    }

    /// A certificate for `node`, over the key of `request`.
    pub fn issue_node(
        &self,
        node: &NodeName,
        request: &CheckedRequest,
        now_wall_ns: i64,
    ) -> Result<Issued, CaError> {
        let identity = Identity::Node(node.clone());
        let params = self.leaf(
            "dogwatch node",
            &identity,
            self.options.node_lifetime,
            ExtendedKeyUsagePurpose::ClientAuth,
            now_wall_ns,
        )?;
        self.sign(params, request.0.clone())
    }

    /// A certificate and key for a person.
    pub fn issue_person(
        &self,
        name: &PersonName,
        role: Role,
        lifetime: Duration,
        now_wall_ns: i64,
    ) -> Result<IssuedPerson, CaError> {
        within("person's", lifetime, MAX_PERSON_LIFETIME)?;
        let identity = Identity::Person { name: name.clone(), role };
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        let params = self.leaf("dogwatch person", &identity, lifetime, usage, now_wall_ns)?;
        let key = TlsKey::generate().map_err(making)?;
        let issued = self.sign(params, public_key_of(&key)?)?;
        Ok(IssuedPerson {
            chain_pem: pem_of(&issued.chain),
            key_pem: key.to_pem(),
            ca_pem: self.root_pem.clone(),
            not_after_wall_ns: issued.not_after_wall_ns,
        })
    }

    /// A fresh certificate and key for the collector itself, with the CA in the chain (nodes that enrol know only its
    /// fingerprint), believing clients of this CA.
    pub fn server_material(&self, now_wall_ns: i64) -> Result<ServerMaterial, CaError> {
        let mut params = self.leaf(
            "dogwatch collector",
            &Identity::Collector,
            self.options.server_lifetime,
            ExtendedKeyUsagePurpose::ServerAuth,
            now_wall_ns,
        )?;
        params.subject_alt_names.extend(server_sans(&self.options)?);
        let key = TlsKey::generate().map_err(making)?;
        let issued = self.sign(params, public_key_of(&key)?)?;
        let mut chain = issued.chain;
        chain.push(self.root.clone());
        Ok(ServerMaterial { chain, key: key.to_der(), client_roots: vec![self.root.clone()] })
    }

    fn leaf(
        &self,
        common_name: &str,
        identity: &Identity,
        lifetime: Duration,
        usage: ExtendedKeyUsagePurpose,
        now_wall_ns: i64,
    ) -> Result<CertificateParams, CaError> {
        if self.facts.expired_at(now_wall_ns) {
            return Err(CaError::Expired(super::shown_time(self.facts.not_after_wall_ns)));
        }
        let now = now_wall_ns.div_euclid(NS);
        let lasts = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let set_back = i64::try_from(CLOCK_SKEW.as_secs()).unwrap_or(0).min(lasts / 2);
        let uri = identity.to_uri(&self.options.trust_domain);
        let mut params = params(common_name)?;
        let last = now.saturating_add(lasts).min(self.facts.not_after_wall_ns.div_euclid(NS));
        set_validity(&mut params, now.saturating_sub(set_back), last);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(making)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn sign(&self, params: CertificateParams, public_key: PublicKey) -> Result<Issued, CaError> {
        let certificate =
            CertificateSigningRequestParams { params, public_key }.signed_by(&self.issuer).map_err(making)?;
        let facts = certificate_facts(certificate.der()).map_err(making)?;
        Ok(Issued {
            chain: vec![certificate.der().clone()],
            not_after_wall_ns: facts.not_after_wall_ns,
            serial: facts.serial,
        })
    }
}

/// Renews the collector's own certificate at two thirds of its life, for ever; `report` hears of each renewal (its last
/// second) and each failure, after which it tries again a minute later. Drop the future to end it.
pub async fn keep_server_certificate(ca: Arc<Ca>, tls: ServerTls, report: impl Fn(Result<i64, CaError>)) {
    loop {
        let shown = tls.shown();
        let life = shown.not_after_wall_ns.saturating_sub(shown.not_before_wall_ns);
        let due = shown.not_before_wall_ns.saturating_add(life / 3 * 2);
        let left = due.saturating_sub(super::wall_ns());
        if left > 0 {
            let left = Duration::from_nanos(u64::try_from(left).unwrap_or(0));
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
            continue;
        }
        let renewed = ca
            .server_material(super::wall_ns())
            .and_then(|material| tls.swap(&material).map_err(CaError::from))
            .map(|()| tls.shown().not_after_wall_ns);
        let failed = renewed.is_err();
        report(renewed);
        if failed {
            tokio::time::sleep(LOOK_AGAIN).await;
        } else {
            // Lifetimes are whole seconds: a shorter pause could only find the same second again.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

fn making(e: impl std::fmt::Display) -> CaError {
    CaError::Making(e.to_string())
}

fn within(what: &'static str, asked: Duration, max: Duration) -> Result<(), CaError> {
    if asked >= Duration::from_secs(1) && asked <= max {
        Ok(())
    } else {
        Err(CaError::Lifetime { what, asked, max })
    }
}

fn params(common_name: &str) -> Result<CertificateParams, CaError> {
    let mut serial = [0u8; 16];
    getrandom::fill(&mut serial).map_err(making)?;
    // Positive and not zero, as RFC 5280 has it; 126 random bits remain.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = name;
    Ok(params)
}

fn new_root(key: &KeyPair, now_wall_ns: i64) -> Result<String, CaError> {
    // The name holds part of the key's fingerprint: two CAs never share a name, so that a certificate of one is said to
    // be of an unknown issuer by the other, and not to bear a bad signature.
    let fingerprint = fingerprint_of(&rcgen::PublicKeyData::subject_public_key_info(key)).to_string();
    let now = now_wall_ns.div_euclid(NS);
    let mut params = params(&format!("dogwatch CA {}", &fingerprint[..16]))?;
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(0);
    set_validity(
        &mut params,
        now.saturating_sub(seconds(CLOCK_SKEW)),
        now.saturating_add(seconds(CA_LIFETIME)),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).map_err(making)?.pem())
}

fn fingerprint_of(spki_der: &[u8]) -> Fingerprint {
    use sha2::Digest;
    Fingerprint(sha2::Sha256::digest(spki_der).into())
}

/// A moment as X.509 writes it; clamped to what can be written.
fn since_epoch(unix: i64) -> Duration {
    Duration::from_secs(u64::try_from(unix.clamp(0, LAST_SECOND)).unwrap_or(0))
}

/// Sets both ends, in Unix seconds.
fn set_validity(params: &mut CertificateParams, from: i64, to: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(to);
}

fn public_key_of(key: &TlsKey) -> Result<PublicKey, CaError> {
    Ok(CheckedRequest::from_der(&key.csr_der().map_err(making)?)?.0)
}

fn pem_of(chain: &[CertificateDer<'_>]) -> String {
    identity::certificates_to_pem(chain)
}

fn server_sans(options: &CaOptions) -> Result<Vec<SanType>, CaError> {
    if options.server_names.len() > MAX_SERVER_NAMES {
        return Err(CaError::ServerName {
            name: format!("{} names", options.server_names.len()),
            reason: format!("at most {MAX_SERVER_NAMES} are allowed"),
        });
    }
    options.server_names.iter().map(|name| server_san(name)).collect()
}

fn server_san(name: &str) -> Result<SanType, CaError> {
    let refuse = |reason: String| CaError::ServerName { name: name.to_owned(), reason };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    match rustls::pki_types::DnsName::try_from(name) {
        Ok(_) => Ok(SanType::DnsName(name.to_owned().try_into().map_err(|e| refuse(format!("{e}")))?)),
        Err(_) => Err(refuse("it is neither a DNS name nor an IP address".to_owned())),
    }
}
