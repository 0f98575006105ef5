//! The two children: started in order, watched, ended in order.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dogwatch::supervise::Stop;
use dogwatch::tls::{ClientMaterial, ClientTls, ClientTlsOptions};
use dogwatch::wire;
use dogwatch::wire::desk_client::DeskClient;
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::setup::{Place, person};
use crate::status::{Screen, View};

/// The collector must answer within this long.
const START: Duration = Duration::from_secs(30);
/// After SIGTERM a child has this long before it is killed.
const GRACE: Duration = Duration::from_secs(15);
/// How often the status is drawn.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// A question of the status that takes longer is dropped until the next draw.
const ASK_WAIT: Duration = Duration::from_secs(3);

/// Tells a part whose child it is. Without that process it ends: nobody would end it later, and it would hold the folder.
pub(crate) const PARENT: &str = "DOGWATCH_UP_PID";

/// In a part: arranges that it ends with its parent, also when that is killed. False where the parent is gone already.
pub(crate) fn end_with_parent() -> bool {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|p| p.parse::<i32>().ok()) else { return true };
    // Parents are told by the thread that started the child; that is the main thread, which lives as long as the process.
    let asked = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    // After asking, as it may have died before; without the request it is as it was.
    asked.is_err() || rustix::process::getppid().is_some_and(|p| p.as_raw_nonzero().get() == parent)
}

/// Runs both until Ctrl-C, or until one ends by itself.
pub(crate) async fn run(place: Place, plain: bool) -> Result<(), String> {
    let stop = Stop::default();
    stop.on_signals().map_err(|e| format!("signal handlers: {e}"))?;
    let exe = std::env::current_exe().map_err(|e| format!("finding this program: {e}"))?;

    let collector_config = place.collector_config();
    let with_config = |verb: &[&str]| {
        let mut command = Command::new(&exe);
        command.arg("collector").arg("--config").arg(&collector_config).args(verb);
        command.env(PARENT, std::process::id().to_string());
        command
    };
    let mut collector = spawn(with_config(&[]), &place.log("collector"))?;
    let name = person();
    if let Err(e) = papers(&place, &name, with_config).await {
        end(collector).await;
        return Err(e);
    }
    let tls = match tls(&place, &name) {
        Ok(tls) => tls,
        Err(e) => {
            end(collector).await;
            return Err(e);
        }
    };
    let mut desk = match connect(&place, &tls, &mut collector, &stop).await {
        Ok(desk) => desk,
        Err(e) => {
            end(collector).await;
            return if stop.is_set() { Ok(()) } else { Err(e) };
        }
    };
    let mut command = Command::new(&exe);
    command.arg("agent").arg("--config").arg(place.agent_config());
    command.env(PARENT, std::process::id().to_string());
    let mut agent = match spawn(command, &place.log("agent")) {
        Ok(agent) => agent,
        Err(e) => {
            end(collector).await;
            return Err(e);
        }
    };

    let result = show(&place, plain, &mut desk, &mut collector, &mut agent, &stop).await;
    // The agent first, so that it does not meet a collector that is gone; what it has not handed over yet it keeps.
    end(agent).await;
    end(collector).await;
    result
}

/// A certificate for this person and a join token for the agent.
async fn papers(place: &Place, name: &str, verb: impl Fn(&[&str]) -> Command) -> Result<(), String> {
    let mut issue = verb(&["person", name, "--role", "admin", "--out"]);
    issue.arg(place.people());
    output(issue, "making your certificate").await?;
    let token = output(verb(&["token", "--ttl", "1h"]), "making a join token").await?;
    dogwatch::identity::write_private_file(&place.token_file(), token.as_bytes()).map_err(|e| e.to_string())
}

async fn show(
    place: &Place,
    plain: bool,
    desk: &mut DeskClient<Channel>,
    collector: &mut Child,
    agent: &mut Child,
    stop: &Stop,
) -> Result<(), String> {
    let mut screen = Screen::new(plain, place);
    let mut tick = tokio::time::interval(DRAW_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.wait() => {
                screen.end();
                return Ok(());
            }
            gone = collector.wait() => {
                screen.end();
                return Err(ended("the collector", &place.log("collector"), gone));
            }
            gone = agent.wait() => {
                screen.end();
                return Err(ended("the agent", &place.log("agent"), gone));
            }
            _ = tick.tick() => {
                let view = tokio::time::timeout(ASK_WAIT, ask(desk)).await;
                screen.draw(match view {
                    Ok(Ok(view)) => Ok(view),
                    Ok(Err(status)) => Err(status.message().to_owned()),
                    Err(_) => Err("the collector does not answer".to_owned()),
                });
            }
        }
    }
}

async fn ask(desk: &mut DeskClient<Channel>) -> Result<View, tonic::Status> {
    let nodes =
        desk.get_nodes(wire::GetNodesRequest { nodes: Vec::new(), cached: false }).await?.into_inner().nodes;
    let mut open = desk
        .get_incidents(wire::GetIncidentsRequest {
            states: vec!["open".into(), "acknowledged".into()],
            limit: 10,
            ..Default::default()
        })
        .await?
        .into_inner();
    let mut incidents = Vec::new();
    while let Some(i) = open.message().await? {
        incidents.push(i);
    }
    let mut active = desk
        .get_findings(wire::GetFindingsRequest { active_only: true, limit: 10, ..Default::default() })
        .await?
        .into_inner();
    let mut findings = Vec::new();
    while let Some(f) = active.message().await? {
        findings.push(f);
    }
    Ok(View { nodes, incidents, findings })
}

fn tls(place: &Place, name: &str) -> Result<ClientTls, String> {
    let file = |suffix: &str| place.people().join(format!("{name}.{suffix}"));
    let material = ClientMaterial::from_files(&file("crt"), &file("key"), &place.people().join("ca.crt"))
        .map_err(|e| e.to_string())?;
    ClientTls::new(&material, ClientTlsOptions::default()).map_err(|e| e.to_string())
}

async fn connect(
    place: &Place,
    tls: &ClientTls,
    collector: &mut Child,
    stop: &Stop,
) -> Result<DeskClient<Channel>, String> {
    let endpoint = tls.endpoint(&place.collector.to_string()).map_err(|e| e.to_string())?;
    let deadline = tokio::time::Instant::now() + START;
    loop {
        tokio::select! {
            () = stop.wait() => return Err("stopped".to_owned()),
            gone = collector.wait() => return Err(ended("the collector", &place.log("collector"), gone)),
            connected = endpoint.connect_with_connector(tls.clone()) => match connected {
                Ok(channel) => return Ok(DeskClient::new(channel).max_decoding_message_size(16 * 1024 * 1024)),
                Err(e) if tokio::time::Instant::now() > deadline => {
                    return Err(format!("the collector does not answer: {e}; see {}", place.log("collector").display()));
                }
                // Not listening yet: asked again at once it would only be busy.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

fn spawn(mut command: Command, log: &Path) -> Result<Child, String> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map_err(|e| format!("opening {}: {e}", log.display()))?;
    let errors = file.try_clone().map_err(|e| e.to_string())?;
    // A process group of its own: Ctrl-C on the terminal reaches this program alone, which then ends them in order.
    command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0).kill_on_drop(true);
    command.spawn().map_err(|e| format!("starting a part: {e}"))
}

async fn output(mut command: Command, what: &str) -> Result<String, String> {
    let out = command.stdin(Stdio::null()).output().await.map_err(|e| format!("{what}: {e}"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
    }
    Err(format!("{what}: {}", String::from_utf8_lossy(&out.stderr).trim()))
}

fn ended(what: &str, log: &Path, status: std::io::Result<std::process::ExitStatus>) -> String {
    let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    let tail: String =
        lines.into_iter().rev().map(|l| format!("\n  {}", dogwatch_cli::harmless(l))).collect();
    format!("{what} ended ({status}); the end of {}:{tail}", log.display())
}

async fn end(mut child: Child) {
    if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()).and_then(rustix::process::Pid::from_raw)
    {
        // Gone already is as good.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
