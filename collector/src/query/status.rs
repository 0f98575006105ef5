//! `status`: gathers the figures of how dogwatch itself is; [`crate::condition`] judges them.

use std::collections::BTreeMap;

use dogwatch::clock;
use dogwatch::record::{Body, Kind, Kinds, Stream};
use dogwatch::tls::ServerTls;
use dogwatch::wire;
use tonic::Status;

use super::messages::severity;
use super::{Query, refuse};
use crate::condition::{Decisions, Facts, Index, Journal, Loss, Node, judge};
use crate::nodes::Live;
use crate::store::events::EventQuery;
use crate::store::{FindingFilter, QueryError};

/// Gaps are counted as far back as this.
const GAPS_BACK_NS: i64 = 3_600 * 1_000_000_000;
/// Gaps that are counted at most.
const MAX_GAPS: usize = 20_000;
/// Pieces without an incident that are counted at most.
const MAX_LOOSE: usize = 1_000;
/// How long gaps are searched for.
const SEARCH_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// The collector's own certificates.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// What is shown.
    pub tls: ServerTls,
    /// When the built-in CA ends, wall ns; `None` with an external one.
    pub ca_ends_wall_ns: Option<i64>,
}

impl Query {
    pub(super) async fn status_answer(&self) -> Result<wire::GetStatusResponse, Status> {
        let checks = judge(&self.facts().await?);
        let check = |c: crate::condition::Check| wire::StatusCheck {
            severity: severity(c.severity),
            subject: c.subject,
            name: c.name.to_owned(),
            words: c.words,
            remedy: c.remedy,
        };
        Ok(wire::GetStatusResponse {
            collector_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_wall_ns: self.started_wall_ns,
            checks: checks.into_iter().map(check).collect(),
        })
    }

    async fn facts(&self) -> Result<Facts, Status> {
        let status = self.store.status();
        let journal = |(stream, s): (Stream, &crate::store::Stats)| Journal {
            stream: stream.as_str(),
            used_bytes: s.used_bytes,
            max_bytes: s.max_bytes,
            free_bytes: s.free_bytes,
            reserve_bytes: s.reserve_free_bytes,
            refusing: s.refusing.clone().filter(|_| !s.accepting),
            turned_away: s.aside_turned_away,
        };
        let mut facts = Facts {
            now_wall_ns: clock::wall_ns(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            journals: Stream::ALL.into_iter().zip(&status.streams).map(journal).collect(),
            truth: Decisions {
                failing: status.truth.failing,
                used_bytes: status.truth.used_bytes,
                max_bytes: status.truth.max_bytes,
            },
            index: Index {
                ready: status.index.ready,
                rebuilds: status.index.rebuilds,
                reason: status.index.reason.clone(),
                fallback: status.index.fallback,
                lag_s: status.index.lag.as_secs(),
                odd_frames: status.index.odd_frames,
            },
            certificate_ends_wall_ns: self.certificates.tls.shown().not_after_wall_ns,
            ca_ends_wall_ns: self.certificates.ca_ends_wall_ns,
            backlog: self.backlog(),
            brake: self.stopped(),
            ..Facts::default()
        };
        self.gather_gaps(&mut facts).await?;
        if !status.index.ready {
            // How it is must be told also, and just then, when questions cannot be answered; nodes come without what
            // only the index knows.
            facts.nodes = self.nodes.all().into_iter().map(|(n, l)| node(n.to_string(), &l, 0)).collect();
            return Ok(facts);
        }
        self.gather_refusals(&mut facts).await?;
        facts.loose = self.store.loose_count(MAX_LOOSE).await.map_err(refuse)?;
        for row in
            self.nodes_answer(wire::GetNodesRequest { cached: true, ..Default::default() }).await?.nodes
        {
            let live = row.name.parse().ok().and_then(|n| self.nodes.get(&n)).unwrap_or_default();
            let mut node = node(row.name, &live, row.last_seen_wall_ns);
            node.version = row.agent_version;
            facts.nodes.push(node);
        }
        Ok(facts)
    }

    async fn gather_refusals(&self, facts: &mut Facts) -> Result<(), Status> {
        let filter = FindingFilter { active_only: true, from_collector: true, ..FindingFilter::default() };
        let mut by_rule: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let rows = self.store.findings(filter).await.map_err(refuse)?;
        for row in rows.into_iter().filter(|r| r.finding.rule.starts_with("refused-")) {
            let (callers, times) = by_rule.entry(row.finding.rule).or_default();
            *callers += 1;
            *times += row.count;
        }
        facts.refusals = by_rule.into_iter().map(|(rule, (callers, times))| (rule, callers, times)).collect();
        Ok(())
    }

    async fn gather_gaps(&self, facts: &mut Facts) -> Result<(), Status> {
        let mut gaps = self.store.events(EventQuery {
            since_wall_ns: facts.now_wall_ns.saturating_sub(GAPS_BACK_NS),
            kinds: Kinds::default().with(Kind::Gap),
            streams: vec![Stream::Urgent],
            newest_first: true,
            limit: MAX_GAPS,
            most_time: Some(SEARCH_TIME),
            ..EventQuery::default()
        });
        let mut losses: BTreeMap<(String, &'static str), Loss> = BTreeMap::new();
        let mut seen = 0;
        while let Some(event) = gaps.recv().await {
            match event {
                Ok(event) => {
                    let Body::Gap(gap) = event.record.body else { continue };
                    seen += 1;
                    let class = gap.class();
                    let node = event.chain.node.to_string();
                    let loss = losses.entry((node.clone(), class)).or_insert_with(|| Loss {
                        node,
                        class,
                        example: format!("{}: {}", gap.source, gap.reason),
                        ..Loss::default()
                    });
                    loss.gaps += 1;
                    loss.records = loss.records.saturating_add(gap.count.unwrap_or(0));
                }
                Err(QueryError::TooBroad { .. }) => facts.more_gaps = true,
                Err(e) => return Err(refuse(e)),
            }
        }
        facts.more_gaps |= seen >= MAX_GAPS;
        facts.gaps = losses.into_values().collect();
        Ok(())
    }
}

fn node(name: String, live: &Live, last_seen_wall_ns: i64) -> Node {
    let pulse = live.pulse.as_deref().filter(|_| live.connected);
    let cost = pulse.and_then(|p| p.sample.as_ref()).and_then(|s| s.self_cost.as_ref());
    Node {
        name,
        connected: live.connected,
        last_seen_wall_ns: last_seen_wall_ns.max(live.last_seen_wall_ns),
        version: live.agent_version.clone(),
        unable: pulse.map(|p| p.unable.clone()).unwrap_or_default(),
        clock_ahead_ns: live.clock_ahead_ns,
        certificate_ends_wall_ns: live.certificate_ends_wall_ns,
        lag_records: pulse.map_or(0, |p| p.uplink_lag_records),
        saving: cost.is_some_and(|c| c.saving),
    }
}
