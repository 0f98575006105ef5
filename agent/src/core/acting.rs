//! How far a cleanup is that is being carried out, for whoever waits for it, and a line of the agent's log for each step of
//! an action. Not evidence: the record is.

use dogwatch::record::{Action, ActionState, ObjectOutcome, PlannedObject};

use crate::act::work::Progress;

/// Says what becomes of `action`, in the words of its record.
pub(super) fn log(action: &Action) {
    let first = action.refused.first().filter(|_| action.objects.is_empty());
    let stays = first.map(|r| match &r.path {
        Some(path) => format!("{}: {}; of {} in all", path.display(), r.reason, action.refused.len()),
        None => r.reason.clone(),
    });
    let over = matches!(action.state, ActionState::Done | ActionState::Failed);
    let gone = |o: &&PlannedObject| matches!(o.outcome, ObjectOutcome::Removed | ObjectOutcome::Cut);
    let removed = over.then(|| action.objects.iter().filter(gone).count());
    let left = removed.map(|removed| action.objects.len() - removed);
    let Action { id, state, mount, actor, detail, freed_bytes, .. } = action;
    // As fields, since these escape what a hostile name brings.
    tracing::info!(
        action = id,
        state = state.as_str(),
        mount,
        actor,
        removed,
        left,
        freed_bytes,
        detail,
        stays,
        "cleanup"
    );
}

/// The action that the executor is at; it has one at a time.
#[derive(Debug, Default)]
pub(super) struct Acting(Option<Progress>);

impl Acting {
    /// The executor said how far it is.
    pub(super) fn tell(&mut self, so_far: Progress) {
        self.0 = Some(so_far);
    }

    /// The action `id` is over.
    pub(super) fn end(&mut self, id: &str) {
        self.0.take_if(|now| now.action_id == id);
    }

    /// For the pulse.
    pub(super) fn now(&self) -> Vec<Progress> {
        self.0.iter().cloned().collect()
    }
}
