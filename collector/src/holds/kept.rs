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
