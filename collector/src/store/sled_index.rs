//! The index on disk, in sled: the only file that names it.
//!
//! sled has been seen to panic or hang inside `open`, to hang for good after a full disk, and to lose what it reported
//! as durable. So it lives on a thread of its own, every request has a deadline, a panic is an error, and whoever
//! asked rebuilds from the journals. A thread that hangs is given up, not waited for: it holds a folder that has been
//! moved aside, at most its cache of memory, and ends with the process.
//!
//! Deliberately absent: sled's background flusher (its errors reach nobody); the indexer asks for flushes.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::index::{Batch, Index, IndexError, Pair, Span};

/// sled's page cache: the index is small, and unbounded sled has been seen to take gigabytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Deadlines of the watchdog.
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

/// An answer's way back; a full channel of one never blocks the thread.
type Reply<T> = SyncSender<Result<T, IndexError>>;

#[derive(Debug)]
enum Request {
    Get(Vec<u8>, Reply<Option<Vec<u8>>>),
    Scan(Span, usize, Reply<Vec<Pair>>),
    Apply(Batch, Reply<()>),
    Flush(Reply<()>),
}

/// A handle to the thread that owns the database.
#[derive(Debug)]
pub struct SledIndex {
    // Holds at most one request a caller, since each waits for its answer.
    requests: Mutex<Option<Sender<Request>>>,
    ended: Mutex<Receiver<()>>,
    deadline: Duration,
}

impl SledIndex {
    /// Opens or creates the database in `dir`.
    pub fn open(dir: &Path, deadlines: Deadlines) -> Result<Self, IndexError> {
        let (requests, inbox) = channel();
        let (opened, open_answer) = sync_channel(1);
        let (end, ended) = sync_channel::<()>(0);
        let dir = dir.to_owned();
        thread::Builder::new()
            .name("store-index-db".to_owned())
            .spawn(move || {
                // Dropped when the thread is through with the folder: whoever closes waits for that.
                let _end = end;
                serve(&dir, &opened, &inbox);
            })
            .map_err(|e| IndexError::Failed { what: "start a thread", detail: e.to_string() })?;
        wait("open", &open_answer, deadlines.open)?;
        Ok(Self {
            requests: Mutex::new(Some(requests)),
            ended: Mutex::new(ended),
            deadline: deadlines.request,
        })
    }

    fn ask<T>(
        &self,
        what: &'static str,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, IndexError> {
        let (reply, answer) = sync_channel(1);
        let gone = || IndexError::Failed { what, detail: "its thread has ended".to_owned() };
        let sender = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(gone)?;
        sender.send(request(reply)).map_err(|_| gone())?;
        wait(what, &answer, self.deadline)
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The folder is reopened or moved next; a thread that hangs is not waited for longer than a request.
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _: Result<(), RecvTimeoutError> = ended.recv_timeout(self.deadline);
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.ask("read", |r| Request::Get(key.to_vec(), r))
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
        "sled"
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

/// The thread: opens, answers until every sender is gone or sled panics, closes.
fn serve(dir: &PathBuf, opened: &Reply<()>, inbox: &Receiver<Request>) {
    let open = guarded("open", || {
        sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()
    });
    let db = match open {
        Ok(db) => db,
        Err(e) => {
            let _ = opened.send(Err(e));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    while let Ok(request) = inbox.recv() {
        match request {
            Request::Get(key, reply) => {
                let _ = reply.send(guarded("read", || Ok(db.get(key)?.map(|v| v.to_vec()))));
            }
            Request::Scan(span, limit, reply) => {
                let _ = reply.send(guarded("scan", || scan(&db, &span, limit)));
            }
            Request::Apply(batch, reply) => {
                let _ = reply.send(guarded("write", || {
                    let mut b = sled::Batch::default();
                    for (key, value) in batch {
                        match value {
                            Some(v) => b.insert(key, v),
                            None => b.remove(key),
                        }
                    }
                    db.apply_batch(b)
                }));
            }
            Request::Flush(reply) => {
                let _ = reply.send(guarded("flush", || db.flush().map(|_| ())));
            }
        }
    }
    // Dropping flushes, and may panic like everything else.
    let _ = guarded("close", move || {
        drop(db);
        Ok(())
    });
}

fn scan(db: &sled::Db, span: &Span, limit: usize) -> sled::Result<Vec<Pair>> {
    let from = span.from.clone();
    let range = match &span.to {
        Some(to) if *to <= from => return Ok(Vec::new()),
        Some(to) => db.range(from..to.clone()),
        None => db.range(from..),
    };
    let pair = |r: sled::Result<(sled::IVec, sled::IVec)>| r.map(|(k, v)| (k.to_vec(), v.to_vec()));
    if span.reverse {
        range.rev().take(limit).map(pair).collect()
    } else {
        range.take(limit).map(pair).collect()
    }
}

fn guarded<T>(what: &'static str, f: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(v)) => Ok(v),
        Ok(Err(e)) => Err(IndexError::Failed { what, detail: e.to_string() }),
        Err(panic) => {
            Err(IndexError::Failed { what, detail: format!("it panicked: {}", panic_words(&*panic)) })
        }
    }
}

/// What a panic said, where it said it in words.
pub(super) fn panic_words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}
