//! `disk-errors`: a device failed to read or write, or a filesystem found itself damaged.
//!
//! The kernel's line suffices; a device's own counter must rise well, since SCSI counts refused commands too. Optical and
//! floppy drives are left out: an empty one answers with errors. So are discards: a device may refuse them.

use dogwatch::record::{Fact, Finding, Severity, Subject};

use super::case::Tick;
use super::config::{DetectConfig, DiskErrorConfig, Hold};
use super::kernel::is_of_a_process;
use super::known::{Known, Scene};
use super::watch::{Detector, Verdict, Watch, Words, one_watch};
use super::window::Windows;
use super::words;

/// Rule name.
pub(super) const RULE: &str = "disk-errors";

/// Characters of a line that a summary shows.
const MAX_SHOWN: usize = 160;
/// Bytes of a device's name at most (`DISK_NAME_LEN` is 32).
const MAX_DEVICE: usize = 64;

/// Watches devices and their filesystems.
#[derive(Debug)]
pub(super) struct DiskErrorDetector {
    config: DiskErrorConfig,
    watch: Watch,
    errors: Windows<1>,
}

impl DiskErrorDetector {
    pub(super) fn new(config: &DetectConfig) -> Self {
        let c = config.disk_errors.clone();
        let watch = Watch::new(RULE, Hold { raise_ticks: 1, clear_ticks: 1 }, config).with_events(c.quiet);
        Self { watch, config: c, errors: Windows::default() }
    }

    fn words(&self, known: &Known, disk: &str, what: &str, mut facts: Vec<Fact>) -> Words {
        let mounts = known.mounts_on(disk);
        // The correlation's key: findings about this filesystem are one story.
        if let [mount] = mounts[..]
            && !facts.iter().any(|f| f.key == "mount")
        {
            facts.push(Fact::new("mount", mount));
        }
        let of = if mounts.is_empty() { String::new() } else { format!(" ({})", mounts.join(", ")) };
        Words {
            over: format!("disk {disk}{of}: {what}"),
            calm: format!("disk {disk}{of} has no further errors"),
            explanation: format!(
                "High at a line of the kernel that says that a device or filesystem failed (block/blk-core.c, fs/buffer.c, \
                 fs/ext4, fs/xfs, fs/btrfs, drivers/nvme, drivers/md), critical where a filesystem or array gave up; medium \
                 when ioerr_cnt of the device rose by {} in {}, as that counts refused commands too. Cleared after {} \
                 without another: which does not make the disk a sound one.",
                self.config.min_errors,
                words::duration(self.config.window.as_secs_f64()),
                words::duration(self.config.quiet.as_secs_f64())
            ),
            facts,
            ..Words::default()
        }
    }
}

/// The device that a kernel line says has failed, and how bad it is.
pub(super) fn failed_device(text: &str) -> Option<(&str, Severity)> {
    if is_of_a_process(text) {
        return None;
    }
    let (device, severity) = block_error(text).or_else(|| filesystem_error(text))?;
    // Optical drives and floppies fail whenever they are empty.
    let absent_medium = |kind: &str| {
        device.strip_prefix(kind).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let sound = !device.is_empty()
        && device.len() <= MAX_DEVICE
        && device.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_!".contains(&b));
    (sound && !absent_medium("sr") && !absent_medium("fd")).then_some((device, severity))
}

fn block_error(text: &str) -> Option<(&str, Severity)> {
    let line = text
        .strip_prefix("blk_update_request: ")
        .or_else(|| text.strip_prefix("print_req_error: "))
        .unwrap_or(text);
    for kind in [
        "I/O error, dev ",
        "critical medium error, dev ",
        "critical target error, dev ",
        "critical space allocation error, dev ",
        "critical nexus error, dev ",
        "protection error, dev ",
        "timeout error, dev ",
    ] {
        if let Some(rest) = line.strip_prefix(kind) {
            if rest.contains("(DISCARD)")
                || rest.contains("(WRITE_ZEROES)")
                || rest.contains("(SECURE_ERASE)")
            {
                return None;
            }
            return Some((word(rest), Severity::High));
        }
    }
    for kind in ["Buffer I/O error on dev ", "Buffer I/O error on device "] {
        if let Some(rest) = line.strip_prefix(kind) {
            return Some((word(rest), Severity::High));
        }
    }
    if let Some(rest) = line.strip_prefix("nvme ")
        && rest.contains(" timeout")
        && (rest.contains(": I/O ") || rest.contains("controller is down"))
    {
        return Some((word(rest), Severity::High));
    }
    if line.starts_with("md/") && line.contains(": Disk failure on ") {
        let (_, rest) = line.split_once(": Disk failure on ")?;
        return Some((word(rest), Severity::Critical));
    }
    None
}

fn filesystem_error(text: &str) -> Option<(&str, Severity)> {
    for fs in [
        "EXT4-fs error (device ",
        "EXT3-fs error (device ",
        "EXT2-fs error (device ",
        "F2FS-fs error (device ",
    ] {
        if let Some(rest) = text.strip_prefix(fs) {
            return Some((word(rest), Severity::High));
        }
    }
    if let Some(rest) = text.strip_prefix("Aborting journal on device ") {
        // `sda1-8`: the journal's inode.
        let device = word(rest);
        let device = device
            .rsplit_once('-')
            .filter(|(d, n)| !d.is_empty() && *d != "dm" && !n.is_empty())
            .map_or(device, |(d, _)| d);
        return Some((device, Severity::Critical));
    }
    if let Some((device, rest)) = text.strip_prefix("XFS (").and_then(|r| r.split_once("): ")) {
        let gave_up = rest.contains("Shutting down filesystem") || rest.contains("xfs_do_force_shutdown");
        let hurt = [
            "Metadata corruption",
            "Metadata CRC error",
            "Corruption",
            "Internal error",
            "log I/O error",
            "metadata I/O error",
        ];
        if gave_up {
            return Some((device, Severity::Critical));
        }
        return hurt.iter().any(|h| rest.starts_with(h)).then_some((device, Severity::High));
    }
    for btrfs in ["BTRFS error (device ", "BTRFS: error (device ", "BTRFS critical (device "] {
        if let Some(rest) = text.strip_prefix(btrfs) {
            return Some((
                word(rest),
                if btrfs.contains("critical") { Severity::Critical } else { Severity::High },
            ));
        }
    }
    None
}

/// Up to what ends a device's name.
fn word(text: &str) -> &str {
    let end = text.find([' ', ',', ')', ':', '.']).unwrap_or(text.len());
    &text[..end]
}

impl Detector for DiskErrorDetector {
    fn on_sample(&mut self, tick: Tick<'_>, scene: &Scene<'_>, out: &mut Vec<Finding>) {
        for disk in &scene.sample.disks {
            let Some(total) = disk.io_errors_total else { continue };
            let span = self.errors.push(&disk.name, tick.at.boot_ns, [total], self.config.window);
            let rose = span.map_or(0, |s| s.delta[0]);
            let over = rose >= self.config.min_errors;
            let verdict = match span {
                None => Verdict::Between,
                Some(_) if over => Verdict::Over(Severity::Medium),
                Some(_) => Verdict::Calm,
            };
            let words = || {
                let facts =
                    vec![Fact::new("errors_number", rose), Fact::new("errors_since_boot_number", total)];
                let window = words::duration(self.config.window.as_secs_f64());
                self.words(scene.known, &disk.name, &format!("{rose} I/O errors in {window}"), facts)
            };
            let worth = over || self.watch.active().next().is_some();
            let words = if worth { words() } else { Words::default() };
            self.watch.judge(tick, verdict, || Subject::new("disk", disk.name.as_str()), || words, out);
        }
        let read = !scene.sample.disks.is_empty();
        if read {
            self.errors.end();
        }
        // A device that failed may be gone for that reason: only the quiet time ends what its lines said.
        self.watch.close(tick, read, out);
    }

    fn on_kernel(&mut self, tick: Tick<'_>, text: &str, known: &Known, out: &mut Vec<Finding>) -> bool {
        let Some((device, severity)) = failed_device(text).filter(|_| self.watch.is_on()) else {
            return false;
        };
        let disk = known.disk_of(device);
        let shown: String = text.chars().take(MAX_SHOWN).collect();
        let made = |lines: u64| {
            let mut facts = vec![Fact::new("lines_number", lines), Fact::new("device_name", device)];
            facts.extend(known.mounts_of(device).first().map(|m| Fact::new("mount", m)));
            self.words(known, &disk, &format!("{lines} error lines of the kernel, last: {shown}"), facts)
        };
        // The words need the detector whole, so they are made for the number that the watch will tell.
        let lines = self.watch.hits(&Subject::new("disk", disk.as_str())) + 1;
        let words = made(lines);
        self.watch.hit(tick, severity, Subject::new("disk", disk.as_str()), |_| words, out);
        true
    }

    one_watch!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_their_device() {
        use Severity::{Critical, High};
        for (text, device, severity) in [
            (
                "I/O error, dev sda, sector 2048 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2",
                "sda",
                High,
            ),
            ("blk_update_request: I/O error, dev nvme0n1, sector 7 op 0x1:(WRITE)", "nvme0n1", High),
            ("print_req_error: I/O error, dev sdb, sector 1", "sdb", High),
            ("blk_update_request: critical medium error, dev sda, sector 1", "sda", High),
            ("Buffer I/O error on dev dm-0, logical block 12, lost async page write", "dm-0", High),
            ("Buffer I/O error on device sda1, logical block 1", "sda1", High),
            (
                "EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm ls: reading directory lblock 0",
                "sda1",
                High,
            ),
            (
                "EXT4-fs error (device loop3) in ext4_reserve_inode_write:5792: Journal has aborted",
                "loop3",
                High,
            ),
            ("Aborting journal on device sda1-8.", "sda1", Critical),
            ("Aborting journal on device dm-0-8.", "dm-0", Critical),
            ("XFS (dm-2): Metadata corruption detected at xfs_agi_verify+0x1/0x2", "dm-2", High),
            (
                "XFS (sdb1): Corruption of in-memory data detected.  Shutting down filesystem",
                "sdb1",
                Critical,
            ),
            ("BTRFS error (device sdc): bdev /dev/sdc errs: wr 1, rd 0", "sdc", High),
            ("BTRFS critical (device sdc: state EA): corrupt leaf", "sdc", Critical),
            ("nvme nvme0: I/O 12 QID 3 timeout, aborting", "nvme0", High),
            ("md/raid1:md0: Disk failure on sda1, disabling device.", "sda1", Critical),
        ] {
            assert_eq!(failed_device(text), Some((device, severity)), "{text}");
        }
        for nothing in [
            "EXT4-fs (sda1): mounted filesystem with ordered data mode",
            "XFS (dm-2): Ending clean mount",
            "BTRFS info (device sdc): using free space tree",
            "blk_update_request: I/O error, dev sr0, sector 0",
            "I/O error, dev fd0, sector 0 op 0x0:(READ)",
            "critical target error, dev sdb, sector 1 op 0x3:(DISCARD) flags 0x800",
            "blk_update_request: operation not supported error, dev loop0, sector 1",
            "a program writes: I/O error, dev sda, sector 1",
            "I/O error, dev ",
            "I/O error, dev \u{1b}[2J, sector 1",
            "XFS (sda): x[7]: segfault at 0 ip 1 sp 2 error 4 in Shutting down filesystem[400000+1000]",
            "",
        ] {
            assert_eq!(failed_device(nothing), None, "{nothing}");
        }
    }
}
