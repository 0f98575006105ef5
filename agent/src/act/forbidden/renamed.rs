//! What is out of reach by another name: a bind mount of a database's folder, or its disk mounted a second time.
//!
//! A root is judged by each of its names that a mount as wide as its own shows, so that where the same path is refused
//! directly, no mount brings it into reach; and, where no such mount is in sight, by its path within the filesystem. What
//! lies beneath a root is judged also by where mounts show it elsewhere.
//!
//! A layer of an overlay that was named from a folder that nobody knows (`lowerdir=l/ABC` after a `chdir`) may be any
//! folder whose path ends so.
//!
//! Limits: a layer that was named through a symbolic link or a descriptor is not known by that. Where a volume of another container engine's is a container's whole disk (a node in a container), what lies in
//! it is judged, not that it is one. A place that is to hold what goes ([`PLAIN`]) may lie on any disk; there only
//! databases, volumes and our state are judged.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::loose::{Loose, loose_layers};
use super::{NEVER, beneath_var_lib, on_host, overlap, why_marked_above, why_name};
use crate::act::other_names::OtherNames;
use crate::act::policy::{QUARANTINE, RootPolicy};
use crate::act::quarantine::is_entry_from;
use crate::act::real_path::{CleanupRoots, Mounts, Sight, is_elsewhere};
use crate::sample::mountinfo::{Entry, Table};

/// What is mounted there is what these names say, wherever its disk is mounted too: distributions keep `/var/log` on the
/// disk of `/home` or `/usr/local`.
pub(super) const PLAIN: &[&str] = &["/", "/var", "/var/log", "/var/cache", "/var/tmp", "/var/crash", "/tmp"];
/// Trees in which disks are mounted that are none of theirs.
const PLUGGED: &[&str] = &["/run", "/usr", "/var/run"];
/// Where the kubelet shows a container a folder of any volume's, also of the host's own `/var/log`.
const SUBPATHS: &str = "volume-subpaths";

/// A root by its other names, and the layers of overlays around it, at one moment.
#[derive(Debug)]
pub(in crate::act) struct Renamed {
    root: RootPolicy,
    state_dir: PathBuf,
    names: Vec<OtherNames>,
    /// What beneath the root is out of reach elsewhere, and why.
    parts: Vec<(PathBuf, String)>,
    /// Its other names behind which no server stands that it does not lie on itself.
    near: Vec<PathBuf>,
    /// What a marker above one of those says; only whoever asks for this root goes there.
    marked: OnceCell<Option<String>>,
    /// The layers that it, by any name, lies in or contains.
    layers: HashSet<PathBuf>,
    /// Layers that may be anywhere.
    loose: Loose,
    /// Why nobody can tell all of this; then nothing of it may be touched.
    untold: Option<String>,
}

impl Renamed {
    /// Of the root of `policy`, which has `names` by `table`.
    fn of(policy: &RootPolicy, names: Vec<OtherNames>, table: &Table<'_>, state_dir: &Path) -> Self {
        let mut all = Self {
            root: policy.clone(),
            state_dir: state_dir.to_owned(),
            names,
            parts: Vec::new(),
            near: Vec::new(),
            marked: OnceCell::new(),
            layers: HashSet::new(),
            loose: loose_layers(table, &policy.host_root),
            untold: None,
        };
        let parts = all.names.iter().flat_map(|n| &n.parts);
        let out = parts.filter_map(|(below, at)| Some((below.clone(), all.why_part(at)?)));
        all.parts = out.collect();
        let own = table.mount_of(policy.path.as_os_str().as_bytes()).map(device);
        let whole = || all.names.iter().flat_map(|n| &n.whole).map(|name| name.path.as_path());
        let behind = |path: &Path| {
            let is_other = |e: &&Entry<'_>| is_elsewhere(e) && Some(device(e)) != own;
            table.entries.iter().filter(is_other).any(|e| path.starts_with(OsStr::from_bytes(&e.path)))
        };
        all.near = whole().filter(|path| !behind(path)).map(Path::to_owned).collect();
        let around = |layer: &PathBuf| {
            std::iter::once(policy.path.as_path()).chain(whole()).any(|name| overlap(name, layer).is_some())
        };
        all.layers = layers(table, &policy.host_root).filter(around).collect();
        all
    }

    /// Of each of `roots`, by the mounts that `sight` tells of.
    pub(in crate::act) fn all(roots: &[RootPolicy], sight: &Sight, state_dir: &Path) -> Vec<Self> {
        let (table, names) = (sight.mounts(), sight.other_names(roots.iter().map(|r| r.path.as_path())));
        let each = roots.iter().zip(names).map(|(root, names)| {
            let untold = sight.untold().map(str::to_owned);
            Self { untold, ..Self::of(root, names, &table, state_dir) }
        });
        each.collect()
    }

    /// Of the root of `policy`, by the mounts of now.
    pub(in crate::act) fn now(policy: &RootPolicy, state_dir: &Path) -> Option<Self> {
        let sight = Mounts::open(CleanupRoots::default()).read();
        Self::all(std::slice::from_ref(policy), &sight, state_dir).pop()
    }

    /// Why the root may not be one, or `None`. Where nobody can tell what is mounted, that is the executor's to say.
    pub(in crate::act) fn why_root_is_out(&self) -> Option<String> {
        self.why_layer(&self.root.path).or_else(|| self.why(Path::new(""), true))
    }

    /// Why a marker by another name keeps the root ([`why_marked_above`]); looked at once.
    pub(in crate::act) fn why_marked_above(&self) -> Option<&str> {
        let why = || self.near.iter().find_map(|name| why_marked_above(name, &self.root.host_root));
        self.marked.get_or_init(why).as_deref()
    }

    /// Why what lies at `relative` beneath the root may not be touched, or `None`.
    pub(in crate::act) fn why_out(&self, relative: &Path) -> Option<String> {
        if self.untold.is_some() {
            return self.untold.clone();
        }
        let part = self.parts.iter().find(|(below, _)| relative.starts_with(below));
        part.map(|(_, why)| why.clone())
            .or_else(|| self.why_layer(&self.root.path.join(relative)))
            .or_else(|| self.why(relative, false))
            .or_else(|| self.why_marked_above().map(str::to_owned))
    }

    /// Why the file at `relative` beneath the root stays: it is mounted itself, and would keep its bytes. A folder that is
    /// mounted elsewhere is no reason.
    pub(in crate::act) fn why_mounted(&self, relative: &Path) -> Option<String> {
        // One that was moved there meanwhile is mounted by its new name.
        let is_it = |below: &Path| {
            let entry = || below.strip_prefix(QUARANTINE).ok();
            below == relative || entry().is_some_and(|entry| is_entry_from(entry.as_os_str(), relative))
        };
        let all = self.names.iter().flat_map(|n| &n.mounted);
        let (_, at) = all.into_iter().find(|(below, _)| is_it(below))?;
        Some(format!("mounted at {}", at.display()))
    }

    fn why_layer(&self, path: &Path) -> Option<String> {
        let layer = path.ancestors().find(|folder| self.layers.contains(*folder));
        let known = layer.map(|layer| format!("it lies in {} (an overlay's layer)", layer.display()));
        known.or_else(|| self.loose.why(path, &self.root.host_root))
    }

    fn why(&self, relative: &Path, is_root: bool) -> Option<String> {
        let below = |path: &Path| if is_root { path.to_owned() } else { path.join(relative) };
        self.names.iter().find_map(|names| {
            let is_plain =
                self.on_host(&names.mount_point).iter().any(|at| PLAIN.iter().any(|p| at == Path::new(p)));
            let by_name = names.whole.iter().find_map(|name| {
                let path = below(&name.path);
                if let Some(why) = self.why_layer(&path) {
                    return Some(why);
                }
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
                let said = self.why_name(&own, is_root)?;
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
        self.why_name(path, is_root).or_else(state)
    }

    /// What a path's own names tell, wherever it is mounted.
    fn why_name(&self, path: &Path, is_root: bool) -> Option<String> {
        let var_lib = || match beneath_var_lib(path, self.root.cleaner) {
            Some((None, what)) if is_root => Some(format!("is a {what}")),
            _ => None,
        };
        why_name(path, self.root.cleaner, &self.root.kubelet_dir).or_else(var_lib)
    }

    fn on_host(&self, path: &Path) -> Vec<PathBuf> {
        on_host(path, &self.root.host_root)
    }
}

fn device(mount: &Entry<'_>) -> (u32, u32) {
    (mount.dev_major, mount.dev_minor)
}

/// Where overlays' layers lie, as they are seen here: the table has them as the mounter called them. What an overlay is
/// mounted over leads to no layer any more, and an overlay over the whole system ([`PLAIN`]) makes it none.
fn layers(table: &Table<'_>, host_root: &Path) -> impl Iterator<Item = PathBuf> {
    let mut overlays: HashMap<(u32, u32), Vec<&Entry<'_>>> = HashMap::new();
    for mount in table.entries.iter().filter(|e| &*e.fs == b"overlay") {
        overlays.entry(device(mount)).or_default().push(mount);
    }
    overlays.into_values().flat_map(|mounts| {
        let merged: Vec<&Path> = mounts.iter().map(|e| Path::new(OsStr::from_bytes(&e.path))).collect();
        // A container's own root hides nothing of its host's.
        let hidden = |path: &Path, root: &Path| {
            let whole = Path::new("/");
            merged.iter().any(|at| path.starts_with(at) && (*at != whole || root == whole))
        };
        let all = mounts[0].layers().into_iter().map(|l| PathBuf::from(OsStr::from_bytes(&l)));
        let whole = all.filter(|layer| layer.is_absolute());
        let mut seen = Vec::new();
        for layer in whole.filter(|layer| !PLAIN.iter().any(|p| layer == Path::new(p))) {
            let on_host = host_root.join(layer.strip_prefix("/").unwrap_or(&layer));
            if !hidden(&on_host, host_root) {
                seen.extend((!hidden(&layer, Path::new("/"))).then_some(layer));
                seen.push(on_host);
            }
        }
        seen
    })
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
