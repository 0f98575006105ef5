//! Plans: from what a survey found, the smallest set that suffices, and why everything else stays.
//!
//! Pure: no clock, no filesystem, no randomness.
//!
//! Invariants
//! - Tiers go in ascending order, and within a tier the longest unchanged first, until the need is met; then whatever
//!   turned out superfluous stays. No object of a sufficient plan could be left out.
//! - An inode counts once, and only if all its links are in the plan; otherwise removing a name would free nothing.
//! - Budgets (what the hour has left of each) and the size of the action's own record bound a plan: what they keep out
//!   makes room for the next that may go, and is named. One that falls short says how far it gets.

mod limit;
mod refused;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dogwatch::record::{Action, ActionState, CleanupMode, PlannedImage, PlannedObject, Refusal};

use super::hold::{Hold, holder_of};
use super::images::holder_of_image;
pub use limit::{Allowance, Left, PreserveLeft};
use limit::{Limit, Over, Spent};
pub(super) use refused::bounded;
use refused::{MAX_REFUSALS, Refused};

use super::policy::{NODE_ACTOR, RootRules, Rules, Times};
use super::rotation::newest_of_each_family;
use super::words;

/// How the refusal begins that speaks of budgets.
const BUDGETS: &str = "budgets: ";
/// How the detail begins of a plan of a mount that has the room that is wanted.
const NEEDLESS: &str = "nothing needs to go";
/// How long a plan may be applied, by default.
pub const PLAN_LIFETIME_NS: i64 = 600 * 1_000_000_000;
/// Most bytes that the objects of one action may take in its record, so that it fits a block with its refusals.
const MAX_OBJECT_RECORD_BYTES: u64 = 272 * 1024;
/// Most objects that are named for staying over a budget: what else stays is to be named too.
const MAX_OVER_BUDGET: usize = MAX_REFUSALS / 4;
/// What an object takes in a record besides its path and its reason, with its digest: measured at 110 to 150, and 30 for
/// the times of access and birth and what was preserved.
const OBJECT_RECORD_BYTES: u64 = 190;

/// An object that a survey found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The object.
    pub object: PlannedObject,
    /// The root that it lies beneath.
    pub root: PathBuf,
    /// Whether anybody had it open.
    pub open_elsewhere: bool,
    /// When it was last read, where its mount tells.
    pub accessed_ns: Option<i64>,
    /// The filesystem that it lies on, as [`Trigger::device`] has it: its `st_dev` may be a subvolume's.
    pub filesystem: u64,
}

/// What a survey found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// What the roots' cleaners take, of any age.
    pub candidates: Vec<Candidate>,
    /// What bears such a name but is out of the question, and folders that could not be entered.
    pub passed_over: Vec<Refusal>,
    /// Why the survey is not whole, if it is not.
    pub partial: Option<String>,
    /// How much content may be kept of what goes, where that bounds what may go.
    pub preserve: Option<Box<PreserveLeft>>,
}

impl Survey {
    /// Whether images are among it.
    pub(super) fn has_images(&self) -> bool {
        self.candidates.iter().any(|c| c.object.image.is_some())
    }

    /// It without the images, for an action that nobody asked for while images go in `mode`, which is less than `auto`.
    pub(super) fn without_images(&self, mode: CleanupMode) -> Self {
        let mut rest = self.clone();
        rest.candidates.retain(|c| c.object.image.is_none());
        let left = self.candidates.len() - rest.candidates.len();
        if left > 0 {
            let reason =
                format!("{left} images stay: cleanup.images.mode is {mode}, and nobody asked for them to go");
            rest.passed_over.push(Refusal { path: None, reason });
        }
        rest
    }
}

/// What a plan is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// The mount to relieve.
    pub mount: String,
    /// Its filesystem: the device number that the table of mounts has.
    pub device: u64,
    /// Its size.
    pub total_bytes: u64,
    /// What is available now.
    pub available_bytes: u64,
    /// What is to be available: the low-water mark.
    pub target_available_bytes: u64,
    /// Free inodes now.
    pub inodes_free: u64,
    /// Free inodes wanted; 0 where inodes do not matter.
    pub target_inodes_free: u64,
    /// Why, in words.
    pub reason: String,
    /// The finding behind it, if one is.
    pub finding_id: Option<String>,
    /// `node`, or a person's name.
    pub actor: String,
}

/// Makes the plan `id`: planned if it has an object, refused if not. `now_wall_ns` is the node's clock.
pub fn plan(
    id: String,
    trigger: &Trigger,
    survey: &Survey,
    rules: &Rules,
    left: impl Into<Left>,
    holds: &[Hold],
    now_wall_ns: i64,
) -> Action {
    let need = Need {
        bytes: trigger.target_available_bytes.saturating_sub(trigger.available_bytes),
        inodes: trigger.target_inodes_free.saturating_sub(trigger.inodes_free),
    };
    let mut refused = Refused::default();
    survey.passed_over.iter().for_each(|passed| refused.again(passed));
    let mut eligible = eligible(survey, rules, holds, trigger.device, now_wall_ns, &mut refused);
    let by_hand = leave_to_people(&mut eligible, rules, &trigger.actor, &mut refused);
    let units = units(eligible, rules, &mut refused);
    let limit = Limit::new(rules, &left.into(), survey.preserve.as_deref());
    let (unbounded, _) = choose(&units, need, None);
    let within = limit.holds(&units, &unbounded);
    let (chosen, kept_out) =
        if within { (unbounded.clone(), Vec::new()) } else { choose(&units, need, Some(&limit)) };
    let sum = Sum::of(&units, &chosen);
    let mut over: Vec<Over> = Vec::new();
    if !within {
        let wanted: HashSet<usize> = unbounded.iter().copied().collect();
        let mut named = Vec::new();
        for (index, by) in kept_out.into_iter().filter(|(index, _)| wanted.contains(index)) {
            over.push(by);
            let names = units[index].objects.iter().take(MAX_OVER_BUDGET.saturating_sub(named.len()));
            named.extend(names.map(|o| Refusal { path: Some(o.path.clone()), reason: limit.why(by) }));
        }
        // Before what could never go.
        refused.first(named);
        over.sort_unstable();
        over.dedup();
        if !need.is_met(&sum) {
            let reason = limit.said(&Sum::of(&units, &unbounded), &sum, &over);
            refused.general(reason);
        }
    }
    if let Some(partial) = &survey.partial {
        refused.general(partial.clone());
    }
    if let Some(reason) = by_hand {
        refused.general(reason);
    }
    let objects: Vec<PlannedObject> = chosen.iter().flat_map(|i| units[*i].objects.iter().cloned()).collect();
    let state = if objects.is_empty() { ActionState::Refused } else { ActionState::Planned };
    Action {
        id,
        mount: trigger.mount.clone(),
        mode: rules.policy.mode,
        state,
        reason: trigger.reason.clone(),
        finding_id: trigger.finding_id.clone(),
        actor: trigger.actor.clone(),
        planned_bytes: sum.bytes,
        freed_bytes: None,
        available_before_bytes: None,
        available_after_bytes: None,
        unexplained: None,
        target_available_bytes: trigger.target_available_bytes,
        detail: detail(trigger, need, &sum, units.len(), &limit.all_words(&over)),
        objects,
        refused: refused.bounded(),
        expires_wall_ns: now_wall_ns.saturating_add(PLAN_LIFETIME_NS),
        image_store: None,
    }
}

/// Whether budgets kept objects out of the plan that would have been needed and may go.
pub(super) fn is_cut_short(action: &Action) -> bool {
    action.refused.iter().any(|r| r.path.is_none() && r.reason.starts_with(BUDGETS))
}

/// Whether nothing came of a plan because its mount has the room that is wanted: nothing kept anything from going.
pub fn is_needless(action: &Action) -> bool {
    action.state == ActionState::Refused && action.objects.is_empty() && action.detail.starts_with(NEEDLESS)
}

fn detail(trigger: &Trigger, need: Need, sum: &Sum, removable: usize, over: &str) -> String {
    let available = words::bytes(trigger.available_bytes);
    if need.is_met(&Sum::default()) {
        return format!("{NEEDLESS}: {available} are available, {} are wanted", {
            words::bytes(trigger.target_available_bytes)
        });
    }
    let mut wants = Vec::new();
    if need.bytes > 0 {
        wants.push(words::bytes(need.bytes));
    }
    if need.inodes > 0 {
        wants.push(format!("{} inodes", need.inodes));
    }
    let wants = wants.join(" and ");
    if need.is_met(sum) {
        let gives = words::bytes(sum.bytes);
        format!("{} objects with {gives} suffice for {wants}; {removable} could go", sum.objects)
    } else if sum.objects == 0 && !over.is_empty() {
        format!("{wants} are wanted, {removable} objects could go, and budgets leave nothing: {over}")
    } else if sum.objects == 0 {
        format!("{wants} are wanted and nothing may go")
    } else {
        let reaches = words::bytes(trigger.available_bytes.saturating_add(sum.bytes));
        let gives = words::bytes(sum.bytes);
        format!(
            "falls short: {} objects with {gives} and {} inodes of {wants} wanted; it reaches {reaches} available",
            sum.objects, sum.inodes
        )
    }
}

#[derive(Debug, Clone, Copy)]
struct Need {
    bytes: u64,
    inodes: u64,
}

impl Need {
    fn is_met(&self, sum: &Sum) -> bool {
        sum.bytes >= self.bytes && sum.inodes >= self.inodes
    }

    fn is_helped_by(&self, sum: &Sum, unit: &Unit) -> bool {
        (sum.bytes < self.bytes && unit.sum.bytes > 0) || sum.inodes < self.inodes
    }
}

/// An inode with all its names, or an image with all of its.
struct Unit {
    /// The roots of its names, and how many of them lie in each.
    roots: Vec<(usize, u64)>,
    objects: Vec<PlannedObject>,
    /// What is the least goes first.
    order_ns: i64,
    sum: Sum,
}

impl Unit {
    fn of_image(object: PlannedObject) -> Self {
        let names = object
            .image
            .as_deref()
            .map_or(0, |i| i.tags.iter().chain(&i.digests).chain([&i.id]).map(|n| n.len() as u64 + 2).sum());
        let said = (object.path.as_os_str().len() + object.why_safe.len()) as u64;
        let sum = Sum {
            objects: 1,
            bytes: object.allocated_bytes,
            inodes: object.image.as_deref().map_or(0, |i| i.inodes),
            record_bytes: said + names + OBJECT_RECORD_BYTES,
            preserved_bytes: 0,
        };
        // Of no root: the image keeper has offered only what its own budgets allow.
        let order_ns = object.mtime_ns.max(object.ctime_ns);
        Self { roots: Vec::new(), objects: vec![object], order_ns, sum }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    objects: u64,
    bytes: u64,
    inodes: u64,
    record_bytes: u64,
    /// Content that is to be kept.
    preserved_bytes: u64,
}

impl Sum {
    fn of(units: &[Unit], chosen: &[usize]) -> Self {
        chosen.iter().fold(Self::default(), |sum, i| sum.plus(&units[*i].sum))
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            objects: self.objects + other.objects,
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes + other.inodes,
            record_bytes: self.record_bytes + other.record_bytes,
            preserved_bytes: self.preserved_bytes.saturating_add(other.preserved_bytes),
        }
    }

    fn minus(self, other: &Self) -> Self {
        Self {
            objects: self.objects - other.objects,
            bytes: self.bytes.saturating_sub(other.bytes),
            inodes: self.inodes - other.inodes,
            record_bytes: self.record_bytes - other.record_bytes,
            preserved_bytes: self.preserved_bytes.saturating_sub(other.preserved_bytes),
        }
    }
}

/// The candidates that may go, with the reason written out; what may not is added to `refused`.
fn eligible(
    survey: &Survey,
    rules: &Rules,
    holds: &[Hold],
    device: u64,
    now_wall_ns: i64,
    refused: &mut Refused,
) -> Vec<PlannedObject> {
    let newest = newest(survey, rules, now_wall_ns);
    let mut eligible = Vec::new();
    // Two cleaners at one place may both take a file; the first that lets it go is enough.
    let mut taken: HashSet<&Path> = HashSet::new();
    for candidate in &survey.candidates {
        let object = &candidate.object;
        if let Some(image) = object.image.as_deref() {
            match image_may_go(object, image, holds, device) {
                Ok(()) => eligible.push(object.clone()),
                Err(reason) => refused.stays(&object.path, &reason),
            }
            continue;
        }
        if taken.contains(object.path.as_path()) {
            continue;
        }
        let Some((index, _)) = rules.root_for(&object.path, &object.cleaner) else { continue };
        let root = &rules.roots()[index];
        let judged = may_go(candidate, root, &newest, holds, device, now_wall_ns);
        match judged.and_then(|why| too_large_to_keep(survey, root, object).map_or(Ok(why), Err)) {
            Ok(why) => {
                taken.insert(&object.path);
                let why_safe = format!("{}; {why}", object.why_safe);
                eligible.push(PlannedObject { why_safe, ..object.clone() });
            }
            Err(reason) => refused.stays(&object.path, &reason),
        }
    }
    eligible
}

/// Everything else was judged by the image keeper, which alone knows who uses what.
fn image_may_go(
    object: &PlannedObject,
    image: &PlannedImage,
    holds: &[Hold],
    device: u64,
) -> Result<(), String> {
    if object.device != device {
        return Err("it lies on another filesystem".to_owned());
    }
    holder_of_image(holds, image).map_or(Ok(()), |hold| Err(hold.said()))
}

/// Why an object never goes from a root that keeps content, however much of the budget is left.
fn too_large_to_keep(survey: &Survey, rules: &RootRules, object: &PlannedObject) -> Option<String> {
    let left = survey.preserve.as_ref().filter(|_| rules.policy.preserve && object.cut.is_none())?;
    (object.size_bytes > left.object_bytes).then(|| {
        format!(
            "its root preserves content, and it has {}, over cleanup.preserve.max_bytes_per_object of {}",
            words::bytes(object.size_bytes),
            words::bytes(left.object_bytes)
        )
    })
}

fn may_go(
    candidate: &Candidate,
    rules: &RootRules,
    newest: &HashSet<(&Path, &str)>,
    holds: &[Hold],
    device: u64,
    now_wall_ns: i64,
) -> Result<String, String> {
    let object = &candidate.object;
    if candidate.filesystem != device {
        return Err("it lies on another filesystem".to_owned());
    }
    if let Some(hold) = holder_of(holds, &object.path) {
        return Err(hold.said());
    }
    let times = times(object, candidate.accessed_ns);
    let age = rules.judge_age(&times, now_wall_ns)?;
    rules.judge_owner(object.uid)?;
    if newest.contains(&(object.path.as_path(), object.cleaner.as_str())) {
        let (keep, family) = (rules.policy.keep_newest, rules.kind().family_word());
        return Err(format!("it is among the {keep} newest of {family}, which stay"));
    }
    if candidate.open_elsewhere {
        return Err("open elsewhere".to_owned());
    }
    if rules.kind().cuts() {
        return match object.cut {
            Some(_) => Ok("cut in place, its name and its end stay".to_owned()),
            None => Err("nobody looked where it may be cut".to_owned()),
        };
    }
    let owned = rules.policy.owner.map_or(String::new(), |uid| format!("; user {uid}'s"));
    Ok(format!("{}{owned}; nobody had it open", rules.age_in_words(age, &times)))
}

/// Takes out what the node does not remove by itself, because its root only plans; the sum in words.
fn leave_to_people(
    eligible: &mut Vec<PlannedObject>,
    rules: &Rules,
    actor: &str,
    refused: &mut Refused,
) -> Option<String> {
    // In mode plan the node removes nothing by itself, and its plans are for people to apply.
    let by_itself = rules.policy.mode == CleanupMode::Auto && actor == NODE_ACTOR;
    let (mut objects, mut bytes) = (0u64, 0u64);
    eligible.retain(|object| {
        let root = rules.root_for(&object.path, &object.cleaner);
        let judged =
            root.map_or(Ok(()), |(index, _)| rules.roots()[index].judge_mode(rules.policy.mode, by_itself));
        let Err(why) = judged else { return true };
        objects += 1;
        bytes = bytes.saturating_add(object.allocated_bytes);
        let reason = format!("{why}; {}", object.why_safe);
        refused.stays(&object.path, &reason);
        false
    });
    (objects > 0).then(|| {
        format!(
            "{objects} more objects with {} could go by hand: the mode of their roots is plan, so a responder's \
             `dogwatch clean` removes them and the node does not",
            words::bytes(bytes)
        )
    })
}

fn times(object: &PlannedObject, accessed_ns: Option<i64>) -> Times {
    let PlannedObject { mtime_ns: modified_ns, ctime_ns: changed_ns, btime_ns: born_ns, .. } = *object;
    Times { modified_ns, changed_ns, born_ns, accessed_ns }
}

/// A folder, and the root that decides there.
type Place<'s> = (&'s Path, usize);

/// What stays because it is among the newest of its family in its folder: path and cleaner.
fn newest<'s>(survey: &'s Survey, rules: &Rules, now_wall_ns: i64) -> HashSet<(&'s Path, &'s str)> {
    let mut folders: HashMap<Place<'_>, Vec<(&[u8], i64)>> = HashMap::new();
    let placed = |object: &'s PlannedObject| {
        let (index, _) = rules.root_for(&object.path, &object.cleaner)?;
        Some(((object.path.parent()?, index), object.path.file_name()?.as_bytes()))
    };
    for candidate in &survey.candidates {
        if let Some((place, name)) = placed(&candidate.object) {
            folders.entry(place).or_default().push((name, candidate.object.mtime_ns));
        }
    }
    let kept: HashMap<Place<'_>, HashSet<&[u8]>> = folders
        .into_iter()
        .map(|(place, members)| {
            let root = &rules.roots()[place.1];
            let family = |name| root.kind().family(name);
            (place, newest_of_each_family(members, root.policy.keep_newest, |at| at > now_wall_ns, family))
        })
        .collect();
    let stays = |object: &'s PlannedObject| {
        placed(object).is_some_and(|(place, name)| kept.get(&place).is_some_and(|names| names.contains(name)))
    };
    let objects = survey.candidates.iter().map(|c| &c.object);
    objects.filter(|o| stays(o)).map(|o| (o.path.as_path(), o.cleaner.as_str())).collect()
}

/// Groups links of one inode, in the order in which units go. An inode with a link elsewhere is refused.
fn units(eligible: Vec<PlannedObject>, rules: &Rules, refused: &mut Refused) -> Vec<Unit> {
    let mut inodes: BTreeMap<(u64, u64), Vec<PlannedObject>> = BTreeMap::new();
    let (images, files): (Vec<_>, Vec<_>) = eligible.into_iter().partition(|o| o.image.is_some());
    for object in files {
        inodes.entry((object.device, object.inode)).or_default().push(object);
    }
    let mut units: Vec<Unit> = images.into_iter().map(Unit::of_image).collect();
    for mut objects in inodes.into_values() {
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        let (links, here) = (objects[0].links, objects.len() as u64);
        if links != here {
            let reason = format!(
                "it has {links} links, {} of them out of this plan's reach: nothing would come free",
                { links.saturating_sub(here) }
            );
            objects.iter().for_each(|o| refused.stays(&o.path, &reason));
            continue;
        }
        let record = |o: &PlannedObject| {
            let tail = o.cut.as_ref().map_or(0, |cut| cut.tail.len());
            (o.path.as_os_str().len() + o.why_safe.len() + tail) as u64 + OBJECT_RECORD_BYTES
        };
        let mut roots: BTreeMap<usize, u64> = BTreeMap::new();
        for (index, _) in objects.iter().filter_map(|o| rules.root_for(&o.path, &o.cleaner)) {
            *roots.entry(index).or_default() += 1;
        }
        let keeps = |index: &usize| {
            let root = &rules.roots()[*index];
            root.policy.preserve && !root.kind().cuts()
        };
        let sum = Sum {
            objects: here,
            bytes: objects[0].allocated_bytes,
            inodes: 1,
            record_bytes: objects.iter().map(record).sum(),
            preserved_bytes: if roots.keys().any(keeps) { objects[0].size_bytes } else { 0 },
        };
        let times = times(&objects[0], None);
        let order = roots.keys().map(|index| times.order_ns(&rules.roots()[*index]));
        let order_ns = order.max().unwrap_or(times.changed_ns);
        units.push(Unit { roots: roots.into_iter().collect(), objects, order_ns, sum });
    }
    units.sort_by(|a, b| {
        let key = |u: &Unit| (u.objects[0].tier, u.order_ns);
        key(a).cmp(&key(b)).then_with(|| a.objects[0].path.cmp(&b.objects[0].path))
    });
    units
}

/// Units in order until the need is met, each within the limit; then without those that turned out superfluous, the
/// costliest and youngest of them first. Beside them, those that the limit kept out, and by what.
fn choose(units: &[Unit], need: Need, limit: Option<&Limit<'_>>) -> (Vec<usize>, Vec<(usize, Over)>) {
    let (mut chosen, mut kept_out) = (Vec::new(), Vec::new());
    let mut sum = Sum::default();
    let mut spent = Spent::default();
    for (index, unit) in units.iter().enumerate() {
        if need.is_met(&sum) {
            break;
        }
        if !need.is_helped_by(&sum, unit) {
            continue;
        }
        match limit.map_or(Ok(()), |l| l.takes(&mut spent, unit)) {
            Ok(()) => {
                chosen.push(index);
                sum = sum.plus(&unit.sum);
            }
            Err(over) => kept_out.push((index, over)),
        }
    }
    if need.is_met(&sum) {
        for at in (0..chosen.len()).rev() {
            let without = sum.minus(&units[chosen[at]].sum);
            if need.is_met(&without) {
                chosen.remove(at);
                sum = without;
            }
        }
    }
    (chosen, kept_out)
}

#[cfg(test)]
mod tests;
