//! Network interfaces of the host: `net/dev` of process 1 each tick; link state and speed from sysfs every now and then.
//!
//! sysfs shows the network namespace of whoever mounted it. Through the host's root that is the host's, as `net/dev` of
//! process 1 is; an agent in a network namespace of its own with its own `/sys` knows neither state nor speed of the
//! host's interfaces, and those of its own only by name.
//!
//! Errors and drops are as the kernel sums them for `net/dev`: received drops include frames that the device missed,
//! which `ip -s link` tells apart.
//!
//! Deliberately absent: addresses, queues, what a driver counts besides (ethtool).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dogwatch::record::Interface;

use super::Failures;
use super::procfile::{ProcFile, fields, lines, number};
use super::rare::attribute;
use super::roster::{MAX_KNOWN, Roster};

/// Interfaces in one sample: a node has some per pod, and the kubelet's ceiling is 250 pods on large ones.
const MAX_REPORTED: usize = 512;

/// Some 120 bytes a line: enough for every line that is looked at.
const MAX_TEXT: usize = 1 << 20;

/// What the buffer may keep between readings: 500 interfaces.
const KEEP_TEXT: usize = 64 << 10;

/// Ticks between two readings of a link's state. Interfaces take turns.
const STATE_TICKS: usize = 10;

/// Ticks between two readings of a link's speed: the kernel asks the driver and takes the lock that all changes of
/// interfaces take, and a reader waits for it while pods come and go.
const SPEED_TICKS: usize = 60;

/// Bytes per second of 1 Mbit/s, the unit of `speed`.
const MEGABIT: u64 = 1_000_000 / 8;

/// What sysfs says of an interface.
#[derive(Default)]
struct Link {
    known: bool,
    up: Option<bool>,
    speed_bytes_per_s: Option<u64>,
}

/// Reader of the host's interfaces.
pub(super) struct InterfaceProbe {
    dev: ProcFile,
    class: PathBuf,
    roster: Roster<Link>,
    tick: usize,
}

impl InterfaceProbe {
    /// A reader of `dev` in the folder `net` and of sysfs at `sys`.
    pub(super) fn new(net: &Path, sys: &Path) -> Self {
        Self {
            dev: ProcFile::new(net.join("dev"), MAX_TEXT),
            class: sys.join("class/net"),
            roster: Roster::new(),
            tick: 0,
        }
    }

    /// The interfaces; none and a failure where their table cannot be read.
    pub(super) fn read(&mut self, failed: &mut Failures) -> Vec<Interface> {
        let Self { dev, class, roster, tick } = self;
        let text = match dev.read() {
            Ok(text) => text,
            Err(e) => {
                failed.push("interfaces", &e);
                return Vec::new();
            }
        };
        *tick = tick.wrapping_add(1);
        roster.begin();
        let (mut interfaces, mut beyond, mut malformed) = (Vec::new(), 0, 0);
        for line in lines(text).filter(|l| !l.trim_ascii().is_empty() && !is_heading(l)) {
            let Some((name, mut interface)) = parse_line(line) else {
                malformed += 1;
                continue;
            };
            let link = if interfaces.len() < MAX_REPORTED { roster.next(name, Link::default) } else { None };
            let Some((place, link)) = link else {
                beyond += 1;
                continue;
            };
            link.refresh(class, name, place.wrapping_add(*tick), failed);
            interface.name = String::from_utf8_lossy(name).into_owned();
            interface.up = link.up;
            interface.speed_bytes_per_s = link.speed_bytes_per_s;
            interfaces.push(interface);
        }
        roster.end();
        if malformed > 0 {
            failed.push("interfaces", &format!("{malformed} lines of net/dev could not be understood"));
        }
        if beyond > 0 {
            let text = format!("{beyond} interfaces beyond {MAX_REPORTED} reported and {MAX_KNOWN} known");
            failed.push("interfaces", &text);
        }
        dev.shrink(KEEP_TEXT);
        interfaces
    }
}

impl Link {
    /// Looks into sysfs when it is new or its turn has come at `turn`.
    fn refresh(&mut self, class: &Path, name: &[u8], turn: usize, failed: &mut Failures) {
        let new = !std::mem::replace(&mut self.known, true);
        // The kernel allows no such names; a table that has them leads nowhere.
        if name.contains(&b'/') || matches!(name, b"." | b"..") {
            return;
        }
        let folder = || class.join(OsStr::from_bytes(name));
        if new || turn.is_multiple_of(STATE_TICKS) {
            self.up = attribute(&folder().join("operstate"), "interfaces", failed, state);
        }
        if new || turn.is_multiple_of(SPEED_TICKS) {
            self.speed_bytes_per_s = attribute(&folder().join("speed"), "interfaces", failed, speed);
        }
    }
}

fn is_heading(line: &[u8]) -> bool {
    line.contains(&b'|')
}

/// A line's interface and its counters, without name and what sysfs tells. Columns beyond those of today are no mistake.
fn parse_line(line: &[u8]) -> Option<(&[u8], Interface)> {
    // Kernels before 2.6.35 set no blank between the colon and a long number.
    let colon = line.iter().position(|&b| b == b':')?;
    let name = line[..colon].trim_ascii();
    if name.is_empty() {
        return None;
    }
    let mut words = fields(&line[colon + 1..]);
    let mut figures = [0; 12];
    for figure in &mut figures {
        *figure = number(words.next()?)?;
    }
    // Received: bytes packets errs drop fifo frame compressed multicast; then sent: bytes packets errs drop …
    let [rx_bytes, rx_packets, rx_errors, rx_dropped, .., tx_bytes, tx_packets, tx_errors, tx_dropped] =
        figures;
    let interface = Interface {
        rx_bytes_total: rx_bytes,
        rx_packets_total: rx_packets,
        rx_errors_total: rx_errors,
        rx_dropped_total: rx_dropped,
        tx_bytes_total: tx_bytes,
        tx_packets_total: tx_packets,
        tx_errors_total: tx_errors,
        tx_dropped_total: tx_dropped,
        ..Interface::default()
    };
    Some((name, interface))
}

/// Whether `operstate` (RFC 2863, kernel doc `networking/operstates`) says that the link carries traffic. A loopback or
/// tunnel has no carrier to look at and says `unknown`.
fn state(text: &[u8]) -> Option<bool> {
    match text {
        b"up" => Some(true),
        b"down" | b"lowerlayerdown" | b"dormant" | b"testing" | b"notpresent" => Some(false),
        _ => None,
    }
}

/// The speed in bytes per second; a driver that does not know it says -1, or that as an unsigned number.
fn speed(text: &[u8]) -> Option<u64> {
    number(text).filter(|&m| m > 0 && m < u64::from(u32::MAX)).map(|m| m.saturating_mul(MEGABIT))
}

#[cfg(test)]
#[path = "interfaces_tests.rs"]
mod tests;
