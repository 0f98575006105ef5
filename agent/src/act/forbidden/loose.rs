//! Layers of overlays that were named from the folder in which the mounter stood: containerd and Docker do where the options
//! would be too long, and the table of mounts has them so.
//!
//! Nobody can tell which folder that was. So every folder whose path ends in such a name may be the layer. Links and `..`
//! in the name are as in a path: what stands before the last `..` says nothing of where it ends.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::on_host;
use super::renamed::PLAIN;
use crate::sample::mountinfo::{Entry, Table};

/// All of them, of one table.
#[derive(Debug, Default)]
pub(super) struct Loose {
    /// By the last part of their names.
    layers: HashMap<OsString, Vec<Layer>>,
    /// One of which the name tells nothing (`.`), and where its overlay is mounted.
    nameless: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
struct Layer {
    /// How its path ends.
    tail: PathBuf,
    /// Where its overlay is mounted.
    merged: Vec<PathBuf>,
}

/// Those of the overlays in `table`.
pub(super) fn loose_layers(table: &Table<'_>, host_root: &Path) -> Loose {
    let mut overlays: HashMap<(u32, u32), Vec<&Entry<'_>>> = HashMap::new();
    for mount in table.entries.iter().filter(|e| &*e.fs == b"overlay") {
        overlays.entry((mount.dev_major, mount.dev_minor)).or_default().push(mount);
    }
    let mut loose = Loose::default();
    for mounts in overlays.into_values() {
        let merged: Vec<PathBuf> = mounts.iter().map(|e| OsStr::from_bytes(&e.path).into()).collect();
        // Of the container's own root, as its host has it, only the host's paths say anything.
        let is_own_root = host_root != Path::new("/") && merged.iter().any(|at| at == Path::new("/"));
        for named in mounts[0].layers() {
            let named = Path::new(OsStr::from_bytes(&named));
            if named.is_absolute() {
                continue;
            }
            let tail = tail_of(named);
            match tail.file_name() {
                Some(last) => {
                    let known = loose.layers.entry(last.to_owned()).or_default();
                    known.push(Layer { tail, merged: merged.clone() });
                }
                None if is_own_root => {}
                None => loose.nameless = Some((named.to_owned(), merged[0].clone())),
            }
        }
    }
    loose
}

impl Loose {
    /// Why `path` may lie in one.
    pub(super) fn why(&self, path: &Path, host_root: &Path) -> Option<String> {
        if let Some((named, at)) = &self.nameless {
            return Some(format!(
                "the overlay at {} has a layer that is named {:?}, from a folder that nobody knows, so that any folder may be \
                 that; mount it with whole paths",
                at.display(),
                named.display().to_string()
            ));
        }
        path.ancestors().find_map(|folder| {
            let layers = self.layers.get(folder.file_name()?)?;
            let layer = layers.iter().find(|l| folder.ends_with(&l.tail) && !l.is_hidden(folder, host_root))?;
            // As with whole paths: an overlay over the whole system makes it no layer.
            let is_plain = on_host(folder, host_root).iter().any(|f| PLAIN.iter().any(|p| f == Path::new(p)));
            (!is_plain).then(|| {
                format!(
                    "it lies in {}, which may be a layer of the overlay at {}: that one is named {}, from a folder that nobody \
                     knows; mount it with whole paths",
                    folder.display(),
                    layer.merged[0].display(),
                    layer.tail.display()
                )
            })
        })
    }
}

impl Layer {
    /// Whether its own overlay lies over `folder`, which is none of its layers then. A container's own root hides nothing of
    /// its host's.
    fn is_hidden(&self, folder: &Path, host_root: &Path) -> bool {
        let whole = Path::new("/");
        let of_host = host_root != whole && folder.starts_with(host_root);
        self.merged.iter().any(|at| folder.starts_with(at) && (at != whole || !of_host))
    }
}

/// What is sure of where a path ends that begins nobody knows where: the names behind the last `..`.
fn tail_of(path: &Path) -> PathBuf {
    let mut tail = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => tail.push(name),
            Component::ParentDir => tail = PathBuf::new(),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    tail
}
