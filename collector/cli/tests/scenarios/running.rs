//! A way to run the command line against a desk, on a real port or over a channel, and to read what it wrote.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
pub(crate) use dogwatch_cli::Dial;
use dogwatch_cli::error::CliError;
use dogwatch_cli::{Cli, Io, Terminal, World, run};
use tonic::transport::Endpoint;

use crate::canned::{Asked, T0, serve};

/// A running desk; it ends with the test's runtime.
pub(crate) struct Running {
    address: SocketAddr,
    pub(crate) asked: Asked,
    pub(crate) well: Arc<AtomicBool>,
}

pub(crate) async fn desk() -> Running {
    let (address, asked, well) = serve().await;
    Running { address, asked, well }
}

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// How a command is run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How<'a> {
    pub(crate) columns: Option<usize>,
    pub(crate) color: bool,
    pub(crate) answer: Option<&'a str>,
}

impl Running {
    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        self.run_as(How::default(), args).await
    }

    /// Runs what has no end, until `done` holds of what it wrote to stdout and stderr.
    pub(crate) async fn run_until(
        &self,
        how: How<'_>,
        args: &[&str],
        done: impl Fn(&str, &str) -> bool,
    ) -> Ran {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        let (out, err) = (Shared::default(), Shared::default());
        let (mut to, mut talk) = (out.clone(), err.clone());
        let run = run_into(Dial::Over(channel), how, args, (&mut to, &mut talk));
        let until = async {
            loop {
                if done(&out.text(), &err.text()) {
                    break;
                }
                tokio::select! { _ = out.written.notified() => {}, _ = err.written.notified() => {} }
            }
        };
        let code = tokio::select! {
            code = run => code,
            _ = until => 0,
            _ = tokio::time::sleep(std::time::Duration::from_secs(30)) => {
                panic!("{args:?} never wrote what was waited for:\n{}\n{}", out.text(), err.text())
            }
        };
        Ran { code, out: out.text(), err: err.text() }
    }

    pub(crate) async fn run_as(&self, how: How<'_>, args: &[&str]) -> Ran {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy();
        run_with(Dial::Over(channel), how, args).await
    }
}

/// Over a channel to a port that nobody listens on.
pub(crate) async fn run_without_desk(args: &[&str]) -> Ran {
    // Kept until the command has ended, so that nobody else is given the port meanwhile.
    let kept = tokio::net::TcpSocket::new_v4().unwrap();
    kept.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = kept.local_addr().unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let ran = run_with(Dial::Over(channel), How::default(), args).await;
    drop(kept);
    ran
}

pub(crate) async fn run_with(dial: Dial, how: How<'_>, args: &[&str]) -> Ran {
    let (out, err) = (Shared::default(), Shared::default());
    let code = run_into(dial, how, args, (&mut out.clone(), &mut err.clone())).await;
    Ran { code, out: out.text(), err: err.text() }
}

/// What is written, while it is written.
#[derive(Debug, Clone, Default)]
struct Shared {
    bytes: Arc<Mutex<Vec<u8>>>,
    written: Arc<tokio::sync::Notify>,
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        self.written.notify_one();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn run_into(dial: Dial, how: How<'_>, args: &[&str], (out, err): (&mut Shared, &mut Shared)) -> u8 {
    let mut input = Cursor::new(how.answer.unwrap_or_default().to_owned());
    let mut io = Io {
        out,
        err,
        input: &mut input,
        terminal: Terminal {
            shown: how.columns.is_some(),
            columns: how.columns,
            color: how.color,
            can_ask: how.answer.is_some(),
            ..Terminal::default()
        },
    };
    // Longer than any machine is slow: no scenario is about an answer that never comes.
    let words = ["dogwatch", "--timeout", "5min"];
    let cli = Cli::try_parse_from(words.into_iter().chain(args.iter().copied()));
    let outcome = match cli {
        Ok(cli) => {
            let world = World { now_ns: T0, env: Box::new(|_| None), dial, called: "dogwatch" };
            run(cli, &world, &mut io).await
        }
        Err(e) => Err(CliError::Usage(e.to_string())),
    };
    match outcome {
        Ok(()) => 0,
        Err(e) => {
            writeln!(io.err, "{e}").unwrap();
            e.exit_code()
        }
    }
}
