//! Lists from a collector.

use super::{Ask, Events, write_all};
use crate::args::Resource;
use crate::ask;
use crate::client::Desk;
use crate::error::CliError;
use crate::output::Io;
use crate::view::{Action, Event, Finding, Hold, Incident, Node};

pub(super) async fn list(desk: &mut Desk, ask: &Ask, io: &mut Io<'_>) -> Result<(), CliError> {
    match ask.resource {
        Resource::Nodes => write_all(io, ask, nodes(desk, ask).await?),
        Resource::Incidents => write_all(io, ask, incidents(desk, ask).await?),
        Resource::Findings => write_all(io, ask, findings(desk, ask).await?),
        Resource::Actions => write_all(io, ask, actions(desk, ask).await?),
        Resource::Holds => write_all(io, ask, holds(desk, ask).await?),
        Resource::Events => {
            let mut answers = desk.events(ask::events(&ask.which, question(ask))).await?;
            // The first answer decides whether there is an answer at all: before it nothing is written, so that a
            // journal can still step in.
            let mut next = answers.next().await?;
            let mut events = Events::begin(io, ask)?;
            while let Some(e) = next {
                events.take(io, ask, Event::from(e))?;
                next = answers.next().await?;
            }
            events.finish(io, ask)
        }
    }
}

pub(super) fn question(ask: &Ask) -> ask::Events {
    ask::Events {
        range: ask.range,
        kinds: ask.args.kind.iter().map(|k| k.as_str().to_owned()).collect(),
        limit: ask.wire_limit(),
        grep: ask.args.grep.clone(),
        source: ask.args.source.clone(),
    }
}

pub(super) async fn nodes(desk: &mut Desk, ask: &Ask) -> Result<Vec<Node>, CliError> {
    let mut names = ask.ids();
    if names.is_empty() {
        names.clone_from(&ask.which.nodes);
    }
    let rows = desk.nodes(names, ask.args.cached).await?;
    let mut nodes: Vec<Node> = rows.into_iter().map(Node::from).collect();
    nodes.retain(|n| ask.named(&n.name) && ask.of_node(Some(&n.name)) && ask.in_state(n.state.as_deref()));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(missing) = ask.which.nodes.iter().find(|w| !nodes.iter().any(|n| n.name == **w))
        && ask.args.state.is_empty()
        && ask.args.names.is_empty()
    {
        return Err(CliError::NotFound(format!(
            "there is no node {missing}\n  try: `dogwatch get nodes -o name` lists them"
        )));
    }
    Ok(nodes)
}

pub(super) async fn incidents(desk: &mut Desk, ask: &Ask) -> Result<Vec<Incident>, CliError> {
    let request = ask::incidents(&ask.which, ask.range, ask.incident_states(), ask.ids(), ask.wire_limit());
    let mut answers = desk.incidents(request).await?;
    let (mut found, mut given) = (Vec::new(), 0u32);
    while let Some(i) = answers.next().await? {
        given += 1;
        let i = Incident::from(i);
        if ask.bad_enough(i.severity) && ask.named(&i.id) {
            found.push(i);
        }
    }
    ask.given(given);
    found.sort_by(|a, b| (a.opened_at, &a.id).cmp(&(b.opened_at, &b.id)));
    Ok(found)
}

pub(super) async fn findings(desk: &mut Desk, ask: &Ask) -> Result<Vec<Finding>, CliError> {
    let request = ask::findings(&ask.which, ask.range, ask.args.active, ask.ids(), ask.wire_limit());
    let mut answers = desk.findings(request).await?;
    let (mut found, mut given) = (Vec::new(), 0u32);
    while let Some(f) = answers.next().await? {
        given += 1;
        let f = Finding::from(f);
        if ask.bad_enough(f.severity)
            && ask.of_node(f.node.as_deref())
            && ask.named(&f.id)
            && ask.in_state(f.state)
        {
            found.push(f);
        }
    }
    ask.given(given);
    found.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    Ok(found)
}

pub(super) async fn actions(desk: &mut Desk, ask: &Ask) -> Result<Vec<Action>, CliError> {
    let mut answers = desk.actions(ask::actions(&ask.which, ask.range, ask.ids(), ask.wire_limit())).await?;
    let (mut found, mut given) = (Vec::new(), 0u32);
    while let Some(a) = answers.next().await? {
        given += 1;
        let a = Action::from(a);
        if ask.of_node(Some(&a.node)) && ask.named(&a.id) && ask.in_state(a.state) {
            found.push(a);
        }
    }
    ask.given(given);
    found.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    Ok(found)
}

/// Released ones only where they are asked for by state or by name.
pub(super) async fn holds(desk: &mut Desk, ask: &Ask) -> Result<Vec<Hold>, CliError> {
    let released =
        !ask.args.active && (ask.args.state.iter().any(|s| s == "released") || !ask.args.names.is_empty());
    let mut found: Vec<Hold> = desk.holds(released).await?.into_iter().map(Hold::from).collect();
    found.retain(|h| {
        let pod = h.pod.as_deref().unwrap_or_default();
        let namespace = h.namespace.as_deref().unwrap_or_default();
        // One that holds everywhere holds on each node.
        (h.node.is_none() || ask.of_node(h.node.as_deref()))
            && (!ask.which.of_pods() || ask.which.takes_pod(h.node.as_deref(), namespace, pod, ""))
            && ask.named(&h.id)
            && ask.in_state(Some(&h.state))
    });
    found.sort_by(|a, b| (a.added_at, &a.id).cmp(&(b.added_at, &b.id)));
    Ok(found)
}
