//! When this node's kubelet would evict pods for a full disk, and whether dogwatch would have cleaned before.
//!
//! Sources: the kubelet's configuration file (`KubeletConfiguration` v1beta1: `evictionHard`, `evictionSoft`), and the
//! command line of the running kubelet, whose `--eviction-hard` wins and whose `--config` says where the file is. Defaults as in the kubelet's documentation ("Node-pressure Eviction"): `nodefs.available<10%`,
//! `nodefs.inodesFree<5%`, `imagefs.available<15%`, `imagefs.inodesFree<5%`; where `evictionHard` is given, what it does not
//! name is off (unless `mergeDefaultEvictionSettings`).
//!
//! Bounds: [`MAX_FILE_BYTES`] of a file, [`MAX_PROCESSES`] command lines. It is read once, at the start.
//!
//! Deliberately absent: changing anything of the kubelet's, drop-in folders (`--config-dir`), which are told as such, and kubelets
//! within another program (k3s), which say nothing of this on a command line.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use dogwatch::config::parse_bytes;
use dogwatch::record::Mount;
use serde_json::Value;

use crate::detect::DiskConfig;

/// A `KubeletConfiguration` has a few KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Command lines that are looked at to find the kubelet.
const MAX_PROCESSES: usize = 100_000;
/// A command line longer than this is cut.
const MAX_COMMAND_BYTES: u64 = 64 << 10;
/// Where kubeadm and most others put it.
const DEFAULT_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// The kubelet's `--root-dir`: what `nodefs` is the filesystem of.
const DEFAULT_ROOT: &str = "/var/lib/kubelet";
/// What `imagefs` is the filesystem of, by runtime; the first that is there.
const IMAGE_ROOTS: [&str; 4] = [
    "/var/lib/containerd",
    "/var/lib/containers/storage",
    "/var/lib/rancher/k3s/agent/containerd",
    "/var/lib/docker",
];

/// The least that must be available before the kubelet evicts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Least {
    /// A part of the capacity.
    Share(f64),
    /// Bytes, or inodes.
    Number(u64),
}

impl Least {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.strip_suffix('%') {
            Some(percent) => {
                let share = percent.trim().parse::<f64>().ok()? / 100.0;
                // To the kubelet, 0 % and 100 % switch a signal off (`parseThresholdStatement`).
                let share = if share >= 1.0 { 0.0 } else { share };
                (0.0..1.0).contains(&share).then_some(Self::Share(share))
            }
            None => number(text).map(Self::Number),
        }
    }

    fn of(self, total: u64) -> f64 {
        match self {
            Self::Share(share) => share,
            Self::Number(n) => n as f64 / total.max(1) as f64,
        }
    }
}

/// A Kubernetes quantity: `10Gi`, `500M`, `1e9`, or a plain number.
fn number(text: &str) -> Option<u64> {
    parse_bytes(text).or_else(|| {
        let plain: f64 = text.parse().ok()?;
        // Saturating by the rules of `as`.
        (plain >= 0.0 && plain.is_finite()).then_some(plain as u64)
    })
}

/// What the kubelet holds to.
#[derive(Debug, Clone, PartialEq)]
pub struct Kubelet {
    hard: BTreeMap<String, Least>,
    soft: BTreeMap<String, Least>,
    /// What was read, for people.
    source: String,
    root: PathBuf,
    images: Option<PathBuf>,
    /// What could not be taken into account.
    aside: Vec<String>,
}

impl Kubelet {
    fn new(source: String) -> Self {
        let hard = [
            ("nodefs.available", 0.10),
            ("nodefs.inodesFree", 0.05),
            ("imagefs.available", 0.15),
            ("imagefs.inodesFree", 0.05),
        ];
        let hard = hard.into_iter().map(|(k, v)| (k.to_owned(), Least::Share(v))).collect();
        let (soft, aside) = (BTreeMap::new(), Vec::new());
        Self { hard, soft, source, root: DEFAULT_ROOT.into(), images: None, aside }
    }

    /// Reads what this host's kubelet holds to, with the host's root at `rootfs` and its processes at `proc`. `None` where
    /// neither a kubelet nor its file is there.
    pub fn read(rootfs: &Path, proc: &Path) -> Option<Self> {
        let beneath = |path: &Path| rootfs.join(path.strip_prefix("/").unwrap_or(path));
        let command = running(proc);
        let flag = |name: &str| command.as_deref().and_then(|c| option(c, name));
        let config = PathBuf::from(flag("config").unwrap_or_else(|| DEFAULT_CONFIG.to_owned()));
        let text = bounded(&beneath(&config), MAX_FILE_BYTES);
        if command.is_none() && text.is_err() {
            return None;
        }
        let mut kubelet = Self::new(config.display().to_string());
        match text {
            Ok(text) => kubelet.take_file(&text),
            Err(why) => {
                kubelet.source = "the kubelet's defaults".to_owned();
                kubelet.aside.push(format!("{} could not be read: {why}", config.display()));
            }
        }
        if let Some(text) = flag("eviction-hard") {
            kubelet.hard.clear();
            kubelet.take_flag(&text);
            kubelet.source = "its command line".to_owned();
        }
        if let Some(dir) = flag("config-dir") {
            kubelet.aside.push(format!("files in {dir} (--config-dir) are not read"));
        }
        if let Some(root) = flag("root-dir") {
            kubelet.root = root.into();
        }
        kubelet.images = IMAGE_ROOTS.iter().map(PathBuf::from).find(|p| beneath(p).is_dir());
        Some(kubelet)
    }

    fn take_file(&mut self, text: &str) {
        let Ok(file) = serde_saphyr::from_str::<Value>(text) else {
            self.aside.push(format!("{} is not YAML; its defaults are assumed", self.source));
            return;
        };
        if let Some(hard) = file.get("evictionHard").and_then(Value::as_object) {
            if file.get("mergeDefaultEvictionSettings").and_then(Value::as_bool) != Some(true) {
                self.hard.clear();
            }
            take(&mut self.hard, hard, &mut self.aside);
        }
        if let Some(soft) = file.get("evictionSoft").and_then(Value::as_object) {
            take(&mut self.soft, soft, &mut self.aside);
        }
    }

    fn take_flag(&mut self, text: &str) {
        for part in text.split(',') {
            match part.split_once('<').map(|(signal, least)| (signal.trim(), Least::parse(least))) {
                Some((signal, Some(least))) => _ = self.hard.insert(signal.to_owned(), least),
                _ => self.aside.push(format!("{part:?} of --eviction-hard is not understood")),
            }
        }
    }

    /// Where dogwatch would come too late, and what could not be read: a sentence each, with key and remedy. `mounts` are
    /// the host's.
    pub fn differs(&self, config: &DiskConfig, mounts: &[Mount]) -> Vec<String> {
        let mut said: Vec<String> =
            self.aside.iter().map(|a| format!("know when the kubelet evicts: {a}")).collect();
        let images = self.images.as_deref().unwrap_or(&self.root);
        for (filesystem, place) in [("nodefs", self.root.as_path()), ("imagefs", images)] {
            let Some(mount) = holder(mounts, place) else { continue };
            let (space, inodes) = config.marks(mount);
            for (measure, high, total, key) in [
                ("available", space.high_used, mount.total_bytes, "space"),
                ("inodesFree", inodes.high_used, mount.inodes_total, "inodes"),
            ] {
                if total == 0 {
                    continue;
                }
                let signal = format!("{filesystem}.{measure}");
                let first = [("evictionHard", &self.hard), ("evictionSoft", &self.soft)]
                    .into_iter()
                    .filter_map(|(kind, list)| list.get(&signal).map(|l| (kind, l.of(total))))
                    .max_by(|a, b| a.1.total_cmp(&b.1));
                let Some((kind, least)) = first else { continue };
                // At the same mark the kubelet, which looks every 10 s, comes second.
                if least > 1.0 - high + 1e-9 {
                    said.push(format!(
                        "clean {} before the kubelet evicts: {kind} {signal}<{:.3}% ({}) comes before detect.{key}.high_used \
                         {:.1}%; set a lower mark for it in detect.mounts",
                        mount.path,
                        least * 100.0,
                        self.source,
                        high * 100.0
                    ));
                }
            }
        }
        said.dedup();
        said
    }
}

fn take(into: &mut BTreeMap<String, Least>, from: &serde_json::Map<String, Value>, aside: &mut Vec<String>) {
    for (signal, value) in from {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        match Least::parse(&text) {
            Some(least) => _ = into.insert(signal.clone(), least),
            None => aside.push(format!("{signal}: {text:?} is not understood")),
        }
    }
}

/// The mount that holds `path`: of those above it the deepest, and of several at one place the last.
fn holder<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    mounts
        .iter()
        .filter(|m| path.starts_with(&m.path))
        .max_by_key(|m| Path::new(&m.path).components().count())
}

/// The command line of the running kubelet, split at its NULs.
fn running(proc: &Path) -> Option<Vec<String>> {
    let entries = std::fs::read_dir(proc).ok()?;
    let pids = entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<u32>().is_ok()));
    pids.take(MAX_PROCESSES).find_map(|entry| {
        // Whoever calls itself so in a pod is none, nor whoever is not root.
        let groups = bounded(&entry.path().join("cgroup"), MAX_COMMAND_BYTES).unwrap_or_default();
        let owner = std::os::unix::fs::MetadataExt::uid(&entry.metadata().ok()?);
        if owner != 0 || groups.contains("kubepods") {
            return None;
        }
        let text = bounded(&entry.path().join("cmdline"), MAX_COMMAND_BYTES).ok()?;
        let words: Vec<String> = text.split('\0').filter(|w| !w.is_empty()).map(ToOwned::to_owned).collect();
        let name = Path::new(words.first()?).file_name()?;
        (name == "kubelet" || (name == "hyperkube" && words.get(1).is_some_and(|w| w == "kubelet")))
            .then_some(words)
    })
}

/// The value of `--name value` or `--name=value`.
fn option(command: &[String], name: &str) -> Option<String> {
    let flag = format!("--{name}");
    command.iter().enumerate().find_map(|(i, word)| {
        if *word == flag {
            return command.get(i + 1).cloned();
        }
        word.strip_prefix(&flag)?.strip_prefix('=').map(|v| v.trim_matches('"').to_owned())
    })
}

/// The text of a regular file: what else a process may name (a FIFO, say) could keep whoever opens it waiting.
fn bounded(path: &Path, most: u64) -> std::io::Result<String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut text = Vec::new();
    let file = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    file.take(most).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn mounts() -> Vec<Mount> {
        let mount = |path: &str| Mount {
            path: path.to_owned(),
            total_bytes: 100 * GIB,
            inodes_total: 1_000_000,
            ..Mount::default()
        };
        vec![mount("/"), mount("/var/lib/containerd"), mount("/boot")]
    }

    fn host(config: &str, command: Option<&str>) -> tempfile::TempDir {
        let host = tempfile::tempdir().unwrap();
        for folder in ["var/lib/kubelet", "var/lib/containerd", "proc/17", "proc/18", "proc/self"] {
            std::fs::create_dir_all(host.path().join(folder)).unwrap();
        }
        if !config.is_empty() {
            std::fs::write(host.path().join("var/lib/kubelet/config.yaml"), config).unwrap();
        }
        std::fs::write(host.path().join("proc/17/cmdline"), "/sbin/init\0").unwrap();
        if let Some(command) = command {
            std::fs::write(host.path().join("proc/18/cmdline"), command.replace(' ', "\0")).unwrap();
        }
        host
    }

    fn said(config: &str, command: Option<&str>) -> Option<Vec<String>> {
        let host = host(config, command);
        let kubelet = Kubelet::read(host.path(), &host.path().join("proc"))?;
        Some(kubelet.differs(&DiskConfig::default(), &mounts()))
    }

    #[test]
    fn without_a_kubelet_nothing_is_said_and_its_defaults_are_no_difference() {
        assert_eq!(said("", None), None);
        assert_eq!(said("kind: KubeletConfiguration\n", None), Some(vec![]));
        let all = "evictionHard: { nodefs.available: 10%, nodefs.inodesFree: 5%, imagefs.available: 15% }\n";
        assert_eq!(said(all, None), Some(vec![]));
    }

    #[test]
    fn a_kubelet_that_evicts_earlier_is_told_with_the_mount_the_signal_and_the_remedy() {
        let told =
            said("evictionHard: { nodefs.available: 20%, imagefs.available: \"30Gi\" }\n", None).unwrap();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with("clean / before the kubelet evicts: evictionHard nodefs.available<20.000%")
        );
        assert!(told[1].contains("/var/lib/containerd") && told[1].contains("imagefs.available<30.000%"));
        assert!(told[1].contains("detect.space.high_used 85.0%") && told[1].contains("detect.mounts"));
        let soft = said("evictionSoft: { nodefs.inodesFree: 16% }\n", None).unwrap();
        assert!(soft.len() == 1 && soft[0].contains("evictionSoft nodefs.inodesFree"), "{soft:?}");
    }

    #[test]
    fn the_command_line_wins_and_says_where_the_file_is() {
        let host =
            host("", Some("/usr/bin/kubelet --config=/etc/k.yaml --eviction-hard=nodefs.available<16%,x"));
        std::fs::create_dir_all(host.path().join("etc")).unwrap();
        std::fs::write(host.path().join("etc/k.yaml"), "evictionHard: { imagefs.available: 50% }\n").unwrap();
        let kubelet = Kubelet::read(host.path(), &host.path().join("proc")).unwrap();
        let told = kubelet.differs(&DiskConfig::default(), &mounts());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("\"x\" of --eviction-hard"), "{told:?}");
        assert!(told[1].contains("nodefs.available<16.000% (its command line)"), "{told:?}");
    }

    #[test]
    fn who_calls_itself_so_in_a_pod_is_none_and_a_fifo_keeps_nobody_waiting() {
        let host = host("", Some("kubelet --config=/etc/fifo"));
        std::fs::create_dir_all(host.path().join("etc")).unwrap();
        let fifo = host.path().join("etc/fifo");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let kubelet = Kubelet::read(host.path(), &host.path().join("proc")).unwrap();
        let told = kubelet.differs(&DiskConfig::default(), &mounts());
        assert!(told[0].contains("could not be read: it is no regular file"), "{told:?}");
        std::fs::write(host.path().join("proc/18/cgroup"), "0::/kubepods.slice/pod1/x\n").unwrap();
        assert_eq!(Kubelet::read(host.path(), &host.path().join("proc")), None);
    }

    #[test]
    fn nonsense_is_told_and_never_a_panic() {
        for text in [
            "\0\u{1}",
            "[1, 2",
            "evictionHard: 7",
            "evictionHard: { nodefs.available: { a: 1 } }",
            "a: &a [*a]",
        ] {
            drop(said(text, Some("kubelet --config")));
        }
        let told = said("evictionHard: { nodefs.available: lots, imagefs.available: -3% }\n", None).unwrap();
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn quantities() {
        for (text, bytes) in
            [("1Gi", GIB), ("500M", 500_000_000), ("10", 10), ("1e9", 1_000_000_000), ("2k", 2_000)]
        {
            assert_eq!(number(text), Some(bytes), "{text}");
        }
        for text in ["", "i", "x", "-1", "nan", "1Zi"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
