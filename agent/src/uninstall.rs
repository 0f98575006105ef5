//! `dogwatch-agent uninstall`: takes away what the agent left on this node, and names what stays.
//!
//! Removed are the files of the state folder that an agent makes, by name, the folders that are then empty, and the empty
//! quarantine of each cleanup root. Everything else stays and is listed with the reason: it is somebody's.
//!
//! Invariants: symbolic links are never followed, and never removed; a folder is removed only empty. Nothing is removed
//! while an agent runs on the state folder: each journal's lock is taken first and held to the end.
//!
//! Limits: cleanup roots that the configuration no longer names are not looked at, and it is said. What a package or a manifest brought (program, unit, configuration) is theirs to take away. The agent's logs of
//! what it did are in its journals: they go too.

#[cfg(test)]
mod tests;

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dogwatch::record::Stream;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::act::brake_line::{BRAKE_FILE, NEW_FILE};
use crate::act::clock_file::CLOCK_FILE;
use crate::act::hold_file::HOLDS_FILE;
use crate::act::images::SEEN_FILE;
use crate::act::images::child::IMAGES_FOLDER;
use crate::act::policy::{HELD, QUARANTINE};
use crate::config::Config;
use crate::{ballast, kmsg, tail};

/// Names listed of what stays; a foreign folder may hold any number.
const MAX_LISTED: usize = 100;

/// How to uninstall.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Only say what would go and what would stay.
    #[arg(long)]
    dry_run: bool,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    /// What went, or would go.
    removed: Vec<PathBuf>,
    /// What stays, and why.
    left: Vec<(PathBuf, String)>,
}

/// Does it, says it, and gives the exit code: 0 nothing of the agent is left, 1 something stays or an agent runs. (2 is a
/// mistake in the arguments or the configuration, and was said before.)
pub fn main(config: &Config, args: &UninstallArgs) -> ExitCode {
    let roots: Vec<&Path> = config.policy.roots.iter().map(|r| r.path.as_path()).collect();
    let report = match uninstall(&config.state_dir, &roots, args.dry_run) {
        Ok(report) => report,
        Err(why) => {
            eprintln!("dogwatch-agent: {why}");
            return ExitCode::FAILURE;
        }
    };
    let (gone, stays) = if args.dry_run { ("would remove", "would stay") } else { ("removed", "stays") };
    for path in &report.removed {
        println!("{gone} {}", path.display());
    }
    for (path, why) in &report.left {
        println!("{stays} {}: {why}", path.display());
    }
    let looked: Vec<String> = roots.iter().map(|r| r.display().to_string()).collect();
    eprintln!(
        "{QUARANTINE} and {HELD} were looked for in the cleanup roots of this configuration alone ({}); a root that it \
         no longer names is not looked at: add it to cleanup.roots and run this again",
        if looked.is_empty() { "none".to_owned() } else { looked.join(", ") }
    );
    if report.removed.is_empty() && report.left.is_empty() {
        println!("nothing of the agent is here: no {}", config.state_dir.display());
    }
    ExitCode::from(u8::from(!report.left.is_empty()))
}

fn uninstall(state: &Path, roots: &[&Path], dry_run: bool) -> Result<Report, String> {
    let mut sweep = Sweep { dry_run, report: Report::default(), unlisted: 0 };
    // Held to the end, so that none starts meanwhile: an agent opens its journals before anything else.
    let locks = lock(state)?;
    if sweep.is_folder(state) {
        let journal = state.join("journal");
        for stream in Stream::ALL {
            sweep.folder(&journal.join(stream.as_str()), is_of_a_journal);
        }
        sweep.folder(&journal, |_| false);
        sweep.folder(&state.join("identity"), |n| is_one_of(n, &["signing.key", "credentials.json"]));
        sweep.folder(&state.join(IMAGES_FOLDER), |n| is_one_of(n, &[SEEN_FILE]));
        sweep.folder(&state.join("aside"), |n| n.ends_with(".block"));
        sweep.folder(&ballast::folder(state), ballast::is_ours);
        let own = [
            "starts",
            tail::CHECKPOINT_FILE,
            kmsg::CHECKPOINT_FILE,
            HOLDS_FILE,
            BRAKE_FILE,
            NEW_FILE,
            CLOCK_FILE,
        ];
        sweep.folder(state, |n| is_one_of(n, &own));
    }
    for root in roots {
        sweep.quarantine(&root.join(QUARANTINE));
        sweep.quarantine(&root.join(HELD));
    }
    drop(locks);
    if sweep.unlisted > 0 {
        sweep.report.left.push((state.to_owned(), format!("and {} more in it that stay", sweep.unlisted)));
    }
    Ok(sweep.report)
}

/// Takes the lock of each journal that is there.
fn lock(state: &Path) -> Result<Vec<File>, String> {
    let mut locks = Vec::new();
    for stream in Stream::ALL {
        let path = state.join("journal").join(stream.as_str()).join("lock");
        let mut options = File::options();
        // Whatever lies there under that name, it is not waited for.
        options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
        let file = match options.open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(format!("{}: {e}; run this as the agent's user (root)", path.display())),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => locks.push(file),
            Err(Errno::WOULDBLOCK) => {
                return Err(format!(
                    "an agent runs on {}: {} is locked; stop it first (systemctl stop dogwatch-agent, or delete the DaemonSet)",
                    state.display(),
                    path.display()
                ));
            }
            Err(e) => return Err(format!("locking {}: {e}", path.display())),
        }
    }
    Ok(locks)
}

/// Segments, spare and half-made ones among them, and the lock.
fn is_of_a_journal(name: &str) -> bool {
    let segment = |n: &str| {
        n.strip_suffix(".seg").is_some_and(|d| d.len() == 20 && d.bytes().all(|b| b.is_ascii_digit()))
    };
    name == "lock"
        || segment(name.strip_prefix("spare-").unwrap_or(name))
        || name.starts_with("partial-") && name.ends_with(".seg")
}

/// One of `own`, or a half-written one beside it.
fn is_one_of(name: &str, own: &[&str]) -> bool {
    own.iter().any(|o| {
        name == *o
            || name
                .strip_prefix('.')
                .and_then(|n| n.strip_prefix(o))
                .is_some_and(|rest| rest.starts_with('.'))
    })
}

struct Sweep {
    dry_run: bool,
    report: Report,
    unlisted: usize,
}

impl Sweep {
    fn leave(&mut self, path: &Path, why: impl Into<String>) {
        if self.report.left.len() < MAX_LISTED {
            self.report.left.push((path.to_owned(), why.into()));
        } else {
            self.unlisted += 1;
        }
    }

    fn is_gone(&self, path: &Path) -> bool {
        self.report.removed.iter().any(|r| r == path)
    }

    /// Whether `path` is a folder itself; a link or something else in its place is left.
    fn is_folder(&mut self, path: &Path) -> bool {
        match fs::symlink_metadata(path) {
            Ok(m) if m.is_dir() => true,
            Ok(_) => {
                self.leave(path, "is no folder of the agent's");
                false
            }
            Err(e) if e.kind() == ErrorKind::NotFound => false,
            Err(e) => {
                self.leave(path, format!("cannot be looked at: {e}"));
                false
            }
        }
    }

    /// Removes the files of `folder` whose names are the agent's, then the folder if it is empty. Folders in it were dealt
    /// with before.
    fn folder(&mut self, folder: &Path, own: impl Fn(&str) -> bool) {
        if !self.is_folder(folder) {
            return;
        }
        let entries = match entries(folder) {
            Ok(entries) => entries,
            Err(e) => return self.leave(folder, format!("cannot be listed: {e}")),
        };
        let mut empty = true;
        for (path, kind) in entries {
            if self.is_gone(&path) {
                continue;
            }
            // A folder in which something stays was told of by that.
            let known = kind.is_some_and(|k| k.is_dir())
                && self.report.left.iter().any(|(left, _)| left.starts_with(&path));
            let ours = path.file_name().and_then(|n| n.to_str()).is_some_and(&own);
            empty &= match kind {
                _ if known => false,
                Some(kind) if ours && kind.is_file() => {
                    let result = if self.dry_run { Ok(()) } else { fs::remove_file(&path) };
                    self.note(&path, result)
                }
                _ => {
                    self.leave(&path, "was not made by the agent");
                    false
                }
            };
        }
        if empty {
            let result = if self.dry_run { Ok(()) } else { fs::remove_dir(folder) };
            self.note(folder, result);
        }
    }

    fn quarantine(&mut self, folder: &Path) {
        if !self.is_folder(folder) {
            return;
        }
        match entries(folder) {
            Ok(entries) if entries.is_empty() => {
                let result = if self.dry_run { Ok(()) } else { fs::remove_dir(folder) };
                self.note(folder, result);
            }
            Ok(entries) => self.leave(
                folder,
                format!(
                    "holds {} objects that a cleanup did not finish with; look at them, then remove it",
                    entries.len()
                ),
            ),
            Err(e) => self.leave(folder, format!("cannot be listed: {e}")),
        }
    }

    fn note(&mut self, path: &Path, result: io::Result<()>) -> bool {
        match result {
            Ok(()) => {
                self.report.removed.push(path.to_owned());
                true
            }
            Err(e) => {
                self.leave(path, format!("cannot be removed: {e}"));
                false
            }
        }
    }
}

fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, Option<FileType>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // As it is, links not followed.
        found.push((entry.path(), entry.file_type().ok()));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
