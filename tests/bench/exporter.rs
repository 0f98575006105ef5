//! prometheus-node-exporter, scraped once a second, as it comes from its package.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::beat::Beat;
use super::place::quiet;
use super::process::{Running, wait_for};

const PROGRAM: &str = "prometheus-node-exporter";
const START: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_secs(1);

/// The exporter and who scrapes it.
#[derive(Debug)]
pub(crate) struct Exporter {
    running: Running,
    stop: Arc<AtomicBool>,
    scrapes: Arc<AtomicU64>,
}

impl Exporter {
    /// Starts both, of which one scrapes at `beat`; `None` where the exporter is not installed.
    pub(crate) fn start(beat: Beat) -> Result<Option<Self>> {
        let mut found = Command::new(PROGRAM);
        if quiet(&mut found).arg("--version").status().is_err() {
            return Ok(None);
        }
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(PROGRAM);
        quiet(&mut command).arg(format!("--web.listen-address={address}")).stdin(Stdio::null());
        let mut running = Running::start(command)?;
        wait_for("the exporter's start", START, || {
            running.still_runs(PROGRAM)?;
            Ok(scrape(address).ok())
        })?;
        let (stop, scrapes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, count) = (stop.clone(), scrapes.clone());
        std::thread::spawn(move || {
            let mut due = Instant::now() + beat.wait();
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            while !stopping.load(Ordering::Relaxed) {
                if scrape(address).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                due += INTERVAL;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        Ok(Some(Self { running, stop, scrapes }))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Scrapes that were answered so far.
    pub(crate) fn scrapes(&self) -> u64 {
        self.scrapes.load(Ordering::Relaxed)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn scrape(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, INTERVAL)?;
    stream.set_read_timeout(Some(INTERVAL * 5))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading what was scraped")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "the exporter refused");
    Ok(())
}
