//! The writer: the one thread that seals, appends and syncs, and what it does when the disk does not follow.
//!
//! It goes round one loop: acknowledgements in, urgent records first, then what is due of the others, then signed heads.
//! A failed write is tried again for ever, with the same sealed bytes; meanwhile the queue's bounds decide what gives way.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use dogwatch::block::SEAL_BYTES;
use dogwatch::clock;
use dogwatch::journal::JournalError;
use dogwatch::record::{Body, Gap, Incarnation, Kind, Record, Seq, Stream};
use ed25519_dalek::SigningKey;

use super::lane::{Eviction, Lane};
use super::losses::Span;
use super::telling::Telling;
use super::{RING_FULL, SEAL_AFTER, Shared};

/// How often the rings are measured, for metrics: one of a TiB has a million segments.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// Chain heads are signed at least this often while the chain moves.
const SIGN_EVERY: Duration = Duration::from_secs(10);
/// A block that is not urgent takes its chain's signature along, at most this often: each by itself would wake the disk
/// twice.
const SIGN_ALONG: Duration = Duration::from_secs(1);
/// What has waited for so long is sealed with the other stream's block, for the same reason.
const SEAL_ALONG: Duration = Duration::from_secs(5);
/// After a failed write, the disk is tried again this much later.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Sealed urgent blocks that wait for a failing disk; beyond it records wait unsealed, where the queue bounds them.
const MAX_UNSYNCED_BYTES: usize = 2 * 1024 * 1024;
/// Records that one block holds at most.
const MAX_RECORDS_PER_BLOCK: usize = 20_000;
/// Blocks set aside that are kept; the oldest goes first.
const MAX_ASIDE: usize = 16;
/// Times that a run of bulk yields to urgent records before it is written all the same: a flood of them must not keep
/// the rest in memory.
const URGENT_FIRST: u32 = 16;

/// The streams that are not urgent.
const BULK: [Stream; 2] = [Stream::Evidence, Stream::Recorder];

/// How a turn writes them.
#[derive(Debug, Clone, Copy)]
struct Bulk {
    /// Everything, due or not.
    all: bool,
    /// Also what has waited for [`SEAL_ALONG`]: the disk is woken for the other stream anyway.
    along: bool,
    /// Each block with the signed statement of where its chain stands.
    sign: bool,
}

/// The writer; its [`Writer::run`] is a thread's whole life.
#[derive(Debug)]
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) lanes: [Lane; 3],
    pub(super) key: SigningKey,
    pub(super) entropy: fn() -> [u8; 16],
    pub(super) aside_dir: PathBuf,
    /// When the rings were measured last.
    pub(super) measured: Option<Instant>,
    /// Whether the last that a ring held of an earlier run was given up: what is not told of that now, nobody finds after a
    /// kill, since no block is left that follows the hole.
    pub(super) tell_now: bool,
}

impl Writer {
    /// Seals, writes and syncs until [`Recorder::stop`].
    ///
    /// # Errors
    /// Only when closing the journals fails at the end; a failing disk is tried again for ever.
    pub fn run(mut self) -> Result<(), String> {
        let (mut signed_at, mut signed_along_at) = (Instant::now(), Instant::now());
        let mut telling = Telling::new(Instant::now());
        let mut retry_at: Option<Instant> = None;
        loop {
            let stopping = self.wait(retry_at, signed_at, telling.next);
            self.settle_acks();
            let (mut found_urgent, mut failed) = self.write_urgent();
            let bulk = Bulk {
                all: stopping,
                along: self.shared.lock().bulk_is_due(clock::now().boot_ns),
                sign: signed_along_at.elapsed() >= SIGN_ALONG,
            };
            let news = self.bulk_news();
            for i in 1..3 {
                if let Err(e) = self.write_bulk(i, bulk, &mut found_urgent) {
                    failed.get_or_insert(e);
                }
            }
            let now = Instant::now();
            if bulk.sign && self.bulk_news() > news {
                signed_along_at = now;
            }
            if found_urgent || stopping || now.duration_since(signed_at) >= SIGN_EVERY {
                // Each for itself: one journal that fails must not leave the others unsigned.
                for lane in &mut self.lanes {
                    if let Err(e) = lane.sign(&self.key, clock::wall_ns()) {
                        failed.get_or_insert(e.to_string());
                    }
                }
                signed_at = now;
            }
            self.publish();
            retry_at = failed.as_ref().map(|_| now + RETRY_AFTER);
            self.note_failure(failed.clone());
            if failed.is_none() && (stopping || self.tell_now || now >= telling.next) {
                self.tell_now = false;
                let gaps = self.shared.lock().queue.tell_losses(clock::now());
                telling.told(now, gaps, self.lanes[0].pressure());
            }
            if stopping {
                let mut state = self.shared.lock();
                let drained =
                    Stream::ALL.iter().all(|s| state.queue.bytes(*s) == 0) && !state.queue.has_losses();
                if drained || failed.is_some() {
                    state.failing.get_or_insert("the agent is stopping".to_owned());
                    break;
                }
            }
        }
        let mut result = Ok(());
        for lane in self.lanes {
            let stream = lane.stream;
            if let Err(e) = lane.close() {
                result = Err(format!("closing the {stream} journal: {e}"));
            }
        }
        result
    }

    /// Sleeps until there is something to do; says whether it is time to stop.
    fn wait(&self, retry_at: Option<Instant>, signed_at: Instant, tell_at: Instant) -> bool {
        let mut state = self.shared.lock();
        loop {
            if state.stop {
                return true;
            }
            let now = Instant::now();
            let backing_off = retry_at.is_some_and(|t| t > now);
            let unsynced = self.lanes.iter().any(Lane::has_unsynced);
            let bulk_full = BULK.into_iter().any(|s| state.queue.bytes(s) >= SEAL_BYTES);
            let tell = state.queue.has_losses();
            let ready =
                state.queue.bytes(Stream::Urgent) > 0 || bulk_full || unsynced || (tell && tell_at <= now);
            if !backing_off && (ready || !state.acks.is_empty() || !state.aside.is_empty()) {
                return false;
            }
            let boot = clock::now().boot_ns;
            let due = BULK.into_iter().filter_map(|s| state.due_in(s, boot)).min().unwrap_or(SEAL_AFTER);
            let mut left = due;
            if self.lanes.iter().any(Lane::is_unsigned) {
                left = left.min(SIGN_EVERY.saturating_sub(signed_at.elapsed()));
            }
            if tell {
                left = left.min(tell_at.saturating_duration_since(now));
            }
            if let Some(t) = retry_at.filter(|_| backing_off) {
                left = t.saturating_duration_since(now);
            }
            if left.is_zero() {
                return false;
            }
            state = self.shared.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn settle_acks(&mut self) {
        let mut state = self.shared.lock();
        let (acks, aside) = (std::mem::take(&mut state.acks), std::mem::take(&mut state.aside));
        drop(state);
        let wall_ns = clock::wall_ns();
        for (stream, incarnation, seq, receipt) in acks {
            self.lanes[stream.index()].acknowledge(incarnation, seq, receipt, wall_ns);
        }
        for (stream, incarnation, first, last, reason) in aside {
            self.put_aside(stream, incarnation, first, last, &reason);
        }
    }

    fn put_aside(&mut self, stream: Stream, incarnation: Incarnation, first: Seq, last: Seq, reason: &str) {
        let lane = &self.lanes[stream.index()];
        let found = lane
            .unacked()
            .iter()
            .find(|u| u.incarnation == incarnation && u.first_seq == first && u.last_seq == last)
            .cloned();
        let kept = found
            .as_ref()
            .and_then(|u| lane.read(u.at))
            .and_then(|bytes| self.keep_file(stream, first, &bytes).ok());
        let now = clock::now();
        let gap = Gap {
            stream,
            source: "uplink".to_owned(),
            after_seq: Some(first.saturating_sub(1)),
            before_seq: Some(last.saturating_add(1)),
            count: Some(last.saturating_add(1).saturating_sub(first)),
            from_wall_ns: found.as_ref().map_or(now.wall_ns, |u| u.first_wall_ns),
            to_wall_ns: found.as_ref().map_or(now.wall_ns, |u| u.last_wall_ns),
            reason: match kept {
                Some(path) => {
                    format!("the collector refused the block: {reason}; it is kept in {}", path.display())
                }
                None => format!("the collector refused the block: {reason}; it could not be kept aside"),
            },
            incarnation: Some(incarnation),
        };
        self.shared.lock().queue.push(Stream::Urgent, now, Body::Gap(gap));
        self.lanes[stream.index()].let_go(incarnation, first, last);
    }

    fn keep_file(&self, stream: Stream, first: Seq, bytes: &[u8]) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(&self.aside_dir)?;
        let mut old: Vec<PathBuf> = std::fs::read_dir(&self.aside_dir)?.flatten().map(|e| e.path()).collect();
        old.sort();
        while old.len() >= MAX_ASIDE {
            std::fs::remove_file(old.remove(0))?;
        }
        let path = self.aside_dir.join(format!("{:020}-{stream}-{first}.block", clock::wall_ns()));
        if let Err(e) = std::fs::write(&path, bytes) {
            // A part of it would take the room that is missing.
            let _ = std::fs::remove_file(&path);
            return Err(e);
        }
        Ok(path)
    }

    /// Seals and writes everything urgent. Returns whether a finding or an action was among it, and what failed.
    fn write_urgent(&mut self) -> (bool, Option<String>) {
        let mut important = false;
        loop {
            // Sealed blocks are held beyond the queue's bound, so a disk that fails must not draw the queue empty.
            if self.lanes[0].unsynced_bytes() > MAX_UNSYNCED_BYTES
                && let Err(e) = self.lanes[0].flush(clock::wall_ns())
            {
                return (important, Some(e.to_string()));
            }
            let run = {
                let mut state = self.shared.lock();
                let run = state.queue.take_run(Stream::Urgent, SEAL_BYTES, MAX_RECORDS_PER_BLOCK);
                // Here every gap comes by, whoever found it.
                for record in &run {
                    if let Body::Gap(gap) = &record.body {
                        *state.stats.gaps.entry(gap.class()).or_default() += 1;
                    }
                }
                run
            };
            if run.is_empty() {
                break;
            }
            important |= run.iter().any(|r| matches!(r.body.kind(), Kind::Finding | Kind::Action));
            self.seal(0, run);
        }
        if !self.lanes[0].has_unsynced() {
            return (important, None);
        }
        match self.lanes[0].flush(clock::wall_ns()) {
            Ok(()) => {
                let durable = self.lanes[0].head().last_seq;
                self.shared.lock().durable_urgent = durable;
                self.shared.settled.notify_all();
                (important, None)
            }
            Err(e) => (important, Some(e.to_string())),
        }
    }

    /// Blocks and signed heads of the other streams that became durable.
    fn bulk_news(&self) -> u64 {
        self.lanes[1..].iter().map(Lane::news).sum()
    }

    /// Seals and writes one of the other streams, as far as it is due. Urgent records that come meanwhile go first: bulk
    /// that is always due must not delay them, and a gap is durable before the lines that were handed on after it, for
    /// those are what a restart goes on from. `important`: whether a finding or an action was among them.
    fn write_bulk(&mut self, i: usize, bulk: Bulk, important: &mut bool) -> Result<(), String> {
        let stream = Stream::ALL[i];
        let mut yields_left = URGENT_FIRST;
        loop {
            // What is sealed already goes first; sealing more would only make memory grow.
            if self.lanes[i].has_unsynced() {
                self.flush_making_room(i, bulk.sign)?;
            }
            let run = {
                let mut state = self.shared.lock();
                let may_wait = if bulk.along { SEAL_AFTER - SEAL_ALONG } else { Duration::ZERO };
                let waited = state.due_in(stream, clock::now().boot_ns).is_some_and(|left| left <= may_wait);
                let due = bulk.all || state.queue.bytes(stream) >= SEAL_BYTES || waited;
                if !due {
                    return Ok(());
                }
                if yields_left > 0 && state.queue.bytes(Stream::Urgent) > 0 {
                    yields_left -= 1;
                    drop(state);
                    let (found, failed) = self.write_urgent();
                    *important |= found;
                    if failed.is_some() {
                        // A ring of urgent records that is full must not keep the others from being written.
                        yields_left = 0;
                    }
                    continue;
                }
                yields_left = URGENT_FIRST.min(yields_left + 1);
                let run = state.queue.take_run(stream, SEAL_BYTES, MAX_RECORDS_PER_BLOCK);
                if stream == Stream::Evidence && state.queue.bytes(stream) == 0 {
                    state.cited_boot_ns = None;
                }
                run
            };
            if run.is_empty() {
                return Ok(());
            }
            self.seal(i, run);
        }
    }

    fn flush_making_room(&mut self, i: usize, sign: bool) -> Result<(), String> {
        loop {
            let now_ns = clock::wall_ns();
            let lane = &mut self.lanes[i];
            let flushed = if sign { lane.flush_signed(&self.key, now_ns) } else { lane.flush(now_ns) };
            match flushed {
                Ok(()) => return Ok(()),
                Err(e @ JournalError::Full { .. }) => {
                    let gone = self.lanes[i].evict_oldest_segment();
                    if gone.blocks.is_empty() {
                        return Err(e.to_string());
                    }
                    self.note_evicted(Stream::ALL[i], gone);
                }
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// Counts what a ring gave up as losses, which are told as soon as there is room for it.
    pub(super) fn note_evicted(&mut self, stream: Stream, gone: Eviction) {
        let unacked = self.lanes[stream.index()].unacked();
        let ended = |run: &Incarnation| {
            *run != self.shared.incarnation && unacked.front().is_none_or(|u| u.incarnation != *run)
        };
        self.tell_now |= gone.runs.iter().any(|(run, ..)| ended(run));
        let mut state = self.shared.lock();
        for (incarnation, first, last) in gone.runs {
            state.given_up[stream.index()].note(incarnation, first, last);
        }
        for block in gone.blocks {
            let span = Span {
                seqs: Some((block.first_seq, block.last_seq)),
                from_wall_ns: block.from_wall_ns,
                to_wall_ns: block.to_wall_ns,
            };
            let mut sources = block.sources;
            if sources.is_empty() {
                let count = block.last_seq.saturating_add(1).saturating_sub(block.first_seq);
                sources.push(("journal".to_owned(), count));
            }
            for (source, count) in sources {
                state.queue.gave_up(stream, block.incarnation, source, RING_FULL, span, count);
            }
        }
    }

    /// Seals a run, in halves while it is over a block's size; a single record that is, is given up and told.
    fn seal(&mut self, i: usize, run: Vec<Record>) {
        let entropy = self.entropy;
        let mut waiting = vec![run];
        while let Some(mut run) = waiting.pop() {
            if let Err(e) = self.lanes[i].seal(&run, &mut || entropy()) {
                if run.len() > 1 {
                    let tail = run.split_off(run.len() / 2);
                    waiting.push(tail);
                    waiting.push(run);
                    continue;
                }
                tracing::error!(stream = %Stream::ALL[i], error = %e, "a record cannot be sealed and is given up");
                let mut state = self.shared.lock();
                state.queue.give_up(Stream::ALL[i], &run, "the record does not fit a block");
                let awaited = |r: &&Record| i == 0 || r.body.kind() == Kind::File;
                let seqs: Vec<Seq> = run.iter().filter(awaited).map(|r| r.seq).collect();
                state.note_lost(Stream::ALL[i], &seqs);
                self.shared.settled.notify_all();
            }
        }
    }

    fn note_failure(&self, failed: Option<String>) {
        let mut state = self.shared.lock();
        match (&state.failing, &failed) {
            (None, Some(error)) => {
                tracing::error!(error, "the journal cannot be written; records wait in memory")
            }
            (Some(_), None) => tracing::info!("the journal can be written again"),
            _ => {}
        }
        state.failing = failed;
    }

    /// Tells others what is durable and what is kept.
    pub(super) fn publish(&mut self) {
        // Reckoned before the lock is taken: whoever records must not wait for it.
        let kept = self.lanes.each_mut().map(Lane::take_kept);
        let pressure = self.lanes[Stream::Evidence.index()].pressure();
        let measure = self.measured.is_none_or(|at| at.elapsed() >= MEASURE_EVERY);
        let rings = measure.then(|| self.lanes.each_ref().map(Lane::ring_bytes));
        if measure {
            self.measured = Some(Instant::now());
        }
        let mut durable = [0; 3];
        let mut state = self.shared.lock();
        for (i, (lane, kept)) in self.lanes.iter().zip(kept).enumerate() {
            let behind = if lane.has_unsynced() { state.stats.durable_seq[i] } else { lane.head().last_seq };
            durable[i] = behind;
            state.stats.durable_seq[i] = behind;
            state.stats.unacked_blocks[i] = lane.unacked().len() as u64;
            if let Some(kept) = kept {
                state.kept[i] = kept;
            }
        }
        if let Some(rings) = rings {
            state.stats.journal_used_bytes = rings.map(|(used, _)| used);
            state.stats.journal_limit_bytes = rings.map(|(_, limit)| limit);
        }
        state.pressure = pressure;
        drop(state);
        self.shared.settled.notify_all();
        self.shared.durable.send_if_modified(|d| {
            let changed = *d != durable;
            *d = durable;
            changed
        });
        for (lane, news) in self.lanes.iter().zip(&self.shared.news) {
            news.send_if_modified(|n| std::mem::replace(n, lane.news()) != lane.news());
        }
    }
}
