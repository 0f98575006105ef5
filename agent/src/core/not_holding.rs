//! "Cleanup is not holding" and "cleanup is out of budget": the findings that the responder asks for, and their end.

use dogwatch::record::{Fact, Finding, FindingState, Moment, Severity, Subject};
use sha2::{Digest, Sha256};

use super::Core;
use crate::act::respond::{CLEANUP_NOT_HOLDING, CLEANUP_OUT_OF_BUDGET, TRIGGERS};

/// The rules of findings that are the responder's.
pub(super) const RULES: &[&str] = &[CLEANUP_NOT_HOLDING, CLEANUP_OUT_OF_BUDGET];

impl Core {
    pub(super) fn not_holding(&mut self, at: Moment, mount: &str, summary: String, action_id: String) {
        let explanation = "Cleanups free space and something fills it again at once. Cleaning on would only destroy more; \
                           the writer must be stopped or given room.";
        let finding = finding(CLEANUP_NOT_HOLDING, Severity::High, mount, at, summary, explanation);
        self.raise(at, Finding { facts: vec![Fact::new("last_action", action_id)], ..finding });
    }

    /// Budgets leave nothing of what would suffice on `mount`, as `said`; or something again.
    pub(super) fn out_of_budget(&mut self, at: Moment, mount: &str, said: Option<String>) {
        let Some(summary) = said else {
            let rest = format!("budgets leave room for cleanups of {mount} again");
            self.end(at, &(CLEANUP_OUT_OF_BUDGET.to_owned(), mount.to_owned()), rest);
            return;
        };
        let explanation = "There are files that may go and would help, and what is left of cleanup's budgets does not let \
                           them. Budgets of an hour come back as the hour passes. Raise them only if what went within \
                           it was right to go.";
        // Medium: nothing was done wrong, and the mount's own finding says how bad it is.
        self.raise(at, finding(CLEANUP_OUT_OF_BUDGET, Severity::Medium, mount, at, summary, explanation));
    }

    fn raise(&mut self, at: Moment, mut finding: Finding) {
        let key = (finding.rule.clone(), finding.subject.name.clone());
        // The last run may have raised it.
        if let Some(known) = self.not_holding.get(&key) {
            finding.id.clone_from(&known.id);
            (finding.state, finding.raised_wall_ns) = (FindingState::Updated, known.raised_wall_ns);
        }
        self.not_holding.insert(key, finding.clone());
        self.say(at, finding);
    }

    fn end(&mut self, at: Moment, key: &(String, String), summary: String) {
        if let Some(mut finding) = self.not_holding.remove(key) {
            (finding.state, finding.summary) = (FindingState::Cleared, summary);
            self.say(at, finding);
        }
    }

    /// Clears what was said of cleanups of a mount once its own findings are over.
    pub(super) fn hold_again(&mut self, at: Moment) {
        let active: Vec<String> = self
            .detectors
            .active()
            .iter()
            .filter(|f| f.subject.kind == "mount" && TRIGGERS.contains(&f.rule.as_str()))
            .map(|f| f.subject.name.clone())
            .collect();
        let over: Vec<(String, String)> =
            self.not_holding.keys().filter(|(_, mount)| !active.contains(mount)).cloned().collect();
        for key in over {
            let summary = format!("{} has room again", key.1);
            self.end(at, &key, summary);
        }
    }
}

fn finding(
    rule: &str,
    severity: Severity,
    mount: &str,
    at: Moment,
    summary: String,
    explanation: &str,
) -> Finding {
    Finding {
        id: finding_id(rule, mount, at),
        rule: rule.to_owned(),
        severity,
        state: FindingState::Raised,
        subject: Subject::new("mount", mount),
        summary,
        explanation: explanation.to_owned(),
        citations: Vec::new(),
        facts: Vec::new(),
        raised_wall_ns: at.wall_ns,
        pod: None,
    }
}

/// An id from where and when; one mount has one such finding of a rule at a time.
fn finding_id(rule: &str, mount: &str, at: Moment) -> String {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(rule)
        .chain_update(mount)
        .chain_update(at.wall_ns.to_le_bytes())
        .chain_update(at.boot_ns.to_le_bytes())
        .finalize()
        .into();
    digest[..8].iter().fold("f-".to_owned(), |id, b| id + &format!("{b:02x}"))
}
