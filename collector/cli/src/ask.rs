//! Questions as the desk's contract takes them. Builds messages and asks nobody.

use dogwatch::record::Severity;
use dogwatch::wire;

use crate::args::{HoldAddArgs, Selectors};
use crate::range::Range;
use crate::view::Alone;

pub(crate) fn range(range: Range) -> wire::TimeRange {
    wire::TimeRange { since_wall_ns: range.since.unwrap_or(0), until_wall_ns: range.until.unwrap_or(0) }
}

pub(crate) fn selector(which: &Selectors) -> wire::Selector {
    let severity = which.severity.map_or(wire::Severity::Unspecified, |s| match s {
        Severity::Info => wire::Severity::Info,
        Severity::Low => wire::Severity::Low,
        Severity::Medium => wire::Severity::Medium,
        Severity::High => wire::Severity::High,
        Severity::Critical => wire::Severity::Critical,
    });
    wire::Selector {
        nodes: which.nodes.clone(),
        namespace: which.namespace.clone().unwrap_or_default(),
        pod: which.pod.clone().unwrap_or_default(),
        container: which.container.clone().unwrap_or_default(),
        severity: severity.into(),
        rules: which.rules.clone(),
    }
}

/// The field that older collectors know: they take one node, or all.
fn one_node(which: &Selectors) -> String {
    match which.nodes.as_slice() {
        [one] => one.clone(),
        _ => String::new(),
    }
}

pub(crate) fn incidents(
    which: &Selectors,
    within: Range,
    states: Vec<String>,
    ids: Vec<String>,
    limit: u32,
) -> wire::GetIncidentsRequest {
    wire::GetIncidentsRequest {
        range: Some(range(within)),
        states,
        node: one_node(which),
        limit,
        selector: Some(selector(which)),
        ids,
    }
}

pub(crate) fn findings(
    which: &Selectors,
    within: Range,
    active_only: bool,
    ids: Vec<String>,
    limit: u32,
) -> wire::GetFindingsRequest {
    wire::GetFindingsRequest {
        range: Some(range(within)),
        node: one_node(which),
        active_only,
        limit,
        selector: Some(selector(which)),
        ids,
    }
}

pub(crate) fn actions(
    which: &Selectors,
    within: Range,
    ids: Vec<String>,
    limit: u32,
) -> wire::GetActionsRequest {
    wire::GetActionsRequest {
        range: Some(range(within)),
        node: one_node(which),
        limit,
        selector: Some(selector(which)),
        ids,
    }
}

/// What is asked of events beside their selector.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    pub(crate) range: Range,
    pub(crate) kinds: Vec<String>,
    pub(crate) limit: u32,
    pub(crate) grep: Option<String>,
    pub(crate) source: Option<String>,
}

pub(crate) fn events(which: &Selectors, ask: Events) -> wire::GetEventsRequest {
    wire::GetEventsRequest {
        range: Some(range(ask.range)),
        node: one_node(which),
        kinds: ask.kinds,
        limit: ask.limit,
        selector: Some(selector(which)),
        grep: ask.grep.unwrap_or_default(),
        source: ask.source.unwrap_or_default(),
    }
}

pub(crate) fn watch(which: &Selectors, kinds: Vec<String>, grep: Option<String>) -> wire::WatchRequest {
    wire::WatchRequest { selector: Some(selector(which)), kinds, grep: grep.unwrap_or_default() }
}

pub(crate) fn samples(node: &str, within: Range, limit: u32) -> wire::GetSamplesRequest {
    wire::GetSamplesRequest { node: node.to_owned(), range: Some(range(within)), limit }
}

/// `namespace` and `pod` are those of `args.pod`, taken apart.
pub(crate) fn hold(args: &HoldAddArgs, pod: Option<(&str, &str)>) -> wire::AddHoldRequest {
    let (namespace, pod) = pod.unwrap_or_default();
    wire::AddHoldRequest {
        hold: Some(wire::Hold {
            node: args.node.clone().unwrap_or_default(),
            path: args.path.clone().unwrap_or_default(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            incident: args.incident.clone().unwrap_or_default(),
            reason: args.reason.clone(),
            ..wire::Hold::default()
        }),
    }
}

/// What is done to the fleet brake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Brake {
    Pause,
    /// What stands at this revision, and these nodes that are stopped alone, as they were shown.
    Release {
        revision: u64,
        alone: Vec<Alone>,
    },
    Trip {
        node: Option<String>,
        action: Option<String>,
    },
}

pub(crate) fn brake(order: Brake, reason: &str) -> wire::SetBrakeRequest {
    let mut ask = wire::SetBrakeRequest { reason: reason.to_owned(), ..wire::SetBrakeRequest::default() };
    let order = match order {
        Brake::Pause => wire::BrakeOrder::Pause,
        Brake::Release { revision, alone } => {
            let meant = |a: Alone| {
                let (revision, lineage) = a.state;
                wire::FleetAlone { node: a.node, reason: String::new(), revision, lineage }
            };
            (ask.revision, ask.alone) = (revision, alone.into_iter().map(meant).collect());
            wire::BrakeOrder::Release
        }
        Brake::Trip { node, action } => {
            (ask.node, ask.action_id) = (node.unwrap_or_default(), action.unwrap_or_default());
            wire::BrakeOrder::Trip
        }
    };
    ask.set_order(order);
    ask
}
