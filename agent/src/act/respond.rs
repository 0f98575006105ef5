//! Response: when to survey, plan, record and apply. A pure state machine that the agent's core drives.
//!
//! The core tells it what happened ([`Respond::on_finding`], [`Respond::on_survey`], [`Respond::on_recorded`],
//! [`Respond::on_applied`], [`Respond::on_command`], [`Respond::on_tick`]) and does the [`Step`]s that come back.
//!
//! Invariants
//! - Nothing is applied whose record is not durable: [`Step::Apply`] comes only after [`Respond::on_recorded`] for the
//!   same action in state `started`. A record that could not be kept refuses the action.
//! - One survey or action a mount at a time, and a cooldown after each cleanup. It is not waited for where budgets kept
//!   back what was needed, or where the mount would be full before or soon after it; what is done within one cooldown is one
//!   cleanup to the breaker.
//! - A cleanup that begins by itself aims beyond the low-water mark by what a fast writer takes during a cooldown, and goes
//!   there only while it writes on (`parts`); where other mounts fill as well, who is full soonest goes first, and each takes
//!   shorter turns (`crowd`).
//! - A mount that fills again after [`Settings::breaker_cleanups`] cleanups within [`Settings::breaker_window_ns`] is left
//!   alone for that long; that is a finding ([`Step::NotHolding`]), once each time.
//! - Mode `plan` makes a plan once an episode, and again only when it expired, ever less often, or the need grew materially; in
//!   either mode, where nothing could go, it is looked at again sooner (`again`).
//! - In `auto` a plan that is durable waits for leave to begin ([`Gate`]); a stop ends what is under way ([`Step::Halt`]).
//! - A person's command passes cooldown and breaker, never the mode, the roots, the budgets or a plan's expiry.
//!
//! Spans are measured by the boot clock, which never jumps; a plan's expiry by both clocks.
//!
//! Deliberately absent: time, disk, randomness; they come in as arguments.

mod again;
mod breaker;
mod budget;
mod clearance;
mod crowd;
mod fall;
mod need;
mod orders;
mod parts;
mod place;
mod settings;
mod standing;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::path::PathBuf;

use dogwatch::record::{
    Action, ActionState, CleanupMode, Finding, FindingState, Moment, Mount, ObjectOutcome, PlannedObject,
    Refusal,
};

use self::again::Made;
use self::breaker::{Breaker, Room};
use self::clearance::Leave;
use self::fall::Fall;
use self::need::{trigger, worst};
use self::parts::Parts;
use super::hold::Hold;
use super::ledger::Ledger;
use super::permit::Gate;
use super::plan::{Left, PLAN_LIFETIME_NS, Survey, Trigger, is_cut_short, plan};
use super::policy::Rules;
use super::shares::NO_SURVEY;
use crate::detect::DiskConfig;
pub use orders::{Command, Order};
pub use place::Unmet;
pub use settings::Settings;
pub use standing::Standing;

/// What an action or an order is told that waited while the mode changed.
const SWITCHED_OFF: &str = "nothing was touched: cleanup.mode was set to off before this began";

/// The rules whose findings on a mount ask for a cleanup.
pub const TRIGGERS: &[&str] = &[DISK_HIGH_WATER, INODE_HIGH_WATER, DISK_TIME_TO_FULL];
/// Too few bytes are available.
pub const DISK_HIGH_WATER: &str = "disk-high-water";
/// Too few inodes are free.
pub const INODE_HIGH_WATER: &str = "inode-high-water";
/// At this rate the mount is full soon.
pub const DISK_TIME_TO_FULL: &str = "disk-time-to-full";
/// The rule of the finding that [`Step::NotHolding`] asks for.
pub const CLEANUP_NOT_HOLDING: &str = "cleanup-not-holding";
/// The rule of the finding that [`Step::OutOfBudget`] asks for.
pub const CLEANUP_OUT_OF_BUDGET: &str = "cleanup-out-of-budget";

/// Most plans that are remembered for a person to apply.
const MAX_PLANS: usize = 64;
/// Most commands that wait for one mount.
const MAX_WAITING: usize = 8;
/// From the end of a cleanup to the next one that does not wait for the cooldown: the figures must be of after it.
const SETTLE_NS: u64 = 2_000_000_000;
/// A cleanup may take so long to begin, with the fleet's leave: what is full so soon after a cooldown does not wait for its end.
const LEAD_NS: u64 = 20_000_000_000;

/// What the core is to do next, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Ask the executor what lies on `device`, then call [`Respond::on_survey`].
    Survey {
        /// The mount.
        mount: String,
        /// Its filesystem, as the table of mounts numbers it.
        device: u64,
    },
    /// Record the action durably, then call [`Respond::on_recorded`].
    Record(Box<Action>),
    /// Give the action, or what goes of it by now, to the executor, then call [`Respond::on_applied`].
    Apply(Box<Action>),
    /// Have the executor end the action before its next object.
    Halt {
        /// Which.
        action: String,
        /// Why.
        why: String,
    },
    /// Answer a person's command.
    Answer {
        /// The command's id.
        command: String,
        /// The action, or what, why and remedy.
        result: Result<Box<Action>, Unmet>,
    },
    /// Look where a path lies, then call [`Respond::on_found`].
    Find {
        /// The command that needs it.
        command: String,
        /// An absolute path of the host.
        path: PathBuf,
    },
    /// Raise a finding of rule [`CLEANUP_NOT_HOLDING`] on `mount`.
    NotHolding {
        /// The mount.
        mount: String,
        /// One sentence with figures.
        summary: String,
        /// The last cleanup's id.
        action_id: String,
    },
    /// Raise a finding of rule [`CLEANUP_OUT_OF_BUDGET`] on `mount`, or end it.
    OutOfBudget {
        /// The mount.
        mount: String,
        /// One sentence with figures; `None`: budgets leave something again.
        said: Option<String>,
    },
}

/// The state machine.
pub struct Respond {
    rules: Rules,
    settings: Settings,
    /// The low-water marks; without them, those of the settings hold everywhere.
    marks: Option<DiskConfig>,
    images: CleanupMode,
    gate: Gate,
    holds: Vec<Hold>,
    owed: Owed,
    new_id: Box<dyn FnMut() -> u64 + Send>,
    mounts: BTreeMap<String, Site>,
    plans: VecDeque<Kept>,
    /// What went in the last hour, by whoever removed it.
    ledger: Ledger,
    /// Commands that wait until it is known on which mount their path lies.
    searching: VecDeque<Command>,
    /// When the last survey or cleanup ended.
    worked_until_boot_ns: u64,
}

/// A plan that may still be applied.
struct Kept {
    action: Action,
    expires_boot_ns: u64,
}

/// What is known of one mount.
#[derive(Default)]
struct Site {
    figures: Option<Mount>,
    /// Whether they are from before the last cleanup's end.
    stale: bool,
    fall: Fall,
    findings: BTreeMap<String, Finding>,
    busy: Option<Busy>,
    waiting: VecDeque<Command>,
    /// Since when plans of it, one after the other, wait for leave.
    waits_since_boot_ns: Option<u64>,
    last_plan: Option<Made>,
    breaker: Breaker,
    /// End of the last cleanup that began by itself or by a person.
    cleaned_boot_ns: Option<u64>,
    /// Whether budgets kept back what it needed.
    cut_short: bool,
    /// Whether they leave nothing at all of it, and that was said.
    out_of_budget: bool,
}

/// Ballast that is to be taken again when there is room.
#[derive(Debug, Clone, Copy, Default)]
struct Owed {
    device: u64,
    bytes: u64,
    inodes: u64,
}

/// What is under way on a mount.
struct Busy {
    trigger: Trigger,
    /// To the low-water marks, when it began.
    lacked: Room,
    since_boot_ns: u64,
    command: Option<String>,
    /// The action, once it is planned.
    action: Option<Action>,
    applies: bool,
    leave: Leave,
    parts: Parts,
}

impl Respond {
    /// A machine for a node whose executor has the policy of `rules`. `new_id` gives random numbers for action ids.
    pub fn new(rules: Rules, settings: Settings, gate: Gate, new_id: Box<dyn FnMut() -> u64 + Send>) -> Self {
        let (mounts, plans, ledger) = (BTreeMap::new(), VecDeque::new(), Ledger::default());
        let (holds, owed, searching) = (Vec::new(), Owed::default(), VecDeque::new());
        let images = CleanupMode::Off;
        Self {
            rules,
            settings,
            marks: None,
            images,
            gate,
            holds,
            owed,
            new_id,
            mounts,
            plans,
            ledger,
            searching,
            worked_until_boot_ns: 0,
        }
    }

    /// Images may go in `mode` at most; without this, not at all.
    #[must_use]
    pub fn with_images(mut self, mode: CleanupMode) -> Self {
        self.images = mode;
        self
    }

    /// Begins with what the last runs spent of the hourly budgets.
    #[must_use]
    pub fn with_spent(mut self, ledger: Ledger) -> Self {
        self.ledger = ledger;
        self
    }

    /// The node's mode.
    pub fn mode(&self) -> CleanupMode {
        self.rules.policy.mode
    }

    /// Goes on in another mode. A cleanup that is under way is finished; the mode of the executor, which it was started
    /// with, stays a bound: one that was `off` removes nothing.
    pub fn set_mode(&mut self, mode: CleanupMode) {
        if self.rules.policy.mode == mode {
            return;
        }
        self.rules.policy.mode = mode;
        // A plan that was made in another mode is no reason to wait for the need to grow.
        for site in self.mounts.values_mut() {
            site.last_plan = None;
        }
    }

    /// Aims for the low-water marks of `marks` from now on.
    pub fn set_marks(&mut self, marks: DiskConfig) {
        self.marks = Some(marks);
    }

    /// Takes the holds that are in force.
    pub fn set_holds(&mut self, holds: Vec<Hold>) {
        self.holds = holds;
    }

    /// Ballast of so many bytes and inodes is to come back on the filesystem `device`: its room is lent, so that
    /// plans aim for as much more.
    pub fn set_owed(&mut self, device: u64, bytes: u64, inodes: u64) {
        self.owed = Owed { device, bytes, inodes };
    }

    /// The newest figures of every mount; plans use them.
    pub fn on_sample(&mut self, mounts: &[Mount], now: Moment) {
        for mount in mounts {
            let site = self.mounts.entry(mount.path.clone()).or_default();
            // One that was begun before a cleanup's end may come after it, and knows less than the cleanup said.
            if site.cleaned_boot_ns.is_some_and(|cleaned| cleaned > now.boot_ns) {
                continue;
            }
            site.fall.see(now.boot_ns, mount.available_bytes);
            site.figures = Some(mount.clone());
            site.stale = false;
        }
        self.mounts.retain(|path, site| {
            site.busy.is_some() || !site.findings.is_empty() || mounts.iter().any(|m| m.path == *path)
        });
    }

    /// A finding was raised, updated or cleared. Those of other rules and subjects are none of its business.
    pub fn on_finding(&mut self, finding: &Finding, now: Moment) -> Vec<Step> {
        if finding.subject.kind != "mount" || !TRIGGERS.contains(&finding.rule.as_str()) {
            return Vec::new();
        }
        let site = self.mounts.entry(finding.subject.name.clone()).or_default();
        match finding.state {
            FindingState::Cleared => {
                site.findings.remove(&finding.rule);
                if site.findings.is_empty() {
                    site.last_plan = None;
                    site.waits_since_boot_ns = None;
                    site.out_of_budget = false;
                }
                Vec::new()
            }
            FindingState::Raised | FindingState::Updated => {
                site.findings.insert(finding.rule.clone(), finding.clone());
                self.consider(&finding.subject.name, now)
            }
        }
    }

    /// Time passed: cooldowns end, plans expire.
    pub fn on_tick(&mut self, now: Moment) -> Vec<Step> {
        self.plans.retain(|kept| kept.expires_boot_ns > now.boot_ns);
        let mut steps = self.watch_permits(now);
        steps.extend(self.go_on(now));
        steps.extend(self.by_urgency().iter().flat_map(|mount| self.consider(mount, now)));
        steps
    }

    /// What the survey of `mount` found, or why there is none.
    pub fn on_survey(&mut self, mount: &str, found: Result<&Survey, String>, now: Moment) -> Vec<Step> {
        let left = self.left(now);
        let rest_ns = self.rest_ns(mount, now);
        let Some(site) = self.mounts.get_mut(mount) else { return Vec::new() };
        let Some(busy) = site.busy.as_mut().filter(|b| b.action.is_none()) else { return Vec::new() };
        let id = format!("a-{:016x}", (self.new_id)());
        let images = self.images;
        let kept;
        let found = match found {
            Ok(survey) if busy.applies && images != CleanupMode::Auto && survey.has_images() => {
                kept = survey.without_images(images);
                Ok(&kept)
            }
            other => other,
        };
        let action = match found {
            Ok(survey) => plan(id, &busy.trigger, survey, &self.rules, left, &self.holds, now.wall_ns),
            Err(why) => {
                let nothing = Survey::default();
                let mut action =
                    plan(id, &busy.trigger, &nothing, &self.rules, left, &self.holds, now.wall_ns);
                action.refused.push(Refusal { path: None, reason: format!("{NO_SURVEY}: {why}") });
                action.detail = format!("nothing could be planned: {why}");
                action
            }
        };
        let empty = action.state == ActionState::Refused;
        let applies = busy.applies;
        busy.action = Some(action.clone());
        let mut steps = Vec::new();
        // A person's plan is theirs; it neither starts nor ends what the episode does.
        if busy.command.is_none() {
            let trigger = busy.trigger.clone();
            let news = site.note_own_plan(&action, applies, &trigger, rest_ns, now);
            if applies {
                steps.extend(site.budgets_say(&action));
            }
            if !news {
                steps.extend(self.free(mount, now));
                return steps;
            }
        } else if !empty {
            site.note_persons_plan();
        }
        if !empty {
            let lifetime = u64::try_from(PLAN_LIFETIME_NS).unwrap_or(0);
            let expires_boot_ns = now.boot_ns.saturating_add(lifetime);
            self.plans.push_back(Kept { action: action.clone(), expires_boot_ns });
            if self.plans.len() > MAX_PLANS {
                self.plans.pop_front();
            }
        }
        steps.push(Step::Record(Box::new(action)));
        steps
    }

    /// Whether the record of `action` is durable; if not, why.
    pub fn on_recorded(&mut self, action: &Action, kept: Result<(), String>, now: Moment) -> Vec<Step> {
        let mode = self.mode();
        let Some(site) = self.mounts.get_mut(&action.mount) else { return Vec::new() };
        let Some(busy) = site.busy.as_mut() else { return Vec::new() };
        let Some(ours) = busy.action.as_mut().filter(|a| a.id == action.id && a.state == action.state) else {
            return Vec::new();
        };
        if let Err(why) = kept {
            self.plans.retain(|k| k.action.id != action.id);
            let why = match action.state {
                ActionState::Done | ActionState::Failed => format!(
                    "{} was carried out, and the record of its outcome could not be kept ({why}): look at the node",
                    action.id
                ),
                _ => format!("nothing was touched: the record of {} could not be kept ({why})", action.id),
            };
            let command = busy.command.take();
            let mut steps: Vec<Step> = command
                .map(|command| Step::Answer { command, result: Err(why.into()) })
                .into_iter()
                .collect();
            steps.extend(self.free(&action.mount, now));
            return steps;
        }
        match ours.state {
            // The mode may have changed since the survey began.
            ActionState::Planned if busy.applies && mode == CleanupMode::Auto => {
                self.wait_for_leave(&action.mount, now)
            }
            ActionState::Started if mode == CleanupMode::Off => {
                ours.state = ActionState::Refused;
                ours.objects.clear();
                ours.detail = SWITCHED_OFF.to_owned();
                vec![Step::Record(Box::new(ours.clone()))]
            }
            ActionState::Started => {
                let leave = busy.leave.clone();
                self.apply_or_not(action, &leave, now)
            }
            ActionState::Planned | ActionState::Done | ActionState::Failed | ActionState::Refused => {
                let result = Ok(Box::new(ours.clone()));
                let command = busy.command.take();
                let mut steps: Vec<Step> =
                    command.map(|command| Step::Answer { command, result }).into_iter().collect();
                steps.extend(self.free(&action.mount, now));
                steps
            }
        }
    }

    /// What became of an action, or of a part of it, that was applied: the executor's report, or what
    /// [`super::handle::look_after`] found.
    pub fn on_applied(&mut self, applied: Action, now: Moment) -> Vec<Step> {
        self.worked_until_boot_ns = now.boot_ns;
        match self.next_part(applied, now) {
            ControlFlow::Break(next) => next,
            ControlFlow::Continue(whole) => {
                let available_bytes = whole.available_after_bytes;
                self.on_whole(whole, available_bytes, now)
            }
        }
    }

    /// What became of an action, at whose mount so much is available by `now`.
    fn on_whole(&mut self, applied: Action, available_bytes: Option<u64>, now: Moment) -> Vec<Step> {
        self.ledger.note_action(&applied, &self.rules, now.boot_ns);
        let Some(site) = self.mounts.get_mut(&applied.mount) else { return Vec::new() };
        let Some(busy) = site.busy.as_mut() else { return Vec::new() };
        let started =
            busy.action.as_ref().is_some_and(|a| a.id == applied.id && a.state == ActionState::Started);
        if !started {
            return Vec::new();
        }
        busy.action = Some(applied.clone());
        let (lacked, left) = (busy.lacked, Room::left_at(&busy.trigger));
        let reached = available_bytes.is_some_and(|has| has >= left.bytes.saturating_add(lacked.bytes))
            && parts::gone(&applied).inodes >= lacked.inodes;
        site.last_plan = None;
        site.breaker.note(&applied, lacked, left, site.cut_short, self.settings.cooldown_ns, now.boot_ns);
        // What came free would hide how fast the rest goes.
        site.fall = Fall::default();
        // Else a person's plan, if it is made before the next sample, would take as much again. The node itself waits for
        // that, since of inodes this is a guess.
        if let (Some(figures), Some(available)) = (&mut site.figures, available_bytes) {
            figures.available_bytes = available;
            // What is taken from now on falls from there.
            site.fall.see(now.boot_ns, available);
            // At most: a name that went need not have been an inode's last.
            let unlinked =
                applied.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed && o.image.is_none());
            let inodes = figures.inodes_free.saturating_add(unlinked.count() as u64);
            figures.inodes_free = inodes.min(figures.inodes_total);
        }
        site.stale = true;
        let gone = |o: &&PlannedObject| matches!(o.outcome, ObjectOutcome::Removed | ObjectOutcome::Cut);
        let objects = applied.objects.iter().filter(gone).count();
        site.cleaned_boot_ns = Some(now.boot_ns);
        // What budgets kept back beyond the marks is not missed.
        site.cut_short = objects > 0 && !reached && is_cut_short(&applied);
        vec![Step::Record(Box::new(applied))]
    }

    /// Starts what a mount's findings ask for, if the time has come.
    fn consider(&mut self, mount: &str, now: Moment) -> Vec<Step> {
        if self.mode() == CleanupMode::Off {
            return Vec::new();
        }
        let owed = self.owed;
        let automatic = self.mode() == CleanupMode::Auto;
        let (reach_ns, others_look) = (self.reach_ns(mount), self.others_look(mount));
        let Some(site) = self.mounts.get_mut(mount) else { return Vec::new() };
        let Some(figures) = site.figures.clone() else { return Vec::new() };
        let settings = self.settings.of(self.marks.as_ref(), &figures);
        if site.busy.is_some() || site.stale || figures.read_only || site.rests(&figures, &settings, now) {
            return Vec::new();
        }
        let Some(finding) = worst(&site.findings) else { return Vec::new() };
        let mut trigger = trigger(&figures, &site.findings, finding, &settings, owed);
        let lacked = Room::lacking(&trigger);
        let reaches = automatic && site.fall.reach_further(&mut trigger, reach_ns);
        if !site.is_due(&trigger, others_look, now) {
            return Vec::new();
        }
        if automatic && let Some(step) = site.breaker.instead(&figures, &settings, now.boot_ns) {
            return step;
        }
        let device = trigger.device;
        let (since_boot_ns, leave) = (now.boot_ns, Leave::Person);
        site.busy = Some(Busy {
            trigger,
            lacked,
            since_boot_ns,
            command: None,
            action: None,
            applies: automatic,
            leave,
            parts: Parts::reaching(reaches.then_some(reach_ns)),
        });
        vec![Step::Survey { mount: mount.to_owned(), device }]
    }

    /// What is left of the budgets, as if what is under way on other mounts had gone already.
    fn left(&mut self, now: Moment) -> Left {
        let mut ledger = self.ledger.clone();
        let under_way = self.mounts.values().filter_map(|site| site.busy.as_ref()?.action.as_ref());
        for action in under_way.filter(|a| a.state == ActionState::Started) {
            ledger.note_all(action, &self.rules, now.boot_ns);
        }
        Left::of(&self.rules, &mut ledger, now.boot_ns)
    }

    /// Ends what was under way on `mount` and takes up the next command that waits for it.
    fn free(&mut self, mount: &str, now: Moment) -> Vec<Step> {
        let Some(site) = self.mounts.get_mut(mount) else { return Vec::new() };
        site.busy = None;
        let mut steps = Vec::new();
        while let Some(site) = self.mounts.get_mut(mount) {
            if site.busy.is_some() {
                break;
            }
            let Some(next) = site.waiting.pop_front() else { break };
            steps.extend(self.obey(next, now));
        }
        steps
    }
}

impl Site {
    /// Whether the last cleanup was so short ago that the next one waits.
    fn rests(&self, figures: &Mount, settings: &Settings, now: Moment) -> bool {
        let Some(cleaned) = self.cleaned_boot_ns else { return false };
        let since = now.boot_ns.saturating_sub(cleaned);
        let Some(left) = settings.cooldown_ns.checked_sub(since).filter(|left| *left > 0) else {
            return false;
        };
        // What is full falls no more.
        let full = figures.available_bytes == 0;
        let in_time = left.saturating_add(LEAD_NS);
        let hurried = self.cut_short || full || self.fall.is_full_within(figures.available_bytes, in_time);
        !(hurried && since >= SETTLE_NS)
    }
}

#[cfg(test)]
mod tests;
