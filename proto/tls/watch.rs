//! Following certificate files that something else renews.
//!
//! Looks at the files' stamps instead of listening for events: a secret mount is replaced by a symlink swap, which
//! events report in as many ways as there are kernels, and a few `stat` calls every few seconds cost nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{ServerFiles, ServerMaterial, ServerTls, TlsError};

/// What came of looking.
#[derive(Debug)]
pub enum Reload {
    /// The files are as they were.
    Unchanged,
    /// They changed and are in use.
    Swapped,
    /// They changed and cannot be used: the old ones stay in use. Said once for each change.
    Failed(TlsError),
}

/// Device, inode, size, mtime and ctime of one file; `None` where it cannot be looked at.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// The files of one server, and how they last looked.
#[derive(Debug)]
pub struct FileWatch {
    files: ServerFiles,
    seen: [Stamp; 3],
    failed: bool,
}

impl FileWatch {
    /// Reads the files for the first time. The stamps are taken first: a change in between is seen again, not missed.
    pub fn open(files: ServerFiles) -> Result<(Self, ServerMaterial), TlsError> {
        let seen = stamps(&files);
        let material = ServerMaterial::from_files(&files)?;
        Ok((Self { files, seen, failed: false }, material))
    }

    /// Looks once, and swaps `tls` where the files changed. Blocks for a few small reads.
    pub fn check(&mut self, tls: &ServerTls) -> Reload {
        let now = stamps(&self.files);
        if now == self.seen {
            return Reload::Unchanged;
        }
        self.seen = now;
        self.load(tls)
    }

    /// Reads the files whether they changed or not (a person asked).
    pub fn reload(&mut self, tls: &ServerTls) -> Reload {
        self.seen = stamps(&self.files);
        self.load(tls)
    }

    fn load(&mut self, tls: &ServerTls) -> Reload {
        match ServerMaterial::from_files(&self.files).and_then(|m| tls.swap(&m)) {
            Ok(()) => {
                self.failed = false;
                Reload::Swapped
            }
            Err(error) => {
                self.failed = true;
                Reload::Failed(error)
            }
        }
    }

    /// Whether the newest files could not be used: worth a metric until it is mended.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Looks every `every` for ever; `report` hears of everything but [`Reload::Unchanged`]. Drop the future to end it.
    pub async fn follow(mut self, tls: ServerTls, every: Duration, report: impl Fn(Reload)) {
        loop {
            tokio::time::sleep(every).await;
            match self.check(&tls) {
                Reload::Unchanged => {}
                other => report(other),
            }
        }
    }
}

fn stamps(files: &ServerFiles) -> [Stamp; 3] {
    [stamp(&files.chain), stamp(&files.key), stamp(&files.client_roots)]
}

fn stamp(path: &Path) -> Stamp {
    let m = fs::metadata(path).ok()?;
    Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()))
}
