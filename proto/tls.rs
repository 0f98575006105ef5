//! TLS between dogwatch's processes: an acceptor that can change its certificate while it runs and says whom it refused,
//! and a connector that takes its certificate from a slot at each connect.
//!
//! Invariants
//! - TLS 1.3 and HTTP/2 only; one cryptographic provider (ring), always named, never a process default.
//! - A client certificate that is presented must chain to a client CA, be in date and bear exactly one identity, or the
//!   handshake fails. None at all is let through, for enrolment: services decide by [`Peer::identity`].
//! - No session resumption on either side: a resumed session would skip the certificate check, and so outlive its expiry.
//! - A connection ends when its certificate has expired (plus [`EXPIRY_GRACE`]), and one without a certificate after
//!   [`ANONYMOUS_LIFETIME`]. The clock behind that is the monotonic one, read at the handshake.
//! - A swap that fails leaves everything as it was.
//!
//! Limits: handshakes under way, connections, and connections without a certificate are each bounded
//! ([`ServerTlsOptions`]); when handshakes are at their bound the oldest slow one gives way, so that a crowd that says
//! nothing cannot keep nodes out.
//!
//! Deliberately absent: what an identity may do, revocation lists, OCSP, and files other than those named by
//! [`ServerFiles`].

mod accept;
mod client;
mod material;
mod server;
mod verify;
mod watch;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;

pub use accept::{ANONYMOUS_LIFETIME, EXPIRY_GRACE, Incoming, Peer, TlsIo};
pub use client::{ClientTls, ClientTlsOptions, check_address};
pub use material::{ClientMaterial, ServerFiles, ServerMaterial, certificates_from_pem};
pub use server::{
    Claim, HandshakeRefusal, OnRefusal, RefusedHandshake, ServerTls, ServerTlsFigures, ServerTlsOptions,
};
pub use watch::{FileWatch, Reload};

/// Why TLS cannot be set up. Nothing that was in use is touched by the failed attempt.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {what} {path}: {reason}")]
    File {
        /// What it is for: `certificate`, `key`, `client CA`.
        what: &'static str,
        /// Which file.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Certificate, key or CA are not usable.
    #[error("the {what} cannot be used: {reason}")]
    Material {
        /// Which: `certificate`, `key`, `client CA`, `server CA`.
        what: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// An address that nothing can be dialled at.
    #[error("{address:?} is no address of a collector: {reason}; write host:port")]
    Address {
        /// As configured.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// HTTP/2, and nothing else.
const ALPN: &[u8] = b"h2";

/// Now, by the wall clock, ns.
fn wall_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
