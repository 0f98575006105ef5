//! Archived files of the systemd journal, down to a size for each machine's folder.
//!
//! Invariant: what journald may still write to is never taken, whatever the configuration says; `journald` tells by name
//! and header. Whoever has a file open keeps it, so that on a node where something follows the journal through its files
//! (a log shipper by libsystemd) most stay: there journald's own `SystemMaxUse=` is the means.
//!
//! Deliberately absent: `/run/log/journal`, which is memory and journald's own affair.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;

use super::{ALWAYS_EXCLUDED, Kind, Look, Mistake, Taken};
use crate::act::beneath;
use crate::act::journald::{self, HEADER_BYTES, JournalFile, JournalName};
use crate::act::policy::{RootPolicy, RootRules};
use crate::act::words;

/// The folder that holds a folder for each machine.
const JOURNAL_FOLDER: &str = "journal";
/// Most entries of a machine's folder; journald keeps a hundred files. All are looked at for each, so a million looks.
const MAX_FILES: usize = 1_000;
/// What stays where the configuration says nothing: some days of a quiet node.
const KEEP_BYTES: u64 = 500 << 20;

/// The kind.
pub(super) struct JournalArchives;

impl Kind for JournalArchives {
    fn defaults(&self, root: &mut RootPolicy) {
        root.tier = 2;
        root.patterns = Vec::new();
        root.sibling_patterns = Vec::new();
        root.min_age_seconds = 24 * 3_600;
        root.keep_newest = 0;
        root.keep_bytes = KEEP_BYTES;
        root.max_depth = 2;
        root.by_access = false;
    }

    fn mistakes(&self, root: &RootPolicy) -> Vec<Mistake> {
        super::no_patterns(root, "journald names its files")
    }

    fn takes(&self, rules: &RootRules, relative: &Path) -> Option<Taken> {
        let path = rules.policy.path.join(relative);
        let folder = path.parent()?;
        let of_machine = journald::is_journal_folder(folder.file_name()?.as_bytes())
            && folder.parent()?.file_name()? == JOURNAL_FOLDER;
        let name =
            JournalName::parse(path.file_name()?.as_bytes()).filter(|n| of_machine && !n.is_active())?;
        let pattern = match name {
            JournalName::Unclean { .. } => "put aside unclean",
            JournalName::Archived(_) | JournalName::Active => "archived",
        };
        Some(Taken { pattern: pattern.to_owned(), beside: None })
    }

    fn always_excluded(&self, _: &RootPolicy) -> Vec<String> {
        ALWAYS_EXCLUDED.iter().filter(|p| **p != "*.journal").map(|p| (*p).to_owned()).collect()
    }

    fn demand(&self, look: &Look<'_>) -> Result<(), String> {
        let mut files = Vec::new();
        let unread = |e| format!("its folder cannot be read: {e}");
        for entry in rustix::fs::Dir::read_from(look.folder).map_err(unread)? {
            let entry = entry.map_err(unread)?;
            let name = entry.file_name().to_bytes();
            let Ok(facts) = beneath::facts_at(look.folder, entry.file_name()) else { continue };
            if facts.kind == FileType::RegularFile {
                files.push(JournalFile { name: name.to_vec(), allocated_bytes: facts.allocated_bytes });
            }
            if files.len() > MAX_FILES {
                return Err(format!("its folder has more than {MAX_FILES} files"));
            }
        }
        let keep = look.rules.policy.keep_bytes;
        let name = look.relative.file_name().unwrap_or_default();
        if journald::over_size(&files, keep).contains(name.as_bytes()) {
            Ok(())
        } else {
            Err(format!("it is among the newest {} of its journal, which stay", words::bytes(keep)))
        }
    }

    fn demand_content(&self, look: &Look<'_>, file: &OwnedFd) -> Result<(), String> {
        let name = look.relative.file_name().and_then(|n| JournalName::parse(n.as_bytes()));
        let name = name.ok_or_else(|| "it is no journal".to_owned())?;
        let mut head = [0; HEADER_BYTES];
        let n =
            rustix::io::pread(file, &mut head, 0).map_err(|e| format!("its header cannot be read: {e}"))?;
        journald::vet_header(name, &head[..n])
    }

    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        name.split(|b| *b == b'@').next().unwrap_or(name)
    }

    fn family_word(&self) -> &'static str {
        "its journal"
    }

    fn why_safe(&self, root: &RootPolicy, pattern: &str) -> String {
        format!("journal file, {pattern}; newer ones of {} stay", words::bytes(root.keep_bytes))
    }
}
