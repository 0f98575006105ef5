//! Join tokens: what a person hands to a new node, `dwj1.<id>.<secret>.<ca fingerprint>`.
//!
//! The id finds the token on the collector, the secret shows that the node was given it, the fingerprint lets the node
//! recognise the collector before it says the secret to anyone. All three are lower-case hex: 8, 32 and 32 bytes.
//! The collector keeps a hash of the secret only; 32 random bytes need no slow hash.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Fingerprint;
use crate::record::InvalidValue;

/// Version of the text; another one is refused, so that a newer token is not half understood.
const PREFIX: &str = "dwj1";
const HASH_CONTEXT: &[u8] = b"dogwatch join token v1\0";
const RULE: &str =
    "must be dwj1.<16 hex digits>.<64 hex digits>.<64 hex digits>, as `dogwatch-collector token` printed it";

/// By which the collector finds a token; no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = InvalidValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        from_hex(s)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("token id", s, "must be 16 lower-case hex digits"))
    }
}

impl TryFrom<String> for TokenId {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<TokenId> for String {
    fn from(v: TokenId) -> Self {
        v.to_string()
    }
}

/// The secret part; prints as `…`.
#[derive(Clone)]
pub struct TokenSecret([u8; 32]);

impl TokenSecret {
    /// Of these bytes, which must be random.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What the collector keeps of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::new().chain_update(HASH_CONTEXT).chain_update(self.0).finalize().into())
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A hash of a secret. Deliberately without `PartialEq`: [`SecretHash::matches`] takes the same time for every input.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Whether both are hashes of one secret; takes equally long wherever they differ.
    pub fn matches(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0u8, |all, (a, b)| black_box(all | (a ^ b)));
        black_box(differing) == 0
    }
}

impl From<SecretHash> for String {
    fn from(v: SecretHash) -> Self {
        hex(&v.0)
    }
}

impl TryFrom<String> for SecretHash {
    type Error = InvalidValue;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        from_hex(&s)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("secret hash", "…", "must be 64 lower-case hex digits"))
    }
}

/// A join token as a person holds it. `Debug` hides the secret; [`JoinToken::to_text`] is the one way to print it.
#[derive(Debug, Clone)]
pub struct JoinToken {
    /// Names it on the collector.
    pub id: TokenId,
    /// Shows that one was given it.
    pub secret: TokenSecret,
    /// Of the CA that the collector's certificate must chain to.
    pub ca: Fingerprint,
}

impl JoinToken {
    /// The text to hand over. It holds the secret: print it once, to the person who asked.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}.{}.{}.{}", self.id, hex(&self.secret.0), self.ca)
    }
}

impl FromStr for JoinToken {
    type Err = InvalidValue;
    /// Surrounding white space (a file's newline) is no part of the token. The error never shows the text: what is
    /// nearly a token holds a secret.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let refuse = || InvalidValue::new("join token", "…", RULE);
        let parts: Vec<&str> = s.trim().splitn(5, '.').collect();
        let [PREFIX, id, secret, ca] = parts.as_slice() else { return Err(refuse()) };
        Ok(Self {
            id: TokenId(from_hex(id).ok_or_else(refuse)?),
            secret: TokenSecret(from_hex(secret).ok_or_else(refuse)?),
            ca: Fingerprint(from_hex(ca).ok_or_else(refuse)?),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `N` bytes from exactly `2N` lower-case hex digits; one text for each value.
pub(super) fn from_hex<const N: usize>(s: &str) -> Option<[u8; N]> {
    let digits = s.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let nibble = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        _ => None,
    };
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            id: TokenId([1, 2, 3, 4, 5, 6, 7, 0xef]),
            secret: TokenSecret::new([0xab; 32]),
            ca: Fingerprint([0xcd; 32]),
        }
    }

    #[test]
    fn a_token_survives_its_text_and_a_newline() {
        let text = token().to_text();
        assert!(text.starts_with("dwj1.01020304050607ef.abab"), "{text}");
        let back: JoinToken = format!("{text}\n").parse().unwrap();
        assert_eq!(back.to_text(), text);
        assert!(back.secret.hash().matches(&token().secret.hash()));
    }

    #[test]
    fn debug_and_errors_never_show_the_secret() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains("abab") && shown.contains('…'), "{shown}");
        let broken = token().to_text().replace("dwj1", "dwj2");
        let error = broken.parse::<JoinToken>().unwrap_err().to_string();
        assert!(!error.contains("abab") && error.contains("dwj1."), "{error}");
    }

    #[test]
    fn other_texts_are_refused() {
        let good = token().to_text();
        for bad in [
            String::new(),
            "dwj1".to_owned(),
            good.replace("dwj1", "DWJ1"),
            good.to_uppercase(),
            format!("{good}.00"),
            good[..good.len() - 1].to_owned(),
            good.replace("ab", "zz"),
            good.replace('.', ":"),
        ] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_hash_matches_its_own_secret_alone() {
        let mut other = [0xab; 32];
        other[31] ^= 1;
        assert!(!TokenSecret::new(other).hash().matches(&token().secret.hash()));
    }
}
