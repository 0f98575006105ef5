//! The thread that owns the executor: takes jobs one at a time, starts the executor again when it ended.
//!
//! The core never waits for the executor; a job that cannot be done comes back as a result that says why.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{Action, Body, Seq};

use super::aside::Aside;
use super::handle::{Backoff, Executor, ExecutorError, look_after, recall};
use super::held_links::HeldAside;
use super::hold::HoldSet;
use super::hold_line::HoldLine;
use super::plan::Survey;
use super::policy::Policy;
use super::real_path::{Place, find_apart};
use super::witness::Witness;

/// A survey of a large log folder on a slow disk may take this long.
const SURVEY_WAIT: Duration = Duration::from_secs(45);
/// Linking aside what is held may take this long, with content that is kept for want of a link.
const ASIDE_WAIT: Duration = Duration::from_secs(60);
/// How often it is looked for new files under what is held: a rotation is seen before the next one, which may delete.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// A cleanup of a thousand large files may take this long.
const APPLY_WAIT: Duration = Duration::from_secs(540);

/// A path that a person named may take this long to be found: surveys and cleanups wait behind it.
const FIND_WAIT: Duration = Duration::from_secs(2);

/// What the executor is to do.
#[derive(Debug)]
pub enum Job {
    /// List what lies on a device.
    Survey {
        /// The mount that asks.
        mount: String,
        /// Its `st_dev`.
        device: u64,
    },
    /// What is held changed: link it aside, and let go of what is not held any more.
    Aside,
    /// Carry an action out. Its record is durable.
    Apply(Box<Action>),
    /// Look where a path really lies. It touches a disk, and may wait for it for a moment, so it is done here.
    Find {
        /// The command that asks.
        command: String,
        /// An absolute path of the host.
        path: PathBuf,
    },
}

/// What came of a job.
#[derive(Debug)]
pub enum Done {
    /// A survey, or why there is none.
    Surveyed {
        /// The mount that asked.
        mount: String,
        /// What was found.
        result: Result<Survey, String>,
    },
    /// What is kept aside for each hold, and for those that are over, what went.
    Aside(Vec<HeldAside>),
    /// An action that was carried out, or failed.
    Applied(Box<Action>),
    /// Push this to the evidence stream, of which the core is the only pusher, and say its seq.
    Keep {
        /// What.
        body: Box<Body>,
        /// Where the seq goes.
        seq: SyncSender<Seq>,
    },
    /// Where a path really lies.
    Found {
        /// The command that asked.
        command: String,
        /// The place, `None` where nothing is there; or why nobody can tell.
        result: Result<Option<Place>, String>,
    },
}

/// How the executor is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its program: the agent's own.
    pub program: PathBuf,
    /// Arguments that lead to [`super::executor::child_main`].
    pub args: Vec<OsString>,
    /// What it obeys.
    pub policy: Policy,
    /// The agent's state folder.
    pub state_dir: PathBuf,
    /// What it may not touch.
    pub holds: HoldLine,
}

impl Launch {
    /// Starts an executor and tells it what is held.
    ///
    /// # Errors
    /// [`ExecutorError`].
    pub fn start(&self) -> Result<Executor, ExecutorError> {
        let executor = Executor::spawn(&self.program, &self.args, self.policy.clone(), &self.state_dir)?;
        executor.hold(&self.holds);
        Ok(executor)
    }
}

/// Works until the sender of the jobs is gone. `first` is the executor that was started before anything was parsed;
/// `witness` keeps what it is about to remove.
pub fn run(
    launch: &Launch,
    first: Result<Executor, ExecutorError>,
    jobs: &Receiver<Job>,
    witness: Arc<dyn Witness>,
    done: impl Fn(Done),
    unable: impl Fn(Vec<String>),
) {
    let backoff = Backoff::default();
    let mut keeper = Keeper { launch, witness, executor: None, backoff, not_before: None };
    unable(keeper.take(first));
    let aside = Aside::new(FIND_WAIT);
    let mut swept = false;
    loop {
        let job = match jobs.recv_timeout(SWEEP_EVERY) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => {
                let held = matches!(&launch.holds.now().set, HoldSet::Known(holds) if !holds.is_empty());
                if swept && !held {
                    continue;
                }
                Job::Aside
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if let Job::Find { command, path } = job {
            let result = find_apart(&launch.holds.now().host_root, &path, &aside);
            done(Done::Found { command, result });
            continue;
        }
        if keeper.executor.as_mut().is_none_or(|e| !e.is_alive()) {
            unable(keeper.restart());
        }
        match job {
            Job::Survey { mount, device } => {
                let result = keeper.survey(device);
                done(Done::Surveyed { mount, result });
            }
            Job::Apply(action) => done(Done::Applied(Box::new(keeper.apply(*action)))),
            Job::Aside => {
                if let Some(aside) = keeper.aside() {
                    swept = true;
                    done(Done::Aside(aside));
                }
            }
            Job::Find { .. } => {}
        }
    }
}

struct Keeper<'a> {
    launch: &'a Launch,
    witness: Arc<dyn Witness>,
    executor: Option<Executor>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Keeper<'_> {
    fn take(&mut self, started: Result<Executor, ExecutorError>) -> Vec<String> {
        match started {
            Ok(mut executor) => {
                executor.witnessed_by(Arc::clone(&self.witness));
                let unable = executor.unable();
                for leftover in &executor.ready().leftovers {
                    tracing::warn!(?leftover, "an earlier cleanup was cut short");
                }
                self.executor = Some(executor);
                unable
            }
            Err(e) => {
                self.failed();
                tracing::error!(error = %e, "cleanup is off until the executor starts");
                vec![format!("clean up: {e}")]
            }
        }
    }

    fn restart(&mut self) -> Vec<String> {
        if self.not_before.is_some_and(|t| Instant::now() < t) {
            return vec!["clean up: the executor failed and is started again in a moment".to_owned()];
        }
        let started = self.launch.start();
        self.take(started)
    }

    fn failed(&mut self) {
        self.executor = None;
        self.not_before = Some(Instant::now() + self.backoff.delay(clock::now().boot_ns));
    }

    fn survey(&mut self, device: u64) -> Result<Survey, String> {
        let Some(executor) = self.executor.as_mut() else {
            return Err("the executor is not running".to_owned());
        };
        executor.survey(device, SURVEY_WAIT).map_err(|e| {
            if e.is_fatal() {
                self.failed();
            }
            e.to_string()
        })
    }

    fn aside(&mut self) -> Option<Vec<HeldAside>> {
        let may_release = self.launch.holds.is_durable();
        let executor = self.executor.as_mut()?;
        match executor.aside(may_release, ASIDE_WAIT) {
            Ok(aside) => Some(aside),
            Err(error) => {
                tracing::warn!(%error, "what is held could not be linked aside; it is tried again");
                if error.is_fatal() {
                    self.failed();
                }
                None
            }
        }
    }

    fn apply(&mut self, action: Action) -> Action {
        let mut action = action;
        let error = match self.executor.as_mut() {
            Some(executor) => match executor.apply(&action, APPLY_WAIT) {
                Ok(applied) => return applied,
                Err(e) => {
                    recall(&mut action, executor.seen());
                    e
                }
            },
            None => ExecutorError::Died(None),
        };
        if error.is_fatal() {
            self.failed();
        }
        look_after(&mut action, &error);
        action
    }
}
