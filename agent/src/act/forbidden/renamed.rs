//! What is out of reach by another name: a bind mount of a database's folder, or its disk mounted a second time.
//!
//! A root is judged by each of its names that a mount as wide as its own shows, so that where the same path is refused
//! directly, no mount brings it into reach; and, where no such mount is in sight, by its path within the filesystem. What
//! lies beneath a root is judged also by where mounts show it elsewhere.
//!
//! Limits: where a volume of another container engine's is a container's whole disk (a node in a container), what lies in
//! it is judged, not that it is one. A place that is to hold what goes ([`PLAIN`]) may lie on any disk; there only
//! databases, volumes and our state are judged.

use std::path::{Path, PathBuf};

use super::{NEVER, beneath_var_lib, overlap, volume_part, why_in_database};
use crate::act::cleaners::Cleaner;
use crate::act::other_names::OtherNames;
use crate::act::policy::RootPolicy;
use crate::act::real_path::{CleanupRoots, Mounts};

/// What is mounted there is what these names say, wherever its disk is mounted too: distributions keep `/var/log` on the
/// disk of `/home` or `/usr/local`.
const PLAIN: &[&str] = &["/", "/var", "/var/log", "/var/cache", "/var/tmp", "/var/crash", "/tmp"];
/// Trees in which disks are mounted that are none of theirs.
const PLUGGED: &[&str] = &["/run", "/usr", "/var/run"];
/// Where the kubelet shows a container a folder of any volume's, also of the host's own `/var/log`.
const SUBPATHS: &str = "volume-subpaths";

/// A root by its other names, at one moment.
#[derive(Debug)]
pub(in crate::act) struct Renamed {
    cleaner: Cleaner,
    state_dir: PathBuf,
    host_root: PathBuf,
    names: Vec<OtherNames>,
    /// What beneath the root is out of reach elsewhere, and why.
    parts: Vec<(PathBuf, String)>,
}

impl Renamed {
    /// Of the root of `policy`, which has `names`.
    pub(in crate::act) fn of(policy: &RootPolicy, names: Vec<OtherNames>, state_dir: &Path) -> Self {
        let mut all = Self {
            cleaner: policy.cleaner,
            state_dir: state_dir.to_owned(),
            host_root: policy.host_root.clone(),
            names,
            parts: Vec::new(),
        };
        let parts = all.names.iter().flat_map(|n| &n.parts);
        let out = parts.filter_map(|(below, at)| Some((below.clone(), all.why_part(at)?)));
        all.parts = out.collect();
        all
    }

    /// Of the root of `policy`, by the mounts of now.
    pub(in crate::act) fn now(policy: &RootPolicy, state_dir: &Path) -> Self {
        let sight = Mounts::open(CleanupRoots::default()).read();
        let names = sight.other_names(std::iter::once(policy.path.as_path())).pop();
        Self::of(policy, names.unwrap_or_default(), state_dir)
    }

    /// Why the root may not be one, or `None`.
    pub(in crate::act) fn why_root_is_out(&self) -> Option<String> {
        self.why(Path::new(""), true)
    }

    /// Why the root lies in a database's folder by another name: a marker above it.
    pub(in crate::act) fn why_in_database(&self) -> Option<String> {
        self.names.iter().flat_map(|n| &n.whole).find_map(|name| why_in_database(&name.path))
    }

    /// Why what lies at `relative` beneath the root may not be touched, or `None`.
    pub(in crate::act) fn why_out(&self, relative: &Path) -> Option<String> {
        let part = self.parts.iter().find(|(below, _)| relative.starts_with(below));
        part.map(|(_, why)| why.clone()).or_else(|| self.why(relative, false))
    }

    fn why(&self, relative: &Path, is_root: bool) -> Option<String> {
        let below = |path: &Path| if is_root { path.to_owned() } else { path.join(relative) };
        self.names.iter().find_map(|names| {
            let is_plain =
                self.on_host(&names.mount_point).iter().any(|at| PLAIN.iter().any(|p| at == Path::new(p)));
            let by_name = names.whole.iter().find_map(|name| {
                let path = below(&name.path);
                let mounts = self.on_host(&name.mount_point);
                let on_tree = |path: &Path| {
                    let trees = NEVER.iter().map(|(tree, what)| (Path::new(tree), what));
                    trees.into_iter().find_map(|(tree, what)| {
                        let plugged = || mounts.iter().any(|m| m != tree && m.starts_with(tree));
                        let how = overlap(path, tree).filter(|how| is_root || *how != "contains")?;
                        let ours = !PLUGGED.iter().any(|p| tree == Path::new(p)) || !plugged();
                        ours.then(|| format!("{how} {} ({what})", tree.display()))
                    })
                };
                let said = self.on_host(&path).iter().find_map(|path| {
                    let tree = || if is_plain { None } else { on_tree(path) };
                    self.why_path(path, is_root).or_else(tree)
                })?;
                Some(format!("it is {} by another name, which {said}", path.display()))
            });
            by_name.or_else(|| {
                let inside = below(names.inside.as_deref()?);
                let own = within_volume(&inside);
                let said = why_name(&own, self.cleaner, is_root)?;
                let inside = inside.display();
                Some(format!("on its filesystem, of which a folder is mounted, it is {inside}, which {said}"))
            })
        })
    }

    /// Why what is mounted at `at` too may not be touched.
    fn why_part(&self, at: &Path) -> Option<String> {
        if at.components().any(|c| c.as_os_str() == SUBPATHS) {
            return None;
        }
        let is_tree = |path: &Path| {
            let tree = NEVER.iter().find(|(tree, _)| path == Path::new(tree))?;
            Some(format!("is {} ({})", tree.0, tree.1))
        };
        let paths = self.on_host(at);
        let said = paths.iter().find_map(|path| self.why_path(path, false).or_else(|| is_tree(path)))?;
        Some(format!("it is {} by another name, which {said}", at.display()))
    }

    fn why_path(&self, path: &Path, is_root: bool) -> Option<String> {
        if is_root && path == Path::new("/") {
            return Some("is the whole system".to_owned());
        }
        if is_root && Path::new("/var/lib").starts_with(path) {
            return Some("contains /var/lib (databases, volumes, the runtime's own directories)".to_owned());
        }
        let state = || {
            let how = overlap(path, &self.state_dir).filter(|how| is_root || *how != "contains")?;
            Some(format!("{how} dogwatch's own state folder {}", self.state_dir.display()))
        };
        why_name(path, self.cleaner, is_root).or_else(state)
    }

    /// `path` as it is seen here, and as the host calls it.
    fn on_host(&self, path: &Path) -> Vec<PathBuf> {
        let host = path.strip_prefix(&self.host_root).ok().map(|rest| Path::new("/").join(rest));
        let host = host.filter(|host| host != path);
        std::iter::once(path.to_owned()).chain(host).collect()
    }
}

/// What a path's own names tell, wherever it is mounted.
fn why_name(path: &Path, cleaner: Cleaner, is_root: bool) -> Option<String> {
    let var_lib = beneath_var_lib(path, cleaner).and_then(|(name, what)| match name {
        Some(name) => Some(format!("lies in a var/lib/{name} ({what})")),
        None => is_root.then(|| format!("is a {what}")),
    });
    var_lib.or_else(|| volume_part(path).map(|part| format!("lies in {part} (a pod's volume)")))
}

/// What is left of `inside` beneath a volume that a container engine keeps in `volumes/<name>/_data`.
fn within_volume(inside: &Path) -> PathBuf {
    let parts: Vec<_> = inside.components().collect();
    let is_volume =
        |w: &[std::path::Component<'_>]| w[0].as_os_str() == "volumes" && w[2].as_os_str() == "_data";
    match parts.windows(3).rposition(is_volume) {
        Some(at) => Path::new("/").join(parts[at + 3..].iter().collect::<PathBuf>()),
        None => inside.to_owned(),
    }
}

#[cfg(test)]
#[path = "renamed_tests.rs"]
mod tests;
