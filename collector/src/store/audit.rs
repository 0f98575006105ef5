//! The audit: walks a store's journals, of a running or a stopped collector, and says what departs from what the
//! nodes signed.
//!
//! Keys come from whoever asks, or from the truth journal; the second trusts the very store that is audited for which
//! key is whose, and the result says so. Bytes that are no frame are listed: what they cost is the verifier's to find
//! (a torn tail that was never acked costs nothing).
//!
//! Deliberately absent: repairing, and opening anything for writing.

use std::path::{Path, PathBuf};

use dogwatch::chain::{ChainVerifier, Keys, Report, Rules, TrustedKey};
use dogwatch::journal::{FrameKind, JournalError, Position, Reader};
use dogwatch::record::{NodeName, Stream};
use ed25519_dalek::VerifyingKey;

use super::decision::What;
use super::truth;

/// Damaged stretches that an audit lists; further ones are counted in bytes.
const MAX_DAMAGED: usize = 1000;

/// Whose keys count.
#[derive(Debug, Clone)]
pub enum Trust {
    /// These, known from elsewhere.
    Given(Keys),
    /// Those that the store says it let in.
    Truth,
}

/// A stretch of bytes that is no frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In which journal.
    pub journal: &'static str,
    /// Where.
    pub at: Position,
    /// How long.
    pub bytes: u64,
}

/// What an audit found.
#[derive(Debug, Default)]
pub struct Audit {
    /// What departs from what was signed.
    pub report: Report,
    /// Whether the keys are those that the audited store names.
    pub keys_from_store: bool,
    /// Node keys that counted.
    pub keys: usize,
    /// Blocks read.
    pub blocks: u64,
    /// Signed heads read.
    pub heads: u64,
    /// Decisions read.
    pub decisions: u64,
    /// Decisions that are not understood: damaged, or of a newer version.
    pub odd_decisions: u64,
    /// Bytes of frames read.
    pub bytes: u64,
    /// What is no frame; at most 1,000.
    pub damaged: Vec<Damage>,
    /// All of it in bytes.
    pub damaged_bytes: u64,
}

impl Audit {
    /// Whether nothing departs from what was signed.
    pub fn is_clean(&self) -> bool {
        self.report.is_clean()
    }
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The folder holds no store.
    #[error("{} holds no store: there is no folder {} in it", dir.display(), Stream::Urgent)]
    NoStore {
        /// The folder.
        dir: PathBuf,
    },
    /// A journal cannot be read.
    #[error("the store's {journal} journal cannot be read")]
    Journal {
        /// Which.
        journal: &'static str,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// A key is no key.
    #[error("key of {node}: {reason}; give it as NODE=HEX, 64 hex digits")]
    Key {
        /// Whose.
        node: String,
        /// What is wrong.
        reason: String,
    },
}

/// Keys from `NODE=HEX` as people give them.
///
/// # Errors
/// [`AuditError::Key`] names the first that is none.
pub fn given<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<Trust, AuditError> {
    let mut keys = Keys::default();
    for pair in pairs {
        let wrong = |reason: String| AuditError::Key { node: pair.chars().take(80).collect(), reason };
        let (node, hex) = pair.split_once('=').ok_or_else(|| wrong("there is no '='".to_owned()))?;
        let node: NodeName = node.parse().map_err(|e| wrong(format!("{e}")))?;
        let key =
            key(hex).ok_or_else(|| wrong("these are not 32 bytes of an Ed25519 key in hex".to_owned()))?;
        keys.trust_node(node, TrustedKey::always(key));
    }
    Ok(Trust::Given(keys))
}

/// Walks the store in `dir`. Neither locks nor writes, so it works beside a running collector; what is committed
/// meanwhile may or may not be seen.
///
/// # Errors
/// [`AuditError`]; what is wrong with the evidence is in the [`Audit`], not an error.
pub fn verify(dir: &Path, trust: Trust) -> Result<Audit, AuditError> {
    if !dir.join(Stream::Urgent.as_str()).is_dir() {
        return Err(AuditError::NoStore { dir: dir.to_owned() });
    }
    let mut audit = Audit::default();
    let told = enrolled(dir, &mut audit)?;
    let keys = match trust {
        Trust::Given(keys) => keys,
        Trust::Truth => {
            audit.keys_from_store = true;
            audit.keys = told.len();
            let mut keys = Keys::default();
            for (node, key) in told {
                keys.trust_node(node, TrustedKey::always(key));
            }
            keys
        }
    };
    let mut verifier = ChainVerifier::new(Rules::store(), keys);
    for stream in Stream::ALL {
        let name = stream.as_str();
        let path = dir.join(name);
        if !path.is_dir() {
            continue;
        }
        let failed = |source| AuditError::Journal { journal: name, source };
        let reader = Reader::open(&path).map_err(failed)?;
        // Where every chain stood before the oldest segment: what expired is not missing.
        if let Some(first) = reader.segments().map_err(failed)?.first() {
            for (chain, head) in reader.heads_before(*first).unwrap_or_default() {
                verifier.before(&chain, head);
            }
        }
        let mut scan = reader.scan(Position::default());
        for entry in scan.by_ref() {
            let entry = entry.map_err(failed)?;
            audit.bytes += entry.payload.len() as u64;
            match entry.kind {
                FrameKind::Block => {
                    audit.blocks += 1;
                    verifier.encoded_block(entry.payload);
                }
                FrameKind::SignedHead => {
                    audit.heads += 1;
                    verifier.encoded_head(&entry.payload);
                }
                FrameKind::Receipt | FrameKind::Decision => {}
            }
        }
        audit.note_damage(name, scan.damaged(), scan.damaged_bytes());
    }
    audit.report = verifier.finish();
    Ok(audit)
}

impl Audit {
    fn note_damage(&mut self, journal: &'static str, stretches: &[(Position, u64)], bytes: u64) {
        let room = MAX_DAMAGED.saturating_sub(self.damaged.len());
        self.damaged.extend(stretches.iter().take(room).map(|(at, bytes)| Damage {
            journal,
            at: *at,
            bytes: *bytes,
        }));
        self.damaged_bytes += bytes;
    }
}

/// Every key that the truth journal says was let in.
fn enrolled(dir: &Path, audit: &mut Audit) -> Result<Vec<(NodeName, VerifyingKey)>, AuditError> {
    const NAME: &str = "truth";
    let path = dir.join(NAME);
    let mut keys: Vec<(NodeName, VerifyingKey)> = Vec::new();
    if !path.is_dir() {
        return Ok(keys);
    }
    let failed = |source| AuditError::Journal { journal: NAME, source };
    let mut scan = Reader::open(&path).map_err(failed)?.scan(Position::default());
    for entry in scan.by_ref() {
        let entry = entry.map_err(failed)?;
        audit.bytes += entry.payload.len() as u64;
        audit.decisions += 1;
        match truth::decode(&entry.payload).map(|d| d.what) {
            Ok(What::NodeEnrolled { node, signing_key, .. }) => {
                if let Some(key) = key(&signing_key)
                    && !keys.contains(&(node.clone(), key))
                {
                    keys.push((node, key));
                }
            }
            Ok(_) => {}
            Err(_) => audit.odd_decisions += 1,
        }
    }
    audit.note_damage(NAME, scan.damaged(), scan.damaged_bytes());
    Ok(keys)
}

fn key(hex: &str) -> Option<VerifyingKey> {
    // A hash is 32 bytes in hex as well, and already knows how to read them.
    let bytes = dogwatch::record::Hash::try_from(hex.trim().to_owned()).ok()?;
    VerifyingKey::from_bytes(&bytes.0).ok()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn keys_are_read_and_nonsense_is_named() {
        let public = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let hex: String = public.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert!(given([format!("n1={hex}").as_str()]).is_ok());
        for wrong in ["n1", "n1=abc", "N_1=00", "=00"] {
            assert!(given([wrong]).unwrap_err().to_string().contains("NODE=HEX"), "{wrong}");
        }
    }

    #[test]
    fn a_folder_without_a_store_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(verify(dir.path(), Trust::Truth), Err(AuditError::NoStore { .. })));
    }
}
