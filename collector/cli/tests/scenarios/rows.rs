//! What the canned desk has to tell: an incident with its finding and cleanup, a node's samples, events, a hold.

use dogwatch::wire;

use crate::canned::{HOSTILE, S, T0};

pub(crate) fn incident(n: u32, severity: wire::Severity, state: &str) -> wire::Incident {
    wire::Incident {
        id: format!("inc-2026-11-21-{n:03}"),
        title: "disk /var filling on node-1: 6 % left".into(),
        severity: severity.into(),
        state: state.into(),
        nodes: vec!["node-1".into()],
        opened_wall_ns: T0 + i64::from(n) * S,
        acknowledged_wall_ns: if state == "acknowledged" { T0 + 60 * S } else { 0 },
        acknowledged_by: if state == "acknowledged" { "rita".into() } else { String::new() },
        resolved_wall_ns: if state == "resolved" { T0 + 900 * S } else { 0 },
        reason: "disk-high-water on /var was raised at severity high: 94 % used".into(),
        findings: vec!["f-0000000000000001".into()],
        actions: vec!["a-0000000000000001".into()],
    }
}

fn record(seq: u64) -> wire::RecordRef {
    wire::RecordRef { node: "node-1".into(), incarnation: vec![0xab; 16].into(), stream: 2, seq }
}

pub(crate) fn finding() -> wire::FindingRow {
    wire::FindingRow {
        node: "node-1".into(),
        finding: Some(wire::Finding {
            id: "f-0000000000000001".into(),
            rule: "disk-high-water".into(),
            severity: wire::Severity::High.into(),
            state: wire::FindingState::Updated.into(),
            subject: Some(wire::Subject { kind: "mount".into(), name: "/var".into() }),
            summary: "/var is 94 % used, full in 20 min".into(),
            explanation: "available 6 % is below 10 %".into(),
            citations: vec![record(7)],
            facts: vec![wire::Fact { key: "available_bytes".into(), value: "6000".into() }],
            raised_wall_ns: T0,
            pod: None,
        }),
        updated_wall_ns: T0 + 2 * S,
        cleared_wall_ns: 0,
        incident: "inc-2026-11-21-001".into(),
        from_collector: false,
        count: 2,
    }
}

pub(crate) fn action(state: wire::ActionState) -> wire::ActionRow {
    let done = state == wire::ActionState::Done;
    let object = |path: &[u8], outcome| wire::PlannedObject {
        path: path.to_vec().into(),
        device: 66,
        inode: 12,
        size_bytes: 3 << 30,
        allocated_bytes: 3 << 30,
        mtime_ns: T0 - 86_400 * S,
        links: 1,
        cleaner: "rotated-logs".into(),
        tier: 1,
        why_safe: "rotated, and no process has it open".into(),
        outcome: if done { outcome } else { wire::ObjectOutcome::Unspecified }.into(),
        ..wire::PlannedObject::default()
    };
    let refused = wire::Refusal { path: b"/var/log/app.3".to_vec().into(), reason: "open in pid 77".into() };
    wire::ActionRow {
        node: "node-1".into(),
        action: Some(wire::Action {
            id: "a-0000000000000001".into(),
            mount: "/var".into(),
            mode: wire::CleanupMode::Plan.into(),
            state: state.into(),
            reason: "asked by alice".into(),
            actor: "alice".into(),
            planned_bytes: 9 << 30,
            freed_bytes: done.then_some(6 << 30),
            available_before_bytes: Some(1 << 30),
            available_after_bytes: done.then_some(7 << 30),
            unexplained_bytes: done.then_some(-4096),
            unexplained_reason: if done { "other writers".into() } else { String::new() },
            target_available_bytes: 7 << 30,
            objects: vec![
                object(b"/var/log/app.1", wire::ObjectOutcome::Removed),
                object(HOSTILE.as_bytes(), wire::ObjectOutcome::Removed),
                object(b"/var/log/\xff\xfe.3", wire::ObjectOutcome::Skipped),
            ],
            refused: if done { vec![refused] } else { vec![] },
            expires_wall_ns: T0 + 600 * S,
            ..wire::Action::default()
        }),
        wall_ns: T0 + 5 * S,
        incident: "inc-2026-11-21-001".into(),
    }
}

pub(crate) fn entries() -> Vec<wire::TimelineEntry> {
    let entry =
        |at: i64, kind: &str, severity: wire::Severity, actor: &str, summary: &str| wire::TimelineEntry {
            wall_ns: T0 + at * S,
            node: if kind == "state" { String::new() } else { "node-1".into() },
            kind: kind.into(),
            severity: severity.into(),
            summary: summary.into(),
            evidence: vec![record(7)],
            actor: actor.into(),
        };
    use wire::Severity::{High, Info};
    vec![
        entry(-60, "sample", Info, "node", "mount /var began to rise towards disk-high-water"),
        entry(0, "finding", High, "node", "disk-high-water: /var is 94 % used"),
        entry(1, "state", Info, "collector", "inc-2026-11-21-001 opened"),
        entry(2, "plan", Info, "node", "plan a-0000000000000001 for /var: free 9.0 GiB"),
        entry(5, "cleanup", Info, "node", "cleanup of /var freed 6.0 GiB of 9.0 GiB planned"),
        entry(6, "recovered", Info, "node", "disk-high-water: /var is 40 % used"),
    ]
}

pub(crate) fn event(n: i64) -> wire::Event {
    let hostile = n == 1;
    wire::Event {
        wall_ns: T0 + n * S,
        node: "node-1".into(),
        kind: "log".into(),
        severity: if hostile { wire::Severity::High } else { wire::Severity::Info }.into(),
        source: "/var/log/syslog".into(),
        message: if hostile { HOSTILE.into() } else { format!("line {n}") },
        fields: if n == 3 {
            [("namespace", "shop"), ("pod", "api-6d5f8-x2x7k"), ("container", "main"), ("offset", "30")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into()
        } else {
            [("seq".to_owned(), n.to_string())].into()
        },
    }
}

pub(crate) fn held(asked: &wire::Hold) -> wire::Hold {
    wire::Hold {
        id: "hold-00000001".into(),
        reason: "the auditors want it".into(),
        actor: "alice".into(),
        added_wall_ns: T0,
        confirmed_by: vec!["node-1".into()],
        state: "holding".into(),
        kept_bytes: Some(3 << 30),
        kept_files: 12,
        ..asked.clone()
    }
}

/// The `n`th of a node's samples, 10 s apart: /var fills, one pod's memory grows, another is throttled.
pub(crate) fn sample(n: i64) -> wire::Sample {
    let n = n as u64;
    let pressure = Some(wire::Pressure { some_avg10: n as f64 / 2.0, ..wire::Pressure::default() });
    let pod = |name: &str, container: &str| {
        Some(wire::Pod {
            namespace: "shop".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            container: container.into(),
            container_id: String::new(),
        })
    };
    let group = |name: &str, container: &str, memory: u64, throttled: u64| wire::Cgroup {
        path: format!("/kubepods/{name}/{container}"),
        version: 2,
        pod: pod(name, container),
        cpu_us_total: Some(n * 5_000_000),
        periods_total: Some(n * 100),
        throttled_periods_total: Some(n * throttled),
        cpu_limit_cores: Some(1.0),
        working_set_bytes: Some(memory),
        memory_limit_bytes: Some(1 << 30),
        read_bytes_total: Some(n << 20),
        written_bytes_total: Some(n << 22),
        oom_kills_total: Some(u64::from(throttled > 0)),
        ..wire::Cgroup::default()
    };
    wire::Sample {
        self_cost: Some(wire::SelfCost::default()),
        mounts: vec![wire::Mount {
            path: "/var".into(),
            fs: "ext4".into(),
            total_bytes: 100 << 30,
            free_bytes: (70 - n) << 30,
            available_bytes: (66 - n) << 30,
            ..wire::Mount::default()
        }],
        memory: Some(wire::Memory {
            total_bytes: 100,
            available_bytes: 100 - n,
            pressure,
            ..wire::Memory::default()
        }),
        cpu: Some(wire::Cpu {
            online: 4,
            user_us: n * 10_000_000,
            idle_us: n * 30_000_000,
            load1: 1.5,
            pressure,
            ..wire::Cpu::default()
        }),
        processes: vec![
            wire::Process {
                pid: 4711,
                name: "java\u{1b}[31m漢".into(),
                cpu_percent: 93.0,
                resident_bytes: 3 << 30,
                state: "R".into(),
                threads: 80,
                read_bytes_per_s: Some(1024.0),
                pod: pod("api-6d5f8-x2x7k", "main"),
                ..wire::Process::default()
            },
            wire::Process {
                pid: 1,
                name: "systemd".into(),
                resident_bytes: 9 << 20,
                state: "S".into(),
                ..wire::Process::default()
            },
        ],
        disks: vec![wire::Disk {
            name: "nvme0n1".into(),
            reads_total: n * 100,
            read_bytes_total: n << 24,
            read_time_ms_total: n * 200,
            writes_total: n * 100,
            written_bytes_total: n << 25,
            write_time_ms_total: n * 400,
            busy_ms_total: n * 5_000,
            in_flight: 3,
            ..wire::Disk::default()
        }],
        cgroups: vec![
            group("api-6d5f8-x2x7k", "main", (300 + 5 * n) << 20, 0),
            group("api-6d5f8-x2x7k", "sidecar", 10 << 20, 0),
            group("web\u{202e}-0", "main", 700 << 20, 60),
        ],
        ..wire::Sample::default()
    }
}

pub(crate) fn brake() -> wire::FleetBrake {
    let permit = |state: &str| wire::FleetPermit {
        node: "node-1".into(),
        action_id: format!("a-{state}"),
        mount: HOSTILE.into(),
        state: state.into(),
        planned_bytes: 1 << 30,
        canary: true,
        ..Default::default()
    };
    let waiting = wire::FleetWaiting {
        node: "node-2".into(),
        action_id: "a-2".into(),
        mount: "/var".into(),
        severity: wire::Severity::Critical.into(),
        seconds_to_full: Some(240.0),
        waited_seconds: 12.0,
    };
    wire::FleetBrake {
        state: "open".into(),
        max_nodes: 3,
        permits: vec![permit("acting"), permit("watched")],
        waiting: vec![waiting],
        notes: vec![format!("node node-7 alone stays stopped {HOSTILE}")],
        alone: vec![wire::FleetAlone {
            node: "node-7".into(),
            reason: HOSTILE.into(),
            revision: 5,
            lineage: u64::MAX,
        }],
        ..Default::default()
    }
}
