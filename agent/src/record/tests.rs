//! When what is pushed becomes durable.

use std::path::Path;
use std::time::{Duration, Instant};

use dogwatch::journal::Reader;
use dogwatch::record::{FindingState, Gap, Kinds, Severity, Subject};

use super::*;

/// Longer than any machine needs that is at work at all.
const PATIENCE: Duration = Duration::from_secs(120);

/// A moment so far ahead that what is pushed then never comes to be due by itself while the test runs, however slowly.
fn ahead() -> Moment {
    let now = clock::now();
    Moment { boot_ns: now.boot_ns + 3_600_000_000_000, ..now }
}

fn line() -> Body {
    Body::Log(LogLine {
        source: "/var/log/app.log".into(),
        line: b"it failed".to_vec(),
        ..LogLine::default()
    })
}

fn finding() -> Body {
    Body::Finding(Box::new(Finding {
        id: "f-1".to_owned(),
        rule: "log-rule".to_owned(),
        severity: Severity::High,
        state: FindingState::Raised,
        subject: Subject::new("log", "/var/log/app.log"),
        summary: "it failed".to_owned(),
        explanation: String::new(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns: 1,
        pod: None,
    }))
}

#[test]
fn evidence_that_a_finding_cites_does_not_wait_for_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = RecordConfig {
        state_dir: dir.path().to_owned(),
        node: "node-1".parse().unwrap(),
        segment_bytes: 1 << 20,
        urgent_bytes: 2 << 20,
        evidence_bytes: 2 << 20,
        recorder_bytes: 2 << 20,
        handed_over: false,
    };
    let key = SigningKey::from_bytes(&[7; 32]);
    let (recorder, writer, _) = open(&config, key, [1; 16], || [3; 16]).unwrap();
    let writer = std::thread::spawn(move || writer.run());
    let durable = |stream: Stream| recorder.durable().borrow()[stream.index()];
    let wait = |stream: Stream, seq: Seq| {
        let begun = Instant::now();
        while durable(stream) < seq {
            assert!(begun.elapsed() < PATIENCE, "{stream} {seq} never became durable");
            std::thread::sleep(Duration::from_millis(5));
        }
    };

    // A finding that cites nothing here hastens nothing.
    recorder.push(Stream::Recorder, ahead(), line());
    let cited = recorder.push(Stream::Evidence, ahead(), line());
    let uncited = recorder.push(Stream::Urgent, clock::now(), finding());
    wait(Stream::Urgent, uncited);
    assert_eq!(durable(Stream::Evidence), 0, "evidence has a time of its own");

    recorder.cited(clock::now());
    let told = recorder.push(Stream::Urgent, clock::now(), finding());
    wait(Stream::Evidence, cited);
    wait(Stream::Urgent, told);
    assert_eq!(durable(Stream::Recorder), 0, "what nothing cites is not written more often");

    // Once, and not for whatever comes later.
    let later = recorder.push(Stream::Evidence, ahead(), line());
    let alone = recorder.push(Stream::Urgent, clock::now(), finding());
    wait(Stream::Urgent, alone);
    assert!(recorder.shared.lock().cited_boot_ns.is_none());
    let boot_ns = clock::now().boot_ns;
    let left = recorder.shared.lock().due_in(Stream::Evidence, boot_ns);
    assert_eq!(left, Some(SEAL_AFTER), "{later} has the whole time of evidence");
    assert!(durable(Stream::Evidence) < later);

    recorder.stop();
    writer.join().unwrap().unwrap();
}

/// A recorder with the smallest rings, whose collector never answers, and its writer at work.
struct Full {
    recorder: Recorder,
    writer: Option<std::thread::JoinHandle<Result<(), String>>>,
}

impl Full {
    fn config(state: &Path) -> RecordConfig {
        RecordConfig {
            state_dir: state.to_owned(),
            node: "node-1".parse().unwrap(),
            segment_bytes: 1 << 20,
            urgent_bytes: 2 << 20,
            evidence_bytes: 2 << 20,
            recorder_bytes: 2 << 20,
            handed_over: true,
        }
    }

    fn open(state: &Path, run: fn() -> [u8; 16]) -> Self {
        let config = Self::config(state);
        let (recorder, writer, _) = open(&config, SigningKey::from_bytes(&[7; 32]), [1; 16], run).unwrap();
        Self { recorder, writer: Some(std::thread::spawn(move || writer.run())) }
    }

    /// A line of a log that does not compress, and a sample now and then.
    fn push(&self, n: u64) {
        let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let source = if n.is_multiple_of(4) { "/var/log/b" } else { "/var/log/a" };
        let line = (0..30_000).map(|_| byte()).collect();
        let line = LogLine { source: source.into(), line, ..LogLine::default() };
        let seq = self.recorder.push(Stream::Evidence, clock::now(), Body::Log(line));
        let begun = Instant::now();
        while self.recorder.shared.lock().queue.bytes(Stream::Evidence) > 4 * SEAL_BYTES {
            assert!(begun.elapsed() < PATIENCE, "line {seq} is never written");
            std::thread::sleep(Duration::from_millis(1));
        }
        if n.is_multiple_of(10) {
            self.recorder.push(Stream::Evidence, clock::now(), Body::Sample(Arc::default()));
        }
    }

    /// Ends it; what its urgent journal tells of the evidence ring.
    fn end(mut self) -> Vec<Gap> {
        self.recorder.stop();
        self.writer.take().unwrap().join().unwrap().unwrap();
        Self::told(&self.recorder.journal_dir(Stream::Urgent))
    }

    /// What an urgent journal tells of the evidence ring.
    fn told(urgent: &Path) -> Vec<Gap> {
        let reader = Reader::open(urgent).unwrap();
        let mut gaps = Vec::new();
        for (at, _) in reader.blocks().unwrap() {
            for record in before::read_records(&reader, at, Kinds::default().with(Kind::Gap)) {
                if let Body::Gap(gap) = record.body
                    && gap.reason == RING_FULL
                {
                    gaps.push(gap);
                }
            }
        }
        gaps
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        self.recorder.stop();
    }
}

#[test]
fn what_a_full_ring_gives_up_is_told_by_source_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let full = Full::open(dir.path(), || [3; 16]);
    for n in 1..=200 {
        full.push(n);
    }
    let recorder = full.recorder.clone();
    let gaps = full.end();
    let reader = Reader::open(&recorder.journal_dir(Stream::Evidence)).unwrap();
    let mut left = BTreeMap::<String, u64>::new();
    let all = Kinds::default().with(Kind::Log).with(Kind::Sample);
    let mut first = Seq::MAX;
    for (at, _) in reader.blocks().unwrap() {
        for record in before::read_records(&reader, at, all) {
            first = first.min(record.seq);
            *left.entry(record.body.source()).or_default() += 1;
        }
    }
    let mut told = BTreeMap::<String, u64>::new();
    for gap in &gaps {
        assert_eq!((gap.stream, gap.class()), (Stream::Evidence, "ring"));
        *told.entry(gap.source.clone()).or_default() += gap.count.unwrap();
    }
    let sum = |source: &str| told.get(source).copied().unwrap_or(0) + left.get(source).copied().unwrap_or(0);
    assert_eq!(
        (sum("log:/var/log/a"), sum("log:/var/log/b"), sum("sampler")),
        (150, 50, 20),
        "{told:?} {left:?}"
    );
    assert!(told.len() == 3 && first > 1, "{told:?}");
    assert_eq!(recorder.stats().dropped, told.values().sum::<u64>(), "counted as given up");
    // Whoever sends finds that hole, and has nothing to say of it; nor has the next run.
    let run = recorder.incarnation();
    assert_eq!(recorder.untold(Stream::Evidence, run, 1, first - 1), []);
    assert_eq!(recorder.untold(Stream::Evidence, run, 1, first), [(first, first)]);
    assert_eq!(recorder.untold(Stream::Urgent, run, 1, 1), [(1, 1)]);
    let next = Full::open(dir.path(), || [4; 16]);
    assert_eq!(next.recorder.untold(Stream::Evidence, run, 1, first - 1), []);
    next.end();
}

/// Copies a state folder, the urgent journal first: what is told while this goes on is as if it never had been.
///
/// # Errors
/// When a segment was renamed meanwhile: then it is no state that a kill leaves.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    let mut entries: Vec<_> = std::fs::read_dir(from)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(|e| e.file_name() != "urgent");
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[test]
fn what_a_killed_agent_had_given_up_and_not_told_is_left_to_be_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let full = Full::open(&dir.path().join("before"), || [3; 16]);
    let (recorder, run) = (full.recorder.clone(), full.recorder.incarnation());
    let mut pushed = 0;
    let mut push_until = |wanted: &dyn Fn() -> bool| {
        while !wanted() {
            pushed += 1;
            assert!(pushed < 20_000, "nothing is ever given up");
            full.push(pushed);
        }
    };
    // What is given up soon after losses were told waits some seconds: then the agent is gone.
    let mut killed = None;
    for attempt in 0..20 {
        let told = || recorder.stats().gaps.get("ring").copied().unwrap_or(0);
        let before = told();
        push_until(&|| told() > before);
        let dropped = recorder.stats().dropped;
        push_until(&|| recorder.stats().dropped > dropped);
        let state = dir.path().join(format!("after-{attempt}"));
        if copy(&dir.path().join("before"), &state).is_err() {
            continue;
        }
        let urgent = state.join("journal/urgent");
        let told: u64 = Full::told(&urgent).iter().filter_map(|g| g.count).sum();
        let reader = Reader::open(&state.join("journal/evidence")).unwrap();
        let kept = reader.blocks().unwrap().first().unwrap().1.first_seq;
        if told + 1 < kept {
            killed = Some((state, told, kept));
            break;
        }
    }
    let (state, told, first_kept) = killed.expect("what is given up is told before the next block");
    let next = Full::open(&state, || [4; 16]);
    let evidence = Reader::open(&next.recorder.journal_dir(Stream::Evidence)).unwrap();
    assert_eq!(evidence.blocks().unwrap().first().unwrap().1.first_seq, first_kept, "nothing went since");
    // As whoever sends finds it, and tells it.
    let untold = next.recorder.untold(Stream::Evidence, run, 1, first_kept - 1);
    let count: u64 = untold.iter().map(|(first, last)| last + 1 - first).sum();
    assert!(told > 0 && count > 0);
    assert_eq!(told + count, first_kept - 1, "each once: {untold:?}");
    for (first, last) in untold {
        let gap = Gap {
            stream: Stream::Evidence,
            source: "uplink".into(),
            after_seq: Some(first - 1),
            before_seq: Some(last + 1),
            count: Some(last + 1 - first),
            from_wall_ns: 0,
            to_wall_ns: 0,
            reason: NOT_HELD.into(),
            incarnation: Some(run),
        };
        next.recorder.push(Stream::Urgent, clock::now(), Body::Gap(gap));
    }
    next.end();
    // It had not heard that anybody has it when it ended too.
    let third = Full::open(&state, || [5; 16]);
    assert_eq!(third.recorder.untold(Stream::Evidence, run, 1, first_kept - 1), []);
    third.end();
    full.end();
}

#[test]
fn the_end_of_an_earlier_run_is_told_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let first = Full::open(dir.path(), || [3; 16]);
    (1..=60).for_each(|n| first.push(n));
    let earlier = first.recorder.incarnation();
    first.end();
    let (recorder, mut writer, _) =
        open(&Full::config(dir.path()), SigningKey::from_bytes(&[7; 32]), [1; 16], || [4; 16]).unwrap();
    let lane = Stream::Evidence.index();
    let is_last = |gone: &lane::Eviction, writer: &Writer| {
        writer.lanes[lane].unacked().is_empty() && gone.runs.iter().all(|run| run.0 == earlier)
    };
    let mut evictions = 0;
    loop {
        let gone = writer.lanes[lane].evict_oldest_segment();
        let last = is_last(&gone, &writer);
        writer.note_evicted(Stream::Evidence, gone);
        evictions += 1;
        assert_eq!(writer.tell_now, last, "what follows a hole tells of it");
        if last {
            break;
        }
    }
    assert!(evictions > 1);
    // What this run gives up of its own waits: it goes on.
    writer.tell_now = false;
    let runs = vec![(recorder.incarnation(), 1, 9)];
    writer.note_evicted(Stream::Evidence, lane::Eviction { blocks: Vec::new(), runs });
    assert!(!writer.tell_now);
}
