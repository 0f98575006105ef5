use super::*;
use crate::tail::RuleSet;

const SECOND: u64 = 1_000_000_000;

fn at(second: u64) -> Now {
    let at =
        Moment { wall_ns: 1_000_000 * SECOND as i64 + (second * SECOND) as i64, boot_ns: second * SECOND };
    Now { at, monotonic_us: second * 1_000_000 }
}

fn config() -> KernelConfig {
    let text = "rules:\n  - {name: bad, match: 'bad thing', severity: high, summary: s, context_before: 2, context_after: 1}\n";
    KernelConfig {
        rules: RuleSet::parse("test", text).unwrap(),
        lines_per_second: 10,
        evidence_lines_per_second: 2,
        ..KernelConfig::default()
    }
}

fn chooser(recorded: Recorded, now: Now) -> Chooser {
    let config = config();
    Chooser::new(&config, Judge::new(&config.rules, SOURCE, 1000).unwrap(), true, recorded, now)
}

fn say(chooser: &mut Chooser, seq: u64, priority: u32, text: &str, now: Now) {
    let message = Message { seq, priority, at_us: now.monotonic_us, text: text.as_bytes().to_vec() };
    chooser.take(&message, now);
}

/// `e12` for a line of the evidence stream, `r12` for one of the recorder stream, `er12` for both, `gap evidence 3`.
fn shown(events: Vec<Event>) -> Vec<String> {
    events
        .into_iter()
        .map(|e| match e {
            Event::Line { line, keep, .. } => {
                let flag = |on: bool, c: &'static str| if on { c } else { "" };
                format!("{}{}{}", flag(keep.evidence, "e"), flag(keep.recorder, "r"), line.offset)
            }
            Event::Gap(g) => format!("gap {} {}", g.stream, g.count.map_or("?".into(), |c| c.to_string())),
            Event::Note(text) => format!("note {text}"),
            Event::Unable(text) => format!("unable {text}"),
        })
        .collect()
}

#[test]
fn matches_take_their_context_along_and_urgent_lines_need_no_rule() {
    let now = at(10);
    let mut c = chooser(Recorded::default(), now);
    for (seq, priority, text) in [
        (5, 6, "one"),
        (6, 6, "two"),
        (7, 6, "three"),
        (8, 6, "a bad thing, password=x"),
        (9, 6, "after"),
        (10, 6, "quiet"),
        (11, 4, "a warning"),
        (12, 6, "bad thing"),
    ] {
        say(&mut c, seq, priority, text, now);
    }
    let events = std::mem::take(&mut c.out);
    let Some(Event::Line { line, .. }) =
        events.iter().find(|e| matches!(e, Event::Line { line, .. } if line.offset == 8))
    else {
        panic!("{events:?}")
    };
    assert_eq!(line.line, b"a bad thing, password=[masked:password]");
    assert_eq!(
        (line.rules.clone(), line.priority, line.source.as_str()),
        (vec!["bad".to_owned()], Some(6), "kmsg")
    );
    assert_eq!(line.written_wall_ns, Some(now.at.wall_ns));
    // 11 is in the evidence stream when 12 asks for two lines before it.
    assert_eq!(shown(events), ["r5", "r6", "r7", "e6", "e7", "er8", "er9", "r10", "er11", "e10", "er12"]);
    assert_eq!(c.mark(), Some(Mark { next: 13, evidence_to: Some(12) }));
}

#[test]
fn holes_in_the_numbers_are_gaps_with_their_count() {
    let now = at(10);
    let mut c = chooser(Recorded { floor: Some(100), ..Recorded::default() }, now);
    say(&mut c, 103, 6, "x", now);
    say(&mut c, 104, 6, "x", now);
    say(&mut c, 204, 6, "x", now);
    assert_eq!(
        shown(std::mem::take(&mut c.out)),
        ["gap evidence 3", "r103", "r104", "gap evidence 99", "r204"]
    );
    c.overwritten(now);
    assert_eq!(shown(std::mem::take(&mut c.out)), ["gap evidence ?"]);
}

#[test]
fn a_flood_is_cut_and_counted_and_leaves_room_for_what_matters() {
    let mut c = chooser(Recorded::default(), at(10));
    for seq in 0..10_000 {
        say(&mut c, seq, 4, "warning of a flood", at(10));
    }
    let flood = std::mem::take(&mut c.out);
    let count = |stream: fn(Keep) -> bool| {
        flood.iter().filter(|e| matches!(e, Event::Line { keep, .. } if stream(*keep))).count()
    };
    // Half of the evidence's 20, all of the recorder's 100.
    assert_eq!((count(|k| k.evidence), count(|k| k.recorder)), (10, 100));
    assert_eq!(c.mark().map(|m| m.next), Some(10), "not beyond what no gap has said");
    say(&mut c, 10_000, 6, "bad thing", at(10));
    assert_eq!(shown(std::mem::take(&mut c.out)), ["e10000"]);
    c.say_dropped(at(10), false);
    assert!(c.out.is_empty() && c.owes());
    c.say_dropped(at(11), false);
    assert_eq!(shown(std::mem::take(&mut c.out)), ["gap evidence 9990", "gap recorder 9901"]);
    assert_eq!(c.mark().map(|m| m.next), Some(10_001));
    assert!(!c.owes());
}

#[test]
fn only_what_is_new_enough_is_recorded_at_the_first_start() {
    let mut c = chooser(Recorded::default(), at(7200));
    for (seq, second) in [(0, 5), (1, 3599), (2, 3601), (3, 3600), (4, 7000)] {
        let message = Message { seq, priority: 6, at_us: second * 1_000_000 - 1, text: b"x".to_vec() };
        c.take(&message, at(7200));
    }
    assert_eq!(shown(std::mem::take(&mut c.out)), ["r2", "r3", "r4"]);
    c.caught_up(config().history);
    let said = shown(std::mem::take(&mut c.out)).join(" ");
    assert!(said.contains("from 3600 s") && said.contains("2 older"), "{said}");
}

#[test]
fn a_report_of_the_oom_killer_is_evidence_from_end_to_end() {
    let now = at(10);
    let mut c = chooser(Recorded::default(), now);
    for (seq, text) in (0u64..).zip([
        "x",
        "a invoked oom-killer: b",
        "Mem-Info:",
        "Out of memory: Killed process 1 (a)",
        "oom_reaper: reaped process 1",
        "x",
    ]) {
        say(&mut c, seq, 6, text, now);
    }
    assert_eq!(shown(std::mem::take(&mut c.out)), ["r0", "er1", "er2", "er3", "er4", "r5"]);
}

#[test]
fn messages_are_judged_faster_than_a_kernel_prints_them() {
    let config = KernelConfig { lines_per_second: 1_000_000, ..KernelConfig::default() };
    let judge = Judge::new(&config.rules, SOURCE, 16 * 1024).unwrap();
    let mut c = Chooser::new(&config, judge, true, Recorded::default(), at(10));
    let cpu = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
    };
    let messages = 50_000u64;
    let before = cpu();
    for seq in 0..messages {
        let record = format!(
            "6,{seq},9000000,-;eth0: renamed from veth{seq}, promiscuous mode entered on port 3(br0)\n SUBSYSTEM=net\n"
        );
        c.take(&super::super::record::parse(record.as_bytes()).unwrap(), at(10));
    }
    let rate = messages as f64 / (cpu() - before);
    eprintln!("{rate:.0} kernel messages per core-second");
    assert_eq!(c.out.len() as u64, messages);
    assert!(rate > 5_000.0, "{rate:.0}");
}

#[test]
fn what_an_earlier_run_judged_is_read_for_the_recorder_stream_alone() {
    let now = at(10);
    // Evidence is sealed soon after a finding, the recorder stream later: a kill in between leaves it behind.
    let mut c = chooser(Recorded { floor: Some(5), recorder_to: None, evidence_to: Some(8) }, now);
    for seq in [7, 8, 9] {
        say(&mut c, seq, 6, "bad thing", now);
    }
    let said: Vec<_> = std::mem::take(&mut c.out)
        .into_iter()
        .filter_map(|e| match e {
            Event::Line { line, keep, judged } => Some((line.offset, keep.evidence, keep.recorder, judged)),
            _ => None,
        })
        .collect();
    assert_eq!(said, [(7, false, true, true), (8, false, true, true), (9, true, true, false)]);
}
