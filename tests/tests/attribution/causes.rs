//! Twenty ways to fill a disk, each with its truth written down.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::cgroup::Group;
use dogwatch_e2e::loopfs::LoopFs;
use dogwatch_e2e::process::{Process, children_of};
use dogwatch_e2e::wait::until;
use rustix::fs::FallocateFlags;

use super::judge::Truth;

const MIB: u64 = 1 << 20;
/// Debian's systemd-journal-remote: it writes journal files as journald does, and can be given a file and lines.
const JOURNAL_WRITER: &str = "/lib/systemd/systemd-journal-remote";
const PATIENCE: Duration = Duration::from_secs(60);
/// What every script begins with: some 600 KiB a second, in pieces.
const PRELUDE: &str = "import fcntl,mmap,os,signal,subprocess,sys,time\na=sys.argv[1:]\nB=b'x'*65536\n\
                       def rest(): time.sleep(0.1)\n";
const APPEND: &str = "f=open(a[0],'ab',0)\nwhile 1: f.write(B); rest()\n";
const APPEND_HALF: &str = "f=open(a[0],'ab',0)\nwhile 1: f.write(B[:32768]); rest()\n";
const OPEN_APPEND_CLOSE: &str = "while 1:\n with open(a[0],'ab',0) as f: f.write(B)\n rest()\n";
/// The first pod has a folder of logs and so a name.
const NAMED_POD: &str = "shop/web-1";

/// What at least must be told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Must {
    pub(super) place: bool,
    pub(super) process: bool,
    pub(super) pod: bool,
}

const PLACE: Must = Must { place: true, process: false, pod: false };
const PROCESS: Must = Must { place: true, process: true, pod: false };
const POD: Must = Must { place: true, process: true, pod: true };

/// A cause, under way.
#[derive(Debug)]
pub(super) struct Cause {
    pub(super) name: &'static str,
    pub(super) fs: &'static str,
    /// As the agent knows it.
    pub(super) mount: PathBuf,
    pub(super) rule: &'static str,
    pub(super) truth: Truth,
    pub(super) must: Must,
    pub(super) why_unknown: &'static str,
}

impl Cause {
    /// The truth, for people.
    pub(super) fn truth_in_words(&self) -> String {
        let place = self.truth.places.first().map(|p| format!("{p:?}")).unwrap_or_default();
        let pids = self.truth.pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        format!("{place} by ({pids}) of pod {}", self.truth.pods.join(", "))
    }
}

/// The name or, where it has none, the uid that a pod is called by.
pub(super) fn pod_name(uid: &str) -> String {
    if uid == self::uid(1) { NAMED_POD.to_owned() } else { uid.to_owned() }
}

fn uid(n: u32) -> String {
    format!("0f3a2b1c-0000-4000-8000-0000000000{n:02}")
}

/// All of them, with what they stand on.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) causes: Vec<Cause>,
    /// What is true of no cause.
    pub(super) strangers: Vec<String>,
    folder: PathBuf,
    processes: Vec<Process>,
    groups: Vec<Group>,
    mounted: Vec<PathBuf>,
    disks: Vec<LoopFs>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.processes.clear();
        // Those beneath others were made last.
        while self.groups.pop().is_some() {}
        while let Some(at) = self.mounted.pop() {
            let _ = Command::new("umount").arg(at).status();
        }
        self.disks.clear();
    }
}

/// How a process is started.
#[derive(Debug, Default)]
struct How<'h> {
    /// The pod that it is of.
    pod: Option<u32>,
    /// Shell commands that lay out mounts of its own.
    mounts: Option<String>,
    args: Vec<&'h Path>,
}

impl Scene {
    /// Makes the disks and starts everything; `folder` is for logs and mount points.
    pub(super) fn set(folder: &Path) -> Self {
        assert!(
            Path::new(JOURNAL_WRITER).exists(),
            "{JOURNAL_WRITER} is missing: install Debian's systemd-journal-remote"
        );
        // In namespaces of its own: nothing of the machine's is covered for anybody else.
        for at in ["/var/log", "/var/lib"] {
            mount(&["-t", "tmpfs", "tmpfs", at]);
        }
        let top = Group::new(&["memory"]);
        let pods = top.child("kubepods");
        let class = pods.child("besteffort");
        let mut scene = Self {
            causes: Vec::new(),
            strangers: vec!["calm.log".to_owned()],
            folder: folder.to_owned(),
            processes: Vec::new(),
            groups: vec![top, pods, class],
            mounted: Vec::new(),
            disks: Vec::new(),
        };
        scene.of_pods();
        scene.of_deleted_files();
        scene.of_many_files();
        scene.of_logs();
        scene.of_unusual_writers();
        scene.of_lying_figures();
        let folders: Vec<PathBuf> = scene.causes.iter().map(|c| c.mount.clone()).collect();
        let calm = "fs=[open(d+'/calm.log','ab',0) for d in a]\nwhile 1:\n for f in fs: f.write(b'.'*1024)\n time.sleep(1)\n";
        let how = How { args: folders.iter().map(PathBuf::as_path).collect(), ..How::default() };
        scene.stranger(calm, how);
        scene
    }

    fn of_pods(&mut self) {
        let disk = self.disk("ext4");
        let pods = self.bound(&disk, "/var/log/pods");
        let log = pods.join(format!("shop_web-1_{}/web/0.log", uid(1)));
        make(parent(&log));
        let shim = format!("open('/proc/self/comm','w').write('containerd-shim')\n{APPEND}");
        let pid = self.start(&shim, How { args: vec![&log], ..How::default() });
        self.cause("log spam by a container", "ext4", &pods, truth(&[&log], &[pid], &[1]), POD);

        let disk = self.disk("ext4");
        let layer = disk.join("containerd/snapshots/7");
        for name in ["lower", "upper/app", "work", "merged"] {
            make(&layer.join(name));
        }
        let merged = layer.join("merged");
        let options = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", layer.display());
        mount(&["-t", "overlay", "overlay", "-o", &options, text(&merged)]);
        self.mounted.push(merged.clone());
        let inside = PathBuf::from("/mnt/app/data.bin");
        let mounts = format!("mount --bind '{}' /mnt", merged.display());
        let how = How { pod: Some(2), mounts: Some(mounts), args: vec![&inside] };
        let pid = self.start(APPEND, how);
        let file = layer.join("upper/app/data.bin");
        self.cause(
            "a container's writable layer",
            "overlay on ext4",
            &disk,
            truth(&[&file], &[pid], &[2]),
            POD,
        );

        let disk = self.disk("xfs");
        let kubelet = self.bound(&disk, "/var/lib/kubelet");
        let volume = kubelet.join(format!("pods/{}/volumes/kubernetes.io~empty-dir/cache", uid(3)));
        make(&volume);
        let pid = self.in_volume(3, &volume, APPEND);
        let file = volume.join("out.bin");
        self.cause("emptyDir", "xfs", &kubelet, truth(&[&file], &[pid], &[3]), POD);

        let disk = self.disk("ext4");
        let volume = disk.join("host-data");
        make(&volume);
        let pid = self.in_volume(4, &volume, APPEND);
        let file = volume.join("out.bin");
        self.cause("hostPath written by a pod", "ext4", &disk, truth(&[&file], &[pid], &[4]), POD);

        let disk = self.disk("ext4");
        let (one, other) = (disk.join("one"), disk.join("other"));
        let pids = [
            self.start(APPEND_HALF, How { pod: Some(5), args: vec![&one], ..How::default() }),
            self.start(APPEND_HALF, How { pod: Some(6), args: vec![&other], ..How::default() }),
        ];
        let both = truth(&[&one, &other], &pids, &[5, 6]);
        self.cause("two writers, half each", "ext4", &disk, both, POD);
    }

    fn of_deleted_files(&mut self) {
        let disk = self.disk("ext4");
        let file = disk.join("rotated.log");
        let script = "f=open(a[0],'ab',0)\nf.write(B*300)\nos.unlink(a[0])\nwhile 1: f.write(B); rest()\n";
        let pid = self.start(script, How { args: vec![&file], ..How::default() });
        self.cause("deleted but open, growing", "ext4", &disk, truth(&[&file], &[pid], &[]), PROCESS);

        let disk = self.disk("tmpfs");
        let file = disk.join("gone.log");
        let script = "f=open(a[0],'wb',0)\nf.write(B*600)\nos.unlink(a[0])\nwhile 1: time.sleep(9)\n";
        let pid = self.start(script, How { args: vec![&file], ..How::default() });
        self.cause("deleted but open, still", "tmpfs", &disk, truth(&[&file], &[pid], &[]), PROCESS);
    }

    fn of_many_files(&mut self) {
        let disk = self.disk("ext4");
        let cores = disk.join("cores");
        make(&cores);
        // A real dump where the kernel puts it into the process's folder; where it goes elsewhere, a stand-in of its size.
        let script = "plain=open('/proc/sys/kernel/core_pattern').read()[0] not in '/|'\nn=0\nwhile 1:\n n+=1; d=a[0]+'/'+str(n); os.mkdir(d)\n \
                      crash='ulimit -c unlimited; kill -SEGV $$' if plain else 'head -c 300000 /dev/zero >core'\n \
                      subprocess.run(['sh','-c',crash],cwd=d); time.sleep(0.25)\n";
        let pid = self.start(script, How { args: vec![&cores], ..How::default() });
        self.cause("core dump loop", "ext4", &disk, truth(&[&cores], &[pid], &[]), PLACE);

        let disk = self.disk_of("ext4", 160 * MIB, &["-m", "0", "-N", "20000"]);
        let spool = disk.join("spool");
        make(&spool);
        let script = "for n in range(3000): open(a[0]+'/old'+str(n),'w').close()\nn=0\nwhile 1:\n n+=1\n \
                      subprocess.run(['sh','-c',': >'+str(n)],cwd=a[0]); time.sleep(0.02)\n";
        let pid = self.start(script, How { args: vec![&spool], ..How::default() });
        self.cause("tiny files by short-lived shells", "ext4", &disk, truth(&[&spool], &[pid], &[]), PLACE);
        if let Some(cause) = self.causes.last_mut() {
            cause.rule = "inode-high-water";
        }
    }

    fn of_logs(&mut self) {
        let disk = self.disk_of("ext4", 320 * MIB, &["-m", "0"]);
        let journal = disk.join("journal");
        make(&journal);
        let script = format!(
            "import base64\np=subprocess.Popen(['{JOURNAL_WRITER}','-o',a[0]+'/system.journal','-'],stdin=subprocess.PIPE)\n\
             while 1:\n for _ in range(12):\n  t=str(int(time.time()*1e6)).encode()\n  \
             p.stdin.write(b'__REALTIME_TIMESTAMP='+t+b'\\n__MONOTONIC_TIMESTAMP='+t+b'\\n_BOOT_ID='+b'0123456789abcdef'*2+\
             b'\\nMESSAGE='+base64.b64encode(os.urandom(8192))+b'\\n\\n')\n p.stdin.flush(); rest()\n"
        );
        let feeder = self.start(&script, How { args: vec![&journal], ..How::default() });
        let pid = until("the journal's writer", PATIENCE, || {
            let is_it = |pid: &u32| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                name.starts_with("systemd-journal")
            };
            children_of(feeder).into_iter().find(is_it)
        });
        self.cause("journald files (journal-remote)", "ext4", &disk, truth(&[&journal], &[pid], &[]), PLACE);

        let disk = self.disk("ext4");
        let logs = disk.join("logs");
        make(&logs);
        let script = "n=0\nwhile 1:\n f=open(a[0]+'/app.log','ab',0)\n while f.tell() < 1<<20: f.write(B); rest()\n \
                      f.close(); n+=1; os.rename(a[0]+'/app.log',a[0]+'/app.log.'+str(n))\n";
        let pid = self.start(script, How { args: vec![&logs], ..How::default() });
        self.cause("rotation by rename, writer reopens", "ext4", &disk, truth(&[&logs], &[pid], &[]), PLACE);

        let disk = self.disk("btrfs");
        let logs = disk.join("logs");
        make(&logs);
        let log = logs.join("app.log");
        let pid = self.start(APPEND, How { args: vec![&log], ..How::default() });
        let script = "n=0\nwhile 1:\n if os.path.exists(a[0]) and os.path.getsize(a[0]) > 2<<20:\n  n+=1\n  \
                      subprocess.run(['sh','-c','cp \"$1\" \"$1.$2\" && truncate -s 0 \"$1\"','sh',a[0],str(n)])\n rest()\n";
        let rotator = self.start(script, How { args: vec![&log], ..How::default() });
        self.cause("copytruncate", "btrfs", &disk, truth(&[&logs], &[pid, rotator], &[]), PLACE);

        // Not on XFS: what it reserves for a log that grows it takes in steps, between two of which no look sees it fill.
        let disk = self.disk("ext4");
        let log = disk.join("var/app.log");
        make(parent(&log));
        let pid = self.start(OPEN_APPEND_CLOSE, How { args: vec![&log], ..How::default() });
        self.cause("opens, appends, closes each time", "ext4", &disk, truth(&[&log], &[pid], &[]), PLACE);

        let disk = self.disk("ext4");
        let log = disk.join("var/app.log");
        make(parent(&log));
        let idle = "f=open(a[0],'ab',0)\nn=open('/dev/null','wb',0)\nwhile 1: n.write(B); rest()\n";
        self.stranger(idle, How { pod: Some(7), args: vec![&log], ..How::default() });
        let script =
            "while 1: subprocess.run(['sh','-c','head -c 65536 /dev/zero >>\"$1\"','sh',a[0]]); rest()\n";
        let pid = self.start(script, How { args: vec![&log], ..How::default() });
        let truth = truth(&[&log], &[pid], &[]);
        self.cause("short-lived writers to a log that another keeps open", "ext4", &disk, truth, PLACE);
    }

    fn of_unusual_writers(&mut self) {
        let disk = self.disk("ext4");
        let file = disk.join("db/table");
        make(parent(&file));
        // Python's own mmap keeps a descriptor.
        let script = "import ctypes\nf=open(a[0],'w+b'); f.truncate(110<<20); c=ctypes.CDLL(None); c.mmap.restype=ctypes.c_void_p\n\
                      m=c.mmap(None,ctypes.c_size_t(110<<20),3,1,f.fileno(),ctypes.c_long(0)); f.close()\n\
                      while 1: ctypes.memmove(m,B,65536); m+=65536; rest()\n";
        let pid = self.start(script, How { args: vec![&file], ..How::default() });
        self.cause("a mapping, its descriptor closed", "ext4", &disk, truth(&[&file], &[pid], &[]), PLACE);

        let disk = self.disk("xfs");
        let file = disk.join("direct");
        let script = "fd=os.open(a[0],os.O_WRONLY|os.O_CREAT|os.O_DIRECT); m=mmap.mmap(-1,65536); n=0\n\
                      while 1: os.pwrite(fd,m,n); n+=65536; rest()\n";
        let pid = self.start(script, How { pod: Some(8), args: vec![&file], ..How::default() });
        self.cause("O_DIRECT at chosen places", "xfs", &disk, truth(&[&file], &[pid], &[8]), POD);

        let disk = self.disk("ext4");
        let file = disk.join("x by etcd (1) of pod kube-system_etcd\u{1b}[2J");
        let script = format!("open('/proc/self/comm','w').write('kubelet (1)')\n{APPEND}");
        let pid = self.start(&script, How { pod: Some(9), args: vec![&file], ..How::default() });
        self.cause("names that lie", "ext4", &disk, truth(&[&file], &[pid], &[9]), POD);

        let disk = self.disk_of("ext4", 320 * MIB, &["-m", "0"]);
        let image = disk.join("vm/disk.img");
        make(parent(&image));
        File::create(&image).and_then(|f| f.set_len(128 * MIB)).expect("an image can be made");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        let inner = self.folder.join("inner");
        make(&inner);
        mount(&["-o", "loop", text(&image), text(&inner)]);
        self.mounted.push(inner.clone());
        let inside = inner.join("inside");
        // Written back at once, for the image to grow.
        let script = "f=open(a[0],'ab',0)\nwhile 1: f.write(B); os.fsync(f.fileno()); rest()\n";
        let pid = self.start(script, How { args: vec![&inside], ..How::default() });
        self.cause(
            "the image of a loop device, from inside",
            "ext4",
            &disk,
            truth(&[&image], &[pid], &[]),
            PLACE,
        );
    }

    fn of_lying_figures(&mut self) {
        let disk = self.disk("ext4");
        let (sparse, real) = (disk.join("sparse.img"), disk.join("real.log"));
        let script =
            "f=open(a[0],'wb',0); f.truncate(64<<30)\nwhile 1: f.seek(64<<20,1); f.write(b'.'); rest()\n";
        self.stranger(script, How { args: vec![&sparse], ..How::default() });
        let pid = self.start(APPEND, How { pod: Some(10), args: vec![&real], ..How::default() });
        self.strangers.push("sparse.img".to_owned());
        self.cause("beside a sparse file of 64 GiB", "ext4", &disk, truth(&[&real], &[pid], &[10]), POD);

        let disk = self.disk("btrfs");
        let (copies, real) = (disk.join("copies"), disk.join("real.log"));
        make(&copies);
        // FICLONE: copies that take no room, kept open.
        let script = "s=open(a[0]+'/base','w+b',0); s.write(B*64); os.fsync(s.fileno()); k=[]\nfor n in range(60):\n \
                      f=open(a[0]+'/copy'+str(n),'wb',0); fcntl.ioctl(f.fileno(),0x40049409,s.fileno()); k.append(f); time.sleep(2)\n\
                      time.sleep(999)\n";
        self.stranger(script, How { args: vec![&copies], ..How::default() });
        let pid = self.start(OPEN_APPEND_CLOSE, How { args: vec![&real], ..How::default() });
        self.strangers.push("/copies".to_owned());
        self.cause(
            "beside copies that share extents",
            "btrfs",
            &disk,
            truth(&[&real], &[pid], &[]),
            Must::default(),
        );
        if let Some(cause) = self.causes.last_mut() {
            cause.why_unknown = "files grow by more than the filesystem: which of them share is not told";
        }
    }

    fn in_volume(&mut self, pod: u32, volume: &Path, script: &str) -> u32 {
        // What the process calls its file is another one, or none, on the node.
        let mounts = format!(
            "mount -t tmpfs tmpfs /mnt && mkdir /mnt/data && mount --bind '{}' /mnt/data",
            volume.display()
        );
        let file = PathBuf::from("/mnt/data/out.bin");
        self.start(script, How { pod: Some(pod), mounts: Some(mounts), args: vec![&file] })
    }

    fn cause(&mut self, name: &'static str, fs: &'static str, mount: &Path, truth: Truth, must: Must) {
        let rule = "disk-high-water";
        self.causes.push(Cause {
            name,
            fs,
            mount: mount.to_owned(),
            rule,
            truth,
            must,
            why_unknown: "no process was caught",
        });
    }

    fn disk(&mut self, fs: &'static str) -> PathBuf {
        match fs {
            "xfs" => self.disk_of(fs, 320 * MIB, &[]),
            "btrfs" => self.disk_of(fs, 256 * MIB, &[]),
            _ => self.disk_of(fs, 160 * MIB, &["-m", "0"]),
        }
    }

    /// A disk that is too full from the beginning, so that its finding comes at once, and has room for minutes of writing.
    fn disk_of(&mut self, fs: &str, bytes: u64, options: &[&str]) -> PathBuf {
        let disk = match fs {
            "tmpfs" => LoopFs::memory(bytes),
            _ => LoopFs::create(bytes, fs, options),
        };
        let disk = disk.expect("a filesystem of its own");
        let at = disk.path().to_owned();
        let ballast = File::create(at.join("ballast")).expect("a file can be made");
        rustix::fs::fallocate(&ballast, FallocateFlags::empty(), 0, bytes / 5).expect("there is room");
        self.disks.push(disk);
        at
    }

    /// The same disk where a node has it.
    fn bound(&mut self, disk: &Path, at: &str) -> PathBuf {
        make(Path::new(at));
        mount(&["--bind", text(disk), at]);
        self.mounted.push(at.into());
        at.into()
    }

    fn group(&mut self, pod: u32) -> Vec<PathBuf> {
        let class = self.groups.get(2).expect("the class is made first");
        let its = class.child(&format!("pod{}", uid(pod)));
        let container = its.child(&format!("{pod:064x}"));
        let files = container.procs_files();
        self.groups.extend([its, container]);
        files
    }

    /// One that fills nothing and must not be named.
    fn stranger(&mut self, script: &str, how: How<'_>) {
        let pid = self.start(script, how);
        self.strangers.extend([format!("({pid})"), format!("({pid},")]);
    }

    fn start(&mut self, script: &str, how: How<'_>) -> u32 {
        let groups = how.pod.map(|pod| self.group(pod)).unwrap_or_default();
        let mut command = Command::new(if how.mounts.is_some() { "unshare" } else { "sh" });
        if how.mounts.is_some() {
            command.args(["--mount", "--propagation", "private", "sh"]);
        }
        command.args(["-c", "for g in $JOIN; do echo $$ >\"$g\" || exit 1; done; eval \"$MOUNTS\" || exit 1; exec python3 -c \"$SCRIPT\" \"$@\"", "sh"]);
        command.args(how.args);
        command.env("JOIN", groups.iter().map(|g| text(g)).collect::<Vec<_>>().join(" "));
        command.env("MOUNTS", how.mounts.unwrap_or_else(|| ":".to_owned()));
        command.env("SCRIPT", format!("{PRELUDE}{script}"));
        let log = self.folder.join(format!("process-{}.log", self.processes.len()));
        let process = Process::start("a writer", command, &log);
        let pid = process.id();
        self.processes.push(process);
        pid
    }
}

fn truth(places: &[&Path], pids: &[u32], pods: &[u32]) -> Truth {
    Truth {
        places: places.iter().map(|p| (*p).to_owned()).collect(),
        pids: pids.to_vec(),
        pods: pods.iter().map(|n| uid(*n)).collect(),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("a path of a file in a folder")
}

fn make(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder can be made");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are text")
}

fn mount(args: &[&str]) {
    run(Command::new("mount").args(args));
}

fn run(command: &mut Command) {
    let out = command.output().expect("the program is installed");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
