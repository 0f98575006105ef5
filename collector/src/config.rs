//! The collector's configuration. `deploy/config/collector.yaml` shows every key with its default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::config::{Keys, Problems, Section, read};
use dogwatch::identity::TrustDomain;
use dogwatch::record::{SHORTEST_LEASE, Severity};
use dogwatch::telemetry::{Format, level_of};

use crate::admit::accounts::ServiceAccount;
use crate::admit::ca::MAX_NODE_LIFETIME;
use crate::brake;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Everything that the collector is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps everything.
    pub state_dir: PathBuf,
    /// Where agents and people connect.
    pub listen: SocketAddr,
    /// DNS names and IP addresses of its certificate.
    pub names: Vec<String>,
    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub health_listen: SocketAddr,
    /// Whose identities it believes.
    pub trust_domain: TrustDomain,
    /// How long a node's certificate lives.
    pub node_lifetime: Duration,
    /// Certificate, key and client roots of an external CA; `None`: its own.
    pub external: Option<External>,
    /// How service accounts' tokens are judged; `None`: they are not taken.
    pub cluster: Option<ClusterConfig>,
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// Free space below which nothing more is accepted.
    pub reserve_bytes: u64,
    /// What is kept, for urgent, evidence and recorder.
    pub retention: [Keep; 3],
    /// Most bytes of the journal of decisions, of which nothing expires.
    pub truth_max_bytes: u64,
    /// How long everything in an incident must be over before it resolves itself.
    pub quiet: Duration,
    /// How long after its end an incident takes a finding of its topic back.
    pub rejoin: Duration,
    /// How long a node may have no open stream before that is a finding.
    pub silent_after: Duration,
    /// From which severity an open incident of the topic `security` holds its nodes by itself; `None`: never.
    pub hold_security: Option<Severity>,
    /// How many nodes may clean up by themselves at a time, and what that is watched for.
    pub brake: brake::Settings,
    /// Log level or filter.
    pub log_level: String,
    /// How log lines look.
    pub log_format: Format,
}

/// Files of an external CA.
#[derive(Debug, Clone)]
pub struct External {
    /// The collector's chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Roots that client certificates chain to, PEM.
    pub client_ca: PathBuf,
}

/// What lets agents enrol by the tokens of their pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// What the tokens must be for.
    pub audience: String,
    /// Whose they must be.
    pub service_account: ServiceAccount,
    /// How to reach the API server; `None`: as a pod does.
    pub kubeconfig: Option<PathBuf>,
}

/// How much of a stream is kept, by receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// At most this many bytes.
    pub max_bytes: u64,
    /// At most this long.
    pub max_age: Duration,
}

/// Where the state is when nothing else is said: `$STATE_DIRECTORY` (systemd), else `/var/lib/dogwatch-collector`.
/// `off`, or the severity from which security incidents hold.
fn hold_security(s: &mut Section) -> Option<Severity> {
    const KEY: &str = "hold_security";
    let Some(text) = s.text(KEY) else { return Some(Severity::High) };
    if text == "off" {
        return None;
    }
    text.parse().map(Some).unwrap_or_else(|_| {
        s.problem(KEY, &text, "is no severity", "give off, low, medium, high or critical");
        None
    })
}

fn default_state(environment: &BTreeMap<String, String>) -> PathBuf {
    environment
        .get("STATE_DIRECTORY")
        .map_or_else(|| PathBuf::from("/var/lib/dogwatch-collector"), PathBuf::from)
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
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let state = default_state(&environment);
        read(file, environment, |root| (walk(root, state), root.keys()))
    }
}

fn walk(root: &mut Section, state: PathBuf) -> Config {
    let state_dir = root.section("state", |s| s.path_value("dir").unwrap_or(state));
    let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let (listen, names) = root.section("server", |s| {
        let listen = s.parse("listen", any(7443));
        let names = s.texts("names").unwrap_or_else(|| vec!["localhost".to_owned(), "127.0.0.1".to_owned()]);
        (listen, names)
    });
    let health_listen = root.section("health", |s| s.parse("listen", any(7480)));
    let (trust_domain, node_lifetime, external) = root.section("identity", |s| {
        let domain = s.parse("trust_domain", TrustDomain::default());
        let lifetime = s.duration("node_lifetime", DAY, Duration::from_secs(5)..=MAX_NODE_LIFETIME);
        (domain, lifetime, external(s))
    });
    let cluster = root.section("cluster", |s| cluster(s, external.is_some()));
    let (segment_bytes, reserve_bytes) = root.section("store", |s| {
        let segment = s.bytes("segment_bytes", 64 * MIB, 2 * MIB..=GIB);
        let reserve = s.bytes("reserve_bytes", 512 * MIB, 0..=u64::MAX);
        if segment % 4096 != 0 {
            s.problem("segment_bytes", &segment.to_string(), "is not a multiple of 4096", "e.g. 64MiB");
        }
        (segment, reserve)
    });
    let (retention, truth_max_bytes) = root.section("retention", |s| {
        let least = 2 * segment_bytes;
        let mut keep = |key: &str, bytes: u64, days: u32| {
            s.section(key, |s| Keep {
                max_bytes: s.bytes("max_bytes", bytes.max(least), least..=u64::MAX),
                max_age: s.duration("max_age", DAY * days, Duration::from_secs(1)..=DAY * 36_500),
            })
        };
        let kept =
            [keep("urgent", 4 * GIB, 400), keep("evidence", 64 * GIB, 30), keep("recorder", 16 * GIB, 30)];
        // At least so much that what is kept of it for stops and holds is a part.
        (kept, s.section("truth", |s| s.bytes("max_bytes", GIB, 64 * MIB..=TIB)))
    });
    let (quiet, rejoin, silent_after, hold_security) = root.section("incidents", |s| {
        let range = Duration::from_secs(1)..=DAY;
        (
            s.duration("quiet", Duration::from_secs(300), range.clone()),
            s.duration("rejoin", Duration::from_secs(900), range.clone()),
            s.duration("silent_after", Duration::from_secs(60), range),
            hold_security(s),
        )
    });
    let brake = root.section("cleanup", |s| s.section("fleet", fleet));
    let (log_level, log_format) = root.section("log", |s| (level_of(s), s.parse("format", Format::Text)));
    Config {
        state_dir,
        listen,
        names,
        health_listen,
        trust_domain,
        node_lifetime,
        external,
        cluster,
        segment_bytes,
        reserve_bytes,
        retention,
        truth_max_bytes,
        quiet,
        rejoin,
        silent_after,
        hold_security,
        brake,
        log_level,
        log_format,
    }
}

fn fleet(s: &mut Section) -> brake::Settings {
    let d = brake::Settings::default();
    let second = Duration::from_secs(1);
    brake::Settings {
        max_nodes: s.number("max_nodes", d.max_nodes, 1..=brake::MAX_PLACES),
        max_share: s.fraction("max_share", d.max_share),
        watch: s.duration("watch", d.watch, second..=Duration::from_secs(3600)),
        // Agents ask again every few seconds, and a busy one may miss some.
        lease: s.duration("lease", d.lease, SHORTEST_LEASE..=Duration::from_secs(600)),
        canary_successes: s.number("canary_successes", d.canary_successes, 0..=1_000),
        canary_nodes: s.number("canary_nodes", d.canary_nodes, 1..=brake::ledger::MAX_PROVERS as u32),
    }
}

fn cluster(s: &mut Section, external: bool) -> Option<ClusterConfig> {
    let review = s.flag("token_review", false);
    let audience = s.text("audience").unwrap_or_else(|| "dogwatch".to_owned());
    let account = ServiceAccount { namespace: "dogwatch".to_owned(), name: "dogwatch-agent".to_owned() };
    let service_account = s.parse("service_account", account);
    let kubeconfig = s.path_value("kubeconfig");
    if audience.is_empty() {
        s.problem("audience", "", "is empty", "name what the agents' tokens are made for, e.g. dogwatch");
    }
    if review && external {
        s.problem(
            "token_review",
            "true",
            "an external CA lets nodes in, this collector enrols none",
            "drop it, or the files in identity",
        );
    }
    review.then_some(ClusterConfig { audience, service_account, kubeconfig })
}

fn external(s: &mut Section) -> Option<External> {
    if !["certificate", "key", "client_ca"].iter().any(|k| s.has(k)) {
        return None;
    }
    let mut file = |key: &str| {
        let path = s.path_value(key);
        if path.is_none() {
            s.problem(
                key,
                "",
                "is missing",
                "an external CA needs certificate, key and client_ca; or give none of them",
            );
        }
        path
    };
    let (certificate, key, client_ca) = (file("certificate"), file("key"), file("client_ca"));
    Some(External { certificate: certificate?, key: key?, client_ca: client_ca? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_shows_the_defaults() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/collector.yaml");
        let shown = Config::load(Some(&example), []).unwrap();
        let default = Config::load(None, []).unwrap();
        assert_eq!(format!("{shown:#?}"), format!("{default:#?}"));
    }

    #[test]
    fn defaults_hold_and_mistakes_are_told_together() {
        assert!(Config::load(None, []).is_ok());
        let env = [
            ("DOGWATCH_SERVER__LISTEN", "nowhere"),
            ("DOGWATCH_IDENTITY__KEY", "/k"),
            ("DOGWATCH_CLUSTER__SERVICE_ACCOUNT", "dogwatch-agent"),
            ("DOGWATCH_CLUSTER__AUDIENC", "dogwatch"),
            ("DOGWATCH_STORE__SEGMENT_BYTES", "3000001"),
            ("DOGWATCH_RETENTION__URGENT__MAX_AGE", "never"),
            ("DOGWATCH_SERVER__PORT", "1"),
        ];
        let err = Config::load(None, env.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap_err();
        let keys: Vec<&str> = err.list.iter().map(|p| p.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "server.listen",
                "server.port",
                "identity.certificate",
                "identity.client_ca",
                "cluster.service_account",
                "cluster.audienc",
                "store.segment_bytes",
                "retention.urgent.max_age"
            ]
        );
    }
}
