use proptest::prelude::*;

use super::*;

const HEADING: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

struct Host(tempfile::TempDir);

impl Host {
    fn new(dev: impl AsRef<[u8]>) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write("net/dev", dev);
        host
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn probe(&self) -> InterfaceProbe {
        InterfaceProbe::new(&self.0.path().join("net"), &self.0.path().join("sys"))
    }
}

#[test]
fn each_column_has_its_meaning() {
    for line in [
        "  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
        "  eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18\n",
        "eth0:\t1 2 3 4 5 6 7 8 9 10 11 12",
    ] {
        let host = Host::new(format!("{HEADING}{line}"));
        host.write("sys/class/net/eth0/operstate", "up\n");
        host.write("sys/class/net/eth0/speed", "1000\n");
        let mut failed = Failures::default();
        let seen = host.probe().read(&mut failed);
        assert_eq!(failed.into_vec(), Vec::<String>::new());
        let expected = Interface {
            name: "eth0".into(),
            up: Some(true),
            rx_bytes_total: 1,
            rx_packets_total: 2,
            rx_errors_total: 3,
            rx_dropped_total: 4,
            tx_bytes_total: 9,
            tx_packets_total: 10,
            tx_errors_total: 11,
            tx_dropped_total: 12,
            speed_bytes_per_s: Some(125_000_000),
        };
        assert_eq!(seen, [expected], "{line}");
    }
}

#[test]
fn state_and_speed_are_known_or_not() {
    assert_eq!(state(b"up"), Some(true));
    assert_eq!(state(b"lowerlayerdown"), Some(false));
    assert_eq!(state(b"unknown"), None);
    assert_eq!(speed(b"-1"), None);
    assert_eq!(speed(b"4294967295"), None);
    assert_eq!(speed(b"0"), None);
    assert_eq!(speed(b"100000"), Some(12_500_000_000));
}

#[test]
fn a_link_that_goes_down_is_seen_and_a_new_one_at_once() {
    let line = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
    let host = Host::new(format!("{HEADING}eth0: {line}\n"));
    host.write("sys/class/net/eth0/operstate", "up\n");
    let (mut probe, mut failed) = (host.probe(), Failures::default());
    assert_eq!(probe.read(&mut failed)[0].up, Some(true));
    host.write("sys/class/net/eth0/operstate", "down\n");
    host.write("sys/class/net/eth1/operstate", "up\n");
    let seen: Vec<_> = (0..STATE_TICKS).map(|_| probe.read(&mut failed)[0].up).collect();
    assert_eq!((seen[0], seen.last()), (Some(true), Some(&Some(false))));
    host.write("net/dev", format!("{HEADING}eth1: {line}\neth0: {line}\n"));
    let seen: Vec<_> = probe.read(&mut failed).into_iter().map(|i| (i.name, i.up)).collect();
    assert_eq!(seen, [("eth1".to_owned(), Some(true)), ("eth0".to_owned(), Some(false))]);
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

#[test]
fn hostile_tables_are_bounded_and_lead_nowhere() {
    let figures = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
    let mut text = HEADING.as_bytes().to_vec();
    text.extend_from_slice(format!("../../secret: {figures}\n..: {figures}\n").as_bytes());
    text.extend_from_slice(b": 1 2 3\nno colon\n\xff\xfe\0: 1 2\n99999999999999999999999: 1\n");
    for i in 0..MAX_REPORTED {
        text.extend_from_slice(format!("veth{i}: {figures}\n").as_bytes());
    }
    let host = Host::new(&text);
    host.write("secret/operstate", "up\n");
    let mut failed = Failures::default();
    let seen = host.probe().read(&mut failed);
    assert_eq!(seen.len(), MAX_REPORTED);
    assert_eq!((seen[0].name.as_str(), seen[0].up), ("../../secret", None));
    let failed = failed.into_vec();
    assert_eq!(failed[0], "interfaces: 4 lines of net/dev could not be understood");
    assert!(failed[1].starts_with("interfaces: 2 interfaces beyond 512"), "{failed:?}");
}

#[test]
fn a_table_that_cannot_be_read_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut failed = Failures::default();
    assert_eq!(InterfaceProbe::new(dir.path(), dir.path()).read(&mut failed), []);
    assert!(failed.into_vec()[0].contains("/dev: No such file"));
}

#[test]
fn this_machine_is_read() {
    let mut failed = Failures::default();
    let seen = InterfaceProbe::new(Path::new("/proc/self/net"), Path::new("/sys")).read(&mut failed);
    assert!(seen.iter().any(|i| i.name == "lo" && i.speed_bytes_per_s.is_none()), "{seen:?}");
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..4096)) {
        for line in text.split(|&b| b == b'\n') {
            parse_line(line);
        }
        let _ = (state(&text), speed(&text));
    }

    #[test]
    fn no_figures_make_it_panic(
        lines in prop::collection::vec("[a-z./]{0,5}:?( [0-9]{1,24}){0,18}( \\PC)?", 0..8),
    ) {
        Host::new(lines.join("\n")).probe().read(&mut Failures::default());
    }
}
