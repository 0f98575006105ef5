//! The section `detect`: every detector's thresholds.

use std::time::Duration;

use dogwatch::config::Section;

use crate::detect::{DetectConfig, Hold, LONGEST_BOUND, LimitConfig, MountClass, RULES, WaterMarks};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads the section.
pub(super) fn detect(s: &mut Section) -> DetectConfig {
    let mut c = DetectConfig::default();
    rules(s, &mut c);
    disks(s, &mut c);
    memory(s, &mut c);
    compute(s, &mut c);
    storage(s, &mut c);
    network(s, &mut c);
    limits(s, &mut c);
    clock(s, &mut c);
    s.section("kernel_trouble", |s| quiet(s, &mut c.kernel.quiet));
    s.section("container_crash_loop", |s| {
        let l = &mut c.crash_loop;
        l.restarts = s.number("restarts", l.restarts, 1..=50);
        l.unnamed_restarts = s.number("unnamed_restarts", l.unnamed_restarts, 1..=50);
        window(s, &mut l.window);
    });
    s.section("logs", |s| {
        let l = &mut c.logs;
        l.update_interval = s.duration("update_every", l.update_interval, SECOND..=DAY);
        quiet(s, &mut l.quiet);
    });
    c
}

fn rules(s: &mut Section, c: &mut DetectConfig) {
    s.section("rules", |s| {
        for (i, rule) in s.texts("off").unwrap_or_default().into_iter().enumerate() {
            if !RULES.contains(&rule.as_str()) {
                let remedy = format!("give one of {}", RULES.join(", "));
                s.problem(&format!("off[{i}]"), &rule, "is not a rule that is built in", remedy);
            }
            c.off.insert(rule);
        }
        c.update_interval = s.duration("update_every", c.update_interval, SECOND..=DAY);
    });
}

fn disks(s: &mut Section, c: &mut DetectConfig) {
    c.disk.space = marks(s, "space", c.disk.space);
    c.disk.inodes = marks(s, "inodes", c.disk.inodes);
    let (space, inodes) = (c.disk.space, c.disk.inodes);
    c.disk.classes = s.each("mounts", |s| mount_class(s, space, inodes)).unwrap_or_default();
    s.section("disk", |s| {
        c.disk.raise_ticks = s.number("raise_ticks", c.disk.raise_ticks, 1..=3600);
        c.disk.clear_ticks = s.number("clear_ticks", c.disk.clear_ticks, 1..=3600);
        c.disk.ignore = s.texts("ignore").unwrap_or_default().into_iter().collect();
    });
    s.section("time_to_full", |s| {
        let f = &mut c.forecast;
        f.bound = s.duration("bound", f.bound, SECOND..=LONGEST_BOUND);
        f.critical = s.duration("critical", f.critical, Duration::ZERO..=LONGEST_BOUND);
        f.min_history = s.duration("min_history", f.min_history, SECOND * 2..=DAY);
        f.noise_floor_bytes = s.bytes("noise_floor_bytes", f.noise_floor_bytes, 0..=1 << 50);
    });
}

/// Marks under `key`; what is not given there is as in `general`.
fn marks(s: &mut Section, key: &str, general: WaterMarks) -> WaterMarks {
    s.section(key, |s| {
        let marks = WaterMarks {
            high_used: s.fraction("high_used", general.high_used),
            low_used: s.fraction("low_used", general.low_used),
            serious_used: s.fraction("serious_used", general.serious_used),
            critical_used: s.fraction("critical_used", general.critical_used),
        };
        s.rising(&[
            ("low_used", marks.low_used),
            ("high_used", marks.high_used),
            ("serious_used", marks.serious_used),
            ("critical_used", marks.critical_used),
        ]);
        marks
    })
}

fn mount_class(s: &mut Section, space: WaterMarks, inodes: WaterMarks) -> MountClass {
    let paths = s.texts("paths").unwrap_or_default();
    for (i, path) in paths.iter().enumerate() {
        if !path.starts_with('/') {
            s.problem(
                &format!("paths[{i}]"),
                path,
                "is not absolute",
                "give mount points; /srv/** is all beneath /srv",
            );
        }
    }
    let class = MountClass {
        fstypes: s.texts("fstypes").unwrap_or_default(),
        at_least_bytes: s.bytes("at_least", 0, 0..=1 << 60),
        space: marks(s, "space", space),
        inodes: marks(s, "inodes", inodes),
        paths,
    };
    if class.paths.is_empty() && class.fstypes.is_empty() && class.at_least_bytes == 0 {
        let remedy =
            "give paths, fstypes or at_least; marks of every mount are detect.space and detect.inodes";
        s.problem("paths", "[]", "nothing says which mounts are meant", remedy);
    }
    class
}

fn memory(s: &mut Section, c: &mut DetectConfig) {
    s.section("memory", |s| {
        let m = &mut c.memory;
        percent(s, "some_avg10", &mut m.some_avg10);
        percent(s, "full_avg10", &mut m.full_avg10);
        m.min_available = s.fraction("min_available", m.min_available);
        m.critical_available = s.fraction("critical_available", m.critical_available);
        m.clear_available = s.fraction("clear_available", m.clear_available);
        m.growth_floor_bytes = s.bytes("growth_floor_bytes", m.growth_floor_bytes, 1..=1 << 50);
    });
    s.section("cgroup_memory", |s| {
        let m = &mut c.cgroup_memory;
        m.high_used = s.fraction("high_used", m.high_used);
        m.serious_used = s.fraction("serious_used", m.serious_used);
        m.clear_used = s.fraction("clear_used", m.clear_used);
        s.rising(&[
            ("clear_used", m.clear_used),
            ("high_used", m.high_used),
            ("serious_used", m.serious_used),
        ]);
        m.growth = s.fraction("growth", m.growth);
        window(s, &mut m.window);
        percent(s, "some_avg10", &mut m.some_avg10);
        percent(s, "thrash_avg60", &mut m.thrash_avg60);
        hold(s, &mut m.hold);
    });
    s.section("oom_kill", |s| {
        quiet(s, &mut c.oom.quiet);
        c.oom.grace = s.duration("grace", c.oom.grace, SECOND..=SECOND * 60);
    });
    s.section("swap_storm", |s| {
        let w = &mut c.swap;
        w.bytes_per_second = s.bytes("bytes_per_second", w.bytes_per_second, 1..=1 << 40);
        window(s, &mut w.window);
        percent(s, "some_avg10", &mut w.some_avg10);
        percent(s, "serious_avg10", &mut w.serious_avg10);
        s.rising(&[("some_avg10", w.some_avg10), ("serious_avg10", w.serious_avg10)]);
        hold(s, &mut w.hold);
    });
}

fn compute(s: &mut Section, c: &mut DetectConfig) {
    s.section("cpu_saturation", |s| {
        let p = &mut c.cpu;
        percent(s, "some_avg60", &mut p.some_avg60);
        p.run_queue = s.number("run_queue", p.run_queue, 0.0..=1000.0);
        percent(s, "serious_avg60", &mut p.serious_avg60);
        p.serious_run_queue = s.number("serious_run_queue", p.serious_run_queue, 0.0..=1000.0);
        percent(s, "clear_avg60", &mut p.clear_avg60);
        s.rising(&[
            ("clear_avg60", p.clear_avg60),
            ("some_avg60", p.some_avg60),
            ("serious_avg60", p.serious_avg60),
        ]);
        hold(s, &mut p.hold);
    });
    s.section("cpu_steal", |s| {
        let p = &mut c.steal;
        shares(s, &mut p.share, &mut p.serious_share, &mut p.clear_share);
        window(s, &mut p.window);
        hold(s, &mut p.hold);
    });
    s.section("cpu_throttling", |s| {
        let p = &mut c.throttling;
        shares(s, &mut p.share, &mut p.serious_share, &mut p.clear_share);
        p.min_periods = s.number("min_periods", p.min_periods, 1..=u64::MAX);
        p.min_throttled = s.duration("min_throttled", p.min_throttled, Duration::ZERO..=DAY);
        window(s, &mut p.window);
        hold(s, &mut p.hold);
    });
    s.section("fork_storm", |s| {
        let p = &mut c.forks;
        p.min_per_second = s.number("min_per_second", p.min_per_second, 1.0..=1e9);
        p.factor = s.number("factor", p.factor, 1.0..=1e6);
        window(s, &mut p.window);
        p.normal_over = s.duration("normal_over", p.normal_over, SECOND * 10..=DAY);
        hold(s, &mut p.hold);
    });
    s.section("zombies", |s| {
        let z = &mut c.zombies;
        z.count = s.number("count", z.count, 1..=u64::MAX);
        z.growth = s.number("growth", z.growth, 0..=u64::MAX);
        z.serious_count = s.number("serious_count", z.serious_count, 1..=u64::MAX);
        z.clear_count = s.number("clear_count", z.clear_count, 1..=u64::MAX);
        s.rising(&[("clear_count", z.clear_count), ("count", z.count), ("serious_count", z.serious_count)]);
        window(s, &mut z.window);
        hold(s, &mut z.hold);
    });
    s.section("hung_tasks", |s| {
        let h = &mut c.hung;
        h.after = s.duration("after", h.after, SECOND..=DAY);
        h.serious = s.duration("serious", h.serious, SECOND..=DAY);
        s.rising(&[("after", h.after), ("serious", h.serious)]);
        quiet(s, &mut h.quiet);
        hold(s, &mut h.hold);
    });
}

fn storage(s: &mut Section, c: &mut DetectConfig) {
    s.section("io_stall", |s| {
        let i = &mut c.io;
        percent(s, "full_avg10", &mut i.full_avg10);
        percent(s, "full_avg60", &mut i.full_avg60);
        percent(s, "serious_avg60", &mut i.serious_avg60);
        percent(s, "clear_avg10", &mut i.clear_avg10);
        s.rising(&[("clear_avg10", i.clear_avg10), ("full_avg10", i.full_avg10)]);
        s.rising(&[("full_avg60", i.full_avg60), ("serious_avg60", i.serious_avg60)]);
        hold(s, &mut i.hold);
        i.dead_after = s.duration("dead_after", i.dead_after, SECOND * 2..=DAY);
        i.dead_critical = s.duration("dead_critical", i.dead_critical, SECOND * 2..=DAY);
        s.rising(&[("dead_after", i.dead_after), ("dead_critical", i.dead_critical)]);
    });
    s.section("disk_errors", |s| {
        let e = &mut c.disk_errors;
        e.min_errors = s.number("min_errors", e.min_errors, 1..=u64::MAX);
        window(s, &mut e.window);
        quiet(s, &mut e.quiet);
    });
}

fn network(s: &mut Section, c: &mut DetectConfig) {
    s.section("interface_errors", |s| {
        let i = &mut c.interfaces;
        shares(s, &mut i.share, &mut i.serious_share, &mut i.clear_share);
        i.min_packets_per_second = s.number("min_packets_per_second", i.min_packets_per_second, 0.0..=1e9);
        window(s, &mut i.window);
        hold(s, &mut i.hold);
    });
    s.section("tcp_retransmits", |s| {
        let r = &mut c.retransmits;
        shares(s, &mut r.share, &mut r.serious_share, &mut r.clear_share);
        r.min_segments = s.number("min_segments", r.min_segments, 1..=u64::MAX);
        window(s, &mut r.window);
        hold(s, &mut r.hold);
    });
    s.section("listen_overflows", |s| {
        let l = &mut c.listen;
        l.overflows = s.number("overflows", l.overflows, 1..=u64::MAX);
        l.serious_overflows = s.number("serious_overflows", l.serious_overflows, 1..=u64::MAX);
        s.rising(&[("overflows", l.overflows), ("serious_overflows", l.serious_overflows)]);
        window(s, &mut l.window);
        hold(s, &mut l.hold);
    });
}

fn limits(s: &mut Section, c: &mut DetectConfig) {
    let limit = |s: &mut Section, l: &mut LimitConfig| {
        l.high_used = s.fraction("high_used", l.high_used);
        l.serious_used = s.fraction("serious_used", l.serious_used);
        l.critical_used = s.fraction("critical_used", l.critical_used);
        l.clear_used = s.fraction("clear_used", l.clear_used);
        s.rising(&[
            ("clear_used", l.clear_used),
            ("high_used", l.high_used),
            ("serious_used", l.serious_used),
            ("critical_used", l.critical_used),
        ]);
        hold(s, &mut l.hold);
    };
    s.section("conntrack", |s| {
        limit(s, &mut c.conntrack);
        quiet(s, &mut c.conntrack.quiet);
    });
    s.section("descriptors", |s| limit(s, &mut c.descriptors));
    s.section("pids", |s| {
        limit(s, &mut c.pids);
        quiet(s, &mut c.pids.quiet);
    });
}

fn clock(s: &mut Section, c: &mut DetectConfig) {
    s.section("clock", |s| {
        let k = &mut c.clock;
        k.jump = s.duration("jump", k.jump, Duration::from_millis(100)..=DAY);
        k.serious_jump = s.duration("serious_jump", k.serious_jump, Duration::from_millis(100)..=DAY * 365);
        s.rising(&[("jump", k.jump), ("serious_jump", k.serious_jump)]);
        quiet(s, &mut k.quiet);
        k.offset = s.duration("offset", k.offset, Duration::from_millis(1)..=DAY);
        k.clear_offset = s.duration("clear_offset", k.clear_offset, Duration::from_millis(1)..=DAY);
        s.rising(&[("clear_offset", k.clear_offset), ("offset", k.offset)]);
        k.lasting = s.duration("lasting", k.lasting, Duration::ZERO..=DAY);
        hold(s, &mut k.hold);
    });
}

fn shares(s: &mut Section, share: &mut f64, serious: &mut f64, clear: &mut f64) {
    *share = s.fraction("share", *share);
    *serious = s.fraction("serious_share", *serious);
    *clear = s.fraction("clear_share", *clear);
    s.rising(&[("clear_share", *clear), ("share", *share), ("serious_share", *serious)]);
}

fn hold(s: &mut Section, hold: &mut Hold) {
    hold.raise_ticks = s.number("raise_ticks", hold.raise_ticks, 1..=86_400);
    hold.clear_ticks = s.number("clear_ticks", hold.clear_ticks, 1..=86_400);
}

fn window(s: &mut Section, window: &mut Duration) {
    *window = s.duration("window", *window, SECOND * 2..=DAY);
}

fn quiet(s: &mut Section, quiet: &mut Duration) {
    *quiet = s.duration("quiet", *quiet, SECOND..=DAY);
}

fn percent(s: &mut Section, key: &str, percent: &mut f64) {
    *percent = s.number(key, *percent, 0.0..=100.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_findings_has_an_entry_for_each_rule_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/FINDINGS.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (own, _) = page.split_once("\n## Log rules").expect("the built-in rules come first");
        let entries: Vec<&str> = own
            .lines()
            .filter_map(|l| l.strip_prefix("| `"))
            .filter_map(|l| l.split_once('`'))
            .map(|(rule, _)| rule)
            .collect();
        for rule in RULES {
            assert_eq!(entries.iter().filter(|e| e == &rule).count(), 1, "{rule}");
        }
        for entry in entries {
            assert!(RULES.contains(&entry), "{entry} is no rule");
        }
    }

    #[test]
    fn every_rule_can_be_switched_off_by_its_name() {
        let off = format!("[{}]", RULES.join(", "));
        let environment =
            [("NODE_NAME".to_owned(), "n1".to_owned()), ("DOGWATCH_DETECT__RULES__OFF".to_owned(), off)];
        let config = crate::config::Config::load(None, environment).unwrap();
        assert_eq!(config.detect.off.len(), RULES.len());
    }
}
