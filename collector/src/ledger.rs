//! Enrolments in the collector's journal: what a join token was spent on, and which key a node came with.

use std::collections::HashMap;

use dogwatch::identity::TokenId;
use dogwatch::record::NodeName;
use ed25519_dalek::VerifyingKey;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::admit::enrol::{KeyStanding, Ledger, LedgerError, Spend};
use crate::casework::Ask;
use crate::keys::known_keys;
use crate::store::decision::What;
use crate::store::{QueryError, Store};

/// What stands for the join token of a node that an external CA let in.
const EXTERNAL_CA: &str = "external-ca";

/// Keeps enrolments through casework, the journal's one writer.
#[derive(Debug)]
pub struct JournalLedger {
    store: Store,
    asks: mpsc::Sender<Ask>,
    /// Counting and recording are one step: two callers with one single-use token must not both find it unspent. Uses that
    /// this run recorded are counted here as well, since the index may take them in later. One entry for each token that
    /// was used, of which there are at most so many as token files.
    step: Mutex<HashMap<TokenId, u64>>,
}

impl JournalLedger {
    /// A ledger over `store`.
    pub fn new(store: Store, asks: mpsc::Sender<Ask>) -> Self {
        Self { store, asks, step: Mutex::default() }
    }

    async fn keep(&self, what: What) -> Result<(), LedgerError> {
        let (reply, done) = oneshot::channel();
        let ask = Ask::Keep { what: Box::new(what), actor: "collector".to_owned(), reply };
        let stopping = || LedgerError("the collector is stopping".to_owned());
        self.asks.send(ask).await.map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())?.map_err(|e| LedgerError(e.to_string()))
    }
}

impl JournalLedger {
    /// The keys of a node whose certificate an external CA issued: where it has none yet, `key` becomes its first.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn first_key(&self, node: &NodeName, key: [u8; 32]) -> Result<Vec<VerifyingKey>, LedgerError> {
        let failed = |e: QueryError| LedgerError(e.to_string());
        let _step = self.step.lock().await;
        let known = known_keys(&self.store, node).await.map_err(failed)?;
        if !known.is_empty() {
            return Ok(known);
        }
        if VerifyingKey::from_bytes(&key).is_err() {
            return Err(LedgerError("the signing key is not an Ed25519 key".to_owned()));
        }
        let signing_key = key.iter().map(|b| format!("{b:02x}")).collect();
        self.keep(What::NodeEnrolled { node: node.clone(), signing_key, token: EXTERNAL_CA.to_owned() })
            .await?;
        tracing::info!(%node, "a node of the external CA came for the first time; its signing key is remembered");
        known_keys(&self.store, node).await.map_err(failed)
    }
}

impl Ledger for JournalLedger {
    async fn spend_token(
        &self,
        token: &TokenId,
        allowed: u32,
        node: &NodeName,
    ) -> Result<Spend, LedgerError> {
        let mut spent = self.step.lock().await;
        let name = token.to_string();
        let uses = self.store.token_uses(&name).await.map_err(|e| LedgerError(e.to_string()))?;
        let used = spent.get(token).copied().unwrap_or(0).max(uses.count);
        if used >= u64::from(allowed) {
            return Ok(Spend::Exhausted);
        }
        // Before it is asked for: whoever gives up waiting may have spent it all the same.
        spent.insert(*token, used.saturating_add(1));
        let kept = self.keep(What::TokenSpent { token: name, node: node.clone() }).await;
        if kept.is_err() {
            // Refused, or uncertain: then the store tells.
            spent.insert(*token, used);
        }
        kept.map(|()| Spend::Spent)
    }

    async fn remember_key(
        &self,
        node: &NodeName,
        key: &[u8; 32],
        token: &str,
    ) -> Result<KeyStanding, LedgerError> {
        let _step = self.step.lock().await;
        let known = known_keys(&self.store, node).await.map_err(|e| LedgerError(e.to_string()))?;
        let standing = match known.first() {
            None => KeyStanding::New,
            Some(newest) if newest.as_bytes() == key => KeyStanding::Same,
            Some(newest) => KeyStanding::Changed { before: newest.to_bytes() },
        };
        if !matches!(standing, KeyStanding::Same) {
            let signing_key = key.iter().map(|b| format!("{b:02x}")).collect();
            self.keep(What::NodeEnrolled { node: node.clone(), signing_key, token: token.to_owned() })
                .await?;
        }
        Ok(standing)
    }
}
