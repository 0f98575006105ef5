//! Holds: added and released by responders, listed for everybody.

use dogwatch::identity::Role;
use dogwatch::wire;
use tonic::{Request, Response, Status};

use super::Query;
use crate::holds::{Refusal, View, Wish};
use crate::store::decision::HoldTarget;

impl Query {
    pub(super) async fn hold_added(
        &self,
        request: Request<wire::AddHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let Some(hold) = request.into_inner().hold else {
            return Err(Status::invalid_argument("hold: is missing"));
        };
        let wire::Hold { node, path, namespace, pod, incident, reason, .. } = hold;
        let wish = Wish { node, path, namespace, pod, incident, reason };
        let view = self.holds.add(wish, actor).await.map_err(refuse)?;
        Ok(Response::new(hold_message(view)))
    }

    pub(super) async fn hold_released(
        &self,
        request: Request<wire::ReleaseHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let wire::ReleaseHoldRequest { id, reason } = request.into_inner();
        let view = self.holds.release(id, reason, actor).await.map_err(refuse)?;
        Ok(Response::new(hold_message(view)))
    }

    pub(super) async fn holds_listed(
        &self,
        request: Request<wire::GetHoldsRequest>,
    ) -> Result<Response<wire::GetHoldsResponse>, Status> {
        self.person(&request, Role::Viewer)?;
        let views = self.holds.list(request.into_inner().released).await.map_err(refuse)?;
        let holds = views.into_iter().map(hold_message).collect();
        Ok(Response::new(wire::GetHoldsResponse { holds }))
    }
}

fn refuse(refusal: Refusal) -> Status {
    let words = refusal.to_string();
    match refusal {
        Refusal::Mistake(_) => Status::invalid_argument(words),
        Refusal::Unknown(_) => Status::not_found(words),
        Refusal::Over(_) => Status::failed_precondition(words),
        Refusal::TooMany(_) => Status::resource_exhausted(words),
        Refusal::Store(_) => Status::unavailable(words),
    }
}

fn hold_message(view: View) -> wire::Hold {
    let View { row, confirmed, absent, state, kept } = view;
    let mut hold = wire::Hold {
        id: row.id,
        node: row.node.map(|n| n.to_string()).unwrap_or_default(),
        reason: row.reason,
        actor: row.actor,
        added_wall_ns: row.added_wall_ns,
        absent_on: absent.iter().map(ToString::to_string).collect(),
        confirmed_by: confirmed.iter().map(ToString::to_string).collect(),
        state: state.to_owned(),
        kept_bytes: kept.bytes,
        kept_files: kept.files,
        kept_unknown: kept.unknown,
        lacks: kept.lacks,
        ..wire::Hold::default()
    };
    if let Some(released) = row.released {
        hold.released_wall_ns = released.wall_ns;
        hold.released_by = released.by;
    }
    match row.target {
        HoldTarget::Path(path) => hold.path = path,
        HoldTarget::Pod { namespace, pod } => (hold.namespace, hold.pod) = (namespace, pod),
        HoldTarget::Incident(id) => hold.incident = id,
        HoldTarget::Node => {}
    }
    hold
}
