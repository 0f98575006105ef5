//! The reasons for a refusal: the rule each becomes, how bad it is, and what to do about it.

use dogwatch::record::Severity;

/// Why someone was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A call that needs a certificate came without one.
    NoCertificate,
    /// The certificate has expired.
    ExpiredCertificate,
    /// The certificate begins in the future.
    EarlyCertificate,
    /// The certificate is of no CA that is believed.
    UntrustedCertificate,
    /// The certificate is damaged, not for clients, or without an identity.
    BadCertificate,
    /// One node spoke for another.
    WrongNode,
    /// The identity is not of the kind, or the person not of the role, that the call needs.
    WrongRole,
    /// A join token that lets nobody in.
    JoinToken,
    /// A service account's token that lets nobody in.
    ServiceAccount,
    /// An enrolment that is malformed: its request or proof does not hold.
    BadEnrolment,
    /// The caller does not believe the collector's certificate.
    RefusedByPeer,
    /// Something other than TLS, or a handshake that never ended.
    NotTls,
    /// A bound on connections was reached.
    Overloaded,
    /// More refusals than can be told apart.
    Flood,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 13] = [
        Self::NoCertificate,
        Self::ExpiredCertificate,
        Self::EarlyCertificate,
        Self::UntrustedCertificate,
        Self::BadCertificate,
        Self::WrongNode,
        Self::WrongRole,
        Self::JoinToken,
        Self::BadEnrolment,
        Self::RefusedByPeer,
        Self::NotTls,
        Self::Overloaded,
        Self::Flood,
    ];

    /// The finding's rule.
    pub fn rule(self) -> &'static str {
        match self {
            Self::NoCertificate => "refused-no-certificate",
            Self::ExpiredCertificate => "refused-expired-certificate",
            Self::EarlyCertificate => "refused-early-certificate",
            Self::UntrustedCertificate => "refused-untrusted-certificate",
            Self::BadCertificate => "refused-bad-certificate",
            Self::WrongNode => "refused-wrong-node",
            Self::WrongRole => "refused-wrong-role",
            Self::JoinToken => "refused-join-token",
            Self::ServiceAccount => "refused-service-account",
            Self::BadEnrolment => "refused-bad-enrolment",
            Self::RefusedByPeer => "refused-by-peer",
            Self::NotTls => "refused-not-tls",
            Self::Overloaded => "refused-overloaded",
            Self::Flood => "refused-flood",
        }
    }

    /// High where a node is shut out or someone tries what they may not, medium else.
    pub fn severity(self) -> Severity {
        match self {
            Self::ExpiredCertificate
            | Self::UntrustedCertificate
            | Self::WrongNode
            | Self::JoinToken
            | Self::ServiceAccount
            | Self::Overloaded
            | Self::Flood => Severity::High,
            _ => Severity::Medium,
        }
    }

    /// After "it was refused:".
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::NoCertificate => "it showed no certificate where one is needed",
            Self::ExpiredCertificate => "its certificate has expired",
            Self::EarlyCertificate => "its certificate is not valid yet",
            Self::UntrustedCertificate => "its certificate is of no CA that this collector believes",
            Self::BadCertificate => "its certificate cannot be used",
            Self::WrongNode => "it spoke for a node that it is not",
            Self::WrongRole => "it may not do what it asked",
            Self::JoinToken => "its join token lets nobody in",
            Self::ServiceAccount => "its service account's token lets nobody in",
            Self::BadEnrolment => "its enrolment was malformed",
            Self::RefusedByPeer => "it does not believe the collector's certificate",
            Self::NotTls => "it did not complete a TLS handshake",
            Self::Overloaded => "a bound on connections was reached",
            Self::Flood => "callers were refused faster than each can be told",
        }
    }

    /// What to do about it.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::NoCertificate => {
                "An agent gets a certificate by enrolling with a join token, a person by `dogwatch-collector person`; if nothing of yours calls from there, someone is trying the port."
            }
            Self::ExpiredCertificate => {
                "The node or person has been unable to renew it: give an agent a new join token (`dogwatch-collector token`), a person a new certificate; look at their clock first. Until then nothing arrives \
                 from them."
            }
            Self::EarlyCertificate => {
                "Compare the clocks of the collector and of whoever issued the certificate."
            }
            Self::UntrustedCertificate => {
                "Either it belongs to another installation (look at the agent's collector address), or the CA was \
                 replaced and the old one is not among the client CAs, or someone made a certificate of their own."
            }
            Self::BadCertificate => {
                "With an external CA: it must be for clients and bear exactly one URI name of this trust domain."
            }
            Self::WrongNode => {
                "A node's certificate speaks for that node alone. If its state folder was copied to another machine, \
                 enrol that one anew; else treat the certificate as stolen: look at both nodes."
            }
            Self::WrongRole => "If the person should be allowed to, issue a certificate with a higher role.",
            Self::JoinToken => {
                "Make a new one with `dogwatch-collector token`. A spent token that is tried again may be a \
                 retry, or a token that was seen by someone else."
            }
            Self::ServiceAccount => {
                "Compare the agent's projected token (audience, service account, its pod's node) with `cluster` in the \
                 collector's configuration. A token of another node or account may be stolen: look at the address."
            }
            Self::BadEnrolment => "Compare the versions of agent and collector.",
            Self::RefusedByPeer => {
                "The caller trusts another CA, or knows the collector by another name: compare its CA file or join \
                 token with the `ca/ca.pem` in the collector's state folder."
            }
            Self::NotTls => {
                "A port scan, a health check that speaks plain text, or a very slow network. Point health checks at \
                 the health port."
            }
            Self::Overloaded => "Raise the bound, or find out who holds so many connections.",
            Self::Flood => {
                "Look at the other refusal findings and at the firewall; single refusals are not listed now."
            }
        }
    }
}
