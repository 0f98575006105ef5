//! The finding that says that cleanups were stopped: its words, and its end.

use dogwatch::record::{Fact, Finding, FindingState, NodeName, Severity, Subject};

use super::ledger::{Ledger, Stopped};
use super::{STOPPED_RULE, Unknown};
use crate::incident::COLLECTOR;
use crate::say::{SILENT_RULE, make};
use crate::store::decision::{Past, What};

/// Longest reason of a node's that is repeated, in characters.
const MAX_TOLD_CHARS: usize = 100;

/// The stop for a journal that may lack decisions.
pub(super) fn lost(why: &str) -> What {
    doubt(
        format!(
            "the collector may have lost decisions, a stop among them ({why}); see whether its store was put back from a copy, \
             then `dogwatch brake release`"
        ),
        None,
    )
}

/// The stop for what a node was told and this collector does not know.
pub(super) fn forgotten(unknown: &Unknown, revision: u64) -> What {
    let Unknown { node, state, reason } = unknown;
    let reason: String = reason.chars().take(MAX_TOLD_CHARS).collect();
    let why = if reason.is_empty() { String::new() } else { format!(" (\"{reason}\")") };
    doubt(
        format!(
            "node {node} says that it was told of stop {}{why}, which this collector, at {revision}, does not know: its store \
             was lost or put back, or it is the node",
            state.revision
        ),
        Some((node, *state)),
    )
}

/// The stop for decisions that could be read once; `state` is in force, `why` says the index.
pub(super) fn unreadable(why: &str, state: Past) -> What {
    let why = if why.is_empty() { "what was decided before is not what it was" } else { why };
    let mut stop = doubt(format!("the journal of decisions changed while the collector ran: {why}"), None);
    if let What::BrakeTripped { past, .. } = &mut stop {
        *past = Some(state);
    }
    stop
}

/// Where a node cannot be believed.
fn take_out(node: &NodeName) -> String {
    format!(
        "stop the agent on {node}, remove its state folder, and let it enrol anew (there is no revocation: a stolen certificate \
         speaks until it ends)"
    )
}

/// What people are told of a node that is stopped alone.
pub(super) fn alone(claim: &Unknown, ledger: &Ledger) -> String {
    let Unknown { node, state, reason } = claim;
    let reason: String = reason.chars().take(MAX_TOLD_CHARS).collect();
    if !ledger.may_follow(*state) {
        return format!(
            "node {node} alone stays stopped: it says that it was told of a stop ({}, \"{reason}\") that is so far beyond this \
             collector's ({}) that it cannot have been, and no release deals with that; {}",
            state.revision,
            ledger.revision,
            take_out(node)
        );
    }
    format!(
        "node {node} alone stays stopped: it says again that it was told of a stop ({}, \"{reason}\") that this collector does \
         not know, and had stopped all nodes by such a word before; it would again if another node said the same. `dogwatch \
         brake release` lets it go on; if it lies or was put back from a snapshot, {}",
        state.revision,
        take_out(node)
    )
}

/// What to do about the node that a stop names.
pub(super) fn remedy(stopped: &Stopped) -> Option<String> {
    let node = stopped.node.as_ref().filter(|_| stopped.by == COLLECTOR)?;
    if is_of_silence(stopped, node) {
        // Nobody's word: the collector does not hear it.
        return Some(format!(
            "a node that was rebooted or taken away is silent too: `dogwatch get nodes` says whether {node} is back. Where it \
             was that, `dogwatch brake release` is all; else see whether its cleanup ended it"
        ));
    }
    let out = take_out(node);
    Some(if stopped.action.is_some() {
        format!(
            "if what {node} says of itself cannot be true, {out}, before `dogwatch brake release`; what it says of this cleanup \
             does not stop the others a second time"
        )
    } else {
        format!(
            "if {node} alone says so, and nobody put the collector's store back, the node was put back from a snapshot, came from \
             another collector, or lies: {out}, then `dogwatch brake release`. Its word alone does not stop the others again"
        )
    })
}

/// Whether cleanups were stopped because a node fell silent. A stop of a version that named no cause says it by its reason,
/// which begins with the finding's rule.
fn is_of_silence(stopped: &Stopped, node: &NodeName) -> bool {
    if let Some(cause) = &stopped.cause {
        return cause.rule == SILENT_RULE;
    }
    let said = stopped.reason.strip_prefix("node ").and_then(|r| r.strip_prefix(node.as_str()));
    said.is_some_and(|r| r.starts_with(&format!(": {SILENT_RULE} (")))
}

fn doubt(reason: String, told: Option<(&NodeName, Past)>) -> What {
    What::BrakeTripped {
        reason,
        finding: String::new(),
        node: told.map(|(node, _)| node.clone()),
        action: None,
        cites: Vec::new(),
        past: told.map(|(_, state)| state),
        cause: None,
    }
}

const WENT_WRONG: &str = "A cleanup that a node made by itself was followed by something that went wrong, so that no node cleans \
                          by itself any more and those under way ended at their next object. Look at the action and at what is \
                          cited; mend the rule or the node.";
const BY_HAND: &str = "Somebody ordered it (stopped_by), so that no node cleans by itself any more and cleanups that were under way ended \
                       at their next object. Ask whether it is over.";
const IN_DOUBT: &str = "The collector does not know for certain that cleanups were not stopped: what was decided before is lost or \
                        cannot be read. So no node cleans by itself any more. Find out whether somebody or something had stopped \
                        them (`dogwatch get incidents`, the note on the nodes), and whether that is dealt with.";

/// What a trip is told by, raised.
pub(super) fn raised(stopped: &Stopped) -> Finding {
    let remedy = remedy(stopped).map_or_else(String::new, |words| format!(" And {words}."));
    let mut facts = vec![Fact::new("stopped_by", &stopped.by)];
    facts.extend(stopped.node.iter().map(|n| Fact::new("node_name", n)));
    facts.extend(stopped.action.iter().map(|a| Fact::new("action", a)));
    let cause = stopped.cause.as_ref().filter(|c| !c.finding.is_empty());
    facts.extend(cause.map(|c| Fact::new("cause", &c.finding)));
    let mut finding = make(
        STOPPED_RULE,
        Severity::Critical,
        Subject::new("fleet", "cleanup"),
        format!("cleanups are stopped on every node: {}", stopped.reason),
        format!(
            "{}{remedy} Then let cleanups go on with `dogwatch brake release`. Disks that fill meanwhile need a person: `dogwatch get \
             findings --active`.",
            // Of its own accord the collector stops for a cleanup, which it names, or in doubt.
            match (&stopped.action, stopped.by == COLLECTOR) {
                (Some(_), _) => WENT_WRONG,
                (None, true) => IN_DOUBT,
                (None, false) => BY_HAND,
            }
        ),
        facts,
    );
    if !stopped.finding.is_empty() {
        finding.id.clone_from(&stopped.finding);
        finding.raised_wall_ns = stopped.wall_ns;
    }
    finding.citations.clone_from(&stopped.cites);
    finding
}

/// The same, over: `by` let cleanups go on.
pub(super) fn cleared(stopped: &Stopped, by: &str, reason: &str) -> Finding {
    let mut finding = raised(stopped);
    finding.state = FindingState::Cleared;
    finding.summary = format!("{by} lets cleanups go on: {reason}");
    finding
}
