//! Processes that come near to their own limit of open descriptors.
//!
//! Since Linux 6.2 the size of `/proc/PID/fd` is the number of descriptors: one system call and no right to look into it.
//! Before, they are counted, up to [`MAX_COUNTED`]. Each process has its turn every [`ROUND`]th scan, those found near at
//! every scan: a leak takes minutes, and a limit is read only of who holds at least [`MIN_OPEN`].

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use dogwatch::record::DescriptorUse;
use rustix::fs::{AtFlags, OFlags, PROC_SUPER_MAGIC, RawDir, fstatfs, statat};

use super::stat::{Name, PidPath, Stat, open_beneath, parse_open_files_limit, parse_stat, read_beneath};

/// At 1 Hz each process is looked at twice a minute, for a thirtieth of a system call more a process and scan.
const ROUND: u32 = 30;
/// No daemon has a limit below twice this; most processes hold fewer.
const MIN_OPEN: u64 = 32;
/// Descriptors counted of one process before 6.2; each costs the kernel a name. What holds more is not told.
const MAX_COUNTED: u64 = 10_000;
/// How many are told.
const MAX_TOLD: usize = 10;

/// Who is near.
#[derive(Default)]
pub(super) struct Descriptors {
    near: Vec<Near>,
    scan: u32,
    /// Whether sizes of `/proc/PID/fd` tell; found out at the first use.
    size_tells: Option<bool>,
}

/// A process over half of its limit.
struct Near {
    pid: u32,
    start_ticks: u64,
    name: Name,
    open: u64,
    max: u64,
}

impl Near {
    fn share(&self) -> f64 {
        self.open as f64 / self.max.max(1) as f64
    }
}

impl Descriptors {
    /// Looks at `pid` if it has its turn.
    pub(super) fn visit(&mut self, dir: BorrowedFd<'_>, pid: u32, stat: &Stat<'_>, buf: &mut [u8]) {
        if pid % ROUND != self.scan % ROUND || self.near.iter().any(|n| n.pid == pid) {
            return;
        }
        if let Some(near) = self.look(dir, pid, stat.start_ticks, Name::new(stat.name), buf) {
            self.near.push(near);
            self.keep_nearest();
        }
    }

    /// Ends a scan: looks again at those that are near, and tells of them, nearest first. Cgroups and pods are left to
    /// the caller.
    pub(super) fn end_scan(&mut self, dir: BorrowedFd<'_>, buf: &mut [u8]) -> Vec<DescriptorUse> {
        self.scan = self.scan.wrapping_add(1);
        for known in std::mem::take(&mut self.near) {
            let Ok(len) = read_beneath(dir, known.pid, c"/stat", buf) else { continue };
            let same = parse_stat(&buf[..len]).is_some_and(|s| s.start_ticks == known.start_ticks);
            let again = same.then(|| self.look(dir, known.pid, known.start_ticks, known.name, buf)).flatten();
            self.near.extend(again);
        }
        self.keep_nearest();
        let told = |n: &Near| DescriptorUse {
            pid: n.pid,
            name: n.name.text(),
            start_ticks: n.start_ticks,
            open: n.open,
            max: n.max,
            ..DescriptorUse::default()
        };
        self.near.iter().map(told).collect()
    }

    /// Descriptors that `pid` has open; `None` where that may not be read.
    pub(super) fn open_files(&mut self, dir: BorrowedFd<'_>, pid: u32) -> Option<u64> {
        if *self.size_tells.get_or_insert_with(|| size_tells(dir)) {
            let path = PidPath::new(pid, c"/fd");
            let stat = statat(dir, path.as_c_str().ok()?, AtFlags::empty()).ok()?;
            return u64::try_from(stat.st_size).ok();
        }
        count(dir, pid)
    }

    fn look(
        &mut self,
        dir: BorrowedFd<'_>,
        pid: u32,
        start_ticks: u64,
        name: Name,
        buf: &mut [u8],
    ) -> Option<Near> {
        let open = self.open_files(dir, pid).filter(|n| *n >= MIN_OPEN)?;
        let len = read_beneath(dir, pid, c"/limits", buf).ok()?;
        let max = parse_open_files_limit(&buf[..len])?;
        (open.saturating_mul(2) > max).then_some(Near { pid, start_ticks, name, open, max })
    }

    fn keep_nearest(&mut self) {
        self.near.sort_by(|a, b| b.share().total_cmp(&a.share()).then(a.pid.cmp(&b.pid)));
        self.near.truncate(MAX_TOLD);
    }
}

/// Whether `dir` is a proc filesystem that gives `PID/fd` a size: this process always has one open, `dir`.
fn size_tells(dir: BorrowedFd<'_>) -> bool {
    fstatfs(dir).is_ok_and(|f| f.f_type == PROC_SUPER_MAGIC)
        && statat(dir, c"self/fd", AtFlags::empty()).is_ok_and(|s| s.st_size > 0)
}

fn count(dir: BorrowedFd<'_>, pid: u32) -> Option<u64> {
    let fds = open_beneath(dir, pid, c"/fd", OFlags::DIRECTORY).ok()?;
    let mut entries = [MaybeUninit::<u8>::uninit(); 2048];
    let mut names = RawDir::new(fds.as_fd(), &mut entries);
    let mut found = 0;
    while let Some(entry) = names.next() {
        if entry.ok()?.file_name().to_bytes().first().is_some_and(u8::is_ascii_digit) {
            found += 1;
        }
        if found > MAX_COUNTED {
            return None;
        }
    }
    Some(found)
}
