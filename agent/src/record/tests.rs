//! When what is pushed becomes durable.

use std::time::{Duration, Instant};

use dogwatch::record::{Severity, Subject};

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
