//! Agents' streams, over a real connection: what is acked, what is refused, and what one agent cannot do to others.

use std::net::SocketAddr;
use std::time::Duration;

use dogwatch::block::Block;
use dogwatch::identity::Identity;
use dogwatch::record::{FindingState, NodeName, Stream};
use dogwatch::supervise::Stop;
use dogwatch::tls::Peer;
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use dogwatch::wire::collector_message::Message as Down;
use dogwatch::wire::intake_client::IntakeClient;
use dogwatch::wire::intake_server::IntakeServer;
use dogwatch_collector::admit::gate::Gate;
use dogwatch_collector::admit::refusals::refusal_queue;
use dogwatch_collector::casework::{ASK_QUEUE, Casework};
use dogwatch_collector::correlate::Policy;
use dogwatch_collector::ingest::Ingest;
use dogwatch_collector::nodes::Nodes;
use dogwatch_collector::say::Say;
use dogwatch_collector::store::decision::What;
use dogwatch_collector::store::row::FindingRow;
use dogwatch_collector::store::{FindingFilter, Store};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Status, Streaming};

use crate::kit::{self, Node, SECOND, T0};

const PATIENCE: Duration = Duration::from_secs(20);

/// A collector's ingest and casework. Who calls is said by a header here, where a certificate says it in earnest.
struct Collector {
    store: Store,
    address: SocketAddr,
    stop: Stop,
    server: JoinHandle<()>,
    casework: JoinHandle<()>,
    fleet: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Collector {
    async fn start(enrolled: &[&Node]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = kit::open(kit::config(dir.path()));
        for node in enrolled {
            enrol(&store, &node.name, node.key_hex()).await;
        }
        let (asks, asked) = mpsc::channel(ASK_QUEUE);
        let (nodes, stop, say) = (Nodes::default(), Stop::default(), Say::new(asks));
        let casework =
            Casework::open(store.clone(), nodes.clone(), Policy::default(), Duration::from_secs(3600), asked)
                .await
                .unwrap();
        let casework = tokio::spawn({
            let stop = stop.clone();
            async move { casework.run(stop).await.unwrap() }
        });
        let gate = Gate::new(refusal_queue().0);
        let settings = dogwatch_collector::brake::Settings::default();
        let (keeper, brake) =
            dogwatch_collector::brake::Keeper::open(store.clone(), nodes.clone(), say.clone(), settings)
                .await
                .unwrap();
        let fleet = tokio::spawn({
            let stop = stop.clone();
            async move { keeper.run(stop).await.unwrap() }
        });
        let ingest = Ingest::new(store.clone(), nodes, gate, say, brake, stop.clone());
        let service =
            IntakeServer::with_interceptor(ingest, |mut request: Request<()>| -> Result<_, Status> {
                let name: NodeName =
                    request.metadata().get("node").unwrap().to_str().unwrap().parse().unwrap();
                request.extensions_mut().insert(Peer {
                    address: "192.0.2.1:1".parse().unwrap(),
                    identity: Some(Identity::Node(name)),
                    not_after_wall_ns: None,
                    serial: None,
                });
                Ok(request)
            });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = stop.clone();
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(
                    TcpListenerStream::new(listener),
                    async move { told.wait().await },
                )
                .await
                .unwrap();
        });
        Self { store, address, stop, server, casework, fleet, _dir: dir }
    }

    /// Opens `node`'s stream and says Hello.
    async fn call(&self, node: &Node, stream: Stream) -> Call {
        self.call_with(node, stream, |_| {}).await
    }

    /// The same with another Hello.
    async fn call_with(&self, node: &Node, stream: Stream, more: impl FnOnce(&mut wire::Hello)) -> Call {
        let mut client = IntakeClient::connect(format!("http://{}", self.address)).await.unwrap();
        let (up, messages) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(messages));
        request.metadata_mut().insert("node", node.name.as_str().parse().unwrap());
        let mut hello = wire::Hello {
            stream: wire::Stream::from(stream).into(),
            incarnation: node.incarnation.0.to_vec().into(),
            signing_key: node.key.verifying_key().to_bytes().to_vec().into(),
            ..wire::Hello::default()
        };
        more(&mut hello);
        up.send(wire::AgentMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
        let down = client.send(request).await.unwrap().into_inner();
        Call { up, down }
    }

    /// The findings of `rule`, once there is one.
    async fn told(&self, rule: &str) -> Vec<FindingRow> {
        let rows = async || {
            let all = self.store.findings(FindingFilter::default()).await.unwrap();
            all.into_iter().filter(|r| r.finding.rule == rule).collect::<Vec<_>>()
        };
        kit::until(rule, async || !rows().await.is_empty()).await;
        rows().await
    }

    async fn end(self) {
        self.stop.set();
        tokio::time::timeout(PATIENCE, self.server)
            .await
            .expect("open streams keep the server from ending")
            .unwrap();
        self.casework.await.unwrap();
        self.fleet.await.unwrap();
        self.store.close().await;
    }
}

async fn enrol(store: &Store, node: &NodeName, signing_key: String) {
    let what = What::NodeEnrolled { node: node.clone(), signing_key, token: "t".to_owned() };
    store.decide(kit::decision(T0, what)).await.unwrap();
}

struct Call {
    up: mpsc::Sender<wire::AgentMessage>,
    down: Streaming<wire::CollectorMessage>,
}

impl Call {
    async fn say(&self, message: Up) {
        self.up.send(wire::AgentMessage { message: Some(message) }).await.unwrap();
    }

    async fn block(&self, block: &Block) {
        self.say(Up::Block(block.to_wire())).await;
    }

    async fn hear(&mut self) -> Result<Down, Status> {
        let heard = tokio::time::timeout(PATIENCE, self.down.message()).await.expect("no answer came");
        Ok(heard?.expect("the stream ended").message.unwrap())
    }

    async fn welcomed(mut self) -> Self {
        assert!(matches!(self.hear().await.unwrap(), Down::Welcome(_)));
        self
    }

    async fn acked(&mut self) -> u64 {
        match self.hear().await.unwrap() {
            Down::Ack(ack) => ack.last_seq,
            other => panic!("no ack: {other:?}"),
        }
    }

    async fn nacked(&mut self) -> wire::Nack {
        match self.hear().await.unwrap() {
            Down::Nack(nack) => nack,
            other => panic!("no nack: {other:?}"),
        }
    }
}

/// A block of some 450 KB that does not compress.
fn bulky(node: &mut Node, i: i64) -> Block {
    let lines = (0..56).map(|n| kit::log(n + i as usize * 100, 8_000)).collect();
    node.seal(Stream::Urgent, T0 + i * SECOND, lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_reads_no_acks_holds_up_nobody_else() {
    let (mut deaf, mut good) = (Node::new("deaf", 1), Node::new("good", 2));
    let collector = Collector::start(&[&deaf, &good]).await;
    let blocks: Vec<Block> = (0..600)
        .map(|i| deaf.seal(Stream::Urgent, T0 + i * SECOND, vec![kit::log(1, 10)]))
        .collect::<Vec<_>>()
        .into_iter()
        .chain((600..640).map(|i| bulky(&mut deaf, i)))
        .collect();
    let call = collector.call(&deaf, Stream::Urgent).await;
    let sending = tokio::spawn(async move {
        for block in &blocks {
            let message = wire::AgentMessage { message: Some(Up::Block(block.to_wire())) };
            if call.up.send(message).await.is_err() {
                break;
            }
        }
        // Open, and never read.
        std::future::pending::<()>().await;
        drop(call);
    });
    kit::until("the deaf agent's acks have no more room", async || {
        collector.store.status().streams[Stream::Urgent.index()].stored_blocks > 300
    })
    .await;
    let mut call = collector.call(&good, Stream::Urgent).await.welcomed().await;
    for i in 0..40 {
        let block = bulky(&mut good, i);
        call.block(&block).await;
        assert_eq!(call.acked().await, block.header().last_seq);
    }
    sending.abort();
    collector.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_told_of_a_stop_which_is_lost_here_stays_stopped_and_stops_all() {
    let (knows, other) = (Node::new("knows", 1), Node::new("other", 2));
    let collector = Collector::start(&[&knows, &other]).await;
    let brake = |heard: Down| match heard {
        Down::Welcome(welcome) => welcome.brake.unwrap(),
        Down::Brake(brake) => brake,
        heard => panic!("{heard:?}"),
    };
    let mut all = collector.call_with(&other, Stream::Urgent, |hello| hello.knows_brake = true).await;
    assert_eq!(brake(all.hear().await.unwrap()).state(), wire::BrakeState::Open);
    let held = |stopped, revision| wire::BrakeHeard {
        revision,
        lineage: 77,
        stopped,
        reason: "paused by ada: \u{1b}[2Jlook".to_owned(),
    };
    // What a node may clean by is no reason to stop, and what nobody can have told is believed of that node alone.
    for (heard, state) in [
        (held(false, 9), wire::BrakeState::Open),
        (held(true, u64::MAX), wire::BrakeState::Tripped),
        (held(true, 9), wire::BrakeState::Tripped),
    ] {
        let mut call = collector
            .call_with(&knows, Stream::Urgent, |hello| {
                hello.knows_brake = true;
                hello.brake_held = Some(heard.clone());
            })
            .await;
        let told = brake(call.hear().await.unwrap());
        assert_eq!(told.state(), state, "{heard:?}");
        if heard.revision == 9 && heard.stopped {
            assert!(told.revision >= 9);
            let now = brake(call.hear().await.unwrap());
            assert_eq!((now.state(), now.revision), (wire::BrakeState::Tripped, 10));
        }
    }
    let now = brake(all.hear().await.unwrap());
    assert_eq!((now.state(), now.revision), (wire::BrakeState::Tripped, 10));
    assert!(now.reason.contains("knows") && now.reason.contains("[2Jlook"), "{}", now.reason);
    assert!(!now.reason.contains('\u{1b}'), "{}", now.reason);
    collector.end().await;
}

#[tokio::test]
async fn what_cannot_be_accepted_is_named_and_does_not_block_the_stream() {
    let (mut node, mut other) = (Node::new("a", 1), Node::new("b", 1));
    let collector = Collector::start(&[&node, &other]).await;
    let mut call = collector.call(&node, Stream::Evidence).await.welcomed().await;
    let first = node.logs(T0, 3, 50);
    call.block(&first).await;
    assert_eq!(call.acked().await, 3);

    let second = node.logs(T0 + 9 * SECOND, 3, 50);
    let mut broken = second.to_wire();
    let mut section = broken.sections[0].to_vec();
    section[20] ^= 1;
    broken.sections[0] = section.into();
    call.say(Up::Block(broken)).await;
    let nack = call.nacked().await;
    assert_eq!((nack.reason(), nack.first_seq, nack.last_seq), (wire::NackReason::Malformed, 4, 6));
    assert_eq!(nack.incarnation[..], node.incarnation.0);

    call.block(&second.clone().withhold(0)).await;
    let nack = call.nacked().await;
    assert_eq!((nack.reason(), nack.first_seq), (wire::NackReason::Malformed, 4));
    assert!(nack.detail.contains("withheld"), "{}", nack.detail);

    call.block(&other.logs(T0, 2, 50)).await;
    assert_eq!(call.nacked().await.reason(), wire::NackReason::WrongNode);
    call.block(&node.finding(T0, "f-1", FindingState::Raised)).await;
    assert_eq!(call.nacked().await.reason(), wire::NackReason::Malformed, "another stream's block");

    call.block(&second).await;
    assert_eq!(call.acked().await, 6, "the whole block is still welcome");
    assert_eq!(collector.store.head(&other.chain(Stream::Evidence)), None);
    collector.end().await;
}

#[tokio::test]
async fn a_hole_is_stored_only_when_the_node_says_so_and_people_are_told() {
    let mut node = Node::new("a", 1);
    let collector = Collector::start(&[&node]).await;
    let mut call = collector.call(&node, Stream::Evidence).await.welcomed().await;
    let blocks: Vec<Block> = (0..6).map(|i| node.logs(T0 + i * 9 * SECOND, 3, 50)).collect();
    call.block(&blocks[0]).await;
    assert_eq!(call.acked().await, 3);
    call.block(&blocks[2]).await;
    assert_eq!(call.nacked().await.expected_seq, 4);
    for (lost, sent) in [(1, 2), (3, 4)] {
        let resume_seq = blocks[lost].header().last_seq + 1;
        let incarnation = node.incarnation.0.to_vec().into();
        call.say(Up::Skip(wire::Skip { incarnation, resume_seq, reason: "ring\u{7}".to_owned() })).await;
        call.block(&blocks[sent]).await;
        assert_eq!(call.acked().await, blocks[sent].header().last_seq);
    }
    let told = collector.told("stream-hole").await;
    assert_eq!(told.len(), 1, "one finding for the stream, however many holes");
    assert!(told[0].finding.summary.contains("evidence seq 4 to 6"), "{}", told[0].finding.summary);
    assert!(told[0].finding.explanation.contains("(ring)"), "{}", told[0].finding.explanation);
    collector.end().await;
}

#[tokio::test]
async fn forks_and_foreign_keys_are_one_finding_each_and_change_nothing() {
    let mut node = Node::new("a", 1);
    let collector = Collector::start(&[&node]).await;
    let mut call = collector.call(&node, Stream::Evidence).await.welcomed().await;
    let first = node.logs(T0, 3, 50);
    call.block(&first).await;
    call.acked().await;
    for len in 60..70 {
        let mut twin = Node::new("a", 1);
        call.block(&twin.logs(T0, 3, len)).await;
        assert_eq!(call.nacked().await.reason(), wire::NackReason::Equivocation);
    }
    assert_eq!(collector.told("equivocation").await.len(), 1);
    assert_eq!(collector.store.head(&node.chain(Stream::Evidence)), Some(node.head(Stream::Evidence)));

    // The node is let in again with another key: from then on the former one opens nothing.
    let mut renewed = Node::new("a", 9);
    enrol(&collector.store, &renewed.name, renewed.key_hex()).await;
    for _ in 0..5 {
        let refused = collector.call(&node, Stream::Evidence).await.hear().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused}");
    }
    let told = collector.told("node-signing-key-changed").await;
    assert_eq!(told.len(), 1, "one finding, however often it tries");
    let mut call = collector.call(&renewed, Stream::Evidence).await.welcomed().await;
    call.block(&renewed.logs(T0, 1, 10)).await;
    assert_eq!(call.acked().await, 1);
    collector.end().await;
}

#[tokio::test]
async fn open_streams_end_when_the_collector_stops() {
    let node = Node::new("a", 1);
    let collector = Collector::start(&[&node]).await;
    let mut urgent = collector.call(&node, Stream::Urgent).await.welcomed().await;
    let mut evidence = collector.call(&node, Stream::Evidence).await.welcomed().await;
    collector.stop.set();
    for call in [&mut urgent, &mut evidence] {
        assert_eq!(call.hear().await.unwrap_err().code(), tonic::Code::Unavailable);
    }
    collector.end().await;
}
