//! Holds: what may be neither cleaned nor expired.

use dogwatch::identity::Role;
use dogwatch::wire;
use tonic::{Request, Response, Status};

use super::Query;

impl Query {
    pub(super) async fn hold_added(
        &self,
        request: Request<wire::AddHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        self.person(&request, Role::Viewer)?;
        Err(Status::unimplemented("this collector does not answer that yet"))
    }

    pub(super) async fn hold_released(
        &self,
        request: Request<wire::ReleaseHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        self.person(&request, Role::Viewer)?;
        Err(Status::unimplemented("this collector does not answer that yet"))
    }

    pub(super) async fn holds_listed(
        &self,
        request: Request<wire::GetHoldsRequest>,
    ) -> Result<Response<wire::GetHoldsResponse>, Status> {
        self.person(&request, Role::Viewer)?;
        Err(Status::unimplemented("this collector does not answer that yet"))
    }
}
