//! Looking again where the last plan came to nothing: files grow old, are closed, and budgets come back, long before such
//! a plan's lifetime is over.
//!
//! A plan that has objects and is for people to read (mode `plan`) is made again once it expired, and then each time after twice
//! as long, up to [`LONGEST_PAUSE_NS`]: each one's record is of all its objects, and a disk may stay full for weeks.
//!
//! The first look is a minute after, each next one after twice as long, up to a plan's lifetime; it begins anew when the
//! need grows or the episode ends. A person's plan that found something on the mount brings it forward.
//!
//! Invariants
//! - Looks take a tenth of the time at most, all mounts together, and one is made at a time, but that each mount is looked at once in a
//!   plan's lifetime, however long that takes.
//! - What such a look finds is recorded only where it says something that this row of looks has not said: that budgets
//!   leave nothing, or that nothing may go.

use dogwatch::record::{Action, ActionState, Moment, Severity};

use super::need::{need_bytes, severity, wants};
use super::{Respond, Site};
use crate::act::plan::{PLAN_LIFETIME_NS, Trigger, is_cut_short};
use crate::act::shares::is_of_all;

/// From a plan that came to nothing to the first look after it.
const FIRST_PAUSE_NS: u64 = 60_000_000_000;
/// The longest from a plan that has objects to the next of the same need: six records a day.
const LONGEST_PAUSE_NS: u64 = 4 * 3_600_000_000_000;
/// After a look there is a pause of so many times what it took.
const REST: u64 = 10;
/// Growth of the need that makes an old plan useless, as a fraction of the mount.
const MATERIAL_GROWTH: f64 = 0.05;

/// The plan made last in the present episode.
pub(super) struct Made {
    at_boot_ns: u64,
    /// The largest of the plans made one after the other that all came to nothing, or all had objects, so that a need that
    /// swings is no growth.
    need_bytes: u64,
    severity: Severity,
    empty: bool,
    /// Whether it was for room that the mount lacked.
    wanted: bool,
    /// From it to the next look; where it has objects, to the next plan.
    pause_ns: u64,
    /// From it to the next look that a person's plan brings forward.
    rest_ns: u64,
    /// Whether a person's plan found something since.
    found_by_person: bool,
    /// What was recorded since the last plan that had objects.
    said: Vec<Vain>,
}

/// Why nothing came of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vain {
    /// The mount lacks nothing.
    Needless,
    /// Not everybody was heard.
    Unheard,
    /// Budgets kept back what could go.
    Budgets,
    /// Nothing may go.
    Stays,
}

impl Vain {
    fn of(action: &Action, wanted: bool) -> Self {
        if !wanted {
            Self::Needless
        } else if is_cut_short(action) {
            Self::Budgets
        } else if !is_of_all(action) {
            Self::Unheard
        } else {
            Self::Stays
        }
    }
}

impl Made {
    /// Whether it wanted room and came to nothing.
    pub(super) fn in_vain(&self) -> bool {
        self.empty && self.wanted
    }

    fn is_outgrown(&self, trigger: &Trigger, level: Severity) -> bool {
        let growth = need_bytes(trigger).saturating_sub(self.need_bytes) as f64;
        growth > MATERIAL_GROWTH * trigger.total_bytes as f64 || level > self.severity
    }
}

fn lifetime_ns() -> u64 {
    u64::try_from(PLAN_LIFETIME_NS).unwrap_or(u64::MAX)
}

impl Respond {
    /// Whether another mount of which nothing could go is being surveyed.
    pub(super) fn others_look(&self, mount: &str) -> bool {
        let looks = |site: &Site| {
            let surveys = site.busy.as_ref().is_some_and(|b| b.command.is_none() && b.action.is_none());
            surveys && site.last_plan.as_ref().is_some_and(Made::in_vain)
        };
        self.mounts.iter().any(|(path, site)| path != mount && looks(site))
    }

    /// How long to rest after a survey of `mount` that ends `now`.
    pub(super) fn rest_ns(&mut self, mount: &str, now: Moment) -> u64 {
        let began = std::mem::replace(&mut self.worked_until_boot_ns, now.boot_ns);
        let asked = self.mounts.get(mount).and_then(|site| site.busy.as_ref()).map(|b| b.since_boot_ns);
        // Jobs are done one after the other: it began when the one before it had ended.
        let took_ns = now.boot_ns.saturating_sub(asked.unwrap_or(now.boot_ns).max(began));
        let looks = |(path, site): &(&String, &Site)| {
            *path != mount && !site.findings.is_empty() && site.last_plan.as_ref().is_some_and(Made::in_vain)
        };
        let mounts = 1 + self.mounts.iter().filter(looks).count() as u64;
        took_ns.saturating_mul(REST * mounts).min(lifetime_ns())
    }
}

impl Site {
    /// Whether this episode needs a (new) plan. Where nothing could go, it may wait until no other mount is looked at.
    pub(super) fn is_due(&self, trigger: &Trigger, others_look: bool, now: Moment) -> bool {
        let Some(made) = &self.last_plan else { return true };
        let since = now.boot_ns.saturating_sub(made.at_boot_ns);
        let over_ns = if made.empty { lifetime_ns() } else { made.pause_ns };
        if since >= over_ns || made.is_outgrown(trigger, severity(&self.findings)) {
            return true;
        }
        let pause = if made.found_by_person { made.rest_ns } else { made.pause_ns.max(made.rest_ns) };
        made.empty && wants(trigger) && !others_look && since >= pause
    }

    /// Notes the plan `action` that the node made by itself for `trigger`, to be applied or for people, after whose survey it
    /// rests for `rest_ns`. Whether it is to be recorded.
    pub(super) fn note_own_plan(
        &mut self,
        action: &Action,
        applies: bool,
        trigger: &Trigger,
        rest_ns: u64,
        now: Moment,
    ) -> bool {
        let level = severity(&self.findings);
        let empty = action.state == ActionState::Refused;
        let (first_ns, longest_ns) = match (empty, applies) {
            (true, _) => (FIRST_PAUSE_NS, lifetime_ns()),
            // It came to nothing all the same: its record failed, or its leave ended.
            (false, true) => (lifetime_ns(), lifetime_ns()),
            (false, false) => (lifetime_ns(), LONGEST_PAUSE_NS),
        };
        let mut made = Made {
            at_boot_ns: now.boot_ns,
            need_bytes: need_bytes(trigger),
            severity: level,
            empty,
            wanted: wants(trigger),
            pause_ns: first_ns,
            rest_ns,
            found_by_person: false,
            said: Vec::new(),
        };
        if let Some(before) = self.last_plan.take().filter(|before| before.empty == empty) {
            if !before.is_outgrown(trigger, level) {
                // A look that a person brought forward says nothing of how long it is to wait.
                let times = if before.found_by_person { 1 } else { 2 };
                made.pause_ns = before.pause_ns.saturating_mul(times).min(longest_ns);
            }
            made.need_bytes = made.need_bytes.max(before.need_bytes);
            made.severity = made.severity.max(before.severity);
            made.said = before.said;
        }
        let vain = Vain::of(action, made.wanted);
        let news = !empty
            || made.said.is_empty()
            || matches!(vain, Vain::Budgets | Vain::Stays) && !made.said.contains(&vain);
        if empty && news {
            made.said.push(vain);
        }
        self.last_plan = Some(made);
        news
    }

    /// A person's plan of this mount has objects: maybe the node finds some too.
    pub(super) fn note_persons_plan(&mut self) {
        if let Some(made) = self.last_plan.as_mut().filter(|made| made.empty) {
            made.found_by_person = true;
        }
    }
}
