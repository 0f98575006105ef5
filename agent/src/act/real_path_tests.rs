//! Paths on disks, on servers and on what only looks like one.

use std::os::unix::fs::symlink;

use super::*;
use crate::own_mounts::{in_own_mounts, mount_dead};

fn none() -> CleanupRoots {
    CleanupRoots::default()
}

#[test]
fn a_server_that_does_not_answer_costs_one_answer() {
    in_own_mounts(beside_a_dead_server);
}

fn beside_a_dead_server(base: &Path) {
    use crate::act::hold::{HeldThing, HoldSet, NodeHold};
    use crate::act::hold_line::HeldNow;
    let (share, link, there) = (base.join("share"), base.join("link"), base.join("there"));
    std::fs::create_dir(&share).unwrap();
    std::fs::write(&there, "").unwrap();
    symlink(share.join("logs"), &link).unwrap();
    let server = mount_dead(&share);
    let aside = Aside::new(std::time::Duration::from_secs(3));
    let patient = aside.waiting(std::time::Duration::from_secs(60));
    let root = Path::new("/");
    for path in [share.clone(), share.join("logs/app")] {
        let why = find_apart(root, &path, &aside).unwrap_err();
        let (path, share) = (path.display(), share.display());
        assert!(why.starts_with(&format!("{path} is on {share}, a filesystem of type fuse that")), "{why}");
        assert!(why.ends_with("name the mount point of a local filesystem"), "{why}");
    }
    // A table does not tell where a link leads.
    let why = find_apart(root, &link, &aside).unwrap_err();
    assert!(why.contains("does not answer within 3 s"), "{why}");
    assert_eq!(find_apart(root, &there, &patient).unwrap().unwrap().path, there);

    let hold = |id: &str, path: &Path| NodeHold {
        id: id.to_owned(),
        what: HeldThing::Path(path.to_owned()),
        reason: "court".to_owned(),
    };
    let set = HoldSet::Known(vec![hold("hold-1", &link), hold("hold-2", &base.join("gone"))]);
    let now = HeldNow { set, host_root: root.to_owned() };
    // The executor looks with no bound but this: it touches nothing there.
    for places in [now.resolved_apart(&none(), &aside), now.resolved(&Mounts::open(none()))] {
        let held = |path: &Path| places.iter().find(|p| p.covers(path)).map(|p| p.id.as_str());
        assert_eq!(held(Path::new("/any")), None, "{places:?}");
        for path in [&link, &share.join("logs"), &share.join("logs/app.log.1")] {
            assert_eq!(held(path), Some("hold-1"), "as a path: {places:?}");
        }
        assert_eq!(held(&share.join("other")), None);
        assert_eq!(held(&base.join("gone/x")), Some("hold-2"));
    }
    assert_eq!(now.absent(&none(), &aside), ["hold-2"], "what does not answer is not said to be gone");
    let none = patient.look(&there, || ());
    assert_eq!(none, Ok(()), "and no thread is left behind for it");
    // The kernel then fails what waits.
    drop(server);
}

#[test]
fn links_are_followed_within_the_root_and_what_is_missing_keeps_its_name() {
    let temp = tempfile::tempdir().unwrap();
    let host = temp.path().canonicalize().unwrap();
    std::fs::create_dir_all(host.join("data/logs")).unwrap();
    std::fs::create_dir(host.join("var")).unwrap();
    // Absolute, as the host sees it.
    symlink("/data/logs", host.join("var/log")).unwrap();
    let table = Mounts::open(none()).read();
    let real = real_paths(&host, Path::new("/var/log/new/app.log.1"), &table);
    assert!(real.contains(&host.join("data/logs/new/app.log.1")), "{real:?}");
    assert!(real.contains(&host.join("var/log/new/app.log.1")), "{real:?}");
    let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(&host).unwrap());
    let place = |path: &str| Ok(Some(Place { path: path.into(), device }));
    assert_eq!(find(&host, Path::new("/var/log")), place("/data/logs"));
    assert_eq!(find(&host, Path::new("/")), place("/"));
    assert_eq!(find(&host, Path::new("/var/log/new")), Ok(None));
    assert!(find(&host.join("gone"), Path::new("/var")).unwrap_err().contains("/var cannot be looked at"));
    let own = real_paths(Path::new("/"), &host.join("data/../data/logs"), &table);
    assert!(own.contains(&host.join("data/logs")), "{own:?}");
    // Above the host there is nothing, and a circle ends.
    symlink("../../../../data", host.join("var/up")).unwrap();
    symlink("round", host.join("round")).unwrap();
    let up = real_paths(&host, Path::new("/var/up/logs"), &table);
    assert!(up.contains(&host.join("data/logs")), "{up:?}");
    let round = real_paths(&host, Path::new("/round/x"), &table);
    assert_eq!(round, ["/round/x".into(), host.join("round/x")], "as it was named");
    assert!(is_absent(&host, Path::new("/var/log/new"), &table));
    assert!(!is_absent(&host, Path::new("/var/log"), &table));
}

#[test]
fn a_mount_that_another_hides_is_none() {
    let table = "1 1 8:1 / / rw - ext4 /dev/a rw\n\
        2 1 0:40 / /mnt/share rw - nfs4 server:/x rw\n\
        3 1 8:2 / /data rw - xfs /dev/b rw\n\
        4 3 0:41 / /data/share rw - nfs4 server:/y rw\n\
        5 3 8:3 / /data rw - xfs /dev/c rw\n";
    let sight = Sight { table: table.into(), untold: None, roots: Arc::default(), footings: Arc::default() };
    let walker = Walker::new(&sight);
    let is_served =
        |path: &str, own| matches!(walker.behind(Path::new(path), Some(own)), Behind::Server { .. });
    assert!(is_served("/mnt/share/logs", 1));
    assert!(!is_served("/mnt/shared", 1));
    assert!(!is_served("/data/share/logs", 1), "/dev/c lies over it");
    assert!(!is_served("/mnt/share/logs", 2), "a root of a container's, say");
}

/// A table in which `server` is a virtiofs of device 0:40, and `gone` an NFS.
fn served_at(server: &Path, gone: &Path) -> Vec<u8> {
    let (server, gone) = (server.display(), gone.display());
    let text = format!(
        "1 1 8:1 / / rw - ext4 /dev/a rw\n2 1 0:40 / {server} rw - virtiofs host rw\n\
         3 1 0:41 / {gone} rw - nfs4 server:/x rw\n"
    );
    text.into_bytes()
}

#[test]
fn links_on_a_server_that_is_cleaned_are_followed_and_what_cannot_be_holds_all_that_is_cleaned_there() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().canonicalize().unwrap();
    let (log, gone) = (base.join("log"), base.join("gone"));
    std::fs::create_dir_all(log.join("real/app")).unwrap();
    std::fs::create_dir(&gone).unwrap();
    symlink(log.join("real/app"), log.join("app")).unwrap();
    symlink(gone.join("x"), log.join("out")).unwrap();
    symlink(&log, gone.join("x")).unwrap();
    symlink(log.join("app"), base.join("from-here")).unwrap();
    let real = |roots: &CleanupRoots, path: &Path| {
        let sight = Sight {
            table: served_at(&log, &gone),
            untold: None,
            roots: Arc::new(roots.clone()),
            footings: Arc::default(),
        };
        (real_paths(Path::new("/"), path, &sight), is_absent(Path::new("/"), path, &sight))
    };
    let held = |(paths, _): &(Vec<PathBuf>, bool), path: &Path| paths.iter().any(|p| path.starts_with(p));
    let of = |path: &Path| CleanupRoots { usable: vec![path.to_owned()], ..none() };
    let cleaned = of(&log.join("real"));
    for named in [log.join("app"), base.join("from-here")] {
        let found = real(&cleaned, &named);
        assert!(held(&found, &log.join("real/app/a.log.1")), "{found:?}");
        assert!(!held(&found, &log.join("real/other")), "{found:?}");
    }
    assert!(real(&cleaned, &log.join("nothing")).1, "what is not there is known there too");
    let out = real(&cleaned, &log.join("out/y"));
    assert!(held(&out, &gone.join("x/y/z")) && !held(&out, &log.join("y")), "the other server: {out:?}");
    assert!(!held(&out, &gone.join("z")), "no root lies on that: {out:?}");

    // A root there that cannot be used keeps the server untouched, and may be used by another executor.
    let unusable = CleanupRoots { unusable: vec![log.clone()], ..none() };
    let all = real(&unusable, &log.join("app"));
    assert!(held(&all, &log.join("real/app/a.log.1")) && held(&all, &log.join("real/other")), "{all:?}");
    assert!(!held(&all, &base.join("else")) && !all.1, "{all:?}");
    // With no root there it means itself.
    for roots in [none(), of(&base.join("else"))] {
        let alone = real(&roots, &log.join("app"));
        assert!(held(&alone, &log.join("app/x")) && !held(&alone, &log.join("real/app")), "{alone:?}");
    }
}

#[test]
fn a_cleaned_server_that_cannot_be_looked_at_holds_all_that_is_cleaned_there() {
    in_own_mounts(|base| {
        let share = base.join("share");
        std::fs::create_dir(&share).unwrap();
        // Without its server, each lookup fails with ENOTCONN.
        drop(mount_dead(&share));
        for (roots, all) in [(vec![share.join("logs")], true), (Vec::new(), false)] {
            let roots = CleanupRoots { usable: roots, ..none() };
            let paths = real_paths(Path::new("/"), &share.join("app"), &Mounts::open(roots).read());
            assert!(paths.contains(&share.join("app")), "{paths:?}");
            assert_eq!(paths.contains(&share.join("logs")), all, "{paths:?}");
        }
    });
}
