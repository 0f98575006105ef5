//! Scenarios over real TCP: a server as the collector builds it, and callers of every kind.

mod authority;
mod callers;
mod enrolment;
mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dogwatch::identity::{JoinToken, Role, TlsKey, TokenId, TokenSecret, TrustDomain, enrol_proof};
use dogwatch::record::{Finding, NodeName};
use dogwatch::tls::{
    ClientMaterial, ClientTls, ClientTlsOptions, FileWatch, Reload, ServerFiles, ServerTls, ServerTlsOptions,
    certificates_from_pem,
};
use dogwatch::wire::enrolment_client::EnrolmentClient;
use dogwatch::wire::enrolment_server::EnrolmentServer;
use dogwatch::wire::intake_client::IntakeClient;
use dogwatch::wire::intake_server::{Intake, IntakeServer};
use dogwatch::wire::{
    AgentMessage, CollectorMessage, EnrolRequest, EnrolResponse, Pulse, RenewRequest, TokenKind, Welcome,
    agent_message, collector_message,
};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use super::accounts::{Accounts, Review, ReviewError, Reviewed};
use super::ca::{Ca, CaOptions, CheckedRequest};
use super::enrol::{EnrolmentService, KeyStanding, Ledger, LedgerError, MAX_REVIEWS, Spend};
use super::gate::Gate;
use super::refusals::{Reason, Refusal, refusal_queue};
use super::tokens::TokenStore;
use super::wall_ns;

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_NS: i64 = 3_600_000_000_000;
/// No scenario waits longer for anything that must come.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Remembered {
    spent: HashMap<TokenId, u32>,
    keys: HashMap<NodeName, [u8; 32]>,
}

#[derive(Default)]
struct MemoryLedger(Mutex<Remembered>);

impl Ledger for MemoryLedger {
    async fn spend_token(&self, token: &TokenId, allowed: u32, _: &NodeName) -> Result<Spend, LedgerError> {
        let mut all = self.0.lock().unwrap();
        let spent = all.spent.entry(*token).or_default();
        if *spent >= allowed {
            return Ok(Spend::Exhausted);
        }
        *spent += 1;
        Ok(Spend::Spent)
    }

    async fn remember_key(
        &self,
        node: &NodeName,
        key: &[u8; 32],
        _: &str,
    ) -> Result<KeyStanding, LedgerError> {
        Ok(match self.0.lock().unwrap().keys.insert(node.clone(), *key) {
            None => KeyStanding::New,
            Some(before) if before == *key => KeyStanding::Same,
            Some(before) => KeyStanding::Changed { before },
        })
    }
}

/// Answers each message with a Welcome whose `max_block_bytes` counts the messages; asks for a node, or for a responder
/// where the caller says `need: responder`.
struct Echo(Gate);

#[tonic::async_trait]
impl Intake for Echo {
    type SendStream = Pin<Box<dyn futures_util::Stream<Item = Result<CollectorMessage, Status>> + Send>>;

    async fn send(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SendStream>, Status> {
        if request.metadata().contains_key("need") {
            self.0.require_role(&request, Role::Responder)?;
        } else {
            self.0.require_node(&request)?;
        }
        let serial = self.0.peer(&request)?.serial.unwrap_or_default();
        let answers = request.into_inner().enumerate().map(|(n, message)| {
            message.map(|_| CollectorMessage {
                message: Some(collector_message::Message::Welcome(Welcome {
                    cursors: vec![],
                    max_block_bytes: n as u32 + 1,
                    brake: None,
                })),
            })
        });
        let mut response = Response::new(Box::pin(answers) as Self::SendStream);
        response.metadata_mut().insert("serial", serial.parse().unwrap());
        Ok(response)
    }
}

struct House {
    dir: tempfile::TempDir,
    ca: Arc<Ca>,
    tokens: TokenStore,
    tls: ServerTls,
    address: SocketAddr,
    refused: mpsc::Receiver<Refusal>,
    key_changes: Arc<Mutex<Vec<(NodeName, Finding)>>>,
    server: JoinHandle<()>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl House {
    async fn open() -> Self {
        Self::open_with(ServerTlsOptions::default(), true).await
    }

    async fn open_with(options: ServerTlsOptions, issues: bool) -> Self {
        Self::open_for(options, issues, None).await
    }

    async fn open_for(options: ServerTlsOptions, issues: bool, accounts: Option<Accounts>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open_or_create(&dir.path().join("ca"), CaOptions::default(), wall_ns()).unwrap();
        let ca = Arc::new(ca);
        let tokens = TokenStore::open(&dir.path().join("tokens")).unwrap();
        let (sender, refused) = refusal_queue();
        let material = ca.server_material(wall_ns()).unwrap();
        let tls = ServerTls::new(&material, options, sender.on_handshake()).unwrap();
        let gate = Gate::new(sender);
        let key_changes: Arc<Mutex<Vec<(NodeName, Finding)>>> = Arc::default();
        let said = Arc::clone(&key_changes);
        let mut service = EnrolmentService::new(
            issues.then(|| Arc::clone(&ca)),
            tokens.clone(),
            Arc::new(MemoryLedger::default()),
            gate.clone(),
            [5; 32],
            Arc::new(move |node, finding| said.lock().unwrap().push((node, finding))),
        );
        if let Some(accounts) = accounts {
            service = service.with_accounts(accounts);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tls.incoming(listener);
        let server = tokio::spawn(async move {
            Server::builder()
                .add_service(EnrolmentServer::new(service))
                .add_service(IntakeServer::new(Echo(gate)))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self { dir, ca, tokens, tls, address, refused, key_changes, server }
    }

    fn token(&self, uses: u32) -> JoinToken {
        self.tokens.create(uses, HOUR, None, self.ca.fingerprint(), wall_ns()).unwrap()
    }

    /// A certificate of this house's CA for `node`, issued at `at`.
    fn node_material(&self, node: &str, at: i64) -> ClientMaterial {
        node_material(&self.ca, node, at, &self.ca)
    }

    async fn next_refusal(&mut self) -> Refusal {
        tokio::time::timeout(PATIENCE, self.refused.recv()).await.expect("a refusal in time").unwrap()
    }

    fn nothing_refused(&mut self) {
        if let Ok(refusal) = self.refused.try_recv() {
            panic!("{refusal:?}");
        }
    }
}

fn node_material(issuer: &Ca, node: &str, at: i64, trusts: &Ca) -> ClientMaterial {
    let key = TlsKey::generate().unwrap();
    let request = CheckedRequest::from_der(&key.csr_der().unwrap()).unwrap();
    let issued = issuer.issue_node(&node.parse().unwrap(), &request, at).unwrap();
    ClientMaterial { chain: issued.chain, key: key.to_der(), roots: vec![trusts.root().clone()] }
}

fn another_ca(dir: &std::path::Path) -> Ca {
    Ca::open_or_create(&dir.join("another"), CaOptions::default(), wall_ns()).unwrap()
}

async fn dial(tls: &ClientTls, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    tls.endpoint(&address.to_string()).unwrap().connect_with_connector(tls.clone()).await
}

fn text(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        all = format!("{all}: {next}");
        cause = next.source();
    }
    all
}

fn enrol_request(node: &str, token: &JoinToken, signing_seed: u8) -> (TlsKey, EnrolRequest) {
    let key = TlsKey::generate().unwrap();
    let csr = key.csr_der().unwrap();
    // The seed's public key and proof, by way of a key file: how agents come by theirs.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{signing_seed}.key"));
    let signing = dogwatch::identity::load_or_create_signing_key(&path).unwrap();
    let request = EnrolRequest {
        node: node.to_owned(),
        token: token.to_text(),
        signing_key: signing.verifying_key().to_bytes().to_vec().into(),
        signing_proof: enrol_proof(&signing, &csr).to_vec().into(),
        csr_der: csr.into(),
        kind: TokenKind::Join.into(),
    };
    (key, request)
}

async fn enrol(house: &House, token: &JoinToken, request: EnrolRequest) -> Result<EnrolResponse, Status> {
    let tls = ClientTls::pinned(token.ca, ClientTlsOptions::default()).unwrap();
    let channel = dial(&tls, house.address).await.unwrap();
    EnrolmentClient::new(channel).enrol(request).await.map(Response::into_inner)
}

fn as_material(key: &TlsKey, answer: &EnrolResponse) -> ClientMaterial {
    ClientMaterial {
        chain: answer.chain_der.iter().map(|c| c.to_vec().into()).collect(),
        key: key.to_der(),
        roots: vec![answer.ca_der.to_vec().into()],
    }
}

/// An open intake call: what was sent through it comes back counted.
struct Call {
    send: mpsc::Sender<AgentMessage>,
    receive: Streaming<CollectorMessage>,
    serial: String,
}

impl Call {
    async fn open(tls: &ClientTls, address: SocketAddr, need: Option<&'static str>) -> Result<Self, Status> {
        let channel = dial(tls, address).await.map_err(|e| Status::unavailable(text(&e)))?;
        let (send, messages) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(messages));
        if let Some(need) = need {
            request.metadata_mut().insert("need", need.parse().unwrap());
        }
        let response = IntakeClient::new(channel).send(request).await?;
        let serial = response.metadata().get("serial").unwrap().to_str().unwrap().to_owned();
        Ok(Self { send, receive: response.into_inner(), serial })
    }

    async fn round_trip(&mut self) -> u32 {
        let message = AgentMessage { message: Some(agent_message::Message::Pulse(Pulse::default())) };
        self.send.send(message).await.unwrap();
        match self.receive.message().await.unwrap().unwrap().message {
            Some(collector_message::Message::Welcome(w)) => w.max_block_bytes,
            other => panic!("{other:?}"),
        }
    }
}

fn client(material: &ClientMaterial) -> ClientTls {
    ClientTls::new(material, ClientTlsOptions::default()).unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the condition in time");
}
