//! When this node's kubelet would evict pods for a full disk, and whether dogwatch would have cleaned before.
//!
//! Sources, the later the stronger: the kubelet's defaults ("Node-pressure Eviction" of its documentation:
//! `nodefs.available<10%`, `nodefs.inodesFree<5%`, `imagefs.available<15%`, `imagefs.inodesFree<5%`); its file
//! (`KubeletConfiguration` v1beta1: `evictionHard`, `evictionSoft`), where what `evictionHard` does not name is off unless
//! `mergeDefaultEvictionSettings`; its drop-ins (`--config-dir`: files that end with `.conf`, by name, merged signal by
//! signal, KEP-3983); its flags, which replace all that was said before of their kind. Where these are, also of a kubelet
//! within another program, `place` knows; `follow` looks again.
//!
//! Bounds: [`MAX_FILE_BYTES`] of a file, and those of `place`.
//!
//! Deliberately absent: changing anything of the kubelet's, and folders within the folder of drop-ins.

mod follow;
mod place;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use dogwatch::config::parse_bytes;
use dogwatch::record::Mount;
use serde_json::Value;

pub use self::follow::Follow;
use self::place::Host;
use crate::detect::DiskConfig;

/// A `KubeletConfiguration` has a few KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The kubelet's `--root-dir`: what `nodefs` is the filesystem of.
const DEFAULT_ROOT: &str = "/var/lib/kubelet";
/// What `imagefs` is the filesystem of, by runtime; the first that is there.
const IMAGE_ROOTS: [&str; 6] = [
    "/var/lib/containerd",
    "/var/lib/containers/storage",
    "/var/lib/rancher/k3s/agent/containerd",
    "/var/lib/rancher/rke2/agent/containerd",
    "/var/lib/k0s/containerd",
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

/// A threshold, and where it was read.
#[derive(Debug, Clone, PartialEq)]
struct Threshold {
    least: Least,
    source: String,
}

/// Thresholds by signal (`nodefs.available`).
type Thresholds = BTreeMap<String, Threshold>;

/// What the kubelet holds to.
#[derive(Debug, Clone, PartialEq)]
pub struct Kubelet {
    hard: Thresholds,
    soft: Thresholds,
    root: PathBuf,
    images: Option<PathBuf>,
    /// What could not be taken into account.
    aside: Vec<String>,
    /// Files and folders that this was read from, as they are seen from here; also such as were not there.
    read: Vec<PathBuf>,
}

impl Kubelet {
    fn new() -> Self {
        let hard = [
            ("nodefs.available", 0.10),
            ("nodefs.inodesFree", 0.05),
            ("imagefs.available", 0.15),
            ("imagefs.inodesFree", 0.05),
        ];
        let source = "the kubelet's defaults";
        let threshold = |share| Threshold { least: Least::Share(share), source: source.to_owned() };
        let hard = hard.into_iter().map(|(k, v)| (k.to_owned(), threshold(v))).collect();
        let (soft, aside, read) = (Thresholds::new(), Vec::new(), Vec::new());
        Self { hard, soft, root: DEFAULT_ROOT.into(), images: None, aside, read }
    }

    /// Reads what this host's kubelet holds to, with the host's root at `rootfs` and its processes at `proc`. `None` where
    /// neither a kubelet nor its file is there.
    pub fn read(rootfs: &Path, proc: &Path) -> Option<Self> {
        let host = Host(rootfs);
        let mut place = place::find(host, proc)?;
        let mut kubelet = Self::new();
        kubelet.read.append(&mut place.read);
        kubelet.aside.append(&mut place.aside);
        if let Some(path) = &place.config {
            kubelet.take_path(host, path, false);
        }
        if let Some(folder) = &place.config_dir {
            kubelet.read.push(host.at(folder));
            match host.files(folder, "conf") {
                Ok(paths) => paths.iter().for_each(|path| kubelet.take_path(host, path, true)),
                Err(e) => kubelet.aside.push(format!("{} could not be read: {e}", folder.display())),
            }
        }
        for (name, list) in [("eviction-hard", &mut kubelet.hard), ("eviction-soft", &mut kubelet.soft)] {
            if let Some(text) = place.flag(name) {
                list.clear();
                take_flag(list, name, &text, &place.flags_are, &mut kubelet.aside);
            }
        }
        if let Some(root) = place.flag("root-dir") {
            kubelet.root = root.into();
        }
        let roots = place.images.into_iter().chain(IMAGE_ROOTS.map(PathBuf::from));
        kubelet.images = roots.into_iter().find(|p| host.at(p).is_dir());
        Some(kubelet)
    }

    fn take_path(&mut self, host: Host<'_>, path: &Path, merge: bool) {
        self.read.push(host.at(path));
        match bounded(&host.at(path), MAX_FILE_BYTES) {
            Ok(text) => self.take_file(&text, path, merge),
            Err(why) => self.aside.push(format!("{} could not be read: {why}", path.display())),
        }
    }

    /// Takes what a file says; where it is to `merge`, what it does not name stays as it was.
    fn take_file(&mut self, text: &str, path: &Path, merge: bool) {
        let source = path.display().to_string();
        let Ok(file) = serde_saphyr::from_str::<Value>(text) else {
            self.aside.push(format!("{source} is not YAML; it is left out"));
            return;
        };
        if let Some(hard) = file.get("evictionHard").and_then(Value::as_object) {
            if !merge && file.get("mergeDefaultEvictionSettings").and_then(Value::as_bool) != Some(true) {
                self.hard.clear();
            }
            take(&mut self.hard, hard, &source, &mut self.aside);
        }
        if let Some(soft) = file.get("evictionSoft").and_then(Value::as_object) {
            take(&mut self.soft, soft, &source, &mut self.aside);
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
                    .filter_map(|(kind, list)| {
                        list.get(&signal).map(|t| (kind, t.least.of(total), &t.source))
                    })
                    .max_by(|a, b| a.1.total_cmp(&b.1));
                let Some((kind, least, source)) = first else { continue };
                // At the same mark the kubelet, which looks every 10 s, comes second.
                if least > 1.0 - high + 1e-9 {
                    said.push(format!(
                        "clean {} before the kubelet evicts: {kind} {signal}<{:.3}% ({source}) comes before \
                         detect.{key}.high_used {:.1}%; set a lower mark for it in detect.mounts",
                        mount.path,
                        least * 100.0,
                        high * 100.0
                    ));
                }
            }
        }
        said.dedup();
        said
    }
}

fn take(into: &mut Thresholds, from: &serde_json::Map<String, Value>, source: &str, aside: &mut Vec<String>) {
    for (signal, value) in from {
        // A drop-in takes a signal away so (a JSON merge patch, RFC 7396).
        if value.is_null() {
            into.remove(signal);
            continue;
        }
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        match Least::parse(&text) {
            Some(least) => _ = into.insert(signal.clone(), Threshold { least, source: source.to_owned() }),
            None => aside.push(format!("{signal}: {text:?} of {source} is not understood")),
        }
    }
}

fn take_flag(into: &mut Thresholds, name: &str, text: &str, source: &str, aside: &mut Vec<String>) {
    for part in text.split(',') {
        match part.split_once('<').map(|(signal, least)| (signal.trim(), Least::parse(least))) {
            Some((signal, Some(least))) => {
                into.insert(signal.to_owned(), Threshold { least, source: source.to_owned() });
            }
            _ => aside.push(format!("{part:?} of --{name} is not understood")),
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

    /// A host with these files, and one process with this command line; what is said of it.
    fn said_of(files: &[(&str, &str)], command: &str) -> Vec<String> {
        let host = host("", None);
        for (path, text) in files {
            let path = host.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::write(host.path().join("proc/18/cmdline"), command).unwrap();
        let kubelet = Kubelet::read(host.path(), &host.path().join("proc")).expect("there is a kubelet");
        kubelet.differs(&DiskConfig::default(), &mounts())
    }

    /// As k3s 1.34 writes it, without what says nothing of disks.
    const K3S_DEFAULTS: (&str, &str) = (
        "var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nauthentication:\n  anonymous:\n    enabled: false\nevictionHard:\n  \
         imagefs.available: 5%\n  nodefs.available: 5%\nevictionMinimumReclaim:\n  imagefs.available: 10%\n  \
         nodefs.available: 10%\nkind: KubeletConfiguration\n",
    );
    /// The title that k3s gives itself.
    const K3S: &str = "/usr/local/bin/k3s server\0\0\0";

    #[test]
    fn the_kubelet_within_k3s_is_held_against_its_drop_ins() {
        assert_eq!(said_of(&[K3S_DEFAULTS], K3S), Vec::<String>::new());
        let own = (
            "var/lib/rancher/k3s/agent/etc/kubelet.conf.d/10-disk.conf",
            "kind: KubeletConfiguration\nevictionHard:\n  nodefs.available: \"20%\"\n",
        );
        let other = (
            "var/lib/rancher/k3s/agent/etc/kubelet.conf.d/20.yaml",
            "evictionHard: { imagefs.available: 50% }",
        );
        let told = said_of(&[K3S_DEFAULTS, own, other], K3S);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("evictionHard nodefs.available<20.000% (/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/10-disk.conf)"));
        let gone = (
            "var/lib/rancher/k3s/agent/etc/kubelet.conf.d/30.conf",
            "evictionHard: { nodefs.available: null }",
        );
        assert_eq!(
            said_of(&[K3S_DEFAULTS, own, gone], K3S),
            Vec::<String>::new(),
            "the last file has the last word"
        );
    }

    #[test]
    fn the_kubelet_within_k3s_is_held_against_what_k3s_was_given() {
        let config = (
            "etc/rancher/k3s/config.yaml",
            "token: x\nkubelet-arg:\n  - \"eviction-hard=nodefs.available<18%,imagefs.available<17%\"\n",
        );
        let told = said_of(&[K3S_DEFAULTS, config], K3S);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("nodefs.available<18.000% (k3s' kubelet-arg)"), "{told:?}");
        let more =
            ("etc/rancher/k3s/config.yaml.d/a.yaml", "kubelet-arg+: [eviction-hard=nodefs.available<19%]\n");
        let told = said_of(&[K3S_DEFAULTS, config, more], K3S);
        assert!(told.len() == 1 && told[0].contains("<19.000%"), "{told:?}");
        let unit = (
            "etc/systemd/system/k3s.service",
            "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--data-dir' \\\n\t'/data/k3s' \\\n\
             \t'--kubelet-arg=eviction-soft=imagefs.available<40%' \\\n\n",
        );
        let moved = ("data/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf", K3S_DEFAULTS.1);
        let images = ("data/k3s/agent/containerd/x", "");
        let told = said_of(&[unit, moved, images], K3S);
        assert!(told.len() == 1 && told[0].contains("evictionSoft imagefs.available<40.000%"), "{told:?}");
        assert!(told[0].starts_with("clean / before"), "its images lie beneath its data: {told:?}");
        // Before it wrote drop-ins it gave flags, which replace the kubelet's defaults: 5 %, and nothing of inodes.
        let old = ("etc/rancher/k3s/config.yaml", "kubelet-arg: eviction-soft=nodefs.inodesFree<16%\n");
        let told = said_of(&[old], "/usr/local/bin/k3s agent\0");
        assert!(told.len() == 1 && told[0].contains("evictionSoft nodefs.inodesFree<16.000%"), "{told:?}");
    }

    #[test]
    fn drop_ins_of_a_kubelet_of_its_own_and_the_flags_of_microk8s_count() {
        let drop_in = (
            "var/lib/rancher/rke2/agent/etc/kubelet.conf.d/00-rke2-defaults.conf",
            "evictionHard: { imagefs.available: 30% }\n",
        );
        let rke2 =
            "kubelet\0--config-dir=/var/lib/rancher/rke2/agent/etc/kubelet.conf.d\0--node-ip=10.0.0.1\0";
        let told = said_of(&[drop_in], rke2);
        assert!(
            told.len() == 1 && told[0].contains("imagefs.available<30.000%"),
            "no file, no complaint: {told:?}"
        );
        let args = (
            "var/snap/microk8s/9072/args/kubelet",
            "--root-dir=${SNAP_COMMON}/var/lib/kubelet\n# a remark\n--eviction-hard=\"nodefs.available<16Gi,imagefs.available<20%\"\n",
        );
        let images = ("var/snap/microk8s/common/var/lib/containerd/x", "");
        let kubelite =
            "/snap/microk8s/9072/kubelite\0--kubelet-args-file=/var/snap/microk8s/9072/args/kubelet\0";
        let told = said_of(&[args, images], kubelite);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("nodefs.available<16.000% (/var/snap/microk8s/9072/args/kubelet)"),
            "{told:?}"
        );
        assert!(told[1].starts_with("clean / before"), "its images lie in its snap: {told:?}");
        let absent = said_of(&[], kubelite);
        assert!(absent[0].contains("/var/snap/microk8s/9072/args/kubelet could not be read"), "{absent:?}");
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
