//! What a certificate says of its holder, and the fingerprint by which a CA is pinned.
//!
//! Reading here checks nothing cryptographic: [`crate::tls`] has verified the chain before it believes any of this.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Identity, IdentityError, TrustDomain};
use crate::record::InvalidValue;

const NS_PER_SECOND: i64 = 1_000_000_000;

/// SHA-256 of a certificate's DER SubjectPublicKeyInfo: stays the same when a CA's certificate is renewed for its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        super::join_token::from_hex(s)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("fingerprint", s, "must be 64 lower-case hex digits"))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(v: Fingerprint) -> Self {
        v.to_string()
    }
}

/// What is read from a certificate. Unverified by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its serial number, hex, at most 64 digits.
    pub serial: String,
    /// Valid from, wall ns.
    pub not_before_wall_ns: i64,
    /// Valid up to and including this second, wall ns.
    pub not_after_wall_ns: i64,
    /// Whether it may issue others.
    pub is_ca: bool,
    /// Its URI names, at most 4 of them, each cut to 512 characters.
    pub uris: Vec<String>,
    /// How many URI names it has in all.
    pub uri_count: usize,
    /// Fingerprint of its public key.
    pub fingerprint: Fingerprint,
}

impl CertificateFacts {
    /// The one identity that it bears in `domain`.
    pub fn identity(&self, domain: &TrustDomain) -> Result<Identity, IdentityError> {
        match self.uris.as_slice() {
            [uri] if self.uri_count == 1 => Identity::from_uri(uri, domain),
            _ => Err(IdentityError::UriCount(self.uri_count)),
        }
    }

    /// Whether it is past its last second at `now`.
    pub fn expired_at(&self, now_wall_ns: i64) -> bool {
        now_wall_ns >= self.not_after_wall_ns.saturating_add(NS_PER_SECOND)
    }
}

/// Reads a DER certificate; trailing bytes are refused.
pub fn certificate_facts(der: &[u8]) -> Result<CertificateFacts, IdentityError> {
    let cert = parse(der)?;
    let names = cert
        .subject_alternative_name()
        .map_err(|e| IdentityError::Unreadable(format!("its alternative names: {e}")))?;
    let all: Vec<&str> = names
        .iter()
        .flat_map(|n| &n.value.general_names)
        .filter_map(|n| match n {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let serial = cert.raw_serial().iter().take(32).map(|b| format!("{b:02x}")).collect();
    Ok(CertificateFacts {
        serial,
        not_before_wall_ns: cert.validity().not_before.timestamp().saturating_mul(NS_PER_SECOND),
        not_after_wall_ns: cert.validity().not_after.timestamp().saturating_mul(NS_PER_SECOND),
        is_ca: cert.is_ca(),
        uris: all.iter().take(4).map(|u| u.chars().take(512).collect()).collect(),
        uri_count: all.len(),
        fingerprint: Fingerprint(Sha256::digest(cert.public_key().raw).into()),
    })
}

/// The fingerprint of a DER certificate's public key.
pub fn spki_fingerprint(der: &[u8]) -> Result<Fingerprint, IdentityError> {
    Ok(Fingerprint(Sha256::digest(parse(der)?.public_key().raw).into()))
}

/// DER certificates as PEM, in order.
pub fn certificates_to_pem(chain: &[CertificateDer<'_>]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    chain.iter().map(|der| pem::encode_config(&pem::Pem::new("CERTIFICATE", der.to_vec()), config)).collect()
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    let (rest, cert) =
        X509Certificate::from_der(der).map_err(|e| IdentityError::Unreadable(e.to_string()))?;
    if rest.is_empty() {
        Ok(cert)
    } else {
        Err(IdentityError::Unreadable(format!("{} bytes follow it", rest.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn with_uris(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names =
            uris.iter().map(|u| SanType::URI((*u).to_owned().try_into().unwrap())).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn one_uri_is_an_identity_and_two_or_none_are_not() {
        let domain = TrustDomain::default();
        let one = certificate_facts(&with_uris(&["spiffe://dogwatch/node/a"])).unwrap();
        assert_eq!(one.identity(&domain).unwrap(), Identity::Node("a".parse().unwrap()));
        let two = certificate_facts(&with_uris(&["spiffe://dogwatch/node/a", "spiffe://x/y"])).unwrap();
        assert_eq!(two.identity(&domain), Err(IdentityError::UriCount(2)));
        let none = certificate_facts(&with_uris(&[])).unwrap();
        assert_eq!(none.identity(&domain), Err(IdentityError::UriCount(0)));
    }

    #[test]
    fn garbage_and_trailing_bytes_are_refused() {
        assert!(certificate_facts(b"garbage").is_err());
        let mut der = with_uris(&["spiffe://dogwatch/collector"]);
        assert!(certificate_facts(&der[..der.len() / 2]).is_err());
        der.push(0);
        assert!(certificate_facts(&der).is_err());
    }

    #[test]
    fn the_fingerprint_is_of_the_key_and_not_of_the_certificate() {
        let key = KeyPair::generate().unwrap();
        let a = CertificateParams::new(vec!["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        let b = CertificateParams::new(vec!["b".to_owned()]).unwrap().self_signed(&key).unwrap();
        assert_ne!(a.der(), b.der());
        assert_eq!(spki_fingerprint(a.der()).unwrap(), spki_fingerprint(b.der()).unwrap());
        let text = spki_fingerprint(a.der()).unwrap().to_string();
        assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), text);
    }
}
