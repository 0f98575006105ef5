//! Unused container images, through the container runtime interface (CRI v1) alone.
//!
//! The runtime's socket is a right to do anything with the node's containers, so that it is held by a confined child of
//! its own, the image keeper ([`child`]), and never by the process that parses hostile logs. [`cri`] asks the runtime;
//! [`inventory`] bounds and checks what it says; [`seen`] remembers for how long nobody used an image; [`judge`] says
//! what may go and why the rest stays; [`keeper`] offers, checks anew and removes, one image at a time; [`account`] says what that changed.
//!
//! To [`super::plan`] and [`super::respond`] images are candidates like files, for the mount that the runtime's store
//! lies on; an action may hold both, and [`super::shares`] gives each child its share.
//!
//! An image stands in plans, records and holds as [`IMAGE_PLACE`] and its name.
//!
//! Invariants: `inventory`, `names`, `judge` are pure; `child` alone connects to the runtime.
//!
//! Deliberately absent: layers that belong to no image (CRI can neither list nor remove them: what is left over is told),
//! images of other namespaces than Kubernetes' own (CRI does not show them), and pulling anything back.

mod account;
pub mod child;
mod cri;
mod inventory;
mod judge;
mod keeper;
mod names;
pub mod policy;
mod seen;

pub(super) use child::ImageSetup;
pub(super) use keeper::holder_of_image;
pub(crate) use seen::SEEN_FILE;

/// The cleaner's word in plans.
pub const CLEANER: &str = "images";
/// Where images stand among paths: `/container-images/docker.io/library/busybox:1`. Nothing on disk.
pub const IMAGE_PLACE: &str = "/container-images";

/// Names for a sentence, the first three of them.
fn words_of<'n>(names: impl Iterator<Item = &'n String>) -> String {
    let all: Vec<&str> = names.map(String::as_str).collect();
    match all.len() {
        0 => "without a name".to_owned(),
        n if n > 3 => format!("{} and {} more", all[..3].join(", "), n - 3),
        _ => all.join(", "),
    }
}
