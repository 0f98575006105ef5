//! Who is believed, and as whom.

use super::*;

#[tokio::test]
async fn a_pinned_ca_shown_by_someone_without_its_key_is_not_believed() {
    // An impostor shows the true CA's certificate beside a leaf of its own making.
    let house = House::open().await;
    let impostor = another_ca(house.dir.path());
    let mut material = impostor.server_material(wall_ns()).unwrap();
    material.chain.truncate(1);
    material.chain.push(house.ca.root().clone());
    house.tls.swap(&material).unwrap();
    let tls = ClientTls::pinned(house.ca.fingerprint(), ClientTlsOptions::default()).unwrap();
    assert!(dial(&tls, house.address).await.is_err());
}

#[tokio::test]
async fn a_node_cannot_play_the_collector() {
    let house = House::open().await;
    let node = house.node_material("worker-1", wall_ns());
    let mut chain = node.chain.clone();
    chain.push(house.ca.root().clone());
    let roots = vec![house.ca.root().clone()];
    let material = dogwatch::tls::ServerMaterial { chain, key: node.key.clone_key(), client_roots: roots };
    house.tls.swap(&material).unwrap();
    assert!(dial(&client(&node), house.address).await.is_err());
    let pinned = ClientTls::pinned(house.ca.fingerprint(), ClientTlsOptions::default()).unwrap();
    assert!(dial(&pinned, house.address).await.is_err());
}

#[tokio::test]
async fn without_a_certificate_only_enrolment_is_open() {
    let mut house = House::open().await;
    let tls = ClientTls::pinned(house.ca.fingerprint(), ClientTlsOptions::default()).unwrap();
    let status = Call::open(&tls, house.address, None).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("join token"), "{status}");
    let refusal = house.next_refusal().await;
    assert_eq!((refusal.reason, refusal.claimed), (Reason::NoCertificate, None));

    let channel = dial(&tls, house.address).await.unwrap();
    let status = EnrolmentClient::new(channel).renew(RenewRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(house.next_refusal().await.reason, Reason::NoCertificate);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_its_name_reported() {
    let mut house = House::open().await;
    let expired = house.node_material("worker-7", wall_ns() - 48 * HOUR_NS);
    let status = Call::open(&client(&expired), house.address, None).await.err().unwrap();
    assert!(text(&status).contains("CertificateExpired"), "{}", text(&status));
    let refusal = house.next_refusal().await;
    assert_eq!(refusal.reason, Reason::ExpiredCertificate);
    assert_eq!(refusal.claimed.as_deref(), Some("node worker-7"));
    assert_eq!(refusal.node.unwrap().as_str(), "worker-7", "our CA did issue it");
    assert!(refusal.detail.contains("it ended at"), "{}", refusal.detail);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_and_its_claim_is_only_a_claim() {
    let mut house = House::open().await;
    let other = another_ca(house.dir.path());
    for at in [wall_ns(), wall_ns() - 48 * HOUR_NS] {
        let forged = node_material(&other, "worker-1", at, &house.ca);
        assert!(Call::open(&client(&forged), house.address, None).await.is_err());
        let refusal = house.next_refusal().await;
        assert_eq!(refusal.reason, Reason::UntrustedCertificate, "{refusal:?}");
        assert_eq!((refusal.claimed.as_deref(), refusal.node), (Some("node worker-1"), None));
    }
}

#[tokio::test]
async fn a_certificate_of_another_trust_domain_bears_no_identity_here() {
    let mut house = House::open_with(
        ServerTlsOptions { trust_domain: "elsewhere".parse().unwrap(), ..ServerTlsOptions::default() },
        true,
    )
    .await;
    let node = house.node_material("worker-1", wall_ns());
    assert!(Call::open(&client(&node), house.address, None).await.is_err());
    let refusal = house.next_refusal().await;
    assert_eq!(refusal.reason, Reason::BadCertificate);
    let options = ClientTlsOptions {
        trust_domain: "elsewhere".parse::<TrustDomain>().unwrap(),
        ..ClientTlsOptions::default()
    };
    let tls = ClientTls::new(&node, options).unwrap();
    let error = text(&dial(&tls, house.address).await.unwrap_err());
    assert!(error.contains("NotValidForName"), "the collector is of another domain too: {error}");
}

#[tokio::test]
async fn a_person_is_let_through_by_role() {
    let mut house = House::open().await;
    let person = |role| {
        let issued = house.ca.issue_person(&"alice".parse().unwrap(), role, HOUR, wall_ns()).unwrap();
        ClientMaterial::from_pem(&issued.chain_pem, &issued.key_pem, &issued.ca_pem).unwrap()
    };
    let (viewer, admin) = (person(Role::Viewer), person(Role::Admin));
    Call::open(&client(&admin), house.address, Some("responder")).await.unwrap();
    for (material, need, says) in
        [(&viewer, Some("responder"), "needs the role responder"), (&admin, None, "is for nodes")]
    {
        let status = Call::open(&client(material), house.address, need).await.err().unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().contains(says), "{status}");
        let refusal = house.next_refusal().await;
        assert_eq!(refusal.reason, Reason::WrongRole);
        assert!(refusal.claimed.unwrap().starts_with("person alice"));
    }
}
