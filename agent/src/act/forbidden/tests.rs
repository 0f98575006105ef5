//! What is out of reach, by every name and by what marks it.

use std::fs::{create_dir, create_dir_all, write};
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::act::aside::Aside;
use crate::act::policy::{Budgets, Policy};
use crate::own_mounts::{in_own_mounts, mount_dead};

const NOWHERE: &str = "/nowhere";

fn root(path: &str) -> RootPolicy {
    RootPolicy { host_root: "/host".into(), ..RootPolicy::new(path) }
}

fn out(path: &str) -> Option<String> {
    why_out_of_reach(&root(path), Path::new("/var/spool/dogwatch"))
}

#[test]
fn the_system_cannot_be_reached() {
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
        assert!(out(root).is_some(), "{root} must be out of reach");
    }
    for root in ["/var/lib/lxc/c1/rootfs/var/lib/mysql", "/srv/var/lib/x/var/lib/etcd/member"] {
        assert!(out(root).is_some(), "{root}");
    }
    for root in ["/var/log", "/var/log/pods", "/srv/logs", "/opt/app/logs", "/tmp/x", "/var/lib/app/logs"] {
        assert_eq!(out(root), None, "{root}");
    }
}

#[test]
fn what_the_host_has_is_judged_as_the_host_calls_it() {
    for path in [
        "/host",
        "/host/home/ci",
        "/host/boot",
        "/host/usr/local/logs",
        "/host/etc/app",
        "/host/root",
        "/host/var",
        "/host/run/log",
        "/host/proc",
        "/host/var/spool/dogwatch/urgent",
    ] {
        let why = out(path);
        let host =
            format!("it is /{} on the host: it ", path.trim_start_matches("/host").trim_start_matches('/'));
        assert!(why.as_ref().is_some_and(|why| why.starts_with(&host)), "{path}: {why:?}");
    }
    for path in
        ["/host/data/logs", "/host/var/log", "/host/opt/app", "/host/tmp", "/hosts/home/x", "/var/log"]
    {
        assert_eq!(out(path), None, "{path}");
    }
    let above = RootPolicy { host_root: "/mnt/node/root".into(), ..RootPolicy::new("/mnt/node") };
    let why = why_out_of_reach(&above, Path::new(NOWHERE));
    assert_eq!(why.unwrap(), "it contains /mnt/node/root (the host's root)");
}

#[test]
fn the_kubelets_own_folder_is_out_wherever_it_is() {
    let at = |path: &str| RootPolicy { kubelet_dir: "/data/kubelet".into(), ..root(path) };
    let why = |path: &str| why_out_of_reach(&at(path), Path::new(NOWHERE));
    for path in ["/data/kubelet", "/data/kubelet/pods", "/host/data/kubelet/plugins/x"] {
        assert!(why(path).unwrap().contains("lies in /data/kubelet (the kubelet's own directory)"), "{path}");
    }
    for path in ["/data", "/data/kubelets", "/host/data"] {
        assert_eq!(why(path), None, "{path}");
    }
    for folder in ["/data/kubelet/plugins/x/tmp", "/host/data/kubelet/pods"] {
        assert!(why_folder_is_out(Path::new(folder), &at("/data")).is_some(), "{folder}");
    }
    assert_eq!(why_folder_is_out(Path::new("/data/logs"), &at("/data")), None);
}

#[test]
fn a_directory_under_another_name_is_recognised() {
    let temp = tempfile::tempdir().unwrap();
    let host = temp.path().canonicalize().unwrap();
    for folder in ["home", "kubelet", "usr/lib64", "logs"] {
        create_dir_all(host.join(folder)).unwrap();
    }
    // As distributions have it; an absolute link is the host's.
    symlink("/usr/lib64", host.join("lib64")).unwrap();
    let root =
        RootPolicy { host_root: host.clone(), kubelet_dir: "/kubelet".into(), ..RootPolicy::new("/x") };
    let why = |place: &Path| {
        let there = std::fs::metadata(place).unwrap();
        why_same_directory((there.dev(), there.ino()), &root, Path::new(NOWHERE))
    };
    assert!(why(Path::new("/etc")).unwrap().contains("/etc"));
    for folder in ["home", "kubelet", "usr/lib64"] {
        let folder = host.join(folder);
        assert_eq!(why(&folder).unwrap(), format!("it is {} under another name", folder.display()));
    }
    assert!(why(&host).unwrap().contains(&host.display().to_string()), "the host's root itself");
    assert_eq!(why(&host.join("logs")), None);
}

#[test]
fn a_dead_server_at_home_keeps_no_root_waiting() {
    in_own_mounts(|base| {
        let host = base.join("host");
        create_dir_all(host.join("home")).unwrap();
        create_dir(base.join("logs")).unwrap();
        // One that a link of the host's leads to.
        create_dir(host.join("net")).unwrap();
        symlink("/net/snap", host.join("snap")).unwrap();
        let places = [Path::new("/home").to_owned(), host.join("home"), host.join("net")];
        let servers = places.map(|at| mount_dead(&at));
        let policy = Policy {
            mode: dogwatch::record::CleanupMode::Auto,
            roots: vec![RootPolicy { host_root: host, ..RootPolicy::new(base.join("logs")) }],
            budgets: Budgets::default(),
        };
        let aside = Aside::new(std::time::Duration::from_secs(20));
        let said = aside.look(Path::new("the policy"), move || {
            let problems = policy.validate(Path::new(NOWHERE));
            let (_, roots) = crate::act::cleaner::Cleaner::open(policy, Path::new(NOWHERE));
            (problems, roots.into_iter().filter_map(|r| r.unusable).collect::<Vec<_>>())
        });
        // What waits fails now, so that the test ends.
        drop(servers);
        assert_eq!(said, Ok((Vec::new(), Vec::new())));
    });
}

#[test]
fn etcds_folder_is_known_from_all_sides() {
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
        let why = why_in_database(&folder.join("logs"), Path::new("/"));
        assert_eq!(why.is_some(), etcds, "{name}: {why:?}");
    }
}

#[test]
fn a_marker_in_the_systems_root_says_nothing_of_what_lies_beneath() {
    in_own_mounts(|base| {
        let (host, twice) = (base.join("host"), base.join("twice"));
        for folder in ["etc", "usr", "var/log", "srv/app/logs"] {
            create_dir_all(host.join(folder)).unwrap();
        }
        create_dir(&twice).unwrap();
        rustix::mount::mount_bind(&host, &twice).unwrap();
        for folder in [host.clone(), host.join("srv/app")] {
            write(folder.join("dump.rdb"), "").unwrap();
        }
        let whole = Path::new("/");
        for at in [&host, &twice] {
            let said = |path: &str, host_root: &Path| why_in_database(&at.join(path), host_root);
            assert_eq!(said("var/log", &host), None, "{}", at.display());
            assert!(said("srv/app/logs", &host).unwrap().contains("srv/app above it"));
            assert!(said("var/log", whole).is_some(), "nobody calls it the host's root");
        }
        // Called so by mistake.
        std::fs::rename(host.join("usr"), host.join("users")).unwrap();
        assert!(why_in_database(&host.join("var/log"), &host).is_some());
        // Of this thread alone, which has a working directory and a root of its own.
        rustix::process::chroot(&host).unwrap();
        for host_root in [whole, Path::new("/nowhere")] {
            assert_eq!(why_in_database(Path::new("/var/log"), host_root), None);
            assert!(why_in_database(Path::new("/srv/app/logs"), host_root).is_some());
        }
    });
}

#[test]
fn a_confined_process_tells_markers_outside_its_roots_apart() {
    use landlock::{AccessFs, Ruleset, RulesetAttr};

    let temp = tempfile::tempdir().unwrap();
    let (fine, etcd) = (temp.path().join("fine"), temp.path().join("etcd"));
    for folder in [fine.join("member/wal"), fine.join("logs"), etcd.join("member/snap"), etcd.join("logs")] {
        create_dir_all(folder).unwrap();
    }
    write(etcd.join("member/snap/db"), "data").unwrap();
    // Landlock is of a thread.
    let confined = std::thread::spawn(move || {
        let rules = Ruleset::default().handle_access(AccessFs::ReadFile | AccessFs::ReadDir).unwrap();
        let status = rules.create().unwrap().restrict_self().unwrap();
        if status.ruleset == landlock::RulesetStatus::FullyEnforced {
            std::fs::read_dir(&fine).unwrap_err();
        }
        let why = |folder: &Path| why_marked_above(&folder.join("logs"), Path::new("/"));
        assert_eq!(why(&fine), None, "a folder of that name alone is no etcd's");
        assert!(why(&etcd).is_some_and(|why| why.starts_with("member marks")), "{:?}", why(&etcd));
    });
    confined.join().unwrap();
}
