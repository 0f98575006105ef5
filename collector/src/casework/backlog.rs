//! The backlog: what was committed, or is looked at again, and how it is worked off.
//!
//! A block may hold tens of thousands of findings of one node. They are looked at [`SLICE`] at a time, and what follows from
//! a slice is durable before the next one or anything else is decided; in between people are answered. What goes beyond
//! the node's [`Allowance`](crate::correlate::allowance::Allowance) costs a glance, and is told by a finding of its own.

use std::sync::Arc;

use dogwatch::clock;
use dogwatch::record::{Action, Body, Fact, Finding, FindingState, NodeName, Record, Severity, Subject};

use super::{Casework, CaseworkError, TOLD_TOGETHER};
use crate::correlate::allowance::{LeftOut, MAX_NAME_BYTES, OF_EACH_RULE, PER_HOUR};
use crate::say::{finding_id, make};
use crate::store::Loose;
use crate::store::decision::Decision;

/// Records that are looked at before somebody else's turn: a few milliseconds, and one sync.
const SLICE: usize = 64;
/// Pieces without an incident that are looked at again after a crash.
pub(super) const MAX_LOOSE: usize = 10_000;
/// The rule of the finding that says that a node said more than is put to incidents.
pub(super) const LEFT_OUT_RULE: &str = "findings-not-correlated";

/// What is still to be looked at.
#[derive(Debug)]
pub(super) enum Backlog {
    /// The records of a block.
    Block {
        /// Whose.
        node: NodeName,
        /// All of them.
        records: Arc<[Record]>,
        /// How many were looked at.
        done: usize,
    },
    /// What nodes said and belonged to no incident when the store was asked, in order of coming.
    Loose(std::vec::IntoIter<Loose>),
}

impl Backlog {
    /// A block that was just committed.
    pub(super) fn block(node: NodeName, records: Arc<[Record]>) -> Self {
        Self::Block { node, records, done: 0 }
    }
}

impl Casework {
    /// Looks at the next few of the backlog.
    pub(super) async fn work_off(&mut self) -> Result<(), CaseworkError> {
        let Some(mut backlog) = self.backlog.take() else { return Ok(()) };
        let now = clock::wall_ns();
        let mut decisions = Vec::new();
        let more = match &mut backlog {
            Backlog::Block { node, records, done } => {
                for record in records.iter().skip(*done).take(SLICE) {
                    decisions.extend(match &record.body {
                        Body::Finding(f) => self.observe_finding(node, f, now),
                        Body::Action(a) => self.observe_action(node, a, now),
                        _ => continue,
                    });
                }
                *done = done.saturating_add(SLICE);
                *done < records.len()
            }
            Backlog::Loose(pieces) => {
                for piece in pieces.by_ref().take(SLICE) {
                    decisions.extend(match piece {
                        Loose::Finding(row) => match &row.node {
                            Some(node) => self.observe_finding(node, &row.finding, now),
                            None => continue,
                        },
                        Loose::Action(row) => self.observe_action(&row.node, &row.action, now),
                    });
                }
                pieces.len() > 0
            }
        };
        self.backlog = more.then_some(backlog);
        // One sync for a slice, however many findings a node puts into it.
        self.keep(decisions).await
    }

    /// What follows from what a node says, within its allowance.
    fn observe_finding(&mut self, node: &NodeName, finding: &Finding, now_ns: i64) -> Vec<Decision> {
        if self.correlator.is_news(node, finding)
            && !self.allowance.admits(node, Some(&finding.rule), &finding.id, now_ns)
        {
            return Vec::new();
        }
        let decisions = self.correlator.observe_finding(node, finding, now_ns);
        self.allowance.charge(node, decisions.len(), now_ns);
        decisions
    }

    fn observe_action(&mut self, node: &NodeName, action: &Action, now_ns: i64) -> Vec<Decision> {
        if self.correlator.is_new_action(node, action)
            && !self.allowance.admits(node, None, &action.id, now_ns)
        {
            return Vec::new();
        }
        let decisions = self.correlator.observe_action(node, action, now_ns);
        self.allowance.charge(node, decisions.len(), now_ns);
        decisions
    }

    /// Says of which nodes something was left out, and how much.
    pub(super) async fn say_left_out(&mut self) -> Result<(), CaseworkError> {
        let now = clock::wall_ns();
        let mut decisions = Vec::new();
        for (node, left) in self.allowance.due(TOLD_TOGETHER, now) {
            let finding = left_out(&node, left, now);
            decisions.extend(self.said(Some(node), finding, left.findings + left.actions, now));
        }
        self.keep(decisions).await
    }
}

fn left_out(node: &NodeName, left: LeftOut, now_ns: i64) -> Finding {
    let subject = Subject::new("node", node.as_str());
    Finding {
        id: finding_id(LEFT_OUT_RULE, &subject, left.since_ns),
        state: if left.again { FindingState::Updated } else { FindingState::Raised },
        raised_wall_ns: left.since_ns,
        ..make(
            LEFT_OUT_RULE,
            Severity::Medium,
            subject,
            left.summary(node, now_ns),
            format!(
                "Some {PER_HOUR} decisions an hour follow from what one node says, and {OF_EACH_RULE} findings of each rule in \
                 any case; what goes beyond, or has an id or rule of over {MAX_NAME_BYTES} bytes, opens and joins no \
                 incident. It is stored as it came: `dogwatch get findings --node {node}` lists it, and what the node \
                 says of it again is looked at again. So much is a rule that matches too often, or somebody who has the \
                 node's certificate."
            ),
            vec![
                Fact::new("findings", left.findings),
                Fact::new("actions", left.actions),
                Fact::new("overlong", left.overlong),
                Fact::new("since_wall_ns", left.since_ns),
            ],
        )
    }
}
