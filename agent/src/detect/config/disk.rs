//! Filesystems.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use dogwatch::record::Mount;

/// Thresholds of one measure, as used fractions of 1. Used is 1 − available ÷ capacity, as the kubelet reckons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaterMarks {
    /// A finding of medium severity is raised at or above this.
    pub high_used: f64,
    /// It is cleared once used has stayed at or below this.
    pub low_used: f64,
    /// It becomes high at or above this.
    pub serious_used: f64,
    /// It becomes critical at or above this.
    pub critical_used: f64,
}

impl Default for WaterMarks {
    /// 85 % is the kubelet's `imagefs.available<15%`, 90 % its `nodefs.available<10%`; 95 % is where filesystems begin
    /// to refuse what root does not write. 80 % is the kubelet's own low mark for images.
    fn default() -> Self {
        Self { high_used: 0.85, low_used: 0.80, serious_used: 0.90, critical_used: 0.95 }
    }
}

/// Marks of a mount, or of a class of mounts: all that is given must fit.
#[derive(Debug, Clone, PartialEq)]
pub struct MountClass {
    /// Mount points; one that ends in `/**` stands for all beneath. Empty: any.
    pub paths: Vec<String>,
    /// Types as mountinfo tells them, e.g. `xfs`. Empty: any.
    pub fstypes: Vec<String>,
    /// Capacity at least, in bytes.
    pub at_least_bytes: u64,
    /// Of bytes.
    pub space: WaterMarks,
    /// Of inodes.
    pub inodes: WaterMarks,
}

impl MountClass {
    fn holds(&self, mount: &Mount) -> bool {
        let named = |pattern: &String| match pattern.strip_suffix("/**") {
            Some(above) => {
                let above = if above.is_empty() { "/" } else { above };
                mount.path != above && Path::new(&mount.path).starts_with(above)
            }
            None => mount.path == *pattern,
        };
        (self.paths.is_empty() || self.paths.iter().any(named))
            && (self.fstypes.is_empty() || self.fstypes.contains(&mount.fs))
            && mount.total_bytes >= self.at_least_bytes
    }
}

/// High-water marks of filesystems.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskConfig {
    /// Of bytes, where no class says otherwise.
    pub space: WaterMarks,
    /// Of inodes, where no class says otherwise.
    pub inodes: WaterMarks,
    /// Mounts with marks of their own; the first that holds a mount decides.
    pub classes: Vec<MountClass>,
    /// Consecutive samples at or above the high mark before a finding is raised.
    pub raise_ticks: u32,
    /// Consecutive samples at or below the low mark before it is cleared.
    pub clear_ticks: u32,
    /// An active finding whose figure moved by a percentage point is said again after this.
    pub update_interval: Duration,
    /// Mount points that are not watched, neither here nor by the forecast.
    pub ignore: BTreeSet<String>,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            space: WaterMarks::default(),
            inodes: WaterMarks::default(),
            classes: Vec::new(),
            raise_ticks: 1,
            clear_ticks: 5,
            update_interval: Duration::from_secs(60),
            ignore: BTreeSet::new(),
        }
    }
}

impl DiskConfig {
    /// The marks of `mount`: of bytes, and of inodes.
    pub fn marks(&self, mount: &Mount) -> (WaterMarks, WaterMarks) {
        let class = self.classes.iter().find(|class| class.holds(mount));
        class.map_or((self.space, self.inodes), |class| (class.space, class.inodes))
    }
}

/// When a filesystem that fills is a finding before it is full.
#[derive(Debug, Clone, PartialEq)]
pub struct ForecastConfig {
    /// Raised when it would be full sooner than this, [`LONGEST_BOUND`](crate::detect::LONGEST_BOUND) at most.
    pub bound: Duration,
    /// Critical when it would be full sooner than this.
    pub critical: Duration,
    /// History without which nothing is said.
    pub min_history: Duration,
    /// Consecutive samples that must agree before a finding is raised.
    pub raise_ticks: u32,
    /// Consecutive samples without a forecast below twice the bound before it is cleared.
    pub clear_ticks: u32,
    /// What was lost must be this fraction of the capacity, or half of what was there.
    pub min_loss_of_capacity: f64,
    /// Losses below this are noise.
    pub noise_floor_bytes: u64,
    /// An active finding is said again, with its new figures, after this.
    pub update_interval: Duration,
}

impl Default for ForecastConfig {
    /// 1 %: what is believed has taken a seventh of what was available at least, and that is less only where the
    /// high-water mark has long spoken.
    fn default() -> Self {
        Self {
            bound: Duration::from_secs(30 * 60),
            critical: Duration::from_secs(5 * 60),
            min_history: Duration::from_secs(30),
            raise_ticks: 3,
            clear_ticks: 60,
            min_loss_of_capacity: 0.01,
            noise_floor_bytes: 1 << 20,
            update_interval: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_holds_a_mount_decides() {
        let mount = |path: &str, fs: &str, total_bytes: u64| Mount {
            path: path.to_owned(),
            fs: fs.to_owned(),
            total_bytes,
            ..Mount::default()
        };
        let class = |paths: &[&str], fstypes: &[&str], at_least_bytes: u64, high_used: f64| MountClass {
            paths: paths.iter().map(|p| (*p).to_owned()).collect(),
            fstypes: fstypes.iter().map(|t| (*t).to_owned()).collect(),
            at_least_bytes,
            space: WaterMarks { high_used, ..WaterMarks::default() },
            inodes: WaterMarks::default(),
        };
        let classes = vec![
            class(&["/data"], &[], 0, 0.1),
            class(&["/srv/**"], &["xfs"], 0, 0.2),
            class(&[], &[], 1 << 40, 0.3),
            class(&["/**"], &["btrfs"], 0, 0.4),
        ];
        let config = DiskConfig { classes, ..DiskConfig::default() };
        for (path, fs, total, high) in [
            ("/data", "ext4", 1, 0.1),
            ("/data/x", "ext4", 1, 0.85),
            ("/srv/a/b", "xfs", 1, 0.2),
            ("/srv", "xfs", 1, 0.85),
            ("/srv-b", "xfs", 1, 0.85),
            ("/srv/a", "ext4", 1 << 40, 0.3),
            ("/x", "btrfs", 1, 0.4),
            ("/", "btrfs", 1, 0.85),
        ] {
            assert_eq!(config.marks(&mount(path, fs, total)).0.high_used, high, "{path} {fs} {total}");
        }
    }
}
