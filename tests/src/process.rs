//! Programs that a test starts, and ends: by their id, with everything that they started, also while a test unwinds.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// What of a log is shown when a test fails.
const SHOWN: u64 = 6 * 1024;

/// A program on the run, in a process group of its own.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out = OpenOptions::new().create(true).append(true).open(log).expect("a log file can be made");
        let err = out.try_clone().expect("a descriptor can be doubled");
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        // SAFETY: only prctl(2) is called between fork and exec, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                // A test that is killed takes what it started with it.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into)
            });
        }
        let child = command.spawn().expect("the program was built and can be started");
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its status, if it ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL to it alone, as a crash is; returns once it is gone.
    ///
    /// # Panics
    /// When it had ended before.
    pub fn kill(mut self) {
        let gone = self.child.try_wait().ok().flatten();
        assert!(gone.is_none(), "{} had ended by itself ({gone:?}); {}", self.name, self.tail());
        let _ = kill_process(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        // What it had started notices by itself; nothing may outlive the test all the same.
        self.wait_for_group();
    }

    /// SIGKILL to one that may have ended by itself, for want of a disk.
    pub fn put_down(mut self) {
        let _ = kill_process(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        self.wait_for_group();
    }

    /// `signal`, and its status once it ended by itself.
    ///
    /// # Panics
    /// When it has not after `within`.
    pub fn end_by(mut self, signal: Signal, within: Duration) -> ExitStatus {
        let _ = kill_process(self.pid(), signal);
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            assert!(began.elapsed() < within, "{} still runs {within:?} after {signal:?}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and its status.
    ///
    /// # Panics
    /// When it takes longer than a minute; what it may take by its own bounds is less.
    pub fn terminate(self) -> ExitStatus {
        self.end_by(Signal::TERM, Duration::from_secs(60))
    }

    /// Its resident set in bytes; `None` once it is gone.
    pub fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(self.id())
    }

    /// All that it has said so far.
    pub fn said(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    fn tail(&self) -> String {
        tail(&self.log)
    }

    fn wait_for_group(&self) {
        let began = Instant::now();
        while rustix::process::test_kill_process_group(self.pid()).is_ok() {
            if began.elapsed() > Duration::from_secs(10) {
                eprintln!("{}: what it had started outlived it by 10 s and is killed", self.name);
                let _ = kill_process_group(self.pid(), Signal::KILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("── {} said at last ({}):\n{}", self.name, self.log.display(), self.tail());
        }
    }
}

/// The resident set of a process in bytes; `None` once it is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS:")
}

/// What of it is memory of its own, not of files; bytes; `None` once it is gone.
pub fn anonymous_bytes(pid: u32) -> Option<u64> {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The processes whose parent is `pid`, of now.
pub fn children_of(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|p| {
        let stat = std::fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        after_name.split_whitespace().nth(1).and_then(|s| s.parse().ok()) == Some(pid)
    })
    .collect()
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|e| e.to_string())
}
