//! Enrolments in the collector's journal: what a join token was spent on, and which key a node came with.

use dogwatch::identity::TokenId;
use dogwatch::record::NodeName;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::admit::enrol::{KeyStanding, Ledger, LedgerError, Spend};
use crate::casework::Ask;
use crate::keys::known_keys;
use crate::store::Store;
use crate::store::decision::What;

/// Keeps enrolments through casework, the journal's one writer.
#[derive(Debug)]
pub struct JournalLedger {
    store: Store,
    asks: mpsc::Sender<Ask>,
    /// Counting and recording are one step: two callers with one single-use token must not both find it unspent.
    step: Mutex<()>,
}

impl JournalLedger {
    /// A ledger over `store`.
    pub fn new(store: Store, asks: mpsc::Sender<Ask>) -> Self {
        Self { store, asks, step: Mutex::new(()) }
    }

    async fn keep(&self, what: What) -> Result<(), LedgerError> {
        let (reply, done) = oneshot::channel();
        let ask = Ask::Keep { what: Box::new(what), actor: "collector".to_owned(), reply };
        let stopping = || LedgerError("the collector is stopping".to_owned());
        self.asks.send(ask).await.map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())?.map_err(|e| LedgerError(e.to_string()))
    }
}

impl Ledger for JournalLedger {
    async fn spend_token(
        &self,
        token: &TokenId,
        allowed: u32,
        node: &NodeName,
    ) -> Result<Spend, LedgerError> {
        let _step = self.step.lock().await;
        let token = token.to_string();
        let uses = self.store.token_uses(&token).await.map_err(|e| LedgerError(e.to_string()))?;
        if uses.count >= u64::from(allowed) {
            return Ok(Spend::Exhausted);
        }
        self.keep(What::TokenSpent { token, node: node.clone() }).await?;
        Ok(Spend::Spent)
    }

    async fn remember_key(
        &self,
        node: &NodeName,
        key: &[u8; 32],
        token: &TokenId,
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
            self.keep(What::NodeEnrolled { node: node.clone(), signing_key, token: token.to_string() })
                .await?;
        }
        Ok(standing)
    }
}
