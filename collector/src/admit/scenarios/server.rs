//! The acceptor: its certificate, its bounds, and callers that say nothing.

use super::*;

#[tokio::test]
async fn the_server_certificate_is_swapped_and_a_broken_one_is_not() {
    let house = House::open().await;
    let node = house.node_material("worker-1", wall_ns());
    let tls = client(&node);
    let mut live = Call::open(&tls, house.address, None).await.unwrap();
    let before = house.tls.shown().serial;

    let files = ServerFiles {
        chain: house.dir.path().join("tls.crt"),
        key: house.dir.path().join("tls.key"),
        client_roots: house.dir.path().join("ca.crt"),
    };
    let issue = || {
        let m = house.ca.server_material(wall_ns()).unwrap();
        let chain = dogwatch::identity::certificates_to_pem(&m.chain);
        let body = pem_of_key(m.key.secret_der());
        (chain, body)
    };
    let (chain, key) = issue();
    dogwatch::identity::write_public_file(&files.chain, chain.as_bytes()).unwrap();
    dogwatch::identity::write_private_file(&files.key, key.as_bytes()).unwrap();
    dogwatch::identity::write_public_file(&files.client_roots, house.ca.root_pem().as_bytes()).unwrap();
    let (mut watch, material) = FileWatch::open(files.clone()).unwrap();
    house.tls.swap(&material).unwrap();
    assert_ne!(house.tls.shown().serial, before);
    assert!(matches!(watch.check(&house.tls), Reload::Unchanged));

    // A new certificate without its key, as a renewal looks halfway.
    let (chain, key) = issue();
    let serial = house.tls.shown().serial;
    dogwatch::identity::write_public_file(&files.chain, chain.as_bytes()).unwrap();
    assert!(matches!(watch.check(&house.tls), Reload::Failed(_)));
    assert!(watch.failed() && house.tls.shown().serial == serial);
    assert!(matches!(watch.check(&house.tls), Reload::Unchanged), "said once");
    Call::open(&tls, house.address, None).await.unwrap();
    dogwatch::identity::write_private_file(&files.key, key.as_bytes()).unwrap();
    assert!(matches!(watch.check(&house.tls), Reload::Swapped));
    assert!(!watch.failed() && house.tls.shown().serial != serial);
    Call::open(&tls, house.address, None).await.unwrap();

    std::fs::write(&files.client_roots, "nonsense").unwrap();
    assert!(matches!(watch.reload(&house.tls), Reload::Failed(_)));
    assert_eq!(live.round_trip().await, 1, "the live stream never noticed");
}

fn pem_of_key(der: &[u8]) -> String {
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der.into(), &rcgen::PKCS_ECDSA_P256_SHA256);
    key.unwrap().serialize_pem()
}

#[tokio::test]
async fn during_a_rotation_clients_of_both_cas_are_believed() {
    let house = House::open().await;
    let old = another_ca(house.dir.path());
    let mut material = house.ca.server_material(wall_ns()).unwrap();
    material.client_roots.push(old.root().clone());
    house.tls.swap(&material).unwrap();
    for issuer in [&*house.ca, &old] {
        let node = node_material(issuer, "worker-1", wall_ns(), &house.ca);
        Call::open(&client(&node), house.address, None).await.unwrap();
    }
}

#[tokio::test]
async fn garbage_and_silence_are_reported_and_keep_nobody_out() {
    let options = ServerTlsOptions {
        handshake_timeout: Duration::from_secs(10),
        max_handshakes: 4,
        ..ServerTlsOptions::default()
    };
    let mut house = House::open_with(options, true).await;
    let mut garbage = TcpStream::connect(house.address).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let refusal = house.next_refusal().await;
    assert_eq!((refusal.reason, refusal.address.to_string().as_str()), (Reason::NotTls, "127.0.0.1"));
    let _ = garbage.read_to_end(&mut Vec::new()).await;

    // A load balancer's probe: no byte, no report.
    drop(TcpStream::connect(house.address).await.unwrap());
    until(|| house.tls.figures().silent_total == 1).await;

    // More callers than there is room for, each with half a greeting, and none of them ends it.
    let mut slow = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        stream.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
        slow.push(stream);
    }
    let node = house.node_material("worker-1", wall_ns());
    let call = tokio::time::timeout(PATIENCE, Call::open(&client(&node), house.address, None)).await;
    assert_eq!(call.unwrap().unwrap().round_trip().await, 1);
    for _ in 0..12 {
        assert_eq!(house.next_refusal().await.reason, Reason::NotTls);
    }
    assert!(house.tls.figures().shed_total > 0, "{:?}", house.tls.figures());
    assert_eq!(house.tls.figures().refused_total, 13);
}

#[tokio::test]
async fn connections_without_a_certificate_are_few_and_do_not_crowd_out_nodes() {
    let options = ServerTlsOptions { max_anonymous: 1, ..ServerTlsOptions::default() };
    let mut house = House::open_with(options, true).await;
    let pinned = ClientTls::pinned(house.ca.fingerprint(), ClientTlsOptions::default()).unwrap();
    let first = dial(&pinned, house.address).await.unwrap();
    until(|| house.tls.figures().open_anonymous == 1).await;
    // TLS 1.3 lets the client finish first; it learns of the refusal at its first call, if not before.
    if let Ok(channel) = dial(&pinned, house.address).await {
        assert!(EnrolmentClient::new(channel).renew(RenewRequest::default()).await.is_err());
    }
    assert_eq!(house.next_refusal().await.reason, Reason::Overloaded);
    let node = house.node_material("worker-1", wall_ns());
    Call::open(&client(&node), house.address, None).await.unwrap();
    drop(first);
    until(|| house.tls.figures().open_anonymous == 0).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate_and_one_without_ends_soon() {
    let options = ServerTlsOptions {
        anonymous_lifetime: Duration::from_millis(200),
        expiry_grace: Duration::ZERO,
        ..ServerTlsOptions::default()
    };
    let house = House::open_with(options, true).await;
    // The house's certificates last a day: this one was issued so long ago that eight seconds are left of it.
    let day_ns = 24 * HOUR_NS;
    let node = house.node_material("worker-1", wall_ns() - day_ns + 8_000_000_000);
    let mut live = Call::open(&client(&node), house.address, None).await.unwrap();
    assert_eq!(live.round_trip().await, 1);
    let pinned = ClientTls::pinned(house.ca.fingerprint(), ClientTlsOptions::default()).unwrap();
    let _anonymous = dial(&pinned, house.address).await.unwrap();
    until(|| house.tls.figures().accepted_total == 2).await;
    until(|| house.tls.figures().open_anonymous == 0).await;
    until(|| house.tls.figures().open == 0).await;
    let ended = tokio::time::timeout(PATIENCE, live.receive.message()).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
    assert!(Call::open(&client(&node), house.address, None).await.is_err());
}
