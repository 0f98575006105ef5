//! What a daemon says about itself: one subscriber on standard error.
//!
//! Standard error may be closed, full or a stalled pipe; a daemon goes on regardless, so a line that cannot be written
//! is dropped. Text on a terminal, JSON elsewhere when asked for.

use std::io::{self, IsTerminal, Write};

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

impl Write for Lossy {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
