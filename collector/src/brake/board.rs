//! What every node is told, and a stop that is told before the owner of the brake has taken it.
//!
//! Invariants: a stop that was put up is told at once, whatever the owner waits for (a disk that stalls), and stays told
//! until the owner has it in its ledger or refused it; the owner's own word takes its place without an open one between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dogwatch::record::Hash;
use tokio::sync::watch;

use super::ledger::{knows, stopped_words};
use super::machine::Brake;
use crate::store::decision::Past;

/// What every node is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Grows with every stop and release.
    pub revision: u64,
    /// Of the stops and releases that led to it; 0 where that is not known yet.
    pub lineage: u64,
    /// Whether a person paused.
    pub paused: bool,
    /// Whether something went wrong.
    pub tripped: bool,
    /// Why, in words; empty while open.
    pub reason: String,
    /// Policies that are proven.
    pub proven: Vec<Hash>,
    /// Why a restart of the collector would forget this state; `None`: it would not.
    pub not_kept: Option<String>,
    /// What nodes were told so far.
    told: Arc<Vec<Past>>,
}

impl View {
    /// `known`: states that the journal holds, beside those that the ledger tells.
    pub(super) fn of(brake: &Brake, known: &[Past], not_kept: Option<String>, before: &Self) -> Self {
        let ledger = brake.ledger();
        let all = || ledger.told.iter().chain(known);
        let told = if before.told.iter().eq(all()) {
            Arc::clone(&before.told)
        } else {
            Arc::new(all().copied().collect())
        };
        Self {
            revision: ledger.revision,
            lineage: ledger.lineage,
            paused: ledger.paused.is_some(),
            tripped: ledger.tripped.is_some(),
            reason: ledger.stopped().map(|s| stopped_words(ledger, s)).unwrap_or_default(),
            proven: brake.proven(),
            not_kept,
            told,
        }
    }

    /// Whether nothing may be cleaned.
    pub fn is_stopped(&self) -> bool {
        self.paused || self.tripped
    }

    /// Whether a state that a node has in force is one that this collector told, or dealt with.
    pub fn knows(&self, state: Past) -> bool {
        knows(self.revision, &self.told, state)
    }
}

/// A stop that the owner has not taken yet.
#[derive(Debug, Clone)]
struct Early {
    tripped: bool,
    reason: String,
}

#[derive(Debug, Default)]
struct Inner {
    base: View,
    early: BTreeMap<u64, Early>,
    next: u64,
}

/// Where it stands; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Board {
    inner: Arc<Mutex<Inner>>,
    out: Arc<watch::Sender<View>>,
}

/// A stop that was put up; it stays up until this is dropped.
#[derive(Debug)]
pub(super) struct Stopping {
    board: Board,
    id: u64,
}

impl Drop for Stopping {
    fn drop(&mut self) {
        let id = self.id;
        self.board.change(|inner| drop(inner.early.remove(&id)));
    }
}

impl Board {
    pub(super) fn new(base: View) -> Self {
        let out = Arc::new(watch::Sender::new(base.clone()));
        let inner = Inner { base, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), out }
    }

    /// What is told, now and whenever it changes.
    pub(super) fn view(&self) -> watch::Receiver<View> {
        self.out.subscribe()
    }

    /// Whether nothing may be cleaned, by what is told.
    pub(super) fn is_stopped(&self) -> bool {
        self.out.borrow().is_stopped()
    }

    /// The revision that is told.
    pub(super) fn revision(&self) -> u64 {
        self.out.borrow().revision
    }

    /// Takes the owner's word; `known` as of [`View::of`].
    pub(super) fn publish(&self, brake: &Brake, known: &[Past], not_kept: Option<String>) {
        self.change(|inner| inner.base = View::of(brake, known, not_kept, &inner.base));
    }

    /// Tells every node to stop, before the owner knows.
    pub(super) fn stop(&self, tripped: bool, reason: String) -> Stopping {
        let id = self.change(|inner| {
            inner.next += 1;
            inner.early.insert(inner.next, Early { tripped, reason });
            inner.next
        });
        Stopping { board: self.clone(), id }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let out = change(&mut inner);
        let view = inner.told();
        // Under the lock, so that no older word follows a newer one.
        self.out.send_if_modified(|before| {
            let changed = *before != view;
            *before = view;
            changed
        });
        out
    }
}

impl Inner {
    fn told(&self) -> View {
        let base = self.base.clone();
        let Some(early) = self.early.values().next().filter(|_| !base.is_stopped()) else { return base };
        View {
            revision: base.revision + 1,
            // The owner gives it one.
            lineage: 0,
            paused: !early.tripped,
            tripped: early.tripped,
            reason: early.reason.clone(),
            not_kept: Some("it was ordered just now".to_owned()),
            ..base
        }
    }
}
