//! What a daemon says about itself: one subscriber on standard error.
//!
//! Standard error may be closed, full or a stalled pipe; a daemon goes on regardless, so a line that cannot be written
//! at once is dropped, and the next one that can says how many were. Text on a terminal, JSON elsewhere when asked for.
//!
//! Relied upon: a pipe or terminal that is ready takes [`ATOMIC_BYTES`] without blocking. Longer lines are cut there. A
//! regular file on a stalled disk can still hold its writer up.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = &'static str;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json"),
        }
    }
}

/// Starts logging at `level` (`error` to `trace`, or a `tracing` filter; `DOGWATCH_LOG` overrides it). A second call
/// in one process changes nothing.
pub fn init(level: &str, format: Format) {
    let filter = std::env::var("DOGWATCH_LOG")
        .ok()
        .and_then(|f| EnvFilter::try_new(f).ok())
        .or_else(|| EnvFilter::try_new(level).ok())
        .unwrap_or_else(|| EnvFilter::new("info"));
    let plain = !io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Lossy)
        .log_internal_errors(false)
        .with_ansi(!plain);
    // A subscriber that is there already (tests, one process for both daemons) stays.
    let _ = match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
}

#[derive(Debug, Clone, Copy)]
struct Lossy;

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        *self
    }
}

/// `PIPE_BUF` of Linux: what a pipe that polls as writable takes in one piece.
const ATOMIC_BYTES: usize = 4096;
/// Lines dropped since the last one that was written.
static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Write for Lossy {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // One writer at a time, so that nobody takes the room that another was promised.
        write_if_ready(&mut io::stderr().lock(), buf, &DROPPED);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line if that cannot block, else counts it.
fn write_if_ready(out: &mut (impl Write + AsFd), line: &[u8], dropped: &AtomicU64) {
    if !is_ready(out) {
        dropped.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let missing = dropped.swap(0, Ordering::Relaxed);
    if missing > 0 {
        let _ = out.write_all(format!("{missing} log lines were dropped: nobody read them\n").as_bytes());
        if !is_ready(out) {
            dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    // Where even that fails there is nobody to tell.
    let _ = match line.get(..ATOMIC_BYTES - 1) {
        Some(cut) => out.write_all(&[cut, b"\n"].concat()),
        None => out.write_all(line),
    };
}

fn is_ready(out: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(out, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&at_once)), Ok(1)) && fds[0].revents().contains(PollFlags::OUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_pipe_that_nobody_reads_never_blocks_and_the_loss_is_told() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let dropped = AtomicU64::new(0);
        let line = [vec![b'x'; 10_000], vec![b'\n']].concat();
        while dropped.load(Ordering::Relaxed) < 3 {
            write_if_ready(&mut writer, &line, &dropped);
        }
        let mut page = vec![0; 64 * 1024];
        let mut read = reader.read(&mut page).unwrap();
        write_if_ready(&mut writer, b"again\n", &dropped);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        read += text.len();
        assert!(text.ends_with("3 log lines were dropped: nobody read them\nagain\n"), "{read}");
    }
}
