//! The thread that finds out, when a filesystem fills, who fills it.
//!
//! Asked about a mount, it looks at its open files twice, [`APART`] apart, and answers with what grew in between. Where that
//! leaves something open it looks a third time, as long after, and takes a census of all files around that. It runs at idle
//! priority and looks at one mount after the other.
//!
//! Limits: at most [`MAX_ASKED`] questions wait, further ones are not taken; the same mount is not looked at again within
//! [`PAUSE`]; a filesystem whose server may not answer is not looked at, for a thread that waits for one could not be stopped.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use dogwatch::clock;

use super::blame::{Blame, Look};
use super::census;
use super::pace::be_idle;
use super::site::{Site, compare};
use crate::sample::{Pods, Roots};

/// Questions that wait.
const MAX_ASKED: usize = 16;
/// Between two looks: long enough that a write-back every second or so evens out.
pub const APART: Duration = Duration::from_secs(5);
/// From one answer about a mount to the next look at it.
pub const PAUSE: Duration = Duration::from_secs(60);

/// Who fills a mount.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The mount, as it was asked for.
    pub mount: String,
    /// CLOCK_BOOTTIME at the last look.
    pub boot_ns: u64,
    /// The node's clock then, ns since the epoch.
    pub wall_ns: i64,
    /// In use on the filesystem then.
    pub used_bytes: u64,
    /// What was found, or why nothing could be.
    pub found: Result<Blame, String>,
    /// Why some open files may have been missed.
    pub incomplete: Option<String>,
}

impl Answer {
    fn take(&mut self, after: &Look, found: Blame, incomplete: Option<String>) {
        (self.boot_ns, self.wall_ns, self.used_bytes) = (after.boot_ns, after.wall_ns, after.used_bytes);
        (self.found, self.incomplete) = (Ok(found), incomplete);
    }
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
            wall_ns: clock::now().wall_ns,
            used_bytes: 0,
            found: Err(String::new()),
            incomplete: None,
        };
        let place = match Site::of(&self.roots, mount) {
            Ok(place) => place,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        let (before, _) = match place.look(&self.roots) {
            Ok(look) => look,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        self.wait(waiting)?;
        let found = place.look(&self.roots).map(|(after, incomplete)| {
            let found = compare(&self.roots, Some(Path::new(mount)), pods, &before, &after);
            (after, incomplete, found)
        });
        let (after, incomplete, found) = match found {
            Ok(found) => found,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        said.take(&after, found.clone(), incomplete);
        if found.leaves_open() && after.used_inodes <= census::MAX_ENTRIES {
            self.look_wider(&place, &before, pods, waiting, &mut said)?;
        }
        Some(said)
    }

    /// A third look, with a census around the time since the second. What it cannot find out, it leaves as it was.
    fn look_wider(
        &self,
        place: &Site,
        before: &Look,
        pods: &mut Pods,
        waiting: &mut VecDeque<String>,
        said: &mut Answer,
    ) -> Option<()> {
        let Some(then) = census::take(&place.path) else { return Some(()) };
        let Ok(began) = place.figures() else { return Some(()) };
        self.wait(waiting)?;
        let now = census::take(&place.path);
        let (Some(now), Ok((after, incomplete))) = (now, place.look(&self.roots)) else { return Some(()) };
        // Over the longer time, what is allocated or written back in jumps evens out.
        let mut found = compare(&self.roots, Some(Path::new(&said.mount)), pods, before, &after);
        let seconds = after.boot_ns.saturating_sub(began.boot_ns) as f64 / 1e9;
        let grew = after.used_bytes.saturating_sub(began.used_bytes);
        let rate = if seconds > 0.0 { grew as f64 / seconds } else { 0.0 };
        let root = Path::new(&said.mount);
        let grown = Blame::is_growth(rate).then(|| now.grown(&then, &place.path, root, grew)).flatten();
        let inodes = after.used_inodes.saturating_sub(began.used_inodes);
        let multiplied = found.inodes_grow().then(|| now.multiplied(&then, root, inodes)).flatten();
        found.with_census(rate, grown, multiplied);
        said.take(&after, found, incomplete);
        Some(())
    }

    /// `None`: nobody asks any more.
    fn wait(&self, waiting: &mut VecDeque<String>) -> Option<()> {
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
        Some(())
    }
}

#[cfg(test)]
mod tests {
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
        // A process of its own: all that it writes goes there.
        let script =
            "import sys,time\nf=open(sys.argv[1],'wb',0)\nwhile 1: f.write(b'x'*4096); time.sleep(0.001)\n";
        let mut python = std::process::Command::new("python3");
        let writer = Writer(python.args(["-c", script]).arg(mount.join("spam")).spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while std::fs::metadata(mount.join("spam")).map_or(0, |f| f.len()) == 0 {
            assert!(Instant::now() < until, "python3 does not write");
            std::thread::sleep(Duration::from_millis(10));
        }
        let start = || {
            let (asker, scout) = scout(Roots::default(), Duration::from_secs(3));
            let (tx, rx) = channel();
            (asker, rx, std::thread::spawn(move || scout.run(|a| tx.send(a).is_ok())))
        };
        let mut tries = 0;
        let (asker, rx, thread) = loop {
            let (asker, rx, thread) = start();
            assert!(asker.ask(mount.to_str().unwrap()));
            let said = rx.recv_timeout(Duration::from_secs(120)).unwrap();
            let found = said.found.unwrap();
            // Mount and file are looked at one after the other: on a busy machine the one has grown by more than the other.
            assert!(matches!(found.confidence, Confidence::Certain | Confidence::Likely), "{found:?}");
            assert_eq!(found.growing[0].path, mount.join("spam"));
            let openers = &found.growing[0].openers;
            assert!(openers.iter().all(|o| o.pid == writer.0.id()), "{found:?}");
            if !openers.is_empty() {
                break (asker, rx, thread);
            }
            // A thread that lacks a CPU at the wrong moment names nobody.
            tries += 1;
            assert!(tries < 5, "{found:?}");
            drop(asker);
            thread.join().unwrap();
        };
        drop(writer);
        // Not again so soon; and what is no mount is said.
        assert!(asker.ask(mount.to_str().unwrap()) && asker.ask("/no/mount"));
        let said = rx.recv_timeout(Duration::from_secs(120)).unwrap();
        assert_eq!(said.mount, "/no/mount");
        assert!(said.found.unwrap_err().contains("nothing is mounted at /no/mount"));
        drop(asker);
        thread.join().unwrap();
        drop(mounted);
    }

    struct Writer(std::process::Child);

    impl Drop for Writer {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
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
