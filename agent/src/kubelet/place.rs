//! Where this host's kubelet has its settings from: a process of its own, or a part of another program.
//!
//! - A kubelet of its own (kubeadm, k0s, RKE2, the clouds): its command line.
//! - k3s: it writes over its command line (its arguments may hold secrets), so that `/proc` shows `k3s server` and no more.
//!   What it was given is in its unit, in `/etc/rancher/k3s/config.yaml` and in `config.yaml.d/*.yaml` beside it, where a
//!   later file's key replaces an earlier one's unless it ends with `+` (k3s' documentation, "Configuration File"). Since 1.32
//!   it writes its own thresholds into `<data-dir>/agent/etc/kubelet.conf.d/00-k3s-defaults.conf`, before it gave them as
//!   `--eviction-hard`; either way they are 5 % of nodefs and imagefs.
//! - MicroK8s: `kubelite --kubelet-args-file=FILE`, a flag a line, with `${SNAP_COMMON}` and `${SNAP_DATA}` in it.
//!
//! Bounds: those of [`super::bounded`], [`MAX_PROCESSES`] command lines, [`MAX_FILES`] of one folder.
//!
//! Deliberately absent: k3s settings that are given by another `--config`, by its environment or by a service manager
//! other than systemd; they leave no trace that is its alone.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{MAX_FILE_BYTES, bounded};

/// Command lines that are looked at to find the kubelet.
const MAX_PROCESSES: usize = 100_000;
/// A command line longer than this is cut.
const MAX_COMMAND_BYTES: u64 = 64 << 10;
/// Files of one folder of settings; there are a handful.
pub(super) const MAX_FILES: usize = 100;
/// Where kubeadm and most others put the kubelet's file.
const DEFAULT_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// Where k3s keeps its state when nobody says otherwise.
const K3S_DATA: &str = "/var/lib/rancher/k3s";
/// Where k3s' options are read from.
const K3S_CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// Folders of units, of which the first that has it counts (systemd.unit(5)).
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
/// What k3s gave its kubelet before it wrote drop-ins.
const K3S_EVICTION: &str = "--eviction-hard=imagefs.available<5%,nodefs.available<5%";

/// Where the settings are.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// What the kubelet was given, as on a command line: of two that say the same, the last counts.
    pub(super) flags: Vec<String>,
    /// Its file, where it has one.
    pub(super) config: Option<PathBuf>,
    /// The folder of its drop-ins.
    pub(super) config_dir: Option<PathBuf>,
    /// Where its images lie, where the program that it is a part of says so.
    pub(super) images: Option<PathBuf>,
    /// What `flags` are called in a text.
    pub(super) flags_are: String,
    /// What was read to find this, beneath the host's root.
    pub(super) read: Vec<PathBuf>,
    /// What could not be read.
    pub(super) aside: Vec<String>,
}

impl Place {
    /// The value of the last `--name value` or `--name=value`.
    pub(super) fn flag(&self, name: &str) -> Option<String> {
        values(&self.flags, name).pop()
    }
}

/// The root of a host, as it is seen from here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'h>(pub(super) &'h Path);

impl Host<'_> {
    /// Where `path` of the host lies.
    pub(super) fn at(self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn text(self, path: &Path) -> io::Result<String> {
        bounded(&self.at(path), MAX_FILE_BYTES)
    }

    /// The paths of those in `folder` that end with `ending`, sorted by name; none where there is no folder.
    pub(super) fn files(self, folder: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(self.at(folder)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries.take(MAX_FILES) {
            let name = entry?.file_name();
            if Path::new(&name).extension() == Some(OsStr::new(ending)) {
                names.push(folder.join(name));
            }
        }
        names.sort();
        Ok(names)
    }
}

/// The program that has the kubelet in it.
#[derive(Debug, PartialEq)]
enum Program {
    Kubelet(Vec<String>),
    /// `server` or `agent`, and what stands behind that.
    K3s(String, Vec<String>),
    Kubelite(Vec<String>),
}

/// Finds it, with the host's processes at `proc`. `None` where neither a kubelet nor anything of one is there.
pub(super) fn find(host: Host<'_>, proc: &Path) -> Option<Place> {
    match running(proc) {
        Some(Program::Kubelet(words)) => Some(own(words)),
        Some(Program::K3s(part, words)) => Some(k3s(host, &part, words)),
        Some(Program::Kubelite(words)) => Some(microk8s(host, &words)),
        // Where the host's processes are not to be seen, files still tell.
        None if host.at(Path::new(DEFAULT_CONFIG)).exists() => {
            Some(Place { config: Some(DEFAULT_CONFIG.into()), ..Place::default() })
        }
        None if host.at(&drop_ins(Path::new(K3S_DATA))).is_dir() => Some(k3s(host, "server", Vec::new())),
        None => None,
    }
}

fn own(words: Vec<String>) -> Place {
    let mut place = Place { flags: words, flags_are: "its command line".to_owned(), ..Place::default() };
    place.config = place.flag("config").map(PathBuf::from);
    place.config_dir = place.flag("config-dir").map(PathBuf::from);
    place
}

fn k3s(host: Host<'_>, part: &str, words: Vec<String>) -> Place {
    let mut place = Place { flags_are: "k3s' kubelet-arg".to_owned(), ..Place::default() };
    let (mut args, mut data) = (Vec::new(), None);
    let config = PathBuf::from(K3S_CONFIG);
    let folder = PathBuf::from(format!("{K3S_CONFIG}.d"));
    let more = host.files(&folder, "yaml").unwrap_or_else(|e| {
        place.aside.push(format!("{} could not be read: {e}", folder.display()));
        Vec::new()
    });
    place.read.push(host.at(&folder));
    for path in std::iter::once(config).chain(more) {
        place.read.push(host.at(&path));
        let text = match host.text(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => {
                place.aside.push(format!("{} could not be read: {e}", path.display()));
                continue;
            }
            Ok(text) => text,
        };
        match serde_saphyr::from_str::<Value>(&text) {
            Ok(file) => take_k3s_file(&file, &mut args, &mut data),
            Err(_) => place.aside.push(format!("{} is not YAML", path.display())),
        }
    }
    // What `/proc` has is behind the title only where somebody runs it so that it is not written over.
    let words = if words.is_empty() { unit(host, part, &mut place) } else { words };
    args.extend(values(&words, "kubelet-arg"));
    data = values(&words, "data-dir").pop().or(values(&words, "d").pop()).or(data);
    let data = data.map_or_else(|| PathBuf::from(K3S_DATA), PathBuf::from);
    place.images = Some(data.join("agent/containerd"));
    let folder = drop_ins(&data);
    if host.at(&folder).is_dir() {
        place.config_dir = Some(folder);
    } else {
        place.read.push(host.at(&folder));
        place.flags.push(K3S_EVICTION.to_owned());
    }
    place.flags.extend(args.iter().map(|arg| format!("--{}", arg.trim_start_matches('-'))));
    place.config = place.flag("config").map(PathBuf::from);
    place
}

fn drop_ins(k3s_data: &Path) -> PathBuf {
    k3s_data.join("agent/etc/kubelet.conf.d")
}

fn take_k3s_file(file: &Value, args: &mut Vec<String>, data: &mut Option<String>) {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned);
    let list = |v: &Value| match v {
        Value::Array(all) => all.iter().map(text).collect(),
        Value::Null => Vec::new(),
        one => vec![text(one)],
    };
    if let Some(given) = file.get("kubelet-arg") {
        *args = list(given);
    }
    if let Some(given) = file.get("kubelet-arg+") {
        args.extend(list(given));
    }
    if let Some(given) = file.get("data-dir").and_then(Value::as_str) {
        *data = Some(given.to_owned());
    }
}

/// The words behind `k3s server` in its unit.
fn unit(host: Host<'_>, part: &str, place: &mut Place) -> Vec<String> {
    let name = if part == "agent" { "k3s-agent.service" } else { "k3s.service" };
    for folder in UNITS {
        let path = Path::new(folder).join(name);
        place.read.push(host.at(&path));
        match host.text(&path) {
            Ok(text) => return exec_start(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => place.aside.push(format!("{} could not be read: {e}", path.display())),
        }
    }
    Vec::new()
}

/// The words of a unit's `ExecStart`, as systemd.service(5) parts them: lines end with `\` where they go on, quotes hold
/// together what has blanks.
fn exec_start(unit: &str) -> Vec<String> {
    let joined = unit.replace("\\\n", " ");
    let Some(line) = joined.lines().rev().find_map(|l| l.trim_start().strip_prefix("ExecStart=")) else {
        return Vec::new();
    };
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn microk8s(host: Host<'_>, words: &[String]) -> Place {
    let mut place = Place::default();
    let Some(path) = values(words, "kubelet-args-file").pop().map(PathBuf::from) else { return place };
    place.flags_are = path.display().to_string();
    place.read.push(host.at(&path));
    let text = match host.text(&path) {
        Ok(text) => text,
        Err(e) => {
            place.aside.push(format!("{} could not be read: {e}", path.display()));
            return place;
        }
    };
    // `/var/snap/microk8s/REVISION/args/kubelet`.
    let data = path.ancestors().nth(2).unwrap_or(Path::new("/"));
    let common = data.parent().unwrap_or(data).join("common");
    let put = |line: &str| {
        ["SNAP_COMMON", "SNAP_DATA"]
            .iter()
            .zip([common.as_path(), data])
            .fold(line.to_owned(), |line, (n, p)| line.replace(&format!("${{{n}}}"), &p.to_string_lossy()))
    };
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    // A flag and its value stand on one line, with a blank or a `=` between.
    place.flags = lines.flat_map(|l| put(l).splitn(2, ' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    place.images = Some(common.join("var/lib/containerd"));
    place.config = place.flag("config").map(PathBuf::from);
    place.config_dir = place.flag("config-dir").map(PathBuf::from);
    place
}

/// The running program that has the host's kubelet in it.
fn running(proc: &Path) -> Option<Program> {
    let entries = std::fs::read_dir(proc).ok()?;
    let pids = entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<u32>().is_ok()));
    pids.take(MAX_PROCESSES).find_map(|entry| {
        let text = bounded(&entry.path().join("cmdline"), MAX_COMMAND_BYTES).ok()?;
        let words = text.split('\0').filter(|w| !w.is_empty()).map(ToOwned::to_owned).collect();
        let program = program(words)?;
        // Whoever calls itself so in a pod is none, nor whoever is not root.
        let groups = bounded(&entry.path().join("cgroup"), MAX_COMMAND_BYTES).unwrap_or_default();
        let owner = std::os::unix::fs::MetadataExt::uid(&entry.metadata().ok()?);
        (owner == 0 && !groups.contains("kubepods")).then_some(program)
    })
}

/// What `words` are the command line of, if it has a kubelet in it.
fn program(mut words: Vec<String>) -> Option<Program> {
    // A title that was written over the words is one of them, with blanks.
    if let [title] = words.as_slice() {
        words = title.split_whitespace().map(ToOwned::to_owned).collect();
    }
    let name = Path::new(words.first()?).file_name()?.to_str()?.to_owned();
    let second = words.get(1).map(String::as_str);
    match (name.as_str(), second) {
        ("kubelet", _) | ("hyperkube", Some("kubelet")) => Some(Program::Kubelet(words)),
        ("kubelite", _) => Some(Program::Kubelite(words)),
        ("k3s-server" | "k3s-agent", _) => {
            let part = name.trim_start_matches("k3s-").to_owned();
            Some(Program::K3s(part, words.split_off(1)))
        }
        ("k3s", Some(part @ ("server" | "agent"))) => {
            let part = part.to_owned();
            Some(Program::K3s(part, words.split_off(2)))
        }
        _ => None,
    }
}

/// The values of every `--name value` and `--name=value`, in order; one dash does too.
fn values(words: &[String], name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        let value = match flag.split_once('=') {
            Some((flag, value)) if flag == name => Some(value),
            None if flag == name => words.get(i + 1).map(String::as_str),
            _ => None,
        };
        found.extend(value.map(|v| v.trim_matches('"').to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn programs_with_a_kubelet_in_them_are_known_by_their_words() {
        let k3s = |part: &str, rest: &str| {
            Some(Program::K3s(part.to_owned(), rest.split_whitespace().map(ToOwned::to_owned).collect()))
        };
        // As k3s writes over its command line: one word.
        assert_eq!(program(vec!["/usr/local/bin/k3s server".to_owned()]), k3s("server", ""));
        assert_eq!(program(vec!["/usr/local/bin/k3s agent".to_owned()]), k3s("agent", ""));
        assert_eq!(program(words("/bin/k3s server --data-dir /x")), k3s("server", "--data-dir /x"));
        assert_eq!(program(words("k3s kubectl get nodes")), None, "a command is no node");
        assert_eq!(
            program(vec!["/usr/bin/rke2 server".to_owned()]),
            None,
            "its kubelet is a process of its own"
        );
        assert!(matches!(program(words("/usr/bin/kubelet --config=/x")), Some(Program::Kubelet(_))));
        assert!(matches!(program(words("/snap/microk8s/9/kubelite --a")), Some(Program::Kubelite(_))));
        assert_eq!(program(Vec::new()), None);
    }

    #[test]
    fn the_words_of_a_unit_are_parted_as_systemd_does() {
        let unit = "[Service]\nExecStartPre=-/sbin/modprobe overlay\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t\
                    '--kubelet-arg=eviction-hard=nodefs.available<20%' \\\n\t\"--data-dir\" '/opt/k 3s' \\\n\n";
        let expected = [
            "/usr/local/bin/k3s",
            "server",
            "--kubelet-arg=eviction-hard=nodefs.available<20%",
            "--data-dir",
            "/opt/k 3s",
        ];
        assert_eq!(exec_start(unit), expected);
        assert!(exec_start("ExecStop=x").is_empty());
    }

    #[test]
    fn of_two_values_the_last_counts() {
        let line = words("kubelet --a=1 -b 2 --a 3 --ab=4 --b");
        assert_eq!(values(&line, "a"), ["1", "3"]);
        assert_eq!(values(&line, "b"), ["2"]);
    }
}
