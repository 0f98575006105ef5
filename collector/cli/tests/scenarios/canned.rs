//! A desk with canned answers, on a real port, and a way to run the command line against it.

use std::io::Cursor;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use dogwatch::wire;
use dogwatch::wire::desk_server::{Desk, DeskServer};
pub(crate) use dogwatch_cli::Dial;
use dogwatch_cli::error::CliError;
use dogwatch_cli::{Cli, Io, Terminal, World, run};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
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
        acknowledged_wall_ns: 0,
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
        fields: [("seq".to_owned(), n.to_string())].into(),
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
            return Ok(Response::new(Box::pin(tokio_stream::iter((0..20_000).map(|n| Ok(event(n)))))));
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
        _: Request<wire::IncidentNoteRequest>,
    ) -> Result<Response<wire::Incident>, Status> {
        Err(Status::unimplemented("not canned"))
    }

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not canned"))
    }

    async fn get_samples(
        &self,
        _: Request<wire::GetSamplesRequest>,
    ) -> Result<Response<Self::GetSamplesStream>, Status> {
        Err(Status::unimplemented("not canned"))
    }

    async fn add_hold(&self, _: Request<wire::AddHoldRequest>) -> Result<Response<wire::Hold>, Status> {
        Err(Status::unimplemented("not canned"))
    }

    async fn release_hold(
        &self,
        _: Request<wire::ReleaseHoldRequest>,
    ) -> Result<Response<wire::Hold>, Status> {
        Err(Status::unimplemented("not canned"))
    }

    async fn get_holds(
        &self,
        _: Request<wire::GetHoldsRequest>,
    ) -> Result<Response<wire::GetHoldsResponse>, Status> {
        Err(Status::unimplemented("not canned"))
    }

    async fn get_status(
        &self,
        _: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        Err(Status::unimplemented("not canned"))
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
}

pub(crate) async fn desk() -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let canned = Canned::default();
    let asked = canned.asked.clone();
    let server = Server::builder().add_service(DeskServer::new(canned));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Running { address, asked }
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
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = Cursor::new(how.answer.unwrap_or_default().to_owned());
    let mut io = Io {
        out: &mut out,
        err: &mut err,
        input: &mut input,
        terminal: Terminal { columns: how.columns, color: how.color, can_ask: how.answer.is_some() },
    };
    let cli = Cli::try_parse_from(std::iter::once("dogwatch").chain(args.iter().copied()));
    let outcome = match cli {
        Ok(cli) => {
            let world = World { now_ns: T0, env: Box::new(|_| None), dial };
            run(cli, &world, &mut io).await
        }
        Err(e) => Err(CliError::Usage(e.to_string())),
    };
    let mut err = String::from_utf8(err).unwrap();
    let code = match outcome {
        Ok(()) => 0,
        Err(e) => {
            err.push_str(&format!("{e}\n"));
            e.exit_code()
        }
    };
    Ran { code, out: String::from_utf8(out).unwrap(), err }
}
