//! Tables as nodes have them, and the mounts that are left.

use proptest::prelude::*;

use super::*;

fn paths(table: &str) -> Vec<String> {
    let table = parse(table.as_bytes());
    assert_eq!(table.malformed, 0);
    select(&table.entries).iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect()
}

#[test]
fn escapes_and_optional_fields_are_understood() {
    let line = br"36 35 98:7 /a\040b /mnt\040x\134y\012z rw,noatime master:1 shared:22 unbindable - ext3 /dev/r\011t rw";
    let e = parse_line(line).unwrap();
    assert_eq!((e.id, e.parent, e.dev_major, e.dev_minor), (36, 35, 98, 7));
    assert_eq!(&*e.root, b"/a b");
    assert_eq!(&*e.path, b"/mnt x\\y\nz");
    assert_eq!(&*e.source, b"/dev/r\tt");
    // Without optional fields, with an empty source, without options of the superblock.
    assert_eq!(&*parse_line(b"1 0 0:1 / / rw - tmpfs  rw").unwrap().source, b"");
    assert!(parse_line(b"1 0 0:1 / / rw - tmpfs none").is_some());
    for bad in [
        &b""[..],
        b"x",
        b"1 0 01 / / rw - ext4 a b",
        b"1 0 0:1 / / rw ext4 a b",
        b"1 0 0:1 / mnt rw - ext4 a b",
    ] {
        assert_eq!(parse_line(bad), None, "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn a_node_of_kubernetes_shows_its_filesystems_once() {
    let table = "\
22 27 0:21 / /proc rw - proc proc rw
23 27 0:22 / /sys rw - sysfs sysfs rw
24 27 0:6 / /dev rw - devtmpfs udev rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw
26 24 0:24 / /dev/pts rw - devpts devpts rw
27 1 254:0 / / rw shared:1 - ext4 /dev/vda1 rw
28 27 254:16 / /var/lib/containerd rw - xfs /dev/vdb rw
29 27 254:0 /var/lib/kubelet /var/lib/kubelet rw shared:1 - ext4 /dev/vda1 rw
30 29 0:90 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~projected/kube-api-access-x rw - tmpfs tmpfs rw,size=1k
31 29 0:91 / /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache rw - tmpfs tmpfs rw
32 27 0:92 / /run/containerd/io.containerd.runtime.v2.task/k8s.io/a/rootfs rw - overlay overlay rw,lowerdir=/var/lib/containerd/1:/var/lib/containerd/2,upperdir=/var/lib/containerd/3/fs,workdir=/var/lib/containerd/3/work
33 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
34 27 0:93 / /mnt/nfs rw - nfs4 server:/export rw
35 27 0:94 / /var/lib/lxcfs rw - fuse.lxcfs lxcfs rw
36 27 254:32 /sub /mnt/only-a-bind rw - ext4 /dev/vdc rw
";
    assert_eq!(
        paths(table),
        [
            "/dev",
            "/dev/shm",
            "/",
            "/var/lib/containerd",
            "/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/cache",
            "/mnt/nfs",
            "/mnt/only-a-bind",
        ]
    );
    let table = parse(table.as_bytes());
    let remote: Vec<_> = table.entries.iter().filter(|e| e.is_remote()).map(|e| e.id).collect();
    assert_eq!(remote, [34, 35]);
}

#[test]
fn of_bind_duplicates_the_shortest_whole_one_is_kept() {
    let table = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 /long /a rw - ext4 /dev/sda2 rw
3 1 8:2 / /data/much/longer rw - ext4 /dev/sda2 rw
4 1 8:2 / /data/longer rw - ext4 /dev/sda2 rw
5 1 0:40 /@home /home rw - btrfs /dev/sdb rw
6 1 0:40 /@ /srv/btrfs rw - btrfs /dev/sdb rw
";
    assert_eq!(paths(table), ["/", "/data/longer", "/home"]);
}

#[test]
fn hidden_mounts_are_left_out() {
    // 3 lies over 2 at the same path; 5 was mounted over the directory that holds 4's mount point.
    let table = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /mnt rw - ext4 /dev/sda2 rw
3 2 8:3 / /mnt rw - ext4 /dev/sda3 rw
4 1 8:4 / /srv/deep rw - ext4 /dev/sda4 rw
5 1 8:5 / /srv rw - ext4 /dev/sda5 rw
6 5 8:6 / /srv/deep/er rw - ext4 /dev/sda6 rw
";
    assert_eq!(paths(table), ["/", "/mnt", "/srv", "/srv/deep/er"]);
}

#[test]
fn a_hidden_mount_is_shown_where_another_path_still_leads_to_its_device() {
    let table = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /a rw - ext4 /dev/sda2 rw
3 1 8:2 / /long/b rw - ext4 /dev/sda2 rw
4 2 8:3 / /a rw - ext4 /dev/sda3 rw
";
    assert_eq!(paths(table), ["/", "/long/b", "/a"]);
}

#[test]
fn inside_a_container_the_overlay_root_stays() {
    let table = "\
100 50 0:92 / / rw - overlay overlay rw,lowerdir=/var/lib/containerd/1,upperdir=/var/lib/containerd/3/fs,workdir=/w
101 100 8:1 /etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw
";
    assert_eq!(paths(table), ["/", "/etc/hosts"]);
    // Also where the upper layer's path leads to the overlay itself.
    assert_eq!(
        paths("1 0 0:9 / / rw - overlay o rw,upperdir=/x/y\n2 1 0:10 / /m rw - overlay o rw,upperdir=/x/z\n")
            .len(),
        2
    );
}

#[test]
fn a_table_is_bounded() {
    let mut table = String::new();
    for i in 0..MAX_MOUNTS + 500 {
        table.push_str(&format!("{} 1 8:{i} / /m{i} rw - ext4 /dev/x rw\n", i + 2));
    }
    table.push_str("cut in the mid");
    let parsed = parse(table.as_bytes());
    assert_eq!((parsed.entries.len(), parsed.beyond, parsed.malformed), (MAX_MOUNTS, 501, 0));
    assert_eq!(select(&parsed.entries).len(), MAX_MOUNTS);
}

#[test]
fn a_ring_of_parents_ends() {
    assert!(paths("1 2 8:1 / /a rw - ext4 a rw\n2 1 8:2 / /a rw - ext4 b rw\n").len() <= 2);
}

#[test]
fn a_filesystem_that_gave_up_writing_is_seen_in_its_options() {
    let of = |options: &str| {
        let line = format!("1 0 8:1 / / rw - ext4 /dev/sda1 {options}");
        parse_line(line.as_bytes()).unwrap().is_emergency_read_only()
    };
    assert!(of("rw,emergency_ro") && of("rw,shutdown,x"));
    assert!(!of("rw") && !of("rw,errors=remount-ro,emergency_room"));
}

proptest! {
    #[test]
    fn any_text_is_survived(text in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let table = parse(&text);
        prop_assert!(select(&table.entries).len() <= table.entries.len());
    }

    #[test]
    fn any_tree_is_survived(lines in proptest::collection::vec((0u32..8, 0u32..8, 0u32..4, "/[ab]{0,2}(/[ab])?"), 0..20)) {
        let text: String = lines.iter().map(|(id, parent, dev, path)| {
            format!("{id} {parent} 8:{dev} / {path} rw - ext4 /dev/x rw\n")
        }).collect();
        let table = parse(text.as_bytes());
        let chosen = select(&table.entries);
        let devices: HashSet<_> = chosen.iter().map(|e| (e.dev_minor, e.id)).collect();
        prop_assert!(devices.len() <= chosen.len());
    }
}

#[test]
fn an_overlay_names_its_layers() {
    let layers = |fs: &str, options: &str| {
        let line = format!("1 0 0:50 / / rw - {fs} x rw,{options}\n");
        let table = parse(line.as_bytes());
        let all: Vec<String> =
            table.entries[0].layers().into_iter().map(|l| String::from_utf8(l).unwrap()).collect();
        all
    };
    let plain = layers("overlay", "lowerdir=/a:/b::/c,upperdir=/up,workdir=/work,index=off");
    assert_eq!(plain, ["/a", "/b", "/c", "/up", "/work"]);
    // The kernel escapes a comma and a backslash, overlay a colon.
    assert_eq!(
        layers("overlay", r"lowerdir=/a\134:b:/c\054d,upperdir=/e\134\134f"),
        ["/a:b", "/c,d", r"/e\f"]
    );
    assert_eq!(layers("overlay", "lowerdir+=/a:b,lowerdir+=/c,datadir+=/d"), ["/a:b", "/c", "/d"]);
    assert_eq!(layers("overlay", "lowerdir=l/AB:/c"), ["l/AB", "/c"], "from a folder that nobody knows");
    assert_eq!(layers("overlay", r"lowerdir=a\134:b\040c:.::../d,workdir=w"), ["a:b c", ".", "../d", "w"]);
    assert_eq!(layers("overlay", "lowerdir+=a:b,datadir+=../d"), ["a:b", "../d"]);
    assert_eq!(layers("fuse.thing", "lowerdir=/a"), [""; 0]);
}

#[test]
fn a_table_says_what_it_lacks() {
    let line = "1 0 8:1 / / rw - ext4 /dev/a rw\n";
    assert_eq!(parse(line.as_bytes()).lacks(), None);
    assert!(parse(format!("{line}x\n").as_bytes()).lacks().unwrap().starts_with("1 lines"));
    for long in [line.repeat(MAX_MOUNTS + 1), format!("{line}{}", line.trim_end())] {
        assert!(parse(long.as_bytes()).lacks().unwrap().contains("longer than is read"));
    }
}
