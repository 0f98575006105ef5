//! TCP, UDP and connection tracking of the host's network namespace: `net/{snmp,netstat,sockstat}` of process 1, with
//! `snmp6` and `sockstat6` where the kernel speaks IPv6.
//!
//! Summed over IPv4 and IPv6 are the sockets in use and UDP's errors, which the kernel keeps apart. TCP's segments,
//! established connections, orphans, TIME-WAIT and memory cover both already. UDP-Lite is not counted.
//!
//! Tracked connections are told by `net/stat/nf_conntrack`: its first line carries the number of *that* namespace,
//! where `/proc/sys/net` always speaks of the reader's own. Only kernels without it are asked by the sysctl.
//!
//! Orphans and the memory of TCP are the whole kernel's, not one namespace's.
//!
//! Invariant: no figure is 0 because its file could not be read; without snmp, netstat or sockstat there is no reading.
//!
//! Deliberately absent: connections one by one (`net/tcp` costs a line each), other protocols.

use std::path::Path;

use dogwatch::record::NetStack;

use super::Failures;
use super::procfile::{ProbeError, ProcFile, fields, lines, number};
use super::rare::RareNumber;

/// These files have as many lines as the kernel has protocols.
const MAX_TEXT: usize = 64 << 10;

/// Heading and first line of `stat/nf_conntrack`, of which there is a line a CPU.
const FIRST_LINES: usize = 512;

const PROBE: &str = "network";

/// Reader of the host's network stack.
pub(super) struct NetStackProbe {
    snmp: ProcFile,
    snmp6: ProcFile,
    netstat: ProcFile,
    sockstat: ProcFile,
    sockstat6: ProcFile,
    conntrack: ProcFile,
    conntrack_count: ProcFile,
    conntrack_max: RareNumber,
    page_bytes: u64,
}

impl NetStackProbe {
    /// A reader of the folder `net` and of the sysctls beneath `proc`, with memory counted in pages of `page_bytes`.
    pub(super) fn new(net: &Path, proc: &Path, page_bytes: u64) -> Self {
        let file = |name: &str| ProcFile::new(net.join(name), MAX_TEXT);
        let sysctls = proc.join("sys/net/netfilter");
        Self {
            snmp: file("snmp"),
            snmp6: file("snmp6"),
            netstat: file("netstat"),
            sockstat: file("sockstat"),
            sockstat6: file("sockstat6"),
            conntrack: ProcFile::new(net.join("stat/nf_conntrack"), FIRST_LINES),
            conntrack_count: ProcFile::new(sysctls.join("nf_conntrack_count"), 4096),
            conntrack_max: RareNumber::new(sysctls.join("nf_conntrack_max")),
            page_bytes,
        }
    }

    /// The reading; `None` and a failure where a file that every kernel has cannot be read.
    pub(super) fn read(&mut self, failed: &mut Failures) -> Option<NetStack> {
        let mut net = match self.stack() {
            Ok(net) => net,
            Err(e) => {
                failed.push(PROBE, &e);
                return None;
            }
        };
        self.add_ipv6(&mut net, failed);
        net.conntrack_entries = self.conntrack_entries(failed);
        if net.conntrack_entries.is_some() {
            net.conntrack_max = self.conntrack_max.read(PROBE, failed);
        }
        Some(net)
    }

    fn stack(&mut self) -> Result<NetStack, ProbeError> {
        let mut net = NetStack::default();
        let understood = parse_snmp(self.snmp.read()?, &mut net);
        understood
            .ok_or_else(|| self.snmp.malformed("no lines `Tcp:` and `Udp:` with the columns of RFC 4022"))?;
        let understood = parse_netstat(self.netstat.read()?, &mut net);
        understood.ok_or_else(|| {
            self.netstat.malformed("no lines `TcpExt:` with ListenOverflows and ListenDrops")
        })?;
        let understood = parse_sockstat(self.sockstat.read()?, self.page_bytes, &mut net);
        understood.ok_or_else(|| self.sockstat.malformed("no lines `TCP: inuse …` and `UDP: inuse …`"))?;
        Ok(net)
    }

    fn add_ipv6(&mut self, net: &mut NetStack, failed: &mut Failures) {
        match self.sockstat6.read() {
            Ok(text) => add_sockstat6(text, net),
            Err(e) if e.is_absent() => {}
            Err(e) => failed.push(PROBE, &e),
        }
        match self.snmp6.read() {
            Ok(text) => add_snmp6(text, net),
            Err(e) if e.is_absent() => {}
            Err(e) => failed.push(PROBE, &e),
        }
    }

    fn conntrack_entries(&mut self, failed: &mut Failures) -> Option<u64> {
        let read = match self.conntrack.read() {
            Ok(text) => parse_conntrack(text)
                .ok_or_else(|| self.conntrack.malformed("no line of hexadecimal numbers")),
            Err(e) if e.is_absent() => match self.conntrack_count.read() {
                Ok(text) => {
                    number(text.trim_ascii()).ok_or_else(|| self.conntrack_count.malformed("not a number"))
                }
                Err(e) if e.is_absent() => return None,
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        };
        read.map_err(|e| failed.push(PROBE, &e)).ok()
    }
}

/// Looks through a table of line pairs, names above figures, for the pair that begins with `prefix`, and fills `wanted`
/// by name. `None` unless every one of them is there. Columns come and go with kernels; their order is not relied upon.
fn pick<const N: usize>(text: &[u8], prefix: &[u8], wanted: [(&[u8], &mut u64); N]) -> Option<()> {
    let mut lines = lines(text).filter_map(|l| l.strip_prefix(prefix)?.strip_prefix(b":"));
    let (names, figures) = (lines.next()?, lines.next()?);
    let mut wanted = wanted.map(|(name, slot)| (name, Some(slot)));
    for (name, figure) in fields(names).zip(fields(figures)) {
        for (wanted, slot) in &mut wanted {
            if *wanted == name
                && let Some(slot) = slot.take()
            {
                *slot = number(figure)?;
            }
        }
    }
    wanted.iter().all(|(_, slot)| slot.is_none()).then_some(())
}

fn parse_snmp(text: &[u8], net: &mut NetStack) -> Option<()> {
    pick(
        text,
        b"Tcp",
        [
            (b"CurrEstab", &mut net.tcp_established),
            (b"InSegs", &mut net.tcp_in_segments_total),
            (b"OutSegs", &mut net.tcp_out_segments_total),
            (b"RetransSegs", &mut net.tcp_retransmitted_total),
            (b"InErrs", &mut net.tcp_in_errors_total),
            (b"OutRsts", &mut net.tcp_resets_sent_total),
        ],
    )?;
    pick(
        text,
        b"Udp",
        [
            (b"InErrors", &mut net.udp_in_errors_total),
            (b"RcvbufErrors", &mut net.udp_receive_buffer_errors_total),
        ],
    )
}

fn parse_netstat(text: &[u8], net: &mut NetStack) -> Option<()> {
    pick(
        text,
        b"TcpExt",
        [
            (b"ListenOverflows", &mut net.listen_overflows_total),
            (b"ListenDrops", &mut net.listen_drops_total),
        ],
    )
}

/// The figure behind `name` in a line of names and figures by turns.
fn figure(line: &[u8], name: &[u8]) -> Option<u64> {
    let mut words = fields(line);
    words.find(|w| *w == name)?;
    number(words.next()?)
}

/// The rest of the line that begins with `prefix`.
fn line<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    lines(text).find_map(|l| l.strip_prefix(prefix))
}

fn parse_sockstat(text: &[u8], page_bytes: u64, net: &mut NetStack) -> Option<()> {
    let tcp = line(text, b"TCP:")?;
    net.tcp_in_use = figure(tcp, b"inuse")?;
    net.tcp_orphans = figure(tcp, b"orphan")?;
    net.tcp_time_wait = figure(tcp, b"tw")?;
    net.tcp_memory_bytes = figure(tcp, b"mem")?.saturating_mul(page_bytes);
    net.udp_in_use = figure(line(text, b"UDP:")?, b"inuse")?;
    Some(())
}

fn add_sockstat6(text: &[u8], net: &mut NetStack) {
    let in_use = |prefix| line(text, prefix).and_then(|l| figure(l, b"inuse")).unwrap_or(0);
    net.tcp_in_use = net.tcp_in_use.saturating_add(in_use(b"TCP6:"));
    net.udp_in_use = net.udp_in_use.saturating_add(in_use(b"UDP6:"));
}

fn add_snmp6(text: &[u8], net: &mut NetStack) {
    for line in lines(text) {
        let total = match line {
            _ if line.starts_with(b"Udp6InErrors") => &mut net.udp_in_errors_total,
            _ if line.starts_with(b"Udp6RcvbufErrors") => &mut net.udp_receive_buffer_errors_total,
            _ => continue,
        };
        *total = total.saturating_add(fields(line).nth(1).and_then(number).unwrap_or(0));
    }
}

/// The first number, hexadecimal, of the line under the heading.
fn parse_conntrack(text: &[u8]) -> Option<u64> {
    let word = fields(lines(text).nth(1)?).next()?;
    u64::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()
}

#[cfg(test)]
#[path = "netstack_tests.rs"]
mod tests;
