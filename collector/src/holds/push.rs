//! Holds on their way to a node: the words of the wire, and a node's answer.

use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::NodeName;
use dogwatch::wire;

use crate::nodes::Nodes;
use crate::store::decision::HoldTarget;
use crate::store::row::HoldRow;

/// How long a node has to keep a set durably and to say so: its disk may be full or slow.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Most of a reason that goes to a node, in characters; the whole stands in the journal.
const MAX_REASON_CHARS: usize = 200;

/// What came of telling a node.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) node: NodeName,
    pub(super) session: u64,
    /// What it was told, by ids.
    pub(super) holds: Vec<String>,
    /// Whether it keeps them, and which of them are on paths at which it has nothing; if not, why.
    pub(super) result: Result<Vec<String>, String>,
}

/// A set as a node takes it.
pub(super) fn set_of<'r>(rows: impl Iterator<Item = &'r HoldRow>) -> wire::SetHolds {
    let hold = |row: &HoldRow| {
        let reason = row.reason.chars().take(MAX_REASON_CHARS).collect();
        let mut hold = wire::NodeHold { id: row.id.clone(), reason, ..Default::default() };
        match &row.target {
            HoldTarget::Path(path) => hold.path = path.clone().into_bytes().into(),
            HoldTarget::Pod { namespace, pod } => {
                hold.namespace.clone_from(namespace);
                hold.pod.clone_from(pod);
            }
            HoldTarget::Incident(_) | HoldTarget::Node => hold.whole_node = true,
        }
        hold
    };
    wire::SetHolds { holds: rows.map(hold).collect() }
}

/// Tells a node what is held on it and waits for its word.
pub(super) async fn push(
    nodes: Nodes,
    node: NodeName,
    session: u64,
    holds: Vec<String>,
    set: wire::SetHolds,
) -> Answer {
    let command = wire::Command {
        id: format!("holds-{session}-{}", clock::now().boot_ns),
        actor: "collector".to_owned(),
        // A set never comes too late: whenever it comes it is what is held.
        deadline_wall_ns: 0,
        command: Some(wire::command::Command::Holds(set)),
    };
    let result = match nodes.command(&node, command, ANSWER_WAIT).await {
        Ok(result) if result.ok => Ok(result.absent_holds),
        Ok(result) => Err(result.error),
        Err(e) => Err(e.to_string()),
    };
    Answer { node, session, holds, result }
}
