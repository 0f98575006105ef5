//! Who is this call from, and may they: asked at the head of every service method.
//!
//! The answer comes from the connection's verified certificate ([`Peer`], which the acceptor put into the request's
//! extensions) and from nothing else. A refusal is told to the caller with a remedy, and reported once.

use std::net::{IpAddr, Ipv4Addr};

use dogwatch::identity::{Identity, PersonName, Role};
use dogwatch::record::NodeName;
use dogwatch::tls::Peer;
use tonic::{Request, Status};

use super::refusals::{Reason, Refusal, RefusalSender};
use super::shown_time;

/// Asks, tells and reports. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    refusals: RefusalSender,
    clock: fn() -> i64,
}

impl Gate {
    /// Reports refusals to `refusals`.
    pub fn new(refusals: RefusalSender) -> Self {
        Self { refusals, clock: super::wall_ns }
    }

    /// With another clock (wall ns).
    #[must_use]
    pub fn with_clock(self, clock: fn() -> i64) -> Self {
        Self { clock, ..self }
    }

    /// The caller, whoever it is. `Err` only where the connection did not come through our acceptor.
    pub fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        request
            .extensions()
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection did not come through the TLS acceptor"))
    }

    /// The node that calls.
    pub fn require_node<T>(&self, request: &Request<T>) -> Result<NodeName, Status> {
        match self.require_certificate(request)? {
            (_, Identity::Node(node)) => Ok(node),
            (peer, other) => {
                Err(self
                    .wrong_kind(&peer, &format!("this call is for nodes, and the certificate is of {other}")))
            }
        }
    }

    /// The person that calls, whose role is `least` or more.
    pub fn require_role<T>(&self, request: &Request<T>, least: Role) -> Result<PersonName, Status> {
        match self.require_certificate(request)? {
            (_, Identity::Person { name, role }) if role >= least => Ok(name),
            (peer, Identity::Person { name, role }) => Err(self.wrong_kind(
                &peer,
                &format!(
                    "this needs the role {least}, and {name} is {role}; ask an admin for another certificate"
                ),
            )),
            (peer, other) => Err(self
                .wrong_kind(&peer, &format!("this call is for people, and the certificate is of {other}"))),
        }
    }

    /// For a node that named another in a stream: reports it, and gives the status to end the stream with.
    pub fn wrong_node(&self, peer: &Peer, named: &str) -> Status {
        let named: String = named.chars().take(253).flat_map(char::escape_default).collect();
        let own = identity_text(peer);
        let detail = format!("{own} spoke for node {named}");
        self.report(peer, Reason::WrongNode, &detail);
        Status::permission_denied(format!("{detail}; a node's certificate speaks for that node alone"))
    }

    /// For a long-lived stream, now and then: `Err` with the status to end it with, once the certificate that its
    /// connection was made with has expired. Not reported: an agent that renewed comes back with the new one.
    pub fn still_valid(&self, peer: &Peer) -> Result<(), Status> {
        if peer.expired_at((self.clock)()) { Err(expired(peer)) } else { Ok(()) }
    }

    /// Reports any other refusal of `peer`.
    pub fn report(&self, peer: &Peer, reason: Reason, detail: &str) {
        let node = match &peer.identity {
            Some(Identity::Node(node)) => Some(node.clone()),
            _ => None,
        };
        let claimed = peer.identity.as_ref().map(Identity::to_string);
        let address = peer.address.ip();
        self.refusals.report(Refusal { address, reason, claimed, node, detail: detail.to_owned() });
    }

    /// Reports a refusal of someone who only said to be `node`.
    pub(super) fn report_claim(&self, peer: &Peer, reason: Reason, node: &str, detail: &str) {
        self.refusals.report(Refusal {
            address: peer.address.ip(),
            reason,
            claimed: Some(format!("node {node}")),
            node: None,
            detail: detail.to_owned(),
        });
    }

    fn require_certificate<T>(&self, request: &Request<T>) -> Result<(Peer, Identity), Status> {
        let peer = self.peer(request).inspect_err(|status| {
            let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let detail = status.message().to_owned();
            let reason = Reason::NoCertificate;
            self.refusals.report(Refusal { address, reason, claimed: None, node: None, detail });
        })?;
        let Some(identity) = peer.identity.clone() else {
            self.report(&peer, Reason::NoCertificate, "a call that needs a certificate came without one");
            return Err(Status::unauthenticated(
                "this call needs a certificate and none was shown; an agent gets one with a join token, a person by \
                 `dogwatch-collector person`",
            ));
        };
        if peer.expired_at((self.clock)()) {
            self.report(&peer, Reason::ExpiredCertificate, "it expired while the connection was open");
            return Err(expired(&peer));
        }
        Ok((peer, identity))
    }

    fn wrong_kind(&self, peer: &Peer, why: &str) -> Status {
        self.report(peer, Reason::WrongRole, why);
        Status::permission_denied(why.to_owned())
    }
}

fn expired(peer: &Peer) -> Status {
    let at = peer.not_after_wall_ns.map_or_else(String::new, |at| format!(" at {}", shown_time(at)));
    Status::unauthenticated(format!(
        "the certificate of {} expired{at}; connect again with the renewed one",
        identity_text(peer)
    ))
}

fn identity_text(peer: &Peer) -> String {
    peer.identity.as_ref().map_or_else(|| "a caller without a certificate".to_owned(), Identity::to_string)
}

#[cfg(test)]
mod tests {
    use super::super::refusals::refusal_queue;
    use super::*;

    const LAST: i64 = 1_700_000_000_000_000_000;

    fn request(identity: Option<Identity>) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(Peer {
            address: "192.0.2.7:5000".parse().unwrap(),
            not_after_wall_ns: identity.as_ref().map(|_| LAST),
            serial: None,
            identity,
        });
        request
    }

    fn person(role: Role) -> Option<Identity> {
        Some(Identity::Person { name: "alice".parse().unwrap(), role })
    }

    fn node() -> Option<Identity> {
        Some(Identity::Node("a".parse().unwrap()))
    }

    #[test]
    fn each_is_let_through_where_it_belongs_and_reported_elsewhere() {
        let (sender, mut refused) = refusal_queue();
        let gate = Gate::new(sender).with_clock(|| LAST);
        assert_eq!(gate.require_node(&request(node())).unwrap().as_str(), "a");
        assert_eq!(gate.require_role(&request(person(Role::Admin)), Role::Viewer).unwrap().as_str(), "alice");
        assert!(refused.try_recv().is_err());

        let code = |r: Result<(), Status>| r.unwrap_err().code();
        use tonic::Code::{PermissionDenied, Unauthenticated};
        for (outcome, expected, reason) in [
            (gate.require_node(&request(None)).map(drop), Unauthenticated, Reason::NoCertificate),
            (gate.require_node(&request(person(Role::Admin))).map(drop), PermissionDenied, Reason::WrongRole),
            (
                gate.require_role(&request(node()), Role::Viewer).map(drop),
                PermissionDenied,
                Reason::WrongRole,
            ),
            (
                gate.require_role(&request(person(Role::Viewer)), Role::Responder).map(drop),
                PermissionDenied,
                Reason::WrongRole,
            ),
        ] {
            assert_eq!(code(outcome), expected);
            assert_eq!(refused.try_recv().unwrap().reason, reason);
        }
        assert!(gate.require_node(&Request::new(())).is_err());
    }

    #[test]
    fn an_expired_certificate_opens_nothing_on_a_standing_connection() {
        let (sender, mut refused) = refusal_queue();
        let gate = Gate::new(sender).with_clock(|| LAST + 1_000_000_000);
        let status = gate.require_node(&request(node())).unwrap_err();
        assert!(status.message().contains("2023-11-14T22:13:20Z"), "{status}");
        let refusal = refused.try_recv().unwrap();
        assert_eq!((refusal.reason, refusal.node.unwrap().as_str()), (Reason::ExpiredCertificate, "a"));
        let peer = gate.peer(&request(node())).unwrap();
        assert!(gate.still_valid(&peer).is_err());
    }

    #[test]
    fn a_node_that_speaks_for_another_is_named() {
        let (sender, mut refused) = refusal_queue();
        let gate = Gate::new(sender).with_clock(|| LAST);
        let peer = gate.peer(&request(node())).unwrap();
        let status = gate.wrong_node(&peer, "b\n");
        assert!(status.message().contains("node a spoke for node b\\n"), "{status}");
        let refusal = refused.try_recv().unwrap();
        assert_eq!((refusal.reason, refusal.node.unwrap().as_str()), (Reason::WrongNode, "a"));
    }
}
