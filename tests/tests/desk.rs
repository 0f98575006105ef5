//! The desk's answers, over a person's certificate: choosing, searching, watching, reopening, and how dogwatch is itself.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::tls::{ClientMaterial, ClientTls, ClientTlsOptions};
use dogwatch::wire;
use dogwatch::wire::desk_client::DeskClient;
use dogwatch::wire::watch_event::What;
use dogwatch_e2e::programs;
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{House, Post, Stage, yaml};
use dogwatch_e2e::wait::until;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(90);
/// The name of a container's log folder, as the kubelet makes it.
const API: &str = "shop_api-6d5f8b7c9d-x2xzz_0b7c2a7e-1111-2222-3333-444455556666";
const WEB: &str = "shop_web-0_0b7c2a7e-1111-2222-3333-444455557777";

/// A collector, an agent that tails the logs of two pods, and somebody who asks.
struct Scene {
    runtime: Runtime,
    desk: DeskClient<Channel>,
    house: House,
    post: Post,
    pods: PathBuf,
    _stage: Stage,
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::new(programs!());
        let mut house = stage.house(&stage.path().join("collector"), "incidents: { silent_after: 1h }");
        house.start();
        let pods = stage.path().join("var/log/pods");
        for (pod, container) in [(API, "app"), (WEB, "nginx")] {
            std::fs::create_dir_all(pods.join(pod).join(container)).unwrap();
        }
        let more = format!(
            "sample: {{ every: 200ms, evidence_every: 1s, processes: false }}\ncleanup: {{ mode: plan }}\n\
             tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 50ms }}\n",
            yaml(&pods.join("*/*/*.log")),
            yaml(&Scribe::rules(stage.path()))
        );
        let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &more);
        post.start();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let desk = runtime.block_on(dial(&house, "rita", "responder"));
        Self { runtime, desk, house, post, pods, _stage: stage }
    }

    fn write(&self, pod: &str, container: &str, lines: &[String]) {
        let path = self.log(pod, container);
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    }

    fn log(&self, pod: &str, container: &str) -> PathBuf {
        self.pods.join(pod).join(container).join("0.log")
    }

    fn events(&mut self, ask: &wire::GetEventsRequest) -> Result<Vec<wire::Event>, Status> {
        let desk = &mut self.desk;
        self.runtime.block_on(async { drain(desk.get_events(ask.clone()).await?.into_inner()).await })
    }

    /// The words of the lines that `ask` finds, once there are `n` of them.
    fn lines(&mut self, ask: &wire::GetEventsRequest, n: usize) -> Vec<wire::Event> {
        until("the lines to arrive", PATIENCE, || {
            let found = self.events(ask).unwrap();
            assert!(found.len() <= n, "{ask:?} finds too much: {found:?}");
            (found.len() == n).then_some(found)
        })
    }

    fn refused(&mut self, ask: wire::GetEventsRequest) -> Status {
        self.events(&ask).unwrap_err()
    }
}

async fn drain<T>(mut rows: Streaming<T>) -> Result<Vec<T>, Status> {
    let mut all = Vec::new();
    while let Some(row) = rows.message().await? {
        all.push(row);
    }
    Ok(all)
}

async fn dial(house: &House, name: &str, role: &str) -> DeskClient<Channel> {
    house.person(name, role);
    let folder = house.state().parent().unwrap().join(format!("people-{}", house.address().port()));
    let file = |f: &str| -> PathBuf { folder.join(f) };
    let material = ClientMaterial::from_files(
        &file(&format!("{name}.crt")),
        &file(&format!("{name}.key")),
        &file("ca.crt"),
    )
    .unwrap();
    let tls = ClientTls::new(&material, ClientTlsOptions::default()).unwrap();
    let endpoint = tls.endpoint(&house.address().to_string()).unwrap();
    DeskClient::new(endpoint.connect_with_connector(tls).await.unwrap())
}

fn numbered(from: u64, to: u64, words: &str) -> Vec<String> {
    (from..=to).map(|n| format!("{words} seq={n}")).collect()
}

fn logs() -> wire::GetEventsRequest {
    // The evidence of a log is what a rule matched; the recorder holds all lines.
    wire::GetEventsRequest { kinds: vec!["log".into()], ..Default::default() }
}

fn of_pod(pod: &str) -> Option<wire::Selector> {
    Some(wire::Selector { pod: pod.into(), ..Default::default() })
}

#[test]
fn answers_are_chosen_by_pod_words_and_source_before_they_are_limited() {
    let mut scene = Scene::new();
    scene.write(API, "app", &numbered(1, 30, "checkout ERROR"));
    scene.write(WEB, "nginx", &numbered(31, 60, "GET /"));
    let api = scene.lines(&wire::GetEventsRequest { selector: of_pod("api"), ..logs() }, 30);
    for (key, value) in [("namespace", "shop"), ("container", "app"), ("pod", "api-6d5f8b7c9d-x2xzz")] {
        assert!(api.iter().all(|e| e.fields.get(key).is_some_and(|v| v == value)), "{key}: {:?}", api[0]);
    }
    assert!(api.iter().all(|e| e.fields.contains_key("offset") && e.fields["rules"] == "numbered"));
    scene.lines(&logs(), 60);
    scene.lines(&wire::GetEventsRequest { selector: of_pod("apiary"), ..logs() }, 0);
    let named = scene.lines(&wire::GetEventsRequest { grep: "ERROR seq=(7|8)$".into(), ..logs() }, 2);
    assert_eq!(named[1].message, "checkout ERROR seq=8");
    // Before the limit: the newest lines are all of the other pod.
    let newest = wire::GetEventsRequest { grep: "checkout".into(), limit: 3, ..logs() };
    let newest: Vec<String> = scene.lines(&newest, 3).into_iter().map(|e| e.message).collect();
    assert_eq!(newest, numbered(28, 30, "checkout ERROR"));
    let folder = |p: &Path| p.display().to_string();
    let web = folder(scene.pods.join(WEB).as_path());
    scene.lines(&wire::GetEventsRequest { source: web.clone(), ..logs() }, 30);
    scene.lines(&wire::GetEventsRequest { source: web[..web.len() - 1].to_owned(), ..logs() }, 0);

    let bad = scene.refused(wire::GetEventsRequest { grep: "(ERROR".into(), ..logs() });
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert!(bad.message().contains("unclosed group"), "{bad:?}");
    let unknown = scene.refused(wire::GetEventsRequest { node: "node-z".into(), ..logs() });
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.message(), "there is no node node-z; `dogwatch get nodes` lists them");
    let selector = Some(wire::Selector { nodes: vec!["node-z".into()], ..Default::default() });
    assert_eq!(scene.refused(wire::GetEventsRequest { selector, ..logs() }).code(), Code::NotFound);
    let both = wire::Selector { nodes: vec!["node-a".into()], ..Default::default() };
    scene.lines(&wire::GetEventsRequest { node: "node-a".into(), selector: Some(both), ..logs() }, 60);

    // A sample is nobody's pod, and says in one line how the node was.
    let samples = wire::GetEventsRequest { kinds: vec!["sample".into()], ..Default::default() };
    let found = until("samples", PATIENCE, || {
        let found = scene.events(&samples).unwrap();
        (found.len() > 2).then_some(found)
    });
    assert!(found[1].message.starts_with("cpu ") && found[1].message.contains("memory"), "{:?}", found[1]);
    assert!(found[1].fields.contains_key("cpu_percent") && found[1].fields.contains_key("load1"));
    scene.lines(&wire::GetEventsRequest { selector: of_pod("api"), ..samples }, 0);
    let ask = wire::GetSamplesRequest { node: "node-a".into(), limit: 2, ..Default::default() };
    let desk = &mut scene.desk;
    let rows = scene
        .runtime
        .block_on(async { drain(desk.get_samples(ask).await.unwrap().into_inner()).await.unwrap() });
    assert_eq!(rows.len(), 2);
    assert!(rows[0].wall_ns < rows[1].wall_ns && rows[1].sample.as_ref().is_some_and(|s| s.memory.is_some()));
    scene.post.stop();
    scene.house.stop();
}

/// Lines that nothing cites are the control: what has just been sealed leaves the next the whole time of evidence, 10 s. On a
/// machine at work either may be late, or findings of its own may hasten a control, so it is tried again.
#[test]
fn lines_that_findings_cite_come_long_before_those_that_none_cites() {
    const ROUNDS: usize = 6;
    let mut scene = Scene::new();
    let mut seq = 0;
    let mut arrival = |scene: &mut Scene, pod: &str| {
        seq += 1;
        scene.write(pod, "app", &[format!("it failed seq={seq}")]);
        let written = std::time::Instant::now();
        let ask = wire::GetEventsRequest { grep: format!("seq={seq}$"), ..logs() };
        scene.lines(&ask, 1);
        written.elapsed()
    };
    // Its finding holds from now on: further lines of this pod raise nothing.
    arrival(&mut scene, API);
    let (mut uncited, mut cited) = (Duration::ZERO, Duration::MAX);
    for round in 0..ROUNDS {
        uncited = uncited.max(arrival(&mut scene, API));
        let pod = WEB.replace("web-0", &format!("job-{round}"));
        std::fs::create_dir_all(scene.pods.join(&pod).join("app")).unwrap();
        cited = cited.min(arrival(&mut scene, &pod));
        if cited * 2 < uncited {
            break;
        }
    }
    assert!(cited * 2 < uncited, "cited after {cited:?} at best, not cited after {uncited:?} at most");
    scene.post.stop();
    scene.house.stop();
}

async fn next(watch: &mut Streaming<wire::WatchEvent>, what: &str) -> What {
    let next = tokio::time::timeout(PATIENCE, watch.message()).await;
    next.unwrap_or_else(|_| unreachable!("waited in vain for {what}")).unwrap().unwrap().what.unwrap()
}

#[test]
fn a_watcher_sees_what_happens_as_it_happens_and_is_told_when_the_collector_stops() {
    let mut scene = Scene::new();
    let mut desk = scene.desk.clone();
    let (mut rows, mut lines) = scene.runtime.block_on(async {
        let watch = |kinds: &[&str], grep: &str, selector| wire::WatchRequest {
            selector,
            kinds: kinds.iter().map(|k| (*k).to_owned()).collect(),
            grep: grep.to_owned(),
        };
        let wrong = desk.watch(watch(&["logs"], "", None)).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
        let rows = desk.watch(watch(&[], "", None)).await.unwrap().into_inner();
        let lines = desk.watch(watch(&["log"], "seq=[13]$", of_pod("api"))).await.unwrap().into_inner();
        (rows, lines)
    });
    scene.write(WEB, "nginx", &numbered(1, 3, "GET /"));
    scene.write(API, "app", &numbered(1, 3, "checkout ERROR"));
    let (finding, incident) = scene.runtime.block_on(async {
        for wanted in ["checkout ERROR seq=1", "checkout ERROR seq=3"] {
            let What::Event(event) = next(&mut lines, wanted).await else { unreachable!("not an event") };
            assert_eq!((event.message.as_str(), event.fields["container"].as_str()), (wanted, "app"));
        }
        // The machine's own disks may have their findings and incidents, too.
        let mut finding: Option<wire::Finding> = None;
        loop {
            match next(&mut rows, "a finding and its incident").await {
                What::Finding(f) if f.finding.as_ref().is_some_and(|f| f.rule == "numbered") => {
                    finding = finding.or(f.finding);
                }
                What::Incident(i) => {
                    if let Some(f) = finding.as_ref().filter(|f| i.findings.contains(&f.id)) {
                        break (f.clone(), i);
                    }
                }
                What::Finding(_) | What::Action(_) => {}
                other => unreachable!("{other:?}"),
            }
        }
    });

    // What a person does is seen by who watches; empty words are a mistake of the asker's.
    let note = |id: &str, text: &str| wire::IncidentNoteRequest { id: id.to_owned(), text: text.to_owned() };
    scene.runtime.block_on(async {
        let id = incident.id.as_str();
        assert_eq!(desk.add_note(note(id, " ")).await.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(desk.reopen(note(id, "")).await.unwrap_err().code(), Code::FailedPrecondition);
        desk.resolve(note(id, "")).await.unwrap();
        let again = desk.reopen(note(id, "it goes on")).await.unwrap().into_inner();
        assert_eq!((again.state.as_str(), again.resolved_wall_ns), ("open", 0));
        for state in ["resolved", "open"] {
            loop {
                // What the row tells is the incident as it stood when it was looked at: later, never earlier.
                match next(&mut rows, state).await {
                    What::Incident(i) if i.id == id && (i.state == state || i.state == "open") => break,
                    _ => {}
                }
            }
        }
        let timeline = desk.timeline(wire::IncidentRequest { id: id.to_owned() }).await.unwrap();
        let told = drain(timeline.into_inner()).await.unwrap();
        let reopened = told.iter().find(|e| e.summary.contains("it goes on")).unwrap();
        assert_eq!((reopened.kind.as_str(), reopened.actor.as_str()), ("state", "rita"));

        let mut viewer = dial(&scene.house, "vera", "viewer").await;
        assert_eq!(viewer.reopen(note(id, "")).await.unwrap_err().code(), Code::PermissionDenied);
        let ask = |pod| wire::GetIncidentsRequest { selector: of_pod(pod), ..Default::default() };
        let all = drain(viewer.get_incidents(ask("")).await.unwrap().into_inner()).await.unwrap();
        assert!(all.iter().any(|i| i.id == id));
        let none = drain(viewer.get_incidents(ask("nobody")).await.unwrap().into_inner()).await.unwrap();
        assert!(none.is_empty(), "{none:?}");
        let selector = Some(wire::Selector { rules: vec![finding.rule.clone()], ..Default::default() });
        let ask = wire::GetFindingsRequest { selector, ..Default::default() };
        let found = drain(viewer.get_findings(ask).await.unwrap().into_inner()).await.unwrap();
        assert!(found.iter().any(|f| f.finding.as_ref().is_some_and(|f| f.id == finding.id)));
    });
    scene.post.stop();
    scene.house.stop();
    scene.runtime.block_on(async {
        let end = loop {
            match tokio::time::timeout(PATIENCE, lines.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        let status = end.expect("a watch that ends says why");
        // Whichever of its parts was the first to hear of the stop says so.
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("watch again in a moment"), "{status:?}");
    });
}

fn check<'c>(
    status: &'c wire::GetStatusResponse,
    subject: &str,
    name: &str,
) -> Option<&'c wire::StatusCheck> {
    status.checks.iter().find(|c| c.subject == subject && c.name == name)
}

#[test]
fn status_tells_how_dogwatch_is_and_a_node_that_is_away_keeps_its_name_and_version() {
    let mut scene = Scene::new();
    let mut desk = scene.desk.clone();
    let row = |desk: &mut DeskClient<Channel>, runtime: &Runtime| {
        let ask = wire::GetNodesRequest { cached: true, ..Default::default() };
        let nodes = runtime.block_on(desk.get_nodes(ask)).unwrap().into_inner().nodes;
        nodes.into_iter().find(|n| n.name == "node-a")
    };
    let before = until("the node to connect", PATIENCE, || {
        row(&mut desk, &scene.runtime).filter(|n| n.state == "connected" && n.sample.is_some())
    });
    let status = scene.runtime.block_on(desk.get_status(wire::GetStatusRequest {})).unwrap().into_inner();
    assert_eq!(status.collector_version, env!("CARGO_PKG_VERSION"));
    for name in ["store", "journal", "index", "certificate", "ca", "refusals", "casework", "nodes", "gaps"] {
        let check =
            check(&status, "collector", name).unwrap_or_else(|| unreachable!("no {name}: {status:?}"));
        assert!(!check.words.is_empty());
    }
    assert!(status.checks.windows(2).all(|w| w[0].severity >= w[1].severity), "worst first: {status:?}");
    assert_eq!(check(&status, "collector", "store").unwrap().severity(), wire::Severity::Info);

    // A mount that is not there is not found; one that needs nothing is an answer.
    let plan = |mount: &str| wire::PlanRequest { node: "node-a".into(), mount: mount.into() };
    let refused = scene.runtime.block_on(desk.plan(plan("/no/such/mount"))).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    assert!(refused.message().contains("/no/such/mount"), "{refused:?}");

    scene.post.stop();
    let silent = until("the node to be away", PATIENCE, || {
        row(&mut desk, &scene.runtime).filter(|n| n.state == "silent")
    });
    assert_eq!((silent.agent_version.as_str(), silent.mode), (before.agent_version.as_str(), before.mode));
    let status = scene.runtime.block_on(desk.get_status(wire::GetStatusRequest {})).unwrap().into_inner();
    let uplink = check(&status, "node-a", "uplink").unwrap();
    assert_eq!(uplink.severity(), wire::Severity::High);
    assert!(uplink.words.starts_with("silent; last heard of") && !uplink.remedy.is_empty(), "{uplink:?}");

    scene.house.stop();
    scene.house.start();
    let mut desk = scene.runtime.block_on(dial(&scene.house, "rita", "responder"));
    let after = row(&mut desk, &scene.runtime).unwrap();
    assert_eq!(
        (after.state.as_str(), after.agent_version.as_str(), after.mode, after.last_seen_wall_ns),
        ("silent", silent.agent_version.as_str(), silent.mode, silent.last_seen_wall_ns),
        "the same after a restart"
    );
    let unknown = scene.runtime.block_on(
        desk.get_findings(wire::GetFindingsRequest { node: "node-z".into(), ..Default::default() }),
    );
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    scene.house.stop();
}
