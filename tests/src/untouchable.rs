//! A hundred kinds of things that no cleanup may take, as real objects on a real filesystem.
//!
//! Each has a name that says why it must stay. What protects it is a fact of the object (it is open, linked, a device, in
//! a database's folder, young, excluded), or its name, or its place. Every other property speaks for removal: they are
//! old, and most of them are called as rotated logs are.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};

/// What every regular one of them holds, in bytes.
const BYTES: usize = 20_000;
/// How often what must look young is touched.
const TOUCH_EVERY: Duration = Duration::from_secs(1);
/// `FS_IMMUTABLE_FL` and `FS_APPEND_FL` of ioctl_iflags(2).
const FLAGS: [(&str, u32); 2] = [("immutable", 0x10), ("append-only", 0x20)];
/// Files that mark the folder in which they lie as a database's.
const MARKERS: [&str; 9] = [
    "PG_VERSION",
    "ibdata1",
    "WiredTiger",
    "mongod.lock",
    "aria_log_control",
    "appendonly.aof",
    "dump.rdb",
    "meta.properties",
    "IDENTITY",
];

/// Names in a folder of logs that say themselves that the file stays.
const BY_NAME: [(&str, &str); 45] = [
    ("a log that is written to", "access.log"),
    ("a log without .log", "error_log"),
    ("the system's log", "syslog"),
    ("the system's messages", "messages"),
    ("logins", "wtmp"),
    ("failed logins", "btmp"),
    ("last logins", "lastlog"),
    ("Tomcat's output", "catalina.out"),
    ("the journal", "system.journal"),
    ("a user's journal", "user-1000.journal"),
    ("what java.util.logging writes to", "java0.log.0"),
    ("a file in the making", "made.log.1.tmp"),
    ("a lock", "made.log.1.lock"),
    ("a process id", "made.log.1.pid"),
    ("a part of a download", "made.log.1.part"),
    ("an editor's swap file", "made.log.1.swp"),
    ("a Java lock", "made.log.1.lck"),
    ("a write-ahead log", "store.wal"),
    ("a version that looks like a rotation", "tool-1.2"),
    ("a dated dump without its log", "dump-20240612"),
    ("a release", "release-1.10"),
    ("a library", "libfoo.so.1"),
    ("an old file without its log", "notes.old"),
    ("an etcd database", "member.db"),
    ("an etcd snapshot", "snapshot.snap"),
    ("a model", "model.bin"),
    ("a picture", "photo.jpg"),
    ("a page of text", "README"),
    ("a certificate", "server.pem"),
    ("a key", "server.key"),
    ("a configuration", "config.yaml"),
    ("a SQLite database", "app.sqlite3"),
    ("a SQLite write-ahead log", "app.db-wal"),
    ("a kubeconfig", "kubeconfig"),
    ("a shell's history", ".bash_history"),
    ("a log with a number in its name", "x.log1"),
    ("a log of a daemon without mark", "dpkg.log"),
    ("an audit trail", "audit.log"),
    ("a spreadsheet", "export.csv"),
    ("a backup", "backup.tar.gz"),
    ("a disk image", "disk.img"),
    ("a swap file", "swapfile"),
    ("a packet capture", "trace.pcap"),
    ("a script", "rotate.sh"),
    ("a hidden state", ".state"),
];

/// Places beside the root, with what lies there.
const ELSEWHERE: [(&str, &str); 15] = [
    ("a rotated log outside every root", "other/app.log.1"),
    ("a pod's volume", "lib/kubelet/pods/0a1b/volumes/kubernetes.io~empty-dir/data/app.log.1"),
    ("a persistent volume", "lib/kubelet/pods/0a1b/volumes/kubernetes.io~csi/pvc/mount/app.log.1"),
    ("a container's layer", "lib/docker/overlay2/abc/diff/var/log/app.log.1"),
    ("an image's layer", "lib/containerd/snapshots/1/fs/app.log.1"),
    ("etcd's log", "lib/etcd/member/wal/0.wal"),
    ("a package database", "lib/dpkg/status"),
    ("PostgreSQL's files", "lib/postgresql/base/1/2619"),
    ("MySQL's files", "lib/mysql/ib_logfile0"),
    ("a person's file", "home/me/thesis.log.1"),
    ("a key of ssh", "root/.ssh/id_ed25519"),
    ("a unit", "etc/systemd/system/app.service"),
    ("a program", "usr/bin/app.log.1"),
    ("a mail", "spool/mail/me.log.1"),
    ("a job", "spool/cron/root"),
];

/// The objects, and what keeps them as they are.
pub struct Untouchables {
    /// Why each must stay, and where it is.
    pub kinds: Vec<(String, PathBuf)>,
    opened: Vec<File>,
    sockets: Vec<UnixListener>,
    children: Vec<Child>,
    flagged: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
    toucher: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

impl Untouchables {
    /// Makes them beneath `root`, a cleanup root, and beneath `elsewhere`, a folder of the same filesystem that is in none.
    /// The root's `excludes` must name `excluded.log.1` and `excluded`, its `max_depth` be at most 8.
    ///
    /// # Panics
    /// When one cannot be made; a filesystem without file flags (tmpfs) has none of those two.
    pub fn make(root: &Path, elsewhere: &Path) -> Self {
        let mut all = Self {
            kinds: Vec::new(),
            opened: Vec::new(),
            sockets: Vec::new(),
            children: Vec::new(),
            flagged: Vec::new(),
            mounts: Vec::new(),
            toucher: None,
        };
        let names = root.join("names");
        for (why, name) in BY_NAME {
            all.file(why, &names.join(name));
        }
        for (why, name) in [
            ("a name of two lines", &b"two\nlines"[..]),
            ("a name that would colour a terminal", b"\x1b[31mred.log"),
            ("a name that is not UTF-8", b"\xff\xfe.log"),
        ] {
            all.file(why, &names.join(std::ffi::OsStr::from_bytes(name)));
        }
        for (why, name) in ELSEWHERE {
            all.file(why, &elsewhere.join(name));
        }
        for marker in MARKERS {
            let folder = root.join(format!("db-{marker}"));
            all.file(&format!("a log in a folder that {marker} marks"), &folder.join("app.log.1"));
            all.file(
                &format!("a log far beneath a folder that {marker} marks"),
                &folder.join("base/1/app.log.1"),
            );
            std::fs::write(folder.join(marker), b"x").expect("a marker can be made");
        }
        all.by_links(root, elsewhere);
        all.by_kind(&root.join("kinds"));
        all.in_use(&root.join("used"));
        all.by_place(root);
        all.by_age(&root.join("ages"));
        all
    }

    fn file(&mut self, why: &str, path: &Path) -> PathBuf {
        let folder = path.parent().expect("it has a folder");
        std::fs::create_dir_all(folder).expect("a folder can be made");
        let mut content = path.as_os_str().as_bytes().to_vec();
        content.resize(BYTES, b'c');
        std::fs::write(path, content).expect("a file can be written");
        age(path);
        self.note(why, path);
        path.to_owned()
    }

    fn note(&mut self, why: &str, path: &Path) {
        self.kinds.push((why.to_owned(), path.to_owned()));
    }

    fn by_links(&mut self, root: &Path, elsewhere: &Path) {
        let links = root.join("links");
        let outside = self.file("the target of links", &elsewhere.join("target/app.log.1"));
        std::fs::create_dir_all(&links).expect("a folder can be made");
        for (why, name, target) in [
            ("a symbolic link out of the root", "out.log.1", outside.as_path()),
            ("a symbolic link to nothing", "nowhere.log.1", Path::new("/nonexistent")),
            ("a symbolic link to a device", "null.log.1", Path::new("/dev/null")),
            ("a symbolic link to a folder", "folder.log.1", elsewhere),
            ("a symbolic link to itself", "self.log.1", Path::new("self.log.1")),
        ] {
            std::os::unix::fs::symlink(target, links.join(name)).expect("a link can be made");
            self.note(why, &links.join(name));
        }
        std::fs::hard_link(&outside, links.join("hard.log.2")).expect("a link can be made");
        self.note("a hard link of a file outside", &links.join("hard.log.2"));
        let named = self.file("a log that has another name too", &links.join("twice.log.2"));
        std::fs::hard_link(named, links.join("another-name")).expect("a link can be made");
    }

    fn by_kind(&mut self, folder: &Path) {
        std::fs::create_dir_all(folder.join("full.log.1")).expect("a folder can be made");
        self.file("a file in a folder that is called as a log", &folder.join("full.log.1/inner"));
        std::fs::create_dir(folder.join("empty.log.1")).expect("a folder can be made");
        self.note("an empty folder", &folder.join("empty.log.1"));
        for (why, name, kind, device) in [
            ("a FIFO", "fifo.log.1", FileType::Fifo, 0),
            ("a character device", "null.log.1", FileType::CharacterDevice, makedev(1, 3)),
            ("a block device", "ram.log.1", FileType::BlockDevice, makedev(1, 15)),
        ] {
            let path = folder.join(name);
            mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device).expect("a node can be made");
            self.note(why, &path);
        }
        // A socket's path has 108 bytes at most.
        let socket = UnixListener::bind(folder.join("s.log.1")).expect("a socket can be made");
        self.sockets.push(socket);
        self.note("a socket", &folder.join("s.log.1"));
        for (what, flag) in FLAGS {
            let path = self.file(&format!("an {what} log"), &folder.join(format!("{what}.log.1")));
            if flag_file(&path, flag) {
                self.flagged.push(path);
            } else {
                // No such flags on this filesystem: then nothing protects it.
                std::fs::remove_file(&path).expect("it can be removed");
                self.kinds.pop();
            }
        }
    }

    fn in_use(&mut self, folder: &Path) {
        let read = self.file("a log that is read", &folder.join("read.log.1"));
        self.opened.push(File::open(read).expect("it opens"));
        let written = self.file("a log that is still written to", &folder.join("written.log.1"));
        self.opened.push(File::options().append(true).open(written).expect("it opens"));
        let locked = self.file("a log that is locked", &folder.join("locked.log.1"));
        let file = File::open(locked).expect("it opens");
        rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::LockShared).expect("it can be locked");
        self.opened.push(file);
        let by_another = self.file("a log that another process has open", &folder.join("other.log.1"));
        let stdin = File::open(by_another).expect("it opens");
        let holder = Command::new("sleep").arg("1000").stdin(stdin).stdout(Stdio::null()).spawn();
        self.children.push(holder.expect("sleep(1) is there"));
        let program = folder.join("running.log.1");
        // By another process: a child of this one that is between fork and exec would have it open for writing still.
        let copied = Command::new("cp").arg("/bin/sleep").arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "a program can be copied");
        age(&program);
        self.note("a program that runs", &program);
        let runs = Command::new(&program).arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        self.children.push(runs.expect("it runs"));
    }

    fn by_place(&mut self, root: &Path) {
        self.file("a log that the configuration names", &root.join("place/excluded.log.1"));
        self.file("a log in a folder that the configuration names", &root.join("excluded/deep/app.log.1"));
        let deep: PathBuf = (0..12).map(|i| format!("d{i}")).collect();
        self.file("a log deeper than is looked", &root.join("place").join(deep).join("app.log.1"));
        let inner = root.join("place/mounted");
        std::fs::create_dir_all(&inner).expect("a folder can be made");
        mount(&["-t", "tmpfs", "-o", "size=1m", "none"], &inner);
        self.mounts.push(inner.clone());
        self.file("a log on a filesystem that is mounted within", &inner.join("app.log.1"));
        let bound = self.file("a log under another that is bound over it", &root.join("place/bound.log.1"));
        let over = self.file("a log that is bound over another", &root.join("place/over-it"));
        mount(&["--bind", over.to_str().expect("a path of the test")], &bound);
        self.mounts.push(bound);
    }

    fn by_age(&mut self, folder: &Path) {
        let mut fresh = vec![self.file("a log that was changed just now", &folder.join("fresh.log.1"))];
        // Old by its modification time; its change time says otherwise.
        fresh.push(self.file("a log that was put back in time", &folder.join("back.log.1")));
        let future = self.file("a log of the future", &folder.join("future.log.1"));
        let ahead = SystemTime::now() + Duration::from_secs(86_400);
        File::options().append(true).open(future).and_then(|f| f.set_modified(ahead)).expect("a time");
        self.file("the log whose newest rotation stays", &folder.join("kept.log"));
        self.file("the newest rotation of a log", &folder.join("kept.log.1"));
        let stop = Arc::new(AtomicBool::new(false));
        let ending = stop.clone();
        let touching = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                touch(&fresh[0]);
                age(&fresh[1]);
                std::thread::sleep(TOUCH_EVERY);
            }
        });
        self.toucher = Some((stop, touching));
    }
}

impl Drop for Untouchables {
    fn drop(&mut self) {
        if let Some((stop, touching)) = self.toucher.take() {
            stop.store(true, Ordering::Relaxed);
            touching.join().ok();
        }
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
        for mounted in self.mounts.iter().rev() {
            Command::new("umount").arg("-l").arg(mounted).status().ok();
        }
        self.flagged.iter().for_each(|path| _ = flag_file(path, 0));
    }
}

fn mount(what: &[&str], on: &Path) {
    let status = Command::new("mount").args(what).arg(on).status().expect("mount(8) is there");
    assert!(status.success(), "mount {what:?} {}: {status}", on.display());
}

/// Two days old by access and modification; the change time says when that was set.
fn age(path: &Path) {
    let ago = SystemTime::now() - Duration::from_secs(2 * 86_400);
    let seconds = ago.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time can be set");
}

fn touch(path: &Path) {
    let now = SystemTime::now();
    File::options().append(true).open(path).and_then(|f| f.set_modified(now)).ok();
}

/// Sets one of [`FLAGS`] on the inode, or neither for 0; `false` where the filesystem has none.
fn flag_file(path: &Path, flag: u32) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(now) = rustix::fs::ioctl_getflags(&file) else { return false };
    let ours = FLAGS.iter().fold(0, |all, (_, one)| all | one);
    let wanted = rustix::fs::IFlags::from_bits_retain(now.bits() & !ours | flag);
    rustix::fs::ioctl_setflags(&file, wanted).is_ok()
}
