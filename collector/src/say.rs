//! The collector's own findings: what it noticed about nodes, certificates and itself.
//!
//! They go to [`crate::casework`], which makes them durable and correlates them like any other. Time, ids and words
//! are made here, so that the same rule always reads alike.
//!
//! What a stream notices is folded, for whoever sends one bad block sends a thousand: one finding for each rule and
//! subject, said at once, then as often as [`FIRST_PAUSE_NS`] doubling up to [`LAST_PAUSE_NS`] allows, with the number of
//! times. Noticing never waits, so that casework that waits for a disk does not hold up a stream; what finds no room in
//! its queue is said by the next [`Say::tick`]. Casework clears what has not been said for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dogwatch::clock;
use dogwatch::record::{CleanupMode, Fact, Finding, FindingState, Hash, NodeName, Severity, Stream, Subject};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::casework::Ask;
use crate::store::decision::What;
use crate::store::row::Spoke;

/// After this long a finding that was noticed again is said again; each time twice as long.
const FIRST_PAUSE_NS: i64 = 60 * SECOND_NS;
/// The longest that it goes unsaid while it is noticed.
pub const LAST_PAUSE_NS: i64 = 600 * SECOND_NS;
/// What was not noticed for so long begins anew: before casework clears it, so that it is raised with a new time.
const FORGOTTEN_NS: i64 = 1_200 * SECOND_NS;
/// Findings that are folded at once: one of a kind for each of the most nodes.
const MAX_FOLDS: usize = 10_000;
const SECOND_NS: i64 = 1_000_000_000;
/// Longest reason of a node that is shown, in characters.
pub(crate) const MAX_WHY_CHARS: usize = 200;

/// The rule of the finding that says that a node is silent.
pub const SILENT_RULE: &str = "node-silent";
/// The rule of two histories of one stream. It is never cleared by itself: what was signed stays signed.
pub const EQUIVOCATION_RULE: &str = "equivocation";

/// The way to say a finding; clones share it.
#[derive(Debug, Clone)]
pub struct Say {
    asks: mpsc::Sender<Ask>,
    folds: Arc<Mutex<HashMap<String, Fold>>>,
}

#[derive(Debug)]
struct Fold {
    node: Option<NodeName>,
    finding: Finding,
    total: u64,
    unsaid: u64,
    noticed_ns: i64,
    /// `None`: never yet, for want of room.
    said_ns: Option<i64>,
    pause_ns: i64,
}

impl Fold {
    fn due(&self, now_ns: i64) -> bool {
        self.unsaid > 0 && self.said_ns.is_none_or(|at| now_ns.abs_diff(at) >= self.pause_ns.unsigned_abs())
    }

    fn say(&mut self, asks: &mpsc::Sender<Ask>, now_ns: i64) {
        let mut finding = self.finding.clone();
        if self.said_ns.is_some() {
            finding.state = FindingState::Updated;
        }
        let ask = Ask::Say { node: self.node.clone(), finding: Box::new(finding), count: self.total };
        if asks.try_send(ask).is_ok() {
            self.unsaid = 0;
            if self.said_ns.replace(now_ns).is_some() {
                self.pause_ns = (self.pause_ns * 2).min(LAST_PAUSE_NS);
            }
        }
    }
}

impl Say {
    /// Says to the owner of `asks`.
    pub fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self { asks, folds: Arc::default() }
    }

    /// A finding made elsewhere (folded refusals), said `count` times so far.
    pub async fn finding(&self, node: Option<NodeName>, finding: Finding, count: u64) {
        // Casework ends only when the collector does.
        let _ = self.asks.send(Ask::Say { node, finding: Box::new(finding), count }).await;
    }

    /// The same from where waiting is not possible, said once. Where the queue is full it is said by a later tick.
    pub fn try_finding(&self, node: Option<NodeName>, finding: Finding) {
        self.notice(node, finding, clock::wall_ns());
    }

    /// To be called about once a second: says what is due.
    pub fn tick(&self, now_ns: i64) {
        let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        folds.retain(|_, f| f.unsaid > 0 || now_ns.abs_diff(f.noticed_ns) < FORGOTTEN_NS.unsigned_abs());
        for fold in folds.values_mut().filter(|f| f.due(now_ns)) {
            fold.say(&self.asks, now_ns);
        }
    }

    fn notice(&self, node: Option<NodeName>, mut finding: Finding, now_ns: i64) {
        let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        if !folds.contains_key(&finding.id) && folds.len() >= MAX_FOLDS {
            let quietest = folds.iter().min_by_key(|(_, f)| f.noticed_ns).map(|(id, _)| id.clone());
            quietest.and_then(|id| folds.remove(&id));
        }
        let fold = folds.entry(finding.id.clone()).or_insert_with(|| Fold {
            node,
            finding: finding.clone(),
            total: 0,
            unsaid: 0,
            noticed_ns: now_ns,
            said_ns: None,
            pause_ns: FIRST_PAUSE_NS,
        });
        finding.raised_wall_ns = fold.finding.raised_wall_ns;
        fold.finding = finding;
        fold.total += 1;
        fold.unsaid += 1;
        fold.noticed_ns = now_ns;
        if fold.due(now_ns) {
            fold.say(&self.asks, now_ns);
        }
    }

    /// An agent said what it is. Kept where it is another than what is `known`, so that it can be told of a node that is
    /// away; what finds no room is kept when the node connects the next time.
    pub fn spoke(
        &self,
        node: &NodeName,
        agent_version: &str,
        mode: Option<CleanupMode>,
        policy: Option<Hash>,
        known: Option<Spoke>,
    ) {
        if known.is_some_and(|k| k.agent_version == agent_version && k.mode == mode && k.policy == policy) {
            return;
        }
        let what =
            What::NodeSpoke { node: node.clone(), agent_version: agent_version.to_owned(), mode, policy };
        let (reply, _) = oneshot::channel();
        let ask = Ask::Keep { what: Box::new(what), actor: "collector".to_owned(), reply };
        // Nobody waits for it.
        let _ = self.asks.try_send(ask);
    }

    /// A node signs with another key than it was enrolled with last.
    pub fn changed_key(&self, node: &NodeName, key: &[u8]) {
        let shown: String = key.iter().take(32).map(|b| format!("{b:02x}")).collect();
        let subject = Subject::new("node", node.as_str());
        let finding = Finding {
            id: lasting_id("node-signing-key-changed", &subject),
            ..make(
                "node-signing-key-changed",
                Severity::High,
                subject,
                format!("node {node} presented a signing key that it was not enrolled with"),
                "Chain heads of this node are verified with the key that it was enrolled with last. Another key means that \
                 the node's state folder was replaced or restored, or that somebody else speaks with its certificate. \
                 Its stream was refused; if the folder was replaced on purpose, enrol the node again with a join token."
                    .to_owned(),
                vec![Fact::new("presented_key", shown)],
            )
        };
        self.notice(Some(node.clone()), finding, clock::wall_ns());
    }

    /// A node sent other bytes for a seq that the collector holds.
    pub fn equivocation(&self, node: &NodeName, stream: Stream, seq: u64, detail: &str) {
        let subject = Subject::new("stream", format!("{node}/{stream}"));
        let finding = Finding {
            id: lasting_id(EQUIVOCATION_RULE, &subject),
            ..make(
                EQUIVOCATION_RULE,
                Severity::High,
                subject,
                format!(
                    "node {node} sent another block for {stream} seq {seq} than the one that the collector holds"
                ),
                format!(
                    "{detail}. One of the two was not what the node first sealed. The first stays in the store, the \
                     second is kept aside; compare them with the node's signed heads."
                ),
                vec![Fact::new("stream", stream), Fact::new("seq", seq)],
            )
        };
        self.notice(Some(node.clone()), finding, clock::wall_ns());
    }

    /// A block was stored though what comes before it never came and, so the node says, never will.
    pub fn hole(&self, node: &NodeName, stream: Stream, expected_seq: u64, first_seq: u64, why: &str) {
        let subject = Subject::new("stream", format!("{node}/{stream}"));
        let why: String = why.chars().filter(|c| !c.is_control()).take(MAX_WHY_CHARS).collect();
        let finding = Finding {
            id: lasting_id("stream-hole", &subject),
            ..make(
                "stream-hole",
                Severity::Low,
                subject,
                format!(
                    "node {node} no longer holds {stream} seq {expected_seq} to {}",
                    first_seq.saturating_sub(1)
                ),
                format!(
                    "The node said that these records cannot be sent any more ({}), so what follows them was stored \
                     without them. A gap record of the node should say why; one that is missing, or a hole in a stream \
                     that never filled its ring, means that somebody thins out what the node recorded. `dogwatch-collector \
                     verify` lists every hole that no gap record accounts for.",
                    if why.is_empty() { "its ring had to give them up" } else { &why }
                ),
                vec![
                    Fact::new("stream", stream),
                    Fact::new("first_missing_seq", expected_seq),
                    Fact::new("last_missing_seq", first_seq.saturating_sub(1)),
                ],
            )
        };
        self.notice(Some(node.clone()), finding, clock::wall_ns());
    }
}

impl Say {
    /// A security incident should hold its nodes and cannot.
    pub fn unguarded(&self, incident: &str, why: &str) {
        let subject = Subject::new("incident", incident);
        let why: String = why.chars().take(MAX_WHY_CHARS).collect();
        let finding = Finding {
            id: lasting_id("security-not-held", &subject),
            ..make(
                "security-not-held",
                Severity::High,
                subject,
                format!("{incident} does not hold its nodes: {why}"),
                "An open security incident holds what its nodes have on disk by itself. It could not, and a cleanup that is \
                 due would remove old logs there. Hold them: `dogwatch hold add --incident ID --reason …`."
                    .to_owned(),
                vec![Fact::new("incident", incident)],
            )
        };
        self.notice(None, finding, clock::wall_ns());
    }

    /// What somebody holds keeps a journal from letting go what is old, and it has grown beyond its limit.
    pub fn outgrown(&self, stream: Stream, held_by: &str, segments: usize, refusing: Option<&str>) {
        let subject = Subject::new("journal", stream.as_str());
        let (severity, so) = match refusing {
            Some(why) => (Severity::Critical, format!("It takes no more blocks: {why}.")),
            None => (
                Severity::Medium,
                format!(
                    "It may grow to {} times its max_bytes for the sake of what is held, and then takes no more blocks.",
                    crate::store::held::GROWTH
                ),
            ),
        };
        let finding = Finding {
            id: lasting_id("held-over-limit", &subject),
            ..make(
                "held-over-limit",
                severity,
                subject,
                format!(
                    "{segments} segments of the {stream} journal stay beyond its retention, held by {held_by}"
                ),
                format!(
                    "Nothing that is held expires, nor what was received after it. {so} Release holds that are no longer \
                     needed (`dogwatch get holds`), or raise retention.{stream}.max_bytes."
                ),
                vec![Fact::new("segments", segments), Fact::new("held_by", held_by)],
            )
        };
        self.notice(None, finding, clock::wall_ns());
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
        pod: None,
    }
}

/// The same for as long as there is such a subject: what is noticed again is the same finding.
fn lasting_id(rule: &str, subject: &Subject) -> String {
    finding_id(rule, subject, 0)
}

/// The id of a finding that was raised at `wall_ns`.
pub(crate) fn finding_id(rule: &str, subject: &Subject, wall_ns: i64) -> String {
    let mut hash = Sha256::new();
    for part in [rule.as_bytes(), subject.kind.as_bytes(), subject.name.as_bytes(), &wall_ns.to_le_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest[..8].iter().fold("f-".to_owned(), |id, b| id + &format!("{b:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(asked: &mut mpsc::Receiver<Ask>) -> Option<(String, FindingState, u64)> {
        match asked.try_recv().ok()? {
            Ask::Say { finding, count, .. } => Some((finding.id, finding.state, count)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_noticed_a_thousand_times_is_one_finding_said_seldom() {
        let (asks, mut asked) = mpsc::channel(8);
        let say = Say::new(asks);
        let node: NodeName = "a".parse().unwrap();
        for i in 0..1_000u64 {
            say.changed_key(&node, &i.to_le_bytes());
        }
        let (id, state, count) = told(&mut asked).unwrap();
        assert_eq!((state, count), (FindingState::Raised, 1));
        assert!(told(&mut asked).is_none());
        let now = clock::wall_ns();
        say.tick(now + FIRST_PAUSE_NS);
        assert_eq!(told(&mut asked).unwrap(), (id.clone(), FindingState::Updated, 1_000));
        say.changed_key(&node, b"k");
        say.tick(now + FIRST_PAUSE_NS + FIRST_PAUSE_NS);
        assert!(told(&mut asked).is_none(), "the pause doubles");
        say.tick(now + 3 * FIRST_PAUSE_NS);
        assert_eq!(told(&mut asked).unwrap(), (id, FindingState::Updated, 1_001));
    }

    #[test]
    fn a_full_queue_loses_no_finding_and_keeps_nobody_waiting() {
        let (asks, mut asked) = mpsc::channel(1);
        let say = Say::new(asks);
        let node: NodeName = "a".parse().unwrap();
        say.equivocation(&node, Stream::Urgent, 1, "x");
        say.equivocation(&node, Stream::Evidence, 1, "x");
        let first = told(&mut asked).unwrap();
        assert!(told(&mut asked).is_none());
        say.tick(clock::wall_ns());
        let second = told(&mut asked).unwrap();
        assert_eq!(second.1, FindingState::Raised);
        assert_ne!(first.0, second.0, "each stream is a finding of its own");
    }

    #[test]
    fn subjects_that_are_folded_are_bounded() {
        let (asks, asked) = mpsc::channel(1);
        drop(asked);
        let say = Say::new(asks);
        for i in 0..MAX_FOLDS + 10 {
            say.changed_key(&format!("n{i}").parse().unwrap(), b"k");
        }
        assert_eq!(say.folds.lock().unwrap().len(), MAX_FOLDS);
    }
}
