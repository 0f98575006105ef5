//! The enrolment service: a token becomes a node's certificate, and a certificate its successor.
//!
//! `Enrol`, in this order: the request is well formed, its signatures hold, the token lets this node in, one use is
//! spent durably ([`Ledger::spend_token`]), the signing key is remembered durably, and only then is a certificate made.
//! A crash in between costs a use of the token and lets nobody in. A known node that comes with another signing key is
//! served (its token was valid: the disk may have been replaced) and said loudly, as from then on its chains are signed
//! by that key. A service account's token ([`accounts`](super::accounts)) is not spent: it is bound to the node already.
//! While the cluster cannot be asked, nobody is let in by one, and nobody is refused. `Renew` asks for nothing but the present certificate, and issues for that name alone.
//!
//! Limits: [`MAX_CALLS`] at once, [`LEDGER_WAIT`] for the ledger.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dogwatch::identity::{JoinToken, TokenId, check_enrol_proof};
use dogwatch::record::{Fact, Finding, FindingState, NodeName, Severity, Subject};
use dogwatch::tls::Peer;
use dogwatch::wire::enrolment_server::Enrolment;
use dogwatch::wire::{EnrolRequest, EnrolResponse, RenewRequest, TokenKind};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};

use super::accounts::{AccountError, AccountRefusal, Accounts, ReviewError};
use super::ca::{Ca, CheckedRequest, Issued};
use super::gate::Gate;
use super::refusals::Reason;
use super::tokens::{TokenRecord, TokenRefusal, TokenStore};

/// Calls at once: each checks three signatures and makes one. More wait; 64 a time serve 10,000 nodes within a minute.
const MAX_CALLS: usize = 64;
/// Reviews of service accounts' tokens at once. They wait for the API server, and anybody can ask for one: they must neither
/// keep enrolled nodes from renewing nor flood the API server. Who finds no place tries again.
pub(super) const MAX_REVIEWS: usize = 8;
/// How often it is said that the cluster cannot be asked.
const SAY_UNAVAILABLE_EVERY_NS: i64 = 60 * 1_000_000_000;
/// A ledger that does not answer within this has a full or stalled disk; the node tries again later.
pub const LEDGER_WAIT: Duration = Duration::from_secs(10);

/// What came of spending a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spend {
    /// It is spent, durably.
    Spent,
    /// As many as were allowed were spent before.
    Exhausted,
}

/// What the ledger knew of a node's signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStanding {
    /// The node was not known.
    New,
    /// It came with this key before.
    Same,
    /// It came with another key before.
    Changed {
        /// That one.
        before: [u8; 32],
    },
}

/// The ledger could not decide; nothing is issued.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LedgerError(pub String);

/// Where enrolments are recorded: the collector's journal.
pub trait Ledger: Send + Sync + 'static {
    /// Spends one use of `token`, of which `allowed` may be spent in all, for `node`. Counting and recording are one
    /// step for concurrent callers, and `Spent` is returned after the record is durable.
    fn spend_token(
        &self,
        token: &TokenId,
        allowed: u32,
        node: &NodeName,
    ) -> impl Future<Output = Result<Spend, LedgerError>> + Send;

    /// Records that `node` was let in with this signing key (Ed25519, 32 bytes) by `token` (a join token's id, or words
    /// for what else it was let in by), durably, and says what was known before.
    fn remember_key(
        &self,
        node: &NodeName,
        key: &[u8; 32],
        token: &str,
    ) -> impl Future<Output = Result<KeyStanding, LedgerError>> + Send;
}

/// What stands in the record for a join token where a service account's let the node in.
pub const SERVICE_ACCOUNT: &str = "service-account";

/// What an enrolment came with.
enum Shown {
    Join(JoinToken),
    ServiceAccount(String),
}

/// What a node was let in by.
struct LetInBy {
    /// For the ledger.
    name: String,
    /// For people.
    words: String,
}

/// Told of a node that came with another signing key. Must not block.
pub type OnKeyChanged = Arc<dyn Fn(NodeName, Finding) + Send + Sync>;

/// The service.
pub struct EnrolmentService<L> {
    /// `None`: an external CA issues certificates.
    ca: Option<Arc<Ca>>,
    tokens: TokenStore,
    /// `None`: service accounts' tokens are not taken.
    accounts: Option<Accounts>,
    ledger: Arc<L>,
    gate: Gate,
    receipt_key: [u8; 32],
    on_key_changed: OnKeyChanged,
    calls: Semaphore,
    reviews: Semaphore,
    /// When it was last said that the cluster cannot be asked, wall ns.
    said_unavailable: AtomicI64,
    clock: fn() -> i64,
}

impl<L> std::fmt::Debug for EnrolmentService<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrolmentService({:?})", self.ca)
    }
}

impl<L: Ledger> EnrolmentService<L> {
    /// Lets nodes in by `tokens` and records them in `ledger`; without a `ca` it only says that enrolment is off.
    /// `receipt_key` is the public key of the collector's receipts, which nodes are told.
    pub fn new(
        ca: Option<Arc<Ca>>,
        tokens: TokenStore,
        ledger: Arc<L>,
        gate: Gate,
        receipt_key: [u8; 32],
        on_key_changed: OnKeyChanged,
    ) -> Self {
        let calls = Semaphore::new(MAX_CALLS);
        Self {
            ca,
            tokens,
            accounts: None,
            ledger,
            gate,
            receipt_key,
            on_key_changed,
            calls,
            reviews: Semaphore::new(MAX_REVIEWS),
            said_unavailable: AtomicI64::new(0),
            clock: super::wall_ns,
        }
    }

    /// Lets nodes in by service accounts' tokens as well.
    #[must_use]
    pub fn with_accounts(self, accounts: Accounts) -> Self {
        Self { accounts: Some(accounts), ..self }
    }

    /// With another clock (wall ns).
    #[must_use]
    pub fn with_clock(self, clock: fn() -> i64) -> Self {
        Self { clock, ..self }
    }

    async fn admitted(&self) -> Result<(&Arc<Ca>, SemaphorePermit<'_>), Status> {
        let ca = self.ca.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "this collector uses an external CA and issues no certificates; give the agent certificate files",
            )
        })?;
        let call =
            self.calls.acquire().await.map_err(|_| Status::unavailable("the collector is stopping"))?;
        Ok((ca, call))
    }

    fn malformed(&self, peer: &Peer, node: &str, why: &str) -> Status {
        self.gate.report_claim(peer, Reason::BadEnrolment, node, why);
        Status::invalid_argument(format!("the enrolment is refused: {why}"))
    }

    fn token_refused(&self, peer: &Peer, node: &NodeName, refusal: &TokenRefusal) -> Status {
        self.gate.report_claim(peer, Reason::JoinToken, node.as_str(), &refusal.to_string());
        Status::permission_denied(refusal.to_string())
    }

    async fn look_up(
        &self,
        token: JoinToken,
        node: &NodeName,
    ) -> Result<Result<TokenRecord, TokenRefusal>, Status> {
        let (tokens, node, now) = (self.tokens.clone(), node.clone(), (self.clock)());
        let looked_up = tokio::task::spawn_blocking(move || tokens.check(&token, &node, now)).await;
        match looked_up {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => {
                tracing::error!(%error, "a join token cannot be looked up");
                Err(Status::internal("the collector cannot read this join token; its log says why"))
            }
            Err(_) => Err(Status::unavailable("the collector is stopping")),
        }
    }

    /// Spends one use of a join token.
    async fn spend(&self, peer: &Peer, token: JoinToken, node: &NodeName) -> Result<LetInBy, Status> {
        let record = match self.look_up(token, node).await? {
            Ok(record) => record,
            Err(refusal) => return Err(self.token_refused(peer, node, &refusal)),
        };
        match answer(self.ledger.spend_token(&record.id, record.uses, node)).await? {
            Spend::Spent => {
                let name = record.id.to_string();
                Ok(LetInBy { words: format!("join token {name}"), name })
            }
            Spend::Exhausted => {
                let refusal = TokenRefusal::Spent(record.id, record.uses);
                Err(self.token_refused(peer, node, &refusal))
            }
        }
    }

    /// Asks the cluster whose a service account's token is.
    async fn reviewed(&self, peer: &Peer, token: &str, node: &NodeName) -> Result<LetInBy, Status> {
        let Ok(_place) = self.reviews.try_acquire() else {
            return Err(Status::unavailable(
                "as many service accounts' tokens are being reviewed as may be at once; this is tried again",
            ));
        };
        let admitted = match &self.accounts {
            Some(accounts) => accounts.admit(token, node).await,
            None => Err(AccountError::Refused(AccountRefusal::Off)),
        };
        match admitted {
            Ok(words) => Ok(LetInBy { name: SERVICE_ACCOUNT.to_owned(), words }),
            Err(AccountError::Refused(refusal)) => {
                let why = refusal.to_string();
                self.gate.report_claim(peer, Reason::ServiceAccount, node.as_str(), &why);
                Err(Status::permission_denied(why))
            }
            Err(AccountError::Unavailable(error)) => {
                self.say_unavailable(&error);
                Err(Status::unavailable(format!("{error}; this is tried again")))
            }
        }
    }

    /// Once a minute: while the API server is away every agent that is not in yet comes again and again.
    fn say_unavailable(&self, error: &ReviewError) {
        let (now, before) = ((self.clock)(), self.said_unavailable.load(Ordering::Relaxed));
        if now.saturating_sub(before) >= SAY_UNAVAILABLE_EVERY_NS {
            self.said_unavailable.store(now, Ordering::Relaxed);
            tracing::error!(%error, "service accounts' tokens cannot be reviewed; agents try again");
        }
    }

    fn response(&self, ca: &Ca, issued: Issued) -> Response<EnrolResponse> {
        Response::new(EnrolResponse {
            chain_der: issued.chain.iter().map(|c| c.to_vec().into()).collect(),
            ca_der: ca.root().to_vec().into(),
            expires_wall_ns: issued.not_after_wall_ns,
            receipt_key: self.receipt_key.to_vec().into(),
        })
    }
}

#[tonic::async_trait]
impl<L: Ledger> Enrolment for EnrolmentService<L> {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let peer = self.gate.peer(&request)?;
        let (ca, _call) = self.admitted().await?;
        let asked = request.into_inner();

        let node: NodeName = asked.node.parse().map_err(|e| {
            let shown: String = asked.node.chars().take(80).collect();
            self.malformed(&peer, &shown, &format!("{e}"))
        })?;
        let refuse = |why: &str| self.malformed(&peer, node.as_str(), why);
        let kind = TokenKind::try_from(asked.kind)
            .map_err(|_| refuse("its token is of a kind that this collector does not know"))?;
        let token = match kind {
            TokenKind::Join => {
                let token = asked.token.parse::<JoinToken>();
                Shown::Join(token.map_err(|e| refuse(&format!("{e}")))?)
            }
            TokenKind::ServiceAccount => Shown::ServiceAccount(asked.token),
        };
        let checked = CheckedRequest::from_der(&asked.csr_der).map_err(|e| refuse(&e.to_string()))?;
        let key = check_enrol_proof(&asked.signing_key, &asked.csr_der, &asked.signing_proof)
            .ok_or_else(|| refuse("the signing key did not sign this certificate request"))?
            .to_bytes();

        let by = match token {
            Shown::Join(token) => self.spend(&peer, token, &node).await?,
            Shown::ServiceAccount(token) => self.reviewed(&peer, &token, &node).await?,
        };
        if let KeyStanding::Changed { before } =
            answer(self.ledger.remember_key(&node, &key, &by.name)).await?
        {
            let from = peer.address.ip();
            let finding = key_changed(&node, &before, &key, &by, from, (self.clock)());
            (self.on_key_changed)(node.clone(), finding);
        }
        let issued = ca.issue_node(&node, &checked, (self.clock)()).map_err(|e| making_failed(&node, &e))?;
        tracing::info!(%node, by = %by.words, serial = issued.serial, from = %peer.address, "let a node in");
        Ok(self.response(ca, issued))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<EnrolResponse>, Status> {
        let node = self.gate.require_node(&request)?;
        let peer = self.gate.peer(&request)?;
        let (ca, _call) = self.admitted().await?;
        let checked = CheckedRequest::from_der(&request.into_inner().csr_der)
            .map_err(|e| self.malformed(&peer, node.as_str(), &e.to_string()))?;
        let issued = ca.issue_node(&node, &checked, (self.clock)()).map_err(|e| making_failed(&node, &e))?;
        tracing::debug!(%node, serial = issued.serial, "renewed a node's certificate");
        Ok(self.response(ca, issued))
    }
}

fn making_failed(node: &NodeName, error: &super::ca::CaError) -> Status {
    tracing::error!(%node, %error, "cannot issue a certificate");
    Status::internal(format!("the collector cannot issue a certificate: {error}"))
}

async fn answer<T>(asked: impl Future<Output = Result<T, LedgerError>>) -> Result<T, Status> {
    match tokio::time::timeout(LEDGER_WAIT, asked).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            tracing::error!(%error, "an enrolment cannot be recorded");
            Err(Status::unavailable("the collector cannot record this enrolment now; try again later"))
        }
        Err(_) => Err(Status::unavailable(format!(
            "the collector could not record this enrolment within {} s; try again later",
            LEDGER_WAIT.as_secs()
        ))),
    }
}

fn key_changed(
    node: &NodeName,
    before: &[u8; 32],
    now: &[u8; 32],
    by: &LetInBy,
    from: IpAddr,
    now_wall_ns: i64,
) -> Finding {
    let (before, now) = (short(before), short(now));
    let seed = format!("signing-key-changed|{node}|{before}|{now}|{now_wall_ns}");
    let id: String = Sha256::digest(seed.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect();
    Finding {
        id: format!("f-{id}"),
        rule: "signing-key-changed".to_owned(),
        severity: Severity::High,
        state: FindingState::Raised,
        subject: Subject::new("node", node.as_str()),
        summary: format!("node {node} enrolled again with another signing key ({now}, before {before})"),
        explanation: format!(
            "The key that signs the node's chains was {before} and is {now} from now on; it was let in by {}, \
             from {from}. Expected after its disk was replaced or its state folder lost. If neither happened, somebody \
             else has a token and took the node's name: look at where it calls from, and remove the token.",
            by.words
        ),
        citations: Vec::new(),
        facts: vec![
            Fact::new("signing_key_before", before),
            Fact::new("signing_key", now),
            Fact::new("token", &by.name),
            Fact::new("address", from),
        ],
        raised_wall_ns: now_wall_ns,
        pod: None,
    }
}

/// As people compare keys: the first 16 hex digits of the key's SHA-256.
fn short(key: &[u8; 32]) -> String {
    Sha256::digest(key).iter().take(8).map(|b| format!("{b:02x}")).collect()
}
