//! What a mount's findings and figures ask a plan for.

use std::collections::BTreeMap;

use dogwatch::record::{Finding, Mount, Severity};

use super::super::plan::Trigger;
use super::{DISK_HIGH_WATER, DISK_TIME_TO_FULL, INODE_HIGH_WATER, Owed, Settings};

/// What a plan against a forecast aims to add where the low-water mark is not crossed yet, as a fraction of the mount.
const FORECAST_HEADROOM: f64 = 0.05;

pub(super) fn worst(findings: &BTreeMap<String, Finding>) -> Option<&Finding> {
    findings.values().max_by_key(|f| f.severity)
}

pub(super) fn severity(findings: &BTreeMap<String, Finding>) -> Severity {
    worst(findings).map_or(Severity::Info, |f| f.severity)
}

pub(super) fn need_bytes(trigger: &Trigger) -> u64 {
    trigger.target_available_bytes.saturating_sub(trigger.available_bytes)
}

/// Whether bytes or inodes are missing.
pub(super) fn wants(trigger: &Trigger) -> bool {
    need_bytes(trigger) > 0 || trigger.target_inodes_free > trigger.inodes_free
}

fn share(of: u64, fraction: f64) -> u64 {
    // Saturating by the rules of `as`; a fraction is at most 1.
    (of as f64 * fraction).ceil() as u64
}

/// What the figures alone ask for: both low-water marks, and room for the ballast that is to come back.
pub(super) fn base_trigger(figures: &Mount, settings: &Settings, owed: Owed) -> Trigger {
    let device = rustix::fs::makedev(figures.dev_major, figures.dev_minor);
    let owed = if owed.device == device { owed } else { Owed::default() };
    let goal = |total: u64, fraction, owed: u64| share(total, fraction).saturating_add(owed).min(total);
    Trigger {
        mount: figures.path.clone(),
        device,
        total_bytes: figures.total_bytes,
        available_bytes: figures.available_bytes,
        target_available_bytes: goal(figures.total_bytes, settings.low_water_available, owed.bytes),
        inodes_free: figures.inodes_free,
        target_inodes_free: goal(figures.inodes_total, settings.low_water_inodes, owed.inodes),
        reason: String::new(),
        finding_id: None,
        actor: "node".to_owned(),
    }
}

pub(super) fn trigger(
    figures: &Mount,
    findings: &BTreeMap<String, Finding>,
    finding: &Finding,
    settings: &Settings,
    owed: Owed,
) -> Trigger {
    let mut trigger = base_trigger(figures, settings, owed);
    if !findings.contains_key(DISK_HIGH_WATER) && !findings.contains_key(DISK_TIME_TO_FULL) {
        trigger.target_available_bytes = trigger.target_available_bytes.min(figures.available_bytes);
    }
    if !findings.contains_key(INODE_HIGH_WATER) {
        trigger.target_inodes_free = 0;
    }
    if findings.contains_key(DISK_TIME_TO_FULL) && need_bytes(&trigger) == 0 {
        let headroom = share(figures.total_bytes, FORECAST_HEADROOM);
        trigger.target_available_bytes =
            figures.available_bytes.saturating_add(headroom).min(figures.total_bytes);
    }
    trigger.reason = reason(figures, finding);
    trigger.finding_id = Some(finding.id.clone());
    trigger
}

/// A finding keeps the words with which it was raised; a plan says how the mount stands by then.
fn reason(figures: &Mount, finding: &Finding) -> String {
    let left = match finding.rule.as_str() {
        INODE_HIGH_WATER => figures.inodes_free_fraction(),
        _ => figures.available_fraction(),
    };
    let used = format!(" {:.1} % used", (1.0 - left) * 100.0);
    let said = format!("{}: {}", finding.rule, finding.summary);
    if said.contains(&used) { said } else { format!("{said};{used} when this was planned") }
}

#[cfg(test)]
mod tests {
    use dogwatch::record::{FindingState, Subject};

    use super::*;

    #[test]
    fn a_reason_says_how_the_mount_stands_when_it_is_planned() {
        let mut found = Finding {
            id: "f-1".to_owned(),
            rule: DISK_HIGH_WATER.to_owned(),
            severity: Severity::High,
            state: FindingState::Raised,
            subject: Subject::new("mount", "/data"),
            summary: "/data is low on space: 73.5 % used, 26.5 GiB of 100.0 GiB available".to_owned(),
            explanation: String::new(),
            citations: Vec::new(),
            facts: Vec::new(),
            raised_wall_ns: 0,
            pod: None,
        };
        let mut figures = Mount {
            total_bytes: 1_000,
            available_bytes: 265,
            inodes_total: 1_000,
            inodes_free: 40,
            ..Mount::default()
        };
        let as_found = "disk-high-water: /data is low on space: 73.5 % used, 26.5 GiB of 100.0 GiB available";
        assert_eq!(reason(&figures, &found), as_found, "nothing else is to be said");
        figures.available_bytes = 100;
        assert_eq!(reason(&figures, &found), format!("{as_found}; 90.0 % used when this was planned"));
        figures.available_bytes = 965;
        assert!(reason(&figures, &found).ends_with("; 3.5 % used when this was planned"), "not of 73.5 %");
        found.rule = INODE_HIGH_WATER.to_owned();
        assert!(reason(&figures, &found).ends_with("; 96.0 % used when this was planned"));
    }
}
