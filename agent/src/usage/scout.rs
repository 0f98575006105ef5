//! The thread that finds out, when a filesystem fills, who fills it.
//!
//! Asked about a mount, it looks at its open files twice, [`APART`] apart, and answers with what grew in between. Where that
//! leaves something open it looks a third time, as long after, and takes a census of all files around that. It runs at idle
//! priority and looks at one mount after the other.
//!
//! Limits: at most [`MAX_ASKED`] questions wait, further ones are not taken; the same mount is not looked at again within
//! [`PAUSE`]; a filesystem whose server may not answer is not looked at, for a thread that waits for one could not be stopped.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use dogwatch::clock;

use super::blame::{Blame, Look, Names, blame};
use super::census;
use super::open_files::{Holder, holder, node_path, scan};
use crate::sample::{Pods, Roots, mountinfo};

/// Questions that wait.
const MAX_ASKED: usize = 16;
/// Between two looks: long enough that a write-back every second or so evens out.
pub const APART: Duration = Duration::from_secs(5);
/// From one answer about a mount to the next look at it.
const PAUSE: Duration = Duration::from_secs(60);
/// Filesystems whose files may share what is allocated for them.
const SHARING: [&[u8]; 5] = [b"btrfs", b"xfs", b"bcachefs", b"zfs", b"ocfs2"];
/// What a btrfs has promised: bytes of data not yet placed, and placed but not yet written.
const PROMISED: [&str; 2] = ["bytes_may_use", "bytes_reserved"];
/// Longest table of mounts that is read.
const MAX_TABLE_BYTES: u64 = 16 << 20;

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
        let place = match self.place(mount) {
            Ok(place) => place,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        let (before, _) = match self.look(&place) {
            Ok(look) => look,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        self.wait(waiting)?;
        let found = self.look(&place).map(|(after, incomplete)| {
            let found = self.compare(Path::new(mount), pods, &before, &after);
            (after, incomplete, found)
        });
        let (after, incomplete, found) = match found {
            Ok(found) => found,
            Err(why) => {
                said.found = Err(why);
                return Some(said);
            }
        };
        (said.boot_ns, said.found, said.incomplete) = (after.boot_ns, Ok(found.clone()), incomplete);
        if found.leaves_open() && after.used_inodes <= census::MAX_ENTRIES {
            self.look_wider(&place, &before, pods, waiting, &mut said)?;
        }
        Some(said)
    }

    /// A third look, with a census around the time since the second. What it cannot find out, it leaves as it was.
    fn look_wider(
        &self,
        place: &Place,
        before: &Look,
        pods: &mut Pods,
        waiting: &mut VecDeque<String>,
        said: &mut Answer,
    ) -> Option<()> {
        let Some(then) = census::take(&place.path) else { return Some(()) };
        let Ok(began) = place.figures() else { return Some(()) };
        self.wait(waiting)?;
        let now = census::take(&place.path);
        let (Some(now), Ok((after, incomplete))) = (now, self.look(place)) else { return Some(()) };
        // Over the longer time, what is allocated or written back in jumps evens out.
        let mut found = self.compare(Path::new(&said.mount), pods, before, &after);
        let seconds = after.boot_ns.saturating_sub(began.boot_ns) as f64 / 1e9;
        let grew = after.used_bytes.saturating_sub(began.used_bytes);
        let rate = if seconds > 0.0 { grew as f64 / seconds } else { 0.0 };
        let root = Path::new(&said.mount);
        let grown = Blame::is_growth(rate).then(|| now.grown(&then, &place.path, root, grew)).flatten();
        let inodes = after.used_inodes.saturating_sub(began.used_inodes);
        let multiplied = found.inodes_grow().then(|| now.multiplied(&then, root, inodes)).flatten();
        found.with_census(rate, grown, multiplied);
        (said.boot_ns, said.found, said.incomplete) = (after.boot_ns, Ok(found), incomplete);
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

    fn compare(&self, mount: &Path, pods: &mut Pods, before: &Look, after: &Look) -> Blame {
        pods.refresh(after.boot_ns);
        let pids: BTreeSet<u32> = after.files.iter().map(|f| f.pid).collect();
        let holders: HashMap<u32, Holder> =
            pids.into_iter().filter_map(|pid| Some((pid, holder(&self.roots.proc, pid)?))).collect();
        let names = Names {
            holders: &holders,
            pods: &|cgroup| pods.of_cgroup(cgroup),
            paths: &|file| node_path(&self.roots, Some(mount), file, holders.get(&file.pid)),
        };
        blame(before, after, &names)
    }

    /// Where the mount is, seen from here; refused for one that may not answer.
    fn place(&self, mount: &str) -> Result<Place, String> {
        use std::io::Read as _;
        let mut table = Vec::new();
        std::fs::File::open(&self.roots.mountinfo)
            .and_then(|f| f.take(MAX_TABLE_BYTES).read_to_end(&mut table))
            .map_err(|e| format!("{} cannot be read: {e}", self.roots.mountinfo.display()))?;
        let parsed = mountinfo::parse(&table);
        // The last one mounted there is the one that is seen.
        let entry = parsed.entries.iter().rev().find(|e| *e.path == *mount.as_bytes());
        let entry = entry.ok_or_else(|| format!("nothing is mounted at {mount} any more"))?;
        if entry.is_remote() {
            return Err(format!("{mount} is served from elsewhere ({})", String::from_utf8_lossy(&entry.fs)));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(mount.as_bytes()));
        let on_node = |path: &Path| self.roots.rootfs.join(path.strip_prefix("/").unwrap_or(path));
        let source = on_node(Path::new(std::ffi::OsStr::from_bytes(&entry.source)));
        let space = (*entry.fs == *b"btrfs").then(|| self.space_of_btrfs(&source)).flatten();
        Ok(Place { path: on_node(path), space, shares_extents: SHARING.contains(&&*entry.fs) })
    }

    /// Where the kernel tells what space a btrfs on the device `source` has given away.
    fn space_of_btrfs(&self, source: &Path) -> Option<PathBuf> {
        let device = source.canonicalize().ok()?;
        let device = device.file_name()?;
        let all = std::fs::read_dir(self.roots.sys.join("fs/btrfs")).ok()?;
        let its = all.flatten().map(|fs| fs.path()).find(|fs| fs.join("devices").join(device).exists());
        Some(its?.join("allocation/data"))
    }

    fn look(&self, place: &Place) -> Result<(Look, Option<String>), String> {
        let device = rustix::fs::stat(&place.path).map_err(|e| place.cannot(e))?.st_dev;
        let mut look = place.figures()?;
        let found = scan(&self.roots, device);
        look.files = found.files;
        Ok((look, found.incomplete))
    }
}

/// A mount that is looked at.
struct Place {
    /// Where it is seen from here.
    path: PathBuf,
    /// Of a btrfs: where the kernel says what it has promised to files and not yet given them.
    space: Option<PathBuf>,
    shares_extents: bool,
}

impl Place {
    fn cannot(&self, error: rustix::io::Errno) -> String {
        format!("{} cannot be looked at: {error}", self.path.display())
    }

    /// A look at the figures alone.
    fn figures(&self) -> Result<Look, String> {
        let at = clock::now();
        let fs = rustix::fs::statvfs(&self.path).map_err(|e| self.cannot(e))?;
        let used = fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize);
        // A btrfs counts what is written as used only once it is written back; its files are told with it at once.
        let promised = self.space.iter().flat_map(|at| PROMISED.iter().map(|name| at.join(name)));
        let promised = promised
            .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
            .fold(0, u64::saturating_add);
        Ok(Look {
            boot_ns: at.boot_ns,
            wall_ns: at.wall_ns,
            used_bytes: used.saturating_add(promised),
            used_inodes: fs.f_files.saturating_sub(fs.f_ffree),
            shares_extents: self.shares_extents,
            files: Vec::new(),
        })
    }
}

/// This thread gets what others leave. A kernel that refuses that lets it run as any other.
fn be_idle() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure lives through the call; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
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
