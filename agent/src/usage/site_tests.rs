//! Real processes that have one file open in the ways in which the wrong one could be taken for its writer.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::usage::blame::Culprit;

/// A disk of its own, or memory.
struct Disk {
    folder: tempfile::TempDir,
    at: PathBuf,
}

impl Disk {
    fn make(fs: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("fs");
        std::fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        if fs == "tmpfs" {
            mount.args(["-t", "tmpfs", "tmpfs"]);
        } else {
            let image = folder.path().join("image");
            std::fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
            run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
            mount.args(["-o", "loop"]).arg(image);
        }
        run(mount.arg(&at));
        Self { folder, at }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: these tests mount filesystems: run them as root");
}

/// Processes, gone with it.
#[derive(Default)]
struct Processes(Vec<Child>);

impl Processes {
    fn start(&mut self, script: &str, file: &Path, stdout: Stdio) -> u32 {
        let script = format!(
            "import os,sys,time\np=sys.argv[1]\nB=b'x'*32768\ndef rest(): time.sleep(0.02)\n{script}"
        );
        let mut python = Command::new("python3");
        python.args(["-c", &script]).arg(file).stdin(Stdio::null()).stdout(stdout);
        let child = python.spawn().expect("python3 is installed");
        let pid = child.id();
        self.0.push(child);
        pid
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A descriptor that several may inherit.
fn shared(path: &Path) -> OwnedFd {
    std::fs::File::options().append(true).create(true).open(path).unwrap().into()
}

/// What is said of the file once it has grown by some MiB since all `pids` had it open.
fn said_of(disk: &Disk, file: &Path, pids: &[u32]) -> Culprit {
    let site = Site::unknown(&disk.at);
    let roots = Roots::default();
    let until = Instant::now() + Duration::from_secs(60);
    let size = || std::fs::metadata(file).map_or(0, |f| f.len());
    let look = || {
        assert!(Instant::now() < until, "{pids:?} do not have {} open, or nobody writes it", file.display());
        std::thread::sleep(Duration::from_millis(20));
        site.look(&roots).unwrap().0
    };
    let has = |look: &Look, pid| look.files.iter().any(|f| f.pid == pid && f.path == file);
    let before = loop {
        let look = look();
        if size() > 0 && pids.iter().all(|pid| has(&look, *pid)) {
            break look;
        }
    };
    let then = size();
    let after = loop {
        let look = look();
        if size() > then + (4 << 20) {
            break look;
        }
    };
    let mut pods = Pods::new(&disk.folder.path().join("no-logs"));
    let said = compare(&roots, Some(&disk.at), &mut pods, &before, &after);
    said.growing.into_iter().find(|c| c.path == file).expect("the file grew")
}

fn named(culprit: &Culprit) -> Vec<u32> {
    culprit.openers.iter().map(|o| o.pid).collect()
}

/// It logs through what it inherited.
const LOGS: &str = "while 1: os.write(1,B); rest()\n";
/// It never does, and writes far more to nobody's disk.
const SERVES: &str = "n=open('/dev/null','wb',0)\nwhile 1: n.write(B*10); rest()\n";
const APPENDS: &str = "f=open(p,'ab',0)\nwhile 1: f.write(B); rest()\n";
/// Seen by a look, or not: where both looks see it, it is named, and rightly.
const OPENS_APPENDS_CLOSES: &str = "while 1:\n with open(p,'ab',0) as f: f.write(B)\n rest()\n";

#[test]
fn who_shares_the_descriptor_and_writes_elsewhere_is_not_named() {
    let disk = Disk::make("ext4");
    let file = disk.at.join("app.log");
    let fd = shared(&file);
    let mut processes = Processes::default();
    let serves = processes.start(SERVES, &file, fd.try_clone().unwrap().into());
    let logs = processes.start(LOGS, &file, fd.into());
    let said = said_of(&disk, &file, &[serves, logs]);
    assert_eq!(named(&said), [logs], "{serves} writes to sockets alone: {said:?}");

    // Those who write are gone at once.
    drop(processes);
    let fd = shared(&file);
    let mut processes = Processes::default();
    let serves = processes.start(SERVES, &file, fd.try_clone().unwrap().into());
    let gone = "while 1:\n if os.fork()==0: os.write(1,B); os._exit(0)\n os.wait(); rest()\n";
    let parent = processes.start(gone, &file, fd.into());
    let said = said_of(&disk, &file, &[serves, parent]);
    assert_eq!(named(&said), Vec::<u32>::new(), "{said:?}");
}

#[test]
fn in_memory_none_who_shares_it_is_named_where_both_wrote() {
    let disk = Disk::make("tmpfs");
    let file = disk.at.join("app.log");
    let fd = shared(&file);
    let mut processes = Processes::default();
    let serves = processes.start(SERVES, &file, fd.try_clone().unwrap().into());
    let logs = processes.start(LOGS, &file, fd.into());
    let said = said_of(&disk, &file, &[serves, logs]);
    assert_eq!(named(&said), Vec::<u32>::new(), "{said:?}");
}

#[test]
fn who_follows_a_file_and_passes_it_on_is_not_named() {
    // To nobody's disk, and to another disk's files that it closes again.
    let sent = "n=open('/dev/null','wb',0)\ndef give(b): n.write(b)\n";
    let kept = "def give(b):\n with open(os.environ['SPOOL']+'/x','ab',0) as f: f.write(b)\n";
    let follows = "f=open(p,'r+b',0); f.seek(0,2)\nwhile 1:\n b=f.read(1<<20)\n give(b) if b else rest()\n";
    for (fs, give) in [("ext4", sent), ("ext4", kept), ("tmpfs", sent)] {
        let disk = Disk::make(fs);
        let file = disk.at.join("app.log");
        let mut processes = Processes::default();
        let writes = processes.start(OPENS_APPENDS_CLOSES, &file, Stdio::null());
        let spool =
            format!("os.environ['SPOOL']={:?}\nwhile not os.path.exists(p): rest()\n", disk.folder.path());
        let copies = processes.start(&format!("{spool}{give}{follows}"), &file, Stdio::null());
        let said = said_of(&disk, &file, &[copies]);
        assert!(named(&said).iter().all(|pid| *pid == writes), "{fs}: {copies} copies: {said:?}");
    }
}

#[test]
fn who_adds_lines_to_what_another_fills_is_not_named() {
    let disk = Disk::make("ext4");
    let file = disk.at.join("app.log");
    let mut processes = Processes::default();
    // Two lines, the second before the second look, and as much as the file grows by to another disk.
    let adds = format!(
        "f=open(p,'ab',0); n=0\nwhile 1:\n if os.path.getsize(p)>=n: f.write(b'.\\n'); n=1<<60 if n else 3<<20\n \
         with open({:?},'ab',0) as o: o.write(B)\n rest()\n",
        disk.folder.path().join("other")
    );
    let adds = processes.start(&adds, &file, Stdio::null());
    let writes = processes.start(
        &format!("while not os.path.exists(p): rest()\n{OPENS_APPENDS_CLOSES}"),
        &file,
        Stdio::null(),
    );
    let said = said_of(&disk, &file, &[adds]);
    assert!(named(&said).iter().all(|pid| *pid == writes), "{adds} adds lines: {said:?}");
}

#[test]
fn who_writes_it_is_named_on_a_disk_and_in_memory() {
    let places = "f=open(p,'wb',0); n=0\nwhile 1: os.pwrite(f.fileno(),B,n); n+=len(B); rest()\n";
    for (fs, script) in [("ext4", APPENDS), ("tmpfs", APPENDS), ("ext4", places)] {
        let disk = Disk::make(fs);
        let file = disk.at.join("app.log");
        let mut processes = Processes::default();
        let writes = processes.start(script, &file, Stdio::null());
        let mut said = said_of(&disk, &file, &[writes]);
        // In memory what it wrote and where it stands must agree, and between asking for both it writes on.
        for _ in 1..5 {
            if fs == "tmpfs" && said.openers.is_empty() {
                said = said_of(&disk, &file, &[writes]);
            }
        }
        assert_eq!(named(&said), [writes], "{fs}: {said:?}");
    }
}
