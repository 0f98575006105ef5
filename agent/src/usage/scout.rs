//! The thread that finds out, when a filesystem fills, who fills it.
//!
//! Asked about a mount, it looks at its open files twice, [`APART`] apart, and answers with what grew in between. It runs at
//! idle priority and looks at one mount after the other.
//!
//! Limits: at most [`MAX_ASKED`] questions wait, further ones are not taken; the same mount is not looked at again within
//! [`PAUSE`]; a filesystem whose server may not answer is not looked at, for a thread that waits for one could not be stopped.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use dogwatch::clock;

use super::blame::{Blame, Look, blame};
use super::open_files::{Holder, holder, scan};
use super::pace::be_idle;
use super::place::on_node;
use crate::sample::{Pods, Roots};

/// Questions that wait.
const MAX_ASKED: usize = 16;
/// Between two looks: long enough that a write-back every second or so evens out.
pub const APART: Duration = Duration::from_secs(5);
/// From one answer about a mount to the next look at it.
const PAUSE: Duration = Duration::from_secs(60);

/// Who fills a mount.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The mount, as it was asked for.
    pub mount: String,
    /// CLOCK_BOOTTIME at the second look.
    pub boot_ns: u64,
    /// What was found, or why nothing could be.
    pub found: Result<Blame, String>,
    /// Why some open files may have been missed.
    pub incomplete: Option<String>,
}

/// Where questions go.
#[derive(Debug, Clone)]
pub struct Asker(SyncSender<String>);

impl Asker {
    /// Asks who fills `mount`; false where too many questions wait already.
    pub fn ask(&self, mount: &str) -> bool {
        self.0.try_send(mount.to_owned()).is_ok()
    }
}

/// The thread's part: to be run on a thread of its own until `answer` says `false` or everybody who asks is gone.
#[derive(Debug)]
pub struct Scout {
    asked: Receiver<String>,
    roots: Roots,
    apart: Duration,
}

/// A scout for the node at `roots` that looks twice, `apart` apart, and where to ask it.
pub fn scout(roots: Roots, apart: Duration) -> (Asker, Scout) {
    let (tx, asked) = sync_channel(MAX_ASKED);
    (Asker(tx), Scout { asked, roots, apart })
}

impl Scout {
    /// Answers until nobody asks or listens any more.
    pub fn run(self, mut answer: impl FnMut(Answer) -> bool) {
        be_idle();
        let mut pods = Pods::new(&self.roots.log);
        let mut answered: HashMap<String, Instant> = HashMap::new();
        let mut waiting = VecDeque::new();
        while let Some(mount) = waiting.pop_front().or_else(|| self.asked.recv().ok()) {
            answered.retain(|_, at| at.elapsed() < PAUSE);
            if answered.contains_key(&mount) {
                continue;
            }
            let Some(said) = self.look_twice(&mount, &mut pods, &mut waiting) else { return };
            answered.insert(mount, Instant::now());
            if !answer(said) {
                return;
            }
        }
    }

    /// `None`: nobody asks any more.
    fn look_twice(&self, mount: &str, pods: &mut Pods, waiting: &mut VecDeque<String>) -> Option<Answer> {
        let mut said = Answer {
            mount: mount.to_owned(),
            boot_ns: clock::now().boot_ns,
            found: Err(String::new()),
            incomplete: None,
        };
        let place = match on_node(&self.roots, mount) {
            Ok(place) => place,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        let (before, _) = match look(&self.roots, &place) {
            Ok(look) => look,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        let until = Instant::now() + self.apart;
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|r| !r.is_zero()) {
            std::thread::sleep(rest.min(Duration::from_millis(100)));
            // Nobody is told what nobody is left to hear.
            match self.asked.try_recv() {
                Ok(other) if waiting.len() < MAX_ASKED => waiting.push_back(other),
                Ok(_) | Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        let (after, incomplete) = match look(&self.roots, &place) {
            Ok(look) => look,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        said.boot_ns = after.boot_ns;
        said.found = Ok(compare(&self.roots, pods, &before, &after));
        said.incomplete = incomplete;
        Some(said)
    }
}

/// One look at the open files of the filesystem at `place`, and why some may be missing.
pub(super) fn look(roots: &Roots, place: &Path) -> Result<(Look, Option<String>), String> {
    let at = clock::now();
    let cannot = |e: rustix::io::Errno| format!("{} cannot be looked at: {e}", place.display());
    let device = rustix::fs::stat(place).map_err(cannot)?.st_dev;
    let fs = rustix::fs::statvfs(place).map_err(cannot)?;
    let used_bytes = fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize);
    let found = scan(roots, device);
    Ok((Look { boot_ns: at.boot_ns, wall_ns: at.wall_ns, used_bytes, files: found.files }, found.incomplete))
}

/// Compares two looks, the second of which was a moment ago.
pub(super) fn compare(roots: &Roots, pods: &mut Pods, before: &Look, after: &Look) -> Blame {
    pods.refresh(after.boot_ns);
    let pids: BTreeSet<u32> = after.files.iter().map(|f| f.pid).collect();
    let holders: HashMap<u32, Holder> =
        pids.into_iter().filter_map(|pid| Some((pid, holder(&roots.proc, pid)?))).collect();
    blame(before, after, &holders, &|cgroup| pods.of_cgroup(cgroup))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::usage::blame::Confidence;

    #[test]
    fn who_fills_a_filesystem_of_its_own_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let mount = temp.path().join("fs");
        std::fs::create_dir(&mount).unwrap();
        let mounted = Mounted::tmpfs(&mount);
        let (asker, scout) = scout(Roots::default(), Duration::from_millis(800));
        let (tx, rx) = channel();
        let thread = std::thread::spawn(move || scout.run(|a| tx.send(a).is_ok()));
        let mut file = std::fs::File::create(mount.join("spam")).unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let s = stop.clone();
        let writer = std::thread::spawn(move || {
            while !s.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(&[7; 4096]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert!(asker.ask(mount.to_str().unwrap()));
        let said = rx.recv_timeout(Duration::from_secs(120)).unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
        let found = said.found.unwrap();
        assert_eq!(found.confidence, Confidence::Certain, "{found:?}");
        assert_eq!(found.growing[0].path, mount.join("spam"));
        assert_eq!(found.growing[0].openers[0].pid, std::process::id());
        // Not again so soon; and what is no mount is said.
        assert!(asker.ask(mount.to_str().unwrap()) && asker.ask("/no/mount"));
        let said = rx.recv_timeout(Duration::from_secs(120)).unwrap();
        assert_eq!(said.mount, "/no/mount");
        assert!(said.found.unwrap_err().contains("nothing is mounted at /no/mount"));
        drop(asker);
        thread.join().unwrap();
        drop(mounted);
    }

    struct Mounted(PathBuf);

    impl Mounted {
        fn tmpfs(at: &Path) -> Self {
            let done = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"])
                .arg(at)
                .status();
            assert!(done.unwrap().success(), "these tests mount filesystems: run them as root");
            Self(at.to_owned())
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}
