//! A collector and agents in a temporary folder, as a person would install them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dogwatch::tls::{ClientMaterial, ClientTls, ClientTlsOptions};
use dogwatch::wire::desk_client::DeskClient;
use dogwatch_agent::enrol::{EnrolOptions, NodeIdentity, TokenSource, ensure_enrolled};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::process::{Running, again, wait_for};

/// A daemon must be ready within this long.
const START: Duration = Duration::from_secs(60);

/// A collector's folder and configuration. The process is separate, so that it can be started again.
#[derive(Debug)]
pub(crate) struct CollectorPlace {
    dir: TempDir,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    health: SocketAddr,
}

impl CollectorPlace {
    /// Makes the folder. `more` are further lines of the configuration.
    pub(crate) fn make(more: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("dogwatch-bench-").context("a temporary folder")?;
        let [address, health] = ports()?;
        let place = Self { dir, address, health };
        let text = format!(
            "state: {{ dir: \"{}\" }}\nserver: {{ listen: \"{address}\" }}\nhealth: {{ listen: \"{health}\" }}\n\
             log: {{ level: warn }}\n{more}",
            place.state().display()
        );
        std::fs::write(place.config(), text)?;
        Ok(place)
    }

    /// Its state folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("collector")
    }

    /// A folder beside it for whatever belongs to the same run.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("collector.yaml")
    }

    /// Starts it and waits until it is ready; gives it and how long that took.
    pub(crate) fn start(&self) -> Result<(Running, Duration)> {
        let mut command = again(&["collector", "--config"])?;
        let log = File::options().create(true).append(true).open(self.dir.path().join("collector.log"))?;
        command.arg(self.config()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        let mut running = Running::start(command)?;
        ready(&mut running, "the collector", self.health).with_context(|| self.said("collector.log"))?;
        Ok((running, began.elapsed()))
    }

    fn said(&self, log: &str) -> String {
        let text = std::fs::read_to_string(self.dir.path().join(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// A join token.
    pub(crate) fn token(&self, uses: u32) -> Result<String> {
        self.ask(&["token", "--ttl", "1h", "--uses", &uses.to_string()])
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = again(&["collector", "--config"])?;
        let out =
            command.arg(self.config()).args(words).output().context("starting the collector's command")?;
        ensure!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Lets node `name` in, over the wire as an agent does.
    pub(crate) async fn enrol(&self, name: &str, token: &str) -> Result<NodeIdentity> {
        let options = EnrolOptions {
            token: Some(TokenSource::Text(token.to_owned())),
            ..EnrolOptions::new(self.address.to_string(), name.parse()?, self.beside(name))
        };
        ensure_enrolled(&options).await.with_context(|| format!("enrolling {name}"))
    }

    /// The desk, as a person of role admin.
    pub(crate) async fn desk(&self) -> Result<DeskClient<Channel>> {
        let people = self.beside("people");
        let out = people.display().to_string();
        self.ask(&["person", "bench", "--role", "admin", "--out", &out])?;
        let file = |name: &str| people.join(name);
        let material = ClientMaterial::from_files(&file("bench.crt"), &file("bench.key"), &file("ca.crt"))?;
        let tls = ClientTls::new(&material, ClientTlsOptions::default())?;
        let channel = tls.endpoint(&self.address.to_string())?.connect_with_connector(tls.clone()).await?;
        Ok(DeskClient::new(channel).max_decoding_message_size(16 << 20))
    }

    /// Starts the agent that `command` is as node `name`, whose state is a folder of that name beside the collector's;
    /// `more` are further lines of its configuration.
    pub(crate) fn start_agent(&self, mut command: Command, name: &str, more: &str) -> Result<Running> {
        let [health] = ports()?;
        let token_file = self.beside("join-token");
        dogwatch::identity::write_private_file(&token_file, self.token(1)?.as_bytes())?;
        let text = format!(
            "node: {{ name: {name} }}\nstate: {{ dir: \"{}\" }}\nhealth: {{ listen: \"{health}\" }}\n\
             uplink: {{ collector: \"{}\", join_token_file: \"{}\" }}\nlog: {{ level: warn }}\n{more}",
            self.beside(name).display(),
            self.address,
            token_file.display(),
        );
        let config = self.beside("agent.yaml");
        std::fs::write(&config, text)?;
        let log = File::create(self.beside("agent.log"))?;
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut running = Running::start(command)?;
        ready(&mut running, "the agent", health).with_context(|| self.said("agent.log"))?;
        Ok(running)
    }
}

fn ready(running: &mut Running, what: &str, health: SocketAddr) -> Result<()> {
    wait_for(&format!("{what} getting ready"), START, || {
        running.still_runs(what)?;
        Ok(answers_ready(health).then_some(()))
    })
}

fn answers_ready(health: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&health, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut head = [0u8; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    // Not listening yet is the ordinary case.
    ask().unwrap_or(false)
}

/// Free ports of the loopback address, all different.
fn ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let found: Vec<SocketAddr> = held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    found.try_into().ok().context("as many ports as were asked for")
}

/// Output of a child is not wanted.
pub(crate) fn quiet(command: &mut Command) -> &mut Command {
    command.stdout(Stdio::null()).stderr(Stdio::null())
}

/// Bytes of the files beneath `dir`.
pub(crate) fn bytes_beneath(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => bytes_beneath(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
