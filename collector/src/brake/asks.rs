//! Asks of nodes on their way to the owner: the newest of each cleanup, so many of a node, and nodes in turn.
//!
//! Invariants: a node that asks as fast as it can takes no room and no turn from others; what a person orders does not
//! pass here at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use dogwatch::record::NodeName;
use tokio::sync::{Notify, mpsc};

use super::machine::MAX_WAITING_OF_NODE;
use super::{Answer, Ask};

/// Nodes whose asks wait at most: the largest fleet.
const MAX_NODES: usize = 20_000;

/// An ask, and where its answers go.
pub(super) type Asked = (Ask, mpsc::Sender<(Ask, Answer)>);

#[derive(Debug, Default)]
struct Inner {
    /// By node and action.
    waiting: BTreeMap<NodeName, BTreeMap<String, Asked>>,
    /// Whose turn was last.
    last: Option<NodeName>,
}

/// Where they wait; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Asks {
    inner: Arc<Mutex<Inner>>,
    come: Arc<Notify>,
}

impl Asks {
    /// Puts an ask; `false`: there is no room for it, and its node asks again.
    pub(super) fn put(&self, ask: Ask, to: mpsc::Sender<(Ask, Answer)>) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.waiting.contains_key(&ask.node) && inner.waiting.len() >= MAX_NODES {
            return false;
        }
        let its = inner.waiting.entry(ask.node.clone()).or_default();
        if !its.contains_key(&ask.action) && its.len() >= MAX_WAITING_OF_NODE {
            return false;
        }
        its.insert(ask.action.clone(), (ask, to));
        drop(inner);
        self.come.notify_one();
        true
    }

    /// Waits until there is one.
    pub(super) async fn come(&self) {
        self.come.notified().await;
    }

    /// At most `most`, one of each node after the other.
    pub(super) fn take(&self, most: usize) -> Vec<Asked> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        while out.len() < most {
            let next = match &inner.last {
                Some(last) => {
                    use std::ops::Bound::{Excluded, Unbounded};
                    inner.waiting.range((Excluded(last.clone()), Unbounded)).next()
                }
                None => None,
            };
            let Some(node) = next.or_else(|| inner.waiting.iter().next()).map(|(node, _)| node.clone())
            else {
                return out;
            };
            if let Some(its) = inner.waiting.get_mut(&node) {
                out.extend(its.pop_first().map(|(_, asked)| asked));
                if its.is_empty() {
                    inner.waiting.remove(&node);
                }
            }
            inner.last = Some(node);
        }
        if !inner.waiting.is_empty() {
            self.come.notify_one();
        }
        out
    }
}
