//! Canaries: a folder remembered to the byte, to see that nothing else changed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// What is remembered of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Its inode.
    pub inode: u64,
    /// Type and permissions.
    pub mode: u32,
    /// SHA-256 of a regular file; the target of a link.
    pub content: Vec<u8>,
}

/// A folder's objects by path.
pub type Flock = BTreeMap<PathBuf, Canary>;

/// Remembers everything beneath `folder`, the folders that dogwatch makes for itself aside.
///
/// # Panics
/// When something cannot be read.
pub fn remember(folder: &Path) -> Flock {
    let mut flock = Flock::new();
    walk(folder, &mut flock);
    flock
}

fn walk(folder: &Path, flock: &mut Flock) {
    for entry in std::fs::read_dir(folder).expect("a folder of the test can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.file_name().is_some_and(|n| n == ".dogwatch-quarantine" || n == ".dogwatch-held") {
            continue;
        }
        let meta = path.symlink_metadata().expect("an object of the test can be looked at");
        let content = if meta.is_symlink() {
            path.read_link().expect("a link can be read").into_os_string().into_encoded_bytes()
        } else if meta.is_file() {
            let mut hasher = Sha256::new();
            let mut file = std::fs::File::open(&path).expect("a file of the test can be read");
            std::io::copy(&mut file, &mut HashWriter(&mut hasher)).expect("a file of the test can be read");
            hasher.finalize().to_vec()
        } else {
            Vec::new()
        };
        flock.insert(path.clone(), Canary { inode: meta.ino(), mode: meta.mode(), content });
        if meta.is_dir() {
            walk(&path, flock);
        }
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Holds two flocks against each other: paths gone, paths new, paths changed.
pub fn compare(before: &Flock, after: &Flock) -> [Vec<PathBuf>; 3] {
    let only = |a: &Flock, b: &Flock| a.keys().filter(|p| !b.contains_key(*p)).cloned().collect();
    let changed = before.iter().filter(|(p, c)| after.get(*p).is_some_and(|now| now != *c));
    [only(before, after), only(after, before), changed.map(|(p, _)| p.clone()).collect()]
}
