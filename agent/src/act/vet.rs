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

use super::age_clock::Present;
use super::beneath;
use super::cleaners::Look;
use super::forbidden;
use super::policy::{NameVerdict, RootRules, Times};
use super::quarantine::Root;
use super::rotation::newest_of_each_family;
use super::survey::may_be_judged;

/// Most entries of one folder that are looked at to find out which of its files are the newest; of one with more,
/// nothing goes.
pub(super) const MAX_FOLDER_ENTRIES: usize = 200_000;

/// What stays in one folder whatever a plan says; read once an action, before anything in it is removed.
#[derive(Debug)]
pub(super) struct Neighbours {
    newest: HashSet<Vec<u8>>,
    /// Why nothing in the folder may go.
    refused: Option<String>,
}

impl Neighbours {
    /// Reads `folder`, which is `relative` to `root`, as it is `now`.
    pub(super) fn read(
        rules: &RootRules,
        root: &Root,
        relative: &Path,
        folder: &OwnedFd,
        now: &Present,
    ) -> Self {
        let mut members: Vec<(Vec<u8>, i64)> = Vec::new();
        let refused = |why: String| Self { newest: HashSet::new(), refused: Some(why) };
        if let Some(why) = why_shunned(rules, root, relative) {
            return refused(why);
        }
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
            if let Some(marker) = forbidden::marker(folder, OsStr::from_bytes(name), entry.file_type()) {
                return refused(format!("{marker} marks its folder as a database's"));
            }
            let path = relative.join(OsStr::from_bytes(name));
            let NameVerdict::Taken(_) = rules.judge_name(&path) else { continue };
            let Ok(facts) = beneath::facts_at(folder, OsStr::from_bytes(name)) else { continue };
            let look = Look { rules, ground: &root.ground, relative: &path, folder, facts: &facts };
            if facts.kind == FileType::RegularFile && rules.kind().demand(&look).is_ok() {
                members.push((name.to_vec(), facts.mtime_ns));
            }
        }
        let newest = newest_of_each_family(
            members.iter().map(|(name, mtime)| (name.as_slice(), *mtime)),
            rules.policy.keep_newest,
            |mtime_ns| now.age_ns(mtime_ns) < 0,
            |name| rules.kind().family(name),
        );
        Self { newest: newest.into_iter().map(<[u8]>::to_vec).collect(), refused: None }
    }
}

/// Why nothing in the folder at `relative` may go, whatever lies in it. Asked before each object: what marks a folder, or
/// one above the root, may come at any time.
pub(super) fn why_shunned(rules: &RootRules, root: &Root, relative: &Path) -> Option<String> {
    if let Some(why) = forbidden::why_folder_is_out(&root.path.join(relative), &rules.policy)
        .or_else(|| forbidden::why_marked_above(&root.path, &rules.policy.host_root))
    {
        return Some(why);
    }
    let mut above: Vec<&Path> = relative.ancestors().collect();
    above.reverse();
    above.into_iter().find_map(|folder| {
        let whose = if folder == relative { "its folder" } else { "a folder above it" };
        let opened = match beneath::open_folder(&root.folder, folder) {
            Ok(opened) => opened,
            Err(error) => return Some(format!("{whose} cannot be looked at: {error}")),
        };
        if let Some(marker) = forbidden::storage_marker_in(&opened) {
            return Some(marker.said(whose));
        }
        let marker = || forbidden::database_marker_in(&opened);
        let marked = || marker().map(|marker| format!("{marker} marks {whose} as a database's"));
        rules.kind().shuns(&root.ground, &opened, folder).or_else(marked)
    })
}

/// Whether the open `file` that `look` is about may go; if not, why.
pub(super) fn vet(
    look: &Look<'_>,
    neighbours: &Neighbours,
    file: &OwnedFd,
    now: Present,
) -> Result<(), String> {
    let (rules, relative, facts) = (look.rules, look.relative, look.facts);
    if let Some(why) = &neighbours.refused {
        return Err(why.clone());
    }
    if relative.components().count() > rules.policy.max_depth as usize + 1 {
        return Err("it lies deeper than max_depth".to_owned());
    }
    may_be_judged(facts, facts.device)?;
    match rules.judge_name(relative) {
        NameVerdict::NotTaken => return Err("no pattern of its root matches its name".to_owned()),
        NameVerdict::Excluded(reason) => return Err(reason),
        NameVerdict::Taken(_) => rules.kind().demand(look)?,
    }
    rules.judge_owner(facts.uid)?;
    rules.judge_age(&Times::of(facts, look.ground), now)?;
    let name = relative.file_name().unwrap_or_default().as_bytes();
    if neighbours.newest.contains(name) {
        return Err(format!("it is among the newest of {}, which stay", rules.kind().family_word()));
    }
    rules.kind().demand_content(look, file)
}
