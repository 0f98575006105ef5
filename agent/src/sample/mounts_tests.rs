//! Mounts against `df`, and real filesystems in mount namespaces of the tests' own, which vanish with their threads.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::super::mount_is_unknown;
use super::super::remote::statvfs;
use super::*;
use crate::own_mounts::in_own_mounts;

fn probe(roots: &Roots) -> MountProbe {
    MountProbe::new(roots, Arc::new(statvfs), Duration::from_secs(5))
}

fn own_roots() -> Roots {
    Roots { mountinfo: "/proc/thread-self/mountinfo".into(), ..Roots::default() }
}

fn mount_tmpfs(at: &Path, options: &str) {
    std::fs::create_dir_all(at).unwrap();
    let options = CString::new(options).unwrap();
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
}

fn read(probe: &mut MountProbe) -> (Vec<Mount>, Vec<String>) {
    let mut failed = Failures::default();
    let mounts = probe.read(&mut failed);
    (mounts, failed.into_vec())
}

fn at<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    mounts.iter().find(|m| Path::new(&m.path) == path)
}

/// One line of `df`.
#[derive(Debug, Clone, PartialEq)]
struct DfLine {
    fs: String,
    itotal: u64,
    ifree: u64,
    size: u64,
    used: u64,
    avail: u64,
    path: String,
}

fn df() -> Vec<DfLine> {
    let out = Command::new("df")
        .args(["-B1", "--output=fstype,itotal,iavail,size,used,avail,target"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .skip(1)
        .map(|line| {
            let f: Vec<&str> = line.split_whitespace().collect();
            let n = |i: usize| f[i].parse().unwrap_or(0);
            DfLine {
                fs: f[0].to_owned(),
                itotal: n(1),
                ifree: n(2),
                size: n(3),
                used: n(4),
                avail: n(5),
                path: f[6..].join(" "),
            }
        })
        .collect()
}

#[test]
fn this_machine_agrees_with_df() {
    let within = |v: u64, a: u64, b: u64| v >= a.min(b) && v <= a.max(b);
    let mut probe = probe(&Roots::default());
    // Others write at the same time: figures that went up and down between the two looks prove nothing, so each
    // mount is looked at again until both its bytes and its inodes have agreed.
    let mut agreed: HashMap<String, (bool, bool)> = HashMap::new();
    let mut disagreement = String::new();
    for _ in 0..500 {
        let before = df();
        let (mounts, _) = read(&mut probe);
        let after = df();
        assert!(before.iter().any(|l| l.path == "/"), "df shows the root");
        disagreement.clear();
        for a in before.iter().filter(|a| a.fs != "overlay" && a.fs != "squashfs") {
            let Some(b) = after.iter().find(|b| b.path == a.path && b.size == a.size) else { continue };
            let (bytes, inodes) = agreed.entry(a.path.clone()).or_default();
            let here = mounts.iter().find(|m| m.path == a.path && m.total_bytes == a.size && m.fs == a.fs);
            if let Some(m) = here {
                *bytes |=
                    within(m.available_bytes, a.avail, b.avail) && within(m.used_bytes(), a.used, b.used);
                *inodes |= m.inodes_total == a.itotal && within(m.inodes_free, a.ifree, b.ifree);
            }
            if !(*bytes && *inodes) {
                disagreement = format!("df before {a:?}, after {b:?}, here {here:?}");
            }
        }
        if disagreement.is_empty() {
            return;
        }
    }
    panic!("{disagreement}");
}

#[test]
fn a_new_mount_is_seen_at_once_with_dfs_own_figures() {
    in_own_mounts(|dir| {
        let mut probe = probe(&own_roots());
        assert!(at(&read(&mut probe).0, dir).is_none());
        let odd = dir.join("a b\tc\nd\\e");
        mount_tmpfs(&odd, "size=8m,nr_inodes=1000");
        std::fs::write(odd.join("f"), vec![1u8; 3 << 20]).unwrap();
        let (mounts, failed) = read(&mut probe);
        let m = at(&mounts, &odd).expect("seen on the next tick");
        assert_eq!(
            (m.total_bytes, m.used_bytes(), m.available_bytes),
            (8 << 20, 3 << 20, 5 << 20),
            "{failed:?}"
        );
        assert_eq!((m.inodes_total, m.inodes_free), (1000, 998));
        let out = Command::new("df")
            .args(["-B1", "--output=size,used,avail,itotal,iavail"])
            .arg(&odd)
            .output()
            .unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        let df: Vec<u64> =
            out.lines().last().unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(df, [m.total_bytes, m.used_bytes(), m.available_bytes, m.inodes_total, m.inodes_free]);
        unmount(&odd, UnmountFlags::empty()).expect("the probe holds no mount busy");
        assert!(at(&read(&mut probe).0, &odd).is_none(), "gone on the next tick");
    });
}

#[test]
fn an_unchanged_table_is_not_read_again() {
    in_own_mounts(|dir| {
        let mut probe = probe(&own_roots());
        read(&mut probe);
        assert!(probe.polls, "the kernel's table tells of changes");
        for _ in 0..5 {
            read(&mut probe);
        }
        assert_eq!(probe.since_read, 5);
        mount_tmpfs(&dir.join("m"), "size=1m");
        read(&mut probe);
        assert_eq!(probe.since_read, 0);
        for _ in 0..RECHECK {
            read(&mut probe);
        }
        assert!(probe.since_read < RECHECK, "it is looked at now and then all the same");
    });
}

#[test]
fn binds_and_hidden_mounts_are_left_out() {
    in_own_mounts(|dir| {
        let (whole, bind, over) = (dir.join("w"), dir.join("bound"), dir.join("w-over"));
        mount_tmpfs(&whole, "size=2m");
        std::fs::create_dir_all(&bind).unwrap();
        rustix::mount::mount_bind(&whole, &bind).unwrap();
        mount_tmpfs(&over, "size=3m");
        mount_tmpfs(&over, "size=4m");
        let (mounts, _) = read(&mut probe(&own_roots()));
        assert_eq!(at(&mounts, &whole).unwrap().total_bytes, 2 << 20);
        assert!(at(&mounts, &bind).is_none());
        assert_eq!(at(&mounts, &over).unwrap().total_bytes, 4 << 20);
        assert_eq!(mounts.iter().filter(|m| Path::new(&m.path) == over).count(), 1);
    });
}

#[test]
fn read_only_is_seen_whether_of_the_mount_or_of_its_superblock() {
    in_own_mounts(|dir| {
        let m = dir.join("m");
        mount_tmpfs(&m, "size=1m");
        let mut probe = probe(&own_roots());
        assert!(!at(&read(&mut probe).0, &m).unwrap().read_only);
        mount_remount(&m, MountFlags::RDONLY, c"size=1m").unwrap();
        assert!(at(&read(&mut probe).0, &m).unwrap().read_only);
        mount_remount(&m, MountFlags::empty(), c"size=1m").unwrap();
        assert!(!at(&read(&mut probe).0, &m).unwrap().read_only);
        mount_remount(&m, MountFlags::RDONLY | MountFlags::BIND, c"").unwrap();
        assert!(at(&read(&mut probe).0, &m).unwrap().read_only);
    });
}

#[test]
fn a_fuse_server_that_never_answers_does_not_stall_the_others() {
    in_own_mounts(|dir| {
        use std::os::fd::AsRawFd;
        let m = dir.join("dead");
        std::fs::create_dir_all(&m).unwrap();
        // The server holds the device open and never reads a request.
        let server =
            std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("needs /dev/fuse");
        let options =
            CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd())).unwrap();
        mount("dead", &m, "fuse", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        let tmpfs = dir.join("live");
        mount_tmpfs(&tmpfs, "size=1m");
        let deadline = Duration::from_secs(1);
        let mut probe = MountProbe::new(&own_roots(), Arc::new(statvfs), deadline);
        for tick in 0..5 {
            let began = Instant::now();
            let mut failed = Failures::default();
            let mounts = probe.read(&mut failed);
            let failed = failed.into_vec();
            assert!(began.elapsed() < deadline * 60, "tick {tick} took {:?}", began.elapsed());
            assert!(at(&mounts, &tmpfs).is_some() && at(&mounts, &m).is_none());
            let path = m.to_str().unwrap();
            assert!(failed.iter().any(|f| f.contains(path) && f.contains("no answer")), "{failed:?}");
            let sample = dogwatch::record::Sample { failed, ..Default::default() };
            assert!(mount_is_unknown(&sample, path) && !mount_is_unknown(&sample, tmpfs.to_str().unwrap()));
        }
        // The kernel aborts the stuck call when the server goes; the probe then says why there are no figures.
        drop(server);
        let gone = Instant::now();
        loop {
            let (_, failed) = read(&mut probe);
            if failed.iter().any(|f| f.contains("statvfs:")) {
                break;
            }
            assert!(gone.elapsed() < Duration::from_secs(20), "{failed:?}");
        }
    });
}

#[test]
fn a_fake_host_is_read_by_content_and_through_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("mountinfo");
    let roots = Roots { mountinfo: table.clone(), ..Roots::default() };
    let stat: StatFn = Arc::new(|path| {
        let total_bytes = if path == c"/nothing" { 0 } else { 100 };
        Ok(Figures { total_bytes, available_bytes: 40, free_bytes: 50, ..Figures::default() })
    });
    std::fs::write(&table, "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /nothing rw - newpseudofs x rw\n")
        .unwrap();
    let mut probe = MountProbe::new(&roots, stat, Duration::from_secs(5));
    let (mounts, failed) = read(&mut probe);
    assert_eq!((mounts.len(), mounts[0].path.as_str(), mounts[0].device.as_str()), (1, "/", "/dev/sda1"));
    assert_eq!(failed, Vec::<String>::new());
    std::fs::write(&table, "1 0 8:1 / / rw - ext4 /dev/sda1 rw,emergency_ro\nnonsense\n").unwrap();
    let (mounts, failed) = read(&mut probe);
    assert!(mounts[0].read_only);
    assert_eq!(failed, ["mounts: 1 lines of the table could not be understood"]);
}

#[test]
fn what_the_root_does_not_lead_to_is_not_reported_with_false_figures() {
    in_own_mounts(|dir| {
        let m = dir.join("m");
        mount_tmpfs(&m, "size=1m");
        // A root that is the same tree without its mounts, as a hostPath volume without propagation gives.
        let root = dir.join("host");
        std::fs::create_dir_all(&root).unwrap();
        rustix::mount::mount_bind("/", &root).unwrap();
        let roots = Roots { rootfs: root, ..own_roots() };
        let (mounts, failed) = read(&mut probe(&roots));
        assert!(at(&mounts, Path::new("/")).is_some(), "{mounts:?}");
        assert!(at(&mounts, &m).is_none());
        assert!(
            failed.iter().any(|f| f.contains(m.to_str().unwrap()) && f.contains("leads to")),
            "{failed:?}"
        );
    });
}

#[test]
fn a_root_that_is_mounted_read_only_does_not_make_the_host_read_only() {
    in_own_mounts(|dir| {
        let m = dir.join("m");
        mount_tmpfs(&m, "size=1m");
        let root = dir.join("host");
        std::fs::create_dir_all(&root).unwrap();
        rustix::mount::mount_bind_recursive("/", &root).unwrap();
        // As a container's runtime does it with `readOnly: true`.
        mount_remount(&root, MountFlags::RDONLY | MountFlags::BIND, c"").unwrap();
        let through = root.join(m.strip_prefix("/").unwrap());
        mount_remount(&through, MountFlags::RDONLY | MountFlags::BIND, c"").unwrap();
        let roots = Roots { rootfs: root, ..own_roots() };
        let mut probe = probe(&roots);
        let (mounts, _) = read(&mut probe);
        assert!(!at(&mounts, Path::new("/")).unwrap().read_only, "{mounts:?}");
        assert!(!at(&mounts, &m).unwrap().read_only, "{mounts:?}");
        mount_remount(&m, MountFlags::RDONLY | MountFlags::BIND, c"").unwrap();
        let seen = (0..=RECHECK).any(|_| at(&read(&mut probe).0, &m).is_some_and(|m| m.read_only));
        assert!(seen, "read-only on the host itself");
    });
}

#[test]
fn a_sample_is_bounded_and_prefers_disks() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("mountinfo");
    let mut text = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n".to_owned();
    for i in 0..1500 {
        text.push_str(&format!("{} 1 0:{i} / /t{i} rw - tmpfs tmpfs rw\n", i + 10));
    }
    text.push_str("9999 1 8:9 / /last rw - ext4 /dev/sdz rw\n");
    std::fs::write(&table, text).unwrap();
    let stat: StatFn = Arc::new(|_| Ok(Figures { total_bytes: 1, ..Figures::default() }));
    let roots = Roots { mountinfo: table, ..Roots::default() };
    let (mounts, failed) = read(&mut MountProbe::new(&roots, stat, Duration::from_secs(5)));
    assert_eq!(mounts.len(), MAX_REPORTED);
    assert!(mounts.iter().any(|m| m.path == "/last"));
    assert_eq!(failed, ["mounts: 1502 filesystems, of which 1000 are reported"]);
}

#[test]
fn ten_thousand_mounts_cost_a_bounded_part_of_a_tick() {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("mountinfo");
    let mut text = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n".to_owned();
    for i in 0..9_999 {
        text.push_str(&format!("{} 1 {}:{} / /t{i} rw - tmpfs tmpfs rw\n", i + 10, i / 256, i % 256));
    }
    std::fs::write(&table, text).unwrap();
    let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = asked.clone();
    let stat: StatFn = Arc::new(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Figures { total_bytes: 1, ..Figures::default() })
    });
    let roots = Roots { mountinfo: table, ..Roots::default() };
    let cost = || {
        let mut probe = MountProbe::new(&roots, stat.clone(), Duration::from_secs(5));
        let began = super::super::thread_cpu_time();
        let (mounts, failed) = read(&mut probe);
        let spent = super::super::thread_cpu_time() - began;
        assert_eq!((mounts.len(), failed.len()), (MAX_REPORTED, 1), "{failed:?}");
        let asked = asked.swap(0, std::sync::atomic::Ordering::Relaxed);
        assert!(asked <= MAX_REPORTED as u64, "{asked}");
        spent
    };
    // What else runs on the machine makes one dearer, and never cheaper.
    let spent = (0..3).map(|_| cost()).min().unwrap();
    // Unoptimised, as tests are; optimised it is a tenth.
    assert!(spent < Duration::from_millis(500), "{spent:?}");
}

#[test]
fn what_lies_beneath_a_remote_mount_is_asked_as_remote() {
    let table = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:50 / /mnt/nfs rw - nfs4 server:/x rw
3 2 0:51 / /mnt/nfs/scratch rw - tmpfs tmpfs rw
4 1 0:52 / /mnt/nfs-not rw - tmpfs tmpfs rw
";
    let (targets, remarks) = targets(table.as_bytes(), Path::new("/"));
    let remote: Vec<(&str, bool)> = targets.iter().map(|t| (t.mount.path.as_str(), t.remote)).collect();
    assert_eq!(
        remote,
        [("/", false), ("/mnt/nfs", true), ("/mnt/nfs/scratch", true), ("/mnt/nfs-not", false)]
    );
    assert_eq!(remarks, Vec::<String>::new());
}
