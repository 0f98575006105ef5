//! The bare reader: what it costs to read the files that the agent reads, once a second, and to do nothing with them.
//!
//! As lean as can be: every descriptor stays open and is read anew by pread(2), the buffer is one, nothing is parsed
//! but pids. `each` opens every /proc/PID/stat anew instead, as a reader must that may not hold a descriptor for each
//! process of its node. Control groups are read in the same passes as the agent's, all of them each five seconds and
//! each twelfth time what the agent reads seldom of groups that do nothing, and their descriptors are kept or not like those
//! of processes.

use std::ffi::CString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, openat, seek, statvfs};
use rustix::io::pread;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::{Timespec, clock_gettime};

use super::beat::Beat;

/// Read each second, as the agent does.
const FILES: [&str; 13] = [
    "/proc/stat",
    "/proc/meminfo",
    "/proc/vmstat",
    "/proc/loadavg",
    "/proc/pressure/cpu",
    "/proc/pressure/memory",
    "/proc/pressure/io",
    "/proc/self/mountinfo",
    "/proc/diskstats",
    "/proc/sys/fs/file-nr",
    "/proc/1/net/dev",
    "/proc/1/net/snmp",
    "/proc/1/net/netstat",
];
/// Read each second where the kernel has them.
const OPTIONAL: [&str; 3] = ["/proc/1/net/sockstat", "/proc/1/net/sockstat6", "/proc/1/net/snmp6"];
/// Of this the agent reads the heading and the first line, not the one of each CPU.
const CONNTRACK: (&str, usize) = ("/proc/1/net/stat/nf_conntrack", 512);
const INTERVAL: Duration = Duration::from_secs(1);
const BUFFER: usize = 256 * 1024;

/// Files of a control group of v1 that the agent reads at each pass, by hierarchy.
const GROUP_FILES: [(&str, &str); 8] = [
    ("cpuacct", "cpuacct.usage"),
    ("memory", "memory.usage_in_bytes"),
    ("memory", "memory.stat"),
    ("pids", "pids.current"),
    ("blkio", "blkio.throttle.io_service_bytes_recursive"),
    ("unified", "cpu.pressure"),
    ("unified", "memory.pressure"),
    ("unified", "io.pressure"),
];
/// Limits, and counts that cannot move in a group without a quota whose memory stays as it is.
const GROUP_SELDOM: [(&str, &str); 7] = [
    ("cpu", "cpu.stat"),
    ("memory", "memory.failcnt"),
    ("memory", "memory.oom_control"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
    ("memory", "memory.limit_in_bytes"),
    ("pids", "pids.max"),
];
/// Seconds from pass to pass over the groups, as the agent's default.
const GROUPS_EVERY: u64 = 5;
const SELDOM_EVERY: u64 = 12 * GROUPS_EVERY;

/// Reads for ever. `words`: `kept` or `each`, when in each second (ms, [`Beat`]), the mounts, `--`, the paths of control
/// groups below their hierarchies.
pub(crate) fn main(words: &[&str]) -> Result<()> {
    let (keep, beat, rest) = match words {
        ["kept", ms, rest @ ..] => (true, Beat::at(ms.parse()?), rest),
        ["each", ms, rest @ ..] => (false, Beat::at(ms.parse()?), rest),
        other => bail!("bare: {other:?}"),
    };
    let split = rest.iter().position(|w| *w == "--").unwrap_or(rest.len());
    let (mounts, groups) = (&rest[..split], rest.get(split + 1..).unwrap_or_default());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let mut files: Vec<File> =
        FILES.iter().map(|f| File::open(f).with_context(|| (*f).to_owned())).collect::<Result<_>>()?;
    files.extend(OPTIONAL.iter().filter_map(|f| File::open(f).ok()));
    let conntrack = File::open(CONNTRACK.0).ok();
    let mounts: Vec<CString> = mounts.iter().map(|m| CString::new(*m)).collect::<Result<_, _>>()?;
    let mut processes = Processes::new(keep)?;
    let mut figures = GroupFiles::new(&GROUP_FILES, groups, keep)?;
    let mut seldom = GroupFiles::new(&GROUP_SELDOM, groups, keep)?;
    let mut second = 0;
    let mut buffer = vec![0u8; BUFFER];
    std::thread::sleep(beat.wait());
    let mut due = clock_gettime(rustix::time::ClockId::Monotonic);
    loop {
        for file in &files {
            read_whole(file, &mut buffer)?;
        }
        if let Some(conntrack) = &conntrack {
            let n = pread(conntrack, &mut buffer[..CONNTRACK.1], 0)?;
            std::hint::black_box(&buffer[..n]);
        }
        for mount in &mounts {
            std::hint::black_box(statvfs(mount.as_c_str())?);
        }
        processes.read(&mut buffer)?;
        if second % GROUPS_EVERY == 0 {
            figures.read(&mut buffer)?;
        }
        if second % SELDOM_EVERY == 0 {
            seldom.read(&mut buffer)?;
        }
        second += 1;
        due = Timespec { tv_sec: due.tv_sec + INTERVAL.as_secs() as i64, tv_nsec: due.tv_nsec };
        clock_nanosleep_absolute(ClockId::Monotonic, &due)?;
    }
}

fn read_whole(file: &File, buffer: &mut [u8]) -> Result<()> {
    let mut at = 0;
    loop {
        let n = pread(file, &mut *buffer, at)?;
        std::hint::black_box(&buffer[..n]);
        if n == 0 {
            return Ok(());
        }
        at += n as u64;
    }
}

/// The same files of each group.
struct GroupFiles {
    files: Vec<(CString, Option<File>)>,
    keep: bool,
}

impl GroupFiles {
    fn new(names: &[(&str, &str)], groups: &[&str], keep: bool) -> Result<Self> {
        let path = |g: &&str, (h, n): &(&str, &str)| CString::new(format!("/sys/fs/cgroup/{h}/{g}/{n}"));
        let paths = groups.iter().flat_map(|g| names.iter().map(move |n| path(g, n)));
        let files = paths.map(|p| Ok((p?, None))).collect::<Result<_>>()?;
        Ok(Self { files, keep })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        for (path, kept) in &mut self.files {
            let file = match kept.take() {
                Some(file) => file,
                None => {
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                    let fd = openat(rustix::fs::CWD, path.as_c_str(), flags, Mode::empty());
                    File::from(fd.with_context(|| path.to_string_lossy().into_owned())?)
                }
            };
            let n = pread(&file, &mut *buffer, 0)?;
            std::hint::black_box(&buffer[..n]);
            *kept = self.keep.then_some(file);
        }
        Ok(())
    }
}

struct Processes {
    dir: OwnedFd,
    entries: Vec<MaybeUninit<u8>>,
    keep: bool,
    /// By pid, ascending, as /proc lists them.
    kept: Vec<(u32, OwnedFd)>,
    now: Vec<(u32, OwnedFd)>,
}

impl Processes {
    fn new(keep: bool) -> Result<Self> {
        let dir = File::open("/proc")?.into();
        Ok(Self {
            dir,
            entries: vec![MaybeUninit::uninit(); 32 * 1024],
            keep,
            kept: Vec::new(),
            now: Vec::new(),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        seek(&self.dir, SeekFrom::Start(0))?;
        let mut before = self.kept.drain(..).peekable();
        let mut path = Vec::with_capacity(24);
        let mut found = 0;
        let mut names = RawDir::new(&self.dir, &mut self.entries);
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !name.first().is_some_and(u8::is_ascii_digit) {
                continue;
            }
            let pid = name.iter().fold(0u32, |n, d| n.wrapping_mul(10).wrapping_add(u32::from(d - b'0')));
            while before.next_if(|(p, _)| *p < pid).is_some() {}
            if let Some((_, fd)) = before.next_if(|(p, _)| *p == pid)
                && let Ok(n) = pread(&fd, &mut *buffer, 0)
            {
                std::hint::black_box(&buffer[..n]);
                self.now.push((pid, fd));
                found += 1;
                continue;
            }
            path.clear();
            path.extend_from_slice(name);
            path.extend_from_slice(b"/stat");
            // A process may end at any moment.
            let Ok(fd) = openat(&self.dir, path.as_slice(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            else {
                continue;
            };
            if let Ok(n) = pread(&fd, &mut *buffer, 0) {
                std::hint::black_box(&buffer[..n]);
                found += 1;
                if self.keep {
                    self.now.push((pid, fd));
                }
            }
        }
        drop(before);
        // A reader that reads nothing is no peer.
        ensure!(found > 0, "no process could be read");
        std::mem::swap(&mut self.kept, &mut self.now);
        Ok(())
    }
}
