//! How the children are started: begun before anything is parsed, and waited for by the thread that owns them, so that a
//! disk that does not answer keeps nobody else from beginning.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::act::at_work::AtWork;
use crate::act::handle::{Executor, ExecutorError, Starting};
use crate::act::hold_line::HoldLine;
use crate::act::images::policy::ImagePolicy;
use crate::act::policy::Policy;
use crate::act::real_path::CleanupRoots;

/// How the executor is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its program: the agent's own.
    pub program: PathBuf,
    /// Arguments that lead to [`crate::act::executor::child_main`].
    pub args: Vec<OsString>,
    /// What it obeys.
    pub policy: Policy,
    /// The agent's state folder.
    pub state_dir: PathBuf,
    /// What it may not touch.
    pub holds: HoldLine,
    /// What the thread that owns them is at.
    pub at_work: AtWork,
    /// Kinds of secrets besides the built-in ones, and their patterns: what a record keeps of a log is masked.
    pub masks: Vec<(String, String)>,
    /// The other child, where images may go.
    pub images: Option<ImageLaunch>,
}

/// How the image keeper is started: by the same program.
#[derive(Debug, Clone)]
pub struct ImageLaunch {
    /// Arguments that lead to [`crate::act::images::child::child_main`].
    pub args: Vec<OsString>,
    /// What it obeys.
    pub policy: ImagePolicy,
    /// The host's root as it sees it.
    pub host_root: PathBuf,
}

/// The children, once they are ready.
#[derive(Debug)]
pub struct Children {
    /// The executor.
    pub executor: Result<Executor, ExecutorError>,
    /// The image keeper, where there is to be one.
    pub images: Option<Result<Executor, ExecutorError>>,
}

impl Launch {
    /// Starts both children, without waiting for them.
    pub fn begin(&self) -> Begun {
        Begun {
            executor: self.begin_executor(),
            images: self.images.as_ref().map(|i| self.begin_image_keeper(i)),
        }
    }

    pub(super) fn begin_executor(&self) -> Result<Starting, ExecutorError> {
        Starting::begin(&self.program, &self.args, self.policy.clone(), &self.state_dir)
    }

    pub(super) fn begin_image_keeper(&self, images: &ImageLaunch) -> Result<Starting, ExecutorError> {
        let policy = images.policy.clone();
        Starting::begin_image_keeper(&self.program, &images.args, policy, &self.state_dir, &images.host_root)
    }

    /// Waits for a child and tells it what is held.
    pub(super) fn ready(&self, begun: Result<Starting, ExecutorError>) -> Result<Executor, ExecutorError> {
        let child = begun?.ready()?;
        child.hold(&self.holds);
        Ok(child)
    }
}

/// The children, started before anything was parsed, and not waited for.
#[derive(Debug)]
pub struct Begun {
    executor: Result<Starting, ExecutorError>,
    images: Option<Result<Starting, ExecutorError>>,
}

impl Begun {
    /// The executor's process, if it was started.
    pub fn executor_pid(&self) -> Option<u32> {
        self.executor.as_ref().ok().map(Starting::pid)
    }

    /// Waits for both, at most a minute where disks do not answer, and tells them what `launch` says is held. `told` hears
    /// of the roots, as the executor found them; without one none can be used.
    pub fn ready(self, launch: &Launch, told: impl FnOnce(CleanupRoots)) -> Children {
        let executor = launch.ready(self.executor);
        told(match &executor {
            Ok(executor) => CleanupRoots::of(&executor.ready().roots),
            Err(_) => CleanupRoots {
                unusable: launch.policy.roots.iter().map(|r| r.path.clone()).collect(),
                ..CleanupRoots::default()
            },
        });
        Children { executor, images: self.images.map(|begun| launch.ready(begun)) }
    }
}
