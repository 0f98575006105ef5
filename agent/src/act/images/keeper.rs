//! The image keeper's work, without its process: look, offer what may go, remove what a plan names, account.
//!
//! Invariants
//! - An image goes by its id alone, one at a time, and only if a look taken just before says that everything still holds
//!   for which the plan named it: same names, same digests, unused, not pinned, old enough, not held.
//! - `freed_bytes` is by how much the runtime's own figure of its store fell, never what a plan claimed.
//! - Budgets are checked here again, with a ledger that the parent can add to and cannot reset but by a restart.
//!
//! Limits: between that look and the removal a container may be created. Runtimes keep the layers of an image that a
//! container uses, so it runs on; a restart of it pulls the image anew.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dogwatch::record::{
    Action, ActionState, ImageStore, ObjectOutcome, PlannedImage, PlannedObject, Refusal,
};

use super::account::{orphaned, unexplained};
use super::cri::{Cri, CriError};
use super::inventory::{Image, Inventory, Store};
use super::judge::{Created, Verdict, judge, repositories_of, users_of};
use super::policy::{ImageRules, KNOWN_SOCKETS};
use super::seen::Seen;
use super::{CLEANER, IMAGE_PLACE, words_of};
use crate::act::cleaner::News;
use crate::act::hold::{Hold, holder_of};
use crate::act::hold_line::HeldNow;
use crate::act::ledger::{Ledger, Source, Spending};
use crate::act::plan::{Candidate, Survey, bounded};
use crate::act::real_path;
use crate::act::real_path::Mounts;
use crate::act::words;

/// Longest that one action may take; what is left then is skipped.
const MAX_APPLY: Duration = Duration::from_secs(300);
/// How long to wait for the runtime to measure its store anew: containerd does so every 10 s (`stats_collect_period`).
pub(super) const MAX_SETTLE: Duration = Duration::from_secs(15);
/// Between two looks at that figure.
const SETTLE_STEP: Duration = Duration::from_millis(250);
/// How often what was seen goes to disk, if nothing but time passed.
const WRITE_EVERY: Duration = Duration::from_secs(600);
/// Most images that are asked one by one when they were made.
const MAX_ASKED: usize = 256;

/// What came in the midst of an action.
type Ask<'n> = &'n dyn Fn() -> News;

/// Wall and boot clock, ns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall_ns: i64,
    pub(super) boot_ns: u64,
}

/// What the image keeper does.
pub(super) struct Keeper {
    rules: ImageRules,
    host_root: PathBuf,
    folder: PathBuf,
    clock: Box<dyn Fn() -> Now>,
    seen: Seen,
    unwritten: Option<Instant>,
    known: usize,
    created: Created,
    ledger: Ledger,
    held: HeldNow,
    /// To look where held paths lie; opened before confinement.
    pub(super) mounts: Mounts,
    /// Called right before the last look at an image; a test's way to come between.
    #[cfg(test)]
    pub(super) before_look: Option<Box<dyn Fn()>>,
}

/// A look, and what it means.
struct Look {
    inventory: Inventory,
    verdicts: Vec<Verdict>,
}

impl Keeper {
    /// One that obeys `rules`, sees the host through `host_root` and keeps what it saw in `folder`.
    pub(super) fn new(
        rules: ImageRules,
        host_root: PathBuf,
        folder: PathBuf,
        held: HeldNow,
        clock: Box<dyn Fn() -> Now>,
    ) -> Self {
        let (seen, problem) = Seen::read(&folder);
        if let Some(problem) = problem {
            dogwatch::telemetry::say(&format!(
                "dogwatch image keeper: every image counts as young: {problem}"
            ));
        }
        Self {
            rules,
            host_root,
            folder,
            clock,
            seen,
            unwritten: None,
            known: 0,
            created: Created::new(),
            ledger: Ledger::default(),
            held,
            mounts: Mounts::default(),
            #[cfg(test)]
            before_look: None,
        }
    }

    /// Takes what is held from now on.
    pub(super) fn hold(&mut self, now: HeldNow) {
        self.held = now;
    }

    /// Takes over what a keeper before it spent.
    pub(super) fn spent(&mut self, spent: &[Spending]) {
        spent.iter().for_each(|s| self.ledger.note(*s));
    }

    /// Looks who uses what, so that it is known later for how long nobody did.
    pub(super) async fn watch(&mut self) -> Result<(), String> {
        let mut cri = self.connect().await?;
        self.look(&mut cri).await.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn connect(&self) -> Result<Cri, String> {
        let named = self.rules.policy.socket.as_deref();
        let places: Vec<&Path> =
            named.map_or_else(|| KNOWN_SOCKETS.iter().map(Path::new).collect(), |s| vec![s]);
        for place in &places {
            if let Some(found) = real_path::find(&self.host_root, place)? {
                return Cri::connect(&self.seen_from_here(&found.path)).await.map_err(|e| e.to_string());
            }
        }
        let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        Err(format!("there is no runtime's socket at {}; set cleanup.images.socket", places.join(", ")))
    }

    fn seen_from_here(&self, path: &Path) -> PathBuf {
        path.strip_prefix("/").map_or_else(|_| path.to_owned(), |rest| self.host_root.join(rest))
    }

    /// A whole look, remembered.
    async fn look(&mut self, cri: &mut Cri) -> Result<Look, CriError> {
        let inventory = cri.look().await?;
        let users = users_of(&inventory);
        let ids = inventory.images.iter().map(|i| i.id.as_str());
        self.seen.look(ids.zip(users.iter().map(Option::is_some)), (self.clock)().boot_ns);
        self.remember(inventory.images.len());
        self.ask_when_made(cri, &inventory).await?;
        let verdicts = judge(&inventory, &self.rules, &self.seen, &self.created);
        Ok(Look { inventory, verdicts })
    }

    /// Keeps on disk what was seen, at once where images came or went. Where the disk takes nothing, memory must do.
    fn remember(&mut self, images: usize) {
        let changed = std::mem::replace(&mut self.known, images) != images;
        if changed || self.unwritten.is_none_or(|since| since.elapsed() >= WRITE_EVERY) {
            if let Err(why) = self.seen.write(&self.folder) {
                dogwatch::telemetry::say(&format!(
                    "dogwatch image keeper: what it saw could not be kept: {why}"
                ));
            }
            self.unwritten = Some(Instant::now());
        }
    }

    /// Asks when images were made that share a repository; only there it matters.
    async fn ask_when_made(&mut self, cri: &mut Cri, inventory: &Inventory) -> Result<(), CriError> {
        self.created.retain(|id, _| inventory.images.iter().any(|i| i.id == *id));
        if self.rules.policy.keep_newest == 0 {
            return Ok(());
        }
        let mut repositories: HashMap<String, u32> = HashMap::new();
        for image in &inventory.images {
            for name in repositories_of(image) {
                *repositories.entry(name).or_default() += 1;
            }
        }
        let shared =
            |i: &&Image| repositories_of(i).iter().any(|r| repositories.get(r).is_some_and(|n| *n > 1));
        let asked = inventory.images.iter().filter(|i| i.odd.is_none()).filter(shared);
        for image in asked.filter(|i| !self.created.contains_key(&i.id)).take(MAX_ASKED).collect::<Vec<_>>() {
            // The runtime's not knowing is an answer too, and is not asked for again.
            let made = match cri.created(&image.id).await {
                Ok(made) => made.unwrap_or(i64::MIN),
                Err(CriError::Refused { .. }) => i64::MIN,
                Err(e) => return Err(e),
            };
            self.created.insert(image.id.clone(), made);
        }
        Ok(())
    }

    /// Lists the images that may go from `device`, and why the others stay; nothing where images lie elsewhere.
    pub(super) async fn survey(&mut self, device: u64) -> Result<Survey, String> {
        let mut cri = self.connect().await?;
        let look = self.look(&mut cri).await.map_err(|e| e.to_string())?;
        let Some(store) = self.store_on(&look.inventory.stores, device)?.cloned() else {
            return Ok(Survey::default());
        };
        let now = (self.clock)();
        let listed = look.inventory.images.iter().fold(0u64, |sum, i| sum.saturating_add(i.size_bytes));
        let mut survey = Survey::default();
        let mut may_go = Vec::new();
        for (image, verdict) in look.inventory.images.iter().zip(look.verdicts) {
            match verdict {
                Verdict::MayGo { unused_ns, why_safe } => {
                    let inodes = u128::from(store.inodes_used) * u128::from(image.size_bytes);
                    let inodes = u64::try_from(inodes / u128::from(listed.max(1))).unwrap_or(0);
                    let candidate = self.candidate(image, device, (unused_ns, now.wall_ns), why_safe, inodes);
                    may_go.push((unused_ns, candidate));
                }
                Verdict::Stays(reason) => {
                    survey.passed_over.push(Refusal { path: Some(place(image.name())), reason });
                }
            }
        }
        // Of what is over a budget, what was unused for the longest goes first.
        may_go.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.object.path.cmp(&b.1.object.path)));
        let mut spent = Spent::default();
        for (_, candidate) in may_go {
            let bytes = candidate.object.allocated_bytes;
            match self.allows(&spent, bytes) {
                Ok(()) => {
                    spent.note(bytes);
                    survey.candidates.push(candidate);
                }
                Err(reason) => {
                    survey.passed_over.push(Refusal { path: Some(candidate.object.path), reason });
                }
            }
        }
        survey.passed_over = bounded(survey.passed_over);
        if let Ok(written) = cri.writable_bytes().await
            && let Some(said) = orphaned(&store, &look.inventory.images, written)
        {
            survey.passed_over.push(Refusal { path: None, reason: said });
        }
        Ok(survey)
    }

    fn candidate(
        &self,
        image: &Image,
        device: u64,
        (unused_ns, wall_ns): (u64, i64),
        why_safe: String,
        inodes: u64,
    ) -> Candidate {
        let since = wall_ns.saturating_sub(i64::try_from(unused_ns).unwrap_or(i64::MAX));
        let object = PlannedObject {
            path: place(image.name()),
            device,
            inode: 0,
            size_bytes: image.size_bytes,
            allocated_bytes: image.size_bytes,
            mtime_ns: since,
            ctime_ns: since,
            uid: 0,
            gid: 0,
            mode: 0,
            links: 0,
            cleaner: CLEANER.to_owned(),
            tier: self.rules.policy.tier,
            why_safe,
            outcome: ObjectOutcome::Pending,
            sha256: None,
            digest_partial: false,
            cut: None,
            atime_ns: None,
            btime_ns: None,
            preserved_bytes: None,
            image: Some(Box::new(PlannedImage {
                id: image.id.clone(),
                tags: image.tags.clone(),
                digests: image.digests.clone(),
                inodes,
            })),
        };
        let root = PathBuf::from(IMAGE_PLACE);
        Candidate { object, root, open_elsewhere: false, accessed_ns: None, filesystem: device }
    }

    /// The store of those given that lies on `device`; an error where there is none at all.
    fn store_on<'s>(&self, stores: &'s [Store], device: u64) -> Result<Option<&'s Store>, String> {
        if stores.is_empty() {
            return Err("the runtime does not say where its images lie".to_owned());
        }
        for store in stores {
            let there = real_path::find(&self.host_root, &store.mountpoint)?;
            if there.is_some_and(|t| t.device == device) {
                return Ok(Some(store));
            }
        }
        Ok(None)
    }

    fn available(&self, store: &Store) -> Option<u64> {
        let there = real_path::find(&self.host_root, &store.mountpoint).ok()??;
        let s = rustix::fs::statvfs(self.seen_from_here(&there.path)).ok()?;
        Some(s.f_bavail.saturating_mul(s.f_frsize))
    }

    fn allows(&mut self, spent: &Spent, bytes: u64) -> Result<(), String> {
        let budgets = &self.rules.policy.budgets;
        // What a survey reckons with is not in the ledger yet; what an action removed is, and counts once.
        let (objects, in_hour) = self.ledger.spent((self.clock)().boot_ns, |_| true);
        let (planned, planned_bytes) = if spent.removed { (0, 0) } else { (spent.objects, spent.bytes) };
        let over = |spent: u64, budget: u64| spent >= budget || spent.saturating_add(bytes) > budget;
        if spent.objects >= u64::from(budgets.max_objects) {
            Err(format!("over the budget of {} images an action", budgets.max_objects))
        } else if over(spent.bytes, budgets.max_bytes) {
            Err(format!("over the budget of {} of images an action", words::bytes(budgets.max_bytes)))
        } else if objects + planned >= u64::from(budgets.max_objects_per_hour) {
            Err(format!("over the budget of {} images an hour", budgets.max_objects_per_hour))
        } else if over(in_hour.saturating_add(planned_bytes), budgets.max_bytes_per_hour) {
            Err(format!("over the budget of {} of images an hour", words::bytes(budgets.max_bytes_per_hour)))
        } else {
            Ok(())
        }
    }

    /// Carries out `action` as far as the policy lets it, and says what became of each image. `news` is asked before each
    /// look, and once more before a removal.
    pub(super) async fn apply(&mut self, mut action: Action, news: Ask<'_>) -> Action {
        let refused = |mut action: Action, why: String| {
            action.state = ActionState::Refused;
            action.refused.push(Refusal { path: None, reason: why });
            action
        };
        if let Err(why) = self.admit(&action) {
            return refused(action, why);
        }
        let began = Instant::now();
        let start = async {
            let mut cri = self.connect().await?;
            let stores = cri.stores().await.map_err(|e| e.to_string())?;
            let device = action.objects.first().map_or(0, |o| o.device);
            let store = self.store_on(&stores, device)?.cloned();
            let store = store.ok_or("the runtime's images do not lie on that filesystem any more")?;
            // Its figure may be from before the images came that go now.
            let now = (self.clock)().wall_ns;
            let store =
                self.measured(&mut cri, &store.mountpoint, now).await.map_or(store, |(store, _)| store);
            Ok::<_, String>((cri, store))
        };
        let (mut cri, before) = match start.await {
            Ok(started) => started,
            Err(why) => return refused(action, why),
        };
        let available_before = self.available(&before);
        let mut run = Run { spent: Spent { removed: true, ..Spent::default() }, ..Run::default() };
        for at in 0..action.objects.len() {
            let left = match &run.silent {
                Some(_) => Err(Left::Skipped("the runtime did not answer before it was its turn".to_owned())),
                None if began.elapsed() > MAX_APPLY => {
                    Err(Left::Skipped(format!("the action took longer than {} s", MAX_APPLY.as_secs())))
                }
                None => self.one(&mut cri, &action.objects[at], news, &mut run).await,
            };
            self.note(&mut action, at, left, &mut run);
        }
        let after = self.settled(&mut cri, &before, &run).await;
        action.state = if run.silent.is_some() { ActionState::Failed } else { ActionState::Done };
        if let Some(silent) = &run.silent {
            action.detail =
                format!("{silent}; {} of {} images went before", run.spent.objects, action.objects.len());
        }
        let freed = after.as_ref().map_or(0, |(s, _)| before.used_bytes.saturating_sub(s.used_bytes));
        action.freed_bytes = Some(freed);
        action.available_before_bytes = available_before;
        action.available_after_bytes = self.available(&before);
        let space = action.available_before_bytes.zip(action.available_after_bytes);
        action.unexplained = space
            .map(|(b, a)| unexplained(b, a, freed, run.spent.bytes, after.as_ref().map(|(_, fresh)| *fresh)));
        action.image_store = Some(Box::new(ImageStore {
            mount_point: before.mountpoint.display().to_string(),
            listed_bytes: run.spent.bytes,
            used_before_bytes: before.used_bytes,
            used_after_bytes: after.as_ref().map(|(s, _)| s.used_bytes),
            inodes_before: before.inodes_used,
            inodes_after: after.as_ref().map(|(s, _)| s.inodes_used),
        }));
        action.refused = bounded(std::mem::take(&mut action.refused));
        action
    }

    /// Whether the action as a whole may be tried.
    fn admit(&self, action: &Action) -> Result<(), String> {
        use dogwatch::record::CleanupMode;
        if self.rules.policy.mode == CleanupMode::Off {
            return Err("cleanup.images.mode is off".to_owned());
        }
        if !matches!(action.state, ActionState::Planned | ActionState::Started) {
            return Err(format!("an action that is {} cannot be applied", action.state.as_str()));
        }
        if (self.clock)().wall_ns >= action.expires_wall_ns {
            return Err("the plan has expired: make a new one".to_owned());
        }
        let most = self.rules.policy.budgets.max_objects as usize;
        match action.objects.len() {
            0 => Err("the plan has no images".to_owned()),
            n if n > most => Err(format!("{n} images are over the budget of one action")),
            _ if action.objects.iter().any(|o| o.device != action.objects[0].device) => {
                Err("its images lie on several filesystems".to_owned())
            }
            _ => Ok(()),
        }
    }

    async fn one(
        &mut self,
        cri: &mut Cri,
        object: &PlannedObject,
        news: Ask<'_>,
        run: &mut Run,
    ) -> Result<Gone, Left> {
        let Some(planned) = object.image.as_deref().filter(|_| object.cleaner == CLEANER) else {
            return Err(Left::Skipped("it is no image".to_owned()));
        };
        self.not_held(planned, news).map_err(Left::Skipped)?;
        #[cfg(test)]
        if let Some(come_between) = &self.before_look {
            come_between();
        }
        let look = match self.look(cri).await {
            Ok(look) => look,
            Err(error) => {
                run.silent = Some(error.to_string());
                return Err(Left::Skipped(format!("it could not be checked: {error}")));
            }
        };
        let Some(at) = look.inventory.images.iter().position(|i| i.id == planned.id) else {
            return Err(Left::Skipped("it is gone already".to_owned()));
        };
        let image = &look.inventory.images[at];
        if image.tags != planned.tags || image.digests != planned.digests {
            return Err(Left::Skipped(format!(
                "its names changed since it was planned: it is {} now",
                words_of(image.tags.iter().chain(&image.digests))
            )));
        }
        if let Verdict::Stays(why) = &look.verdicts[at] {
            return Err(Left::Skipped(why.clone()));
        }
        // A plan cannot make an image smaller than the budgets see it.
        let bytes = image.size_bytes;
        self.allows(&run.spent, bytes).map_err(Left::Skipped)?;
        self.not_held(planned, news).map_err(Left::Skipped)?;
        match cri.remove(&planned.id).await {
            Ok(()) => Ok(Gone { bytes }),
            Err(error @ CriError::Refused { .. }) => Err(Left::Failed(error.to_string())),
            Err(error) => {
                run.silent = Some(error.to_string());
                Err(Left::Failed(format!("{error}; whether it went is not known")))
            }
        }
    }

    /// Whether nothing that is held by now means `image`.
    fn not_held(&mut self, image: &PlannedImage, news: Ask<'_>) -> Result<(), String> {
        let News { held, stop } = news();
        if let Some(now) = held {
            self.held = now;
        }
        if let Some(why) = stop {
            return Err(why);
        }
        holder_of_image(&self.held.resolved(&self.mounts), image).map_or(Ok(()), |hold| Err(hold.said()))
    }

    fn note(&mut self, action: &mut Action, at: usize, left: Result<Gone, Left>, run: &mut Run) {
        let object = &mut action.objects[at];
        let reason = match left {
            Ok(gone) => {
                object.outcome = ObjectOutcome::Removed;
                run.spent.note(gone.bytes);
                let (at_boot_ns, source) = ((self.clock)().boot_ns, Source::Images);
                self.ledger.note(Spending { at_boot_ns, source, objects: 1, bytes: gone.bytes });
                return;
            }
            Err(Left::Skipped(reason)) => {
                object.outcome = ObjectOutcome::Skipped;
                reason
            }
            Err(Left::Failed(reason)) => {
                object.outcome = ObjectOutcome::Failed;
                reason
            }
        };
        action.refused.push(Refusal { path: Some(object.path.clone()), reason });
    }

    /// The store as the runtime measured it after the last removal, or as it said last; and whether it was measured after.
    async fn settled(&self, cri: &mut Cri, before: &Store, run: &Run) -> Option<(Store, bool)> {
        if run.silent.is_some() {
            return None;
        }
        let wall_ns = if run.spent.objects == 0 { i64::MIN } else { (self.clock)().wall_ns };
        self.measured(cri, &before.mountpoint, wall_ns).await
    }

    /// The store at `mountpoint` as the runtime measured it at `wall_ns` or later, or after a while as it says; and which.
    async fn measured(&self, cri: &mut Cri, mountpoint: &Path, wall_ns: i64) -> Option<(Store, bool)> {
        let began = Instant::now();
        loop {
            let now = cri.stores().await.ok()?.into_iter().find(|s| s.mountpoint == mountpoint)?;
            let fresh = now.measured_wall_ns >= wall_ns;
            if fresh || began.elapsed() > MAX_SETTLE {
                return Some((now, fresh));
            }
            tokio::time::sleep(SETTLE_STEP).await;
        }
    }
}

/// The first of `holds` that means `image` by any of its names, or all of its repository.
pub(in crate::act) fn holder_of_image<'h>(holds: &'h [Hold], image: &PlannedImage) -> Option<&'h Hold> {
    let names = image.tags.iter().chain(&image.digests).chain([&image.id]);
    let all = names.flat_map(|n| super::names::meanings(n).into_iter().chain([n.clone()]));
    all.flat_map(|n| [place(super::names::repository(&n)), place(&n)]).find_map(|p| holder_of(holds, &p))
}

/// Where an image of that name stands in plans and holds.
pub(super) fn place(name: &str) -> PathBuf {
    Path::new(IMAGE_PLACE)
        .join(Path::new(std::ffi::OsStr::from_bytes(name.trim_start_matches('/').as_bytes())))
}

struct Gone {
    bytes: u64,
}

enum Left {
    Skipped(String),
    Failed(String),
}

/// What counts against budgets.
#[derive(Default)]
struct Spent {
    objects: u64,
    bytes: u64,
    /// Whether it was removed, and stands in the ledger too.
    removed: bool,
}

impl Spent {
    fn note(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// One action as it goes.
#[derive(Default)]
struct Run {
    spent: Spent,
    /// Why the rest is not tried.
    silent: Option<String>,
}

#[cfg(test)]
mod tests;
