//! prometheus-node-exporter as a source, scraped over loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dogwatch_e2e::process::Process;
use dogwatch_e2e::wait::until;

use super::table::{Reading, Rule, Value};

const COLLECTORS: [&str; 16] = [
    "cpu",
    "meminfo",
    "vmstat",
    "stat",
    "loadavg",
    "pressure",
    "diskstats",
    "netdev",
    "netclass",
    "netstat",
    "sockstat",
    "conntrack",
    "filefd",
    "timex",
    "filesystem",
    "processes",
];
/// It prints times of CPUs as seconds with two places, which are clock ticks.
const TICK_US: f64 = 10_000.0;

/// Its own connection over loopback is two established sockets while it looks.
const SCRAPE_ENDS: f64 = 2.0;
/// Files that it has open only while it is asked.
const SCRAPE_FILES: f64 = 8.0;

/// One that runs.
pub(super) struct Exporter {
    _process: Process,
    address: SocketAddr,
}

impl Exporter {
    pub(super) fn start(folder: &Path) -> Self {
        // Between letting the port go and its use another may take it; then nobody answers and the wait fails.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = free.local_addr().expect("a listener has an address");
        drop(free);
        let mut command = Command::new("prometheus-node-exporter");
        command.arg(format!("--web.listen-address={address}")).arg("--collector.disable-defaults");
        command.args(COLLECTORS.map(|c| format!("--collector.{c}")));
        command.args(["--collector.diskstats.device-exclude=^$", "--collector.netdev.device-exclude="]);
        command.args([
            "--collector.filesystem.mount-points-exclude=^$",
            "--collector.filesystem.fs-types-exclude=^(proc|sysfs|cgroup2?)$",
        ]);
        let process = Process::start("prometheus-node-exporter", command, &folder.join("exporter.log"));
        let exporter = Self { _process: process, address };
        until("prometheus-node-exporter to answer", Duration::from_secs(20), || exporter.scrape());
        exporter
    }

    fn scrape(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.0 200").then_some(answer)
    }

    pub(super) fn read(&self) -> Vec<Reading> {
        let text = self.scrape().expect("prometheus-node-exporter answers");
        let mut readings: Vec<Reading> =
            text.lines().filter(|l| l.starts_with("node_")).filter_map(understand).collect();
        // As df has it, we leave out what has no blocks.
        let empty = readings.iter().filter(|r| r.value == Value::Number(0.0));
        let empty: Vec<String> =
            empty.filter_map(|r| r.figure.strip_suffix("total_bytes").map(str::to_owned)).collect();
        readings.retain(|r| !empty.iter().any(|e| e.starts_with("mounts.") && r.figure.starts_with(e)));
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|v| v.parse().ok())
                .unwrap_or_else(|| panic!("prometheus-node-exporter has no {name}"))
        };
        // Of what the kernel keeps apart for IPv4 and IPv6, a sample has the sum.
        let sum =
            |what: &str, figure: &str| value(&what.replace('#', "")) + value(&what.replace('#', figure));
        let grows = Rule::Grows(0.0);
        let moves = Rule::Moves(0.0);
        readings.extend([
            Reading::new("net.udp_in_errors_total", sum("node_netstat_Udp#_InErrors", "6"), grows),
            Reading::new(
                "net.udp_receive_buffer_errors_total",
                sum("node_netstat_Udp#_RcvbufErrors", "6"),
                grows,
            ),
            Reading::new("net.udp_in_use", sum("node_sockstat_UDP#_inuse", "6"), moves),
            Reading::new("net.tcp_in_use", sum("node_sockstat_TCP#_inuse", "6") - SCRAPE_ENDS, moves),
        ]);
        readings
    }
}

/// The value of `label` in `{a="b",c="d"}`.
fn label<'a>(labels: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{label}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

fn understand(line: &str) -> Option<Reading> {
    let (key, value) = line.rsplit_once(' ').expect("a metric has a value");
    let value: f64 = value.parse().expect("a metric's value is a number");
    let (name, labels) = key.split_once('{').unwrap_or((key, ""));
    let name = name.strip_prefix("node_").unwrap_or(name);
    if labels.is_empty() { plain(name, value) } else { labelled(name, labels, value) }
}

fn plain(name: &str, value: f64) -> Option<Reading> {
    let page = rustix::param::page_size() as f64;
    let (grows, moves) = (Rule::Grows(0.0), Rule::Moves(0.0));
    // Sums of seconds as floating point are off in the last places.
    let us = Rule::Grows(1.0);
    let (figure, unit, rule) = match name {
        "memory_MemTotal_bytes" => ("memory.total_bytes", 1.0, Rule::Same),
        "memory_MemAvailable_bytes" => ("memory.available_bytes", 1.0, moves),
        "memory_MemFree_bytes" => ("memory.free_bytes", 1.0, moves),
        "memory_Cached_bytes" => ("memory.cached_bytes", 1.0, moves),
        "memory_Dirty_bytes" => ("memory.dirty_bytes", 1.0, moves),
        "memory_Slab_bytes" => ("memory.slab_bytes", 1.0, moves),
        "memory_SwapTotal_bytes" => ("memory.swap_total_bytes", 1.0, Rule::Same),
        "memory_SwapFree_bytes" => ("memory.swap_free_bytes", 1.0, moves),
        "memory_Buffers_bytes" => ("memory.buffers_bytes", 1.0, moves),
        "memory_Shmem_bytes" => ("memory.shmem_bytes", 1.0, moves),
        "memory_Writeback_bytes" => ("memory.writeback_bytes", 1.0, moves),
        "memory_SUnreclaim_bytes" => ("memory.slab_unreclaimable_bytes", 1.0, moves),
        "vmstat_oom_kill" => ("memory.oom_kills_total", 1.0, grows),
        "vmstat_pgmajfault" => ("memory.major_faults_total", 1.0, grows),
        "vmstat_pswpin" => ("memory.swapped_in_bytes_total", page, grows),
        "vmstat_pswpout" => ("memory.swapped_out_bytes_total", page, grows),
        "context_switches_total" => ("cpu.context_switches_total", 1.0, grows),
        "forks_total" => ("cpu.forks_total", 1.0, grows),
        "procs_running" => ("cpu.running", 1.0, moves),
        "procs_blocked" => ("cpu.blocked", 1.0, moves),
        "load1" => ("cpu.load1", 1.0, moves),
        "load5" => ("cpu.load5", 1.0, moves),
        "load15" => ("cpu.load15", 1.0, moves),
        "pressure_cpu_waiting_seconds_total" => ("cpu.pressure.some_total_us", 1e6, us),
        "pressure_io_waiting_seconds_total" => ("cpu.io_pressure.some_total_us", 1e6, us),
        "pressure_io_stalled_seconds_total" => ("cpu.io_pressure.full_total_us", 1e6, us),
        "pressure_memory_waiting_seconds_total" => ("memory.pressure.some_total_us", 1e6, us),
        "pressure_memory_stalled_seconds_total" => ("memory.pressure.full_total_us", 1e6, us),
        "netstat_Tcp_CurrEstab" => {
            return Some(Reading::new("net.tcp_established", value - SCRAPE_ENDS, moves));
        }
        "netstat_Tcp_InSegs" => ("net.tcp_in_segments_total", 1.0, grows),
        "netstat_Tcp_OutSegs" => ("net.tcp_out_segments_total", 1.0, grows),
        "netstat_Tcp_RetransSegs" => ("net.tcp_retransmitted_total", 1.0, grows),
        "netstat_Tcp_InErrs" => ("net.tcp_in_errors_total", 1.0, grows),
        "netstat_Tcp_OutRsts" => ("net.tcp_resets_sent_total", 1.0, grows),
        "netstat_TcpExt_ListenOverflows" => ("net.listen_overflows_total", 1.0, grows),
        "netstat_TcpExt_ListenDrops" => ("net.listen_drops_total", 1.0, grows),
        "sockstat_TCP_orphan" => ("net.tcp_orphans", 1.0, moves),
        "sockstat_TCP_tw" => ("net.tcp_time_wait", 1.0, moves),
        "sockstat_TCP_mem" => ("net.tcp_memory_bytes", page, moves),
        "nf_conntrack_entries" => ("net.conntrack_entries", 1.0, moves),
        "nf_conntrack_entries_limit" => ("net.conntrack_max", 1.0, Rule::Same),
        "filefd_allocated" => ("limits.open_files", 1.0, Rule::Moves(SCRAPE_FILES)),
        "filefd_maximum" => ("limits.open_files_max", 1.0, Rule::Same),
        "processes_threads" => ("limits.tasks", 1.0, moves),
        "processes_max_processes" => ("limits.pid_max", 1.0, Rule::Same),
        "processes_max_threads" => ("limits.threads_max", 1.0, Rule::Same),
        "timex_sync_status" => ("clock.synchronised", 1.0, Rule::Same),
        "timex_offset_seconds" => ("clock.offset_us", 1e6, moves),
        "timex_estimated_error_seconds" => ("clock.estimated_error_us", 1e6, moves),
        "timex_maxerror_seconds" => ("clock.max_error_us", 1e6, moves),
        _ => return None,
    };
    Some(Reading::new(figure, value * unit, rule))
}

fn labelled(name: &str, labels: &str, value: f64) -> Option<Reading> {
    if name == "cpu_seconds_total" {
        let (core, mode) = (label(labels, "cpu")?, label(labels, "mode")?);
        let rule = if mode == "iowait" { Rule::Moves(TICK_US) } else { Rule::Grows(TICK_US) };
        return Some(Reading::new(format!("cores.{core}.{mode}_us"), value * 1e6, rule));
    }
    let (kind, thing) = match label(labels, "mountpoint") {
        Some(path) => ("mounts", path),
        None => ("", label(labels, "device")?),
    };
    let grows = Rule::Grows(0.0);
    // Seconds as floating point are off in the last places.
    let ms = Rule::Grows(1.0);
    let (kind, figure, unit, rule) = match name {
        "disk_reads_completed_total" => ("disks", "reads_total", 1.0, grows),
        "disk_read_bytes_total" => ("disks", "read_bytes_total", 1.0, grows),
        "disk_read_time_seconds_total" => ("disks", "read_time_ms_total", 1e3, ms),
        "disk_writes_completed_total" => ("disks", "writes_total", 1.0, grows),
        "disk_written_bytes_total" => ("disks", "written_bytes_total", 1.0, grows),
        "disk_write_time_seconds_total" => ("disks", "write_time_ms_total", 1e3, ms),
        "disk_io_now" => ("disks", "in_flight", 1.0, Rule::Moves(0.0)),
        "disk_io_time_seconds_total" => ("disks", "busy_ms_total", 1e3, ms),
        "disk_io_time_weighted_seconds_total" => ("disks", "weighted_ms_total", 1e3, ms),
        "network_receive_bytes_total" => ("interfaces", "rx_bytes_total", 1.0, grows),
        "network_receive_packets_total" => ("interfaces", "rx_packets_total", 1.0, grows),
        "network_receive_errs_total" => ("interfaces", "rx_errors_total", 1.0, grows),
        "network_receive_drop_total" => ("interfaces", "rx_dropped_total", 1.0, grows),
        "network_transmit_bytes_total" => ("interfaces", "tx_bytes_total", 1.0, grows),
        "network_transmit_packets_total" => ("interfaces", "tx_packets_total", 1.0, grows),
        "network_transmit_errs_total" => ("interfaces", "tx_errors_total", 1.0, grows),
        "network_transmit_drop_total" => ("interfaces", "tx_dropped_total", 1.0, grows),
        // -1 Mbit/s is how a driver says that it does not know.
        "network_speed_bytes" if value > 0.0 => ("interfaces", "speed_bytes_per_s", 1.0, Rule::Same),
        // A loopback is not up for it, for us it has no state.
        "network_up" if thing != "lo" => ("interfaces", "up", 1.0, Rule::Same),
        "filesystem_size_bytes" => (kind, "total_bytes", 1.0, Rule::Same),
        "filesystem_free_bytes" => (kind, "free_bytes", 1.0, Rule::Moves(0.0)),
        "filesystem_avail_bytes" => (kind, "available_bytes", 1.0, Rule::Moves(0.0)),
        "filesystem_files" => (kind, "inodes_total", 1.0, Rule::Same),
        "filesystem_files_free" => (kind, "inodes_free", 1.0, Rule::Moves(0.0)),
        "filesystem_readonly" => (kind, "read_only", 1.0, Rule::Same),
        _ => return None,
    };
    let rounded = if unit == 1e3 { (value * unit).round() } else { value * unit };
    Some(Reading { figure: format!("{kind}.{thing}.{figure}"), value: Value::Number(rounded), rule })
}
