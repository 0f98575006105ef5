//! Aside: what was offered and could not be accepted, kept for whoever investigates.
//!
//! Bounded by count and bytes. The first offenders are kept, since later ones may come to push them out; what no
//! longer fits is counted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dogwatch::record::{Hash, NodeName};
use sha2::{Digest, Sha256};

/// Most files.
const MAX_FILES: usize = 256;
/// Most bytes of all files.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The folder.
#[derive(Debug)]
pub struct Aside {
    dir: PathBuf,
    files: usize,
    bytes: u64,
    turned_away: u64,
}

impl Aside {
    /// Opens or creates the folder.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let (mut files, mut bytes) = (0, 0);
        for entry in fs::read_dir(dir)? {
            files += 1;
            bytes += entry?.metadata()?.len();
        }
        Ok(Self { dir: dir.to_owned(), files, bytes, turned_away: 0 })
    }

    /// Keeps `bytes`, as offered in the name of `node`. `None` where there is no room, which is counted. The same bytes
    /// are kept once.
    pub fn keep(&mut self, node: &NodeName, why: &'static str, bytes: &[u8]) -> io::Result<Option<PathBuf>> {
        let hash = Hash(Sha256::digest(bytes).into()).to_string();
        // A node's name may be 253 characters, a file's 255 bytes.
        let name: String = node.as_str().chars().take(150).collect();
        let path = self.dir.join(format!("{name}.{why}.{}", &hash[..16]));
        if path.exists() {
            return Ok(Some(path));
        }
        let len = bytes.len() as u64;
        if self.files >= MAX_FILES || self.bytes.saturating_add(len) > MAX_BYTES {
            self.turned_away += 1;
            return Ok(None);
        }
        let temporary = self.dir.join(".incoming");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&self.dir)?.sync_all()?;
        self.files += 1;
        self.bytes += len;
        Ok(Some(path))
    }

    /// How many did not fit since start.
    pub fn turned_away(&self) -> u64 {
        self.turned_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_kept_and_the_rest_counted() {
        let dir = tempfile::tempdir().unwrap();
        let node: NodeName = "n1".parse().unwrap();
        let mut aside = Aside::open(dir.path()).unwrap();
        let first = aside.keep(&node, "equivocation", b"one").unwrap().unwrap();
        assert_eq!(fs::read(&first).unwrap(), b"one");
        assert_eq!(aside.keep(&node, "equivocation", b"one").unwrap(), Some(first.clone()));
        for i in 0..MAX_FILES + 5 {
            aside.keep(&node, "equivocation", format!("x{i}").as_bytes()).unwrap();
        }
        assert_eq!(aside.turned_away(), 6);
        let aside = Aside::open(dir.path()).unwrap();
        assert_eq!(aside.files, MAX_FILES);
        assert!(first.exists());
    }
}
