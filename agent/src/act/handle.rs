//! The agent's hand on its executor: starts it, asks it, notices when it dies or hangs.
//!
//! Calls block up to their deadline; whoever drives this from tokio does so from a thread of its own. After an error of
//! [`ExecutorError::is_fatal`] the executor is killed and of no further use: start another one, after
//! [`Backoff::delay`].
//!
//! Invariants
//! - One request at a time; a reply to another request is a protocol error.
//! - The child is started by, and belongs to, a thread that lives as long as the child: the kernel ends a child with
//!   `PR_SET_PDEATHSIG` when the *thread* that started it ends. That thread reaps it too.
//!
//! Deliberately absent: any trust in what the parent says — the executor judges for itself.

mod aftermath;
mod naming;
mod starting;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::process::Command;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use dogwatch::record::{Action, FileSeen, PlannedObject};
use dogwatch::wire;
use dogwatch::wire::executor_reply::Reply;
use dogwatch::wire::executor_request::Request;
use prost::Message;
use rustix::process::{Signal, pidfd_send_signal};

use super::aside::Aside;
use super::channel::{Channel, ChannelError};
use super::executor::{PARTIAL, Ready, Restored};
use super::held_links::Step;
use super::hold_line::HoldLine;
use super::ledger::Spending;
use super::mounted;
use super::plan::Survey;
use super::policy::Policy;
use super::wire::{
    action_from_wire, action_to_wire, aside_from_wire, candidate_from_wire, refusals_from_wire,
    restored_from_wire, spent_request, stays_to_wire,
};
use super::witness::{Verdict, Witness};
pub use aftermath::look_after;
use starting::Process;
pub use starting::Starting;

/// The descriptor at which a child that [`Executor::spawn`] starts finds its socket: standard input.
pub const CHILD_SOCKET: i32 = 0;
/// Longest until it takes what it is told right after its start: it has nothing else to do.
const MAX_TELL: Duration = Duration::from_secs(10);
/// Longest wait for a killed child; one that hangs in the kernel is left to its thread.
const MAX_END: Duration = Duration::from_secs(2);
/// The same for one that closed its channel, and so ends by itself: it hangs nowhere, and how it ended is worth to know.
const MAX_OWN_END: Duration = Duration::from_secs(10);
/// Longest look for whoever has a file open: it is for people alone, and the next job waits for it.
pub(super) const NAMED_WITHIN: Duration = Duration::from_secs(2);
/// Most bytes taken of the messages of one survey, far above what an honest executor sends: it has a bound on what it finds,
/// which is less in a message, and tails of live logs and images come besides.
const MAX_SURVEYED_BYTES: usize = 16 << 20;

/// Why the executor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// It cannot be started.
    #[error("the executor {program} cannot be started: {source}")]
    Start {
        /// Its program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended.
    #[error("the executor ended{}", .0.map(|s| format!(" ({s})")).unwrap_or_default())]
    Died(Option<ExitStatus>),
    /// It did not answer in time, and was killed.
    #[error("the executor did not answer within {} s and was killed", .0.as_secs())]
    Hung(Duration),
    /// It spoke nonsense, and was killed.
    #[error("the executor broke the protocol and was killed: {0}")]
    Protocol(String),
    /// It refused, in its words.
    #[error("the executor refused: {0}")]
    Refused(String),
}

impl ExecutorError {
    /// Whether the executor is gone and another one must be started.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// A running executor. Dropping it kills the child.
#[derive(Debug)]
pub struct Executor {
    channel: Arc<Channel>,
    ready: Ready,
    pidfd: OwnedFd,
    ended: Receiver<ExitStatus>,
    status: Option<ExitStatus>,
    next_id: u64,
    witness: Option<Arc<dyn Witness>>,
    seen: Vec<PlannedObject>,
    /// Whether the last action may have been begun.
    begun: bool,
    /// By whom it is looked who has files open.
    aside: Aside,
}

impl Executor {
    fn new(channel: Channel, process: Process, ended: Receiver<ExitStatus>) -> Self {
        let Process { pid, pidfd } = process;
        let ready = Ready::unknown(pid);
        let (channel, witness, seen) = (Arc::new(channel), None, Vec::new());
        let aside = Aside::new(NAMED_WITHIN);
        Self { channel, ready, pidfd, ended, status: None, next_id: 1, witness, seen, begun: false, aside }
    }

    /// Starts `program` with `args` (which must lead to [`super::executor::child_main`] on [`CHILD_SOCKET`]), hands it
    /// `policy` and waits until it is ready. `state_dir` is the agent's own state folder, which is out of its reach.
    pub fn spawn(
        program: &Path,
        args: &[OsString],
        policy: Policy,
        state_dir: &Path,
    ) -> Result<Self, ExecutorError> {
        Starting::begin(program, args, policy, state_dir)?.ready()
    }

    /// Tells it what `holds` says is held, now and at every change; until then it removes nothing.
    pub fn hold(&self, holds: &HoldLine) {
        holds.attach(Arc::clone(&self.channel));
    }

    /// Has `witness` keep what it is about to remove; until then it removes nothing.
    pub fn witnessed_by(&mut self, witness: Arc<dyn Witness>) {
        self.witness = Some(witness);
    }

    /// Has holders of files looked for by `aside`, for as long as that waits; it shares the looks that were left behind.
    pub fn looks_by(&mut self, aside: Aside) {
        self.aside = aside;
    }

    /// Tells it what was spent of the hourly budgets before it was started; to be said before anything is asked of it.
    ///
    /// # Errors
    /// [`ExecutorError`]; one that was not told is of no use.
    pub fn spent(&mut self, spent: &[Spending]) -> Result<(), ExecutorError> {
        let deadline = Instant::now() + MAX_TELL;
        self.channel.send(&spent_request(spent), Some(deadline)).map_err(|e| self.fail(e, MAX_TELL))
    }

    /// How it stands: process, confinement, roots.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// What it cannot do, in words, for the node's status; empty if all is well.
    pub fn unable(&self) -> Vec<String> {
        let mut unable: Vec<String> =
            self.ready.unable.iter().map(|why| format!("cleanup is off: {why}")).collect();
        if self.ready.unable.is_none() {
            let said = |(root, why): (&Path, &str)| format!("cleanup root {}: {why}", root.display());
            unable.extend(self.ready.unusable().map(said));
        }
        unable.extend(
            self.ready.confinement.lacks.iter().map(|l| format!("executor is not fully confined: {l}")),
        );
        unable
    }

    /// Whether it still runs, as far as is known.
    pub fn is_alive(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.ended.try_recv().ok();
        }
        self.status.is_none() && !self.channel.is_closed()
    }

    /// Lists the candidates beneath the roots on `device`.
    pub fn survey(&mut self, device: u64, deadline: Duration) -> Result<Survey, ExecutorError> {
        let id = self.ask(Request::Survey(wire::Survey { device }), deadline)?;
        let until = Instant::now() + deadline;
        let (mut survey, mut bytes) = (Survey::default(), 0);
        loop {
            let part = match self.hear(id, until, deadline)? {
                Reply::Part(part) => part,
                Reply::Error(why) => return Err(ExecutorError::Refused(why)),
                _ => return Err(self.nonsense("something else in answer to a survey".to_owned())),
            };
            bytes += part.encoded_len();
            if bytes > MAX_SURVEYED_BYTES {
                return Err(self.nonsense(format!("a survey of more than {MAX_SURVEYED_BYTES} bytes")));
            }
            for candidate in part.candidates {
                let candidate = candidate_from_wire(candidate).map_err(|e| self.nonsense(e.to_string()))?;
                survey.candidates.push(candidate);
            }
            let passed_over =
                refusals_from_wire(part.passed_over).map_err(|e| self.nonsense(e.to_string()))?;
            for refusal in passed_over {
                match (&refusal.path, refusal.reason.strip_prefix(PARTIAL)) {
                    (None, Some(why)) => survey.partial = Some(why.to_owned()),
                    _ => survey.passed_over.push(refusal),
                }
            }
            if part.last {
                mounted::pass_over(&mut survey);
                return Ok(survey);
            }
        }
    }

    /// Carries out `action`; what comes back has every object's outcome and the freed bytes. Holders of files that were
    /// open are named where this process can see them, within a moment.
    pub fn apply(&mut self, action: &Action, deadline: Duration) -> Result<Action, ExecutorError> {
        self.apply_told(action, deadline, &|_, _| ())
    }

    /// The same; `told` is called now and then with how many objects are done, and what that freed in bytes.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn apply_told(
        &mut self,
        action: &Action,
        deadline: Duration,
        told: &dyn Fn(u64, u64),
    ) -> Result<Action, ExecutorError> {
        let plan = wire::Apply { plan: Some(action_to_wire(action)) };
        self.seen.clear();
        self.begun = false;
        let id = self.ask(Request::Apply(plan), deadline)?;
        self.begun = true;
        let until = Instant::now() + deadline;
        let reply = loop {
            match self.hear(id, until, deadline)? {
                Reply::Seen(seen) => self.keep(id, Some(&action.id), seen, until, deadline)?,
                Reply::Progress(so_far) => told(so_far.objects_done, so_far.freed_bytes),
                other => break other,
            }
        };
        match reply {
            Reply::Applied(applied) => {
                let mut applied = action_from_wire(applied).map_err(|e| self.nonsense(e.to_string()))?;
                if applied.id != action.id || applied.objects.len() != action.objects.len() {
                    return Err(self.nonsense("another action than the one that was asked for".to_owned()));
                }
                naming::name_holders(&mut applied, Path::new("/proc"), self.ready.pid, &self.aside);
                Ok(applied)
            }
            Reply::Error(why) => {
                // It says so before it begins; what it had recorded before, it had begun.
                self.begun = !self.seen.is_empty();
                Err(ExecutorError::Refused(why))
            }
            _ => Err(self.nonsense("something else in answer to an action".to_owned())),
        }
    }

    /// Has it go a step on with linking aside what is held; where `may_release`, what is not held any more is let go of.
    pub fn aside(&mut self, may_release: bool, deadline: Duration) -> Result<Step, ExecutorError> {
        let id = self.ask(Request::Aside(wire::Aside { may_release }), deadline)?;
        let until = Instant::now() + deadline;
        loop {
            match self.hear(id, until, deadline)? {
                Reply::Seen(seen) => self.keep(id, None, seen, until, deadline)?,
                Reply::Aside(done) => {
                    let more = done.more;
                    let holds = aside_from_wire(done.holds).map_err(|e| self.nonsense(e.to_string()))?;
                    return Ok(Step { holds, more });
                }
                Reply::Error(why) => return Err(ExecutorError::Refused(why)),
                _ => return Err(self.nonsense("something else in answer to what is held".to_owned())),
            }
        }
    }

    /// Has it go a step on with putting back what earlier executors left in quarantine.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn restore(&mut self, deadline: Duration) -> Result<Restored, ExecutorError> {
        let id = self.ask(Request::Restore(wire::Restore {}), deadline)?;
        match self.hear(id, Instant::now() + deadline, deadline)? {
            Reply::Restored(step) => Ok(restored_from_wire(step)),
            Reply::Error(why) => Err(ExecutorError::Refused(why)),
            _ => Err(self.nonsense("something else in answer to what was left in quarantine".to_owned())),
        }
    }

    /// Objects of the last action that were recorded before they would go, with their digests.
    pub fn seen(&self) -> &[PlannedObject] {
        &self.seen
    }

    /// Whether something may have become of the last action, where it brought no outcome: `false` where its request was not
    /// sent, or was refused.
    pub fn may_have_begun(&self) -> bool {
        self.begun
    }

    /// Has what the executor saw kept, for an action or for holds, and answers.
    fn keep(
        &mut self,
        id: u64,
        action: Option<&str>,
        seen: wire::FileSeen,
        until: Instant,
        deadline: Duration,
    ) -> Result<(), ExecutorError> {
        let seen = FileSeen::try_from(seen).map_err(|e| self.nonsense(e.to_string()))?;
        // Holds that are over are known by their links alone.
        if !action.map_or_else(|| seen.cause.starts_with("hold-"), |id| seen.cause == id) {
            return Err(self.nonsense("files of another action than the one that was asked for".to_owned()));
        }
        let objects = seen.objects.clone();
        let mut stays = Vec::new();
        let kept = match &self.witness {
            Some(witness) => witness.keep(seen),
            None => Err("this agent keeps no record".to_owned()),
        };
        let said = match kept {
            Ok(verdict) => {
                if action.is_some() {
                    stays = stays_to_wire(mounted::which_stay(&objects));
                }
                self.seen.extend(objects);
                let digest_suffices = verdict == Verdict::DigestSuffices;
                wire::Witnessed { refused: String::new(), digest_suffices, stays }
            }
            Err(why) => wire::Witnessed { refused: why, digest_suffices: false, stays },
        };
        let message = wire::ExecutorRequest { id, request: Some(Request::Witnessed(said)) }.encode_to_vec();
        self.channel.send(&message, Some(until)).map_err(|e| self.fail(e, deadline))
    }

    /// Kills it and waits a moment for its end.
    pub fn stop(mut self) -> Option<ExitStatus> {
        self.end()
    }

    fn ask(&mut self, request: Request, deadline: Duration) -> Result<u64, ExecutorError> {
        let id = self.next_id;
        self.next_id += 1;
        let message = wire::ExecutorRequest { id, request: Some(request) }.encode_to_vec();
        let until = Instant::now() + deadline;
        self.channel.send(&message, Some(until)).map_err(|e| self.fail(e, deadline))?;
        Ok(id)
    }

    fn hear(&mut self, id: u64, until: Instant, deadline: Duration) -> Result<Reply, ExecutorError> {
        let reply = self.channel.receive(Some(until)).map_err(|e| self.fail(e, deadline))?;
        let reply = wire::ExecutorReply::decode(reply.as_slice())
            .map_err(|e| self.nonsense(format!("reply: {e}")))?;
        match reply {
            wire::ExecutorReply { id: of, reply: Some(reply) } if of == id => Ok(reply),
            other => Err(self.nonsense(format!("a reply to request {} instead of {id}", other.id))),
        }
    }

    fn fail(&mut self, error: ChannelError, deadline: Duration) -> ExecutorError {
        let status = self.end();
        match error {
            ChannelError::Closed => ExecutorError::Died(status),
            ChannelError::Late => ExecutorError::Hung(deadline),
            other => ExecutorError::Protocol(other.to_string()),
        }
    }

    fn nonsense(&mut self, what: String) -> ExecutorError {
        self.end();
        ExecutorError::Protocol(what)
    }

    fn end(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let most = if self.channel.is_closed() { MAX_OWN_END } else { MAX_END };
            // It may have just ended by itself; then there is nobody to kill and its own status counts.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            match self.ended.recv_timeout(most) {
                Ok(status) => self.status = Some(status),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        self.status
    }
}

#[cfg(test)]
impl Executor {
    /// One at the other end of `channel` of which somebody else speaks.
    pub(super) fn spoken_for(channel: Channel) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600");
        let (process, ended) = starting::start(command).unwrap();
        Self::new(channel, process, ended)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes into `action` the digests of what was recorded before it would go, where no outcome brought them.
pub fn recall(action: &mut Action, seen: &[PlannedObject]) {
    for object in &mut action.objects {
        let known = |s: &&PlannedObject| s.path == object.path && s.inode == object.inode;
        if let Some(seen) = seen.iter().find(known).filter(|_| object.sha256.is_none()) {
            object.sha256 = seen.sha256;
            object.digest_partial = seen.digest_partial;
            object.preserved_bytes = seen.preserved_bytes;
        }
    }
}

/// How long to wait before an executor is started again: doubling from 1 s to 60 s, forgotten after 10 quiet minutes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
    last_boot_ns: u64,
}

impl Backoff {
    /// Notes a failure at `now_boot_ns` and gives the wait.
    pub fn delay(&mut self, now_boot_ns: u64) -> Duration {
        const QUIET_NS: u64 = 600 * 1_000_000_000;
        if now_boot_ns.saturating_sub(self.last_boot_ns) > QUIET_NS {
            self.failures = 0;
        }
        self.last_boot_ns = now_boot_ns;
        let wait = Duration::from_secs(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        wait.min(Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_wait_longer_each_time_and_forget_after_quiet() {
        let mut backoff = Backoff::default();
        let second = 1_000_000_000;
        let waits: Vec<u64> = (1..=8).map(|n| backoff.delay(n * second).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.delay(1_000 * second).as_secs(), 1);
    }
}
