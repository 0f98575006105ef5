//! `statvfs` of filesystems whose server may not answer.
//!
//! A call on a hung NFS or FUSE mount blocks for as long as the server pleases, often beyond the reach of signals.
//! So such calls are made by helper threads, with one deadline for a tick's worth of them. A mount whose call is still
//! out is not asked again and costs later ticks nothing; its answer, when it comes, is used if it is fresh.
//!
//! Limits: [`MAX_THREADS`] helpers, [`MAX_OUT`] calls. When all are stuck, remote mounts are reported as failed until one comes back.
//! Helpers that are stuck cannot be ended; they go when their call returns or with the process.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

/// Helpers at most: so many dead servers can be met before live ones suffer.
const MAX_THREADS: usize = 8;

/// Calls waiting or stuck at most; beyond it paths are refused, so that mounts that come and go on a dead server
/// cannot pile up.
const MAX_OUT: usize = 1_000;

/// An answer that came after its tick's deadline is still worth reporting at this age.
const FRESH: Duration = Duration::from_secs(2);

/// The figures of one filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Figures {
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) available_bytes: u64,
    pub(super) inodes_total: u64,
    pub(super) inodes_free: u64,
    pub(super) read_only: bool,
}

/// Asks a path for its filesystem's figures. Injected, so that tests can have servers that hang.
pub(super) type StatFn = Arc<dyn Fn(&CStr) -> Result<Figures, Errno> + Send + Sync>;

/// The real thing.
pub(super) fn statvfs(path: &CStr) -> Result<Figures, Errno> {
    let s = rustix::fs::statvfs(path)?;
    // The fragment size is the unit of the block counts; old FUSE servers leave it 0 and mean the block size.
    let unit = if s.f_frsize == 0 { s.f_bsize } else { s.f_frsize };
    Ok(Figures {
        total_bytes: s.f_blocks.saturating_mul(unit),
        free_bytes: s.f_bfree.saturating_mul(unit),
        available_bytes: s.f_bavail.saturating_mul(unit),
        inodes_total: s.f_files,
        inodes_free: s.f_ffree,
        read_only: s.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

struct Answer {
    path: CString,
    figures: Result<Figures, Errno>,
    at: Instant,
}

/// Asks remote filesystems, never waiting longer than its deadline.
pub(super) struct RemoteProbe {
    stat: StatFn,
    deadline: Duration,
    requests: Sender<CString>,
    request_source: Arc<Mutex<Receiver<CString>>>,
    answers: Receiver<Answer>,
    answer_sink: Sender<Answer>,
    threads: usize,
    /// Calls that have not returned, with when they were made.
    out: HashMap<CString, Instant>,
}

impl RemoteProbe {
    /// A probe that asks by `stat` and waits at most `deadline` a tick. It starts no thread before it needs one.
    pub(super) fn new(stat: StatFn, deadline: Duration) -> Self {
        let (requests, source) = channel();
        let (answer_sink, answers) = channel();
        Self {
            stat,
            deadline,
            requests,
            request_source: Arc::new(Mutex::new(source)),
            answers,
            answer_sink,
            threads: 0,
            out: HashMap::new(),
        }
    }

    /// The figures of every path, or why there are none, in the order of `paths`.
    pub(super) fn read(&mut self, paths: &[&CStr]) -> Vec<Result<Figures, String>> {
        let began = Instant::now();
        let mut ready: HashMap<CString, Result<Figures, Errno>> = HashMap::new();
        while let Ok(answer) = self.answers.try_recv() {
            self.out.remove(&answer.path);
            if began.saturating_duration_since(answer.at) <= FRESH {
                ready.insert(answer.path, answer.figures);
            }
        }
        let mut awaited = 0usize;
        for path in paths {
            if !ready.contains_key(*path)
                && !self.out.contains_key(*path)
                && self.ask((*path).to_owned(), began)
            {
                awaited += 1;
            }
        }
        while awaited > 0 {
            let Some(left) = self.deadline.checked_sub(began.elapsed()) else { break };
            let Ok(answer) = self.answers.recv_timeout(left) else { break };
            // One that was out from an earlier tick may come now too; only this tick's are awaited.
            if self.out.remove(&answer.path) == Some(began) {
                awaited -= 1;
            }
            ready.insert(answer.path, answer.figures);
        }
        paths.iter().map(|path| self.verdict(path, ready.get(*path))).collect()
    }

    /// Calls that have not returned.
    #[cfg(test)]
    fn outstanding(&self) -> usize {
        self.out.len()
    }

    fn verdict(&self, path: &CStr, answer: Option<&Result<Figures, Errno>>) -> Result<Figures, String> {
        match (answer, self.out.get(path)) {
            (Some(Ok(figures)), _) => Ok(*figures),
            (Some(Err(e)), _) => Err(format!("statvfs: {e}")),
            (None, Some(since)) => Err(format!(
                "no answer to statvfs for {:.1} s (its server may be gone; {} such calls are out, at most {MAX_THREADS} \
                 run at a time)",
                since.elapsed().as_secs_f64(),
                self.out.len(),
            )),
            (None, None) => {
                Err(format!("not asked: {} threads run, {} calls are out", self.threads, self.out.len()))
            }
        }
    }

    /// Hands `path` to a helper; false when there is none and none can be started.
    fn ask(&mut self, path: CString, began: Instant) -> bool {
        if self.out.len() >= self.threads && self.threads < MAX_THREADS && self.start_helper() {
            self.threads += 1;
        }
        if self.threads == 0 || self.out.len() >= MAX_OUT || self.requests.send(path.clone()).is_err() {
            return false;
        }
        self.out.insert(path, began);
        true
    }

    fn start_helper(&self) -> bool {
        let (source, sink, stat) =
            (Arc::clone(&self.request_source), self.answer_sink.clone(), Arc::clone(&self.stat));
        let helper = move || {
            loop {
                let next = source.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(path) = next else { return };
                let figures = stat(&path);
                if sink.send(Answer { path, figures, at: Instant::now() }).is_err() {
                    return;
                }
            }
        };
        // The call needs little stack, and eight default stacks would be most of the agent's address space.
        thread::Builder::new().name("statvfs".to_owned()).stack_size(128 << 10).spawn(helper).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;

    /// A server per path; those whose path begins with `/hung` answer once released.
    struct Servers {
        released: Mutex<bool>,
        changed: Condvar,
    }

    impl Servers {
        fn new() -> (Arc<Self>, StatFn) {
            let servers = Arc::new(Self { released: Mutex::new(false), changed: Condvar::new() });
            let s = Arc::clone(&servers);
            let stat: StatFn = Arc::new(move |path: &CStr| {
                if path.to_bytes().starts_with(b"/hung") {
                    let released = s.released.lock().unwrap();
                    drop(s.changed.wait_while(released, |r| !*r).unwrap());
                }
                if path.to_bytes().starts_with(b"/gone") {
                    return Err(Errno::STALE);
                }
                Ok(Figures { total_bytes: path.to_bytes().len() as u64, ..Figures::default() })
            });
            (servers, stat)
        }

        fn release(&self) {
            *self.released.lock().unwrap() = true;
            self.changed.notify_all();
        }
    }

    #[test]
    fn one_dead_server_does_not_cost_the_others() {
        let (servers, stat) = Servers::new();
        let mut probe = RemoteProbe::new(stat, Duration::from_secs(1));
        let is_answered = |read: &[Result<Figures, String>]| {
            assert!(read[0].as_ref().unwrap_err().contains("no answer"), "{read:?}");
            let of_gone = read[2].as_ref().unwrap_err();
            read[1].as_ref().is_ok_and(|f| f.total_bytes == 3) && of_gone.starts_with("statvfs")
        };
        let asked = Instant::now();
        // On a busy machine the others' helpers may be late, too.
        while !is_answered(&probe.read(&[c"/hung", c"/ok", c"/gone"])) {
            assert!(asked.elapsed() < Duration::from_secs(60), "the others answer");
        }
        probe.deadline = Duration::from_secs(600);
        let began = Instant::now();
        let second = probe.read(&[c"/hung", c"/ok"]);
        assert!(second[0].is_err() && second[1].is_ok());
        assert!(began.elapsed() < probe.deadline / 2, "a call that is out is not waited for again");
        servers.release();
        let came_back = Instant::now();
        while probe.read(&[c"/hung"])[0].is_err() {
            assert!(
                came_back.elapsed() < Duration::from_secs(20),
                "a server that answers again is read again"
            );
        }
    }

    #[test]
    fn stuck_helpers_are_bounded() {
        let (servers, stat) = Servers::new();
        let mut probe = RemoteProbe::new(stat, Duration::from_millis(100));
        let paths: Vec<CString> = (0..50).map(|i| CString::new(format!("/hung{i}")).unwrap()).collect();
        let refs: Vec<&CStr> = paths.iter().map(CString::as_c_str).collect();
        for _ in 0..3 {
            assert!(probe.read(&refs).iter().all(Result::is_err));
        }
        assert_eq!((probe.threads, probe.outstanding()), (MAX_THREADS, 50));
        servers.release();
        let released = Instant::now();
        while !probe.read(&refs).iter().all(Result::is_ok) {
            assert!(released.elapsed() < Duration::from_secs(20), "all answer once their server does");
        }
        assert_eq!(probe.threads, MAX_THREADS);
    }
}
