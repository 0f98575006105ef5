//! What the thread that takes jobs is at, and since when, for whoever watches over it: it may wait for a disk or a server
//! for ever, and then nothing is cleaned.
//!
//! Deliberately absent: what is made of it.

use std::sync::{Arc, Mutex, PoisonError};

use dogwatch::clock;

/// What one thing is that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// What it is, in words.
    pub what: String,
    /// Since when, by the boot clock.
    pub since_boot_ns: u64,
}

/// What is under way. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct AtWork(Arc<Mutex<Option<UnderWay>>>);

impl AtWork {
    /// What is under way now.
    pub fn now(&self) -> Option<UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it is `what`, until what this gives is dropped.
    pub fn begin(&self, what: String) -> Began<'_> {
        self.set(Some(UnderWay { what, since_boot_ns: clock::now().boot_ns }));
        Began(self)
    }

    fn set(&self, now: Option<UnderWay>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// Something that is under way.
#[derive(Debug)]
#[must_use = "it is over when this is dropped"]
pub struct Began<'w>(&'w AtWork);

impl Drop for Began<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
