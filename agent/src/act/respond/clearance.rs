//! Permits within the response: what waits for one, what goes on with one, and what a stop ends.

use dogwatch::record::{Action, ActionState, CleanupMode, Moment};

use super::need::severity;
use super::{Busy, DISK_TIME_TO_FULL, Respond, Site, Step};
use crate::act::permit::{Ask, Clearance, Gate, Heard, Waiting, Word};

/// Most cleaners that are named to the collector.
const MAX_CLEANERS: usize = 16;

/// By whose leave an action is applied.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Leave {
    /// Nothing is applied, or a person ordered it.
    Person,
    /// An admin ordered it although cleanups are stopped.
    OverBrake,
    /// The node wants it, and waits.
    Waiting(Waiting),
    /// The collector's, until then by the boot clock.
    Leased(u64),
    /// What counts without a collector.
    Alone,
}

impl Respond {
    /// What it goes by.
    pub fn gate_mut(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// The same, to look at.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Goes on in `mode`. `unapplied`: what of the configuration on disk bounds what may go and is not in force; meanwhile
    /// nothing begins, whoever wants it, and what is under way ends before its next object.
    pub fn set_bounds(&mut self, mode: CleanupMode, unapplied: Option<String>, now: Moment) -> Vec<Step> {
        self.set_mode(mode);
        let halts = unapplied.iter().flat_map(|why| self.under_way().filter_map(move |busy| halt(busy, why)));
        let mut steps: Vec<Step> = halts.collect();
        self.gate.set_unapplied(unapplied);
        if mode != CleanupMode::Auto {
            let mounts: Vec<String> = self.mounts.keys().cloned().collect();
            steps.extend(mounts.iter().flat_map(|mount| self.withdraw(mount, now)));
        }
        steps
    }

    /// What is to be applied, or is.
    fn under_way(&self) -> impl Iterator<Item = &Busy> {
        self.mounts.values().filter_map(|site| site.busy.as_ref()).filter(|busy| busy.applies)
    }

    /// The collector says how all nodes stand: what must stop does so before its next object.
    pub fn on_word(&mut self, word: Word, now: Moment) -> Vec<Step> {
        if !self.gate.set_word(word) {
            return Vec::new();
        }
        let Some(why) = self.gate.stopped().map(str::to_owned) else { return self.proceed_all(now) };
        let ours = self.under_way().filter(|busy| busy.leave != Leave::OverBrake);
        ours.filter_map(|busy| halt(busy, &why)).collect()
    }

    /// The collector's answer about an action.
    pub fn on_heard(&mut self, action: &str, heard: Heard, now: Moment) -> Vec<Step> {
        let of_it =
            |site: &Site| site.busy.as_ref().and_then(|b| b.action.as_ref()).is_some_and(|a| a.id == action);
        let Some((mount, site)) = self.mounts.iter_mut().find(|(_, site)| of_it(site)) else {
            return Vec::new();
        };
        let mount = mount.clone();
        let Some(busy) = site.busy.as_mut() else { return Vec::new() };
        match &mut busy.leave {
            Leave::Waiting(waiting) => {
                waiting.heard = Some((heard, now.boot_ns));
                self.proceed(&mount, now)
            }
            Leave::Leased(until) => match heard {
                Heard::Granted(longer) => {
                    *until = longer.max(*until);
                    Vec::new()
                }
                Heard::Stopped(why) => {
                    busy.parts.halt(&why);
                    vec![Step::Halt { action: action.to_owned(), why }]
                }
                Heard::Waiting { .. } => Vec::new(),
            },
            Leave::Person | Leave::OverBrake | Leave::Alone => Vec::new(),
        }
    }

    /// What is to be asked of the collector now.
    pub fn asks(&self) -> Vec<Ask> {
        if !self.gate.asks() {
            return Vec::new();
        }
        let ask = |(mount, site): (&String, &Site)| {
            let busy = site.busy.as_ref()?;
            let acting = match busy.leave {
                Leave::Waiting(_) => false,
                Leave::Leased(_) => true,
                Leave::Person | Leave::OverBrake | Leave::Alone => return None,
            };
            let action = busy.action.as_ref()?;
            let mut cleaners: Vec<String> = action.objects.iter().map(|o| o.cleaner.clone()).collect();
            cleaners.sort_unstable();
            cleaners.dedup();
            cleaners.truncate(MAX_CLEANERS);
            let filling = site.findings.get(DISK_TIME_TO_FULL);
            let seconds = filling.and_then(|f| f.facts.iter().find(|fact| fact.key == "seconds_to_full"));
            Some(Ask {
                action: action.id.clone(),
                mount: mount.clone(),
                planned_bytes: action.planned_bytes,
                planned_objects: action.objects.len() as u64,
                policy: self.gate.policy(),
                severity: severity(&site.findings),
                seconds_to_full: seconds.and_then(|fact| fact.value.parse().ok()),
                cleaners,
                acting,
            })
        };
        self.mounts.iter().filter_map(ask).collect()
    }

    /// Plans that wait for leave: the mount, why, and for how long, ns.
    pub fn waits(&self, now: Moment) -> Vec<(String, String, u64)> {
        let wait = |(mount, site): (&String, &Site)| {
            let Leave::Waiting(waiting) = &site.busy.as_ref()?.leave else { return None };
            let level = severity(&site.findings);
            let Clearance::Wait(why) = self.gate.clear(waiting, mount, level, now.boot_ns) else {
                return None;
            };
            let since = site.waits_since_boot_ns.unwrap_or(waiting.since_boot_ns);
            Some((mount.clone(), why, now.boot_ns.saturating_sub(since)))
        };
        self.mounts.iter().filter_map(wait).collect()
    }

    /// Why an order of a person's may not be applied, if cleanups are stopped or would go by a policy that is not on disk
    /// any more.
    pub(super) fn braked(&self, over_brake: bool) -> Option<String> {
        if let Some(why) = self.gate.unapplied() {
            return Some(format!("nothing was touched: {why}"));
        }
        let why = self.gate.stopped().filter(|_| !over_brake)?;
        Some(format!(
            "nothing was touched: {why}; `dogwatch brake release` lets cleanups go on, and an admin can apply one plan all the \
             same with `dogwatch clean --override`"
        ))
    }

    /// What becomes of an action whose start is durable: leave may have ended since it was given.
    pub(super) fn apply_or_not(&mut self, action: &Action, leave: &Leave, now: Moment) -> Vec<Step> {
        let Some(why) = self.too_late(leave, now) else { return vec![self.first_part(action, now)] };
        let mut refused = action.clone();
        refused.state = ActionState::Refused;
        refused.objects.clear();
        refused.detail = why;
        if let Some(busy) = self.mounts.get_mut(&action.mount).and_then(|site| site.busy.as_mut()) {
            busy.action = Some(refused.clone());
        }
        vec![Step::Record(Box::new(refused))]
    }

    /// Why such an action may not be applied after all.
    pub(super) fn too_late(&self, leave: &Leave, now: Moment) -> Option<String> {
        match leave {
            Leave::OverBrake => self.braked(true),
            // The node's own, which in another mode it does not want.
            Leave::Leased(_) | Leave::Alone
                if self.mode() != CleanupMode::Auto && self.gate.unapplied().is_none() =>
            {
                let mode = self.mode();
                Some(format!("nothing was touched: cleanup.mode was set to {mode} before this began"))
            }
            Leave::Leased(until) if now.boot_ns >= *until => {
                Some("nothing was touched: the collector's permit ended before this began".to_owned())
            }
            _ => self.braked(false),
        }
    }

    /// What is planned on `mount` begins, or waits. A person whose order came during its survey is not made to wait for
    /// that leave.
    pub(super) fn wait_for_leave(&mut self, mount: &str, now: Moment) -> Vec<Step> {
        let Some(site) = self.mounts.get_mut(mount) else { return Vec::new() };
        let Some(busy) = site.busy.as_mut() else { return Vec::new() };
        busy.leave = Leave::Waiting(Waiting { since_boot_ns: now.boot_ns, heard: None });
        site.waits_since_boot_ns.get_or_insert(now.boot_ns);
        let person_waits = !site.waiting.is_empty();
        let mut steps = self.proceed(mount, now);
        if person_waits {
            steps.extend(self.withdraw(mount, now));
        }
        steps
    }

    /// Begins what waits on `mount`, if the time has come.
    pub(super) fn proceed(&mut self, mount: &str, now: Moment) -> Vec<Step> {
        let Some(site) = self.mounts.get_mut(mount) else { return Vec::new() };
        let level = severity(&site.findings);
        let Some(busy) = site.busy.as_mut() else { return Vec::new() };
        let (Leave::Waiting(waiting), Some(action)) = (&busy.leave, &mut busy.action) else {
            return Vec::new();
        };
        let leave = match self.gate.clear(waiting, mount, level, now.boot_ns) {
            Clearance::Wait(_) => return Vec::new(),
            Clearance::Leased(until) => Leave::Leased(until),
            Clearance::Alone => Leave::Alone,
        };
        busy.leave = leave;
        action.state = ActionState::Started;
        let started = action.clone();
        site.waits_since_boot_ns = None;
        // Applied once, whatever becomes of it.
        self.plans.retain(|kept| kept.action.id != started.id);
        vec![Step::Record(Box::new(started))]
    }

    /// What time does to plans that wait and to permits that are out.
    pub(super) fn watch_permits(&mut self, now: Moment) -> Vec<Step> {
        let automatic = self.mode() == CleanupMode::Auto;
        let mut steps = Vec::new();
        let mut over = Vec::new();
        for (mount, site) in &self.mounts {
            let Some((busy, action)) = site.busy.as_ref().and_then(|b| Some((b, b.action.as_ref()?))) else {
                continue;
            };
            match &busy.leave {
                Leave::Waiting(_) => {
                    let expired = !self.plans.iter().any(|kept| kept.action.id == action.id)
                        || action.expires_wall_ns <= now.wall_ns;
                    // What was planned is stale, or no longer wanted; a need that lasts makes another plan.
                    if expired || site.findings.is_empty() || !automatic {
                        over.push(mount.clone());
                    }
                }
                Leave::Leased(until) if now.boot_ns >= *until && action.state == ActionState::Started => {
                    let why = "the collector has not renewed its permit: it cannot be heard".to_owned();
                    steps.push(Step::Halt { action: action.id.clone(), why });
                }
                _ => {}
            }
        }
        for mount in over {
            steps.extend(self.withdraw(&mount, now));
        }
        steps.extend(self.proceed_all(now));
        steps
    }

    /// Gives up a plan that waits for leave; its place in the collector's queue is the mount's, and stays a while.
    pub(super) fn withdraw(&mut self, mount: &str, now: Moment) -> Vec<Step> {
        let Some(site) = self.mounts.get_mut(mount) else { return Vec::new() };
        if !site.busy.as_ref().is_some_and(|busy| matches!(busy.leave, Leave::Waiting(_))) {
            return Vec::new();
        }
        site.last_plan = None;
        self.free(mount, now)
    }

    /// Begins what waits, if the time has come.
    pub fn proceed_all(&mut self, now: Moment) -> Vec<Step> {
        let mounts: Vec<String> = self.mounts.keys().cloned().collect();
        mounts.iter().flat_map(|mount| self.proceed(mount, now)).collect()
    }
}

/// Ends what `busy` applies.
fn halt(busy: &Busy, why: &str) -> Option<Step> {
    let started = busy.action.as_ref().filter(|a| a.state == ActionState::Started)?;
    Some(Step::Halt { action: started.id.clone(), why: why.to_owned() })
}
