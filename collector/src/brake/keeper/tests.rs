use std::sync::Arc;

use ed25519_dalek::SigningKey;

use super::*;
use crate::store::{JournalConfig, StoreConfig};

fn open(dir: &std::path::Path) -> Store {
    let journal = JournalConfig { segment_bytes: 1 << 20, max_bytes: 16 << 20, max_age: None };
    let config = StoreConfig {
        urgent: journal,
        evidence: journal,
        recorder: journal,
        truth: journal,
        preallocate_segments: 1,
        reserve_free_bytes: 0,
        ..StoreConfig::new(dir)
    };
    Store::open(config, SigningKey::from_bytes(&[1; 32]), Arc::new(clock::wall_ns)).unwrap().0
}

#[tokio::test]
async fn a_stop_beyond_those_that_wait_for_the_journal_is_kept_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.indexed(Duration::from_secs(30)).await.unwrap();
    let (asks, _asked) = mpsc::channel(8);
    let opening = Keeper::open(store.clone(), Nodes::default(), Say::new(asks), Settings::default());
    let (mut keeper, _handle) = opening.await.unwrap();
    // While the journal takes nothing.
    for n in 0..MAX_UNWRITTEN + 5 {
        keeper.force(What::BrakePaused { reason: format!("reason {n}") }, "ada");
    }
    assert_eq!(keeper.unwritten.len(), MAX_UNWRITTEN);
    assert!(keeper.brake.ledger().stopped().is_some() && keeper.not_kept().is_some());
    // It takes them again.
    keeper.flush().await;
    assert!(keeper.not_kept().is_none());
    let paused = keeper.brake.ledger().paused.clone().unwrap();
    assert!(paused.reason.starts_with("reason 68 (and 4 more stops"), "{}", paused.reason);
    assert_eq!(keeper.brake.ledger().revision, MAX_UNWRITTEN as u64 + 1);
    let kept = store.brake().await.unwrap();
    assert_eq!(&kept, keeper.brake.ledger(), "a restart knows the same");
    drop(keeper);
    store.close().await;
}
