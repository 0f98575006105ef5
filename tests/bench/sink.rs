//! The sink: the same service over the same TLS that takes every message and does nothing with it. What it costs is what
//! tonic and TLS cost.

use std::io::Write;
use std::path::Path;
use std::pin::Pin;

use anyhow::{Context, Result, bail};
use dogwatch::clock;
use dogwatch::tls::{ServerTls, ServerTlsOptions};
use dogwatch::wire;
use dogwatch::wire::agent_message::Message as Up;
use dogwatch::wire::collector_message::Message as Down;
use dogwatch::wire::intake_server::{Intake, IntakeServer};
use dogwatch_collector::admit::ca::{Ca, CaOptions};
use dogwatch_collector::admit::refusals::refusal_queue;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// As the collector's.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 3 * 1024 * 1024;
const MAX_MESSAGE_BYTES: usize = 768 * 1024;

/// Serves until killed. `words`: the folder of the CA. Prints the port.
pub(crate) fn main(words: &[&str]) -> Result<()> {
    let [ca] = words else { bail!("sink: {words:?}") };
    let ca = Ca::open_or_create(Path::new(ca), CaOptions::default(), clock::wall_ns())?;
    let (refusals, _refused) = refusal_queue();
    let material = ca.server_material(clock::wall_ns())?;
    let tls = ServerTls::new(&material, ServerTlsOptions::default(), refusals.on_handshake())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        std::io::stdout().flush()?;
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(IntakeServer::new(Sink).max_decoding_message_size(MAX_MESSAGE_BYTES))
            .serve_with_incoming(tls.incoming(listener))
            .await
            .context("serving")
    })
}

struct Sink;

#[tonic::async_trait]
impl Intake for Sink {
    type SendStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<wire::CollectorMessage, Status>> + Send>>;

    /// Welcomes, takes everything in, and acks once, at the end.
    async fn send(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SendStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let down = |message| Ok(wire::CollectorMessage { message: Some(message) });
            // Whoever is gone misses nothing.
            let _ = sender.send(down(Down::Welcome(wire::Welcome::default()))).await;
            let mut bytes = 0;
            while let Ok(Some(message)) = messages.message().await {
                if let Some(Up::Block(block)) = message.message {
                    bytes += super::sealed::size(&block);
                }
            }
            let ack = wire::Ack { last_seq: bytes, ..Default::default() };
            let _ = sender.send(down(Down::Ack(ack))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
