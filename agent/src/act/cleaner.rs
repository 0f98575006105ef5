//! The executor's work, without its process: open the roots, survey, apply, account.
//!
//! Invariants: an action's budgets are checked here again, with a ledger that the parent can add to and cannot reset but by
//! a restart; an object keeps its lease for as long as it is looked at, and gives way at once while others are;
//! `freed_bytes` counts what was seen to go through descriptors, never what a plan claimed.
//!
//! Deliberately absent: the socket, confinement (`executor`), and the removal of one object (`remove`).

mod account;
mod batch;
mod held;
mod settle;
mod unusable;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use dogwatch::clock;
use dogwatch::record::{Action, ActionState, CleanupMode, FileContent, FileSeen, PlannedObject, Refusal};

use self::account::{Gone, Run, Space, unexplained};
use self::batch::{Batch, Ready, Waiting};
pub(super) use self::batch::{DESCRIPTORS, MAX_BATCH};
use self::held::{Held, Surroundings, last_word};
use self::settle::{Settled, Settling};
use self::unusable::Unusable;
use super::age_clock::Present;
use super::beneath;
use super::confine::Reach;
use super::cut::cut;
use super::executor::RootStatus;
use super::held_links::{Step, Sweeps};
use super::hold::HoldSet;
use super::hold_line::HeldNow;
use super::ledger::{Ledger, Source, Spending};
#[cfg(test)]
use super::leftovers::Leftover;
use super::leftovers::{Leftovers, Restored};
use super::plan::{Survey, bounded};
use super::pods_here::Pods;
use super::policy::{MAX_OBJECTS, MAX_ROOTS, NODE_ACTOR, Policy, ROOT_OFF, RootRules, Rules};
use super::quarantine::Root;
use super::real_path::{CleanupRoots, Mounts};
use super::remove::{Hooks, Left, Place, Removed, Sibling, Tend, prepare, take, wanted};
use super::survey::{Ends, Limits, Roots, survey};
use super::vet::{Neighbours, why_shunned};
use super::witness::Verdict;

/// Longest that one action may take; what is left then is skipped, also amid an object whose content is being kept. What may
/// come after it (a cut's second look, one wait for a record) is far less than the agent waits for.
const MAX_APPLY: Duration = Duration::from_secs(120);
/// Between two looks at a filesystem that frees in the background (XFS, btrfs, ZFS, F2FS).
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// What the executor does.
pub(super) struct Cleaner {
    rules: Rules,
    pub(super) roots: Vec<Option<Root>>,
    pub(super) unable: Option<String>,
    unusable: Vec<Unusable>,
    ledger: Ledger,
    held: RefCell<Held>,
    sweeps: Sweeps,
    /// Where surveys ended.
    ends: RefCell<Ends>,
    leftovers: Leftovers,
    pub(super) hooks: Hooks,
    /// The bounds of a survey, but for tests of them.
    pub(super) limits: Limits,
    /// [`MAX_APPLY`], but for tests of it.
    pub(super) max_apply: Duration,
}

/// What came since it was asked for last. Both may come together, and neither may hide the other.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What is held from now on.
    pub(super) held: Option<HeldNow>,
    /// Why to stop.
    pub(super) stop: Option<String>,
}

/// The agent, in the midst of an action.
pub(super) trait Parent {
    /// What it says by now.
    fn news(&self) -> News;

    /// Hears how many objects of an action are done, and the bytes that this freed.
    fn progress(&self, _objects_done: u64, _freed_bytes: u64) {}

    /// Has `seen` made durable; without that nothing of it goes.
    fn witness(&self, seen: FileSeen) -> Result<Verdict, String>;

    /// What stays of what was witnessed last, by its place in that, and why: files that are mounted where only the agent sees it.
    fn stays(&self) -> HashMap<usize, String> {
        HashMap::new()
    }
}

/// What news a test has; it keeps whatever it is told.
#[cfg(test)]
impl<F: Fn() -> Result<Option<HeldNow>, String>> Parent for F {
    fn news(&self) -> News {
        match self() {
            Ok(held) => News { held, stop: None },
            Err(why) => News { held: None, stop: Some(why) },
        }
    }

    fn witness(&self, _: FileSeen) -> Result<Verdict, String> {
        Ok(Verdict::Kept)
    }
}

impl Cleaner {
    /// Opens every root that the policy may have; the others are told with the reason.
    pub(super) fn open(policy: Policy, state_dir: &Path) -> (Self, Vec<RootStatus>) {
        let mut unable = match beneath::openat2_works() {
            Ok(()) if policy.mode == CleanupMode::Off => Some("the mode is off".to_owned()),
            Ok(()) => None,
            Err(error) => {
                Some(format!("openat2 is refused here ({error}), and without it nothing is opened safely"))
            }
        };
        // A root of this kind is tried again in a while.
        let untold = Mounts::open(CleanupRoots::default()).read().untold().map(|why| {
            format!(
                "{why}, so that nobody can tell what it is called elsewhere; unmount what was left mounted"
            )
        });
        let budgets_wrong = policy.mistakes(state_dir).into_iter().find(|p| !p.key.starts_with("roots["));
        if let Some(problem) = budgets_wrong {
            unable.get_or_insert_with(|| problem.to_string());
        }
        let rules = match Rules::new(policy) {
            Ok(rules) => rules,
            Err(error) => {
                unable.get_or_insert_with(|| format!("its policy does not compile: {error}"));
                // The policy of nothing has no pattern that could fail.
                Rules::nothing()
            }
        };
        let mut roots = Vec::new();
        let (mut told, mut unusable) = (Vec::new(), Vec::new());
        for (index, policy) in rules.policy.roots.iter().enumerate() {
            let mut touched = false;
            let opened = match (&unable, policy.problems(index, state_dir).first()) {
                (Some(why), _) => Err(why.clone()),
                (None, Some(problem)) => Err(problem.to_string()),
                (None, None) if policy.mode_under(rules.policy.mode) == CleanupMode::Off => {
                    Err(ROOT_OFF.to_owned())
                }
                (None, None) if index >= MAX_ROOTS => Err(format!("only {MAX_ROOTS} roots are used")),
                (None, None) => match &untold {
                    Some(why) => Err(why.clone()),
                    None => {
                        touched = true;
                        Root::open(policy)
                    }
                },
            };
            let path = policy.path.clone();
            told.push(match &opened {
                Ok(root) => RootStatus { path, device: Some(root.filesystem), unusable: None },
                Err(why) => {
                    unusable.extend(Unusable::of(&path, why, touched));
                    RootStatus { path, device: None, unusable: Some(why.clone()) }
                }
            });
            roots.push(opened.ok());
        }
        let leftovers = Leftovers::new(&roots, &rules.policy);
        let ledger = Ledger::default();
        let set = HoldSet::Unknown("the executor was not told yet".to_owned());
        let held = HeldNow { set, host_root: "/".into() };
        let mounts = Mounts::open(CleanupRoots::of(&told));
        let around = Surroundings::new(mounts, &rules.policy.roots, state_dir);
        let held = RefCell::new(Held::new(held, Rc::new(around)));
        (
            Self {
                rules,
                roots,
                unable,
                unusable,
                ledger,
                held,
                sweeps: Sweeps::default(),
                ends: RefCell::default(),
                leftovers,
                hooks: Hooks::default(),
                limits: Limits::default(),
                max_apply: MAX_APPLY,
            },
            told,
        )
    }

    /// What the executor needs within its reach.
    pub(super) fn reach(&self) -> Reach<'_> {
        let mut reach = Reach::default();
        for (root, rules) in self.roots.iter().zip(self.rules.roots()) {
            let Some(root) = root else { continue };
            reach.roots.push(root.folder.as_fd());
            if rules.kind().cuts() {
                reach.cut.push(root.folder.as_fd());
            }
            reach.listed.extend(root.ground.pods.iter().flat_map(Pods::folders));
        }
        reach
    }

    /// Takes what is held from now on.
    pub(super) fn hold(&mut self, now: HeldNow) {
        let held = self.held.borrow().then(now);
        self.held.replace(held);
    }

    /// Takes over what an executor before it spent. There is no way to take anything back.
    pub(super) fn spent(&mut self, spent: &[Spending]) {
        spent.iter().for_each(|s| self.ledger.note(*s));
    }

    /// One step of putting back what earlier runs left in quarantine.
    pub(super) fn restore_leftovers_step(&mut self) -> Restored {
        self.leftovers.step(&self.roots)
    }

    /// Every step of it, as a new executor would take them.
    #[cfg(test)]
    pub(super) fn restore_leftovers(&self) -> Vec<Leftover> {
        let mut leftovers = Leftovers::new(&self.roots, &self.rules.policy);
        let mut told = Vec::new();
        loop {
            let step = leftovers.step(&self.roots);
            told.extend(step.leftovers);
            if !step.more {
                return told;
            }
        }
    }

    /// Lists what lies beneath the roots on the filesystem `device`.
    pub(super) fn survey(&self, device: u64, now: impl Into<Present>) -> Result<Survey, String> {
        match &self.unable {
            Some(why) => Err(format!("no survey: {why}")),
            None => {
                let held = self.held.borrow();
                let (renamed, astray) = held.seen_now(&self.roots, device);
                let within = (self.limits, &mut *self.ends.borrow_mut());
                let (open, holds) = (&self.roots, &held.places);
                let roots = Roots { open, renamed: &renamed, astray: &astray, holds };
                let mut found = survey(&self.rules, roots, device, now.into(), within);
                found.passed_over.extend(unusable::said(&self.unusable, device));
                Ok(found)
            }
        }
    }

    /// One step of a sweep: links aside what is held, and where `may_release`, lets go of what is not any more.
    ///
    /// # Errors
    /// Nobody can tell what is held, so that nothing was done: it is no sweep, and is to be tried again.
    pub(super) fn keep_aside(&mut self, may_release: bool, parent: &dyn Parent) -> Result<Step, String> {
        let fresh = self.held.borrow().again();
        self.held.replace(fresh);
        let held = self.held.borrow();
        if let Some(unknown) = held.places.iter().find(|hold| hold.is_unknown()) {
            return Err(unknown.reason.clone());
        }
        let holds = match &held.now.set {
            HoldSet::Known(holds) => holds,
            HoldSet::Unknown(why) => return Err(why.clone()),
        };
        Ok(self.sweeps.step(&self.roots, (holds, &held.places), may_release, parent))
    }

    /// The filesystem of the roots that have this `st_dev`: that of a plan's objects, which may lie in several subvolumes.
    fn filesystem_of(&self, st_dev: u64) -> Option<u64> {
        self.roots.iter().flatten().find(|root| root.facts.device == st_dev).map(|root| root.filesystem)
    }

    /// Carries out `action` as far as the policy lets it, and says what became of each object. `clock` is what
    /// time it is; `parent` is asked before each object, and once more before it is moved.
    pub(super) fn apply<P: Into<Present>>(
        &mut self,
        mut action: Action,
        clock: &dyn Fn() -> P,
        parent: &dyn Parent,
    ) -> Action {
        let root = match self.admit(&action, clock().into().wall_ns()) {
            Ok(root) => root,
            Err(why) => {
                action.state = ActionState::Refused;
                action.refused.push(Refusal { path: None, reason: why });
                return action;
            }
        };
        // Links may lie differently than when the holds were told.
        let fresh = self.held.borrow().again();
        self.held.replace(fresh);
        let (began, max_apply) = (Instant::now(), self.max_apply);
        let before = self.space(root);
        let mut run = Run::default();
        let mut batch = Batch::default();
        for at in 0..action.objects.len() {
            if batch.is_full(&action.objects[at], self.preserves(&action.objects[at])) {
                self.take_all(&mut action, std::mem::take(&mut batch), parent, &mut run);
            }
            let mut meanwhile = || {
                batch.give_way();
                let late = || format!("the action took longer than {} s", max_apply.as_secs_f32());
                (began.elapsed() <= max_apply).then_some(()).ok_or_else(late)
            };
            let prepared = meanwhile()
                .map_err(Left::Skipped)
                .and_then(|()| self.look_at(&action, at, clock().into(), parent, &mut run, &mut meanwhile));
            match prepared {
                Ok(Ready::Waits(waiting)) => batch.push(*waiting),
                Ok(Ready::Cut(bytes)) => run.note(&mut action, at, Ok(Gone::Cut(bytes))),
                Err(left) => run.note(&mut action, at, Err(left)),
            }
            parent.progress(run.settled, run.freed_bytes);
        }
        self.take_all(&mut action, batch, parent, &mut run);
        let (after, is_late) = self.settled(root, before, run.freed_bytes);
        action.state = ActionState::Done;
        action.freed_bytes = Some(run.freed_bytes);
        action.available_before_bytes = before.map(|s| s.available);
        action.available_after_bytes = after.map(|s| s.available);
        action.unexplained =
            before.zip(after).map(|(before, after)| unexplained(before, after, &run, is_late));
        action.refused = bounded(std::mem::take(&mut action.refused));
        action
    }

    /// Whether the action as a whole may be tried; the index of a root on its device.
    fn admit(&self, action: &Action, now_wall_ns: i64) -> Result<usize, String> {
        if let Some(why) = &self.unable {
            return Err(why.clone());
        }
        if !matches!(action.state, ActionState::Planned | ActionState::Started) {
            return Err(format!("an action that is {} cannot be applied", action.state.as_str()));
        }
        if now_wall_ns >= action.expires_wall_ns {
            return Err("the plan has expired: make a new one".to_owned());
        }
        if action.objects.len() > MAX_OBJECTS.min(self.rules.policy.budgets.max_objects) as usize {
            return Err(format!("{} objects are over the budget of one action", action.objects.len()));
        }
        if action.objects.is_empty() {
            return Err("the plan has no objects".to_owned());
        }
        // On a btrfs they may lie in several subvolumes.
        let devices: HashSet<u64> = action.objects.iter().map(|o| o.device).collect();
        let usable = |root: &Option<Root>| root.as_ref().is_some_and(|r| devices.contains(&r.facts.device));
        self.roots.iter().position(usable).ok_or_else(|| "no usable root lies on its filesystem".to_owned())
    }

    /// Claims and digests an object, and has its content kept where its root's policy says so.
    fn look_at(
        &mut self,
        action: &Action,
        at: usize,
        now: Present,
        parent: &dyn Parent,
        run: &mut Run,
        meanwhile: &mut dyn FnMut() -> Result<(), String>,
    ) -> Result<Ready, Left> {
        let object = &action.objects[at];
        let held = &self.held;
        let last_word = || last_word(held, parent, object);
        last_word().map_err(Left::Skipped)?;
        let Some((index, relative)) = self.rules.root_for(&object.path, &object.cleaner) else {
            return Err(Left::Skipped("it lies outside every cleanup root".to_owned()));
        };
        let rules = &self.rules.roots()[index];
        if let Err(why) = rules.judge_mode(self.rules.policy.mode, action.actor == NODE_ACTOR) {
            return Err(Left::Skipped(why));
        }
        let Some(root) = &self.roots[index] else {
            return Err(Left::Skipped("its root cannot be used".to_owned()));
        };
        let filesystem = action.objects.iter().find_map(|o| self.filesystem_of(o.device));
        if object.device != root.facts.device || filesystem != Some(root.filesystem) {
            return Err(Left::Skipped("it lies on another filesystem".to_owned()));
        }
        if let Some(why) = root.why_astray() {
            return Err(Left::Skipped(why));
        }
        let last_word = || why_out_now(rules, root, relative).map_or_else(last_word, Err);
        let (ledger, budgets, spent) = (&mut self.ledger, &self.rules, run.spent(index));
        let mut within = |bytes: u64| ledger.allows(budgets, spent, index, bytes, clock::now().boot_ns);
        if !rules.kind().cuts() {
            within(object.allocated_bytes).map_err(Left::Skipped)?;
        }
        // Another link of it went a moment ago: the inode is as we left it, not as the plan saw it.
        let earlier = run.inodes.get(&(object.device, object.inode)).copied();
        let mut expected = object.clone();
        if let Some(left) = earlier {
            expected.links = left.links;
            expected.ctime_ns = left.ctime_ns;
        }
        let sibling =
            earlier.map(|l| Sibling { planned_ctime_ns: object.ctime_ns, our_ctime_ns: l.ctime_ns });
        let place = Place { rules, root, relative, sibling, last_word: &last_word };
        let mut neighbours = |folder: &Path, fd: &OwnedFd| {
            let key = (index, folder.to_owned());
            run.neighbours
                .entry(key)
                .or_insert_with(|| Rc::new(Neighbours::read(rules, root, folder, fd, &now)))
                .clone()
        };
        // What a cut takes is in the plan, digest and tail: that record is durable.
        if rules.kind().cuts() {
            let bytes = cut(&place, object, now, &mut neighbours, &mut within, &mut self.hooks)?;
            self.spend(run, index, bytes);
            return Ok(Ready::Cut(bytes));
        }
        if object.cut.is_some() {
            return Err(Left::Skipped("its root removes, and the plan would cut".to_owned()));
        }
        let mut keep = |offset: u64, piece: &[u8]| {
            let content = FileContent::compress(&expected, offset, piece).map_err(|e| e.to_string())?;
            parent.witness(FileSeen { cause: action.id.clone(), objects: Vec::new(), content: Some(content) })
        };
        // With another name of it, its content stays.
        let keeps = rules.policy.preserve && expected.links <= 1;
        let tend = Tend { keep: if keeps { Some(&mut keep) } else { None }, meanwhile };
        let prepared = prepare(&place, &expected, now, &mut neighbours, tend, &mut self.hooks)?;
        Ok(Ready::Waits(Box::new(Waiting { at, index, expected, sibling, prepared })))
    }

    /// Has what was seen made durable, and then removes it.
    fn take_all(&mut self, action: &mut Action, batch: Batch, parent: &dyn Parent, run: &mut Run) {
        for at in batch.gave_way {
            run.note(action, at, Err(wanted()));
        }
        if batch.waiting.is_empty() {
            return;
        }
        let objects = batch.waiting.iter().map(Waiting::seen).collect();
        let seen = FileSeen { cause: action.id.clone(), objects, content: None };
        let kept = parent.witness(seen);
        let mut stays = parent.stays();
        for (nth, waiting) in batch.waiting.into_iter().enumerate() {
            let at = waiting.at;
            let removal = match (&kept, stays.remove(&nth)) {
                (Ok(_), None) => self.take(waiting, parent, run),
                (Ok(_), Some(why)) => Err(Left::Skipped(why)),
                (Err(why), _) => {
                    Err(Left::Skipped(format!("what would go could not be recorded before: {why}")))
                }
            };
            run.note(action, at, removal.map(Gone::Removed));
        }
    }

    fn take(&mut self, waiting: Waiting, parent: &dyn Parent, run: &mut Run) -> Result<Removed, Left> {
        let Waiting { index, expected: object, sibling, prepared, .. } = waiting;
        // What it holds, not what its plan says of it.
        let bytes = prepared.facts.allocated_bytes;
        let now_boot_ns = clock::now().boot_ns;
        if let Err(why) = self.ledger.allows(&self.rules, run.spent(index), index, bytes, now_boot_ns) {
            return Err(Left::Skipped(why));
        }
        let relative = self.rules.root_for(&object.path, &object.cleaner).map(|(_, relative)| relative);
        let (Some(root), Some(relative)) = (&self.roots[index], relative) else {
            return Err(Left::Skipped("its root cannot be used".to_owned()));
        };
        let held = &self.held;
        let rules = &self.rules.roots()[index];
        let last_word =
            || why_out_now(rules, root, relative).map_or_else(|| last_word(held, parent, &object), Err);
        let place = Place { rules, root, relative, sibling, last_word: &last_word };
        let removal = take(&place, &object, prepared, &mut self.hooks);
        if let Ok(removed) = &removal {
            self.spend(run, index, removed.spent_bytes());
        }
        removal
    }

    /// Counts an object of a root against the budgets.
    fn spend(&mut self, run: &mut Run, index: usize, bytes: u64) {
        let (at_boot_ns, source) = (clock::now().boot_ns, Source::Root(index));
        self.ledger.note(Spending { at_boot_ns, source, objects: 1, bytes });
        run.spend(index, bytes);
    }

    /// Whether content of `object` is kept before it goes.
    fn preserves(&self, object: &PlannedObject) -> bool {
        let root = self.rules.root_for(&object.path, &object.cleaner);
        root.is_some_and(|(index, _)| self.rules.roots()[index].policy.preserve)
    }

    fn space(&self, root: usize) -> Option<Space> {
        let root = self.roots.get(root)?.as_ref()?;
        let s = rustix::fs::fstatvfs(&root.folder).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
        Some(Space { available: bytes(s.f_bavail), free: bytes(s.f_bfree) })
    }

    /// The space after the action, and whether more may come free later: where the filesystem frees in the background, what it
    /// is once everything shows, or as long after as [`Settling`] waits.
    fn settled(&self, root: usize, before: Option<Space>, freed_bytes: u64) -> (Option<Space>, bool) {
        const IN_BACKGROUND: [i64; 4] = [0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0xF2F5_2010];
        let first = self.space(root);
        let Some(folder) = self.roots.get(root).and_then(|r| r.as_ref()).map(|r| &r.folder) else {
            return (first, false);
        };
        let kind = rustix::fs::fstatfs(folder).map(|s| s.f_type & 0xFFFF_FFFF).unwrap_or(0);
        let (Some(before), Some(mut after), true) = (before, first, IN_BACKGROUND.contains(&kind)) else {
            return (first, false);
        };
        let (began, mut settling) = (Instant::now(), Settling::new(before.free, freed_bytes));
        loop {
            match settling.look(began.elapsed(), after.free) {
                Settled::Waits => std::thread::sleep(SETTLE_STEP),
                over => return (Some(after), over == Settled::NoMore),
            }
            match self.space(root) {
                Some(now) => after = now,
                None => return (Some(after), true),
            }
        }
    }
}

/// Why the object at `relative` of `root` is out of reach, though it was not when it was vetted.
fn why_out_now(rules: &RootRules, root: &Root, relative: &Path) -> Option<String> {
    root.why_astray().or_else(|| why_shunned(rules, root, relative.parent()?))
}

#[cfg(test)]
mod tests;
