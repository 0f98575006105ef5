//! The desk: answers to people's questions, and their orders, each authorised and journalled with its actor.
//!
//! Answers come from the store; only "connected", "last seen" and figures of now come from the live nodes. Rows become
//! messages here and nowhere else.

mod holds;
mod messages;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::identity::Role;
use dogwatch::record::{Body, Kind, Kinds, NodeName, Sample};
use dogwatch::wire;
use dogwatch::wire::desk_server::Desk;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::admit::gate::Gate;
use crate::casework::{Ask, Deed, Refusal};
use messages::{
    action_message, entry_message, event_message, finding_message, incident_message, mount_row, piece_words,
};

use crate::holds::Holds;
use crate::incident::{Incident, IncidentState};
use crate::nodes::{CommandFailed, Live, Nodes};
use crate::store::decision::{Piece, What};
use crate::store::events::EventQuery;
use crate::store::row::{ActionRow, FindingRow};
use crate::store::{ActionFilter, FindingFilter, IncidentFilter, QueryError, Store};
use crate::timeline;

/// Nodes that are asked for figures of this moment at most; more are answered from what they said last.
const FRESH_NODES: usize = 100;
/// How long a node has to answer with its figures.
const FRESH_WAIT: Duration = Duration::from_secs(2);
/// How long a node has to make a plan: a survey of a large log folder on a slow disk.
const PLAN_WAIT: Duration = Duration::from_secs(60);
/// How long a node has to carry a plan out.
const APPLY_WAIT: Duration = Duration::from_secs(600);
/// Events that a limited answer holds at most, for they are turned round in memory.
const MAX_NEWEST: usize = 100_000;
/// Rows of one answer where the asker sets no limit.
const DEFAULT_LIMIT: usize = 10_000;
/// Answers at once that read blocks: each may hold some hundred MiB of them. More wait their turn.
const MAX_READING: usize = 8;
/// An asker that takes nothing for so long loses its turn.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Events that are ready for an asker.
const READY: usize = 64;
/// How long an answer waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// Nodes of one answer whose samples go with it whole; of more, only their mounts: an answer has a size.
const WHOLE_SAMPLES: usize = 100;
/// Nodes whose newest durable sample is remembered: the most nodes that one collector serves, a few KB each.
const MAX_REMEMBERED: usize = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub struct Query {
    store: Store,
    nodes: Nodes,
    gate: Gate,
    asks: mpsc::Sender<Ask>,
    holds: Holds,
    reading: Arc<Semaphore>,
    /// The newest durable samples of nodes that are not connected, and when the node was heard of last then: while that
    /// stays, so does the sample.
    remembered: Arc<Mutex<HashMap<NodeName, (i64, Kept)>>>,
}

/// A sample and when it was taken.
type Kept = Option<(i64, Arc<Sample>)>;

type Rows<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Query {
    /// A desk over `store` and the live `nodes`.
    pub fn new(store: Store, nodes: Nodes, gate: Gate, asks: mpsc::Sender<Ask>, holds: Holds) -> Self {
        Self {
            store,
            nodes,
            gate,
            asks,
            holds,
            reading: Arc::new(Semaphore::new(MAX_READING)),
            remembered: Arc::default(),
        }
    }

    fn person<T>(&self, request: &Request<T>, least: Role) -> Result<String, Status> {
        self.gate.require_role(request, least).map(|name| name.to_string())
    }

    /// A turn at reading blocks.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        match tokio::time::timeout(TURN_WAIT, Arc::clone(&self.reading).acquire_owned()).await {
            Ok(turn) => turn.map_err(|_| stopping()),
            Err(_) => Err(Status::resource_exhausted(format!(
                "{MAX_READING} other questions read logs or samples; try again in a moment, or ask for less"
            ))),
        }
    }

    async fn node_row(&self, name: NodeName, live: Live, whole: bool) -> Result<wire::NodeRow, Status> {
        let pulse = live.pulse.as_deref().filter(|_| live.connected);
        let kept = match pulse {
            Some(p) if p.sample.is_some() => None,
            _ => self.latest_sample(&name, live.last_seen_wall_ns).await?,
        };
        let (sample, sampled_wall_ns) = match (pulse, &kept) {
            (Some(p), _) if p.sample.is_some() => (p.sample.clone(), p.wall_ns),
            (_, Some((at, s))) => (Some(wire::Sample::from(&**s)), *at),
            _ => (None, 0),
        };
        let forecasts = pulse.map(|p| p.forecasts.as_slice()).unwrap_or_default();
        let mounts = sample.as_ref().map(|s| s.mounts.iter().map(|m| mount_row(m, forecasts)).collect());
        Ok(wire::NodeRow {
            state: match (live.connected, sampled_wall_ns) {
                (true, _) => "connected",
                (false, 0) => "never-seen",
                (false, _) => "silent",
            }
            .to_owned(),
            // Without a connection only what is durable counts, so that the answer is the same after a restart: version
            // and mode are what the open stream said, nobody knows whether they still hold.
            last_seen_wall_ns: if live.connected { live.last_seen_wall_ns } else { sampled_wall_ns },
            agent_version: if live.connected { live.agent_version } else { String::new() },
            mounts: mounts.unwrap_or_default(),
            mode: live.mode.filter(|_| live.connected).map_or(0, |m| wire::CleanupMode::from(m).into()),
            unable: pulse.map(|p| p.unable.clone()).unwrap_or_default(),
            records_total: pulse.map_or(0, |p| p.records_total),
            sampled_wall_ns,
            sample: sample.filter(|_| whole),
            name: name.to_string(),
        })
    }

    /// The newest durable sample of a node, and when it was taken.
    async fn latest_sample(&self, node: &NodeName, last_seen_wall_ns: i64) -> Result<Kept, Status> {
        if let Some((seen, kept)) = self.remembered().get(node)
            && *seen == last_seen_wall_ns
        {
            return Ok(kept.clone());
        }
        let query = EventQuery {
            node: Some(node.clone()),
            kinds: Kinds::default().with(Kind::Sample),
            streams: vec![dogwatch::record::Stream::Evidence],
            newest_first: true,
            limit: 1,
            ..EventQuery::default()
        };
        let kept: Kept = match self.store.events(query).recv().await {
            Some(Ok(event)) => match event.record.body {
                Body::Sample(sample) => Some((event.record.at.wall_ns, Arc::from(sample))),
                _ => None,
            },
            Some(Err(e)) => return Err(refuse(e)),
            None => None,
        };
        let mut remembered = self.remembered();
        if remembered.len() < MAX_REMEMBERED || remembered.contains_key(node) {
            remembered.insert(node.clone(), (last_seen_wall_ns, kept.clone()));
        }
        Ok(kept)
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<NodeName, (i64, Kept)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks connected nodes for figures of now; who does not answer in time keeps its last ones.
    async fn refresh(&self, names: &[NodeName]) {
        let asking = names.iter().take(FRESH_NODES).map(|node| async move {
            let command = wire::Command {
                id: new_id("c"),
                actor: "collector".to_owned(),
                deadline_wall_ns: clock::wall_ns() + FRESH_WAIT.as_nanos() as i64,
                command: Some(wire::command::Command::Pulse(wire::PulseNow {})),
            };
            if let Err(e) = self.nodes.command(node, command, FRESH_WAIT).await {
                tracing::debug!(%node, error = %e, "no fresh figures");
            }
        });
        futures_util::future::join_all(asking).await;
    }

    async fn keep(&self, actor: &str, what: What) -> Result<(), Status> {
        let (reply, done) = oneshot::channel();
        let ask = Ask::Keep { what: Box::new(what), actor: actor.to_owned(), reply };
        self.asks.send(ask).await.map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())?.map_err(|e| Status::unavailable(e.to_string()))
    }

    /// Sends an order to a node; before and after stand in the journal, also when whoever ordered it no longer waits.
    async fn order(
        &self,
        actor: String,
        node: String,
        words: String,
        command: wire::command::Command,
        wait: Duration,
    ) -> Result<wire::ActionRow, Status> {
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
    ) -> Result<wire::ActionRow, Status> {
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
            CommandFailed::NotConnected(_) | CommandFailed::WentAway(_) => Status::unavailable(e.to_string()),
            CommandFailed::Busy(_) => Status::resource_exhausted(e.to_string()),
            CommandFailed::Late(..) => Status::deadline_exceeded(e.to_string()),
        })?;
        if !result.ok {
            return Err(Status::failed_precondition(result.error));
        }
        let wall_ns = clock::wall_ns();
        Ok(wire::ActionRow {
            node: node.to_string(),
            action: result.action,
            wall_ns,
            incident: String::new(),
        })
    }

    async fn deed(
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
            Err(Refusal::State(e)) => Err(Status::failed_precondition(e.to_string())),
            Err(Refusal::Store(e)) => Err(Status::unavailable(e.to_string())),
        }
    }

    async fn incident(&self, id: &str) -> Result<(Incident, Vec<FindingRow>, Vec<ActionRow>), Status> {
        let incident = self.store.incident(id).await.map_err(refuse)?.ok_or_else(|| {
            Status::not_found(format!("there is no incident {id}; `dogwatch get incidents` lists them"))
        })?;
        let (mut findings, mut actions) = (Vec::new(), Vec::new());
        for joined in &incident.pieces {
            match &joined.piece {
                Piece::Finding(id) => {
                    findings.extend(self.store.finding_of(&joined.node, id).await.map_err(refuse)?)
                }
                Piece::Action(id) => {
                    actions.extend(self.store.action_of(&joined.node, id).await.map_err(refuse)?)
                }
            }
        }
        Ok((incident, findings, actions))
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

    async fn get_nodes(
        &self,
        request: Request<wire::GetNodesRequest>,
    ) -> Result<Response<wire::GetNodesResponse>, Status> {
        self.person(&request, Role::Viewer)?;
        let asked = request.into_inner();
        let wanted = |n: &NodeName| asked.nodes.is_empty() || asked.nodes.iter().any(|w| w == n.as_str());
        let mut list: Vec<(NodeName, Live)> =
            self.nodes.all().into_iter().filter(|(n, _)| wanted(n)).collect();
        if !asked.cached {
            let connected: Vec<NodeName> =
                list.iter().filter(|(_, l)| l.connected).map(|(n, _)| n.clone()).collect();
            self.refresh(&connected).await;
            list = self.nodes.all().into_iter().filter(|(n, _)| wanted(n)).collect();
        }
        let whole = list.len() <= WHOLE_SAMPLES;
        let mut nodes = Vec::with_capacity(list.len());
        for (name, live) in list {
            nodes.push(self.node_row(name, live, whole).await?);
        }
        Ok(Response::new(wire::GetNodesResponse { nodes }))
    }

    async fn get_incidents(
        &self,
        request: Request<wire::GetIncidentsRequest>,
    ) -> Result<Response<Self::GetIncidentsStream>, Status> {
        self.person(&request, Role::Viewer)?;
        let asked = request.into_inner();
        let (since_wall_ns, until_wall_ns) = range(asked.range);
        let states: Result<Vec<IncidentState>, Status> = asked.states.iter().map(|s| state(s)).collect();
        let filter = IncidentFilter {
            since_wall_ns,
            until_wall_ns,
            states: states?,
            node: node_filter(&asked.node)?,
            limit: limit(asked.limit),
        };
        let rows = self.store.incidents(filter).await.map_err(refuse)?;
        Ok(Response::new(rows_of(rows.iter().map(incident_message).collect())))
    }

    async fn get_findings(
        &self,
        request: Request<wire::GetFindingsRequest>,
    ) -> Result<Response<Self::GetFindingsStream>, Status> {
        self.person(&request, Role::Viewer)?;
        let asked = request.into_inner();
        let (since_wall_ns, until_wall_ns) = range(asked.range);
        let filter = FindingFilter {
            since_wall_ns,
            until_wall_ns,
            node: node_filter(&asked.node)?,
            active_only: asked.active_only,
            limit: limit(asked.limit),
        };
        let rows = self.store.findings(filter).await.map_err(refuse)?;
        let mut out = Vec::with_capacity(rows.len());
        for row in &rows {
            let incident = match &row.node {
                Some(node) => {
                    let piece = Piece::Finding(row.finding.id.clone());
                    self.store.incident_of(&piece, node).await.map_err(refuse)?
                }
                None => None,
            };
            out.push(finding_message(row, incident));
        }
        Ok(Response::new(rows_of(out)))
    }

    async fn get_actions(
        &self,
        request: Request<wire::GetActionsRequest>,
    ) -> Result<Response<Self::GetActionsStream>, Status> {
        self.person(&request, Role::Viewer)?;
        let asked = request.into_inner();
        let (since_wall_ns, until_wall_ns) = range(asked.range);
        let filter = ActionFilter {
            since_wall_ns,
            until_wall_ns,
            node: node_filter(&asked.node)?,
            limit: limit(asked.limit),
        };
        let rows = self.store.actions(filter).await.map_err(refuse)?;
        let mut out = Vec::with_capacity(rows.len());
        for row in &rows {
            let piece = Piece::Action(row.action.id.clone());
            let incident = self.store.incident_of(&piece, &row.node).await.map_err(refuse)?;
            out.push(action_message(row, incident));
        }
        Ok(Response::new(rows_of(out)))
    }

    async fn get_events(
        &self,
        request: Request<wire::GetEventsRequest>,
    ) -> Result<Response<Self::GetEventsStream>, Status> {
        self.person(&request, Role::Viewer)?;
        let asked = request.into_inner();
        let mut kinds = Kinds::default();
        for k in &asked.kinds {
            kinds = kinds.with(k.parse::<Kind>().map_err(|e| Status::invalid_argument(e.to_string()))?);
        }
        if asked.kinds.is_empty() {
            kinds = Kind::ALL.into_iter().fold(kinds, Kinds::with);
        }
        let (since, until) = range(asked.range);
        let query = EventQuery {
            since_wall_ns: since.unwrap_or(i64::MIN),
            until_wall_ns: until.unwrap_or(i64::MAX),
            node: node_filter(&asked.node)?,
            kinds,
            // A limit keeps the newest; they are shown in the order of time all the same.
            newest_first: asked.limit != 0,
            limit: (asked.limit as usize).min(MAX_NEWEST),
            ..EventQuery::default()
        };
        let newest_first = query.newest_first;
        let turn = self.turn().await?;
        let events = ReceiverStream::new(self.store.events(query)).map(|e| match e {
            Ok(event) => Ok(event_message(&event.chain.node, &event.record)),
            Err(e) => Err(refuse(e)),
        });
        if !newest_first {
            return Ok(Response::new(read_out(events, turn)));
        }
        let mut newest: Vec<Result<wire::Event, Status>> = events.take(MAX_NEWEST).collect().await;
        newest.reverse();
        Ok(Response::new(read_out(stream::iter(newest), turn)))
    }

    async fn describe_incident(
        &self,
        request: Request<wire::IncidentRequest>,
    ) -> Result<Response<wire::IncidentDetail>, Status> {
        self.person(&request, Role::Viewer)?;
        let (incident, findings, actions) = self.incident(&request.into_inner().id).await?;
        let entries = timeline::timeline(&incident, &findings, &actions);
        let belongs = incident
            .pieces
            .iter()
            .map(|j| format!("{} of {}: {}", piece_words(&j.piece), j.node, j.reason))
            .collect();
        Ok(Response::new(wire::IncidentDetail {
            findings: findings.iter().map(|r| finding_message(r, Some(incident.id.clone()))).collect(),
            actions: actions.iter().map(|r| action_message(r, Some(incident.id.clone()))).collect(),
            timeline: entries.iter().map(entry_message).collect(),
            belongs,
            incident: Some(incident_message(&incident)),
        }))
    }

    async fn timeline(
        &self,
        request: Request<wire::IncidentRequest>,
    ) -> Result<Response<Self::TimelineStream>, Status> {
        self.person(&request, Role::Viewer)?;
        let (incident, findings, actions) = self.incident(&request.into_inner().id).await?;
        let entries = timeline::timeline(&incident, &findings, &actions);
        Ok(Response::new(rows_of(entries.iter().map(entry_message).collect())))
    }

    async fn plan(&self, request: Request<wire::PlanRequest>) -> Result<Response<wire::ActionRow>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let wire::PlanRequest { node, mount } = request.into_inner();
        let words = format!("plan {mount}");
        let command = wire::command::Command::Plan(wire::PlanMount { mount });
        Ok(Response::new(self.order(actor, node, words, command, PLAN_WAIT).await?))
    }

    async fn apply(&self, request: Request<wire::ApplyRequest>) -> Result<Response<wire::ActionRow>, Status> {
        let actor = self.person(&request, Role::Responder)?;
        let wire::ApplyRequest { node, action_id } = request.into_inner();
        let words = format!("apply {action_id}");
        let command = wire::command::Command::Apply(wire::ApplyPlan { action_id });
        Ok(Response::new(self.order(actor, node, words, command, APPLY_WAIT).await?))
    }

    async fn acknowledge(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.deed(request, Deed::Acknowledge).await
    }

    async fn resolve(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.deed(request, Deed::Resolve).await
    }

    async fn add_note(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.deed(request, Deed::Note).await
    }

    async fn reopen(
        &self,
        request: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.person(&request, Role::Viewer)?;
        Err(Status::unimplemented("this collector does not answer that yet"))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.person(&request, Role::Viewer)?;
        Err(Status::unimplemented("this collector does not answer that yet"))
    }

    async fn get_samples(
        &self,
        request: Request<wire::GetSamplesRequest>,
    ) -> Result<Response<Self::GetSamplesStream>, Status> {
        self.person(&request, Role::Viewer)?;
        Err(Status::unimplemented("this collector does not answer that yet"))
    }

    async fn add_hold(&self, request: Request<wire::AddHoldRequest>) -> Result<Response<wire::Hold>, Status> {
        self.hold(request).await
    }

    async fn release_hold(
        &self,
        request: Request<wire::ReleaseHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        self.let_go(request).await
    }

    async fn get_holds(
        &self,
        request: Request<wire::GetHoldsRequest>,
    ) -> Result<Response<wire::GetHoldsResponse>, Status> {
        self.list_holds(request).await
    }

    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        self.person(&request, Role::Viewer)?;
        Err(Status::unimplemented("this collector does not answer that yet"))
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

fn rows_of<T: Send + 'static>(rows: Vec<T>) -> Rows<T> {
    Box::pin(stream::iter(rows.into_iter().map(Ok)))
}

/// Gives `rows` to whoever asked and the turn back after the last, or when nobody takes them.
fn read_out<T: Send + 'static>(
    rows: impl Stream<Item = Result<T, Status>> + Send + 'static,
    turn: OwnedSemaphorePermit,
) -> Rows<T> {
    let (sender, receiver) = mpsc::channel(READY);
    let (whole, done) = oneshot::channel();
    tokio::spawn(async move {
        let _turn = turn;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.next().await {
            if sender.send_timeout(row, READ_TIMEOUT).await.is_err() {
                return;
            }
        }
        // Only a whole answer says so: what ends without is cut short.
        let _ = whole.send(());
    });
    let end = stream::once(done).filter_map(|whole| async move {
        whole.err().map(|_| Err(Status::deadline_exceeded("the answer was read too slowly and is cut short")))
    });
    Box::pin(ReceiverStream::new(receiver).chain(end))
}

fn limit(asked: u32) -> usize {
    if asked == 0 { DEFAULT_LIMIT } else { asked as usize }
}

fn range(r: Option<wire::TimeRange>) -> (Option<i64>, Option<i64>) {
    let r = r.unwrap_or_default();
    ((r.since_wall_ns != 0).then_some(r.since_wall_ns), (r.until_wall_ns != 0).then_some(r.until_wall_ns))
}

fn state(word: &str) -> Result<IncidentState, Status> {
    [IncidentState::Open, IncidentState::Acknowledged, IncidentState::Resolved]
        .into_iter()
        .find(|s| s.as_str() == word)
        .ok_or_else(|| {
            Status::invalid_argument(format!("state {word:?}: must be open, acknowledged or resolved"))
        })
}

fn node_filter(name: &str) -> Result<Option<NodeName>, Status> {
    if name.is_empty() {
        return Ok(None);
    }
    name.parse().map(Some).map_err(|e| Status::invalid_argument(format!("{e}")))
}

fn new_id(prefix: &str) -> String {
    let mut bytes = [0u8; 8];
    // Ids must only differ; the clock does where there is no randomness.
    if getrandom::fill(&mut bytes).is_err() {
        bytes = clock::wall_ns().to_le_bytes();
    }
    bytes.iter().fold(format!("{prefix}-"), |id, b| id + &format!("{b:02x}"))
}
