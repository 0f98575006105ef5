//! Looks at a disk that may not answer, each on a thread of its own, so that a hang costs that one answer.
//!
//! Limits: a thread cannot be ended while the kernel waits for a disk or a server, so one that hangs is left behind, and
//! at most [`MAX_LEFT`] of them are; with as many, nothing more is looked at until one of them comes back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Looks under way at a time, those left behind among them: several servers may be gone at once, and each thread costs a
/// stack.
const MAX_LEFT: usize = 4;
/// A look is a few system calls deep.
const STACK_BYTES: usize = 256 << 10;

/// Whoever looks, and how long it waits. Clones share the threads that were left behind.
#[derive(Debug, Clone)]
pub struct Aside {
    wait: Duration,
    under_way: Arc<AtomicUsize>,
}

impl Aside {
    /// One that waits for `wait`.
    pub fn new(wait: Duration) -> Self {
        Self { wait, under_way: Arc::default() }
    }

    /// The same one, which waits for `wait`.
    #[must_use]
    pub fn waiting(&self, wait: Duration) -> Self {
        Self { wait, ..self.clone() }
    }

    /// What `look` gives, which looks at `path`.
    ///
    /// # Errors
    /// It did not come back in time, or too many others did not.
    pub(crate) fn look<T: Send + 'static>(
        &self,
        path: &Path,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let turn = Turn::take(&self.under_way).ok_or_else(|| {
            format!("{} is not looked at: {MAX_LEFT} looks at others do not come back", path.display())
        })?;
        let (said, answer) = sync_channel(1);
        let thread = std::thread::Builder::new().name("aside".to_owned()).stack_size(STACK_BYTES);
        thread
            .spawn(move || {
                let found = look();
                // Before the answer, so that whoever has it may look again.
                drop(turn);
                let _ = said.send(found);
            })
            .map_err(|e| format!("{} cannot be looked at: no thread for it: {e}", path.display()))?;
        answer.recv_timeout(self.wait).map_err(|_| {
            let wait = self.wait.as_secs_f32();
            format!(
                "{} does not answer within {wait} s; is a server or a disk beneath it gone?",
                path.display()
            )
        })
    }
}

/// One of the looks under way.
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn take(under_way: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |n: usize| (n < MAX_LEFT).then_some(n + 1);
        under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self(under_way.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_does_not_come_back_costs_one_answer_and_a_bounded_number_of_threads() {
        let aside = Aside::new(Duration::from_millis(50));
        let gone = Path::new("/gone");
        let blocked: Vec<_> = (0..MAX_LEFT)
            .map(|_| {
                let (free, wait) = channel::<()>();
                let why = aside.look(gone, move || wait.recv()).unwrap_err();
                assert!(why.contains("/gone does not answer within 0.05 s"), "{why}");
                free
            })
            .collect();
        let why = aside.look(gone, || ()).unwrap_err();
        assert!(why.contains("4 looks at others do not come back"), "{why}");
        drop(blocked);
        let patient = aside.waiting(Duration::from_secs(20));
        let until = std::time::Instant::now() + patient.wait;
        while patient.look(gone, || ()).is_err() {
            assert!(std::time::Instant::now() < until, "a thread that came back gives its turn back");
            std::thread::yield_now();
        }
        for n in 0..100 {
            assert_eq!(patient.look(gone, move || n), Ok(n), "a look that is done is none under way");
        }
    }
}
