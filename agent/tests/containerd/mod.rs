//! A containerd of the test's own: its root on a filesystem of its own, its socket and state in a temporary folder, its
//! mounts in a namespace that ends with it. Gone, with every shim and container, when the guard is dropped.

#![allow(unreachable_pub, reason = "helpers of tests")]

pub mod cri;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::common::{LoopFs, run};

const PATIENCE: Duration = Duration::from_secs(60);
/// What `pause` in pods is called here.
pub const PAUSE: &str = "registry.test/infra/sandbox:1";

/// Waits for `what`.
pub fn until<T>(what: &str, mut met: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(met) = met() {
            return met;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub struct Containerd {
    pub fs: LoopFs,
    /// State, socket and whatever the test makes.
    pub folder: tempfile::TempDir,
    child: Option<Child>,
    cgroup: String,
}

impl Containerd {
    pub fn start(mib: u64) -> Self {
        let (fs, folder) = (LoopFs::ext4_for_all(mib), tempfile::tempdir().unwrap());
        let cgroup =
            format!("/dogwatch-test-{}-{}", std::process::id(), folder.path().file_name().unwrap().display());
        let mut containerd = Self { fs, folder, child: None, cgroup };
        let (root, state) = (containerd.fs.path().join("root"), containerd.folder.path().join("state"));
        let config = format!(
            r#"version = 2
root = "{}"
state = "{}"
disabled_plugins = ["io.containerd.internal.v1.restart", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
stats_collect_period = 1
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
"#,
            root.display(),
            state.display(),
            containerd.socket().display()
        );
        fs::write(containerd.folder.path().join("config.toml"), config).unwrap();
        containerd.begin();
        containerd
    }

    /// Starts the program, and waits until it answers.
    pub fn begin(&mut self) {
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "containerd", "--config"])
            .arg(self.folder.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let Ok(child) = child else { unreachable!("these tests need unshare and containerd: {child:?}") };
        self.child = Some(child);
        until("containerd to answer (it needs root, runc and overlayfs)", || {
            let asked = Command::new("ctr").arg("-a").arg(self.socket()).args(["plugins", "ls"]).output();
            let Ok(asked) = asked else { unreachable!("these tests need ctr: {asked:?}") };
            let text = String::from_utf8_lossy(&asked.stdout).into_owned();
            text.lines().any(|l| l.contains(" cri ") && l.contains("ok")).then_some(())
        });
    }

    /// Ends it at once, as a crash would; shims and containers live on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// `ctr` in the namespace of Kubernetes.
    pub fn ctr(&self, args: &[&str]) -> String {
        let socket = self.socket();
        let mut all: Vec<&OsStr> = vec!["-a".as_ref(), socket.as_os_str(), "-n".as_ref(), "k8s.io".as_ref()];
        all.extend(args.iter().map(OsStr::new));
        String::from_utf8(run("ctr", &all).stdout).unwrap()
    }

    /// Names of all images, as `ctr` has them.
    pub fn names(&self) -> Vec<String> {
        self.ctr(&["images", "ls", "-q"]).lines().map(str::to_owned).collect()
    }

    /// Imports images that consist of one layer: a static program as `/run-me`, and random bytes.
    pub fn import(&self, names: &[String], program: &Path, random_bytes: usize) {
        let made = tempfile::tempdir().unwrap();
        let (layer, image) = (made.path().join("layer"), made.path().join("image"));
        fs::create_dir_all(&layer).unwrap();
        fs::create_dir_all(&image).unwrap();
        fs::copy(program, layer.join("run-me")).unwrap();
        let mut random = vec![0; random_bytes];
        getrandom::fill(&mut random).unwrap();
        fs::write(layer.join("random"), random).unwrap();
        let tar = image.join("layer.tar");
        run("tar", &[OsStr::new("-cf"), tar.as_os_str(), "-C".as_ref(), layer.as_os_str(), ".".as_ref()]);
        let diff = hex(&fs::read(&tar).unwrap());
        let mut manifest = Vec::new();
        for (n, name) in names.iter().enumerate() {
            // Each has a configuration of its own, and so an id of its own.
            let config = serde_json::json!({
                "architecture": "amd64", "os": "linux", "created": format!("2024-01-01T00:{:02}:{:02}Z", n / 60, n % 60),
                "author": name, "config": {"Cmd": ["/run-me"]},
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
            });
            let config = serde_json::to_vec(&config).unwrap();
            let file = format!("{}.json", hex(&config));
            fs::write(image.join(&file), &config).unwrap();
            manifest.push(serde_json::json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
        }
        fs::write(image.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        let whole = made.path().join("image.tar");
        run("tar", &[OsStr::new("-cf"), whole.as_os_str(), "-C".as_ref(), image.as_os_str(), ".".as_ref()]);
        self.ctr(&["images", "import", whole.to_str().unwrap()]);
        // CRI learns of images by an event.
        let mut cri = cri::Client::connect(&self.socket());
        until("CRI to list what was imported", || {
            let listed = cri.image_tags();
            names.iter().all(|n| listed.contains(n)).then_some(())
        });
    }

    /// A static program of a few hundred bytes: it waits for ever, or ends at once.
    pub fn program(&self, waits: bool) -> PathBuf {
        let (name, call) = if waits { ("waits", 34) } else { ("ends", 60) };
        let (source, program) = (self.folder.path().join(format!("{name}.c")), self.folder.path().join(name));
        let code = format!(
            "void _start(void) {{ for (;;) __asm__ volatile(\"syscall\" :: \"a\"({call}L), \"D\"(0L) : \"rcx\", \"r11\", \"memory\"); }}"
        );
        fs::write(&source, code).unwrap();
        let args = [
            OsStr::new("-nostdlib"),
            "-static".as_ref(),
            "-o".as_ref(),
            program.as_os_str(),
            source.as_os_str(),
        ];
        run("cc", &args);
        program
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill();
        // Shims name their containerd's socket in their arguments; containers are their children.
        let address = self.folder.path().display().to_string();
        let shims = processes(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("containerd-shim") && line.contains(&address)
        });
        let children = processes(|pid| parent(pid).is_some_and(|p| shims.contains(&p)));
        for pid in shims.into_iter().chain(children) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
            let began = Instant::now();
            while Path::new(&format!("/proc/{pid}/cgroup")).exists() && state(pid) != Some('Z') {
                if began.elapsed() > Duration::from_secs(5) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let own = controller.path().join(self.cgroup.trim_start_matches('/'));
            for inner in fs::read_dir(&own).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
                let _ = fs::remove_dir(inner.path());
            }
            let _ = fs::remove_dir(own);
        }
    }
}

fn processes(wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|pid| wanted(*pid)).collect()
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
