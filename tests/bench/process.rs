//! Processes that are measured: started, their CPU time and memory read, and surely ended.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// After SIGTERM a process has this long before it is killed.
const GRACE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A process of this bench; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
}

/// This program, to be started again in the role of `words`.
pub(crate) fn again(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(words).stdin(Stdio::null());
    Ok(command)
}

/// The program `dogwatch-agent` as it is shipped, beside this one. Under cargo it is built first, by the profile of this
/// one and for itself, as the image does: a feature that only the bench or the collector switches on must not be measured
/// with it. Otherwise whoever starts this has built it.
pub(crate) fn shipped_agent() -> Result<PathBuf> {
    let bench = std::env::current_exe().context("finding this program")?;
    let folder = bench.parent().context("this program has no folder")?;
    let agent = folder.join("dogwatch-agent");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let profile = match folder.file_name().and_then(|n| n.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let mut build = Command::new(cargo);
        build.args(["build", "--package", "dogwatch-agent", "--profile", profile]);
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).status();
        let status = status.with_context(|| format!("starting {build:?}"))?;
        ensure!(status.success(), "{build:?} ended with {status}");
    }
    ensure!(
        agent.is_file(),
        "{} is not there; build it: cargo build --release -p dogwatch-agent",
        agent.display()
    );
    Ok(agent)
}

impl Running {
    /// Starts `command`. It is killed when this thread ends, however it ends, so call it from the main one.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from)
            });
        }
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it was given as `stdout(Stdio::piped())`.
    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends it `signal`.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("sending {signal:?}"))
    }

    /// Kills it without any warning.
    pub(crate) fn kill(mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Fails with its exit status if it ended.
    pub(crate) fn still_runs(&mut self, what: &str) -> Result<()> {
        let status = self.child.try_wait()?;
        ensure!(status.is_none(), "{what} ended: {status:?}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + GRACE;
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time that process `pid` has used, of all its threads, ended ones included; ns resolution.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    let id = libc::pid_t::try_from(pid)?;
    // SAFETY: the call writes one clockid_t through the pointer, which outlives it.
    let rc = unsafe { libc::clock_getcpuclockid(id, &raw mut clock) };
    ensure!(rc == 0, "the CPU clock of process {pid}: {}", io::Error::from_raw_os_error(rc));
    read_clock(clock).with_context(|| format!("reading the CPU clock of process {pid}"))
}

/// CPU time of the calling thread.
pub(crate) fn thread_time() -> Result<Duration> {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID).context("reading this thread's CPU clock")
}

fn read_clock(clock: libc::clockid_t) -> Result<Duration> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec through the pointer, which outlives it.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut t) };
    if rc != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(Duration::new(u64::try_from(t.tv_sec)?, u32::try_from(t.tv_nsec)?))
}

/// CPU time of the children of this process that ended and were waited for.
pub(crate) fn children_time() -> Result<Duration> {
    // SAFETY: all-zero bytes are a valid rusage, and getrusage(2) writes no more than one through the pointer.
    let (rc, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage), usage)
    };
    ensure!(rc == 0, "getrusage: {}", io::Error::last_os_error());
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// `VmRSS`, `RssAnon` and `RssFile` of process `pid`, bytes.
pub(crate) fn resident(pid: u32) -> Result<[u64; 3]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    };
    Ok([field("VmRSS:")?, field("RssAnon:")?, field("RssFile:")?])
}

/// Process ids of the children of `pid`.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for child in all()? {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        // The name may hold anything but ends at the last parenthesis; then come the state and the parent.
        let parent = stat.rsplit(')').next().and_then(|r| r.split_whitespace().nth(1));
        if parent.and_then(|p| p.parse().ok()) == Some(pid) {
            found.push(child);
        }
    }
    Ok(found)
}

/// Every process id.
pub(crate) fn all() -> Result<Vec<u32>> {
    let names = std::fs::read_dir("/proc")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    Ok(names.collect())
}

/// Gives this process and those that it starts mounts of their own, which end with the last of them.
pub(crate) fn own_mounts() -> Result<()> {
    // SAFETY: no memory is shared with the call; it must come before threads are started, which main sees to.
    let rc = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    ensure!(rc == 0, "unshare: {}", io::Error::last_os_error());
    let flags = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).context("making mounts private")
}

/// Waits until `ready` gives something, at most `patience`.
pub(crate) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        ensure!(Instant::now() < until, "{what} did not happen within {} s", patience.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    }
}
