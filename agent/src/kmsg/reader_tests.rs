use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use dogwatch::record::Moment;
use proptest::prelude::*;

use super::*;
use crate::kmsg::{Checkpoint, Mark, alone_with_the_machine};
use crate::tail::{Keep, RuleSet};

const PATIENCE: Duration = Duration::from_secs(30);

/// A ring that holds `room` messages, written to by the test.
#[derive(Clone)]
struct Fake(Arc<Mutex<FakeRing>>);

struct FakeRing {
    messages: VecDeque<Message>,
    at: u64,
    /// Stops the reader once it read everything.
    stop: Option<Arc<Stop>>,
}

impl Fake {
    fn new(messages: impl IntoIterator<Item = Message>) -> Self {
        Self(Arc::new(Mutex::new(FakeRing { messages: messages.into_iter().collect(), at: 0, stop: None })))
    }
}

impl Ring for Fake {
    fn read(&mut self) -> io::Result<Read> {
        let mut ring = self.0.lock().unwrap();
        let at = ring.at;
        match ring.messages.iter().find(|m| m.seq >= at).cloned() {
            Some(m) => {
                ring.at = m.seq + 1;
                Ok(Read::Message(m))
            }
            None => Ok(Read::Empty),
        }
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().at = 0;
        Ok(())
    }

    fn wait(&mut self, _: BorrowedFd<'_>, _: Option<Duration>) -> io::Result<()> {
        if let Some(stop) = &self.0.lock().unwrap().stop {
            stop.set();
        }
        Ok(())
    }

    fn numbered(&self) -> bool {
        true
    }
}

fn config() -> KernelConfig {
    let text = "rules:\n  - {name: bad, match: 'bad', severity: high, summary: s, context_before: 2, context_after: 1}\n";
    KernelConfig {
        rules: RuleSet::parse("test", text).unwrap(),
        evidence_lines_per_second: 1_000_000,
        lines_per_second: 1_000_000,
        ..KernelConfig::default()
    }
}

fn fixed() -> Now {
    Now { at: Moment { wall_ns: 5_000_000_000_000, boot_ns: 1_000_000_000 }, monotonic_us: 1_000_000 }
}

/// Reads `ring` to its end; the batches in order.
fn read_all(ring: &Fake, resume: &Resume) -> Vec<Batch> {
    let config = config();
    let judge = Judge::new(&config.rules, SOURCE, MAX_LINE_BYTES).unwrap();
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let stop = Arc::new(Stop { set: AtomicBool::new(false), bell });
    ring.0.lock().unwrap().stop = Some(Arc::clone(&stop));
    let (sender, batches) = channel();
    let send = move |batch| {
        sender.send(batch).unwrap();
        Sent::Taken
    };
    let mut out = Outlet { send, stop };
    follow(&config, judge, resume, Box::new(ring.clone()), &fixed, &mut out).unwrap();
    drop(out);
    batches.iter().collect()
}

fn message(seq: u64, bad: bool) -> Message {
    let text = if bad { format!("bad {seq}") } else { format!("good {seq}") };
    Message { seq, priority: 6, at_us: 900_000 + seq, text: text.into_bytes() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// The record is killed after any event, with any part of what was handed on durable in each stream and the
    /// checkpoint anywhere behind it: together the two runs hand on what one would have, each line once a stream.
    #[test]
    fn a_restart_anywhere_gives_each_line_once(
        bad in prop::collection::vec(prop::bool::weighted(0.2), 1..60),
        cut in 0.0..1.0f64,
        durable in (0.0..=1.0f64, 0.0..=1.0f64),
        keep_checkpoint in any::<bool>(),
        same_batch in any::<bool>(),
    ) {
        let all: Vec<Message> = (0u64..).zip(&bad).map(|(seq, bad)| message(seq, *bad)).collect();
        let whole = read_all(&Fake::new(all.clone()), &Resume::default());
        let lines = |batches: &[Batch]| -> Vec<(Keep, LogLine)> {
            batches.iter().flat_map(|b| &b.events).filter_map(|e| match e {
                Event::Line { line, keep, .. } => Some((*keep, (**line).clone())),
                _ => None,
            }).collect()
        };
        // The first run sees the ring as it was then.
        let seen = (all.len() as f64 * cut) as usize;
        let first = read_all(&Fake::new(all[..seen].to_vec()), &Resume::default());
        let handed = lines(&first);
        let of = |lines: &[(Keep, LogLine)], evidence: bool| -> Vec<LogLine> {
            lines.iter().filter(|(k, _)| if evidence { k.evidence } else { k.recorder }).map(|(_, l)| l.clone()).collect()
        };
        let part = |evidence: bool, share: f64| {
            let mut lines = of(&handed, evidence);
            lines.truncate((lines.len() as f64 * share) as usize);
            lines
        };
        let (evidence, recorder) = (part(true, durable.0), part(false, durable.1));
        let everything = evidence.len() == of(&handed, true).len() && recorder.len() == of(&handed, false).len();
        let mark = first.last().and_then(|b| b.mark).filter(|_| everything && same_batch);
        let checkpoint = match mark {
            Some(mark) => Some(Checkpoint { boot_id: [1; 16], mark }),
            None => keep_checkpoint.then_some(Checkpoint { boot_id: [1; 16], mark: Mark { next: 0, evidence_to: None } }),
        };
        let newest = |stream, lines: &[LogLine]| lines.last().map(|l| (stream, l.clone()));
        let journaled = newest(Stream::Evidence, &evidence).into_iter().chain(newest(Stream::Recorder, &recorder)).collect();
        let second = lines(&read_all(&Fake::new(all), &Resume { boot_id: [1; 16], checkpoint, journaled }));
        for (is_evidence, before) in [(true, evidence), (false, recorder)] {
            let mut got: Vec<u64> = before.iter().map(|l| l.offset).collect();
            got.extend(of(&second, is_evidence).iter().map(|l| l.offset));
            let want: Vec<u64> = of(&lines(&whole), is_evidence).iter().map(|l| l.offset).collect();
            prop_assert_eq!(got, want);
        }
    }
}

#[test]
fn another_boots_checkpoint_and_lines_count_for_nothing() {
    let ring = Fake::new((0..5).map(|i| message(i, false)));
    let mut old =
        LogLine { source: SOURCE.into(), offset: 3, line: b"good 3".to_vec(), ..LogLine::default() };
    old.written_wall_ns = Some(1);
    let resume = Resume {
        boot_id: [2; 16],
        checkpoint: Some(Checkpoint { boot_id: [1; 16], mark: Mark { next: 900, evidence_to: None } }),
        journaled: vec![(Stream::Recorder, old)],
    };
    let batches = read_all(&ring, &resume);
    assert_eq!(batches.iter().map(|b| b.events.len()).sum::<usize>(), 5);
    assert_eq!(batches.last().unwrap().mark.unwrap().next, 5);
}

#[test]
fn what_was_overwritten_while_nobody_read_is_a_gap() {
    let ring = Fake::new((50..52).map(|i| message(i, false)));
    let mark = Mark { next: 10, evidence_to: None };
    let resume = Resume {
        boot_id: [1; 16],
        checkpoint: Some(Checkpoint { boot_id: [1; 16], mark }),
        journaled: vec![],
    };
    let batches = read_all(&ring, &resume);
    let Some(Event::Gap(gap)) = batches[0].events.first() else { panic!("{batches:?}") };
    assert_eq!(gap.count, Some(40));
    assert!(gap.reason.contains("10 to 49"), "{}", gap.reason);
}

/// Reads the machine's own log on the real thread.
fn real(config: KernelConfig) -> (Handle, Receiver<Batch>) {
    let (sender, batches) = channel();
    let send = move |batch| if sender.send(batch).is_ok() { Sent::Taken } else { Sent::Gone };
    (start(config, Resume::default(), send).unwrap(), batches)
}

/// A line for the kernel's log (without its newline it would wait for one that continues it), by a descriptor of its own: each may write ten in five seconds
/// (`kernel.printk_devkmsg=ratelimit`).
fn print(priority: u32, text: &str) {
    let mut device = std::fs::OpenOptions::new().write(true).open("/dev/kmsg").expect("root may write it");
    device.write_all(format!("<{priority}>{text}\n").as_bytes()).unwrap();
}

fn wait_for(batches: &Receiver<Batch>, mut found: impl FnMut(&Event) -> bool) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let batch = batches.recv_timeout(left).expect("it comes in time");
        if let Some(event) = batch.events.into_iter().find(|e| found(e)) {
            return event;
        }
    }
}

#[test]
fn what_is_written_to_the_kernels_log_arrives_by_either_way() {
    let _alone = alone_with_the_machine();
    for origin in [crate::kmsg::Origin::Kmsg, crate::kmsg::Origin::Syslog] {
        let poll = Duration::from_millis(100);
        let (handle, batches) = real(KernelConfig { origin, poll, ..KernelConfig::default() });
        let text = format!("dogwatch-test {origin:?} {} Kernel panic - not syncing", std::process::id());
        let before = clock::now().wall_ns;
        print(6, &format!("{text} password=hunter2"));
        let event = wait_for(
            &batches,
            |e| matches!(e, Event::Line { line, .. } if line.line.starts_with(text.as_bytes())),
        );
        let Event::Line { line, keep, .. } = event else { unreachable!() };
        assert_eq!(line.line, format!("{text} password=[masked:password]").into_bytes());
        assert_eq!((line.priority, &line.rules[..]), (Some(6), &["kernel-panic".to_owned()][..]));
        assert_eq!(keep, Keep { evidence: true, recorder: true });
        let off = line.written_wall_ns.unwrap().abs_diff(before);
        assert!(off < 30_000_000_000, "{off} ns");
        drop(handle);
        assert!(batches.iter().count() < 1000, "the thread ended, and with it the channel");
    }
}

#[test]
fn messages_that_the_kernel_overwrites_are_counted() {
    let _alone = alone_with_the_machine();
    // The reader is held up while more than the whole ring is written.
    let ((sender, batches), (offered, held_up)) = (channel(), channel());
    let gate = Arc::new(AtomicBool::new(true));
    let closed = Arc::clone(&gate);
    let send = move |batch| {
        if closed.load(Ordering::Relaxed) {
            let _ = offered.send(());
            return Sent::Full(batch);
        }
        if sender.send(batch).is_ok() { Sent::Taken } else { Sent::Gone }
    };
    let handle = start(
        KernelConfig { origin: crate::kmsg::Origin::Kmsg, ..KernelConfig::default() },
        Resume::default(),
        send,
    )
    .unwrap();
    // SAFETY: SYSLOG_ACTION_SIZE_BUFFER takes no buffer.
    let ring = unsafe { libc::klogctl(10, std::ptr::null_mut(), 0) };
    let lines = usize::try_from(ring).expect("root may ask") / 900 + 200;
    if lines > 20_000 {
        panic!("the ring of this kernel is {ring} bytes: boot with a smaller log_buf_len to run this test");
    }
    let text = format!("dogwatch-test flood {} {}", std::process::id(), "x".repeat(900));
    // It has read what was there, and stands where the flood overwrites.
    print(7, "dogwatch-test the flood begins");
    held_up.recv_timeout(PATIENCE).expect("it is held up in time");
    for _ in 0..lines {
        print(7, &text);
    }
    gate.store(false, Ordering::Relaxed);
    let event = wait_for(&batches, |e| matches!(e, Event::Gap(g) if g.reason.contains("overwrote")));
    let Event::Gap(gap) = event else { unreachable!() };
    assert!(gap.count.is_some_and(|c| c > 0), "{gap:?}");
    drop(handle);
}
