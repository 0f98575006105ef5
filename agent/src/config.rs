//! The agent's configuration. `deploy/config/agent.yaml` shows every key with its default.

mod cleanup;
mod detect;
mod images;
mod preserve;
mod room;
mod usage;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::config::{Keys, Problems, Section, read};
use dogwatch::identity::TrustDomain;
use dogwatch::record::NodeName;
use dogwatch::telemetry::{Format, level_of};
use dogwatch::tls::{TlsError, check_address};

use crate::act::images::policy::ImagePolicy;
use crate::act::permit::Without;
use crate::act::policy::Policy;
use crate::act::respond::Settings;
use crate::act::witness::PreserveBudget;
use crate::ballast::BallastConfig;
use crate::detect::{DetectConfig, LogRule};
use crate::kmsg::{KernelConfig, Origin};
use crate::sample::Caps;
use crate::tail::{RuleSet, Start, TailConfig};
use crate::usage::rounds::RoundsConfig;

const MIB: u64 = 1024 * 1024;

/// Everything that the agent is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node: NodeName,
    /// Where it keeps everything.
    pub state_dir: PathBuf,
    /// The host's root as the agent sees it: `/`, or where a container has it mounted.
    pub host_root: PathBuf,
    /// How often the vital signs are read.
    pub sample_every: Duration,
    /// How often a sample goes to the evidence stream when nothing cites one.
    pub evidence_every: Duration,
    /// Whether processes are read.
    pub processes: bool,
    /// Whether each CPU's times are read.
    pub per_core: bool,
    /// Whether block devices are read.
    pub disks: bool,
    /// Whether interfaces and the network stack are read.
    pub network: bool,
    /// Control groups; `None`: off.
    pub cgroups: Option<CgroupConfig>,
    /// What the agent may cost before it takes samples less often.
    pub caps: Caps,
    /// Log tailing; `None`: off.
    pub tail: Option<TailConfig>,
    /// The kernel's log; `None`: off.
    pub kernel: Option<KernelConfig>,
    /// How it walks its disks by itself; `None`: it does not.
    pub rounds: Option<RoundsConfig>,
    /// Thresholds.
    pub detect: DetectConfig,
    /// What a cleanup may do.
    pub policy: Policy,
    /// What it may do with images.
    pub images: ImagePolicy,
    /// How soon and how often a mount is cleaned again.
    pub breaker: Settings,
    /// Room that is given up first.
    pub ballast: BallastConfig,
    /// How much of the content of what a cleanup removes is kept, where a root's policy preserves it.
    pub preserve: PreserveBudget,
    /// What the node does by itself while its collector does not answer.
    pub without_collector: Without,
    /// Segment size of each journal.
    pub segment_bytes: u64,
    /// Sizes of the journals: urgent, evidence, recorder.
    pub journal_bytes: [u64; 3],
    /// `host:port` of the collector; `None`: record only.
    pub collector: Option<String>,
    /// A DNS name that the collector's certificate may have instead of its identity.
    pub collector_name: Option<String>,
    /// Certificate, key and CA of this node from an external CA; `None`: it enrols.
    pub certificate: Option<CertificateFiles>,
    /// By what the node enrols.
    pub enrol_by: Option<EnrolBy>,
    /// Whose identities are believed.
    pub trust_domain: TrustDomain,
    /// How often figures of now are sent.
    pub pulse_every: Duration,
    /// Where `/metrics`, `/healthz` and `/readyz` are; `None`: nowhere.
    pub health_listen: Option<SocketAddr>,
    /// Log level or filter.
    pub log_level: String,
    /// How log lines look.
    pub log_format: Format,
}

/// How control groups are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupConfig {
    /// How often.
    pub every: Duration,
    /// How many at most.
    pub max: usize,
}

/// By what a node enrols: files, read anew at each attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolBy {
    /// A join token.
    JoinToken(PathBuf),
    /// The token of the pod's own service account.
    ServiceAccount {
        /// It.
        token: PathBuf,
        /// The CA of the collector that it is shown to, PEM.
        ca: PathBuf,
    },
}

/// Files of a node's certificate, PEM; they are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// What the collector's certificate chains to.
    pub ca: PathBuf,
}

/// A configuration as it was read, with its mistakes.
#[derive(Debug, Clone)]
pub struct Read {
    /// It, with the default of each key that has a mistake. Not to be started with where there are problems.
    pub config: Config,
    /// Every key that is given.
    pub keys: Keys,
    /// The file, as its mistakes name it.
    pub origin: String,
    /// Whether the file gives no key at all, or cannot be read.
    pub bare: bool,
    /// Every mistake.
    pub problems: Option<Problems>,
}

impl Config {
    /// Reads `file` and the environment.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        Self::load_keys(file, environment).map(|(config, _)| config)
    }

    /// The same, and every key that is given.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load_keys(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Keys), Problems> {
        let read = Self::read(file, environment);
        read.problems.map_or(Ok((read.config, read.keys)), Err)
    }

    /// The same, and what it would be without its mistakes.
    pub fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Read {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let around = Around {
            state_dir: environment
                .get("STATE_DIRECTORY")
                .map_or_else(|| "/var/lib/dogwatch".into(), PathBuf::from),
            // The downward API's name for it, else the host's own.
            node: environment
                .get("NODE_NAME")
                .cloned()
                .or_else(|| rustix::system::uname().nodename().to_str().ok().map(str::to_ascii_lowercase)),
        };
        let origin = file.map_or_else(String::new, |file| file.display().to_string());
        let mut walked = None;
        let problems = read(file, environment, |root| {
            let config = walk(root, around);
            walked = Some((config, root.keys(), root.is_bare()));
        });
        #[expect(clippy::expect_used, reason = "reading always walks, whatever the file says")]
        let (config, keys, bare) = walked.expect("the keys were walked");
        Read { config, keys, origin, bare, problems: problems.err() }
    }
}

struct Around {
    state_dir: PathBuf,
    node: Option<String>,
}

fn walk(root: &mut Section, around: Around) -> Config {
    let (node, host_root) = root.section("node", |s| {
        let name = node_name(s, around.node.as_deref());
        (name, s.path_value("host_root").unwrap_or_else(|| "/".into()))
    });
    let (state_dir, segment_bytes, journal_bytes) = root.section("state", |s| {
        let dir = s.path_value("dir").unwrap_or(around.state_dir);
        let segment = s.bytes("segment_bytes", MIB, MIB..=64 * MIB);
        let mut journal = |key: &str, default: u64| s.bytes(key, default, 2 * segment..=1 << 40);
        let sizes = [
            journal("urgent_bytes", 16 * MIB),
            journal("evidence_bytes", 64 * MIB),
            journal("recorder_bytes", 64 * MIB),
        ];
        (dir, segment, sizes)
    });
    let (sample_every, evidence_every, [processes, per_core, disks, network], cgroups) =
        root.section("sample", |s| {
            let second = Duration::from_secs(1);
            let hour = Duration::from_secs(3600);
            let every = s.duration("every", second, Duration::from_millis(100)..=hour);
            let evidence_every = s.duration("evidence_every", second * 10, every..=hour);
            let flags = [("processes", true), ("per_core", false), ("disks", true), ("network", true)]
                .map(|(k, on)| s.flag(k, on));
            (every, evidence_every, flags, s.section("cgroups", cgroups))
        });
    let caps = root.section("caps", caps);
    let rounds = root.section("usage", |s| usage::rounds(s, &caps));
    let (tails, tail) = root.section("tail", tail);
    let kernel = root.section("kernel", |s| kernel(s, &tail.rules, &host_root));
    let mut detect = root.section("detect", detect::detect);
    if tails || kernel.is_some() {
        let meaning = |r: &crate::tail::Rule| LogRule {
            name: r.name.clone(),
            severity: r.severity,
            summary: r.summary.clone(),
            security: r.security,
        };
        detect.logs.rules = tail.rules.rules().iter().map(meaning).collect();
    }
    let tail = tails.then_some(tail);
    let (policy, images, breaker, ballast, preserve, without_collector) = root.section("cleanup", |s| {
        (
            cleanup::policy(s, &state_dir, &host_root),
            s.section("images", images::images),
            s.section("breaker", room::breaker),
            s.section("ballast", room::ballast),
            s.section("preserve", |p| preserve::preserve(p, journal_bytes[1])),
            s.parse("without_collector", Without::CriticalOnly),
        )
    });
    let (collector, collector_name, enrol_by, trust_domain, pulse_every, certificate) =
        root.section("uplink", |s| {
            let every = Duration::from_secs(10);
            (
                collector(s),
                s.text("collector_name"),
                enrol_by(s),
                s.parse("trust_domain", TrustDomain::default()),
                s.duration("pulse_every", every, Duration::from_secs(1)..=Duration::from_secs(600)),
                certificate_files(s),
            )
        });
    let health_listen = root.section("health", |s| match s.text("listen").as_deref() {
        Some("off") => None,
        Some(text) => match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                s.problem("listen", text, "is not an address and port", "e.g. 127.0.0.1:7481, or off");
                None
            }
        },
        None => Some(SocketAddr::from(([127, 0, 0, 1], 7481))),
    });
    let (log_level, log_format) = root.section("log", |s| (level_of(s), s.parse("format", Format::Text)));
    Config {
        node,
        state_dir,
        host_root,
        sample_every,
        evidence_every,
        processes,
        per_core,
        disks,
        network,
        cgroups,
        caps,
        tail,
        kernel,
        rounds,
        detect,
        policy,
        images,
        breaker,
        ballast,
        preserve,
        without_collector,
        segment_bytes,
        journal_bytes,
        collector,
        collector_name,
        certificate,
        enrol_by,
        trust_domain,
        pulse_every,
        health_listen,
        log_level,
        log_format,
    }
}

fn collector(s: &mut Section) -> Option<String> {
    let address = s.text("collector")?;
    if let Err(e) = check_address(&address) {
        let remedy = "write host:port, e.g. dogwatch-collector.dogwatch.svc:7443";
        s.problem("collector", &address, format!("is not an address: {}", reason(&e)), remedy);
    }
    Some(address)
}

/// Why, without the address and the remedy that a configuration's mistake has anyway.
fn reason(error: &TlsError) -> String {
    match error {
        TlsError::Address { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

fn cgroups(s: &mut Section) -> Option<CgroupConfig> {
    let on = s.flag("enabled", true);
    let every =
        s.duration("every", Duration::from_secs(5), Duration::from_millis(100)..=Duration::from_secs(600));
    // Each has some ten files, and a sample with all of them must fit in a record.
    let max = s.number("max", 2_000, 1..=2_000);
    on.then_some(CgroupConfig { every, max })
}

fn caps(s: &mut Section) -> Caps {
    let d = Caps::default();
    let cpu = s.fraction("cpu", d.cpu);
    // Below that it would be at its slowest from the first minute on.
    if cpu < 0.005 {
        s.problem(
            "cpu",
            &cpu.to_string(),
            "is less than the agent needs at its slowest",
            "give it at least 0.5%",
        );
    }
    Caps { cpu, memory_bytes: s.bytes("memory", d.memory_bytes, 32 * MIB..=1 << 40) }
}

fn enrol_by(s: &mut Section) -> Option<EnrolBy> {
    let join = s.path_value("join_token_file");
    let token = s.path_value("service_account_token_file");
    let ca = s.path_value("collector_ca_file");
    match (join, token, ca) {
        (join, None, None) => join.map(EnrolBy::JoinToken),
        (None, Some(token), Some(ca)) => Some(EnrolBy::ServiceAccount { token, ca }),
        (Some(path), Some(_), _) => {
            let shown = path.display().to_string();
            let why = "there is a service account's token as well";
            s.problem("join_token_file", &shown, why, "give the agent one of the two");
            None
        }
        (_, Some(_), None) => {
            let why = "is missing: a service account's token is shown only to a collector that is known";
            let remedy = "name a file with the output of `dogwatch-collector ca`";
            s.problem("collector_ca_file", "", why, remedy);
            None
        }
        (_, None, Some(path)) => {
            let shown = path.display().to_string();
            let why = "goes with service_account_token_file, which is missing";
            s.problem("collector_ca_file", &shown, why, "drop it: a join token names its CA itself");
            None
        }
    }
}

fn certificate_files(s: &mut Section) -> Option<CertificateFiles> {
    if !["certificate", "key", "ca"].iter().any(|k| s.has(k)) {
        return None;
    }
    let mut file = |key: &str| {
        let path = s.path_value(key);
        if path.is_none() {
            s.problem(
                key,
                "",
                "is missing",
                "an external CA needs certificate, key and ca; or give none of them",
            );
        }
        path
    };
    let (certificate, key, ca) = (file("certificate"), file("key"), file("ca"));
    Some(CertificateFiles { certificate: certificate?, key: key?, ca: ca? })
}

fn node_name(s: &mut Section, host: Option<&str>) -> NodeName {
    let given = s.text("name");
    let text = given.as_deref().or(host).unwrap_or_default();
    text.parse().unwrap_or_else(|e| {
        let remedy = "set node.name, or NODE_NAME by the downward API";
        s.problem("name", text, format!("is not a node name: {e}"), remedy);
        #[expect(
            clippy::unwrap_used,
            reason = "a constant that is a node name; it is never used, the mistake refuses the start"
        )]
        "unnamed".parse().unwrap()
    })
}

/// Whether to tail, and how; the rules are the kernel log's as well.
fn tail(s: &mut Section) -> (bool, TailConfig) {
    let mut c = TailConfig::default();
    let on = s.flag("enabled", true);
    if let Some(globs) = s.texts("globs") {
        c.globs = globs;
    }
    for (i, g) in c.globs.iter().enumerate() {
        if !g.starts_with('/') {
            s.problem(&format!("globs[{i}]"), g, "is not absolute", "begin it with /");
        }
    }
    if let Some(exclude) = s.texts("exclude") {
        c.exclude = exclude;
    }
    if let Some(roots) = s.texts("link_roots") {
        c.link_roots = roots.into_iter().map(PathBuf::from).collect();
    }
    c.start = match s.text("start").as_deref() {
        None | Some("end") => Start::End,
        Some("beginning") => Start::Beginning,
        Some(other) => {
            s.problem("start", other, "is neither end nor beginning", "write end or beginning");
            Start::End
        }
    };
    if let Some(path) = s.path_value("rules_file") {
        let shown = path.display().to_string();
        match std::fs::read_to_string(&path) {
            Err(e) => {
                s.problem("rules_file", &shown, format!("cannot be read: {e}"), "name a readable rules file")
            }
            Ok(text) => match RuleSet::parse(&shown, &text) {
                Ok(rules) => c.rules = rules,
                Err(e) => s.problem("rules_file", &shown, e.to_string(), "mend the rules that it names"),
            },
        }
    }
    c.emit_all = s.flag("record_all_lines", c.emit_all);
    c.max_files = s.number("max_files", c.max_files, 1..=65_536);
    c.bytes_per_second = s.bytes("bytes_per_second", c.bytes_per_second, 64 * 1024..=1 << 40);
    c.poll = s.duration("poll", c.poll, Duration::from_millis(10)..=Duration::from_secs(60));
    (on, c)
}

fn kernel(s: &mut Section, rules: &RuleSet, host_root: &Path) -> Option<KernelConfig> {
    let mut c = KernelConfig { rules: rules.clone(), ..KernelConfig::default() };
    if host_root != Path::new("/") {
        // Where a container has only the host's; its own comes second.
        c.devices.insert(0, host_root.join("dev/kmsg"));
    }
    let on = s.flag("enabled", true);
    c.origin = s.parse("source", Origin::Auto);
    c.history = s.duration("history", c.history, Duration::ZERO..=Duration::from_secs(365 * 86_400));
    c.evidence_priority = s.number("evidence_priority", c.evidence_priority, 0..=7);
    c.lines_per_second = s.number("lines_per_second", c.lines_per_second, 1..=1_000_000);
    c.evidence_lines_per_second =
        s.number("evidence_lines_per_second", c.evidence_lines_per_second, 1..=1_000_000);
    c.poll = s.duration("poll", c.poll, Duration::from_millis(100)..=Duration::from_secs(60));
    on.then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_shows_the_defaults() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/agent.yaml");
        let environment = [("NODE_NAME".to_owned(), "n1".to_owned())];
        let shown = Config::load(Some(&example), environment.clone()).unwrap();
        let default = Config::load(None, environment).unwrap();
        assert_eq!(format!("{shown:#?}"), format!("{default:#?}"));
    }

    #[test]
    fn what_lies_on_the_nodes_disk_is_no_mistake_and_makes_that_root_unusable() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app");
        std::fs::create_dir_all(app.join("out")).unwrap();
        let roots = format!(
            "[{{path: {0}/out}}, {{path: /var/log}}, \
             {{path: {0}/own, cleaner: custom, patterns: ['*.core.*'], min_age: 1h, owner: no-such-user}}]",
            app.display()
        );
        let environment = [("NODE_NAME", "n1"), ("DOGWATCH_CLEANUP__ROOTS", &roots)];
        let unusable = || {
            let config = Config::load(None, environment.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap();
            let problems = config.policy.unusable(&config.state_dir);
            problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let [owner] = &unusable()[..] else { unreachable!("{:?}", unusable()) };
        assert!(owner.starts_with("roots[2].owner") && owner.contains("no user of that name"), "{owner}");
        type Lay<'l> = &'l dyn Fn(&Path) -> std::io::Result<()>;
        let laid: [(&str, &str, Lay<'_>); 4] = [
            ("out", "symbolic link", &|at| std::os::unix::fs::symlink("/nowhere", at)),
            ("out", "is not a folder", &|at| std::fs::write(at, "")),
            ("dump.rdb", "dump.rdb marks", &|at| std::fs::write(at, "")),
            ("PG_VERSION", "PG_VERSION marks", &|at| std::fs::write(at, "")),
        ];
        for (name, words, lay) in laid {
            let at = app.join(name);
            let _ = std::fs::remove_dir(&at);
            lay(&at).unwrap();
            let said = unusable();
            let named = said.iter().any(|p| p.starts_with("roots[0].path") && p.contains(words));
            assert!(named, "{words}: {said:?}");
            std::fs::remove_file(&at).unwrap();
        }
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let environment = [
            ("NODE_NAME", "Not_A_Name"),
            ("DOGWATCH_CLEANUP__MODE", "sometimes"),
            (
                "DOGWATCH_CLEANUP__ROOTS",
                "[{path: /etc}, {path: relative}, {path: /srv/x, cleaner: custom, patterns: ['*'], owner: no-such-user, min_age: 1m}, \
                 {path: /srv/y, cleaner: images}, {path: /srv/z, cleaner: cores, mode: sometimes}, \
                 {path: /var/cache, cleaner: package-caches}]",
            ),
            ("DOGWATCH_DETECT__SPACE__HIGH_USED", "20%"),
            ("DOGWATCH_TAIL__GLOBS", "['*.log']"),
            ("DOGWATCH_STATE__DIRR", "/x"),
            ("DOGWATCH_DETECT__RULES__OFF", "[zombies, no-such-rule]"),
            ("DOGWATCH_DETECT__CONNTRACK__HIGH_USED", "99%"),
            ("DOGWATCH_DETECT__TCP_RETRANSMITS__CLEAR_SHARE", "50%"),
            ("DOGWATCH_UPLINK__SERVICE_ACCOUNT_TOKEN_FILE", "/token"),
            ("DOGWATCH_UPLINK__COLLECTOR", "collector.example"),
            ("DOGWATCH_LOG__LEVEL", "infoo"),
            ("DOGWATCH_DETECT__TIME_TO_FULL__BOUND", "25h"),
            ("DOGWATCH_DETECT__TIME_TO_FULL__CRITICAL", "24h"),
        ];
        let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let text = Config::load(None, environment).unwrap_err().to_string();
        for part in [
            "node.name",
            "cleanup.mode",
            "cleanup.roots[0].path = /etc",
            "cleanup.roots[1].path = relative",
            "cleanup.roots[2].patterns = *: it takes any name; say what only a leftover is called",
            "cleanup.roots[2].min_age",
            "cleanup.roots[3].cleaner = images: images lie in no folder that is cleaned",
            "cleanup.roots[4].cleaner = cores",
            "cleanup.roots[4].mode = sometimes",
            "cleanup.roots[5].path = /var/cache: it is no package manager's cache; name one of /var/cache/apt/archives",
            "detect.space.high_used",
            "tail.globs[0]",
            "state.dirr",
            "detect.rules.off[1] = no-such-rule",
            "detect.conntrack.high_used",
            "detect.tcp_retransmits.clear_share",
            "uplink.collector_ca_file",
            "uplink.collector = collector.example: is not an address: it names no port",
            "log.level = infoo",
            "detect.time_to_full.bound = 25h: is out of range; give 1s to 86400s",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("time_to_full.critical"), "a day is not too long: {text}");
    }
}
