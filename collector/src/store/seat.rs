//! The seat: a journal under a writer thread, and what happens when it fails.
//!
//! After a failed append or sync nobody knows what of it reached the disk, and a second sync may report success for
//! pages that the first one gave up. So the journal is opened anew, which begins a new segment; what was not answered
//! is not known, comes again and is stored again. Until that works everybody is told why not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dogwatch::journal::{Journal, JournalError, Options, Recovered};

use super::doubt::Doubt;

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
    /// Where it is kept what opening leaves out, if anybody must know.
    doubt: Option<Arc<Doubt>>,
}

impl Seat {
    pub(super) fn open(dir: PathBuf, options: Options) -> Result<(Self, Recovered), JournalError> {
        let (journal, recovered) = Journal::open(&dir, options)?;
        Ok((Self { dir, options, state: State::Open(Box::new(journal)), doubt: None }, recovered))
    }

    /// What opening it anew leaves out is to be kept there.
    pub(super) fn keep_doubt(&mut self, doubt: Arc<Doubt>) {
        self.doubt = Some(doubt);
    }

    /// The journal, opened anew if it failed a while ago.
    pub(super) fn journal(&mut self) -> Result<&mut Journal, Arc<str>> {
        if let State::Failed { since, .. } = &self.state
            && since.elapsed() >= RETRY
        {
            // Opening takes away what shows it.
            self.doubt.iter().for_each(|doubt| doubt.opening());
            match Journal::open(&self.dir, self.options) {
                Ok((journal, recovered)) => {
                    self.doubt.iter().for_each(|doubt| doubt.opened(recovered.left_out));
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

    /// How many segments the journal may have.
    pub(super) fn max_segments(&self) -> u32 {
        self.options.max_segments
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

#[cfg(test)]
mod tests {
    use std::fs;

    use dogwatch::journal::FrameKind;

    use super::*;

    #[test]
    fn what_opening_anew_leaves_out_is_kept_and_so_is_that_it_did_not_end() {
        const HARMED: &[u8] = b"whoever reads this reads it whole";
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("truth");
        let options = Options { segment_bytes: 1 << 20, max_segments: 8, preallocate_segments: 1 };
        let doubt = Arc::new(Doubt::open(dir.path()));
        let (mut seat, recovered) = Seat::open(folder.clone(), options).unwrap();
        doubt.opened(recovered.left_out);
        seat.keep_doubt(Arc::clone(&doubt));
        let again = |seat: &mut Seat| {
            seat.fail(&JournalError::Failed { path: "truth".to_owned(), reason: "EIO".to_owned() });
            if let State::Failed { since, .. } = &mut seat.state {
                *since -= RETRY;
            }
            seat.journal().map(drop)
        };
        for frame in [HARMED, b"and on"] {
            let journal = seat.journal().unwrap();
            journal.append(FrameKind::Decision, frame, 5).unwrap();
            journal.sync().unwrap();
            assert_eq!(doubt.why(true), None);
        }
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(HARMED.len()).position(|w| w == HARMED) {
                bytes[at] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
        }
        // So many small segments become one.
        for _ in 0..3 {
            again(&mut seat).unwrap();
            let journal = seat.journal().unwrap();
            journal.append(FrameKind::Decision, b"and on", 5).unwrap();
            journal.sync().unwrap();
        }
        assert!(doubt.why(true).unwrap().starts_with("1 damaged stretches") && doubt.has_left_out());
        assert_eq!((doubt.why(false), doubt.settle(None).unwrap(), doubt.why(true)), (None, (), None));

        // Nobody can say how that ends: the next start is in doubt.
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "no folder").unwrap();
        assert!(again(&mut seat).is_err());
        drop((seat, doubt));
        assert!(Doubt::open(dir.path()).why(true).is_some());
    }
}
