//! Who may speak: names in certificates, keys on disk, and join tokens.
//!
//! A peer is what its certificate's one URI name says: `spiffe://<trust domain>/node/<name>`,
//! `/person/<name>/role/<role>` or `/collector`. Nothing else in a certificate is believed (no common name, no DNS
//! name), and nothing that a peer says about itself inside a call outweighs it.
//!
//! Invariants: parsing is strict (one URI name, exact path, no escapes, no trailing slash), so two texts never mean one
//! identity; a private key is only ever read from a file that its owner alone can read; a join token's secret is never
//! printed by `Debug`, never stored, and compared by its hash in constant time.
//!
//! Deliberately absent: issuing certificates (the collector's `admit`), deciding what an identity may do, revocation
//! lists (certificates are short-lived instead), and sockets ([`crate::tls`]).

mod certificate;
mod enrolment;
mod join_token;
mod keyfile;
mod reserved;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::record::{InvalidValue, NodeName};

pub use certificate::{
    CertificateFacts, Fingerprint, certificate_facts, certificates_to_pem, spki_fingerprint,
};
pub use enrolment::{TlsKey, check_enrol_proof, enrol_proof};
pub use join_token::{JoinToken, SecretHash, TokenId, TokenSecret};
pub use keyfile::{
    KeyFileError, MAX_KEY_FILE_BYTES, create_private_dir, create_private_file, load_or_create_signing_key,
    read_private_file, write_private_file, write_public_file,
};
pub use reserved::{reserve_private_file, write_reserved_private_file};

/// Why a certificate does not say who its holder is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no X.509 certificate.
    #[error("not a readable certificate: {0}")]
    Unreadable(String),
    /// It has no URI name, or more than one.
    #[error("the certificate bears {0} URI names; a dogwatch certificate bears exactly one")]
    UriCount(usize),
    /// The URI names something else.
    #[error("{uri:?} is no identity: {rule}")]
    Malformed {
        /// The URI, cut to 80 characters.
        uri: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// The URI is of another trust domain.
    #[error("{uri:?} belongs to another trust domain; this one is {expected:?}")]
    TrustDomain {
        /// The URI, cut to 80 characters.
        uri: String,
        /// Ours.
        expected: String,
    },
}

/// The first part of every identity: one installation of dogwatch, or a company's SPIFFE trust domain. Lower-case
/// letters, digits, `.`, `-` and `_`; at most 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    fn default() -> Self {
        Self("dogwatch".to_owned())
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if !s.is_empty() && s.len() <= 255 && s.bytes().all(ok) {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidValue::new(
                "trust domain",
                s,
                "must be 1 to 255 lower-case letters, digits, '.', '-' or '_'",
            ))
        }
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(v: TrustDomain) -> Self {
        v.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person may do; each role may do what the ones below it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Also commands: acknowledges, notes, plans, applies.
    Responder,
    /// Also administers.
    Admin,
}

impl Role {
    /// Every role, least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Responder, Self::Admin];

    /// The word in certificates and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Responder => "responder",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|r| r.as_str() == s)
            .ok_or_else(|| InvalidValue::new("role", s, "must be viewer, responder or admin"))
    }
}

/// A person's name as certificates and the record of decisions carry it: a letter or digit, then letters, digits,
/// `.`, `-` and `_`; at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PersonName(String);

impl PersonName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PersonName {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let starts_well = s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts_well && s.len() <= 64 && s.bytes().all(ok) {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidValue::new(
                "person name",
                s,
                "must be 1 to 64 letters, digits, '.', '-' or '_', and start with a letter or digit",
            ))
        }
    }
}

impl TryFrom<String> for PersonName {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<PersonName> for String {
    fn from(v: PersonName) -> Self {
        v.0
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a certificate's holder is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An agent; it speaks for this node alone.
    Node(NodeName),
    /// A person, and what they may do.
    Person {
        /// Who.
        name: PersonName,
        /// May do what.
        role: Role,
    },
    /// The collector.
    Collector,
}

impl Identity {
    /// The URI that a certificate of `domain` bears for it.
    pub fn to_uri(&self, domain: &TrustDomain) -> String {
        match self {
            Self::Node(name) => format!("spiffe://{domain}/node/{name}"),
            Self::Person { name, role } => format!("spiffe://{domain}/person/{name}/role/{role}"),
            Self::Collector => format!("spiffe://{domain}/collector"),
        }
    }

    /// Reads a certificate's URI. Errors name the URI and the rule that it breaks.
    pub fn from_uri(uri: &str, domain: &TrustDomain) -> Result<Self, IdentityError> {
        let cut = || uri.chars().take(80).collect::<String>();
        let malformed = |rule: String| IdentityError::Malformed { uri: cut(), rule };
        let rest = uri
            .strip_prefix("spiffe://")
            .ok_or_else(|| malformed("it must begin with spiffe://".to_owned()))?;
        let (authority, path) = rest.split_once('/').ok_or_else(|| malformed("it has no path".to_owned()))?;
        if authority != domain.as_str() {
            return Err(IdentityError::TrustDomain { uri: cut(), expected: domain.to_string() });
        }
        let parts: Vec<&str> = path.splitn(5, '/').collect();
        match parts.as_slice() {
            ["collector"] => Ok(Self::Collector),
            ["node", name] => name.parse().map(Self::Node).map_err(|e| malformed(e.to_string())),
            ["person", name, "role", role] => Ok(Self::Person {
                name: name.parse().map_err(|e: InvalidValue| malformed(e.to_string()))?,
                role: role.parse().map_err(|e: InvalidValue| malformed(e.to_string()))?,
            }),
            _ => Err(malformed(
                "its path must be /collector, /node/<name> or /person/<name>/role/<role>".to_owned(),
            )),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Person { name, role } => write!(f, "person {name} ({role})"),
            Self::Collector => f.write_str("collector"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::default()
    }

    #[test]
    fn every_identity_survives_its_uri() {
        let alice = "alice.b-c_d".parse().unwrap();
        for identity in [
            Identity::Node("worker-1.example".parse().unwrap()),
            Identity::Person { name: alice, role: Role::Responder },
            Identity::Collector,
        ] {
            let uri = identity.to_uri(&domain());
            assert_eq!(Identity::from_uri(&uri, &domain()).unwrap(), identity, "{uri}");
        }
    }

    #[test]
    fn anything_but_the_exact_form_is_refused() {
        for uri in [
            "",
            "spiffe://dogwatch",
            "spiffe://dogwatch/",
            "spiffe://dogwatch/collector/",
            "spiffe://dogwatch//collector",
            "spiffe://dogwatch/collector?x",
            "spiffe://dogwatch/node/",
            "spiffe://dogwatch/node/Worker",
            "spiffe://dogwatch/node/a/b",
            "spiffe://dogwatch/node/a%2fb",
            "spiffe://dogwatch/person/alice",
            "spiffe://dogwatch/person/alice/role/root",
            "spiffe://dogwatch/person/alice/role/admin/x",
            "spiffe://dogwatch/person/../role/admin",
            "spiffe://dogwatch:1/collector",
            "SPIFFE://dogwatch/collector",
            "https://dogwatch/collector",
            "spiffe://other/node/a",
        ] {
            assert!(Identity::from_uri(uri, &domain()).is_err(), "{uri} was taken");
        }
        let other = Identity::from_uri("spiffe://other/node/a", &domain()).unwrap_err();
        assert!(other.to_string().contains("another trust domain"), "{other}");
    }

    #[test]
    fn roles_have_an_order() {
        assert!(Role::Viewer < Role::Responder && Role::Responder < Role::Admin);
    }
}
