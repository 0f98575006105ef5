//! The keys with which nodes sign their chain heads, as they were enrolled.

use dogwatch::record::{Hash, NodeName};
use ed25519_dalek::VerifyingKey;

use crate::store::{QueryError, Store};

/// A node's keys, newest enrolment first; empty for a stranger. What the journal holds that is no key is left out.
///
/// # Errors
/// When the store cannot answer.
pub async fn known_keys(store: &Store, node: &NodeName) -> Result<Vec<VerifyingKey>, QueryError> {
    let keys = store.signing_keys(node).await?;
    // A hash is 32 bytes in hex as well, and already knows how to read them.
    Ok(keys
        .into_iter()
        .filter_map(|hex| Hash::try_from(hex).ok())
        .filter_map(|bytes| VerifyingKey::from_bytes(&bytes.0).ok())
        .collect())
}
