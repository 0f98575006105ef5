//! `get incidents`, `get findings`, `get actions`, one incident and its timeline: rows of the store as messages.

use dogwatch::record::NodeName;
use dogwatch::wire;
use tonic::Status;

use super::choice::{ids, node_filter, range};
use super::messages::{action_message, entry_message, finding_message, incident_message, piece_words};
use super::{Query, refuse};
use crate::incident::{Incident, IncidentState};
use crate::store::decision::Piece;
use crate::store::row::{ActionRow, FindingRow};
use crate::store::{ActionFilter, FindingFilter, IncidentFilter};
use crate::timeline;

/// Rows of one answer where the asker sets no limit.
const DEFAULT_LIMIT: usize = 10_000;

impl Query {
    pub(super) async fn incident_rows(
        &self,
        asked: wire::GetIncidentsRequest,
    ) -> Result<Vec<wire::Incident>, Status> {
        let (since_wall_ns, until_wall_ns) = range(asked.range);
        let states: Result<Vec<IncidentState>, Status> = asked.states.iter().map(|s| state(s)).collect();
        let filter = IncidentFilter {
            ids: ids(asked.ids)?,
            since_wall_ns,
            until_wall_ns,
            states: states?,
            node: self.known(node_filter(&asked.node)?).await?,
            select: self.select(asked.selector).await?,
            limit: limit(asked.limit),
        };
        let rows = self.store.incidents(filter).await.map_err(refuse)?;
        Ok(rows.iter().map(incident_message).collect())
    }

    pub(super) async fn finding_rows(
        &self,
        asked: wire::GetFindingsRequest,
    ) -> Result<Vec<wire::FindingRow>, Status> {
        let (since_wall_ns, until_wall_ns) = range(asked.range);
        let filter = FindingFilter {
            ids: ids(asked.ids)?,
            since_wall_ns,
            until_wall_ns,
            node: self.known(node_filter(&asked.node)?).await?,
            active_only: asked.active_only,
            from_collector: false,
            select: self.select(asked.selector).await?,
            limit: limit(asked.limit),
        };
        let rows = self.store.findings(filter).await.map_err(refuse)?;
        let mut out = Vec::with_capacity(rows.len());
        for row in &rows {
            out.push(self.finding_with_incident(row).await?);
        }
        Ok(out)
    }

    pub(super) async fn action_rows(
        &self,
        asked: wire::GetActionsRequest,
    ) -> Result<Vec<wire::ActionRow>, Status> {
        let (since_wall_ns, until_wall_ns) = range(asked.range);
        let filter = ActionFilter {
            ids: ids(asked.ids)?,
            since_wall_ns,
            until_wall_ns,
            node: self.known(node_filter(&asked.node)?).await?,
            select: self.select(asked.selector).await?,
            limit: limit(asked.limit),
        };
        let rows = self.store.actions(filter).await.map_err(refuse)?;
        let mut out = Vec::with_capacity(rows.len());
        for row in &rows {
            out.push(self.action_with_incident(row).await?);
        }
        Ok(out)
    }

    pub(super) async fn finding_with_incident(&self, row: &FindingRow) -> Result<wire::FindingRow, Status> {
        let piece = Piece::Finding(row.finding.id.clone());
        let incident = match &row.node {
            Some(node) => self.incident_of(&piece, node).await?,
            None => None,
        };
        Ok(finding_message(row, incident))
    }

    pub(super) async fn action_with_incident(&self, row: &ActionRow) -> Result<wire::ActionRow, Status> {
        let piece = Piece::Action(row.action.id.clone());
        Ok(action_message(row, self.incident_of(&piece, &row.node).await?))
    }

    async fn incident_of(&self, piece: &Piece, node: &NodeName) -> Result<Option<String>, Status> {
        self.store.incident_of(piece, node).await.map_err(refuse)
    }

    pub(super) async fn incident_detail(&self, id: &str) -> Result<wire::IncidentDetail, Status> {
        let (incident, findings, actions) = self.whole_incident(id).await?;
        let entries = timeline::timeline(&incident, &findings, &actions);
        let belongs = incident
            .pieces
            .iter()
            .map(|j| format!("{} of {}: {}", piece_words(&j.piece), j.node, j.reason))
            .collect();
        Ok(wire::IncidentDetail {
            findings: findings.iter().map(|r| finding_message(r, Some(incident.id.clone()))).collect(),
            actions: actions.iter().map(|r| action_message(r, Some(incident.id.clone()))).collect(),
            timeline: entries.iter().map(entry_message).collect(),
            belongs,
            incident: Some(incident_message(&incident)),
        })
    }

    pub(super) async fn timeline_rows(&self, id: &str) -> Result<Vec<wire::TimelineEntry>, Status> {
        let (incident, findings, actions) = self.whole_incident(id).await?;
        Ok(timeline::timeline(&incident, &findings, &actions).iter().map(entry_message).collect())
    }

    async fn whole_incident(&self, id: &str) -> Result<(Incident, Vec<FindingRow>, Vec<ActionRow>), Status> {
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

fn limit(asked: u32) -> usize {
    if asked == 0 { DEFAULT_LIMIT } else { asked as usize }
}

fn state(word: &str) -> Result<IncidentState, Status> {
    [IncidentState::Open, IncidentState::Acknowledged, IncidentState::Resolved]
        .into_iter()
        .find(|s| s.as_str() == word)
        .ok_or_else(|| {
            Status::invalid_argument(format!("state {word:?}: must be open, acknowledged or resolved"))
        })
}
