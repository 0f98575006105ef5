//! Control groups as a kubelet makes them, for as long as they are measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Hierarchies of v1 in which each group is made, and v2's, which has the pressure.
const HIERARCHIES: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "blkio", "unified"];
const ROOT: &str = "/sys/fs/cgroup";
/// A group whose last process has just ended is busy for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pods with containers; they are removed in the end.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Below each hierarchy, parents before children.
    pub(crate) paths: Vec<String>,
}

impl Groups {
    /// `pods` with two containers each, so that there are three times as many groups and two to hold them.
    pub(crate) fn make(pods: usize) -> Result<Self> {
        let mut groups = Self::default();
        groups.add("kubepods".to_owned())?;
        groups.add("kubepods/besteffort".to_owned())?;
        for pod in 0..pods {
            let of_pod =
                format!("kubepods/besteffort/pod{:08x}-0000-4000-8000-{pod:012x}", std::process::id());
            groups.add(of_pod.clone())?;
            for container in 0..2 {
                groups.add(format!("{of_pod}/{:064x}", pod * 2 + container))?;
            }
        }
        Ok(groups)
    }

    fn add(&mut self, path: String) -> Result<()> {
        self.paths.push(path);
        let path = self.paths.last().map(String::as_str).unwrap_or_default();
        for hierarchy in HIERARCHIES {
            let dir = folder(hierarchy, path);
            if !dir.is_dir() {
                fs::create_dir(&dir)
                    .with_context(|| format!("making the control group {}", dir.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        for path in self.paths.iter().rev() {
            for hierarchy in HIERARCHIES {
                let busy = |e: std::io::Error| e.kind() == std::io::ErrorKind::ResourceBusy;
                while fs::remove_dir(folder(hierarchy, path)).is_err_and(busy) && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

fn folder(hierarchy: &str, path: &str) -> PathBuf {
    Path::new(ROOT).join(hierarchy).join(path)
}
