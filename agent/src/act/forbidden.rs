//! What no configuration can bring into reach: the system, people's homes, volumes, databases, the runtime's own
//! directories and dogwatch's state.
//!
//! Invariant: a root is refused when it is, lies beneath, or contains any of these, by name, as it is seen here and as the
//! host calls it; and when it is the very directory by device and inode (a bind mount under another name). Names are
//! compared as written: whoever opens a root refuses symbolic links on the way, so a name cannot lead elsewhere. What mounts
//! show under other names is [`Renamed`], what marks an engine's folder or a volume wherever it is, `storage`.

mod databases;
mod loose;
mod renamed;
mod storage;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

pub(super) use self::renamed::Renamed;
pub(super) use self::storage::storage_marker_in;
use self::storage::{storage_part, why_in_storage};
use super::beneath;
use super::cleaners::Cleaner;
use super::policy::RootPolicy;
use super::real_path::{CleanupRoots, Mounts};

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
    "appendonly.aof.manifest",
    "dump.rdb",
    "meta.properties",
    "IDENTITY",
    "raft.db",
    "influxd.bolt",
    "_dbs.couch",
    "neostore",
    "store_lock",
];

/// etcd marks its `data-dir` by a folder alone, and by what lies in that.
const ETCD: &str = "member";

/// What every system has in its root.
const SYSTEM: &[&str] = &["etc", "usr"];

/// Why `root` may not be a cleanup root, or `None`. `state_dir` is the agent's own state folder.
pub(super) fn why_out_of_reach(root: &RootPolicy, state_dir: &Path) -> Option<String> {
    let (path, host) = (&root.path, &root.host_root);
    if path == Path::new("/") {
        return Some("it is the whole system".to_owned());
    }
    if host != path && host.starts_with(path) {
        return Some(format!("it contains {} (the host's root)", host.display()));
    }
    on_host(path, host).iter().find_map(|name| {
        let why = why_place_is_out(name, root, state_dir)?;
        Some(if name == path { why } else { format!("it is {} on the host: {why}", name.display()) })
    })
}

/// The same for one of the names of `root`.
fn why_place_is_out(name: &Path, root: &RootPolicy, state_dir: &Path) -> Option<String> {
    if name == Path::new("/") {
        return Some("it is the whole system".to_owned());
    }
    for (tree, what) in NEVER {
        let tree = Path::new(tree);
        if let Some(how) = overlap(name, tree) {
            return Some(format!("it {how} {} ({what})", tree.display()));
        }
    }
    if Path::new("/var/lib").starts_with(name) {
        return Some("it contains /var/lib (databases, volumes, the runtime's own directories)".to_owned());
    }
    if let Some((None, what)) = beneath_var_lib(name, root.cleaner) {
        return Some(format!("it is a {what}"));
    }
    why_name(name, root.cleaner, &root.kubelet_dir).map(|said| format!("it {said}")).or_else(|| {
        overlap(name, state_dir)
            .map(|how| format!("it {how} dogwatch's own state folder {}", state_dir.display()))
    })
}

/// Why nothing in `folder`, which lies beneath `root`, may be touched, or `None`: what a root's own place does not show,
/// such as another system's `var/lib/etcd` beneath it, or a kubelet's folder that was put elsewhere.
pub(super) fn why_folder_is_out(folder: &Path, root: &RootPolicy) -> Option<String> {
    let names = on_host(folder, &root.host_root);
    names
        .iter()
        .find_map(|name| why_name(name, root.cleaner, &root.kubelet_dir))
        .map(|said| format!("it {said}"))
}

/// What a path's own names tell of it, whether a root or a folder is there.
fn why_name(path: &Path, cleaner: Cleaner, kubelet_dir: &Path) -> Option<String> {
    if let Some((Some(name), what)) = beneath_var_lib(path, cleaner) {
        return Some(format!("lies in a var/lib/{name} ({what})"));
    }
    if kubelet_dir.is_absolute() && path.starts_with(kubelet_dir) {
        return Some(format!("lies in {} (the kubelet's own directory)", kubelet_dir.display()));
    }
    storage_part(path).map(|part| format!("lies in {part}"))
}

/// `path` as it is seen here, and as the host calls it whose root is seen at `host_root`.
fn on_host(path: &Path, host_root: &Path) -> Vec<PathBuf> {
    let host = path.strip_prefix(host_root).ok().map(|rest| Path::new("/").join(rest));
    let host = host.filter(|host| host != path);
    std::iter::once(path.to_owned()).chain(host).collect()
}

/// Why the directory that `root` names, which has this device and inode, is one of the above under another name (a bind
/// mount), or `None`. What lies on a server is left alone: what of that is mounted twice, [`Renamed`] tells.
pub(super) fn why_same_directory(id: (u64, u64), root: &RootPolicy, state_dir: &Path) -> Option<String> {
    let (here, host) = (Path::new("/"), root.host_root.as_path());
    let trees = NEVER.iter().map(|(tree, _)| Path::new(tree));
    let whole = [here, Path::new("/var"), Path::new("/var/lib"), &root.kubelet_dir];
    let places = whole.into_iter().chain(trees).flat_map(|tree| [(here, tree), (host, tree)]);
    let sight = Mounts::open(CleanupRoots::default()).read();
    let same = sight.same_file(id, places.chain([(here, state_dir)]))?;
    Some(format!("it is {} under another name", same.display()))
}

/// What marks `folder` as a database's, if its entry `name` does: a file that only databases have, the folder that etcd keeps
/// its data in, or a name together with another (`databases`).
pub(super) fn marker(folder: &OwnedFd, name: &OsStr, kind: FileType) -> Option<&'static str> {
    let is_file = |marker: &&str| kind != FileType::Directory && *marker == name;
    let etcd = || (name == ETCD && is_etcds(folder)).then_some(ETCD);
    let one = DATABASE_MARKERS.iter().copied().find(is_file).or_else(etcd);
    one.or_else(|| databases::pair_of(folder, name, kind))
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
    match beneath::look_at_folder(folder, above) {
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

/// Why a root at `path` is or lies in an engine's or the kubelet's folder, or lies in a database's: a marker in a folder above
/// it, which a walk from there would not see. The host's root is seen at `host_root`. A confined process may ask too.
pub(super) fn why_marked_above(path: &Path, host_root: &Path) -> Option<String> {
    why_in_storage(path).or_else(|| why_in_database(path, host_root))
}

fn why_in_database(path: &Path, host_root: &Path) -> Option<String> {
    path.ancestors().skip(1).find_map(|above| {
        let folder = opened(above)?;
        let marker = database_marker_in(&folder).filter(|_| !is_whole_system(&folder, host_root))?;
        Some(format!("{marker} marks {} above it as a database's", above.display()))
    })
}

/// Whether `folder` is the root of this system or of its host, by whatever name. What a service leaves in the folder that it
/// was started in, and that is this one by default, says nothing of the system's trees beneath; and nothing beside it is in
/// reach, since this is no root. What the configuration calls the host's root must have a system in it: a database's folder
/// has none.
fn is_whole_system(folder: &OwnedFd, host_root: &Path) -> bool {
    let id = |folder: &OwnedFd| beneath::facts_of(folder).map(|f| (f.device, f.inode)).ok();
    let is = |root: &Path| id(folder).is_some_and(|own| opened(root).and_then(|r| id(&r)) == Some(own));
    let has = |tree: &&str| kind_at(folder, Path::new(tree)) == Some(FileType::Directory);
    is(Path::new("/")) || is(host_root) && SYSTEM.iter().all(has)
}

fn opened(folder: &Path) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty()).ok()
}

/// The first of a database's markers that lies in `folder`.
pub(super) fn database_marker_in(folder: &OwnedFd) -> Option<&'static str> {
    let there = |name: &&str| {
        let kind = beneath::facts_at(folder, name.as_bytes()).ok()?.kind;
        marker(folder, OsStr::new(name), kind)
    };
    let pairs = databases::PAIRS.iter().map(|pair| pair.name);
    DATABASE_MARKERS.iter().copied().chain([ETCD]).chain(pairs).find_map(|name| there(&name))
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
#[path = "forbidden/tests.rs"]
mod tests;
