//! Executor messages and domain types, either way.
//!
//! Only what these messages need. What does not make sense is refused by name, so that a message from a taken-over peer
//! cannot become an object with half its identity.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dogwatch::record::{
    Action, ActionState, CleanupMode, Hash, InvalidValue, ObjectOutcome, PlannedObject, Refusal, Unexplained,
};
use dogwatch::wire;

use super::plan::Candidate;

/// Longest path that Linux takes.
const MAX_PATH_BYTES: usize = 4_096;

fn path_to_wire(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

fn path_from_wire(bytes: &[u8]) -> Result<PathBuf, InvalidValue> {
    let said = || String::from_utf8_lossy(bytes).into_owned();
    if bytes.contains(&0) {
        return Err(InvalidValue::new("path", said(), "must not contain NUL"));
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Err(InvalidValue::new("path", said(), "must be at most 4096 bytes"));
    }
    Ok(PathBuf::from(OsString::from_vec(bytes.to_vec())))
}

fn refusal_to_wire(refusal: &Refusal) -> wire::Refusal {
    wire::Refusal {
        path: refusal.path.as_deref().map(path_to_wire).unwrap_or_default(),
        reason: refusal.reason.clone(),
    }
}

fn refusal_from_wire(refusal: wire::Refusal) -> Result<Refusal, InvalidValue> {
    let path = if refusal.path.is_empty() { None } else { Some(path_from_wire(&refusal.path)?) };
    Ok(Refusal { path, reason: refusal.reason })
}

pub(super) fn refusals_to_wire(refusals: &[Refusal]) -> Vec<wire::Refusal> {
    refusals.iter().map(refusal_to_wire).collect()
}

pub(super) fn refusals_from_wire(refusals: Vec<wire::Refusal>) -> Result<Vec<Refusal>, InvalidValue> {
    refusals.into_iter().map(refusal_from_wire).collect()
}

fn object_to_wire(object: &PlannedObject) -> wire::PlannedObject {
    let outcome = match object.outcome {
        ObjectOutcome::Pending => wire::ObjectOutcome::Unspecified,
        ObjectOutcome::Removed => wire::ObjectOutcome::Removed,
        ObjectOutcome::Skipped => wire::ObjectOutcome::Skipped,
        ObjectOutcome::Failed => wire::ObjectOutcome::Failed,
    };
    wire::PlannedObject {
        path: path_to_wire(&object.path),
        device: object.device,
        inode: object.inode,
        size_bytes: object.size_bytes,
        allocated_bytes: object.allocated_bytes,
        mtime_ns: object.mtime_ns,
        ctime_ns: object.ctime_ns,
        uid: object.uid,
        gid: object.gid,
        mode: object.mode,
        links: object.links,
        cleaner: object.cleaner.clone(),
        tier: object.tier,
        why_safe: object.why_safe.clone(),
        outcome: outcome.into(),
        sha256: object.sha256.map(|h| Bytes::copy_from_slice(&h.0)).unwrap_or_default(),
        digest_partial: object.digest_partial,
    }
}

fn object_from_wire(object: wire::PlannedObject) -> Result<PlannedObject, InvalidValue> {
    let outcome = match object.outcome() {
        wire::ObjectOutcome::Unspecified => ObjectOutcome::Pending,
        wire::ObjectOutcome::Removed => ObjectOutcome::Removed,
        wire::ObjectOutcome::Skipped => ObjectOutcome::Skipped,
        wire::ObjectOutcome::Failed => ObjectOutcome::Failed,
    };
    let sha256 = if object.sha256.is_empty() { None } else { Some(Hash::from_slice(&object.sha256)?) };
    Ok(PlannedObject {
        path: path_from_wire(&object.path)?,
        device: object.device,
        inode: object.inode,
        size_bytes: object.size_bytes,
        allocated_bytes: object.allocated_bytes,
        mtime_ns: object.mtime_ns,
        ctime_ns: object.ctime_ns,
        uid: object.uid,
        gid: object.gid,
        mode: object.mode,
        links: object.links,
        cleaner: object.cleaner,
        tier: object.tier,
        why_safe: object.why_safe,
        outcome,
        sha256,
        digest_partial: object.digest_partial,
    })
}

pub(super) fn candidate_to_wire(candidate: &Candidate) -> wire::Candidate {
    wire::Candidate {
        object: Some(object_to_wire(&candidate.object)),
        root: candidate.root.display().to_string(),
        open_elsewhere: candidate.open_elsewhere,
    }
}

pub(super) fn candidate_from_wire(candidate: wire::Candidate) -> Result<Candidate, InvalidValue> {
    let object = candidate.object.ok_or_else(|| InvalidValue::new("candidate", "", "must have an object"))?;
    Ok(Candidate {
        object: object_from_wire(object)?,
        root: PathBuf::from(candidate.root),
        open_elsewhere: candidate.open_elsewhere,
    })
}

pub(super) fn action_to_wire(action: &Action) -> wire::Action {
    let mode = match action.mode {
        CleanupMode::Off => wire::CleanupMode::Off,
        CleanupMode::Plan => wire::CleanupMode::Plan,
        CleanupMode::Auto => wire::CleanupMode::Auto,
    };
    let state = match action.state {
        ActionState::Planned => wire::ActionState::Planned,
        ActionState::Started => wire::ActionState::Started,
        ActionState::Done => wire::ActionState::Done,
        ActionState::Failed => wire::ActionState::Failed,
        ActionState::Refused => wire::ActionState::Refused,
    };
    wire::Action {
        id: action.id.clone(),
        mount: action.mount.clone(),
        mode: mode.into(),
        state: state.into(),
        reason: action.reason.clone(),
        finding_id: action.finding_id.clone().unwrap_or_default(),
        actor: action.actor.clone(),
        planned_bytes: action.planned_bytes,
        freed_bytes: action.freed_bytes,
        available_before_bytes: action.available_before_bytes,
        available_after_bytes: action.available_after_bytes,
        unexplained_bytes: action.unexplained.as_ref().map(|u| u.bytes),
        unexplained_reason: action.unexplained.as_ref().map(|u| u.reason.clone()).unwrap_or_default(),
        target_available_bytes: action.target_available_bytes,
        objects: action.objects.iter().map(object_to_wire).collect(),
        refused: refusals_to_wire(&action.refused),
        expires_wall_ns: action.expires_wall_ns,
        detail: action.detail.clone(),
    }
}

pub(super) fn action_from_wire(action: wire::Action) -> Result<Action, InvalidValue> {
    let mode = match action.mode() {
        wire::CleanupMode::Off => CleanupMode::Off,
        wire::CleanupMode::Plan => CleanupMode::Plan,
        wire::CleanupMode::Auto => CleanupMode::Auto,
        wire::CleanupMode::Unspecified => {
            return Err(InvalidValue::new(
                "action mode",
                action.mode.to_string(),
                "must be off, plan or auto",
            ));
        }
    };
    let state = match action.state() {
        wire::ActionState::Planned => ActionState::Planned,
        wire::ActionState::Started => ActionState::Started,
        wire::ActionState::Done => ActionState::Done,
        wire::ActionState::Failed => ActionState::Failed,
        wire::ActionState::Refused => ActionState::Refused,
        wire::ActionState::Unspecified => {
            return Err(InvalidValue::new("action state", action.state.to_string(), "must be a known state"));
        }
    };
    let reason = action.unexplained_reason;
    Ok(Action {
        id: action.id,
        mount: action.mount,
        mode,
        state,
        reason: action.reason,
        finding_id: Some(action.finding_id).filter(|id| !id.is_empty()),
        actor: action.actor,
        planned_bytes: action.planned_bytes,
        freed_bytes: action.freed_bytes,
        available_before_bytes: action.available_before_bytes,
        available_after_bytes: action.available_after_bytes,
        unexplained: action.unexplained_bytes.map(|bytes| Unexplained { bytes, reason }),
        target_available_bytes: action.target_available_bytes,
        objects: action.objects.into_iter().map(object_from_wire).collect::<Result<_, _>>()?,
        refused: refusals_from_wire(action.refused)?,
        expires_wall_ns: action.expires_wall_ns,
        detail: action.detail,
    })
}
