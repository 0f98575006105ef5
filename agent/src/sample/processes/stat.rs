//! Texts of `/proc/PID`, read beneath a descriptor of `/proc` and parsed (proc(5)).
//!
//! Invariants: one buffer for all of them, nothing allocated but for a cgroup's path. A text that is not as documented
//! is `None`: a process may end in the middle of being read.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read};

use crate::sample::procfile::{fields, number};

/// The kernel's names are 15 bytes, those of its workqueue threads up to 64.
const MAX_NAME: usize = 64;

/// A `comm`, without an allocation. A process can set its own to any bytes.
#[derive(Clone, Copy)]
pub(super) struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    /// The first [`MAX_NAME`] bytes of `name`.
    pub(super) fn new(name: &[u8]) -> Self {
        let len = name.len().min(MAX_NAME);
        let mut bytes = [0; MAX_NAME];
        bytes[..len].copy_from_slice(&name[..len]);
        Self { bytes, len: len as u8 }
    }

    /// As text; what is not UTF-8 is replaced, control characters stay: whoever prints it must mind them.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..usize::from(self.len)]).into_owned()
    }
}

/// The figures of `/proc/PID/stat` that matter here.
pub(in crate::sample) struct Stat<'a> {
    /// `comm`.
    pub(super) name: &'a [u8],
    /// State letter.
    pub(super) state: u8,
    /// Parent.
    pub(super) ppid: u32,
    /// utime + stime.
    pub(in crate::sample) cpu_ticks: u64,
    pub(super) threads: u64,
    pub(super) start_ticks: u64,
    pub(super) resident_pages: u64,
}

/// Parses `/proc/PID/stat`. The name may hold blanks, parentheses and newlines: it ends at the *last* parenthesis.
pub(in crate::sample) fn parse_stat(text: &[u8]) -> Option<Stat<'_>> {
    let open = memchr::memchr(b'(', text)?;
    let close = memchr::memrchr(b')', text)?;
    let name = text.get(open + 1..close)?;
    let mut rest = fields(text.get(close + 1..)?);
    let state = *rest.next()?.first()?;
    // Numbered as in proc(5), where the state is field 3.
    let ppid = number(rest.next()?).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let user = number(rest.nth(14 - 5)?)?;
    let system = number(rest.next()?)?;
    let threads = number(rest.nth(20 - 16)?).unwrap_or(0);
    let start_ticks = number(rest.nth(22 - 21)?)?;
    let resident_pages = number(rest.nth(24 - 23)?).unwrap_or(0);
    Some(Stat {
        name,
        state,
        ppid,
        cpu_ticks: user.saturating_add(system),
        threads,
        start_ticks,
        resident_pages,
    })
}

/// `read_bytes` and `write_bytes` of `/proc/PID/io`: what went to and came from storage, page cache apart. What was
/// written and truncated before it reached the disk stays counted.
pub(super) fn parse_io(text: &[u8]) -> Option<[u64; 2]> {
    let field = |key: &[u8]| {
        text.split(|&b| b == b'\n').find_map(|l| l.strip_prefix(key)).and_then(|v| number(v.trim_ascii()))
    };
    Some([field(b"read_bytes:")?, field(b"write_bytes:")?])
}

/// The soft limit of open files of `/proc/PID/limits`; `None` where there is none.
pub(super) fn parse_open_files_limit(text: &[u8]) -> Option<u64> {
    let line = text.split(|&b| b == b'\n').find_map(|l| l.strip_prefix(b"Max open files"))?;
    number(fields(line).next()?)
}

/// The path that best names a process's cgroup: v2's, or where that is the root, v1's memory, cpu or systemd one.
pub(crate) fn cgroup_path(text: &[u8]) -> Option<String> {
    let mut best: Option<(u32, &[u8])> = None;
    for line in text.split(|&b| b == b'\n') {
        let mut parts = line.splitn(3, |&b| b == b':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let has = |name: &[u8]| controllers.split(|&b| b == b',').any(|c| c == name);
        let rank = if path == b"/" {
            0
        } else if controllers.is_empty() {
            5
        } else if has(b"memory") {
            4
        } else if has(b"cpu") {
            3
        } else if has(b"name=systemd") {
            2
        } else {
            1
        };
        if best.is_none_or(|(r, _)| rank > r) {
            best = Some((rank, path));
        }
    }
    best.map(|(_, path)| String::from_utf8_lossy(path).into_owned())
}

/// The relative path `PID<suffix>`, of which `suffix` ends in a NUL.
pub(super) struct PidPath([u8; 24]);

impl PidPath {
    /// The path; `suffix` has at most 13 bytes before its NUL.
    pub(super) fn new(pid: u32, suffix: &CStr) -> Self {
        let mut path = [0u8; 24];
        let mut digits = [0u8; 10];
        let mut at = digits.len();
        let mut rest = pid;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let len = digits.len() - at;
        path[..len].copy_from_slice(&digits[at..]);
        let suffix = suffix.to_bytes();
        path[len..len + suffix.len()].copy_from_slice(suffix);
        Self(path)
    }

    /// As the system calls want it.
    pub(super) fn as_c_str(&self) -> io::Result<&CStr> {
        CStr::from_bytes_until_nul(&self.0).map_err(io::Error::other)
    }
}

/// Opens `PID<suffix>` beneath `dir`.
pub(super) fn open_beneath(
    dir: BorrowedFd<'_>,
    pid: u32,
    suffix: &CStr,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let path = PidPath::new(pid, suffix);
    Ok(openat(dir, path.as_c_str()?, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty())?)
}

/// Reads `PID<suffix>` beneath `dir` into `buf`, as much as one read gives.
pub(super) fn read_beneath(
    dir: BorrowedFd<'_>,
    pid: u32,
    suffix: &CStr,
    buf: &mut [u8],
) -> io::Result<usize> {
    let fd = open_beneath(dir, pid, suffix, OFlags::empty())?;
    loop {
        match read(&fd, &mut *buf) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cgroup_that_tells_most_is_chosen() {
        assert_eq!(cgroup_path(b"0::/a\n").unwrap(), "/a");
        assert_eq!(cgroup_path(b"3:cpu,cpuacct:/c\n2:memory:/m\n1:name=systemd:/s\n0::/\n").unwrap(), "/m");
        assert_eq!(cgroup_path(b"2:memory:/\n1:name=systemd:/s:x\n").unwrap(), "/s:x");
        assert_eq!(cgroup_path(b"0::/\n").unwrap(), "/");
        assert_eq!(cgroup_path(b""), None);
    }

    #[test]
    fn stat_fields_are_those_of_the_manual() {
        // Each field holds its own number in proc(5).
        let rest: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let text = format!("1 (x) S {}\n", rest.join(" "));
        let s = parse_stat(text.as_bytes()).unwrap();
        assert_eq!((s.ppid, s.cpu_ticks, s.threads), (4, 14 + 15, 20));
        assert_eq!((s.start_ticks, s.resident_pages, s.state), (22, 24, b'S'));
    }

    #[test]
    fn io_and_limits() {
        let io = b"rchar: 9\nwchar: 8\nsyscr: 1\nsyscw: 2\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 1\n";
        assert_eq!(parse_io(io), Some([4096, 8192]));
        assert_eq!(parse_io(b"read_bytes: 1\n"), None);
        let limits = b"Limit     Soft Limit   Hard Limit   Units\nMax open files            1024                 524288               files\n";
        assert_eq!(parse_open_files_limit(limits), Some(1024));
        assert_eq!(parse_open_files_limit(b"Max open files unlimited unlimited files\n"), None);
    }

    #[test]
    fn paths_of_every_length_fit() {
        for pid in [0, 9, 10, u32::MAX] {
            let path = PidPath::new(pid, c"/limits");
            assert_eq!(path.as_c_str().unwrap().to_str().unwrap(), format!("{pid}/limits"));
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_but_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            near in "[0-9]{0,3} ?\\(?[^)]{0,20}\\)? [RSDZ]?( [0-9-]{0,22}){0,30}",
        ) {
            for text in [&bytes[..], near.as_bytes()] {
                let _ = parse_stat(text).map(|s| Name::new(s.name).text());
                let _ = parse_io(text);
                let _ = parse_open_files_limit(text);
                let _ = cgroup_path(text);
            }
        }
    }
}
