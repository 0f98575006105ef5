//! `get nodes`: who there is, how it stands, and its figures; asked of the node itself where it is connected.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use dogwatch::clock;
use dogwatch::record::{Body, Kind, Kinds, NodeName, Stream};
use dogwatch::wire;
use tonic::Status;

use super::messages::mount_row;
use super::{Kept, Query, new_id, refuse};
use crate::nodes::Live;
use crate::store::events::EventQuery;

/// Nodes that are asked for figures of this moment at most; more are answered from what they said last.
const FRESH_NODES: usize = 100;
/// How long a node has to answer with its figures.
const FRESH_WAIT: Duration = Duration::from_secs(2);
/// Nodes of one answer whose samples go with it whole; of more, only their mounts: an answer has a size.
const WHOLE_SAMPLES: usize = 100;
/// Nodes whose newest durable sample is remembered: the most nodes that one collector serves, a few KB each.
const MAX_REMEMBERED: usize = 10_000;

impl Query {
    pub(super) async fn nodes_answer(
        &self,
        asked: wire::GetNodesRequest,
    ) -> Result<wire::GetNodesResponse, Status> {
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
        Ok(wire::GetNodesResponse { nodes })
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
        // Without a connection only what is durable counts, so that the answer is the same after a restart.
        let (last_seen_wall_ns, agent_version, mode) = match live.spoke {
            _ if live.connected => (live.last_seen_wall_ns, live.agent_version, live.mode),
            Some(spoke) => (sampled_wall_ns.max(spoke.wall_ns), spoke.agent_version, spoke.mode),
            None => (sampled_wall_ns, String::new(), None),
        };
        let forecasts = pulse.map(|p| p.forecasts.as_slice()).unwrap_or_default();
        let mounts = sample.as_ref().map(|s| s.mounts.iter().map(|m| mount_row(m, forecasts)).collect());
        Ok(wire::NodeRow {
            state: match (live.connected, last_seen_wall_ns) {
                (true, _) => "connected",
                (false, 0) => "never-seen",
                (false, _) => "silent",
            }
            .to_owned(),
            last_seen_wall_ns,
            agent_version,
            mounts: mounts.unwrap_or_default(),
            mode: mode.map_or(0, |m| wire::CleanupMode::from(m).into()),
            unable: pulse.map(|p| p.unable.clone()).unwrap_or_default(),
            acting: pulse.map(|p| p.acting.clone()).unwrap_or_default(),
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
            nodes: vec![node.clone()],
            kinds: Kinds::default().with(Kind::Sample),
            streams: vec![Stream::Evidence],
            newest_first: true,
            limit: 1,
            ..EventQuery::default()
        };
        let kept: Kept = match self.store.events(query).recv().await {
            Some(Ok(event)) => match event.record.body {
                Body::Sample(sample) => Some((event.record.at.wall_ns, sample)),
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
}
