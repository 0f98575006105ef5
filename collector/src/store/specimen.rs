//! A real store for tests: small journals, and a key that is no secret.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dogwatch::clock;
use ed25519_dalek::SigningKey;

use super::watchdog::Deadlines;
use super::{JournalConfig, Store, StoreConfig};

/// Longer than any machine is slow.
const NEVER: Duration = Duration::from_secs(120);

/// Opens a store in `dir` by the wall clock.
pub(crate) fn open(dir: &Path) -> Store {
    open_with(dir, 64 << 20)
}

/// The same, with room for so many bytes of decisions.
pub(crate) fn open_with(dir: &Path, truth_max_bytes: u64) -> Store {
    let journal = JournalConfig { segment_bytes: 1 << 20, max_bytes: 64 << 20, max_age: None };
    let config = StoreConfig {
        urgent: journal,
        evidence: journal,
        recorder: journal,
        truth: JournalConfig { max_bytes: truth_max_bytes, ..journal },
        preallocate_segments: 1,
        reserve_free_bytes: 0,
        index_deadlines: Deadlines { open: NEVER, request: NEVER },
        fold_patience: NEVER,
        ..StoreConfig::new(dir)
    };
    Store::open(config, SigningKey::from_bytes(&[1; 32]), Arc::new(clock::wall_ns)).unwrap().0
}
