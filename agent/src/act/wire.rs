//! Executor messages that are the executor's alone; everything else goes through [`dogwatch::convert`].
//!
//! What does not make sense is refused by name, so that a message from a taken-over peer cannot become an object with
//! half its identity.

use std::path::PathBuf;

use dogwatch::convert::Refused;
use dogwatch::record::{Action, PlannedObject, Refusal};
use dogwatch::wire;

use super::plan::Candidate;

pub(super) fn refusals_to_wire(refusals: &[Refusal]) -> Vec<wire::Refusal> {
    refusals.iter().map(wire::Refusal::from).collect()
}

pub(super) fn refusals_from_wire(refusals: Vec<wire::Refusal>) -> Result<Vec<Refusal>, Refused> {
    refusals.into_iter().map(Refusal::try_from).collect()
}

pub(super) fn candidate_to_wire(candidate: &Candidate) -> wire::Candidate {
    wire::Candidate {
        object: Some((&candidate.object).into()),
        root: candidate.root.display().to_string(),
        open_elsewhere: candidate.open_elsewhere,
    }
}

pub(super) fn candidate_from_wire(candidate: wire::Candidate) -> Result<Candidate, Refused> {
    let object = candidate.object.ok_or_else(|| Refused::missing("candidate.object"))?;
    Ok(Candidate {
        object: PlannedObject::try_from(object)?,
        root: PathBuf::from(candidate.root),
        open_elsewhere: candidate.open_elsewhere,
    })
}

pub(super) fn action_to_wire(action: &Action) -> wire::Action {
    wire::Action::from(action)
}

pub(super) fn action_from_wire(action: wire::Action) -> Result<Action, Refused> {
    Action::try_from(action)
}
