//! Chains: signed heads, receipts, and the verifier that finds what was changed, dropped, reordered or re-chained.
//!
//! A chain is one stream of one incarnation of one node: each block names the hash of the block before. The node signs
//! where its chains stand, the collector signs what it holds. A statement is signed as encoded, behind a prefix that
//! says what it is, so that a signature made for one purpose serves no other.
//!
//! Deliberately absent: keys' storage and trust ([`crate::identity`] and the caller's), and any clock.

mod verify;

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::Message;
use sha2::{Digest, Sha256};

pub use verify::{
    ChainReport, ChainVerifier, Keys, Problem, ProblemKind, Report, Rules, TrustedKey, Warning,
};

use crate::convert::Refused;
use crate::record::{Hash, Incarnation, NodeName, Seq, Stream};
use crate::wire;

/// One stream of one incarnation of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId {
    /// Whose.
    pub node: NodeName,
    /// Which run.
    pub incarnation: Incarnation,
    /// Which stream.
    pub stream: Stream,
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.incarnation.short(), self.stream)
    }
}

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Last seq; 0 for none.
    pub last_seq: Seq,
    /// Hash of the block that holds it; zero for none.
    pub hash: Hash,
}

/// The node's signed word on where its chain stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// The encoded statement, as signed.
    pub statement: Vec<u8>,
    /// Ed25519 over `"dogwatch head v1\0"` and the statement.
    pub signature: [u8; 64],
}

/// A head statement, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadStatement {
    /// Which chain.
    pub chain: ChainId,
    /// Where it stood.
    pub head: Head,
    /// When it was signed, by the node's clock.
    pub wall_ns: i64,
    /// Blocks of the chain so far.
    pub blocks: u64,
}

/// The collector's signed word that it holds a chain durably up to a seq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    /// The encoded statement, as signed.
    pub statement: Vec<u8>,
    /// Ed25519 over `"dogwatch receipt v1\0"` and the statement.
    pub signature: [u8; 64],
}

/// A receipt statement, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptStatement {
    /// Which chain.
    pub chain: ChainId,
    /// Up to where.
    pub head: Head,
    /// When, by the collector's clock.
    pub received_wall_ns: i64,
}

/// A statement that does not decode or whose signature does not hold.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// The bytes break the format.
    #[error("malformed statement: {0}")]
    Malformed(String),
    /// The signature is not this key's over these bytes.
    #[error("the signature does not hold for the key {fingerprint}")]
    Signature {
        /// Hex SHA-256 of the public key, first 16 digits.
        fingerprint: String,
    },
}

/// What a node's signature over a head covers before the statement.
const HEAD_PREFIX: &[u8] = b"dogwatch head v1\0";
/// What a collector's signature over a receipt covers before the statement.
const RECEIPT_PREFIX: &[u8] = b"dogwatch receipt v1\0";

impl SignedHead {
    /// Signs `statement`.
    pub fn sign(statement: &HeadStatement, key: &SigningKey) -> Self {
        let statement = wire::HeadStatement::from(statement).encode_to_vec();
        Self { signature: sign(HEAD_PREFIX, &statement, key), statement }
    }

    /// Decodes without checking who signed.
    pub fn decode(&self) -> Result<HeadStatement, StatementError> {
        HeadStatement::try_from(decode::<wire::HeadStatement>(&self.statement)?).map_err(refused)
    }

    /// Decodes and checks the signature.
    pub fn verify(&self, key: &VerifyingKey) -> Result<HeadStatement, StatementError> {
        verify(HEAD_PREFIX, &self.statement, &self.signature, key)?;
        self.decode()
    }

    /// Encoded `wire::SignedHead`.
    pub fn encode(&self) -> Vec<u8> {
        wire::SignedHead::from(self).encode_to_vec()
    }

    /// From an encoded `wire::SignedHead`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatementError> {
        Self::try_from(decode::<wire::SignedHead>(bytes)?).map_err(refused)
    }
}

impl SignedReceipt {
    /// Signs `statement`.
    pub fn sign(statement: &ReceiptStatement, key: &SigningKey) -> Self {
        let statement = wire::ReceiptStatement::from(statement).encode_to_vec();
        Self { signature: sign(RECEIPT_PREFIX, &statement, key), statement }
    }

    /// Decodes without checking who signed.
    pub fn decode(&self) -> Result<ReceiptStatement, StatementError> {
        ReceiptStatement::try_from(decode::<wire::ReceiptStatement>(&self.statement)?).map_err(refused)
    }

    /// Decodes and checks the signature.
    pub fn verify(&self, key: &VerifyingKey) -> Result<ReceiptStatement, StatementError> {
        verify(RECEIPT_PREFIX, &self.statement, &self.signature, key)?;
        self.decode()
    }

    /// Encoded `wire::SignedReceipt`.
    pub fn encode(&self) -> Vec<u8> {
        wire::SignedReceipt::from(self).encode_to_vec()
    }

    /// From an encoded `wire::SignedReceipt`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatementError> {
        Self::try_from(decode::<wire::SignedReceipt>(bytes)?).map_err(refused)
    }
}

/// First 16 hex digits of SHA-256 over the public key: what people compare.
pub fn fingerprint(key: &VerifyingKey) -> String {
    Sha256::digest(key.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn sign(prefix: &[u8], statement: &[u8], key: &SigningKey) -> [u8; 64] {
    key.sign(&[prefix, statement].concat()).to_bytes()
}

/// Strictly: no weak keys and no second encoding of a signature.
fn verify(
    prefix: &[u8],
    statement: &[u8],
    signature: &[u8; 64],
    key: &VerifyingKey,
) -> Result<(), StatementError> {
    key.verify_strict(&[prefix, statement].concat(), &Signature::from_bytes(signature))
        .map_err(|_| StatementError::Signature { fingerprint: fingerprint(key) })
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, StatementError> {
    M::decode(bytes).map_err(|e| StatementError::Malformed(e.to_string()))
}

fn refused(e: Refused) -> StatementError {
    StatementError::Malformed(e.to_string())
}
