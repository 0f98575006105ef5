//! Who is believed: the verifiers behind both ends of a handshake.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};

use super::server::{Claim, HandshakeRefusal};
use crate::identity::{
    CertificateFacts, Fingerprint, Identity, TrustDomain, certificate_facts, spki_fingerprint,
};

/// Refuses what the inner verifier refuses, and what bears no identity; keeps what a refused certificate claimed.
/// One for each connection, so that a claim cannot be taken for another peer's.
#[derive(Debug)]
pub(super) struct ClaimKeeper {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) domain: TrustDomain,
    pub(super) kept: Arc<Mutex<Option<(HandshakeRefusal, Claim)>>>,
}

impl ClaimKeeper {
    fn keep(&self, reason: HandshakeRefusal, claim: Claim) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((reason, claim));
    }

    /// Whether the certificate would have been believed on a day when it was in date.
    fn chained_once(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        facts: &CertificateFacts,
    ) -> bool {
        let seconds = u64::try_from(facts.not_after_wall_ns / 1_000_000_000).unwrap_or(0);
        let then = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.inner.verify_client_cert(end_entity, intermediates, then).is_ok()
    }

    fn classify(
        &self,
        error: &Error,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        facts: Option<&CertificateFacts>,
    ) -> (HandshakeRefusal, bool) {
        use CertificateError as C;
        let Error::InvalidCertificate(why) = error else { return (HandshakeRefusal::BadCertificate, false) };
        let out_of_date = match why {
            C::Expired | C::ExpiredContext { .. } => HandshakeRefusal::Expired,
            C::NotValidYet | C::NotValidYetContext { .. } => HandshakeRefusal::NotValidYet,
            C::UnknownIssuer | C::BadSignature => return (HandshakeRefusal::UnknownIssuer, false),
            _ => return (HandshakeRefusal::BadCertificate, false),
        };
        if facts.is_some_and(|f| self.chained_once(end_entity, intermediates, f)) {
            (out_of_date, true)
        } else {
            (HandshakeRefusal::UnknownIssuer, false)
        }
    }
}

impl ClientCertVerifier for ClaimKeeper {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let facts = certificate_facts(end_entity);
        match self.inner.verify_client_cert(end_entity, intermediates, now) {
            Err(error) => {
                let (reason, chained) = self.classify(&error, end_entity, intermediates, facts.as_ref().ok());
                self.keep(reason, Claim::of(facts.as_ref().ok(), &self.domain, chained));
                Err(error)
            }
            Ok(verified) => match facts.as_ref().map(|f| f.identity(&self.domain)) {
                Ok(Ok(_)) => Ok(verified),
                _ => {
                    let claim = Claim::of(facts.as_ref().ok(), &self.domain, true);
                    self.keep(HandshakeRefusal::NoIdentity, claim);
                    Err(CertificateError::ApplicationVerificationFailure.into())
                }
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// By what a client knows the collector's CA.
#[derive(Debug)]
pub(super) enum Trust {
    /// It holds the CA.
    Roots(RootCertStore),
    /// It holds a fingerprint (a join token's): the server must show the CA, and its leaf must chain to it.
    Pinned(Fingerprint),
}

/// Believes the collector, and nobody else of the same CA: a stolen node certificate must not receive other nodes'
/// evidence.
#[derive(Debug)]
pub(super) struct CollectorVerifier {
    pub(super) trust: Trust,
    pub(super) domain: TrustDomain,
    /// A name that is believed in place of the collector's identity, for a CA that issues no URI names.
    pub(super) dns_name: Option<ServerName<'static>>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl CollectorVerifier {
    fn chain_holds(
        &self,
        leaf: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let check = |roots: &RootCertStore| {
            verify_server_cert_signed_by_trust_anchor(leaf, roots, intermediates, now, self.algorithms.all)
        };
        match &self.trust {
            Trust::Roots(roots) => check(roots),
            Trust::Pinned(fingerprint) => {
                let ca = intermediates
                    .iter()
                    .find(|c| spki_fingerprint(c).is_ok_and(|f| f == *fingerprint))
                    .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let mut pinned = RootCertStore::empty();
                pinned.add(ca.clone().into_owned())?;
                check(&pinned)
            }
        }
    }

    fn is_collector(&self, end_entity: &CertificateDer<'_>, leaf: &ParsedCertificate<'_>) -> bool {
        let identity = certificate_facts(end_entity).map(|f| f.identity(&self.domain));
        match identity {
            Ok(Ok(Identity::Collector)) => true,
            // Someone of ours, but not the collector, whatever DNS names it was given besides.
            Ok(Ok(_)) => false,
            _ => self.dns_name.as_ref().is_some_and(|name| verify_server_name(leaf, name).is_ok()),
        }
    }
}

impl ServerCertVerifier for CollectorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        self.chain_holds(&leaf, intermediates, now)?;
        if self.is_collector(end_entity, &leaf) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
