//! For how long each image has been seen unused. CRI tells of no last use, so the image keeper looks and remembers.
//!
//! What is counted is time *watched*: between two looks at both of which nobody used the image, and at most
//! [`MAX_SPAN_NS`] for each such pair. So neither a wall clock that jumps nor a night in which the agent did not run makes
//! an image old, and whoever loses the file has young images only.
//!
//! Invariants: spans are of the boot clock; an image that is gone is forgotten, one that comes back is new.
//!
//! Limits: a container that began and was removed between two looks is not seen.

use std::collections::HashMap;
use std::path::Path;

use dogwatch::identity::{read_private_file, write_private_file};
use serde::{Deserialize, Serialize};

use super::inventory::MAX_IMAGES;

/// Most that the time between two looks counts: five of the keeper's.
pub(super) const MAX_SPAN_NS: u64 = 300 * 1_000_000_000;
/// The file's name in the keeper's folder.
pub(crate) const SEEN_FILE: &str = "images-seen";
const VERSION: u32 = 1;

/// What is known of an image's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Past {
    /// So long has nobody been seen to use it.
    pub(super) unused_ns: u64,
    /// Its place in the order in which images were first seen; those of one look share it.
    pub(super) order: u64,
}

/// The memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    images: HashMap<String, Past>,
    next_order: u64,
    last_look_boot_ns: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    next_order: u64,
    images: Vec<(String, u64, u64)>,
}

impl Seen {
    /// Takes in a look: every image with whether it is used, or has changed its names.
    pub(super) fn look<'i>(&mut self, images: impl Iterator<Item = (&'i str, bool)>, now_boot_ns: u64) {
        let span = self.last_look_boot_ns.map_or(0, |t| now_boot_ns.saturating_sub(t)).min(MAX_SPAN_NS);
        let mut now = HashMap::new();
        let order = self.next_order;
        for (id, used) in images.take(MAX_IMAGES) {
            let past = match self.images.get(id) {
                Some(past) if used => Past { unused_ns: 0, ..*past },
                Some(past) => Past { unused_ns: past.unused_ns.saturating_add(span), ..*past },
                None => {
                    self.next_order = order.saturating_add(1);
                    Past { unused_ns: 0, order }
                }
            };
            now.insert(id.to_owned(), past);
        }
        self.images = now;
        self.last_look_boot_ns = Some(now_boot_ns);
    }

    /// What is known of the image `id`.
    pub(super) fn of(&self, id: &str) -> Option<Past> {
        self.images.get(id).copied()
    }

    /// What was kept in `folder`; nothing, with the reason, where that is not to be believed.
    pub(super) fn read(folder: &Path) -> (Self, Option<String>) {
        let path = folder.join(SEEN_FILE);
        let bytes = match read_private_file(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.is_not_found() => return (Self::default(), None),
            Err(e) => return (Self::default(), Some(e.to_string())),
        };
        match serde_json::from_slice::<File>(&bytes) {
            Ok(file) if file.version == VERSION && file.images.len() <= MAX_IMAGES => {
                let past = |(id, unused_ns, order)| (id, Past { unused_ns, order });
                let images = file.images.into_iter().map(past).collect();
                (Self { images, next_order: file.next_order, last_look_boot_ns: None }, None)
            }
            Ok(_) => (Self::default(), Some(format!("{} is of another version", path.display()))),
            Err(e) => (Self::default(), Some(format!("{}: {e}", path.display()))),
        }
    }

    /// Keeps it in `folder`, whole or not at all.
    pub(super) fn write(&self, folder: &Path) -> Result<(), String> {
        let mut images: Vec<_> =
            self.images.iter().map(|(id, p)| (id.clone(), p.unused_ns, p.order)).collect();
        images.sort();
        let file = File { version: VERSION, next_order: self.next_order, images };
        let bytes = serde_json::to_vec(&file).map_err(|e| e.to_string())?;
        write_private_file(&folder.join(SEEN_FILE), &bytes).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn unused(seen: &Seen, id: &str) -> Option<u64> {
        seen.of(id).map(|p| p.unused_ns / S)
    }

    #[test]
    fn only_time_watched_counts_and_use_begins_anew() {
        let mut seen = Seen::default();
        seen.look([("a", false), ("b", true)].into_iter(), 1_000 * S);
        assert_eq!(
            (unused(&seen, "a"), unused(&seen, "b")),
            (Some(0), Some(0)),
            "nobody saw what was before"
        );
        seen.look([("a", false), ("b", false), ("c", false)].into_iter(), 1_060 * S);
        assert_eq!((unused(&seen, "a"), unused(&seen, "b")), (Some(60), Some(60)));
        assert_eq!(unused(&seen, "c"), Some(0));
        // The node slept for a day.
        seen.look([("a", false), ("b", true)].into_iter(), 90_000 * S);
        assert_eq!((unused(&seen, "a"), unused(&seen, "b")), (Some(360), Some(0)));
        assert_eq!(unused(&seen, "c"), None, "gone and forgotten");
        // A boot clock that went backwards is another boot's.
        seen.look([("a", false), ("c", false)].into_iter(), 5 * S);
        assert_eq!((unused(&seen, "a"), unused(&seen, "c")), (Some(360), Some(0)));
        assert!(seen.of("c").unwrap().order > seen.of("a").unwrap().order);
    }

    #[test]
    fn it_outlives_a_restart_and_a_torn_file_makes_all_young() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Seen::read(folder.path()), (Seen::default(), None));
        let mut seen = Seen::default();
        seen.look([("a", false)].into_iter(), 0);
        seen.look([("a", false)].into_iter(), 100 * S);
        seen.write(folder.path()).unwrap();
        let (mut again, problem) = Seen::read(folder.path());
        assert_eq!((unused(&again, "a"), problem), (Some(100), None));
        again.look([("a", false)].into_iter(), 7_000 * S);
        assert_eq!(unused(&again, "a"), Some(100), "the time between two runs was not watched");
        let path = folder.path().join(SEEN_FILE);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let (torn, problem) = Seen::read(folder.path());
        assert_eq!(unused(&torn, "a"), None);
        assert!(problem.unwrap().contains(SEEN_FILE));
    }

    #[test]
    fn as_many_images_as_may_be_fit_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (0..MAX_IMAGES).map(|i| format!("sha256:{i:064}")).collect();
        let mut seen = Seen::default();
        seen.look(ids.iter().map(|i| (i.as_str(), false)), 0);
        for image in seen.images.values_mut() {
            image.unused_ns = u64::from(u32::MAX) * S;
        }
        seen.write(folder.path()).unwrap();
        let (again, problem) = Seen::read(folder.path());
        assert_eq!((again.images.len(), problem), (MAX_IMAGES, None));
    }
}
