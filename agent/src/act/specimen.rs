//! A file and an action as plans have them, for tests to vary: what matters to one stands in it, and nothing else.

use std::path::Path;

use dogwatch::record::{Action, ActionState, CleanupMode, ObjectOutcome, PlannedObject};

/// A rotated log of one name and 10 bytes that waits for its cleanup.
pub(super) fn object(path: impl AsRef<Path>) -> PlannedObject {
    PlannedObject {
        path: path.as_ref().to_owned(),
        device: 1,
        inode: 1,
        size_bytes: 10,
        allocated_bytes: 10,
        mtime_ns: 0,
        ctime_ns: 0,
        uid: 0,
        gid: 0,
        mode: 0o100_644,
        links: 1,
        cleaner: "rotated-logs".to_owned(),
        tier: 1,
        why_safe: String::new(),
        outcome: ObjectOutcome::Pending,
        sha256: None,
        digest_partial: false,
        image: None,
        cut: None,
        atime_ns: None,
        btime_ns: None,
        preserved_bytes: None,
    }
}

/// An automatic action of `objects` that began and never expires.
pub(super) fn action(objects: Vec<PlannedObject>) -> Action {
    Action {
        id: "a-1".to_owned(),
        mount: "/".to_owned(),
        mode: CleanupMode::Auto,
        state: ActionState::Started,
        reason: String::new(),
        finding_id: None,
        actor: "node".to_owned(),
        planned_bytes: objects.iter().map(|o| o.allocated_bytes).sum(),
        freed_bytes: None,
        available_before_bytes: None,
        available_after_bytes: None,
        unexplained: None,
        target_available_bytes: 0,
        detail: String::new(),
        objects,
        refused: Vec::new(),
        expires_wall_ns: i64::MAX,
        image_store: None,
    }
}
