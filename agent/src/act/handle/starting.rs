//! A child's start, in two halves: begun at once, so that nothing hostile is parsed before, and waited for by whoever needs
//! it. What the child opens may lie on a disk that does not answer.
//!
//! Invariant: the child belongs to a thread that lives as long as it does, and reaps it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::{Executor, ExecutorError, MAX_TELL};
use crate::act::channel::Channel;
use crate::act::executor::Setup;
use crate::act::images::ImageSetup;
use crate::act::images::policy::ImagePolicy;
use crate::act::policy::Policy;

/// Longest from start to ready: opening roots.
const MAX_START: Duration = Duration::from_secs(30);

/// An executor that was started and has not said that it is ready: what it opens may be on a disk that does not answer.
#[derive(Debug)]
pub struct Starting(Executor);

impl Starting {
    /// What [`Executor::spawn`] does, but for waiting.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn begin(
        program: &Path,
        args: &[OsString],
        policy: Policy,
        state_dir: &Path,
    ) -> Result<Self, ExecutorError> {
        Self::begin_with(program, args, &Setup::new(policy, state_dir.to_owned()))
    }

    /// The same for the image keeper (`args` lead to [`super::images::child::child_main`]), which sees the host through
    /// `host_root`.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn begin_image_keeper(
        program: &Path,
        args: &[OsString],
        policy: ImagePolicy,
        state_dir: &Path,
        host_root: &Path,
    ) -> Result<Self, ExecutorError> {
        let setup = ImageSetup::new(policy, state_dir.to_owned(), host_root.to_owned());
        Self::begin_with(program, args, &setup)
    }

    fn begin_with(program: &Path, args: &[OsString], setup: &impl Serialize) -> Result<Self, ExecutorError> {
        let failed = |source: io::Error| ExecutorError::Start { program: program.to_owned(), source };
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(args).env_clear().stdin(Stdio::from(theirs)).stdout(Stdio::null());
        let (process, ended) = start(command).map_err(failed)?;
        let mut executor = Executor::new(channel, process, ended);
        let setup = serde_json::to_vec(setup).map_err(|e| failed(io::Error::other(e)))?;
        // As a rule it fits the socket, so that nobody waits for it to be read.
        let deadline = Instant::now() + MAX_TELL;
        executor.channel.send(&setup, Some(deadline)).map_err(|e| executor.fail(e, MAX_TELL))?;
        Ok(Self(executor))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.ready.pid
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn ready(self) -> Result<Executor, ExecutorError> {
        let Self(mut executor) = self;
        let deadline = Instant::now() + MAX_START;
        let ready = executor.channel.receive(Some(deadline)).map_err(|e| executor.fail(e, MAX_START))?;
        executor.ready =
            serde_json::from_slice(&ready).map_err(|e| executor.nonsense(format!("status: {e}")))?;
        Ok(executor)
    }
}

/// A child that runs: its number, and a descriptor of it.
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
}

/// Starts a child from a thread that lives as long as the child and reaps it.
pub(super) fn start(mut command: Command) -> io::Result<(Process, Receiver<ExitStatus>)> {
    let (started_tx, started) = sync_channel(1);
    let (ended_tx, ended) = sync_channel(1);
    std::thread::Builder::new().name("executor-keeper".to_owned()).stack_size(128 << 10).spawn(
        move || {
            let child = command.spawn();
            // The command holds our copy of the child's socket; as long as it is open, the child's end never shows.
            drop(command);
            let mut child = match child {
                Ok(child) => child,
                Err(error) => {
                    let _ = started_tx.send(Err(error));
                    return;
                }
            };
            // Not reaped yet: the number still names this child.
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pidfd = pid
                .ok_or(io::ErrorKind::InvalidData.into())
                .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from));
            if pidfd.is_err() {
                let _ = child.kill();
            }
            let _ = started_tx.send(pidfd.map(|pidfd| Process { pid: child.id(), pidfd }));
            if let Ok(status) = child.wait() {
                let _ = ended_tx.send(status);
            }
        },
    )?;
    let process = started.recv().map_err(|_| io::Error::other("its thread ended"))??;
    Ok((process, ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_its_name() {
        let error =
            Executor::spawn(Path::new("/nowhere/x"), &[], Policy::off(), Path::new("/s")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/x"), "{error}");
        assert!(error.is_fatal());
    }

    #[test]
    fn nobody_waits_for_one_that_does_not_get_ready_but_who_asks_for_that() {
        let began = Instant::now();
        let args = ["600".into()];
        let starting =
            Starting::begin(Path::new("/bin/sleep"), &args, Policy::off(), Path::new("/s")).unwrap();
        assert!(began.elapsed() < MAX_START / 3, "{:?}", began.elapsed());
        let pid = starting.pid();
        // A new process has its parent's name until it runs the program.
        let name = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        while name() != "sleep\n" {
            assert!(began.elapsed() < MAX_START, "it is {}", name());
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(starting);
        // Its thread reaps it when it gets a CPU.
        let killed = Instant::now();
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(killed.elapsed() < Duration::from_secs(60), "killed and reaped");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_program_that_is_no_executor_is_noticed() {
        let error = Executor::spawn(Path::new("/bin/true"), &[], Policy::off(), Path::new("/s")).unwrap_err();
        assert!(matches!(error, ExecutorError::Died(_)), "{error}");
    }
}
