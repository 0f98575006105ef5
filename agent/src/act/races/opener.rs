//! Somebody who opens a file and waits, in a thread, while its lease is the executor's.
//!
//! Invariant: that it *waits* is said only of a thread that sleeps in its open; that it *has* the file, only after its
//! own descriptor was asked whether the file still has a name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use std::os::unix::fs::MetadataExt;

use super::trick::Trick;

/// Longest that an open or what follows it may take: the kernel breaks a lease by force after 45 s.
const PATIENCE: Duration = Duration::from_secs(60);

const BEGINS: u8 = 0;
const OPENS: u8 = 1;
const HAS_IT: u8 = 2;

/// A thread that opens a file and does a trick to it.
pub(super) struct Opener {
    thread: Option<JoinHandle<io::Result<File>>>,
    stage: Arc<AtomicU8>,
    task: Arc<AtomicI32>,
    file: Option<File>,
}

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// It sleeps in its open.
    Waits,
    /// It is done.
    Done,
}

impl Opener {
    /// Opens `path` as `trick` needs it, waits as long as that takes, and does it.
    pub(super) fn start(path: String, trick: Trick) -> io::Result<Self> {
        let (stage, task) = (Arc::new(AtomicU8::new(BEGINS)), Arc::new(AtomicI32::new(0)));
        let (its_stage, its_task) = (Arc::clone(&stage), Arc::clone(&task));
        let thread = std::thread::Builder::new().name("opener".to_owned()).spawn(move || {
            its_task.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
            let mut how = fs::OpenOptions::new();
            match trick {
                Trick::Append => how.append(true),
                Trick::OpenToRead | Trick::Immutable | Trick::AppendOnly => how.read(true),
                _ => how.read(true).write(true),
            };
            its_stage.store(OPENS, Ordering::SeqCst);
            let file = how.open(path)?;
            its_stage.store(HAS_IT, Ordering::SeqCst);
            with(file, trick)
        })?;
        Ok(Self { thread: Some(thread), stage, task, file: None })
    }

    /// Waits until it is done, or sleeps in its open.
    pub(super) fn reached(&mut self) -> io::Result<Reached> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.finish()? {
                return Ok(Reached::Done);
            }
            // Between the two looks at its stage it did nothing but open, and only a lease makes that sleep.
            let opens = || self.stage.load(Ordering::SeqCst) == OPENS;
            if opens() && self.sleeps() && opens() {
                return Ok(Reached::Waits);
            }
            std::thread::yield_now();
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Waits until it has the file, and says whether that still lies at `name`; `false` if it has no name any more.
    pub(super) fn has(&mut self, name: &Path) -> io::Result<bool> {
        let until = Instant::now() + PATIENCE;
        while !self.finish()? {
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::yield_now();
        }
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mine = file.metadata()?;
        if mine.nlink() == 0 {
            return Ok(false);
        }
        let named = fs::symlink_metadata(name)?;
        if (mine.dev(), mine.ino()) == (named.dev(), named.ino()) {
            return Ok(true);
        }
        Err(io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn finish(&mut self) -> io::Result<bool> {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let file = thread.join().map_err(|_| io::Error::other("the opener panicked"))??;
            self.file = Some(file);
        }
        Ok(self.thread.is_none())
    }

    /// Whether it is in an interruptible sleep (`S` in proc_pid_stat(5)).
    fn sleeps(&self) -> bool {
        let task = self.task.load(Ordering::SeqCst);
        let stat = fs::read_to_string(format!("/proc/self/task/{task}/stat")).unwrap_or_default();
        // Its name stands in brackets, which it might hold itself.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    }
}

/// Does `trick` to the open `file`, and gives it back.
fn with(mut file: File, trick: Trick) -> io::Result<File> {
    match trick {
        Trick::Append => file.write_all(b"more")?,
        Trick::Truncate => file.set_len(10)?,
        Trick::RewriteSameSize => {
            let before = file.metadata()?.modified()?;
            file.write_all(b"forged!")?;
            file.set_modified(before)?;
        }
        Trick::Immutable | Trick::AppendOnly => {
            let mut flags = rustix::fs::ioctl_getflags(&file)?;
            flags.set(rustix::fs::IFlags::IMMUTABLE, trick == Trick::Immutable);
            flags.set(rustix::fs::IFlags::APPEND, trick == Trick::AppendOnly);
            rustix::fs::ioctl_setflags(&file, flags)?;
        }
        _ => {}
    }
    Ok(file)
}
