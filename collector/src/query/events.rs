//! `get events`, `logs` and samples: records by time, chosen where blocks are read, given out as they are found.
//!
//! Bounds: so many answers read blocks at once, each for a limited time of reading where it searches; what an answer with
//! a limit holds in memory is bounded in number and bytes, and an answer without one is streamed.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use dogwatch::record::{Body, Cpu, Kind, Kinds, NodeName, Stream as RecordStream};
use dogwatch::wire;
use futures_util::{Stream, StreamExt, stream};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::brake::the_one;
use super::choice::{kinds, node_filter, range};
use super::messages::event_message;
use super::{Query, Rows, refuse, stopping};
use crate::store::events::{Event, EventQuery};
use crate::wording;

/// Answers at once that read blocks: each may hold some hundred MiB of them. More wait their turn.
pub(super) const MAX_READING: usize = 8;
/// Events that a limited answer holds at most, for they are turned round in memory.
const MAX_NEWEST: usize = 100_000;
/// Bytes of them: with [`MAX_READING`] such answers, half a GiB.
const MAX_NEWEST_BYTES: usize = 64 << 20;
/// How long an answer that searches may read: it keeps a turn that others wait for.
const SEARCH_TIME: Duration = Duration::from_secs(60);
/// An asker that takes nothing for so long loses its turn.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Events that are ready for an asker.
const READY: usize = 64;
/// How long an answer waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// Samples of a node that are farther apart say nothing of the CPU between them.
const MAX_APART_NS: i64 = 300 * 1_000_000_000;
/// How far around what is known of an action its records are looked for: longer than any takes.
const AROUND_NS: i64 = 900 * 1_000_000_000;
/// Nodes whose last sample is remembered during an answer.
const MAX_BEFORE: usize = 10_000;

impl Query {
    pub(super) async fn event_rows(
        &self,
        asked: wire::GetEventsRequest,
    ) -> Result<Rows<wire::Event>, Status> {
        let (since, until) = range(asked.range);
        let sieve = self.sieve(&asked.node, asked.selector, &asked.grep, asked.source).await?;
        let query = EventQuery {
            since_wall_ns: since.unwrap_or(i64::MIN),
            until_wall_ns: until.unwrap_or(i64::MAX),
            nodes: sieve.select.nodes.clone(),
            kinds: kinds(&asked.kinds)?,
            most_time: (!sieve.is_open_within_nodes()).then_some(SEARCH_TIME),
            sieve,
            ..EventQuery::default()
        };
        let mut before = Before::default();
        self.by_time(query, asked.limit, move |e| Some(before.message(&e))).await
    }

    pub(super) async fn sample_rows(
        &self,
        asked: wire::GetSamplesRequest,
    ) -> Result<Rows<wire::SampleRow>, Status> {
        if asked.node.is_empty() {
            return Err(Status::invalid_argument("samples are of one node; name it"));
        }
        let (since, until) = range(asked.range);
        let sieve = self.sieve(&asked.node, None, "", String::new()).await?;
        let query = EventQuery {
            since_wall_ns: since.unwrap_or(i64::MIN),
            until_wall_ns: until.unwrap_or(i64::MAX),
            nodes: sieve.select.nodes,
            kinds: Kinds::default().with(Kind::Sample),
            streams: vec![RecordStream::Evidence],
            ..EventQuery::default()
        };
        let row = |e: Event| match e.record.body {
            Body::Sample(s) => Some(wire::SampleRow {
                node: e.chain.node.to_string(),
                wall_ns: e.record.at.wall_ns,
                sample: Some(wire::Sample::from(&*s)),
            }),
            _ => None,
        };
        self.by_time(query, asked.limit, row).await
    }

    /// What was kept of what an action removed, in the order in which it was.
    pub(super) async fn preserved(
        &self,
        asked: wire::GetPreservedRequest,
    ) -> Result<Rows<wire::FileSeen>, Status> {
        let node = match self.known(node_filter(&asked.node)?).await? {
            Some(node) => node,
            None => {
                the_one(&self.store.nodes_of_action(&asked.action).await.map_err(refuse)?, &asked.action)?
            }
        };
        let row = self.store.action_of(&node, &asked.action).await.map_err(refuse)?;
        let Some(steps) = row.map(|row| row.steps).filter(|steps| !steps.is_empty()) else {
            return Err(Status::not_found(format!(
                "there is no action {} of {node}; `dogwatch get actions` lists them",
                asked.action
            )));
        };
        let times = steps.iter().map(|s| s.wall_ns);
        let first = times.clone().min().unwrap_or(i64::MIN);
        // An agent that died in the midst of it says so at its next start, or never.
        let last = times.max().unwrap_or(i64::MAX);
        let query = EventQuery {
            since_wall_ns: first.saturating_sub(AROUND_NS),
            until_wall_ns: last.saturating_add(AROUND_NS),
            nodes: vec![node],
            kinds: Kinds::default().with(Kind::File),
            streams: vec![RecordStream::Urgent, RecordStream::Evidence],
            ..EventQuery::default()
        };
        let row = move |e: Event| match e.record.body {
            Body::File(f) if f.cause == asked.action => {
                let wanted = |path: &std::path::Path| asked.path == path.as_os_str().as_bytes();
                let node = e.chain.node.to_string();
                (f.content.as_ref().is_none_or(|c| wanted(&c.path)))
                    .then(|| wire::FileSeen { node, ..wire::FileSeen::from(&*f) })
            }
            _ => None,
        };
        self.by_time(query, 0, row).await
    }

    /// Answers in the order of time; with a limit, the newest.
    async fn by_time<T: prost::Message + 'static>(
        &self,
        query: EventQuery,
        limit: u32,
        mut row: impl FnMut(Event) -> Option<T> + Send + 'static,
    ) -> Result<Rows<T>, Status> {
        let turn = self.turn().await?;
        if limit == 0 {
            let rows = ReceiverStream::new(self.store.events(query));
            let rows = rows.filter_map(move |e| {
                std::future::ready(match e {
                    Ok(event) => row(event).map(Ok),
                    Err(e) => Some(Err(refuse(e))),
                })
            });
            return Ok(read_out(rows, turn));
        }
        let query = EventQuery { newest_first: true, limit: (limit as usize).min(MAX_NEWEST), ..query };
        let mut events = self.store.events(query);
        let (mut newest, mut bytes, mut end) = (Vec::new(), 0, None);
        while let Some(event) = events.recv().await {
            match event {
                Ok(event) => {
                    bytes += weight(&event);
                    newest.push(event);
                }
                Err(e) => end = Some(Err(refuse(e))),
            }
            if bytes > MAX_NEWEST_BYTES {
                let held = newest.len();
                end = Some(Err(Status::invalid_argument(format!(
                    "the newest {held} have more than {} MiB already; ask for fewer, or for a range of time without a limit",
                    MAX_NEWEST_BYTES >> 20
                ))));
                break;
            }
        }
        // What was found is told before what went wrong.
        let rows = newest.into_iter().rev().filter_map(move |e| row(e).map(Ok)).chain(end);
        Ok(read_out(stream::iter(rows), turn))
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
}

/// About what an event takes in memory.
fn weight(event: &Event) -> usize {
    const FIXED: usize = 512;
    FIXED
        + match &event.record.body {
            Body::Log(l) => l.line.len() + l.source.len(),
            Body::Sample(s) => wire::Sample::from(&**s).encoded_len() * 2,
            Body::Action(a) => (a.objects.len() + a.refused.len()) * FIXED,
            Body::Finding(f) => f.explanation.len() + f.facts.len() * 64,
            Body::File(f) => f.objects.len() * FIXED + f.content.as_ref().map_or(0, |c| c.zstd.len()),
            Body::Gap(_) | Body::Note(_) => 0,
        }
}

/// The sample before, of each node: what its CPUs did since can be told.
#[derive(Default)]
struct Before(HashMap<NodeName, (i64, Cpu)>);

impl Before {
    fn message(&mut self, event: &Event) -> wire::Event {
        let mut message = event_message(&event.chain.node, &event.record);
        if let Body::Sample(sample) = &event.record.body
            && let Some(cpu) = &sample.cpu
        {
            let (node, at) = (&event.chain.node, event.record.at.wall_ns);
            let known = self.0.get(node).filter(|(t, _)| (1..MAX_APART_NS).contains(&(at - t)));
            if let Some(percent) = known.and_then(|(_, before)| wording::busy_percent(before, cpu)) {
                message.fields.insert("cpu_percent".to_owned(), format!("{percent:.1}"));
                message.message = format!("cpu {percent:.0} %, {}", message.message);
            }
            if self.0.len() < MAX_BEFORE || self.0.contains_key(node) {
                self.0.insert(node.clone(), (at, cpu.clone()));
            }
        }
        message
    }
}

pub(super) fn rows_of<T: Send + 'static>(rows: Vec<T>) -> Rows<T> {
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
        loop {
            let row = tokio::select! {
                // A search that finds nothing more must not go on for somebody who left.
                () = sender.closed() => return,
                row = rows.next() => row,
            };
            let Some(row) = row else { break };
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
