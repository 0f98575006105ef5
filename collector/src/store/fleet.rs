//! What the fleet brake stands on, as the index holds it.

use super::index::decode;
use super::keys::{Key, Table};
use super::{QueryError, Store};
use crate::brake::Ledger;

impl Store {
    /// The fold of every decision of the fleet brake.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn brake(&self) -> Result<Ledger, QueryError> {
        self.ask(move |_, index| match index.get(&Key::of(Table::Brake).bytes())? {
            Some(row) => Ok(decode(&row)?),
            None => Ok(Ledger::default()),
        })
        .await
    }
}
