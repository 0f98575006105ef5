//! A desk with canned answers, on a real port. What it answers with is in [`crate::rows`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dogwatch::wire;
use dogwatch::wire::desk_server::{Desk, DeskServer};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::rows::{action, brake, entries, event, finding, held, incident, sample};

pub(crate) const S: i64 = 1_000_000_000;
/// 2026-11-21T02:10:00Z.
pub(crate) const T0: i64 = 1_795_227_000 * S;
/// Everything that a node could put into a name to fool whoever reads it.
pub(crate) const HOSTILE: &str = "/var/log/\u{1b}[2J\u{202e}gpj.exe\r\n漢字";

/// A plan that falls short when it is applied.
const SHORT: &str = "a-0000000000000002";
/// A plan that is carried out once the node was asked for its figures twice; many files stay.
const SLOW: &str = "a-0000000000000003";

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
    /// Times that the node `slow` was asked for.
    looks: Arc<AtomicU64>,
    /// Whether dogwatch itself is well.
    well: Arc<AtomicBool>,
    /// How the brake stands, once it was set.
    brake: Arc<Mutex<Option<wire::FleetBrake>>>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stream<T: Send + 'static>(items: Vec<T>) -> Response<Answer<T>> {
    Response::new(Box::pin(tokio_stream::iter(items.into_iter().map(Ok))))
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
        if wanted == ["slow"] {
            self.looks.fetch_add(1, Ordering::SeqCst);
            let (action_id, objects, objects_done, freed_bytes) = (SLOW.into(), 3, 1, 1 << 30);
            let acting = vec![wire::ActionProgress { action_id, objects, objects_done, freed_bytes }];
            let nodes = vec![wire::NodeRow { name: "slow".into(), acting, ..one }];
            return Ok(Response::new(wire::GetNodesResponse { nodes }));
        }
        if wanted == ["full"] {
            let nothing_left = |path, read_only| wire::MountRow {
                available_bytes: 0,
                seconds_to_full: None,
                ..mount(path, 95, read_only)
            };
            let mounts =
                vec![mount("/", 20, false), nothing_left("/var", false), nothing_left("/media", true)];
            let full = wire::NodeRow { name: "full".into(), mounts, ..one };
            return Ok(Response::new(wire::GetNodesResponse { nodes: vec![full] }));
        }
        let nodes =
            [one, two, three].into_iter().filter(|n| wanted.is_empty() || wanted.contains(&n.name)).collect();
        Ok(Response::new(wire::GetNodesResponse { nodes }))
    }

    type WatchStream = Answer<wire::WatchEvent>;
    type GetSamplesStream = Answer<wire::SampleRow>;
    type GetPreservedStream = Answer<wire::FileSeen>;
    async fn get_preserved(
        &self,
        r: Request<wire::GetPreservedRequest>,
    ) -> Result<Response<Self::GetPreservedStream>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        Ok(stream(vec![]))
    }

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
        if r.get_ref().node == "slow" {
            let mut row = action(wire::ActionState::Planned);
            row.node = "slow".into();
            row.action.as_mut().unwrap().id = SLOW.into();
            return Ok(Response::new(row));
        }
        match r.get_ref().mount.as_str() {
            "/var" | "/var/" => Ok(Response::new(action(wire::ActionState::Planned))),
            "/var/lib" => {
                let mut row = action(wire::ActionState::Planned);
                row.action.as_mut().unwrap().id = SHORT.into();
                Ok(Response::new(row))
            }
            "/roomy" => {
                let mut row = action(wire::ActionState::Refused);
                let a = row.action.as_mut().unwrap();
                a.mount = "/roomy".into();
                a.objects.clear();
                a.detail = "nothing needs to go: 90.0 GiB are available, 20.0 GiB are wanted".into();
                Ok(Response::new(row))
            }
            "/nowhere" => Err(Status::not_found("this node has no /nowhere")),
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
                let a = row.action.as_mut().unwrap();
                a.mount = "/clean".into();
                a.objects.clear();
                Ok(Response::new(row))
            }
            _ => Err(Status::failed_precondition("node-1 is not connected; its plan would never come")),
        }
    }

    async fn apply(&self, r: Request<wire::ApplyRequest>) -> Result<Response<wire::ActionRow>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        let mut row = action(wire::ActionState::Done);
        if r.get_ref().action_id == SLOW {
            let enough = self.looks.load(Ordering::SeqCst) + 2;
            while self.looks.load(Ordering::SeqCst) < enough {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            row.node = "slow".into();
            let a = row.action.as_mut().unwrap();
            a.id = SLOW.into();
            let reason = |i: u32| format!("it changed {i} s ago, younger than 24 h");
            let path = |i: u32| format!("/var/log/young.{i}").into_bytes().into();
            a.refused.splice(0..0, (1..=30).map(|i| wire::Refusal { path: path(i), reason: reason(i) }));
        }
        if r.get_ref().action_id == SHORT {
            let a = row.action.as_mut().unwrap();
            a.id = SHORT.into();
            a.target_available_bytes = 10 << 30;
            let refused = |path: &[u8], reason: &str| wire::Refusal {
                path: path.to_vec().into(),
                reason: reason.into(),
            };
            a.refused = vec![
                refused(b"/var/log/app.3", "open elsewhere: pid 77 (java)"),
                refused(b"/var/log/app.4", "held: hold-00000001 the auditors want it"),
            ];
        }
        Ok(Response::new(row))
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
        if asked.path == "/nowhere" {
            // The node's word comes a moment later: see the list.
            let pending = wire::Hold { state: "pending".into(), confirmed_by: vec![], ..held(&asked) };
            return Ok(Response::new(wire::Hold { id: "hold-00000004".into(), ..pending }));
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
            kept_unknown: 1,
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
            kept_bytes: None,
            kept_files: 0,
            ..held(&wire::Hold { incident: "inc-2026-11-21-001".into(), ..wire::Hold::default() })
        };
        if self.asked.all().iter().any(|a| a.contains("\"/nowhere\"")) {
            let four = held(&wire::Hold { path: "/nowhere".into(), ..wire::Hold::default() });
            let four = wire::Hold { id: "hold-00000004".into(), absent_on: vec!["node-1".into()], ..four };
            return Ok(Response::new(wire::GetHoldsResponse { holds: vec![four] }));
        }
        let holds = if r.get_ref().released { vec![one, two, three] } else { vec![one, two] };
        Ok(Response::new(wire::GetHoldsResponse { holds }))
    }

    async fn get_brake(
        &self,
        _: Request<wire::GetBrakeRequest>,
    ) -> Result<Response<wire::FleetBrake>, Status> {
        Ok(Response::new(self.brake.lock().unwrap().clone().unwrap_or_else(brake)))
    }

    async fn set_brake(
        &self,
        r: Request<wire::SetBrakeRequest>,
    ) -> Result<Response<wire::FleetBrake>, Status> {
        let ask = r.into_inner();
        let mut stands = self.brake.lock().unwrap();
        let before = stands.clone().unwrap_or_else(brake);
        let mut brake = wire::FleetBrake { alone: Vec::new(), ..brake() };
        match ask.order() {
            wire::BrakeOrder::Release if ask.revision != before.revision => {
                return Err(Status::failed_precondition(format!(
                    "stopped again meanwhile: {}",
                    before.reason
                )));
            }
            wire::BrakeOrder::Release => {
                let meant = |a: &wire::FleetAlone| {
                    ask.alone.contains(&wire::FleetAlone { reason: String::new(), ..a.clone() })
                };
                let alone = before.alone.into_iter().filter(|a| !meant(a)).collect();
                // One that does not name whom it notes.
                let notes = if ask.reason == "it notes" { before.notes } else { Vec::new() };
                brake = wire::FleetBrake {
                    state: "open".into(),
                    max_nodes: 3,
                    alone,
                    notes,
                    ..Default::default()
                }
            }
            order => {
                if before.state == "paused" {
                    let (reason, actor) = (before.reason, before.actor);
                    brake.pause = Some(wire::FleetPause { reason, actor, since_wall_ns: T0 });
                }
                brake.state = if order == wire::BrakeOrder::Trip { "tripped" } else { "paused" }.into();
                (brake.reason, brake.actor) = (ask.reason, "ada".into());
                if brake.reason == "beside one that is alone" {
                    brake.alone = before.alone;
                }
                if ask.action_id == "a-both" {
                    brake.caveat = format!("node-1 and node-2 have an action a-both {HOSTILE}");
                }
                (brake.node, brake.action_id) = (ask.node, ask.action_id);
            }
        }
        brake.revision = before.revision + 1;
        *stands = Some(wire::FleetBrake { caveat: String::new(), ..brake.clone() });
        Ok(Response::new(brake))
    }

    async fn get_usage(
        &self,
        r: Request<wire::GetUsageRequest>,
    ) -> Result<Response<wire::UsageReport>, Status> {
        self.asked.note(format!("{:?}", r.get_ref()));
        if r.get_ref().path == "/nowhere" {
            return Err(Status::not_found("/nowhere: No such file or directory"));
        }
        let folder = |depth, name: &str, bytes| wire::UsageFolder {
            depth,
            name: name.into(),
            bytes,
            inodes: 1,
            owner: None,
        };
        Ok(Response::new(wire::UsageReport {
            mount: "/var".into(),
            path: r.get_ref().path.clone(),
            wall_ns: T0,
            total_bytes: 100 << 30,
            used_bytes: 90 << 30,
            available_bytes: 10 << 30,
            whole: true,
            folders: vec![
                folder(0, "", 80 << 30),
                folder(1, "lib", 60 << 30),
                folder(1, "\u{1b}[2J", 20 << 30),
            ],
            writers_unknown: "nobody looked".into(),
            growth_unknown: "the node has not walked it by itself since the agent's start".into(),
            entries: 5,
            ..Default::default()
        }))
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

/// Serves the canned desk on a free port, as long as the test's runtime lives.
pub(crate) async fn serve() -> (SocketAddr, Asked, Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let canned = Canned::default();
    let (asked, well) = (canned.asked.clone(), canned.well.clone());
    let server = Server::builder().add_service(DeskServer::new(canned));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, asked, well)
}

/// The canned desk as a service, for a server of the caller's.
pub(crate) fn service() -> DeskServer<impl Desk> {
    DeskServer::new(Canned::default())
}
