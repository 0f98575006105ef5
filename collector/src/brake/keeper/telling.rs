//! The finding that says that cleanups are stopped: said with the stop, and again until it is kept.
//!
//! Whoever keeps findings may find the journal as the stop found it, taking nothing, and then forgets what it was told. So
//! the owner looks for its finding once the stop itself is durable, and every [`AGAIN_NS`] until it is there.

use super::super::tell;
use super::Keeper;

/// Between looks: it may lie in a queue behind others for a while, and said twice it is one finding all the same.
const AGAIN_NS: u64 = 10 * 1_000_000_000;

impl Keeper {
    /// Writes the stop that is in force, and raises its finding.
    pub(super) async fn keep_and_tell(&mut self, actor: &str) {
        self.flush().await;
        self.publish();
        if let Some(stopped) = self.brake.ledger().tripped.clone() {
            tracing::error!(actor, reason = stopped.reason, "cleanups are stopped on every node");
            self.say.finding(stopped.node.clone(), tell::raised(&stopped), 1).await;
            // What the journal did not take of the stop, it did not take of the finding.
            let wait_ns = if self.unwritten.is_empty() { AGAIN_NS } else { 0 };
            self.look_at_ns = Some(self.now_ns().saturating_add(wait_ns));
        } else {
            tracing::warn!(actor, "cleanups are paused on every node");
        }
    }

    /// Says it again where it is time and it is not kept.
    pub(super) async fn tell_again(&mut self) {
        let due = self.look_at_ns.is_some_and(|at| self.now_ns() >= at);
        // A turn waits for no index that is being built.
        if due && self.unwritten.is_empty() && self.store.answers() {
            self.look_whether_said().await;
        }
    }

    pub(super) async fn look_whether_said(&mut self) {
        let Some(stopped) = self.brake.ledger().tripped.clone() else {
            self.look_at_ns = None;
            return;
        };
        match self.store.finding(&stopped.finding).await {
            Ok(Some(_)) => self.look_at_ns = None,
            Ok(None) => {
                self.say.finding(stopped.node.clone(), tell::raised(&stopped), 1).await;
                self.look_at_ns = Some(self.now_ns().saturating_add(AGAIN_NS));
            }
            // It is asked again at the next turn.
            Err(_) => {}
        }
    }
}
