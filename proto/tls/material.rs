//! Certificates and keys as they come from memory or files, before anything is built of them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{TlsError, provider};
use crate::identity::MAX_KEY_FILE_BYTES;

/// More certificates in one file than any chain or rotation needs.
const MAX_CERTIFICATES: usize = 64;

/// What a server shows, and whom it believes.
pub struct ServerMaterial {
    /// Leaf first. Include the CA itself where nodes enrol with join tokens: they find it by its fingerprint.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the leaf.
    pub key: PrivateKeyDer<'static>,
    /// Whose client certificates are believed; several while a CA is being replaced.
    pub client_roots: Vec<CertificateDer<'static>>,
}

impl Clone for ServerMaterial {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), client_roots: self.client_roots.clone() }
    }
}

impl fmt::Debug for ServerMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerMaterial({} certificates, {} roots)", self.chain.len(), self.client_roots.len())
    }
}

/// The files of a certificate that something else keeps (cert-manager, an external CA).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// PEM, leaf first.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// PEM, one or more.
    pub client_roots: PathBuf,
}

impl ServerMaterial {
    /// Reads all three files. A mounted secret may be a symlink and readable by its group (Kubernetes' `fsGroup` makes
    /// it so); a key that everybody can read is refused.
    pub fn from_files(files: &ServerFiles) -> Result<Self, TlsError> {
        let chain = read("certificate", &files.chain, false)?;
        let key = read("key", &files.key, true)?;
        let roots = read("client CA", &files.client_roots, false)?;
        Ok(Self {
            chain: certificates_from_pem("certificate", &chain)?,
            key: key_from_pem(&key)?,
            client_roots: certificates_from_pem("client CA", &roots)?,
        })
    }
}

/// What a client shows, and whom it believes.
pub struct ClientMaterial {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the leaf.
    pub key: PrivateKeyDer<'static>,
    /// Whose collector certificates are believed.
    pub roots: Vec<CertificateDer<'static>>,
}

impl ClientMaterial {
    /// From PEM texts, as a credentials file holds them.
    pub fn from_pem(chain: &str, key: &str, roots: &str) -> Result<Self, TlsError> {
        Ok(Self {
            chain: certificates_from_pem("certificate", chain.as_bytes())?,
            key: key_from_pem(key.as_bytes())?,
            roots: certificates_from_pem("server CA", roots.as_bytes())?,
        })
    }

    /// From PEM files, as a person keeps them. The key may be readable by its owner alone.
    pub fn from_files(chain: &Path, key: &Path, roots: &Path) -> Result<Self, TlsError> {
        let key_pem = crate::identity::read_private_file(key).map_err(|e| TlsError::File {
            what: "key",
            path: key.display().to_string(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            chain: certificates_from_pem("certificate", &read("certificate", chain, false)?)?,
            key: key_from_pem(&key_pem)?,
            roots: certificates_from_pem("server CA", &read("server CA", roots, false)?)?,
        })
    }
}

impl Clone for ClientMaterial {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), roots: self.roots.clone() }
    }
}

impl fmt::Debug for ClientMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientMaterial({} certificates, {} roots)", self.chain.len(), self.roots.len())
    }
}

/// Every certificate in a PEM text, in order; none at all, more than 64, or a damaged one is an error that says `what`.
pub fn certificates_from_pem(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let material = |reason: String| TlsError::Material { what, reason };
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificates.push(certificate.map_err(|e| material(format!("its PEM is damaged: {e}")))?);
        if certificates.len() > MAX_CERTIFICATES {
            return Err(material(format!("it holds over {MAX_CERTIFICATES} certificates")));
        }
    }
    if certificates.is_empty() {
        return Err(material("it holds no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

fn key_from_pem(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| TlsError::Material {
        what: "key",
        reason: format!("it holds no private key in PEM: {e}"),
    })
}

/// Chain and key, checked to belong together.
pub(super) fn certified_key(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsError> {
    CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider()).map_err(|e| TlsError::Material {
        what: "certificate",
        reason: format!("with this key: {e}; certificate and key must be of one pair"),
    })
}

pub(super) fn root_store(
    what: &'static str,
    roots: &[CertificateDer<'static>],
) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root.clone())
            .map_err(|e| TlsError::Material { what, reason: format!("a certificate in it: {e}") })?;
    }
    if store.is_empty() {
        return Err(TlsError::Material { what, reason: "it holds no certificate".to_owned() });
    }
    Ok(store)
}

fn read(what: &'static str, path: &Path, secret: bool) -> Result<Vec<u8>, TlsError> {
    let refuse = |reason: String| TlsError::File { what, path: path.display().to_string(), reason };
    let file = File::open(path).map_err(|e| refuse(e.to_string()))?;
    let meta = file.metadata().map_err(|e| refuse(e.to_string()))?;
    if !meta.is_file() {
        return Err(refuse("it is no regular file".to_owned()));
    }
    if secret && meta.permissions().mode() & 0o007 != 0 {
        return Err(refuse("everybody can read or write it; run `chmod o-rwx` on it".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| refuse(e.to_string()))?;
    if bytes.len() as u64 > MAX_KEY_FILE_BYTES {
        return Err(refuse(format!("it is longer than {MAX_KEY_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}
