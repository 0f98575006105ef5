//! Memory that runs short, and logs that speak.

use std::time::Duration;

use dogwatch::record::FindingState::{Cleared, Raised, Updated};
use dogwatch::record::Severity::{Critical, High, Medium};
use dogwatch::record::{Pressure, Process, Sample};

use super::super::{DetectConfig, LogConfig, LogRule};
use super::*;

fn memory(available_percent: u64, some: f64, full: f64) -> Memory {
    Memory {
        total_bytes: 100 * GIB,
        available_bytes: available_percent * GIB,
        pressure: Some(Pressure { some_avg10: some, full_avg10: full, ..Pressure::default() }),
        oom_kills_total: Some(3),
        ..Memory::default()
    }
}

#[test]
fn pressure_must_last_and_names_the_largest() {
    let mut rig = Rig::new();
    let with_processes = |memory| Sample {
        memory: Some(memory),
        processes: (1..=7)
            .map(|i| Process {
                pid: i,
                name: format!("p{i}"),
                resident_bytes: u64::from(i) * GIB,
                ..Process::default()
            })
            .collect(),
        ..Sample::default()
    };
    for _ in 0..4 {
        assert_eq!(rig.sample(&with_processes(memory(50, 80.0, 20.0))), []);
    }
    assert_eq!(rig.memory(memory(50, 0.0, 0.0)), [], "a spike");
    for _ in 0..4 {
        assert_eq!(rig.sample(&with_processes(memory(50, 80.0, 20.0))), []);
    }
    let out = rig.memory(memory(50, 80.0, 20.0));
    assert_eq!(states(&out), [("memory-pressure", Raised, High)]);
    assert_eq!(out[0].subject.to_string(), "memory node-1");
    assert_eq!(fact(&out[0], "process_1_name"), "p7 (pid 7)", "also when this very sample has no processes");
    assert_eq!(fact(&out[0], "process_5_resident_bytes"), (3 * GIB).to_string());
    assert!(out[0].summary.contains("p7 (pid 7) with 7.0 GiB"), "{}", out[0].summary);
    assert_eq!(states(&rig.memory(memory(1, 80.0, 20.0))), [("memory-pressure", Updated, Critical)]);
    assert_eq!(rig.sample(&Sample::default()), [], "a sample without memory says nothing");
    for _ in 0..14 {
        assert_eq!(rig.memory(memory(50, 1.0, 0.0)), []);
    }
    assert_eq!(rig.memory(memory(50, 25.0, 0.0)), [], "half of the threshold is not calm");
    for _ in 0..14 {
        assert_eq!(rig.memory(memory(50, 1.0, 0.0)), []);
    }
    assert_eq!(states(&rig.memory(memory(50, 1.0, 0.0))), [("memory-pressure", Cleared, Critical)]);
}

#[test]
fn without_psi_the_bytes_decide() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.memory(Memory { pressure: None, ..memory(4, 0.0, 0.0) });
    }
    assert_eq!(rig.raised("memory-pressure").len(), 1);
    for _ in 0..20 {
        rig.memory(Memory { pressure: None, ..memory(6, 0.0, 0.0) });
    }
    assert_eq!(rig.active.len(), 1, "between the marks it stays");
}

#[test]
fn pressure_alone_is_medium() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.memory(memory(50, 45.0, 2.0));
    }
    assert_eq!(rig.raised("memory-pressure")[0].1.severity, Medium);
}

fn log_rig() -> Rig {
    let rule = LogRule {
        name: "oom-kill".to_owned(),
        severity: High,
        summary: "the kernel killed a process for want of memory".to_owned(),
        security: None,
    };
    Rig::with(DetectConfig {
        logs: LogConfig { rules: vec![rule], ..LogConfig::default() },
        ..DetectConfig::default()
    })
}

#[test]
fn what_a_rule_says_of_security_its_finding_says_to_the_end() {
    for security in [None, Some(true), Some(false)] {
        let rule = LogRule {
            name: "shell-in-container".to_owned(),
            severity: High,
            summary: "somebody opened a shell".to_owned(),
            security,
        };
        let quiet = std::time::Duration::from_secs(5);
        let logs = LogConfig { rules: vec![rule], quiet, ..LogConfig::default() };
        let mut rig = Rig::with(DetectConfig { logs, ..DetectConfig::default() });
        let mut findings = rig.log("app.log", &["shell-in-container"], "exec sh");
        for _ in 0..10 {
            findings.extend(rig.sample(&Sample::default()));
        }
        assert_eq!(findings.len(), 2, "raised and cleared");
        for finding in &findings {
            let said = finding.facts.iter().find(|f| f.key == "security").map(|f| f.value.as_str());
            assert_eq!(said, security.map(|s| if s { "true" } else { "false" }), "{finding:?}");
        }
    }
}

#[test]
fn repeated_lines_fold_into_one_finding() {
    let mut rig = log_rig();
    assert_eq!(rig.log("kmsg", &[], "nothing"), []);
    let out = rig.log("kmsg", &["oom-kill"], "Out of memory: Killed process 1");
    assert_eq!(states(&out), [("oom-kill", Raised, High)]);
    assert_eq!(
        out[0].summary,
        "the kernel killed a process for want of memory: 1 line in kmsg, last: Out of memory: Killed process 1"
    );
    let mut updates = Vec::new();
    for second in 1..=100 {
        for i in 0..10 {
            updates.extend(rig.log("kmsg", &["oom-kill"], &format!("line {second}.{i}")));
        }
        updates.extend(rig.sample(&Sample::default()));
    }
    assert_eq!(updates.len(), 3, "each 30 s");
    assert!(updates.iter().all(|f| f.state == Updated));
    // The rest is told although no line comes any more, and after five quiet minutes it is over.
    let mut quiet = Vec::new();
    for _ in 0..400 {
        quiet.extend(rig.sample(&Sample::default()));
    }
    assert_eq!(states(&quiet), [("oom-kill", Updated, High), ("oom-kill", Cleared, High)]);
    assert_eq!(fact(&quiet[0], "matches"), "1001");
    assert!(quiet[1].summary.contains("1001 lines in all"), "{}", quiet[1].summary);
    assert_eq!(states(&rig.log("kmsg", &["oom-kill"], "again")), [("oom-kill", Raised, High)]);
}

#[test]
fn a_rule_that_is_not_configured_is_told_all_the_same() {
    let mut rig = log_rig();
    let out = rig.log("/var/log/x", &["newer"], "\u{1b}[31mred\u{7}");
    assert_eq!(states(&out), [("newer", Raised, Medium)]);
    assert!(out[0].summary.contains("\u{1b}[31mred\u{7}"), "escaping is the display's");
}

#[test]
fn long_lines_are_cut_and_sources_are_bounded() {
    let mut rig = log_rig();
    let out = rig.log("a", &["oom-kill"], &"ä".repeat(5_000));
    assert!(out[0].summary.chars().count() < 300);
    for i in 0..3_000 {
        rig.log(&format!("/var/log/pods/{i}"), &["oom-kill"], "x");
    }
    assert_eq!(rig.detectors.active().len(), 1_001);
    assert!(rig.active.values().any(|f| f.subject.name == "(other sources)"));
}

#[test]
fn an_earlier_runs_log_finding_is_cleared_after_the_quiet_time() {
    let mut first = log_rig();
    first.log("kmsg", &["oom-kill"], "x");
    let config = LogConfig { quiet: Duration::from_secs(10), ..LogConfig::default() };
    let mut second = Rig::run(DetectConfig { logs: config, ..DetectConfig::default() }, 2);
    second.seed(&first);
    for _ in 0..10 {
        assert_eq!(second.sample(&Sample::default()), []);
    }
    assert_eq!(states(&second.sample(&Sample::default())), [("oom-kill", Cleared, High)]);
}

#[test]
fn what_is_not_the_detectors_is_given_back() {
    let mut first = Rig::new();
    first.mounts(&[mount("/", GIB, 0)]);
    let own = first.all[0].1.clone();
    let mut foreign = own.clone();
    foreign.rule = "cleanup-refill".to_owned();
    let mut rig = Rig::run(DetectConfig::default(), 2);
    assert_eq!(rig.detectors.seed(vec![own.clone(), foreign.clone(), own.clone()]), [foreign, own]);
}
