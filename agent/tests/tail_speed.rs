//! How fast lines are searched: printed, and held above a floor that an accidental slow path would break.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

mod tail_rig;

use std::fs;
use std::time::Instant;

use dogwatch_agent::tail::RuleSet;
use tail_rig::{Rig, thread_seconds};

#[test]
fn thirty_rules_search_a_log_at_speed() {
    search("a log", "*.log", "a.log", "");
}

#[test]
fn thirty_rules_search_a_pods_log_at_speed() {
    let folder = "shop_web-0_0f3c1b1e-1111-4222-8333-444455556666/web";
    search(
        "a pod's log",
        "*/*/*.log",
        &format!("{folder}/0.log"),
        "2026-11-21T01:02:03.123456789Z stdout F ",
    );
}

fn search(what: &str, glob: &str, log_path: &str, prefix: &str) {
    let mut rig = Rig::new(glob);
    rig.config.emit_all = false;
    // The kernel's words are looked for in this log, too.
    let mut text =
        RuleSet::shipped_text().replace("masks: []", "").replace("    source: '{kmsg,/var/log/*}'\n", "");
    for n in text.matches("- name:").count()..30 {
        text.push_str(&format!("\n  - {{name: extra-{n}, match: 'unit-{n}: (failed|timed out) after [0-9]+', severity: low, summary: s}}"));
    }
    rig.config.rules = RuleSet::parse("thirty", &text).unwrap();
    assert_eq!(rig.config.rules.rules().len(), 30);
    let mut log = String::new();
    let mut n = 0u64;
    while log.len() < 256 << 20 {
        n += 1;
        log.push_str(prefix);
        log.push_str(&format!("2026-11-21T01:{:02}:{:02}.{:06}Z node-{} app[{}]: GET /api/v1/items/{n} 200 {}ms error=0 user=alice\n", n / 60 % 60, n % 60, n % 1_000_000, n % 7, n % 4096, n % 300));
        if n.is_multiple_of(100_000) {
            log.push_str(prefix);
            log.push_str("kernel: Out of memory: Killed process 42 (java) total-vm:1kB\n");
        }
    }
    fs::create_dir_all(rig.path(log_path).parent().unwrap()).unwrap();
    fs::write(rig.path(log_path), &log).unwrap();
    let (before, wall) = (thread_seconds(), Instant::now());
    rig.turn();
    let seconds = thread_seconds() - before;
    let stats = rig.tailer.as_ref().unwrap().stats();
    let rate = stats.bytes as f64 / 1e6 / seconds;
    eprintln!(
        "{what}: {rate:.0} MB per core-second ({:.2} s wall), {} lines, {} matches",
        wall.elapsed().as_secs_f64(),
        stats.lines,
        stats.matches
    );
    assert_eq!(stats.matches, n / 100_000);
    assert!(rate > 100.0, "{rate:.0} MB/s");
}
