//! What nodes keep aside for holds, as their newest figures say.
//!
//! Not evidence and not kept: of a node that is not connected, or has not looked at all of a hold yet, it is not known,
//! and that is told with the rest.

use std::collections::HashMap;

use crate::nodes::Nodes;

/// Most nodes of one hold whose reasons are told; the rest is counted.
const MAX_LACKS: usize = 8;

/// What nodes keep aside for one hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// Bytes allocated to deleted files: what releasing it frees. `None`: no node said so.
    pub bytes: Option<u64>,
    /// Files that are linked aside.
    pub files: u64,
    /// Nodes that it concerns and that did not say.
    pub unknown: u64,
    /// What could not be kept aside, and where.
    pub lacks: Vec<String>,
}

/// What all connected nodes say, by hold.
#[derive(Debug, Default)]
pub(super) struct Figures(HashMap<String, Sum>);

#[derive(Debug, Default)]
struct Sum {
    nodes: u64,
    bytes: u64,
    files: u64,
    lacks: Vec<String>,
    unnamed: u64,
}

impl Figures {
    /// Of this moment.
    pub(super) fn of(nodes: &Nodes) -> Self {
        let mut sums: HashMap<String, Sum> = HashMap::new();
        for (node, live) in nodes.all() {
            let Some(pulse) = live.pulse.filter(|_| live.connected) else { continue };
            for aside in &pulse.held_aside {
                let sum = sums.entry(aside.hold.clone()).or_default();
                sum.nodes += 1;
                sum.bytes = sum.bytes.saturating_add(aside.kept_bytes);
                sum.files = sum.files.saturating_add(aside.files);
                if aside.lacks.is_empty() {
                    continue;
                }
                if sum.lacks.len() < MAX_LACKS {
                    sum.lacks.push(format!("{node}: {}", aside.lacks));
                } else {
                    sum.unnamed += 1;
                }
            }
        }
        Self(sums)
    }

    /// Of the hold `id`, which concerns so many nodes.
    pub(super) fn kept(&self, id: &str, concerned: usize) -> Kept {
        let concerned = concerned as u64;
        let Some(sum) = self.0.get(id) else { return Kept { unknown: concerned, ..Kept::default() } };
        let mut lacks = sum.lacks.clone();
        if sum.unnamed > 0 {
            lacks.push(format!("and {} more nodes", sum.unnamed));
        }
        Kept { bytes: Some(sum.bytes), files: sum.files, unknown: concerned.saturating_sub(sum.nodes), lacks }
    }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::NodeName;
    use dogwatch::wire;

    use super::*;

    #[test]
    fn what_nodes_say_is_added_up_and_who_does_not_is_counted() {
        let nodes = Nodes::default();
        let names: Vec<NodeName> = ["a", "b", "c", "d"].iter().map(|n| n.parse().unwrap()).collect();
        let aside = |hold: &str, kept_bytes, lacks: &str| wire::HeldAside {
            hold: hold.to_owned(),
            files: 2,
            kept_bytes,
            lacks: lacks.to_owned(),
            released: false,
        };
        let mut sessions = Vec::new();
        for (node, held_aside) in names.iter().zip([
            vec![aside("hold-1", 100, ""), aside("hold-2", 1, "")],
            vec![aside("hold-1", 50, "/x cannot be linked")],
            vec![],
        ]) {
            sessions.push(nodes.open(node, &wire::Hello::default(), None, 1));
            nodes.pulse(node, wire::Pulse { held_aside, ..wire::Pulse::default() }, 1);
        }
        nodes.expect(&names[3]);
        let of = |id: &str| Figures::of(&nodes).kept(id, 4);
        let lacks = vec!["b: /x cannot be linked".to_owned()];
        // One has not looked yet, and one is not there.
        assert_eq!(of("hold-1"), Kept { bytes: Some(150), files: 4, unknown: 2, lacks });
        assert_eq!(of("hold-2"), Kept { bytes: Some(1), files: 2, unknown: 3, lacks: Vec::new() });
        assert_eq!(of("hold-3"), Kept { unknown: 4, ..Kept::default() });
        sessions.clear();
        assert_eq!(of("hold-1").bytes, None, "what a node that went away said is not of now");
    }
}
