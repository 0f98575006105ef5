//! A node whose certificate comes from an external CA (cert-manager, SPIFFE): files that somebody else renews.
//!
//! The files are read again when their bytes change; until new ones are usable the old ones stay.

use std::path::Path;
use std::time::Duration;

use dogwatch::supervise::Stop;
use dogwatch::tls::{ClientMaterial, ClientTls, ClientTlsOptions};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::config::CertificateFiles;
use crate::enrol::EnrolOptions;
use crate::uplink::UplinkStatus;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Largest file that is read: a chain of a few certificates is some kilobytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Follows the files for ever.
pub(super) struct Follow {
    files: CertificateFiles,
    tls: ClientTls,
    seen: Option<[u8; 32]>,
}

/// Waits until the files are usable; `None` when the agent stops meanwhile.
pub(super) async fn open(
    files: &CertificateFiles,
    options: &EnrolOptions,
    status: &watch::Sender<UplinkStatus>,
    stop: &Stop,
) -> Option<(ClientTls, Follow)> {
    let tls_options = ClientTlsOptions {
        trust_domain: options.trust_domain.clone(),
        dns_name: options.server_dns_name.clone(),
        connect_timeout: options.connect_timeout,
    };
    loop {
        let seen = stamp(files);
        let error = match load(files)
            .and_then(|m| ClientTls::new(&m, tls_options.clone()).map_err(|e| e.to_string()))
        {
            Ok(tls) => {
                let follow = Follow { files: files.clone(), tls: tls.clone(), seen };
                return Some((tls, follow));
            }
            Err(e) => e,
        };
        if status.borrow().error.as_deref() != Some(error.as_str()) {
            tracing::warn!(
                error,
                "the node's certificate files are not usable; recording goes on, and they are tried again"
            );
            status.send_modify(|s| s.error = Some(error));
        }
        tokio::select! {
            () = stop.wait() => return None,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

impl Follow {
    /// Shows changed files from the next connection on. Drop the future to end it.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let seen = stamp(&self.files);
            if seen == self.seen {
                continue;
            }
            match load(&self.files).and_then(|m| self.tls.swap(&m).map_err(|e| e.to_string())) {
                Ok(()) => tracing::info!("the node's certificate files changed; the new ones are in use"),
                Err(error) => {
                    tracing::error!(error, "the new certificate files are not usable; the old stay")
                }
            }
            self.seen = seen;
        }
    }
}

fn load(files: &CertificateFiles) -> Result<ClientMaterial, String> {
    ClientMaterial::from_files(&files.certificate, &files.key, &files.ca).map_err(|e| e.to_string())
}

/// What the three files hold, as one digest; `None` while one of them cannot be read.
fn stamp(files: &CertificateFiles) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    for path in [&files.certificate, &files.key, &files.ca] {
        let bytes = read(path)?;
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    Some(hash.finalize().into())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    if std::fs::metadata(path).ok()?.len() > MAX_FILE_BYTES {
        return None;
    }
    std::fs::read(path).ok()
}
