//! What no configuration can bring into reach: the system, people's homes, volumes, databases, the runtime's own
//! directories and dogwatch's state.
//!
//! Invariant: a root is refused when it is, lies beneath, or contains any of these, by name; and when it is the very
//! directory by device and inode (a bind mount under another name). Names are compared as written: whoever opens a
//! root refuses symbolic links on the way, so a name cannot lead elsewhere. What mounts show under other names is
//! [`Renamed`].

mod renamed;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

pub(super) use self::renamed::Renamed;
use super::beneath;
use super::cleaners::Cleaner;

/// Trees that are out of reach, and what they are.
const NEVER: &[(&str, &str)] = &[
    ("/bin", "programs"),
    ("/boot", "the boot loader and kernels"),
    ("/dev", "devices"),
    ("/etc", "configuration"),
    ("/home", "people's files"),
    ("/lib", "libraries"),
    ("/lib32", "libraries"),
    ("/lib64", "libraries"),
    ("/libx32", "libraries"),
    ("/nix", "programs"),
    ("/proc", "the kernel's process files"),
    ("/root", "people's files"),
    ("/run", "sockets and state of running services"),
    ("/sbin", "programs"),
    ("/snap", "programs"),
    ("/sys", "the kernel's device files"),
    ("/usr", "programs"),
    ("/var/run", "sockets and state of running services"),
];

/// Names beneath any `var/lib` (also of a host's root mounted elsewhere) that are out of reach.
const NEVER_VAR_LIB: &[(&str, &str)] = &[
    ("apt", "package database"),
    ("calico", "cluster network state"),
    ("cassandra", "a database"),
    ("ceph", "storage"),
    ("clickhouse", "a database"),
    ("cni", "cluster network state"),
    ("containerd", "the runtime's own directory"),
    ("containers", "the runtime's own directory"),
    ("cockroach", "a database"),
    ("couchdb", "a database"),
    ("cri-dockerd", "the runtime's own directory"),
    ("cri-o", "the runtime's own directory"),
    ("crio", "the runtime's own directory"),
    ("docker", "the runtime's own directory"),
    ("dogwatch", "dogwatch's state"),
    ("dpkg", "package database"),
    ("elasticsearch", "a database"),
    ("etcd", "the cluster's database"),
    ("grafana", "a database"),
    ("influxdb", "a database"),
    ("k0s", "the cluster's own directory"),
    ("kafka", "a database"),
    ("kubelet", "pods' volumes"),
    ("longhorn", "volumes"),
    ("mariadb", "a database"),
    ("minio", "storage"),
    ("mongo", "a database"),
    ("mongodb", "a database"),
    ("mysql", "a database"),
    ("neo4j", "a database"),
    ("nfs", "storage"),
    ("opensearch", "a database"),
    ("pgsql", "a database"),
    ("postgres", "a database"),
    ("postgresql", "a database"),
    ("prometheus", "a database"),
    ("rabbitmq", "a database"),
    ("rancher", "the cluster's own directory"),
    ("redis", "a database"),
    ("rook", "storage"),
    ("rpm", "package database"),
    ("systemd", "the system's state"),
    ("zookeeper", "a database"),
];

/// Exactly these folders beneath a `var/lib/<name>` of the table above are within reach, of the one cleaner that is named.
const EXCEPTED: &[(Cleaner, &[&str])] = &[(Cleaner::CoreDumps, &["systemd", "coredump"])];

/// A pod's UID, as it stands in the kubelet's folders, has at least as many bytes (a static pod's is a hash of 32).
const POD_UID_BYTES: usize = 32;

/// Files that mark the directory they lie in as a database's, wherever it is. `mysql.ibd` and `auto.cnf` are MySQL's where
/// `innodb_data_home_dir` put its `ibdata1` elsewhere.
const DATABASE_MARKERS: &[&str] = &[
    "PG_VERSION",
    "ibdata1",
    "mysql.ibd",
    "auto.cnf",
    "WiredTiger",
    "mongod.lock",
    "aria_log_control",
    "appendonly.aof",
    "dump.rdb",
    "meta.properties",
    "IDENTITY",
];

/// etcd marks its `data-dir` by a folder alone, and by what lies in that.
const ETCD: &str = "member";

/// Why `root` may not be a cleanup root, or `None`. `state_dir` is the agent's own state folder.
pub(super) fn why_out_of_reach(root: &Path, cleaner: Cleaner, state_dir: &Path) -> Option<String> {
    if root == Path::new("/") {
        return Some("it is the whole system".to_owned());
    }
    for (tree, what) in NEVER {
        let tree = Path::new(tree);
        if let Some(how) = overlap(root, tree) {
            return Some(format!("it {how} {} ({what})", tree.display()));
        }
    }
    let var_lib = Path::new("/var/lib");
    if var_lib.starts_with(root) {
        return Some("it contains /var/lib (databases, volumes, the runtime's own directories)".to_owned());
    }
    if let Some((name, what)) = beneath_var_lib(root, cleaner) {
        return Some(match name {
            Some(name) => format!("it lies in a var/lib/{name} ({what})"),
            None => format!("it is a {what}"),
        });
    }
    if let Some(part) = volume_part(root) {
        return Some(format!("it lies in {part} (a pod's volume)"));
    }
    overlap(root, state_dir)
        .map(|how| format!("it {how} dogwatch's own state folder {}", state_dir.display()))
}

/// Why nothing in `folder`, which lies beneath a root, may be touched, or `None`: what a root's own place does not show,
/// such as another system's `var/lib/etcd` beneath it, or a kubelet's folder that was put elsewhere.
pub(super) fn why_folder_is_out(folder: &Path, cleaner: Cleaner) -> Option<String> {
    if let Some((name, what)) = beneath_var_lib(folder, cleaner) {
        return name.map(|name| format!("it lies in a var/lib/{name} ({what})"));
    }
    volume_part(folder).map(|part| format!("it lies in {part} (a pod's volume)"))
}

/// Why the directory that `root` names is one of the above under another name (a bind mount), or `None`.
pub(super) fn why_same_directory(device: u64, inode: u64, state_dir: &Path) -> Option<String> {
    let trees = NEVER.iter().map(|(tree, _)| Path::new(tree));
    [Path::new("/"), Path::new("/var"), Path::new("/var/lib"), state_dir].into_iter().chain(trees).find_map(
        |tree| {
            let there = std::fs::metadata(tree).ok()?;
            (there.dev() == device && there.ino() == inode)
                .then(|| format!("it is {} under another name", tree.display()))
        },
    )
}

/// What marks `folder` as a database's, if its entry `name` does: a file that only databases have, or the folder that etcd
/// keeps its data in.
pub(super) fn marker(folder: &OwnedFd, name: &OsStr, kind: FileType) -> Option<&'static str> {
    let is_file = |marker: &&str| kind != FileType::Directory && *marker == name;
    let etcd = || (name == ETCD && is_etcds(folder)).then_some(ETCD);
    DATABASE_MARKERS.iter().copied().find(is_file).or_else(etcd)
}

/// Whether `folder` is an etcd's: it has snapshots, and its database among them or its write-ahead log beside them
/// (`--wal-dir` puts that elsewhere).
fn is_etcds(folder: &OwnedFd) -> bool {
    let is_folder = |path| kind_at(folder, Path::new(path)).is_some_and(|k| k != FileType::RegularFile);
    let has_database = || kind_at(folder, Path::new("member/snap/db")).is_some();
    is_folder("member/snap") && (is_folder("member/wal") || has_database())
}

/// What is at `path` in `folder`, if anything is. What lies behind a link or a mount is not looked at, and is there.
fn kind_at(folder: &OwnedFd, path: &Path) -> Option<FileType> {
    let (above, name) = (path.parent()?, path.file_name()?);
    match beneath::open_folder(folder, above) {
        Ok(above) => match beneath::facts_at(&above, name) {
            Ok(facts) => Some(facts.kind),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(_) => Some(FileType::Unknown),
        },
        Err(Errno::NOENT) => None,
        // It is a link, or no folder.
        Err(Errno::NOTDIR) => kind_at(folder, above).filter(|kind| *kind == FileType::Symlink),
        Err(_) => Some(FileType::Unknown),
    }
}

/// Why a root at `path` lies in a database's folder: a marker in a folder above it, which a walk from there would not see.
pub(super) fn why_in_database(path: &Path) -> Option<String> {
    path.ancestors().skip(1).find_map(|folder| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(folder, flags, Mode::empty()).ok()?;
        let marker = database_marker_in(&opened)?;
        Some(format!("{marker} marks {} above it as a database's", folder.display()))
    })
}

/// The first of a database's markers that lies in `folder`.
pub(super) fn database_marker_in(folder: &OwnedFd) -> Option<&'static str> {
    let there = |name: &&str| {
        let kind = beneath::facts_at(folder, name.as_bytes()).ok()?.kind;
        marker(folder, OsStr::new(name), kind)
    };
    DATABASE_MARKERS.iter().copied().chain([ETCD]).find_map(|name| there(&name))
}

fn overlap(root: &Path, tree: &Path) -> Option<&'static str> {
    if root == tree {
        Some("is")
    } else if root.starts_with(tree) {
        Some("lies in")
    } else if tree.starts_with(root) {
        Some("contains")
    } else {
        None
    }
}

/// The part of `path` that only the folder of a pod's volumes has, wherever the kubelet's own folder is.
fn volume_part(path: &Path) -> Option<String> {
    const PARTS: [&str; 4] = ["volumes", "volume-subpaths", "volumeDevices", "plugins"];
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    let plugin = parts.iter().find(|p| p.starts_with("kubernetes.io~"));
    let below_pod = || {
        parts.windows(3).find_map(|w| {
            let of_pod = w[0] == "pods" && w[1].len() >= POD_UID_BYTES && PARTS.contains(&&*w[2]);
            of_pod.then(|| format!("pods/{}/{}", w[1], w[2]))
        })
    };
    plugin.map(ToString::to_string).or_else(below_pod)
}

/// The forbidden `var/lib/<name>` that `root` lies in, wherever that `var/lib` is; `None` as name for `var/lib` itself.
fn beneath_var_lib(root: &Path, cleaner: Cleaner) -> Option<(Option<&'static str>, &'static str)> {
    let names: Vec<&[u8]> = root
        .components()
        .filter_map(|c| match c {
            Component::Normal(n) => Some(n.as_encoded_bytes()),
            _ => None,
        })
        .collect();
    let places = names.windows(2).enumerate().filter(|(_, w)| *w == [&b"var"[..], &b"lib"[..]]);
    places.map(|(at, _)| &names[at + 2..]).find_map(|within| judge_var_lib(within, cleaner))
}

/// The same for what follows one `var/lib`.
fn judge_var_lib(within: &[&[u8]], cleaner: Cleaner) -> Option<(Option<&'static str>, &'static str)> {
    let excepted = EXCEPTED.iter().any(|(kind, place)| {
        *kind == cleaner
            && within.len() >= place.len()
            && place.iter().zip(within).all(|(p, n)| p.as_bytes() == *n)
    });
    if excepted {
        return None;
    }
    match within.first() {
        None => Some((None, "var/lib (databases, volumes, the runtime's own directories)")),
        Some(name) => {
            NEVER_VAR_LIB.iter().find(|(n, _)| n.as_bytes() == *name).map(|(n, what)| (Some(*n), *what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_cannot_be_reached() {
        let state = Path::new("/var/spool/dogwatch");
        for root in [
            "/",
            "/etc",
            "/etc/app",
            "/usr",
            "/usr/local/logs",
            "/var",
            "/var/lib",
            "/var/lib/kubelet",
            "/var/lib/kubelet/pods",
            "/var/lib/etcd/member",
            "/host/var/lib/docker",
            "/host/var/lib",
            "/proc",
            "/sys",
            "/dev",
            "/boot",
            "/run/log",
            "/root/x",
            "/home/me",
            "/lib64",
            "/var/spool",
            "/var/spool/dogwatch",
            "/var/spool/dogwatch/urgent",
        ] {
            assert!(
                why_out_of_reach(Path::new(root), Cleaner::RotatedLogs, state).is_some(),
                "{root} must be out of reach"
            );
        }
        for root in ["/var/lib/lxc/c1/rootfs/var/lib/mysql", "/srv/var/lib/x/var/lib/etcd/member"] {
            assert!(why_out_of_reach(Path::new(root), Cleaner::Custom, state).is_some(), "{root}");
        }
        for root in ["/var/log", "/var/log/pods", "/srv/logs", "/opt/app/logs", "/tmp/x", "/var/lib/app/logs"]
        {
            assert_eq!(why_out_of_reach(Path::new(root), Cleaner::RotatedLogs, state), None, "{root}");
        }
    }

    #[test]
    fn a_directory_under_another_name_is_recognised() {
        let etc = std::fs::metadata("/etc").unwrap();
        assert!(why_same_directory(etc.dev(), etc.ino(), Path::new("/nowhere")).unwrap().contains("/etc"));
        let temp = tempfile::tempdir().unwrap();
        let here = std::fs::metadata(temp.path()).unwrap();
        assert_eq!(why_same_directory(here.dev(), here.ino(), Path::new("/nowhere")), None);
    }

    #[test]
    fn etcds_folder_is_known_from_all_sides() {
        use std::fs::{create_dir_all, write};
        use std::os::unix::fs::symlink;
        type Lay = fn(&Path);
        let layouts: [(&str, bool, Lay); 8] = [
            ("whole", true, |f| {
                ["snap", "wal"].iter().for_each(|n| create_dir_all(f.join("member").join(n)).unwrap())
            }),
            ("its log elsewhere", true, |f| {
                create_dir_all(f.join("member/snap")).unwrap();
                write(f.join("member/snap/db"), "data").unwrap();
            }),
            ("a link to its log", true, |f| {
                create_dir_all(f.join("member/snap")).unwrap();
                symlink("/nowhere/wal", f.join("member/wal")).unwrap();
            }),
            ("a link to its snapshots", true, |f| {
                create_dir_all(f.join("member")).unwrap();
                symlink("/nowhere/snap", f.join("member/snap")).unwrap();
            }),
            ("a link to all", true, |f| symlink("/nowhere/member", f.join("member")).unwrap()),
            ("no etcd's", false, |f| create_dir_all(f.join("member/wal")).unwrap()),
            ("snapshots of something", false, |f| create_dir_all(f.join("member/snap")).unwrap()),
            ("files", false, |f| {
                create_dir_all(f.join("member/wal")).unwrap();
                write(f.join("member/snap"), "x").unwrap();
            }),
        ];
        let temp = tempfile::tempdir().unwrap();
        for (name, etcds, lay) in layouts {
            let folder = temp.path().join(name);
            create_dir_all(folder.join("logs")).unwrap();
            lay(&folder);
            let opened = beneath::open_folder(std::fs::File::open(&folder).unwrap(), Path::new("")).unwrap();
            assert_eq!(database_marker_in(&opened).is_some(), etcds, "{name}");
            let why = why_in_database(&folder.join("logs"));
            assert_eq!(why.is_some(), etcds, "{name}: {why:?}");
        }
    }
}
