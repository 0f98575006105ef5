//! The fleet brake: shown to everybody, stopped and released by responders.

use std::time::Duration;

use dogwatch::identity::Role;
use dogwatch::record::NodeName;
use dogwatch::wire;
use tonic::{Request, Response, Status};

use super::Query;
use super::messages::severity;
use crate::brake::{FleetBrake, Looked, Refusal, Stopped};
use crate::store::decision::{Cause, Past};

/// Longest reason of a node's that is repeated, in characters.
const MAX_TOLD_CHARS: usize = 100;
/// How long a stop waits to learn whose cleanup it is about.
const BLAME_WITHIN: Duration = Duration::from_secs(1);

impl Query {
    pub(super) async fn brake_shown(
        &self,
        request: Request<wire::GetBrakeRequest>,
    ) -> Result<Response<wire::FleetBrake>, Status> {
        self.person(&request, Role::Viewer)?;
        Ok(Response::new(self.brake_message(self.brake.look().await.map_err(refuse)?)))
    }

    pub(super) async fn brake_set(
        &self,
        request: Request<wire::SetBrakeRequest>,
    ) -> Result<Response<wire::FleetBrake>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let ask = request.into_inner();
        let order = ask.order();
        let wire::SetBrakeRequest { reason, node, action_id, revision, alone, .. } = ask;
        let of_trip = !node.is_empty() || !action_id.is_empty();
        if of_trip && order != wire::BrakeOrder::Trip {
            return Err(Status::invalid_argument("node, action_id: only of a trip"));
        }
        if (revision != 0 || !alone.is_empty()) && order != wire::BrakeOrder::Release {
            return Err(Status::invalid_argument("revision, alone: only of a release"));
        }
        let mut caveat = String::new();
        let stands = match order {
            wire::BrakeOrder::Pause => self.brake.pause(reason, actor).await,
            wire::BrakeOrder::Release => {
                let of = |a: wire::FleetAlone| {
                    let node = a.node.parse().map_err(|e| Status::invalid_argument(format!("alone: {e}")))?;
                    Ok((node, Past { revision: a.revision, lineage: a.lineage }))
                };
                let alone = alone.into_iter().map(of).collect::<Result<_, Status>>()?;
                let looked = (revision != 0).then_some(Looked { revision, alone });
                self.brake.release(reason, actor, looked).await
            }
            wire::BrakeOrder::Trip => {
                let (node, action, why) = self.blamed(node, action_id).await;
                caveat = why.unwrap_or_default();
                self.brake.trip(reason, node, action, actor).await
            }
            wire::BrakeOrder::Unspecified => {
                return Err(Status::invalid_argument(
                    "order: is unspecified, must be pause, trip or release",
                ));
            }
        };
        Ok(Response::new(wire::FleetBrake { caveat, ..self.brake_message(stands.map_err(refuse)?) }))
    }

    /// Whose cleanup a person means; by the action alone where no node is named. Nothing of it keeps a person from stopping
    /// everything: where nobody can tell, the stop names no node, and the last part says why.
    async fn blamed(
        &self,
        node: String,
        action: String,
    ) -> (Option<NodeName>, Option<String>, Option<String>) {
        let action = Some(action).filter(|a| !a.is_empty());
        if !node.is_empty() {
            let (node, why) = named(&node, |node| self.nodes.get(node).is_some());
            return (node, action, why);
        }
        let Some(id) = action else { return (None, None, None) };
        let nodes = tokio::time::timeout(BLAME_WITHIN, self.store.nodes_of_action(&id)).await;
        let (node, why) = match nodes {
            Ok(Ok(nodes)) => match the_one(&nodes, &id) {
                Ok(node) => (Some(node), None),
                Err(why) => (None, Some(of_nobody(why.message()))),
            },
            _ => (None, Some(of_nobody("the index does not answer"))),
        };
        (node, Some(id), why)
    }

    /// Why a plan may not be applied, if cleanups are stopped.
    pub(super) fn braked(&self) -> Option<String> {
        let view = self.brake.view();
        let view = view.borrow();
        view.is_stopped().then(|| view.reason.clone())
    }

    /// The same, and whether something went wrong.
    pub(super) fn stopped(&self) -> Option<(String, bool)> {
        let view = self.brake.view();
        let view = view.borrow();
        let mut why = view.reason.clone();
        if let Some(not_kept) = &view.not_kept {
            why += &format!("; not kept yet ({not_kept}): a restart of the collector may forget it");
        }
        view.is_stopped().then_some((why, view.tripped))
    }

    fn brake_message(&self, stands: FleetBrake) -> wire::FleetBrake {
        let FleetBrake { ledger, limit, needed, nodes_needed, waiting, not_kept, notes, alone } = stands;
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let heard = |live: &crate::nodes::Live| live.brake_heard == Some(ledger.revision);
        let unheard = self.nodes.all().into_iter().filter(|(_, live)| live.connected && !heard(live));
        let mut out = wire::FleetBrake {
            state: match (&ledger.tripped, &ledger.paused) {
                (Some(_), _) => "tripped",
                (None, Some(_)) => "paused",
                (None, None) => "open",
            }
            .to_owned(),
            max_nodes: small(limit),
            tripped_total: ledger.tripped_total,
            not_kept: not_kept.unwrap_or_default(),
            notes,
            revision: ledger.revision,
            unheard: unheard.map(|(node, _)| node.to_string()).collect(),
            ..wire::FleetBrake::default()
        };
        out.pause = ledger.paused.as_ref().filter(|_| ledger.tripped.is_some()).map(|p| wire::FleetPause {
            reason: p.reason.clone(),
            actor: p.by.clone(),
            since_wall_ns: p.wall_ns,
        });
        if let Some(stopped) = ledger.stopped() {
            out = why_stopped(stopped, out);
        }
        let alone = alone.into_iter().map(|a| wire::FleetAlone {
            node: a.node.to_string(),
            reason: a.reason.chars().take(MAX_TOLD_CHARS).collect(),
            revision: a.state.revision,
            lineage: a.state.lineage,
        });
        out.alone = alone.collect();
        let permits = ledger.permits.into_iter().map(|p| wire::FleetPermit {
            node: p.node.to_string(),
            action_id: p.action,
            mount: p.mount,
            state: if p.returned { "watched" } else { "acting" }.to_owned(),
            granted_wall_ns: p.granted_wall_ns,
            planned_bytes: p.planned_bytes,
            canary: p.canary,
        });
        out.permits = permits.collect();
        let waiting = waiting.into_iter().map(|(ask, waited)| wire::FleetWaiting {
            node: ask.node.to_string(),
            action_id: ask.action,
            mount: ask.mount,
            severity: severity(ask.severity),
            seconds_to_full: ask.seconds_to_full,
            waited_seconds: waited.as_secs_f64(),
        });
        out.waiting = waiting.collect();
        let policies =
            ledger.policies.into_iter().zip(nodes_needed).map(|(p, nodes_needed)| wire::FleetPolicy {
                policy: p.policy.to_string(),
                successes: p.successes,
                needed,
                nodes: small(p.nodes.len()).min(nodes_needed),
                nodes_needed,
            });
        out.policies = policies.collect();
        out
    }
}

/// `out` with what is told of a stop.
fn why_stopped(stopped: &Stopped, out: wire::FleetBrake) -> wire::FleetBrake {
    let Cause { mount, rule, finding } = stopped.cause.clone().unwrap_or_default();
    wire::FleetBrake {
        reason: stopped.reason.clone(),
        actor: stopped.by.clone(),
        since_wall_ns: stopped.wall_ns,
        finding: stopped.finding.clone(),
        node: stopped.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        action_id: stopped.action.clone().unwrap_or_default(),
        mount,
        cause_rule: rule,
        cause_finding: finding,
        ..out
    }
}

/// The node of this name, if there is one, and else why the stop names none.
fn named(name: &str, is_there: impl Fn(&NodeName) -> bool) -> (Option<NodeName>, Option<String>) {
    match name.parse::<NodeName>() {
        Ok(node) if is_there(&node) => (Some(node), None),
        Ok(node) => {
            (None, Some(of_nobody(&format!("there is no node {node}; `dogwatch get nodes` lists them"))))
        }
        Err(why) => (None, Some(of_nobody(&format!("node: {why}")))),
    }
}

fn of_nobody(why: &str) -> String {
    format!("cleanups are stopped on every node, but the stop says of no node that it was its cleanup: {why}")
}

/// The one node that has an action of this id: ids are made by nodes, each for itself, and one may make another's.
pub(super) fn the_one(nodes: &[NodeName], id: &str) -> Result<NodeName, Status> {
    match nodes {
        [node] => Ok(node.clone()),
        [] => Err(Status::not_found(format!("there is no action {id}; `dogwatch get actions` lists them"))),
        nodes => {
            let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            let why = format!("{} have an action {id}; name the node, too", names.join(" and "));
            Err(Status::invalid_argument(why))
        }
    }
}

fn refuse(refusal: Refusal) -> Status {
    let words = refusal.to_string();
    match refusal {
        Refusal::Mistake(_) => Status::invalid_argument(words),
        Refusal::Open | Refusal::Overtaken(_) => Status::failed_precondition(words),
        Refusal::Store(_) => Status::unavailable(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_told_with_its_cause_beside_the_finding_that_it_raised() {
        let mut stopped = Stopped {
            wall_ns: 5,
            by: "collector".to_owned(),
            reason: "node node-1: mount-read-only (critical) after its cleanup: it is".to_owned(),
            finding: "f-stop".to_owned(),
            node: Some("node-1".parse().unwrap()),
            action: Some("a-1".to_owned()),
            cites: Vec::new(),
            cause: Some(Cause {
                mount: "/var".to_owned(),
                rule: "mount-read-only".to_owned(),
                finding: "f-1".to_owned(),
            }),
        };
        let told = why_stopped(&stopped, wire::FleetBrake { max_nodes: 3, ..wire::FleetBrake::default() });
        assert_eq!(
            (told.node.as_str(), told.mount.as_str(), told.action_id.as_str()),
            ("node-1", "/var", "a-1")
        );
        assert_eq!((told.cause_rule.as_str(), told.cause_finding.as_str()), ("mount-read-only", "f-1"));
        assert_eq!((told.finding.as_str(), told.since_wall_ns, told.max_nodes), ("f-stop", 5, 3));
        // A person's, or one of a version that said none.
        stopped.cause = None;
        let told = why_stopped(&stopped, wire::FleetBrake::default());
        assert_eq!(
            (told.mount + &told.cause_rule + &told.cause_finding, told.finding),
            (String::new(), "f-stop".into())
        );
    }

    #[test]
    fn an_id_that_several_nodes_gave_is_nobodys_until_one_is_named() {
        let nodes: Vec<NodeName> = ["node-1", "node-2"].iter().map(|n| n.parse().unwrap()).collect();
        assert_eq!(the_one(&nodes[..1], "a-1").unwrap(), nodes[0]);
        assert_eq!(the_one(&[], "a-1").unwrap_err().code(), tonic::Code::NotFound);
        let refused = the_one(&nodes, "a-1").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("node-1 and node-2 have an action a-1"), "{refused}");
    }

    #[test]
    fn a_stop_whose_node_nobody_knows_names_none_and_says_so() {
        let there: NodeName = "node-1".parse().unwrap();
        let of = |name: &str| named(name, |node| *node == there);
        assert_eq!(of("node-1"), (Some(there.clone()), None));
        for (name, words) in [("node-2", "there is no node node-2"), ("no/de", "node: ")] {
            let (node, why) = of(name);
            let why = why.unwrap();
            assert!(node.is_none() && why.contains(words) && why.contains("stopped on every node"), "{why}");
        }
    }
}
