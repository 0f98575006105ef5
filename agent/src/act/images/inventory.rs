//! What the runtime says it has, checked and made ours: images, who uses them, and the store that they lie in.
//!
//! Pure, and the one place where the runtime's answers are bounded: whoever sits behind the socket is believed as to what
//! *keeps* an image, never beyond a bound. What would make it unclear what is in use fails the whole look; what is odd
//! about one image makes that image stay.

use std::path::{Component, PathBuf};

use super::cri::wire;
use super::names::{canonical, meanings};

/// Most images; a node that the kubelet keeps has under a hundred.
pub(super) const MAX_IMAGES: usize = 2_000;
/// Most containers, exited ones among them.
const MAX_USERS: usize = 20_000;
/// Most filesystems of images; CRI has one, or one a runtime handler.
const MAX_STORES: usize = 16;
/// Most bytes of all names of an image: each is repeated in records.
const MAX_NAMES_BYTES: usize = 4_096;
/// Longest id: `sha512:` and its digits.
const MAX_ID_BYTES: usize = 160;

/// An image as the runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// The runtime's id, by which alone it is removed.
    pub(super) id: String,
    /// Names with tags, sorted.
    pub(super) tags: Vec<String>,
    /// Names with digests, sorted.
    pub(super) digests: Vec<String>,
    /// Its size by the runtime: of what was pulled (containerd), or unpacked (CRI-O). Shared layers count in each image.
    pub(super) size_bytes: u64,
    /// Whether the runtime says that it must not be collected.
    pub(super) pinned: bool,
    /// Why it cannot be handled, if it cannot.
    pub(super) odd: Option<String>,
}

impl Image {
    /// Every canonical name that means it, its id among them.
    pub(super) fn meanings(&self) -> Vec<String> {
        let named = self.tags.iter().chain(&self.digests).flat_map(|n| meanings(n));
        std::iter::once(canonical(&self.id)).chain(named).collect()
    }

    /// What people call it: its first tag, else its first digest, else its id.
    pub(super) fn name(&self) -> &str {
        self.tags.first().or(self.digests.first()).unwrap_or(&self.id)
    }
}

/// A container, in whatever state, that keeps its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// `pod's container app (running)` or the like.
    pub(super) said: String,
    /// Canonical names of the image, in every way in which the runtime says them.
    pub(super) images: Vec<String>,
}

/// A filesystem in which images lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Store {
    /// A folder of the host on it.
    pub(super) mountpoint: PathBuf,
    /// What the runtime's layers take there.
    pub(super) used_bytes: u64,
    /// How many inodes.
    pub(super) inodes_used: u64,
    /// When the runtime measured that, wall ns.
    pub(super) measured_wall_ns: i64,
}

/// One look at the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Inventory {
    /// Every image.
    pub(super) images: Vec<Image>,
    /// Every container.
    pub(super) users: Vec<User>,
    /// The image that new pods are begun with, canonical, where the runtime says so.
    pub(super) sandbox_image: Option<String>,
    /// Where images lie.
    pub(super) stores: Vec<Store>,
}

/// The images of an answer, or why it is not to be believed.
pub(super) fn images(listed: Vec<wire::Image>) -> Result<Vec<Image>, String> {
    if listed.len() > MAX_IMAGES {
        return Err(format!("the runtime lists {} images, over {MAX_IMAGES}", listed.len()));
    }
    let mut images: Vec<Image> = listed.into_iter().map(image).collect();
    images.sort_by(|a, b| a.id.cmp(&b.id));
    // Two images of one id cannot be told apart when one of them is to go.
    for at in 1..images.len() {
        if images[at].id == images[at - 1].id {
            for twin in [at - 1, at] {
                images[twin].odd = Some("the runtime lists its id twice".to_owned());
            }
        }
    }
    Ok(images)
}

fn image(listed: wire::Image) -> Image {
    let wire::Image { id, repo_tags: mut tags, repo_digests: mut digests, size, pinned } = listed;
    let bytes: usize = tags.iter().chain(&digests).map(String::len).sum();
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let odd = if !plain(&id) || id.len() > MAX_ID_BYTES {
        Some("its id is none".to_owned())
    } else if bytes > MAX_NAMES_BYTES {
        Some(format!("its names take {bytes} bytes, over {MAX_NAMES_BYTES}"))
    } else if !tags.iter().chain(&digests).all(|n| plain(n)) {
        Some("one of its names is none".to_owned())
    } else {
        None
    };
    if odd.is_some() {
        // It stays; what is told of it must still fit a record and a terminal.
        let short: String = id.chars().filter(char::is_ascii_graphic).take(MAX_ID_BYTES).collect();
        return Image { id: short, tags: Vec::new(), digests: Vec::new(), size_bytes: size, pinned, odd };
    }
    tags.sort();
    digests.sort();
    Image { id, tags, digests, size_bytes: size, pinned, odd }
}

/// Who uses images, or why nobody can tell.
pub(super) fn users(listed: Vec<wire::Container>) -> Result<Vec<User>, String> {
    if listed.len() > MAX_USERS {
        return Err(format!("the runtime lists {} containers, over {MAX_USERS}", listed.len()));
    }
    listed.into_iter().map(user).collect()
}

fn user(container: wire::Container) -> Result<User, String> {
    let state = match container.state() {
        wire::ContainerState::ContainerCreated => "created",
        wire::ContainerState::ContainerRunning => "running",
        wire::ContainerState::ContainerExited => "exited",
        wire::ContainerState::ContainerUnknown => "in an unknown state",
    };
    let label = |key: &str| container.labels.get(key).map(|v| short(v));
    let pod = label("io.kubernetes.pod.namespace").zip(label("io.kubernetes.pod.name"));
    let of_pod = pod.map(|(namespace, pod)| format!(" of {namespace}/{pod}")).unwrap_or_default();
    let said = format!("container {:.12}{of_pod} ({state})", short(&container.id));
    let named = container.image.map(|i| i.image).into_iter();
    let names: Vec<String> =
        named.chain([container.image_ref, container.image_id]).filter(|n| !n.is_empty()).collect();
    if names.is_empty() {
        return Err(format!("the runtime does not say which image {said} uses"));
    }
    if names.iter().map(String::len).sum::<usize>() > MAX_NAMES_BYTES {
        return Err(format!("the names of the image of {said} are over {MAX_NAMES_BYTES} bytes"));
    }
    Ok(User { said, images: names.iter().flat_map(|n| meanings(n)).collect() })
}

/// Text of the runtime's as part of a sentence.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// The stores of an answer; what is not whole is left out.
pub(super) fn stores(listed: Vec<wire::FilesystemUsage>) -> Vec<Store> {
    let store = |usage: wire::FilesystemUsage| {
        let mountpoint = PathBuf::from(usage.fs_id?.mountpoint);
        let plain = mountpoint.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        (mountpoint.is_absolute() && plain).then_some(Store {
            mountpoint,
            used_bytes: usage.used_bytes?.value,
            inodes_used: usage.inodes_used.unwrap_or_default().value,
            measured_wall_ns: usage.timestamp,
        })
    };
    listed.into_iter().take(MAX_STORES).filter_map(store).collect()
}

/// The image of pods' sandboxes in the JSON that containerd gives as its configuration.
pub(super) fn sandbox_image(config: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let name = config.get("sandboxImage")?.as_str()?;
    (!name.is_empty() && name.len() <= MAX_NAMES_BYTES).then(|| canonical(name))
}

/// When an image was made, wall ns, by the JSON that runtimes give of it.
pub(super) fn created_wall_ns(info: &str) -> Option<i64> {
    let info: serde_json::Value = serde_json::from_str(info).ok()?;
    let made: jiff::Timestamp = info.get("imageSpec")?.get("created")?.as_str()?.parse().ok()?;
    i64::try_from(made.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, tags: &[&str]) -> wire::Image {
        let repo_tags = tags.iter().map(|t| (*t).to_owned()).collect();
        wire::Image { id: id.to_owned(), repo_tags, size: 1, ..Default::default() }
    }

    #[test]
    fn lists_beyond_bounds_are_refused_and_odd_images_stay() {
        assert!(images(vec![listed("sha256:1", &[]); MAX_IMAGES + 1]).unwrap_err().contains("over 2000"));
        let long = "x".repeat(MAX_NAMES_BYTES + 1);
        let found = images(vec![
            listed("", &[]),
            listed("sha256:2", &[&long]),
            listed("sha256:3", &["a\u{1b}[2J"]),
            listed("sha256:4", &["a:1"]),
            listed("sha256:5", &["a:2"]),
            listed("sha256:5", &["a:3"]),
            listed(&long, &[]),
        ])
        .unwrap();
        let fine: Vec<&str> = found.iter().filter(|i| i.odd.is_none()).map(Image::name).collect();
        assert_eq!(fine, ["a:1"]);
        assert!(found.iter().all(|i| i.id.len() <= MAX_ID_BYTES));
    }

    #[test]
    fn a_container_whose_image_is_not_said_fails_the_look() {
        let mut container = wire::Container { id: "c1".to_owned(), ..Default::default() };
        assert!(users(vec![container.clone()]).unwrap_err().contains("c1"));
        container.image_ref = "sha256:00".to_owned();
        assert_eq!(users(vec![container.clone()]).unwrap()[0].images, ["sha256:00"]);
        container.image_id = "x".repeat(MAX_NAMES_BYTES + 1);
        assert!(users(vec![container.clone()]).is_err());
        assert!(users(vec![wire::Container::default(); MAX_USERS + 1]).unwrap_err().contains("over"));
        // A state of a newer runtime keeps the image like any other.
        let newer = wire::Container { state: 99, image_ref: "x".to_owned(), ..Default::default() };
        assert_eq!(users(vec![newer]).unwrap().len(), 1);
    }

    #[test]
    fn stores_and_configurations_are_read_as_far_as_they_make_sense() {
        let usage = |at: &str| wire::FilesystemUsage {
            timestamp: 7,
            fs_id: Some(wire::FilesystemIdentifier { mountpoint: at.to_owned() }),
            used_bytes: Some(wire::UInt64Value { value: 5 }),
            inodes_used: None,
        };
        let found =
            stores(vec![usage("/var/lib/x"), usage("relative"), usage("/a/../b"), Default::default()]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].used_bytes, found[0].measured_wall_ns), (5, 7));
        assert_eq!(sandbox_image(r#"{"sandboxImage":"r.test/pause:3"}"#).as_deref(), Some("r.test/pause:3"));
        for odd in ["", "[]", r#"{"sandboxImage":7}"#, r#"{"sandboxImage":""}"#] {
            assert_eq!(sandbox_image(odd), None, "{odd}");
        }
        let made = r#"{"imageSpec":{"created":"1970-01-01T00:00:01Z"}}"#;
        assert_eq!(created_wall_ns(made), Some(1_000_000_000));
        assert_eq!(created_wall_ns(r#"{"imageSpec":{"created":"soon"}}"#), None);
    }
}
