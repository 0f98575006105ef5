//! Certificates from a CA that is not the collector's: nodes need no join token, the signing key of a node's first
//! connection counts from then on, and another one with the same certificate is refused and found.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::programs;
use dogwatch_e2e::stage::{Stage, yaml};
use dogwatch_e2e::wait::until;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `name`.crt and `name`.key with the identity `uri`.
fn leaf(
    root: &CertifiedIssuer<'static, KeyPair>,
    dir: &Path,
    name: &str,
    uri: &str,
    purpose: ExtendedKeyUsagePurpose,
) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, root).unwrap();
    std::fs::write(dir.join(format!("{name}.crt")), certificate.pem()).unwrap();
    dogwatch::identity::write_private_file(&dir.join(format!("{name}.key")), key.serialize_pem().as_bytes())
        .unwrap();
}

#[test]
fn nodes_of_an_external_ca_need_no_token_and_keep_their_signing_key() {
    let stage = Stage::new(programs!());
    let dir = stage.path().to_owned();
    let root = root();
    std::fs::write(dir.join("ca.crt"), root.pem()).unwrap();
    leaf(&root, &dir, "collector", "spiffe://dogwatch/collector", ExtendedKeyUsagePurpose::ServerAuth);
    leaf(&root, &dir, "node", "spiffe://dogwatch/node/n1", ExtendedKeyUsagePurpose::ClientAuth);
    leaf(
        &root,
        &dir,
        "alice",
        "spiffe://dogwatch/person/alice/role/viewer",
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    let file = |name: &str| yaml(&dir.join(name));
    let identity = format!(
        "identity: {{ certificate: {}, key: {}, client_ca: {} }}",
        file("collector.crt"),
        file("collector.key"),
        file("ca.crt")
    );
    let mut house = stage.house(&dir.join("collector"), &identity);
    house.start();
    let uplink = format!(
        "uplink: {{ collector: \"{}\", certificate: {}, key: {}, ca: {}, pulse_every: 1s }}\ncleanup: {{ mode: 'off', roots: [] }}\n",
        house.address(),
        file("node.crt"),
        file("node.key"),
        file("ca.crt")
    );
    let config = dir.join("alice.yaml");
    let text = format!("collector: \"{}\"\nca: ca.crt\ncert: alice.crt\nkey: alice.key\n", house.address());
    std::fs::write(&config, text).unwrap();
    let ask = |what: &[&str]| -> Vec<Value> {
        let out = Command::new(&stage.programs().dogwatch)
            .arg("--config")
            .arg(&config)
            .args(what)
            .args(["-o", "json"])
            .output()
            .unwrap();
        serde_json::from_slice(&out.stdout).unwrap_or_default()
    };

    let mut node = stage.post("n1", &dir.join("agent"), None, &uplink);
    node.start();
    until("the node to be connected", PATIENCE, || {
        ask(&["get", "nodes"]).iter().any(|n| n["name"] == "n1" && n["state"] == "connected").then_some(())
    });
    node.stop();

    // The same certificate with another state folder, and so another signing key.
    let mut thief = stage.post("n1", &dir.join("other"), None, &uplink);
    thief.start();
    until("the changed key to be found", PATIENCE, || {
        ask(&["get", "findings"]).iter().any(|f| f["rule"] == "node-signing-key-changed").then_some(())
    });
    thief.stop();
    house.stop();
    assert!(house.verify().status.success());
}
