//! The watchdog: an index on a thread of its own, every request with a deadline.
//!
//! An engine has been seen to panic or hang, inside `open` too. Here a panic is an error, and so is silence past the
//! deadline; whoever asked then builds anew. A thread that hangs is given up, not waited for: it holds a folder that
//! has been moved aside and at most its cache of memory, and ends with the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::index::{Batch, Index, IndexError, Opener, Pair, Span};

/// How long an engine may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For opening, which may have to recover.
    pub open: Duration,
    /// For each request, the wait for its turn included.
    pub request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { open: Duration::from_secs(10), request: Duration::from_secs(5) }
    }
}

/// An answer's way back; a channel of one never blocks the thread.
type Reply<T> = SyncSender<Result<T, IndexError>>;

#[derive(Debug)]
enum Request {
    Get(Vec<u8>, Reply<Option<Vec<u8>>>),
    GetMany(Vec<Vec<u8>>, Reply<Vec<Option<Vec<u8>>>>),
    Scan(Span, usize, Reply<Vec<Pair>>),
    Apply(Batch, Reply<()>),
    Flush(Reply<()>),
}

/// A handle to the thread that owns the engine.
#[derive(Debug)]
pub struct Watched {
    // Holds at most one request a caller, since each waits for its answer.
    requests: Mutex<Option<Sender<Request>>>,
    ended: Mutex<Receiver<()>>,
    deadline: Duration,
    engine: &'static str,
}

impl Watched {
    /// Has `opener` open `dir` on a thread of its own.
    ///
    /// # Errors
    /// [`IndexError`]: what the engine said, its panic's words, or that it took too long.
    pub fn open(dir: &Path, deadlines: Deadlines, opener: &Opener) -> Result<Self, IndexError> {
        let (requests, inbox) = channel();
        let (opened, open_answer) = sync_channel(1);
        let (end, ended) = sync_channel::<()>(0);
        let (dir, opener) = (dir.to_owned(), Opener::clone(opener));
        thread::Builder::new()
            .name("store-index-db".to_owned())
            .spawn(move || {
                // Dropped when the thread is through with the folder: whoever closes waits for that.
                let _end = end;
                serve(&dir, &opener, &opened, &inbox);
            })
            .map_err(|e| IndexError::Failed { what: "start a thread", detail: e.to_string() })?;
        let engine = wait("open", &open_answer, deadlines.open)?;
        Ok(Self {
            requests: Mutex::new(Some(requests)),
            ended: Mutex::new(ended),
            deadline: deadlines.request,
            engine,
        })
    }

    fn ask<T>(&self, what: &'static str, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, IndexError> {
        let (reply, answer) = sync_channel(1);
        let gone = || IndexError::Failed { what, detail: "its thread has ended".to_owned() };
        let sender = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(gone)?;
        sender.send(request(reply)).map_err(|_| gone())?;
        wait(what, &answer, self.deadline)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The folder is reopened or moved next; a thread that hangs is not waited for longer than a request.
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _: Result<(), RecvTimeoutError> = ended.recv_timeout(self.deadline);
    }
}

impl Index for Watched {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.ask("read", |r| Request::Get(key.to_vec(), r))
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, IndexError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.ask("read", |r| Request::GetMany(keys.to_vec(), r))
    }

    fn scan(&self, span: &Span, limit: usize) -> Result<Vec<Pair>, IndexError> {
        self.ask("scan", |r| Request::Scan(span.clone(), limit, r))
    }

    fn apply(&self, batch: Batch) -> Result<(), IndexError> {
        self.ask("write", |r| Request::Apply(batch, r))
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.ask("flush", Request::Flush)
    }

    fn engine(&self) -> &'static str {
        self.engine
    }
}

fn wait<T>(
    what: &'static str,
    answer: &Receiver<Result<T, IndexError>>,
    deadline: Duration,
) -> Result<T, IndexError> {
    match answer.recv_timeout(deadline) {
        Ok(v) => v,
        Err(RecvTimeoutError::Timeout) => {
            let millis = deadline.as_millis().try_into().unwrap_or(u64::MAX);
            Err(IndexError::Hung { what, millis })
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(IndexError::Failed { what, detail: "its thread has ended".to_owned() })
        }
    }
}

/// The thread: opens, answers until every sender is gone, closes.
fn serve(dir: &Path, opener: &Opener, opened: &Reply<&'static str>, inbox: &Receiver<Request>) {
    let index = match guarded("open", || opener(dir)) {
        Ok(index) => index,
        Err(e) => {
            let _ = opened.send(Err(e));
            return;
        }
    };
    if opened.send(Ok(index.engine())).is_err() {
        return;
    }
    // Whoever does not wait for an answer any more has given the index up; then the sender goes, too.
    while let Ok(request) = inbox.recv() {
        match request {
            Request::Get(key, reply) => {
                let _ = reply.send(guarded("read", || index.get(&key)));
            }
            Request::GetMany(keys, reply) => {
                let _ = reply.send(guarded("read", || index.get_many(&keys)));
            }
            Request::Scan(span, limit, reply) => {
                let _ = reply.send(guarded("scan", || index.scan(&span, limit)));
            }
            Request::Apply(batch, reply) => {
                let _ = reply.send(guarded("write", || index.apply(batch)));
            }
            Request::Flush(reply) => {
                let _ = reply.send(guarded("flush", || index.flush()));
            }
        }
    }
    // Closing may write, and panic like everything else.
    let _ = guarded("close", move || {
        drop(index);
        Ok(())
    });
}

fn guarded<T>(what: &'static str, f: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        Err(IndexError::Failed { what, detail: format!("it panicked: {}", panic_words(&*panic)) })
    })
}

/// What a panic said, where it said it in words.
fn panic_words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}
