//! Block devices: `/proc/diskstats` each tick; size, write protection and error count from sysfs every now and then.
//!
//! Whole devices only: a partition's I/O is counted in its device too. Left out besides are ramdisks, and devices that
//! the kernel keeps ready without anything behind them (a loop device without a file, an nbd that is not connected).
//!
//! Limits: the kernel prints all times as 32-bit milliseconds, so that they begin again at 0 after 49.7 days of such
//! time, and where a device was removed and another took its name, all its totals do.
//!
//! Deliberately absent: partitions, discards and flushes (columns 15 to 20 of newer kernels), SMART.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dogwatch::record::Disk;

use super::Failures;
use super::procfile::{ProcFile, fields, lines, number};
use super::rare::attribute;
use super::roster::{MAX_KNOWN, Roster};

/// Devices in one sample, so that a sample fits into a block several times.
const MAX_REPORTED: usize = 512;

/// Some 130 bytes a line: enough for every line that is looked at.
const MAX_TEXT: usize = 1 << 20;

/// What the buffer may keep between readings: 500 devices.
const KEEP_TEXT: usize = 64 << 10;

/// Ticks between two looks into sysfs. What stands there changes when somebody resizes or protects a device, or when a
/// device fails, and three files a device would cost more than everything else that is read of it. Devices take turns.
const SYSFS_TICKS: usize = 10;

/// Ticks between two looks at a device without anything behind it whose totals stand still; nodes have dozens.
const PLACEHOLDER_TICKS: usize = 60;

/// Sectors of `/proc/diskstats` and of `size` are of 512 bytes, whatever the device's own are.
const SECTOR: u64 = 512;

/// Devices that exist before anything is behind them; their size is 0 then.
const PLACEHOLDERS: [&[u8]; 5] = [b"loop", b"nbd", b"zram", b"sr", b"fd"];

/// What sysfs says of a device.
#[derive(Default)]
struct Device {
    number: Option<(u32, u32)>,
    left_out: bool,
    is_partition: bool,
    /// Reads and writes when it was looked at last: whoever puts something behind a placeholder reads from it.
    counted: (u64, u64),
    size_bytes: Option<u64>,
    read_only: Option<bool>,
    io_errors: Option<u64>,
}

/// Reader of the node's block devices.
pub(super) struct DiskProbe {
    stats: ProcFile,
    sys: PathBuf,
    roster: Roster<Device>,
    tick: usize,
}

impl DiskProbe {
    /// A reader beneath `proc` and `sys`.
    pub(super) fn new(proc: &Path, sys: &Path) -> Self {
        Self {
            stats: ProcFile::new(proc.join("diskstats"), MAX_TEXT),
            sys: sys.to_owned(),
            roster: Roster::new(),
            tick: 0,
        }
    }

    /// The devices; none where the kernel was built without `/proc/diskstats`.
    pub(super) fn read(&mut self, failed: &mut Failures) -> Vec<Disk> {
        let Self { stats, sys, roster, tick } = self;
        let text = match stats.read() {
            Ok(text) => text,
            Err(e) if e.is_absent() => return Vec::new(),
            Err(e) => {
                failed.push("disks", &e);
                return Vec::new();
            }
        };
        *tick = tick.wrapping_add(1);
        roster.begin();
        let (mut disks, mut beyond, mut malformed) = (Vec::new(), 0, 0);
        for line in lines(text).filter(|l| !l.trim_ascii().is_empty()) {
            let Some((name, mut disk)) = parse_line(line) else {
                malformed += 1;
                continue;
            };
            if is_ramdisk(name) {
                continue;
            }
            let Some((place, device)) = roster.next(name, Device::default) else {
                beyond += 1;
                continue;
            };
            let number = Some((disk.major, disk.minor));
            // What is a partition stays one as long as it has its name and number.
            let is_new = device.number != number;
            let counted = (disk.reads_total, disk.writes_total);
            let rests = device.left_out && device.counted == counted;
            let ticks = if rests { PLACEHOLDER_TICKS } else { SYSFS_TICKS };
            if is_new || (!device.is_partition && place % ticks == *tick % ticks) {
                *device = look(sys, name, is_new, failed);
                device.number = number;
                device.counted = counted;
            }
            if device.left_out {
                continue;
            }
            if disks.len() >= MAX_REPORTED {
                beyond += 1;
                continue;
            }
            disk.name = String::from_utf8_lossy(name).into_owned();
            disk.size_bytes = device.size_bytes;
            disk.read_only = device.read_only;
            disk.io_errors_total = device.io_errors;
            disks.push(disk);
        }
        roster.end();
        if malformed > 0 {
            failed.push("disks", &format!("{malformed} lines of diskstats could not be understood"));
        }
        if beyond > 0 {
            let text = format!("{beyond} devices beyond {MAX_REPORTED} reported and {MAX_KNOWN} known");
            failed.push("disks", &text);
        }
        stats.shrink(KEEP_TEXT);
        disks
    }
}

/// A line's device and its figures, without name and what sysfs tells. Kernels before 4.18 have 14 columns, newer ones
/// 18 and 20; more are no mistake.
fn parse_line(line: &[u8]) -> Option<(&[u8], Disk)> {
    let mut words = fields(line);
    let major = number(words.next()?)?.try_into().ok()?;
    let minor = number(words.next()?)?.try_into().ok()?;
    let name = words.next()?;
    let mut figures = [0; 11];
    for figure in &mut figures {
        *figure = number(words.next()?)?;
    }
    let [
        reads,
        _,
        sectors_read,
        read_ms,
        writes,
        _,
        sectors_written,
        write_ms,
        in_flight,
        busy_ms,
        weighted_ms,
    ] = figures;
    let disk = Disk {
        major,
        minor,
        reads_total: reads,
        read_bytes_total: sectors_read.saturating_mul(SECTOR),
        read_time_ms_total: read_ms,
        writes_total: writes,
        written_bytes_total: sectors_written.saturating_mul(SECTOR),
        write_time_ms_total: write_ms,
        in_flight,
        busy_ms_total: busy_ms,
        weighted_ms_total: weighted_ms,
        ..Disk::default()
    };
    Some((name, disk))
}

/// Asks sysfs for a device. What sysfs does not know is reported without what it would tell.
fn look(sys: &Path, name: &[u8], is_new: bool, failed: &mut Failures) -> Device {
    // Drivers of old RAID controllers have names like `cciss/c0d0`; sysfs writes them with `!`.
    let in_sysfs: Vec<u8> = name.iter().map(|&b| if b == b'/' { b'!' } else { b }).collect();
    if matches!(&*in_sysfs, b"." | b"..") {
        return Device::default();
    }
    let in_sysfs = OsStr::from_bytes(&in_sysfs);
    if is_new && sys.join("class/block").join(in_sysfs).join("partition").exists() {
        return Device { left_out: true, is_partition: true, ..Device::default() };
    }
    let folder = sys.join("block").join(in_sysfs);
    let mut get =
        |file: &str, parse: fn(&[u8]) -> Option<u64>| attribute(&folder.join(file), "disks", failed, parse);
    let sectors = get("size", number);
    if sectors == Some(0) && PLACEHOLDERS.iter().any(|p| is_numbered(name, p)) {
        return Device { left_out: true, ..Device::default() };
    }
    Device {
        size_bytes: sectors.map(|s| s.saturating_mul(SECTOR)),
        read_only: get("ro", number).map(|ro| ro != 0),
        io_errors: get("device/ioerr_cnt", hexadecimal),
        ..Device::default()
    }
}

fn is_ramdisk(name: &[u8]) -> bool {
    is_numbered(name, b"ram")
}

/// Whether `name` is `prefix` and a number.
fn is_numbered(name: &[u8], prefix: &[u8]) -> bool {
    name.strip_prefix(prefix).is_some_and(|n| number(n).is_some())
}

/// The number behind `0x`.
fn hexadecimal(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text.strip_prefix(b"0x")?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
