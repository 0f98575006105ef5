//! The collector's own findings: what it noticed about nodes, certificates and itself.
//!
//! They go to [`crate::casework`], which makes them durable and correlates them like any other. Time, ids and words
//! are made here, so that the same rule always reads alike.

use dogwatch::clock;
use dogwatch::record::{Fact, Finding, FindingState, NodeName, Severity, Stream, Subject};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::casework::Ask;

/// The way to say a finding; clones share it.
#[derive(Debug, Clone)]
pub struct Say {
    asks: mpsc::Sender<Ask>,
}

impl Say {
    /// Says to the owner of `asks`.
    pub fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self { asks }
    }

    /// A finding made elsewhere (folded refusals), said `count` times so far.
    pub async fn finding(&self, node: Option<NodeName>, finding: Finding, count: u64) {
        // Casework ends only when the collector does.
        let _ = self.asks.send(Ask::Say { node, finding: Box::new(finding), count }).await;
    }

    /// The same from where waiting is not possible. A full queue holds many findings already.
    pub fn try_finding(&self, node: Option<NodeName>, finding: Finding) {
        let _ = self.asks.try_send(Ask::Say { node, finding: Box::new(finding), count: 1 });
    }

    /// A node signs with a key that it was not enrolled with.
    pub async fn changed_key(&self, node: &NodeName, key: &[u8]) {
        let shown: String = key.iter().take(32).map(|b| format!("{b:02x}")).collect();
        let finding = make(
            "node-signing-key-changed",
            Severity::High,
            Subject::new("node", node.as_str()),
            format!("node {node} presented a signing key that it was not enrolled with"),
            "Chain heads of this node are verified with the key that it was enrolled with. Another key means that the \
             node's state folder was replaced, or that somebody else speaks with its certificate. Its stream was \
             refused; if the folder was replaced on purpose, enrol the node again with a join token."
                .to_owned(),
            vec![Fact::new("presented_key", shown)],
        );
        self.finding(Some(node.clone()), finding, 1).await;
    }

    /// A node sent other bytes for a seq that the collector holds.
    pub async fn equivocation(&self, node: &NodeName, stream: Stream, seq: u64, detail: &str) {
        let finding = make(
            "equivocation",
            Severity::High,
            Subject::new("stream", format!("{node}/{stream}")),
            format!(
                "node {node} sent another block for {stream} seq {seq} than the one that the collector holds"
            ),
            format!(
                "{detail}. One of the two was not what the node first sealed. The first stays in the store, the second \
                 is kept aside; compare them with the node's signed heads."
            ),
            vec![Fact::new("stream", stream), Fact::new("seq", seq)],
        );
        self.finding(Some(node.clone()), finding, 1).await;
    }
}

/// A finding of the collector's, raised now.
pub(crate) fn make(
    rule: &str,
    severity: Severity,
    subject: Subject,
    summary: String,
    explanation: String,
    facts: Vec<Fact>,
) -> Finding {
    let now = clock::wall_ns();
    Finding {
        id: finding_id(rule, &subject, now),
        rule: rule.to_owned(),
        severity,
        state: FindingState::Raised,
        subject,
        summary,
        explanation,
        citations: Vec::new(),
        facts,
        raised_wall_ns: now,
    }
}

fn finding_id(rule: &str, subject: &Subject, wall_ns: i64) -> String {
    let mut hash = Sha256::new();
    for part in [rule.as_bytes(), subject.kind.as_bytes(), subject.name.as_bytes(), &wall_ns.to_le_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest[..8].iter().fold("f-".to_owned(), |id, b| id + &format!("{b:02x}"))
}
