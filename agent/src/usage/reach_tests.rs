use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const ROOT: &str = "22 1 259:1 / / rw - ext4 /dev/root rw\n";

/// A node whose root is in a folder, and whose table shows `mounts` besides.
fn node(mounts: &str) -> (TempDir, Roots) {
    let dir = TempDir::new().unwrap();
    let rootfs = dir.path().join("node");
    fs::create_dir_all(rootfs.join("var/lib")).unwrap();
    let mountinfo = dir.path().join("mountinfo");
    fs::write(&mountinfo, format!("{ROOT}{mounts}")).unwrap();
    let roots = Roots { mountinfo, rootfs, ..Roots::default() };
    (dir, roots)
}

fn path_of(roots: &Roots, path: &str) -> Result<PathBuf, NoWay> {
    reach(roots, Path::new(path)).map(|r| {
        assert_eq!(r.at, roots.rootfs.join(r.path.strip_prefix("/").unwrap()));
        r.path
    })
}

#[test]
fn links_are_the_nodes_wherever_its_root_is_mounted_here() {
    let (_dir, roots) = node("");
    let at = |path: &str| roots.rootfs.join(path);
    fs::create_dir_all(at("data/logs/app")).unwrap();
    fs::create_dir_all(at("var/log")).unwrap();
    symlink("/data/logs", at("var/log/pods")).unwrap();
    symlink("../../var/log/./pods/app", at("data/logs/again")).unwrap();
    symlink("/../../data", at("var/up")).unwrap();
    symlink("loop", at("loop")).unwrap();
    for (path, expected) in [
        ("/", "/"),
        ("/var/log/pods", "/data/logs"),
        ("/var/log/pods/again/", "/data/logs/app"),
        ("/var/log/pods/../logs/again/../app", "/data/logs/app"),
        ("/var/up/logs", "/data/logs"),
        ("/../var/lib/..", "/var"),
    ] {
        assert_eq!(path_of(&roots, path).as_deref(), Ok(Path::new(expected)), "{path}");
    }
    assert!(matches!(path_of(&roots, "/var/log/gone"), Err(NoWay::Absent(_))));
    assert!(matches!(path_of(&roots, "/var/gone/../log"), Err(NoWay::Absent(_))), "as the kernel has it");
    assert!(matches!(path_of(&roots, "var"), Err(NoWay::Absent(_))));
    let Err(NoWay::Other(why)) = path_of(&roots, "/loop") else { panic!("a link to itself ends nowhere") };
    assert!(why.contains("too many links"), "{why}");
}

#[test]
fn what_a_server_stands_behind_is_refused_by_the_table_alone() {
    let mounts = "\
32 22 0:50 / /srv rw - nfs4 server:/x rw
33 32 259:5 / /srv/disk rw - ext4 /dev/behind rw
34 22 0:51 / /misc rw - autofs auto rw
35 34 259:6 / /misc/disk rw - ext4 /dev/d rw
36 22 0:52 / /over rw - nfs server:/y rw
37 36 259:7 / /over rw - ext4 /dev/e rw
";
    let (_dir, roots) = node(mounts);
    let at = |path: &str| roots.rootfs.join(path);
    for folder in ["srv/disk", "misc/disk/x", "misc/home", "over/x"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    symlink("../srv/logs", at("var/link")).unwrap();
    for path in ["/srv", "/srv/disk", "/var/link", "/misc", "/misc/home"] {
        let Err(NoWay::Remote(why)) = path_of(&roots, path) else { panic!("{path} was looked up") };
        assert!(why.starts_with(path) && why.contains("served from elsewhere"), "{why}");
    }
    for (path, mount) in [("/misc/disk/x", "/misc/disk"), ("/over/x", "/over"), ("/var/lib", "/")] {
        assert_eq!(reach(&roots, Path::new(path)).unwrap().mount.as_deref(), Some(mount));
    }
}

#[test]
fn what_a_process_sees_is_not_taken_for_the_nodes() {
    let roots = Roots::default();
    let own = format!("/proc/{}/root/tmp", std::process::id());
    let Err(NoWay::Other(why)) = path_of(&roots, &own) else { panic!("{own} is no path of the node's") };
    assert!(why.contains("mounts of a process"), "{why}");
    // A link of procfs that is text.
    assert!(path_of(&roots, "/proc/self").is_ok_and(|p| p.starts_with("/proc")));
}

#[test]
fn a_question_that_leads_to_a_dead_server_is_answered_and_so_is_the_next() {
    crate::own_mounts::in_own_mounts(|temp| {
        use std::sync::mpsc::channel;
        use std::time::Duration;

        use crate::usage::report::{Asked, inquiry};
        use crate::usage::rounds::Newest;

        const PATIENCE: Duration = Duration::from_secs(60);
        let (share, link, there) = (temp.join("share"), temp.join("link"), temp.join("there"));
        fs::create_dir(&share).unwrap();
        fs::create_dir(&there).unwrap();
        symlink(share.join("logs"), &link).unwrap();
        // A filesystem whose server never answers; what waits for it waits until this is dropped.
        let server = fs::File::options().read(true).write(true).open("/dev/fuse");
        let server = server.expect("needs /dev/fuse and root");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("dead", &share, "fuse", flags, Some(options.as_c_str())).unwrap();

        // This thread's own table: that of the process does not show what is mounted here.
        let mountinfo = PathBuf::from(format!("/proc/self/task/{}/mountinfo", rustix::thread::gettid()));
        let roots = Roots { mountinfo: mountinfo.clone(), ..Roots::default() };
        assert!(fs::read_to_string(&mountinfo).unwrap().contains(share.to_str().unwrap()));
        let (ask, inquiry) = inquiry(roots, Newest::default());
        let (said, answers) = channel();
        let question = |path: &Path| Asked {
            path: path.to_str().unwrap().to_owned(),
            within: Duration::from_secs(30),
            reply: Box::new({
                let said = said.clone();
                move |answer| said.send(answer.map(|r| r.usage.path)).unwrap()
            }),
        };
        // It inherits this mount namespace.
        let thread = std::thread::spawn(move || inquiry.run());
        ask.ask(question(&link)).unwrap();
        let (why, absent) = answers.recv_timeout(PATIENCE).expect("the thread hangs").unwrap_err();
        assert!(why.contains("served from elsewhere") && !absent, "{why}");
        ask.ask(question(&there)).unwrap();
        assert_eq!(answers.recv_timeout(PATIENCE).expect("the thread hangs"), Ok(there));
        drop((ask, server));
        thread.join().unwrap();
    });
}
