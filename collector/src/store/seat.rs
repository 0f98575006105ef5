//! The seat: a journal under a writer thread, and what happens when it fails.
//!
//! After a failed append or sync nobody knows what of it reached the disk, and a second sync may report success for
//! pages that the first one gave up. So the journal is opened anew, which begins a new segment; what was not answered
//! is not known, comes again and is stored again. Until that works everybody is told why not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dogwatch::journal::{Journal, JournalError, Options, Recovered};

/// Between attempts to open a failed journal.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum State {
    Open(Box<Journal>),
    Failed { why: Arc<str>, since: Instant },
}

/// A journal and its folder.
#[derive(Debug)]
pub(super) struct Seat {
    dir: PathBuf,
    options: Options,
    state: State,
}

impl Seat {
    pub(super) fn open(dir: PathBuf, options: Options) -> Result<(Self, Recovered), JournalError> {
        let (journal, recovered) = Journal::open(&dir, options)?;
        Ok((Self { dir, options, state: State::Open(Box::new(journal)) }, recovered))
    }

    /// The journal, opened anew if it failed a while ago.
    pub(super) fn journal(&mut self) -> Result<&mut Journal, Arc<str>> {
        if let State::Failed { since, .. } = &self.state
            && since.elapsed() >= RETRY
        {
            match Journal::open(&self.dir, self.options) {
                Ok((journal, recovered)) => {
                    tracing::info!(journal = %self.dir.display(), remarks = ?recovered.remarks, "the journal is open again");
                    self.state = State::Open(Box::new(journal));
                }
                Err(e) => {
                    self.fail(&e);
                }
            }
        }
        match &mut self.state {
            State::Open(j) => Ok(j),
            State::Failed { why, .. } => Err(Arc::clone(why)),
        }
    }

    /// Gives the journal up until it can be opened anew.
    pub(super) fn fail(&mut self, error: &JournalError) -> Arc<str> {
        tracing::error!(journal = %self.dir.display(), %error, "the journal failed; it will be opened anew");
        let why: Arc<str> = error.to_string().into();
        self.state = State::Failed { why: Arc::clone(&why), since: Instant::now() };
        why
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes
    }

    pub(super) fn close(self) -> Result<(), JournalError> {
        match self.state {
            State::Open(j) => j.close(),
            State::Failed { .. } => Ok(()),
        }
    }
}
