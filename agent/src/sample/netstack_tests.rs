use proptest::prelude::*;

use super::*;

const SNMP: &str = "Ip: Forwarding DefaultTTL\nIp: 1 64\nIcmpMsg: InType3\nIcmpMsg: 2\n\
    Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
    Tcp: 1 200 120000 -1 1 2 3 4 5 6 7 8 9 10 11\n\
    Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 1 2 3 4 5 6\n\
    UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdpLite: 0 0 99 0 99 0\n";
const NETSTAT: &str = "TcpExt: SyncookiesSent ListenOverflows ListenDrops Other\nTcpExt: 1 2 3 4\nIpExt: InNoRoutes\nIpExt: 7\n";
const SOCKSTAT: &str =
    "sockets: used 17\nTCP: inuse 4 orphan 1 tw 9 alloc 6 mem 3\nUDP: inuse 2 mem 5\nUDPLITE: inuse 50\n";
const SOCKSTAT6: &str = "TCP6: inuse 10\nUDP6: inuse 20\nUDPLITE6: inuse 40\n";
const SNMP6: &str = "Ip6InReceives \t1\nUdp6InErrors                    \t100\nUdp6RcvbufErrors                \t200\nUdpLite6InErrors \t9\n";
const CONNTRACK: &str = "entries  clashres found new\n0000001f  00000000 00000000\n0000001f  00000000\n";

struct Host(tempfile::TempDir);

impl Host {
    fn new(files: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| host.write(path, text));
        host
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self) -> (Option<NetStack>, Vec<String>) {
        let mut failed = Failures::default();
        let net = NetStackProbe::new(&self.0.path().join("1/net"), self.0.path(), 4096).read(&mut failed);
        (net, failed.into_vec())
    }
}

const OLD: [(&str, &str); 3] =
    [("1/net/snmp", SNMP), ("1/net/netstat", NETSTAT), ("1/net/sockstat", SOCKSTAT)];

#[test]
fn a_kernel_without_ipv6_and_tracking_is_read() {
    let (net, failed) = Host::new(&OLD).read();
    assert_eq!(failed, Vec::<String>::new());
    let expected = NetStack {
        tcp_established: 5,
        tcp_in_use: 4,
        tcp_orphans: 1,
        tcp_time_wait: 9,
        tcp_memory_bytes: 3 * 4096,
        udp_in_use: 2,
        tcp_in_segments_total: 6,
        tcp_out_segments_total: 7,
        tcp_retransmitted_total: 8,
        tcp_in_errors_total: 9,
        tcp_resets_sent_total: 10,
        listen_overflows_total: 2,
        listen_drops_total: 3,
        udp_in_errors_total: 3,
        udp_receive_buffer_errors_total: 5,
        conntrack_entries: None,
        conntrack_max: None,
    };
    assert_eq!(net, Some(expected));
}

#[test]
fn ipv6_is_added_where_the_kernel_keeps_it_apart() {
    let host = Host::new(&OLD);
    host.write("1/net/sockstat6", SOCKSTAT6);
    host.write("1/net/snmp6", SNMP6);
    let net = host.read().0.unwrap();
    assert_eq!((net.tcp_in_use, net.udp_in_use), (14, 22));
    assert_eq!((net.udp_in_errors_total, net.udp_receive_buffer_errors_total), (103, 205));
}

#[test]
fn tracked_connections_are_those_of_the_namespace() {
    let host = Host::new(&OLD);
    host.write("sys/net/netfilter/nf_conntrack_count", "7\n");
    host.write("sys/net/netfilter/nf_conntrack_max", "262144\n");
    let tracked = |host: &Host| host.read().0.map(|n| (n.conntrack_entries, n.conntrack_max));
    assert_eq!(tracked(&host), Some((Some(7), Some(262_144))), "an older kernel's way");
    host.write("1/net/stat/nf_conntrack", CONNTRACK);
    assert_eq!(tracked(&host), Some((Some(31), Some(262_144))));
}

#[test]
fn no_figure_is_nought_because_a_file_is_missing_or_nonsense() {
    for gone in OLD {
        let host = Host::new(&OLD);
        std::fs::remove_file(host.0.path().join(gone.0)).unwrap();
        let (net, failed) = host.read();
        assert_eq!(net, None);
        assert!(failed[0].starts_with("network: reading ") && failed[0].contains(gone.0), "{failed:?}");
        for nonsense in [
            &b""[..],
            b"\xff\0\xff",
            b"Tcp:\nTcp:\n",
            b"TCP: inuse inuse\n",
            b"TcpExt: ListenDrops\nTcpExt: x\n",
        ] {
            host.write(gone.0, nonsense);
            let (net, failed) = host.read();
            assert_eq!(net, None);
            assert!(failed[0].contains(gone.0) && failed[0].contains("no lines"), "{failed:?}");
        }
    }
}

#[test]
fn columns_may_come_in_another_order() {
    let host = Host::new(&OLD);
    host.write("1/net/netstat", "TcpExt: New ListenDrops ListenOverflows\nTcpExt: 9 8 7 6 5\n");
    let net = host.read().0.unwrap();
    assert_eq!((net.listen_overflows_total, net.listen_drops_total), (7, 8));
}

#[test]
fn this_machine_is_read() {
    let mut failed = Failures::default();
    let proc = Path::new("/proc");
    assert!(NetStackProbe::new(&proc.join("self/net"), proc, 4096).read(&mut failed).is_some());
    assert_eq!(failed.into_vec(), Vec::<String>::new());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..2048)) {
        let mut net = NetStack::default();
        let _ = (parse_snmp(&text, &mut net), parse_netstat(&text, &mut net));
        let _ = (parse_sockstat(&text, u64::MAX, &mut net), parse_conntrack(&text));
        add_sockstat6(&text, &mut net);
        add_snmp6(&text, &mut net);
    }

    #[test]
    fn no_words_make_it_panic(
        words in prop::collection::vec(
            "(Tcp|Udp|TcpExt|TCP|UDP|TCP6|UDP6):|inuse|tw|mem|orphan|InSegs|InErrors|Udp6InErrors|\n|[0-9]{1,24}|\\PC",
            0..40,
        ),
    ) {
        let text = words.join(" ").replace(" \n ", "\n").into_bytes();
        let mut net = NetStack::default();
        let _ = (parse_snmp(&text, &mut net), parse_netstat(&text, &mut net));
        let _ = (parse_sockstat(&text, u64::MAX, &mut net), parse_conntrack(&text));
        add_sockstat6(&text, &mut net);
        add_snmp6(&text, &mut net);
    }
}
