//! `mount-read-only`: a filesystem that could be written cannot be any more.
//!
//! Linux turns a filesystem read-only when its metadata or device failed (`errors=remount-ro`). Only the transition is
//! a finding: what was read-only when first seen is meant to be. The kernel's line comes before the next sample, and
//! names a device: its mounts are those that the last sample showed.

use std::collections::BTreeMap;

use dogwatch::record::{Fact, Finding, Mount, Severity, Subject};

use super::case::{Case, Statement, Tick};
use super::known::Known;

/// Rule name.
pub(super) const RULE: &str = "mount-read-only";

/// Consecutive writable samples before the finding is cleared.
const CLEAR_TICKS: u32 = 3;

/// Watches whether mounts can be written.
#[derive(Debug, Default)]
pub(super) struct ReadOnlyDetector {
    mounts: BTreeMap<String, State>,
}

#[derive(Debug, Default)]
struct State {
    was_writable: bool,
    writable_ticks: u32,
    case: Option<Case>,
}

impl ReadOnlyDetector {
    /// Continues an earlier run's finding; false where there is one already.
    pub(super) fn seed(&mut self, finding: &Finding) -> bool {
        let state = self.mounts.entry(finding.subject.name.clone()).or_default();
        if state.case.is_some() {
            return false;
        }
        state.case = Some(Case::resume(finding.clone()));
        true
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &Finding> {
        self.mounts.values().filter_map(|s| s.case.as_ref()).map(Case::finding)
    }

    /// A line of the kernel's log; whether it is about a mount that is known here.
    pub(super) fn on_kernel(
        &mut self,
        tick: Tick<'_>,
        text: &str,
        known: &Known,
        out: &mut Vec<Finding>,
    ) -> bool {
        let Some(device) = remounted_device(text) else { return false };
        let mut found = false;
        for path in known.mounts_of(device) {
            let Some(state) = self.mounts.get_mut(path) else { continue };
            found = true;
            if state.case.is_none() {
                let mut statement = line_statement(path, device);
                statement.facts.push(Fact::new("device_name", device));
                let case = Case::raise(tick, RULE, Subject::new("mount", path), statement);
                out.push(case.finding().clone());
                state.case = Some(case);
            }
            state.writable_ticks = 0;
            state.was_writable = false;
        }
        found
    }

    pub(super) fn on_mount(&mut self, tick: Tick<'_>, mount: &Mount, out: &mut Vec<Finding>) {
        let state = match self.mounts.get_mut(&mount.path) {
            Some(state) => state,
            None => self.mounts.entry(mount.path.clone()).or_default(),
        };
        if mount.read_only {
            state.writable_ticks = 0;
            if state.was_writable && state.case.is_none() {
                let case =
                    Case::raise(tick, RULE, Subject::new("mount", mount.path.as_str()), statement(mount));
                out.push(case.finding().clone());
                state.case = Some(case);
            }
        } else {
            state.writable_ticks = state.writable_ticks.saturating_add(1);
            if state.writable_ticks >= CLEAR_TICKS
                && let Some(case) = state.case.take()
            {
                let summary = format!("{} can be written again", mount.path);
                let why = format!("It has been writable for {CLEAR_TICKS} samples in a row.");
                out.push(case.clear(tick, summary, why, facts(mount)));
            }
        }
        state.was_writable = !mount.read_only;
    }

    /// The filesystem at `path` is gone, for the reason given.
    pub(super) fn forget(&mut self, tick: Tick<'_>, path: &str, why: &str, out: &mut Vec<Finding>) {
        if let Some(case) = self.mounts.remove(path).and_then(|s| s.case) {
            let summary = format!("{path} is not watched any more: {why}");
            let explanation =
                "Cleared because the filesystem went, not because it can be written.".to_owned();
            out.push(case.clear(tick, summary, explanation, Vec::new()));
        }
    }
}

/// The device in `EXT4-fs (sda1): Remounting filesystem read-only`, `BTRFS info (device sda1): forced readonly`,
/// `FAT-fs (sda1): Filesystem has been set read-only`.
fn remounted_device(text: &str) -> Option<&str> {
    let (head, said) = text.split_once("): ")?;
    let told = ["Remounting filesystem read-only", "forced readonly", "Filesystem has been set read-only"];
    if !told.iter().any(|t| said.starts_with(t)) {
        return None;
    }
    let (fs, device) = head.split_once(" (")?;
    let device = device.strip_prefix("device ").unwrap_or(device);
    // BTRFS adds its state: `device sda1: state EA`.
    let device = device.split(':').next().unwrap_or(device);
    let a_name = fs.len() <= 32 && fs.bytes().all(|b| b.is_ascii_alphanumeric() || b"- ".contains(&b));
    (a_name && !device.is_empty()).then_some(device)
}

fn line_statement(path: &str, device: &str) -> Statement {
    Statement {
        severity: severity(path),
        summary: format!("{path} (on {device}) turned read-only: the kernel says so"),
        explanation: "A line of the kernel's log says that the filesystem met an error and was made read-only \
                      (errors=remount-ro); the lines before it say which. Critical for / and what lies below /var, where \
                      the node itself writes; high elsewhere. Cleared once it has been writable in samples."
            .to_owned(),
        facts: Vec::new(),
        since: Vec::new(),
        pod: None,
    }
}

/// Where the system and the runtime write, the node is lost with it.
fn severity(path: &str) -> Severity {
    if path == "/" || path == "/var" || path.starts_with("/var/") {
        Severity::Critical
    } else {
        Severity::High
    }
}

fn statement(mount: &Mount) -> Statement {
    Statement {
        severity: severity(&mount.path),
        summary: format!("{} ({} on {}) turned read-only", mount.path, mount.fs, mount.device),
        explanation: "It could be written in the sample before and cannot be in this one. Either someone remounted it, \
                      or the kernel did after an error of the filesystem or its device (errors=remount-ro); the \
                      kernel's log says which. Critical for / and what lies below /var, where the node itself writes; \
                      high elsewhere. Mounts that were read-only from the start are no finding."
            .to_owned(),
        facts: facts(mount),
        since: Vec::new(),
            pod: None,
    }
}

fn facts(mount: &Mount) -> Vec<Fact> {
    vec![
        Fact::new("device_name", &mount.device),
        Fact::new("filesystem_type", &mount.fs),
        Fact::new("device_number", format!("{}:{}", mount.dev_major, mount.dev_minor)),
    ]
}
