//! Orders: what a responder does to incidents and has nodes do, each journalled with its actor.

use std::time::Duration;

use dogwatch::clock;
use dogwatch::identity::Role;
use dogwatch::record::NodeName;
use dogwatch::wire;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::messages::incident_message;
use super::{Query, new_id, stopping};
use crate::casework::{Ask, Deed, Refusal};
use crate::incident::Refused;
use crate::nodes::CommandFailed;
use crate::store::decision::What;

/// How long a node has to make a plan: a survey of a large log folder on a slow disk.
const PLAN_WAIT: Duration = Duration::from_secs(60);
/// How long a node has to tell what fills a mount: a walk of some millions of entries on a disk that is busy.
const USAGE_WAIT: Duration = Duration::from_secs(90);
/// Of that, what stays for the way.
const USAGE_RESERVE: Duration = Duration::from_secs(10);
/// How long a node has to carry a plan out.
const APPLY_WAIT: Duration = Duration::from_secs(600);

impl Query {
    pub(super) async fn plan_made(
        &self,
        request: Request<wire::PlanRequest>,
    ) -> Result<Response<wire::ActionRow>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let wire::PlanRequest { node, mount } = request.into_inner();
        let words = format!("plan {mount}");
        let command = wire::command::Command::Plan(wire::PlanMount { mount });
        Ok(Response::new(self.order(actor, node, words, command, PLAN_WAIT).await?))
    }

    pub(super) async fn plan_applied(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ActionRow>, Status> {
        let over_brake = request.get_ref().override_brake;
        let actor = self.person(&request, if over_brake { Role::Admin } else { Role::Responder })?;
        let wire::ApplyRequest { node, action_id, .. } = request.into_inner();
        let braked = self.braked();
        if let Some(why) = braked.as_ref().filter(|_| !over_brake) {
            return Err(Status::failed_precondition(format!(
                "{why}; nothing was touched. `dogwatch brake release` lets cleanups go on, and an admin can apply one plan all \
                 the same with `dogwatch clean --override`"
            )));
        }
        let over = if braked.is_some() { " although cleanups are stopped" } else { "" };
        let words = format!("apply {action_id}{over}");
        let apply = wire::ApplyPlan { action_id, override_brake: over_brake };
        let command = wire::command::Command::Apply(apply);
        Ok(Response::new(self.order(actor, node, words, command, APPLY_WAIT).await?))
    }

    pub(super) async fn usage_told(
        &self,
        request: Request<wire::GetUsageRequest>,
    ) -> Result<Response<wire::UsageReport>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let wire::GetUsageRequest { node, path } = request.into_inner();
        let words = format!("usage {path}");
        let within_ms = u32::try_from((USAGE_WAIT - USAGE_RESERVE).as_millis()).unwrap_or(u32::MAX);
        let command = wire::command::Command::Usage(wire::AskUsage { path, within_ms });
        let result = self.ordered(actor, node, words, command, USAGE_WAIT).await?;
        let missing =
            || Status::failed_precondition("the node answered without what was asked; upgrade its agent");
        result.usage.map(Response::new).ok_or_else(missing)
    }

    pub(super) async fn keep(&self, actor: &str, what: What) -> Result<(), Status> {
        let (reply, done) = oneshot::channel();
        let ask = Ask::Keep { what: Box::new(what), actor: actor.to_owned(), reply };
        self.asks.send(ask).await.map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())?.map_err(|e| Status::unavailable(e.to_string()))
    }

    /// An order that is answered with an action.
    async fn order(
        &self,
        actor: String,
        node: String,
        words: String,
        command: wire::command::Command,
        wait: Duration,
    ) -> Result<wire::ActionRow, Status> {
        let result = self.ordered(actor, node.clone(), words, command, wait).await?;
        let wall_ns = clock::wall_ns();
        Ok(wire::ActionRow { node, action: result.action, wall_ns, incident: String::new() })
    }

    /// Sends an order to a node; before and after stand in the journal, also when whoever ordered it no longer waits.
    async fn ordered(
        &self,
        actor: String,
        node: String,
        words: String,
        command: wire::command::Command,
        wait: Duration,
    ) -> Result<wire::CommandResult, Status> {
        let desk = self.clone();
        let order = tokio::spawn(async move { desk.carry_out(&actor, &node, words, command, wait).await });
        order.await.map_err(|_| stopping())?
    }

    async fn carry_out(
        &self,
        actor: &str,
        node: &str,
        words: String,
        command: wire::command::Command,
        wait: Duration,
    ) -> Result<wire::CommandResult, Status> {
        let node: NodeName = node.parse().map_err(|e| Status::invalid_argument(format!("{e}")))?;
        if self.nodes.get(&node).is_none() {
            return Err(Status::not_found(format!(
                "there is no node {node}; `dogwatch get nodes` lists them"
            )));
        }
        let id = new_id("c");
        self.keep(actor, What::Commanded { command: id.clone(), node: node.clone(), order: words }).await?;
        let command = wire::Command {
            id: id.clone(),
            actor: actor.to_owned(),
            deadline_wall_ns: clock::wall_ns() + wait.as_nanos() as i64,
            command: Some(command),
        };
        let result = self.nodes.command(&node, command, wait).await;
        let (ok, outcome) = match &result {
            Ok(r) if r.ok => (true, r.action.as_ref().map_or_else(String::new, |a| a.id.clone())),
            Ok(r) => (false, r.error.clone()),
            Err(e) => (false, e.to_string()),
        };
        // The deed is done, or not: that its end cannot be written down now must not hide how it ended.
        if let Err(error) =
            self.keep("collector", What::CommandEnded { command: id.clone(), ok, outcome }).await
        {
            tracing::error!(%node, command = id, ok, %error, "the end of a command could not be journalled");
        }
        let result = result.map_err(|e| match e {
            // Not "unavailable", nor "deadline exceeded": it is not this collector that does not answer.
            CommandFailed::NotConnected(_) => Status::failed_precondition(e.to_string()),
            CommandFailed::WentAway(_) | CommandFailed::Late(..) => Status::aborted(e.to_string()),
            CommandFailed::Busy(_) => Status::resource_exhausted(e.to_string()),
        })?;
        if !result.ok {
            return Err(if result.not_found {
                Status::not_found(result.error)
            } else {
                Status::failed_precondition(result.error)
            });
        }
        Ok(result)
    }

    pub(super) async fn deed(
        &self,
        request: Request<wire::IncidentNoteRequest>,
        deed: Deed,
    ) -> Result<Response<wire::Incident>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let wire::IncidentNoteRequest { id, text } = request.into_inner();
        let (reply, done) = oneshot::channel();
        self.asks.send(Ask::Person { id, deed, actor, text, reply }).await.map_err(|_| stopping())?;
        match done.await.map_err(|_| stopping())? {
            Ok(incident) => Ok(Response::new(incident_message(&incident))),
            Err(e @ Refusal::Unknown(_)) => Err(Status::not_found(e.to_string())),
            Err(Refusal::State(e @ (Refused::Empty { .. } | Refused::TooLong { .. }))) => {
                Err(Status::invalid_argument(e.to_string()))
            }
            Err(Refusal::State(e)) => Err(Status::failed_precondition(e.to_string())),
            Err(Refusal::Store(e)) => Err(Status::unavailable(e.to_string())),
        }
    }
}
