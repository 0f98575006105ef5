//! What a question is about, from the wire: selectors, times, kinds, patterns; each mistake named with its remedy.

use dogwatch::record::{Kind, Kinds, NodeName, Severity};
use dogwatch::wire;
use tonic::Status;

use super::{Query, refuse};
use crate::select::Select;
use crate::sieve::{Grep, Sieve};

/// Most nodes, rules and ids that one question names.
const MAX_NAMED: usize = 1_000;

impl Query {
    /// `node`, if it was ever enrolled or a block of it came.
    pub(super) async fn known(&self, node: Option<NodeName>) -> Result<Option<NodeName>, Status> {
        if let Some(node) = &node
            && self.nodes.get(node).is_none()
            && !self.store.knows(node).await.map_err(refuse)?
        {
            return Err(Status::not_found(format!(
                "there is no node {node}; `dogwatch get nodes` lists them"
            )));
        }
        Ok(node)
    }

    /// A selector whose nodes are known.
    pub(super) async fn select(&self, selector: Option<wire::Selector>) -> Result<Select, Status> {
        let selector = selector.unwrap_or_default();
        if selector.nodes.len() > MAX_NAMED || selector.rules.len() > MAX_NAMED {
            return Err(Status::invalid_argument(format!(
                "the selector names more than {MAX_NAMED} nodes or rules; ask in parts"
            )));
        }
        let severity = match selector.severity() {
            wire::Severity::Unspecified => None,
            named => Some(Severity::try_from(named).map_err(|e| Status::invalid_argument(e.to_string()))?),
        };
        let mut nodes = Vec::with_capacity(selector.nodes.len());
        for name in &selector.nodes {
            nodes.extend(self.known(node_filter(name)?).await?);
        }
        Ok(Select {
            nodes,
            namespace: selector.namespace,
            pod: selector.pod,
            container: selector.container,
            severity,
            rules: selector.rules,
        })
    }

    /// What events must be like. A single `node` and the selector's nodes must both match.
    pub(super) async fn sieve(
        &self,
        node: &str,
        selector: Option<wire::Selector>,
        grep: &str,
        source: String,
    ) -> Result<Sieve, Status> {
        let grep = match grep {
            "" => None,
            pattern => Some(Grep::new(pattern).map_err(|e| Status::invalid_argument(e.to_string()))?),
        };
        let mut select = self.select(selector).await?;
        if let Some(node) = self.known(node_filter(node)?).await? {
            if !select.has_node(Some(&node)) {
                return Err(Status::invalid_argument(format!(
                    "node {node} is not among the nodes of the selector, so nothing can match; name it in one place"
                )));
            }
            select.nodes = vec![node];
        }
        Ok(Sieve { select, source, grep })
    }
}

/// The ids that are asked for, each once.
pub(super) fn ids(mut asked: Vec<String>) -> Result<Vec<String>, Status> {
    if asked.len() > MAX_NAMED {
        return Err(Status::invalid_argument(format!("more than {MAX_NAMED} ids are named; ask in parts")));
    }
    asked.sort_unstable();
    asked.dedup();
    Ok(asked)
}

/// Half-open; `None`: no bound.
pub(super) fn range(r: Option<wire::TimeRange>) -> (Option<i64>, Option<i64>) {
    let r = r.unwrap_or_default();
    ((r.since_wall_ns != 0).then_some(r.since_wall_ns), (r.until_wall_ns != 0).then_some(r.until_wall_ns))
}

pub(super) fn node_filter(name: &str) -> Result<Option<NodeName>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    name.parse().map(Some).map_err(|e| Status::invalid_argument(format!("{e}")))
}

/// The kinds that are named; all of them where none is.
pub(super) fn kinds(names: &[String]) -> Result<Kinds, Status> {
    if names.is_empty() {
        return Ok(Kind::ALL.into_iter().fold(Kinds::default(), Kinds::with));
    }
    names.iter().try_fold(Kinds::default(), |kinds, name| {
        name.parse::<Kind>().map(|k| kinds.with(k)).map_err(|e| Status::invalid_argument(e.to_string()))
    })
}
