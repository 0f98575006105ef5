//! Looks again whether the kubelet's settings are what they were: a look at its files each minute, and once an hour at
//! everything, its command line among it.
//!
//! Invariant: nothing is told but what changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dogwatch::supervise::Stop;

use super::Kubelet;

/// Between two looks at the files: whoever raises a threshold waits no longer to hear that it comes first.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Looks after which everything is read again: a kubelet that was started anew with other flags changes no file.
const LOOKS_TO_A_READING: u32 = 60;

/// What shows that a file or folder changed: inode, size, and times of change in nanoseconds; `None` where it is not there.
type Print = Option<(u64, u64, [i64; 4])>;

/// The kubelet as it was read last.
#[derive(Debug)]
pub struct Follow {
    rootfs: PathBuf,
    proc: PathBuf,
    known: Option<Kubelet>,
    prints: Vec<Print>,
    looks: u32,
}

impl Follow {
    /// Reads it for the first time, with the host's root at `rootfs` and its processes at `proc`.
    pub fn begin(rootfs: &Path, proc: &Path) -> Self {
        let known = Kubelet::read(rootfs, proc);
        let prints = prints(known.as_ref());
        Self { rootfs: rootfs.to_owned(), proc: proc.to_owned(), known, prints, looks: 0 }
    }

    /// What was read last.
    pub fn known(&self) -> Option<Kubelet> {
        self.known.clone()
    }

    /// Looks again; what is known from now on, if that is something else.
    fn look(&mut self) -> Option<Option<Kubelet>> {
        self.looks = (self.looks + 1) % LOOKS_TO_A_READING;
        if self.looks != 0 && prints(self.known.as_ref()) == self.prints {
            return None;
        }
        let now = Kubelet::read(&self.rootfs, &self.proc);
        self.prints = prints(now.as_ref());
        if now == self.known {
            return None;
        }
        self.known.clone_from(&now);
        Some(now)
    }

    /// Goes on looking until `stop` is set, and gives `tell` what changed.
    ///
    /// # Errors
    /// If the thread that looks panics.
    pub async fn run(
        self,
        tell: impl Fn(Option<Kubelet>) + Send + Sync + Clone + 'static,
        stop: Stop,
    ) -> Result<(), String> {
        let mut follow = self;
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let tell = tell.clone();
            // A disk that does not answer keeps this waiting, and nothing else.
            let looked = tokio::task::spawn_blocking(move || {
                if let Some(changed) = follow.look() {
                    tell(changed);
                }
                follow
            });
            follow = tokio::select! {
                () = stop.wait() => return Ok(()),
                looked = looked => looked.map_err(|e| e.to_string())?,
            };
        }
    }
}

fn prints(kubelet: Option<&Kubelet>) -> Vec<Print> {
    let print = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]))
    };
    kubelet.map_or_else(Vec::new, |k| k.read.iter().map(print).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let host = tempfile::tempdir().unwrap();
        let (config, proc) = (host.path().join("var/lib/kubelet/config.yaml"), host.path().join("proc"));
        std::fs::create_dir_all(config.parent().unwrap()).unwrap();
        std::fs::create_dir_all(proc.join("18")).unwrap();
        std::fs::write(&config, "evictionHard: { nodefs.available: 10% }\n").unwrap();
        std::fs::write(proc.join("18/cmdline"), "kubelet\0--config=/var/lib/kubelet/config.yaml\0").unwrap();
        (host, config, proc)
    }

    #[test]
    fn a_changed_file_is_read_at_the_next_look_and_another_command_line_within_an_hour() {
        let (host, config, proc) = host();
        let mut follow = Follow::begin(host.path(), &proc);
        assert!(follow.known().is_some());
        assert_eq!(follow.look(), None);
        std::fs::write(&config, "evictionHard: { nodefs.available: 20.5% }\n").unwrap();
        let told = follow.look().flatten().expect("it is told");
        assert_eq!(Some(&told), Kubelet::read(host.path(), &proc).as_ref());
        assert_eq!(follow.look(), None, "and only once");
        std::fs::write(proc.join("18/cmdline"), "kubelet\0--eviction-hard=nodefs.available<30%\0").unwrap();
        let looks = (1..=LOOKS_TO_A_READING).find(|_| follow.look().is_some());
        assert!(looks.is_some(), "within an hour");
    }

    #[test]
    fn a_kubelet_that_comes_or_goes_is_told() {
        let (host, config, proc) = host();
        std::fs::remove_file(proc.join("18/cmdline")).unwrap();
        std::fs::remove_file(&config).unwrap();
        let mut follow = Follow::begin(host.path(), &proc);
        assert_eq!(follow.known(), None);
        std::fs::write(&config, "kind: KubeletConfiguration\n").unwrap();
        let came = (0..LOOKS_TO_A_READING).find_map(|_| follow.look());
        assert!(came.is_some_and(|k| k.is_some()));
        std::fs::remove_file(&config).unwrap();
        assert_eq!(follow.look(), Some(None));
    }

    #[tokio::test]
    async fn it_ends_when_it_is_told_to() {
        let (host, _, proc) = host();
        let stop = Stop::default();
        stop.set();
        Follow::begin(host.path(), &proc).run(|_| (), stop).await.unwrap();
    }
}
