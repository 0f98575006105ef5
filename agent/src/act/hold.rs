//! Holds: what may not be cleaned, whoever asks and whatever the plan says.
//!
//! A [`NodeHold`] is what the collector said; a [`Hold`] is the same resolved to paths that a plan's objects can be
//! compared with. Both are values: [`super::hold_line`] keeps them and hands them on, [`super::real_path`] resolves them.
//!
//! Invariants
//! - What is held is unknown until somebody said it ([`HoldSet::Unknown`]), and then everything is held.
//! - A hold never ends by itself; only a later set without it ends it.
//!
//! Limits: a hold names places, not inodes. A file that is renamed out of a held name (a rotation) is no longer held:
//! hold the folder, or the pod.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most holds of one node; the collector allows no more either.
pub const MAX_HOLDS: usize = 256;
/// Most of a reason that a refusal repeats, in characters: a plan may have hundreds of them.
const MAX_REASON_CHARS: usize = 120;
/// The id of what stands in for holds that nobody can tell; no hold's own.
const UNKNOWN: &str = "unknown";
/// Where the kubelet has every pod's logs, in a folder `<namespace>_<pod>_<uid>`.
const POD_LOGS: &str = "/var/log/pods";

/// A hold that concerns this node, as the collector said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHold {
    /// `hold-` and eight hexadecimal digits.
    pub id: String,
    /// What is held.
    pub what: HeldThing,
    /// Why, in a person's words.
    pub reason: String,
}

/// What a hold names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldThing {
    /// A file, or a folder with all beneath it; an absolute path of the host.
    Path(PathBuf),
    /// The logs of a pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its full name.
        pod: String,
    },
    /// Everything.
    Node,
}

/// What is held on this node, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldSet {
    /// All of it.
    Known(Vec<NodeHold>),
    /// Nobody can tell, for this reason; so everything is.
    Unknown(String),
}

/// A place that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The hold's id.
    pub id: String,
    /// Where.
    pub place: HeldPlace,
    /// Why.
    pub reason: String,
}

/// Paths that are held, without a symbolic link on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldPlace {
    /// This file or folder and all that lies in it.
    Beneath(PathBuf),
    /// Whatever in this folder has a name that begins so, and all that lies in it.
    Named {
        /// The folder.
        folder: PathBuf,
        /// How the names begin.
        prefix: OsString,
    },
    /// Everywhere.
    Everywhere,
}

impl Hold {
    /// What stands in for holds that nobody can tell.
    pub fn unknown(why: &str) -> Self {
        Self {
            id: UNKNOWN.to_owned(),
            place: HeldPlace::Everywhere,
            reason: format!("what is held here is not known: {why}"),
        }
    }

    /// Whether this stands in for holds that nobody can tell.
    pub fn is_unknown(&self) -> bool {
        self.id == UNKNOWN && self.place == HeldPlace::Everywhere
    }

    /// Whether `path` is held by this.
    pub fn covers(&self, path: &Path) -> bool {
        match &self.place {
            HeldPlace::Beneath(place) => path.starts_with(place),
            HeldPlace::Named { folder, prefix } => path
                .strip_prefix(folder)
                .ok()
                .and_then(|rest| rest.components().next())
                .is_some_and(|name| name.as_os_str().as_bytes().starts_with(prefix.as_bytes())),
            HeldPlace::Everywhere => true,
        }
    }

    /// Why an object stays, for a refusal: `held: <id> <reason>`.
    pub fn said(&self) -> String {
        let reason: String = self.reason.chars().take(MAX_REASON_CHARS).collect();
        format!("held: {} {reason}", self.id)
    }
}

/// The first of `holds` that covers `path`.
pub fn holder_of<'h>(holds: &'h [Hold], path: &Path) -> Option<&'h Hold> {
    holds.iter().find(|h| h.covers(path))
}

/// Resolves a set: each path as it was named, and where it really lies by `real`, which gives every real path of one, or
/// why nobody can tell; then everything is held.
pub(super) fn resolve(set: &HoldSet, real: impl Fn(&Path) -> Result<Vec<PathBuf>, String>) -> Vec<Hold> {
    let named = match set {
        HoldSet::Known(holds) => holds,
        HoldSet::Unknown(why) => return vec![Hold::unknown(why)],
    };
    let mut all = Vec::new();
    for hold in named {
        let really = match &hold.what {
            HeldThing::Node => Ok(Vec::new()),
            HeldThing::Path(path) => real(path),
            HeldThing::Pod { .. } => real(Path::new(POD_LOGS)),
        };
        let really = match really {
            Ok(paths) => paths,
            Err(why) => {
                let reason = format!("where it holds is not known: {why}");
                all.push(Hold { id: hold.id.clone(), place: HeldPlace::Everywhere, reason });
                continue;
            }
        };
        let places = match &hold.what {
            HeldThing::Node => vec![HeldPlace::Everywhere],
            HeldThing::Path(path) => {
                let mut paths = really;
                paths.push(path.clone());
                paths.sort();
                paths.dedup();
                paths.into_iter().map(HeldPlace::Beneath).collect()
            }
            HeldThing::Pod { namespace, pod } => {
                let mut folders = really;
                folders.push(POD_LOGS.into());
                folders.sort();
                folders.dedup();
                // A pod's name holds no `_`, so this is the pod's own and no other's whose name begins alike.
                let prefix = OsString::from(format!("{namespace}_{pod}_"));
                let named = |folder| HeldPlace::Named { folder, prefix: prefix.clone() };
                folders.into_iter().map(named).collect()
            }
        };
        let hold = |place| Hold { id: hold.id.clone(), place, reason: hold.reason.clone() };
        all.extend(places.into_iter().map(hold));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(what: HeldThing) -> Vec<Hold> {
        let hold = NodeHold { id: "hold-1".to_owned(), what, reason: "court".to_owned() };
        resolve(&HoldSet::Known(vec![hold]), |p| {
            Ok(vec![Path::new("/host").join(p.strip_prefix("/").unwrap())])
        })
    }

    #[test]
    fn a_path_holds_itself_and_what_lies_beneath_also_where_it_really_is() {
        let holds = resolved(HeldThing::Path("/var/log/app".into()));
        for held in ["/var/log/app", "/var/log/app/x/y.log.1", "/host/var/log/app/a.log.1"] {
            assert_eq!(holder_of(&holds, Path::new(held)).unwrap().said(), "held: hold-1 court");
        }
        for free in ["/var/log/app.log.1", "/var/log", "/host/var/log/apps/a.log.1"] {
            assert_eq!(holder_of(&holds, Path::new(free)), None, "{free}");
        }
    }

    #[test]
    fn a_pod_holds_its_own_folders_and_no_neighbours() {
        let holds = resolved(HeldThing::Pod { namespace: "shop".to_owned(), pod: "api-7".to_owned() });
        for held in ["/var/log/pods/shop_api-7_uid1/app/0.log.1", "/host/var/log/pods/shop_api-7_u/x.log.1"] {
            assert!(holder_of(&holds, Path::new(held)).is_some(), "{held}");
        }
        for free in
            ["/var/log/pods/shop_api-77_uid/app/0.log.1", "/var/log/pods/x/shop_api-7_u", "/var/log/pods"]
        {
            assert!(holder_of(&holds, Path::new(free)).is_none(), "{free}");
        }
    }

    #[test]
    fn everything_is_held_while_nobody_can_tell() {
        let holds = resolve(&HoldSet::Unknown("the file is torn".to_owned()), |_| Ok(Vec::new()));
        let said = holder_of(&holds, Path::new("/any")).unwrap().said();
        assert!(said.contains("not known: the file is torn"), "{said}");
        assert!(holder_of(&resolved(HeldThing::Node), Path::new("/any")).is_some());
        assert!(resolve(&HoldSet::Known(Vec::new()), |_| Ok(Vec::new())).is_empty());
    }

    #[test]
    fn a_long_reason_does_not_fill_a_plan() {
        let mut hold = Hold::unknown("x");
        hold.reason = "ü".repeat(10_000);
        assert!(hold.said().chars().count() < 200);
    }
}
