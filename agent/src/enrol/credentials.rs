//! The credentials file: what is kept of an enrolment, how long it is good, and when to renew it.

use std::fmt;
use std::time::Duration;

use dogwatch::identity::{self, Fingerprint, certificate_facts};
use dogwatch::record::NodeName;
use dogwatch::tls::{ClientMaterial, TlsError, certificates_from_pem};
use serde::{Deserialize, Serialize};

use super::{EnrolOptions, NS};

/// Of the file's format.
pub(super) const VERSION: u32 = 1;
/// Between attempts to renew: a tenth of what is left, within these.
pub(super) const RETRY_AT_LEAST: Duration = Duration::from_secs(1);
pub(super) const RETRY_AT_MOST: Duration = Duration::from_secs(15 * 60);

/// What is kept on disk.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    pub(super) version: u32,
    pub(super) node: NodeName,
    pub(super) key_pem: String,
    pub(super) chain_pem: String,
    /// Newest first.
    pub(super) roots_pem: String,
    /// Ed25519, hex of 32 bytes.
    pub(super) receipt_key: Fingerprint,
}

impl Credentials {
    pub(super) fn material(&self) -> Result<ClientMaterial, TlsError> {
        ClientMaterial::from_pem(&self.chain_pem, &self.key_pem, &self.roots_pem)
    }

    pub(super) fn validity(&self) -> Result<Validity, TlsError> {
        let leaf = certificates_from_pem("certificate", self.chain_pem.as_bytes())?.swap_remove(0);
        let facts = certificate_facts(&leaf)
            .map_err(|e| TlsError::Material { what: "certificate", reason: e.to_string() })?;
        Ok(Validity {
            not_before_wall_ns: facts.not_before_wall_ns,
            not_after_wall_ns: facts.not_after_wall_ns,
        })
    }
}

/// From when to when the certificate is good, wall ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub not_before_wall_ns: i64,
    /// Its last second.
    pub not_after_wall_ns: i64,
}

impl Validity {
    pub(super) fn expired_at(self, now_wall_ns: i64) -> bool {
        now_wall_ns >= self.not_after_wall_ns.saturating_add(NS)
    }

    /// When to renew: at two thirds of the life, or up to a tenth of it later, as `jitter` (0 to 1) says, so that nodes
    /// that were let in together do not come back together.
    pub(super) fn renewal_wall_ns(self, jitter: f64) -> i64 {
        let life = self.not_after_wall_ns.saturating_sub(self.not_before_wall_ns).max(0);
        let spread = (life as f64 * 0.1 * jitter.clamp(0.0, 1.0)) as i64;
        self.not_before_wall_ns.saturating_add(life / 3 * 2).saturating_add(spread)
    }
}

/// The stored credentials, if they can be used at `now`; else why not, in words that follow "node x".
pub(super) fn load(options: &EnrolOptions, now_wall_ns: i64) -> Result<(Held, ClientMaterial), String> {
    let path = options.credentials_path();
    let damaged = |e: &dyn fmt::Display| format!("has damaged credentials in {}: {e}", path.display());
    let bytes = identity::read_private_file(&path).map_err(|e| {
        if e.is_not_found() {
            "has no certificate yet".to_owned()
        } else {
            format!("cannot use its credentials: {e}")
        }
    })?;
    let credentials: Credentials = serde_json::from_slice(&bytes).map_err(|e| damaged(&e))?;
    if credentials.version != VERSION {
        return Err(damaged(&format!("version {}; this agent knows {VERSION}", credentials.version)));
    }
    if credentials.node != options.node {
        return Err(format!("has the credentials of node {} in its state folder", credentials.node));
    }
    let material = credentials.material().map_err(|e| damaged(&e))?;
    let validity = credentials.validity().map_err(|e| damaged(&e))?;
    if validity.expired_at(now_wall_ns) {
        return Err(expired_text(validity));
    }
    Ok((Held { credentials, validity }, material))
}

pub(super) fn expired_text(validity: Validity) -> String {
    let at = jiff::Timestamp::from_second(validity.not_after_wall_ns.div_euclid(NS));
    let at = at.map_or_else(|_| "an unknown time".to_owned(), |t| t.to_string());
    format!("has a certificate that expired at {at}")
}

/// A tenth of what is left of the certificate, within bounds, and half of that again by jitter.
pub(super) fn retry_after(validity: Validity, now_wall_ns: i64, jitter: f64) -> Duration {
    let left = u64::try_from(validity.not_after_wall_ns.saturating_sub(now_wall_ns)).unwrap_or(0);
    let base = match left {
        // Expired: a new token may come at any time.
        0 => RETRY_AT_MOST / 15,
        left => Duration::from_nanos(left / 10).clamp(RETRY_AT_LEAST, RETRY_AT_MOST),
    };
    base + base.mul_f64(jitter.clamp(0.0, 1.0) * 0.5)
}

/// What changes at a renewal.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) credentials: Credentials,
    pub(super) validity: Validity,
}
