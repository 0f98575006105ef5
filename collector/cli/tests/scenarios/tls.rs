//! The way to a collector over mutual TLS, as configuration describes it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use dogwatch::tls::{ServerMaterial, ServerTls, ServerTlsOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::transport::Server;

use crate::canned::service;
use crate::running::{Dial, How, run_with};

/// A certificate of `issuer` that bears `uri`, as PEM, and its key.
fn issue(issuer: &Issuer<'_, KeyPair>, uri: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn collector(ca: &str, issuer: &Issuer<'_, KeyPair>) -> String {
    let (cert, key) = issue(issuer, "spiffe://dogwatch/collector");
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("c.pem", &cert), ("k.pem", &key), ("ca.pem", &ca.to_owned())] {
        private(&dir.path().join(name), text);
    }
    let certificates =
        |text: &str| dogwatch::tls::certificates_from_pem("certificate", text.as_bytes()).unwrap();
    let client = dogwatch::tls::ClientMaterial::from_pem(&cert, &key, ca).unwrap();
    let material = ServerMaterial { chain: client.chain, key: client.key, client_roots: certificates(ca) };
    let tls = ServerTls::new(&material, ServerTlsOptions::default(), Arc::new(|_| {})).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = tls.incoming(listener);
    tokio::spawn(Server::builder().add_service(service()).serve_with_incoming(incoming));
    address
}

/// A desk over mutual TLS, and the configuration of a person who may ask it, in a folder.
pub(crate) async fn configured() -> (tempfile::TempDir, String) {
    let (ca, issuer) = authority();
    let address = collector(&ca, &issuer).await;
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = issue(&issuer, "spiffe://dogwatch/person/alice/role/responder");
    fs::write(dir.path().join("ca.pem"), &ca).unwrap();
    fs::write(dir.path().join("alice.pem"), cert).unwrap();
    private(&dir.path().join("alice.key"), &key);
    let config = dir.path().join("cli.yaml");
    fs::write(&config, format!("collector: {address}\nca: ca.pem\ncert: alice.pem\nkey: alice.key\n"))
        .unwrap();
    let config = config.to_str().unwrap().to_owned();
    (dir, config)
}

#[tokio::test]
async fn a_persons_certificate_opens_the_desk_and_a_wrong_authority_is_named() {
    let (ca, issuer) = authority();
    let address = collector(&ca, &issuer).await;
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = issue(&issuer, "spiffe://dogwatch/person/alice/role/responder");
    fs::write(dir.path().join("ca.pem"), &ca).unwrap();
    fs::write(dir.path().join("alice.pem"), cert).unwrap();
    private(&dir.path().join("alice.key"), &key);
    let config = dir.path().join("cli.yaml");
    let text = format!("collector: {address}\nca: ca.pem\ncert: alice.pem\nkey: alice.key\n");
    fs::write(&config, text).unwrap();

    let args = ["get", "nodes", "-o", "name", "--config", config.to_str().unwrap()];
    let ran = run_with(Dial::Configured, How::default(), &args).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "node-1\nnode-2\nnode-3\n"), "{}", ran.err);

    let (stranger, _) = authority();
    fs::write(dir.path().join("other.pem"), stranger).unwrap();
    let other = dir.path().join("other.pem");
    let wrong = [&args[..], &["--ca", other.to_str().unwrap()]].concat();
    let ran = run_with(Dial::Configured, How::default(), &wrong).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains(&address) && ran.err.contains("--ca"), "{}", ran.err);

    let gone = [&args[..], &["--key", "/nonexistent/key.pem"]].concat();
    let ran = run_with(Dial::Configured, How::default(), &gone).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("/nonexistent/key.pem"), "{}", ran.err);
}
