//! The thread that owns the executor and the image keeper: takes jobs one at a time, starts a child again when it ended.
//!
//! The core never waits for the executor; a job that cannot be done comes back as a result that says why.

mod closing;
mod launch;
mod roots_again;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{Action, ActionState, Body, ObjectOutcome, Refusal, Seq};

use super::aside::Aside;
use super::clock_file;
use super::handle::{Backoff, Executor, ExecutorError, NAMED_WITHIN, look_after, recall};
use super::held_links::Step;
use super::hold::HoldSet;
use super::ledger::{Ledger, Source, Spending};
use super::leftovers::{Back, Leftover};
use super::live::mask_tail;
use super::plan::Survey;
use super::policy::Rules;
use super::real_path::{Place, find_apart};
use super::shares;
use super::turn::Turn;
use super::unfinished::Unfinished;
use super::witness::Witness;
use crate::tail::mask::Masker;
use closing::Closing;
pub use launch::{Begun, Children, ImageLaunch, Launch};
use roots_again::RootsAgain;

/// A survey of a large log folder on a slow disk may take this long.
const SURVEY_WAIT: Duration = Duration::from_secs(120);
/// A step of a sweep for what is held may take this long: it ends after half a second, or with the file that it reads.
const ASIDE_WAIT: Duration = Duration::from_secs(60);
/// A step of putting back what was left in quarantine may take this long: it ends two seconds after its first folder.
const RESTORE_WAIT: Duration = Duration::from_secs(60);
/// Between two of those steps while nothing else is to be done.
const RESTORE_PAUSE: Duration = Duration::from_millis(250);
/// Before anything else is done, quarantines are emptied for this long where an earlier run's cleanup is to get its end.
const RESTORE_FIRST: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });
/// A cleanup may take this long before its child counts as hung. Far longer than it gives itself (120 s, images 300 s, and
/// what it began by then): only a disk or a runtime that does not answer gets there.
const APPLY_WAIT: Duration = Duration::from_secs(540);

/// What a cleanup left that did not come to its end may take this long to be looked at: surveys and cleanups wait behind it.
const OUTCOME_WAIT: Duration = Duration::from_secs(10);
/// A path that a person named may take this long to be found: surveys and cleanups wait behind it.
const FIND_WAIT: Duration = Duration::from_secs(2);

/// How far an action is that is being carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The action's id.
    pub action_id: String,
    /// Objects that it names.
    pub objects: u64,
    /// Of those, what is known of the outcome.
    pub objects_done: u64,
    /// Bytes that this freed so far.
    pub freed_bytes: u64,
}

/// What the executor is to do.
#[derive(Debug)]
pub enum Job {
    /// List what lies on a device.
    Survey {
        /// The mount that asks.
        mount: String,
        /// Its filesystem, as the table of mounts numbers it.
        device: u64,
    },
    /// What is held changed: link it aside, and let go of what is not held any more.
    Aside,
    /// Carry an action out. Its record is durable.
    Apply(Box<Action>),
    /// Look what became of an action of an earlier run. What quarantines hold is put back by then, where there is an executor,
    /// that does not take some minutes, and no other action is to be carried out first.
    Close(Box<Unfinished>),
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
    /// What a step of the sweep says of what is kept aside for holds.
    Aside(Step),
    /// How far an action is.
    Progress(Progress),
    /// An action that was carried out, or failed.
    Applied(Box<Action>),
    /// What became of an action of an earlier run; to be recorded.
    Closed(Box<Action>),
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

/// Works until the sender of the jobs is gone. `first` are the children that were started before anything was parsed;
/// `witness` keeps what files are about to go; `spent` is what earlier runs spent of the hourly budgets.
pub fn run(
    launch: &Launch,
    first: Children,
    spent: Ledger,
    jobs: &Receiver<Job>,
    witness: Arc<dyn Witness>,
    done: impl Fn(Done),
    unable: impl Fn(Vec<String>),
) {
    let clock_kept = clock_file::start(&launch.state_dir);
    if let Err(error) = &clock_kept {
        tracing::warn!(%error, "how the clock stands cannot be kept over a restart");
    }
    // The executor, which has the same one, says what is wrong with it.
    let rules = Rules::new(launch.policy.clone()).unwrap_or_else(|_| Rules::nothing());
    let spent = RefCell::new(spent);
    let start = Box::new(|| told(launch.ready(launch.begin_executor())?, &spent, Source::is_of_files));
    let first_told = first.executor.and_then(|e| told(e, &spent, Source::is_of_files));
    let aside = Aside::new(FIND_WAIT);
    // Of their own: what is left behind on a dead share must not keep outcomes on other disks from being told.
    let outcomes = Aside::new(OUTCOME_WAIT);
    let mut files = Keeper::new("clean up", start, first_told, Some(Arc::clone(&witness)), &aside);
    let mut images = launch.images.as_ref().zip(first.images).map(|(how, first)| {
        let images = |keeper| told(keeper, &spent, |source| source == Source::Images);
        let start = Box::new(move || images(launch.ready(launch.begin_image_keeper(how))?));
        Keeper::new("remove images", start, first.and_then(images), None, &aside)
    });
    let tell = |files: &Keeper<'_>, images: &Option<Keeper<'_>>| {
        let of_images = images.iter().flat_map(|i| i.unable.iter().cloned());
        unable(files.unable.iter().cloned().chain(files.roots.said()).chain(of_images).collect());
    };
    tell(&files, &images);
    let mut turn = Turn::new(Instant::now());
    let mut closing = Closing::default();
    let close = |closing: &mut Closing, back: &HashSet<Back>| {
        for unfinished in closing.all() {
            let closed = unfinished.close_apart(back, &outcomes);
            tracing::warn!(action = closed.id, mount = closed.mount, "{}", closed.detail);
            done(Done::Closed(Box::new(closed)));
        }
    };
    loop {
        let now = Instant::now();
        let job = match jobs.recv_timeout(turn.wait(now).min(files.restores_in(now)).min(closing.wait(now))) {
            Ok(Job::Find { command, path }) => {
                let result = find_apart(&launch.holds.now().host_root, &path, &aside);
                done(Done::Found { command, result });
                None
            }
            Ok(Job::Aside) => {
                turn.ask();
                None
            }
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let held = || matches!(&launch.holds.now().set, HoldSet::Known(holds) if !holds.is_empty());
        let sweeps = turn.is_due(Instant::now(), held());
        let restores = files.restores_in(Instant::now()).is_zero();
        let closes = closing.wait(Instant::now()).is_zero();
        if job.is_none() && !sweeps && !restores && !closes {
            continue;
        }
        let _at_work = launch.at_work.begin(said(job.as_ref()));
        let starts = files.starts;
        let again = files.revive() | images.as_mut().is_some_and(Keeper::revive);
        let roots = matches!(job, Some(Job::Survey { .. })) && files.wants_roots_again();
        if roots {
            files.open_roots_again();
        }
        if again || roots {
            tell(&files, &images);
        }
        if files.starts != starts {
            // What was linked beneath a root that could not be used is still to be let go of.
            turn.ask();
        }
        let lost = files.roots.said();
        match job {
            Some(Job::Survey { mount, device }) => {
                let found = files.survey(device).and_then(|found| masked(found, &launch.masks));
                let found =
                    found.map(|found| Survey { preserve: witness.preserve_left().map(Box::new), ..found });
                let result = shares::found(found, images.as_mut().map(|i| i.survey(device)));
                done(Done::Surveyed { mount, result });
            }
            Some(Job::Apply(action)) => {
                close(&mut closing, &files.back);
                let mut shared = Vec::new();
                if let Some(share) = shares::files(&action) {
                    let (action_id, objects) = (&action.id, action.objects.len() as u64);
                    let told = |objects_done, freed_bytes| {
                        let action_id = action_id.clone();
                        let now = Progress { action_id, objects, objects_done, freed_bytes };
                        done(Done::Progress(now));
                    };
                    shared.push(files.apply(share, &told));
                }
                if let Some(share) = shares::images(&action) {
                    shared.push(match &mut images {
                        Some(images) => images.apply_images(share),
                        None => not_here(share),
                    });
                }
                let applied = shares::joined(*action, shared);
                spent.borrow_mut().note_action(&applied, &rules, clock::now().boot_ns);
                done(Done::Applied(Box::new(applied)));
            }
            Some(Job::Close(unfinished)) => {
                if closing.take(*unfinished, Instant::now()) {
                    files.restore(RESTORE_FIRST);
                }
            }
            Some(Job::Aside | Job::Find { .. }) | None => {}
        }
        if files.roots.said() != lost {
            tell(&files, &images);
        }
        if restores {
            files.restore(Duration::ZERO);
        }
        if closes || files.restores_at.is_none() {
            close(&mut closing, &files.back);
        }
        if sweeps {
            let may_release = launch.holds.is_durable();
            let step = files.aside(may_release);
            turn.stepped(Instant::now(), step.as_ref().map(|s| s.more), may_release);
            if let Some(step) = step {
                done(Done::Aside(step));
            }
        }
    }
}

/// What the thread is at, in words.
fn said(job: Option<&Job>) -> String {
    match job {
        Some(Job::Survey { mount, .. }) => format!("the look at what may go on {mount}"),
        Some(Job::Apply(action)) => format!("the cleanup {} of {}", action.id, action.mount),
        Some(Job::Close(_)) => "the look at what an earlier run's cleanup left".to_owned(),
        Some(Job::Aside | Job::Find { .. }) | None => "the care for what is held or was left".to_owned(),
    }
}

/// A child that was told what was spent before it, as far as that concerns it.
fn told(
    mut child: Executor,
    spent: &RefCell<Ledger>,
    concerns: impl Fn(Source) -> bool,
) -> Result<Executor, ExecutorError> {
    let mut spent = spent.borrow_mut();
    let of_it = spent.of_the_hour(clock::now().boot_ns).filter(|s| concerns(s.source));
    let of_it: Vec<Spending> = of_it.copied().collect();
    child.spent(&of_it)?;
    Ok(child)
}

/// Masks what a survey brings of logs' content, before anybody records it.
fn masked(mut survey: Survey, masks: &[(String, String)]) -> Result<Survey, String> {
    let mut tails: Vec<_> =
        survey.candidates.iter_mut().filter_map(|c| Some(&mut c.object.cut.as_mut()?.tail)).collect();
    if !tails.is_empty() {
        let mut masker = Masker::new(masks).map_err(|e| e.to_string())?;
        for tail in &mut tails {
            mask_tail(tail, |line| {
                masker.mask(line);
            });
        }
    }
    Ok(survey)
}

/// Images are in a plan of this agent's only while it has a keeper for them.
fn not_here(share: Action) -> Action {
    untouched(share, "cleanup.images.mode is off".to_owned())
}

/// A share that nobody began, for this `reason`: it has spent nothing.
fn untouched(mut share: Action, reason: String) -> Action {
    share.state = ActionState::Refused;
    share.refused.push(Refusal { path: None, reason });
    share
}

/// Keeps one child alive.
struct Keeper<'a> {
    /// What is not done without it.
    what: &'static str,
    start: Box<dyn Fn() -> Result<Executor, ExecutorError> + 'a>,
    executor: Option<Executor>,
    /// Who keeps what it is about to remove.
    witness: Option<Arc<dyn Witness>>,
    /// What it cannot do, in words.
    unable: Vec<String>,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// How often it was started.
    starts: u64,
    /// What became of its roots since.
    roots: RootsAgain,
    /// What went back from quarantine: each has a bound of entries.
    back: HashSet<Back>,
    /// Why the last step of a sweep failed, if it did.
    no_sweep: Option<String>,
    /// When the next step of putting back what was left in quarantine is due, where there may be more.
    restores_at: Option<Instant>,
    /// Who looks at what may not answer.
    aside: Aside,
}

impl<'a> Keeper<'a> {
    fn new(
        what: &'static str,
        start: Box<dyn Fn() -> Result<Executor, ExecutorError> + 'a>,
        first: Result<Executor, ExecutorError>,
        witness: Option<Arc<dyn Witness>>,
        aside: &Aside,
    ) -> Self {
        let backoff = Backoff::default();
        let mut keeper = Self {
            what,
            start,
            executor: None,
            witness,
            unable: Vec::new(),
            backoff,
            not_before: None,
            starts: 0,
            roots: RootsAgain::new(Instant::now()),
            back: HashSet::new(),
            no_sweep: None,
            restores_at: None,
            aside: aside.clone(),
        };
        keeper.unable = keeper.take(first);
        keeper
    }

    fn take(&mut self, started: Result<Executor, ExecutorError>) -> Vec<String> {
        self.roots.opened(Instant::now());
        match started {
            Ok(mut executor) => {
                self.starts += 1;
                executor.looks_by(self.aside.waiting(NAMED_WITHIN));
                if let Some(witness) = &self.witness {
                    executor.witnessed_by(Arc::clone(witness));
                }
                let unable = executor.unable();
                for (root, why) in self.roots.news_of(executor.ready()) {
                    tracing::warn!(root = %root.display(), %why, "nothing is cleaned beneath this root");
                }
                // The image keeper has no quarantine.
                self.restores_at = self.witness.is_some().then(Instant::now);
                self.executor = Some(executor);
                unable
            }
            Err(e) => {
                self.failed();
                tracing::error!(error = %e, what = self.what, "this is not done until the child starts");
                vec![format!("{}: {e}", self.what)]
            }
        }
    }

    /// How long until the next step of putting back what was left in quarantine; very long, where there is none.
    fn restores_in(&self, now: Instant) -> Duration {
        let running = self.restores_at.filter(|_| self.executor.is_some());
        running.map_or(Duration::MAX, |at| at.saturating_duration_since(now))
    }

    /// Has what was left in quarantine put back: one step of it, and more for up to `so_long`.
    fn restore(&mut self, so_long: Duration) {
        let until = Instant::now() + so_long;
        while self.restores_at.is_some() {
            let Some(executor) = self.executor.as_mut() else { break };
            let step = executor.restore(RESTORE_WAIT);
            let now = Instant::now();
            match step {
                Ok(step) => {
                    for leftover in &step.leftovers {
                        tracing::warn!(?leftover, "an earlier cleanup was cut short");
                    }
                    self.back.extend(step.leftovers.iter().filter_map(Leftover::went_back));
                    self.restores_at = step.more.then_some(now + RESTORE_PAUSE);
                }
                Err(error) => {
                    tracing::warn!(%error, "what was left in quarantine could not be put back");
                    self.restores_at = None;
                    if error.is_fatal() {
                        self.failed();
                    }
                }
            }
            if now >= until {
                break;
            }
        }
    }

    /// Whether another executor could use roots that this one cannot.
    fn wants_roots_again(&self) -> bool {
        let Some(ready) = self.executor.as_ref().map(Executor::ready) else { return false };
        let lacks = ready.unable.is_none() && ready.unusable().next().is_some();
        self.roots.are_due(Instant::now(), lacks)
    }

    /// Starts it again, to open roots that it could not use.
    fn open_roots_again(&mut self) {
        tracing::info!("the executor is started again, to open roots that it could not use");
        self.executor = None;
        let started = (self.start)();
        self.unable = self.take(started);
    }

    /// Starts the child again if it ended; whether there is news of what cannot be done.
    fn revive(&mut self) -> bool {
        if self.executor.as_mut().is_some_and(Executor::is_alive) {
            return false;
        }
        self.unable = if self.not_before.is_some_and(|t| Instant::now() < t) {
            vec![format!("{}: the child failed and is started again in a moment", self.what)]
        } else {
            let started = (self.start)();
            self.take(started)
        };
        true
    }

    fn failed(&mut self) {
        self.executor = None;
        self.not_before = Some(Instant::now() + self.backoff.delay(clock::now().boot_ns));
    }

    fn survey(&mut self, device: u64) -> Result<Survey, String> {
        let Some(executor) = self.executor.as_mut() else {
            return Err("the child that would know is not running".to_owned());
        };
        match executor.survey(device, SURVEY_WAIT) {
            Ok(survey) => {
                self.roots.surveyed(device, &survey);
                Ok(survey)
            }
            Err(e) => {
                if e.is_fatal() {
                    self.failed();
                }
                Err(e.to_string())
            }
        }
    }

    fn aside(&mut self, may_release: bool) -> Option<Step> {
        let executor = self.executor.as_mut()?;
        match executor.aside(may_release, ASIDE_WAIT) {
            Ok(step) => {
                self.no_sweep = None;
                Some(step)
            }
            Err(error) => {
                // It may last, and is tried again every few seconds.
                let why = Some(error.to_string());
                if self.no_sweep != why {
                    tracing::warn!(%error, "what is held could not be linked aside; it is tried again");
                    self.no_sweep = why;
                }
                if error.is_fatal() {
                    self.failed();
                }
                None
            }
        }
    }

    fn apply(&mut self, mut action: Action, told: &dyn Fn(u64, u64)) -> Action {
        match self.try_apply(&mut action, told) {
            Ok(applied) => applied,
            Err(Unapplied::NotBegun(why)) => untouched(action, why),
            Err(Unapplied::Unknown(error)) => {
                look_after(&mut action, &error, &self.aside.waiting(OUTCOME_WAIT));
                action
            }
        }
    }

    /// The same for images: what became of those that nobody answered for, another keeper can only say by what the runtime
    /// lists, so that the plan's objects are left as unknown.
    fn apply_images(&mut self, mut action: Action) -> Action {
        match self.try_apply(&mut action, &|_, _| ()) {
            Ok(applied) => applied,
            Err(Unapplied::NotBegun(why)) => untouched(action, why),
            Err(Unapplied::Unknown(error)) => {
                action.state = ActionState::Failed;
                action.detail = format!(
                    "{error}; which images went is not known: `crictl images` lists those that stayed"
                );
                for object in &mut action.objects {
                    object.outcome = ObjectOutcome::Failed;
                    let reason = "whether it went before the image keeper failed is not known".to_owned();
                    action.refused.push(Refusal { path: Some(object.path.clone()), reason });
                }
                action
            }
        }
    }

    /// Has `action` applied. Where that fails it keeps what was recorded of objects before.
    fn try_apply(&mut self, action: &mut Action, told: &dyn Fn(u64, u64)) -> Result<Action, Unapplied> {
        let Some(executor) = self.executor.as_mut() else {
            return Err(Unapplied::NotBegun("the child that would do it is not running".to_owned()));
        };
        let result = executor.apply_told(action, APPLY_WAIT, told);
        match &result {
            Ok(applied) => {
                let roots = executor.ready().roots.iter().map(|r| r.path.as_path());
                self.roots.applied(applied, roots);
            }
            Err(_) => recall(action, executor.seen()),
        }
        let begun = executor.may_have_begun();
        if result.as_ref().is_err_and(ExecutorError::is_fatal) {
            self.failed();
        }
        let unapplied = |e: ExecutorError| match begun {
            true => Unapplied::Unknown(e),
            false => Unapplied::NotBegun(e.to_string()),
        };
        result.map_err(unapplied)
    }
}

/// Why an action has no outcome.
enum Unapplied {
    /// No child began it, for this reason.
    NotBegun(String),
    /// A child may have, and did not say how it ended.
    Unknown(ExecutorError),
}

#[cfg(test)]
mod tests;
