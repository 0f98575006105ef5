//! Enrolling and renewing.

use super::*;

#[tokio::test]
async fn a_token_lets_a_node_in_and_its_certificate_opens_the_intake() {
    let mut house = House::open().await;
    let token = house.token(1);
    let (key, request) = enrol_request("worker-1", &token, 1);
    let answer = enrol(&house, &token, request).await.unwrap();
    assert_eq!(answer.receipt_key.as_ref(), [5; 32]);
    let left = answer.expires_wall_ns - wall_ns();
    assert!((23 * HOUR_NS..=24 * HOUR_NS + HOUR_NS / 60).contains(&left), "{left}");

    let mut call = Call::open(&client(&as_material(&key, &answer)), house.address, None).await.unwrap();
    assert_eq!((call.round_trip().await, call.round_trip().await), (1, 2));
    house.nothing_refused();
    assert!(house.key_changes.lock().unwrap().is_empty());
    assert!(house.tls.figures().open >= 1);
}

#[tokio::test]
async fn every_bad_token_is_refused_for_its_own_reason_and_reported() {
    let mut house = House::open().await;
    let single = house.token(1);
    let (_, first) = enrol_request("worker-1", &single, 1);
    enrol(&house, &single, first).await.unwrap();
    let ca = house.ca.fingerprint();
    let expired = house.tokens.create(1, HOUR, None, ca, wall_ns() - 2 * HOUR_NS).unwrap();
    let bound = house.tokens.create(1, HOUR, Some("worker-9".parse().unwrap()), ca, wall_ns()).unwrap();
    let mut guessed = house.token(1);
    guessed.secret = TokenSecret::new([1; 32]);
    let unknown = JoinToken { id: TokenId([9; 8]), secret: TokenSecret::new([1; 32]), ca };
    for (token, says) in [
        (&single, "has been used 1 times"),
        (&expired, "expired at"),
        (&bound, "for node worker-9 alone"),
        (&guessed, "another secret"),
        (&unknown, "not known here"),
    ] {
        let (_, request) = enrol_request("worker-2", token, 2);
        let status = enrol(&house, token, request).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains(says), "{status}");
        let refusal = house.next_refusal().await;
        assert_eq!(refusal.reason, Reason::JoinToken);
        assert!(refusal.detail.contains(says), "{refusal:?}");
        assert_eq!((refusal.claimed.as_deref(), refusal.node), (Some("node worker-2"), None));
    }
    // The replay was by another node; the token stays spent for the first one too.
    let (_, again) = enrol_request("worker-1", &single, 1);
    assert!(enrol(&house, &single, again).await.unwrap_err().message().contains("used 1 times"));
}

#[tokio::test]
async fn concurrent_callers_cannot_spend_a_token_twice() {
    let house = House::open().await;
    let token = house.token(3);
    let calls = (0..12u8).map(|n| {
        let (_, request) = enrol_request(&format!("worker-{n}"), &token, n);
        enrol(&house, &token, request)
    });
    let outcomes = futures_util::future::join_all(calls).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 3);
}

#[tokio::test]
async fn a_token_with_another_fingerprint_never_reaches_the_collector() {
    let mut house = House::open().await;
    let mut token = house.token(1);
    token.ca.0[0] ^= 1;
    let tls = ClientTls::pinned(token.ca, ClientTlsOptions::default()).unwrap();
    let error = text(&dial(&tls, house.address).await.unwrap_err());
    assert!(error.contains("UnknownIssuer"), "{error}");
    let refusal = house.next_refusal().await;
    assert_eq!(refusal.reason, Reason::RefusedByPeer, "{refusal:?}");
}

#[tokio::test]
async fn malformed_enrolments_are_refused_and_spend_nothing() {
    let mut house = House::open().await;
    let token = house.token(1);
    let (_, good) = enrol_request("worker-1", &token, 1);
    let mut wrong_name = good.clone();
    wrong_name.node = "Worker/../1".to_owned();
    let mut wrong_proof = good.clone();
    wrong_proof.signing_proof = vec![0; 64].into();
    let mut broken_csr = good.clone();
    broken_csr.csr_der = good.csr_der.slice(..good.csr_der.len() - 1);
    let mut flipped = good.csr_der.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut unsigned_csr = good.clone();
    unsigned_csr.csr_der = flipped.into();
    let mut huge_csr = good.clone();
    huge_csr.csr_der = vec![0x30; 100_000].into();
    let mut no_token = good.clone();
    no_token.token = "dwj1".to_owned();
    for bad in [wrong_name, wrong_proof, broken_csr, unsigned_csr, huge_csr, no_token] {
        let status = enrol(&house, &token, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert_eq!(house.next_refusal().await.reason, Reason::BadEnrolment);
    }
    enrol(&house, &token, good).await.unwrap();
}

#[tokio::test]
async fn renewal_leaves_the_live_stream_alone_and_the_next_connection_shows_the_new_certificate() {
    let mut house = House::open().await;
    let first = house.node_material("worker-1", wall_ns());
    let tls = client(&first);
    let mut swaps = tls.swaps();
    let mut live = Call::open(&tls, house.address, None).await.unwrap();
    assert_eq!(live.round_trip().await, 1);

    let key = TlsKey::generate().unwrap();
    let channel = dial(&tls, house.address).await.unwrap();
    let request = RenewRequest { csr_der: key.csr_der().unwrap().into() };
    let answer = EnrolmentClient::new(channel).renew(request).await.unwrap().into_inner();
    tls.swap(&as_material(&key, &answer)).unwrap();
    assert!(swaps.has_changed().unwrap() && *swaps.borrow_and_update() == 1);

    assert_eq!(live.round_trip().await, 2, "the stream goes on");
    let next = Call::open(&tls, house.address, None).await.unwrap();
    assert_ne!(next.serial, live.serial);
    house.nothing_refused();
}

#[tokio::test]
async fn a_changed_signing_key_is_served_and_said() {
    let house = House::open().await;
    let token = house.token(3);
    let (_, first) = enrol_request("worker-1", &token, 1);
    let mut again = enrol_request("worker-1", &token, 1).1;
    again.clone_from(&first);
    enrol(&house, &token, first).await.unwrap();
    enrol(&house, &token, again).await.unwrap();
    assert!(house.key_changes.lock().unwrap().is_empty(), "the same key");
    let (_, other) = enrol_request("worker-1", &token, 2);
    enrol(&house, &token, other).await.unwrap();
    let said = house.key_changes.lock().unwrap();
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].0.as_str(), said[0].1.rule.as_str()), ("worker-1", "signing-key-changed"));
    assert!(said[0].1.explanation.contains(&token.id.to_string()));
}

#[tokio::test]
async fn an_external_ca_turns_enrolment_off_and_says_so() {
    let house = House::open_with(ServerTlsOptions::default(), false).await;
    let token = house.token(1);
    let (_, request) = enrol_request("worker-1", &token, 1);
    let status = enrol(&house, &token, request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("external CA"), "{status}");
}

/// Knows the token `good.of.worker-1`, bound to that node, and cannot answer about `busy.api.server`.
struct Cluster;

#[tonic::async_trait]
impl Review for Cluster {
    async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError> {
        let (node, authenticated) = match token {
            "busy.api.server" => return Err(ReviewError("the API server is busy".to_owned())),
            "good.of.worker-1" => ("worker-1", true),
            _ => ("", false),
        };
        Ok(Reviewed {
            authenticated,
            username: "system:serviceaccount:dogwatch:dogwatch-agent".to_owned(),
            audiences: vec![audience.to_owned()],
            nodes: vec![node.to_owned()],
            ..Reviewed::default()
        })
    }
}

/// Knows the collector, and lets nobody in.
fn no_token(house: &House) -> JoinToken {
    JoinToken { id: TokenId([0; 8]), secret: TokenSecret::new([0; 32]), ca: house.ca.fingerprint() }
}

fn account_request(node: &str, join: &JoinToken, token: &str, seed: u8) -> EnrolRequest {
    let (_, request) = enrol_request(node, join, seed);
    EnrolRequest { token: token.to_owned(), kind: TokenKind::ServiceAccount.into(), ..request }
}

async fn enrol_by_account(house: &House, node: &str, token: &str, seed: u8) -> Result<EnrolResponse, Status> {
    let join = no_token(house);
    enrol(house, &join, account_request(node, &join, token, seed)).await
}

#[tokio::test]
async fn a_service_accounts_token_lets_its_own_node_in_and_no_other() {
    let account = "dogwatch/dogwatch-agent".parse().unwrap();
    let accounts = Accounts::new(Box::new(Cluster), "dogwatch".to_owned(), account);
    let mut house = House::open_for(ServerTlsOptions::default(), true, Some(accounts)).await;
    // As often as it likes: a pod that lost its state comes with the same token.
    enrol_by_account(&house, "worker-1", "good.of.worker-1", 1).await.unwrap();
    enrol_by_account(&house, "worker-1", "good.of.worker-1", 2).await.unwrap();
    {
        let said = house.key_changes.lock().unwrap();
        assert_eq!(said.len(), 1, "another signing key is said");
        assert!(said[0].1.explanation.contains("service account dogwatch/dogwatch-agent"), "{said:?}");
    }
    for (node, token, says) in [
        ("worker-2", "good.of.worker-1", "bound to node worker-1"),
        ("worker-1", "bad.of.worker-1", "does not accept"),
        ("worker-1", "dwj1", "no JSON web token"),
    ] {
        let status = enrol_by_account(&house, node, token, 3).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains(says), "{status}");
        let refusal = house.next_refusal().await;
        assert_eq!(refusal.reason, Reason::ServiceAccount);
        assert!(refusal.detail.contains(says) && refusal.node.is_none(), "{refusal:?}");
    }
    // Not knowing is no refusal: the agent comes back.
    let status = enrol_by_account(&house, "worker-1", "busy.api.server", 3).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    house.nothing_refused();
}

#[tokio::test]
async fn where_accounts_are_not_taken_or_the_kind_is_unknown_it_is_said() {
    let mut house = House::open().await;
    let status = enrol_by_account(&house, "worker-1", "good.of.worker-1", 1).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("cluster.token_review"), "{status}");
    assert_eq!(house.next_refusal().await.reason, Reason::ServiceAccount);
    let token = house.token(1);
    let (_, mut request) = enrol_request("worker-1", &token, 1);
    request.kind = 7;
    let status = enrol(&house, &token, request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(house.next_refusal().await.reason, Reason::BadEnrolment);
}

/// An API server that keeps each review until it is let go.
struct Stalled {
    inside: tokio::sync::watch::Sender<usize>,
    go: tokio::sync::watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Review for Stalled {
    async fn review(&self, _: &str, _: &str) -> Result<Reviewed, ReviewError> {
        self.inside.send_modify(|n| *n += 1);
        let _ = self.go.clone().wait_for(|go| *go).await;
        Err(ReviewError("it was busy".to_owned()))
    }
}

#[tokio::test]
async fn reviews_that_wait_for_the_api_server_are_few_and_keep_nobody_else_out() {
    let account = "dogwatch/dogwatch-agent".parse().unwrap();
    let (inside, mut reviewing) = tokio::sync::watch::channel(0);
    let (let_go, go) = tokio::sync::watch::channel(false);
    let stalled = Stalled { inside, go };
    // Nothing ends by time: neither a review that waits, nor the connection of whoever asked for it.
    let accounts = Accounts::new(Box::new(stalled), "dogwatch".to_owned(), account).with_wait(HOUR);
    let options = ServerTlsOptions { anonymous_lifetime: HOUR, ..ServerTlsOptions::default() };
    let house = House::open_for(options, true, Some(accounts)).await;
    // More than may be reviewed at once, all of them asked before any is answered. Keys are made first: meanwhile this
    // thread serves nobody.
    let asked = 2 * MAX_REVIEWS;
    let token = house.token(1);
    let (_, by_token) = enrol_request("worker-2", &token, 9);
    let join = no_token(&house);
    let by_account: Vec<_> =
        (0..asked).map(|n| account_request("worker-1", &join, "good.of.worker-1", n as u8)).collect();
    let askers = by_account.into_iter().map(|request| enrol(&house, &join, request)).map(Box::pin);
    let mut askers: futures_util::stream::FuturesUnordered<_> = askers.collect();
    let mut turned_away = 0;
    while turned_away < asked - MAX_REVIEWS {
        let status = tokio::time::timeout(PATIENCE, askers.next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("being reviewed"), "{status}");
        turned_away += 1;
    }
    reviewing.wait_for(|n| *n >= MAX_REVIEWS).await.unwrap();
    assert_eq!(*reviewing.borrow(), MAX_REVIEWS, "the API server is asked no more than that");
    tokio::time::timeout(PATIENCE, enrol(&house, &token, by_token)).await.unwrap().unwrap();
    let_go.send(true).unwrap();
    while let Some(outcome) = tokio::time::timeout(PATIENCE, askers.next()).await.unwrap() {
        assert!(outcome.unwrap_err().message().contains("it was busy"));
    }
    // Their places are free again.
    let status = enrol_by_account(&house, "worker-1", "good.of.worker-1", 1).await.unwrap_err();
    assert!(status.message().contains("it was busy"), "{status}");
}
