//! What is known of the node from one sample to the next: whose control groups are, which devices there are, who grows.
//!
//! Samples bring groups and scans of processes only on some ticks, and a kernel line names a path or a device and
//! nothing else. Limits: [`MAX_GROUPS`], [`MAX_PROCESSES`]; who was not seen for [`KEPT_NS`] is forgotten, so that a
//! container that was just killed still has its pod.

use std::collections::{BTreeMap, VecDeque};

use dogwatch::record::{Cgroup, Fact, Pod, Sample, Spawner, StuckTask, Subject};

use super::words;

const MAX_GROUPS: usize = 4_096;
const MAX_PROCESSES: usize = 256;
/// How long a group or process is remembered after it was last seen, ns of CLOCK_BOOTTIME.
const KEPT_NS: u64 = 300_000_000_000;
/// Growth is reckoned over this long, ns.
const GROWTH_NS: u64 = 180_000_000_000;
/// What a group was, when it was not read for so long, is not what it is, ns.
const STALE_NS: u64 = 60_000_000_000;
/// Part of a growth that is most of it.
const MOST: f64 = 0.7;
/// A group is at its limit from this part of it on…
const FULL: f64 = 0.9;
/// …if its tasks wait for memory this share of the time, per cent; or, without PSI, if the limit is being hit.
const FELT_AVG10: f64 = 10.0;
/// A point of history no oftener than this, ns.
const POINT_NS: u64 = 15_000_000_000;

/// A sample, and what is known besides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) sample: &'a Sample,
    pub(super) known: &'a Known,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Known {
    groups: BTreeMap<String, Group>,
    processes: BTreeMap<(u32, u64), Grown>,
    /// Name, major and minor number.
    pub(super) disks: Vec<(String, u32, u32)>,
    /// Of the last scan.
    pub(super) stuck: Vec<StuckTask>,
    /// Of the last scan.
    pub(super) spawners: Vec<Spawner>,
    /// Mount point, device's name, major and minor number.
    pub(super) mounts: Vec<(String, String, u32, u32)>,
}

#[derive(Debug, Default)]
struct Group {
    pod: Option<Pod>,
    at_limit: bool,
    limit_hits: u64,
    grown: Grown,
}

/// Somebody's memory over the last minutes.
#[derive(Debug, Default, Clone)]
pub(super) struct Grown {
    /// `comm (pid)`, or the group's path.
    pub(super) name: String,
    pub(super) cgroup: String,
    pub(super) pod: Option<Pod>,
    /// Now.
    pub(super) bytes: u64,
    points: VecDeque<(u64, u64)>,
    seen_ns: u64,
}

impl Grown {
    fn take(&mut self, now_ns: u64, bytes: u64) {
        self.bytes = bytes;
        self.seen_ns = now_ns;
        if self.points.back().is_none_or(|(at, _)| now_ns.saturating_sub(*at) >= POINT_NS) {
            self.points.push_back((now_ns, bytes));
        }
        while self.points.get(1).is_some_and(|(at, _)| now_ns.saturating_sub(*at) >= GROWTH_NS) {
            self.points.pop_front();
        }
    }

    /// By how much it grew over the last three minutes, or since it was first seen.
    pub(super) fn by(&self) -> u64 {
        self.bytes.saturating_sub(self.points.front().map_or(self.bytes, |(_, first)| *first))
    }

    /// Over how many seconds that was.
    pub(super) fn seconds(&self) -> f64 {
        self.seen_ns.saturating_sub(self.points.front().map_or(self.seen_ns, |(at, _)| *at)) as f64 / 1e9
    }

    /// `java (pid 7) grew by 2.0 GiB in 3 min to 9.1 GiB`.
    pub(super) fn words(&self) -> String {
        format!(
            "{} grew by {} in {} to {}",
            self.name,
            words::bytes(self.by() as f64),
            words::duration(self.seconds()),
            words::bytes(self.bytes as f64)
        )
    }
}

impl Known {
    /// Takes in a sample.
    pub(super) fn take(&mut self, now_ns: u64, sample: &Sample) {
        if !sample.disks.is_empty() {
            self.disks.clear();
            self.disks.extend(sample.disks.iter().map(|d| (d.name.clone(), d.major, d.minor)));
        }
        if !sample.mounts.is_empty() {
            let known =
                |m: &dogwatch::record::Mount| (m.path.clone(), m.device.clone(), m.dev_major, m.dev_minor);
            self.mounts.clear();
            self.mounts.extend(sample.mounts.iter().map(known));
        }
        if let Some(tasks) = &sample.tasks {
            self.stuck.clone_from(&tasks.stuck);
            self.spawners.clone_from(&tasks.spawners);
        }
        for cgroup in &sample.cgroups {
            self.take_group(now_ns, cgroup);
        }
        for p in &sample.processes {
            let key = (p.pid, p.start_ticks);
            if !self.processes.contains_key(&key) && self.processes.len() >= MAX_PROCESSES {
                continue;
            }
            let grown = self.processes.entry(key).or_insert_with(|| Grown {
                name: format!("{} (pid {})", p.name, p.pid),
                cgroup: p.cgroup.clone(),
                pod: p.pod.clone(),
                ..Grown::default()
            });
            grown.take(now_ns, p.resident_bytes);
        }
        let kept = |seen: u64| now_ns.saturating_sub(seen) < KEPT_NS;
        self.groups.retain(|_, g| {
            g.at_limit &= now_ns.saturating_sub(g.grown.seen_ns) < STALE_NS;
            kept(g.grown.seen_ns)
        });
        // A process that is not among the top any more may be gone: what it grew by is no news.
        self.processes.retain(|_, p| now_ns.saturating_sub(p.seen_ns) < POINT_NS * 2);
    }

    fn take_group(&mut self, now_ns: u64, cgroup: &Cgroup) {
        if !self.groups.contains_key(&cgroup.path) {
            if self.groups.len() >= MAX_GROUPS {
                return;
            }
            self.groups.insert(cgroup.path.clone(), Group::default());
        }
        let Some(group) = self.groups.get_mut(&cgroup.path) else { return };
        if group.grown.name.is_empty() {
            group.grown.name.clone_from(&cgroup.path);
            group.grown.cgroup.clone_from(&cgroup.path);
        }
        if cgroup.pod.is_some() && group.pod != cgroup.pod {
            group.pod.clone_from(&cgroup.pod);
            group.grown.pod.clone_from(&cgroup.pod);
        }
        group.grown.take(now_ns, cgroup.working_set_bytes.unwrap_or(0));
        let hits = cgroup.memory_limit_hits_total.unwrap_or(0);
        // Not the first time: how often it was hit before is no news.
        let was_hit = group.limit_hits > 0 && hits > group.limit_hits;
        group.limit_hits = hits;
        let felt = cgroup.memory_pressure.map_or(was_hit, |p| p.some_avg10 >= FELT_AVG10);
        let full = |limit: u64| {
            limit > 0 && cgroup.working_set_bytes.is_some_and(|used| used as f64 >= FULL * limit as f64)
        };
        group.at_limit = felt && cgroup.memory_limit_bytes.is_some_and(full);
    }

    /// Whose the group at `path` is: its own pod, that of the nearest group above, or what the path itself says.
    pub(super) fn pod(&self, path: &str) -> Option<Pod> {
        let mut at = path;
        loop {
            if let Some(pod) = self.groups.get(at).and_then(|g| g.pod.as_ref()) {
                return Some(pod.clone());
            }
            match at.rsplit_once('/') {
                Some((above, _)) if !above.is_empty() => at = above,
                _ => return pod_of_path(path),
            }
        }
    }

    /// The group whose working set grew most, and only where one grew. What a group grew by, those above it grew by too:
    /// the innermost that has most of the largest growth is named.
    pub(super) fn growing_group(&self) -> Option<&Grown> {
        let most = self.groups.values().map(|g| g.grown.by()).max().filter(|most| *most > 0)? as f64;
        let large = self.groups.values().map(|g| &g.grown).filter(|g| g.by() as f64 >= MOST * most);
        large.max_by_key(|g| (g.name.split('/').count(), g.by()))
    }

    /// The process that grew most, below the group `path` where one is given.
    pub(super) fn growing_process(&self, below: Option<&str>) -> Option<&Grown> {
        self.processes
            .values()
            .filter(|p| p.by() > 0 && below.is_none_or(|path| is_within(&p.cgroup, path)))
            .max_by_key(|p| p.by())
    }

    /// A group that is at its limit and feels it.
    pub(super) fn group_at_limit(&self) -> Option<&str> {
        self.groups.iter().find(|(_, g)| g.at_limit).map(|(path, _)| path.as_str())
    }

    /// The mount points of the device that the kernel calls `device` (`sda1`, `dm-0`).
    pub(super) fn mounts_of(&self, device: &str) -> Vec<&str> {
        let number = self.disks.iter().find(|(name, _, _)| name == device).map(|(_, a, b)| (*a, *b));
        let of = |(_, source, major, minor): &&(String, String, u32, u32)| {
            source.strip_prefix("/dev/") == Some(device) || number == Some((*major, *minor))
        };
        self.mounts.iter().filter(of).map(|(path, _, _, _)| path.as_str()).collect()
    }

    /// The mount points of the disk `disk` and of its partitions.
    pub(super) fn mounts_on(&self, disk: &str) -> Vec<&str> {
        let mut paths = self.mounts_of(disk);
        for (path, source, _, _) in &self.mounts {
            let on = source.strip_prefix("/dev/").is_some_and(|device| self.disk_of(device) == disk);
            if on && !paths.contains(&path.as_str()) {
                paths.push(path);
            }
        }
        paths
    }

    /// The disk that `device` is, or is a partition of, by the names of the disks that are known: `sda1` → `sda`.
    pub(super) fn disk_of(&self, device: &str) -> String {
        let is_known = |name: &str| self.disks.iter().any(|(n, _, _)| n == name);
        if is_known(device) {
            return device.to_owned();
        }
        let stem = device.trim_end_matches(|c: char| c.is_ascii_digit());
        let whole =
            stem.strip_suffix('p').filter(|s| s.ends_with(|c: char| c.is_ascii_digit())).unwrap_or(stem);
        if whole.len() < device.len() && is_known(whole) { whole.to_owned() } else { device.to_owned() }
    }
}

/// Whether the group `path` is `above` or lies in it.
pub(super) fn is_within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || above == "/")
}

/// What a finding about the group at `path` is about: its pod where one is known.
pub(super) fn group_subject(path: &str, pod: Option<&Pod>) -> Subject {
    match pod.map(pod_name).filter(|name| !name.is_empty()) {
        Some(name) => Subject::new("pod", name),
        None => Subject::new("cgroup", path),
    }
}

/// `namespace/name/container`; the uid where the names are not known, the container's id where its name is not.
pub(super) fn pod_name(pod: &Pod) -> String {
    let mut name =
        if pod.name.is_empty() { pod.uid.clone() } else { format!("{}/{}", pod.namespace, pod.name) };
    if !pod.container.is_empty() {
        name.push('/');
        name.push_str(&pod.container);
    } else if !pod.container_id.is_empty() {
        name.push('/');
        // As runtimes' tools show ids.
        name.extend(pod.container_id.chars().take(12));
    }
    name
}

/// Facts that say where something runs.
pub(super) fn place_facts(cgroup: &str, pod: Option<&Pod>) -> Vec<Fact> {
    let mut facts = Vec::new();
    if !cgroup.is_empty() {
        facts.push(Fact::new("cgroup", cgroup));
    }
    if let Some(pod) = pod {
        facts.push(Fact::new("pod_name", pod_name(pod)));
    }
    facts
}

/// Uid and container id out of a path as the kubelet makes them, `…/pod<uid>/<id>` or
/// `…/kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope`.
fn pod_of_path(path: &str) -> Option<Pod> {
    if !path.contains("kubepods") {
        return None;
    }
    let mut parts = path.split('/');
    let uid = parts.by_ref().find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let (_, uid) =
            part.rsplit_once("pod").filter(|(before, _)| before.is_empty() || before.ends_with('-'))?;
        let uid = uid.replace('_', "-");
        (uid.len() == 36 || uid.len() == 32)
            .then_some(uid)
            .filter(|u| u.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
    })?;
    let container_id = parts
        .next()
        .map(|part| part.strip_suffix(".scope").unwrap_or(part))
        .map(|part| part.rsplit_once('-').map_or(part, |(_, id)| id))
        .filter(|id| id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()))
        .unwrap_or_default();
    Some(Pod { uid, container_id: container_id.to_owned(), ..Pod::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_pods_with_either_driver() {
        let id = "0123456789abcdef".repeat(4);
        let uid = "11111111-2222-3333-4444-555555555555";
        let systemd = format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{id}.scope",
            uid.replace('-', "_")
        );
        for path in [systemd, format!("/kubepods/besteffort/pod{uid}/{id}")] {
            let pod = pod_of_path(&path).unwrap();
            assert_eq!((pod.uid.as_str(), pod.container_id.as_str()), (uid, id.as_str()), "{path}");
            assert_eq!(pod_name(&pod), format!("{uid}/0123456789ab"));
        }
        assert_eq!(pod_of_path(&format!("/kubepods/pod{uid}")).unwrap().container_id, "");
        for stranger in ["/", "/system.slice/podman.service", "/kubepods.slice", "/kubepods/podx/y"] {
            assert_eq!(pod_of_path(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn partitions_are_their_disks() {
        let disks = ["sda", "nvme0n1", "dm-0", "md0"].map(|n| (n.to_owned(), 8, 0)).to_vec();
        let known = Known { disks, ..Known::default() };
        for (device, disk) in [
            ("sda1", "sda"),
            ("nvme0n1p2", "nvme0n1"),
            ("dm-0", "dm-0"),
            ("md0p1", "md0"),
            ("sdb1", "sdb1"),
            ("", ""),
        ] {
            assert_eq!(known.disk_of(device), disk);
        }
    }

    #[test]
    fn within_is_by_whole_names() {
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a") && !is_within("/", "/a"));
    }
}
