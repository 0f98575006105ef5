//! What the fleet brake stands on, as the index holds it, and what it has to know of the index: how far that has come.

use std::sync::Arc;
use std::time::Duration;

use dogwatch::record::Severity;

use super::ask::{MAX_ROWS, by_time};
use super::board::Goal;
use super::decision::Past;
use super::index::decode;
use super::keys::{Key, Table};
use super::row::FindingRow;
use super::view::{Life, told_key};
use super::{QueryError, Store};
use crate::brake::Ledger;

/// What was durable at some moment.
#[derive(Debug, Clone)]
pub struct Mark(Goal);

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

    /// Why decisions that were durable once may be missing, if so: the journal was damaged, cut or put back from a copy.
    /// `in_force`: whether one is in force that must not be forgotten.
    pub fn truth_doubt(&self, in_force: bool) -> Option<String> {
        self.inner.doubt.why(in_force)
    }

    /// Whether damage was left out of the journal that is no doubt as long as no stop is in force and the index is not built
    /// anew: where that is so it is to be settled.
    pub fn truth_left_out(&self) -> bool {
        self.inner.doubt.has_left_out()
    }

    /// As if the journal had shown that decisions are missing.
    #[cfg(test)]
    pub(crate) fn raise_doubt(&self, why: &str) {
        self.inner.doubt.raise(why);
    }

    /// That doubt was dealt with: what [`Store::truth_doubt`] said is a durable decision by now, or it said nothing. Until
    /// then each start finds it again.
    ///
    /// # Errors
    /// What the filesystem says.
    pub async fn settle_truth(&self, dealt: Option<String>) -> std::io::Result<()> {
        let doubt = Arc::clone(&self.inner.doubt);
        tokio::task::spawn_blocking(move || doubt.settle(dealt.as_deref()))
            .await
            .map_err(std::io::Error::other)?
    }

    /// Whether nodes were ever told this state of the fleet brake, or it was dealt with: all that the journal holds is
    /// known, however long ago. Waits for no index that is being built: whoever asks has more to do.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn brake_told(&self, state: Past) -> Result<bool, QueryError> {
        self.ask_within(Duration::ZERO, move |_, index| Ok(index.get(&told_key(state))?.is_some())).await
    }

    /// Whether the index answers questions at once; it does not while it is being built.
    pub fn answers(&self) -> bool {
        self.inner.slot.current(Duration::ZERO).is_some()
    }

    /// What is durable now.
    pub fn mark(&self) -> Mark {
        Mark(self.inner.board.goal())
    }

    /// Whether all that was durable at `mark` is in the index, and whoever listens to [`Store::committed`] was told it.
    pub fn told(&self, mark: &Mark) -> bool {
        self.inner.slot.reached(&mark.0)
    }

    /// Findings that were of severity high or worse at some step and are active, or had a step since `since_wall_ns`; the
    /// newest first.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn grave(&self, since_wall_ns: i64) -> Result<Vec<FindingRow>, QueryError> {
        self.ask(move |inner, index| {
            let mut rows = Vec::new();
            let mut take = |life: Life| {
                if life.steps.iter().any(|s| s.severity >= Severity::High) {
                    rows.extend(inner.finding_row(life));
                }
                rows.len() < MAX_ROWS
            };
            by_time(index, Table::FindingActive, |_, _, life: Life| Ok(take(life)))?;
            by_time(index, Table::FindingTime, |at, _, life: Life| {
                Ok(at >= since_wall_ns && (!life.over || take(life)))
            })?;
            Ok(rows)
        })
        .await
    }
}
