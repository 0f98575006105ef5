//! A real agent's enrolment against a real collector's: both ends as they ship, over TCP.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dogwatch::identity::TokenId;
use dogwatch::record::NodeName;
use dogwatch::tls::{ServerTls, ServerTlsOptions};
use dogwatch::wire::enrolment_server::EnrolmentServer;
use dogwatch_agent::enrol::{EnrolError, EnrolOptions, Renewal, TokenSource, ensure_enrolled};
use dogwatch_collector::admit::ca::{Ca, CaOptions};
use dogwatch_collector::admit::enrol::{EnrolmentService, KeyStanding, Ledger, LedgerError, Spend};
use dogwatch_collector::admit::gate::Gate;
use dogwatch_collector::admit::refusals::{Refusal, refusal_queue};
use dogwatch_collector::admit::tokens::TokenStore;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Server;

const PATIENCE: Duration = Duration::from_secs(60);

/// Counts uses, remembers nothing else.
#[derive(Default)]
struct Uses(Mutex<HashMap<TokenId, u32>>);

impl Ledger for Uses {
    async fn spend_token(&self, token: &TokenId, allowed: u32, _: &NodeName) -> Result<Spend, LedgerError> {
        let mut uses = self.0.lock().unwrap();
        let spent = uses.entry(*token).or_default();
        *spent += 1;
        Ok(if *spent <= allowed { Spend::Spent } else { Spend::Exhausted })
    }

    async fn remember_key(&self, _: &NodeName, _: &[u8; 32], _: &str) -> Result<KeyStanding, LedgerError> {
        Ok(KeyStanding::New)
    }
}

struct Collector {
    ca: Arc<Ca>,
    tokens: TokenStore,
    address: SocketAddr,
    _refused: mpsc::Receiver<Refusal>,
    server: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

impl Collector {
    async fn start(dir: &Path, node_lifetime: Duration) -> Self {
        let options = CaOptions { node_lifetime, ..CaOptions::default() };
        let ca = Arc::new(Ca::open_or_create(&dir.join("ca"), options, now()).unwrap());
        let tokens = TokenStore::open(&dir.join("tokens")).unwrap();
        let (sender, refused) = refusal_queue();
        let material = ca.server_material(now()).unwrap();
        let tls = ServerTls::new(&material, ServerTlsOptions::default(), sender.on_handshake()).unwrap();
        let service = EnrolmentService::new(
            Some(Arc::clone(&ca)),
            tokens.clone(),
            Arc::new(Uses::default()),
            Gate::new(sender),
            [5; 32],
            Arc::new(|_, _| {}),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tls.incoming(listener);
        let server = tokio::spawn(async move {
            let router = Server::builder().add_service(EnrolmentServer::new(service));
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self { ca, tokens, address, _refused: refused, server }
    }

    fn token(&self, uses: u32) -> String {
        let hour = Duration::from_secs(3600);
        self.tokens.create(uses, hour, None, self.ca.fingerprint(), now()).unwrap().to_text()
    }

    fn node(&self, state: &Path, token: Option<String>) -> EnrolOptions {
        let node = "worker-1".parse().unwrap();
        EnrolOptions {
            token: token.map(TokenSource::Text),
            ..EnrolOptions::new(self.address.to_string(), node, state)
        }
    }
}

#[tokio::test]
async fn a_node_enrols_once_and_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), Duration::from_secs(3600)).await;
    let state = dir.path().join("node");
    let token_file = dir.path().join("join-token");
    std::fs::write(&token_file, format!("{}\n", collector.token(1))).unwrap();
    let mut options = collector.node(&state, None);
    options.token = Some(TokenSource::File(token_file));

    let first = ensure_enrolled(&options).await.unwrap();
    assert_eq!(first.receipt_key(), [5; 32]);
    // The token is spent, and nobody asks for it again.
    let again = ensure_enrolled(&options).await.unwrap();
    options.token = None;
    let without = ensure_enrolled(&options).await.unwrap();
    assert_eq!(first.validity(), again.validity());
    assert_eq!(first.signing_key().to_bytes(), without.signing_key().to_bytes());

    // Another node's state folder is empty, and the token is spent.
    let other = collector.node(
        &dir.path().join("other"),
        Some(std::fs::read_to_string(dir.path().join("join-token")).unwrap()),
    );
    let error = ensure_enrolled(&other).await.unwrap_err();
    assert!(matches!(&error, EnrolError::Refused { transient: false, .. }), "{error}");
    assert!(error.to_string().contains("has been used 1 times"), "{error}");

    // A copied state folder does not make another node of it.
    options.node = "worker-2".parse().unwrap();
    let error = ensure_enrolled(&options).await.unwrap_err().to_string();
    assert!(error.contains("credentials of node worker-1"), "{error}");
}

#[tokio::test]
async fn a_collector_of_another_ca_is_not_told_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), Duration::from_secs(3600)).await;
    let mut token = collector.token(1);
    let last = token.pop().unwrap();
    token.push(if last == '0' { '1' } else { '0' });
    let error = ensure_enrolled(&collector.node(&dir.path().join("node"), Some(token))).await.unwrap_err();
    assert!(matches!(error, EnrolError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn renewals_follow_each_other_and_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    // Renewed after 8 to 10 s: a slow machine may take 5 s over it before the certificate expires.
    let collector = Collector::start(dir.path(), Duration::from_secs(16)).await;
    let state = dir.path().join("node");
    let options = collector.node(&state, Some(collector.token(1)));
    let node = ensure_enrolled(&options).await.unwrap();
    let (first, mut swaps) = (node.validity(), node.tls().swaps());
    let (said, mut renewals) = mpsc::unbounded_channel();
    let keeper = tokio::spawn(node.keep_renewed(move |renewal| {
        let _ = said.send(renewal);
    }));
    let mut last = first;
    for _ in 0..2 {
        match tokio::time::timeout(PATIENCE, renewals.recv()).await.unwrap().unwrap() {
            Renewal::Renewed(validity) => {
                assert!(validity.not_after_wall_ns > last.not_after_wall_ns);
                last = validity;
            }
            failed => panic!("{failed:?}"),
        }
    }
    keeper.abort();
    assert!(*swaps.borrow_and_update() >= 2);
    let stored = ensure_enrolled(&EnrolOptions { token: None, ..options }).await;
    assert!(stored.is_ok_and(|n| n.validity().not_after_wall_ns >= last.not_after_wall_ns));
}

#[tokio::test]
async fn an_expired_node_comes_back_with_a_token_and_not_without() {
    let dir = tempfile::tempdir().unwrap();
    let collector = Collector::start(dir.path(), Duration::from_secs(1)).await;
    let options = collector.node(&dir.path().join("node"), Some(collector.token(2)));
    let first = ensure_enrolled(&options).await.unwrap();
    let bare = EnrolOptions { token: None, ..options.clone() };
    let expired = async {
        loop {
            match ensure_enrolled(&bare).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(e) => break e,
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, expired).await.unwrap();
    assert!(matches!(error, EnrolError::NoToken { .. }), "{error}");
    assert!(error.to_string().contains("has a certificate that expired at"), "{error}");
    let back = ensure_enrolled(&options).await.unwrap();
    assert_eq!(first.signing_key().to_bytes(), back.signing_key().to_bytes(), "the same node still");
    assert!(back.validity().not_after_wall_ns > first.validity().not_after_wall_ns);
}
