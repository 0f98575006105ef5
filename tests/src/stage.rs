//! A stage: a collector, agents and people on ports and folders of their own, as real processes.
//!
//! A [`Stage`] owns a temporary folder. [`House`] is a collector's configuration and, while it runs, its process;
//! [`Post`] is the same for an agent. Both can be stopped, killed and started again on the same state. [`Person`] asks
//! through the CLI. Everything ends when dropped.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::cgroup::Group;
use crate::process::Process;
use crate::wait::until;

/// How long a program may take to start; an unoptimised build on a busy machine needs some of it.
pub const START: Duration = Duration::from_secs(40);

/// The programs, as built for the tests.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `dogwatch-agent`.
    pub agent: PathBuf,
    /// `dogwatch-collector`.
    pub collector: PathBuf,
    /// `dogwatch`.
    pub dogwatch: PathBuf,
    /// What `cargo up` runs.
    pub local: PathBuf,
}

/// The programs; cargo tells their paths to the test that calls this alone.
#[macro_export]
macro_rules! programs {
    () => {
        $crate::stage::Programs {
            agent: env!("CARGO_BIN_EXE_e2e-agent").into(),
            collector: env!("CARGO_BIN_EXE_e2e-collector").into(),
            dogwatch: env!("CARGO_BIN_EXE_e2e-dogwatch").into(),
            local: env!("CARGO_BIN_EXE_e2e-local").into(),
        }
    };
}

/// Where a scenario plays.
#[derive(Debug)]
pub struct Stage {
    programs: Programs,
    folder: TempDir,
}

impl Stage {
    /// A stage with a folder of its own.
    ///
    /// # Panics
    /// When not run by root, or without room for a folder.
    pub fn new(programs: Programs) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these scenarios mount filesystems and clean up others' files: run them as root (sudo -E cargo test …)"
        );
        let folder = TempDir::with_prefix("dogwatch-e2e-").expect("a temporary folder can be made");
        Self { programs, folder }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The programs on it.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// A collector that keeps its state in `state`, not started. `more` is YAML: sections besides `state`, `server`,
    /// `health`, `store`, `log`.
    pub fn house(&self, state: &Path, more: &str) -> House {
        let (listen, health) = (free_address(), free_address());
        let name = format!("collector-{}", listen.port());
        let config = self.path().join(format!("{name}.yaml"));
        let text = format!(
            "state: {{ dir: {} }}\nserver: {{ listen: \"{listen}\" }}\nhealth: {{ listen: \"{health}\" }}\n\
             store: {{ segment_bytes: 2MiB, reserve_bytes: 1MiB }}\nlog: {{ level: info }}\n{more}\n",
            yaml(state)
        );
        std::fs::write(&config, text).expect("a configuration can be written");
        House {
            program: self.programs.collector.clone(),
            dogwatch: self.programs.dogwatch.clone(),
            folder: self.path().to_owned(),
            name,
            config,
            state: state.to_owned(),
            listen,
            health,
            process: None,
        }
    }

    /// An agent of node `node` that keeps its state in `state`, not started. `more` is YAML: sections besides `node`,
    /// `uplink`, `health`, `log`; it must have `state` only for what differs from [`AGENT_JOURNALS`].
    pub fn post(&self, node: &str, state: &Path, house: Option<&House>, more: &str) -> Post {
        let mut text = format!("node: {{ name: {node} }}\nlog: {{ level: info }}\n");
        if !more.lines().any(|l| l.starts_with("health:")) {
            text += "health: { listen: \"off\" }\n";
        }
        if !more.lines().any(|l| l.starts_with("state:")) {
            text += &format!("state: {{ dir: {}, {AGENT_JOURNALS} }}\n", yaml(state));
        }
        // The machine's kernel speaks of other scenarios' filesystems too.
        if !more.lines().any(|l| l.starts_with("kernel:")) {
            text += "kernel: { enabled: false }\n";
        }
        let tag = NEXT_TAG.fetch_add(1, Ordering::Relaxed);
        if let Some(house) = house {
            let token = self.path().join(format!("token-{node}-{tag}"));
            std::fs::write(&token, house.token(&["--uses", "5"])).expect("a token can be kept");
            text += &format!(
                "uplink: {{ collector: \"{}\", join_token_file: {}, pulse_every: 1s }}\n",
                house.listen,
                yaml(&token)
            );
        }
        text += more;
        let config = self.path().join(format!("agent-{node}-{tag}.yaml"));
        let mut environment = Vec::new();
        // A scenario that says something about detection wants all of it.
        if !more.lines().any(|l| l.starts_with("detect:")) {
            environment.push(("DOGWATCH_DETECT__RULES__OFF".to_owned(), RULES_OFF.to_owned()));
        }
        std::fs::write(&config, text).expect("a configuration can be written");
        Post {
            program: self.programs.agent.clone(),
            log: self.path().join(format!("agent-{node}-{tag}.log")),
            name: format!("agent {node}"),
            config,
            state: state.to_owned(),
            groups: Vec::new(),
            environment,
            within: Vec::new(),
            process: None,
        }
    }

    /// The CLI on a node's own journal, without a collector.
    pub fn on_journal(&self, state: &Path) -> Person {
        Person {
            program: self.programs.dogwatch.clone(),
            first: vec!["--journal".to_owned(), state.join("journal").display().to_string()],
        }
    }
}

/// Small journals, quickly made: 4 MiB for what is urgent, 16 MiB each for the rest.
pub const AGENT_JOURNALS: &str =
    "segment_bytes: 1MiB, urgent_bytes: 4MiB, evidence_bytes: 16MiB, recorder_bytes: 16MiB";

/// Rules about how busy the machine is that runs the tests, which is no part of any scenario.
const RULES_OFF: &str = "[cpu-saturation, cpu-steal, fork-storm, io-stall, tcp-retransmits]";

static NEXT_TAG: AtomicU16 = AtomicU16::new(1);

/// A collector: its configuration, and its process while it runs.
#[derive(Debug)]
pub struct House {
    program: PathBuf,
    dogwatch: PathBuf,
    folder: PathBuf,
    name: String,
    config: PathBuf,
    state: PathBuf,
    listen: SocketAddr,
    health: SocketAddr,
    process: Option<Process>,
}

impl House {
    /// Starts it and waits until it is ready.
    pub fn start(&mut self) {
        self.launch();
        self.wait_ready();
    }

    /// Starts it.
    pub fn launch(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        self.process = Some(Process::start(&self.name, command, &self.log()));
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// When it is not in time, or ended.
    pub fn wait_ready(&mut self) {
        let health = self.health;
        let process = self.process.as_mut().expect("it was started");
        until("the collector to be ready", START, || {
            assert!(process.is_running(), "the collector ended at its start");
            http_ok(health, "/readyz").then_some(())
        });
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(&mut self) {
        let status = self.process.take().expect("it runs").terminate();
        assert!(status.success(), "the collector ended with {status} on SIGTERM: {}", self.said());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// Its process, to be ended by the caller.
    pub fn take(&mut self) -> Process {
        self.process.take().expect("it runs")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where it serves probes and metrics.
    pub fn health(&self) -> SocketAddr {
        self.health
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its store's folder.
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// All that it said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// Runs one of its verbs.
    pub fn verb(&self, args: &[&str]) -> Output {
        run(Command::new(&self.program).arg("--config").arg(&self.config).args(args))
    }

    /// A join token.
    ///
    /// # Panics
    /// When it makes none.
    pub fn token(&self, args: &[&str]) -> String {
        let out = self.verb(&[&["token"], args].concat());
        assert!(out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Somebody with a certificate of this role (viewer, responder, admin).
    ///
    /// # Panics
    /// When they get none.
    pub fn person(&self, name: &str, role: &str) -> Person {
        let people = self.folder.join(format!("people-{}", self.listen.port()));
        let out = self.verb(&[
            "person",
            name,
            "--role",
            role,
            "--ttl",
            "12h",
            "--out",
            &people.display().to_string(),
        ]);
        assert!(out.status.success(), "{out:?}");
        let config = people.join(format!("{name}.yaml"));
        let text = format!("collector: \"{}\"\nca: ca.crt\ncert: {name}.crt\nkey: {name}.key\n", self.listen);
        std::fs::write(&config, text).expect("a configuration can be written");
        Person {
            program: self.dogwatch.clone(),
            first: vec!["--config".to_owned(), config.display().to_string()],
        }
    }

    /// Verifies the store offline.
    pub fn verify(&self) -> Output {
        self.verb(&["verify"])
    }
}

/// An agent: its configuration, and its process while it runs.
#[derive(Debug)]
pub struct Post {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    name: String,
    state: PathBuf,
    groups: Vec<PathBuf>,
    environment: Vec<(String, String)>,
    within: Vec<String>,
    process: Option<Process>,
}

impl Post {
    /// It becomes a member of `group` before it runs its first instruction, whenever it is started.
    pub fn confine(&mut self, group: &Group) {
        self.groups.extend(group.procs_files());
    }

    /// It has `name` set to `value` in its environment whenever it is started.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// What it says goes to `file` from now on.
    pub fn log_to(&mut self, file: &Path) {
        self.log = file.to_owned();
    }

    /// It is started by `command`, which is given its command line as further arguments; its process is then that one.
    pub fn within(&mut self, command: &[&str]) {
        self.within = command.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Starts it and waits until it says that it is up.
    ///
    /// # Panics
    /// When it is not in time, or ended.
    pub fn start(&mut self) {
        let before = self.said().len();
        self.launch();
        let log = self.log.clone();
        let process = self.process.as_mut().expect("it was started just now");
        until("the agent to be up", START, || {
            let said = std::fs::read(&log).unwrap_or_default();
            let up =
                String::from_utf8_lossy(said.get(before..).unwrap_or_default()).contains("the agent is up");
            assert!(up || process.is_running(), "the agent ended at its start");
            up.then_some(())
        });
    }

    /// Starts it.
    pub fn launch(&mut self) {
        let mut line = self.within.iter().map(String::as_str).chain(["sh"]);
        let mut command = Command::new(line.next().unwrap_or("sh"));
        command.args(line);
        // The shell joins the groups and becomes the agent: its id stays.
        command.args(["-c", "program=$1 config=$2; shift 2; for g; do echo $$ >\"$g\" || exit 1; done; exec \"$program\" --config \"$config\"", "sh"]);
        command.arg(&self.program).arg(&self.config).args(&self.groups);
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        self.process = Some(Process::start(&self.name, command, &self.log));
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(&mut self) {
        let status = self.process.take().expect("it runs").terminate();
        assert!(status.success(), "the agent ended with {status} on SIGTERM: {}", self.said());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// Its process, to be ended by the caller.
    pub fn take(&mut self) -> Process {
        self.process.take().expect("it runs")
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// All that it said.
    pub fn said(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

/// Somebody who asks through the CLI.
#[derive(Debug, Clone)]
pub struct Person {
    program: PathBuf,
    first: Vec<String>,
}

impl Person {
    /// Runs `dogwatch` with `args`.
    pub fn dogwatch(&self, args: &[&str]) -> Output {
        run(Command::new(&self.program).args(&self.first).args(args))
    }

    /// Its answer as it stands.
    ///
    /// # Panics
    /// When the exit code is not 0.
    pub fn ask(&self, args: &[&str]) -> String {
        let out = self.dogwatch(args);
        assert!(out.status.success(), "dogwatch {args:?}: {out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Its answer with `-o json`.
    ///
    /// # Panics
    /// When the exit code is not 0, or it is no JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ask(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("-o json prints JSON")
    }

    /// The rows of a JSON array.
    ///
    /// # Panics
    /// When it is none.
    pub fn rows(&self, args: &[&str]) -> Vec<Value> {
        match self.json(args) {
            Value::Array(rows) => rows,
            other => vec![other],
        }
    }
}

/// A path as YAML.
pub fn yaml(path: &Path) -> String {
    Value::from(path.display().to_string()).to_string()
}

fn run(command: &mut Command) -> Output {
    // The caller's own dogwatch must not be asked by accident.
    for key in ["DOGWATCH_STATE", "DOGWATCH_CLI_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env_remove(key);
    }
    command.stdin(std::process::Stdio::null()).output().expect("the program was built and can be started")
}

/// Whether a GET answers 200.
pub fn http_ok(address: SocketAddr, path: &str) -> bool {
    http_get(address, path).is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// What a GET answers, head and body; `None` if nothing does. Whoever listens and is slow is asked again, for 20 s.
pub fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    let began = Instant::now();
    loop {
        match http_get_once(address, path) {
            Ok(answer) => return Some(answer),
            // A read that has its fill of waiting is told so by the one or by the other.
            Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
            Err(_) => return None,
        }
        if began.elapsed() > Duration::from_secs(20) {
            return None;
        }
    }
}

/// The same, asked once: who answers within 2 s.
///
/// # Errors
/// Why nobody does.
pub fn http_get_once(address: SocketAddr, path: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};
    let wait = Duration::from_secs(2);
    let mut stream = std::net::TcpStream::connect_timeout(&address, wait)?;
    stream.set_read_timeout(Some(wait))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A loopback address whose port is free and not one that the kernel hands out by itself, so that a program can be
/// stopped and started on it again.
///
/// # Panics
/// When no port is free.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 20_000;
    const PORTS: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = (std::process::id() as u16).wrapping_mul(61) % PORTS;
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + (spread + step) % PORTS));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    unreachable!("12,000 ports of the loopback address are taken")
}
