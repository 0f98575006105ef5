//! Identity: who may speak for whom, what becomes of those who may not, and renewal under load.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in the helpers")]

use std::path::Path;
use std::time::Duration;

use dogwatch::block::{Block, Place};
use dogwatch::clock;
use dogwatch::identity::JoinToken;
use dogwatch::record::{Body, Hash, Incarnation, NodeName, Record, Stream};
use dogwatch::tls::{ClientTls, ClientTlsOptions};
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use dogwatch::wire::collector_message::Message as Down;
use dogwatch::wire::intake_client::IntakeClient;
use dogwatch_agent::enrol::{EnrolOptions, NodeIdentity, TokenSource, ensure_enrolled};
use dogwatch_e2e::ledger::Ledger;
use dogwatch_e2e::programs;
use dogwatch_e2e::scribe::Scribe;
use dogwatch_e2e::stage::{House, Person, Stage, yaml};
use dogwatch_e2e::wait::until;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Enrols as an agent does.
async fn enrol(house: &House, node: &str, state: &Path, token: String) -> Result<NodeIdentity, String> {
    let name: NodeName = node.parse().unwrap();
    let options = EnrolOptions {
        token: Some(TokenSource::Text(token)),
        ..EnrolOptions::new(house.address().to_string(), name, state)
    };
    ensure_enrolled(&options).await.map_err(|e| e.to_string())
}

async fn dial(house: &House, tls: &ClientTls) -> Result<IntakeClient<Channel>, String> {
    let endpoint = tls.endpoint(&house.address().to_string()).unwrap();
    let channel = endpoint.connect_with_connector(tls.clone()).await.map_err(|e| format!("{e:?}"))?;
    Ok(IntakeClient::new(channel))
}

/// Says Hello with the key of `identity`, then sends `block`, and gives what comes back after Welcome.
async fn offer(house: &House, identity: &NodeIdentity, incarnation: Incarnation, block: &Block) -> Down {
    let mut client = dial(house, identity.tls()).await.unwrap();
    let hello = wire::Hello {
        stream: wire::Stream::Urgent.into(),
        incarnation: incarnation.0.to_vec().into(),
        start_counter: 1,
        signing_key: identity.signing_key().verifying_key().to_bytes().to_vec().into(),
        mode: wire::CleanupMode::Off.into(),
        ..wire::Hello::default()
    };
    let up = [Up::Hello(hello), Up::Block(block.to_wire())];
    // Kept open: an end of the agent's side would end the call before it answers.
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    for message in up {
        sender.send(wire::AgentMessage { message: Some(message) }).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client.send(requests).await.unwrap().into_inner();
    let mut next =
        async || tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
    assert!(matches!(next().await.message, Some(Down::Welcome(_))));
    loop {
        // What nodes are told in passing (holds, the brake) may come before.
        let answer = next().await.message.unwrap();
        if matches!(answer, Down::Ack(_) | Down::Nack(_)) {
            return answer;
        }
    }
}

fn note(node: &str, incarnation: Incarnation, text: &str) -> Block {
    let place = Place {
        node: node.parse().unwrap(),
        incarnation,
        stream: Stream::Urgent,
        previous: Hash::ZERO,
        start: None,
        receipt: None,
    };
    let record = Record { seq: 1, at: clock::now(), body: Body::Note(text.to_owned()) };
    Block::seal(place, &[record], &mut || [7; 16]).unwrap()
}

fn finding_of(person: &Person, rule: &str) -> Value {
    until(&format!("a finding {rule}"), PATIENCE, || {
        person.rows(&["get", "findings"]).into_iter().find(|f| f["rule"] == rule)
    })
}

#[test]
fn a_node_speaks_for_itself_alone() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let eve = house.person("eve", "viewer");
    let incarnation = Incarnation([9; 16]);
    runtime().block_on(async {
        let identity = enrol(&house, "node-a", &stage.path().join("a"), house.token(&[])).await.unwrap();
        let Down::Nack(nack) =
            offer(&house, &identity, incarnation, &note("node-b", incarnation, "I am not node-a")).await
        else {
            unreachable!("a block of another node was taken")
        };
        assert_eq!(nack.reason(), wire::NackReason::WrongNode, "{nack:?}");
        // Its own it may send.
        let own = offer(&house, &identity, incarnation, &note("node-a", incarnation, "I am node-a")).await;
        assert!(matches!(own, Down::Ack(_)), "{own:?}");
    });
    let finding = finding_of(&eve, "refused-wrong-node");
    assert_eq!(finding["node"], "node-a", "{finding:#}");
    assert!(finding.to_string().contains("node-b"), "{finding:#}");
    house.stop();
    let here = Ledger::read(&house.store());
    assert!(here.records.keys().all(|c| c.node.as_str() == "node-a"), "{:?}", here.records.keys());
    assert_eq!(here.count, 1);
}

#[test]
fn without_a_certificate_nobody_is_heard() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let eve = house.person("eve", "viewer");
    let token: JoinToken = house.token(&[]).parse().unwrap();
    runtime().block_on(async {
        let tls = ClientTls::pinned(token.ca, ClientTlsOptions::default()).unwrap();
        let mut client = dial(&house, &tls).await.unwrap();
        let refused = client.send(tokio_stream::empty::<wire::AgentMessage>()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused:?}");
    });
    finding_of(&eve, "refused-no-certificate");
}

#[test]
fn an_expired_certificate_is_refused() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "identity: { node_lifetime: 5s }");
    house.start();
    let eve = house.person("eve", "viewer");
    runtime().block_on(async {
        let identity = enrol(&house, "node-a", &stage.path().join("a"), house.token(&[])).await.unwrap();
        let last = identity.validity().not_after_wall_ns;
        while clock::wall_ns() < last + 2_000_000_000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let heard = match dial(&house, identity.tls()).await {
            // With TLS 1.3 the client may learn of it with the first answer only.
            Ok(mut client) => client.send(tokio_stream::empty::<wire::AgentMessage>()).await.is_ok(),
            Err(_) => false,
        };
        assert!(!heard, "an expired certificate was let in");
    });
    let finding = finding_of(&eve, "refused-expired-certificate");
    assert_eq!(finding["node"], "node-a", "{finding:#}");
}

#[test]
fn a_join_token_that_was_used_up_lets_nobody_in() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let eve = house.person("eve", "viewer");
    let token = house.token(&["--uses", "1"]);
    let refused = runtime().block_on(async {
        enrol(&house, "node-a", &stage.path().join("a"), token.clone()).await.unwrap();
        enrol(&house, "node-b", &stage.path().join("b"), token.clone()).await.unwrap_err()
    });
    assert!(refused.to_lowercase().contains("token"), "{refused}");
    finding_of(&eve, "refused-join-token");
    // Nor after a restart: what was spent is durable.
    house.kill();
    house.start();
    runtime()
        .block_on(async { enrol(&house, "node-c", &stage.path().join("c"), token).await })
        .expect_err("a spent token was good again after a restart");
    assert_eq!(eve.rows(&["get", "nodes"]).len(), 1);
}

#[test]
fn a_viewer_may_look_and_no_more() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "");
    house.start();
    let eve = house.person("eve", "viewer");
    for refused in [
        &["ack", "inc-2026-01-01-001"][..],
        &["resolve", "inc-2026-01-01-001"],
        &["note", "inc-2026-01-01-001", "hello"],
        &["plan", "node-a", "--mount", "/"],
        &["clean", "node-a", "--mount", "/", "--yes"],
    ] {
        let out = eve.dogwatch(refused);
        assert_eq!(out.status.code(), Some(1), "{refused:?}: {out:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{out:?}");
    }
    let finding = finding_of(&eve, "refused-wrong-role");
    assert!(finding.to_string().contains("eve"), "{finding:#}");
    // Someone who may is told that there is no such incident.
    assert_eq!(
        house.person("ann", "responder").dogwatch(&["ack", "inc-2026-01-01-001"]).status.code(),
        Some(3)
    );
}

#[test]
fn a_certificate_is_renewed_under_load_and_nothing_is_lost() {
    let stage = Stage::new(programs!());
    let mut house = stage.house(&stage.path().join("collector"), "identity: { node_lifetime: 40s }");
    house.start();
    let log = stage.path().join("app.log");
    let more = format!(
        "sample: {{ every: 200ms, evidence_every: 200ms, processes: false }}\ncleanup: {{ mode: \"off\" }}\n\
         tail: {{ globs: [{}], rules_file: {}, start: beginning, poll: 50ms }}\n",
        yaml(&log),
        yaml(&Scribe::rules(stage.path()))
    );
    let mut post = stage.post("node-a", &stage.path().join("agent"), Some(&house), &more);
    let scribe = Scribe::start(&log, 300);
    post.start();
    // Each comes 20 to 26 s after the one before, as its beginning is set back by half a life; the rest of the 40 s is what
    // a slow machine may take over it.
    until("two renewals", PATIENCE * 3, || {
        (post.said().matches("certificate was renewed").count() >= 2).then_some(())
    });
    let last = scribe.end();
    let store = house.store();
    until("the last line to arrive", PATIENCE, || {
        (Ledger::read(&store).lines.keys().next_back() >= Some(&last)).then_some(())
    });
    let eve = house.person("eve", "viewer");
    let refused: Vec<Value> = eve
        .rows(&["get", "findings"])
        .into_iter()
        .filter(|f| f["rule"].as_str().unwrap().starts_with("refused"))
        .collect();
    post.stop();
    house.stop();
    let here = Ledger::read(&store);
    let (missing, twice) = here.lines_against(last);
    assert!(missing.is_empty() && twice.is_empty(), "missing {missing:?}, twice {twice:?}");
    assert_eq!(here.twice(), [""; 0]);
    assert_eq!(here.silent_holes(), [""; 0]);
    assert!(here.losses().is_empty(), "{:?}", here.losses());
    assert!(refused.is_empty(), "{refused:#?}");
    eprintln!(
        "{last} lines, each once, over {} renewals",
        post.said().matches("certificate was renewed").count()
    );
}
