//! What counts as a cleanup gone wrong. Pure, and crisp on purpose: each is a sentence that people can check.
//!
//! - The action failed as a whole, or more than a tenth of the objects that it tried to remove. Not where its agent ended
//!   in its midst and says so at its next start: upgrades and reboots end agents, and speak against no policy. It
//!   proves none either, and the node is watched from then on like any other; one that says nothing is a permit without its outcome.
//! - What it removed gave back less than half of what it held; not where images are among it, whose layers are shared.
//! - The node says that cleaning a mount does not hold, and another one under the same policy said so, too ([`super::machine`] sees
//!   that). On one node somebody fills it, and where the node knows that a pod does, that is no word about the policy at all.
//! - A finding that was raised on the node while it has a place is of severity high or worse, then or by an update, other than that a disk is full:
//!   that is why it cleans. A node that falls silent and one that sent two histories are such findings too; silence only while it
//!   has the place, since nodes go away for reasons of their own. It must be about
//!   the node: its mounts, disks, memory, kernel, and a task of none of its pods that hangs in it. What a log says, and what one pod or
//!   process meets at its own limits, whoever runs a pod brings about as often as he likes ([`OF_ONE`], a process that may be a pod's);
//!   the rules of lines count for nothing wherever they stand, since a host's logs quote what containers say.
//!   Of a task of which only the kernel spoke nobody knows whose it is; one that it spoke of before a cleanup began is not the
//!   cleanup's doing, whoever says so later.
//! - A permit ends without its outcome ([`super::machine`] sees that).

use dogwatch::record::{Action, ActionState, Finding, FindingState, ObjectOutcome, Severity};

use crate::say::SILENT_RULE;
use crate::wording::bytes;

/// Findings that are why a node cleans, and do not speak against it.
const EXPECTED: [&str; 3] = ["disk-high-water", "disk-time-to-full", "inode-high-water"];
/// The rule of the finding that says that a mount is full again after each of several cleanups.
const NOT_HOLDING_RULE: &str = "cleanup-not-holding";
/// Kinds of what is not the node's: a line of any log, a pod, a group of processes.
const OF_ONE: [&str; 3] = ["log", "pod", "cgroup"];
/// The kind of a task.
const PROCESS: &str = "process";
/// What an agent states of each task that its scan found to hang. Only there it knows whose a task is: the kernel's own line names
/// a thread of whomever. All else that is said of a process it meets at limits of its own.
const SCANNED: &str = "uninterruptible_number";
/// One failed object in so many is borne with.
const FAILED_OF: usize = 10;

/// Why an action that is over went wrong, if it did.
pub fn wrong_action(action: &Action) -> Option<String> {
    if action.is_interrupted() {
        return None;
    }
    if action.state == ActionState::Failed {
        return Some(format!("cleanup {} failed: {}", action.id, action.detail));
    }
    let count = |outcome| action.objects.iter().filter(|o| o.outcome == outcome).count();
    let (removed, failed) = (count(ObjectOutcome::Removed), count(ObjectOutcome::Failed));
    if failed > 0 && failed * FAILED_OF > removed + failed {
        let reason = action.refused.iter().find(|r| {
            let of = |o: &dogwatch::record::PlannedObject| {
                o.outcome == ObjectOutcome::Failed && Some(&o.path) == r.path.as_ref()
            };
            action.objects.iter().any(of)
        });
        let why = reason.map_or_else(String::new, |r| format!(": {}", r.reason));
        let tried = removed + failed;
        return Some(format!("cleanup {} could not remove {failed} of {tried} objects{why}", action.id));
    }
    let went = action.objects.iter().filter(|o| o.outcome == ObjectOutcome::Removed);
    // Images share layers, and the runtime collects them in its own time: their listed sizes promise nothing.
    if went.clone().any(|o| o.image.is_some()) {
        return None;
    }
    let held = went.fold(0u64, |sum, o| sum.saturating_add(o.allocated_bytes));
    let freed = action.freed_bytes.unwrap_or(0);
    if freed < held / 2 {
        let why = action.unexplained.as_ref().map_or("", |u| u.reason.as_str());
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        return Some(format!(
            "cleanup {} removed {removed} objects of {} and freed {}{why}",
            action.id,
            bytes(held),
            bytes(freed)
        ));
    }
    None
}

/// Why a finding on a node that has a place speaks against its cleanup, if it does.
pub fn wrong_finding(finding: &Finding) -> Option<String> {
    let news = finding.state != FindingState::Cleared
        && finding.severity >= Severity::High
        && !is_of_one(finding)
        && !EXPECTED.contains(&finding.rule.as_str());
    news.then(|| format!("{} ({}) after its cleanup: {}", finding.rule, finding.severity, finding.summary))
}

/// Whether a finding says that a node is silent.
pub fn is_silence(finding: &Finding) -> bool {
    finding.rule == SILENT_RULE
}

/// Whether a finding says that a mount does not hold.
pub fn is_unheld(finding: &Finding) -> bool {
    finding.rule == NOT_HOLDING_RULE
}

/// Whether a grave finding that speaks against no cleanup may come to: a task hangs by the kernel's line alone, and the scan
/// may say yet that it is none of a pod's.
pub fn may_yet_count(finding: &Finding) -> bool {
    finding.state != FindingState::Cleared
        && finding.severity >= Severity::High
        && finding.subject.kind == PROCESS
        && finding.pod.is_none()
        && !is_scanned(finding)
}

fn is_scanned(finding: &Finding) -> bool {
    finding.facts.iter().any(|fact| fact.key == SCANNED)
}

/// Whether a finding is about what is not the node's.
fn is_of_one(finding: &Finding) -> bool {
    let kind = finding.subject.kind.as_str();
    OF_ONE.contains(&kind)
        || is_unheld(finding) && finding.pod.is_some()
        || kind == PROCESS && (finding.pod.is_some() || !is_scanned(finding))
}
