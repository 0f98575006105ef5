//! The answer to "what fills it", put together: the tree, whose its folders are, who writes, what is deleted and still open, and
//! which folders grow.
//!
//! Asked by a person through the collector ([`Inquiry`], on a thread of its own) or on the node (`dogwatch-agent usage`).
//!
//! Limits: one question at a time and [`MAX_ASKED`] that wait; the walk takes half a CPU and ends when its time is up, saying
//! that it is not whole; a filesystem whose server may not answer is refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use dogwatch::clock;
use rustix::io::Errno;

use super::blame::Blame;
use super::containers::layout;
use super::crawl::{Crawl, CrawlOptions, Step};
use super::entry::open_top;
use super::layout::Layout;
use super::pace::{Budget, Paced, be_idle};
use super::place::{filesystem, is_whole};
use super::reach::{NoWay, Reached, reach};
use super::rounds::{Grown, Newest, STEP_ENTRIES};
use super::scout::APART;
use super::show::Filesystem;
use super::site::{Site, compare};
use super::tally::Usage;
use super::walk::{WalkOptions, walk};
use crate::sample::{Pods, Roots, superblock};

/// Questions that wait.
const MAX_ASKED: usize = 4;
/// What a walk that a person asked for may take of one CPU: it is quick, and no node notices it.
const ASKED_CPU: f64 = 0.5;
/// Of the time for an answer, what stays for the second look at open files and for the way back.
const RESERVE: Duration = Duration::from_secs(8);
/// Least and longest time for an answer.
const WITHIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// Who writes, as far as open files tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Writers {
    /// What was found.
    pub blame: Blame,
    /// Why some open files may have been missed.
    pub missed: Option<String>,
}

/// All of it. Paths are the node's.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where the filesystem is mounted; `None`: what was walked may be on several, or nobody can tell.
    pub mount: Option<String>,
    /// When it was done, ns since the epoch.
    pub wall_ns: i64,
    /// What the filesystem says.
    pub fs: Filesystem,
    /// What was found in it.
    pub usage: Usage,
    /// Whose folders are.
    pub layout: Layout,
    /// `None`: nobody looked.
    pub writers: Option<Result<Writers, String>>,
    /// What the agent's own walks told; `None`: there were none, or nobody keeps them here.
    pub grown: Option<Arc<Grown>>,
}

/// What to find out besides the tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Besides {
    /// Between two looks at open files; `None`: they are not looked at.
    pub(super) writers_apart: Option<Duration>,
    /// What the agent's own walks told.
    pub(super) newest: Newest,
}

/// How to walk.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// At once.
    Walk(WalkOptions),
    /// Within a budget.
    Crawl(Budget),
}

impl How {
    fn found(&self, at: &Path) -> Result<Usage, String> {
        match self {
            Self::Walk(options) => walk(at, options).map_err(|e| e.to_string()),
            Self::Crawl(budget) => within(at, *budget),
        }
    }
}

/// Crawls with rests, in the idle classes.
fn within(at: &Path, budget: Budget) -> Result<Usage, String> {
    be_idle();
    let mut crawl = Crawl::begin(at, CrawlOptions::default()).map_err(|e| e.to_string())?;
    let mut paced = Paced::begin(budget);
    loop {
        paced.wake();
        match crawl.step(STEP_ENTRIES) {
            Step::Done(usage) => return Ok(*usage),
            Step::Gone => return Err(format!("{} went while it was walked", at.display())),
            Step::More => {}
        }
        std::thread::sleep(paced.rest(STEP_ENTRIES));
    }
}

/// Walks a folder of the node.
pub(super) fn report(roots: &Roots, folder: &Reached, how: &How, besides: &Besides) -> Result<Report, NoWay> {
    let Reached { path, at, mount } = folder;
    let device = open_top(at).and_then(superblock::of).map_err(|e| {
        let why = format!("{}: {e}", path.display());
        match e {
            Errno::NOENT | Errno::NOTDIR => NoWay::Absent(why),
            _ => NoWay::Other(why),
        }
    })?;
    let began = Instant::now();
    let site = mount.as_deref().map_or_else(|| Ok(Site::unknown(at)), |mount| Site::of(roots, mount));
    let before = besides.writers_apart.map(|_| site.as_ref().map_err(Clone::clone)?.look(roots));
    let mut usage = how.found(at).map_err(NoWay::Other)?;
    let mut pods = Pods::new(&roots.log);
    pods.refresh(clock::now().boot_ns);
    let layout = layout(roots, &pods, device);
    let writers = before.zip(besides.writers_apart).map(|(before, apart)| {
        let (before, missed) = before?;
        std::thread::sleep((began + apart).saturating_duration_since(Instant::now()));
        let (after, missed_later) = site?.look(roots)?;
        let blame = compare(roots, mount.as_deref().map(Path::new), &mut pods, &before, &after);
        Ok(Writers { blame, missed: missed.or(missed_later) })
    });
    let whole = mount.as_deref().is_some_and(|m| Path::new(m) == path && is_whole(roots, path));
    let fs = filesystem(at, whole).map_err(|e| NoWay::Other(format!("{}: {e}", path.display())))?;
    usage.path.clone_from(path);
    // As the node calls them.
    let paths = usage.files.iter_mut().map(|f| &mut f.path);
    for found in paths.chain(usage.unread.iter_mut().map(|u| &mut u.0)).chain(&mut usage.mounts) {
        *found = found.strip_prefix(at).map_or_else(|_| found.clone(), |rest| path.join(rest));
    }
    let grown = mount.as_deref().and_then(|m| besides.newest.of(m));
    Ok(Report { mount: mount.clone(), wall_ns: clock::now().wall_ns, fs, usage, layout, writers, grown })
}

/// Takes the answer, or why there is none and whether that is because there is no such thing.
pub type Reply = Box<dyn FnOnce(Result<Report, (String, bool)>) + Send>;

/// A question.
pub struct Asked {
    /// A mount, or a folder below one.
    pub path: String,
    /// The answer is of use for so long.
    pub within: Duration,
    /// Where it goes.
    pub reply: Reply,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where questions go.
#[derive(Debug, Clone)]
pub struct Inquire(SyncSender<(Asked, Instant)>);

impl Inquire {
    /// Asks; gives the question back where too many wait already.
    pub fn ask(&self, asked: Asked) -> Result<(), Asked> {
        self.0.try_send((asked, Instant::now())).map_err(|e| match e {
            std::sync::mpsc::TrySendError::Full((asked, _))
            | std::sync::mpsc::TrySendError::Disconnected((asked, _)) => asked,
        })
    }
}

/// The thread's part: asleep until somebody asks.
#[derive(Debug)]
pub struct Inquiry {
    asked: Receiver<(Asked, Instant)>,
    roots: Roots,
    newest: Newest,
}

/// Who answers about the node at `roots`, and where to ask.
pub fn inquiry(roots: Roots, newest: Newest) -> (Inquire, Inquiry) {
    let (tx, asked) = sync_channel(MAX_ASKED);
    (Inquire(tx), Inquiry { asked, roots, newest })
}

impl Inquiry {
    /// Answers until nobody can ask any more.
    pub fn run(self) {
        while let Ok((asked, since)) = self.asked.recv() {
            let until = since + asked.within.clamp(WITHIN.0, WITHIN.1).saturating_sub(RESERVE);
            let answer = self.answer(&asked.path, until);
            let answer = answer.map_err(|e| (e.to_string(), matches!(e, NoWay::Absent(_))));
            (asked.reply)(answer);
        }
    }

    fn answer(&self, path: &str, until: Instant) -> Result<Report, NoWay> {
        let folder = reach(&self.roots, Path::new(path))?;
        let options = WalkOptions {
            threads: 1,
            most_threads: 1,
            cpu_share: Some(ASKED_CPU),
            until: Some(until),
            ..WalkOptions::at_once()
        };
        let besides = Besides { writers_apart: Some(APART), newest: self.newest.clone() };
        report(&self.roots, &folder, &How::Walk(options), &besides)
    }
}
