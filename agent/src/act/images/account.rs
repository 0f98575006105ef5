//! What an action on images changed, in figures and words: the runtime's figure of its store beside the mount's. Pure.
//!
//! Invariant: what cannot be told apart is not told apart. containerd measures unpacked layers alone and lists images by
//! what was pulled; CRI-O does both by what is unpacked.

use dogwatch::record::Unexplained;

use super::inventory::{Image, Store};
use super::keeper::MAX_SETTLE;
use crate::act::words;

/// What belongs to no image that is listed is told from this on; below, it is metadata and rounding.
const MIN_ORPHANED_BYTES: u64 = 1 << 20;

/// What the store holds beyond what is listed, in words.
pub(super) fn orphaned(store: &Store, images: &[Image], written_bytes: u64) -> Option<String> {
    let listed = images.iter().fold(0u64, |sum, i| sum.saturating_add(i.size_bytes));
    let rest = store.used_bytes.saturating_sub(listed).saturating_sub(written_bytes);
    (rest >= MIN_ORPHANED_BYTES).then(|| {
        format!(
            "{} in the runtime's store belong to no image or container that it lists, or are what images take unpacked \
             beyond their listed size ({} used; {} images with {}, containers' layers with {}): the runtime's interface \
             neither names nor removes them",
            words::bytes(rest),
            words::bytes(store.used_bytes),
            images.len(),
            words::bytes(listed),
            words::bytes(written_bytes)
        )
    })
}

/// after − before − freed, and why. `fresh` is whether the runtime measured after the last removal; `None`: it did not
/// say.
pub(super) fn unexplained(
    before: u64,
    after: u64,
    freed: u64,
    listed: u64,
    fresh: Option<bool>,
) -> Unexplained {
    let rest = i128::from(after) - i128::from(before) - i128::from(freed);
    let bytes = i64::try_from(rest).unwrap_or(if rest < 0 { i64::MIN } else { i64::MAX });
    let mut reasons = Vec::new();
    if freed < listed {
        reasons.push(format!(
            "the removed images are listed with {}, of which the runtime's store lost {}: layers that they share \
             with each other or with images that stay, or that are collected later",
            words::bytes(listed),
            words::bytes(freed)
        ));
    }
    match fresh {
        Some(true) => {}
        Some(false) => reasons.push(format!(
            "the runtime collects and measures in its own time, and had not measured anew within {} s",
            MAX_SETTLE.as_secs()
        )),
        None => reasons.push("the runtime did not say what its store holds afterwards".to_owned()),
    }
    match rest {
        0 => {}
        ..0 => reasons.push(format!(
            "{} were written by others meanwhile, or come free later, or what went is still open, mounted or kept by a \
             snapshot",
            words::bytes(rest.unsigned_abs().try_into().unwrap_or(u64::MAX))
        )),
        1.. => reasons.push(format!(
            "{} came free beyond the runtime's figure, which counts unpacked layers alone: layers as they were pulled, \
             metadata, or what others freed",
            words::bytes(rest.unsigned_abs().try_into().unwrap_or(u64::MAX))
        )),
    }
    Unexplained { bytes, reason: reasons.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_has_its_reasons() {
        const M: u64 = 1 << 20;
        let said = unexplained(100 * M, 130 * M, 10 * M, 30 * M, Some(true));
        assert_eq!(said.bytes, 20 * M as i64);
        assert!(said.reason.contains("listed with 30.0 MiB"), "{}", said.reason);
        assert!(said.reason.contains("20.0 MiB came free beyond"), "{}", said.reason);
        let said = unexplained(100 * M, 90 * M, 10 * M, 10 * M, Some(false));
        assert_eq!(said.bytes, -20 * M as i64);
        assert!(said.reason.contains("not measured anew within 15 s"), "{}", said.reason);
        assert!(said.reason.contains("20.0 MiB were written by others"), "{}", said.reason);
        assert!(unexplained(0, 0, 0, 0, None).reason.contains("did not say"));
        assert_eq!(unexplained(0, 5, 5, 5, Some(true)).reason, "");
        assert_eq!(unexplained(u64::MAX, 0, u64::MAX, 0, Some(true)).bytes, i64::MIN);
    }

    #[test]
    fn what_belongs_to_nothing_that_is_listed_is_told() {
        let store =
            Store { mountpoint: "/x".into(), used_bytes: 10 << 20, inodes_used: 1, measured_wall_ns: 0 };
        assert!(orphaned(&store, &[], 1 << 20).unwrap().starts_with("9.0 MiB in the runtime's store"));
        assert_eq!(orphaned(&store, &[], 10 << 20), None);
        assert_eq!(orphaned(&store, &[], u64::MAX), None);
    }
}
