//! What shows that a process that has a file open for writing is one that writes it.
//!
//! To have a file open proves nothing: a daemon keeps the log that scripts append to, a parent keeps what its children
//! write. Looked at are the position of the descriptor (`/proc/PID/fdinfo`, proc_pid_fdinfo(5)) and what the process has
//! read and written altogether (`/proc/PID/io`, proc_pid_io(5)), before and after. What follows from that: [`super::writers`].

use std::io::Read as _;
use std::path::Path;

/// Longest of the two files that is read; both have some ten short lines.
const MAX_BYTES: u64 = 4096;

/// What a process has done in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Written through system calls, whereto ever, in bytes.
    pub called: u64,
    /// Pages made dirty and direct writes, on any disk, in bytes; none on a filesystem in memory.
    pub dirtied: u64,
    /// Read through system calls, wherefrom ever, in bytes.
    pub read: u64,
    /// Allocated for the files of other filesystems that it has open for writing now, in bytes.
    pub elsewhere: u64,
}

/// What is known of a descriptor at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trace {
    /// Its number.
    pub descriptor: u32,
    /// Where it stands in the file, in bytes; `None`: not told.
    pub position: Option<u64>,
    /// Whether each write goes to the file's end.
    pub appends: bool,
    /// Whether it may be read through, too, so that reading may move it.
    pub reads: bool,
    /// How long the file was just before, in bytes.
    pub size: u64,
    /// By its process; `None`: not told.
    pub written: Option<Written>,
}

/// The trace of descriptor number `descriptor` of the process in the folder `process`, without what the process wrote.
/// `size`: what its file's was just before, in bytes.
pub(super) fn of_descriptor(process: &Path, descriptor: u32, size: u64) -> Trace {
    let mut trace = Trace { descriptor, size, ..Trace::default() };
    let Some(text) = read(&process.join("fdinfo").join(descriptor.to_string())) else { return trace };
    for line in text.lines() {
        if let Some(at) = line.strip_prefix("pos:") {
            trace.position = at.trim().parse().ok();
        } else if let Some(flags) = line.strip_prefix("flags:") {
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap_or(0);
            trace.appends = flags & libc::O_APPEND != 0;
            trace.reads = flags & libc::O_ACCMODE == libc::O_RDWR;
        }
    }
    trace
}

/// What the process in the folder `process` has written, but for what it holds elsewhere.
pub(super) fn of_process(process: &Path) -> Option<Written> {
    let text = read(&process.join("io"))?;
    let figure = |name| text.lines().find_map(|l: &str| l.strip_prefix(name)?.trim().parse().ok());
    Some(Written {
        called: figure("wchar:")?,
        dirtied: figure("write_bytes:")?,
        read: figure("rchar:")?,
        elsewhere: 0,
    })
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_both() {
        use std::io::{Seek as _, Write as _};
        use std::os::fd::AsRawFd as _;
        let mut file = tempfile::tempfile().unwrap();
        let me = Path::new("/proc/self");
        let before = of_process(me).unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        let number = file.as_raw_fd().unsigned_abs();
        let trace = of_descriptor(me, number, 100_000);
        let told = (trace.position, trace.appends, trace.reads, trace.size);
        assert_eq!(told, (Some(100_000), false, true, 100_000));
        file.rewind().unwrap();
        assert_eq!(of_descriptor(me, number, 100_000).position, Some(0));
        assert!(of_process(me).unwrap().called >= before.called + 100_000);
    }
}
