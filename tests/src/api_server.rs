//! A stand-in for a Kubernetes API server: TLS, HTTP/1.1, and answers to one kind of request, TokenReview.
//!
//! It is not one: it answers what the test tells it to, in the form that the API documents (authentication.k8s.io/v1), and
//! in forms that it does not. What it was asked is kept.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};

/// What it answers with.
#[derive(Debug, Clone)]
pub enum Answer {
    /// This status code and this body.
    Says(u16, String),
    /// Nothing at all, while the caller waits.
    Silence,
}

/// A request that it got.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method, path and version.
    pub line: String,
    /// The bearer token that it came with.
    pub bearer: String,
    /// Its body.
    pub body: Value,
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<Answer>,
    asked: Mutex<Vec<Asked>>,
    stop: AtomicBool,
}

/// The stand-in; it ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    certificate: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a good token's review says, for `node`; `None`: of a cluster that does not bind tokens to nodes.
pub fn review_of(node: Option<&str>) -> Answer {
    let mut extra = json!({ "authentication.kubernetes.io/pod-name": ["dogwatch-agent-7x2"] });
    if let Some(node) = node {
        extra["authentication.kubernetes.io/node-name"] = json!([node]);
    }
    let body = json!({
        "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": { "token": "…" },
        "status": {
            "authenticated": true,
            "user": {
                "username": "system:serviceaccount:dogwatch:dogwatch-agent",
                "uid": "5c0f7a0e-0000-4000-8000-000000000000",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": extra
            },
            "audiences": ["dogwatch"]
        }
    });
    Answer::Says(201, body.to_string())
}

impl ApiServer {
    /// Listens on a free port and answers `answer` until told otherwise.
    ///
    /// # Panics
    /// Without a free port or random bytes.
    pub fn start(answer: Answer) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let config =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("ring speaks TLS 1.2 and 1.3")
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .expect("key and certificate belong together");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let (theirs, config) = (Arc::clone(&shared), Arc::new(config));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.stop.load(Ordering::Relaxed) {
                    break;
                }
                let (shared, config) = (Arc::clone(&theirs), Arc::clone(&config));
                // Ends with its connection, which the caller or its read timeout ends.
                std::thread::spawn(move || stream.map(|s| serve(s, config, &shared)));
            }
        });
        Self { address, certificate: cert.pem(), shared, thread: Some(thread) }
    }

    /// Answers `answer` from now on.
    ///
    /// # Panics
    /// When a thread of it panicked.
    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().expect("no thread of it panics") = answer;
    }

    /// What it was asked so far.
    ///
    /// # Panics
    /// When a thread of it panicked.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no thread of it panics").clone()
    }

    /// Writes a kubeconfig for it into `folder`; with another server's certificate instead of its own, if given.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn kubeconfig(&self, folder: &Path, believing: Option<&Self>) -> PathBuf {
        let path = folder.join(format!("kubeconfig-{}-{}", self.address.port(), believing.is_some()));
        let ca = folder.join(format!("api-{}-{}.crt", self.address.port(), believing.is_some()));
        std::fs::write(&ca, &believing.unwrap_or(self).certificate).expect("a file can be written");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": { "server": format!("https://{}", self.address), "certificate-authority": ca } }],
            "users": [{ "name": "c", "user": { "token": "collectors-own" } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c" } }]
        });
        std::fs::write(&path, text.to_string()).expect("a file can be written");
        path
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Requests of one connection, one after the other, until it ends.
fn serve(tcp: TcpStream, config: Arc<rustls::ServerConfig>, shared: &Shared) -> std::io::Result<()> {
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    let tls = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(tls, tcp);
    let mut held = Vec::new();
    loop {
        let head_ends = loop {
            if let Some(at) = held.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if more(&mut stream, &mut held)? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&held[..head_ends]).into_owned();
        let field = |name: &str| {
            head.lines().find_map(|l| {
                l.to_ascii_lowercase().starts_with(name).then(|| l[name.len()..].trim().to_owned())
            })
        };
        let length: usize = field("content-length:").and_then(|v| v.parse().ok()).unwrap_or(0);
        while held.len() < head_ends + length {
            if more(&mut stream, &mut held)? == 0 {
                return Ok(());
            }
        }
        let body = serde_json::from_slice(&held[head_ends..head_ends + length]).unwrap_or(Value::Null);
        held.drain(..head_ends + length);
        let asked = Asked {
            line: head.lines().next().unwrap_or_default().to_owned(),
            bearer: field("authorization: bearer ").unwrap_or_default(),
            body,
        };
        shared.asked.lock().expect("no thread of it panics").push(asked);
        let answer = shared.answer.lock().expect("no thread of it panics").clone();
        match answer {
            Answer::Silence => {
                // Until the caller gives up.
                while more(&mut stream, &mut held)? > 0 {}
                return Ok(());
            }
            Answer::Says(code, body) => {
                let head = format!(
                    "HTTP/1.1 {code} .\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes())?;
                stream.write_all(body.as_bytes())?;
                stream.flush()?;
            }
        }
    }
}

fn more(stream: &mut impl Read, held: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer)?;
    held.extend_from_slice(&buffer[..read]);
    Ok(read)
}
