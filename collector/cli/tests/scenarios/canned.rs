//! A desk with canned answers, on a real port, and a way to run the command line against it.

use std::io::Cursor;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use dogwatch::wire;
use dogwatch::wire::desk_server::{Desk, DeskServer};
pub(crate) use dogwatch_cli::Dial;
use dogwatch_cli::error::CliError;
use dogwatch_cli::{Cli, Io, Terminal, World, run};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

pub(crate) const S: i64 = 1_000_000_000;
/// 2026-11-21T02:10:00Z.
pub(crate) const T0: i64 = 1_795_227_000 * S;
/// Everything that a node could put into a name to fool whoever reads it.
pub(crate) const HOSTILE: &str = "/var/log/\u{1b}[2J\u{202e}gpj.exe\r\n漢字";

/// What the desk was asked, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Debug, Clone, Default)]
struct Canned {
    asked: Asked,
    watches: Arc<AtomicU64>,
    /// Whether dogwatch itself is well.
    well: Arc<AtomicBool>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stream<T: Send + 'static>(items: Vec<T>) -> Response<Answer<T>> {
    Response::new(Box::pin(tokio_stream::iter(items.into_iter().map(Ok))))
}

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
            target_available_bytes: 10 << 30,
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

fn entries() -> Vec<wire::TimelineEntry> {
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

fn event(n: i64) -> wire::Event {
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

fn known(id: &str) -> Result<(), Status> {
    if id == "inc-2026-11-21-001" {
        return Ok(());
    }
    Err(Status::not_found(format!("there is no incident {id}; `dogwatch get incidents` lists them")))
}

#[tonic::async_trait]
impl Desk for Canned {
    async fn get_nodes(
        &self,
        r: Request<wire::GetNodesRequest>,
    ) -> Result<Response<wire::GetNodesResponse>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        let mount = |path: &str, used: u64, read_only| wire::MountRow {
            path: path.into(),
            fs: "ext4".into(),
            total_bytes: 100 << 30,
            used_bytes: used << 30,
            available_bytes: (95 - used) << 30,
            inodes_total: 6_553_600,
            inodes_free: 6_000_000,
            read_only,
            seconds_to_full: (used > 80).then_some(1_260.0),
        };
        let one = wire::NodeRow {
            name: "node-1".into(),
            state: "connected".into(),
            last_seen_wall_ns: T0,
            agent_version: "0.1.0".into(),
            mounts: vec![mount("/", 20, false), mount("/var", 89, false)],
            mode: wire::CleanupMode::Plan.into(),
            records_total: 5,
            sampled_wall_ns: T0,
            sample: Some(sample(60)),
            ..wire::NodeRow::default()
        };
        let two = wire::NodeRow {
            name: "node-2".into(),
            state: "silent".into(),
            mounts: vec![wire::MountRow {
                inodes_total: 0,
                inodes_free: 0,
                ..mount("/mnt/データ", 10, true)
            }],
            ..wire::NodeRow::default()
        };
        let three =
            wire::NodeRow { name: "node-3".into(), state: "never-seen".into(), ..wire::NodeRow::default() };
        let wanted = r.into_inner().nodes;
        let nodes =
            [one, two, three].into_iter().filter(|n| wanted.is_empty() || wanted.contains(&n.name)).collect();
        Ok(Response::new(wire::GetNodesResponse { nodes }))
    }

    type WatchStream = Answer<wire::WatchEvent>;
    type GetSamplesStream = Answer<wire::SampleRow>;
    type GetIncidentsStream = Answer<wire::Incident>;
    async fn get_incidents(
        &self,
        r: Request<wire::GetIncidentsRequest>,
    ) -> Result<Response<Self::GetIncidentsStream>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        if r.get_ref().selector.as_ref().is_some_and(|s| s.nodes == ["many"]) {
            let all = r.get_ref().limit;
            return Ok(stream((1..=all).map(|n| incident(n, wire::Severity::High, "open")).collect()));
        }
        Ok(stream(vec![
            incident(2, wire::Severity::Critical, "acknowledged"),
            incident(1, wire::Severity::High, "open"),
            incident(3, wire::Severity::Medium, "resolved"),
        ]))
    }

    type GetFindingsStream = Answer<wire::FindingRow>;
    async fn get_findings(
        &self,
        r: Request<wire::GetFindingsRequest>,
    ) -> Result<Response<Self::GetFindingsStream>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        Ok(stream(vec![finding()]))
    }

    type GetActionsStream = Answer<wire::ActionRow>;
    async fn get_actions(
        &self,
        r: Request<wire::GetActionsRequest>,
    ) -> Result<Response<Self::GetActionsStream>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        Ok(stream(vec![action(wire::ActionState::Done)]))
    }

    type GetEventsStream = Answer<wire::Event>;
    async fn get_events(
        &self,
        r: Request<wire::GetEventsRequest>,
    ) -> Result<Response<Self::GetEventsStream>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        if r.get_ref().node == "many" {
            return Ok(Response::new(Box::pin(tokio_stream::iter(
                (0..20_000).map(|n| Ok(wire::Event { node: "many".into(), ..event(n) })),
            ))));
        }
        Ok(stream((0..4).map(event).collect()))
    }

    async fn describe_incident(
        &self,
        r: Request<wire::IncidentRequest>,
    ) -> Result<Response<wire::IncidentDetail>, Status> {
        known(&r.get_ref().id)?;
        Ok(Response::new(wire::IncidentDetail {
            incident: Some(incident(1, wire::Severity::High, "open")),
            findings: vec![finding()],
            actions: vec![action(wire::ActionState::Done)],
            timeline: entries(),
            belongs: vec!["f-0000000000000001: the finding that opened it".into()],
        }))
    }

    type TimelineStream = Answer<wire::TimelineEntry>;
    async fn timeline(
        &self,
        r: Request<wire::IncidentRequest>,
    ) -> Result<Response<Self::TimelineStream>, Status> {
        known(&r.get_ref().id)?;
        Ok(stream(entries()))
    }

    async fn plan(&self, r: Request<wire::PlanRequest>) -> Result<Response<wire::ActionRow>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        match r.get_ref().mount.as_str() {
            "/var" => Ok(Response::new(action(wire::ActionState::Planned))),
            "/" => {
                let mut row = action(wire::ActionState::Refused);
                let a = row.action.as_mut().unwrap();
                a.mount = "/".into();
                a.objects.clear();
                a.refused = vec![wire::Refusal { path: vec![].into(), reason: "/ is never cleaned".into() }];
                Ok(Response::new(row))
            }
            "/clean" => {
                let mut row = action(wire::ActionState::Planned);
                row.action.as_mut().unwrap().objects.clear();
                Ok(Response::new(row))
            }
            _ => Err(Status::failed_precondition("node-1 is not connected; its plan would never come")),
        }
    }

    async fn apply(&self, r: Request<wire::ApplyRequest>) -> Result<Response<wire::ActionRow>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        Ok(Response::new(action(wire::ActionState::Done)))
    }

    async fn acknowledge(
        &self,
        r: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        known(&r.get_ref().id)?;
        Ok(Response::new(incident(1, wire::Severity::High, "acknowledged")))
    }

    async fn resolve(
        &self,
        r: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        known(&r.get_ref().id)?;
        Err(Status::failed_precondition(format!("{} was resolved by bob", r.get_ref().id)))
    }

    async fn add_note(
        &self,
        r: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        Ok(Response::new(incident(1, wire::Severity::High, "open")))
    }

    async fn reopen(
        &self,
        r: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        known(&r.get_ref().id)?;
        self.asked.note(format!("Reopen{:?}", r.get_ref()));
        Ok(Response::new(incident(1, wire::Severity::High, "open")))
    }

    /// The first watch ends as if the collector went away; the second goes on for ever.
    async fn watch(&self, r: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        let told = |at: i64, what| Ok(wire::WatchEvent { wall_ns: T0 + at * S, what: Some(what) });
        use wire::watch_event::What;
        if self.watches.fetch_add(1, Ordering::SeqCst) == 0 {
            let first = vec![
                told(0, What::Incident(incident(1, wire::Severity::High, "open"))),
                told(1, What::Finding(finding())),
                told(2, What::Action(action(wire::ActionState::Done))),
                told(3, What::Event(event(1))),
                told(4, What::Missed(7)),
                Err(Status::unavailable("the collector stops")),
            ];
            return Ok(Response::new(Box::pin(tokio_stream::iter(first))));
        }
        let later = vec![
            told(9, What::Event(event(9))),
            told(10, What::Incident(incident(2, wire::Severity::Low, "resolved"))),
        ];
        Ok(Response::new(Box::pin(tokio_stream::iter(later).chain(tokio_stream::pending()))))
    }

    async fn get_samples(
        &self,
        r: Request<wire::GetSamplesRequest>,
    ) -> Result<Response<Self::GetSamplesStream>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        if r.get_ref().node != "node-1" {
            return Ok(stream(vec![]));
        }
        let row = |n: i64| wire::SampleRow {
            node: "node-1".into(),
            wall_ns: T0 + (n - 60) * 10 * S,
            sample: Some(sample(n)),
        };
        Ok(stream((0..60).map(row).collect()))
    }

    async fn add_hold(&self, r: Request<wire::AddHoldRequest>) -> Result<Response<wire::Hold>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        let asked = r.into_inner().hold.unwrap_or_default();
        if asked.incident == "inc-2026-11-21-009" {
            return Err(Status::not_found("there is no incident inc-2026-11-21-009"));
        }
        Ok(Response::new(wire::Hold { reason: asked.reason.clone(), ..held(&asked) }))
    }

    async fn release_hold(
        &self,
        r: Request<wire::ReleaseHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        match r.get_ref().id.as_str() {
            "hold-00000001" => Ok(Response::new(wire::Hold {
                state: "released".into(),
                released_wall_ns: T0 + 60 * S,
                released_by: "bob".into(),
                ..held(&wire::Hold { path: "/var/log/app".into(), ..wire::Hold::default() })
            })),
            id => Err(Status::not_found(format!("there is no hold {id}"))),
        }
    }

    async fn get_holds(
        &self,
        r: Request<wire::GetHoldsRequest>,
    ) -> Result<Response<wire::GetHoldsResponse>, Status> {
        let one = held(&wire::Hold { path: HOSTILE.into(), ..wire::Hold::default() });
        let two = wire::Hold {
            id: "hold-00000002".into(),
            state: "pending".into(),
            ..held(&wire::Hold {
                namespace: "shop".into(),
                pod: "api".into(),
                node: "node-1".into(),
                ..wire::Hold::default()
            })
        };
        let three = wire::Hold {
            id: "hold-00000003".into(),
            state: "released".into(),
            released_wall_ns: T0,
            released_by: "bob".into(),
            ..held(&wire::Hold { incident: "inc-2026-11-21-001".into(), ..wire::Hold::default() })
        };
        let holds = if r.get_ref().released { vec![one, two, three] } else { vec![one, two] };
        Ok(Response::new(wire::GetHoldsResponse { holds }))
    }

    async fn get_status(
        &self,
        _: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        let check = |subject: &str, name: &str, severity: wire::Severity, words: &str, remedy: &str| {
            wire::StatusCheck {
                subject: subject.into(),
                name: name.into(),
                severity: severity.into(),
                words: words.into(),
                remedy: remedy.into(),
            }
        };
        let mut checks = vec![
            check(
                "collector",
                "store",
                wire::Severity::Info,
                "the store holds 3.0 GiB, 40.0 GiB are free",
                "",
            ),
            check("node-1", "uplink", wire::Severity::Info, "connected for 3 h", ""),
        ];
        if !self.well.load(Ordering::SeqCst) {
            checks.insert(0, check(
                "node-2",
                "uplink",
                wire::Severity::High,
                "nothing was heard of it for 20 min; it holds what it could not hand over, as far as its journal reaches",
                "look at the agent's pod on node-2, and at the network between",
            ));
            checks.insert(1, check("node-\u{1b}[2J", "clock", wire::Severity::Low, "2 s ahead \u{202e}", ""));
        }
        Ok(Response::new(wire::GetStatusResponse {
            collector_version: "0.1.0".into(),
            started_wall_ns: T0 - 12_000 * S,
            checks,
        }))
    }
}

fn held(asked: &wire::Hold) -> wire::Hold {
    wire::Hold {
        id: "hold-00000001".into(),
        reason: "the auditors want it".into(),
        actor: "alice".into(),
        added_wall_ns: T0,
        confirmed_by: vec!["node-1".into()],
        state: "holding".into(),
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

/// The canned desk as a service, for a server of the caller's.
pub(crate) fn service() -> DeskServer<impl Desk> {
    DeskServer::new(Canned::default())
}

/// A running desk; it ends with the test's runtime.
pub(crate) struct Running {
    address: SocketAddr,
    pub(crate) asked: Asked,
    pub(crate) well: Arc<AtomicBool>,
}

pub(crate) async fn desk() -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let canned = Canned::default();
    let (asked, well) = (canned.asked.clone(), canned.well.clone());
    let server = Server::builder().add_service(DeskServer::new(canned));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Running { address, asked, well }
}

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// How a command is run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How<'a> {
    pub(crate) columns: Option<usize>,
    pub(crate) color: bool,
    pub(crate) answer: Option<&'a str>,
}

impl Running {
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        self.run_as(How::default(), args).await
    }

    /// Runs what has no end, until `done` holds of what it wrote to stdout and stderr.
    pub(crate) async fn run_until(
        &self,
        how: How<'_>,
        args: &[&str],
        done: impl Fn(&str, &str) -> bool,
    ) -> Ran {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        let (out, err) = (Shared::default(), Shared::default());
        let (mut to, mut talk) = (out.clone(), err.clone());
        let run = run_into(Dial::Over(channel), how, args, (&mut to, &mut talk));
        let until = async {
            loop {
                if done(&out.text(), &err.text()) {
                    break;
                }
                tokio::select! { _ = out.written.notified() => {}, _ = err.written.notified() => {} }
            }
        };
        let code = tokio::select! {
            code = run => code,
            _ = until => 0,
            _ = tokio::time::sleep(std::time::Duration::from_secs(30)) => {
                panic!("{args:?} never wrote what was waited for:\n{}\n{}", out.text(), err.text())
            }
        };
        Ran { code, out: out.text(), err: err.text() }
    }

    pub(crate) async fn run_as(&self, how: How<'_>, args: &[&str]) -> Ran {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        run_with(Dial::Over(channel), how, args).await
    }
}

/// Over a channel to a port that nobody listens on.
pub(crate) async fn run_without_desk(args: &[&str]) -> Ran {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    run_with(Dial::Over(channel), How::default(), args).await
}

pub(crate) async fn run_with(dial: Dial, how: How<'_>, args: &[&str]) -> Ran {
    let (out, err) = (Shared::default(), Shared::default());
    let code = run_into(dial, how, args, (&mut out.clone(), &mut err.clone())).await;
    Ran { code, out: out.text(), err: err.text() }
}

/// What is written, while it is written.
#[derive(Debug, Clone, Default)]
struct Shared {
    bytes: Arc<Mutex<Vec<u8>>>,
    written: Arc<tokio::sync::Notify>,
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        self.written.notify_one();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn run_into(dial: Dial, how: How<'_>, args: &[&str], (out, err): (&mut Shared, &mut Shared)) -> u8 {
    let mut input = Cursor::new(how.answer.unwrap_or_default().to_owned());
    let mut io = Io {
        out,
        err,
        input: &mut input,
        terminal: Terminal {
            columns: how.columns,
            color: how.color,
            can_ask: how.answer.is_some(),
            ..Terminal::default()
        },
    };
    let cli = Cli::try_parse_from(std::iter::once("dogwatch").chain(args.iter().copied()));
    let outcome = match cli {
        Ok(cli) => {
            let world = World { now_ns: T0, env: Box::new(|_| None), dial, called: "dogwatch" };
            run(cli, &world, &mut io).await
        }
        Err(e) => Err(CliError::Usage(e.to_string())),
    };
    match outcome {
        Ok(()) => 0,
        Err(e) => {
            writeln!(io.err, "{e}").unwrap();
            e.exit_code()
        }
    }
}
