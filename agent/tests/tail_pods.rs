//! Pods' files: messages in parts of two outputs, cut, restarted and rotated anywhere.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in the helpers")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use dogwatch::record::{Incarnation, LogLine, Moment, NodeName, RecordRef, Stream};
use dogwatch_agent::detect::{DetectConfig, Detectors};
use dogwatch_agent::tail::{
    Checkpoint, Journaled, Keep, Resume, RuleSet, Start, TailConfig, TailEvent, Tailer,
};
use proptest::prelude::*;

const FOLDER: &str = "shop_web-0_0f3c1b1e-1111-4222-8333-444455556666";

struct Pod {
    dir: tempfile::TempDir,
}

impl Pod {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(FOLDER).join("nginx")).unwrap();
        Self { dir }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join(FOLDER).join("nginx/0.log")
    }

    fn config(&self, emit_all: bool) -> TailConfig {
        let text = "rules:\n  - {name: bad, match: '^bad', severity: high, summary: s, context_before: 1, context_after: 1}\n";
        TailConfig {
            globs: vec![format!("{}/*/*/*.log", self.dir.path().display())],
            rules: RuleSet::parse("test", text).unwrap(),
            start: Start::Beginning,
            emit_all,
            recorder_bytes_per_second: u64::MAX,
            evidence_bytes_per_second: u64::MAX,
            max_line_bytes: 4096,
            ..TailConfig::default()
        }
    }

    fn append(&self, bytes: &[u8]) {
        OpenOptions::new().create(true).append(true).open(self.log()).unwrap().write_all(bytes).unwrap();
    }
}

fn at(second: u64) -> Moment {
    let ns = second * 1_000_000_000;
    Moment { wall_ns: ns as i64, boot_ns: ns }
}

/// Turns until nothing is left; `each` events at most in a turn.
fn drain(tailer: &mut Tailer, second: u64, each: usize) -> Vec<TailEvent> {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        let mut n = 0;
        tailer.hint();
        let turn = tailer.turn(at(second), &mut |event| {
            events.push(event);
            n += 1;
            if n >= each { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if turn.idle && n == 0 {
            return events;
        }
    }
    panic!("it never comes to rest");
}

fn lines(events: &[TailEvent], wanted: fn(&Keep) -> bool) -> Vec<LogLine> {
    let of = |e: &TailEvent| match e {
        TailEvent::Line { line, keep, .. } if wanted(keep) => Some(line.clone()),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|l| String::from_utf8_lossy(&l.line).into_owned()).collect()
}

/// Writes messages with the parts of both outputs between each other, as `order` deals them.
fn interleave(out: &[Vec<String>], err: &[Vec<String>], order: &[bool]) -> (Vec<u8>, Vec<String>) {
    let mut file = Vec::new();
    let mut whole = Vec::new();
    let queue = |said: &[Vec<String>]| -> Vec<(String, Option<String>)> {
        said.iter()
            .flat_map(|parts| {
                let last = parts.len() - 1;
                (0..parts.len())
                    .map(move |i| (parts[i].clone(), (i == last).then(|| parts.concat())))
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let (mut a, mut b) = (queue(out).into_iter().peekable(), queue(err).into_iter().peekable());
    let mut order = order.iter().cycle();
    let mut n = 0u64;
    while a.peek().is_some() || b.peek().is_some() {
        let first = b.peek().is_none() || (a.peek().is_some() && *order.next().unwrap());
        let (name, (text, end)) =
            if first { ("stdout", a.next().unwrap()) } else { ("stderr", b.next().unwrap()) };
        n += 1;
        let tag = if end.is_some() { "F" } else { "P" };
        file.extend_from_slice(format!("2026-01-01T00:00:00.{n:09}Z {name} {tag} {text}\n").as_bytes());
        whole.extend(end);
    }
    (file, whole)
}

fn parts() -> impl Strategy<Value = Vec<Vec<String>>> {
    let part =
        prop::sample::select(vec!["", "a", "bad ", "some longer text, ", "x y"]).prop_map(str::to_owned);
    prop::collection::vec(prop::collection::vec(part, 1..5), 1..15)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    /// The file grows in pieces cut anywhere, the taker takes few events at a time, and after any of the pieces the
    /// agent is killed: what was durable then, of each stream, any part. Each message comes once and whole.
    #[test]
    fn each_message_comes_once_and_whole(
        (out, err) in (parts(), parts()),
        order in prop::collection::vec(any::<bool>(), 1..20),
        cuts in prop::collection::vec((0.0..1.0f64, prop::option::of(0.0..=1.0f64)), 0..5),
        each in 1usize..6,
        emit_all in any::<bool>(),
    ) {
        let (file, whole) = interleave(&out, &err, &order);
        let pod = Pod::new();
        pod.append(b"");
        let config = pod.config(emit_all);
        // What one run over the whole file hands on.
        let reference = {
            let other = Pod::new();
            other.append(&file);
            let mut tailer = Tailer::new(other.config(emit_all), Resume::default()).unwrap();
            drain(&mut tailer, 1, usize::MAX)
        };
        if emit_all {
            prop_assert_eq!(&texts(&lines(&reference, |k| k.recorder)), &whole);
        }
        let mut tailer = Tailer::new(config.clone(), Resume::default()).unwrap();
        let (mut evidence, mut recorder): (Vec<LogLine>, Vec<LogLine>) = (Vec::new(), Vec::new());
        let mut cuts = cuts;
        cuts.sort_by(|a, b| a.0.total_cmp(&b.0));
        cuts.push((1.0, None));
        let mut written = 0;
        for (second, (upto, kill)) in (1u64..).zip(cuts) {
            let upto = (file.len() as f64 * upto) as usize;
            pod.append(&file[written..upto]);
            written = upto;
            let events = drain(&mut tailer, second * 2, each);
            let durable = kill.unwrap_or(1.0);
            let kept = (events.len() as f64 * durable).ceil() as usize;
            let kept = &events[..kept.min(events.len())];
            evidence.extend(lines(kept, |k| k.evidence));
            recorder.extend(lines(kept, |k| k.recorder));
            tailer.durable(kept.iter().filter_map(|e| match e {
                TailEvent::Line { mark, .. } | TailEvent::Progress(mark) => Some(mark.clone()),
                _ => None,
            }));
            if kill.is_some() {
                let checkpoint: Checkpoint = tailer.checkpoint().unwrap();
                let newest = |stream, lines: &[LogLine]| lines.last().map(|l| Journaled { stream, line: l.clone() });
                let journaled = newest(Stream::Evidence, &evidence)
                    .into_iter()
                    .chain(newest(Stream::Recorder, &recorder))
                    .collect();
                tailer = Tailer::new(config.clone(), Resume { checkpoint: Some(checkpoint), journaled }).unwrap();
            }
        }
        let bare = |lines: Vec<LogLine>| -> Vec<(u64, String, u32, Vec<String>)> {
            lines.into_iter().map(|l| (l.offset, String::from_utf8(l.line).unwrap(), l.parts, l.rules)).collect()
        };
        prop_assert_eq!(bare(recorder), bare(lines(&reference, |k| k.recorder)));
        prop_assert_eq!(bare(evidence), bare(lines(&reference, |k| k.evidence)));
    }
}

#[test]
fn a_message_says_whose_it_is_and_when_it_was_written() {
    let pod = Pod::new();
    let jwt = "password=hunter2";
    pod.append(
        format!(
            "2016-10-06T00:17:09.5Z stderr P bad thing, pass\n2016-10-06T00:17:09.6Z stderr F {}\nnot of the format\n",
            &jwt[4..]
        )
        .as_bytes(),
    );
    let mut tailer = Tailer::new(pod.config(true), Resume::default()).unwrap();
    let got = lines(&drain(&mut tailer, 1, 100), |k| k.recorder);
    let first = &got[0];
    // The secret was parted by the runtime; `^` is the message's beginning, not the line's.
    assert_eq!(first.line, b"bad thing, password=[masked:password]");
    assert_eq!((first.rules.join(""), first.output.as_str(), first.parts), ("bad".to_owned(), "stderr", 2));
    assert_eq!(first.written_wall_ns, Some(1_475_713_029_600_000_000));
    let whose = first.pod.as_ref().unwrap();
    assert_eq!(
        (whose.namespace.as_str(), whose.name.as_str(), whose.container.as_str()),
        ("shop", "web-0", "nginx")
    );
    assert_eq!(
        (got[1].line.as_slice(), got[1].parts, got[1].output.as_str()),
        (&b"not of the format"[..], 0, "")
    );
    assert!(got[1].pod.is_some() && got[1].written_wall_ns.is_none());

    let (node, incarnation): (NodeName, _) = ("n1".parse().unwrap(), Incarnation([1; 16]));
    let cite = RecordRef { node: node.clone(), incarnation, stream: Stream::Evidence, seq: 1 };
    let findings = Detectors::new(DetectConfig::default(), node, incarnation).on_log(at(1), first, &cite);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].pod, first.pod);
}

#[test]
fn a_rotation_or_a_long_silence_within_a_message_gives_what_is_there_as_cut() {
    let pod = Pod::new();
    pod.append(b"2016-10-06T00:17:09.5Z stdout P one \n2016-10-06T00:17:09.5Z stderr P other \n");
    let mut tailer = Tailer::new(pod.config(true), Resume::default()).unwrap();
    let recorded = |events: &[TailEvent]| -> Vec<(String, bool)> {
        lines(events, |k| k.recorder)
            .iter()
            .map(|l| (String::from_utf8_lossy(&l.line).into_owned(), l.truncated))
            .collect()
    };
    assert_eq!(recorded(&drain(&mut tailer, 1, 1)), []);
    assert_eq!(recorded(&drain(&mut tailer, 20, 1)), []);
    assert_eq!(
        recorded(&drain(&mut tailer, 40, 1)),
        [("one ".to_owned(), true), ("other ".to_owned(), true)]
    );
    pod.append(b"2016-10-06T00:17:09.5Z stdout F two\n2016-10-06T00:17:09.5Z stdout P three \n");
    assert_eq!(recorded(&drain(&mut tailer, 50, 1)), [("two".to_owned(), false)]);
    rename(&pod.log(), "0.log.20260101-000000");
    pod.append(b"2016-10-06T00:17:09.5Z stdout F four\n");
    let mut got = Vec::new();
    for second in 51..70 {
        tailer.hint_new();
        got.extend(recorded(&drain(&mut tailer, second, 1)));
    }
    got.sort();
    assert_eq!(got, [("four".to_owned(), false), ("three ".to_owned(), true)]);
}

fn rename(log: &Path, to: &str) {
    fs::rename(log, log.with_file_name(to)).unwrap();
}

#[test]
fn dockers_own_format_stays_as_it_is() {
    let pod = Pod::new();
    let line = r#"{"log":"x\n","stream":"stdout","time":"2016-10-06T00:17:09Z"}"#;
    pod.append(format!("{line}\n").as_bytes());
    let mut tailer = Tailer::new(pod.config(true), Resume::default()).unwrap();
    let got = lines(&drain(&mut tailer, 1, 100), |k| k.recorder);
    assert_eq!((texts(&got), got[0].parts), (vec![line.to_owned()], 0));
}

/// Under other folders, and through the links of `/var/log/containers`, which some look at alone.
#[test]
fn a_pods_file_is_known_wherever_it_lies_and_through_its_link() {
    let pod = Pod::new();
    let links = pod.dir.path().join("containers");
    fs::create_dir(&links).unwrap();
    let id = "0123456789abcdef".repeat(4);
    std::os::unix::fs::symlink(pod.log(), links.join(format!("web-0_shop_nginx-{id}.log"))).unwrap();
    // What a link leads to need not be laid as the kubelet lays it: docker's is not.
    let elsewhere = pod.dir.path().join("docker");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("x-json.log"), links.join(format!("api-0_shop_main-{id}.log")))
        .unwrap();
    fs::write(elsewhere.join("x-json.log"), "2026-01-01T00:00:00.000000001Z stderr F bad of api\n").unwrap();
    pod.append(
        b"2026-01-01T00:00:00.000000001Z stdout P bad \n2026-01-01T00:00:00.000000002Z stdout F of web\n",
    );
    for glob in ["containers/*.log", "*/*/*.log"] {
        let mut config = pod.config(true);
        config.globs = vec![format!("{}/{glob}", pod.dir.path().display())];
        config.link_roots = vec![pod.dir.path().to_owned()];
        let mut tailer = Tailer::new(config, Resume::default()).unwrap();
        let found = lines(&drain(&mut tailer, 1, usize::MAX), |k| k.evidence);
        let web =
            found.iter().find(|l| l.line == b"bad of web").unwrap_or_else(|| panic!("{glob}: {found:?}"));
        let who = web.pod.as_ref().unwrap();
        assert_eq!(
            (who.namespace.as_str(), who.name.as_str(), who.container.as_str()),
            ("shop", "web-0", "nginx")
        );
        assert_eq!((who.uid.as_str(), web.output.as_str()), (&FOLDER[11..], "stdout"), "{glob}");
        if glob.starts_with("containers") {
            let api = found.iter().find(|l| l.line == b"bad of api").unwrap_or_else(|| panic!("{found:?}"));
            let who = api.pod.as_ref().unwrap();
            assert_eq!(
                (who.name.as_str(), who.container.as_str(), who.container_id.as_str()),
                ("api-0", "main", id.as_str())
            );
        }
    }
}
