//! The desk: answers to people's questions, and their orders, each authorised and journalled with its actor.
//!
//! Answers come from the store; only "connected", "last seen" and figures of now come from the live nodes. Rows become
//! messages here and nowhere else. Each subject has a file of its own; here is who may ask, and where it is counted.

mod brake;
mod choice;
mod counts;
mod events;
mod holds;
mod messages;
mod nodes;
mod orders;
mod rows;
mod status;
mod watch;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use dogwatch::clock;
use dogwatch::identity::Role;
use dogwatch::record::{NodeName, Sample};
use dogwatch::supervise::Stop;
use dogwatch::wire;
use dogwatch::wire::desk_server::Desk;
use futures_util::Stream;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status};

use crate::admit::gate::Gate;
use crate::brake::Handle as Brake;
use crate::casework::{Ask, Deed};
use crate::holds::Holds;
use crate::nodes::Nodes;
use crate::store::{QueryError, Store};
pub use counts::Counts;
use events::{MAX_READING, rows_of};
pub use status::Certificates;
use watch::Watching;

/// The service.
#[derive(Debug, Clone)]
pub struct Query {
    store: Store,
    nodes: Nodes,
    gate: Gate,
    asks: mpsc::Sender<Ask>,
    holds: Holds,
    brake: Brake,
    certificates: Certificates,
    stop: Stop,
    started_wall_ns: i64,
    reading: Arc<Semaphore>,
    watching: Watching,
    counts: Counts,
    /// The newest durable samples of nodes that are not connected, and when the node was heard of last then: while that
    /// stays, so does the sample.
    remembered: Arc<Mutex<HashMap<NodeName, (i64, Kept)>>>,
}

/// A sample and when it was taken.
type Kept = Option<(i64, Arc<Sample>)>;

type Rows<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Query {
    /// A desk over `store` and the live `nodes`. Watches end when `stop` is set, since watchers never end them.
    #[expect(clippy::too_many_arguments, reason = "it connects everything that people may ask, once")]
    pub fn new(
        store: Store,
        nodes: Nodes,
        gate: Gate,
        asks: mpsc::Sender<Ask>,
        holds: Holds,
        brake: Brake,
        certificates: Certificates,
        stop: Stop,
    ) -> Self {
        Self {
            store,
            nodes,
            gate,
            asks,
            holds,
            brake,
            certificates,
            stop,
            started_wall_ns: clock::wall_ns(),
            reading: Arc::new(Semaphore::new(MAX_READING)),
            watching: Watching::default(),
            counts: Counts::default(),
            remembered: Arc::default(),
        }
    }

    /// Calls so far.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.counts.all()
    }

    /// Asks that wait for casework, and the most that may.
    pub fn backlog(&self) -> (usize, usize) {
        (self.asks.max_capacity() - self.asks.capacity(), self.asks.max_capacity())
    }

    /// Who watches now.
    pub fn watchers(&self) -> usize {
        self.watching.watchers()
    }

    fn person<T>(&self, request: &Request<T>, least: Role) -> Result<String, Status> {
        self.gate.require_role(request, least).map(|name| name.to_string())
    }

    /// What a viewer asks for.
    fn asked<T>(&self, request: Request<T>) -> Result<T, Status> {
        self.person(&request, Role::Viewer)?;
        Ok(request.into_inner())
    }
}

#[tonic::async_trait]
impl Desk for Query {
    type GetIncidentsStream = Rows<wire::Incident>;
    type GetFindingsStream = Rows<wire::FindingRow>;
    type GetActionsStream = Rows<wire::ActionRow>;
    type GetEventsStream = Rows<wire::Event>;
    type WatchStream = Rows<wire::WatchEvent>;
    type GetSamplesStream = Rows<wire::SampleRow>;
    type TimelineStream = Rows<wire::TimelineEntry>;
    type GetPreservedStream = Rows<wire::FileSeen>;

    async fn get_nodes(
        &self,
        request: Request<wire::GetNodesRequest>,
    ) -> Result<Response<wire::GetNodesResponse>, Status> {
        self.counts.note(
            "get_nodes",
            async { Ok(Response::new(self.nodes_answer(self.asked(request)?).await?)) }.await,
        )
    }

    async fn get_incidents(
        &self,
        request: Request<wire::GetIncidentsRequest>,
    ) -> Result<Response<Self::GetIncidentsStream>, Status> {
        self.counts.note(
            "get_incidents",
            async { Ok(Response::new(rows_of(self.incident_rows(self.asked(request)?).await?))) }.await,
        )
    }

    async fn get_findings(
        &self,
        request: Request<wire::GetFindingsRequest>,
    ) -> Result<Response<Self::GetFindingsStream>, Status> {
        self.counts.note(
            "get_findings",
            async { Ok(Response::new(rows_of(self.finding_rows(self.asked(request)?).await?))) }.await,
        )
    }

    async fn get_actions(
        &self,
        request: Request<wire::GetActionsRequest>,
    ) -> Result<Response<Self::GetActionsStream>, Status> {
        self.counts.note(
            "get_actions",
            async { Ok(Response::new(rows_of(self.action_rows(self.asked(request)?).await?))) }.await,
        )
    }

    async fn get_events(
        &self,
        request: Request<wire::GetEventsRequest>,
    ) -> Result<Response<Self::GetEventsStream>, Status> {
        self.counts.note(
            "get_events",
            async { Ok(Response::new(self.event_rows(self.asked(request)?).await?)) }.await,
        )
    }

    async fn get_samples(
        &self,
        request: Request<wire::GetSamplesRequest>,
    ) -> Result<Response<Self::GetSamplesStream>, Status> {
        self.counts.note(
            "get_samples",
            async { Ok(Response::new(self.sample_rows(self.asked(request)?).await?)) }.await,
        )
    }

    async fn get_preserved(
        &self,
        request: Request<wire::GetPreservedRequest>,
    ) -> Result<Response<Self::GetPreservedStream>, Status> {
        self.counts.note(
            "get_preserved",
            async {
                self.person(&request, Role::Responder)?;
                Ok(Response::new(self.preserved(request.into_inner()).await?))
            }
            .await,
        )
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.counts.note("watch", self.watched(request).await.map(Response::new))
    }

    async fn describe_incident(
        &self,
        request: Request<wire::IncidentRequest>,
    ) -> Result<Response<wire::IncidentDetail>, Status> {
        self.counts.note(
            "describe_incident",
            async {
                let asked = self.asked(request)?;
                Ok(Response::new(self.incident_detail(&asked.id).await?))
            }
            .await,
        )
    }

    async fn timeline(
        &self,
        request: Request<wire::IncidentRequest>,
    ) -> Result<Response<Self::TimelineStream>, Status> {
        self.counts.note(
            "timeline",
            async {
                let asked = self.asked(request)?;
                Ok(Response::new(rows_of(self.timeline_rows(&asked.id).await?)))
            }
            .await,
        )
    }

    async fn plan(&self, request: Request<wire::PlanRequest>) -> Result<Response<wire::ActionRow>, Status> {
        self.counts.note("plan", self.plan_made(request).await)
    }

    async fn apply(&self, request: Request<wire::ApplyRequest>) -> Result<Response<wire::ActionRow>, Status> {
        self.counts.note("apply", self.plan_applied(request).await)
    }

    async fn acknowledge(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.counts.note("acknowledge", self.deed(request, Deed::Acknowledge).await)
    }

    async fn resolve(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.counts.note("resolve", self.deed(request, Deed::Resolve).await)
    }

    async fn add_note(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.counts.note("add_note", self.deed(request, Deed::Note).await)
    }

    async fn reopen(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.counts.note("reopen", self.deed(request, Deed::Reopen).await)
    }

    async fn add_hold(&self, request: Request<wire::AddHoldRequest>) -> Result<Response<wire::Hold>, Status> {
        self.counts.note("add_hold", self.hold_added(request).await)
    }

    async fn release_hold(
        &self,
        request: Request<wire::ReleaseHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        self.counts.note("release_hold", self.hold_released(request).await)
    }

    async fn get_holds(
        &self,
        request: Request<wire::GetHoldsRequest>,
    ) -> Result<Response<wire::GetHoldsResponse>, Status> {
        self.counts.note("get_holds", self.holds_listed(request).await)
    }

    async fn get_brake(
        &self,
        request: Request<wire::GetBrakeRequest>,
    ) -> Result<Response<wire::FleetBrake>, Status> {
        self.counts.note("get_brake", self.brake_shown(request).await)
    }

    async fn set_brake(
        &self,
        request: Request<wire::SetBrakeRequest>,
    ) -> Result<Response<wire::FleetBrake>, Status> {
        self.counts.note("set_brake", self.brake_set(request).await)
    }

    async fn get_usage(
        &self,
        request: Request<wire::GetUsageRequest>,
    ) -> Result<Response<wire::UsageReport>, Status> {
        self.counts.note("get_usage", self.usage_told(request).await)
    }

    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        self.counts.note(
            "get_status",
            async {
                self.asked(request)?;
                Ok(Response::new(self.status_answer().await?))
            }
            .await,
        )
    }
}

fn stopping() -> Status {
    Status::unavailable("the collector is stopping; try again")
}

fn refuse(e: QueryError) -> Status {
    match e {
        QueryError::Building | QueryError::Closed => Status::unavailable(e.to_string()),
        QueryError::TooBroad { .. } => Status::invalid_argument(e.to_string()),
        QueryError::Index(_) | QueryError::Journal(_) => {
            Status::internal(format!("the store cannot answer: {e}"))
        }
    }
}

fn new_id(prefix: &str) -> String {
    let mut bytes = [0u8; 8];
    // Ids must only differ; the clock does where there is no randomness.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = clock::wall_ns().to_le_bytes();
    }
    bytes.iter().fold(format!("{prefix}-"), |id, b| id + &format!("{b:02x}"))
}
