//! Hosts and containers by their tables of mounts.

use super::*;
use crate::act::other_names::Footing;
use crate::sample::mountinfo::parse;

fn why(table: &str, root: &str, relative: Option<&str>) -> Option<String> {
    let table = parse(table.as_bytes());
    let names = OtherNames::of(&table, &Footing::of(&table, Path::new(root)).unwrap());
    let policy = RootPolicy { host_root: "/host".into(), ..RootPolicy::new(root) };
    let renamed = Renamed::of(&policy, vec![names], &table, Path::new("/var/spool/dogwatch"));
    match relative {
        None => renamed.why_root_is_out(),
        Some(relative) => renamed.why_out(Path::new(relative)),
    }
}

#[test]
fn a_second_name_that_is_out_of_reach_takes_the_first_one_with_it() {
    let table = "1 1 8:1 / / rw - ext4 /dev/a rw\n\
        2 1 8:1 /etc/app /mnt/conf rw - ext4 /dev/a rw\n\
        3 1 8:1 / /mnt/all rw - ext4 /dev/a rw\n\
        4 1 8:2 / /var/lib/mysql rw - xfs /dev/b rw\n\
        5 1 8:2 / /mnt/twice rw - xfs /dev/b rw\n\
        6 1 8:3 / /home rw - xfs /dev/c rw\n\
        7 1 8:3 /varlog /var/log rw - xfs /dev/c rw\n\
        8 1 8:3 /me /mnt/me rw - xfs /dev/c rw\n\
        9 1 8:4 / /data rw - xfs /dev/d rw\n\
        10 1 8:4 /root /root rw - xfs /dev/d rw\n\
        11 1 8:4 /pod /var/lib/kubelet/pods/1/volume-subpaths/v/c/0 rw - xfs /dev/d rw\n";
    for (root, relative, said) in [
        ("/mnt/conf", None, Some("it is /etc/app by another name, which lies in /etc (configuration)")),
        ("/mnt/all", None, Some("which is the whole system")),
        ("/mnt/all/var", None, Some("which contains /var/lib")),
        ("/mnt/all/srv/logs", None, None),
        ("/mnt/twice/logs", None, Some("it is /var/lib/mysql/logs by another name")),
        ("/mnt/me", None, Some("which lies in /home (people's files)")),
        // The system itself keeps its logs there.
        ("/var/log", None, None),
        ("/data", None, None),
        ("/data", Some("root/x"), Some("which is /root (people's files)")),
        ("/data", Some("roots"), None),
        ("/data", Some("pod/app"), None),
        ("/srv/logs", None, None),
    ] {
        let why = why(table, root, relative);
        assert_eq!(why.is_some(), said.is_some(), "{root} {relative:?}: {why:?}");
        assert!(said.is_none_or(|said| why.as_ref().unwrap().contains(said)), "{root}: {why:?}");
    }
}

#[test]
fn in_a_container_the_filesystems_own_path_tells() {
    let table = "1 1 0:50 / / rw - overlay overlay rw\n\
        2 1 8:1 /var/log /var/log rw - ext4 /dev/a rw\n\
        3 1 8:1 /var/lib/etcd/member /mnt/bound rw - ext4 /dev/a rw\n\
        4 1 8:2 /var/lib/docker/volumes/0a1b/_data/log /logs rw - ext4 /dev/b rw\n\
        5 1 8:2 /var/lib/docker/volumes/0a1b/_data/var/lib/etcd /db rw - ext4 /dev/b rw\n";
    let (with_host, alone) = (format!("{table}6 1 8:1 / /host rw - ext4 /dev/a rw\n"), table);
    for (root, said) in [
        ("/var/log", None),
        ("/mnt/bound", Some("lies in a var/lib/etcd")),
        ("/logs", None),
        ("/db", Some("lies in a var/lib/etcd")),
    ] {
        for table in [&with_host, alone] {
            let why = why(table, root, None);
            assert_eq!(why.is_some(), said.is_some(), "{root}: {why:?}");
            assert!(said.is_none_or(|said| why.as_ref().unwrap().contains(said)), "{root}: {why:?}");
        }
    }
    let conf = "7 1 8:1 /etc/app /mnt/conf rw - ext4 /dev/a rw\n";
    let host = why(&format!("{with_host}{conf}"), "/mnt/conf", None);
    assert!(host.as_ref().is_some_and(|h| h.contains("which lies in /etc")), "{host:?}");
}

#[test]
fn an_overlays_layers_are_out_of_reach_where_they_can_be_seen() {
    let table = "1 1 8:1 / / rw - ext4 /dev/a rw\n\
        2 1 8:2 / /data rw - xfs /dev/b rw\n\
        3 1 0:50 / /run/c1 rw - overlay overlay rw,lowerdir=/data/l/1:/data/l/2,upperdir=/data/up,workdir=/data/work\n\
        4 1 0:51 / /opt rw - overlay overlay ro,lowerdir=/run/ext/opt:/opt\n\
        5 1 0:52 / /run/all rw - overlay overlay rw,lowerdir=/,upperdir=/run/x\n\
        6 1 8:2 /up /mnt/up rw - xfs /dev/b rw\n\
        7 1 8:1 / /host rw - ext4 /dev/a rw\n\
        8 7 8:2 / /host/data rw - xfs /dev/b rw\n\
        9 7 0:51 / /host/opt rw - overlay overlay ro,lowerdir=/run/ext/opt:/opt\n";
    let layer = |at: &str| Some(format!("it lies in {at} (an overlay's layer)"));
    for (root, relative, said) in [
        ("/data", None, None),
        ("/data", Some("up/var/log"), layer("/data/up")),
        ("/data", Some("work"), layer("/data/work")),
        ("/data", Some("l/2/x"), layer("/data/l/2")),
        ("/data", Some("l"), None),
        ("/data", Some("logs"), None),
        ("/data/up/var/log", None, layer("/data/up")),
        ("/host/data/up/var/log", None, layer("/host/data/up")),
        ("/mnt/up/var/log", None, layer("/data/up")),
        // The merged view, which lies over its own layer, and an overlay over the whole system.
        ("/opt/app/logs", None, None),
        ("/host/opt/app/logs", None, None),
        ("/srv/logs", None, None),
    ] {
        assert_eq!(why(table, root, relative), said, "{root} {relative:?}");
    }
    // In a container, whose own root says nothing of what lies at such a path here.
    let table = "1 1 0:50 / / rw - overlay overlay rw,upperdir=/data/up,workdir=/data/work\n\
        2 1 8:2 / /data rw - xfs /dev/b rw\n\
        3 1 8:2 / /host/data rw - xfs /dev/b rw\n";
    assert_eq!(why(table, "/host/data/up/log", None), layer("/host/data/up"));
    assert_eq!(why(table, "/srv/logs", None), None);
}

#[test]
fn a_layer_that_was_named_from_a_folder_may_be_any_that_is_called_so() {
    let table = "1 1 8:1 / / rw - ext4 /dev/a rw\n\
        2 1 8:2 / /data rw - xfs /dev/b rw\n\
        3 1 0:50 / /run/c1 rw - overlay overlay rw,lowerdir=l/ABC:log:../deep/x,upperdir=7/diff,workdir=7/work\n\
        4 1 0:51 / /data/m rw - overlay overlay ro,lowerdir=m:n\n\
        5 1 8:2 /in/7 /mnt/seven rw - xfs /dev/b rw\n";
    for (root, relative, said) in [
        ("/data", None, None),
        ("/data", Some("l/ABC/x"), Some("/data/l/ABC")),
        ("/data", Some("any/where/7/diff/log2"), Some("/data/any/where/7/diff")),
        ("/data", Some("7"), None),
        ("/data", Some("17/diff"), None),
        ("/data", Some("diff"), None),
        ("/data", Some("deep/x"), Some("/data/deep/x")),
        ("/data", Some("x"), None),
        ("/data/app/log", None, Some("/data/app/log")),
        ("/data/app/logs", None, None),
        // Where a system lies anyway, as with whole paths.
        ("/var/log", None, None),
        ("/var/log", Some("log"), Some("/var/log/log")),
        // By another name, and where the overlay itself lies.
        ("/mnt/seven", Some("diff"), Some("/data/in/7/diff")),
        ("/data/m/logs", None, None),
        ("/data/n", None, Some("/data/n")),
    ] {
        let why = why(table, root, relative);
        assert_eq!(why.is_some(), said.is_some(), "{root} {relative:?}: {why:?}");
        let said = said.map(|at| format!("it lies in {at}, which may be a layer of the overlay at"));
        assert!(
            said.is_none_or(|said| why.as_ref().unwrap().contains(&said)),
            "{root} {relative:?}: {why:?}"
        );
    }
    // A container's own root says nothing of what lies here, but of its host.
    let own = "1 1 0:50 / / rw - overlay overlay rw,lowerdir=l/A,upperdir=7/diff,workdir=7/work\n\
        2 1 8:2 / /host/data rw - xfs /dev/b rw\n";
    assert_eq!(why(own, "/srv/7/diff", None), None);
    assert!(why(own, "/host/data/7/diff", None).is_some());
}
