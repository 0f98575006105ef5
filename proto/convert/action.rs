//! Actions and their parts.

use bytes::Bytes;

use super::{
    MAX_OBJECTS, Refused, action_state, cleanup_mode, from_owned, hash, items, object_outcome, path,
    path_bytes, text,
};
use crate::record::{Action, PlannedObject, Refusal, Unexplained};
use crate::wire;

impl From<&Action> for wire::Action {
    fn from(a: &Action) -> Self {
        Self {
            id: a.id.clone(),
            mount: a.mount.clone(),
            mode: wire::CleanupMode::from(a.mode).into(),
            state: wire::ActionState::from(a.state).into(),
            reason: a.reason.clone(),
            finding_id: a.finding_id.clone().unwrap_or_default(),
            actor: a.actor.clone(),
            planned_bytes: a.planned_bytes,
            freed_bytes: a.freed_bytes,
            available_before_bytes: a.available_before_bytes,
            available_after_bytes: a.available_after_bytes,
            unexplained_bytes: a.unexplained.as_ref().map(|u| u.bytes),
            unexplained_reason: a.unexplained.as_ref().map(|u| u.reason.clone()).unwrap_or_default(),
            target_available_bytes: a.target_available_bytes,
            objects: a.objects.iter().map(Into::into).collect(),
            refused: a.refused.iter().map(Into::into).collect(),
            expires_wall_ns: a.expires_wall_ns,
            detail: a.detail.clone(),
        }
    }
}

impl TryFrom<wire::Action> for Action {
    type Error = Refused;
    fn try_from(a: wire::Action) -> Result<Self, Refused> {
        Ok(Self {
            id: text("id", a.id)?,
            mount: text("mount", a.mount)?,
            mode: cleanup_mode("mode", a.mode)?,
            state: action_state("state", a.state)?,
            reason: text("reason", a.reason)?,
            finding_id: Some(text("finding_id", a.finding_id)?).filter(|id| !id.is_empty()),
            actor: text("actor", a.actor)?,
            planned_bytes: a.planned_bytes,
            freed_bytes: a.freed_bytes,
            available_before_bytes: a.available_before_bytes,
            available_after_bytes: a.available_after_bytes,
            unexplained: unexplained(a.unexplained_bytes, a.unexplained_reason)?,
            target_available_bytes: a.target_available_bytes,
            objects: items("objects", a.objects, MAX_OBJECTS)?,
            refused: items("refused", a.refused, MAX_OBJECTS)?,
            expires_wall_ns: a.expires_wall_ns,
            detail: text("detail", a.detail)?,
        })
    }
}

fn unexplained(bytes: Option<i64>, reason: String) -> Result<Option<Unexplained>, Refused> {
    let reason = text("unexplained_reason", reason)?;
    match bytes {
        Some(bytes) => Ok(Some(Unexplained { bytes, reason })),
        None if reason.is_empty() => Ok(None),
        None => Err(Refused::new("unexplained_reason", "must be empty where unexplained_bytes is absent")),
    }
}

impl From<&PlannedObject> for wire::PlannedObject {
    fn from(o: &PlannedObject) -> Self {
        Self {
            path: path_bytes(&o.path),
            device: o.device,
            inode: o.inode,
            size_bytes: o.size_bytes,
            allocated_bytes: o.allocated_bytes,
            mtime_ns: o.mtime_ns,
            ctime_ns: o.ctime_ns,
            uid: o.uid,
            gid: o.gid,
            mode: o.mode,
            links: o.links,
            cleaner: o.cleaner.clone(),
            tier: o.tier,
            why_safe: o.why_safe.clone(),
            outcome: wire::ObjectOutcome::from(o.outcome).into(),
            sha256: o.sha256.map(|h| Bytes::copy_from_slice(&h.0)).unwrap_or_default(),
            digest_partial: o.digest_partial,
            atime_ns: o.atime_ns,
            btime_ns: o.btime_ns,
            preserved_bytes: o.preserved_bytes,
        }
    }
}

impl TryFrom<wire::PlannedObject> for PlannedObject {
    type Error = Refused;
    fn try_from(o: wire::PlannedObject) -> Result<Self, Refused> {
        let path = path("path", &o.path)?;
        if !path.is_absolute() {
            return Err(Refused::new("path", "must be absolute"));
        }
        Ok(Self {
            path,
            device: o.device,
            inode: o.inode,
            size_bytes: o.size_bytes,
            allocated_bytes: o.allocated_bytes,
            mtime_ns: o.mtime_ns,
            ctime_ns: o.ctime_ns,
            uid: o.uid,
            gid: o.gid,
            mode: o.mode,
            links: o.links,
            cleaner: text("cleaner", o.cleaner)?,
            tier: o.tier,
            why_safe: text("why_safe", o.why_safe)?,
            outcome: object_outcome("outcome", o.outcome)?,
            sha256: if o.sha256.is_empty() { None } else { Some(hash("sha256", &o.sha256)?) },
            digest_partial: o.digest_partial,
            atime_ns: o.atime_ns,
            btime_ns: o.btime_ns,
            preserved_bytes: o.preserved_bytes,
        })
    }
}

impl From<&Refusal> for wire::Refusal {
    fn from(r: &Refusal) -> Self {
        Self { path: r.path.as_deref().map(path_bytes).unwrap_or_default(), reason: r.reason.clone() }
    }
}

impl TryFrom<wire::Refusal> for Refusal {
    type Error = Refused;
    fn try_from(r: wire::Refusal) -> Result<Self, Refused> {
        Ok(Self {
            path: if r.path.is_empty() { None } else { Some(path("path", &r.path)?) },
            reason: text("reason", r.reason)?,
        })
    }
}

from_owned! {
    Action => wire::Action,
    PlannedObject => wire::PlannedObject,
    Refusal => wire::Refusal,
}
