//! Actions and their parts.

use bytes::Bytes;

use super::{
    MAX_OBJECTS, Refused, action_state, cleanup_mode, from_owned, hash, items, object_outcome, path,
    path_bytes, text,
};
use crate::record::{Action, Cut, ImageStore, PlannedImage, PlannedObject, Refusal, Unexplained};
use crate::wire;

/// Most bytes of a cut's tail: masking can make the planned 64 KiB longer, and several must fit a block.
const MAX_CUT_TAIL: usize = 128 * 1024;

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
            image_store: a.image_store.as_deref().map(Into::into),
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
            image_store: a.image_store.map(|s| ImageStore::try_from(s).map(Box::new)).transpose()?,
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
            image: o.image.as_deref().map(Into::into),
            cut: o.cut.as_ref().map(Into::into),
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
            cut: o.cut.map(Cut::try_from).transpose()?,
            image: o.image.map(|i| PlannedImage::try_from(i).map(Box::new)).transpose()?,
            atime_ns: o.atime_ns,
            btime_ns: o.btime_ns,
            preserved_bytes: o.preserved_bytes,
        })
    }
}

impl From<&PlannedImage> for wire::PlannedImage {
    fn from(i: &PlannedImage) -> Self {
        Self { id: i.id.clone(), tags: i.tags.clone(), digests: i.digests.clone(), inodes: i.inodes }
    }
}

impl TryFrom<wire::PlannedImage> for PlannedImage {
    type Error = Refused;
    fn try_from(i: wire::PlannedImage) -> Result<Self, Refused> {
        let names = |field: &'static str, names: Vec<String>| {
            if names.len() > MAX_OBJECTS {
                return Err(Refused::new(field, format!("{} are over {MAX_OBJECTS}", names.len())));
            }
            names.into_iter().map(|n| text(field, n)).collect::<Result<Vec<_>, _>>()
        };
        if i.id.is_empty() {
            return Err(Refused::missing("image.id"));
        }
        Ok(Self {
            id: text("image.id", i.id)?,
            tags: names("image.tags", i.tags)?,
            digests: names("image.digests", i.digests)?,
            inodes: i.inodes,
        })
    }
}

impl From<&ImageStore> for wire::ImageStore {
    fn from(s: &ImageStore) -> Self {
        Self {
            mount_point: s.mount_point.clone(),
            listed_bytes: s.listed_bytes,
            used_before_bytes: s.used_before_bytes,
            used_after_bytes: s.used_after_bytes,
            inodes_before: s.inodes_before,
            inodes_after: s.inodes_after,
        }
    }
}

impl TryFrom<wire::ImageStore> for ImageStore {
    type Error = Refused;
    fn try_from(s: wire::ImageStore) -> Result<Self, Refused> {
        Ok(Self {
            mount_point: text("image_store.mount_point", s.mount_point)?,
            listed_bytes: s.listed_bytes,
            used_before_bytes: s.used_before_bytes,
            used_after_bytes: s.used_after_bytes,
            inodes_before: s.inodes_before,
            inodes_after: s.inodes_after,
        })
    }
}

impl From<&Cut> for wire::Cut {
    fn from(c: &Cut) -> Self {
        Self { from: c.from, to: c.to, tail: Bytes::copy_from_slice(&c.tail) }
    }
}

impl TryFrom<wire::Cut> for Cut {
    type Error = Refused;
    fn try_from(c: wire::Cut) -> Result<Self, Refused> {
        if c.from >= c.to {
            return Err(Refused::new("cut.to", format!("{} must be after cut.from, {}", c.to, c.from)));
        }
        if c.tail.len() > MAX_CUT_TAIL {
            return Err(Refused::new("cut.tail", format!("{} bytes are over {MAX_CUT_TAIL}", c.tail.len())));
        }
        Ok(Self { from: c.from, to: c.to, tail: c.tail.into() })
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
