//! Why a node has no usable identity, and what to do about it.

use std::path::PathBuf;

use dogwatch::identity::KeyFileError;
use dogwatch::record::NodeName;
use dogwatch::tls::TlsError;

/// Why the node has no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A key or credentials file.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The token's file.
    #[error("cannot read {what} from {}: {reason}", path.display())]
    TokenFile {
        /// What is in it.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The token's text.
    #[error("the configured join token is none: {0}")]
    Token(String),
    /// There is no certificate, and nothing to get one with.
    #[error(
        "node {node} {why}, and no join token is configured. Make one with `dogwatch-collector token` and give it \
         to the agent as uplink.join_token_file, or in a cluster give it uplink.service_account_token_file"
    )]
    NoToken {
        /// Who.
        node: NodeName,
        /// `has no certificate yet`, `has a certificate that expired at …`, …
        why: String,
    },
    /// No connection, or no trust.
    #[error("cannot {what} at {collector}: {reason}")]
    Unreachable {
        /// `enrol`, `renew the certificate`.
        what: &'static str,
        /// Where.
        collector: String,
        /// The whole chain of reasons.
        reason: String,
    },
    /// The collector says no.
    #[error("the collector at {collector} refuses to {what}: {reason}")]
    Refused {
        /// `enrol`, `renew the certificate`.
        what: &'static str,
        /// Where.
        collector: String,
        /// Its words.
        reason: String,
        /// Whether the same attempt may succeed later.
        transient: bool,
    },
    /// What came back cannot be used.
    #[error("the collector's answer cannot be used: {0}; compare the versions of agent and collector")]
    Answer(String),
    /// Making a key failed.
    #[error("cannot make a TLS key: {0}")]
    Key(String),
    /// The certificate cannot be put to use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A blocking step was cut off by the end of the runtime.
    #[error("the agent is stopping")]
    Stopping,
}

impl EnrolError {
    /// Whether trying again with nothing changed may help (an unreachable or busy collector). Else a person must act;
    /// a slow retry still does no harm, as token files are read anew.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Refused { transient: true, .. })
    }
}
