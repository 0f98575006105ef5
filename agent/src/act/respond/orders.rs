//! What people order: a plan, or the cleanup that a plan describes.

use dogwatch::record::{ActionState, CleanupMode, Moment};

use super::breaker::Room;
use super::clearance::Leave;
use super::need::{base_trigger, worst};
use super::parts::Parts;
use super::place::Unmet;
use super::{Busy, Kept, MAX_WAITING, Respond, SWITCHED_OFF, Step};
use crate::act::plan::Trigger;

/// What a person asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The command's id, for the answer.
    pub id: String,
    /// The name in the person's certificate.
    pub actor: String,
    /// What they want.
    pub order: Order,
    /// Whether an admin wants it although cleanups are stopped.
    pub over_brake: bool,
}

/// What a person can order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Make a plan for this mount, or for the one that holds this path.
    PlanMount(String),
    /// Apply exactly the plan with this id.
    ApplyPlan(String),
}

impl Respond {
    /// A person's command.
    pub fn on_command(&mut self, command: Command, now: Moment) -> Vec<Step> {
        let refuse =
            |why: String| vec![Step::Answer { command: command.id.clone(), result: Err(Unmet::from(why)) }];
        if self.mode() == CleanupMode::Off {
            return refuse(
                "this node's cleanup is off; set cleanup.mode to plan or auto in its config".to_owned(),
            );
        }
        let mount = match &command.order {
            Order::PlanMount(mount) => mount.clone(),
            Order::ApplyPlan(id) => match self.plans.iter().find(|kept| kept.action.id == *id) {
                Some(kept) => kept.action.mount.clone(),
                None => {
                    let why = format!(
                        "this node has no plan {id}: it expired, was applied, or was made before the agent's last \
                         start; make a new one with `dogwatch plan`"
                    );
                    return refuse(why);
                }
            },
        };
        // A plan that waits for leave, maybe for long, is nothing that a person has to wait for.
        let mut steps = self.withdraw(&mount, now);
        let Some(site) = self.mounts.get_mut(&mount).filter(|s| s.figures.is_some()) else {
            return self.search(command, mount);
        };
        if site.busy.is_some() {
            if site.waiting.len() >= MAX_WAITING {
                return refuse(format!("{MAX_WAITING} commands for {mount} are waiting; try again later"));
            }
            site.waiting.push_back(command);
            return steps;
        }
        steps.extend(self.obey(command, now));
        steps
    }

    /// Starts what a person ordered; the mount is free and known.
    pub(super) fn obey(&mut self, command: Command, now: Moment) -> Vec<Step> {
        let refuse =
            |why: String| vec![Step::Answer { command: command.id.clone(), result: Err(Unmet::from(why)) }];
        if self.mode() == CleanupMode::Off {
            return refuse(SWITCHED_OFF.to_owned());
        }
        match command.order {
            Order::PlanMount(mount) => {
                let owed = self.owed;
                let Some(site) = self.mounts.get_mut(&mount) else {
                    return refuse(format!("this node has no mount {mount} any more"));
                };
                let Some(figures) = &site.figures else {
                    return refuse(format!("this node has no figures of {mount} yet; try again in a moment"));
                };
                let settings = self.settings.of(self.marks.as_ref(), figures);
                let trigger = Trigger {
                    reason: format!("{} asked for a plan", command.actor),
                    finding_id: worst(&site.findings).map(|f| f.id.clone()),
                    actor: command.actor,
                    ..base_trigger(figures, &settings, owed)
                };
                let device = trigger.device;
                let (command, leave) = (Some(command.id), Leave::Person);
                let (lacked, since_boot_ns) = (Room::lacking(&trigger), now.boot_ns);
                site.busy = Some(Busy {
                    trigger,
                    lacked,
                    since_boot_ns,
                    command,
                    action: None,
                    applies: false,
                    leave,
                    parts: Parts::default(),
                });
                vec![Step::Survey { mount, device }]
            }
            Order::ApplyPlan(id) => {
                if let Some(why) = self.braked(command.over_brake) {
                    return refuse(why);
                }
                let Some(at) = self.plans.iter().position(|kept| kept.action.id == id) else {
                    return refuse(format!("plan {id} was applied meanwhile"));
                };
                let expired = self.plans[at].expires_boot_ns <= now.boot_ns
                    || self.plans[at].action.expires_wall_ns <= now.wall_ns;
                let Some(Kept { mut action, .. }) = self.plans.remove(at) else { return Vec::new() };
                if expired {
                    let why = format!("plan {id} has expired; make a new one with `dogwatch plan`");
                    return refuse(why);
                }
                action.state = ActionState::Started;
                action.actor = command.actor;
                let Some(site) = self.mounts.get_mut(&action.mount) else { return Vec::new() };
                let Some(figures) = &site.figures else { return Vec::new() };
                let trigger =
                    base_trigger(figures, &self.settings.of(self.marks.as_ref(), figures), self.owed);
                let leave = if command.over_brake { Leave::OverBrake } else { Leave::Person };
                let (command, ours) = (Some(command.id), Some(action.clone()));
                let (lacked, since_boot_ns) = (Room::lacking(&trigger), now.boot_ns);
                site.busy = Some(Busy {
                    trigger,
                    lacked,
                    since_boot_ns,
                    command,
                    action: ours,
                    applies: true,
                    leave,
                    parts: Parts::default(),
                });
                vec![Step::Record(Box::new(action))]
            }
        }
    }
}
