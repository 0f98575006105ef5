//! `watch`: what happens from now on, until the asker goes or the collector stops.
//!
//! One hub looks at what the store commits, reads each block once and each row once, and tells all watchers; it runs
//! while there is one. Each watcher chooses for itself and has a queue of its own.
//!
//! Invariants: a watcher is told everything that happens after its call was answered, in the order in which it was
//! committed, or told how many it missed. Nothing waits for a watcher: what its queue cannot hold is counted, and the
//! count goes out before anything later does.
//!
//! Limits: [`MAX_WATCHERS`], [`READY`] for each, [`HAPPENINGS`] between hub and watchers. Where the hub itself falls
//! behind the store, the count of what was missed is that of commits, chosen or not.

use std::sync::{Arc, Mutex, PoisonError};

use dogwatch::chain::ChainId;
use dogwatch::clock;
use dogwatch::identity::Role;
use dogwatch::record::{Body, Kind, Kinds, Record, Stream as RecordStream};
use dogwatch::wire;
use dogwatch::wire::watch_event::What as Told;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::messages::{event_message, incident_message};
use super::{Query, Rows};
use crate::incident::Incident;
use crate::sieve::Sieve;
use crate::store::decision::What;
use crate::store::row::{ActionRow, FindingRow};
use crate::store::{Notice, Store};

/// Watchers at once, a few hundred KB each at most.
pub(super) const MAX_WATCHERS: usize = 128;
/// Messages that are ready for one watcher.
const READY: usize = 256;
/// Happenings between the hub and a watcher that is choosing; each is at most a block's records.
const HAPPENINGS: usize = 64;

/// Something happened.
#[derive(Debug)]
enum Happening {
    Incident(Box<Incident>),
    Finding(Box<FindingRow>, wire::FindingRow),
    Action(Box<ActionRow>, wire::ActionRow, Option<Box<FindingRow>>),
    /// Records that are neither findings nor actions.
    Records(ChainId, Vec<Record>),
    Missed(u64),
}

/// The hub's place: empty while nobody watches.
#[derive(Debug, Clone)]
pub(super) struct Watching {
    hub: Arc<Mutex<Option<broadcast::Sender<Arc<Happening>>>>>,
    seats: Arc<Semaphore>,
}

impl Default for Watching {
    fn default() -> Self {
        Self { hub: Arc::default(), seats: Arc::new(Semaphore::new(MAX_WATCHERS)) }
    }
}

impl Watching {
    /// Watchers now.
    pub(super) fn watchers(&self) -> usize {
        MAX_WATCHERS - self.seats.available_permits()
    }

    fn leave(&self, hub: &broadcast::Sender<Arc<Happening>>) {
        let mut place = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        place.take_if(|p| p.same_channel(hub));
    }

    fn seat(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{MAX_WATCHERS} others watch already; ask again, or use `get`"
            ))
        })
    }
}

/// What one watcher wants.
struct Wish {
    incidents: bool,
    findings: bool,
    actions: bool,
    records: Kinds,
    sieve: Sieve,
}

impl Wish {
    fn named(names: &[String]) -> Result<Self, Status> {
        let mut wish = Self {
            incidents: names.is_empty(),
            findings: names.is_empty(),
            actions: names.is_empty(),
            records: Kinds::default(),
            sieve: Sieve::default(),
        };
        for name in names {
            match name.as_str() {
                "incident" => wish.incidents = true,
                "finding" => wish.findings = true,
                "action" => wish.actions = true,
                other => {
                    let kind: Kind = other.parse().map_err(|_| {
                        Status::invalid_argument(format!(
                            "kind {other:?}: must be incident, finding, action, sample, log, gap, note or file"
                        ))
                    })?;
                    wish.records = wish.records.with(kind);
                }
            }
        }
        Ok(wish)
    }
}

impl Query {
    pub(super) async fn watched(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Rows<wire::WatchEvent>, Status> {
        self.person(&request, Role::Viewer)?;
        let asked = request.into_inner();
        let mut wish = Wish::named(&asked.kinds)?;
        wish.sieve = self.sieve("", asked.selector, &asked.grep, String::new()).await?;
        let seat = self.watching.seat()?;
        let happenings = self.join_hub();
        let (sender, receiver) = mpsc::channel(READY);
        let desk = self.clone();
        tokio::spawn(async move {
            let _seat = seat;
            let mut line = Line { sender: sender.clone(), missed: 0 };
            tokio::select! {
                // The client is gone.
                () = sender.closed() => {}
                () = desk.stop.wait() => line.end("the collector is stopping; watch again in a moment").await,
                () = desk.tell(&wish, happenings, &mut line) => {
                    line.end("the store is closing; watch again in a moment").await;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    /// A seat in front of the hub, which is started if there is none.
    fn join_hub(&self) -> broadcast::Receiver<Arc<Happening>> {
        let mut hub = self.watching.hub.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = &*hub {
            return hub.subscribe();
        }
        let (sender, receiver) = broadcast::channel(HAPPENINGS);
        *hub = Some(sender.clone());
        // Before the call is answered, so that nothing after it is missed.
        let (notices, arrivals) = (self.store.committed(), self.store.arrivals());
        let desk = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = desk.stop.wait() => {}
                () = desk.look(&sender, notices, arrivals) => {}
            }
            desk.watching.leave(&sender);
        });
        receiver
    }

    /// Whether nobody watches any more; then the hub's place is empty at once, so that the next watcher starts another.
    fn deserted(&self, hub: &broadcast::Sender<Arc<Happening>>) -> bool {
        let mut place = self.watching.hub.lock().unwrap_or_else(PoisonError::into_inner);
        let deserted = hub.receiver_count() == 0;
        if deserted {
            // Another may have taken the place of one that was left behind.
            place.take_if(|p| p.same_channel(hub));
        }
        deserted
    }

    /// Looks at what is committed until the store closes or nobody watches.
    async fn look(
        &self,
        hub: &broadcast::Sender<Arc<Happening>>,
        mut notices: broadcast::Receiver<Notice>,
        mut arrivals: broadcast::Receiver<crate::store::Arrival>,
    ) {
        // Nobody listening is no error.
        let say = |h: Happening| drop(hub.send(Arc::new(h)));
        let bulk = Kinds::default().with(Kind::Sample).with(Kind::Log).with(Kind::Gap).with(Kind::Note);
        let mut look = tokio::time::interval(std::time::Duration::from_secs(1));
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                notice = notices.recv() => match notice {
                    Ok(Notice::Records { chain, records }) => self.urgent(&chain, &records, &say).await,
                    Ok(Notice::Decided(decision)) => self.decided(&decision.what, &say).await,
                    Err(RecvError::Lagged(n)) => say(Happening::Missed(n)),
                    Err(RecvError::Closed) => return,
                },
                arrival = arrivals.recv() => match arrival {
                    Ok(a) if a.stream() == RecordStream::Evidence => {
                        if let Some((chain, records)) = self.store.arrived(a, bulk).await {
                            say(Happening::Records(chain, records));
                        }
                    }
                    // The urgent stream is told once the index knows it; the recorder's holds the same lines again.
                    Ok(_) => {}
                    Err(RecvError::Lagged(n)) => say(Happening::Missed(n)),
                    Err(RecvError::Closed) => return,
                },
                _ = look.tick() => if self.deserted(hub) { return },
            }
        }
    }

    async fn urgent(&self, chain: &ChainId, records: &[Record], say: &impl Fn(Happening)) {
        let mut rest = Vec::new();
        for record in records {
            match &record.body {
                Body::Finding(f) => {
                    if let Ok(Some(row)) = self.store.finding_of(&chain.node, &f.id).await {
                        self.say_finding(row, say).await;
                    }
                }
                Body::Action(a) => {
                    let Ok(Some(row)) = self.store.action_of(&chain.node, &a.id).await else { continue };
                    let Ok(message) = self.action_with_incident(&row).await else { continue };
                    let finding = match &row.action.finding_id {
                        Some(id) => self.store.finding_of(&row.node, id).await.ok().flatten(),
                        None => None,
                    };
                    say(Happening::Action(Box::new(row), message, finding.map(Box::new)));
                }
                _ => rest.push(record.clone()),
            }
        }
        if !rest.is_empty() {
            say(Happening::Records(chain.clone(), rest));
        }
    }

    async fn decided(&self, what: &What, say: &impl Fn(Happening)) {
        match what {
            What::FindingSaid { node, finding, .. } => {
                let row = match node {
                    Some(node) => self.store.finding_of(node, &finding.id).await,
                    None => self.store.finding(&finding.id).await,
                };
                if let Ok(Some(row)) = row {
                    self.say_finding(row, say).await;
                }
            }
            What::IncidentOpened { id, .. }
            | What::IncidentJoined { id, .. }
            | What::IncidentSeverity { id, .. }
            | What::IncidentMoved { id, .. }
            | What::IncidentRetitled { id, .. }
            | What::NoteAdded { id, .. } => {
                if let Ok(Some(incident)) = self.store.incident(id).await {
                    say(Happening::Incident(Box::new(incident)));
                }
            }
            _ => {}
        }
    }

    async fn say_finding(&self, row: FindingRow, say: &impl Fn(Happening)) {
        if let Ok(message) = self.finding_with_incident(&row).await {
            say(Happening::Finding(Box::new(row), message));
        }
    }

    /// Tells one watcher what it wants, until the hub is gone.
    async fn tell(&self, wish: &Wish, mut happenings: broadcast::Receiver<Arc<Happening>>, line: &mut Line) {
        loop {
            let sender = line.sender.clone();
            tokio::select! {
                happening = happenings.recv() => match happening {
                    Ok(happening) => tell_one(&self.store, wish, &happening, line).await,
                    Err(RecvError::Lagged(n)) => line.miss(n),
                    Err(RecvError::Closed) => return,
                },
                // What was missed last is told even if nothing follows.
                room = sender.reserve(), if line.missed > 0 => match room {
                    Ok(room) => room.send(Ok(event(Told::Missed(std::mem::take(&mut line.missed))))),
                    Err(_) => return,
                },
            }
        }
    }
}

async fn tell_one(store: &Store, wish: &Wish, happening: &Happening, line: &mut Line) {
    let select = &wish.sieve.select;
    match happening {
        Happening::Missed(n) => line.miss(*n),
        Happening::Incident(i) if wish.incidents && store.chooses(select, i).await.unwrap_or(false) => {
            line.say(Told::Incident(incident_message(i)));
        }
        Happening::Finding(row, message)
            if wish.findings && select.finding(row.node.as_ref(), &row.finding) =>
        {
            line.say(Told::Finding(message.clone()));
        }
        Happening::Action(row, message, finding)
            if wish.actions
                && select.action(&row.node, &row.action, finding.as_ref().map(|f| &f.finding)) =>
        {
            line.say(Told::Action(message.clone()));
        }
        Happening::Records(chain, records) => {
            for record in records.iter().filter(|r| wish.records.contains(r.body.kind())) {
                if wish.sieve.passes(&chain.node, record, &|_| None) {
                    line.say(Told::Event(event_message(&chain.node, record)));
                }
            }
        }
        _ => {}
    }
}

/// The way to one watcher.
struct Line {
    sender: mpsc::Sender<Result<wire::WatchEvent, Status>>,
    missed: u64,
}

impl Line {
    fn miss(&mut self, n: u64) {
        self.missed += n;
        self.tell_missed();
    }

    fn say(&mut self, what: Told) {
        // A count must not be overtaken by what came after it.
        if !self.tell_missed() || self.sender.try_send(Ok(event(what))).is_err() {
            self.missed += 1;
        }
    }

    /// Whether nothing is left to tell of what was missed.
    fn tell_missed(&mut self) -> bool {
        if self.missed > 0 && self.sender.try_send(Ok(event(Told::Missed(self.missed)))).is_ok() {
            self.missed = 0;
        }
        self.missed == 0
    }

    async fn end(&self, why: &str) {
        // Whoever reads nothing until then sees the call end without these words.
        let status = Status::unavailable(why);
        let _ = self.sender.send_timeout(Err(status), std::time::Duration::from_secs(1)).await;
    }
}

fn event(what: Told) -> wire::WatchEvent {
    wire::WatchEvent { wall_ns: clock::wall_ns(), what: Some(what) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_watcher_is_told_how_many_it_missed_before_anything_later() {
        let (sender, mut receiver) = mpsc::channel(2);
        let mut line = Line { sender, missed: 0 };
        let note = |n: u64| Told::Event(wire::Event { message: n.to_string(), ..Default::default() });
        for n in 0..10 {
            line.say(note(n));
        }
        let mut next = || receiver.try_recv().unwrap().unwrap().what.unwrap();
        assert_eq!((next(), next()), (note(0), note(1)));
        line.say(note(10));
        let mut next = || receiver.try_recv().unwrap().unwrap().what.unwrap();
        assert_eq!((next(), next()), (Told::Missed(8), note(10)));
        assert_eq!(line.missed, 0);
    }

    #[test]
    fn kinds_are_rows_by_default_and_events_where_they_are_named() {
        let wish = Wish::named(&[]).unwrap();
        assert!(wish.incidents && wish.findings && wish.actions && wish.records == Kinds::default());
        let wish = Wish::named(&["log".to_owned(), "incident".to_owned()]).unwrap();
        assert!(wish.incidents && !wish.findings && wish.records.contains(Kind::Log));
        let wrong = Wish::named(&["logs".to_owned()]).err().unwrap();
        assert_eq!(wrong.code(), tonic::Code::InvalidArgument);
        assert!(wrong.message().contains("\"logs\""));
    }
}
