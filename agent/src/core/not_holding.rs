//! "Cleanup is not holding": the finding that the responder asks for, and its end.

use dogwatch::record::{Fact, Finding, FindingState, Moment, Severity, Subject};
use sha2::{Digest, Sha256};

use super::Core;
use crate::act::respond::{CLEANUP_NOT_HOLDING, TRIGGERS};

impl Core {
    pub(super) fn not_holding(&mut self, at: Moment, mount: &str, summary: String, action_id: String) {
        let finding = Finding {
            id: finding_id(mount, at),
            rule: CLEANUP_NOT_HOLDING.to_owned(),
            severity: Severity::High,
            state: FindingState::Raised,
            subject: Subject::new("mount", mount),
            summary,
            explanation: "Cleanups free space and something fills it again at once. Cleaning on would only destroy more; \
                          the writer must be stopped or given room."
                .to_owned(),
            citations: Vec::new(),
            facts: vec![Fact::new("last_action", action_id)],
            raised_wall_ns: at.wall_ns,
            pod: None,
        };
        self.not_holding.insert(mount.to_owned(), finding.clone());
        self.say(at, finding);
    }

    /// Clears "cleanup is not holding" once the mount's own findings are over.
    pub(super) fn hold_again(&mut self, at: Moment) {
        let active: Vec<String> = self
            .detectors
            .active()
            .iter()
            .filter(|f| f.subject.kind == "mount" && TRIGGERS.contains(&f.rule.as_str()))
            .map(|f| f.subject.name.clone())
            .collect();
        let over: Vec<String> = self.not_holding.keys().filter(|m| !active.contains(m)).cloned().collect();
        for mount in over {
            if let Some(mut finding) = self.not_holding.remove(&mount) {
                finding.state = FindingState::Cleared;
                finding.summary = format!("{mount} has room again");
                self.say(at, finding);
            }
        }
    }
}

/// An id from where and when; one mount has one such finding at a time.
fn finding_id(mount: &str, at: Moment) -> String {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(CLEANUP_NOT_HOLDING)
        .chain_update(mount)
        .chain_update(at.wall_ns.to_le_bytes())
        .chain_update(at.boot_ns.to_le_bytes())
        .finalize()
        .into();
    digest[..8].iter().fold("f-".to_owned(), |id, b| id + &format!("{b:02x}"))
}
