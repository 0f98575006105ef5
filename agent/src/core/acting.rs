//! How far a cleanup is that is being carried out, for whoever waits for it. Not evidence: its outcome is.

use crate::act::work::Progress;

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
