//! What both ends of an enrolment must make and check alike: the TLS key with its request, and the signing key's proof.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::PrivateKeyDer;

/// Keeps a proof from being taken for any other signature of the same key.
const PROOF_CONTEXT: &[u8] = b"dogwatch enrol v1\0";

/// Signs a certificate request with the key for chain heads: shows the collector that whoever asks holds that key too.
pub fn enrol_proof(key: &SigningKey, csr_der: &[u8]) -> [u8; 64] {
    key.sign(&statement(csr_der)).to_bytes()
}

/// Checks such a proof. `None` where the key is no key, is a weak one, or did not sign this request.
pub fn check_enrol_proof(key: &[u8], csr_der: &[u8], proof: &[u8]) -> Option<VerifyingKey> {
    let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    let signature = Signature::from_bytes(proof.try_into().ok()?);
    key.verify_strict(&statement(csr_der), &signature).ok()?;
    Some(key)
}

fn statement(csr_der: &[u8]) -> Vec<u8> {
    [PROOF_CONTEXT, csr_der].concat()
}

/// A fresh TLS key (ECDSA P-256). It is made where it is used and never leaves: only requests for it travel.
pub struct TlsKey(KeyPair);

impl TlsKey {
    /// Makes one.
    pub fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(Self)
    }

    /// The request for a certificate, DER. It names nobody: the collector decides names, and takes the public key alone.
    pub fn csr_der(&self) -> Result<Vec<u8>, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// PKCS#8 PEM, for a file that its owner alone can read.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// PKCS#8 DER, for TLS.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }
}

impl std::fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_key_and_request_alone() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key().to_bytes();
        let proof = enrol_proof(&key, b"request");
        assert!(check_enrol_proof(&public, b"request", &proof).is_some());
        assert!(check_enrol_proof(&public, b"another", &proof).is_none());
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
        assert!(check_enrol_proof(&other, b"request", &proof).is_none());
        assert!(check_enrol_proof(&public[..31], b"request", &proof).is_none());
        assert!(check_enrol_proof(&[0; 32], b"request", &proof).is_none(), "a weak key");
    }
}
