use proptest::prelude::*;

use super::*;

struct Host(tempfile::TempDir);

impl Host {
    fn new(diskstats: &[u8]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write("proc/diskstats", diskstats);
        host
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn probe(&self) -> DiskProbe {
        DiskProbe::new(&self.0.path().join("proc"), &self.0.path().join("sys"))
    }
}

const FIGURES: &str = "1 2 3 4 5 6 7 8 9 10 11";

fn names(disks: &[Disk]) -> Vec<&str> {
    disks.iter().map(|d| d.name.as_str()).collect()
}

#[test]
fn each_column_has_its_meaning_on_old_and_new_kernels() {
    for more in ["", " 12 13 14 15", " 12 13 14 15 16 17", " 12 13 14 15 16 17 18 19 20 21"] {
        let host = Host::new(format!(" 259       3 nvme0n1 {FIGURES}{more}\n").as_bytes());
        host.write("sys/block/nvme0n1/size", "2048\n");
        host.write("sys/block/nvme0n1/ro", "1\n");
        host.write("sys/block/nvme0n1/device/ioerr_cnt", "0x1f\n");
        let mut failed = Failures::default();
        let disks = host.probe().read(&mut failed);
        assert_eq!(failed.into_vec(), Vec::<String>::new());
        let expected = Disk {
            name: "nvme0n1".into(),
            major: 259,
            minor: 3,
            reads_total: 1,
            read_bytes_total: 3 * 512,
            read_time_ms_total: 4,
            writes_total: 5,
            written_bytes_total: 7 * 512,
            write_time_ms_total: 8,
            in_flight: 9,
            busy_ms_total: 10,
            weighted_ms_total: 11,
            size_bytes: Some(1 << 20),
            read_only: Some(true),
            io_errors_total: Some(31),
        };
        assert_eq!(disks, [expected]);
    }
}

#[test]
fn partitions_ramdisks_and_placeholders_are_left_out() {
    let all = ["sda", "sda1", "ram0", "ramble", "loop0", "loop1", "nbd0", "sr0", "zram0", "dm-0", "loopy"];
    let lines: String = all.iter().map(|n| format!("8 0 {n} {FIGURES}\n")).collect();
    let host = Host::new(lines.as_bytes());
    host.write("sys/class/block/sda1/partition", "1\n");
    for (name, size) in [("loop0", "8"), ("loop1", "0"), ("nbd0", "0"), ("sr0", "0"), ("zram0", "0")] {
        host.write(&format!("sys/block/{name}/size"), size);
    }
    // A disk that failed may lose its size; that is to be seen.
    host.write("sys/block/sda/size", "0");
    let disks = host.probe().read(&mut Failures::default());
    assert_eq!(names(&disks), ["sda", "ramble", "loop0", "dm-0", "loopy"]);
    assert_eq!(disks[0].size_bytes, Some(0));
}

#[test]
fn names_with_a_slash_are_found_in_sysfs_and_none_leads_out_of_it() {
    let host = Host::new(format!("104 0 cciss/c0d0 {FIGURES}\n8 0 .. {FIGURES}\n").as_bytes());
    host.write("sys/block/cciss!c0d0/size", "2");
    host.write("sys/size", "4");
    let disks = host.probe().read(&mut Failures::default());
    assert_eq!(names(&disks), ["cciss/c0d0", ".."]);
    assert_eq!((disks[0].size_bytes, disks[1].size_bytes), (Some(1024), None));
}

#[test]
fn sysfs_is_read_again_after_a_while_and_at_once_for_another_device() {
    let host = Host::new(format!("8 0 sda {FIGURES}\n").as_bytes());
    host.write("sys/block/sda/size", "2");
    let (mut probe, mut failed) = (host.probe(), Failures::default());
    assert_eq!(probe.read(&mut failed)[0].size_bytes, Some(1024));
    host.write("sys/block/sda/size", "4");
    let seen: Vec<_> = (0..SYSFS_TICKS).map(|_| probe.read(&mut failed)[0].size_bytes).collect();
    assert_eq!(seen[0], Some(1024), "sysfs is not read each tick");
    assert_eq!(seen.last(), Some(&Some(2048)));
    host.write("sys/block/sda/size", "6");
    host.write("proc/diskstats", format!("8 16 sda {FIGURES}\n"));
    assert_eq!(probe.read(&mut failed)[0].size_bytes, Some(3072));
}

#[test]
fn a_placeholder_is_looked_at_seldom_until_it_is_read_from() {
    let used = FIGURES.replacen(FIGURES.split_whitespace().next().unwrap(), "12345", 1);
    for (figures, most) in [(FIGURES, PLACEHOLDER_TICKS), (&*used, SYSFS_TICKS)] {
        let host = Host::new(format!("7 0 loop0 {FIGURES}\n").as_bytes());
        host.write("sys/block/loop0/size", "0");
        let (mut probe, mut failed) = (host.probe(), Failures::default());
        assert_eq!(probe.read(&mut failed), []);
        host.write("sys/block/loop0/size", "8");
        host.write("proc/diskstats", format!("7 0 loop0 {figures}\n"));
        let ticks = (1..=most).find(|_| !probe.read(&mut failed).is_empty());
        assert!(ticks.is_some_and(|t| most == SYSFS_TICKS || t > SYSFS_TICKS), "{ticks:?} of {most}");
    }
}

#[test]
fn a_kernel_without_the_file_has_no_disks_and_nothing_failed() {
    let dir = tempfile::tempdir().unwrap();
    let mut failed = Failures::default();
    assert_eq!(DiskProbe::new(dir.path(), dir.path()).read(&mut failed), []);
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

#[test]
fn what_is_not_understood_and_what_is_too_much_is_said() {
    let mut text = b"\xff\xfe\0 garbage\n8 0 sda 1 2 3\n8 0 sdb -1 2 3 4 5 6 7 8 9 10 11\n".to_vec();
    for i in 0..MAX_REPORTED + 3 {
        text.extend_from_slice(format!("9 {i} md{i} {FIGURES}\n").as_bytes());
    }
    let mut failed = Failures::default();
    let disks = Host::new(&text).probe().read(&mut failed);
    assert_eq!(disks.len(), MAX_REPORTED);
    let failed = failed.into_vec();
    assert_eq!(failed[0], "disks: 3 lines of diskstats could not be understood");
    assert!(failed[1].starts_with("disks: 3 devices beyond 512"), "{failed:?}");
}

#[test]
fn this_machine_is_read() {
    let mut failed = Failures::default();
    DiskProbe::new(Path::new("/proc"), Path::new("/sys")).read(&mut failed);
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..4096)) {
        for line in text.split(|&b| b == b'\n') {
            parse_line(line);
        }
        let _ = hexadecimal(&text);
    }

    #[test]
    fn no_figures_make_it_panic(
        words in prop::collection::vec("[0-9]{1,24}|[a-z/.!]{1,9}|\\PC{1,4}", 0..24),
    ) {
        let host = Host::new(words.join(" ").as_bytes());
        host.probe().read(&mut Failures::default());
    }
}
