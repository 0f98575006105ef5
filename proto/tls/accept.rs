//! Taking connections: the accept loop, the handshakes, and the connection that a service sees.
//!
//! One task owns the listener and the handshakes; it ends, and they with it, when [`Incoming`] is dropped.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::server::{HandshakeRefusal, RefusedHandshake, ServerTls, explain};
use super::wall_ns;
use crate::identity::{Identity, certificate_facts};

/// By default a connection without a certificate lives this long: enrolment is one call.
pub const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(30);
/// By default a connection outlives its certificate by this much: time for a service to end its streams in good order first.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(60);

/// Handshakes younger than this never give way: an honest one is done by then, even when all nodes come at once.
const SHED_AFTER: Duration = Duration::from_secs(1);
/// Accepted connections that the server has not picked up yet.
const READY_QUEUE: usize = 64;
/// After a failed `accept` (out of descriptors): long enough not to spin, short enough to be back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished (power, network) is noticed after idle + 3 x interval = 60 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Certificates name the second up to and including which they are valid.
const LAST_SECOND_NS: i64 = 1_000_000_000;
/// The farthest deadline that is set; a connection that reaches it is closed and comes back.
const FARTHEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who is at the other end; services find it in a request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Address and port.
    pub address: SocketAddr,
    /// By its verified certificate; `None` where it showed none.
    pub identity: Option<Identity>,
    /// The certificate's last second, wall ns. A stream must not outlive it.
    pub not_after_wall_ns: Option<i64>,
    /// The certificate's serial number, hex.
    pub serial: Option<String>,
}

impl Peer {
    /// Whether its certificate has expired at `now`; never where it has none.
    pub fn expired_at(&self, now_wall_ns: i64) -> bool {
        self.not_after_wall_ns.is_some_and(|last| now_wall_ns >= last.saturating_add(LAST_SECOND_NS))
    }
}

/// Sets what every dogwatch connection has: no delay for small frames, and notice of a peer that is gone.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Connections whose handshake is done, for tonic's `serve_with_incoming`.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<TlsIo>,
    task: JoinHandle<()>,
}

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<TlsIo>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|io| io.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn start(tls: ServerTls, listener: TcpListener) -> Incoming {
    let (ready_tx, ready) = mpsc::channel(READY_QUEUE);
    let options = &tls.shared.options;
    let acceptor = Acceptor {
        handshakes: Arc::new(Semaphore::new(options.max_handshakes)),
        connections: Arc::new(Semaphore::new(options.max_connections)),
        anonymous: Arc::new(Semaphore::new(options.max_anonymous)),
        under_way: VecDeque::new(),
        tasks: JoinSet::new(),
        ready: ready_tx,
        tls,
    };
    Incoming { ready, task: tokio::spawn(acceptor.run(listener)) }
}

struct UnderWay {
    since: Instant,
    give_way: oneshot::Sender<()>,
}

struct Acceptor {
    tls: ServerTls,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    /// Oldest first.
    under_way: VecDeque<UnderWay>,
    tasks: JoinSet<()>,
    ready: mpsc::Sender<TlsIo>,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            let slot = self.slot().await;
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.tls.shared.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            self.tls.shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
            let Ok(connection) = Arc::clone(&self.connections).try_acquire_owned() else {
                self.overloaded(address.ip(), "connections");
                continue;
            };
            self.shake_hands(stream, address, slot, connection);
        }
    }

    fn overloaded(&self, peer: IpAddr, what: &str) {
        let detail = format!("the bound of {what} is reached");
        self.tls.refuse(RefusedHandshake { peer, reason: HandshakeRefusal::Overloaded, claim: None, detail });
    }

    /// Waits for room for one more handshake; where there is none, the oldest gives way once it is slow.
    async fn slot(&mut self) -> OwnedSemaphorePermit {
        loop {
            let free = Arc::clone(&self.handshakes);
            if let Ok(slot) = Arc::clone(&free).try_acquire_owned() {
                return slot;
            }
            self.under_way.retain(|h| !h.give_way.is_closed());
            let Some(oldest) = self.under_way.front() else {
                // Its task is between done and dropped: the slot is about to come back.
                tokio::task::yield_now().await;
                continue;
            };
            let slow_at = oldest.since + SHED_AFTER;
            tokio::select! {
                slot = free.acquire_owned() => if let Ok(slot) = slot { return slot },
                () = sleep_until(slow_at) => {
                    if let Some(oldest) = self.under_way.pop_front()
                        && oldest.give_way.send(()).is_ok()
                    {
                        self.tls.shared.counters.shed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn shake_hands(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
        connection: OwnedSemaphorePermit,
    ) {
        if self.under_way.len() >= 2 * self.tls.shared.options.max_handshakes {
            self.under_way.retain(|h| !h.give_way.is_closed());
        }
        let since = Instant::now();
        let (give_way, mut must_go) = oneshot::channel();
        self.under_way.push_back(UnderWay { since, give_way });
        let tls = self.tls.clone();
        let anonymous = Arc::clone(&self.anonymous);
        let ready = self.ready.clone();
        self.tasks.spawn(async move {
            let until = since + tls.shared.options.handshake_timeout;
            let outcome = tokio::select! {
                outcome = timeout_at(until, handshake(&tls, stream, address, &anonymous)) => {
                    outcome.unwrap_or_else(|_| {
                        Err(Failed::because(HandshakeRefusal::Timeout, None, "it took too long"))
                    })
                }
                _ = &mut must_go => Err(Failed::because(
                    HandshakeRefusal::Timeout,
                    None,
                    "it was slow while others waited",
                )),
            };
            drop(slot);
            drop(must_go);
            match outcome {
                Ok(mut io) => {
                    io.held.push(connection);
                    // Fails only when the server is gone, and then the connection goes too.
                    let _ = ready.send(io).await;
                }
                Err(Failed::Silent) => {
                    tls.shared.counters.silent.fetch_add(1, Ordering::Relaxed);
                }
                Err(Failed::Reported(why)) => {
                    let (reason, claim, detail) = *why;
                    tls.refuse(RefusedHandshake { peer: address.ip(), reason, claim, detail });
                }
            }
        });
    }
}

enum Failed {
    /// It closed without a word: a port probe.
    Silent,
    Reported(Box<(HandshakeRefusal, Option<super::Claim>, String)>),
}

async fn handshake(
    tls: &ServerTls,
    stream: TcpStream,
    address: SocketAddr,
    anonymous: &Arc<Semaphore>,
) -> Result<TlsIo, Failed> {
    let protocol = |e: &dyn std::fmt::Display| Failed::because(HandshakeRefusal::Protocol, None, e);
    tune(&stream).map_err(|e| protocol(&e))?;
    match stream.peek(&mut [0u8; 1]).await {
        Ok(0) | Err(_) => return Err(Failed::Silent),
        Ok(_) => {}
    }
    let (config, kept) = tls.for_one_connection().map_err(|e| protocol(&e))?;
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(|error| {
        let kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (reason, claim, detail) = explain(&error, kept);
        Failed::because(reason, claim, detail)
    })?;
    let peer = peer_of(tls, &stream, address)?;
    let mut held = Vec::with_capacity(2);
    if peer.identity.is_none() {
        let slot = Arc::clone(anonymous).try_acquire_owned().map_err(|_| {
            let detail = "the bound of connections without a certificate is reached".to_owned();
            Failed::because(HandshakeRefusal::Overloaded, None, detail)
        })?;
        held.push(slot);
    }
    Ok(TlsIo::new(stream, peer, held, tls))
}

impl Failed {
    fn because(
        reason: HandshakeRefusal,
        claim: Option<super::Claim>,
        detail: impl std::fmt::Display,
    ) -> Self {
        Self::Reported(Box::new((reason, claim, detail.to_string())))
    }
}

/// The verifier has let the certificate pass, so what it says is true.
fn peer_of(tls: &ServerTls, stream: &TlsStream<TcpStream>, address: SocketAddr) -> Result<Peer, Failed> {
    let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) else {
        return Ok(Peer { address, identity: None, not_after_wall_ns: None, serial: None });
    };
    let domain = &tls.shared.options.trust_domain;
    let facts = certificate_facts(leaf);
    let identity = facts.as_ref().map_err(Clone::clone).and_then(|f| f.identity(domain));
    match (facts, identity) {
        (Ok(facts), Ok(identity)) => Ok(Peer {
            address,
            identity: Some(identity),
            not_after_wall_ns: Some(facts.not_after_wall_ns),
            serial: Some(facts.serial),
        }),
        (_, Err(e)) | (Err(e), _) => Err(Failed::because(HandshakeRefusal::NoIdentity, None, e)),
    }
}

/// A connection: reads fail once its time is over, so that neither an expired certificate nor a caller without one can
/// keep it.
#[derive(Debug)]
pub struct TlsIo {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    ends: Pin<Box<Sleep>>,
    held: Vec<OwnedSemaphorePermit>,
    open: OpenCount,
}

impl TlsIo {
    fn new(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        held: Vec<OwnedSemaphorePermit>,
        tls: &ServerTls,
    ) -> Self {
        let lives = match peer.not_after_wall_ns {
            None => tls.shared.options.anonymous_lifetime,
            Some(last) => {
                // The last second is still good as a whole.
                let over = last.saturating_add(LAST_SECOND_NS);
                let left = u64::try_from(over.saturating_sub(wall_ns())).unwrap_or(0);
                Duration::from_nanos(left).saturating_add(tls.shared.options.expiry_grace).min(FARTHEST)
            }
        };
        let open = OpenCount::new(tls.clone(), peer.identity.is_none());
        Self { stream, peer, ends: Box::pin(sleep(lives)), held, open }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    fn over(&self) -> io::Error {
        let why = if self.open.anonymous {
            "a connection without a certificate has had its time"
        } else {
            "the connection's certificate has expired"
        };
        io::Error::new(io::ErrorKind::TimedOut, why)
    }
}

/// Counts a connection for as long as it lives.
struct OpenCount {
    tls: ServerTls,
    anonymous: bool,
}

impl OpenCount {
    fn new(tls: ServerTls, anonymous: bool) -> Self {
        let this = Self { tls, anonymous };
        this.each(|a| {
            a.fetch_add(1, Ordering::Relaxed);
        });
        this
    }

    fn each(&self, f: impl Fn(&AtomicU64)) {
        let counters = &self.tls.shared.counters;
        f(&counters.open);
        if self.anonymous {
            f(&counters.open_anonymous);
        }
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.each(|a| {
            a.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl std::fmt::Debug for OpenCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenCount")
    }
}

impl Connected for TlsIo {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(self.over()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
