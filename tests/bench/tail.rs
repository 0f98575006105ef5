//! Log tail: MB per core-second of the agent's own tailer on a file, beside `grep -cE` with the same patterns and a loop
//! that only reads and counts lines.
//!
//! The tailer runs as shipped, budgets included; its seconds are simulated from the bytes that it read, so that a
//! budget of 64 MiB a second costs no waiting. That every side found the same lines is checked, not assumed.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dogwatch::record::Moment;
use dogwatch_agent::tail::{Resume, RuleSet, Start, TailConfig, TailEvent, Tailer};

use super::process::{children_time, thread_time};
use super::table::{Limit, Table};

/// Size of the log.
const LOG_BYTES: u64 = 256 << 20;
/// Each side runs so often; the best run counts, for what disturbs only ever adds.
const RUNS: usize = 3;
/// One line in so many is one that a shipped rule matches.
const MATCH_EVERY: u64 = 2_000;
const LIMIT_MB: f64 = 1_000.0;
/// What reads and counts reads so much at once, as the tailer does.
const READ_BYTES: usize = 256 * 1024;

/// Rules of the kind that people add, up to thirty in all.
const MORE_RULES: &[&str] = &[
    "panic: runtime error",
    "Traceback \\(most recent call last\\)",
    "java\\.lang\\.OutOfMemoryError",
    "Exception in thread \"[a-z-]{1,64}\"",
    "CrashLoopBackOff|ImagePullBackOff|ErrImagePull",
    "Liveness probe failed|Readiness probe failed",
    "FailedMount|FailedAttachVolume",
    "NodeNotReady|node not ready",
    "too many open files",
    "Connection refused|connection reset by peer",
    "certificate has expired|x509: ",
    "TLS handshake (error|timeout)",
    "deadlock detected|Lock wait timeout exceeded",
    "FATAL:  |PANIC:  ",
    "upstream timed out|no live upstreams",
    "etcdserver: (request timed out|mvcc: database space exceeded)",
    "link is not ready|Link is Down",
];

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let dir = tempfile::TempDir::with_prefix("dogwatch-bench-").context("a temporary folder")?;
    let log = dir.path().join("app.log");
    let shipped = RuleSet::parse("shipped rules", &shipped_text())?;
    write_log(&log)?;
    let thirty = thirty(&shipped)?;
    let bytes = std::fs::metadata(&log)?.len();

    let plain = best(|| read_and_count(&log))?;
    for (what, rules) in [("default rules", &shipped), ("30 rules", &thirty)] {
        let (grepped, grep) = grep(&log, rules)?;
        let label = format!("log tail, {} {what}", rules.rules().len()).replace("30 30", "30");
        let tailed = best(|| tail(&log, rules, false, grepped))?;
        let rate = mb_per_second(bytes, tailed);
        let peer = mb_per_second(bytes, grep);
        table.row(&label, rate, "MB/core-s", Some(("grep -cE", peer)), Limit::AtLeast(LIMIT_MB));
        let counted = mb_per_second(bytes, plain);
        table.row(
            format!("{label} (again)"),
            rate,
            "MB/core-s",
            Some(("read + count lines", counted)),
            Limit::None,
        );
        let recorded = best(|| tail(&log, rules, true, grepped))?;
        table.row(
            format!("{label}, all lines to the recorder"),
            mb_per_second(bytes, recorded),
            "MB/core-s",
            Some(("grep -cE", peer)),
            Limit::AtLeast(LIMIT_MB),
        );
    }
    table.remark(format!(
        "tail: {} MB of mixed log lines, one match in {MATCH_EVERY}; best of {RUNS}; matches agree with grep's",
        bytes / 1_000_000
    ));
    Ok(())
}

fn mb_per_second(bytes: u64, cpu: Duration) -> f64 {
    bytes as f64 / 1e6 / cpu.as_secs_f64()
}

fn best(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        best = best.min(run()?);
    }
    Ok(best)
}

/// Lines such as nodes write them, repeatable.
fn write_log(path: &Path) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut written, mut n) = (0, 0u64);
    while written < LOG_BYTES {
        let r = random();
        let second = n / 1000;
        let stamp =
            format!("2026-03-14T{:02}:{:02}:{:02}", second / 3600 % 24, second / 60 % 60, second % 60);
        n += 1;
        let line = if n.is_multiple_of(MATCH_EVERY) {
            match r % 3 {
                0 => format!(
                    "{stamp} node kernel: EXT4-fs error (device sda1): ext4_find_entry:1455: inode #{r}\n"
                ),
                1 => format!("{stamp} app[{}]: write /data/{r:x}: no space left on device\n", r % 30_000),
                _ => format!(
                    "{stamp} sshd[{}]: Failed password for root from 10.0.0.{} port 22\n",
                    r % 30_000,
                    r % 250
                ),
            }
        } else {
            match r % 4 {
                0 => format!(
                    "10.{}.{}.{} - - [{stamp}] \"GET /api/v1/items/{} HTTP/1.1\" 200 {} \"-\" \"Mozilla/5.0 (X11; Linux x86_64)\"\n",
                    r % 256,
                    r / 256 % 256,
                    r / 65_536 % 256,
                    r % 100_000,
                    r % 50_000
                ),
                1 => format!(
                    "{stamp}.{:09}Z stdout F {{\"level\":\"info\",\"msg\":\"request served\",\"trace\":\"{r:016x}\",\"ms\":{}}}\n",
                    r % 1_000_000_000,
                    r % 900
                ),
                2 => format!(
                    "{stamp} node kubelet[812]: I0314 {} pod_workers.go:{}] Syncing pod default/web-{r:x}\n",
                    r % 1_000_000,
                    r % 999
                ),
                _ => format!(
                    "{stamp} INFO  [worker-{}] c.e.app.Service - processed batch {} in {} ms, queue depth {}\n",
                    r % 64,
                    r % 1_000_000,
                    r % 3_000,
                    r % 100
                ),
            }
        };
        out.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    out.flush().context("writing the log")
}

/// The shipped rules, those for the kernel's words looking at this log, too.
fn shipped_text() -> String {
    RuleSet::shipped_text().replace("    source: '{kmsg,/var/log/*}'\n", "")
}

fn thirty(shipped: &RuleSet) -> Result<RuleSet> {
    let mut text = shipped_text().replace("masks: []", "");
    for (i, pattern) in MORE_RULES.iter().take(30 - shipped.rules().len()).enumerate() {
        let quoted = pattern.replace('\'', "''");
        text += &format!("  - {{ name: more-{i}, match: '{quoted}', severity: low, summary: more }}\n");
    }
    let rules = RuleSet::parse("thirty rules", &text)?;
    ensure!(rules.rules().len() == 30, "{} rules", rules.rules().len());
    Ok(rules)
}

/// The whole log through a tailer that is as shipped; CPU time of it. Fails unless as many lines match as `wanted`.
fn tail(log: &Path, rules: &RuleSet, emit_all: bool, wanted: u64) -> Result<Duration> {
    let config = TailConfig {
        globs: vec![log.display().to_string()],
        start: Start::Beginning,
        rules: rules.clone(),
        emit_all,
        ..TailConfig::default()
    };
    let size = std::fs::metadata(log)?.len();
    let per_second = config.bytes_per_second;
    let mut tailer = Tailer::new(config, Resume::default())?;
    let mut now = Moment { wall_ns: 1_700_000_000_000_000_000, boot_ns: 1_000_000_000 };
    let began = thread_time()?;
    let mut handed_on = 0u64;
    let mut turns_without = 0;
    while tailer.stats().bytes < size {
        let turn = tailer.turn(now, &mut |event| {
            handed_on += u64::from(matches!(event, TailEvent::Line { .. }));
            ControlFlow::Continue(())
        });
        turns_without = if turn.bytes == 0 { turns_without + 1 } else { 0 };
        ensure!(
            turns_without < 10_000,
            "the tailer reads nothing more at {} of {size}",
            tailer.stats().bytes
        );
        let passed = (u128::from(turn.bytes) * 1_000_000_000 / u128::from(per_second)) as u64;
        let passed = passed.max(if turn.bytes == 0 { 10_000_000 } else { 0 });
        now.boot_ns += passed;
        now.wall_ns += passed as i64;
    }
    let cpu = thread_time()? - began;
    let found = tailer.stats().matches;
    ensure!(found == wanted, "the tailer found {found} lines, grep {wanted}");
    ensure!(handed_on >= found || emit_all, "{handed_on} lines handed on, {found} matched");
    Ok(cpu)
}

/// How many lines `grep -cE` finds, and its best CPU time.
fn grep(log: &Path, rules: &RuleSet) -> Result<(u64, Duration)> {
    let mut count = 0;
    let cpu = best(|| {
        let mut command = Command::new("grep");
        command.arg("-cE").env("LC_ALL", "C").stderr(Stdio::inherit());
        for rule in rules.rules() {
            // POSIX has no \d; nothing else in the patterns differs.
            command.arg("-e").arg(rule.pattern.replace("\\d", "[0-9]"));
        }
        let before = children_time()?;
        let out = command.arg(log).output().context("grep, from Debian's package of that name")?;
        let cpu = children_time()?.saturating_sub(before);
        count = String::from_utf8_lossy(&out.stdout).trim().parse().context("grep's count")?;
        Ok(cpu)
    })?;
    Ok((count, cpu))
}

fn read_and_count(log: &Path) -> Result<Duration> {
    let began = thread_time()?;
    let mut file = File::open(log)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut lines = 0u64;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        lines += memchr::memchr_iter(b'\n', &buffer[..n]).count() as u64;
    }
    ensure!(lines > 0, "no lines");
    Ok(thread_time()? - began)
}
