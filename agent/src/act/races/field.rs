//! A field: the files of a batch of rounds, what of them must be there afterwards, and what is.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dogwatch::record::PlannedObject;
use sha2::{Digest, Sha256};

use super::trick::{NAME, Places};
use super::{NOW, Scene};
use crate::act::cleaner::Cleaner;
use crate::act::quarantine::entry_name;
use crate::act::unshared;

/// A file or folder that must be there afterwards as it was.
pub(super) struct Kept {
    pub(super) what: PathBuf,
    digest: Option<Vec<u8>>,
    uid: u32,
    mode: u32,
}

/// What is there afterwards.
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Of a regular file.
    pub(super) digest: Option<Vec<u8>>,
    uid: u32,
    mode: u32,
}

/// A root with one rotated log a round, and canaries in it and outside it.
pub(super) struct Field {
    pub(super) places: Places,
    pub(super) rounds: usize,
    /// The inode of each round's rotated log.
    pub(super) victims: Vec<u64>,
    /// By inode: all that no plan names.
    pub(super) kept: HashMap<u64, Kept>,
}

impl Field {
    /// Makes `rounds` of them at `base`; `decoys` puts like-named files into the folders outside.
    pub(super) fn sow(base: &Path, rounds: usize, decoys: bool) -> Self {
        let places = Places { base: base.to_owned() };
        let mut field = Self { places, rounds, victims: Vec::new(), kept: HashMap::new() };
        let places = field.places.clone();
        fs::create_dir_all(base.join("spare")).unwrap();
        for n in 0..rounds {
            for folder in [places.folder(n), places.outside(n)] {
                fs::create_dir_all(&folder).unwrap();
                field.keep(folder, None);
            }
            field.write(&places.folder(n).join("app.log"));
            field.write(&places.canary(n));
            if decoys {
                field.write(&places.outside(n).join("app.log"));
                field.write(&places.outside(n).join(NAME));
            }
            fs::write(places.name(n), format!("the rotated log of round {n}, longer than what is forged\n"))
                .unwrap();
            field.victims.push(fs::symlink_metadata(places.name(n)).unwrap().ino());
        }
        field
    }

    fn write(&mut self, path: &Path) {
        let content = format!("canary {}\n", path.display());
        fs::write(path, &content).unwrap();
        self.keep(path.to_owned(), Some(Sha256::digest(content).to_vec()));
    }

    fn keep(&mut self, what: PathBuf, digest: Option<Vec<u8>>) {
        let meta = fs::symlink_metadata(&what).unwrap();
        self.kept.insert(meta.ino(), Kept { what, digest, uid: meta.uid(), mode: meta.mode() });
    }

    /// The objects of a plan, by round.
    pub(super) fn planned(&self, cleaner: &Cleaner) -> Vec<PlannedObject> {
        let device = fs::metadata(self.places.root()).unwrap().dev();
        let survey = cleaner.survey(device, NOW).unwrap();
        let mut objects: Vec<_> = survey.candidates.into_iter().map(|c| c.object).collect();
        assert_eq!(objects.len(), self.rounds, "{:?}", survey.passed_over);
        objects.sort_by_key(|o| round_of(&o.path));
        objects
    }

    /// Moves every rotated log into quarantine, as a killed executor left it; where each lies.
    pub(super) fn leave_over(&self) -> Vec<PathBuf> {
        let entry = |n: usize| {
            let folder = fs::symlink_metadata(self.places.folder(n)).unwrap().ino();
            let entry =
                entry_name(folder, Path::new(&n.to_string()), self.victims[n], NAME.as_ref()).unwrap();
            let entry = self.places.quarantine().join(entry);
            fs::rename(self.places.name(n), &entry).unwrap();
            entry
        };
        (0..self.rounds).map(entry).collect()
    }

    /// Everything beneath the field by inode, nothing followed.
    pub(super) fn look(&self) -> HashMap<u64, Found> {
        let mut found = HashMap::new();
        let mut folders = vec![self.places.base.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                let digest = meta.is_file().then(|| Sha256::digest(fs::read(&path).unwrap()).to_vec());
                if meta.is_dir() {
                    folders.push(path.clone());
                }
                found.insert(meta.ino(), Found { path, digest, uid: meta.uid(), mode: meta.mode() });
            }
        }
        found
    }

    /// Every canary is there, whole, its own; none was opened up or closed off.
    pub(super) fn assert_kept(&self, found: &HashMap<u64, Found>, batch: &str) {
        for (inode, kept) in &self.kept {
            let what = kept.what.display();
            let Some(now) = found.get(inode) else { unreachable!("{what} is gone: {batch}") };
            assert!(now.digest == kept.digest, "the content of {what} changed: {batch}");
            assert_eq!((now.uid, now.mode), (kept.uid, kept.mode), "{what}: {batch}");
        }
    }

    /// What lies in quarantine and nobody told.
    pub(super) fn untold(&self, told: &[String]) -> Vec<PathBuf> {
        let lies = fs::read_dir(self.places.quarantine()).unwrap().map(|e| e.unwrap().path());
        lies.filter(|p| !told.iter().any(|t| t.contains(&*p.to_string_lossy()))).collect()
    }

    /// Takes it away.
    pub(super) fn reap(self) {
        fs::remove_dir_all(&self.places.base).unwrap();
    }

    /// A cleaner of its root.
    pub(super) fn cleaner(&self) -> Cleaner {
        Scene::open(&self.places.root())
    }
}

/// The round whose folder or file `path` is.
pub(super) fn round_of(path: &Path) -> Option<usize> {
    path.iter().rev().take(2).find_map(|part| part.to_str()?.parse().ok())
}

/// Runs `body` in a thread whose mounts nobody else sees, and which is gone with them.
pub(super) fn apart(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: plain system calls; a new mount namespace and working folder concern this thread alone.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) == 0
        };
        assert!(done, "these tests need root: {}", std::io::Error::last_os_error());
        unshared::descriptors();
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs the ignored test `name` in a process of its own, and shows what it says. In this one, others start programs, which
/// for a moment have open what any thread has: then it is in use, and no race is run.
pub(super) fn alone(name: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("DOGWATCH_TEST_ALONE", "1")
        .output()
        .unwrap();
    // Not captured: the figures are to be read where the tests ran.
    std::io::stdout().write_all(&output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether this process was started by [`alone`], and not with every ignored test.
pub(super) fn is_alone() -> bool {
    std::env::var_os("DOGWATCH_TEST_ALONE").is_some()
}

/// Rounds for each cell: 1,000, or what is asked for.
pub(super) fn rounds() -> usize {
    let asked = std::env::var("DOGWATCH_RACE_ROUNDS").ok().and_then(|n| n.parse().ok());
    let quick = std::env::var_os("DOGWATCH_TEST_QUICK").is_some_and(|v| v == "1");
    asked.unwrap_or(if quick { 20 } else { 1_000 })
}
