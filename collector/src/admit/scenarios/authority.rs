//! The built-in CA.

use super::*;

#[tokio::test]
async fn what_a_request_asks_for_is_ignored() {
    let house = House::open().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI("spiffe://dogwatch/collector".try_into().unwrap()));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap();
    let checked = CheckedRequest::from_der(csr.der()).unwrap();
    let issued = house.ca.issue_node(&"worker-1".parse().unwrap(), &checked, wall_ns()).unwrap();
    let facts = dogwatch::identity::certificate_facts(&issued.chain[0]).unwrap();
    assert_eq!(facts.uris, ["spiffe://dogwatch/node/worker-1"]);
    assert!(!facts.is_ca);
    assert!(!String::from_utf8_lossy(&issued.chain[0]).contains("evil.example"));
}

#[tokio::test]
async fn other_kinds_of_key_are_not_certified() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let taken = CheckedRequest::from_der(csr.der()).is_ok();
        assert_eq!(taken, *algorithm != rcgen::PKCS_ECDSA_P384_SHA384);
    }
}

#[tokio::test]
async fn the_ca_is_found_again_and_a_half_lost_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("ca");
    let open = || Ca::open_or_create(&at, CaOptions::default(), wall_ns());
    let first = open().unwrap();
    assert_eq!(open().unwrap().root(), first.root());

    std::fs::remove_file(at.join("ca.pem")).unwrap();
    let renewed = open().unwrap();
    assert_eq!(renewed.fingerprint(), first.fingerprint(), "a certificate is made anew, the pin holds");

    let key = std::fs::read(at.join("ca.key")).unwrap();
    std::fs::remove_file(at.join("ca.key")).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("ca.key is not") && error.contains("backup"), "{error}");

    let other = another_ca(dir.path());
    std::fs::copy(dir.path().join("another/ca.key"), at.join("ca.key")).unwrap();
    assert!(open().unwrap_err().to_string().contains("not the certificate of"));
    assert_ne!(other.fingerprint(), first.fingerprint());
    dogwatch::identity::write_private_file(&at.join("ca.key"), &key).unwrap();
    open().unwrap();
}

#[tokio::test]
async fn lifetimes_and_names_that_cannot_be_issued_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, options: CaOptions| Ca::open_or_create(&dir.path().join(name), options, wall_ns());
    let zero = CaOptions { node_lifetime: Duration::ZERO, ..CaOptions::default() };
    assert!(at("a", zero).unwrap_err().to_string().contains("1 s to 90 days"));
    let names = CaOptions { server_names: vec!["not a name".to_owned()], ..CaOptions::default() };
    assert!(at("b", names).unwrap_err().to_string().contains("not a name"));
    let good = ["collector.dogwatch.svc", "10.0.0.1", "::1"].map(str::to_owned).to_vec();
    let ca = at("c", CaOptions { server_names: good, ..CaOptions::default() });
    assert!(certificates_from_pem("CA", ca.unwrap().root_pem().as_bytes()).is_ok());
}

#[tokio::test]
async fn short_lives_are_set_back_by_no_more_than_half() {
    let dir = tempfile::tempdir().unwrap();
    let options = CaOptions { node_lifetime: Duration::from_secs(3), ..CaOptions::default() };
    let ca = Ca::open_or_create(&dir.path().join("ca"), options, wall_ns()).unwrap();
    let now = wall_ns();
    let leaf = &node_material(&ca, "worker-1", now, &ca).chain[0];
    let facts = dogwatch::identity::certificate_facts(leaf).unwrap();
    let second = now.div_euclid(1_000_000_000) * 1_000_000_000;
    assert_eq!(facts.not_after_wall_ns, second + 3_000_000_000);
    assert_eq!(facts.not_before_wall_ns, second - 1_000_000_000);
}

#[tokio::test]
async fn the_collector_renews_its_own_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let options = CaOptions { server_lifetime: Duration::from_secs(2), ..CaOptions::default() };
    let ca = Arc::new(Ca::open_or_create(&dir.path().join("ca"), options, wall_ns()).unwrap());
    let material = ca.server_material(wall_ns()).unwrap();
    let tls = ServerTls::new(&material, ServerTlsOptions::default(), Arc::new(|_| {})).unwrap();
    let first = tls.shown();
    let (said, mut renewals) = mpsc::unbounded_channel();
    let keeper = tokio::spawn(super::super::ca::keep_server_certificate(ca, tls.clone(), move |outcome| {
        let _ = said.send(outcome.map_err(|e| e.to_string()));
    }));
    let last = tokio::time::timeout(PATIENCE, renewals.recv()).await.unwrap().unwrap().unwrap();
    assert!(last > first.not_after_wall_ns && tls.shown().serial != first.serial);
    keeper.abort();
}
