//! What waits to be sealed: one queue a stream, one byte budget, and the order of giving way.
//!
//! Pushing never blocks, whatever the disk does. When the budget is full, room is made in the order of the design:
//! recorder, then samples, then logs; urgent records have a budget of their own that nothing else can use. What gives
//! way is counted per stream and source, and comes out as [`Gap`] records.

use std::collections::VecDeque;

use dogwatch::record::{Body, Incarnation, Kind, Moment, Record, Seq, Stream};

use super::losses::{Losses, Span};

/// Bytes that recorder and evidence records may hold while they wait.
///
/// A disk that stalls for 30 s at 200 KiB/s of logs fits; the agent's memory cap holds.
pub(crate) const BULK_BYTES: usize = 6 * 1024 * 1024;
/// Bytes that urgent records may hold while they wait. A plan of 10,000 objects is about 2 MiB.
pub(crate) const URGENT_BYTES: usize = 6 * 1024 * 1024;
/// Places that an empty queue keeps: what comes in some seconds when nothing happens.
const KEPT_PLACES: usize = 64;

/// A record that waits, and what it weighs.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) record: Record,
    pub(crate) weight: usize,
}

/// The three queues.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: [VecDeque<Waiting>; 3],
    bytes: [usize; 3],
    next_seq: [Seq; 3],
    losses: Losses,
    dropped: u64,
}

impl Queue {
    /// Takes a record in and gives it its seq. It may be given up at once if there is no room; it keeps its seq.
    pub(crate) fn push(&mut self, stream: Stream, at: Moment, body: Body) -> Seq {
        let lane = stream.index();
        self.next_seq[lane] += 1;
        let seq = self.next_seq[lane];
        let waiting = Waiting { weight: weigh(&body), record: Record { seq, at, body } };
        if self.make_room(stream, waiting.record.body.kind(), waiting.weight) {
            self.bytes[lane] += waiting.weight;
            self.lanes[lane].push_back(waiting);
        } else {
            self.lose(stream, &waiting.record, "the queue to the journal was full");
        }
        seq
    }

    /// Notes a record of which the caller decided that it is not kept; it still takes a seq, so that the jump shows.
    pub(crate) fn skip(&mut self, stream: Stream, at: Moment, body: Body, reason: &'static str) {
        let lane = stream.index();
        self.next_seq[lane] += 1;
        let record = Record { seq: self.next_seq[lane], at, body };
        self.lose(stream, &record, reason);
    }

    /// Gives up records that were taken out but could not be kept.
    pub(crate) fn give_up(&mut self, stream: Stream, records: &[Record], reason: &'static str) {
        for r in records {
            self.lose(stream, r, reason);
        }
    }

    /// Takes the next run of contiguous seqs of up to `max_bytes` (at least one record), oldest first.
    pub(crate) fn take_run(&mut self, stream: Stream, max_bytes: usize, max_records: usize) -> Vec<Record> {
        let lane = stream.index();
        let mut run: Vec<Record> = Vec::new();
        let mut bytes = 0;
        while let Some(front) = self.lanes[lane].front() {
            let contiguous = run.last().is_none_or(|last| last.seq + 1 == front.record.seq);
            let fits = run.is_empty() || bytes + front.weight <= max_bytes;
            if !contiguous || !fits || run.len() >= max_records {
                break;
            }
            if let Some(w) = self.lanes[lane].pop_front() {
                bytes += w.weight;
                self.bytes[lane] -= w.weight;
                run.push(w.record);
            }
        }
        if self.lanes[lane].is_empty() {
            // A burst, such as the kernel's history at the start, would keep its room for good.
            self.lanes[lane].shrink_to(KEPT_PLACES);
        }
        run
    }

    /// Whether the record that was given `seq` last was taken in.
    pub(crate) fn took(&self, stream: Stream, seq: Seq) -> bool {
        self.lanes[stream.index()].back().is_some_and(|w| w.record.seq == seq)
    }

    /// Bytes that wait in `stream`.
    pub(crate) fn bytes(&self, stream: Stream) -> usize {
        self.bytes[stream.index()]
    }

    /// Boot time of the oldest record that waits in `stream`.
    pub(crate) fn oldest_boot_ns(&self, stream: Stream) -> Option<u64> {
        self.lanes[stream.index()].front().map(|w| w.record.at.boot_ns)
    }

    /// Newest seq given out in `stream`.
    pub(crate) fn last_seq(&self, stream: Stream) -> Seq {
        self.next_seq[stream.index()]
    }

    /// Records given up so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Notes `count` records of `source` that were taken out long ago, and given up where they were kept.
    pub(crate) fn gave_up(
        &mut self,
        stream: Stream,
        incarnation: Incarnation,
        source: String,
        reason: &'static str,
        span: Span,
        count: u64,
    ) {
        self.dropped = self.dropped.saturating_add(count);
        self.losses.note(stream, Some(incarnation), source, reason, span, count);
    }

    /// Makes gap records of the losses since the last call, as far as there is room for them; the rest waits on. How
    /// many there were.
    pub(crate) fn tell_losses(&mut self, at: Moment) -> usize {
        let gaps = self.losses.take();
        let count = gaps.len();
        for gap in gaps {
            let body = Body::Gap(gap);
            let fits = self.make_room(Stream::Urgent, Kind::Gap, weigh(&body));
            match body {
                Body::Gap(gap) if !fits => self.losses.fold(gap),
                body => {
                    self.push(Stream::Urgent, at, body);
                }
            }
        }
        count
    }

    /// Whether losses wait to be told.
    pub(crate) fn has_losses(&self) -> bool {
        !self.losses.is_empty()
    }

    fn make_room(&mut self, stream: Stream, kind: Kind, weight: usize) -> bool {
        if stream == Stream::Urgent {
            return self.bytes[0] + weight <= URGENT_BYTES;
        }
        if weight > BULK_BYTES {
            return false;
        }
        while self.bytes[1] + self.bytes[2] + weight > BULK_BYTES {
            // Rank of what may give way for the newcomer: recorder 0, samples 1, logs 2.
            let newcomer = rank(stream, kind);
            if self.evict_oldest(Stream::Recorder, None) {
                continue;
            }
            if newcomer >= 1 && self.evict_oldest(Stream::Evidence, Some(Kind::Sample)) {
                continue;
            }
            if newcomer >= 2 && self.evict_oldest(Stream::Evidence, None) {
                continue;
            }
            return false;
        }
        true
    }

    fn evict_oldest(&mut self, stream: Stream, kind: Option<Kind>) -> bool {
        let lane = &mut self.lanes[stream.index()];
        let found = match kind {
            // What is about to be destroyed for good waits for its content to be durable.
            None => lane.iter().position(|w| w.record.body.kind() != Kind::File),
            Some(k) => lane.iter().position(|w| w.record.body.kind() == k),
        };
        let Some(w) = found.and_then(|i| lane.remove(i)) else { return false };
        self.bytes[stream.index()] -= w.weight;
        self.lose(stream, &w.record, "the queue to the journal was full and this gave way");
        true
    }

    fn lose(&mut self, stream: Stream, record: &Record, reason: &'static str) {
        self.dropped += 1;
        let wall_ns = record.at.wall_ns;
        let span = Span { seqs: Some((record.seq, record.seq)), from_wall_ns: wall_ns, to_wall_ns: wall_ns };
        self.losses.note(stream, None, record.body.source(), reason, span, 1);
        // What it tells is lost as well, and nobody else knows of it.
        if let Body::Gap(gap) = &record.body {
            self.losses.fold(gap.clone());
        }
    }
}

fn rank(stream: Stream, kind: Kind) -> u8 {
    match (stream, kind) {
        // Content is only wanted where there is room: what it would have saved then stays where it is.
        (Stream::Recorder, _) | (_, Kind::File) => 0,
        (_, Kind::Sample) => 1,
        _ => 2,
    }
}

/// About how many bytes a body takes in memory and in a block before compression.
pub(crate) fn weigh(body: &Body) -> usize {
    const FIXED: usize = 96;
    FIXED
        + match body {
            Body::Sample(s) => {
                512 + s.mounts.len() * 160
                    + s.processes.len() * 160
                    + s.failed.iter().map(String::len).sum::<usize>()
            }
            Body::Log(l) => {
                l.line.len() + l.source.len() + l.rules.iter().map(|r| r.len() + 8).sum::<usize>()
            }
            Body::Finding(f) => {
                f.summary.len()
                    + f.explanation.len()
                    + f.citations.len() * 96
                    + f.facts.iter().map(|f| f.key.len() + f.value.len() + 8).sum::<usize>()
            }
            Body::Action(a) => {
                512 + a
                    .objects
                    .iter()
                    .map(|o| 192 + o.path.as_os_str().len() + o.why_safe.len() + o.cleaner.len())
                    .sum::<usize>()
                    + a.refused
                        .iter()
                        .map(|r| 32 + r.reason.len() + r.path.as_ref().map_or(0, |p| p.as_os_str().len()))
                        .sum::<usize>()
            }
            Body::Gap(g) => g.reason.len() + g.source.len(),
            Body::Note(n) => n.len(),
            Body::File(f) => {
                f.content.as_ref().map_or(0, |c| c.zstd.len() + c.path.as_os_str().len())
                    + f.objects
                        .iter()
                        .map(|o| 256 + o.path.as_os_str().len() + o.why_safe.len())
                        .sum::<usize>()
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dogwatch::record::{Gap, LogLine, Sample};
    use proptest::prelude::*;

    fn log(bytes: usize) -> Body {
        Body::Log(LogLine {
            source: "/var/log/x".into(),
            offset: 0,
            inode: 1,
            line: vec![b'x'; bytes],
            truncated: false,
            rules: vec![],
            ..LogLine::default()
        })
    }

    #[test]
    fn a_burst_leaves_no_room_behind() {
        let mut q = Queue::default();
        for _ in 0..2_000 {
            q.push(Stream::Evidence, Moment::default(), log(10));
        }
        while !q.take_run(Stream::Evidence, usize::MAX, 100).is_empty() {}
        assert!(q.lanes[Stream::Evidence.index()].capacity() <= KEPT_PLACES);
    }

    #[test]
    fn recorder_gives_way_first_then_samples_then_logs() {
        let mut q = Queue::default();
        let at = Moment::default();
        q.push(Stream::Evidence, at, Body::Sample(std::sync::Arc::default()));
        q.push(Stream::Evidence, at, log(10));
        q.push(Stream::Recorder, at, log(BULK_BYTES / 2));
        q.push(Stream::Evidence, at, log(BULK_BYTES / 2));
        assert_eq!(q.lanes[2].len(), 0, "the recorder gave way");
        assert_eq!(q.lanes[1].len(), 3);
        q.push(Stream::Evidence, at, log(BULK_BYTES / 2 - 600));
        assert_eq!(q.lanes[1].iter().filter(|w| w.record.body.kind() == Kind::Sample).count(), 0);
        let gaps = q.losses.take();
        assert_eq!(gaps.iter().map(|g| g.count.unwrap()).sum::<u64>(), q.dropped());
        q.push(Stream::Urgent, at, Body::Note("still room".into()));
        assert_eq!(q.lanes[0].len(), 1);
    }

    #[test]
    fn a_full_urgent_queue_forgets_no_loss() {
        let mut q = Queue::default();
        let at = Moment::default();
        let gap = |n: u64| {
            Body::Gap(Gap {
                stream: Stream::Evidence,
                source: "log:/var/log/x".into(),
                after_seq: None,
                before_seq: None,
                count: Some(n),
                from_wall_ns: 0,
                to_wall_ns: 0,
                reason: "over the evidence stream's budget".into(),
                incarnation: None,
            })
        };
        q.push(Stream::Evidence, at, log(BULK_BYTES / 2));
        q.push(Stream::Evidence, at, log(BULK_BYTES * 3 / 4));
        q.push(Stream::Urgent, at, Body::Note("x".repeat(URGENT_BYTES - 100)));
        // A gap that somebody else found, and one of our own: neither fits.
        q.push(Stream::Urgent, at, gap(7));
        assert!(q.tell_losses(at) > 0);
        assert!(q.has_losses(), "they wait");
        while !q.take_run(Stream::Urgent, usize::MAX, usize::MAX).is_empty() {}
        assert!(q.tell_losses(at) > 0);
        assert!(!q.has_losses());
        let told = q.take_run(Stream::Urgent, usize::MAX, usize::MAX);
        let count = |stream: Stream, reason: &str| -> u64 {
            let gaps = told.iter().filter_map(|r| if let Body::Gap(g) = &r.body { Some(g) } else { None });
            gaps.filter(|g| g.stream == stream && g.reason.contains(reason)).filter_map(|g| g.count).sum()
        };
        assert_eq!(count(Stream::Evidence, "budget"), 7, "{told:?}");
        assert_eq!(count(Stream::Evidence, "gave way"), 1, "{told:?}");
        assert_eq!(count(Stream::Urgent, "was full"), 1, "the record that told of the seven: {told:?}");
    }

    proptest! {
        #[test]
        fn every_missing_seq_is_within_a_gap(ops in proptest::collection::vec((0usize..3, 1usize..2_000_000, any::<bool>()), 1..200)) {
            let mut q = Queue::default();
            let mut kept = [vec![], vec![], vec![]];
            let mut gaps = Vec::new();
            for (lane, size, sample) in ops {
                let stream = Stream::ALL[lane];
                let body = if sample { Body::Sample(std::sync::Arc::new(Sample { failed: vec!["x".repeat(size)], ..Sample::default() })) } else { log(size) };
                q.push(stream, Moment::default(), body);
                if size % 5 == 0 {
                    kept[lane].extend(q.take_run(stream, 256 * 1024, 100).iter().map(|r| r.seq));
                }
                gaps.extend(q.losses.take());
                prop_assert!(q.bytes(Stream::Evidence) + q.bytes(Stream::Recorder) <= BULK_BYTES);
                prop_assert!(q.bytes(Stream::Urgent) <= URGENT_BYTES);
            }
            for stream in Stream::ALL {
                loop {
                    let run = q.take_run(stream, usize::MAX, usize::MAX);
                    if run.is_empty() { break; }
                    prop_assert!(run.windows(2).all(|w| w[0].seq + 1 == w[1].seq));
                    kept[stream.index()].extend(run.iter().map(|r| r.seq));
                }
                let seen = &kept[stream.index()];
                prop_assert!(seen.windows(2).all(|w| w[0] < w[1]));
                for seq in 1..=q.last_seq(stream) {
                    let told = gaps.iter().any(|g| g.stream == stream && g.after_seq.unwrap() < seq && seq < g.before_seq.unwrap());
                    prop_assert!(told || seen.contains(&seq), "{stream} {seq}");
                }
            }
        }
    }
}
