//! The finding that says that cleanups were stopped: its words, and its end.

use dogwatch::record::{Fact, Finding, FindingState, Severity, Subject};

use super::STOPPED_RULE;
use super::ledger::Stopped;
use crate::say::make;

/// What a trip is told by, raised.
pub(super) fn raised(stopped: &Stopped) -> Finding {
    let mut facts = vec![Fact::new("stopped_by", &stopped.by)];
    facts.extend(stopped.node.iter().map(|n| Fact::new("node_name", n)));
    facts.extend(stopped.action.iter().map(|a| Fact::new("action", a)));
    let mut finding = make(
        STOPPED_RULE,
        Severity::Critical,
        Subject::new("fleet", "cleanup"),
        format!("cleanups are stopped on every node: {}", stopped.reason),
        "A cleanup that a node made by itself was followed by something that went wrong, so that no node cleans by itself \
         any more and those under way ended at their next object. Look at the action and at what is cited; mend the rule or \
         the node; then let cleanups go on with `dogwatch brake release`. Disks that fill meanwhile need a person: \
         `dogwatch get findings --active`."
            .to_owned(),
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
