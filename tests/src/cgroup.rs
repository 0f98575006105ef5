//! Control groups that a test makes, and takes away again with everybody in them.
//!
//! Version 1 hierarchies, one group in each of the controllers asked for, under one name. Needs root and the
//! controllers live on version 1, and says so when they are not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Where version 1 hierarchies are mounted.
const HIERARCHIES: &str = "/sys/fs/cgroup";
/// How long the members have to be gone after SIGKILL.
const EMPTY_WAIT: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A group in some controllers.
#[derive(Debug)]
pub struct Group {
    name: String,
    controllers: Vec<String>,
}

impl Group {
    /// A group of a name that nobody has, beneath the hierarchies' roots.
    ///
    /// # Panics
    /// When a controller is not there on version 1, or the group cannot be made.
    pub fn new(controllers: &[&str]) -> Self {
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("dogwatch-test-{}-{unique}", std::process::id()), controllers)
    }

    /// A group at `name`, which may lie beneath another.
    ///
    /// # Panics
    /// As [`Group::new`].
    pub fn named(name: &str, controllers: &[&str]) -> Self {
        let group = Self {
            name: name.to_owned(),
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
        };
        for controller in controllers {
            let root = Path::new(HIERARCHIES).join(controller);
            assert!(
                root.join("cgroup.procs").exists(),
                "{} is no control group hierarchy of version 1: this test needs one",
                root.display()
            );
            std::fs::create_dir_all(group.folder(controller)).expect("root can make a control group");
        }
        group
    }

    /// A group beneath this one, in the same controllers.
    pub fn child(&self, name: &str) -> Self {
        let controllers: Vec<&str> = self.controllers.iter().map(String::as_str).collect();
        Self::named(&format!("{}/{name}", self.name), &controllers)
    }

    /// Its path below a hierarchy's root, as `/proc/PID/cgroup` shows it.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Its folder in a controller.
    pub fn folder(&self, controller: &str) -> PathBuf {
        Path::new(HIERARCHIES).join(controller).join(&self.name)
    }

    /// Writes `value` to `file` of a controller.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn set(&self, controller: &str, file: &str, value: impl ToString) {
        let path = self.folder(controller).join(file);
        let value = value.to_string();
        std::fs::write(&path, &value)
            .unwrap_or_else(|e| unreachable!("{value} into {}: {e}", path.display()));
    }

    /// What `file` of a controller says.
    pub fn get(&self, controller: &str, file: &str) -> String {
        std::fs::read_to_string(self.folder(controller).join(file)).unwrap_or_default()
    }

    /// Where a process writes its id to become a member, in each controller.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.controllers.iter().map(|c| self.folder(c).join("cgroup.procs")).collect()
    }

    /// Its members' ids.
    pub fn members(&self) -> Vec<i32> {
        let mut all: Vec<i32> = Vec::new();
        for file in self.procs_files() {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            all.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    fn empty(&self) {
        let began = Instant::now();
        loop {
            let members = self.members();
            if members.is_empty() || began.elapsed() > EMPTY_WAIT {
                return;
            }
            for pid in members.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.empty();
        for controller in &self.controllers {
            let folder = self.folder(controller);
            let began = Instant::now();
            // The last member stays in the group for a moment after it is gone.
            while std::fs::remove_dir(&folder).is_err() && folder.exists() {
                if began.elapsed() > EMPTY_WAIT {
                    eprintln!("{} could not be removed", folder.display());
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
