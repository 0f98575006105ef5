//! What a daemon says about itself: one subscriber on standard error.
//!
//! Standard error may be closed, full or a stalled pipe; a daemon goes on regardless, so a line that cannot be written
//! at once is dropped, and the next one that can says how many were. Text on a terminal, JSON elsewhere when asked for.
//!
//! Relied upon: a pipe or terminal that is ready takes [`ATOMIC_BYTES`] without blocking. Longer lines are cut there. A
//! regular file on a stalled disk can still hold its writer up.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Section;

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

/// What `DOGWATCH_LOG` says, if that is a filter: it overrides the configuration, also a new one.
fn override_filter() -> Option<EnvFilter> {
    std::env::var("DOGWATCH_LOG").ok().and_then(|f| EnvFilter::try_new(f).ok())
}

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Changes the filter of the subscriber that [`init`] started.
static SET: OnceLock<SetFilter> = OnceLock::new();

/// Starts logging at `level` (`error` to `trace`, or a `tracing` filter; `DOGWATCH_LOG` overrides it). A second call
/// in one process changes nothing.
pub fn init(level: &str, format: Format) {
    let filter = override_filter()
        .or_else(|| EnvFilter::try_new(level).ok())
        .unwrap_or_else(|| EnvFilter::new("info"));
    let plain = !io::stderr().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    let builder = tracing_subscriber::fmt().with_writer(Lossy).log_internal_errors(false).with_ansi(!plain);
    // A subscriber that is there already (tests, one process for both daemons) stays.
    let set: SetFilter = match format {
        Format::Text => {
            let builder = builder.with_target(false).with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_err() {
                return;
            }
            Box::new(move |f| handle.reload(f).map_err(|e| e.to_string()))
        }
        Format::Json => {
            let builder = builder.json().with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_err() {
                return;
            }
            Box::new(move |f| handle.reload(f).map_err(|e| e.to_string()))
        }
    };
    let _ = SET.set(set);
}

/// Logs at `level` from now on, unless `DOGWATCH_LOG` says otherwise.
///
/// # Errors
/// What is wrong with it, or that nothing logs here.
pub fn set_level(level: &str) -> Result<(), String> {
    if override_filter().is_some() {
        return Ok(());
    }
    let filter = EnvFilter::try_new(level).map_err(|e| e.to_string())?;
    SET.get().map_or_else(|| Err("logging was not started here".to_owned()), |set| set(filter))
}

/// Whether `level` is one: `off`, `error`, `warn`, `info`, `debug`, `trace`, or a `tracing` filter of such levels and
/// `target=level`, parted by commas. A target alone is refused: it is a level misspelt, and would log everything of
/// nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check_level(level: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |part: &str| LEVELS.iter().any(|l| part.trim().eq_ignore_ascii_case(l));
    let filtered = |part: &str| part.contains('=') || part.contains('[');
    if let Some(part) = level.split(',').find(|part| !is_level(part) && !filtered(part)) {
        return Err(format!("{:?} is not a level", part.trim()));
    }
    EnvFilter::try_new(level).map(drop).map_err(|e| e.to_string())
}

/// Takes a level's key `level` out of a section.
pub fn level_of(section: &mut Section) -> String {
    let level = section.text("level").unwrap_or_else(|| "info".to_owned());
    if let Err(why) = check_level(&level) {
        let remedy = "write error, warn, info, debug or trace, or e.g. info,hyper=warn";
        section.problem("level", &level, format!("cannot be used: {why}"), remedy);
    }
    level
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
/// Lines dropped since the start.
static DROPPED_IN_ALL: AtomicU64 = AtomicU64::new(0);

/// Lines of this process's own log that could not be written since its start.
pub fn dropped_lines() -> u64 {
    DROPPED_IN_ALL.load(Ordering::Relaxed)
}

/// Says something outside of the log, where a failure to do so changes nothing (`eprintln!` panics).
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn drop_line(dropped: &AtomicU64) {
    dropped.fetch_add(1, Ordering::Relaxed);
    DROPPED_IN_ALL.fetch_add(1, Ordering::Relaxed);
}

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
        return drop_line(dropped);
    }
    let missing = dropped.swap(0, Ordering::Relaxed);
    if missing > 0 {
        let told = out
            .write_all(format!("{missing} log lines were dropped: they could not be written\n").as_bytes());
        if told.is_err() {
            dropped.fetch_add(missing, Ordering::Relaxed);
        }
        if told.is_err() || !is_ready(out) {
            return drop_line(dropped);
        }
    }
    let written = match line.get(..ATOMIC_BYTES - 1) {
        Some(cut) => out.write_all(&[cut, b"\n"].concat()),
        None => out.write_all(line),
    };
    // A file on a full disk, a pipe that nobody holds any more.
    if written.is_err() {
        drop_line(dropped);
    }
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
    fn a_level_is_one_of_few_words_or_a_filter() {
        for good in
            ["info", "WARN", "off", "info,hyper=warn", "dogwatch_agent::act=trace", "[span{a=1}]=debug"]
        {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["infoo", "", "info,hyper", "hyper=loud", "info;debug"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

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
        assert!(text.ends_with("3 log lines were dropped: they could not be written\nagain\n"), "{read}");
    }

    #[test]
    fn what_a_full_disk_or_a_closed_pipe_refuses_is_counted_and_told_later() {
        let dropped = AtomicU64::new(0);
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        write_if_ready(&mut full, b"one\n", &dropped);
        let (reader, mut writer) = io::pipe().unwrap();
        drop(reader);
        write_if_ready(&mut writer, b"two\n", &dropped);
        write_if_ready(&mut full, b"three\n", &dropped);
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        let (mut reader, mut writer) = io::pipe().unwrap();
        write_if_ready(&mut writer, b"four\n", &dropped);
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "3 log lines were dropped: they could not be written\nfour\n");
        assert!(dropped_lines() >= 3);
    }
}
