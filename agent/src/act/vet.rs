//! Vetting: the executor's own judgement of an object, by its own policy and its own look at the folder.
//!
//! Nothing here trusts the plan: name, age, kinship and neighbours are read again from the open folder, so that a parent
//! that was taken over can only name what the policy would let go anyway.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;

use super::beneath::{self, Facts};
use super::forbidden;
use super::policy::{NameVerdict, RootRules};
use super::rotation::newest_of_each_family;
use super::survey::{has_regular, may_be_judged};

/// Most entries of one folder that are looked at to find out which logs are the newest.
const MAX_FOLDER_ENTRIES: usize = 200_000;

/// What stays in one folder whatever a plan says; read once an action, before anything in it is removed.
#[derive(Debug)]
pub(super) struct Neighbours {
    newest: HashSet<Vec<u8>>,
    /// Why nothing in the folder may go.
    refused: Option<String>,
}

impl Neighbours {
    /// Reads `folder`, which is `relative` to the root of `rules`.
    pub(super) fn read(rules: &RootRules, relative: &Path, folder: &OwnedFd) -> Self {
        let mut members: Vec<(Vec<u8>, i64)> = Vec::new();
        let refused = |why: String| Self { newest: HashSet::new(), refused: Some(why) };
        let entries = match rustix::fs::Dir::read_from(folder) {
            Ok(entries) => entries,
            Err(error) => return refused(format!("its folder cannot be read: {error}")),
        };
        for (count, entry) in entries.enumerate() {
            if count >= MAX_FOLDER_ENTRIES {
                return refused(format!("its folder has more than {MAX_FOLDER_ENTRIES} entries"));
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return refused(format!("its folder cannot be read: {error}")),
            };
            let name = entry.file_name().to_bytes();
            if forbidden::is_database_marker(name) && entry.file_type() != FileType::Directory {
                return refused(format!(
                    "{} marks its folder as a database's",
                    String::from_utf8_lossy(name)
                ));
            }
            let NameVerdict::Rotated { live, .. } = rules.judge_name(&relative.join(OsStr::from_bytes(name)))
            else {
                continue;
            };
            let Ok(facts) = beneath::facts_at(folder, OsStr::from_bytes(name)) else { continue };
            let counts =
                facts.kind == FileType::RegularFile && live.is_none_or(|live| has_regular(folder, &live));
            if counts {
                members.push((name.to_vec(), facts.mtime_ns));
            }
        }
        let newest = newest_of_each_family(
            members.iter().map(|(name, mtime)| (name.as_slice(), *mtime)),
            rules.policy.keep_newest,
        );
        Self { newest: newest.into_iter().map(<[u8]>::to_vec).collect(), refused: None }
    }
}

/// Whether the file at `relative`, of which `facts` were just read, may go; if not, why.
pub(super) fn vet(
    rules: &RootRules,
    neighbours: &Neighbours,
    relative: &Path,
    folder: &OwnedFd,
    facts: &Facts,
    now_wall_ns: i64,
) -> Result<(), String> {
    if let Some(why) = &neighbours.refused {
        return Err(why.clone());
    }
    if relative.components().count() > rules.policy.max_depth as usize + 1 {
        return Err("it lies deeper than max_depth".to_owned());
    }
    may_be_judged(facts, facts.device)?;
    match rules.judge_name(relative) {
        NameVerdict::NotRotated => return Err("no pattern of its root matches its name".to_owned()),
        NameVerdict::Excluded(reason) => return Err(reason),
        NameVerdict::Rotated { live: Some(live), .. } if !has_regular(folder, &live) => {
            return Err("the log that it was rotated from does not lie beside it".to_owned());
        }
        NameVerdict::Rotated { .. } => {}
    }
    rules.judge_age(facts.mtime_ns, facts.ctime_ns, now_wall_ns)?;
    let name = relative.file_name().unwrap_or_default().as_bytes();
    if neighbours.newest.contains(name) {
        return Err("it is among the newest of its log, which stay".to_owned());
    }
    Ok(())
}
