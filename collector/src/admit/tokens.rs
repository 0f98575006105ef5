//! Join tokens as the collector keeps them: one file each, `<state>/tokens/<id>.json`, mode 0600.
//!
//! A file holds a hash of the secret, how often the token may be used, until when, and for which node. How often it *was*
//! used is no matter of these files but of the ledger (the collector's journal), so that a restored folder cannot
//! give uses back.
//!
//! Format: JSON, version 1; another version, an unknown field or a broken file is an error that names the file, and
//! lets nobody in. Limits: [`MAX_TOKENS`], [`MAX_USES`], [`MAX_LIFETIME`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::identity::{self, Fingerprint, JoinToken, KeyFileError, SecretHash, TokenId, TokenSecret};
use dogwatch::record::NodeName;
use serde::{Deserialize, Serialize};

/// Tokens at once: one for each of 10,000 nodes.
pub const MAX_TOKENS: usize = 10_000;
/// Uses of one token: every node of the largest fleet, ten times over.
pub const MAX_USES: u32 = 100_000;
/// A token that lasts longer than a year has been forgotten.
pub const MAX_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// A late caller is told that its token expired for this long at least, when room for new ones is made.
const KEPT_AFTER_EXPIRY_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;
const VERSION: u32 = 1;

/// A token on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Of this format.
    version: u32,
    /// Its name.
    pub id: TokenId,
    /// Of its secret.
    secret_hash: SecretHash,
    /// How often it may be used.
    pub uses: u32,
    /// When it was made, wall ns.
    pub created_wall_ns: i64,
    /// From when on it is refused, wall ns.
    pub expires_wall_ns: i64,
    /// The one node that may use it; `None`: any.
    pub node: Option<NodeName>,
}

/// Why a token could not be made, listed or looked up.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its file.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The folder.
    #[error("cannot {what} {}: {source}", dir.display())]
    Folder {
        /// The attempt.
        what: &'static str,
        /// Where.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its file does not say what it should.
    #[error("the token file {} is damaged: {reason}; remove it and make a new token", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An argument out of bounds.
    #[error("{what}: {rule}")]
    Bound {
        /// Which argument, with its value.
        what: String,
        /// What it must be.
        rule: String,
    },
    /// No random bytes.
    #[error("cannot make a token: the system gives no random bytes: {0}")]
    Random(String),
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenRefusal {
    /// No token of this id is known here.
    Unknown(TokenId),
    /// The id is known and the secret is not its.
    WrongSecret(TokenId),
    /// Its time is over, since this wall time in ns.
    Expired(TokenId, i64),
    /// It was made for another node.
    WrongNode(TokenId, NodeName),
    /// All of its uses are spent.
    Spent(TokenId, u32),
}

impl TokenRefusal {
    /// The word in facts and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::WrongSecret(_) => "wrong-secret",
            Self::Expired(..) => "expired",
            Self::WrongNode(..) => "wrong-node",
            Self::Spent(..) => "spent",
        }
    }
}

impl fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REMEDY: &str = "make a new one with `dogwatch-collector token`";
        match self {
            Self::Unknown(id) => write!(f, "the join token {id} is not known here; {REMEDY}"),
            Self::WrongSecret(id) => write!(f, "the join token {id} has another secret; {REMEDY}"),
            Self::Expired(id, at) => {
                write!(f, "the join token {id} expired at {}; {REMEDY}", super::shown_time(*at))
            }
            Self::WrongNode(id, node) => {
                write!(f, "the join token {id} was made for node {node} alone; {REMEDY}")
            }
            Self::Spent(id, uses) => {
                write!(f, "the join token {id} has been used {uses} times and may not be again; {REMEDY}")
            }
        }
    }
}

/// The folder of tokens. Every method blocks for small files.
#[derive(Debug, Clone)]
pub struct TokenStore {
    dir: PathBuf,
}

impl TokenStore {
    /// Opens the folder; makes it where there is none.
    pub fn open(dir: &Path) -> Result<Self, TokenError> {
        identity::create_private_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Makes a token for `uses` enrolments within `lifetime`, of `node` alone where one is named, of nodes that
    /// recognise the CA by `ca`. The token is the only copy of its secret.
    pub fn create(
        &self,
        uses: u32,
        lifetime: Duration,
        node: Option<NodeName>,
        ca: Fingerprint,
        now_wall_ns: i64,
    ) -> Result<JoinToken, TokenError> {
        let bound = |what: String, rule: String| Err(TokenError::Bound { what, rule });
        if uses == 0 || uses > MAX_USES {
            return bound(format!("{uses} uses"), format!("must be 1 to {MAX_USES}"));
        }
        if lifetime < Duration::from_secs(1) || lifetime > MAX_LIFETIME {
            return bound(
                format!("a lifetime of {} s", lifetime.as_secs()),
                "must be 1 s to 366 days".to_owned(),
            );
        }
        if self.ids()?.len() >= MAX_TOKENS {
            self.prune(now_wall_ns.saturating_sub(KEPT_AFTER_EXPIRY_NS))?;
        }
        if self.ids()?.len() >= MAX_TOKENS {
            let rule = format!("remove files that are no longer needed from {}", self.dir.display());
            return bound(format!("there are {MAX_TOKENS} tokens already"), rule);
        }
        let (mut id, mut secret) = ([0u8; 8], [0u8; 32]);
        getrandom::fill(&mut id).map_err(|e| TokenError::Random(e.to_string()))?;
        getrandom::fill(&mut secret).map_err(|e| TokenError::Random(e.to_string()))?;
        let token = JoinToken { id: TokenId(id), secret: TokenSecret::new(secret), ca };
        let lifetime_ns = i64::try_from(lifetime.as_nanos()).unwrap_or(i64::MAX);
        let record = TokenRecord {
            version: VERSION,
            id: token.id,
            secret_hash: token.secret.hash(),
            uses,
            created_wall_ns: now_wall_ns,
            expires_wall_ns: now_wall_ns.saturating_add(lifetime_ns),
            node,
        };
        let path = self.path(&token.id);
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|e| TokenError::Damaged { path: path.clone(), reason: e.to_string() })?;
        identity::create_private_file(&path, &json)?;
        Ok(token)
    }

    /// Looks a token up for `node` at `now`. Who holds the secret learns why it is refused; who does not learns no more
    /// than that. Whether uses are left is for the ledger to say.
    pub fn check(
        &self,
        token: &JoinToken,
        node: &NodeName,
        now_wall_ns: i64,
    ) -> Result<Result<TokenRecord, TokenRefusal>, TokenError> {
        let record = match self.load(&token.id) {
            Ok(record) => record,
            Err(TokenError::File(e)) if e.is_not_found() => return Ok(Err(TokenRefusal::Unknown(token.id))),
            Err(e) => return Err(e),
        };
        Ok(if !record.secret_hash.matches(&token.secret.hash()) {
            Err(TokenRefusal::WrongSecret(token.id))
        } else if now_wall_ns >= record.expires_wall_ns {
            Err(TokenRefusal::Expired(token.id, record.expires_wall_ns))
        } else if let Some(only) = record.node.as_ref().filter(|only| *only != node) {
            Err(TokenRefusal::WrongNode(token.id, only.clone()))
        } else {
            Ok(record)
        })
    }

    /// Every token that can be read, oldest first, and an error for each that cannot.
    pub fn list(&self) -> Result<(Vec<TokenRecord>, Vec<TokenError>), TokenError> {
        let (mut records, mut errors) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.load(&id) {
                Ok(record) => records.push(record),
                Err(e) => errors.push(e),
            }
        }
        records.sort_by_key(|r| (r.created_wall_ns, r.id));
        Ok((records, errors))
    }

    /// Removes a token; whether there was one.
    pub fn remove(&self, id: &TokenId) -> Result<bool, TokenError> {
        match std::fs::remove_file(self.path(id)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(source) => {
                Err(TokenError::Folder { what: "remove a token from", dir: self.dir.clone(), source })
            }
        }
    }

    /// Removes tokens that expired before `before_wall_ns`; how many. Keep them a while: until then a late caller is
    /// told `expired`, and afterwards only `not known`.
    pub fn prune(&self, before_wall_ns: i64) -> Result<usize, TokenError> {
        let mut removed = 0;
        for record in self.list()?.0 {
            if record.expires_wall_ns < before_wall_ns && self.remove(&record.id)? {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn path(&self, id: &TokenId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn load(&self, id: &TokenId) -> Result<TokenRecord, TokenError> {
        let path = self.path(id);
        let bytes = identity::read_private_file(&path)?;
        let damaged = |reason: String| TokenError::Damaged { path: path.clone(), reason };
        let record: TokenRecord = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!("version {}; this collector knows {VERSION}", record.version)));
        }
        if record.id != *id {
            return Err(damaged(format!("it is of token {}", record.id)));
        }
        Ok(record)
    }

    fn ids(&self) -> Result<Vec<TokenId>, TokenError> {
        let failed = |source| TokenError::Folder { what: "read", dir: self.dir.clone(), source };
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id: Option<TokenId> =
                name.to_str().and_then(|n| n.strip_suffix(".json")).and_then(|n| n.parse().ok());
            ids.extend(id);
        }
        Ok(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: Fingerprint = Fingerprint([3; 32]);
    const HOUR: Duration = Duration::from_secs(3600);
    const HOUR_NS: i64 = 3_600_000_000_000;

    fn store() -> (tempfile::TempDir, TokenStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = TokenStore::open(&dir.path().join("tokens")).unwrap();
        (dir, store)
    }

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn the_file_holds_no_secret_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, store) = store();
        let token = store.create(1, HOUR, None, CA, 0).unwrap();
        let path = store.path(&token.id);
        let text = std::fs::read_to_string(&path).unwrap();
        let secret = token.to_text().split('.').nth(2).unwrap().to_owned();
        assert!(!text.contains(&secret), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn each_refusal_has_its_own_reason() {
        let (_dir, store) = store();
        let token = store.create(2, HOUR, Some(node("a")), CA, 1_000).unwrap();
        assert_eq!(store.check(&token, &node("a"), 2_000).unwrap().unwrap().uses, 2);
        let refusal = |t: &JoinToken, n: &str, now| store.check(t, &node(n), now).unwrap().unwrap_err();
        assert_eq!(refusal(&token, "a", 1_000 + HOUR_NS).as_str(), "expired");
        assert_eq!(refusal(&token, "b", 2_000).as_str(), "wrong-node");
        let mut other = token.clone();
        other.secret = TokenSecret::new([9; 32]);
        assert_eq!(refusal(&other, "a", 2_000).as_str(), "wrong-secret");
        assert_eq!(
            refusal(&other, "b", i64::MAX).as_str(),
            "wrong-secret",
            "who lacks the secret learns nothing more"
        );
        other.id = TokenId([0; 8]);
        assert_eq!(refusal(&other, "a", 2_000).as_str(), "unknown");
        assert!(refusal(&token, "b", 2_000).to_string().contains("dogwatch-collector token"));
    }

    #[test]
    fn a_damaged_foreign_or_exposed_file_lets_nobody_in() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, store) = store();
        let token = store.create(1, HOUR, None, CA, 0).unwrap();
        let path = store.path(&token.id);
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace(&token.id.to_string(), "0000000000000000"),
            good.replace("\"uses\"", "\"usess\""),
            good[..good.len() / 2].to_owned(),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(store.check(&token, &node("a"), 1).is_err());
        }
        std::fs::write(&path, &good).unwrap();
        assert!(store.check(&token, &node("a"), 1).unwrap().is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(store.check(&token, &node("a"), 1).is_err());
        assert_eq!(store.list().unwrap().1.len(), 1);
    }

    #[test]
    fn bounds_hold_and_old_tokens_go() {
        let (_dir, store) = store();
        assert!(store.create(0, HOUR, None, CA, 0).is_err());
        assert!(store.create(MAX_USES + 1, HOUR, None, CA, 0).is_err());
        assert!(store.create(1, Duration::ZERO, None, CA, 0).is_err());
        assert!(store.create(1, MAX_LIFETIME * 2, None, CA, 0).is_err());
        let old = store.create(1, HOUR, None, CA, 0).unwrap();
        let new = store.create(1, HOUR, None, CA, HOUR_NS).unwrap();
        assert_eq!(store.prune(HOUR_NS + 1).unwrap(), 1);
        let left = store.list().unwrap().0;
        assert_eq!(left.iter().map(|r| r.id).collect::<Vec<_>>(), [new.id]);
        assert!(!store.remove(&old.id).unwrap());
    }
}
