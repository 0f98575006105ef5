//! The folder: where everything of this machine's dogwatch is, and the configuration of its parts.
//!
//! ```text
//! <state>/collector/    the collector's state        <state>/collector.yaml
//! <state>/agent/        the agent's                  <state>/agent.yaml
//! <state>/people/       a certificate for this user  <state>/cli.yaml
//! <state>/logs/         what both print
//! ```
//! Both YAML files are written anew at each start; `cli.yaml` is where `dogwatch` looks by itself.

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use dogwatch::record::CleanupMode;
use rustix::fs::{FlockOperation, flock};

/// What the person asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wishes {
    pub(crate) state: Option<PathBuf>,
    pub(crate) mode: CleanupMode,
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) min_age: String,
    pub(crate) logs: Vec<String>,
}

/// A prepared folder; while it lives nobody else starts in it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) state: PathBuf,
    pub(crate) collector: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) mode: CleanupMode,
    _lock: File,
}

impl Place {
    pub(crate) fn collector_config(&self) -> PathBuf {
        self.state.join("collector.yaml")
    }
    pub(crate) fn agent_config(&self) -> PathBuf {
        self.state.join("agent.yaml")
    }
    pub(crate) fn people(&self) -> PathBuf {
        self.state.join("people")
    }
    pub(crate) fn token_file(&self) -> PathBuf {
        self.state.join("join-token")
    }
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.state.join("logs").join(format!("{part}.log"))
    }
}

/// Makes the folder and writes the configuration.
pub(crate) fn prepare(wishes: &Wishes) -> Result<Place, String> {
    let state = match &wishes.state {
        Some(s) => std::path::absolute(s).map_err(|e| format!("{}: {e}", s.display()))?,
        None => default_state(&|k| std::env::var_os(k).filter(|v| !v.is_empty()).map(PathBuf::from))?,
    };
    for dir in ["", "collector", "agent", "people", "logs"] {
        let dir = state.join(dir);
        std::fs::create_dir_all(&dir)
            .map_err(|e| format!("making {}: {e}; choose another folder with --state", dir.display()))?;
    }
    let lock = lock(&state)?;
    let [collector, collector_health, health] = ports([7443, 7480, 7481])?;
    let place = Place { collector, health, mode: wishes.mode, _lock: lock, state };
    let s = place.state.display();
    write(
        &place.collector_config(),
        &format!(
            "# Written by `cargo up` at each start.\nstate: {{ dir: {} }}\nserver: {{ listen: \"{collector}\" }}\n\
             health: {{ listen: \"{collector_health}\" }}\nstore: {{ segment_bytes: 8MiB, reserve_bytes: 64MiB }}\n\
             retention:\n  urgent: {{ max_bytes: 256MiB }}\n  evidence: {{ max_bytes: 1GiB }}\n  recorder: {{ max_bytes: 64MiB }}\n",
            quoted(&format!("{s}/collector")),
        ),
    )?;
    write(&place.agent_config(), &agent_yaml(&place, wishes)?)?;
    let name = person();
    write(
        &place.state.join("cli.yaml"),
        &format!(
            "# Written by `cargo up` at each start; `dogwatch` finds it here by itself.\ncollector: \"{collector}\"\n\
             ca: people/ca.crt\ncert: people/{name}.crt\nkey: people/{name}.key\njournal: agent/journal\n"
        ),
    )?;
    Ok(place)
}

fn agent_yaml(place: &Place, wishes: &Wishes) -> Result<String, String> {
    let s = place.state.display();
    let roots: Vec<PathBuf> =
        if wishes.roots.is_empty() { vec!["/var/log".into()] } else { wishes.roots.clone() };
    let mut text = format!(
        "# Written by `cargo up` at each start.\nstate: {{ dir: {} }}\nuplink: {{ collector: \"{}\", join_token_file: {} }}\n\
         health: {{ listen: \"{}\" }}\ncleanup:\n  mode: {}\n  roots:\n",
        quoted(&format!("{s}/agent")),
        place.collector,
        quoted(&place.token_file().display().to_string()),
        place.health,
        wishes.mode,
    );
    for root in &roots {
        // The policy refuses symbolic links on the way, so that nobody can point it elsewhere later.
        let root = root.canonicalize().map_err(|e| format!("--clean {}: {e}", root.display()))?;
        text += &format!(
            "    - {{ path: {}, min_age: {} }}\n",
            quoted(&root.display().to_string()),
            quoted(&wishes.min_age)
        );
    }
    if !wishes.logs.is_empty() {
        text += "tail:\n  globs:\n";
        for glob in dogwatch_agent::tail::TailConfig::default().globs.iter().chain(&wishes.logs) {
            text += &format!("    - {}\n", quoted(glob));
        }
        text += "  link_roots: [/var/log, /]\n";
    }
    Ok(text)
}

/// The same order as the CLI's.
fn default_state(env: &dyn Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, String> {
    env("DOGWATCH_STATE")
        .or_else(|| env("XDG_STATE_HOME").map(|d| d.join("dogwatch")))
        .or_else(|| env("HOME").map(|d| d.join(".local/state/dogwatch")))
        .ok_or_else(|| "neither DOGWATCH_STATE nor HOME is set; name a folder with --state".to_owned())
}

/// The name in this user's certificate.
pub(crate) fn person() -> String {
    std::env::var("USER")
        .ok()
        .filter(|u| u.parse::<dogwatch::identity::PersonName>().is_ok())
        .unwrap_or_else(|| "operator".to_owned())
}

fn lock(state: &Path) -> Result<File, String> {
    let path = state.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        format!(
            "another `cargo up` runs in {}; end it first, or choose another folder with --state",
            state.display()
        )
    })?;
    Ok(file)
}

/// The wanted ports of the loopback address where they are free, others where not.
fn ports(wanted: [u16; 3]) -> Result<[SocketAddr; 3], String> {
    let mut held = Vec::new();
    let mut out = [SocketAddr::from(([127, 0, 0, 1], 0)); 3];
    for (slot, port) in out.iter_mut().zip(wanted) {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
            .map_err(|e| format!("no free port on 127.0.0.1: {e}"))?;
        *slot = listener.local_addr().map_err(|e| e.to_string())?;
        // Held until all are chosen, so that none is given twice.
        held.push(listener);
    }
    Ok(out)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("writing {}: {e}", path.display()))
}

/// A YAML text in double quotes; JSON's escapes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_valid_for_both_daemons() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("a \"b\" log");
        std::fs::create_dir(&logs).unwrap();
        let wishes = Wishes {
            state: Some(dir.path().join("state")),
            mode: CleanupMode::Auto,
            roots: vec![logs.clone()],
            min_age: "10m".into(),
            logs: vec!["/tmp/x/*.log".into()],
        };
        let place = prepare(&wishes).unwrap();
        let agent = dogwatch_agent::config::Config::load(Some(&place.agent_config()), []).unwrap();
        assert_eq!(agent.policy.mode, CleanupMode::Auto);
        assert_eq!(agent.policy.roots[0].path, logs.canonicalize().unwrap());
        assert_eq!(agent.policy.roots[0].min_age_seconds, 600);
        dogwatch_collector::config::Config::load(Some(&place.collector_config()), []).unwrap();
        assert!(prepare(&wishes).unwrap_err().contains("another `cargo up`"));
    }
}
