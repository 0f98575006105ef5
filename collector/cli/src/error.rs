//! What can go wrong, in the words that people read, and the exit code that scripts read.

use std::fmt;
use std::io;

/// Why the command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line or a configuration value is wrong; nothing was asked of anyone, but for a plan that touches nothing.
    #[error("{0}")]
    Usage(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// No collector answered: unreachable, refused, or too slow.
    #[error("no answer from collector {asked}: {why}\n  try: {remedy}")]
    NoAnswer {
        /// `host:port`.
        asked: String,
        /// The whole chain of causes.
        why: String,
        /// What to do about it.
        remedy: String,
    },
    /// It was understood and could not be done.
    #[error("{0}")]
    Failed(String),
    /// What was asked for was tried, and its outcome, already printed, is not success.
    #[error("{0}")]
    Outcome(String),
    /// It does not hold against what was recorded of it.
    #[error("{0}")]
    Unverified(String),
    /// Whoever read the output went away (`| head`): not an error to speak of.
    #[error("nobody reads the output any more")]
    BrokenPipe,
}

impl CliError {
    /// 1 failed, 2 usage, 3 not found, 4 not verified; 0 where the reader of a pipe went away.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unverified(_) => 4,
            Self::NoAnswer { .. } | Self::Failed(_) | Self::Outcome(_) => 1,
        }
    }

    /// A failure to do `what`, with the whole chain of `error`.
    pub fn failed(what: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        Self::Failed(format!("{what}: {}", chain(error)))
    }
}

impl From<io::Error> for CliError {
    /// For writes to stdout and stderr: the only I/O errors that are passed on without words of their own.
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(format!("cannot write the output: {e}")),
        }
    }
}

/// An error and its causes on one line; a cause that repeats what was just said is left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let next = e.to_string();
        if !words.ends_with(&next) {
            words.push_str(": ");
            words.push_str(&next);
        }
        cause = e.source();
    }
    words
}
