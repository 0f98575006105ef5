//! Whose mount a path is on: people name what they see full, and that is often a folder.
//!
//! The device decides and not the name alone: a folder can be the root of a filesystem that is not watched.

use std::path::{Path, PathBuf};

use dogwatch::record::{Moment, Mount};

use super::{Command, Order, Respond, Step};
use crate::act::real_path::Place;

/// Commands whose path is being looked for at most.
const MAX_SEARCHING: usize = 16;

/// Why a person's order was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// What, why and remedy.
    pub why: String,
    /// Whether that is because there is no such thing here.
    pub not_found: bool,
}

impl From<String> for Unmet {
    fn from(why: String) -> Self {
        Self { why, not_found: false }
    }
}

impl Respond {
    /// A command for what is no mount that is known here.
    pub(super) fn search(&mut self, command: Command, path: String) -> Vec<Step> {
        let refuse = |why: String, not_found| {
            vec![Step::Answer { command: command.id.clone(), result: Err(Unmet { why, not_found }) }]
        };
        if matches!(command.order, Order::ApplyPlan(_)) {
            return refuse(format!("this node has no mount {path} any more"), true);
        }
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            let why = format!("{} is no mount and no absolute path; write it from /", path.display());
            return refuse(why, true);
        }
        if self.searching.len() >= MAX_SEARCHING {
            return refuse(format!("{MAX_SEARCHING} commands are waiting; try again later"), false);
        }
        let step = Step::Find { command: command.id.clone(), path };
        self.searching.push_back(command);
        vec![step]
    }

    /// Where the path of a command lies: `None` where nothing is there, an error where nobody can tell.
    pub fn on_found(
        &mut self,
        command: &str,
        found: Result<Option<Place>, String>,
        now: Moment,
    ) -> Vec<Step> {
        let Some(at) = self.searching.iter().position(|c| c.id == command) else { return Vec::new() };
        let Some(mut command) = self.searching.remove(at) else { return Vec::new() };
        let Order::PlanMount(asked) = &command.order else { return Vec::new() };
        let lists = "`dogwatch get nodes -o wide` lists its mounts";
        let unmet = match found {
            Ok(Some(place)) => match self.mount_of(&place) {
                Some(mount) => {
                    command.order = Order::PlanMount(mount);
                    return self.on_command(command, now);
                }
                None => Unmet {
                    why: format!("{asked} lies on no mount that this node watches; {lists}"),
                    not_found: true,
                },
            },
            Ok(None) => Unmet { why: format!("this node has no {asked}; {lists}"), not_found: true },
            Err(why) => why.into(),
        };
        vec![Step::Answer { command: command.id, result: Err(unmet) }]
    }

    /// The mount of the filesystem that `place` lies on: the one with the longest path that holds it, or, where the place is
    /// seen by a mount that is not watched beside another of the same filesystem (a subvolume's, a bind mount), that other.
    fn mount_of(&self, place: &Place) -> Option<String> {
        let holds = |mount: &str| place.path.starts_with(Path::new(mount));
        self.mounts
            .iter()
            .filter(|(_, site)| {
                let here = |f: &Mount| rustix::fs::makedev(f.dev_major, f.dev_minor) == place.device;
                site.figures.as_ref().is_some_and(here)
            })
            .map(|(mount, _)| mount.clone())
            .max_by_key(|mount| (holds(mount), mount.len()))
    }
}
